//! Fetching buckets: requirement rows R22, R24, R27, R28, R36, R42, R44 and R68 to R72.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use commissary::{
    Ask, Capability, Claim, ClaimError, Crash, Empty, EmptyReason, Grant, KeyOf, Lease, LeaseError, LeaseView, OverAsk,
    Policy, Seat, SeatState, ServiceHandle,
};

use common::{Plain, Shop, assert_adds_up, claim, claim_nothing, claim_one, report_all, reports};

const MINUTE: Duration = Duration::from_secs(60);

fn grant(seat: &Seat<Plain>, ask: Ask) -> Grant<Plain> {
    match seat.claim(ask).expect("the claim is not refused") {
        Claim::Leased(grant) => grant,
        Claim::Empty(empty) => panic!("nothing to claim: {empty:?}"),
    }
}

fn shop_with(n: u64, change: impl FnOnce(&mut Policy)) -> (Shop, ServiceHandle<Plain>) {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", change)).unwrap();
    if n > 0 {
        shop.stock(&service, n);
    }
    (shop, service)
}

fn users(lease: &Lease<Plain>) -> Vec<u64> {
    lease.subjects().collect()
}

/// R24 and R42: many clients fetch lists; each gets buckets with subjects and a token of its own, and no subject is given
/// to two of them.
#[test]
fn many_clients_fetch_disjoint_buckets() {
    let (shop, service) = shop_with(0, |_| {});
    let seats = shop.seats(&service, 10);
    shop.stock(&service, 120);
    let leases: Vec<_> = (0..3).flat_map(|_| seats.iter().map(claim_one)).collect();
    let given: Vec<u64> = leases.iter().flat_map(users).collect();
    assert_eq!(given.len(), 120);
    assert_eq!(given.iter().copied().collect::<BTreeSet<u64>>(), (1..=120).collect());
    assert!(leases.iter().all(|lease| lease.len() == 4 && !lease.is_empty()));
    let tokens: BTreeSet<String> = leases.iter().map(|lease| lease.token().to_string()).collect();
    assert_eq!(tokens.len(), 30);
    for seat in &seats {
        let views = seat.leases().unwrap();
        assert_eq!(views.len(), 3);
        assert!(views.iter().all(|view| view.time_left == Policy::default().lease && !view.dead));
    }
    let work = service.stats().work;
    assert_eq!((work.buckets_assigned, work.buckets_held), (30, 30));
    assert_eq!((work.subjects_assigned, work.subjects_held), (120, 120));
    assert_adds_up(&shop.hub);
}

/// R68: one bucket asked for is exactly one lease; the counters move by one.
#[test]
fn one_bucket_is_one_lease() {
    let (shop, service) = shop_with(40, |_| {});
    let seat = shop.seat(&service, 1);
    let grant = grant(&seat, Ask::one());
    assert_eq!((grant.len(), grant.asked, grant.limit, grant.clamped), (1, 1, 10, false));
    assert!(!grant.is_empty() && grant.leases()[0].len() == 4);
    let stats = service.seat_stats(1).unwrap();
    assert_eq!((stats.claims, stats.empty_claims), (1, 0));
    assert_eq!((stats.work.buckets_assigned, stats.work.buckets_held), (1, 1));
    assert_eq!((stats.work.subjects_assigned, stats.work.subjects_held), (4, 4));
    assert_eq!(stats.state, SeatState::Active);
    drop(grant);
    let work = service.seat_stats(1).unwrap().work;
    assert_eq!((work.buckets_put_back, work.subjects_put_back, work.buckets_held), (1, 4, 0));
    assert_adds_up(&shop.hub);
}

