//! Compaction: drops the front of a log, by writing the rest to a file beside it and renaming that over it.
//!
//! Every message that is kept keeps its position, so readers and acknowledgements go on to mean the same. What is remembered of
//! the clients whose messages are dropped stands before them, in the place of what was dropped: so the new file's base is the
//! first kept position less the length of that.

use std::io;
use std::sync::PoisonError;
use std::time::Duration;

use serde::Serialize;

use super::copy::Copy;
use super::frame::{Body, MESSAGE, WINDOW, WindowBody};
use super::place::Place;
use super::shared::{Shared, Source};
use super::window::{Known, Terms, Windows};
use crate::clock::millis;
use crate::error::{OpenError, ReadError};
use crate::journal::{Entry, Frames, GROUP_FRAME, Group, GroupTime, JournalError, JournalFile, Purpose, Tail};
use crate::stack::Node;
use crate::sync::{Arc, Mutex, mpsc};
use crate::ticket::CLASS_SYNC;

/// Bytes of one group of what is remembered, about.
const GROUP_BYTES: usize = 256 << 10;
/// Bytes behind the end that the writer copies itself, at most, unless senders are faster than the copying.
const REST_BYTES: u64 = 1 << 20;
/// Times that the copying goes after the end before it hands the rest to the writer.
const ROUNDS: usize = 8;

/// What a compaction keeps: whole groups, hence a little more or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retain {
    /// What stands at this position, and all behind it.
    From(u64),
    /// The last so many bytes of the file, at most.
    Bytes(u64),
    /// What was written in the time until now, by the wall clock.
    For(Duration),
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Compacted {
    /// The log's first position now.
    pub first: u64,
    /// The file's length before.
    pub bytes_before: u64,
    /// Its length after; the same if there was nothing to gain.
    pub bytes_after: u64,
}

/// Why a compaction did not take effect. The log is as it was, and goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// Another one is under way.
    #[error("another compaction is under way")]
    Busy,
    /// The log failed, before or meanwhile: see [`Nack::Io`](super::Nack::Io).
    #[error("the log has failed; open it anew")]
    Failed,
    /// The log was closed, before or meanwhile.
    #[error("the log is closed")]
    Closing,
    /// [`Retain::From`]: the log does not reach so far.
    #[error("position {position} is beyond the log's end, {end}")]
    BeyondEnd {
        /// The position given.
        position: u64,
        /// Where the log ends.
        end: u64,
    },
    /// The log could not be read, or is damaged.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file beside it could not be made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The file beside it could not be written.
    #[error("cannot write the compacted log: {0}")]
    Write(#[from] io::Error),
}

impl From<JournalError> for CompactError {
    fn from(error: JournalError) -> Self {
        Self::Read(error.into())
    }
}

/// A log that is being written anew.
#[derive(Debug)]
pub(super) struct Rewrite {
    copy: Copy,
    old: Tail,
    frames: Frames,
    cut: Cut,
    bytes_before: u64,
}

/// A log that is written anew but for the last stretch, which is the writer's.
#[derive(Debug)]
pub(super) struct Rewriting {
    rewrite: Mutex<Option<Rewrite>>,
    done: mpsc::Sender<Result<Compacted, CompactError>>,
}

/// What a compaction comes to before the writer takes part.
enum Prepared {
    /// It would gain nothing.
    Unchanged(Compacted),
    Rewrite(Box<Rewrite>),
}

/// A compaction whose caller's part is done.
pub(super) enum Started {
    Unchanged(Compacted),
    /// The writer is to answer.
    Rewriting(mpsc::Receiver<Result<Compacted, CompactError>>),
}

/// Compacts a log, on the caller's thread but for the end of it.
pub(super) fn compact(shared: &Shared, place: &Place, terms: Terms, retain: Retain) -> Result<Compacted, CompactError> {
    start(shared, place, terms, retain)?.wait(place)
}

pub(super) fn start(shared: &Shared, place: &Place, terms: Terms, retain: Retain) -> Result<Started, CompactError> {
    let rewrite = match prepare(shared, place, terms, retain)? {
        Prepared::Unchanged(compacted) => return Ok(Started::Unchanged(compacted)),
        Prepared::Rewrite(rewrite) => rewrite,
    };
    let (done, answer) = mpsc::channel();
    let rewriting = Rewriting { rewrite: Mutex::new(Some(*rewrite)), done };
    shared.rewritings.push(Arc::new(Node::new(rewriting)));
    shared.queue.signal.raise();
    // The writer may have ended since this began. Either its last look finds it, or this does.
    if shared.is_over() {
        shared.abandon_rewritings();
    }
    Ok(Started::Rewriting(answer))
}

