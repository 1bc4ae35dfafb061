//! Calls that were refused as a whole, by why.

use std::ops::AddAssign;

use serde::Serialize;

use crate::error::{ClaimError, HubError, JsonError, LeaseError};
use crate::people::SeatCore;
use crate::sync::Counter;

/// Claims, and calls on leases, that were refused as a whole, by why; since the hub was opened. Each refusal is counted in
/// one of these, but for tokens that prove nothing and renewals beyond the cap, which are
/// [`Faults::not_owner`](crate::Faults::not_owner) and [`Faults::renewals_capped`](crate::Faults::renewals_capped).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Refused {
    /// The client was not registered.
    pub not_registered: u64,
    /// The seat was not active: idle for too long, or the client was deregistered meanwhile.
    pub inactive: u64,
    /// An administrator had suspended the client for the service.
    pub suspended: u64,
    /// The client was quarantined for malfunction.
    pub quarantined: u64,
    /// The service was not ready.
    pub not_ready: u64,
    /// Claims for no bucket or no subject.
    pub nothing: u64,
    /// Claims for more buckets than the cap, where the policy is to refuse; submits of too many reports.
    pub too_many: u64,
    /// Submits whose reports were too large together; bodies given by name that were too large.
    pub too_large: u64,
    /// Bodies given by name that were not what the call takes; lanes' states where there was no lane or no report, or that
    /// could not be encoded.
    pub malformed: u64,
    /// Calls on leases that were over.
    pub over: u64,
    /// Renewals of dead leases.
    pub dead: u64,
    /// Too much waited to be written.
    pub busy: u64,
    /// The hub was closed or poisoned.
    pub closed: u64,
}

impl AddAssign for Refused {
    fn add_assign(&mut self, other: Self) {
        self.not_registered += other.not_registered;
        self.inactive += other.inactive;
        self.suspended += other.suspended;
        self.quarantined += other.quarantined;
        self.not_ready += other.not_ready;
        self.nothing += other.nothing;
        self.too_many += other.too_many;
        self.too_large += other.too_large;
        self.malformed += other.malformed;
        self.over += other.over;
        self.dead += other.dead;
        self.busy += other.busy;
        self.closed += other.closed;
    }
}

/// The counts behind [`Refused`].
#[derive(Debug, Default)]
pub(crate) struct RefusedCounts {
    not_registered: Counter,
    inactive: Counter,
    suspended: Counter,
    quarantined: Counter,
    not_ready: Counter,
    nothing: Counter,
    too_many: Counter,
    too_large: Counter,
    malformed: Counter,
    over: Counter,
    dead: Counter,
    busy: Counter,
    closed: Counter,
}

impl RefusedCounts {
    pub(crate) fn read(&self) -> Refused {
        Refused {
            not_registered: self.not_registered.value(),
            inactive: self.inactive.value(),
            suspended: self.suspended.value(),
            quarantined: self.quarantined.value(),
            not_ready: self.not_ready.value(),
            nothing: self.nothing.value(),
            too_many: self.too_many.value(),
            too_large: self.too_large.value(),
            malformed: self.malformed.value(),
            over: self.over.value(),
            dead: self.dead.value(),
            busy: self.busy.value(),
            closed: self.closed.value(),
        }
    }

    fn hub(&self, error: &HubError) -> &Counter {
        match error {
            HubError::Busy { .. } => &self.busy,
            HubError::Closed | HubError::Poisoned { .. } => &self.closed,
        }
    }
}

impl SeatCore {
    /// Counts a refused claim.
    pub(crate) fn count_claim(&self, error: &ClaimError) {
        let refused = &self.refused;
        let counter = match error {
            ClaimError::NotRegistered => &refused.not_registered,
            ClaimError::Inactive => &refused.inactive,
            ClaimError::Suspended => &refused.suspended,
            ClaimError::Quarantined { .. } => &refused.quarantined,
            ClaimError::NotReady { .. } => &refused.not_ready,
            ClaimError::Nothing => &refused.nothing,
            ClaimError::TooMany { .. } => &refused.too_many,
            ClaimError::Hub(error) => refused.hub(error),
        };
        counter.add(1);
        self.counts.claims_refused.add(1);
    }

    /// Counts a refused call on a lease.
    pub(crate) fn count_call(&self, error: &LeaseError) {
        let refused = &self.refused;
        let counter = match error {
            LeaseError::NotRegistered => &refused.not_registered,
            LeaseError::NotOwner => &self.counts.not_owner,
            LeaseError::Over => &refused.over,
            LeaseError::Dead => &refused.dead,
            LeaseError::Capped { .. } => &self.counts.renewals_capped,
            LeaseError::NotReady { .. } => &refused.not_ready,
            LeaseError::TooMany { .. } => &refused.too_many,
            LeaseError::TooLarge { .. } | LeaseError::StateTooLarge { .. } => &refused.too_large,
            LeaseError::NoLane | LeaseError::NoReports | LeaseError::State { .. } => &refused.malformed,
            LeaseError::Hub(error) => refused.hub(error),
        };
        counter.add(1);
    }

    /// Counts a body that was refused before the call it was for was made. Other errors are counted by that call.
    pub(crate) fn count_body(&self, error: &JsonError) {
        match error {
            JsonError::TooLarge { .. } => self.refused.too_large.add(1),
            JsonError::Malformed(_) => self.refused.malformed.add(1),
            _ => {}
        }
    }
}
