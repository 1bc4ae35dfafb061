//! The two obvious designs with what the user of such a queue needs at least, and ours has: an item is added once; a lease has
//! a token, which a submit must give; a lease that is overdue is given back by the next claims; what came of each item is kept,
//! first come, and read by its id. In memory; nothing is stored.
//!
//! Before the clock starts, each item is added a second time, and one bucket is leased by somebody who does not come back in
//! time: a design that forgets to look leaves items, or completes them twice.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use dashmap::DashMap;

use crate::contender::{Contender, Drained, LEASE, Setup, Worker, by_threads, report_on};
use crate::obvious::{Bucket, Held, buckets, reports};

/// Who has the lease that is overdue from the start.
const LOST: usize = usize::MAX;
/// How often somebody looks at all leases, where they are in no order.
const SWEEP: Duration = Duration::from_millis(10);

/// Who reported on an item, and what.
type Done = (usize, u64);
type Reports = Vec<(u64, u64)>;

/// A queue of this kind, as its callers see it. `true` or a number: so much was new, or taken.
trait Queue: Send + Sync + 'static {
    fn add(&self, bucket: &Bucket) -> usize;
    fn claim(&self, owner: usize, lease: Duration) -> Option<(u64, Bucket)>;
    /// The items that were taken; `None`: no such lease, another's, or overdue.
    fn submit(&self, owner: usize, token: u64, reports: &Reports) -> Option<Vec<u64>>;
    fn result(&self, item: u64) -> Option<Done>;
    fn leases(&self) -> usize;
}

struct Full<Q> {
    queue: Q,
    lost: (u64, Bucket),
}

pub(crate) fn one_lock(setup: &Setup<'_>) -> Box<dyn Contender> {
    open(OneLock { locked: Mutex::default(), start: Instant::now() }, setup)
}

pub(crate) fn sharded(setup: &Setup<'_>) -> Box<dyn Contender> {
    open(Sharded::new(), setup)
}

fn open(queue: impl Queue, setup: &Setup<'_>) -> Box<dyn Contender> {
    let added: usize = buckets(setup).map(|bucket| queue.add(&bucket)).sum();
    let again: usize = buckets(setup).map(|bucket| queue.add(&bucket)).sum();
    assert_eq!((added as u64, again), (setup.items, 0), "each item is added once");
    let lost = queue.claim(LOST, Duration::ZERO).expect("there is one");
    Box::new(Full { queue, lost })
}

struct FullWorker<'a, Q>(&'a Q, usize);

impl<Q: Queue> Worker for FullWorker<'_, Q> {
    fn turn(&mut self, done: &mut Vec<u64>) {
        let Some((token, items)) = self.0.claim(self.1, LEASE) else { return };
        let reports = reports(&items);
        let taken = self.0.submit(self.1, token, &reports).expect("the lease is ours");
        assert_eq!(taken.len(), items.len(), "nobody else reports on them");
        done.extend(taken);
    }
}

impl<Q: Queue> Contender for Full<Q> {
    fn drain(&self, setup: &Setup<'_>) -> Drained {
        by_threads(setup, |number| FullWorker(&self.queue, number))
    }

    fn left(self: Box<Self>, setup: &Setup<'_>) -> u64 {
        let (token, bucket) = &self.lost;
        assert!(self.queue.submit(LOST, *token, &reports(bucket)).is_none(), "that lease was given back");
        let done =
            (0..setup.items).filter(|item| self.queue.result(*item).is_some_and(|done| done.1 == report_on(*item)));
        setup.items - done.count() as u64 + self.queue.leases() as u64
    }
}

// ---- one lock -----------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Locked {
    /// Every item that was ever added, and what came of it.
    items: HashMap<u64, Option<Done>>,
    ready: VecDeque<Bucket>,
    leases: HashMap<u64, Held>,
    /// Deadlines and tokens of the leases, the next one first.
    due: BTreeSet<(Duration, u64)>,
    next: u64,
}

impl Locked {
    fn give_back(&mut self, now: Duration) {
        while self.due.first().is_some_and(|(deadline, _)| *deadline <= now) {
            let Some((_, token)) = self.due.pop_first() else { return };
            if let Some(held) = self.leases.remove(&token) {
                self.ready.push_front(held.items);
            }
        }
    }
}

struct OneLock {
    locked: Mutex<Locked>,
    start: Instant,
}

