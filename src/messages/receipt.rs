//! The one answer that each message gets.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use atomic_waker::AtomicWaker;

use super::gates::Gates;
use super::window::Known;
use crate::service::wake;
use crate::stack::Node;
use crate::sync::{Arc, AtomicBool, OnceLock, Ordering};
use crate::ticket::Durability;

/// The message is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ack {
    /// Where it stands: for good, also after a compaction.
    pub position: u64,
    /// As durable as this says, now.
    pub durability: Durability,
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Nack {
    /// The payload is longer than [`Builder::cap`](super::Builder::cap). Nothing was written.
    #[error("message of {bytes} bytes is longer than the log's cap of {cap}")]
    TooLong {
        /// The payload's length.
        bytes: usize,
        /// The longest that is taken.
        cap: usize,
    },
    /// The payload is empty, and [`Builder::refuse_empty`](super::Builder::refuse_empty) was asked for. Nothing was written.
    #[error("message is empty, and the log refuses empty ones")]
    Empty,
    /// [`Gaps::Strict`](super::Gaps::Strict): the number does not follow the client's last. Nothing was written; send what is missing first.
    #[error("the client's next number is {expected}")]
    Gap {
        /// The number that would be taken.
        expected: u64,
    },
    /// The number is older than what is remembered of the client ([`Builder::window`](super::Builder::window)): whether it
    /// was taken is not known any more. Nothing was written.
    #[error("the number is older than the client's window, which begins with {oldest}")]
    Expired {
        /// The oldest number that is remembered, or could still be taken.
        oldest: u64,
    },
    /// Another message of this client was taken under this number. Nothing was written.
    #[error("the client's number names another message, at position {position}")]
    Differs {
        /// Where that one stands.
        position: u64,
    },
    /// So many bytes wait already ([`Builder::queue_bytes`](super::Builder::queue_bytes)). Nothing was taken; send it again later.
    #[error("too much waits to be written; try again in {retry_after:?}")]
    Overloaded {
        /// When there should be room.
        retry_after: Duration,
    },
    /// The device has no room. Nothing was written; the log goes on as soon as there is some, so send it again later.
    #[error("the device is full")]
    Full,
    /// A write or a sync failed: the message may be in the log or not, and nothing more is taken. Open the log anew, and send it
    /// again: a message that is there gets its answer, and is not written twice.
    #[error("the device failed ({kind}); whether the message was written is not known until the log is opened anew")]
    Io {
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// The log is being closed. Nothing was written.
    #[error("the log is closed")]
    Closing,
}

pub(super) type Answer = Result<Ack, Nack>;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Message,
    /// Its client's session ends.
    End,
}

/// A message on its way to the writer, and its answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) sent: Sent,
    pub(super) client: u128,
    pub(super) seq: u64,
    pub(super) wall_ms: i64,
    pub(super) crc: u32,
    pub(super) payload: Box<[u8]>,
    /// Where a thread waits for the answer.
    pub(super) gate: u32,
    claimed: AtomicBool,
    answer: OnceLock<Answer>,
    waker: AtomicWaker,
}

impl Pending {
    /// What a message takes in memory beside its payload, about.
    pub(super) const OVERHEAD: usize = size_of::<Node<Self>>() + 64;

    pub(super) fn new(sent: Sent, client: u128, seq: u64, wall_ms: i64, gate: u32, payload: &[u8]) -> Self {
        let crc = crc32fast::hash(payload);
        let (claimed, answer, waker) = (AtomicBool::new(false), OnceLock::new(), AtomicWaker::new());
        Self { sent, client, seq, wall_ms, crc, payload: payload.into(), gate, claimed, answer, waker }
    }

    /// What is reserved for it.
    pub(super) fn cost(&self) -> u64 {
        cost(self.payload.len())
    }

    /// What is remembered of it once it stands at `position`.
    pub(super) fn known(&self, position: u64) -> Known {
        Known { seq: self.seq, position, crc: self.crc }
    }

    /// Whether it is the caller who answers: true once.
    #[must_use]
    pub(super) fn claim(&self) -> bool {
        // ordering: Relaxed; the flag alone decides, and the answer is published by its cell.
        !self.claimed.swap(true, Ordering::Relaxed)
    }

    /// Answers. Only who has claimed it does.
    pub(super) fn answer(&self, answer: Answer) {
        // Nobody else has.
        let _ = self.answer.set(answer);
        wake("a receipt's", || self.waker.wake());
    }
}

/// What a message of so many bytes takes of the bytes that may wait.
pub(super) fn cost(bytes: usize) -> u64 {
    bytes.saturating_add(Pending::OVERHEAD) as u64
}

/// A message's answer, once it is there.
///
/// Every receipt is answered, once: also when the device fails, and when the log is closed. Dropping it changes nothing.
///
/// # Concurrency
///
/// [`answer`](Self::answer) is wait-free, [`wait`](Self::wait) parks the calling thread, and the receipt is a future for any runtime.
#[derive(Debug)]
#[must_use = "a message is not taken before its receipt says so"]
pub struct Receipt {
    state: State,
}

#[derive(Debug)]
enum State {
    Answered(Answer),
    Waiting(Arc<Node<Pending>>, Arc<Gates>),
}

impl Receipt {
    pub(super) fn refused(nack: Nack) -> Self {
        Self { state: State::Answered(Err(nack)) }
    }

    pub(super) fn waiting(node: Arc<Node<Pending>>, gates: Arc<Gates>) -> Self {
        Self { state: State::Waiting(node, gates) }
    }

    /// The answer, if it is there.
    #[must_use]
    pub fn answer(&self) -> Option<Result<Ack, Nack>> {
        match &self.state {
            State::Answered(answer) => Some(*answer),
            State::Waiting(node, _) => node.value.answer.get().copied(),
        }
    }

    /// Waits for the answer.
    ///
    /// # Errors
    ///
    /// [`Nack`] if the message was not taken.
    pub fn wait(self) -> Result<Ack, Nack> {
        match &self.state {
            State::Answered(answer) => *answer,
            State::Waiting(node, gates) => gates.wait(node.value.gate, || self.answer()),
        }
    }
}

impl Future for Receipt {
    type Output = Result<Ack, Nack>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(answer) = self.answer() {
            return Poll::Ready(answer);
        }
        if let State::Waiting(node, _) = &self.state {
            node.value.waker.register(context.waker());
        }
        self.answer().map_or(Poll::Pending, Poll::Ready)
    }
}
