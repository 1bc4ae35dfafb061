//! From the writer to the storekeeper: what is journaled and not yet applied, in the order of the journal.

use std::ops::Deref;
use std::time::Duration;

use crate::backlog::Backlog;
use crate::commit::Pending;
use crate::journal::Group;
use crate::link::Link;
use crate::signal::Signal;
use crate::stack::{Node, Stack};
use crate::steward::PutBack;
use crate::sync::{Arc, AtomicU64, Ordering};

/// Bytes journaled but not applied, beyond which the writer waits.
const MOST_BYTES: u64 = 8 << 20;
/// Applied groups that are kept, to be filled again.
const SPARE: u64 = 4;

/// A change taken from the queue. Whatever becomes of the caretakers, its ticket is answered: here at the latest.
#[derive(Debug)]
pub(crate) struct Waiting(pub(crate) Arc<Node<Pending>>);

impl Deref for Waiting {
    type Target = Pending;

    fn deref(&self) -> &Pending {
        &self.0.value
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.value.resolution.abandon();
    }
}

/// A journaled group that is still to be applied.
#[derive(Debug)]
pub(crate) struct Journaled {
    pub(crate) group: Group,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Which frame, by its offset, is whose.
    pub(crate) waiting: Vec<(u64, Waiting)>,
    pub(crate) put_back: Vec<PutBack>,
}

/// What the writer hands over.
#[derive(Debug)]
pub(crate) enum Delivery {
    Group(Journaled),
    /// Put back without a record.
    PutBack(PutBack),
    /// Everything before is synced: the store may be made durable.
    Checkpoint,
    /// Nothing comes any more.
    End,
}

/// The way there, and back.
#[derive(Debug)]
pub(crate) struct Handover {
    link: Arc<Link>,
    backlog: Backlog<Delivery>,
    /// Wakes the writer when there is room again.
    room: Signal,
    /// Groups that are applied, and how many.
    spare: Stack<Group>,
    spares: AtomicU64,
}

impl Handover {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self {
            link,
            backlog: Backlog::new(MOST_BYTES),
            room: Signal::default(),
            spare: Stack::default(),
            spares: AtomicU64::new(0),
        }
    }

    /// Hands something to the storekeeper. Lock-free.
    pub(crate) fn deliver(&self, delivery: Delivery) {
        let bytes = if let Delivery::Group(journaled) = &delivery { journaled.group.bytes() } else { 0 };
        self.backlog.push(delivery, bytes as u64);
        self.link.storekeeper.raise();
    }

    /// Takes what was delivered, oldest first. The storekeeper's alone.
    pub(crate) fn take(&self) -> impl Iterator<Item = Delivery> {
        self.backlog.take()
    }

    /// So many bytes are applied, or never will be.
    pub(crate) fn give_back(&self, bytes: u64) {
        if self.backlog.give_back(bytes) {
            self.room.raise();
        }
    }

    /// The caller is the one who waits for room.
    pub(crate) fn adopt(&self) {
        self.room.adopt();
    }

    /// Parks the writer, if the storekeeper is far behind, until there is room or `timeout` has passed. True if it is behind.
    pub(crate) fn wait_for_room(&self, timeout: Duration) -> bool {
        self.room.lower();
        let is_full = self.backlog.is_full();
        if is_full {
            self.room.wait(timeout);
        }
        is_full
    }

    /// Gives a group back, to be filled again. The storekeeper's alone.
    pub(crate) fn recycle(&self, group: Group) {
        // ordering: Relaxed, all of this count; only the storekeeper raises it, and less than there is costs an allocation.
        if self.spares.load(Ordering::Relaxed) < SPARE {
            self.spares.fetch_add(1, Ordering::Relaxed);
            self.spare.push(Arc::new(Node::new(group)));
        }
    }

    /// Groups to be filled again. The writer's alone.
    pub(crate) fn spare(&self) -> Vec<Group> {
        let taken = self.spare.take_all();
        self.spares.fetch_sub(taken.len() as u64, Ordering::Relaxed);
        taken.into_iter().filter_map(|node| Arc::try_unwrap(node).ok()).map(|node| node.value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hub, MemoryDisk};

    /// What a burst took is freed once it is applied, whether or not another one follows.
    #[test]
    fn a_few_groups_are_kept_after_a_burst() {
        let hub = Hub::builder().manual().open_in_memory(&MemoryDisk::new()).unwrap();
        let handover = Handover::new(Arc::clone(&hub.house().link));
        (0..256).for_each(|_| handover.recycle(Group::new()));
        assert_eq!(handover.spare().len() as u64, SPARE);
    }
}
