//! Reading a projection's state beside the thread that folds it.

use std::any::type_name;
use std::fmt;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::journal::Tail;
use crate::link::Link;
use crate::sync::Arc;

/// A state, and how far it reflects the events. See [`Views::view`].
#[derive(Debug)]
#[non_exhaustive]
pub struct View<S> {
    /// The state as it was after all events before `position`, and no others.
    pub state: Arc<S>,
    /// The events before this position are in it.
    pub position: u64,
    /// It reflects at least all that could be read this long ago, in hub time. 0 if there was nothing newer to read when the
    /// view was taken, and only then: what came within the same millisecond makes it 1 ms.
    pub age: Duration,
}

/// Reads a projection's state. Cloning clones the handle.
pub struct Views<S> {
    pub(super) shared: Arc<Shared<S>>,
}

pub(super) struct Shared<S> {
    pub(super) latest: ArcSwap<Reflected<S>>,
    pub(super) link: Arc<Link>,
    pub(super) tail: Tail,
}

pub(super) struct Reflected<S> {
    pub(super) state: Arc<S>,
    pub(super) position: u64,
    /// Up to where the journal was read.
    pub(super) reached: u64,
    /// Hub time, ms, at which nothing newer could be read.
    pub(super) as_of_ms: u64,
}

impl<S> Clone for Views<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S> fmt::Debug for Views<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let latest = self.shared.latest.load();
        f.debug_struct("Views").field("state", &type_name::<S>()).field("position", &latest.position).finish()
    }
}

impl<S> Views<S> {
    /// The last state that was published.
    ///
    /// # Concurrency
    ///
    /// Wait-free: it neither waits for folding nor holds it up. Each view is one state as a whole; what was journaled since
    /// is not in it, and what is decided on it may be out of date.
    #[must_use]
    pub fn view(&self) -> View<S> {
        let Shared { latest, link, tail } = &*self.shared;
        let latest = latest.load_full();
        let since = || link.clock.now().saturating_sub(latest.as_of_ms).max(1);
        let age = if latest.reached >= tail.end() { 0 } else { since() };
        View { state: Arc::clone(&latest.state), position: latest.position, age: Duration::from_millis(age) }
    }
}
