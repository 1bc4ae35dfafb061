//! The periodic caretaker: releases and marks dead leases, retires seats, forms pools before they are needed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha12Rng;

use crate::clock::millis;
use crate::commit::{Change, Pending};
use crate::intake::Reader;
use crate::lease::Hold;
use crate::link::Link;
use crate::people::{People, is_idle};
use crate::pool::{Birth, LOGGED_ENDED, Pool, SubjectBuf, Terms};
use crate::record::SeatState;
use crate::registry::{Generations, Registry, ServiceCore};
use crate::service::{Policy, ServiceState};
use crate::slot::{Cause, Mask, Phase};
use crate::stack::{Node, Stack};
use crate::store::Store;
use crate::sync::{Arc, Ordering};

/// A slot that the cursor passed is taken back if no claim took it within this time of its pool's exhaustion.
const ABANDON_MS: u64 = 1_000;
/// `Ward::exhausted` of a pool all of whose leases are over and journaled.
const SETTLED: u64 = u64::MAX;
/// A settled pool counts as at least so many slots: many small ones cost more than their slots.
const SETTLED_LEAST: usize = 64;
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

/// What the steward knows of one service.
#[derive(Debug)]
struct Ward {
    reader: Reader,
    /// Put back, not yet in a front pool; oldest first.
    returned: VecDeque<SubjectBuf>,
    /// Hub time since when the oldest of them has waited.
    returned_since: u64,
    /// When a pool was first seen exhausted.
    exhausted: HashMap<u64, u64>,
    /// Multiplies the size of the next pool; grows when pools are eaten faster than they are formed.
    haste: usize,
    /// Subjects too few for a bucket wait for companions, and nothing else is ready.
    lingering: bool,
}

/// The steward.
#[derive(Debug)]
pub(crate) struct Steward {
    link: Arc<Link>,
    registry: Arc<Registry>,
    people: Arc<People>,
    store: Arc<dyn Store>,
    inbox: Arc<Stack<PutBack>>,
    generations: Arc<Generations>,
    rng: ChaCha12Rng,
    wards: HashMap<u32, Ward>,
    /// Hub time of the last look at leases and seats.
    swept_at: Option<u64>,
    /// Settled pools kept for late repeats, oldest first, and their slots.
    settled: VecDeque<(u32, u64, usize)>,
    settled_slots: usize,
}

