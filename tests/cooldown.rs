//! R39, R43: what a client gave back, or let expire, is for others until its cooldown is over; and comes in company.

#[expect(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::collections::HashSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use commissary::{Ask, Claim, Client, Empty, EmptyReason, Lease, MemoryDisk, Policy, Revoke, Seat};
use support::{Doubling, Rig, drain, keys, ms, none, one, right, sorted};

/// Ms.
const COOLDOWN: u64 = 60_000;
const LEASE: u64 = 5_000;
const GRACE: u64 = 1_000;

fn policy(change: impl FnOnce(&mut Policy)) -> Policy {
    support::policy(|policy| {
        policy.cooldown = ms(COOLDOWN);
        policy.lease = ms(LEASE);
        policy.grace = ms(GRACE);
        change(policy);
    })
}

fn rig() -> Rig {
    Rig::new(policy(|_| {}))
}

/// The answer must be that all that is there cools down, for `left` ms more.
fn cools(seat: &Seat<Doubling>, left: u64) {
    let Empty { reason, retry_after, .. } = none(seat);
    assert_eq!(reason, EmptyReason::Cooldown);
    assert!((ms(left)..ms(left + left.min(1_000))).contains(&retry_after), "{retry_after:?} for {left} ms");
}

fn client(rig: &Rig, id: u64) -> Client {
    rig.hub.client(id).unwrap()
}

/// How a client gets rid of a bucket.
type PutBack = fn(&Rig, &Seat<Doubling>, Lease<Doubling>);

const WAYS: [(&str, PutBack); 8] = [
    ("dropped", |_, _, lease| drop(lease)),
    ("released", |_, _, lease| lease.release()),
    ("released by token", |_, seat, lease| assert_eq!(seat.release(&lease.into_token()), Ok(4))),
    ("submitted without a report", |_, _, lease| assert_eq!(lease.submit([]).unwrap().put_back, 4)),
    ("let expire", |rig, _, lease| {
        let _ = lease.into_token();
        rig.pass(LEASE);
        rig.pass(GRACE);
    }),
    ("deregistered", |rig, seat, lease| {
        let _ = lease.into_token();
        drop(client(rig, 1).deregister().unwrap());
        rig.hub.tick();
        assert_eq!(rig.seat(1).client_id(), seat.client_id());
    }),
    ("suspended", |rig, _, lease| {
        let _ = lease.into_token();
        drop(rig.service.suspend(1).unwrap());
        rig.hub.tick();
        drop(rig.service.reinstate(1).unwrap());
        client(rig, 1).activate(&rig.service).unwrap();
    }),
    ("service revoked", |rig, _, lease| {
        let _ = lease.into_token();
        drop(rig.service.revoke(Revoke::Immediate).unwrap());
        rig.hub.tick();
        drop(rig.service.activate().unwrap());
    }),
];

/// R43: whichever way a client got rid of a bucket, it gets its subjects no earlier than the cooldown later, to the
/// millisecond, and is told how long that is. Another client gets them at once.
#[test]
fn bucket_given_back_is_for_others_until_the_cooldown_is_over() {
    for (way, put_back) in WAYS {
        for by_another in [true, false] {
            let rig = rig();
            let seat = rig.seat(1);
            rig.add(0..4);
            rig.pass(100);
            put_back(&rig, &seat, one(&seat));
            rig.hub.tick();
            cools(&seat, COOLDOWN);
            if by_another {
                assert_eq!(sorted(keys(&one(&rig.seat(2)))), [0, 1, 2, 3], "{way}");
                continue;
            }
            rig.pass(COOLDOWN - 1);
            cools(&seat, 1);
            rig.pass(1);
            assert_eq!(sorted(keys(&one(&seat))), [0, 1, 2, 3], "{way}");
            rig.assert_adds_up();
        }
    }
}

/// R9, R43: all programs that share an id are one client: none of them gets what another gave back.
#[test]
fn sessions_of_one_client_share_its_cooldowns() {
    let rig = rig();
    let (first, second) = (rig.seat(1), rig.seat(1));
    rig.add(0..4);
    rig.pass(100);
    drop(one(&first));
    rig.hub.tick();
    cools(&second, COOLDOWN);
}

/// R43: without a cooldown a client gets back at once what it gave back.
#[test]
fn cooldown_of_zero_is_none() {
    let rig = Rig::new(policy(|policy| policy.cooldown = ms(0)));
    let seat = rig.seat(1);
    rig.add(0..4);
    rig.pass(100);
    drop(one(&seat));
    rig.hub.tick();
    assert_eq!(keys(&one(&seat)).len(), 4);
}

