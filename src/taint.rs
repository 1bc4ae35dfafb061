//! What a retraction must withdraw: found by reading the store, and by asking the plugin what each report revealed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::apply::{self, stored};
use crate::error::{HubError, RetractError, StoreError};
use crate::first_rounds;
use crate::house::House;
use crate::lane::lane_of;
use crate::record::{
    self, BlockItem, FoundRecord, KeyRecord, SubjectValue, Tombstone, UnmarkedValue, VersionName, VersionValue, key,
};
use crate::registry::ServiceCore;
use crate::service::{Key, Service, Subject, contain};
use crate::store::{Pair, Store};

/// Lists of records, each short enough for one part.
#[derive(Debug, Default)]
pub(crate) struct Parts(pub(crate) Vec<Vec<u8>>);

impl Parts {
    pub(crate) fn push<T: Serialize>(&mut self, limit: usize, element: &T) {
        match self.0.last_mut() {
            Some(part) if part.len() < limit => record::append(part, element),
            _ => self.0.push(record::encode(element)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What one look at the store found.
pub(crate) struct Findings {
    /// Of the suspect, and in force or superseded.
    pub(crate) versions: Parts,
    /// Known, and would not be without the suspect.
    pub(crate) subjects: Parts,
    /// Taken away, and would be known all the same.
    pub(crate) found: Parts,
}

/// Whose results are withdrawn, and by which retraction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suspect {
    pub(crate) id: u64,
    pub(crate) client: u64,
    pub(crate) from_ms: i64,
    pub(crate) to_ms: i64,
}

/// What a version counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// It holds: what it reveals is known.
    Holds,
    /// It is the suspect's, or its subject was taken away: what it reveals may have to go.
    Tainted,
    /// An earlier retraction saw to it.
    Settled,
}

impl Suspect {
    fn reported(&self, version: &VersionValue<'_>) -> bool {
        version.client == self.client && (self.from_ms..self.to_ms).contains(&version.wall_ms)
    }

    fn weigh(&self, subject: &SubjectValue<'_>, version: &VersionValue<'_>) -> Weight {
        if version.withdrawn == self.id {
            Weight::Tainted
        } else if version.withdrawn != 0 {
            Weight::Settled
        } else if self.reported(version) || subject.withdrawn == self.id {
            Weight::Tainted
        } else if subject.withdrawn != 0 {
            Weight::Settled
        } else {
            Weight::Holds
        }
    }
}

/// A subject that a tainted report revealed, directly or by way of others, and that was not added by hand.
#[derive(Debug)]
struct Candidate {
    depth: u16,
    /// This retraction took it away.
    gone: bool,
    /// Where an earlier life of it ended: reports from before speak of that one.
    deleted_at: u64,
    /// A report that holds, on a subject that stays, reveals it.
    supported: bool,
}

type Candidates = BTreeMap<Box<[u8]>, Candidate>;

/// One look at a service's subjects and results. Nothing is changed by it.
pub(crate) struct Inquiry<'a, S: Service> {
    store: &'a dyn Store,
    core: &'a ServiceCore,
    plugin: &'a S,
    suspect: Suspect,
    max_depth: u16,
    keep_unmarked: bool,
}

impl<'a, S: Service> Inquiry<'a, S> {
    pub(crate) fn new(house: &'a House, core: &'a ServiceCore, suspect: Suspect) -> Result<Self, RetractError> {
        let plugin = core.plugin::<S>().ok_or(HubError::Closed)?;
        let policy = core.policy();
        let (max_depth, keep_unmarked) = (policy.max_depth, policy.keep_unmarked);
        Ok(Self { store: house.store.as_ref(), core, plugin, suspect, max_depth, keep_unmarked })
    }

    pub(crate) fn run(&self, part_bytes: usize, offered: &mut BTreeSet<Box<[u8]>>) -> Result<Findings, RetractError> {
        let (versions, mut candidates) = self.taint(part_bytes)?;
        let mut found = Parts::default();
        if !candidates.is_empty() {
            self.support(&mut candidates, |record| {
                // Offered once: it may be that the service is full.
                if offered.insert(record.key.into()) {
                    found.push(part_bytes, record);
                }
            })?;
        }
        let mut subjects = Parts::default();
        for (key, _) in candidates.iter().filter(|(_, candidate)| !candidate.supported && !candidate.gone) {
            subjects.push(part_bytes, &KeyRecord { key });
        }
        Ok(Findings { versions, subjects, found })
    }