impl Steward {
    pub(crate) fn new(
        link: Arc<Link>,
        registry: Arc<Registry>,
        people: Arc<People>,
        store: Arc<dyn Store>,
        inbox: Arc<Stack<PutBack>>,
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
            swept_at: None,
            settled: VecDeque::new(),
            settled_slots: 0,
        }
    }

    /// One round. True if it changed anything that others must act on.
    pub(crate) fn turn(&mut self) -> bool {
        self.link.steward.lower();
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
        let mut changed = self.take_in(&returned, now);
        if self.link.manual || self.swept_at.is_none_or(|at| now >= at + millis(PERIOD)) {
            self.swept_at = Some(now);
            for service in &services {
                changed |= self.sweep(service, now);
            }
            changed |= self.retire_seats(now);
            for service in &services {
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
        changed
    }

    /// How long it may sleep if nothing wakes it.
    pub(crate) fn sleep(&self) -> Duration {
        let lingering = self.wards.values().any(|ward| ward.lingering);
        if lingering { Duration::from_millis(10) } else { PERIOD }
    }

    /// Takes a service under care, with the leases that it brought from an earlier opening.
    fn ward(&mut self, service: &ServiceCore) {
        self.wards.entry(service.id).or_insert_with(|| {
            let leased = service.leased_before.swap(None).map(|ranks| HashSet::clone(&ranks)).unwrap_or_default();
            Ward {
                reader: Reader::new(service.id, leased),
                returned: VecDeque::new(),
                returned_since: 0,
                exhausted: HashMap::new(),
                haste: 1,
                lingering: false,
            }
        });
    }

    fn take_in(&mut self, returned: &[Arc<Node<PutBack>>], now: u64) -> bool {
        for node in returned {
            let PutBack { service, pool, index, left } = &node.value;
            let Some(ward) = self.wards.get_mut(service) else { continue };
            if ward.returned.is_empty() {
                ward.returned_since = now;
            }
            let subjects = left.places().filter_map(|place| pool.subject(*index, place));
            // What was deleted while a lease from before a restart held it has no name, and is owed to nobody.
            ward.returned.extend(subjects.filter(|subject| !subject.is_nameless()).map(SubjectBuf::new));
        }
        !returned.is_empty()
    }

    /// Looks at every lease: releases what has been dead for its grace, then marks what is past its deadline. In this
    /// order, so that a whole grace always passes between the two.
    fn sweep(&mut self, service: &Arc<ServiceCore>, now: u64) -> bool {
        let mut changed = false;
        let mut earliest = u64::MAX;
        let live = service.live();
        for pool in live.iter() {
            if self.is_settled(service.id, pool.generation) {
                continue;
            }
            let since_birth = now.saturating_sub(pool.born);
            let abandoned = self.is_abandoned(service, pool, now);
            for (index, slot) in pool.slots().iter().enumerate().take(pool.passed()) {
                let seen = slot.snapshot();
                if let Some(cause) = self.must_end(service, pool, seen, since_birth) {
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
                } else if seen.is_final() && slot.logged() & LOGGED_ENDED == 0 {
                    // Whoever ended it may have stopped before it could say so.
                    pool.mark(index);
                    self.link.writer.raise();
                } else if seen.phase() == Phase::Ready && abandoned && slot.abandon() {
                    service.counts.abandoned_slots.add(1);
                    pool.mark(index);
                    self.link.writer.raise();
                    changed = true;
                }
            }
        }
        service.counts.earliest_free.set(if earliest == u64::MAX { 0 } else { earliest });
        changed
    }

    /// Why a lease must end now, if it must.
    fn must_end(
        &self,
        service: &ServiceCore,
        pool: &Pool,
        seen: crate::slot::Snapshot,
        since_birth: u64,
    ) -> Option<Cause> {
        if !seen.is_held() {
            return None;
        }
        if seen.phase() == Phase::Dead && since_birth >= seen.time() + pool.terms.grace_ms {
            return Some(Cause::Expired);
        }
        if service.state() == ServiceState::Revoked {
            return Some(Cause::Revoked);
        }
        let seat = self.people.seats.get(seen.owner() as usize)?;
        if !seat.client.is_registered() {
            return Some(Cause::Deregistered);
        }
        (seat.state() == SeatState::Suspended).then_some(Cause::Revoked)
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
        now >= *ward.exhausted.entry(pool.generation).or_insert(now) + ABANDON_MS
    }

    fn retire_seats(&mut self, now: u64) -> bool {
        let mut changed = false;
        for (_, seat) in &self.people.seats {
            // Room first: a retirement that could not be journaled waits for the next round.
            if !is_idle(seat, now) || self.link.reserve(Pending::OVERHEAD).is_err() {
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
        let mut forgotten = HashSet::new();
        while self.settled_slots > self.link.limits.settled_slots {
            let Some((of, generation, slots)) = self.settled.pop_front() else { break };
            self.settled_slots -= slots;
            forgotten.insert((of, generation));
        }
        for of in forgotten.iter().map(|(of, _)| *of).collect::<HashSet<_>>() {
            if let Some(service) = self.registry.by_id(of) {
                service.retain_live(|pool| !forgotten.contains(&(of, pool.generation)));
            }
            if let Some(ward) = self.wards.get_mut(&of) {
                ward.exhausted.retain(|generation, _| !forgotten.contains(&(of, *generation)));
            }
        }
    }

    /// Forms the front pool and the next ordinary pool, where they are wanted.
    fn form(&mut self, service: &Arc<ServiceCore>, now: u64) -> Result<bool, crate::error::StoreError> {
        let Some(ward) = self.wards.get_mut(&service.id) else { return Ok(false) };
        let mut formed = false;
        if service.state() == ServiceState::Active {
            let policy = service.policy();
            let terms = Terms::of(&policy);
            let birth = |generation| Birth { service: service.id, generation, born: now, terms };
            if !ward.returned.is_empty() && service.wants_front() {
                let most = policy.pool_subjects.min(ward.returned.len());
                let returned: Vec<SubjectBuf> = ward.returned.drain(..most).collect();
                let birth = birth(self.generations.next());
                let pool = Pool::cut(birth, &returned, &self.link.secret);
                service.counts.pools_formed.add(1);
                tracing::debug!(service = %service.name, subjects = most, "front pool published");
                service.publish_front(Arc::new(pool));
                formed = true;
            }
            let wanted = service.wants_next();
            if wanted {
                let window = ward.next_window(service, &policy, self.store.as_ref(), &mut self.rng, now)?;
                if !window.is_empty() {
                    let birth = birth(self.generations.next());
                    let pool = Pool::cut(birth, &window, &self.link.secret);
                    service.counts.pools_formed.add(1);
                    tracing::debug!(service = %service.name, subjects = window.len(), "pool published");
                    service.publish_next(Arc::new(pool));
                    formed = true;
                }
            }
            ward.lingering = wanted && ward.reader.waiting() > 0;
        }
        ward.publish_waiting(service);
        Ok(formed)
    }
}

impl Ward {
    /// The subjects of the next ordinary pool; empty if there are none, or too few who may wait for companions.
    fn next_window(
        &mut self,
        service: &ServiceCore,
        policy: &Policy,
        store: &dyn Store,
        rng: &mut ChaCha12Rng,
        now: u64,
    ) -> Result<Vec<SubjectBuf>, crate::error::StoreError> {
        // ordering: Relaxed; a size.
        let seats = service.active_seats.load(Ordering::Relaxed).max(1) as usize;
        let refill = seats.saturating_mul(10 * 2 * policy.bucket_subjects);
        if service.counts.starved.value() > 0 {
            self.haste = (self.haste * 2).min(64);
        }
        let most = refill.saturating_mul(self.haste).min(policy.pool_subjects).max(policy.bucket_subjects);
        service.counts.unreadable.add(self.reader.fill(store, service, most, now)?);
        let lingered =
            self.reader.waiting_since().is_some_and(|since| now >= since.saturating_add(millis(policy.linger)));
        Ok(self.reader.window(most, policy.bucket_subjects, lingered, rng))
    }

    /// Publishes how many subjects wait that no claim can reach yet: at least, while the store holds more.
    fn publish_waiting(&self, service: &ServiceCore) {
        let counts = &service.counts;
        let unread = usize::from(counts.visible.rank() > self.reader.next_rank());
        counts.waiting.set((self.returned.len() + self.reader.waiting() + unread) as u64);
        let returned = (!self.returned.is_empty()).then_some(self.returned_since);
        let oldest = returned.into_iter().chain(self.reader.waiting_since()).min();
        counts.oldest_wait_since.set(oldest.unwrap_or(0));
    }
}
