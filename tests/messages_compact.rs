//! Compaction of a message log: what is retained and what is answered, beside senders, at the boundaries, across crashes.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use commissary::messages::{Ack, Builder, CompactError, Compacted, Gaps, Journal, Message, Nack, Retain};
use commissary::{Clock, Crash, Durability, ManualClock, MemoryDisk, OpenError, ReadError};
use proptest::prelude::*;

fn all(journal: &Journal) -> Vec<Message> {
    journal.read(journal.first()).unwrap().map(Result::unwrap).collect()
}

fn open(disk: &MemoryDisk) -> Journal {
    Journal::builder().open_in_memory(disk).unwrap()
}

fn payload(seq: u64) -> [u8; 100] {
    [u8::try_from(seq % 251).unwrap(); 100]
}

fn append(journal: &Journal, client: u128, from: u64, to: u64) -> Vec<Ack> {
    (from..=to).map(|seq| journal.append(client, seq, &payload(seq)).wait().unwrap()).collect()
}

fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn is_unchanged(compacted: Compacted, journal: &Journal) -> bool {
    compacted.bytes_before == compacted.bytes_after && compacted.first == journal.first()
}

/// R104, R108, R117: while four senders append, compactions drop what is old; all that was acknowledged at or behind the first position
/// is there, at its position, once and in order, and the last numbers of each sender get their first answers.
#[test]
fn senders_go_on_while_the_log_is_compacted() {
    let disk = MemoryDisk::new();
    let journal = open(&disk);
    let (sending, shrunk) = (AtomicUsize::new(4), AtomicUsize::new(0));
    let acks: Vec<Vec<Ack>> = thread::scope(|scope| {
        let senders: Vec<_> = (0..4)
            .map(|client| {
                let (journal, sending, shrunk) = (&journal, &sending, &shrunk);
                scope.spawn(move || {
                    let mut acks = append(journal, client, 1, 1_000);
                    // However slow the compactions are: some message comes after one that dropped something.
                    while shrunk.load(Ordering::SeqCst) == 0 {
                        thread::yield_now();
                    }
                    acks.extend(append(journal, client, 1_001, 1_500));
                    sending.fetch_sub(1, Ordering::SeqCst);
                    acks
                })
            })
            .collect();
        while sending.load(Ordering::SeqCst) > 0 {
            let Compacted { bytes_before, bytes_after, first, .. } = journal.compact(Retain::Bytes(20_000)).unwrap();
            shrunk.fetch_add(usize::from(first > 0 && bytes_after < bytes_before), Ordering::SeqCst);
        }
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    let check = |journal: &Journal| {
        let mut places = HashMap::new();
        for (client, acks) in acks.iter().enumerate() {
            let kept = (1..).zip(acks).filter(|(_, ack)| ack.position >= journal.first());
            places.extend(kept.map(|(seq, ack)| ((client as u128, seq), ack.position)));
        }
        let found = all(journal);
        assert!(found.is_sorted_by_key(|message| message.position));
        assert_eq!(found.len(), places.len(), "once each");
        for message in found {
            assert_eq!(places[&(message.client, message.seq)], message.position);
            assert_eq!(message.payload, payload(message.seq));
        }
        for (client, acks) in acks.iter().enumerate() {
            for seq in 1_437..=1_500 {
                let again = journal.append(client as u128, seq, &payload(seq)).wait();
                assert_eq!(again, Ok(acks[usize::try_from(seq).unwrap() - 1]));
            }
            assert_eq!(journal.append(client as u128, 1_436, b"").wait(), Err(Nack::Expired { oldest: 1_437 }));
        }
    };
    check(&journal);
    journal.compact(Retain::From(journal.end())).unwrap();
    check(&journal);
    journal.close().unwrap();
    check(&open(&disk));
}

/// R108: what is kept begins with the group of the position given; a position that is gone, or the first, changes nothing.
#[test]
fn retaining_from_a_position_keeps_it() {
    let disk = MemoryDisk::new();
    let journal = open(&disk);
    let acks = append(&journal, 1, 1, 100);
    for nothing in [0, journal.first(), acks[0].position] {
        assert!(is_unchanged(journal.compact(Retain::From(nothing)).unwrap(), &journal));
    }
    let end = journal.end();
    let beyond = journal.compact(Retain::From(end + 1));
    assert!(matches!(beyond, Err(CompactError::BeyondEnd { position, end: at }) if (position, at) == (end + 1, end)));
    for (at, ack) in acks.iter().enumerate().step_by(7).skip(5) {
        // Neither the position itself nor one within the message loses it.
        for inside in [0, 1, 20] {
            journal.compact(Retain::From(ack.position + inside)).unwrap();
            assert_eq!(all(&journal)[0].position, ack.position, "message {at}");
            assert_eq!(journal.read(ack.position).unwrap().count(), acks.len() - at);
        }
    }
    assert!(is_unchanged(journal.compact(Retain::From(acks[3].position)).unwrap(), &journal), "gone before");
}

/// R108: the bytes given are kept at most, and no group less than fits.
#[test]
fn retaining_bytes_keeps_no_more() {
    let disk = MemoryDisk::new();
    let journal = open(&disk);
    let acks = append(&journal, 1, 1, 100);
    let behind = |at: usize| journal.end() - (acks[at].position - 43);
    let exact = behind(50);
    for too_much in [u64::MAX, journal.end(), behind(0)] {
        assert!(is_unchanged(journal.compact(Retain::Bytes(too_much)).unwrap(), &journal));
    }
    let compacted = journal.compact(Retain::Bytes(exact)).unwrap();
    assert_eq!(all(&journal).len(), 50, "exactly so many bytes");
    assert_eq!((compacted.bytes_after, disk.journal_bytes()), (disk.journal_bytes(), compacted.bytes_after));
    // The seal of the first compaction stands behind them.
    journal.compact(Retain::Bytes(behind(60) - 1)).unwrap();
    assert_eq!(all(&journal).len(), 39, "one byte less is one group less");
    journal.compact(Retain::Bytes(0)).unwrap();
    assert_eq!(all(&journal), []);
}

/// R108: what was written at the moment that the time given reaches back to is kept; what was written before is not.
#[test]
fn retaining_a_time_keeps_its_edge() {
    let (disk, clock) = (MemoryDisk::new(), ManualClock::default());
    clock.set_wall_ms(1_000_000);
    let open = || Journal::builder().clock(clock.clone()).open_in_memory(&disk).unwrap();
    let journal = open();
    for second in 0..60 {
        append(&journal, 1, second + 1, second + 1);
        clock.advance(Duration::from_secs(1));
    }
    let ages = [(Duration::MAX, 60), (Duration::from_secs(60), 60), (Duration::from_secs(30), 30)];
    for (age, kept) in ages {
        journal.compact(Retain::For(age)).unwrap();
        assert_eq!(all(&journal).len(), kept, "{age:?}");
    }
    // Times stay with their messages, also in a file that was written anew.
    journal.close().unwrap();
    let journal = open();
    journal.compact(Retain::For(Duration::from_millis(19_999))).unwrap();
    assert_eq!(all(&journal).len(), 19);
    assert_eq!(all(&journal)[0].at.timestamp_millis(), 1_041_000);
    journal.compact(Retain::For(Duration::ZERO)).unwrap();
    assert_eq!(all(&journal), []);
}

/// R108, R117: everything can be dropped, again and again; the log goes on where it was, and remembers.
#[test]
fn an_emptied_log_goes_on() {
    let disk = MemoryDisk::new();
    let mut journal = open(&disk);
    assert!(is_unchanged(journal.compact(Retain::Bytes(0)).unwrap(), &journal), "there is nothing in it yet");
    let mut acks = Vec::new();
    for round in 0..4 {
        acks.extend(append(&journal, 1, round * 50 + 1, round * 50 + 50));
        let end = journal.end();
        let compacted = journal.compact(Retain::From(end)).unwrap();
        assert_eq!((compacted.first, all(&journal)), (end, vec![]));
        assert!(compacted.bytes_after < 2_000, "{compacted:?}");
        let again = journal.compact(Retain::From(journal.end())).unwrap();
        assert!(is_unchanged(again, &journal), "{again:?}");
        assert_eq!(disk.journal_bytes(), again.bytes_after);
        if round % 2 == 1 {
            journal.close().unwrap();
            journal = open(&disk);
            assert_eq!((journal.first(), journal.report().first), (end, end));
        }
    }
    for seq in 137..=200 {
        let place = usize::try_from(seq).unwrap() - 1;
        assert_eq!(journal.append(1, seq, &payload(seq)).wait(), Ok(acks[place]));
    }
    assert!(
        matches!(journal.read(acks[0].position), Err(ReadError::Lagged { resume_at }) if resume_at == journal.first())
    );
}

/// R108: a log of which nothing is left, not even a client to be remembered, is whole, and goes on.
#[test]
fn a_log_without_clients_can_be_emptied() {
    let disk = MemoryDisk::new();
    let journal = open(&disk);
    for client in 0..10 {
        journal.end_session(client).wait().unwrap();
    }
    let end = journal.end();
    let compacted = journal.compact(Retain::Bytes(0)).unwrap();
    assert!(compacted.first == end && compacted.bytes_after < compacted.bytes_before);
    let again = journal.compact(Retain::Bytes(0)).unwrap();
    assert!(is_unchanged(again, &journal));
    journal.close().unwrap();
    let journal = open(&disk);
    assert_eq!((journal.first(), all(&journal).len()), (end, 0));
    let acks = append(&journal, 1, 1, 3);
    drop(journal);
    assert_eq!(
        all(&open(&disk)).iter().map(|message| message.position).collect::<Vec<_>>(),
        acks.iter().map(|ack| ack.position).collect::<Vec<_>>()
    );
}

/// R107, R117: whenever the machine stops while the log is compacted, it opens with everything that was acknowledged at or behind
/// its first position, and with all answers.
#[test]
fn a_crash_during_a_compaction_loses_nothing() {
    let disk = MemoryDisk::new();
    let journal = open(&disk);
    let mut acks = append(&journal, 1, 1, 60);
    let check = |found: &MemoryDisk, acks: &[Ack]| {
        let again = open(found);
        let kept: Vec<u64> = acks.iter().map(|ack| ack.position).filter(|at| *at >= again.first()).collect();
        let there: Vec<u64> = all(&again).iter().map(|message| message.position).collect();
        assert_eq!(there[..kept.len()], kept);
        for (seq, ack) in (1..).zip(acks).skip(acks.len() - 20) {
            assert_eq!(again.append(1, seq, &payload(seq)).wait(), Ok(*ack));
        }
    };
    for round in 0..20 {
        let next = acks.len() as u64 + 1;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                journal.compact(Retain::Bytes(if round % 3 == 0 { 0 } else { 1_000 })).unwrap();
                over.store(true, Ordering::SeqCst);
            });
            while !over.load(Ordering::SeqCst) {
                let crashed = [Crash::Power, Crash::Process].map(|crash| disk.after(crash));
                for found in &crashed {
                    check(found, &acks);
                }
            }
        });
        check(&disk.after(Crash::Power), &acks);
        acks.extend(append(&journal, 1, next, next + 29));
        check(&disk.after(Crash::Power), &acks);
    }
}

