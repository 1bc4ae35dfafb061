//! Claims, and claims with submits, in memory: beside the work that cannot be left out, beside a bare lock-free queue, and
//! beside the obvious design (one mutex around a queue and two maps).
//!
//! All take turns in rounds, so that a noisy machine disturbs all alike; the rounds are criterion's samples. Figures are wall time of a
//! round by the calls of all its threads together. Criterion's filter chooses among the groups: `cargo bench --bench claim -- bars`.
#![expect(unsafe_code, reason = "only an allocator can count allocations, and the trait of one is unsafe")]
#![expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark prints its figures, rounded")]

#[path = "support/rows.rs"]
mod rows;
#[path = "support/turns.rs"]
mod turns;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use commissary::{
    Ask, Durability, Hub, Lease, LeaseToken, Limits, MemoryDisk, Outcome, Policy, Registration, Reporter, Seat,
    Service, ServiceHandle, Verdict,
};
use criterion::Criterion;
use crossbeam_queue::ArrayQueue;

use audit::print::Print;
use audit::stripes::{Move, Stripes};
use rows::Bar;

/// The system's allocator, counting the calls of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn allocated() {
    ALLOCATIONS.with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: every call is handed on as it came; the counter allocates nothing and needs no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocated();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        allocated();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const THREADS: [usize; 3] = [1, 2, 4];
/// Calls of one round, all threads together: about a millisecond, so that most rounds fit between two interruptions.
const CLAIMS: usize = 8_000;
const SUBMITS: usize = 2_000;
/// Calls of a round in which two threads are compared with one: so many that the second one's start does not count.
const LONG: usize = 24_000;
/// Rounds behind each figure of the table.
const ROUNDS: usize = 15;
const LEASE: Duration = Duration::from_secs(7_200);

/// A service whose subjects are numbers and whose reports are small: what is measured is the hub.
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
        Policy {
            bucket_subjects: self.bucket,
            pool_subjects: 1_000_000,
            leases_in_flight: 1_000_000,
            lease: LEASE,
            linger: Duration::ZERO,
            ..Policy::default()
        }
    }

    fn judge(&self, _subject: &u64, report: &u32, _reporter: Reporter) -> Verdict {
        if *report == u32::MAX { Verdict::Reject("out of range".to_owned()) } else { Verdict::Accept }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "any number will do")]
fn report_on(subject: u64) -> u32 {
    (subject as u32) & 0xffff
}

/// Runs `body` on so many threads that start together; returns the wall time from the first start to the last end, and
/// what the bodies returned.
fn race<R: Send>(threads: usize, body: impl Fn(usize) -> R + Sync) -> (Duration, Vec<R>) {
    // Not a barrier that sleeps: who is woken starts later than who woke it.
    // With a core for each it keeps the core that it has, so that the others get their own.
    let ready = AtomicUsize::new(0);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut runs = thread::scope(|scope| {
        let run = |place: usize| {
            let (ready, body) = (&ready, &body);
            scope.spawn(move || {
                ready.fetch_add(1, Ordering::SeqCst);
                while ready.load(Ordering::SeqCst) < threads {
                    if threads > cores { thread::yield_now() } else { std::hint::spin_loop() }
                }
                let start = Instant::now();
                let result = body(place);
                (start, Instant::now(), result)
            })
        };
        let handles: Vec<_> = (0..threads).map(run).collect();
        handles.into_iter().map(|handle| handle.join().expect("no contender panics")).collect::<Vec<_>>()
    });
    let first = runs.iter().map(|run| run.0).min().expect("at least one thread");
    let last = runs.iter().map(|run| run.1).max().expect("at least one thread");
    (last - first, runs.drain(..).map(|run| run.2).collect())
}

/// One way to do the job, with stock for some rounds.
trait Contender {
    fn name(&self) -> &'static str;
    /// Does `calls` calls on `threads` threads and checks what came of them; only the calls are timed.
    fn round(&mut self, threads: usize, calls: usize) -> Duration;
}

