//! Message logs on devices that fail: every call gets one answer, which is true of the file that is found afterwards.

use std::io;
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::receipt::cost;
use super::*;
use crate::builder::Crash;
use crate::clock::ManualClock;

/// A log whose writer the test drives.
pub(super) struct Stepped {
    pub(super) shared: Arc<Shared>,
    pub(super) writer: Writer,
}

impl Stepped {
    pub(super) fn open(builder: &Builder, disk: &MemoryDisk) -> Self {
        let (writer, _) = builder.writer(Place::Memory(disk.clone())).unwrap();
        Self { shared: writer.shared(), writer }
    }

    pub(super) fn send(&self, client: u128, seq: u64, payload: &[u8]) -> Receipt {
        self.shared.send(Sent::Message, client, seq, payload)
    }

    /// One turn; every receipt has its answer after it.
    fn answers(&mut self, receipts: Vec<Receipt>) -> Vec<Result<Ack, Nack>> {
        self.writer.turn();
        receipts.into_iter().map(|receipt| receipt.answer().expect("answered in the turn")).collect()
    }

    pub(super) fn close(mut self) {
        self.shared.close();
        self.writer.finish();
    }
}

pub(super) fn builder(durability: Durability) -> Builder {
    Journal::builder().durability(durability).clock(ManualClock::default())
}

/// What a log on this disk holds; the disk is left as it is.
pub(super) fn content(disk: &MemoryDisk) -> Vec<Message> {
    let copy = disk.after(Crash::Process);
    let journal = builder(Durability::Os).open_in_memory(&copy).unwrap();
    journal.read(journal.first()).unwrap().map(Result::unwrap).collect()
}

fn numbers(messages: &[Message]) -> Vec<(u128, u64)> {
    messages.iter().map(|message| (message.client, message.seq)).collect()
}

const IO: Nack = Nack::Io { kind: io::ErrorKind::Other };

/// The turn's messages of two clients, so long that they make several groups.
fn batch(log: &Stepped, from: u64) -> Vec<Receipt> {
    (from..from + 4).flat_map(|seq| [1, 2].map(|client| log.send(client, seq, &[9; 60]))).collect()
}

/// R106, R111: the device is full after any number of bytes: what was half written is cut, what was acknowledged stays, what comes
/// behind the first that did not fit is refused as well, and with room again it goes on without a hole.
#[test]
fn a_device_full_at_any_byte_refuses_from_there_on_and_goes_on_with_room() {
    for durability in [Durability::Sync, Durability::Os] {
        let mut room = 0;
        loop {
            let disk = MemoryDisk::new();
            let mut log = Stepped::open(&builder(durability), &disk);
            let receipts = batch(&log, 1);
            disk.journal().fail_append_after(room);
            let answers = log.answers(receipts);
            let taken = answers.iter().take_while(|answer| answer.is_ok()).count();
            assert!(answers[taken..].iter().all(|answer| *answer == Err(Nack::Full)), "{room}: {answers:?}");
            let order: Vec<_> = (1..=4).flat_map(|seq| [(1, seq), (2, seq)]).collect();
            for crash in [Crash::Process, Crash::Power] {
                if crash == Crash::Process || durability == Durability::Sync {
                    assert_eq!(numbers(&content(&disk.after(crash))), order[..taken], "{room} {crash:?}");
                }
            }
            if taken == answers.len() {
                break;
            }
            // Without room nothing changes; what does not follow is a gap, not a hole.
            disk.journal().fail_append_after(room % 7);
            let expected = u64::try_from(taken / 2).unwrap() + 1;
            let receipts = vec![log.send(2, expected, &[9; 60]), log.send(2, expected + 1, &[9; 60])];
            assert!(log.answers(receipts).iter().all(|answer| *answer == Err(Nack::Full)), "{room}");
            disk.journal().heal();
            let receipts = vec![log.send(2, expected + 1, &[9; 60])];
            assert_eq!(log.answers(receipts), [Err(Nack::Gap { expected })], "{room}");
            let receipts = batch(&log, 1);
            assert!(log.answers(receipts).iter().all(Result::is_ok), "{room}");
            log.close();
            let found = content(&disk);
            let mut sorted = numbers(&found);
            sorted.sort_by_key(|(client, seq)| (*seq, *client));
            assert_eq!(sorted, order, "{room}: each once");
            for client in [1, 2] {
                assert!(found.iter().filter(|message| message.client == client).map(|message| message.seq).eq(1..=4));
            }
            room += 1;
        }
        assert!(room > 700, "{room}");
    }
}

