//! The journal: one file that only grows, in which every change is written before it counts.
//!
//! It knows frames, groups of frames and positions, and nothing of what the frames mean. The format, and the rules by
//! which a torn tail is told from corruption, are in `docs/format.md`.

use std::fmt::Debug;
use std::io;

use crate::FORMAT_VERSION;
use crate::clock::HUB_MS_MAX;
use crate::device::{Device, ReadAt};
use crate::sync::Arc;

pub(crate) use self::salvage::{Piece, Salvage};
use self::tail::Published;
pub(crate) use self::tail::{Frames, SeekError, Tail};

mod salvage;
mod tail;
#[cfg(test)]
#[path = "journal_test.rs"]
mod tests;

/// Longest payload of one frame in bytes.
pub(crate) const FRAME_MAX: usize = 16 << 20;

const MAGIC: &[u8; 8] = b"CMSRYJNL";
const FRAME_VERSION: u8 = 1;

/// Length of the file's header.
const HEADER: usize = 32;
/// Length of what stands before a frame's payload: length, previous, checksum.
const HEAD: usize = 12;
/// Length of what stands before the body in a payload: version, kind, pallet. No payload is shorter.
const PREFIX: usize = 6;

/// The frame that begins every group.
const KIND_GROUP: u8 = 0;
/// Length of a group frame's payload; the same for as long as the file's format version is the same.
const GROUP_PAYLOAD: usize = PREFIX + 8 + 8 + 8 + 1;
/// Length of a group frame in the file.
pub(crate) const GROUP_FRAME: u64 = (HEAD + GROUP_PAYLOAD) as u64;
/// Where `synced_to` stands in a group frame.
const GROUP_SYNCED_TO: std::ops::Range<usize> = HEAD + PREFIX..HEAD + PREFIX + 8;

/// In the header's flags: the file was begun with everything that came before it, and sealed when that was whole.
const FLAG_REFOUNDED: u16 = 1;
/// In the header's flags: the entries are messages.
const FLAG_MESSAGES: u16 = 2;

/// Least that is read from the device at once.
const READ_MIN: usize = 256 << 10;
/// Most that the search behind a bad frame spends on frames that are only counted. Without it, bytes made for the
/// purpose would have a 16 MiB checksum computed at every one of them.
const COUNTED_BYTES_MAX: u64 = 256 << 20;
/// What a group's buffer keeps of its memory for the next group.
const GROUP_KEPT_MAX: usize = 32 << 20;

/// Whose entries a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A hub's changes. The store remembers up to where the file was durable.
    Hub,
    /// Messages. Nothing but the file itself knows what was acknowledged: a bad frame with good ones behind it is corruption.
    Messages,
}

impl Purpose {
    fn flag(self) -> u16 {
        match self {
            Self::Hub => 0,
            Self::Messages => FLAG_MESSAGES,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Hub => "a hub's journal",
            Self::Messages => "a message log",
        }
    }
}

/// When a group was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupTime {
    /// Milliseconds of the hub's own clock, which never runs backwards.
    pub(crate) hub_ms: u64,
    /// Milliseconds since 1970 by the machine's clock.
    pub(crate) wall_ms: i64,
}

/// An entry that does not fit in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("entry of {bytes} bytes is longer than the journal's limit of {limit}")]
pub(crate) struct FrameTooLong {
    pub(crate) bytes: usize,
    pub(crate) limit: usize,
}

/// The changes of one group, encoded; reused from group to group.
#[derive(Debug)]
pub(crate) struct Group {
    time: GroupTime,
    /// Whole frames; `previous`, `checksum` and `synced_to` are filled in by the append, which alone knows them.
    buf: Vec<u8>,
    frames: usize,
}

impl Group {
    /// Returns a group without entries, begun at time 0.
    pub(crate) fn new() -> Group {
        let time = GroupTime { hub_ms: 0, wall_ms: 0 };
        let mut group = Group { time, buf: Vec::new(), frames: 0 };
        group.begin(time, 0);
        group
    }

    /// Drops every entry, and begins anew. `class` is the caller's and means nothing here.
    pub(crate) fn begin(&mut self, time: GroupTime, class: u8) {
        self.time = time;
        self.buf.clear();
        self.buf.shrink_to(GROUP_KEPT_MAX);
        self.frames = 0;
        let fits = self.frame(KIND_GROUP, 0, |buf| {
            buf.extend_from_slice(&0_u64.to_be_bytes());
            buf.extend_from_slice(&time.hub_ms.to_be_bytes());
            buf.extend_from_slice(&time.wall_ms.to_be_bytes());
            buf.push(class);
        });
        debug_assert!(fits.is_ok(), "a group frame of {GROUP_PAYLOAD} bytes fits");
    }

