//! What must not be copied when the journal is written anew: every trace of the subjects that were deleted.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::apply::{self, stored};
use crate::error::StoreError;
use crate::record::{
    self, Added, Conflict, DecodeError, FoundRecord, Item, KeyRecord, Keys, Record, Reported, Restored, SubjectRecord,
    Tombstone, VersionName, Withdrawn, key,
};
use crate::store::Store;

/// Why a record could not be redacted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RedactError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A deleted subject: its service, and the hash of its key.
type Grave = (u32, [u8; 16]);

/// The deleted subjects, and which of them were met.
#[derive(Debug)]
pub(crate) struct Redaction<'s> {
    store: &'s dyn Store,
    graves: HashMap<Grave, Tombstone>,
    met: HashSet<Grave>,
}

impl<'s> Redaction<'s> {
    /// Reads the tombstones.
    pub(crate) fn load(store: &'s dyn Store) -> Result<Self, StoreError> {
        let mut redaction = Self { store, graves: HashMap::new(), met: HashSet::new() };
        for (service, _) in apply::services(store)? {
            apply::each(store, service, key::DELETED, |rest, value| {
                let tombstone = stored(record::decode("tombstone", value))?;
                let hash = <[u8; 16]>::try_from(rest);
                let hash = hash.map_err(|_| StoreError::Corrupted { what: "a tombstone's key".to_owned() })?;
                redaction.graves.insert((service, hash), tombstone);
                Ok(())
            })?;
        }
        Ok(redaction)
    }

    /// How many deleted subjects there was still something of.
    pub(crate) fn subjects_met(&self) -> u64 {
        self.met.len() as u64
    }

