//! Histograms of times: fixed memory, counted without a lock, read as a snapshot.
//!
//! Values fall into buckets that are log-linear: each power of two is cut into `R` equal parts, `R` being the resolution.
//! So the value `v` with `2^e <= v < 2^(e+1)` falls into a bucket of width `2^e / R`, and the bucket's middle is off by at
//! most half a width: the relative error of a quantile is at most `1 / (2 R)`. Values below `2 R` are exact.

use serde::Serialize;

use crate::sync::{AtomicU32, AtomicU64, Counter, Ordering};

/// Values from `2^TOP` on share the last bucket of a fine histogram: 2^40 ns are 18 minutes, 2^40 ms are 34 years.
const FINE_TOP: u32 = 40;
/// As a power of two: a resolution of 8.
const FINE: u32 = 3;
/// 2^31 ms are 24 days.
const COARSE_TOP: u32 = 31;
/// A resolution of 4.
const COARSE: u32 = 2;

/// A bucket's count.
pub(crate) trait Tally: Default {
    fn add(&self, n: u32);
    fn value(&self) -> u64;
}

impl Tally for Counter {
    fn add(&self, n: u32) {
        Counter::add(self, u64::from(n));
    }

    fn value(&self) -> u64 {
        Counter::value(self)
    }
}

impl Tally for AtomicU32 {
    fn add(&self, n: u32) {
        // ordering: Relaxed; a statistic, nobody acts on it.
        self.fetch_add(n, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        // ordering: Relaxed; as above.
        u64::from(self.load(Ordering::Relaxed))
    }
}

/// Counts of values, with a resolution of `2^BITS` up to `2^TOP`.
#[derive(Debug)]
pub(crate) struct Histogram<T, const BITS: u32, const TOP: u32> {
    counts: Box<[T]>,
    sum: Counter,
    least: AtomicU64,
    most: AtomicU64,
}

/// For a service: quantiles within 1/16; 2.4 KiB.
pub(crate) type Fine = Histogram<Counter, FINE, FINE_TOP>;
/// For a seat: quantiles within 1/8; half a KiB.
pub(crate) type Coarse = Histogram<AtomicU32, COARSE, COARSE_TOP>;

impl<T: Tally, const BITS: u32, const TOP: u32> Default for Histogram<T, BITS, TOP> {
    fn default() -> Self {
        Self {
            counts: (0..Self::BUCKETS).map(|_| T::default()).collect(),
            sum: Counter::default(),
            least: AtomicU64::new(u64::MAX),
            most: AtomicU64::new(0),
        }
    }
}

impl<T: Tally, const BITS: u32, const TOP: u32> Histogram<T, BITS, TOP> {
    const BUCKETS: usize = ((TOP - BITS + 1) as usize) << BITS;

    /// The bucket of a value: below `2^BITS` the value itself; above it the exponent, then the bits that follow the first.
    fn bucket(value: u64) -> usize {
        let exponent = value.checked_ilog2().unwrap_or(0);
        if exponent < BITS {
            return usize::try_from(value).unwrap_or(0);
        }
        let part = (value >> (exponent - BITS)) & ((1 << BITS) - 1);
        let bucket = (u64::from(exponent - BITS + 1) << BITS) | part;
        usize::try_from(bucket).map_or(Self::BUCKETS - 1, |bucket| bucket.min(Self::BUCKETS - 1))
    }

    /// The least value of a bucket, and how many values fall into it.
    fn span(bucket: usize) -> (u64, u64) {
        let row = u32::try_from(bucket >> BITS).unwrap_or(0);
        if row == 0 {
            return (bucket as u64, 1);
        }
        let part = (bucket & ((1 << BITS) - 1)) as u64;
        (((1 << BITS) | part) << (row - 1), 1 << (row - 1))
    }

    /// Counts a value. Wait-free; three relaxed adds at most.
    pub(crate) fn record(&self, value: u64) {
        self.record_many(value, 1);
    }

