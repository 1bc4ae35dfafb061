//! Reservations on a counter: units are reserved, then confirmed, or cancelled or expired and so given back, exactly once.
//!
//! ```
//! use commissary::reservations::{Levels, Stock, Terms};
//!
//! let stock = Stock::new(Terms { grace_ms: 1_000, ..Terms::default() });
//! // The kitchen (source 7) releases ten meals. The message comes twice.
//! let _ = stock.add(10, 7, 1)?;
//! let _ = stock.add(10, 7, 1)?;
//!
//! // Two orders, to be paid for by 60,000 ms on the caller's clock.
//! stock.reserve(1, 4, 60_000)?;
//! stock.reserve(2, 3, 60_000)?;
//! assert!(stock.reserve(3, 4, 60_000).is_err(), "three are left");
//!
//! stock.confirm(1)?;
//! assert!(stock.expire(60_999).is_empty(), "the second has a second of grace");
//! assert_eq!(stock.expire(61_000).len(), 1);
//! assert!(stock.confirm(2).is_err());
//! assert_eq!(stock.levels(), Levels { available: 6, held: 0, confirmed: 4, added: 10, short: 0 });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # States
//!
//! | from | to | by | units |
//! |---|---|---|---|
//! | - | [`Held`](State::Held) | [`reserve`](Stock::reserve) | taken, if so many are available |
//! | Held | [`Overdue`](State::Overdue) | [`expire`](Stock::expire) at or after the deadline | still held |
//! | Held, Overdue | [`Confirmed`](State::Confirmed) | [`confirm`](Stock::confirm) | nothing changes: they were taken before |
//! | Held, Overdue | [`Cancelled`](State::Cancelled) | [`cancel`](Stock::cancel) | given back |
//! | Held, Overdue | [`Expired`](State::Expired) | `expire` at or after the deadline and the grace | given back |
//!
//! The last three are final. It is the state word of a lease, with its transitions: of confirm, cancel and expire one
//! compare-and-swap picks the winner, and a confirmation that comes late but before the grace is over still wins. A stock
//! has no clock: time is what [`expire`](Stock::expire) is told, and what is not expired can be confirmed. So the same
//! calls in the same order lead to the same state, wherever they are made.
//!
//! # Inputs
//!
//! What came in is told as [`Entry::Delta`], counted once by its (source, position), or as [`Entry::Total`]: all that ever
//! came in up to a position, which replaces what was counted up to there; later deltas count on top. Positions are numbers
//! on one line for all sources of a stock: places in a log, times in ms, or one source's own numbers. A device that counts
//! what lies there, not what came in, is entered with what was confirmed by then added ([`Levels::confirmed`]).
//!
//! # Two uses
//!
//! Many threads may share a [`Stock`]: every call takes `&self`. Or it is a value: its [`StockState`] goes through serde, as does a
//! `Stock` itself, so that it can be the state of whatever works on it alone, and restored, it goes on exactly. Restoring one
//! and taking its state costs time in proportion to what it remembers: let [`Terms::remembered`] be small where that is done often.
//!
//! # Concurrency
//!
//! All calls are lock-free: none waits for another thread, wherever that one has stopped. `reserve`, `confirm`, `cancel`
//! and `enter` are linearizable: each takes effect at one moment between its call and its return. `expire` does so
//! for each reservation by itself. (When a reservation is forgotten is less exact: calls that run at the same time may shift it
//! by as many reservations as they make.) Neither available nor confirmed units are ever more than came in, unless an input said
//! afterwards that less did ([`Levels::short`]).
//!
//! # What is remembered
//!
//! A reservation that is over is remembered until [`Terms::remembered`] more were made, so that a repeated call gets the
//! first answer; after that its id is unknown, and free. So memory is bounded: [`Terms::held`] reservations and those
//! remembered, about 100 bytes each; those forgotten but not swept yet, an eighth of these; and [`Terms::events`] deltas,
//! about 60 bytes each.

mod base;
mod rows;
mod shelf;
mod state;
mod values;

use arc_swap::ArcSwap;

use self::base::Base;
use self::rows::Rows;
use self::shelf::{Booking, Decided, Desk, Shelf, is_void};
pub use self::state::{NotQuiet, StateError, StockState};
pub use self::values::{EnterError, Entered, Entry, Ignored, Levels, NotHeld, Refused, Reservation, State, Terms};
use crate::slot::{Cause, Phase, Snapshot};
use crate::sync::{Arc, AtomicU64, Ordering, Padded};

