//! Subjects listed by what they wait for: not marked, or pending for long. Read from the store, page by page.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::apply::stored;
use crate::clock::millis;
use crate::error::ReadError;
use crate::record::{self, BlockItem, Owed, SubjectValue, UnmarkedValue, key};
use crate::registry::ServiceCore;
use crate::results::{hex, key_of, pairs_after};
use crate::service::{Service, Subject, contain};
use crate::store::{Store, walk};

/// Where a walk over pending subjects goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PendingCursor(u64);

/// A subject that waits or is being worked on.
#[derive(Clone, Serialize)]
#[serde(bound(serialize = ""))]
#[non_exhaustive]
pub struct PendingSubject<S: Service> {
    /// The subject.
    pub key: <S::Subject as Subject>::Key,
    /// Since its round was opened, in time during which the hub was open; at most: a block's subjects count from its first.
    pub pending: Duration,
    /// 1 for the first round of work, one more for each re-run.
    pub round: u32,
    /// Hops from a subject added by hand.
    pub depth: u16,
}

impl<S: Service> fmt::Debug for PendingSubject<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, pending, round, .. } = self;
        let subject = &mut f.debug_struct("PendingSubject");
        subject.field("key", key).field("pending", pending).field("round", round).finish_non_exhaustive()
    }
}

/// Up to `limit` unmarked subjects after `after`, in key order; and the key to go on from.
#[expect(clippy::type_complexity, reason = "a page and its cursor; the public caller names both")]
pub(crate) fn unmarked<S: Service>(
    store: &dyn Store,
    core: &ServiceCore,
    after: Option<&<S::Subject as Subject>::Key>,
    limit: usize,
) -> Result<(Vec<S::Subject>, Option<<S::Subject as Subject>::Key>), ReadError> {
    let mut found = Vec::new();
    for pair in pairs_after::<S>(store, core.id, key::UNMARKED, after, limit.clamp(1, 1_024)) {
        let (name, kept) = pair?;
        let name = key::rest(&name);
        // Asked again: it may have been marked since the scan, or withdrawn before.
        let Some(value) = store.get(&key::of(core.id, key::SUBJECT, name))? else { continue };
        let value: SubjectValue<'_> = stored(record::decode("subject", &value))?;
        if value.round > 0 || value.withdrawn != 0 {
            continue;
        }
        let kept: UnmarkedValue<'_> = stored(record::decode("unmarked subject", &kept))?;
        let read = contain(|| S::Subject::read(name, kept.body)).unwrap_or_else(Err);
        found.push(read.map_err(|what| ReadError::Decode { key: hex(name), what })?);
        if found.len() >= limit {
            return Ok((found, Some(key_of::<S>(name)?)));
        }
    }
    Ok((found, None))
}

/// Up to `limit` subjects that are pending for longer than `least`, oldest first; and where to go on.
pub(crate) fn pending_longer_than<S: Service>(
    store: &dyn Store,
    core: &ServiceCore,
    least: Duration,
    after: Option<PendingCursor>,
    limit: usize,
) -> Result<(Vec<PendingSubject<S>>, Option<PendingCursor>), ReadError> {
    let (now, least) = (core.link.clock.now(), millis(least));
    let from = after.map_or(0, |PendingCursor(rank)| rank.saturating_add(1));
    // The block that holds `from` may begin before it.
    let (first, end) = key::range(core.id, key::OWED, &[]);
    let before = store.last(&first, &key::of(core.id, key::OWED, &from.to_be_bytes()))?;
    let start = before.map_or(first, |(name, _)| name);
    let mut found = Vec::new();
    for pair in walk(store, start, Some(end), 4) {
        let (name, owed) = pair?;
        let owed: Owed = stored(record::decode("block state", &owed))?;
        let pending = now.saturating_sub(owed.since);
        if pending <= least {
            // Blocks follow each other in the order of time.
            break;
        }
        let first = key::number(key::rest(&name)).unwrap_or(0);
        let block = store.get(&key::of(core.id, key::BLOCK, &first.to_be_bytes()))?.unwrap_or_default();
        for (place, item) in record::list::<BlockItem<'_>>("block", &block).enumerate() {
            let BlockItem { depth, round, key, .. } = stored(item)?;
            let rank = first.saturating_add(place as u64);
            // One that was deleted between the two reads is blank.
            if rank < from || !owed.has(place as u64) || key.is_empty() {
                continue;
            }
            let pending = Duration::from_millis(pending);
            found.push(PendingSubject { key: key_of::<S>(key)?, pending, round, depth });
            if found.len() >= limit {
                return Ok((found, Some(PendingCursor(rank))));
            }
        }
    }
    Ok((found, None))
}
