//! Storms: everybody at once. Each safeguard with 100,000 leases or callers in virtual time, on and off: with it the
//! promise holds, without it the failure is there and is measured.

mod common;

use std::time::Duration;

use commissary::{
    AddError, Ask, ClaimError, EmptyReason, HubError, HubStats, LeaseError, LeaseToken, Limits, Policy,
    RegisterClientError, Registration, Seat, ServiceHandle,
};
use common::{Plain, Shop, assert_adds_up, claim, claim_nothing, claim_one, name_of, report_all, reports};

/// Leases in a storm, and the clients who hold them.
const LEASES: usize = 100_000;
const CLIENTS: u64 = 5_000;
const EACH: u32 = 20;
const LEASE: Duration = Duration::from_secs(600);
const GRACE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A shop in which 100,000 leases were claimed at one moment.
struct Crowd {
    shop: Shop,
    service: ServiceHandle<Plain>,
    seats: Vec<Seat<Plain>>,
    /// With the place of its seat.
    tokens: Vec<(usize, LeaseToken)>,
}

impl Crowd {
    fn gather(limits: Limits, change: impl FnOnce(&mut Policy)) -> Self {
        let shop = Shop::open_with(limits);
        let plain = Plain::with("storm", |policy| {
            policy.bucket_subjects = 1;
            policy.buckets_per_claim = EACH;
            policy.pool_subjects = LEASES;
            policy.lease = LEASE;
            policy.grace = GRACE;
            change(policy);
        });
        let service = shop.hub.register(plain).unwrap();
        let seats = shop.seats(&service, CLIENTS);
        shop.stock(&service, LEASES as u64);
        let mut tokens = Vec::with_capacity(LEASES);
        for (at, seat) in seats.iter().enumerate() {
            tokens.extend(claim(seat, EACH).into_iter().map(|lease| (at, lease.into_token())));
        }
        assert_eq!(tokens.len(), LEASES);
        Self { shop, service, seats, tokens }
    }

    /// Everybody renews, at this moment.
    fn renew(&self) -> Vec<Result<Duration, LeaseError>> {
        self.tokens.iter().map(|(seat, token)| self.seats[*seat].renew(token)).collect()
    }

    fn dead(&self) -> usize {
        self.renew().iter().filter(|answer| **answer == Err(LeaseError::Dead)).count()
    }
}

/// The largest number of `times` in any one second.
fn most_in_a_second(times: &[Duration]) -> usize {
    let mut seconds: Vec<u64> = times.iter().map(Duration::as_secs).collect();
    seconds.sort_unstable();
    seconds.chunk_by(|a, b| a == b).map(<[u64]>::len).max().unwrap_or(0)
}

/// R53: whoever keeps renewing holds its bucket for `lease_total` terms and no longer; the last renewals say so.
#[test]
fn heartbeats_hold_no_bucket_for_longer_than_the_cap() {
    let crowd = Crowd::gather(Limits::default(), |policy| policy.lease_total = 2);
    crowd.shop.pass(LEASE / 2);
    assert!(crowd.renew().into_iter().all(|left| left == Ok(LEASE)), "a full term fits");
    crowd.shop.clock.advance(LEASE * 3 / 4);
    assert!(crowd.renew().into_iter().all(|left| left == Ok(LEASE * 3 / 4)), "what is left of two terms");
    crowd.shop.clock.advance(MILLISECOND);
    let time_left = (LEASE * 3 / 4).saturating_sub(MILLISECOND);
    let capped = LeaseError::Capped { limit: LEASE * 2, time_left };
    assert!(crowd.renew().into_iter().all(|answer| answer == Err(capped.clone())));
    assert_eq!(crowd.service.stats().faults.renewals_capped, LEASES as u64);
    let (seat, token) = &crowd.tokens[0];
    let kept = crowd.seats[*seat].report(token, []).unwrap().kept;
    assert!(kept, "a capped lease lives until its deadline");
    crowd.shop.pass(time_left);
    assert_eq!(crowd.dead(), LEASES, "the cap is from the claim, to the millisecond");
}

