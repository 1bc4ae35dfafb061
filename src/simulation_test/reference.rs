//! What must be true, kept small: subjects, leases and people as the journal's records make them, one by one. After a crash the
//! hub must be what the first n of them make, for an n that no ticket contradicts.

use std::collections::{BTreeMap, BTreeSet};

use crate::ServiceState;

pub(super) const SERVICES: usize = 3;
pub(super) const FINDER: usize = 1;
pub(super) const LANES: usize = 2;
/// Keys of a lane are this far apart.
pub(super) const LANE_KEYS: u64 = 1_000;
/// What a report reveals has its subject's key and this.
pub(super) const FOUND: u64 = 1_000_000;
/// Reports from here on are rejected.
pub(super) const REJECTED: u32 = 900;
/// The rank of a round that a retraction opened is not known before somebody holds it.
const UNKNOWN_RANK: u64 = u64::MAX;

/// A bucket's name: its pool's generation and its slot.
pub(super) type Bucket = (u64, u32);

pub(super) fn revealed(key: u64, report: u32) -> Option<u64> {
    (key < FOUND && report % 2 == 1).then_some(key + FOUND)
}

pub(super) fn lane_state(before: u64, key: u64, report: u32) -> u64 {
    (before.rotate_left(7) ^ key ^ (u64::from(report) << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) rank: u64,
    pub(super) open: bool,
    /// The result in force, and whose.
    pub(super) result: Option<(u32, u64)>,
}

#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) key: u64,
    pub(super) rank: u64,
    pub(super) owed: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) client: u64,
    pub(super) items: Vec<Item>,
    /// Nobody may take it away before: deadline and grace, by the world's clock.
    pub(super) safe_until: u64,
    /// It can be renewed and must be reported on until here.
    pub(super) deadline: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Seat {
    pub(super) suspended: bool,
    pub(super) assigned: u64,
    pub(super) reported: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) state: ServiceState,
    pub(super) subjects: BTreeMap<u64, Subject>,
    pub(super) next_rank: u64,
    pub(super) done: u64,
    pub(super) leases: BTreeMap<Bucket, Lease>,
    pub(super) lanes: BTreeMap<u64, u64>,
    pub(super) seats: BTreeMap<u64, Seat>,
    /// Ranks that may be handed out though they are held: declared causes.
    pub(super) urgent: BTreeSet<u64>,
    /// Ranks that ended without a report: deleted, withdrawn.
    pub(super) closed: BTreeSet<u64>,
    /// A retraction opened rounds whose ranks nobody knows.
    pub(super) is_loose: bool,
}

#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) registered: BTreeMap<u64, bool>,
    pub(super) services: Vec<Service>,
}

/// A change that the journal holds, or will.
#[derive(Debug, Clone)]
pub(super) enum Effect {
    Client {
        id: u64,
        registered: bool,
    },
    Add {
        service: usize,
        key: u64,
    },
    Lease {
        service: usize,
        bucket: Bucket,
        lease: Lease,
    },
    Report {
        service: usize,
        bucket: Bucket,
        reports: Vec<(u64, u32)>,
        state: Option<u64>,
    },
    /// A report that contradicts an earlier one: kept beside it.
    Evidence {
        service: usize,
        bucket: Bucket,
    },
    End {
        service: usize,
        bucket: Bucket,
    },
    Rerun {
        service: usize,
        key: u64,
    },
    Delete {
        service: usize,
        key: u64,
    },
    Urgent {
        service: usize,
        rank: u64,
    },
    Is {
        service: usize,
        state: ServiceState,
    },
    Suspend {
        service: usize,
        client: u64,
        suspended: bool,
    },
}

impl Service {
    fn new() -> Self {
        Self {
            state: ServiceState::Active,
            subjects: BTreeMap::new(),
            next_rank: 0,
            done: 0,
            leases: BTreeMap::new(),
            lanes: BTreeMap::new(),
            seats: BTreeMap::new(),
            urgent: BTreeSet::new(),
            closed: BTreeSet::new(),
            is_loose: false,
        }
    }

    /// True if the round of this rank waits for a report.
    pub(super) fn is_open(&self, key: u64, rank: u64) -> bool {
        self.subjects.get(&key).is_some_and(|subject| subject.open && subject.rank == rank)
    }

