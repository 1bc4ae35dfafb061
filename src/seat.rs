//! A seat: claims, and calls on leases by token.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use smallvec::SmallVec;

use crate::claim::{Ask, Claim, Grant};
use crate::current::Held;
use crate::error::{ClaimError, LeaseError};
use crate::handlers::is_inside;
use crate::house::House;
use crate::id::{ClientId, LeaseToken};
use crate::lane::StateBytes;
use crate::lease::{Hold, Lease, LeaseView, Reporting, Submitted};
use crate::notices::NoticeKind;
use crate::people::SeatCore;
use crate::pool::Pool;
use crate::record::SeatState;
use crate::registry::Found;
use crate::serve::Served;
use crate::service::{Service, ServiceState, Subject};
use crate::slot::{Cause, Phase};
use crate::sync::Arc;
use crate::sync::event_listener::Listener;

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
        let mut leases = SmallVec::new();
        let took = &mut |pool, index| leases.push(Lease::new(Arc::clone(&self.core), pool, index));
        match self.core.serve(ask, took) {
            Ok(Served::Granted { asked, limit }) => {
                Ok(Claim::Leased(Grant { leases, asked, limit, clamped: asked > limit }))
            }
            Ok(Served::Empty(empty)) => Ok(Claim::Empty(empty)),
            Err(error) => {
                leases.into_iter().for_each(|lease| lease.end(Cause::Revoked));
                Err(error)
            }
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
        if held {
            Ok(Lease::new(Arc::clone(&self.core), Held::Pool(pool), index))
        } else {
            Err(self.counted(LeaseError::Over))
        }
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
