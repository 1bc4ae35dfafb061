//! The cursor of a pool: hands out each index once, by one addition.
//!
//! A large pool's indices lie in stripes, each with a count on a cache line of its own: claimers of different homes do not
//! wait for each other's line, and the slots that they take do not lie side by side. A pool's order is random anyhow.

use std::ops::Range;

use crate::sync::{AtomicU64, Ordering, Padded};

/// Where the next claims start.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// A power of two of them, one after the other, so many indices each.
    stripes: Box<[Padded<Stripe>]>,
    len: usize,
}

#[derive(Debug)]
struct Stripe {
    next: AtomicU64,
    indices: Range<usize>,
}

/// Stripes of a cursor, at most.
const STRIPES: usize = 8;
/// Indices of a stripe, at least: as many as one word of a pool's marks holds.
const STRIPE_LEN: usize = 64;

impl Cursor {
    /// Hands out the indices below `len`.
    pub(crate) fn new(len: usize) -> Self {
        let stripes = (len / STRIPE_LEN).clamp(1, STRIPES);
        // The greatest power of two among those.
        let stripes = 1 << stripes.ilog2();
        Self::striped(len, stripes, len.div_ceil(stripes).next_multiple_of(STRIPE_LEN))
    }

    /// In `stripes` (a power of two) of `each` indices; the last ones have what is left.
    pub(crate) fn striped(len: usize, stripes: usize, each: usize) -> Self {
        let indices = |stripe: usize| (stripe * each).min(len)..((stripe + 1) * each).min(len);
        let stripe = |indices: Range<usize>| Stripe { next: AtomicU64::new(indices.start as u64), indices };
        Self { stripes: (0..stripes).map(indices).map(stripe).map(Padded).collect(), len }
    }

    /// Has handed out all indices below `len`.
    pub(crate) fn at_end(len: usize) -> Self {
        let stripe = Stripe { next: AtomicU64::new(len as u64), indices: 0..len };
        Self { stripes: Box::new([Padded(stripe)]), len }
    }

    /// Up to `n` indices, from the stripe of `home` if it has any; each index is handed out to one caller. Empty only if all of
    /// them were handed out. Wait-free.
    pub(crate) fn take(&self, home: usize, n: usize) -> Range<usize> {
        let last = self.stripes.len() - 1;
        // No two homes look at the same stripe at the same step: who has emptied its own seldom follows another one.
        let stripes = (0..=last).filter_map(|step| self.stripes.get((home & last) ^ step));
        stripes.map(|stripe| stripe.take(n)).find(|range| !range.is_empty()).unwrap_or(0..0)
    }

    /// Every index that was handed out lies in one of these, and nothing else.
    pub(crate) fn passed(&self) -> impl Iterator<Item = Range<usize>> {
        self.stripes.iter().map(|stripe| stripe.indices.start..stripe.passed())
    }

    /// How many indices were handed out.
    pub(crate) fn count(&self) -> usize {
        self.passed().map(|range| range.len()).sum()
    }

    /// True if all indices were handed out.
    pub(crate) fn is_at_end(&self) -> bool {
        self.count() == self.len
    }
}

impl Stripe {
    fn take(&self, n: usize) -> Range<usize> {
        // A look first: a stripe at its end is not written any more.
        if self.passed() == self.indices.end {
            return 0..0;
        }
        // ordering: AcqRel would do for uniqueness; SeqCst so that the writer, which lowers its signal and then reads the
        // cursor, misses no claim whose raise it missed (see `Signal`).
        let start = self.index(self.next.fetch_add(n as u64, Ordering::SeqCst));
        start..start.saturating_add(n).min(self.indices.end)
    }

    fn passed(&self) -> usize {
        // ordering: SeqCst; see `take`.
        self.index(self.next.load(Ordering::SeqCst))
    }

    /// Whoever came last may have counted beyond the end.
    fn index(&self, next: u64) -> usize {
        usize::try_from(next).unwrap_or(usize::MAX).min(self.indices.end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every index, by `n` at a time from `home` on, and how many stripes they come from.
    fn all(len: usize, home: usize, n: usize) -> (Vec<usize>, usize) {
        let cursor = Cursor::new(len);
        let mut taken = Vec::new();
        loop {
            assert_eq!((cursor.count(), cursor.is_at_end()), (taken.len(), taken.len() == len));
            let range = cursor.take(home, n);
            if range.is_empty() {
                break;
            }
            assert!(range.len() <= n);
            taken.extend(range);
        }
        (taken, cursor.stripes.iter().filter(|stripe| !stripe.indices.is_empty()).count())
    }

    #[test]
    fn each_index_is_handed_out_once_whatever_the_home() {
        for (len, stripes) in [(0, 0), (1, 1), (127, 1), (128, 2), (600, 5), (10_000, 8)] {
            for (home, n) in [(0, 1), (3, 1), (7, 5), (usize::MAX, 1_000)] {
                let (mut taken, of) = all(len, home, n);
                assert_eq!(of, stripes, "{len} indices");
                taken.sort_unstable();
                assert!(taken.into_iter().eq(0..len));
            }
        }
    }

    #[test]
    fn homes_begin_apart_and_what_was_passed_is_told_by_stripe() {
        let cursor = Cursor::new(1_024);
        let first: Vec<usize> = (0..8).map(|home| cursor.take(home, 2).start).collect();
        assert_eq!(first, [0, 128, 256, 384, 512, 640, 768, 896]);
        assert!(cursor.passed().eq(first.into_iter().map(|start| start..start + 2)));
        assert_eq!(cursor.take(9, 1), 130..131, "homes come round");
    }

    #[test]
    fn two_or_four_homes_at_one_pace_stay_apart_to_the_end() {
        for homes in [2, 4] {
            let cursor = Cursor::new(1_024);
            let mut taken = 0;
            while taken < 1_024 {
                let indices: Vec<usize> = (0..homes).flat_map(|home| cursor.take(home, 1)).collect();
                let stripes: BTreeSet<usize> = indices.iter().map(|index| index / 128).collect();
                assert_eq!((indices.len(), stripes.len()), (homes, homes), "after {taken}");
                taken += homes;
            }
        }
    }

    #[test]
    fn one_at_its_end_hands_out_nothing() {
        let cursor = Cursor::at_end(5);
        assert!(cursor.take(0, 1).is_empty() && cursor.is_at_end());
        assert!(cursor.passed().eq(std::iter::once(0..5)));
    }
}
