//! Reports that come when their lease has expired.

mod support;

use std::sync::Barrier;
use std::thread;

use commissary::{Ask, Crash, Late, Lease, LeaseError, Level, Outcome, Policy, Progress, Seat, Watch, Work};
use support::{Doubling, Rig, drain, keys, ms, none, one, policy, right, sorted};

fn open_to_late(change: impl FnOnce(&mut Policy)) -> Policy {
    policy(|policy| {
        (policy.lease, policy.grace, policy.late) = (ms(1_000), ms(100), Late::AcceptIfOpen);
        change(policy);
    })
}

/// A lease of a client, its subjects, and the moment after its grace.
fn expired(rig: &Rig, seat: &Seat<Doubling>) -> (Lease<Doubling>, Vec<u64>) {
    let lease = one(seat);
    let owed = keys(&lease);
    rig.pass(1_000);
    rig.pass(100);
    (lease, owed)
}

fn outcome(lease: &Lease<Doubling>, key: u64, report: u64) -> Outcome {
    lease.report([(key, report)]).unwrap().outcomes.pop().unwrap()
}

/// R101: what the new holder has not done is taken from the old one, and the new one is told; what it has done stays.
#[test]
fn a_late_report_is_taken_while_its_subject_is_open() {
    let rig = Rig::new(open_to_late(|_| {}));
    let (old_seat, new_seat) = (rig.seat(1), rig.seat(2));
    rig.add(0..4);
    let (old, owed) = expired(&rig, &old_seat);
    let new = one(&new_seat);
    assert_eq!(sorted(keys(&new)), sorted(owed.clone()));
    assert_eq!(outcome(&new, owed[0], 7), Outcome::Accepted);
    assert_eq!(outcome(&old, owed[0], 8), Outcome::Stale, "done by the new holder");
    assert_eq!(outcome(&old, owed[1], 9), Outcome::Accepted);
    assert_eq!(outcome(&old, owed[1], 9), Outcome::AlreadyDone);
    assert_eq!(outcome(&new, owed[1], 9), Outcome::AlreadyDone);
    assert_eq!(outcome(&new, owed[1], 10), Outcome::Conflict, "the first stays, this one is evidence");
    let rest = old.submit([(owed[2], 11), (owed[3], 12)]).unwrap();
    assert_eq!(rest.accepted(), 2);
    assert!(new_seat.leases().unwrap().is_empty(), "nothing is owed any more: the new lease is over");
    rig.assert_adds_up();
    assert_eq!(rest.ticket.progress(), Ok(Progress::Visible));
    for (key, report, client) in [(owed[0], 7, 2), (owed[1], 9, 1), (owed[2], 11, 1), (owed[3], 12, 1)] {
        let finding = rig.service.result(&key).unwrap().unwrap();
        assert_eq!((finding.report, finding.client.value(), finding.version), (report, client, 1));
    }
    let stats = rig.service.stats();
    assert_eq!((stats.late, stats.subjects_done, stats.discarded), (3, 4, 0));
    let work = |client| rig.service.seat_stats(client).unwrap().work;
    assert_eq!((work(1).subjects_assigned, work(1).subjects_reported, work(1).subjects_put_back), (7, 3, 4));
    assert_eq!((work(2).subjects_assigned, work(2).subjects_reported, work(2).subjects_put_back), (4, 1, 3));
    let again = Rig::on(&rig.disk.after(Crash::Power).without_store(), open_to_late(|_| {}), 2);
    let after = again.service.stats();
    assert_eq!((after.late, after.subjects_done, after.work), (3, 4, stats.work), "replayed from the journal");
}

/// R101: a bucket that waits gives the subject up; nobody is offered it any more.
#[test]
fn a_late_report_takes_its_subject_out_of_a_bucket_that_waits() {
    let rig = Rig::new(open_to_late(|_| {}));
    let (old_seat, new_seat) = (rig.seat(1), rig.seat(2));
    rig.add(0..4);
    let (old, owed) = expired(&rig, &old_seat);
    assert_eq!(outcome(&old, owed[2], 5), Outcome::Accepted);
    rig.hub.tick();
    rig.pass(200);
    none(&new_seat);
    rig.hub.tick();
    let offered = drain(&rig, &new_seat);
    assert_eq!(sorted(offered), sorted(vec![owed[0], owed[1], owed[3]]));
    assert_eq!(rig.service.result(&owed[2]).unwrap().unwrap().report, 5);
    none(&new_seat);
    rig.assert_adds_up();
    assert_eq!((rig.service.stats().late, rig.service.stats().subjects_done), (1, 4));
}

