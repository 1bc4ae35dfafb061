//! What senders, readers and the writer of a message log share.

use std::io;

use arc_swap::ArcSwap;

use super::compact::{CompactError, Rewriting};
use super::gates::Gates;
use super::queue::{Queue, Standing};
use super::receipt::{Nack, Pending, Receipt, Sent, cost};
use crate::clock::HubClock;
use crate::error::ReadError;
use crate::journal::{Frames, Tail};
use crate::pace::Outflow;
use crate::stack::{Node, Stack};
use crate::sync::event_listener::{Event, Listener as _};
use crate::sync::{Arc, AtomicBool, Counter, OnceLock, Ordering};

/// The file, for readers.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) tail: Tail,
    /// Position of the first entry that was not dropped; before it stands at most what a compaction remembers.
    pub(super) first: u64,
    /// The position behind the last entry that was dropped: between it and `first` was none.
    pub(super) gone: u64,
}

impl Source {
    /// The first position at or behind `from` that is there.
    pub(super) fn resume_at(&self, from: u64) -> u64 {
        from.max(self.first)
    }

    /// Whether something stood at or behind `from` that is not there any more.
    pub(super) fn has_lost(&self, from: u64) -> bool {
        from < self.gone
    }

    pub(super) fn frames(&self, from: u64) -> Result<Frames, ReadError> {
        if self.has_lost(from) {
            return Err(ReadError::Lagged { resume_at: self.first });
        }
        Ok(self.tail.frames(self.resume_at(from))?)
    }
}

/// Which payloads are taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lengths {
    pub(super) cap: usize,
    pub(super) refuse_empty: bool,
}

impl Lengths {
    fn refusal(self, sent: Sent, bytes: usize) -> Option<Nack> {
        let Self { cap, refuse_empty } = self;
        if bytes > cap {
            return Some(Nack::TooLong { bytes, cap });
        }
        (refuse_empty && bytes == 0 && sent == Sent::Message).then_some(Nack::Empty)
    }
}

/// Why the log takes nothing any more.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) kind: io::ErrorKind,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn nack(&self) -> Nack {
        Nack::Io { kind: self.kind }
    }
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
    pub(super) gates: Arc<Gates>,
    pub(super) outflow: Outflow,
    /// Compactions that the writer is to bring to their end.
    pub(super) rewritings: Stack<Rewriting>,
    compacting: AtomicBool,
    source: ArcSwap<Source>,
    /// Notified when readers may see more.
    pub(super) news: Event,
    pub(super) clock: HubClock,
    lengths: Lengths,
    pub(super) counts: Counts,
}

impl Shared {
    pub(super) fn new(source: Source, clock: HubClock, lengths: Lengths, queue_bytes: u64) -> Self {
        Self {
            failure: OnceLock::new(),
            queue: Queue::new(queue_bytes),
            gates: Arc::default(),
            outflow: Outflow::default(),
            rewritings: Stack::default(),
            compacting: AtomicBool::new(false),
            source: ArcSwap::from_pointee(source),
            news: Event::new(),
            clock,
            lengths,
            counts: Counts::default(),
        }
    }

