//! The world: a hub, its disk, its clock, the reference beside it, and what is done to them in the order of virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use super::Bug;
use super::chance::{Chance, Checked, Seen, Trace, Violation, must};
use super::clients::Program;
use super::nemesis::Down;
use super::op::Op;
use super::reference::{
    Bucket, Effect, FINDER, FOUND, Found, FoundService, Held, Known, LANE_KEYS, LANES, REJECTED, SERVICES, State,
    compare_leases, revealed,
};
use crate::{
    Builder, Durability, Hub, HubError, Key, LaneKey, LeaseToken, ManualClock, MemoryDisk, OpenError, Policy, Progress,
    Reporter, SeatState, Service, ServiceHandle, SubjectState, Symptom, Ticket, TicketError, Verdict, Watch,
};

/// The times and sizes of a run, ms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub(super) lease: u64,
    pub(super) grace: u64,
    pub(super) linger: u64,
    pub(super) bucket: usize,
    pub(super) claim: u32,
}

impl Scale {
    fn draw(chance: &mut Chance) -> Self {
        let lease = chance.pick(&[1_000, 60_000, 7_200_000, 3 * 86_400_000, 20 * 86_400_000]);
        Self {
            lease,
            grace: lease / chance.pick(&[2, 8, 100]),
            linger: lease / 100,
            bucket: 1 + chance.index(5),
            claim: chance.pick(&[1, 2, 3, 4]),
        }
    }
}

/// The services: plain, one that reveals, one with lanes.
pub(super) struct Sim {
    kind: usize,
    scale: Scale,
}

impl Service for Sim {
    type Subject = u64;
    type Report = u32;

    fn id(&self) -> &str {
        ["plain", "finder", "lanes"][self.kind]
    }

    fn policy(&self) -> Policy {
        let Scale { lease, grace, linger, bucket, claim } = self.scale;
        let ms = Duration::from_millis;
        Policy {
            bucket_subjects: bucket,
            buckets_per_claim: claim,
            leases_in_flight: 2 * claim,
            lease: ms(lease),
            grace: ms(grace),
            idle: ms(40 * lease),
            linger: ms(linger),
            cooldown: ms(lease / 10),
            max_wait: ms(4 * lease),
            max_pool_age: ms(lease),
            max_depth: 2,
            company: 2,
            watch: Watch {
                interval: ms(lease),
                raise_after: 1,
                clear_after: 2,
                quarantine: Some(ms(6 * lease)),
                forged: Symptom::new(2, 100),
                misplaced: Symptom::new(1, 100),
                ..Watch::default()
            },
            ..Policy::default()
        }
    }

    fn judge(&self, _: &u64, report: &u32, _: Reporter) -> Verdict {
        if *report < REJECTED { Verdict::Accept } else { Verdict::Reject("too high".to_owned()) }
    }

    fn discover(&self, subject: &u64, report: &u32, found: &mut Vec<u64>) {
        found.extend(revealed(*subject, *report).filter(|_| self.kind == FINDER));
    }

    fn lane(&self, subject: &u64) -> Option<LaneKey> {
        (self.kind == LANES).then(|| LaneKey::from(*subject / LANE_KEYS))
    }
}

/// A token that was given out.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) service: usize,
    pub(super) client: u64,
    pub(super) token: LeaseToken,
    pub(super) bucket: Bucket,
    pub(super) keys: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Actor {
    Program(usize),
    Tick,
    Feed,
    Operator,
    Nemesis,
}

/// When, who, what.
pub(super) type Done = (u64, Actor, Op);

/// When, the seed's tie-breaker, who.
type Event = Reverse<(u64, u64, Actor)>;

pub(super) struct World {
    pub(super) chance: Chance,
    pub(super) trace: Trace,
    pub(super) seen: Seen,
    pub(super) bug: Bug,
    pub(super) scale: Scale,
    pub(super) clock: ManualClock,
    pub(super) disk: MemoryDisk,
    pub(super) hub: Hub,
    pub(super) services: Vec<ServiceHandle<Sim>>,
    /// As the hub's calls made it.
    pub(super) now: State,
    /// As tickets promised that it is on the disk.
    pub(super) durable: State,
    /// What lies between the two, in the journal's order.
    pub(super) pending: Vec<(Effect, Option<Ticket>)>,
    /// What the steward did in the tick that failed.
    pub(super) late: Vec<(Effect, Option<Ticket>)>,
    pub(super) given: Vec<Given>,
    ever: BTreeSet<(usize, Bucket)>,
    /// Every key that was ever offered.
    pub(super) keys: Vec<BTreeSet<u64>>,
    pub(super) programs: Vec<Program>,
    queue: BinaryHeap<Event>,
    pub(super) time: u64,
    pub(super) poisoned: bool,
    /// A fault waits for its moment.
    pub(super) armed: Option<&'static str>,
    /// Between a crash and the next opening.
    pub(super) down: Option<Down>,
    /// Length of the journal before the last tick.
    pub(super) before_tick: usize,
    ticks: u64,
    /// The hub did its caretakers' work in this step.
    ticked: bool,
    /// What was done in the storm.
    pub(super) done: Vec<Done>,
    pub(super) is_calm: bool,
}

