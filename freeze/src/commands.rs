//! The command line.

use std::error::Error;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use crate::designs::Operation;
use crate::step::NotTraced;
use crate::{memory, random, step};

const USAGE: &str = "\
freeze step     one thread held at every instruction of each operation
freeze random   one of many threads stopped at random moments
freeze mix      the same work without stops, for sanitizers

options, with what they are without being given:
  --design hub            or: mutex, which must be found; random: epoch, whose memory must be found
  --operations all        step: some of them, with commas between
  --full 4                step: passes in which the thread is held at each address
  --repeats 4             step: holds at one address in one of those, from the second on
  --sweep 12              step: passes after those, in which it is held where it never was
  --hold-us 300           step: how long it is held (random: 4000)
  --patience-ms 2000      how long the others may need before they count as blocked
  --deep 4                step: one address in so many where the caretakers must come round, too
  --seconds 600           step: no more passes of one operation after so long; mix: how long
  --names                 step: the functions that were passed
  --stops 400             random: how often (epoch: 10)
  --threads 4             random, mix: how many
  --stands 4              random (contrasts: 2): stops of 300 ms in which resident memory is looked at
FREEZE_ALLOCATOR=system takes memory from the system's allocator instead of mimalloc.";

/// The value of an option, or what it is without.
fn option<T: FromStr>(arguments: &[String], name: &str, otherwise: T) -> Result<T, Box<dyn Error>> {
    match arguments.iter().position(|argument| argument == name) {
        None => Ok(otherwise),
        Some(at) => {
            let value = arguments.get(at + 1).map(|value| value.parse());
            value.and_then(Result::ok).ok_or_else(|| format!("{name} wants a value\n{USAGE}").into())
        }
    }
}

fn operations(names: &str) -> Result<Vec<usize>, Box<dyn Error>> {
    if names == "all" {
        return Ok((0..Operation::ALL.len()).collect());
    }
    let place = |name: &str| Operation::ALL.iter().position(|(_, known)| *known == name);
    names.split(',').map(|name| place(name).ok_or_else(|| format!("no operation {name}").into())).collect()
}

fn step_plan(arguments: &[String], contrast: bool) -> Result<step::Plan, Box<dyn Error>> {
    let millis = |name, otherwise| option(arguments, name, otherwise).map(Duration::from_millis);
    Ok(step::Plan {
        full: option(arguments, "--full", 4)?,
        repeats: option(arguments, "--repeats", 4)?,
        sweep: option(arguments, "--sweep", 12)?,
        deep: option(arguments, "--deep", 4)?,
        hold: Duration::from_micros(option(arguments, "--hold-us", 300)?),
        // Of the mutex nothing else is expected than that they wait.
        patience: millis("--patience-ms", if contrast { 20 } else { 2_000 })?,
        allocator_patience: millis("--allocator-patience-ms", 30)?,
        operations: operations(&option(arguments, "--operations", "all".to_owned())?)?,
        budget: Duration::from_secs(option(arguments, "--seconds", 600)?),
        contrast,
        tell: arguments.iter().any(|argument| argument == "--names"),
    })
}

fn random_plan(arguments: &[String], what: random::What) -> Result<random::Plan, Box<dyn Error>> {
    let contrast = what != random::What::Hub;
    Ok(random::Plan {
        // What it replaces is never given back: not too much of it.
        stops: option(arguments, "--stops", if what == random::What::Epoch { 10 } else { 400 })?,
        threads: option(arguments, "--threads", 4)?,
        hold: Duration::from_micros(option(arguments, "--hold-us", 4_000)?),
        patience: Duration::from_millis(option(arguments, "--patience-ms", if contrast { 20 } else { 2_000 })?),
        stands: option(arguments, "--stands", if contrast { 2 } else { 4 })?,
        stand: Duration::from_millis(300),
        what,
    })
}

fn judged(arguments: &[String]) -> Result<bool, Box<dyn Error>> {
    let design = option(arguments, "--design", "hub".to_owned())?;
    println!("allocator: {}", if memory::is_system() { "the system's" } else { "mimalloc" });
    match (arguments.first().map(String::as_str), design.as_str()) {
        (Some("step"), "hub" | "mutex") => step::run(&step_plan(arguments, design == "mutex")?),
        (Some("random"), "hub") => random::run(&random_plan(arguments, random::What::Hub)?),
        (Some("random"), "mutex") => random::run(&random_plan(arguments, random::What::Mutex)?),
        (Some("random"), "epoch") => random::run(&random_plan(arguments, random::What::Epoch)?),
        (Some("mix"), "hub") => {
            random::mix(option(arguments, "--threads", 4)?, Duration::from_secs(option(arguments, "--seconds", 10)?))
        }
        _ => Err(USAGE.into()),
    }
}

/// Does what the command line says. 0: all is as it must be; a contrast was found.
pub fn run() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match judged(&arguments) {
        Ok(true) => {
            println!("1 passed, 0 failed");
            ExitCode::SUCCESS
        }
        Ok(false) => {
            println!("0 passed, 1 failed");
            ExitCode::FAILURE
        }
        Err(error) if error.is::<NotTraced>() => {
            println!("skipped: {error}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(3)
        }
    }
}
