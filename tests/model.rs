//! Random operations against a plain sequential model: who holds what, what is pending and what is done, and what each
//! call must answer. Where the hub is free to choose (which bucket), the model adopts the choice once it is legal.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use commissary::{
    ActivateError, AdminError, Ask, Claim, ClaimError, Client, Crash, DeregisterError, EmptyReason, Hub, Lease,
    LeaseError, LeaseToken, ManualClock, MemoryDisk, Outcome, Policy, Registration, Reporter, Revoke, Seat, SeatState,
    Service, ServiceHandle, ServiceState, SubjectState, Submitted, Ticket, Verdict, Work,
};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::FileFailurePersistence;

/// So short that the spread of recovered deadlines (an eighth) is nothing.
const LEASE: u64 = 12;
const GRACE: u64 = 7;
const IDLE: u64 = 60;
const LINGER: u64 = 3;
const BUCKET: usize = 3;
const PER_CLAIM: u32 = 2;
const IN_FLIGHT: u32 = 4;
const DEPTH: u16 = 2;
const SERVICES: usize = 2;
const CLIENTS: u64 = 3;
/// Reports from here on are rejected.
const REFUSED: u32 = 900;
/// Never taken in.
const FOREIGN: u64 = 9_999;

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
enum Op {
    Register { client: u64 },
    Deregister { client: u64 },
    RegisterService { service: usize },
    Activate { client: u64, service: usize },
    Claim { client: u64, service: usize, n: u32 },
    Submit { token: Index, by: Option<u64>, what: Reports },
    Renew { token: Index, by: Option<u64> },
    Release { token: Index, by: Option<u64> },
    DropGuard { token: Index, by: Option<u64> },
    Forge { token: Index, by: u64, digit: usize },
    Elsewhere { token: Index, by: u64 },
    Add { service: usize, keys: Vec<u64> },
    Advance { ms: u64 },
    Tick,
    SetState { service: usize, state: ServiceState },
    Suspend { client: u64, service: usize, suspended: bool },
    Crash { power: bool, with_store: bool },
}

/// What a submit brings.
#[derive(Debug, Clone)]
struct Reports {
    /// Which of the bucket's subjects.
    mask: u8,
    /// Which of them get a report that is rejected.
    refused: u8,
    foreign: bool,
    twice: bool,
    value: u32,
    last: bool,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let client = 1..=CLIENTS;
    let service = 0..SERVICES;
    let by = prop_oneof![4 => Just(None), 1 => client.clone().prop_map(Some)];
    let token = any::<Index>();
    let what =
        (1_u8..8, prop_oneof![4 => Just(0_u8), 1 => 0_u8..8], weighted(0.1), weighted(0.1), 0_u32..5, any::<bool>())
            .prop_map(|(mask, refused, foreign, twice, value, last)| Reports {
                mask,
                refused,
                foreign,
                twice,
                value,
                last,
            });
    let steps = [1, LINGER, GRACE - 1, GRACE, LEASE - 1, LEASE, LEASE + 1, LEASE + GRACE, IDLE - 1, IDLE, IDLE + 1];
    let states = [ServiceState::Active, ServiceState::Paused, ServiceState::Draining, ServiceState::Revoked];
    let op = prop_oneof![
        4 => client.clone().prop_map(|client| Op::Register { client }),
        1 => client.clone().prop_map(|client| Op::Deregister { client }),
        1 => service.clone().prop_map(|service| Op::RegisterService { service }),
        6 => (client.clone(), service.clone()).prop_map(|(client, service)| Op::Activate { client, service }),
        12 => (client.clone(), service.clone(), 0_u32..4).prop_map(|(client, service, n)| Op::Claim { client, service, n }),
        14 => (token.clone(), by.clone(), what).prop_map(|(token, by, what)| Op::Submit { token, by, what }),
        3 => (token.clone(), by.clone()).prop_map(|(token, by)| Op::Renew { token, by }),
        2 => (token.clone(), by.clone()).prop_map(|(token, by)| Op::Release { token, by }),
        2 => (token.clone(), by.clone()).prop_map(|(token, by)| Op::DropGuard { token, by }),
        1 => (token.clone(), client.clone(), 32_usize..64).prop_map(|(token, by, digit)| Op::Forge { token, by, digit }),
        1 => (token.clone(), client.clone()).prop_map(|(token, by)| Op::Elsewhere { token, by }),
        6 => (service.clone(), prop::collection::vec(0_u64..16, 1..6)).prop_map(|(service, keys)| Op::Add { service, keys }),
        10 => prop::sample::select(steps.to_vec()).prop_map(|ms| Op::Advance { ms }),
        14 => Just(Op::Tick),
        1 => (service.clone(), prop::sample::select(states.to_vec())).prop_map(|(service, state)| Op::SetState { service, state }),
        1 => (client, service, any::<bool>()).prop_map(|(client, service, suspended)| Op::Suspend { client, service, suspended }),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(power, with_store)| Op::Crash { power, with_store }),
    ];
    // Work to begin with, so that short cases are not about nothing.
    prop::collection::vec(op, 1..=54).prop_map(|rest| {
        let mut ops = vec![
            Op::Register { client: 1 },
            Op::Activate { client: 1, service: 0 },
            Op::Add { service: 0, keys: (0..7).collect() },
            Op::Tick,
            Op::Advance { ms: LINGER },
            Op::Tick,
        ];
        ops.extend(rest);
        ops
    })
}

