//! The store in redb 4: one file in the store's directory, a copy-on-write tree that is always whole.
//!
//! A batch is one transaction that is not made durable; a checkpoint is one that is, and takes all before it along. What a crash of
//! any kind leaves is the last checkpoint, exactly: so there is no bound on what is unsynced, and no marker. A checkpoint keeps the list of
//! free pages, so that opening after a crash need not read the whole file.

use std::fmt;
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use ::redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::folder::{lock, refuse_foreign, size_of_files};
use super::shield::{self, Shield};
use super::{Batch, BatchSize, Pair, Store, StoreError, VERSION_KEY, assert_unreserved};
use crate::FORMAT_VERSION;
use crate::faults::{Call, fault_point};
use crate::files::{self, sync_dir, sync_parent};

/// The one file of the store, which redb locks.
const FILE: &str = "redb";

const PAIRS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("pairs");

/// Where the format version stands: a table of its own, out of the readers' sight.
const ABOUT: TableDefinition<'static, &[u8], u32> = TableDefinition::new("about");

/// What stands under the version's key.
const SUPPORTED: u32 = FORMAT_VERSION as u32;

/// A store in a directory of its own.
///
/// # Concurrency
///
/// Readers and the writer take redb's locks for moments, to begin and to look up pages in its cache, and do not wait for each other's
/// transactions. A scan is a snapshot, which is more than [`Store`] promises. No threads.
///
/// # Panics
///
/// None come out: redb's are caught and returned as [`StoreError::Panicked`], after which every call returns [`StoreError::Closed`].
pub(crate) struct RedbStore {
    /// `None` only while dropping.
    db: Option<Database>,
    dir: PathBuf,
    shield: Shield,
}

impl RedbStore {
    /// Opens or creates the store in `dir`, with about `cache_bytes` of cache.
    ///
    /// Reads the version, the first and the last pair, so that damage shows here rather than later. When it returns, the store's file and
    /// its directory entries are on disk.
    pub(crate) fn open(dir: &Path, cache_bytes: u64) -> Result<RedbStore, StoreError> {
        prepare(dir)?;
        let mut builder = Database::builder();
        builder.set_cache_size(usize::try_from(cache_bytes).unwrap_or(usize::MAX));
        fault_point(Call::StoreOpen)?;
        let db = shield::caught(|| builder.create(dir.join(FILE)).map_err(|error| translated(error.into())))?;
        let store = RedbStore { db: Some(db), dir: dir.to_owned(), shield: Shield::default() };
        store.admit_version()?;
        store.read(|pairs| {
            pairs.first()?;
            pairs.last()?;
            Ok(())
        })?;
        sync_dir(dir)?;
        sync_parent(dir)?;
        Ok(store)
    }

    /// Checks the version before anything else is read, or writes it, and makes the tables, in a new store.
    fn admit_version(&self) -> Result<(), StoreError> {
        match self.call(version)? {
            Some(SUPPORTED) => Ok(()),
            Some(found) => Err(StoreError::Version { found, supported: SUPPORTED }),
            None if self.call(has_tables)? => {
                Err(StoreError::Corrupted { what: "it holds tables but no format version".to_owned() })
            }
            None => self.write(|db| {
                let write = db.begin_write()?;
                write.open_table(ABOUT)?.insert(VERSION_KEY, SUPPORTED)?;
                write.open_table(PAIRS)?;
                Ok(write.commit()?)
            }),
        }
    }

    /// Calls into redb, catching its panics; after one, nothing is asked of it again.
    fn call<T>(&self, ask: impl FnOnce(&Database) -> Result<T, ::redb::Error>) -> Result<T, StoreError> {
        let db = self.db.as_ref().ok_or(StoreError::Closed)?;
        self.shield.call(|| {
            fault_point(Call::StoreRead)?;
            ask(db).map_err(translated)
        })
    }

    /// Reads the pairs as they are now.
    fn read<T>(
        &self,
        ask: impl FnOnce(&ReadOnlyTable<&'static [u8], &'static [u8]>) -> Result<T, ::redb::Error>,
    ) -> Result<T, StoreError> {
        self.call(|db| ask(&db.begin_read()?.open_table(PAIRS)?))
    }

    /// As `call`, for writes: any failure closes the store, because redb may hold part of what was being written.
    fn write<T>(&self, ask: impl FnOnce(&Database) -> Result<T, ::redb::Error>) -> Result<T, StoreError> {
        let db = self.db.as_ref().ok_or(StoreError::Closed)?;
        self.shield.write(|| ask(db).map_err(translated))
    }
}

