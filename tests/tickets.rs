//! Tickets: polled, waited for, awaited or dropped; and the waiting for work.

#[expect(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use commissary::{
    Ask, Claim, EmptyReason, Hub, HubError, Intake, MemoryDisk, Outcome, Progress, Registration, Seat, ServiceHandle,
    SubjectState, TicketError,
};
use support::{Doubling, Rig, keys, ms, none, one, policy, right};

/// Longer than any test takes: a wait that ends by it has failed.
const EVER: Duration = Duration::from_secs(300);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs one future on this thread, with nothing but `std`.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

fn threaded() -> (Hub, ServiceHandle<Doubling>, Seat<Doubling>) {
    let hub = Hub::builder().seed(1).open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Doubling(policy(|policy| policy.linger = ms(1)))).unwrap();
    let client = hub.register_client(&Registration::new(1, "a")).unwrap().client;
    let seat = client.activate(&service).unwrap();
    (hub, service, seat)
}

/// R37, R106: a ticket is pending until the change is written; durable comes before visible, and visible says what was taken in.
#[test]
fn ticket_is_pending_then_durable_then_visible() {
    let rig = Rig::new(policy(|_| {}));
    let ticket = rig.service.add(&7).unwrap();
    assert_eq!((ticket.progress(), ticket.position()), (Ok(Progress::Pending), None));
    assert_eq!(rig.service.subject_state(&7).unwrap(), SubjectState::Unknown);
    assert_eq!(ticket.wait_durable(), Err(TicketError::Manual));
    assert_eq!(ticket.wait_visible(), Err(TicketError::Manual));
    rig.hub.tick();
    assert_eq!(ticket.progress(), Ok(Progress::Visible));
    let intake = ticket.wait_visible().unwrap();
    assert_eq!((intake.added, intake.duplicates, intake.cut), (1, 0, 0));
    assert_eq!(rig.service.subject_state(&7).unwrap(), SubjectState::Pending);
    let mut again = rig.service.add(&7).unwrap();
    rig.hub.tick();
    let intake = block_on(again.visible()).unwrap();
    assert_eq!((intake.added, intake.duplicates, intake.cut), (0, 1, 0));
    assert!(again.position().unwrap() > ticket.position().unwrap(), "positions follow the order of the journal");
    rig.assert_adds_up();
}

/// A call that changed nothing has a ticket that is resolved at once, with no position.
#[test]
fn ticket_of_a_call_that_changed_nothing_is_resolved() {
    let rig = Rig::new(policy(|_| {}));
    let registered = rig.hub.register_client(&Registration::new(1, "a")).unwrap();
    assert_eq!((registered.new, registered.ticket.progress()), (true, Ok(Progress::Pending)));
    let again = rig.hub.register_client(&Registration::new(1, "a")).unwrap();
    assert_eq!((again.new, again.ticket.progress(), again.ticket.position()), (false, Ok(Progress::Visible), None));
    again.ticket.wait_durable().unwrap();
    assert_eq!(again.ticket.wait_visible(), Ok(Intake::default()));
    rig.assert_adds_up();
}

/// R37, R106: threads that wait for their tickets are woken; what was told visible is read and counted.
#[test]
fn waiting_threads_are_woken_and_read_what_they_were_told() {
    const EACH: u64 = 300;
    let (hub, service, _seat) = threaded();
    let start = Barrier::new(2);
    thread::scope(|scope| {
        for half in 0..2 {
            let (service, start) = (&service, &start);
            scope.spawn(move || {
                start.wait();
                for n in 0..EACH {
                    let ticket = service.add(&(n * 2 + half)).unwrap();
                    if n % 2 == 0 {
                        ticket.wait_durable().unwrap();
                        assert!(ticket.position().is_some());
                    }
                    assert_eq!(ticket.wait_visible().unwrap().added, 1);
                    assert_eq!(service.subject_state(&(n * 2 + half)).unwrap(), SubjectState::Pending);
                    assert!(service.stats().subjects_known > n, "told visible, but not counted");
                }
            });
        }
    });
    assert_eq!(service.stats().subjects_known, EACH * 2);
    assert!(hub.stats().work.adds_up());
}

/// One thread at a time: each change is counted by the time its ticket is visible.
#[test]
fn visible_change_is_counted() {
    let (hub, service, _seat) = threaded();
    for n in 0..2_000 {
        service.add(&n).unwrap().wait_visible().unwrap();
        assert_eq!(service.stats().subjects_known, n + 1);
    }
    assert!(hub.stats().work.adds_up());
}

/// R37, R106: a ticket can be awaited without any runtime, by halves.
#[test]
fn tickets_can_be_awaited_with_std_alone() {
    let (hub, service, seat) = threaded();
    for n in 0..100 {
        let mut ticket = service.add(&n).unwrap();
        block_on(async {
            ticket.durable().await.unwrap();
            assert!(ticket.position().is_some());
            assert_eq!(ticket.visible().await.unwrap().added, 1);
        });
    }
    let mut done = 0;
    while done < 100 {
        block_on(seat.ready());
        for lease in seat.claim(Ask::buckets(10)).unwrap().leased().into_iter().flatten() {
            let owed = keys(&lease);
            let mut submitted = lease.submit(right(&owed)).unwrap();
            assert_eq!(submitted.outcomes, vec![Outcome::Accepted; owed.len()]);
            block_on(submitted.ticket.visible()).unwrap();
            for key in &owed {
                assert_eq!(service.result(key).unwrap().unwrap().report, key * 2);
            }
            done += owed.len();
        }
    }
    assert_eq!(service.stats().subjects_done, 100);
    assert!(hub.stats().work.adds_up());
}

