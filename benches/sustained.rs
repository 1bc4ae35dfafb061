//! Subjects a second, sustained, with the store applied, by engine; and what the engine alone takes.
//!
//! A hub on disk with the defaults: subjects are added, then claimed and reported on in buckets of 16 by one thread, 64 bytes a report,
//! and each is counted when its result can be read. Alone, the engine takes as many records of 64 bytes under ascending keys, in batches
//! of 4,096, durable at the end. Each runs in a process of its own, in turn, so that the peaks of memory are their own; the ten samples that
//! criterion is told of each are its tenths.
//!
//! `COMMISSARY_BENCH_SUBJECTS` sets how many (a million without it), `COMMISSARY_BENCH_ONLY` names one row.
#![expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark prints its figures, rounded")]

#[path = "support/footprint.rs"]
mod footprint;
#[path = "support/rows.rs"]
mod rows;
#[path = "support/turns.rs"]
mod turns;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use footprint::{bytes_in, peak};
use rows::Bar;

use commissary::{
    Ask, Capability, Engine, Hub, Limits, Policy, Registration, Reporter, Seat, Service, ServiceHandle, Ticket, Verdict,
};

const BUCKET: usize = 16;
const REPORT_BYTES: usize = 64;
/// Buckets a claim.
const CLAIM: u32 = 256;
/// Claims whose reports may be on their way to the store at once.
const UNDER_WAY: usize = 16;
/// Records of the engine alone: a key of 16 bytes and a value of 48, in batches of so many.
const BATCH: u64 = 4_096;
const VALUE: [u8; 48] = [0x5a; 48];
/// The last tenth must be at least this share of the first.
const STEADY: f64 = 0.8;
/// What redb must reach, subjects a second.
const REDB_BAR: f64 = 500_000.0;
/// What a child says before it tells what a subject took in each tenth.
const NANOS: &str = "ns a subject, by tenth: ";
/// Tells the child which row it is.
const ROW: &str = "COMMISSARY_BENCH_ROW";
/// Batches between two turns in which redb alone is made durable: about what a hub's checkpoints are apart.
#[cfg(feature = "redb")]
const CHECKPOINT_BATCHES: u64 = 128;

const ROWS: &[&str] = &[
    "sled alone",
    "hub on sled",
    #[cfg(feature = "redb")]
    "redb alone",
    #[cfg(feature = "redb")]
    "hub on redb",
];

struct Plain;

impl Service for Plain {
    type Subject = u64;
    type Report = String;

    fn id(&self) -> &'static str {
        "plain"
    }

    fn policy(&self) -> Policy {
        Policy {
            bucket_subjects: BUCKET,
            buckets_per_claim: 1_024,
            leases_in_flight: 1_000_000,
            pool_subjects: 1_000_000,
            linger: Duration::ZERO,
            ..Policy::default()
        }
    }

    fn judge(&self, _subject: &u64, report: &String, _reporter: Reporter) -> Verdict {
        if report.is_empty() { Verdict::Reject("empty".to_owned()) } else { Verdict::Accept }
    }
}

fn report_on(subject: u64) -> String {
    // With its length in front it is encoded in 64 bytes.
    format!("{subject:r<width$}", width = REPORT_BYTES - 1)
}

/// The times at which each tenth was done.
struct Tenths {
    subjects: u64,
    start: Instant,
    /// Seconds.
    ends: Vec<f64>,
}

impl Tenths {
    fn new(subjects: u64) -> Self {
        Self { subjects, start: Instant::now(), ends: Vec::new() }
    }

    fn done(&mut self, subjects: u64) {
        while self.ends.len() < 10 && subjects * 10 >= self.subjects * (self.ends.len() as u64 + 1) {
            self.ends.push(self.start.elapsed().as_secs_f64());
        }
    }

    /// What a subject took in each tenth, in nanoseconds.
    fn each(&self) -> Vec<f64> {
        let begins = std::iter::once(&0.0).chain(&self.ends);
        begins.zip(&self.ends).map(|(begin, end)| (end - begin) * 1e10 / self.subjects as f64).collect()
    }

    /// The whole rate, the first tenth's and the last tenth's.
    fn rates(&self) -> [f64; 3] {
        let tenth = self.subjects as f64 / 10.0;
        let [first, .., before, last] = self.ends.as_slice() else { panic!("not all was done") };
        [tenth * 10.0 / last, tenth / first, tenth / (last - before)]
    }
}

