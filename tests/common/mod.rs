//! What the integration tests share: a hub on virtual time, a plain service, and the usual steps of a day in the shop.
#![allow(clippy::allow_attributes, dead_code, reason = "each test crate uses its own part of these helpers")]

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use commissary::{
    Ask, Claim, Client, Crash, Empty, Hub, KeyOf, Lease, Limits, ManualClock, MemoryDisk, Outcome, Policy,
    Registration, Reporter, Seat, Service, ServiceHandle, Verdict, Work,
};

/// A manual hub, its clock and its disk. Nothing happens but by [`Shop::tick`] and [`Shop::pass`].
pub(crate) struct Shop {
    pub(crate) hub: Hub,
    pub(crate) clock: ManualClock,
    pub(crate) disk: MemoryDisk,
    limits: Limits,
}

impl Shop {
    /// An empty hub with the default limits.
    pub(crate) fn open() -> Self {
        Self::open_with(Limits::default())
    }

    pub(crate) fn open_with(limits: Limits) -> Self {
        Self::on(MemoryDisk::new(), ManualClock::default(), limits)
    }

    /// A hub on a disk that may have been used before.
    pub(crate) fn on(disk: MemoryDisk, clock: ManualClock, limits: Limits) -> Self {
        let builder = Hub::builder().manual().clock(clock.clone()).seed(7).limits(limits.clone());
        let hub = builder.open_in_memory(&disk).expect("the disk opens");
        Self { hub, clock, disk, limits }
    }

    /// A hub that was opened otherwise.
    pub(crate) fn of(hub: Hub, clock: ManualClock, disk: MemoryDisk) -> Self {
        Self { hub, clock, disk, limits: Limits::default() }
    }

    /// What a new process finds after this one crashed now. This hub goes on, on a disk of its own.
    pub(crate) fn after(&self, crash: Crash) -> Self {
        Self::on(self.disk.after(crash), self.clock.clone(), self.limits.clone())
    }

    /// Closes the hub and opens it again.
    pub(crate) fn restart(self) -> Self {
        self.hub.close().expect("the hub closes");
        let Self { disk, clock, limits, .. } = self;
        Self::on(disk, clock, limits)
    }

    pub(crate) fn tick(&self) {
        self.hub.tick();
    }

    /// Lets time pass in one step, then does what has become due.
    pub(crate) fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.hub.tick();
    }

    /// Lets a little more than the default linger pass: everything that waits is in a pool, if the pools have room.
    pub(crate) fn settle(&self) {
        self.hub.tick();
        self.pass(Duration::from_millis(101));
    }

    /// Registers the clients 1 to `n`, under the names `client_1` and so on.
    pub(crate) fn clients(&self, n: u64) -> Vec<Client> {
        (1..=n).map(|id| self.client(id)).collect()
    }

    /// Registers one client.
    pub(crate) fn client(&self, id: u64) -> Client {
        let registration = Registration::new(id, name_of(id));
        self.hub.register_client(&registration).expect("the details are right").client
    }

    /// Registers the clients 1 to `n` and activates them.
    pub(crate) fn seats<S: Service>(&self, service: &ServiceHandle<S>, n: u64) -> Vec<Seat<S>> {
        self.clients(n).iter().map(|client| client.activate(service).expect("the service is ready")).collect()
    }

    /// Registers client `id` and activates it.
    pub(crate) fn seat<S: Service>(&self, service: &ServiceHandle<S>, id: u64) -> Seat<S> {
        self.client(id).activate(service).expect("the service is ready")
    }

    /// Adds the users 1 to `n` and publishes them, a last short bucket included.
    pub(crate) fn stock(&self, service: &ServiceHandle<Plain>, n: u64) {
        let intake = service.add_all(1..=n).expect("there is room");
        assert_eq!(intake.added, n, "all of them are new");
        self.settle();
    }

    /// Lets `seat` claim and report until nothing is left to claim; returns how many subjects it reported.
    pub(crate) fn drive_to_quiet(&self, seat: &Seat<Plain>) -> usize {
        let mut reported = 0;
        // Once more after nothing was found: short tails and subjects put back are offered with time.
        for _ in 0..2 {
            self.settle();
            while let Claim::Leased(grant) = seat.claim(Ask::buckets(10)).expect("the seat is active") {
                for lease in grant {
                    reported += lease.len();
                    report_all(&lease);
                }
                self.settle();
            }
        }
        reported
    }
}

/// The name under which [`Shop::client`] registers an id.
pub(crate) fn name_of(id: u64) -> String {
    format!("client_{id}")
}

/// The defaults, but for what tests cannot count with: deadlines are not spread, and subjects put back are as good as
/// always offered first, alone, and to whoever asks.
pub(crate) fn exact() -> Policy {
    Policy { expiry_spread: 0, cooldown: Duration::ZERO, company: 0, ordinary_share: 10_000, ..Policy::default() }
}

