//! The ordered key-value state: what it promises, how it fails, and the tests every engine passes.
//!
//! The store is an index of the journal, never the acknowledgement: a write is acknowledged by the journal's own sync, and a store that
//! cannot be opened is set aside and rebuilt from there. One thread, the storekeeper's, applies batches; any thread may read.

pub(crate) mod counted;
mod folder;
pub(crate) mod marker;
mod memory;
#[cfg(feature = "redb")]
mod redb;
mod shield;
mod sled;
mod walk;

pub(crate) use self::folder::{SetAside, retire, set_aside};
pub(crate) use self::memory::MemoryStore;
pub(crate) use self::walk::{after, walk};

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::path::Path;

use crate::sync::Arc;

/// A set of writes that takes effect whole or not at all; sorted by key, the friendly case for the engine. `None` removes.
pub(crate) type Batch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A key and its value.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// The one key an engine keeps for itself: readers never see it, and no batch may hold it.
pub(crate) const VERSION_KEY: &[u8] = b"\0version";

/// What keeps a store's pairs on disk.
///
/// The journal is the truth with either: they differ in speed, memory and dependencies, never in what survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Engine {
    /// sled 0.34: the default. A killed process has little to replay, since every batch reaches the operating system at once; a store that
    /// was not closed before the machine stopped is rebuilt from the journal.
    #[default]
    Sled,
    /// redb 4: two to three times as fast, with less memory and a smaller file. Batches stay in memory until a checkpoint, every 64 MiB of
    /// journal: a killed process or a stopped machine costs the replay of what came after it, never a rebuild. Behind the feature `redb`.
    #[cfg(feature = "redb")]
    Redb,
}

/// Opens or creates the store in `dir` with `engine` and about `cache_bytes` of cache; one too damaged to open is set aside, and an
/// empty one takes its place.
pub(crate) fn open_or_set_aside(
    engine: Engine,
    dir: &Path,
    cache_bytes: u64,
) -> Result<(Arc<dyn Store>, Option<SetAside>), StoreError> {
    folder::open_or_set_aside(dir, |dir| {
        Ok(match engine {
            Engine::Sled => Arc::new(sled::SledStore::open(dir, cache_bytes)?) as Arc<dyn Store>,
            #[cfg(feature = "redb")]
            Engine::Redb => Arc::new(redb::RedbStore::open(dir, cache_bytes)?),
        })
    })
}

/// How much is applied in one batch, about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchSize {
    pub(crate) changes: usize,
    /// Bytes of the journal in which they stand.
    pub(crate) bytes: usize,
}

impl BatchSize {
    pub(crate) fn is_reached(self, changes: usize, bytes: usize) -> bool {
        changes >= self.changes || bytes >= self.bytes
    }
}

/// Ordered bytes to bytes, with atomic batches and explicit durability.
///
/// # Concurrency
///
/// Every method may be called from any thread. `get` and `last` see a batch whole or not at all. A `scan` is not a snapshot: every pair
/// in it was true at some moment during the call, but a batch applied meanwhile may show in the later pairs and not in the earlier ones.
/// A caller that needs two keys to agree reads them while nothing is being applied, or keeps them in one value.
///
/// # Durability
///
/// A batch that was applied survives the end of the process only by chance, and a power cut only after `checkpoint`.
/// After either, the store holds what a whole number of batches left, in the order they were applied, and never less than the last
/// checkpoint.
/// After a power cut sled alone promises this only for batches that fit into a segment of its file. Its batch size is mostly less, but one
/// group may be more, and so may a record that is long or erases from many blocks; so a store of sled that was not closed is not believed
/// then (see its marker).
/// Bits that rot on the disk are found when they can be, not always.
pub(crate) trait Store: Send + Sync + Debug {
    /// The value of `key`, if it has one.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Up to `limit` pairs with `start <= key < end` (`end` of `None` = to the end), in key order.
    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, StoreError>;

    /// The last pair with `start <= key <= last`, if any.
    fn last(&self, start: &[u8], last: &[u8]) -> Result<Option<Pair>, StoreError>;

    /// How large batches are at best: larger ones write more neighbours at once, and keep others waiting for longer.
    fn batch_size(&self) -> BatchSize {
        BatchSize { changes: 8_192, bytes: 1 << 20 }
    }

