//! The store in memory, for tests and for services that keep nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Bound;
use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};

use foldhash::HashMap;

use crate::faults::{Call, fault_point};
use crate::sync::{Arc, RwLock};

use super::{Batch, Pair, Store, StoreError, VERSION_KEY, assert_unreserved};

/// A store that lives and dies with the process.
///
/// Cloning clones the handle, never the data: tests keep a clone to cut the power under the owner of the other.
///
/// # Concurrency
///
/// A plain reader-writer lock around a map: a named exception to the crate's rule, since no lock is ever held across a call out of
/// this file, and the engine on disk locks its batches in the same way. Scans see every batch whole, which is more than [`Store`] promises.
#[derive(Clone, Default)]
pub(crate) struct MemoryStore {
    state: Arc<RwLock<State>>,
}

#[derive(Default)]
struct State {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// For each key written since the last checkpoint, what it held at that checkpoint. Bounded by the keys written, not by the map.
    undo: HashMap<Vec<u8>, Option<Vec<u8>>>,
    /// How many more applies succeed before one fails; `None` = no fault armed.
    applies_before_fault: Option<u64>,
}

impl MemoryStore {
    /// An empty store.
    #[cfg(test)]
    pub(crate) fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// A store of its own with what is there, or with what a power cut at its worst would leave: the last checkpoint.
    pub(crate) fn copy(&self, checkpointed_only: bool) -> MemoryStore {
        let state = self.read();
        let mut pairs = state.pairs.clone();
        if checkpointed_only {
            for (key, before) in &state.undo {
                match before {
                    Some(value) => pairs.insert(key.clone(), value.clone()),
                    None => pairs.remove(key),
                };
            }
        }
        let state = State { pairs, ..State::default() };
        MemoryStore { state: Arc::new(RwLock::new(state)) }
    }

    /// Removes everything.
    pub(crate) fn clear(&self) {
        let mut state = self.write();
        state.pairs.clear();
        state.undo.clear();
    }

    /// Makes the `n`-th apply from here on (1 = the next) fail once, as on a full disk, with nothing of its batch applied; 0 disarms.
    #[cfg(test)]
    pub(crate) fn fail_apply_after(&self, n: u64) {
        self.write().applies_before_fault = n.checked_sub(1);
    }

    /// A panic under the lock could only come from a failed allocation between two whole steps, so a poisoned map is still sound.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.read();
        formatter
            .debug_struct("MemoryStore")
            .field("pairs", &state.pairs.len())
            .field("unsaved_keys", &state.undo.len())
            .finish()
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        fault_point(Call::StoreRead)?;
        Ok(self.read().pairs.get(key).cloned())
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, StoreError> {
        fault_point(Call::StoreRead)?;
        // A map's range panics when it is inverted; ours is empty.
        if end.is_some_and(|end| end <= start) {
            return Ok(Vec::new());
        }
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.read();
        let range = state.pairs.range::<[u8], _>((Bound::Included(start), upper));
        Ok(range.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn last(&self, start: &[u8], last: &[u8]) -> Result<Option<Pair>, StoreError> {
        fault_point(Call::StoreRead)?;
        if last < start {
            return Ok(None);
        }
        let state = self.read();
        let mut range = state.pairs.range::<[u8], _>((Bound::Included(start), Bound::Included(last)));
        Ok(range.next_back().map(|(key, value)| (key.clone(), value.clone())))
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        assert_unreserved(&batch);
        fault_point(Call::Apply)?;
        let state = &mut *self.write();
        if let Some(left) = state.applies_before_fault {
            state.applies_before_fault = left.checked_sub(1);
            if left == 0 {
                return Err(StoreError::Io { source: io::ErrorKind::StorageFull.into() });
            }
        }
        for (key, value) in batch {
            let before = match value {
                Some(value) => state.pairs.insert(key.clone(), value),
                None => state.pairs.remove(&key),
            };
            // Only the first write since the checkpoint knows what was there at the checkpoint.
            state.undo.entry(key).or_insert(before);
        }
        debug_assert!(!state.pairs.contains_key(VERSION_KEY), "the map took the reserved key");
        fault_point(Call::Applied)?;
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        fault_point(Call::Checkpoint)?;
        self.write().undo.clear();
        Ok(())
    }

    fn size_on_disk(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{batch, conforms};
    use super::*;

    #[test]
    fn memory_conforms() {
        conforms(|| Box::new(MemoryStore::new()));
    }

    #[test]
    fn power_cut_returns_to_the_last_checkpoint() {
        let store = MemoryStore::new();
        store.apply(batch([(b"kept", Some(b"1")), (b"changed", Some(b"1")), (b"removed", Some(b"1"))])).unwrap();
        store.checkpoint().unwrap();
        let saved = store.scan(b"", None, usize::MAX).unwrap();
        store.apply(batch([(b"changed", Some(b"2")), (b"removed", None), (b"new", Some(b"2"))])).unwrap();
        store.apply(batch([(b"changed", None), (b"removed", Some(b"3")), (b"new", Some(b"3"))])).unwrap();
        let left = store.clone().copy(true);
        assert_eq!(left.scan(b"", None, usize::MAX).unwrap(), saved, "a clone is a handle to the same data");
        let left = left.copy(true);
        assert_eq!(left.scan(b"", None, usize::MAX).unwrap(), saved, "a second cut loses nothing more");
    }

    #[test]
    fn power_cut_before_any_checkpoint_leaves_nothing() {
        let store = MemoryStore::new();
        store.apply(batch([(b"a", Some(b"1"))])).unwrap();
        assert_eq!(store.copy(true).get(b"a").unwrap(), None);
        assert_eq!(store.copy(false).get(b"a").unwrap().unwrap(), b"1");
    }

    #[test]
    fn fault_fails_one_apply_and_nothing_else() {
        let store = MemoryStore::new();
        store.fail_apply_after(2);
        store.apply(batch([(b"a", Some(b"1"))])).unwrap();
        let refused = store.apply(batch([(b"b", Some(b"1")), (b"a", None)])).unwrap_err();
        assert!(matches!(refused, StoreError::Io { source } if source.kind() == io::ErrorKind::StorageFull));
        assert_eq!(store.get(b"a").unwrap().unwrap(), b"1", "a refused batch leaves no part behind");
        assert_eq!(store.get(b"b").unwrap(), None);
        store.apply(batch([(b"b", Some(b"1"))])).unwrap();
        store.fail_apply_after(1);
        store.fail_apply_after(0);
        store.apply(batch([(b"c", Some(b"1"))])).unwrap();
    }

    #[test]
    fn debug_counts_and_shows_no_data() {
        let store = MemoryStore::new();
        store.apply(batch([(b"secret", Some(b"value"))])).unwrap();
        assert_eq!(format!("{store:?}"), "MemoryStore { pairs: 1, unsaved_keys: 1 }");
    }
}
