//! Storms: everybody at once. Each safeguard with 100,000 leases or callers in virtual time, on and off: with it the
//! promise holds, without it the failure is there and is measured.

mod common;

use std::time::Duration;

use commissary::{LeaseError, LeaseToken, Limits, Policy, Seat, ServiceHandle};
use common::{Plain, Shop, claim};

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
