//! Several programs that share one client id: one client, one quota, the first valid report wins.

#[expect(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::collections::HashSet;
use std::sync::Barrier;
use std::thread;

use commissary::{Ask, Claim, ClaimError, EmptyReason, LeaseError, Outcome, Registration, SubjectState};
use support::{Rig, drain, keys, none, one, policy, right, sorted};

/// Runs two calls at the same instant.
fn together<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            start.wait();
            a()
        });
        start.wait();
        let second = b();
        (first.join().unwrap(), second)
    })
}

/// R81: two registrations with the same details both succeed, give one client, and exactly one of them is new; so it is
/// when the client had been deregistered before.
#[test]
fn of_two_registrations_at_once_exactly_one_is_new() {
    let rig = Rig::new(policy(|_| {}));
    for id in 1..=400 {
        for round in 0..3 {
            let register = || {
                let wanted = Registration::new(id, "same").origin(id.to_be_bytes());
                rig.hub.register_client(&wanted).unwrap()
            };
            let (a, b) = together(register, register);
            assert_eq!(usize::from(a.new) + usize::from(b.new), 1, "client {id}, round {round}");
            assert_eq!((a.client.id(), a.client.name()), (b.client.id(), b.client.name()));
            assert!(a.client.is_registered() && b.client.is_registered());
            rig.hub.tick();
            a.ticket.wait_durable().unwrap();
            b.ticket.wait_durable().unwrap();
            drop(b.client.deregister().unwrap());
            assert!(!a.client.is_registered(), "all handles of an id are the same client");
        }
    }
    let stats = rig.hub.stats();
    assert_eq!((stats.clients, stats.throttled_registrations, stats.invalid_registrations), (400, 0, 0));
    rig.assert_adds_up();
}

/// R81: two activations at once make one seat, counted once.
#[test]
fn two_activations_at_once_make_one_seat() {
    let rig = Rig::new(policy(|_| {}));
    for id in 1..=300 {
        let wanted = Registration::new(id, "same").origin(id.to_be_bytes());
        let client = rig.hub.register_client(&wanted).unwrap().client;
        let activate = || client.activate(&rig.service).unwrap();
        let (a, b) = together(activate, activate);
        assert_eq!(a.client_id(), b.client_id());
        assert_eq!(rig.hub.client_stats(id).unwrap().seats.len(), 1);
    }
    assert_eq!(rig.service.stats().active_seats, 300);
    rig.assert_adds_up();
}

/// R82: of two submits of one bucket the first counts; the same report again is `AlreadyDone` and no fault, another one
/// is a `Conflict`, kept as evidence and counted, and never the result.
#[test]
fn second_report_on_a_subject_never_counts() {
    let rig = Rig::new(policy(|_| {}));
    let (a, b) = (rig.seat(7), rig.seat(7));
    rig.add(0..4);
    let lease = one(&a);
    let owed = keys(&lease);
    let first = b.submit(&lease.token(), right(&owed)).unwrap();
    assert_eq!(first.outcomes, vec![Outcome::Accepted; 4]);
    assert!(!first.kept);
    rig.hub.tick();

    let same = a.submit(&lease.token(), right(&owed)).unwrap();
    assert_eq!(same.outcomes, vec![Outcome::AlreadyDone; 4]);
    same.ticket.wait_visible().unwrap();
    let other: Vec<_> = owed.iter().map(|key| (*key, 999)).collect();
    let conflict = a.submit(&lease.token(), other).unwrap();
    assert_eq!(conflict.outcomes, vec![Outcome::Conflict; 4]);
    rig.hub.tick();

    for key in owed {
        let finding = rig.service.result(&key).unwrap().unwrap();
        assert_eq!((finding.report, finding.version, finding.client.value()), (key * 2, 1, 7));
    }
    let seat = rig.service.seat_stats(7).unwrap();
    assert_eq!((seat.work.subjects_reported, seat.work.buckets_processed), (4, 1));
    assert_eq!((seat.already_done, seat.faults.conflicts, seat.faults.stale), (4, 4, 0));
    rig.assert_adds_up();
}

