//! The catalog at work: a hub, workers, users' terminals, the outbox and the projections; shift after shift, and after a
//! crash from where it was.

use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use commissary::{
    Clock, Crash, DeadLetters, Hub, Limits, MemoryDisk, Outbox, OutboxOptions, Projected, Projection,
    ProjectionOptions, ServiceHandle, Views,
};

use super::Failure;
use super::check::{self, Outcome};
use super::commands::{Command, Meals};
use super::input::Script;
use super::payments::{Effect, Payments};
use super::provider::Provider;
use super::views::{Availability, Figures, Over, Sales, Shared};
use super::workers::{self, Floor, Roster};

/// Threads that send the orders of one area. Each fridge's users are at one of them.
const TERMINALS: u32 = 2;
/// Without a quiet moment for so long, something is broken.
const STALLED: Duration = Duration::from_secs(60);

/// Where the hub lives.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Memory(MemoryDisk),
    Directory(PathBuf),
}

/// How it is run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) workers: usize,
    /// How long a worker may be silent.
    pub(crate) lease: Duration,
    /// A worker dies with work in hand when so many commands are executed.
    pub(crate) deaths: Vec<u64>,
    /// The process dies when so many commands are executed since it was started: in memory the next one is started, in a
    /// directory it really dies.
    pub(crate) crashes: Vec<(u64, Crash)>,
}

impl Plan {
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers, lease: Duration::from_secs(5), deaths: Vec::new(), crashes: Vec::new() }
    }
}

/// The input's clock for what is written on the wall, the machine's for how long things take.
#[derive(Debug, Clone)]
struct ShopClock {
    start: Instant,
    wall_ms: Arc<AtomicI64>,
}

impl ShopClock {
    fn new() -> Self {
        Self { start: Instant::now(), wall_ms: Arc::default() }
    }

