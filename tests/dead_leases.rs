//! Clients that fall silent: their leases die, wait out a grace, and are offered again, with exactly what was not reported.
//!
//! A slot that the cursor passed and no claim took (a claimer stopped between two instructions) cannot be made from
//! outside; the steward's taking it back is tested in the crate, and here only that it never happens by itself.

#[allow(clippy::allow_attributes, dead_code, reason = "each test file uses a part of it")]
mod support;

use std::collections::HashSet;
use std::time::Duration;

use commissary::{Cause, ClaimError, EmptyReason, LeaseError, Outcome, Policy, SeatState};
use support::{Rig, drain, keys, ms, none, one, policy, right, sorted};

const LEASE: u64 = 10_000;
const GRACE: u64 = 3_000;

fn short() -> Policy {
    policy(|policy| {
        policy.lease = ms(LEASE);
        policy.grace = ms(GRACE);
    })
}

/// R39: a lease is alive until its deadline, dead at it, and dead for a whole grace, during which reports are taken; at
/// the grace's end it is released.
#[test]
fn lease_dies_and_is_released_at_its_boundaries_exactly() {
    for (offset, dead, released) in [(-1_i64, false, false), (0, true, false), (1, true, false)] {
        let rig = Rig::new(short());
        let seat = rig.seat(1);
        rig.add(0..4);
        let token = one(&seat).into_token();
        rig.pass(LEASE.checked_add_signed(offset).unwrap());
        let view = seat.leases().unwrap().pop();
        assert_eq!(view.as_ref().map(|view| view.dead), Some(dead), "{offset} ms from the deadline");
        assert_eq!(view.unwrap().time_left, ms(u64::from(!dead)), "{offset} ms from the deadline");
        assert_eq!(seat.renew(&token).is_ok(), !dead);
        assert_eq!(seat.leases().unwrap().is_empty(), released);
        rig.assert_adds_up();
    }
    for (offset, released) in [(-1_i64, false), (0, true), (1, true)] {
        let rig = Rig::new(short());
        let (seat, third) = (rig.seat(1), rig.seat(2));
        rig.add(0..4);
        let lease = one(&seat);
        let owed = keys(&lease);
        let token = lease.into_token();
        rig.pass(LEASE);
        rig.pass(GRACE.checked_add_signed(offset).unwrap());
        assert_eq!(seat.leases().unwrap().is_empty(), released, "{offset} ms from the grace's end");
        let submitted = seat.submit(&token, right(&owed)).unwrap();
        let outcome = if released { Outcome::Stale } else { Outcome::Accepted };
        assert_eq!(submitted.outcomes, vec![outcome; 4], "{offset} ms from the grace's end");
        rig.hub.tick();
        let left = if released { sorted(owed) } else { Vec::new() };
        assert_eq!(drain(&rig, &third), left, "{offset} ms from the grace's end");
        let work = rig.service.seat_stats(1).unwrap().work;
        assert_eq!((work.buckets_expired, work.buckets_processed), (u64::from(released), u64::from(!released)));
        rig.assert_adds_up();
    }
}