/// R82: when two sessions submit one bucket at the same instant, each subject is counted once, and the result is the
/// report whose sender was told `Accepted`.
#[test]
fn two_submits_at_once_count_each_subject_once() {
    const ROUNDS: u64 = 300;
    // Several chunk words: the two calls may share a bucket between them.
    let rig = Rig::new(policy(|policy| policy.bucket_subjects = 150));
    let (a, b) = (rig.seat(7), rig.seat(7));
    for round in 0..ROUNDS {
        rig.add(round * 150..(round + 1) * 150);
        let token = one(&a).into_token();
        let owed: Vec<u64> = a.leases().unwrap()[0].subjects.clone();
        let differ = round % 2;
        let theirs: Vec<_> = owed.iter().map(|key| (*key, key * 2 + differ)).collect();
        let (x, y) = together(|| a.submit(&token, right(&owed)), || b.submit(&token, theirs));
        let (x, y) = (x.unwrap(), y.unwrap());
        rig.hub.tick();
        for (place, key) in owed.iter().enumerate() {
            let (x, y) = (&x.outcomes[place], &y.outcomes[place]);
            let x_won = *x == Outcome::Accepted;
            assert_ne!(x_won, *y == Outcome::Accepted, "round {round}, subject {key}: {x:?} and {y:?}");
            let loser = if x_won { y } else { x };
            // The winner's content may not be noted yet: then the loser is told that it came second, no more. `Stale` is
            // no answer here: a finished bucket has put nothing back.
            let told = if differ == 0 { *loser == Outcome::AlreadyDone } else { is_second(loser) };
            assert!(told, "round {round}, subject {key}: the loser was told {loser:?}");
            let expected = if x_won { key * 2 } else { key * 2 + differ };
            assert_eq!(rig.service.result(key).unwrap().unwrap().report, expected);
        }
    }
    let work = rig.hub.stats().work;
    assert_eq!((work.subjects_reported, work.buckets_processed, work.buckets_put_back), (ROUNDS * 150, ROUNDS, 0));
    assert_eq!(rig.service.stats().subjects_done, ROUNDS * 150);
    rig.assert_adds_up();
}

fn is_second(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::AlreadyDone | Outcome::Conflict)
}

/// R83: a submit that races with a deregistration is wholly before it, and taken, or wholly after it, and refused; then
/// the bucket is offered again exactly once.
#[test]
fn submit_is_wholly_before_or_wholly_after_a_deregistration() {
    let rig = Rig::new(policy(|_| {}));
    let third = rig.seat(1_000_000);
    let (mut before, mut after) = (0_u64, 0_u64);
    for round in 0..500 {
        let id = round + 1;
        let seat = rig.seat(id);
        rig.add(round * 4..(round + 1) * 4);
        let lease = one(&seat);
        let owed = keys(&lease);
        let token = lease.into_token();
        let client = rig.hub.client(id).unwrap();
        let (submitted, deregistered) =
            together(|| seat.submit(&token, right(&owed)), || client.deregister().map(drop));
        deregistered.unwrap();
        rig.hub.tick();
        let again = drain(&rig, &third);
        match submitted {
            Ok(submitted) => {
                assert_eq!(submitted.outcomes, vec![Outcome::Accepted; 4], "round {round}");
                assert_eq!(again, Vec::<u64>::new(), "round {round}: a reported subject is not offered again");
                before += 1;
            }
            Err(error) => {
                assert_eq!(error, LeaseError::NotRegistered, "round {round}");
                assert_eq!(again, sorted(owed), "round {round}: offered again, each subject once");
                after += 1;
            }
        }
        rig.assert_adds_up();
    }
    assert_eq!(before + after, 500);
    let stats = rig.service.stats();
    assert_eq!((stats.subjects_done, stats.work.subjects_reported), (2_000, 2_000));
    assert_eq!((stats.work.buckets_put_back, stats.work.subjects_put_back), (after, after * 4));
    assert_eq!(stats.active_seats, 1, "a deregistered client's seat is not active");
}

/// R83: the same with a bucket of several chunk words: each subject is reported, or put back and offered again.
#[test]
fn subject_is_reported_or_offered_again_when_its_client_deregisters() {
    let rig = Rig::new(policy(|policy| policy.bucket_subjects = 252));
    let third = rig.seat(1_000_000);
    for round in 0..200_u64 {
        let id = round + 1;
        let seat = rig.seat(id);
        rig.add(round * 252..(round + 1) * 252);
        let lease = one(&seat);
        let owed = keys(&lease);
        let token = lease.into_token();
        let client = rig.hub.client(id).unwrap();
        let (submitted, deregistered) =
            together(|| seat.submit(&token, right(&owed)), || client.deregister().map(drop));
        deregistered.unwrap();
        rig.pass(100);
        let again: HashSet<u64> = drain(&rig, &third).into_iter().collect();
        let accepted: HashSet<u64> = match &submitted {
            Ok(submitted) => {
                let told = owed.iter().zip(&submitted.outcomes);
                told.filter(|(_, outcome)| **outcome == Outcome::Accepted).map(|(key, _)| *key).collect()
            }
            Err(error) => {
                assert_eq!(*error, LeaseError::NotRegistered);
                HashSet::new()
            }
        };
        assert!(accepted.is_disjoint(&again), "round {round}");
        assert_eq!(accepted.len() + again.len(), 252, "round {round}");
        rig.assert_adds_up();
    }
    assert_eq!(rig.service.stats().subjects_done, 200 * 252);
}

