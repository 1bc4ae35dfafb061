//! The one group-commit writer: takes what waits, journals it as a group, syncs once, resolves the tickets' durable half,
//! hands the group to the storekeeper.

use std::io;
use std::time::Duration;

use serde_bytes::Bytes;

use crate::clock::millis;
use crate::commit::{Change, Pending, Reports};
use crate::error::TicketError;
use crate::fairness::is_overdue;
use crate::handover::{Delivery, Handover, Journaled, Waiting};
use crate::journal::{Group, GroupTime, Log, Outcome};
use crate::link::Link;
use crate::people::People;
use crate::pool::{LOGGED_ENDED, LOGGED_LEASED, Pool, Spot};
use crate::record::{
    self, Added, Again, ClientRecord, Conflict, Item, Keys, Leased, LevelRecord, Record, Released, Reported, Restored,
    SeatRecord, ServiceRecord, Urgent, Withdrawn, key,
};
use crate::registry::{Registry, ServiceCore};
use crate::retract::{RestoredPart, WithdrawnPart};
use crate::run::{HeldBack, Run, Step};
use crate::service::Bounds;
use crate::slot::{Cause, Mask, Phase, Slot};
use crate::steward::{PERIOD, PutBack};
use crate::sync::Arc;
use crate::syncing::Syncing;
use crate::ticket::Durability;

#[cfg(test)]
#[path = "writer_test.rs"]
mod tests;

/// Bytes of one group, about at most; what is more makes further groups, synced together.
const GROUP_BYTES: usize = 256 << 10;
/// Longest time that changes are gathered after a rest, ns: the last sync may have been a disk's stall.
const GATHER_MAX_NS: u64 = 5_000_000;
/// Journal bytes between checkpoints of the store.
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// A group under construction.
#[derive(Debug)]
struct Draft {
    group: Group,
    waiting: Vec<(u64, Waiting)>,
    put_back: Vec<PutBack>,
}

/// The writer. It alone touches the journal.
#[derive(Debug)]
pub(crate) struct Writer {
    link: Arc<Link>,
    registry: Arc<Registry>,
    people: Arc<People>,
    handover: Arc<Handover>,
    log: Box<dyn Log>,
    durability: Durability,
    drafts: Vec<Draft>,
    syncing: Syncing,
    checkpoint: u64,
    spare: Vec<Group>,
    /// There was nothing to write, since the last group.
    rested: bool,
    /// How long the last sync of a group took, ns; 0 if none is synced.
    sync_ns: u64,
    /// Reports on lanes that came before those that they follow.
    held_back: HeldBack<Waiting>,
    /// The journal failed.
    broken: bool,
}

impl Writer {
    pub(crate) fn new(
        link: Arc<Link>,
        registry: Arc<Registry>,
        people: Arc<People>,
        handover: Arc<Handover>,
        log: Box<dyn Log>,
        durability: Durability,
    ) -> Self {
        let checkpoint = log.end();
        let syncing = Syncing::new(durability, link.clock.now());
        Self {
            link,
            registry,
            people,
            handover,
            log,
            durability,
            drafts: Vec::new(),
            syncing,
            checkpoint,
            spare: Vec::new(),
            rested: false,
            sync_ns: 0,
            held_back: HeldBack::default(),
            broken: false,
        }
    }

    #[cfg(test)]
    pub(crate) fn go_on_with(&mut self, log: Box<dyn Log>) {
        self.log = log;
    }

    /// Journals a record that no call makes.
    #[cfg(test)]
    pub(crate) fn write(&mut self, record: &Record<'_>) {
        let time = self.link.clock.stamp();
        self.draft(time, record);
        self.commit();
    }

    /// Journals what waits. False if there was nothing.
    pub(crate) fn turn(&mut self) -> bool {
        if self.link.is_poisoned() {
            // Nothing more is written. The store's failure is not the journal's: what was written is synced still.
            self.link.fail_all(TicketError::Refused);
            self.give_up();
            self.sync_if_due(self.link.clock.now());
            return false;
        }
        let time = self.draft_waiting();
        let any = !self.drafts.is_empty();
        if any {
            self.commit();
        } else {
            self.sync_if_due(time.hub_ms);
        }
        any
    }