    /// The bucket of a lease that owes this round.
    pub(super) fn holder_of(&self, rank: u64) -> Option<Bucket> {
        let owes = |lease: &Lease| lease.items.iter().any(|item| item.owed && item.rank == rank);
        self.leases.iter().find(|(_, lease)| owes(lease)).map(|(bucket, _)| *bucket)
    }

    /// The open rounds of a lane, in its order.
    pub(super) fn lane_order(&self, lane: u64) -> Vec<u64> {
        let of_lane = self.subjects.range(lane * LANE_KEYS..(lane + 1) * LANE_KEYS);
        let mut ranks: Vec<(u64, u64)> =
            of_lane.filter(|(_, subject)| subject.open).map(|(key, subject)| (subject.rank, *key)).collect();
        ranks.sort_unstable();
        ranks.into_iter().map(|(_, key)| key).collect()
    }

    fn open_round(&mut self, key: u64) {
        let rank = self.next_rank;
        self.next_rank += 1;
        let subject = self.subjects.entry(key).or_insert(Subject { rank, open: true, result: None });
        subject.rank = rank;
        subject.open = true;
    }

    fn take_in(&mut self, key: u64) {
        if !self.subjects.contains_key(&key) {
            self.open_round(key);
        }
    }

    fn report(&mut self, bucket: Bucket, reports: &[(u64, u32)], state: Option<u64>, finds: bool) {
        let Some(lease) = self.leases.get_mut(&bucket) else { return };
        let client = lease.client;
        let mut ranks = Vec::new();
        for (key, value) in reports {
            if let Some(item) = lease.items.iter_mut().find(|item| item.key == *key && item.owed) {
                item.owed = false;
                ranks.push((*key, item.rank, *value));
            }
        }
        if lease.items.iter().all(|item| !item.owed) {
            self.leases.remove(&bucket);
        }
        self.seats.entry(client).or_default().reported += ranks.len() as u64;
        if let (Some(state), Some((key, ..))) = (state, ranks.first()) {
            self.lanes.insert(key / LANE_KEYS, state);
        }
        for (key, rank, value) in ranks {
            if !self.is_open(key, rank) {
                continue;
            }
            let subject = self.subjects.get_mut(&key).expect("open");
            subject.open = false;
            subject.result = Some((value, client));
            self.done += 1;
            if let Some(found) = revealed(key, value).filter(|_| finds) {
                self.take_in(found);
            }
        }
    }

    pub(super) fn forget(&mut self, key: u64) {
        if let Some(subject) = self.subjects.remove(&key) {
            self.done -= u64::from(!subject.open);
            self.closed.insert(subject.rank);
        }
    }

    /// A retraction opened a round whose rank nobody knows yet.
    pub(super) fn reopen(&mut self, key: u64) {
        if let Some(subject) = self.subjects.get_mut(&key) {
            self.done -= u64::from(!subject.open);
            subject.open = true;
            subject.rank = UNKNOWN_RANK;
            subject.result = None;
        }
    }
}

impl State {
    pub(super) fn new() -> Self {
        Self { registered: BTreeMap::new(), services: vec![Service::new(); SERVICES] }
    }

    pub(super) fn is_registered(&self, id: u64) -> bool {
        self.registered.get(&id) == Some(&true)
    }

    pub(super) fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::Client { id, registered } => {
                self.registered.insert(*id, *registered);
            }
            Effect::Add { service, key } => self.services[*service].take_in(*key),
            Effect::Lease { service, bucket, lease } => {
                let service = &mut self.services[*service];
                for item in &lease.items {
                    if let Some(subject) = service.subjects.get_mut(&item.key).filter(|s| s.rank == UNKNOWN_RANK) {
                        subject.rank = item.rank;
                    }
                }
                service.seats.entry(lease.client).or_default().assigned += lease.items.len() as u64;
                service.leases.insert(*bucket, lease.clone());
            }
            Effect::Report { service, bucket, reports, state } => {
                self.services[*service].report(*bucket, reports, *state, *service == FINDER);
            }
            Effect::End { service, bucket } => {
                self.services[*service].leases.remove(bucket);
            }
            Effect::Rerun { service, key } => {
                let service = &mut self.services[*service];
                if service.subjects.get(key).is_some_and(|subject| !subject.open) {
                    service.done -= 1;
                    service.open_round(*key);
                }
            }
            Effect::Delete { service, key } => self.services[*service].forget(*key),
            Effect::Urgent { service, rank } => {
                self.services[*service].urgent.insert(*rank);
            }
            Effect::Is { service, state } => {
                self.services[*service].state = *state;
            }
            Effect::Evidence { .. } => {}
            Effect::Suspend { service, client, suspended } => {
                let service = &mut self.services[*service];
                service.seats.entry(*client).or_default().suspended = *suspended;
            }
        }
    }
}

