//! Message logs on devices that fail at random, crash and are opened anew, against what the answers said.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::faults_test::{Stepped, builder, content};
use super::*;
use crate::builder::Crash;

const CLIENTS: u128 = 3;
/// Numbers remembered of a client: so few that answers are forgotten.
const WINDOW: u32 = 6;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A client's next number, for all it knows.
    Next(u128),
    /// A number relative to that: a repeat, an old one, or one too far.
    Other(u128, i8),
    /// The next number, with another payload.
    Differs(u128),
    End(u128),
    TooLong(u128),
    Turn,
    Room(usize),
    Syncs(u64),
    Truncations(u64),
    Heal,
    Reopen(Break),
}

/// How a log comes to be opened anew.
#[derive(Debug, Clone, Copy)]
enum Break {
    Closed,
    Crash,
    /// The power is cut; of what was not synced this part of 256 is there.
    PowerCut(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    let breaks = prop_oneof![Just(Break::Closed), Just(Break::Crash), any::<u8>().prop_map(Break::PowerCut)];
    prop_oneof![
        12 => client.clone().prop_map(Step::Next),
        3 => (client.clone(), -9..4_i8).prop_map(|(client, by)| Step::Other(client, by)),
        1 => client.clone().prop_map(Step::Differs),
        1 => client.clone().prop_map(Step::End),
        1 => client.prop_map(Step::TooLong),
        6 => Just(Step::Turn),
        2 => (0..900_usize).prop_map(Step::Room),
        1 => (0..3_u64).prop_map(Step::Syncs),
        1 => (0..2_u64).prop_map(Step::Truncations),
        3 => Just(Step::Heal),
        1 => breaks.prop_map(Step::Reopen),
    ]
}

type Name = (u128, u64, bool);

/// A message's payload is a function of its name.
fn payload(name: Name) -> Vec<u8> {
    let (client, seq, differs) = name;
    let len = usize::try_from(seq * 7 % 90).unwrap();
    let mut bytes = vec![if differs { b'd' } else { b'm' }; len + 1];
    bytes.extend_from_slice(&client.to_be_bytes()[15..]);
    bytes
}

/// What the senders know.
#[derive(Debug, Default)]
struct Told {
    calls: u64,
    answers: u64,
    acked: BTreeMap<Name, u64>,
    /// Answered `Io`, and not yet anything better.
    unknown: BTreeSet<Name>,
    /// Each client's highest number that was acknowledged.
    last: BTreeMap<u128, u64>,
}

struct Run {
    durability: Durability,
    gaps: Gaps,
    disk: MemoryDisk,
    log: Option<Stepped>,
    told: Told,
    /// Each client's last number handed in since the last turn.
    sent: BTreeMap<u128, u64>,
    open: Vec<(Option<Name>, Receipt)>,
    failed: bool,
}

impl Run {
    fn new(durability: Durability, gaps: Gaps) -> Self {
        let disk = MemoryDisk::new();
        let log = Some(Stepped::open(&Self::builder(durability, gaps), &disk));
        let (told, sent, open) = (Told::default(), BTreeMap::new(), Vec::new());
        Self { durability, gaps, disk, log, told, sent, open, failed: false }
    }

    fn builder(durability: Durability, gaps: Gaps) -> Builder {
        builder(durability).gaps(gaps).window(WINDOW)
    }

    fn log(&mut self) -> &mut Stepped {
        self.log.as_mut().unwrap()
    }

    fn send(&mut self, name: Name) {
        let receipt = self.log().send(name.0, name.1, &payload(name));
        self.told.calls += 1;
        self.open.push((Some(name), receipt));
    }

    fn next(&self, client: u128) -> u64 {
        self.sent.get(&client).or(self.told.last.get(&client)).map_or(1, |last| last + 1)
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Next(client) => {
                let seq = self.next(client);
                self.sent.insert(client, seq);
                self.send((client, seq, false));
            }
            Step::Other(client, by) => {
                let seq = self.next(client).saturating_add_signed(by.into());
                self.send((client, seq, false));
            }
            Step::Differs(client) => self.send((client, self.next(client).saturating_sub(1), true)),
            Step::End(client) => {
                let receipt = self.log().shared.send(Sent::End, client, 0, &[]);
                self.told.calls += 1;
                self.open.push((None, receipt));
            }
            Step::TooLong(client) => {
                let refused = self.log().send(client, 1, &[0; 257]);
                self.told.calls += 1;
                self.told.answers += 1;
                let answer = refused.answer().unwrap();
                assert!(matches!(answer, Err(Nack::TooLong { bytes: 257, cap: 256 } | Nack::Io { .. })), "{answer:?}");
            }
            Step::Turn => self.turn(),
            Step::Room(bytes) => self.disk.journal().fail_append_after(bytes),
            Step::Syncs(syncs) => self.disk.journal().fail_sync_after(syncs),
            Step::Truncations(truncations) => self.disk.journal().fail_truncate_after(truncations),
            Step::Heal => self.disk.journal().heal(),
            Step::Reopen(how) => self.reopen(how),
        }
    }

    fn turn(&mut self) {
        self.log().writer.turn();
        self.listen();
        assert_eq!(self.log().shared.queued_bytes(), 0);
    }

