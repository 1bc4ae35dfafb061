//! What a caller holds while its change is on its way: poll it, wait, await, or drop it.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use atomic_waker::AtomicWaker;
use serde::Serialize;

use crate::error::TicketError;
use crate::refusals::{Refusal, RefusalReason, Refusals};
use crate::service::wake;
use crate::stack::Node;
use crate::sync::{Arc, AtomicU64, Ordering};

/// How far the disk is trusted before a ticket resolves durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Durability {
    /// After `fdatasync` of the group (the default): survives a crash of the process and of the machine.
    Sync,
    /// After the write; a sync follows within this time. A crash of the process loses nothing, a crash of the machine up
    /// to this time's changes.
    Every(std::time::Duration),
    /// After the write; the operating system decides when it reaches the device. A crash of the process loses nothing, a
    /// crash of the machine what the system had not written back.
    Os,
}

impl Durability {
    pub(crate) fn class(self) -> u8 {
        match self {
            Self::Sync => CLASS_SYNC,
            Self::Every(_) => 1,
            Self::Os => 2,
        }
    }
}

/// `Durability::class` of [`Durability::Sync`].
pub(crate) const CLASS_SYNC: u8 = 0;

/// How far a change has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Not written yet.
    Pending,
    /// In the journal, as durable as the hub's [`Durability`] says; reads may not see it yet.
    Durable,
    /// Durable, and reads see it.
    Visible,
}

const PENDING: u64 = 0;
const DURABLE: u64 = 1;
const VISIBLE: u64 = 2;
const FAILED: u64 = 3;

/// The shared half of a ticket; the writer, then the storekeeper, moves it forward, never back.
#[derive(Debug, Default)]
pub(crate) struct Resolution {
    /// State in the low byte, the failure's number above.
    state: AtomicU64,
    position: AtomicU64,
    added: AtomicU64,
    duplicates: AtomicU64,
    cut: AtomicU64,
    full: AtomicU64,
    /// Set before the counts are published, if there are any.
    refused: Refusals,
    waker: AtomicWaker,
}

impl Resolution {
    pub(crate) fn durable(&self, position: u64) {
        // ordering: Relaxed; published by the Release below.
        self.position.store(position, Ordering::Relaxed);
        self.advance(DURABLE);
    }

    pub(crate) fn visible(&self, intake: Intake) {
        // ordering: Relaxed, four times; published by the Release below.
        self.added.store(intake.added, Ordering::Relaxed);
        self.duplicates.store(intake.duplicates, Ordering::Relaxed);
        self.cut.store(intake.cut, Ordering::Relaxed);
        self.full.store(intake.full, Ordering::Relaxed);
        self.refused.name(intake.refused);
        self.advance(VISIBLE);
    }

    pub(crate) fn fail(&self, error: TicketError) {
        let number = match error {
            TicketError::Refused => 0,
            TicketError::Unknown => 1,
            TicketError::NotVisible => 2,
            TicketError::Closed | TicketError::Manual => 3,
            TicketError::Fenced => 4,
        };
        self.advance(FAILED | (number << 8));
    }

    fn advance(&self, to: u64) {
        // ordering: Release; pairs with the Acquire in `progress`, publishes position and counts.
        self.state.store(to, Ordering::Release);
        wake("a ticket's", || self.waker.wake());
    }

    /// Nobody works on the change any more: a ticket that is still awaited fails.
    pub(crate) fn abandon(&self) {
        match self.progress() {
            Ok(Progress::Pending) => self.fail(TicketError::Unknown),
            Ok(Progress::Durable) => self.fail(TicketError::NotVisible),
            _ => {}
        }
    }

    fn progress(&self) -> Result<Progress, TicketError> {
        // ordering: Acquire; pairs with the Release in `advance`.
        let state = self.state.load(Ordering::Acquire);
        match state & 0xff {
            PENDING => Ok(Progress::Pending),
            DURABLE => Ok(Progress::Durable),
            VISIBLE => Ok(Progress::Visible),
            _ => Err(match state >> 8 {
                0 => TicketError::Refused,
                1 => TicketError::Unknown,
                2 => TicketError::NotVisible,
                3 => TicketError::Closed,
                _ => TicketError::Fenced,
            }),
        }
    }

    /// True once the change is at least durable: a later failure concerns its visibility alone.
    pub(crate) fn is_durable(&self) -> bool {
        matches!(self.progress(), Ok(Progress::Durable | Progress::Visible) | Err(TicketError::NotVisible))
    }
}

/// What became of subjects offered to a service, or of those that a decision names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Intake {
    /// New: they wait to be handed out. Of a deletion: deleted.
    pub added: u64,
    /// Nothing changed: known already; of a decision: not in a state in which it changes anything, or not known.
    pub duplicates: u64,
    /// Cut by the policy's depth or budget.
    pub cut: u64,
    /// Not taken in: their lane owes as many subjects as it may ([`Policy::lane_subjects`](crate::Policy::lane_subjects)).
    /// Offered again once the lane has worked some off, they are new.
    pub full: u64,
    /// Of an addition: which subjects are in `cut` and `full`, and by which limit, in the order in which they were offered; the
    /// first [`Intake::REFUSED_MOST`] of a call.
    pub refused: Vec<Refusal>,
}

impl Intake {
    /// Refusals that one call names, at most. Who offers no more subjects than this at a time learns of each.
    pub const REFUSED_MOST: usize = 65_536;