/// R69: several buckets are distinct leases; if fewer are there, fewer are given, and that is no error.
#[test]
fn several_buckets_or_as_many_as_there_are() {
    let (shop, service) = shop_with(28, |_| {});
    let seat = shop.seat(&service, 1);
    let five = claim(&seat, 5);
    let rest = grant(&seat, Ask::buckets(5));
    assert_eq!((rest.len(), rest.asked, rest.clamped), (2, 5, false));
    let all: BTreeSet<u64> = five.iter().chain(rest.leases()).flat_map(users).collect();
    assert_eq!(all, (1..=28).collect());
    assert_eq!(service.seat_stats(1).unwrap().faults.over_ask, 0);
    five.iter().chain(rest.leases()).for_each(report_all);
    assert_adds_up(&shop.hub);
}

/// R70: an ask beyond the cap is clamped, which the grant says, and counted.
#[test]
fn too_many_buckets_are_clamped() {
    let (shop, service) = shop_with(0, |_| {});
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 80);
    let ten = grant(&seat, Ask::buckets(10));
    assert_eq!((ten.len(), ten.limit, ten.clamped), (10, 10, false));
    drop(ten);
    shop.tick();
    for (count, huge) in [11, 1_000, u32::MAX].into_iter().enumerate() {
        let grant = grant(&seat, Ask::buckets(huge).subjects(usize::MAX).time(Duration::MAX));
        assert_eq!((grant.len(), grant.asked, grant.limit, grant.clamped), (10, huge, 10, true));
        assert_eq!(service.seat_stats(1).unwrap().faults.over_ask, count as u64 + 1);
        drop(grant);
        shop.tick();
    }
    assert_adds_up(&shop.hub);
}

/// R70: under the policy to reject, the same ask gets nothing but an error that names the limit; counted too.
#[test]
fn too_many_buckets_are_rejected_if_the_policy_says_so() {
    let (shop, service) = shop_with(80, |policy| {
        policy.over_ask = OverAsk::Reject;
        policy.buckets_per_claim = 3;
    });
    let seat = shop.seat(&service, 1);
    for asked in [4, u32::MAX] {
        assert_eq!(seat.claim(Ask::buckets(asked)).unwrap_err(), ClaimError::TooMany { asked, limit: 3 });
    }
    let stats = service.seat_stats(1).unwrap();
    assert_eq!((stats.faults.over_ask, stats.faults.claims_refused, stats.work.buckets_assigned), (2, 2, 0));
    assert_eq!(claim(&seat, 3).len(), 3);
    assert_adds_up(&shop.hub);
}

/// R70: an ask for nothing is refused as such, by whichever way it says nothing.
#[test]
fn ask_for_nothing_is_refused() {
    let (shop, service) = shop_with(8, |_| {});
    let seat = shop.seat(&service, 1);
    for ask in [Ask::buckets(0), Ask::one().subjects(0), Ask::buckets(0).subjects(9)] {
        assert_eq!(seat.claim(ask).unwrap_err(), ClaimError::Nothing);
    }
    // No time at all is still an ask: without a history nothing can be concluded from it.
    assert_eq!(grant(&seat, Ask::one().time(Duration::ZERO)).len(), 1);
    let stats = service.seat_stats(1).unwrap();
    assert_eq!((stats.faults.claims_refused, stats.work.buckets_assigned), (3, 1));
    assert_adds_up(&shop.hub);
}