/// R53, without a cap: heartbeats hold every bucket for as long as they beat.
#[test]
fn without_a_cap_heartbeats_hold_every_bucket() {
    let crowd = Crowd::gather(Limits::default(), |policy| policy.lease_total = 1_000_000);
    for _ in 0..10 {
        crowd.shop.clock.advance(LEASE * 3 / 4);
        assert!(crowd.renew().into_iter().all(|left| left == Ok(LEASE)));
    }
    crowd.shop.tick();
    assert_eq!(crowd.dead(), 0);
    assert_eq!(crowd.service.stats().work.buckets_held, LEASES as u64, "after 7 terms and a half");
}

/// Leases claimed, or renewed, at one moment end spread over an eighth of their term, and none early.
#[test]
fn leases_claimed_at_one_moment_do_not_end_at_one_moment() {
    let crowd = Crowd::gather(Limits::default(), |policy| policy.expiry_spread = 125);
    for wait in [0, 1, 300] {
        crowd.shop.clock.advance(SECOND * wait);
        let left: Vec<Duration> = crowd.renew().into_iter().map(Result::unwrap).collect();
        let (least, most) = (left.iter().min().unwrap(), left.iter().max().unwrap());
        assert!((LEASE..LEASE + SECOND).contains(least), "{least:?} is less than a term, or far from it");
        let longest = LEASE * 9 / 8;
        assert!((longest.saturating_sub(SECOND)..longest).contains(most), "{most:?} of {longest:?}");
        // 75 seconds: 1,333 a second, were it perfectly even.
        let peak = most_in_a_second(&left);
        assert!(peak < 1_600, "{peak} of {LEASES} leases end in one second");
    }
    crowd.shop.pass(LEASE * 17 / 16);
    let dead = crowd.dead();
    assert!((LEASES * 48 / 100..LEASES * 52 / 100).contains(&dead), "{dead} are dead half-way through the spread");
}

/// Without the spread they all die in one tick.
#[test]
fn without_a_spread_all_leases_end_at_one_moment() {
    let crowd = Crowd::gather(Limits::default(), |policy| policy.expiry_spread = 0);
    let left: Vec<Duration> = crowd.renew().into_iter().map(Result::unwrap).collect();
    assert_eq!(most_in_a_second(&left), LEASES);
    crowd.shop.pass(LEASE);
    assert_eq!(crowd.dead(), LEASES);
}

/// The dead of one moment are released so many in half a second, whoever ticks how often; the rest keep their grace.
#[test]
fn mass_death_is_released_in_portions() {
    let crowd = Crowd::gather(Limits { releases_per_round: 1_000, ..Limits::default() }, |_| {});
    crowd.shop.pass(LEASE);
    let expired = || crowd.service.stats().work.buckets_expired;
    crowd.shop.pass(GRACE.saturating_sub(MILLISECOND));
    assert_eq!((crowd.dead(), expired()), (LEASES, 0));
    crowd.shop.pass(MILLISECOND);
    for round in 1..=4 {
        assert_eq!(expired(), round * 1_000);
        crowd.shop.tick();
        crowd.shop.pass((SECOND / 2).saturating_sub(MILLISECOND));
        assert_eq!(expired(), round * 1_000, "not before the round is over");
        crowd.shop.pass(MILLISECOND);
    }
    // One that had to wait is still taken.
    let waits = |(seat, token): &&(usize, LeaseToken)| crowd.seats[*seat].renew(token) == Err(LeaseError::Dead);
    let (seat, token) = crowd.tokens.iter().rev().find(waits).unwrap();
    let held = crowd.seats[*seat].resume(token).unwrap();
    report_all(&held);
    assert_adds_up(&crowd.shop.hub);
}

/// Without a bound all of them are put back, journaled and cut into buckets again in one tick.
#[test]
fn without_portions_mass_death_is_released_in_one_tick() {
    let crowd = Crowd::gather(Limits { releases_per_round: usize::MAX, ..Limits::default() }, |_| {});
    crowd.shop.pass(LEASE);
    crowd.shop.pass(GRACE);
    assert_eq!(crowd.service.stats().work.buckets_expired, LEASES as u64);
}