fn weighted(probability: f64) -> impl Strategy<Value = bool> + Clone {
    prop::bool::weighted(probability)
}

/// What a lease's holder owes of one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    Yes,
    /// Reported; with what, if the hub still knows.
    Reported(Option<u32>),
    PutBack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Live { deadline: u64 },
    Dead { since: u64 },
    Over,
}

#[derive(Debug, Clone)]
struct LeaseModel {
    client: u64,
    subjects: BTreeMap<u64, Owed>,
    phase: Phase,
    /// It was held when the hub was opened.
    recovered: bool,
}

impl LeaseModel {
    fn is_held(&self) -> bool {
        self.phase != Phase::Over
    }

    fn owed(&self) -> BTreeSet<u64> {
        self.subjects.iter().filter(|(_, owed)| self.is_held() && **owed == Owed::Yes).map(|(key, _)| *key).collect()
    }
}

#[derive(Debug, Clone)]
struct SeatModel {
    state: SeatState,
    last_used: u64,
    buckets: Counts,
    subjects: Counts,
    expired: u64,
    conflicts: u64,
}

/// Assigned, finished, put back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    assigned: u64,
    finished: u64,
    put_back: u64,
}

/// A change that is not in the journal yet, and the ticket it resolves.
#[derive(Debug, Clone)]
enum Change {
    Added { key: u64, ticket: usize },
    Reported { key: u64, value: u32, client: u64, ticket: usize },
}

#[derive(Debug, Clone)]
struct ServiceModel {
    state: ServiceState,
    /// Taken in, with their depth.
    known: BTreeMap<u64, u16>,
    /// Accepted: the value and who said it. Those in `visible` can be read.
    done: BTreeMap<u64, (u32, u64)>,
    visible: BTreeSet<u64>,
    seats: BTreeMap<u64, SeatModel>,
    /// By their place in the driver's list of tokens; those the hub has forgotten are not here.
    leases: BTreeMap<usize, LeaseModel>,
    queue: Vec<Change>,
    duplicates: u64,
    cut_by_depth: u64,
}

/// Added, duplicates, cut.
type Taken = (u64, u64, u64);

impl ServiceModel {
    fn new() -> Self {
        Self {
            state: ServiceState::Active,
            known: BTreeMap::new(),
            done: BTreeMap::new(),
            visible: BTreeSet::new(),
            seats: BTreeMap::new(),
            leases: BTreeMap::new(),
            queue: Vec::new(),
            duplicates: 0,
            cut_by_depth: 0,
        }
    }

    fn leased(&self) -> BTreeSet<u64> {
        self.leases.values().flat_map(LeaseModel::owed).collect()
    }

    fn pending(&self) -> BTreeSet<u64> {
        let leased = self.leased();
        self.known.keys().filter(|key| !leased.contains(key) && !self.done.contains_key(key)).copied().collect()
    }

    fn held_by(&self, client: u64) -> usize {
        self.leases.values().filter(|lease| lease.client == client && lease.is_held()).count()
    }

    fn seat(&mut self, client: u64) -> &mut SeatModel {
        self.seats.entry(client).or_insert(SeatModel {
            state: SeatState::Inactive,
            last_used: 0,
            buckets: Counts::default(),
            subjects: Counts::default(),
            expired: 0,
            conflicts: 0,
        })
    }

    /// Ends a lease: what is owed is put back. How many subjects that were.
    fn end(&mut self, lease: usize) -> u64 {
        let Some(lease) = self.leases.get_mut(&lease).filter(|lease| lease.is_held()) else { return 0 };
        lease.phase = Phase::Over;
        let mut left = 0;
        for owed in lease.subjects.values_mut().filter(|owed| **owed == Owed::Yes) {
            *owed = Owed::PutBack;
            left += 1;
        }
        let client = lease.client;
        let seat = self.seat(client);
        seat.subjects.put_back += left;
        if left == 0 {
            seat.buckets.finished += 1;
        } else {
            seat.buckets.put_back += 1;
        }
        left
    }

    fn end_those(&mut self, which: impl Fn(&LeaseModel) -> bool) {
        let those: Vec<usize> = self.leases.iter().filter(|(_, lease)| which(lease)).map(|(id, _)| *id).collect();
        for lease in those {
            self.end(lease);
        }
    }

    fn take_in(&mut self, key: u64, depth: u16, taken: &mut Taken) {
        if let Entry::Vacant(entry) = self.known.entry(key) {
            entry.insert(depth);
            taken.0 += 1;
        } else {
            self.duplicates += 1;
            taken.1 += 1;
        }
    }