    fn set(&self, at: u64) {
        self.wall_ms.store(i64::try_from(at).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

impl Clock for ShopClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall_ms(&self) -> i64 {
        self.wall_ms.load(Ordering::Relaxed)
    }
}

/// Runs the script to its end, over all crashes of the plan.
pub(crate) fn run(script: &Script, provider: &Arc<Provider>, place: Place, plan: &Plan) -> Result<Outcome, Failure> {
    let (started, mut place) = (Instant::now(), place);
    let mut crashes = plan.crashes.iter();
    loop {
        match live(script, provider, &place, plan, crashes.next().copied())? {
            Ended::Done(outcome) => return Ok(Outcome { elapsed: started.elapsed(), ..*outcome }),
            Ended::Crashed(disk) => place = Place::Memory(disk),
        }
        provider.set_down(false);
    }
}

/// How a life of the process ended.
enum Ended {
    Done(Box<Outcome>),
    /// What is on the disk then.
    Crashed(MemoryDisk),
}

/// One life of the process.
fn live(
    script: &Script,
    provider: &Arc<Provider>,
    place: &Place,
    plan: &Plan,
    crash: Option<(u64, Crash)>,
) -> Result<Ended, Failure> {
    let clock = ShopClock::new();
    let hub = open(place, clock.clone())?;
    let service = |area| hub.register(Meals::new(area, script.rules.times, plan.lease));
    let areas: Vec<_> = (0..script.areas).map(service).collect::<Result<_, _>>()?;
    let mut sales = hub.project(Sales, ProjectionOptions::default())?;
    sales.catch_up()?;
    let first = sales.view().state.shift.unwrap_or(0);
    clock.set(script.rules.times.start(first));
    let venues = hub.project(Availability(Over::Venues), ProjectionOptions::default())?;
    let by_area = hub.project(Availability(Over::Areas), ProjectionOptions::default())?;
    let options = OutboxOptions {
        backoff_first: Duration::from_millis(2),
        save_every: 1_024,
        letters_max: 100_000,
        ..OutboxOptions::default()
    };
    let outbox = hub.outbox(Payments(Arc::clone(provider)), options)?;
    let desk = Desk {
        venues: venues.views(),
        areas: by_area.views(),
        sales: sales.views(),
        letters: outbox.dead_letters(),
        provider,
    };
    let (closing, done, died) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let roster = Roster::new(script.areas, plan.workers);
    let fuse = crash.map(|(after, how)| Fuse { after, how, place, provider, left: OnceLock::new() });
    let shop = Shop { script, hub: &hub, areas: &areas, desk, roster: &roster, clock: &clock, closing: &closing };
    let floor = Floor {
        hub: &hub,
        rules: &script.rules,
        areas: &areas,
        roster: &roster,
        closing: &closing,
        done: &done,
        deaths: &plan.deaths,
        died: &died,
        fuse: fuse.as_ref(),
    };
    thread::scope(|scope| {
        let mut readers = vec![follow(scope, venues), follow(scope, by_area), follow(scope, sales)];
        readers.push(deliver(scope, outbox));
        let floor = &floor;
        let workers = (0..plan.workers).map(|worker| {
            scope.spawn(move || {
                let worked = workers::work(floor, worker);
                if worked.is_err() {
                    floor.closing.store(true, Ordering::Relaxed);
                }
                worked
            })
        });
        let workers: Vec<_> = workers.collect();
        let driven = shop.drive(first);
        let outcome = driven.and_then(|done| if done { check::examine(&shop).map(Some) } else { Ok(None) });
        closing.store(true, Ordering::Relaxed);
        let worked: Result<Vec<()>, Failure> = workers.into_iter().map(join).collect();
        let closed = hub.close();
        let read: Result<Vec<()>, Failure> = readers.into_iter().map(join).collect();
        if let Some(disk) = fuse.as_ref().and_then(|fuse| fuse.left.get()) {
            return Ok(Ended::Crashed(disk.clone()));
        }
        worked.and(read)?;
        closed?;
        let outcome = outcome?.ok_or("it stopped, and nobody said why")?;
        let (executed, died) = (done.load(Ordering::Relaxed), died.load(Ordering::Relaxed));
        let moves = roster.moves.load(Ordering::Relaxed);
        Ok(Ended::Done(Box::new(Outcome { executed, died, moves, ..outcome })))
    })
}

fn open(place: &Place, clock: ShopClock) -> Result<Hub, Failure> {
    let limits = Limits { lane_state_bytes: 4 << 20, ..Limits::default() };
    let builder = Hub::builder().clock(clock).limits(limits);
    Ok(match place {
        Place::Memory(disk) => builder.open_in_memory(disk)?,
        Place::Directory(directory) => builder.open(directory)?,
    })
}

/// Ends this life of the process when so many commands are executed: at that command, however fast or slow it goes.
#[derive(Debug)]
pub(crate) struct Fuse<'a> {
    after: u64,
    how: Crash,
    place: &'a Place,
    provider: &'a Provider,
    /// What is on the disk then.
    left: OnceLock<MemoryDisk>,
}

impl Fuse<'_> {
    /// So many commands were executed before, and so many more now.
    pub(crate) fn burn(&self, before: u64, more: u64, closing: &AtomicBool) {
        if !(before..before + more).contains(&self.after) {
            return;
        }
        match self.place {
            Place::Directory(_) => process::abort(),
            Place::Memory(disk) => {
                // Nothing that this life does from here on reaches the outside.
                self.provider.set_down(true);
                let _ = self.left.set(disk.after(self.how));
                closing.store(true, Ordering::Relaxed);
            }
        }
    }
}

type Running<'scope> = ScopedJoinHandle<'scope, Result<(), Failure>>;

fn follow<'scope, P: Projection>(scope: &'scope Scope<'scope, '_>, mut view: Projected<P>) -> Running<'scope> {
    scope.spawn(move || Ok(view.run()?))
}

fn deliver<'scope>(scope: &'scope Scope<'scope, '_>, mut outbox: Outbox<Payments>) -> Running<'scope> {
    scope.spawn(move || Ok(outbox.run()?))
}

fn join(thread: Running<'_>) -> Result<(), Failure> {
    thread.join().unwrap_or_else(|_| Err("a thread panicked".into()))
}

/// What others see of the catalog while it is at work.
pub(crate) struct Desk<'a> {
    pub(crate) venues: Views<Shared>,
    pub(crate) areas: Views<Shared>,
    pub(crate) sales: Views<Figures>,
    letters: DeadLetters<Effect>,
    pub(crate) provider: &'a Arc<Provider>,
}

