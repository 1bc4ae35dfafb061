//! Lanes beside what one would write instead: a map of mutexes, the same with a log, one thread behind a channel with a log,
//! and `ractor` actors; all in one run, doing the same work. Four senders; all orders to one key, spread evenly over 10,000
//! keys, and by Zipf's law. Prints a table.
//!
//! Contenders take turns, and every round begins with another one; a figure is the median of the rounds. After each run
//! the states are recounted: every order executed once, those of a sender to a key in their order, and the bounds of the stock
//! kept; otherwise the cell says `FAILED`, and so does the exit status.
//!
//! It works in a directory under the build's, or in `$BENCH_DIR`. Words choose among the rows and the spreads:
//! `cargo bench --manifest-path peers/Cargo.toml --bench lanes -- one sync`. With `--quick` everything is run once, shortly: a smoke
//! test, its figures mean nothing.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a benchmark prints its figures, rounded, and its numbers are small"
)]

mod actors;
mod channel;
mod contender;
mod log;
mod map;
mod ours;
mod table;
mod work;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use contender::Kind;
use table::{Cell, Row};
use work::Spread;

const ROUNDS: usize = 5;
/// How long senders that wait for each answer go on.
const WINDOW: Duration = Duration::from_millis(300);

const KINDS: [Kind; 14] = [
    Kind { class: "memory", name: "lanes, 1 handler thread", open: ours::memory_1, orders: 40_000 },
    Kind { class: "memory", name: "lanes, 2 handler threads", open: ours::memory_2, orders: 40_000 },
    Kind { class: "memory", name: "lanes, by hand, 2 threads", open: ours::memory_by_hand, orders: 40_000 },
    Kind { class: "memory", name: "lanes, 2 threads, 4 to a bucket", open: ours::memory_small, orders: 20_000 },
    Kind { class: "memory", name: "map of mutexes", open: map::open, orders: 400_000 },
    Kind { class: "memory", name: "ractor, 2 threads", open: actors::open, orders: 200_000 },
    Kind { class: "os", name: "lanes, 2 handler threads", open: ours::os_2, orders: 20_000 },
    Kind { class: "sync", name: "lanes, 1 handler thread", open: ours::sync_1, orders: 20_000 },
    Kind { class: "sync", name: "lanes, 2 handler threads", open: ours::sync_2, orders: 20_000 },
    Kind { class: "sync", name: "lanes, by hand, 2 threads", open: ours::sync_by_hand, orders: 20_000 },
    Kind { class: "sync", name: "lanes, 2 threads, 4 to a bucket", open: ours::sync_small, orders: 4_000 },
    Kind { class: "sync", name: "map and log, a sync each", open: map::open_logged, orders: 2_000 },
    Kind { class: "sync", name: "map and log, a sync for 1,024", open: map::open_logged_in_batches, orders: 1_000_000 },
    Kind { class: "sync", name: "channel, log, one thread", open: channel::open, orders: 1_000_000 },
];

/// What was asked for on the command line.
struct Wanted {
    words: Vec<String>,
    quick: bool,
}

impl Wanted {
    fn parse() -> Self {
        let (options, words): (Vec<String>, Vec<String>) =
            std::env::args().skip(1).partition(|arg| arg.starts_with("--"));
        Self { words, quick: options.iter().any(|option| option == "--quick") }
    }

    fn spreads(&self) -> Vec<Spread> {
        let named = |spread: &Spread| self.words.iter().any(|word| word == spread.name());
        let any = Spread::ALL.iter().any(named);
        Spread::ALL.into_iter().filter(|spread| !any || named(spread)).collect()
    }

    fn kinds(&self) -> Vec<&'static Kind> {
        let words = self.words.iter().filter(|word| Spread::ALL.iter().all(|spread| spread.name() != **word));
        let words: Vec<&String> = words.collect();
        let named = |kind: &&Kind| {
            let title = format!("{}: {}", kind.class, kind.name);
            words.iter().all(|word| title.contains(word.as_str()))
        };
        KINDS.iter().filter(named).collect()
    }
}

fn main() -> ExitCode {
    // Not when it is only tried out, as by `cargo test --all-targets`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let (wanted, start) = (Wanted::parse(), Instant::now());
    // Beside the build, not in a directory that may be in memory.
    let parent =
        std::env::var_os("BENCH_DIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let place = tempfile::Builder::new().prefix("lanes-").tempdir_in(&parent).expect("a directory");
    let (kinds, spreads) = (wanted.kinds(), wanted.spreads());
    let mut rows: Vec<_> =
        kinds.iter().map(|kind| Row { class: kind.class, name: kind.name, cells: Vec::new() }).collect();
    for spread in &spreads {
        for (row, cell) in rows.iter_mut().zip(run(&kinds, *spread, place.path(), wanted.quick)) {
            row.cells.push((*spread, cell));
        }
    }
    println!("in {}", parent.display());
    table::print(&rows, &spreads);
    eprintln!("{:.0} s in all", start.elapsed().as_secs_f64());
    let failed = rows.iter().any(|row| row.cells.iter().any(|(_, cell)| cell.is_err()));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The cells of one spread, by contender.
fn run(kinds: &[&Kind], spread: Spread, place: &Path, quick: bool) -> Vec<Cell> {
    let mut cells: Vec<Cell> = kinds.iter().map(|_| Ok(Vec::new())).collect();
    for round in 0..if quick { 1 } else { ROUNDS } {
        for at in (0..kinds.len()).cycle().skip(round).take(kinds.len()) {
            let (kind, cell) = (kinds[at], &mut cells[at]);
            let (window, orders) = if quick { (WINDOW / 10, kind.orders / 20) } else { (WINDOW, kind.orders) };
            if let Ok(rounds) = cell {
                match contender::run(kind, spread, place, window, orders) {
                    Ok(figures) => rounds.push(figures),
                    Err(what) => *cell = Err(what),
                }
            }
            eprint!(".");
            // What removing the files makes the device do is not the next one's to wait for.
            File::open(place).and_then(|place| place.sync_all()).expect("synced");
        }
    }
    eprintln!();
    cells
}
