//! The n-th call to the disk fails while a log is written, compacted and opened again, or salvaged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::compact::start;
use super::faults_test::{Stepped, builder};
use super::place::fresh_name;
use super::*;
use crate::builder::Crash;
use crate::faults::Call;
use crate::faults_test::{Fault, sweep, typed, with_fault};

const CLIENTS: [u128; 2] = [1, 2];

/// A message's payload is a function of its name.
fn payload(client: u128, seq: u64) -> Vec<u8> {
    format!("{client}: {seq} {}", "x".repeat(usize::try_from(seq).unwrap() * 7 % 90)).into_bytes()
}

/// What the senders were told.
#[derive(Default)]
struct Told {
    acked: BTreeMap<(u128, u64), Ack>,
    /// Answered `Io`, and not yet anything better.
    unknown: BTreeSet<(u128, u64)>,
    /// What stands from here on is to be kept.
    retained: u64,
}

fn open(place: &Place) -> Result<Stepped, OpenError> {
    let (writer, _) = builder(Durability::Sync).writer(place.clone())?;
    Ok(Stepped { shared: writer.shared(), writer })
}

impl Told {
    fn last(&self, client: u128) -> u64 {
        self.acked.range((client, 0)..=(client, u64::MAX)).next_back().map_or(0, |((_, seq), _)| *seq)
    }

    /// Each client's next message, so often, and one that it has sent before.
    fn send(&mut self, log: &mut Stepped, turns: u64) {
        for _ in 0..turns {
            let next = |client| [self.last(client) + 1, self.last(client) + 2, self.last(client).div_ceil(2).max(1)];
            let names: Vec<_> = CLIENTS.iter().flat_map(|client| next(*client).map(|seq| (*client, seq))).collect();
            let receipts: Vec<_> = names.iter().map(|(of, seq)| log.send(*of, *seq, &payload(*of, *seq))).collect();
            log.writer.turn();
            for (name, receipt) in names.into_iter().zip(receipts) {
                match receipt.answer().expect("answered in the turn") {
                    Ok(ack) => {
                        assert!(self.acked.insert(name, ack).is_none_or(|before| before == ack), "{name:?}");
                        self.unknown.remove(&name);
                    }
                    Err(Nack::Io { .. }) if self.acked.contains_key(&name) => {}
                    Err(Nack::Io { .. }) => drop(self.unknown.insert(name)),
                    Err(nack) => panic!("{nack}"),
                }
            }
        }
    }

    /// Drops the older half of what is retained.
    fn compact(&mut self, log: &mut Stepped, place: &Place) {
        let kept: BTreeSet<u64> =
            self.acked.values().map(|ack| ack.position).filter(|at| *at >= self.retained).collect();
        let Some(middle) = kept.iter().nth(kept.len() / 2) else { return };
        // It may have taken effect, whatever it says.
        self.retained = *middle;
        let started = start(&log.shared, place, builder(Durability::Sync).terms, Retain::From(*middle));
        let Some(started) = typed(started) else { return };
        log.writer.turn();
        typed(started.wait(place));
    }

    /// Four openings. In all but the last the log is compacted between messages; the second finds what a compaction left behind.
    fn whole_life(place: &Place) -> Self {
        let mut told = Self::default();
        for opening in 0..4 {
            if let (Place::File(path), 1) = (place, opening) {
                fs::write(fresh_name(path), b"").unwrap();
            }
            let Some(mut log) = typed(open(place)) else { continue };
            told.send(&mut log, 4);
            if opening < 3 {
                told.compact(&mut log, place);
            }
            told.send(&mut log, 2);
            log.close();
        }
        told
    }

    /// What was acknowledged is there, each once, and is answered as before; and it goes on.
    fn is_kept(&self, what: &str, place: &Place) {
        let mut log = open(place).unwrap_or_else(|error| panic!("{what}: {error}"));
        let source = log.shared.source();
        let found = Messages::new(&source, source.first).unwrap().map(Result::unwrap);
        let found: BTreeMap<u64, Message> = found.map(|found| (found.position, found)).collect();
        for (&(client, seq), ack) in self.acked.iter().filter(|(_, ack)| ack.position >= self.retained) {
            let there = found.get(&ack.position).map(|found| (found.client, found.seq, found.payload.clone()));
            assert_eq!(there, Some((client, seq, payload(client, seq))), "{what}: was acknowledged");
        }
        let names: BTreeSet<_> = found.values().map(|found| (found.client, found.seq)).collect();
        assert_eq!(names.len(), found.len(), "{what}: each once");
        let sent = |name: &(u128, u64)| self.acked.contains_key(name) || self.unknown.contains(name);
        assert!(names.iter().all(sent), "{what}: {names:?}");
        let again: Vec<_> = self.acked.keys().map(|(of, seq)| log.send(*of, *seq, &payload(*of, *seq))).collect();
        let next =
            CLIENTS.map(|client| log.send(client, self.last(client) + 1, &payload(client, self.last(client) + 1)));
        log.writer.turn();
        for ((name, ack), receipt) in self.acked.iter().zip(again) {
            assert_eq!(receipt.answer(), Some(Ok(*ack)), "{what}: {name:?} again");
        }
        assert!(next.iter().all(|receipt| matches!(receipt.answer(), Some(Ok(_)))), "{what}: the next");
        log.close();
        if let Place::File(path) = place {
            assert!(!fresh_name(path).exists(), "{what}: a file is left over");
        }
    }
}

