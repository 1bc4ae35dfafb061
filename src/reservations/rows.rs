//! Where reservations are found by their ids: rows of them, each replaced whole.
//!
//! A row's place is made with the first booking in it. A place costs, and not only when it is made: whoever drops one makes sure of
//! every thread that none reads it any more. A stock that is a lane's state is made and dropped with each bucket.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use arc_swap::{ArcSwapOption, Guard};
use once_cell::race::OnceBox;

use super::shelf::Booking;
use crate::sync::Arc;

type Row = Vec<Arc<Booking>>;
type Place = OnceBox<ArcSwapOption<Row>>;

/// One row as it was looked at.
pub(super) struct Look<'a> {
    place: &'a Place,
    seen: Guard<Option<Arc<Row>>>,
}

/// As if it were there and empty, if it is not there.
fn load(place: &Place) -> Guard<Option<Arc<Row>>> {
    place.get().map_or_else(|| Guard::from_inner(None), ArcSwapOption::load)
}

impl<'a> Look<'a> {
    fn at(place: &'a Place) -> Self {
        Self { place, seen: load(place) }
    }

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
        same(&self.seen, &load(self.place))
    }

    /// Adds `booking`, and drops what is gone; false if the row has changed since.
    pub(super) fn add(&self, booking: Option<&Arc<Booking>>, gone: impl Fn(&Booking) -> bool) -> bool {
        let kept = self.bookings().iter().filter(|booking| !gone(booking));
        let row: Row = kept.chain(booking).map(Arc::clone).collect();
        let place = self.place.get_or_init(Box::default);
        same(&self.seen, &place.compare_and_swap(&self.seen, Some(Arc::new(row))))
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
    rows: Box<[Place]>,
    /// Which row an id is in is nobody's to choose; nothing but speed depends on it.
    hash: RandomState,
}

impl Rows {
    /// Bookings that a row holds, about, when as many are remembered as can be.
    const ROW: usize = 8;
    const MOST: usize = 1 << 16;

    pub(super) fn new(bookings: usize) -> Self {
        let rows = (bookings / Self::ROW).clamp(1, Self::MOST).next_power_of_two();
        Self { rows: (0..rows).map(|_| Place::new()).collect(), hash: RandomState::new() }
    }

    /// With these in them, whose ids are all different. Each row is made once: that is many times cheaper than to add them one
    /// after the other.
    pub(super) fn with(self, bookings: impl Iterator<Item = Booking>) -> Self {
        let mut rows = HashMap::<usize, Row>::new();
        for booking in bookings {
            rows.entry(self.index(self.hash.hash_one(booking.id))).or_default().push(Arc::new(booking));
        }
        for (index, row) in rows {
            // There is such a place, and nothing is in it yet.
            let place = || Box::new(ArcSwapOption::from_pointee(row));
            self.rows.get(index).map(|at| at.get_or_init(place));
        }
        self
    }

    /// The row that `id` is in, if it is anywhere. `None` never: there is at least one row.
    pub(super) fn of(&self, id: u128) -> Option<Look<'_>> {
        self.look(self.hash.hash_one(id))
    }

    /// A row by a number, which may be any.
    pub(super) fn look(&self, number: u64) -> Option<Look<'_>> {
        self.rows.get(self.index(number)).map(Look::at)
    }

    fn index(&self, number: u64) -> usize {
        usize::try_from(number % self.rows.len() as u64).unwrap_or(0)
    }

    /// Every booking that is there.
    pub(super) fn all(&self) -> impl Iterator<Item = Arc<Booking>> + '_ {
        let rows = self.rows.iter().filter_map(OnceBox::get);
        rows.flat_map(|place| place.load().as_ref().map(|row| row.to_vec()).unwrap_or_default())
    }
}