/// R111: what does not fit, and cannot be cut off either, is not known: the log stops, and opening it anew tells.
#[test]
fn what_cannot_be_undone_stops_the_log() {
    for room in 0..400 {
        let disk = MemoryDisk::new();
        let mut log = Stepped::open(&builder(Durability::Sync), &disk);
        let receipts = batch(&log, 1);
        disk.journal().fail_append_after(room);
        disk.journal().fail_truncate_after(0);
        let answers = log.answers(receipts);
        assert_eq!(answers, [Err(IO); 8], "nothing was synced");
        disk.journal().heal();
        let receipts = batch(&log, 1);
        assert_eq!(log.answers(receipts), [Err(IO); 8], "not before it is opened anew");
        log.close();
        let mut log = Stepped::open(&builder(Durability::Sync), &disk);
        let receipts = batch(&log, 1);
        assert!(log.answers(receipts).iter().all(Result::is_ok));
        log.close();
        assert_eq!(content(&disk).len(), 8, "room for {room}");
    }
}

/// R111: after a sync that failed nothing is acknowledged over the lost range, although the device works again: all that was and
/// is handed in is answered `Io` until the log is opened anew.
#[test]
fn a_failed_sync_poisons_until_the_log_is_opened_anew() {
    let disk = MemoryDisk::new();
    let mut log = Stepped::open(&builder(Durability::Sync), &disk);
    let receipts = batch(&log, 1);
    let acked = log.answers(receipts);
    let tail_end = log.shared.source().tail.end();
    disk.journal().fail_sync_after(0);
    let mut receipts = batch(&log, 5);
    // A repeat of what is durable is answered from what is remembered.
    receipts.push(log.send(1, 1, &[9; 60]));
    receipts.push(log.shared.send(Sent::End, 1, 0, &[]));
    let answers = log.answers(receipts);
    assert_eq!(answers[8], acked[0]);
    assert!(answers[..8].iter().chain(&answers[9..]).all(|answer| *answer == Err(IO)), "{answers:?}");
    disk.journal().heal();
    let receipts = batch(&log, 5);
    assert_eq!(log.answers(receipts), [Err(IO); 8]);
    assert_eq!(log.shared.source().tail.end(), tail_end, "readers do not see the lost range");
    assert_eq!(log.shared.queued_bytes(), 0);
    log.close();
    for crash in [Crash::Power, Crash::Process] {
        let disk = disk.after(crash);
        assert_eq!(content(&disk).len(), if crash == Crash::Power { 8 } else { 17 });
        let mut log = Stepped::open(&builder(Durability::Sync), &disk);
        let receipts = batch(&log, 5);
        assert!(log.answers(receipts).iter().all(Result::is_ok));
        log.close();
        let found = content(&disk);
        for client in [1, 2] {
            let of = found.iter().filter(|message| message.client == client && message.kind == Kind::Message);
            assert!(of.map(|message| message.seq).eq(1..=8), "each once");
        }
    }
}

