//! The hub and the model, side by side: each call is made to both.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use commissary::{
    ActivateError, AdminError, Ask, Claim, ClaimError, Client, Crash, DeregisterError, EmptyReason, Hub, Lease,
    LeaseError, LeaseToken, Limits, ManualClock, MemoryDisk, Outcome, Registration, Revoke, Seat, SeatState,
    ServiceHandle, ServiceState, SubjectState, Submitted, Ticket,
};

use super::op::{by_key, forged};
use super::reference::{Change, LeaseModel, Model, Owed, Phase, ServiceModel, Taken};
use super::{BUCKET, Check, IN_FLIGHT, LEASE, Op, PER_CLAIM, REFUSED, SERVICES, Shown, Which, revealed};

/// One token that was given out, as its holder keeps it.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) service: usize,
    pub(super) client: u64,
    pub(super) token: LeaseToken,
    pub(super) subjects: Vec<u64>,
}

/// A token as it is shown: by whom, and at which service.
#[derive(Debug, Clone, Copy)]
struct Showing {
    id: usize,
    by: u64,
    service: usize,
}

/// How a subject was: its state, and its record with who made it.
pub(super) type Look = (SubjectState, Option<(u32, u64)>);

/// The hub and the model, side by side.
pub(crate) struct World {
    clock: ManualClock,
    disk: MemoryDisk,
    pub(super) hub: Hub,
    pub(super) services: Vec<ServiceHandle<Check>>,
    pub(super) clients: BTreeMap<u64, Client>,
    pub(super) seats: BTreeMap<(usize, u64), Seat<Check>>,
    pub(super) given: Vec<Given>,
    tickets: BTreeMap<usize, Ticket>,
    next_ticket: usize,
    pub(super) now: u64,
    pub(super) model: Model,
    /// The model as the journal has it.
    durable: Model,
    /// Every tick looks at every subject, not only at those that changed: a crash and the end do in any case.
    pub(super) is_thorough: bool,
    /// How subjects were when they were last looked at, by service.
    pub(super) looked: [BTreeMap<u64, Look>; SERVICES],
    /// What happened, by name: that a run was not about nothing.
    pub(crate) seen: BTreeSet<&'static str>,
}

fn open(disk: &MemoryDisk, clock: &ManualClock) -> (Hub, Vec<ServiceHandle<Check>>) {
    // Places for notices are made with the hub, and a run opens many.
    let limits = Limits { notices: 8, ..Limits::default() };
    let builder = Hub::builder().manual().clock(clock.clone()).seed(7).limits(limits);
    let hub = builder.open_in_memory(disk).expect("open");
    let services = ["first", "second"].map(|id| hub.register(Check { id }).expect("register")).to_vec();
    (hub, services)
}

fn name_of(outcome: &Outcome, lease: &LeaseModel, (key, value): (u64, u32)) -> &'static str {
    match outcome {
        Outcome::Accepted if lease.recovered => "accepted on a recovered lease",
        Outcome::Accepted if lease.phase.is_dead() => "accepted on a dead lease",
        Outcome::Accepted if !revealed(key, value).is_empty() => "found",
        Outcome::Accepted => "accepted",
        Outcome::AlreadyDone => "done already",
        Outcome::Conflict => "another report",
        Outcome::Rejected { .. } => "rejected",
        Outcome::Stale => "put back before",
        _ => "not in the bucket",
    }
}

