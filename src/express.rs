//! A small pool that goes before the ordinary ones, published when the one before it is exhausted.

use arc_swap::ArcSwapOption;

use crate::pool::Pool;
use crate::sync::{Arc, AtomicBool, Ordering};

/// The place of one express queue's pool.
#[derive(Debug)]
pub(crate) struct Express {
    pool: ArcSwapOption<Pool>,
    /// A hint that spares claims the look at an empty place.
    open: AtomicBool,
}

impl Express {
    pub(crate) fn new() -> Self {
        Self { pool: ArcSwapOption::empty(), open: AtomicBool::new(false) }
    }

    /// Leases up to `n` buckets. Calls `exhausted` if there are no more. Lock-free.
    pub(crate) fn take(
        &self,
        n: usize,
        owner: u32,
        now: u64,
        took: &mut impl FnMut(&Arc<Pool>, usize),
        exhausted: impl FnOnce(),
    ) -> usize {
        // ordering: SeqCst; a hint, put right by the steward each round.
        if !self.open.load(Ordering::SeqCst) {
            return 0;
        }
        let place = self.pool.load();
        let Some(pool) = place.as_ref() else { return 0 };
        let got = pool.claim(n, owner, now, |index| took(pool, index));
        if pool.is_exhausted() {
            self.close(pool);
            exhausted();
        }
        got
    }

    fn close(&self, exhausted: &Arc<Pool>) {
        // ordering: SeqCst, both; if the steward publishes another pool in between, the second look sees it.
        self.open.store(false, Ordering::SeqCst);
        if self.pool.load().as_ref().is_some_and(|pool| !Arc::ptr_eq(pool, exhausted)) {
            self.open.store(true, Ordering::SeqCst);
        }
    }

    /// True if it has a bucket for the next claim.
    pub(crate) fn has_ready(&self) -> bool {
        self.pool.load().as_ref().is_some_and(|pool| !pool.is_exhausted())
    }

    /// True if another pool may be published. The steward's alone.
    pub(crate) fn wants(&self) -> bool {
        let open = self.has_ready();
        if open {
            // ordering: SeqCst; see `close`. Puts right what a claimer that stopped in there left.
            self.open.store(true, Ordering::SeqCst);
        }
        !open
    }

    /// Publishes a pool. The steward's alone.
    pub(crate) fn publish(&self, pool: Arc<Pool>) {
        self.pool.store(Some(pool));
        // ordering: SeqCst; see `close`.
        self.open.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is(&self, pool: &Arc<Pool>) -> bool {
        self.pool.load().as_ref().is_some_and(|other| Arc::ptr_eq(other, pool))
    }
}
