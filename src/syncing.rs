//! When a log that is synced at intervals is due.

use std::time::Duration;

use crate::clock::millis;
use crate::journal::Log;
use crate::ticket::Durability;

/// The interval of [`Durability::Every`], and when it was last kept.
#[derive(Debug)]
pub(crate) struct Syncing {
    /// ms; `None`: no interval.
    every: Option<u64>,
    /// Hub time of the last sync, ms.
    synced_at: u64,
}

impl Syncing {
    pub(crate) fn new(durability: Durability, now: u64) -> Self {
        let every = if let Durability::Every(every) = durability { Some(millis(every)) } else { None };
        Self { every, synced_at: now }
    }

    /// The log is being synced.
    pub(crate) fn note(&mut self, now: u64) {
        self.synced_at = now;
    }

    pub(crate) fn is_due(&self, log: &(impl Log + ?Sized), now: u64) -> bool {
        self.left(log, now).is_some_and(|left| left == 0)
    }

    /// How long the writer may sleep if nothing wakes it; `None`: for as long as it likes.
    pub(crate) fn sleep(&self, log: &(impl Log + ?Sized), now: u64) -> Option<Duration> {
        self.left(log, now).map(|left| Duration::from_millis(left.max(1)))
    }

    /// Milliseconds until the next sync, if something is to be synced.
    fn left(&self, log: &(impl Log + ?Sized), now: u64) -> Option<u64> {
        let due = self.synced_at.saturating_add(self.every?);
        (log.synced() < log.end()).then(|| due.saturating_sub(now))
    }
}