/// R39: what a third party gets is exactly what was not reported, at once after lease and grace, ahead of younger work.
#[test]
fn third_party_gets_exactly_what_is_left_ahead_of_younger_work() {
    let rig = Rig::new(short());
    let (silent, third) = (rig.seat(1), rig.seat(2));
    rig.add(0..400);
    let lease = one(&silent);
    let owed = keys(&lease);
    assert_eq!(lease.report(right(&owed[..1])).unwrap().accepted(), 1);
    let token = lease.into_token();
    rig.pass(LEASE);
    // Within the grace a part of the finished work is still taken.
    assert_eq!(silent.report(&token, right(&owed[1..2])).unwrap().outcomes, [Outcome::Accepted]);
    rig.pass(GRACE);

    let again = one(&third);
    assert_ne!(again.token(), token);
    assert_eq!(sorted(keys(&again)), sorted(owed[2..].to_vec()));
    let late = silent.submit(&token, right(&owed)).unwrap();
    let expected = [Outcome::AlreadyDone, Outcome::AlreadyDone, Outcome::Stale, Outcome::Stale];
    assert_eq!((late.outcomes.as_slice(), late.put_back, late.kept), (expected.as_slice(), 0, false));
    assert_eq!(again.submit(right(&owed[2..])).unwrap().accepted(), 2);
    assert_eq!(silent.renew(&token), Err(LeaseError::Over));
    assert_eq!(silent.release(&token), Err(LeaseError::Over));
    assert_eq!(silent.resume(&token).unwrap_err(), LeaseError::Over);
    rig.hub.tick();

    let silent = rig.service.seat_stats(1).unwrap();
    let work = silent.work;
    assert_eq!((work.buckets_assigned, work.buckets_put_back, work.buckets_expired), (1, 1, 1));
    assert_eq!((work.subjects_assigned, work.subjects_reported, work.subjects_put_back), (4, 2, 2));
    assert_eq!((silent.faults.stale, silent.already_done), (2, 2));
    for key in owed {
        let finding = rig.service.result(&key).unwrap().unwrap();
        assert_eq!((finding.report, finding.version), (key * 2, 1));
    }
    assert_eq!(rig.service.stats().abandoned_slots, 0);
    rig.assert_adds_up();
}

/// R39, R102: however rarely the caretaker comes, a whole grace passes between its marking a lease dead and its releasing it.
#[test]
fn whole_grace_passes_even_if_the_steward_comes_rarely() {
    let rig = Rig::new(short());
    let seat = rig.seat(1);
    rig.add(0..8);
    let (early, late) = (one(&seat), one(&seat));
    let owed = [keys(&early), keys(&late)];
    let tokens = [early.into_token(), late.into_token()];
    // A day passes in one step: far beyond deadline and grace.
    rig.pass(86_400_000);
    let views = seat.leases().unwrap();
    assert_eq!(views.iter().map(|view| view.dead).collect::<Vec<_>>(), [true, true]);
    assert_eq!(seat.submit(&tokens[0], right(&owed[0])).unwrap().accepted(), 4);
    rig.pass(GRACE - 1);
    assert_eq!(seat.leases().unwrap().len(), 1);
    rig.pass(1);
    assert_eq!(seat.leases().unwrap().len(), 0);
    assert_eq!(seat.submit(&tokens[1], right(&owed[1])).unwrap().outcomes, vec![Outcome::Stale; 4]);
    rig.assert_adds_up();
}

/// R39: each round releases what was marked in an earlier one before it marks anew: a lease whose deadline passes in the
/// same step in which another's grace ends is only marked.
#[test]
fn release_of_the_dead_comes_before_the_marking_of_new_ones() {
    let rig = Rig::new(short());
    let seat = rig.seat(1);
    rig.add(0..8);
    let first = one(&seat).into_token();
    rig.pass(LEASE / 2);
    let second = one(&seat).into_token();
    rig.pass(LEASE / 2);
    let dead = |token| seat.leases().unwrap().iter().find(|view| view.token == token).map(|view| view.dead);
    assert_eq!((dead(first), dead(second)), (Some(true), Some(false)));
    rig.pass(LEASE);
    assert_eq!((dead(first), dead(second)), (None, Some(true)));
    rig.pass(GRACE);
    assert_eq!((dead(first), dead(second)), (None, None));
    let work = rig.service.seat_stats(1).unwrap().work;
    assert_eq!((work.buckets_expired, work.subjects_put_back), (2, 8));
    rig.assert_adds_up();
}

