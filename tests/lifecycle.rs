//! The life of services and seats: requirement rows R1 to R7, R9, R11 to R14, R83, R91 and R93.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use commissary::services::{DmCheck, FollowerCheck, FollowingCheck};
use commissary::{
    ActivateError, AdminError, Ask, Claim, ClaimError, Crash, EmptyReason, Hub, HubError, Lease, LeaseError,
    LeaseToken, Limits, MemoryDisk, Outcome, Policy, RegisterServiceError, Registration, Reporter, Revoke, Seat,
    SeatState, Service, ServiceHandle, ServiceState, Subject, SubjectState, Verdict,
};
use serde::{Deserialize, Serialize};

use common::{
    Plain, Shop, assert_adds_up, claim, claim_nothing, claim_one, exact, name_of, report_all, reports, unranked,
};

const MINUTE: Duration = Duration::from_secs(60);
const MILLISECOND: Duration = Duration::from_millis(1);

fn shop_with(n: u64, change: impl FnOnce(&mut Policy)) -> (Shop, ServiceHandle<Plain>) {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", change)).unwrap();
    if n > 0 {
        shop.stock(&service, n);
    }
    (shop, service)
}

fn not_ready(state: ServiceState) -> ClaimError {
    ClaimError::NotReady { state }
}

/// R2 and R21: one identity works for any of the services; leases, quota, faults and statistics are kept for each, and what
/// goes wrong in one leaves the other alone.
#[test]
fn client_works_for_several_services_independently() {
    let shop = Shop::open();
    let first = shop.hub.register(Plain::with("first", |policy| policy.leases_in_flight = 1)).unwrap();
    let second = shop.hub.register(Plain::new("second")).unwrap();
    shop.stock(&first, 8);
    shop.stock(&second, 8);
    let (one, both) = (shop.seat(&first, 1), (shop.seat(&first, 2), shop.seat(&second, 2)));
    report_all(&claim_one(&one));
    let in_second = claim(&both.1, 2);
    shop.tick();
    let before = (second.seat_stats(2).unwrap(), second.stats());

    let bad = claim_one(&both.0);
    assert_eq!(claim_nothing(&both.0).reason, EmptyReason::QuotaFull, "the quota is the service's");
    assert_eq!(bad.submit(reports(&bad, "bad")).unwrap().accepted(), 0);
    drop(bad);
    drop(first.suspend(2).unwrap());
    drop(first.revoke(Revoke::Immediate).unwrap());
    shop.tick();
    let stats = shop.hub.client_stats(2).unwrap();
    let of_first = stats.seats.iter().find(|seat| seat.service == "first").unwrap();
    assert_eq!((of_first.state, of_first.faults.rejected), (SeatState::Suspended, 4));
    assert_eq!((of_first.work.buckets_assigned, of_first.work.buckets_put_back), (1, 1));
    assert_eq!((second.seat_stats(2).unwrap(), second.stats()), before);
    in_second.iter().for_each(report_all);
    shop.tick();
    assert_eq!((first.stats().subjects_done, second.stats().subjects_done), (4, 8));
    assert!(
        (1..=8).all(|user| second.subject_state(&user).unwrap() == SubjectState::Done),
        "same users, other service"
    );
    assert!(shop.hub.client_stats(1).unwrap().seats.iter().all(|seat| seat.service == "first"));
    assert_adds_up(&shop.hub);
}

/// R3: services are added while others serve: a hundred of them, each found, filled and worked through at once, with all
/// clients of the first one at work. Real threads.
#[test]
fn services_are_added_while_others_serve() {
    const BASE: u64 = 4_000;
    let disk = MemoryDisk::new();
    let hub = Hub::builder().seed(3).open_in_memory(&disk).unwrap();
    let base = hub.register(Plain::new("base")).unwrap();
    base.add_all(1..=BASE).unwrap();
    let enrol = |id: u64| hub.register_client(&Registration::new(id, name_of(id))).unwrap().client;
    let left = AtomicUsize::new(usize::try_from(BASE).unwrap());
    let work = |seat: &Seat<Plain>, left: &AtomicUsize| {
        while left.load(Ordering::SeqCst) > 0 {
            match seat.claim(Ask::buckets(2)).unwrap() {
                Claim::Leased(grant) => {
                    for lease in grant {
                        report_all(&lease);
                        left.fetch_sub(lease.len(), Ordering::SeqCst);
                    }
                }
                // Woken when something is published; the time bounds only how late another's last report is noticed.
                Claim::Empty(_) => drop(seat.wait_ready(Duration::from_millis(50))),
            }
        }
    };
    thread::scope(|scope| {
        for id in 1..=3 {
            let seat = enrol(id).activate(&base).unwrap();
            let left = &left;
            scope.spawn(move || work(&seat, left));
        }
        let client = enrol(50);
        for number in 0..100 {
            let name = format!("added-{number}");
            assert_eq!(hub.service_state(&name), None);
            let service = hub.register(Plain::new(&name)).unwrap();
            assert_eq!(hub.service_state(&name), Some(ServiceState::Active));
            let seat = client.activate(&service).unwrap();
            assert_eq!(service.add_all(1..=8).unwrap().added, 8);
            work(&seat, &AtomicUsize::new(8));
        }
    });
    hub.close().unwrap();
    assert_adds_up(&hub);
    let stats = hub.stats();
    assert_eq!(stats.services.len(), 101);
    assert!(stats.services.iter().all(|service| service.subjects_pending() == 0 && service.subjects_known >= 8));
    assert_eq!(stats.work.subjects_reported, BASE + 800);
}