    /// The journal takes what waits: what each ticket took in.
    fn write(&mut self, tickets: &mut BTreeMap<usize, Taken>) {
        for change in std::mem::take(&mut self.queue) {
            match change {
                Change::Added { key, ticket } => self.take_in(key, 0, tickets.entry(ticket).or_default()),
                Change::Reported { key, value, client, ticket } => {
                    let taken = tickets.entry(ticket).or_default();
                    assert_eq!(self.done.get(&key), Some(&(value, client)), "G7: the first accepted value stays");
                    assert!(self.visible.insert(key), "G7: one record a subject");
                    let depth = self.known[&key];
                    for found in revealed(key, value) {
                        if depth >= DEPTH {
                            self.cut_by_depth += 1;
                            taken.2 += 1;
                        } else {
                            self.take_in(found, depth + 1, taken);
                        }
                    }
                }
            }
        }
    }

    /// The steward's round: releases before it marks, retires idle seats.
    fn sweep(&mut self, now: u64) {
        let ids: Vec<usize> = self.leases.keys().copied().collect();
        for id in ids {
            let lease = self.leases.get_mut(&id).expect("listed");
            match lease.phase {
                Phase::Dead { since } if now >= since + GRACE => {
                    let client = lease.client;
                    self.seat(client).expired += 1;
                    self.end(id);
                }
                Phase::Live { deadline } if deadline <= now => lease.phase = Phase::Dead { since: now },
                _ => {}
            }
        }
        for seat in self.seats.values_mut() {
            if seat.state == SeatState::Active && now - seat.last_used >= IDLE {
                seat.state = SeatState::Inactive;
            }
        }
    }

    /// A new opening: leases get a full term, what was over is forgotten.
    fn reopen(&mut self, now: u64) {
        self.leases.retain(|_, lease| lease.is_held());
        for lease in self.leases.values_mut() {
            lease.phase = Phase::Live { deadline: now + LEASE };
            lease.recovered = true;
            for owed in lease.subjects.values_mut() {
                if let Owed::Reported(value) = owed {
                    *value = None;
                }
            }
        }
        self.seats.values_mut().for_each(|seat| seat.last_used = now);
    }
}

#[derive(Debug, Clone)]
struct Model {
    /// Those known, and whether they are registered.
    clients: BTreeMap<u64, bool>,
    services: Vec<ServiceModel>,
}

impl Model {
    fn is_registered(&self, client: u64) -> bool {
        self.clients.get(&client) == Some(&true)
    }
}

/// One token that was given out, as its holder keeps it.
#[derive(Debug, Clone)]
struct Given {
    service: usize,
    client: u64,
    token: LeaseToken,
    subjects: Vec<u64>,
}

/// The hub and the model, side by side.
struct World {
    clock: ManualClock,
    disk: MemoryDisk,
    hub: Hub,
    services: Vec<ServiceHandle<Check>>,
    clients: BTreeMap<u64, Client>,
    seats: BTreeMap<(usize, u64), Seat<Check>>,
    given: Vec<Given>,
    tickets: BTreeMap<usize, Ticket>,
    next_ticket: usize,
    now: u64,
    model: Model,
    /// The model as the journal has it.
    durable: Model,
}

fn open(disk: &MemoryDisk, clock: &ManualClock) -> (Hub, Vec<ServiceHandle<Check>>) {
    let hub = Hub::builder().manual().clock(clock.clone()).seed(7).open_in_memory(disk).expect("open");
    let services = ["first", "second"].map(|id| hub.register(Check { id }).expect("register")).to_vec();
    (hub, services)
}

impl World {
    fn new() -> Self {
        let (clock, disk) = (ManualClock::default(), MemoryDisk::new());
        let (hub, services) = open(&disk, &clock);
        let model = Model { clients: BTreeMap::new(), services: vec![ServiceModel::new(); SERVICES] };
        Self {
            clock,
            disk,
            hub,
            services,
            clients: BTreeMap::new(),
            seats: BTreeMap::new(),
            given: Vec::new(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            now: 0,
            durable: model.clone(),
            model,
        }
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Register { client } => self.register(*client),
            Op::Deregister { client } => self.deregister(*client),
            Op::RegisterService { service } => {
                let id = self.services[*service].id().to_owned();
                let id = ["first", "second"].into_iter().find(|known| *known == id).expect("one of ours");
                self.services[*service] = self.hub.register(Check { id }).expect("registered again");
            }
            Op::Activate { client, service } => self.activate(*client, *service),
            Op::Claim { client, service, n } => {
                self.claim(*client, *service, *n);
            }
            Op::Submit { token, by, what } => self.with_token(*token, *by, |world, id, by| world.submit(id, by, what)),
            Op::Renew { token, by } => self.with_token(*token, *by, Self::renew),
            Op::Release { token, by } => self.with_token(*token, *by, |world, id, by| world.release(id, by, false)),
            Op::DropGuard { token, by } => self.with_token(*token, *by, |world, id, by| world.release(id, by, true)),
            Op::Forge { token, by, digit } => {
                self.with_token(*token, Some(*by), |world, id, by| world.forge(id, by, *digit));
            }
            Op::Elsewhere { token, by } => self.elsewhere(*token, *by),
            Op::Add { service, keys } => self.add(*service, keys),
            Op::Advance { ms } => {
                self.clock.advance(Duration::from_millis(*ms));
                self.now += ms;
            }
            Op::Tick => self.tick(),
            Op::SetState { service, state } => self.set_state(*service, *state),
            Op::Suspend { client, service, suspended } => self.suspend(*client, *service, *suspended),
            Op::Crash { power, with_store } => self.crash(*power, *with_store),
        }
        self.check();
    }