/// R39: a lease can be renewed until the steward has seen its deadline pass, then no more; a renewal gives a full term.
#[test]
fn renewal_counts_before_the_mark_of_death_and_not_after() {
    let rig = Rig::new(short());
    let seat = rig.seat(1);
    rig.add(0..4);
    let lease = one(&seat);
    rig.pass(LEASE - 1);
    assert_eq!(lease.renew(), Ok(ms(LEASE)));
    rig.pass(LEASE - 1);
    assert!(!seat.leases().unwrap()[0].dead);
    // The deadline passes, but nobody has seen it yet.
    rig.clock.advance(ms(5));
    assert_eq!(lease.renew(), Ok(ms(LEASE)));
    rig.pass(LEASE - 1);
    assert!(!seat.leases().unwrap()[0].dead);
    rig.pass(1);
    assert!(seat.leases().unwrap()[0].dead);
    assert_eq!(lease.renew(), Err(LeaseError::Dead));
    rig.pass(GRACE - 1);
    assert_eq!(lease.renew(), Err(LeaseError::Dead));
    rig.pass(1);
    assert_eq!(lease.renew(), Err(LeaseError::Over));
    rig.assert_adds_up();
}

/// R56: a grant whose answer was lost is visible to its client, and can be taken up again.
#[test]
fn lost_grant_is_found_again_by_its_client() {
    let rig = Rig::new(short());
    let seat = rig.seat(1);
    rig.add(0..4);
    let _lost = one(&seat).into_token();
    let view = rig.seat(1).leases().unwrap().pop().unwrap();
    assert_eq!((view.time_left, view.dead, sorted(view.subjects.clone())), (ms(LEASE), false, vec![0, 1, 2, 3]));
    let lease = seat.resume(&view.token).unwrap();
    assert_eq!(lease.submit(right(&view.subjects)).unwrap().accepted(), 4);
    assert_eq!(seat.leases().unwrap().len(), 0);
    rig.assert_adds_up();
}

/// R56: a grant that nobody asks for again dies like any other: `claim` says when, and then it is offered again.
#[test]
fn lost_grant_that_nobody_asks_for_dies_and_is_offered_again() {
    let rig = Rig::new(short());
    let (crashed, other) = (rig.seat(1), rig.seat(2));
    rig.add(0..4);
    let _lost = one(&crashed).into_token();
    rig.hub.tick();
    let told = none(&other);
    assert_eq!(told.reason, EmptyReason::AllLeased { earliest_free: ms(LEASE + GRACE) });
    rig.pass(LEASE);
    assert_eq!(none(&other).reason, EmptyReason::AllLeased { earliest_free: ms(GRACE) });
    rig.pass(GRACE);
    assert_eq!(drain(&rig, &other), [0, 1, 2, 3]);
    rig.assert_adds_up();
}

/// R89: `slow_buckets` lists what took longer than the threshold, live ones first, each with its client and time; dead
/// ones count from when they were claimed.
#[test]
fn slow_buckets_lists_live_and_past_ones_with_client_and_times() {
    let rig = Rig::new(short());
    let (quick, slow, silent) = (rig.seat(1), rig.seat(2), rig.seat(3));
    rig.add(0..12);
    let (of_quick, of_slow, of_silent) = (one(&quick), one(&slow), one(&silent));
    rig.pass(1_000);
    assert_eq!(of_quick.submit(right(&keys(&of_quick))).unwrap().accepted(), 4);
    rig.hub.tick();
    rig.pass(4_000);
    assert_eq!(of_slow.submit(right(&keys(&of_slow))).unwrap().accepted(), 4);
    rig.hub.tick();
    let listed = |threshold: u64| {
        let slow = rig.service.slow_buckets(ms(threshold));
        slow.iter().map(|slow| (slow.client.value(), slow.took, slow.held, slow.put_back)).collect::<Vec<_>>()
    };
    assert_eq!(listed(0), [(3, ms(5_000), true, None), (2, ms(5_000), false, None), (1, ms(1_000), false, None)]);
    assert_eq!(listed(1_000), [(3, ms(5_000), true, None), (2, ms(5_000), false, None)]);
    assert_eq!(listed(4_999).len(), 2);
    assert_eq!(listed(5_000), []);

    rig.pass(LEASE - 5_000);
    assert!(silent.leases().unwrap()[0].dead);
    assert_eq!(listed(LEASE - 1), [(3, ms(LEASE), true, None)], "its death does not make it young again");
    rig.pass(GRACE - 1);
    assert_eq!(listed(LEASE), [(3, ms(LEASE + GRACE - 1), true, None)]);
    rig.pass(1);
    assert_eq!(listed(LEASE), [(3, ms(LEASE + GRACE), false, Some(Cause::Expired))]);
    drop(of_silent);
    rig.assert_adds_up();
}

