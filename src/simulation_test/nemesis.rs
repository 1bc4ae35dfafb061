//! What happens to the world: faults of the disk, crashes of process and machine, clocks that jump, an operator; and at the end a
//! calm in which one honest client finishes everything.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use super::Bug;
use super::chance::{Checked, Violation, must};
use super::op::{Fault, Op, Pick, Shown, Torn, Which};
use super::reference::{Effect, FINDER, FOUND, LANES, SERVICES, difference, journal_order};
use super::world::{Actor, NotOpened, World, builder, open};
use crate::clock::Clock;
use crate::compact::stop_at;
use crate::{
    AdminError, Compact, Crash, HubError, KeysError, Marked, MemoryDisk, Progress, Revoke, ServiceState, Ticket,
    TicketError, UrgentError,
};

/// The calm's client.
const HONEST: u64 = 9_000_000;

/// A hub that is down: its disk, and how many of the changes that were under way must be there, and may.
pub(super) struct Down {
    disk: MemoryDisk,
    least: usize,
    most: usize,
}

fn sabotage(disk: &MemoryDisk, fault: Fault) {
    match fault {
        Fault::Append { room, .. } => disk.journal().fail_append_after(room),
        Fault::Sync { after, .. } => disk.journal().fail_sync_after(after),
        Fault::Batch { after } => disk.store().fail_apply_after(after + 1),
        Fault::Stop { at } => stop_at(at),
        Fault::Cut => {}
    }
    if let Fault::Append { cut: true, .. } | Fault::Sync { cut: true, .. } | Fault::Cut = fault {
        disk.journal().fail_truncate_after(0);
    }
}

impl World {
    /// Something breaks.
    pub(super) fn strike(&mut self) -> Checked {
        let op = match self.chance.below(10) {
            0..5 if self.armed.is_some() || self.poisoned => return Ok(()),
            0..5 => Op::Fail { fault: self.some_fault() },
            5 => Op::Advance { ms: self.chance.below(3 * (self.scale.lease + self.scale.grace)) },
            6 => Op::SetBack { wall_ms: self.chance.below(10 * self.scale.lease) },
            _ => return self.crash(),
        };
        self.step(Actor::Nemesis, &op)
    }

    fn some_fault(&mut self) -> Fault {
        let after = self.chance.below(4);
        match self.chance.below(5) {
            0 => Fault::Append { room: self.chance.index(600), cut: false },
            1 => Fault::Append { room: self.chance.index(200), cut: true },
            2 => Fault::Sync { after, cut: false },
            3 => Fault::Sync { after, cut: true },
            _ => Fault::Batch { after },
        }
    }

    pub(super) fn arm(&mut self, fault: Fault) {
        self.armed = Some(match fault {
            Fault::Append { cut: false, .. } => "fault: append",
            Fault::Append { .. } => "fault: append and truncation",
            Fault::Sync { cut: false, .. } => "fault: sync",
            Fault::Sync { .. } => "fault: sync and truncation",
            _ => "fault: store batch",
        });
        sabotage(&self.disk, fault);
    }

    pub(super) fn set_back(&mut self, wall_ms: u64) {
        self.clock.set_wall_ms(self.clock.wall_ms() - i64::try_from(wall_ms).unwrap_or(0));
        self.seen.saw("wall clock went back");
    }

    /// How far the journal must reach, and how far it may, in pending effects.
    fn bounds(&self) -> (usize, usize) {
        let (mut least, mut most) = (0, self.pending.len());
        for (place, (_, ticket)) in self.pending.iter().enumerate().rev() {
            match ticket.as_ref().map(Ticket::progress) {
                Some(Ok(Progress::Durable | Progress::Visible) | Err(TicketError::NotVisible)) => {
                    least = least.max(place + 1);
                }
                // A program that goes on as soon as its call has returned.
                Some(Ok(Progress::Pending)) if self.bug == Bug::PendingBelieved => least = least.max(place + 1),
                Some(Err(TicketError::Refused)) => most = place,
                _ => {}
            }
        }
        (least, most)
    }