    /// Adds an entry; `write` appends its body to the buffer and leaves alone what is already there. Returns the
    /// offset of the entry's frame from the group's start. On an error the group is as before.
    ///
    /// # Panics
    ///
    /// When `kind` is 0, which is the group's own.
    pub(crate) fn push(
        &mut self,
        kind: u8,
        pallet: u32,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<u64, FrameTooLong> {
        assert_ne!(kind, KIND_GROUP, "kind 0 is the group frame's");
        self.frame(kind, pallet, write)
    }

    fn frame(&mut self, kind: u8, pallet: u32, write: impl FnOnce(&mut Vec<u8>)) -> Result<u64, FrameTooLong> {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; HEAD]);
        self.buf.extend_from_slice(&[FRAME_VERSION, kind]);
        self.buf.extend_from_slice(&pallet.to_be_bytes());
        write(&mut self.buf);
        debug_assert!(self.buf.len() >= start + HEAD + PREFIX, "a body is appended, nothing is taken away");
        let bytes = self.buf.len().saturating_sub(start + HEAD);
        let len = u32::try_from(bytes).ok().filter(|_| bytes <= FRAME_MAX);
        let head = self.buf.get_mut(start..).and_then(|frame| frame.first_chunk_mut::<HEAD>());
        let (Some(len), Some(head)) = (len, head) else {
            self.buf.truncate(start);
            return Err(FrameTooLong { bytes, limit: FRAME_MAX });
        };
        *head = Head { len, previous: 0, checksum: 0 }.encode();
        self.frames += 1;
        Ok(start as u64)
    }

    /// When it was begun.
    pub(crate) fn time(&self) -> GroupTime {
        self.time
    }

    /// Whether the group has no entries.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.frames <= 1
    }

    /// Returns the number of frames, the group's own among them.
    #[cfg(test)]
    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    /// Returns the length of all frames, the group's own among them.
    pub(crate) fn bytes(&self) -> usize {
        self.buf.len()
    }

    /// Returns offset from the group's start, kind, pallet and body of every entry.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, u8, u32, &[u8])> {
        let mut rest = self.buf.as_slice();
        let frames = std::iter::from_fn(move || {
            let offset = (self.buf.len() - rest.len()) as u64;
            let (head, tail) = rest.split_first_chunk::<HEAD>()?;
            let (payload, after) = tail.split_at_checked(Head::decode(head).payload_len())?;
            rest = after;
            let payload = Payload::decode(payload)?;
            Some((offset, payload.kind, payload.pallet, payload.body))
        });
        frames.filter(|&(_, kind, _, _)| kind != KIND_GROUP)
    }

    /// Fills in what depends on the place in the file; returns the last frame's checksum.
    fn seal(&mut self, previous: u32, synced_to: u64) -> u32 {
        if let Some(field) = self.buf.get_mut(GROUP_SYNCED_TO) {
            field.copy_from_slice(&synced_to.to_be_bytes());
        }
        let mut previous = previous;
        let mut rest = self.buf.as_mut_slice();
        while let Some((head, tail)) = rest.split_first_chunk_mut::<HEAD>() {
            let len = Head::decode(head).len;
            let Some((payload, after)) = tail.split_at_mut_checked(len as usize) else {
                break;
            };
            let checksum = checksum(len, previous, payload);
            *head = Head { len, previous, checksum }.encode();
            previous = checksum;
            rest = after;
        }
        previous
    }
}

/// What became of a group: three-valued, since a log behind a network cannot always know.
#[must_use]
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All of it is in the log, from position `start` up to `end`.
    Applied { start: u64, end: u64 },
    /// Nothing of it is in the log.
    Refused(io::Error),
    /// It may be in the log whole, in part or not at all.
    Unknown(io::Error),
}

/// Where groups of changes go to become durable.
pub(crate) trait Log: Send + Debug {
    /// Writes the group at the end. It is durable only after the next `sync`.
    fn append(&mut self, group: &mut Group) -> Outcome;

    /// Returns when everything appended is durable.
    fn sync(&mut self) -> io::Result<()>;

    /// Returns the position after the last group that was applied.
    fn end(&self) -> u64;

    /// Returns the position up to which everything is durable.
    fn synced(&self) -> u64;
}

/// One entry as it was read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// Position of the entry's frame.
    pub(crate) position: u64,
    /// Position after it.
    pub(crate) next: u64,
    /// When its group was written.
    pub(crate) time: GroupTime,
    /// The class its group was written with.
    pub(crate) class: u8,
    pub(crate) kind: u8,
    pub(crate) pallet: u32,
    pub(crate) body: &'a [u8],
}

/// What opening found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Position of the first frame in the file: what came before it is not in this file.
    pub(crate) base: u64,
    /// Position after the last good frame.
    pub(crate) end: u64,
    /// Entries in the file, whether or not they were visited.
    pub(crate) entries: u64,
    pub(crate) groups: u64,
    pub(crate) last_time: Option<GroupTime>,
    /// Up to where the file says itself that all is synced, in a group there: `base` if it nowhere does.
    pub(crate) marked: u64,
    pub(crate) cut: Option<Cut>,
}

