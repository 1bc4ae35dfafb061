//! A message log: many senders, an ACK or a NACK for each message, one file.
//!
//! The same journal that a hub stands on, usable alone. Any number of threads [`append`](Journal::append) messages; one
//! writer puts them into one file, in one order, syncs once for all that came together, and answers each: [`Ack`] with its
//! position and how durable it is, or [`Nack`] with the reason.
//!
//! ```
//! use commissary::messages::{Journal, Nack};
//!
//! let directory = tempfile::tempdir()?;
//! let journal = Journal::open(directory.path().join("log"))?;
//! let (client, first) = (7, journal.append(7, 1, b"hello"));
//! let ack = first.wait()?;
//! // Sent again, for whatever reason: the same answer, and no second message.
//! assert_eq!(journal.append(client, 1, b"hello").wait()?, ack);
//! // Number 2 never came.
//! assert_eq!(journal.append(client, 3, b"world").wait(), Err(Nack::Gap { expected: 2 }));
//!
//! for message in journal.read(journal.first())? {
//!     assert_eq!(message?.payload, b"hello");
//! }
//! journal.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Once each
//!
//! A sender names itself by 128 bits of its choice, and numbers its messages; who uses another's id is that client. A message that is sent
//! again under its number gets its first answer again, also after a crash. So whoever does not get an answer (a
//! connection broke, the machine stopped, the answer was [`Nack::Io`]) sends again until there is one. How far back this
//! goes is bounded: [`Builder::window`] and [`Builder::clients`].
//!
//! # Durability
//!
//! As [`Builder::durability`] says; by default an ACK comes after `fdatasync`. Opening reads the whole file, and checks
//! every frame. A torn tail, which is what a crash leaves of messages that were not acknowledged, is cut off; a bad frame with good ones
//! behind it is corruption, refused by position; [`salvage`] makes a new log of what is good in it. A log that was closed in order says so in
//! its last frame, so that any damage to its messages is refused. The bytes are documented in [`docs::format`](crate::docs::format), and
//! `examples/journal_reader.rs` reads them with little more than the standard library.
//!
//! # Concurrency
//!
//! Appending is lock-free and never waits; what waits to be written is bounded, beyond that the answer is
//! [`Nack::Overloaded`]. Readers go beside the writer and never hold it up.

use std::path::Path;
use std::sync::PoisonError;
use std::thread::{self, JoinHandle, ThreadId};

use serde::Serialize;

use self::compact::remember;
use self::place::Place;
use self::receipt::Sent;
use self::shared::{Lengths, Shared, Source};
use self::window::{Terms, Windows};
use self::writer::Writer;
use crate::builder::{CutTail, MemoryDisk};
use crate::clock::{Clock, HubClock, SystemClock};
use crate::device::Device;
use crate::error::{OpenError, ReadError};
use crate::journal::{Entry, FRAME_MAX, JournalError, JournalFile, Purpose, ReplayError};
use crate::service::contain;
use crate::sync::{Arc, Mutex};
use crate::ticket::Durability;

mod compact;
mod copy;
mod frame;
mod gates;
mod lookout;
mod place;
mod queue;
mod reader;
mod receipt;
mod salvage;
mod shared;
mod window;
pub mod wire;
mod writer;

pub use compact::{CompactError, Compacted, Retain};
pub use reader::{Kind, Message, Messages, Tail};
pub use receipt::{Ack, Nack, Receipt};
pub use salvage::{Lost, SalvageError, Salvaged, salvage};
pub use window::Gaps;

/// A message log. Cloning clones the handle; when the last one is dropped, the log is closed.
#[derive(Debug, Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    place: Place,
    terms: Terms,
    report: OpenReport,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// The writer's thread: there, wakers run.
    writing: ThreadId,
}

/// How a log is opened.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    durability: Durability,
    cap: usize,
    refuse_empty: bool,
    terms: Terms,
    queue_bytes: u64,
    clock: Arc<dyn Clock>,
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OpenReport {
    /// The log's first position.
    pub first: u64,
    /// Its end, after a torn tail was cut.
    pub end: u64,
    /// Entries in it.
    pub entries: u64,
    /// A torn tail that was cut off: nothing in it had been acknowledged as synced.
    pub cut: Option<CutTail>,
}