/// R90: a client that no longer answers: its bucket reads dead, then ready again; the client reads inactive and must
/// activate again; all counters agree.
#[test]
fn unresponsive_client_loses_its_buckets_then_its_seat() {
    let rig = Rig::new(policy(|policy| {
        policy.lease = ms(LEASE);
        policy.grace = ms(GRACE);
        policy.idle = ms(20_000);
    }));
    let (silent, other) = (rig.seat(1), rig.seat(2));
    rig.add(0..8);
    let _lost = [one(&silent).into_token(), one(&silent).into_token()];
    assert_eq!(rig.service.stats().active_seats, 2);
    rig.pass(LEASE);
    let work = rig.service.seat_stats(1).unwrap().work;
    assert_eq!((work.buckets_held, work.subjects_held, work.buckets_put_back), (2, 8, 0));
    rig.pass(GRACE);
    let work = rig.service.seat_stats(1).unwrap().work;
    assert_eq!((work.buckets_held, work.subjects_held), (0, 0));
    assert_eq!((work.buckets_put_back, work.buckets_expired, work.subjects_put_back), (2, 2, 8));
    assert_eq!(drain(&rig, &other), (0..8).collect::<Vec<_>>());

    assert_eq!(silent.state(), SeatState::Active);
    rig.pass(20_000 - LEASE - GRACE - 1);
    assert_eq!(silent.state(), SeatState::Active, "1 ms before it has been idle for too long");
    rig.pass(1);
    assert_eq!(silent.state(), SeatState::Inactive);
    assert_eq!(rig.service.stats().active_seats, 1);
    assert_eq!(silent.claim(commissary::Ask::one()).unwrap_err(), ClaimError::Inactive);
    let again = rig.seat(1);
    assert_eq!((again.state(), silent.state()), (SeatState::Active, SeatState::Active));
    assert_eq!(none(&again).reason, EmptyReason::NothingPending);
    let total = rig.service.stats().work;
    assert_eq!((total.buckets_assigned, total.buckets_processed, total.buckets_put_back), (4, 2, 2));
    assert_eq!((total.subjects_assigned, total.subjects_reported, total.subjects_put_back), (16, 8, 8));
    rig.assert_adds_up();
}