/// R4: a drained service hands out nothing more, and lets those who hold leases finish until their natural end.
#[test]
fn drained_service_lets_leases_finish() {
    let (shop, service) = shop_with(20, |_| {});
    let seat = shop.seat(&service, 1);
    let mut leases = claim(&seat, 3);
    drop(service.revoke(Revoke::Drain).unwrap());
    assert_eq!(seat.claim(Ask::one()).unwrap_err(), not_ready(ServiceState::Draining));
    shop.pass(90 * MINUTE);
    leases[0].renew().unwrap();
    report_all(&leases.remove(0));
    let partly = leases.remove(0);
    let users: Vec<u64> = partly.subjects().collect();
    assert_eq!(partly.submit([(users[0], "ok".to_owned())]).unwrap().put_back, 3);
    let late = leases.remove(0).into_token();
    shop.pass(30 * MINUTE);
    assert!(seat.leases().unwrap()[0].dead);
    shop.pass(15 * MINUTE);
    assert_eq!(seat.renew(&late).unwrap_err(), LeaseError::Over);
    let work = service.seat_stats(1).unwrap().work;
    assert_eq!((work.buckets_processed, work.buckets_put_back, work.buckets_expired, work.buckets_held), (1, 2, 1, 0));
    assert_eq!(seat.claim(Ask::one()).unwrap_err(), not_ready(ServiceState::Draining));
    assert!(!seat.wait_ready(Duration::ZERO));
    drop(service.activate().unwrap());
    assert_eq!(shop.drive_to_quiet(&seat), 15, "all that is not done is offered again");
    assert_adds_up(&shop.hub);
}

/// R4: a service revoked at once takes nothing either, and what was held is put back.
#[test]
fn service_revoked_at_once_takes_nothing() {
    let (shop, service) = shop_with(20, |_| {});
    let seats = shop.seats(&service, 2);
    let (first, second) = (claim_one(&seats[0]), claim_one(&seats[1]));
    let users: Vec<u64> = first.subjects().collect();
    drop(first.report([(users[0], "ok".to_owned())]).unwrap());
    drop(service.revoke(Revoke::Immediate).unwrap());
    let refused = LeaseError::NotReady { state: ServiceState::Revoked };
    assert_eq!(first.submit(reports(&first, "ok")).unwrap_err(), refused);
    assert_eq!(seats[1].report(&second.token(), reports(&second, "ok")).unwrap_err(), refused);
    assert_eq!(second.renew(), Err(LeaseError::Over));
    assert_eq!(seats[0].claim(Ask::one()).unwrap_err(), not_ready(ServiceState::Revoked));
    shop.tick();
    let work = service.stats().work;
    assert_eq!((work.buckets_held, work.buckets_put_back, work.subjects_put_back), (0, 2, 7));
    assert_eq!((work.subjects_reported, service.stats().subjects_done), (1, 1), "what was taken before stays");
    drop((first, second));
    drop(service.activate().unwrap());
    assert_eq!(shop.drive_to_quiet(&seats[0]), 19);
    assert_adds_up(&shop.hub);
}

/// R4: a claim that races with a revocation is wholly before it or wholly after. Real threads.
#[test]
fn claim_racing_a_revocation_is_before_or_after() {
    let (shop, service) = shop_with(2_000, |_| {});
    let seat = shop.seat(&service, 1);
    let mut done = 0;
    for round in 0..300 {
        let how = if round % 2 == 0 { Revoke::Drain } else { Revoke::Immediate };
        let state = if round % 2 == 0 { ServiceState::Draining } else { ServiceState::Revoked };
        let barrier = Barrier::new(2);
        let claimed = thread::scope(|scope| {
            let claiming = scope.spawn(|| {
                barrier.wait();
                seat.claim(Ask::one())
            });
            barrier.wait();
            drop(service.revoke(how).unwrap());
            claiming.join().unwrap()
        });
        match claimed {
            Ok(claim) => {
                // Before: the lease is what any lease is when its service is revoked.
                let lease = claim.leased().expect("there is enough for all").pop().unwrap();
                let submitted = lease.submit(reports(&lease, "ok"));
                if how == Revoke::Drain {
                    assert_eq!(submitted.unwrap().accepted(), 4);
                    done += 4;
                } else {
                    assert_eq!(submitted.unwrap_err(), LeaseError::NotReady { state });
                }
            }
            Err(error) => assert_eq!(error, not_ready(state)),
        }
        assert_eq!(seat.claim(Ask::one()).unwrap_err(), not_ready(state));
        assert!(seat.leases().unwrap().is_empty(), "round {round}");
        shop.tick();
        assert_adds_up(&shop.hub);
        drop(service.activate().unwrap());
        shop.tick();
    }
    assert_eq!(service.stats().subjects_done, done);
    assert_eq!(shop.drive_to_quiet(&seat) as u64, 2_000 - done);
}