/// Claims and reports on a claim's worth; the last bucket's ticket.
fn turn(seat: &Seat<Plain>, wanted: u64) -> (Ticket, u64) {
    let ask = u32::try_from(wanted.div_ceil(BUCKET as u64)).unwrap_or(CLAIM).min(CLAIM);
    loop {
        let Some(leases) = seat.claim(Ask::buckets(ask)).expect("nothing is refused").leased() else {
            assert!(seat.wait_ready(Duration::from_secs(60)), "the steward forms buckets");
            continue;
        };
        let (mut last, mut accepted) = (None, 0);
        for lease in leases {
            let reports: Vec<(u64, String)> = lease.subjects().map(|subject| (subject, report_on(subject))).collect();
            let submitted = lease.submit(reports).expect("nothing is refused");
            accepted += submitted.accepted() as u64;
            last = Some(submitted.ticket);
        }
        return (last.expect("a claim holds buckets"), accepted);
    }
}

/// The rate of adding, those of the work, and what a subject's work asked of the store.
fn hub(engine: Engine, place: &Path, subjects: u64) -> (f64, Tenths, String) {
    let limits = Limits { origin_burst: 1_000_000, ..Limits::default() };
    let hub = Hub::builder().engine(engine).limits(limits).open(place).expect("opens");
    let service: ServiceHandle<Plain> = hub.register(Plain).expect("registers");
    // A pool is sized for the seats, twenty buckets each: more seats than the one that works.
    let seats = (1..=256).map(|id| {
        let client = hub.register_client(&Registration::new(id, format!("c{id}"))).expect("registers").client;
        client.activate_with(&service, Capability::default()).expect("activates")
    });
    let seat = seats.collect::<Vec<_>>().swap_remove(0);
    let start = Instant::now();
    assert_eq!(service.add_all(0..subjects).expect("taken in").added, subjects);
    let added = subjects as f64 / start.elapsed().as_secs_f64();

    let before = hub.stats().storage;
    let mut tenths = Tenths::new(subjects);
    let (mut under_way, mut reported) = (std::collections::VecDeque::new(), 0);
    while reported < subjects || !under_way.is_empty() {
        if reported < subjects {
            let (ticket, accepted) = turn(&seat, subjects - reported);
            reported += accepted;
            under_way.push_back((ticket, reported));
        }
        if under_way.len() > UNDER_WAY || reported == subjects {
            let Some((ticket, up_to)) = under_way.pop_front() else { break };
            ticket.wait_visible().expect("becomes visible");
            tenths.done(up_to);
        }
    }
    assert_eq!(service.stats().subjects_done, subjects, "each is done once");
    let cost = hub.stats().storage.since(&before);
    let each = |n: u64| n as f64 / subjects as f64;
    let applied = &cost.applier;
    let asked = format!(
        "{:.2} writes of {:.0} bytes, {:.2} reads; {:.0} subjects a batch; {} checkpoints",
        each(applied.pairs_written),
        each(applied.bytes_written),
        each(applied.reads()),
        subjects as f64 / applied.batches.max(1) as f64,
        applied.checkpoints,
    );
    hub.close().expect("closes");
    (added, tenths, asked)
}

