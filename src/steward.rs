//! The periodic caretaker: releases and marks dead leases, retires seats, forms pools before they are needed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

use crate::audit::{Flow, Ledger, Print, Queues};
use crate::chart::Charts;
use crate::clock::millis;
use crate::commit::{Change, Pending};
use crate::cooldown;
use crate::due::Due;
use crate::error::StoreError;
use crate::express::Express;
use crate::fairness::{Drain, effective_class, is_overdue};
use crate::intake::Reader;
use crate::lease::Hold;
use crate::link::{Link, Precedence};
use crate::people::{People, is_idle};
use crate::pool::{Birth, LOGGED_ENDED, Pool, Spot, SubjectBuf, Terms};
use crate::record::SeatState;
use crate::registry::{Generations, Registry, ServiceCore};
use crate::restore::Blocks;
use crate::service::{Policy, ServiceState, Urgent};
use crate::slot::{Cause, Mask, Phase, Snapshot};
use crate::stack::{Node, Stack};
use crate::store::Store;
use crate::sync::{Arc, Ordering};
use crate::urgent::{Back, Cut, Rush};

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

/// What the writer has for the steward.
#[derive(Debug)]
pub(crate) enum Errand {
    PutBack(PutBack),
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
    /// Nothing is owed of it any more; it was deleted or withdrawn.
    Gone,
    /// It was urgent, and nothing is owed of it any more.
    Settled,
}

/// What is to become of an express pool's place.
enum Next<T> {
    Nothing,
    /// What was passed by is on its way back.
    Recalled,
    /// A pool of these subjects.
    Window(T),
}