/// R5: what a revoked service did stays readable, over a restart, and from the journal alone; registering it again goes on
/// with it.
#[test]
fn records_of_a_revoked_service_are_kept() {
    let (shop, service) = shop_with(12, |_| {});
    let seat = shop.seat(&service, 1);
    claim(&seat, 2).iter().for_each(report_all);
    drop(claim_one(&seat));
    shop.tick();
    drop(service.revoke(Revoke::Immediate).unwrap());
    shop.tick();
    let findings = |service: &ServiceHandle<Plain>| {
        let (findings, rest) = service.results(None, 100).unwrap();
        assert_eq!(rest, None);
        findings.into_iter().map(|f| (f.key, f.report, f.client, f.at, f.position)).collect::<Vec<_>>()
    };
    let before = (findings(&service), service.seat_stats(1).unwrap().work, service.stats().subjects_known);
    assert_eq!(before.0.len(), 8);
    let journal_only = Shop::on(shop.disk.without_store(), shop.clock.clone(), Limits::default());
    for shop in [journal_only, shop.after(Crash::Power), shop.restart()] {
        assert_eq!(shop.hub.service_state("plain"), None, "its plugin is not there yet");
        let service = shop.hub.register(Plain::new("plain")).unwrap();
        assert_eq!(service.state(), ServiceState::Revoked, "the owner's registering does not undo it");
        assert_eq!((findings(&service), service.seat_stats(1).unwrap().work, service.stats().subjects_known), before);
        let is_done = |user: &u64| service.subject_state(user).unwrap() == SubjectState::Done;
        assert_eq!((1..=12).filter(is_done).count(), 8);
        shop.settle();
        let error = shop.client(1).activate(&service).unwrap_err();
        assert_eq!(error, ActivateError::NotReady { state: ServiceState::Revoked });
        drop(service.activate().unwrap());
        assert_eq!(shop.drive_to_quiet(&shop.seat(&service, 1)), 4);
        assert_adds_up(&shop.hub);
    }
}

/// R6: activation for a service that is not ready is refused with its state, before any record is made; so is a claim.
#[test]
fn client_works_only_on_ready_services() {
    let (shop, service) = shop_with(8, |_| {});
    let seat = shop.seat(&service, 1);
    let newcomer = shop.client(2);
    shop.tick();
    for (how, state) in [(Revoke::Drain, ServiceState::Draining), (Revoke::Immediate, ServiceState::Revoked)] {
        drop(service.revoke(how).unwrap());
        shop.tick();
        let bytes = shop.disk.journal_bytes();
        assert_eq!(newcomer.activate(&service).unwrap_err(), ActivateError::NotReady { state });
        assert_eq!(seat.claim(Ask::one()).unwrap_err(), not_ready(state));
        shop.tick();
        assert_eq!(shop.disk.journal_bytes(), bytes);
        assert!(service.seat_stats(2).is_none() && shop.hub.client_stats(2).unwrap().seats.is_empty());
    }
    drop(service.pause().unwrap());
    let seat = newcomer.activate(&service).unwrap();
    assert_eq!(claim_one(&seat).len(), 4, "a paused service still hands out what is formed");
    shop.tick();
    assert_adds_up(&shop.hub);
}

/// R7: of the two ways to become inactive, the client's own activation undoes the automatic one and not the
/// administrator's, also after registering again and after a restart.
#[test]
fn activation_undoes_idleness_but_not_suspension() {
    let (shop, service) = shop_with(40, |policy| policy.idle = MINUTE);
    let seats = shop.seats(&service, 2);
    let (idle, barred) = (&seats[0], &seats[1]);
    let held = claim_one(barred);
    drop(service.suspend(2).unwrap());
    assert_eq!(held.submit(reports(&held, "ok")).unwrap().outcomes, vec![Outcome::Stale; 4], "put back at once");
    shop.pass(MINUTE);
    assert_eq!((idle.state(), barred.state()), (SeatState::Inactive, SeatState::Suspended));
    assert_eq!(idle.claim(Ask::one()).unwrap_err(), ClaimError::Inactive);
    assert_eq!(barred.claim(Ask::one()).unwrap_err(), ClaimError::Suspended);

    assert_eq!(shop.seat(&service, 1).state(), SeatState::Active);
    report_all(&claim_one(idle));
    let client = shop.hub.client(2).unwrap();
    assert_eq!(client.activate(&service).unwrap_err(), ActivateError::Suspended);
    drop(client.deregister().unwrap());
    assert_eq!(shop.client(2).activate(&service).unwrap_err(), ActivateError::Suspended);
    shop.tick();
    assert_adds_up(&shop.hub);

    let shop = shop.restart();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    assert_eq!(service.seat_stats(1).unwrap().state, SeatState::Active);
    assert_eq!(service.seat_stats(2).unwrap().state, SeatState::Suspended);
    assert_eq!(shop.client(2).activate(&service).unwrap_err(), ActivateError::Suspended);
    drop(service.reinstate(2).unwrap());
    assert_eq!(service.seat_stats(2).unwrap().state, SeatState::Inactive, "lifted: it must still activate");
    let seat = shop.seat(&service, 2);
    shop.settle();
    report_all(&claim_one(&seat));
    assert_eq!(service.suspend(3).unwrap_err(), AdminError::UnknownClient { id: 3 });
    assert_eq!(service.stats().active_seats, 2);
    shop.tick();
    assert_adds_up(&shop.hub);
}

/// R7: who was never active can be barred in advance; lifting a bar that is not there changes nothing, now or later.
#[test]
fn lifting_no_bar_changes_nothing() {
    let (shop, service) = shop_with(8, |_| {});
    let seat = shop.seat(&service, 1);
    shop.clients(2);
    drop(service.reinstate(1).unwrap());
    assert_eq!(seat.state(), SeatState::Active);
    drop(service.suspend(2).unwrap());
    assert_eq!(shop.client(2).activate(&service).unwrap_err(), ActivateError::Suspended);
    shop.tick();
    let shop = shop.restart();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    assert_eq!(service.seat_stats(1).unwrap().state, SeatState::Active, "as it was");
    assert_eq!(service.seat_stats(2).unwrap().state, SeatState::Suspended);
}

