//! How a projection is kept, and what opening it found.

use serde::Serialize;

/// What to do when the events that a reader needs next were dropped by a [compaction](crate::Compact).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AfterLag {
    /// Refuse, naming where the events begin.
    #[default]
    Refuse,
    /// Begin anew there: a projection with its default state, an outbox with the effects of what is left. The report says
    /// so.
    BeginThere,
}

/// How a projection is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectionOptions {
    /// Events folded between two saves. More are folded again after a crash; each save writes the whole state and syncs.
    /// 0: only [`Projected::save`](super::Projected::save) and the drop save. Default 10,000.
    pub save_every: u64,
    /// Events folded between two states that readers see, while it has not caught up; each is a clone. 0: none in between.
    /// Default 1,000.
    pub publish_every: u64,
    /// Whether it is saved when it is dropped. Default true.
    pub save_on_drop: bool,
    /// Default [`AfterLag::Refuse`].
    pub after_lag: AfterLag,
}

impl Default for ProjectionOptions {
    fn default() -> Self {
        Self { save_every: 10_000, publish_every: 1_000, save_on_drop: true, after_lag: AfterLag::Refuse }
    }
}

/// What opening a projection found, and what became of it since.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProjectionReport {
    /// From where on events are folded.
    pub resumed_at: u64,
    /// There was a saved state and it was not used, and why: the state is folded anew.
    pub rebuilt: Option<String>,
    /// Events before this position are gone, and the state begins there.
    pub lagged: Option<u64>,
}
