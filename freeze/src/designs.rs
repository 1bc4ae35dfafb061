//! What is worked with: a hub of the crate, and the obvious design, one mutex around it all.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use commissary::{
    Ask, Durability, Grant, Hub, LaneKey, Lease, LeaseToken, Limits, MemoryDisk, Policy, Progress, Registration,
    Reporter, Seat, Service, ServiceHandle, Submitted, Ticket, Verdict, Watch,
};
use crossbeam_epoch::{self as epoch, Atomic, Owned};
use tempfile::TempDir;

use crate::board::{Tally, count};

/// What one thread can be held in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Claim,
    ClaimThree,
    ClaimSubmit,
    Report,
    Submit,
    SubmitByToken,
    SubmitLane,
    Renew,
    RenewByToken,
    Release,
}

impl Operation {
    /// Each with its name; its place is what stands for it on the board.
    pub const ALL: [(Self, &'static str); 10] = [
        (Self::Claim, "claim"),
        (Self::ClaimThree, "claim-three"),
        (Self::ClaimSubmit, "claim+submit"),
        (Self::Report, "report"),
        (Self::Submit, "submit"),
        (Self::SubmitByToken, "submit-token"),
        (Self::SubmitLane, "submit-lane"),
        (Self::Renew, "renew"),
        (Self::RenewByToken, "renew-token"),
        (Self::Release, "release"),
    ];
}

/// Something that hands out work.
pub trait Design: Send + Sync {
    /// Somebody who works with it.
    fn worker(&self, place: usize) -> Box<dyn Worker>;
    /// Somebody whom the watcher holds.
    fn victim(&self) -> Box<dyn Victim>;
    /// How often its own threads made new stock.
    fn formed(&self) -> u64;
}

/// One of those who must go on.
pub trait Worker: Send {
    /// Does each call at least once; counts what took effect. False if there was nothing to do.
    fn round(&mut self, tally: &Tally) -> bool;
}

/// The one who is held.
pub trait Victim {
    /// Gets what the operation needs; false if there is no stock just now.
    fn prepare(&mut self, operation: Operation) -> bool;
    /// The operation itself, and nothing else. True if it took effect.
    fn perform(&mut self, operation: Operation) -> bool;
    /// Lets go of whatever came of it.
    fn finish(&mut self);
}

// ---- a hub ------------------------------------------------------------------------------------------------------

/// A service of numbers, with or without lanes.
#[derive(Debug)]
struct Numbers {
    laned: bool,
}

/// Lanes of the service that has some.
const LANES: u64 = 64;

impl Service for Numbers {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        if self.laned { "laned" } else { "numbers" }
    }

    fn policy(&self) -> Policy {
        Policy {
            bucket_subjects: 2,
            leases_in_flight: 1_000_000,
            // What was given back is offered again at once; nobody is turned away for that.
            cooldown: Duration::ZERO,
            linger: Duration::ZERO,
            watch: Watch::off(),
            ..Policy::default()
        }
    }

    fn judge(&self, _subject: &u64, _report: &u64, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }

    fn lane(&self, subject: &u64) -> Option<LaneKey> {
        self.laned.then(|| LaneKey::from(*subject % LANES))
    }
}

/// A hub with its caretakers' threads, and stock.
pub struct Counter {
    hub: Hub,
    numbers: ServiceHandle<Numbers>,
    laned: ServiceHandle<Numbers>,
    /// Whether workers work on lanes, too: new commands make the hub's store grow.
    lanes: bool,
    /// Where it is, if not in memory.
    _directory: Option<TempDir>,
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counter").finish_non_exhaustive()
    }
}

/// Where a hub lives, and how much it holds.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// In a directory, not in memory.
    pub on_disk: bool,
    /// Subjects.
    pub stock: u64,
    /// Work on lanes, too.
    pub lanes: bool,
    /// Clients who are there and do nothing: pools are the larger.
    pub idle: u64,
}

impl Counter {
    /// Opens one.
    pub fn open(setting: Setting) -> Result<Self, Box<dyn std::error::Error>> {
        let limits = Limits { origin_burst: 1_000, newcomer_burst: 1_000, ..Limits::default() };
        let builder = Hub::builder().durability(Durability::Os).cache_bytes(8 << 20).limits(limits).seed(7);
        let directory = setting.on_disk.then(TempDir::new).transpose()?;
        let hub = match &directory {
            Some(directory) => builder.open(directory.path())?,
            None => builder.open_in_memory(&MemoryDisk::new())?,
        };
        let numbers = hub.register(Numbers { laned: false })?;
        let laned = hub.register(Numbers { laned: true })?;
        numbers.add_all(0..setting.stock)?;
        laned.add_all(0..LANES * 4)?;
        let counter = Self { hub, numbers, laned, lanes: setting.lanes, _directory: directory };
        (0..setting.idle).for_each(|id| drop(counter.clerk(1_000 + id)));
        Ok(counter)
    }

