//! What happens to the world: faults of the disk, crashes of process and machine, clocks that jump, an operator; and at the end a
//! calm in which one honest client finishes everything.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use super::Bug;
use super::chance::{Checked, Violation, must};
use super::reference::{Effect, FINDER, FOUND, LANES, SERVICES, difference, journal_order};
use super::world::{NotOpened, World, builder, open};
use crate::clock::Clock;
use crate::compact::stop_at;
use crate::{
    AdminError, Compact, Crash, HubError, KeysError, Marked, MemoryDisk, Progress, Registration, Revoke, ServiceState,
    Ticket, TicketError, UrgentError,
};

/// The calm's client.
const HONEST: u64 = 9_000_000;

impl World {
    /// Something breaks.
    pub(super) fn strike(&mut self) -> Checked {
        match self.chance.below(10) {
            0..5 => {
                if self.armed.is_none() && !self.poisoned {
                    self.arm();
                }
            }
            5 => {
                let by = self.chance.below(3 * (self.scale.lease + self.scale.grace));
                self.advance(by);
                self.seen.saw("clock jumped ahead");
                self.note("jump", &[by]);
            }
            6 => {
                let back = i64::try_from(self.chance.below(10 * self.scale.lease)).unwrap_or(0);
                self.clock.set_wall_ms(self.clock.wall_ms() - back);
                self.seen.saw("wall clock went back");
                self.note("wall", &[back.unsigned_abs()]);
            }
            _ => self.crash()?,
        }
        Ok(())
    }