/// What a log has done since it was opened, and how it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Entries written and acknowledged.
    pub taken: u64,
    /// Messages that had been taken before, and got their answer again.
    pub repeats: u64,
    /// Messages answered with a NACK.
    pub refused: u64,
    /// Groups written: one write each.
    pub groups: u64,
    /// Syncs.
    pub syncs: u64,
    /// Clients remembered.
    pub clients: u64,
    /// Bytes that wait to be written, with what they take in memory.
    pub queued_bytes: u64,
    /// The log's first position.
    pub first: u64,
    /// Up to where it can be read.
    pub end: u64,
}

/// The log failed before it was closed: what was acknowledged is there; open it anew for the rest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log failed: {what}")]
pub struct CloseError {
    what: String,
}

/// Longest payload that can be allowed: what a frame holds, less the fields.
const CAP_MAX: usize = FRAME_MAX - 64;

impl Default for Builder {
    fn default() -> Self {
        Self {
            durability: Durability::Sync,
            cap: 256,
            refuse_empty: false,
            terms: Terms { gaps: Gaps::Strict, window: 64, clients: 65_536 },
            queue_bytes: 16 << 20,
            clock: Arc::new(SystemClock::default()),
        }
    }
}

impl Builder {
    /// How far the disk is trusted before a message is acknowledged. Default [`Durability::Sync`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Longest payload, bytes. Default 256; at most 16 MiB less 64.
    pub fn cap(mut self, bytes: usize) -> Self {
        self.cap = bytes;
        self
    }

    /// Refuses messages without a payload ([`Nack::Empty`]). Default: they are taken.
    pub fn refuse_empty(mut self) -> Self {
        self.refuse_empty = true;
        self
    }

    /// What a number means that does not follow its client's last. Default [`Gaps::Strict`].
    pub fn gaps(mut self, gaps: Gaps) -> Self {
        self.terms.gaps = gaps;
        self
    }

    /// Numbers remembered of each client: a message among its last so many that is sent again gets its answer again, an older one
    /// [`Nack::Expired`]. So it is how many messages a client may have under way without an answer. 20 to 40 bytes
    /// each. Default 64; 1 to 800,000.
    pub fn window(mut self, numbers: u32) -> Self {
        self.terms.window = numbers as usize;
        self
    }

    /// Clients remembered. One more, and the one that was silent longest is forgotten: under [`Gaps::Strict`] it would have to
    /// begin with 1 again, under [`Gaps::Loose`] what it sends again would be taken again. About 150 bytes each beside their
    /// windows. Default 65,536; at least 1.
    pub fn clients(mut self, clients: u32) -> Self {
        self.terms.clients = clients as usize;
        self
    }

    /// Memory that messages may take until they are written; beyond it they are refused with [`Nack::Overloaded`]. A message takes its
    /// payload and about 250 bytes. What alone exceeds the bound is taken when nothing else waits. Default 16 MiB.
    pub fn queue_bytes(mut self, bytes: u64) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// The source of time. Default [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Opens the log in a file; makes it if there is none. Reads and checks all of it.
    ///
    /// While a compaction runs there is a second file, named as the log with `.new` behind it. What an interrupted one left
    /// there is removed; a log of another origin that stands there is not, and opening is refused.
    ///
    /// # Errors
    ///
    /// [`OpenError::Locked`] if another has it open, [`OpenError::Journal`] if it is damaged or something else,
    /// [`OpenError::Io`], [`OpenError::Option`] for an option out of its range. Except after `Io` the file is as it was.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Journal, OpenError> {
        self.open_at(Place::File(path.as_ref().to_path_buf()))
    }

    /// Opens the log in a disk in memory, which outlives it: for tests, and for logs that need no durability.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), but nobody holds a lock.
    pub fn open_in_memory(self, disk: &MemoryDisk) -> Result<Journal, OpenError> {
        self.open_at(Place::Memory(disk.clone()))
    }

    fn check(&self) -> Result<(), OpenError> {
        let bad = |option, range| Err(OpenError::Option { option, range });
        match () {
            () if self.cap > CAP_MAX => bad("cap", "at most 16777152"),
            () if !(1..=frame::WINDOW_NUMBERS_MAX).contains(&self.terms.window) => bad("window", "1 to 800000"),
            () if self.terms.clients == 0 => bad("clients", "at least 1"),
            () => Ok(()),
        }
    }

    fn open_at(self, place: Place) -> Result<Journal, OpenError> {
        let (writer, report) = self.writer(place.clone())?;
        let shared = writer.shared();
        let writer = spawn(&shared, writer)?;
        let (terms, writing, writer) = (self.terms, writer.thread().id(), Mutex::new(Some(writer)));
        Ok(Journal { inner: Arc::new(Inner { shared, place, terms, report, writer, writing }) })
    }

    /// Opens the file, and makes its writer, which nothing drives yet.
    fn writer(&self, place: Place) -> Result<(Writer, OpenReport), OpenError> {
        self.check()?;
        let mut windows = Windows::new(self.terms);
        let Opened { log, report, resume_at, marked } = read(place.device()?, &mut windows, self.clock.wall_ms())?;
        let clock = HubClock::new(Arc::clone(&self.clock), resume_at);
        let tail = log.tail(self.durability == Durability::Sync).map_err(JournalError::Io)?;
        let source = Source { tail, first: report.first, gone: report.first };
        let shared = Arc::new(Shared::new(
            source,
            clock,
            Lengths { cap: self.cap, refuse_empty: self.refuse_empty },
            self.queue_bytes,
        ));
        Ok((Writer::new(shared, place, log, windows, self.durability, marked), report))
    }
}