    /// True if the ledger says that nothing is lost. For a quiet hub.
    pub fn is_balanced(&self) -> bool {
        match self.hub.recount() {
            Ok(audit) if audit.is_balanced() => true,
            Ok(audit) => {
                println!("{audit}");
                false
            }
            Err(error) => {
                println!("not recounted: {error}");
                false
            }
        }
    }

    fn clerk(&self, id: u64) -> Clerk {
        let wanted = Registration::new(id, format!("c{id}")).origin(id.to_be_bytes());
        let client = self.hub.register_client(&wanted).expect("a new client is registered").client;
        let seat = |service| client.activate(service).expect("and activated");
        let (laned, next) = (self.lanes.then(|| seat(&self.laned)), id << 40);
        let (numbers, lane_service) = (self.numbers.clone(), self.laned.clone());
        Clerk { seat: seat(&self.numbers), numbers, laned, lane_service, next, last: None, again: Vec::new() }
    }
}

impl Design for Counter {
    fn worker(&self, place: usize) -> Box<dyn Worker> {
        Box::new(self.clerk(place as u64 + 2))
    }

    fn victim(&self) -> Box<dyn Victim> {
        let clerk = self.clerk(1);
        Box::new(Held { clerk, lease: None, token: None, grant: None, keys: Vec::new(), laned: false, submitted: None })
    }

    fn formed(&self) -> u64 {
        self.numbers.stats().pools_formed
    }
}

/// A client.
struct Clerk {
    seat: Seat<Numbers>,
    numbers: ServiceHandle<Numbers>,
    laned: Option<Seat<Numbers>>,
    lane_service: ServiceHandle<Numbers>,
    /// The next command.
    next: u64,
    /// A report that reads do not see yet.
    last: Option<Ticket>,
    /// Subjects that were reported, to be worked on again.
    again: Vec<u64>,
}

impl Clerk {
    fn claim(&self, tally: Option<&Tally>) -> Option<Lease<Numbers>> {
        let lease =
            self.seat.claim(Ask::one()).ok().and_then(commissary::Claim::leased).and_then(|mut grant| grant.pop());
        if let Some(tally) = tally {
            count(&tally.answers);
            count(if lease.is_some() { &tally.calls } else { &tally.empty });
        }
        lease
    }

    /// Puts reported subjects to work again: the stock stays as it is.
    fn restock(&mut self) {
        if !self.again.is_empty() && self.numbers.rerun(&self.again).is_ok() {
            self.again.clear();
        }
    }

    /// Goes on with some lane, if one is to be had.
    fn lane(&mut self, tally: &Tally) {
        let Some(seat) = &self.laned else { return };
        let claimed = seat.claim(Ask::one()).ok().and_then(commissary::Claim::leased);
        for lease in claimed.into_iter().flatten() {
            let keys: Vec<u64> = lease.owed().collect();
            if lease.submit_lane(keys.iter().map(|key| (*key, key + 1)), &keys.len()).is_ok() {
                count(&tally.calls);
                self.command(&keys);
            }
        }
    }

    /// Sends as many commands to the lanes of these.
    fn command(&mut self, keys: &[u64]) {
        for key in keys {
            self.next += 1;
            let _ = self.lane_service.add(&(self.next * LANES + key % LANES));
        }
    }
}

impl Worker for Clerk {
    fn round(&mut self, tally: &Tally) -> bool {
        let Some(lease) = self.claim(Some(tally)) else { return false };
        if lease.renew().is_err() {
            return false;
        }
        lease.release();
        let Some(lease) = self.claim(Some(tally)) else { return false };
        let mut keys = lease.owed();
        let (Some(first), rest) = (keys.next(), keys.collect::<Vec<_>>()) else { return false };
        let Ok(reported) = lease.report([(first, first)]) else { return false };
        self.again.push(first);
        let Ok(submitted) = lease.submit(rest.iter().map(|key| (*key, key + 1))) else { return false };
        let took_effect = reported.accepted() + submitted.accepted() == 1 + rest.len();
        self.again.extend(rest);
        self.restock();
        let last = self.last.get_or_insert(submitted.ticket);
        if last.progress() == Ok(Progress::Visible) {
            count(&tally.visible);
            self.last = None;
        }
        self.lane(tally);
        if took_effect {
            tally.calls.fetch_add(4, Ordering::Relaxed);
            count(&tally.rounds);
        }
        took_effect
    }
}

