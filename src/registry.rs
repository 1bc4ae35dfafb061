//! The service table, copy-on-write behind one atomic swap, and what a service is to its clients.

use std::collections::{HashMap, HashSet};
use std::fmt;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};

use crate::apply::FinishedLease;
use crate::audit::{Ledger, Move};
use crate::current::{Current, Front, Held};
use crate::express::Express;
use crate::fairness::{self, Queue};
use crate::id::LeaseToken;
use crate::json::Plugin;
use crate::lanes::Queued;
use crate::link::Link;
use crate::measures::Measures;
use crate::pace::Forming;
use crate::pool::{Birth, Pool, Spot, Terms};
use crate::record::ServiceTally;
use crate::retired::Retired;
use crate::service::{Policy, Service, ServiceState, wake};
use crate::slot::{Mask, Slot};
use crate::standing::ServiceWord;
use crate::sync::event_listener::Event;
use crate::sync::{Arc, AtomicBool, AtomicU32, AtomicU64, Counter, Ordering, Watermark};

/// All services of a hub.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    table: ArcSwap<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_name: HashMap<Arc<str>, Arc<ServiceCore>>,
    all: Vec<Arc<ServiceCore>>,
}

impl Registry {
    /// Wait-free.
    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<ServiceCore>> {
        self.table.load().by_name.get(name).cloned()
    }

    /// Wait-free.
    pub(crate) fn by_id(&self, id: u32) -> Option<Arc<ServiceCore>> {
        self.table.load().all.iter().find(|service| service.id == id).cloned()
    }

    /// Every service, as of now.
    pub(crate) fn all(&self) -> Vec<Arc<ServiceCore>> {
        self.table.load().all.clone()
    }

    /// Wakes whoever waits for work of any service: the hub is at its end.
    pub(crate) fn notify_all(&self) {
        for service in &self.table.load().all {
            service.notify();
        }
    }

    /// Adds a service. The caller makes sure that only one thread adds at a time.
    pub(crate) fn insert(&self, service: &Arc<ServiceCore>) {
        self.table.rcu(|table| {
            let mut by_name = table.by_name.clone();
            let mut all = table.all.clone();
            by_name.insert(Arc::clone(&service.name), Arc::clone(service));
            all.push(Arc::clone(service));
            Table { by_name, all }
        });
    }
}

/// One service, as everything but its plugin's types knows it.
pub(crate) struct ServiceCore {
    pub(crate) id: u32,
    pub(crate) name: Arc<str>,
    pub(crate) link: Arc<Link>,
    pub(crate) plugin: Arc<dyn Plugin>,
    pub(crate) state: ServiceWord,
    policy: ArcSwap<Policy>,
    /// What ordinary claims are served from.
    current: Current,
    /// What follows it, ready before it is needed.
    next: ArcSwapOption<Front>,
    /// Urgent subjects.
    pub(crate) urgent: Express,
    /// Subjects put back.
    pub(crate) front: Express,
    /// The class of the oldest subject that is not urgent.
    ordinary_class: AtomicU32,
    /// Every pool with a lease that may still be alive, and those not yet exhausted; ascending by generation.
    live: ArcSwap<Vec<Arc<Pool>>>,
    /// Notified whenever a pool is published.
    published: Event,
    pub(crate) active_seats: AtomicU32,
    /// A worker handles its lanes in this process.
    handled: AtomicBool,
    panics: AtomicU32,
    pub(crate) counts: ServiceCounts,
    pub(crate) ledger: Arc<Ledger>,
    /// What was urgent when the hub was opened, for the steward to take.
    pub(crate) urgent_before: ArcSwapOption<UrgentBefore>,
    pub(crate) measures: Measures,
    /// Ranks leased when the hub was opened, for the steward to take: they do not wait, though the store owes them.
    pub(crate) leased_before: ArcSwapOption<HashSet<u64>>,
    /// The lanes whose fronts wait longest, longest first, as the steward saw them in its last round.
    pub(crate) lane_queues: ArcSwap<Vec<Queued>>,
    /// The slowest finished leases, slowest first.
    pub(crate) slow: ArcSwap<Vec<FinishedLease>>,
}

