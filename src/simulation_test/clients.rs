//! Programs that work for the hub: honest ones, liars, sluggards; each crashes now and then and comes back, with its tokens or
//! without, under its own name or another's.

use super::Bug;
use super::chance::{Chance, Checked, Violation, must};
use super::op::{Op, Pick, Shown, Which, by_key, forged};
use super::reference::{Effect, LANE_KEYS, LANES, REJECTED, SERVICES, lane_state};
use super::world::{Actor, Given, Sim, World, items_of};
use crate::sync::locks::without;
use crate::{
    ActivateError, Ask, Claim, ClaimError, DeregisterError, DetailError, HubError, Lease, LeaseError, LeaseToken,
    Outcome, RegisterClientError, Registration, Seat, ServiceState,
};

/// A program, as it knows itself.
pub(super) struct Program {
    /// Whose name it uses.
    pub(super) id: u64,
    pub(super) seats: Vec<Option<Seat<Sim>>>,
    /// Places of its tokens in the world's list.
    tokens: Vec<usize>,
    /// In a hundred: how often it lies, and sleeps too long.
    lies: u64,
    sleeps: u64,
}

impl Program {
    pub(super) fn new(id: u64, chance: &mut Chance) -> Self {
        let seats = (0..SERVICES).map(|_| None).collect();
        let (lies, sleeps) = (chance.pick(&[0, 0, 2, 30]), chance.pick(&[0, 3, 20]));
        Self { id, seats, tokens: Vec::new(), lies, sleeps }
    }

    pub(super) fn disconnect(&mut self) {
        self.seats.iter_mut().for_each(|seat| *seat = None);
    }
}

fn name_of(id: u64) -> String {
    format!("c{id}")
}

impl World {
    /// Lets a program do one thing; says how long it pauses.
    pub(super) fn wake(&mut self, place: usize) -> Checked<u64> {
        let lease = self.scale.lease;
        let Program { lies, sleeps, .. } = self.programs[place];
        if self.chance.percent(sleeps) {
            self.seen.saw("client stalled");
            return Ok(lease * 2 + self.chance.below(lease));
        }
        let op = if self.chance.percent(lies) { self.lie(place)? } else { self.choose(place)? };
        if let Some(op) = op {
            self.step(Actor::Program(place), &op)?;
        }
        Ok(self.chance.pick(&[0, lease / 50, lease / 10, lease / 2]))
    }

    fn choose(&mut self, place: usize) -> Checked<Option<Op>> {
        let client = self.programs[place].id;
        let service = self.chance.index(SERVICES);
        Ok(Some(match self.chance.below(100) {
            0..3 => self.crash_program(place),
            3..5 => Op::Deregister { client },
            5..7 => Op::Register { client },
            7 if self.now.registered.contains_key(&(client + 1)) => Op::Pose { client: client + 1 },
            8 => {
                // From here on it is a second program of another client.
                let client = self.chance.between(1, self.programs.len() as u64);
                self.programs[place].id = client;
                self.seen.saw("client runs twice");
                Op::Disconnect { client }
            }
            9..45 => return self.ask(place, service),
            45..49 => return Ok(self.sits(place, service)?.then_some(Op::Look { client, service })),
            49..57 => return Ok(self.show_one(place)?.map(|shown| Op::Renew { shown })),
            57..61 => return Ok(self.show_one(place)?.map(|shown| Op::Release { shown })),
            _ => return self.work(place),
        }))
    }

    fn crash_program(&mut self, place: usize) -> Op {
        let keeps = self.chance.percent(50);
        self.seen.saw(if keeps { "client crashed, kept its tokens" } else { "client crashed, lost its tokens" });
        let program = &mut self.programs[place];
        if !keeps {
            program.tokens.clear();
        }
        Op::Disconnect { client: program.id }
    }

    fn ask(&mut self, place: usize, service: usize) -> Checked<Option<Op>> {
        if !self.sits(place, service)? {
            return Ok(None);
        }
        let n = self.chance.between(1, u64::from(self.scale.claim) + 1);
        let client = self.programs[place].id;
        Ok(Some(Op::Claim { client, service, n: u32::try_from(n).unwrap_or(1) }))
    }

