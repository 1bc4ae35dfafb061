//! A crowd of unreliable workers explores a social network: whom does everyone follow, and who takes messages?
//!
//! ```text
//! cargo run --release --example social_graph [EDGE_LIST [DIRECTORY]] [--workers N] [--seed N] [--honest] [--quiet]
//! ```
//!
//! `EDGE_LIST` has a line `a b` for each user `a` who follows a user `b`; it may be compressed by gzip. Without one, a
//! graph of 20,000 users is made up. The hub lives in `DIRECTORY`; the default is one under the system's directory for
//! temporary files that is kept until a run succeeded. Ctrl-C or kill it at any moment: started again, it goes on where
//! it was.
//!
//! Only the users whom nobody follows are added by hand. All others are discovered: a following list that was taken
//! names them. The workers crash with leases in hand, come back or do not, dawdle and cheat (`crowd.rs`). One of them lies:
//! it leaves out and makes up followings and message states. The operator has samples checked again, finds it out by who
//! disagreed with whom, bars it, and withdraws all it reported, with the users that only lies led to (`operator.rs`); the
//! others do that work again. With `--honest`, or with less than nine workers, nobody lies. In the end every edge is
//! compared with the input, and the status is 0 only if all is as it should be.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to its user")]

mod check;
mod crowd;
mod dice;
mod graph;
mod operator;
mod progress;
mod shop;
mod summary;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use commissary::{FORMAT_VERSION, Hub};

use crowd::Crowd;
use graph::Graph;
use operator::Operator;
use progress::Progress;
use shop::Shop;

type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: social_graph [EDGE_LIST [DIRECTORY]] [--workers N] [--seed N] [--honest] [--quiet]";
/// Users of the graph that is made up.
const USERS: u64 = 20_000;
/// How often the foreman looks around.
const LOOK: Duration = Duration::from_millis(100);
/// Without any result for so long, something is broken: every lease is over long before.
const STALLED: Duration = Duration::from_secs(60);
/// Status if the example could not run at all.
const BROKEN: u8 = 2;
/// Status after Ctrl-C, as of a process ended by it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(BROKEN)
    })
}

fn run() -> Result<ExitCode, Failure> {
    let options = Options::parse(std::env::args().skip(1))?;
    let graph = match &options.edges {
        Some(path) => Graph::read(path).map_err(|error| format!("{}: {error}", path.display()))?,
        None => Graph::generate(USERS, options.seed),
    };
    for notice in &graph.notices {
        println!("note: {notice}");
    }
    let directory = options.directory.clone().unwrap_or_else(|| default_directory(&graph));
    let interrupted = on_interrupt()?;
    let hub = open(&directory, &graph)?;
    let status = explore(&hub, &graph, &options, &directory, &interrupted)?;
    if status == ExitCode::SUCCESS && options.directory.is_none() {
        fs::remove_dir_all(&directory)?;
    }
    Ok(status)
}

/// What was asked for.
struct Options {
    edges: Option<PathBuf>,
    directory: Option<PathBuf>,
    workers: usize,
    seed: u64,
    honest: bool,
    quiet: bool,
}

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut options = Self { edges: None, directory: None, workers: 12, seed: 1, honest: false, quiet: false };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut number = || arguments.next().ok_or(USAGE)?.parse::<u64>().map_err(|_| Failure::from(USAGE));
            match argument.as_str() {
                "--workers" => options.workers = usize::try_from(number()?)?,
                "--seed" => options.seed = number()?,
                "--honest" => options.honest = true,
                "--quiet" => options.quiet = true,
                path if path.starts_with('-') => return Err(USAGE.into()),
                path if options.edges.is_none() => options.edges = Some(path.into()),
                path if options.directory.is_none() => options.directory = Some(path.into()),
                _ => return Err(USAGE.into()),
            }
        }
        // Worker 0 is the only one who is steady for sure; more than 500 new clients at once would be throttled.
        if (1..=500).contains(&options.workers) { Ok(options) } else { Err("--workers: 1 to 500".into()) }
    }
}

/// Never one that another version of the crate left.
fn default_directory(graph: &Graph) -> PathBuf {
    std::env::temp_dir().join(format!("commissary-social-graph-{FORMAT_VERSION}-{:016x}", graph.fingerprint()))
}

fn on_interrupt() -> Result<Arc<AtomicBool>, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))?;
    Ok(interrupted)
}

/// Opens the hub of this graph, and makes sure that the directory is not another graph's.
fn open(directory: &Path, graph: &Graph) -> Result<Hub, Failure> {
    let hub = Hub::open(directory.join("hub"))?;
    let (mark, fingerprint) = (directory.join("input"), format!("{:016x}\n", graph.fingerprint()));
    match fs::read_to_string(&mark) {
        Ok(found) if found == fingerprint => {}
        Ok(found) if !found.is_empty() => {
            return Err(format!("{} holds the results of another graph", directory.display()).into());
        }
        // The first start, or killed in it just here.
        _ => fs::write(&mark, &fingerprint)?,
    }
    Ok(hub)
}

fn explore(
    hub: &Hub,
    graph: &Graph,
    options: &Options,
    directory: &Path,
    interrupted: &AtomicBool,
) -> Result<ExitCode, Failure> {
    let shop = Shop::open(hub, graph, interrupted)?;
    if hub.open_report().boots > 1 {
        let (following, dm) = (shop.following.stats().subjects_done, shop.dm.stats().subjects_done);
        println!("note: goes on in {}, with {following} lists and {dm} message states", directory.display());
    }
    let mut progress = Progress::new(&shop, options.quiet)?;
    // All of this was done before, perhaps, by a run that was killed: nobody is taken in twice.
    shop.following.add_all(graph.roots())?;
    crowd::reconcile(&shop)?;
    let crowd = Crowd::new(graph, options.workers, !options.honest);
    let mut operator = Operator::new(&shop, &crowd, options.seed);
    let watched = crowd::work(&shop, &crowd, options.seed, || watch(&shop, &mut operator, &mut progress));
    progress.finish();
    watched?;
    let worked = progress.elapsed();
    let rate = progress.rate(&shop);
    let flaws = check::check(&shop, &crowd)?;
    hub.close()?;
    let Some(flaws) = flaws else {
        println!("interrupted; start it again to go on (what is known is in {})", directory.display());
        return Ok(ExitCode::from(INTERRUPTED));
    };
    summary::print(&shop, &operator, directory, worked, rate, &flaws);
    Ok(if flaws.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits until everything is known and checked, or the shop is closing.
fn watch(shop: &Shop<'_>, operator: &mut Operator<'_>, progress: &mut Progress) -> Result<(), Failure> {
    operator.resume()?;
    let (mut last, mut since) = (shop.reported(), Instant::now());
    while !shop.is_closing() && !operator.is_done()? {
        shop.hub.health()?;
        progress.update(shop);
        shop.pause(LOOK);
        operator.look()?;
        let now = shop.reported();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > STALLED {
            progress.finish();
            println!("no result for {} s: giving up", STALLED.as_secs());
            return Ok(());
        }
    }
    Ok(())
}