/// Not of a log: what the engine does.
const NOT_MADE: [Call; 7] = [
    Call::StoreOpen,
    Call::StoreRead,
    Call::Apply,
    Call::ApplyPart,
    Call::Applied,
    Call::Checkpoint,
    Call::Checkpointed,
];

/// What is made of neither.
fn without(more: &[Call]) -> Vec<Call> {
    [&NOT_MADE, more].concat()
}

/// R55, R111: what a log acknowledged, after any call to the disk that failed, once and from then on, also while it is compacted.
#[test]
fn the_nth_call_that_fails_loses_no_message() {
    let live = |fault| {
        let disk = MemoryDisk::new();
        let (told, faults) = with_fault(fault, || Told::whole_life(&Place::Memory(disk.clone())));
        ((disk, told), faults)
    };
    sweep("messages, memory", 4, &without(&[Call::Open, Call::Remove]), live, |what, (disk, told)| {
        for crash in [Crash::Power, Crash::Process] {
            told.is_kept(&format!("{what}, {crash:?}"), &Place::Memory(disk.after(crash)));
        }
        told.acked.len()
    });
}

/// R55, R111: the same of a log in a file, whose names fail, too.
#[test]
fn the_nth_call_that_fails_in_a_directory_loses_no_message() {
    let base = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = base.path().join("log");
    let live = |fault| with_fault(fault, || Told::whole_life(&Place::File(path.clone())));
    sweep("messages, directory", 4, &without(&[]), live, |what, told| {
        told.is_kept(what, &Place::File(path.clone()));
        fs::remove_file(&path).unwrap();
        told.acked.len()
    });
}

/// A log in a file, with damage in its middle.
fn damaged(path: &Path) {
    let journal = builder(Durability::Sync).open(path).unwrap();
    let acks: Vec<Ack> = (1..=20).map(|seq| journal.append(1, seq, &payload(1, seq)).wait().unwrap()).collect();
    journal.close().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[usize::try_from(acks[7].position).unwrap() + 60] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// R55, R107: a salvage in which any call to the disk fails leaves the damaged log as it is, and no new one that is not whole; one that is
/// told as done is.
#[test]
fn the_nth_call_that_fails_in_a_salvage_loses_nothing() {
    let base = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let [from, to, model] = ["log", "mended", "model"].map(|name| base.path().join(name));
    damaged(&from);
    let before = fs::read(&from).unwrap();
    let whole = salvage(&from, &model).unwrap();
    assert_eq!((whole.entries, whole.lost.len()), (19, 1));
    let live = |fault: Option<Fault>| {
        let (done, faults) = with_fault(fault, || typed(salvage(&from, &to)));
        ((done, fault.is_some_and(|fault| fault.lasting)), faults)
    };
    sweep("salvage", 8, &without(&[Call::Remove]), live, |what, (done, lasting)| {
        assert!(fs::read(&from).unwrap() == before, "{what}: the damaged log is another");
        assert!(done.is_some() || lasting || !to.exists(), "{what}: said to be nothing");
        assert!(done.as_ref().is_none_or(|done| *done == whole), "{what}: {done:?}");
        if !to.exists() {
            assert_eq!(salvage(&from, &to).unwrap(), whole, "{what}: another time");
        }
        let sent = |path: &Path| {
            let journal = builder(Durability::Os).open(path).unwrap();
            let all = journal.read(journal.first()).unwrap().map(Result::unwrap);
            all.map(|message| (message.position, message.seq, message.payload)).collect::<Vec<_>>()
        };
        assert_eq!(sent(&to), sent(&model), "{what}");
        assert!(!fresh_name(&to).exists(), "{what}: a file is left over");
        fs::remove_file(&to).unwrap();
        sent(&model).len()
    });
}
