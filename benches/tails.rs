//! The slowest call in a thousand: claim and submit of a hub on disk, and append to a message log, while something else goes
//! on in the library, beside the same while nothing does.
//!
//! One thread claims a bucket of 4 and submits it every 40 us; each call is timed by itself. Shots of so many pairs of calls
//! take turns: idle, disturbed, and then, once the pool has been emptied, until the next is formed (which takes less time
//! than a thousand pairs: several such shots are put together). Disturbed is compared with the idle shot before it; a figure
//! is the median of the rounds. What disturbs is counted, and must have happened.
//!
//! The same thread also times computing that calls nothing and takes about as long as a claim ("nothing"): what is as slow as
//! that is the machine. With two processors the calling thread has one and the hub's writer the other, so that whatever else computes takes its
//! share of one of them: the row "a thread computes" shows how much of the rest is that.
//!
//! A round's p99.9 is a sample of criterion's, for which ten rounds are the fewest. `COMMISSARY_BENCH_ROUNDS` says how many (10 without
//! it); names choose among the disturbances:
//! `cargo bench --bench tails -- compacted`.
#![expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark prints its figures, rounded")]

#[path = "support/rows.rs"]
mod rows;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[path = "support/slow_disk.rs"]
mod slow_disk;
#[path = "support/turns.rs"]
mod turns;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use commissary::messages::{Journal, Retain};
use criterion::Criterion;

use commissary::{
    Ask, Clock, Compact, Hub, Lease, Limits, Policy, Registration, Reporter, Seat, Service, ServiceHandle, Verdict,
};
use rows::{Bar, row};

const BUCKET: usize = 4;
/// A pool holds twenty buckets for each of them.
const SEATS: usize = 1_250;
const POOL: usize = 20 * SEATS;
/// Pairs of calls in a shot, at most, and from one to the next. Two shots fit in a pool.
const PAIRS: usize = 10_000;
const PACE: Duration = Duration::from_micros(40);
/// Pairs after which it is looked whether the shot is over.
const LOOK: usize = 64;
/// Disturbed by idle.
const BAR: f64 = 3.0;
const DAY: Duration = Duration::from_secs(24 * 3_600);

struct Plain {
    id: &'static str,
    lease: Duration,
}

impl Service for Plain {
    type Subject = u64;
    type Report = u32;

    fn id(&self) -> &str {
        self.id
    }

    fn policy(&self) -> Policy {
        Policy {
            bucket_subjects: BUCKET,
            buckets_per_claim: 1_024,
            leases_in_flight: 1_000_000,
            pool_subjects: POOL * BUCKET,
            lease: self.lease,
            expiry_spread: 0,
            grace: Duration::from_secs(2),
            idle: 30 * DAY,
            linger: Duration::ZERO,
            // Pools stay as large as they are, and nothing becomes urgent, however the hub's time runs.
            max_pool_age: 10_000 * DAY,
            max_wait: 10_000 * DAY,
            cooldown: Duration::ZERO,
            company: 0,
            ..Policy::default()
        }
    }

    fn judge(&self, _subject: &u64, report: &u32, _reporter: Reporter) -> Verdict {
        if *report == u32::MAX { Verdict::Reject("out of range".to_owned()) } else { Verdict::Accept }
    }
}

/// The machine's time, and so much more as it was put ahead.
#[derive(Debug, Clone)]
struct Ahead {
    start: Instant,
    ms: Arc<AtomicU64>,
}

impl Clock for Ahead {
    fn monotonic(&self) -> Duration {
        self.start.elapsed() + Duration::from_millis(self.ms.load(Ordering::Relaxed))
    }

    fn wall_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// What calls took, in nanoseconds.
#[derive(Default)]
struct Took {
    claims: Vec<u64>,
    submits: Vec<u64>,
    /// Computing that takes about as long as a claim, and calls nothing: what the machine does to whoever it is.
    nothing: Vec<u64>,
}

impl Took {
    fn append(&mut self, other: &mut Self) {
        self.claims.append(&mut other.claims);
        self.submits.append(&mut other.submits);
        self.nothing.append(&mut other.nothing);
    }
}

fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

/// Calls at an even pace. One that comes late is not made up for.
struct Pace {
    next: Instant,
}

impl Pace {
    fn new() -> Self {
        Self { next: Instant::now() + PACE }
    }

