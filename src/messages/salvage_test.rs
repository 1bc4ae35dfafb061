//! Every kind of damage to a small log: what is good is in the new one, once and in order, and what is not is named.

use std::ops::Range;

use super::*;
use crate::builder::MemoryDisk;
use crate::device::MemoryDevice;
use crate::messages::{Ack, Builder, Journal, Message, Nack, Retain};
use crate::sync::Arc;

fn options() -> Builder {
    Journal::builder().cap(4096)
}

fn open(bytes: &[u8]) -> Journal {
    options().open_in_memory(&MemoryDisk::from_journal(bytes)).unwrap()
}

fn messages(bytes: &[u8]) -> Vec<Message> {
    let journal = open(bytes);
    journal.read(journal.first()).unwrap().map(Result::unwrap).collect()
}

fn mend(bytes: &[u8]) -> Result<(Vec<u8>, Salvaged), SalvageError> {
    let (from, to) = (MemoryDevice::holding(bytes), MemoryDevice::new());
    let source = Salvage::open(Arc::new(from.clone()), bytes.len() as u64, Purpose::Messages)?;
    let (_, salvaged) = rebuild(source, Box::new(to.clone()))?;
    assert_eq!(from.bytes(), bytes, "the damaged log is as it was");
    Ok((to.bytes(), salvaged))
}

/// A closed log whose messages are `payloads`, each in a group of its own.
fn log(payloads: &[&[u8]]) -> Vec<u8> {
    let disk = MemoryDisk::new();
    let journal = options().open_in_memory(&disk).unwrap();
    for (seq, payload) in (1..).zip(payloads) {
        journal.append(7, seq, payload).wait().unwrap();
    }
    journal.close().unwrap();
    disk.journal().bytes()
}

fn small() -> Vec<u8> {
    log(&[b"first", b"", b"the third", b"four", b"number five"])
}

/// What identifies a message wherever it stands.
fn sent(messages: &[Message]) -> Vec<(u64, Vec<u8>)> {
    messages.iter().map(|message| (message.seq, message.payload.clone())).collect()
}

/// Offsets of a message and of what is behind it.
fn place(message: &Message) -> Range<usize> {
    let offset = |position: u64| usize::try_from(position).unwrap() + 32;
    offset(message.position)..offset(message.next)
}

/// R107: a log that is not damaged gives an equal one: each message at its position, nothing lost.
#[test]
fn a_healthy_log_gives_an_equal_one() {
    let bytes = small();
    let (mended, salvaged) = mend(&bytes).unwrap();
    assert_eq!(messages(&mended), messages(&bytes));
    assert_eq!((salvaged.entries, salvaged.first, salvaged.header_lost, &salvaged.lost[..]), (5, 0, false, &[][..]));
    assert_eq!(salvaged.end, open(&mended).end());
    assert_eq!(messages(&mend(&mended).unwrap().0), messages(&bytes), "and that again");
}

/// R107, R117: what is remembered of messages that a compaction dropped is salvaged too.
#[test]
fn a_compacted_log_gives_an_equal_one() {
    let disk = MemoryDisk::new();
    let journal = options().window(8).open_in_memory(&disk).unwrap();
    let acks: Vec<Ack> = (1..=40).map(|seq| journal.append(7, seq, &[3; 90]).wait().unwrap()).collect();
    let compacted = journal.compact(Retain::From(acks[35].position)).unwrap();
    journal.end_session(7).wait().unwrap();
    let bytes = disk.journal().bytes();
    let (mended, salvaged) = mend(&bytes).unwrap();
    assert_eq!((salvaged.first, &salvaged.lost[..]), (compacted.first, &[][..]));
    assert_eq!(messages(&mended), messages(&bytes));
    let again = options().window(8).open_in_memory(&MemoryDisk::from_journal(&mended)).unwrap();
    assert_eq!(again.first(), compacted.first);
    assert_eq!(again.append(7, 34, &[3; 90]).wait(), Ok(acks[33]), "dropped, and answered");
    assert_eq!(again.append(7, 2, &[3; 90]).wait().unwrap_err(), Nack::Expired { oldest: 33 });
}

