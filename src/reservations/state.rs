//! A stock as a value: taken out of it at a quiet moment, and made a stock again.

use std::collections::HashSet;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::base::Base;
use super::shelf::{Booking, Desk, Shelf, is_void};
use super::{Ignored, Ledger, State, Stock, Terms};
use crate::slot::{Cause, Phase};
use crate::sync::{Arc, AtomicU64, Padded};

/// Most reservations that a stock that is restored has made. No stock lives to make as many more.
const MADE_MAX: u64 = 1 << 62;

/// All of a [`Stock`], as a value for serde. Equal states go on equally.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockState {
    terms: Terms,
    base: Base,
    ignored: Ignored,
    /// Reservations made.
    made: u64,
    /// Units, forgotten reservations included.
    confirmed: u64,
    /// Those that are remembered, in the order in which they were made.
    reservations: Vec<Kept>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    id: u128,
    units: u64,
    deadline: u64,
    serial: u64,
    state: State,
    /// How many were made when it ended, modulo 2^32.
    note: u32,
}

impl Kept {
    fn booking(&self) -> Booking {
        let held = Booking::held(self.id, self.units, self.deadline, self.serial);
        match self.state {
            State::Held => held,
            State::Overdue => {
                held.mark_overdue();
                held
            }
            State::Confirmed => held.ended(Phase::Done, Cause::Client, self.note),
            State::Cancelled => held.ended(Phase::Released, Cause::Client, self.note),
            State::Expired => held.ended(Phase::Released, Cause::Expired, self.note),
        }
    }
}

/// Other calls kept changing the stock while it was read. Nothing is wrong; try when they are fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stock was changed by other calls at each of {tries} looks")]
pub struct NotQuiet {
    tries: u32,
}

/// Why a state is none that a stock can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// What came in.
    #[error("the inputs do not add up")]
    Inputs,
    /// A reservation's units, or its place in the order of reservations; or its id is there twice.
    #[error("reservation {id} cannot be")]
    Reservation {
        /// Its id.
        id: u128,
    },
    /// More reservations than can be made.
    #[error("{made} reservations are said to have been made, the limit is {limit}")]
    Made {
        /// So many.
        made: u64,
        /// 2^62.
        limit: u64,
    },
    /// What was confirmed is less than the confirmed reservations have.
    #[error("{confirmed} units are confirmed, but remembered reservations have more")]
    Confirmed {
        /// Units.
        confirmed: u64,
    },
}

impl StockState {
    /// Where each reservation that is remembered stands, by id, in the order in which they were made.
    pub fn reservations(&self) -> impl Iterator<Item = (u128, u64, State)> + '_ {
        self.reservations.iter().map(|kept| (kept.id, kept.units, kept.state))
    }

    /// Units of the reservations of one kind.
    fn units(&self, of: impl Fn(State) -> bool) -> u64 {
        let of = self.reservations.iter().filter(|kept| of(kept.state));
        of.fold(0, |sum, kept| sum.saturating_add(kept.units))
    }

    /// Checks that it can have come about; the balance.
    fn check(&self) -> Result<i64, StateError> {
        if !self.base.is_sound() {
            return Err(StateError::Inputs);
        }
        if self.made > MADE_MAX {
            return Err(StateError::Made { made: self.made, limit: MADE_MAX });
        }
        let mut ids = HashSet::new();
        let mut next = 0;
        for Kept { id, units, serial, .. } in &self.reservations {
            let in_order = (next..self.made).contains(serial);
            if !in_order || !(1..=Stock::UNITS_MAX).contains(units) || !ids.insert(id) {
                return Err(StateError::Reservation { id: *id });
            }
            next = serial + 1;
        }
        let confirmed = self.confirmed;
        if confirmed < self.units(|state| state == State::Confirmed) {
            return Err(StateError::Confirmed { confirmed });
        }
        let out = i64::try_from(self.units(State::is_held).saturating_add(confirmed)).ok();
        out.and_then(|out| self.base.added().checked_sub(out)).ok_or(StateError::Confirmed { confirmed })
    }
}

impl Stock {
    /// Looks before [`state`](Self::state) gives up.
    const TRIES: u32 = 64;

    /// The stock as a value. Costs time as [`expire`](Self::expire) does, twice.
    ///
    /// # Errors
    ///
    /// [`NotQuiet`], if other threads change the stock all the while; never without other threads.
    ///
    /// # Concurrency
    ///
    /// Lock-free for the others, whom it does not hold up. True of one moment: it looks twice, and nothing that it saw
    /// ever returns to an earlier value.
    pub fn state(&self) -> Result<StockState, NotQuiet> {
        let mut seen = self.collect();
        for _ in 0..Self::TRIES {
            let again = self.collect();
            if Arc::ptr_eq(&seen.0, &again.0) && seen.1 == again.1 {
                return Ok(self.state_of(&again.0, again.1));
            }
            seen = again;
        }
        Err(NotQuiet { tries: Self::TRIES })
    }

    /// The shelf, and then every reservation that is made and not forgotten.
    fn collect(&self) -> (Arc<Shelf<Ledger>>, Vec<Kept>) {
        let now = self.desk.settled();
        let mut kept: Vec<Kept> = Vec::new();
        for booking in self.rows.all() {
            let seen = self.desk.stand(&booking);
            if seen.phase() != Phase::Ready && !is_void(seen) && !self.is_gone(&booking, now.made) {
                let Booking { id, units, deadline, .. } = *booking;
                let note = if seen.is_final() { seen.note() } else { 0 };
                kept.push(Kept { id, units, deadline, serial: booking.serial(), state: State::of(seen), note });
            }
        }
        kept.sort_unstable_by_key(|kept| kept.serial);
        (now, kept)
    }

    fn state_of(&self, now: &Shelf<Ledger>, reservations: Vec<Kept>) -> StockState {
        let Ledger { base, ignored } = &now.ledger;
        let (base, ignored) = (Base::clone(base), *ignored);
        let out = u64::try_from(base.added().saturating_sub(now.balance)).unwrap_or(0);
        let mut state = StockState { terms: self.terms, base, ignored, made: now.made, confirmed: 0, reservations };
        // Not from the counter, which a confirmation raises a moment after it took effect.
        state.confirmed = out.saturating_sub(state.units(State::is_held));
        state
    }
}

impl TryFrom<StockState> for Stock {
    type Error = StateError;

    fn try_from(state: StockState) -> Result<Self, StateError> {
        let balance = state.check()?;
        let held = state.reservations.iter().filter(|kept| kept.state.is_held()).count();
        let ledger = Ledger { base: Arc::new(state.base), ignored: state.ignored };
        let stock = Self::on(state.terms, Shelf::new(balance, state.made, ledger));
        Ok(Self {
            confirmed: Padded(AtomicU64::new(state.confirmed)),
            ended: Padded(AtomicU64::new(state.made.saturating_sub(held as u64))),
            rows: stock.rows.with(state.reservations.iter().map(Kept::booking)),
            ..stock
        })
    }
}

impl Serialize for Stock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.state().map_err(ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Stock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        StockState::deserialize(deserializer)?.try_into().map_err(de::Error::custom)
    }
}