    fn wait(&mut self) {
        while Instant::now() < self.next {
            std::hint::spin_loop();
        }
        self.next = Instant::now() + PACE;
    }
}

fn ready(service: &ServiceHandle<Plain>) -> usize {
    usize::try_from(service.stats().buckets_ready).unwrap_or(usize::MAX)
}

/// A hub on disk, the service that is measured, and another one for the steward to care for.
struct Shop {
    hub: Hub,
    plain: ServiceHandle<Plain>,
    crowd: ServiceHandle<Plain>,
    seat: Seat<Plain>,
    /// Another client's seat with the crowd.
    idler: Seat<Plain>,
    ahead: Ahead,
    next: u64,
}

fn seats(hub: &Hub, service: &ServiceHandle<Plain>) -> Vec<Seat<Plain>> {
    let seat = |id| {
        let client = hub.register_client(&Registration::new(id, format!("c{id}"))).expect("registers").client;
        client.activate(service).expect("activates")
    };
    (1..=SEATS as u64).map(seat).collect()
}

impl Shop {
    fn open(place: &Path) -> Self {
        let ahead = Ahead { start: Instant::now(), ms: Arc::new(AtomicU64::new(0)) };
        let limits = Limits {
            origin_burst: u32::MAX,
            newcomer_burst: u32::MAX,
            repeat_burst: u32::MAX,
            queue_bytes: 256 << 20,
            ..Limits::default()
        };
        let hub = Hub::builder().limits(limits).seed(7).clock(ahead.clone()).open(place).expect("opens");
        let plain = hub.register(Plain { id: "plain", lease: DAY }).expect("registers");
        let crowd = hub.register(Plain { id: "crowd", lease: Duration::from_secs(10) }).expect("registers");
        let (seat, idler) = (seats(&hub, &plain).swap_remove(0), seats(&hub, &crowd).swap_remove(1));
        let mut shop = Self { hub, plain, crowd, seat, idler, ahead, next: 0 };
        shop.add(&shop.plain.clone(), 2 * POOL);
        shop.add(&shop.crowd.clone(), 2 * POOL);
        shop
    }

    /// Adds so many buckets' worth of subjects, and waits until all that can be formed of them is.
    fn add(&mut self, service: &ServiceHandle<Plain>, buckets: usize) {
        let subjects = (buckets * BUCKET) as u64;
        // Paused, or the first pools would be as small as what had come in by then.
        let first = service.stats().pools_formed == 0;
        if first {
            drop(service.pause().expect("paused"));
        }
        let intake = service.add_all(self.next..self.next + subjects).expect("taken in");
        assert_eq!(intake.added, subjects);
        self.next += subjects;
        if first {
            drop(service.activate().expect("active"));
        }
        self.rest(|| ready(service) >= POOL);
    }

    /// Waits until something holds and nothing is under way.
    fn rest(&self, holds: impl Fn() -> bool) {
        let patience = Instant::now() + Duration::from_secs(60);
        while !holds() || self.hub.stats().queued_bytes > 0 {
            self.hub.health().expect("healthy");
            assert!(Instant::now() < patience, "the hub comes to rest");
            thread::sleep(Duration::from_millis(2));
        }
        // What the writer took last becomes visible, and the steward looks at it.
        let known = self.plain.add(&0).expect("taken in").wait_visible().expect("becomes visible");
        assert_eq!((known.added, known.duplicates), (0, 1));
        thread::sleep(Duration::from_millis(20));
    }

    fn claim(&self) -> Lease<Plain> {
        let claimed = self.seat.claim(Ask::one()).expect("nothing is refused");
        claimed.leased().and_then(|mut grant| grant.pop()).expect("there is work")
    }