/// R108: all of it is one file; what a compaction left behind that was stopped is removed, and hinders nothing.
#[test]
fn a_log_is_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut acks = Vec::new();
    for round in 0..3 {
        // Half a file, as a compaction leaves it when the machine stops.
        let half = fs::read(&path).map_or(b"rest".to_vec(), |bytes| bytes[..bytes.len() / 2].to_vec());
        fs::write(directory.path().join("log.new"), half).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!(names(directory.path()), ["log"]);
        acks.extend(append(&journal, 1, round * 30 + 1, round * 30 + 30));
        assert_eq!(names(directory.path()), ["log"]);
        let compacted = journal.compact(Retain::From(acks[acks.len() - 5].position)).unwrap();
        assert_eq!(names(directory.path()), ["log"]);
        assert_eq!(fs::metadata(&path).unwrap().len(), compacted.bytes_after);
        assert!(compacted.bytes_after < compacted.bytes_before);
        assert_eq!(all(&journal).len(), 5);
        assert!(matches!(Journal::open(&path), Err(OpenError::Locked { .. })), "the new file is locked too");
        journal.close().unwrap();
        assert_eq!(names(directory.path()), ["log"]);
    }
    let journal = Journal::open(&path).unwrap();
    assert_eq!(journal.append(1, 60, &payload(60)).wait(), Ok(acks[59]));
}

