//! Reporting on buckets: requirement rows R25, R37, R39, R73 to R80 and R82.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::DateTime;
use commissary::{
    Cause, Crash, HubError, Lease, LeaseError, LeaseToken, Limits, Outcome, Policy, Progress, Registration, Revoke,
    SeatStats, ServiceHandle, ServiceState, SubjectState,
};

use common::{Plain, Shop, assert_adds_up, claim, claim_one, name_of, report_all, reports, unranked};

const MINUTE: Duration = Duration::from_secs(60);

fn shop_with(limits: Limits, n: u64) -> (Shop, ServiceHandle<Plain>) {
    let shop = Shop::open_with(limits);
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    shop.stock(&service, n);
    (shop, service)
}

fn users(lease: &Lease<Plain>) -> Vec<u64> {
    lease.subjects().collect()
}

fn ok(user: u64) -> (u64, String) {
    (user, "ok".to_owned())
}

fn seat_stats(service: &ServiceHandle<Plain>, client: u64) -> SeatStats {
    service.seat_stats(client).expect("the client was activated")
}

fn report_of(service: &ServiceHandle<Plain>, user: u64) -> Option<String> {
    service.result(&user).unwrap().map(|finding| finding.report)
}

/// A token with its last digits (of the secret part) or others replaced.
fn forge(token: LeaseToken, digits: std::ops::Range<usize>) -> LeaseToken {
    let mut text = token.to_string();
    let changed: String = text[digits.clone()].chars().map(|digit| if digit == '7' { '8' } else { '7' }).collect();
    text.replace_range(digits, &changed);
    text.parse().expect("still 64 digits")
}

/// R73: the owner reports on its bucket: every subject is done, each record says who, when and where in the journal; the
/// bucket is finished and held no more.
#[test]
fn owner_finishes_its_bucket() {
    let (shop, service) = shop_with(Limits::default(), 8);
    let seats = shop.seats(&service, 2);
    let lease = claim_one(&seats[1]);
    let mine = users(&lease);
    shop.clock.set_wall_ms(123_456);
    let submitted = lease.submit(mine.iter().map(|user| (*user, format!("of {user}")))).unwrap();
    assert_eq!(submitted.outcomes, vec![Outcome::Accepted; 4]);
    assert_eq!((submitted.accepted(), submitted.put_back, submitted.kept), (4, 0, false));
    assert_eq!(submitted.ticket.progress(), Ok(Progress::Pending));
    assert_eq!(service.result(&mine[0]).unwrap().map(|finding| finding.key), None, "not visible yet");
    shop.tick();
    assert_eq!(submitted.ticket.progress(), Ok(Progress::Visible));
    for user in 1..=8 {
        let expected = if mine.contains(&user) { SubjectState::Done } else { SubjectState::Pending };
        assert_eq!(service.subject_state(&user).unwrap(), expected);
    }
    for user in &mine {
        let finding = service.result(user).unwrap().expect("a record");
        assert_eq!((finding.key, finding.report), (*user, format!("of {user}")));
        assert_eq!((finding.client.value(), finding.version, finding.depth), (2, 1, 0));
        assert_eq!(finding.at, DateTime::from_timestamp_millis(123_456).unwrap());
        assert_eq!(Some(finding.position), submitted.ticket.position(), "one record for the bucket");
    }
    let work = seat_stats(&service, 2).work;
    assert_eq!((work.buckets_assigned, work.buckets_processed, work.buckets_held), (1, 1, 0));
    assert_eq!((work.subjects_assigned, work.subjects_reported, work.subjects_put_back), (4, 4, 0));
    let all = service.stats();
    assert_eq!((all.subjects_done, all.subjects_pending()), (4, 4));
    assert_eq!(lease.renew(), Err(LeaseError::Over));
    drop(lease);
    assert_eq!(seat_stats(&service, 2).work, work, "dropping a finished lease gives nothing back");
    assert_adds_up(&shop.hub);
}

/// R25, R74 and R59: another client cannot use the token: nothing is stored, the fault is the sender's, and the owner does
/// not notice and finishes.
#[test]
fn not_the_owner_changes_nothing() {
    let (shop, service) = shop_with(Limits::default(), 8);
    let seats = shop.seats(&service, 3);
    let lease = claim_one(&seats[0]);
    let _own = claim_one(&seats[1]);
    shop.tick();
    let (token, owner) = (lease.token(), seat_stats(&service, 1));
    for (index, thief) in [(2, &seats[1]), (3, &seats[2])] {
        let before = seat_stats(&service, index).work;
        assert_eq!(thief.submit(&token, reports(&lease, "stolen")).unwrap_err(), LeaseError::NotOwner);
        assert_eq!(thief.report(&token, reports(&lease, "stolen")).unwrap_err(), LeaseError::NotOwner);
        assert_eq!(thief.renew(&token).unwrap_err(), LeaseError::NotOwner);
        assert_eq!(thief.release(&token).unwrap_err(), LeaseError::NotOwner);
        assert_eq!(thief.resume(&token).unwrap_err(), LeaseError::NotOwner);
        let after = seat_stats(&service, index);
        assert_eq!((after.faults.not_owner, after.work), (5, before));
    }
    shop.tick();
    assert_eq!(service.stats().unknown_tokens, 0, "it is a token of somebody's");
    assert_eq!(seat_stats(&service, 1), owner);
    let mine = users(&lease);
    assert!(mine.iter().all(|user| report_of(&service, *user).is_none()));
    report_all(&lease);
    shop.tick();
    assert!(mine.iter().all(|user| report_of(&service, *user).as_deref() == Some("ok")));
    assert_eq!(seats[1].submit(&token, []).unwrap_err(), LeaseError::NotOwner, "nor after the end");
    assert_adds_up(&shop.hub);
}

