//! What a model is, how the checkers run it, and the states that were reached.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

/// A compare-and-swap failed, so that its caller had to look again.
pub(crate) const EXCHANGE_FAILED: &str = "exchange failed";
/// The caretaker went to sleep.
pub(crate) const PARKED: &str = "parked";

/// Whether a seeded bug is in force: `bug!("bug_place_blind")`. Constantly not, without the feature of its name.
macro_rules! bug {
    ($name:literal) => {
        cfg!(feature = $name) && $crate::check::is_in_force($name)
    };
}

/// One model.
#[derive(Debug)]
pub struct Model {
    /// Its name, as `run` and the messages give it.
    pub name: &'static str,
    /// One execution of it, from the fresh structures to the last assertion.
    pub body: fn(),
    /// The states that it claims to cover: each must be reached in at least one execution.
    pub states: &'static [&'static str],
    /// loom: preemptions in one execution, at most; `None`: no bound.
    pub bound: Option<usize>,
    /// shuttle: small enough to be explored to the end. (Never where a thread parks: its wake-ups without cause have no end.)
    pub finite: bool,
    /// It rests on the single order of all `SeqCst` operations.
    pub one_order: bool,
}

/// A state of a model, and in how many places of how many executions it was reached.
#[derive(Debug)]
pub struct Seen {
    /// As the model names it.
    pub state: &'static str,
    /// How often.
    pub times: u64,
}

// Plain atomics and cells, which no checker sees.
static BUG: OnceLock<String> = OnceLock::new();
static RUNNING: OnceLock<&'static Model> = OnceLock::new();
static EXECUTIONS: AtomicU64 = AtomicU64::new(0);
static TIMES: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];
/// The states that the running execution has reached, one bit each.
static REACHED: AtomicU64 = AtomicU64::new(0);
/// What executions of a model came to: each the states that it reached.
static OUTCOMES: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// Whether `MODELS_BUG` names this bug. Of all the bugs that are built in, one process has one in force, or none.
pub(crate) fn is_in_force(bug: &str) -> bool {
    BUG.get_or_init(|| std::env::var("MODELS_BUG").unwrap_or_default()) == bug
}

/// Notes that the running model reached one of its states.
///
/// # Panics
///
/// If the model does not name it.
pub(crate) fn seen(state: &str) {
    assert!(seen_if_named(state), "the model does not name the state '{state}'");
}

/// Notes a state if `reached`.
pub(crate) fn seen_when(reached: bool, state: &str) {
    if reached {
        seen(state);
    }
}

/// Notes a state if the running model names it.
pub(crate) fn seen_if_named(state: &str) -> bool {
    let states = RUNNING.get().map_or(&[][..], |model| model.states);
    let place = states.iter().position(|named| *named == state);
    if let Some(times) = place.and_then(|place| TIMES.get(place)) {
        times.fetch_add(1, Ordering::Relaxed);
    }
    REACHED.fetch_or(place.map_or(0, |place| 1 << place), Ordering::Relaxed);
    place.is_some()
}

/// The states of a model, after it was explored.
#[must_use]
pub fn seen_in(model: &Model) -> Vec<Seen> {
    let times = TIMES.iter().map(|times| times.load(Ordering::Relaxed));
    model.states.iter().zip(times).map(|(state, times)| Seen { state, times }).collect()
}

/// Makes `model` the one that is running: once a process.
fn begin(model: &'static Model) {
    assert!(model.states.len() <= TIMES.len(), "too many states");
    assert!(RUNNING.set(model).is_ok(), "one model a process");
    if model.one_order {
        crate::sync::set_one_order();
    }
}

/// One execution, counted.
fn execute(model: &Model) {
    EXECUTIONS.fetch_add(1, Ordering::Relaxed);
    REACHED.store(0, Ordering::Relaxed);
    (model.body)();
    OUTCOMES.lock().expect("nobody panics with it").insert(REACHED.load(Ordering::Relaxed));
}

/// How many executions there were.
#[must_use]
pub fn executions() -> u64 {
    EXECUTIONS.load(Ordering::Relaxed)
}

/// What the executions of a model came to, if the checker took all of them: each the states that one reached, by a bit.
#[must_use]
pub fn outcomes(model: &Model) -> Option<Vec<u64>> {
    let all = model.finite && (cfg!(shuttle) || (cfg!(loom) && model.bound.is_none()));
    all.then(|| OUTCOMES.lock().expect("nobody panics with it").iter().copied().collect())
}

/// Runs a model as the checker compiled in does; returns how, and the number of executions.
///
/// # Panics
///
/// If the model does, in any execution.
#[must_use]
pub fn explore(model: &'static Model) -> (String, u64) {
    begin(model);
    let how = checker::explore(model);
    (how, executions())
}

/// Runs one schedule again, as shuttle printed it. Other checkers have none.
///
/// # Panics
///
/// If the model does.
pub fn replay(model: &'static Model, schedule: &str) {
    begin(model);
    checker::replay(model, schedule);
}

#[cfg(loom)]
mod checker {
    use super::{Model, execute};

    pub(super) fn explore(model: &'static Model) -> String {
        let mut builder = loom::model::Builder::new();
        // Set by LOOM_MAX_PREEMPTIONS, for a deeper run by hand.
        let bound = builder.preemption_bound.or(model.bound);
        builder.preemption_bound = bound;
        builder.max_branches = 10_000;
        builder.check(move || execute(model));
        bound.map_or("loom, unbounded".to_owned(), |bound| format!("loom, bound {bound}"))
    }

    pub(super) fn replay(_: &'static Model, _: &str) {
        panic!("loom has no schedules to replay");
    }
}

#[cfg(shuttle)]
mod checker {
    use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
    use shuttle::{Config, Runner};

    use super::{Model, execute, executions};

    /// Executions of the random and of the priority-based strategy; `MODELS_ROUNDS` sets another number.
    const ROUNDS: usize = 100_000;
    const SEED: u64 = 0x00c0_ffee;

    pub(super) fn explore(model: &'static Model) -> String {
        let rounds = std::env::var("MODELS_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
        let random = run(model, RandomScheduler::new_from_seed(SEED, rounds));
        let pct = run(model, PctScheduler::new_from_seed(SEED, 3, rounds));
        let most: Option<usize> = std::env::var("MODELS_DFS").ok().and_then(|text| text.parse().ok());
        let all = (model.finite || most.is_some()).then(|| run(model, DfsScheduler::new(most, false)));
        let all = all.map_or(String::new(), |all| format!(" + all {all}"));
        format!("shuttle, random {random} + PCT {pct}{all}")
    }

    /// Runs a model by one strategy; how many executions that took.
    fn run(model: &'static Model, scheduler: impl Scheduler + 'static) -> u64 {
        let before = executions();
        let mut config = Config::new();
        config.silence_warnings = true;
        Runner::new(scheduler, config).run(move || execute(model));
        executions() - before
    }

    pub(super) fn replay(model: &'static Model, schedule: &str) {
        shuttle::replay(move || execute(model), schedule);
    }
}

/// Real threads, which reach few interleavings: only to see that the models run at all.
#[cfg(not(any(loom, shuttle)))]
mod checker {
    use super::{Model, execute};

    pub(super) fn explore(model: &'static Model) -> String {
        (0..2_000).for_each(|_| execute(model));
        "threads".to_owned()
    }

    pub(super) fn replay(_: &'static Model, _: &str) {
        panic!("real threads have no schedules to replay");
    }
}
