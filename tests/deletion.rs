//! Deletion: a subject in any state goes, with all that was known of it; whoever works on it is none the wiser.

mod common;

use std::time::Duration;

use commissary::{
    Crash, Lease, LeaseToken, Marked, Outcome, Policy, Seat, ServiceHandle, SubjectState, Ticket, Urgent,
};
use common::{Plain, Shop, Web, assert_adds_up, claim, claim_one, exact};

/// The subject that is deleted; of the first bucket, 1 to 4, unless it was discovered.
const GONE: u64 = 3;

/// What a subject can be when it is deleted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Was {
    Unmarked,
    Waiting,
    Ready,
    Leased,
    Dead,
    Done,
    RerunWaiting,
    RerunLeased,
}

const STATES: [Was; 8] =
    [Was::Unmarked, Was::Waiting, Was::Ready, Was::Leased, Was::Dead, Was::Done, Was::RerunWaiting, Was::RerunLeased];

fn web() -> Web {
    Web(Policy { lease: Duration::from_secs(60), grace: Duration::from_secs(60), ..exact() })
}

/// Reports on everything that can be claimed, and says on what.
fn work_all(shop: &Shop, seat: &Seat<Web>, report: &[u64]) -> Vec<u64> {
    let mut seen = Vec::new();
    shop.settle();
    while let Some(grant) = seat.claim(commissary::Ask::one()).unwrap().leased() {
        for lease in grant {
            let subjects: Vec<u64> = lease.subjects().collect();
            seen.extend(&subjects);
            let submitted = lease.submit(subjects.into_iter().map(|subject| (subject, report.to_vec()))).unwrap();
            assert!(submitted.outcomes.iter().all(|outcome| *outcome == Outcome::Accepted), "{submitted:?}");
            assert_eq!((submitted.put_back, submitted.kept), (0, false));
        }
        shop.settle();
    }
    seen
}

/// Brings the subject into a state; the token of the lease that holds it, if one does.
fn bring(shop: &Shop, service: &ServiceHandle<Web>, seat: &Seat<Web>, was: Was) -> Option<LeaseToken> {
    let rerun = || {
        drop(service.rerun(&[1, 2, GONE, 4]).unwrap());
        shop.hub.tick();
    };
    if was == Was::Unmarked {
        service.add_all([1, 2, 4]).unwrap();
        work_all(shop, seat, &[GONE]);
        assert_eq!(service.subject_state(&GONE).unwrap(), SubjectState::Unmarked);
        return None;
    }
    service.add_all(1..=4).unwrap();
    match was {
        Was::Unmarked | Was::Waiting => return None,
        Was::Ready => {
            shop.settle();
            return None;
        }
        Was::Done | Was::RerunWaiting | Was::RerunLeased => {
            assert_eq!(work_all(shop, seat, &[]).len(), 4);
        }
        Was::Leased | Was::Dead => {}
    }
    match was {
        Was::Done => return None,
        Was::RerunWaiting => {
            rerun();
            return None;
        }
        Was::RerunLeased => rerun(),
        _ => {}
    }
    shop.settle();
    let token = claim_one(seat).into_token();
    shop.hub.tick();
    if was == Was::Dead {
        shop.pass(Duration::from_secs(61));
    }
    Some(token)
}

fn added(shop: &Shop, ticket: &Ticket) -> u64 {
    shop.hub.tick();
    ticket.wait_visible().unwrap().added
}

/// The subject is unknown, and has neither result nor past.
fn is_unknown(service: &ServiceHandle<Web>) {
    assert_eq!(service.subject_state(&GONE).unwrap(), SubjectState::Unknown);
    assert!(service.result(&GONE).unwrap().is_none() && service.result_raw(&GONE).unwrap().is_none());
    let (all, _) = service.results(None, 100).unwrap();
    assert!(all.iter().all(|finding| finding.key != GONE));
}