/// Changes in the order in which the journal has those of one turn: what was called, each report behind its lease; then, service by
/// service and pool by pool, the slots: first those that were leased since, then those that ended.
pub(super) fn journal_order<T>(called: Vec<(Effect, Option<T>)>) -> Vec<(Effect, Option<T>)> {
    let mut ordered: Vec<(Effect, Option<T>)> = Vec::new();
    let mut fresh: BTreeMap<(usize, Bucket), Effect> = BTreeMap::new();
    let mut leased: BTreeSet<(usize, Bucket)> = BTreeSet::new();
    let mut ended: BTreeSet<(usize, Bucket)> = BTreeSet::new();
    for (effect, ticket) in called {
        match &effect {
            Effect::Lease { service, bucket, .. } => {
                leased.insert((*service, *bucket));
                fresh.insert((*service, *bucket), effect);
            }
            Effect::End { service, bucket } => {
                ended.insert((*service, *bucket));
            }
            Effect::Report { service, bucket, .. } | Effect::Evidence { service, bucket } => {
                ordered.extend(fresh.remove(&(*service, *bucket)).map(|lease| (lease, None)));
                ordered.push((effect, ticket));
            }
            _ => ordered.push((effect, ticket)),
        }
    }
    let slots: BTreeSet<(usize, u64, bool, u32)> =
        leased.iter().chain(&ended).map(|slot| (slot.0, slot.1.0, !leased.contains(slot), slot.1.1)).collect();
    for (service, generation, _, slot) in slots {
        let bucket = (generation, slot);
        ordered.extend(fresh.remove(&(service, bucket)).map(|lease| (lease, None)));
        if ended.contains(&(service, bucket)) {
            ordered.push((Effect::End { service, bucket }, None));
        }
    }
    ordered
}

/// True if a round that the retraction opened may be this one.
pub(super) fn may_be(subject: &Subject, rank: u64) -> bool {
    subject.open && (subject.rank == rank || subject.rank == UNKNOWN_RANK)
}

/// Whether a subject waits, and its result: what, and whose.
pub(super) type Known = (bool, Option<(u32, u64)>);

/// Leases as they are found: who holds which, and the ranks that it owes still.
pub(super) type Held = BTreeMap<Bucket, (u64, Vec<u64>)>;

/// The hub as it is found after it was opened.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) registered: BTreeMap<u64, bool>,
    pub(super) services: Vec<FoundService>,
}

#[derive(Debug)]
pub(super) struct FoundService {
    pub(super) state: ServiceState,
    pub(super) known: u64,
    pub(super) done: u64,
    /// Of every key that was ever offered and is known: whether it waits, and its result.
    pub(super) subjects: BTreeMap<u64, Known>,
    pub(super) held: Held,
    /// Of every client: assigned, reported, suspended.
    pub(super) seats: BTreeMap<u64, (u64, u64, bool)>,
}