/// Ranks that were urgent when the hub was opened.
#[derive(Debug, Default)]
pub(crate) struct UrgentBefore {
    /// Leased since they were marked.
    pub(crate) served: Vec<u64>,
    /// Not leased, or before.
    pub(crate) waiting: Vec<u64>,
}

/// Counts of one service that are not sums over its seats.
#[derive(Debug, Default)]
pub(crate) struct ServiceCounts {
    pub(crate) known: Counter,
    pub(crate) done: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) cut_by_depth: Counter,
    pub(crate) cut_by_budget: Counter,
    pub(crate) lane_full: Counter,
    pub(crate) expired: Counter,
    pub(crate) unmarked: Counter,
    pub(crate) reruns: Counter,
    pub(crate) deleted: Counter,
    pub(crate) withdrawn: Counter,
    pub(crate) discarded: Counter,
    pub(crate) late: Counter,
    /// Subjects that wait and are in no pool yet, or in one not yet claimed from.
    pub(crate) waiting: Counter,
    /// Hub time, ms, of the earliest moment at which a lease's subjects may be offered again; 0: no lease.
    pub(crate) earliest_free: Counter,
    /// Hub time, ms, at which the oldest subject that is not handed out began to wait; later than now: none waits.
    pub(crate) oldest_wait_since: Counter,
    pub(crate) pools_formed: Counter,
    /// Urgent subjects taken out of a bucket that waited.
    pub(crate) moved: Counter,
    /// Urgent subjects handed out while another lease held them.
    pub(crate) offered_again: Counter,
    /// Subjects first handed out later than `max_wait` after they began to wait.
    pub(crate) overdue: Counter,
    /// The longest that a subject waited before it was handed out, ms.
    pub(crate) longest_wait: Counter,
    /// Time in which what is ready will have been taken, ms; `u64::MAX`: nothing is taken.
    pub(crate) drain_ms: Counter,
    pub(crate) abandoned_slots: Counter,
    pub(crate) lanes_ready: Counter,
    pub(crate) lanes_running: Counter,
    pub(crate) laned_waiting: Counter,
    /// Hub time, ms, since when the oldest subject in a lane waits; later than now: none waits.
    pub(crate) lane_wait_since: Counter,
    pub(crate) unreadable: Counter,
    pub(crate) unknown_tokens: Counter,
    pub(crate) activations_refused: Counter,
    /// Claims that found nothing since the last pool was formed.
    pub(crate) starved: Counter,
    /// How long those wait who find no bucket.
    pub(crate) forming: Forming,
    /// Subjects of lower ranks are in the store whole.
    pub(crate) visible: Watermark,
}

impl ServiceCounts {
    fn new() -> Self {
        let never = || Counter::new(u64::MAX);
        Self { oldest_wait_since: never(), lane_wait_since: never(), ..Self::default() }
    }

    pub(crate) fn publish(&self, tally: ServiceTally) {
        self.known.set(tally.known);
        self.done.set(tally.done);
        self.duplicates.set(tally.duplicates);
        self.cut_by_depth.set(tally.cut_by_depth);
        self.cut_by_budget.set(tally.cut_by_budget);
        self.lane_full.set(tally.lane_full);
        self.expired.set(tally.expired);
        self.unmarked.set(tally.unmarked);
        self.reruns.set(tally.reruns);
        self.deleted.set(tally.deleted);
        self.withdrawn.set(tally.withdrawn);
        self.discarded.set(tally.discarded);
        self.late.set(tally.late);
        self.visible.raise_to(tally.next_rank);
    }
}

impl fmt::Debug for ServiceCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceCore").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// Where a token leads.
#[derive(Debug)]
pub(crate) enum Found {
    /// To this slot.
    Slot(Arc<Pool>, usize),
    /// To a lease that is over and forgotten.
    Over,
    /// Nowhere: no such token was ever given out.
    Forged,
}

