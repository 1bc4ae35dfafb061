//! Operations on a hub in memory beside a plain sequential model: who holds what, what is pending and what is done, and what each
//! call must answer. Where the hub is free to choose (which bucket), the model adopts the choice once it is legal.
//!
//! `tests/model.rs` draws the operations at random, `fuzz/src/ops.rs` reads them from bytes.

use std::time::Duration;

use commissary::{Policy, Reporter, Service, ServiceState, Verdict};

mod checks;
#[path = "../op.rs"]
#[expect(dead_code, reason = "each harness does a part of it")]
mod op;
mod reference;
mod world;

pub(crate) use op::{Op, Pick, Shown, Which};
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

/// Reports on some of a bucket's subjects, and which of them are refused; with one that is not its own, or one twice.
pub(crate) fn reports(mask: u8, refused: u8, foreign: bool, twice: bool, value: u32) -> Vec<(Which, u32)> {
    let chosen = |mask: u8, nth: usize| mask >> nth & 1 == 1;
    let report = |nth| (Which::Nth(nth), if chosen(refused, nth) { REFUSED } else { value });
    let mut reports: Vec<_> = (0..BUCKET).filter(|nth| chosen(mask, *nth)).map(report).collect();
    reports.extend(reports.first().copied().filter(|_| twice));
    reports.extend(foreign.then_some((Which::Key(FOREIGN), value)));
    reports
}

/// A token at another service than its own.
pub(crate) fn elsewhere(token: Pick, by: u64, submits: bool) -> Op {
    let shown = Shown { token, by: Some(by), off: 1 };
    if submits {
        Op::Submit { shown, reports: reports(1, 0, false, false, 0), last: true }
    } else {
        Op::Release { shown }
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