    /// One of its tokens, where it has a seat.
    fn show_one(&mut self, place: usize) -> Checked<Option<Shown>> {
        let Some(given) = self.token_of(place) else { return Ok(None) };
        Ok(self.sits(place, self.given[given].service)?.then(|| self.shown(place, given, 0)))
    }

    fn shown(&self, place: usize, given: usize, off: usize) -> Shown {
        Shown { token: Pick::Nth(given), by: Some(self.programs[place].id), off }
    }

    /// Whether a program has a seat, or comes to one.
    pub(super) fn sits(&mut self, place: usize, service: usize) -> Checked<bool> {
        let (actor, client) = (Actor::Program(place), self.programs[place].id);
        if self.seat(actor, service).is_none() {
            if !self.now.is_registered(client) {
                self.step(actor, &Op::Register { client })?;
            }
            self.step(actor, &Op::Activate { client, service })?;
        }
        Ok(self.seat(actor, service).is_some())
    }

    fn seat(&self, actor: Actor, service: usize) -> Option<Seat<Sim>> {
        let Actor::Program(place) = actor else { return None };
        self.programs[place].seats[service].clone()
    }

    /// What a program does, or another in its name.
    pub(super) fn act_for(&mut self, actor: Actor, op: &Op) -> Checked {
        match op {
            Op::Register { client } => self.register(*client, &name_of(*client)),
            Op::Pose { client } => self.register(*client, "somebody_else"),
            Op::Deregister { client } => self.leave(*client),
            Op::Activate { client, service } => self.activate(actor, *client, *service),
            Op::Claim { service, n, .. } => self.claim(actor, *service, *n),
            Op::Look { service, .. } => self.look(actor, *service),
            Op::Submit { shown, reports, last } => self.with_token(actor, *shown, |world, seat, given| {
                let reports = by_key(reports, &world.given[given].keys, &[]);
                world.hand_in(seat, given, &reports, *last)
            }),
            Op::Renew { shown } => self.with_token(actor, *shown, Self::renew),
            Op::Release { shown } => self.with_token(actor, *shown, Self::release),
            Op::Forge { shown, digit } => {
                self.with_token(actor, *shown, |world, seat, given| world.forge(seat, given, *digit))
            }
            other => unreachable!("not of this world: {other:?}"),
        }
    }

    fn with_token(
        &mut self,
        actor: Actor,
        shown: Shown,
        call: impl FnOnce(&mut Self, &Seat<Sim>, usize) -> Checked,
    ) -> Checked {
        let Some(given) = shown.token.of(self.given.len()) else { return Ok(()) };
        let Some(seat) = self.seat(actor, (self.given[given].service + shown.off) % SERVICES) else { return Ok(()) };
        call(self, &seat, given)
    }

    fn register(&mut self, id: u64, name: &str) -> Checked {
        let is_known = self.now.registered.contains_key(&id);
        match self.hub.register_client(&Registration::new(id, name)) {
            Ok(registered) => {
                let is_right = name == name_of(id) || !is_known;
                must!(is_right, "I4", "{id} is registered by the name of {name}");
                must!(registered.new != self.now.is_registered(id), "I5", "{id}: new {}", registered.new);
                if registered.new {
                    self.push(Effect::Client { id, registered: true }, Some(registered.ticket));
                }
            }
            Err(RegisterClientError::Hub(error)) => self.refused(&error)?,
            Err(RegisterClientError::Detail(DetailError::OtherName { .. })) => {
                must!(is_known, "I4", "{id} is refused for its name");
                self.seen.saw("registered under another's id, refused");
            }
            Err(RegisterClientError::Throttled { .. }) => self.seen.saw("registration throttled"),
            Err(error) => return Err(Violation { law: "I4", what: format!("register {id}: {error}") }),
        }
        Ok(())
    }

