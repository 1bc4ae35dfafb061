//! Runs one model: `models NAME`. `models` alone lists them; `models NAME SCHEDULE` runs one schedule of shuttle again.
//! `models museum NAME` shows one exhibit, `models museum` lists them.
//!
//! Exit status: 0 if it holds, 1 if an execution of it failed, 2 if a state that it claims to cover was never reached; of an
//! exhibit 0 if an execution of it failed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use commissary_models::{EXHIBITS, Exhibit, Model, all, executions, explore, outcomes, replay, seen_in};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        for model in all() {
            println!("{}", model.name);
        }
        return ExitCode::SUCCESS;
    };
    if name == "museum" {
        return museum(arguments.next());
    }
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
    if let Some(outcomes) = outcomes(model) {
        println!("outcomes {}", outcomes.iter().map(u64::to_string).collect::<Vec<_>>().join(" "));
    }
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

/// Lists the exhibits, or shows one: an execution of it must fail.
fn museum(name: Option<String>) -> ExitCode {
    let Some(name) = name else {
        for exhibit in EXHIBITS {
            println!("{}", exhibit.way.name);
        }
        return ExitCode::SUCCESS;
    };
    let Some(exhibit) = EXHIBITS.iter().find(|exhibit| exhibit.way.name == name) else {
        eprintln!("no such exhibit: {name}");
        return ExitCode::from(3);
    };
    if cfg!(not(loom)) && !all().iter().any(|model| model.name == exhibit.ours) {
        eprintln!("no such model: {}", exhibit.ours);
        return ExitCode::from(3);
    }
    leave_when_found(exhibit);
    let _ = explore(&exhibit.way);
    eprintln!("{name}: held in {} interleavings", executions());
    ExitCode::from(1)
}

/// The first panic is what was looked for.
fn leave_when_found(exhibit: &'static Exhibit) {
    let began = Instant::now();
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let what = text.unwrap_or("a panic").lines().next().unwrap_or_default().to_owned();
        let (name, seconds) = (exhibit.way.name, began.elapsed().as_secs_f32());
        let found = format!("{name:<24} found after {} interleavings, {seconds:.2} s: {what}", executions());
        println!("{found} [{}; ours: {}]", exhibit.published, exhibit.ours);
        std::process::exit(0);
    }));
}
