//! What a client-facing call needs of the hub: may it work, what time is it, and the way to the writer.

use arc_swap::ArcSwapOption;

use crate::clock::HubClock;
use crate::commit::{Change, Pending};
use crate::error::{HubError, TicketError};
use crate::id::Secret;
use crate::limits::Limits;
use crate::news::News;
use crate::notices::Notices;
use crate::pace::{Outflow, spread};
use crate::permits::Permits;
use crate::rests::Rests;
use crate::service::wake;
use crate::signal::Signal;
use crate::stack::{Node, Stack};
use crate::sync::{Arc, AtomicU32, Counter, Ordering, Padded};
use crate::ticket::Ticket;

const OPEN: u32 = 0;
const POISONED: u32 = 1;
const CLOSED: u32 = 2;

/// What a change is for. As the queue fills, those who come are turned away first, then those who ask for work, and those
/// who bring it last: only that lets go of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precedence {
    /// Registrations, activations, subjects added, and the steward's housekeeping.
    Newcomer,
    /// Claims, which need no room themselves but make records; evidence, which is worth a claim; and what follows from it,
    /// the levels of clients.
    Claim,
    /// Submits, deregistrations, and what an administrator decides.
    Submit,
}

/// Shared by everything that serves clients; knows nothing of services, so that nothing refers to itself in a circle.
#[derive(Debug)]
pub(crate) struct Link {
    status: AtomicU32,
    poison: ArcSwapOption<String>,
    /// Every submit writes these three; what claims only read must not lie beside them.
    queue: Padded<Stack<Pending>>,
    permits: Padded<Permits>,
    /// Bytes that may wait when a rank is admitted still.
    room: [u64; 3],
    /// Refusals, by rank.
    turned_away: [Counter; 3],
    pub(crate) outflow: Outflow,
    pub(crate) writer: Padded<Signal>,
    /// Wakes the writer where it waits for the storekeeper.
    pub(crate) writer_room: Padded<Signal>,
    pub(crate) storekeeper: Padded<Signal>,
    pub(crate) steward: Padded<Signal>,
    pub(crate) writer_rests: Rests,
    pub(crate) storekeeper_rests: Rests,
    pub(crate) steward_rests: Rests,
    /// For those who follow the events.
    pub(crate) news: News,
    pub(crate) clock: HubClock,
    pub(crate) limits: Limits,
    /// Written by calls that are refused, and by no others.
    pub(crate) notices: Notices,
    pub(crate) secret: Secret,
    /// No threads: `Hub::tick` does their work.
    pub(crate) manual: bool,
}

impl Link {
    pub(crate) fn new(clock: HubClock, limits: Limits, secret: Secret, manual: bool) -> Self {
        Self {
            status: AtomicU32::new(OPEN),
            poison: ArcSwapOption::empty(),
            queue: Padded::default(),
            permits: Padded(Permits::new(limits.queue_bytes)),
            room: [limits.admit_newcomers_percent, limits.admit_claims_percent, 100]
                .map(|percent| share(limits.queue_bytes, u64::from(percent.min(100)))),
            turned_away: Default::default(),
            outflow: Outflow::default(),
            writer: Padded::default(),
            writer_room: Padded::default(),
            storekeeper: Padded::default(),
            steward: Padded::default(),
            writer_rests: Rests::default(),
            storekeeper_rests: Rests::default(),
            steward_rests: Rests::default(),
            news: News::default(),
            clock,
            notices: Notices::new(limits.notices),
            limits,
            secret,
            manual,
        }
    }

    /// Refuses work if the hub is poisoned or closed. Wait-free.
    pub(crate) fn check(&self) -> Result<(), HubError> {
        // ordering: SeqCst; `push` relies on it against `close`. Otherwise a hint: the writer decides.
        match self.status.load(Ordering::SeqCst) {
            OPEN => Ok(()),
            CLOSED => Err(HubError::Closed),
            _ => Err(HubError::Poisoned { cause: self.cause() }),
        }
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.poison.load().is_some()
    }

    pub(crate) fn cause(&self) -> String {
        self.poison.load().as_deref().cloned().unwrap_or_default()
    }

    /// Refuses new work from here on: a write, a sync or the store failed. The first cause stays.
    pub(crate) fn poison(&self, cause: String) {
        tracing::error!(%cause, "hub poisoned");
        self.poison.compare_and_swap(&None::<Arc<String>>, Some(Arc::new(cause)));
        // ordering: SeqCst; see `check`. Only an open hub is poisoned; a closed one stays closed.
        if self.status.compare_exchange(OPEN, POISONED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.raise_all();
        }
    }