/// The torn tail that opening cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Position of the first byte that was dropped.
    pub(crate) position: u64,
    pub(crate) bytes: u64,
    /// Frames in the dropped bytes that were good in themselves: at least so many, since the search is bounded.
    pub(crate) valid_after: u64,
}

/// Why a journal cannot be opened or created. The file is as it was, except after [`JournalError::Io`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The system refused to read or write.
    #[error("journal cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// The bytes at a position are bad, and something shows that they were good once.
    #[error("journal is corrupt at position {position}: {what}")]
    Corrupt {
        /// Where the bad frame starts; 0 for the file's header.
        position: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Another version of this crate wrote the file, or a frame of it.
    #[error("journal has version {found} at position {position}, and this program reads {supported}")]
    Version {
        /// The version found.
        found: u16,
        /// The one read here.
        supported: u16,
        /// Where it stands.
        position: u64,
    },
    /// Whole frames that were durable are missing from the end.
    #[error("journal ends at position {end}, and was durable up to {proven}")]
    Truncated {
        /// Where the file ends.
        end: u64,
        /// Up to where it was known to be durable.
        proven: u64,
    },
    /// The file was being created, and nothing was ever written to it.
    #[error("journal has no header: its creation was interrupted")]
    Headless,
    /// The file is something else.
    #[error("the file is not a journal")]
    NotAJournal,
    /// A hub's journal was opened as a message log, or the other way round.
    #[error("the file is {found}, not {wanted}")]
    OtherPurpose {
        /// What it is.
        found: &'static str,
        /// What it was opened as.
        wanted: &'static str,
    },
    /// A new journal would overwrite something.
    #[error("journal cannot be created over the {bytes} bytes of a file that is not empty")]
    NotEmpty {
        /// The file's length.
        bytes: u64,
    },
}

/// Why a journal was not replayed to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError<E> {
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The visitor's own error.
    #[error("an entry of the journal was not accepted")]
    Visit(E),
}

impl<E> From<io::Error> for ReplayError<E> {
    fn from(error: io::Error) -> ReplayError<E> {
        ReplayError::Journal(JournalError::Io(error))
    }
}

/// What a journal's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Position of the first frame.
    pub(crate) base: u64,
    /// The file was begun with everything that came before `base`: see [`JournalFile::refound`].
    pub(crate) refounded: bool,
    /// Whose entries it holds.
    purpose: Purpose,
    crc: u32,
}

impl Header {
    /// Whether everything can be made from this file alone.
    pub(crate) fn is_whole(self) -> bool {
        self.base == 0 || self.refounded
    }
}

/// The journal over one device.
///
/// # Durability
///
/// What `append` wrote is durable when `sync` has returned after it. After an error of either nothing is known of what
/// the device holds, so everything further is refused; opening the device again finds out.
#[derive(Debug)]
pub(crate) struct JournalFile {
    device: Box<dyn Device>,
    end: u64,
    synced: u64,
    /// Checksum of the last frame, or of the header.
    chain: u32,
    failed: Option<Failure>,
    /// What readers beside the writer may read.
    published: Arc<Published>,
}

/// The first error, in a form that can be repeated.
#[derive(Debug)]
struct Failure {
    kind: io::ErrorKind,
    text: String,
    /// It was an append, which can be undone; a sync cannot.
    append: bool,
}

impl JournalFile {
    /// Makes a journal on an empty device, whose first frame will have the position `base`.
    pub(crate) fn create(
        device: Box<dyn Device>,
        purpose: Purpose,
        base: u64,
        wall_ms: i64,
    ) -> Result<JournalFile, JournalError> {
        Self::found(device, base, wall_ms, purpose.flag())
    }

    /// As `create`, for a journal that is begun with everything that came before `base`, and then sealed. Until it is
    /// sealed it counts as damaged, so it must not have the journal's name before.
    pub(crate) fn refound(
        device: Box<dyn Device>,
        purpose: Purpose,
        base: u64,
        wall_ms: i64,
    ) -> Result<JournalFile, JournalError> {
        Self::found(device, base, wall_ms, purpose.flag() | FLAG_REFOUNDED)
    }

    fn found(mut device: Box<dyn Device>, base: u64, wall_ms: i64, flags: u16) -> Result<JournalFile, JournalError> {
        let bytes = device.len()?;
        if bytes != 0 {
            return Err(JournalError::NotEmpty { bytes });
        }
        let (header, chain) = encode_header(base, wall_ms, flags);
        device.append(&header)?;
        device.sync()?;
        let published = Arc::new(Published::new(base, base, &[]));
        Ok(JournalFile { device, end: base, synced: base, chain, failed: None, published })
    }