/// R43: each of several who gave the same subjects back has a cooldown of its own.
#[test]
fn each_giver_has_its_own_cooldown() {
    let rig = rig();
    let seats: Vec<_> = (1..=3).map(|id| rig.seat(id)).collect();
    rig.add(0..4);
    rig.pass(100);
    for seat in &seats {
        drop(one(seat));
        rig.pass(1_000);
    }
    // Each gave back a second after the one before it, and what it gave back was offered in the next round.
    cools(&seats[0], COOLDOWN - 2_000);
    cools(&seats[2], COOLDOWN);
    rig.pass(COOLDOWN - 2_000);
    cools(&seats[1], 1_000);
    assert_eq!(keys(&one(&seats[0])).len(), 4);
}

/// R36, R43: a client that gave back everything there is and goes on asking makes nobody work: no pool is formed for it.
/// When the cooldown is over it gets its buckets.
#[test]
fn lone_client_that_hammers_makes_no_pools_and_gets_its_buckets_in_the_end() {
    for company in [0, 16] {
        let rig = Rig::new(policy(|policy| policy.company = company));
        let seat = rig.seat(1);
        rig.add(0..40);
        drop(seat.claim(Ask::buckets(10)).unwrap().leased().unwrap());
        rig.hub.tick();
        let formed = rig.service.stats().pools_formed;
        for turn in 0..COOLDOWN / 100 {
            for _ in 0..5 {
                cools(&seat, COOLDOWN - turn * 100);
            }
            rig.pass(100);
        }
        assert_eq!(rig.service.stats().pools_formed, formed);
        assert_eq!(drain(&rig, &seat), (0..40).collect::<Vec<_>>());
        rig.assert_adds_up();
    }
}

/// R43: while the client that may not have them asks again and again, its buckets stand ready for anyone else at any
/// moment: nothing is on its way between the pools.
#[test]
fn hammering_keeps_nothing_from_others() {
    let rig = rig();
    let (giver, other) = (rig.seat(1), rig.seat(2));
    rig.add(0..40);
    drop(giver.claim(Ask::buckets(10)).unwrap().leased().unwrap());
    rig.hub.tick();
    let mut got = Vec::new();
    for _ in 0..10 {
        for _ in 0..20 {
            cools(&giver, COOLDOWN);
        }
        got.extend(keys(&one(&other)));
        rig.clock.advance(ms(0));
    }
    assert_eq!(sorted(got), (0..40).collect::<Vec<_>>());
}

/// R43: with work of others about, the client gets that, all of it and nothing else; pools are formed at most once for
/// each portion of company it works off.
#[test]
fn client_that_gave_back_gets_all_other_work_first() {
    let rig = Rig::new(policy(|policy| policy.company = 4));
    let seat = rig.seat(1);
    rig.add(0..800);
    let given: HashSet<u64> = {
        let grant = seat.claim(Ask::buckets(2)).unwrap().leased().unwrap();
        grant.leases().iter().flat_map(keys).collect()
    };
    rig.hub.tick();
    let mut seen = HashSet::new();
    // What shares a bucket with a subject given back cools with it: up to 7 companions of each of the 8.
    while let Claim::Leased(grant) = seat.claim(Ask::one()).unwrap() {
        for lease in grant {
            assert!(lease.subjects().all(|key| !given.contains(&key)), "given back within the cooldown");
            assert!(lease.submit(right(&keys(&lease))).unwrap().outcomes.len() <= 4);
            seen.extend(lease.subjects());
        }
        rig.pass(20);
    }
    assert!(seen.len() >= 800 - 8 * 4, "{} of 800", seen.len());
    let formed = rig.service.stats().pools_formed;
    assert!(formed <= 800 / 16 + 12, "{formed} pools for 800 subjects");
    assert_eq!(none(&seat).reason, EmptyReason::Cooldown);
    rig.pass(COOLDOWN);
    let rest = drain(&rig, &seat);
    assert_eq!(rest.len() + seen.len(), 800);
    assert!(given.iter().all(|key| rest.contains(key)));
    rig.assert_adds_up();
}

