//! How lanes are handled, and what was done.

use std::time::Duration;

use serde::Serialize;

use crate::client::Registration;
use crate::clock::doubled;
use crate::lane::LaneKey;

/// How a worker handles lanes.
#[derive(Debug, Clone)]
pub struct LaneOptions {
    /// The client that it works as. It must be nobody else's: what that client holds of the service is given back at the start.
    /// Default `None`: one whose id is made from the service's, with the highest bit set, and whose name begins with `lanes_`.
    pub client: Option<Registration>,
    /// Tries of one command, after which it is set aside; at least 1. Default 3. A try fails if the handler panics, if the service
    /// rejects its report, or if that or the state after it cannot be stored.
    ///
    /// The commands before it are reported. Its lane waits, and no other lane does: the worker keeps the lane's lease. Set aside,
    /// it is not tried again until [`retry`](crate::LaneThreads::retry) or a restart (a subject of no lane, a restart); once it is
    /// [deleted](crate::ServiceHandle::delete), the lane goes on within half a [lease](crate::Policy::lease). As many lanes can
    /// wait as the client may have [leases](crate::Policy::leases_in_flight); then all do. A try that ends the process is not
    /// counted: the command is tried again with the next start.
    pub tries_max: u32,
    /// Time until a command is tried a second time; doubled with each further try. Default 1 s.
    pub backoff_first: Duration,
    /// The longest time between two tries; in no case longer than half a lease. Default 1 min.
    pub backoff_longest: Duration,
}

impl Default for LaneOptions {
    fn default() -> Self {
        Self {
            client: None,
            tries_max: 3,
            backoff_first: Duration::from_secs(1),
            backoff_longest: Duration::from_secs(60),
        }
    }
}

impl LaneOptions {
    /// After so many tries.
    pub(super) fn backoff(&self, tries: u32) -> Duration {
        doubled(self.backoff_first, tries.saturating_sub(1)).min(self.backoff_longest)
    }
}

/// What a step did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub enum LaneStep {
    /// A bucket was handled: so many commands were executed. What is left of it, if anything, was given back.
    Handled {
        /// Executed.
        commands: u32,
    },
    /// A command could not be executed; see [`FailedCommand`](super::FailedCommand).
    Failed {
        /// Its lane, which waits; `None` if it is of none.
        lane: Option<LaneKey>,
        /// Commands before it that were executed.
        commands: u32,
        /// How often it was tried.
        tries: u32,
        /// When it is tried again; `None`: it is set aside.
        after: Option<Duration>,
    },
    /// The lease was over before its commands were reported: they have no effect, and are handled again.
    Lost,
    /// Nothing is to be done for so long, unless something comes.
    Waiting(Duration),
    /// Nothing is to be done until something comes.
    Idle,
}

/// What was done since the worker was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LaneStats {
    /// Buckets that were handled, or tried.
    pub buckets: u64,
    /// Commands executed: their reports were taken.
    pub commands: u64,
    /// Commands passed over because their deadlines had passed.
    pub expired: u64,
    /// Tries that failed.
    pub failures: u64,
    /// Buckets whose lease was over before their commands were reported.
    pub lost: u64,
    /// Commands that are to be tried again.
    pub failing: usize,
    /// Commands that were set aside.
    pub set_aside: usize,
}