fn key(number: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

/// sled by itself, with the settings and the driving of its collector that the crate's store has.
fn sled_alone(place: &Path, subjects: u64) -> Tenths {
    let config = sled::Config::new().path(place).cache_capacity(32 << 20).flush_every_ms(None).segment_size(4 << 20);
    let db = config.open().expect("opens");
    let mut tenths = Tenths::new(subjects);
    for first in (0..subjects).step_by(usize::try_from(BATCH).unwrap_or(1)) {
        let up_to = (first + BATCH).min(subjects);
        let mut batch = sled::Batch::default();
        (first..up_to).for_each(|number| batch.insert(&key(number), &VALUE[..]));
        db.apply_batch(batch).expect("applied");
        (0..BATCH / 16 + 4).for_each(|_| crossbeam_epoch::pin().flush());
        if up_to == subjects {
            db.flush().expect("flushed");
            fs::File::open(place.join("db")).and_then(|log| log.sync_data()).expect("synced");
        }
        tenths.done(up_to);
    }
    tenths
}

#[cfg(feature = "redb")]
fn redb_alone(place: &Path, subjects: u64) -> Tenths {
    use redb::{Database, Durability, TableDefinition};
    const PAIRS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("pairs");
    fs::create_dir_all(place).expect("a directory");
    let db = Database::builder().set_cache_size(32 << 20).create(place.join("redb")).expect("opens");
    let mut tenths = Tenths::new(subjects);
    for (turn, first) in (1..).zip((0..subjects).step_by(usize::try_from(BATCH).unwrap_or(1))) {
        let up_to = (first + BATCH).min(subjects);
        let mut write = db.begin_write().expect("begun");
        if turn % CHECKPOINT_BATCHES != 0 && up_to < subjects {
            write.set_durability(Durability::None).expect("set");
        }
        let mut pairs = write.open_table(PAIRS).expect("opened");
        for number in first..up_to {
            pairs.insert(&key(number)[..], &VALUE[..]).expect("inserted");
        }
        drop(pairs);
        write.commit().expect("committed");
        tenths.done(up_to);
    }
    tenths
}

fn run(row: &str, subjects: u64) {
    // Beside the build, not in a directory that may be in memory.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let home = place.path().join("home");
    let worked = |(added, tenths, asked)| (Some(added), tenths, asked);
    let (added, tenths, asked) = match row {
        "sled alone" => (None, sled_alone(&home, subjects), String::new()),
        "hub on sled" => worked(hub(Engine::Sled, &home, subjects)),
        #[cfg(feature = "redb")]
        "redb alone" => (None, redb_alone(&home, subjects), String::new()),
        #[cfg(feature = "redb")]
        "hub on redb" => worked(hub(Engine::Redb, &home, subjects)),
        other => panic!("there is no row {other:?}"),
    };
    let [rate, first, last] = tenths.rates();
    let added = added.map_or("-".to_owned(), |added| format!("{added:.0}"));
    let megabytes = |directory: &Path| bytes_in(directory).unwrap_or(0) as f64 / 1e6;
    let (disk, store) = (megabytes(&home), megabytes(&home.join("store")));
    println!(
        "{row:<12} {added:>10} {rate:>12.0} {first:>13.0} {last:>12.0} {:>8.2} {:>9} {disk:>9.0} {store:>9.0}",
        last / first,
        peak().unwrap_or(0)
    );
    if !asked.is_empty() {
        println!("{:<12} a subject's work, applied: {asked}", "");
    }
    let each: Vec<String> = tenths.each().iter().map(|nanos| format!("{nanos:.0}")).collect();
    println!("{:<12} {NANOS}{}", "", each.join(" "));
}

/// What one row found.
struct Figures {
    name: &'static str,
    rate: f64,
    /// The last tenth by the first.
    steady: f64,
    /// Nanoseconds a subject, by tenth.
    tenths: Vec<f64>,
}

/// Runs a row in a process of its own, and prints what it printed.
fn child(name: &'static str) -> Figures {
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new(program).env(ROW, name).output().expect("starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    print!("{said}");
    let numbers = |text: &str| text.split_whitespace().map(|word| word.parse().unwrap_or(0.0)).collect::<Vec<f64>>();
    let figures = numbers(&said.lines().next().unwrap_or_default()[name.len()..]);
    let tenths = said.split_once(NANOS).expect("the tenths are told").1;
    Figures { name, rate: figures[1], steady: figures[4], tenths: numbers(tenths) }
}

fn main() {
    let subjects = std::env::var("COMMISSARY_BENCH_SUBJECTS").map_or(1_000_000, |text| text.parse().expect("a number"));
    if let Ok(row) = std::env::var(ROW) {
        run(&row, subjects);
        return;
    }
    // Not when it is only tried out, as by `cargo test --all-targets`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    rows::begin();
    println!(
        "{subjects} subjects, {BUCKET} a bucket, {REPORT_BYTES} bytes a report, one thread, Durability::Sync, store applied"
    );
    println!(
        "{:<12} {:>10} {:>12} {:>13} {:>12} {:>8} {:>9} {:>9} {:>9}",
        "", "added/s", "subjects/s", "first tenth", "last tenth", "last/1st", "peak MB", "disk MB", "store MB"
    );
    let only = std::env::var("COMMISSARY_BENCH_ONLY").ok();
    let wanted = ROWS.iter().filter(|row| only.as_deref().is_none_or(|only| only == **row));
    let found: Vec<Figures> = wanted.map(|row| child(row)).collect();
    let tenths: Vec<(&str, &[f64])> = found.iter().map(|found| (found.name, found.tenths.as_slice())).collect();
    turns::tell(&mut turns::criterion(), &format!("{subjects} subjects, by tenth"), &tenths);
    let of = |row: &str| found.iter().find(|found| found.name == row);
    let steady = |what: &str, of: Option<&Figures>| {
        if let Some(found) = of {
            rows::row(&format!("{what}, the last tenth"), "-", "the first tenth", found.steady, Bar::AtLeast(STEADY));
        }
    };
    let figure = |rate: f64| format!("{rate:.0}/s");
    let what = |engine: &str| format!("{subjects} subjects worked on, {engine} applied");
    if let (Some(alone), Some(ours)) = (of("sled alone"), of("hub on sled")) {
        let beside = format!("sled alone: {}", figure(alone.rate));
        rows::row(&what("sled"), &figure(ours.rate), &beside, ours.rate / alone.rate, Bar::AtLeast(1.0));
    }
    steady(&what("sled"), of("hub on sled"));
    if let Some(ours) = of("hub on redb") {
        rows::row(&what("redb"), &figure(ours.rate), &figure(REDB_BAR), ours.rate / REDB_BAR, Bar::AtLeast(1.0));
    }
    steady(&what("redb"), of("hub on redb"));
}
