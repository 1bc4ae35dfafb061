//! The process that is watched: its threads, and what they do.

use std::sync::atomic::Ordering;
use std::time::Duration;
use std::{io, thread};

use crate::board::{Board, count, get, set};
use crate::designs::{Design, Operation, Worker};
use crate::memory;

/// Forks; the child calls `live` and ends.
pub fn fork(live: impl FnOnce()) -> io::Result<libc::pid_t> {
    // SAFETY: this process has one thread, so that nothing is held by another one; the child ends without going on here.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child > 0 {
        return Ok(child);
    }
    // SAFETY: only asks to be killed with the parent.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(live)).is_err();
    // SAFETY: ends this process at once.
    unsafe { libc::_exit(i32::from(panicked)) }
}

/// Waits until a child has ended; true if it ended well.
pub fn reap(child: libc::pid_t) -> bool {
    let mut status = 0;
    // SAFETY: `status` is a place for the answer.
    let answer = unsafe { libc::waitpid(child, &raw mut status, libc::__WALL) };
    answer == child && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

/// The calling thread, as the kernel names it.
pub fn own_thread() -> libc::pid_t {
    // SAFETY: takes nothing and always succeeds.
    unsafe { libc::gettid() }
}

/// Sends a signal to one thread of this process, or of a child's.
pub fn signal(process: libc::pid_t, thread: libc::pid_t, signal: i32) -> bool {
    // SAFETY: the kernel checks its arguments.
    let answer = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
    answer == 0
}

/// Works until the end. With `pause`, sleeps that long after so many rounds: enough is done, and what is made stays small.
pub fn work(board: &Board, place: usize, worker: &mut dyn Worker, pause: Option<(u64, Duration)>) {
    let tally = &board.workers[place];
    tally.thread.store(own_thread(), Ordering::SeqCst);
    let mut turn = 0;
    while !board.is_over() {
        board.rest();
        set(&tally.inside, 1);
        let done = worker.round(tally);
        set(&tally.inside, 0);
        if !done {
            // Stock comes from threads that need a core for it.
            thread::yield_now();
        }
        turn += 1;
        if let Some((rounds, pause)) = pause
            && (!done || turn % rounds == 0)
        {
            thread::sleep(pause);
        }
    }
}

/// Does one operation after the other, each of them watched, until the end.
fn be_held(board: &'static Board, design: &dyn Design) {
    let mut victim = design.victim();
    memory::mark_own(&board.allocating);
    board.victim.store(own_thread(), Ordering::SeqCst);
    while get(&board.watched) == 0 && !board.is_over() {
        thread::sleep(Duration::from_millis(1));
    }
    while !board.is_over() {
        let place = get(&board.operation);
        let operation = Operation::ALL[place as usize].0;
        if !victim.prepare(operation) {
            victim.finish();
            thread::sleep(Duration::from_micros(200));
            continue;
        }
        set(&board.doing, place);
        // The watcher stops it here, keeps the signal to itself, and steps from here on.
        // SAFETY: takes nothing and always succeeds.
        signal(unsafe { libc::getpid() }, own_thread(), libc::SIGUSR2);
        set(&board.inside, 1);
        let took_effect = victim.perform(operation);
        set(&board.inside, 0);
        set(&board.took_effect, u32::from(took_effect));
        victim.finish();
    }
}

/// The life of the process that is watched: workers, the one who is held, and a look at the design's own threads.
pub fn live(board: &'static Board, design: &dyn Design, workers: usize) {
    let pause = Some((1, Duration::from_micros(20)));
    thread::scope(|scope| {
        for place in 0..workers {
            scope.spawn(move || work(board, place, &mut *design.worker(place), pause));
        }
        scope.spawn(|| be_held(board, design));
        set(&board.count, u32::try_from(workers).unwrap_or_default());
        set(&board.ready, 1);
        let mut before = 0;
        while !board.is_over() {
            let formed = design.formed();
            if formed > before {
                before = formed;
                count(&board.formed);
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
}