/// The bound is shared by all services, the oldest deaths come first, and everything is released in the end.
#[test]
fn the_oldest_dead_are_released_first_and_none_is_forgotten() {
    let shop = Shop::open_with(Limits { releases_per_round: 10, ..Limits::default() });
    let terms = |policy: &mut Policy| (policy.bucket_subjects, policy.lease, policy.grace) = (1, LEASE, GRACE);
    let services = ["a", "b"].map(|id| shop.hub.register(Plain::with(id, terms)).unwrap());
    // 15 leases of b, then 15 of a, then 15 of b.
    let seats = services.each_ref().map(|service| shop.seat(service, 1));
    for service in &services {
        shop.stock(service, 60);
    }
    for of in [1, 0, 1] {
        for _ in 0..15 {
            let _ = claim_one(&seats[of]).into_token();
            shop.settle();
        }
        shop.pass(SECOND * 10);
    }
    shop.pass(LEASE.saturating_sub(SECOND * 20));
    for _ in 0..3 {
        shop.pass(SECOND * 10);
    }
    let expired = || services.each_ref().map(|service| service.stats().work.buckets_expired);
    assert_eq!(expired(), [0, 0]);
    let mut seen = Vec::new();
    shop.pass(GRACE);
    for _ in 0..5 {
        seen.push(expired());
        shop.pass(SECOND / 2);
    }
    assert_eq!(seen, [[0, 10], [5, 15], [15, 15], [15, 25], [15, 30]]);
    assert_adds_up(&shop.hub);
}

const DOWN: Duration = Duration::from_secs(3 * 24 * 3_600);

/// Three days without the hub kill no lease: its time stands still while it is closed. Every holder has a full term from the
/// opening, and those who never come back are not missed at one moment.
#[test]
fn a_long_downtime_kills_no_lease() {
    let Crowd { shop, service, seats, tokens } = Crowd::gather(Limits::default(), |policy| policy.expiry_spread = 125);
    shop.pass(LEASE / 2);
    let policy = service.policy();
    let (disk, clock) = (shop.disk.clone(), shop.clock.clone());
    drop((service, seats));
    shop.hub.close().unwrap();
    drop(shop);
    clock.advance(DOWN);
    let shop = Shop::on(disk, clock, Limits::default());
    let service = shop.hub.register(Plain::with("storm", |now| *now = policy)).unwrap();
    let seats = shop.seats(&service, CLIENTS);
    shop.tick();
    let crowd = Crowd { shop, service, seats, tokens };
    assert_eq!(crowd.service.stats().work.buckets_held, LEASES as u64);
    let left: Vec<Duration> = crowd.renew().into_iter().map(Result::unwrap).collect();
    assert!(left.iter().all(|left| (LEASE..LEASE * 9 / 8).contains(left)));
    assert!(most_in_a_second(&left) < 1_600);
    crowd.shop.pass(LEASE.saturating_sub(MILLISECOND));
    assert_eq!(crowd.dead(), 0);
}

/// A hub that stays open through the same three days, its clients cut off, has lost every lease when they are back.
#[test]
fn the_same_downtime_with_the_hub_open_kills_every_lease() {
    let crowd = Crowd::gather(Limits::default(), |policy| policy.expiry_spread = 125);
    crowd.shop.pass(LEASE / 2);
    crowd.shop.pass(DOWN);
    assert_eq!(crowd.dead(), LEASES);
}

/// Evenly: each of 20 parts of `from..to` has its share of `times`, give or take a tenth.
fn assert_even(times: &[Duration], from: Duration, to: Duration) {
    let mut parts = [0; 20];
    for time in times {
        assert!((from..to).contains(time), "{time:?} is not in {from:?}..{to:?}");
        let place = time.saturating_sub(from).as_micros() * 20 / to.saturating_sub(from).as_micros();
        parts[usize::try_from(place).unwrap()] += 1;
    }
    let share = times.len() / 20;
    assert!(parts.iter().all(|part| (share * 9 / 10..share * 11 / 10).contains(part)), "{parts:?}");
}

/// A small queue, full for newcomers after about 500 additions.
fn narrow(admit: u32) -> Limits {
    Limits {
        queue_bytes: 256 << 10,
        admit_newcomers_percent: admit,
        admit_claims_percent: 75.max(admit),
        ..Limits::default()
    }
}

