//! The store on disk: sled 0.34.7, held by the rules its crash measurements taught.
//!
//! Its `flush` reaches the operating system and not the disk, so a checkpoint syncs the file itself. It panics on some damaged images, so
//! every call into it is caught. It leaves a half-written snapshot behind when killed, so those go before it opens. And it frees memory
//! only when somebody drives the epoch collector it shares, so every batch does.
//!
//! # Power cuts
//!
//! sled has no rule of its own for what a power cut leaves of unsynced data, so there are two. What is unsynced stays within
//! [`UNSYNCED_BYTES_MAX`], which in simulated cuts was always found whole; for a million small subjects this costs about 5 % of what
//! could be made visible in the same time without it, where a sync takes well under a millisecond. And a marker file stands beside the
//! store from the first batch until it was closed in order: a store that was not closed before the machine stopped is not opened
//! again but rebuilt from the journal, whatever it looks like (see [`marker`](super::marker)). A process that ends, however it ends,
//! takes nothing with it that it had written, and costs no rebuild.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::folder::{lock, refuse_foreign, size_of_files};
use super::marker::Marker;
use super::shield::{self, Shield};
use super::{Batch, Pair, Store, StoreError, VERSION_KEY, assert_unreserved};
use crate::FORMAT_VERSION;
use crate::faults::{Call, fault_point};
use crate::files::{self, sync_dir, sync_parent};
use crate::sync::{AtomicU64, Ordering};

/// One turn of the epoch collector for so many records of a batch, which held memory at a tenth of what it was without.
const RECORDS_PER_EPOCH_FLUSH: usize = 16;

/// Turns of the collector whatever the batch's size: small batches leave garbage too.
const EPOCH_FLUSHES_MIN: usize = 4;

/// The unit sled allocates its file in, fixed when a store is created: eight times its own default.
///
/// sled reuses a segment as soon as the data that replaced its content is written, not when that is on disk. So what is unsynced must
/// stay inside about one segment: in simulated power cuts that lost any subset of the unsynced blocks, of 100 stores with a tail of
/// many segments 13 came up empty and 13 held parts of batches, without an error; with batches of 200 KB on random keys and segments of
/// 512 KiB, 8 of 600; with these segments none of 400, and with batches of 1.2 MB none of 50, but with 1.9 MB one of 14. Memory and speed
/// were no worse.
/// Another value here makes sled refuse the stores there are, which are then set aside and rebuilt.
const SEGMENT_BYTES: usize = 4 << 20;

/// Several batches may be on their way to the disk at once while they hold no more bytes than this; a larger one goes alone.
///
/// Far below a segment, because sled writes the page around a record, not the record.
const UNSYNCED_BYTES_MAX: u64 = 64 << 10;

/// What sled writes about a record besides its bytes, rounded up.
const RECORD_OVERHEAD_BYTES: u64 = 32;

/// What stands under the version's key.
const SUPPORTED: u32 = FORMAT_VERSION as u32;

/// The file sled keeps its log in, and locks.
const LOG_FILE: &str = "db";

/// A store in a directory of its own.
///
/// # Concurrency
///
/// A batch and a read take sled's process-wide reader-writer lock, one pair at a time for a scan: not lock-free, and shared by all
/// stores of the process. sled runs worker threads of its own, about ten.
///
/// # Panics
///
/// None come out: sled's are caught and returned as [`StoreError::Panicked`], after which every call returns [`StoreError::Closed`].
/// The panic hook runs before the catch, so a message on standard error is to be expected on a damaged store.
pub(crate) struct SledStore {
    /// `None` only while dropping.
    db: Option<::sled::Db>,
    dir: PathBuf,
    shield: Shield,
    /// Bytes applied since the last sync; one thread applies and checkpoints, so no two of them subtract the same bytes.
    unsynced_bytes: AtomicU64,
    marker: Marker,
}