/// R91: two sessions that claim at the same instant get different buckets, and share one quota exactly.
#[test]
fn sessions_share_one_quota_and_no_bucket() {
    let rig = Rig::new(policy(|policy| policy.leases_in_flight = 10));
    let (a, b) = (rig.seat(7), rig.seat(7));
    rig.add(0..4_000);
    for round in 0..50 {
        let claim_all = |seat: &commissary::Seat<support::Doubling>| {
            let mut leases = Vec::new();
            loop {
                match seat.claim(Ask::one()).unwrap() {
                    Claim::Leased(grant) => leases.extend(grant),
                    Claim::Empty(empty) => {
                        assert_eq!(empty.reason, EmptyReason::QuotaFull);
                        return leases;
                    }
                }
            }
        };
        let (mine, yours) = together(|| claim_all(&a), || claim_all(&b));
        assert_eq!(mine.len() + yours.len(), 10, "round {round}");
        let tokens: HashSet<_> = mine.iter().chain(&yours).map(commissary::Lease::token).collect();
        let subjects: HashSet<u64> = mine.iter().chain(&yours).flat_map(keys).collect();
        assert_eq!((tokens.len(), subjects.len()), (10, 40), "round {round}");
        assert_eq!(a.leases().unwrap().len(), 10);
        assert_eq!(b.leases().unwrap().len(), 10, "each session sees all leases of the id");
        for lease in mine.into_iter().chain(yours) {
            assert_eq!(lease.submit(right(&keys(&lease))).unwrap().accepted(), 4);
        }
        rig.assert_adds_up();
    }
    let seat = rig.service.seat_stats(7).unwrap();
    assert_eq!((seat.work.buckets_assigned, seat.work.buckets_processed, seat.work.buckets_held), (500, 500, 0));
}

/// R92: what one session claimed another may report; it is the same client's work. (Sessions have no labels: the record
/// names the client.)
#[test]
fn lease_claimed_by_one_session_is_submitted_by_another() {
    let rig = Rig::new(policy(|_| {}));
    let (a, b) = (rig.seat(7), rig.seat(7));
    rig.add(0..4);
    let lease = one(&a);
    let owed = keys(&lease);
    let submitted = b.submit(&lease.token(), right(&owed)).unwrap();
    assert_eq!((submitted.accepted(), submitted.kept, submitted.put_back), (4, false, 0));
    rig.hub.tick();
    submitted.ticket.wait_visible().unwrap();
    assert_eq!(lease.renew(), Err(LeaseError::Over));
    drop(lease);
    rig.pass(100);
    assert_eq!(none(&a).reason, EmptyReason::NothingPending, "dropping the finished lease puts nothing back");
    assert_eq!(rig.service.result(&owed[0]).unwrap().unwrap().client.value(), 7);
    rig.assert_adds_up();
}

/// R93: when one session releases a bucket while another submits it, each subject is done or put back, never both, and
/// what is put back is offered again once.
#[test]
fn subject_is_reported_or_released_never_both() {
    let rig = Rig::new(policy(|policy| policy.bucket_subjects = 252));
    let (a, b, third) = (rig.seat(7), rig.seat(7), rig.seat(8));
    let (mut reported, mut put_back) = (0, 0);
    for round in 0..300_u64 {
        rig.add(round * 252..(round + 1) * 252);
        let lease = one(&a);
        let owed = keys(&lease);
        let token = lease.into_token();
        let (released, submitted) = together(|| a.release(&token), || b.report(&token, right(&owed)).unwrap());
        let released = released.unwrap_or_else(|error| {
            assert_eq!(error, LeaseError::Over);
            0
        });
        let accepted = submitted.accepted();
        let stale = submitted.outcomes.iter().filter(|outcome| **outcome == Outcome::Stale).count();
        assert_eq!((accepted + stale, accepted + released as usize), (252, 252), "round {round}");
        rig.pass(100);
        let again: HashSet<u64> = drain(&rig, &third).into_iter().collect();
        let told = owed.iter().zip(&submitted.outcomes);
        let done: HashSet<u64> =
            told.filter(|(_, outcome)| **outcome == Outcome::Accepted).map(|(key, _)| *key).collect();
        assert!(done.is_disjoint(&again));
        assert_eq!(done.len() + again.len(), 252, "round {round}");
        reported += accepted as u64;
        put_back += u64::from(released);
        rig.assert_adds_up();
    }
    let seat = rig.service.seat_stats(7).unwrap();
    assert_eq!((seat.work.subjects_reported, seat.work.subjects_put_back), (reported, put_back));
    assert_eq!(rig.service.stats().subjects_done, 300 * 252);
}