    /// Why nothing is taken, if that is so. Wait-free.
    pub(super) fn refusal(&self) -> Option<Nack> {
        match self.queue.standing() {
            Standing::Open => None,
            Standing::Closing => Some(Nack::Closing),
            // It may have failed for good.
            Standing::Failed | Standing::Over => Some(self.failure.get().map_or(Nack::Closing, Failure::nack)),
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

    /// Only one compaction runs at a time, and none begins in a log that is closed.
    pub(super) fn begin_compaction(&self) -> Result<(), CompactError> {
        // ordering: SeqCst; hands over the file beside the log from `end_compaction`, and comes before the look at the status:
        // either that finds the log closed, or `await_compaction` finds this.
        if self.compacting.swap(true, Ordering::SeqCst) {
            return Err(CompactError::Busy);
        }
        let refusal = match self.refusal() {
            None => return Ok(()),
            Some(Nack::Closing) => CompactError::Closing,
            Some(_) => CompactError::Failed,
        };
        self.end_compaction();
        Err(refusal)
    }

    pub(super) fn end_compaction(&self) {
        // ordering: SeqCst; see `begin_compaction` and `await_compaction`.
        self.compacting.store(false, Ordering::SeqCst);
        self.news.notify(usize::MAX);
    }

    /// Waits for a compaction that is under way. Only in a log that is closed: it begins no other.
    pub(super) fn await_compaction(&self) {
        loop {
            let listener = self.news.listen();
            // ordering: SeqCst; seen set, it is followed by the notification that is listened for.
            if !self.compacting.load(Ordering::SeqCst) {
                return;
            }
            listener.wait();
        }
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
        if let Some(nack) = self.lengths.refusal(sent, payload.len()) {
            return self.refuse(nack);
        }
        if !self.queue.reserve(cost(payload.len())) {
            self.outflow.turn_away(self.clock.now());
            return self.refuse(Nack::Overloaded { retry_after: self.outflow.time_for(self.queue.used()) });
        }
        let pending = Pending::new(sent, client, seq, self.clock.wall_ms(), self.gates.current(), payload);
        let node = Arc::new(Node::new(pending));
        self.push(&node);
        Receipt::waiting(node, Arc::clone(&self.gates))
    }

    fn refuse(&self, nack: Nack) -> Receipt {
        self.counts.refused.add(1);
        Receipt::refused(nack)
    }

    pub(super) fn push(&self, node: &Arc<Node<Pending>>) {
        // Only this one is answered here: who waits for another's answer does not wait for this thread.
        if !self.queue.push(Arc::clone(node)) {
            self.answer(&node.value, Err(self.refusal().unwrap_or(Nack::Closing)));
            self.gates.open();
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
        self.gates.open();
    }

    /// Answers a message, and gives back what was reserved for it. Only the first answer counts. A thread that waits for it
    /// is woken when the gates are opened, which must follow.
    pub(super) fn answer(&self, pending: &Pending, answer: super::receipt::Answer) {
        if !pending.claim() {
            return;
        }
        if answer.is_err() {
            self.counts.refused.add(1);
        }
        self.queue.give_back(pending.cost());
        pending.answer(answer);
        self.gates.note(pending.gate);
    }

    pub(super) fn queued_bytes(&self) -> u64 {
        self.queue.used()
    }

    pub(super) fn source(&self) -> Arc<Source> {
        self.source.load_full()
    }

    pub(super) fn set_source(&self, source: Source) {
        self.source.store(Arc::new(source));
        // Those who wait leave the old one.
        self.news.notify(usize::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::device::MemoryDevice;
    use crate::journal::{JournalFile, Purpose};

    fn shared() -> Shared {
        let file = JournalFile::create(Box::new(MemoryDevice::new()), Purpose::Messages, 0, 0).unwrap();
        let source = Source { tail: file.tail(true).unwrap(), first: 0, gone: 0 };
        Shared::new(
            source,
            HubClock::new(Arc::new(SystemClock::default()), 0),
            Lengths { cap: 256, refuse_empty: false },
            10_000,
        )
    }

    /// A sender that has looked whether the log takes anything, and not yet handed in its message.
    fn late(shared: &Shared) -> (Arc<Node<Pending>>, Receipt) {
        assert!(shared.queue.reserve(cost(1)));
        let node = Arc::new(Node::new(Pending::new(Sent::Message, 1, 1, 0, 0, b"x")));
        (Arc::clone(&node), Receipt::waiting(node, Arc::clone(&shared.gates)))
    }

    /// R106: a sender that is late answers for nobody else: what waits is the writer's until the log is over, and each receipt is answered
    /// when its append or the closing returns.
    #[test]
    fn a_late_sender_answers_only_itself() {
        let shared = shared();
        let waiting = shared.send(Sent::Message, 1, 1, b"x");
        let [(second, of_second), (third, of_third)] = [late(&shared), late(&shared)];
        shared.close();
        shared.push(&second);
        assert_eq!((waiting.answer(), of_second.answer()), (None, None), "the writer's");
        shared.end();
        let closing = Some(Err(Nack::Closing));
        assert_eq!((waiting.answer(), of_second.answer()), (closing, closing));
        shared.push(&third);
        assert_eq!(of_third.answer(), closing);
        assert_eq!(shared.send(Sent::Message, 1, 2, b"x").answer(), closing);
        shared.refuse_all();
        assert_eq!((shared.counts.refused.value(), shared.queued_bytes()), (4, 0), "each is counted once");
    }
}