    /// Applies the whole batch; not durable before `checkpoint`.
    ///
    /// # Errors
    ///
    /// After an error the outcome is unknown: none, all or a part of the batch may be there. The store may refuse every later call with
    /// [`StoreError::Closed`]; the cure is to open it again and replay the journal from the position it holds. An engine that may leave a
    /// part sees to it that it is not believed again: replayed over a part, what adds to a count that it reads would count twice.
    ///
    /// # Panics
    ///
    /// Panics when the batch holds the reserved [`VERSION_KEY`].
    fn apply(&self, batch: Batch) -> Result<(), StoreError>;

    /// Returns once everything applied before the call survives power loss.
    fn checkpoint(&self) -> Result<(), StoreError>;

    /// As `checkpoint`, and the last call that writes: the store may then be opened again without a doubt, even after power was lost.
    fn finish(&self) -> Result<(), StoreError> {
        self.checkpoint()
    }

    /// Bytes on disk; 0 in memory.
    fn size_on_disk(&self) -> Result<u64, StoreError>;
}

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused to read or write.
    #[error("store i/o failed: {}", source.kind())]
    Io {
        /// What it said.
        #[from]
        source: io::Error,
    },
    /// The files are not what the store left there.
    #[error("the store is damaged: {what}")]
    Corrupted {
        /// What was found damaged.
        what: String,
    },
    /// Another version of this crate wrote the store.
    #[error("the store has format version {found}; this build supports {supported}")]
    Version {
        /// The version in the store.
        found: u32,
        /// The only version this build opens.
        supported: u32,
    },
    /// Another engine made the store. Nothing was touched: open it with that engine, or have it rebuilt from the journal.
    #[error(
        "the store was made by {found}, and {asked} is asked for; open it with {found}, or rebuild it from the journal"
    )]
    OtherEngine {
        /// The engine that made it.
        found: &'static str,
        /// The engine that was to open it.
        asked: &'static str,
    },
    /// Another process, or another handle in this one, holds the store.
    #[error("the store is open elsewhere; one process may hold it at a time")]
    Locked,
    /// The storage engine panicked; its panic was caught here.
    #[error("the storage engine panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// An earlier write failed or the engine panicked, so its state is unknown; opening the store again recovers.
    #[error("the store is closed since an earlier failure; open it again")]
    Closed,
}

/// Stops a batch that would overwrite the engine's own key: a mistake in our code, not a condition.
fn assert_unreserved(batch: &Batch) {
    assert!(!batch.contains_key(VERSION_KEY), "the batch holds the key reserved for the format version");
}

#[cfg(test)]
pub(crate) mod conformance {
    use super::{Batch, Pair, Store, VERSION_KEY, walk};

    pub(crate) fn batch<const N: usize>(writes: [(&[u8], Option<&[u8]>); N]) -> Batch {
        writes.into_iter().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect()
    }

    fn pair(key: &[u8], value: &[u8]) -> Pair {
        (key.to_vec(), value.to_vec())
    }

    fn keys(pairs: &[Pair]) -> Vec<&[u8]> {
        pairs.iter().map(|(key, _)| key.as_slice()).collect()
    }

    /// What every engine must do; `make` returns a new empty store each time.
    pub(crate) fn conforms(make: impl Fn() -> Box<dyn Store>) {
        empty_store_is_empty(&*make());
        pairs_come_in_key_order(&*make());
        ranges_and_limits_hold(&*make());
        last_finds_the_greatest(&*make());
        batches_put_and_remove(&*make());
        odd_values_survive(&*make());
        many_keys_agree_with_a_map(&*make());
        batches_are_seen_whole(&*make());
        reserved_key_is_hidden(&*make());
    }

    fn empty_store_is_empty(store: &dyn Store) {
        assert_eq!(store.get(b"a").unwrap(), None);
        assert_eq!(store.get(b"").unwrap(), None);
        assert_eq!(store.scan(b"", None, usize::MAX).unwrap(), []);
        assert_eq!(store.last(b"", &[0xff; 32]).unwrap(), None);
        store.apply(Batch::new()).unwrap();
        store.apply(batch([(b"gone", None)])).unwrap();
        store.checkpoint().unwrap();
        assert_eq!(store.scan(b"", None, usize::MAX).unwrap(), []);
        store.size_on_disk().unwrap();
    }