impl World {
    pub(super) fn new(seed: u64, bug: Bug, lines: bool) -> Self {
        let mut chance = Chance::new(seed);
        let scale = Scale::draw(&mut chance);
        let (clock, disk) = (ManualClock::default(), MemoryDisk::new());
        clock.set_wall_ms(1_700_000_000_000);
        let (hub, services) = open(&disk, builder(&clock, bug), scale).expect("a fresh disk opens");
        let crowd = match seed % 256 {
            255 => 300 + chance.index(1_701),
            n if n % 32 == 31 => 20 + chance.index(81),
            _ => 3 + chance.index(7),
        };
        let mut world = Self {
            chance,
            trace: Trace::new(lines),
            seen: Seen::default(),
            bug,
            scale,
            clock,
            disk,
            hub,
            services,
            now: State::new(),
            durable: State::new(),
            pending: Vec::new(),
            late: Vec::new(),
            given: Vec::new(),
            ever: BTreeSet::new(),
            keys: vec![BTreeSet::new(); SERVICES],
            programs: Vec::new(),
            queue: BinaryHeap::new(),
            time: 0,
            poisoned: false,
            armed: None,
            down: None,
            before_tick: 0,
            ticks: 0,
            ticked: false,
            done: Vec::new(),
            is_calm: false,
        };
        for place in 0..crowd {
            let program = Program::new(place as u64 + 1, &mut world.chance);
            world.programs.push(program);
            world.call(Actor::Program(place), scale.lease / 4);
        }
        for actor in [Actor::Tick, Actor::Operator, Actor::Nemesis] {
            world.call(actor, scale.lease / 4);
        }
        world.call(Actor::Feed, 0);
        world
    }

    /// Steps of a run: more for more clients.
    pub(super) fn length(&mut self) -> u64 {
        self.chance.between(60, 240) + self.programs.len() as u64 * 4
    }

    pub(super) fn call(&mut self, actor: Actor, within: u64) {
        let at = self.time + self.chance.below(within + 1);
        let tie = self.chance.next();
        self.queue.push(Reverse((at, tie, actor)));
    }

    pub(super) fn advance(&mut self, by: u64) {
        self.clock.advance(Duration::from_millis(by));
        self.time += by;
    }

    pub(super) fn note(&mut self, label: &str, numbers: &[u64]) {
        self.trace.note(label, numbers);
    }

    /// Carries out an operation, and looks at what holds after it.
    pub(super) fn step(&mut self, actor: Actor, op: &Op) -> Checked {
        self.trace.step(self.time, format_args!("{actor:?}: {op:?}"));
        if !self.is_calm {
            self.done.push((self.time, actor, op.clone()));
        }
        self.ticked = false;
        self.carry_out(actor, op)?;
        if self.down.is_none() { self.check() } else { Ok(()) }
    }

    fn carry_out(&mut self, actor: Actor, op: &Op) -> Checked {
        match op {
            Op::Disconnect { .. } => {
                if let Actor::Program(place) = actor {
                    self.programs[place].disconnect();
                }
                Ok(())
            }
            Op::Add { service, keys } => keys.iter().try_for_each(|key| self.add(*service, *key)),
            Op::Prioritize { service, keys } => keys.iter().try_for_each(|key| self.prioritize(*service, *key)),
            Op::Rerun { service, keys } => self.rerun(*service, keys),
            Op::Delete { service, keys } => self.delete(*service, keys),
            Op::Retract { client, service } => self.retract(*service, *client),
            Op::SetState { service, state } => self.set_state(*service, *state),
            Op::Suspend { client, service, suspended } => self.suspend(*service, *client, *suspended),
            Op::Clear { client, service } => self.clear(*service, *client),
            Op::Tick => self.tick(),
            Op::Advance { ms } => {
                self.advance(*ms);
                self.seen.saw("clock jumped ahead");
                Ok(())
            }
            Op::SetBack { wall_ms } => {
                self.set_back(*wall_ms);
                Ok(())
            }
            Op::Fail { fault } => {
                self.arm(*fault);
                Ok(())
            }
            Op::Crash { how, with_store, torn } => self.die(*how, *with_store, *torn),
            Op::Close { .. } => self.close(),
            Op::Open { fault, keep_tombstones } => self.open(*fault, *keep_tombstones),
            _ => self.act_for(actor, op),
        }
    }