    /// Makes durable what a refounded journal was begun with, and says so in an empty group, which is durable as well
    /// when this returns. Nothing may have been synced before: the first group that was written after a sync is the seal.
    /// One that was begun with nothing gets an empty group to be sealed: otherwise the seal could not tell of it.
    pub(crate) fn seal(&mut self, time: GroupTime, class: u8) -> io::Result<()> {
        if self.end == self.published.base() {
            self.append_empty(time, class)?;
        }
        self.sync()?;
        self.append_empty(time, class)?;
        self.sync()
    }

    /// Appends a group without entries.
    pub(crate) fn append_empty(&mut self, time: GroupTime, class: u8) -> io::Result<()> {
        let mut group = Group::new();
        group.begin(time, class);
        self.put(&mut group)
    }

    /// Appends a group, or says why not: for who gives up on any error.
    pub(crate) fn put(&mut self, group: &mut Group) -> io::Result<()> {
        match self.append(group) {
            Outcome::Applied { .. } => Ok(()),
            Outcome::Refused(error) | Outcome::Unknown(error) => Err(error),
        }
    }

    /// Reads and verifies everything again, and calls `visit` for every entry.
    pub(crate) fn reread<E>(
        &mut self,
        visit: &mut dyn FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<(), ReplayError<E>> {
        let mut reader = Reader::open(self.device.as_mut(), self.synced)?;
        let fault = reader.walk(0, visit)?;
        let position = reader.position();
        match fault {
            None if position == self.end && reader.sealed => Ok(()),
            fault => {
                let what = fault.unwrap_or("the file does not end where it was written to");
                Err(JournalError::Corrupt { position, what }.into())
            }
        }
    }

    /// The file's length.
    pub(crate) fn bytes(&mut self) -> Result<u64, JournalError> {
        Ok(self.device.len()?)
    }

    /// The device.
    pub(crate) fn device_mut(&mut self) -> &mut Box<dyn Device> {
        &mut self.device
    }

    /// Gives back the device, locked as it is.
    pub(crate) fn into_device(self) -> Box<dyn Device> {
        self.device
    }

    /// Reads and verifies the whole file, calls `visit` for every entry whose position is `from` or later, and cuts a
    /// torn tail. `proven` is a position that is known to have been durable, or 0.
    ///
    /// Entries are visited while the file is read: what was visited is good, but when an error follows it is not all.
    /// A `from` below [`Scan::base`] means that entries are missing at the front, if the caller had not seen them.
    pub(crate) fn open<E>(
        mut device: Box<dyn Device>,
        purpose: Purpose,
        from: u64,
        proven: u64,
        visit: &mut dyn FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<(JournalFile, Scan), ReplayError<E>> {
        let mut reader = Reader::open(device.as_mut(), proven)?;
        if reader.purpose != purpose {
            let (found, wanted) = (reader.purpose.name(), purpose.name());
            return Err(JournalError::OtherPurpose { found, wanted }.into());
        }
        let fault = reader.walk(from, visit)?;
        let cut = reader.judge(fault, proven)?;
        let (chain, keep) = (reader.chain.unwrap_or_default(), reader.offset);
        let published = Arc::new(Published::new(reader.base, reader.position(), &reader.marks));
        let scan = reader.into_scan(cut);
        if cut.is_some() {
            device.truncate(keep)?;
        }
        // What was read may have come from the cache of a process that died before its sync. The first group to be
        // appended will claim all of it as synced.
        device.sync()?;
        Ok((JournalFile { device, end: scan.end, synced: scan.end, chain, failed: None, published }, scan))
    }

    /// A way to read what is written, beside the writer.
    pub(crate) fn tail(&self, synced_only: bool) -> io::Result<Tail> {
        Ok(Tail::new(self.device.reader()?, Arc::clone(&self.published), synced_only))
    }

    /// What the header says; `None` if there is no good one.
    pub(crate) fn header(device: &mut dyn Device) -> io::Result<Option<Header>> {
        let mut header = [0; HEADER];
        let mut filled = 0;
        while let Some(rest) = header.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match device.read_at(filled as u64, rest)? {
                0 => return Ok(None),
                read => filled = filled.saturating_add(read),
            }
        }
        Ok(decode_header(&header).ok())
    }

    /// After an append that failed: drops what it left behind, syncs, and goes on. What was appended before stays.
    pub(crate) fn undo_append(&mut self) -> io::Result<()> {
        let Some(Failure { append: true, .. }) = &self.failed else {
            return self.check();
        };
        let offset = self.published.offset(self.end);
        self.device.truncate(offset).inspect_err(|error| self.fail(error, false))?;
        self.failed = None;
        self.synced = self.end;
        self.published.synced(self.synced);
        Ok(())
    }

    /// Whether there is no header because its creation was interrupted.
    pub(crate) fn is_headless(device: &mut dyn Device) -> Result<bool, JournalError> {
        match Reader::open(device, 0) {
            Err(JournalError::Headless) => Ok(true),
            Err(JournalError::Io(error)) => Err(error.into()),
            _ => Ok(false),
        }
    }

    fn fail(&mut self, error: &io::Error, append: bool) {
        self.failed = Some(Failure { kind: error.kind(), text: error.to_string(), append });
    }

    fn check(&self) -> io::Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(Failure { kind, text, .. }) => {
                let text = format!("journal refuses to go on after an earlier error until it is reopened: {text}");
                Err(io::Error::new(*kind, text))
            }
        }
    }
}

