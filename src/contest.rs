//! Which report counts of a subject that stands in two buckets: in the one where it stood first, and in the one that offers it again.
//! The model checkers compile this file as it is (see `models/`).

use crate::slot::{Cause, Mask, Slot};

/// Who reports the subjects of a bucket that stood in another one as well, by their places.
#[derive(Debug, Default)]
pub(crate) struct Contest {
    /// Reported on the other lease.
    pub(crate) lost: Mask,
    /// Taken from the other lease.
    pub(crate) won: Mask,
    /// Nobody held the other bucket: it was taken back.
    pub(crate) freed: Mask,
}

impl Contest {
    /// Of a subject that was cleared at `place` of the bucket that offers it again, the bit where it stood first decides: at
    /// `at` of `origin`.
    pub(crate) fn ask(&mut self, place: usize, origin: &Slot, at: usize) {
        // A bucket that waits comes back to the steward as a whole.
        let freed = origin.abandon().is_some();
        if freed {
            self.freed.insert(place);
        }
        if freed || origin.snapshot().put_back() == Some(Cause::Abandoned) {
            // Taken back before anyone held it: our own bit has decided, unless a late report took the subject there before
            // it was closed. Whoever took it back may have stopped before that.
            if !origin.close().has(at) {
                self.lost.insert(place);
            }
            return;
        }
        let taken = origin.report(Mask::of(at));
        if !taken.accepted.is_empty() {
            self.won.insert(place);
        } else if taken.stale.is_empty() {
            self.lost.insert(place);
        }
        // Put back there: our own bit has decided.
    }
}

/// True if a subject was put back where it stood first: the bit where it is offered again decides. That stays so.
pub(crate) fn was_put_back(origin: &Slot, at: usize) -> bool {
    // Whoever ended it may have stopped before it was closed.
    origin.snapshot().is_final() && origin.close().has(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What asking a bucket of two about its first subject comes to: lost, won, freed.
    fn asked(origin: &Slot) -> [bool; 3] {
        let mut contest = Contest::default();
        contest.ask(5, origin, 0);
        let told = [contest.lost, contest.won, contest.freed];
        assert!(told.iter().all(|mask| mask.without(Mask::of(5)).is_empty()), "by its place where it is offered again");
        told.map(|mask| mask.has(5))
    }

    fn leased() -> Slot {
        Slot::leased(0, 2, 0, 7, (0, 10), Mask::first(2))
    }

    #[test]
    fn the_bit_where_it_stood_first_decides_unless_it_was_put_back() {
        let (held, reported, put_back) = (leased(), leased(), leased());
        assert_eq!((asked(&held), held.open()), ([false, true, false], Mask::of(1)));
        assert_eq!(asked(&held), [true, false, false], "it was taken from there");
        assert!(!reported.report(Mask::of(0)).accepted.is_empty());
        assert_eq!(asked(&reported), [true, false, false]);
        assert!(put_back.end(None, Cause::Expired).is_some());
        assert_eq!((asked(&put_back), was_put_back(&put_back, 0)), ([false; 3], true));
        assert!(!was_put_back(&held, 0) && !was_put_back(&reported, 0) && !was_put_back(&leased(), 0));
    }

    #[test]
    fn a_bucket_that_waits_is_taken_back() {
        let waits = Slot::new(0, 2, 0);
        assert_eq!((asked(&waits), waits.open()), ([false, false, true], Mask::first(2)));
        assert_eq!(asked(&waits), [false; 3], "who took it back does not matter");
        let late = Slot::new(0, 2, 0);
        assert!(!late.report(Mask::of(0)).accepted.is_empty(), "it was reported late, there");
        assert_eq!((asked(&late), asked(&late)), ([true, false, true], [true, false, false]));
        assert!(!was_put_back(&late, 0) && was_put_back(&late, 1));
    }
}
