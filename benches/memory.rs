//! Pending subjects in a hub on disk with the defaults: peak memory, time, bytes on disk.
//!
//! Not criterion's: there are no samples of a peak. Once with ascending ids and once with random ones, each in a process of its own, since a process remembers its peak.
//! `COMMISSARY_BENCH_SUBJECTS` sets how many (a million without it); the bar is for five million.
#![expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark prints its figures, rounded")]

#[path = "support/footprint.rs"]
mod footprint;
#[path = "support/rows.rs"]
mod rows;

use std::process::Command;
use std::time::Instant;

use footprint::{bytes_in, peak};

use commissary::{Hub, Policy, Reporter, Service, Verdict};

/// How many the bar is for.
const BARRED: u64 = 5_000_000;
/// Peak resident memory that must not be exceeded, in MB.
const BAR: u64 = 300;
/// Tells the child which ids to add.
const KIND: &str = "COMMISSARY_BENCH_IDS";

struct Plain;

impl Service for Plain {
    type Subject = u64;
    type Report = u32;

    fn id(&self) -> &'static str {
        "plain"
    }

    fn policy(&self) -> Policy {
        Policy::default()
    }

    fn judge(&self, _subject: &u64, _report: &u32, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }
}

/// A permutation of the 64-bit numbers (the finalizer of splitmix64): looks random, repeats nothing.
fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// How many are added.
fn subjects() -> u64 {
    std::env::var("COMMISSARY_BENCH_SUBJECTS").map_or(1_000_000, |text| text.parse().expect("a number"))
}

fn run(kind: &str) {
    let subjects = subjects();
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let hub = Hub::open(place.path()).expect("opens");
    let service = hub.register(Plain).expect("registers");
    let start = Instant::now();
    let intake = match kind {
        "random" => service.add_all((0..subjects).map(scatter)),
        _ => service.add_all(0..subjects),
    };
    let took = start.elapsed().as_secs_f64();
    assert_eq!(intake.expect("taken in").added, subjects);
    assert_eq!(service.stats().subjects_pending(), subjects);
    let bytes = |name: &str| bytes_in(&place.path().join(name)).unwrap_or(0) as f64 / 1e6;
    let (journal, store) = (bytes("journal"), bytes("store"));
    hub.close().expect("closes");
    let rate = subjects as f64 / took;
    let text = peak().map_or("?".to_owned(), |peak| peak.to_string());
    let compared = peak().map_or(f64::NAN, |peak| peak as f64 / BAR as f64);
    let bar = if subjects == BARRED { rows::Bar::AtMost(1.0) } else { rows::Bar::None };
    let what = format!("peak memory with {subjects} pending subjects, {kind} ids");
    rows::row(&what, &format!("{text} MB"), &format!("allowed: {BAR} MB"), compared, bar);
    println!("{kind:<12}{text:>10}{took:>10.1}{rate:>14.0}{journal:>14.0}{store:>12.0}");
}

fn main() {
    if let Ok(kind) = std::env::var(KIND) {
        run(&kind);
        return;
    }
    // Not when it is only tried out, as by `cargo test --all-targets`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    rows::begin();
    println!("{} pending subjects on disk, the defaults; bar for {BARRED}: under {BAR} MB at the peak", subjects());
    println!(
        "{:<12}{:>10}{:>10}{:>14}{:>14}{:>12}",
        "ids", "peak MB", "seconds", "subjects/s", "journal MB", "store MB"
    );
    for kind in ["ascending", "random"] {
        let program = std::env::current_exe().expect("this program has a path");
        let status = Command::new(program).env(KIND, kind).status().expect("starts");
        assert!(status.success(), "{kind}: {status}");
    }
}