    fn leave(&mut self, id: u64) -> Checked {
        let answer = self.hub.deregister_client(id, &name_of(id));
        let was = self.now.is_registered(id);
        match answer {
            Ok(ticket) => {
                must!(was, "I4", "{id} leaves twice");
                self.seen.saw("client deregistered");
                self.push(Effect::Client { id, registered: false }, Some(ticket));
                (0..SERVICES).for_each(|service| self.end_those(service, Some(id)));
            }
            Err(DeregisterError::NotRegistered { .. }) => must!(!was, "I5", "{id} is not registered"),
            Err(DeregisterError::Hub(error)) => self.refused(&error)?,
            Err(error) => must!(!was, "I4", "deregister {id}: {error}"),
        }
        Ok(())
    }

    fn activate(&mut self, actor: Actor, id: u64, service: usize) -> Checked {
        let Some(client) = self.hub.client(id) else {
            must!(!self.now.registered.contains_key(&id), "I5", "{id} is not known any more");
            return Ok(());
        };
        let model = &self.now.services[service];
        let is_suspended = model.seats.get(&id).is_some_and(|seat| seat.suspended);
        match client.activate(&self.services[service]) {
            Ok(seat) => {
                must!(!is_suspended, "I4", "{id} is suspended and active");
                if let Actor::Program(place) = actor {
                    self.programs[place].seats[service] = Some(seat);
                }
            }
            Err(ActivateError::NotRegistered) => must!(!self.now.is_registered(id), "I5", "{id} is not registered"),
            Err(ActivateError::NotReady { state }) => must!(model.state == state, "I5", "{state}, not {}", model.state),
            Err(ActivateError::Suspended) => must!(is_suspended, "I5", "{id} is suspended"),
            Err(ActivateError::Hub(error)) => self.refused(&error)?,
            Err(error) => return Err(Violation { law: "I5", what: error.to_string() }),
        }
        Ok(())
    }

    fn claim(&mut self, actor: Actor, service: usize, n: u32) -> Checked {
        let (Actor::Program(place), Some(seat)) = (actor, self.seat(actor, service)) else { return Ok(()) };
        let id = seat.client_id().value();
        let model = &self.now.services[service];
        let (is_registered, state) = (self.now.is_registered(id), model.state);
        let is_suspended = model.seats.get(&id).is_some_and(|seat| seat.suspended);
        match without("claim", || seat.claim(Ask::buckets(n))) {
            Ok(Claim::Leased(grant)) => {
                let may = is_registered && !is_suspended && state.is_ready();
                must!(may, "I4", "{id} claims: {is_registered} {is_suspended} {state}");
                let tokens: Vec<LeaseToken> = grant.into_iter().map(Lease::into_token).collect();
                for token in &tokens {
                    let items = items_of(&self.services[service], token)?;
                    self.programs[place].tokens.push(self.given.len());
                    self.take(service, id, *token, items)?;
                }
                self.seen.saw("claimed");
            }
            Ok(Claim::Empty(empty)) => {
                self.seen.saw(match empty.reason {
                    crate::EmptyReason::QuotaFull => "claim empty: quota",
                    _ => "claim empty",
                });
                if self.bug == Bug::HandedTwice {
                    self.hand_out_again(service, id)?;
                }
            }
            Err(ClaimError::Hub(error)) => self.refused(&error)?,
            Err(ClaimError::NotRegistered) => must!(!is_registered, "I5", "{id} is not registered"),
            Err(ClaimError::Suspended) => must!(is_suspended, "I5", "{id} is suspended"),
            Err(ClaimError::NotReady { .. }) => must!(!state.is_ready(), "I5", "service {service} is {state}"),
            Err(ClaimError::Inactive) => {
                self.seen.saw("claim refused: inactive");
                self.programs[place].seats[service] = None;
            }
            Err(ClaimError::Quarantined { .. }) => self.seen.saw("claim refused: quarantined"),
            Err(error) => return Err(Violation { law: "I5", what: error.to_string() }),
        }
        Ok(())
    }