impl Queue for OneLock {
    fn add(&self, bucket: &Bucket) -> usize {
        let mut locked = self.locked.lock().expect("nobody panicked");
        let is_new = |item: &&u64| match locked.items.entry(**item) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => place.insert(None).is_none(),
        };
        let new: Bucket = bucket.iter().filter(is_new).copied().collect();
        let count = new.len();
        if count > 0 {
            locked.ready.push_back(new);
        }
        count
    }

    fn claim(&self, owner: usize, lease: Duration) -> Option<(u64, Bucket)> {
        let now = self.start.elapsed();
        let mut locked = self.locked.lock().expect("nobody panicked");
        locked.give_back(now);
        let items = locked.ready.pop_front()?;
        locked.next += 1;
        let (token, deadline) = (locked.next, now + lease);
        locked.due.insert((deadline, token));
        locked.leases.insert(token, Held { items: Arc::clone(&items), owner, deadline });
        Some((token, items))
    }

    fn submit(&self, owner: usize, token: u64, reports: &Reports) -> Option<Vec<u64>> {
        let now = self.start.elapsed();
        let mut locked = self.locked.lock().expect("nobody panicked");
        if !locked.leases.get(&token)?.allows(owner, now, reports) {
            return None;
        }
        let held = locked.leases.remove(&token)?;
        locked.due.remove(&(held.deadline, token));
        let mut note = |(item, report): &(u64, u64)| {
            let done = locked.items.get_mut(item)?;
            done.is_none().then(|| *done = Some((owner, *report))).map(|()| *item)
        };
        Some(reports.iter().filter_map(&mut note).collect())
    }

    fn result(&self, item: u64) -> Option<Done> {
        *self.locked.lock().expect("nobody panicked").items.get(&item)?
    }

    fn leases(&self) -> usize {
        self.locked.lock().expect("nobody panicked").leases.len()
    }
}

// ---- maps with locks of their own ---------------------------------------------------------------------------------

struct Sharded {
    /// Every item that was ever added, and what came of it.
    items: DashMap<u64, Option<Done>>,
    ready: SegQueue<Bucket>,
    leases: DashMap<u64, Held>,
    next: AtomicU64,
    /// When somebody looks for leases that are overdue, in nanoseconds after `start`.
    sweep: AtomicU64,
    start: Instant,
}

impl Sharded {
    fn new() -> Self {
        let (items, leases, ready) = (DashMap::new(), DashMap::new(), SegQueue::new());
        Self { items, ready, leases, next: AtomicU64::new(0), sweep: AtomicU64::new(0), start: Instant::now() }
    }

    fn give_back(&self, now: Duration) {
        let (at, nanos) = (self.sweep.load(Ordering::Relaxed), |time: Duration| time.as_nanos() as u64);
        let is_mine =
            || self.sweep.compare_exchange(at, nanos(now + SWEEP), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if nanos(now) < at || !is_mine() {
            return;
        }
        let overdue: Vec<u64> =
            self.leases.iter().filter(|held| held.deadline <= now).map(|held| *held.key()).collect();
        for token in overdue {
            if let Some((_, held)) = self.leases.remove(&token) {
                self.ready.push(held.items);
            }
        }
    }
}

impl Queue for Sharded {
    fn add(&self, bucket: &Bucket) -> usize {
        let is_new = |item: &&u64| match self.items.entry(**item) {
            dashmap::Entry::Occupied(_) => false,
            dashmap::Entry::Vacant(place) => {
                drop(place.insert(None));
                true
            }
        };
        let new: Bucket = bucket.iter().filter(is_new).copied().collect();
        let count = new.len();
        if count > 0 {
            self.ready.push(new);
        }
        count
    }

    fn claim(&self, owner: usize, lease: Duration) -> Option<(u64, Bucket)> {
        let now = self.start.elapsed();
        self.give_back(now);
        let items = self.ready.pop()?;
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        self.leases.insert(token, Held { items: Arc::clone(&items), owner, deadline: now + lease });
        Some((token, items))
    }

    fn submit(&self, owner: usize, token: u64, reports: &Reports) -> Option<Vec<u64>> {
        let now = self.start.elapsed();
        self.leases.remove_if(&token, |_, held| held.allows(owner, now, reports))?;
        let note = |(item, report): &(u64, u64)| {
            let mut done = self.items.get_mut(item)?;
            done.is_none().then(|| *done = Some((owner, *report))).map(|()| *item)
        };
        Some(reports.iter().filter_map(note).collect())
    }

    fn result(&self, item: u64) -> Option<Done> {
        *self.items.get(&item)?
    }

    fn leases(&self) -> usize {
        self.leases.len()
    }
}