/// Adds a subject, or says when to come again.
fn come(service: &ServiceHandle<Plain>, subject: u64) -> Result<(), Duration> {
    match service.add(&subject) {
        Ok(_) => Ok(()),
        Err(AddError::Hub { source: HubError::Busy { retry_after, .. }, .. }) => Err(retry_after),
        Err(other) => panic!("{other}"),
    }
}

/// A hub whose writer is known to need a second to empty its queue, and the times told to 100,000 who come at once.
fn second_wave() -> (Shop, ServiceHandle<Plain>, Vec<Duration>) {
    let shop = Shop::open_with(narrow(50));
    let service = shop.hub.register(Plain::new("storm")).unwrap();
    shop.tick();
    let mut subjects = 0..;
    let mut fill = || while come(&service, subjects.next().unwrap()).is_ok() {};
    fill();
    shop.pass(SECOND);
    let told = (0..LEASES as u64).filter_map(|nth| come(&service, 1_000_000 + nth).err()).collect();
    shop.tick();
    (shop, service, told)
}

/// Those turned away are told to come when the writer, at its measured rate, is done, evenly spread over as long again; so
/// that each tick finds room for those who come in it.
#[test]
fn those_turned_away_come_back_spread_at_the_writers_rate() {
    let (shop, service, mut told) = second_wave();
    assert!(told.len() > LEASES - 1_000);
    let least = *told.iter().min().unwrap();
    assert!((SECOND * 95 / 100..SECOND * 105 / 100).contains(&least), "{least:?} at a queue a second");
    assert_even(&told, least, least * 2 + MILLISECOND);

    told.sort_unstable();
    let (mut comers, mut admitted, step) = (told.into_iter().peekable(), 0, SECOND / 20);
    for tick in 0..44 {
        while comers.next_if(|time| *time < step * tick).is_some() {
            admitted += u64::from(come(&service, 2_000_000 + admitted).is_ok());
        }
        shop.pass(step);
    }
    assert!(comers.peek().is_none());
    assert!(admitted > 9_000, "{admitted} got in, of 500 in each of 20 ticks");
}

/// Without the spread they all come at one moment, and all but a queue's worth are turned away again.
#[test]
fn without_a_spread_those_turned_away_come_back_at_once() {
    let (shop, service, told) = second_wave();
    let least = *told.iter().min().unwrap();
    shop.pass(least);
    let admitted = told.iter().filter(|_| come(&service, 2_000_000).is_ok()).count();
    assert!(admitted < 600, "{admitted} of {} got in", told.len());
}

/// A claim that finds nothing is told a time; 100,000 of them fall evenly in its window. That no bucket is formed yet is told
/// with the time that forming one took of late.
#[test]
fn claims_for_nothing_are_told_to_come_back_spread() {
    let shop = Shop::open();
    let linger = SECOND * 8;
    let service = shop.hub.register(Plain::with("storm", |policy| policy.linger = linger)).unwrap();
    let seats = shop.seats(&service, 100);
    shop.pass(SECOND);
    let told = |reason: EmptyReason| -> Vec<Duration> {
        let answers = (0..LEASES / seats.len()).flat_map(|_| seats.iter().map(claim_nothing));
        answers.inspect(|empty| assert_eq!(empty.reason, reason)).map(|empty| empty.retry_after).collect()
    };
    assert_even(&told(EmptyReason::NothingPending), SECOND, SECOND * 3 / 2);
    // Two subjects of a bucket of four linger.
    for (subject, time) in [(1_u64, MILLISECOND * 20), (11, linger)] {
        drop((service.add(&subject).unwrap(), service.add(&(subject + 1)).unwrap()));
        shop.tick();
        assert_even(&told(EmptyReason::NotYetFormed), time, time * 3 / 2);
        shop.pass(linger);
        report_all(&claim(&seats[0], 1).remove(0));
        shop.tick();
    }
}

/// What 500 workers got through while 100,000 newcomers came at once and the writer did nothing.
struct Admitted {
    registered: u64,
    claims: usize,
    submits: usize,
    stats: HubStats,
}

