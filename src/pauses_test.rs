//! Pauses at the words that threads share, in the crate's own tests: with `COMMISSARY_PAUSES=n` one operation of `n` waits for up to 3 ms before it
//! is done; of some threads one of `n`, of others one of up to 128 times as many. What holds only while everybody is as fast as the rest fails then, or hangs.
//! All of it by chance; `COMMISSARY_PAUSES_SEED` makes it another one, and no run is like the one before, since threads run as they are let.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LONGEST_US: u64 = 3_000;

thread_local! {
    /// The state of the thread's chance, 0 before it has begun; and how much seldomer than others it pauses.
    static CHANCE: Cell<(u64, u64)> = const { Cell::new((0, 1)) };
}

/// Between two operations on words, or before one.
pub(crate) fn pause() {
    static WANTED: OnceLock<Option<(u64, u64)>> = OnceLock::new();
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let wanted = || number("COMMISSARY_PAUSES").map(|n: u64| (n.max(1), number("COMMISSARY_PAUSES_SEED").unwrap_or(0)));
    if let Some((operations, seed)) = WANTED.get_or_init(wanted) {
        pause_one_of(*operations, *seed);
    }
}

fn pause_one_of(operations: u64, seed: u64) {
    static THREADS: AtomicU64 = AtomicU64::new(1);
    let pause = CHANCE.with(|chance| {
        let (mut state, mut seldomer) = chance.get();
        if state == 0 {
            let thread = THREADS.fetch_add(1, Ordering::Relaxed);
            state = next((seed << 32 | thread).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            // Slow threads meet fast ones.
            seldomer = 1 << (state >> 61);
        }
        state = next(state);
        chance.set((state, seldomer));
        state.is_multiple_of(operations * seldomer).then_some((state >> 32) % LONGEST_US)
    });
    if let Some(microseconds) = pause {
        std::thread::sleep(Duration::from_micros(microseconds));
    }
}

/// Xorshift, by Marsaglia (2003).
fn next(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ state << 17
}