/// R38, R39: subjects put back are offered first, but one claim in `ordinary_share` goes to the ordinary pool: neither
/// starves.
#[test]
fn put_back_subjects_come_first_and_ordinary_ones_get_their_share() {
    for share in [2_u64, 4, 7] {
        let rig = Rig::new(policy(|policy| {
            policy.lease = ms(LEASE);
            policy.grace = ms(GRACE);
            policy.bucket_subjects = 1;
            policy.buckets_per_claim = 100;
            policy.ordinary_share = u32::try_from(share).unwrap();
        }));
        let (silent, worker) = (rig.seat(1), rig.seat(2));
        rig.add(0..400);
        let lost = silent.claim(commissary::Ask::buckets(30)).unwrap().leased().unwrap();
        let returned: HashSet<u64> = lost.leases().iter().flat_map(keys).collect();
        assert_eq!(returned.len(), 30);
        let tokens: Vec<_> = lost.into_iter().map(commissary::Lease::into_token).collect();
        assert_eq!(tokens.len(), 30);
        rig.pass(LEASE);
        rig.pass(GRACE);
        let mut leases = Vec::new();
        let mut at = Vec::new();
        for claim in 1..=30 {
            let lease = one(&worker);
            at.push(returned.contains(&keys(&lease)[0]));
            leases.push(lease);
            if claim % share == 0 {
                let ordinary =
                    at.iter().skip(leases.len() - usize::try_from(share).unwrap()).filter(|front| !**front).count();
                assert_eq!(ordinary, 1, "up to claim {claim}, share {share}: {at:?}");
            }
        }
        let fronts = at.iter().filter(|front| **front).count() as u64;
        assert!(30 - fronts - 30 / share <= 1, "{fronts} of 30 were put back, share {share}");
        // The rest of those put back go on being first; then only ordinary ones are left.
        let rest: Vec<bool> = (31..=90)
            .map(|_| {
                rig.hub.tick();
                let lease = one(&worker);
                let put_back = returned.contains(&keys(&lease)[0]);
                leases.push(lease);
                put_back
            })
            .collect();
        assert_eq!(rest.iter().filter(|front| **front).count() as u64, 30 - fronts);
        let final_one = rest.iter().rposition(|front| *front).unwrap() as u64;
        assert!(final_one < 2 * (30 - fronts), "share {share}: the last of them came at claim {}", 31 + final_one);
        drop(leases);
        rig.assert_adds_up();
    }
}

/// R39: with a grace of zero nothing is taken late: the same round marks and releases.
#[test]
fn without_a_grace_death_is_the_end() {
    let rig = Rig::new(policy(|policy| {
        policy.lease = ms(LEASE);
        policy.grace = Duration::ZERO;
    }));
    let (seat, third) = (rig.seat(1), rig.seat(2));
    rig.add(0..4);
    let lease = one(&seat);
    let owed = keys(&lease);
    rig.pass(LEASE - 1);
    assert_eq!(seat.leases().unwrap().len(), 1);
    rig.pass(1);
    assert_eq!(seat.leases().unwrap().len(), 0);
    assert_eq!(lease.submit(right(&owed)).unwrap().outcomes, vec![Outcome::Stale; 4]);
    assert_eq!(drain(&rig, &third), sorted(owed));
    rig.assert_adds_up();
}

/// R53: a lease is as old as its claim, whatever was renewed, and its cap counts from there, over a restart as well.
#[test]
fn renewals_and_restarts_do_not_make_a_lease_younger() {
    let terms = || policy(|policy| (policy.lease, policy.grace, policy.lease_total) = (ms(LEASE), ms(GRACE), 2));
    let rig = Rig::new(terms());
    let seat = rig.seat(1);
    rig.add(0..8);
    rig.pass(2_000);
    let token = one(&seat).into_token();
    rig.pass(6_000);
    assert_eq!(seat.renew(&token), Ok(ms(LEASE)));
    rig.pass(6_000);
    assert_eq!(seat.renew(&token), Ok(ms(8_000)), "two terms in all");
    let ages = |rig: &Rig| rig.service.slow_buckets(Duration::ZERO).iter().map(|slow| slow.took).collect::<Vec<_>>();
    assert_eq!(ages(&rig), [ms(12_000)]);
    // Hub time goes on from the last record.
    rig.add(8..9);
    rig.hub.close().unwrap();

    let again = Rig::on(&rig.disk, terms(), 1);
    let seat = again.seat(1);
    again.pass(1_000);
    assert_eq!(ages(&again), [ms(13_000)], "time down does not count");
    let capped = LeaseError::Capped { limit: ms(2 * LEASE), time_left: ms(LEASE - 1_000) };
    assert_eq!(seat.renew(&token), Err(capped), "a restart gives one full term, no renewal more");
    again.pass(LEASE - 1_000);
    assert_eq!(seat.renew(&token), Err(LeaseError::Dead));
}
