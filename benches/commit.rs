//! Durable claims and submits a second on disk, by group size, beside a raw append and `fdatasync` of the same bytes.
//!
//! One thread claims and submits so many buckets in a row, nothing before and nothing behind them; then all the tickets are waited for, and only
//! so far it is timed: the visible half happens between the rounds. The raw file lies beside the hub's, and gets as many bytes as the
//! journal grew by, in one write and one sync; hub and raw file take turns, and each round is a sample of criterion's.
//!
//! Two more figures say what the disk of the machine leaves to be reached. A bound that contains the hub's own calls: the same bytes, made in the
//! time that they took by a thread that does nothing else, and appended and synced by another one, 64 KiB at least at a time (a file of its own).
//! And, on Linux, the same rounds with each `fdatasync` a while longer, hub's and raw file's: as on a disk that is slower by that.
#![expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark prints its figures, rounded")]

#[path = "support/rows.rs"]
mod rows;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[path = "support/slow_disk.rs"]
mod slow_disk;
#[path = "support/turns.rs"]
mod turns;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use commissary::{
    Ask, Capability, Hub, Lease, Limits, Policy, Registration, Reporter, Seat, Service, ServiceHandle, Verdict,
};
use criterion::Criterion;
use serde_bytes::ByteArray;

const BUCKET: usize = 16;
const REPORT_BYTES: usize = 64;
/// Group size, and how many groups.
const GROUPS: [(usize, usize); 5] = [(1, 101), (16, 61), (256, 31), (1_024, 21), (4_096, 11)];
/// What must be reached at this size and above, as a share of the raw rate.
const BAR: (usize, f64) = (256, 0.8);
/// How much longer a sync takes in the last rounds, ms, and how many groups there are of each size with a bar.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SLOWER: (u64, usize) = (5, 11);

/// What the bare threads append at a time, at least.
const CHUNK: usize = 64 << 10;

struct Plain;

impl Service for Plain {
    type Subject = u64;
    type Report = Sheet;

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

    fn judge(&self, _subject: &u64, report: &Sheet, _reporter: Reporter) -> Verdict {
        if report[8] == b'r' { Verdict::Accept } else { Verdict::Reject("not filled in".to_owned()) }
    }
}

/// With its length in front it is encoded in 64 bytes.
type Sheet = ByteArray<{ REPORT_BYTES - 1 }>;

fn report_on(subject: u64) -> Sheet {
    let mut sheet = [b'r'; REPORT_BYTES - 1];
    sheet[..8].copy_from_slice(&subject.to_be_bytes());
    Sheet::new(sheet)
}

/// A hub on disk and a raw file beside it.
struct Rig {
    hub: Hub,
    service: ServiceHandle<Plain>,
    seat: Seat<Plain>,
    raw: File,
    paced: File,
    store: PathBuf,
    /// The next subject to be added.
    next: u64,
}

/// What a round took, and what it wrote.
struct Round {
    took: Duration,
    /// Until the last call had returned.
    calls: Duration,
    bytes: u64,
    syncs: u64,
}

impl Rig {
    fn open(place: &Path) -> Self {
        let limits = Limits { origin_burst: 1_000_000, ..Limits::default() };
        let hub = Hub::builder().limits(limits).open(place.join("hub")).expect("opens");
        let service = hub.register(Plain).expect("registers");
        // A pool is sized for the seats, twenty buckets each: so many that it holds a round.
        let seats = (1..=512).map(|id| {
            let client = hub.register_client(&Registration::new(id, format!("c{id}"))).expect("registers").client;
            client.activate_with(&service, Capability::default()).expect("activates")
        });
        let seat = seats.collect::<Vec<_>>().swap_remove(0);
        let file = |name| OpenOptions::new().append(true).create(true).open(place.join(name)).expect("opens");
        let (raw, paced) = (file("raw"), file("paced"));
        let mut rig = Self { hub, service, seat, raw, paced, store: place.join("hub/store"), next: 0 };
        rig.group(64);
        rig
    }

    /// Adds so many buckets' subjects, and waits until they can be claimed, and all that came before is applied.
    fn stock(&mut self, buckets: usize) {
        let subjects = (buckets * BUCKET) as u64;
        // Paused, so that they come into one pool.
        drop(self.service.pause().expect("paused"));
        let intake = self.service.add_all(self.next..self.next + subjects).expect("taken in");
        assert_eq!(intake.added, subjects);
        self.next += subjects;
        let active = self.service.activate().expect("active");
        active.wait_visible().expect("becomes visible");
        assert!(self.seat.wait_ready(Duration::from_secs(60)), "the steward forms buckets");
        // What the store left unwritten a file system may write along with the first sync of whatever other file.
        for file in fs::read_dir(&self.store).expect("there is a store") {
            File::open(file.expect("listed").path()).and_then(|file| file.sync_data()).expect("synced");
        }
    }

    fn claim(&self) -> Lease<Plain> {
        loop {
            match self.seat.claim(Ask::one()).expect("nothing is refused").leased() {
                Some(mut grant) => return grant.pop().expect("a grant holds a bucket"),
                None => assert!(self.seat.wait_ready(Duration::from_secs(60)), "the steward forms buckets"),
            }
        }
    }

