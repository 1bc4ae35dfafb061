//! What all of them have in common.

use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::work::{Load, Order, SENDERS, Spread, State};

/// Orders sent in one go, where one sends many.
pub(crate) const BATCH: usize = 1_024;

/// A way to execute orders, each key's in its order.
pub(crate) trait Contender: Sync {
    /// Sends orders one after the other; may come back before they are executed. On the sender's thread.
    fn send(&self, orders: &[Order]);

    /// Waits until so many were executed, as durably as the class says.
    fn settle(&self, orders: usize);

    /// Sends one order and waits until its effect is known. On the sender's thread.
    fn call(&self, order: Order);

    /// Each sender calls one order after the other until the time is over. What they saw, by sender.
    fn calls(&self, load: &Load, window: Duration) -> Vec<Vec<u64>> {
        let barrier = Barrier::new(SENDERS);
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for orders in &load.orders {
                let barrier = &barrier;
                threads.push(scope.spawn(move || {
                    barrier.wait();
                    call_in_turn(orders, window, |order| self.call(order))
                }));
            }
            threads.into_iter().map(|thread| thread.join().expect("nobody panicked")).collect()
        })
    }

    /// The state of every key; nothing is sent after it.
    fn states(self: Box<Self>) -> Vec<State>;
}

/// Nanoseconds from each call to its answer.
fn call_in_turn(orders: &[Order], window: Duration, mut call: impl FnMut(Order)) -> Vec<u64> {
    let began = Instant::now();
    let (mut took, mut now) = (Vec::with_capacity(orders.len()), began);
    for order in orders {
        call(*order);
        let answered = Instant::now();
        took.push(nanos(answered - now));
        now = answered;
        if now - began >= window {
            break;
        }
    }
    took
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What is opened for a run.
pub(crate) struct Setup<'a> {
    pub(crate) spread: Spread,
    pub(crate) stock: u64,
    /// An empty directory.
    pub(crate) directory: &'a Path,
}

/// A contender.
pub(crate) struct Kind {
    /// What an answer says.
    pub(crate) class: &'static str,
    pub(crate) name: &'static str,
    pub(crate) open: fn(&Setup<'_>) -> Box<dyn Contender>,
    /// Orders of one round of sending.
    pub(crate) orders: usize,
}

/// What one round came to.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    /// Orders a second, sent without waiting for each.
    pub(crate) rate: f64,
    /// From the call to its answer, microseconds, by senders that wait for each.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// One round; `Err` says what is not as it must be.
pub(crate) fn run(
    kind: &Kind,
    spread: Spread,
    place: &Path,
    window: Duration,
    orders: usize,
) -> Result<Figures, String> {
    let open = |load: &Load| {
        let directory = tempfile::tempdir_in(place).expect("a directory");
        let contender = (kind.open)(&Setup { spread, stock: load.stock, directory: directory.path() });
        (contender, directory)
    };

    let load = Load::new(spread, orders);
    let sent = load.all();
    let (contender, directory) = open(&load);
    let rate = send_all(contender.as_ref(), &load);
    load.check(&sent, &contender.states())?;
    drop(directory);

    let load = Load::new(spread, SENDERS * 50_000);
    let (contender, directory) = open(&load);
    let took = contender.calls(&load, window);
    let sent: Vec<usize> = took.iter().map(Vec::len).collect();
    load.check(&sent, &contender.states())?;
    drop(directory);

    let mut took: Vec<u64> = took.into_iter().flatten().collect();
    took.sort_unstable();
    let percentile = |percent: usize| took[(took.len() - 1) * percent / 100] as f64 / 1e3;
    Ok(Figures { rate, p50: percentile(50), p99: percentile(99) })
}

fn send_all(contender: &dyn Contender, load: &Load) -> f64 {
    let orders = load.all().iter().sum::<usize>();
    let began = Instant::now();
    thread::scope(|scope| {
        for orders in &load.orders {
            scope.spawn(|| contender.send(orders));
        }
    });
    contender.settle(orders);
    orders as f64 / began.elapsed().as_secs_f64()
}
