//! What idle lanes cost: memory and bytes on disk of a hub with the defaults in which every lane was used once, beside the
//! same subjects in no lane; and of the same hub opened anew. Each in a process of its own.
//!
//! `LANES` says how many the larger half has; by default 100,000.
#![expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark prints its figures, rounded")]

#[path = "support/footprint.rs"]
mod footprint;
#[path = "support/rows.rs"]
mod rows;

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use footprint::bytes_in;

use commissary::{Hub, LaneHandler, LaneKey, Policy, Reporter, Service, ServiceHandle, Verdict};

/// Tells the child what to do: how many subjects, whether of lanes, whether to open only, where.
const TASK: &str = "COMMISSARY_BENCH_IDLE";

/// Subjects taken in at a time.
const PART: usize = 5_000;

/// A subject's number is its lane's.
struct Kitchen {
    laned: bool,
}

impl Service for Kitchen {
    type Subject = u64;
    type Report = u32;

    fn id(&self) -> &'static str {
        "kitchen"
    }

    fn policy(&self) -> Policy {
        Policy { bucket_subjects: 63, ..Policy::default() }
    }

    fn judge(&self, _subject: &u64, _report: &u32, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }

    fn lane(&self, subject: &u64) -> Option<LaneKey> {
        self.laned.then(|| LaneKey::from(*subject))
    }
}

struct Cook;

impl LaneHandler<Kitchen> for Cook {
    /// 24 bytes, or a little more.
    type State = (u64, u64, [u8; 16]);

    fn handle(&self, _lane: &LaneKey, state: &mut Self::State, subject: &u64, _at: DateTime<Utc>) -> u32 {
        state.0 += 1;
        state.1 = subject << 32 | 1 << 31;
        7
    }

    fn handle_alone(&self, _subject: &u64, _at: DateTime<Utc>) -> Option<u32> {
        Some(7)
    }
}

/// Resident memory of this process, in MB: now, and at the peak. Zero where the system does not tell.
fn memory() -> (f64, f64) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let read = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0.0) * 1_024.0 / 1e6
    };
    (read("VmRSS:"), read("VmHWM:"))
}

/// Takes subjects in, a part at a time, and works on each part until no lane runs: what waits is not what is measured.
fn work(hub: &Hub, service: &ServiceHandle<Kitchen>, subjects: Range<u64>) {
    let threads = hub.run_lanes(service, Cook, 1).expect("runs");
    let is_idle = || {
        let stats = service.stats();
        stats.subjects_pending() == 0 && stats.lanes_ready + stats.lanes_running == 0
    };
    for from in subjects.clone().step_by(PART) {
        let part = from..subjects.end.min(from + PART as u64);
        let many = part.end - part.start;
        assert_eq!(service.add_all(part).expect("taken in").added, many);
        while !is_idle() {
            hub.health().expect("healthy");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let _ = threads.stop().expect("stops");
}

fn child(task: &str) {
    let mut words = task.splitn(4, ' ');
    let mut next = || words.next().expect("four words");
    let (subjects, laned, fill, place) = (next().parse::<u64>().expect("a number"), next(), next(), next());
    let start = Instant::now();
    let hub = Hub::open(place).expect("opens");
    let service = hub.register(Kitchen { laned: laned == "lanes" }).expect("registers");
    if fill == "fill" {
        work(&hub, &service, 0..subjects);
    } else {
        // One lane in use, all others idle.
        work(&hub, &service, subjects..subjects + 1);
    }
    let done = subjects + u64::from(fill != "fill");
    let stats = service.stats();
    assert_eq!((stats.subjects_done, stats.lanes_ready, stats.lanes_running, stats.laned_waiting), (done, 0, 0, 0));
    let took = start.elapsed().as_secs_f64();
    let (now, peak) = memory();
    hub.close().expect("closes");
    let bytes = |name: &str| bytes_in(&Path::new(place).join(name)).unwrap_or(0) as f64 / 1e6;
    let what = if fill == "fill" { "used once, now idle" } else { "opened anew" };
    println!(
        "{subjects:>10} {laned:<9} {what:<20} {now:>9.0} {peak:>9.0} {:>11.0} {:>9.0} {took:>9.1}",
        bytes("journal"),
        bytes("store")
    );
    let whose = if laned == "lanes" { "each of a lane" } else { "of no lane" };
    rows::row(
        &format!("{subjects} subjects, {whose}, {what}"),
        &format!("{now:.0} MB, at the peak {peak:.0} MB"),
        &format!("on disk: {:.0} MB", bytes("journal") + bytes("store")),
        f64::NAN,
        rows::Bar::None,
    );
}

fn main() {
    if let Ok(task) = std::env::var(TASK) {
        child(&task);
        return;
    }
    // Not when it is only tried out, as by `cargo test --all-targets`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let most: u64 = std::env::var("LANES").map_or(100_000, |lanes| lanes.parse().expect("a number"));
    rows::begin();
    println!("hubs on disk with the defaults (a cache of 32 MiB)");
    println!(
        "{:>10} {:<9} {:<20} {:>9} {:>9} {:>11} {:>9} {:>9}",
        "subjects", "each of", "", "MB now", "MB peak", "journal MB", "store MB", "seconds"
    );
    for (subjects, laned) in [(most / 10, "lanes"), (most / 10, "no_lane"), (most, "lanes"), (most, "no_lane")] {
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        for fill in ["fill", "open"] {
            let program = std::env::current_exe().expect("this program has a path");
            let task = format!("{subjects} {laned} {fill} {}", place.path().display());
            let status = Command::new(program).env(TASK, &task).status().expect("starts");
            assert!(status.success(), "{task}: {status}");
        }
    }
}
