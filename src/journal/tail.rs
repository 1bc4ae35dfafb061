//! Reading a journal while it is written.
//!
//! The writer publishes how far it got after each append and each sync; readers go no further, so they never meet a
//! frame that is not whole, and need no lock. Whatever they read they check as opening does.

use std::io;

use super::{Entry, HEAD, HEADER, JournalError, KIND_GROUP, PREFIX, Reader, Step, Window};
use crate::device::ReadAt;
use crate::sync::{Arc, AtomicU64, Ordering};

/// Bytes between two marks, at least: what a reader that begins in the middle goes through first, about.
const MARK_BYTES: u64 = 1 << 20;

/// Whether a group at `position` is far enough from the `last` mark to become one.
pub(super) fn is_worth_a_mark(last: Option<u64>, position: u64) -> bool {
    last.is_none_or(|last| position.saturating_sub(last) >= MARK_BYTES)
}

/// What the writer lets readers know.
#[derive(Debug)]
pub(super) struct Published {
    base: u64,
    end: AtomicU64,
    synced: AtomicU64,
    /// Positions of some groups, ascending. A position says nothing about where frames begin: a reader goes there from a
    /// mark.
    marks: boxcar::Vec<u64>,
}

impl Published {
    pub(super) fn new(base: u64, end: u64, marks: &[u64]) -> Self {
        let marks = marks.iter().copied().collect();
        Self { base, end: AtomicU64::new(end), synced: AtomicU64::new(end), marks }
    }

    /// A group from `start` to `end` is written. The writer's alone.
    pub(super) fn written(&self, start: u64, end: u64) {
        let last = self.marks.count().checked_sub(1).and_then(|last| self.marks.get(last).copied());
        if is_worth_a_mark(last, start) {
            self.marks.push(start);
        }
        // ordering: Release; pairs with the Acquire in `Tail::end`, publishes the bytes and the mark.
        self.end.store(end, Ordering::Release);
    }

    /// Everything up to `synced` is durable. The writer's alone.
    pub(super) fn synced(&self, synced: u64) {
        // ordering: Release; as `written`.
        self.synced.store(synced, Ordering::Release);
    }

    /// Position of the first frame.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Where in the file a position is.
    pub(super) fn offset(&self, position: u64) -> u64 {
        position.saturating_sub(self.base).saturating_add(HEADER as u64)
    }

    /// The last mark at or before `position`.
    fn mark(&self, position: u64) -> Option<u64> {
        let (mut low, mut high) = (0, self.marks.count());
        while low < high {
            let middle = low.midpoint(high);
            if self.marks.get(middle).is_some_and(|mark| *mark <= position) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.marks.get(low.checked_sub(1)?).copied()
    }
}

/// Why reading cannot begin at a position.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeekError {
    /// The journal begins later.
    #[error("position {position} is before the journal's first, {base}")]
    Before { position: u64, base: u64 },
    /// The journal ends earlier.
    #[error("position {position} is beyond the journal's end, {end}")]
    Beyond { position: u64, end: u64 },
    /// No frame begins there.
    #[error("no frame of the journal begins at position {position}")]
    Between { position: u64 },
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// A way to read a journal beside its writer. Cloning clones the handle.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    source: Arc<dyn ReadAt>,
    published: Arc<Published>,
    synced_only: bool,
}

impl Tail {
    pub(super) fn new(source: Arc<dyn ReadAt>, published: Arc<Published>, synced_only: bool) -> Self {
        Self { source, published, synced_only }
    }

    /// Position of the first frame.
    pub(crate) fn base(&self) -> u64 {
        self.published.base
    }

    /// Up to where may be read now.
    pub(crate) fn end(&self) -> u64 {
        let end = if self.synced_only { &self.published.synced } else { &self.published.end };
        // ordering: Acquire; pairs with the Release in `Published`.
        end.load(Ordering::Acquire)
    }

    /// Whether it ends where the journal is synced.
    pub(crate) fn is_synced_only(&self) -> bool {
        self.synced_only
    }

