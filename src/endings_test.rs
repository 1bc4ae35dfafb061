//! However a hub ends, nobody waits for it for ever, and nothing is given twice after it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use crate::services::FollowerCheck;
use crate::*;

fn small() -> FollowerCheck {
    FollowerCheck::with(Policy { bucket_subjects: 1, ..Policy::default() })
}

fn client(hub: &Hub, id: u64) -> Client {
    hub.register_client(&Registration::new(id, "a")).unwrap().client
}

/// A hub that has nothing left to sync: each group is synced at once, but after its tickets were resolved.
fn failing() -> (Hub, ServiceHandle<FollowerCheck>, MemoryDisk) {
    let disk = MemoryDisk::new();
    let hub = Hub::builder().durability(Durability::Every(Duration::ZERO)).open_in_memory(&disk).unwrap();
    let service = hub.register(small()).unwrap();
    service.add(&1).unwrap().wait_visible().unwrap();
    while disk.journal().synced() < disk.journal().bytes().len() {
        thread::yield_now();
    }
    (hub, service, disk)
}

#[test]
fn tickets_of_a_poisoned_hub_are_answered() {
    let (hub, service, disk) = failing();
    disk.journal().fail_sync_after(0);
    let ticket = service.add(&2).unwrap();
    // Either may come first: the poison, or the batch that makes it visible. None of the two hangs.
    ticket.wait_durable().unwrap();
    assert!(matches!(ticket.wait_visible(), Ok(_) | Err(TicketError::NotVisible)));
    while hub.health().is_ok() {
        thread::yield_now();
    }
    assert!(hub.close().is_err());
    assert!(matches!(ticket.wait_visible(), Ok(_) | Err(TicketError::NotVisible)));
}

#[test]
fn those_who_wait_for_work_go_when_the_hub_is_poisoned() {
    let (hub, service, disk) = failing();
    let seat = client(&hub, 1).activate(&service).unwrap();
    while !seat.wait_ready(Duration::from_secs(60)) {}
    let _ = seat.claim(Ask::one()).unwrap().leased().unwrap().pop().unwrap().into_token();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| seat.wait_ready(Duration::MAX));
        disk.journal().fail_sync_after(0);
        let _ = hub.register_client(&Registration::new(2, "b"));
        assert!(!waiting.join().unwrap());
    });
    assert!(matches!(hub.health(), Err(HubError::Poisoned { .. })));
}

#[test]
fn closed_hub_is_never_ready() {
    let hub = Hub::builder().open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(small()).unwrap();
    service.add_all(0..10).unwrap();
    let seat = client(&hub, 1).activate(&service).unwrap();
    assert!(seat.wait_ready(Duration::MAX));
    hub.close().unwrap();
    assert!(!seat.wait_ready(Duration::MAX));
}

#[test]
fn wakers_panic_is_not_the_writers() {
    struct Rude;
    impl Wake for Rude {
        fn wake(self: Arc<Self>) {
            panic!("a rude waker");
        }
    }
    let hub = Hub::builder().open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(small()).unwrap();
    let waker = Waker::from(Arc::new(Rude));
    for key in 0..100 {
        let mut ticket = service.add(&key).unwrap();
        let first = pin!(ticket.visible()).poll(&mut Context::from_waker(&waker));
        assert!(matches!(first, Poll::Pending | Poll::Ready(Ok(_))));
    }
    assert_eq!(service.add(&0).unwrap().wait_visible().unwrap().duplicates, 1);
    hub.close().unwrap();
}