/// A file that was read, and what it says.
struct Opened {
    log: JournalFile,
    report: OpenReport,
    /// The time that it ends with.
    resume_at: u64,
    /// Up to where it says itself that all is synced.
    marked: u64,
}

/// Opens the file, or begins it, and makes the windows from it.
fn read(mut device: Box<dyn Device>, windows: &mut Windows, wall_ms: i64) -> Result<Opened, OpenError> {
    if is_unfinished(device.as_mut())? {
        device.truncate(0).map_err(JournalError::Io)?;
        let log = JournalFile::create(device, Purpose::Messages, 0, wall_ms)?;
        return Ok(Opened { log, report: OpenReport::default(), resume_at: 0, marked: 0 });
    }
    let mut first = None;
    let opened = JournalFile::open(device, Purpose::Messages, 0, 0, &mut |entry: Entry<'_>| {
        if entry.kind == frame::WINDOW {
            first = Some(entry.next);
        }
        let position = entry.position;
        remember(windows, &entry).map_err(|what| OpenError::Frame { position, what: what.to_owned() })
    });
    let (log, scan) = opened.map_err(|error| match error {
        ReplayError::Journal(error) => error.into(),
        ReplayError::Visit(error) => error,
    })?;
    let report = OpenReport {
        first: first.unwrap_or(scan.base),
        end: scan.end,
        entries: scan.entries,
        cut: scan.cut.map(|cut| CutTail { position: cut.position, bytes: cut.bytes, whole_frames: cut.valid_after }),
    };
    let resume_at = scan.last_time.map_or(0, |time| time.hub_ms);
    Ok(Opened { log, report, resume_at, marked: scan.marked })
}

/// Whether there is nothing yet, or only what a creation left that was interrupted.
fn is_unfinished(device: &mut dyn Device) -> Result<bool, OpenError> {
    let bytes = device.len().map_err(JournalError::Io)?;
    Ok(bytes == 0 || JournalFile::is_headless(device)?)
}

fn spawn(shared: &Arc<Shared>, mut writer: Writer) -> Result<JoinHandle<()>, OpenError> {
    let shared = Arc::clone(shared);
    let work = move || {
        let ended = contain(|| {
            writer.run();
            writer.finish();
        });
        // The file is free when the log is over.
        drop(writer);
        if let Err(message) = ended {
            shared.fail(std::io::ErrorKind::Other, format!("the writer panicked: {message}"));
        }
        shared.end();
    };
    thread::Builder::new().name("commissary-messages".to_owned()).spawn(work).map_err(OpenError::Thread)
}

