//! The plugin trait and its contract; the containment of its panics.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::ClientId;
use crate::lane::LaneKey;
use crate::limits::Limits;
use crate::watch::Watch;

/// One kind of work: what its subjects and reports are, and what makes a report acceptable.
///
/// This is the whole plugin interface; a service is a value of your own type, shared between threads.
///
/// # Contract
///
/// The hub calls these methods with nothing locked, pinned or borrowed: they may call back into the hub. (The methods of
/// [`Subject`] and [`Key`] must not: they run on the hub's own threads, too.) A plugin must not block for
/// long, since whoever submits waits for it, and must not keep state that changes its answers: the hub may be closed
/// between any two calls, and a report may be judged again after a client's retry.
///
/// A panic in any method is caught. The call answers as described there, the panic is counted, and after
/// [`Policy::panics_tolerated`] of them the service is [`ServiceState::Degraded`]: it hands out nothing until an
/// administrator activates it again. Other services are unaffected.
///
/// [`contract`](crate::contract) holds a test suite for implementations.
pub trait Service: Send + Sync + 'static {
    /// What is worked on.
    type Subject: Subject;
    /// What a client says about one subject.
    type Report: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The service's lasting name: 1 to 64 of `a-z A-Z 0-9 - _ .`.
    ///
    /// Called once, on the thread that registers. It must always be the same: stored work is found by it.
    fn id(&self) -> &str;

    /// The settings to start with.
    ///
    /// Called once, on the thread that registers. They can be changed later with
    /// [`ServiceHandle::set_policy`](crate::ServiceHandle::set_policy).
    fn policy(&self) -> Policy;

    /// Says whether one report is acceptable.
    ///
    /// Called on the submitting client's thread, once for each report of each submit whose subject is still owed, before
    /// anything is stored; also for reports that lose a race afterwards. It must not assume that an accepted report is
    /// stored. A panic counts as [`Verdict::Reject`].
    fn judge(&self, subject: &Self::Subject, report: &Self::Report, reporter: Reporter) -> Verdict;

    /// Names subjects that an accepted report reveals. The default reveals nothing.
    ///
    /// Called on the submitting client's thread, right after an accepting [`judge`](Self::judge). What it names enters this
    /// service once, if it is new and within the policy's depth and budget, atomically with the report. A panic counts as
    /// a rejection of the report.
    fn discover(&self, subject: &Self::Subject, report: &Self::Report, found: &mut Vec<Self::Subject>) {
        let _ = (subject, report, found);
    }

    /// Says whether a later report on a subject tells the same as an earlier one: then it confirms it, otherwise it
    /// supersedes it. The default: their encodings are equal.
    ///
    /// Called on the thread that reads a history or a result with one, for each two reports whose encodings differ; never
    /// when reports come in, so a change of its answers changes how the past is told, and no more. `same(x, x)` must be
    /// true. A panic counts as false.
    fn same(&self, old: &Self::Report, new: &Self::Report) -> bool {
        let encoded = |report| postcard::to_extend(report, Vec::new()).ok();
        let old = encoded(old);
        old.is_some() && old == encoded(new)
    }

    /// Puts an accepted report into one of 16 categories, 0 to 15, by which a client is compared with its peers
    /// ([`Watch::distribution`]). The default, `None`, compares nobody.
    ///
    /// Called on the submitting client's thread, after an accepting [`judge`](Self::judge). Name categories only if honest
    /// clients with different buckets get about the same share of each. A panic counts as a rejection of the report; a
    /// number above 15 as no category.
    fn category(&self, report: &Self::Report) -> Option<u8> {
        let _ = report;
        None
    }

    /// Names a subject's lane: subjects of one lane are worked on in the order in which they came, by one lease at a time,
    /// with the lane's state ([`Lease::lane`](crate::Lease::lane)); different lanes run in parallel. The default, `None`: a
    /// subject of no lane, worked on in any order.
    ///
    /// Called when a subject is added or named by a report, on the thread that does so; and when a retraction takes one in
    /// anew, on the operator's. The answer is journaled with the subject and holds for its whole life, re-runs included. Always
    /// name the same lane for the same subject. A panic counts as a failed encoding: of an addition, which is refused, or
    /// of the report, which is rejected.
    fn lane(&self, subject: &Self::Subject) -> Option<LaneKey> {
        let _ = subject;
        None
    }

    /// Says until when, by the wall clock, a subject of a lane is to be worked on. From then on it is not given to whoever works
    /// on the lane, and no report on it is taken ([`Outcome::Expired`](crate::Outcome::Expired)): its round ends without one, when the
    /// lane comes to it. The default, `None`: for ever.
    ///
    /// Called right after a [`lane`](Self::lane) that names one, when a subject is added or named by a report; never of other
    /// subjects. The answer is journaled and holds for that round: a re-run, a mark and what a retraction takes in anew
    /// have no deadline. A panic counts as one of [`lane`](Self::lane).
    fn deadline(&self, subject: &Self::Subject) -> Option<DateTime<Utc>> {
        let _ = subject;
        None
    }
}

