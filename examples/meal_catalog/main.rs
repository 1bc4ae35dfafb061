//! A catalog of meals: fridges in venues in areas, a kitchen that fills them, users who order, a payment provider.
//!
//! ```text
//! cargo run --release --example meal_catalog [PURCHASES [DIRECTORY]] [--menu FILE] [--workers N] [--seed N] [--crash-after N]
//! ```
//!
//! A fridge is a lane, with a stock of each meal as its state, so that nobody sells what another one sold; an area is a
//! service, worked on by a group of workers, and goes to another group while it is busy. What is reserved is charged
//! through an outbox; the provider fails, is late, and answers twice; its answers come back as commands. What is to be had
//! in a venue and in an area is read from projections.
//!
//! Without a file it makes its own purchases, and runs them in memory with 1, 2 and 8 workers, with workers that die and
//! with crashes of the whole process; then without any hub, one after the other. All have to end in the same state.
//!
//! `PURCHASES` has lines `time,household,store,basket,product,quantity`, perhaps compressed by gzip; stores are fridges.
//! What is on the menu stands in `--menu`, or in `grocery-products.csv.gz` beside the purchases. The hub lives in `DIRECTORY`, the
//! default is one for temporary files that is kept until a run succeeded. Kill it at any moment, or let it
//! abort after so many commands (`--crash-after`): started again, it goes on where it was.
//!
//! Time is the input's. A shift (a day; a week of a file) is sent, by many terminals at once, and worked off; the answers
//! on its payments come in later shifts. So what happens to a fridge happens in one order, whoever works on it and however
//! fast. After each shift the stock has to be what was released, less what is sold and held. In the end all is counted
//! again from the events (`check.rs`). The status is 0 only if everything is as it should be.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to its user")]

mod check;
mod commands;
mod fridge;
mod input;
mod payments;
mod provider;
mod views;
mod workers;
mod world;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use commissary::{Crash, FORMAT_VERSION, MemoryDisk};

use check::Outcome;
pub(crate) use input::Script;
use provider::Provider;
use world::Place;
pub(crate) use world::Plan;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str =
    "usage: meal_catalog [PURCHASES [DIRECTORY]] [--menu FILE] [--workers N] [--seed N] [--crash-after N]";
/// Purchases that are made up, and the days that they take.
const PURCHASES: u64 = 4_000;
const DAYS: u64 = 14;