/// R61 and R14: after a deregistration a seat must be activated again, also if the hub was restarted meanwhile.
#[test]
fn registering_again_activates_nothing_even_over_a_restart() {
    let (shop, service) = shop_with(8, |_| {});
    let seat = shop.seat(&service, 1);
    drop(shop.hub.deregister_client(1, &name_of(1)).unwrap());
    shop.client(1);
    assert_eq!(seat.state(), SeatState::Inactive);
    shop.tick();
    let journal_only = Shop::on(shop.disk.without_store(), shop.clock.clone(), Limits::default());
    for shop in [journal_only, shop.restart()] {
        let service = shop.hub.register(Plain::new("plain")).unwrap();
        assert_eq!(service.seat_stats(1).unwrap().state, SeatState::Inactive);
        assert_eq!(service.stats().active_seats, 0);
    }
}

/// R9 and R91: two sessions of one identity claim at the same time: distinct buckets, one quota. Real threads.
#[test]
fn sessions_share_one_quota() {
    let (shop, service) = shop_with(2_800, |policy| policy.leases_in_flight = 7);
    let first = shop.seat(&service, 1);
    let second = shop.client(1).activate(&service).unwrap();
    for _ in 0..100 {
        let barrier = Barrier::new(2);
        let take = |seat: &Seat<Plain>| {
            barrier.wait();
            (0..5).filter_map(|_| seat.claim(Ask::one()).unwrap().leased()).flatten().collect::<Vec<_>>()
        };
        let (ours, theirs) = thread::scope(|scope| {
            let theirs = scope.spawn(|| take(&second));
            (take(&first), theirs.join().unwrap())
        });
        assert_eq!(ours.len() + theirs.len(), 7);
        let users: BTreeSet<u64> =
            ours.iter().chain(&theirs).flat_map(|lease| lease.subjects().collect::<Vec<_>>()).collect();
        assert_eq!(users.len(), 28);
        assert_eq!(first.leases().unwrap().len(), 7);
        ours.iter().chain(&theirs).for_each(report_all);
        shop.tick();
        assert_adds_up(&shop.hub);
    }
}

/// R93 and R83: a release, or a deregistration, races with a submit of the same bucket: each subject is reported or put
/// back, never both; and what was put back is offered again exactly once. Real threads.
#[test]
fn submit_racing_the_leases_end_is_before_or_after() {
    let (shop, service) = shop_with(1_200, |_| {});
    let mut done = 0;
    for round in 0..300 {
        let seat = shop.seat(&service, 1);
        let session = seat.clone();
        let lease = claim_one(&seat);
        let (token, payload) = (lease.into_token(), {
            let view = seat.leases().unwrap().remove(0);
            view.subjects.into_iter().map(|user| (user, "ok".to_owned())).collect::<Vec<_>>()
        });
        let barrier = Barrier::new(2);
        let (submitted, released) = thread::scope(|scope| {
            let submitting = scope.spawn(|| {
                barrier.wait();
                session.submit(&token, payload)
            });
            barrier.wait();
            let released = if round % 2 == 0 {
                seat.release(&token).unwrap_or(0)
            } else {
                drop(shop.hub.client(1).unwrap().deregister().unwrap());
                0
            };
            (submitting.join().unwrap(), released)
        });
        let (accepted, put_back) = match submitted {
            Ok(submitted) => {
                let accepted = submitted.accepted();
                let stale = submitted.outcomes.iter().filter(|outcome| **outcome == Outcome::Stale).count();
                assert_eq!(accepted + stale, 4);
                (accepted, submitted.put_back)
            }
            Err(error) => {
                assert_eq!((error, round % 2), (LeaseError::NotRegistered, 1));
                (0, 0)
            }
        };
        assert!(accepted == 0 || accepted == 4, "one swap takes all");
        if round % 2 == 0 {
            // A submit gives back what is left: it may finish the release that barred its reports.
            assert_eq!(accepted + (released + put_back) as usize, 4);
        }
        done += accepted as u64;
        shop.tick();
        assert_adds_up(&shop.hub);
        let work = service.seat_stats(1).unwrap().work;
        assert_eq!((work.subjects_reported, work.subjects_put_back), (done, 4 * (round + 1) - done));
        shop.clock.advance(MINUTE);
    }
    assert_eq!(shop.drive_to_quiet(&shop.seat(&service, 2)) as u64, 1_200 - done);
}

// The fourth service begins here.
#[derive(Clone, Serialize, Deserialize)]
struct Order {
    number: u64,
    dish: String,
}
impl Subject for Order {
    type Key = u64;

