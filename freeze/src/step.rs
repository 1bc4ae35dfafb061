//! One thread held at every instruction of an operation.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::board::{Board, counted, get, set, shared};
use crate::crew;
use crate::designs::{Counter, Design, Locked, Operation, Setting};
use crate::names::Names;
use crate::trace::{Kind, Stop, Traced, call_name};

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
    /// When to begin no more passes of one operation.
    pub budget: Duration,
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
    /// Those that a thread passed in its first two calls, outside the allocator.
    first: BTreeSet<u64>,
    /// Those that were passed outside the allocator, later.
    outside: BTreeSet<u64>,
    /// Where it was held already.
    held: BTreeSet<u64>,
    /// Stops in which nobody was answered anything, and where.
    blocked: BTreeMap<u64, u64>,
    /// Stops in which one of the others was not, and where.
    stood: BTreeMap<u64, u64>,
    /// Stops in which all were answered, but nobody came to the end of a round, for want of stock; and where.
    starved: BTreeMap<u64, u64>,
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
    /// Instructions of one operation, at most, and compare-and-swaps among them: while the others rested, and while they went on
    /// at each instruction.
    quiet: (u64, u64),
    disturbed: (u64, u64),
    /// More compare-and-swaps than the others' calls in that time explain.
    unpaid: bool,
    /// What is at an address.
    kinds: BTreeMap<u64, Kind>,
    calls: BTreeMap<String, u64>,
    allocator_calls: BTreeMap<String, u64>,
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
    Unheld,
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
        let (mut steps, mut exchanges, before) = (0, 0, self.calls());
        let mut visits = BTreeMap::<u64, u32>::new();
        while get(&self.board.inside) != 0 {
            let place = self.victim.place()?;
            let address = place.address;
            *seen.addresses.entry(address).or_default() += 1;
            let allocating = get(&self.board.allocating) != 0;
            if !allocating {
                seen.outside.insert(address);
            }
            match *seen.kinds.entry(address).or_insert_with(|| self.victim.kind(address)) {
                Kind::Call => {
                    let calls = if allocating { &mut seen.allocator_calls } else { &mut seen.calls };
                    *calls.entry(call_name(place)).or_default() += 1;
                }
                Kind::Exchange if !allocating => exchanges += 1,
                _ => {}
            }
            let visit = visits.entry(address).or_default();
            *visit += 1;
            let holds = match at {
                Where::Nowhere => false,
                Where::Everywhere(repeats) => *visit <= repeats,
                Where::Unheld => !seen.held.contains(&address),
            };
            if holds {
                self.hold(address, seen);
            }
            self.one_step()?;
            steps += 1;
        }
        let others = self.calls() - before;
        let most = if at == Where::Nowhere { &mut seen.quiet } else { &mut seen.disturbed };
        *most = (steps.max(most.0), exchanges.max(most.1));
        // Who fails to exchange does so because another one's call succeeded.
        seen.unpaid |= at != Where::Nowhere && exchanges > seen.quiet.1 + SPARE + others * EXCHANGES;
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
        let (answers, rounds) = (self.board.answers(), self.board.rounds());
        let (formed, visible) = (counted(&self.board.formed), self.visible());
        let start = Instant::now();
        thread::sleep(self.plan.hold);
        // What each of the others was answered, and how many rounds they came to the end of.
        let moved = || -> (Vec<u64>, u64) {
            let since =
                |now: Vec<u64>, before: &[u64]| now.iter().zip(before).map(|(now, before)| now - before).collect();
            let rounds: Vec<u64> = since(self.board.rounds(), &rounds);
            (since(self.board.answers(), &answers), rounds.iter().sum())
        };
        let is_enough = |(answers, rounds): &(Vec<u64>, u64)| *rounds > 0 && !answers.contains(&0);
        let mut progress = moved();
        if !is_enough(&progress) {
            seen.longer += 1;
            while !is_enough(&progress) && start.elapsed() < patience {
                thread::sleep(self.plan.hold);
                progress = moved();
            }
        }
        let (answers, rounds) = progress;
        seen.least = Some(seen.least.map_or(rounds, |least| least.min(rounds)));
        let stuck = if answers.iter().all(|answers| *answers == 0) {
            Some(&mut seen.blocked)
        } else if answers.contains(&0) {
            Some(&mut seen.stood)
        } else if rounds == 0 {
            Some(&mut seen.starved)
        } else {
            None
        };
        if let Some(stuck) = stuck {
            let stuck = if allocating { &mut seen.waited } else { stuck };
            *stuck.entry(address).or_default() += 1;
            return;
        }
        let sampled = first && !allocating && (seen.held.len() as u64).is_multiple_of(self.plan.deep);
        if !sampled || self.plan.contrast {
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

    /// Calls of the others so far.
    fn calls(&self) -> u64 {
        self.board.crew().iter().map(|tally| counted(&tally.calls) + counted(&tally.empty)).sum()
    }

    fn visible(&self) -> u64 {
        self.board.crew().iter().map(|tally| counted(&tally.visible)).sum()
    }

    /// All passes of one operation.
    fn watch(&self, operation: usize) -> Result<Seen, Box<dyn Error>> {
        let (mut seen, start) = (Seen::default(), Instant::now());
        set(&self.board.resting, 1);
        thread::sleep(Duration::from_millis(2));
        // What only a thread's first calls do is told apart.
        for _ in 0..2 {
            self.pass(operation, Where::Nowhere, &mut seen)?;
        }
        let mut seen = Seen { first: seen.outside, ..Seen::default() };
        for _ in 0..self.plan.full + 3 {
            self.pass(operation, Where::Nowhere, &mut seen)?;
        }
        set(&self.board.resting, 0);
        for turn in 0..self.plan.full + self.plan.sweep {
            let at = match turn {
                0 => Where::Everywhere(1),
                turn if turn < self.plan.full => Where::Everywhere(self.plan.repeats),
                _ => Where::Unheld,
            };
            self.pass(operation, at, &mut seen)?;
            if start.elapsed() > self.plan.budget {
                break;
            }
        }
        Ok(seen)
    }
}

