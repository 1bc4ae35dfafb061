//! How often the hot calls ask the allocator for memory: claims and renewals never, a submit a fixed number of times. And
//! what each call costs in all, as the page on performance has it.
#![expect(unsafe_code, reason = "only an allocator can count allocations, and the trait of one is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use commissary::reservations::{Stock, Terms};
use commissary::{
    Ask, Hub, LaneKey, Lease, Limits, ManualClock, MemoryDisk, Policy, Registration, Reporter, Seat, Service,
    ServiceHandle, Verdict,
};

/// The system's allocator, counting the calls of each thread.
struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static FREED: Cell<usize> = const { Cell::new(0) };
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
        FREED.with(|freed| freed.set(freed.get() + layout.size()));
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

    /// From a million on the tens are the lane.
    fn lane(&self, subject: &u64) -> Option<LaneKey> {
        (*subject >= 1_000_000).then(|| LaneKey::from(subject / 10))
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

/// I3: what the steward allocated, the steward frees: a client that drops the last hold of a pool would wait for the
/// allocator there. But for the empty counter, of some 200 bytes, by which a thread remembered a pool before.
#[test]
fn whoever_claims_last_from_a_pool_and_lets_go_of_it_frees_nothing_of_it() {
    const BUCKETS: u64 = 400;
    let limits = Limits { settled_slots: 64, ..Limits::default() };
    let builder = Hub::builder().manual().clock(ManualClock::default()).seed(1).limits(limits);
    let hub = builder.open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Plain { bucket: 4 }).unwrap();
    let seat = client(&hub, 1).activate(&service).unwrap();
    service.add_all(0..BUCKETS * 4).unwrap();
    hub.tick();
    let freed = Cell::new(0);
    let measured = |call: &mut dyn FnMut()| {
        let before = FREED.with(Cell::get);
        call();
        freed.set(freed.get() + FREED.with(Cell::get) - before);
    };
    let mut leases = Vec::with_capacity(25);
    while service.stats().subjects_done < BUCKETS * 4 {
        // More than a pool holds.
        measured(&mut || leases.extend((0..25).map_while(|_| seat.claim(Ask::one()).unwrap().leased()?.pop())));
        leases.iter().for_each(submit);
        // The steward forgets the pools, and what was alive when they were formed, while their client holds them.
        (0..3).for_each(|_| hub.tick());
        measured(&mut || leases.clear());
        hub.tick();
    }
    let pools = usize::try_from(BUCKETS / 20).unwrap();
    assert!(freed.get() <= 300 * pools, "{} bytes", freed.get());
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

/// What a call costs: allocations of its thread; then, by the caretakers, records and their bytes in the journal, reads of
/// the store by the caller and for applying, pairs written to it, and their bytes.
type Cost = [u64; 6];

/// Bytes of the frame before a group's records.
const GROUP_FRAME: u64 = 43;

fn cost<R>(hub: &Hub, call: impl FnOnce() -> R) -> (R, Cost) {
    (0..3).for_each(|_| hub.tick());
    let before = hub.stats().storage;
    let (result, allocations) = counted(call);
    hub.tick();
    let storage = hub.stats().storage.since(&before);
    let (journal, applier) = (storage.journal, storage.applier);
    let cost = [
        allocations as u64,
        journal.records,
        journal.bytes - journal.groups * GROUP_FRAME,
        storage.results.reads() + applier.reads(),
        applier.pairs_written,
        applier.bytes_written,
    ];
    (result, cost)
}

fn client(hub: &Hub, id: u64) -> commissary::Client {
    hub.register_client(&Registration::new(id, "two")).unwrap().client
}

fn owed(lease: &Lease<Plain>) -> Vec<(u64, u32)> {
    lease.owed().map(|subject| (subject, 7)).collect()
}

/// Of one service and its clients, each call by itself.
fn costs(bucket: usize) -> Vec<(String, Cost)> {
    let (hub, service, seat) = open(bucket);
    let mut costs = Vec::new();
    let mut note = |call: &str, cost: Cost| costs.push((call.to_owned(), cost));
    let (lease, claimed) = cost(&hub, || claim(&seat));
    note(&format!("claim of one bucket of {bucket}"), claimed);
    let reports = owed(&lease);
    note(&format!("submit of a whole bucket of {bucket}"), cost(&hub, || lease.submit(reports).unwrap()).1);
    if bucket > 4 {
        return costs;
    }
    note("claim of 10 buckets", cost(&hub, || seat.claim(Ask::buckets(10)).unwrap().leased().unwrap()).1);
    let lease = claim(&seat);
    let first = owed(&lease)[..1].to_vec();
    note("report on one of 4", cost(&hub, || lease.report(first).unwrap()).1);
    note("renew", cost(&hub, || lease.renew().unwrap()).1);
    note("release of the other 3", cost(&hub, || lease.release()).1);
    note("add of one subject", cost(&hub, || service.add(&1_000).unwrap()).1);
    note("add of one that is known", cost(&hub, || service.add(&1_000).unwrap()).1);
    note("prioritize of one subject", cost(&hub, || service.prioritize(&[1_000]).unwrap()).1);
    note("delete of one subject", cost(&hub, || service.delete(&[1_000]).unwrap()).1);
    let done = (0..160).find(|subject| service.result(subject).unwrap().is_some()).unwrap();
    note("result of one subject", cost(&hub, || service.result(&done).unwrap()).1);
    note("rerun of one subject", cost(&hub, || service.rerun(&[done]).unwrap()).1);
    let (two, cost_of) = cost(&hub, || client(&hub, 2));
    note("`register_client`", cost_of);
    note("activate", cost(&hub, || two.activate(&service).unwrap()).1);
    note("deregister", cost(&hub, || two.deregister().unwrap()).1);
    costs
}

fn costs_of_lanes() -> (String, Cost) {
    let (hub, service, seat) = open(4);
    while let Some(grant) = seat.claim(Ask::buckets(10)).unwrap().leased() {
        grant.into_iter().for_each(|lease| submit(&lease));
    }
    service.add_all(1_000_000..1_000_040).unwrap();
    (0..3).for_each(|_| hub.tick());
    let (first, second) = (claim(&seat), claim(&seat));
    let (reports, later) = (owed(&first), owed(&second));
    assert_eq!(first.submit_lane(reports, &1_u64).unwrap().accepted(), 4);
    let cost = cost(&hub, || assert_eq!(second.submit_lane(later, &1_u64).unwrap().accepted(), 4)).1;
    ("`submit_lane` of a whole bucket of 4".to_owned(), cost)
}

fn costs_of_stock() -> Vec<(String, Cost)> {
    let stock = Stock::new(Terms::default());
    let _ = stock.add(100, 1, 1).unwrap();
    (1..=2).for_each(|id| _ = stock.reserve(id, 1, 60_000).unwrap());
    let alone = |call: &str, allocations: usize| (call.to_owned(), [allocations as u64, 0, 0, 0, 0, 0]);
    vec![
        alone("reserve", counted(|| stock.reserve(3, 1, 60_000).unwrap()).1),
        alone("confirm", counted(|| stock.confirm(2).unwrap()).1),
        alone("cancel", counted(|| stock.cancel(1).unwrap()).1),
    ]
}

/// What the page says of a call.
fn told(call: &str) -> Cost {
    let page = include_str!("../src/docs/performance.md");
    let row = page.lines().find(|line| line.starts_with(&format!("| {call} |")));
    let row = row.unwrap_or_else(|| panic!("{call} is not on the page"));
    let cells: Vec<u64> = row.split('|').skip(2).filter_map(|cell| cell.trim().parse().ok()).collect();
    cells.try_into().unwrap()
}

/// What the page on performance says that a call costs is what it costs.
#[test]
fn calls_cost_what_the_page_says() {
    let mut found = costs(4);
    found.extend(costs(16));
    found.push(costs_of_lanes());
    found.extend(costs_of_stock());
    for (call, cost) in &found {
        let cells = cost.map(|figure| figure.to_string()).join(" | ");
        eprintln!("| {call} | {cells} |");
    }
    for (call, cost) in found {
        let (told, [allocations, disk @ ..]) = (told(&call), cost);
        assert_eq!(told[1..], disk, "{call}");
        // Maps grow when they do: at most so many, and not many fewer.
        assert!((allocations..=allocations + 3).contains(&told[0]), "{call}: {allocations} allocations");
    }
}