/// R25: a token that was never given out is refused, whichever part is made up; so is another service's, also to its owner.
#[test]
fn forged_tokens_are_refused() {
    let (shop, service) = shop_with(Limits::default(), 16);
    let second = shop.hub.register(Plain::new("second")).unwrap();
    shop.stock(&second, 4);
    let (seat, of_second) = (shop.seat(&service, 1), shop.seat(&second, 1));
    let lease = claim_one(&seat);
    let elsewhere = claim_one(&of_second);
    let token = lease.token();
    // Text: service, slot, generation, secret.
    let parts = [0..8, 7..8, 8..16, 15..16, 16..32, 31..32, 32..64, 32..33, 63..64];
    let mut forged: Vec<LeaseToken> = parts.into_iter().map(|part| forge(token, part)).collect();
    forged.push("0".repeat(64).parse().unwrap());
    forged.push("f".repeat(64).parse().unwrap());
    // The next slot's name with this one's secret.
    let mut neighbour = token.to_string();
    neighbour.replace_range(8..16, "00000001");
    forged.push(neighbour.parse().unwrap());
    forged.push(elsewhere.token());
    forged.retain(|other| *other != token);
    for token in &forged {
        assert_eq!(seat.submit(token, reports(&lease, "ok")).unwrap_err(), LeaseError::NotOwner, "{token}");
        assert_eq!(seat.release(token).unwrap_err(), LeaseError::NotOwner, "{token}");
    }
    let faults = seat_stats(&service, 1).faults;
    assert_eq!(faults.not_owner, 2 * forged.len() as u64);
    assert_eq!(service.stats().unknown_tokens, faults.not_owner);
    assert_eq!(seat_stats(&second, 1).faults.not_owner, 0);
    report_all(&lease);
    report_all(&elsewhere);
    shop.tick();
    assert_eq!((service.stats().subjects_done, second.stats().subjects_done), (4, 4));
    assert_adds_up(&shop.hub);
}

/// R75 and R76: who deregistered holds nothing: its bucket is offered again at once, what it still sends is refused as from
/// anyone not registered; after registering again its old token is stale and changes nothing.
#[test]
fn deregistered_owner_has_lost_its_bucket() {
    let (shop, service) = shop_with(Limits::default(), 4);
    let seats = shop.seats(&service, 2);
    let lease = claim_one(&seats[0]);
    let mine: BTreeSet<u64> = users(&lease).into_iter().collect();
    let token = lease.into_token();
    shop.tick();
    drop(shop.hub.deregister_client(1, &name_of(1)).unwrap());
    let foreign = forge(token, 32..64);
    assert_eq!(seats[0].submit(&token, [ok(1)]).unwrap_err(), LeaseError::NotRegistered, "formerly own");
    assert_eq!(seats[0].submit(&foreign, [ok(1)]).unwrap_err(), LeaseError::NotRegistered, "never own");
    shop.tick();
    let again = claim_one(&seats[1]);
    assert_eq!(users(&again).into_iter().collect::<BTreeSet<u64>>(), mine);
    assert_ne!(again.token(), token);

    let registered = shop.hub.register_client(&Registration::new(1, name_of(1))).unwrap();
    assert!(registered.new);
    let late = seats[0].submit(&token, mine.iter().map(|user| (*user, "late".to_owned()))).unwrap();
    assert_eq!(late.outcomes, vec![Outcome::Stale; 4]);
    assert_eq!((late.put_back, late.kept), (0, false));
    assert_eq!(seats[0].renew(&token).unwrap_err(), LeaseError::Over);
    assert_eq!(seats[0].release(&token).unwrap_err(), LeaseError::Over);
    assert_eq!(seats[0].resume(&token).unwrap_err(), LeaseError::Over);
    report_all(&again);
    shop.tick();
    assert!(mine.iter().all(|user| report_of(&service, *user).as_deref() == Some("ok")));
    let SeatStats { faults, work, .. } = seat_stats(&service, 1);
    assert_eq!((faults.stale, work.buckets_put_back, work.subjects_put_back), (4, 1, 4));
    assert_eq!(work.buckets_expired, 0);
    assert_adds_up(&shop.hub);
}

