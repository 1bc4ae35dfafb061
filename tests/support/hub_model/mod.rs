//! Operations on a hub in memory beside a plain sequential model: who holds what, what is pending and what is done, and what each
//! call must answer. Where the hub is free to choose (which bucket), the model adopts the choice once it is legal.
//!
//! `tests/model.rs` draws the operations at random, `fuzz/src/ops.rs` reads them from bytes.

use std::time::Duration;

use commissary::{Policy, Reporter, Service, ServiceState, Verdict};

mod checks;
mod reference;
mod world;

pub(crate) use world::World;

/// So short that the spread of recovered deadlines (an eighth) is nothing.
const LEASE: u64 = 12;
const GRACE: u64 = 7;
const IDLE: u64 = 60;
pub(crate) const LINGER: u64 = 3;
const BUCKET: usize = 3;
const PER_CLAIM: u32 = 2;
const IN_FLIGHT: u32 = 4;
const DEPTH: u16 = 2;
pub(crate) const SERVICES: usize = 2;
pub(crate) const CLIENTS: u64 = 3;
/// Reports from here on are rejected.
const REFUSED: u32 = 900;
/// Never taken in.
const FOREIGN: u64 = 9_999;

/// Times that matter to the rules, and those just beside them.
pub(crate) const STEPS: [u64; 11] =
    [1, LINGER, GRACE - 1, GRACE, LEASE - 1, LEASE, LEASE + 1, LEASE + GRACE, IDLE - 1, IDLE, IDLE + 1];
/// What an administrator can make of a service.
pub(crate) const STATES: [ServiceState; 4] =
    [ServiceState::Active, ServiceState::Paused, ServiceState::Draining, ServiceState::Revoked];

struct Check {
    id: &'static str,
}

impl Service for Check {
    type Subject = u64;
    type Report = u32;

    fn id(&self) -> &str {
        self.id
    }

    fn policy(&self) -> Policy {
        Policy {
            bucket_subjects: BUCKET,
            buckets_per_claim: PER_CLAIM,
            leases_in_flight: IN_FLIGHT,
            lease: Duration::from_millis(LEASE),
            grace: Duration::from_millis(GRACE),
            idle: Duration::from_millis(IDLE),
            linger: Duration::from_millis(LINGER),
            cooldown: Duration::from_millis(LINGER),
            max_depth: DEPTH,
            // The reference knows neither.
            expiry_spread: 0,
            lease_total: 1_000_000,
            ..Policy::default()
        }
    }

    fn judge(&self, _: &u64, report: &u32, _: Reporter) -> Verdict {
        if *report < REFUSED { Verdict::Accept } else { Verdict::Reject("refused".to_owned()) }
    }

    fn discover(&self, subject: &u64, report: &u32, found: &mut Vec<u64>) {
        found.extend(revealed(*subject, *report));
    }
}

/// Output that becomes input: a chain, and a knot that many lead to.
fn revealed(subject: u64, report: u32) -> Vec<u64> {
    match report {
        3 => vec![subject + 50],
        4 => vec![203, 203, subject],
        _ => Vec::new(),
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Register {
        client: u64,
    },
    Deregister {
        client: u64,
    },
    RegisterService {
        service: usize,
    },
    Activate {
        client: u64,
        service: usize,
    },
    Claim {
        client: u64,
        service: usize,
        n: u32,
    },
    Submit {
        token: Pick,
        by: Option<u64>,
        what: Reports,
    },
    Renew {
        token: Pick,
        by: Option<u64>,
    },
    Release {
        token: Pick,
        by: Option<u64>,
    },
    DropGuard {
        token: Pick,
        by: Option<u64>,
    },
    Forge {
        token: Pick,
        by: u64,
        digit: usize,
    },
    Elsewhere {
        token: Pick,
        by: u64,
    },
    Add {
        service: usize,
        keys: Vec<u64>,
    },
    Advance {
        ms: u64,
    },
    Tick,
    SetState {
        service: usize,
        state: ServiceState,
    },
    Suspend {
        client: u64,
        service: usize,
        suspended: bool,
    },
    Crash {
        power: bool,
        with_store: bool,
    },
    /// Closed in order, then the machine loses power.
    Close {
        with_store: bool,
    },
}

/// What a submit brings.
#[derive(Debug, Clone)]
pub(crate) struct Reports {
    /// Which of the bucket's subjects.
    pub(crate) mask: u8,
    /// Which of them get a report that is rejected.
    pub(crate) refused: u8,
    pub(crate) foreign: bool,
    pub(crate) twice: bool,
    pub(crate) value: u32,
    pub(crate) last: bool,
}

/// One of several, as a part of the whole: it stays near the same place as more are added.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pick(pub(crate) u64);

impl Pick {
    fn of(self, len: usize) -> Option<usize> {
        usize::try_from((u128::from(self.0) * len as u128) >> 64).ok().filter(|at| *at < len)
    }
}

/// Work to begin with, so that short cases are not about nothing.
pub(crate) fn opening() -> Vec<Op> {
    vec![
        Op::Register { client: 1 },
        Op::Activate { client: 1, service: 0 },
        Op::Add { service: 0, keys: (0..7).collect() },
        Op::Tick,
        Op::Advance { ms: LINGER },
        Op::Tick,
    ]
}
