//! Reports that come when their lease has expired.

mod support;

use std::thread;

use commissary::{Crash, Late, Lease, Outcome, Policy, Progress, Seat};
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