/// The client who is held.
struct Held {
    clerk: Clerk,
    lease: Option<Lease<Numbers>>,
    token: Option<LeaseToken>,
    grant: Option<Grant<Numbers>>,
    keys: Vec<u64>,
    laned: bool,
    submitted: Option<Submitted>,
}

impl Held {
    fn lease(&mut self) -> bool {
        self.lease = self.clerk.claim(None);
        self.keys = self.lease.iter().flat_map(Lease::owed).collect();
        !self.keys.is_empty()
    }

    fn lane(&mut self) -> bool {
        let Some(seat) = &self.clerk.laned else { return false };
        let claimed = seat.claim(Ask::one()).ok().and_then(commissary::Claim::leased);
        self.lease = claimed.and_then(|mut grant| grant.pop());
        self.keys = self.lease.iter().flat_map(Lease::owed).collect();
        !self.keys.is_empty()
    }

    fn submit(&mut self) -> bool {
        let (Some(lease), keys) = (&self.lease, &self.keys) else { return false };
        self.submitted = lease.submit(keys.iter().map(|key| (*key, key + 1))).ok();
        self.submitted.is_some()
    }
}

impl Victim for Held {
    fn prepare(&mut self, operation: Operation) -> bool {
        self.laned = operation == Operation::SubmitLane;
        match operation {
            Operation::Claim | Operation::ClaimThree | Operation::ClaimSubmit => true,
            Operation::SubmitLane => self.lane(),
            Operation::SubmitByToken | Operation::RenewByToken => {
                let had = self.lease();
                self.token = self.lease.take().map(Lease::into_token);
                had
            }
            _ => self.lease(),
        }
    }

    fn perform(&mut self, operation: Operation) -> bool {
        match operation {
            Operation::Claim => {
                self.lease = self.clerk.claim(None);
                self.lease.is_some()
            }
            Operation::ClaimThree => {
                self.grant = self.clerk.seat.claim(Ask::buckets(3)).ok().and_then(commissary::Claim::leased);
                self.grant.is_some()
            }
            Operation::ClaimSubmit => self.lease() && self.submit(),
            Operation::Report => {
                let (Some(lease), Some(first)) = (&self.lease, self.keys.first()) else { return false };
                self.submitted = lease.report([(*first, *first)]).ok();
                self.submitted.is_some()
            }
            Operation::Submit => self.submit(),
            Operation::SubmitByToken => {
                let Some(token) = &self.token else { return false };
                self.submitted = self.clerk.seat.submit(token, self.keys.iter().map(|key| (*key, key + 1))).ok();
                self.submitted.is_some()
            }
            Operation::SubmitLane => {
                let Some(lease) = &self.lease else { return false };
                let state = self.keys.len();
                self.submitted = lease.submit_lane(self.keys.iter().map(|key| (*key, key + 1)), &state).ok();
                self.submitted.is_some()
            }
            Operation::Renew => self.lease.as_ref().is_some_and(|lease| lease.renew().is_ok()),
            Operation::RenewByToken => self.token.as_ref().is_some_and(|token| self.clerk.seat.renew(token).is_ok()),
            Operation::Release => self.lease.take().map(Lease::release).is_some(),
        }
    }

    fn finish(&mut self) {
        if let Some(token) = self.token.take() {
            let _ = self.clerk.seat.release(&token);
        }
        drop((self.lease.take(), self.grant.take()));
        let reported = self.submitted.take().is_some_and(|submitted| submitted.accepted() > 0);
        if reported && self.laned {
            self.clerk.command(&self.keys);
        } else if reported {
            self.clerk.again.append(&mut self.keys);
            self.clerk.restock();
        }
        self.keys.clear();
    }
}

// ---- one mutex --------------------------------------------------------------------------------------------------

/// What is waiting, what is leased, until when, and what was said.
#[derive(Debug, Default)]
struct Books {
    waiting: VecDeque<u64>,
    leased: HashMap<u64, (u64, Instant)>,
    reports: VecDeque<(u64, u64)>,
    formed: u64,
}

/// The obvious design: correct, and held up by whoever is held with the mutex in hand.
#[derive(Debug)]
pub struct Locked(Arc<Mutex<Books>>);

impl Locked {
    /// One with stock.
    pub fn new(stock: u64) -> Self {
        Self(Arc::new(Mutex::new(Books { waiting: (0..stock).collect(), ..Books::default() })))
    }
}

