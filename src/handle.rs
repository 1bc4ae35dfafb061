//! A registered service, as its owner and its administrator hold it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::apply::FinishedLease;
use crate::commit::{Change, Decision, Pending};
use crate::error::{AddError, AdminError, KeysError, ReadError, RetractError, UrgentError};
use crate::explain::{self, Explanation};
use crate::history::{self, Version};
use crate::house::House;
use crate::id::ClientId;
use crate::intake;
use crate::keys;
use crate::lane::LaneKey;
use crate::lane_status::{self, LaneQueue, LaneStatus};
use crate::limits::Limits;
use crate::link::Precedence;
use crate::lists::{self, PendingCursor, PendingSubject};
use crate::people::SeatCore;
use crate::record::{SeatState, SeatValue};
use crate::registry::ServiceCore;
use crate::results::{self, Finding, Marked, SubjectState, bytes_of};
use crate::retract::{self, Retraction};
use crate::service::{Key, Policy, Service, ServiceState, Subject, contain};
use crate::slot::Cause;
use crate::stats::{self, SeatStats, ServiceStats};
use crate::sync::Arc;
use crate::ticket::{Intake, Ticket};
use crate::trace::{self, Trace};
use crate::watch::Level;

/// How a service is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoke {
    /// Finished work is taken until each lease's natural end.
    Drain,
    /// Finished work is not taken either: what is held is put back at once.
    Immediate,
}

/// One lease that took, or is taking, long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SlowBucket {
    /// Who holds or held it.
    pub client: ClientId,
    /// How long it took, or has taken so far.
    pub took: Duration,
    /// It is held still.
    pub held: bool,
    /// Why it was put back, if it was.
    pub put_back: Option<Cause>,
    /// The pool's generation and the slot, as the journal names them.
    pub bucket: (u64, u32),
}

/// A registered service. Cloning clones the handle.
///
/// # Concurrency
///
/// All methods can be called from any thread. Reads of results touch the store, and so may touch the disk; they never
/// hold anyone up.
pub struct ServiceHandle<S: Service> {
    house: Arc<House>,
    core: Arc<ServiceCore>,
    service: PhantomData<fn() -> S>,
}

impl<S: Service> Clone for ServiceHandle<S> {
    fn clone(&self) -> Self {
        Self::new(&self.house, Arc::clone(&self.core))
    }
}

impl<S: Service> fmt::Debug for ServiceHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServiceHandle").field(&self.core.name).finish()
    }
}

/// The key type of a service's subjects.
pub type KeyOf<S> = <<S as Service>::Subject as Subject>::Key;

impl<S: Service> ServiceHandle<S> {
    pub(crate) fn new(house: &Arc<House>, core: Arc<ServiceCore>) -> Self {
        Self { house: Arc::clone(house), core, service: PhantomData }
    }

    pub(crate) fn core(&self) -> &Arc<ServiceCore> {
        &self.core
    }