    /// The suspect's versions, and everything that tainted reports led to.
    fn taint(&self, part_bytes: usize) -> Result<(Parts, Candidates), RetractError> {
        // Those in force last: what takes their place is then one that stays.
        let (mut versions, mut in_force) = (Parts::default(), Parts::default());
        let (mut candidates, mut queue) = (Candidates::new(), Vec::new());
        self.each_version(|name, subject, version| {
            if version.withdrawn == 0 && self.suspect.reported(version) {
                let is_current = subject.current.as_ref().is_some_and(|current| current.number == version.number);
                let list = if is_current { &mut in_force } else { &mut versions };
                list.push(part_bytes, &VersionName { key: name, number: version.number });
            }
            if self.suspect.weigh(subject, version) == Weight::Tainted {
                self.note(name, subject, version, &mut candidates, &mut queue)?;
            }
            Ok(())
        })?;
        while let Some(name) = queue.pop() {
            self.each_version_of(&name, |subject, version| {
                if self.suspect.weigh(subject, version) == Weight::Settled {
                    return Ok(());
                }
                self.note(&name, subject, version, &mut candidates, &mut queue)
            })?;
        }
        versions.0.append(&mut in_force.0);
        Ok((versions, candidates))
    }

    /// What a version revealed may be tainted.
    fn note(
        &self,
        name: &[u8],
        subject: &SubjectValue<'_>,
        version: &VersionValue<'_>,
        candidates: &mut Candidates,
        queue: &mut Vec<Box<[u8]>>,
    ) -> Result<(), RetractError> {
        for found in self.discover(name, subject, version)? {
            let name = self.key_of(name, &found)?;
            if !candidates.contains_key(name.as_slice())
                && let Some(candidate) = self.candidate(&name)?
            {
                queue.push(name.clone().into());
                candidates.insert(name.into(), candidate);
            }
        }
        Ok(())
    }

    /// `None` if the subject is not known, or was added by hand.
    fn candidate(&self, name: &[u8]) -> Result<Option<Candidate>, RetractError> {
        let Some(bytes) = self.get(key::SUBJECT, name)? else { return Ok(None) };
        let value: SubjectValue<'_> = stored(record::decode("subject", &bytes))?;
        let gone = value.withdrawn == self.suspect.id;
        let elsewhere = value.withdrawn != 0 && !gone;
        let by_hand = !gone && (value.depth == 0 || self.get(key::BY_HAND, name)?.is_some());
        if elsewhere || by_hand {
            return Ok(None);
        }
        let tombstone = self.get(key::DELETED, &record::subject_hash(name))?;
        let tombstone: Option<Tombstone> =
            tombstone.map(|bytes| stored(record::decode("tombstone", &bytes))).transpose()?;
        let deleted_at = tombstone.map_or(0, |tombstone| tombstone.position);
        Ok(Some(Candidate { depth: value.depth, gone, deleted_at, supported: false }))
    }

