//! Commands that could not be executed: which, how often, and the leases that keep their lanes from everyone.

use arc_swap::ArcSwap;

use crate::events::KeyBytes;
use crate::id::LeaseToken;
use crate::lane::LaneKey;
use crate::service::Key;
use crate::sync::Arc;

/// Why a command was not executed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) key: KeyBytes,
    pub(super) why: String,
}

impl Failure {
    pub(super) fn new(key: KeyBytes, why: impl Into<String>) -> Self {
        Self { key, why: why.into() }
    }
}

/// A command that could not be executed, and keeps its lane waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedCommand {
    /// Its lane; `None` if it is of none.
    pub lane: Option<LaneKey>,
    /// Its key.
    pub key: KeyBytes,
    /// How often it was tried.
    pub tries: u32,
    /// What went wrong the last time: a panic's message, or the reason of a refusal.
    pub why: String,
    /// It is not tried again by itself.
    pub is_set_aside: bool,
}

impl FailedCommand {
    /// Its key; `None` if it is no key of this type.
    #[must_use]
    pub fn key<K: Key>(&self) -> Option<K> {
        self.key.read()
    }
}

#[derive(Debug, Clone)]
struct Aside {
    command: FailedCommand,
    /// The lease that is held for it.
    token: Option<LeaseToken>,
    /// Hub time, ms, at which that is given back.
    due: u64,
}

/// The list; it is short, changed seldom, and read with each bucket.
#[derive(Debug, Default)]
pub(super) struct Asides(ArcSwap<Vec<Arc<Aside>>>);

impl Asides {
    pub(super) fn is_empty(&self) -> bool {
        self.0.load().is_empty()
    }

    pub(super) fn list(&self) -> Vec<FailedCommand> {
        self.0.load().iter().map(|aside| aside.command.clone()).collect()
    }

    /// How many are to be tried again, and how many are set aside.
    pub(super) fn count(&self) -> (usize, usize) {
        let list = self.0.load();
        let set_aside = list.iter().filter(|aside| aside.command.is_set_aside).count();
        (list.len() - set_aside, set_aside)
    }

    /// Notes a failure, in place of what was known of that lane; says how often the command was tried with this time. `terms`
    /// says of that number whether it is set aside, and when its lease is given back.
    ///
    /// The number is read and written as one: who asks for a retry meanwhile gets all tries anew.
    pub(super) fn put(
        &self,
        lane: Option<&LaneKey>,
        failure: &Failure,
        token: LeaseToken,
        terms: impl Fn(u32) -> (bool, u64),
    ) -> u32 {
        let Failure { key, why } = failure;
        let is_same = |old: &Aside| old.command.lane.as_ref() == lane && (lane.is_some() || old.command.key == *key);
        let mut tries = 1;
        self.0.rcu(|list| {
            let before = list.iter().find(|old| is_same(old) && old.command.key == *key);
            tries = before.map_or(0, |old| old.command.tries).saturating_add(1);
            let (is_set_aside, due) = terms(tries);
            let (lane, key, why) = (lane.cloned(), key.clone(), why.clone());
            let command = FailedCommand { lane, key, tries, why, is_set_aside };
            let others = list.iter().filter(|old| !is_same(old)).cloned();
            others.chain([Arc::new(Aside { command, token: Some(token), due })]).collect::<Vec<_>>()
        });
        tries
    }

    /// If this command is set aside: holds its lane's new lease until `due`. Says how often it was tried.
    pub(super) fn hold_again(&self, lane: &LaneKey, key: &KeyBytes, token: LeaseToken, due: u64) -> Option<u32> {
        let is_it = |aside: &Aside| {
            let command = &aside.command;
            command.is_set_aside && command.lane.as_ref() == Some(lane) && command.key == *key
        };
        self.0.load().iter().find(|aside| is_it(aside))?;
        let before = self.change(is_it, |aside| Aside { token: Some(token), due, ..aside.clone() });
        before.iter().find(|aside| is_it(aside)).map(|aside| aside.command.tries)
    }

    /// True if a subject of no lane is not to be tried now.
    pub(super) fn is_waiting(&self, key: &KeyBytes, now: u64) -> bool {
        let list = self.0.load();
        let it = list.iter().find(|aside| aside.command.lane.is_none() && aside.command.key == *key);
        it.is_some_and(|it| it.command.is_set_aside || (it.token.is_some() && it.due > now))
    }

