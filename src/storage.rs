//! What the hub asked of its disk: store operations by who asked, and what the journal wrote.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

use crate::journal::{Group, Log, Outcome};
use crate::record;
use crate::store::Store;
use crate::store::counted::{Role, StoreMeter};
use crate::sync::{Arc, Counter, Padded};

/// Store operations since the hub was opened. A read is a `get`, a `scan` or a `last`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoreOps {
    /// Reads of one key.
    pub gets: u64,
    /// Reads of a range.
    pub scans: u64,
    /// Reads of the last pair of a range.
    pub lasts: u64,
    /// Pairs that reads gave back.
    pub pairs_read: u64,
    /// Bytes of the keys and values that reads gave back.
    pub bytes_read: u64,
    /// Batches written, each whole or not at all.
    pub batches: u64,
    /// Pairs in them, removals included.
    pub pairs_written: u64,
    /// Bytes of their keys and values.
    pub bytes_written: u64,
    /// Checkpoints: each syncs the store.
    pub checkpoints: u64,
}

impl StoreOps {
    /// All reads.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.gets + self.scans + self.lasts
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            gets: self.gets.saturating_sub(earlier.gets),
            scans: self.scans.saturating_sub(earlier.scans),
            lasts: self.lasts.saturating_sub(earlier.lasts),
            pairs_read: self.pairs_read.saturating_sub(earlier.pairs_read),
            bytes_read: self.bytes_read.saturating_sub(earlier.bytes_read),
            batches: self.batches.saturating_sub(earlier.batches),
            pairs_written: self.pairs_written.saturating_sub(earlier.pairs_written),
            bytes_written: self.bytes_written.saturating_sub(earlier.bytes_written),
            checkpoints: self.checkpoints.saturating_sub(earlier.checkpoints),
        }
    }
}

/// What the journal wrote since the hub was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JournalOps {
    /// Groups appended: one write to the file each.
    pub groups: u64,
    /// Records in them.
    pub records: u64,
    /// Of those, by kind. Kinds that were not written are not there.
    pub by_kind: BTreeMap<&'static str, u64>,
    /// Bytes appended.
    pub bytes: u64,
    /// Syncs, failed ones included.
    pub syncs: u64,
}

impl JournalOps {
    /// Records of one kind: `boot`, `service`, `client`, `seat`, `added`, `leased`, `reported`, `released`, `conflict`, and
    /// what else [the format](crate::docs::format) names.
    #[must_use]
    pub fn of_kind(&self, kind: &str) -> u64 {
        self.by_kind.get(kind).copied().unwrap_or(0)
    }

    fn since(&self, earlier: &Self) -> Self {
        let by_kind = self.by_kind.iter().map(|(kind, n)| (*kind, n.saturating_sub(earlier.of_kind(kind))));
        Self {
            groups: self.groups.saturating_sub(earlier.groups),
            records: self.records.saturating_sub(earlier.records),
            by_kind: by_kind.filter(|(_, n)| *n > 0).collect(),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            syncs: self.syncs.saturating_sub(earlier.syncs),
        }
    }
}

/// What the hub asked of its disk since it was opened, by who asked.
///
/// Claiming, submitting, renewing and releasing ask nothing of the store: they have no row here. What they cause is the
/// journal's, and the applier's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StorageStats {
    /// Opening the hub and registering services: replay, and what is brought back.
    pub opening: StoreOps,
    /// The storekeeper's thread, which applies the journal to the store. It reads each subject offered to it once, to tell the
    /// known ones, but for one whose key is above all known ones; and nothing for a subject that is finished as long as its block is in
    /// its memory.
    pub applier: StoreOps,
    /// The steward, which reads pending subjects, a block at a time.
    pub steward: StoreOps,
    /// Callers who read results.
    pub results: StoreOps,
    /// The journal.
    pub journal: JournalOps,
}