/// Compare-and-swaps that one operation may need beyond what it needs undisturbed, whatever the others do,
const SPARE: u64 = 32;
/// and for each of their calls: at the words of the queue, which each of them changes twice, and the writer once more.
const EXCHANGES: u64 = 3;

/// What a thread calls once for each thing of its own that must be destroyed with it. It takes the loader's lock, for a few
/// instructions; those who have called it before, and load no library, never wait for that.
const REGISTERS: &str = "__cxa_thread_atexit_impl";

/// System calls that one operation may make: the wake-up of a caretaker that sleeps, and the clock where the kernel's page
/// for it is not used.
const ALLOWED: [&str; 2] = ["futex wake", "clock_gettime"];

impl Seen {
    /// What is not as it must be.
    fn faults(&self, blocking: &BTreeSet<String>) -> Vec<String> {
        let sum = |places: &BTreeMap<u64, u64>| places.values().sum::<u64>();
        let mut faults = Vec::new();
        for (places, what) in [
            (&self.blocked, "nobody went on"),
            (&self.stood, "somebody stood still"),
            (&self.starved, "nobody found stock"),
            (&self.writer, "nothing was written"),
            (&self.steward, "no pool was formed"),
        ] {
            if !places.is_empty() {
                faults.push(format!("{} stops in which {what}", sum(places)));
            }
        }
        faults.extend(self.calls.keys().filter(|call| !ALLOWED.contains(&call.as_str())).cloned());
        faults.extend(blocking.iter().map(|name| format!("passed {name}")));
        if self.unpaid {
            faults.push("more exchanges than the calls of others explain".to_owned());
        }
        // A run that saw nothing shows nothing.
        if self.effective == 0 || self.stops == 0 {
            faults.push("never took effect, or never held".to_owned());
        }
        faults
    }
}

