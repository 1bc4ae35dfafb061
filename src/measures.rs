//! The times that are measured for a service and for a seat, and where they come from.
//!
//! The times of leases and subjects are noted by the storekeeper, as it makes reports visible: a submit pays nothing for them.
//! Calls are timed on their caller's thread, one in [`SAMPLED`].

use arc_swap::ArcSwapOption;
use serde::Serialize;

use crate::commit::Reports;
use crate::histogram::{Coarse, Distribution, Fine};
use crate::people::SeatCore;
use crate::sync::Arc;

/// Of how many calls of a seat one is timed.
const SAMPLED: u64 = 64;

/// The calls that are timed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call {
    Claim,
    Submit,
    Renew,
    Release,
}

/// The times of one service. About 20 KiB.
#[derive(Debug, Default)]
pub(crate) struct Measures {
    wait: Fine,
    hold: Fine,
    turnaround: Fine,
    claim: Fine,
    submit: Fine,
    renew: Fine,
    release: Fine,
    /// Every activation: a cold call.
    pub(crate) activate: Fine,
}

/// Times of one service since the hub was opened.
///
/// Times in ms are hub time as the journal has it: a report counts from when its group was written, and time during which
/// the hub was closed does not count; the moment of a claim is known to two ticks of the system's clock (some ms). Times of
/// calls are the injected clock's, of one call in 64 of each seat, refused ones included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Times {
    /// From when a subject was marked for this round of work to its accepted report; one value a subject.
    pub wait_ms: Distribution,
    /// From a claim to the end of its lease, however it ended; one value a bucket.
    pub hold_ms: Distribution,
    /// From a claim to a report that was accepted; one value a submit.
    pub turnaround_ms: Distribution,
    /// Claims.
    pub claim_ns: Distribution,
    /// Submits, final or not, what the plugin takes included.
    pub submit_ns: Distribution,
    /// Renewals.
    pub renew_ns: Distribution,
    /// Releases and drops of leases.
    pub release_ns: Distribution,
    /// Activations, all of them.
    pub activate_ns: Distribution,
}

impl Measures {
    pub(crate) fn times(&self) -> Times {
        Times {
            wait_ms: self.wait.snapshot(),
            hold_ms: self.hold.snapshot(),
            turnaround_ms: self.turnaround.snapshot(),
            claim_ns: self.claim.snapshot(),
            submit_ns: self.submit.snapshot(),
            renew_ns: self.renew.snapshot(),
            release_ns: self.release.snapshot(),
            activate_ns: self.activate.snapshot(),
        }
    }

    /// Notes how long a lease was held. The storekeeper's.
    pub(crate) fn held(&self, ms: u64) {
        self.hold.record(ms);
    }

    fn of(&self, call: Call) -> &Fine {
        match call {
            Call::Claim => &self.claim,
            Call::Submit => &self.submit,
            Call::Renew => &self.renew,
            Call::Release => &self.release,
        }
    }
}

/// A seat's turnaround; no memory before its first report.
#[derive(Debug, Default)]
pub(crate) struct Turnaround(ArcSwapOption<Coarse>);

impl Turnaround {
    /// The storekeeper's alone: no other thread may make the histogram meanwhile.
    fn record(&self, ms: u64) {
        if let Some(known) = self.0.load().as_ref() {
            known.record(ms);
            return;
        }
        let first = Coarse::default();
        first.record(ms);
        self.0.store(Some(Arc::new(first)));
    }

    pub(crate) fn snapshot(&self) -> Distribution {
        self.0.load().as_ref().map_or_else(|| Coarse::default().snapshot(), |known| known.snapshot())
    }
}

/// Notes the times of reports that were journaled at `now`, hub ms. The storekeeper's.
pub(crate) fn note_reported(seat: &SeatCore, reports: &Reports, now: u64) {
    let Some(slot) = reports.pool.slot(reports.index) else { return };
    let turnaround = now.saturating_sub(reports.pool.claimed_at(slot));
    seat.turnaround.record(turnaround);
    let measures = &seat.service.measures;
    measures.turnaround.record(turnaround);
    for subject in reports.accepted.places().filter_map(|place| reports.pool.subject(reports.index, place)) {
        measures.wait.record(now.saturating_sub(subject.since));
    }
}

/// A call that is being timed: since when, ns.
#[derive(Debug)]
#[must_use]
pub(crate) struct Timing(Option<u64>);

impl SeatCore {
    /// Begins to time a call if it is its turn: by the count of such calls, which the caller raises; seats take different
    /// turns, so that those which call seldom are not timed more often.
    pub(crate) fn timing(&self, calls: u64) -> Timing {
        let turn = calls.wrapping_add(u64::from(self.index));
        Timing(turn.is_multiple_of(SAMPLED).then(|| self.service.link.clock.nanos()))
    }

    /// Ends the timing of a call.
    pub(crate) fn timed(&self, call: Call, timing: &Timing) {
        if let Timing(Some(began)) = timing {
            let took = self.service.link.clock.nanos().saturating_sub(*began);
            self.service.measures.of(call).record(took);
        }
    }
}