/// R111: a log that is synced at intervals and fails at it does not wake up for the next.
#[test]
fn a_failed_log_sleeps_until_it_is_closed() {
    let (disk, clock) = (MemoryDisk::new(), ManualClock::default());
    let builder = builder(Durability::Every(Duration::from_secs(1))).clock(clock.clone());
    let mut log = Stepped::open(&builder, &disk);
    let receipts = batch(&log, 1);
    assert!(log.answers(receipts).iter().all(Result::is_ok));
    assert_eq!(log.writer.sleep(), Duration::from_secs(1));
    disk.journal().fail_sync_after(0);
    clock.advance(Duration::from_secs(1));
    assert!(!log.writer.turn());
    assert!(log.shared.failure().is_some());
    assert_eq!(log.writer.sleep(), Duration::MAX);
    let receipts = batch(&log, 5);
    assert_eq!(log.answers(receipts), [Err(IO); 8]);
    log.close();
    assert_eq!(content(&disk.after(Crash::Process)).len(), 8, "as was promised");
}

/// R106: another message under a number that is only about to be taken is told so once that one is in the log, and not if it is not.
#[test]
fn differs_is_said_only_of_what_is_in_the_log() {
    let disk = MemoryDisk::new();
    let mut log = Stepped::open(&builder(Durability::Sync), &disk);
    let three = |log: &Stepped| vec![log.send(1, 1, b"a"), log.send(1, 1, b"b"), log.send(1, 1, b"a")];
    disk.journal().fail_append_after(10);
    let receipts = three(&log);
    assert_eq!(log.answers(receipts), [Err(Nack::Full); 3]);
    disk.journal().heal();
    let receipts = three(&log);
    let answers = log.answers(receipts);
    let position = answers[0].unwrap().position;
    assert_eq!(answers, [answers[0], Err(Nack::Differs { position }), answers[0]]);
    assert_eq!((log.shared.counts.taken.value(), log.shared.counts.repeats.value()), (1, 1));
    assert_eq!(log.shared.counts.refused.value(), 4);
    log.close();
    assert_eq!(content(&disk)[0].payload, b"a");
}

/// R106: what was handed in before the log was closed is written, whoever hands in something at the moment of closing; that too
/// is answered, as is what comes when the writer is gone.
#[test]
fn what_waits_when_the_log_is_closed_is_written() {
    let disk = MemoryDisk::new();
    let mut log = Stepped::open(&builder(Durability::Sync), &disk);
    let pending = |seq| Arc::new(crate::stack::Node::new(receipt::Pending::new(Sent::Message, 1, seq, 0, 0, b"x")));
    let push = |seq| {
        // As `send` does it, once it has seen that the log is open.
        assert!(log.shared.queue.reserve(cost(1)));
        let node = pending(seq);
        log.shared.push(&node);
        Receipt::waiting(node, Arc::clone(&log.shared.gates))
    };
    let before = push(1);
    log.shared.close();
    let meanwhile = push(2);
    assert!(before.answer().is_none() && meanwhile.answer().is_none(), "the writer's");
    log.writer.finish();
    let after = push(3);
    assert!(before.answer().unwrap().is_ok() && meanwhile.answer().unwrap().is_ok());
    assert_eq!(after.answer(), Some(Err(Nack::Closing)));
    assert_eq!(log.send(1, 4, b"x").answer(), Some(Err(Nack::Closing)));
    assert_eq!(log.shared.queued_bytes(), 0);
    assert_eq!(numbers(&content(&disk)), [(1, 1), (1, 2)]);
}

