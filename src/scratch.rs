//! Memory that a thread's submits use again, one after the other.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

/// A report ready to take effect: where it stands among the outcomes, and its fingerprint.
pub(crate) struct Ready {
    pub(crate) outcome: usize,
    pub(crate) place: usize,
    pub(crate) print: u32,
    /// The plugin's category of it.
    pub(crate) category: Option<u8>,
    /// Where its bytes end in the list of items; they start where those of the one before end.
    pub(crate) end: usize,
}

/// What a submit needs only while it runs.
#[derive(Default)]
pub(crate) struct Scratch {
    /// One subject's key.
    pub(crate) key: Vec<u8>,
    /// The list of items.
    pub(crate) items: Vec<u8>,
    pub(crate) ready: Vec<Ready>,
}

/// Of each part, so many bytes are kept for a thread's next submit, at most.
const KEPT: usize = 16 << 10;

impl Scratch {
    /// The list of items, in memory of its own.
    pub(crate) fn hand_over_items(&mut self) -> Vec<u8> {
        if self.items.capacity() <= KEPT {
            return self.items.clone();
        }
        let mut items = std::mem::take(&mut self.items);
        // What grew by doubling may have taken twice of what it holds.
        if items.len() < items.capacity() / 2 {
            items.shrink_to_fit();
        }
        items
    }

    fn clear(&mut self) {
        keep(&mut self.key);
        keep(&mut self.items);
        keep(&mut self.ready);
    }
}

fn keep<T>(part: &mut Vec<T>) {
    if part.capacity() * size_of::<T>() > KEPT {
        *part = Vec::new();
    }
    part.clear();
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// The thread's scratch, empty, until this is dropped. A submit inside a submit, by a plugin, gets new memory.
pub(crate) struct Lent(Scratch);

impl Lent {
    pub(crate) fn take() -> Self {
        // A thread that is being taken down has none any more.
        Self(SCRATCH.try_with(Cell::take).unwrap_or_default())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.clear();
        let scratch = std::mem::take(&mut self.0);
        // If the thread is being taken down, the memory is freed.
        let _ = SCRATCH.try_with(|place| place.set(scratch));
    }
}

impl Deref for Lent {
    type Target = Scratch;

    fn deref(&self) -> &Scratch {
        &self.0
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Scratch {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_empty_and_what_is_too_large_is_not_kept() {
        let mut first = Lent::take();
        first.key.extend([7; 100]);
        first.items.reserve_exact(KEPT + 1);
        let inner = Lent::take();
        assert_eq!(inner.key.capacity(), 0, "the outer one has the memory");
        drop(inner);
        drop(first);
        let again = Lent::take();
        assert!(again.key.is_empty() && again.key.capacity() >= 100);
        assert_eq!(again.items.capacity(), 0);
    }
}