/// R31, R32, R52: in whatever state a subject is deleted, with or without a crash after it: it is unknown at once, its
/// holder's report is answered as any other and dropped, the rest of the bucket counts, and the bucket ends.
#[test]
fn a_subject_deleted_in_any_state_is_gone_and_its_holder_is_answered_as_ever() {
    for was in STATES {
        for crash in [None, Some(Crash::Process), Some(Crash::Power)] {
            let what = format!("{was:?}, {crash:?}");
            let mut shop = Shop::open();
            let mut service = shop.hub.register(web()).unwrap();
            let mut seat = shop.seat(&service, 1);
            let token = bring(&shop, &service, &seat, was);
            assert_eq!(added(&shop, &service.delete(&[GONE]).unwrap()), 1, "{what}");
            is_unknown(&service);
            if let Some(crash) = crash {
                shop = shop.after(crash);
                service = shop.hub.register(web()).unwrap();
                seat = shop.seat(&service, 1);
                is_unknown(&service);
            }
            let stats = service.stats();
            assert_eq!((stats.subjects_known, stats.deleted, stats.unmarked), (3, 1, 0), "{what}");
            if let Some(token) = token {
                let before = stats.discarded;
                let submitted = seat.submit(&token, (1..=4).map(|subject| (subject, vec![]))).unwrap();
                assert_eq!(submitted.outcomes, vec![Outcome::Accepted; 4], "{what}");
                assert_eq!((submitted.put_back, submitted.kept), (0, false), "{what}: the bucket ends");
                shop.hub.tick();
                assert_eq!(service.stats().discarded, before + 1, "{what}");
            }
            work_all(&shop, &seat, &[]);
            is_unknown(&service);
            let stats = service.stats();
            assert_eq!((stats.subjects_known, stats.subjects_done), (3, 3), "{what}");
            assert_adds_up(&shop.hub);
            let replayed = Shop::on(shop.disk.without_store(), shop.clock.clone(), commissary::Limits::default());
            let service = replayed.hub.register(web()).unwrap();
            is_unknown(&service);
            assert_eq!(service.stats().subjects_done, 3, "{what}: from the journal alone");
            assert_adds_up(&replayed.hub);
        }
    }
}

/// R31: a subject deleted and added again begins a new life: a report from the old one never lands on it, also over a
/// crash.
#[test]
fn a_report_from_an_old_life_never_lands_on_the_new_one() {
    for crash in [None, Some(Crash::Process), Some(Crash::Power)] {
        for was in [Was::Leased, Was::Dead, Was::RerunLeased] {
            let what = format!("{was:?}, {crash:?}");
            let mut shop = Shop::open();
            let mut service = shop.hub.register(web()).unwrap();
            let (mut old, mut new) = (shop.seat(&service, 1), shop.seat(&service, 2));
            let token = bring(&shop, &service, &old, was).unwrap();
            assert_eq!(added(&shop, &service.delete(&[GONE]).unwrap()), 1);
            assert_eq!(added(&shop, &service.add(&GONE).unwrap()), 1, "{what}: new again");
            if let Some(crash) = crash {
                shop = shop.after(crash);
                service = shop.hub.register(web()).unwrap();
                (old, new) = (shop.seat(&service, 1), shop.seat(&service, 2));
            }
            shop.settle();
            let lease = claim_one(&new);
            assert_eq!(lease.subjects().collect::<Vec<_>>(), [GONE], "{what}: offered beside the old lease");
            let submitted = old.submit(&token, (1..=4).map(|subject| (subject, vec![666]))).unwrap();
            assert_eq!(submitted.outcomes, vec![Outcome::Accepted; 4], "{what}");
            shop.settle();
            assert!(service.result(&GONE).unwrap().is_none(), "{what}: the old report is dropped");
            assert_eq!(lease.submit([(GONE, vec![])]).unwrap().accepted(), 1);
            shop.settle();
            let finding = service.result(&GONE).unwrap().unwrap();
            assert_eq!((finding.report.len(), finding.version, finding.client.value()), (0, 1, 2), "{what}");
            assert_eq!(service.stats().discarded, 1);
            assert_adds_up(&shop.hub);
        }
    }
}

/// R31: a lease that ends without a report on a deleted subject does not bring it back.
#[test]
fn a_deleted_subject_put_back_after_a_restart_is_offered_to_nobody() {
    let shop = Shop::open();
    let service = shop.hub.register(web()).unwrap();
    let seat = shop.seat(&service, 1);
    let token = bring(&shop, &service, &seat, Was::Leased).unwrap();
    drop(service.delete(&[GONE]).unwrap());
    shop.hub.tick();
    let shop = shop.after(Crash::Power);
    let service = shop.hub.register(web()).unwrap();
    let seat = shop.seat(&service, 1);
    let held = seat.leases().unwrap().remove(0);
    assert_eq!(held.subjects.len(), 3, "the holder is not asked for it");
    assert_eq!(seat.release(&token).unwrap(), 4);
    let mut seen = work_all(&shop, &seat, &[]);
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 4]);
    assert_eq!(service.stats().discarded, 0);
    assert_adds_up(&shop.hub);
}