/// R54, R77: partial information is taken; a final submit gives the rest back, a report keeps it. What is left unprocessed
/// is offered to others, what is done is never handed out again.
#[test]
fn partial_reports_are_taken() {
    let (shop, service) = shop_with(Limits::default(), 8);
    let seats = shop.seats(&service, 2);
    let mut leases = claim(&seats[0], 2);
    let (last, more) = (leases.remove(0), leases.remove(0));
    let (of_last, of_more) = (users(&last), users(&more));

    let submitted = last.submit([ok(of_last[2])]).unwrap();
    assert_eq!((submitted.accepted(), submitted.put_back, submitted.kept), (1, 3, false));
    let reported = more.report([ok(of_more[1]), ok(of_more[3])]).unwrap();
    assert_eq!((reported.accepted(), reported.put_back, reported.kept), (2, 0, true));
    let work = seat_stats(&service, 1).work;
    assert_eq!((work.buckets_processed, work.buckets_put_back, work.buckets_held), (0, 1, 1));
    assert_eq!((work.subjects_reported, work.subjects_put_back, work.subjects_held), (3, 3, 2));
    shop.tick();
    let offered = claim_one(&seats[1]);
    let expected: BTreeSet<u64> = [of_last[0], of_last[1], of_last[3]].into();
    assert_eq!(users(&offered).into_iter().collect::<BTreeSet<u64>>(), expected, "exactly the rest");

    let held = &seats[0].leases().unwrap()[0];
    assert_eq!((held.token, &held.subjects), (more.token(), &vec![of_more[0], of_more[2]]));
    let rest = more.submit([ok(of_more[0]), ok(of_more[2])]).unwrap();
    assert_eq!((rest.accepted(), rest.put_back, rest.kept), (2, 0, false));
    report_all(&offered);
    shop.tick();
    assert_eq!(shop.drive_to_quiet(&seats[1]), 0, "nothing is handed out twice");
    assert_eq!((service.stats().subjects_done, service.stats().subjects_pending()), (8, 0));
    assert_adds_up(&shop.hub);
}

/// R77: a report on nothing keeps all; a final submit of nothing is a release.
#[test]
fn empty_reports_store_nothing() {
    let (shop, service) = shop_with(Limits::default(), 4);
    let seat = shop.seat(&service, 1);
    let lease = claim_one(&seat);
    let reported = lease.report([]).unwrap();
    assert_eq!((reported.outcomes.len(), reported.put_back, reported.kept), (0, 0, true));
    assert_eq!(reported.ticket.progress(), Ok(Progress::Visible));
    let submitted = lease.submit([]).unwrap();
    assert_eq!((submitted.outcomes.len(), submitted.put_back, submitted.kept), (0, 4, false));
    drop(lease);
    assert_eq!(seat_stats(&service, 1).work.subjects_put_back, 4);
    assert_eq!(shop.drive_to_quiet(&seat), 4);
    assert_adds_up(&shop.hub);
}

/// R78: a subject that is not in the bucket is refused by itself, and is a fault; those that are in it are taken. It makes
/// no difference whether the subject exists.
#[test]
fn unassigned_subjects_do_not_harm_the_others() {
    let (shop, service) = shop_with(Limits::default(), 8);
    let seats = shop.seats(&service, 2);
    let (lease, other) = (claim_one(&seats[0]), claim_one(&seats[1]));
    let (mine, theirs) = (users(&lease), users(&other));
    let reported = lease.report([ok(theirs[0]), ok(mine[0]), ok(999), ok(mine[3])]).unwrap();
    let expected = [Outcome::NotInBucket, Outcome::Accepted, Outcome::NotInBucket, Outcome::Accepted];
    assert_eq!(reported.outcomes, expected);
    assert!(reported.kept);
    let submitted = lease.submit([ok(theirs[1]), ok(mine[2])]).unwrap();
    assert_eq!(submitted.outcomes, [Outcome::NotInBucket, Outcome::Accepted]);
    assert_eq!((submitted.put_back, submitted.kept), (1, false));
    shop.tick();
    assert_eq!(seat_stats(&service, 1).faults.not_in_bucket, 3);
    assert_eq!(seat_stats(&service, 2).faults, commissary::Faults::default());
    assert!(theirs.iter().all(|user| report_of(&service, *user).is_none()));
    assert_eq!(service.subject_state(&999).unwrap(), SubjectState::Unknown);
    report_all(&other);
    assert_eq!(shop.drive_to_quiet(&seats[1]), 1);
    assert_eq!(service.stats().subjects_done, 8);
    assert_adds_up(&shop.hub);
}