    /// Drafts what waits.
    fn draft_waiting(&mut self) -> GroupTime {
        // Looked at in this order, and drafted in the other: whatever a lease needs (its client, above all) was pushed before the lease
        // was taken, and so stands before it, wherever a crash may cut the group.
        let marked = self.marked();
        let waiting: Vec<Waiting> = self.link.take_all().into_iter().map(Waiting).collect();
        let time = self.link.clock.stamp();
        for node in waiting {
            self.draft_change(time, node);
        }
        for (service, pool, slots) in marked {
            for index in slots {
                self.draft_slot(time, &service, &pool, index);
            }
        }
        time
    }

    /// Nothing more becomes durable or visible: every ticket that is still awaited is answered, and who waits for work goes.
    pub(crate) fn give_up(&mut self) {
        self.held_back.clear();
        self.drafts.clear();
        self.registry.notify_all();
    }

    /// Journals that the hub was opened, synced whatever the durability: no generation is used twice.
    pub(crate) fn boot(&mut self, number: u32) -> Result<(), String> {
        let time = self.link.clock.stamp();
        self.draft(time, &Record::Boot(record::Boot { number }));
        self.commit();
        self.sync_rest().map_err(|error| format!("journal sync: {error}"))?;
        if self.link.is_poisoned() { Err(self.link.cause()) } else { Ok(()) }
    }

    /// Syncs what is not synced yet; after a failed sync that fails again.
    fn sync_rest(&mut self) -> io::Result<()> {
        if self.log.synced() < self.log.end() { self.log.sync() } else { Ok(()) }
    }

    /// The caller's thread is the writer's.
    pub(crate) fn adopt(&self) {
        self.link.writer.adopt();
        self.link.writer_room.adopt();
    }

    /// Parks, if the storekeeper is far behind, for as long as it may: it goes first. True if it parked.
    pub(crate) fn waited_for_room(&mut self) -> bool {
        // A writer that writes nothing more has still to answer.
        let waited = self.handover.wait_for_room(|| self.link.is_open().then(|| self.sleep()));
        if waited {
            self.sync_if_due(self.link.clock.now());
        }
        waited
    }

    /// There was nothing to write: how long it may sleep if nothing wakes it.
    pub(crate) fn rest(&mut self) -> Duration {
        self.rested = true;
        self.sleep()
    }

    fn sleep(&self) -> Duration {
        let left = if self.broken { None } else { self.syncing.sleep(self.log.as_ref(), self.link.clock.now()) };
        left.unwrap_or(PERIOD)
    }

    /// The end: journals and syncs what is left. The hub is closed already.
    pub(crate) fn finish(&mut self) {
        self.turn();
        if let Err(error) = self.sync_rest() {
            self.fail(format!("journal sync: {error}"));
        }
        self.link.fail_all(TicketError::Closed);
        self.give_up();
    }

    /// The slots in which something happened since the last turn, by pool.
    fn marked(&self) -> Vec<(Arc<ServiceCore>, Arc<Pool>, Vec<usize>)> {
        let mut marked = Vec::new();
        for service in self.registry.all() {
            for pool in service.live().iter() {
                let mut slots = Vec::new();
                pool.collect(|index, _| slots.push(index));
                if !slots.is_empty() {
                    marked.push((Arc::clone(&service), Arc::clone(pool), slots));
                }
            }
        }
        marked
    }

    /// Drafts that a lease began, and that it ended. Whether its end stands before or after its last reports does not matter: the
    /// subjects they name are different ones.
    fn draft_slot(&mut self, time: GroupTime, service: &Arc<ServiceCore>, pool: &Arc<Pool>, index: usize) {
        let Some(slot) = pool.slot(index) else { return };
        let seen = slot.snapshot();
        match seen.phase() {
            // Handed out by the cursor, not yet claimed: to be looked at again. Its claimer raises the signal.
            Phase::Ready => pool.mark(index),
            Phase::Leased | Phase::Dead => self.draft_lease(time, pool, index, slot),
            Phase::Done => {
                self.draft_lease(time, pool, index, slot);
                if pool.is_shared() && pool.logged(index) & LOGGED_ENDED == 0 {
                    // Not its own reports alone may have ended it.
                    self.draft_released(time, pool, index, Cause::Client, Vec::new());
                }
                pool.note_logged(index, LOGGED_ENDED);
            }
            Phase::Released => self.draft_end(time, service, pool, index, slot, seen.cause()),
        }
    }

