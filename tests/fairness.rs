//! Nobody starves: ageing, shares, bounds on waiting, and how much is kept ready.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use commissary::{Ask, Claim, Limits, ManualClock, MemoryDisk, Policy, Seat, ServiceHandle};
use common::{Plain, Shop, assert_adds_up, claim_nothing, claim_one};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn shop_with(policy: impl FnOnce(&mut Policy)) -> (Shop, ServiceHandle<Plain>) {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", policy)).unwrap();
    (shop, service)
}

/// Claims one bucket and reports all of it; whom it held.
fn work(seat: &Seat<Plain>) -> Vec<u64> {
    match seat.claim(Ask::one()).unwrap() {
        Claim::Leased(grant) => grant
            .into_iter()
            .flat_map(|lease| {
                let users: Vec<u64> = lease.subjects().collect();
                drop(lease.submit(users.iter().map(|user| (*user, "ok".to_owned()))).unwrap());
                users
            })
            .collect(),
        Claim::Empty(_) => Vec::new(),
    }
}

/// Ordinary subjects have numbers below this, urgent ones above.
const URGENT: u64 = 1_000_000;

/// What is to be varied.
#[derive(Debug, Clone)]
struct Flood {
    policy: Policy,
    /// Ordinary subjects, all there from the start.
    ordinary: u64,
    /// Urgent subjects that come each second: as many as can be worked on, and more.
    urgent: u64,
    /// Buckets that are worked on each second.
    capacity: u64,
    seats: u64,
}

fn floods() -> impl Strategy<Value = Flood> {
    (2_u32..6, 1_usize..5, 8_u64..120, 20_usize..200, 10_u64..80, 2_u64..6, 1_u64..4, 1_u64..3).prop_map(
        |(share, bucket, max_wait, pool, ordinary, capacity, seats, excess)| {
            let policy = Policy {
                ordinary_share: share,
                bucket_subjects: bucket,
                max_wait: Duration::from_secs(max_wait),
                pool_subjects: pool,
                ..Policy::default()
            };
            Flood { policy, ordinary, urgent: capacity * bucket as u64 * excess, capacity, seats }
        },
    )
}

impl Flood {
    /// When the last ordinary subject must have been handed out, in seconds.
    ///
    /// Half of `max_wait` passes at most before the oldest goes before the urgent ones. From then on all claims but one in
    /// `share` are served from those that are not urgent; a bucket may be short, at worst of one subject. A second for the
    /// caretakers' round and one for the linger of the last.
    fn bound(&self) -> u64 {
        let share = u64::from(self.policy.ordinary_share);
        let buckets = self.ordinary.div_ceil(self.policy.bucket_subjects as u64) + 1;
        let claims = (buckets * share).div_ceil(share - 1) + share * self.seats;
        self.policy.max_wait.as_secs() / 2 + 2 + claims.div_ceil(self.capacity)
    }

    /// The second in which each ordinary subject was handed out.
    fn run(&self) -> BTreeMap<u64, u64> {
        let clock = ManualClock::default();
        let shop = Shop::on(MemoryDisk::new(), clock, Limits::default());
        let policy = self.policy.clone();
        let service = shop.hub.register(Plain::with("plain", |p| *p = policy)).unwrap();
        let seats = shop.seats(&service, self.seats);
        assert_eq!(service.add_all(1..=self.ordinary).unwrap().added, self.ordinary);
        let (mut urgent, mut turn, mut handed_out) = (URGENT, 0_usize, BTreeMap::new());
        for second in 0..2 * self.bound() {
            let fresh: Vec<u64> = (urgent..urgent + self.urgent).collect();
            urgent += self.urgent;
            assert_eq!(service.add_all(fresh.iter().copied()).unwrap().added, self.urgent);
            drop(service.prioritize(&fresh).unwrap());
            shop.tick();
            for _ in 0..self.capacity {
                turn += 1;
                for user in work(&seats[turn % seats.len()]) {
                    if user < URGENT {
                        handed_out.insert(user, second);
                    }
                }
                shop.tick();
            }
            if handed_out.len() as u64 == self.ordinary {
                break;
            }
            shop.pass(SECOND);
        }
        assert_adds_up(&shop.hub);
        handed_out
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// R38, R41: an endless flood of urgent subjects that takes all there is starves nobody: every ordinary subject is handed
    /// out within the bound, whatever the policy.
    #[test]
    fn an_endless_urgent_flood_starves_nobody(flood in floods()) {
        let handed_out = flood.run();
        prop_assert_eq!(handed_out.len() as u64, flood.ordinary, "some were never handed out");
        let last = handed_out.values().max().copied().unwrap_or(0);
        prop_assert!(last <= flood.bound(), "the last after {last} s, the bound is {} s", flood.bound());
    }
}

/// R38, R50: urgent subjects do go first: while ordinary ones are young they get no more than their share.
#[test]
fn young_ordinary_subjects_get_no_more_than_their_share() {
    let (shop, service) = shop_with(|policy| (policy.bucket_subjects, policy.ordinary_share) = (1, 4));
    let seat = shop.seat(&service, 1);
    let urgent: Vec<u64> = (URGENT..URGENT + 300).collect();
    shop.stock(&service, 300);
    assert_eq!(service.add_all(urgent.iter().copied()).unwrap().added, 300);
    drop(service.prioritize(&urgent).unwrap());
    shop.tick();
    let first: Vec<u64> = (0..200)
        .flat_map(|_| {
            shop.tick();
            work(&seat)
        })
        .collect();
    let ordinary = first.iter().filter(|user| **user < URGENT).count();
    assert_eq!((first.len(), ordinary), (200, 50), "one claim in four");
}

/// R41: how long the oldest waits, the longest wait, and those overdue are published; more demand than capacity is reported.
#[test]
fn waits_and_overdue_subjects_are_published() {
    let (shop, service) = shop_with(|policy| {
        policy.bucket_subjects = 2;
        policy.max_wait = 60 * SECOND;
    });
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 6);
    shop.pass(30 * SECOND);
    assert_eq!(work(&seat).len(), 2);
    shop.tick();
    let stats = service.stats();
    assert!((30 * SECOND..31 * SECOND).contains(&stats.oldest_wait), "{:?}", stats.oldest_wait);
    assert_eq!((stats.oldest_wait, stats.overdue), (stats.longest_wait, 0));
    shop.pass(31 * SECOND);
    assert_eq!(work(&seat).len() + work(&seat).len(), 4);
    shop.tick();
    let stats = service.stats();
    assert_eq!((stats.oldest_wait, stats.overdue), (Duration::ZERO, 4));
    assert!((61 * SECOND..62 * SECOND).contains(&stats.longest_wait), "{:?}", stats.longest_wait);
}

