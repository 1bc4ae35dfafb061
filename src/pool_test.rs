//! Pools by themselves, without a hub.

use std::collections::HashSet;

use crate::cooldown::Cooldown;
use crate::id::Secret;
use crate::pool::{
    Birth, LOGGED_ENDED, LOGGED_LEASED, PASSED_BY_MAX, Pool, RecoveredLease, Renewal, Spot, SubjectBuf, SubjectRef,
    Terms,
};
use crate::service::Policy;
use crate::slot::{Cause, Mask, TIME_MAX, ToRenewed};
use crate::sync::Arc;

const BORN: u64 = 5_000;

fn subject(rank: u64) -> SubjectBuf {
    let key = rank.to_be_bytes();
    SubjectBuf::new(SubjectRef { rank, depth: 0, round: 1, since: 100 + rank, key: &key, body: b"body" })
}

fn birth(policy: &Policy) -> Birth {
    Birth { service: 1, generation: 3, born: BORN, terms: Terms::of(policy) }
}

fn secret() -> Secret {
    Secret::from_bytes([7; Secret::BYTES])
}

/// Subjects 0 and up, in buckets of `bucket`.
fn pool(subjects: u64, bucket: usize) -> Pool {
    cooling(subjects, bucket, 0)
}

/// The same; the first `cool` of them cool down for seat 1 until `BORN` + 10.
fn cooling(subjects: u64, bucket: usize, cool: u64) -> Pool {
    let subject = |rank| {
        let cooldown = (rank < cool).then_some(Cooldown { seat: 1, until: BORN + 10 });
        SubjectBuf { cooldowns: cooldown.into_iter().collect(), ..subject(rank) }
    };
    let policy = Policy { bucket_subjects: bucket, expiry_spread: 0, ..Policy::default() };
    Pool::cut(birth(&policy), &(0..subjects).map(subject).collect::<Vec<_>>(), &secret())
}

fn claim(pool: &Pool, n: usize, seat: u32, now: u64) -> Vec<usize> {
    let mut took = Vec::new();
    assert_eq!(pool.claim(n, seat, now, |index| took.push(index)), took.len());
    took
}

fn end(pool: &Pool, index: usize, seat: u32) {
    assert!(pool.slot(index).unwrap().end(Some(seat), Cause::Client).is_some());
}

/// R41: of the spread each slot has its own part, which is at most the whole.
#[test]
fn deadlines_are_spread_evenly_over_the_spread_and_no_further() {
    let terms = Terms::of(&Policy { expiry_spread: 100, ..Policy::default() });
    assert_eq!((terms.lease_ms, terms.spread_ms), (7_200_000, 720_000));
    let of = |part: u32| terms.deadline(u128::from(part) << 96, 1_000) - 7_201_000;
    assert_eq!([of(0), of(1 << 31), of(u32::MAX)], [0, 360_000, 719_999]);
    // What stands below the part does not count.
    assert_eq!(terms.deadline(u128::from(u64::MAX), 1_000), 7_201_000);
    assert_eq!(terms.cap(u128::from(1_u32 << 31) << 96, 1_000), 1_000 + terms.total_ms + 360_000);
    assert_eq!(terms.cap(0, TIME_MAX), TIME_MAX);
}

#[test]
fn a_renewal_is_capped_only_when_nothing_could_be_added() {
    let pool = pool(1, 1);
    let (lease, total) = (pool.terms.lease_ms, pool.terms.total_ms);
    assert_eq!(claim(&pool, 1, 1, BORN), [0]);
    // A full term from then ends just where the cap is.
    let last = BORN + total - lease;
    assert_eq!(pool.renew(0, 1, last), Renewal::Renewed { time_left: lease });
    assert_eq!(pool.renew(0, 1, last), Renewal::Renewed { time_left: lease }, "the cap takes nothing from it");
    assert_eq!(pool.renew(0, 1, last + 1), Renewal::Capped { time_left: lease - 1 });
    assert_eq!(pool.renew(0, 2, last), Renewal::Not(ToRenewed::NotOwner));
    assert_eq!(pool.renew(1, 1, last), Renewal::Not(ToRenewed::NotOwner));
}

#[test]
fn subjects_that_no_claim_took_are_counted_by_the_pools_mean() {
    // Six buckets, the last of one subject: 21 in all.
    let pool = pool(21, 4);
    let mut ready = vec![pool.ready_subjects()];
    for _ in 0..6 {
        claim(&pool, 1, 1, BORN);
        ready.push(pool.ready_subjects());
    }
    assert_eq!(ready, [21, 17, 14, 10, 7, 3, 0]);
    assert_eq!(Pool::empty(birth(&Policy::default())).ready_subjects(), 0);
    assert_eq!((pool.oldest(), Pool::empty(birth(&Policy::default())).oldest()), (Some(100), None));
}

