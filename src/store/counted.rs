//! A store that counts what is asked of it, for one of the parts that ask.

use super::{Batch, BatchSize, Pair, Store, StoreError};
use crate::storage::StoreOps;
use crate::sync::{Arc, Counter, Padded};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Opening the hub and registering services: replay, and what is brought back.
    Opening,
    /// The storekeeper, which applies the journal.
    Applier,
    /// The steward, which reads pending subjects.
    Steward,
    /// Callers who read results.
    Results,
}

/// The counts of one role, on cache lines of their own.
#[derive(Debug, Default)]
struct Counts {
    gets: Counter,
    scans: Counter,
    lasts: Counter,
    pairs_read: Counter,
    bytes_read: Counter,
    batches: Counter,
    pairs_written: Counter,
    bytes_written: Counter,
    checkpoints: Counter,
}

impl Counts {
    fn read(&self, key: &[u8], value: &[u8]) {
        self.pairs_read.add(1);
        self.bytes_read.add((key.len() + value.len()) as u64);
    }

    fn ops(&self) -> StoreOps {
        StoreOps {
            gets: self.gets.value(),
            scans: self.scans.value(),
            lasts: self.lasts.value(),
            pairs_read: self.pairs_read.value(),
            bytes_read: self.bytes_read.value(),
            batches: self.batches.value(),
            pairs_written: self.pairs_written.value(),
            bytes_written: self.bytes_written.value(),
            checkpoints: self.checkpoints.value(),
        }
    }
}

/// The counts of all roles.
#[derive(Debug, Default)]
pub(crate) struct StoreMeter {
    opening: Arc<Padded<Counts>>,
    applier: Arc<Padded<Counts>>,
    steward: Arc<Padded<Counts>>,
    results: Arc<Padded<Counts>>,
}

impl StoreMeter {
    fn of(&self, role: Role) -> &Arc<Padded<Counts>> {
        match role {
            Role::Opening => &self.opening,
            Role::Applier => &self.applier,
            Role::Steward => &self.steward,
            Role::Results => &self.results,
        }
    }

    /// The same store, counted for `role`.
    pub(crate) fn counted(&self, store: &Arc<dyn Store>, role: Role) -> Arc<dyn Store> {
        Arc::new(Counted { store: Arc::clone(store), counts: Arc::clone(self.of(role)) })
    }

    pub(crate) fn ops(&self, role: Role) -> StoreOps {
        self.of(role).ops()
    }
}

/// A store that counts what is asked of it. What fails is counted as asked.
#[derive(Debug)]
struct Counted {
    store: Arc<dyn Store>,
    counts: Arc<Padded<Counts>>,
}

impl Store for Counted {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.counts.gets.add(1);
        let found = self.store.get(key)?;
        if let Some(value) = &found {
            self.counts.read(key, value);
        }
        Ok(found)
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, StoreError> {
        self.counts.scans.add(1);
        let pairs = self.store.scan(start, end, limit)?;
        self.counts.pairs_read.add(pairs.len() as u64);
        self.counts.bytes_read.add(pairs.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum());
        Ok(pairs)
    }

    fn last(&self, start: &[u8], last: &[u8]) -> Result<Option<Pair>, StoreError> {
        self.counts.lasts.add(1);
        let found = self.store.last(start, last)?;
        if let Some((key, value)) = &found {
            self.counts.read(key, value);
        }
        Ok(found)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        self.counts.batches.add(1);
        self.counts.pairs_written.add(batch.len() as u64);
        let bytes =
            |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| (key.len() + value.as_ref().map_or(0, Vec::len)) as u64;
        self.counts.bytes_written.add(batch.iter().map(bytes).sum());
        self.store.apply(batch)
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        self.counts.checkpoints.add(1);
        self.store.checkpoint()
    }

    fn finish(&self) -> Result<(), StoreError> {
        self.counts.checkpoints.add(1);
        self.store.finish()
    }

    fn size_on_disk(&self) -> Result<u64, StoreError> {
        self.store.size_on_disk()
    }

    fn batch_size(&self) -> BatchSize {
        self.store.batch_size()
    }
}

#[cfg(test)]
mod tests {
    use super::{Role, StoreMeter};
    use crate::storage::StoreOps;
    use crate::store::conformance::{batch, conforms};
    use crate::store::{MemoryStore, Store};
    use crate::sync::Arc;

    #[test]
    fn counted_store_is_a_store() {
        conforms(|| {
            let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
            let counted = StoreMeter::default().counted(&store, Role::Results);
            Box::new(super::Counted { store: counted, counts: Arc::default() })
        });
    }

    #[test]
    fn each_role_counts_its_own_operations() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let meter = StoreMeter::default();
        let [writes, reads] = [Role::Applier, Role::Results].map(|role| meter.counted(&store, role));
        writes.apply(batch([(b"a", Some(b"12")), (b"bb", None), (b"c", Some(b""))])).unwrap();
        writes.checkpoint().unwrap();
        writes.finish().unwrap();
        assert_eq!(reads.get(b"a").unwrap().as_deref(), Some(&b"12"[..]));
        assert_eq!(reads.get(b"x").unwrap(), None);
        assert_eq!(reads.scan(b"a", None, 9).unwrap().len(), 2);
        assert!(reads.last(b"a", b"b").unwrap().is_some());
        assert!(reads.last(b"x", b"z").unwrap().is_none());
        let written =
            StoreOps { batches: 1, pairs_written: 3, bytes_written: 6, checkpoints: 2, ..StoreOps::default() };
        assert_eq!(meter.ops(Role::Applier), written);
        let read = StoreOps { gets: 2, scans: 1, lasts: 2, pairs_read: 4, bytes_read: 10, ..StoreOps::default() };
        assert_eq!(meter.ops(Role::Results), read);
        assert_eq!(meter.ops(Role::Steward), StoreOps::default());
    }
}