impl ServiceCore {
    pub(crate) fn new(
        id: u32,
        name: &str,
        state: ServiceState,
        policy: Policy,
        plugin: Arc<dyn Plugin>,
        link: Arc<Link>,
    ) -> Self {
        let birth = Birth { service: id, generation: 0, born: link.clock.now(), terms: Terms::of(&policy) };
        Self {
            id,
            name: Arc::from(name),
            plugin,
            state: ServiceWord::new(state),
            policy: ArcSwap::from_pointee(policy),
            current: Current::new(Pool::empty(birth)),
            next: ArcSwapOption::empty(),
            urgent: Express::new(),
            front: Express::new(),
            ordinary_class: AtomicU32::new(0),
            live: ArcSwap::from_pointee(Vec::new()),
            published: Event::new(),
            active_seats: AtomicU32::new(0),
            handled: AtomicBool::new(false),
            panics: AtomicU32::new(0),
            counts: ServiceCounts::new(),
            measures: Measures::default(),
            ledger: Arc::default(),
            urgent_before: ArcSwapOption::empty(),
            leased_before: ArcSwapOption::empty(),
            lane_queues: ArcSwap::default(),
            slow: ArcSwap::from_pointee(Vec::new()),
            link,
        }
    }

    pub(crate) fn state(&self) -> ServiceState {
        self.state.get()
    }

    /// Sets the state; returns what it was.
    pub(crate) fn set_state(&self, state: ServiceState) -> ServiceState {
        self.state.set(state)
    }