/// Inputs as a shelf carries them.
#[derive(Debug, Clone, Default)]
struct Ledger {
    base: Arc<Base>,
    ignored: Ignored,
}

/// The shelf's place.
#[derive(Debug)]
struct Place(ArcSwap<Shelf<Ledger>>);

impl Desk for Place {
    type Ledger = Ledger;

    fn load(&self) -> Arc<Shelf<Ledger>> {
        self.0.load_full()
    }

    fn replace(&self, from: &Arc<Shelf<Ledger>>, to: Arc<Shelf<Ledger>>) -> bool {
        Arc::ptr_eq(&self.0.compare_and_swap(from, to), from)
    }
}

/// A counter with reservations. See the [module](self).
#[derive(Debug)]
pub struct Stock {
    terms: Terms,
    desk: Place,
    rows: Rows,
    /// Units.
    confirmed: Padded<AtomicU64>,
    /// Reservations that are over.
    ended: Padded<AtomicU64>,
}

impl Default for Stock {
    fn default() -> Self {
        Self::new(Terms::default())
    }
}

impl Stock {
    /// Most units that a stock holds, an input names or a reservation takes: 2^48.
    pub const UNITS_MAX: u64 = 1 << 48;

    /// A stock of nothing. Needs one or two bytes for each reservation that it may hold or remember, up to 512 KiB.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self::on(terms, Shelf::new(0, 0, Ledger::default()))
    }

    fn on(terms: Terms, shelf: Shelf<Ledger>) -> Self {
        Self {
            terms,
            desk: Place(ArcSwap::from_pointee(shelf)),
            rows: Rows::new(terms.held.max(terms.remembered) as usize),
            confirmed: Padded::default(),
            ended: Padded::default(),
        }
    }

    /// What holds for it.
    #[must_use]
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// Adds `units`, once for each event (R122): [`enter`](Self::enter) with [`Entry::Delta`].
    ///
    /// # Errors
    ///
    /// As of `enter`.
    pub fn add(&self, units: u64, source: u128, seq: u64) -> Result<Entered, EnterError> {
        let units = i64::try_from(units).map_err(|_| EnterError::TooMany { limit: Self::UNITS_MAX })?;
        self.enter(Entry::Delta { units, source, seq })
    }

    /// Takes in what a source tells (R122, R123). Costs time in proportion to the deltas remembered.
    ///
    /// # Errors
    ///
    /// If it names or leads to more units than a stock holds or fewer than none, or contradicts itself.
    ///
    /// # Concurrency
    ///
    /// Lock-free. Takes effect at one moment; repeated at the same time by another thread, it counts once.
    pub fn enter(&self, entry: Entry) -> Result<Entered, EnterError> {
        loop {
            let now = self.desk.settled();
            let (entered, base) = now.ledger.base.enter(entry, self.terms.events as usize)?;
            let mut ledger = now.ledger.clone();
            ledger.ignored.count(entered);
            let mut balance = now.balance;
            if let Some(base) = base {
                balance = balance.saturating_add(base.added()).saturating_sub(ledger.base.added());
                ledger.base = Arc::new(base);
            }
            if self.desk.replace(&now, Arc::new(Shelf::new(balance, now.made, ledger))) {
                return Ok(entered);
            }
        }
    }

    /// Takes `units` for the reservation `id`, to be confirmed by `deadline` (R121). The id is the caller's choice, and
    /// good for one reservation: repeated with the same units and deadline, the call finds what the first one made, in
    /// whatever state. The deadline is in ms on whatever clock [`expire`](Self::expire) is told; `u64::MAX` is never.
    ///
    /// # Errors
    ///
    /// [`Refused`]: above all, if fewer are available.
    ///
    /// # Concurrency
    ///
    /// Lock-free. Takes effect at one moment, and is refused only if at one moment there were too few. Costs two
    /// exchanges of a pointer, a copy of a row (some 16 pointers) and three allocations; refused, mostly none of these.
    pub fn reserve(&self, id: u128, units: u64, deadline: u64) -> Result<Reservation, Refused> {
        if !(1..=Self::UNITS_MAX).contains(&units) {
            return Err(Refused::Units { units, limit: Self::UNITS_MAX });
        }
        loop {
            if let Some(answer) = self.try_reserve(id, units, deadline) {
                return answer;
            }
        }
    }

    /// `None` if another call came between.
    fn try_reserve(&self, id: u128, units: u64, deadline: u64) -> Option<Result<Reservation, Refused>> {
        let look = self.rows.of(id)?;
        let now = self.desk.settled();
        let gone = |booking: &Booking| self.is_gone(booking, now.made);
        if let Some(found) = look.find(id, gone) {
            return self.repeat(found, units, deadline);
        }
        let available = now.available();
        if units > available {
            // True of the moment at which the shelf was loaded, if the id was as free then.
            return look.is_current().then_some(Err(Refused::Short { wanted: units, available }));
        }
        // ordering: Relaxed; bounds memory, nothing is published by it.
        if now.made.saturating_sub(self.ended.load(Ordering::Relaxed)) >= u64::from(self.terms.held) {
            return Some(Err(Refused::TooManyHeld { limit: self.terms.held }));
        }
        let booking = Arc::new(Booking::new(id, units, deadline));
        if !look.add(Some(&booking), gone) {
            return None;
        }
        // One other row each time: so all of them, in as many reservations as there are rows.
        if let Some(other) = self.rows.look(now.made) {
            other.sweep(gone);
        }
        match self.desk.decide(&booking) {
            Decided::Refused { available } => Some(Err(Refused::Short { wanted: units, available })),
            Decided::Before if is_void(booking.snapshot()) => None,
            Decided::Taken | Decided::Before => Some(Ok(Reservation::of(&booking, State::Held, true))),
        }
    }

    /// Answers for a reservation that is there.
    fn repeat(&self, found: &Arc<Booking>, units: u64, deadline: u64) -> Option<Result<Reservation, Refused>> {
        let same = (found.units, found.deadline) == (units, deadline);
        if let Decided::Refused { available } = self.desk.decide(found) {
            return same.then_some(Err(Refused::Short { wanted: units, available }));
        }
        let seen = self.desk.stand(found);
        if is_void(seen) {
            return None;
        }
        let Booking { id, units, deadline, .. } = **found;
        let answer = if same {
            Ok(Reservation::of(found, State::of(seen), false))
        } else {
            Err(Refused::Conflict { id, units, deadline })
        };
        Some(answer)
    }

    /// Makes a reservation final (R125). Changes no stock: the units were taken when they were reserved. Repeated, it
    /// gives the same answer, but for [`first`](Reservation::first).
    ///
    /// # Errors
    ///
    /// [`NotHeld`], if it was cancelled, has expired, or is unknown.
    ///
    /// # Concurrency
    ///
    /// Lock-free; takes effect with one compare-and-swap of the reservation's word.
    pub fn confirm(&self, id: u128) -> Result<Reservation, NotHeld> {
        let (booking, note) = self.find(id).ok_or(NotHeld::Unknown { id })?;
        let (first, seen) = self.desk.end(&booking, Phase::Done, Cause::Client, note);
        if first {
            // ordering: Release; pairs with the Acquire in `levels`, so that who counts it as confirmed sees it taken.
            self.confirmed.fetch_add(booking.units, Ordering::Release);
            self.count_ended();
        }
        ended_as(&booking, seen, State::Confirmed, first)
    }

    /// Gives a reservation up, and its units back (R125). Repeated, it gives the same answer, but for
    /// [`first`](Reservation::first), and nothing back.
    ///
    /// # Errors
    ///
    /// [`NotHeld`], if it was confirmed, has expired, or is unknown.
    ///
    /// # Concurrency
    ///
    /// Lock-free. Who is told that it is cancelled, by this or another call, finds its units available.
    pub fn cancel(&self, id: u128) -> Result<Reservation, NotHeld> {
        let (booking, note) = self.find(id).ok_or(NotHeld::Unknown { id })?;
        let (first, seen) = self.release(&booking, Cause::Client, note);
        ended_as(&booking, seen, State::Cancelled, first)
    }

    /// Ends what is past its deadline and grace at `now`, ms, and gives the units back (R125). Returns what this call
    /// ended, oldest first. Costs time in proportion to [`Terms::held`] and [`Terms::remembered`].
    ///
    /// # Concurrency
    ///
    /// Lock-free; each reservation is decided by itself, as by [`cancel`](Self::cancel).
    pub fn expire(&self, now: u64) -> Vec<Reservation> {
        let late = |booking: &Arc<Booking>| now.checked_sub(booking.deadline);
        let due = self.rows.all().filter_map(|booking| Some((late(&booking)?, booking)));
        let mut due: Vec<_> = due.filter(|(_, booking)| self.desk.stand(booking).is_held()).collect();
        due.sort_unstable_by_key(|(_, booking)| booking.serial());
        due.retain(|(late, booking)| {
            if !booking.snapshot().is_past(*late, self.terms.grace_ms) {
                booking.mark_overdue();
                return false;
            }
            self.release(booking, Cause::Expired, note(self.desk.load().made)).0
        });
        due.iter().map(|(_, booking)| Reservation::of(booking, State::Expired, true)).collect()
    }

    fn release(&self, booking: &Arc<Booking>, cause: Cause, note: u32) -> (bool, Snapshot) {
        let ended = self.desk.end(booking, Phase::Released, cause, note);
        if ended.0 {
            self.count_ended();
        }
        ended
    }

    fn count_ended(&self) {
        // ordering: Relaxed; see `try_reserve`.
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// The reservation of that id, unless it never was or is forgotten.
    ///
    /// # Concurrency
    ///
    /// Lock-free.
    #[must_use]
    pub fn reservation(&self, id: u128) -> Option<Reservation> {
        let (booking, _) = self.find(id)?;
        let seen = self.desk.stand(&booking);
        let decided = seen.phase() != Phase::Ready && !is_void(seen);
        decided.then(|| Reservation::of(&booking, State::of(seen), false))
    }

    /// With what is to be noted by who ends it.
    fn find(&self, id: u128) -> Option<(Arc<Booking>, u32)> {
        // Before the row: what is gone by then is gone when the row is looked at.
        let now = self.desk.settled();
        let look = self.rows.of(id)?;
        let found = look.find(id, |booking| self.is_gone(booking, now.made))?;
        Some((Arc::clone(found), note(now.made)))
    }

    /// It never was, or it is forgotten when `made` were made.
    fn is_gone(&self, booking: &Booking, made: u64) -> bool {
        let seen = booking.snapshot();
        // Below 0 if it ended after that: the difference is small, whichever way.
        let since = || note(made).wrapping_sub(seen.note()).cast_signed();
        let forgotten = || u32::try_from(since()).is_ok_and(|since| since >= self.terms.remembered);
        is_void(seen) || booking.is_over(seen) && forgotten()
    }

    /// How many units can be reserved.
    ///
    /// # Concurrency
    ///
    /// Lock-free; true of one moment between call and return.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.desk.load().available()
    }

    /// How many units are where.
    ///
    /// # Concurrency
    ///
    /// Lock-free. The numbers always add up; units that are being confirmed may still be counted as held.
    #[must_use]
    pub fn levels(&self) -> Levels {
        // ordering: Acquire; pairs with the Release in `confirm`: the shelf loaded next has taken these.
        let confirmed = self.confirmed.load(Ordering::Acquire);
        let now = self.desk.load();
        let added = now.ledger.base.added();
        let out = u64::try_from(added.saturating_sub(now.balance)).unwrap_or(0);
        Levels {
            available: now.available(),
            held: out.saturating_sub(confirmed),
            confirmed,
            added: u64::try_from(added).unwrap_or(0),
            short: u64::try_from(now.balance.saturating_neg()).unwrap_or(0),
        }
    }

    /// Inputs that changed nothing.
    #[must_use]
    pub fn ignored(&self) -> Ignored {
        self.desk.load().ledger.ignored
    }
}

