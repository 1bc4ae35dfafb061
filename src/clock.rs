//! Time: read here and nowhere else, so that a test can bring its own.

use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};

use crate::journal::GroupTime;
use crate::sync::{Arc, AtomicI64, AtomicU64, Ordering};

/// A source of time. Deadlines use the monotonic reading, history the wall reading; neither is ever derived from the other.
pub trait Clock: Send + Sync + Debug + 'static {
    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
    /// Milliseconds since 1970-01-01 UTC; may jump.
    fn wall_ms(&self) -> i64;
    /// As [`monotonic`](Self::monotonic), in milliseconds, but may be ahead of it by a few: for the moment of a claim, whose lease
    /// of a second or more may last as much longer; and for the time that clients take, of which both ends are read so. Never goes
    /// back. The default is the exact reading.
    fn coarse_ms(&self) -> u64 {
        millis(self.monotonic())
    }
}

/// The machine's clocks.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Instant,
    #[cfg(target_os = "linux")]
    ticks: Ticks,
}

impl Default for SystemClock {
    fn default() -> Self {
        // The ticks' start first: a thread that stops in between makes the coarse reading run ahead for ever, not behind.
        #[cfg(target_os = "linux")]
        let ticks = Ticks::new();
        Self {
            start: Instant::now(),
            #[cfg(target_os = "linux")]
            ticks,
        }
    }
}

/// The reading that the system renews with each of its ticks: no counter of the processor is read, which takes most of the
/// time of an exact one.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy)]
struct Ticks {
    /// A tick before the start, ms: so the reading is not behind, and no lease ends early, but by as much as the machine's
    /// ticks are late.
    start: u64,
}

#[cfg(target_os = "linux")]
impl Ticks {
    fn new() -> Self {
        use rustix::time::{ClockId, clock_getres, clock_gettime};
        let tick = ms_of(clock_getres(ClockId::MonotonicCoarse)) + 1;
        Self { start: ms_of(clock_gettime(ClockId::Monotonic)).saturating_sub(tick) }
    }

    fn elapsed_ms(self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        ms_of(now).saturating_sub(self.start)
    }
}

#[cfg(target_os = "linux")]
fn ms_of(time: rustix::time::Timespec) -> u64 {
    // A monotonic clock shows nothing below 0.
    let whole = |part: i64| u64::try_from(part).unwrap_or(0);
    whole(time.tv_sec).saturating_mul(1_000).saturating_add(whole(time.tv_nsec) / 1_000_000)
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    #[cfg(target_os = "linux")]
    fn coarse_ms(&self) -> u64 {
        self.ticks.elapsed_ms()
    }

    fn wall_ms(&self) -> i64 {
        let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => ms(since),
            Err(before) => -ms(before.duration()),
        }
    }
}

/// A clock that moves when told to. Cloning clones the handle: all clones show the same time.
///
/// ```
/// use std::time::Duration;
/// use commissary::{Clock, ManualClock};
///
/// let clock = ManualClock::default();
/// let shared = clock.clone();
/// clock.advance(Duration::from_secs(5));
/// assert_eq!(shared.monotonic(), Duration::from_secs(5));
/// ```
#[derive(Debug, Clone, Default)]
pub struct ManualClock {
    monotonic_ms: Arc<AtomicU64>,
    wall_ms: Arc<AtomicI64>,
}

impl ManualClock {
    /// Moves both readings forward.
    pub fn advance(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        // ordering: Relaxed; a test's clock, read as a number.
        let _ = self.monotonic_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| Some(at.saturating_add(ms)));
        let ms = i64::try_from(ms).unwrap_or(i64::MAX);
        let _ = self.wall_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| Some(at.saturating_add(ms)));
    }

    /// Sets the wall reading alone, as an administrator or a time server might.
    pub fn set_wall_ms(&self, wall_ms: i64) {
        // ordering: Relaxed; see `advance`.
        self.wall_ms.store(wall_ms, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        // ordering: Relaxed; see `advance`.
        Duration::from_millis(self.monotonic_ms.load(Ordering::Relaxed))
    }

    fn wall_ms(&self) -> i64 {
        // ordering: Relaxed; see `advance`.
        self.wall_ms.load(Ordering::Relaxed)
    }
}

