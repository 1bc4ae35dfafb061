//! The bounds of a message log, and that every message gets one answer: too long, too many, too old, too late.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use commissary::messages::{Gaps, Journal, Kind, Nack, Receipt};
use commissary::{Clock, ManualClock, MemoryDisk, OpenError};

const CAP_MAX: usize = (16 << 20) - 64;
const WINDOW_MAX: u32 = 800_000;

fn open(cap: usize) -> Journal {
    Journal::builder().cap(cap).open_in_memory(&MemoryDisk::new()).unwrap()
}

fn payloads(journal: &Journal) -> Vec<usize> {
    journal.read(journal.first()).unwrap().map(|message| message.unwrap().payload.len()).collect()
}

/// R110: a payload may have as many bytes as the cap says, and none is enough.
#[test]
fn the_cap_is_exact() {
    for cap in [0, 1, 256, 4096, CAP_MAX] {
        let journal = open(cap);
        let bytes = vec![7; cap + 1];
        let mut taken = vec![0];
        assert!(journal.append(1, 1, b"").wait().is_ok());
        for shorter in (1..=cap.min(1)).rev() {
            assert!(journal.append(1, 2, &bytes[..cap - shorter]).wait().is_ok());
            assert!(journal.append(1, 3, &bytes[..cap]).wait().is_ok());
            taken.extend([cap - shorter, cap]);
        }
        let next = taken.len() as u64 + 1;
        let refused = journal.append(1, next, &bytes);
        assert_eq!(refused.answer(), Some(Err(Nack::TooLong { bytes: cap + 1, cap })), "at once");
        assert_eq!(payloads(&journal), taken);
        assert!(journal.append(1, next, b"").wait().is_ok(), "the number is still free");
    }
}

/// R110: the default is 256 bytes.
#[test]
fn the_default_cap_is_256() {
    let journal = Journal::builder().open_in_memory(&MemoryDisk::new()).unwrap();
    for (seq, bytes) in [(1, 255), (2, 256)] {
        assert!(journal.append(1, seq, &vec![0; bytes]).wait().is_ok());
    }
    assert_eq!(journal.append(1, 3, &[0; 257]).wait(), Err(Nack::TooLong { bytes: 257, cap: 256 }));
}

/// R106, R110: empty messages are refused where that was asked for; a session may end all the same.
#[test]
fn empty_messages_are_refused_if_configured() {
    let journal = Journal::builder().refuse_empty().open_in_memory(&MemoryDisk::new()).unwrap();
    assert_eq!(journal.append(1, 1, b"").answer(), Some(Err(Nack::Empty)), "at once");
    assert!(journal.append(1, 1, b"x").wait().is_ok(), "the number is still free");
    assert!(journal.end_session(1).wait().is_ok());
    assert_eq!(journal.stats().refused, 1);
}

