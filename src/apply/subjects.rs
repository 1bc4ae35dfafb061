//! The life of subjects, from record to record: taken in, marked, done, run again, deleted, withdrawn.

use super::{Applier, ApplyError, At, Effect, OpenBlock, stored};
use crate::error::StoreError;
use crate::keys::EVERY_SERVICE;
use crate::record::{
    self, BlockItem, DecodeError, Item, KeyRecord, Keys, Owed, Reported, Restored, RetractionValue, SubjectRecord,
    SubjectValue, Tombstone, Urgent, VersionName, VersionValue, Withdrawn, key,
};
use crate::store::Pair;
use crate::ticket::Intake;

/// Subjects in a block, at most.
const BLOCK_SUBJECTS: u32 = 1_024;
/// Bytes of a block, about at most.
const BLOCK_BYTES: usize = 256 << 10;

fn frame(at: At) -> impl Fn(DecodeError) -> ApplyError {
    move |error| ApplyError::Frame { position: at.position, what: error.to_string() }
}

/// A subject's value, as read.
fn subject(bytes: &[u8]) -> Result<SubjectValue<'_>, StoreError> {
    stored(record::decode("subject", bytes))
}

impl Applier {
    /// Takes in those of a list of subjects that are new, oldest first: from depth 0 if they were added by hand.
    pub(super) fn take_in(&mut self, at: At, service: u32, depth: u16, subjects: &[u8]) -> Result<Intake, ApplyError> {
        let mut intake = Intake::default();
        for subject in record::list::<SubjectRecord<'_>>("subject", subjects) {
            self.take_in_one(at, service, depth, subject.map_err(frame(at))?, &mut intake)?;
        }
        self.tally_mut(service).duplicates += intake.duplicates;
        self.changes += usize::try_from(intake.added).unwrap_or(usize::MAX);
        Ok(intake)
    }

    fn take_in_one(
        &mut self,
        at: At,
        service: u32,
        depth: u16,
        found: SubjectRecord<'_>,
        intake: &mut Intake,
    ) -> Result<(), StoreError> {
        let bytes = self.get(&key::of(service, key::SUBJECT, found.key))?;
        let known = bytes.as_deref().map(subject).transpose()?;
        match known {
            Some(value) if value.withdrawn == 0 && value.round > 0 => {
                intake.duplicates += 1;
                if depth == 0 && value.depth > 0 {
                    self.batch.insert(key::of(service, key::BY_HAND, found.key), Some(Vec::new()));
                }
                return Ok(());
            }
            Some(value) if value.withdrawn == 0 => {
                // Known and not to be worked on: from here on it is.
                self.tally_mut(service).unmarked -= 1;
                self.batch.insert(key::of(service, key::UNMARKED, found.key), None);
                self.open_round(at, service, SubjectValue { depth, ..value }, found.key, found.body);
            }
            _ if self.is_full(service) => {
                self.tally_mut(service).cut_by_budget += 1;
                intake.cut += 1;
                return Ok(());
            }
            Some(value) => {
                // A retraction took it away. It begins anew; what was known of it stays withdrawn.
                let gone = value.withdrawn;
                if value.versions == 0 {
                    // Nothing of it is left to restore.
                    self.unname(service, gone, found.key);
                }
                let mut value = SubjectValue { depth, withdrawn: 0, ..value };
                if let Some(version) = value.current.take() {
                    self.put_version(service, found.key, &VersionValue { withdrawn: gone, ..version });
                }
                self.open_round(at, service, value, found.key, found.body);
            }
            None => self.open_round(at, service, SubjectValue::new(depth), found.key, found.body),
        }
        self.tally_mut(service).known += 1;
        intake.added += 1;
        Ok(())
    }

    fn is_full(&mut self, service: u32) -> bool {
        let budget = self.services.get(&service).map_or(u64::MAX, |value| value.max_subjects);
        let tally = self.tally_mut(service);
        tally.known + tally.unmarked >= budget
    }

    /// Keeps what lies too deep to be worked on.
    fn keep_beyond(&mut self, at: At, service: u32, depth: u16, subjects: &[u8]) -> Result<(), ApplyError> {
        for found in record::list::<SubjectRecord<'_>>("subject", subjects) {
            let found = found.map_err(frame(at))?;
            let name = key::of(service, key::SUBJECT, found.key);
            if self.get(&name)?.is_some() {
                continue;
            }
            if self.is_full(service) {
                self.tally_mut(service).cut_by_budget += 1;
                continue;
            }
            self.put(name, &SubjectValue::new(depth));
            self.batch.insert(key::of(service, key::UNMARKED, found.key), Some(found.body.to_vec()));
            self.tally_mut(service).unmarked += 1;
        }
        Ok(())
    }

    /// Opens the next round of a subject: it waits to be handed out, as the youngest.
    fn open_round(&mut self, at: At, service: u32, value: SubjectValue<'_>, name: &[u8], body: &[u8]) {
        let tally = self.tally_mut(service);
        let rank = tally.next_rank;
        tally.next_rank += 1;
        tally.reruns += u64::from(value.round > 0);
        if value.round > 0 {
            // The new round's block says the same; two would have to be erased.
            self.blank(service, value.rank);
        }
        let value = SubjectValue { rank, round: value.round + 1, open: true, ..value };
        self.put(key::of(service, key::SUBJECT, name), &value);
        let item = BlockItem { depth: value.depth, round: value.round, key: name, body };
        self.enqueue(at, service, rank, item);
    }

    fn enqueue(&mut self, at: At, service: u32, rank: u64, item: BlockItem<'_>) {
        let block = self.open_blocks.entry(service).or_insert_with(|| OpenBlock {
            first: rank,
            count: 0,
            since: at.time.hub_ms,
            bodies: false,
            bytes: Vec::new(),
        });
        block.count += 1;
        block.bodies |= !item.body.is_empty();
        record::append(&mut block.bytes, &item);
        if block.count >= BLOCK_SUBJECTS || block.bytes.len() >= BLOCK_BYTES {
            self.close_block(service);
        }
    }

    pub(super) fn close_block(&mut self, service: u32) {
        if let Some(OpenBlock { first, count, since, bodies, bytes }) = self.open_blocks.remove(&service) {
            self.batch.insert(key::of(service, key::BLOCK, &first.to_be_bytes()), Some(bytes));
            self.blocks.insert((service, first), Owed::all(count, since, bodies));
            self.dirty_blocks.insert((service, first));
        }
    }

    /// A report that took effect: stores it if its subject is still owed, and takes in what it revealed.
    pub(super) fn report(&mut self, at: At, record: &Reported<'_>, item: &Item<'_>) -> Result<Intake, ApplyError> {
        let service = record.service;
        if !self.settle(at, service, item.rank)? {
            self.tally_mut(service).discarded += 1;
            return Ok(Intake::default());
        }
        // In its first round nothing is known of a subject but what the report says.
        let name = key::of(service, key::SUBJECT, item.key);
        let bytes = if item.round > 1 { self.get(&name)? } else { None };
        let known = bytes.as_deref().map(subject).transpose()?;
        let before = known.unwrap_or(SubjectValue { round: item.round, ..SubjectValue::new(item.depth) });
        let number = before.versions + 1;
        let version = VersionValue {
            number,
            round: item.round,
            client: record.client,
            wall_ms: at.time.wall_ms,
            position: at.position,
            generation: record.generation,
            slot: record.slot,
            withdrawn: 0,
            report: item.report,
        };
        if let Some(old) = &before.current {
            self.put_version(service, item.key, old);
            if old.client != record.client && old.report != item.report {
                self.seat_mut(service, old.client)?.tally.disagreements += 1;
                self.effects.push(Effect::Disagreed { service, client: old.client });
            }
        }
        let value = SubjectValue { rank: item.rank, open: false, versions: number, current: Some(version), ..before };
        self.put(name, &value);
        self.changes += 1;
        let tally = self.tally_mut(service);
        tally.done += 1;
        tally.cut_by_depth += u64::from(item.too_deep);
        let depth = item.depth.saturating_add(1);
        self.keep_beyond(at, service, depth, item.beyond)?;
        let mut intake = self.take_in(at, service, depth.max(1), item.found)?;
        intake.cut += u64::from(item.too_deep);
        Ok(intake)
    }

    fn put_version(&mut self, service: u32, name: &[u8], version: &VersionValue<'_>) {
        self.put(key::version(service, name, version.number), version);
    }

    /// Nothing is owed of a rank any more. False if nothing was.
    fn settle(&mut self, at: At, service: u32, rank: u64) -> Result<bool, StoreError> {
        let Some(first) = self.block_of(service, rank)? else { return Ok(false) };
        self.dirty_blocks.insert((service, first));
        let owed = self.blocks.get_mut(&(service, first));
        if !owed.is_some_and(|owed| owed.clear(rank - first)) {
            return Ok(false);
        }
        if self.urgent.remove(&(service, rank)) {
            self.batch.insert(key::of(service, key::URGENT, &rank.to_be_bytes()), None);
            self.end_again(at, service, rank)?;
        }
        Ok(true)
    }

    /// True if a rank is owed: it waits or is being worked on.
    pub(crate) fn is_owed(&mut self, service: u32, rank: u64) -> Result<bool, StoreError> {
        let Some(first) = self.block_of(service, rank)? else { return Ok(false) };
        Ok(self.blocks.get(&(service, first)).is_some_and(|owed| owed.has(rank - first)))
    }

    /// The first rank of the block that holds `rank`, once it is in memory; `None` if the block is done.
    fn block_of(&mut self, service: u32, rank: u64) -> Result<Option<u64>, StoreError> {
        if self.open_blocks.get(&service).is_some_and(|block| block.first <= rank) {
            self.close_block(service);
        }
        let holds = |first: u64, owed: &Owed| first <= rank && rank - first < u64::from(owed.len);
        let cached = self.blocks.range((service, 0)..=(service, rank)).next_back();
        if let Some((&(_, first), owed)) = cached
            && holds(first, owed)
        {
            return Ok(Some(first));
        }
        let start = key::of(service, key::OWED, &[]);
        let last = key::of(service, key::OWED, &rank.to_be_bytes());
        let Some((found, bytes)) = self.store.last(&start, &last)? else { return Ok(None) };
        let Some(first) = key::number(key::rest(&found)) else { return Ok(None) };
        let owed: Owed = stored(record::decode("block state", &bytes))?;
        if !holds(first, &owed) {
            return Ok(None);
        }
        self.blocks.insert((service, first), owed);
        Ok(Some(first))
    }

    /// The block that holds or held `rank`: its first rank and its items. `None` if it is gone: its subjects are their keys.
    pub(super) fn block_bytes(&mut self, service: u32, rank: u64) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        if self.open_blocks.get(&service).is_some_and(|block| block.first <= rank) {
            self.close_block(service);
        }
        let (start, last) = (key::of(service, key::BLOCK, &[]), key::of(service, key::BLOCK, &rank.to_be_bytes()));
        let stored = self.store.last(&start, &last)?.map(|(name, _)| name);
        let fresh = self.batch.range(start..=last).next_back().map(|(name, _)| name.clone());
        let Some(name) = stored.max(fresh) else { return Ok(None) };
        let Some(first) = key::number(key::rest(&name)) else { return Ok(None) };
        Ok(self.get(&name)?.map(|bytes| (first, bytes)))
    }

    /// The body of the subject of a rank; empty if its block is gone.
    fn body_of(&mut self, service: u32, rank: u64) -> Result<Vec<u8>, StoreError> {
        let Some((first, bytes)) = self.block_bytes(service, rank)? else { return Ok(Vec::new()) };
        let place = usize::try_from(rank - first).unwrap_or(usize::MAX);
        let item = record::list::<BlockItem<'_>>("block", &bytes).nth(place).map(stored).transpose()?;
        Ok(item.map(|item| item.body.to_vec()).unwrap_or_default())
    }

    /// Ends an open round without a result.
    fn close_round(&mut self, at: At, service: u32, rank: u64, name: &[u8]) -> Result<(), StoreError> {
        if self.settle(at, service, rank)? {
            self.note_gone(service, rank, name);
            self.effects.push(Effect::Gone { service, rank });
        }
        Ok(())
    }

    pub(super) fn urgent(&mut self, at: At, record: &Urgent) -> Result<(), StoreError> {
        for rank in &record.ranks {
            if self.is_owed(record.service, *rank)? && self.urgent.insert((record.service, *rank)) {
                self.put(key::of(record.service, key::URGENT, &rank.to_be_bytes()), &at.time.hub_ms);
                self.effects.push(Effect::Urgent { service: record.service, rank: *rank });
            }
        }
        Ok(())
    }

    /// Calls `each` with every key of a record and what is known of it; it says whether it changed anything.
    fn for_keys(
        &mut self,
        at: At,
        record: &Keys<'_>,
        mut each: impl FnMut(&mut Self, &[u8], SubjectValue<'_>) -> Result<bool, StoreError>,
    ) -> Result<Intake, ApplyError> {
        let mut intake = Intake::default();
        for name in record::list::<KeyRecord<'_>>("key", record.keys) {
            let name = name.map_err(frame(at))?.key;
            let changed = match self.get(&key::of(record.service, key::SUBJECT, name))? {
                Some(bytes) => each(self, name, subject(&bytes)?)?,
                None => false,
            };
            self.changes += 1;
            intake.added += u64::from(changed);
            intake.duplicates += u64::from(!changed);
        }
        Ok(intake)
    }

    /// Opens a new round for subjects that are done.
    pub(super) fn rerun(&mut self, at: At, record: &Keys<'_>) -> Result<Intake, ApplyError> {
        self.for_keys(at, record, |applier, name, value| {
            if value.round == 0 || value.open || value.withdrawn != 0 {
                return Ok(false);
            }
            applier.reopen(at, record.service, value, name)?;
            Ok(true)
        })
    }

    /// Opens the next round of a subject that is done.
    fn reopen(&mut self, at: At, service: u32, value: SubjectValue<'_>, name: &[u8]) -> Result<(), StoreError> {
        let body = self.body_of(service, value.rank)?;
        self.tally_mut(service).done -= 1;
        self.open_round(at, service, value, name, &body);
        Ok(())
    }

    /// Puts subjects to work that were known and not to be worked on.
    pub(super) fn mark(&mut self, at: At, record: &Keys<'_>) -> Result<Intake, ApplyError> {
        let service = record.service;
        self.for_keys(at, record, |applier, name, value| {
            if value.round > 0 || value.withdrawn != 0 {
                return Ok(false);
            }
            let unmarked = key::of(service, key::UNMARKED, name);
            let body = applier.get(&unmarked)?.unwrap_or_default();
            applier.batch.insert(unmarked, None);
            let tally = applier.tally_mut(service);
            tally.unmarked -= 1;
            tally.known += 1;
            applier.open_round(at, service, value, name, &body);
            Ok(true)
        })
    }

    /// Deletes subjects, their results and their pending work. What stays is a tombstone.
    pub(super) fn delete(&mut self, at: At, record: &Keys<'_>) -> Result<Intake, ApplyError> {
        if record.service != EVERY_SERVICE {
            return self.for_keys(at, record, |applier, name, value| {
                applier.delete_one(at, record.service, name, &value)?;
                Ok(true)
            });
        }
        let mut services: Vec<u32> = self.services.keys().copied().collect();
        services.sort_unstable();
        let mut intake = Intake::default();
        for service in services {
            intake.added += self.delete(at, &Keys { service, ..record.clone() })?.added;
        }
        Ok(intake)
    }

    fn delete_one(&mut self, at: At, service: u32, name: &[u8], value: &SubjectValue<'_>) -> Result<(), StoreError> {
        if value.open {
            self.close_round(at, service, value.rank, name)?;
        }
        if value.round > 0 {
            self.blank(service, value.rank);
        }
        if value.withdrawn != 0 {
            self.unname(service, value.withdrawn, name);
        }
        let tally = self.tally_mut(service);
        tally.deleted += 1;
        if value.withdrawn == 0 && value.round == 0 {
            tally.unmarked -= 1;
        } else if value.withdrawn == 0 {
            tally.known -= 1;
            tally.done -= u64::from(!value.open);
        }
        for tag in [key::SUBJECT, key::UNMARKED, key::BY_HAND] {
            self.batch.insert(key::of(service, tag, name), None);
        }
        for number in 1..=value.versions {
            let version = key::version(service, name, number);
            if let Some(bytes) = self.get(&version)? {
                let earlier: VersionValue<'_> = stored(record::decode("version", &bytes))?;
                if earlier.withdrawn != 0 {
                    self.unname(service, earlier.withdrawn, name);
                }
            }
            self.batch.insert(version, None);
        }
        let next_rank = self.tally_mut(service).next_rank;
        let tombstone = Tombstone { wall_ms: at.time.wall_ms, position: at.position, next_rank };
        self.put(key::of(service, key::DELETED, &record::subject_hash(name)), &tombstone);
        Ok(())
    }

    /// Withdraws results, and subjects that only they revealed.
    pub(super) fn withdraw(&mut self, at: At, record: &Withdrawn<'_>) -> Result<Intake, ApplyError> {
        let (service, id) = (record.service, record.id);
        // Kept is what it did withdraw: what was deleted meanwhile is not to be named again.
        let (mut withdrawn, mut versions, mut subjects) = (0, Vec::new(), Vec::new());
        for version in record::list::<VersionName<'_>>("version", record.versions) {
            let version = version.map_err(frame(at))?;
            if self.withdraw_version(at, service, id, version.key, version.number)? {
                withdrawn += 1;
                record::append(&mut versions, &version);
            }
        }
        for subject in record::list::<KeyRecord<'_>>("key", record.subjects) {
            let subject = subject.map_err(frame(at))?;
            if self.withdraw_subject(at, service, id, subject.key)? {
                record::append(&mut subjects, &subject);
            }
        }
        self.tally_mut(service).withdrawn += withdrawn;
        let part = RetractionValue {
            client: record.client,
            wall_ms: at.time.wall_ms,
            versions: &versions,
            subjects: &subjects,
        };
        self.put(key::retraction(service, id, at.position), &part);
        Ok(Intake { added: withdrawn, ..Intake::default() })
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
    ) -> Result<bool, StoreError> {
        let subject_key = key::of(service, key::SUBJECT, name);
        let Some(bytes) = self.get(&subject_key)? else { return Ok(false) };
        let mut value = subject(&bytes)?;
        self.changes += 1;
        let Some(version) = value.current.take_if(|current| current.number == number) else {
            let name = key::version(service, name, number);
            let Some(bytes) = self.get(&name)? else { return Ok(false) };
            let version: VersionValue<'_> = stored(record::decode("version", &bytes))?;
            if version.withdrawn == 0 {
                self.put(name, &VersionValue { withdrawn: id, ..version });
            }
            return Ok(version.withdrawn == 0);
        };
        self.put_version(service, name, &VersionValue { withdrawn: id, ..version });
        let (mut below, mut standing) = (number, None);
        while below > 1 && standing.is_none() {
            below -= 1;
            let version = key::version(service, name, below);
            let bytes = self.get(&version)?;
            let holds = |bytes: &Vec<u8>| {
                let version: Result<VersionValue<'_>, _> = stored(record::decode("version", bytes));
                version.map(|version| version.withdrawn == 0)
            };
            if let Some(bytes) = bytes
                && holds(&bytes)?
            {
                self.batch.insert(version, None);
                standing = Some(bytes);
            }
        }
        value.current = standing.as_deref().map(|bytes| stored(record::decode("version", bytes))).transpose()?;
        if value.current.is_none() && !value.open && value.withdrawn == 0 {
            self.reopen(at, service, value, name)?;
        } else {
            self.put(subject_key, &value);
        }
        Ok(true)
    }

    fn withdraw_subject(&mut self, at: At, service: u32, id: u64, name: &[u8]) -> Result<bool, StoreError> {
        let subject_key = key::of(service, key::SUBJECT, name);
        let Some(bytes) = self.get(&subject_key)? else { return Ok(false) };
        let value = subject(&bytes)?;
        if value.withdrawn != 0 {
            return Ok(false);
        }
        self.changes += 1;
        if value.open {
            self.close_round(at, service, value.rank, name)?;
        }
        let tally = self.tally_mut(service);
        if value.round == 0 {
            tally.unmarked -= 1;
        } else {
            tally.known -= 1;
            tally.done -= u64::from(!value.open);
        }
        self.put(subject_key, &SubjectValue { withdrawn: id, open: false, ..value });
        Ok(true)
    }

    /// Undoes a retraction: what it withdrew holds again.
    pub(super) fn restore(&mut self, at: At, record: &Restored) -> Result<Intake, ApplyError> {
        let (service, id) = (record.service, record.id);
        let mut restored = 0;
        for (name, bytes) in self.retraction_parts(service, id)? {
            let part: RetractionValue<'_> = stored(record::decode("retraction", &bytes))?;
            for subject in record::list::<KeyRecord<'_>>("key", part.subjects) {
                self.restore_subject(at, service, id, subject.map_err(frame(at))?.key)?;
            }
            for version in record::list::<VersionName<'_>>("version", part.versions) {
                let VersionName { key, number } = version.map_err(frame(at))?;
                restored += u64::from(self.restore_version(at, service, id, key, number)?);
            }
            self.batch.insert(name, None);
        }
        let tally = self.tally_mut(service);
        tally.withdrawn = tally.withdrawn.saturating_sub(restored);
        Ok(Intake { added: restored, ..Intake::default() })
    }

    /// The parts of a retraction, those of the batch under way included.
    pub(super) fn retraction_parts(&self, service: u32, id: u64) -> Result<Vec<Pair>, StoreError> {
        let (start, end) = (key::retraction(service, id, 0), key::retraction(service, id, u64::MAX));
        let mut parts: std::collections::BTreeMap<_, _> =
            self.store.scan(&start, Some(&end), usize::MAX)?.into_iter().collect();
        for (name, value) in self.batch.range(start..end) {
            match value {
                Some(value) => parts.insert(name.clone(), value.clone()),
                None => parts.remove(name),
            };
        }
        Ok(parts.into_iter().collect())
    }

    fn restore_subject(&mut self, at: At, service: u32, id: u64, name: &[u8]) -> Result<(), StoreError> {
        let subject_key = key::of(service, key::SUBJECT, name);
        let Some(bytes) = self.get(&subject_key)? else { return Ok(()) };
        let value = subject(&bytes)?;
        if value.withdrawn != id {
            return Ok(());
        }
        self.changes += 1;
        let value = SubjectValue { withdrawn: 0, ..value };
        let tally = self.tally_mut(service);
        if value.round == 0 {
            tally.unmarked += 1;
        } else {
            tally.known += 1;
            tally.done += 1;
        }
        if value.round > 0 && value.current.is_none() {
            self.reopen(at, service, value, name)
        } else {
            self.put(subject_key, &value);
            Ok(())
        }
    }

    fn restore_version(&mut self, at: At, service: u32, id: u64, name: &[u8], number: u32) -> Result<bool, StoreError> {
        let version_key = key::version(service, name, number);
        let Some(version_bytes) = self.get(&version_key)? else { return Ok(false) };
        let version: VersionValue<'_> = stored(record::decode("version", &version_bytes))?;
        let subject_key = key::of(service, key::SUBJECT, name);
        let Some(bytes) = self.get(&subject_key)? else { return Ok(false) };
        let mut value = subject(&bytes)?;
        if version.withdrawn != id || value.withdrawn != 0 {
            return Ok(false);
        }
        self.changes += 1;
        let version = VersionValue { withdrawn: 0, ..version };
        if value.current.as_ref().is_some_and(|current| current.number > number) {
            self.put(version_key, &version);
            return Ok(true);
        }
        // The round that its withdrawal opened is needed no more; one that was asked for goes on.
        if value.open && value.current.is_none() {
            self.close_round(at, service, value.rank, name)?;
            self.tally_mut(service).done += 1;
            value.open = false;
        }
        if let Some(current) = value.current.replace(version) {
            self.put_version(service, name, &current);
        }
        self.batch.insert(version_key, None);
        self.put(subject_key, &value);
        Ok(true)
    }
}
