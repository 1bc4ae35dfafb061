//! How messages come from senders to the writer, and how that ends: each that was pushed is taken by the writer, or its sender
//! learns that the writer is gone. The model checkers compile this file as it is (see `models/`).
//!
//! A sender pushes, then looks at the standing; the writer, at its end, sets the standing, then takes what waits. In the
//! single order of these four `SeqCst` operations either the sender sees that the writer is gone, or the writer sees the
//! message. So no message waits for a writer that never comes.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::permits::Permits;
use crate::signal::Signal;
use crate::stack::{Node, Stack};
use crate::sync::{Arc, AtomicU32, Ordering, Padded};

const OPEN: u32 = 0;
const FAILED: u32 = 1;
const CLOSING: u32 = 2;
const OVER: u32 = 3;

/// Whether messages are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Open,
    /// The device failed: the writer refuses what comes.
    Failed,
    /// Nothing new is taken; the writer works off what waits.
    Closing,
    /// The writer is gone.
    Over,
}

/// The queue, the bound on its bytes, and the writer's wake-up.
#[derive(Debug)]
pub(super) struct Queue<T> {
    standing: AtomicU32,
    /// Every sender writes these two.
    waiting: Padded<Stack<T>>,
    permits: Padded<Permits>,
    pub(super) signal: Padded<Signal>,
}

impl<T> Queue<T> {
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            standing: AtomicU32::new(OPEN),
            waiting: Padded::default(),
            permits: Padded(Permits::new(bytes)),
            signal: Padded::default(),
        }
    }

    /// Wait-free.
    pub(super) fn standing(&self) -> Standing {
        // ordering: SeqCst; see the module's argument. Whoever sees the end sees what was published before.
        match self.standing.load(Ordering::SeqCst) {
            OPEN => Standing::Open,
            FAILED => Standing::Failed,
            CLOSING => Standing::Closing,
            _ => Standing::Over,
        }
    }

    /// Reserves what a message takes in memory; false if there is no room. Lock-free.
    #[must_use]
    pub(super) fn reserve(&self, bytes: u64) -> bool {
        self.permits.take(bytes, u64::MAX)
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.permits.give_back(bytes);
    }

    /// Bytes reserved.
    pub(super) fn used(&self) -> u64 {
        self.permits.used()
    }

    /// Hands a message to the writer. False if the writer is gone: then it may have taken the message or not, and the first
    /// answer counts. Lock-free.
    #[must_use]
    pub(super) fn push(&self, node: Arc<Node<T>>) -> bool {
        self.waiting.push(node);
        let taken = self.standing() != Standing::Over;
        if taken {
            self.signal.raise();
        }
        taken
    }

    /// Everything that waits, in the order in which it was pushed.
    pub(super) fn take_all(&self) -> Vec<Arc<Node<T>>> {
        self.waiting.take_all()
    }

    /// The writer's work until the log is closed: `turn` takes what waits and says how long nothing else is to be done, if it found
    /// nothing.
    pub(super) fn attend(&self, mut turn: impl FnMut() -> Option<Duration>) {
        self.signal.adopt();
        self.signal.attend(|| {
            let idle = turn();
            let is_over = !matches!(self.standing(), Standing::Open | Standing::Failed);
            if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(idle) }
        });
    }

    /// Nothing new is taken, for the device failed. What is being closed stays so.
    pub(super) fn fail(&self) {
        // ordering: SeqCst; see the module's argument.
        let _ = self.standing.compare_exchange(OPEN, FAILED, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Nothing new is taken; the writer is told.
    pub(super) fn close(&self) {
        // ordering: SeqCst, all; see the module's argument.
        let mut at = self.standing.load(Ordering::SeqCst);
        while at < CLOSING {
            match self.standing.compare_exchange(at, CLOSING, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break,
                Err(now) => at = now,
            }
        }
        self.signal.raise();
    }

    /// The writer is gone. It takes what waits once more, after this.
    pub(super) fn end(&self) {
        // ordering: SeqCst; see the module's argument.
        self.standing.store(OVER, Ordering::SeqCst);
    }
}