/// R107: whichever bit is flipped, all messages but the damaged one are there, and the loss is named.
#[test]
fn a_flipped_bit_costs_one_message_at_most() {
    let bytes = small();
    let whole = messages(&bytes);
    for (offset, bit) in (0..bytes.len()).zip([0, 7, 3, 5, 1].into_iter().cycle()) {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 1 << bit;
        let (mended, salvaged) = mend(&damaged).unwrap();
        let expected: Vec<Message> =
            whole.iter().filter(|message| !place(message).contains(&offset)).cloned().collect();
        let found = messages(&mended);
        assert_eq!(sent(&found), sent(&expected), "byte {offset}");
        assert_eq!(salvaged.entries, found.len() as u64);
        assert_eq!(salvaged.header_lost, offset < 32);
        if offset < 32 {
            assert_eq!((found, &salvaged.lost[..]), (whole.clone(), &[][..]), "positions are worked out");
        } else {
            let [lost] = salvaged.lost[..] else { panic!("byte {offset}: {salvaged:?}") };
            let inside = lost.position + 32..lost.position + 32 + lost.bytes;
            assert!(inside.contains(&(offset as u64)), "byte {offset}: {lost:?}");
        }
    }
}

/// R107: whatever stretch is filled with zeros, all messages outside are there, and what is lost is named.
#[test]
fn a_zeroed_stretch_costs_what_it_covers() {
    let bytes = small();
    let whole = messages(&bytes);
    for start in 32..bytes.len() {
        for length in [1, 12, 50, 100, 200, bytes.len()] {
            let end = bytes.len().min(start + length);
            let mut damaged = bytes.clone();
            damaged[start..end].fill(0);
            let (mended, salvaged) = mend(&damaged).unwrap();
            let outside = |message: &&Message| bytes[place(message)] == damaged[place(message)];
            let expected: Vec<Message> = whole.iter().filter(outside).cloned().collect();
            assert_eq!(sent(&messages(&mended)), sent(&expected), "{start}..{end}");
            let changed = (start..end).filter(|at| bytes[*at] != damaged[*at]);
            for at in changed {
                let named = |lost: &Lost| (lost.position + 32..lost.position + 32 + lost.bytes).contains(&(at as u64));
                assert!(salvaged.lost.iter().any(named), "{start}..{end}: byte {at} is lost: {salvaged:?}");
            }
        }
    }
}

/// R107: cut off wherever, what is whole before is there; what has no whole header is refused.
#[test]
fn a_cut_costs_what_is_behind_it() {
    let bytes = small();
    let whole = messages(&bytes);
    for length in 0..=bytes.len() {
        let cut = &bytes[..length];
        if length < 32 {
            assert!(matches!(mend(cut), Err(SalvageError::Journal(JournalError::Headless))), "{length}");
            continue;
        }
        let (mended, salvaged) = mend(cut).unwrap();
        let expected: Vec<Message> = whole.iter().filter(|message| place(message).end <= length).cloned().collect();
        assert_eq!(messages(&mended), expected, "{length}");
        let lost: u64 = salvaged.lost.iter().map(|lost| lost.bytes).sum();
        let clean = length == 32 || length as u64 == 32 + salvaged.end - 43;
        assert_eq!(lost == 0, clean, "{length}: {salvaged:?}");
    }
}

