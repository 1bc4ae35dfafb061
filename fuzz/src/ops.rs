//! Bytes are operations of three clients at two services of a hub in memory, crashes and reopenings among them: the same operations, and
//! the same model beside them, as in `tests/model.rs`. After every one the hub answers as the model does; in the end everything
//! that was taken in gets done.

use commissary::Crash;

use super::Seen;
use super::hub_model::{
    self, CLIENTS, Op, Pick, SERVICES, STATES as SERVICE_STATES, STEPS, Shown, Which, World, elsewhere, opening,
};

/// What the corpus comes through.
pub const STATES: &[&str] = &[
    "granted",
    "nothing to claim",
    "quota full",
    "inactive seat",
    "suspended seat",
    "service not ready",
    "refused claim",
    "accepted",
    "accepted on a dead lease",
    "accepted on a recovered lease",
    "found",
    "found too deep",
    "done already",
    "another report",
    "rejected",
    "not in the bucket",
    "put back before",
    "given back",
    "expired",
    "lease over",
    "dead lease",
    "not the owner",
    "service revoked",
    "refused call",
    "process killed",
    "power lost",
    "closed",
    "store lost",
];

/// Bytes of one operation: what it is, and three that say more. All are the same size, so that what follows a change stays what it was.
pub const OP_BYTES: usize = 4;
/// Operations in one run; what follows is not read. Each costs its checks.
pub const OPS_MAX: usize = 64;

pub fn run(bytes: &[u8], seen: &mut Seen) {
    let mut world = World::new(false);
    for op in opening() {
        world.step(&op);
    }
    for bytes in bytes.as_chunks::<OP_BYTES>().0.iter().take(OPS_MAX) {
        world.step(&op(*bytes));
    }
    world.drain();
    seen.append(&mut world.seen);
}

/// As often as in `tests/model.rs`, about.
fn op([what, a, b, c]: [u8; OP_BYTES]) -> Op {
    let client = 1 + u64::from(a) % CLIENTS;
    let service = usize::from(b) % SERVICES;
    let token = Pick::Part(u64::from(a) << 56);
    let shown = Shown { token, by: Some(u64::from(b % 8)).filter(|by| (1..=CLIENTS).contains(by)), off: 0 };
    let other = 1 + u64::from(b) % CLIENTS;
    match what % 32 {
        0..2 => Op::Register { client },
        2 => Op::Deregister { client },
        3 => Op::RegisterService { service },
        4..7 => Op::Activate { client, service },
        7..11 => Op::Claim { client, service, n: u32::from(c % 4) },
        11..16 => Op::Submit { shown, reports: reports(b, c), last: b & 64 == 64 },
        16 => Op::Renew { shown },
        17 => Op::Release { shown },
        18 => Op::Resume { shown },
        19 if b < 128 => Op::Forge { shown: Shown { by: Some(other), ..shown }, digit: 32 + usize::from(c % 32) },
        19 => elsewhere(token, other, c < 128),
        20 | 21 => Op::Add { service, keys: keys(a, c) },
        22..25 => Op::Advance { ms: STEPS[usize::from(a) % STEPS.len()] },
        25..28 => Op::Tick,
        28 => Op::SetState { service, state: SERVICE_STATES[usize::from(a) % SERVICE_STATES.len()] },
        29 => Op::Suspend { client, service, suspended: c < 128 },
        30 => {
            let how = if a < 128 { Crash::Power } else { Crash::Process };
            Op::Crash { how, with_store: b < 128, torn: None }
        }
        _ => Op::Close { with_store: b < 128, compact: false },
    }
}

/// The low three bits of `b` say who reports.
fn reports(b: u8, c: u8) -> Vec<(Which, u32)> {
    let some = c >> 3 & 7;
    let (refused, foreign, twice) = match c >> 6 {
        0 => (0, false, false),
        1 => (some, false, false),
        2 => (0, true, false),
        _ => (some & 1, some & 2 == 2, true),
    };
    hub_model::reports(1 + c % 7, refused, foreign, twice, u32::from(b >> 3 & 7).min(4))
}

/// One to five of sixteen, from the first on, some apart or all the same.
fn keys(first: u8, how: u8) -> Vec<u64> {
    let (count, apart) = (1 + how % 5, how / 5 % 4);
    (0..count).map(|nth| u64::from(first.wrapping_add(nth * apart) % 16)).collect()
}
