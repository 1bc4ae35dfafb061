//! Compaction: while a hub is opened, its journal is written anew, without what was erased and what is too old, and the
//! store is made anew from it.
//!
//! Nothing is taken away in place. The new journal is written beside the old one, synced, read back, and only then takes its
//! name. A crash before that leaves the old journal and its store; one after it leaves the new journal, which holds
//! everything, and perhaps a store to be thrown away.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::apply::stored;
use crate::builder::{Place, open_file};
use crate::clock::millis;
use crate::device::Device;
use crate::error::OpenError;
use crate::faults::{Call, name_fault_point};
use crate::files;
use crate::journal::{Entry, Group, GroupTime, JournalError, JournalFile, Log, Purpose, ReplayError};
use crate::record::{self, GAP, PAST, Past, Record, SNAPSHOT, Snapshot, StoredPair, Tombstone, key};
use crate::redact::{RedactError, Redaction};
use crate::store::{Store, marker, retire, walk};
use crate::ticket::CLASS_SYNC;

#[cfg(test)]
#[path = "compact_test.rs"]
mod tests;

/// Bytes of a snapshot's part, about: a batch of the store, which stays whole up to a few hundred kilobytes. Tests want
/// several.
const PART_BYTES: usize = if cfg!(test) { 256 } else { 256 << 10 };
/// Bytes of a group, about.
const GROUP_BYTES: usize = 256 << 10;
/// Pairs read from the store at once.
const PAIRS_READ: usize = 64;

/// What a compaction keeps. Compaction is done while the hub is opened, before it serves: the store keeps what was
/// overwritten in its file until it is made anew, which cannot be done under readers.
///
/// What is always kept: everything that can be read but through old events. Services (revoked ones too), clients, seats and
/// their counts, subjects, results, leases and their tokens are the same before and after.
///
/// # Durability
///
/// A crash at any moment leaves the journal as it was or the compacted one, whole and synced. Both are on the disk for a
/// while: it takes room for a second journal, and if there is none, the old one is left as it was.
///
/// # Examples
///
/// ```
/// use commissary::{Compact, Hub, MemoryDisk};
///
/// let disk = MemoryDisk::new();
/// Hub::builder().open_in_memory(&disk)?.close()?;
/// let hub = Hub::builder().compact(Compact::default()).open_in_memory(&disk)?;
/// assert!(hub.open_report().compacted.is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compact {
    /// Events journaled before this moment, by the wall clock, are dropped; `None` keeps all. Default `None`.
    pub keep_events_since: Option<DateTime<Utc>>,
    /// How long it is remembered that a subject was deleted: a report on it that comes later than this is taken for one on a
    /// subject that was never there. Default 30 days.
    pub keep_tombstones: Duration,
}

impl Default for Compact {
    fn default() -> Self {
        Self { keep_events_since: None, keep_tombstones: Duration::from_secs(30 * 24 * 60 * 60) }
    }
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Compacted {
    /// The journal's length before.
    pub journal_bytes_before: u64,
    /// The journal's length after.
    pub journal_bytes_after: u64,
    /// Bytes of the store's files before; 0 in memory.
    pub store_bytes_before: u64,
    /// Bytes of the store's files after; 0 in memory.
    pub store_bytes_after: u64,
    /// Old records that can still be read.
    pub records_kept: u64,
    /// Old records that were dropped: too old, or of erased subjects alone.
    pub records_dropped: u64,
    /// Deleted subjects of which the journal or the store still held something, and hold nothing now.
    pub subjects_erased: u64,
    /// Deletions that are not remembered any longer.
    pub tombstones_dropped: u64,
}

/// Writes a journal anew on `fresh`, whose positions go on where those of the old one end. Returns when it is synced and
/// was read back.
pub(crate) fn rewrite(
    old: &mut JournalFile,
    store: &dyn Store,
    fresh: Box<dyn Device>,
    terms: &Compact,
    now: GroupTime,
) -> Result<(JournalFile, Compacted), OpenError> {
    let journal = JournalFile::refound(fresh, Purpose::Hub, old.end(), now.wall_ms)?;
    crash_point();
    let redaction = Redaction::load(store)?;
    let done = Compacted { journal_bytes_before: old.bytes()?, ..Compacted::default() };
    let mut rewriting = Rewriting { journal, group: Group::new(), empty: true, gap: None, redaction, done };
    let since_ms = terms.keep_events_since.map_or(i64::MIN, |since| since.timestamp_millis());
    old.reread(&mut |entry| rewriting.past(&entry, since_ms)).map_err(|error| match error {
        ReplayError::Journal(error) => error.into(),
        ReplayError::Visit(error) => error,
    })?;
    rewriting.tell_gap()?;
    rewriting.flush()?;
    crash_point();
    let kept_ms = i64::try_from(millis(terms.keep_tombstones)).unwrap_or(i64::MAX);
    rewriting.snapshot(store, now, now.wall_ms.saturating_sub(kept_ms))?;
    crash_point();
    let Rewriting { mut journal, redaction, mut done, .. } = rewriting;
    journal.seal(now, CLASS_SYNC).map_err(JournalError::Io)?;
    crash_point();
    journal.reread(&mut |_| Ok::<_, OpenError>(())).map_err(|error| match error {
        ReplayError::Journal(error) => error.into(),
        ReplayError::Visit(error) => error,
    })?;
    done.journal_bytes_after = journal.bytes()?;
    done.subjects_erased = redaction.subjects_met();
    crash_point();
    Ok((journal, done))
}

/// A journal that is being written anew.
struct Rewriting<'s> {
    journal: JournalFile,
    group: Group,
    /// Nothing is in the group.
    empty: bool,
    /// Records were dropped for their age up to this position, of this time.
    gap: Option<(GroupTime, u64)>,
    redaction: Redaction<'s>,
    done: Compacted,
}

