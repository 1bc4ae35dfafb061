//! Reports of a lease that expired, on subjects that others have not reported yet; see [`Late`](crate::Late).

use std::collections::{HashMap, HashSet};

use crate::audit::Move;
use crate::contest;
#[cfg(test)]
use crate::late_test::{Point, reached};
use crate::lease::Hold;
use crate::people::SeatCore;
use crate::pool::{Pool, Spot};
use crate::record::SeatState;
use crate::slot::{Cause, Mask};
use crate::sync::Arc;
use crate::watch::Level;

/// Where the subjects of an expired lease are offered or owed now, by their places in it; none if its late reports are
/// refused.
///
/// Looks through the service's buckets: takes time in proportion to what is ready and leased.
pub(crate) fn find(seat: &SeatCore, pool: &Arc<Pool>, index: usize, wanted: Mask) -> Vec<(usize, Spot)> {
    let expired = || pool.slot(index).is_some_and(|slot| slot.snapshot().put_back() == Some(Cause::Expired));
    // From others it takes only as far as it is trusted.
    let trusted = || matches!(seat.standing(), (SeatState::Active, Level::Healthy | Level::Suspect));
    // What was put back in a lane comes in the lane's order.
    if pool.run(index).is_some() || !pool.terms.accept_late || !expired() || !trusted() {
        return Vec::new();
    }
    let rank_at = |place| pool.subject(index, place).map(|subject| subject.rank);
    let places: HashMap<u64, usize> = wanted.places().filter_map(|place| Some((rank_at(place)?, place))).collect();
    let ranks: HashSet<u64> = places.keys().copied().collect();
    // Not in this lease: it is over. Of a subject that two leases hold, those two decide.
    let alone = seat.service.spots(&ranks).into_iter().filter(|(_, spots)| spots.len() == 1);
    let found = alone.filter_map(|(rank, mut spots)| Some((*places.get(&rank)?, spots.pop()?)));
    let found = found.filter(|(_, spot)| decides(spot)).collect();
    #[cfg(test)]
    reached(Point::Found);
    found
}

/// True if the subject's bit decides there who reports it: it was not offered there again, or it was put back where it stood first.
/// That stays so.
fn decides(spot: &Spot) -> bool {
    let Some(origin) = spot.pool.origin(spot.index, spot.place) else { return true };
    origin.pool.slot(origin.index).is_some_and(|slot| contest::was_put_back(slot, origin.place))
}

/// Takes subjects from where they stand: those taken, nobody else can report. What is not taken goes out of `spots`, for
/// [`settle`]. `print_of` knows the reports' fingerprints. Lock-free, no allocation.
pub(crate) fn take(spots: &mut Vec<(usize, Spot)>, print_of: impl Fn(usize) -> u32) -> Mask {
    let mut taken = Mask::default();
    spots.retain(|(place, spot)| {
        let took = take_from(spot);
        if took {
            spot.pool.note_print(spot.index, spot.place, print_of(*place));
            taken.insert(*place);
        }
        took
    });
    #[cfg(test)]
    reached(Point::Taken);
    taken
}

/// Clears a subject's bit where it stands; false if somebody else did, or if it was put back.
fn take_from(spot: &Spot) -> bool {
    let Some(slot) = spot.pool.slot(spot.index) else { return false };
    spot.pool.share();
    !slot.report(Mask::of(spot.place)).accepted.is_empty()
}

/// Accounts for what was taken, once it is on its way to the writer.
pub(crate) fn settle(seat: &SeatCore, spots: &[(usize, Spot)]) {
    for (_, spot) in spots {
        settle_one(seat, spot);
    }
}

fn settle_one(seat: &SeatCore, spot: &Spot) {
    let Some(slot) = spot.pool.slot(spot.index) else { return };
    let was_waiting = slot.abandon();
    let seen = slot.snapshot();
    if seen.put_back() == Some(Cause::Abandoned) {
        // Nobody has held it: the rest of the bucket comes back to the steward, now or for another reason.
        seat.service.ledger.moved(Move::Assigned, spot.pool.print(spot.index, Mask::of(spot.place)));
        if let Some(left) = was_waiting {
            seat.service.note_taken_back(&spot.pool, spot.index, left);
        }
    } else {
        Hold::lose_one(seat, spot, seen.owner());
    }
}