    fn register(&mut self, client: u64) {
        let registered =
            self.hub.register_client(&Registration::new(client, format!("c{client}"))).expect("registered");
        assert_eq!(registered.new, !self.model.is_registered(client), "R: `new` says whether anything changed");
        self.clients.insert(client, registered.client);
        self.model.clients.insert(client, true);
    }

    fn deregister(&mut self, client: u64) {
        let answer = self.hub.deregister_client(client, &format!("c{client}"));
        if !self.model.is_registered(client) {
            assert_eq!(answer.err(), Some(DeregisterError::NotRegistered { id: client }));
            return;
        }
        drop(answer.expect("deregistered"));
        self.model.clients.insert(client, false);
        for service in &mut self.model.services {
            service.end_those(|lease| lease.client == client);
            if let Some(seat) = service.seats.get_mut(&client).filter(|seat| seat.state == SeatState::Active) {
                seat.state = SeatState::Inactive;
            }
        }
    }

    fn activate(&mut self, client: u64, service: usize) {
        let Some(handle) = self.clients.get(&client) else { return };
        let answer = handle.activate(&self.services[service]);
        let registered = self.model.is_registered(client);
        let model = &mut self.model.services[service];
        let suspended = model.seats.get(&client).is_some_and(|seat| seat.state == SeatState::Suspended);
        let expected = match model.state {
            _ if !registered => Some(ActivateError::NotRegistered),
            state @ (ServiceState::Draining | ServiceState::Revoked) => Some(ActivateError::NotReady { state }),
            _ if suspended => Some(ActivateError::Suspended),
            _ => None,
        };
        match answer {
            Ok(seat) => {
                assert_eq!(expected, None);
                self.seats.insert((service, client), seat);
                let now = self.now;
                let seat = model.seat(client);
                seat.state = SeatState::Active;
                seat.last_used = now;
            }
            Err(error) => assert_eq!(Some(error), expected),
        }
    }

    /// How many buckets it got.
    fn claim(&mut self, client: u64, service: usize, n: u32) -> usize {
        let Some(handle) = self.seats.get(&(service, client)) else { return 0 };
        let answer = handle.claim(Ask::buckets(n));
        let (registered, now) = (self.model.is_registered(client), self.now);
        let model = &mut self.model.services[service];
        let seat = model.seat(client).state;
        let expected = match (seat, model.state) {
            _ if !registered => Some(ClaimError::NotRegistered),
            (SeatState::Inactive, _) => Some(ClaimError::Inactive),
            (SeatState::Suspended, _) => Some(ClaimError::Suspended),
            (_, state @ (ServiceState::Draining | ServiceState::Revoked)) => Some(ClaimError::NotReady { state }),
            _ if n == 0 => Some(ClaimError::Nothing),
            _ => None,
        };
        let claim = match (answer, expected) {
            (Ok(claim), None) => claim,
            (answer, expected) => {
                assert_eq!(answer.err(), expected);
                return 0;
            }
        };
        model.seat(client).last_used = now;
        let room = (n.min(PER_CLAIM) as usize).min(IN_FLIGHT as usize - model.held_by(client));
        let grant = match claim {
            Claim::Empty(empty) => {
                assert_eq!(empty.reason == EmptyReason::QuotaFull, room == 0);
                assert!(empty.reason != EmptyReason::Paused || model.state == ServiceState::Paused);
                assert!(empty.retry_after > Duration::ZERO);
                return 0;
            }
            Claim::Leased(grant) => grant,
        };
        assert_eq!((grant.asked, grant.limit, grant.clamped), (n, PER_CLAIM, n > PER_CLAIM));
        assert!((1..=room).contains(&grant.len()), "{} leases for room of {room}", grant.len());
        let got = grant.len();
        for lease in grant {
            let id = self.given.len();
            let subjects: Vec<u64> = lease.subjects().collect();
            let pending = model.pending();
            assert!((1..=BUCKET).contains(&subjects.len()), "a bucket of {subjects:?}");
            for subject in &subjects {
                assert!(pending.contains(subject), "I1: {subject} is handed out, pending are {pending:?}");
            }
            let owed: BTreeMap<u64, Owed> = subjects.iter().map(|key| (*key, Owed::Yes)).collect();
            assert_eq!(owed.len(), subjects.len(), "a subject twice in one bucket");
            let phase = Phase::Live { deadline: now + LEASE };
            model.leases.insert(id, LeaseModel { client, subjects: owed, phase, recovered: false });
            let seat = model.seat(client);
            seat.buckets.assigned += 1;
            seat.subjects.assigned += subjects.len() as u64;
            let token = Lease::into_token(lease);
            assert!(self.given.iter().all(|other| other.token != token), "a token names one lease for ever");
            self.given.push(Given { service, client, token, subjects });
        }
        got
    }