/// R107: also a log that was found after a crash, and to which nothing was added since, says that all of it is synced once it was closed in
/// order: damage to its last message is refused then.
#[test]
fn closing_marks_what_a_crash_left_unmarked() {
    let disk = MemoryDisk::new();
    let mut log = Stepped::open(&builder(Durability::Sync), &disk);
    let receipts = vec![log.send(1, 1, b"precious")];
    assert!(log.answers(receipts)[0].is_ok());
    let disk = disk.after(Crash::Power);
    let unmarked = disk.journal_bytes();
    Stepped::open(&builder(Durability::Sync), &disk).close();
    let marked = disk.journal_bytes();
    assert!(marked > unmarked);
    Stepped::open(&builder(Durability::Sync), &disk).close();
    assert_eq!(disk.journal_bytes(), marked, "once");
    let mut bytes = disk.journal().bytes();
    bytes[usize::try_from(unmarked).unwrap() - 1] ^= 1;
    let opened = builder(Durability::Sync).open_in_memory(&MemoryDisk::from_journal(&bytes));
    assert!(matches!(opened, Err(OpenError::Journal(JournalError::Corrupt { .. }))), "{opened:?}");
}

/// R109: what waits never takes more memory than allowed, but for one message that alone is longer; beyond it every call is refused before
/// anything is taken, and told when to come again.
#[test]
fn the_bound_on_what_waits_holds_exactly() {
    let disk = MemoryDisk::new();
    let bound = 10 * cost(100);
    let mut log = Stepped::open(&builder(Durability::Os).cap(1 << 20).gaps(Gaps::Loose).queue_bytes(bound), &disk);
    let mut seq = 0;
    for round in 0..200_usize {
        let (mut receipts, mut used, mut refused) = (Vec::new(), 0, 0);
        for number in 0..30 {
            let len = [100, 0, 250, 7][(round + number) % 4] + if round % 50 == 0 { 10_000 } else { round };
            seq += 1;
            let receipt = log.send(1, seq, &vec![1; len]);
            if used == 0 || used + cost(len) <= bound {
                assert!(receipt.answer().is_none(), "there was room");
                used += cost(len);
                receipts.push(receipt);
            } else {
                let Some(Err(Nack::Overloaded { retry_after })) = receipt.answer() else { panic!("{receipt:?}") };
                assert!((Duration::from_millis(10)..=Duration::from_secs(10)).contains(&retry_after));
                refused += 1;
            }
            assert_eq!(log.shared.queued_bytes(), used);
            assert!(used <= bound || receipts.len() == 1);
        }
        assert!(refused > 0);
        let before = log.shared.counts.refused.value();
        assert!(log.answers(receipts).iter().all(Result::is_ok));
        assert_eq!((log.shared.queued_bytes(), log.shared.counts.refused.value()), (0, before));
    }
}

/// R109, R111: while the device stalls, senders are refused at once, and nothing grows; when it comes back, everything that was taken is
/// answered.
#[test]
fn a_stalled_device_refuses_and_never_stalls_senders() {
    let disk = MemoryDisk::new();
    let bound = 50 * cost(60);
    let journal = builder(Durability::Sync).queue_bytes(bound).open_in_memory(&disk).unwrap();
    let (stalls, stalled) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    disk.journal().before_sync(move || {
        let _ = stalls.send(());
        // Once the test has let it go, it does not stall again.
        let _ = wait.lock().unwrap().recv();
    });
    let first = journal.append(0, 1, &[0; 60]);
    stalled.recv().unwrap();
    // The writer stands in the sync. This thread gets through all of it nonetheless.
    let (mut receipts, mut refused) = (vec![first], 0);
    thread::scope(|scope| {
        let senders: Vec<_> = (1..=4_u128)
            .map(|client| {
                let journal = journal.clone();
                scope.spawn(move || (1..=2_000).map(|seq| journal.append(client, seq, &[0; 60])).collect::<Vec<_>>())
            })
            .collect();
        for sender in senders {
            for receipt in sender.join().unwrap() {
                match receipt.answer() {
                    None => receipts.push(receipt),
                    Some(Err(Nack::Overloaded { .. })) => refused += 1,
                    Some(answer) => panic!("{answer:?}"),
                }
            }
        }
    });
    assert_eq!((receipts.len(), refused), (50, 8_001 - 50));
    assert_eq!(journal.stats().queued_bytes, bound);
    assert!(receipts.iter().all(|receipt| receipt.answer().is_none()), "none before the sync");
    drop(go);
    let mut taken = 0;
    for receipt in receipts {
        match receipt.wait() {
            Ok(_) => taken += 1,
            // Of a client whose earlier message was refused.
            Err(Nack::Gap { .. }) => {}
            Err(nack) => panic!("{nack}"),
        }
    }
    assert_eq!((journal.stats().queued_bytes, journal.stats().taken), (0, taken));
    journal.close().unwrap();
    assert_eq!(content(&disk).len() as u64, taken);
}

