//! What the calls of a stock take and answer.

use serde::{Deserialize, Serialize};

use super::shelf::Booking;
use crate::slot::{Cause, Phase, Snapshot};

/// What holds for a stock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// How long after its deadline a reservation can still be confirmed, ms. Default 0.
    pub grace_ms: u64,
    /// Most reservations held at once. Calls that run at the same time may exceed it by as many as they are. Default 10,000.
    pub held: u32,
    /// A reservation that is over is remembered until so many more were made; above 2^31 - 1, for ever. Default
    /// 10,000.
    pub remembered: u32,
    /// Deltas that are remembered one by one: those with the highest positions. Default 1,024.
    pub events: u32,
}

impl Default for Terms {
    fn default() -> Self {
        Self { grace_ms: 0, held: 10_000, remembered: 10_000, events: 1_024 }
    }
}

/// What came in, as its source tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Entry {
    /// All that came in up to a position.
    Total {
        /// How many units.
        units: u64,
        /// Up to and with this position.
        as_of: u64,
    },
    /// So many more (or, below 0, fewer).
    Delta {
        /// How many units.
        units: i64,
        /// Who tells it.
        source: u128,
        /// Its position; with `source` it is the event's id.
        seq: u64,
    },
}

/// What became of an [`Entry`]. All but `Applied` change nothing, and are [counted](super::Stock::ignored).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Entered {
    /// It counts.
    Applied,
    /// It counted before.
    Repeated,
    /// A delta from before the last total, which has it.
    Covered,
    /// A total from before the last total, or another one of the same position.
    Stale {
        /// The position of the total that counts.
        as_of: u64,
    },
    /// Deltas from so long ago are not told apart any more: it cannot be known whether it counted, or where a total
    /// belongs. See [`Terms::events`].
    Forgotten {
        /// Up to this position.
        floor: u64,
    },
}

/// Inputs that changed nothing, by why; see [`Entered`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ignored {
    /// They counted before.
    pub repeated: u64,
    /// Deltas that a total has.
    pub covered: u64,
    /// Totals older than one that counts.
    pub stale: u64,
    /// From too long ago.
    pub forgotten: u64,
}

impl Ignored {
    pub(super) fn count(&mut self, entered: Entered) {
        let count = match entered {
            Entered::Applied => return,
            Entered::Repeated => &mut self.repeated,
            Entered::Covered => &mut self.covered,
            Entered::Stale { .. } => &mut self.stale,
            Entered::Forgotten { .. } => &mut self.forgotten,
        };
        *count = count.saturating_add(1);
    }
}

/// Where a reservation is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// Its units are taken.
    Held,
    /// As `Held`; its deadline has passed, its grace was not over when that was looked at last.
    Overdue,
    /// Its units are gone for good.
    Confirmed,
    /// It was given up; its units were given back.
    Cancelled,
    /// Its time was over; its units were given back.
    Expired,
}

impl State {
    pub(super) fn of(seen: Snapshot) -> Self {
        match (seen.phase(), seen.put_back()) {
            (Phase::Ready | Phase::Leased, _) => Self::Held,
            (Phase::Dead, _) => Self::Overdue,
            (_, Some(Cause::Expired)) => Self::Expired,
            (_, Some(_)) => Self::Cancelled,
            _ => Self::Confirmed,
        }
    }

    /// True if it has units that can be confirmed or given back.
    #[must_use]
    pub fn is_held(self) -> bool {
        matches!(self, Self::Held | Self::Overdue)
    }
}

/// A reservation, as a call found or left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Reservation {
    /// Its id.
    pub id: u128,
    /// How many units.
    pub units: u64,
    /// Its deadline, on the caller's clock, ms.
    pub deadline: u64,
    /// Where it is in its life.
    pub state: State,
    /// This call brought it there; no other call is told so.
    pub first: bool,
}

impl Reservation {
    pub(super) fn of(booking: &Booking, state: State, first: bool) -> Self {
        Self { id: booking.id, units: booking.units, deadline: booking.deadline, state, first }
    }
}

/// How many units are where. At every quiet moment available + held + confirmed = added + short.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    /// To be had.
    pub available: u64,
    /// Reserved, and neither confirmed nor given back.
    pub held: u64,
    /// Confirmed, since the stock began.
    pub confirmed: u64,
    /// Came in, since the stock began.
    pub added: u64,
    /// Promised although an input said afterwards that they never came. What comes in or back fills this first.
    pub short: u64,
}

/// Why units were not reserved. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// There are not so many.
    #[error("{wanted} units were wanted, {available} are available")]
    Short {
        /// Asked for.
        wanted: u64,
        /// There were.
        available: u64,
    },
    /// The id is taken by a reservation of other units or another deadline.
    #[error("the id {id} has {units} units reserved until {deadline}")]
    Conflict {
        /// The id.
        id: u128,
        /// Its units.
        units: u64,
        /// Its deadline.
        deadline: u64,
    },
    /// As many reservations are held as may be.
    #[error("{limit} reservations are held, which is the limit (held)")]
    TooManyHeld {
        /// [`Terms::held`].
        limit: u32,
    },
    /// None, or more than a stock can have.
    #[error("{units} units cannot be reserved: at least 1 and at most {limit}")]
    Units {
        /// Asked for.
        units: u64,
        /// [`Stock::UNITS_MAX`](super::Stock::UNITS_MAX).
        limit: u64,
    },
}

/// Why a reservation could not be ended as wanted. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotHeld {
    /// There is none of that id, or it has been over for too long: see [`Terms::remembered`].
    #[error("no reservation {id}")]
    Unknown {
        /// The id.
        id: u128,
    },
    /// It had ended otherwise.
    #[error("reservation {id} is over: {state:?}")]
    Over {
        /// The id.
        id: u128,
        /// How it ended.
        state: State,
    },
}

/// Why an input was refused. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnterError {
    /// A stock does not hold so many.
    #[error("more than {limit} units")]
    TooMany {
        /// [`Stock::UNITS_MAX`](super::Stock::UNITS_MAX).
        limit: u64,
    },
    /// Less than nothing would have come in.
    #[error("{units} units would have come in")]
    BelowZero {
        /// So many, below 0.
        units: i64,
    },
    /// The event counted before, with other units.
    #[error("the event counted before, with {units} units")]
    Conflict {
        /// Its units then.
        units: i64,
    },
}