/// R71 and G9: refusals of a claim come in this order: client, seat, service, ask; no bucket moves.
#[test]
fn claims_are_refused_in_the_order_of_identity() {
    let (shop, service) = shop_with(40, |policy| policy.over_ask = OverAsk::Reject);
    let seat = shop.seat(&service, 1);
    let client = shop.hub.client(1).unwrap();
    let too_many = Ask::buckets(11);
    assert_eq!(seat.claim(too_many).unwrap_err(), ClaimError::TooMany { asked: 11, limit: 10 });
    drop(service.revoke(commissary::Revoke::Drain).unwrap());
    let draining = commissary::ServiceState::Draining;
    assert_eq!(seat.claim(too_many).unwrap_err(), ClaimError::NotReady { state: draining });
    assert_eq!(seat.claim(Ask::buckets(0)).unwrap_err(), ClaimError::NotReady { state: draining });
    drop(service.suspend(1).unwrap());
    assert_eq!(seat.claim(too_many).unwrap_err(), ClaimError::Suspended);
    drop(service.reinstate(1).unwrap());
    assert_eq!(seat.claim(too_many).unwrap_err(), ClaimError::Inactive);
    drop(client.deregister().unwrap());
    assert_eq!(seat.claim(too_many).unwrap_err(), ClaimError::NotRegistered);
    shop.hub.close().unwrap();
    assert_eq!(seat.claim(too_many).unwrap_err(), ClaimError::Hub(commissary::HubError::Closed));
    let stats = service.seat_stats(1).unwrap();
    assert_eq!((stats.faults.claims_refused, stats.work.buckets_assigned), (7, 0));
    assert_adds_up(&shop.hub);
}

/// R27: what is granted is the least of the ask, the declaration, the policy's caps and the room for leases in flight; a
/// declaration lowers a grant, never raises it.
#[test]
fn grant_is_the_least_of_ask_declaration_and_caps() {
    struct Case {
        ask: Ask,
        declared: Capability,
        granted: usize,
        limit: u32,
        clamped: bool,
    }
    let declared = |buckets_per_claim, leases_in_flight| Capability { buckets_per_claim, leases_in_flight };
    let any = Capability::default();
    let case = |ask, declared, granted, limit, clamped| Case { ask, declared, granted, limit, clamped };
    let cases = [
        case(Ask::buckets(3), any, 3, 10, false),
        case(Ask::buckets(10), any, 10, 10, false),
        case(Ask::buckets(12), any, 10, 10, true),
        case(Ask::buckets(5), declared(2, u32::MAX), 2, 2, true),
        case(Ask::buckets(2), declared(2, u32::MAX), 2, 2, false),
        case(Ask::buckets(50), declared(100, 100), 10, 10, true),
        case(Ask::buckets(5), declared(0, 0), 1, 1, true),
        case(Ask::buckets(5), declared(5, 3), 3, 5, false),
        case(Ask::buckets(8).subjects(9), any, 2, 10, false),
        case(Ask::buckets(8).subjects(3), any, 1, 10, false),
        case(Ask::buckets(8).subjects(8), any, 2, 10, false),
        case(Ask::buckets(2).subjects(1_000), any, 2, 10, false),
        case(Ask::buckets(12).subjects(8), any, 2, 10, true),
    ];
    for (index, case) in cases.iter().enumerate() {
        let (shop, service) = shop_with(80, |_| {});
        let seat = shop.client(1).activate_with(&service, case.declared).unwrap();
        let grant = grant(&seat, case.ask);
        assert_eq!((grant.len(), grant.limit, grant.clamped), (case.granted, case.limit, case.clamped), "case {index}");
        drop(grant);
        shop.tick();
        assert_adds_up(&shop.hub);
    }
}

/// R27: leases in flight are bounded over all claims of a client, and room comes back with each finished lease.
#[test]
fn leases_in_flight_are_bounded() {
    let (shop, service) = shop_with(80, |policy| policy.leases_in_flight = 4);
    let seat = shop.seat(&service, 1);
    let mut held = claim(&seat, 3);
    let last = grant(&seat, Ask::buckets(3));
    assert_eq!((last.len(), last.clamped), (1, false));
    assert_eq!(claim_nothing(&seat).reason, EmptyReason::QuotaFull);
    report_all(&held.remove(0));
    drop(held.remove(0));
    assert_eq!(grant(&seat, Ask::buckets(3)).len(), 2);
    drop((held, last));
    shop.tick();
    assert_eq!(service.seat_stats(1).unwrap().empty_claims, 1);
    assert_adds_up(&shop.hub);
}