/// R108: a log that happens to have the name of a compaction's file is neither removed nor overwritten, open or closed.
#[test]
fn a_log_named_as_a_compactions_file_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let [path, beside] = ["log", "log.new"].map(|name| directory.path().join(name));
    let other = Journal::open(&beside).unwrap();
    append(&other, 1, 1, 3);
    let refused = Journal::open(&path).map(drop).unwrap_err();
    assert!(matches!(&refused, OpenError::Locked { path } if *path == beside), "{refused}");
    other.close().unwrap();
    let refused = Journal::open(&path).map(drop).unwrap_err();
    assert!(matches!(&refused, OpenError::Io { path, .. } if *path == beside), "{refused}");
    assert_eq!(all(&Journal::open(&beside).unwrap()).len(), 3);
}

/// A clock that runs something when it is read for the `n`th time from now on.
#[derive(Clone, Default)]
struct Hooked {
    clock: ManualClock,
    hook: Arc<Mutex<Option<(usize, Hook)>>>,
}

type Hook = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooked")
    }
}

impl Hooked {
    fn after(&self, reads: usize, hook: impl FnOnce() + Send + 'static) {
        *self.hook.lock().unwrap() = Some((reads, Box::new(hook)));
    }
}

impl Clock for Hooked {
    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn wall_ms(&self) -> i64 {
        let mut held = self.hook.lock().unwrap();
        let due = match held.take() {
            Some((0, hook)) => Some(hook),
            Some((reads, hook)) => {
                *held = Some((reads - 1, hook));
                None
            }
            None => None,
        };
        drop(held);
        if let Some(hook) = due {
            hook();
        }
        self.clock.wall_ms()
    }
}

