//! One of many threads stopped at a random moment, in a signal handler that only spins.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::board::{Board, counted, get, set, shared};
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
    /// Stops in which nobody was answered anything, and where.
    blocked: BTreeMap<u64, u64>,
    /// Those in which one of the others was not.
    stood: BTreeMap<u64, u64>,
    /// Those in which all were answered, but nobody came to the end of a round: for want of stock.
    starved: BTreeMap<u64, u64>,
    /// Those that caught a thread in the middle of a round.
    inside: u64,
    longer: u64,
    /// Rounds of all others in each stop.
    totals: Vec<u64>,
}

fn one_stop(board: &Board, plan: &Plan, place: usize, seen: &mut Seen) -> Result<(), Box<dyn Error>> {
    let (answers, rounds) = stopped(board, place, || {
        seen.inside += u64::from(get(&board.workers[place].inside));
        let (answers, rounds, start) = (board.answers(), board.rounds(), Instant::now());
        let others = |now: Vec<u64>, before: &[u64]| -> Vec<u64> {
            let both = now.into_iter().zip(before).enumerate();
            both.filter(|(other, _)| *other != place).map(|(_, (now, before))| now - before).collect()
        };
        let moved = || (others(board.answers(), &answers), others(board.rounds(), &rounds).iter().sum::<u64>());
        thread::sleep(plan.hold);
        let mut seen_now = moved();
        let is_enough = |(answers, rounds): &(Vec<u64>, u64)| *rounds > 0 && !answers.contains(&0);
        seen.longer += u64::from(!is_enough(&seen_now));
        while !is_enough(&seen_now) && start.elapsed() < plan.patience {
            thread::sleep(plan.hold);
            seen_now = moved();
        }
        seen_now
    })?;
    seen.totals.push(rounds);
    let place = if answers.iter().all(|answers| *answers == 0) {
        &mut seen.blocked
    } else if answers.contains(&0) {
        &mut seen.stood
    } else if rounds == 0 {
        &mut seen.starved
    } else {
        return Ok(());
    };
    *place.entry(ADDRESS.load(Ordering::SeqCst)).or_default() += 1;
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

/// Runs `watch` while so many threads work.
fn with_crew<R>(
    board: &Board,
    threads: usize,
    pause: Option<(u64, Duration)>,
    design: &dyn Design,
    watch: impl FnOnce() -> R,
) -> R {
    set(&board.end, 0);
    thread::scope(|scope| {
        for place in 0..threads {
            scope.spawn(move || crew::work(board, place, &mut *design.worker(place), pause));
        }
        set(&board.count, u32::try_from(threads).unwrap_or_default());
        let before = board.rounds();
        while board.rounds().iter().zip(&before).any(|(now, before)| now == before) {
            thread::sleep(Duration::from_millis(1));
        }
        let watched = watch();
        set(&board.end, 1);
        watched
    })
}

/// Does it. True if all is as it must be: of a contrast, if it was found.
pub fn run(plan: &Plan) -> Result<bool, Box<dyn Error>> {
    let board = shared()?;
    install(board)?;
    let hub = |on_disk, lanes| Counter::open(Setting { on_disk, stock: 40_000, lanes, idle: 200 });
    let (for_stops, pause): (Box<dyn Design>, _) = match plan.what {
        What::Hub => (Box::new(hub(false, true)?), Some((64, Duration::from_micros(100)))),
        What::Mutex => (Box::new(Locked::new(1_000)), None),
        What::Epoch => (Box::new(Guarded::default()), None),
    };
    let stops_are_good = with_crew(board, plan.threads, pause, &*for_stops, || stops(board, plan))?;
    if plan.stands == 0 {
        return Ok(stops_are_good);
    }
    // In memory the journal and the store would grow.
    let for_stands: Box<dyn Design> = if plan.what == What::Hub {
        drop(for_stops);
        Box::new(hub(true, false)?)
    } else {
        for_stops
    };
    let stands_are_good = with_crew(board, plan.threads, pause, &*for_stands, || stands(board, plan))?;
    Ok(stops_are_good && stands_are_good)
}

/// Stops one at random, again and again.
fn stops(board: &Board, plan: &Plan) -> Result<bool, Box<dyn Error>> {
    let (mut seen, mut chance, start) = (Seen::default(), Chance(0x9e37_79b9_7f4a_7c15), Instant::now());
    for _ in 0..plan.stops {
        thread::sleep(Duration::from_micros(chance.below(500)));
        let place = usize::try_from(chance.below(plan.threads as u64))?;
        // Most of its time it waits for a core, or rests.
        let patience = Instant::now() + Duration::from_millis(5);
        while get(&board.workers[place].inside) == 0 && Instant::now() < patience {
            std::hint::spin_loop();
        }
        one_stop(board, plan, place, &mut seen)?;
    }
    seen.totals.sort_unstable();
    let sum = |places: &BTreeMap<u64, u64>| places.values().sum::<u64>();
    println!(
        "{:?}, {} threads, {} stops of {} us, {} of them in the middle of a round, {:.1} s: in {} nobody was answered within \
         {} ms, in {} somebody was not, in {} nobody found stock; {} took longer; rounds of the others: least {}, median {}",
        plan.what,
        plan.threads,
        plan.stops,
        plan.hold.as_micros(),
        seen.inside,
        start.elapsed().as_secs_f64(),
        sum(&seen.blocked),
        plan.patience.as_millis(),
        sum(&seen.stood),
        sum(&seen.starved),
        seen.longer,
        seen.totals.first().unwrap_or(&0),
        seen.totals.get(seen.totals.len() / 2).unwrap_or(&0),
    );
    let mut names = Names::default();
    let all = [("nobody", &seen.blocked), ("not everybody", &seen.stood), ("nobody found stock", &seen.starved)];
    for (what, places) in all {
        for (address, times) in places {
            println!("    {times} {what}: stopped in {}", names.line(*address));
        }
    }
    let is_clean = all.iter().all(|(_, places)| places.is_empty());
    Ok(match plan.what {
        // A run that caught nobody shows nothing.
        What::Hub => is_clean && seen.inside > 0,
        What::Mutex => !seen.blocked.is_empty(),
        // Lock-free: its fault is another.
        What::Epoch => true,
    })
}

/// What the process may grow while one thread stands still, KiB.
const FLAT: i64 = 16 << 10;

/// Looks at memory while one stands still.
fn stands(board: &Board, plan: &Plan) -> Result<bool, Box<dyn Error>> {
    // Caches fill.
    thread::sleep(plan.stand * 2);
    let mut most = 0;
    for turn in 0..plan.stands {
        let place = usize::try_from(turn)? % plan.threads;
        let (alone, rounds) = stand(board, plan, None)?;
        let (stopped, others) = stand(board, plan, Some(place))?;
        most = most.max(stopped);
        println!(
            "    resident memory in {} ms: {alone:+} KiB in {rounds} rounds; {stopped:+} KiB in {others} rounds with one thread stopped; {} KiB in all",
            plan.stand.as_millis(),
            resident()
        );
    }
    let is_flat = most < FLAT;
    Ok(if plan.what == What::Epoch { !is_flat } else { is_flat })
}

/// The work alone, without a stop: for sanitizers. True if nothing was lost in it.
pub fn mix(threads: usize, time: Duration) -> Result<bool, Box<dyn Error>> {
    let board = shared()?;
    let counter = Counter::open(Setting { on_disk: false, stock: 40_000, lanes: true, idle: 200 })?;
    let pause = Some((64, Duration::from_micros(100)));
    with_crew(board, threads, pause, &counter, || thread::sleep(time));
    let (rounds, calls): (u64, u64) = board
        .crew()
        .iter()
        .map(|tally| (counted(&tally.rounds), counted(&tally.calls)))
        .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let balanced = counter.is_balanced();
    println!("{threads} threads, {} s: {rounds} rounds, {calls} calls, balanced: {balanced}", time.as_secs());
    Ok(balanced && rounds > 0)
}
