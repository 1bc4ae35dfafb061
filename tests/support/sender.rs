//! A message log beside the hub: what a working process sends to it, and whether it is there afterwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use commissary::messages::{Journal, Message, Retain};
use commissary::{Durability, OpenError};

use crate::toil::{Chance, say};

const CLIENTS: u128 = 2;
/// Messages that a compaction keeps.
const KEPT: usize = 40;

fn place(hub: &Path) -> PathBuf {
    let mut path = hub.as_os_str().to_os_string();
    path.push(".log");
    path.into()
}

/// A message's payload is a function of its name.
fn payload(client: u128, seq: u64) -> Vec<u8> {
    format!("{client}: {seq} {}", "x".repeat(usize::try_from(seq * 7 % 90).unwrap())).into_bytes()
}

fn messages(journal: &Journal) -> Vec<Message> {
    journal.read(journal.first()).unwrap().map(Result::unwrap).collect()
}

/// Sends and compacts until it is killed, or its steps are done.
pub(crate) fn send(hub: &Path, durability: Durability, mut chance: Chance, steps: u64) {
    let journal = Journal::builder().durability(durability).open(place(hub)).unwrap();
    let found = messages(&journal);
    let mut positions: Vec<u64> = found.iter().map(|message| message.position).collect();
    let mut last: BTreeMap<u128, u64> = found.iter().map(|message| (message.client, message.seq)).collect();
    for _ in 0..steps {
        for client in 1..=CLIENTS {
            let seq = last.get(&client).map_or(1, |last| last + 1);
            say(&format!("send {client} {seq}"));
            let ack = journal.append(client, seq, &payload(client, seq)).wait().unwrap();
            say(&format!("sent {client} {seq} {}", ack.position));
            last.insert(client, seq);
            positions.push(ack.position);
        }
        if positions.len() > KEPT && chance.one_in(16) {
            let cut = positions[positions.len() - KEPT];
            say(&format!("cut {cut}"));
            journal.compact(Retain::From(cut)).unwrap();
            positions.retain(|position| *position >= cut);
        }
    }
    journal.close().unwrap();
}

/// What the senders said.
#[derive(Default)]
pub(crate) struct Sent {
    /// By client and number: the position of what was acknowledged.
    all: BTreeMap<(u128, u64), Option<u64>>,
    /// What stands before it may have been dropped.
    kept_from: u64,
}

impl Sent {
    pub(crate) fn hear(&mut self, words: &[&str]) {
        let number = |word: &str| word.parse::<u64>().unwrap();
        match *words {
            ["send", client, seq] => _ = self.all.entry((number(client).into(), number(seq))).or_default(),
            ["sent", client, seq, position] => {
                let before = self.all.insert((number(client).into(), number(seq)), Some(number(position)));
                // Who finds its last message in the log does not send it again.
                assert_eq!(before.flatten(), None, "{words:?}: it was acknowledged before, and lost");
            }
            ["cut", position] => self.kept_from = number(position),
            _ => panic!("the child said {words:?}"),
        }
    }

    /// Each message that was acknowledged is where it was said to be, once; and nothing that nobody sent.
    pub(crate) fn check(&self, hub: &Path) {
        if self.all.is_empty() && !place(hub).exists() {
            return;
        }
        let journal = opened(&place(hub));
        let found = messages(&journal);
        let by_name: BTreeMap<_, _> = found.iter().map(|found| ((found.client, found.seq), found)).collect();
        assert_eq!(by_name.len(), found.len(), "a message is there twice");
        for (name, position) in &self.all {
            let Some(position) = position.filter(|position| *position >= self.kept_from) else { continue };
            let there = by_name.get(name).map(|message| message.position);
            assert_eq!(there, Some(position), "the acknowledged message {name:?}");
        }
        for ((client, seq), message) in by_name {
            assert!(self.all.contains_key(&(client, seq)), "nobody sent {seq} of {client}");
            assert_eq!(message.payload, payload(client, seq));
        }
        journal.close().unwrap();
    }
}

/// A child that another test just started may hold it, until it runs its own program.
fn opened(log: &Path) -> Journal {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        match Journal::open(log) {
            Err(OpenError::Locked { .. }) if Instant::now() < patience => thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}
