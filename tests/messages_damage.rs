//! Damaged message logs: cut, or refused at the damage; never a message lost in silence that good ones follow, never a wrong one.

use std::fs;

use commissary::messages::{Builder, Journal, Message, Retain};
use commissary::{Durability, JournalError, MemoryDisk, OpenError};
use proptest::prelude::*;

const HEADER: usize = 32;
const HEAD: usize = 12;
const KIND_GROUP: u8 = 0;

/// A log's bytes, and what is in them.
struct Sample {
    bytes: Vec<u8>,
    base: u64,
    frames: Vec<Frame>,
    messages: Vec<Message>,
    /// Frames up to which it does not count as whole: those that a compaction wrote.
    seal: usize,
}

#[derive(Clone, Copy)]
struct Frame {
    start: usize,
    end: usize,
    is_group: bool,
    /// Messages in the log before it.
    before: usize,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + N].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn builder() -> Builder {
    Journal::builder().durability(Durability::Os)
}

/// What opening these bytes finds.
fn open(bytes: &[u8]) -> Result<Vec<Message>, OpenError> {
    let journal = builder().open_in_memory(&MemoryDisk::from_journal(bytes))?;
    let messages = journal.read(journal.first()).unwrap().map(Result::unwrap).collect();
    journal.close().unwrap();
    Ok(messages)
}

impl Sample {
    fn new(bytes: Vec<u8>) -> Self {
        let messages = open(&bytes).unwrap();
        let base = number::<8>(&bytes, 12);
        let (mut frames, mut start) = (Vec::new(), HEADER);
        let mut seal = if number::<2>(&bytes, 10) & 1 == 0 { Some(0) } else { None };
        while start < bytes.len() {
            let end = start + HEAD + usize::try_from(number::<4>(&bytes, start)).unwrap();
            let is_group = bytes[start + HEAD + 1] == KIND_GROUP;
            let position = base + (start - HEADER) as u64;
            let before = messages.iter().filter(|message| message.position < position).count();
            frames.push(Frame { start, end, is_group, before });
            if seal.is_none() && is_group && number::<8>(&bytes, start + HEAD + 6) > base {
                seal = Some(frames.len());
            }
            start = end;
        }
        assert_eq!(start, bytes.len());
        Self { bytes, base, frames, messages, seal: seal.unwrap() }
    }

    fn position(&self, frame: usize) -> u64 {
        let start = self.frames.get(frame).map_or(self.bytes.len(), |frame| frame.start);
        self.base + (start - HEADER) as u64
    }