/// What a service works on: a key that is its identity, and whatever else a client needs to do the work.
///
/// Its methods, and serde's for it, run on clients' threads and on the hub's own; they must not call the hub.
///
/// `u32`, `u64`, `u128` and `String` are subjects that are all key. For a struct, derive serde's traits and name the key:
///
/// ```
/// use commissary::Subject;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Order { number: u64, dish: String }
///
/// impl Subject for Order {
///     type Key = u64;
///     fn key(&self) -> u64 { self.number }
/// }
/// ```
pub trait Subject: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The identity: two subjects of a service with equal keys are the same.
    type Key: Key;

    /// This subject's key. Must always be the same for the same subject.
    fn key(&self) -> Self::Key;

    /// Appends what must be stored beside the key. The default stores the whole value.
    ///
    /// # Errors
    ///
    /// What the serializer says.
    fn write_body(&self, out: &mut Vec<u8>) -> Result<(), String> {
        let taken = std::mem::take(out);
        *out = postcard::to_extend(self, taken).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Restores a subject from its key and body; the inverse of [`write_body`](Self::write_body).
    ///
    /// # Errors
    ///
    /// What the deserializer says.
    fn read(key: &[u8], body: &[u8]) -> Result<Self, String> {
        let _ = key;
        postcard::from_bytes(body).map_err(|error| error.to_string())
    }
}

/// The identity of a subject: bytes in the store, a value in the application.
pub trait Key:
    Clone + Eq + Ord + std::hash::Hash + fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Appends the key's bytes. Equal keys give equal bytes, different keys different ones; byte order is the order in
    /// which results are listed.
    fn write(&self, out: &mut Vec<u8>);
    /// The inverse of [`write`](Self::write); `None` if the bytes are no key of this type.
    fn read(bytes: &[u8]) -> Option<Self>;
}

macro_rules! number_keys {
    ($($number:ty),*) => {$(
        impl Key for $number {
            #[inline]
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            #[inline]
            fn read(bytes: &[u8]) -> Option<Self> {
                Some(Self::from_be_bytes(bytes.try_into().ok()?))
            }
        }
        all_key!($number);
    )*};
}

macro_rules! all_key {
    ($key:ty) => {
        impl Subject for $key {
            type Key = Self;

            #[inline]
            fn key(&self) -> Self {
                self.clone()
            }

            #[inline]
            fn write_body(&self, _out: &mut Vec<u8>) -> Result<(), String> {
                Ok(())
            }

            #[inline]
            fn read(key: &[u8], _body: &[u8]) -> Result<Self, String> {
                <Self as Key>::read(key).ok_or_else(|| format!("{} bytes are no such key", key.len()))
            }
        }
    };
}

number_keys!(u32, u64, u128);

impl Key for String {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(std::str::from_utf8(bytes).ok()?.to_owned())
    }
}
all_key!(String);

/// Who reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reporter {
    /// The client.
    pub client: ClientId,
}