    /// Runs a call on a token, by its holder or by another client; nothing if that client has no seat.
    fn with_token(&mut self, token: Index, by: Option<u64>, call: impl FnOnce(&mut Self, usize, u64)) {
        if self.given.is_empty() {
            return;
        }
        let id = token.index(self.given.len());
        let by = by.unwrap_or(self.given[id].client);
        if self.seats.contains_key(&(self.given[id].service, by)) {
            call(self, id, by);
        }
    }

    /// What a token is worth in the hands of `by`.
    fn admits(&self, id: usize, by: u64) -> Result<(), LeaseError> {
        if !self.model.is_registered(by) {
            return Err(LeaseError::NotRegistered);
        }
        let service = &self.model.services[self.given[id].service];
        if service.state == ServiceState::Revoked {
            return Err(LeaseError::NotReady { state: service.state });
        }
        match service.leases.get(&id) {
            None => Err(LeaseError::Over),
            Some(lease) if lease.client != by => Err(LeaseError::NotOwner),
            Some(_) => Ok(()),
        }
    }

    /// What a token that proves nothing is answered at `service`.
    fn refuses(&self, service: usize, by: u64) -> LeaseError {
        match self.model.services[service].state {
            _ if !self.model.is_registered(by) => LeaseError::NotRegistered,
            state @ ServiceState::Revoked => LeaseError::NotReady { state },
            _ => LeaseError::NotOwner,
        }
    }

    fn seat_of(&self, id: usize, by: u64) -> &Seat<Check> {
        &self.seats[&(self.given[id].service, by)]
    }

    fn submit(&mut self, id: usize, by: u64, what: &Reports) {
        let Given { token, ref subjects, .. } = self.given[id];
        let chosen = |mask: u8, place: usize| mask >> place & 1 == 1;
        let mut reports = Vec::new();
        for (place, key) in subjects.iter().enumerate().filter(|(place, _)| chosen(what.mask, *place)) {
            reports.push((*key, if chosen(what.refused, place) { REFUSED } else { what.value }));
        }
        if what.twice {
            reports.extend(reports.first().copied());
        }
        if what.foreign {
            reports.push((FOREIGN, what.value));
        }
        let seat = self.seat_of(id, by);
        let answer =
            if what.last { seat.submit(&token, reports.clone()) } else { seat.report(&token, reports.clone()) };
        let expected = self.admits(id, by);
        let submitted = match (answer, expected) {
            (Ok(submitted), Ok(())) => submitted,
            (answer, expected) => {
                assert_eq!(answer.map(|_| ()), expected);
                return;
            }
        };
        self.submitted(id, &reports, what.last, submitted);
    }

    /// Predicts the outcomes of an admitted submit, one by one, and what they change.
    fn submitted(&mut self, id: usize, reports: &[(u64, u32)], last: bool, submitted: Submitted) {
        let (now, ticket) = (self.now, self.next_ticket);
        let model = &mut self.model.services[self.given[id].service];
        let lease = model.leases.get_mut(&id).expect("admitted");
        let before = lease.clone();
        let (client, recovered) = (before.client, before.recovered);
        let mut seen = BTreeSet::new();
        let (mut accepted, mut refused, mut conflicts) = (Vec::new(), false, 0);
        for ((key, value), outcome) in reports.iter().zip(&submitted.outcomes) {
            let judged = matches!(before.subjects.get(key), Some(Owed::Yes | Owed::PutBack)) && !seen.contains(key);
            let expected = match before.subjects.get(key) {
                None => Outcome::NotInBucket,
                Some(_) if judged && *value >= REFUSED => Outcome::Rejected { reason: "refused".to_owned() },
                Some(_) if !seen.insert(*key) => Outcome::AlreadyDone,
                Some(Owed::Yes) => Outcome::Accepted,
                Some(Owed::PutBack) => Outcome::Stale,
                Some(Owed::Reported(Some(first))) if first != value => Outcome::Conflict,
                Some(Owed::Reported(_)) => Outcome::AlreadyDone,
            };
            // A subject whose block of pending ones is finished has no name in a recovered lease.
            let nameless = recovered && matches!(before.subjects.get(key), Some(Owed::Reported(_)));
            let tolerated = nameless && expected == Outcome::AlreadyDone && *outcome == Outcome::NotInBucket;
            assert!(*outcome == expected || tolerated, "{key}: {outcome:?} instead of {expected:?}");
            match expected {
                Outcome::Accepted => {
                    accepted.push((*key, *value));
                    lease.subjects.insert(*key, Owed::Reported(Some(*value)));
                }
                Outcome::Rejected { .. } => refused = true,
                Outcome::Conflict => conflicts += 1,
                _ => {}
            }
        }
        assert_eq!(reports.len(), submitted.outcomes.len());
        assert_eq!(submitted.accepted(), accepted.len());
        for (key, value) in &accepted {
            assert!(model.done.insert(*key, (*value, client)).is_none(), "G7: {key} is accepted twice");
            model.queue.push(Change::Reported { key: *key, value: *value, client, ticket });
        }
        let seat = model.seat(client);
        seat.subjects.finished += accepted.len() as u64;
        seat.conflicts += conflicts;
        let in_bucket = submitted
            .outcomes
            .iter()
            .any(|outcome| !matches!(outcome, Outcome::NotInBucket | Outcome::Rejected { .. }));
        if in_bucket {
            seat.last_used = now;
        }
        if !accepted.is_empty() && model.leases[&id].owed().is_empty() {
            model.end(id);
        }
        if last && !refused && model.leases[&id].is_held() {
            model.seat(client).last_used = now;
        }
        let put_back = if last && !refused { model.end(id) } else { 0 };
        assert_eq!(u64::from(submitted.put_back), put_back);
        assert_eq!(submitted.kept, model.leases[&id].is_held());
        if !accepted.is_empty() {
            self.keep(submitted.ticket);
        }
    }

