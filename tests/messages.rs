//! The message log: one answer a message, once each, in order, across closing and opening.

use std::thread;

use commissary::messages::{Ack, Gaps, Journal, Kind, Message, Nack, Retain};
use commissary::{Crash, Durability, MemoryDisk, OpenError};

fn journal(disk: &MemoryDisk) -> Journal {
    Journal::builder().open_in_memory(disk).unwrap()
}

fn all(journal: &Journal) -> Vec<Message> {
    journal.read(journal.first()).unwrap().map(Result::unwrap).collect()
}

fn sent(messages: &[Message]) -> Vec<(u128, u64, Vec<u8>)> {
    messages.iter().map(|message| (message.client, message.seq, message.payload.clone())).collect()
}

/// R103, R106: a message is answered with its position and how durable it is, and stands there.
#[test]
fn an_acknowledged_message_stands_where_its_answer_says() {
    let disk = MemoryDisk::new();
    let journal = journal(&disk);
    let ack = journal.append(9, 1, b"one").wait().unwrap();
    let second = journal.append(9, 2, b"").wait().unwrap();
    assert_eq!((ack.durability, second.durability), (Durability::Sync, Durability::Sync));
    let found = all(&journal);
    assert_eq!(sent(&found), [(9, 1, b"one".to_vec()), (9, 2, Vec::new())]);
    assert_eq!(found.iter().map(|message| message.position).collect::<Vec<_>>(), [ack.position, second.position]);
    assert!(found.iter().all(|message| message.kind == Kind::Message));
    let power_cut = disk.after(Crash::Power);
    assert_eq!(all(&self::journal(&power_cut)), found, "acknowledged is synced");
}

/// R117: a repeat gets the first answer again and makes no second message, also after opening anew.
#[test]
fn a_repeat_gets_its_first_answer() {
    let disk = MemoryDisk::new();
    let first = journal(&disk);
    let acks: Vec<Ack> =
        (1..=3).map(|seq| first.append(1, seq, &[u8::try_from(seq).unwrap()]).wait().unwrap()).collect();
    let again = |journal: &Journal| -> Vec<Ack> {
        (1..=3).map(|seq| journal.append(1, seq, &[u8::try_from(seq).unwrap()]).wait().unwrap()).collect()
    };
    assert_eq!(again(&first), acks);
    let differs = first.append(1, 2, b"other").wait();
    assert_eq!(differs, Err(Nack::Differs { position: acks[1].position }));
    first.close().unwrap();
    let second = journal(&disk);
    assert_eq!(again(&second), acks);
    assert_eq!(second.append(1, 5, b"").wait(), Err(Nack::Gap { expected: 4 }));
    assert_eq!(all(&second).len(), 3);
    assert_eq!((second.stats().repeats, second.stats().taken), (3, 0));
}

/// R104: what many threads send stands whole and in each one's order.
#[test]
fn many_senders_keep_their_order() {
    let disk = MemoryDisk::new();
    let journal = Journal::builder().gaps(Gaps::Strict).open_in_memory(&disk).unwrap();
    thread::scope(|scope| {
        for client in 0..8 {
            let journal = &journal;
            scope.spawn(move || {
                for seq in 1..=500 {
                    journal.append(client, seq, &seq.to_be_bytes()).wait().unwrap();
                }
            });
        }
    });
    let found = all(&journal);
    assert_eq!(found.len(), 4_000);
    for client in 0..8 {
        let of: Vec<u64> = found.iter().filter(|message| message.client == client).map(|message| message.seq).collect();
        assert!(of.iter().copied().eq(1..=500));
    }
}

/// R108, R117: a compaction keeps positions, windows and what is retained.
#[test]
fn a_compaction_keeps_positions_and_windows() {
    let disk = MemoryDisk::new();
    let journal = journal(&disk);
    let acks: Vec<Ack> = (1..=200).map(|seq| journal.append(5, seq, &[7; 200]).wait().unwrap()).collect();
    let tail_from_start = journal.tail(0).unwrap();
    let before = all(&journal);
    let compacted = journal.compact(Retain::From(acks[150].position)).unwrap();
    assert!(compacted.bytes_after < compacted.bytes_before / 3, "{compacted:?}");
    assert_eq!(all(&journal), before[150..]);
    assert_eq!(journal.append(5, 200, &[7; 200]).wait().unwrap(), acks[199]);
    assert_eq!(journal.append(5, 140, &[7; 200]).wait().unwrap(), acks[139], "its answer outlives it");
    let next = journal.append(5, 201, b"next").wait().unwrap();
    journal.close().unwrap();
    assert_eq!(tail_from_start.map(Result::unwrap).count(), 201, "a reader that was on its way sees everything");
    let again = self::journal(&disk);
    assert_eq!(again.append(5, 201, b"next").wait().unwrap(), next);
    assert_eq!(again.append(5, 140, &[7; 200]).wait().unwrap(), acks[139]);
    assert_eq!(all(&again).len(), 51);
    assert!(
        matches!(again.read(acks[10].position), Err(commissary::ReadError::Lagged { resume_at }) if resume_at == again.first())
    );
}

/// A hub's journal is no message log, nor the other way round.
#[test]
fn neither_opens_the_others_file() {
    let disk = MemoryDisk::new();
    journal(&disk).append(1, 1, b"x").wait().unwrap();
    assert!(matches!(commissary::Hub::builder().open_in_memory(&disk), Err(OpenError::Journal(_))));
}
