//! Where the atomics come from, and the named words made of one atomic.
//!
//! Every other file takes its atomics from here. The model checkers compile `slot.rs`, `cursor.rs`, `stack.rs` and
//! `permits.rs` with a `sync` module of their own (see `models/`).

pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use std::sync::OnceLock;
use std::thread::Thread;
use std::time::Duration;

/// Keeps a word that many threads write on a cache line of its own (two, as the prefetcher takes them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

impl<T> std::ops::Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A count that is only ever read as a statistic.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    pub(crate) fn add(&self, n: u64) {
        // ordering: Relaxed; a statistic, nobody acts on it.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts one more; returns the new value.
    pub(crate) fn next(&self) -> u64 {
        // ordering: Relaxed; a statistic, nobody acts on it.
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    pub(crate) fn set(&self, n: u64) {
        // ordering: Relaxed; a statistic, nobody acts on it.
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        // ordering: Relaxed; a statistic, nobody acts on it.
        self.0.load(Ordering::Relaxed)
    }
}

/// A rank below which everything has been made visible: set by the one who makes it so, read by who relies on it.
#[derive(Debug, Default)]
pub(crate) struct Watermark(AtomicU64);

impl Watermark {
    pub(crate) fn raise_to(&self, rank: u64) {
        // ordering: Release; pairs with the Acquire in `rank`, publishes what was written to the store before.
        self.0.store(rank, Ordering::Release);
    }

    pub(crate) fn rank(&self) -> u64 {
        // ordering: Acquire; pairs with the Release in `raise_to`.
        self.0.load(Ordering::Acquire)
    }
}

/// Wakes one caretaker thread. Raising it is a load while the caretaker is awake, a swap and at most one unpark otherwise.
///
/// Whoever makes work first publishes it (`SeqCst`), then raises; the caretaker first lowers, then looks for work. In the
/// single order of the four `SeqCst` operations either the raiser sees the signal lowered and raises it again, or the
/// caretaker sees the work. So no work waits for a wake-up that never comes.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: AtomicU32,
    thread: OnceLock<Thread>,
}

const LOWERED: u32 = 0;
const RAISED: u32 = 1;
const PARKED: u32 = 2;

impl Signal {
    /// Names the thread to be woken: the caller. Without one, raising only leaves a mark.
    pub(crate) fn adopt(&self) {
        let _ = self.thread.set(std::thread::current());
    }

    pub(crate) fn raise(&self) {
        // ordering: SeqCst, both; see the type's argument.
        if self.state.load(Ordering::SeqCst) == RAISED {
            return;
        }
        if self.state.swap(RAISED, Ordering::SeqCst) == PARKED
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Lowers the signal; the caretaker calls it before it looks for work.
    pub(crate) fn lower(&self) {
        // ordering: SeqCst; see the type's argument.
        self.state.swap(LOWERED, Ordering::SeqCst);
    }

    /// Parks the caretaker until the signal is raised or `timeout` has passed.
    pub(crate) fn wait(&self, timeout: Duration) {
        let parked = self
            .state
            // ordering: SeqCst; see the type's argument. A failure means it was raised meanwhile.
            .compare_exchange(LOWERED, PARKED, Ordering::SeqCst, Ordering::SeqCst);
        if parked.is_ok() {
            std::thread::park_timeout(timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_raised_before_the_wait_is_not_lost() {
        let signal = Signal::default();
        signal.adopt();
        signal.lower();
        signal.raise();
        // Would park for an hour if the raise had been lost.
        signal.wait(Duration::from_secs(3600));
    }
}