/// A dropped ticket changes nothing about its change; nor does a wait that was begun and dropped.
#[test]
fn dropped_tickets_and_dropped_waits_change_nothing() {
    let rig = Rig::new(policy(|_| {}));
    drop(rig.service.add(&1).unwrap());
    let mut ticket = rig.service.add(&2).unwrap();
    {
        let mut wait = pin!(ticket.visible());
        let mut context = Context::from_waker(Waker::noop());
        assert!(wait.as_mut().poll(&mut context).is_pending());
    }
    rig.hub.tick();
    assert_eq!(block_on(ticket.visible()).unwrap().added, 1);
    assert_eq!(rig.service.subject_state(&1).unwrap(), SubjectState::Pending);
    assert_eq!(rig.service.stats().subjects_known, 2);
    rig.assert_adds_up();
}

/// Closing writes what waits: every ticket resolves, pending ones to visible; afterwards everything is refused.
#[test]
fn after_close_every_ticket_is_resolved() {
    for by_hand in [true, false] {
        let disk = MemoryDisk::new();
        let builder = Hub::builder().seed(1);
        let builder = if by_hand { builder.manual() } else { builder };
        let hub = builder.open_in_memory(&disk).unwrap();
        let service = hub.register(Doubling(policy(|_| {}))).unwrap();
        let tickets: Vec<_> = (0..500).map(|n| service.add(&n).unwrap()).collect();
        hub.close().unwrap();
        for ticket in &tickets {
            assert_eq!(ticket.progress(), Ok(Progress::Visible), "by hand: {by_hand}");
            assert_eq!(ticket.wait_visible().unwrap().added, 1);
        }
        let refused = service.add(&500).unwrap_err();
        assert!(matches!(refused, commissary::AddError::Hub { taken: 0, source: HubError::Closed }), "{refused}");
        assert_eq!(hub.health(), Err(HubError::Closed));
        hub.close().unwrap();
        assert!(hub.stats().work.adds_up());
        let rig = Rig::on(&disk, policy(|_| {}), 2);
        assert_eq!(rig.service.stats().subjects_known, 500);
    }
}

/// Tickets made while the hub is being closed resolve too: as visible, or as closed, and what was visible is there after
/// opening again; nothing else is.
#[test]
fn tickets_that_race_with_close_resolve_to_the_truth() {
    for round in 0..40 {
        let disk = MemoryDisk::new();
        let hub = Hub::builder().seed(round).open_in_memory(&disk).unwrap();
        let service = hub.register(Doubling(policy(|_| {}))).unwrap();
        let start = Barrier::new(2);
        let resolved: Vec<bool> = thread::scope(|scope| {
            let adder = scope.spawn(|| {
                start.wait();
                let mut resolved = Vec::new();
                for n in 0..10_000 {
                    match service.add(&n) {
                        Ok(ticket) => match ticket.wait_visible() {
                            Ok(intake) => resolved.push(intake.added == 1),
                            Err(error) => {
                                assert_eq!(error, TicketError::Closed);
                                resolved.push(false);
                            }
                        },
                        Err(error) => {
                            let closed = commissary::AddError::Hub { taken: 0, source: HubError::Closed };
                            assert_eq!(error, closed);
                            break;
                        }
                    }
                }
                resolved
            });
            start.wait();
            hub.close().unwrap();
            adder.join().unwrap()
        });
        let rig = Rig::on(&disk, policy(|_| {}), 2);
        for (n, visible) in resolved.iter().enumerate() {
            let state = rig.service.subject_state(&(n as u64)).unwrap();
            let expected = if *visible { SubjectState::Pending } else { SubjectState::Unknown };
            assert_eq!(state, expected, "round {round}, subject {n}");
        }
    }
}

/// G2: who waits for work is woken when it is published, as a thread or as a task; a manual hub answers at once.
#[test]
fn who_waits_for_work_is_woken_by_publication() {
    for as_task in [false, true] {
        let (hub, service, seat) = threaded();
        assert!(matches!(seat.claim(Ask::one()).unwrap(), Claim::Empty(_)));
        let start = Barrier::new(2);
        let got = thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                start.wait();
                if as_task {
                    block_on(seat.ready());
                } else {
                    assert!(seat.wait_ready(EVER));
                }
                seat.claim(Ask::one()).unwrap().leased().map_or(0, |grant| grant.len())
            });
            start.wait();
            assert_eq!(service.add_all(0..4).unwrap().added, 4);
            waiter.join().unwrap()
        });
        assert_eq!(got, 1, "as a task: {as_task}");
        assert!(!seat.wait_ready(Duration::ZERO) || service.stats().work.buckets_put_back == 1);
        hub.close().unwrap();
    }
    let rig = Rig::new(policy(|_| {}));
    let seat = rig.seat(1);
    assert!(!seat.wait_ready(EVER), "nothing is published, and nobody will");
    rig.add(0..4);
    assert!(seat.wait_ready(Duration::ZERO));
    let lease = one(&seat);
    assert!(!seat.wait_ready(EVER));
    assert_eq!(none(&seat).reason, EmptyReason::NothingPending);
    drop(lease);
    rig.hub.tick();
    assert!(seat.wait_ready(Duration::ZERO), "what was put back can be claimed");
    rig.assert_adds_up();
}

/// Who waits for work is woken when the hub is closed, and told that there is none.
#[test]
fn who_waits_for_work_is_woken_by_close() {
    for round in 0..50 {
        let (hub, _service, seat) = threaded();
        let start = Barrier::new(3);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                assert!(!seat.wait_ready(EVER), "round {round}");
            });
            scope.spawn(|| {
                start.wait();
                block_on(seat.ready());
            });
            start.wait();
            hub.close().unwrap();
        });
        assert_eq!(seat.claim(Ask::one()).unwrap_err(), commissary::ClaimError::Hub(HubError::Closed));
    }
}
