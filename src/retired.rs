//! What the steward has published and clients may hold: kept until nobody else does, so that it is the steward who frees it.
//! Else the client that drops the last hold of a pool would free megabytes in the middle of a claim, of memory that another
//! thread allocated: an allocator may take a lock for that. What is left to it are the empty counters, of some 200 bytes, by which a
//! thread remembers pools: it frees one a pool and service when it claims from the next.

use crate::current::Front;
use crate::pool::Pool;
use crate::sync::Arc;

/// One thing that was published.
#[derive(Debug)]
pub(crate) enum Retired {
    /// Holds a pool, too.
    Front(Arc<Front>),
    Pool(Arc<Pool>),
    /// A service's pools, as they were.
    Live(Arc<Vec<Arc<Pool>>>),
}

impl Retired {
    /// True if somebody else holds it. One that is published nowhere and held by nobody is not held again, but for a moment by a
    /// thread that claimed from it before and looks what is in its place.
    pub(crate) fn is_held(&self) -> bool {
        match self {
            Self::Front(front) => Arc::strong_count(front) > 1 || front.is_shared(),
            Self::Pool(pool) => Arc::strong_count(pool) > 1,
            Self::Live(pools) => Arc::strong_count(pools) > 1,
        }
    }
}