    /// A hub that looks whether a lease has lapsed, and gives it out again without asking whether it still holds.
    fn hand_out_again(&mut self, service: usize, id: u64) -> Checked {
        let other = self.given.iter().rev().find(|given| {
            let holds = self.now.services[service].leases.contains_key(&given.bucket);
            given.service == service && given.client != id && holds
        });
        if let Some(given) = other.cloned() {
            let items = items_of(&self.services[service], &given.token)?;
            self.take(service, id, given.token, items)?;
        }
        Ok(())
    }

    /// It asks what it holds, as after a crash; and goes on with that.
    fn look(&mut self, actor: Actor, service: usize) -> Checked {
        let (Actor::Program(place), Some(seat)) = (actor, self.seat(actor, service)) else { return Ok(()) };
        let id = seat.client_id().value();
        let views = match seat.leases() {
            Ok(views) => views,
            Err(LeaseError::NotRegistered) => {
                must!(!self.now.is_registered(id), "I5", "{id} is not registered");
                return Ok(());
            }
            Err(LeaseError::Hub(error)) => return self.refused(&error),
            Err(error) => return Err(Violation { law: "I7", what: format!("leases of {id}: {error}") }),
        };
        let model = &self.now.services[service];
        let held = model.leases.iter().filter(|(_, lease)| lease.client == id).count();
        must!(views.len() <= held, "I7", "{id} holds {} leases instead of {held}", views.len());
        for view in views {
            let bucket = (view.token.generation, view.token.slot);
            let known = self.given.iter().position(|given| given.service == service && given.bucket == bucket);
            must!(model.leases.contains_key(&bucket), "I7", "{id} holds {bucket:?}");
            let Some(known) = known else {
                return Err(Violation { law: "I7", what: format!("{id} holds {bucket:?}, which nobody gave it") });
            };
            must!(self.given[known].token == view.token, "I7", "the token of {bucket:?} changed");
            if let Some(lane) = &view.lane {
                let number = self.given[known].keys[0] / LANE_KEYS;
                let expected = model.lanes.get(&number).copied().unwrap_or(0);
                must!(lane.state() == Ok(expected), "I5", "lane {number} has state {:?}", lane.state::<u64>());
            }
            if !self.programs[place].tokens.contains(&known) {
                self.programs[place].tokens.push(known);
                self.seen.saw("lease found again");
            }
        }
        Ok(())
    }

    fn token_of(&mut self, place: usize) -> Option<usize> {
        let tokens = &self.programs[place].tokens;
        let recent = tokens.len().min(6);
        (recent > 0).then(|| tokens[tokens.len() - 1 - self.chance.index(recent)])
    }

    fn work(&mut self, place: usize) -> Checked<Option<Op>> {
        let Some(given) = self.token_of(place) else { return self.ask(place, 0) };
        let service = self.given[given].service;
        if !self.sits(place, service)? {
            return Ok(None);
        }
        let whole = self.chance.percent(60);
        let mut reports: Vec<(Which, u32)> = Vec::new();
        for nth in 0..self.given[given].keys.len() {
            if whole || self.chance.percent(50) {
                reports.push((Which::Nth(nth), u32::try_from(self.chance.below(6)).unwrap_or(0)));
            } else if service == LANES {
                break;
            }
        }
        if service == LANES {
            // What was reported before is behind the front.
            let lease = self.now.services[service].leases.get(&self.given[given].bucket);
            let owed = |nth: usize| lease.is_none_or(|lease| lease.items[nth].owed);
            reports.retain(|(which, _)| matches!(which, Which::Nth(nth) if owed(*nth)));
        }
        if self.chance.percent(5) {
            reports.extend(reports.first().copied());
        }
        let last = self.chance.percent(70);
        if last && self.chance.percent(80) {
            self.programs[place].tokens.retain(|token| *token != given);
        }
        Ok(Some(Op::Submit { shown: self.shown(place, given, 0), reports, last }))
    }

    /// What a call with a token must be answered, if it must be refused.
    fn refusal(&self, seat: &Seat<Sim>, service: usize, given: usize) -> Option<LeaseError> {
        let id = seat.client_id().value();
        let given = &self.given[given];
        let state = self.now.services[service].state;
        match state {
            _ if !self.now.is_registered(id) => Some(LeaseError::NotRegistered),
            ServiceState::Revoked => Some(LeaseError::NotReady { state }),
            _ if given.service != service || given.client != id => Some(LeaseError::NotOwner),
            _ => None,
        }
    }