/// Splits the calls of a round.
fn share(calls: usize, threads: usize) -> usize {
    calls.div_ceil(threads)
}

// ---- claim ------------------------------------------------------------------------------------------------------

/// What no claim can do without: a place from a shared cursor, one exchange on that place, one clone of a shared pointer
/// that keeps it alive, one reading of the clock. Apart: the threads share none of it, which is all that the machine can give.
struct Floor {
    apart: bool,
}

#[repr(align(64))]
struct Line(AtomicU64);

impl Contender for Floor {
    fn name(&self) -> &'static str {
        if self.apart { "floor, apart" } else { "floor" }
    }

    fn round(&mut self, threads: usize, calls: usize) -> Duration {
        let each = share(calls, threads);
        let parts = if self.apart { threads } else { 1 };
        let lines = || (0..(each * threads).div_ceil(parts)).map(|_| Line(AtomicU64::new(0))).collect();
        let part = || Arc::new((Line(AtomicU64::new(0)), lines()));
        let all: Vec<Arc<(Line, Vec<Line>)>> = (0..parts).map(|_| part()).collect();
        let start = Instant::now();
        let (took, kept) = race(threads, |place| {
            let shared = &all[place % parts];
            let (cursor, lines) = &**shared;
            let mut kept = Vec::with_capacity(each);
            for _ in 0..each {
                let now = start.elapsed().as_secs();
                let at = usize::try_from(cursor.0.fetch_add(1, Ordering::SeqCst)).expect("a place");
                let word = ((place as u64) << 40) | now | (1 << 63);
                let swapped = lines[at].0.compare_exchange(0, word, Ordering::SeqCst, Ordering::Acquire);
                assert!(swapped.is_ok());
                kept.push((Arc::clone(shared), at));
            }
            black_box(kept)
        });
        assert_eq!(kept.iter().map(Vec::len).sum::<usize>(), each * threads);
        assert!(all.iter().flat_map(|part| &part.1).all(|line| line.0.load(Ordering::Relaxed) != 0));
        took
    }
}

/// A bare lock-free queue: no owner, no deadline, no token.
struct Queue;

impl Contender for Queue {
    fn name(&self) -> &'static str {
        "ArrayQueue::pop"
    }

    fn round(&mut self, threads: usize, calls: usize) -> Duration {
        let each = share(calls, threads);
        let queue = ArrayQueue::new(each * threads);
        (0..each * threads).for_each(|number| queue.push(number).expect("there is room"));
        let (took, kept) = race(threads, |_| {
            let mut kept = Vec::with_capacity(each);
            for _ in 0..each {
                kept.push(queue.pop().expect("filled before"));
            }
            black_box(kept)
        });
        assert_eq!(kept.into_iter().flatten().collect::<HashSet<_>>().len(), each * threads);
        took
    }
}

/// A hub with stock: every seat but the first four is there to make the pools large.
struct Shop {
    hub: Hub,
    service: ServiceHandle<Plain>,
    seats: Vec<Seat<Plain>>,
    /// Buckets not claimed yet.
    left: usize,
    next_subject: u64,
    bucket: usize,
}

impl Shop {
    /// A hub whose pools hold `pool` buckets.
    fn open(manual: bool, bucket: usize, pool: usize) -> Self {
        let limits =
            Limits { origin_burst: 1_000_000, newcomer_burst: 1_000_000, queue_bytes: 256 << 20, ..Limits::default() };
        let builder = Hub::builder().durability(Durability::Os).limits(limits).seed(7);
        let builder = if manual { builder.manual() } else { builder };
        let hub = builder.open_in_memory(&MemoryDisk::new()).expect("opens");
        let service = hub.register(Plain { bucket }).expect("registers");
        let mut seats = Vec::new();
        // A pool is sized for the seats: twenty buckets each.
        for id in 1..=(pool as u64 / 20).max(4) {
            let client = hub.register_client(&Registration::new(id, format!("c{id}"))).expect("registers").client;
            seats.push(client.activate(&service).expect("activates"));
        }
        hub.tick();
        seats.truncate(4);
        Self { hub, service, seats, left: 0, next_subject: 0, bucket }
    }