    /// Makes sure that the lease of a slot is in the journal.
    fn draft_lease(&mut self, time: GroupTime, pool: &Pool, index: usize, slot: &Slot) {
        let seen = slot.snapshot();
        let never_leased = seen.put_back() == Some(Cause::Abandoned);
        if pool.logged(index) & LOGGED_LEASED != 0 || never_leased {
            return;
        }
        let Some(seat) = self.people.seats.get(seen.owner() as usize) else { return };
        let record = Record::Leased(Leased {
            service: pool.service,
            generation: pool.generation,
            slot: pool.number(index),
            client: seat.client.id.value(),
            at: pool.claimed_at(slot).min(time.hub_ms),
            ranks: pool.bucket(index).map(|subject| subject.rank).collect(),
            again: pool.origins(index).map(again).collect(),
            lane: pool.run(index).map(|run| run.lane().to_vec()).unwrap_or_default(),
        });
        self.note_waits(pool, index, pool.claimed_at(slot).min(time.hub_ms));
        pool.note_logged(index, LOGGED_LEASED);
        self.draft(time, &record);
    }

    /// Counts how long the subjects of a bucket waited before it was leased, and those that another lease held.
    fn note_waits(&self, pool: &Pool, index: usize, began: u64) {
        let Some(service) = self.registry.by_id(pool.service) else { return };
        let (counts, max_wait) = (&service.counts, millis(service.policy().max_wait));
        for subject in pool.bucket(index) {
            let waited = began.saturating_sub(subject.since);
            counts.overdue.add(u64::from(is_overdue(waited, max_wait)));
            counts.longest_wait.set(waited.max(counts.longest_wait.value()));
        }
        counts.offered_again.add(pool.origins(index).count() as u64);
    }

    fn draft_end(
        &mut self,
        time: GroupTime,
        service: &Arc<ServiceCore>,
        pool: &Arc<Pool>,
        index: usize,
        slot: &Slot,
        cause: Cause,
    ) {
        if pool.logged(index) & LOGGED_ENDED != 0 {
            return;
        }
        pool.note_logged(index, LOGGED_ENDED);
        // Whoever took it back may have stopped before it closed the slot.
        let left = slot.close();
        if cause != Cause::Abandoned {
            self.draft_lease(time, pool, index, slot);
            let ranks = left.places().filter_map(|place| pool.subject(index, place)).map(|subject| subject.rank);
            self.draft_released(time, pool, index, cause, ranks.collect());
        }
        let put_back = PutBack { service: service.id, pool: Arc::clone(pool), index, left };
        // An abandoned slot alone makes no record, and may have no draft to travel with. It may overtake groups that wait for their sync:
        // whatever they do to its subjects finds them where they wait.
        match self.drafts.last_mut() {
            Some(draft) => draft.put_back.push(put_back),
            None => self.handover.deliver(Delivery::PutBack(put_back)),
        }
    }

    fn draft_released(&mut self, time: GroupTime, pool: &Pool, index: usize, cause: Cause, ranks: Vec<u64>) {
        let (service, generation, slot) = (pool.service, pool.generation, pool.number(index));
        let owner = pool.slot(index).and_then(|slot| self.people.seats.get(slot.snapshot().owner() as usize));
        let client = owner.map_or(0, |seat| seat.client.id.value());
        self.draft(time, &Record::Released(Released { service, generation, slot, client, cause, ranks }));
    }

    fn draft_change(&mut self, time: GroupTime, node: Waiting) {
        let mut held_back = std::mem::take(&mut self.held_back);
        held_back.pass(node, |node| step_of(node), |node| self.draft_now(time, node));
        self.held_back = held_back;
    }