    fn keep(&mut self, ticket: Ticket) {
        self.tickets.insert(self.next_ticket, ticket);
        self.next_ticket += 1;
    }

    fn renew(&mut self, id: usize, by: u64) {
        let answer = self.seat_of(id, by).renew(&self.given[id].token);
        let (admitted, now) = (self.admits(id, by), self.now);
        let model = &mut self.model.services[self.given[id].service];
        let expected = admitted.and_then(|()| {
            let lease = model.leases.get_mut(&id).expect("admitted");
            match &mut lease.phase {
                Phase::Live { deadline } => {
                    *deadline = (now + LEASE).max(*deadline);
                    Ok(Duration::from_millis(*deadline - now))
                }
                Phase::Dead { .. } => Err(LeaseError::Dead),
                Phase::Over => Err(LeaseError::Over),
            }
        });
        if expected.is_ok() {
            model.seat(by).last_used = now;
        }
        assert_eq!(answer, expected);
    }

    fn release(&mut self, id: usize, by: u64, as_guard: bool) {
        let token = self.given[id].token;
        let seat = self.seat_of(id, by);
        let answer = if as_guard { seat.resume(&token).map(drop) } else { seat.release(&token).map(|_| ()) };
        let admitted = self.admits(id, by);
        let model = &mut self.model.services[self.given[id].service];
        let held = model.leases.get(&id).is_some_and(LeaseModel::is_held);
        let expected = admitted.and(if held { Ok(()) } else { Err(LeaseError::Over) });
        assert_eq!(answer, expected);
        if expected.is_ok() {
            model.end(id);
            model.seat(by).last_used = self.now;
        }
    }

    /// A token with one wrong digit in its secret part proves nothing.
    fn forge(&mut self, id: usize, by: u64, digit: usize) {
        let mut text = self.given[id].token.to_string();
        let wrong = if &text[digit..=digit] == "0" { "1" } else { "0" };
        text.replace_range(digit..=digit, wrong);
        let forged: LeaseToken = text.parse().expect("well formed");
        let expected = self.refuses(self.given[id].service, by);
        let seat = self.seat_of(id, by);
        assert_eq!(seat.submit(&forged, [(0, 0)]).map(|_| ()), Err(expected.clone()));
        assert_eq!(seat.release(&forged), Err(expected.clone()));
        assert_eq!(seat.resume(&forged).map(|_| ()), Err(expected.clone()));
        assert_eq!(seat.renew(&forged), Err(expected));
    }

    /// A token of one service proves nothing at another.
    fn elsewhere(&mut self, token: Index, by: u64) {
        if self.given.is_empty() {
            return;
        }
        let given = &self.given[token.index(self.given.len())];
        let Some(seat) = self.seats.get(&(1 - given.service, by)) else { return };
        let expected = self.refuses(1 - given.service, by);
        assert_eq!(seat.submit(&given.token, [(given.subjects[0], 0)]).map(|_| ()), Err(expected.clone()));
        assert_eq!(seat.release(&given.token), Err(expected));
    }

    fn add(&mut self, service: usize, keys: &[u64]) {
        for key in keys {
            let ticket = self.services[service].add(key).expect("taken in");
            self.model.services[service].queue.push(Change::Added { key: *key, ticket: self.next_ticket });
            self.keep(ticket);
        }
    }

    fn tick(&mut self) {
        self.hub.tick();
        let mut taken = BTreeMap::new();
        for service in &mut self.model.services {
            service.write(&mut taken);
            service.sweep(self.now);
        }
        for (id, ticket) in std::mem::take(&mut self.tickets) {
            let intake = ticket.wait_visible().expect("visible after a tick");
            let (added, duplicates, cut) = taken[&id];
            assert_eq!((intake.added, intake.duplicates, intake.cut), (added, duplicates, cut), "ticket {id}");
        }
        self.durable = self.model.clone();
        self.check_results();
    }

