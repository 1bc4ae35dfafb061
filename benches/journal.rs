//! The message log beside the other ways to get the messages of many senders into one file, on the same device: a mutex
//! around the file, a queue with one condition variable for all, a file per sender, a channel with a writer thread; and
//! one bare append and `fdatasync`. Prints the README's tables, and whether the bars hold.
//!
//! Senders are threads in a closed loop: send, wait for the answer, send the next. Designs take turns, and every round
//! begins with another one; a figure is the median of the rounds, a ratio that of the rounds' ratios. A cell is a group of criterion's,
//! each round one of its samples: the time of a run by its messages. Every record says the same: client, number, time, length, checksum, payload. After each cell the file is read back: it must hold, for each
//! client, the numbers that were acknowledged, once each and in order.
//!
//! It works in a directory under the build's, or in `$BENCH_DIR`. Names choose among the cells, which are called
//! `sync-SENDERSxBYTES`, `os-SENDERSxBYTES` and `open`, and among the designs: `cargo bench --bench journal -- sync-16x ours`.
//! Without names it is the synced ones of some senders and sizes, which takes a minute; all of it with `COMMISSARY_BENCH_FULL=1`.
//! With `--quick` everything is run once, shortly: a smoke test, its figures mean nothing.
#![expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark prints its figures, rounded")]

#[path = "journal/channel.rs"]
mod channel;
#[path = "journal/design.rs"]
mod design;
#[path = "journal/drive.rs"]
mod drive;
#[path = "journal/files.rs"]
mod files;
#[path = "journal/mutex.rs"]
mod mutex;
#[path = "journal/ours.rs"]
mod ours;
#[path = "journal/queue.rs"]
mod queue;
#[path = "journal/raw.rs"]
mod raw;
#[path = "journal/record.rs"]
mod record;
#[path = "support/rows.rs"]
mod rows;
#[path = "journal/table.rs"]
mod table;
#[path = "support/turns.rs"]
mod turns;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::Criterion;
use design::Kind;
use drive::Figures;
use table::Rows;

const SENDERS: [usize; 4] = [1, 4, 16, 64];
const BYTES: [usize; 4] = [16, 256, 4_096, 65_536];

/// A class: how often, and how long each time, a cell is run.
struct Class {
    name: &'static str,
    synced: bool,
    rounds: usize,
    window: Duration,
}

const CLASSES: [Class; 2] = [
    Class { name: "sync", synced: true, rounds: 11, window: Duration::from_millis(100) },
    Class { name: "os", synced: false, rounds: 11, window: Duration::from_millis(60) },
];

const KINDS: [Kind; 6] = [
    Kind { senders_max: 1, ..Kind::other("raw", raw::open) },
    Kind::other("mutex", mutex::open),
    Kind::other("queue", queue::open),
    Kind { gathers: true, ..Kind::other("files", files::open) },
    Kind::other("channel", channel::open),
    Kind { count: ours::count, ..Kind::other(OURS, ours::open) },
];
const OURS: &str = "ours";

/// What was asked for on the command line.
struct Wanted {
    names: Vec<String>,
    quick: bool,
    full: bool,
}

/// Run without being asked for.
const USUAL: [&str; 6] = ["sync-1x256", "sync-16x256", "sync-64x256", "sync-1x4096", "sync-16x4096", "sync-64x4096"];

impl Wanted {
    fn parse() -> Wanted {
        let (options, names): (Vec<String>, Vec<String>) =
            std::env::args().skip(1).partition(|arg| arg.starts_with("--"));
        let full = std::env::var_os("COMMISSARY_BENCH_FULL").is_some();
        Wanted { names, quick: options.iter().any(|option| option == "--quick"), full }
    }

    fn has_kind(&self, kind: &Kind) -> bool {
        let mut kinds = self.names.iter().filter(|name| KINDS.iter().any(|kind| kind.name == **name)).peekable();
        kinds.peek().is_none() || kinds.any(|name| name == kind.name)
    }

    fn has_cell(&self, cell: &str) -> bool {
        let mut cells = self.names.iter().filter(|name| KINDS.iter().all(|kind| kind.name != **name)).peekable();
        match cells.peek() {
            None => self.full || USUAL.contains(&cell),
            Some(_) => cells.any(|name| cell.starts_with(name.as_str())),
        }
    }
}

fn main() {
    // Not when it is only tried out, as by `cargo test --all-targets`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    rows::begin();
    let wanted = Wanted::parse();
    let start = Instant::now();
    // Beside the build, not in a directory that may be in memory.
    let parent =
        std::env::var_os("BENCH_DIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let place = tempfile::Builder::new().prefix("journal-").tempdir_in(&parent).expect("a directory");
    println!("in {}", parent.display());
    let (mut rows, mut criterion) = (Rows::default(), Criterion::default());
    for class in &CLASSES {
        for bytes in BYTES {
            for senders in SENDERS {
                if wanted.has_cell(&format!("{}-{senders}x{bytes}", class.name)) {
                    let cell = run(class, senders, bytes, place.path(), &wanted, &mut criterion);
                    rows.insert((class.name, bytes, senders), cell);
                    eprint!(".");
                }
            }
        }
    }
    eprintln!();
    table::print(&rows);
    if wanted.has_cell("open") && !wanted.quick {
        println!();
        for bytes in [256, 4_096] {
            let (opened, read) = ours::reopen(&place.path().join(format!("reopened-{bytes}")), bytes);
            println!(
                "opening a log of {bytes}-byte messages: {opened:.2} s a GiB; reading such a file: {read:.2} s a GiB"
            );
        }
    }
    eprintln!("{:.0} s in all", start.elapsed().as_secs_f64());
}

/// One cell, by design: the figures of each round.
fn run(
    class: &Class,
    senders: usize,
    bytes: usize,
    place: &Path,
    wanted: &Wanted,
    criterion: &mut Criterion,
) -> BTreeMap<&'static str, Vec<Figures>> {
    let (rounds, window) = if wanted.quick { (1, class.window / 10) } else { (class.rounds, class.window) };
    let kinds: Vec<&Kind> = KINDS.iter().filter(|kind| senders <= kind.senders_max && wanted.has_kind(kind)).collect();
    let mut cell: BTreeMap<&'static str, Vec<Figures>> = BTreeMap::new();
    for round in 0..rounds {
        for kind in kinds.iter().cycle().skip(round).take(kinds.len()) {
            let directory = tempfile::tempdir_in(place).expect("a directory");
            let figures = drive::run(kind, directory.path(), class.synced, senders, bytes, window);
            cell.entry(kind.name).or_default().push(figures);
            drop(directory);
            // What removing the files makes the device do is not the next one's to wait for.
            File::open(place).and_then(|place| place.sync_all()).expect("synced");
        }
    }
    let took = |kind: &Kind| cell[kind.name].iter().map(|figures| 1e9 / figures.rate).collect();
    let took: Vec<Vec<f64>> = kinds.iter().map(|kind| took(kind)).collect();
    let contenders: Vec<(&str, &[f64])> =
        kinds.iter().map(|kind| kind.name).zip(took.iter().map(Vec::as_slice)).collect();
    turns::tell(criterion, &format!("{}-{senders}x{bytes}", class.name), &contenders);
    cell
}
