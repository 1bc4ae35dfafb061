//! Durable submits a second on disk, by group size, beside a raw append and `fdatasync` of the same bytes.
//!
//! So many submits are outstanding at a time; then all their tickets are waited for. Only that is timed: claims and the
//! visible half happen between the groups. The raw file lies beside the hub's, and gets as many bytes as the journal grew
//! by, in one write and one sync; hub and raw file take turns, and each round is a sample of criterion's.
#![expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark prints its figures, rounded")]

#[path = "support/rows.rs"]
mod rows;
#[path = "support/turns.rs"]
mod turns;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use commissary::{
    Ask, Capability, Hub, Lease, Limits, Policy, Registration, Reporter, Seat, Service, ServiceHandle, Verdict,
};

const BUCKET: usize = 16;
const REPORT_BYTES: usize = 64;
/// Group size, and how many groups.
const GROUPS: [(usize, usize); 4] = [(1, 101), (16, 61), (256, 31), (4_096, 11)];
/// What must be reached at this size and above, as a share of the raw rate.
const BAR: (usize, f64) = (256, 0.8);

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
    let mut report = format!("{subject:x}-");
    while report.len() < REPORT_BYTES - 1 {
        report.push('r');
    }
    report
}

fn claim(service: &ServiceHandle<Plain>, seat: &Seat<Plain>, buckets: usize, next: &mut u64) -> Vec<Lease<Plain>> {
    let subjects = (buckets * BUCKET) as u64;
    let intake = service.add_all(*next..*next + subjects).expect("taken in");
    assert_eq!(intake.added, subjects);
    *next += subjects;
    let mut leases = Vec::with_capacity(buckets);
    while leases.len() < buckets {
        let ask = u32::try_from((buckets - leases.len()).min(1_024)).unwrap_or(1);
        match seat.claim(Ask::buckets(ask)).expect("nothing is refused").leased() {
            Some(grant) => leases.extend(grant),
            None => assert!(seat.wait_ready(Duration::from_secs(60)), "the steward forms buckets"),
        }
    }
    // A change that comes after the claims is journaled after, or with, their leases; a known subject adds nothing.
    let known = service.add(&0).expect("taken in").wait_visible().expect("becomes visible");
    assert_eq!((known.added, known.duplicates), (0, 1));
    leases
}

/// One group: the time until every ticket was durable, and the journal's growth.
fn group_of(leases: &[Lease<Plain>], journal: &Path) -> (Duration, u64) {
    let reports = |lease: &Lease<Plain>| lease.subjects().map(|subject| (subject, report_on(subject))).collect();
    let reports: Vec<Vec<(u64, String)>> = leases.iter().map(reports).collect();
    let length = || fs::metadata(journal).expect("there is a journal").len();
    let before = length();
    let mut tickets = Vec::with_capacity(leases.len());
    let start = Instant::now();
    for (lease, reports) in leases.iter().zip(reports) {
        let submitted = lease.submit(reports).expect("nothing is refused");
        assert_eq!(submitted.accepted(), BUCKET);
        tickets.push(submitted.ticket);
    }
    // The last one first: the others are durable by then, most likely.
    for ticket in tickets.iter().rev() {
        ticket.wait_durable().expect("becomes durable");
    }
    let took = start.elapsed();
    for ticket in &tickets {
        ticket.wait_visible().expect("becomes visible");
    }
    (took, length() - before)
}

fn raw(file: &mut File, bytes: u64) -> Duration {
    let bytes = vec![0x5a; usize::try_from(bytes).expect("fits in memory")];
    let start = Instant::now();
    file.write_all(&bytes).expect("written");
    file.sync_data().expect("synced");
    start.elapsed()
}

fn main() {
    // Not when it is only tried out, as by `cargo test --all-targets`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    rows::begin();
    // Beside the build, not in a directory that may be in memory.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let limits = Limits { origin_burst: 1_000_000, ..Limits::default() };
    let hub = Hub::builder().limits(limits).open(place.path().join("hub")).expect("opens");
    let service = hub.register(Plain).expect("registers");
    // A pool is sized for the seats, twenty buckets each: more seats than the one that works.
    let seats = (1..=256).map(|id| {
        let client = hub.register_client(&Registration::new(id, format!("c{id}"))).expect("registers").client;
        client.activate_with(&service, Capability::default()).expect("activates")
    });
    let seat = seats.collect::<Vec<_>>().swap_remove(0);
    let journal = place.path().join("hub").join("journal");
    let raw_path = place.path().join("raw");
    let mut file = OpenOptions::new().append(true).create(true).open(&raw_path).expect("opens");
    let mut next = 0;
    for lease in claim(&service, &seat, 64, &mut next) {
        let _ = lease.into_token();
    }

    println!(
        "durable submits of {BUCKET} reports of {REPORT_BYTES} bytes, Durability::Sync; medians, and best by best"
    );
    println!(
        "{:>6}{:>8}{:>12}{:>14}{:>14}{:>12}{:>9}{:>9}",
        "group", "groups", "bytes", "submits/s", "raw/s", "MB/s", "ratio", "best"
    );
    let mut reached = true;
    let mut criterion = turns::criterion();
    for (size, groups) in GROUPS {
        let mut bytes = 0;
        let group = format!("durable submits of {BUCKET} reports of {REPORT_BYTES} bytes, {size} at a time");
        let rounds = turns::measure(&mut criterion, &group, &["raw append and fdatasync", "hub"], groups, |_| {
            let leases = claim(&service, &seat, size, &mut next);
            let (took, grown) = group_of(&leases, &journal);
            assert!(grown > (size * BUCKET * REPORT_BYTES) as u64);
            bytes = grown;
            [raw(&mut file, grown), took].map(|took| took.as_secs_f64() * 1e9 / size as f64).to_vec()
        });
        if rounds.is_empty() {
            continue;
        }
        let [raws, ours] = [0, 1].map(|contender| 1e9 / turns::typical(&rounds, contender));
        let (ratio, best) = (turns::ratio(&rounds, 0, 1), turns::best(&rounds, 0) / turns::best(&rounds, 1));
        reached &= size < BAR.0 || ratio >= BAR.1;
        let rate = ours * bytes as f64 / size as f64 / 1e6;
        println!("{size:>6}{groups:>8}{bytes:>12}{ours:>14.0}{raws:>14.0}{rate:>12.1}{ratio:>9.2}{best:>9.2}");
        rows::row(
            &group,
            &format!("{ours:.0}/s"),
            &format!("raw append and fdatasync: {raws:.0}/s"),
            ratio,
            if size < BAR.0 { rows::Bar::None } else { rows::Bar::AtLeast(BAR.1) },
        );
    }
    println!("bar: {} of raw from {} on: {}", BAR.1, BAR.0, if reached { "reached" } else { "missed" });
    hub.close().expect("closes");
    criterion.final_summary();
}
