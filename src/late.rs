//! Reports of a lease that expired, on subjects that others have not reported yet; see [`Late`](crate::Late).

use std::collections::{HashMap, HashSet};

use crate::lease::Hold;
use crate::people::SeatCore;
use crate::pool::{Pool, Spot};
use crate::record::SeatState;
use crate::slot::{Cause, Mask, Phase, Slot};
use crate::sync::Arc;

/// Where the subjects of an expired lease are offered or owed now, by their places in it; none if its late reports are
/// refused.
///
/// Looks through the service's buckets: takes time in proportion to what is ready and leased.
pub(crate) fn find(seat: &SeatCore, pool: &Arc<Pool>, index: usize, wanted: Mask) -> Vec<(usize, Spot)> {
    let expired = pool.slot(index).map(Slot::snapshot);
    let expired = expired.is_some_and(|seen| seen.phase() == Phase::Released && seen.cause() == Cause::Expired);
    if !pool.terms.accept_late || !expired || seat.state() != SeatState::Active {
        return Vec::new();
    }
    let rank_at = |place| pool.subject(index, place).map(|subject| subject.rank);
    let places: HashMap<u64, usize> = wanted.places().filter_map(|place| Some((rank_at(place)?, place))).collect();
    let ranks: HashSet<u64> = places.keys().copied().collect();
    let mut found: HashMap<u64, Vec<Spot>> = HashMap::new();
    for live in seat.service.live().iter() {
        for (rank, spot) in live.spots(&ranks) {
            if spot.is_responsible() && !spot.is_at(pool, index) {
                found.entry(rank).or_default().push(spot);
            }
        }
    }
    // Of a subject that two leases hold, those two decide.
    let alone = found.into_iter().filter(|(_, spots)| spots.len() == 1);
    alone.filter_map(|(rank, mut spots)| Some((*places.get(&rank)?, spots.pop()?))).collect()
}

/// Takes subjects from where they stand: those taken, nobody else can report. `print_of` knows the reports' fingerprints.
/// Lock-free, no allocation.
pub(crate) fn take(seat: &SeatCore, spots: &[(usize, Spot)], print_of: impl Fn(usize) -> u32) -> Mask {
    let mut taken = Mask::default();
    for (place, spot) in spots {
        if take_from(seat, spot) {
            spot.pool.note_print(spot.index, spot.place, print_of(*place));
            taken.insert(*place);
        }
    }
    taken
}

/// Clears a subject's bit where it stands; false if somebody else did, or if it was put back.
fn take_from(seat: &SeatCore, spot: &Spot) -> bool {
    let Some(slot) = spot.pool.slot(spot.index) else { return false };
    spot.pool.share();
    if slot.report(Mask::of(spot.place)).accepted.is_empty() {
        return false;
    }
    if slot.abandon() {
        // Nobody held it: the rest of the bucket comes back to the steward.
        spot.pool.mark(spot.index);
        seat.service.link.writer.raise();
    } else if let Some(people) = seat.people.upgrade()
        && let Some(holder) = people.seats.get(slot.snapshot().owner() as usize)
    {
        holder.counts.subjects_put_back.add(1);
        Hold::finish_slot(holder, &spot.pool, spot.index);
    }
    true
}