    /// Adds `buckets` buckets' worth of subjects, and waits until two pools are formed of them.
    fn stock(&mut self, buckets: usize) {
        let subjects = (buckets * self.bucket) as u64;
        // Paused, or the first pools would be as small as what had come in by then.
        drop(self.service.pause().expect("paused"));
        let intake = self.service.add_all(self.next_subject..self.next_subject + subjects).expect("taken in");
        assert_eq!(intake.added, subjects);
        self.next_subject += subjects;
        self.left += buckets;
        drop(self.service.activate().expect("active"));
        self.hub.tick();
        let patience = Instant::now() + Duration::from_secs(60);
        while self.service.stats().pools_formed < 2 {
            assert!(Instant::now() < patience, "two pools are formed");
            thread::yield_now();
        }
    }
}

/// `Seat::claim` for one bucket. The caretakers rest (a manual hub): the call alone. With `alive` they run as always.
struct Claims {
    alive: bool,
    shop: Option<Shop>,
}

impl Contender for Claims {
    fn name(&self) -> &'static str {
        if self.alive { "claim, caretakers at work" } else { "claim" }
    }

    fn round(&mut self, threads: usize, calls: usize) -> Duration {
        let each = share(calls, threads);
        if self.shop.as_ref().is_none_or(|shop| shop.left < each * threads) {
            self.shop = None;
            let mut shop = Shop::open(!self.alive, 4, 60_000);
            shop.stock(120_000);
            self.shop = Some(shop);
        }
        let shop = self.shop.as_mut().expect("just made");
        let (took, kept) = race(threads, |place| {
            let seat = &shop.seats[place];
            let mut kept: Vec<Lease<Plain>> = Vec::with_capacity(each);
            while kept.len() < each {
                // Empty only while the steward forms the pool after the next.
                if let Some(mut grant) = seat.claim(Ask::one()).expect("nothing is refused").leased() {
                    kept.extend(grant.pop());
                }
            }
            black_box(kept)
        });
        shop.left -= each * threads;
        let leases = || kept.iter().flatten();
        assert_eq!(leases().map(Lease::token).collect::<HashSet<LeaseToken>>().len(), each * threads);
        assert!(leases().all(|lease| lease.len() == 4));
        // They stay leased: that the worker holds its buckets is part of the picture.
        for lease in kept.into_iter().flatten() {
            let _ = lease.into_token();
        }
        took
    }
}

// ---- claim and submit -------------------------------------------------------------------------------------------

/// Claims and submits; either only the calls are timed, or also the wait until all of it is journaled and reads see it.
struct ClaimSubmit {
    bucket: usize,
    how: How,
    shop: Option<Shop>,
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    /// A manual hub: the caretakers do their work between the rounds.
    Calls,
    /// The caretakers work on the same cores while the calls are timed.
    CallsBesideCaretakers,
    /// As above; the clock stops when the last report is visible.
    UntilVisible,
}

/// Buckets in the two pools that stand ready at the start.
const STOCK: usize = 12 * SUBMITS;

