//! A small pool that goes before the ordinary ones, published when the one before it is exhausted. It alone holds what was
//! put back, and so what some claimers pass by (see `cooldown.rs`).

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

    /// Leases up to `n` buckets. Calls `exhausted` if there are no more, but for those passed by. Lock-free.
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
        if pool.is_spent() {
            self.close(pool);
            exhausted();
        } else if pool.is_exhausted() {
            // ordering: SeqCst; after the slot was set aside. A claimer that closes meanwhile either finds it in its second
            // look, or closed before this.
            self.open.store(true, Ordering::SeqCst);
            if got > 0 {
                exhausted();
            }
        }
        got
    }

    fn close(&self, spent: &Arc<Pool>) {
        // ordering: SeqCst, both; if the steward publishes another pool in between, or a claimer passes a slot by, the second
        // look sees it.
        self.open.store(false, Ordering::SeqCst);
        if self.pool.load().as_ref().is_some_and(|pool| !Arc::ptr_eq(pool, spent) || !pool.is_spent()) {
            self.open.store(true, Ordering::SeqCst);
        }
    }

    /// True if claims look at it at all.
    pub(crate) fn is_open(&self) -> bool {
        // ordering: SeqCst; a hint, as in `take`.
        self.open.load(Ordering::SeqCst)
    }

    /// True if it has a bucket for a claim of `seat` made now.
    pub(crate) fn has_for(&self, seat: u32, now: u64) -> bool {
        self.pool.load().as_ref().is_some_and(|pool| pool.has_for(seat, now))
    }

    /// When `seat` may have the first of the buckets that cool down for it; hub time, ms.
    pub(crate) fn cools_at(&self, seat: u32, now: u64) -> Option<u64> {
        self.pool.load().as_ref().and_then(|pool| pool.cools_at(seat, now))
    }

    /// True if a cooldown ended after `then`, and at `now` at the latest.
    pub(crate) fn has_cooled(&self, then: u64, now: u64) -> bool {
        self.pool.load().as_ref().is_some_and(|pool| pool.cooled_between(then, now))
    }

    /// When the first of its subjects began to wait, unless all of them were taken.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.pool.load().as_ref().filter(|pool| !pool.is_spent()).and_then(|pool| pool.oldest())
    }

    /// True if another pool may be published. The steward's alone.
    pub(crate) fn wants(&self) -> bool {
        let place = self.pool.load();
        if place.as_ref().is_some_and(|pool| !pool.is_spent()) {
            // ordering: SeqCst; see `close`. Puts right what a claimer that stopped in there left.
            self.open.store(true, Ordering::SeqCst);
        }
        place.as_ref().is_none_or(|pool| pool.is_exhausted())
    }

    /// The pool, if its claimers have left nothing but what some of them passed by.
    pub(crate) fn aside(&self) -> Option<Arc<Pool>> {
        self.pool.load_full().filter(|pool| pool.is_exhausted() && !pool.is_spent())
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
