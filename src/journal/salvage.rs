//! Reading what is left of a damaged journal. Nothing is written.
//!
//! Frames that follow one another from the header on are what was written. Where that chain breaks, the next frame to be
//! believed is looked for, at every byte. Good in itself is not enough: an entry's body may hold whole frames, of this
//! journal or of another, which nobody appended here. So a frame counts
//!
//! - if it names as its predecessor the last frame that counted, or the bad frame, by the checksum that stands in that one's
//!   head or by the one that it should be: no body can know them before it is written;
//! - otherwise if the chain leads on from it to the end of the file, or to a group that was not written before the last one
//!   that counted.
//!
//! What does not count is lost, and named.

use std::io;

use super::{
    Allowance, Entry, FRAME_MAX, Found, GroupTime, HEAD, HEADER, Head, Header, JournalError, PREFIX, Payload, Purpose,
    Reader, Sight, Stamp, Window, checksum, read_header,
};
use crate::clock::HUB_MS_MAX;
use crate::device::ReadAt;
use crate::sync::Arc;

/// Bytes without a frame that counts. None at all where a frame is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Position of the first.
    pub(crate) position: u64,
    pub(crate) bytes: u64,
}

/// What a damaged journal is made of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Entry(Entry<'a>),
    Lost(Lost),
}

/// Goes through a damaged journal once. Its memory is bounded by the longest frame.
#[derive(Debug)]
pub(crate) struct Salvage {
    reader: Reader<Arc<dyn ReadAt>>,
    header_lost: bool,
}

/// What is at an offset.
enum Look {
    End,
    Bad,
    Good(Found),
}

impl Salvage {
    /// Begins to read a file of `len` bytes. Without a good header it is read as what it is wanted to be, if there is a
    /// group in it: the base is then what most groups say at least, which is right if the first of them is good.
    pub(crate) fn open(source: Arc<dyn ReadAt>, len: u64, wanted: Purpose) -> Result<Salvage, JournalError> {
        let mut window = Window::new(source, len);
        let error = match read_header(&mut window, 0) {
            Ok(header @ Header { purpose, .. }) if purpose == wanted => {
                return Ok(Salvage { reader: Reader::behind(header, window), header_lost: false });
            }
            Ok(Header { purpose, .. }) => {
                return Err(JournalError::OtherPurpose { found: purpose.name(), wanted: wanted.name() });
            }
            Err(error @ (JournalError::Corrupt { .. } | JournalError::NotAJournal)) => error,
            Err(error) => return Err(error),
        };
        let base = base(&mut window)?.ok_or(error)?;
        Ok(Salvage { reader: Reader::at(window, base, None, HEADER as u64), header_lost: true })
    }

    /// Whether there was no good header.
    pub(crate) fn is_header_lost(&self) -> bool {
        self.header_lost
    }

    /// Position of the first frame.
    pub(crate) fn base(&self) -> u64 {
        self.reader.base
    }

    /// Position of the next frame.
    pub(crate) fn position(&self) -> u64 {
        self.reader.position()
    }

    /// When the last group that counts was written. A time that no clock comes to would make a log that cannot be opened.
    pub(crate) fn last_time(&self) -> GroupTime {
        let time = self.reader.stamp.map_or(GroupTime { hub_ms: 0, wall_ms: 0 }, |stamp| stamp.time);
        GroupTime { hub_ms: time.hub_ms.min(HUB_MS_MAX), ..time }
    }

