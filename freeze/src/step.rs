//! One thread held at every instruction of an operation.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::board::{Board, counted, get, set, shared};
use crate::crew;
use crate::designs::{Counter, Design, Locked, Operation, Setting};
use crate::names::Names;
use crate::trace::{Stop, Traced};

/// How it is done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Passes in which the thread is held at each address, so often; the first of them with as few holds as one an address.
    pub full: u32,
    /// Passes after those, in which it is held only where it never was.
    pub sweep: u32,
    /// Holds at one address in one of the full passes, at most.
    pub repeats: u32,
    /// Of the addresses, one in so many where also the design's own threads must come round.
    pub deep: u64,
    /// How long.
    pub hold: Duration,
    /// How long the others may need, on a busy machine, until it counts as blocked.
    pub patience: Duration,
    /// The same, of a stop inside the allocator, which may have locks of its own.
    pub allocator_patience: Duration,
    /// The operations.
    pub operations: Vec<usize>,
    /// With the mutex instead of the hub: it must be reported.
    pub contrast: bool,
    /// Tells the names of all functions that were passed.
    pub tell: bool,
}

/// Threads that must go on.
const OTHERS: usize = 2;

/// What was seen of one operation.
#[derive(Debug, Default)]
struct Seen {
    passes: u64,
    effective: u64,
    stops: u64,
    /// How often each instruction was passed.
    addresses: BTreeMap<u64, u64>,
    /// Where it was held already.
    held: BTreeSet<u64>,
    /// Stops in which nobody completed a round, and where.
    blocked: BTreeMap<u64, u64>,
    /// Stops in which one of the others did not, and where.
    stood: BTreeMap<u64, u64>,
    /// Stops inside the allocator; of those, in which somebody stood still, or one of the design's own threads, and where.
    allocating: u64,
    waited: BTreeMap<u64, u64>,
    /// Stops that had to be longer until everybody had.
    longer: u64,
    /// The fewest rounds of all others in a stop.
    least: Option<u64>,
    /// Stops in which also the design's own threads had to come round, and where they did not.
    deep: u64,
    writer: BTreeMap<u64, u64>,
    steward: BTreeMap<u64, u64>,
    /// Instructions of one operation, at most: while the others rested, and while they went on at each instruction.
    quiet: u64,
    disturbed: u64,
    calls: BTreeMap<String, u64>,
}

/// The watcher.
struct Watcher<'a> {
    board: &'a Board,
    plan: &'a Plan,
    victim: Traced,
}

/// Where a pass holds.
#[derive(Clone, Copy, PartialEq)]
enum Where {
    Nowhere,
    /// At each address, so often.
    Everywhere(u32),
    WhereNever,
}