    /// Pairs of calls, so many at most, for as long as `goes_on` says.
    fn shot(&self, pairs: usize, goes_on: impl Fn() -> bool) -> Took {
        let mut took = Took::default();
        took.claims.reserve(pairs);
        took.submits.reserve(pairs);
        took.nothing.reserve(pairs);
        let mut pace = Pace::new();
        for pair in 0..pairs {
            if pair % LOOK == 0 && !goes_on() {
                // It ended during the last of them.
                took.claims.truncate(pair.saturating_sub(LOOK));
                took.submits.truncate(pair.saturating_sub(LOOK));
                took.nothing.truncate(pair.saturating_sub(LOOK));
                break;
            }
            pace.wait();
            let start = Instant::now();
            let lease = self.claim();
            let claimed = Instant::now();
            let reports: Vec<(u64, u32)> = lease.subjects().map(|subject| (subject, 7)).collect();
            let reported = Instant::now();
            let submitted = lease.submit(reports);
            let end = Instant::now();
            assert_eq!(submitted.expect("nothing is refused").accepted(), BUCKET);
            took.claims.push(nanos(claimed - start));
            took.submits.push(nanos(end - reported));
            let start = Instant::now();
            black_box((0..200_u64).fold(pair as u64, |mixed, turn| black_box(mixed.wrapping_mul(31) ^ turn)));
            took.nothing.push(nanos(start.elapsed()));
        }
        took
    }

    fn idle(&self) -> Took {
        self.rest(|| true);
        self.shot(PAIRS, || true)
    }

    /// Takes what is left of the pool that is served, the last buckets at the usual pace; the next claim makes the steward form
    /// one.
    fn empty(&self) {
        self.rest(|| true);
        let mut left = ready(&self.plain) - POOL;
        while left > LOOK {
            let ask = u32::try_from((left - LOOK).min(1_000)).unwrap_or(1);
            let grant =
                self.seat.claim(Ask::buckets(ask)).expect("nothing is refused").leased().expect("there is work");
            for lease in grant {
                let reports: Vec<(u64, u32)> = lease.subjects().map(|subject| (subject, 7)).collect();
                assert_eq!(lease.submit(reports).expect("nothing is refused").accepted(), BUCKET);
                left -= 1;
            }
        }
        self.rest(|| true);
        let _warm = self.shot(left, || true);
    }

    /// The pair of calls that begins a pool, and those made while the next is formed.
    fn forming(&self) -> (Took, Took) {
        let formed = || self.plain.stats().pools_formed;
        let before = formed();
        (self.shot(1, || true), self.shot(POOL / 2, || formed() == before))
    }

    /// The idler takes a pool of the crowd's buckets, to let them all expire.
    fn idle_about(&self) {
        self.rest(|| ready(&self.crowd) >= POOL);
        let mut held = 0;
        while held < POOL {
            let Some(grant) = self.idler.claim(Ask::buckets(1_000)).expect("nothing is refused").leased() else {
                thread::yield_now();
                continue;
            };
            for lease in grant {
                held += 1;
                let _ = lease.into_token();
            }
        }
        self.rest(|| true);
    }