    /// The same, up to where it is written.
    pub(crate) fn unsynced(&self) -> Self {
        Self { synced_only: false, ..self.clone() }
    }

    /// The same, up to where it is synced.
    pub(crate) fn synced_only(&self) -> Self {
        Self { synced_only: true, ..self.clone() }
    }

    /// The file's length up to where may be read now.
    pub(crate) fn bytes(&self) -> u64 {
        self.published.offset(self.end())
    }

    /// Lets frames of this journal go on to where may be read now. False if that is no further.
    pub(crate) fn extend(&self, frames: &mut Frames) -> bool {
        let len = self.published.offset(self.end());
        let further = len > frames.reader.window.len;
        frames.reader.window.len = len.max(frames.reader.window.len);
        further
    }

    /// The frames from position `from` up to where may be read now. Goes through about 1 MiB before `from`.
    pub(crate) fn frames(&self, from: u64) -> Result<Frames, SeekError> {
        let (base, end) = (self.base(), self.end());
        if from < base {
            return Err(SeekError::Before { position: from, base });
        }
        if from > end {
            return Err(SeekError::Beyond { position: from, end });
        }
        let window = Window::new(Arc::clone(&self.source), self.published.offset(end));
        let start = self.published.mark(from).unwrap_or(base);
        let mut frames = Frames { reader: Reader::at(window, base, None, self.published.offset(start)) };
        while frames.position() < from {
            frames.step()?;
        }
        if frames.position() == from { Ok(frames) } else { Err(SeekError::Between { position: from }) }
    }
}

/// Goes through a part of a journal. Its memory is bounded by the longest frame.
#[derive(Debug)]
pub(crate) struct Frames {
    reader: Reader<Arc<dyn ReadAt>>,
}

impl Frames {
    /// Position of the next frame.
    pub(crate) fn position(&self) -> u64 {
        self.reader.position()
    }