/// What the steward knows of one service.
#[derive(Debug)]
struct Ward {
    ledger: Arc<Ledger>,
    reader: Reader,
    rush: Rush,
    drain: Drain,
    /// Subjects cut into ordinary pools so far.
    cut: u64,
    /// Put back, not yet in a front pool; oldest first.
    returned: VecDeque<SubjectBuf>,
    /// Something was put back since that pool was formed.
    news: bool,
    /// Hub time of the last look for cooldowns that ended.
    cooled_at: u64,
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
        }
    }

    #[cfg(test)]
    pub(crate) fn inbox(&self) -> &Stack<Errand> {
        &self.inbox
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
        let mut changed = match self.take_in(&returned, now) {
            Ok(changed) => changed,
            Err(error) => {
                self.link.poison(format!("store: {error}"));
                return false;
            }
        };
        if self.link.manual || self.swept_at.is_none_or(|at| now >= at + millis(PERIOD)) {
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
        for pool in service.live().iter() {
            ward.rush.note(pool);
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
            for (index, slot) in pool.slots().iter().enumerate().take(pool.passed()) {
                let seen = slot.snapshot();
                if seen.phase() == Phase::Dead && since_birth >= seen.time() + pool.terms.grace_ms {
                    due.offer(pool, index, seen.owner(), pool.born + seen.time());
                    // If its turn does not come in this round.
                    earliest = earliest.min(now + millis(PERIOD));
                } else if let Some(cause) = self.must_end(service, seen) {
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
    fn must_end(&self, service: &ServiceCore, seen: crate::slot::Snapshot) -> Option<Cause> {
        if !seen.is_held() {
            return None;
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
                    publish(service, Some(&service.urgent), pool);
                    formed = true;
                }
            }
            match ward.next_front(service, &policy, self.store.as_ref(), &mut self.rng, now)? {
                Next::Nothing => {}
                Next::Recalled => formed = true,
                Next::Window(window) => {
                    publish(service, Some(&service.front), Arc::new(Pool::cut(birth(), &window, secret)));
                    formed = true;
                }
            }
            let wanted = service.wants_next();
            if wanted {
                let window = ward.next_window(service, &policy, self.store.as_ref(), &mut self.rng, now)?;
                if !window.is_empty() {
                    ward.cut += window.len() as u64;
                    publish(service, None, Arc::new(Pool::cut(birth(), &window, secret)));
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

/// Publishes a pool: an express one, or the next ordinary one.
pub(crate) fn publish(service: &ServiceCore, express: Option<&Express>, pool: Arc<Pool>) {
    service.counts.pools_formed.add(1);
    service.ledger.flowed(Flow::Cut, pool.whole_print());
    let (generation, buckets) = (pool.generation, pool.slots().len());
    tracing::debug!(service = %service.name, generation, buckets, express = express.is_some(), "pool published");
    match express {
        Some(place) => service.publish_express(place, pool),
        None => service.publish_next(pool),
    }
}

/// Takes back what claimers passed by and left as all there is in an express pool. True if it is on its way back.
fn recall(service: &ServiceCore, place: &Express) -> bool {
    let Some(pool) = place.aside() else { return false };
    pool.aside().filter(|index| service.take_slot_back(&pool, *index)).count() > 0
}

impl Ward {
    fn new(service: &ServiceCore, leased: HashSet<u64>) -> Self {
        Self {
            ledger: Arc::clone(&service.ledger),
            reader: Reader::new(service.id, leased),
            rush: Rush::default(),
            drain: Drain::default(),
            cut: 0,
            returned: VecDeque::new(),
            news: false,
            cooled_at: 0,
            exhausted: HashMap::new(),
            haste: 1,
            lingering: false,
        }
    }

    /// Subjects of one bucket come back: urgent ones to the urgent, all others to the front.
    fn take_back(&mut self, put_back: &PutBack, now: u64) {
        let PutBack { pool, index, left, .. } = put_back;
        let news = !pool.was_recalled(*index);
        self.ledger.flowed(Flow::Returned, pool.print(*index, *left));
        for subject in pool.put_back(*index, *left, now) {
            // What was deleted while a lease from before a restart held it has no name, and is owed to nobody.
            let back =
                if subject.key().is_empty() { Back::Elsewhere } else { self.rush.take_back(&subject, pool, *index) };
            match back {
                Back::Ordinary => {
                    self.returned.push_back(subject);
                    self.news |= news;
                }
                Back::Waits => {}
                Back::Elsewhere => self.ledger.flowed(Flow::Dropped, Print::of(subject.rank)),
            }
        }
    }

    /// Makes subjects urgent: takes them from where they wait; out of buckets that wait as the policy says.
    fn make_urgent(
        &mut self,
        service: &ServiceCore,
        ranks: &[u64],
        store: &dyn Store,
        now: u64,
    ) -> Result<(), StoreError> {
        let mut wanted: HashSet<u64> = ranks.iter().copied().filter(|rank| self.rush.add(*rank)).collect();
        let (out, stay): (VecDeque<_>, _) = self.returned.drain(..).partition(|subject| wanted.contains(&subject.rank));
        self.returned = stay;
        for subject in Vec::from(out).into_iter().chain(self.reader.take_out(&wanted)) {
            wanted.remove(&subject.rank);
            self.rush.push(subject, None);
        }
        let policy = service.policy().urgent;
        for (rank, spots) in stand_in_buckets(service, &wanted) {
            wanted.remove(&rank);
            // Offered twice already: it stays so.
            if let [spot] = spots.as_slice() {
                self.hurry(service, spot, policy, now);
            }
        }
        let next_rank = self.reader.next_rank();
        let mut blocks = Blocks::default();
        let passed_over = self.reader.passed_over();
        let unread = wanted.into_iter().filter(|rank| *rank >= next_rank && !passed_over.contains(rank));
        let mut unread: Vec<u64> = unread.collect();
        unread.sort_unstable();
        for rank in unread {
            let subject = blocks.subject(store, service.id, rank)?;
            if service.plugin.reads(subject.key(), subject.body()) {
                self.reader.skip(rank);
                self.ledger.flowed(Flow::Read, Print::of(rank));
                self.rush.push(subject, None);
            }
        }
        // All others are on their way back from a bucket.
        Ok(())
    }

    /// An urgent subject stands in a bucket: moves it out, or offers it again.
    fn hurry(&mut self, service: &ServiceCore, spot: &Spot, policy: Urgent, now: u64) {
        let Some(slot) = spot.pool.slot(spot.index) else { return };
        if slot.snapshot().is_final() {
            // On its way back, perhaps since another subject of its bucket was moved just now.
            return;
        }
        if policy != Urgent::Keep && slot.snapshot().phase() == Phase::Ready {
            // The whole bucket comes back, and is sorted out then.
            if service.take_slot_back(&spot.pool, spot.index) {
                service.counts.moved.add(1);
                return;
            }
        }
        if policy == Urgent::Wait && slot.snapshot().phase() != Phase::Dead {
            return;
        }
        // Who holds it need not get it again.
        let holder = Some(slot.snapshot()).filter(|seen| seen.is_held()).map(Snapshot::owner);
        if let Some(subject) = spot.pool.again(spot.index, spot.place, holder, now) {
            spot.pool.share();
            self.ledger.flowed(Flow::Second, Print::of(subject.rank));
            self.rush.push(subject, Some(spot.clone()));
        }
    }

    /// Takes subjects away that are owed no more; buckets that wait come back without them.
    fn take_away(&mut self, service: &ServiceCore, ranks: &[u64]) {
        let gone: HashSet<u64> = ranks.iter().copied().collect();
        let mut never_read = gone.clone();
        let (out, stay): (VecDeque<_>, _) = self.returned.drain(..).partition(|subject| gone.contains(&subject.rank));
        self.returned = stay;
        for subject in Vec::from(out).into_iter().chain(self.reader.take_out(&gone)) {
            self.ledger.flowed(Flow::Dropped, Print::of(subject.rank));
            never_read.remove(&subject.rank);
        }
        for rank in ranks {
            let unreadable = self.reader.forget_unreadable(*rank);
            if unreadable {
                self.ledger.unflowed(Flow::Unreadable, *rank);
            }
            if self.drop_urgent(*rank) {
                never_read.remove(rank);
            }
        }
        for (rank, spot) in service.live().iter().flat_map(|pool| pool.spots(&gone)) {
            never_read.remove(&rank);
            service.take_slot_back(&spot.pool, spot.index);
        }
        self.ledger.flowed(Flow::Missed, never_read.into_iter().collect());
    }

    /// Nothing is owed of a rank any more. True if it waited among the urgent.
    fn drop_urgent(&mut self, rank: u64) -> bool {
        let waited = self.rush.remove(rank);
        (0..waited).for_each(|_| self.ledger.flowed(Flow::Dropped, Print::of(rank)));
        waited > 0
    }

    /// The subjects of the next ordinary pool; empty if there are none, or too few who may wait for companions.
    fn next_window(
        &mut self,
        service: &ServiceCore,
        policy: &Policy,
        store: &dyn Store,
        rng: &mut ChaCha12Rng,
        now: u64,
    ) -> Result<Vec<SubjectBuf>, StoreError> {
        // ordering: Relaxed; a size.
        let seats = service.active_seats.load(Ordering::Relaxed).max(1) as usize;
        let refill = seats.saturating_mul(10 * 2 * policy.bucket_subjects);
        if service.counts.starved.value() > 0 {
            self.haste = (self.haste * 2).min(64);
        }
        self.drain.look(self.cut.saturating_sub(service.ready_subjects() as u64), now);
        // Two pools are ready at a time, the one that is served and the next.
        let soon = self.drain.within(millis(policy.max_pool_age) / 2).unwrap_or(usize::MAX);
        let least = policy.bucket_subjects.saturating_mul(seats);
        let most = refill.saturating_mul(self.haste).min(soon.max(least)).min(policy.pool_subjects);
        let most = most.max(policy.bucket_subjects);
        service.counts.unreadable.add(self.reader.fill(store, service, most, now)?);
        let lingered =
            self.reader.waiting_since().is_some_and(|since| now >= since.saturating_add(millis(policy.linger)));
        Ok(self.reader.window(most, policy.bucket_subjects, lingered, rng))
    }

    /// What the next urgent pool is made of.
    fn next_urgent(&mut self, service: &ServiceCore, rng: &mut ChaCha12Rng) -> Next<Cut> {
        if self.rush.waiting() == 0 || !service.urgent.wants() {
            return Next::Nothing;
        }
        let recalled = self.rush.has_news() && recall(service, &service.urgent);
        if recalled && !self.rush.has_fresh() {
            // What comes back is offered together with what waits.
            return Next::Recalled;
        }
        if service.urgent.aside().is_some() { Next::Nothing } else { Next::Window(self.rush.cut(rng)) }
    }

    /// What the next front pool is made of.
    fn next_front(
        &mut self,
        service: &ServiceCore,
        policy: &Policy,
        store: &dyn Store,
        rng: &mut ChaCha12Rng,
        now: u64,
    ) -> Result<Next<Vec<SubjectBuf>>, StoreError> {
        if !service.front.wants() {
            return Ok(Next::Nothing);
        }
        if self.has_companions(service, policy, store, now)? && recall(service, &service.front) {
            return Ok(Next::Recalled);
        }
        if self.returned.is_empty() || service.front.aside().is_some() {
            return Ok(Next::Nothing);
        }
        Ok(Next::Window(self.front_window(service, policy, store, rng, now)?))
    }

    /// True if there is something new among which what was passed by can be offered: alone, it would be certain to go to the
    /// next claim.
    fn has_companions(
        &mut self,
        service: &ServiceCore,
        policy: &Policy,
        store: &dyn Store,
        now: u64,
    ) -> Result<bool, StoreError> {
        let Some(pool) = service.front.aside() else { return Ok(false) };
        if self.news || policy.company == 0 {
            return Ok(self.news);
        }
        service.counts.unreadable.add(self.reader.fill(store, service, policy.company_subjects(), now)?);
        let is_late = |since: u64| is_overdue(now.saturating_sub(since), millis(policy.max_wait));
        let late = pool.aside().any(|index| pool.bucket(index).any(|subject| is_late(subject.since)));
        Ok(self.reader.oldest().is_some_and(|since| !late || is_late(since)))
    }

    /// The subjects of the next front pool: those put back, among some of the oldest that wait. What is overdue comes among
    /// its like only, as soon as there is any: it must not wait for others.
    fn front_window(
        &mut self,
        service: &ServiceCore,
        policy: &Policy,
        store: &dyn Store,
        rng: &mut ChaCha12Rng,
        now: u64,
    ) -> Result<Vec<SubjectBuf>, StoreError> {
        let max_wait = millis(policy.max_wait);
        let is_late = |subject: &SubjectBuf| is_overdue(now.saturating_sub(subject.since), max_wait);
        let mut window = self.take_returned(policy.pool_subjects);
        let late = window.iter().any(is_late);
        if late {
            let (first, later): (Vec<_>, Vec<_>) = window.into_iter().partition(is_late);
            window = first;
            later.into_iter().rev().for_each(|subject| self.returned.push_front(subject));
        }
        self.news = false;
        let company = policy.company_subjects();
        if company > 0 {
            service.counts.unreadable.add(self.reader.fill(store, service, company, now)?);
            let most = company.min(policy.pool_subjects.saturating_sub(window.len()));
            window.extend(self.reader.take_oldest(most, |subject| !late || is_late(subject)));
            window.shuffle(rng);
        }
        Ok(window)
    }

    /// Takes up to `most` of those put back, oldest first; fewer if they have too many cooldowns for one pool.
    fn take_returned(&mut self, most: usize) -> Vec<SubjectBuf> {
        let take = cooldown::fitting(self.returned.iter().take(most.max(1)).map(SubjectBuf::cooldowns));
        self.returned.drain(..take).collect()
    }

    /// Wakes those who wait, if something has cooled for one of them.
    fn wake_cooled(&mut self, service: &ServiceCore, now: u64) {
        if service.has_cooled(self.cooled_at, now) {
            service.notify();
        }
        self.cooled_at = now;
    }

    /// Publishes how many subjects wait that no claim can reach yet (at least, while the store holds more), how long the
    /// oldest has waited, of which class the oldest is that is not urgent, and how long what is ready will last.
    fn publish_waiting(&mut self, service: &ServiceCore, policy: &Policy, now: u64) {
        let counts = &service.counts;
        let unread = usize::from(counts.visible.rank() > self.reader.next_rank());
        counts.waiting.set((self.rush.waiting() + self.returned.len() + self.reader.waiting() + unread) as u64);
        let ordinary = service.oldest_ordinary().into_iter().chain(self.reader.oldest()).min();
        let returned = self.returned.front().map(|subject| subject.since);
        let offered = service.front.oldest();
        let oldest = ordinary.into_iter().chain(returned).chain(offered).chain(self.rush.waiting_since()).min();
        counts.oldest_wait_since.set(oldest.unwrap_or(u64::MAX));
        let waited =
            ordinary.into_iter().chain(returned).chain(offered).min().map_or(0, |since| now.saturating_sub(since));
        service.set_ordinary_class(effective_class(waited, millis(policy.max_wait)));
        let ready = service.ready_subjects();
        self.drain.look(self.cut.saturating_sub(ready as u64), now);
        counts.drain_ms.set(drain_ms(ready, self.drain.rate()));
    }
}

impl Ward {
    /// Publishes how long the queues are, and, if it was asked for, what stands in them.
    fn publish_queues(&self, service: &ServiceCore) {
        let waiting = self.rush.waiting() + self.returned.len() + self.reader.waiting();
        self.ledger.queued.set(waiting as u64);
        self.ledger.read_to.raise_to(self.reader.next_rank());
        if service.ledger.is_asked() {
            let returned: Print = self.returned.iter().map(|subject| subject.rank).collect();
            let waiting = self.rush.print().plus(returned).plus(self.reader.print());
            let passed_over = self.reader.passed_over().clone();
            self.ledger.answer(Queues { waiting, read_to: self.reader.next_rank(), passed_over });
        }
    }
}

/// The buckets in which subjects of these ranks are offered or owed.
fn stand_in_buckets(service: &ServiceCore, wanted: &HashSet<u64>) -> HashMap<u64, Vec<Spot>> {
    let mut found: HashMap<u64, Vec<Spot>> = HashMap::new();
    if wanted.is_empty() {
        return found;
    }
    for pool in service.live().iter() {
        for (rank, spot) in pool.spots(wanted) {
            if spot.is_responsible() {
                found.entry(rank).or_default().push(spot);
            }
        }
    }
    found
}

/// Milliseconds until so many subjects are taken at so many a second.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is never negative")]
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn drain_ms(ready: usize, rate: f64) -> u64 {
    match ready {
        0 => 0,
        _ if rate > 0.0 => (ready as f64 / rate * 1_000.0) as u64,
        _ => u64::MAX,
    }
}