    fn set_state(&mut self, service: usize, state: ServiceState) {
        let handle = &self.services[service];
        let ticket = match state {
            ServiceState::Active => handle.activate(),
            ServiceState::Paused => handle.pause(),
            ServiceState::Draining => handle.revoke(Revoke::Drain),
            _ => handle.revoke(Revoke::Immediate),
        };
        drop(ticket.expect("changed"));
        let model = &mut self.model.services[service];
        model.state = state;
        if state == ServiceState::Revoked {
            model.end_those(|_| true);
        }
    }

    fn suspend(&mut self, client: u64, service: usize, suspended: bool) {
        let handle = &self.services[service];
        let answer = if suspended { handle.suspend(client) } else { handle.reinstate(client) };
        if !self.model.clients.contains_key(&client) {
            assert_eq!(answer.err(), Some(AdminError::UnknownClient { id: client }));
            return;
        }
        drop(answer.expect("changed"));
        let model = &mut self.model.services[service];
        let seat = model.seat(client);
        if suspended {
            seat.state = SeatState::Suspended;
            model.end_those(|lease| lease.client == client);
        } else if seat.state == SeatState::Suspended {
            seat.state = SeatState::Inactive;
        }
    }

    /// Everything since the last tick is lost; everything before it is there.
    fn crash(&mut self, power: bool, with_store: bool) {
        let mut disk = self.disk.after(if power { Crash::Power } else { Crash::Process });
        if !with_store {
            disk = disk.without_store();
        }
        self.tickets.clear();
        self.seats.clear();
        (self.hub, self.services) = open(&disk, &self.clock);
        self.disk = disk;
        self.model = self.durable.clone();
        let now = self.now;
        self.model.services.iter_mut().for_each(|service| service.reopen(now));
        // The journal is no further than the model: what a second crash finds.
        self.durable = self.model.clone();
        self.clients = self.model.clients.keys().filter_map(|id| Some((*id, self.hub.client(*id)?))).collect();
        assert!(self.model.clients.keys().eq(self.clients.keys()), "clients are found again");
        for (service, model) in self.model.services.iter().enumerate() {
            let ready = model.state.is_ready();
            for (client, _) in model.seats.iter().filter(|(_, seat)| ready && seat.state == SeatState::Active) {
                // Changes nothing: it is how the holder comes by a handle.
                let seat = self.clients[client].activate(&self.services[service]).expect("still active");
                self.seats.insert((service, *client), seat);
            }
        }
        self.check_results();
    }

    /// G7: what reads see, subject by subject.
    fn check_results(&self) {
        for (service, model) in self.services.iter().zip(&self.model.services) {
            for key in model.known.keys().copied().chain([FOREIGN]) {
                let found = service.result(&key).expect("readable").map(|finding| {
                    assert_eq!((finding.version, finding.depth), (1, model.known[&key]));
                    (finding.report, finding.client.value())
                });
                let expected = model.done.get(&key).filter(|_| model.visible.contains(&key)).copied();
                assert_eq!(found, expected, "G7: the record of {key}");
                let state = match (model.known.contains_key(&key), expected) {
                    (false, _) => SubjectState::Unknown,
                    (true, None) => SubjectState::Pending,
                    (true, Some(_)) => SubjectState::Done,
                };
                assert_eq!(service.subject_state(&key).expect("readable"), state);
            }
        }
    }

    /// What holds after every step.
    fn check(&self) {
        let mut total = Vec::new();
        for (place, (service, model)) in self.services.iter().zip(&self.model.services).enumerate() {
            let (leased, pending) = (model.leased(), model.pending());
            let owed: usize = model.leases.values().map(|lease| lease.owed().len()).sum();
            assert_eq!(owed, leased.len(), "I1: no subject in two live leases");
            assert_eq!(model.known.len(), pending.len() + leased.len() + model.done.len(), "G8");
            let stats = service.stats();
            assert_eq!(stats.state, model.state);
            assert_eq!(stats.subjects_known, model.known.len() as u64, "G8: known");
            assert_eq!(stats.subjects_done, model.visible.len() as u64, "G8: done");
            assert_eq!((stats.duplicates, stats.cut_by_depth), (model.duplicates, model.cut_by_depth));
            assert_eq!(stats.work.subjects_held, leased.len() as u64, "G8: leased");
            assert!(stats.work.adds_up(), "I2: {:?}", stats.work);
            let active = model.seats.values().filter(|seat| seat.state == SeatState::Active).count();
            assert_eq!(stats.active_seats as usize, active, "active seats");
            let mut sum = Vec::new();
            for client in 1..=CLIENTS {
                sum.push(self.check_seat(place, client));
            }
            assert_eq!(figures(&stats.work), add(&sum), "I2: a service is the sum of its seats");
            total.push(figures(&stats.work));
        }
        let work = self.hub.stats().work;
        assert!(work.adds_up(), "I2: {work:?}");
        assert_eq!(figures(&work), add(&total), "I2: the hub is the sum of its services");
        for (id, client) in &self.clients {
            assert_eq!(client.is_registered(), self.model.is_registered(*id));
        }
    }

