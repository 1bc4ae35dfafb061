//! Retractions, from record to record: results and subjects withdrawn, taken in anew, given back.

use super::subjects::{frame, subject};
use super::{Applier, ApplyError, At, stored};
use crate::error::StoreError;
use crate::record::{
    self, FoundRecord, KeyRecord, Restored, RetractionValue, SubjectRecord, SubjectValue, VersionName, VersionValue,
    Withdrawn, key,
};
use crate::ticket::Intake;

/// What the withdrawal of one version led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is not there, or was withdrawn before.
    Unchanged,
    /// It was not in force.
    Withdrawn,
    /// An earlier one took its place.
    FellBack,
    /// Its subject is worked on again.
    Reopened,
}

impl Applier {
    /// Withdraws results, and subjects that only they revealed.
    pub(super) fn withdraw(&mut self, at: At, record: &Withdrawn<'_>) -> Result<Intake, ApplyError> {
        let service = record.service;
        let id = record.id_at(at.position);
        let name = key::retraction(service, id);
        let mut sum = match self.get(&name)? {
            Some(bytes) => stored(record::decode("retraction", &bytes))?,
            None => RetractionValue {
                client: record.client,
                wall_ms: at.time.wall_ms,
                from_ms: record.from_ms,
                to_ms: record.to_ms,
                ..RetractionValue::default()
            },
        };
        // Subjects first: the results of those that go open no rounds.
        for gone in record::list::<KeyRecord<'_>>("key", record.subjects) {
            sum.subjects += u64::from(self.withdraw_subject(service, id, gone.map_err(frame(at))?.key)?);
        }
        for version in record::list::<VersionName<'_>>("version", record.versions) {
            let VersionName { key, number } = version.map_err(frame(at))?;
            let fate = self.withdraw_version(at, service, id, key, number)?;
            sum.versions += u64::from(fate != Fate::Unchanged);
            sum.fell_back += u64::from(fate == Fate::FellBack);
            sum.reopened += u64::from(fate == Fate::Reopened);
        }
        for found in record::list::<FoundRecord<'_>>("found subject", record.found) {
            sum.returned += u64::from(self.take_back(at, service, id, &found.map_err(frame(at))?)?);
        }
        self.put(name, &sum);
        Ok(Intake::default())
    }

    /// Withdraws one version. If it was in force, the last one that still holds takes its place; without one, the subject is
    /// put to work again.
    fn withdraw_version(
        &mut self,
        at: At,
        service: u32,
        id: u64,
        name: &[u8],
        number: u32,
    ) -> Result<Fate, StoreError> {
        let subject_key = key::of(service, key::SUBJECT, name);
        let Some(bytes) = self.subject_of(service, name)? else { return Ok(Fate::Unchanged) };
        let mut value = subject(&bytes)?;
        self.changes += 1;
        let Some(version) = value.current.take_if(|current| current.number == number) else {
            return Ok(if self.withdraw_past(service, id, name, number)? { Fate::Withdrawn } else { Fate::Unchanged });
        };
        self.put_version(service, name, &VersionValue { withdrawn: id, ..version });
        self.tally_mut(service).withdrawn += 1;
        let standing = self.take_standing(service, name, number)?;
        value.current = standing.as_deref().map(|bytes| stored(record::decode("version", bytes))).transpose()?;
        if value.current.is_some() {
            self.put(subject_key, &value);
            return Ok(Fate::FellBack);
        }
        if value.open || value.withdrawn != 0 {
            self.put(subject_key, &value);
            return Ok(Fate::Withdrawn);
        }
        self.reopen(at, service, SubjectValue { reopened: true, ..value }, name)?;
        Ok(Fate::Reopened)
    }

    /// Withdraws a version that is not in force. False if it is not there, or was withdrawn before.
    fn withdraw_past(&mut self, service: u32, id: u64, name: &[u8], number: u32) -> Result<bool, StoreError> {
        let version_key = key::version(service, name, number);
        let Some(bytes) = self.get(&version_key)? else { return Ok(false) };
        let version: VersionValue<'_> = stored(record::decode("version", &bytes))?;
        if version.withdrawn != 0 {
            return Ok(false);
        }
        self.put(version_key, &VersionValue { withdrawn: id, ..version });
        self.tally_mut(service).withdrawn += 1;
        Ok(true)
    }

    /// Takes the last version before `number` that holds away from its place among the past ones.
    pub(super) fn take_standing(
        &mut self,
        service: u32,
        name: &[u8],
        number: u32,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        for below in (1..number).rev() {
            let version_key = key::version(service, name, below);
            let Some(bytes) = self.get(&version_key)? else { continue };
            let version: VersionValue<'_> = stored(record::decode("version", &bytes))?;
            if version.withdrawn == 0 {
                self.batch.insert(version_key, None);
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    fn withdraw_subject(&mut self, service: u32, id: u64, name: &[u8]) -> Result<bool, StoreError> {
        let subject_key = key::of(service, key::SUBJECT, name);
        let Some(bytes) = self.subject_of(service, name)? else { return Ok(false) };
        let value = subject(&bytes)?;
        // Added by hand meanwhile: it needs nobody's report.
        let by_hand = value.depth == 0 || self.get(&key::of(service, key::BY_HAND, name))?.is_some();
        if value.withdrawn != 0 || by_hand {
            return Ok(false);
        }
        self.changes += 1;
        if value.open {
            self.close_round(service, value.rank, name)?;
        }
        let tally = self.tally_mut(service);
        if value.round == 0 {
            tally.unmarked -= 1;
        } else {
            tally.known -= 1;
            tally.done -= u64::from(!value.open);
        }
        self.put(subject_key, &SubjectValue { withdrawn: id, ..value });
        Ok(true)
    }

    /// Takes in a subject that this retraction took away. False if it is known again, or was deleted.
    fn take_back(&mut self, at: At, service: u32, id: u64, found: &FoundRecord<'_>) -> Result<bool, StoreError> {
        let Some(bytes) = self.get(&key::of(service, key::SUBJECT, found.key))? else { return Ok(false) };
        if subject(&bytes)?.withdrawn != id {
            return Ok(false);
        }
        self.changes += 1;
        let as_found = SubjectRecord { key: found.key, lane: found.lane, deadline: None, body: found.body };
        if found.unmarked {
            self.keep_one(service, found.depth, as_found)?;
        } else {
            self.take_in_one(at, service, found.depth, as_found)?;
        }
        Ok(true)
    }

    /// A withdrawn subject is known again: what was reported on it before stays withdrawn.
    pub(super) fn begin_anew<'a>(
        &mut self,
        service: u32,
        name: &[u8],
        mut value: SubjectValue<'a>,
    ) -> Result<SubjectValue<'a>, StoreError> {
        let id = value.withdrawn;
        if let Some(version) = value.current.take() {
            self.put_version(service, name, &VersionValue { withdrawn: id, ..version });
            self.tally_mut(service).withdrawn += 1;
        }
        for number in 1..=value.versions {
            self.withdraw_past(service, id, name, number)?;
        }
        Ok(SubjectValue { open: false, reopened: false, withdrawn: 0, ..value })
    }

    /// Undoes a part of a retraction: what it withdrew holds again.
    pub(super) fn restore(&mut self, at: At, record: &Restored<'_>) -> Result<Intake, ApplyError> {
        let (service, id) = (record.service, record.id);
        for version in record::list::<VersionName<'_>>("version", record.versions) {
            let VersionName { key, number } = version.map_err(frame(at))?;
            self.restore_version(service, id, key, number)?;
        }
        for name in record::list::<KeyRecord<'_>>("key", record.subjects) {
            self.restore_subject(at, service, id, name.map_err(frame(at))?.key)?;
        }
        if record.last {
            self.batch.insert(key::retraction(service, id), None);
        }
        Ok(Intake::default())
    }

    fn restore_version(&mut self, service: u32, id: u64, name: &[u8], number: u32) -> Result<(), StoreError> {
        let version_key = key::version(service, name, number);
        let Some(version_bytes) = self.get(&version_key)? else { return Ok(()) };
        let version: VersionValue<'_> = stored(record::decode("version", &version_bytes))?;
        let subject_key = key::of(service, key::SUBJECT, name);
        let Some(bytes) = self.subject_of(service, name)? else { return Ok(()) };
        let mut value = subject(&bytes)?;
        if version.withdrawn != id {
            return Ok(());
        }
        self.changes += 1;
        self.tally_mut(service).withdrawn -= 1;
        let version = VersionValue { withdrawn: 0, ..version };
        // An unmarked subject has no result in force.
        if value.round == 0 || value.current.as_ref().is_some_and(|current| current.number > number) {
            self.put(version_key, &version);
            return Ok(());
        }
        // The round that a retraction opened is needed no more; one that was asked for goes on.
        if value.open && value.reopened {
            if value.withdrawn == 0 {
                self.close_round(service, value.rank, name)?;
                self.tally_mut(service).done += 1;
            }
            (value.open, value.reopened) = (false, false);
        }
        self.batch.insert(version_key, None);
        if let Some(current) = value.current.replace(version) {
            self.put_version(service, name, &current);
        }
        self.put(subject_key, &value);
        Ok(())
    }

    fn restore_subject(&mut self, at: At, service: u32, id: u64, name: &[u8]) -> Result<(), StoreError> {
        let subject_key = key::of(service, key::SUBJECT, name);
        let Some(bytes) = self.subject_of(service, name)? else { return Ok(()) };
        let value = subject(&bytes)?;
        if value.withdrawn != id {
            return Ok(());
        }
        self.changes += 1;
        let must_work = value.open || (value.current.is_none() && !value.expired);
        let value = SubjectValue { withdrawn: 0, open: false, ..value };
        let tally = self.tally_mut(service);
        if value.round == 0 {
            tally.unmarked += 1;
            self.put(subject_key, &value);
            return Ok(());
        }
        tally.known += 1;
        tally.done += 1;
        if must_work {
            let reopened = value.current.is_none() && value.versions > 0;
            self.reopen(at, service, SubjectValue { reopened, ..value }, name)
        } else {
            self.put(subject_key, &value);
            Ok(())
        }
    }
}
