//! The life of subjects, from record to record: taken in, marked, done, run again, deleted.

use super::{Applier, ApplyError, At, Effect, OpenBlock, owed_block, stored};
use crate::error::StoreError;
use crate::keys::EVERY_SERVICE;
use crate::lane::LaneKey;
use crate::record::{
    self, BlockItem, DecodeError, Item, KeyRecord, Keys, Owed, Reported, SubjectRecord, SubjectValue, Tombstone,
    UnmarkedValue, Urgent, VersionValue, key,
};
use crate::refusals::{Refusal, RefusalReason};
use crate::ticket::Intake;

/// Subjects in a block, at most.
const BLOCK_SUBJECTS: u32 = 1_024;
/// Bytes of a block, about at most.
const BLOCK_BYTES: usize = 256 << 10;

pub(super) fn frame(at: At) -> impl Fn(DecodeError) -> ApplyError {
    move |error| ApplyError::Frame { position: at.position, what: error.to_string() }
}

/// A subject's value, as read.
pub(crate) fn subject(bytes: &[u8]) -> Result<SubjectValue<'_>, StoreError> {
    stored(record::decode("subject", bytes))
}

/// What became of a subject that was offered, or found.
pub(super) enum Taken {
    New,
    Known,
    Not(RefusalReason),
}

