//! Runs one model: `models NAME`. `models` alone lists them; `models NAME SCHEDULE` runs one schedule of shuttle again.
//!
//! Exit status: 0 if it holds, 1 if an execution of it failed, 2 if a state that it claims to cover was never reached.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use commissary_models::{Model, all, explore, replay, seen_in};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        for model in all() {
            println!("{}", model.name);
        }
        return ExitCode::SUCCESS;
    };
    let Some(model) = all().into_iter().find(|model| model.name == name) else {
        eprintln!("no such model: {name}");
        return ExitCode::from(3);
    };
    if let Some(schedule) = arguments.next() {
        replay(model, &schedule);
        return ExitCode::SUCCESS;
    }
    run(model)
}

/// Explores a model and prints one line on it.
fn run(model: &'static Model) -> ExitCode {
    if cfg!(loom) {
        stop_at_first_panic();
    }
    let began = Instant::now();
    let Ok((how, executions)) = catch_unwind(AssertUnwindSafe(|| explore(model))) else {
        return ExitCode::from(1);
    };
    let seconds = began.elapsed().as_secs_f32();
    let states = seen_in(model);
    let list: Vec<String> = states.iter().map(|seen| format!("{} {}", seen.state, seen.times)).collect();
    println!("{:<22} {how}: {executions} interleavings, {seconds:.1} s ({})", model.name, list.join(", "));
    let missed: Vec<&str> = states.iter().filter(|seen| seen.times == 0).map(|seen| seen.state).collect();
    if cfg!(any(loom, shuttle)) && !missed.is_empty() {
        eprintln!("{}: never reached: {}", model.name, missed.join(", "));
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}

/// loom's structures panic again while a panic unwinds through them: say the first one and leave.
fn stop_at_first_panic() {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        std::process::exit(1);
    }));
}
