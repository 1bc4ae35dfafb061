//! Counting from scratch where subjects are: in the store, the queues, the pools and the leases.

use std::collections::HashSet;

use super::print::Print;
use crate::apply::{self, stored};
use crate::error::StoreError;
use crate::pool::Pool;
use crate::record::{self, Owed, key};
use crate::registry::ServiceCore;
use crate::slot::{Phase, Slot};
use crate::store::Store;

/// What the steward's queues hold.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    pub(crate) waiting: Print,
    /// Ranks below were read.
    pub(crate) read_to: u64,
    /// Ranks that are not read from the store when their turn comes: they are served otherwise.
    pub(crate) passed_over: HashSet<u64>,
}

/// Where the subjects of a service were found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) owed: Print,
    pub(crate) unread: Print,
    pub(crate) waiting: Print,
    pub(crate) ready: Print,
    pub(crate) leased: Print,
}

/// Counts the subjects of a service one by one, with what the steward said of its queues.
pub(crate) fn count(store: &dyn Store, service: &ServiceCore, queues: &Queues) -> Result<Found, StoreError> {
    let mut found = Found { waiting: queues.waiting, ..Found::default() };
    for pool in service.live().iter() {
        for (index, slot) in pool.slots().iter().enumerate() {
            count_slot(pool, index, slot, &mut found);
        }
    }
    apply::each(store, service.id, key::OWED, |rest, value| {
        let first = key::number(rest).unwrap_or(0);
        let owed: Owed = stored(record::decode("block state", value))?;
        for rank in owed.places().map(|place| first + place) {
            found.owed.add(rank);
            if rank >= queues.read_to && !queues.passed_over.contains(&rank) {
                found.unread.add(rank);
            }
        }
        Ok(())
    })?;
    Ok(found)
}

fn count_slot(pool: &Pool, index: usize, slot: &Slot, found: &mut Found) {
    match slot.snapshot().phase() {
        Phase::Ready => found.ready = found.ready.plus(pool.print(index, slot.open())),
        Phase::Leased | Phase::Dead => found.leased = found.leased.plus(pool.print(index, slot.open())),
        Phase::Released | Phase::Done => {}
    }
}
