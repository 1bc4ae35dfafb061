//! The storekeeper: applies what the writer has journaled to the store, batch by batch, and resolves the tickets' visible
//! half. Acknowledgements do not wait for it, unless it is far behind.

use std::collections::{BTreeMap, VecDeque};

use crate::apply::{Applier, At, Effect, FinishedLease};
use crate::audit::{Booked, Flow};
use crate::commit::Change;
use crate::error::TicketError;
use crate::handover::{Delivery, Handover, Journaled};
use crate::link::Link;
use crate::measures;
use crate::pace::Gauge;
use crate::people::People;
use crate::registry::{Registry, ServiceCore};
use crate::slot::Mask;
use crate::stack::{Node, Stack};
use crate::steward::{Errand, Fate, PutBack};
use crate::sync::Arc;
use crate::ticket::{Durability, Intake};

/// Groups that are in the batch under way, and what each took in.
type Applied = Vec<(Journaled, Vec<Intake>)>;

/// The storekeeper. It alone writes to the store.
#[derive(Debug)]
pub(crate) struct Storekeeper {
    link: Arc<Link>,
    registry: Arc<Registry>,
    people: Arc<People>,
    inbox: Arc<Stack<Errand>>,
    handover: Arc<Handover>,
    applier: Applier,
    durability: Durability,
    /// Taken from the backlog, not applied.
    arrived: VecDeque<Delivery>,
    gauge: Gauge,
    /// The store failed: nothing more is applied.
    failed: bool,
    over: bool,
}

impl Storekeeper {
    pub(crate) fn new(
        link: Arc<Link>,
        registry: Arc<Registry>,
        people: Arc<People>,
        inbox: Arc<Stack<Errand>>,
        handover: Arc<Handover>,
        applier: Applier,
        durability: Durability,
    ) -> Self {
        Self {
            link,
            registry,
            people,
            inbox,
            handover,
            applier,
            durability,
            arrived: VecDeque::new(),
            gauge: Gauge::default(),
            failed: false,
            over: false,
        }
    }

    #[cfg(test)]
    pub(crate) fn applier_mut(&mut self) -> &mut Applier {
        &mut self.applier
    }

    /// Applies what is journaled, a batch's worth. False if there was nothing.
    pub(crate) fn turn(&mut self) -> bool {
        self.arrived.extend(self.handover.take());
        if self.arrived.is_empty() {
            return false;
        }
        let mut applied = Applied::new();
        let mut bytes = 0;
        let mut is_checkpoint = false;
        while (self.failed || !self.applier.batch_is_full(bytes)) && !is_checkpoint {
            match self.arrived.pop_front() {
                Some(Delivery::Group(journaled)) => {
                    bytes += journaled.group.bytes();
                    let intakes = self.apply_group(&journaled);
                    applied.push((journaled, intakes));
                }
                // With the group before it, if that is not in the store yet.
                Some(Delivery::PutBack(put_back)) => match applied.last_mut() {
                    Some((journaled, _)) => journaled.put_back.push(put_back),
                    None if self.failed => {}
                    None => self.return_subjects(put_back),
                },
                Some(Delivery::Checkpoint) => is_checkpoint = true,
                Some(Delivery::End) => self.over = true,
                None => break,
            }
        }
        self.write_batch(applied);
        self.handover.give_back(bytes as u64);
        self.link.steward.raise();
        if is_checkpoint
            && !self.failed
            && let Err(error) = self.applier.checkpoint()
        {
            self.fail(&format!("store checkpoint: {error}"));
        }
        true
    }

    /// Applies everything that is journaled.
    pub(crate) fn apply_all(&mut self) {
        while self.turn() {}
    }

    /// Applies that the hub was opened.
    pub(crate) fn boot(&mut self) -> Result<(), String> {
        self.apply_all();
        if self.link.is_poisoned() { Err(self.link.cause()) } else { Ok(()) }
    }

    /// True once nothing comes any more.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Applies nothing more: what comes is answered as not visible.
    pub(crate) fn give_up(&mut self) {
        self.failed = true;
    }

    /// The end: applies what is left, and makes the store durable. The writer has ended already.
    pub(crate) fn finish(&mut self) -> Result<(), String> {
        self.apply_all();
        if self.link.is_poisoned() {
            return Err(self.link.cause());
        }
        self.applier.finish().map_err(|error| format!("store checkpoint: {error}"))
    }

    /// Applies a group's records to the batch; what each took in, in the order of `waiting`.
    fn apply_group(&mut self, journaled: &Journaled) -> Vec<Intake> {
        if !journaled.waiting.is_empty() {
            self.gauge.begin(&self.link.outflow, journaled.group.time().hub_ms);
        }
        let mut intakes = Vec::with_capacity(journaled.waiting.len());
        let mut waiting = journaled.waiting.iter().map(|(offset, _)| *offset).peekable();
        for (offset, kind, _, body) in journaled.group.entries() {
            if self.failed {
                break;
            }
            let at = At { position: journaled.start + offset, time: journaled.group.time() };
            match self.applier.apply(at, kind, body) {
                Ok(intake) if waiting.next_if_eq(&offset).is_some() => intakes.push(intake),
                Ok(_) => {}
                Err(error) => self.fail(&format!("store: {error}")),
            }
        }
        intakes
    }

    /// Writes the batch. If anything failed, its changes are durable but not visible.
    fn write_batch(&mut self, applied: Applied) {
        if let Some((last, _)) = applied.last()
            && !self.failed
            && let Err(error) = self.applier.flush(last.end, last.group.time(), self.durability.class())
        {
            self.fail(&format!("store: {error}"));
        }
        if self.failed {
            for (_, node) in applied.iter().flat_map(|(journaled, _)| &journaled.waiting) {
                self.link.fail(node, TicketError::NotVisible);
            }
        } else if !applied.is_empty() {
            self.publish(applied);
        }
    }