/// R43: subjects put back are offered among as many buckets' worth of the oldest that wait as the policy says, or as
/// there are; shuffled, in whole buckets. Nobody waits for company: alone, they are offered at once as well.
#[test]
fn subjects_put_back_come_in_company() {
    // Two pools of 160 stand ready for two seats; what is beyond these waits.
    for (company, subjects, front) in [(16, 400, 17), (16, 336, 5), (3, 400, 4), (16, 320, 1), (0, 400, 1)] {
        let mut spread = HashSet::new();
        for seed in 0..8 {
            let rig = Rig::on(&MemoryDisk::new(), policy(|policy| policy.company = company), seed);
            let (giver, other) = (rig.seat(1), rig.seat(2));
            rig.add(0..subjects);
            let lease = one(&giver);
            let mut expected: Vec<u64> = (320..320 + (front - 1) * 4).collect();
            expected.extend(keys(&lease));
            let given: HashSet<u64> = keys(&lease).into_iter().collect();
            drop(lease);
            rig.hub.tick();
            let held: Vec<_> = (0..front).map(|_| one(&other)).collect();
            assert!(held.iter().all(|lease| lease.len() == 4));
            assert_eq!(sorted(held.iter().flat_map(keys).collect()), sorted(expected), "company of {company}");
            let place = held.iter().position(|lease| lease.subjects().any(|key| given.contains(&key)));
            spread.insert(place.unwrap());
            drop(held);
            rig.assert_adds_up();
        }
        assert!(spread.len() > 1 || front == 1, "always first in {front} buckets");
    }
}

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// R43: who waits for work is not told of buckets that it may not have, and is woken when their cooldown ends.
#[test]
fn who_waits_is_woken_when_its_cooldown_ends() {
    let rig = rig();
    let (giver, other) = (rig.seat(1), rig.seat(2));
    rig.add(0..4);
    rig.pass(100);
    drop(one(&giver));
    rig.hub.tick();
    cools(&giver, COOLDOWN);
    assert!(!giver.wait_ready(ms(1)) && other.wait_ready(ms(1)));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut ready = pin!(giver.ready());
    assert_eq!(ready.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending);
    rig.pass(COOLDOWN - 1);
    assert_eq!(woken.0.load(Ordering::SeqCst), 0);
    rig.pass(1);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert_eq!(ready.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Ready(()));
    assert_eq!(keys(&one(&giver)).len(), 4);
}

