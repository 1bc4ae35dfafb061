//! The wake-up of a caretaker thread.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::sync::{AtomicU32, OnceLock, Ordering, Thread, current_thread, park_timeout};

/// Wakes one caretaker thread. Raising it is a load while the caretaker is awake, a swap and at most one unpark otherwise.
///
/// Whoever makes work first publishes it (`SeqCst`), then raises; the caretaker first lowers, then looks for work. In the
/// single order of the four `SeqCst` operations either the raiser sees the signal lowered and raises it again, or the
/// caretaker sees the work. So no work waits for a wake-up that never comes.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: AtomicU32,
    thread: OnceLock<Thread>,
}

const LOWERED: u32 = 0;
const RAISED: u32 = 1;
const PARKED: u32 = 2;

impl Signal {
    /// Names the thread to be woken: the caller. Without one, raising only leaves a mark.
    pub(crate) fn adopt(&self) {
        let _ = self.thread.set(current_thread());
    }

    pub(crate) fn raise(&self) {
        // ordering: SeqCst, both; see the type's argument.
        if self.state.load(Ordering::SeqCst) == RAISED {
            return;
        }
        if self.state.swap(RAISED, Ordering::SeqCst) == PARKED
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// True if it was raised since it was lowered.
    pub(crate) fn is_raised(&self) -> bool {
        // ordering: Relaxed; whoever finds it raised lowers it before it looks for work.
        self.state.load(Ordering::Relaxed) == RAISED
    }

    /// The caretaker's work, round by round, on the thread that is named. A round looks for all that it waits for, its own end above all:
    /// what changes after it looked raises the signal. It says for how long nothing is to be done, if it found nothing.
    pub(crate) fn attend(&self, mut round: impl FnMut() -> ControlFlow<(), Option<Duration>>) {
        loop {
            self.lower();
            match round() {
                ControlFlow::Break(()) => return,
                ControlFlow::Continue(None) => {}
                ControlFlow::Continue(Some(idle)) => self.wait(idle),
            }
        }
    }

    /// Lowers the signal; the caretaker calls it before it looks for work.
    pub(crate) fn lower(&self) {
        // ordering: SeqCst; see the type's argument.
        self.state.swap(LOWERED, Ordering::SeqCst);
    }

    /// Parks the caretaker until the signal is raised or `timeout` has passed.
    pub(crate) fn wait(&self, timeout: Duration) {
        let parked = self
            .state
            // ordering: SeqCst; see the type's argument. A failure means it was raised meanwhile.
            .compare_exchange(LOWERED, PARKED, Ordering::SeqCst, Ordering::SeqCst);
        if parked.is_ok() {
            park_timeout(timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_raised_before_the_wait_is_not_lost() {
        let signal = Signal::default();
        signal.adopt();
        signal.lower();
        signal.raise();
        // Would park for an hour if the raise had been lost.
        signal.wait(Duration::from_secs(3600));
    }
}