    fn draft_now(&mut self, time: GroupTime, node: Waiting) {
        let offset = match &node.change {
            Change::Service { service, name, state, bounds } => {
                let Bounds { max_subjects, lane_subjects } = *bounds;
                let record = ServiceRecord { service: *service, name, state: *state, max_subjects, lane_subjects };
                self.draft(time, &Record::Service(record))
            }
            Change::Client { client, name, registered } => {
                self.draft(time, &Record::Client(ClientRecord { client: *client, name, registered: *registered }))
            }
            Change::Seat { service, client, state } => {
                let record = SeatRecord { service: *service, client: *client, state: *state };
                self.draft(time, &Record::Seat(record))
            }
            Change::Level { service, client, level, why } => {
                let record = LevelRecord { service: *service, client: *client, level: *level, why };
                self.draft(time, &Record::Level(record))
            }
            Change::Added { service, subjects } => {
                self.draft(time, &Record::Added(Added { service: *service, subjects }))
            }
            Change::Keys { service, decision, keys } => {
                self.draft(time, &decision.record(Keys { service: *service, keys }))
            }
            Change::Withdrawn(part) => self.draft(time, &Record::Withdrawn(withdrawn(part))),
            Change::Restored(part) => self.draft(time, &Record::Restored(restored(part))),
            Change::Urgent { service, ranks } => {
                self.draft(time, &Record::Urgent(Urgent { service: *service, ranks: ranks.clone() }))
            }
            Change::Reported(reports) | Change::Conflict(reports) => {
                if let Some(slot) = reports.pool.slot(reports.index) {
                    self.draft_lease(time, &reports.pool, reports.index, slot);
                }
                let is_evidence = matches!(node.change, Change::Conflict(_));
                self.draft_reports(time, reports, is_evidence)
            }
        };
        match (offset, self.drafts.last_mut()) {
            (Some(offset), Some(draft)) => draft.waiting.push((offset, node)),
            _ => self.link.fail(&node, TicketError::Refused),
        }
    }

    fn draft_reports(&mut self, time: GroupTime, reports: &Reports, is_evidence: bool) -> Option<u64> {
        let kept = if reports.whole { None } else { Some(filter(&reports.items, reports.accepted)) };
        let items = kept.as_deref().unwrap_or(&reports.items);
        if reports.late.is_empty() {
            return self.draft(time, &reported(reports, items, is_evidence));
        }
        if !items.is_empty() {
            self.draft(time, &reported(reports, items, is_evidence))?;
        }
        let Record::Reported(late) = reported(reports, &[], false) else { return None };
        self.draft(time, &Record::Late(Reported { items: &filter(&reports.items, reports.late), ..late }))
    }

    /// Adds a record to the last draft, or to a new one. None if it is too long for a frame.
    fn draft(&mut self, time: GroupTime, record: &Record<'_>) -> Option<u64> {
        let full = self.drafts.last().is_none_or(|draft| draft.group.bytes() >= GROUP_BYTES);
        if full {
            if self.spare.is_empty() {
                self.spare = self.handover.spare();
            }
            let mut group = self.spare.pop().unwrap_or_else(Group::new);
            group.begin(time, self.durability.class());
            self.drafts.push(Draft { group, waiting: Vec::new(), put_back: Vec::new() });
        }
        let draft = self.drafts.last_mut()?;
        let pushed = draft.group.push(record.kind(), key::PALLET, |out| record.append_to(out));
        pushed.inspect_err(|error| tracing::error!(%error, "record refused by the journal")).ok()
    }

    /// Writes the drafts and, after a rest, what comes meanwhile; syncs once, resolves the durable halves.
    fn commit(&mut self) {
        let mut written = Vec::new();
        let appended = self.append(&mut written).and_then(|()| self.gather(&mut written));
        let mut failed = appended.err();
        if !written.is_empty()
            && self.durability == Durability::Sync
            && let Err(error) = self.sync_group()
        {
            written.drain(..).for_each(|journaled| self.refuse(&journaled.waiting, TicketError::Unknown));
            failed = Some(format!("journal sync: {error}"));
        }
        let any = !written.is_empty();
        for journaled in written {
            for (offset, node) in &journaled.waiting {
                node.resolution.durable(journaled.start + offset);
            }
            self.handover.deliver(Delivery::Group(journaled));
        }
        if any {
            self.link.tell();
        }
        if let Some(cause) = failed {
            self.fail(cause);
        }
        self.sync_if_due(self.link.clock.now());
        self.checkpoint_if_due();
    }

    /// Writes the drafts. What follows a draft that failed is refused.
    fn append(&mut self, written: &mut Vec<Journaled>) -> Result<(), String> {
        let mut appended = Ok(());
        for mut draft in std::mem::take(&mut self.drafts) {
            if appended.is_err() {
                self.refuse(&draft.waiting, TicketError::Refused);
                continue;
            }
            let (error, answer) = match self.log.append(&mut draft.group) {
                Outcome::Applied { start, end } => {
                    let Draft { group, waiting, put_back } = draft;
                    written.push(Journaled { group, start, end, waiting, put_back });
                    continue;
                }
                Outcome::Refused(error) => (error, TicketError::Refused),
                Outcome::Unknown(error) => (error, TicketError::Unknown),
            };
            self.refuse(&draft.waiting, answer);
            appended = Err(format!("journal append: {error}"));
        }
        appended
    }