/// R27: a client that declares ten times its real speed is given its real share as soon as three of its buckets are
/// finished; the declaration does not help.
#[test]
fn boaster_converges_to_its_real_share() {
    let (shop, service) = shop_with(0, |_| {});
    let boast = Capability { buckets_per_claim: 10, leases_in_flight: 10 };
    let seat = shop.client(1).activate_with(&service, boast).unwrap();
    shop.stock(&service, 200);
    // It claims as if it did 40 subjects in ten minutes; it does four.
    let ask = Ask::buckets(10).time(10 * MINUTE);
    let mut grants = Vec::new();
    for _ in 0..6 {
        let leases: Vec<_> = grant(&seat, ask).into_iter().collect();
        grants.push(leases.len());
        for lease in leases {
            shop.pass(10 * MINUTE);
            lease.renew().unwrap();
            report_all(&lease);
        }
        shop.tick();
    }
    assert_eq!(grants, [10, 1, 1, 1, 1, 1]);
    assert_eq!(service.seat_stats(1).unwrap().faults.over_ask, 0);
    assert_adds_up(&shop.hub);
}

/// R27: the share follows the time asked for, and without a time the lease's.
#[test]
fn share_follows_the_time_budget() {
    let (shop, service) = shop_with(0, |policy| policy.lease = 20 * MINUTE);
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 200);
    // Three buckets of four, one minute a subject.
    for lease in claim(&seat, 3) {
        shop.pass(4 * MINUTE);
        report_all(&lease);
    }
    shop.tick();
    for (minutes, buckets) in [(1, 1), (4, 1), (8, 2), (12, 3), (39, 9), (4_000, 10)] {
        let grant = grant(&seat, Ask::buckets(10).time(minutes * MINUTE));
        assert_eq!(grant.len(), buckets, "{minutes} minutes");
        drop(grant);
        shop.tick();
    }
    assert_eq!(grant(&seat, Ask::buckets(10)).len(), 5, "twenty minutes of a lease");
    assert_adds_up(&shop.hub);
}

/// R27: after a restart the speed is learned anew: what was done before it, in a time that is not remembered, does not
/// count as speed.
#[test]
fn speed_is_learned_anew_after_a_restart() {
    let (shop, service) = shop_with(0, |_| {});
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 200);
    for lease in claim(&seat, 10) {
        shop.pass(10 * MINUTE);
        lease.renew().unwrap();
        report_all(&lease);
    }
    shop.tick();
    let shop = shop.restart();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seat = shop.seat(&service, 1);
    shop.settle();
    let mut grants = Vec::new();
    for _ in 0..3 {
        let leases: Vec<_> = grant(&seat, Ask::buckets(4).time(10 * MINUTE)).into_iter().collect();
        grants.push(leases.len());
        for lease in leases {
            shop.pass(10 * MINUTE);
            report_all(&lease);
        }
        shop.tick();
    }
    assert_eq!(grants, [4, 1, 1]);
    assert_adds_up(&shop.hub);
}

fn plain_views(views: &[LeaseView<Plain>]) -> Vec<(String, Vec<KeyOf<Plain>>, bool)> {
    views.iter().map(|view| (view.token.to_string(), view.subjects.clone(), view.dead)).collect()
}