    pub(crate) fn close(&self) {
        // ordering: SeqCst; see `push`.
        self.status.store(CLOSED, Ordering::SeqCst);
        self.raise_all();
    }

    /// Writer and steward are to look at the status, and tell those who wait. The storekeeper hears of it from the writer.
    fn raise_all(&self) {
        self.writer.raise();
        self.writer_room.raise();
        self.steward.raise();
    }

    /// Tells those who follow the events.
    pub(crate) fn tell(&self) {
        wake("a follower's", || self.news.tell());
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.check(), Err(HubError::Closed))
    }

    pub(crate) fn is_open(&self) -> bool {
        // ordering: SeqCst; see `check`.
        self.status.load(Ordering::SeqCst) == OPEN
    }

    /// Takes room in the queue before anything is changed.
    pub(crate) fn reserve(&self, rank: Precedence, bytes: usize) -> Result<(), HubError> {
        if self.permits.take(bytes as u64, self.room(rank)) { Ok(()) } else { Err(self.turn_away(rank)) }
    }

    /// Refuses a claim when the queue is too full for more of them. One load.
    pub(crate) fn admit_claim(&self) -> Result<(), HubError> {
        if self.permits.used() <= self.room(Precedence::Claim) {
            Ok(())
        } else {
            Err(self.turn_away(Precedence::Claim))
        }
    }

    fn room(&self, rank: Precedence) -> u64 {
        self.room.get(rank as usize).copied().unwrap_or_else(|| self.permits.limit())
    }

    /// Those turned away together come back spread over the time that it takes once more: all of the queue will
    /// be gone when the first of them come.
    #[cold]
    fn turn_away(&self, rank: Precedence) -> HubError {
        let nth = self.outflow.turn_away(self.clock.now());
        if let Some(count) = self.turned_away.get(rank as usize) {
            count.add(1);
        }
        let queued = self.permits.used();
        let base = self.outflow.time_for(queued);
        let rule = match rank {
            Precedence::Newcomer => "admit_newcomers_percent",
            Precedence::Claim => "admit_claims_percent",
            Precedence::Submit => "queue_bytes",
        };
        let retry_after = spread(base, base, self.secret.scramble(&nth.to_be_bytes()));
        HubError::Busy { queued, limit: self.room(rank), rule, retry_after }
    }

    /// How many of a rank were turned away since the hub was opened.
    pub(crate) fn turned_away(&self, rank: Precedence) -> u64 {
        self.turned_away.get(rank as usize).map_or(0, Counter::value)
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        self.permits.give_back(bytes as u64);
    }

    pub(crate) fn queued_bytes(&self) -> u64 {
        self.permits.used()
    }

    /// Hands a change, whose room is reserved, to the writer. Lock-free.
    pub(crate) fn push(&self, node: Arc<Node<Pending>>) {
        self.queue.push(node);
        // The hub may have been closed since the caller checked. Either the writer's last look at the queue, which comes
        // after `close`, finds the node, or this check finds the hub closed.
        if self.is_closed() {
            self.fail_all(TicketError::Closed);
        } else {
            self.writer.raise();
        }
    }

    /// Hands a change to the writer, for which `bytes` are reserved.
    pub(crate) fn post(&self, change: Change, bytes: usize) -> Ticket {
        let node = Arc::new(Node::new(Pending::new(change, bytes)));
        let ticket = Ticket::new(Arc::clone(&node), self.manual);
        self.push(node);
        ticket
    }

    /// Reserves room for a change of `bytes` and hands it to the writer.
    pub(crate) fn send(&self, rank: Precedence, change: Change, bytes: usize) -> Result<Ticket, HubError> {
        self.check()?;
        let bytes = bytes + Pending::OVERHEAD;
        self.reserve(rank, bytes)?;
        Ok(self.post(change, bytes))
    }

    pub(crate) fn take_all(&self) -> Vec<Arc<Node<Pending>>> {
        self.queue.take_all()
    }

    /// Resolves whatever waits as failed.
    pub(crate) fn fail_all(&self, error: TicketError) {
        for node in self.take_all() {
            self.fail(&node.value, error);
        }
    }

    pub(crate) fn fail(&self, pending: &Pending, error: TicketError) {
        self.give_back(pending.permits);
        pending.resolution.fail(error);
    }
}

/// So many per cent of `whole`.
fn share(whole: u64, percent: u64) -> u64 {
    // Two steps, so that no `whole` is too large.
    whole / 100 * percent + whole % 100 * percent / 100
}