    /// The process dies or the machine does, and the hub is opened on what is left; in the middle of which the disk may fail, or the
    /// machine crash again.
    pub(super) fn crash(&mut self) -> Checked {
        let op = self.some_crash();
        self.step(Actor::Nemesis, &op)?;
        for attempt in 0..5 {
            let fault = if attempt < 4 && self.chance.percent(35) { self.chance.between(1, 5) } else { 0 };
            let fault = self.some_fault_of_opening(fault);
            let compacts = matches!(fault, Some(Fault::Stop { .. })) || self.chance.percent(15);
            let keep_tombstones = compacts.then(|| self.chance.below(4 * self.scale.lease));
            self.step(Actor::Nemesis, &Op::Open { fault, keep_tombstones })?;
            if self.down.is_none() {
                return Ok(());
            }
            let how = self.chance.pick(&[Crash::Process, Crash::Power]);
            self.step(Actor::Nemesis, &Op::Crash { how, with_store: true, torn: None })?;
        }
        Err(Violation { law: "I6", what: "the hub cannot be opened on a disk without faults".to_owned() })
    }

    fn some_crash(&mut self) -> Op {
        let crash = |how| Op::Crash { how, with_store: true, torn: None };
        match self.chance.below(8) {
            0 if !self.poisoned && self.armed.is_none() => Op::Close { with_store: true, compact: false },
            0..3 => crash(Crash::Process),
            3 | 4 => crash(Crash::Power),
            5 | 6 => Op::Crash { how: Crash::Power, with_store: true, torn: self.some_tear() },
            _ => {
                let how = self.chance.pick(&[Crash::Process, Crash::Power]);
                Op::Crash { how, with_store: false, torn: None }
            }
        }
    }

    /// A power cut leaves some of what was not synced, and garbage in it.
    fn some_tear(&mut self) -> Option<Torn> {
        let kept = self.disk.after(Crash::Power).journal().bytes().len();
        let unsynced = self.disk.journal().bytes().len().saturating_sub(kept);
        if unsynced == 0 {
            return None;
        }
        let kept = self.chance.index(unsynced + 1);
        let is_flipped = kept > 0 && self.chance.percent(50);
        let flipped = is_flipped.then(|| (self.chance.index(kept), self.chance.below(8)));
        Some(Torn { kept, flipped })
    }

    fn some_fault_of_opening(&mut self, kind: u64) -> Option<Fault> {
        let after = self.chance.below(3);
        Some(match kind {
            1 => Fault::Append { room: usize::try_from(after * 40).unwrap_or(0), cut: false },
            2 => Fault::Sync { after, cut: false },
            3 => Fault::Cut,
            4 => Fault::Batch { after },
            5 => Fault::Stop { at: u32::try_from(1 + self.chance.below(12)).unwrap_or(1) },
            _ => return None,
        })
    }

    pub(super) fn close(&mut self) -> Checked {
        let closed = self.hub.close();
        must!(closed.is_ok() || self.poisoned || self.armed.is_some(), "I5", "closing: {closed:?}");
        self.seen.saw("closed and opened");
        let disk = self.disk.after(Crash::Process);
        self.go_down(disk)
    }

    /// The hub is there no more; the disk is as it is found.
    pub(super) fn die(&mut self, how: Crash, with_store: bool, torn: Option<Torn>) -> Checked {
        if let Some(down) = &mut self.down {
            down.disk = down.disk.after(how);
            return Ok(());
        }
        if self.poisoned {
            self.seen.saw(self.armed.unwrap_or("fault: none"));
        }
        self.seen.saw(match (how, with_store, torn) {
            (_, false, _) => "crash: store lost",
            (_, _, Some(_)) => "crash: power, torn",
            (Crash::Power, ..) => "crash: power",
            (Crash::Process, ..) => "crash: process",
        });
        let mut disk = self.disk.after(how);
        if !with_store {
            disk = disk.without_store();
        }
        if let Some(Torn { kept, flipped }) = torn {
            let synced = disk.journal().bytes().len();
            let mut bytes = self.disk.journal().bytes();
            bytes.truncate(synced + kept);
            if let Some((place, bit)) = flipped
                && let Some(byte) = bytes.get_mut(synced + place)
            {
                *byte ^= 1 << bit;
            }
            disk.journal().set_bytes(&bytes);
        }
        match self.bug {
            Bug::SyncedByteDropped => {
                let bytes = disk.journal().bytes();
                disk.journal().set_bytes(&bytes[..bytes.len() - 1]);
            }
            Bug::StoreAhead if self.before_tick > 0 => {
                disk = self.disk.after(Crash::Process);
                let bytes = disk.journal().bytes();
                disk.journal().set_bytes(&bytes[..self.before_tick.min(bytes.len())]);
            }
            _ => {}
        }
        self.go_down(disk)
    }

