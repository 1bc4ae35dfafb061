//! Reading a message log, while it is written and after.

use std::iter::FusedIterator;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::frame::{Body, END, MESSAGE, WINDOW};
use super::shared::{Shared, Source};
use crate::clock::utc;
use crate::error::ReadError;
use crate::journal::{Entry, Frames};
use crate::news::{whenever, within};
use crate::sync::Arc;

/// One entry of a message log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// Where it stands: what its [`Ack`](super::Ack) said.
    pub position: u64,
    /// Where to go on: the position after it.
    pub next: u64,
    /// What it is.
    pub kind: Kind,
    /// Who sent it.
    pub client: u128,
    /// Its number; of a session's end, the client's last number.
    pub seq: u64,
    /// When it was handed in, by the wall clock.
    pub at: DateTime<Utc>,
    /// What was sent; empty for a session's end.
    pub payload: Vec<u8>,
}

/// What an entry of a message log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A message.
    Message,
    /// The client's session ended: [`Journal::end_session`](super::Journal::end_session).
    End,
}

/// What an entry says; nothing if it is not for readers.
fn message(entry: &Entry<'_>) -> Result<Option<Message>, ReadError> {
    let kind = match entry.kind {
        MESSAGE => Kind::Message,
        END => Kind::End,
        WINDOW => return Ok(None),
        kind => return Err(unreadable(entry.position, &format!("kind {kind} is not known"))),
    };
    let Body { client, seq, wall_ms, payload } =
        Body::decode(entry.body).ok_or_else(|| unreadable(entry.position, "the entry is too short"))?;
    let (position, next, at) = (entry.position, entry.next, utc(wall_ms));
    Ok(Some(Message { position, next, kind, client, seq, at, payload: payload.to_vec() }))
}

fn unreadable(position: u64, what: &str) -> ReadError {
    ReadError::Record { position, what: what.to_owned() }
}

/// The next message among these frames.
fn next_message(frames: &mut Frames) -> Result<Option<Message>, ReadError> {
    while let Some(entry) = frames.next()? {
        if let Some(found) = message(&entry)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The messages from a position up to what was the end when it was made, in their order.
///
/// It ends after an error. A compaction meanwhile does not disturb it.
///
/// # Concurrency
///
/// Reads the file; takes no lock, and holds no writer up. It keeps about 256 KiB in memory, or one message if that is longer.
#[derive(Debug)]
pub struct Messages {
    frames: Option<Frames>,
}

impl Messages {
    pub(super) fn new(source: &Source, from: u64) -> Result<Self, ReadError> {
        Ok(Self { frames: Some(source.frames(from)?) })
    }
}

impl Iterator for Messages {
    type Item = Result<Message, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = next_message(self.frames.as_mut()?).transpose();
        if !matches!(found, Some(Ok(_))) {
            self.frames = None;
        }
        found
    }
}

impl FusedIterator for Messages {}

/// Follows a log: what is there, then what comes, in order and without a hole, at its own pace.
///
/// It sees a message once that is as durable as the log's [`Durability`](crate::Durability) promises. One that falls behind
/// a compaction goes on in the old file up to where that ended; only if what it needs next is gone by then, it answers
/// [`ReadError::Lagged`], once, and goes on where the log begins.
///
/// # Concurrency
///
/// As [`Messages`]; the file that it reads stays on the disk until it is through, also after a compaction. As an iterator,
/// and with [`next_async`](Self::next_async), it waits for what comes, and ends when the log is closed.
#[derive(Debug)]
pub struct Tail {
    shared: Arc<Shared>,
    source: Arc<Source>,
    frames: Frames,
}

impl Tail {
    pub(super) fn new(shared: &Arc<Shared>, from: u64) -> Result<Self, ReadError> {
        let source = shared.source();
        let frames = source.frames(from)?;
        Ok(Self { shared: Arc::clone(shared), source, frames })
    }

    /// Where it goes on.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.frames.position()
    }

    /// The next message, if there is one now.
    ///
    /// # Errors
    ///
    /// [`ReadError::Lagged`] as above; otherwise the file could not be read, or was damaged since it was opened, and the next call
    /// tries again at the same place.
    pub fn try_next(&mut self) -> Result<Option<Message>, ReadError> {
        loop {
            if let Some(found) = next_message(&mut self.frames)? {
                return Ok(Some(found));
            }
            if !self.go_on()? {
                return Ok(None);
            }
        }
    }

    /// Looks for more behind the end of what was seen.
    fn go_on(&mut self) -> Result<bool, ReadError> {
        if self.source.tail.extend(&mut self.frames) {
            return Ok(true);
        }
        let now = self.shared.source();
        if Arc::ptr_eq(&now, &self.source) {
            return Ok(false);
        }
        // A compaction took effect before the end was looked at again: what the old file got last is seen now.
        if self.source.tail.extend(&mut self.frames) {
            return Ok(true);
        }
        let from = self.frames.position();
        let lagged = if now.has_lost(from) { Err(ReadError::Lagged { resume_at: now.first }) } else { Ok(true) };
        self.frames = now.frames(now.resume_at(from))?;
        self.source = now;
        lagged
    }

    /// The next message; waits for it, at most so long. `None`: nothing came, or the log was closed and all of it was seen.
    ///
    /// # Errors
    ///
    /// As [`try_next`](Self::try_next).
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<Message>, ReadError> {
        let shared = Arc::clone(&self.shared);
        within(&shared.news, timeout, || shared.is_over(), || self.try_next())
    }

    /// The next message; waits for it. `None`: the log was closed, and all of it was seen.
    ///
    /// # Errors
    ///
    /// As [`try_next`](Self::try_next).
    pub async fn next_async(&mut self) -> Result<Option<Message>, ReadError> {
        let shared = Arc::clone(&self.shared);
        whenever(&shared.news, || shared.is_over(), || self.try_next()).await
    }
}

impl Iterator for Tail {
    type Item = Result<Message, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_within(Duration::MAX).transpose()
    }
}
