//! A seat: claims, and calls on leases by token.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use event_listener::Listener;
use serde::Serialize;
use smallvec::SmallVec;

use crate::audit::{Move, Print};
use crate::claim::{Ask, Claim, Empty, EmptyReason, Grant};
use crate::error::{ClaimError, LeaseError};
use crate::fairness;
use crate::handlers::is_inside;
use crate::house::House;
use crate::id::{ClientId, LeaseToken};
use crate::lane::StateBytes;
use crate::lease::{Hold, Lease, LeaseView, Reporting, Submitted};
use crate::measures::Call;
use crate::notices::NoticeKind;
use crate::pace::spread;
use crate::people::SeatCore;
use crate::pool::{Pool, Terms};
use crate::record::SeatState;
use crate::registry::Found;
use crate::service::{OverAsk, Service, ServiceState, Subject};
use crate::slot::{Cause, Phase};
use crate::sync::{Arc, Ordering};
use crate::watch::Level;

/// A client's activation for one service: what it claims from. Cloning clones the handle.
///
/// # Concurrency
///
/// All methods can be called from any thread, and by several programs that share the client's id. `claim`, `submit`,
/// `report`, `renew` and `release` are lock-free: they take no lock, never touch the disk and never wait for another
/// thread; a thread stopped anywhere inside them stops nobody else.
pub struct Seat<S: Service> {
    pub(crate) house: Arc<House>,
    pub(crate) core: Arc<SeatCore>,
    service: PhantomData<fn() -> S>,
}

impl<S: Service> Clone for Seat<S> {
    fn clone(&self) -> Self {
        Self::new(&self.house, Arc::clone(&self.core))
    }
}

impl<S: Service> fmt::Debug for Seat<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}

/// Who passed the checks before a claim.
struct Admitted {
    /// The client's word.
    word: u32,
    /// The seat's.
    seat: u32,
    state: ServiceState,
    level: Level,
}

/// What a claim took.
struct Taken<S: Service> {
    leases: SmallVec<[Lease<S>; 2]>,
    subjects: u64,
    print: Print,
}

impl<S: Service> Taken<S> {
    fn put(&mut self, seat: &Arc<SeatCore>, pool: Arc<Pool>, index: usize) {
        self.subjects += pool.slot(index).map_or(0, |slot| slot.len() as u64);
        self.print = self.print.plus(pool.bucket_print(index));
        self.leases.push(Lease::new(Arc::clone(seat), pool, index));
    }
}

/// What applies to one claim.
struct Allowance {
    asked: u32,
    limit: u32,
    granted: u32,
    quota: u32,
}

impl<S: Service> Seat<S> {
    pub(crate) fn new(house: &Arc<House>, core: Arc<SeatCore>) -> Self {
        Self { house: Arc::clone(house), core, service: PhantomData }
    }

    /// The client's id.
    #[must_use]
    pub fn client_id(&self) -> ClientId {
        self.core.client.id
    }

    /// What the seat is.
    #[must_use]
    pub fn state(&self) -> SeatState {
        self.core.state()
    }

    /// Takes up to as many buckets as asked for, without ever waiting.
    ///
    /// An ask beyond the cap is clamped (the grant says so) or refused, as the policy says. Scarcity is not an error.
    ///
    /// # Errors
    ///
    /// [`ClaimError`], in this order: the hub, the client, the seat, the service, the queue, the ask. No bucket moved.
    ///
    /// # Concurrency
    ///
    /// Lock-free, no allocation for up to two buckets; a bucket goes to one claim (its slot's compare-and-swap).
    ///
    /// # Durability
    ///
    /// The lease takes effect at once and is journaled with the writer's next group. A crash before that puts the bucket
    /// back: its token is then answered [`LeaseError::Over`] and nothing of it is stored.
    pub fn claim(&self, ask: Ask) -> Result<Claim<S>, ClaimError> {
        let seat = &self.core;
        let timing = seat.timing(&seat.counts.claims);
        let claimed = self.claim_now(ask);
        seat.timed(Call::Claim, &timing);
        claimed.inspect_err(|error| seat.count_claim(error))
    }