    fn check_seat(&self, service: usize, client: u64) -> Figures {
        let model = &self.model.services[service];
        let stats = self.services[service].seat_stats(client);
        let Some(expected) = model.seats.get(&client) else {
            let untouched =
                |stats: &commissary::SeatStats| stats.state == SeatState::Inactive && stats.work == Work::default();
            assert!(stats.as_ref().is_none_or(untouched), "nobody activated {client}: {stats:?}");
            return Figures::default();
        };
        let Some(stats) = stats else {
            assert!(expected.state == SeatState::Inactive && expected.buckets == Counts::default());
            return Figures::default();
        };
        assert_eq!(stats.state, expected.state, "seat of {client} at service {service}");
        let held = model.held_by(client) as u64;
        let owed: usize = model.leases.values().filter(|lease| lease.client == client).map(|l| l.owed().len()).sum();
        let (buckets, subjects) = (expected.buckets, expected.subjects);
        let figures_expected = [
            buckets.assigned,
            buckets.finished,
            buckets.put_back,
            expected.expired,
            held,
            subjects.assigned,
            subjects.finished,
            subjects.put_back,
            owed as u64,
        ];
        assert_eq!(figures(&stats.work), figures_expected, "I2: work of {client} at service {service}");
        assert!(stats.work.adds_up(), "I2: {:?}", stats.work);
        assert_eq!(stats.faults.conflicts, expected.conflicts, "conflicts of {client}");
        if let Some(seat) = self.seats.get(&(service, client)) {
            self.check_leases(service, client, seat);
        }
        figures_expected
    }

    /// I4, I7: a client holds exactly what the model says, and for as long.
    fn check_leases(&self, service: usize, client: u64, seat: &Seat<Check>) {
        let views = match seat.leases() {
            Ok(views) if self.model.is_registered(client) => views,
            answer => {
                assert_eq!(answer.err(), Some(LeaseError::NotRegistered));
                return;
            }
        };
        let found: BTreeMap<String, _> = views
            .into_iter()
            .map(|view| {
                let subjects: BTreeSet<u64> = view.subjects.iter().copied().collect();
                (view.token.to_string(), (subjects, view.time_left, view.dead))
            })
            .collect();
        let held = self.model.services[service].leases.iter().filter(|(_, lease)| lease.client == client);
        let expected: BTreeMap<String, _> = held
            .filter(|(_, lease)| lease.is_held())
            .map(|(id, lease)| {
                let (left, dead) = match lease.phase {
                    Phase::Live { deadline } => (deadline.saturating_sub(self.now), false),
                    _ => (0, true),
                };
                (self.given[*id].token.to_string(), (lease.owed(), Duration::from_millis(left), dead))
            })
            .collect();
        assert_eq!(found, expected, "what {client} holds of service {service}");
    }

    /// Nothing is lost: with one willing client everything that is known gets done.
    fn drain(&mut self) {
        self.step(&Op::Register { client: 1 });
        for service in 0..SERVICES {
            self.step(&Op::SetState { service, state: ServiceState::Active });
            self.step(&Op::Suspend { client: 1, service, suspended: false });
        }
        for ms in [LEASE, GRACE, LINGER] {
            self.step(&Op::Advance { ms });
            self.step(&Op::Tick);
        }
        for service in 0..SERVICES {
            while !self.model.services[service].pending().is_empty() {
                self.step(&Op::Tick);
                self.step(&Op::Advance { ms: LINGER });
                self.step(&Op::Tick);
                self.step(&Op::Activate { client: 1, service });
                let got = self.claim(1, service, PER_CLAIM);
                assert!(got > 0, "pending but not handed out: {:?}", self.model.services[service].pending());
                let whole = Reports { mask: 7, refused: 0, foreign: false, twice: false, value: 0, last: true };
                for id in self.given.len() - got..self.given.len() {
                    self.submit(id, 1, &whole);
                }
                self.step(&Op::Tick);
            }
            let stats = self.services[service].stats();
            assert_eq!(stats.subjects_done, stats.subjects_known, "everything that was taken in is done");
        }
    }
}

type Figures = [u64; 9];

fn figures(work: &Work) -> Figures {
    [
        work.buckets_assigned,
        work.buckets_processed,
        work.buckets_put_back,
        work.buckets_expired,
        work.buckets_held,
        work.subjects_assigned,
        work.subjects_reported,
        work.subjects_put_back,
        work.subjects_held,
    ]
}

fn add(all: &[Figures]) -> Figures {
    let mut sum = Figures::default();
    for figures in all {
        sum.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
    }
    sum
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/model.proptest-regressions"))),
        ..ProptestConfig::default()
    })]

    /// G7, G8, I1, I2, I4: whatever clients, administrators, time and crashes do, the hub answers as the model does.
    #[test]
    fn the_hub_does_what_the_model_says(ops in ops()) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
        }
        world.drain();
    }
}
