//! The periodic caretaker: releases and marks dead leases, retires seats, forms pools before they are needed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha12Rng;

use crate::audit::Flow;
use crate::chart::Charts;
use crate::clock::millis;
use crate::commit::{Change, Pending};
use crate::due::Due;
use crate::error::StoreError;
use crate::express::Express;
use crate::lease::Hold;
use crate::link::{Link, Precedence};
use crate::people::{People, is_idle};
use crate::pool::{Birth, LOGGED_ENDED, Pool, Terms};
use crate::record::SeatState;
use crate::registry::{Generations, Registry, ServiceCore};
use crate::retired::Retired;
use crate::service::ServiceState;
use crate::slot::{Cause, Mask, Phase, Snapshot};
use crate::stack::{Node, Stack};
use crate::store::Store;
use crate::sync::Arc;
use crate::ward::{Next, Ward};

/// A slot that the cursor passed is taken back if no claim took it within this time of its pool's exhaustion.
const ABANDON_MS: u64 = 1_000;
/// `Ward::exhausted` of a pool all of whose leases are over and journaled.
const SETTLED: u64 = u64::MAX;
/// A settled pool counts as at least so many slots: many small ones cost more than their slots.
const SETTLED_LEAST: usize = 64;
/// Pools formed until some are forgotten, if that does not come before: the writer looks at each that is kept, in each turn.
const FORGET_AFTER: usize = 64;
/// How often leases and seats are looked at when nothing else happens.
pub(crate) const PERIOD: Duration = Duration::from_millis(500);

/// Subjects of one bucket on their way to the front.
#[derive(Debug)]
pub(crate) struct PutBack {
    pub(crate) service: u32,
    pub(crate) pool: Arc<Pool>,
    pub(crate) index: usize,
    pub(crate) left: Mask,
}

/// What the writer has for the steward.
#[derive(Debug)]
pub(crate) enum Errand {
    PutBack(PutBack),
    /// A lease that ran a lane is over, and all of it is in the store. After what it put back.
    LaneFree {
        service: u32,
        lane: Vec<u8>,
        generation: u64,
        slot: u32,
    },
    /// Nothing is owed any more of these ranks of lanes.
    LanedGone {
        service: u32,
        gone: Vec<(Vec<u8>, u64)>,
    },
    /// Something became of these ranks.
    Ranks {
        service: u32,
        fate: Fate,
        ranks: Vec<u64>,
    },
}

/// What became of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// It is urgent from here on.
    Urgent,
    /// Nothing is owed of it any more; it was deleted or withdrawn. Of no lane.
    Gone,
    /// It was urgent, and nothing is owed of it any more.
    Settled,
}

/// The steward.
#[derive(Debug)]
pub(crate) struct Steward {
    link: Arc<Link>,
    registry: Arc<Registry>,
    people: Arc<People>,
    store: Arc<dyn Store>,
    inbox: Arc<Stack<Errand>>,
    generations: Arc<Generations>,
    rng: ChaCha12Rng,
    wards: HashMap<u32, Ward>,
    charts: Charts,
    /// Hub time of the last look at leases and seats.
    swept_at: Option<u64>,
    /// Hub time of the beginning of the round of releases, and the releases in it.
    round_at: u64,
    released: usize,
    /// Settled pools kept for late repeats, oldest first, and their slots.
    settled: VecDeque<(u32, u64, usize)>,
    settled_slots: usize,
    /// What clients may still hold of what was published.
    retired: Vec<Retired>,
}