impl SledStore {
    /// Opens or creates the store in `dir`, with about `cache_bytes` of cache.
    ///
    /// Reads the version, the first and the last pair, so that damage shows here rather than later. When it returns, the store's files and
    /// their directory entries are on disk.
    pub(crate) fn open(dir: &Path, cache_bytes: u64) -> Result<SledStore, StoreError> {
        prepare(dir)?;
        // No flusher thread: with it, power cuts lost whole stores. sled also accepts a "mode",
        // which this version reads nowhere.
        let config = ::sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None)
            .segment_size(SEGMENT_BYTES);
        fault_point(Call::StoreOpen)?;
        let db = caught(|| config.open())?;
        let store = SledStore {
            db: Some(db),
            dir: dir.to_owned(),
            shield: Shield::default(),
            unsynced_bytes: AtomicU64::new(0),
            marker: Marker::beside(dir),
        };
        store.admit_version()?;
        store.call(|db| db.first().and_then(|_| db.last()))?;
        store.checkpoint()?;
        sync_all_files(dir)?;
        Ok(store)
    }

    /// Checks the version before anything else is read, or writes it into a new store.
    fn admit_version(&self) -> Result<(), StoreError> {
        let Some(found) = self.call(|db| db.get(VERSION_KEY))? else {
            if self.call(|db| db.first())?.is_some() {
                return Err(StoreError::Corrupted { what: "it holds pairs but no format version".to_owned() });
            }
            let version = SUPPORTED.to_be_bytes();
            return self.write(|db| db.insert(VERSION_KEY, &version[..]).map(|_| ()));
        };
        let Ok(found) = <[u8; 4]>::try_from(&*found) else {
            return Err(StoreError::Corrupted { what: format!("its format version has {} bytes, not 4", found.len()) });
        };
        match u32::from_be_bytes(found) {
            SUPPORTED => Ok(()),
            found => Err(StoreError::Version { found, supported: SUPPORTED }),
        }
    }

    /// Calls into sled, catching its panics; after one, nothing is asked of it again.
    fn call<T>(&self, ask: impl FnOnce(&::sled::Db) -> ::sled::Result<T>) -> Result<T, StoreError> {
        let db = self.db.as_ref().ok_or(StoreError::Closed)?;
        self.shield.call(|| {
            fault_point(Call::StoreRead)?;
            ask(db).map_err(translated)
        })
    }

    /// Syncs what is under way if `bytes` more would make it too long to survive a power cut.
    fn make_room(&self, bytes: u64) -> Result<(), StoreError> {
        match self.unsynced_bytes.load(Ordering::Relaxed) {
            0 => Ok(()),
            unsynced if unsynced.saturating_add(bytes) <= UNSYNCED_BYTES_MAX => Ok(()),
            _ => self.checkpoint(),
        }
    }

    /// Has the store made anew by the next opening: a batch of sled's that fails in its middle is not taken back, and a write that sled does
    /// on threads of its own shows in a later call.
    fn doubt(&self, why: &StoreError) {
        if matches!(why, StoreError::Closed) {
            return;
        }
        if let Err(error) = self.marker.doubt() {
            tracing::error!(dir = %self.dir.display(), %why, %error, "a write failed, and the store could not be marked: rebuild it");
        }
    }

    /// As `call`, for writes: any failure closes the store, because sled may hold part of what was being written.
    fn write<T>(&self, ask: impl FnOnce(&::sled::Db) -> ::sled::Result<T>) -> Result<T, StoreError> {
        let db = self.db.as_ref().ok_or(StoreError::Closed)?;
        self.shield.write(|| ask(db).map_err(translated)).inspect_err(|error| self.doubt(error))
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if key == VERSION_KEY {
            return Ok(None);
        }
        let value = self.call(|db| db.get(key))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, StoreError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(Vec::new());
        }
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        self.call(|db| {
            db.range::<&[u8], _>((Bound::Included(start), upper)).filter(is_callers).map(owned).take(limit).collect()
        })
    }

    fn last(&self, start: &[u8], last: &[u8]) -> Result<Option<Pair>, StoreError> {
        if last < start {
            return Ok(None);
        }
        self.call(|db| db.range(start..=last).rev().filter(is_callers).map(owned).next().transpose())
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        assert_unreserved(&batch);
        // Never split, however large: atomicity is the point. The bound on a group is its writer's to keep.
        let records = batch.len();
        let bytes = bytes_of(&batch);
        self.make_room(bytes)?;
        if let Err(source) = self.marker.set() {
            // Nothing of the batch was written, but the caller is told that this is unknown: it must not go on.
            self.shield.fail();
            return Err(source.into());
        }
        self.write(|db| {
            fault_point(Call::Apply)?;
            if let Err(error) = fault_point(Call::ApplyPart) {
                db.apply_batch(writes(batch.iter().take(records / 2)))?;
                return Err(error.into());
            }
            db.apply_batch(writes(batch.iter()))?;
            fault_point(Call::Applied)?;
            for _ in 0..records / RECORDS_PER_EPOCH_FLUSH + EPOCH_FLUSHES_MIN {
                crossbeam_epoch::pin().flush();
            }
            Ok(())
        })?;
        self.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        let unsynced = self.unsynced_bytes.load(Ordering::Relaxed);
        self.write(|db| {
            fault_point(Call::Checkpoint)?;
            db.flush()?;
            fault_point(Call::Checkpointed)?;
            // sled's flush starts the write-back of the log and waits for it, which covers neither the file's length nor its blocks.
            // Large values are files of their own, synced by sled; their names are not.
            open_log(&self.dir)?.sync_data()?;
            sync_dir(&self.dir.join("blobs"))?;
            Ok(())
        })?;
        // Only what was there before the flush: a batch applied meanwhile may have missed it.
        self.unsynced_bytes.fetch_sub(unsynced, Ordering::Relaxed);
        Ok(())
    }

    fn finish(&self) -> Result<(), StoreError> {
        self.checkpoint()?;
        if let Err(error) = self.marker.clear() {
            tracing::warn!(dir = %self.dir.display(), %error, "the store's marker stays; a restart of the machine will cost a rebuild");
        }
        Ok(())
    }

    fn size_on_disk(&self) -> Result<u64, StoreError> {
        // Not sled's own figure: it fails when a large value is removed while it counts.
        Ok(size_of_files(&self.dir)?)
    }
}