/// R44: a short bucket is published after `linger`, not before: nobody waits for companions for ever.
#[test]
fn a_short_tail_is_published_after_its_linger() {
    let (shop, service) = shop_with(|policy| policy.linger = 10 * SECOND);
    let seat = shop.seat(&service, 1);
    assert_eq!(service.add_all(1..=5).unwrap().added, 5);
    shop.tick();
    assert_eq!(work(&seat).len(), 4);
    shop.pass(Duration::from_millis(9_999));
    claim_nothing(&seat);
    shop.pass(Duration::from_millis(1));
    assert_eq!(claim_one(&seat).len(), 1);
}

/// R99: no more is kept ready than is taken within `max_pool_age`; the depth follows a step change of the rate.
#[test]
fn the_depth_of_the_pools_follows_the_rate() {
    let (shop, service) = shop_with(|policy| {
        policy.bucket_subjects = 1;
        policy.buckets_per_claim = 100;
        policy.max_pool_age = 20 * SECOND;
    });
    let seat = shop.seat(&service, 1);
    assert_eq!(service.add_all(1..=9_000).unwrap().added, 9_000);
    let run = |rate: u32, seconds: u32| {
        for _ in 0..seconds {
            let mut done = 0;
            while done < rate {
                shop.tick();
                let mut grant = seat.claim(Ask::buckets(rate - done)).unwrap().leased().expect("there is plenty");
                while let Some(lease) = grant.pop() {
                    done += 1;
                    let users: Vec<u64> = lease.subjects().collect();
                    drop(lease.submit(users.into_iter().map(|user| (user, "ok".to_owned()))).unwrap());
                }
            }
            shop.pass(SECOND);
        }
        service.stats().pool_drain_time.expect("it is being drained")
    };
    let at_40 = run(40, 60);
    assert!(at_40 <= 22 * SECOND, "at 40 a second: {at_40:?}");
    let at_4 = run(4, 300);
    assert!(at_4 <= 22 * SECOND, "after the step down: {at_4:?}");
    let at_80 = run(80, 60);
    assert!(at_80 <= 22 * SECOND, "after the step up: {at_80:?}");
    assert_adds_up(&shop.hub);
}

/// R38: a subject put back ages as any other, in the front pool and set aside in it, too: once it has waited half of `max_wait`
/// it goes before the urgent ones, however small the share of the others.
#[test]
fn a_subject_put_back_ages_while_it_is_offered() {
    for aside in [false, true] {
        let (shop, service) = shop_with(|policy| {
            (policy.bucket_subjects, policy.ordinary_share, policy.max_wait) = (1, 1_000, 8 * SECOND);
            policy.cooldown = if aside { 3_600 * SECOND } else { Duration::ZERO };
        });
        let seats = shop.seats(&service, 2);
        shop.stock(&service, 1);
        claim_one(&seats[0]).release();
        shop.tick();
        if aside {
            claim_nothing(&seats[0]);
        }
        let (mut urgent, mut found) = (URGENT, None);
        'flood: for second in 0..10_u32 {
            let fresh: Vec<u64> = (urgent..urgent + 4).collect();
            urgent += 4;
            assert_eq!(service.add_all(fresh.iter().copied()).unwrap().added, 4);
            drop(service.prioritize(&fresh).unwrap());
            shop.tick();
            for _ in 0..4 {
                if work(&seats[1]).contains(&1) {
                    found = Some(second);
                    break 'flood;
                }
            }
            assert!(service.stats().oldest_wait >= second * SECOND, "aside: {aside}");
            shop.pass(SECOND);
        }
        assert!(found.is_some_and(|second| second <= 5), "aside: {aside}: {found:?}");
        assert_adds_up(&shop.hub);
    }
}