    fn pairs_come_in_key_order(store: &dyn Store) {
        for key in [&b"b"[..], b"\xff", b"a\0", b"", b"a", b"\0", b"ab", b"\0\0", b"\xff\xff", b"\0versioo"] {
            store.apply(batch([(key, Some(key))])).unwrap();
        }
        let all = store.scan(b"", None, usize::MAX).unwrap();
        let expected: [&[u8]; 10] =
            [b"", b"\0", b"\0\0", b"\0versioo", b"a", b"a\0", b"ab", b"b", b"\xff", b"\xff\xff"];
        assert_eq!(keys(&all), expected);
        for (key, value) in &all {
            assert_eq!(key, value);
            assert_eq!(store.get(key).unwrap().as_ref(), Some(value));
        }
    }

    fn ranges_and_limits_hold(store: &dyn Store) {
        store
            .apply(batch([
                (b"a", Some(b"1")),
                (b"b", Some(b"2")),
                (b"c", Some(b"3")),
                (b"c\0", Some(b"4")),
                (b"d", Some(b"5")),
            ]))
            .unwrap();
        let scan = |start: &[u8], end: Option<&[u8]>, limit| {
            let pairs = store.scan(start, end, limit).unwrap();
            pairs.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(scan(b"b", Some(b"d"), 9), [&b"b"[..], b"c", b"c\0"]);
        assert_eq!(scan(b"b", Some(b"c\0"), 9), [b"b", b"c"]);
        assert_eq!(scan(b"b\0", None, 9), [&b"c"[..], b"c\0", b"d"]);
        assert_eq!(scan(b"b", None, 2), [b"b", b"c"]);
        assert_eq!(scan(b"b", Some(b"d"), 1), [b"b"]);
        assert!(scan(b"a", None, 0).is_empty());
        assert!(scan(b"b", Some(b"b"), 9).is_empty());
        assert!(scan(b"c", Some(b"b"), 9).is_empty(), "an inverted range is empty, not an error");
        assert!(scan(b"e", None, 9).is_empty());
        assert!(scan(b"", Some(b""), 9).is_empty());
    }

    fn last_finds_the_greatest(store: &dyn Store) {
        store.apply(batch([(b"a", Some(b"1")), (b"b", Some(b"2")), (b"d", Some(b"3"))])).unwrap();
        assert_eq!(store.last(b"", b"z").unwrap(), Some(pair(b"d", b"3")));
        assert_eq!(store.last(b"a", b"b").unwrap(), Some(pair(b"b", b"2")), "the upper bound is included");
        assert_eq!(store.last(b"a", b"c").unwrap(), Some(pair(b"b", b"2")));
        assert_eq!(store.last(b"a", b"a").unwrap(), Some(pair(b"a", b"1")));
        assert_eq!(store.last(b"c", b"c\xff").unwrap(), None);
        assert_eq!(store.last(b"e", b"z").unwrap(), None);
        assert_eq!(store.last(b"z", b"a").unwrap(), None);
        assert_eq!(store.last(b"", b"").unwrap(), None);
    }

    fn batches_put_and_remove(store: &dyn Store) {
        store.apply(batch([(b"a", Some(b"1")), (b"b", Some(b"2")), (b"c", Some(b"3"))])).unwrap();
        store.apply(batch([(b"a", Some(b"one")), (b"b", None), (b"d", Some(b"4")), (b"none", None)])).unwrap();
        let expected = [pair(b"a", b"one"), pair(b"c", b"3"), pair(b"d", b"4")];
        assert_eq!(store.scan(b"", None, usize::MAX).unwrap(), expected);
        assert_eq!(store.get(b"b").unwrap(), None);
        // A second write to one key inside a batch takes the place of the first.
        let mut twice = batch([(b"e", Some(b"first"))]);
        twice.insert(b"e".to_vec(), Some(b"second".to_vec()));
        twice.insert(b"a".to_vec(), Some(b"x".to_vec()));
        twice.insert(b"a".to_vec(), None);
        store.apply(twice).unwrap();
        assert_eq!(store.get(b"e").unwrap().unwrap(), b"second");
        assert_eq!(store.get(b"a").unwrap(), None);
        store.apply(batch([(b"a", Some(b"back"))])).unwrap();
        assert_eq!(store.get(b"a").unwrap().unwrap(), b"back");
    }

    fn odd_values_survive(store: &dyn Store) {
        let big: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_be_bytes).collect();
        assert_eq!(big.len(), 1 << 20);
        let long_key = vec![7; 1_000];
        store.apply(batch([(b"big", Some(&big)), (b"empty", Some(b"")), (&long_key, Some(b"k"))])).unwrap();
        store.checkpoint().unwrap();
        assert_eq!(store.get(b"big").unwrap().unwrap(), big);
        assert_eq!(store.get(b"empty").unwrap().unwrap(), b"", "an empty value is there, not absent");
        assert_eq!(store.get(&long_key).unwrap().unwrap(), b"k");
        assert_eq!(store.last(b"b", b"c").unwrap(), Some((b"big".to_vec(), big)));
        store.apply(batch([(b"big", Some(b"small"))])).unwrap();
        assert_eq!(store.get(b"big").unwrap().unwrap(), b"small");
    }

