//! The two obvious designs with what the user of such a queue needs at least, and ours has: an item is added once; a claim takes
//! as many as it asks for, and each is leased by itself, so that one can be completed or lost without the others; a lease has a
//! token, which a submit must give; what is overdue is given back; what came of each item is kept, first come, and read by its
//! id. In memory; nothing is stored.
//!
//! Before the clock starts, each item is added a second time, and some are leased by somebody who does not come back in time: a
//! design that forgets to look leaves items, or completes them twice.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use dashmap::DashMap;

use crate::contender::{Contender, Drained, LEASE, Setup, Worker, by_threads, report_on};
use crate::obvious::reports;

/// Who has the leases that are overdue from the start.
const LOST: usize = usize::MAX;
/// How often a claim looks for leases that are overdue.
const SWEEP: Duration = Duration::from_millis(10);

/// Who reported on an item, and what.
type Done = (usize, u64);

/// The lease of an item.
struct Held {
    token: u64,
    owner: usize,
    deadline: Duration,
}

impl Held {
    fn allows(&self, owner: usize, token: u64, now: Duration) -> bool {
        self.token == token && self.owner == owner && self.deadline > now
    }
}

/// A queue of this kind, as its callers see it.
trait Queue: Send + Sync + 'static {
    /// False if it was there before.
    fn add(&self, item: u64) -> bool;
    /// A token, and at most so many items.
    fn claim(&self, owner: usize, most: usize, lease: Duration) -> (u64, Vec<u64>);
    /// The items that were taken: not those of another lease, nor those that are overdue or reported on.
    fn submit(&self, owner: usize, token: u64, reports: &[(u64, u64)]) -> Vec<u64>;
    fn result(&self, item: u64) -> Option<Done>;
    fn leases(&self) -> usize;
}

struct Full<Q> {
    queue: Q,
    lost: (u64, Vec<u64>),
}

pub(crate) fn one_lock(setup: &Setup<'_>) -> Box<dyn Contender> {
    open(OneLock { locked: Mutex::default(), start: Instant::now() }, setup)
}

pub(crate) fn sharded(setup: &Setup<'_>) -> Box<dyn Contender> {
    open(Sharded::new(), setup)
}

fn open(queue: impl Queue, setup: &Setup<'_>) -> Box<dyn Contender> {
    assert!((0..setup.items).all(|item| queue.add(item)), "all are new");
    assert!(!(0..setup.items).any(|item| queue.add(item)), "each is added once");
    let lost = queue.claim(LOST, setup.claim, Duration::ZERO);
    assert_eq!(lost.1.len(), setup.claim);
    Box::new(Full { queue, lost })
}

struct FullWorker<'a, Q> {
    queue: &'a Q,
    number: usize,
    most: usize,
}

impl<Q: Queue> Worker for FullWorker<'_, Q> {
    fn turn(&mut self, done: &mut Vec<u64>) {
        let (token, items) = self.queue.claim(self.number, self.most, LEASE);
        let taken = self.queue.submit(self.number, token, &reports(&items));
        assert_eq!(taken.len(), items.len(), "nobody else reports on them");
        done.extend(taken);
    }
}

impl<Q: Queue> Contender for Full<Q> {
    fn drain(&self, setup: &Setup<'_>) -> Drained {
        by_threads(setup, |number| FullWorker { queue: &self.queue, number, most: setup.claim })
    }

    fn left(self: Box<Self>, setup: &Setup<'_>) -> u64 {
        let (token, items) = &self.lost;
        assert!(self.queue.submit(LOST, *token, &reports(items)).is_empty(), "these leases were given back");
        let done =
            |item: &u64| self.queue.result(*item).is_some_and(|(by, report)| by != LOST && report == report_on(*item));
        setup.items - (0..setup.items).filter(done).count() as u64 + self.queue.leases() as u64
    }
}

// ---- one lock -----------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Locked {
    /// Every item that was ever added, and what came of it.
    items: HashMap<u64, Option<Done>>,
    ready: VecDeque<u64>,
    leases: HashMap<u64, Held>,
    next: u64,
    sweep: Duration,
}

impl Locked {
    fn give_back(&mut self, now: Duration) {
        if now < self.sweep {
            return;
        }
        self.sweep = now + SWEEP;
        let ready = &mut self.ready;
        self.leases.retain(|item, held| {
            let is_good = held.deadline > now;
            if !is_good {
                ready.push_front(*item);
            }
            is_good
        });
    }
}

struct OneLock {
    locked: Mutex<Locked>,
    start: Instant,
}

impl Queue for OneLock {
    fn add(&self, item: u64) -> bool {
        let mut locked = self.locked.lock().expect("nobody panicked");
        let Entry::Vacant(place) = locked.items.entry(item) else { return false };
        place.insert(None);
        locked.ready.push_back(item);
        true
    }

    fn claim(&self, owner: usize, most: usize, lease: Duration) -> (u64, Vec<u64>) {
        let now = self.start.elapsed();
        let mut locked = self.locked.lock().expect("nobody panicked");
        locked.give_back(now);
        locked.next += 1;
        let (token, deadline, count) = (locked.next, now + lease, most.min(locked.ready.len()));
        let items: Vec<u64> = locked.ready.drain(..count).collect();
        locked.leases.extend(items.iter().map(|item| (*item, Held { token, owner, deadline })));
        (token, items)
    }

    fn submit(&self, owner: usize, token: u64, reports: &[(u64, u64)]) -> Vec<u64> {
        let now = self.start.elapsed();
        let mut locked = self.locked.lock().expect("nobody panicked");
        let mut take = |(item, report): &(u64, u64)| {
            locked.leases.get(item).filter(|held| held.allows(owner, token, now))?;
            locked.leases.remove(item);
            let done = locked.items.get_mut(item)?;
            done.is_none().then(|| *done = Some((owner, *report))).map(|()| *item)
        };
        reports.iter().filter_map(&mut take).collect()
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
    ready: SegQueue<u64>,
    leases: DashMap<u64, Held>,
    next: AtomicU64,
    /// Nanoseconds after `start`.
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
        self.leases.retain(|item, held| {
            let is_good = held.deadline > now;
            if !is_good {
                self.ready.push(*item);
            }
            is_good
        });
    }
}

impl Queue for Sharded {
    fn add(&self, item: u64) -> bool {
        let dashmap::Entry::Vacant(place) = self.items.entry(item) else { return false };
        drop(place.insert(None));
        self.ready.push(item);
        true
    }

    fn claim(&self, owner: usize, most: usize, lease: Duration) -> (u64, Vec<u64>) {
        let now = self.start.elapsed();
        self.give_back(now);
        let (token, deadline) = (self.next.fetch_add(1, Ordering::Relaxed), now + lease);
        let items: Vec<u64> = (0..most).map_while(|_| self.ready.pop()).collect();
        for item in &items {
            self.leases.insert(*item, Held { token, owner, deadline });
        }
        (token, items)
    }

    fn submit(&self, owner: usize, token: u64, reports: &[(u64, u64)]) -> Vec<u64> {
        let now = self.start.elapsed();
        let take = |(item, report): &(u64, u64)| {
            self.leases.remove_if(item, |_, held| held.allows(owner, token, now))?;
            let mut done = self.items.get_mut(item)?;
            done.is_none().then(|| *done = Some((owner, *report))).map(|()| *item)
        };
        reports.iter().filter_map(take).collect()
    }

    fn result(&self, item: u64) -> Option<Done> {
        *self.items.get(&item)?
    }

    fn leases(&self) -> usize {
        self.leases.len()
    }
}
