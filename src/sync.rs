//! Where the atomics and the parking of threads come from, and the named words made of one atomic.
//!
//! Every other file takes its atomics from here, and its locks. The model checkers compile `slot.rs`, `cursor.rs`, `stack.rs`,
//! `backlog.rs`, `permits.rs`, `signal.rs`, `run.rs`, `news.rs`, `standing.rs`, `contest.rs`, `lanes.rs`, `handlers/parking.rs`, `messages/queue.rs`
//! and `reservations/shelf.rs` with a `sync` module of their own (see `models/`).

use arc_swap::ArcSwap;

pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::Ordering;
#[cfg(not(test))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64};
#[cfg(not(test))]
pub(crate) use std::sync::{Mutex, OnceLock, RwLock, mpsc};
#[cfg(not(test))]
pub(crate) use std::thread::park_timeout;
pub(crate) use std::thread::{Thread, current as current_thread};

#[cfg(test)]
#[path = "locks_test.rs"]
pub(crate) mod locks;
#[cfg(test)]
pub(crate) use self::locks::{Mutex, OnceLock, RwLock, mpsc, park_timeout};

#[cfg(test)]
#[path = "pauses_test.rs"]
mod pauses;

#[cfg(test)]
#[path = "sync_test.rs"]
#[expect(dead_code, reason = "every atomic has every operation; not each is used")]
pub(crate) mod counted;
#[cfg(test)]
pub(crate) use self::counted::{AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64};

/// Waiting for an event. A lock inside.
pub(crate) mod event_listener {
    #[cfg(test)]
    pub(crate) use super::locks::Event;
    #[cfg(not(test))]
    pub(crate) use ::event_listener::Event;
    pub(crate) use ::event_listener::{EventListener, Listener};
}

/// A map of locked parts.
pub(crate) mod dashmap {
    #[cfg(test)]
    pub(crate) use super::locks::DashMap;
    #[cfg(not(test))]
    pub(crate) use ::dashmap::DashMap;
    pub(crate) use ::dashmap::mapref::entry::Entry;
}

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

/// A pointer to a value that is never changed, only replaced.
#[derive(Debug)]
pub(crate) struct Place<T>(ArcSwap<T>);

impl<T> Place<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(ArcSwap::from_pointee(value))
    }

    /// Wait-free.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.0.load())
    }

    /// Replaces the value by one made of it. Lock-free; `make` is called again if somebody else replaced it meanwhile.
    pub(crate) fn update(&self, mut make: impl FnMut(&T) -> T) {
        self.0.rcu(|now| make(now));
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
        // Most of what a call may count did not happen.
        if n > 0 {
            // ordering: Relaxed; a statistic, nobody acts on it.
            self.0.fetch_add(n, Ordering::Relaxed);
        }
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
