//! Where a result came from, and who said otherwise.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::apply::{At, stored};
use crate::clock::utc;
use crate::error::ReadError;
use crate::events::each_record;
use crate::first_rounds;
use crate::house::House;
use crate::id::ClientId;
use crate::record::{self, DecodeError, Item, Record, SubjectValue, Tombstone, key};
use crate::registry::ServiceCore;

/// The origin of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Trace {
    /// Who reported it.
    pub client: ClientId,
    /// In which bucket: the pool's generation and the slot.
    pub bucket: (u64, u32),
    /// When the bucket's lease was journaled, by the wall clock. `None` if the journal no longer holds that.
    pub leased_at: Option<DateTime<Utc>>,
    /// When the report was journaled, by the wall clock.
    pub reported_at: DateTime<Utc>,
    /// The journal position of its record.
    pub position: u64,
    /// Which version of the subject's result it is.
    pub version: u32,
    /// Every other report on the subject in the journal, in its order: earlier versions, withdrawn ones, contradictions; none
    /// from before it was deleted and added again. A repeated report of the same content changes nothing and is only
    /// counted, not journaled.
    pub others: Vec<OtherReport>,
}

/// Another report on the same subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OtherReport {
    /// The journal position of its record.
    pub position: u64,
    /// When it was journaled, by the wall clock.
    pub at: DateTime<Utc>,
    /// By whom.
    pub client: ClientId,
    /// In which bucket.
    pub bucket: (u64, u32),
    /// It says the same as the result.
    pub agrees: bool,
    /// What it says (postcard).
    pub report: Vec<u8>,
}

/// One walk through the journal.
struct Search<'a> {
    service: u32,
    key: &'a [u8],
    result: &'a [u8],
    /// Lower ranks are of an earlier life of the subject, which was deleted.
    least_rank: u64,
    found: Trace,
}

/// Traces the result of a subject; `None` if it has none.
pub(crate) fn of_subject(house: &House, core: &ServiceCore, name: &[u8]) -> Result<Option<Trace>, ReadError> {
    let Some(bytes) = first_rounds::subject(house.store.as_ref(), core.id, name)? else { return Ok(None) };
    let value: SubjectValue<'_> = stored(record::decode("subject", &bytes))?;
    let Some(version) = value.current.filter(|_| value.withdrawn == 0) else { return Ok(None) };
    let found = Trace {
        client: ClientId::known(version.client),
        bucket: (version.generation, version.slot),
        leased_at: None,
        reported_at: utc(version.wall_ms),
        position: version.position,
        version: version.number,
        others: Vec::new(),
    };
    let tombstone = house.store.get(&key::of(core.id, key::DELETED, &record::subject_hash(name)))?;
    let tombstone: Option<Tombstone> =
        tombstone.map(|bytes| stored(record::decode("tombstone", &bytes))).transpose()?;
    let least_rank = tombstone.map_or(0, |tombstone| tombstone.next_rank);
    let mut search = Search { service: core.id, key: name, result: version.report, least_rank, found };
    each_record(house, |at, record| search.record(at, &record))?;
    Ok(Some(search.found))
}

impl Search<'_> {
    fn record(&mut self, at: At, record: &Record<'_>) -> Result<(), DecodeError> {
        match record {
            Record::Leased(of) if of.service == self.service && (of.generation, of.slot) == self.found.bucket => {
                self.found.leased_at = Some(utc(at.time.wall_ms));
                Ok(())
            }
            Record::Reported(of) | Record::Late(of) if of.service == self.service => {
                self.items(at, of.client, (of.generation, of.slot), of.items)
            }
            Record::Conflict(of) if of.service == self.service => {
                self.items(at, of.client, (of.generation, of.slot), of.items)
            }
            _ => Ok(()),
        }
    }

    fn items(&mut self, at: At, client: u64, bucket: (u64, u32), items: &[u8]) -> Result<(), DecodeError> {
        for item in record::list::<Item<'_>>("item", items) {
            let Item { key, rank, report, .. } = item?;
            if key != self.key || rank < self.least_rank || at.position == self.found.position {
                continue;
            }
            self.found.others.push(OtherReport {
                position: at.position,
                at: utc(at.time.wall_ms),
                client: ClientId::known(client),
                bucket,
                agrees: report == self.result,
                report: report.to_vec(),
            });
        }
        Ok(())
    }
}
