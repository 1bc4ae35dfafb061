//! How many messages share a sync: a short look-out for those who were just answered.

use std::thread;

use super::receipt::Pending;
use super::shared::Shared;
use crate::stack::Node;
use crate::sync::Arc;

/// Times that other threads are let run before a look-out is given up: some 300 us where none has anything to do.
const YIELDS: u32 = 1_000;
/// Most turns without a look-out after some that were in vain.
const PAUSE_MAX: u32 = 64;

/// Whoever sends, waits for the answer and sends again is about to send when the answer is there. So as many messages are
/// looked out for as were taken last: together they cost one sync, and the writer need not be put to sleep and woken.
/// Where they do not come, fewer and fewer turns look out.
#[derive(Debug, Default)]
pub(super) struct Lookout {
    /// Messages taken last: as many senders may be about to send the next.
    expected: usize,
    /// Turns that do not look out.
    pause: u32,
    /// What `pause` becomes when a look-out is in vain.
    penalty: u32,
}

impl Lookout {
    /// Takes what waits, and what comes in a moment, if it is worth the wait.
    pub(super) fn take(&mut self, shared: &Shared) -> Vec<Arc<Node<Pending>>> {
        let mut taken = shared.take_all();
        let yields = if self.pause > 0 { 0 } else { YIELDS };
        self.pause = self.pause.saturating_sub(1);
        for _ in 0..yields {
            if taken.len() >= self.expected {
                break;
            }
            thread::yield_now();
            taken.append(&mut shared.take_all());
        }
        if yields > 0 {
            self.penalty = if taken.len() >= self.expected { 0 } else { (self.penalty * 2).clamp(1, PAUSE_MAX) };
            self.pause = self.penalty;
        }
        self.expected = taken.len();
        taken
    }
}