    /// Notes the answers: every receipt has one.
    fn listen(&mut self) {
        self.sent.clear();
        let mut full: BTreeSet<u128> = BTreeSet::new();
        for (name, receipt) in std::mem::take(&mut self.open) {
            let answer = receipt.answer().expect("every message is answered in the next turn, or at closing");
            self.told.answers += 1;
            self.failed |= matches!(answer, Err(Nack::Io { .. }));
            let Some(name) = name else { continue };
            match answer {
                Ok(Ack { position, .. }) => {
                    assert!(!full.contains(&name.0) || self.told.acked.contains_key(&name), "written behind a hole");
                    self.acked(name, position);
                }
                Err(Nack::Io { .. }) => drop(self.told.unknown.insert(name)),
                Err(Nack::Full) => drop(full.insert(name.0)),
                Err(Nack::Differs { position }) => {
                    let other = (name.0, name.1, !name.2);
                    assert!(self.told.acked.get(&other).is_none_or(|known| *known == position));
                    self.told.acked.insert(other, position);
                    assert!(!self.told.acked.contains_key(&name), "{name:?} cannot be both");
                    self.told.unknown.remove(&other);
                    self.told.unknown.remove(&name);
                }
                Err(Nack::Gap { .. }) => {
                    assert_eq!(self.gaps, Gaps::Strict);
                    // Nothing is there that would not follow.
                    self.told.unknown.remove(&name);
                }
                Err(Nack::Expired { .. } | Nack::Closing) => {}
                Err(nack) => panic!("{nack}"),
            }
        }
    }

    fn acked(&mut self, name: Name, position: u64) {
        let before = self.told.acked.insert(name, position);
        assert!(before.is_none_or(|before| before == position), "{name:?}: the first answer again");
        self.told.unknown.remove(&name);
        let last = self.told.last.entry(name.0).or_default();
        *last = name.1.max(*last);
    }

    /// Ends the log in some way, opens it anew, and compares.
    fn reopen(&mut self, how: Break) {
        let log = self.log.take().unwrap();
        let shared = log.writer.shared();
        if matches!(how, Break::Closed) {
            log.close();
        } else {
            drop(log);
        }
        let found = match how {
            Break::Closed | Break::Crash => self.disk.after(Crash::Process),
            Break::PowerCut(part) => {
                // Other classes promise nothing then.
                let all = self.disk.journal().bytes();
                let synced = if self.durability == Durability::Sync { self.disk.journal().synced() } else { all.len() };
                let kept = synced + (all.len() - synced) * usize::from(part) / 256;
                MemoryDisk::from_journal(&all[..kept])
            }
        };
        // Whatever was not answered before the crash is answered by its end.
        shared.end();
        self.listen();
        let stats = &shared.counts;
        assert_eq!(
            stats.taken.value() + stats.repeats.value() + stats.refused.value(),
            self.told.calls,
            "every call is counted once"
        );
        assert_eq!(std::mem::take(&mut self.told.answers), std::mem::take(&mut self.told.calls), "one answer a call");
        self.failed = false;
        self.disk = found;
        self.compare();
        let builder = Self::builder(self.durability, self.gaps);
        self.log = Some(Stepped::open(&builder, &self.disk));
        self.resend();
    }

    /// What was acknowledged is in the file, where it was said to be; nothing else is but what is unknown; each is there once.
    fn compare(&mut self) {
        let found = content(&self.disk);
        let mut there = BTreeMap::new();
        for message in found.iter().filter(|message| message.kind == Kind::Message) {
            let name = (message.client, message.seq, message.payload[0] == b'd');
            assert_eq!(message.payload, payload(name));
            assert!(there.insert(name, message.position).is_none(), "{name:?} is there twice");
            assert!(!there.contains_key(&(name.0, name.1, !name.2)), "{name:?} and another under its number");
        }
        for (name, position) in &self.told.acked {
            assert_eq!(there.get(name), Some(position), "{name:?} was acknowledged");
        }
        for name in there.keys() {
            assert!(self.told.acked.contains_key(name) || self.told.unknown.contains(name), "{name:?} was refused");
        }
        if self.gaps == Gaps::Strict {
            for client in 0..CLIENTS {
                let of = found.iter().filter(|message| message.client == client && message.kind == Kind::Message);
                assert!(of.zip(1..).all(|(message, seq)| message.seq == seq), "without a hole, in order");
            }
        }
        self.told.last = BTreeMap::new();
        for name in there.keys() {
            let last = self.told.last.entry(name.0).or_default();
            *last = name.1.max(*last);
        }
    }

    /// Whatever was answered `Io` is sent again: now there is an answer, and the file holds it once or not at all.
    fn resend(&mut self) {
        let unknown: Vec<Name> = std::mem::take(&mut self.told.unknown).into_iter().collect();
        for name in &unknown {
            self.send(*name);
        }
        // Only what has too many numbers behind it cannot be told any more.
        self.told.unknown = unknown.iter().copied().collect();
        self.turn();
        let found = content(&self.disk);
        for (client, seq, _) in &self.told.unknown {
            let behind = found.iter().filter(|message| message.client == *client && message.seq > *seq);
            let never = *seq == 0 && self.gaps == Gaps::Strict;
            assert!(never || behind.count() >= WINDOW as usize, "the device works: there is an answer");
        }
        self.compare();
    }
}

fn session(durability: Durability, gaps: Gaps, steps: Vec<Step>) {
    let mut run = Run::new(durability, gaps);
    for step in steps {
        run.step(step);
    }
    run.step(Step::Heal);
    run.reopen(Break::Crash);
    for client in 0..CLIENTS {
        run.step(Step::Next(client));
    }
    run.turn();
    assert!(!run.failed);
    run.reopen(Break::Closed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// R106, R111, R117: whatever fails and whenever it is opened anew: as many answers as calls, and all of them true.
    #[test]
    fn every_answer_is_true_of_the_file(
        durability in prop_oneof![Just(Durability::Sync), Just(Durability::Os), Just(Durability::Every(std::time::Duration::ZERO))],
        gaps in prop_oneof![3 => Just(Gaps::Strict), 1 => Just(Gaps::Loose)],
        steps in prop::collection::vec(step(), 1..120),
    ) {
        session(durability, gaps, steps);
    }
}
