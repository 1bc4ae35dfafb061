//! What the steward knows of one service: its queues, and what it makes of them.

use std::collections::{HashMap, HashSet, VecDeque};

use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

use crate::apply;
use crate::audit::{Flow, Ledger, Print, Queues};
use crate::clock::millis;
use crate::cooldown;
use crate::error::StoreError;
use crate::express::Express;
use crate::fairness::{Drain, effective_class, is_overdue};
use crate::intake::Reader;
use crate::lane::Run;
use crate::lane_status::LaneQueue;
use crate::lanes::Lanes;
use crate::pool::{LaneBucket, Spot, SubjectBuf};
use crate::registry::ServiceCore;
use crate::restore::{Blocks, pick};
use crate::service::{Policy, Urgent};
use crate::slot::{CHUNK_BITS, Cause, Phase, Snapshot};
use crate::steward::PutBack;
use crate::store::Store;
use crate::sync::{Arc, Ordering};
use crate::urgent::{Back, Cut, Rush};

/// Bytes of the states of one pool's lanes, about at most.
const LANE_BYTES: usize = 64 << 20;

/// What is to become of an express pool's place.
pub(crate) enum Next<T> {
    Nothing,
    /// What was passed by is on its way back.
    Recalled,
    /// A pool of these subjects.
    Window(T),
}

/// What the steward knows of one service.
#[derive(Debug)]
pub(crate) struct Ward {
    ledger: Arc<Ledger>,
    pub(crate) reader: Reader,
    pub(crate) rush: Rush,
    pub(crate) lanes: Lanes,
    drain: Drain,
    /// Subjects cut into ordinary pools so far.
    pub(crate) cut: u64,
    /// Put back, not yet in a front pool; oldest first.
    returned: VecDeque<SubjectBuf>,
    /// Something was put back since that pool was formed.
    news: bool,
    /// Hub time of the last look for cooldowns that ended.
    cooled_at: u64,
    /// When a pool was first seen exhausted.
    pub(crate) exhausted: HashMap<u64, u64>,
    /// Pools kept when some were last forgotten.
    pub(crate) kept: usize,
    /// Multiplies the size of the next pool; grows when pools are eaten faster than they are formed.
    haste: usize,
    /// Subjects too few for a bucket wait for companions, and nothing else is ready.
    pub(crate) lingering: bool,
}

/// Takes back what claimers passed by and left as all there is in an express pool. True if it is on its way back.
fn recall(service: &ServiceCore, place: &Express) -> bool {
    let Some(pool) = place.aside() else { return false };
    pool.aside().filter(|index| service.take_slot_back(&pool, *index)).count() > 0
}

/// Takes buckets back that wait and hold one of these; they come out of `never_read`.
fn take_back_buckets(service: &ServiceCore, gone: &HashSet<u64>, never_read: &mut HashSet<u64>) {
    for (rank, spot) in service.live().iter().flat_map(|pool| pool.spots(gone)) {
        never_read.remove(&rank);
        service.take_slot_back(&spot.pool, spot.index);
    }
}

impl Ward {
    pub(crate) fn new(service: &ServiceCore, leased: HashSet<u64>) -> Self {
        Self {
            ledger: Arc::clone(&service.ledger),
            reader: Reader::new(service.id, leased),
            rush: Rush::default(),
            lanes: Lanes::default(),
            drain: Drain::default(),
            cut: 0,
            returned: VecDeque::new(),
            news: false,
            cooled_at: 0,
            exhausted: HashMap::new(),
            kept: 0,
            haste: 1,
            lingering: false,
        }
    }