    fn many_keys_agree_with_a_map(store: &dyn Store) {
        let mut model = std::collections::BTreeMap::new();
        let mut seed = 1_u64;
        for round in 0..40_u32 {
            let mut writes = Batch::new();
            for _ in 0..50 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let key = ((seed >> 33) % 700).to_be_bytes().to_vec();
                let value = (seed >> 60 != 0).then(|| round.to_be_bytes().to_vec());
                writes.insert(key, value);
            }
            for (key, value) in &writes {
                match value {
                    Some(value) => model.insert(key.clone(), value.clone()),
                    None => model.remove(key),
                };
            }
            store.apply(writes).unwrap();
        }
        let expected: Vec<Pair> = model.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(store.scan(b"", None, usize::MAX).unwrap(), expected);
        // Pages of a walk join without a gap or a repeat.
        for page in [1, 64, expected.len(), usize::MAX] {
            let walked: Result<Vec<Pair>, _> = walk(store, Vec::new(), None, page).collect();
            assert_eq!(walked.unwrap(), expected);
        }
        let (start, end) = (expected[100].0.clone(), expected[300].0.clone());
        let walked: Result<Vec<Pair>, _> = walk(store, start, Some(end), 64).collect();
        assert_eq!(walked.unwrap(), expected[100..300]);
    }

    /// One value holds the round for two keys; a reader must never find the second key behind the first.
    fn batches_are_seen_whole(store: &dyn Store) {
        const ROUNDS: u32 = 300;
        store.apply(batch([(b"x", Some(&[0; 4])), (b"y", Some(&[0; 4]))])).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    let round = round.to_be_bytes();
                    store.apply(batch([(b"x", Some(&round)), (b"y", Some(&round))])).unwrap();
                }
            });
            scope.spawn(|| {
                let read = |key: &[u8]| u32::from_be_bytes(store.get(key).unwrap().unwrap().try_into().unwrap());
                while read(b"y") < ROUNDS {
                    let x = read(b"x");
                    let y = read(b"y");
                    assert!(y >= x, "the batch of round {x} was seen in part: y is {y}");
                }
            });
        });
    }

    fn reserved_key_is_hidden(store: &dyn Store) {
        store.apply(batch([(b"a", Some(b"1"))])).unwrap();
        assert_eq!(store.get(VERSION_KEY).unwrap(), None);
        assert_eq!(keys(&store.scan(b"", None, 1).unwrap()), [b"a"]);
        assert_eq!(store.last(b"", b"\0z").unwrap(), None);
        let reserved = batch([(VERSION_KEY, None)]);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| store.apply(reserved))).unwrap_err();
        assert_eq!(store.get(b"a").unwrap().unwrap(), b"1");
    }
}

#[cfg(test)]
mod tests {
    use super::StoreError;

    #[test]
    fn errors_say_what_and_the_limit() {
        let says = |error: StoreError, words: &str| assert_eq!(error.to_string(), words);
        says(StoreError::Version { found: 9, supported: 1 }, "the store has format version 9; this build supports 1");
        says(StoreError::Corrupted { what: "no magic".to_owned() }, "the store is damaged: no magic");
        let full = StoreError::from(std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert!(std::error::Error::source(&full).is_some());
        says(full, "store i/o failed: no storage space");
    }
}
