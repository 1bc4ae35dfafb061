//! The shelf: how many units nobody has, and the steps by which reservations take and give back.
//!
//! No I/O, no clock. A reservation ([`Booking`]) is decided by the state word of the lease core: `Ready` until the shelf
//! gave its units or refused them, `Leased` and `Dead` while they are held, then `Done` (confirmed) or `Released` (given
//! back). The shelf is one pointer to a value that is never changed, only replaced.
//!
//! # Exactly once
//!
//! Each replacement names the booking that it was made for, and before anyone replaces a shelf in turn he completes the
//! effect of it on that booking ([`Shelf::complete`]: any number of threads may, one after the other or at once). So who
//! has loaded a shelf, has completed it and finds a booking still `Ready`, knows that no shelf so far took units for it;
//! if his replacement succeeds, none came between. The same with units that were released and not yet given back. A thread
//! that stops anywhere leaves nothing that another could not finish, and nobody waits for it.
//!
//! # Answers tell the truth
//!
//! A reservation takes effect when the shelf is replaced; so do cancelling and expiring; confirming, when the word becomes
//! `Done`. Whoever finds a word `Released` gives back, if nobody did yet, before he answers: so no caller is told that a
//! reservation is over while its units are still missing.

use crate::slot::{Cause, Phase, Snapshot, Word};
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering};

/// A reservation, as threads share it.
#[derive(Debug)]
pub(crate) struct Booking {
    pub(crate) id: u128,
    pub(crate) units: u64,
    /// On the caller's clock, ms. The word's times count from it.
    pub(crate) deadline: u64,
    word: Word,
    /// The how many-th that was made; meaningful to who has seen the word leave `Ready`.
    serial: AtomicU64,
    given_back: AtomicBool,
}

impl Booking {
    /// One that is not decided yet.
    pub(crate) fn new(id: u128, units: u64, deadline: u64) -> Self {
        let (serial, given_back) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { id, units, deadline, word: Word::ready(), serial, given_back }
    }

    /// One that is held.
    pub(crate) fn held(id: u128, units: u64, deadline: u64, serial: u64) -> Self {
        Self { word: Word::leased(0, 0), serial: AtomicU64::new(serial), ..Self::new(id, units, deadline) }
    }

    /// One that was ended before; its units are not given back again.
    pub(crate) fn ended(self, phase: Phase, cause: Cause, note: u32) -> Self {
        let _ = self.word.settle(phase, cause, note);
        Self { given_back: AtomicBool::new(true), ..self }
    }

    /// Its deadline has passed.
    pub(crate) fn mark_overdue(&self) -> bool {
        self.word.mark_dead(0)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.word.snapshot()
    }

    pub(crate) fn serial(&self) -> u64 {
        // ordering: Relaxed; written before the exchange that makes the word leave `Ready`, which the caller has seen.
        self.serial.load(Ordering::Relaxed)
    }

    /// It is final, and nothing about it is left to do.
    pub(crate) fn is_over(&self, seen: Snapshot) -> bool {
        seen.phase() == Phase::Done || seen.is_final() && (is_void(seen) || self.is_given_back())
    }

    fn is_given_back(&self) -> bool {
        // ordering: Acquire; pairs with the Release in `complete`. Who loaded a shelf that came after the one that gave
        // back, sees it: the replacements are a chain of AcqRel exchanges.
        self.given_back.load(Ordering::Acquire)
    }
}

/// True if the shelf refused it: it never was.
pub(crate) fn is_void(seen: Snapshot) -> bool {
    seen.put_back() == Some(Cause::Abandoned)
}

/// What a shelf was made for.
#[derive(Debug)]
pub(crate) enum Step {
    /// Units came in, or nothing happened.
    Plain,
    Took(Arc<Booking>),
    Refused(Arc<Booking>),
    GaveBack(Arc<Booking>),
}

/// What nobody has, and the record of what came in (`L`). Never changed.
#[derive(Debug)]
pub(crate) struct Shelf<L> {
    /// What came in, less what is held and confirmed. Below 0 only if the record was corrected downwards.
    pub(crate) balance: i64,
    /// Reservations made so far.
    pub(crate) made: u64,
    pub(crate) ledger: L,
    step: Step,
}