    /// What is left of a record that stands at `position`: all, a part, or nothing.
    pub(crate) fn record<'a>(
        &mut self,
        position: u64,
        kind: u8,
        body: &'a [u8],
    ) -> Result<Option<Cow<'a, [u8]>>, RedactError> {
        // Without a wildcard: who adds a record has to say here whether it names subjects.
        let left = match Record::decode(kind, body)? {
            Record::Added(Added { service, subjects }) => {
                let subjects = self.subjects(position, service, subjects)?;
                subjects.map(|subjects| record::encode(&Added { service, subjects: &subjects }))
            }
            Record::Reported(reported) => {
                let items = self.items(position, reported.service, reported.items)?;
                items.map(|left| record::encode(&Reported { items: &left, ..reported }))
            }
            Record::Late(late) => {
                let items = self.items(position, late.service, late.items)?;
                items.map(|left| record::encode(&Reported { items: &left, ..late }))
            }
            Record::Conflict(conflict) => {
                let items = self.items(position, conflict.service, conflict.items)?;
                items.map(|left| record::encode(&Conflict { items: &left, ..conflict }))
            }
            Record::Rerun(Keys { service, keys }) | Record::Marked(Keys { service, keys }) => {
                let keys = self.keys(position, service, keys)?;
                keys.map(|keys| record::encode(&Keys { service, keys: &keys }))
            }
            // When something was deleted may be told, what it was may not.
            Record::Deleted(Keys { service, .. }) => Some(record::encode(&Keys { service, keys: &[] })),
            Record::Withdrawn(withdrawn) => Some(self.withdrawn(position, &withdrawn)?),
            Record::Restored(restored) => {
                let versions = self.versions(position, restored.service, restored.versions)?.unwrap_or_default();
                let subjects = self.keys(position, restored.service, restored.subjects)?.unwrap_or_default();
                Some(record::encode(&Restored { versions: &versions, subjects: &subjects, ..restored }))
            }
            Record::Boot(_)
            | Record::Service(_)
            | Record::Client(_)
            | Record::Seat(_)
            | Record::Leased(_)
            | Record::Released(_)
            | Record::Urgent(_)
            | Record::Level(_)
            | Record::Snapshot(_)
            | Record::Past(_) => return Ok(Some(Cow::Borrowed(body))),
        };
        Ok(left.map(Cow::Owned))
    }

    fn withdrawn(&mut self, position: u64, record: &Withdrawn<'_>) -> Result<Vec<u8>, RedactError> {
        let versions = self.versions(position, record.service, record.versions)?.unwrap_or_default();
        let subjects = self.keys(position, record.service, record.subjects)?.unwrap_or_default();
        let found = self.found(position, record.service, record.found)?.unwrap_or_default();
        Ok(record::encode(&Withdrawn { versions: &versions, subjects: &subjects, found: &found, ..*record }))
    }

    fn found(&mut self, position: u64, service: u32, list: &[u8]) -> Result<Option<Vec<u8>>, RedactError> {
        self.named(position, service, "found subject", list, |found: &FoundRecord<'_>| found.key)
    }

    fn versions(&mut self, position: u64, service: u32, list: &[u8]) -> Result<Option<Vec<u8>>, RedactError> {
        self.named(position, service, "version", list, |version: &VersionName<'_>| version.key)
    }

    fn keys(&mut self, position: u64, service: u32, list: &[u8]) -> Result<Option<Vec<u8>>, RedactError> {
        self.named(position, service, "key", list, |name: &KeyRecord<'_>| name.key)
    }

    fn subjects(&mut self, position: u64, service: u32, list: &[u8]) -> Result<Option<Vec<u8>>, RedactError> {
        self.named(position, service, "subject", list, |subject: &SubjectRecord<'_>| subject.key)
    }

    /// What is left of a list of records that name a subject each; `None` if nothing is left of what was there.
    fn named<'a, T: Serialize + Deserialize<'a> + 'a>(
        &mut self,
        position: u64,
        service: u32,
        what: &'static str,
        list: &'a [u8],
        key: impl Fn(&T) -> &[u8],
    ) -> Result<Option<Vec<u8>>, RedactError> {
        let mut left = Vec::with_capacity(list.len());
        for record in record::list::<T>(what, list) {
            let record = record?;
            if !self.is_erased(position, service, key(&record))? {
                record::append(&mut left, &record);
            }
        }
        Ok(something(left, list))
    }

    fn items(&mut self, position: u64, service: u32, list: &[u8]) -> Result<Option<Vec<u8>>, RedactError> {
        let mut left = Vec::with_capacity(list.len());
        for item in record::list::<Item<'_>>("item", list) {
            let item = item?;
            if !self.is_erased_report(position, service, &item)? {
                let found = self.subjects(position, service, item.found)?.unwrap_or_default();
                let beyond = self.subjects(position, service, item.beyond)?.unwrap_or_default();
                Item { found: &found, beyond: &beyond, ..item }.append_to(&mut left);
            }
        }
        Ok(something(left, list))
    }

    /// Whether what stands at `position` about a subject is to be erased: it was deleted later, or it was deleted earlier and
    /// is not known again.
    fn is_erased(&mut self, position: u64, service: u32, key: &[u8]) -> Result<bool, StoreError> {
        let Some((grave, tombstone)) = self.grave(service, key) else { return Ok(false) };
        let erased = position <= tombstone.position || self.store.get(&key::of(service, key::SUBJECT, key))?.is_none();
        if erased {
            self.met.insert(grave);
        }
        Ok(erased)
    }

    fn grave(&self, service: u32, key: &[u8]) -> Option<(Grave, Tombstone)> {
        if self.graves.is_empty() {
            return None;
        }
        let grave = (service, record::subject_hash(key));
        self.graves.get(&grave).map(|tombstone| (grave, *tombstone))
    }

    /// The same for a report. One that came for an earlier life of a subject that was added anew shows by its rank.
    fn is_erased_report(&mut self, position: u64, service: u32, item: &Item<'_>) -> Result<bool, StoreError> {
        if let Some((grave, _)) = self.grave(service, item.key).filter(|(_, tombstone)| item.rank < tombstone.next_rank)
        {
            self.met.insert(grave);
            return Ok(true);
        }
        self.is_erased(position, service, item.key)
    }
}

/// `None` if something was there and nothing is left.
fn something(left: Vec<u8>, before: &[u8]) -> Option<Vec<u8>> {
    (!left.is_empty() || before.is_empty()).then_some(left)
}

#[cfg(test)]
mod tests {
    use serde_bytes::Bytes;

    use super::*;
    use crate::record::{ServiceValue, SubjectValue};
    use crate::service::ServiceState;
    use crate::store::{Batch, MemoryStore};

    const SERVICE: u32 = 3;

    /// A store in which `gone` was deleted at position 100 and rank 50, `back` as well and then added anew.
    fn store() -> MemoryStore {
        let (store, mut batch) = (MemoryStore::new(), Batch::new());
        let value =
            ServiceValue { name: "s".to_owned(), state: ServiceState::Active, max_subjects: 9, lane_subjects: 9 };
        batch.insert(key::of(0, key::SERVICE, &SERVICE.to_be_bytes()), Some(record::encode(&value)));
        let tombstone = record::encode(&Tombstone { wall_ms: 0, position: 100, next_rank: 50 });
        for name in [b"gone", b"back"] {
            let hash = record::subject_hash(name);
            batch.insert(key::of(SERVICE, key::DELETED, &hash), Some(tombstone.clone()));
        }
        let value = record::encode(&SubjectValue { rank: 51, ..SubjectValue::new(0) });
        batch.insert(key::of(SERVICE, key::SUBJECT, b"back"), Some(value));
        store.apply(batch).unwrap();
        store
    }

    fn versions(names: &[&[u8]]) -> Vec<u8> {
        let mut list = Vec::new();
        for name in names {
            record::append(&mut list, &VersionName { key: name, number: 1 });
        }
        list
    }

    fn found(names: &[&[u8]]) -> Vec<u8> {
        let mut list = Vec::new();
        for key in names {
            record::append(&mut list, &FoundRecord { depth: 1, unmarked: false, key, lane: b"", body: key });
        }
        list
    }

    fn keys(names: &[&[u8]]) -> Vec<u8> {
        let mut list = Vec::new();
        for name in names {
            record::append(&mut list, &KeyRecord { key: name });
        }
        list
    }

    /// R32: a subject that is gone is in no list, one that came back only in those from after its deletion; and the same key in
    /// another service is another subject.
    #[test]
    fn retractions_lose_what_was_deleted() {
        let store = store();
        let all: [&[u8]; 3] = [b"gone", b"back", b"kept"];
        for (service, position, left) in
            [(SERVICE, 100, &all[2..]), (SERVICE, 101, &all[1..]), (SERVICE + 1, 100, &all[..])]
        {
            let mut redaction = Redaction::load(&store).unwrap();
            let (lists, left) = ((versions(&all), keys(&all), found(&all)), (versions(left), keys(left), found(left)));
            let (versions, subjects) = (lists.0.as_slice(), lists.1.as_slice());
            let (from_ms, to_ms) = (1, 2);
            let record = Withdrawn { service, id: 5, client: 6, from_ms, to_ms, versions, subjects, found: &lists.2 };
            let expected = Withdrawn { versions: &left.0, subjects: &left.1, found: &left.2, ..record.clone() };
            let body = record::encode(&record);
            let redacted = redaction.record(position, 14, &body).unwrap().unwrap();
            assert_eq!(*redacted, record::encode(&expected));
            let record = Restored { service, id: 5, last: true, versions, subjects };
            let expected = Restored { versions: &left.0, subjects: &left.1, ..record.clone() };
            let body = record::encode(&record);
            let redacted = redaction.record(position, 15, &body).unwrap().unwrap();
            assert_eq!(*redacted, record::encode(&expected));
            assert_eq!(redaction.subjects_met(), 3 - left_of(&left.1));
        }
    }

    /// R32: a report that comes after the deletion is one on the life that is over if its rank was given before: on a lease
    /// that was out, or once more on a rank that was settled. Then it goes, whoever has the key now.
    #[test]
    fn late_reports_on_the_deleted_go_by_their_rank() {
        let store = store();
        let mut redaction = Redaction::load(&store).unwrap();
        let mut left = |kind, position, key: &[u8], rank| {
            let mut items = Vec::new();
            let found = b"";
            let kept = Item {
                place: 0,
                rank: 7,
                depth: 0,
                round: 1,
                key: b"kept",
                report: b"r",
                found,
                beyond: found,
                too_deep: 0,
                expired: false,
            };
            kept.append_to(&mut items);
            Item { place: 1, rank, key, ..kept }.append_to(&mut items);
            let (generation, slot, client, items) = (1, 1, 1, items.as_slice());
            let conflict = Conflict { service: SERVICE, generation, slot, client, items };
            let reported =
                Reported { service: SERVICE, generation, slot, client, items, state: Some(Bytes::new(b"state")) };
            let body = if kind == 9 { record::encode(&conflict) } else { record::encode(&reported) };
            let body = redaction.record(position, kind, &body).unwrap().unwrap().into_owned();
            let items = match Record::decode(kind, &body).unwrap() {
                Record::Conflict(left) => left.items,
                Record::Reported(left) | Record::Late(left) => {
                    assert_eq!(left.state, Some(Bytes::new(b"state")), "a lane's state is of no subject");
                    left.items
                }
                other => panic!("{other:?}"),
            };
            record::list::<Item<'_>>("item", items).count() - 1
        };
        for kind in [7, 9, 17] {
            for (position, key, rank, stays) in [
                (200, &b"back"[..], 49, 0),
                (200, b"back", 50, 1),
                (100, b"back", 50, 0),
                (200, b"gone", 49, 0),
                (200, b"gone", 50, 0),
                (200, b"kept", 49, 1),
            ] {
                assert_eq!(left(kind, position, key, rank), stays, "{kind} {position} {rank}");
            }
        }
    }

    fn left_of(list: &[u8]) -> u64 {
        record::list::<KeyRecord<'_>>("key", list).count() as u64
    }

    /// R32: a record of which nothing is left is dropped; when something was deleted may be told, what it was may not.
    #[test]
    fn keys_of_the_deleted_go_and_an_empty_record_with_them() {
        let store = store();
        let mut redaction = Redaction::load(&store).unwrap();
        let mut record = |kind, position, names: &[&[u8]]| {
            let body = record::encode(&Keys { service: SERVICE, keys: &keys(names) });
            let left = redaction.record(position, kind, &body).unwrap().map(Cow::into_owned);
            left.map(|body| left_of(record::decode::<Keys<'_>>("keys", &body).unwrap().keys))
        };
        for kind in [11, 13] {
            assert_eq!(record(kind, 200, &[b"gone"]), None);
            assert_eq!(record(kind, 200, &[b"gone", b"back"]), Some(1));
            assert_eq!(record(kind, 100, &[b"back"]), None);
            assert_eq!(record(kind, 1, &[]), Some(0), "it was empty before");
        }
        assert_eq!(record(12, 200, &[b"gone", b"back", b"kept"]), Some(0));
    }
}
