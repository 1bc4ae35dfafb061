//! One client's exclusive hold on one bucket: submit, renew, release, drop.

mod prepare;

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;

use crate::audit::Move;
use crate::commit::{Change, Pending, Reports};
use crate::contest::Contest;
use crate::current::Held;
use crate::error::LeaseError;
use crate::id::LeaseToken;
use crate::lane::{LaneView, Run, StateBytes, Step, encode_state, lane_of};
use crate::late;
#[cfg(test)]
use crate::late_test::{Point, reached};
use crate::limits::Limits;
use crate::link::Precedence;
use crate::measures::Call;
use crate::notices::NoticeKind;
use crate::people::SeatCore;
use crate::pool::{Bucket, Pool, Renewal, Spot, SubjectRef};
use crate::record::{self, Item, SubjectRecord};
use crate::scratch::Lent;
use crate::service::{Key, Service, ServiceState, Subject, contain};
use crate::slot::{Cause, Ended, Mask, Phase, Slot, Taken, ToRenewed};
use crate::stack::Node;
use crate::sync::Arc;
use crate::ticket::Ticket;

/// A lease held by a worker in this process. Dropping it gives its bucket back.
///
/// For a worker elsewhere, [`into_token`](Self::into_token) turns it into its proof; the [`Seat`](crate::Seat) then
/// takes the token.
///
/// # Concurrency
///
/// `report`, `submit`, `renew`, `release` and drop are lock-free and never touch the disk. When a report and the lease's
/// end race, each subject is either reported or put back, never both.
#[must_use = "dropping a lease gives its bucket back"]
pub struct Lease<S: Service> {
    /// None once it was taken apart.
    hold: Option<Hold>,
    service: PhantomData<fn() -> S>,
}

impl<S: Service> fmt::Debug for Lease<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.hold.as_ref().and_then(Hold::token)).finish()
    }
}

/// What a lease is made of.
pub(crate) struct Hold {
    seat: Arc<SeatCore>,
    pool: Held,
    index: usize,
}

impl Hold {
    fn token(&self) -> Option<LeaseToken> {
        self.pool.token(self.index)
    }

    /// Moves the deadline to a full term from now, or to the cap on the whole lease.
    pub(crate) fn renew_slot(seat: &SeatCore, pool: &Pool, index: usize) -> Result<Duration, LeaseError> {
        let timing = seat.timing(seat.counts.renewals.value());
        let renewed = Self::renew_now(seat, pool, index);
        seat.timed(Call::Renew, &timing);
        seat.counts.renewals.add(u64::from(renewed.is_ok()));
        renewed.inspect_err(|error| seat.count_call(error))
    }

    fn renew_now(seat: &SeatCore, pool: &Pool, index: usize) -> Result<Duration, LeaseError> {
        let link = &seat.service.link;
        link.check()?;
        if !seat.client.is_registered() {
            return Err(LeaseError::NotRegistered);
        }
        let now = link.clock.now();
        match pool.renew(index, seat.index, now) {
            Renewal::Renewed { time_left } => {
                seat.touch(now);
                Ok(Duration::from_millis(time_left))
            }
            Renewal::Capped { time_left } => {
                let limit = Duration::from_millis(pool.terms.total_ms.min(Limits::LEASE_MS));
                Err(LeaseError::Capped { limit, time_left: Duration::from_millis(time_left) })
            }
            Renewal::Not(ToRenewed::Dead) => Err(LeaseError::Dead),
            Renewal::Not(ToRenewed::NotOwner) => Err(LeaseError::NotOwner),
            Renewal::Not(_) => Err(LeaseError::Over),
        }
    }

    /// Ends a lease: what is left is put back, and the writer is asked to journal that. `None` if it was over, or if
    /// another caller ended it.
    pub(crate) fn end_slot(
        seat: &SeatCore,
        pool: &Pool,
        index: usize,
        owner: Option<u32>,
        cause: Cause,
    ) -> Option<Ended> {
        let ended = pool.slot(index)?.end(owner, cause)?;
        Self::ended(seat, pool, index, &ended, cause);
        Some(ended)
    }

    /// Ends a lease at its holder's wish; `None` if it was over.
    pub(crate) fn release_slot(seat: &SeatCore, pool: &Pool, index: usize) -> Option<Ended> {
        let timing = seat.timing(seat.counts.releases.value());
        let ended = Self::end_slot(seat, pool, index, Some(seat.index), Cause::Client)?;
        seat.timed(Call::Release, &timing);
        seat.counts.releases.add(1);
        Some(ended)
    }

    /// Accounts for a subject that its holder does not owe any more: `seat` reported it on another lease.
    pub(crate) fn lose_one(seat: &SeatCore, spot: &Spot, holder: u32) {
        let Some(people) = seat.people.upgrade() else { return };
        if let Some(holder) = people.seats.get(holder as usize) {
            holder.counts.subjects_put_back.add(1);
            Self::finish_slot(holder, &spot.pool, spot.index);
        }
    }