    /// Sets the state if it is `from`.
    pub(crate) fn change_state(&self, from: ServiceState, to: ServiceState) -> bool {
        self.state.change(from, to)
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    pub(crate) fn set_policy(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
    }

    /// The plugin, of the type that the typed handles were made for.
    pub(crate) fn plugin<S: Service>(&self) -> Option<&S> {
        self.plugin.as_any().downcast_ref()
    }

    /// Counts a panic of the plugin; degrades the service after too many.
    pub(crate) fn note_panic(&self, message: &str) {
        // ordering: Relaxed; a count.
        let panics = self.panics.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::error!(service = %self.name, panics, message, "plugin panicked");
        if panics >= self.policy.load().panics_tolerated
            && self.change_state(ServiceState::Active, ServiceState::Degraded)
        {
            tracing::error!(service = %self.name, "service degraded");
        }
    }

    pub(crate) fn panics(&self) -> u32 {
        // ordering: Relaxed; a count.
        self.panics.load(Ordering::Relaxed)
    }

    pub(crate) fn forget_panics(&self) {
        // ordering: Relaxed; a count.
        self.panics.store(0, Ordering::Relaxed);
    }

    /// What ordinary claims are served from.
    pub(crate) fn front(&self) -> Arc<Front> {
        Guard::into_inner(self.current.load())
    }

    /// The pool that ordinary claims are served from: one look a claim, for its terms and its buckets.
    pub(crate) fn current(&self) -> Held {
        self.current.get()
    }

    /// Leases up to `n` buckets; the ordinary ones from `current`, so long as it has some. `turn` counts the seat's claims.
    /// Lock-free; never forms a bucket, never waits for one to be formed.
    pub(crate) fn take(
        &self,
        current: &Arc<Pool>,
        n: usize,
        owner: u32,
        now: u64,
        turn: u64,
        mut took: impl FnMut(&Arc<Pool>, usize),
    ) -> usize {
        if !self.offers_express() {
            // Whatever the turn, the others have nothing.
            return self.take_ordinary(current, n, owner, now, &mut took);
        }
        // ordering: Relaxed; a preference.
        let class = self.ordinary_class.load(Ordering::Relaxed);
        let mut got = 0;
        for queue in fairness::order(turn, current.terms.ordinary_share, class) {
            if got == n {
                break;
            }
            let exhausted = || self.link.steward.raise();
            got += match queue {
                Queue::Urgent => self.urgent.take(n - got, owner, now, &mut took, exhausted),
                Queue::Front => self.front.take(n - got, owner, now, &mut took, exhausted),
                Queue::Ordinary => self.take_ordinary(current, n - got, owner, now, &mut took),
            };
        }
        got
    }

    /// Notes the class of the oldest subject that is not urgent. The steward's alone.
    pub(crate) fn set_ordinary_class(&self, class: u32) {
        // ordering: Relaxed; see `take`.
        self.ordinary_class.store(class, Ordering::Relaxed);
    }

    fn take_ordinary(
        &self,
        current: &Arc<Pool>,
        n: usize,
        owner: u32,
        now: u64,
        took: &mut impl FnMut(&Arc<Pool>, usize),
    ) -> usize {
        let mut got = current.claim(n, owner, now, |index| took(current, index));
        if got == n || !self.advance(current) {
            return got;
        }
        // A pool holds at least one bucket; each further round means that a whole pool was taken meanwhile.
        for _ in 1..4 {
            let pool = self.current.load();
            got += pool.claim(n - got, owner, now, |index| took(&pool, index));
            if got == n || !self.advance(&pool) {
                break;
            }
        }
        got
    }

    /// Replaces an exhausted pool by the next one. False if there is none.
    fn advance(&self, pool: &Arc<Pool>) -> bool {
        let next = self.next.load();
        let Some(following) = next.as_ref().filter(|next| !next.is(pool)) else {
            // Nothing follows, unless another claimer has just been here.
            return !self.current.load().is(pool);
        };
        // Only from `pool`: a claimer that fell asleep here cannot bring an old pool back.
        if self.current.replace(pool, following) {
            // Only who put it there: to a claimer that came too late, what is next may be the pool after.
            self.next.compare_and_swap(&*next, None);
            self.link.steward.raise();
        }
        true
    }

    /// True if claims look at the express pools at all.
    pub(crate) fn offers_express(&self) -> bool {
        self.urgent.is_open() || self.front.is_open()
    }

    /// How long until `seat` may have something that it gave back, hub ms; `None` if nothing waits for that alone.
    pub(crate) fn cooldown_left(&self, seat: u32, now: u64) -> Option<u64> {
        let cools = self.urgent.cools_at(seat, now).into_iter().chain(self.front.cools_at(seat, now));
        cools.min().map(|at| at - now)
    }

    /// True if a cooldown of what is offered ended after `then`, and at `now` at the latest.
    pub(crate) fn has_cooled(&self, then: u64, now: u64) -> bool {
        self.urgent.has_cooled(then, now) || self.front.has_cooled(then, now)
    }

    pub(crate) fn is_express(&self, pool: &Arc<Pool>) -> bool {
        self.urgent.is(pool) || self.front.is(pool)
    }

    /// True if a claim of `seat` made now would probably get something.
    pub(crate) fn has_ready(&self, seat: u32, now: u64) -> bool {
        let next = || {
            let next = self.next.load();
            next.as_ref().is_some_and(|pool| !pool.is_exhausted())
        };
        let express = || self.urgent.has_for(seat, now) || self.front.has_for(seat, now);
        self.state().is_ready() && (!self.current.load().is_exhausted() || next() || express())
    }

    /// False if another worker handles its lanes.
    pub(crate) fn begin_handling(&self) -> bool {
        // ordering: AcqRel; pairs with the Release in `end_handling`: what the one before held is given back.
        !self.handled.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn end_handling(&self) {
        // ordering: Release; see `begin_handling`.
        self.handled.store(false, Ordering::Release);
    }

    pub(crate) fn published(&self) -> &Event {
        &self.published
    }

    /// Wakes whoever waits for work or for the hub's end.
    pub(crate) fn notify(&self) {
        wake("a waiting client's", || _ = self.published.notify(usize::MAX));
    }

    /// True if the steward should form the next ordinary pool.
    pub(crate) fn wants_next(&self) -> bool {
        let current = self.current.load();
        self.next.load().as_ref().is_none_or(|next| next.is(&current))
    }

    /// Publishes the next ordinary pool. The steward's alone, who keeps what this returns until nobody holds it.
    pub(crate) fn publish_next(&self, pool: Arc<Pool>) -> Vec<Retired> {
        self.counts.starved.set(0);
        self.counts.forming.formed(self.link.clock.now());
        let before = self.add_live(Arc::clone(&pool));
        let front = Arc::new(Front::new(pool));
        self.next.store(Some(Arc::clone(&front)));
        // Not what this thread remembers: if that is exhausted, it says nothing of the one in its place.
        let current = self.current.load();
        if current.is_exhausted() {
            self.advance(&current);
        }
        self.notify();
        vec![before, Retired::Front(front)]
    }

    /// Publishes a pool that goes before the ordinary ones. As [`publish_next`](Self::publish_next).
    pub(crate) fn publish_express(&self, place: &Express, pool: Arc<Pool>) -> Vec<Retired> {
        self.counts.starved.set(0);
        self.counts.forming.formed(self.link.clock.now());
        let before = self.add_live(Arc::clone(&pool));
        place.publish(pool);
        self.notify();
        vec![before]
    }

    /// When the oldest subject of the ordinary pools, as far as they are not exhausted, began to wait.
    pub(crate) fn oldest_ordinary(&self) -> Option<u64> {
        let since = |pool: &Arc<Pool>| (!pool.is_exhausted()).then(|| pool.oldest()).flatten();
        since(&self.current.load()).or_else(|| self.next.load().as_ref().and_then(|next| since(next)))
    }

    /// Subjects in ordinary pools that no claim has taken, about.
    pub(crate) fn ready_subjects(&self) -> usize {
        let current = self.current.load();
        let next = self.next.load();
        let next = next.as_ref().filter(|next| !next.is(&current));
        current.ready_subjects() + next.map_or(0, |next| next.ready_subjects())
    }

    /// Takes a bucket back that no claim took; the writer is asked to return its subjects. False if a claim was first.
    pub(crate) fn take_slot_back(&self, pool: &Pool, index: usize) -> bool {
        let Some(left) = pool.slot(index).and_then(Slot::abandon) else { return false };
        self.note_taken_back(pool, index, left);
        true
    }

    /// A bucket that no claim took was taken back.
    pub(crate) fn note_taken_back(&self, pool: &Pool, index: usize, left: Mask) {
        self.ledger.moved(Move::Abandoned, pool.print(index, left));
        pool.mark(index);
        self.link.writer.raise();
    }

    /// The buckets in which subjects of these ranks are offered or owed.
    pub(crate) fn spots(&self, ranks: &HashSet<u64>) -> HashMap<u64, Vec<Spot>> {
        let mut found: HashMap<u64, Vec<Spot>> = HashMap::new();
        if ranks.is_empty() {
            return found;
        }
        for pool in self.live().iter() {
            for (rank, spot) in pool.spots(ranks) {
                if spot.is_responsible() {
                    found.entry(rank).or_default().push(spot);
                }
            }
        }
        found
    }

    pub(crate) fn live(&self) -> Arc<Vec<Arc<Pool>>> {
        self.live.load_full()
    }

    /// Adds a pool to those alive, and returns what they were. Called by the steward, and once before the service is in the
    /// table.
    pub(crate) fn add_live(&self, pool: Arc<Pool>) -> Retired {
        let mut live = Vec::clone(&self.live.load());
        let at = live.partition_point(|other| other.generation < pool.generation);
        live.insert(at, pool);
        Retired::Live(self.live.swap(Arc::new(live)))
    }

    /// Forgets pools, and returns them and what was alive before. The steward's alone.
    pub(crate) fn retain_live(&self, mut keep: impl FnMut(&Arc<Pool>) -> bool) -> Vec<Retired> {
        let before = self.live.load_full();
        let (live, gone): (Vec<_>, Vec<_>) = before.iter().cloned().partition(|pool| keep(pool));
        self.live.store(Arc::new(live));
        gone.into_iter().map(Retired::Pool).chain([Retired::Live(before)]).collect()
    }

    /// The pools that claims are served from now: their ready slots are still to come.
    pub(crate) fn is_serving(&self, pool: &Arc<Pool>) -> bool {
        let is_next = || self.next.load().as_ref().is_some_and(|next| next.is(pool));
        self.current.load().is(pool) || is_next() || self.is_express(pool)
    }

    /// Finds the slot that a token names. Wait-free.
    pub(crate) fn find(&self, token: &LeaseToken) -> Found {
        if token.service != self.id {
            return Found::Forged;
        }
        let live = self.live.load();
        let at = live.binary_search_by_key(&token.generation, |pool| pool.generation);
        let pool = at.ok().and_then(|at| live.get(at));
        let slot = pool.and_then(|pool| Some((pool, pool.index_of(token.slot)?)));
        match slot {
            Some((pool, index)) if pool.slot(index).is_some_and(|slot| slot.nonce() == token.nonce) => {
                Found::Slot(Arc::clone(pool), index)
            }
            None if self.link.secret.nonce(self.id, token.generation, token.slot) == token.nonce => Found::Over,
            _ => Found::Forged,
        }
    }

    /// Calls `visit` with every slot that `owner` holds.
    pub(crate) fn held_by(&self, owner: u32, mut visit: impl FnMut(&Arc<Pool>, usize)) {
        for pool in self.live.load().iter() {
            for (index, slot) in pool.passed() {
                let seen = slot.snapshot();
                if seen.is_held() && seen.owner() == owner {
                    visit(pool, index);
                }
            }
        }
    }
}

/// Counts the generations of one opening: the boot's number above, a running number below. Never reused.
#[derive(Debug)]
pub(crate) struct Generations(AtomicU64);

impl Generations {
    pub(crate) fn of_boot(boot: u32) -> Self {
        Self(AtomicU64::new((u64::from(boot) << 32) | 1))
    }

    pub(crate) fn next(&self) -> u64 {
        // ordering: Relaxed; only uniqueness matters.
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{HubClock, ManualClock};
    use crate::id::Secret;
    use crate::limits::Limits;
    use crate::pool::{SubjectBuf, SubjectRef};
    use crate::services::FollowerCheck;

    fn service() -> ServiceCore {
        let clock = HubClock::new(Arc::new(ManualClock::default()), 0);
        let link = Arc::new(Link::new(clock, Limits::default(), Secret::from_bytes([1; Secret::BYTES]), true));
        ServiceCore::new(1, "s", ServiceState::Active, Policy::default(), Arc::new(FollowerCheck::default()), link)
    }

    /// A pool of one bucket of one subject.
    fn pool(service: &ServiceCore, generation: u64) -> Arc<Pool> {
        let birth = Birth { service: service.id, generation, born: 0, terms: service.current().terms };
        let subject = SubjectRef { rank: generation, depth: 0, round: 1, since: 0, key: b"k", body: b"" };
        Arc::new(Pool::cut(birth, &[SubjectBuf::new(subject)], &service.link.secret))
    }

    #[test]
    fn a_claimer_that_lost_the_swap_does_not_lose_the_pool_after() {
        let service = service();
        let mut took = Vec::new();
        let mut claim = || service.take(&service.current(), 1, 1, 0, 1, |pool, _| took.push(pool.generation));
        service.publish_next(pool(&service, 1));
        assert_eq!(claim(), 1);
        // A claimer finds the first pool exhausted, and stops.
        let first = service.current.get();
        // The second is swapped in; the third is there before the second is exhausted.
        service.publish_next(pool(&service, 2));
        service.publish_next(pool(&service, 3));
        // The claimer goes on: the first pool was replaced meanwhile, and not by what is next now.
        assert!(service.advance(&first));
        assert_eq!((claim(), claim()), (1, 1));
        assert_eq!(took, [1, 2, 3]);
    }

    #[test]
    fn the_steward_replaces_what_is_exhausted_though_a_claimer_stopped_before_it_said_what_is_there() {
        let service = service();
        let claim = |from: &Arc<Pool>| service.take(from, 1, 1, 0, 1, |_, _| ());
        service.publish_next(pool(&service, 1));
        let first = service.current();
        assert_eq!(claim(&first), 1);
        let second = pool(&service, 2);
        service.current.replace_and_stop(&second);
        assert!(Arc::ptr_eq(&first, &service.current()), "nobody told this thread");
        assert_eq!(claim(&second), 1);
        service.publish_next(pool(&service, 3));
        assert_eq!(service.current.load().generation, 3);
        assert_eq!(service.current().generation, 3);
    }
}
