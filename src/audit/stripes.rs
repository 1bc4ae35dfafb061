//! The fingerprints of what clients' calls move: each thread adds to a stripe of its own.
//!
//! The benchmark of what this costs (`benches/claim.rs`) compiles this file as it is.

use super::print::Print;
use crate::sync::{AtomicU64, Ordering, Padded};

/// Ways that clients' calls move subjects, and the caretakers where they do the same. Each thread has cells of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Move {
    /// Out of a pool, into a lease.
    Assigned,
    /// Out of a lease: reported and accepted.
    Reported,
    /// Out of a lease: left over at its end.
    PutBack,
    /// Out of a lease: another one reported it.
    Cleared,
    /// Out of a pool, in a bucket that was taken back.
    Abandoned,
}

const MOVES: usize = 5;

/// A fingerprint that only grows, in three words.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    count: AtomicU64,
    sum: AtomicU64,
    xor: AtomicU64,
}

// ordering: Relaxed, all of this type; an audit believes only what stays the same while the caretakers come to rest twice, and
// their rests (see `Rests`) order what it reads after what was moved before.
impl Cell {
    pub(crate) fn add(&self, print: Print) {
        // ordering: Relaxed, all; see above.
        self.count.fetch_add(print.count, Ordering::Relaxed);
        self.sum.fetch_add(print.sum, Ordering::Relaxed);
        self.xor.fetch_xor(print.xor, Ordering::Relaxed);
    }

    /// As [`add`](Self::add), by the only thread that adds: no read-modify-write is needed.
    fn add_alone(&self, print: Print) {
        self.set(self.print().plus(print));
    }

    pub(crate) fn set(&self, print: Print) {
        // ordering: Relaxed, all; see above.
        self.count.store(print.count, Ordering::Relaxed);
        self.sum.store(print.sum, Ordering::Relaxed);
        self.xor.store(print.xor, Ordering::Relaxed);
    }

    pub(crate) fn print(&self) -> Print {
        Print {
            // ordering: Relaxed, all; see above.
            count: self.count.load(Ordering::Relaxed),
            sum: self.sum.load(Ordering::Relaxed),
            xor: self.xor.load(Ordering::Relaxed),
        }
    }
}

/// Stripes of a ledger: one for each of so many threads, and the last for all others.
const STRIPES: usize = 64;
const SHARED: usize = STRIPES - 1;

/// The stripes that threads hold, one bit each; the shared one is nobody's.
static HELD: AtomicU64 = AtomicU64::new(1 << SHARED);

/// A thread's own stripe, the same in every ledger, from its first move to its end.
struct Own(usize);

impl Own {
    fn take() -> Self {
        // ordering: Acquire, all; pairs with the Release in `drop`: what the last holder wrote is seen by the next one. The
        // loop goes round only when another thread took or let go of a stripe.
        let mut held = HELD.load(Ordering::Acquire);
        loop {
            let free = held.trailing_ones();
            if free >= u64::BITS {
                return Self(SHARED);
            }
            match HELD.compare_exchange_weak(held, held | (1 << free), Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Self(free as usize),
                Err(now) => held = now,
            }
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.0 != SHARED {
            // ordering: Release; see `take`.
            HELD.fetch_and(!(1 << self.0), Ordering::Release);
        }
    }
}

thread_local! {
    static OWN: Own = Own::take();
}

/// The thread's own stripe, as long as it lives: a small number that no other living thread has, if there are fewer than 63.
pub(crate) fn own() -> usize {
    // A thread that is being taken down has no stripe any more.
    OWN.try_with(|own| own.0).unwrap_or(SHARED)
}

/// The cells of one ledger.
#[derive(Debug)]
pub(crate) struct Stripes(Box<[Padded<[Cell; MOVES]>]>);

impl Default for Stripes {
    fn default() -> Self {
        Self((0..STRIPES).map(|_| Padded::default()).collect())
    }
}

impl Stripes {
    /// Adds what a call moved. Wait-free: three loads and three stores, on a line of the thread's own.
    pub(crate) fn add(&self, how: Move, print: Print) {
        let own = own();
        let Some(cell) = self.0.get(own).and_then(|stripe| stripe.get(how as usize)) else { return };
        if own == SHARED { cell.add(print) } else { cell.add_alone(print) }
    }

    /// What all threads moved that way.
    pub(crate) fn sum(&self, how: Move) -> Print {
        let cells = self.0.iter().filter_map(|stripe| stripe.get(how as usize));
        cells.fold(Print::default(), |sum, cell| sum.plus(cell.print()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_by_more_threads_than_stripes() {
        let stripes = Stripes::default();
        let start = std::sync::Barrier::new(STRIPES * 2);
        std::thread::scope(|scope| {
            for thread in 0..STRIPES as u64 * 2 {
                let (stripes, start) = (&stripes, &start);
                scope.spawn(move || {
                    start.wait();
                    (0..100).for_each(|n| stripes.add(Move::Reported, Print::of(thread * 100 + n)));
                    // All are alive at once: half of them share a stripe.
                    start.wait();
                });
            }
        });
        let all: Print = (0..STRIPES as u64 * 200).collect();
        assert_eq!((stripes.sum(Move::Reported), stripes.sum(Move::Assigned)), (all, Print::default()));
    }

    #[test]
    fn a_stripe_goes_from_thread_to_thread_and_keeps_what_it_holds() {
        let stripes = Stripes::default();
        for thread in 0..STRIPES as u64 * 3 {
            std::thread::scope(|scope| {
                scope.spawn(|| stripes.add(Move::Assigned, Print::of(thread)));
            });
        }
        assert_eq!(stripes.sum(Move::Assigned), (0..STRIPES as u64 * 3).collect());
    }
}
