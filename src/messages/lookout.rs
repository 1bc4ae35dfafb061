//! How many messages share a sync: a short look-out for those who were just answered.

use std::thread;

use super::receipt::Pending;
use super::shared::Shared;
use crate::stack::Node;
use crate::sync::Arc;

/// Times that other threads are let run before a look-out is given up: some 300 us where none has anything to do.
const YIELDS: u32 = 1_000;
/// Longest look-out, but for the last yield, nanoseconds: beside threads that do not rest, each yield may take milliseconds.
const LOOKOUT_MAX: u64 = 2_000_000;
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
        if self.pause > 0 {
            self.pause -= 1;
        } else {
            let found = self.look_out(shared, &mut taken);
            self.penalty = if found { 0 } else { (self.penalty * 2).clamp(1, PAUSE_MAX) };
            self.pause = self.penalty;
        }
        self.expected = taken.len();
        taken
    }

    /// Waits until as many are there as are expected. False if they did not come.
    fn look_out(&self, shared: &Shared, taken: &mut Vec<Arc<Node<Pending>>>) -> bool {
        if taken.len() >= self.expected {
            return true;
        }
        let until = shared.clock.nanos().saturating_add(LOOKOUT_MAX);
        for _ in 0..YIELDS {
            if shared.clock.nanos() > until {
                return false;
            }
            thread::yield_now();
            taken.append(&mut shared.take_all());
            if taken.len() >= self.expected {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::shared::{Lengths, Source};
    use super::*;
    use crate::clock::{Clock, HubClock};
    use crate::device::MemoryDevice;
    use crate::journal::{JournalFile, Purpose};
    use crate::sync::{AtomicU64, Ordering};

    /// A clock on a machine where every look takes a while, since others work.
    #[derive(Debug, Clone, Default)]
    struct Busy(Arc<AtomicU64>);

    impl Clock for Busy {
        fn monotonic(&self) -> Duration {
            // ordering: Relaxed; a test's count.
            Duration::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
        }

        fn wall_ms(&self) -> i64 {
            0
        }
    }

    /// R113: beside threads that never rest, where each yield may take milliseconds, a look-out still takes but a moment.
    #[test]
    fn a_lookout_is_bounded_in_time() {
        let file = JournalFile::create(Box::new(MemoryDevice::new()), Purpose::Messages, 0, 0).unwrap();
        let source = Source { tail: file.tail(true).unwrap(), first: 0, gone: 0 };
        let clock = Busy::default();
        let shared = Shared::new(
            source,
            HubClock::new(Arc::new(clock.clone()), 0),
            Lengths { cap: 256, refuse_empty: false },
            10_000,
        );
        let mut lookout = Lookout { expected: 64, ..Lookout::default() };
        assert!(lookout.take(&shared).is_empty());
        // ordering: Relaxed; a test's count.
        let ms = clock.0.load(Ordering::Relaxed);
        assert!((2..10).contains(&ms), "looked out for {ms} ms");
    }
}