/// Compares leases. The buckets that are gone with good reason, or what is wrong: a law, and why.
pub(super) fn compare_leases(
    service: &Service,
    held: &Held,
    time: u64,
    safe_until: impl Fn(Bucket, &Lease) -> u64,
    is_barred: impl Fn(u64) -> bool,
) -> Result<Vec<Bucket>, (&'static str, String)> {
    let mut owners: BTreeMap<u64, Bucket> = BTreeMap::new();
    for (bucket, (client, ranks)) in held {
        let Some(lease) = service.leases.get(bucket) else {
            return Err(("I4", format!("{client} holds {bucket:?}, which was never given or is over")));
        };
        if lease.client != *client {
            return Err(("I7", format!("{client} holds {bucket:?} of {}", lease.client)));
        }
        for rank in ranks {
            if !lease.items.iter().any(|item| item.owed && item.rank == *rank) {
                return Err(("I2", format!("{bucket:?} owes {rank}, which it reported or never had")));
            }
            let is_declared = service.urgent.contains(rank) || service.closed.contains(rank) || service.is_loose;
            if let Some(other) = owners.insert(*rank, *bucket).filter(|_| !is_declared) {
                return Err(("I1", format!("{rank} is owed by {bucket:?} and by {other:?}")));
            }
        }
        let lost = lease
            .items
            .iter()
            .find(|item| item.owed && !ranks.contains(&item.rank) && service.is_open(item.key, item.rank));
        if let Some(item) = lost {
            return Err(("I2", format!("{bucket:?} owes {item:?} no more, and nobody reported it")));
        }
    }
    let mut gone = Vec::new();
    for (bucket, lease) in service.leases.iter().filter(|(bucket, _)| !held.contains_key(*bucket)) {
        let owes = lease.items.iter().any(|item| item.owed && service.is_open(item.key, item.rank));
        if owes && time < safe_until(*bucket, lease) && !is_barred(lease.client) {
            let left = safe_until(*bucket, lease) - time;
            return Err(("I7", format!("{bucket:?} of {} is gone {left} ms early: {lease:?}", lease.client)));
        }
        gone.push(*bucket);
    }
    Ok(gone)
}

/// What of the hub is not as in a state, if anything.
pub(super) fn difference(state: &State, found: &Found, time: u64, latest: &State) -> Option<(&'static str, String)> {
    for (place, (service, seen)) in state.services.iter().zip(&found.services).enumerate() {
        let counts = (service.subjects.len() as u64, service.done);
        if counts != (seen.known, seen.done) {
            let what = format!("service {place}: known and done are {counts:?}, found {:?}", (seen.known, seen.done));
            return Some(("I5", what));
        }
        let expected = service.leases.keys().filter(|bucket| seen.held.contains_key(*bucket)).count();
        if expected < seen.held.len() {
            return Some(("I4", format!("service {place}: leases that are over, or were never given, are held")));
        }
    }
    if state.registered != found.registered {
        return Some(("I5", format!("clients are {:?}, found {:?}", state.registered, found.registered)));
    }
    for (place, seen) in found.services.iter().enumerate() {
        if let Some((law, what)) = difference_of(state, place, seen, time, &latest.services[place]) {
            return Some((law, format!("service {place}: {what}")));
        }
    }
    None
}

fn difference_of(
    state: &State,
    place: usize,
    seen: &FoundService,
    time: u64,
    latest: &Service,
) -> Option<(&'static str, String)> {
    let service = &state.services[place];
    if service.state != seen.state {
        return Some(("I5", format!("is {}, found {}", service.state, seen.state)));
    }
    for (key, subject) in &service.subjects {
        let expected = (subject.open, subject.result);
        if seen.subjects.get(key) != Some(&expected) {
            return Some(("I5", format!("subject {key} is {expected:?}, found {:?}", seen.subjects.get(key))));
        }
    }
    for client in service.seats.keys().chain(seen.seats.keys()) {
        let expected = service.seats.get(client).map(|seat| (seat.assigned, seat.reported, seat.suspended));
        let (expected, found) = (expected.unwrap_or_default(), seen.seats.get(client).copied().unwrap_or_default());
        if expected != found {
            return Some((
                "I2",
                format!("seat of {client}: assigned, reported, suspended {expected:?}, found {found:?}"),
            ));
        }
    }
    // Renewals are not journaled; what they promised holds.
    let safe_until =
        |bucket: Bucket, lease: &Lease| latest.leases.get(&bucket).map_or(lease.safe_until, |lease| lease.safe_until);
    // What bars a client is journaled before the end of its leases, and ends them when the hub is opened.
    let is_barred = |client: u64| {
        let is_suspended = service.seats.get(&client).is_some_and(|seat| seat.suspended);
        !state.is_registered(client) || is_suspended || service.state == ServiceState::Revoked
    };
    compare_leases(service, &seen.held, time, safe_until, is_barred).err()
}