impl Drop for SledStore {
    /// Closes sled, which flushes; its drop panics when that fails, and a panic here could meet another.
    fn drop(&mut self) {
        let db = self.db.take();
        shield::close(&self.dir, || drop(db));
    }
}

impl fmt::Debug for SledStore {
    /// sled's own would print every pair.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SledStore")
            .field("dir", &self.dir)
            .field("shield", &self.shield)
            .finish_non_exhaustive()
    }
}

/// A batch as sled takes it.
fn writes<'a>(pairs: impl Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)>) -> ::sled::Batch {
    let mut writes = ::sled::Batch::default();
    for (key, value) in pairs {
        match value {
            Some(value) => writes.insert(key.as_slice(), value.as_slice()),
            None => writes.remove(key.as_slice()),
        }
    }
    writes
}

/// Runs a call into sled and turns its errors and panics into ours.
fn caught<T>(ask: impl FnOnce() -> ::sled::Result<T>) -> Result<T, StoreError> {
    shield::caught(|| ask().map_err(translated))
}

fn translated(error: ::sled::Error) -> StoreError {
    match error {
        ::sled::Error::Io(source) => {
            // sled wraps the refusal of the lock in an error of no kind; its words are all there is to know it by.
            if source.to_string().contains("could not acquire lock on") {
                return StoreError::Locked;
            }
            StoreError::Io { source }
        }
        ::sled::Error::Corruption { at, .. } => {
            StoreError::Corrupted { what: format!("sled's checks failed at {at:?}") }
        }
        other => StoreError::Corrupted { what: other.to_string() },
    }
}

/// About what a batch adds to sled's file, if every record is written once.
fn bytes_of(batch: &Batch) -> u64 {
    batch.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).fold(0, |sum, bytes| {
        u64::try_from(bytes).map_or(u64::MAX, |bytes| bytes.saturating_add(sum).saturating_add(RECORD_OVERHEAD_BYTES))
    })
}

/// Whether an entry is the callers', not the store's own; errors pass.
fn is_callers(entry: &::sled::Result<(::sled::IVec, ::sled::IVec)>) -> bool {
    !matches!(entry, Ok((key, _)) if key == VERSION_KEY)
}

fn owned(entry: ::sled::Result<(::sled::IVec, ::sled::IVec)>) -> ::sled::Result<Pair> {
    entry.map(|(key, value)| (key.to_vec(), value.to_vec()))
}

/// Makes `dir` fit to be opened: there, ours, held by nobody, and without half-written snapshots.
fn prepare(dir: &Path) -> Result<(), StoreError> {
    if !dir.try_exists()? {
        files::create_dir_all(dir)?;
        sync_parent(dir)?;
        return Ok(());
    }
    let mut half_written = Vec::new();
    let mut foreign = None;
    let mut ours = false;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        match name.to_string_lossy().as_ref() {
            LOG_FILE | "conf" | "blobs" => ours = true,
            name if name.starts_with("snap.") && name.ends_with(".generating") => {
                half_written.push(dir.join(name));
            }
            name if name.starts_with("snap.") => ours = true,
            name => foreign = Some(name.to_owned()),
        }
    }
    if let (Some(name), false) = (foreign, ours) {
        return Err(refuse_foreign(dir, &name, "sled"));
    }
    // Under the lock, or a snapshot that a living process is just writing would be pulled from under it.
    let held = lock(dir)?;
    for path in half_written {
        // A kill while sled writes a snapshot leaves this behind, and the next open would take it for a snapshot and fail for good.
        tracing::info!(path = %path.display(), "removing a half-written snapshot");
        files::remove_file(&path)?;
    }
    if let Some(log) = held {
        // sled's opening writes a snapshot of the log as it reads it now, and that may not be on disk yet.
        log.sync_all()?;
    }
    Ok(())
}