impl<L> Shelf<L> {
    pub(crate) fn new(balance: i64, made: u64, ledger: L) -> Self {
        Self { balance, made, ledger, step: Step::Plain }
    }

    pub(crate) fn available(&self) -> u64 {
        u64::try_from(self.balance).unwrap_or(0)
    }

    /// The effect on the booking that it was made for. Any number of times.
    fn complete(&self) {
        match &self.step {
            Step::Plain => {}
            Step::Took(booking) => {
                // ordering: Relaxed; published by the exchange below. Whoever else completes this writes the same.
                booking.serial.store(self.made.wrapping_sub(1), Ordering::Relaxed);
                let _ = booking.word.claim(0, 0);
            }
            Step::Refused(booking) => {
                let _ = booking.word.abandon();
            }
            // ordering: Release; pairs with the Acquire in `is_given_back`.
            Step::GaveBack(booking) => booking.given_back.store(true, Ordering::Release),
        }
    }
}

/// What became of a booking that asked for units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Decided {
    /// It has them.
    Taken,
    /// There were not enough; this call found it.
    Refused { available: u64 },
    /// Another call decided before: the word tells.
    Before,
}

/// The place where the shelf stands, and all that is done to it. Lock-free if `load` and `replace` are: a loop goes round
/// only when another caller's replacement came between.
pub(crate) trait Desk {
    type Ledger: Clone;

    fn load(&self) -> Arc<Shelf<Self::Ledger>>;

    /// Puts `to` in the place of `from`; false if that does not stand there any more. Acquires and releases.
    fn replace(&self, from: &Arc<Shelf<Self::Ledger>>, to: Arc<Shelf<Self::Ledger>>) -> bool;

    /// The shelf, its effect completed.
    fn settled(&self) -> Arc<Shelf<Self::Ledger>> {
        let now = self.load();
        now.complete();
        now
    }

    /// Replaces a settled shelf; its balance then differs by `diff`. Completes what it puts there.
    fn step(&self, from: &Arc<Shelf<Self::Ledger>>, diff: i64, step: Step) -> bool {
        let made = from.made + u64::from(matches!(step, Step::Took(_)));
        let ledger = from.ledger.clone();
        let next = Arc::new(Shelf { balance: from.balance.saturating_add(diff), made, ledger, step });
        let replaced = self.replace(from, Arc::clone(&next));
        if replaced {
            next.complete();
        }
        replaced
    }

    /// Takes a booking's units, or finds that there are not enough. Called for one that can be found by its id, so that
    /// one call of several decides.
    fn decide(&self, booking: &Arc<Booking>) -> Decided {
        loop {
            let now = self.settled();
            if booking.snapshot().phase() != Phase::Ready {
                return Decided::Before;
            }
            let (available, own) = (now.available(), Arc::clone(booking));
            if booking.units > available {
                if self.step(&now, 0, Step::Refused(own)) {
                    return Decided::Refused { available };
                }
            } else if self.step(&now, -signed(booking.units), Step::Took(own)) {
                return Decided::Taken;
            }
        }
    }

    /// Where a booking stands; what it says is then true of the shelf as well.
    fn stand(&self, booking: &Arc<Booking>) -> Snapshot {
        let mut seen = booking.snapshot();
        if seen.phase() == Phase::Ready {
            self.settled();
            seen = booking.snapshot();
        }
        if seen.put_back().is_some() && !is_void(seen) {
            self.give_back(booking);
        }
        seen
    }

    /// Ends what is held: confirms it (`Done`), or gives it back (`Released`). Whether this call did, and where it stands.
    fn end(&self, booking: &Arc<Booking>, phase: Phase, cause: Cause, note: u32) -> (bool, Snapshot) {
        loop {
            let seen = self.stand(booking);
            if !seen.is_held() {
                return (false, seen);
            }
            // Fails only if another call ended it, once.
            if booking.word.settle(phase, cause, note).is_some() {
                return (true, self.stand(booking));
            }
        }
    }

    /// Gives back what was released, unless that was done.
    fn give_back(&self, booking: &Arc<Booking>) {
        loop {
            let now = self.settled();
            if booking.is_given_back() || self.step(&now, signed(booking.units), Step::GaveBack(Arc::clone(booking))) {
                return;
            }
        }
    }
}

/// As a difference. Units are far below the end of its range.
fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}
