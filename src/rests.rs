//! How often a caretaker found nothing to do.

use crate::sync::{AtomicU64, Ordering};

/// Counts the rounds in which a caretaker found nothing to do. Who sees two more of them knows that all that was under way
/// when it first looked is through: the second one began after that.
#[derive(Debug, Default)]
pub(crate) struct Rests(AtomicU64);

impl Rests {
    pub(crate) fn note(&self) {
        // ordering: Release; pairs with the Acquire in `count`, publishes what the caretaker did before.
        self.0.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn count(&self) -> u64 {
        // ordering: Acquire; pairs with the Release in `note`.
        self.0.load(Ordering::Acquire)
    }
}
