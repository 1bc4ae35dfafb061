//! From the writer to the storekeeper: what is journaled and not yet applied, in the order of the journal.

use std::ops::Deref;
use std::time::Duration;

use crate::backlog::Backlog;
use crate::commit::Pending;
use crate::journal::Group;
use crate::link::Link;
use crate::stack::Node;
use crate::steward::PutBack;
use crate::sync::Arc;

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
    /// Groups that are applied; each counts as one.
    spare: Backlog<Group>,
}

impl Handover {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link, backlog: Backlog::new(MOST_BYTES), spare: Backlog::new(SPARE - 1) }
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
            self.link.writer_room.raise();
        }
    }

    /// Parks the writer, if the storekeeper is far behind, until there is room or `patience` is over; `None`: it goes on. True if it
    /// parked.
    pub(crate) fn wait_for_room(&self, patience: impl FnOnce() -> Option<Duration>) -> bool {
        self.backlog.wait_for_room(&self.link.writer_room, patience)
    }

    /// Gives a group back, to be filled again. The storekeeper's alone.
    pub(crate) fn recycle(&self, group: Group) {
        if !self.spare.is_full() {
            self.spare.push(group, 1);
        }
    }

    /// Groups to be filled again. The writer's alone.
    pub(crate) fn spare(&self) -> Vec<Group> {
        let spare: Vec<Group> = self.spare.take().collect();
        self.spare.give_back(spare.len() as u64);
        spare
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hub, MemoryDisk};

    /// Would wait for an hour if it were not woken.
    #[test]
    fn who_waits_for_room_is_woken() {
        let hub = Hub::builder().manual().open_in_memory(&MemoryDisk::new()).unwrap();
        let handover = Handover::new(Arc::clone(&hub.house().link));
        handover.backlog.push(Delivery::End, MOST_BYTES + 1);
        let begun = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                hub.house().link.writer_room.adopt();
                begun.wait();
                while handover.wait_for_room(|| Some(Duration::from_secs(3600))) {}
            });
            begun.wait();
            // It parks now, most likely.
            (0..1_000).for_each(|_| std::thread::yield_now());
            handover.give_back(1);
        });
        assert!(!handover.backlog.is_full());
    }

    /// What a burst took is freed once it is applied, whether or not another one follows.
    #[test]
    fn a_few_groups_are_kept_after_a_burst() {
        let hub = Hub::builder().manual().open_in_memory(&MemoryDisk::new()).unwrap();
        let handover = Handover::new(Arc::clone(&hub.house().link));
        for _ in 0..2 {
            (0..256).for_each(|_| handover.recycle(Group::new()));
            assert_eq!(handover.spare().len() as u64, SPARE);
            assert_eq!(handover.spare().len(), 0);
        }
    }
}