/// R101: without the policy, for leases that were given back, and for clients that were suspended, the end stays the end.
#[test]
fn late_reports_are_refused_where_nothing_allows_them() {
    let rig = Rig::new(open_to_late(|policy| policy.late = Late::Refuse));
    let seat = rig.seat(1);
    rig.add(0..4);
    let (old, owed) = expired(&rig, &seat);
    assert_eq!(outcome(&old, owed[0], 1), Outcome::Stale);

    let rig = Rig::new(open_to_late(|_| {}));
    let seat = rig.seat(1);
    rig.add(0..8);
    let given_back = one(&seat).into_token();
    let subjects: Vec<u64> = seat.leases().unwrap()[0].subjects.clone();
    assert_eq!(seat.release(&given_back), Ok(4));
    rig.pass(200);
    let refused = seat.report(&given_back, right(&subjects)).unwrap();
    assert!(refused.outcomes.iter().all(|outcome| *outcome == Outcome::Stale));
    let (old, owed) = expired(&rig, &seat);
    drop(rig.service.suspend(1).unwrap());
    assert_eq!(outcome(&old, owed[0], 1), Outcome::Stale);
    assert_eq!(rig.service.stats().late, 0);
    rig.assert_adds_up();
}

/// R101: the old holder and the new one report the same subjects at the same instant: each is taken from one of them.
#[test]
fn late_and_timely_reports_that_race_share_the_subjects() {
    let rig = Rig::new(open_to_late(|policy| policy.bucket_subjects = 64));
    let seats = [rig.seat(1), rig.seat(2)];
    for round in 0..50 {
        rig.add(round * 64..(round + 1) * 64);
        let (old, owed) = expired(&rig, &seats[0]);
        let new = one(&seats[1]);
        let accepted = |lease: &Lease<Doubling>| {
            let outcomes = owed.iter().map(|key| outcome(lease, *key, key * 2));
            outcomes.filter(|outcome| *outcome == Outcome::Accepted).count()
        };
        let (late, timely) = thread::scope(|scope| {
            let late = scope.spawn(|| accepted(&old));
            let timely = accepted(&new);
            (late.join().unwrap(), timely)
        });
        assert_eq!(late + timely, 64, "round {round}: {late} and {timely}");
        rig.hub.tick();
        assert!(seats[1].leases().unwrap().is_empty());
    }
    rig.assert_adds_up();
    let stats = rig.service.stats();
    assert_eq!((stats.subjects_done, stats.discarded), (3_200, 0));
}

/// R48, R101: what a quarantined client holds it may report; from others it takes nothing.
#[test]
fn a_quarantined_client_takes_nothing_from_others() {
    let rig = Rig::new(open_to_late(|policy| {
        policy.watch = Watch { interval: ms(10_000), raise_after: 1, ..Watch::default() };
        policy.lease = ms(30_000);
    }));
    let (liar, honest) = (rig.seat(1), rig.seat(2));
    rig.add(0..8);
    let (old, owed) = (one(&liar), one(&honest).into_token());
    let mine = keys(&old);
    for _ in 0..2 {
        for _ in 0..3 {
            assert_eq!(liar.renew(&owed), Err(LeaseError::NotOwner));
        }
        rig.pass(10_000);
    }
    assert_eq!(rig.service.seat_stats(1).unwrap().level, Level::Quarantined);
    assert_eq!(outcome(&old, mine[0], 1), Outcome::Accepted, "it holds this");
    rig.pass(10_000);
    rig.pass(100);
    assert!(liar.leases().unwrap().is_empty());
    let new = one(&honest);
    let theirs = keys(&new);
    let taken = theirs.iter().find(|key| mine.contains(key)).unwrap();
    assert_eq!(outcome(&old, *taken, 1), Outcome::Stale);
    assert_eq!(outcome(&new, *taken, 2), Outcome::Accepted);
    assert_eq!(rig.service.stats().late, 0);
    rig.assert_adds_up();
}

/// R101: several late reports on subjects of one bucket that waits, at the same instant as it is claimed or taken back: each
/// is taken or refused, and every count is put down to whom it belongs.
#[test]
fn late_reports_that_race_for_a_bucket_that_waits_leave_balanced_books() {
    const ROUNDS: u64 = 60;
    let rig = Rig::new(open_to_late(|policy| policy.bucket_subjects = 16));
    // Its seat is the first, and has nothing to do with any of it.
    let bystander = rig.seat(99);
    let (old_seat, new_seat) = (rig.seat(1), rig.seat(2));
    for round in 0..ROUNDS {
        rig.add(round * 16..(round + 1) * 16);
        let old = one(&old_seat);
        let owed = keys(&old);
        let token = old.into_token();
        rig.pass(1_000);
        rig.pass(100);
        let start = Barrier::new(5);
        thread::scope(|scope| {
            for part in owed.chunks(4) {
                let (seat, token, start) = (&old_seat, &token, &start);
                scope.spawn(move || {
                    start.wait();
                    for key in part {
                        drop(seat.report(token, [(*key, key * 2)]).unwrap());
                    }
                });
            }
            start.wait();
            if round % 2 == 0 {
                drop(new_seat.claim(Ask::one()).unwrap());
            }
        });
        rig.assert_adds_up();
        let untouched = rig.service.seat_stats(99).unwrap().work;
        assert_eq!(untouched, Work::default(), "round {round}");
        // The first look finds that the bucket is gone; the next one, what is left of it.
        for _ in 0..2 {
            drain(&rig, &new_seat);
            rig.hub.tick();
        }
    }
    none(&bystander);
    let stats = rig.service.stats();
    assert_eq!((stats.subjects_done, stats.discarded), (ROUNDS * 16, 0));
    assert!(stats.late > 0);
}