    /// The service's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.core.name
    }

    /// Takes in one subject. One that is known already changes nothing, and one that meets a limit is refused; the ticket's
    /// [`Intake`] tells, and [names](Intake::refused) the limit.
    ///
    /// # Errors
    ///
    /// [`AddError`]; nothing was taken in.
    pub fn add(&self, subject: &S::Subject) -> Result<Ticket, AddError> {
        intake::send::<S>(&self.core, std::slice::from_ref(subject))
    }

    /// Takes in any number of subjects, in their order, and returns when reads see all of them; but for those that meet a limit,
    /// which are [named](Intake::refused).
    ///
    /// Parks the calling thread while the queue is full or the last subjects are on their way; memory is bounded by the
    /// queue. In a manual hub it does the writer's work itself.
    ///
    /// # Errors
    ///
    /// [`AddError`] says how many were taken in before.
    pub fn add_all(&self, subjects: impl IntoIterator<Item = S::Subject>) -> Result<Intake, AddError> {
        intake::send_all::<S>(&self.house, &self.core, subjects)
    }

    /// Opens a new round of work on subjects that are done; their results stay in force until new ones come.
    ///
    /// The ticket's [`Intake`]: `added` rounds were opened; `duplicates` keys changed nothing, since a round of theirs is
    /// open already or they are not known, not marked or withdrawn.
    ///
    /// # Errors
    ///
    /// [`KeysError`]; no round was opened.
    ///
    /// # Concurrency
    ///
    /// Lock-free. Takes effect where it stands in the journal; the subjects wait as the youngest.
    pub fn rerun(&self, keys: &[KeyOf<S>]) -> Result<Ticket, KeysError> {
        keys::send(&self.core.link, self.core.id, Decision::Rerun, keys)
    }

    /// Puts subjects to work that were discovered too deep for it. Their depth stays: what they reveal lies deeper still. A
    /// marked subject counts as added by hand, also if it was to be worked on before: no retraction takes it away.
    ///
    /// The ticket's [`Intake`]: `added` are marked now; `duplicates` were marked before, are withdrawn or not known.
    ///
    /// # Errors
    ///
    /// [`KeysError`]; none was marked.
    ///
    /// # Concurrency
    ///
    /// As [`rerun`](Self::rerun).
    pub fn mark(&self, keys: &[KeyOf<S>]) -> Result<Ticket, KeysError> {
        keys::send(&self.core.link, self.core.id, Decision::Mark, keys)
    }

    /// Deletes subjects, in whatever state: their results, history and pending work are unreadable once the ticket is
    /// visible. What stays is a tombstone: a hash of the key, and when.
    ///
    /// A client that holds one of them is not told: its report is answered as accepted and dropped
    /// ([`ServiceStats::discarded`]). A subject added again begins a new life, on which reports from the old one never
    /// land. [`Hub::delete_everywhere`](crate::Hub::delete_everywhere) deletes in every service.
    ///
    /// The ticket's [`Intake`]: `added` were deleted; `duplicates` are not known.
    ///
    /// # Errors
    ///
    /// [`KeysError`]; none was deleted.
    ///
    /// # Concurrency
    ///
    /// As [`rerun`](Self::rerun).
    pub fn delete(&self, keys: &[KeyOf<S>]) -> Result<Ticket, KeysError> {
        keys::send(&self.core.link, self.core.id, Decision::Delete, keys)
    }

    /// Withdraws what a client reported from `from` on and before `to`, by the wall clock of the journal. Where an earlier
    /// result holds, it is in force again; without one the subject is put to work again. Subjects that would not be known
    /// without the withdrawn results are taken away with all that was reported on them, also through others and in
    /// circles; a subject added by hand, or revealed by a report that holds, stays. One that is taken away is as unknown as
    /// one never seen, and is taken in anew when it is added or discovered again.
    ///
    /// [`suspend`](Self::suspend) the client first. What it reports while this runs is withdrawn too, if it is in the
    /// window, and searched for again, a bounded number of times; what it reports afterwards holds.
    ///
    /// See [`docs::protocol`](crate::docs::protocol), "Retraction", for what is exact and what is not.
    ///
    /// # Errors
    ///
    /// [`RetractError`] says whether anything was changed.
    ///
    /// # Panics
    ///
    /// Never; [`Service::discover`] is called for stored reports, on this thread, and its panics are caught.
    ///
    /// # Concurrency
    ///
    /// Blocks the caller: an operator's call, which reads every result of the service, at least twice, and asks the plugin
    /// what each reveals. Memory is bounded by the keys of the client's results and of what they led to. It holds nobody up;
    /// two at a time are right, too. In a manual hub it does the writer's work itself.
    ///
    /// # Durability
    ///
    /// Durable and visible when it returns. Journaled in parts: after a crash in the middle some of it holds, and the same
    /// call again does the rest.
    pub fn retract(&self, client: u64, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<Retraction, RetractError> {
        retract::retract::<S>(&self.house, &self.core, client, (from, to))
    }

    /// [`retract`](Self::retract)s everything that a client ever reported.
    ///
    /// # Errors
    ///
    /// As [`retract`](Self::retract).
    pub fn retract_all(&self, client: u64) -> Result<Retraction, RetractError> {
        self.retract(client, DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC)
    }

    /// Undoes a retraction: its results and subjects hold again. If nothing happened in between, reads are as before it. A
    /// result that came in since stays in force, and so does a subject that was taken in anew. One that was urgent is so no more.
    ///
    /// # Errors
    ///
    /// As [`retract`](Self::retract).
    ///
    /// # Concurrency
    ///
    /// As [`retract`](Self::retract), without the plugin.
    pub fn restore(&self, id: u64) -> Result<Retraction, RetractError> {
        retract::restore(&self.house, &self.core, id)
    }

    /// The retractions that are in force, oldest first.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn retractions(&self) -> Result<Vec<Retraction>, ReadError> {
        retract::all(self.house.store.as_ref(), self.core.id)
    }

    /// Marks subjects urgent: they are offered before all others, at once. What becomes of one that stands in a bucket, or is
    /// being worked on, is the policy's to say ([`Policy::urgent`]). Marking again changes nothing. The marks survive a restart,
    /// and end with the subject's report.
    ///
    /// Says for each key, in their order, what was found when it was looked up; a subject whose addition is not
    /// [visible](crate::Progress::Visible) yet is unknown.
    ///
    /// # Errors
    ///
    /// [`UrgentError`]; nothing was changed.
    ///
    /// # Concurrency
    ///
    /// Reads the store on the calling thread. A subject reported meanwhile stays reported.
    ///
    /// # Durability
    ///
    /// The ticket tells. The marks take effect when they are visible.
    pub fn prioritize(&self, keys: &[KeyOf<S>]) -> Result<(Vec<Marked>, Ticket), UrgentError> {
        let limit = Limits::URGENT_KEYS;
        if keys.len() > limit {
            return Err(UrgentError::TooMany { keys: keys.len(), limit });
        }
        self.house.link.check()?;
        let mut marked = Vec::with_capacity(keys.len());
        let mut ranks = Vec::new();
        for key in keys {
            let (mark, rank) = results::mark::<S>(self.house.store.as_ref(), self.core.id, key)?;
            marked.push(mark);
            ranks.extend(rank);
        }
        if ranks.is_empty() {
            return Ok((marked, Ticket::nothing()));
        }
        let bytes = ranks.len() * 10;
        let ticket =
            self.house.link.send(Precedence::Submit, Change::Urgent { service: self.core.id, ranks }, bytes)?;
        Ok((marked, ticket))
    }

    /// The result of a subject, if it has one. For a subject with more than one version its history is read.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn result(&self, key: &KeyOf<S>) -> Result<Option<Finding<S>>, ReadError> {
        results::one(self.house.store.as_ref(), &self.core, key)
    }

    /// The stored bytes of a subject's report (postcard), for when the plugin's type has changed.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn result_raw(&self, key: &KeyOf<S>) -> Result<Option<Vec<u8>>, ReadError> {
        results::raw::<S>(self.house.store.as_ref(), self.core.id, key)
    }

    /// Up to `limit` results after `after` (from the start, if `None`), in key order, and the key to go on from; `None`
    /// at the end. Weakly consistent: what is reported during a walk may be there or not.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    #[expect(clippy::type_complexity, reason = "a page and its cursor")]
    pub fn results(
        &self,
        after: Option<&KeyOf<S>>,
        limit: usize,
    ) -> Result<(Vec<Finding<S>>, Option<KeyOf<S>>), ReadError> {
        results::page(self.house.store.as_ref(), &self.core, after, limit)
    }

    /// Every report that was accepted on a subject since it was taken in, in the order of the journal, and what became of
    /// each. What the plugin calls the same ([`Service::same`]) is found out now.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    ///
    /// # Concurrency
    ///
    /// As a whole from one moment; it is read again if it changed meanwhile.
    pub fn history(&self, key: &KeyOf<S>) -> Result<Vec<Version<S>>, ReadError> {
        history::history(self.house.store.as_ref(), &self.core, key)
    }

    /// What held on a subject at a moment of the wall clock: of the versions journaled at or before it, and not withdrawn,
    /// the last one in the journal.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn as_of(&self, key: &KeyOf<S>, moment: DateTime<Utc>) -> Result<Option<Version<S>>, ReadError> {
        history::as_of(self.house.store.as_ref(), &self.core, key, moment)
    }

    /// Versions that a client reported within a window of the wall clock (its end not included), withdrawn ones too; subject
    /// by subject after `after`, in key order, and the key to go on from; `None` at the end.
    ///
    /// All versions of a subject are on one page, so a page may hold more than `limit`. A scan: it reads every subject of
    /// the service on its way. Weakly consistent.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    #[expect(clippy::type_complexity, reason = "a page and its cursor")]
    pub fn results_by(
        &self,
        client: u64,
        window: &Range<DateTime<Utc>>,
        after: Option<&KeyOf<S>>,
        limit: usize,
    ) -> Result<(Vec<Version<S>>, Option<KeyOf<S>>), ReadError> {
        history::by_client(self.house.store.as_ref(), &self.core, client, window, after, limit)
    }

    /// Up to `limit` subjects that are known and not marked for work, after `after` (from the start, if `None`), in key
    /// order, and the key to go on from; `None` at the end.
    ///
    /// Every subject that is unmarked during a whole walk is met exactly once, none that was marked before it began; in
    /// between it is weakly consistent. It holds no writer up.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    #[expect(clippy::type_complexity, reason = "a page and its cursor")]
    pub fn unmarked(
        &self,
        after: Option<&KeyOf<S>>,
        limit: usize,
    ) -> Result<(Vec<S::Subject>, Option<KeyOf<S>>), ReadError> {
        lists::unmarked::<S>(self.house.store.as_ref(), &self.core, after, limit)
    }

    /// Up to `limit` subjects that wait or are being worked on for longer than `least`, oldest first, and where to go on;
    /// `None` at the end. Weakly consistent: one that is reported during a walk may be there or not.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn pending_longer_than(
        &self,
        least: Duration,
        after: Option<PendingCursor>,
        limit: usize,
    ) -> Result<(Vec<PendingSubject<S>>, Option<PendingCursor>), ReadError> {
        lists::pending_longer_than(self.house.store.as_ref(), &self.core, least, after, limit)
    }

    /// What is known of a subject.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn subject_state(&self, key: &KeyOf<S>) -> Result<SubjectState, ReadError> {
        results::state::<S>(self.house.store.as_ref(), self.core.id, key)
    }

    /// How a subject came to be where it is, step by step: taken in, leased, reported, put back; and where it is now.
    ///
    /// An operator's tool: it reads the whole journal, on the calling thread; its memory is bounded by
    /// `Limits::explained_steps`.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    ///
    /// # Concurrency
    ///
    /// As [`Hub::events`](crate::Hub::events). What happens meanwhile may be in the last line and not in the steps.
    pub fn explain(&self, key: &KeyOf<S>) -> Result<Explanation, ReadError> {
        let show = |bytes: &[u8]| {
            let key = contain(|| KeyOf::<S>::read(bytes).map(|key| format!("{key:?}"))).ok().flatten();
            key.unwrap_or_else(|| "a subject whose key cannot be read".to_owned())
        };
        explain::of_subject(&self.house, &self.core, &bytes_of::<S>(key), &show)
    }

    /// What became of a bucket, named by its pool's generation and its slot, as in events and slow buckets.
    ///
    /// An operator's tool, as [`explain`](Self::explain).
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn explain_bucket(&self, generation: u64, slot: u32) -> Result<Explanation, ReadError> {
        explain::of_bucket(&self.house, &self.core, (generation, slot))
    }

    /// Where a subject's result came from, and every other report on it; `None` if it has no result.
    ///
    /// An operator's tool: it reads the whole journal, on the calling thread.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn trace(&self, key: &KeyOf<S>) -> Result<Option<Trace>, ReadError> {
        trace::of_subject(&self.house, &self.core, &bytes_of::<S>(key))
    }

    /// A lane as the store knows it: its state, what it owes, and the position that this reflects. `None` if it owes nothing
    /// and nothing was ever reported on it.
    ///
    /// What was reported and is not visible yet is not in it; whoever holds a lease of it sees more
    /// ([`Lease::lane`](crate::Lease::lane)).
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    ///
    /// # Concurrency
    ///
    /// Holds nobody up. As a whole from one moment; it is read again if it changed meanwhile.
    pub fn lane(&self, key: &LaneKey) -> Result<Option<LaneStatus>, ReadError> {
        lane_status::read(&self.house, &self.core, key)
    }

    /// The lanes whose fronts wait longest, longest first: up to `limit`, and at most [`LaneQueue::LISTED_MOST`]. Every other
    /// lane's front waits no longer than the last one listed. As they were up to half a second ago.
    ///
    /// # Concurrency
    ///
    /// Wait-free: the list is published by the caretaker that knows it.
    #[must_use]
    pub fn lanes(&self, limit: usize) -> Vec<LaneQueue> {
        lane_status::longest(&self.core, limit)
    }

    /// Where the service is in its life.
    #[must_use]
    pub fn state(&self) -> ServiceState {
        self.core.state()
    }

    /// Every count of the service.
    #[must_use]
    pub fn stats(&self) -> ServiceStats {
        stats::of_service(&self.house, &self.core)
    }

    /// Every count of one client's seat; `None` if it was never activated.
    #[must_use]
    pub fn seat_stats(&self, client: u64) -> Option<SeatStats> {
        Some(stats::of_seat(self.seat_core(client)?.as_ref()))
    }

    /// True if the subject of a key waits or is being worked on, so far as the store tells.
    pub(crate) fn is_owed(&self, key: &[u8]) -> bool {
        results::is_owed(self.house.store.as_ref(), self.core.id, key).unwrap_or(true)
    }

    fn seat_core(&self, client: u64) -> Option<Arc<SeatCore>> {
        let client = self.house.people.client(client)?;
        self.house.people.seat_of(&client, self.core.id)
    }

    /// The settings in force.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy::clone(&self.core.policy())
    }

    /// Changes the settings: they hold for the pools formed from now on, never for buckets and leases already given.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; nothing was changed.
    pub fn set_policy(&self, policy: Policy) -> Result<(), AdminError> {
        policy.check().map_err(|(field, range)| AdminError::Policy { field, range })?;
        self.house.link.check()?;
        let journal = policy.bounds() != self.core.policy().bounds();
        let room = if journal { Some(self.house.room_for_service(&self.core)?) } else { None };
        self.house.in_turn(|| {
            self.core.set_policy(policy);
            if let Some(room) = room {
                drop(self.house.send_service(&self.core, room));
            }
        });
        self.house.link.steward.raise();
        Ok(())
    }

    /// Stops the forming of buckets; those formed are handed out. Stays until [`activate`](Self::activate), also when
    /// the owner registers the service again.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; nothing was changed.
    pub fn pause(&self) -> Result<Ticket, AdminError> {
        self.change(ServiceState::Paused)
    }

    /// Revokes the service: from here on nothing is handed out. Everything known about it stays readable.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; nothing was changed.
    ///
    /// # Concurrency
    ///
    /// A claim that races with it is wholly before it, or is undone and refused.
    pub fn revoke(&self, how: Revoke) -> Result<Ticket, AdminError> {
        match how {
            Revoke::Drain => self.change(ServiceState::Draining),
            Revoke::Immediate => {
                let ticket = self.change(ServiceState::Revoked)?;
                for (_, seat) in self.house.people.seats.iter().filter(|(_, seat)| seat.service.id == self.core.id) {
                    seat.end_all(Cause::Revoked);
                }
                Ok(ticket)
            }
        }
    }

    /// Makes a paused, revoked or degraded service ready again.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; nothing was changed.
    pub fn activate(&self) -> Result<Ticket, AdminError> {
        self.core.forget_panics();
        self.change(ServiceState::Active)
    }

    fn change(&self, state: ServiceState) -> Result<Ticket, AdminError> {
        self.house.link.check()?;
        // Room first: a change that could not be journaled does not happen, not even for a moment.
        let room = self.house.room_for_service(&self.core)?;
        let (before, ticket) =
            self.house.in_turn(|| (self.core.set_state(state), self.house.send_service(&self.core, room)));
        tracing::info!(service = %self.core.name, %before, %state, "service state changed");
        self.house.link.steward.raise();
        Ok(ticket)
    }

    /// Bars a client from this service: what it holds is put back, and its own activation cannot undo it. Survives a
    /// restart.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; nothing was changed.
    pub fn suspend(&self, client: u64) -> Result<Ticket, AdminError> {
        self.house.link.check()?;
        let unknown = AdminError::UnknownClient { id: client };
        let Some(core) = self.house.people.client(client) else { return Err(unknown) };
        let value = SeatValue::fresh();
        let Ok(seat) = self.house.people.seat(&core, &self.core, value) else { return Err(unknown) };
        let ticket = self.decide(&seat, SeatState::Suspended)?;
        seat.end_all(Cause::Revoked);
        Ok(ticket)
    }

    /// Lifts the bar from a suspended client. It must activate again. Changes nothing if there was no bar.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; nothing was changed.
    pub fn reinstate(&self, client: u64) -> Result<Ticket, AdminError> {
        self.house.link.check()?;
        if self.house.people.client(client).is_none() {
            return Err(AdminError::UnknownClient { id: client });
        }
        match self.seat_core(client) {
            Some(seat) if seat.state() == SeatState::Suspended => self.decide(&seat, SeatState::Inactive),
            _ => Ok(Ticket::nothing()),
        }
    }

    /// Makes a suspected or quarantined client healthy again: its claims are served from here on. Survives a restart.
    /// Changes nothing if it is healthy.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; nothing was changed.
    pub fn clear(&self, client: u64) -> Result<Ticket, AdminError> {
        let link = &self.house.link;
        link.check()?;
        if self.house.people.client(client).is_none() {
            return Err(AdminError::UnknownClient { id: client });
        }
        let Some(seat) = self.seat_core(client) else { return Ok(Ticket::nothing()) };
        let why = Arc::new("cleared by an administrator".to_owned());
        // Room first: a decision that could not be journaled is not made.
        let room = Pending::OVERHEAD + why.len();
        link.reserve(Precedence::Submit, room)?;
        let ticket = self.house.people.in_turn(client, || {
            let level = Level::Healthy;
            let from = seat.level();
            let changed = from != level && seat.set_level(from, level, &why, link.clock.now());
            changed.then(|| link.post(Change::Level { service: self.core.id, client, level, why }, room))
        });
        if ticket.is_some() {
            tracing::info!(client, service = %self.core.name, "level of a client cleared by an administrator");
        } else {
            link.give_back(room);
        }
        Ok(ticket.unwrap_or_else(Ticket::nothing))
    }

    /// The seats that are suspect or quarantined, each with the reason.
    #[must_use]
    pub fn unhealthy(&self) -> Vec<SeatStats> {
        stats::of_unhealthy(&self.house, &self.core)
    }

    /// Makes and journals an administrator's decision on a seat.
    fn decide(&self, seat: &SeatCore, state: SeatState) -> Result<Ticket, AdminError> {
        let (link, client) = (&self.house.link, seat.client.id.value());
        // Room first: a decision that could not be journaled is not made.
        link.reserve(Precedence::Submit, Pending::OVERHEAD)?;
        let ticket = self.house.people.in_turn(client, || {
            seat.set_suspended(state == SeatState::Suspended);
            link.post(Change::Seat { service: self.core.id, client, state }, Pending::OVERHEAD)
        });
        tracing::info!(client, service = %self.core.name, ?state, "seat state set by an administrator");
        Ok(ticket)
    }

    /// Leases that took longer than `threshold`, or have so far: those held now, then the slowest of the finished ones
    /// since the hub was opened (at most `Limits::slow_leases`), slowest first.
    #[must_use]
    pub fn slow_buckets(&self, threshold: Duration) -> Vec<SlowBucket> {
        let now = self.core.link.clock.now();
        let mut slow = Vec::new();
        for pool in self.core.live().iter() {
            for (index, slot) in pool.passed() {
                let seen = slot.snapshot();
                let Some(seat) = self.house.people.seats.get(seen.owner() as usize) else { continue };
                if !seen.is_held() {
                    continue;
                }
                let took = Duration::from_millis(now.saturating_sub(pool.claimed_at(slot)));
                if took > threshold {
                    let bucket = (pool.generation, pool.number(index));
                    slow.push(SlowBucket { client: seat.client.id, took, held: true, put_back: None, bucket });
                }
            }
        }
        let finished = self.core.slow.load();
        slow.extend(finished.iter().map(finished_bucket).filter(|lease| lease.took > threshold));
        slow
    }
}

fn finished_bucket(lease: &FinishedLease) -> SlowBucket {
    SlowBucket {
        client: ClientId::known(lease.client),
        took: Duration::from_millis(lease.ended_at.saturating_sub(lease.claimed_at)),
        held: false,
        put_back: lease.put_back,
        bucket: (lease.generation, lease.slot),
    }
}