    /// Lives through the storm, and then through the calm.
    pub(super) fn run(&mut self) -> Checked {
        for _ in 0..self.length() {
            let Some(Reverse((at, _, actor))) = self.queue.pop() else { break };
            if at > self.time {
                self.advance(at - self.time);
            }
            self.act(actor)?;
            if self.poisoned && self.chance.percent(40) {
                self.crash()?;
            }
        }
        self.calm()
    }

    /// Does what was done, or a part of it; then comes the calm.
    pub(super) fn replay(&mut self, done: &[Done]) -> Checked {
        for (at, actor, op) in done {
            self.advance(at.saturating_sub(self.time));
            if self.down.is_none() || matches!(op, Op::Open { .. } | Op::Crash { .. }) {
                self.step(*actor, op)?;
            }
        }
        self.calm()
    }

    fn act(&mut self, actor: Actor) -> Checked {
        let lease = self.scale.lease;
        match actor {
            Actor::Program(program) => {
                let pause = self.wake(program)?;
                self.call(actor, pause);
            }
            Actor::Tick => {
                self.step(actor, &Op::Tick)?;
                let pause = self.chance.pick(&[0, self.scale.linger * 2, lease / 20, lease / 3]);
                self.call(actor, pause);
            }
            Actor::Feed => {
                self.feed()?;
                self.call(actor, lease);
            }
            Actor::Operator => {
                self.operate()?;
                self.call(actor, lease);
            }
            Actor::Nemesis => {
                self.strike()?;
                self.call(actor, lease * 2);
            }
        }
        Ok(())
    }

    fn feed(&mut self) -> Checked {
        for _ in 0..self.chance.between(1, 3 + self.programs.len() as u64 / 2) {
            let service = self.chance.index(SERVICES);
            let key = if service == LANES {
                self.chance.below(4 + self.programs.len() as u64 / 2) * LANE_KEYS + self.chance.below(30)
            } else {
                self.chance.below(60 + self.programs.len() as u64 * 4)
            };
            self.step(Actor::Feed, &Op::Add { service, keys: vec![key] })?;
        }
        Ok(())
    }

    fn add(&mut self, service: usize, key: u64) -> Checked {
        match self.services[service].add(&key) {
            Ok(ticket) => {
                self.keys[service].insert(key);
                self.keys[service].extend((service == FINDER).then_some(key + FOUND));
                self.push(Effect::Add { service, key }, Some(ticket));
                Ok(())
            }
            Err(crate::AddError::Hub { source, .. }) => self.refused(&source),
            Err(error) => Err(Violation { law: "I6", what: format!("add: {error}") }),
        }
    }

    /// What a call made true, and the journal will hold.
    pub(super) fn push(&mut self, effect: Effect, ticket: Option<Ticket>) {
        self.now.apply(&effect);
        self.pending.push((effect, ticket));
    }

    /// All leases of a kind end.
    pub(super) fn end_those(&mut self, service: usize, client: Option<u64>) {
        let leases = &self.now.services[service].leases;
        let those = leases.iter().filter(|(_, lease)| client.is_none_or(|client| lease.client == client));
        for bucket in those.map(|(bucket, _)| *bucket).collect::<Vec<_>>() {
            self.push(Effect::End { service, bucket }, None);
        }
    }

    /// The hub takes nothing: only if its disk failed.
    pub(super) fn refused(&mut self, error: &HubError) -> Checked {
        must!(matches!(error, HubError::Poisoned { .. }), "I5", "{error}");
        must!(self.poisoned || self.armed.is_some(), "I5", "poisoned without a fault: {error}");
        self.seen.saw("call refused by a poisoned hub");
        self.note("refused", &[]);
        self.poisoned = true;
        Ok(())
    }

    pub(super) fn tick(&mut self) -> Checked {
        self.before_tick = self.disk.journal().bytes().len();
        self.hub.tick();
        self.ticks += 1;
        self.ticked = true;
        self.note("tick", &[self.disk.journal_bytes()]);
        if let Err(error) = self.hub.health() {
            self.refused(&error)?;
            return self.check_failed();
        }
        self.settle()
    }