impl Contender for ClaimSubmit {
    fn name(&self) -> &'static str {
        match self.how {
            How::Calls => "claim+submit",
            How::CallsBesideCaretakers => "claim+submit, caretakers at work",
            How::UntilVisible => "claim+submit until visible",
        }
    }

    fn round(&mut self, threads: usize, calls: usize) -> Duration {
        let each = share(calls, threads);
        if self.shop.as_ref().is_none_or(|shop| shop.left < each * threads) {
            self.shop = None;
            let mut shop = Shop::open(self.how == How::Calls, self.bucket, STOCK / 2);
            shop.stock(STOCK);
            self.shop = Some(shop);
        }
        let shop = self.shop.as_mut().expect("just made");
        let before = shop.service.stats();
        let until_visible = self.how == How::UntilVisible;
        let (took, done) = race(threads, |place| {
            let seat = &shop.seats[place];
            let (mut done, mut accepted, mut last) = (0, 0, None);
            while done < each {
                let Some(mut grant) = seat.claim(Ask::one()).expect("nothing is refused").leased() else { continue };
                let lease = grant.pop().expect("a grant holds a lease");
                let submitted = lease.submit(lease.subjects().map(|subject| (subject, report_on(subject))));
                let submitted = submitted.expect("nothing is refused");
                accepted += submitted.outcomes.iter().filter(|outcome| **outcome == Outcome::Accepted).count();
                last = Some(submitted.ticket);
                done += 1;
            }
            // A thread's changes are journaled in the order of its calls.
            let last = last.expect("at least one call");
            if until_visible {
                last.wait_visible().expect("becomes visible");
            }
            (accepted, last)
        });
        shop.left -= each * threads;
        shop.hub.tick();
        for (accepted, last) in done {
            assert_eq!(accepted, each * self.bucket);
            last.wait_visible().expect("becomes visible");
        }
        let reported = (each * threads * self.bucket) as u64;
        let after = shop.service.stats();
        assert_eq!(after.work.subjects_reported - before.work.subjects_reported, reported);
        assert_eq!(after.subjects_done - before.subjects_done, reported);
        assert!(after.work.adds_up());
        took
    }
}

// ---- submit -----------------------------------------------------------------------------------------------------

/// `Lease::submit` of whole buckets, claimed before the clock starts. The caretakers rest.
struct Submits {
    bucket: usize,
    shop: Option<Shop>,
    /// Allocations of the last round's calls, by its calls.
    allocations: f64,
}

impl Submits {
    fn new(bucket: usize) -> Self {
        Self { bucket, shop: None, allocations: 0.0 }
    }
}

impl Contender for Submits {
    fn name(&self) -> &'static str {
        "submit"
    }

    fn round(&mut self, threads: usize, calls: usize) -> Duration {
        let each = share(calls, threads);
        if self.shop.as_ref().is_none_or(|shop| shop.left < each * threads) {
            self.shop = None;
            let mut shop = Shop::open(true, self.bucket, STOCK / 2);
            shop.stock(STOCK);
            self.shop = Some(shop);
        }
        let shop = self.shop.as_mut().expect("just made");
        let before = shop.service.stats().subjects_done;
        let claim = |seat: &Seat<Plain>| loop {
            if let Some(mut grant) = seat.claim(Ask::one()).expect("nothing is refused").leased() {
                break grant.pop().expect("a grant holds a lease");
            }
        };
        let seats = shop.seats.iter().take(threads);
        let leases: Vec<Vec<_>> = seats.map(|seat| (0..each).map(|_| claim(seat)).collect()).collect();
        let (took, done) = race(threads, |place| {
            let (mut accepted, allocated) = (0, ALLOCATIONS.with(Cell::get));
            for lease in &leases[place] {
                let submitted = lease.submit(lease.subjects().map(|subject| (subject, report_on(subject))));
                accepted += submitted.expect("nothing is refused").accepted();
            }
            (accepted, ALLOCATIONS.with(Cell::get) - allocated)
        });
        shop.left -= each * threads;
        shop.hub.tick();
        let reported = each * threads * self.bucket;
        assert_eq!(done.iter().map(|done| done.0).sum::<usize>(), reported);
        assert_eq!(shop.service.stats().subjects_done - before, reported as u64);
        self.allocations = done.iter().map(|done| done.1).sum::<usize>() as f64 / (each * threads) as f64;
        took
    }
}

/// The obvious design: one lock around a queue of buckets, the leases, and the results.
struct Obvious {
    bucket: usize,
    stock: Option<(Mutex<Locked>, Instant)>,
    left: usize,
}