    /// Subjects of one bucket come back: urgent ones to the urgent, all others to the front.
    pub(crate) fn take_back(&mut self, put_back: &PutBack, now: u64) {
        let PutBack { pool, index, left, .. } = put_back;
        let news = !pool.was_recalled(*index);
        self.ledger.flowed(Flow::Returned, pool.print(*index, *left));
        if let Some(run) = pool.run(*index) {
            self.take_back_lane(run, put_back);
            return;
        }
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

    /// Subjects of a lane come back: to its front.
    fn take_back_lane(&mut self, run: &Run, put_back: &PutBack) {
        let PutBack { pool, index, left, .. } = put_back;
        for subject in left.places().filter_map(|place| pool.subject(*index, place)) {
            if subject.is_nameless() {
                self.ledger.flowed(Flow::Dropped, Print::of(subject.rank));
            } else {
                self.lanes.wait(run.lane(), subject.rank, subject.since);
            }
        }
        if pool.slot(*index).is_some_and(|slot| slot.snapshot().put_back() == Some(Cause::Abandoned)) {
            // Nobody held it: there is no end of a lease to wait for.
            self.lanes.free(run.lane());
            run.forget_state();
        }
    }

    /// A lease that ran a lane is over, and all of it is in the store.
    pub(crate) fn free_lane(&mut self, service: &ServiceCore, lane: &[u8], generation: u64, slot: u32) {
        self.lanes.free(lane);
        let live = service.live();
        let pool = live.iter().find(|pool| pool.generation == generation);
        if let Some(run) = pool.and_then(|pool| pool.run(pool.index_of(slot)?)) {
            run.forget_state();
        }
    }

    /// Takes the subjects of these ranks from where they wait, but for the urgent ones.
    fn take_out(&mut self, ranks: &HashSet<u64>) -> impl Iterator<Item = SubjectBuf> + use<> {
        let (out, stay): (Vec<_>, _) = self.returned.drain(..).partition(|subject| ranks.contains(&subject.rank));
        self.returned = VecDeque::from(stay);
        out.into_iter().chain(self.reader.take_out(ranks))
    }

    /// Makes subjects urgent: takes them from where they wait; out of buckets that wait as the policy says.
    pub(crate) fn make_urgent(
        &mut self,
        service: &ServiceCore,
        ranks: &[u64],
        store: &dyn Store,
        now: u64,
    ) -> Result<(), StoreError> {
        let mut wanted: HashSet<u64> = ranks.iter().copied().filter(|rank| self.rush.add(*rank)).collect();
        for subject in self.take_out(&wanted) {
            wanted.remove(&subject.rank);
            self.rush.push(subject, None);
        }
        let policy = service.policy().urgent;
        for (rank, spots) in service.spots(&wanted) {
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
    pub(crate) fn take_away(&mut self, service: &ServiceCore, ranks: &[u64]) {
        let gone: HashSet<u64> = ranks.iter().copied().collect();
        let mut never_read = gone.clone();
        for subject in self.take_out(&gone) {
            self.ledger.flowed(Flow::Dropped, Print::of(subject.rank));
            never_read.remove(&subject.rank);
        }
        for rank in ranks {
            self.forget_unreadable(*rank);
            if self.drop_urgent(*rank) {
                never_read.remove(rank);
            }
        }
        take_back_buckets(service, &gone, &mut never_read);
        self.ledger.flowed(Flow::Missed, never_read.into_iter().collect());
    }

    /// As `take_away`, of subjects of lanes.
    pub(crate) fn take_away_laned(&mut self, service: &ServiceCore, laned: &[(Vec<u8>, u64)]) {
        let gone: HashSet<u64> = laned.iter().map(|(_, rank)| *rank).collect();
        let mut never_read = gone.clone();
        for rank in self.lanes.take_out(laned) {
            self.ledger.flowed(Flow::Dropped, Print::of(rank));
            never_read.remove(&rank);
        }
        for rank in &gone {
            self.forget_unreadable(*rank);
        }
        take_back_buckets(service, &gone, &mut never_read);
        self.ledger.flowed(Flow::Missed, never_read.into_iter().collect());
    }

    fn forget_unreadable(&mut self, rank: u64) {
        if self.reader.forget_unreadable(rank) {
            self.ledger.unflowed(Flow::Unreadable, rank);
        }
    }

    /// Nothing is owed of a rank any more. True if it waited among the urgent.
    pub(crate) fn drop_urgent(&mut self, rank: u64) -> bool {
        let waited = self.rush.remove(rank);
        (0..waited).for_each(|_| self.ledger.flowed(Flow::Dropped, Print::of(rank)));
        waited > 0
    }

    /// The subjects of the next ordinary pool; empty if there are none, or too few who may wait for companions.
    pub(crate) fn next_window(
        &mut self,
        service: &ServiceCore,
        policy: &Policy,
        store: &dyn Store,
        rng: &mut ChaCha12Rng,
        now: u64,
    ) -> Result<(Vec<SubjectBuf>, Vec<LaneBucket>), StoreError> {
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
        self.fill(service, store, most, now)?;
        let lingered =
            self.reader.waiting_since().is_some_and(|since| now >= since.saturating_add(millis(policy.linger)));
        // Lanes and the others share alike, if both have work; and no lane waits long for its next turn.
        let share = if self.reader.waiting() == 0 { most } else { (most / 2).max(1) };
        let idle = self.lanes.ready() + self.lanes.running() == 0;
        let lanes = self.next_lanes(service, policy, store, share)?;
        let laned: usize = lanes.iter().map(|bucket| bucket.subjects.len()).sum();
        let rest = if idle { most } else { laned.max(least).min(most) };
        Ok((self.reader.window(rest, policy.bucket_subjects, lingered, rng), lanes))
    }

    /// A bucket of each of the lanes that are next, of as many as `room` subjects take; with what the store knows of each:
    /// everything that was ever reported on it.
    fn next_lanes(
        &mut self,
        service: &ServiceCore,
        policy: &Policy,
        store: &dyn Store,
        room: usize,
    ) -> Result<Vec<LaneBucket>, StoreError> {
        let offers = self.lanes.offers(room, policy.bucket_subjects.min(CHUNK_BITS));
        let ranks = offers.iter().flat_map(|offer| offer.ranks.iter().copied()).collect();
        let mut found = pick(store, service.id, &ranks)?;
        let (mut buckets, mut later, mut bytes) = (Vec::with_capacity(offers.len()), Vec::new(), 0);
        for offer in offers {
            // What was deleted just now is about to be taken out: up to there.
            let subjects: Vec<SubjectBuf> = offer.ranks.iter().map_while(|rank| found.remove(rank)).collect();
            if subjects.is_empty() || bytes > LANE_BYTES {
                later.push(offer);
                continue;
            }
            self.lanes.start(&offer, subjects.len());
            let version = apply::lane(store, service.id, &offer.lane)?.version;
            let state = apply::lane_state(store, service.id, &offer.lane)?;
            bytes += state.as_ref().map_or(0, Vec::len);
            buckets.push(LaneBucket { lane: offer.lane, version, state, subjects });
        }
        later.into_iter().rev().for_each(|offer| self.lanes.postpone(offer));
        Ok(buckets)
    }

    /// Reads from the store until `most` subjects wait there, if it holds so many.
    fn fill(&mut self, service: &ServiceCore, store: &dyn Store, most: usize, now: u64) -> Result<(), StoreError> {
        service.counts.unreadable.add(self.reader.fill(store, service, &mut self.lanes, most, now)?);
        Ok(())
    }

    /// What the next urgent pool is made of.
    pub(crate) fn next_urgent(&mut self, service: &ServiceCore, rng: &mut ChaCha12Rng) -> Next<Cut> {
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
    pub(crate) fn next_front(
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
        self.fill(service, store, policy.company_subjects(), now)?;
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
            self.fill(service, store, company, now)?;
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
    pub(crate) fn wake_cooled(&mut self, service: &ServiceCore, now: u64) {
        if service.has_cooled(self.cooled_at, now) {
            service.notify();
        }
        self.cooled_at = now;
    }

    /// Subjects in its queues.
    fn waiting(&self) -> usize {
        self.rush.waiting() + self.returned.len() + self.reader.waiting() + self.lanes.waiting()
    }

    /// Publishes how many subjects wait that no claim can reach yet (at least, while the store holds more), how long the
    /// oldest has waited, of which class the oldest is that is not urgent, and how long what is ready will last.
    pub(crate) fn publish_waiting(&mut self, service: &ServiceCore, policy: &Policy, now: u64) {
        let counts = &service.counts;
        // What is not read, because too much waits in lanes, is not to be had either.
        let reads = self.lanes.waiting() < service.link.limits.laned_waiting;
        let unread = usize::from(reads && counts.visible.rank() > self.reader.next_rank());
        // What waits behind a running lane is not to be had: of the others, at least one each.
        let claimable = self.waiting() - self.lanes.waiting() + self.lanes.ready();
        counts.waiting.set((claimable + unread) as u64);
        counts.lanes_ready.set(self.lanes.ready() as u64);
        counts.lanes_running.set(self.lanes.running() as u64);
        counts.laned_waiting.set(self.lanes.waiting() as u64);
        counts.lane_wait_since.set(self.lanes.oldest().unwrap_or(u64::MAX));
        let ordinary = service.oldest_ordinary().into_iter().chain(self.reader.oldest()).min();
        let returned = self.returned.front().map(|subject| subject.since);
        let offered = service.front.oldest();
        let others = self.rush.waiting_since().into_iter().chain(self.lanes.oldest());
        let oldest = ordinary.into_iter().chain(returned).chain(offered).chain(others).min();
        counts.oldest_wait_since.set(oldest.unwrap_or(u64::MAX));
        let waited =
            ordinary.into_iter().chain(returned).chain(offered).min().map_or(0, |since| now.saturating_sub(since));
        service.set_ordinary_class(effective_class(waited, millis(policy.max_wait)));
        let ready = service.ready_subjects();
        self.drain.look(self.cut.saturating_sub(ready as u64), now);
        counts.drain_ms.set(drain_ms(ready, self.drain.rate()));
    }

    /// Publishes which lanes wait longest.
    pub(crate) fn publish_lanes(&self, service: &ServiceCore) {
        let longest = self.lanes.longest(LaneQueue::LISTED_MOST);
        if !(longest.is_empty() && service.lane_queues.load().is_empty()) {
            service.lane_queues.store(Arc::new(longest));
        }
    }

    /// Publishes how long the queues are, and, if it was asked for, what stands in them.
    pub(crate) fn publish_queues(&self, service: &ServiceCore) {
        self.ledger.queued.set(self.waiting() as u64);
        self.ledger.read_to.raise_to(self.reader.next_rank());
        if service.ledger.is_asked() {
            let returned: Print = self.returned.iter().map(|subject| subject.rank).collect();
            let laned: Print = self.lanes.ranks().collect();
            let waiting = self.rush.print().plus(returned).plus(self.reader.print()).plus(laned);
            let passed_over = self.reader.passed_over().clone();
            self.ledger.answer(Queues { waiting, read_to: self.reader.next_rank(), passed_over });
        }
    }
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
