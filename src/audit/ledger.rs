//! Where subjects came from and went to, as fingerprints: one cell for each way, moved by whoever moves the subjects.

use arc_swap::ArcSwapOption;

use super::print::Print;
use super::recount::Queues;
use crate::record::{ServiceTally, SubjectPrints};
use crate::sync::{AtomicBool, AtomicU64, Counter, Ordering, Padded, Watermark};

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

/// Ways that only the caretakers, or an opening, move subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Leased when the hub was opened, each time by each lease.
    Recovered,
    /// Of these: owed no more, or by another lease as well.
    RecoveredSpare,
    /// Out of the store, into a queue.
    Read,
    /// Found in the store, and not to be handed out: the plugin's type does not read it.
    Unreadable,
    /// Gone before it was read.
    Missed,
    /// Offered a second time, while a lease held it.
    Second,
    /// Back from a bucket, into a queue.
    Returned,
    /// Back from a bucket, and owed no more.
    Unowed,
    /// Out of a queue: owed no more, or it stands elsewhere as well.
    Dropped,
    /// Out of a queue, into a pool.
    Cut,
}

const FLOWS: usize = 10;

/// A fingerprint that only grows, in three words.
#[derive(Debug, Default)]
struct Cell {
    count: AtomicU64,
    sum: AtomicU64,
    xor: AtomicU64,
}

// ordering: Relaxed, all of this type; an audit believes only what stays the same while both caretakers come to rest twice, and
// their rests (see `Rests`) order what it reads after what was moved before.
impl Cell {
    fn add(&self, print: Print) {
        // ordering: Relaxed, all; see above.
        self.count.fetch_add(print.count, Ordering::Relaxed);
        self.sum.fetch_add(print.sum, Ordering::Relaxed);
        self.xor.fetch_xor(print.xor, Ordering::Relaxed);
    }

    /// As [`add`](Self::add), by the only thread that adds: no read-modify-write is needed.
    fn add_alone(&self, print: Print) {
        self.set(self.print().plus(print));
    }

    fn set(&self, print: Print) {
        // ordering: Relaxed, all; see above.
        self.count.store(print.count, Ordering::Relaxed);
        self.sum.store(print.sum, Ordering::Relaxed);
        self.xor.store(print.xor, Ordering::Relaxed);
    }

    fn print(&self) -> Print {
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

/// Fingerprints as the journal gives them, from the beginning of all time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Booked {
    pub(crate) entered: Print,
    pub(crate) done: Print,
    pub(crate) gone: Print,
    pub(crate) discarded: Print,
    /// What its leases owe.
    pub(crate) leased: Print,
}

impl Booked {
    pub(crate) fn of(tally: &ServiceTally, leased: Print) -> Self {
        let SubjectPrints { entered, done, gone, discarded } = tally.prints;
        Self { entered, done, gone, discarded, leased }
    }

    fn prints(&self) -> [Print; BOOKED] {
        [self.entered, self.done, self.gone, self.discarded, self.leased]
    }
}

const BOOKED: usize = 5;

/// The fingerprints of one service's subjects.
#[derive(Debug)]
pub(crate) struct Ledger {
    stripes: Box<[Padded<[Cell; MOVES]>]>,
    flows: [Cell; FLOWS],
    /// What the writer has applied, and what had been when the hub was opened.
    booked: [Cell; BOOKED],
    opened: [Cell; BOOKED],
    /// Subjects in the steward's queues, by their lengths.
    pub(crate) queued: Counter,
    /// Ranks below it were read.
    pub(crate) read_to: Watermark,
    /// The steward is to count what its queues hold, and what they held.
    asked: AtomicBool,
    queues: ArcSwapOption<Queues>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Padded::default()).collect(),
            flows: Default::default(),
            booked: Default::default(),
            opened: Default::default(),
            queued: Counter::default(),
            read_to: Watermark::default(),
            asked: AtomicBool::new(false),
            queues: ArcSwapOption::empty(),
        }
    }
}

impl Ledger {
    /// Notes what a call moved. Wait-free: three loads and three stores, on a line of the thread's own.
    pub(crate) fn moved(&self, how: Move, print: Print) {
        // A thread that is being taken down has no stripe any more.
        let own = OWN.try_with(|own| own.0).unwrap_or(SHARED);
        let Some(cell) = self.stripes.get(own).and_then(|stripe| stripe.get(how as usize)) else { return };
        if own == SHARED { cell.add(print) } else { cell.add_alone(print) }
    }

    /// Notes what a caretaker moved.
    pub(crate) fn flowed(&self, how: Flow, print: Print) {
        if let Some(cell) = self.flows.get(how as usize) {
            cell.add(print);
        }
    }