#[derive(Default)]
struct Locked {
    ready: VecDeque<Arc<[u64]>>,
    leases: HashMap<u64, Held>,
    results: HashMap<u64, (u64, u32)>,
    next_token: u64,
}

struct Held {
    subjects: Arc<[u64]>,
    owner: u64,
    deadline: Duration,
}

impl Contender for Obvious {
    fn name(&self) -> &'static str {
        "mutex, queue and maps"
    }

    fn round(&mut self, threads: usize, calls: usize) -> Duration {
        let each = share(calls, threads);
        if self.left < each * threads {
            let size = self.bucket;
            let subjects = |bucket: usize| (0..size).map(move |place| (bucket * size + place) as u64).collect();
            let locked = Locked { ready: (0..STOCK).map(subjects).collect(), ..Locked::default() };
            self.stock = Some((Mutex::new(locked), Instant::now()));
            self.left = STOCK;
        }
        let (mutex, start) = self.stock.as_ref().expect("just made");
        let lock = || mutex.lock().unwrap_or_else(PoisonError::into_inner);
        let before = lock().results.len();
        let (took, done) = race(threads, |place| {
            let owner = place as u64 + 1;
            let mut accepted = 0;
            for _ in 0..each {
                let deadline = start.elapsed() + LEASE;
                let (token, subjects) = {
                    let mut locked = lock();
                    let subjects = locked.ready.pop_front().expect("stocked");
                    locked.next_token += 1;
                    let token = locked.next_token;
                    locked.leases.insert(token, Held { subjects: Arc::clone(&subjects), owner, deadline });
                    (token, subjects)
                };
                let reports: Vec<(u64, u32)> = subjects.iter().map(|subject| (*subject, report_on(*subject))).collect();
                let now = start.elapsed();
                let mut locked = lock();
                let held = locked.leases.get(&token).expect("leased");
                assert!(held.owner == owner && held.deadline > now);
                assert!(reports.iter().all(|(subject, _)| held.subjects.contains(subject)));
                locked.leases.remove(&token);
                for (subject, report) in reports {
                    accepted += usize::from(locked.results.insert(subject, (owner, report)).is_none());
                }
            }
            accepted
        });
        self.left -= each * threads;
        let locked = lock();
        assert_eq!(done.into_iter().sum::<usize>(), each * threads * self.bucket);
        assert_eq!(locked.results.len() - before, each * threads * self.bucket);
        assert!(locked.leases.is_empty());
        took
    }
}

// ---- what the audit costs -----------------------------------------------------------------------------------------

/// The library's own source of what calls note for the audit.
#[allow(
    clippy::allow_attributes,
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "the library uses and tests the rest"
)]
#[path = "../src/audit"]
mod audit {
    pub(crate) mod print;
    pub(crate) mod stripes;
}

/// What it takes its atomics from.
mod sync {
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug, Default)]
    #[repr(align(128))]
    pub(crate) struct Padded<T>(pub(crate) T);

    impl<T> std::ops::Deref for Padded<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }
}

/// What a claim and a submit of a whole bucket note for the audit, and nothing else: the bucket's fingerprint is read where
/// the pool has it, and added twice.
struct Notes {
    stripes: Stripes,
    prints: Vec<Print>,
}

impl Notes {
    fn new() -> Self {
        let bucket = |bucket: usize| (bucket * 4..bucket * 4 + 4).map(|rank| rank as u64).collect();
        Self { stripes: Stripes::default(), prints: (0..STOCK).map(bucket).collect() }
    }

    /// Not inlined: in the library, too, each call finds its thread's stripe anew.
    #[inline(never)]
    fn note(&self, how: Move, bucket: usize) {
        self.stripes.add(how, self.prints[bucket]);
    }
}

