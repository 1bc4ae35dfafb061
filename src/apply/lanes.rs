//! Lanes, from record to record: how many subjects each owes, its version, its state.

use std::collections::{HashMap, HashSet};

use super::{Applier, owed_block, stored};
use crate::error::StoreError;
use crate::record::{self, BlockItem, LaneValue, key};
use crate::store::Store;

/// What is known of a lane; nothing, of one that was never worked on and owes nothing.
pub(crate) fn lane(store: &dyn Store, service: u32, lane: &[u8]) -> Result<LaneValue, StoreError> {
    let bytes = store.get(&key::of(service, key::LANE, lane))?;
    Ok(bytes.map(|bytes| stored(record::decode("lane", &bytes))).transpose()?.unwrap_or_default())
}

/// A lane's state; `None` if none was ever stored.
pub(crate) fn lane_state(store: &dyn Store, service: u32, lane: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    store.get(&key::of(service, key::LANE_STATE, lane))
}

/// True if a rank that is owed is of a lane.
pub(crate) fn is_laned(store: &dyn Store, service: u32, rank: u64) -> Result<bool, StoreError> {
    // A block of subjects that are all key has none of a lane.
    let Some((first, _)) = owed_block(store, service, rank)?.filter(|(_, owed)| owed.bodies) else { return Ok(false) };
    let block = store.get(&key::of(service, key::BLOCK, &first.to_be_bytes()))?.unwrap_or_default();
    let place = usize::try_from(rank - first).unwrap_or(usize::MAX);
    let item = record::list::<BlockItem<'_>>("block", &block).nth(place).map(stored).transpose()?;
    Ok(item.is_some_and(|item| !item.lane.is_empty()))
}

impl Applier {
    fn lane_mut(&mut self, service: u32, lane: &[u8]) -> Result<&mut LaneValue, StoreError> {
        let name = (service, lane.to_vec());
        self.dirty_lanes.insert(name.clone());
        match self.lanes.entry(name) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let value = self::lane(self.store.as_ref(), service, lane)?;
                Ok(entry.insert(value))
            }
        }
    }

    /// Lanes in memory.
    #[cfg(test)]
    pub(crate) fn lanes_cached(&self) -> usize {
        self.lanes.len()
    }

    /// Writes the lanes that changed to the batch; one of which nothing is to be known goes.
    pub(super) fn flush_lanes(&mut self) {
        for name in std::mem::take(&mut self.dirty_lanes) {
            let value = self.lanes.get(&name).copied().unwrap_or_default();
            let bytes = (value != LaneValue::default()).then(|| record::encode(&value));
            self.batch.insert(key::of(name.0, key::LANE, &name.1), bytes);
        }
    }

    pub(super) fn lane_subjects(&self, service: u32) -> u64 {
        self.services.get(&service).map_or(u64::MAX, |value| value.lane_subjects)
    }

    /// True if a lane owes as many subjects as its service lets it.
    pub(super) fn is_lane_full(&mut self, service: u32, lane: &[u8]) -> Result<bool, StoreError> {
        let most = self.lane_subjects(service);
        Ok(!lane.is_empty() && self.lane_mut(service, lane)?.owed >= most)
    }

    /// A lane owes one subject more.
    pub(super) fn enter_lane(&mut self, service: u32, lane: &[u8]) -> Result<(), StoreError> {
        if !lane.is_empty() {
            self.lane_mut(service, lane)?.owed += 1;
            self.tally_mut(service).laned += 1;
        }
        Ok(())
    }

    /// A lane owes one subject less.
    pub(super) fn leave_lane(&mut self, service: u32, lane: &[u8]) -> Result<(), StoreError> {
        if !lane.is_empty() {
            let value = self.lane_mut(service, lane)?;
            value.owed = value.owed.saturating_sub(1);
        }
        Ok(())
    }

    /// The lane that a lease runs; empty: none.
    pub(super) fn lane_of_lease(&self, name: (u32, u64, u32)) -> Vec<u8> {
        self.leases.get(&name).map(|lease| lease.lane.clone()).unwrap_or_default()
    }

    /// So many subjects were reported on a lease, which may run a lane.
    pub(super) fn note_lane_reports(
        &mut self,
        name: (u32, u64, u32),
        reported: u64,
        state: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let lane = self.lane_of_lease(name);
        if lane.is_empty() || reported == 0 {
            return Ok(());
        }
        self.lane_mut(name.0, &lane)?.version += reported;
        if let Some(state) = state {
            self.batch.insert(key::of(name.0, key::LANE_STATE, &lane), Some(state.to_vec()));
        }
        Ok(())
    }

    /// Those of some ranks that are of lanes, and of which. Reads each block once.
    pub(super) fn lanes_of(&mut self, service: u32, ranks: &[u64]) -> Result<HashMap<u64, Vec<u8>>, StoreError> {
        let mut lanes = HashMap::new();
        if self.tally(service).laned == 0 {
            return Ok(lanes);
        }
        let mut wanted: HashSet<u64> = ranks.iter().copied().collect();
        for rank in ranks {
            if !wanted.contains(rank) {
                continue;
            }
            let Some((first, bytes)) = self.block_bytes(service, *rank)? else { continue };
            for (place, item) in record::list::<BlockItem<'_>>("block", &bytes).enumerate() {
                let (rank, item) = (first + place as u64, stored(item)?);
                if wanted.remove(&rank) && !item.lane.is_empty() {
                    lanes.insert(rank, item.lane.to_vec());
                }
            }
        }
        Ok(lanes)
    }
}