/// R28 and R56: a client recollects what it holds, also what a lost answer granted: with the subjects still owed, the
/// tokens and the deadlines. Looking extends nothing.
#[test]
fn recollecting_shows_every_lease_and_extends_none() {
    let (shop, service) = shop_with(12, |_| {});
    let seat = shop.seat(&service, 1);
    let partly = claim_one(&seat);
    let first = users(&partly)[0];
    drop(partly.report([(first, "ok".to_owned())]).unwrap());
    let partly_token = partly.into_token();
    shop.pass(MINUTE);
    // The grant's answer never arrives.
    let lost = claim(&seat, 2).into_iter().map(Lease::into_token).collect::<Vec<_>>();
    for minutes in 0..119 {
        let views = seat.leases().unwrap();
        assert_eq!(views.len(), 3);
        for view in &views {
            let began = u32::from(view.token != partly_token);
            assert_eq!(view.time_left, (120 + began - 1 - minutes) * MINUTE, "looking extends nothing");
            assert_eq!(view.subjects.len(), if view.token == partly_token { 3 } else { 4 });
            assert!(!view.dead && !view.subjects.contains(&first));
        }
        shop.pass(MINUTE);
    }
    let views = seat.leases().unwrap();
    assert_eq!(views.iter().filter(|view| view.dead).count(), 1);
    let dead = views.iter().find(|view| view.dead).unwrap();
    assert_eq!((dead.token, dead.time_left), (partly_token, Duration::ZERO));
    for token in [partly_token, lost[0], lost[1]] {
        let lease = seat.resume(&token).unwrap();
        let owed = seat.leases().unwrap().into_iter().find(|view| view.token == token).unwrap().subjects;
        let submitted = lease.submit(owed.into_iter().map(|user| (user, "ok".to_owned()))).unwrap();
        assert_eq!((submitted.put_back, submitted.kept), (0, false));
    }
    shop.tick();
    assert!(seat.leases().unwrap().is_empty());
    assert_eq!(service.stats().subjects_done, 12);
    assert_adds_up(&shop.hub);
}

/// R28 and I7: after a restart, a crash of the process or of the machine, or the loss of the store, the client recollects
/// the same: same tokens, same subjects; the time down is not held against it; and nobody else got its buckets.
#[test]
fn recollecting_is_identical_after_a_restart() {
    let (shop, service) = shop_with(20, |_| {});
    let seat = shop.seat(&service, 1);
    let other = shop.seat(&service, 2);
    let partly = claim_one(&seat);
    let two: Vec<_> = users(&partly)[..2].iter().map(|user| (*user, "ok".to_owned())).collect();
    drop(partly.report(two).unwrap());
    let _lost = partly.into_token();
    let _lost: Vec<_> = claim(&seat, 2).into_iter().map(Lease::into_token).collect();
    let of_other = claim_one(&other).into_token();
    shop.pass(90 * MINUTE);
    let before = plain_views(&seat.leases().unwrap());
    assert_eq!(before.len(), 3);
    let held: BTreeSet<u64> = before.iter().flat_map(|(_, users, _)| users.clone()).collect();
    assert_eq!(held.len(), 10);

    let journal_only = Shop::on(shop.disk.without_store(), shop.clock.clone(), shop.hub.limits().clone());
    let copies = [journal_only, shop.after(Crash::Process), shop.after(Crash::Power), shop.restart()];
    for shop in copies {
        let service = shop.hub.register(Plain::new("plain")).unwrap();
        let seat = shop.seat(&service, 1);
        let views = seat.leases().unwrap();
        assert_eq!(plain_views(&views), before);
        let (term, spread) = (120 * MINUTE, 15 * MINUTE);
        assert!(views.iter().all(|view| (term..term + spread).contains(&view.time_left)));
        shop.settle();
        let newcomer = shop.seat(&service, 3);
        let mut others: BTreeSet<u64> = claim(&newcomer, 1).iter().flat_map(users).collect();
        others.extend(shop.seat(&service, 2).leases().unwrap().into_iter().flat_map(|view| view.subjects));
        assert!(held.is_disjoint(&others), "nobody else got what is held");
        assert_eq!(seat.resume(&of_other).unwrap_err(), LeaseError::NotOwner);
        for view in views {
            let lease = seat.resume(&view.token).unwrap();
            let submitted = lease.submit(view.subjects.iter().map(|user| (*user, "ok".to_owned()))).unwrap();
            assert_eq!((submitted.accepted(), submitted.put_back), (view.subjects.len(), 0));
        }
        shop.tick();
        let work = service.seat_stats(1).unwrap().work;
        assert_eq!((work.buckets_assigned, work.buckets_processed, work.buckets_held), (3, 3, 0));
        assert_eq!((work.subjects_assigned, work.subjects_reported), (12, 12));
        assert_adds_up(&shop.hub);
    }
}