fn open_log(dir: &Path) -> io::Result<File> {
    File::options().read(true).write(true).open(dir.join(LOG_FILE))
}

/// Syncs every file of a store just opened, and the directories that name them.
fn sync_all_files(dir: &Path) -> io::Result<()> {
    for name in ["conf", LOG_FILE] {
        File::options().read(true).write(true).open(dir.join(name))?.sync_all()?;
    }
    sync_dir(&dir.join("blobs"))?;
    sync_dir(dir)?;
    sync_parent(dir)
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{batch, conforms};
    use super::super::folder::{self, SetAside, copy};
    use super::*;
    use crate::sync::AtomicU32;

    const CACHE: u64 = 4 << 20;

    fn open_or_set_aside(dir: &Path, cache_bytes: u64) -> Result<(SledStore, Option<SetAside>), StoreError> {
        folder::open_or_set_aside(dir, |dir| SledStore::open(dir, cache_bytes))
    }

    fn everything(store: &SledStore) -> Vec<Pair> {
        store.scan(b"", None, usize::MAX).unwrap()
    }

    /// A closed store of a thousand pairs over several segments, with a snapshot and a large value; returns what it holds.
    fn populated(dir: &Path) -> Vec<Pair> {
        let mut pairs = Vec::new();
        for generation in 0..3_u8 {
            let store = SledStore::open(dir, CACHE).unwrap();
            for group in 0..20_u8 {
                store.apply((0..50_u8).map(|i| (vec![1, group, i], Some(vec![generation; 600]))).collect()).unwrap();
            }
            store.apply(batch([(b"big", Some(&vec![generation; 1 << 20]))])).unwrap();
            store.checkpoint().unwrap();
            pairs = everything(&store);
        }
        pairs
    }

    /// The repeatable noise the damage is made of.
    fn next(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 33
    }

    #[test]
    fn sled_conforms() {
        let base = tempfile::tempdir().unwrap();
        let made = AtomicU32::new(0);
        conforms(|| {
            let n = made.fetch_add(1, Ordering::Relaxed);
            Box::new(SledStore::open(&base.path().join(n.to_string()), CACHE).unwrap())
        });
    }

    #[test]
    fn reopening_keeps_what_was_checkpointed() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("deep/er/store");
        let expected = populated(&dir);
        assert_eq!(expected.len(), 1_001);
        for _ in 0..10 {
            let (store, aside) = open_or_set_aside(&dir, CACHE).unwrap();
            assert!(aside.is_none());
            assert_eq!(everything(&store), expected);
            assert!(store.size_on_disk().unwrap() > 1 << 20);
        }
    }

    #[test]
    fn second_open_is_refused_and_moves_nothing() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("store");
        let store = SledStore::open(&dir, CACHE).unwrap();
        let generating = dir.join("snap.00.generating");
        fs::write(&generating, b"").unwrap();
        assert!(matches!(SledStore::open(&dir, CACHE), Err(StoreError::Locked)));
        assert!(matches!(open_or_set_aside(&dir, CACHE), Err(StoreError::Locked)));
        assert!(generating.exists(), "the files of a living store are not touched");
        assert!(
            matches!(
                caught(|| ::sled::Config::new().path(&dir).segment_size(SEGMENT_BYTES).open()),
                Err(StoreError::Locked)
            ),
            "sled's own refusal is known"
        );
        store.apply(batch([(b"a", Some(b"1"))])).unwrap();
        drop(store);
        assert!(SledStore::open(&dir, CACHE).is_ok());
    }

    #[test]
    fn half_written_snapshot_is_cured() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("store");
        let expected = populated(&dir);
        let generating = dir.join("snap.FFFFFFFFFFFFFFFF.generating");
        fs::write(&generating, b"").unwrap();
        let (store, aside) = open_or_set_aside(&dir, CACHE).unwrap();
        assert!(aside.is_none());
        assert!(!generating.exists());
        assert_eq!(everything(&store), expected);
    }

    #[test]
    fn unknown_version_is_refused_and_not_set_aside() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("store");
        let store = SledStore::open(&dir, CACHE).unwrap();
        store.write(|db| db.insert(VERSION_KEY, &[0, 0, 0, 7])).unwrap();
        drop(store);
        let refusal = open_or_set_aside(&dir, CACHE).unwrap_err();
        assert!(matches!(refusal, StoreError::Version { found: 7, supported: SUPPORTED }));
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
    }

    #[test]
    fn store_without_a_proper_version_is_set_aside() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("store");
        for (n, version) in [(1, None), (2, Some([1, 2, 3]))] {
            let store = SledStore::open(&dir, CACHE).unwrap();
            store.apply(batch([(b"a", Some(b"1"))])).unwrap();
            match version {
                Some(version) => store.write(|db| db.insert(VERSION_KEY, &version[..])).unwrap(),
                None => store.write(|db| db.remove(VERSION_KEY)).unwrap(),
            };
            drop(store);
            let (store, aside) = open_or_set_aside(&dir, CACHE).unwrap();
            let aside = aside.unwrap();
            assert!(matches!(aside.reason, StoreError::Corrupted { .. }), "{aside:?}");
            assert_eq!(aside.damaged, base.path().join(format!("store.damaged-{n}")));
            assert!(everything(&store).is_empty());
        }
    }

    #[test]
    fn foreign_directory_is_neither_opened_nor_moved() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("letters");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("love.txt"), b"dear").unwrap();
        let refusal = open_or_set_aside(&dir, CACHE).unwrap_err();
        assert!(matches!(refusal, StoreError::Io { .. }), "{refusal:?}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        assert!(dir.join("love.txt").exists());
    }

    #[test]
    fn file_in_the_place_of_the_directory_is_set_aside() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("store");
        fs::write(&dir, b"not a directory").unwrap();
        let (store, aside) = open_or_set_aside(&dir, CACHE).unwrap();
        assert_eq!(fs::read(aside.unwrap().damaged).unwrap(), b"not a directory");
        assert!(everything(&store).is_empty());
    }

    #[test]
    fn panic_in_the_engine_is_caught_and_closes_the_store() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("store");
        let store = SledStore::open(&dir, CACHE).unwrap();
        let error = store.call(|_| -> ::sled::Result<()> { panic!("page {}", 7) }).unwrap_err();
        assert!(matches!(error, StoreError::Panicked { message } if message == "page 7"));
        assert!(matches!(store.get(b"a"), Err(StoreError::Closed)));
        assert!(matches!(store.apply(Batch::new()), Err(StoreError::Closed)));
        assert!(matches!(store.checkpoint(), Err(StoreError::Closed)));
        drop(store);
        let (store, aside) = open_or_set_aside(&dir, CACHE).unwrap();
        assert!(aside.is_none());
        store.apply(batch([(b"a", Some(b"1"))])).unwrap();
        store.write(|_| Err::<(), _>(::sled::Error::Io(io::ErrorKind::StorageFull.into()))).unwrap_err();
        assert!(matches!(store.get(b"a"), Err(StoreError::Closed)), "a failed write closes too");
    }

    /// Opens a damaged store and uses it: an error is fine anywhere, a panic that comes out is not.
    fn open_and_use(dir: &Path) -> bool {
        let (store, aside) = open_or_set_aside(dir, CACHE).unwrap();
        if let Some(aside) = &aside {
            assert!(everything(&store).is_empty(), "a store that took another's place is empty");
            assert!(aside.damaged.exists());
            store.apply(batch([(b"a", Some(b"1"))])).unwrap();
            store.checkpoint().unwrap();
            return true;
        }
        // Damage beyond what opening reads shows as an error or, since sled takes it for the end of its log, not at all. Bits that rot
        // on the disk are so not all found; what a power cut leaves is tested apart.
        drop(store.scan(b"", None, usize::MAX));
        drop(store.last(b"", &[0xff; 8]));
        drop(store.apply(batch([(b"a", Some(b"1")), (&[1, 3, 3], None)])));
        drop(store.checkpoint());
        false
    }

    #[test]
    fn damaged_store_opens_or_is_set_aside() {
        let rounds = std::env::var("COMMISSARY_DAMAGE_ROUNDS").map_or(40, |rounds| rounds.parse().unwrap());
        let (base, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let whole = kept.path().join("whole");
        populated(&whole);
        let mut seed = 7;
        let mut set_aside = 0;
        for round in 0..rounds {
            let dir = base.path().join("store");
            copy(&whole, &dir);
            let mut files: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
            files.sort();
            files.retain(|path| path.is_file());
            let pick = usize::try_from(next(&mut seed)).unwrap() % files.len();
            let file = if round % 3 == 0 { &files[pick] } else { &dir.join(LOG_FILE) };
            let mut bytes = fs::read(file).unwrap();
            let at = |seed: &mut u64, len: usize| usize::try_from(next(seed)).unwrap() % len.max(1);
            if round % 5 == 0 {
                // Without its snapshot the engine reads the whole log again, which is where it panics.
                files
                    .iter()
                    .filter(|path| path.to_string_lossy().contains("snap.") && *path != file)
                    .for_each(|path| fs::remove_file(path).unwrap());
            }
            match round % 4 {
                0 => bytes.truncate(at(&mut seed, bytes.len())),
                1 => bytes.iter_mut().for_each(|byte| *byte = next(&mut seed).to_be_bytes()[7]),
                2 => {
                    for _ in 0..200 {
                        let i = at(&mut seed, bytes.len());
                        bytes[i] ^= 1 << (next(&mut seed) % 8);
                    }
                }
                _ => {
                    let from = at(&mut seed, bytes.len());
                    bytes[from..].iter_mut().take(4_096).for_each(|byte| *byte = 0);
                }
            }
            fs::write(file, bytes).unwrap();
            set_aside += u32::from(open_and_use(&dir));
            for entry in fs::read_dir(base.path()).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
            }
        }
        assert!(set_aside > 0, "no damage was noticed at all");
    }

    /// Puts back, at random, blocks of the log as they were at the last sync: what a power cut may do to everything after it.
    fn lose_unsynced_blocks(synced: &Path, live: &Path, seed: &mut u64) {
        const BLOCK: usize = 4_096;
        let before = fs::read(synced.join(LOG_FILE)).unwrap();
        let mut log = fs::read(live.join(LOG_FILE)).unwrap();
        let odds = 1 + next(seed) % 60;
        for (n, block) in log.chunks_mut(BLOCK).enumerate() {
            let mut old = vec![0; block.len()];
            let tail = before.get(n * BLOCK..).unwrap_or_default();
            let kept = tail.len().min(old.len());
            old[..kept].copy_from_slice(&tail[..kept]);
            if old != block && next(seed) % 61 < odds {
                block.copy_from_slice(&old);
            }
        }
        fs::write(synced.join(LOG_FILE), log).unwrap();
    }

    #[test]
    fn power_cut_keeps_whole_batches_and_the_last_sync() {
        let rounds = std::env::var("COMMISSARY_CUT_ROUNDS").map_or(12, |rounds| rounds.parse().unwrap());
        let mut seed = 11;
        for round in 0..rounds {
            let base = tempfile::tempdir().unwrap();
            let (live, synced) = (base.path().join("live"), base.path().join("synced"));
            let store = SledStore::open(&live, CACHE).unwrap();
            copy(&live, &synced);
            let (mut states, mut kept) = (vec![Vec::new()], 0);
            let (batches, records) = [(400, 20), (20, 700), (6, 3_600)][round % 3];
            for n in 0..=(next(&mut seed) % batches) {
                let key = |seed: &mut u64| (next(seed) % (25 * records)).to_be_bytes().to_vec();
                let mut writes: Batch =
                    (0..records).map(|_| (key(&mut seed), Some(n.to_be_bytes().repeat(38)))).collect();
                writes.insert(b"position".to_vec(), Some(n.to_be_bytes().to_vec()));
                let unsynced = store.unsynced_bytes.load(Ordering::Relaxed);
                store.make_room(bytes_of(&writes)).unwrap();
                if store.unsynced_bytes.load(Ordering::Relaxed) < unsynced {
                    kept = states.len() - 1;
                    fs::remove_dir_all(&synced).unwrap();
                    copy(&live, &synced);
                }
                store.apply(writes).unwrap();
                states.push(everything(&store));
            }
            store.call(|db| db.flush()).unwrap();
            lose_unsynced_blocks(&synced, &live, &mut seed);
            let (store, aside) = open_or_set_aside(&synced, CACHE).unwrap();
            if aside.is_none() {
                let pairs = everything(&store);
                let state = states.iter().position(|state| *state == pairs);
                assert!(
                    state >= Some(kept),
                    "round {round}: {state:?} of {} came back, {kept} were synced",
                    states.len()
                );
            }
        }
    }
}