impl Log for JournalFile {
    fn append(&mut self, group: &mut Group) -> Outcome {
        if let Err(error) = self.check() {
            return Outcome::Refused(error);
        }
        let start = self.end;
        // Opening counts the header as well.
        let end = start.checked_add(group.bytes() as u64).filter(|end| end.checked_add(HEADER as u64).is_some());
        let Some(end) = end else {
            return Outcome::Refused(io::Error::other("journal has no positions left"));
        };
        let chain = group.seal(self.chain, self.synced);
        if let Err(error) = self.device.append(&group.buf) {
            self.fail(&error, true);
            return Outcome::Unknown(error);
        }
        self.chain = chain;
        self.end = end;
        self.published.written(start, end);
        Outcome::Applied { start, end }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.check()?;
        // A sync that failed is never repeated: the next one may report success for pages that the first has dropped.
        self.device.sync().inspect_err(|error| self.fail(error, false))?;
        self.synced = self.end;
        self.published.synced(self.synced);
        Ok(())
    }

    fn end(&self) -> u64 {
        self.end
    }

    fn synced(&self) -> u64 {
        self.synced
    }
}

fn encode_header(base: u64, wall_ms: i64, flags: u16) -> (Vec<u8>, u32) {
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
    header.extend_from_slice(&flags.to_be_bytes());
    header.extend_from_slice(&base.to_be_bytes());
    header.extend_from_slice(&wall_ms.to_be_bytes());
    let crc = crc32fast::hash(&header);
    header.extend_from_slice(&crc.to_be_bytes());
    debug_assert_eq!(header.len(), HEADER, "the header has a fixed length");
    (header, crc)
}