impl Started {
    pub(super) fn wait(self, place: &Place) -> Result<Compacted, CompactError> {
        match self {
            Self::Unchanged(compacted) => Ok(compacted),
            Self::Rewriting(answer) => {
                // Without an answer the writer panicked.
                let answer = answer.recv().unwrap_or(Err(CompactError::Failed));
                answer.inspect_err(|_| place.discard_fresh())
            }
        }
    }
}

/// Does what can be done beside the writer.
fn prepare(shared: &Shared, place: &Place, terms: Terms, retain: Retain) -> Result<Prepared, CompactError> {
    let source = shared.source();
    let old = source.tail.unsynced();
    let cut = find_cut(&old, &source, retain, shared.clock.wall_ms())?;
    let (groups, length) = remembered(&windows_at(&old, cut.at, terms)?, shared.clock.stamp())?;
    let bytes_before = old.bytes();
    // The new file ends with a seal, before which there is a group.
    let added = if length == 0 && cut.at == old.end() { 2 * GROUP_FRAME } else { GROUP_FRAME };
    let base = cut.at.checked_sub(length).filter(|base| *base > old.base().saturating_add(added));
    let Some(base) = base.filter(|_| cut.at > source.first) else {
        let unchanged = Compacted { first: source.first, bytes_before, bytes_after: bytes_before };
        return Ok(Prepared::Unchanged(unchanged));
    };
    let device = place.fresh()?;
    let rewrite = begin(device, base, cut, groups, old, bytes_before, shared).and_then(|mut rewrite| {
        rewrite.catch_up(shared)?;
        Ok(rewrite)
    });
    let rewrite = rewrite.inspect_err(|_| place.discard_fresh())?;
    Ok(Prepared::Rewrite(Box::new(rewrite)))
}

/// What is dropped.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// The position behind the last entry that is.
    gone: u64,
    /// The start of the first group that is not.
    at: u64,
}

/// Where to cut.
fn find_cut(old: &Tail, source: &Source, retain: Retain, now_ms: i64) -> Result<Cut, CompactError> {
    let end = old.end();
    if let Retain::From(position) = retain
        && position > end
    {
        return Err(CompactError::BeyondEnd { position, end });
    }
    let mut frames = old.frames(source.first).map_err(ReadError::from)?;
    let mut next = source.first;
    let mut last = Cut { gone: source.gone, at: source.first };
    while let Some(Entry { position, next: after, time, .. }) = frames.next()? {
        let before = std::mem::replace(&mut next, after);
        if position == before {
            continue;
        }
        let group = Cut { gone: before, at: position.saturating_sub(GROUP_FRAME) };
        let keeps = match retain {
            Retain::From(wanted) if group.at > wanted => return Ok(last),
            Retain::From(_) => false,
            Retain::Bytes(bytes) => group.at >= end.saturating_sub(bytes),
            Retain::For(time_kept) => {
                let kept_ms = i64::try_from(millis(time_kept)).unwrap_or(i64::MAX);
                time.wall_ms >= now_ms.saturating_sub(kept_ms)
            }
        };
        if keeps {
            return Ok(group);
        }
        last = group;
    }
    let keeps_last = matches!(retain, Retain::From(wanted) if wanted < end);
    Ok(if keeps_last { last } else { Cut { gone: next, at: frames.position() } })
}

/// What is remembered of the clients where the entries before `cut` end.
fn windows_at(old: &Tail, cut: u64, terms: Terms) -> Result<Windows, CompactError> {
    let mut windows = Windows::new(terms);
    let mut frames = old.frames(old.base()).map_err(ReadError::from)?;
    while let Some(entry) = frames.next()?.filter(|entry| entry.position < cut) {
        remember(&mut windows, &entry).map_err(|what| {
            CompactError::Read(ReadError::Record { position: entry.position, what: what.to_owned() })
        })?;
    }
    Ok(windows)
}