/// The count of reservations made, as a word can note it: modulo 2^32. What is forgotten is dropped long before that is
/// passed through again.
#[expect(clippy::cast_possible_truncation, reason = "modulo 2^32")]
fn note(made: u64) -> u32 {
    made as u32
}

/// The answer to who wanted it to end so.
fn ended_as(booking: &Booking, seen: Snapshot, wanted: State, first: bool) -> Result<Reservation, NotHeld> {
    if seen.phase() == Phase::Ready || is_void(seen) {
        return Err(NotHeld::Unknown { id: booking.id });
    }
    match State::of(seen) {
        state if state == wanted => Ok(Reservation::of(booking, state, first)),
        state => Err(NotHeld::Over { id: booking.id, state }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R125: a caller that was held up, and still has the shelf from before a reservation ended, does not take it for
    /// forgotten.
    #[test]
    fn what_ended_after_a_shelf_is_not_forgotten_as_of_it() {
        let stock = Stock::new(Terms { remembered: 2, ..Terms::default() });
        assert_eq!(stock.add(10, 1, 1), Ok(Entered::Applied));
        (1..=3).for_each(|id| assert!(stock.reserve(id, 1, 0).is_ok_and(|made| made.first)));
        assert!(stock.cancel(1).is_ok());
        let (ended, _) = stock.find(1).unwrap();
        let gone: Vec<bool> = (1..=6).map(|made| stock.is_gone(&ended, made)).collect();
        assert_eq!(gone, [false, false, false, false, true, true]);
    }
}