/// R43, G7: threads give back and claim at the same time: nobody gets its own within the cooldown, nothing is lost, and
/// no bucket goes to two.
#[test]
fn givers_and_takers_at_once_share_out_everything() {
    const SUBJECTS: u64 = 4_000;
    let rig = Rig::new(policy(|policy| {
        policy.bucket_subjects = 1;
        policy.company = 2;
    }));
    let seats: Vec<_> = (1..=3).map(|id| rig.seat(id)).collect();
    rig.add(0..SUBJECTS);
    let work = |seat: &Seat<Doubling>, number: u64| {
        let (mut given, mut done, mut idle) = (HashSet::new(), Vec::new(), 0);
        while idle < 200 {
            let Claim::Leased(grant) = seat.claim(Ask::buckets(3)).unwrap() else {
                idle += 1;
                rig.hub.tick();
                continue;
            };
            idle = 0;
            for lease in grant {
                let key = keys(&lease)[0];
                assert!(!given.contains(&key), "{key} came back to client {number}");
                // Each gives back what the numbers say is another's, once.
                if key % 3 == number % 3 {
                    drop(lease);
                    given.insert(key);
                } else {
                    assert_eq!(lease.submit(right(&[key])).unwrap().accepted(), 1);
                    done.push(key);
                }
            }
        }
        done
    };
    let work = &work;
    let done: Vec<Vec<u64>> = thread::scope(|scope| {
        let threads: Vec<_> = seats.iter().zip(1..).map(|(seat, id)| scope.spawn(move || work(seat, id))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut done = done.concat();
    rig.pass(COOLDOWN);
    done.extend(drain(&rig, &seats[0]));
    assert_eq!(sorted(done), (0..SUBJECTS).collect::<Vec<_>>());
    rig.assert_adds_up();
}

/// Makes subjects urgent, at once.
fn hurry(rig: &Rig, subjects: &[u64]) {
    drop(rig.service.prioritize(subjects).unwrap());
    rig.hub.tick();
}

/// R43, R94: the cooldown holds for what is urgent, too; it keeps nobody else from it, and nobody from other urgent ones.
#[test]
fn urgent_subjects_cool_down_and_hold_up_no_other() {
    let rig = rig();
    let (giver, other) = (rig.seat(1), rig.seat(2));
    rig.add(0..1_000);
    hurry(&rig, &[7]);
    let lease = one(&giver);
    assert_eq!(keys(&lease), [7], "alone, without company");
    drop(lease);
    rig.hub.tick();
    let passes_it_by = || {
        let lease = one(&giver);
        assert!(lease.subjects().all(|key| key != 7));
        let _token = lease.into_token();
    };
    passes_it_by();
    for turn in 0..20 {
        let urgent = 900 + turn;
        hurry(&rig, &[urgent]);
        let first = one(&giver);
        assert_eq!(keys(&first), [urgent], "in no bucket with what cools down");
        assert_eq!(first.submit(right(&[urgent])).unwrap().accepted(), 1);
        rig.hub.tick();
        passes_it_by();
    }
    assert_eq!(keys(&one(&other)), [7], "for anyone else it comes first");
    rig.pass(COOLDOWN);
    assert_eq!(keys(&one(&giver)), [7], "and for its giver afterwards");
    rig.assert_adds_up();
}

/// R43, R96: what a client holds is not offered to it a second time when it becomes urgent, nor after it gave it back.
#[test]
fn a_subject_offered_again_is_not_for_its_holder() {
    let rig = rig();
    let (holder, other) = (rig.seat(1), rig.seat(2));
    rig.add(0..8);
    let lease = one(&holder);
    let urgent = keys(&lease)[0];
    hurry(&rig, &[urgent]);
    assert!(one(&holder).subjects().all(|key| key != urgent));
    drop(lease);
    rig.hub.tick();
    let mut held = Vec::new();
    while let Claim::Leased(grant) = holder.claim(Ask::one()).unwrap() {
        held.extend(grant);
        rig.hub.tick();
    }
    assert!(held.iter().all(|lease| lease.subjects().all(|key| key != urgent)));
    assert_eq!(keys(&one(&other)), [urgent]);
    rig.assert_adds_up();
}

/// R36, R43: a client that gave back more than one pool can hold with its cooldowns makes no pools by hammering, either,
/// urgent or not.
#[test]
fn hammering_makes_no_pools_of_what_does_not_fit_in_one() {
    const GIVEN: u64 = 2_500;
    for urgent in [false, true] {
        let rig = Rig::new(policy(|policy| {
            policy.bucket_subjects = 1;
            policy.buckets_per_claim = 1_000;
            policy.leases_in_flight = 10_000;
        }));
        let seat = rig.seat(1);
        rig.add(0..GIVEN);
        if urgent {
            hurry(&rig, &(0..GIVEN).collect::<Vec<_>>());
        }
        let mut given = Vec::new();
        while let Claim::Leased(grant) = seat.claim(Ask::buckets(1_000)).unwrap() {
            given.extend(grant);
            rig.hub.tick();
        }
        assert_eq!(given.len() as u64, GIVEN);
        drop(given);
        rig.hub.tick();
        let formed = rig.service.stats().pools_formed;
        for _ in 0..200 {
            assert!(seat.claim(Ask::one()).unwrap().leased().is_none());
            rig.hub.tick();
        }
        let formed = rig.service.stats().pools_formed - formed;
        assert!(formed <= 3, "{formed} pools, urgent: {urgent}");
        assert_eq!(drain(&rig, &rig.seat(2)).len() as u64, GIVEN);
        rig.assert_adds_up();
    }
}

/// R38, R43: what is overdue and put back does not wait for younger ones: it comes among its like, as many as there are of
/// these; a lone one is certain to come next.
#[test]
fn what_is_overdue_comes_among_its_like() {
    for (old, front) in [(4, 1), (16, 4), (400, 17)] {
        let rig = Rig::new(policy(|policy| {
            policy.max_wait = ms(1_000_000);
            policy.pool_subjects = 4;
        }));
        let (giver, other) = (rig.seat(1), rig.seat(2));
        rig.add(0..old);
        rig.pass(1_000_001);
        rig.add(1_000..1_400);
        let lease = one(&giver);
        let given = keys(&lease);
        assert!(given.iter().all(|key| *key < old), "the oldest come first");
        drop(lease);
        rig.hub.tick();
        let mut seen = HashSet::new();
        let mut claims = 0;
        while !given.iter().all(|key| seen.contains(key)) {
            let lease = one(&other);
            assert!(lease.subjects().all(|key| key < old), "a younger one came before");
            seen.extend(keys(&lease));
            claims += 1;
            let _token = lease.into_token();
        }
        assert!(claims <= front + 2, "{claims} claims, {old} overdue");
        rig.assert_adds_up();
    }
}