    /// The next entry; nothing at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry<'_>>, JournalError> {
        while self.is_at_group()? {
            self.step()?;
        }
        match self.step()? {
            Step::Entry(entry) => Ok(Some(entry)),
            _ => Ok(None),
        }
    }

    /// Everything up to the end was written whole: what is bad was damaged since.
    fn step(&mut self) -> Result<Step<'_>, JournalError> {
        let position = self.position();
        match self.reader.step()? {
            Step::Bad(what) => Err(JournalError::Corrupt { position, what }),
            step => Ok(step),
        }
    }

    /// Whether the next frame says that it begins a group; unchecked.
    fn is_at_group(&mut self) -> io::Result<bool> {
        let frame = self.reader.window.view(self.reader.offset, HEAD + PREFIX)?;
        Ok(frame.and_then(|frame| frame.get(HEAD + 1)) == Some(&KIND_GROUP))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Group, GroupTime, JournalFile, Log, Outcome, Purpose};
    use super::*;
    use crate::device::MemoryDevice;

    fn append(journal: &mut JournalFile, hub_ms: u64, sizes: &[usize]) -> (u64, u64) {
        let mut group = Group::new();
        group.begin(GroupTime { hub_ms, wall_ms: 0 }, 0);
        for size in sizes {
            group.push(5, 0, |buf| buf.resize(buf.len() + size, b'x')).unwrap();
        }
        match journal.append(&mut group) {
            Outcome::Applied { start, end } => (start, end),
            other => panic!("{other:?}"),
        }
    }

    fn seen(tail: &Tail, from: u64) -> Vec<(u64, u64, usize)> {
        let mut frames = tail.frames(from).unwrap();
        let mut seen = Vec::new();
        while let Some(entry) = frames.next().unwrap() {
            seen.push((entry.next, entry.time.hub_ms, entry.body.len()));
        }
        seen
    }

    fn journal(device: &MemoryDevice) -> JournalFile {
        JournalFile::create(Box::new(device.clone()), Purpose::Hub, 1_000, 0).unwrap()
    }

    #[test]
    fn a_reader_goes_as_far_as_is_published_and_on_from_there() {
        let mut journal = journal(&MemoryDevice::new());
        let (written, synced) = (journal.tail(false).unwrap(), journal.tail(true).unwrap());
        assert_eq!((seen(&written, 1_000), written.end()), (vec![], 1_000));
        let (_, end) = append(&mut journal, 7, &[3, 0]);
        assert_eq!((seen(&synced, 1_000), synced.end()), (vec![], 1_000), "not synced yet");
        let first = seen(&written, 1_000);
        assert_eq!(first.iter().map(|(_, at, len)| (*at, *len)).collect::<Vec<_>>(), [(7, 3), (7, 0)]);
        assert_eq!(first[1].0, end);
        journal.sync().unwrap();
        append(&mut journal, 8, &[5]);
        assert_eq!(seen(&synced, 1_000), first);
        assert_eq!(seen(&written, end).len(), 1);
        assert_eq!(seen(&written, first[0].0).len(), 2, "from the middle of a group, with its time");
        assert_eq!(seen(&written, first[0].0)[0].1, 7);
    }

    #[test]
    fn reading_begins_only_where_a_frame_does() {
        let mut journal = journal(&MemoryDevice::new());
        let tail = journal.tail(false).unwrap();
        let (start, end) = append(&mut journal, 7, &[3]);
        let first = seen(&tail, start)[0].0 - 3 - 6 - HEAD as u64;
        for position in start..=end {
            let frames = tail.frames(position);
            if [start, first, end].contains(&position) {
                assert!(frames.is_ok(), "{position}");
            } else {
                assert!(matches!(frames, Err(SeekError::Between { position: at }) if at == position), "{position}");
            }
        }
        assert!(matches!(tail.frames(999), Err(SeekError::Before { base: 1_000, .. })));
        assert!(matches!(tail.frames(end + 1), Err(SeekError::Beyond { end: at, .. }) if at == end));
    }

    #[test]
    fn marks_lead_to_every_group_before_and_after_reopening() {
        let device = MemoryDevice::new();
        let mut journal = journal(&device);
        let groups: Vec<u64> = (0..40).map(|at| append(&mut journal, at, &[100_000, 9]).0).collect();
        let tail = journal.tail(false).unwrap();
        let (reopened, _) =
            JournalFile::open(Box::new(device.copy(false)), Purpose::Hub, 0, 0, &mut |_| Ok::<(), ()>(())).unwrap();
        let again = reopened.tail(true).unwrap();
        let marks = |tail: &Tail| tail.published.marks.iter().map(|(_, mark)| *mark).collect::<Vec<_>>();
        assert_eq!(marks(&tail), marks(&again));
        assert_eq!(marks(&tail).len(), 4, "one a MiB");
        for (at, start) in groups.iter().enumerate() {
            for tail in [&tail, &again] {
                assert_eq!(seen(tail, *start).len(), 2 * (40 - at));
                assert!(tail.published.mark(*start).unwrap() + MARK_BYTES + 100_100 > *start);
            }
        }
    }

    #[test]
    fn damage_below_the_end_is_corruption_and_never_skipped() {
        let device = MemoryDevice::new();
        let mut journal = journal(&device);
        let tail = journal.tail(false).unwrap();
        let (_, second) = append(&mut journal, 1, &[3]);
        append(&mut journal, 2, &[3]);
        append(&mut journal, 3, &[3]);
        let mut bytes = device.bytes();
        let place = usize::try_from(second - 1_000).unwrap() + HEADER + 20;
        bytes[place] ^= 1;
        device.set_bytes(&bytes);
        let mut frames = tail.frames(1_000).unwrap();
        assert!(frames.next().unwrap().is_some());
        let error = frames.next().map(|entry| entry.is_some()).unwrap_err();
        assert!(matches!(error, JournalError::Corrupt { position, .. } if position == second), "{error}");
        device.set_bytes(&bytes[..HEADER + 4]);
        assert!(matches!(tail.frames(1_000).unwrap().next(), Err(JournalError::Io(_))), "cut off behind our back");
    }
}
