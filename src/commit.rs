//! What waits for the writer.

use crate::lane::Step;
use crate::pool::Pool;
use crate::record::{Keys, Record, SeatState};
use crate::retract::{RestoredPart, WithdrawnPart};
use crate::service::{Bounds, ServiceState};
use crate::slot::Mask;
use crate::sync::Arc;
use crate::ticket::Resolution;
use crate::watch::Level;

/// One change of state, applied in memory or decided, and to be journaled.
#[derive(Debug)]
pub(crate) enum Change {
    Service {
        service: u32,
        name: Arc<str>,
        state: ServiceState,
        bounds: Bounds,
    },
    Client {
        client: u64,
        name: Arc<str>,
        registered: bool,
    },
    Seat {
        service: u32,
        client: u64,
        state: SeatState,
    },
    Level {
        service: u32,
        client: u64,
        level: Level,
        why: Arc<String>,
    },
    /// A list of `SubjectRecord`.
    Added {
        service: u32,
        subjects: Vec<u8>,
    },
    /// A list of `KeyRecord`; of service 0: a decision for every service.
    Keys {
        service: u32,
        decision: Decision,
        keys: Vec<u8>,
    },
    Withdrawn(WithdrawnPart),
    Restored(RestoredPart),
    Urgent {
        service: u32,
        ranks: Vec<u64>,
    },
    Reported(Reports),
    Conflict(Reports),
}

/// What is to be done to subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Rerun,
    Mark,
    Delete,
}

impl Decision {
    pub(crate) fn record(self, keys: Keys<'_>) -> Record<'_> {
        match self {
            Self::Rerun => Record::Rerun(keys),
            Self::Mark => Record::Marked(keys),
            Self::Delete => Record::Deleted(keys),
        }
    }
}

/// Reports on one lease: a list of `Item`, of which those in `accepted` took effect.
#[derive(Debug)]
pub(crate) struct Reports {
    pub(crate) pool: Arc<Pool>,
    pub(crate) index: usize,
    pub(crate) client: u64,
    pub(crate) items: Vec<u8>,
    pub(crate) accepted: Mask,
    /// Those taken after the lease had expired.
    pub(crate) late: Mask,
    /// `accepted` holds every item: the list can be taken as it is.
    pub(crate) whole: bool,
    /// Of a lease that runs a lane: what it does to that.
    pub(crate) step: Option<Step>,
}

/// A change in the queue, with its caller's ticket.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) change: Change,
    /// Bytes reserved for it.
    pub(crate) permits: usize,
    pub(crate) resolution: Resolution,
}

impl Pending {
    /// What a change takes beside its payload, about.
    pub(crate) const OVERHEAD: usize = 256;

    pub(crate) fn new(change: Change, permits: usize) -> Self {
        Self { change, permits, resolution: Resolution::default() }
    }
}
