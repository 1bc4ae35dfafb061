//! How fast the caretakers work: what tells those who are turned away when to come again.

use std::time::Duration;

use crate::sync::{AtomicU64, Counter, Ordering};

/// Bytes a second that writer and storekeeper are taken to manage until it has been measured.
const ASSUMED_RATE: u64 = 16 << 20;
/// A rate is published from so many milliseconds of work.
const WINDOW_MS: u64 = 100;
/// Nobody is told to come again sooner, or later (but for the spread).
const SOONEST_MS: u64 = 10;
const LATEST_MS: u64 = 10_000;

/// `base`, and a part of `window` that `random` chooses: evenly spread for who calls it with random numbers.
pub(crate) fn spread(base: Duration, window: Duration, random: u64) -> Duration {
    let micros = u64::try_from(window.as_micros()).unwrap_or(u64::MAX).min(u64::from(u32::MAX));
    base.saturating_add(Duration::from_micros((micros * (random >> 32)) >> 32))
}

/// How fast the queue is emptied: journaled and applied. One word each; read when somebody is turned away.
#[derive(Debug, Default)]
pub(crate) struct Outflow {
    /// Bytes a second, 0 until it is measured.
    rate: AtomicU64,
    /// Hub time, ms, of the first refusal since the queue was last empty; 0: none.
    full_since: AtomicU64,
    /// Refusals.
    turned_away: Counter,
}

impl Outflow {
    /// Counts a refusal; returns which one it is.
    pub(crate) fn turn_away(&self, now: u64) -> u64 {
        // ordering: Relaxed, all here; a measurement. A failure means that somebody was turned away before.
        let _ = self.full_since.compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
        self.turned_away.next()
    }

    /// The time in which `queued` bytes will be gone.
    pub(crate) fn time_for(&self, queued: u64) -> Duration {
        // ordering: Relaxed; a measurement.
        let rate = match self.rate.load(Ordering::Relaxed) {
            0 => ASSUMED_RATE,
            rate => rate,
        };
        Duration::from_millis((queued.saturating_mul(1_000) / rate).clamp(SOONEST_MS, LATEST_MS))
    }

    /// The mean of what was known and what was measured now.
    fn publish(&self, rate: u64) {
        // ordering: Relaxed, both; a measurement, written by the storekeeper alone.
        let known = self.rate.load(Ordering::Relaxed);
        let mean = if known == 0 { rate } else { known / 2 + rate / 2 };
        self.rate.store(mean.max(1), Ordering::Relaxed);
    }
}

/// The measurement: what is taken out of the queue in the time in which something waits there.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    /// Hub time, ms, since when it works; `None`: the queue is empty.
    since: Option<u64>,
    /// Taken out since then.
    fresh: u64,
    /// Taken out before, and the time that it took.
    bytes: u64,
    ms: u64,
}

impl Gauge {
    /// There is work, since `now` at the latest. A hub without threads works from when the first was turned away.
    pub(crate) fn begin(&mut self, outflow: &Outflow, now: u64) {
        // ordering: Relaxed; a measurement.
        let full_since = outflow.full_since.load(Ordering::Relaxed);
        let began = if full_since == 0 { now } else { full_since.min(now) };
        self.since.get_or_insert(began);
    }

    /// `bytes` were taken out of the queue, which is `empty` now, or not.
    pub(crate) fn note(&mut self, outflow: &Outflow, bytes: u64, empty: bool, now: u64) {
        let Some(since) = self.since else { return };
        self.fresh += bytes;
        if now > since {
            self.bytes += std::mem::take(&mut self.fresh);
            self.ms += now - since;
            self.since = Some(now);
        }
        if self.ms >= WINDOW_MS {
            outflow.publish(self.bytes.saturating_mul(1_000) / self.ms);
            (self.bytes, self.ms) = (0, 0);
        }
        if empty {
            // What took less than a millisecond tells nothing.
            (self.since, self.fresh) = (None, 0);
            // ordering: Relaxed; a measurement.
            outflow.full_since.store(0, Ordering::Relaxed);
        }
    }
}

/// How long those who find no bucket wait until one is formed.
#[derive(Debug, Default)]
pub(crate) struct Forming {
    /// Hub time, ms, since when somebody waits; 0: nobody does.
    waiting_since: AtomicU64,
    /// What it took of late, ms; 0 until it is measured.
    took: AtomicU64,
}

impl Forming {
    /// Somebody found no bucket although subjects wait.
    pub(crate) fn wait(&self, now: u64) {
        // ordering: Relaxed, both; a measurement. A failure means that somebody waits already.
        let _ = self.waiting_since.compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// A pool is there. The steward's alone.
    pub(crate) fn formed(&self, now: u64) {
        // ordering: Relaxed, all; a measurement.
        let since = self.waiting_since.swap(0, Ordering::Relaxed);
        if since != 0 {
            let known = self.took.load(Ordering::Relaxed);
            let took = now.saturating_sub(since).max(1);
            self.took.store(if known == 0 { took } else { (known + took).div_ceil(2) }, Ordering::Relaxed);
        }
    }

    /// The time until there is a bucket again, or `assumed` if it was never measured.
    pub(crate) fn time(&self, assumed: Duration) -> Duration {
        // ordering: Relaxed; a measurement.
        match self.took.load(Ordering::Relaxed) {
            0 => assumed,
            took => Duration::from_millis(took.clamp(SOONEST_MS, LATEST_MS)).max(assumed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_told_follows_the_queue_and_the_measured_rate() {
        let (outflow, mut gauge) = (Outflow::default(), Gauge::default());
        assert_eq!(outflow.time_for(16 << 20), Duration::from_secs(1), "as assumed");
        gauge.begin(&outflow, 1_000);
        gauge.note(&outflow, 60_000, false, 1_060);
        assert_eq!(outflow.time_for(16 << 20), Duration::from_secs(1), "too little work to tell");
        gauge.note(&outflow, 140_000, false, 1_200);
        // 200,000 bytes in 200 ms.
        assert_eq!(outflow.time_for(500_000), Duration::from_millis(500));
        assert_eq!(outflow.time_for(0), Duration::from_millis(SOONEST_MS));
        assert_eq!(outflow.time_for(u64::MAX), Duration::from_millis(LATEST_MS));
        gauge.note(&outflow, 300_000, true, 1_300);
        assert_eq!(outflow.time_for(500_000), Duration::from_millis(250), "the mean of 1 and 3 MB/s");
    }

    #[test]
    fn rest_does_not_count_as_work() {
        let (outflow, mut gauge) = (Outflow::default(), Gauge::default());
        for start in [0, 3_600_000, 7_200_000] {
            gauge.begin(&outflow, start);
            gauge.note(&outflow, 40_000, true, start + 40);
            // Within a millisecond: tells nothing.
            gauge.begin(&outflow, start + 50);
            gauge.note(&outflow, 1_000_000, true, start + 50);
        }
        assert_eq!(outflow.time_for(1_000_000), Duration::from_secs(1));
    }

    #[test]
    fn the_spread_is_even_and_stays_in_its_window() {
        let (base, window) = (Duration::from_millis(10), Duration::from_secs(10));
        assert_eq!(spread(base, window, 0), base);
        assert_eq!(spread(base, window, 1 << 63), base + window / 2);
        assert!(spread(base, window, u64::MAX) < base + window);
        assert_eq!(spread(Duration::MAX, window, u64::MAX), Duration::MAX);
    }
}