impl Applier {
    /// Takes in those of a list of subjects that are new, oldest first: from depth 0 if they were added by hand.
    pub(super) fn take_in(&mut self, at: At, service: u32, depth: u16, subjects: &[u8]) -> Result<Intake, ApplyError> {
        let mut intake = Intake::default();
        for (place, subject) in record::list::<SubjectRecord<'_>>("subject", subjects).enumerate() {
            let taken = self.take_in_one(at, service, depth, subject.map_err(frame(at))?)?;
            match taken {
                Taken::New => intake.added += 1,
                Taken::Known => intake.duplicates += 1,
                Taken::Not(reason) if depth == 0 => intake.refuse(Refusal { place: place as u64, reason }),
                Taken::Not(_) => intake.cut += 1,
            }
        }
        self.tally_mut(service).duplicates += intake.duplicates;
        self.changes += usize::try_from(intake.added).unwrap_or(usize::MAX);
        Ok(intake)
    }

    pub(super) fn take_in_one(
        &mut self,
        at: At,
        service: u32,
        depth: u16,
        found: SubjectRecord<'_>,
    ) -> Result<Taken, StoreError> {
        // As it was written: how its first round ended changes nothing for one that is known.
        let is_above = self.is_above_all(service, found.key)?;
        let bytes = if is_above { None } else { self.get(&key::of(service, key::SUBJECT, found.key))? };
        let bytes = match bytes.as_deref().map(subject).transpose()? {
            Some(value) if value.withdrawn != 0 => self.subject_of(service, found.key)?,
            _ => bytes,
        };
        let known = bytes.as_deref().map(subject).transpose()?;
        match known {
            Some(value) if value.withdrawn == 0 && value.round > 0 => {
                if depth == 0 && value.depth > 0 {
                    self.batch.insert(key::of(service, key::BY_HAND, found.key), Some(Vec::new()));
                }
                return Ok(Taken::Known);
            }
            // What a report reveals is taken in nevertheless, here and below: nothing that a lane sends another one is lost.
            _ if depth == 0 && self.is_lane_full(service, found.lane)? => {
                self.tally_mut(service).lane_full += 1;
                let limit = self.lane_subjects(service);
                return Ok(Taken::Not(RefusalReason::LaneFull { lane: LaneKey::from(found.lane), limit }));
            }
            Some(value) if value.withdrawn == 0 => {
                // Known and not to be worked on: from here on it is.
                self.tally_mut(service).unmarked -= 1;
                self.batch.insert(key::of(service, key::UNMARKED, found.key), None);
                self.open_first_round(at, service, &SubjectValue { depth, ..value }, found)?;
            }
            _ if (depth == 0 || found.lane.is_empty()) && self.is_full(service) => {
                self.tally_mut(service).cut_by_budget += 1;
                return Ok(Taken::Not(RefusalReason::Budget { limit: self.max_subjects(service) }));
            }
            Some(value) => {
                let value = self.begin_anew(service, found.key, SubjectValue { depth, ..value })?;
                self.batch.insert(key::of(service, key::UNMARKED, found.key), None);
                // With the results that it had, if they come back, it needs no round.
                let value = SubjectValue { reopened: value.versions > 0, ..value };
                self.open_round(at, service, value, found)?;
            }
            None => self.open_round(at, service, SubjectValue::new(depth), found)?,
        }
        self.tally_mut(service).known += 1;
        Ok(Taken::New)
    }

    /// True if no subject's key is as high as this one: it is new, and nobody needs to look. So ascending keys are taken in faster.
    fn is_above_all(&mut self, service: u32, name: &[u8]) -> Result<bool, StoreError> {
        if let Some(highest) = self.highest.get(&service) {
            return Ok(name > highest.as_slice());
        }
        let (start, end) = key::range(service, key::SUBJECT, &[]);
        let stored = self.store.last(&start, &end)?.map(|(name, _)| name).filter(|name| *name != end);
        let fresh = self.batch.range(start..end).next_back().map(|(name, _)| name.clone());
        let highest = stored.max(fresh).map(|name| key::rest(&name).to_vec()).unwrap_or_default();
        let is_above = name > highest.as_slice();
        self.highest.insert(service, highest);
        Ok(is_above)
    }

    fn note_highest(&mut self, service: u32, name: &[u8]) {
        if let Some(highest) = self.highest.get_mut(&service).filter(|highest| name > highest.as_slice()) {
            name.clone_into(highest);
        }
    }

    fn max_subjects(&self, service: u32) -> u64 {
        self.services.get(&service).map_or(u64::MAX, |value| value.max_subjects)
    }

    fn is_full(&mut self, service: u32) -> bool {
        let budget = self.max_subjects(service);
        let tally = self.tally_mut(service);
        tally.known + tally.unmarked >= budget
    }

    /// Keeps what lies too deep to be worked on.
    fn keep_beyond(&mut self, at: At, service: u32, depth: u16, subjects: &[u8]) -> Result<(), ApplyError> {
        for found in record::list::<SubjectRecord<'_>>("subject", subjects) {
            self.keep_one(service, depth, found.map_err(frame(at))?)?;
        }
        Ok(())
    }

    pub(super) fn keep_one(&mut self, service: u32, depth: u16, found: SubjectRecord<'_>) -> Result<(), StoreError> {
        let name = key::of(service, key::SUBJECT, found.key);
        let is_known = |value: SubjectValue<'_>| value.withdrawn == 0;
        if self.get(&name)?.as_deref().map(subject).transpose()?.is_some_and(is_known) {
            return Ok(());
        }
        let bytes = self.subject_of(service, found.key)?;
        let known = bytes.as_deref().map(subject).transpose()?;
        if self.is_full(service) {
            self.tally_mut(service).cut_by_budget += 1;
            return Ok(());
        }
        let value = match known {
            Some(value) => {
                if value.round > 0 {
                    self.blank(service, value.rank);
                }
                self.begin_anew(service, found.key, SubjectValue { depth, round: 0, ..value })?
            }
            None => SubjectValue::new(depth),
        };
        self.put(name, &value);
        self.note_highest(service, found.key);
        self.put(key::of(service, key::UNMARKED, found.key), &UnmarkedValue { lane: found.lane, body: found.body });
        self.tally_mut(service).unmarked += 1;
        Ok(())
    }

    /// Opens a round of a subject that was unmarked. A result that it had once is in force again, if it holds.
    fn open_first_round(
        &mut self,
        at: At,
        service: u32,
        value: &SubjectValue<'_>,
        found: SubjectRecord<'_>,
    ) -> Result<(), StoreError> {
        let standing = self.take_standing(service, found.key, value.versions.saturating_add(1))?;
        let current = standing.as_deref().map(|bytes| stored(record::decode("version", bytes))).transpose()?;
        self.open_round(at, service, SubjectValue { current, ..value.clone() }, found)
    }

    /// Opens the next round of a subject: it waits to be handed out, as the youngest.
    fn open_round(
        &mut self,
        at: At,
        service: u32,
        value: SubjectValue<'_>,
        found: SubjectRecord<'_>,
    ) -> Result<(), StoreError> {
        let tally = self.tally_mut(service);
        let rank = tally.next_rank;
        tally.next_rank += 1;
        tally.prints.entered.add(rank);
        tally.reruns += u64::from(value.round > 0);
        if value.round > 0 {
            // The new round's block says the same; two would have to be erased.
            self.blank(service, value.rank);
        }
        // A first round is one of a subject without a past: see `report`.
        let round = value.round.max(value.versions) + 1;
        let value = SubjectValue { rank, round, open: true, expired: false, ..value };
        let SubjectRecord { key, lane, deadline, body } = found;
        self.put(key::of(service, key::SUBJECT, key), &value);
        self.note_highest(service, key);
        self.enter_lane(service, lane)?;
        let item = BlockItem { depth: value.depth, round: value.round, key, lane, deadline, body };
        self.enqueue(at, service, rank, item);
        Ok(())
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
        block.bodies |= !item.body.is_empty() || !item.lane.is_empty();
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
        let is_owed = self.settle(service, item.rank)?;
        self.end_again(service, item.rank)?;
        let lane = self.lane_of_lease((service, record.generation, record.slot));
        if !is_owed {
            let tally = self.tally_mut(service);
            tally.discarded += 1;
            tally.prints.discarded.add(item.rank);
            // If it is gone: whoever held it as well and is journaled later has lost it to this report.
            self.batch.insert(key::of(service, key::GONE, &item.rank.to_be_bytes()), None);
            // Of a lane the state stands, and so does what goes with it.
            let stands = !lane.is_empty() && !self.is_withdrawn(service, item.key)?;
            return if stands { self.take_in_found(at, service, item) } else { Ok(Intake::default()) };
        }
        self.leave_lane(service, &lane)?;
        // In its first round nothing is known of a subject but what the report says.
        let bytes = if item.round > 1 { self.subject_of(service, item.key)? } else { None };
        let known = bytes.as_deref().map(subject).transpose()?;
        let before = known.unwrap_or(SubjectValue { round: item.round, ..SubjectValue::new(item.depth) });
        if item.expired {
            self.expire(service, item, before);
            return Ok(Intake::default());
        }
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
        let current = Some(version);
        let value = SubjectValue { rank: item.rank, open: false, reopened: false, versions: number, current, ..before };
        self.end_round(service, item, &value);
        self.changes += 1;
        let tally = self.tally_mut(service);
        tally.done += 1;
        tally.prints.done.add(item.rank);
        self.take_in_found(at, service, item)
    }

    /// Takes in what a report revealed.
    fn take_in_found(&mut self, at: At, service: u32, item: &Item<'_>) -> Result<Intake, ApplyError> {
        self.tally_mut(service).cut_by_depth += u64::from(item.too_deep);
        let depth = item.depth.saturating_add(1);
        self.keep_beyond(at, service, depth, item.beyond)?;
        let mut intake = self.take_in(at, service, depth.max(1), item.found)?;
        intake.cut += u64::from(item.too_deep);
        Ok(intake)
    }

    fn is_withdrawn(&self, service: u32, name: &[u8]) -> Result<bool, StoreError> {
        let known = self.get(&key::of(service, key::SUBJECT, name))?;
        Ok(known.as_deref().map(subject).transpose()?.is_some_and(|value| value.withdrawn != 0))
    }

    /// A subject's deadline passed: its round ends without a report.
    fn expire(&mut self, service: u32, item: &Item<'_>, before: SubjectValue<'_>) {
        let value = SubjectValue { rank: item.rank, open: false, reopened: false, expired: true, ..before };
        self.end_round(service, item, &value);
        self.changes += 1;
        let tally = self.tally_mut(service);
        tally.done += 1;
        tally.expired += 1;
        tally.prints.done.add(item.rank);
    }

    pub(super) fn put_version(&mut self, service: u32, name: &[u8], version: &VersionValue<'_>) {
        self.put(key::version(service, name, version.number), version);
    }

    /// Nothing is owed of a rank any more. False if nothing was.
    fn settle(&mut self, service: u32, rank: u64) -> Result<bool, StoreError> {
        let Some(first) = self.block_of(service, rank)? else { return Ok(false) };
        self.dirty_blocks.insert((service, first));
        let owed = self.blocks.get_mut(&(service, first));
        if !owed.is_some_and(|owed| owed.clear(rank - first)) {
            return Ok(false);
        }
        if !self.urgent.is_empty() && self.urgent.remove(&(service, rank)) {
            self.batch.insert(key::of(service, key::URGENT, &rank.to_be_bytes()), None);
            self.effects.push(Effect::Settled { service, rank });
        }
        Ok(true)
    }

    /// True if a rank is owed: it waits or is being worked on.
    pub(crate) fn is_owed(&mut self, service: u32, rank: u64) -> Result<bool, StoreError> {
        let Some(first) = self.block_of(service, rank)? else { return Ok(false) };
        Ok(self.blocks.get(&(service, first)).is_some_and(|owed| owed.has(rank - first)))
    }

    /// The first rank of the block that holds `rank`, once it is in memory; `None` if the block is done.
    pub(super) fn block_of(&mut self, service: u32, rank: u64) -> Result<Option<u64>, StoreError> {
        if self.open_blocks.get(&service).is_some_and(|block| block.first <= rank) {
            self.close_block(service);
        }
        let cached = self.blocks.range((service, 0)..=(service, rank)).next_back();
        if let Some((&(_, first), _)) = cached.filter(|((_, first), owed)| owed.holds(*first, rank)) {
            return Ok(Some(first));
        }
        let Some((first, owed)) = owed_block(self.store.as_ref(), service, rank)? else { return Ok(None) };
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

    /// The lane and the body of the subject of a rank; empty if its block is gone.
    fn content_of(&mut self, service: u32, rank: u64) -> Result<(Vec<u8>, Vec<u8>), StoreError> {
        let Some((first, bytes)) = self.block_bytes(service, rank)? else { return Ok(Default::default()) };
        let place = usize::try_from(rank - first).unwrap_or(usize::MAX);
        let item = record::list::<BlockItem<'_>>("block", &bytes).nth(place).map(stored).transpose()?;
        Ok(item.map(|item| (item.lane.to_vec(), item.body.to_vec())).unwrap_or_default())
    }

    /// Ends an open round without a result.
    pub(super) fn close_round(&mut self, service: u32, rank: u64, name: &[u8]) -> Result<(), StoreError> {
        let lane = self.lanes_of(service, &[rank])?.remove(&rank).unwrap_or_default();
        if self.settle(service, rank)? {
            self.leave_lane(service, &lane)?;
            self.tally_mut(service).prints.gone.add(rank);
            self.note_gone(service, rank, name);
            self.effects.push(Effect::Gone { service, rank, lane });
        }
        Ok(())
    }

    pub(super) fn urgent(&mut self, at: At, record: &Urgent) -> Result<(), StoreError> {
        // What is in a lane keeps its place.
        let laned = self.lanes_of(record.service, &record.ranks)?;
        for rank in record.ranks.iter().filter(|rank| !laned.contains_key(rank)) {
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
            let changed = match self.subject_of(record.service, name)? {
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
    pub(super) fn reopen(
        &mut self,
        at: At,
        service: u32,
        value: SubjectValue<'_>,
        name: &[u8],
    ) -> Result<(), StoreError> {
        let (lane, body) = self.content_of(service, value.rank)?;
        self.tally_mut(service).done -= 1;
        self.open_round(at, service, value, SubjectRecord { key: name, lane: &lane, deadline: None, body: &body })
    }

    /// Puts subjects to work that were known and not to be worked on.
    pub(super) fn mark(&mut self, at: At, record: &Keys<'_>) -> Result<Intake, ApplyError> {
        let service = record.service;
        self.for_keys(at, record, |applier, name, value| {
            if value.withdrawn != 0 {
                return Ok(false);
            }
            if value.depth > 0 {
                applier.batch.insert(key::of(service, key::BY_HAND, name), Some(Vec::new()));
            }
            if value.round > 0 {
                return Ok(false);
            }
            let unmarked = key::of(service, key::UNMARKED, name);
            let kept =
                applier.get(&unmarked)?.unwrap_or_else(|| record::encode(&UnmarkedValue { lane: &[], body: &[] }));
            let UnmarkedValue { lane, body } = stored(record::decode("unmarked subject", &kept))?;
            applier.batch.insert(unmarked, None);
            let tally = applier.tally_mut(service);
            tally.unmarked -= 1;
            tally.known += 1;
            let found = SubjectRecord { key: name, lane, deadline: None, body };
            applier.open_first_round(at, service, &value, found)?;
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
            self.close_round(service, value.rank, name)?;
        }
        if value.round > 0 {
            self.blank(service, value.rank);
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
                self.tally_mut(service).withdrawn -= u64::from(earlier.withdrawn != 0);
            }
            self.batch.insert(version, None);
        }
        let next_rank = self.tally_mut(service).next_rank;
        let tombstone = Tombstone { wall_ms: at.time.wall_ms, position: at.position, next_rank };
        self.put(key::of(service, key::DELETED, &record::subject_hash(name)), &tombstone);
        Ok(())
    }
}
