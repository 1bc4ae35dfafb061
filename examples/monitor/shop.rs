//! Something to watch: three services of different pace and priority, and a customer who keeps them busy.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use commissary::{Hub, Policy, Reporter, Service, ServiceHandle, Verdict};

use crate::Failure;
use crate::dice::Dice;
use crate::worker::{Worker, patiently};

/// How long a worker may be silent before its lease is dead, and then until its bucket goes to others.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
pub(crate) const GRACE: Duration = Duration::from_secs(1);
const WORKERS: u64 = 12;
/// How often the customer comes.
const TURN: Duration = Duration::from_millis(100);
/// Turns from one rush hour to the next.
const DAY: u64 = 200;

/// Looks at things and gives them one to five stars.
pub(crate) struct Check {
    id: &'static str,
    bucket: usize,
    max_wait: Duration,
}

impl Service for Check {
    type Subject = u64;
    type Report = u8;

    fn id(&self) -> &str {
        self.id
    }

    fn policy(&self) -> Policy {
        let Self { bucket, max_wait, .. } = *self;
        Policy {
            bucket_subjects: bucket,
            buckets_per_claim: 4,
            lease: LEASE,
            grace: GRACE,
            max_wait,
            ..Policy::default()
        }
    }

    fn judge(&self, _subject: &u64, stars: &u8, _reporter: Reporter) -> Verdict {
        if (1..=5).contains(stars) { Verdict::Accept } else { Verdict::Reject(format!("{stars} stars")) }
    }
}

/// One service and what it is like to work for it.
pub(crate) struct Counter {
    pub(crate) service: ServiceHandle<Check>,
    /// Time to work on one subject.
    pub(crate) effort: Duration,
    /// Subjects that come in a turn of the quietest time.
    arrivals: u64,
    /// One turn in so many, what came is urgent.
    urgent: Option<u64>,
}

/// The hub's services, as workers and customer see them.
pub(crate) struct Shop<'a> {
    pub(crate) hub: &'a Hub,
    pub(crate) counters: Vec<Counter>,
    pub(crate) seed: u64,
    closing: &'a AtomicBool,
}

impl<'a> Shop<'a> {
    /// `closing` can be set by others, too.
    pub(crate) fn open(hub: &'a Hub, seed: u64, closing: &'a AtomicBool) -> Result<Self, Failure> {
        let counter = |id, bucket, max_wait, effort, arrivals, urgent| -> Result<Counter, Failure> {
            let check = Check { id, bucket, max_wait: Duration::from_secs(max_wait) };
            Ok(Counter { service: hub.register(check)?, effort: Duration::from_millis(effort), arrivals, urgent })
        };
        let counters = vec![
            counter("photos", 16, 20, 5, 40, None)?,
            counter("videos", 4, 30, 60, 3, None)?,
            counter("complaints", 2, 4, 30, 2, Some(8))?,
        ];
        Ok(Self { hub, counters, seed, closing })
    }

    /// Keeps everyone busy until `watch` returns, then waits until all are home. Returns what `watch` did.
    pub(crate) fn run<T>(&self, watch: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        thread::scope(|scope| {
            let mut crowd = vec![scope.spawn(|| self.until_closing(|| self.feed()))];
            for place in 0..WORKERS {
                let worker = Worker::new(self, place);
                crowd.push(scope.spawn(|| self.until_closing(|| worker.run())));
            }
            // However it ends: the threads must be told to go home before the scope waits for them.
            let closer = Closer(self);
            let watched = watch();
            drop(closer);
            let ended: Result<Vec<()>, Failure> = crowd.into_iter().map(join).collect();
            ended.and(watched)
        })
    }

    /// Closes the shop if the work ends with an error or a panic; otherwise who goes home goes alone.
    fn until_closing(&self, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let ended = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("a thread panicked".into()));
        if ended.is_err() {
            drop(Closer(self));
        }
        ended
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Waits, but no longer than the shop is open.
    pub(crate) fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.is_closing() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(20)));
        }
    }

    /// The customer: brings more and less, as the day goes, and sometimes a heap at once.
    fn feed(&self) -> Result<(), Failure> {
        let mut dice = Dice::new(self.seed, u64::MAX);
        let mut next = 1;
        for turn in 0.. {
            if self.is_closing() {
                break;
            }
            // One to three times as much, up and down.
            let hour = turn % DAY;
            let rush = 100 + 2 * hour.min(DAY - hour);
            for counter in &self.counters {
                let heap = if dice.once_in(DAY) { 20 } else { 1 };
                let many = (counter.arrivals * rush / 100 * heap).max(1);
                let keys: Vec<u64> = (next..next + many).collect();
                next += many;
                patiently(|| counter.service.add_all(keys.iter().copied()))?;
                if counter.urgent.is_some_and(|urgent| dice.once_in(urgent)) {
                    let (_marked, _ticket) = patiently(|| counter.service.prioritize(&keys))?;
                }
            }
            self.pause(TURN);
        }
        Ok(())
    }
}

/// Closes the shop when it goes.
struct Closer<'a>(&'a Shop<'a>);

impl Drop for Closer<'_> {
    fn drop(&mut self) {
        self.0.closing.store(true, Ordering::Relaxed);
    }
}

fn join(worker: ScopedJoinHandle<'_, Result<(), Failure>>) -> Result<(), Failure> {
    worker.join().unwrap_or_else(|_| Err("a thread panicked".into()))
}
