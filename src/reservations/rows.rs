//! Where reservations are found by their ids: rows of them, each replaced whole.

use std::hash::{BuildHasher, RandomState};

use arc_swap::{ArcSwapOption, Guard};

use super::shelf::Booking;
use crate::sync::Arc;

type Row = Vec<Arc<Booking>>;

/// One row as it was looked at.
pub(super) struct Look<'a> {
    place: &'a ArcSwapOption<Row>,
    seen: Guard<Option<Arc<Row>>>,
}

impl Look<'_> {
    fn bookings(&self) -> &[Arc<Booking>] {
        self.seen.as_ref().map_or(&[], |row| row)
    }

    /// The booking of that id that is not gone.
    pub(super) fn find(&self, id: u128, gone: impl Fn(&Booking) -> bool) -> Option<&Arc<Booking>> {
        self.bookings().iter().find(|booking| booking.id == id && !gone(booking))
    }

    /// True if nothing was changed in it since. A row is never empty again as it was at first, and one that is looked at
    /// is not freed: so the same pointer is the same row all the while.
    pub(super) fn is_current(&self) -> bool {
        same(&self.seen, &self.place.load())
    }

    /// Adds `booking`, and drops what is gone; false if the row has changed since.
    pub(super) fn add(&self, booking: Option<&Arc<Booking>>, gone: impl Fn(&Booking) -> bool) -> bool {
        let kept = self.bookings().iter().filter(|booking| !gone(booking));
        let row: Row = kept.chain(booking).map(Arc::clone).collect();
        same(&self.seen, &self.place.compare_and_swap(&self.seen, Some(Arc::new(row))))
    }

    /// Drops what is gone, if anything is and nobody else changes the row.
    pub(super) fn sweep(&self, gone: impl Fn(&Booking) -> bool) {
        if self.bookings().iter().any(|booking| gone(booking)) {
            self.add(None, gone);
        }
    }
}

fn same(one: &Guard<Option<Arc<Row>>>, other: &Guard<Option<Arc<Row>>>) -> bool {
    one.as_ref().map(Arc::as_ptr) == other.as_ref().map(Arc::as_ptr)
}

/// All rows.
#[derive(Debug)]
pub(super) struct Rows {
    rows: Box<[ArcSwapOption<Row>]>,
    /// Which row an id is in is nobody's to choose; nothing but speed depends on it.
    hash: RandomState,
}

impl Rows {
    /// Bookings that a row holds, about, when as many are remembered as can be.
    const ROW: usize = 8;
    const MOST: usize = 1 << 16;

    pub(super) fn new(bookings: usize) -> Self {
        let rows = (bookings / Self::ROW).clamp(1, Self::MOST).next_power_of_two();
        Self { rows: (0..rows).map(|_| ArcSwapOption::empty()).collect(), hash: RandomState::new() }
    }

    /// The row that `id` is in, if it is anywhere. `None` never: there is at least one row.
    pub(super) fn of(&self, id: u128) -> Option<Look<'_>> {
        self.look(self.hash.hash_one(id))
    }

    /// A row by a number, which may be any.
    pub(super) fn look(&self, number: u64) -> Option<Look<'_>> {
        let index = usize::try_from(number % self.rows.len() as u64).ok()?;
        self.rows.get(index).map(|place| Look { place, seen: place.load() })
    }

    /// Every booking that is there.
    pub(super) fn all(&self) -> impl Iterator<Item = Arc<Booking>> + '_ {
        self.rows.iter().flat_map(|place| place.load().as_ref().map(|row| row.to_vec()).unwrap_or_default())
    }
}