    /// A refusal changes nothing: which one it is, and whether it had to be.
    fn check_refusal(&mut self, error: &LeaseError, expected: Option<&LeaseError>, given: usize) -> Checked {
        if let LeaseError::Hub(error) = error {
            return self.refused(error);
        }
        let given = &self.given[given];
        let is_held = self.now.services[given.service].leases.contains_key(&given.bucket);
        let is_right = match error {
            // Tokens of leases that are forgotten are all alike.
            LeaseError::Over => !is_held && !matches!(expected, Some(LeaseError::NotRegistered)),
            error => Some(error) == expected,
        };
        must!(is_right, "I4", "{:?} is refused with {error:?} instead of {expected:?}, held: {is_held}", given.bucket);
        self.seen.saw(match error {
            LeaseError::NotOwner => "refused: not owner",
            LeaseError::Over => "refused: over",
            LeaseError::NotRegistered => "refused: not registered",
            _ => "refused: not ready",
        });
        Ok(())
    }

    /// Reports by a token, and holds the answer against what must be.
    fn hand_in(&mut self, seat: &Seat<Sim>, given: usize, reports: &[(u64, u32)], last: bool) -> Checked {
        let service = self.service_of(seat);
        let expected = self.refusal(seat, service, given);
        let token = self.given[given].token;
        let holder = self.holder_of(given);
        let seat = holder.as_ref().filter(|_| self.bug == Bug::SharedTokens && expected.is_some()).unwrap_or(seat);
        let state = if service == LANES { self.state_after(given, reports) } else { None };
        let answer = without("a report", || match (state, last) {
            (Some(state), true) => seat.submit_lane(&token, reports.iter().copied(), &state),
            (Some(state), false) => seat.report_lane(&token, reports.iter().copied(), &state),
            (None, true) => seat.submit(&token, reports.iter().copied()),
            (None, false) => seat.report(&token, reports.iter().copied()),
        });
        match answer {
            Err(error) => {
                self.note("refused", &[token.generation, u64::from(token.slot)]);
                self.check_refusal(&error, expected.as_ref(), given)
            }
            Ok(submitted) => {
                must!(expected.is_none(), "I4", "reports on {:?} are taken, not {expected:?}", self.given[given]);
                self.note("taken", &[token.generation, u64::from(token.slot), submitted.accepted() as u64]);
                self.handed_in(given, reports, last, state, submitted)
            }
        }
    }

    /// The seat of whoever holds a lease, as another program has it.
    fn holder_of(&self, given: usize) -> Option<Seat<Sim>> {
        let given = &self.given[given];
        let program = self.programs.iter().find(|program| program.id == given.client)?;
        program.seats[given.service].clone()
    }

    fn service_of(&self, seat: &Seat<Sim>) -> usize {
        let is_its = |handle: &crate::ServiceHandle<Sim>| handle.core().id == seat.core.service.id;
        self.services.iter().position(is_its).unwrap_or(0)
    }

    /// The state of a lane behind these reports.
    fn state_after(&self, given: usize, reports: &[(u64, u32)]) -> Option<u64> {
        let (first, _) = reports.first()?;
        let lane = self.given[given].keys.first().unwrap_or(first) / LANE_KEYS;
        let before = self.now.services[LANES].lanes.get(&lane).copied().unwrap_or(0);
        Some(reports.iter().fold(before, |state, (key, report)| lane_state(state, *key, *report)))
    }