/// R110: options out of their range are refused by name, before anything is touched.
#[test]
fn options_out_of_range_are_refused() {
    let builder = Journal::builder;
    let cases = [
        ("cap", builder().cap(CAP_MAX + 1)),
        ("cap", builder().cap(usize::MAX)),
        ("window", builder().window(0)),
        ("window", builder().window(WINDOW_MAX + 1)),
        ("window", builder().window(u32::MAX)),
        ("clients", builder().clients(0)),
    ];
    let directory = tempfile::tempdir().unwrap();
    for (name, builder) in cases {
        let refused = builder.open(directory.path().join("log"));
        assert!(matches!(refused, Err(OpenError::Option { option, .. }) if option == name), "{name}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    for builder in [
        builder().cap(CAP_MAX).queue_bytes(0),
        builder().window(1).clients(1),
        builder().window(WINDOW_MAX).clients(u32::MAX),
    ] {
        let journal = builder.open_in_memory(&MemoryDisk::new()).unwrap();
        assert!(journal.append(1, 1, b"x").wait().is_ok());
        assert!(journal.append(2, 1, b"x").wait().is_ok());
    }
}

/// R103, R116: any thread sends under any id, without a session; who uses the same id is the same client.
#[test]
fn an_id_is_all_that_a_sender_needs() {
    let journal = open(256);
    let ids = [0, 1, u128::MAX, 0x0192_7f1e_0000_7000_8000_0000_0000_0001];
    for id in ids {
        assert!(journal.append(id, 1, b"hello").wait().is_ok());
    }
    // A second sender with the same id: it repeats, it contradicts, and it goes on where the first was.
    let twin = thread::scope(|scope| scope.spawn(|| journal.append(1, 1, b"hello").wait()).join().unwrap());
    assert_eq!(twin, journal.append(1, 1, b"hello").wait());
    assert!(matches!(journal.append(1, 1, b"mine").wait(), Err(Nack::Differs { .. })));
    assert!(journal.append(1, 2, b"second").wait().is_ok());
    assert_eq!(
        journal.append(1, 2, b"second").wait().map(|ack| ack.position),
        Ok(journal.append(1, 2, b"second").wait().unwrap().position)
    );
    journal.end_session(1).wait().unwrap();
    journal.end_session(99).wait().unwrap();
    assert!(journal.append(1, 3, b"back").wait().is_ok(), "a session's end ends nothing else");
    let found: Vec<_> = journal.read(0).unwrap().map(Result::unwrap).collect();
    let clients: HashSet<u128> = found.iter().map(|message| message.client).collect();
    assert_eq!(clients, ids.into_iter().chain([99]).collect());
    let ends: Vec<_> = found.iter().filter(|m| m.kind == Kind::End).map(|m| (m.client, m.seq)).collect();
    assert_eq!(ends, [(1, 2), (99, 0)]);
}

/// R106, R117: a strict client's number must be the next; a loose one's may be any that was not taken and is not too old.
#[test]
fn a_number_is_judged_by_the_policy() {
    let log = |gaps| Journal::builder().gaps(gaps).window(3).open_in_memory(&MemoryDisk::new()).unwrap();
    let strict = log(Gaps::Strict);
    for (seq, expected) in [(0, 1), (2, 1), (u64::MAX, 1)] {
        let refused = strict.append(1, seq, b"").wait().unwrap_err();
        assert_eq!(refused, Nack::Gap { expected });
    }
    // Sent together: the second is refused with the first's gap, and so on.
    let receipts: Vec<_> = [1, 3, 4, 2, 3].map(|seq| strict.append(1, seq, b"")).into_iter().collect();
    let answers: Vec<_> = receipts.into_iter().map(|receipt| receipt.wait().err()).collect();
    assert_eq!(answers, [None, Some(Nack::Gap { expected: 2 }), Some(Nack::Gap { expected: 2 }), None, None]);
    for seq in 4..=6 {
        assert!(strict.append(1, seq, b"").wait().is_ok());
    }
    assert_eq!(strict.append(1, 3, b"").wait(), Err(Nack::Expired { oldest: 4 }));
    assert_eq!(strict.append(1, 8, b"").wait(), Err(Nack::Gap { expected: 7 }));

    let loose = log(Gaps::Loose);
    for seq in [u64::MAX, 0, 7] {
        assert!(loose.append(1, seq, b"").wait().is_ok());
        assert!(loose.append(1, seq, b"").wait().is_ok());
    }
    assert!(loose.append(1, 9, b"").wait().is_ok());
    assert_eq!(loose.append(1, 0, b"").wait(), Err(Nack::Expired { oldest: 1 }));
    assert_eq!(loose.stats().repeats, 3);
}

/// A clock that stops the log's writer, which looks at it before it writes.
#[derive(Debug, Clone, Default)]
struct Gate {
    clock: ManualClock,
    closed: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    fn set(&self, closed: bool) {
        *self.closed.0.lock().unwrap() = closed;
        self.closed.1.notify_all();
    }
}

impl Clock for Gate {
    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn wall_ms(&self) -> i64 {
        if thread::current().name() == Some("commissary-messages") {
            let mut closed = self.closed.0.lock().unwrap();
            while *closed {
                closed = self.closed.1.wait(closed).unwrap();
            }
        }
        self.clock.wall_ms()
    }
}

/// R106: while the writer is stuck, senders are refused at the bound, at once, with a time; nothing of that was taken.
#[test]
fn a_full_queue_refuses_and_empties() {
    let gate = Gate::default();
    let builder = Journal::builder().clock(gate.clone()).queue_bytes(20_000);
    let journal = builder.open_in_memory(&MemoryDisk::new()).unwrap();
    for round in 0..5 {
        gate.set(true);
        let mut waiting: Vec<Receipt> = Vec::new();
        let refused = loop {
            let receipt = journal.append(round, waiting.len() as u64 + 1, &[1; 100]);
            match receipt.answer() {
                None => waiting.push(receipt),
                Some(answer) => break answer,
            }
        };
        assert!(
            matches!(refused, Err(Nack::Overloaded { retry_after }) if retry_after > Duration::ZERO),
            "{refused:?}"
        );
        assert!((30..200).contains(&waiting.len()), "{}", waiting.len());
        assert!(journal.stats().queued_bytes <= 20_000);
        gate.set(false);
        let next = waiting.len() as u64 + 1;
        assert!(waiting.into_iter().all(|receipt| receipt.wait().is_ok()));
        assert!(journal.append(round, next, &[1; 100]).wait().is_ok(), "its number is still free");
    }
    let Some(taken) = payloads(&journal).len().checked_sub(5) else { panic!("too few") };
    assert_eq!(journal.stats().taken, taken as u64 + 5);
    assert_eq!((journal.stats().refused, journal.stats().queued_bytes), (5, 0));
}

/// R106: what waits when the log is closed is answered before closing returns, also if the writer was stuck; and one after is
/// refused.
#[test]
fn closing_answers_what_waits() {
    let gate = Gate::default();
    let disk = MemoryDisk::new();
    let journal = Journal::builder().clock(gate.clone()).open_in_memory(&disk).unwrap();
    gate.set(true);
    let waiting: Vec<Receipt> = (1..=100).map(|seq| journal.append(1, seq, b"waits")).collect();
    assert!(waiting.iter().all(|receipt| receipt.answer().is_none()));
    thread::scope(|scope| {
        let closer = scope.spawn(|| journal.close());
        while journal.append(2, 1, b"late").answer() != Some(Err(Nack::Closing)) {
            thread::yield_now();
        }
        gate.set(false);
        closer.join().unwrap().unwrap();
    });
    assert!(waiting.iter().all(|receipt| receipt.answer().is_some()));
    assert_eq!(journal.append(1, 101, b"after").answer(), Some(Err(Nack::Closing)));
    assert_eq!(journal.end_session(1).answer(), Some(Err(Nack::Closing)));
    journal.close().unwrap();
}

/// R106: however appending and closing race, every receipt is answered when closing returns; what was acknowledged is in the
/// log, once, and what was refused is not.
#[test]
fn no_receipt_is_pending_after_closing() {
    for round in 0..200 {
        let disk = MemoryDisk::new();
        let journal = Journal::builder().gaps(Gaps::Loose).open_in_memory(&disk).unwrap();
        let (acked, refused) = thread::scope(|scope| {
            let senders: Vec<_> = (0..3)
                .map(|client| {
                    let journal = &journal;
                    scope.spawn(move || {
                        let mut receipts = Vec::new();
                        for seq in 1..=300 {
                            let receipt = journal.append(client, seq, b"x");
                            let over = receipt.answer() == Some(Err(Nack::Closing));
                            receipts.push(((client, seq), receipt));
                            if over {
                                break;
                            }
                        }
                        receipts
                    })
                })
                .collect();
            for _ in 0..round % 20 {
                thread::yield_now();
            }
            journal.close().unwrap();
            let (mut acked, mut refused) = (Vec::new(), Vec::new());
            for (id, receipt) in senders.into_iter().flat_map(|sender| sender.join().unwrap()) {
                match receipt.answer().expect("answered") {
                    Ok(ack) => acked.push((ack.position, id)),
                    Err(nack) => refused.push((nack, id)),
                }
            }
            (acked, refused)
        });
        let stats = journal.stats();
        assert_eq!((stats.taken, stats.refused), (acked.len() as u64, refused.len() as u64), "outcomes are calls");
        assert_eq!(stats.queued_bytes, 0);
        drop(journal);
        let again = Journal::builder().open_in_memory(&disk).unwrap();
        let found: Vec<_> =
            again.read(0).unwrap().map(|found| found.map(|m| (m.position, (m.client, m.seq))).unwrap()).collect();
        let mut acked = acked;
        acked.sort_unstable();
        assert_eq!(found, acked);
    }
}

/// Closes a log when it is woken.
struct Closes(Journal);

impl Wake for Closes {
    fn wake(self: Arc<Self>) {
        self.0.close().unwrap();
    }
}

/// R106: a log that is closed from a waker, on its writer's own thread, while another thread closes it, is over when that one
/// returns.
#[test]
fn closing_from_a_waker_stops_nobody() {
    let (gate, disk) = (Gate::default(), MemoryDisk::new());
    let journal = Journal::builder().clock(gate.clone()).open_in_memory(&disk).unwrap();
    gate.set(true);
    let mut first = journal.append(1, 1, b"closes");
    let waker = Waker::from(Arc::new(Closes(journal.clone())));
    assert!(Pin::new(&mut first).poll(&mut Context::from_waker(&waker)).is_pending());
    let second = journal.append(1, 2, b"waits");
    let (done, closed) = mpsc::channel();
    let closer = journal.clone();
    thread::spawn(move || done.send(closer.close()));
    while journal.append(2, 1, b"late").answer() != Some(Err(Nack::Closing)) {
        thread::yield_now();
    }
    gate.set(false);
    closed.recv_timeout(Duration::from_secs(20)).expect("closing ends").unwrap();
    assert!(first.answer().is_some_and(|answer| answer.is_ok()) && second.answer().is_some());
    let tail = journal.tail(journal.first()).unwrap();
    let of_first = tail.map(Result::unwrap).filter(|message| message.client == 1);
    assert_eq!(of_first.map(|message| message.seq).collect::<Vec<_>>(), [1, 2], "and it is over");
}

/// R106: dropping the last handle closes the log, with the same care.
#[test]
fn dropping_the_last_handle_closes() {
    let disk = MemoryDisk::new();
    let journal = open_on(&disk);
    let (twin, tail) = (journal.clone(), journal.tail(0).unwrap());
    let first = journal.append(1, 1, b"one");
    drop(journal);
    let second = twin.append(1, 2, b"two");
    drop(twin);
    assert!(first.answer().unwrap().is_ok());
    assert!(second.answer().unwrap().is_ok());
    assert_eq!(tail.count(), 2, "a reader keeps nothing open, and ends");
    assert_eq!(payloads(&open_on(&disk)), [3, 3]);
}

fn open_on(disk: &MemoryDisk) -> Journal {
    Journal::builder().open_in_memory(disk).unwrap()
}