    fn key(&self) -> u64 {
        self.number
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Delivery {
    Handed { to: String },
    Refused,
}

struct Kitchen;
impl Service for Kitchen {
    type Subject = Order;
    type Report = Delivery;

    fn id(&self) -> &'static str {
        "kitchen"
    }

    fn policy(&self) -> Policy {
        Policy::default()
    }

    fn judge(&self, _order: &Order, delivery: &Delivery, _reporter: Reporter) -> Verdict {
        match delivery {
            Delivery::Handed { to } if to.is_empty() => Verdict::Reject("to whom?".into()),
            _ => Verdict::Accept,
        }
    }
}
// The fourth service ends here.

/// R11: a new kind of service is one small type: a fourth beside the three shipped ones takes less than 40 lines, and does
/// its work beside them.
#[test]
fn fourth_service_takes_less_than_forty_lines() {
    let source = include_str!("lifecycle.rs");
    let (_, rest) = source.split_once("// The fourth service begins here.\n").unwrap();
    let (service, _) = rest.split_once("// The fourth service ends here.\n").unwrap();
    assert!(service.lines().count() < 40, "{} lines", service.lines().count());

    let shop = Shop::open();
    shop.hub.register(DmCheck::default()).unwrap();
    shop.hub.register(FollowerCheck::default()).unwrap();
    shop.hub.register(FollowingCheck::default()).unwrap();
    let kitchen = shop.hub.register(Kitchen).unwrap();
    let order = |number| Order { number, dish: format!("dish {number}") };
    kitchen.add_all((1..=4).map(order)).unwrap();
    shop.tick();
    let seat = shop.seat(&kitchen, 1);
    let lease = claim_one(&seat);
    assert!(lease.subjects().all(|order| order.dish == format!("dish {}", order.number)));
    let reports = lease.subjects().map(|order| match order.number {
        1 => (1, Delivery::Handed { to: String::new() }),
        2 => (2, Delivery::Refused),
        number => (number, Delivery::Handed { to: "table 9".into() }),
    });
    let submitted = lease.submit(reports.collect::<Vec<_>>()).unwrap();
    assert_eq!((submitted.accepted(), submitted.kept), (3, true));
    shop.tick();
    assert_eq!(kitchen.result(&2).unwrap().unwrap().report, Delivery::Refused);
    assert_eq!(kitchen.result(&3).unwrap().unwrap().report, Delivery::Handed { to: "table 9".into() });
    assert!(kitchen.result(&1).unwrap().is_none());
    assert_eq!(shop.hub.stats().services.len(), 4);
    assert_adds_up(&shop.hub);
}

/// R11: a plugin that panics again and again degrades itself alone: it hands out nothing, finished work is taken, others go
/// on as if nothing had happened, and an administrator can make it ready again.
#[test]
fn panicking_plugin_degrades_only_itself() {
    let shop = Shop::open();
    let sick = shop.hub.register(Plain::new("sick")).unwrap();
    let sound = shop.hub.register(Plain::new("sound")).unwrap();
    shop.stock(&sick, 12);
    shop.stock(&sound, 8);
    let (seat, beside) = (shop.seat(&sick, 1), shop.seat(&sound, 1));
    let (first, second) = (claim_one(&seat), claim_one(&seat));
    let users: Vec<u64> = first.subjects().collect();
    for (place, state) in [ServiceState::Active, ServiceState::Active, ServiceState::Degraded].into_iter().enumerate() {
        let answer = first.report([(users[place], "panic".to_owned())]).unwrap();
        assert_eq!((answer.outcomes, answer.kept), (vec![Outcome::PluginPanicked], true));
        assert_eq!(sick.state(), state);
    }
    assert_eq!(seat.claim(Ask::one()).unwrap_err(), not_ready(ServiceState::Degraded));
    assert_eq!(shop.client(2).activate(&sick).unwrap_err(), ActivateError::NotReady { state: ServiceState::Degraded });
    report_all(&second);
    report_all(&first);
    assert_eq!(shop.drive_to_quiet(&beside), 8);
    assert_eq!((sound.state(), sound.stats().panics), (ServiceState::Active, 0));
    let stats = sick.stats();
    assert_eq!((stats.panics, stats.faults.plugin_panics, stats.subjects_done), (3, 3, 8));
    drop(sick.activate().unwrap());
    assert_eq!((sick.state(), sick.stats().panics), (ServiceState::Active, 0));
    assert_eq!(shop.drive_to_quiet(&seat), 4);
    assert_adds_up(&shop.hub);
}

/// R12: settings changed while running hold for the pools formed from then on; buckets and leases already formed keep
/// theirs.
#[test]
fn policy_takes_effect_with_the_next_pool_only() {
    let (shop, service) = shop_with(0, |_| {});
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 180);
    let early = claim_one(&seat);
    let mut policy = service.policy();
    policy.bucket_subjects = 2;
    policy.buckets_per_claim = 3;
    policy.lease = MINUTE;
    policy.grace = Duration::ZERO;
    service.set_policy(policy.clone()).unwrap();
    assert_eq!(service.policy(), policy);
    shop.settle();
    assert_eq!(early.renew().unwrap(), Policy::default().lease, "a lease keeps its terms");
    // Two pools of 80 were formed before.
    let mut seen = Vec::new();
    while let Claim::Leased(grant) = seat.claim(Ask::buckets(10)).unwrap() {
        for lease in grant {
            let left = seat.leases().unwrap().into_iter().find(|view| view.token == lease.token()).unwrap();
            seen.push((lease.len(), left.time_left));
            report_all(&lease);
        }
        shop.settle();
    }
    let (old, new): (Vec<_>, Vec<_>) = seen.iter().partition(|(len, _)| *len == 4);
    assert_eq!((old.len(), new.len()), (39, 10));
    assert!(old.iter().all(|(_, left)| *left == 120 * MINUTE));
    assert!(new.iter().all(|(len, left)| (*len, *left) == (2, MINUTE)));
    report_all(&early);
    shop.tick();
    let over = seat.claim(Ask::buckets(10)).unwrap();
    assert!(over.leased().is_none());
    assert!(service.seat_stats(1).unwrap().faults.over_ask > 0, "the new cap is in force");
    assert_eq!(service.stats().subjects_done, 180);
    assert_adds_up(&shop.hub);
}