/// R107: a stretch that was taken out, put in twice, or swapped with another breaks the chain there, and no message stands twice.
#[test]
fn what_is_missing_doubled_or_swapped_is_found() {
    let bytes = small();
    let whole = messages(&bytes);
    // A message with its group.
    let part = |at: usize| place(&whole[at]).start - 43..place(&whole[at]).end;
    let seqs = |bytes: &[u8]| {
        let (mended, salvaged) = mend(bytes).unwrap();
        (messages(&mended).iter().map(|message| message.seq).collect::<Vec<_>>(), salvaged.lost)
    };

    let mut missing = bytes.clone();
    missing.drain(part(2));
    let (found, lost) = seqs(&missing);
    assert_eq!(found, [1, 2, 4, 5]);
    assert_eq!(lost, [Lost { position: whole[1].next, bytes: 0 }]);

    let mut doubled = bytes.clone();
    let twice = bytes[part(1).start..part(2).end].to_vec();
    doubled.splice(part(2).end..part(2).end, twice.iter().copied());
    let (found, lost) = seqs(&doubled);
    assert_eq!(found, [1, 2, 3, 4, 5]);
    assert_eq!(lost, [Lost { position: whole[2].next, bytes: twice.len() as u64 }]);

    let mut swapped = bytes.clone();
    let turned = [&bytes[part(2)], &bytes[part(1)]].concat();
    swapped.splice(part(1).start..part(2).end, turned);
    let (found, lost) = seqs(&swapped);
    assert!(found.is_sorted() && found.starts_with(&[1]) && found.ends_with(&[4, 5]), "{found:?}");
    assert!(!lost.is_empty());

    let mut filled = bytes.clone();
    filled.splice(part(3).start..part(3).start, [0xEE; 1000]);
    let (found, lost) = seqs(&filled);
    assert_eq!(found, [1, 2, 3, 4, 5]);
    assert_eq!(lost, [Lost { position: whole[2].next, bytes: 1000 }]);
}

/// R107: a message that holds a whole log, this one's own front or another's, stays a message however it is damaged.
#[test]
fn frames_within_a_message_are_not_taken_for_messages() {
    let other = log(&[b"not ours", b"nor this", b"nor that"]);
    let own = log(&[b"first", b"", b"the third"]);
    for inner in [&other[32..], &own[..], &own[75..own.len() - 43]] {
        let bytes = log(&[b"first", b"", b"the third", b"four", inner, b"behind"]);
        let whole = messages(&bytes);
        let carrier = place(&whole[4]);
        for damaged in [0..4, 8..12, 0..12, 12..60] {
            let damaged = carrier.start + damaged.start..carrier.start + damaged.end;
            let mut bytes = bytes.clone();
            bytes[damaged.clone()].fill(0xA5);
            let (mended, salvaged) = mend(&bytes).unwrap();
            let found: Vec<u64> = messages(&mended).iter().map(|message| message.seq).collect();
            assert_eq!(found, [1, 2, 3, 4, 6], "{damaged:?}: {salvaged:?}");
        }
    }
}

/// R107: also those of a log that is longer than this one. What stands behind a damaged message names it, by the checksum that it has or
/// by the one that it should have, and is found by that.
#[test]
fn frames_of_a_longer_log_within_a_message_are_not_taken_for_messages() {
    let device = MemoryDevice::new();
    let mut longer = JournalFile::create(Box::new(device.clone()), Purpose::Messages, 1 << 40, 0).unwrap();
    let mut group = crate::journal::Group::new();
    group.begin(GroupTime { hub_ms: 1, wall_ms: 0 }, CLASS_SYNC);
    let body = super::super::frame::Body { client: 7, seq: 9, wall_ms: 0, payload: b"not ours" };
    group.push(super::super::frame::MESSAGE, 0, |out| body.append_to(out)).unwrap();
    longer.put(&mut group).unwrap();
    let bytes = log(&[b"first", &device.bytes()[32..], b"behind"]);
    let carrier = place(&messages(&bytes)[1]).start;
    // The checksum in its head, and the first byte behind the head.
    for damaged in [carrier + 8, carrier + 12] {
        let mut bytes = bytes.clone();
        bytes[damaged] ^= 4;
        let (mended, salvaged) = mend(&bytes).unwrap();
        let found: Vec<u64> = messages(&mended).iter().map(|message| message.seq).collect();
        assert_eq!((found, salvaged.lost.len()), (vec![1, 3], 1), "{salvaged:?}");
    }
}

/// R107: what is damaged where reading begins is named, too, if the header before it is lost.
#[test]
fn what_is_lost_behind_a_lost_header_is_named() {
    let mut bytes = small();
    bytes[..32].fill(0);
    bytes[50] ^= 1;
    let (mended, salvaged) = mend(&bytes).unwrap();
    assert_eq!((messages(&mended).len(), salvaged.header_lost), (5, true));
    assert_eq!(salvaged.lost, [Lost { position: 0, bytes: 43 }]);
}