    /// Marks the candidates that reports in force reveal; calls `offer` with those that were taken away.
    fn support(
        &self,
        candidates: &mut Candidates,
        mut offer: impl FnMut(&FoundRecord<'_>),
    ) -> Result<(), RetractError> {
        let mut queue = Vec::new();
        self.each_version(|name, subject, version| {
            if self.suspect.weigh(subject, version) == Weight::Holds && !candidates.contains_key(name) {
                self.support_from(name, subject, version, candidates, &mut queue, &mut offer)?;
            }
            Ok(())
        })?;
        while let Some(name) = queue.pop() {
            self.each_version_of(&name, |subject, version| {
                if self.suspect.weigh(subject, version) == Weight::Holds {
                    self.support_from(&name, subject, version, candidates, &mut queue, &mut offer)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn support_from(
        &self,
        name: &[u8],
        subject: &SubjectValue<'_>,
        version: &VersionValue<'_>,
        candidates: &mut Candidates,
        queue: &mut Vec<Box<[u8]>>,
        offer: &mut impl FnMut(&FoundRecord<'_>),
    ) -> Result<(), RetractError> {
        let depth = subject.depth.saturating_add(1);
        let within = subject.depth < self.max_depth;
        for found in self.discover(name, subject, version)? {
            let key = self.key_of(name, &found)?;
            let Some(candidate) = candidates.get_mut(key.as_slice()) else { continue };
            // What is sent to a lane is never too deep.
            let within = within || !self.lane_of_found(&key, &found)?.is_empty();
            // Too deep for today's policy, but just where it stands: it was taken in under an earlier one.
            let taken = within || self.keep_unmarked || candidate.depth == depth;
            if candidate.supported || !taken || version.position <= candidate.deleted_at {
                continue;
            }
            candidate.supported = true;
            if candidate.gone {
                let body = self.body_of_found(&key, &found)?;
                let lane = self.lane_of_found(&key, &found)?;
                offer(&FoundRecord { depth, unmarked: !within, key: &key, lane: &lane, body: &body });
            } else {
                queue.push(key.into());
            }
        }
        Ok(())
    }

    /// Calls `visit` with every version of every subject, those in force first: one that is superseded meanwhile is met
    /// twice rather than never.
    fn each_version(
        &self,
        mut visit: impl FnMut(&[u8], &SubjectValue<'_>, &VersionValue<'_>) -> Result<(), RetractError>,
    ) -> Result<(), RetractError> {
        for pair in first_rounds::subjects(self.store, self.core.id, &[], apply::PAGE) {
            let (name, bytes) = pair?;
            let value: SubjectValue<'_> = stored(record::decode("subject", &bytes))?;
            if let Some(version) = &value.current {
                visit(key::rest(&name), &value, version)?;
            }
        }
        let mut last: Option<Pair> = None;
        for pair in apply::pairs(self.store, self.core.id, key::VERSION) {
            let (name, bytes) = pair?;
            let Some((name, _)) = key::of_version(key::rest(&name)) else { continue };
            if last.as_ref().is_none_or(|(known, _)| known != name) {
                last = self.subject(name)?.map(|bytes| (name.to_vec(), bytes));
            }
            let Some((_, subject)) = &last else { continue };
            let version = stored(record::decode("version", &bytes))?;
            visit(name, &stored(record::decode("subject", subject))?, &version)?;
        }
        Ok(())
    }

    fn each_version_of(
        &self,
        name: &[u8],
        mut visit: impl FnMut(&SubjectValue<'_>, &VersionValue<'_>) -> Result<(), RetractError>,
    ) -> Result<(), RetractError> {
        let Some(bytes) = self.subject(name)? else { return Ok(()) };
        let value: SubjectValue<'_> = stored(record::decode("subject", &bytes))?;
        if let Some(version) = &value.current {
            visit(&value, version)?;
        }
        let (from, to) = (key::version(self.core.id, name, 0), key::version(self.core.id, name, u32::MAX));
        for (_, bytes) in self.store.scan(&from, Some(&to), usize::MAX)? {
            visit(&value, &stored(record::decode("version", &bytes))?)?;
        }
        Ok(())
    }

    fn subject(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        first_rounds::subject(self.store, self.core.id, name)
    }

    fn get(&self, tag: u8, rest: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(&key::of(self.core.id, tag, rest))
    }

    /// What the plugin says that a version reveals.
    fn discover(
        &self,
        name: &[u8],
        subject: &SubjectValue<'_>,
        version: &VersionValue<'_>,
    ) -> Result<Vec<S::Subject>, RetractError> {
        let body = self.body_of(name, subject)?;
        let found = contain(|| {
            let subject = S::Subject::read(name, &body)?;
            let report = postcard::from_bytes(version.report).map_err(|error| error.to_string())?;
            let mut found = Vec::new();
            self.plugin.discover(&subject, &report, &mut found);
            Ok(found)
        });
        self.answer(name, found)
    }

    fn key_of(&self, name: &[u8], found: &S::Subject) -> Result<Vec<u8>, RetractError> {
        let mut bytes = Vec::new();
        self.answer(
            name,
            contain(|| {
                found.key().write(&mut bytes);
                Ok(())
            }),
        )?;
        Ok(bytes)
    }

    fn body_of_found(&self, name: &[u8], found: &S::Subject) -> Result<Vec<u8>, RetractError> {
        let mut bytes = Vec::new();
        self.answer(name, contain(|| found.write_body(&mut bytes)))?;
        Ok(bytes)
    }

    fn lane_of_found(&self, name: &[u8], found: &S::Subject) -> Result<Vec<u8>, RetractError> {
        let limit = self.core.link.limits.key_bytes;
        self.answer(
            name,
            contain(|| lane_of(self.plugin, found, limit).map(|(lane, _)| lane).map_err(|error| error.to_string())),
        )
    }

    fn answer<T>(&self, name: &[u8], answer: Result<Result<T, String>, String>) -> Result<T, RetractError> {
        let failed = |what| RetractError::Plugin { key: crate::results::hex(name), what };
        answer.inspect_err(|panic| self.core.note_panic(panic)).map_err(failed)?.map_err(failed)
    }

    /// The body that a subject came with; empty if its block is gone: then it is all key.
    fn body_of(&self, name: &[u8], subject: &SubjectValue<'_>) -> Result<Vec<u8>, RetractError> {
        if subject.round == 0 {
            let Some(kept) = self.get(key::UNMARKED, name)? else { return Ok(Vec::new()) };
            return Ok(stored(record::decode::<UnmarkedValue<'_>>("unmarked subject", &kept))?.body.to_vec());
        }
        let block = |rank: u64| key::of(self.core.id, key::BLOCK, &rank.to_be_bytes());
        let Some((first, bytes)) = self.store.last(&block(0), &block(subject.rank))? else { return Ok(Vec::new()) };
        let Some(first) = key::number(key::rest(&first)) else { return Ok(Vec::new()) };
        let place = usize::try_from(subject.rank - first).unwrap_or(usize::MAX);
        let item = record::list::<BlockItem<'_>>("block", &bytes).nth(place).map(stored).transpose()?;
        Ok(item.map(|item| item.body.to_vec()).unwrap_or_default())
    }
}
