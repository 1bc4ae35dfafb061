//! A hub in memory and those who work there.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use commissary::{
    Ask, Claim, Hub, KeyOf, Lease, Limits, ManualClock, MemoryDisk, Policy, Registration, Reporter, Seat, Service,
    ServiceHandle, Subject, Ticket, Verdict,
};
use serde::{Deserialize, Serialize};

/// Active seats of each service: enough for pools of the default size, whatever else is different.
pub(crate) const SEATS: u64 = 256;
/// Longer than any wait here.
const PATIENCE: Duration = Duration::from_secs(60);

/// No bound but the one that is measured.
pub(crate) fn wide() -> Limits {
    Limits { newcomer_burst: u32::MAX, origin_burst: u32::MAX, repeat_burst: u32::MAX, ..Limits::default() }
}

/// Subjects of numbers, reports of text.
#[derive(Debug, Clone)]
pub(crate) struct Plain {
    pub(crate) id: String,
    pub(crate) policy: Policy,
}

impl Plain {
    pub(crate) fn new(id: &str, change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy { linger: Duration::ZERO, ..Policy::default() };
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

    fn judge(&self, _subject: &u64, report: &String, _reporter: Reporter) -> Verdict {
        if report == "bad" { Verdict::Reject("bad".to_owned()) } else { Verdict::Accept }
    }
}

/// A subject with a key and a body of any size.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Parcel {
    #[serde(skip)]
    pub(crate) key: String,
    pub(crate) body: String,
}

impl Subject for Parcel {
    type Key = String;

    fn key(&self) -> String {
        self.key.clone()
    }

    fn read(key: &[u8], body: &[u8]) -> Result<Self, String> {
        let read: Self = postcard::from_bytes(body).map_err(|error| error.to_string())?;
        let key = std::str::from_utf8(key).map_err(|error| error.to_string())?;
        Ok(Self { key: key.to_owned(), ..read })
    }
}

#[derive(Debug)]
pub(crate) struct Parcels;

impl Service for Parcels {
    type Subject = Parcel;
    type Report = String;

    fn id(&self) -> &'static str {
        "parcels"
    }

    fn policy(&self) -> Policy {
        Policy { linger: Duration::ZERO, ..Policy::default() }
    }

    fn judge(&self, _parcel: &Parcel, report: &String, _reporter: Reporter) -> Verdict {
        if report == "bad" { Verdict::Reject("bad".to_owned()) } else { Verdict::Accept }
    }
}

/// A hub, a service, and its seats, of which a few are used.
pub(crate) struct Site<S: Service> {
    pub(crate) hub: Hub,
    pub(crate) service: ServiceHandle<S>,
    pub(crate) seats: Vec<Seat<S>>,
    pub(crate) clock: ManualClock,
    /// The next number that no subject has.
    next: AtomicU64,
}

impl<S: Service> Site<S> {
    pub(crate) fn open(limits: Limits, plugin: S) -> Self {
        Self::with(false, limits, plugin, SEATS)
    }

    /// The caretakers rest but for [`Hub::tick`], and time stands still.
    pub(crate) fn manual(limits: Limits, plugin: S) -> Self {
        Self::with(true, limits, plugin, SEATS)
    }

    pub(crate) fn with(manual: bool, limits: Limits, plugin: S, seats: u64) -> Self {
        let clock = ManualClock::default();
        let builder = Hub::builder();
        let builder = if manual { builder.manual().clock(clock.clone()) } else { builder };
        let hub = builder.seed(7).limits(limits).open_in_memory(&MemoryDisk::new()).expect("opens");
        let service = hub.register(plugin).expect("registers");
        let seat = |id| client(&hub, id).activate(&service).expect("activates");
        let seats = (1..=seats).map(seat).collect();
        hub.tick();
        Self { hub, service, seats, clock, next: AtomicU64::new(1) }
    }

    /// Numbers that no subject has yet.
    pub(crate) fn numbers(&self, n: usize) -> std::ops::Range<u64> {
        let from = self.next.fetch_add(n as u64, Ordering::Relaxed);
        from..from + n as u64
    }

    pub(crate) fn add(&self, subjects: impl IntoIterator<Item = S::Subject>, n: usize) {
        assert_eq!(self.service.add_all(subjects).expect("taken in").added, n as u64);
    }

    /// One client claims up to `ask` buckets at a time and reports, until so many subjects are reported and reads see it.
    pub(crate) fn work(&self, seat: usize, subjects: usize, ask: u32, report: &S::Report)
    where
        S::Report: Clone,
    {
        let (seat, mut left, mut last) = (&self.seats[seat], subjects, None);
        while left > 0 {
            for lease in self.claim(seat, ask) {
                let reports: Vec<(KeyOf<S>, S::Report)> =
                    lease.subjects().map(|subject| (subject.key(), report.clone())).collect();
                let submitted = lease.submit(reports).expect("taken");
                assert_eq!(submitted.accepted(), lease.len());
                left = left.saturating_sub(lease.len());
                last = Some(submitted.ticket);
            }
        }
        self.seen(&last.expect("something was reported"));
    }

    /// Claims until there is something.
    pub(crate) fn claim(&self, seat: &Seat<S>, ask: u32) -> Vec<Lease<S>> {
        loop {
            match seat.claim(Ask::buckets(ask)).expect("nothing is refused") {
                Claim::Leased(grant) => return grant.into_iter().collect(),
                Claim::Empty(_) => assert!(seat.wait_ready(PATIENCE) || self.tick(), "there is work"),
            }
        }
    }

    fn tick(&self) -> bool {
        self.hub.tick();
        true
    }

    /// Waits until reads see a change.
    pub(crate) fn seen(&self, ticket: &Ticket) {
        self.hub.tick();
        let visible = ticket.wait_visible();
        assert!(visible.is_ok(), "{visible:?}, {:?}", self.hub.health());
        let _ = black_box(visible);
    }
}

impl Site<Plain> {
    /// Claims and reports so many new subjects; returns their rate. The adding is not counted.
    pub(crate) fn rate(&self, subjects: usize, ask: u32) -> f64 {
        self.add(self.numbers(subjects), subjects);
        self.rate_of_stock(subjects, ask)
    }

    pub(crate) fn rate_of_stock(&self, subjects: usize, ask: u32) -> f64 {
        let done = || self.service.stats().subjects_done;
        let before = done();
        let start = Instant::now();
        self.work(0, subjects, ask, &"a small report".to_owned());
        let took = start.elapsed().as_secs_f64();
        let done = done() - before;
        assert!(done >= subjects as u64, "{done} of {subjects}");
        assert_eq!(self.service.stats().discarded, 0, "nothing that was accepted is dropped");
        done as f64 / took
    }

    /// After somebody was refused: the others claim and report as before.
    pub(crate) fn others_go_on(&self) {
        let bucket = self.service.policy().bucket_subjects;
        for seat in [1, 2] {
            self.add(self.numbers(bucket), bucket);
            self.work(seat, bucket, 1, &"ok".to_owned());
        }
    }
}

/// Registers a client, once the queue has room.
pub(crate) fn client(hub: &Hub, id: u64) -> commissary::Client {
    loop {
        match hub.register_client(&Registration::new(id, format!("c{id}"))) {
            Ok(registered) => return registered.client,
            Err(commissary::RegisterClientError::Hub(busy)) if busy.is_transient() => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}