/// R32: deleted in every service that knows it, registered now or not, by one call.
#[test]
fn a_deletion_everywhere_reaches_every_service() {
    let shop = Shop::open();
    for id in ["one", "two", "three", "other"] {
        let service = shop.hub.register(Plain::new(id)).unwrap();
        service.add_all(if id == "other" { 1..=2_u64 } else { 1..=4 }).unwrap();
    }
    let shop = shop.restart();
    // The third service is not registered this time.
    let [one, two, other] = ["one", "two", "other"].map(|id| shop.hub.register(Plain::new(id)).unwrap());
    assert_eq!(added(&shop, &shop.hub.delete_everywhere(&4_u64).unwrap()), 3, "services that knew it");
    let three = shop.hub.register(Plain::new("three")).unwrap();
    for service in [&one, &two, &three] {
        assert_eq!(service.subject_state(&4).unwrap(), SubjectState::Unknown, "{}", service.id());
        assert_eq!((service.stats().subjects_known, service.stats().deleted), (3, 1), "{}", service.id());
    }
    assert_eq!((other.stats().subjects_known, other.stats().deleted), (2, 0));
    let seat = shop.seat(&three, 1);
    shop.settle();
    let seen: Vec<u64> = claim(&seat, 1).iter().flat_map(|lease| lease.subjects().collect::<Vec<_>>()).collect();
    assert_eq!(seen.len(), 3);
}

/// R31, G6: deleted just before its lease is journaled, a subject is answered as any other, also after a restart, and counted
/// the same by whoever was there and whoever reads the journal.
#[test]
fn a_subject_deleted_before_its_lease_is_journaled_is_answered_as_ever() {
    for offered_twice in [false, true] {
        for restart in [false, true] {
            let mut shop = Shop::open();
            let plugin = || Plain::with("plain", |policy| policy.lease = Duration::from_secs(60));
            let mut service = shop.hub.register(plugin()).unwrap();
            let mut seats = shop.seats(&service, 2);
            shop.stock(&service, 8);
            if offered_twice {
                let held = claim_one(&seats[0]);
                let user = held.subjects().next().unwrap();
                drop(service.prioritize(&[user]).unwrap());
                shop.tick();
                drop((held, claim_one(&seats[1])));
                shop.settle();
            }
            let mut leases = claim(&seats[0], 1);
            let users: Vec<u64> = leases[0].subjects().collect();
            drop(service.delete(&users[..1]).unwrap());
            let token = leases.remove(0).into_token();
            shop.tick();
            if restart {
                shop = shop.after(Crash::Process);
                service = shop.hub.register(plugin()).unwrap();
                seats = shop.seats(&service, 2);
            }
            let reports = users.iter().map(|user| (*user, "ok".to_owned()));
            let submitted = seats[0].submit(&token, reports).unwrap();
            assert_eq!(submitted.outcomes, vec![Outcome::Accepted; users.len()], "{offered_twice} {restart}");
            shop.tick();
            assert_eq!(service.stats().discarded, 1);
            let work = service.seat_stats(1).unwrap().work;
            assert_adds_up(&shop.hub);
            let again = shop.after(Crash::Process);
            let service = again.hub.register(plugin()).unwrap();
            assert_eq!(service.seat_stats(1).unwrap().work, work, "{offered_twice} {restart}");
            assert_eq!(work.buckets_held, 0);
        }
    }
}

/// R31, I6: a subject that a client holds in two leases, since it was made urgent, is deleted; after a restart its reports on
/// the two are counted as one, by the hub that took them and by the next one.
#[test]
fn a_deleted_subject_held_twice_is_counted_once_after_a_restart() {
    let urgent_too = || Web(Policy { urgent: Urgent::Keep, bucket_subjects: 1, ..exact() });
    let shop = Shop::open();
    let service = shop.hub.register(urgent_too()).unwrap();
    let seat = shop.seat(&service, 1);
    drop(service.add(&7).unwrap());
    shop.settle();
    let (marked, _ticket) = service.prioritize(&[7]).unwrap();
    assert_eq!(marked, [Marked::Urgent]);
    shop.tick();
    let tokens: Vec<_> = [claim_one(&seat), claim_one(&seat)].into_iter().map(Lease::into_token).collect();
    assert_eq!(tokens.len(), 2);
    drop(service.delete(&[7]).unwrap());
    shop.tick();
    let shop = shop.after(Crash::Process);
    let service = shop.hub.register(urgent_too()).unwrap();
    let seat = shop.seat(&service, 1);
    let accepted: usize = tokens.iter().map(|token| seat.submit(token, [(7, Vec::new())]).unwrap().accepted()).sum();
    assert_eq!(accepted, 1);
    shop.tick();
    let work = service.seat_stats(1).unwrap().work;
    assert_eq!((work.subjects_assigned, work.subjects_reported, work.subjects_put_back), (2, 1, 1));
    let shop = shop.after(Crash::Process);
    let service = shop.hub.register(urgent_too()).unwrap();
    assert_eq!(service.seat_stats(1).unwrap().work, work);
    assert_adds_up(&shop.hub);
}