/// What an entry means for what is remembered: the same when a log is opened.
pub(super) fn remember(windows: &mut Windows, entry: &Entry<'_>) -> Result<(), &'static str> {
    const SHORT: &str = "the entry is too short, or its fields contradict each other";
    match entry.kind {
        MESSAGE => {
            let Body { client, seq, payload, .. } = Body::decode(entry.body).ok_or(SHORT)?;
            windows.take(client, Known { seq, position: entry.position, crc: crc32fast::hash(payload) });
        }
        WINDOW => windows.restore(WindowBody::decode(entry.body).ok_or(SHORT)?),
        super::frame::END => drop(Body::decode(entry.body).ok_or(SHORT)?),
        _ => return Err("the entry's kind is not known"),
    }
    Ok(())
}

/// Groups with what is remembered, and their length.
fn remembered(windows: &Windows, time: GroupTime) -> Result<(Vec<Group>, u64), CompactError> {
    let mut groups: Vec<Group> = Vec::new();
    for body in windows.bodies() {
        if groups.last().is_none_or(|group| group.bytes() >= GROUP_BYTES) {
            let mut group = Group::new();
            group.begin(time, CLASS_SYNC);
            groups.push(group);
        }
        if let Some(group) = groups.last_mut() {
            group.push(WINDOW, 0, |out| body.append_to(out)).map_err(io::Error::other)?;
        }
    }
    let length = groups.iter().map(|group| group.bytes() as u64).sum();
    Ok((groups, length))
}

fn begin(
    device: Box<dyn crate::device::Device>,
    base: u64,
    cut: Cut,
    groups: Vec<Group>,
    old: Tail,
    bytes_before: u64,
    shared: &Shared,
) -> Result<Rewrite, CompactError> {
    let log = JournalFile::refound(device, Purpose::Messages, base, shared.clock.wall_ms());
    let mut log = log.map_err(|error| match error {
        JournalError::Io(error) => CompactError::Write(error),
        error => error.into(),
    })?;
    for mut group in groups {
        log.put(&mut group)?;
    }
    let frames = old.frames(cut.at).map_err(ReadError::from)?;
    Ok(Rewrite { copy: Copy::new(log), old, frames, cut, bytes_before })
}

impl Rewrite {
    /// Copies until little is left, and has what was copied on the device, so that senders wait for the rest alone.
    fn catch_up(&mut self, shared: &Shared) -> Result<(), CompactError> {
        for _ in 0..ROUNDS {
            self.copy(shared)?;
            if self.old.end().saturating_sub(self.frames.position()) < REST_BYTES {
                break;
            }
        }
        Ok(self.copy.write_back()?)
    }

    /// Copies up to the end, group by group: each frame to its own position.
    fn copy(&mut self, shared: &Shared) -> Result<(), CompactError> {
        self.old.extend(&mut self.frames);
        loop {
            if shared.is_over() {
                return Err(CompactError::Closing);
            }
            let at = self.copy.position();
            let Some(entry) = self.frames.next()? else { break };
            if self.copy.put(&entry, entry.position.saturating_sub(at))? != entry.position {
                let what = "a frame is not where it should be";
                return Err(JournalError::Corrupt { position: entry.position, what }.into());
            }
        }
        let rest = self.frames.position().saturating_sub(self.copy.position());
        Ok(self.copy.end(rest)?)
    }
}

impl Rewriting {
    /// Copies what is left, and puts the new file in the old one's place. The writer's: nothing is written meanwhile. True if `log` is
    /// the new file now.
    pub(super) fn finish(&self, log: &mut JournalFile, place: &Place, shared: &Shared) -> bool {
        let rewrite = self.rewrite.lock().unwrap_or_else(PoisonError::into_inner).take();
        let finished = match rewrite {
            Some(rewrite) if shared.failure().is_none() => rewrite.finish(log, place, shared),
            _ => Err(CompactError::Failed),
        };
        let took_effect = finished.is_ok();
        // Whoever waits for it may be gone.
        let _ = self.done.send(finished);
        took_effect
    }

    /// Nobody brings it to its end any more.
    pub(super) fn abandon(&self) {
        // Whoever waits for it may be gone.
        let _ = self.done.send(Err(CompactError::Closing));
    }
}

impl Rewrite {
    fn finish(mut self, log: &mut JournalFile, place: &Place, shared: &Shared) -> Result<Compacted, CompactError> {
        self.copy(shared)?;
        let mut fresh = self.copy.into_log();
        fresh.seal(shared.clock.stamp(), CLASS_SYNC)?;
        let tail = fresh.tail(shared.source().tail.is_synced_only())?;
        let (bytes_before, bytes_after) = (self.bytes_before, tail.bytes());
        place.rename(fresh.device_mut())?;
        // From here on the name is the new file's: it takes what comes.
        *log = fresh;
        let Cut { gone, at: first } = self.cut;
        shared.set_source(Source { tail, first, gone });
        if let Err(error) = place.sync_name() {
            // The name may be the old file's again after a power cut.
            shared.fail(error.kind(), format!("syncing the log's directory: {error}"));
            return Err(CompactError::Failed);
        }
        Ok(Compacted { first, bytes_before, bytes_after })
    }
}

#[cfg(test)]
#[path = "compact_test.rs"]
mod tests;
