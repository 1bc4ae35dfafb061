//! What can be done to a hub, and happen to it: one vocabulary. Lists of it are drawn at random (`tests/model.rs`,
//! `tests/interplay.rs`), read from bytes (`fuzz/src/ops.rs`), or chosen by programs, an operator and a nemesis
//! (`src/simulation_test.rs`). Each harness carries them out in a world of its own, and draws those that this world can do.

use commissary::{Crash, LeaseToken, ServiceState};

/// Somebody who poses registers under a client's id, by another name; who disconnects drops its seats; who resumes gets a guard, and
/// drops it; who looks asks for what it holds. After a crash, or in order, the hub is opened again: by itself, or, where that can fail, by operations.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Register { client: u64 },
    Pose { client: u64 },
    Deregister { client: u64 },
    Disconnect { client: u64 },
    Activate { client: u64, service: usize },
    Claim { client: u64, service: usize, n: u32 },
    Submit { shown: Shown, reports: Vec<(Which, u32)>, last: bool },
    Renew { shown: Shown },
    Release { shown: Shown },
    Resume { shown: Shown },
    Forge { shown: Shown, digit: usize },
    Look { client: u64, service: usize },
    Add { service: usize, keys: Vec<u64> },
    Prioritize { service: usize, keys: Vec<u64> },
    Rerun { service: usize, keys: Vec<u64> },
    Mark { service: usize, keys: Vec<u64> },
    Delete { service: usize, keys: Vec<u64> },
    DeleteEverywhere { key: u64 },
    Retract { client: u64, service: usize },
    Restore { service: usize, which: Pick },
    RegisterService { service: usize },
    SetState { service: usize, state: ServiceState },
    Suspend { client: u64, service: usize, suspended: bool },
    Clear { client: u64, service: usize },
    BoundLanes { service: usize, subjects: u64 },
    Tick,
    Advance { ms: u64 },
    SetBack { wall_ms: u64 },
    Fail { fault: Fault },
    Crash { how: Crash, with_store: bool, torn: Option<Torn> },
    Close { with_store: bool, compact: bool },
    Open { fault: Option<Fault>, keep_tombstones: Option<u64> },
}

/// A token that was given out, as it is shown: by its holder, at its own service, if nothing else is said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    pub(crate) token: Pick,
    pub(crate) by: Option<u64>,
    /// So many services further on than its own.
    pub(crate) off: usize,
}

impl Shown {
    pub(crate) fn own(token: Pick) -> Self {
        Self { token, by: None, off: 0 }
    }
}

/// One of several.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pick {
    /// As a part of the whole: it stays near the same place as more are added.
    Part(u64),
    Nth(usize),
}

impl Pick {
    pub(crate) fn of(self, len: usize) -> Option<usize> {
        let at = match self {
            Self::Part(part) => usize::try_from((u128::from(part) * len as u128) >> 64).ok()?,
            Self::Nth(nth) => nth,
        };
        (at < len).then_some(at)
    }
}

/// A subject to report on: of those that the bucket was given out with, of those that are owed, or any.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which {
    Nth(usize),
    Owed(usize),
    Key(u64),
}

/// Those reports whose subject there is, by key.
pub(crate) fn by_key(reports: &[(Which, u32)], given: &[u64], owed: &[u64]) -> Vec<(u64, u32)> {
    let key = |which| match which {
        Which::Nth(nth) => given.get(nth).copied(),
        Which::Owed(nth) => owed.get(nth).copied(),
        Which::Key(key) => Some(key),
    };
    reports.iter().filter_map(|(which, value)| Some((key(*which)?, *value))).collect()
}

/// A token with one wrong digit: those from 32 to 63 are its secret part.
pub(crate) fn forged(token: LeaseToken, digit: usize) -> LeaseToken {
    let mut text = token.to_string();
    let wrong = if &text[digit..=digit] == "0" { "1" } else { "0" };
    text.replace_range(digit..=digit, wrong);
    text.parse().expect("well formed")
}

/// What a disk fails at: after so many bytes or calls, then also at cutting off what is torn; or where the process stops.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    Append { room: usize, cut: bool },
    Sync { after: u64, cut: bool },
    Cut,
    Batch { after: u64 },
    Stop { at: u32 },
}

/// What a power cut leaves of the bytes that were not synced, and a bit that is wrong in them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Torn {
    pub(crate) kept: usize,
    pub(crate) flipped: Option<(usize, u64)>,
}