    fn arm(&mut self) {
        let disk = self.disk.clone();
        let after = self.chance.below(4);
        let what = match self.chance.below(5) {
            0 => {
                let room = self.chance.index(600);
                disk.journal().fail_append_after(room);
                "fault: append"
            }
            1 => {
                let room = self.chance.index(200);
                disk.journal().fail_append_after(room);
                disk.journal().fail_truncate_after(0);
                "fault: append and truncation"
            }
            2 => {
                disk.journal().fail_sync_after(after);
                "fault: sync"
            }
            3 => {
                disk.journal().fail_sync_after(after);
                disk.journal().fail_truncate_after(0);
                "fault: sync and truncation"
            }
            _ => {
                disk.store().fail_apply_after(after + 1);
                "fault: store batch"
            }
        };
        self.armed = Some(what);
        self.note(what, &[after]);
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

    /// The process dies or the machine does, and the hub is opened on what is left.
    pub(super) fn crash(&mut self) -> Checked {
        if self.poisoned {
            self.seen.saw(self.armed.unwrap_or("fault: none"));
        }
        let kind = self.chance.below(8);
        if kind == 0 && !self.poisoned && self.armed.is_none() {
            let closed = self.hub.close();
            must!(closed.is_ok(), "I5", "closing: {closed:?}");
            self.seen.saw("closed and opened");
        }
        self.pending = journal_order(std::mem::take(&mut self.pending));
        let late = journal_order(std::mem::take(&mut self.late));
        self.pending.extend(late);
        let (least, most) = self.bounds();
        let disk = self.wreck(kind);
        must!(least <= most, "I5", "a ticket is durable behind one that was refused");
        self.note("crash", &[kind, disk.journal_bytes(), u64::from(crc32fast::hash(&disk.journal().bytes()))]);
        self.programs.iter_mut().for_each(super::clients::Program::disconnect);
        self.reopen(disk)?;
        (self.poisoned, self.armed) = (false, None);
        if self.bug == Bug::LeasesForgotten {
            self.forget_leases();
        }
        self.recover(least, most)
    }

    /// The disk as it is found.
    fn wreck(&mut self, kind: u64) -> MemoryDisk {
        let disk = match kind {
            0..3 => {
                self.seen.saw("crash: process");
                self.disk.after(Crash::Process)
            }
            3 | 4 => {
                self.seen.saw("crash: power");
                self.disk.after(Crash::Power)
            }
            5 | 6 => {
                self.seen.saw("crash: power, torn");
                self.tear()
            }
            _ => {
                self.seen.saw("crash: store lost");
                let crash = self.chance.pick(&[Crash::Process, Crash::Power]);
                self.disk.after(crash).without_store()
            }
        };
        match self.bug {
            Bug::SyncedByteDropped if kind != 0 => {
                let bytes = disk.journal().bytes();
                disk.journal().set_bytes(&bytes[..bytes.len() - 1]);
            }
            Bug::StoreAhead if kind != 0 && self.before_tick > 0 => {
                let disk = self.disk.after(Crash::Process);
                let bytes = disk.journal().bytes();
                disk.journal().set_bytes(&bytes[..self.before_tick.min(bytes.len())]);
                return disk;
            }
            _ => {}
        }
        disk
    }

    /// A power cut that leaves some of what was not synced, and garbage in it.
    fn tear(&mut self) -> MemoryDisk {
        let disk = self.disk.after(Crash::Power);
        let (kept, bytes) = (disk.journal().bytes(), self.disk.journal().bytes());
        let unsynced = bytes.len().saturating_sub(kept.len());
        if unsynced > 0 {
            let mut torn = bytes[..kept.len() + self.chance.index(unsynced + 1)].to_vec();
            if torn.len() > kept.len() && self.chance.percent(50) {
                let place = kept.len() + self.chance.index(torn.len() - kept.len());
                torn[place] ^= 1 << self.chance.below(8);
            }
            disk.journal().set_bytes(&torn);
            self.seen.saw("torn tail");
        }
        disk
    }

    /// Opens the hub; the disk may fail in the middle of that, or the machine crash again.
    fn reopen(&mut self, mut disk: MemoryDisk) -> Checked {
        for attempt in 0..5 {
            let fault = if attempt < 4 && self.chance.percent(35) { self.chance.between(1, 5) } else { 0 };
            self.sabotage(&disk, fault);
            let mut builder = builder(&self.clock, self.bug);
            if fault == 5 || self.chance.percent(15) {
                let keep_tombstones = Duration::from_millis(self.chance.below(4 * self.scale.lease));
                builder = builder.compact(Compact { keep_tombstones, ..Compact::default() });
                self.seen.saw("compaction");
            }
            let scale = self.scale;
            let opened = catch_unwind(AssertUnwindSafe(|| open(&disk, builder, scale)));
            stop_at(0);
            match opened {
                Ok(Ok((hub, services))) => {
                    disk.journal().heal();
                    disk.fresh().heal();
                    disk.store().fail_apply_after(0);
                    self.note("opened", &[fault, disk.journal_bytes()]);
                    if hub.open_report().cut.is_some() {
                        self.seen.saw("torn tail cut");
                    }
                    if hub.open_report().replayed > 0 {
                        self.seen.saw("records replayed");
                    }
                    (self.hub, self.services, self.disk) = (hub, services, disk);
                    return Ok(());
                }
                Ok(Err(error)) => {
                    let what = match error {
                        NotOpened::Open(error) => error.to_string(),
                        NotOpened::Register(error) => error.to_string(),
                        NotOpened::Poisoned(error) => error.to_string(),
                    };
                    must!(fault != 0, "I6", "the hub cannot be opened: {what}");
                    self.seen.saw("opening failed");
                }
                Err(panic) if panic.downcast_ref::<&str>() == Some(&"stopped") => {
                    self.seen.saw("crash: while opening");
                }
                Err(panic) => resume_unwind(panic),
            }
            self.note("not opened", &[fault, disk.journal_bytes()]);
            let crash = self.chance.pick(&[Crash::Process, Crash::Power]);
            disk = disk.after(crash);
        }
        Err(Violation { law: "I6", what: "the hub cannot be opened on a disk without faults".to_owned() })
    }

    fn sabotage(&mut self, disk: &MemoryDisk, fault: u64) {
        let after = self.chance.below(3);
        match fault {
            1 => disk.journal().fail_append_after(usize::try_from(after * 40).unwrap_or(0)),
            2 => disk.journal().fail_sync_after(after),
            3 => disk.journal().fail_truncate_after(0),
            4 => disk.store().fail_apply_after(after + 1),
            5 => stop_at(u32::try_from(1 + self.chance.below(12)).unwrap_or(1)),
            _ => {}
        }
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
        match self.chance.below(16) {
            0..6 => self.set_state(service, ServiceState::Active)?,
            6 => self.set_state(service, ServiceState::Paused)?,
            7 => self.set_state(service, ServiceState::Draining)?,
            8 => self.set_state(service, ServiceState::Revoked)?,
            9 => self.suspend(service, client, true)?,
            10 | 11 => {
                let mut seats = self.now.services[service].seats.iter();
                let barred = seats.find(|(_, seat)| seat.suspended).map(|(client, _)| *client);
                self.suspend(service, barred.unwrap_or(client), false)?;
            }
            12 => match self.services[service].clear(client) {
                Ok(_) => self.seen.saw("operator: clear"),
                Err(error) => self.admin(&error)?,
            },
            13 => self.rerun_or_delete(service)?,
            14 => self.prioritize(service)?,
            _ => self.retract(service, client)?,
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
                self.note(what, &[service as u64]);
                self.push(Effect::Is { service, state }, Some(ticket));
                if state == ServiceState::Revoked {
                    self.end_those(service, None);
                }
                Ok(())
            }
            Err(error) => self.admin(&error),
        }
    }