    /// Counts a value `n` times.
    pub(crate) fn record_many(&self, value: u64, n: u32) {
        if n == 0 {
            return;
        }
        if let Some(count) = self.counts.get(Self::bucket(value)) {
            count.add(n);
        }
        self.sum.add(value.saturating_mul(u64::from(n)));
        // ordering: Relaxed, all; statistics. The loads spare writes to a shared line.
        if value < self.least.load(Ordering::Relaxed) {
            self.least.fetch_min(value, Ordering::Relaxed);
        }
        if value > self.most.load(Ordering::Relaxed) {
            self.most.fetch_max(value, Ordering::Relaxed);
        }
    }

    /// What was counted so far. Not a moment in time: values counted meanwhile may be in it in part.
    pub(crate) fn snapshot(&self) -> Distribution {
        let mut filled = Vec::new();
        let mut count = 0;
        // ordering: Relaxed, both; statistics. Values come between these two: most histograms are empty, or all in a few buckets.
        let (least, most) = (self.least.load(Ordering::Relaxed), self.most.load(Ordering::Relaxed));
        let (first, past) = if least > most { (0, 0) } else { (Self::bucket(least), Self::bucket(most) + 1) };
        for (bucket, tally) in self.counts.iter().enumerate().take(past).skip(first) {
            let n = tally.value();
            if n > 0 {
                let (from, width) = Self::span(bucket);
                filled.push(Bucket { from, width, count: n });
                count += n;
            }
        }
        if count == 0 {
            return Distribution { resolution: 1 << BITS, ..Distribution::default() };
        }
        let mut shown = Distribution {
            count,
            sum: self.sum.value(),
            min: least.min(most),
            max: most,
            resolution: 1 << BITS,
            buckets: filled,
            ..Distribution::default()
        };
        [shown.p50, shown.p90, shown.p99] = [0.5, 0.9, 0.99].map(|q| shown.quantile(q).unwrap_or(0));
        shown
    }
}

/// How measured values are distributed. The unit stands at the end of the name of the field that holds this.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Distribution {
    /// How many values were measured.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// The least of them, exactly; 0 if there are none.
    pub min: u64,
    /// The greatest of them, exactly; 0 if there are none.
    pub max: u64,
    /// The median. As [`quantile`](Self::quantile); 0 if there are no values.
    pub p50: u64,
    /// Nine tenths of the values are at most this.
    pub p90: u64,
    /// 99 of 100 values are at most this.
    pub p99: u64,
    /// Buckets that each power of two is cut into: quantiles are off by at most one part in twice so many.
    pub resolution: u32,
    /// The buckets that are not empty, ascending.
    pub buckets: Vec<Bucket>,
}

/// Values that were counted together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Bucket {
    /// The least of them.
    pub from: u64,
    /// How many different values there are. (The last bucket holds whatever lies beyond it, too.)
    pub width: u64,
    /// How many were counted.
    pub count: u64,
}

impl Distribution {
    /// The arithmetic mean, exactly; `None` if there are no values.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a mean for people to read")]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }

