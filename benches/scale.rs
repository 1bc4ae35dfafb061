//! What grows with the number of subjects, and what does not: 64-bit ids are added, half of them are worked on, and the hub is opened
//! again. Each size runs in a process of its own, since a process remembers its peak. Criterion is told the slowest claim in a hundred of
//! each tenth of those timed; memory, bytes and the time of opening, of which there is one of each, it is not.
//!
//! `COMMISSARY_BENCH_SUBJECTS` sets the largest size (a million without it; each is ten times the one before, from a hundred thousand on).
//! With the feature `redb`, `COMMISSARY_BENCH_ENGINE=redb` takes that engine.
#![expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark prints its figures, rounded")]

#[path = "support/footprint.rs"]
mod footprint;
#[path = "support/rows.rs"]
mod rows;
#[path = "support/turns.rs"]
mod turns;

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use footprint::{bytes_in, peak};
use rows::Bar;

use commissary::{
    Ask, Capability, Engine, Hub, Limits, Policy, Registration, Reporter, Seat, Service, ServiceHandle, SubjectState,
    Verdict,
};

const SMALLEST: u64 = 100_000;
const BUCKET: usize = 16;
/// Buckets whose reports may be on their way to the store at once.
const UNDER_WAY: usize = 1_024;
/// Claims whose times are kept: the last ones.
const TIMES: usize = 3_000;
/// Ids that are added again, from either end.
const AGAIN: u64 = 1_000;
/// The slowest claim in a hundred may take at most so many times what it takes with the fewest subjects.
const LATENCY_BAR: f64 = 1.3;
/// Peak resident memory at a hundred million subjects, MB.
const MEMORY_BAR: f64 = 1_073.0;
/// What a child says before the slowest claims in a hundred, by tenth.
const SLOW: &str = "99% ns, by tenth of the claims timed: ";
/// Tells the child how many.
const SIZE: &str = "COMMISSARY_BENCH_SIZE";

struct Plain;

impl Service for Plain {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        "plain"
    }

    fn policy(&self) -> Policy {
        Policy { bucket_subjects: BUCKET, leases_in_flight: 1_000_000, linger: Duration::ZERO, ..Policy::default() }
    }

    fn judge(&self, _subject: &u64, _report: &u64, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }
}

fn engine() -> Engine {
    match std::env::var("COMMISSARY_BENCH_ENGINE").as_deref() {
        Err(_) | Ok("sled") => Engine::Sled,
        #[cfg(feature = "redb")]
        Ok("redb") => Engine::Redb,
        Ok(other) => panic!("this build has no engine {other:?}"),
    }
}

fn open(place: &Path) -> (Hub, ServiceHandle<Plain>) {
    let limits = Limits { origin_burst: 1_000_000, ..Limits::default() };
    let hub = Hub::builder().engine(engine()).limits(limits).open(place).expect("opens");
    let service = hub.register(Plain).expect("registers");
    (hub, service)
}

/// One bucket claimed and reported on: how long the claim took, in nanoseconds.
fn turn(seat: &Seat<Plain>, under_way: &mut VecDeque<commissary::Ticket>) -> u64 {
    loop {
        let start = Instant::now();
        let granted = seat.claim(Ask::buckets(1)).expect("nothing is refused").leased();
        let took = start.elapsed();
        let Some(leases) = granted else {
            assert!(seat.wait_ready(Duration::from_secs(60)), "the steward forms buckets");
            continue;
        };
        for lease in leases {
            let reports: Vec<(u64, u64)> = lease.subjects().map(|subject| (subject, subject)).collect();
            under_way.push_back(lease.submit(reports).expect("nothing is refused").ticket);
        }
        if under_way.len() > UNDER_WAY
            && let Some(ticket) = under_way.pop_front()
        {
            ticket.wait_visible().expect("becomes visible");
        }
        return u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    }
}

