//! What a reader of the events keeps across restarts: where it was, and what it had made of what it read; a small file,
//! replaced whole.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::device::MemoryFiles;
use crate::error::ReadError;
use crate::events::{Event, EventKind};
use crate::faults::{Call, fault_point};
use crate::files;
use crate::follow::EventTail;
use crate::house::House;
use crate::id::check_service_id;
use crate::record;
use crate::sync::{Arc, dashmap::DashMap};
use crate::ticket::Durability;

#[cfg(test)]
#[path = "bookmark_test.rs"]
mod tests;

const MAGIC: &[u8; 8] = b"CMSRYMRK";
const FORMAT: u16 = 1;
/// Magic, format, kind, checksum.
const HEAD: usize = 16;

/// Whose bookmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MarkKind {
    Projection = 1,
    Outbox = 2,
}

impl MarkKind {
    fn directory(self) -> &'static str {
        match self {
            Self::Projection => "projections",
            Self::Outbox => "outboxes",
        }
    }
}

/// What was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bookmark {
    /// The hub's boot in which it was kept.
    pub(crate) boot: u32,
    /// That boot's event, if it was to be found: no other hub has it at that place and time.
    pub(crate) opened: Option<Opening>,
    /// Events before this position are in it.
    pub(crate) position: u64,
    /// Hub time at which nothing newer was there, ms.
    pub(crate) as_of_ms: u64,
    /// The version of the application's code that made the body.
    pub(crate) version: u32,
    /// Whose it is: file names may be less exact.
    pub(crate) id: String,
    #[serde(with = "serde_bytes")]
    pub(crate) body: Vec<u8>,
}

/// Where and when a hub was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Opening {
    position: u64,
    wall_ms: i64,
}

impl Opening {
    fn of(event: &Event, boot: u32) -> Option<Self> {
        let opened = Self { position: event.position, wall_ms: event.at.timestamp_millis() };
        (event.kind == EventKind::Opened { boot }).then_some(opened)
    }

