//! What one would write first: the items in a queue, a map of who has what until when, a map of what came of them. One lock
//! around all of it; or maps and a queue that have their own. Nothing is stored. Here in its bare form: items go by fixed
//! buckets, one lease for each; no duplicates are refused, and no lease is given back. See `full` for the other.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use dashmap::DashMap;

use crate::contender::{Contender, Drained, LEASE, Setup, Worker, by_threads, report_on};

type Bucket = Arc<[u64]>;

struct Held {
    items: Bucket,
    owner: usize,
    deadline: Duration,
}

impl Held {
    /// Whether these items are that worker's to report on.
    fn allows(&self, owner: usize, now: Duration, reports: &[(u64, u64)]) -> bool {
        self.owner == owner && self.deadline > now && reports.iter().all(|(item, _)| self.items.contains(item))
    }
}

fn buckets(setup: &Setup<'_>) -> impl Iterator<Item = Bucket> {
    let (items, size) = (setup.items, setup.claim as u64);
    (0..items.div_ceil(size)).map(move |bucket| (bucket * size..items.min((bucket + 1) * size)).collect())
}

pub(crate) fn reports(bucket: &[u64]) -> Vec<(u64, u64)> {
    bucket.iter().map(|item| (*item, report_on(*item))).collect()
}

// ---- one lock -----------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Locked {
    ready: VecDeque<Bucket>,
    leases: HashMap<u64, Held>,
    results: HashMap<u64, (usize, u64)>,
    next: u64,
}

struct OneLock {
    locked: Mutex<Locked>,
    start: Instant,
}

pub(crate) fn one_lock(setup: &Setup<'_>) -> Box<dyn Contender> {
    let locked = Locked { ready: buckets(setup).collect(), ..Locked::default() };
    Box::new(OneLock { locked: Mutex::new(locked), start: Instant::now() })
}

struct OneLockWorker<'a>(&'a OneLock, usize);

impl OneLockWorker<'_> {
    fn claim(&self) -> Option<(u64, Bucket)> {
        let deadline = self.0.start.elapsed() + LEASE;
        let mut locked = self.0.locked.lock().expect("nobody panicked");
        let items = locked.ready.pop_front()?;
        locked.next += 1;
        let token = locked.next;
        locked.leases.insert(token, Held { items: Arc::clone(&items), owner: self.1, deadline });
        Some((token, items))
    }
}

impl Worker for OneLockWorker<'_> {
    fn turn(&mut self, done: &mut Vec<u64>) {
        let Some((token, items)) = self.claim() else { return };
        let reports = reports(&items);
        let now = self.0.start.elapsed();
        let mut locked = self.0.locked.lock().expect("nobody panicked");
        assert!(locked.leases[&token].allows(self.1, now, &reports));
        locked.leases.remove(&token);
        for (item, report) in reports {
            if locked.results.insert(item, (self.1, report)).is_none() {
                done.push(item);
            }
        }
    }
}

impl Contender for OneLock {
    fn drain(&self, setup: &Setup<'_>) -> Drained {
        by_threads(setup, |number| OneLockWorker(self, number))
    }

    fn left(self: Box<Self>, setup: &Setup<'_>) -> u64 {
        let locked = self.locked.lock().expect("nobody panicked");
        setup.items - locked.results.len() as u64 + locked.leases.len() as u64
    }
}

// ---- maps with locks of their own ---------------------------------------------------------------------------------

struct Sharded {
    ready: SegQueue<Bucket>,
    leases: DashMap<u64, Held>,
    results: DashMap<u64, (usize, u64)>,
    next: AtomicU64,
    start: Instant,
}

pub(crate) fn sharded(setup: &Setup<'_>) -> Box<dyn Contender> {
    let ready = SegQueue::new();
    buckets(setup).for_each(|bucket| ready.push(bucket));
    let (leases, results) = (DashMap::new(), DashMap::new());
    Box::new(Sharded { ready, leases, results, next: AtomicU64::new(0), start: Instant::now() })
}

struct ShardedWorker<'a>(&'a Sharded, usize);

impl Worker for ShardedWorker<'_> {
    fn turn(&mut self, done: &mut Vec<u64>) {
        let (queue, owner) = (self.0, self.1);
        let deadline = queue.start.elapsed() + LEASE;
        let Some(items) = queue.ready.pop() else { return };
        let token = queue.next.fetch_add(1, Ordering::Relaxed);
        queue.leases.insert(token, Held { items: Arc::clone(&items), owner, deadline });
        let reports = reports(&items);
        let now = queue.start.elapsed();
        let held = queue.leases.remove_if(&token, |_, held| held.allows(owner, now, &reports));
        assert!(held.is_some());
        for (item, report) in reports {
            if queue.results.insert(item, (owner, report)).is_none() {
                done.push(item);
            }
        }
    }
}

impl Contender for Sharded {
    fn drain(&self, setup: &Setup<'_>) -> Drained {
        by_threads(setup, |number| ShardedWorker(self, number))
    }

    fn left(self: Box<Self>, setup: &Setup<'_>) -> u64 {
        setup.items - self.results.len() as u64 + self.leases.len() as u64
    }
}