    fn suspend(&mut self, service: usize, client: u64, suspended: bool) -> Checked {
        let handle = &self.services[service];
        let answer = if suspended { handle.suspend(client) } else { handle.reinstate(client) };
        match answer {
            Ok(ticket) => {
                let was = self.now.services[service].seats.get(&client).is_some_and(|seat| seat.suspended);
                if suspended || was {
                    self.seen.saw(if suspended { "operator: suspend" } else { "operator: reinstate" });
                    self.note("suspend", &[service as u64, client, u64::from(suspended)]);
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

    fn rerun_or_delete(&mut self, service: usize) -> Checked {
        let Some(key) = self.some_key(service).filter(|_| service != LANES) else { return Ok(()) };
        let is_rerun = self.chance.percent(60);
        let handle = &self.services[service];
        let answer = if is_rerun { handle.rerun(&[key]) } else { handle.delete(&[key]) };
        match answer {
            Ok(ticket) => {
                self.seen.saw(if is_rerun { "operator: rerun" } else { "operator: delete" });
                self.note(if is_rerun { "rerun" } else { "delete" }, &[service as u64, key]);
                let effect = if is_rerun { Effect::Rerun { service, key } } else { Effect::Delete { service, key } };
                self.push(effect, Some(ticket));
                Ok(())
            }
            Err(KeysError::Hub(error)) => self.refused(&error),
            Err(error) => Err(Violation { law: "I5", what: error.to_string() }),
        }
    }

    fn prioritize(&mut self, service: usize) -> Checked {
        let Some(key) = self.some_key(service).filter(|_| service != LANES) else { return Ok(()) };
        match self.services[service].prioritize(&[key]) {
            Ok((marked, ticket)) => {
                // It is looked up in what reads see.
                let open = self.durable.services[service].subjects.get(&key).filter(|subject| subject.open);
                let open = open.filter(|_| marked == [Marked::Urgent]);
                if let Some(rank) = open.map(|subject| subject.rank) {
                    self.seen.saw("operator: prioritize");
                    self.note("prioritize", &[service as u64, key]);
                    self.push(Effect::Urgent { service, rank }, Some(ticket));
                }
                Ok(())
            }
            Err(UrgentError::Hub(error)) => self.refused(&error),
            Err(error) => Err(Violation { law: "I6", what: error.to_string() }),
        }
    }

    /// Withdraws all that a client reported. What must not change does not; the rest is taken as it is found.
    fn retract(&mut self, service: usize, client: u64) -> Checked {
        let is_calm = !self.poisoned && self.armed.is_none();
        if service == LANES || !is_calm || !self.now.registered.contains_key(&client) {
            return Ok(());
        }
        self.tick()?;
        self.check()?;
        if let Err(error) = self.services[service].retract_all(client) {
            return Err(Violation { law: "I5", what: format!("retraction: {error}") });
        }
        self.note("retract", &[service as u64, client]);
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
        if self.poisoned || self.armed.is_some() {
            self.crash()?;
        }
        for service in 0..SERVICES {
            self.set_state(service, ServiceState::Active)?;
        }
        self.tick()?;
        self.check()?;
        let place = self.programs.len();
        let mut chance = self.chance.clone();
        self.programs.push(super::clients::Program::new(HONEST, &mut chance));
        let name = "honest";
        let ticket = match self.hub.register_client(&Registration::new(HONEST, name)) {
            Ok(registered) => registered.ticket,
            Err(error) => return Err(Violation { law: "G8", what: format!("nobody new is let in: {error}") }),
        };
        self.push(Effect::Client { id: HONEST, registered: true }, Some(ticket));
        let began = self.time;
        let step = self.scale.lease / 8 + self.scale.linger + 1;
        // All leases end once; what they put back is offered at the next tick.
        let patience = 2 * (self.scale.lease + self.scale.grace) + 8 * step;
        let mut spent = 0;
        loop {
            self.tick()?;
            self.check()?;
            let got = self.work_off(place)?;
            self.tick()?;
            self.check()?;
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
        let mut got = 0;
        for service in 0..SERVICES {
            let Some(seat) = self.seat(place, service)? else {
                return Err(Violation { law: "G8", what: "the honest client is not let in".to_owned() });
            };
            loop {
                let before = self.given.len();
                let n = self.claim_for(place, &seat, service, self.scale.claim)?;
                got += n;
                for given in before..self.given.len() {
                    let keys = self.given[given].keys.clone();
                    let reports: Vec<(u64, u32)> = keys.iter().map(|key| (*key, 2)).collect();
                    self.hand_in(&seat, given, &reports, true)?;
                }
                if n == 0 {
                    break;
                }
            }
        }
        Ok(got)
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