/// R9: any session of an id may list, renew, report on, and release any lease of that id; another id may do none of it,
/// and each of its attempts is counted.
#[test]
fn every_session_has_the_same_rights_and_no_other_client_has_any() {
    let rig = Rig::new(policy(|_| {}));
    let (a, b, stranger) = (rig.seat(7), rig.seat(7), rig.seat(8));
    rig.add(0..8);
    let first = one(&a).into_token();
    let second = one(&b).into_token();
    let listed = |seat: &commissary::Seat<support::Doubling>| {
        seat.leases().unwrap().into_iter().map(|view| view.token).collect::<HashSet<_>>()
    };
    assert_eq!(listed(&a), HashSet::from([first, second]));
    assert_eq!(listed(&a), listed(&b));
    assert_eq!(listed(&stranger), HashSet::new());

    assert_eq!(stranger.renew(&first), Err(LeaseError::NotOwner));
    assert_eq!(stranger.release(&first), Err(LeaseError::NotOwner));
    assert_eq!(stranger.submit(&first, [(0, 0)]).unwrap_err(), LeaseError::NotOwner);
    assert_eq!(stranger.resume(&first).unwrap_err(), LeaseError::NotOwner);
    assert_eq!(rig.service.seat_stats(8).unwrap().faults.not_owner, 4);

    b.renew(&first).unwrap();
    let owed = a.leases().unwrap().into_iter().find(|view| view.token == second).unwrap().subjects;
    assert_eq!(a.report(&second, right(&owed[..1])).unwrap().accepted(), 1);
    assert_eq!(a.submit(&second, right(&owed[1..])).unwrap().accepted(), 3);
    assert_eq!(b.release(&first).unwrap(), 4);
    assert_eq!(a.release(&first), Err(LeaseError::Over));
    rig.hub.tick();
    let seat = rig.service.seat_stats(7).unwrap();
    assert_eq!((seat.work.buckets_processed, seat.work.buckets_put_back, seat.faults.not_owner), (1, 1, 0));
    for key in owed {
        assert_eq!(rig.service.subject_state(&key).unwrap(), SubjectState::Done);
    }
    rig.assert_adds_up();
}

/// R83: a claim that races with a deregistration by another session is wholly before it, and undone by it, or refused:
/// afterwards nothing is held, and every subject is offered again once.
#[test]
fn claim_that_races_with_a_deregistration_leaves_nothing_held() {
    let rig = Rig::new(policy(|_| {}));
    rig.add(0..40);
    let third = rig.seat(1_000_000);
    for id in 1..=600 {
        let seat = rig.seat(id);
        let client = rig.hub.client(id).unwrap();
        let (claimed, deregistered) = together(|| seat.claim(Ask::buckets(2)), || client.deregister().map(drop));
        deregistered.unwrap();
        match claimed {
            Ok(Claim::Leased(grant)) => {
                for lease in grant {
                    let owed = keys(&lease);
                    assert_eq!(lease.submit(right(&owed)).unwrap_err(), LeaseError::NotRegistered);
                    let _lost = lease.into_token();
                }
            }
            Ok(Claim::Empty(empty)) => panic!("client {id}: {empty:?}"),
            Err(error) => assert!(matches!(error, ClaimError::NotRegistered | ClaimError::Inactive), "{error}"),
        }
        let work = rig.hub.stats().work;
        assert_eq!((work.buckets_held, work.subjects_held, work.subjects_reported), (0, 0, 0), "client {id}");
        rig.pass(100);
        rig.assert_adds_up();
    }
    assert_eq!(drain(&rig, &third), (0..40).collect::<Vec<_>>());
    rig.assert_adds_up();
}
