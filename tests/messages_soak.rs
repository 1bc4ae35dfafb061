//! Many senders on one file: all of it parses afterwards. `MESSAGES` sets how many each of the 64 sends (500 without it).

use std::fs;
use std::thread;

use commissary::Durability;
use commissary::messages::{Gaps, Journal, Nack};

const SENDERS: u128 = 64;
/// Messages that each has under way.
const AHEAD: u64 = 32;

/// R104, R108, R109: 64 threads send as fast as they are answered. The file holds every message once, whole, in each sender's order, and nothing
/// else stands beside it; what waits stays within its bound all the time.
#[test]
fn sixty_four_senders_leave_one_file_that_parses_wholly() {
    let numbers: u64 = std::env::var("MESSAGES").map_or(500, |numbers| numbers.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let bound = 1 << 20;
    let builder = || Journal::builder().durability(Durability::Os).gaps(Gaps::Strict).queue_bytes(bound);
    let journal = builder().open(&path).unwrap();
    let positions: Vec<u64> = thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|client| {
                let journal = &journal;
                scope.spawn(move || {
                    let last = send(journal, client, numbers);
                    assert!(journal.stats().queued_bytes <= bound);
                    last
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    let total = u64::try_from(SENDERS).unwrap() * numbers;
    assert_eq!(journal.stats().taken, total);
    journal.close().unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "one file");

    let journal = builder().open(&path).unwrap();
    assert_eq!((journal.report().entries, journal.report().cut.as_ref()), (total, None));
    let mut last = vec![0; positions.len()];
    for message in journal.read(journal.first()).unwrap() {
        let message = message.unwrap();
        let last = &mut last[usize::try_from(message.client).unwrap()];
        assert_eq!((message.seq, message.payload), (*last + 1, payload(message.client, message.seq)));
        *last = message.seq;
        if *last == numbers {
            assert_eq!(message.position, positions[usize::try_from(message.client).unwrap()]);
        }
    }
    assert!(last.iter().all(|last| *last == numbers));
}

fn payload(client: u128, seq: u64) -> Vec<u8> {
    let len = usize::try_from(seq % 61).unwrap();
    let mut bytes = vec![u8::try_from(client).unwrap(); len];
    bytes.extend_from_slice(&seq.to_be_bytes());
    bytes
}

/// Keeps so many messages under way; what was refused, and what followed it, is sent again. Returns the last one's position.
fn send(journal: &Journal, client: u128, numbers: u64) -> u64 {
    let (mut next, mut last) = (1, 0);
    while next <= numbers {
        let ahead: Vec<_> = (next..=numbers.min(next + AHEAD - 1))
            .map(|seq| journal.append(client, seq, &payload(client, seq)))
            .collect();
        for (seq, receipt) in (next..).zip(ahead) {
            match receipt.wait() {
                Ok(ack) => (next, last) = (seq + 1, ack.position),
                Err(Nack::Overloaded { .. } | Nack::Gap { .. }) => {}
                Err(nack) => panic!("{nack}"),
            }
        }
    }
    last
}