impl Steward {
    pub(crate) fn new(
        link: Arc<Link>,
        registry: Arc<Registry>,
        people: Arc<People>,
        store: Arc<dyn Store>,
        inbox: Arc<Stack<Errand>>,
        generations: Arc<Generations>,
        rng: ChaCha12Rng,
    ) -> Self {
        Self {
            link,
            registry,
            people,
            store,
            inbox,
            generations,
            rng,
            wards: HashMap::new(),
            charts: Charts::default(),
            swept_at: None,
            round_at: 0,
            released: 0,
            settled: VecDeque::new(),
            settled_slots: 0,
            retired: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn inbox(&self) -> &Stack<Errand> {
        &self.inbox
    }

    /// Lanes in memory.
    #[cfg(test)]
    pub(crate) fn lanes_known(&self) -> usize {
        self.wards.values().map(|ward| ward.lanes.known()).sum()
    }

    /// One round. True if it changed anything that others must act on.
    pub(crate) fn turn(&mut self) -> bool {
        if !self.link.is_open() {
            self.registry.notify_all();
            return false;
        }
        let now = self.link.clock.now();
        // The inbox first: what it holds belongs to services that are in the table by now.
        let returned = self.inbox.take_all();
        let services = self.registry.all();
        for service in &services {
            self.ward(service);
        }
        let mut changed = match self.take_in(&returned, now) {
            Ok(changed) => changed,
            Err(error) => {
                self.link.poison(format!("store: {error}"));
                return false;
            }
        };
        let sweeps = self.link.manual || self.swept_at.is_none_or(|at| now >= at + millis(PERIOD));
        if sweeps {
            self.swept_at = Some(now);
            let mut due = self.round(now);
            for service in &services {
                changed |= self.sweep(service, now, &mut due);
            }
            changed |= self.release(due, now);
            changed |= self.charts.round(&self.link, &self.people, &services, now);
            changed |= self.retire_seats(now);
            for service in &services {
                self.forget(service);
            }
        }
        for service in &services {
            if self.is_piling_up(service) {
                self.forget(service);
            }
        }
        for service in &services {
            match self.form(service, now) {
                Ok(formed) => changed |= formed,
                Err(error) => {
                    self.link.poison(format!("store: {error}"));
                    return false;
                }
            }
        }
        self.retired.retain(Retired::is_held);
        if sweeps {
            for service in &services {
                self.wards.get(&service.id).inspect(|ward| ward.publish_lanes(service));
            }
        }
        changed
    }

    /// How long it may sleep if nothing wakes it.
    pub(crate) fn sleep(&self) -> Duration {
        let lingering = self.wards.values().any(|ward| ward.lingering);
        if lingering { Duration::from_millis(10) } else { PERIOD }
    }

    /// Takes a service under care, with the leases and the urgent subjects that it brought from an earlier opening.
    fn ward(&mut self, service: &Arc<ServiceCore>) {
        if self.wards.contains_key(&service.id) {
            return;
        }
        let leased = service.leased_before.swap(None).map(|ranks| HashSet::clone(&ranks)).unwrap_or_default();
        let mut ward = Ward::new(service, leased);
        if let Some(urgent) = service.urgent_before.swap(None) {
            for rank in &urgent.served {
                ward.rush.add(*rank);
            }
            if !urgent.waiting.is_empty() {
                let ranks = urgent.waiting.clone();
                let errand = Errand::Ranks { service: service.id, fate: Fate::Urgent, ranks };
                self.inbox.push(Arc::new(Node::new(errand)));
                self.link.steward.raise();
            }
        }
        // The first one: nobody published it.
        self.retired.push(Retired::Front(service.front()));
        for pool in service.live().iter() {
            ward.rush.note(pool);
            pool.lanes().for_each(|lane| ward.lanes.run(lane));
        }
        self.wards.insert(service.id, ward);
    }

    fn take_in(&mut self, errands: &[Arc<Node<Errand>>], now: u64) -> Result<bool, StoreError> {
        for node in errands {
            match &node.value {
                Errand::PutBack(put_back) => {
                    if let Some(ward) = self.wards.get_mut(&put_back.service) {
                        ward.take_back(put_back, now);
                    }
                }
                Errand::LaneFree { service, lane, generation, slot } => {
                    if let (Some(ward), Some(service)) = (self.wards.get_mut(service), self.registry.by_id(*service)) {
                        ward.free_lane(&service, lane, *generation, *slot);
                    }
                }
                Errand::LanedGone { service, gone } => {
                    if let (Some(ward), Some(service)) = (self.wards.get_mut(service), self.registry.by_id(*service)) {
                        ward.take_away_laned(&service, gone);
                    }
                }
                Errand::Ranks { service, fate, ranks } => {
                    let (Some(ward), Some(service)) = (self.wards.get_mut(service), self.registry.by_id(*service))
                    else {
                        continue;
                    };
                    match fate {
                        Fate::Urgent => ward.make_urgent(&service, ranks, self.store.as_ref(), now)?,
                        Fate::Gone => ward.take_away(&service, ranks),
                        Fate::Settled => ranks.iter().for_each(|rank| _ = ward.drop_urgent(*rank)),
                    }
                }
            }
        }
        Ok(!errands.is_empty())
    }

    /// Room for the releases that are left in this round, which begins with its first release: a hub driven by hand may
    /// sweep more than once in it.
    fn round(&mut self, now: u64) -> Due {
        if now >= self.round_at.saturating_add(millis(PERIOD)) {
            self.released = 0;
        }
        Due::new(self.link.limits.releases_per_round.saturating_sub(self.released))
    }

    fn release(&mut self, due: Due, now: u64) -> bool {
        let before = self.released;
        if before == 0 {
            self.round_at = now;
        }
        for (pool, index, owner) in due.into_oldest() {
            self.released += usize::from(self.end(&pool, index, owner, Cause::Expired));
        }
        self.released > before
    }

    /// Looks at every lease: notes what has been dead for its grace, marks what is past its deadline. It is the one or the
    /// other, so a whole grace always passes between the two.
    fn sweep(&mut self, service: &Arc<ServiceCore>, now: u64, due: &mut Due) -> bool {
        let mut changed = false;
        let mut earliest = u64::MAX;
        let live = service.live();
        for pool in live.iter() {
            if self.is_settled(service.id, pool.generation) {
                continue;
            }
            let since_birth = now.saturating_sub(pool.born);
            let abandoned = self.is_abandoned(service, pool, now);
            let is_express = service.is_express(pool);
            for (index, slot) in pool.passed() {
                let seen = slot.snapshot();
                if seen.phase() == Phase::Dead && seen.is_past(since_birth, pool.terms.grace_ms) {
                    due.offer(pool, index, seen.owner(), pool.born + seen.time());
                    // If its turn does not come in this round.
                    earliest = earliest.min(now + millis(PERIOD));
                } else if let Some(cause) = self.must_end(seen) {
                    changed |= self.end(pool, index, seen.owner(), cause);
                } else if seen.is_held() && slot.open().is_empty() {
                    changed |= self.end(pool, index, seen.owner(), Cause::Client);
                } else if seen.is_held() {
                    if slot.mark_dead(since_birth) {
                        tracing::debug!(service = %service.name, slot = index, "lease marked dead");
                        changed = true;
                    }
                    // The deadline of a live lease, the death of a dead one: a grace after it the subjects are free.
                    earliest = earliest.min(pool.born + slot.snapshot().time() + pool.terms.grace_ms);
                } else if seen.is_final() && pool.logged(index) & LOGGED_ENDED == 0 {
                    // Whoever ended it may have stopped before it could say so.
                    pool.mark(index);
                    self.link.writer.raise();
                } else if seen.phase() == Phase::Ready
                    && abandoned
                    && !(is_express && pool.is_aside(index))
                    && service.take_slot_back(pool, index)
                {
                    service.counts.abandoned_slots.add(1);
                    changed = true;
                }
            }
        }
        service.counts.earliest_free.set(if earliest == u64::MAX { 0 } else { earliest });
        changed
    }

    /// Why a lease must end now, whatever its deadline, if it must.
    fn must_end(&self, seen: Snapshot) -> Option<Cause> {
        if !seen.is_held() {
            return None;
        }
        self.people.seats.get(seen.owner() as usize)?.words().must_end()
    }

    fn end(&self, pool: &Arc<Pool>, index: usize, owner: u32, cause: Cause) -> bool {
        let Some(seat) = self.people.seats.get(owner as usize) else { return false };
        if pool.slot(index).is_some_and(|slot| slot.open().is_empty()) {
            Hold::finish_slot(seat, pool, index);
            return true;
        }
        let ended = Hold::end_slot(seat, pool, index, None, cause);
        if ended.is_some() && cause == Cause::Expired {
            tracing::info!(client = %seat.client.id, service = %seat.service.name, "dead lease released");
        }
        ended.is_some()
    }

    fn is_settled(&self, service: u32, generation: u64) -> bool {
        let ward = self.wards.get(&service);
        ward.is_some_and(|ward| ward.exhausted.get(&generation) == Some(&SETTLED))
    }

    /// True if the pool has been exhausted for so long that a slot still ready will not be claimed.
    fn is_abandoned(&mut self, service: &ServiceCore, pool: &Pool, now: u64) -> bool {
        let Some(ward) = self.wards.get_mut(&service.id) else { return false };
        if !pool.is_exhausted() {
            return false;
        }
        now >= ward.exhausted.entry(pool.generation).or_insert(now).saturating_add(ABANDON_MS)
    }

    fn retire_seats(&mut self, now: u64) -> bool {
        let mut changed = false;
        for (_, seat) in &self.people.seats {
            // Room first: a retirement that could not be journaled waits for the next round.
            if !is_idle(seat, now) || self.link.reserve(Precedence::Newcomer, Pending::OVERHEAD).is_err() {
                continue;
            }
            let (service, client) = (seat.service.id, seat.client.id.value());
            let retired = self.people.in_turn(client, || {
                let change = Change::Seat { service, client, state: SeatState::Inactive };
                seat.retire().then(|| drop(self.link.post(change, Pending::OVERHEAD))).is_some()
            });
            if retired {
                tracing::debug!(client, service = %seat.service.name, "idle seat retired");
                changed = true;
            } else {
                self.link.give_back(Pending::OVERHEAD);
            }
        }
        changed
    }

    /// True if so many pools were formed since some were last forgotten that looking through them again costs little beside.
    fn is_piling_up(&self, service: &ServiceCore) -> bool {
        let kept = self.wards.get(&service.id).map_or(0, |ward| ward.kept);
        service.live().len() >= kept.saturating_add(FORGET_AFTER)
    }

    /// Forgets pools all of whose leases are over and journaled, but for the youngest of them.
    fn forget(&mut self, service: &Arc<ServiceCore>) {
        let Some(ward) = self.wards.get_mut(&service.id) else { return };
        let live = service.live();
        for pool in live.iter().filter(|pool| pool.is_settled() && !service.is_serving(pool)) {
            if ward.exhausted.insert(pool.generation, SETTLED) != Some(SETTLED) {
                let weight = pool.slots().len().max(SETTLED_LEAST);
                self.settled.push_back((service.id, pool.generation, weight));
                self.settled_slots += weight;
            }
        }
        ward.kept = live.len();
        let mut forgotten = HashSet::new();
        while self.settled_slots > self.link.limits.settled_slots {
            let Some((of, generation, slots)) = self.settled.pop_front() else { break };
            self.settled_slots -= slots;
            forgotten.insert((of, generation));
        }
        for of in forgotten.iter().map(|(of, _)| *of).collect::<HashSet<_>>() {
            if let Some(service) = self.registry.by_id(of) {
                self.retired.extend(service.retain_live(|pool| !forgotten.contains(&(of, pool.generation))));
            }
            if let Some(ward) = self.wards.get_mut(&of) {
                ward.exhausted.retain(|generation, _| !forgotten.contains(&(of, *generation)));
                ward.kept = self.registry.by_id(of).map_or(0, |service| service.live().len());
            }
        }
    }

    /// Forms the urgent, the front and the next ordinary pool, where they are wanted.
    fn form(&mut self, service: &Arc<ServiceCore>, now: u64) -> Result<bool, StoreError> {
        let Some(ward) = self.wards.get_mut(&service.id) else { return Ok(false) };
        let mut formed = false;
        let policy = service.policy();
        if service.state() == ServiceState::Active {
            let terms = Terms::of(&policy);
            let generations = &self.generations;
            let birth = || Birth { service: service.id, generation: generations.next(), born: now, terms };
            let secret = &self.link.secret;
            match ward.next_urgent(service, &mut self.rng) {
                Next::Nothing => {}
                Next::Recalled => formed = true,
                Next::Window((subjects, origins)) => {
                    let pool = Arc::new(Pool::cut_again(birth(), &subjects, origins, secret));
                    ward.rush.note(&pool);
                    self.retired.extend(publish(service, Some(&service.urgent), pool));
                    formed = true;
                }
            }
            match ward.next_front(service, &policy, self.store.as_ref(), &mut self.rng, now)? {
                Next::Nothing => {}
                Next::Recalled => formed = true,
                Next::Window(window) => {
                    let pool = Arc::new(Pool::cut(birth(), &window, secret));
                    self.retired.extend(publish(service, Some(&service.front), pool));
                    formed = true;
                }
            }
            let wanted = service.wants_next();
            if wanted {
                let (window, lanes) = ward.next_window(service, &policy, self.store.as_ref(), &mut self.rng, now)?;
                if !window.is_empty() || !lanes.is_empty() {
                    let pool = Arc::new(Pool::cut_mixed(birth(), &window, lanes, &mut self.rng, secret));
                    ward.cut += pool.whole_print().count;
                    self.retired.extend(publish(service, None, pool));
                    formed = true;
                }
            }
            ward.lingering = wanted && ward.reader.waiting() > 0;
        }
        ward.publish_waiting(service, &policy, now);
        ward.wake_cooled(service, now);
        ward.publish_queues(service);
        Ok(formed)
    }
}

/// Publishes a pool: an express one, or the next ordinary one. What it returns is to be kept until nobody holds it.
pub(crate) fn publish(service: &ServiceCore, express: Option<&Express>, pool: Arc<Pool>) -> Vec<Retired> {
    service.counts.pools_formed.add(1);
    service.ledger.flowed(Flow::Cut, pool.whole_print());
    let (generation, buckets) = (pool.generation, pool.slots().len());
    tracing::debug!(service = %service.name, generation, buckets, express = express.is_some(), "pool published");
    match express {
        Some(place) => service.publish_express(place, pool),
        None => service.publish_next(pool),
    }
}
