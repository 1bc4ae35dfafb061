//! Bytes are a message log. Opening answers with a log or an error; it never panics, and what it opened goes on: every message is
//! answered, and opening it again finds what was there and what was acknowledged, once.
//!
//! The first byte tells whether the rest is taken as it is, or gets right checksums first: then the damage is in the entries; and
//! how the log is opened.
use commissary::messages::{Gaps, Journal, Kind, Message, Retain};
use commissary::{Durability, ManualClock, MemoryDisk};

use super::Seen;
use super::seal::seal;

/// What the corpus comes through.
pub const STATES: &[&str] = &["refused", "opened", "compacted", "acknowledged", "not taken"];

fn open(disk: &MemoryDisk, how: u8) -> Option<Journal> {
    let gaps = if how & 2 == 0 { Gaps::Strict } else { Gaps::Loose };
    let builder = Journal::builder().clock(ManualClock::default()).durability(Durability::Os);
    builder.gaps(gaps).window(3).clients(3).open_in_memory(disk).ok()
}

fn all(journal: &Journal) -> Vec<Message> {
    let messages = journal.read(journal.first()).expect("the first position is one");
    messages.map(|message| message.expect("what was opened can be read")).collect()
}

pub fn run(bytes: &[u8], seen: &mut Seen) {
    let Some((&how, log)) = bytes.split_first() else { return };
    let mut log = log.to_vec();
    if how & 1 == 1 {
        seal(&mut log);
    }
    let disk = MemoryDisk::from_journal(&log);
    let Some(journal) = open(&disk, how) else {
        seen.insert("refused");
        return;
    };
    seen.insert("opened");
    let mut expected = all(&journal);
    if how & 4 == 4 {
        let retain = Retain::Bytes(u64::from(how) * 4);
        if journal.compact(retain).is_ok() {
            seen.insert("compacted");
            expected.retain(|message| message.position >= journal.first());
            assert_eq!(all(&journal), expected, "a compaction keeps what it retains");
        }
    }
    // A new client, and the next, the same and an older number of those that are there.
    let last = expected.iter().rev().find(|message| message.kind == Kind::Message).cloned();
    let mut sent = vec![(u128::MAX - 3, 1, b"new".to_vec())];
    if let Some(Message { client, seq, payload, .. }) = last {
        sent.push((client, seq, payload));
        sent.push((client, seq.wrapping_add(1), b"next".to_vec()));
        sent.push((client, seq.wrapping_sub(2), b"old".to_vec()));
    }
    let receipts: Vec<_> = sent.iter().map(|(client, seq, payload)| journal.append(*client, *seq, payload)).collect();
    for ((client, seq, payload), receipt) in sent.iter().zip(receipts) {
        let Ok(ack) = receipt.wait() else {
            seen.insert("not taken");
            continue;
        };
        seen.insert("acknowledged");
        if ack.position < journal.first() {
            continue;
        }
        let found = journal.read(ack.position).expect("it was acknowledged").next();
        let found = found.expect("it is there").expect("it is good");
        assert_eq!((&found.client, &found.seq, &found.payload), (client, seq, payload));
        if !expected.contains(&found) {
            expected.push(found);
        }
    }
    expected.sort_by_key(|message| message.position);
    if journal.close().is_ok() {
        let again = open(&disk, how).expect("what was opened, and closed in order, opens again");
        assert_eq!(all(&again), expected);
    }
}