    /// Everything sent is on the disk, and reads see it.
    pub(super) fn settle(&mut self) -> Checked {
        let mut touched = BTreeSet::new();
        for (effect, ticket) in std::mem::take(&mut self.pending) {
            if let Some(ticket) = ticket {
                let progress = ticket.progress();
                must!(progress == Ok(Progress::Visible), "I5", "{progress:?} after a tick: {effect:?}");
            }
            match &effect {
                Effect::Report { service, reports, .. } => {
                    touched.extend(reports.iter().map(|(key, _)| (*service, *key)));
                }
                Effect::Add { service, key } | Effect::Rerun { service, key } | Effect::Delete { service, key } => {
                    touched.insert((*service, *key));
                }
                _ => {}
            }
            self.durable.apply(&effect);
        }
        for (service, key) in touched {
            self.check_subject(service, key)?;
        }
        self.check_counts()
    }

    /// After a failure: tickets say visible, then not visible or unknown, then refused; what was visible is read.
    fn check_failed(&mut self) -> Checked {
        let mut worst = 0;
        let mut ranks = Vec::new();
        for (effect, ticket) in &self.pending {
            let Some(ticket) = ticket else { continue };
            let (rank, name) = match ticket.progress() {
                Ok(Progress::Visible) => (0, "ticket: visible before a failure"),
                Err(TicketError::NotVisible) => (1, "ticket: durable, not visible"),
                Err(TicketError::Unknown) => (2, "ticket: unknown"),
                Err(TicketError::Refused) => (3, "ticket: refused"),
                other => return Err(Violation { law: "I5", what: format!("{other:?} in a failed hub: {effect:?}") }),
            };
            must!(rank >= worst, "I5", "{name} behind a worse one: {effect:?}");
            worst = rank;
            ranks.push(name);
        }
        for name in ranks {
            self.seen.saw(name);
        }
        Ok(())
    }

    fn check_counts(&mut self) -> Checked {
        for (service, model) in self.services.iter().zip(&self.durable.services) {
            let counts = &service.core().counts;
            let found = (counts.known.value(), counts.done.value());
            let expected = (model.subjects.len() as u64, model.done);
            must!(found == expected, "G7", "{}: known, done {found:?} instead of {expected:?}", service.id());
        }
        if self.ticks.is_multiple_of(8) {
            self.audit()?;
        }
        if self.ticks.is_multiple_of(16) {
            self.check_all()?;
        }
        Ok(())
    }

    /// Known = waiting + leased + done, and who moved what agrees.
    pub(super) fn audit(&mut self) -> Checked {
        match self.hub.audit() {
            Ok(audit) => must!(audit.is_balanced(), "I2", "{audit}"),
            // It ticks first.
            Err(crate::AuditError::Hub(error)) => {
                self.refused(&error)?;
                return self.check_failed();
            }
            Err(error) => return Err(Violation { law: "I2", what: error.to_string() }),
        }
        Ok(())
    }

    pub(super) fn read(&self, service: usize, key: u64) -> Checked<Option<Known>> {
        let unreadable = |error: crate::ReadError| Violation { law: "I6", what: format!("{key}: {error}") };
        let state = self.services[service].subject_state(&key).map_err(unreadable)?;
        let result = self.services[service].result(&key).map_err(unreadable)?;
        let result = result.map(|found| (found.report, found.client.value()));
        match state {
            SubjectState::Unknown => Ok(None),
            SubjectState::Pending => Ok(Some((true, result))),
            SubjectState::Done => Ok(Some((false, result))),
            other => Err(Violation { law: "I6", what: format!("{key} is {other:?}") }),
        }
    }

    fn check_subject(&self, service: usize, key: u64) -> Checked {
        let found = self.read(service, key)?;
        let subject = self.durable.services[service].subjects.get(&key);
        let expected = subject.map(|subject| (subject.open, subject.result));
        must!(found == expected, "G7", "service {service}: {key} is {found:?} instead of {expected:?}");
        Ok(())
    }

    pub(super) fn check_all(&mut self) -> Checked {
        for service in 0..SERVICES {
            for key in &self.keys[service] {
                self.check_subject(service, *key)?;
            }
        }
        Ok(())
    }