impl Journal {
    /// Opens the log in a file with the defaults; makes it if there is none.
    ///
    /// # Errors
    ///
    /// As [`Builder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::builder().open(path)
    }

    /// A way to open a log with other options.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Hands in a message of a client, under a number of the client's. It is copied.
    ///
    /// Messages of one thread stand in the log in the order in which they were handed in.
    ///
    /// # Concurrency
    ///
    /// Lock-free; never waits and touches no disk. Two allocations.
    ///
    /// # Errors
    ///
    /// The receipt says what became of it: exactly one [`Ack`] or [`Nack`].
    pub fn append(&self, client: u128, seq: u64, payload: &[u8]) -> Receipt {
        self.inner.shared.send(Sent::Message, client, seq, payload)
    }

    /// Writes down that a client's session ended. That changes nothing else: should the client come back, it goes on with
    /// its next number.
    ///
    /// # Concurrency
    ///
    /// As [`append`](Self::append).
    pub fn end_session(&self, client: u128) -> Receipt {
        self.inner.shared.send(Sent::End, client, 0, &[])
    }

    /// What opening found.
    #[must_use]
    pub fn report(&self) -> &OpenReport {
        &self.inner.report
    }

    /// The log's first position: where reading may begin.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.inner.shared.source().first
    }

    /// The position after the last message that can be read.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.inner.shared.source().tail.end()
    }

    /// The messages from a position on, up to the end as it is now. Positions are those that an [`Ack`] or a [`Message`] named, the
    /// [`first`](Self::first) and the [`end`](Self::end).
    ///
    /// # Errors
    ///
    /// [`ReadError::Lagged`] if what stood there was dropped, [`ReadError::BeyondEnd`], [`ReadError::NotAPosition`], or the
    /// file could not be read.
    pub fn read(&self, from: u64) -> Result<Messages, ReadError> {
        Messages::new(&self.inner.shared.source(), from)
    }

    /// The messages from a position on, and then those that come.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn tail(&self, from: u64) -> Result<Tail, ReadError> {
        Tail::new(&self.inner.shared, from)
    }

    /// Drops the front of the log, and what only it says is gone from the disk: writes the rest to a file beside it and
    /// renames that over it. Positions stay. It takes time in proportion to the log and room for what is kept; senders and
    /// readers go on meanwhile. What is remembered of clients is kept.
    ///
    /// Nothing is changed if the log would not get shorter.
    ///
    /// # Errors
    ///
    /// [`CompactError`]; the log is as it was.
    pub fn compact(&self, retain: Retain) -> Result<Compacted, CompactError> {
        let Inner { shared, place, terms, .. } = self.inner.as_ref();
        shared.begin_compaction()?;
        let done = compact::compact(shared, place, *terms, retain);
        shared.end_compaction();
        done
    }

    /// How the log stands. Wait-free; the figures may be of slightly different moments.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Shared { counts, .. } = self.inner.shared.as_ref();
        Stats {
            taken: counts.taken.value(),
            repeats: counts.repeats.value(),
            refused: counts.refused.value(),
            groups: counts.groups.value(),
            syncs: counts.syncs.value(),
            clients: counts.clients.value(),
            queued_bytes: self.inner.shared.queued_bytes(),
            first: self.first(),
            end: self.end(),
        }
    }

    /// Takes nothing more, writes and answers what waits, and syncs. Afterwards every receipt is answered, a compaction that was under
    /// way is over, and the file can be opened again; readers go on to its end. Closing again does nothing. Called by a
    /// receipt's waker, on the log's own thread, it does not wait for any of this.
    ///
    /// # Errors
    ///
    /// [`CloseError`] if the log failed, now or before.
    pub fn close(&self) -> Result<(), CloseError> {
        self.inner.close()
    }
}

impl Inner {
    fn close(&self) -> Result<(), CloseError> {
        self.shared.close();
        // The writer's thread cannot wait for itself, nor for one that waits for it.
        if thread::current().id() != self.writing {
            self.await_end();
        }
        self.shared.failure().map_or(Ok(()), |failure| Err(CloseError { what: failure.text.clone() }))
    }

    fn await_end(&self) {
        // Held to the end: whoever closes as well returns when the log is closed.
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = writer.take() {
            if writer.join().is_err() {
                // Its panic was contained and is the failure told by the caller.
                tracing::error!("the writer's thread ended in disorder");
            }
            self.shared.await_compaction();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "message log dropped");
        }
    }
}

#[cfg(test)]
mod faults_test;
#[cfg(test)]
mod nth_call_test;
#[cfg(test)]
mod random_faults_test;
