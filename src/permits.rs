//! The bound on what waits to be written, in bytes. Taken before any state changes, so that a full queue is a clean
//! refusal and never a half-done submit.

use crate::sync::{AtomicU64, Ordering};

/// A counter of bytes in use.
#[derive(Debug)]
pub(crate) struct Permits {
    used: AtomicU64,
    limit: u64,
}

impl Permits {
    pub(crate) fn new(limit: u64) -> Self {
        Self { used: AtomicU64::new(0), limit }
    }

    /// Takes `bytes` if they fit below `most`, at most the limit. What alone exceeds it fits when nothing else is in use.
    /// Lock-free.
    #[must_use]
    pub(crate) fn take(&self, bytes: u64, most: u64) -> bool {
        let most = most.min(self.limit);
        // ordering: Relaxed; the count guards memory, it publishes nothing.
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            if used != 0 && used.saturating_add(bytes) > most {
                return false;
            }
            // ordering: Relaxed, both; see above.
            match self.used.compare_exchange_weak(used, used + bytes, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => used = now,
            }
        }
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        // ordering: Relaxed; see `take`.
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "gave back {bytes} of {before}");
    }

    pub(crate) fn used(&self) -> u64 {
        // ordering: Relaxed; a statistic, and the mark above which claims are turned away.
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }
}
