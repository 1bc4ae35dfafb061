//! One of many threads stopped at a random moment, in a signal handler that only spins.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::board::{Board, get, set, shared};
use crate::crew;
use crate::designs::{Counter, Design, Guarded, Locked, Setting};
use crate::names::Names;

/// What is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The hub.
    Hub,
    /// One mutex around it all.
    Mutex,
    /// Values replaced under guards of crossbeam-epoch.
    Epoch,
}

/// How it is done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Stops.
    pub stops: u64,
    /// Threads.
    pub threads: usize,
    /// How long the others are watched.
    pub hold: Duration,
    /// How long they may need, on a busy machine, until it counts as blocked.
    pub patience: Duration,
    /// Of the long stops in which memory is looked at, how many.
    pub stands: u64,
    /// How long each of them takes.
    pub stand: Duration,
    /// What is stopped.
    pub what: What,
}

/// Where the handler finds the board.
static BOARD: AtomicPtr<Board> = AtomicPtr::new(std::ptr::null_mut());
/// Where the thread stood when the signal came.
static ADDRESS: AtomicU64 = AtomicU64::new(0);

/// Says that it is there and waits to be let go: no allocation, no lock, nothing but its own words.
extern "C" fn freeze(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands over a context that is valid until the handler returns.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    #[cfg(target_arch = "x86_64")]
    let address = context.uc_mcontext.gregs[libc::REG_RIP as usize].cast_unsigned();
    #[cfg(target_arch = "aarch64")]
    let address = context.uc_mcontext.pc;
    ADDRESS.store(address, Ordering::SeqCst);
    let board = BOARD.load(Ordering::SeqCst);
    // SAFETY: null, or a board, which is never given back.
    let Some(board) = (unsafe { board.as_ref() }) else { return };
    set(&board.frozen, 1);
    while get(&board.thaw) == 0 {
        // SAFETY: takes nothing.
        unsafe { libc::sched_yield() };
    }
    set(&board.frozen, 0);
}

/// Has the signal handled.
fn install(board: &'static Board) -> Result<(), Box<dyn Error>> {
    BOARD.store(std::ptr::from_ref(board).cast_mut(), Ordering::SeqCst);
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = freeze;
    // SAFETY: all of its fields may be zero.
    let mut action = unsafe { std::mem::zeroed::<libc::sigaction>() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: both pointers are valid, or null; the handler does only what one may do in a signal.
    let answer = unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
    if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

/// A simple generator: which thread, and when.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most.max(1)
    }
}

/// Resident memory, KiB.
pub fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4
}

/// Stops a thread, calls `meanwhile`, and lets it go.
fn stopped<R>(board: &Board, place: usize, meanwhile: impl FnOnce() -> R) -> Result<R, Box<dyn Error>> {
    set(&board.thaw, 0);
    let thread = board.workers[place].thread.load(Ordering::SeqCst);
    // SAFETY: takes nothing and always succeeds.
    if !crew::signal(unsafe { libc::getpid() }, thread, libc::SIGUSR1) {
        return Err("no such thread".into());
    }
    while get(&board.frozen) == 0 {
        thread::sleep(Duration::from_micros(50));
    }
    let seen = meanwhile();
    set(&board.thaw, 1);
    while get(&board.frozen) != 0 {
        thread::sleep(Duration::from_micros(50));
    }
    Ok(seen)
}

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    blocked: BTreeMap<u64, u64>,
    stood: BTreeMap<u64, u64>,
    longer: u64,
    /// Rounds of all others in each stop.
    totals: Vec<u64>,
}

