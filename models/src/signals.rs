//! Models of the wake-up of a caretaker: work that was published is seen, or the caretaker is woken; and so is one that waits until
//! what it handed over is done with.
//!
//! The caretaker parks without a timeout here, so a wake-up that is lost is a deadlock.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::backlog::Backlog;
use crate::check::{Model, PARKED, seen_when};
use crate::cursor::Cursor;
use crate::signal::Signal;
use crate::slot::{Phase, Slot};
use crate::stack::{Node, Stack};
use crate::sync::{Arc, AtomicU32, Ordering, thread};

pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "signal_pushes",
        body: pushes,
        states: &[PARKED, "woken twice", "found all at once"],
        bound: Some(3),
        finite: false,
        one_order: true,
    },
    Model {
        name: "signal_claim",
        body: claim,
        states: &[PARKED, "passed but not yet leased", "found it leased at once"],
        bound: None,
        finite: false,
        one_order: true,
    },
    Model {
        name: "signal_close",
        body: close,
        states: &[PARKED, "ended at once", "ended in its second round"],
        bound: None,
        finite: false,
        one_order: true,
    },
    Model {
        name: "backlog_full",
        body: full,
        states: &[PARKED, "the writer waited", "the writer never waited"],
        bound: Some(3),
        finite: false,
        one_order: true,
    },
];

/// Longer than any model runs; it is not used, see `sync::park_timeout`.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// A caretaker's rounds until `look` finds all it waits for, or says that it was the last; how many there were.
pub(crate) fn caretake(signal: &Signal, mut look: impl FnMut() -> bool) -> usize {
    signal.adopt();
    let mut rounds = 0;
    if bug!("bug_signal_look_first") {
        loop {
            let found = look();
            signal.lower();
            rounds += 1;
            if found {
                return rounds;
            }
            signal.wait(LONG);
        }
    }
    signal.attend(|| {
        rounds += 1;
        if look() { ControlFlow::Break(()) } else { ControlFlow::Continue(Some(LONG)) }
    });
    rounds
}

/// Two threads push a change each and raise; the caretaker takes until it has both.
fn pushes() {
    let shared = Arc::new((Signal::default(), Stack::default()));
    let pushers = [0, 1].map(|name| {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            shared.1.push(Arc::new(Node::new(name)));
            shared.0.raise();
        })
    });
    let mut taken = Vec::new();
    let rounds = caretake(&shared.0, || {
        taken.extend(shared.1.take_all().iter().map(|node| node.value));
        taken.len() == 2
    });
    seen_when(rounds == 1, "found all at once");
    seen_when(rounds > 2, "woken twice");
    for pusher in pushers {
        pusher.join().expect("a thread of the model panicked");
    }
    taken.sort_unstable();
    assert_eq!(taken, [0, 1], "lost, or taken twice");
}

/// A claim against the writer, who reads the cursor and then the slot: it sees the lease in the end.
fn claim() {
    let shared = Arc::new((Signal::default(), Cursor::new(1), Slot::new(0, 1, 0)));
    // An earlier raise, which the claimer may still see.
    shared.0.raise();
    let claimer = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let range = shared.1.take(0, 1);
            assert!(shared.2.claim(1, 0, 1) && range == (0..1));
            shared.0.raise();
        })
    };
    let rounds = caretake(&shared.0, || {
        let passed = shared.1.is_at_end();
        let leased = passed && shared.2.snapshot().phase() == Phase::Leased;
        seen_when(passed && !leased, "passed but not yet leased");
        leased
    });
    seen_when(rounds == 1, "found it leased at once");
    claimer.join().expect("a thread of the model panicked");
}

/// What the caretaker works for is closed: it ends, whenever in its rounds that comes.
fn close() {
    let shared = Arc::new((Signal::default(), AtomicU32::new(0)));
    let closer = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            shared.1.store(1, Ordering::SeqCst);
            shared.0.raise();
        })
    };
    let (signal, closed) = &*shared;
    let is_closed = || closed.load(Ordering::SeqCst) == 1;
    let rounds = if bug!("bug_signal_end_first") {
        signal.adopt();
        while !is_closed() {
            signal.lower();
            signal.wait(LONG);
        }
        0
    } else {
        caretake(signal, is_closed)
    };
    seen_when(rounds == 1, "ended at once");
    seen_when(rounds == 2, "ended in its second round");
    closer.join().expect("a thread of the model panicked");
}

/// The writer hands three groups over, two of which fill the backlog; the storekeeper takes them, and gives their bytes back.
fn full() {
    let shared = Arc::new((Signal::default(), Signal::default(), Backlog::new(1)));
    let writer = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (mine, its, backlog) = &*shared;
            let mut waited = false;
            for group in 0..3 {
                let rounds = caretake(mine, || !backlog.is_full());
                waited |= rounds > 1;
                backlog.push(group, 1);
                its.raise();
            }
            seen_when(waited, "the writer waited");
            seen_when(!waited, "the writer never waited");
        })
    };
    let (its, mine, backlog) = &*shared;
    let mut taken = Vec::new();
    caretake(mine, || {
        let before = taken.len();
        taken.extend(backlog.take());
        if backlog.give_back((taken.len() - before) as u64) {
            its.raise();
        }
        taken.len() == 3
    });
    writer.join().expect("a thread of the model panicked");
    assert_eq!(taken, [0, 1, 2], "lost, taken twice, or in another order");
    assert!(!backlog.is_full());
}