    fn claim_now(&self, ask: Ask) -> Result<Claim<S>, ClaimError> {
        let seat = &self.core;
        let admitted = self.admit()?;
        seat.service.link.admit_claim()?;
        let now = seat.service.link.clock.now();
        let current = seat.service.current();
        let allowance = allow(seat, ask, &current.terms, admitted.level, now)?;
        seat.touch(now);
        let turn = turn_of(seat, &current.terms);
        let room = seat.reserve(allowance.granted, allowance.quota, now);
        if room == 0 {
            return Ok(Claim::Empty(self.empty(EmptyReason::QuotaFull, now)));
        }
        let Taken { mut leases, subjects, print } = self.take(current, room as usize, now, turn);
        let got = u32::try_from(leases.len()).unwrap_or(u32::MAX);
        seat.give_back(room - got, now);
        seat.counts.buckets_assigned.add(u64::from(got));
        seat.counts.subjects_assigned.add(subjects);
        if got == 0 {
            return Ok(Claim::Empty(self.empty(self.why_empty(now), now)));
        }
        seat.service.ledger.moved(Move::Assigned, print);
        seat.service.link.writer.raise();
        if !self.is_still(&admitted) {
            self.still_admitted(admitted.word, &mut leases)?;
        }
        let Allowance { asked, limit, .. } = allowance;
        Ok(Claim::Leased(Grant { leases, asked, limit, clamped: asked > limit }))
    }

    /// Leases up to `n` buckets.
    fn take(&self, current: Arc<Pool>, n: usize, now: u64, turn: u64) -> Taken<S> {
        let seat = &self.core;
        let mut taken = Taken { leases: SmallVec::new(), subjects: 0, print: Print::default() };
        if n == 1 && !seat.service.offers_express() {
            let mut found = None;
            current.claim(1, seat.index, now, |index| found = Some(index));
            if let Some(index) = found {
                // What keeps the pool alive for the claim does so for the lease.
                taken.put(seat, current, index);
                return taken;
            }
        }
        seat.service.take(&current, n, seat.index, now, turn, |pool, index| taken.put(seat, Arc::clone(pool), index));
        taken
    }

    /// The checks before a claim.
    fn admit(&self) -> Result<Admitted, ClaimError> {
        let seat = &self.core;
        seat.service.link.check()?;
        let word = seat.client.word();
        if word & 1 == 0 {
            return Err(ClaimError::NotRegistered);
        }
        let standing = seat.word();
        let level = match seat.standing_of(standing) {
            (SeatState::Active, Level::Quarantined) => {
                return Err(ClaimError::Quarantined { why: seat.why().unwrap_or_default() });
            }
            (SeatState::Active, level) => level,
            (SeatState::Inactive, _) => return Err(ClaimError::Inactive),
            (SeatState::Suspended, _) => return Err(ClaimError::Suspended),
        };
        let state = seat.service.state();
        if state.is_ready() {
            Ok(Admitted { word, seat: standing, state, level })
        } else {
            Err(ClaimError::NotReady { state })
        }
    }

    /// True if every word that let the claim in says what it said: then so would the checks.
    fn is_still(&self, admitted: &Admitted) -> bool {
        let seat = &self.core;
        seat.service.link.is_open()
            && seat.client.word() == admitted.word
            && seat.word() == admitted.seat
            && seat.is_granted_by(admitted.word)
            && seat.service.state() == admitted.state
    }

    /// Looks again, after slots were taken and a word was found changed: a deregistration, suspension, quarantine or revocation in between undoes the
    /// claim, so that it is wholly before them or never was.
    #[cold]
    fn still_admitted(&self, word: u32, leases: &mut SmallVec<[Lease<S>; 2]>) -> Result<(), ClaimError> {
        let undone = match self.admit() {
            Ok(now) if now.word == word => return Ok(()),
            Ok(_) => ClaimError::Inactive,
            // A poisoned or closed hub keeps the lease: it is taken back, or goes on, when it is reopened.
            Err(ClaimError::Hub(_)) => return Ok(()),
            Err(error) => error,
        };
        for lease in leases.drain(..) {
            lease.end(Cause::Revoked);
        }
        Err(undone)
    }