impl Rewriting<'_> {
    /// Copies what is left of an old record.
    fn past(&mut self, entry: &Entry<'_>, since_ms: i64) -> Result<(), OpenError> {
        let undecodable =
            |error: record::DecodeError| OpenError::Frame { position: entry.position, what: error.to_string() };
        let past = match entry.kind {
            SNAPSHOT => return Ok(()),
            PAST => record::decode("past record", entry.body).map_err(undecodable)?,
            kind => Past { position: entry.position, kind, body: entry.body },
        };
        if past.kind == GAP {
            self.gap = Some((entry.time, past.position));
            return Ok(());
        }
        let left = self.redaction.record(past.position, past.kind, past.body);
        let left = left.map_err(|error| match error {
            RedactError::Decode(error) => undecodable(error),
            RedactError::Store(error) => error.into(),
        })?;
        let is_old = entry.time.wall_ms < since_ms;
        if is_old {
            self.gap = Some((entry.time, past.position));
        }
        let Some(body) = left.filter(|_| !is_old) else {
            self.done.records_dropped += 1;
            return Ok(());
        };
        self.done.records_kept += 1;
        self.tell_gap()?;
        self.push(entry.time, entry.pallet, &Record::Past(Past { body: &body, ..past }))
    }

    /// Says up to where records were dropped for their age, if that was not said yet.
    fn tell_gap(&mut self) -> Result<(), OpenError> {
        match self.gap.take() {
            Some((time, position)) => {
                self.push(time, key::PALLET, &Record::Past(Past { position, kind: GAP, body: &[] }))
            }
            None => Ok(()),
        }
    }

    /// Writes the store down, without the tombstones that are older than `tombstones_ms`.
    fn snapshot(&mut self, store: &dyn Store, now: GroupTime, tombstones_ms: i64) -> Result<(), OpenError> {
        let (mut pairs, mut first) = (Vec::new(), true);
        for pair in walk(store, Vec::new(), None, PAIRS_READ) {
            let (name, value) = pair?;
            if key::tag(&name) == Some(key::GONE) {
                // No lease from before can be journaled any more.
                continue;
            }
            if key::tag(&name) == Some(key::DELETED) {
                let tombstone: Tombstone = stored(record::decode("tombstone", &value))?;
                if tombstone.wall_ms < tombstones_ms {
                    self.done.tombstones_dropped += 1;
                    continue;
                }
            }
            record::append(&mut pairs, &StoredPair { key: &name, value: &value });
            if pairs.len() >= PART_BYTES {
                self.part(now, first, false, &pairs)?;
                first = false;
                pairs.clear();
            }
        }
        self.part(now, first, true, &pairs)
    }

    fn part(&mut self, now: GroupTime, first: bool, last: bool, pairs: &[u8]) -> Result<(), OpenError> {
        self.push(now, key::PALLET, &Record::Snapshot(Snapshot { first, last, pairs }))?;
        self.flush()
    }

    /// Adds a record to the group under way, or to a new one if that is of another time or full.
    fn push(&mut self, time: GroupTime, pallet: u32, record: &Record<'_>) -> Result<(), OpenError> {
        if self.group.time() != time || self.group.bytes() >= GROUP_BYTES {
            self.flush()?;
        }
        if self.empty {
            // All of it is synced before it counts, whatever it was at first.
            self.group.begin(time, CLASS_SYNC);
            self.empty = false;
        }
        let pushed = self.group.push(record.kind(), pallet, |body| record.append_to(body));
        pushed.map(|_| ()).map_err(|error| JournalError::Io(io::Error::other(error)).into())
    }

    fn flush(&mut self) -> Result<(), OpenError> {
        if std::mem::replace(&mut self.empty, true) {
            return Ok(());
        }
        Ok(self.journal.put(&mut self.group).map_err(JournalError::Io)?)
    }
}