impl Watcher<'_> {
    /// Lets the victim run until it is about to do an operation.
    fn to_the_start(&self) -> Result<(), Box<dyn Error>> {
        loop {
            match self.victim.wait()? {
                Stop::Signal(libc::SIGUSR2) => return Ok(()),
                Stop::Gone => return Err("the watched process ended".into()),
                _ => self.victim.go_on()?,
            }
        }
    }

    fn one_step(&self) -> Result<(), Box<dyn Error>> {
        self.victim.step()?;
        match self.victim.wait()? {
            Stop::Gone => Err("the watched process ended".into()),
            _ => Ok(()),
        }
    }

    /// One operation from its first instruction to its last; the victim then stands at the start of the next.
    fn pass(&self, operation: usize, at: Where, seen: &mut Seen) -> Result<(), Box<dyn Error>> {
        set(&self.board.operation, u32::try_from(operation)?);
        loop {
            if get(&self.board.doing) as usize == operation {
                break;
            }
            self.victim.go_on()?;
            self.to_the_start()?;
        }
        while get(&self.board.inside) == 0 {
            self.one_step()?;
        }
        let mut steps = 0;
        let mut visits = BTreeMap::<u64, u32>::new();
        while get(&self.board.inside) != 0 {
            let place = self.victim.place()?;
            let address = place.address;
            *seen.addresses.entry(address).or_default() += 1;
            if let Some(call) = self.victim.system_call(place)? {
                *seen.calls.entry(call).or_default() += 1;
            }
            let visit = visits.entry(address).or_default();
            *visit += 1;
            let holds = match at {
                Where::Nowhere => false,
                Where::Everywhere(repeats) => *visit <= repeats,
                Where::WhereNever => !seen.held.contains(&address),
            };
            if holds {
                self.hold(address, seen);
            }
            self.one_step()?;
            steps += 1;
        }
        let most = if at == Where::Nowhere { &mut seen.quiet } else { &mut seen.disturbed };
        *most = steps.max(*most);
        seen.passes += 1;
        self.victim.go_on()?;
        self.to_the_start()?;
        seen.effective += u64::from(get(&self.board.took_effect));
        Ok(())
    }

    /// Holds the victim where it stands, and looks what the others do.
    fn hold(&self, address: u64, seen: &mut Seen) {
        let first = seen.held.insert(address);
        seen.stops += 1;
        let allocating = get(&self.board.allocating) != 0;
        seen.allocating += u64::from(allocating);
        let patience = if allocating { self.plan.allocator_patience } else { self.plan.patience };
        let before = self.board.rounds();
        let (formed, visible) = (counted(&self.board.formed), self.visible());
        let start = Instant::now();
        thread::sleep(self.plan.hold);
        let moved = |before: &[u64]| -> Vec<u64> {
            self.board.rounds().iter().zip(before).map(|(now, before)| now - before).collect()
        };
        let mut progress = moved(&before);
        if progress.contains(&0) {
            seen.longer += 1;
            while progress.contains(&0) && start.elapsed() < patience {
                thread::sleep(self.plan.hold);
                progress = moved(&before);
            }
        }
        let total = progress.iter().sum();
        seen.least = Some(seen.least.map_or(total, |least| least.min(total)));
        if allocating && progress.contains(&0) {
            *seen.waited.entry(address).or_default() += 1;
            return;
        }
        if total == 0 {
            *seen.blocked.entry(address).or_default() += 1;
        } else if progress.contains(&0) {
            *seen.stood.entry(address).or_default() += 1;
        }
        let sampled = first && !allocating && (seen.held.len() as u64).is_multiple_of(self.plan.deep);
        if !sampled || self.plan.contrast || total == 0 {
            return;
        }
        seen.deep += 1;
        let came_round = |now: &dyn Fn() -> bool| {
            while !now() && start.elapsed() < self.plan.patience * 2 {
                thread::sleep(self.plan.hold);
            }
            now()
        };
        // Twice: what was under way may have been done before.
        if !came_round(&|| self.visible() > visible + 1) {
            *seen.writer.entry(address).or_default() += 1;
        }
        if !came_round(&|| counted(&self.board.formed) > formed) {
            *seen.steward.entry(address).or_default() += 1;
        }
    }

    fn visible(&self) -> u64 {
        self.board.crew().iter().map(|tally| counted(&tally.visible)).sum()
    }

    /// All passes of one operation.
    fn watch(&self, operation: usize) -> Result<Seen, Box<dyn Error>> {
        let mut seen = Seen::default();
        set(&self.board.rest, 1);
        thread::sleep(Duration::from_millis(2));
        for _ in 0..self.plan.sweep.max(4) {
            self.pass(operation, Where::Nowhere, &mut seen)?;
        }
        set(&self.board.rest, 0);
        for turn in 0..self.plan.full {
            let repeats = if turn == 0 { 1 } else { self.plan.repeats };
            self.pass(operation, Where::Everywhere(repeats), &mut seen)?;
        }
        for _ in 0..self.plan.sweep {
            self.pass(operation, Where::WhereNever, &mut seen)?;
        }
        Ok(seen)
    }
}