    /// With what became of the `next` subjects of the same call, which stand behind `before` others.
    pub(crate) fn and_then(&mut self, before: u64, next: Self) {
        self.added += next.added;
        self.duplicates += next.duplicates;
        self.cut += next.cut;
        self.full += next.full;
        let room = Self::REFUSED_MOST.saturating_sub(self.refused.len());
        let refused = next.refused.into_iter().take(room);
        self.refused.extend(refused.map(|refusal| Refusal { place: before + refusal.place, ..refusal }));
    }

    /// Counts and names one that was not taken in.
    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        match refusal.reason {
            RefusalReason::LaneFull { .. } => self.full += 1,
            RefusalReason::Budget { .. } => self.cut += 1,
        }
        if self.refused.len() < Self::REFUSED_MOST {
            self.refused.push(refusal);
        }
    }
}

/// A change on its way to the journal.
///
/// Dropping a ticket changes nothing: the change goes its way. A ticket never stays pending after the hub is closed.
///
/// # Concurrency
///
/// [`progress`](Self::progress) is wait-free; the `wait` methods park the calling thread; the futures need no particular
/// runtime. A ticket has one owner, hence one waiter at a time: it is `Send`, not `Sync`.
///
/// # Durability
///
/// Resolved durable means: in the journal, and under [`Durability::Sync`] synced. Resolved visible means: reads see it.
#[derive(Debug)]
#[must_use = "a change is not durable before its ticket says so; drop it explicitly if that does not matter"]
pub struct Ticket {
    /// None: there was nothing to write.
    node: Option<Arc<Node<crate::commit::Pending>>>,
    manual: bool,
    /// One waiter at a time: a ticket can be sent to another thread, not shared with it.
    _alone: PhantomData<std::cell::Cell<()>>,
}

impl Ticket {
    pub(crate) fn new(node: Arc<Node<crate::commit::Pending>>, manual: bool) -> Self {
        Self { node: Some(node), manual, _alone: PhantomData }
    }

    /// For a call that changed nothing.
    pub(crate) fn nothing() -> Self {
        Self { node: None, manual: false, _alone: PhantomData }
    }

    fn resolution(&self) -> Option<&Resolution> {
        self.node.as_deref().map(|node| &node.value.resolution)
    }

    /// How far the change has come, now.
    ///
    /// # Errors
    ///
    /// [`TicketError`] if it will not come further.
    pub fn progress(&self) -> Result<Progress, TicketError> {
        self.resolution().map_or(Ok(Progress::Visible), Resolution::progress)
    }

    /// The journal position of the change, once it is durable; `None` before, or if there was nothing to write.
    #[must_use]
    pub fn position(&self) -> Option<u64> {
        let resolution = self.resolution()?;
        // ordering: Relaxed; `is_durable` acquired it.
        resolution.is_durable().then(|| resolution.position.load(Ordering::Relaxed))
    }

    /// Waits until the change is durable.
    ///
    /// # Errors
    ///
    /// [`TicketError`] if it will not be. In a manual hub a pending ticket answers [`TicketError::Manual`] at once.
    pub fn wait_durable(&self) -> Result<(), TicketError> {
        self.wait(Progress::Durable).map(|_| ())
    }

    /// Waits until reads see the change, and says how many subjects it took in (a report: by discovery).
    ///
    /// # Errors
    ///
    /// As [`wait_durable`](Self::wait_durable).
    pub fn wait_visible(&self) -> Result<Intake, TicketError> {
        self.wait(Progress::Visible)
    }

    /// Resolves when the change is durable; the asynchronous [`wait_durable`](Self::wait_durable).
    ///
    /// # Errors
    ///
    /// [`TicketError`] if it will not be.
    pub async fn durable(&mut self) -> Result<(), TicketError> {
        Waiting { ticket: self, until: Progress::Durable }.await.map(|_| ())
    }

    /// Resolves when reads see the change; the asynchronous [`wait_visible`](Self::wait_visible).
    ///
    /// # Errors
    ///
    /// [`TicketError`] if they will not.
    pub async fn visible(&mut self) -> Result<Intake, TicketError> {
        Waiting { ticket: self, until: Progress::Visible }.await
    }

    fn wait(&self, until: Progress) -> Result<Intake, TicketError> {
        if self.manual && matches!(self.progress(), Ok(progress) if !reached(progress, until)) {
            return Err(TicketError::Manual);
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut waiting = Waiting { ticket: self, until };
        loop {
            match Pin::new(&mut waiting).poll(&mut context) {
                Poll::Ready(result) => return result,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    fn intake(&self) -> Intake {
        // ordering: Relaxed, four times; acquired with the state.
        self.resolution().map_or_else(Intake::default, |resolution| Intake {
            added: resolution.added.load(Ordering::Relaxed),
            duplicates: resolution.duplicates.load(Ordering::Relaxed),
            cut: resolution.cut.load(Ordering::Relaxed),
            full: resolution.full.load(Ordering::Relaxed),
            refused: resolution.refused.named().to_vec(),
        })
    }
}

fn reached(progress: Progress, until: Progress) -> bool {
    progress == Progress::Visible || progress == until
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

struct Waiting<'a> {
    ticket: &'a Ticket,
    until: Progress,
}

impl Future for Waiting<'_> {
    type Output = Result<Intake, TicketError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let look = || match self.ticket.progress() {
            Ok(progress) if reached(progress, self.until) => Poll::Ready(Ok(self.ticket.intake())),
            Ok(_) => Poll::Pending,
            // What made it invisible did not make it less durable.
            Err(TicketError::NotVisible) if self.until == Progress::Durable => Poll::Ready(Ok(Intake::default())),
            Err(error) => Poll::Ready(Err(error)),
        };
        let first = look();
        if first.is_ready() {
            return first;
        }
        if let Some(resolution) = self.ticket.resolution() {
            resolution.waker.register(context.waker());
        }
        look()
    }
}