/// R12: settings out of their range are refused, naming the field; the settings in force stay.
#[test]
fn settings_out_of_range_are_refused() {
    type Spoil = fn(&mut Policy);
    let (shop, service) = shop_with(0, |_| {});
    let cases: [(&str, Spoil); 14] = [
        ("bucket_subjects", |policy| policy.bucket_subjects = 0),
        ("bucket_subjects", |policy| policy.bucket_subjects = Limits::BUCKET_SUBJECTS + 1),
        ("buckets_per_claim", |policy| policy.buckets_per_claim = 0),
        ("leases_in_flight", |policy| policy.leases_in_flight = 1_000_001),
        ("lease", |policy| policy.lease = Duration::ZERO),
        ("lease_total", |policy| policy.lease_total = 0),
        ("lease_total", |policy| policy.lease_total = 1_000_001),
        ("expiry_spread", |policy| policy.expiry_spread = 1_001),
        ("grace", |policy| policy.grace = Duration::MAX),
        ("idle", |policy| policy.idle = Duration::ZERO),
        ("ordinary_share", |policy| policy.ordinary_share = 1),
        ("cooldown", |policy| policy.cooldown = Duration::from_secs(31 * 24 * 3_600)),
        ("company", |policy| policy.company = 1_025),
        ("panics_tolerated", |policy| policy.panics_tolerated = 0),
    ];
    for (field, spoil) in cases {
        let mut policy = service.policy();
        spoil(&mut policy);
        let refused = service.set_policy(policy).unwrap_err();
        assert!(matches!(refused, AdminError::Policy { field: named, .. } if named == field), "{refused}");
        let refused = shop.hub.register(Plain::with("other", spoil)).unwrap_err();
        assert!(matches!(&refused, RegisterServiceError::Policy { field: named, .. } if *named == field), "{refused}");
    }
    assert_eq!(service.policy(), exact());
    assert_eq!(shop.hub.stats().services.len(), 1);
}

/// R37: with a full queue, changes of a service are refused and not made, not even for a moment.
#[test]
fn full_queue_refuses_changes_of_a_service_cleanly() {
    let limits = unranked();
    let shop = Shop::open_with(limits);
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    shop.stock(&service, 8);
    let seat = shop.seat(&service, 1);
    let lease = claim_one(&seat);
    shop.tick();
    let mut user = 100;
    while service.add(&user).is_ok() {
        user += 1;
    }
    let is_busy = |refused: AdminError| matches!(refused, AdminError::Hub(HubError::Busy { .. }));
    assert!(is_busy(service.pause().unwrap_err()));
    assert!(is_busy(service.revoke(Revoke::Drain).unwrap_err()));
    assert!(is_busy(service.revoke(Revoke::Immediate).unwrap_err()));
    assert!(is_busy(service.suspend(1).unwrap_err()));
    let mut policy = service.policy();
    policy.max_subjects = 5;
    assert!(is_busy(service.set_policy(policy).unwrap_err()));
    let refused = shop.hub.register(Plain::new("other")).unwrap_err();
    assert!(matches!(refused, RegisterServiceError::Hub(HubError::Busy { .. })), "{refused}");
    assert_eq!((service.state(), seat.state()), (ServiceState::Active, SeatState::Active));
    assert_eq!(service.policy(), exact());
    assert_eq!(shop.hub.service_state("other"), None);
    assert_eq!(seat.leases().unwrap().len(), 1);
    shop.tick();
    report_all(&lease);
    shop.hub.register(Plain::new("other")).unwrap();
    shop.tick();
    assert_adds_up(&shop.hub);
}

/// R13: a seat unused for the idle time becomes inactive at the next round, not a millisecond earlier; the client stays
/// registered.
#[test]
fn idle_seat_is_deactivated_at_its_time() {
    for (used, expected) in [
        (MINUTE.saturating_sub(MILLISECOND), SeatState::Active),
        (MINUTE, SeatState::Inactive),
        (MINUTE + MILLISECOND, SeatState::Inactive),
    ] {
        let (shop, service) = shop_with(8, |policy| policy.idle = MINUTE);
        let seat = shop.seat(&service, 1);
        shop.pass(MINUTE / 2);
        drop(claim_one(&seat));
        assert_eq!(service.stats().active_seats, 1);
        shop.pass(used);
        assert_eq!(seat.state(), expected, "unused for {used:?}");
        assert_eq!(service.stats().active_seats, u32::from(expected == SeatState::Active));
        assert!(shop.hub.client(1).unwrap().is_registered());
        assert_eq!(service.seat_stats(1).unwrap().idle, used);
        assert_eq!(shop.restart().hub.register(Plain::new("plain")).unwrap().seat_stats(1).unwrap().state, expected);
    }
}

