//! Lanes worked on by the application itself: the handler that it brings, the worker that calls it, the threads that work.

mod aside;
mod front;
mod inside;
mod options;
mod parking;
mod threads;

use std::fmt;
use std::hash::Hasher;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use siphasher::sip::SipHasher13;

pub use self::aside::FailedCommand;
use self::aside::{Asides, Failure};
use self::front::{Fate, Work};
use self::inside::Inside;
pub(crate) use self::inside::{is_inside, refuse_waiting};
pub use self::options::{LaneOptions, LaneStats, LaneStep};
pub use self::threads::LaneThreads;
use crate::claim::{Ask, Claim, Empty, EmptyReason};
use crate::client::{Client, Registration};
use crate::error::{ActivateError, ClaimError, HandlerError, HubError, LeaseError};
use crate::events::KeyBytes;
use crate::handle::ServiceHandle;
use crate::house::House;
use crate::id::LeaseToken;
use crate::lane::LaneKey;
use crate::lease::Lease;
use crate::registry::ServiceCore;
use crate::seat::Seat;
use crate::service::Service;
use crate::sync::{Arc, AtomicBool, Counter, Ordering};

/// Does a service's work where the application runs: gets a lane's state and one command of it, changes the state and returns the
/// report. The report is the event; the commands for other lanes that follow from it are those that
/// [`Service::discover`] names for it.
///
/// # Contract
///
/// *Send, never ask.* A handler gets no hub, and is not told what became of what it sent; an answer comes as a command to its own lane.
/// So no lane ever waits for another one, and no circle of lanes can block. A handler that brings a hub of its own
/// is refused where it would wait for lanes ([`HandlerError::InsideHandler`], [`ReadError::InsideHandler`](crate::ReadError::InsideHandler)),
/// and so is the service where it runs on the handler's thread. It may wait for the hub's own threads, which wait for no lane.
///
/// *All or nothing.* State, report and what is sent are in one journal record. Commands to one lane arrive in the order
/// in which they were sent: of one report in the order in which `discover` names them. A command whose key the service knows already is a
/// duplicate, and is not taken in again: name each with a key of its own. Lanes take in what is sent whatever they owe,
/// however deep it lies and however many subjects the service knows: the bounds of the policy are for additions. Who must bound what
/// lanes send each other does so in [`Service::judge`]: a report that it rejects has no effect.
///
/// *Perhaps more than once.* `handle` may be called for the same command again: after a crash, a failure of a command behind it, or the
/// loss of the lease. Of all these calls one has an effect. So it should do nothing but look at what it is given; effects outside
/// belong in an [outbox](crate::Hub::outbox).
///
/// A panic is caught: see [`LaneOptions::tries_max`].
pub trait LaneHandler<S: Service>: Send + Sync + 'static {
    /// What a lane remembers; the default, until something was stored. It is stored with the reports on a bucket, so its encoding
    /// is written once a bucket.
    type State: Serialize + DeserializeOwned + Default;

    /// Executes one command of a lane; `at` is the wall clock's time, before the command's deadline.
    fn handle(&self, lane: &LaneKey, state: &mut Self::State, command: &S::Subject, at: DateTime<Utc>) -> S::Report;

    /// Does the work on a subject of no lane. The default, `None`: not this handler's. Then it is dealt with as a command that
    /// cannot be executed: a service that has such subjects, too, should do them here or have a service of their own for them.
    fn handle_alone(&self, subject: &S::Subject, at: DateTime<Utc>) -> Option<S::Report> {
        let _ = (subject, at);
        None
    }
}

/// What a worker and its threads' handle share.
struct Office {
    service: Arc<ServiceCore>,
    asides: Asides,
    counts: Counts,
    stopping: AtomicBool,
}

#[derive(Default)]
struct Counts {
    buckets: Counter,
    commands: Counter,
    expired: Counter,
    failures: Counter,
    lost: Counter,
}

impl Office {
    fn is_stopping(&self) -> bool {
        // ordering: Acquire; pairs with the Release in `stop`. Who waits was notified after it.
        self.stopping.load(Ordering::Acquire)
    }

    fn stop(&self) {
        // ordering: Release; see `is_stopping`.
        self.stopping.store(true, Ordering::Release);
        self.service.notify();
    }