    /// Finishes a bucket in which nothing is owed any more.
    pub(crate) fn finish_slot(seat: &SeatCore, pool: &Pool, index: usize) {
        if let Some(ended) = pool.slot(index).and_then(Slot::finish) {
            Self::ended(seat, pool, index, &ended, Cause::Client);
        }
    }

    fn ended(seat: &SeatCore, pool: &Pool, index: usize, ended: &Ended, cause: Cause) {
        // The reading by which it was claimed: of two by the same clock, the difference is right on average.
        let now = seat.service.link.clock.about_now();
        seat.account(ended, cause, now);
        if !ended.left.is_empty() {
            seat.service.ledger.moved(Move::PutBack, pool.print(index, ended.left));
        }
        if cause == Cause::Client {
            seat.touch(now);
        }
        pool.mark(index);
        seat.service.link.writer.raise();
        tracing::trace!(
            client = %seat.client.id,
            service = %seat.service.name,
            left = ended.left.count(),
            ?cause,
            was_dead = ended.was_dead,
            "lease ended"
        );
    }
}

impl<S: Service> Lease<S> {
    pub(crate) fn new(seat: Arc<SeatCore>, pool: Held, index: usize) -> Self {
        Self { hold: Some(Hold { seat, pool, index }), service: PhantomData }
    }

    /// Ends the lease for another reason than the client's wish.
    pub(crate) fn end(mut self, cause: Cause) {
        if let Some(hold) = self.hold.take() {
            Hold::end_slot(&hold.seat, &hold.pool, hold.index, Some(hold.seat.index), cause);
        }
    }

    fn hold(&self) -> Result<&Hold, LeaseError> {
        // Taken apart only by methods that consume the lease.
        self.hold.as_ref().ok_or(LeaseError::Over)
    }