/// A queue that is full for everyone at once, at 4 KiB.
pub(crate) fn unranked() -> Limits {
    Limits { queue_bytes: 4_096, admit_newcomers_percent: 100, admit_claims_percent: 100, ..Limits::default() }
}

/// A service over numbers. The report `bad` is rejected, the report `panic` breaks the plugin, all others are accepted.
#[derive(Debug, Clone)]
pub(crate) struct Plain {
    id: String,
    policy: Policy,
}

impl Plain {
    pub(crate) fn new(id: &str) -> Self {
        Self::with(id, |_| {})
    }

    /// With some settings changed from [`exact`].
    pub(crate) fn with(id: &str, change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = exact();
        change(&mut policy);
        Self { id: id.to_owned(), policy }
    }
}

impl Service for Plain {
    type Subject = u64;
    type Report = String;

    fn id(&self) -> &str {
        &self.id
    }

    fn policy(&self) -> Policy {
        self.policy.clone()
    }

    fn judge(&self, _user: &u64, report: &String, _reporter: Reporter) -> Verdict {
        assert_ne!(report, "panic", "as the report asked for");
        if report == "bad" { Verdict::Reject("bad".to_owned()) } else { Verdict::Accept }
    }
}

/// A service over a graph: a report on a number names the numbers that it leads to, all of them discoveries.
#[derive(Debug, Clone)]
pub(crate) struct Web(pub(crate) Policy);

impl Service for Web {
    type Subject = u64;
    type Report = Vec<u64>;

    fn id(&self) -> &'static str {
        "web"
    }

    fn policy(&self) -> Policy {
        self.0.clone()
    }

    fn judge(&self, _place: &u64, _leads_to: &Vec<u64>, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }

    fn discover(&self, _place: &u64, leads_to: &Vec<u64>, found: &mut Vec<u64>) {
        found.extend(leads_to);
    }
}

/// Claims `n` buckets and expects to get exactly so many.
pub(crate) fn claim<S: Service>(seat: &Seat<S>, n: u32) -> Vec<Lease<S>> {
    let leases: Vec<_> = match seat.claim(Ask::buckets(n)).expect("the claim is not refused") {
        Claim::Leased(grant) => grant.into_iter().collect(),
        Claim::Empty(empty) => panic!("nothing to claim: {empty:?}"),
    };
    assert_eq!(leases.len(), n as usize, "as many buckets as asked for");
    leases
}

/// Claims one bucket and expects to get it.
pub(crate) fn claim_one<S: Service>(seat: &Seat<S>) -> Lease<S> {
    claim(seat, 1).remove(0)
}

/// Claims and expects to get nothing; says why.
pub(crate) fn claim_nothing<S: Service>(seat: &Seat<S>) -> Empty {
    match seat.claim(Ask::one()).expect("the claim is not refused") {
        Claim::Leased(grant) => panic!("{} buckets where none was expected", grant.len()),
        Claim::Empty(empty) => empty,
    }
}

/// The same report on every subject of a lease.
pub(crate) fn reports(lease: &Lease<Plain>, report: &str) -> Vec<(KeyOf<Plain>, String)> {
    lease.subjects().map(|user| (user, report.to_owned())).collect()
}

/// Submits the report `ok` for every subject, and expects that all are accepted.
pub(crate) fn report_all(lease: &Lease<Plain>) {
    let submitted = lease.submit(reports(lease, "ok")).expect("the lease is alive");
    assert_eq!(submitted.outcomes, vec![Outcome::Accepted; lease.len()]);
    assert_eq!((submitted.put_back, submitted.kept), (0, false), "the lease is over");
}

/// I2: at a quiet moment `assigned = processed + put back + held`, for each client, each service and the hub, and the
/// services make up the hub. Looks at the clients 1 to 100. And, while the hub works: every subject is in its place.
pub(crate) fn assert_adds_up(hub: &Hub) {
    if hub.health().is_ok() {
        let audit = hub.recount().expect("there is a quiet moment");
        assert!(audit.is_balanced(), "{audit}");
        for service in &audit.services {
            assert_eq!(service.total(), service.entered, "{service:?}");
        }
    }
    let stats = hub.stats();
    let mut sum = Work::default();
    for service in &stats.services {
        assert!(service.work.adds_up(), "service {}: {:?}", service.id, service.work);
        assert!(service.subjects_done <= service.subjects_known, "service {}: {service:?}", service.id);
        sum += service.work;
    }
    assert!(stats.work.adds_up(), "{:?}", stats.work);
    assert_eq!(stats.work, sum, "the hub is the sum over its services");
    for client in (1..=100).filter_map(|id| hub.client_stats(id)) {
        assert!(client.work.adds_up(), "{client:?}");
        for seat in &client.seats {
            assert!(seat.work.adds_up(), "{seat:?}");
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs one future on this thread, with nothing but `std`.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
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