    /// Which reports must be accepted (true), must not be (false), or may be, since their subject is gone or done elsewhere.
    fn predict(&self, given: usize, reports: &[(u64, u32)]) -> Vec<Option<bool>> {
        let Given { service, bucket, .. } = self.given[given];
        let model = &self.now.services[service];
        let Some(lease) = model.leases.get(&bucket) else { return vec![Some(false); reports.len()] };
        if service == LANES {
            // What is said twice counts once; what this lease reported before may come first again.
            let is_new = |place: usize| {
                let key = reports[place].0;
                let is_first = reports[..place].iter().all(|(other, _)| *other != key);
                is_first && !lease.items.iter().any(|item| !item.owed && item.key == key)
            };
            let fresh: Vec<u64> = (0..reports.len()).filter(|at| is_new(*at)).map(|at| reports[at].0).collect();
            let is_repeated =
                reports.iter().any(|(key, _)| lease.items.iter().any(|item| !item.owed && item.key == *key));
            let owed = lease.items.iter().filter(|item| item.owed).map(|item| item.key);
            let is_front = owed.take(fresh.len()).eq(fresh);
            let is_good = is_front && reports.iter().all(|(_, value)| *value < REJECTED);
            let of = |place: usize| match is_good && is_new(place) {
                true if is_repeated => None,
                is_taken => Some(is_taken),
            };
            return (0..reports.len()).map(of).collect();
        }
        let mut met = Vec::new();
        let mut predicted = Vec::new();
        for (key, value) in reports {
            let item = lease.items.iter().find(|item| item.key == *key && item.owed);
            let is_first = *value < REJECTED && !met.contains(key);
            if *value < REJECTED {
                met.push(*key);
            }
            predicted.push(match item {
                Some(item) if is_first && model.is_open(item.key, item.rank) => Some(true),
                Some(_) if is_first => None,
                _ => Some(false),
            });
        }
        predicted
    }

    fn handed_in(
        &mut self,
        given: usize,
        reports: &[(u64, u32)],
        last: bool,
        state: Option<u64>,
        submitted: crate::Submitted,
    ) -> Checked {
        let Given { service, bucket, .. } = self.given[given];
        let predicted = self.predict(given, reports);
        must!(submitted.outcomes.len() == reports.len(), "I2", "{} outcomes", submitted.outcomes.len());
        let mut accepted = Vec::new();
        for ((report, outcome), predicted) in reports.iter().zip(&submitted.outcomes).zip(predicted) {
            let is_accepted = *outcome == Outcome::Accepted;
            let what = if is_accepted { "I4" } else { "I2" };
            if predicted.is_some_and(|predicted| predicted != is_accepted) {
                let held = self.now.services[service].leases.get(&bucket);
                return Err(Violation { law: what, what: format!("{report:?} on {bucket:?}: {outcome:?}, {held:?}") });
            }
            self.saw_outcome(outcome);
            if is_accepted {
                accepted.push(*report);
            }
        }
        if !accepted.is_empty() {
            let effect = Effect::Report { service, bucket, reports: accepted, state };
            self.push(effect, Some(submitted.ticket));
        }
        if submitted.outcomes.contains(&Outcome::Conflict) {
            self.push(Effect::Evidence { service, bucket }, None);
        }
        let model = &self.now.services[service];
        if let Some(lease) = model.leases.get(&bucket).filter(|_| !submitted.kept) {
            let left = lease.items.iter().filter(|item| item.owed).collect::<Vec<_>>();
            let open = left.iter().filter(|item| model.is_open(item.key, item.rank)).count();
            must!(last || open == 0, "I2", "{bucket:?} ended with {left:?}");
            let put_back = submitted.put_back as usize;
            must!((open..=left.len()).contains(&put_back), "I2", "{put_back} put back of {left:?}");
            self.seen.saw("reported in part, the rest put back");
            self.push(Effect::End { service, bucket }, None);
        }
        Ok(())
    }

    fn saw_outcome(&mut self, outcome: &Outcome) {
        self.seen.saw(match outcome {
            Outcome::Accepted => "outcome: accepted",
            Outcome::AlreadyDone => "outcome: already done",
            Outcome::Conflict => "outcome: conflict",
            Outcome::Rejected { .. } => "outcome: rejected",
            Outcome::NotInBucket => "outcome: not in bucket",
            Outcome::Stale => "outcome: stale",
            Outcome::OutOfOrder => "outcome: out of order",
            _ => "outcome: another",
        });
    }