/// R13: every successful call counts as use: claims (also empty ones), reports, renewals and activations.
#[test]
fn use_keeps_a_seat_active() {
    let (shop, service) = shop_with(4, |policy| policy.idle = MINUTE);
    let seat = shop.seat(&service, 1);
    let mut lease = None;
    for step in 0..18 {
        shop.pass(MINUTE.saturating_sub(MILLISECOND));
        assert_eq!(seat.state(), SeatState::Active, "step {step}");
        match step % 6 {
            0 => lease = seat.claim(Ask::one()).unwrap().leased().and_then(|mut grant| grant.pop()),
            1 => drop(claim_nothing(&seat)),
            2 => drop(lease.as_ref().unwrap().renew().unwrap()),
            // One of several: the end of the lease is not what counts.
            3 => {
                let lease: &Lease<Plain> = lease.as_ref().unwrap();
                assert_eq!(lease.report(reports(lease, "ok").into_iter().take(1)).unwrap().accepted(), 1);
            }
            4 => drop(lease.take().unwrap().submit([]).unwrap()),
            _ => drop(shop.seat(&service, 1)),
        }
    }
    shop.pass(MINUTE);
    assert_eq!(seat.state(), SeatState::Inactive);
    assert_adds_up(&shop.hub);
}

/// R14 and R13: who returns must activate again; what it holds runs to its own deadline, work on it is taken, and that does
/// not activate.
#[test]
fn returning_client_must_activate_again() {
    let (shop, service) = shop_with(12, |policy| policy.idle = MINUTE);
    let seat = shop.seat(&service, 1);
    let (first, second) = (claim_one(&seat), claim_one(&seat));
    shop.pass(MINUTE);
    assert_eq!(seat.state(), SeatState::Inactive);
    assert_eq!(seat.leases().unwrap().len(), 2, "its leases go on");
    assert_eq!(seat.claim(Ask::one()).unwrap_err(), ClaimError::Inactive);
    report_all(&first);
    second.renew().unwrap();
    assert_eq!(seat.claim(Ask::one()).unwrap_err(), ClaimError::Inactive, "reporting does not activate");
    shop.client(1);
    assert_eq!(seat.state(), SeatState::Inactive, "nor does registering");
    let bytes = || {
        shop.tick();
        shop.disk.journal_bytes()
    };
    let before = bytes();
    shop.seat(&service, 1);
    let activated = bytes();
    assert!(activated > before);
    shop.seat(&service, 1);
    assert_eq!(bytes(), activated, "activating again changes nothing");
    report_all(&second);
    assert_eq!(shop.drive_to_quiet(&seat), 4);
    assert_eq!(service.seat_stats(1).unwrap().faults.claims_refused, 2);
    assert_adds_up(&shop.hub);
}

/// R14: an inactive client's lease dies and is released like any other.
#[test]
fn lease_of_an_idle_client_runs_to_its_own_deadline() {
    let (shop, service) = shop_with(4, |policy| policy.idle = MINUTE);
    let seats = shop.seats(&service, 2);
    let token = claim_one(&seats[0]).into_token();
    shop.pass(120 * MINUTE);
    assert!(seats[0].leases().unwrap()[0].dead);
    shop.pass(15 * MINUTE);
    assert_eq!(seats[0].renew(&token).unwrap_err(), LeaseError::Over);
    assert_eq!(shop.drive_to_quiet(&shop.seat(&service, 2)), 4);
    assert_eq!(service.seat_stats(1).unwrap().work.buckets_expired, 1);
    assert_adds_up(&shop.hub);
}

/// An administrator's pause or revocation stays when the owner registers the service again, and after a restart.
#[test]
fn administrators_word_outlasts_the_owners_registering() {
    for state in [ServiceState::Paused, ServiceState::Draining, ServiceState::Revoked, ServiceState::Active] {
        let (shop, service) = shop_with(8, |_| {});
        let change = |service: &ServiceHandle<Plain>| match state {
            ServiceState::Paused => service.pause(),
            ServiceState::Draining => service.revoke(Revoke::Drain),
            ServiceState::Revoked => service.revoke(Revoke::Immediate),
            _ => service.pause().and_then(|_| service.activate()),
        };
        drop(change(&service).unwrap());
        assert_eq!(shop.hub.register(Plain::new("plain")).unwrap().state(), state);
        shop.tick();
        for shop in [shop.after(Crash::Power), shop.restart()] {
            let service = shop.hub.register(Plain::new("plain")).unwrap();
            assert_eq!((service.state(), shop.hub.service_state("plain")), (state, Some(state)));
            drop(service.activate().unwrap());
            assert_eq!(shop.drive_to_quiet(&shop.seat(&service, 1)), 8);
            assert_adds_up(&shop.hub);
        }
    }
}

/// Registering a service with a wrong id, under another plugin's id, or beyond the limit is refused; what is registered
/// goes on.
#[test]
fn wrong_services_are_not_registered() {
    let limits = Limits { services: 2, ..Limits::default() };
    let shop = Shop::open_with(limits);
    let longest = "x".repeat(Limits::SERVICE_ID_CHARS);
    for id in ["", " ", "a b", "a/b", "caf\u{e9}", &format!("{longest}x")] {
        let refused = shop.hub.register(Plain::new(id)).unwrap_err();
        assert!(matches!(&refused, RegisterServiceError::Id { id: named } if named == id), "{refused}");
    }
    shop.hub.register(Plain::new(&longest)).unwrap();
    let kitchen = shop.hub.register(Plain::new("kitchen")).unwrap();
    let refused = shop.hub.register(Kitchen).unwrap_err();
    assert!(matches!(&refused, RegisterServiceError::OtherType { service } if service == "kitchen"), "{refused}");
    let refused = shop.hub.register(Plain::new("third")).unwrap_err();
    assert!(matches!(refused, RegisterServiceError::TooMany { limit: 2 }), "{refused}");
    assert_eq!(shop.hub.register(Plain::new("kitchen")).unwrap().id(), "kitchen");
    shop.stock(&kitchen, 4);
    assert_eq!(shop.drive_to_quiet(&shop.seat(&kitchen, 1)), 4);
    assert_adds_up(&shop.hub);
}