impl Reporter {
    /// Whoever is registered as `client`.
    #[must_use]
    pub fn new(client: ClientId) -> Self {
        Self { client }
    }
}

/// A plugin's word on one report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Store it.
    Accept,
    /// Do not store it: counted against the client; the subject stays with the lease.
    Reject(String),
}

/// Where a service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ServiceState {
    /// It hands out buckets.
    Active,
    /// An administrator stopped the forming of buckets; those formed are handed out.
    Paused,
    /// Revoked: nothing is handed out, finished work is taken until each lease's end.
    Draining,
    /// Revoked at once: nothing is handed out and nothing is taken.
    Revoked,
    /// The plugin panicked too often: nothing is handed out, finished work is taken. Not kept over a restart, which gives
    /// the plugin another chance; a paused service stays paused.
    Degraded,
}

impl ServiceState {
    pub(crate) fn from_u32(value: u32) -> Self {
        match value {
            0 => Self::Active,
            1 => Self::Paused,
            2 => Self::Draining,
            3 => Self::Revoked,
            _ => Self::Degraded,
        }
    }

    /// True if claims are served.
    #[must_use]
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Active | Self::Paused)
    }
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Draining => "draining",
            Self::Revoked => "revoked",
            Self::Degraded => "degraded",
        })
    }
}

/// What happens to a claim for more buckets than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum OverAsk {
    /// It gets what is allowed; the grant says so and it is counted.
    Clamp,
    /// It gets nothing but an error naming the limit; counted.
    Reject,
}

/// What becomes of a subject that is made urgent while it stands in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Urgent {
    /// Out of a bucket that waits it is moved to an urgent one. If a client holds it, it is offered again: the first report
    /// wins, the other is answered [`Outcome::AlreadyDone`](crate::Outcome::AlreadyDone); counted as extra work.
    Again,
    /// Out of a bucket that waits it is moved. If a client holds it, it stays with that client until its lease is dead.
    Wait,
    /// It stays where it is, in a bucket that waits, too, and is offered again.
    Keep,
}

/// What becomes of a report that comes when its lease has expired, the grace included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Late {
    /// It is refused: [`Outcome::Stale`](crate::Outcome::Stale).
    Refuse,
    /// It is taken if its subject is offered again, or held by another client, and was not reported yet. That client is
    /// answered [`Outcome::AlreadyDone`](crate::Outcome::AlreadyDone) (or, if its report differs,
    /// [`Outcome::Conflict`](crate::Outcome::Conflict)). Refused while the subject stands in no bucket, or in two; and of a
    /// client that is inactive, suspended or quarantined.
    ///
    /// Such a report looks for its subject in all buckets of the service: it takes time in proportion to what is ready and
    /// leased. One atomic step on the other bucket decides who reported first.
    AcceptIfOpen,
}