    /// Takes back that a rank flowed that way: it turned out to go another one.
    pub(crate) fn unflowed(&self, how: Flow, rank: u64) {
        self.flowed(how, Print::default().minus(Print::of(rank)));
    }

    /// Publishes what the journal says. The writer's alone.
    pub(crate) fn publish(&self, booked: Booked) {
        self.booked.iter().zip(booked.prints()).for_each(|(cell, print)| cell.set(print));
    }

    /// What the journal says at the opening. Before the service is in the table.
    pub(crate) fn open(&self, booked: Booked) {
        self.opened.iter().zip(booked.prints()).for_each(|(cell, print)| cell.set(print));
        self.publish(booked);
    }

    /// Asks the steward to count what its queues hold, in its next round.
    pub(crate) fn ask(&self) {
        self.queues.store(None);
        // ordering: SeqCst; published before the caller raises the steward's signal (see `Signal`).
        self.asked.store(true, Ordering::SeqCst);
    }

    /// True once for each time that it was asked. The steward's alone.
    pub(crate) fn is_asked(&self) -> bool {
        // ordering: SeqCst, both; read after the steward lowered its signal. The load spares the swap.
        self.asked.load(Ordering::SeqCst) && self.asked.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn answer(&self, queues: Queues) {
        self.queues.store(Some(crate::sync::Arc::new(queues)));
    }

    pub(crate) fn answered(&self) -> Option<crate::sync::Arc<Queues>> {
        self.queues.load_full()
    }

    /// What every cell says, one after the other.
    pub(crate) fn read(&self) -> Entries {
        let flow = |how: Flow| self.flows.get(how as usize).map(Cell::print).unwrap_or_default();
        let moved = |how: Move| {
            let cells = self.stripes.iter().filter_map(|stripe| stripe.get(how as usize));
            cells.fold(Print::default(), |sum, cell| sum.plus(cell.print()))
        };
        let journal = |cells: &[Cell; BOOKED]| {
            let [entered, done, gone, discarded, leased] = cells.each_ref().map(Cell::print);
            Booked { entered, done, gone, discarded, leased }
        };
        Entries {
            now: journal(&self.booked),
            opened: journal(&self.opened),
            recovered: flow(Flow::Recovered),
            recovered_spare: flow(Flow::RecoveredSpare),
            read: flow(Flow::Read),
            unreadable: flow(Flow::Unreadable),
            missed: flow(Flow::Missed),
            second: flow(Flow::Second),
            returned: flow(Flow::Returned),
            unowed: flow(Flow::Unowed),
            dropped: flow(Flow::Dropped),
            cut: flow(Flow::Cut),
            assigned: moved(Move::Assigned),
            reported: moved(Move::Reported),
            put_back: moved(Move::PutBack),
            cleared: moved(Move::Cleared),
            abandoned: moved(Move::Abandoned),
            queued: self.queued.value(),
            read_to: self.read_to.rank(),
        }
    }
}

/// A ledger, as read; the ways as [`Move`] and [`Flow`] name them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    pub(crate) now: Booked,
    pub(crate) opened: Booked,
    pub(crate) recovered: Print,
    pub(crate) recovered_spare: Print,
    pub(crate) read: Print,
    pub(crate) unreadable: Print,
    pub(crate) missed: Print,
    pub(crate) second: Print,
    pub(crate) returned: Print,
    pub(crate) unowed: Print,
    pub(crate) dropped: Print,
    pub(crate) cut: Print,
    pub(crate) assigned: Print,
    pub(crate) reported: Print,
    pub(crate) put_back: Print,
    pub(crate) cleared: Print,
    pub(crate) abandoned: Print,
    pub(crate) queued: u64,
    pub(crate) read_to: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_by_more_threads_than_stripes() {
        let ledger = Ledger::default();
        let start = std::sync::Barrier::new(STRIPES * 2);
        std::thread::scope(|scope| {
            for thread in 0..STRIPES as u64 * 2 {
                let (ledger, start) = (&ledger, &start);
                scope.spawn(move || {
                    start.wait();
                    (0..100).for_each(|n| ledger.moved(Move::Reported, Print::of(thread * 100 + n)));
                    // All are alive at once: half of them share a stripe.
                    start.wait();
                });
            }
        });
        let all: Print = (0..STRIPES as u64 * 200).collect();
        assert_eq!(ledger.read(), Entries { reported: all, ..Entries::default() });
    }

    #[test]
    fn a_stripe_goes_from_thread_to_thread_and_keeps_what_it_holds() {
        let ledger = Ledger::default();
        for thread in 0..STRIPES as u64 * 3 {
            std::thread::scope(|scope| {
                scope.spawn(|| ledger.moved(Move::Assigned, Print::of(thread)));
            });
        }
        assert_eq!(ledger.read().assigned, (0..STRIPES as u64 * 3).collect());
    }
}