/// The median and the 99th percentile.
fn typical_and_slow(times: &[u64]) -> (u64, u64) {
    let mut times = times.to_vec();
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// Works on so many buckets; how long the last claims took, in nanoseconds.
fn work(service: &ServiceHandle<Plain>, hub: &Hub, buckets: u64) -> Vec<u64> {
    // A pool is sized for the seats, twenty buckets each.
    let seats = (1..=64).map(|id| {
        let client = hub.register_client(&Registration::new(id, format!("c{id}"))).expect("registers").client;
        client.activate_with(service, Capability::default()).expect("activates")
    });
    let seat = seats.collect::<Vec<_>>().swap_remove(0);
    let (mut under_way, mut times) = (VecDeque::new(), VecDeque::with_capacity(TIMES + 1));
    for _ in 0..buckets {
        times.push_back(turn(&seat, &mut under_way));
        if times.len() > TIMES {
            times.pop_front();
        }
    }
    under_way.drain(..).for_each(|ticket| ticket.wait_visible().map(drop).expect("becomes visible"));
    Vec::from(times)
}

fn refuses_duplicates(service: &ServiceHandle<Plain>, subjects: u64) {
    let again = (0..AGAIN).chain(subjects - AGAIN..subjects);
    let intake = service.add_all(again).expect("taken in");
    assert_eq!((intake.added, intake.duplicates), (0, 2 * AGAIN), "each is known");
}

fn run(subjects: u64) {
    // Beside the build, not in a directory that may be in memory.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let (hub, service) = open(place.path());
    let start = Instant::now();
    assert_eq!(service.add_all(0..subjects).expect("taken in").added, subjects);
    let added = subjects as f64 / start.elapsed().as_secs_f64();
    let buckets = subjects / 2 / BUCKET as u64;
    let start = Instant::now();
    let times = work(&service, &hub, buckets);
    let worked = (buckets * BUCKET as u64) as f64 / start.elapsed().as_secs_f64();
    let (median, slow) = typical_and_slow(&times);
    refuses_duplicates(&service, subjects);
    let done = service.stats().subjects_done;
    assert_eq!(done, buckets * BUCKET as u64, "each report counts once");
    hub.close().expect("closes");
    drop((service, hub));
    let start = Instant::now();
    let (hub, service) = open(place.path());
    let opening = start.elapsed().as_secs_f64();
    assert_eq!((service.stats().subjects_done, service.stats().subjects_pending()), (done, subjects - done));
    refuses_duplicates(&service, subjects);
    assert_ne!(service.subject_state(&0).expect("read"), SubjectState::Unknown);
    hub.close().expect("closes");
    let each = |name: &str| bytes_in(&place.path().join(name)).unwrap_or(0) as f64 / subjects as f64;
    let (journal, store) = (each("journal"), each("store"));
    println!(
        "{subjects:>12} {added:>10.0} {worked:>10.0} {median:>9} {slow:>9} {:>9} {journal:>10.1} {store:>10.1} {opening:>8.2}",
        peak().unwrap_or(0)
    );
    let tenths = times.chunks(times.len().div_ceil(turns::FEWEST)).map(|part| typical_and_slow(part).1.to_string());
    println!("{:>12} {SLOW}{}", "", tenths.collect::<Vec<_>>().join(" "));
}

/// What one size found.
struct Figures {
    subjects: u64,
    /// The slowest claim in a hundred, in nanoseconds; and by tenth of those that were timed.
    slow: f64,
    tenths: Vec<f64>,
    /// MB.
    peak: f64,
}

/// Runs one size in a process of its own, and prints what it printed.
fn child(subjects: u64) -> Figures {
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new(program).env(SIZE, subjects.to_string()).output().expect("starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{subjects}: {}", String::from_utf8_lossy(&output.stderr));
    print!("{said}");
    let numbers = |text: &str| text.split_whitespace().map(|word| word.parse().unwrap_or(0.0)).collect::<Vec<f64>>();
    let (figures, tenths) = said.split_once(SLOW).expect("the tenths are told");
    let figures = numbers(figures);
    Figures { subjects, slow: figures[4], tenths: numbers(tenths), peak: figures[5] }
}

fn main() {
    let largest = std::env::var("COMMISSARY_BENCH_SUBJECTS").map_or(1_000_000, |text| text.parse().expect("a number"));
    if let Ok(size) = std::env::var(SIZE) {
        run(size.parse().expect("a number"));
        return;
    }
    // Not when it is only tried out, as by `cargo test --all-targets`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    rows::begin();
    println!("ascending 64-bit ids, half of them worked on, {BUCKET} a bucket, one thread, on {:?}", engine());
    println!(
        "{:>12} {:>10} {:>10} {:>9} {:>9} {:>9} {:>10} {:>10} {:>8}",
        "subjects", "added/s", "worked/s", "claim ns", "99% ns", "peak MB", "journal B", "store B", "open s"
    );
    let sizes = std::iter::successors(Some(SMALLEST), |size| size.checked_mul(10)).take_while(|size| *size <= largest);
    let found: Vec<Figures> = sizes.map(child).collect();
    let names: Vec<String> = found.iter().map(|found| format!("{} subjects", found.subjects)).collect();
    let tenths = found.iter().map(|found| found.tenths.as_slice());
    let tenths: Vec<(&str, &[f64])> = names.iter().map(String::as_str).zip(tenths).collect();
    turns::tell(&mut turns::criterion(), "99% of claims", &tenths);
    if let [fewest, .., most] = found.as_slice() {
        let what = format!("99% of claims with {} subjects within", most.subjects);
        let (figure, beside) = (format!("{:.0} ns", most.slow), format!("with {SMALLEST}: {:.0} ns", fewest.slow));
        rows::row(&what, &figure, &beside, most.slow / fewest.slow, Bar::AtMost(LATENCY_BAR));
        let bar = if most.subjects == 100_000_000 { Bar::AtMost(1.0) } else { Bar::None };
        let what = format!("peak memory with {} subjects, half of them done", most.subjects);
        let figure = format!("{:.0} MB", most.peak);
        rows::row(&what, &figure, &format!("{MEMORY_BAR:.0} MB"), most.peak / MEMORY_BAR, bar);
    }
}