fn checksum(len: u32, previous: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&len.to_be_bytes());
    hasher.update(&previous.to_be_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// Integers off the front of some bytes.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }

    pub(crate) fn u128(&mut self) -> Option<u128> {
        self.take().map(u128::from_be_bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// What stands before a frame's payload.
#[derive(Debug, Clone, Copy)]
struct Head {
    len: u32,
    previous: u32,
    checksum: u32,
}

impl Head {
    fn encode(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        let fields = [self.len, self.previous, self.checksum];
        for (chunk, field) in bytes.chunks_exact_mut(4).zip(fields) {
            chunk.copy_from_slice(&field.to_be_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; HEAD]) -> Head {
        let [l0, l1, l2, l3, p0, p1, p2, p3, c0, c1, c2, c3] = *bytes;
        Head {
            len: u32::from_be_bytes([l0, l1, l2, l3]),
            previous: u32::from_be_bytes([p0, p1, p2, p3]),
            checksum: u32::from_be_bytes([c0, c1, c2, c3]),
        }
    }

    fn payload_len(self) -> usize {
        self.len as usize
    }
}

#[derive(Debug, Clone, Copy)]
struct Payload<'a> {
    version: u8,
    kind: u8,
    pallet: u32,
    body: &'a [u8],
}

impl<'a> Payload<'a> {
    fn decode(bytes: &'a [u8]) -> Option<Payload<'a>> {
        let mut fields = Fields(bytes);
        Some(Payload { version: fields.u8()?, kind: fields.u8()?, pallet: fields.u32()?, body: fields.rest() })
    }
}

/// What a group frame says.
#[derive(Debug, Clone, Copy)]
struct Stamp {
    synced_to: u64,
    time: GroupTime,
    class: u8,
}

impl Stamp {
    fn decode(body: &[u8]) -> Option<Stamp> {
        let mut fields = Fields(body);
        let synced_to = fields.u64()?;
        let time = GroupTime { hub_ms: fields.u64()?, wall_ms: fields.i64()? };
        let stamp = Stamp { synced_to, time, class: fields.u8()? };
        fields.rest().is_empty().then_some(stamp)
    }
}

/// A stretch of the device, in memory. It grows to one frame at most.
#[derive(Debug)]
struct Window<R> {
    device: R,
    /// Length of the device.
    len: u64,
    /// Offset of `bytes` on the device.
    start: u64,
    bytes: Vec<u8>,
}

/// What is at some offset.
enum Sight<'a> {
    End,
    Bad(&'static str),
    /// A frame that is good in itself.
    Frame(Head, Payload<'a>),
}

impl<R: ReadAt> Window<R> {
    fn new(device: R, len: u64) -> Window<R> {
        Window { device, len, start: 0, bytes: Vec::new() }
    }

    /// Returns `count` bytes at `offset`, or nothing when the device ends before.
    fn view(&mut self, offset: u64, count: usize) -> io::Result<Option<&[u8]>> {
        if self.len.saturating_sub(offset) < count as u64 {
            return Ok(None);
        }
        if !self.holds(offset, count) {
            self.refill(offset, count)?;
        }
        let skip = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
        Ok(self.bytes.get(skip..).and_then(|bytes| bytes.get(..count)))
    }

    fn holds(&self, offset: u64, count: usize) -> bool {
        let end = self.start.saturating_add(self.bytes.len() as u64);
        offset >= self.start && end.saturating_sub(offset) >= count as u64
    }

    fn refill(&mut self, offset: u64, count: usize) -> io::Result<()> {
        let passed = offset.checked_sub(self.start).and_then(|passed| usize::try_from(passed).ok());
        match passed.filter(|&passed| passed <= self.bytes.len()) {
            Some(passed) => drop(self.bytes.drain(..passed)),
            None => self.bytes.clear(),
        }
        self.start = offset;
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut filled = self.bytes.len();
        self.bytes.resize(count.max(READ_MIN).min(left).max(filled), 0);
        while let Some(buf) = self.bytes.get_mut(filled..).filter(|buf| !buf.is_empty()) {
            match self.device.read_at(offset.saturating_add(filled as u64), buf)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled = filled.saturating_add(read),
            }
        }
        Ok(())
    }

    /// Reads the frame at `offset`, if it is good in itself.
    fn frame(&mut self, offset: u64) -> io::Result<Sight<'_>> {
        if offset >= self.len {
            return Ok(Sight::End);
        }
        let head = self.view(offset, HEAD)?.and_then(|bytes| bytes.first_chunk::<HEAD>());
        let Some(head) = head.map(Head::decode) else {
            return Ok(Sight::Bad("the file ends within a frame's head"));
        };
        if !(PREFIX..=FRAME_MAX).contains(&head.payload_len()) {
            return Ok(Sight::Bad("a frame's length is out of bounds"));
        }
        let frame = self.view(offset, HEAD + head.payload_len())?;
        let Some(payload) = frame.and_then(|frame| frame.get(HEAD..)) else {
            return Ok(Sight::Bad("the file ends within a frame"));
        };
        if checksum(head.len, head.previous, payload) != head.checksum {
            return Ok(Sight::Bad("a frame's checksum does not match"));
        }
        Ok(Payload::decode(payload).map_or(Sight::Bad("a frame has no kind"), |payload| Sight::Frame(head, payload)))
    }

    /// The next frame at or behind `offset` that is good in itself: every byte may begin one.
    fn find(&mut self, mut offset: u64, allowance: &mut Allowance) -> io::Result<Option<Found>> {
        while let Some(bytes) = self.view(offset, HEAD + PREFIX)? {
            if allowance.affords(bytes)
                && let Sight::Frame(head, payload) = self.frame(offset)?
                && let Some(found) = Found::new(offset, head, payload)
            {
                return Ok(Some(found));
            }
            offset = offset.saturating_add(1);
        }
        Ok(None)
    }
}

/// Goes through a journal once.
#[derive(Debug)]
struct Reader<R> {
    window: Window<R>,
    purpose: Purpose,
    base: u64,
    /// Checksum of the last good frame, or of the header; nothing where reading began in the middle.
    chain: Option<u32>,
    /// What the file was begun with is whole: always so in one that was not refounded.
    sealed: bool,
    /// Where the next frame begins on the device.
    offset: u64,
    stamp: Option<Stamp>,
    /// End of the last group frame that says that everything before it is synced.
    marked: u64,
    entries: u64,
    groups: u64,
    /// Positions of some groups, ascending: where readers may begin.
    marks: Vec<u64>,
}

/// What one step of a reader came to.
enum Step<'a> {
    End,
    /// The frame here is bad; the reader stays before it.
    Bad(&'static str),
    Group,
    Entry(Entry<'a>),
}

impl<'d> Reader<&'d dyn Device> {
    fn open(device: &'d mut dyn Device, proven: u64) -> Result<Self, JournalError> {
        let len = device.len()?;
        let mut window = Window::new(&*device, len);
        let header = read_header(&mut window, proven)?;
        Ok(Self::behind(header, window))
    }
}

impl<R: ReadAt> Reader<R> {
    /// Begins with the first frame behind this header.
    fn behind(header: Header, window: Window<R>) -> Self {
        let Header { base, refounded, purpose, crc } = header;
        let reader = Reader::at(window, base, Some(crc), HEADER as u64);
        Reader { sealed: !refounded, purpose, ..reader }
    }

    /// Begins with the frame at `offset`.
    fn at(window: Window<R>, base: u64, chain: Option<u32>, offset: u64) -> Self {
        let (purpose, marks) = (Purpose::Hub, Vec::new());
        let (marked, entries, groups) = (base, 0, 0);
        Reader { window, purpose, base, chain, sealed: true, offset, stamp: None, marked, entries, groups, marks }
    }

    /// Position of the next frame.
    fn position(&self) -> u64 {
        self.base.saturating_add(self.offset.saturating_sub(HEADER as u64))
    }

    /// Goes on to the end of the file or the first bad frame; returns what is wrong with that.
    fn walk<E>(
        &mut self,
        from: u64,
        visit: &mut dyn FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<Option<&'static str>, ReplayError<E>> {
        loop {
            let position = self.position();
            match self.step()? {
                Step::End => return Ok(None),
                Step::Bad(what) => return Ok(Some(what)),
                Step::Group => {
                    self.groups += 1;
                    if tail::is_worth_a_mark(self.marks.last().copied(), position) {
                        self.marks.push(position);
                    }
                }
                Step::Entry(entry) => {
                    if position >= from {
                        visit(entry).map_err(ReplayError::Visit)?;
                    }
                    self.entries += 1;
                }
            }
        }
    }

    /// Checks one frame and goes beyond it.
    fn step(&mut self) -> Result<Step<'_>, JournalError> {
        let position = self.position();
        let (head, payload) = match self.window.frame(self.offset)? {
            Sight::End => return Ok(Step::End),
            Sight::Bad(what) => return Ok(Step::Bad(what)),
            Sight::Frame(head, payload) => (head, payload),
        };
        if self.chain.is_some_and(|chain| chain != head.previous) {
            return Ok(Step::Bad("a frame does not follow the one before it"));
        }
        if payload.version != FRAME_VERSION {
            let (found, supported) = (payload.version.into(), FRAME_VERSION.into());
            return Err(JournalError::Version { found, supported, position });
        }
        let size = (HEAD + head.payload_len()) as u64;
        let step = if payload.kind == KIND_GROUP {
            let stamp = check_stamp(position, payload.body)?;
            self.sealed |= stamp.synced_to > self.base;
            if stamp.synced_to == position {
                self.marked = position.saturating_add(size);
            }
            self.stamp = Some(stamp);
            Step::Group
        } else {
            let Some(Stamp { time, class, .. }) = self.stamp else {
                return Err(JournalError::Corrupt { position, what: "an entry stands before any group" });
            };
            let Payload { kind, pallet, body, .. } = payload;
            Step::Entry(Entry { position, next: position.saturating_add(size), time, class, kind, pallet, body })
        };
        self.chain = Some(head.checksum);
        self.offset = self.offset.saturating_add(size);
        Ok(step)
    }

    /// Decides whether the end, or the bad frame there, is what a crash leaves behind.
    fn judge(&mut self, fault: Option<&'static str>, proven: u64) -> Result<Option<Cut>, JournalError> {
        let position = self.position();
        if !self.sealed {
            // It got its name after the seal was durable, so no crash left this behind.
            let what = fault.unwrap_or("the file ends within what it was begun with");
            return Err(JournalError::Corrupt { position, what });
        }
        let Some(what) = fault else {
            return if position < proven { Err(JournalError::Truncated { end: position, proven }) } else { Ok(None) };
        };
        if position < proven {
            return Err(JournalError::Corrupt { position, what });
        }
        let search = self.search(position)?;
        if search.synced_later || (self.purpose == Purpose::Messages && search.frames > 0) {
            return Err(JournalError::Corrupt { position, what });
        }
        let bytes = self.window.len.saturating_sub(self.offset);
        Ok(Some(Cut { position, bytes, valid_after: search.frames }))
    }

    /// Looks through everything from the bad frame at `position` on for a group that says the bytes there were synced
    /// before it was written. A bad length hides where the next frame begins, so every byte may begin one.
    fn search(&mut self, position: u64) -> io::Result<Search> {
        let mut search = Search { frames: 0, synced_later: false, allowance: Allowance::default() };
        let mut offset = self.offset;
        while let Some(found) = self.window.find(offset, &mut search.allowance)? {
            search.frames += 1;
            if found.stamp.is_some_and(|stamp| stamp.synced_to > position) {
                search.synced_later = true;
                break;
            }
            offset = found.end;
        }
        Ok(search)
    }

    fn into_scan(self, cut: Option<Cut>) -> Scan {
        Scan {
            base: self.base,
            end: self.position(),
            entries: self.entries,
            groups: self.groups,
            last_time: self.stamp.map(|stamp| stamp.time),
            marked: self.marked,
            cut,
        }
    }
}

/// What is known of the bytes behind a bad frame.
struct Search {
    /// Frames that are good in themselves.
    frames: u64,
    /// Whether a group was written after the bad frame had been synced.
    synced_later: bool,
    /// What is left of it.
    allowance: Allowance,
}

/// A frame that is good in itself, of a version that is read here.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// Offset of its first byte, and of the one behind it.
    start: u64,
    end: u64,
    previous: u32,
    checksum: u32,
    /// What it says if it begins a group; an entry says nothing here.
    stamp: Option<Stamp>,
}

impl Found {
    fn new(start: u64, head: Head, payload: Payload<'_>) -> Option<Found> {
        let stamp = Some(payload.body).filter(|_| payload.kind == KIND_GROUP).and_then(Stamp::decode);
        let end = start.saturating_add((HEAD + head.payload_len()) as u64);
        let good = payload.version == FRAME_VERSION && stamp.is_some() == (payload.kind == KIND_GROUP);
        good.then_some(Found { start, end, previous: head.previous, checksum: head.checksum, stamp })
    }
}

/// Bytes that a search may still spend on frames other than groups.
struct Allowance(u64);

impl Default for Allowance {
    fn default() -> Self {
        Allowance(COUNTED_BYTES_MAX)
    }
}

impl Allowance {
    /// Whether a frame may begin with these bytes, and its checksum can be afforded. Groups always can.
    fn affords(&mut self, bytes: &[u8]) -> bool {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
            return false;
        };
        let len = Head::decode(head).payload_len();
        let Some(payload) = Payload::decode(rest) else {
            return false;
        };
        if payload.version != FRAME_VERSION || !(PREFIX..=FRAME_MAX).contains(&len) {
            return false;
        }
        if payload.kind == KIND_GROUP {
            return len == GROUP_PAYLOAD;
        }
        let left = self.0.checked_sub(len as u64);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

/// The header of a file that has a good one.
fn read_header<R: ReadAt>(window: &mut Window<R>, proven: u64) -> Result<Header, JournalError> {
    if window.len < HEADER as u64 || (window.len == HEADER as u64 && is_zeros(window)?) {
        return Err(headless(window, proven)?);
    }
    let len = window.len;
    let header = decode_header(window.view(0, HEADER)?.unwrap_or_default())?;
    // With this checked once, no position in the file overflows.
    if header.base.checked_add(len).is_none() {
        return Err(JournalError::Corrupt { position: 0, what: "the base leaves no room for the file" });
    }
    Ok(header)
}

fn decode_header(header: &[u8]) -> Result<Header, JournalError> {
    let corrupt = |what| JournalError::Corrupt { position: 0, what };
    let short = || corrupt("the header is short");
    if header.iter().all(|&byte| byte == 0) {
        return Err(corrupt("the header is lost, and something follows it"));
    }
    let mut fields = Fields(header);
    if fields.take::<8>().as_ref() != Some(MAGIC) {
        return Err(JournalError::NotAJournal);
    }
    let version = fields.u16().ok_or_else(short)?;
    let flags = fields.u16().ok_or_else(short)?;
    let base = fields.u64().ok_or_else(short)?;
    let _created = fields.i64().ok_or_else(short)?;
    let crc = fields.u32().ok_or_else(short)?;
    if header.get(..HEADER - 4).map(crc32fast::hash) != Some(crc) {
        return Err(corrupt("the header's checksum does not match"));
    }
    if version != FORMAT_VERSION {
        return Err(JournalError::Version { found: version, supported: FORMAT_VERSION, position: 0 });
    }
    if flags & !(FLAG_REFOUNDED | FLAG_MESSAGES) != 0 {
        return Err(corrupt("the header has a flag that is not known"));
    }
    let purpose = if flags & FLAG_MESSAGES == 0 { Purpose::Hub } else { Purpose::Messages };
    Ok(Header { base, refounded: flags & FLAG_REFOUNDED != 0, purpose, crc })
}

fn check_stamp(position: u64, body: &[u8]) -> Result<Stamp, JournalError> {
    let corrupt = |what| JournalError::Corrupt { position, what };
    let stamp = Stamp::decode(body).ok_or_else(|| corrupt("a group frame has the wrong length"))?;
    if stamp.synced_to > position {
        return Err(corrupt("a group claims to have been synced before it was written"));
    }
    if stamp.time.hub_ms > HUB_MS_MAX {
        return Err(corrupt("a group is of a time that no clock comes to"));
    }
    Ok(stamp)
}

/// Whether a file that is no longer than a header holds nothing but zeros, as when only its length got to the disk.
fn is_zeros<R: ReadAt>(window: &mut Window<R>) -> io::Result<bool> {
    let len = usize::try_from(window.len).unwrap_or(usize::MAX).min(HEADER);
    Ok(window.view(0, len)?.unwrap_or_default().iter().all(|&byte| byte == 0))
}

/// Says what is wrong with a file that has no whole header.
fn headless<R: ReadAt>(window: &mut Window<R>, proven: u64) -> Result<JournalError, JournalError> {
    // A creation syncs the header before the journal is used, so a position that was durable had a header before it.
    if proven > 0 {
        return Ok(JournalError::Truncated { end: 0, proven });
    }
    if is_zeros(window)? {
        return Ok(JournalError::Headless);
    }
    // A short file of somebody else's must not look like one that may be overwritten.
    let len = usize::try_from(window.len).unwrap_or(usize::MAX).min(MAGIC.len());
    let ours = window.view(0, len)? == MAGIC.get(..len);
    Ok(if ours { JournalError::Headless } else { JournalError::NotAJournal })
}
