//! How an outbox is kept, and what opening it found.

use std::time::Duration;

use serde::Serialize;

use crate::clock::doubled;
use crate::projection::AfterLag;

/// What to do with a bookmark of an outbox that cannot be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AfterDamage {
    /// Refuse, naming what is wrong.
    #[default]
    Refuse,
    /// Dispatch the effects of all events once more, each under the key that it had. What was set aside is tried again as
    /// well.
    BeginAnew,
}

/// How an outbox is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxOptions {
    /// Effects in memory at once: those that wait, and those dispatched while one before them waits. The effects of one
    /// event come together, and may be more. Default 1,024.
    pub window: usize,
    /// Tries of one effect, after which it is set aside; at least 1. Default 10.
    pub tries_max: u32,
    /// Time until an effect is tried a second time; doubled with each further try. Default 1 s.
    pub backoff_first: Duration,
    /// The longest time between two tries. Default 5 min.
    pub backoff_longest: Duration,
    /// Effects that may be dispatched before that is saved, and so are dispatched again after a crash; at least 1. It is
    /// saved as well whenever nothing is to be done. Default 64.
    pub save_every: u64,
    /// Effects that may be set aside; what would be one more is tried on. Default 1,024.
    pub letters_max: usize,
    /// Where a new outbox begins: a position, as [`Hub::follow`](crate::Hub::follow) takes it. Default 0: with the first
    /// event.
    pub begin_at: u64,
    /// Default [`AfterLag::Refuse`].
    pub after_lag: AfterLag,
    /// Default [`AfterDamage::Refuse`].
    pub after_damage: AfterDamage,
}

impl Default for OutboxOptions {
    fn default() -> Self {
        Self {
            window: 1_024,
            tries_max: 10,
            backoff_first: Duration::from_secs(1),
            backoff_longest: Duration::from_secs(300),
            save_every: 64,
            letters_max: 1_024,
            begin_at: 0,
            after_lag: AfterLag::Refuse,
            after_damage: AfterDamage::Refuse,
        }
    }
}

impl OutboxOptions {
    /// After so many tries.
    pub(super) fn backoff(&self, tries: u32) -> Duration {
        doubled(self.backoff_first, tries.saturating_sub(1)).min(self.backoff_longest)
    }
}

/// What opening an outbox found, and what became of it since.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OutboxReport {
    /// From where on events are read.
    pub resumed_at: u64,
    /// What was saved could not be used, and why; the outbox began anew.
    pub begun_anew: Option<String>,
    /// Events before this position are gone, and their effects with them.
    pub lagged: Option<u64>,
}
