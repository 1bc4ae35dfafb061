//! Ours beside the queues that one would take instead: `effectum`, `apalis`, `yaque`, `persistent-queue`, Redis, beanstalkd,
//! `PostgreSQL`, and two by hand; all in one run, doing the same work. 1, 2, 4 and 8 workers; 1, 16 and 100 items a claim.
//! Prints a table.
//!
//! Contenders take turns, and every round begins with another one; a figure is the median of the rounds. Filling is not
//! timed. After each run every item must have been completed once, and none be left when the queue is opened again; otherwise
//! the cell says `FAILED`, and so does the exit status. A program that is not installed is left out, with a message.
//!
//! It works in a directory under the build's, or in `$BENCH_DIR`. Words choose among the rows (all words of a class or name must
//! fit), `workers=2` and `claim=16` among the cells: `cargo bench --manifest-path peers/Cargo.toml --bench queues -- sync
//! claim=16`. With `--quick` everything is run once, shortly: a smoke test, its figures mean nothing.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a benchmark prints its figures, rounded, and its numbers are small"
)]

mod apalis;
mod beanstalk;
mod contender;
mod files;
mod full;
mod jobs;
mod obvious;
mod ours;
mod postgres;
mod redis;
mod servers;
mod table;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use contender::{CLAIMS, Kind, Setup, Side, WORKERS};
use servers::Programs;
use table::{Cell, Row};

const ROUNDS: usize = 3;

const KINDS: [Kind; 18] = [
    ours("memory", "ours, when the calls have returned", ours::called, [50_000, 200_000, 400_000]),
    ours("memory", "ours, when reads see the reports", ours::visible, [20_000, 50_000, 100_000]),
    bare("mutex, queue and maps, bare", obvious::one_lock),
    bare("lock-free queue and dashmaps, bare", obvious::sharded),
    peer("memory", "mutex, queue and maps, full", None, full::one_lock, [50_000, 200_000, 400_000]),
    peer("memory", "lock-free queue and dashmaps, full", None, full::sharded, [50_000, 200_000, 400_000]),
    ours("os", "ours, each claim waits for its ticket", ours::os, [5_000, 20_000, 50_000]),
    ours("os", "ours, 64 submits of a worker under way", ours::os_window, [10_000, 50_000, 100_000]),
    peer("os", "yaque", None, files::yaque, [500, 8_000, 40_000]),
    peer("os", "persistent-queue, sled", None, files::persistent_sled, [500, 500, 500]),
    ours("sync", "ours, each claim waits for its ticket", ours::sync, [250, 4_000, 20_000]),
    ours("sync", "ours, 64 submits of a worker under way", ours::sync_window, [10_000, 50_000, 100_000]),
    peer("sync", "effectum (SQLite)", None, jobs::effectum, [60, 400, 800]),
    peer("sync", "apalis (SQLite)", Some(apalis::PROGRAM), apalis::open, [200, 400, 800]),
    peer("sync", "persistent-queue, redb", None, files::persistent_redb, [150, 150, 150]),
    peer("sync", "Redis, AOF always", Some("redis-server"), redis::open, [250, 3_000, 12_000]),
    peer("sync", "beanstalkd, a sync each", Some("beanstalkd"), beanstalk::open, [300, 300, 300]),
    peer("sync", "PostgreSQL, SKIP LOCKED", Some("postgres"), postgres::open, [300, 4_000, 12_000]),
];

type Open = fn(&Setup<'_>) -> Box<dyn contender::Contender>;

const fn ours(class: &'static str, name: &'static str, open: Open, items: [u64; 3]) -> Kind {
    Kind { class, name, side: Side::Ours, needs: None, open, items }
}

const fn bare(name: &'static str, open: Open) -> Kind {
    Kind { class: "memory", name, side: Side::Bare, needs: None, open, items: [50_000, 200_000, 400_000] }
}

const fn peer(
    class: &'static str,
    name: &'static str,
    needs: Option<&'static str>,
    open: Open,
    items: [u64; 3],
) -> Kind {
    Kind { class, name, side: Side::Peer, needs, open, items }
}

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

    /// Those of `all` that were named, or all of them.
    fn some(&self, what: &str, all: &[usize]) -> Vec<usize> {
        let named = |number: &usize| self.words.iter().any(|word| *word == format!("{what}={number}"));
        let any = all.iter().any(named);
        all.iter().copied().filter(|number| !any || named(number)).collect()
    }

    fn kinds(&self) -> Vec<&'static Kind> {
        let words: Vec<&String> = self.words.iter().filter(|word| !word.contains('=')).collect();
        let named = |kind: &&Kind| {
            let title = format!("{}: {}", kind.class, kind.name);
            words.iter().all(|word| title.contains(word.as_str()))
        };
        let installed = |kind: &&Kind| {
            let missing = kind.needs.filter(|program| Programs::find(program).is_none());
            if let Some(program) = missing {
                println!("skipped: {}: no program {program} is found", kind.name);
            }
            missing.is_none()
        };
        KINDS.iter().filter(named).filter(installed).collect()
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
    let place = tempfile::Builder::new().prefix("queues-").tempdir_in(&parent).expect("a directory");
    let (programs, workers, mut rows) = (Programs::new(place.path()), wanted.some("workers", &WORKERS), Vec::new());
    let kinds = wanted.kinds();
    for claim in wanted.some("claim", &CLAIMS) {
        let mut of_claim: Vec<Row> = kinds.iter().map(|kind| Row { kind, claim, cells: Vec::new() }).collect();
        for workers in &workers {
            let cells = run(&kinds, claim, *workers, place.path(), &programs, wanted.quick);
            for (row, cell) in of_claim.iter_mut().zip(cells) {
                row.cells.push((*workers, cell));
            }
        }
        rows.append(&mut of_claim);
    }
    println!("in {}", parent.display());
    table::print(&rows, &workers);
    table::bar(&rows, "memory", 16, 3.0);
    table::bar(&rows, "sync", 16, 10.0);
    eprintln!("{:.0} s in all", start.elapsed().as_secs_f64());
    let failed = rows.iter().any(|row| row.cells.iter().any(|(_, cell)| cell.is_err()));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The cells of one size of claims and one number of workers, by contender.
fn run(kinds: &[&Kind], claim: usize, workers: usize, place: &Path, programs: &Programs, quick: bool) -> Vec<Cell> {
    let mut cells: Vec<Cell> = kinds.iter().map(|_| Ok(Vec::new())).collect();
    let size = CLAIMS.iter().position(|known| *known == claim).unwrap_or_default();
    for round in 0..if quick { 1 } else { ROUNDS } {
        for at in (0..kinds.len()).cycle().skip(round).take(kinds.len()) {
            let (kind, cell) = (kinds[at], &mut cells[at]);
            let items = if quick { kind.items[size] / 5 } else { kind.items[size] };
            if let Ok(rounds) = cell {
                let directory = tempfile::tempdir_in(place).expect("a directory");
                let setup = Setup { directory: directory.path(), programs, items, workers, claim };
                let run = catch_unwind(AssertUnwindSafe(|| contender::run(kind, &setup)));
                match run.unwrap_or_else(|_| Err("it panicked, see above".to_owned())) {
                    Ok(figure) => rounds.push(figure),
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