    /// The subjects of the bucket, in its order, reported or not.
    pub fn subjects(&self) -> impl Iterator<Item = S::Subject> + '_ {
        let bucket = self.hold.as_ref().map(|hold| hold.pool.bucket(hold.index)).unwrap_or_default();
        // The steward hands out only subjects that this plugin's type reads.
        bucket.filter_map(|subject| S::Subject::read(subject.key, subject.body).ok())
    }

    /// The subjects that are owed still, in the bucket's order; of a lane, those that [`lane`](Self::lane) leaves and whose
    /// deadline has not passed: the next report must be on the first of them. If a lease of a lane goes on and owes none, the
    /// deadlines of all have passed: [`submit`](Self::submit) without reports ends them; given back they would come again.
    pub fn owed(&self) -> impl Iterator<Item = S::Subject> + '_ {
        let owed = self.hold.iter().flat_map(|hold| {
            let view = hold.pool.run(hold.index).map(Run::view);
            let open = open_now(&hold.pool, hold.index, view.as_ref(), hold.seat.service.link.clock.wall_ms());
            let bucket = hold.pool.bucket(hold.index).enumerate();
            bucket.filter_map(move |(place, subject)| open.has(place).then_some(subject))
        });
        owed.filter_map(|subject| S::Subject::read(subject.key, subject.body).ok())
    }

    /// The first subject from a place on that is owed, and whose deadline is after a moment of the wall clock, ms; and its place.
    pub(crate) fn next_owed(&self, from: usize, wall_ms: i64) -> Option<(usize, S::Subject)> {
        let hold = self.hold.as_ref()?;
        let view = hold.pool.run(hold.index).map(Run::view);
        let open = open_now(&hold.pool, hold.index, view.as_ref(), wall_ms);
        let mut owed = hold.pool.bucket(hold.index).enumerate().skip(from);
        owed.find_map(|(place, subject)| {
            let is_owed = open.has(place) && !subject.is_nameless();
            let read = is_owed.then(|| S::Subject::read(subject.key, subject.body).ok()).flatten();
            read.map(|subject| (place, subject))
        })
    }

    /// True if its subjects are of a lane, also when it is over.
    pub(crate) fn is_laned(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.pool.run(hold.index).is_some())
    }

    /// How many subjects the bucket has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hold.as_ref().and_then(|hold| hold.pool.slot(hold.index)).map_or(0, Slot::len)
    }

    /// Never true.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The lease's proof, for whoever reports in this worker's stead. The lease stays a guard.
    ///
    /// # Panics
    ///
    /// Never: a lease has a slot.
    #[must_use]
    pub fn token(&self) -> LeaseToken {
        let token = self.hold.as_ref().and_then(Hold::token);
        #[expect(
            clippy::expect_used,
            reason = "a lease is made with a slot of its pool, and loses it only when consumed"
        )]
        token.expect("a lease has a slot")
    }

    /// Lets go of the guard: the lease goes on until it is submitted or released by token, or expires.
    #[must_use = "the token is the only way to this lease, but for `Seat::leases`"]
    pub fn into_token(mut self) -> LeaseToken {
        let token = self.token();
        self.hold = None;
        token
    }

    /// Reports on some subjects and keeps the rest. Each report is answered on its own; see [`Outcome`]. On a lease of a lane,
    /// they are taken in its order, and the lane's state stays as it is; see [`report_lane`](Self::report_lane).
    ///
    /// # Errors
    ///
    /// [`LeaseError`]; nothing was stored.
    ///
    /// # Concurrency
    ///
    /// Lock-free. Takes effect at one compare-and-swap per 63 subjects; calls [`Service::judge`] before that.
    ///
    /// # Durability
    ///
    /// The ticket tells. What was accepted is done at once for everyone, but a crash before the ticket is durable undoes it.
    pub fn report(
        &self,
        reports: impl IntoIterator<Item = (<S::Subject as Subject>::Key, S::Report)>,
    ) -> Result<Submitted, LeaseError> {
        let hold = self.hold()?;
        Reporting::new(&hold.seat, &hold.pool, hold.index).run::<S>(reports, false)
    }

    /// Reports on the bucket and gives back what was not reported: the lease is over.
    ///
    /// If a report was rejected, too large or broke the plugin, nothing is given back and the lease goes on
    /// ([`Submitted::kept`]): the report can be mended and sent again. So it is when the call fails.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]; nothing was stored, and the lease is as before.
    ///
    /// # Concurrency
    ///
    /// As [`report`](Self::report).
    pub fn submit(
        &self,
        reports: impl IntoIterator<Item = (<S::Subject as Subject>::Key, S::Report)>,
    ) -> Result<Submitted, LeaseError> {
        let hold = self.hold()?;
        Reporting::new(&hold.seat, &hold.pool, hold.index).run::<S>(reports, true)
    }

    /// The lane that the lease runs, with its state: as the bucket was cut, and as reports on it changed it since. `None` if its
    /// subjects are of no lane, or if the lease is over: then the lane is another one's.
    #[must_use]
    pub fn lane(&self) -> Option<LaneView> {
        let hold = self.hold.as_ref()?;
        let view = hold.pool.run(hold.index)?.view();
        // Looked at after: the state is forgotten only when the lease is over.
        is_running(hold.pool.slot(hold.index)?).then_some(view)
    }

    /// Reports on the front of a lane and stores the lane's state after it, both or neither; keeps the rest.
    ///
    /// The reports must be on the subjects that are owed, from the first on and in their order; otherwise, or if one of them is
    /// refused, nothing is taken ([`Outcome::OutOfOrder`]). Of two sessions of one client that report the same subject, one
    /// is accepted, with its state; to the other it is [`Outcome::AlreadyDone`]. What a call brings besides a report that is known, on
    /// the front and in its order, is taken, with its state. After an outcome of either kind look again ([`lane`](Self::lane),
    /// [`Seat::leases`](crate::Seat::leases)).
    ///
    /// # Errors
    ///
    /// [`LeaseError`]; nothing was stored.
    ///
    /// # Concurrency
    ///
    /// Lock-free. Takes effect at one compare-and-swap.
    ///
    /// # Durability
    ///
    /// Reports and state are in one journal record. As [`report`](Self::report).
    pub fn report_lane<T: Serialize + ?Sized>(
        &self,
        reports: impl IntoIterator<Item = (<S::Subject as Subject>::Key, S::Report)>,
        state: &T,
    ) -> Result<Submitted, LeaseError> {
        let hold = self.hold()?;
        Reporting::new(&hold.seat, &hold.pool, hold.index).run_lane::<S, T>(reports, state, false)
    }

    /// As [`report_lane`](Self::report_lane), and gives back what was not reported: the lease is over. If a report was
    /// refused, or came out of order, nothing is given back and the lease goes on.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]; nothing was stored, and the lease is as before.
    pub fn submit_lane<T: Serialize + ?Sized>(
        &self,
        reports: impl IntoIterator<Item = (<S::Subject as Subject>::Key, S::Report)>,
        state: &T,
    ) -> Result<Submitted, LeaseError> {
        let hold = self.hold()?;
        Reporting::new(&hold.seat, &hold.pool, hold.index).run_lane::<S, T>(reports, state, true)
    }

    /// Extends the lease to a full term from now; returns the time left. Lock-free, no allocation.
    ///
    /// All terms together last no longer than [`Policy::lease_total`](crate::Policy::lease_total): the last extension may
    /// be short of a term.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Capped`] once no time can be added: the lease goes on to its deadline, and its reports are taken as
    /// before. [`LeaseError::Dead`] once the deadline has passed and the steward has seen it; [`LeaseError::Over`] after the end.
    pub fn renew(&self) -> Result<Duration, LeaseError> {
        let hold = self.hold()?;
        Hold::renew_slot(&hold.seat, &hold.pool, hold.index)
    }

    /// Gives the bucket back; the same as dropping the lease.
    pub fn release(self) {
        drop(self);
    }
}