    fn go_down(&mut self, disk: MemoryDisk) -> Checked {
        self.pending = journal_order(std::mem::take(&mut self.pending));
        let late = journal_order(std::mem::take(&mut self.late));
        self.pending.extend(late);
        let (least, most) = self.bounds();
        must!(least <= most, "I5", "a ticket is durable behind one that was refused");
        self.note("found", &[disk.journal_bytes(), u64::from(crc32fast::hash(&disk.journal().bytes()))]);
        self.programs.iter_mut().for_each(super::clients::Program::disconnect);
        self.down = Some(Down { disk, least, most });
        Ok(())
    }

    /// Opens the hub; it stays down if that fails.
    pub(super) fn open(&mut self, fault: Option<Fault>, keep_tombstones: Option<u64>) -> Checked {
        let Some(Down { disk, least, most }) = self.down.take() else { return Ok(()) };
        if let Some(fault) = fault {
            sabotage(&disk, fault);
        }
        let mut builder = builder(&self.clock, self.bug);
        if let Some(ms) = keep_tombstones {
            builder = builder.compact(Compact { keep_tombstones: Duration::from_millis(ms), ..Compact::default() });
            self.seen.saw("compaction");
        }
        let opened = catch_unwind(AssertUnwindSafe(|| open(&disk, builder, self.scale)));
        stop_at(0);
        match opened {
            Ok(Ok((hub, services))) => {
                (self.hub, self.services, self.disk) = (hub, services, disk);
                return self.opened(least, most);
            }
            Ok(Err(error)) => {
                let what = match error {
                    NotOpened::Open(error) => error.to_string(),
                    NotOpened::Register(error) => error.to_string(),
                    NotOpened::Poisoned(error) => error.to_string(),
                };
                must!(fault.is_some(), "I6", "the hub cannot be opened: {what}");
                self.seen.saw("opening failed");
            }
            Err(panic) if panic.downcast_ref::<&str>() == Some(&"stopped") => self.seen.saw("crash: while opening"),
            Err(panic) => resume_unwind(panic),
        }
        self.note("not opened", &[disk.journal_bytes()]);
        self.down = Some(Down { disk, least, most });
        Ok(())
    }

    fn opened(&mut self, least: usize, most: usize) -> Checked {
        self.disk.journal().heal();
        self.disk.fresh().heal();
        self.disk.store().fail_apply_after(0);
        self.note("opened", &[self.disk.journal_bytes()]);
        let report = self.hub.open_report();
        if report.cut.is_some() {
            self.seen.saw("torn tail cut");
        }
        if report.replayed > 0 {
            self.seen.saw("records replayed");
        }
        (self.poisoned, self.armed) = (false, None);
        if self.bug == Bug::LeasesForgotten {
            self.forget_leases();
        }
        self.recover(least, most)
    }

    /// A hub that puts back what was held when it went down.
    fn forget_leases(&mut self) {
        for service in 0..SERVICES {
            let seats = &self.hub.house().people.seats;
            for (_, seat) in seats.iter().filter(|(_, seat)| seat.service.id == self.services[service].core().id) {
                seat.end_all(crate::Cause::Revoked);
            }
        }
    }

