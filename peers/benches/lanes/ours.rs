//! Ours: a lane a key, worked on by the crate's own threads ([`Hub::run_lanes`]), or by two threads that take leases by hand.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use chrono::{DateTime, Utc};
use commissary::{
    Ask, Claim, Durability, EventKind, EventTail, Hub, LaneHandler, LaneKey, LaneThreads, Lease, MemoryDisk, Policy,
    Registration, Reporter, Seat, Service, ServiceHandle, Verdict,
};

use crate::contender::{Contender, Setup};
use crate::work::{Order, SENDERS, State};

/// Orders in a bucket: as many as a lane's can have, and the default.
const LARGE: usize = 63;
const SMALL: usize = 4;
/// Longer than any wait here.
const PATIENCE: Duration = Duration::from_secs(60);

struct Kitchen {
    bucket: usize,
}

impl Service for Kitchen {
    type Subject = u64;
    type Report = bool;

    fn id(&self) -> &'static str {
        "kitchen"
    }

    fn policy(&self) -> Policy {
        Policy { bucket_subjects: self.bucket, linger: Duration::ZERO, lane_subjects: 1_000_000, ..Policy::default() }
    }

    fn judge(&self, _order: &u64, _enough: &bool, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }

    fn lane(&self, order: &u64) -> Option<LaneKey> {
        Some(LaneKey::from(Order(*order).key()))
    }
}

/// Executes orders, and notes the states that were asked for.
#[derive(Clone, Default)]
struct Cook {
    stock: u64,
    told: Arc<Mutex<HashMap<u32, State>>>,
}

impl Cook {
    fn execute(&self, state: &mut State, order: u64) -> bool {
        let order = Order(order);
        if order.is_probe() {
            self.told.lock().expect("nobody panicked").insert(order.key(), state.clone());
            return false;
        }
        state.execute(order, self.stock)
    }
}

impl LaneHandler<Kitchen> for Cook {
    type State = State;

    fn handle(&self, _lane: &LaneKey, state: &mut State, order: &u64, _at: DateTime<Utc>) -> bool {
        self.execute(state, *order)
    }
}

enum Workers {
    Handlers(LaneThreads),
    ByHand(Vec<JoinHandle<()>>, Arc<AtomicBool>),
}

struct Lanes {
    hub: Hub,
    service: ServiceHandle<Kitchen>,
    cook: Cook,
    workers: Workers,
    keys: u32,
    answers: OnceLock<Arc<Answers>>,
}

/// What became known of each sender's orders, and who waits for it.
#[derive(Default)]
struct Answers {
    known: [AtomicU32; SENDERS],
    senders: [OnceLock<Thread>; SENDERS],
}

impl Answers {
    /// Reads the events until the hub is closed. An event is there to be read once it is as durable as the hub promises.
    fn follow(&self, events: EventTail) {
        for event in events {
            let EventKind::Reported { reports, .. } = event.expect("an event").kind else { continue };
            for order in reports.iter().filter_map(|report| report.key.read().map(Order)) {
                self.known[order.sender()].store(order.number() + 1, Ordering::Release);
                if let Some(sender) = self.senders[order.sender()].get() {
                    sender.unpark();
                }
            }
        }
    }
}

/// Where the journal is, and what its answers say.
#[derive(Clone, Copy)]
enum Disk {
    Memory,
    Os,
    Sync,
}

fn hub(disk: Disk, setup: &Setup<'_>) -> Hub {
    let durability = if let Disk::Sync = disk { Durability::Sync } else { Durability::Os };
    let builder = Hub::builder().durability(durability);
    match disk {
        Disk::Memory => builder.open_in_memory(&MemoryDisk::new()),
        Disk::Os | Disk::Sync => builder.open(setup.directory.join("hub")),
    }
    .expect("opens")
}

fn handlers(disk: Disk, bucket: usize, threads: usize, setup: &Setup<'_>) -> Box<dyn Contender> {
    let hub = hub(disk, setup);
    let service = hub.register(Kitchen { bucket }).expect("registers");
    let cook = Cook { stock: setup.stock, ..Cook::default() };
    let workers = Workers::Handlers(hub.run_lanes(&service, cook.clone(), threads).expect("runs"));
    Box::new(Lanes { hub, service, cook, workers, keys: setup.spread.keys(), answers: OnceLock::new() })
}

pub(crate) fn memory_1(setup: &Setup<'_>) -> Box<dyn Contender> {
    handlers(Disk::Memory, LARGE, 1, setup)
}

pub(crate) fn memory_2(setup: &Setup<'_>) -> Box<dyn Contender> {
    handlers(Disk::Memory, LARGE, 2, setup)
}

pub(crate) fn memory_small(setup: &Setup<'_>) -> Box<dyn Contender> {
    handlers(Disk::Memory, SMALL, 2, setup)
}