impl<S: Service> Drop for Lease<S> {
    /// Gives back what is left. Never blocks, writes to the disk or panics.
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            Hold::release_slot(&hold.seat, &hold.pool, hold.index);
        }
    }
}

/// A lease as its holder finds it again.
#[derive(Debug, Clone, Serialize)]
#[serde(bound(serialize = ""))]
#[non_exhaustive]
pub struct LeaseView<S: Service> {
    /// Its proof.
    pub token: LeaseToken,
    /// The subjects still owed, but for those of a lane whose deadline has passed.
    pub subjects: Vec<S::Subject>,
    /// Time until the deadline; zero if it has passed.
    pub time_left: Duration,
    /// The deadline passed and the steward saw it: only reports are taken, until the grace is over.
    pub dead: bool,
    /// The lane that it runs, if any.
    pub lane: Option<LaneView>,
}

/// What is owed in a bucket; of a lane, at the moment of the view, and if its deadline has not passed.
fn open_now(pool: &Pool, index: usize, view: Option<&LaneView>, wall_ms: i64) -> Mask {
    match (pool.run(index), view) {
        (Some(run), Some(view)) => run.owed_in(view).without(run.due(wall_ms)),
        _ => pool.slot(index).map(Slot::open).unwrap_or_default(),
    }
}

/// False if a lease of a lane is over, also if whoever reported the last of it has yet to say so: its lane may be another one's.
fn is_running(slot: &Slot) -> bool {
    slot.snapshot().is_held() && !slot.open().is_empty()
}

impl<S: Service> LeaseView<S> {
    pub(crate) fn of(pool: &Pool, index: usize, now: u64, wall_ms: i64) -> Option<Self> {
        let slot = pool.slot(index)?;
        let lane = pool.run(index).map(Run::view);
        let seen = slot.snapshot();
        if lane.is_some() && !is_running(slot) {
            // It ended just now, and its lane is another one's.
            return None;
        }
        let open = open_now(pool, index, lane.as_ref(), wall_ms);
        let is_owed = |place: usize, subject: &SubjectRef<'_>| open.has(place) && !subject.is_nameless();
        let owed = pool.bucket(index).enumerate().filter(|(place, subject)| is_owed(*place, subject));
        let subjects = owed.filter_map(|(_, subject)| S::Subject::read(subject.key, subject.body).ok()).collect();
        let dead = seen.phase() == Phase::Dead;
        let deadline = if dead { 0 } else { pool.born + seen.time() };
        Some(Self {
            token: pool.token(index)?,
            subjects,
            time_left: Duration::from_millis(deadline.saturating_sub(now)),
            dead,
            lane,
        })
    }
}

/// What became of one report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Taken: it is the subject's result. (If the subject was deleted meanwhile: taken, with nothing to do.)
    Accepted,
    /// The subject was reported before, with the same content so far as is known: nothing changed, no fault.
    AlreadyDone,
    /// The subject was reported before, with another content: the first stays, this one is kept as evidence.
    Conflict,
    /// The plugin rejected it; the subject stays with the lease. Counted as a fault.
    Rejected {
        /// The plugin's reason.
        reason: String,
    },
    /// The subject is not in this bucket. Counted as a fault.
    NotInBucket,
    /// The lease was over for this subject: it was put back, and may be somebody else's.
    Stale,
    /// The encoded report is too long; the subject stays with the lease.
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// `Limits::report_bytes`.
        limit: usize,
    },
    /// The plugin panicked on it; the subject stays with the lease.
    PluginPanicked,
    /// The lease runs a lane, and the reports of this call were not on its front in its order, or another one of them was
    /// refused: none of them was taken. The subject stays with the lease.
    OutOfOrder,
    /// The subject's deadline has passed ([`Service::deadline`]), and it was not reported before: nothing of this call was
    /// taken. It ends as expired with the next reports on what comes after it, or with a call without any.
    Expired,
}

impl Outcome {
    /// The report was refused, and another one may do.
    fn can_be_mended(&self) -> bool {
        matches!(
            self,
            Self::Rejected { .. } | Self::TooLarge { .. } | Self::PluginPanicked | Self::OutOfOrder | Self::Expired
        )
    }
}