    /// The first changes of a burst wake the writer: what comes while they are written shares their sync, for as long as something
    /// comes, but no longer than a sync takes. What comes in a stream has gathered during the sync before.
    fn gather(&mut self, written: &mut Vec<Journaled>) -> Result<(), String> {
        if !std::mem::take(&mut self.rested) {
            return Ok(());
        }
        let link = Arc::clone(&self.link);
        let until = link.clock.nanos().saturating_add(self.sync_ns.min(GATHER_MAX_NS));
        while link.writer.is_raised() && !link.is_poisoned() && link.clock.nanos() < until {
            link.writer.lower();
            self.draft_waiting();
            self.append(written)?;
        }
        Ok(())
    }

    /// Syncs, and notes how long that took.
    fn sync_group(&mut self) -> io::Result<()> {
        let began = self.link.clock.nanos();
        let synced = self.log.sync();
        self.sync_ns = self.link.clock.nanos().saturating_sub(began);
        synced
    }

    fn refuse(&self, waiting: &[(u64, Waiting)], error: TicketError) {
        for (_, node) in waiting {
            self.link.fail(node, error);
        }
    }

    /// The journal failed, and the hub is poisoned.
    fn fail(&mut self, cause: String) {
        self.broken = true;
        self.link.poison(cause);
        self.registry.notify_all();
    }

    /// Keeps the interval of a log that is synced at intervals.
    fn sync_if_due(&mut self, now: u64) {
        if !self.broken && self.syncing.is_due(self.log.as_ref(), now) {
            self.syncing.note(now);
            match self.log.sync() {
                Ok(()) => self.link.tell(),
                Err(error) => self.fail(format!("journal sync: {error}")),
            }
        }
    }

    /// Lets the store be made durable, now and then, behind what is synced: else power that is lost could leave a store that says
    /// more than its journal.
    fn checkpoint_if_due(&mut self) {
        if self.broken || self.log.end().saturating_sub(self.checkpoint) < CHECKPOINT_BYTES {
            return;
        }
        self.checkpoint = self.log.end();
        match self.sync_rest() {
            Ok(()) => {
                // Those who read only what is synced.
                self.link.tell();
                self.handover.deliver(Delivery::Checkpoint);
            }
            Err(error) => self.fail(format!("journal sync: {error}")),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.handover.deliver(Delivery::End);
    }
}

/// What a change does to the lane that its lease runs.
fn step_of(node: &Pending) -> Option<(&Run, &Step)> {
    match &node.change {
        Change::Reported(reports) => reports.pool.run(reports.index).zip(reports.step.as_ref()),
        _ => None,
    }
}

fn withdrawn(part: &WithdrawnPart) -> Withdrawn<'_> {
    let WithdrawnPart { service, id, client, from_ms, to_ms, versions, subjects, found } = part;
    let (service, id, client, from_ms, to_ms) = (*service, *id, *client, *from_ms, *to_ms);
    Withdrawn { service, id, client, from_ms, to_ms, versions, subjects, found }
}

fn restored(part: &RestoredPart) -> Restored<'_> {
    let RestoredPart { service, id, last, versions, subjects } = part;
    Restored { service: *service, id: *id, last: *last, versions, subjects }
}

fn again((place, origin): (usize, &Spot)) -> Again {
    Again {
        place: u16::try_from(place).unwrap_or(u16::MAX),
        generation: origin.pool.generation,
        slot: origin.pool.number(origin.index),
    }
}

fn reported<'a>(reports: &'a Reports, items: &'a [u8], is_evidence: bool) -> Record<'a> {
    let (service, generation) = (reports.pool.service, reports.pool.generation);
    let (slot, client) = (reports.pool.number(reports.index), reports.client);
    if is_evidence {
        Record::Conflict(Conflict { service, generation, slot, client, items })
    } else {
        let state = reports.step.as_ref().and_then(|step| step.state.as_deref()).map(Bytes::new);
        Record::Reported(Reported { service, generation, slot, client, items, state })
    }
}

/// Those of a list of items that took effect.
fn filter(items: &[u8], accepted: Mask) -> Vec<u8> {
    let mut kept = Vec::new();
    for item in record::list::<Item<'_>>("item", items).flatten() {
        if accepted.has(usize::from(item.place)) {
            record::append(&mut kept, &item);
        }
    }
    kept
}