impl Store for RedbStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|pairs| Ok(pairs.get(key)?.map(|value| value.value().to_vec())))
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, StoreError> {
        // redb's range panics when it is inverted; ours is empty.
        if end.is_some_and(|end| end <= start) {
            return Ok(Vec::new());
        }
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        self.read(|pairs| {
            let mut found = Vec::new();
            for pair in pairs.range::<&[u8]>((Bound::Included(start), upper))?.take(limit) {
                let (key, value) = pair?;
                found.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(found)
        })
    }

    fn last(&self, start: &[u8], last: &[u8]) -> Result<Option<Pair>, StoreError> {
        if last < start {
            return Ok(None);
        }
        self.read(|pairs| {
            let found = pairs.range::<&[u8]>(start..=last)?.next_back().transpose()?;
            Ok(found.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
        })
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        assert_unreserved(&batch);
        self.write(|db| {
            fault_point(Call::Apply)?;
            let mut write = db.begin_write()?;
            write.set_durability(Durability::None)?;
            let mut pairs = write.open_table(PAIRS)?;
            for (key, value) in &batch {
                match value {
                    Some(value) => drop(pairs.insert(key.as_slice(), value.as_slice())?),
                    None => drop(pairs.remove(key.as_slice())?),
                }
            }
            drop(pairs);
            write.commit()?;
            fault_point(Call::Applied)?;
            Ok(())
        })
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        self.write(|db| {
            fault_point(Call::Checkpoint)?;
            let mut write = db.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            write.set_quick_repair(true);
            Ok(write.commit()?)
        })
    }

    fn size_on_disk(&self) -> Result<u64, StoreError> {
        Ok(size_of_files(&self.dir)?)
    }

    /// A page is copied once a batch, however many of its pairs change.
    fn batch_size(&self) -> BatchSize {
        BatchSize { changes: 32_768, bytes: 4 << 20 }
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        let db = self.db.take();
        shield::close(&self.dir, || drop(db));
    }
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RedbStore")
            .field("dir", &self.dir)
            .field("shield", &self.shield)
            .finish_non_exhaustive()
    }
}