    /// The next entry that counts, or what is lost before it; nothing at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Piece<'_>>> {
        loop {
            match self.look(self.reader.offset)? {
                Look::End => return Ok(None),
                Look::Good(found) if self.reader.chain == Some(found.previous) => {
                    self.reader.chain = Some(found.checksum);
                    self.reader.offset = found.end;
                    if found.stamp.is_none() {
                        return self.entry(found).map(|entry| Some(Piece::Entry(entry)));
                    }
                    self.reader.stamp = found.stamp;
                }
                look => {
                    let headless = self.reader.chain.is_none();
                    let lost = self.resume(matches!(look, Look::Bad))?;
                    if lost.bytes > 0 || !headless {
                        return Ok(Some(Piece::Lost(lost)));
                    }
                }
            }
        }
    }

    fn look(&mut self, offset: u64) -> io::Result<Look> {
        Ok(match self.reader.window.frame(offset)? {
            Sight::End => Look::End,
            Sight::Bad(_) => Look::Bad,
            Sight::Frame(head, payload) => Found::new(offset, head, payload).map_or(Look::Bad, Look::Good),
        })
    }

    /// The entry of a frame that was found good.
    fn entry(&mut self, found: Found) -> io::Result<Entry<'_>> {
        let place = |offset: u64| self.reader.base.saturating_add(offset.saturating_sub(HEADER as u64));
        let (position, next, time) = (place(found.start), place(found.end), self.last_time());
        let class = self.reader.stamp.map_or(0, |stamp| stamp.class);
        let len = usize::try_from(found.end.saturating_sub(found.start)).unwrap_or(usize::MAX);
        let frame = self.reader.window.view(found.start, len)?.and_then(|frame| frame.get(HEAD..));
        // It was read a moment ago.
        let Payload { kind, pallet, body, .. } = frame.and_then(Payload::decode).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Entry { position, next, time, class, kind, pallet, body })
    }

    /// Goes on to the next frame that counts, or to the end.
    fn resume(&mut self, bad: bool) -> io::Result<Lost> {
        let (start, position) = (self.reader.offset, self.position());
        let next = match self.successor(bad)? {
            Some(found) => Some(found),
            None => self.anchored()?,
        };
        self.reader.offset = next.map_or(self.reader.window.len, |found| found.start);
        self.reader.chain = next.map(|found| found.previous).or(self.reader.chain);
        Ok(Lost { position, bytes: self.reader.offset.saturating_sub(start) })
    }

    /// The frame that names the last one that counted as its predecessor, or the one here, if that is bad.
    fn successor(&mut self, bad: bool) -> io::Result<Option<Found>> {
        let start = self.reader.offset;
        let [stored, computed] = if bad { self.checksums(start)? } else { [None; 2] };
        let known = [self.reader.chain, stored, computed];
        if known == [None; 3] {
            return Ok(None);
        }
        let mut allowance = Allowance::default();
        for offset in start..=start.saturating_add((HEAD + FRAME_MAX) as u64) {
            let Some(bytes) = self.reader.window.view(offset, HEAD + PREFIX)? else { break };
            let previous = bytes.first_chunk::<HEAD>().map(|head| Head::decode(head).previous);
            if previous.is_some()
                && known.contains(&previous)
                && allowance.affords(bytes)
                && let Look::Good(found) = self.look(offset)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// What a bad frame says is its checksum, and what it is if its length is right.
    fn checksums(&mut self, offset: u64) -> io::Result<[Option<u32>; 2]> {
        let head = self.reader.window.view(offset, HEAD)?.and_then(|head| head.first_chunk::<HEAD>());
        let Some(head) = head.map(Head::decode) else { return Ok([None; 2]) };
        let len = head.payload_len().min(FRAME_MAX);
        let frame = self.reader.window.view(offset, HEAD + len)?.and_then(|frame| frame.get(HEAD..));
        Ok([Some(head.checksum), frame.map(|payload| checksum(head.len, head.previous, payload))])
    }

    /// The next frame that is good in itself and leads to something that counts.
    fn anchored(&mut self) -> io::Result<Option<Found>> {
        let (mut offset, mut allowance) = (self.reader.offset, Allowance::default());
        while let Some(found) = self.reader.window.find(offset, &mut allowance)? {
            match self.misleads(found)? {
                None => return Ok(Some(found)),
                Some(end) => offset = end,
            }
        }
        Ok(None)
    }

    /// Where the chain from a frame breaks off, or has come to a group of an earlier time; nothing if it leads on.
    fn misleads(&mut self, found: Found) -> io::Result<Option<u64>> {
        let proven = self.reader.stamp.map_or(0, |stamp| stamp.synced_to);
        let mut last = found;
        loop {
            if let Some(Stamp { synced_to, .. }) = last.stamp {
                return Ok((synced_to < proven).then_some(last.end));
            }
            match self.look(last.end)? {
                Look::End => return Ok(None),
                Look::Good(next) if next.previous == last.checksum => last = next,
                _ => return Ok(Some(last.end)),
            }
        }
    }
}

/// The base that groups speak of: none says more than its own position.
fn base<R: ReadAt>(window: &mut Window<R>) -> io::Result<Option<u64>> {
    let (mut base, mut offset, mut allowance) = (None, HEADER as u64, Allowance::default());
    while let Some(found) = window.find(offset, &mut allowance)? {
        let before = found.start.saturating_sub(HEADER as u64);
        base = base.max(found.stamp.map(|stamp| stamp.synced_to.saturating_sub(before)));
        offset = found.end;
    }
    Ok(base)
}