/// A compaction is refused, and changes nothing, while another one runs and when the log is closed.
#[test]
fn a_compaction_is_refused_when_it_cannot_be() {
    let clock = Hooked::default();
    let journal = Journal::builder().clock(clock.clone()).open_in_memory(&MemoryDisk::new()).unwrap();
    append(&journal, 1, 1, 100);
    let (inner, refused) = (journal.clone(), Arc::new(AtomicBool::new(false)));
    let seen = Arc::clone(&refused);
    clock.after(0, move || {
        seen.store(matches!(inner.compact(Retain::Bytes(0)), Err(CompactError::Busy)), Ordering::SeqCst);
    });
    journal.compact(Retain::Bytes(0)).unwrap();
    assert!(refused.load(Ordering::SeqCst), "one at a time");
    append(&journal, 1, 101, 200);
    journal.compact(Retain::Bytes(0)).unwrap();
    journal.close().unwrap();
    assert!(matches!(journal.compact(Retain::Bytes(0)), Err(CompactError::Closing)));
}

/// R108: a log that is closed while a compaction runs is over when closing returns: nothing is beside it, and it can be opened.
#[test]
fn closing_ends_a_compaction() {
    let (clock, directory) = (Hooked::default(), tempfile::tempdir().unwrap());
    let path = directory.path().join("log");
    let journal = Journal::builder().clock(clock.clone()).open(&path).unwrap();
    let acks = append(&journal, 1, 1, 50);
    let closed = Arc::new(Mutex::new(None));
    let (closing, seen, path_of) = (journal.clone(), Arc::clone(&closed), path.clone());
    // The third reading is for the header of the file beside the log.
    clock.after(2, move || {
        let closer = closing.clone();
        let found = Arc::clone(&seen);
        thread::spawn(move || {
            closer.close().unwrap();
            *found.lock().unwrap() = Some(names(path_of.parent().unwrap()));
        });
        while closing.append(1, 50, &payload(50)).wait() != Err(Nack::Closing) {
            thread::yield_now();
        }
        for _ in 0..10_000 {
            if seen.lock().unwrap().is_some() {
                break;
            }
            thread::yield_now();
        }
    });
    // As a rule it was too late; but the log may have taken it up just before it ended.
    let kept = match journal.compact(Retain::Bytes(0)) {
        Ok(_) => 0,
        Err(CompactError::Closing) => acks.len(),
        Err(error) => panic!("{error}"),
    };
    journal.close().unwrap();
    let again = Journal::open(&path).unwrap();
    assert_eq!(names(directory.path()), ["log"]);
    assert_eq!(all(&again).len(), kept);
    while closed.lock().unwrap().is_none() {
        thread::yield_now();
    }
    assert_eq!(closed.lock().unwrap().as_deref().unwrap(), ["log"]);
}