    /// Whether this is the hub that was opened there. If a compaction dropped that event it cannot be told, and is believed.
    fn is_of(self, house: &House, boot: u32) -> Result<bool, ReadError> {
        let found = EventTail::open(house, self.position).and_then(|mut tail| tail.try_next());
        match found {
            Ok(Some(event)) => Ok(event.position != self.position || Self::of(&event, boot) == Some(self)),
            Ok(None) | Err(ReadError::BeyondEnd { .. } | ReadError::NotAPosition { .. }) => Ok(false),
            Err(ReadError::Lagged { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Found {
    Nothing,
    Bookmark(Bookmark),
    /// A file that is no use, and why.
    Bad(String),
}

/// Why a bookmark cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TakeError {
    /// The id is none.
    Id,
    /// Another holds it.
    InUse,
}

/// Where bookmarks are.
#[derive(Debug, Clone)]
pub(crate) enum MarkPlace {
    Directory(PathBuf),
    Memory(MemoryFiles),
}

/// The bookmarks of an open hub.
#[derive(Debug)]
pub(crate) struct Marks {
    place: MarkPlace,
    /// This opening of the hub, and where the journal ended before it.
    pub(crate) boot: u32,
    reached: u64,
    /// What the hub promises.
    pub(crate) durability: Durability,
    names: Arc<Names>,
}

/// File names of bookmarks.
#[derive(Debug, Default)]
struct Names {
    held: DashMap<String, ()>,
    /// Written since the hub was opened: what they reflect is in its journal.
    written: DashMap<String, ()>,
}

impl Marks {
    pub(crate) fn new(place: MarkPlace, boot: u32, reached: u64, durability: Durability) -> Self {
        Self { place, boot, reached, durability, names: Arc::default() }
    }

    /// Takes the bookmark of one reader, until what is returned is dropped. Cold.
    pub(crate) fn take(&self, kind: MarkKind, id: &str) -> Result<Mark, TakeError> {
        if !check_service_id(id) || id.starts_with('.') {
            return Err(TakeError::Id);
        }
        let name = format!("{}/{id}", kind.directory());
        if self.names.held.insert(name.clone(), ()).is_some() {
            return Err(TakeError::InUse);
        }
        let (place, names, id) = (self.place.clone(), Arc::clone(&self.names), id.to_owned());
        Ok(Mark { place, kind, id, name, boot: self.boot, opened: None, names, last: None, was_read: false })
    }

    /// Finds this opening's event, for what will be written.
    pub(crate) fn anchor(&self, house: &House, mark: &mut Mark) -> Result<(), ReadError> {
        let mut tail = EventTail::open(house, self.reached)?;
        while let (None, Some(event)) = (mark.opened, tail.try_next()?) {
            mark.opened = Opening::of(&event, self.boot);
        }
        Ok(())
    }

    /// Whether the journal holds what a bookmark reflects. It does not if it lost its end since, or was lost: then positions
    /// beyond that are given out again.
    pub(crate) fn holds(&self, house: &House, mark: &Mark, bookmark: &Bookmark) -> Result<bool, ReadError> {
        if self.names.written.contains_key(&mark.name) {
            return Ok(true);
        }
        if bookmark.boot >= self.boot || bookmark.position > self.reached {
            return Ok(false);
        }
        if let Some(opened) = bookmark.opened
            && !opened.is_of(house, bookmark.boot)?
        {
            return Ok(false);
        }
        let mut tail = match EventTail::open(house, bookmark.position) {
            // What it needs next is gone: that is to be said, and is not this.
            Err(ReadError::Lagged { .. }) => return Ok(true),
            Err(ReadError::BeyondEnd { .. } | ReadError::NotAPosition { .. }) => return Ok(false),
            opened => opened?,
        };
        let next = bookmark.boot.saturating_add(1);
        if next == self.boot {
            return Ok(true);
        }
        // The opening after the one in which it was kept stands behind it.
        loop {
            match tail.try_next() {
                Ok(Some(Event { kind: EventKind::Opened { boot }, .. })) => return Ok(boot <= next),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(false),
                Err(ReadError::Lagged { .. }) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The bookmark of one reader, which alone may write it.
#[derive(Debug)]
pub(crate) struct Mark {
    place: MarkPlace,
    kind: MarkKind,
    id: String,
    name: String,
    pub(crate) boot: u32,
    pub(crate) opened: Option<Opening>,
    names: Arc<Names>,
    /// How the file began when it was last read or written here.
    last: Option<[u8; HEAD]>,
    was_read: bool,
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.names.held.remove(&self.name);
    }
}

impl Mark {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn read(&mut self) -> io::Result<Found> {
        self.last = self.head()?;
        self.was_read = true;
        self.look()
    }

    fn look(&self) -> io::Result<Found> {
        let bytes = match &self.place {
            MarkPlace::Memory(files) => files.read(&self.name),
            MarkPlace::Directory(directory) => match files::read(&directory.join(&self.name)) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            },
        };
        Ok(match bytes.map(|bytes| decode(self.kind, &self.id, &bytes)) {
            None => Found::Nothing,
            Some(Ok(bookmark)) => Found::Bookmark(bookmark),
            Some(Err(what)) => Found::Bad(what),
        })
    }

    /// True if what stands there was written by one of an earlier opening, dropped late.
    fn is_outdated(&self) -> io::Result<bool> {
        let found = if self.was_read { self.look()? } else { Found::Nothing };
        Ok(matches!(found, Found::Bookmark(bookmark) if bookmark.boot < self.boot))
    }

    /// Returns when the bookmark would survive a power cut; until then the one before does. Refuses to replace what another
    /// has written: a reader of a hub that was opened again since.
    pub(crate) fn write(&mut self, bookmark: &Bookmark) -> io::Result<()> {
        if self.head()? != self.last && !self.is_outdated()? {
            return Err(io::Error::other("another reader has written here since: the hub was opened again"));
        }
        let bytes = encode(self.kind, bookmark);
        let last = bytes.first_chunk().copied();
        match &self.place {
            MarkPlace::Memory(files) => {
                fault_point(Call::Create)?;
                files.replace(&self.name, bytes);
            }
            MarkPlace::Directory(directory) => {
                if let Err(error) = replace(directory, self.kind, &directory.join(&self.name), &bytes) {
                    // It may have its name already.
                    self.last = self.head().unwrap_or(self.last);
                    return Err(error);
                }
            }
        }
        self.last = last;
        self.names.written.insert(self.name.clone(), ());
        Ok(())
    }

    /// How the file begins; `None` if there is none. A file that is shorter than that is as good as none.
    fn head(&self) -> io::Result<Option<[u8; HEAD]>> {
        let directory = match &self.place {
            MarkPlace::Memory(files) => {
                return Ok(files.read(&self.name).and_then(|bytes| bytes.first_chunk().copied()));
            }
            MarkPlace::Directory(directory) => directory,
        };
        let mut head = [0; HEAD];
        match File::open(directory.join(&self.name)).and_then(|mut file| file.read_exact(&mut head)) {
            Ok(()) => Ok(Some(head)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn replace(directory: &Path, kind: MarkKind, path: &Path, bytes: &[u8]) -> io::Result<()> {
    files::create_dir_synced(&directory.join(kind.directory()))?;
    // No id has this character.
    let mut fresh = path.as_os_str().to_os_string();
    fresh.push("~");
    let fresh = PathBuf::from(fresh);
    files::write(&fresh, bytes)?;
    files::rename_synced(&fresh, path)
}

fn encode(kind: MarkKind, bookmark: &Bookmark) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + bookmark.body.len() + 100);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_be_bytes());
    bytes.extend_from_slice(&(kind as u16).to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    record::append(&mut bytes, bookmark);
    let checksum = checksum(&bytes).to_be_bytes();
    if let Some(place) = bytes.get_mut(12..16) {
        place.copy_from_slice(&checksum);
    }
    bytes
}

/// Of everything but itself.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes.get(..12).unwrap_or_default());
    hasher.update(bytes.get(16..).unwrap_or_default());
    hasher.finalize()
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn decode(kind: MarkKind, id: &str, bytes: &[u8]) -> Result<Bookmark, String> {
    if bytes.get(..8) != Some(MAGIC.as_slice()) {
        return Err("the file is of another kind, or cut off".to_owned());
    }
    let format = number(bytes, 8).map(u16::from_be_bytes);
    if format != Some(FORMAT) {
        return Err(format!("the file has format version {}, this build reads {FORMAT}", format.unwrap_or_default()));
    }
    if number(bytes, 12).map(u32::from_be_bytes) != Some(checksum(bytes)) {
        return Err("the file is damaged: its checksum does not match".to_owned());
    }
    let bookmark: Bookmark = record::decode("bookmark", bytes.get(HEAD..).unwrap_or_default())
        .map_err(|error| format!("the file is damaged: {error}"))?;
    if number(bytes, 10).map(u16::from_be_bytes) != Some(kind as u16) || bookmark.id != id {
        return Err(format!("the file belongs to another: {}", bookmark.id));
    }
    Ok(bookmark)
}