    /// The leases of a service, as its slots have them.
    pub(super) fn held(&self, service: usize) -> Held {
        let mut held = Held::new();
        let seats = &self.hub.house().people.seats;
        for pool in self.services[service].core().live().iter() {
            for (index, slot) in pool.passed() {
                let seen = slot.snapshot();
                if !seen.is_held() {
                    continue;
                }
                let Some(seat) = seats.get(seen.owner() as usize) else { continue };
                let open = slot.open();
                let ranks = pool.bucket(index).enumerate().filter(|(place, _)| open.has(*place));
                let ranks = ranks.map(|(_, subject)| subject.rank).collect();
                held.insert((pool.generation, pool.number(index)), (seat.client.id.value(), ranks));
            }
        }
        held
    }

    /// What holds after every operation.
    pub(super) fn check(&mut self) -> Checked {
        for service in 0..SERVICES {
            let held = self.held(service);
            let model = &self.now.services[service];
            let gone = compare_leases(model, &held, self.time, |_, lease| lease.safe_until, |_| false);
            let gone = gone.map_err(|(law, what)| Violation { law, what: format!("service {service}: {what}") })?;
            for bucket in gone {
                self.seen.saw("lease expired");
                self.note("expired", &[service as u64, bucket.0, u64::from(bucket.1)]);
                let effect = Effect::End { service, bucket };
                self.now.apply(&effect);
                // The steward ended it, in a later turn of the tick; or another's report, since it owes nothing more.
                match (self.ticked, self.poisoned) {
                    (true, true) => self.late.push((effect, None)),
                    (true, false) => self.durable.apply(&effect),
                    (false, _) => self.pending.push((effect, None)),
                }
            }
            if self.programs.len() < 20 || self.trace.steps.is_multiple_of(32) {
                self.check_seats(service, &held)?;
            }
        }
        Ok(())
    }

    /// Assigned = reported + put back + held, for each seat; and what was assigned and reported is what was seen.
    fn check_seats(&self, service: usize, held: &Held) -> Checked {
        let mut owed: BTreeMap<u64, u64> = BTreeMap::new();
        for (client, ranks) in held.values() {
            *owed.entry(*client).or_default() += ranks.len() as u64;
        }
        let id = self.services[service].core().id;
        let seats = self.hub.house().people.seats.iter().filter(|(_, seat)| seat.service.id == id);
        for (_, seat) in seats {
            let client = seat.client.id.value();
            let counts = &seat.counts;
            let (assigned, reported) = (counts.subjects_assigned(), counts.subjects_reported.value());
            let (put_back, owed) = (counts.subjects_put_back.value(), owed.get(&client).copied().unwrap_or(0));
            let adds_up = assigned == reported + put_back + owed;
            must!(adds_up, "I2", "{client} at service {service}: {assigned} are not {reported} + {put_back} + {owed}");
            let expected =
                self.now.services[service].seats.get(&client).map_or((0, 0), |seat| (seat.assigned, seat.reported));
            let found = (assigned, reported);
            must!(
                found == expected,
                "I2",
                "{client} at service {service}: assigned, reported {found:?}, not {expected:?}"
            );
        }
        Ok(())
    }

    /// Notes a lease that the hub gave out, if it may.
    pub(super) fn take(&mut self, service: usize, client: u64, token: LeaseToken, items: Vec<(u64, u64)>) -> Checked {
        let bucket = (token.generation, token.slot);
        must!(self.ever.insert((service, bucket)), "I1", "{bucket:?} is given out a second time, to {client}");
        let model = &self.now.services[service];
        for (key, rank) in &items {
            let is_open = model.subjects.get(key).is_some_and(|subject| super::reference::may_be(subject, *rank));
            let is_urgent = model.urgent.contains(rank);
            if is_open {
                let holder = model.holder_of(*rank);
                must!(holder.is_none() || is_urgent, "I1", "{key} goes to {client} while {holder:?} owes it");
                if holder.is_some() {
                    self.seen.saw("urgent subject handed out twice");
                }
            } else {
                let is_declared = model.closed.contains(rank) || is_urgent || model.is_loose;
                must!(is_declared, "G7", "{key} of rank {rank} is handed out: {:?}", model.subjects.get(key));
                self.seen.saw("deleted subject handed out");
            }
        }
        if service == LANES {
            self.check_lane(client, &token, &items)?;
        }
        let keys: Vec<u64> = items.iter().map(|(key, _)| *key).collect();
        let mut noted = vec![service as u64, client, bucket.0, u64::from(bucket.1)];
        noted.extend(&keys);
        self.note("lease", &noted);
        let items = items.into_iter().map(|(key, rank)| super::reference::Item { key, rank, owed: true }).collect();
        let deadline = self.time + self.scale.lease;
        let lease = super::reference::Lease { client, items, deadline, safe_until: deadline + self.scale.grace };
        self.given.push(Given { service, client, token, bucket, keys });
        self.push(Effect::Lease { service, bucket, lease }, None);
        Ok(())
    }