    /// Opens damaged bytes, in which the frames up to `bad` are whole, and behind which there is a good one, or not.
    fn check(&self, what: &str, damaged: &[u8], bad: usize, good_behind: bool) {
        let position = self.position(bad);
        match open(damaged) {
            Ok(messages) => {
                assert!(!good_behind && bad >= self.seal, "{what}: not refused");
                let before = self.frames.get(bad).map_or(self.messages.len(), |frame| frame.before);
                assert_eq!(messages, self.messages[..before], "{what}");
            }
            Err(OpenError::Journal(JournalError::Corrupt { position: at, .. })) => {
                assert!(good_behind || bad < self.seal, "{what}: refused, though a crash may have left it behind");
                assert_eq!(at, position, "{what}");
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }

    /// Opens bytes of the same length in which some were changed.
    fn check_changed(&self, what: &str, damaged: &[u8]) {
        assert_eq!(damaged.len(), self.bytes.len());
        let same = |from: usize, to: usize| damaged[from..to] == self.bytes[from..to];
        if !same(0, HEADER) {
            let error = open(damaged).expect_err(what);
            let at_the_front = matches!(
                error,
                OpenError::Journal(JournalError::Corrupt { position: 0, .. } | JournalError::NotAJournal)
            );
            assert!(at_the_front, "{what}: {error}");
            return;
        }
        let bad = self.frames.iter().position(|frame| !same(frame.start, frame.end)).unwrap_or(self.frames.len());
        let good_behind = self.frames.iter().skip(bad + 1).any(|frame| same(frame.start, frame.end));
        self.check(what, damaged, bad, good_behind);
    }
}

/// Small logs with several clients and groups: closed in order, after a crash, and both again after a compaction.
fn samples() -> Vec<(&'static str, Sample)> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let read = || Sample::new(fs::read(&path).unwrap());
    let journal = builder().open(&path).unwrap();
    let send = |journal: &Journal, client: u128, from: u64| {
        let receipts: Vec<_> = (from..from + 2).map(|seq| journal.append(client, seq, &[b'a'; 3])).collect();
        receipts.into_iter().map(|receipt| receipt.wait().unwrap().position).collect::<Vec<_>>()
    };
    send(&journal, 1, 1);
    send(&journal, 2, 1);
    journal.append(2, 3, b"").wait().unwrap();
    journal.end_session(1).wait().unwrap();
    let mut samples = vec![("crashed", read())];
    journal.close().unwrap();
    samples.push(("closed", read()));
    let journal = builder().open(&path).unwrap();
    let keep = send(&journal, 3, 1)[0];
    samples.push(("closed, then crashed", read()));
    assert_eq!(journal.compact(Retain::From(keep)).unwrap().first, keep - 43, "the group's start");
    samples.push(("compacted", read()));
    send(&journal, 2, 4);
    samples.push(("compacted, then crashed", read()));
    journal.close().unwrap();
    samples.push(("compacted, closed", read()));
    samples
}

/// R107: each flipped bit of each byte is found: what follows is refused at the damaged frame's position, or that was the last frame.
#[test]
fn every_flipped_bit_is_found() {
    for (name, sample) in samples() {
        for at in 0..sample.bytes.len() {
            for bit in 0..8 {
                let mut damaged = sample.bytes.clone();
                damaged[at] ^= 1 << bit;
                sample.check_changed(&format!("{name}: bit {bit} of byte {at}"), &damaged);
            }
        }
    }
}

/// R107: no flipped bit of any message of a log that was closed in order goes unrefused: its last frame says that all is synced.
#[test]
fn a_log_closed_in_order_ends_with_a_mark() {
    for (name, sample) in samples() {
        let last = sample.frames.last().unwrap();
        assert_eq!(last.is_group, name.ends_with("closed") || name == "compacted", "{name}");
        assert!(sample.messages.len() >= 2);
    }
}

/// R107: cut anywhere, a log opens with the messages before the cut; one that a compaction began is refused until it is whole.
#[test]
fn every_truncation_leaves_a_prefix() {
    for (name, sample) in samples() {
        for len in 0..sample.bytes.len() {
            let what = format!("{name}: the first {len} bytes");
            if len < HEADER {
                assert_eq!(open(&sample.bytes[..len]).expect(&what), [], "{what}: as never begun");
                continue;
            }
            let whole = sample.frames.iter().take_while(|frame| frame.end <= len).count();
            sample.check(&what, &sample.bytes[..len], whole, false);
            goes_on(&what, &sample.bytes[..len]);
        }
    }
}

/// What was opened takes more, and holds it when it is opened again.
fn goes_on(what: &str, bytes: &[u8]) {
    let disk = MemoryDisk::from_journal(bytes);
    let Ok(journal) = builder().open_in_memory(&disk) else { return };
    let mut expected: Vec<Message> = journal.read(journal.first()).unwrap().map(Result::unwrap).collect();
    let position = journal.append(99, 1, b"more").wait().unwrap().position;
    expected.push(journal.read(position).unwrap().next().unwrap().unwrap());
    journal.close().unwrap();
    let journal = builder().open_in_memory(&disk).unwrap();
    assert_eq!(journal.report().cut, None, "{what}");
    assert!(journal.read(journal.first()).unwrap().map(Result::unwrap).eq(expected), "{what}");
}

/// R107: zeros to the end from anywhere, as a crash may leave them, are cut like a torn tail.
#[test]
fn every_tail_of_zeros_is_cut() {
    for (name, sample) in samples() {
        for at in 0..sample.bytes.len() {
            let mut damaged = sample.bytes.clone();
            damaged[at..].fill(0);
            sample.check_changed(&format!("{name}: zeros from {at}"), &damaged);
            // And a file that was made longer before it was written.
            if at >= HEADER {
                damaged.resize(damaged.len() + 600, 0);
                let whole = sample.frames.iter().take_while(|frame| frame.end <= at).count();
                let bad = sample
                    .frames
                    .iter()
                    .position(|frame| damaged[frame.start..frame.end] != sample.bytes[frame.start..frame.end]);
                sample.check(
                    &format!("{name}: zeros from {at} and on"),
                    &damaged,
                    bad.unwrap_or(sample.frames.len()).max(whole),
                    false,
                );
            }
        }
    }
}

/// R107: a hole of zeros anywhere is refused where it begins, if anything good is behind it.
#[test]
fn every_hole_of_zeros_is_found() {
    for (name, sample) in samples() {
        for len in [512, 100, 8] {
            for at in 0..sample.bytes.len().saturating_sub(len) {
                let mut damaged = sample.bytes.clone();
                damaged[at..at + len].fill(0);
                sample.check_changed(&format!("{name}: {len} zeros from {at}"), &damaged);
            }
        }
    }
}

/// R107: a removed, duplicated or swapped frame, and one of another log, is found by the chain, and its position named.
#[test]
fn every_frame_out_of_its_place_is_found() {
    let other = samples();
    for ((name, sample), (_, other)) in samples().into_iter().zip(other) {
        let frame = |of: &Sample, frame: usize| of.bytes[of.frames[frame].start..of.frames[frame].end].to_vec();
        let original: Vec<Vec<u8>> = (0..sample.frames.len()).map(|at| frame(&sample, at)).collect();
        let check = |what: String, frames: &[Vec<u8>]| {
            let same = frames.iter().zip(&original).take_while(|(one, two)| one == two).count();
            let damaged = [&sample.bytes[..HEADER], &frames.concat()].concat();
            sample.check(&format!("{name}: {what}"), &damaged, same, frames.len() > same);
        };
        for at in 0..original.len() {
            let mut frames = original.clone();
            frames.remove(at);
            check(format!("frame {at} removed"), &frames);
            for to in at..=original.len() {
                let mut frames = original.clone();
                frames.insert(to, original[at].clone());
                check(format!("frame {at} again before {to}"), &frames);
            }
            for with in at + 1..original.len() {
                let mut frames = original.clone();
                frames.swap(at, with);
                check(format!("frames {at} and {with} swapped"), &frames);
            }
            if at < other.frames.len() {
                let mut frames = original.clone();
                frames[at] = frame(&other, at);
                assert_ne!(frames[at], original[at], "begun at another time, hence another chain");
                check(format!("frame {at} of another log"), &frames);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// R107: damage in many places at once: refused at the first, if anything good is behind it, and cut there otherwise.
    #[test]
    fn damage_in_many_places_is_found_at_the_first(
        which in 0..6_usize,
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        thread_local!(static SAMPLES: Vec<(&'static str, Sample)> = samples());
        SAMPLES.with(|samples| {
            let (name, sample) = &samples[which];
            let mut damaged = sample.bytes.clone();
            for (place, byte) in &places {
                damaged[place.index(sample.bytes.len())] = *byte;
            }
            sample.check_changed(&format!("{name}: {places:?}"), &damaged);
        });
    }
}