    fn empty(&self, reason: EmptyReason, now: u64) -> Empty {
        self.core.counts.empty.add(1);
        self.core.service.counts.starved.add(1);
        let base = match reason {
            EmptyReason::NotYetFormed => self.core.service.counts.forming.time(Duration::from_millis(20)),
            EmptyReason::AllLeased { earliest_free } => {
                earliest_free.clamp(Duration::from_millis(100), Duration::from_secs(60))
            }
            EmptyReason::Cooldown => {
                Duration::from_millis(self.core.service.cooldown_left(self.core.index, now).unwrap_or_default())
            }
            _ => Duration::from_secs(1),
        };
        let turn = (self.core.counts.empty.value() << 32) | u64::from(self.core.index);
        let random = self.core.service.link.secret.scramble(&turn.to_be_bytes());
        // A cooldown is the client's own: it need not be spread widely.
        let window = if reason == EmptyReason::Cooldown { base.min(Duration::from_secs(1)) } else { base };
        Empty { reason, retry_after: spread(base, window / 2, random) }
    }

    fn why_empty(&self, now: u64) -> EmptyReason {
        let service = &self.core.service;
        let counts = &service.counts;
        if counts.waiting.value() > 0 || service.has_ready(self.core.index, now) {
            if service.state() == ServiceState::Paused {
                return EmptyReason::Paused;
            }
            counts.forming.wait(now);
            return EmptyReason::NotYetFormed;
        }
        if service.cooldown_left(self.core.index, now).is_some() {
            return EmptyReason::Cooldown;
        }
        match counts.earliest_free.value() {
            0 => EmptyReason::NothingPending,
            at => EmptyReason::AllLeased { earliest_free: Duration::from_millis(at.saturating_sub(now)) },
        }
    }

    /// Waits until a claim would probably get something; false after `timeout`, or when the hub is poisoned or closed.
    ///
    /// Parks the calling thread. In a manual hub, and inside a lane handler, it answers at once.
    #[must_use]
    pub fn wait_ready(&self, timeout: Duration) -> bool {
        let service = &self.core.service;
        let has_ready = || service.has_ready(self.core.index, service.link.clock.now());
        if service.link.manual || is_inside() {
            return has_ready();
        }
        let deadline = crate::clock::deadline(timeout);
        loop {
            let listener = service.published().listen();
            if !service.link.is_open() {
                return false;
            }
            if has_ready() {
                return true;
            }
            if let Some(deadline) = deadline {
                if listener.wait_deadline(deadline).is_none() {
                    return false;
                }
            } else {
                listener.wait();
            }
        }
    }

    /// Resolves when a claim would probably get something, or when the hub is poisoned or closed; inside a lane handler at
    /// once. Needs no particular runtime.
    pub async fn ready(&self) {
        let service = &self.core.service;
        loop {
            let listener = service.published().listen();
            let now = service.link.clock.now();
            if service.has_ready(self.core.index, now) || !service.link.is_open() || is_inside() {
                return;
            }
            listener.await;
        }
    }

    /// What the client holds of this service, after its crash or after the hub's: every lease, also one whose grant never
    /// arrived. Looking extends nothing.
    ///
    /// # Errors
    ///
    /// [`LeaseError::NotRegistered`], or the hub's.
    ///
    /// # Concurrency
    ///
    /// Reads the slots one after the other; what is claimed or ended meanwhile may be there or not.
    pub fn leases(&self) -> Result<Vec<LeaseView<S>>, LeaseError> {
        let seat = &self.core;
        self.identify().inspect_err(|error| seat.count_call(error))?;
        let mut views = Vec::new();
        let now = seat.service.link.clock.now();
        let wall_ms = seat.service.link.clock.wall_ms();
        seat.service.held_by(seat.index, |pool, index| views.extend(LeaseView::of(pool, index, now, wall_ms)));
        Ok(views)
    }

    /// Takes up a lease again by its token, as a guard: dropping it gives the bucket back.
    ///
    /// # Errors
    ///
    /// [`LeaseError`].
    pub fn resume(&self, token: &LeaseToken) -> Result<Lease<S>, LeaseError> {
        let (pool, index) = self.find(token)?;
        let held = pool.slot(index).is_some_and(|slot| slot.snapshot().is_held());
        if held { Ok(Lease::new(Arc::clone(&self.core), pool, index)) } else { Err(self.counted(LeaseError::Over)) }
    }