    /// A lane goes to one at a time, in its order.
    fn check_lane(&self, client: u64, token: &LeaseToken, items: &[(u64, u64)]) -> Checked {
        let model = &self.now.services[LANES];
        let lane = items[0].0 / LANE_KEYS;
        let other = model.leases.iter().find(|(_, lease)| lease.items[0].key / LANE_KEYS == lane);
        must!(other.is_none(), "I1", "lane {lane} goes to {client} while {other:?} runs it");
        let order = model.lane_order(lane);
        let keys: Vec<u64> = items.iter().map(|(key, _)| *key).collect();
        must!(order.starts_with(&keys), "I1", "lane {lane} is {order:?}, handed out {keys:?} as {token:?}");
        Ok(())
    }

    /// The hub as it is.
    pub(super) fn find(&self) -> Checked<Found> {
        let mut found = Found::default();
        for id in self.now.registered.keys().chain(self.durable.registered.keys()) {
            if let Some(client) = self.hub.client(*id) {
                found.registered.insert(*id, client.is_registered());
            }
        }
        for service in 0..SERVICES {
            found.services.push(self.find_service(service)?);
        }
        Ok(found)
    }

    fn find_service(&self, service: usize) -> Checked<FoundService> {
        let handle = &self.services[service];
        let counts = &handle.core().counts;
        let mut subjects = BTreeMap::new();
        for key in &self.keys[service] {
            if let Some(found) = self.read(service, *key)? {
                subjects.insert(*key, found);
            }
        }
        let mut seats = BTreeMap::new();
        let clients: BTreeSet<u64> = [&self.now, &self.durable]
            .into_iter()
            .flat_map(|state| state.services[service].seats.keys())
            .copied()
            .collect();
        for client in clients {
            if let Some(stats) = handle.seat_stats(client) {
                let is_suspended = stats.state == SeatState::Suspended;
                seats.insert(client, (stats.work.subjects_assigned, stats.work.subjects_reported, is_suspended));
            }
        }
        Ok(FoundService {
            state: handle.state(),
            known: counts.known.value(),
            done: counts.done.value(),
            subjects,
            held: self.held(service),
            seats,
        })
    }

    pub(super) fn summary(&self) -> String {
        format!("{} clients, {} steps, {} ms", self.programs.len(), self.trace.steps, self.time)
    }
}

pub(super) fn builder(clock: &ManualClock, bug: Bug) -> Builder {
    let durability = if bug == Bug::NeverSynced { Durability::Os } else { Durability::Sync };
    // A hub whose clock stands still lets no lease end.
    let clock = if bug == Bug::StoppedClock { ManualClock::default() } else { clock.clone() };
    Hub::builder().manual().clock(clock).seed(1).durability(durability)
}

/// Why a hub could not be opened.
#[derive(Debug)]
pub(super) enum NotOpened {
    Open(OpenError),
    Register(crate::RegisterServiceError),
    Poisoned(HubError),
}

pub(super) fn open(
    disk: &MemoryDisk,
    builder: Builder,
    scale: Scale,
) -> Result<(Hub, Vec<ServiceHandle<Sim>>), NotOpened> {
    let hub = builder.open_in_memory(disk).map_err(NotOpened::Open)?;
    let mut services = Vec::new();
    for kind in 0..SERVICES {
        services.push(hub.register(Sim { kind, scale }).map_err(NotOpened::Register)?);
    }
    // The records of the services, before anything else.
    hub.tick();
    hub.health().map_err(NotOpened::Poisoned)?;
    Ok((hub, services))
}

/// The subjects of a lease, with their ranks, as its slot has them.
pub(super) fn items_of(service: &ServiceHandle<Sim>, token: &LeaseToken) -> Checked<Vec<(u64, u64)>> {
    let crate::registry::Found::Slot(pool, index) = service.core().find(token) else {
        return Err(Violation { law: "I1", what: format!("{token:?} was given out and leads nowhere") });
    };
    let key = |bytes: &[u8]| <u64 as Key>::read(bytes).unwrap_or(u64::MAX);
    Ok(pool.bucket(index).map(|subject| (key(subject.key), subject.rank)).collect())
}