/// A service's settings. A change takes effect with the next pool; buckets formed before keep theirs.
///
/// Name the fields that differ and take the rest from the default: new fields may be added.
///
/// ```
/// use commissary::Policy;
///
/// let policy = Policy { bucket_subjects: 16, max_depth: 2, ..Policy::default() };
/// # assert_eq!(policy.buckets_per_claim, 10);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Subjects in a bucket: 1 to [`Limits::BUCKET_SUBJECTS`]; of a [lane](Service::lane), 63 at most. Default 4.
    pub bucket_subjects: usize,
    /// Buckets in one claim, at most: 1 to 1,024. Default 10.
    pub buckets_per_claim: u32,
    /// Leases that one client may hold at a time: 1 to 1,000,000. Default 1,000.
    pub leases_in_flight: u32,
    /// What to do with a claim for more than `buckets_per_claim`. Default: clamp.
    pub over_ask: OverAsk,
    /// How long a lease lasts without renewal: 1 ms to 30 days; of a second or more, up to two of the system's clock ticks (some
    /// ms) longer, as a claim reads [`Clock::coarse_ms`](crate::Clock::coarse_ms). Default 2 h.
    pub lease: Duration,
    /// How long a lease may last in all, renewals included, as a multiple of `lease`: 1 to 1,000,000. 1: renewals add nothing.
    /// Default 8. (In no case longer than [`Limits::LEASE_MS`].)
    pub lease_total: u32,
    /// Deadlines are spread over so many thousandths of `lease`, so that leases claimed at one moment do not end at one
    /// moment: 0 (off) to 1,000. It only ever lengthens a lease. Default 125: an eighth.
    pub expiry_spread: u32,
    /// How long a dead lease's reports are still taken before what is left is put back: 0 to 30 days. Default 15 min.
    pub grace: Duration,
    /// A seat unused for so long is deactivated: 1 ms or more. Default 24 h.
    pub idle: Duration,
    /// How long subjects too few for a bucket wait for companions: 0 to 30 days. Default 100 ms.
    pub linger: Duration,
    /// Most subjects in a pool: 1 to 1,000,000. Default 18,000.
    pub pool_subjects: usize,
    /// No more subjects are kept ready than are taken in this time, once it is known how fast they are taken: 1 ms or more.
    /// So a new priority acts within it. Default 1 h.
    pub max_pool_age: Duration,
    /// How long a subject should wait at most: 4 ms or more. Default 4 h. One that has waited a quarter of it is as urgent
    /// as the urgent ones, one that has waited half of it goes before them; one that waits longer is overdue.
    pub max_wait: Duration,
    /// What becomes of a subject that is made urgent while it stands in a bucket. Default: moved, or offered again.
    pub urgent: Urgent,
    /// What becomes of reports that come when their lease has expired. Default: refused.
    pub late: Late,
    /// One claim in so many is served from the lower class even when the higher one has work, so that neither starves: 2 or
    /// more. Default 4.
    pub ordinary_share: u32,
    /// How long a subject is not offered to a client that gave it back, or let it expire: 0 to 30 days. Default 5 min;
    /// 0 turns it off. Others get it at once.
    pub cooldown: Duration,
    /// Ordinary subjects mixed in among those put back, in buckets: 0 to 1,024. Default 16; 0 turns it off. So many more
    /// than it needs must a client claim that tries to get at one subject put back. Taken from those that wait, if there
    /// are any: nobody waits for company. Urgent subjects have none, overdue ones only such as are overdue themselves.
    pub company: u32,
    /// Hops from a subject added by hand within which discoveries are taken in. Default 0: none are. What a report sends to
    /// a [lane](Service::lane) is taken in at any depth.
    pub max_depth: u16,
    /// Whether discoveries that lie deeper are kept, not to be worked on until they are marked by hand. Default true.
    pub keep_unmarked: bool,
    /// Subjects that the service takes in, unmarked ones included, at most. Default: no bound but the disk. An addition beyond it
    /// is refused and named ([`Intake::refused`](crate::Intake::refused)), a discovery is cut. What a report sends to a
    /// [lane](Service::lane) is taken in beyond it, since the state of its sender says that it was sent: a service whose lanes
    /// send without end is bounded by [`judge`](Service::judge) alone.
    pub max_subjects: u64,
    /// Subjects that one lane may owe, waiting and being worked on: 1 or more. Default 10,000. An addition beyond it is not
    /// taken in, and named ([`Intake::refused`](crate::Intake::refused)). What reports reveal, re-runs and marks are taken in
    /// nevertheless: nothing that was promised is lost.
    pub lane_subjects: u64,
    /// Plugin panics after which the service is degraded: 1 or more. Default 3.
    pub panics_tolerated: u32,
    /// How clients are watched for malfunction. A change takes effect with the next sample.
    pub watch: Watch,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            bucket_subjects: 4,
            buckets_per_claim: 10,
            leases_in_flight: 1_000,
            over_ask: OverAsk::Clamp,
            lease: Duration::from_secs(2 * 3_600),
            lease_total: 8,
            expiry_spread: 125,
            grace: Duration::from_secs(15 * 60),
            idle: Duration::from_secs(24 * 3_600),
            linger: Duration::from_millis(100),
            pool_subjects: 18_000,
            max_pool_age: Duration::from_secs(3_600),
            max_wait: Duration::from_secs(4 * 3_600),
            urgent: Urgent::Again,
            late: Late::Refuse,
            ordinary_share: 4,
            cooldown: Duration::from_secs(5 * 60),
            company: 16,
            max_depth: 0,
            keep_unmarked: true,
            max_subjects: u64::MAX,
            lane_subjects: 10_000,
            panics_tolerated: 3,
            watch: Watch::default(),
        }
    }
}