impl Contender for Notes {
    fn name(&self) -> &'static str {
        "noted for the audit"
    }

    fn round(&mut self, threads: usize, calls: usize) -> Duration {
        let each = share(calls, threads);
        let before = self.stripes.sum(Move::Reported);
        let notes = &*self;
        let (took, _) = race(threads, |place| {
            for bucket in (place * each..(place + 1) * each).map(|call| call % STOCK) {
                notes.note(Move::Assigned, black_box(bucket));
                notes.note(Move::Reported, black_box(bucket));
            }
        });
        let noted = self.stripes.sum(Move::Reported).minus(before);
        let expected = (0..each * threads).fold(Print::default(), |all, call| all.plus(self.prints[call % STOCK]));
        assert_eq!(noted, expected);
        took
    }
}

/// As many as take about as long as a round of claims and submits: threads do not start at the same instant.
const NOTES: usize = 100 * SUBMITS;

/// What a call took, in nanoseconds.
fn each(took: Duration, calls: usize) -> f64 {
    took.as_secs_f64() * 1e9 / calls as f64
}

/// The share of a claim and submit that the notes for the audit take: the median and the best.
fn audit_share(criterion: &mut Criterion) {
    let mut table = String::new();
    for bucket in [4, 16] {
        for threads in THREADS {
            let mut whole = ClaimSubmit { bucket, how: How::Calls, shop: None };
            let mut notes = Notes::new();
            let group = format!("audit, of a claim and submit of {bucket}, {threads} threads");
            let rounds = turns::measure(criterion, &group, &[whole.name(), notes.name()], ROUNDS, |_| {
                vec![each(whole.round(threads, SUBMITS), SUBMITS), each(notes.round(threads, NOTES), NOTES)]
            });
            if rounds.is_empty() {
                continue;
            }
            let share = turns::ratio(&rounds, 1, 0) * 100.0;
            let best = turns::best(&rounds, 1) / turns::best(&rounds, 0) * 100.0;
            let (whole, note) = (turns::typical(&rounds, 0), turns::typical(&rounds, 1));
            let _ = writeln!(table, "{bucket:<10}{threads:>9}{whole:>20.0}{note:>12.1}{share:>8.2}%{best:>8.2}%");
        }
    }
    if !table.is_empty() {
        println!("\nnoted for the audit, of a claim and submit: median of {ROUNDS} rounds in turns");
        println!(
            "{:<10}{:>9}{:>20}{:>12}{:>9}{:>9}",
            "bucket", "threads", "claim+submit, ns", "notes, ns", "share", "best"
        );
        println!("{table}");
    }
}

// ---- figures ----------------------------------------------------------------------------------------------------

/// A row of the table of all benches, but for the first contender.
fn compared(title: &str, threads: usize, [name, first]: [&str; 2], ns: f64, ratio: f64) {
    if name != first {
        let what = format!("{title}, {threads} threads: {name}");
        rows::row(&what, &format!("{ns:.0} ns"), &format!("{first}: {:.0} ns", ns / ratio), ratio, Bar::None);
    }
}

/// All contenders in turns. The first contender is what the others are compared with, round by round.
fn table(criterion: &mut Criterion, title: &str, contenders: &mut [Box<dyn Contender>], calls: usize) {
    let names: Vec<&'static str> = contenders.iter().map(|contender| contender.name()).collect();
    let mut table = String::new();
    for threads in THREADS {
        let rounds = turns::measure(criterion, &format!("{title}, {threads} threads"), &names, ROUNDS, |_| {
            contenders.iter_mut().map(|contender| each(contender.round(threads, calls), calls)).collect()
        });
        for (place, name) in names.iter().enumerate().filter(|_| !rounds.is_empty()) {
            let (median, best) = (turns::typical(&rounds, place), turns::best(&rounds, place));
            let (ratio, best_ratio) = (turns::ratio(&rounds, place, 0), best / turns::best(&rounds, 0));
            let _ = writeln!(table, "{name:<36}{threads:>9}{median:>12.0}{ratio:>14.2}{best:>12.0}{best_ratio:>14.2}");
            compared(title, threads, [name, names[0]], median, ratio);
        }
    }
    if !table.is_empty() {
        println!("\n{title}: {calls} calls a round, median of {ROUNDS} rounds in turns");
        println!(
            "{:<36}{:>9}{:>12}{:>14}{:>12}{:>14}",
            "", "threads", "ns a call", "to the first", "best", "to the first"
        );
        println!("{table}");
    }
}