    /// The time from the first claim until every ticket was durable, and what it wrote.
    fn group(&mut self, size: usize) -> Round {
        self.stock(size);
        let before = self.hub.stats().storage;
        let mut tickets = Vec::with_capacity(size);
        let start = Instant::now();
        for _ in 0..size {
            let lease = self.claim();
            let submitted = lease.submit(lease.subjects().map(|subject| (subject, report_on(subject))));
            let submitted = submitted.expect("nothing is refused");
            assert_eq!(submitted.accepted(), BUCKET);
            tickets.push(submitted.ticket);
        }
        let calls = start.elapsed();
        // The last one first: the others are durable by then, most likely.
        for ticket in tickets.iter().rev() {
            ticket.wait_durable().expect("becomes durable");
        }
        let took = start.elapsed();
        let journal = self.hub.stats().storage.since(&before).journal;
        for ticket in &tickets {
            ticket.wait_visible().expect("becomes visible");
        }
        assert!(journal.bytes > (size * BUCKET * REPORT_BYTES) as u64);
        Round { took, calls, bytes: journal.bytes, syncs: journal.syncs }
    }

    /// As many bytes, in one write and one sync.
    fn raw(&mut self, bytes: u64) -> Duration {
        let bytes = vec![0x5a; usize::try_from(bytes).expect("fits in memory")];
        let start = Instant::now();
        self.raw.write_all(&bytes).expect("written");
        self.raw.sync_data().expect("synced");
        start.elapsed()
    }

    /// As many bytes, made in the time of the calls; appended as they come, and synced once.
    fn paced(&self, bytes: u64, calls: Duration) -> Duration {
        let bytes = vec![0x5a; usize::try_from(bytes).expect("fits in memory")];
        let (ready, made) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let append = || {
            ready.store(1, Ordering::SeqCst);
            let mut written = 0;
            while written < bytes.len() {
                let end = made.load(Ordering::SeqCst);
                if end < bytes.len().min(written + CHUNK) {
                    std::hint::spin_loop();
                    continue;
                }
                (&self.paced).write_all(&bytes[written..end]).expect("written");
                written = end;
            }
            self.paced.sync_data().expect("synced");
        };
        thread::scope(|scope| {
            let appender = scope.spawn(append);
            while ready.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            let start = Instant::now();
            while made.load(Ordering::SeqCst) < bytes.len() {
                let share = (start.elapsed().as_secs_f64() / calls.as_secs_f64()).min(1.0);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of them")]
                made.store((share * bytes.len() as f64) as usize, Ordering::SeqCst);
            }
            appender.join().expect("no panic");
            start.elapsed()
        })
    }
}

/// Measures groups of a size, with each sync so much longer. False if a bar is missed.
fn groups(criterion: &mut Criterion, rig: &mut Rig, size: usize, groups: usize, slower: Duration) -> bool {
    let is_slower = !slower.is_zero();
    let bar = if size < BAR.0 || is_slower { rows::Bar::None } else { rows::Bar::AtLeast(BAR.1) };
    let when = if is_slower { format!(", each sync {} ms longer", slower.as_millis()) } else { String::new() };
    let (mut bytes, mut syncs) = (0, Vec::new());
    let group =
        format!("claims and durable submits of {BUCKET} reports of {REPORT_BYTES} bytes, {size} in a row{when}");
    let contenders = ["raw append and fdatasync", "at the pace of the calls", "hub"];
    let rounds = turns::measure(criterion, &group, &contenders, groups, |_| {
        let round = rig.group(size);
        assert!(round.took >= slower, "its syncs took longer");
        bytes = round.bytes;
        syncs.push(round.syncs as f64);
        let (raw, paced) = (rig.raw(bytes), rig.paced(bytes, round.calls));
        [raw, paced, round.took].map(|took| took.as_secs_f64() * 1e9 / size as f64).to_vec()
    });
    if rounds.is_empty() {
        return true;
    }
    let [raws, paced, ours] = [0, 1, 2].map(|contender| 1e9 / turns::typical(&rounds, contender));
    let (ratio, best) = (turns::ratio(&rounds, 0, 2), turns::best(&rounds, 0) / turns::best(&rounds, 2));
    let (rate, syncs) = (ours * bytes as f64 / size as f64 / 1e6, turns::median(syncs.into_iter()));
    println!("{size:>6}{groups:>8}{syncs:>7.0}{bytes:>12}{ours:>14.0}{raws:>14.0}{rate:>12.1}{ratio:>9.2}{best:>9.2}");
    let figure = format!("{ours:.0}/s");
    rows::row(&group, &figure, &format!("raw append and fdatasync: {raws:.0}/s"), ratio, bar);
    let beside = format!("bare threads at the pace of its calls: {paced:.0}/s");
    rows::row(&group, &figure, &beside, turns::ratio(&rounds, 1, 2), rows::Bar::None);
    bar.holds(ratio)
}

fn main() {
    // Not when it is only tried out, as by `cargo test --all-targets`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    rows::begin();
    // Beside the build, not in a directory that may be in memory.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mut rig = Rig::open(place.path());
    println!(
        "claims and durable submits of {BUCKET} reports of {REPORT_BYTES} bytes, Durability::Sync; medians, and best by best"
    );
    println!(
        "{:>6}{:>8}{:>7}{:>12}{:>14}{:>14}{:>12}{:>9}{:>9}",
        "group", "groups", "syncs", "bytes", "submits/s", "raw/s", "MB/s", "ratio", "best"
    );
    let mut reached = true;
    let mut criterion = turns::criterion();
    for (size, number) in GROUPS {
        reached &= groups(&mut criterion, &mut rig, size, number, Duration::ZERO);
    }
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        slow_disk::delay(SLOWER.0);
        for (size, _) in GROUPS.into_iter().filter(|(size, _)| *size >= BAR.0) {
            groups(&mut criterion, &mut rig, size, SLOWER.1, Duration::from_millis(SLOWER.0));
        }
        slow_disk::delay(0);
    }
    println!("bar: {} of raw from {} on: {}", BAR.1, BAR.0, if reached { "reached" } else { "missed" });
    rig.hub.close().expect("closes");
    criterion.final_summary();
}