    /// Which of the changes that were under way are there? As many as no ticket contradicts, in their order, and no half of one.
    fn recover(&mut self, least: usize, most: usize) -> Checked {
        let found = self.find()?;
        let mut there = None;
        let (mut next, mut why) = (self.durable.clone(), Vec::new());
        for taken in 0..=most {
            if taken > 0 {
                next.apply(&self.pending[taken - 1].0);
            }
            if taken >= least {
                match difference(&next, &found, self.time, &self.now) {
                    // The last one: what cannot be seen (that a subject is urgent) may be there.
                    None => there = Some((taken, next.clone())),
                    Some((law, what)) => why.push((taken, law, what)),
                }
            }
        }
        let Some((taken, mut state)) = there else {
            let law = why.last().map_or("I5", |(_, law, _)| *law);
            let what = format!("after a crash, {least} to {most} of {} changes: {why:?}", self.pending.len());
            for (effect, ticket) in std::mem::take(&mut self.pending) {
                self.note(&format!("under way: {effect:?}, {:?}", ticket.map(|ticket| ticket.progress())), &[]);
            }
            return Err(Violation { law, what });
        };
        self.note("recovered", &[least as u64, taken as u64, most as u64]);
        self.seen.saw(match (taken, self.pending.len()) {
            (_, 0) => "recovered: nothing was under way",
            (0, _) => "recovered: what was under way is gone",
            (taken, all) if taken == all => "recovered: all that was under way",
            _ => "recovered: a part of what was under way",
        });
        // What is held goes on for a full term.
        let deadline = self.time + self.scale.lease;
        for service in &mut state.services {
            for lease in service.leases.values_mut() {
                (lease.deadline, lease.safe_until) = (deadline, deadline + self.scale.grace);
            }
        }
        let kept: usize = state.services.iter().map(|service| service.leases.len()).sum();
        if kept > 0 {
            self.seen.saw("leases survived a crash");
        }
        let expired: Vec<_> = state
            .services
            .iter()
            .zip(&found.services)
            .enumerate()
            .flat_map(|(service, (model, seen))| {
                let gone = model.leases.keys().filter(|bucket| !seen.held.contains_key(*bucket));
                gone.map(move |bucket| Effect::End { service, bucket: *bucket }).collect::<Vec<_>>()
            })
            .collect();
        for effect in &expired {
            state.apply(effect);
        }
        self.durable = state.clone();
        self.now = state;
        self.pending.clear();
        Ok(())
    }

    /// An operator does something.
    pub(super) fn operate(&mut self) -> Checked {
        let service = self.chance.index(SERVICES);
        let client = self.chance.between(1, self.programs.len() as u64);
        let op = match self.chance.below(16) {
            0..6 => Op::SetState { service, state: ServiceState::Active },
            6 => Op::SetState { service, state: ServiceState::Paused },
            7 => Op::SetState { service, state: ServiceState::Draining },
            8 => Op::SetState { service, state: ServiceState::Revoked },
            9 => Op::Suspend { client, service, suspended: true },
            10 | 11 => {
                let mut seats = self.now.services[service].seats.iter();
                let barred = seats.find(|(_, seat)| seat.suspended).map(|(client, _)| *client);
                Op::Suspend { client: barred.unwrap_or(client), service, suspended: false }
            }
            12 => Op::Clear { client, service },
            what @ (13 | 14) => {
                let Some(key) = self.some_key(service).filter(|_| service != LANES) else { return Ok(()) };
                match what {
                    14 => Op::Prioritize { service, keys: vec![key] },
                    _ if self.chance.percent(60) => Op::Rerun { service, keys: vec![key] },
                    _ => Op::Delete { service, keys: vec![key] },
                }
            }
            _ => Op::Retract { client, service },
        };
        self.step(Actor::Operator, &op)
    }

    pub(super) fn clear(&mut self, service: usize, client: u64) -> Checked {
        match self.services[service].clear(client) {
            Ok(_) => self.seen.saw("operator: clear"),
            Err(error) => self.admin(&error)?,
        }
        Ok(())
    }

    fn admin(&mut self, error: &AdminError) -> Checked {
        match error {
            AdminError::Hub(error) => self.refused(error),
            AdminError::UnknownClient { id } => {
                must!(!self.now.registered.contains_key(id), "I5", "{id} is not known any more");
                Ok(())
            }
            error => Err(Violation { law: "I5", what: error.to_string() }),
        }
    }

    pub(super) fn set_state(&mut self, service: usize, state: ServiceState) -> Checked {
        let handle = &self.services[service];
        let (answer, what) = match state {
            ServiceState::Active => (handle.activate(), "operator: activate"),
            ServiceState::Paused => (handle.pause(), "operator: pause"),
            ServiceState::Draining => (handle.revoke(Revoke::Drain), "operator: drain"),
            _ => (handle.revoke(Revoke::Immediate), "operator: revoke"),
        };
        match answer {
            Ok(ticket) => {
                self.seen.saw(what);
                self.push(Effect::Is { service, state }, Some(ticket));
                if state == ServiceState::Revoked {
                    self.end_those(service, None);
                }
                Ok(())
            }
            Err(error) => self.admin(&error),
        }
    }

