//! Subjects that were not taken in: which, and by which limit.

use std::fmt;

use serde::Serialize;

use crate::lane::LaneKey;
use crate::sync::OnceLock;

/// A subject that was offered and not taken in. Nothing is known of it: it can be offered again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Refusal {
    /// Its place among the subjects of the call; the first is 0.
    pub place: u64,
    /// Why.
    pub reason: RefusalReason,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "subject {}: {}", self.place, self.reason)
    }
}

/// Why a subject was not taken in: the limit that it met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RefusalReason {
    /// Its lane owes as many subjects as it may. There is room as soon as one of them is reported.
    LaneFull {
        /// Which lane.
        lane: LaneKey,
        /// [`Policy::lane_subjects`](crate::Policy::lane_subjects), as it was then.
        limit: u64,
    },
    /// The service knows as many subjects as it may.
    Budget {
        /// [`Policy::max_subjects`](crate::Policy::max_subjects), as it was then.
        limit: u64,
    },
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LaneFull { lane, limit } => write!(f, "{lane:?} owes {limit} subjects (lane_subjects)"),
            Self::Budget { limit } => write!(f, "the service knows {limit} subjects (max_subjects)"),
        }
    }
}

/// What a ticket tells of refusals. Named at most once, by the storekeeper; whoever looks never waits.
#[derive(Debug, Default)]
pub(crate) struct Refusals(OnceLock<Vec<Refusal>>);

impl Refusals {
    pub(crate) fn name(&self, refused: Vec<Refusal>) {
        if !refused.is_empty() {
            let _ = self.0.set(refused);
        }
    }

    pub(crate) fn named(&self) -> &[Refusal] {
        self.0.get().map_or(&[], Vec::as_slice)
    }
}