    /// Every 5 ms half a second of the hub's time passes, and the steward looks at every lease.
    fn sweeps(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.ahead.ms.fetch_add(500, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Another hub's directory, with a journal to be compacted.
fn compactable(place: &Path) {
    let hub = Hub::open(place).expect("opens");
    let service = hub.register(Plain { id: "plain", lease: DAY }).expect("registers");
    let seat = seats(&hub, &service).swap_remove(0);
    let subjects = (POOL * BUCKET) as u64;
    assert_eq!(service.add_all(0..subjects).expect("taken in").added, subjects);
    let mut left = POOL;
    while left > 0 {
        let Some(grant) = seat.claim(Ask::buckets(1_000)).expect("nothing is refused").leased() else {
            assert!(seat.wait_ready(Duration::from_secs(60)), "the steward forms buckets");
            continue;
        };
        left -= grant.len();
        for lease in grant {
            let reports: Vec<(u64, u32)> = lease.subjects().map(|subject| (subject, 7)).collect();
            let submitted = lease.submit(reports).expect("nothing is refused");
            assert_eq!(submitted.accepted(), lease.len());
        }
    }
    hub.close().expect("closes");
}

/// Opens it with compaction, again and again; how often.
fn compactions(place: &Path, stop: &AtomicBool) -> u64 {
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let hub = Hub::builder().compact(Compact::default()).open(place).expect("opens");
        assert!(hub.open_report().compacted.is_some());
        hub.close().expect("closes");
        done += 1;
    }
    done
}

/// Runs `shot` while another thread disturbs; what the two returned.
fn beside<T, D: Send>(disturb: impl FnOnce(&AtomicBool) -> D + Send, shot: impl FnOnce() -> T) -> (T, D) {
    let (begun, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let disturbing = scope.spawn(|| {
            begun.store(true, Ordering::Relaxed);
            disturb(&stop)
        });
        while !begun.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        let took = shot();
        stop.store(true, Ordering::Relaxed);
        (took, disturbing.join().expect("what disturbs does not panic"))
    })
}

// ---- figures ----------------------------------------------------------------------------------------------------

fn quantile(took: &mut [u64], part: f64) -> f64 {
    took.sort_unstable();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the list")]
    let place = ((took.len() as f64 * part).ceil() as usize).saturating_sub(1);
    took.get(place).map_or(f64::NAN, |nanos| *nanos as f64 / 1e3)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// p50, p99, p99.9 and the most of a shot's calls, in microseconds, idle and disturbed.
#[derive(Clone, Copy)]
struct Round {
    idle: [f64; 4],
    disturbed: [f64; 4],
}

fn figures(took: &mut [u64]) -> [f64; 4] {
    [0.5, 0.99, 0.999, 1.0].map(|part| quantile(took, part))
}

const NOTHING: &str = "nothing";

/// The rounds of one disturbance, of one call.
struct Rounds {
    what: &'static str,
    call: &'static str,
    bar: Bar,
    timed: usize,
    each: Vec<Round>,
}

#[derive(Default)]
struct Results {
    rounds: Vec<Rounds>,
    /// Of shots that are too short for a round of their own: the idle and the disturbed ones so far.
    short: (Took, Took),
    /// The claims that began a pool.
    firsts: Vec<u64>,
}

impl Results {
    /// A pool is formed in less time than a thousand calls take: several shots make a round.
    fn note_short(&mut self, mut idle: Took, mut disturbed: Took) {
        self.short.0.append(&mut idle);
        self.short.1.append(&mut disturbed);
    }

    /// A round is over. So few calls as have no p99.9 wait for the next one's.
    fn round_is_over(&mut self) {
        if self.short.1.claims.len() > 1_000 {
            let (mut idle, mut disturbed) = std::mem::take(&mut self.short);
            self.pair(FORMED, Bar::AtMost(BAR), &mut idle, &mut disturbed);
        }
    }

    fn note(&mut self, what: &'static str, call: &'static str, bar: Bar, idle: &mut [u64], disturbed: &mut [u64]) {
        let round = Round { idle: figures(idle), disturbed: figures(disturbed) };
        let found = self.rounds.iter_mut().find(|rounds| (rounds.what, rounds.call) == (what, call));
        let rounds = if let Some(rounds) = found {
            rounds
        } else {
            self.rounds.push(Rounds { what, call, bar, timed: 0, each: Vec::new() });
            self.rounds.last_mut().expect("just pushed")
        };
        rounds.timed += disturbed.len();
        rounds.each.push(round);
    }

    fn pair(&mut self, what: &'static str, bar: Bar, idle: &mut Took, disturbed: &mut Took) {
        self.note(what, "claim", bar, &mut idle.claims, &mut disturbed.claims);
        self.note(what, "submit", bar, &mut idle.submits, &mut disturbed.submits);
        self.note(what, NOTHING, Bar::None, &mut idle.nothing, &mut disturbed.nothing);
    }

    fn print(&mut self) {
        let first = [0.5, 1.0].map(|part| quantile(&mut self.firsts, part));
        println!(
            "the claim that begins a pool, and wakes the steward: median {:.1} us, at most {:.1} us of {}",
            first[0],
            first[1],
            self.firsts.len()
        );
        println!("medians of the rounds, us: idle, and while something else goes on");
        println!(
            "{:<36}{:>8}{:>9}{:>18}{:>18}{:>18}{:>22}{:>8}",
            "", "call", "calls", "p50", "p99", "p99.9", "most", "p99.9"
        );
        for found in &self.rounds {
            let pairs = (0..4).map(|place| {
                let of = |figure: fn(&Round) -> [f64; 4]| median(found.each.iter().map(|round| figure(round)[place]));
                let pair = format!("{:.2} {:.2}", of(|round| round.idle), of(|round| round.disturbed));
                format!("{pair:>width$}", width = if place == 3 { 22 } else { 18 })
            });
            let pairs: String = pairs.collect();
            let ratio = median(found.each.iter().map(|round| round.disturbed[2] / round.idle[2]));
            println!("{:<36}{:>8}{:>9}{pairs}{ratio:>8.2}", found.what, found.call, found.timed);
        }
        for found in self.rounds.iter().filter(|found| found.call != NOTHING) {
            let of = |figure: fn(&Round) -> f64| median(found.each.iter().map(figure));
            row(
                &format!("p99.9 of {} while {}", found.call, found.what),
                &format!("{:.1} us", of(|round| round.disturbed[2])),
                &format!("idle: {:.1} us", of(|round| round.idle[2])),
                of(|round| round.disturbed[2] / round.idle[2]),
                found.bar,
            );
        }
    }

    /// The slowest call in a thousand, by round.
    fn tell(&self, criterion: &mut Criterion) {
        for found in self.rounds.iter().filter(|found| found.call != NOTHING) {
            let of = |figure: fn(&Round) -> f64| found.each.iter().map(|round| figure(round) * 1e3).collect();
            let (idle, disturbed): (Vec<f64>, Vec<f64>) = (of(|round| round.idle[2]), of(|round| round.disturbed[2]));
            let group = format!("p99.9 of {} while {}", found.call, found.what);
            turns::tell(criterion, &group, &[("idle", &idle), ("disturbed", &disturbed)]);
        }
    }
}

// ---- what disturbs ----------------------------------------------------------------------------------------------

const COMPUTES: &str = "a thread computes";
const FORMED: &str = "a pool is formed";
const SWEPT: &str = "the steward sweeps 25,000 leases";
const COMPACTED: &str = "a hub's journal is compacted";
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SLOW: &str = "a sync takes 100 ms";
const LOG: &str = "its log is compacted";

/// One round of a disturbance of the hub: idle, disturbed, and while a pool is formed.
fn round(
    shop: &mut Shop,
    what: &'static str,
    results: &mut Results,
    wanted: &Wanted,
    disturb: impl FnOnce(&Shop) -> Took,
) {
    let plain = shop.plain.clone();
    // What is served has more than a pool's buckets in all once a pool waits behind it.
    shop.add(&plain, POOL);
    let mut idle = shop.idle();
    if wanted.has(what) {
        shop.rest(|| true);
        let mut disturbed = disturb(shop);
        let bar = if what == COMPUTES { Bar::None } else { Bar::AtMost(BAR) };
        results.pair(what, bar, &mut idle, &mut disturbed);
    }
    shop.empty();
    let (first, forming) = shop.forming();
    results.firsts.extend(first.claims);
    if wanted.has(FORMED) {
        results.note_short(idle, forming);
    }
}

fn computes(shop: &Shop) -> Took {
    let spin = |stop: &AtomicBool| {
        let mut turns = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            turns = black_box(turns.wrapping_mul(31).wrapping_add(7));
        }
        turns
    };
    beside(spin, || shop.shot(PAIRS, || true)).0
}

fn swept(shop: &Shop) -> Took {
    shop.idle_about();
    let expired = || shop.crowd.stats().work.buckets_expired;
    let before = expired();
    let (took, ()) = beside(|stop| shop.sweeps(stop), || shop.shot(PAIRS, || true));
    shop.rest(|| expired() > before);
    took
}

fn compacted(shop: &Shop, place: &Path) -> Took {
    let (took, done) = beside(|stop| compactions(place, stop), || shop.shot(PAIRS, || true));
    assert!(done > 0, "it was compacted");
    took
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn slow(shop: &Shop) -> Took {
    let before = slow_disk::delayed();
    slow_disk::delay(100);
    let took = shop.shot(PAIRS, || true);
    slow_disk::delay(0);
    assert!(slow_disk::delayed() > before, "syncs took longer");
    took
}

/// Bytes of a message, and of them in the log.
const MESSAGE: [u8; 200] = [0x5a; 200];
const LOG_MESSAGES: u64 = 250_000;

struct Messages {
    journal: Journal,
    next: u64,
}

impl Messages {
    fn open(place: &Path) -> Self {
        let journal = Journal::builder().queue_bytes(256 << 20).open(place.join("log")).expect("opens");
        let mut log = Self { journal, next: 1 };
        // Groups are dropped whole: small ones.
        for _ in 0..LOG_MESSAGES / 1_000 {
            let last = (0..1_000).map(|_| log.append()).last().expect("at least one");
            last.wait().expect("acknowledged");
        }
        log
    }

    fn append(&mut self) -> commissary::messages::Receipt {
        self.next += 1;
        self.journal.append(7, self.next - 1, &MESSAGE)
    }

    fn shot(&mut self) -> Vec<u64> {
        let mut took = Vec::with_capacity(PAIRS);
        let (mut pace, mut last) = (Pace::new(), None);
        for _ in 0..PAIRS {
            pace.wait();
            let start = Instant::now();
            last = Some(self.append());
            took.push(nanos(start.elapsed()));
        }
        last.expect("at least one").wait().expect("acknowledged");
        took
    }

    fn round(&mut self, results: &mut Results) {
        let mut idle = self.shot();
        let journal = self.journal.clone();
        let compact = |stop: &AtomicBool| {
            let mut shorter = 0;
            while !stop.load(Ordering::Relaxed) {
                // The front goes, a group or more; the rest is written anew.
                let before = journal.first();
                let done = journal.compact(Retain::From(before + 500_000)).expect("compacted");
                shorter += u64::from(done.first > before);
            }
            shorter
        };
        let (mut disturbed, shorter) = beside(compact, || self.shot());
        assert!(shorter > 0, "the log was compacted");
        results.note(LOG, "append", Bar::AtMost(BAR), &mut idle, &mut disturbed);
    }
}

/// What was asked for on the command line.
struct Wanted(Vec<String>);

impl Wanted {
    fn has(&self, what: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|name| what.contains(name.as_str()))
    }
}

fn main() {
    // Not when it is only tried out, as by `cargo test --all-targets`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    rows::begin();
    let wanted = Wanted(std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect());
    let rounds =
        std::env::var("COMMISSARY_BENCH_ROUNDS").map_or(turns::FEWEST, |rounds| rounds.parse().expect("a number"));
    // Beside the build, not in a directory that may be in memory.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let other = place.path().join("other");
    if wanted.has(COMPACTED) {
        compactable(&other);
    }
    let mut results = Results::default();
    let mut shop = Shop::open(&place.path().join("hub"));
    let mut log = wanted.has(LOG).then(|| Messages::open(place.path()));
    println!("a pair of calls every {} us, {PAIRS} in a shot, {rounds} rounds; on disk, synced", PACE.as_micros());
    for _ in 0..rounds {
        round(&mut shop, COMPUTES, &mut results, &wanted, computes);
        round(&mut shop, SWEPT, &mut results, &wanted, swept);
        round(&mut shop, COMPACTED, &mut results, &wanted, |shop| compacted(shop, &other));
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        round(&mut shop, SLOW, &mut results, &wanted, slow);
        if let Some(log) = &mut log {
            log.round(&mut results);
        }
        results.round_is_over();
        eprint!(".");
    }
    eprintln!();
    if let Some(log) = log {
        log.journal.close().expect("closes");
    }
    results.tell(&mut Criterion::default());
    results.print();
    shop.hub.close().expect("closes");
}