/// What compaction and its traces are in a directory:
///
/// | files | meaning | what opening does |
/// |---|---|---|
/// | `journal.new` | a compaction was under way and did not take effect | removes it |
/// | `journal.new`, `store.old` | the same, just before it would have | gives the store its name back, removes the new journal |
/// | `store.old` | a compaction took effect | removes it, and stores set aside earlier |
impl Place {
    /// Where a new journal is written: empty, and locked.
    pub(crate) fn fresh_journal(&self) -> Result<Box<dyn Device>, OpenError> {
        crash_point();
        match self {
            Self::Memory(disk) => {
                name_fault_point(Call::Create)?;
                Ok(Box::new(disk.fresh().clone()))
            }
            Self::Directory(directory) => open_file(directory, "journal.new"),
        }
    }

    /// Puts the fresh journal in the old one's place, and removes the store, which nothing holds open any more. Returns the
    /// journal's device.
    pub(crate) fn replace_journal(&self, fresh: Box<dyn Device>) -> Result<Box<dyn Device>, OpenError> {
        match self {
            Self::Memory(disk) => {
                name_fault_point(Call::Rename)?;
                disk.journal().take_over(disk.fresh());
                crash_point();
                name_fault_point(Call::SyncNames)?;
                disk.journal().sync_name();
                crash_point();
                name_fault_point(Call::Remove)?;
                disk.store().clear();
                crash_point();
                Ok(Box::new(disk.journal().clone()))
            }
            Self::Directory(directory) => {
                let (mut fresh, journal) = (fresh, directory.join("journal"));
                let failed = |source| OpenError::Io { path: directory.clone(), source };
                retire(&directory.join("store"), &directory.join("store.old"))?;
                crash_point();
                files::rename_synced(&directory.join("journal.new"), &journal).map_err(failed)?;
                fresh.renamed(&journal);
                crash_point();
                // It was of the store that is gone.
                marker::remove_beside(&directory.join("store")).map_err(failed)?;
                remove_old_stores(directory).map_err(failed)?;
                Ok(fresh)
            }
        }
    }

    /// Finishes or undoes what a compaction that was stopped left behind. The journal is locked.
    pub(crate) fn sweep(&self) -> Result<(), OpenError> {
        match self {
            Self::Memory(disk) if disk.fresh().size() > 0 => {
                name_fault_point(Call::Remove)?;
                disk.fresh().clear();
            }
            Self::Memory(_) => {}
            Self::Directory(directory) => {
                sweep(directory).map_err(|source| OpenError::Io { path: directory.clone(), source })?;
            }
        }
        Ok(())
    }

    /// Removes a store that reflects a journal from before a compaction, and may hold what that erased.
    pub(crate) fn discard_store(&self) -> Result<(), OpenError> {
        match self {
            Self::Memory(disk) => {
                name_fault_point(Call::Remove)?;
                disk.store().clear();
            }
            Self::Directory(directory) => {
                let (store, old) = (directory.join("store"), directory.join("store.old"));
                retire(&store, &old)?;
                marker::remove_beside(&store)
                    .and_then(|()| remove_old_stores(directory))
                    .map_err(|source| OpenError::Io { path: directory.clone(), source })?;
            }
        }
        Ok(())
    }
}

fn sweep(directory: &Path) -> io::Result<()> {
    let (fresh, old, store) = (directory.join("journal.new"), directory.join("store.old"), directory.join("store"));
    if fresh.try_exists()? {
        tracing::info!("a compaction did not take effect: the journal is as it was");
        if old.try_exists()? && !store.try_exists()? {
            files::rename_synced(&old, &store)?;
        }
        files::remove_file(&fresh)
    } else if old.try_exists()? {
        tracing::info!("a compaction took effect: removing what it left behind");
        remove_old_stores(directory)
    } else {
        Ok(())
    }
}

/// Removes every store but the one in use. The one that is the sign that this is to be done goes last.
fn remove_old_stores(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("store.damaged-") {
            remove(&entry.path())?;
        }
        crash_point();
    }
    remove(&directory.join("store.old"))?;
    crash_point();
    Ok(())
}

/// Removes a directory and what is in it, or a file.
fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { files::remove_dir_all(path) } else { files::remove_file(path) }
}

/// Where a crash may come: a test stops here.
#[cfg(not(test))]
pub(crate) fn crash_point() {}

#[cfg(test)]
pub(crate) use self::tests::{crash_point, stop_at};
