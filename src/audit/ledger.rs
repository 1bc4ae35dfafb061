//! Where subjects came from and went to, as fingerprints: one cell for each way, moved by whoever moves the subjects.

use arc_swap::ArcSwapOption;

use super::print::Print;
use super::recount::Queues;
use super::stripes::{Cell, Move, Stripes};
use crate::record::{ServiceTally, SubjectPrints};
use crate::sync::{Arc, AtomicBool, Counter, Ordering, Watermark};

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
    stripes: Stripes,
    flows: [Cell; FLOWS],
    /// What the storekeeper has applied, and what had been when the hub was opened.
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
            stripes: Stripes::default(),
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
    /// Notes what a call moved. Wait-free.
    pub(crate) fn moved(&self, how: Move, print: Print) {
        self.stripes.add(how, print);
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

    /// Publishes what the journal says. The storekeeper's alone.
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
        self.queues.store(Some(Arc::new(queues)));
    }

    pub(crate) fn answered(&self) -> Option<Arc<Queues>> {
        self.queues.load_full()
    }

    /// What every cell says, one after the other.
    pub(crate) fn read(&self) -> Entries {
        let flow = |how: Flow| self.flows.get(how as usize).map(Cell::print).unwrap_or_default();
        let moved = |how: Move| self.stripes.sum(how);
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