    /// Reports on subjects of a lease and gives the rest back. As [`Lease::submit`], by token.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]; nothing was stored.
    pub fn submit(
        &self,
        token: &LeaseToken,
        reports: impl IntoIterator<Item = (<S::Subject as Subject>::Key, S::Report)>,
    ) -> Result<Submitted, LeaseError> {
        let (pool, index) = self.find(token)?;
        Reporting::new(&self.core, &pool, index).run::<S>(reports, true)
    }

    /// Reports on some subjects of a lease and keeps the rest. As [`Lease::report`], by token.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]; nothing was stored.
    pub fn report(
        &self,
        token: &LeaseToken,
        reports: impl IntoIterator<Item = (<S::Subject as Subject>::Key, S::Report)>,
    ) -> Result<Submitted, LeaseError> {
        let (pool, index) = self.find(token)?;
        Reporting::new(&self.core, &pool, index).run::<S>(reports, false)
    }

    /// Reports on the front of a lane, stores its state, and gives the rest back. As [`Lease::submit_lane`], by token.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]; nothing was stored.
    pub fn submit_lane<T: Serialize + ?Sized>(
        &self,
        token: &LeaseToken,
        reports: impl IntoIterator<Item = (<S::Subject as Subject>::Key, S::Report)>,
        state: &T,
    ) -> Result<Submitted, LeaseError> {
        let (pool, index) = self.find(token)?;
        Reporting::new(&self.core, &pool, index).run_lane::<S, T>(reports, state, true)
    }

    /// Reports on the front of a lane, stores its state, and keeps the rest. As [`Lease::report_lane`], by token.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]; nothing was stored.
    pub fn report_lane<T: Serialize + ?Sized>(
        &self,
        token: &LeaseToken,
        reports: impl IntoIterator<Item = (<S::Subject as Subject>::Key, S::Report)>,
        state: &T,
    ) -> Result<Submitted, LeaseError> {
        let (pool, index) = self.find(token)?;
        Reporting::new(&self.core, &pool, index).run_lane::<S, T>(reports, state, false)
    }

    /// As [`submit`](Self::submit) or, if not `last`, [`report`](Self::report), with a lane's state that is encoded already.
    pub(crate) fn hand_in(
        &self,
        token: &LeaseToken,
        reports: Vec<(<S::Subject as Subject>::Key, S::Report)>,
        state: Option<StateBytes>,
        last: bool,
    ) -> Result<Submitted, LeaseError> {
        let (pool, index) = self.find(token)?;
        let reporting = Reporting::new(&self.core, &pool, index);
        let reporting = if let Some(state) = state { reporting.with_state(state) } else { reporting };
        reporting.run::<S>(reports, last)
    }

    /// Extends a lease to a full term from now; returns the time left. As [`Lease::renew`], by token.
    ///
    /// # Errors
    ///
    /// [`LeaseError`].
    pub fn renew(&self, token: &LeaseToken) -> Result<Duration, LeaseError> {
        let (pool, index) = self.find(token)?;
        Hold::renew_slot(&self.core, &pool, index)
    }

    /// Gives a lease back. As [`Lease::release`], by token. Returns the number of subjects put back.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]; [`LeaseError::Over`] if it was over already.
    pub fn release(&self, token: &LeaseToken) -> Result<u32, LeaseError> {
        let (pool, index) = self.find(token)?;
        let ended = Hold::release_slot(&self.core, &pool, index);
        ended.map(|ended| ended.left.count()).ok_or_else(|| self.counted(LeaseError::Over))
    }

    fn counted(&self, error: LeaseError) -> LeaseError {
        self.core.count_call(&error);
        error
    }

    /// May the client make a call on a lease at all?
    fn identify(&self) -> Result<(), LeaseError> {
        self.core.service.link.check()?;
        if self.core.client.is_registered() { Ok(()) } else { Err(LeaseError::NotRegistered) }
    }