    /// The store failed, and the hub is poisoned.
    fn fail(&mut self, cause: &str) {
        self.failed = true;
        self.link.poison(cause.to_owned());
        self.registry.notify_all();
    }

    /// The batch is in the store: publishes the counts, resolves tickets, hands put-back subjects to the steward.
    fn publish(&mut self, applied: Applied) {
        // The counts first: who was told that a change is visible finds it counted.
        let finished = self.applier.take_finished();
        for service in self.registry.all() {
            let tally = self.applier.tally(service.id);
            service.counts.publish(tally);
            service.ledger.publish(Booked::of(&tally, self.applier.leased_print(service.id)));
            for lease in finished.iter().filter(|lease| lease.service == service.id) {
                service.measures.held(lease.ended_at.saturating_sub(lease.claimed_at));
            }
            note_slow(&service, &finished, self.link.limits.slow_leases);
        }
        let freed = self.pass_on_effects();
        for (journaled, _) in &applied {
            self.measure(journaled);
        }
        let mut bytes = 0;
        for (mut journaled, intakes) in applied {
            for ((_, node), intake) in journaled.waiting.drain(..).zip(intakes) {
                self.link.give_back(node.permits);
                bytes += node.permits as u64;
                node.resolution.visible(intake);
            }
            for put_back in journaled.put_back.drain(..) {
                self.return_subjects(put_back);
            }
            self.handover.recycle(journaled.group);
        }
        for errand in freed {
            self.inbox.push(Arc::new(Node::new(errand)));
        }
        let empty = self.link.queued_bytes() == 0;
        self.gauge.note(&self.link.outflow, bytes, empty, self.link.clock.now());
    }

    /// Hands subjects put back to the steward, but for those that are owed no more: deleted, withdrawn, or done by another.
    fn return_subjects(&mut self, mut put_back: PutBack) {
        let mut owed = Mask::default();
        for place in put_back.left.places() {
            let rank = put_back.pool.subject(put_back.index, place).map(|subject| subject.rank);
            // If the store fails the hub is about to be poisoned; until then nothing is lost.
            if rank.is_some_and(|rank| self.applier.is_owed(put_back.service, rank).unwrap_or(true)) {
                owed.insert(place);
            }
        }
        let unowed = put_back.left.without(owed);
        if let Some(service) = self.registry.by_id(put_back.service)
            && !unowed.is_empty()
        {
            service.ledger.flowed(Flow::Unowed, put_back.pool.print(put_back.index, unowed));
        }
        put_back.left = owed;
        self.inbox.push(Arc::new(Node::new(Errand::PutBack(put_back))));
    }

    /// Tells those concerned what the records that were applied mean for them; what is to be told after what was put back.
    fn pass_on_effects(&mut self) -> Vec<Errand> {
        let mut freed = Vec::new();
        let mut ranks: BTreeMap<(u32, Fate), Vec<u64>> = BTreeMap::new();
        let mut laned: BTreeMap<u32, Vec<(Vec<u8>, u64)>> = BTreeMap::new();
        for effect in self.applier.take_effects() {
            let (service, fate, rank) = match effect {
                Effect::Urgent { service, rank } => (service, Fate::Urgent, rank),
                Effect::Gone { service, rank, lane } if lane.is_empty() => (service, Fate::Gone, rank),
                Effect::Gone { service, rank, lane } => {
                    laned.entry(service).or_default().push((lane, rank));
                    continue;
                }
                Effect::Settled { service, rank } => (service, Fate::Settled, rank),
                Effect::Disagreed { service, client } => {
                    self.note_disagreement(service, client);
                    continue;
                }
                Effect::LaneFree { service, lane, generation, slot } => {
                    freed.push(Errand::LaneFree { service, lane, generation, slot });
                    continue;
                }
            };
            ranks.entry((service, fate)).or_default().push(rank);
        }
        for ((service, fate), ranks) in ranks {
            self.inbox.push(Arc::new(Node::new(Errand::Ranks { service, fate, ranks })));
        }
        for (service, gone) in laned {
            self.inbox.push(Arc::new(Node::new(Errand::LanedGone { service, gone })));
        }
        freed
    }

    fn note_disagreement(&self, service: u32, client: u64) {
        let client = self.people.client(client);
        if let Some(seat) = client.and_then(|client| self.people.seat_of(&client, service)) {
            seat.counts.disagreements.add(1);
        }
    }

    /// Notes how long the reports of a group took.
    fn measure(&self, journaled: &Journaled) {
        for (_, node) in &journaled.waiting {
            let Change::Reported(reports) = &node.change else { continue };
            let owner = reports.pool.slot(reports.index).map(|slot| slot.snapshot().owner());
            if let Some(seat) = owner.and_then(|owner| self.people.seats.get(owner as usize)) {
                measures::note_reported(seat, reports, journaled.group.time().hub_ms);
            }
        }
    }
}

/// Keeps the slowest of the finished leases, slowest first.
fn note_slow(service: &ServiceCore, finished: &[FinishedLease], most: usize) {
    let took = |lease: &FinishedLease| lease.ended_at.saturating_sub(lease.claimed_at);
    let known = service.slow.load();
    let least = if known.len() < most { 0 } else { known.last().map_or(0, took) };
    let mut slow: Vec<FinishedLease> = finished
        .iter()
        .filter(|lease| lease.service == service.id && (known.len() < most || took(lease) > least))
        .copied()
        .collect();
    if slow.is_empty() {
        return;
    }
    slow.extend(known.iter().copied());
    slow.sort_by_key(|lease| std::cmp::Reverse(took(lease)));
    slow.truncate(most);
    service.slow.store(Arc::new(slow));
}
