//! Instructions of the hot calls, one call each, in a hub in which it was done before: its caretakers rest (a manual hub in memory), and
//! its clock is a number (reading one is not among them). Subjects are numbers of 64 bits, reports of 32.
//!
//! `README.md` says what must be installed, and the command.

use std::hint::black_box;
use std::time::Duration;

use commissary::{
    Ask, Hub, Lease, ManualClock, MemoryDisk, Policy, Registration, Reporter, Seat, Service, Submitted, Verdict,
};
use gungraun::prelude::*;

struct Plain {
    bucket: usize,
}

impl Service for Plain {
    type Subject = u64;
    type Report = u32;

    fn id(&self) -> &'static str {
        "plain"
    }

    fn policy(&self) -> Policy {
        Policy { bucket_subjects: self.bucket, linger: Duration::ZERO, expiry_spread: 0, ..Policy::default() }
    }

    fn judge(&self, _subject: &u64, report: &u32, _reporter: Reporter) -> Verdict {
        if *report == u32::MAX { Verdict::Reject("out of range".to_owned()) } else { Verdict::Accept }
    }
}

/// What a call needs. It is handed back, so that its end is not counted.
struct Shop {
    _hub: Hub,
    seat: Seat<Plain>,
    clock: ManualClock,
}

fn claim(seat: &Seat<Plain>) -> Lease<Plain> {
    seat.claim(Ask::one())
        .expect("nothing is refused")
        .leased()
        .and_then(|mut grant| grant.pop())
        .expect("there is work")
}

fn reports(lease: &Lease<Plain>) -> Vec<(u64, u32)> {
    lease.subjects().map(|subject| (subject, 7)).collect()
}

/// A pool of twenty buckets, and a seat that has claimed, renewed and submitted before. Nothing was given back: such a bucket would be
/// offered first.
fn shop(bucket: usize) -> Shop {
    let clock = ManualClock::default();
    let hub = Hub::builder().manual().clock(clock.clone()).seed(1).open_in_memory(&MemoryDisk::new()).expect("opens");
    let service = hub.register(Plain { bucket }).expect("registers");
    let client = hub.register_client(&Registration::new(1, "one")).expect("registers").client;
    let seat = client.activate(&service).expect("activates");
    service.add_all(0..(bucket * 40) as u64).expect("taken in");
    hub.tick();
    for _ in 0..3 {
        let lease = claim(&seat);
        clock.advance(Duration::from_secs(1));
        lease.renew().expect("alive");
        assert_eq!(lease.submit(reports(&lease)).expect("nothing is refused").accepted(), bucket);
    }
    hub.tick();
    Shop { _hub: hub, seat, clock }
}

type Claimed = (Box<Shop>, Lease<Plain>);

fn claimed(bucket: usize) -> Claimed {
    let shop = Box::new(shop(bucket));
    let lease = claim(&shop.seat);
    shop.clock.advance(Duration::from_secs(1));
    (shop, lease)
}

fn released(bucket: usize) -> Claimed {
    let (shop, lease) = claimed(bucket);
    let other = claim(&shop.seat);
    lease.release();
    (shop, other)
}

fn reported(bucket: usize) -> (Claimed, Vec<(u64, u32)>) {
    let claimed = claimed(bucket);
    let reports = reports(&claimed.1);
    (claimed, reports)
}

#[library_benchmark(setup = shop)]
#[bench::of_4(4)]
#[bench::of_16(16)]
fn claim_one(shop: Shop) -> (Shop, Lease<Plain>) {
    let lease = claim(black_box(&shop.seat));
    (shop, lease)
}

#[library_benchmark(setup = reported)]
#[bench::of_4(4)]
#[bench::of_16(16)]
fn submit((claimed, reports): (Claimed, Vec<(u64, u32)>)) -> (Claimed, Submitted) {
    let submitted = black_box(&claimed.1).submit(reports).expect("nothing is refused");
    (claimed, submitted)
}

#[library_benchmark(setup = claimed)]
#[bench::of_16(16)]
fn renew(claimed: Claimed) -> (Claimed, Duration) {
    let left = black_box(&claimed.1).renew().expect("alive");
    (claimed, left)
}

#[library_benchmark(setup = released)]
#[bench::of_16(16)]
fn release((shop, lease): Claimed) -> (Box<Shop>, ()) {
    (shop, black_box(lease).release())
}

library_benchmark_group!(name = calls, benchmarks = [claim_one, submit, renew, release]);

main!(library_benchmark_groups = calls);
