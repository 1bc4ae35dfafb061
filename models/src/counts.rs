//! Models of the permits that bound what waits for the writer.

use std::sync::atomic::AtomicU64 as StdU64;

use crate::check::{EXCHANGE_FAILED, Model, seen_when};
use crate::permits::Permits;
use crate::sync::{Arc, Ordering, thread};

pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "permits",
        body: permits,
        states: &["refused", "taken after it was given back", "all taken", EXCHANGE_FAILED],
        bound: Some(3),
        finite: false,
        one_order: false,
    },
    Model {
        name: "permits_oversize",
        body: oversize,
        states: &["oversize taken", "oversize refused", "other refused"],
        bound: None,
        finite: true,
        one_order: false,
    },
];

const LIMIT: u64 = 10;

/// The permits, and beside them what is really held; plain, as the checkers run one thread at a time.
struct Held {
    permits: Permits,
    bytes: StdU64,
}

impl Held {
    fn new() -> Arc<Self> {
        Arc::new(Self { permits: Permits::new(LIMIT), bytes: StdU64::new(0) })
    }

    /// Takes, and checks that what is held fits. What is held is lowered before it is given back and raised after it was
    /// taken, so it is never more than what the permits count.
    fn take(&self, bytes: u64) -> bool {
        let taken = self.permits.take(bytes, LIMIT);
        if taken {
            let held = self.bytes.fetch_add(bytes, Ordering::SeqCst) + bytes;
            assert!(held <= LIMIT || held == bytes, "{held} bytes held, the limit is {LIMIT}");
        }
        taken
    }

    fn give_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.permits.give_back(bytes);
    }
}

/// Takes, gives back, takes again: each twice at most. How often it was refused.
fn take_twice(held: &Held, bytes: u64) -> [bool; 2] {
    [(); 2].map(|()| {
        let taken = held.take(bytes);
        if taken {
            held.give_back(bytes);
        }
        taken
    })
}

/// Three threads, of whom any two fit: never above the limit, and in the end all is given back.
fn permits() {
    let held = Held::new();
    let threads = [4, 5].map(|bytes| {
        let held = Arc::clone(&held);
        thread::spawn(move || take_twice(&held, bytes))
    });
    let mine = held.take(5);
    if mine {
        held.give_back(5);
    }
    let others = threads.map(|thread| thread.join().expect("a thread of the model panicked"));
    seen_when(!mine || others.concat().contains(&false), "refused");
    seen_when(others.contains(&[false, true]), "taken after it was given back");
    seen_when(mine && !others.concat().contains(&false), "all taken");
    assert_eq!(held.permits.used(), 0, "something was not given back");
    assert_eq!(held.permits.limit(), LIMIT);
}

/// One that exceeds the limit alone is taken only when nothing else is.
fn oversize() {
    let held = Held::new();
    let other = Arc::clone(&held);
    let other = thread::spawn(move || take_twice(&other, 3));
    let mine = held.take(20);
    if mine {
        held.give_back(20);
    }
    let others = other.join().expect("a thread of the model panicked");
    seen_when(mine, "oversize taken");
    seen_when(!mine, "oversize refused");
    seen_when(others.contains(&false), "other refused");
    assert_eq!(held.permits.used(), 0, "something was not given back");
}
