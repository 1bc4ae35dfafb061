//! Storms of registrations cost memory up to a bound, the journal nothing beyond it, and others nothing at all: requirement
//! rows R19 and R65, shown by counting allocations, bytes and steps, never time.
#![expect(unsafe_code, reason = "only an allocator can count allocations, and the trait of one is unsafe")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use commissary::{Ask, Claim, EmptyReason, Limits, RegisterClientError, Registration, ServiceHandle};
use common::{Plain, Shop, assert_adds_up, name_of, report_all};

/// The system's allocator, counting what each thread asks for and gives back.
struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

fn count(call: u64, bytes: usize, sign: i64) {
    CALLS.with(|calls| calls.set(calls.get() + call));
    BYTES.with(|held| held.set(held.get() + sign * i64::try_from(bytes).unwrap_or(i64::MAX)));
}

// SAFETY: every call is handed on as it came; the counters allocate nothing and need no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size(), 1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(0, layout.size(), -1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, layout.size(), -1);
        count(0, size, 1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `call` returns, how often it allocated on this thread, and by how many bytes the thread's memory grew.
fn counted<R>(call: impl FnOnce() -> R) -> (R, u64, i64) {
    let (calls, bytes) = (CALLS.get(), BYTES.get());
    let result = call();
    (result, CALLS.get() - calls, BYTES.get() - bytes)
}

/// R65: once its budget is used up, each of a million made-up identities from one origin is refused without one allocation,
/// one byte kept or one byte written; the refusal says to close the connection and when to come again. Honest newcomers
/// from elsewhere, and who is known, register all the while.
#[test]
fn million_fakes_from_one_origin_leave_its_cap_and_not_a_byte_more() {
    let shop = Shop::open();
    let cap = u64::from(shop.hub.limits().origin_burst);
    let fake = |id: u64| Registration::new(1_000_000 + id, "fake").origin("198.51.100.1");
    let taken = (0..2 * cap).filter(|id| shop.hub.register_client(&fake(*id)).is_ok()).count() as u64;
    shop.tick();
    assert_eq!((taken, shop.hub.stats().clients), (cap, cap));
    let journal = shop.disk.journal_bytes();
    let (mut calls, mut bytes) = (0, 0);
    for id in 2 * cap..1_000_000 {
        let fake = fake(id);
        let (refused, asked, kept) = counted(|| shop.hub.register_client(&fake));
        let Err(RegisterClientError::Throttled { limit, retry_after, disconnect }) = refused else {
            panic!("{refused:?}");
        };
        assert!(limit == "origin_burst" && disconnect && retry_after > Duration::ZERO);
        (calls, bytes) = (calls + asked, bytes + kept);
    }
    assert_eq!((calls, bytes), (0, 0), "a refusal costs no memory");
    shop.tick();
    assert_eq!((shop.hub.stats().clients, shop.disk.journal_bytes()), (cap, journal));
    assert_eq!(shop.hub.stats().throttled_registrations, 1_000_000 - cap);
    for id in 1..=1_000_u64 {
        let honest = Registration::new(id, name_of(id)).origin(id.to_be_bytes());
        assert!(shop.hub.register_client(&honest).unwrap().new);
        assert!(!shop.hub.register_client(&honest).unwrap().new);
    }
    assert_eq!(shop.restart().hub.stats().clients, cap + 1_000);
}

/// R65: a storm from a hundred thousand origins is bounded by the budget of all newcomers; the table of origins does not
/// grow with them.
#[test]
fn fakes_from_as_many_origins_cost_no_memory_beyond_the_cap() {
    let shop = Shop::open_with(Limits { newcomer_burst: 100, ..Limits::default() });
    let fake = |id: u64| Registration::new(id, "fake").origin(id.to_be_bytes());
    let taken = (1..=1_000).filter(|id| shop.hub.register_client(&fake(*id)).is_ok()).count();
    assert_eq!(taken, 100);
    let (mut calls, mut bytes) = (0, 0);
    for id in 1_001..=100_000 {
        let fake = fake(id);
        let (refused, asked, kept) = counted(|| shop.hub.register_client(&fake));
        assert!(matches!(
            refused,
            Err(RegisterClientError::Throttled { limit: "newcomer_burst", disconnect: true, .. })
        ));
        (calls, bytes) = (calls + asked, bytes + kept);
    }
    assert_eq!((calls, bytes, shop.hub.stats().clients), (0, 0, 100));
}

/// R65: the whole budget of newcomers, registered before the writer comes to write any of them, leaves more than half of
/// the queue to the others.
#[test]
fn full_budget_of_newcomers_leaves_room_in_the_queue() {
    let shop = Shop::open();
    let limits = shop.hub.limits().clone();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 8);
    let lease = common::claim_one(&seat);
    let wanted = u64::from(limits.newcomer_burst) + 1_000;
    let fake = |id: u64| Registration::new(10 + id, "fake").origin((id / u64::from(limits.origin_burst)).to_be_bytes());
    let taken = (0..wanted).filter(|id| shop.hub.register_client(&fake(*id)).is_ok()).count() as u64;
    // One of the budget was the honest client, and a few came back while time passed.
    assert!((0..10).contains(&taken.abs_diff(u64::from(limits.newcomer_burst))), "{taken}");
    let queued = shop.hub.stats().queued_bytes;
    assert!(queued < limits.queue_bytes / 2, "{queued} of {} bytes wait", limits.queue_bytes);
    report_all(&lease);
    report_all(&common::claim_one(&seat));
}