/// Does it. True if all is as it must be.
pub fn run(plan: &Plan) -> Result<bool, Box<dyn Error>> {
    let board = shared()?;
    let contrast = plan.contrast;
    let child = crew::fork(move || {
        let design: Box<dyn Design> = if contrast {
            Box::new(Locked::new(1_000))
        } else {
            let setting = Setting { on_disk: false, stock: 4_000, lanes: true, idle: 0 };
            Box::new(Counter::open(setting).expect("a hub in memory opens"))
        };
        crew::live(board, &*design, OTHERS);
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
        let clean = tell(Operation::ALL[*operation].1, &seen, &mut names, plan, start.elapsed());
        // The mutex must be reported: by its stops, and by the names of its functions.
        let found = !seen.blocked.is_empty() && !names.blocking(seen.outside.iter().copied()).is_empty();
        good &= if contrast { found } else { clean };
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
        "{:<14} {:>6} {:>7} {:>9} {:>7} {:>5} {:>7} {:>6} {:>6} {:>6} {:>7} {:>7} {:>12} {:>9} {:>6}",
        "operation",
        "passes",
        "stops",
        "addresses",
        "blocked",
        "stood",
        "starved",
        "longer",
        "least",
        "deep",
        "writer",
        "steward",
        "steps",
        "exchanges",
        "s"
    )
}

/// Prints what was seen, and judges it.
fn tell(name: &str, seen: &Seen, names: &mut Names, plan: &Plan, took: Duration) -> bool {
    let sum = |places: &BTreeMap<u64, u64>| places.values().sum::<u64>();
    println!(
        "{name:<14} {:>6} {:>7} {:>9} {:>7} {:>5} {:>7} {:>6} {:>6} {:>6} {:>7} {:>7} {:>12} {:>9} {:>6.1}",
        seen.passes,
        seen.stops,
        seen.addresses.len(),
        sum(&seen.blocked),
        sum(&seen.stood),
        sum(&seen.starved),
        seen.longer,
        seen.least.unwrap_or_default(),
        seen.deep,
        sum(&seen.writer),
        sum(&seen.steward),
        format!("{}/{}", seen.quiet.0, seen.disturbed.0),
        format!("{}/{}", seen.quiet.1, seen.disturbed.1),
        took.as_secs_f64()
    );
    let mut lines = BTreeMap::<String, u64>::new();
    for (what, places) in [
        ("blocked", &seen.blocked),
        ("stood", &seen.stood),
        ("starved", &seen.starved),
        ("writer", &seen.writer),
        ("steward", &seen.steward),
        ("waited for the allocator", &seen.waited),
    ] {
        for (address, times) in places {
            *lines.entry(format!("{what}: {}", names.line(*address))).or_default() += times;
        }
    }
    for (line, times) in lines {
        println!("    {times} {line}");
    }
    let blocking = names.blocking(seen.outside.iter().copied());
    let list = |calls: &BTreeMap<String, u64>| {
        let calls: Vec<_> = calls.iter().map(|(call, times)| format!("{call} {times}")).collect();
        if calls.is_empty() { "none".to_owned() } else { calls.join(", ") }
    };
    println!(
        "    took effect in {} passes; system calls: {}; of the allocator, in which {} stops were: {}",
        seen.effective,
        list(&seen.calls),
        seen.allocating,
        list(&seen.allocator_calls)
    );
    let at_first: BTreeSet<String> =
        names.blocking(seen.first.iter().copied()).difference(&blocking).cloned().collect();
    let registers = seen.first.iter().any(|address| names.of(*address).iter().any(|name| name.contains(REGISTERS)));
    let again = seen.outside.iter().any(|address| names.of(*address).iter().any(|name| name.contains(REGISTERS)));
    let mut faults = seen.faults(&blocking);
    if registers && !again {
        println!("    a thread's first calls alone: {REGISTERS}: {at_first:?}");
    } else {
        faults.extend(at_first.iter().map(|name| format!("passed {name} in a thread's first calls")));
    }
    for fault in &faults {
        println!("    FOUND {fault}");
    }
    if plan.tell {
        let all: BTreeSet<String> = seen.addresses.keys().flat_map(|address| names.of(*address).to_vec()).collect();
        for name in all {
            println!("        {name}");
        }
    }
    faults.is_empty()
}