impl Desk<'_> {
    /// All events are in all views, and all money matters are settled with the provider.
    fn is_level(&self) -> bool {
        let (venues, areas, sales) = (self.venues.view(), self.areas.view(), self.sales.view());
        if [venues.age, areas.age, sales.age].iter().any(|age| !age.is_zero()) {
            return false;
        }
        let (charges, refunds) = self.provider.done();
        let charged = charges + self.letters.list().len();
        (charged as u64, refunds as u64) == (sales.state.reserved, sales.state.refunds)
    }

    /// The stock is what was released, less what is sold, less what is held; whoever adds it up.
    fn check(&self) -> Result<(), Failure> {
        let (venues, areas, sales) = (self.venues.view(), self.areas.view(), self.sales.view());
        let Figures { released, held, confirmed, .. } = *sales.state;
        let available = (venues.state.units(), areas.state.units());
        if available.0 == available.1 && available.0 + held + confirmed == released {
            return Ok(());
        }
        Err(format!("{released} units are released, {confirmed} sold, {held} held, and {available:?} available").into())
    }
}

/// The catalog at work, as whoever drives it sees it.
pub(crate) struct Shop<'a> {
    pub(crate) script: &'a Script,
    pub(crate) hub: &'a Hub,
    areas: &'a [ServiceHandle<Meals>],
    pub(crate) desk: Desk<'a>,
    pub(crate) roster: &'a Roster,
    clock: &'a ShopClock,
    closing: &'a AtomicBool,
}

impl Shop<'_> {
    /// Runs all shifts from `first` on. What was sent before, in a life before, changes nothing. False if it was stopped.
    fn drive(&self, first: u32) -> Result<bool, Failure> {
        for shift in first..self.script.len() {
            self.clock.set(self.script.rules.times.start(shift));
            let answers = self.desk.provider.answers(shift, self.script.rules.times);
            self.send(&self.script.with_answers(shift, answers), shift)?;
            if !self.settle()? {
                return Ok(false);
            }
            self.desk.check().map_err(|error| format!("after shift {shift}: {error}"))?;
        }
        Ok(true)
    }

    /// Sends from all terminals at once; meanwhile an area may go to other workers.
    fn send(&self, commands: &[Command], shift: u32) -> Result<(), Failure> {
        thread::scope(|scope| {
            let mut terminals = Vec::new();
            for (area, service) in (0..).zip(self.areas) {
                for terminal in 0..TERMINALS {
                    let mine = move |command: &&Command| {
                        command.fridge.area == area && command.fridge.number / 7 % TERMINALS == terminal
                    };
                    terminals.push(scope.spawn(move || offer(service, commands.iter().filter(mine))));
                }
            }
            if shift % 3 == 1 {
                self.roster.move_area(shift as usize % self.areas.len());
            }
            let sent: Result<Vec<()>, Failure> = terminals.into_iter().map(join).collect();
            sent.map(drop)
        })
    }

    /// Waits for a quiet moment. False if it was stopped before.
    fn settle(&self) -> Result<bool, Failure> {
        let start = Instant::now();
        while !self.closing.load(Ordering::Relaxed) {
            self.hub.health()?;
            if self.areas.iter().all(is_idle) && self.desk.is_level() {
                return Ok(true);
            }
            if start.elapsed() > STALLED {
                let idle: Vec<_> = self.areas.iter().map(is_idle).collect();
                let (charges, refunds) = self.desk.provider.done();
                let figures = Figures::clone(&self.desk.sales.view().state);
                let wait = STALLED.as_secs();
                let money = format!("{charges} charges and {refunds} refunds made");
                return Err(format!("not quiet after {wait} s: areas {idle:?}; {money}; {figures:?}").into());
            }
            thread::sleep(Duration::from_micros(500));
        }
        Ok(false)
    }
}

/// Offers commands in their order. Those that are known change nothing.
fn offer<'c>(area: &ServiceHandle<Meals>, commands: impl Iterator<Item = &'c Command>) -> Result<(), Failure> {
    let intake = area.add_all(commands.cloned())?;
    // It would have to be offered again, and the order would be another one.
    if intake.full > 0 { Err(format!("{} commands found their fridge full", intake.full).into()) } else { Ok(()) }
}

fn is_idle(area: &ServiceHandle<Meals>) -> bool {
    let stats = area.stats();
    stats.subjects_done == stats.subjects_known
}

/// Opens a directory for a script, and makes sure that it is not another script's.
pub(crate) fn adopt(directory: &Path, script: &Script) -> Result<(), Failure> {
    std::fs::create_dir_all(directory)?;
    let (mark, print) = (directory.join("input"), format!("{:016x}\n", script.print()?));
    match std::fs::read_to_string(&mark) {
        Ok(found) if found == print => Ok(()),
        Ok(found) if !found.is_empty() => Err(format!("{} is another input's", directory.display()).into()),
        _ => Ok(std::fs::write(&mark, print)?),
    }
}