/// R19: who registers again, and whoever gives wrong details, costs no memory that stays and no byte of the journal, even
/// after it is throttled.
#[test]
fn repeats_and_wrong_details_leave_nothing_behind() {
    let shop = Shop::open();
    drop(shop.client(1));
    shop.tick();
    let again = Registration::new(1, name_of(1));
    drop(shop.hub.register_client(&again).unwrap());
    let wrong = [
        Registration::new(0, "zero"),
        Registration::new(2, ""),
        Registration::new(2, "a name that is too long"),
        Registration::new(2, "no-dash"),
        Registration::new(1, "another"),
    ];
    let journal = shop.disk.journal_bytes();
    let (mut repeats, mut kept) = (0, 0);
    for round in 0..10_000 {
        let (answer, _, bytes) = counted(|| shop.hub.register_client(&again).map(|registered| registered.new));
        repeats += u32::from(answer == Ok(false));
        kept += bytes;
        for registration in &wrong {
            let (answer, calls, bytes) = counted(|| shop.hub.register_client(registration));
            assert!(matches!(answer, Err(RegisterClientError::Detail(_))) && calls == 0, "round {round}: {answer:?}");
            kept += bytes;
        }
    }
    shop.tick();
    assert_eq!(repeats, shop.hub.limits().repeat_burst - 1, "the rest is throttled");
    assert_eq!((kept, shop.disk.journal_bytes(), shop.hub.stats().clients), (0, journal, 1));
}

/// What an honest client needed: its calls by kind.
#[derive(Debug, Default, PartialEq, Eq)]
struct Steps {
    claims: u32,
    not_yet_formed: u32,
    reported: u32,
    refused: u32,
}

/// An honest client registers, takes `subjects` subjects bucket by bucket and reports them, registering again now and then.
fn honest_day(shop: &Shop, service: &ServiceHandle<Plain>, subjects: u32, mut meanwhile: impl FnMut()) -> Steps {
    let mut steps = Steps::default();
    let seat = shop.seat(service, 1);
    while steps.reported < subjects {
        meanwhile();
        steps.claims += 1;
        match seat.claim(Ask::one()) {
            Ok(Claim::Leased(mut grant)) => {
                let lease = grant.pop().expect("a grant has a lease");
                report_all(&lease);
                steps.reported += u32::try_from(lease.len()).expect("buckets are small");
            }
            Ok(Claim::Empty(empty)) => {
                assert_eq!(empty.reason, EmptyReason::NotYetFormed);
                steps.not_yet_formed += 1;
                shop.settle();
            }
            Err(_) => steps.refused += 1,
        }
        if steps.claims.is_multiple_of(100) {
            steps.refused += u32::from(shop.hub.register_client(&Registration::new(1, name_of(1))).is_err());
        }
    }
    shop.tick();
    steps
}

/// R19: beside a client that registers and deregisters without pause, an honest one takes the very same steps as alone: no
/// retry, no refusal, nothing to claim later. In turns, so that it is exact.
#[test]
fn reregistering_at_full_speed_costs_others_no_step() {
    let run = |noisy: bool| {
        let shop = Shop::open();
        let service = shop.hub.register(Plain::new("plain")).unwrap();
        shop.stock(&service, 4_000);
        let again = Registration::new(2, name_of(2)).origin("198.51.100.1");
        let noise = || {
            for _ in 0..20 {
                drop(shop.hub.register_client(&again));
                if let Some(client) = shop.hub.client(2) {
                    drop(client.activate(&service));
                    drop(client.deregister());
                }
            }
        };
        let steps = honest_day(&shop, &service, 4_000, || {
            if noisy {
                noise();
            }
        });
        assert_adds_up(&shop.hub);
        (steps, shop.hub.client_stats(1).unwrap().work, shop.hub.stats().throttled_registrations)
    };
    let ((alone, work, _), (beside, same_work, throttled)) = (run(false), run(true));
    assert_eq!((alone.reported, alone.refused), (4_000, 0));
    assert_eq!((alone, work), (beside, same_work));
    assert!(throttled > 10_000, "the storm was one: {throttled} were refused");
}

/// R19: the same with the storm on threads of its own: not one call of the honest client is refused or has to be repeated.
#[test]
fn reregistering_from_other_threads_refuses_nobody_else() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    shop.stock(&service, 2_000);
    let over = AtomicBool::new(false);
    let storm = |id: u64| {
        let mut rounds = 0_u64;
        // At least some, should the honest client be quick.
        while rounds < 1_000 || !over.load(Ordering::Relaxed) {
            drop(shop.hub.register_client(&Registration::new(id, name_of(id)).origin("198.51.100.1")));
            drop(shop.hub.register_client(&Registration::new(1_000 + rounds, "fake").origin("198.51.100.1")));
            drop(shop.hub.client(id).map(|client| client.deregister()));
            rounds += 1;
        }
    };
    let steps = thread::scope(|scope| {
        let threads = [2, 3].map(|id| scope.spawn(move || storm(id)));
        let steps = honest_day(&shop, &service, 2_000, || {});
        over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        steps
    });
    let alone = {
        let shop = Shop::open();
        let service = shop.hub.register(Plain::new("plain")).unwrap();
        shop.stock(&service, 2_000);
        honest_day(&shop, &service, 2_000, || {})
    };
    assert_eq!(steps.refused, 0);
    assert_eq!((steps.claims, steps.reported), (alone.claims, alone.reported));
    // A few more than the burst came in while time passed.
    let most = 10 + u64::from(shop.hub.limits().origin_burst);
    assert!(shop.hub.stats().clients <= most, "{}", shop.hub.stats().clients);
    shop.tick();
    assert_adds_up(&shop.hub);
}