struct Panics;

impl Wake for Panics {
    fn wake(self: std::sync::Arc<Self>) {
        panic!("the application's waker");
    }
}

/// R111: a waker that panics is its owner's affair: the writer answers the others, and goes on.
#[test]
fn a_panicking_waker_does_not_stop_the_writer() {
    let disk = MemoryDisk::new();
    let mut log = Stepped::open(&builder(Durability::Sync), &disk);
    let mut receipts = batch(&log, 1);
    let waker = Waker::from(std::sync::Arc::new(Panics));
    for receipt in receipts.iter_mut().step_by(2) {
        assert_eq!(std::pin::Pin::new(receipt).poll(&mut Context::from_waker(&waker)), Poll::Pending);
    }
    assert!(log.answers(receipts).iter().all(Result::is_ok));
    let receipts = batch(&log, 5);
    assert!(log.answers(receipts).iter().all(Result::is_ok));
    assert_eq!(log.shared.queued_bytes(), 0);
    log.close();
    assert_eq!(content(&disk).len(), 16);
}

/// R106, R111: a writer that panics has every message answered, those it held and those that come; closing tells of it, and the log opens anew.
#[test]
fn a_writer_that_panics_answers_everything() {
    let disk = MemoryDisk::new();
    let journal = builder(Durability::Sync).open_in_memory(&disk).unwrap();
    let first = journal.append(1, 1, b"one").wait();
    let (begun, begins) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    disk.journal().before_append(move || {
        begun.send(()).unwrap();
        wait.lock().unwrap().recv().unwrap();
        panic!("the device's driver");
    });
    let held = journal.append(1, 2, b"two");
    begins.recv().unwrap();
    let behind: Vec<_> = (3..10).map(|seq| journal.append(1, seq, b"more")).collect();
    go.send(()).unwrap();
    assert_eq!(held.wait(), Err(IO));
    for receipt in behind {
        assert_eq!(receipt.wait(), Err(IO));
    }
    assert!(journal.close().unwrap_err().to_string().contains("the device's driver"));
    assert_eq!(journal.append(1, 10, b"late").wait(), Err(IO));
    assert!(journal.compact(Retain::Bytes(0)).is_err());
    assert_eq!(journal.stats().queued_bytes, 0);
    disk.journal().heal();
    let journal = builder(Durability::Sync).open_in_memory(&disk).unwrap();
    assert_eq!(journal.append(1, 1, b"one").wait(), first);
    assert!(journal.append(1, 2, b"two").wait().is_ok());
}

/// R108, R111: a compaction that finds no room, or cannot sync, says so; the log is as it was, and goes on.
#[test]
fn a_compaction_that_fails_leaves_the_log_as_it_was() {
    let disk = MemoryDisk::new();
    let journal = builder(Durability::Sync).open_in_memory(&disk).unwrap();
    let acks: Vec<Ack> = (1..=40).map(|seq| journal.append(1, seq, &[3; 200]).wait().unwrap()).collect();
    let (retain, mut failures) = (Retain::From(acks[30].position), 0);
    let before = content(&disk);
    for (step, sync) in (0..4_000).step_by(37).map(|room| (room, false)).chain((0..4).map(|syncs| (syncs, true))) {
        if sync {
            disk.fresh().fail_sync_after(step as u64);
        } else {
            disk.fresh().fail_append_after(step);
        }
        let compacted = journal.compact(retain);
        disk.fresh().heal();
        if compacted.is_ok() {
            assert!(step > 2, "{step}");
            break;
        }
        failures += 1;
        assert_eq!((content(&disk), journal.first()), (before.clone(), 0), "{step}");
        assert_eq!(journal.append(1, 40, &[3; 200]).wait().unwrap(), acks[39]);
    }
    assert!(failures > 50, "{failures}");
    journal.append(1, 41, b"on").wait().unwrap();
    journal.close().unwrap();
    assert_eq!(content(&disk).last().unwrap().payload, b"on");
}