fn registration_storm(admit: u32) -> Admitted {
    const WORKERS: u64 = 500;
    let shop = Shop::open_with(narrow(admit));
    let service = shop.hub.register(Plain::with("storm", |policy| policy.bucket_subjects = 1)).unwrap();
    let seats: Vec<_> = (1..=WORKERS)
        .map(|id| {
            shop.tick();
            shop.seat(&service, id)
        })
        .collect();
    shop.stock(&service, 2 * WORKERS);
    let leases: Vec<_> = seats.iter().map(claim_one).collect();
    shop.tick();
    let (mut registered, mut claims, mut submits) = (0, 0, 0);
    for nth in 0..LEASES as u64 {
        let newcomer = Registration::new(1_000_000 + nth, name_of(1_000_000 + nth));
        match shop.hub.register_client(&newcomer) {
            Ok(_) => registered += 1,
            Err(RegisterClientError::Hub(busy @ HubError::Busy { rule, .. })) => {
                assert!(busy.is_transient());
                assert_eq!(rule, "admit_newcomers_percent");
            }
            Err(other) => panic!("{other}"),
        }
        // One in 1,000 comers is a worker with a report, who then asks for more.
        if nth % 1_000 == 999 {
            let worker = usize::try_from(nth / 1_000).unwrap();
            submits += usize::from(leases[worker].submit(reports(&leases[worker], "ok")).is_ok());
            claims += usize::from(seats[worker].claim(Ask::one()).is_ok_and(|claim| claim.leased().is_some()));
        }
    }
    let stats = shop.hub.stats();
    shop.tick();
    assert_adds_up(&shop.hub);
    Admitted { registered, claims, submits, stats }
}

/// However many newcomers come, the workers' reports are taken, and they get more work.
#[test]
fn a_storm_of_registrations_turns_no_worker_away() {
    let Admitted { registered, claims, submits, stats } = registration_storm(50);
    assert_eq!((claims, submits), (100, 100));
    assert_eq!((stats.busy_newcomers, stats.busy_claims, stats.busy_submits), (LEASES as u64 - registered, 0, 0));
    assert!((400..600).contains(&registered), "{registered} filled half of the queue");
}

/// Without an order of admission newcomers fill the queue and the workers' reports are refused.
#[test]
fn without_an_order_of_admission_newcomers_crowd_the_workers_out() {
    let Admitted { submits, stats, registered, .. } = registration_storm(100);
    assert!(submits <= 1, "{submits} reports were taken");
    assert!(stats.busy_submits >= 99);
    assert!((800..1_100).contains(&registered), "{registered} filled the queue");
}

/// Between the ranks: once the queue is three quarters full of reports, claims are turned away, and reports are not.
#[test]
fn claims_are_turned_away_before_reports() {
    let shop = Shop::open_with(narrow(50));
    let service = shop.hub.register(Plain::with("storm", |policy| policy.bucket_subjects = 1)).unwrap();
    let seats = shop.seats(&service, 100);
    shop.stock(&service, 2_000);
    let leases: Vec<_> = seats.iter().flat_map(|seat| claim(seat, 10)).collect();
    shop.tick();
    let mut refused_from = None;
    for (nth, lease) in leases.iter().enumerate() {
        let queued = shop.hub.stats().queued_bytes;
        match seats[0].claim(Ask::one()) {
            Ok(claim) => assert!(claim.leased().is_some() && refused_from.is_none()),
            Err(ClaimError::Hub(HubError::Busy { limit, rule, .. })) => {
                assert_eq!((limit, rule), (192 << 10, "admit_claims_percent"));
                assert!(queued > limit);
                refused_from.get_or_insert(nth);
            }
            Err(other) => panic!("{other}"),
        }
        if lease.submit(reports(lease, "ok")).is_err() {
            assert!(queued > 255 << 10, "refused at {queued}");
            let from = refused_from.expect("claims were turned away before");
            assert!((nth * 70 / 100..nth * 80 / 100).contains(&from), "claims from {from}, reports from {nth}");
            return;
        }
    }
    panic!("1,000 reports did not fill the queue");
}