impl World {
    pub(crate) fn new(is_thorough: bool) -> Self {
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
            is_thorough,
            looked: [const { BTreeMap::new() }; SERVICES],
            seen: BTreeSet::new(),
        }
    }

    pub(crate) fn step(&mut self, op: &Op) {
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
            Op::Submit { shown, reports, last } => {
                self.with_token(*shown, |world, showing| world.submit(showing, reports, *last));
            }
            Op::Renew { shown } => self.with_token(*shown, Self::renew),
            Op::Release { shown } => self.with_token(*shown, |world, showing| world.release(showing, false)),
            Op::Resume { shown } => self.with_token(*shown, |world, showing| world.release(showing, true)),
            Op::Forge { shown, digit } => self.with_token(*shown, |world, showing| world.forge(showing, *digit)),
            Op::Add { service, keys } => self.add(*service, keys),
            Op::Advance { ms } => {
                self.clock.advance(Duration::from_millis(*ms));
                self.now += ms;
            }
            Op::Tick => self.tick(),
            Op::SetState { service, state } => self.set_state(*service, *state),
            Op::Suspend { client, service, suspended } => self.suspend(*client, *service, *suspended),
            Op::Crash { how, with_store, torn: None } => self.crash(*how, *with_store),
            Op::Close { with_store, compact: false } => self.close(*with_store),
            other => unreachable!("not of this model: {other:?}"),
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
    pub(super) fn claim(&mut self, client: u64, service: usize, n: u32) -> usize {
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
                self.seen.insert(match expected {
                    Some(ClaimError::Inactive) => "inactive seat",
                    Some(ClaimError::Suspended) => "suspended seat",
                    Some(ClaimError::NotReady { .. }) => "service not ready",
                    _ => "refused claim",
                });
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
                self.seen.insert(if room == 0 { "quota full" } else { "nothing to claim" });
                return 0;
            }
            Claim::Leased(grant) => grant,
        };
        assert_eq!((grant.asked, grant.limit, grant.clamped), (n, PER_CLAIM, n > PER_CLAIM));
        assert!((1..=room).contains(&grant.len()), "{} leases for room of {room}", grant.len());
        let got = grant.len();
        self.seen.insert("granted");
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

    /// Runs a call on a token; nothing if whoever shows it has no seat there.
    fn with_token(&mut self, shown: Shown, call: impl FnOnce(&mut Self, Showing)) {
        let Some(id) = shown.token.of(self.given.len()) else { return };
        let by = shown.by.unwrap_or(self.given[id].client);
        let service = (self.given[id].service + shown.off) % SERVICES;
        if self.seats.contains_key(&(service, by)) {
            call(self, Showing { id, by, service });
        }
    }

    /// What a token is worth as it is shown.
    fn admits(&self, Showing { id, by, service }: Showing) -> Result<(), LeaseError> {
        if service != self.given[id].service || !self.model.is_registered(by) {
            return Err(self.refuses(service, by));
        }
        let service = &self.model.services[service];
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

    fn seat_of(&self, Showing { by, service, .. }: Showing) -> &Seat<Check> {
        &self.seats[&(service, by)]
    }

    fn submit(&mut self, showing: Showing, reports: &[(Which, u32)], last: bool) {
        let Given { token, ref subjects, .. } = self.given[showing.id];
        let reports = by_key(reports, subjects, &[]);
        let seat = self.seat_of(showing);
        let answer = if last { seat.submit(&token, reports.clone()) } else { seat.report(&token, reports.clone()) };
        let expected = self.admits(showing);
        let submitted = match (answer, expected) {
            (Ok(submitted), Ok(())) => submitted,
            (answer, expected) => {
                self.refused(&expected);
                assert_eq!(answer.map(|_| ()), expected);
                return;
            }
        };
        self.submitted(showing.id, &reports, last, submitted);
    }

    fn refused<T>(&mut self, expected: &Result<T, LeaseError>) {
        if let Err(error) = expected {
            self.seen.insert(match error {
                LeaseError::Over => "lease over",
                LeaseError::NotOwner => "not the owner",
                LeaseError::Dead => "dead lease",
                LeaseError::NotReady { .. } => "service revoked",
                _ => "refused call",
            });
        }
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
            self.seen.insert(name_of(&expected, &before, (*key, *value)));
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

    fn renew(&mut self, showing: Showing) {
        let Showing { id, by, .. } = showing;
        let answer = self.seat_of(showing).renew(&self.given[id].token);
        let (admitted, now) = (self.admits(showing), self.now);
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
        self.refused(&expected);
        assert_eq!(answer, expected);
    }

    fn release(&mut self, showing: Showing, as_guard: bool) {
        let Showing { id, by, .. } = showing;
        let token = self.given[id].token;
        let seat = self.seat_of(showing);
        let answer = if as_guard { seat.resume(&token).map(drop) } else { seat.release(&token).map(|_| ()) };
        let admitted = self.admits(showing);
        let model = &mut self.model.services[self.given[id].service];
        let held = model.leases.get(&id).is_some_and(LeaseModel::is_held);
        let expected = admitted.and(if held { Ok(()) } else { Err(LeaseError::Over) });
        assert_eq!(answer, expected);
        if expected.is_ok() {
            model.end(id);
            model.seat(by).last_used = self.now;
            self.seen.insert("given back");
        }
        self.refused(&expected);
    }

    /// A token with one wrong digit in its secret part proves nothing.
    fn forge(&mut self, showing: Showing, digit: usize) {
        let forged = forged(self.given[showing.id].token, digit);
        let expected = self.refuses(showing.service, showing.by);
        let seat = self.seat_of(showing);
        assert_eq!(seat.submit(&forged, [(0, 0)]).map(|_| ()), Err(expected.clone()));
        assert_eq!(seat.release(&forged), Err(expected.clone()));
        assert_eq!(seat.resume(&forged).map(|_| ()), Err(expected.clone()));
        assert_eq!(seat.renew(&forged), Err(expected));
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
            if service.sweep(self.now) {
                self.seen.insert("expired");
            }
        }
        self.written(&taken);
        self.check_results(false);
    }

    /// Every ticket tells what it took in, and a crash takes nothing of that.
    fn written(&mut self, taken: &BTreeMap<usize, Taken>) {
        for (id, ticket) in std::mem::take(&mut self.tickets) {
            let intake = ticket.wait_visible().expect("visible after a tick");
            let (added, duplicates, cut) = taken[&id];
            assert_eq!((intake.added, intake.duplicates, intake.cut), (added, duplicates, cut), "ticket {id}");
            if cut > 0 {
                self.seen.insert("found too deep");
            }
        }
        self.durable = self.model.clone();
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
    fn crash(&mut self, how: Crash, with_store: bool) {
        self.seen.insert(if how == Crash::Power { "power lost" } else { "process killed" });
        self.tickets.clear();
        self.reopen(how, with_store);
    }

    /// Nothing is lost, even if the power is right after.
    fn close(&mut self, with_store: bool) {
        self.seen.insert("closed");
        self.hub.close().expect("memory takes everything");
        let mut taken = BTreeMap::new();
        for service in &mut self.model.services {
            service.write(&mut taken);
        }
        self.written(&taken);
        self.reopen(Crash::Power, with_store);
    }

    fn reopen(&mut self, crash: Crash, with_store: bool) {
        let mut disk = self.disk.after(crash);
        if !with_store {
            self.seen.insert("store lost");
            disk = disk.without_store();
        }
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
        self.check_results(true);
    }
}