impl Design for Locked {
    fn worker(&self, place: usize) -> Box<dyn Worker> {
        Box::new(Customer { books: Arc::clone(&self.0), id: place as u64 + 2, held: None })
    }

    fn victim(&self) -> Box<dyn Victim> {
        Box::new(Customer { books: Arc::clone(&self.0), id: 1, held: None })
    }

    /// What threads of its own would: no less than anyone's call.
    fn formed(&self) -> u64 {
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        books.formed += 1;
        books.formed
    }
}

/// A client of the obvious design.
#[derive(Debug)]
struct Customer {
    books: Arc<Mutex<Books>>,
    id: u64,
    held: Option<u64>,
}

impl Customer {
    fn with<R>(&self, act: impl FnOnce(&mut Books) -> R) -> R {
        act(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn claim(&mut self) -> bool {
        let until = Instant::now() + Duration::from_secs(60);
        self.held = self.with(|books| {
            let subject = books.waiting.pop_front()?;
            books.leased.insert(subject, (self.id, until));
            Some(subject)
        });
        self.held.is_some()
    }

    fn renew(&self) -> bool {
        let until = Instant::now() + Duration::from_secs(60);
        let renew = |books: &mut Books| books.leased.insert(self.held?, (self.id, until));
        self.with(renew).is_some()
    }

    fn submit(&mut self) -> bool {
        let Some(held) = self.held.take() else { return false };
        self.with(|books| {
            books.leased.remove(&held);
            books.reports.push_back((held, held + 1));
            books.reports.truncate(1_000);
            // Worked on again, so that the stock stays as it is.
            books.waiting.push_back(held);
        });
        true
    }

    fn release(&mut self) -> bool {
        let Some(held) = self.held.take() else { return false };
        self.with(|books| {
            books.leased.remove(&held);
            books.waiting.push_back(held);
        });
        true
    }
}

impl Worker for Customer {
    fn round(&mut self, tally: &Tally) -> bool {
        let done = self.claim() && self.renew() && self.release() && self.claim() && self.submit();
        count(&tally.answers);
        if done {
            tally.calls.fetch_add(5, Ordering::Relaxed);
            count(&tally.visible);
            count(&tally.rounds);
        }
        done
    }
}

impl Victim for Customer {
    fn prepare(&mut self, operation: Operation) -> bool {
        match operation {
            Operation::Claim | Operation::ClaimThree | Operation::ClaimSubmit => true,
            _ => self.claim(),
        }
    }

    fn perform(&mut self, operation: Operation) -> bool {
        match operation {
            Operation::Claim | Operation::ClaimThree => self.claim(),
            Operation::ClaimSubmit => self.claim() && self.submit(),
            Operation::Renew | Operation::RenewByToken => self.renew(),
            Operation::Release => self.release(),
            _ => self.submit(),
        }
    }

    fn finish(&mut self) {
        self.release();
    }
}

// ---- guards of crossbeam-epoch ----------------------------------------------------------------------------------

/// One value of a KiB, replaced under a guard: lock-free, and the memory of what was replaced waits for the slowest guard.
#[derive(Debug)]
pub struct Guarded(Arc<Atomic<[u8; 1_024]>>);

impl Default for Guarded {
    fn default() -> Self {
        Self(Arc::new(Atomic::new([0; 1_024])))
    }
}

impl Design for Guarded {
    fn worker(&self, _place: usize) -> Box<dyn Worker> {
        Box::new(Replacer(Arc::clone(&self.0)))
    }

    fn victim(&self) -> Box<dyn Victim> {
        Box::new(Replacer(Arc::clone(&self.0)))
    }

    fn formed(&self) -> u64 {
        0
    }
}

/// Replaces the value.
#[derive(Debug)]
struct Replacer(Arc<Atomic<[u8; 1_024]>>);

impl Replacer {
    fn replace(&self) {
        let guard = epoch::pin();
        for number in 0..16 {
            let old = self.0.swap(Owned::new([number; 1_024]), Ordering::AcqRel, &guard);
            // SAFETY: it is not to be found any more, and only the thread that took it out says so.
            unsafe { guard.defer_destroy(old) };
        }
    }
}

impl Worker for Replacer {
    fn round(&mut self, tally: &Tally) -> bool {
        self.replace();
        count(&tally.rounds);
        true
    }
}

impl Victim for Replacer {
    fn prepare(&mut self, _operation: Operation) -> bool {
        true
    }

    fn perform(&mut self, _operation: Operation) -> bool {
        self.replace();
        true
    }

    fn finish(&mut self) {}
}
