//! The lock-free core of `commissary`, run by model checkers.
//!
//! The core's files are compiled here as they are, with a [`sync`] module that takes its atomics from loom (`--cfg loom`),
//! from shuttle (`--cfg shuttle`) or, with neither, from std. Each model is one function; the checkers call it once per
//! interleaving. A model names the states that it claims to cover and fails if one of them was never reached.
//!
//! `./run` runs all of it: see there.
//!
//! Not shown here: arc-swap itself (the swaps of pools are copies of the steps in `registry.rs` and `express.rs`, on atomics; that of a
//! stock's shelf and of a run's state are steps under a lock of the checker), event-listener (its promise is: whoever listens
//! before a notification is woken by it), a `park` with a
//! timeout (a lost wake-up is a deadlock here, in the hub it is a delay), and exchanges that fail without cause.

#[macro_use]
mod check;

#[path = "../../src/backlog.rs"]
mod backlog;
#[path = "../../src/contest.rs"]
mod contest;
#[path = "../../src/cursor.rs"]
#[expect(dead_code, reason = "the models recover no pool")]
mod cursor;
#[path = "../../src/lanes.rs"]
#[expect(dead_code, reason = "the models delete nothing, restore nothing and ask for no figures")]
mod lanes;
#[path = "../../tests/support/linear.rs"]
#[cfg(not(loom))]
mod linear;
#[path = "../../src/news.rs"]
#[expect(dead_code, reason = "the models wait as threads, not as tasks")]
mod news;
#[path = "../../tests/support/one_bucket.rs"]
#[cfg(not(loom))]
mod one_bucket;
#[path = "../../src/handlers/parking.rs"]
mod parking;
#[path = "../../src/permits.rs"]
mod permits;
#[path = "../../src/messages/queue.rs"]
mod queue;
#[path = "../../src/run.rs"]
#[expect(dead_code, reason = "the models have no deadlines")]
mod run;
#[path = "../../src/reservations/shelf.rs"]
#[expect(dead_code, reason = "the models restore nothing and forget nothing")]
mod shelf;
#[path = "../../src/signal.rs"]
#[expect(dead_code, reason = "the models gather nothing")]
mod signal;
#[path = "../../src/slot.rs"]
#[expect(dead_code, reason = "the models need no nonce and no subjects")]
mod slot;
#[path = "../../src/stack.rs"]
mod stack;
#[path = "../../src/standing.rs"]
#[expect(dead_code, reason = "the models trust everybody")]
mod standing;
#[expect(dead_code, reason = "every atomic has every operation; not each is used")]
mod sync;

/// Nobody waits for a time here.
mod clock {
    use std::time::{Duration, Instant};

    pub(crate) fn deadline(_: Duration) -> Option<Instant> {
        None
    }
}

/// What a seat can be. In the crate it can be stored, too.
mod record {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum SeatState {
        Active,
        Inactive,
        Suspended,
    }
}

/// How far a client is trusted. In the crate it can be stored, too.
mod watch {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Level {
        Healthy,
        Suspect,
        Quarantined,
    }
}

/// What a service can be, of what matters here. In the crate it can be stored, too.
mod service {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum ServiceState {
        Active,
        Revoked,
    }

    impl ServiceState {
        pub(crate) fn from_u32(value: u32) -> Self {
            if value == 0 { Self::Active } else { Self::Revoked }
        }

        pub(crate) fn is_ready(self) -> bool {
            self == Self::Active
        }
    }
}

mod contests;
mod counts;
#[cfg(not(loom))]
mod histories;
#[cfg(not(loom))]
mod house;
mod messages;
mod museum;
mod pools;
mod reservations;
mod runs;
mod signals;
mod slots;
mod stacks;
mod standings;
#[cfg_attr(loom, expect(dead_code, reason = "one of its models is too large"))]
mod turns;
mod waits;

pub use check::{Model, Seen, executions, explore, outcomes, replay, seen_in};
pub use museum::{EXHIBITS, Exhibit};

/// Every model.
#[must_use]
pub fn all() -> Vec<&'static Model> {
    let models = [
        slots::MODELS,
        pools::MODELS,
        stacks::MODELS,
        counts::MODELS,
        signals::MODELS,
        messages::MODELS,
        reservations::MODELS,
        runs::MODELS,
        waits::MODELS,
        standings::MODELS,
        contests::MODELS,
        turns::MODELS,
        // Too large for loom.
        #[cfg(not(loom))]
        house::MODELS,
        #[cfg(not(loom))]
        histories::MODELS,
    ];
    models.into_iter().flatten().collect()
}
