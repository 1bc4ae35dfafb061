//! Compaction and appending over a device that fails.

use std::io;

use super::super::{Builder, Inner, Journal, Kind, Nack};
use super::*;
use crate::Durability;
use crate::builder::{Crash, MemoryDisk};
use crate::messages::{Ack, Message};

fn open(disk: &MemoryDisk) -> Journal {
    Builder::default().open_in_memory(disk).unwrap()
}

fn filled(disk: &MemoryDisk) -> (Journal, Vec<Ack>) {
    let journal = open(disk);
    let acks = (1..=50).map(|seq| journal.append(1, seq, &[3; 100]).wait().unwrap()).collect();
    (journal, acks)
}

fn all(journal: &Journal) -> Vec<Message> {
    journal.read(journal.first()).unwrap().map(Result::unwrap).collect()
}

/// R108: a compaction that finds no room, or whose file cannot be synced, leaves nothing behind and the log as it was.
#[test]
fn a_compaction_that_cannot_be_written_changes_nothing() {
    let disk = MemoryDisk::new();
    let (journal, acks) = filled(&disk);
    let before = all(&journal);
    let mut last = 0;
    for room in [0, 31, 32, 100, 500, 2_000] {
        disk.fresh().fail_append_after(room);
        let error = journal.compact(Retain::From(acks[10].position)).unwrap_err();
        assert!(
            matches!(&error, CompactError::Write(error) if error.kind() == io::ErrorKind::StorageFull),
            "{error:?}"
        );
        disk.fresh().heal();
        last += 1;
    }
    for syncs in 0..4 {
        disk.fresh().fail_sync_after(syncs);
        let error = journal.compact(Retain::From(acks[10].position)).unwrap_err();
        assert!(matches!(error, CompactError::Write(_)), "{syncs}: {error:?}");
        disk.fresh().heal();
        last += 1;
    }
    assert_eq!((disk.fresh().size(), all(&journal)), (0, before));
    assert_eq!(last, 10);
    assert!(journal.append(1, 51, b"on").wait().is_ok());
    journal.compact(Retain::From(acks[10].position)).unwrap();
    assert_eq!(all(&journal).len(), 41);
}

/// R106, R107: a failed log is not compacted; opened anew it is.
#[test]
fn a_failed_log_is_not_compacted() {
    let disk = MemoryDisk::new();
    let (journal, acks) = filled(&disk);
    disk.journal().fail_sync_after(0);
    assert!(matches!(journal.append(1, 51, b"lost").wait(), Err(Nack::Io { .. })));
    assert!(matches!(journal.compact(Retain::Bytes(0)), Err(CompactError::Failed)));
    assert!(matches!(journal.append(1, 51, b"lost").answer(), Some(Err(Nack::Io { .. }))), "at once");
    assert!(journal.close().is_err());
    disk.journal().heal();
    let again = open(&disk.after(Crash::Power));
    assert_eq!(all(&again).len(), 50);
    again.compact(Retain::From(acks[49].position)).unwrap();
    assert_eq!(all(&again).len(), 1);
}

/// R106: a full device refuses, and takes messages again when there is room; nothing of what was refused is there.
#[test]
fn a_full_device_refuses_until_there_is_room() {
    let disk = MemoryDisk::new();
    let (journal, _) = filled(&disk);
    for room in [0, 10, 60] {
        disk.journal().fail_append_after(room);
        assert_eq!(journal.append(2, 1, &[7; 100]).wait(), Err(Nack::Full));
        assert_eq!(journal.end_session(1).wait(), Err(Nack::Full));
        disk.journal().heal();
    }
    assert_eq!(all(&journal).len(), 50);
    assert!(journal.append(2, 1, &[7; 100]).wait().is_ok());
    journal.end_session(2).wait().unwrap();
    assert_eq!(all(&open(&disk.after(Crash::Power))).last().unwrap().kind, Kind::End);
}

/// R107: damage to what is kept, or to what is only remembered, stops a compaction, which names it; the log goes on.
#[test]
fn a_damaged_log_is_not_compacted() {
    let disk = MemoryDisk::new();
    let (journal, acks) = filled(&disk);
    let good = disk.journal().bytes();
    for at in [0, 20, 45] {
        let mut bytes = good.clone();
        bytes[usize::try_from(acks[at].position).unwrap() + 32 + 60] ^= 4;
        disk.journal().set_bytes(&bytes);
        let error = journal.compact(Retain::From(acks[30].position)).unwrap_err();
        let CompactError::Read(ReadError::Journal(JournalError::Corrupt { position, .. })) = error else {
            panic!("{error:?}")
        };
        assert_eq!(position, acks[at].position);
    }
    disk.journal().set_bytes(&good);
    assert!(journal.append(1, 51, b"on").wait().is_ok());
    journal.compact(Retain::From(acks[30].position)).unwrap();
    assert_eq!(all(&journal).len(), 21);
}

/// What a compaction copies beside the writer is on the device before the writer is asked to finish: senders wait for the rest alone.
#[test]
fn the_writer_syncs_only_the_rest() {
    let disk = MemoryDisk::new();
    let (journal, acks) = filled(&disk);
    let Inner { shared, place, terms, .. } = journal.inner.as_ref();
    let rewrite = prepare(shared, place, *terms, Retain::From(acks[1].position)).unwrap();
    let Prepared::Rewrite(rewrite) = rewrite else { panic!("nothing to gain") };
    assert_eq!(disk.fresh().copy(true).size(), disk.fresh().size());
    assert!(disk.fresh().size() > 49 * 100);
    // It does not count as whole for that.
    let unsealed = MemoryDisk::from_journal(&disk.fresh().bytes());
    assert!(Builder::default().open_in_memory(&unsealed).is_err());
    drop(rewrite);
}

/// R108: after a compaction readers see what they saw before: under `Sync` what is synced, otherwise what is written.
#[test]
fn a_compaction_leaves_readers_as_far_as_they_may_read() {
    for durability in [Durability::Sync, Durability::Os] {
        let disk = MemoryDisk::new();
        let journal = Builder::default().durability(durability).open_in_memory(&disk).unwrap();
        let acks: Vec<Ack> = (1..=50).map(|seq| journal.append(1, seq, &[3; 100]).wait().unwrap()).collect();
        journal.compact(Retain::From(acks[10].position)).unwrap();
        let (shared, ends) = (Arc::clone(&journal.inner.shared), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&ends);
        disk.journal().before_sync(move || seen.lock().unwrap().push(shared.source().tail.end()));
        let last = journal.append(1, 51, b"behind").wait().unwrap();
        assert_eq!(all(&journal).last().map(|message| message.seq), Some(51), "{durability:?}");
        disk.journal().heal();
        let ends = std::mem::take(&mut *ends.lock().unwrap());
        assert_eq!(ends.is_empty(), durability == Durability::Os, "{durability:?}");
        assert!(ends.iter().all(|end| *end <= last.position), "it is not read before it is synced");
    }
}
