//! What all of them have in common.

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::servers::Programs;

/// How many items at the most are claimed in one go.
pub(crate) const CLAIMS: [usize; 3] = [1, 16, 100];
pub(crate) const WORKERS: [usize; 4] = [1, 2, 4, 8];
/// What a claim is good for.
pub(crate) const LEASE: Duration = Duration::from_secs(7_200);
/// Longer than any cell takes: a queue that lost an item is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is opened for a cell.
pub(crate) struct Setup<'a> {
    /// An empty directory.
    pub(crate) directory: &'a Path,
    pub(crate) programs: &'a Programs,
    /// The items are the numbers below this.
    pub(crate) items: u64,
    pub(crate) workers: usize,
    pub(crate) claim: usize,
}

/// What is noted of an item when it is complete.
pub(crate) fn report_on(item: u64) -> u64 {
    item ^ 0xffff
}

/// What came of a cell: how long it took, and what each worker completed.
pub(crate) type Drained = (Duration, Vec<Vec<u64>>);

/// A queue that holds all the items.
pub(crate) trait Contender {
    /// Lets the workers complete all of them; ends when the last one is, as durably as the class says.
    fn drain(&self, setup: &Setup<'_>) -> Drained;

    /// Items that are not complete: as it is found when opened again, where the class says that it can be.
    fn left(self: Box<Self>, setup: &Setup<'_>) -> u64;
}

/// A worker on a thread of its own.
pub(crate) trait Worker: Send {
    /// Claims items, completes them, appends them to `done`; leaves it alone if there are none.
    fn turn(&mut self, done: &mut Vec<u64>);

    /// Waits until all that was completed is as durable as the class says.
    fn settle(&mut self) {}
}

/// Lets them all work until every item is complete. Only that is timed.
pub(crate) fn by_threads<W: Worker>(setup: &Setup<'_>, make: impl Fn(usize) -> W) -> Drained {
    let (barrier, completed) = (Barrier::new(setup.workers), AtomicU64::new(0));
    let work = |mut worker: W| {
        let mut done = Vec::with_capacity(usize::try_from(setup.items).expect("fits"));
        barrier.wait();
        let began = Instant::now();
        while completed.load(Ordering::Relaxed) < setup.items && began.elapsed() < PATIENCE {
            let before = done.len();
            worker.turn(&mut done);
            if done.len() == before {
                thread::yield_now();
            } else {
                completed.fetch_add((done.len() - before) as u64, Ordering::Relaxed);
            }
        }
        worker.settle();
        (began, Instant::now(), done)
    };
    let workers: Vec<W> = (0..setup.workers).map(make).collect();
    let runs: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = workers.into_iter().map(|worker| scope.spawn(|| work(worker))).collect();
        threads.into_iter().map(|thread| thread.join().expect("nobody panicked")).collect()
    });
    let first = runs.iter().map(|run| run.0).min().expect("a worker");
    let last = runs.iter().map(|run| run.1).max().expect("a worker");
    (last - first, runs.into_iter().map(|run| run.2).collect())
}

/// A contender.
pub(crate) struct Kind {
    /// What completing says.
    pub(crate) class: &'static str,
    pub(crate) name: &'static str,
    /// Whose side it is on when the bars are looked at.
    pub(crate) side: Side,
    /// The program that it needs.
    pub(crate) needs: Option<&'static str>,
    /// Fills it, as durably as the class says.
    pub(crate) open: fn(&Setup<'_>) -> Box<dyn Contender>,
    /// Items of a cell, by [`CLAIMS`].
    pub(crate) items: [u64; 3],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Peer,
    /// Does less than a user needs: told beside the bars, which are not set by it.
    Bare,
}

/// Items a second; `Err` says what is not as it must be.
pub(crate) fn run(kind: &Kind, setup: &Setup<'_>) -> Result<f64, String> {
    let contender = (kind.open)(setup);
    let (took, done) = contender.drain(setup);
    check(setup.items, &done)?;
    match contender.left(setup) {
        0 => Ok(setup.items as f64 / took.as_secs_f64()),
        left => Err(format!("{left} of {} are left in the queue", setup.items)),
    }
}

/// Every item was completed, and by one worker, once.
fn check(items: u64, done: &[Vec<u64>]) -> Result<(), String> {
    let mut times = vec![0_u32; usize::try_from(items).expect("fits")];
    for item in done.iter().flatten() {
        let at = usize::try_from(*item).ok().and_then(|at| times.get_mut(at));
        *at.ok_or_else(|| format!("nobody put {item} there"))? += 1;
    }
    let wrong = times.iter().enumerate().filter(|(_, times)| **times != 1);
    let first: Vec<String> = wrong.clone().take(3).map(|(item, times)| format!("{item} {times} times")).collect();
    if first.is_empty() { Ok(()) } else { Err(format!("{} items: {}, ...", wrong.count(), first.join(", "))) }
}