    fn stats(&self) -> LaneStats {
        let (failing, set_aside) = self.asides.count();
        LaneStats {
            buckets: self.counts.buckets.value(),
            commands: self.counts.commands.value(),
            expired: self.counts.expired.value(),
            failures: self.counts.failures.value(),
            lost: self.counts.lost.value(),
            failing,
            set_aside,
        }
    }

    /// Has the commands of a lane that fail tried anew. False if there are none.
    fn retry(&self, lane: &LaneKey) -> bool {
        let any = self.asides.retry(lane);
        if any {
            self.service.notify();
        }
        any
    }
}

/// Calls a [handler](LaneHandler) for the commands of a service's lanes, when it is told to. One of a service at a time.
///
/// Dropping it gives back what it holds.
///
/// # Examples
///
/// ```
/// use chrono::{DateTime, Utc};
/// use commissary::{
///     Hub, LaneHandler, LaneKey, LaneOptions, LaneStep, MemoryDisk, Policy, Reporter, Service, Verdict,
/// };
///
/// /// Commands are numbers; the tens are the lane. Each is passed on to the next lane.
/// struct Ring;
///
/// impl Service for Ring {
///     type Subject = u64;
///     type Report = Option<u64>;
///     fn id(&self) -> &str { "ring" }
///     fn policy(&self) -> Policy { Policy::default() }
///     fn judge(&self, _command: &u64, _sent: &Option<u64>, _reporter: Reporter) -> Verdict { Verdict::Accept }
///     fn discover(&self, _command: &u64, sent: &Option<u64>, found: &mut Vec<u64>) { found.extend(sent); }
///     fn lane(&self, command: &u64) -> Option<LaneKey> { Some(LaneKey::from(command / 10)) }
/// }
///
/// struct PassOn;
///
/// impl LaneHandler<Ring> for PassOn {
///     type State = u64;
///     fn handle(&self, _lane: &LaneKey, passed: &mut u64, command: &u64, _at: DateTime<Utc>) -> Option<u64> {
///         *passed += 1;
///         (*command < 20).then_some(command + 10)
///     }
/// }
///
/// let hub = Hub::builder().manual().open_in_memory(&MemoryDisk::new())?;
/// let ring = hub.register(Ring)?;
/// ring.add_all([1, 2])?;
/// let worker = hub.handle_lanes(&ring, PassOn, LaneOptions::default())?;
/// loop {
///     hub.tick();
///     match worker.step()? {
///         LaneStep::Idle if ring.stats().subjects_done == 6 => break,
///         LaneStep::Handled { .. } | LaneStep::Idle => {}
///         other => panic!("{other:?}"),
///     }
/// }
/// assert_eq!(ring.result(&21)?.map(|found| found.report), Some(None));
/// # Ok::<(), commissary::Error>(())
/// ```
pub struct LaneWorker<S: Service, H: LaneHandler<S>> {
    crew: Arc<Crew<S, H>>,
}

impl<S: Service, H: LaneHandler<S>> fmt::Debug for LaneWorker<S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneWorker").field("service", &self.crew.office.service.name).finish_non_exhaustive()
    }
}

/// What all threads of a worker share.
struct Crew<S: Service, H: LaneHandler<S>> {
    office: Arc<Office>,
    handler: H,
    client: Client,
    service: ServiceHandle<S>,
    seat: Seat<S>,
    options: LaneOptions,
}

impl<S: Service, H: LaneHandler<S>> LaneWorker<S, H> {
    pub(crate) fn open(
        house: &Arc<House>,
        service: &ServiceHandle<S>,
        handler: H,
        options: LaneOptions,
    ) -> Result<Self, HandlerError> {
        Inside::refuse()?;
        let core = service.core();
        if !core.begin_handling() {
            return Err(HandlerError::InUse { service: core.name.to_string() });
        }
        let opened = Crew::open(house, service, handler, options);
        opened.inspect_err(|_| core.end_handling()).map(|crew| Self { crew: Arc::new(crew) })
    }

    /// Does the work on one bucket, if there is one: never waits for any. Several threads may call it at once.
    ///
    /// # Errors
    ///
    /// [`HandlerError`]; nothing was handled.
    pub fn step(&self) -> Result<LaneStep, HandlerError> {
        Inside::refuse()?;
        self.crew.step()
    }

