//! The hub with its two services, as the whole crowd sees it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use commissary::services::{DmCheck, DmState, FollowingCheck, UserList};
use commissary::{Hub, Policy, Reporter, Service, ServiceHandle, Verdict};

use crate::Failure;
use crate::dice::Dice;
use crate::graph::{Graph, LIST_MAX};

/// How long a worker may be silent before its lease is dead, and then until its bucket goes to others. Much shorter
/// than in real life, so that what crashed workers held comes back while the example runs.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// What the workers share.
pub(crate) struct Shop<'a> {
    pub(crate) hub: &'a Hub,
    pub(crate) graph: &'a Graph,
    pub(crate) following: ServiceHandle<FollowingCheck>,
    pub(crate) dm: ServiceHandle<BriefDmCheck>,
    /// Set by Ctrl-C.
    interrupted: &'a AtomicBool,
    finished: AtomicBool,
}

impl<'a> Shop<'a> {
    pub(crate) fn open(hub: &'a Hub, graph: &'a Graph, interrupted: &'a AtomicBool) -> Result<Self, Failure> {
        let mut policy = brief_leases();
        policy.bucket_subjects = 16;
        policy.max_depth = u16::MAX;
        let following = hub.register(FollowingCheck::with(policy))?;
        let dm = hub.register(BriefDmCheck(DmCheck::default()))?;
        Ok(Self { hub, graph, following, dm, interrupted, finished: AtomicBool::new(false) })
    }

    /// Reports taken so far.
    pub(crate) fn reported(&self) -> u64 {
        self.following.stats().work.subjects_reported + self.dm.stats().work.subjects_reported
    }

    /// Sends the workers home.
    pub(crate) fn finish(&self) {
        self.finished.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.finished.load(Ordering::Relaxed) || self.is_interrupted()
    }

    /// Waits, but no longer than the shop is open.
    pub(crate) fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.is_closing() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(20)));
        }
    }
}

fn brief_leases() -> Policy {
    Policy { lease: LEASE, grace: GRACE, ..Policy::default() }
}

/// The DM check with brief leases: a service can be wrapped to change its settings.
pub(crate) struct BriefDmCheck(DmCheck);

impl Service for BriefDmCheck {
    type Subject = u64;
    type Report = DmState;

    fn id(&self) -> &str {
        self.0.id()
    }

    fn policy(&self) -> Policy {
        let mut policy = brief_leases();
        policy.bucket_subjects = self.0.policy().bucket_subjects;
        policy
    }

    fn judge(&self, user: &u64, report: &DmState, reporter: Reporter) -> Verdict {
        self.0.judge(user, report, reporter)
    }
}

/// A service whose questions the graph answers.
pub(crate) trait Asked: Service<Subject = u64, Report: PartialEq> {
    /// Users with a report of this service go to the DM check.
    const FEEDS_DM: bool;
    /// The truth about a user.
    fn answer(graph: &Graph, user: u64) -> Self::Report;
    /// Something that the service must reject, if there is such a thing.
    fn absurd(user: u64) -> Option<Self::Report>;
    /// Something that is not true, and that the service cannot know to be false.
    fn lie(graph: &Graph, user: u64, dice: &mut Dice) -> Self::Report;
}

impl Asked for FollowingCheck {
    const FEEDS_DM: bool = true;

    fn answer(graph: &Graph, user: u64) -> UserList {
        graph.following(user)
    }

    fn absurd(user: u64) -> Option<UserList> {
        Some(UserList { users: vec![user], complete: true })
    }

    /// Leaves out half of those whom the user follows; names others instead, one of whom does not exist.
    fn lie(graph: &Graph, user: u64, dice: &mut Dice) -> UserList {
        let mut users: Vec<u64> = graph.followed_by(user).iter().copied().filter(|_| dice.once_in(2)).collect();
        users.extend([dice.pick(graph.users()), graph.nobody(dice)]);
        users.retain(|other| *other != user);
        users.sort_unstable();
        users.dedup();
        users.truncate(LIST_MAX);
        UserList { users, complete: true }
    }
}

impl Asked for BriefDmCheck {
    const FEEDS_DM: bool = false;

    fn answer(_graph: &Graph, user: u64) -> DmState {
        Graph::dm_state(user)
    }

    fn absurd(_user: u64) -> Option<DmState> {
        None
    }

    fn lie(_graph: &Graph, user: u64, _dice: &mut Dice) -> DmState {
        match Graph::dm_state(user) {
            DmState::Open => DmState::Closed,
            _ => DmState::Open,
        }
    }
}