/// R28: a crash before the grant was journaled undoes it: the client holds nothing, its token is over, and the bucket is
/// offered again.
#[test]
fn grant_lost_with_the_hub_is_offered_again() {
    let (shop, service) = shop_with(4, |_| {});
    let seat = shop.seat(&service, 1);
    shop.tick();
    let token = claim_one(&seat).into_token();
    let shop = shop.after(Crash::Process);
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seat = shop.seat(&service, 1);
    assert!(seat.leases().unwrap().is_empty());
    assert_eq!(seat.submit(&token, [(1, "ok".to_owned())]).unwrap_err(), LeaseError::Over);
    assert_eq!(shop.drive_to_quiet(&seat), 4);
    assert_eq!(service.seat_stats(1).unwrap().work.buckets_assigned, 1);
    assert_adds_up(&shop.hub);
}

fn retry_within(empty: Empty, base: Duration) {
    let range = base..base.mul_f64(1.5);
    assert!(range.contains(&empty.retry_after), "{empty:?} not in {range:?}");
}

/// R72: nothing was ever added, or everything is done.
#[test]
fn nothing_pending_is_said_so() {
    let (shop, service) = shop_with(0, |_| {});
    let seat = shop.seat(&service, 1);
    shop.tick();
    let empty = claim_nothing(&seat);
    assert_eq!(empty.reason, EmptyReason::NothingPending);
    retry_within(empty, Duration::from_secs(1));
    shop.stock(&service, 4);
    report_all(&claim_one(&seat));
    shop.tick();
    assert_eq!(claim_nothing(&seat).reason, EmptyReason::NothingPending);
    let stats = service.seat_stats(1).unwrap();
    assert_eq!((stats.claims, stats.empty_claims, stats.faults.claims_refused), (3, 2, 0));
    assert_adds_up(&shop.hub);
}

/// R72: all is leased; the answer says when the first lease's subjects may be offered again, and renewing moves that.
#[test]
fn all_leased_says_when_the_first_is_free() {
    let (shop, service) = shop_with(8, |policy| {
        policy.lease = 10 * MINUTE;
        policy.grace = 5 * MINUTE;
    });
    let seats = shop.seats(&service, 3);
    let first = claim_one(&seats[0]);
    shop.pass(2 * MINUTE);
    let _second = claim_one(&seats[1]);
    shop.tick();
    let empty = claim_nothing(&seats[2]);
    assert_eq!(empty.reason, EmptyReason::AllLeased { earliest_free: 13 * MINUTE });
    retry_within(empty, MINUTE);
    first.renew().unwrap();
    shop.pass(MINUTE);
    assert_eq!(claim_nothing(&seats[2]).reason, EmptyReason::AllLeased { earliest_free: 14 * MINUTE });
    // Dead, then free: the third client gets what the first two did not do.
    shop.pass(9 * MINUTE);
    assert_eq!(claim_nothing(&seats[2]).reason, EmptyReason::AllLeased { earliest_free: 5 * MINUTE });
    shop.pass(5 * MINUTE);
    assert_eq!(claim(&seats[2], 2).len(), 2);
    assert_adds_up(&shop.hub);
}

/// R72: a short tail waits for companions: not yet formed, for a short time.
#[test]
fn not_yet_formed_is_said_so() {
    let (shop, service) = shop_with(0, |_| {});
    let seat = shop.seat(&service, 1);
    drop(service.add(&1).unwrap());
    shop.tick();
    let empty = claim_nothing(&seat);
    assert_eq!(empty.reason, EmptyReason::NotYetFormed);
    retry_within(empty, Duration::from_millis(20));
    shop.pass(Duration::from_millis(100));
    assert_eq!(users(&claim_one(&seat)), [1]);
    assert_adds_up(&shop.hub);
}