/// A sequence of numbers, the same for the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).unwrap()
    }
}

/// Bars a client or lifts the bar.
fn bar<S: commissary::Service>(service: &commissary::ServiceHandle<S>, client: u64, barred: bool) {
    let decided = if barred { service.suspend(client) } else { service.reinstate(client) };
    drop(decided.unwrap());
}

/// R1, G7 and G8: clients come and go, crash, return, report twice, late or not at all; the hub is restarted; time passes.
/// Against a sequential reference: no subject is done twice, the first report stays, and in the end all is done.
#[test]
fn random_churn_loses_nothing_and_does_nothing_twice() {
    const CLIENTS: usize = 12;
    for seed in 1..=3 {
        let mut dice = Dice(seed);
        let mut shop = Shop::open();
        let mut service = shop.hub.register(Plain::new("plain")).unwrap();
        let mut tokens: Vec<(usize, LeaseToken, Vec<u64>)> = Vec::new();
        let mut done: BTreeMap<u64, String> = BTreeMap::new();
        let mut added = 0_u64;
        for step in 0..4_000 {
            let id = 1 + dice.roll(CLIENTS);
            let seat = shop.client(id as u64).activate(&service);
            match dice.roll(20) {
                0 => {
                    let n = 1 + dice.roll(30) as u64;
                    service.add_all(added + 1..=added + n).unwrap();
                    added += n;
                }
                1 => drop(shop.hub.client(id as u64).unwrap().deregister()),
                2 => bar(&service, id as u64, dice.roll(3) == 0),
                3 => shop.pass(Duration::from_secs(dice.roll(20_000) as u64)),
                4 if dice.roll(20) == 0 => {
                    shop = shop.restart();
                    service = shop.hub.register(Plain::new("plain")).unwrap();
                }
                5 if dice.roll(4) == 0 => drop(service.pause().unwrap()),
                5 => drop(service.activate().unwrap()),
                6..=11 => {
                    let Ok(Claim::Leased(grant)) =
                        seat.map(|seat| seat.claim(Ask::buckets([1, 2, 3][dice.roll(3)])).unwrap())
                    else {
                        continue;
                    };
                    for lease in grant {
                        let users: Vec<u64> = lease.subjects().collect();
                        assert!(users.iter().all(|user| !done.contains_key(user)), "done work is not handed out");
                        // A third of them crash before they have noted the token.
                        match dice.roll(3) {
                            0 => drop(lease.into_token()),
                            _ => tokens.push((id, lease.into_token(), users)),
                        }
                    }
                }
                _ if tokens.is_empty() => {}
                kind => {
                    let at = dice.roll(tokens.len());
                    let (owner, token, users) = tokens[at].clone();
                    let Ok(seat) = shop.client(owner as u64).activate(&service) else { continue };
                    let some = users.iter().filter(|_| dice.roll(4) > 0).copied().collect::<Vec<_>>();
                    let payload: Vec<_> = some.iter().map(|user| (*user, format!("step {step}"))).collect();
                    let answer = match kind {
                        12 => {
                            drop(seat.release(&token));
                            continue;
                        }
                        13 => {
                            tokens.extend(seat.leases().unwrap().into_iter().map(|v| (owner, v.token, v.subjects)));
                            continue;
                        }
                        14 => seat.report(&token, payload.clone()),
                        _ => seat.submit(&token, payload.clone()),
                    };
                    let Ok(answer) = answer else {
                        tokens.swap_remove(at);
                        continue;
                    };
                    for ((user, report), outcome) in payload.into_iter().zip(answer.outcomes) {
                        match outcome {
                            Outcome::Accepted => assert_eq!(done.insert(user, report), None, "taken twice: {user}"),
                            Outcome::AlreadyDone | Outcome::Conflict => assert!(done.contains_key(&user)),
                            Outcome::Stale => {}
                            other => panic!("{other:?}"),
                        }
                    }
                    if dice.roll(3) == 0 {
                        tokens.swap_remove(at);
                    }
                }
            }
            if dice.roll(4) == 0 {
                shop.tick();
                assert_adds_up(&shop.hub);
            }
        }
        for id in 1..=CLIENTS as u64 {
            drop(shop.client(id));
            drop(service.reinstate(id).unwrap());
        }
        drop(service.activate().unwrap());
        // The last holders never return.
        shop.pass(136 * MINUTE);
        shop.pass(16 * MINUTE);
        let rest = shop.drive_to_quiet(&shop.seat(&service, 1));
        assert_eq!(done.len() + rest, usize::try_from(added).unwrap());
        let stats = service.stats();
        assert_eq!((stats.subjects_known, stats.subjects_pending(), stats.work.buckets_held), (added, 0, 0));
        assert_eq!((stats.work.subjects_reported, stats.unknown_tokens), (added, 0));
        for (user, report) in &done {
            let finding = service.result(user).unwrap().expect("done");
            assert_eq!((&finding.report, finding.version), (report, 1));
        }
        assert_adds_up(&shop.hub);
    }
}
