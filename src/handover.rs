//! From the writer to the storekeeper: what is journaled and not yet applied, in the order of the journal.

use std::ops::Deref;

use crate::backlog::Backlog;
use crate::commit::Pending;
use crate::journal::Group;
use crate::link::Link;
use crate::stack::{Node, Stack};
use crate::steward::PutBack;
use crate::sync::Arc;

/// Bytes journaled but not applied, beyond which the writer waits.
const MOST_BYTES: u64 = 16 << 20;
/// Applied groups that the writer keeps, to fill them again.
const SPARE: usize = 4;

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
    /// Groups that are applied.
    spare: Stack<Group>,
}

impl Handover {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link, backlog: Backlog::new(MOST_BYTES), spare: Stack::default() }
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
            self.link.writer.raise();
        }
    }

    /// True if the storekeeper is far behind: it goes first.
    pub(crate) fn is_full(&self) -> bool {
        self.backlog.is_full()
    }

    /// Gives a group back, to be filled again.
    pub(crate) fn recycle(&self, group: Group) {
        self.spare.push(Arc::new(Node::new(group)));
    }

    /// Groups to be filled again, a few. The writer's alone.
    pub(crate) fn spare(&self) -> Vec<Group> {
        let spare = self.spare.take_all().into_iter().filter_map(|node| Arc::try_unwrap(node).ok());
        spare.take(SPARE).map(|node| node.value).collect()
    }
}