/// The answer to a submit.
#[derive(Debug)]
#[must_use]
#[non_exhaustive]
pub struct Submitted {
    /// One outcome a report, in the order of the reports.
    pub outcomes: Vec<Outcome>,
    /// Resolves when what was accepted is durable, then visible; at once if nothing was.
    pub ticket: Ticket,
    /// Subjects that were not reported and were given back.
    pub put_back: u32,
    /// The lease goes on: it was not a final submit, or a report was refused that can be mended.
    pub kept: bool,
    /// Subjects of a lane whose deadline had passed: they came before the reports, or next to them, and ended with this call.
    pub expired: u32,
}

impl Submitted {
    /// How many reports were accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.outcomes.iter().filter(|outcome| **outcome == Outcome::Accepted).count()
    }
}

/// One submit on one slot.
pub(crate) struct Reporting<'a> {
    seat: &'a SeatCore,
    pool: &'a Arc<Pool>,
    index: usize,
    bucket: Bucket<'a>,
    outcomes: Vec<Outcome>,
    scratch: Lent,
    /// Where the next report is looked for first.
    hint: usize,
    /// Where the item of the current report starts.
    start: usize,
    /// What runs now is the plugin's: a panic is contained.
    in_plugin: bool,
    /// The limits of those names.
    report_bytes: usize,
    submit_bytes: usize,
    wanted: Mask,
    /// The lane that the lease runs.
    lane: Option<&'a Run>,
    /// The lane's state after these reports.
    state: Option<StateBytes>,
    /// The places whose deadlines have passed.
    due: Mask,
}

impl<'a> Reporting<'a> {
    pub(crate) fn new(seat: &'a SeatCore, pool: &'a Arc<Pool>, index: usize) -> Self {
        let lane = pool.run(index);
        Self {
            seat,
            pool,
            index,
            bucket: pool.bucket_at(index),
            outcomes: Vec::new(),
            scratch: Lent::take(),
            hint: 0,
            start: 0,
            in_plugin: false,
            report_bytes: seat.service.link.limits.report_bytes,
            submit_bytes: seat.service.link.limits.submit_bytes,
            wanted: Mask::default(),
            lane,
            state: None,
            due: lane.map(|run| run.due(seat.service.link.clock.wall_ms())).unwrap_or_default(),
        }
    }

    /// As [`run`](Self::run), with the state of the lane after it.
    pub(crate) fn run_lane<S: Service, T: Serialize + ?Sized>(
        self,
        reports: impl IntoIterator<Item = (<S::Subject as Subject>::Key, S::Report)>,
        state: &T,
        last: bool,
    ) -> Result<Submitted, LeaseError> {
        let state = encode_state(state).map_err(|what| LeaseError::State { what });
        let state = state.inspect_err(|error| self.seat.count_call(error))?;
        self.with_state(state).run::<S>(reports, last)
    }

    /// Stores this as the state of the lane.
    pub(crate) fn with_state(self, state: StateBytes) -> Self {
        Self { state: Some(state), ..self }
    }

    /// Judges and encodes the reports, makes them take effect at once, and hands them to the writer.
    pub(crate) fn run<S: Service>(
        self,
        reports: impl IntoIterator<Item = (<S::Subject as Subject>::Key, S::Report)>,
        last: bool,
    ) -> Result<Submitted, LeaseError> {
        let seat = self.seat;
        let timing = seat.timing(seat.counts.submits.value());
        let submitted = self.run_now::<S>(reports, last);
        seat.timed(Call::Submit, &timing);
        seat.counts.submits.add(u64::from(submitted.is_ok()));
        submitted.inspect_err(|error| seat.count_call(error))
    }

    fn run_now<S: Service>(
        mut self,
        reports: impl IntoIterator<Item = (<S::Subject as Subject>::Key, S::Report)>,
        last: bool,
    ) -> Result<Submitted, LeaseError> {
        let slot = self.admit()?;
        self.check_state()?;
        self.prepare::<S>(reports)?;
        self.keep_order()?;
        let (ticket, taken) = self.take_effect(slot)?;
        let refused = !self.is_plain(taken) && self.outcomes.iter().any(Outcome::can_be_mended);
        let mut put_back = 0;
        if last && !refused {
            let ended = Hold::end_slot(self.seat, self.pool, self.index, Some(self.seat.index), Cause::Client);
            put_back = ended.map_or(0, |ended| ended.left.count());
        }
        let kept = slot.snapshot().is_held();
        let expired = taken.without(taken.without(self.due)).count();
        Ok(Submitted { outcomes: self.outcomes, ticket, put_back, kept, expired })
    }