/// The hub's own time: ms during which the hub was open, since its journal began. It stands still while the hub is
/// closed, so time down never counts against a lease.
#[derive(Debug)]
pub(crate) struct HubClock {
    clock: Arc<dyn Clock>,
    /// The clock's reading when the hub was opened, ms.
    opened: u64,
    /// Hub time then.
    resume_at: u64,
}

/// Where the hub's clock stands still, ms, some hundred million years on. A journal that speaks of a later time is corrupt.
pub(crate) const HUB_MS_MAX: u64 = 1 << 62;

impl HubClock {
    /// Goes on from `resume_at`, the hub time last seen in the journal.
    pub(crate) fn new(clock: Arc<dyn Clock>, resume_at: u64) -> Self {
        let opened = millis(clock.monotonic());
        Self { clock, opened, resume_at }
    }

    pub(crate) fn now(&self) -> u64 {
        self.at(millis(self.clock.monotonic()))
    }

    /// The moment of a claim: as [`now`](Self::now), or a few milliseconds later. A time of some ms must not be told by one
    /// of each.
    pub(crate) fn about_now(&self) -> u64 {
        self.at(self.clock.coarse_ms())
    }

    /// Hub time at a reading, ms.
    fn at(&self, reading: u64) -> u64 {
        // A clock that goes back, against its contract, puts deadlines off by as much; behind the opening it stands still.
        self.resume_at.saturating_add(reading.saturating_sub(self.opened)).min(HUB_MS_MAX)
    }

    pub(crate) fn wall_ms(&self) -> i64 {
        self.clock.wall_ms()
    }

    /// Both readings, for what is journaled now.
    pub(crate) fn stamp(&self) -> GroupTime {
        GroupTime { hub_ms: self.now(), wall_ms: self.wall_ms() }
    }

    /// What the wall clock will show, or showed, at a hub time, if neither jumps.
    pub(crate) fn wall_at(&self, hub_ms: u64) -> i64 {
        let ahead = i128::from(hub_ms) - i128::from(self.now());
        i64::try_from(i128::from(self.wall_ms()) + ahead).unwrap_or(i64::MAX)
    }

    /// The monotonic reading, for the time that a call takes.
    pub(crate) fn nanos(&self) -> u64 {
        let reading = self.clock.monotonic();
        reading.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(reading.subsec_nanos()))
    }
}

/// The machine's moment at which a parked thread gives up; `None` if that is out of range. Only for parking: nothing of
/// the hub's state depends on it.
pub(crate) fn deadline(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

/// Whole milliseconds, saturating.
pub(crate) fn millis(duration: Duration) -> u64 {
    // Not `as_millis`, whose 128 bits a claim would pay for.
    duration.as_secs().saturating_mul(1_000).saturating_add(u64::from(duration.subsec_millis()))
}

/// A pause that doubled so many times, saturating.
pub(crate) fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX))
}

/// Wall milliseconds as the surface shows them; the epoch if they are out of chrono's range.
pub(crate) fn utc(wall_ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(wall_ms).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coarse_reading_is_not_behind_the_exact_one_and_near_it() {
        let clock = SystemClock::default();
        let mut last = 0;
        // A machine that is busy elsewhere may stop us, or its own ticks: one of many readings is enough.
        let near = (0..1_000_000).any(|reading| {
            if reading % 1_000 == 0 {
                std::thread::yield_now();
            }
            let (before, coarse, after) = (millis(clock.monotonic()), clock.coarse_ms(), millis(clock.monotonic()));
            assert!(coarse >= last, "it never goes back");
            assert!(coarse <= after + 20, "{coarse} ms is ahead of {after} ms");
            last = coarse;
            (before..=before + 12).contains(&coarse)
        });
        assert!(near);
    }

    #[test]
    fn another_clock_is_read_exactly() {
        let clock = ManualClock::default();
        let hub = HubClock::new(Arc::new(clock.clone()), 70);
        clock.advance(Duration::from_millis(7));
        assert_eq!((hub.now(), hub.about_now()), (77, 77));
    }
}