/// R72: the client's own leases fill its quota; others still get work.
#[test]
fn full_quota_is_said_so() {
    let (shop, service) = shop_with(8, |policy| policy.leases_in_flight = 1);
    let seats = shop.seats(&service, 2);
    let lease = claim_one(&seats[0]);
    let empty = claim_nothing(&seats[0]);
    assert_eq!(empty.reason, EmptyReason::QuotaFull);
    retry_within(empty, Duration::from_secs(1));
    let other = claim_one(&seats[1]);
    report_all(&lease);
    report_all(&other);
    assert_adds_up(&shop.hub);
}

/// R72: a paused service hands out what is formed, then says that it is paused as long as subjects wait.
#[test]
fn paused_is_said_so() {
    let (shop, service) = shop_with(8, |_| {});
    let seat = shop.seat(&service, 1);
    drop(service.pause().unwrap());
    service.add_all(100..=107).unwrap();
    shop.settle();
    let formed = claim(&seat, 2);
    assert!(formed.iter().flat_map(users).all(|user| user <= 8), "only what was formed before");
    let empty = claim_nothing(&seat);
    assert_eq!(empty.reason, EmptyReason::Paused);
    retry_within(empty, Duration::from_secs(1));
    formed.iter().for_each(report_all);
    drop(service.activate().unwrap());
    assert_eq!(shop.drive_to_quiet(&seat), 8);
    assert_adds_up(&shop.hub);
}

/// R72: clients turned away together are not told to come back together.
#[test]
fn retry_times_are_spread() {
    let (shop, service) = shop_with(0, |_| {});
    let seats = shop.seats(&service, 64);
    shop.tick();
    let times: BTreeSet<Duration> = seats.iter().map(|seat| claim_nothing(seat).retry_after).collect();
    assert!(times.len() > 48, "{} different times of 64", times.len());
    assert!(times.iter().all(|time| (Duration::from_secs(1)..Duration::from_millis(1_500)).contains(time)));
}

/// R36: an empty answer comes at once, however often it is asked for, and asking for work never makes any: without the
/// caretakers' work the answer stays the same.
#[test]
fn empty_answers_neither_wait_nor_form_buckets() {
    let (shop, service) = shop_with(0, |_| {});
    let seat = shop.seat(&service, 1);
    shop.tick();
    drop(service.add(&1).unwrap());
    for _ in 0..1_000 {
        assert!(matches!(claim_nothing(&seat).reason, EmptyReason::NothingPending | EmptyReason::NotYetFormed));
    }
    assert!(!seat.wait_ready(Duration::MAX), "a manual hub does not wait");
    assert_eq!(service.stats().pools_formed, 0);
    assert_eq!(service.seat_stats(1).unwrap().empty_claims, 1_000);
    shop.settle();
    assert!(seat.wait_ready(Duration::ZERO));
    assert_eq!(claim_one(&seat).len(), 1);
    assert_adds_up(&shop.hub);
}

/// R22: buckets are made ahead of the claims: what one round of the caretakers formed serves many claims without another,
/// and the next pool stands ready before the first is eaten.
#[test]
fn buckets_are_made_ahead_of_claims() {
    let (shop, service) = shop_with(400, |_| {});
    let seats = shop.seats(&service, 2);
    assert_eq!(service.stats().pools_formed, 2, "one being served, one ready");
    let mut leases = Vec::new();
    // Nobody ticks: claims go from the one into the other on their own.
    while let Claim::Leased(grant) = seats[leases.len() % 2].claim(Ask::buckets(1)).unwrap() {
        leases.extend(grant);
    }
    assert_eq!(leases.len(), 40, "two pools for one seat of 10 x 2 buckets each");
    let given: BTreeSet<u64> = leases.iter().flat_map(users).collect();
    assert_eq!(given, (1..=160).collect(), "the oldest first");
    assert_eq!(service.stats().pools_formed, 2);
    leases.iter().for_each(report_all);
    assert_eq!(shop.drive_to_quiet(&seats[0]), 240);
    assert_adds_up(&shop.hub);
}