pub(crate) fn sync_small(setup: &Setup<'_>) -> Box<dyn Contender> {
    handlers(Disk::Sync, SMALL, 2, setup)
}

pub(crate) fn os_2(setup: &Setup<'_>) -> Box<dyn Contender> {
    handlers(Disk::Os, LARGE, 2, setup)
}

pub(crate) fn sync_1(setup: &Setup<'_>) -> Box<dyn Contender> {
    handlers(Disk::Sync, LARGE, 1, setup)
}

pub(crate) fn sync_2(setup: &Setup<'_>) -> Box<dyn Contender> {
    handlers(Disk::Sync, LARGE, 2, setup)
}

fn by_hand(disk: Disk, setup: &Setup<'_>) -> Box<dyn Contender> {
    let hub = hub(disk, setup);
    let service = hub.register(Kitchen { bucket: LARGE }).expect("registers");
    let cook = Cook { stock: setup.stock, ..Cook::default() };
    let stopping = Arc::new(AtomicBool::new(false));
    let work = |id: u64| {
        let registered = hub.register_client(&Registration::new(id, format!("worker_{id}"))).expect("registers");
        let seat = registered.client.activate(&service).expect("activates");
        let (cook, stopping) = (cook.clone(), Arc::clone(&stopping));
        thread::spawn(move || work_by_hand(&seat, &cook, &stopping))
    };
    let workers = Workers::ByHand(vec![work(1), work(2)], Arc::clone(&stopping));
    Box::new(Lanes { hub, service, cook, workers, keys: setup.spread.keys(), answers: OnceLock::new() })
}

pub(crate) fn memory_by_hand(setup: &Setup<'_>) -> Box<dyn Contender> {
    by_hand(Disk::Memory, setup)
}

pub(crate) fn sync_by_hand(setup: &Setup<'_>) -> Box<dyn Contender> {
    by_hand(Disk::Sync, setup)
}

/// Takes ten buckets at a time, of as many lanes.
fn work_by_hand(seat: &Seat<Kitchen>, cook: &Cook, stopping: &AtomicBool) {
    while !stopping.load(Ordering::Acquire) {
        match seat.claim(Ask::buckets(10)).expect("an answer") {
            Claim::Leased(grant) => grant.into_iter().for_each(|lease| execute(&lease, cook)),
            Claim::Empty(_) => _ = seat.wait_ready(Duration::from_millis(20)),
        }
    }
}

fn execute(lease: &Lease<Kitchen>, cook: &Cook) {
    let mut state: State = lease.lane().expect("a lane").state().expect("a state");
    let reports: Vec<(u64, bool)> = lease.owed().map(|order| (order, cook.execute(&mut state, order))).collect();
    let submitted = lease.submit_lane(reports, &state).expect("taken");
    assert!(!submitted.kept, "{submitted:?}");
}

impl Lanes {
    fn done(&self) -> u64 {
        self.service.stats().subjects_done
    }

    fn wait_for(&self, subjects: u64) {
        let began = std::time::Instant::now();
        while self.done() < subjects {
            assert!(began.elapsed() < PATIENCE, "{} of {subjects}: {:?}", self.done(), self.service.stats());
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn answers(&self) -> &Answers {
        self.answers.get_or_init(|| {
            let (answers, events) = (Arc::new(Answers::default()), self.hub.follow(0).expect("follows"));
            let follower = Arc::clone(&answers);
            thread::spawn(move || follower.follow(events));
            answers
        })
    }
}

impl Contender for Lanes {
    fn send(&self, orders: &[Order]) {
        // In records of 1,024, four of them under way.
        let intake = self.service.add_all(orders.iter().map(|order| order.0)).expect("taken in");
        assert_eq!(intake.added, orders.len() as u64);
    }

    fn settle(&self, orders: usize) {
        self.wait_for(orders as u64);
    }

    fn call(&self, order: Order) {
        let answers = self.answers();
        answers.senders[order.sender()].get_or_init(thread::current);
        drop(self.service.add(&order.0).expect("taken in"));
        while answers.known[order.sender()].load(Ordering::Acquire) <= order.number() {
            thread::park();
        }
    }

    fn states(self: Box<Self>) -> Vec<State> {
        // What was answered is durable by then, but perhaps not counted.
        while self.service.stats().subjects_pending() > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        let before = self.done();
        self.send(&(0..self.keys).map(Order::probe).collect::<Vec<_>>());
        self.wait_for(before + u64::from(self.keys));
        match self.workers {
            Workers::Handlers(threads) => drop(threads.stop().expect("stopped")),
            Workers::ByHand(threads, stopping) => {
                stopping.store(true, Ordering::Release);
                for thread in threads {
                    thread.join().expect("nobody panicked");
                }
            }
        }
        self.hub.close().expect("closes");
        let mut told = self.cook.told.lock().expect("nobody panicked");
        (0..self.keys).map(|key| told.remove(&key).expect("every key was asked")).collect()
    }
}
