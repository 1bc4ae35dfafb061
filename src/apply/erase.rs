//! What must not be readable any more: subjects in blocks of earlier rounds, and in leases whose subjects are owed no
//! more. Gathered while a record is applied, done once for all its subjects.

use std::collections::{BTreeMap, BTreeSet};

use super::{Applier, stored};
use crate::error::StoreError;
use crate::record::{self, BlockItem, Gone, key};

/// What is still to be erased.
#[derive(Debug, Default)]
pub(super) struct Erasures {
    /// Ranks to be blanked in their blocks when the batch is written.
    blanks: BTreeSet<(u32, u64)>,
    /// Ranks that were closed without a report, and the hashes of their subjects' keys.
    gone: BTreeMap<(u32, u64), [u8; 16]>,
}

impl Applier {
    /// The subject of a rank is not to be read from its block any more.
    pub(super) fn blank(&mut self, service: u32, rank: u64) {
        self.erasures.blanks.insert((service, rank));
    }

    /// A lease that holds this rank forgets the subject's name.
    pub(super) fn note_gone(&mut self, service: u32, rank: u64, name: &[u8]) {
        self.erasures.gone.insert((service, rank), record::subject_hash(name));
    }

    /// Does what the record just applied asked for, but for the blocks.
    pub(super) fn erase_for_record(&mut self) {
        let gone = std::mem::take(&mut self.erasures.gone);
        for ((service, rank), hash) in &gone {
            self.batch.insert(key::of(*service, key::GONE, &rank.to_be_bytes()), Some(hash.to_vec()));
            self.gone.insert(*service);
        }
        if !gone.is_empty() {
            for ((service, generation, slot), lease) in &mut self.leases {
                let before = lease.gone.len();
                for place in lease.open().places() {
                    let hash = lease.ranks.get(place).and_then(|rank| gone.get(&(*service, *rank)));
                    if let (Some(hash), Ok(place)) = (hash, u16::try_from(place)) {
                        lease.gone.push(Gone { place, hash: *hash });
                    }
                }
                if lease.gone.len() > before {
                    self.dirty_leases.insert((*service, *generation, *slot));
                }
            }
        }
    }

    /// Blanks what is to be blanked: each block once. A block in which nothing is left goes.
    pub(super) fn erase_from_blocks(&mut self) -> Result<(), StoreError> {
        while let Some((service, rank)) = self.erasures.blanks.pop_first() {
            let Some((first, bytes)) = self.block_bytes(service, rank)? else { continue };
            let (mut blanked, mut any_left, mut next) = (Vec::with_capacity(bytes.len()), false, first);
            for item in record::list::<BlockItem<'_>>("block", &bytes) {
                let item = stored(item)?;
                let gone = next == rank || self.erasures.blanks.remove(&(service, next));
                let item =
                    if gone { BlockItem { key: &[], lane: &[], deadline: None, body: &[], ..item } } else { item };
                any_left |= !item.key.is_empty();
                record::append(&mut blanked, &item);
                next += 1;
            }
            self.batch.insert(key::of(service, key::BLOCK, &first.to_be_bytes()), any_left.then_some(blanked));
        }
        Ok(())
    }
}