/// R42: a subject is in no two live leases, whatever is dropped, released and claimed again.
#[test]
fn no_subject_is_in_two_live_leases() {
    let (shop, service) = shop_with(60, |_| {});
    let seats = shop.seats(&service, 3);
    let mut held: Vec<Lease<Plain>> = Vec::new();
    for round in 0..300_usize {
        let seat = &seats[round % 3];
        match seat.claim(Ask::buckets([1, 2, 3, 4][round % 4])).unwrap() {
            Claim::Leased(grant) => held.extend(grant),
            Claim::Empty(_) => held.truncate(held.len() / 2),
        }
        if round % 5 == 0 && !held.is_empty() {
            let lease = held.swap_remove(round % held.len());
            let one = users(&lease)[0];
            drop(lease.submit([(one, "ok".to_owned())]).unwrap());
        }
        let owed: Vec<u64> =
            seats.iter().flat_map(|seat| seat.leases().unwrap()).flat_map(|view| view.subjects).collect();
        assert_eq!(owed.iter().collect::<BTreeSet<_>>().len(), owed.len(), "round {round}");
        shop.tick();
        assert_adds_up(&shop.hub);
    }
    held.clear();
    shop.tick();
    let done = service.stats().subjects_done;
    assert!(done > 0);
    assert_eq!(shop.drive_to_quiet(&seats[0]) as u64, 60 - done);
}

/// R44: full buckets are published at once; a tail too short for one waits for companions until the linger has passed,
/// and joins those who come in time.
#[test]
fn small_tails_wait_for_companions_and_no_longer() {
    let (shop, service) = shop_with(0, |_| {});
    let seat = shop.seat(&service, 1);
    service.add_all(1..=6).unwrap();
    shop.tick();
    assert_eq!(users(&claim_one(&seat)).len(), 4, "a full bucket does not wait");
    assert_eq!(claim_nothing(&seat).reason, EmptyReason::NotYetFormed);
    shop.tick();
    shop.pass(Duration::from_millis(99));
    assert_eq!(users(&claim_one(&seat)).len(), 4, "what the first lease gave back");
    assert_eq!(claim_nothing(&seat).reason, EmptyReason::NotYetFormed, "one millisecond to go");
    shop.pass(Duration::from_millis(1));
    let sizes: BTreeSet<usize> = claim(&seat, 2).iter().map(Lease::len).collect();
    assert_eq!(sizes, BTreeSet::from([2, 4]));
    shop.tick();

    let (shop, service) = shop_with(0, |_| {});
    let seat = shop.seat(&service, 1);
    service.add_all(1..=2).unwrap();
    shop.pass(Duration::from_millis(50));
    service.add_all(3..=4).unwrap();
    shop.tick();
    let lease = claim_one(&seat);
    assert_eq!(users(&lease).iter().copied().collect::<BTreeSet<u64>>(), (1..=4).collect());
    report_all(&lease);
    assert_adds_up(&shop.hub);
}

/// R44: with no linger a single subject is a bucket at once.
#[test]
fn without_linger_a_single_subject_is_served_at_once() {
    let (shop, service) = shop_with(0, |policy| policy.linger = Duration::ZERO);
    let seat = shop.seat(&service, 1);
    drop(service.add(&1).unwrap());
    shop.tick();
    let lease = claim_one(&seat);
    assert_eq!(reports(&lease, "ok").len(), 1);
    report_all(&lease);
    assert_adds_up(&shop.hub);
}