/// R107: many messages in one group: damage to one leaves the others, also where the length is lost with the checksum.
#[test]
fn the_rest_of_a_damaged_group_is_kept() {
    let mut group = crate::journal::Group::new();
    let device = MemoryDevice::new();
    let mut file = JournalFile::create(Box::new(device.clone()), Purpose::Messages, 0, 0).unwrap();
    for first in [1, 51] {
        group.begin(GroupTime { hub_ms: first, wall_ms: 0 }, CLASS_SYNC);
        for seq in first..first + 50 {
            let body = super::super::frame::Body { client: 7, seq, wall_ms: 0, payload: b"payload" };
            group.push(super::super::frame::MESSAGE, 0, |out| body.append_to(out)).unwrap();
        }
        file.put(&mut group).unwrap();
        file.sync().unwrap();
    }
    let bytes = device.bytes();
    let whole = messages(&bytes);
    assert_eq!(whole.len(), 100);
    for at in [0, 20, 49, 50, 99] {
        let mut damaged = bytes.clone();
        damaged[place(&whole[at])].fill(0);
        let (mended, salvaged) = mend(&damaged).unwrap();
        let expected: Vec<u64> = (1..=100).filter(|seq| *seq != at as u64 + 1).collect();
        assert_eq!(messages(&mended).iter().map(|message| message.seq).collect::<Vec<_>>(), expected);
        assert_eq!(salvaged.lost.len(), 1, "{salvaged:?}");
        assert_eq!(messages(&mended)[..at], whole[..at], "positions stay up to the first loss");
    }
}

/// What is no message log is refused, with and without its header.
#[test]
fn something_else_is_refused() {
    let disk = MemoryDisk::new();
    drop(crate::Hub::builder().manual().open_in_memory(&disk).unwrap());
    let mut bytes = disk.journal().bytes();
    let Err(SalvageError::Journal(other @ JournalError::OtherPurpose { .. })) = mend(&bytes) else { panic!() };
    assert_eq!(other.to_string(), "the file is a hub's journal, not a message log");
    bytes[31] ^= 1;
    assert!(matches!(mend(&bytes), Err(SalvageError::Journal(JournalError::NotAJournal))));
    assert!(matches!(mend(&[b'x'; 500]), Err(SalvageError::Journal(JournalError::NotAJournal))));
    let mut bytes = small();
    bytes[..32].fill(0);
    assert!(mend(&bytes).unwrap().1.header_lost);
    bytes[32..].fill(0);
    assert!(matches!(mend(&bytes), Err(SalvageError::Journal(JournalError::Corrupt { position: 0, .. }))));
}

/// Where the new log would be written somebody has a log open: it stays.
#[test]
fn a_log_that_is_open_where_the_new_one_would_be_written_stays() {
    let base = tempfile::tempdir().unwrap();
    let [from, to, other] = ["log", "mended", "mended.new"].map(|name| base.path().join(name));
    std::fs::write(&from, small()).unwrap();
    let journal = options().open(&other).unwrap();
    assert!(journal.append(1, 1, b"of another").wait().is_ok());
    let before = std::fs::read(&other).unwrap();
    assert!(matches!(salvage(&from, &to), Err(SalvageError::Open(OpenError::Locked { .. }))));
    assert_eq!(std::fs::read(&other).unwrap(), before);
    journal.close().unwrap();
}

/// The damaged log itself stands where the new one would be written: it is never changed.
#[test]
fn a_damaged_log_is_not_written_over_by_its_own_salvage() {
    let base = tempfile::tempdir().unwrap();
    let [to, from] = ["log", "log.new"].map(|name| base.path().join(name));
    let damaged = small();
    std::fs::write(&from, &damaged).unwrap();
    assert!(matches!(salvage(&from, &to), Err(SalvageError::Open(OpenError::Locked { .. }))));
    assert_eq!(std::fs::read(&from).unwrap(), damaged);
    assert!(!to.exists());
}