/// Does it. True if all is as it must be.
pub fn run(plan: &Plan) -> Result<bool, Box<dyn Error>> {
    let board = shared()?;
    let contrast = plan.contrast;
    let child = crew::fork(move || {
        let design: Arc<dyn Design> = if contrast {
            Arc::new(Locked::new(1_000))
        } else {
            let setting = Setting { on_disk: false, stock: 4_000, lanes: true };
            Arc::new(Counter::open(setting).expect("a hub in memory opens"))
        };
        crew::live(board, design, OTHERS);
    })?;
    let patience = Instant::now() + Duration::from_secs(60);
    while board.victim.load(Ordering::SeqCst) == 0 || get(&board.ready) == 0 || board.rounds().contains(&0) {
        if Instant::now() > patience {
            return Err("the watched process does not come up".into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    let victim = Traced::seize(board.victim.load(Ordering::SeqCst)).map_err(NotTraced)?;
    set(&board.watched, 1);
    let watcher = Watcher { board, plan, victim };
    watcher.to_the_start()?;
    let mut names = Names::default();
    let mut good = true;
    println!("{}", header());
    for operation in &plan.operations {
        let start = Instant::now();
        let seen = watcher.watch(*operation)?;
        good &= tell(Operation::ALL[*operation].1, &seen, &mut names, plan, start.elapsed());
    }
    set(&board.end, 1);
    watcher.victim.detach()?;
    if !crew::reap(child) {
        return Err("the watched process did not end well".into());
    }
    Ok(good)
}

/// The system does not let one process trace another.
#[derive(Debug)]
pub struct NotTraced(std::io::Error);

impl std::fmt::Display for NotTraced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ptrace is not permitted here: {}", self.0)
    }
}

impl Error for NotTraced {}

fn header() -> String {
    format!(
        "{:<14} {:>6} {:>7} {:>9} {:>7} {:>5} {:>6} {:>6} {:>6} {:>7} {:>7} {:>8} {:>6}",
        "operation", "passes", "stops", "addresses", "blocked", "stood", "longer", "least", "deep", "writer", "steward", "steps", "s"
    )
}

/// Prints what was seen, and judges it.
fn tell(name: &str, seen: &Seen, names: &mut Names, plan: &Plan, took: Duration) -> bool {
    let sum = |places: &BTreeMap<u64, u64>| places.values().sum::<u64>();
    println!(
        "{name:<14} {:>6} {:>7} {:>9} {:>7} {:>5} {:>6} {:>6} {:>6} {:>7} {:>7} {:>8} {:>6.1}",
        seen.passes,
        seen.stops,
        seen.addresses.len(),
        sum(&seen.blocked),
        sum(&seen.stood),
        seen.longer,
        seen.least.unwrap_or_default(),
        seen.deep,
        sum(&seen.writer),
        sum(&seen.steward),
        format!("{}/{}", seen.quiet, seen.disturbed),
        took.as_secs_f64()
    );
    let mut lines = BTreeMap::<String, u64>::new();
    for (what, places) in
        [
            ("blocked", &seen.blocked),
            ("stood", &seen.stood),
            ("writer", &seen.writer),
            ("steward", &seen.steward),
            ("waited for the allocator", &seen.waited),
        ]
    {
        for (address, times) in places {
            *lines.entry(format!("{what}: {}", names.line(*address))).or_default() += times;
        }
    }
    for (line, times) in lines {
        println!("    {times} {line}");
    }
    let blocking = names.blocking(seen.addresses.keys().copied());
    let calls: Vec<String> = seen.calls.iter().map(|(call, times)| format!("{call} {times}")).collect();
    println!("    allocating {}, effective {}, system calls: {calls:?}, functions that may wait: {blocking:?}", seen.allocating, seen.effective);
    if plan.tell {
        let all: BTreeSet<String> =
            seen.addresses.keys().flat_map(|address| names.of(*address).to_vec()).collect();
        for name in all {
            println!("        {name}");
        }
    }
    true
}