#[test]
fn lowered_limit_of_seats_gives_no_lease_away() {
    let (disk, clock) = (MemoryDisk::new(), ManualClock::default());
    let open = |seats: u32| {
        let limits = Limits { seats, ..Limits::default() };
        let hub = Hub::builder().manual().clock(clock.clone()).limits(limits).open_in_memory(&disk).unwrap();
        let service = hub.register(small()).unwrap();
        hub.tick();
        (hub, service)
    };
    let (hub, service) = open(2);
    service.add_all([1, 2]).unwrap();
    hub.tick();
    for id in [1, 2] {
        let seat = client(&hub, id).activate(&service).unwrap();
        let _ = seat.claim(Ask::one()).unwrap().leased().unwrap().pop().unwrap().into_token();
    }
    hub.close().unwrap();
    for seats in [1, 2] {
        let (hub, service) = open(seats);
        let mut held = Vec::new();
        for id in [1, 2] {
            let seat = client(&hub, id).activate(&service).unwrap();
            assert!(matches!(seat.claim(Ask::one()).unwrap(), Claim::Empty(_)), "both subjects are leased");
            held.extend(seat.leases().unwrap().into_iter().flat_map(|lease| lease.subjects));
        }
        held.sort_unstable();
        assert_eq!(held, [1, 2]);
        assert!(hub.stats().work.adds_up());
        hub.close().unwrap();
    }
}

#[test]
fn longest_times_are_taken_or_refused_but_never_overflow() {
    let disk = MemoryDisk::new();
    for _ in 0..2 {
        let hub = Hub::builder().durability(Durability::Every(Duration::MAX)).open_in_memory(&disk).unwrap();
        let policy = Policy { linger: Duration::MAX, ..Policy::default() };
        let refused = hub.register(FollowerCheck::with(policy)).unwrap_err();
        assert!(matches!(refused, RegisterServiceError::Policy { field: "linger", .. }));
        let service = hub.register(small()).unwrap();
        service.add(&1).unwrap().wait_visible().unwrap();
        hub.close().unwrap();
    }
}

#[test]
fn deregistration_does_not_undo_a_newer_activation() {
    let limits = Limits { repeat_burst: u32::MAX, ..Limits::default() };
    let hub = Hub::builder().limits(limits).open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(small()).unwrap();
    let registered = client(&hub, 1);
    for _ in 0..500 {
        client(&hub, 1).activate(&service).unwrap();
        thread::scope(|scope| {
            let leaving = scope.spawn(|| registered.deregister());
            while registered.is_registered() {
                thread::yield_now();
            }
            let seat = client(&hub, 1).activate(&service).unwrap();
            drop(leaving.join().unwrap().unwrap());
            assert_eq!(seat.state(), SeatState::Active);
        });
    }
}

/// Adds to its own service, asks for its statistics and claims, from inside `judge` and `discover`.
struct Curious(std::sync::OnceLock<(ServiceHandle<CuriousRef>, Seat<CuriousRef>)>);

struct CuriousRef(Arc<Curious>);

impl CuriousRef {
    fn ask(&self) {
        let (service, seat) = self.0.0.get().unwrap();
        drop(service.add(&99).unwrap());
        assert!(service.stats().work.adds_up());
        assert!(seat.claim(Ask::one()).is_ok());
    }
}

impl Service for CuriousRef {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        "curious"
    }

    fn policy(&self) -> Policy {
        Policy { bucket_subjects: 1, max_depth: 1, ..Policy::default() }
    }

    fn judge(&self, _: &u64, _: &u64, _: Reporter) -> Verdict {
        self.ask();
        Verdict::Accept
    }

    fn discover(&self, _: &u64, _: &u64, _: &mut Vec<u64>) {
        self.ask();
    }
}

#[test]
fn plugins_may_call_the_hub_back() {
    let hub = Hub::builder().manual().open_in_memory(&MemoryDisk::new()).unwrap();
    let curious = Arc::new(Curious(std::sync::OnceLock::new()));
    let service = hub.register(CuriousRef(Arc::clone(&curious))).unwrap();
    service.add_all(0..4).unwrap();
    hub.tick();
    let seat = client(&hub, 1).activate(&service).unwrap();
    assert!(curious.0.set((service.clone(), seat.clone())).is_ok());
    let lease = seat.claim(Ask::one()).unwrap().leased().unwrap().pop().unwrap();
    let key = lease.subjects().next().unwrap();
    let submitted = lease.submit([(key, 1)]).unwrap();
    assert_eq!(submitted.accepted(), 1);
    hub.tick();
    submitted.ticket.wait_visible().unwrap();
    assert_eq!((service.stats().panics, service.stats().subjects_known), (0, 5));
}
