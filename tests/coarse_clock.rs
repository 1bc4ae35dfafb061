//! A clock whose coarse reading runs ahead of the exact one, as a system's ticks make it: what feels a few milliseconds must
//! not be told by both.

#[allow(clippy::allow_attributes, dead_code, reason = "each test file uses a part of it")]
mod support;

use std::time::Duration;

use commissary::{Clock, Hub, Level, ManualClock, MemoryDisk, Policy, Registration, Seat, ServiceHandle};
use support::{Doubling, keys, ms, one, policy, right};

/// Milliseconds between two ticks.
const TICK: u64 = 4;

/// Its coarse reading is that of the last tick, and a tick more: ahead by 1 to 4 ms.
#[derive(Debug, Clone, Default)]
struct Ticking(ManualClock);

impl Clock for Ticking {
    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn wall_ms(&self) -> i64 {
        self.0.wall_ms()
    }

    fn coarse_ms(&self) -> u64 {
        let ticks = self.monotonic().as_millis() / u128::from(TICK);
        (u64::try_from(ticks).unwrap() + 1) * TICK
    }
}

struct Ticked {
    hub: Hub,
    service: ServiceHandle<Doubling>,
    seat: Seat<Doubling>,
    clock: Ticking,
}

impl Ticked {
    fn new(policy: Policy) -> Self {
        let clock = Ticking::default();
        let hub = Hub::builder().seed(1).manual().clock(clock.clone()).open_in_memory(&MemoryDisk::new()).unwrap();
        let service = hub.register(Doubling(policy)).unwrap();
        hub.tick();
        let client = hub.register_client(&Registration::new(1, "c1").origin([1])).unwrap().client;
        let seat = client.activate(&service).unwrap();
        Self { hub, service, seat, clock }
    }

    fn pass(&self, millis: u64) {
        self.clock.0.advance(ms(millis));
        self.hub.tick();
    }

    /// Claims a bucket, works on it for so long, and reports it.
    fn work(&self, millis: u64) {
        let lease = one(&self.seat);
        self.clock.0.advance(ms(millis));
        assert_eq!(lease.submit(right(&keys(&lease))).unwrap().accepted(), 1);
        self.hub.tick();
    }
}

/// R45: a client that takes its time over each subject, but less than a tick of the clock, is not taken for one that does not.
#[test]
fn time_at_work_is_measured_by_one_clock() {
    const EACH: u64 = 2;
    let rig = Ticked::new(policy(|policy| {
        policy.bucket_subjects = 1;
        policy.watch.min_subject_time = ms(EACH);
        policy.watch.raise_after = 1;
    }));
    let level = || rig.service.seat_stats(1).unwrap().level;
    for (each, expected) in [(EACH, Level::Healthy), (EACH + 1, Level::Healthy), (0, Level::Suspect)] {
        let first = rig.hub.stats().work.subjects_assigned;
        assert_eq!(rig.service.add_all(first..first + 200).unwrap().added, 200);
        rig.pass(200);
        (0..200).for_each(|_| rig.work(each));
        rig.pass(600_000);
        assert_eq!(level(), expected, "{each} ms a subject");
    }
}

/// R39: a lease that feels a few milliseconds begins at the exact moment, whatever the pool before its own was formed for.
#[test]
fn a_short_lease_from_the_next_pool_lasts_as_long_as_it_says() {
    let rig = Ticked::new(policy(|policy| {
        policy.bucket_subjects = 1;
        policy.lease = ms(10_000);
    }));
    rig.service.add_all([0]).unwrap();
    rig.pass(200);
    rig.service.set_policy(Policy { lease: ms(20), grace: ms(0), ..rig.service.policy() }).unwrap();
    rig.service.add_all([1]).unwrap();
    rig.pass(201);
    let (long, short) = (one(&rig.seat), one(&rig.seat));
    let left = |token| {
        let views = rig.seat.leases().unwrap();
        views.into_iter().find(|view| view.token == token).map(|view| view.time_left)
    };
    assert_eq!(left(short.token()), Some(ms(20)));
    assert!(left(long.token()).is_some_and(|left| left >= ms(10_000)));
    rig.clock.0.advance(ms(19));
    assert_eq!(left(short.token()), Some(ms(1)));
}
