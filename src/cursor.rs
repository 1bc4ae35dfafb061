//! The cursor of a pool: hands out each index once, by one `fetch_add`.

use std::ops::Range;

use crate::sync::{AtomicU64, Ordering};

/// Where the next claim starts.
#[derive(Debug, Default)]
pub(crate) struct Cursor(AtomicU64);

impl Cursor {
    pub(crate) fn new(at: usize) -> Self {
        Self(AtomicU64::new(at as u64))
    }

    /// The next up to `n` indices below `len`; each index is handed out to one caller. Wait-free.
    ///
    /// Does not look first whether any are left: under contention a look costs as much as the addition. So the count runs
    /// on beyond `len` while claims find nothing; it would take years of nothing else to come round.
    pub(crate) fn take(&self, n: usize, len: usize) -> Range<usize> {
        // ordering: AcqRel would do for uniqueness; SeqCst so that the writer, which lowers its signal and then reads the
        // cursor, misses no claim whose raise it missed (see `Signal`).
        let start = self.0.fetch_add(n as u64, Ordering::SeqCst);
        let start = usize::try_from(start).unwrap_or(len).min(len);
        start..start.saturating_add(n).min(len)
    }

    /// How many of `len` indices have been handed out.
    pub(crate) fn passed(&self, len: usize) -> usize {
        // ordering: SeqCst; see `take`.
        usize::try_from(self.0.load(Ordering::SeqCst)).unwrap_or(len).min(len)
    }
}