    /// Has this many threads do the work, until the answer is dropped or the hub is closed.
    ///
    /// # Errors
    ///
    /// [`HandlerError::NoThreads`]; [`HandlerError::Manual`] in a manual hub, whose work is done step by step;
    /// [`HandlerError::Thread`].
    pub fn spawn(self, threads: usize) -> Result<LaneThreads, HandlerError> {
        Inside::refuse()?;
        LaneThreads::spawn(&self.crew, threads)
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> LaneStats {
        self.crew.office.stats()
    }

    /// The commands that could not be executed, and their lanes, which wait.
    #[must_use]
    pub fn failed(&self) -> Vec<FailedCommand> {
        self.crew.office.asides.list()
    }

    /// Has the failed commands of a lane tried anew, with all their tries. False if it has none.
    #[must_use]
    pub fn retry(&self, lane: &LaneKey) -> bool {
        self.crew.office.retry(lane)
    }
}

impl<S: Service, H: LaneHandler<S>> Crew<S, H> {
    fn open(
        house: &Arc<House>,
        service: &ServiceHandle<S>,
        handler: H,
        options: LaneOptions,
    ) -> Result<Self, HandlerError> {
        let registration = options.client.clone().unwrap_or_else(|| derived(service.id()));
        let client = Client::register(house, &registration)?.client;
        let seat = client.activate(service)?;
        // From before a crash: what was handled and not submitted is handled again.
        for view in seat.leases()? {
            // If it has just ended, so much the better.
            let _ = seat.release(&view.token);
        }
        let (asides, counts) = (Asides::default(), Counts::default());
        let office = Office { service: Arc::clone(service.core()), asides, counts, stopping: AtomicBool::new(false) };
        Ok(Self { office: Arc::new(office), handler, client, service: service.clone(), seat, options })
    }

    fn step(&self) -> Result<LaneStep, HandlerError> {
        // The service's judging and what is dropped run on this thread as well.
        let _inside = Inside::enter();
        let now = self.office.service.link.clock.now();
        for token in self.office.asides.due(now, self.half_lease(), |key| self.service.is_owed(key.as_bytes())) {
            let _ = self.seat.release(&token);
        }
        match self.claim()? {
            Ok(lease) => self.work(lease),
            Err(empty) => Ok(self.nothing(&empty, now)),
        }
    }

    fn claim(&self) -> Result<Result<Lease<S>, Empty>, HandlerError> {
        let claimed = match self.seat.claim(Ask::one()) {
            Err(ClaimError::Inactive) => {
                // It was idle for long.
                self.client.activate(&self.service)?;
                self.seat.claim(Ask::one())
            }
            claimed => claimed,
        };
        Ok(match claimed? {
            Claim::Leased(mut grant) => {
                grant.pop().ok_or(Empty { reason: EmptyReason::NotYetFormed, retry_after: SOON })
            }
            Claim::Empty(empty) => Err(empty),
        })
    }

    /// When to look again though nobody says that there is work.
    fn nothing(&self, empty: &Empty, now: u64) -> LaneStep {
        let by_reason = match empty.reason {
            EmptyReason::NotYetFormed | EmptyReason::QuotaFull | EmptyReason::Cooldown => Some(empty.retry_after),
            _ => None,
        };
        let next = self.office.asides.next_due().map(|due| Duration::from_millis(due.saturating_sub(now)));
        match by_reason.into_iter().chain(next).min() {
            Some(wait) => LaneStep::Waiting(wait),
            None => LaneStep::Idle,
        }
    }

    fn work(&self, lease: Lease<S>) -> Result<LaneStep, HandlerError> {
        if let Some(step) = self.hold_again(&lease) {
            let _ = lease.into_token();
            return Ok(step);
        }
        self.office.counts.buckets.add(1);
        let work = Work::new(self, &lease);
        let (commands, fate) = if lease.is_laned() { work.on_lane() } else { work.alone() };
        self.office.counts.commands.add(u64::from(commands));
        match fate {
            Fate::Done => Ok(LaneStep::Handled { commands }),
            Fate::Failed(failure) => {
                let lane = lease.lane().map(|view| view.key);
                let (tries, after) = self.set_aside(lane.as_ref(), &failure, lease.into_token());
                Ok(LaneStep::Failed { lane, commands, tries, after })
            }
            Fate::Left(failures, waiting) => Ok(self.leave(&failures, &waiting, lease.into_token(), commands)),
            Fate::Lost => {
                self.office.counts.lost.add(1);
                Ok(LaneStep::Lost)
            }
            Fate::Busy(retry_after) => Ok(LaneStep::Waiting(retry_after)),
            Fate::Refused(error) => Err(error.into()),
        }
    }