    fn renew(&mut self, seat: &Seat<Sim>, given: usize) -> Checked {
        let service = self.service_of(seat);
        let expected = self.refusal(seat, service, given);
        let Given { bucket, token, .. } = self.given[given];
        let time = self.time;
        let answer = without("renew", || seat.renew(&token));
        self.note("renew", &[bucket.0, u64::from(bucket.1), u64::from(answer.is_ok())]);
        let grace = self.scale.grace;
        let lease = self.now.services[service].leases.get_mut(&bucket);
        match answer {
            Ok(left) => {
                must!(expected.is_none() && lease.is_some(), "I4", "{bucket:?} is renewed, not {expected:?}");
                let deadline = time + crate::clock::millis(left);
                if let Some(lease) = lease {
                    must!(deadline >= lease.deadline, "I7", "renewing {bucket:?} made it shorter: {lease:?}");
                    (lease.deadline, lease.safe_until) = (deadline, deadline + grace);
                }
                self.seen.saw("renewed");
            }
            Err(LeaseError::Dead) => {
                let is_dead = lease.is_some_and(|lease| lease.deadline <= time);
                must!(is_dead, "I7", "{bucket:?} is dead before its deadline");
                self.seen.saw("renewal refused: dead");
            }
            Err(LeaseError::Capped { .. }) => self.seen.saw("renewal refused: capped"),
            Err(error) => self.check_refusal(&error, expected.as_ref(), given)?,
        }
        Ok(())
    }

    fn release(&mut self, seat: &Seat<Sim>, given: usize) -> Checked {
        let service = self.service_of(seat);
        let expected = self.refusal(seat, service, given);
        let Given { bucket, token, .. } = self.given[given];
        let answer = without("release", || seat.release(&token));
        self.note("release", &[bucket.0, u64::from(bucket.1), u64::from(answer.is_ok())]);
        match answer {
            Ok(_) => {
                let is_held = self.now.services[service].leases.contains_key(&bucket);
                must!(expected.is_none() && is_held, "I4", "{bucket:?} is released, not {expected:?}");
                self.seen.saw("released");
                self.push(Effect::End { service, bucket }, None);
                Ok(())
            }
            Err(error) => self.check_refusal(&error, expected.as_ref(), given),
        }
    }

    /// Somebody else's token, an old one, a forged one; subjects of others; reports that nobody wants; a lane out of order.
    fn lie(&mut self, place: usize) -> Checked<Option<Op>> {
        if self.given.is_empty() {
            return Ok(None);
        }
        self.seen.saw("client lied");
        let given = self.chance.index(self.given.len());
        let own = self.given[given].service;
        let service = if self.chance.percent(15) { self.chance.index(SERVICES) } else { own };
        if !self.sits(place, service)? {
            return Ok(None);
        }
        let shown = self.shown(place, given, (SERVICES + service - own) % SERVICES);
        Ok(Some(match self.chance.below(10) {
            0 => Op::Renew { shown },
            1 => Op::Release { shown },
            2 => Op::Forge { shown, digit: 32 + self.chance.index(32) },
            _ => {
                let keys = self.given[given].keys.len();
                let mut reports: Vec<(Which, u32)> = (0..keys).map(|nth| (Which::Nth(nth), 3)).collect();
                match self.chance.below(4) {
                    0 => reports.reverse(),
                    1 => reports.push((Which::Key(77_777_777), 1)),
                    2 => reports.iter_mut().for_each(|(_, value)| *value = REJECTED),
                    _ => {}
                }
                Op::Submit { shown, reports, last: self.chance.percent(50) }
            }
        }))
    }

    fn forge(&mut self, seat: &Seat<Sim>, given: usize, digit: usize) -> Checked {
        let forged = forged(self.given[given].token, digit);
        let id = seat.client_id().value();
        let answer = without("release", || seat.release(&forged));
        match answer {
            Ok(_) => Err(Violation { law: "I4", what: format!("a forged token of {id} is taken") }),
            Err(LeaseError::Hub(error @ HubError::Poisoned { .. })) => self.refused(&error),
            Err(_) => Ok(()),
        }
    }
}