/// R79: a client that lost the answer sends the same again: each subject is answered `AlreadyDone`, without a fault, and
/// there is no second record.
#[test]
fn retry_after_a_lost_answer_stores_nothing_twice() {
    let (shop, service) = shop_with(Limits::default(), 8);
    let seat = shop.seat(&service, 1);
    let (finished, partly) = (claim_one(&seat), claim_one(&seat));
    let (token, payload) = (finished.token(), reports(&finished, "ok"));
    let some: Vec<_> = reports(&partly, "ok").into_iter().take(2).collect();
    drop(seat.submit(&token, payload.clone()).unwrap());
    drop(partly.report(some.clone()).unwrap());
    // Before it is written, and after.
    for round in 1..=3 {
        let again = seat.submit(&token, payload.clone()).unwrap();
        assert_eq!(again.outcomes, vec![Outcome::AlreadyDone; 4]);
        assert_eq!((again.put_back, again.kept, again.ticket.position()), (0, false, None));
        let again = partly.report(some.clone()).unwrap();
        assert_eq!((again.outcomes, again.kept), (vec![Outcome::AlreadyDone; 2], true));
        shop.tick();
        let bytes = shop.disk.journal_bytes();
        drop(seat.submit(&token, payload.clone()).unwrap());
        shop.tick();
        assert_eq!(shop.disk.journal_bytes(), bytes, "nothing was written");
        assert_eq!(seat_stats(&service, 1).already_done, 10 * round);
    }
    let stats = seat_stats(&service, 1);
    assert_eq!((stats.work.subjects_reported, stats.work.buckets_processed), (6, 1));
    assert_eq!(stats.faults, commissary::Faults::default());
    assert_eq!(service.stats().subjects_done, 6);
    let (findings, _) = service.results(None, 100).unwrap();
    assert!(findings.iter().all(|finding| finding.version == 1));

    // Of a lease that goes on the repeat is known also after a restart; a finished one is over, and stores nothing.
    let live = partly.into_token();
    let shop = shop.restart();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seat = shop.seat(&service, 1);
    assert_eq!(seat.submit(&token, payload).unwrap_err(), LeaseError::Over);
    let again = seat.report(&live, some).unwrap();
    assert_eq!((again.outcomes, again.kept), (vec![Outcome::AlreadyDone; 2], true));
    shop.tick();
    assert_eq!(service.stats().subjects_done, 6);
    assert_adds_up(&shop.hub);
}

/// R79: a crash between the report and its record undoes the report; sending it again after the restart stores it once.
#[test]
fn report_lost_with_the_hub_can_be_sent_again() {
    let (shop, service) = shop_with(Limits::default(), 4);
    let seat = shop.seat(&service, 1);
    let lease = claim_one(&seat);
    shop.tick();
    let submitted = lease.submit(reports(&lease, "ok")).unwrap();
    assert_eq!(submitted.ticket.progress(), Ok(Progress::Pending));
    let payload = reports(&lease, "ok");
    let lost = shop.after(Crash::Power);
    shop.tick();
    let kept = shop.after(Crash::Power);
    for (shop, is_kept) in [(lost, false), (kept, true)] {
        let service = shop.hub.register(Plain::new("plain")).unwrap();
        let seat = shop.seat(&service, 1);
        assert_eq!(seat.leases().unwrap().len(), usize::from(!is_kept));
        match seat.submit(&lease.token(), payload.clone()) {
            Ok(again) => assert_eq!((again.accepted(), is_kept), (4, false)),
            Err(error) => assert_eq!((error, is_kept), (LeaseError::Over, true)),
        }
        shop.tick();
        assert_eq!(service.stats().subjects_done, 4);
        assert_eq!(seat_stats(&service, 1).work.subjects_reported, 4);
        assert_adds_up(&shop.hub);
    }
}

/// R82: a second report with another content is a conflict: the first stays the result, the second is kept as evidence and
/// counted, over a restart too; never are two counted as done.
#[test]
fn conflicting_report_leaves_the_first_in_place() {
    let (shop, service) = shop_with(Limits::default(), 4);
    let seat = shop.seat(&service, 1);
    let lease = claim_one(&seat);
    let mine = users(&lease);
    drop(lease.report([(mine[0], "first".to_owned())]).unwrap());
    let bytes = shop.disk.journal_bytes();
    shop.tick();
    let second = lease.report([(mine[0], "second".to_owned()), ok(mine[1])]).unwrap();
    assert_eq!(second.outcomes, [Outcome::Conflict, Outcome::Accepted]);
    let other_session = shop.client(1).activate(&service).unwrap();
    let third = other_session.submit(&lease.token(), [(mine[0], "third".to_owned())]).unwrap();
    assert_eq!((third.outcomes, third.put_back), (vec![Outcome::Conflict], 2));
    shop.tick();
    assert!(shop.disk.journal_bytes() > bytes);
    assert_eq!(report_of(&service, mine[0]).as_deref(), Some("first"));
    let stats = seat_stats(&service, 1);
    assert_eq!((stats.faults.conflicts, stats.work.subjects_reported), (2, 2));
    let shop = shop.restart();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    assert_eq!(seat_stats(&service, 1).faults.conflicts, 2);
    assert_eq!(report_of(&service, mine[0]).as_deref(), Some("first"));
    assert_eq!(service.stats().subjects_done, 2);
    assert_adds_up(&shop.hub);
}