#[test]
fn one_claim_passes_by_so_many_slots_and_no_more() {
    let all = PASSED_BY_MAX as u64 * 2 + 1;
    let pool = cooling(all, 1, all);
    let taken = |seat| claim(&pool, 1, seat, BORN).len();
    assert_eq!((taken(1), pool.aside().count()), (0, PASSED_BY_MAX));
    assert_eq!((taken(1), pool.aside().count()), (0, PASSED_BY_MAX * 2));
    assert_eq!((taken(1), pool.aside().count(), pool.is_exhausted()), (0, PASSED_BY_MAX * 2 + 1, true));
    assert!(!pool.has_for(1, BORN + 9) && pool.has_for(1, BORN + 10));
    assert_eq!(pool.cools_at(1, BORN), Some(BORN + 10));
    assert!(pool.cooled_between(BORN + 9, BORN + 10) && !pool.cooled_between(BORN + 10, BORN + 11));
    assert_eq!((taken(2), pool.aside().count()), (1, PASSED_BY_MAX * 2), "others have it at once");
}

#[test]
fn what_was_passed_by_left_and_taken_back_is_recalled_and_nothing_else() {
    let pool = cooling(3, 1, 3);
    assert_eq!(pool.claim_one(1, BORN), None, "that is not simple");
    assert!(claim(&pool, 3, 1, BORN).is_empty());
    let all = || [0, 1, 2].map(|index| (pool.is_aside(index), pool.was_recalled(index)));
    assert_eq!(all(), [(true, false); 3]);
    let [index] = claim(&pool, 1, 2, BORN)[..] else { panic!() };
    assert!(!pool.is_aside(index) && !pool.was_recalled(index));
    end(&pool, index, 2);
    assert!(!pool.was_recalled(index), "a client gave it back");
    let other = (index + 1) % 3;
    assert!(pool.slot(other).unwrap().abandon().is_some());
    assert!(pool.was_recalled(other) && !pool.is_aside(other));
    // The only one that was passed by; its neighbour was taken at once.
    let pool = cooling(2, 1, 1);
    assert_eq!(claim(&pool, 1, 1, BORN), [1]);
    assert!(pool.slot(0).unwrap().abandon().is_some());
    assert!(pool.was_recalled(0) && !pool.was_recalled(1));
    // One that no claimer passed by.
    let untouched = super::tests::pool(1, 1);
    assert!(untouched.slot(0).unwrap().abandon().is_some());
    assert!(!untouched.was_recalled(0));
}

#[test]
fn the_writer_is_shown_each_claim_once_and_each_mark_once() {
    let pool = pool(200, 1);
    let shown = || {
        let mut shown = Vec::new();
        pool.collect(|index, _| shown.push(index));
        shown
    };
    assert!(shown().is_empty());
    let taken = claim(&pool, 70, 1, BORN);
    assert_eq!(shown(), taken);
    assert!(shown().is_empty(), "shown before");
    let marked = [0, 1, 63, 64, 69];
    for index in marked {
        pool.mark(index);
    }
    pool.mark(69);
    pool.mark(100_000);
    assert_eq!(shown(), marked);
    assert!(shown().is_empty());
    let next = taken.last().map(|last| last + 1);
    assert_eq!((pool.claim_one(1, BORN), shown()), (next, Vec::from_iter(next)));
}

#[test]
fn a_pool_is_settled_when_each_lease_is_over_and_journaled() {
    let pool = pool(2, 1);
    assert_eq!(claim(&pool, 1, 1, BORN), [0]);
    end(&pool, 0, 1);
    pool.note_logged(0, LOGGED_ENDED);
    assert!(!pool.is_settled(), "one is ready");
    assert_eq!(claim(&pool, 1, 1, BORN), [1]);
    (0..2).for_each(|_| pool.note_logged(1, LOGGED_LEASED));
    assert_eq!(pool.logged(1), LOGGED_LEASED);
    assert!(!pool.is_settled(), "one is held");
    end(&pool, 1, 1);
    assert!(!pool.is_settled(), "of one the journal knows the beginning only");
    pool.note_logged(1, LOGGED_ENDED);
    assert_eq!(pool.logged(1), LOGGED_LEASED | LOGGED_ENDED);
    assert!(pool.is_settled());
    assert!(pool.is_spent());
}

#[test]
fn what_is_put_back_keeps_what_it_is_and_bars_its_giver() {
    let pool = pool(4, 4);
    claim(&pool, 1, 7, BORN);
    end(&pool, 0, 7);
    let back: Vec<_> = pool.put_back(0, Mask::of(1).with(Mask::of(3)), BORN + 5).collect();
    let cooldown = Cooldown { seat: 7, until: BORN + 5 + pool.terms.cooldown_ms };
    assert_eq!(back.len(), 2);
    for (given, rank) in back.iter().zip([1_u64, 3]) {
        assert_eq!((given.rank, given.key(), given.body()), (rank, &rank.to_be_bytes()[..], &b"body"[..]));
        assert_eq!((&given.cooldowns[..], given.bytes()), (&[cooldown][..], 12));
    }
    let cut = Pool::cut(birth(&Policy { bucket_subjects: 1, ..Policy::default() }), &back, &secret());
    assert_eq!((back[0].cooldowns(), claim(&cut, 2, 7, BORN + 6).len(), claim(&cut, 2, 8, BORN + 6).len()), (1, 0, 2));
    // What the steward took back was nobody's.
    let untouched = super::tests::pool(1, 1);
    assert!(untouched.slot(0).unwrap().abandon().is_some());
    assert!(untouched.put_back(0, Mask::first(1), BORN).all(|given| given.cooldowns() == 0));
}