/// Subjects of a bucket whose submit has a bar.
const SUBMIT_BUCKET: usize = 16;

/// What is promised of the calls alone, and whether this machine keeps it now.
fn bars(criterion: &mut Criterion) {
    let (mut claims, mut submits) = (Claims { alive: false, shop: None }, Submits::new(SUBMIT_BUCKET));
    let contenders = [
        "floor, 1 thread",
        "floor, 2 threads",
        "floor, apart, 2 threads",
        "claim, 1 thread",
        "claim, 2 threads",
        "submit of 16, a subject",
    ];
    let rounds = turns::measure(criterion, "bars", &contenders, ROUNDS, |_| {
        let floor = |apart, threads| each(Floor { apart }.round(threads, LONG), LONG);
        vec![
            floor(false, 1),
            floor(false, 2),
            floor(true, 2),
            each(claims.round(1, LONG), LONG),
            each(claims.round(2, LONG), LONG),
            each(submits.round(1, SUBMITS), SUBMITS * SUBMIT_BUCKET),
        ]
    });
    if rounds.is_empty() {
        return;
    }
    println!("\nbars: median of {ROUNDS} rounds in turns");
    let (by_floor, speedup, submit) =
        (turns::ratio(&rounds, 3, 0), turns::ratio(&rounds, 3, 4), turns::typical(&rounds, 5));
    rows::row("claim of one bucket, one thread", "-", "the work that cannot be left out", by_floor, Bar::AtMost(2.0));
    let (shared, apart) = (turns::ratio(&rounds, 0, 1), turns::ratio(&rounds, 0, 2));
    let beside = format!("one thread; that work itself: {shared:.2}, on lines apart {apart:.2}");
    rows::row("throughput of two threads claiming", "-", &beside, speedup, Bar::AtLeast(1.6));
    let figure = format!("{submit:.0} ns");
    rows::row("submit of 16 subjects, one thread, a subject", &figure, "120 ns", submit / 120.0, Bar::AtMost(1.0));
    let allocations = submits.allocations;
    let (what, figure) = ("allocations a submit: the answer, the record, the ticket", format!("{allocations:.2}"));
    rows::row(what, &figure, "three, one of them the record", allocations / 3.0, Bar::AtMost(1.01));
}

fn claims() -> Vec<Box<dyn Contender>> {
    vec![
        Box::new(Floor { apart: false }),
        Box::new(Floor { apart: true }),
        Box::new(Queue),
        Box::new(Claims { alive: false, shop: None }),
        Box::new(Claims { alive: true, shop: None }),
    ]
}

fn claim_submits(bucket: usize) -> Vec<Box<dyn Contender>> {
    let ours = |how| -> Box<dyn Contender> { Box::new(ClaimSubmit { bucket, how, shop: None }) };
    vec![
        Box::new(Obvious { bucket, stock: None, left: 0 }),
        ours(How::Calls),
        ours(How::CallsBesideCaretakers),
        ours(How::UntilVisible),
    ]
}

fn main() {
    // Not when it is only tried out, as by `cargo test --all-targets`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    rows::begin();
    let mut criterion = turns::criterion();
    table(&mut criterion, "claim one bucket", &mut claims(), CLAIMS);
    audit_share(&mut criterion);
    for bucket in [4, 16] {
        let title = format!("claim one bucket of {bucket} and submit it");
        table(&mut criterion, &title, &mut claim_submits(bucket), SUBMITS);
    }
    bars(&mut criterion);
    criterion.final_summary();
}
