//! A hub at work, seen live: a dashboard in the terminal, and the same as one HTML page with charts.
//!
//! ```text
//! cargo run --release --example monitor [--seconds N] [--html FILE] [--no-terminal] [--seed N]
//! ```
//!
//! It runs for `N` seconds, or until `q`, Esc or Ctrl-C. `FILE` is written anew every few seconds, and at the end; a browser
//! that shows it follows. Without a terminal, or with `--no-terminal`, there is a line a second, and at the end the whole
//! dashboard as text.
//!
//! What is watched (`shop.rs`, `worker.rs`) is made up: three services, and twelve workers of whom half crash, dawdle or
//! cheat. The watching itself knows nothing of it, and can be taken over into an application as it is: `look.rs` takes a
//! sample of any hub, `dashboard.rs` and `page.rs` draw what was sampled.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to its user")]

mod dashboard;
mod dice;
mod figures;
mod look;
mod page;
mod sample;
mod screen;
mod shop;
mod svg;
mod worker;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use commissary::Hub;

use look::{Look, Watched};
use sample::History;
use screen::Screen;
use shop::Shop;

type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: monitor [--seconds N] [--html FILE] [--no-terminal] [--seed N]";
/// How often the hub is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often the page is written.
const PAGE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    run().map_or_else(
        |error| {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    time: Option<Duration>,
    html: Option<PathBuf>,
    terminal: bool,
    seed: u64,
}

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut options = Self { time: None, html: None, terminal: true, seed: 1 };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| Failure::from(USAGE));
            let number = |text: String| text.parse::<u64>().map_err(|_| Failure::from(USAGE));
            match argument.as_str() {
                "--seconds" => options.time = Some(Duration::from_secs(number(value()?)?)),
                "--html" => options.html = Some(value()?.into()),
                "--no-terminal" => options.terminal = false,
                "--seed" => options.seed = number(value()?)?,
                _ => return Err(USAGE.into()),
            }
        }
        Ok(options)
    }
}

fn run() -> Result<(), Failure> {
    let options = Options::parse(std::env::args().skip(1))?;
    let closing = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&closing);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))?;
    // On disk, so that there is something to see of it; gone afterwards.
    let directory = tempfile::tempdir()?;
    let hub = Hub::builder().seed(options.seed).open(directory.path().join("hub"))?;
    let shop = Shop::open(&hub, options.seed, &closing)?;
    shop.run(|| watch(&shop, &options))?;
    drop(shop);
    Ok(hub.close()?)
}

/// Shows the hub until the time is over, the user goes or the shop closes.
fn watch(shop: &Shop<'_>, options: &Options) -> Result<(), Failure> {
    let services = shop.counters.iter().map(|counter| &counter.service as &dyn Watched).collect();
    let mut look = Look::at(shop.hub, services);
    let mut history = History::default();
    let mut screen = Screen::open(options.terminal)?;
    let began = Instant::now();
    let mut page_due = began;
    loop {
        history.push(look.sample(began.elapsed()));
        screen.show(&history)?;
        if began.elapsed() >= page_due.duration_since(began) {
            write_page(options, &history, Some(PAGE))?;
            page_due = Instant::now() + PAGE;
        }
        let left = options.time.map(|time| time.saturating_sub(began.elapsed()));
        let over = left.is_some_and(|left| left.is_zero()) || shop.is_closing();
        if over || screen.wait(left.unwrap_or(LOOK).min(LOOK), || shop.is_closing())? {
            break;
        }
    }
    screen.close(&history);
    write_page(options, &history, None)
}

fn write_page(options: &Options, history: &History, again: Option<Duration>) -> Result<(), Failure> {
    let Some(path) = &options.html else { return Ok(()) };
    page::write(path, history, again).map_err(|error| format!("{}: {error}", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Result<Options, Failure> {
        Options::parse(arguments.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read() {
        let given = parse("--seconds 3 --html page.html --no-terminal --seed 9").unwrap();
        let html = Some("page.html".into());
        assert_eq!(given, Options { time: Some(Duration::from_secs(3)), html, terminal: false, seed: 9 });
        assert_eq!(parse("").unwrap(), Options { time: None, html: None, terminal: true, seed: 1 });
        for wrong in ["--seconds", "--seconds x", "--html", "page.html"] {
            assert_eq!(parse(wrong).unwrap_err().to_string(), USAGE, "{wrong}");
        }
    }
}
