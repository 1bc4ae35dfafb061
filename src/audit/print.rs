//! The fingerprint of a set of subjects.

use serde::{Deserialize, Serialize};

/// The fingerprint of a set of subjects: how many there are, and the sum and the exclusive or of a hash of each one's rank.
///
/// A rank names one round of one subject in one life of it. Fingerprints add and subtract as their sets do, whatever the
/// order: two sets of the same fingerprint are the same, but for a chance of about 1 in 2^64. No defence against an
/// adversary, who has no say in ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Print {
    /// How many. Of a difference: wraps below 0 (see [`Imbalance::subjects`](crate::Imbalance::subjects)).
    pub count: u64,
    /// The sum of their hashes; wraps.
    pub sum: u64,
    /// The exclusive or of their hashes.
    pub xor: u64,
}

impl Print {
    /// Of one subject.
    pub(crate) fn of(rank: u64) -> Self {
        let hash = mix(rank);
        Self { count: 1, sum: hash, xor: hash }
    }

    /// Of both sets together.
    #[must_use]
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            count: self.count.wrapping_add(other.count),
            sum: self.sum.wrapping_add(other.sum),
            xor: self.xor ^ other.xor,
        }
    }

    /// Of what is left without the other set.
    #[must_use]
    pub(crate) fn minus(self, other: Self) -> Self {
        Self {
            count: self.count.wrapping_sub(other.count),
            sum: self.sum.wrapping_sub(other.sum),
            xor: self.xor ^ other.xor,
        }
    }

    pub(crate) fn add(&mut self, rank: u64) {
        *self = self.plus(Self::of(rank));
    }

    /// Of nothing.
    pub(crate) fn is_nothing(self) -> bool {
        self == Self::default()
    }

    /// How many, of a difference: below 0 if more was taken away than there was.
    pub(crate) fn balance(self) -> i64 {
        self.count.cast_signed()
    }

    /// The rank, if the set, or what is missing from it, is a single subject.
    pub(crate) fn rank(self) -> Option<u64> {
        let hash = match self.balance() {
            1 => self.sum,
            -1 => self.sum.wrapping_neg(),
            _ => return None,
        };
        (hash == self.xor).then(|| unmix(hash))
    }
}

impl FromIterator<u64> for Print {
    fn from_iter<T: IntoIterator<Item = u64>>(ranks: T) -> Self {
        ranks.into_iter().fold(Self::default(), |print, rank| print.plus(Self::of(rank)))
    }
}

/// The step of the generator whose finalizer this is (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators,
/// OOPSLA 2014, in the variant known as splitmix64): without it 0 would hash to 0.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// One to one, and every bit of the result depends on every bit of the rank.
fn mix(rank: u64) -> u64 {
    let z = rank.wrapping_add(STEP);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The inverse of [`mix`]: the multipliers are the inverses modulo 2^64.
fn unmix(hash: u64) -> u64 {
    let z = hash ^ (hash >> 31) ^ (hash >> 62);
    let z = z.wrapping_mul(0x3196_42b2_d24d_8ec3);
    let z = z ^ (z >> 27) ^ (z >> 54);
    let z = z.wrapping_mul(0x96de_1b17_3f11_9089);
    (z ^ (z >> 30) ^ (z >> 60)).wrapping_sub(STEP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rank_that_is_missing_can_be_named() {
        let all: Print = (0..1_000).collect();
        for missing in [0, 1, 500, 999] {
            let rest: Print = (0..1_000).filter(|rank| *rank != missing).collect();
            assert_eq!((rest.minus(all).balance(), rest.minus(all).rank()), (-1, Some(missing)));
            assert_eq!(all.minus(rest).rank(), Some(missing));
        }
        assert_eq!(all.rank(), None, "a thousand are not one");
        let one_for_another = Print::of(1).plus(Print::of(2)).minus(Print::of(3));
        assert_eq!((one_for_another.balance(), one_for_another.rank()), (1, None));
    }

    proptest! {
        #[test]
        fn mixing_is_one_to_one(rank: u64) {
            prop_assert_eq!(unmix(mix(rank)), rank);
        }

        #[test]
        fn prints_add_and_subtract_as_sets_do(here: Vec<u64>, there: Vec<u64>) {
            let print = |ranks: &[u64]| ranks.iter().copied().collect::<Print>();
            let both = print(&here).plus(print(&there));
            prop_assert_eq!(both, print(&[there.clone(), here.clone()].concat()));
            prop_assert_eq!(both.minus(print(&there)), print(&here));
            let none = here.iter().chain(&there).fold(both, |rest, rank| rest.minus(Print::of(*rank)));
            prop_assert!(none.is_nothing());
        }
    }
}