impl Policy {
    /// The subjects mixed in among those put back, at most.
    pub(crate) fn company_subjects(&self) -> usize {
        self.bucket_subjects.saturating_mul(self.company as usize)
    }

    /// What is journaled, since applying needs it.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { max_subjects: self.max_subjects, lane_subjects: self.lane_subjects }
    }

    /// The first field that is out of its range, with the range.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        const MONTH: Duration = Duration::from_secs(30 * 24 * 3_600);
        let ms = Duration::from_millis(1);
        let rules = [
            ((1..=Limits::BUCKET_SUBJECTS).contains(&self.bucket_subjects), "bucket_subjects", "1 to 252"),
            ((1..=1_024).contains(&self.buckets_per_claim), "buckets_per_claim", "1 to 1,024"),
            ((1..=1_000_000).contains(&self.leases_in_flight), "leases_in_flight", "1 to 1,000,000"),
            ((ms..=MONTH).contains(&self.lease), "lease", "1 ms to 30 days"),
            ((1..=1_000_000).contains(&self.lease_total), "lease_total", "1 to 1,000,000"),
            (self.expiry_spread <= 1_000, "expiry_spread", "0 to 1,000"),
            (self.grace <= MONTH, "grace", "0 to 30 days"),
            (self.linger <= MONTH, "linger", "0 to 30 days"),
            (self.idle >= ms, "idle", "1 ms or more"),
            ((1..=1_000_000).contains(&self.pool_subjects), "pool_subjects", "1 to 1,000,000"),
            (self.max_pool_age >= ms, "max_pool_age", "1 ms or more"),
            (self.max_wait >= 4 * ms, "max_wait", "4 ms or more"),
            (self.ordinary_share >= 2, "ordinary_share", "2 or more"),
            (self.cooldown <= MONTH, "cooldown", "0 to 30 days"),
            (self.company <= 1_024, "company", "0 to 1,024"),
            (self.lane_subjects >= 1, "lane_subjects", "1 or more"),
            (self.panics_tolerated >= 1, "panics_tolerated", "1 or more"),
        ];
        match rules.into_iter().find(|(holds, _, _)| !holds) {
            Some((_, field, range)) => Err((field, range)),
            None => self.watch.check(),
        }
    }
}

/// How much a service takes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// [`Policy::max_subjects`].
    pub(crate) max_subjects: u64,
    /// [`Policy::lane_subjects`].
    pub(crate) lane_subjects: u64,
}

/// Runs plugin code; `Err` holds the panic's message.
pub(crate) fn contain<R>(call: impl FnOnce() -> R) -> Result<R, String> {
    catch(call).map_err(|panic| message_of(&*panic))
}

/// Wakes tasks or threads of the application's: a waker's panic is not the caller's.
pub(crate) fn wake(whose: &str, wake: impl FnOnce()) {
    if let Err(message) = contain(wake) {
        tracing::error!(message, "{whose} waker panicked");
    }
}

/// Runs plugin code; `Err` holds the panic.
pub(crate) fn catch<R>(call: impl FnOnce() -> R) -> Result<R, Box<dyn Any + Send>> {
    // Unwind safety: the hub holds no lock and has changed nothing when it calls a plugin; what the closure borrowed is
    // thrown away with the report.
    catch_unwind(AssertUnwindSafe(call))
}

/// What a panic says.
pub(crate) fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}