fn main() -> ExitCode {
    let ended = Options::parse(std::env::args().skip(1)).and_then(|options| match &options.purchases {
        Some(purchases) => replay(&options, purchases),
        None => compare(options.seed),
    });
    ended.map_or_else(
        |error| {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// What was asked for.
struct Options {
    purchases: Option<PathBuf>,
    directory: Option<PathBuf>,
    menu: Option<PathBuf>,
    workers: usize,
    seed: u64,
    crash_after: Option<u64>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut options = Self { purchases: None, directory: None, menu: None, workers: 4, seed: 1, crash_after: None };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(USAGE);
            match argument.as_str() {
                "--menu" => options.menu = Some(value()?.into()),
                "--workers" => options.workers = value()?.parse().map_err(|_| USAGE)?,
                "--seed" => options.seed = value()?.parse().map_err(|_| USAGE)?,
                "--crash-after" => options.crash_after = Some(value()?.parse().map_err(|_| USAGE)?),
                path if path.starts_with('-') => return Err(USAGE.into()),
                path if options.purchases.is_none() => options.purchases = Some(path.into()),
                path if options.directory.is_none() => options.directory = Some(path.into()),
                _ => return Err(USAGE.into()),
            }
        }
        if (1..=500).contains(&options.workers) { Ok(options) } else { Err("--workers: 1 to 500".into()) }
    }
}

/// Runs a script in memory.
pub(crate) fn in_memory(script: &Script, plan: &Plan) -> Result<Outcome, Failure> {
    world::run(script, &Arc::new(Provider::default()), Place::Memory(MemoryDisk::new()), plan)
}

/// Runs a script in a directory, from where an earlier run of it ended.
pub(crate) fn in_directory(script: &Script, directory: &Path, plan: &Plan) -> Result<Outcome, Failure> {
    world::adopt(directory, script)?;
    let provider = Arc::new(Provider::open(&directory.join("provider"))?);
    world::run(script, &provider, Place::Directory(directory.join("hub")), plan)
}

/// What has to come out of a script, found without a hub.
pub(crate) fn expected(script: &Script) -> Result<u64, Failure> {
    check::plainly(script)
}

/// One script in several ways.
fn compare(seed: u64) -> Result<(), Failure> {
    let script = Script::generate(PURCHASES, DAYS, seed);
    let expected = expected(&script)?;
    println!("{PURCHASES} purchases of {DAYS} days, made up from seed {seed}, at {} fridges", script.fridges);
    println!("plainly, one after the other      {expected:016x}");
    let deaths = Plan { lease: Duration::from_millis(800), deaths: vec![600, 4_000], ..Plan::new(3) };
    let crashes = vec![(3_000, Crash::Process), (2_400, Crash::Power), (1_800, Crash::Process)];
    let ways = [
        ("1 worker", Plan::new(1)),
        ("2 workers", Plan::new(2)),
        ("8 workers", Plan::new(8)),
        ("3 workers, two die", deaths),
        ("4 workers, three crashes", Plan { crashes, ..Plan::new(4) }),
    ];
    let mut last = Outcome::default();
    for (name, plan) in ways {
        last = in_memory(&script, &plan).map_err(|error| format!("{name}: {error}"))?;
        let Outcome { print, boots, died, moves, shared, executed, elapsed, .. } = last;
        println!(
            "{name:<32}  {print:016x}  {:.1} s; lives {boots}, workers that died {died}, areas moved {moves}, \
             fridges with workers of both groups {shared}, commands of the last life {executed}",
            elapsed.as_secs_f64(),
        );
        if print != expected {
            return Err(format!("{name}: another state came out").into());
        }
    }
    summarize(&last);
    Ok(())
}

/// The purchases of a file, in a directory.
fn replay(options: &Options, purchases: &Path) -> Result<(), Failure> {
    let menu = options.menu.clone().unwrap_or_else(|| purchases.with_file_name("grocery-products.csv.gz"));
    let script = Script::read(purchases, &menu)?;
    println!("{} purchases at {} fridges in {} areas", script.purchases, script.fridges, script.areas);
    let name = format!("commissary-meal-catalog-{FORMAT_VERSION}-{:016x}", script.print()?);
    let directory = options.directory.clone().unwrap_or_else(|| std::env::temp_dir().join(name));
    let crashes = options.crash_after.map(|after| (after, Crash::Process)).into_iter().collect();
    let outcome = in_directory(&script, &directory, &Plan { crashes, ..Plan::new(options.workers) })?;
    let Outcome { print, boots, elapsed, .. } = outcome;
    summarize(&outcome);
    println!("time             {:.1} s, {} workers, started {boots} times", elapsed.as_secs_f64(), options.workers);
    let expected = expected(&script)?;
    println!("fingerprint      {print:016x}; plainly, one after the other: {expected:016x}");
    if print != expected {
        return Err(format!("another state came out; it is in {}", directory.display()).into());
    }
    if options.directory.is_none() {
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(())
}

fn summarize(outcome: &Outcome) {
    let Outcome { figures, provider, commands, moves, shared, .. } = outcome;
    println!(
        "orders           {}: reserved {}, sold out {}, not on the menu {}, of nothing {}, too old {}",
        figures.answered(),
        figures.reserved,
        figures.sold_out,
        figures.no_such_meal,
        figures.no_units,
        figures.expired,
    );
    println!(
        "reservations     sold {}, declined {}, not paid for in time {}; answered again {}, too late {}",
        figures.sold, figures.cancelled, figures.lapsed, figures.answered_again, figures.too_late,
    );
    println!(
        "payments         refunded {}; calls that failed {}, repeated and not done again {}",
        figures.refunds, provider.broken, provider.repeated,
    );
    println!(
        "kitchen          items {}; told again {}, counted since {}, stale counts {}, refused {}",
        figures.stocked, figures.repeated, figures.covered, figures.stale, figures.refused,
    );
    println!(
        "units            released {}, sold {}, held {}, available {}",
        figures.released,
        figures.confirmed,
        figures.held,
        figures.released - figures.confirmed - figures.held,
    );
    println!("commands         {commands}; areas moved {moves}, fridges with workers of both groups {shared}");
}