fn one_stop(board: &Board, plan: &Plan, place: usize, seen: &mut Seen) -> Result<(), Box<dyn Error>> {
    let progress = stopped(board, place, || {
        let before = board.rounds();
        let start = Instant::now();
        let moved = || -> Vec<u64> {
            let both = board.rounds().into_iter().zip(&before).enumerate();
            both.filter(|(other, _)| *other != place).map(|(_, (now, before))| now - before).collect()
        };
        thread::sleep(plan.hold);
        let mut progress = moved();
        seen.longer += u64::from(progress.contains(&0));
        while progress.contains(&0) && start.elapsed() < plan.patience {
            thread::sleep(plan.hold);
            progress = moved();
        }
        progress
    })?;
    let (total, address) = (progress.iter().sum(), ADDRESS.load(Ordering::SeqCst));
    seen.totals.push(total);
    if total == 0 {
        *seen.blocked.entry(address).or_default() += 1;
    } else if progress.contains(&0) {
        *seen.stood.entry(address).or_default() += 1;
    }
    Ok(())
}

/// Resident memory before and after one long stop, or as long a time without one: the growth, KiB, and the rounds.
fn stand(board: &Board, plan: &Plan, place: Option<usize>) -> Result<(i64, u64), Box<dyn Error>> {
    let look = || {
        let (before, rounds) = (resident(), board.rounds().iter().sum::<u64>());
        thread::sleep(plan.stand);
        (resident().cast_signed() - before.cast_signed(), board.rounds().iter().sum::<u64>() - rounds)
    };
    match place {
        Some(place) => stopped(board, place, look),
        None => Ok(look()),
    }
}

/// Does it. True if all is as it must be.
pub fn run(plan: &Plan) -> Result<bool, Box<dyn Error>> {
    let board = shared()?;
    install(board)?;
    let design: Arc<dyn Design> = match plan.what {
        What::Hub => Arc::new(Counter::open(Setting { on_disk: true, stock: 4_000, lanes: false })?),
        What::Mutex => Arc::new(Locked::new(1_000)),
        What::Epoch => Arc::new(Guarded::default()),
    };
    thread::scope(|scope| {
        for place in 0..plan.threads {
            let design = &design;
            scope.spawn(move || crew::work(board, place, &mut *design.worker(place), Some(Duration::from_micros(20))));
        }
        set(&board.count, u32::try_from(plan.threads).unwrap_or_default());
        let watched = watch(board, plan);
        set(&board.end, 1);
        watched
    })
}

fn watch(board: &Board, plan: &Plan) -> Result<bool, Box<dyn Error>> {
    while board.rounds().contains(&0) {
        thread::sleep(Duration::from_millis(1));
    }
    let (mut seen, mut chance, start) = (Seen::default(), Chance(0x9e37_79b9_7f4a_7c15), Instant::now());
    let first = resident();
    for _ in 0..plan.stops {
        thread::sleep(Duration::from_micros(chance.below(500)));
        let place = usize::try_from(chance.below(plan.threads as u64))?;
        one_stop(board, plan, place, &mut seen)?;
    }
    let middle = resident();
    seen.totals.sort_unstable();
    let sum = |places: &BTreeMap<u64, u64>| places.values().sum::<u64>();
    let (blocked, stood) = (sum(&seen.blocked), sum(&seen.stood));
    println!(
        "{:?}, {} threads: {} stops of {:?}, {blocked} in which nobody went on, {stood} in which somebody stood still for {:?}; {} took longer; \
         rounds of the others: least {}, median {}; resident {} -> {} KiB; {:.1} s",
        plan.what,
        plan.threads,
        plan.stops,
        plan.hold,
        plan.patience,
        seen.longer,
        seen.totals.first().unwrap_or(&0),
        seen.totals.get(seen.totals.len() / 2).unwrap_or(&0),
        first,
        middle,
        start.elapsed().as_secs_f64()
    );
    let mut names = Names::default();
    for (what, places) in [("nobody went on", &seen.blocked), ("somebody stood still", &seen.stood)] {
        for (address, times) in places {
            println!("    {times} {what}: stopped in {}", names.line(*address));
        }
    }
    for turn in 0..plan.stands {
        let place = usize::try_from(turn)? % plan.threads;
        let (alone, rounds) = stand(board, plan, None)?;
        let (grown, others) = stand(board, plan, Some(place))?;
        println!("    resident KiB in {:?}: {alone:+} in {rounds} rounds; {grown:+} in {others} with one thread stopped", plan.stand);
    }
    Ok(true)
}
