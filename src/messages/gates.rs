//! Where the threads sleep that wait for an answer: all whose messages are taken together wake together.

use std::ptr;

use crate::sync::{AtomicU32, Ordering, Padded};

/// More than groups that are awaited at a time, most likely. With more, some threads wake for nothing.
const GATES: u32 = 8;

/// A gate for each turn of the writer, used again every few turns. Waking a group costs one system call, however many
/// wait for it; threads that wait for another group sleep on.
///
/// A waiter reads its gate's word, then looks for its answer, then sleeps if the word is still the same. The writer first
/// answers, then changes the word, then wakes: whoever missed the answer sees the word changed, or is woken.
#[derive(Debug, Default)]
pub(super) struct Gates {
    words: [Padded<AtomicU32>; GATES as usize],
    turn: Padded<AtomicU32>,
    /// A bit for each gate that somebody behind it was answered since it was opened last.
    due: AtomicU32,
}

impl Gates {
    /// The gate for a message that is sent now.
    pub(super) fn current(&self) -> u32 {
        // ordering: Relaxed; any gate is right, since a message's answer opens the one that it was given.
        self.turn.load(Ordering::Relaxed)
    }

    /// What is sent from here on is most likely not taken together with what was sent before.
    pub(super) fn next_turn(&self) {
        // ordering: Relaxed; see `current`. Only the writer does this.
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store((turn + 1) % GATES, Ordering::Relaxed);
    }

    /// Sleeps until `look` finds something.
    pub(super) fn wait<T>(&self, gate: u32, look: impl Fn() -> Option<T>) -> T {
        let [first, ..] = &self.words;
        let word = self.words.get(gate as usize).unwrap_or(first);
        loop {
            // ordering: SeqCst; pairs with the addition in `open`, see the type's argument.
            let seen = word.load(Ordering::SeqCst);
            if let Some(found) = look() {
                return found;
            }
            atomic_wait::wait(word, seen);
        }
    }

    /// Somebody at this gate was answered: `open` must follow.
    pub(super) fn note(&self, gate: u32) {
        // ordering: SeqCst; whoever opens after it sees it.
        self.due.fetch_or(1 << gate, Ordering::SeqCst);
    }

    /// Wakes everybody at the gates that were noted.
    pub(super) fn open(&self) {
        // ordering: SeqCst; see `note`.
        let due = self.due.swap(0, Ordering::SeqCst);
        for (gate, word) in self.words.iter().enumerate() {
            if due & (1 << gate) != 0 {
                // ordering: SeqCst; see the type's argument.
                word.fetch_add(1, Ordering::SeqCst);
                atomic_wait::wake_all(ptr::from_ref(&word.0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::thread;

    use super::*;

    #[test]
    fn everybody_at_a_gate_that_was_noted_wakes() {
        let (gates, answer) = (Gates::default(), OnceLock::new());
        for turn in 0..2 * GATES {
            assert_eq!(gates.current(), turn % GATES);
            gates.next_turn();
        }
        thread::scope(|scope| {
            let waiters = [5, 5, 6].map(|gate| {
                scope.spawn({
                    let (gates, answer) = (&gates, &answer);
                    move || gates.wait(gate, || answer.get())
                })
            });
            answer.set(7).unwrap();
            gates.note(5);
            gates.note(6);
            gates.open();
            assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap() == &7));
        });
    }
}
