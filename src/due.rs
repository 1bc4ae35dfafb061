//! Dead leases whose grace is over: the oldest of them, and no more than may be released in a round.

use std::collections::BTreeMap;

use crate::pool::Pool;
use crate::sync::Arc;

/// When it died, when it was claimed, and which it is.
type Age = (u64, u64, u32, u64, usize);

/// What is to be released in one round.
#[derive(Debug)]
pub(crate) struct Due {
    most: usize,
    /// Oldest first; never more than `most`.
    oldest: BTreeMap<Age, (Arc<Pool>, u32)>,
}

impl Due {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, oldest: BTreeMap::new() }
    }

    /// Takes note of the lease of `owner` at `index`, which died at `died` (hub time, ms), if it is among the oldest.
    pub(crate) fn offer(&mut self, pool: &Arc<Pool>, index: usize, owner: u32, died: u64) {
        let claimed = pool.slot(index).map_or(0, |slot| pool.claimed_at(slot));
        let age = (died, claimed, pool.service, pool.generation, index);
        if self.oldest.len() >= self.most {
            let youngest = self.oldest.last_key_value().map(|(age, _)| *age);
            if youngest.is_none_or(|youngest| youngest <= age) {
                return;
            }
            self.oldest.pop_last();
        }
        self.oldest.insert(age, (Arc::clone(pool), owner));
    }

    /// Oldest first: the pool, the place in it, the owner.
    pub(crate) fn into_oldest(self) -> impl Iterator<Item = (Arc<Pool>, usize, u32)> {
        self.oldest.into_iter().map(|((.., index), (pool, owner))| (pool, index, owner))
    }
}
