//! What the watcher and the watched write to each other: words in memory that two processes share.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use std::{io, ptr, thread};

/// Threads that one run has room for.
pub const WORKERS: usize = 62;

/// What one worker has completed.
#[derive(Debug)]
#[repr(align(128))]
pub struct Tally {
    /// Its thread, as the kernel names it; 0 before it started.
    pub thread: AtomicI32,
    /// 1 while it is at a round.
    pub inside: AtomicU32,
    /// Rounds: a claim, renewal and release, and a claim, report and submit, each of which took effect.
    pub rounds: AtomicU64,
    /// Single calls that took effect.
    pub calls: AtomicU64,
    /// Claims that were answered, with a bucket or without.
    pub answers: AtomicU64,
    /// Claims that found no bucket.
    pub empty: AtomicU64,
    /// Reports of its own that reads see by now.
    pub visible: AtomicU64,
}

/// All of it.
#[derive(Debug)]
pub struct Board {
    /// The thread that is to be held; 0 before it started.
    pub victim: AtomicI32,
    /// Which operation it is to do.
    pub operation: AtomicU32,
    /// Which one it is at.
    pub doing: AtomicU32,
    /// 1 if the last one took effect.
    pub took_effect: AtomicU32,
    /// 1 once it is watched.
    pub watched: AtomicU32,
    /// 1 while it does it.
    pub inside: AtomicU32,
    /// 1 while it allocates or frees memory.
    pub allocating: AtomicU32,
    /// 1 while a thread stands in the handler of a signal, and 1 to let it go.
    pub frozen: AtomicU32,
    /// See `frozen`.
    pub thaw: AtomicU32,
    /// 1: the workers rest.
    pub resting: AtomicU32,
    /// 1: everybody ends.
    pub end: AtomicU32,
    /// 1: all is set up.
    pub ready: AtomicU32,
    /// Pools formed.
    pub formed: AtomicU64,
    /// The workers.
    pub workers: [Tally; WORKERS],
    /// How many of them there are.
    pub count: AtomicU32,
}

/// A board in memory that is shared with processes forked from here on. It is never given back.
pub fn shared() -> io::Result<&'static Board> {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: asks for new memory, at an address that the kernel chooses.
    let memory = unsafe { libc::mmap(ptr::null_mut(), size_of::<Board>(), access, kind, -1, 0) };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the memory is large enough, aligned to a page, never unmapped, and zero: which every word of a board may be.
    // All of them are atomics, so that it may be shared.
    Ok(unsafe { &*memory.cast::<Board>() })
}

/// Reads a word.
pub fn get(word: &AtomicU32) -> u32 {
    word.load(Ordering::SeqCst)
}

/// Writes a word.
pub fn set(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::SeqCst);
}

/// Counts one more.
pub fn count(word: &AtomicU64) {
    word.fetch_add(1, Ordering::Relaxed);
}

/// What was counted.
pub fn counted(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

impl Board {
    /// The workers that there are.
    pub fn crew(&self) -> &[Tally] {
        let count = get(&self.count) as usize;
        &self.workers[..count.min(WORKERS)]
    }

    /// True if everybody is to end.
    pub fn is_over(&self) -> bool {
        get(&self.end) != 0
    }

    /// Rests while that is wished.
    pub fn rest(&self) {
        while get(&self.resting) != 0 && !self.is_over() {
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// The rounds of each worker and its claims that were answered, at one moment.
    pub fn answers(&self) -> Vec<u64> {
        self.crew().iter().map(|tally| counted(&tally.rounds) + counted(&tally.answers)).collect()
    }

    /// The rounds of each worker, at one moment.
    pub fn rounds(&self) -> Vec<u64> {
        self.crew().iter().map(|tally| counted(&tally.rounds)).collect()
    }
}