    fn admit(&self) -> Result<&'a Slot, LeaseError> {
        let service = &self.seat.service;
        service.link.check()?;
        if !self.seat.client.is_registered() {
            return Err(LeaseError::NotRegistered);
        }
        if service.state() == ServiceState::Revoked {
            return Err(LeaseError::NotReady { state: ServiceState::Revoked });
        }
        let slot = self.pool.slot(self.index).ok_or(LeaseError::NotOwner)?;
        let seen = slot.snapshot();
        let mine = seen.phase() > Phase::Ready && seen.owner() == self.seat.index;
        if mine { Ok(slot) } else { Err(LeaseError::NotOwner) }
    }

    /// A state needs a lane, and room.
    fn check_state(&self) -> Result<(), LeaseError> {
        let Some(state) = &self.state else { return Ok(()) };
        let limit = self.seat.service.link.limits.lane_state_bytes;
        match self.lane {
            None => Err(LeaseError::NoLane),
            // How it is encoded is not the caller's.
            Some(_) if state.len() - 1 > limit => Err(LeaseError::StateTooLarge { bytes: state.len() - 1, limit }),
            Some(_) => Ok(()),
        }
    }

    /// On a lane, reports are taken in its order, all of them or none.
    fn keep_order(&mut self) -> Result<(), LeaseError> {
        if self.lane.is_none() {
            return Ok(());
        }
        if self.outcomes.is_empty() && self.state.is_some() {
            return Err(LeaseError::NoReports);
        }
        let (bytes, limit) =
            (self.scratch.items.len() + self.state_bytes(), self.seat.service.link.limits.submit_bytes);
        if bytes > limit {
            return Err(LeaseError::TooLarge { bytes, limit });
        }
        self.pass_over();
        let in_order = self.scratch.ready.windows(2).all(|two| matches!(two, [one, next] if one.place < next.place));
        let wanted = self.wanted.first_word();
        let in_one_piece = wanted.leading_zeros() + wanted.count_ones() + wanted.trailing_zeros() == u64::BITS;
        let refused = |outcome: &Outcome| !matches!(outcome, Outcome::Accepted | Outcome::AlreadyDone);
        if self.outcomes.iter().any(refused) || !in_order || !in_one_piece {
            for ready in self.scratch.ready.drain(..) {
                if let Some(outcome) = self.outcomes.get_mut(ready.outcome) {
                    *outcome = Outcome::OutOfOrder;
                }
            }
            self.wanted = Mask::default();
        }
        Ok(())
    }

    /// What needs no report goes with those that come: commands whose deadline has passed, which end as expired; and, of a lease
    /// from before a restart, deleted ones, which have no name by which they could be reported.
    fn pass_over(&mut self) {
        let open = self.pool.slot(self.index).map(Slot::open).unwrap_or_default();
        let last = self.wanted.places().last();
        for place in open.places().filter(|place| !self.wanted.has(*place)).collect::<Vec<_>>() {
            let Some(subject) = self.bucket.subject(place) else { break };
            let expired = self.due.has(place);
            if expired || subject.is_nameless() {
                let item = Item {
                    place: u16::try_from(place).unwrap_or(u16::MAX),
                    rank: subject.rank,
                    depth: subject.depth,
                    round: subject.round,
                    key: subject.key,
                    report: &[],
                    found: &[],
                    beyond: &[],
                    too_deep: 0,
                    expired: expired && !subject.is_nameless(),
                };
                item.append_to(&mut self.scratch.items);
                self.wanted.insert(place);
            } else if last.is_none_or(|last| place > last) {
                break;
            }
        }
    }

    fn state_bytes(&self) -> usize {
        self.state.as_ref().map_or(0, |state| state.len())
    }

    /// What these reports do to the lane that the lease runs.
    fn step(&mut self) -> Option<Step> {
        let run = self.lane?;
        let wanted = self.wanted.first_word();
        let (from, to) = (wanted.trailing_zeros(), u64::BITS - wanted.leading_zeros());
        Some(Step { from, to, state: self.state.take() }).filter(|step| run.owed_from(step.from) != 0)
    }

    /// Takes effect by one compare-and-swap a chunk word; what it did is then on its way to the writer. Says what was taken.
    fn take_effect(&mut self, slot: &Slot) -> Result<(Ticket, Mask), LeaseError> {
        if self.wanted.is_empty() {
            self.count(&Taken::default());
            return Ok((Ticket::nothing(), Mask::default()));
        }
        let link = &self.seat.service.link;
        let bytes = self.scratch.items.len() + self.state_bytes() + Pending::OVERHEAD;
        link.reserve(Precedence::Submit, bytes)?;
        let step = self.step();
        let reports = Reports {
            pool: Arc::clone(self.pool),
            index: self.index,
            client: self.seat.client.id.value(),
            items: self.scratch.hand_over_items(),
            accepted: Mask::default(),
            late: Mask::default(),
            whole: false,
            step: step.clone(),
        };
        let mut node = Arc::new(Node::new(Pending::new(Change::Reported(reports), bytes)));
        let mut open_elsewhere = late::find(self.seat, self.pool, self.index, self.wanted);
        // From here to the push: no plugin code, no allocation, no clock, no guard.
        // Our own bits first: whose lease is over takes nothing from others.
        let mut taken = match (self.lane, &step) {
            (Some(run), Some(step)) => slot.report_front(run.owed_from(step.from), self.wanted.first_word()),
            _ => slot.report(self.wanted),
        };
        #[cfg(test)]
        reached(Point::Cleared);
        let Contest { lost, won, freed } = self.contend(taken.accepted);
        taken.accepted = taken.accepted.without(lost);
        taken.done = taken.done.with(lost);
        let print_of =
            |place| self.scratch.ready.iter().find(|ready| ready.place == place).map_or(0, |ready| ready.print);
        let late = late::take(&mut open_elsewhere, print_of);
        let took_effect = !taken.accepted.is_empty() || !late.is_empty();
        if took_effect {
            set_accepted(&mut node, taken.accepted, late, taken.accepted == self.wanted);
            link.push(Arc::clone(&node));
            if let (Some(run), Some(step)) = (self.lane, &step) {
                run.advance(step);
            }
        }
        self.seat.counts.assigned_late(late.count());
        taken.accepted = taken.accepted.with(late);
        taken.stale = taken.stale.without(late);
        let ledger = &self.seat.service.ledger;
        if !taken.accepted.is_empty() {
            ledger.moved(Move::Reported, self.pool.print(self.index, taken.accepted));
        }
        if !lost.is_empty() {
            ledger.moved(Move::Cleared, self.pool.print(self.index, lost));
        }
        self.settle(&node, &taken);
        self.seat.counts.subjects_put_back.add(u64::from(lost.count()));
        self.settle_contest(won, freed);
        late::settle(self.seat, &open_elsewhere);
        if taken.emptied {
            Hold::finish_slot(self.seat, self.pool, self.index);
        }
        if !took_effect {
            link.give_back(bytes);
            return if self.seat.client.is_registered() {
                Ok((Ticket::nothing(), Mask::default()))
            } else {
                Err(LeaseError::NotRegistered)
            };
        }
        Ok((Ticket::new(node, link.manual), taken.accepted))
    }

    /// Of those cleared here that stood in another bucket when this one was cut, that bucket's bit decides who reports them.
    fn contend(&self, cleared: Mask) -> Contest {
        let mut contest = Contest::default();
        for (place, origin) in self.pool.origins(self.index).filter(|(place, _)| cleared.has(*place)) {
            let Some(slot) = origin.pool.slot(origin.index) else { continue };
            contest.ask(place, slot, origin.place);
        }
        contest
    }

    /// Accounts for what was taken from other buckets.
    fn settle_contest(&self, won: Mask, freed: Mask) {
        if won.is_empty() && freed.is_empty() {
            return;
        }
        for (place, origin) in self.pool.origins(self.index) {
            let service = &self.seat.service;
            let Some(slot) = origin.pool.slot(origin.index) else { continue };
            if freed.has(place) {
                // Closed: what is open was left.
                service.note_taken_back(&origin.pool, origin.index, slot.open());
            }
            if !won.has(place) {
                continue;
            }
            service.ledger.moved(Move::Cleared, origin.pool.print(origin.index, Mask::of(origin.place)));
            Hold::lose_one(self.seat, origin, slot.snapshot().owner());
        }
    }

    /// Puts the outcomes right, counts, and keeps conflicting reports as evidence.
    fn settle(&mut self, node: &Node<Pending>, taken: &Taken) {
        if !taken.emptied {
            // The end of the lease does it, otherwise.
            self.seat.touch(self.seat.service.link.clock.about_now());
        }
        let mut evidence = Mask::default();
        let prints = self.pool.prints_at(self.index);
        let all = taken.accepted == self.wanted;
        for ready in &self.scratch.ready {
            let origin = self.pool.origin(self.index, ready.place);
            if all || taken.accepted.has(ready.place) {
                // Its outcome says so already.
                prints.note(ready.place, ready.print);
                if let Some(origin) = origin {
                    origin.pool.note_print(origin.index, origin.place, ready.print);
                }
                if let Some(category) = ready.category {
                    self.seat.categories.add(category);
                }
                continue;
            }
            let outcome = if taken.behind.has(ready.place) {
                Outcome::OutOfOrder
            } else if taken.stale.has(ready.place) && prints.of(ready.place) == 0 {
                Outcome::Stale
            } else {
                let here = prints.of(ready.place);
                let there = || origin.map_or(0, |origin| origin.pool.print_of(origin.index, origin.place));
                let first = if here == 0 { there() } else { here };
                if first == 0 || first == ready.print {
                    Outcome::AlreadyDone
                } else {
                    evidence.insert(ready.place);
                    Outcome::Conflict
                }
            };
            if let Some(place) = self.outcomes.get_mut(ready.outcome) {
                *place = outcome;
            }
        }
        self.count(taken);
        if !evidence.is_empty() {
            self.keep(node, evidence);
        }
    }

    /// Journals reports that contradict the first one. If the queue is full they are only counted.
    fn keep(&self, node: &Node<Pending>, evidence: Mask) {
        let Change::Reported(reports) = &node.value.change else { return };
        let mut items = Vec::new();
        let mut start = 0;
        for ready in &self.scratch.ready {
            if evidence.has(ready.place) {
                items.extend_from_slice(reports.items.get(start..ready.end).unwrap_or_default());
            }
            start = ready.end;
        }
        let bytes = items.len();
        let conflict = Reports {
            pool: Arc::clone(self.pool),
            index: self.index,
            client: reports.client,
            items,
            accepted: evidence,
            late: Mask::default(),
            whole: true,
            step: None,
        };
        tracing::warn!(client = %self.seat.client.id, service = %self.seat.service.name, "conflicting report");
        drop(self.seat.service.link.send(Precedence::Claim, Change::Conflict(conflict), bytes));
    }

    /// True if every report was accepted: each has its place, and all places wanted were taken.
    fn is_plain(&self, taken: Mask) -> bool {
        self.scratch.ready.len() == self.outcomes.len() && taken == self.wanted
    }

    fn count(&self, taken: &Taken) {
        let counts = &self.seat.counts;
        counts.subjects_reported.add(u64::from(taken.accepted.count()));
        if self.is_plain(taken.accepted) {
            return;
        }
        let strays = self.outcomes.iter().filter(|outcome| **outcome == Outcome::NotInBucket).count();
        if strays > 0 {
            let bucket = (self.pool.generation, self.pool.number(self.index));
            let subjects = u32::try_from(strays).unwrap_or(u32::MAX);
            self.seat.notice(NoticeKind::NotInBucket { bucket, subjects });
        }
        for outcome in &self.outcomes {
            match outcome {
                Outcome::Accepted => {}
                Outcome::AlreadyDone => counts.already_done.add(1),
                Outcome::Conflict => counts.conflicts.add(1),
                Outcome::Rejected { .. } => counts.rejected.add(1),
                Outcome::NotInBucket => counts.not_in_bucket.add(1),
                Outcome::Stale => counts.stale.add(1),
                Outcome::TooLarge { .. } => counts.oversized.add(1),
                Outcome::PluginPanicked => counts.plugin_panics.add(1),
                Outcome::OutOfOrder => counts.out_of_order.add(1),
                Outcome::Expired => counts.past_deadline.add(1),
            }
        }
    }
}