    /// A lane whose front was set aside is not tried again: its lease is kept, so that nobody else gets it.
    fn hold_again(&self, lease: &Lease<S>) -> Option<LaneStep> {
        let asides = &self.office.asides;
        if asides.is_empty() {
            return None;
        }
        let lane = lease.lane()?.key;
        let clock = &self.office.service.link.clock;
        let (_, front) = lease.next_owed(0, clock.wall_ms())?;
        let key = front::key_of(&front);
        let due = clock.now().saturating_add(self.half_lease());
        let tries = asides.hold_again(&lane, &key, lease.token(), due)?;
        Some(LaneStep::Failed { lane: Some(lane), commands: 0, tries, after: None })
    }

    /// Notes a failure, and keeps the lease; says how often the command was tried, and when it will be again.
    fn set_aside(&self, lane: Option<&LaneKey>, failure: &Failure, token: LeaseToken) -> (u32, Option<Duration>) {
        self.office.counts.failures.add(1);
        let now = self.office.service.link.clock.now();
        let (service, key, why) = (&self.office.service.name, &failure.key, &failure.why);
        tracing::error!(%service, ?lane, ?key, why, "command not executed");
        let pause = |tries| (tries < self.options.tries_max).then(|| self.options.backoff(tries));
        // No later than that: the lease is given back, and does not end by itself.
        let held = |tries| pause(tries).map_or(u64::MAX, crate::clock::millis).min(self.half_lease());
        let terms = |tries| (pause(tries).is_none(), now.saturating_add(held(tries)));
        let tries = self.office.asides.put(lane, failure, token, terms);
        // Who waits must not wait for longer.
        self.office.service.notify();
        (tries, pause(tries).map(|_| Duration::from_millis(held(tries))))
    }

    /// Keeps the lease of subjects of no lane that could not be executed, now or before.
    fn leave(&self, failures: &[Failure], waiting: &[KeyBytes], token: LeaseToken, commands: u32) -> LaneStep {
        let due = self.office.service.link.clock.now().saturating_add(self.half_lease());
        let again = self.office.asides.hold_alone(waiting, token, due).map(|tries| (tries, None));
        let failed: Vec<_> = failures.iter().map(|failure| self.set_aside(None, failure, token)).collect();
        let (tries, after) = failed.first().copied().or(again).unwrap_or_default();
        LaneStep::Failed { lane: None, commands, tries, after }
    }

    /// Half a lease's time, ms.
    fn half_lease(&self) -> u64 {
        (crate::clock::millis(self.office.service.policy().lease) / 2).max(1)
    }
}

/// Until the next try, when the caretakers have not caught up.
const SOON: Duration = Duration::from_millis(20);

impl<S: Service, H: LaneHandler<S>> Drop for Crew<S, H> {
    fn drop(&mut self) {
        for token in self.office.asides.clear() {
            let _ = self.seat.release(&token);
        }
        self.office.service.end_handling();
    }
}

/// The client that works for a service, if none is given: always the same one.
fn derived(service: &str) -> Registration {
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    hasher.write(service.as_bytes());
    let hash = hasher.finish();
    // Not zero, and not among those that people are likely to choose.
    Registration::new(hash | 1 << 63, format!("lanes_{:08x}", hash & 0xffff_ffff))
}

/// True if nothing will ever be handed out again.
fn is_over(error: &HandlerError) -> bool {
    let (HandlerError::Claim(ClaimError::Hub(hub))
    | HandlerError::Lease(LeaseError::Hub(hub))
    | HandlerError::Activate(ActivateError::Hub(hub))) = error
    else {
        return false;
    };
    matches!(hub, HubError::Closed | HubError::Poisoned { .. })
}