impl StorageStats {
    /// What was asked between an earlier snapshot of the same hub and this one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            opening: self.opening.since(&earlier.opening),
            applier: self.applier.since(&earlier.applier),
            steward: self.steward.since(&earlier.steward),
            results: self.results.since(&earlier.results),
            journal: self.journal.since(&earlier.journal),
        }
    }

    /// The cost of 1,000 finished subjects, if `finished` subjects were finished while this was asked. `None` if none was.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people to read; counts beyond 2^52 may be rounded")]
    pub fn per_thousand(&self, finished: u64) -> Option<PerThousand> {
        if finished == 0 {
            return None;
        }
        let per = |n: u64| n as f64 * 1_000.0 / finished as f64;
        let roles = [&self.opening, &self.applier, &self.steward, &self.results];
        let sum = |of: fn(&StoreOps) -> u64| per(roles.into_iter().map(of).sum());
        Some(PerThousand {
            store_reads: sum(StoreOps::reads),
            store_bytes_read: sum(|ops| ops.bytes_read),
            store_batches: sum(|ops| ops.batches),
            store_pairs_written: sum(|ops| ops.pairs_written),
            store_bytes_written: sum(|ops| ops.bytes_written),
            journal_groups: per(self.journal.groups),
            journal_records: per(self.journal.records),
            journal_bytes: per(self.journal.bytes),
            journal_syncs: per(self.journal.syncs),
        })
    }
}

/// Operations for 1,000 finished subjects, all roles together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PerThousand {
    /// Reads of the store.
    pub store_reads: f64,
    /// Bytes that they gave back.
    pub store_bytes_read: f64,
    /// Batches written to the store.
    pub store_batches: f64,
    /// Pairs in them.
    pub store_pairs_written: f64,
    /// Bytes of those.
    pub store_bytes_written: f64,
    /// Groups appended to the journal.
    pub journal_groups: f64,
    /// Records in them.
    pub journal_records: f64,
    /// Bytes of those.
    pub journal_bytes: f64,
    /// Syncs of the journal.
    pub journal_syncs: f64,
}

/// Kinds of records that are counted each by itself; those beyond are counted together.
const KINDS: usize = 32;

/// What the journal wrote.
#[derive(Debug, Default)]
struct LogCounts {
    groups: Counter,
    bytes: Counter,
    syncs: Counter,
    kinds: [Counter; KINDS],
}

/// The store as each role sees it, and all that is counted of the disk.
#[derive(Debug)]
pub(crate) struct DiskMeter {
    store: Arc<dyn Store>,
    stores: StoreMeter,
    log: Arc<Padded<LogCounts>>,
}

impl DiskMeter {
    pub(crate) fn over(store: Arc<dyn Store>) -> Self {
        Self { store, stores: StoreMeter::default(), log: Arc::default() }
    }

    /// The store, counted for `role`.
    pub(crate) fn store(&self, role: Role) -> Arc<dyn Store> {
        self.stores.counted(&self.store, role)
    }

    /// The same log, counted.
    pub(crate) fn log(&self, log: impl Log + 'static) -> Box<dyn Log> {
        Box::new(CountedLog { log: Box::new(log), counts: Arc::clone(&self.log) })
    }

    pub(crate) fn stats(&self) -> StorageStats {
        let mut by_kind = BTreeMap::new();
        for (kind, count) in (0..).zip(&self.log.kinds) {
            if count.value() > 0 {
                *by_kind.entry(record::kind_name(kind)).or_default() += count.value();
            }
        }
        StorageStats {
            opening: self.stores.ops(Role::Opening),
            applier: self.stores.ops(Role::Applier),
            steward: self.stores.ops(Role::Steward),
            results: self.stores.ops(Role::Results),
            journal: JournalOps {
                groups: self.log.groups.value(),
                records: by_kind.values().sum(),
                by_kind,
                bytes: self.log.bytes.value(),
                syncs: self.log.syncs.value(),
            },
        }
    }
}

/// A log that counts what it wrote.
#[derive(Debug)]
struct CountedLog {
    log: Box<dyn Log>,
    counts: Arc<Padded<LogCounts>>,
}

impl Log for CountedLog {
    fn append(&mut self, group: &mut Group) -> Outcome {
        let outcome = self.log.append(group);
        if let Outcome::Applied { start, end } = &outcome {
            self.counts.groups.add(1);
            self.counts.bytes.add(end - start);
            for (_, kind, _, _) in group.entries() {
                if let Some(count) = self.counts.kinds.get(usize::from(kind).min(KINDS - 1)) {
                    count.add(1);
                }
            }
        }
        outcome
    }

    fn sync(&mut self) -> io::Result<()> {
        self.counts.syncs.add(1);
        self.log.sync()
    }

    fn end(&self) -> u64 {
        self.log.end()
    }

    fn synced(&self) -> u64 {
        self.log.synced()
    }
}