    /// The slot a token names, if it is this client's; in the order of identity, service, then token, so that a refusal
    /// says nothing of what is further down. A refusal is counted.
    fn find(&self, token: &LeaseToken) -> Result<(Arc<Pool>, usize), LeaseError> {
        self.find_uncounted(token).inspect_err(|error| self.core.count_call(error))
    }

    fn find_uncounted(&self, token: &LeaseToken) -> Result<(Arc<Pool>, usize), LeaseError> {
        let seat = &self.core;
        self.identify()?;
        let state = seat.service.state();
        if state == ServiceState::Revoked {
            return Err(LeaseError::NotReady { state });
        }
        let not_owner = |kind| {
            seat.notice(kind);
            tracing::warn!(client = %seat.client.id, service = %seat.service.name, ?token, "token of another's lease");
            LeaseError::NotOwner
        };
        match seat.service.find(token) {
            Found::Slot(pool, index) => {
                let owner = pool.slot(index).map(super::slot::Slot::snapshot);
                let owner = owner.filter(|seen| seen.phase() > Phase::Ready).map(super::slot::Snapshot::owner);
                if owner == Some(seat.index) {
                    return Ok((pool, index));
                }
                let holder = owner.and_then(|owner| self.house.people.seats.get(owner as usize));
                let bucket = (token.generation, token.slot);
                Err(not_owner(holder.map_or(NoticeKind::ForgedToken, |holder| NoticeKind::OthersLease {
                    bucket,
                    holder: holder.client.id,
                })))
            }
            Found::Over => Err(LeaseError::Over),
            Found::Forged => {
                seat.service.counts.unknown_tokens.add(1);
                Err(not_owner(NoticeKind::ForgedToken))
            }
        }
    }
}

/// The turn of a claim, which says in what order it looks at the queues: at a place in its round that the client cannot know.
fn turn_of(seat: &SeatCore, terms: &Terms) -> u64 {
    let turn = seat.counts.claims.next() - 1;
    if !seat.service.offers_express() {
        return turn;
    }
    let round = u128::from(fairness::round(turn, terms.ordinary_share));
    let random = seat.service.link.secret.scramble(&((round << 32) | u128::from(seat.index)).to_be_bytes());
    fairness::hidden(turn, terms.ordinary_share, random)
}

/// The least of: the ask, the seat's declaration, the policy's cap, and what the seat's history lets expect.
fn allow(seat: &SeatCore, ask: Ask, terms: &Terms, level: Level, now: u64) -> Result<Allowance, ClaimError> {
    if ask.buckets == 0 || ask.subjects == Some(0) {
        return Err(ClaimError::Nothing);
    }
    // ordering: Relaxed, both; caps, read as they are.
    let declared = seat.declared_claim.load(Ordering::Relaxed).max(1);
    let quota = seat.declared_leases.load(Ordering::Relaxed).max(1).min(terms.leases_in_flight);
    let limit = terms.buckets_per_claim.min(declared);
    if ask.buckets > limit {
        seat.counts.over_ask.add(1);
        if terms.over_ask == OverAsk::Reject {
            return Err(ClaimError::TooMany { asked: ask.buckets, limit });
        }
    }
    // Not counted as asking for too much: the client cannot know.
    let limit = if level == Level::Suspect && terms.suspect_one_bucket { 1 } else { limit };
    let most = ask.buckets.min(limit);
    if most == 1 {
        // Neither what it wants nor what its history lets expect is less than one bucket.
        return Ok(Allowance { asked: ask.buckets, limit, granted: 1, quota });
    }
    let buckets_of = |subjects: u64| (subjects / terms.bucket_subjects.max(1) as u64).max(1);
    let time = ask.time.unwrap_or(Duration::from_millis(terms.lease_ms));
    let expected = seat.expected_subjects(time, now).map_or(u64::MAX, buckets_of);
    let wanted = ask.subjects.map_or(u64::MAX, |n| buckets_of(n as u64));
    let granted = u64::from(most).min(expected).min(wanted);
    Ok(Allowance { asked: ask.buckets, limit, granted: u32::try_from(granted).unwrap_or(limit), quota })
}