    /// Subjects of no lane came again in this lease: holds it, until `due` if nothing of it is to be tried before. Says how often
    /// the first of them was tried.
    pub(super) fn hold_alone(&self, keys: &[KeyBytes], token: LeaseToken, due: u64) -> Option<u32> {
        let is_it = |aside: &Aside| aside.command.lane.is_none() && keys.contains(&aside.command.key);
        let before = self.change(is_it, |aside| {
            let due = if aside.command.is_set_aside { due } else { aside.due };
            Aside { token: Some(token), due, ..aside.clone() }
        });
        before.iter().find(|aside| is_it(aside)).map(|aside| aside.command.tries)
    }

    /// The front of a lane was executed, or is gone: what failed there is no more.
    pub(super) fn passed(&self, lane: Option<&LaneKey>, keys: &[KeyBytes]) {
        if !self.is_empty() {
            self.retain(|aside| {
                let command = &aside.command;
                command.lane.as_ref() != lane || (lane.is_none() && !keys.contains(&command.key))
            });
        }
    }

    fn retain(&self, keep: impl Fn(&Aside) -> bool) {
        self.0.rcu(|list| list.iter().filter(|aside| keep(aside)).cloned().collect::<Vec<_>>());
    }

    /// The leases that are to be given back now. What was given back `after` ms ago and did not come again is looked at: it is
    /// forgotten once it is owed no more.
    pub(super) fn due(&self, now: u64, after: u64, is_owed: impl Fn(&KeyBytes) -> bool) -> Vec<LeaseToken> {
        if self.is_empty() {
            return Vec::new();
        }
        let is_due = |aside: &Arc<Aside>| aside.due <= now;
        let list = self.0.load_full();
        if !list.iter().any(is_due) {
            return Vec::new();
        }
        let is_gone = |aside: &&Arc<Aside>| is_due(aside) && aside.token.is_none() && !is_owed(&aside.command.key);
        let gone: Vec<_> = list.iter().filter(is_gone).collect();
        let before = self.0.rcu(|list| {
            let left = list.iter().filter(|aside| !gone.iter().any(|gone| Arc::ptr_eq(gone, aside)));
            let given_back = |aside: &Arc<Aside>| {
                let due = now.saturating_add(after);
                Arc::new(Aside { token: None, due, ..Aside::clone(aside) })
            };
            let left = left.map(|aside| if is_due(aside) { given_back(aside) } else { Arc::clone(aside) });
            left.collect::<Vec<_>>()
        });
        before.iter().filter(|aside| is_due(aside)).filter_map(|aside| aside.token).collect()
    }

    /// When a lease is to be given back next.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.0.load().iter().filter(|aside| aside.token.is_some()).map(|aside| aside.due).min()
    }

    /// Forgets how often a lane's commands were tried, and has its lease given back. False if nothing is known of it.
    pub(super) fn retry(&self, lane: &LaneKey) -> bool {
        let is_it = |aside: &Aside| aside.command.lane.as_ref() == Some(lane);
        let before = self.change(is_it, |aside| {
            let command = FailedCommand { tries: 0, is_set_aside: false, ..aside.command.clone() };
            Aside { command, token: aside.token, due: 0 }
        });
        before.iter().any(|aside| is_it(aside))
    }

    /// Puts others in the place of some, all at once; the list as it was.
    fn change(&self, which: impl Fn(&Aside) -> bool, to: impl Fn(&Aside) -> Aside) -> Arc<Vec<Arc<Aside>>> {
        self.0.rcu(|list| {
            let list = list.iter().map(|aside| if which(aside) { Arc::new(to(aside)) } else { Arc::clone(aside) });
            list.collect::<Vec<_>>()
        })
    }

    /// Empties the list; the leases that are held.
    pub(super) fn clear(&self) -> Vec<LeaseToken> {
        self.0.swap(Arc::default()).iter().filter_map(|aside| aside.token).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    fn token() -> LeaseToken {
        LeaseToken { service: 1, generation: 1, slot: 1, nonce: 1 }
    }

    /// A lane that is to be tried again is tried again, also if its lease comes back at that moment.
    #[test]
    fn a_retry_is_not_undone_by_a_lease_that_comes_back() {
        let (lane, key) = (LaneKey::from(1_u64), KeyBytes::new(vec![1]));
        for round in 0..2_000 {
            let (asides, barrier) = (Asides::default(), Barrier::new(2));
            let failure = Failure::new(key.clone(), "it failed");
            assert_eq!(asides.put(Some(&lane), &failure, token(), |_| (true, u64::MAX)), 1);
            thread::scope(|scope| {
                scope.spawn(|| {
                    barrier.wait();
                    (0..20).for_each(|due| _ = asides.hold_again(&lane, &key, token(), due));
                });
                barrier.wait();
                assert!(asides.retry(&lane));
            });
            assert_eq!(asides.hold_again(&lane, &key, token(), 0), None, "round {round}");
        }
    }
}
