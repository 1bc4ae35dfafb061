//! Durable claims and submits a second on disk, by group size, beside a raw append and `fdatasync` of the same bytes.
//!
//! One thread claims and submits so many buckets in a row, nothing before and nothing behind them; then all the tickets are waited for, and only
//! so far it is timed: the visible half happens between the rounds. The raw file lies beside the hub's, and gets as many bytes as the
//! journal grew by, in one write and one sync; hub and raw file take turns, and each round is a sample of criterion's.
#![expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark prints its figures, rounded")]

#[path = "support/rows.rs"]
mod rows;
#[path = "support/turns.rs"]
mod turns;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use commissary::{
    Ask, Capability, Hub, Lease, Limits, Policy, Registration, Reporter, Seat, Service, ServiceHandle, Verdict,
};
use serde_bytes::ByteArray;

const BUCKET: usize = 16;
const REPORT_BYTES: usize = 64;
/// Group size, and how many groups.
const GROUPS: [(usize, usize); 5] = [(1, 101), (16, 61), (256, 31), (1_024, 21), (4_096, 11)];
/// What must be reached at this size and above, as a share of the raw rate.
const BAR: (usize, f64) = (256, 0.8);

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
    store: PathBuf,
    /// The next subject to be added.
    next: u64,
}

/// What a round took, and what it wrote.
struct Round {
    took: Duration,
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
        let raw = OpenOptions::new().append(true).create(true).open(place.join("raw")).expect("opens");
        let mut rig = Self { hub, service, seat, raw, store: place.join("hub/store"), next: 0 };
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
        Round { took, bytes: journal.bytes, syncs: journal.syncs }
    }

    /// As many bytes, in one write and one sync.
    fn raw(&mut self, bytes: u64) -> Duration {
        let bytes = vec![0x5a; usize::try_from(bytes).expect("fits in memory")];
        let start = Instant::now();
        self.raw.write_all(&bytes).expect("written");
        self.raw.sync_data().expect("synced");
        start.elapsed()
    }
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
    for (size, groups) in GROUPS {
        let (mut bytes, mut syncs) = (0, Vec::new());
        let group = format!("claims and durable submits of {BUCKET} reports of {REPORT_BYTES} bytes, {size} in a row");
        let rounds = turns::measure(&mut criterion, &group, &["raw append and fdatasync", "hub"], groups, |_| {
            let round = rig.group(size);
            bytes = round.bytes;
            syncs.push(round.syncs as f64);
            [rig.raw(bytes), round.took].map(|took| took.as_secs_f64() * 1e9 / size as f64).to_vec()
        });
        if rounds.is_empty() {
            continue;
        }
        let [raws, ours] = [0, 1].map(|contender| 1e9 / turns::typical(&rounds, contender));
        let (ratio, best) = (turns::ratio(&rounds, 0, 1), turns::best(&rounds, 0) / turns::best(&rounds, 1));
        reached &= size < BAR.0 || ratio >= BAR.1;
        let (rate, syncs) = (ours * bytes as f64 / size as f64 / 1e6, turns::median(syncs.into_iter()));
        println!(
            "{size:>6}{groups:>8}{syncs:>7.0}{bytes:>12}{ours:>14.0}{raws:>14.0}{rate:>12.1}{ratio:>9.2}{best:>9.2}"
        );
        rows::row(
            &group,
            &format!("{ours:.0}/s"),
            &format!("raw append and fdatasync: {raws:.0}/s"),
            ratio,
            if size < BAR.0 { rows::Bar::None } else { rows::Bar::AtLeast(BAR.1) },
        );
    }
    println!("bar: {} of raw from {} on: {}", BAR.1, BAR.0, if reached { "reached" } else { "missed" });
    rig.hub.close().expect("closes");
    criterion.final_summary();
}
