//! The record of every design but ours: length, checksum, client, number, time, payload. 40 bytes beside the payload.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a record that are not payload.
const HEAD: usize = 40;

/// Appends a message's record to `out`.
pub(crate) fn append(out: &mut Vec<u8>, client: u128, seq: u64, payload: &[u8]) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let length = u32::try_from(payload.len()).expect("a payload is short");
    let start = out.len();
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&client.to_be_bytes());
    out.extend_from_slice(&seq.to_be_bytes());
    out.extend_from_slice(&ms.to_be_bytes());
    out.extend_from_slice(payload);
    let checksum = checksum(&out[start..]);
    out[start + 4..start + 8].copy_from_slice(&checksum.to_be_bytes());
}

/// A message's record.
pub(crate) fn encode(client: u128, seq: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + payload.len());
    append(&mut out, client, seq, payload);
    out
}

/// Of everything in a record but the checksum itself.
fn checksum(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..4]);
    hasher.update(&record[8..]);
    hasher.finalize()
}

/// How many messages of each client a file holds, numbered 1, 2, 3, and so on in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally(BTreeMap<u128, u64>);

impl Tally {
    /// The next message of a client.
    pub(crate) fn note(&mut self, client: u128, seq: u64) {
        let last = self.0.entry(client).or_default();
        assert_eq!(seq, *last + 1, "the numbers of client {client}");
        *last = seq;
    }

    /// What senders were told: client 1's messages, client 2's, and so on.
    pub(crate) fn of(acknowledged: &[u64]) -> Tally {
        Tally((1..).zip(acknowledged.iter().copied()).filter(|(_, count)| *count > 0).collect())
    }
}

/// Reads a file of such records.
pub(crate) fn count(path: &Path) -> Tally {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path).expect("opens"));
    let (mut tally, mut record) = (Tally::default(), Vec::new());
    loop {
        record.resize(HEAD, 0);
        match reader.read_exact(&mut record) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return tally,
            Err(error) => panic!("{error}"),
        }
        let length = u32::from_be_bytes(record[..4].try_into().expect("4 bytes"));
        record.resize(HEAD + length as usize, 0);
        reader.read_exact(&mut record[HEAD..]).expect("the payload");
        assert_eq!(record[4..8], checksum(&record).to_be_bytes(), "the checksum");
        let client = u128::from_be_bytes(record[8..24].try_into().expect("16 bytes"));
        tally.note(client, u64::from_be_bytes(record[24..32].try_into().expect("8 bytes")));
    }
}
