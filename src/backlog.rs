//! What one caretaker has done and the next one has not: a list, and the bytes on it.

use std::time::Duration;

use crate::signal::Signal;
use crate::stack::{Node, Stack};
use crate::sync::{Arc, AtomicU64, Ordering};

/// From one thread to another. Whoever hands something over raises the taker's signal then; whoever gives bytes back raises that of
/// the other one if it is told to.
#[derive(Debug)]
pub(crate) struct Backlog<T> {
    list: Stack<T>,
    /// Handed over and not given back.
    bytes: AtomicU64,
    most: u64,
}

impl<T> Backlog<T> {
    /// It is full above `most` bytes.
    pub(crate) fn new(most: u64) -> Self {
        Self { list: Stack::default(), bytes: AtomicU64::new(0), most }
    }

    /// Hands something over. Lock-free.
    pub(crate) fn push(&self, item: T, bytes: u64) {
        // ordering: Relaxed; given back only by who saw the push below.
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.list.push(Arc::new(Node::new(item)));
    }

    /// Takes what was handed over, oldest first.
    pub(crate) fn take(&self) -> impl Iterator<Item = T> {
        // Who pushed it kept nothing of it.
        self.list.take_all().into_iter().filter_map(|node| Arc::try_unwrap(node).ok()).map(|node| node.value)
    }

    /// So many bytes are done with. True if it was full and is no more.
    pub(crate) fn give_back(&self, bytes: u64) -> bool {
        // ordering: SeqCst; published before the other one's signal is raised (see `Signal`).
        let before = self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        before > self.most && before - bytes <= self.most
    }

    /// Parks the caller, if it is full, until `room` is raised or its `patience` is over; `None`: it goes on. What ends the patience raises
    /// `room`. True if it parked.
    pub(crate) fn wait_for_room(&self, room: &Signal, patience: impl FnOnce() -> Option<Duration>) -> bool {
        room.lower();
        let patience = if self.is_full() { patience() } else { None };
        if let Some(patience) = patience {
            room.wait(patience);
        }
        patience.is_some()
    }

    /// True if nothing should be handed over now.
    pub(crate) fn is_full(&self) -> bool {
        // ordering: SeqCst; read after the reader lowered its signal (see `Signal`).
        self.bytes.load(Ordering::SeqCst) > self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_above_its_bound_and_told_once_when_it_is_no_more() {
        let backlog = Backlog::new(10);
        backlog.push('a', 10);
        assert!(!backlog.is_full());
        backlog.push('b', 5);
        assert!(backlog.is_full());
        assert_eq!(backlog.take().collect::<String>(), "ab");
        assert!(!backlog.give_back(2));
        assert!(backlog.is_full());
        assert!(backlog.give_back(4));
        assert!(!backlog.is_full());
        assert!(!backlog.give_back(9));
        assert_eq!(backlog.take().count(), 0);
    }
}