    pub(super) fn suspend(&mut self, service: usize, client: u64, suspended: bool) -> Checked {
        let handle = &self.services[service];
        let answer = if suspended { handle.suspend(client) } else { handle.reinstate(client) };
        match answer {
            Ok(ticket) => {
                let was = self.now.services[service].seats.get(&client).is_some_and(|seat| seat.suspended);
                if suspended || was {
                    self.seen.saw(if suspended { "operator: suspend" } else { "operator: reinstate" });
                    self.push(Effect::Suspend { service, client, suspended }, Some(ticket));
                    if suspended {
                        self.end_those(service, Some(client));
                    }
                }
                Ok(())
            }
            Err(error) => self.admin(&error),
        }
    }

    /// Any key; often one that is being worked on.
    fn some_key(&mut self, service: usize) -> Option<u64> {
        let leases = &self.now.services[service].leases;
        if self.chance.percent(40) && !leases.is_empty() {
            let place = self.chance.index(leases.len());
            return leases.values().nth(place).map(|lease| lease.items[0].key);
        }
        let keys = &self.keys[service];
        let place = self.chance.index(keys.len());
        keys.iter().nth(place).copied()
    }

    pub(super) fn rerun(&mut self, service: usize, keys: &[u64]) -> Checked {
        let answer = self.services[service].rerun(keys);
        self.sent(answer, "operator: rerun", keys, |key| Effect::Rerun { service, key })
    }

    pub(super) fn delete(&mut self, service: usize, keys: &[u64]) -> Checked {
        let answer = self.services[service].delete(keys);
        self.sent(answer, "operator: delete", keys, |key| Effect::Delete { service, key })
    }

    /// One key makes one change.
    fn sent(
        &mut self,
        answer: Result<Ticket, KeysError>,
        what: &'static str,
        keys: &[u64],
        effect: impl FnOnce(u64) -> Effect,
    ) -> Checked {
        match (answer, keys) {
            (Ok(ticket), [key]) => {
                self.seen.saw(what);
                self.push(effect(*key), Some(ticket));
                Ok(())
            }
            (Err(KeysError::Hub(error)), _) => self.refused(&error),
            (answer, _) => Err(Violation { law: "I5", what: format!("{what} of {keys:?}: {answer:?}") }),
        }
    }

    pub(super) fn prioritize(&mut self, service: usize, key: u64) -> Checked {
        match self.services[service].prioritize(&[key]) {
            Ok((marked, ticket)) => {
                // It is looked up in what reads see.
                let open = self.durable.services[service].subjects.get(&key).filter(|subject| subject.open);
                let open = open.filter(|_| marked == [Marked::Urgent]);
                if let Some(rank) = open.map(|subject| subject.rank) {
                    self.seen.saw("operator: prioritize");
                    self.push(Effect::Urgent { service, rank }, Some(ticket));
                }
                Ok(())
            }
            Err(UrgentError::Hub(error)) => self.refused(&error),
            Err(error) => Err(Violation { law: "I6", what: error.to_string() }),
        }
    }

    /// Withdraws all that a client reported. What must not change does not; the rest is taken as it is found.
    pub(super) fn retract(&mut self, service: usize, client: u64) -> Checked {
        let is_calm = !self.poisoned && self.armed.is_none();
        if service == LANES || !is_calm || !self.now.registered.contains_key(&client) {
            return Ok(());
        }
        self.tick()?;
        self.check()?;
        if let Err(error) = self.services[service].retract_all(client) {
            return Err(Violation { law: "I5", what: format!("retraction: {error}") });
        }
        self.seen.saw("operator: retract");
        self.tick_plain()?;
        for key in self.keys[service].clone() {
            let found = self.read(service, key)?;
            let model = &mut self.now.services[service];
            let Some(subject) = model.subjects.get(&key).cloned() else {
                must!(found.is_none(), "G7", "a retraction brought {key} forth");
                continue;
            };
            let Some((open, result)) = found else {
                must!(service == FINDER && key >= FOUND, "G7", "a retraction took {key} away, which was added by hand");
                model.forget(key);
                continue;
            };
            if subject.result.is_none_or(|(_, by)| by != client) {
                let is_same = (open, result) == (subject.open, subject.result);
                must!(is_same, "G7", "a retraction changed {key}, which {client} did not report");
            }
            must!(result.is_none_or(|(_, by)| by != client), "G7", "{key}: a result of {client} is in force");
            if open && !subject.open {
                model.reopen(key);
            }
            model.subjects.entry(key).and_modify(|subject| subject.result = result);
        }
        let next_rank = self.services[service].core().counts.visible.rank();
        let model = &mut self.now.services[service];
        model.is_loose = true;
        model.next_rank = next_rank;
        self.durable = self.now.clone();
        Ok(())
    }