/// The format version in the store, if there is one.
fn version(db: &Database) -> Result<Option<u32>, ::redb::Error> {
    match db.begin_read()?.open_table(ABOUT) {
        Ok(about) => Ok(about.get(VERSION_KEY)?.map(|found| found.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn has_tables(db: &Database) -> Result<bool, ::redb::Error> {
    Ok(db.begin_read()?.list_tables()?.next().is_some())
}

fn translated(error: ::redb::Error) -> StoreError {
    match error {
        ::redb::Error::Io(source) => StoreError::Io { source },
        ::redb::Error::DatabaseAlreadyOpen | ::redb::Error::LockProtocolMismatch => StoreError::Locked,
        ::redb::Error::PreviousIo | ::redb::Error::DatabaseClosed => StoreError::Closed,
        other => StoreError::Corrupted { what: other.to_string() },
    }
}

/// Makes `dir` fit to be opened: there, ours, and held by nobody.
fn prepare(dir: &Path) -> Result<(), StoreError> {
    if !dir.try_exists()? {
        files::create_dir_all(dir)?;
        sync_parent(dir)?;
        return Ok(());
    }
    if !dir.join(FILE).try_exists()?
        && let Some(entry) = fs::read_dir(dir)?.next()
    {
        return Err(refuse_foreign(dir, &entry?.file_name().to_string_lossy(), FILE));
    }
    drop(lock(dir)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{batch, conforms};
    use super::super::folder::{self, SetAside, copy};
    use super::super::sled::SledStore;
    use super::*;
    use crate::sync::{AtomicU32, Ordering};

    const CACHE: u64 = 1 << 20;

    fn open_or_set_aside(dir: &Path) -> Result<(RedbStore, Option<SetAside>), StoreError> {
        folder::open_or_set_aside(dir, |dir| RedbStore::open(dir, CACHE))
    }

    fn everything(store: &RedbStore) -> Vec<Pair> {
        store.scan(b"", None, usize::MAX).unwrap()
    }

    /// A closed store of a thousand pairs and a large value; returns what it holds.
    fn populated(dir: &Path) -> Vec<Pair> {
        let mut pairs = Vec::new();
        for generation in 0..3_u8 {
            let store = RedbStore::open(dir, CACHE).unwrap();
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

    fn below(seed: &mut u64, n: usize) -> usize {
        usize::try_from(next(seed)).unwrap() % n.max(1)
    }

    #[test]
    fn redb_conforms() {
        let base = tempfile::tempdir().unwrap();
        let made = AtomicU32::new(0);
        conforms(|| {
            let n = made.fetch_add(1, Ordering::Relaxed);
            Box::new(RedbStore::open(&base.path().join(n.to_string()), CACHE).unwrap())
        });
    }

    #[test]
    fn reopening_keeps_what_was_checkpointed() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("deep/er/store");
        let expected = populated(&dir);
        assert_eq!(expected.len(), 1_001);
        for _ in 0..5 {
            let (store, aside) = open_or_set_aside(&dir).unwrap();
            assert!(aside.is_none());
            assert_eq!(everything(&store), expected);
            assert!(store.size_on_disk().unwrap() > 1 << 20);
        }
    }

    #[test]
    fn second_open_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("store");
        let store = RedbStore::open(&dir, CACHE).unwrap();
        assert!(matches!(RedbStore::open(&dir, CACHE), Err(StoreError::Locked)));
        assert!(matches!(open_or_set_aside(&dir), Err(StoreError::Locked)));
        let refusal = ::redb::Database::create(dir.join(FILE)).unwrap_err();
        assert!(matches!(translated(refusal.into()), StoreError::Locked), "redb's own refusal is known");
        drop(store);
        assert!(RedbStore::open(&dir, CACHE).is_ok());
    }

    #[test]
    fn unknown_version_is_refused_and_not_set_aside() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("store");
        let store = RedbStore::open(&dir, CACHE).unwrap();
        let put = |db: &Database| {
            let write = db.begin_write()?;
            write.open_table(ABOUT)?.insert(VERSION_KEY, 7)?;
            Ok(write.commit()?)
        };
        store.write(put).unwrap();
        drop(store);
        let refusal = open_or_set_aside(&dir).unwrap_err();
        assert!(matches!(refusal, StoreError::Version { found: 7, supported: SUPPORTED }));
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
    }

    #[test]
    fn store_without_a_version_is_set_aside() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("store");
        populated(&dir);
        let store = RedbStore::open(&dir, CACHE).unwrap();
        let remove = |db: &Database| {
            let write = db.begin_write()?;
            write.delete_table(ABOUT)?;
            Ok(write.commit()?)
        };
        store.write(remove).unwrap();
        drop(store);
        let (store, aside) = open_or_set_aside(&dir).unwrap();
        let aside = aside.unwrap();
        assert!(matches!(aside.reason, StoreError::Corrupted { .. }), "{aside:?}");
        assert_eq!(aside.damaged, base.path().join("store.damaged-1"));
        assert!(everything(&store).is_empty());
    }

    #[test]
    fn directories_of_others_are_neither_opened_nor_moved() {
        let base = tempfile::tempdir().unwrap();
        let [letters, of_sled, of_redb] = ["letters", "sled", "redb"].map(|name| base.path().join(name));
        fs::create_dir(&letters).unwrap();
        fs::write(letters.join("love.txt"), b"dear").unwrap();
        assert!(matches!(open_or_set_aside(&letters).unwrap_err(), StoreError::Io { .. }));
        assert_eq!(fs::read(letters.join("love.txt")).unwrap(), b"dear");

        drop(SledStore::open(&of_sled, CACHE).unwrap());
        let refusal = open_or_set_aside(&of_sled).unwrap_err();
        assert!(matches!(refusal, StoreError::OtherEngine { found: "sled", asked: "redb" }), "{refusal:?}");
        assert!(!of_sled.join(FILE).exists() && SledStore::open(&of_sled, CACHE).is_ok());

        let expected = populated(&of_redb);
        let refusal = folder::open_or_set_aside(&of_redb, |dir| SledStore::open(dir, CACHE)).unwrap_err();
        assert!(matches!(refusal, StoreError::OtherEngine { found: "redb", asked: "sled" }), "{refusal:?}");
        assert_eq!(fs::read_dir(&of_redb).unwrap().count(), 1);
        assert_eq!(everything(&RedbStore::open(&of_redb, CACHE).unwrap()), expected);
    }

    #[test]
    fn panic_in_the_engine_is_caught_and_closes_the_store() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("store");
        let store = RedbStore::open(&dir, CACHE).unwrap();
        store.apply(batch([(b"a", Some(b"1"))])).unwrap();
        let in_the_middle = |db: &Database| -> Result<(), ::redb::Error> {
            let write = db.begin_write()?;
            write.open_table(PAIRS)?.insert(&b"b"[..], &b"2"[..])?;
            panic!("page {}", 7)
        };
        let error = store.write(in_the_middle).unwrap_err();
        assert!(matches!(error, StoreError::Panicked { message } if message == "page 7"));
        assert!(matches!(store.get(b"a"), Err(StoreError::Closed)));
        assert!(matches!(store.apply(Batch::new()), Err(StoreError::Closed)));
        assert!(matches!(store.checkpoint(), Err(StoreError::Closed)));
        drop(store);
        let (store, aside) = open_or_set_aside(&dir).unwrap();
        assert!(aside.is_none());
        assert_eq!(store.get(b"b").unwrap(), None, "no part of a batch is left");
        store.write(|_| Err::<(), _>(::redb::Error::PreviousIo)).unwrap_err();
        assert!(matches!(store.get(b"a"), Err(StoreError::Closed)), "a failed write closes too");
    }

    /// What was written since the last sync reached the disk block by block, or not: the store is the last checkpoint's, whole.
    #[test]
    fn power_cut_leaves_the_last_checkpoint() {
        const BLOCK: usize = 4_096;
        let rounds = std::env::var("COMMISSARY_CUT_ROUNDS").map_or(12, |rounds| rounds.parse().unwrap());
        let mut seed = 11;
        let mut differed = 0;
        for round in 0..rounds {
            let base = tempfile::tempdir().unwrap();
            let (live, synced) = (base.path().join("live"), base.path().join("synced"));
            let store = RedbStore::open(&live, CACHE).unwrap();
            copy(&live, &synced);
            let mut kept = Vec::new();
            for n in 0..=below(&mut seed, 40) {
                let value = u8::try_from(n).unwrap();
                let writes: Batch = (0..500)
                    .map(|_| ((next(&mut seed) % 9_000).to_be_bytes().to_vec(), Some(vec![value; 300])))
                    .collect();
                store.apply(writes).unwrap();
                if below(&mut seed, 8) == 0 {
                    store.checkpoint().unwrap();
                    kept = everything(&store);
                    fs::remove_dir_all(&synced).unwrap();
                    copy(&live, &synced);
                }
            }
            let before = fs::read(synced.join(FILE)).unwrap();
            let mut file = fs::read(live.join(FILE)).unwrap();
            differed += u32::from(file != before);
            let odds = 1 + next(&mut seed) % 60;
            for (n, block) in file.chunks_mut(BLOCK).enumerate() {
                let old = before.get(n * BLOCK..).unwrap_or_default();
                if next(&mut seed) % 61 < odds {
                    block.iter_mut().enumerate().for_each(|(i, byte)| *byte = old.get(i).copied().unwrap_or(0));
                }
            }
            fs::write(synced.join(FILE), file).unwrap();
            let (store, aside) = open_or_set_aside(&synced).unwrap();
            assert!(aside.is_none(), "round {round}: {aside:?}");
            assert!(everything(&store) == kept, "round {round}");
        }
        assert!(differed > 0, "nothing was ever written between two syncs");
    }

    /// Opens a damaged store and uses it: an error is fine anywhere, a panic that comes out is not.
    fn open_and_use(dir: &Path) -> bool {
        let (store, aside) = open_or_set_aside(dir).unwrap();
        if let Some(aside) = &aside {
            assert!(everything(&store).is_empty(), "a store that took another's place is empty");
            assert!(aside.damaged.exists());
            store.apply(batch([(b"a", Some(b"1"))])).unwrap();
            store.checkpoint().unwrap();
            return true;
        }
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
        populated(&kept.path().join("closed"));
        let live = RedbStore::open(&kept.path().join("closed"), CACHE).unwrap();
        copy(&kept.path().join("closed"), &kept.path().join("killed"));
        drop(live);
        let mut seed = 7;
        let mut set_aside = 0;
        for round in 0..rounds {
            let dir = base.path().join("store");
            copy(&kept.path().join(["closed", "killed"][round % 2]), &dir);
            let mut bytes = fs::read(dir.join(FILE)).unwrap();
            let from = below(&mut seed, bytes.len());
            match round % 5 {
                0 => bytes.truncate(from),
                1 => bytes.iter_mut().for_each(|byte| *byte = next(&mut seed).to_be_bytes()[7]),
                2 => (0..200).for_each(|_| {
                    let i = below(&mut seed, bytes.len());
                    bytes[i] ^= 1 << (next(&mut seed) % 8);
                }),
                3 => bytes[..512].iter_mut().skip(from % 512).take(1 + from % 7).for_each(|byte| *byte ^= 0x55),
                _ => bytes[from..].iter_mut().take(4_096).for_each(|byte| *byte = 0),
            }
            fs::write(dir.join(FILE), bytes).unwrap();
            set_aside += u32::from(open_and_use(&dir));
            for entry in fs::read_dir(base.path()).unwrap() {
                fs::remove_dir_all(entry.unwrap().path()).unwrap();
            }
        }
        assert!(set_aside > 0, "no damage was noticed at all");
    }
}