/// R82: the same subject twice in one call is taken once.
#[test]
fn subject_named_twice_in_one_call_is_taken_once() {
    let (shop, service) = shop_with(Limits::default(), 4);
    let seat = shop.seat(&service, 1);
    let lease = claim_one(&seat);
    let mine = users(&lease);
    let submitted = lease.report([ok(mine[0]), ok(mine[1]), ok(mine[0])]).unwrap();
    assert_eq!(submitted.outcomes, [Outcome::Accepted, Outcome::Accepted, Outcome::AlreadyDone]);
    shop.tick();
    let stats = seat_stats(&service, 1);
    assert_eq!((stats.work.subjects_reported, stats.already_done), (2, 1));
    assert_eq!(service.stats().subjects_done, 2);
    assert_adds_up(&shop.hub);
}

/// R80 and R39: who never reports loses the bucket after lease and grace, not a moment earlier; then it is offered to
/// others, exactly the subjects not done, ahead of younger work, and counted as expired.
#[test]
fn bucket_of_a_silent_client_goes_to_others() {
    let (shop, service) = shop_with(Limits::default(), 80);
    let seats = shop.seats(&service, 2);
    let lease = claim_one(&seats[0]);
    let mine = users(&lease);
    drop(lease.report([ok(mine[0])]).unwrap());
    let left: BTreeSet<u64> = mine[1..].iter().copied().collect();
    let token = lease.into_token();
    let policy = Policy::default();
    let millisecond = Duration::from_millis(1);
    let view = || seats[0].leases().unwrap().remove(0);

    shop.pass(policy.lease.saturating_sub(millisecond));
    assert!(!view().dead);
    assert_eq!(view().time_left, millisecond);
    shop.pass(millisecond);
    assert!(view().dead, "at the deadline");
    assert_eq!(seats[0].renew(&token).unwrap_err(), LeaseError::Dead);
    shop.pass(policy.grace.saturating_sub(millisecond));
    assert_eq!(seat_stats(&service, 1).work.buckets_held, 1, "grace is not over");
    shop.pass(millisecond);
    let work = seat_stats(&service, 1).work;
    assert_eq!((work.buckets_held, work.buckets_put_back, work.buckets_expired), (0, 1, 1));
    assert_eq!((work.subjects_reported, work.subjects_put_back), (1, 3));

    let next = claim_one(&seats[1]);
    assert_eq!(users(&next).into_iter().collect::<BTreeSet<u64>>(), left, "before all that is younger");
    assert_ne!(next.token(), token);
    let late = seats[0].submit(&token, left.iter().map(|user| ok(*user))).unwrap();
    assert_eq!(late.outcomes, vec![Outcome::Stale; 3]);
    shop.tick();
    assert!(left.iter().all(|user| report_of(&service, *user).is_none()), "nothing late is stored");
    assert_eq!(seat_stats(&service, 1).faults.stale, 3);
    report_all(&next);
    shop.tick();
    let slow = service.slow_buckets(Duration::from_secs(7_200));
    assert_eq!(slow.len(), 1);
    assert_eq!((slow[0].client.value(), slow[0].held, slow[0].put_back), (1, false, Some(Cause::Expired)));
    assert_eq!(slow[0].took, policy.lease + policy.grace);
    assert_adds_up(&shop.hub);
}

/// R80 and R102: finished work is still taken until the grace is over.
#[test]
fn dead_lease_still_takes_reports() {
    let (shop, service) = shop_with(Limits::default(), 8);
    let seat = shop.seat(&service, 1);
    let (whole, partly) = (claim_one(&seat), claim_one(&seat));
    shop.pass(Policy::default().lease);
    shop.pass(Policy::default().grace.saturating_sub(Duration::from_millis(1)));
    report_all(&whole);
    let some = partly.submit([ok(users(&partly)[0])]).unwrap();
    assert_eq!((some.accepted(), some.put_back), (1, 3));
    shop.tick();
    let work = seat_stats(&service, 1).work;
    assert_eq!((work.buckets_processed, work.buckets_put_back, work.buckets_expired), (1, 1, 0));
    assert_eq!(service.stats().subjects_done, 5);
    assert_adds_up(&shop.hub);
}