#[derive(Debug, Clone)]
enum Step {
    /// Client, number and what is sent.
    Send(u8, u64, u8),
    Next(u8),
    End(u8),
    Compact(u64),
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6_u8, 0..12_u64, 0..2_u8).prop_map(|(client, seq, what)| Step::Send(client, seq, what)),
        6 => (0..6_u8).prop_map(Step::Next),
        1 => (0..6_u8).prop_map(Step::End),
        1 => (0..2_000_u64).prop_map(Step::Compact),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

/// What every sender is answered that sends anything again, on a copy of the disk. A number that would be taken counts as new.
fn answers(options: &Builder, disk: &MemoryDisk) -> Vec<Result<u64, Nack>> {
    let mut answers = Vec::new();
    for client in 0..6 {
        for seq in 0..16 {
            for what in 0..2 {
                // A copy each, since what is taken changes the answers to others.
                let copy = options.clone().open_in_memory(&disk.after(Crash::Process)).unwrap();
                let end = copy.end();
                let answer = copy.append(client, seq, &[what; 60]).wait();
                answers.push(answer.map(|ack| if ack.position >= end { u64::MAX } else { ack.position }));
            }
        }
    }
    answers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// R105, R117: what is remembered is the same live, after opening anew, after a crash and after compactions, whatever the
    /// bounds make it forget: every possible message gets the same answer.
    #[test]
    fn windows_are_the_same_however_they_came_about(
        steps in prop::collection::vec(step(), 1..40),
        window in 1..5_u32,
        clients in 1..5_u32,
        loose in any::<bool>(),
    ) {
        let gaps = if loose { Gaps::Loose } else { Gaps::Strict };
        let options = Journal::builder().gaps(gaps).window(window).clients(clients).durability(Durability::Sync);
        let (mut disk, plain) = (MemoryDisk::new(), MemoryDisk::new());
        let mut journal = options.clone().open_in_memory(&disk).unwrap();
        // The same messages, never compacted, never closed, never opened anew.
        let live = options.clone().open_in_memory(&plain).unwrap();
        let mut next = [1; 6];
        for step in steps {
            let both = |client: u8, seq: u64, what: u8| {
                let [one, other] = [&journal, &live].map(|log| log.append(client.into(), seq, &[what; 60]).wait());
                assert_eq!((one.is_ok(), one.err().map(kind)), (other.is_ok(), other.err().map(kind)));
                one.is_ok()
            };
            match step {
                Step::Send(client, seq, what) => drop(both(client, seq, what)),
                Step::Next(client) => {
                    let next = &mut next[usize::from(client)];
                    *next += u64::from(both(client, *next, 0));
                }
                Step::End(client) => {
                    journal.end_session(client.into()).wait().unwrap();
                    live.end_session(client.into()).wait().unwrap();
                }
                Step::Compact(bytes) => {
                    let before = answers(&options, &disk);
                    journal.compact(Retain::Bytes(bytes)).unwrap();
                    assert_eq!(answers(&options, &disk), before);
                }
                Step::Reopen => {
                    journal.close().unwrap();
                    journal = options.clone().open_in_memory(&disk).unwrap();
                }
                Step::Crash => {
                    disk = disk.after(Crash::Power);
                    journal = options.clone().open_in_memory(&disk).unwrap();
                }
            }
        }
        for (client, seq, what) in (0..6).flat_map(|client| (0..16).flat_map(move |seq| [(client, seq, 0), (client, seq, 1)])) {
            let [one, other] = [&journal, &live].map(|log| log.append(client, seq, &[what; 60]).wait());
            assert_eq!((one.is_ok(), one.err().map(kind)), (other.is_ok(), other.err().map(kind)));
        }
        assert!(journal.stats().clients <= u64::from(clients));
        assert_eq!(journal.stats().clients, live.stats().clients);
    }
}

/// A NACK less the positions, which closing and compacting move.
fn kind(nack: Nack) -> Nack {
    match nack {
        Nack::Differs { .. } => Nack::Differs { position: 0 },
        other => other,
    }
}