fn set_accepted(node: &mut Arc<Node<Pending>>, accepted: Mask, late: Mask, whole: bool) {
    // Not shared yet: it was made in this call and is pushed after this.
    if let Some(node) = Arc::get_mut(node)
        && let Change::Reported(reports) = &mut node.value.change
    {
        reports.accepted = accepted;
        reports.late = late;
        reports.whole = whole;
    }
}

/// What is wrong with a subject that was to be taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubjectError {
    #[error("the key has {bytes} bytes, allowed are 1 to {limit} (key_bytes)")]
    Key { bytes: usize, limit: usize },
    #[error("the body has {bytes} bytes, the limit is {limit} (body_bytes)")]
    Body { bytes: usize, limit: usize },
    #[error("the lane's key has {bytes} bytes, allowed are 1 to {limit} (key_bytes)")]
    Lane { bytes: usize, limit: usize },
    #[error("{0}")]
    Encode(String),
}

/// Appends a subject to a list of `SubjectRecord`.
pub(crate) fn encode_subject<S: Service>(
    plugin: &S,
    subject: &S::Subject,
    limits: &Limits,
    out: &mut Vec<u8>,
) -> Result<(), SubjectError> {
    let (mut key, mut body) = (Vec::new(), Vec::new());
    let written = contain(|| {
        subject.key().write(&mut key);
        subject.write_body(&mut body).map_err(SubjectError::Encode)?;
        lane_of(plugin, subject, limits.key_bytes)
    });
    let panicked = |panic| Err(SubjectError::Encode(format!("its encoding panicked: {panic}")));
    let (lane, deadline) = written.unwrap_or_else(panicked)?;
    if key.is_empty() || key.len() > limits.key_bytes {
        return Err(SubjectError::Key { bytes: key.len(), limit: limits.key_bytes });
    }
    if body.len() > limits.body_bytes {
        return Err(SubjectError::Body { bytes: body.len(), limit: limits.body_bytes });
    }
    record::append(out, &SubjectRecord { key: &key, lane: &lane, deadline, body: &body });
    Ok(())
}