    fn tick_plain(&mut self) -> Checked {
        self.hub.tick();
        let health = self.hub.health();
        must!(health.is_ok(), "I5", "{health:?}");
        Ok(())
    }

    /// Faults end, everybody is silent but for one honest client: within bounded time all that is known is done.
    pub(super) fn calm(&mut self) -> Checked {
        self.note("calm", &[]);
        self.is_calm = true;
        if self.poisoned || self.armed.is_some() || self.down.is_some() {
            self.crash()?;
        }
        for service in 0..SERVICES {
            self.step(Actor::Operator, &Op::SetState { service, state: ServiceState::Active })?;
        }
        self.step(Actor::Tick, &Op::Tick)?;
        let place = self.programs.len();
        let mut chance = self.chance.clone();
        self.programs.push(super::clients::Program::new(HONEST, &mut chance));
        let began = self.time;
        let step = self.scale.lease / 8 + self.scale.linger + 1;
        // All leases end once; what they put back is offered at the next tick.
        let patience = 2 * (self.scale.lease + self.scale.grace) + 8 * step;
        let mut spent = 0;
        loop {
            self.step(Actor::Tick, &Op::Tick)?;
            let got = self.work_off(place)?;
            self.step(Actor::Tick, &Op::Tick)?;
            let left: u64 = self.now.services.iter().map(|service| service.subjects.len() as u64 - service.done).sum();
            if left == 0 {
                break;
            }
            if got == 0 {
                spent += step;
                must!(
                    spent <= patience,
                    "G8",
                    "{left} subjects are starved, {} ms after the faults",
                    self.time - began
                );
            }
            self.advance(if got == 0 { step } else { self.scale.linger + 1 });
        }
        self.finish()
    }

    /// Claims and reports as long as there is something; how many buckets.
    fn work_off(&mut self, place: usize) -> Checked<usize> {
        let (actor, before) = (Actor::Program(place), self.given.len());
        for service in 0..SERVICES {
            must!(self.sits(place, service)?, "G8", "the honest client is not let in");
            loop {
                let first = self.given.len();
                self.step(actor, &Op::Claim { client: HONEST, service, n: self.scale.claim })?;
                if first == self.given.len() {
                    break;
                }
                for nth in first..self.given.len() {
                    let reports = (0..self.given[nth].keys.len()).map(|nth| (Which::Nth(nth), 2)).collect();
                    self.step(actor, &Op::Submit { shown: Shown::own(Pick::Nth(nth)), reports, last: true })?;
                }
            }
        }
        Ok(self.given.len() - before)
    }

    /// Everything is done, everything agrees, and after one more crash it is all there.
    fn finish(&mut self) -> Checked {
        self.audit()?;
        match self.hub.recount() {
            Ok(audit) => must!(audit.is_balanced(), "I2", "{audit}"),
            Err(error) => return Err(Violation { law: "I2", what: error.to_string() }),
        }
        self.check_all()?;
        for (service, model) in self.services.iter().zip(&self.now.services) {
            let stats = service.stats();
            let expected = (model.subjects.len() as u64, model.subjects.len() as u64);
            must!((stats.subjects_known, stats.subjects_done) == expected, "G8", "{expected:?}: {stats:?}");
        }
        let work = self.hub.stats().work;
        must!(work.adds_up(), "I2", "{work:?}");
        let (least, most) = self.bounds();
        must!((least, most) == (0, self.pending.len()), "I5", "something is under way");
        let disk = self.disk.after(Crash::Power);
        self.note("end", &[u64::from(crc32fast::hash(&disk.journal().bytes()))]);
        let opened = open(&disk, builder(&self.clock, self.bug), self.scale);
        let Ok((hub, services)) = opened else {
            return Err(Violation { law: "I6", what: "the hub cannot be opened at the end".to_owned() });
        };
        (self.hub, self.services, self.disk) = (hub, services, disk);
        self.check_all()?;
        let closed = self.hub.close();
        must!(closed.is_ok(), "I5", "closing: {closed:?}");
        must!(self.hub.health() == Err(HubError::Closed), "I5", "closed, and open");
        Ok(())
    }
}