/// R100: the token decides. The live one wins even in the grace; once the bucket went to another client, the old one is
/// refused and the new one wins, in either order of their reports.
#[test]
fn the_live_token_decides_who_updates() {
    for old_first in [true, false] {
        let (shop, service) = shop_with(Limits::default(), 4);
        let seats = shop.seats(&service, 2);
        let old = claim_one(&seats[0]);
        let mine = users(&old);
        shop.pass(Policy::default().lease);
        assert_eq!(old.report([ok(mine[0])]).unwrap().outcomes, [Outcome::Accepted], "dead, and within the grace");
        shop.pass(Policy::default().grace);
        let new = claim_one(&seats[1]);
        assert_eq!(users(&new).into_iter().collect::<BTreeSet<u64>>(), mine[1..].iter().copied().collect());
        let late = || assert_eq!(old.report([ok(mine[1])]).unwrap().outcomes, [Outcome::Stale]);
        if old_first {
            late();
        }
        assert_eq!(new.report([ok(mine[1])]).unwrap().outcomes, [Outcome::Accepted]);
        late();
        shop.tick();
        let finding = service.result(&mine[1]).unwrap().unwrap();
        assert_eq!(finding.client, seat_stats(&service, 2).client, "the new holder's");
        assert_eq!(new.submit([ok(mine[2]), ok(mine[3])]).unwrap().accepted(), 2);
        shop.tick();
        assert_eq!(service.stats().subjects_done, 4);
        assert_adds_up(&shop.hub);
    }
}

/// Rejected reports stay with the lease: a final submit then gives nothing back, and the report can be mended.
#[test]
fn rejected_reports_stay_with_the_lease() {
    let (shop, service) = shop_with(Limits::default(), 4);
    let seat = shop.seat(&service, 1);
    let lease = claim_one(&seat);
    let mine = users(&lease);
    let bad = |user: u64| (user, "bad".to_owned());
    let first = lease.submit([ok(mine[0]), bad(mine[1]), bad(mine[2])]).unwrap();
    let rejected = Outcome::Rejected { reason: "bad".to_owned() };
    assert_eq!(first.outcomes, [Outcome::Accepted, rejected.clone(), rejected.clone()]);
    assert_eq!((first.put_back, first.kept), (0, true));
    shop.tick();
    assert_eq!(seat.leases().unwrap()[0].subjects, mine[1..]);
    assert_eq!(report_of(&service, mine[1]), None);
    let second = lease.submit([bad(mine[1]), ok(mine[2])]).unwrap();
    assert_eq!((second.outcomes, second.kept), (vec![rejected, Outcome::Accepted], true));
    let third = lease.submit([ok(mine[1])]).unwrap();
    assert_eq!((third.accepted(), third.put_back, third.kept), (1, 1, false));
    shop.tick();
    let stats = seat_stats(&service, 1);
    assert_eq!((stats.faults.rejected, stats.work.subjects_reported, stats.work.subjects_put_back), (3, 3, 1));
    assert_adds_up(&shop.hub);
}

/// A report that breaks the plugin is answered as such and stays with the lease; the others of the call are taken.
#[test]
fn report_that_breaks_the_plugin_stays_with_the_lease() {
    let (shop, service) = shop_with(Limits::default(), 4);
    let seat = shop.seat(&service, 1);
    let lease = claim_one(&seat);
    let mine = users(&lease);
    let submitted = lease.submit([(mine[0], "panic".to_owned()), ok(mine[1])]).unwrap();
    assert_eq!(submitted.outcomes, [Outcome::PluginPanicked, Outcome::Accepted]);
    assert_eq!((submitted.put_back, submitted.kept), (0, true));
    let mended = lease.submit([ok(mine[0]), ok(mine[2]), ok(mine[3])]).unwrap();
    assert_eq!((mended.accepted(), mended.kept), (3, false));
    shop.tick();
    assert_eq!((service.stats().panics, seat_stats(&service, 1).faults.plugin_panics), (1, 1));
    assert_eq!((service.state(), service.stats().subjects_done), (ServiceState::Active, 4));
    assert_adds_up(&shop.hub);
}

/// Reports that are refused, whatever for and wherever they stand in a call, leave nothing behind: what is taken is what was
/// said of each subject, also if it comes in another order than the bucket's and is long.
#[test]
fn refused_reports_leave_nothing_of_theirs_in_others() {
    let shop = Shop::open_with(Limits { report_bytes: 300, ..Limits::default() });
    let service = shop.hub.register(Plain::with("plain", |policy| policy.bucket_subjects = 9)).unwrap();
    shop.stock(&service, 9);
    let lease = claim_one(&shop.seat(&service, 1));
    let mine = users(&lease);
    let text = |place: usize| format!("{place}").repeat([1, 126, 127, 128, 200, 298, 2, 3, 4][place]);
    let said = |place: usize, text: &str| (mine[place], text.to_owned());
    let sent = [
        said(0, "panic"),
        said(8, &text(8)),
        said(0, "bad"),
        said(0, &"x".repeat(299)),
        (u64::MAX, "of nobody".to_owned()),
        said(1, &text(1)),
        said(2, &text(2)),
        said(2, "again"),
        said(3, "panic"),
        said(5, &text(5)),
        said(4, &text(4)),
        said(3, &text(3)),
        said(6, "bad"),
    ];
    let submitted = lease.report(sent).unwrap();
    let bad = Outcome::Rejected { reason: "bad".to_owned() };
    let expected = [
        Outcome::PluginPanicked,
        Outcome::Accepted,
        bad.clone(),
        Outcome::TooLarge { bytes: 301, limit: 300 },
        Outcome::NotInBucket,
        Outcome::Accepted,
        Outcome::Accepted,
        Outcome::AlreadyDone,
        Outcome::PluginPanicked,
        Outcome::Accepted,
        Outcome::Accepted,
        Outcome::Accepted,
        bad,
    ];
    assert_eq!(submitted.outcomes, expected);
    shop.tick();
    let told: Vec<_> = mine.iter().map(|user| report_of(&service, *user)).collect();
    let expected: Vec<_> = (0..9).map(|place| [1, 2, 3, 4, 5, 8].contains(&place).then(|| text(place))).collect();
    assert_eq!(told, expected);
    let again = lease.submit((0..9).map(|place| said(place, &text(place)))).unwrap();
    let expected: Vec<_> =
        told.iter().map(|told| if told.is_some() { Outcome::AlreadyDone } else { Outcome::Accepted }).collect();
    assert_eq!((again.outcomes, again.kept), (expected, false));
    shop.tick();
    assert!(mine.iter().enumerate().all(|(place, user)| report_of(&service, *user) == Some(text(place))));
    assert_eq!(service.stats().panics, 2);
    assert_adds_up(&shop.hub);
}

