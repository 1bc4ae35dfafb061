//! Ours: a seat a worker, which claims a bucket and submits its reports.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use commissary::{
    Ask, Durability, Hub, Limits, MemoryDisk, Policy, Registration, Reporter, Seat, Service, ServiceHandle, Ticket,
    Verdict,
};

use crate::contender::{Contender, Drained, LEASE, Setup, Worker, by_threads, report_on};

/// Submits of a worker that may be under way, where it does not wait for each.
const UNDER_WAY: usize = 64;
/// Buckets in a pool for each seat.
const BUCKETS_FOR_SEAT: u64 = 20;
/// Longer than any wait here.
const PATIENCE: Duration = Duration::from_secs(60);

struct Plain {
    bucket: usize,
}

impl Service for Plain {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        "plain"
    }

    fn policy(&self) -> Policy {
        Policy {
            bucket_subjects: self.bucket,
            pool_subjects: 1_000_000,
            leases_in_flight: 1_000_000,
            lease: LEASE,
            linger: Duration::ZERO,
            ..Policy::default()
        }
    }

    fn judge(&self, subject: &u64, report: &u64, _reporter: Reporter) -> Verdict {
        if *report == report_on(*subject) { Verdict::Accept } else { Verdict::Reject("another's".to_owned()) }
    }
}

/// When a worker goes on.
#[derive(Clone, Copy, PartialEq)]
enum Pace {
    /// When the call has returned: all other calls see it.
    Called,
    /// As above; at the end it waits until reads see the reports.
    Visible,
    /// When the report is durable.
    Each,
    /// When all but the last [`UNDER_WAY`] are durable; at the end it waits for those, too.
    Window,
}

struct Ours {
    hub: Hub,
    service: ServiceHandle<Plain>,
    seats: Vec<Seat<Plain>>,
    pace: Pace,
    on_disk: bool,
}

fn open(durability: Durability, on_disk: bool, pace: Pace, setup: &Setup<'_>) -> Box<dyn Contender> {
    let (hub, service) = hub(durability, on_disk, setup);
    // A pool is made for the seats that there are: more of them than work, so that all is in pools, as it is in the others.
    let seats = setup.items / setup.claim as u64 / BUCKETS_FOR_SEAT;
    let seats = (1..=seats.max(setup.workers as u64)).map(|id| {
        let client = hub.register_client(&Registration::new(id, format!("c{id}"))).expect("registers").client;
        client.activate(&service).expect("activates")
    });
    let seats = seats.collect();
    drop(service.pause().expect("paused"));
    let added = service.add_all(0..setup.items).expect("taken in").added;
    assert_eq!(added, setup.items);
    service.activate().expect("active").wait_visible().expect("visible");
    let patience = Instant::now() + PATIENCE;
    while service.stats().pools_formed == 0 {
        assert!(Instant::now() < patience, "a pool is formed");
        std::thread::sleep(Duration::from_millis(1));
    }
    Box::new(Ours { hub, service, seats, pace, on_disk })
}

fn hub(durability: Durability, on_disk: bool, setup: &Setup<'_>) -> (Hub, ServiceHandle<Plain>) {
    let limits =
        Limits { origin_burst: 1_000_000, newcomer_burst: 1_000_000, queue_bytes: 256 << 20, ..Limits::default() };
    let builder = Hub::builder().durability(durability).limits(limits);
    let hub =
        if on_disk { builder.open(setup.directory.join("hub")) } else { builder.open_in_memory(&MemoryDisk::new()) }
            .expect("opens");
    let service = hub.register(Plain { bucket: setup.claim }).expect("registers");
    (hub, service)
}

pub(crate) fn called(setup: &Setup<'_>) -> Box<dyn Contender> {
    open(Durability::Os, false, Pace::Called, setup)
}

pub(crate) fn visible(setup: &Setup<'_>) -> Box<dyn Contender> {
    open(Durability::Os, false, Pace::Visible, setup)
}

pub(crate) fn os(setup: &Setup<'_>) -> Box<dyn Contender> {
    open(Durability::Os, true, Pace::Each, setup)
}

pub(crate) fn os_window(setup: &Setup<'_>) -> Box<dyn Contender> {
    open(Durability::Os, true, Pace::Window, setup)
}

pub(crate) fn sync(setup: &Setup<'_>) -> Box<dyn Contender> {
    open(Durability::Sync, true, Pace::Each, setup)
}

pub(crate) fn sync_window(setup: &Setup<'_>) -> Box<dyn Contender> {
    open(Durability::Sync, true, Pace::Window, setup)
}

struct Client<'a> {
    seat: &'a Seat<Plain>,
    pace: Pace,
    under_way: VecDeque<Ticket>,
}

impl Client<'_> {
    fn submitted(&mut self, ticket: Ticket) {
        let keep = match self.pace {
            Pace::Called => 0,
            // A thread's changes are journaled in the order of its calls.
            Pace::Visible => 1,
            Pace::Each => return ticket.wait_durable().expect("becomes durable"),
            Pace::Window => UNDER_WAY,
        };
        self.under_way.push_back(ticket);
        while self.under_way.len() > keep {
            let oldest = self.under_way.pop_front().expect("one is there");
            if self.pace == Pace::Window {
                oldest.wait_durable().expect("becomes durable");
            }
        }
    }
}

impl Worker for Client<'_> {
    fn turn(&mut self, done: &mut Vec<u64>) {
        let Some(grant) = self.seat.claim(Ask::one()).expect("nothing is refused").leased() else {
            // Not for long: the last of them are another's, and nothing tells when all is done.
            let _ = self.seat.wait_ready(Duration::from_micros(200));
            return;
        };
        for lease in grant {
            let submitted = lease.submit(lease.subjects().map(|item| (item, report_on(item)))).expect("taken");
            assert_eq!(submitted.accepted(), lease.len());
            done.extend(lease.subjects());
            self.submitted(submitted.ticket);
        }
    }

    fn settle(&mut self) {
        for ticket in self.under_way.drain(..) {
            match self.pace {
                Pace::Visible => _ = ticket.wait_visible().expect("becomes visible"),
                _ => ticket.wait_durable().expect("becomes durable"),
            }
        }
    }
}

impl Contender for Ours {
    fn drain(&self, setup: &Setup<'_>) -> Drained {
        let client = |number: usize| Client { seat: &self.seats[number], pace: self.pace, under_way: VecDeque::new() };
        by_threads(setup, client)
    }

    fn left(self: Box<Self>, setup: &Setup<'_>) -> u64 {
        let Self { hub, service, seats, on_disk, .. } = *self;
        drop(seats);
        if !on_disk {
            // What the calls did is counted when it is journaled.
            let patience = Instant::now() + PATIENCE;
            while service.stats().subjects_done < setup.items && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(1));
            }
            return setup.items - service.stats().subjects_done;
        }
        hub.close().expect("closes");
        drop((hub, service));
        let (hub, service) = self::hub(Durability::Os, true, setup);
        let done = (0..setup.items)
            .filter(|item| service.result(item).expect("reads").is_some_and(|found| found.report == report_on(*item)));
        let left = setup.items - done.count() as u64;
        hub.close().expect("closes");
        left
    }
}