#[test]
fn subjects_are_found_by_rank_and_where_else_they_stand() {
    let first = Arc::new(pool(6, 2));
    let spots = first.spots(&HashSet::from([3, 4, 9]));
    let at = |(rank, spot): &(u64, Spot)| (*rank, spot.index, spot.place);
    assert_eq!(spots.iter().map(at).collect::<Vec<_>>(), [(3, 1, 1), (4, 2, 0)]);
    assert!(spots.iter().all(|(_, spot)| spot.is_at(&first, spot.index) && spot.is_responsible() && spot.is_owed()));
    assert!(!spots[0].1.is_at(&first, 0) && !spots[0].1.is_at(&Arc::new(pool(6, 2)), 1));
    // Offered again, as the second and the third of five, in buckets of two.
    let again: Vec<_> = [10, 3, 4, 11, 12].into_iter().map(subject).collect();
    let origins = vec![(1, spots[0].1.clone()), (2, spots[1].1.clone())];
    let policy = Policy { bucket_subjects: 2, ..Policy::default() };
    let second = Pool::cut_again(birth(&policy), &again, origins, &secret());
    assert!(second.is_shared() && !first.is_shared());
    let of = |index| second.origins(index).map(|(place, spot)| (place, spot.index, spot.place)).collect::<Vec<_>>();
    assert_eq!([of(0), of(1), of(2), of(3)], [vec![(1, 1, 1)], vec![(0, 2, 0)], vec![], vec![]]);
    assert!(second.origin(0, 1).is_some() && second.origin(0, 0).is_none() && second.origin(2, 0).is_none());
    // Reported where it stood first: it is owed there no more. Given back there, it is owed, but nobody has it.
    assert_eq!(claim(&first, 3, 1, BORN).len(), 3);
    assert_eq!(first.slot(1).unwrap().report(Mask::of(1)).accepted, Mask::of(1));
    assert!(!spots[0].1.is_owed() && !spots[0].1.is_responsible());
    end(&first, 2, 1);
    assert!(spots[1].1.is_owed() && !spots[1].1.is_responsible());
}

#[test]
fn buckets_are_found_by_the_numbers_that_tokens_have() {
    let pool = pool(5, 2);
    assert_eq!([0, 2, 3, u32::MAX].map(|number| pool.index_of(number)), [Some(0), Some(2), None, None]);
    let lease = |slot| RecoveredLease {
        slot,
        owner: 9,
        claimed_at: BORN + 1,
        open: Mask::first(1),
        subjects: vec![subject(u64::from(slot))],
        run: None,
    };
    let recovered = Pool::recover(birth(&Policy::default()), vec![lease(3), lease(70)], BORN + 50, |_| None, &secret());
    assert_eq!([3, 70, 0, 71].map(|number| recovered.index_of(number)), [Some(0), Some(1), None, None]);
    assert_eq!((recovered.number(1), recovered.number(2)), (70, u32::MAX));
    assert_eq!(recovered.token(1).map(|token| (token.slot, token.generation)), Some((70, 3)));
    let slot = recovered.slot(0).unwrap();
    assert_eq!((slot.snapshot().owner(), recovered.claimed_at(slot)), (9, BORN + 1));
    assert_eq!((recovered.bucket(0).size_hint(), recovered.bucket(2).size_hint()), ((1, Some(1)), (0, Some(0))));
}

#[test]
fn a_claim_of_several_that_passes_some_by_gets_no_more_than_it_asked_for() {
    let pool = cooling(10, 1, 1);
    assert_eq!(claim(&pool, 3, 1, BORN), [1, 2, 3]);
    assert_eq!(claim(&pool, 2, 2, BORN), [4, 5], "what was passed by comes last");
    assert_eq!(claim(&pool, 9, 2, BORN), [6, 7, 8, 9, 0]);
}

#[test]
fn fingerprints_of_reports_stand_by_their_subjects() {
    let pool = pool(5, 2);
    pool.note_print(1, 0, 7);
    pool.note_print(2, 0, 9);
    // Beyond the last bucket's only subject, and beyond the last bucket.
    pool.note_print(2, 1, 1);
    pool.note_print(3, 0, 1);
    let all: Vec<_> = (0..3).flat_map(|index| [0, 1].map(|place| pool.print_of(index, place))).collect();
    assert_eq!(all, [0, 0, 7, 0, 9, 0]);
}