/// What panics while the reports are made is the caller's own: it is not caught, no plugin is blamed, and nothing is taken.
#[test]
fn a_panic_of_the_callers_own_reports_is_the_callers() {
    let (shop, service) = shop_with(Limits::default(), 4);
    let seat = shop.seat(&service, 1);
    let lease = claim_one(&seat);
    let mine = users(&lease);
    let reports = mine.iter().map(|user| if *user == mine[2] { panic!("no report") } else { ok(*user) });
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lease.submit(reports))).unwrap_err();
    assert_eq!(panicked.downcast_ref::<&str>(), Some(&"no report"));
    assert_eq!((service.stats().panics, seat_stats(&service, 1).work.subjects_reported), (0, 0));
    assert_eq!(seat.leases().unwrap()[0].subjects, mine);
    report_all(&lease);
    shop.tick();
    assert_eq!(service.stats().subjects_done, 4);
    assert_adds_up(&shop.hub);
}

/// R16: a report that is too long is refused by itself, naming the limit, and stays with the lease; one of exactly the
/// limit is taken.
#[test]
fn too_large_reports_stay_with_the_lease() {
    let limits = Limits { report_bytes: 100, ..Limits::default() };
    let (shop, service) = shop_with(limits, 4);
    let seat = shop.seat(&service, 1);
    let lease = claim_one(&seat);
    let mine = users(&lease);
    // One byte says how long the text is.
    let of_bytes = |user: u64, bytes: usize| (user, "x".repeat(bytes - 1));
    let submitted = lease.submit([of_bytes(mine[0], 100), of_bytes(mine[1], 101), ok(mine[2])]).unwrap();
    let too_large = Outcome::TooLarge { bytes: 101, limit: 100 };
    assert_eq!(submitted.outcomes, [Outcome::Accepted, too_large, Outcome::Accepted]);
    assert_eq!((submitted.put_back, submitted.kept), (0, true));
    let mended = lease.submit([of_bytes(mine[1], 99), ok(mine[3])]).unwrap();
    assert_eq!((mended.accepted(), mended.kept), (2, false));
    shop.tick();
    assert_eq!(seat_stats(&service, 1).faults.oversized, 1);
    assert_eq!(report_of(&service, mine[1]).map(|report| report.len()), Some(98));
    assert_adds_up(&shop.hub);
}

/// R16: reports that are too large together are refused as a whole, naming the limit; nothing is stored and the lease is as
/// before.
#[test]
fn too_large_submits_are_refused_whole() {
    let limits = Limits { report_bytes: 1_000, submit_bytes: 2_000, ..Limits::default() };
    let (shop, service) = shop_with(limits, 4);
    let seat = shop.seat(&service, 1);
    let lease = claim_one(&seat);
    let mut before = seat_stats(&service, 1);
    let error = lease.submit(reports(&lease, &"x".repeat(900))).unwrap_err();
    assert!(matches!(error, LeaseError::TooLarge { bytes: 2_001.., limit: 2_000 }), "{error:?}");
    before.refused.too_large += 1;
    assert_eq!(seat_stats(&service, 1), before);
    assert_eq!(seat.leases().unwrap()[0].subjects.len(), 4);
    for half in reports(&lease, &"x".repeat(900)).chunks(2) {
        assert_eq!(lease.report(half.to_vec()).unwrap().accepted(), 2);
    }
    shop.tick();
    assert_eq!(service.stats().subjects_done, 4);
    assert_adds_up(&shop.hub);
}

