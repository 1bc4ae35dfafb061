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
}

/// The machine's clocks.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
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

impl HubClock {
    /// Goes on from `resume_at`, the hub time last seen in the journal.
    pub(crate) fn new(clock: Arc<dyn Clock>, resume_at: u64) -> Self {
        let opened = millis(clock.monotonic());
        Self { clock, opened, resume_at }
    }

    pub(crate) fn now(&self) -> u64 {
        // A clock that goes back, against its contract, stands still.
        self.resume_at.saturating_add(millis(self.clock.monotonic()).saturating_sub(self.opened))
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
