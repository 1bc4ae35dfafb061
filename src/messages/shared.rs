//! What senders, readers and the writer of a message log share.

use std::io;
use std::sync::OnceLock;

use arc_swap::ArcSwap;
use event_listener::Event;

use super::compact::{CompactError, Rewriting};
use super::queue::{Queue, Standing};
use super::receipt::{Nack, Pending, Receipt, Sent, cost};
use crate::clock::HubClock;
use crate::error::ReadError;
use crate::journal::{Frames, Tail};
use crate::pace::Outflow;
use crate::stack::{Node, Stack};
use crate::sync::{Arc, AtomicBool, Counter, Ordering};

/// The file, for readers.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) tail: Tail,
    /// Position of the first entry that was not dropped; before it stands at most what a compaction remembers.
    pub(super) first: u64,
}

impl Source {
    pub(super) fn frames(&self, from: u64) -> Result<Frames, ReadError> {
        if from < self.first {
            return Err(ReadError::Lagged { resume_at: self.first });
        }
        Ok(self.tail.frames(from)?)
    }
}

/// Why the log takes nothing any more.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) kind: io::ErrorKind,
    pub(super) text: String,
}

/// The counts that `Stats` shows.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) taken: Counter,
    pub(super) repeats: Counter,
    pub(super) refused: Counter,
    pub(super) groups: Counter,
    pub(super) syncs: Counter,
    pub(super) clients: Counter,
}

#[derive(Debug)]
pub(super) struct Shared {
    failure: OnceLock<Failure>,
    pub(super) queue: Queue<Pending>,
    pub(super) outflow: Outflow,
    /// Compactions that the writer is to bring to their end.
    pub(super) rewritings: Stack<Rewriting>,
    compacting: AtomicBool,
    source: ArcSwap<Source>,
    /// Notified when readers may see more.
    pub(super) news: Event,
    pub(super) clock: HubClock,
    pub(super) cap: usize,
    pub(super) counts: Counts,
}

impl Shared {
    pub(super) fn new(source: Source, clock: HubClock, cap: usize, queue_bytes: u64) -> Self {
        Self {
            failure: OnceLock::new(),
            queue: Queue::new(queue_bytes),
            outflow: Outflow::default(),
            rewritings: Stack::default(),
            compacting: AtomicBool::new(false),
            source: ArcSwap::from_pointee(source),
            news: Event::new(),
            clock,
            cap,
            counts: Counts::default(),
        }
    }

    /// Why nothing is taken, if that is so. Wait-free.
    pub(super) fn refusal(&self) -> Option<Nack> {
        let failed = |failure: &Failure| Nack::Io { kind: failure.kind };
        match self.queue.standing() {
            Standing::Open => None,
            Standing::Closing => Some(Nack::Closing),
            // It may have failed for good.
            Standing::Failed | Standing::Over => Some(self.failure.get().map_or(Nack::Closing, failed)),
        }
    }

    pub(super) fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    /// Takes nothing more from here on: what the device holds is not known. The first reason stays.
    pub(super) fn fail(&self, kind: io::ErrorKind, text: String) {
        tracing::error!(%text, "message log failed");
        // A second reason is dropped.
        let _ = self.failure.set(Failure { kind, text });
        self.queue.fail();
    }

    /// Only one compaction runs at a time.
    pub(super) fn begin_compaction(&self) -> Result<(), CompactError> {
        match self.refusal() {
            Some(Nack::Closing) => Err(CompactError::Closing),
            Some(_) => Err(CompactError::Failed),
            // ordering: Acquire; pairs with the Release in `end_compaction`, hands over the file beside the log.
            None if self.compacting.swap(true, Ordering::Acquire) => Err(CompactError::Busy),
            None => Ok(()),
        }
    }

    pub(super) fn end_compaction(&self) {
        // ordering: Release; see `begin_compaction`.
        self.compacting.store(false, Ordering::Release);
    }

    /// Takes nothing more from here on.
    pub(super) fn close(&self) {
        self.queue.close();
    }

    /// The writer is gone.
    pub(super) fn end(&self) {
        self.queue.end();
        self.refuse_all();
        self.abandon_rewritings();
        self.news.notify(usize::MAX);
    }

    pub(super) fn abandon_rewritings(&self) {
        for rewriting in self.rewritings.take_all() {
            rewriting.value.abandon();
        }
    }

    /// Nothing comes any more.
    pub(super) fn is_over(&self) -> bool {
        self.queue.standing() == Standing::Over
    }

    /// Hands a message to the writer. Lock-free; never waits.
    pub(super) fn send(&self, sent: Sent, client: u128, seq: u64, payload: &[u8]) -> Receipt {
        if let Some(nack) = self.refusal() {
            return self.refuse(nack);
        }
        if payload.len() > self.cap {
            return self.refuse(Nack::TooLong { bytes: payload.len(), cap: self.cap });
        }
        if !self.queue.reserve(cost(payload.len())) {
            self.outflow.turn_away(self.clock.now());
            return self.refuse(Nack::Overloaded { retry_after: self.outflow.time_for(self.queue.used()) });
        }
        let pending = Pending::new(sent, client, seq, self.clock.wall_ms(), payload);
        let node = Arc::new(Node::new(pending));
        self.push(Arc::clone(&node));
        Receipt::waiting(node)
    }

    fn refuse(&self, nack: Nack) -> Receipt {
        self.counts.refused.add(1);
        Receipt::refused(nack)
    }

    /// Whoever pushes is answered: by the writer, which also works off what comes while the log is closed, or here.
    pub(super) fn push(&self, node: Arc<Node<Pending>>) {
        if !self.queue.push(node) {
            self.refuse_all();
        }
    }

    pub(super) fn take_all(&self) -> Vec<Arc<Node<Pending>>> {
        self.queue.take_all()
    }

    /// Refuses whatever waits: the writer is gone.
    fn refuse_all(&self) {
        let nack = self.refusal().unwrap_or(Nack::Closing);
        for node in self.take_all() {
            self.answer(&node.value, Err(nack));
        }
    }

    /// Answers a message, and gives back what was reserved for it.
    pub(super) fn answer(&self, pending: &Pending, answer: super::receipt::Answer) {
        if answer.is_err() {
            self.counts.refused.add(1);
        }
        self.queue.give_back(pending.cost());
        pending.answer(answer);
    }

    pub(super) fn queued_bytes(&self) -> u64 {
        self.queue.used()
    }

    pub(super) fn source(&self) -> Arc<Source> {
        self.source.load_full()
    }

    pub(super) fn set_source(&self, source: Source) {
        self.source.store(Arc::new(source));
    }
}