/// R37: when the queue is full a submit is refused before anything is applied, with a time to come again; once there is
/// room the same submit is taken whole. Claims and renewals need no room.
#[test]
fn full_queue_refuses_submits_before_anything_is_applied() {
    let limits = unranked();
    let (shop, service) = shop_with(limits, 12);
    let seat = shop.seat(&service, 1);
    let lease = claim_one(&seat);
    shop.tick();
    let mut user = 1_000;
    while service.add(&user).is_ok() {
        user += 1;
    }
    let mut before = seat_stats(&service, 1);
    assert!((3_800..=4_096).contains(&shop.hub.stats().queued_bytes));
    for _ in 0..3 {
        for refused in [lease.submit(reports(&lease, "ok")), lease.report(reports(&lease, "ok"))] {
            let LeaseError::Hub(busy) = refused.unwrap_err() else { panic!("not the hub's refusal") };
            assert!(busy.is_transient());
            let HubError::Busy { queued, limit, rule, retry_after } = busy else { panic!("{busy}") };
            assert_eq!((queued, limit, rule), (shop.hub.stats().queued_bytes, 4_096, "queue_bytes"));
            assert!(retry_after > Duration::ZERO);
        }
    }
    before.refused.busy += 6;
    assert_eq!(seat_stats(&service, 1), before, "nothing was applied, but each refusal counted");
    assert_eq!(seat.leases().unwrap()[0].subjects.len(), 4);
    lease.renew().unwrap();
    let second = claim_one(&seat);
    second.release();

    shop.tick();
    assert_eq!(shop.hub.stats().queued_bytes, 0);
    report_all(&lease);
    shop.tick();
    assert_eq!(service.stats().subjects_done, 4);
    assert_eq!(service.stats().subjects_known, 12 + user - 1_000);
    assert_adds_up(&shop.hub);
}

/// R37: a submit larger than the whole queue is taken when nothing else waits: no report is refused for ever.
#[test]
fn submit_larger_than_the_queue_is_taken_when_it_is_empty() {
    let limits = Limits { queue_bytes: 4_096, ..Limits::default() };
    let (shop, service) = shop_with(limits, 4);
    let seat = shop.seat(&service, 1);
    let lease = claim_one(&seat);
    shop.tick();
    let submitted = lease.submit(reports(&lease, &"x".repeat(60_000))).unwrap();
    assert_eq!(submitted.accepted(), 4);
    assert!(matches!(service.add(&99).unwrap_err(), commissary::AddError::Hub { taken: 0, .. }));
    shop.tick();
    assert_eq!(submitted.ticket.progress(), Ok(Progress::Visible));
    assert_eq!(shop.hub.stats().queued_bytes, 0);
    assert_adds_up(&shop.hub);
}

/// G9: calls on leases are refused in this order: hub, client, service, token, subject. A refusal tells nothing of what
/// is further down.
#[test]
fn submits_are_refused_in_the_order_of_identity() {
    let (shop, service) = shop_with(Limits::default(), 8);
    let seats = shop.seats(&service, 2);
    let (own, foreign) = (claim_one(&seats[0]).into_token(), claim_one(&seats[1]).into_token());
    let tokens = [own, foreign, forge(own, 32..64)];
    let answers = |seat: &commissary::Seat<Plain>| tokens.map(|token| seat.submit(&token, [ok(999)]).unwrap_err());
    // Token before subject: a stranger learns nothing of the bucket.
    for token in &tokens[1..] {
        assert_eq!(seats[0].report(token, [ok(999)]).unwrap_err(), LeaseError::NotOwner);
    }
    drop(service.revoke(Revoke::Immediate).unwrap());
    let not_ready = LeaseError::NotReady { state: ServiceState::Revoked };
    assert_eq!(answers(&seats[0]), [not_ready.clone(), not_ready.clone(), not_ready]);
    assert_eq!(seat_stats(&service, 1).faults.not_owner, 2, "nobody looked at the tokens");
    drop(shop.hub.deregister_client(1, &name_of(1)).unwrap());
    assert_eq!(answers(&seats[0]), [LeaseError::NotRegistered, LeaseError::NotRegistered, LeaseError::NotRegistered]);
    shop.tick();
    assert_adds_up(&shop.hub);
    shop.hub.close().unwrap();
    let closed = LeaseError::Hub(HubError::Closed);
    assert_eq!(answers(&seats[0]), [closed.clone(), closed.clone(), closed]);
}

/// R9 and R92: several programs under one id are one client: one claims, another reports by the token, a third renews.
#[test]
fn sessions_of_one_client_share_its_leases() {
    let (shop, service) = shop_with(Limits::default(), 8);
    let first = shop.seat(&service, 1);
    let second = shop.client(1).activate(&service).unwrap();
    let token = claim_one(&first).into_token();
    shop.pass(MINUTE);
    assert_eq!(second.renew(&token).unwrap(), Policy::default().lease);
    assert_eq!(second.leases().unwrap().len(), 1);
    let taken_up = second.resume(&token).unwrap();
    report_all(&taken_up);
    shop.tick();
    assert_eq!(first.leases().unwrap().len(), 0);
    assert_eq!(seat_stats(&service, 1).work.buckets_processed, 1);
    assert_eq!(shop.hub.client_stats(1).unwrap().seats.len(), 1);
    assert_adds_up(&shop.hub);
}
