//! How often the hot calls ask the allocator for memory: claims and renewals never, a submit a fixed number of times.
#![expect(unsafe_code, reason = "only an allocator can count allocations, and the trait of one is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use commissary::{
    Ask, Hub, Lease, ManualClock, MemoryDisk, Policy, Registration, Reporter, Seat, Service, ServiceHandle, Verdict,
};

/// The system's allocator, counting the calls of each thread.
struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    CALLS.with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: every call is handed on as it came; the counter allocates nothing and needs no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `call` returns, and how often it allocated on this thread.
fn counted<R>(call: impl FnOnce() -> R) -> (R, usize) {
    let before = CALLS.with(Cell::get);
    let result = call();
    (result, CALLS.with(Cell::get) - before)
}

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

    fn judge(&self, _subject: &u64, _report: &u32, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }
}

/// A manual hub with two pools of twenty buckets, and a seat that has claimed and submitted before.
fn open(bucket: usize) -> (Hub, ServiceHandle<Plain>, Seat<Plain>) {
    let builder = Hub::builder().manual().clock(ManualClock::default()).seed(1);
    let hub = builder.open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Plain { bucket }).unwrap();
    let seat = hub.register_client(&Registration::new(1, "one")).unwrap().client.activate(&service).unwrap();
    service.add_all(0..(bucket * 40) as u64).unwrap();
    hub.tick();
    // A thread's first look at a swapped pointer allocates its place among the readers, once.
    submit(&claim(&seat));
    hub.tick();
    (hub, service, seat)
}

fn claim(seat: &Seat<Plain>) -> Lease<Plain> {
    seat.claim(Ask::one()).unwrap().leased().unwrap().pop().unwrap()
}

fn submit(lease: &Lease<Plain>) {
    let submitted = lease.submit(lease.subjects().map(|subject| (subject, 7))).unwrap();
    assert_eq!(submitted.accepted(), lease.len());
}

#[test]
fn the_counter_counts() {
    let (boxed, calls) = counted(|| std::hint::black_box(Box::new(1_u8)));
    assert_eq!((*boxed, calls), (1, 1));
}

#[test]
fn claiming_one_bucket_allocates_nothing() {
    let (_hub, _service, seat) = open(4);
    let mut leases = Vec::with_capacity(30);
    // More than a pool holds: the step to the next pool is among them.
    let ((), calls) = counted(|| leases.extend((0..30).map(|_| claim(&seat))));
    assert_eq!((leases.len(), calls), (30, 0));
}

/// Neither passing by what the client itself gave back, nor taking what another passed by.
#[test]
fn claiming_round_cooldowns_allocates_nothing() {
    let (hub, service, seat) = open(4);
    let registered = hub.register_client(&Registration::new(2, "two")).unwrap();
    let other = registered.client.activate(&service).unwrap();
    let mut leases: Vec<_> = (0..39).map(|_| claim(&seat)).collect();
    assert!(seat.claim(Ask::one()).unwrap().leased().is_none());
    leases.clear();
    hub.tick();
    let (nothing, calls) = counted(|| seat.claim(Ask::one()).unwrap().leased().is_none());
    assert_eq!((nothing, calls), (true, 0));
    let ((), calls) = counted(|| leases.extend((0..39).map(|_| claim(&other))));
    assert_eq!((leases.len(), calls), (39, 0));
}

#[test]
fn renewing_allocates_nothing() {
    let (_hub, _service, seat) = open(4);
    let lease = claim(&seat);
    let token = lease.token();
    let (left, calls) = counted(|| (lease.renew().unwrap(), seat.renew(&token).unwrap()));
    assert_eq!((left, calls), ((Policy::default().lease, Policy::default().lease), 0));
}

#[test]
fn submitting_allocates_a_fixed_number_of_times() {
    // The outcomes, which the caller keeps; all encoded reports, which are the record; the writer's node, which is the ticket.
    const MOST: usize = 3;
    for bucket in [4, 16, 180] {
        let (hub, service, seat) = open(bucket);
        let lease = claim(&seat);
        let ((), calls) = counted(|| submit(&lease));
        assert!(calls <= MOST, "{calls} allocations for {bucket} reports, {MOST} are known");
        hub.tick();
        assert_eq!(service.stats().subjects_done, 2 * bucket as u64);
    }
}