/// Sends numbers one after another until all are acknowledged, or the outcome of one is unknown. Returns the calls and the ACKs.
fn send_patiently(journal: &Journal, client: u128, numbers: u64) -> (u64, Vec<Ack>) {
    let (mut calls, mut acks) = (0, Vec::new());
    for seq in 1..=numbers {
        loop {
            calls += 1;
            match journal.append(client, seq, &seq.to_be_bytes()).wait() {
                Ok(ack) => break acks.push(ack),
                Err(Nack::Full | Nack::Overloaded { .. }) => thread::yield_now(),
                Err(Nack::Io { .. }) => return (calls, acks),
                Err(nack) => panic!("{nack}"),
            }
        }
    }
    (calls, acks)
}

/// R106, R111: many senders on a device that is full time and again, and fails in the end: as many answers as calls; what was acknowledged is
/// there after a power cut, and with the rest sent again everything is there once.
#[test]
fn senders_on_a_device_that_is_full_time_and_again() {
    const NUMBERS: u64 = 120;
    for fails in [false, true] {
        let disk = MemoryDisk::new();
        let small = builder(Durability::Sync).queue_bytes(2 * cost(8));
        let journal = small.open_in_memory(&disk).unwrap();
        // Where it fails in the end they go on until then.
        let numbers = if fails { u64::MAX } else { NUMBERS };
        let told: Vec<(u64, Vec<Ack>)> = thread::scope(|scope| {
            let senders: Vec<_> = (0..4)
                .map(|client| (client, journal.clone()))
                .map(|(client, journal)| scope.spawn(move || send_patiently(&journal, client, numbers)))
                .collect();
            for round in 0..200 {
                disk.journal().fail_append_after(round % 97);
                thread::yield_now();
                disk.journal().heal();
                if fails && round == 50 {
                    disk.journal().fail_sync_after(round as u64);
                    break;
                }
                thread::yield_now();
            }
            senders.into_iter().map(|sender| sender.join().unwrap()).collect()
        });
        let stats = journal.stats();
        let calls: u64 = told.iter().map(|(calls, _)| calls).sum();
        assert_eq!(stats.taken + stats.repeats + stats.refused, calls);
        assert_eq!(stats.taken, told.iter().map(|(_, acks)| acks.len() as u64).sum::<u64>());
        assert!(fails || stats.taken == 4 * NUMBERS);
        let disk = disk.after(Crash::Power);
        let found = content(&disk);
        for (client, (_, acks)) in told.iter().enumerate() {
            let of = found.iter().filter(|message| message.client == client as u128);
            assert!(of.take(acks.len()).map(|message| message.position).eq(acks.iter().map(|ack| ack.position)));
        }
        drop(journal);
        let journal = builder(Durability::Sync).window(800_000).open_in_memory(&disk).unwrap();
        let numbers = told.iter().map(|(_, acks)| acks.len() as u64).max().unwrap() + 1;
        for (client, (_, acks)) in told.iter().enumerate() {
            let (calls, again) = send_patiently(&journal, client as u128, numbers);
            assert_eq!((calls, &again[..acks.len()]), (numbers, &acks[..]));
        }
        journal.close().unwrap();
        let found = content(&disk);
        assert_eq!(found.len() as u64, 4 * numbers, "each once");
    }
}