    /// The value that the part `q` of all values does not exceed; `None` if there are no values. `q` is held within 0 and 1.
    ///
    /// It is the middle of the bucket in which the value lies, so it is off by at most `1 / (2 * resolution)` of the value;
    /// values below twice the resolution are exact. Values beyond the histogram's range (18 minutes in ns, 34 years in ms;
    /// 24 days in ms for a seat) are all taken for the greatest.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank, rounded; clamped to the count"
    )]
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let rank = ((self.count as f64 * q.clamp(0.0, 1.0)).ceil() as u64).clamp(1, self.count.max(1));
        let mut below = 0;
        let (last, rest) = self.buckets.split_last()?;
        for bucket in rest {
            below += bucket.count;
            if below >= rank {
                return Some((bucket.from + bucket.width / 2).clamp(self.min, self.max));
            }
        }
        let beyond = self.max >= last.from + last.width;
        let middle = if beyond { self.max } else { last.from + last.width / 2 };
        Some(middle.clamp(self.min, self.max))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Coarse, Fine, Histogram, Tally};
    use crate::sync::{Counter, Ordering};

    #[test]
    fn nothing_measured_has_no_mean_and_no_quantile() {
        let shown = Fine::default().snapshot();
        assert_eq!((shown.count, shown.min, shown.max, shown.p99, shown.resolution), (0, 0, 0, 0, 8));
        assert_eq!((shown.mean(), shown.quantile(0.5)), (None, None));
    }

    #[test]
    fn small_values_are_exact() {
        let fine = Fine::default();
        (0..16).for_each(|value| fine.record(value));
        let shown = fine.snapshot();
        assert_eq!(shown.buckets.len(), 16);
        for value in 0..16_u32 {
            let q = f64::from(value + 1) / 16.0;
            assert_eq!(shown.quantile(q), Some(u64::from(value)), "at {q}");
        }
        assert_eq!((shown.min, shown.max, shown.mean()), (0, 15, Some(7.5)));
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        fn check<T: Tally, const BITS: u32, const TOP: u32>() {
            let mut next = 0;
            for bucket in 0..Histogram::<T, BITS, TOP>::BUCKETS {
                let (from, width) = Histogram::<T, BITS, TOP>::span(bucket);
                assert_eq!(from, next, "bucket {bucket}");
                for value in [from, from + width / 2, from + width - 1] {
                    assert_eq!(Histogram::<T, BITS, TOP>::bucket(value), bucket, "value {value}");
                }
                next = from + width;
            }
            assert_eq!(next, 1 << TOP, "the last bucket ends at the top");
        }
        check::<Counter, 3, 40>();
        check::<crate::sync::AtomicU32, 2, 31>();
    }

    #[test]
    fn values_beyond_the_top_are_counted_and_the_greatest_is_exact() {
        let coarse = Coarse::default();
        for value in [1, 1 << 31, u64::MAX / 4] {
            coarse.record(value);
        }
        let shown = coarse.snapshot();
        assert_eq!((shown.count, shown.max, shown.quantile(1.0)), (3, u64::MAX / 4, Some(u64::MAX / 4)));
    }

    #[test]
    fn counting_many_at_once_is_counting_each() {
        let (one, many) = (Fine::default(), Fine::default());
        (0..5).for_each(|_| one.record(70));
        many.record_many(70, 5);
        many.record_many(9, 0);
        assert_eq!(one.snapshot(), many.snapshot());
    }

    #[test]
    fn many_threads_lose_no_value() {
        let fine = Fine::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let fine = &fine;
                scope.spawn(move || (0..10_000).for_each(|value| fine.record(value * 4 + thread)));
            }
        });
        let shown = fine.snapshot();
        assert_eq!((shown.count, shown.min, shown.max, shown.sum), (40_000, 0, 39_999, 40_000 * 39_999 / 2));
    }

    #[test]
    fn histograms_take_the_memory_they_say() {
        fn bytes<T, const BITS: u32, const TOP: u32>(histogram: &Histogram<T, BITS, TOP>) -> usize {
            size_of_val(histogram) + size_of_val(&*histogram.counts)
        }
        assert!(bytes(&Fine::default()) <= 2_500, "{}", bytes(&Fine::default()));
        assert!(bytes(&Coarse::default()) <= 560, "{}", bytes(&Coarse::default()));
        // ordering: Relaxed; one thread.
        assert_eq!(Coarse::default().most.load(Ordering::Relaxed), 0);
    }

    proptest! {
        /// The error of a quantile is within what the documentation says, against the values sorted.
        #[test]
        fn quantiles_are_within_their_error(
            mut values in prop::collection::vec(prop_oneof![0..100_u64, 0..1_000_000_u64, 0..(1_u64 << 39)], 1..200),
            q in 0.0..=1.0_f64,
        ) {
            let fine = Fine::default();
            for value in &values {
                fine.record(*value);
            }
            values.sort_unstable();
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
            let rank = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len());
            let (exact, shown) = (values[rank - 1], fine.snapshot());
            let told = shown.quantile(q).unwrap();
            prop_assert!(told.abs_diff(exact) * 16 <= exact, "{told} for {exact}");
            prop_assert_eq!((shown.min, shown.max), (values[0], *values.last().unwrap()));
        }
    }
}
