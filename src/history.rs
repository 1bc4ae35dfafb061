//! What was reported on a subject over time: read from the store, on the caller's thread.
//!
//! The store keeps every version as it was reported. Which of them said something new is decided here, when they are read:
//! that asks the plugin, and no plugin code runs when records are applied.

use std::fmt;
use std::ops::Range;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::apply::stored;
use crate::clock::utc;
use crate::error::{ReadError, StoreError};
use crate::first_rounds;
use crate::id::ClientId;
use crate::record::{self, SubjectValue, VersionValue, key};
use crate::registry::ServiceCore;
use crate::results::{bytes_of, hex, key_of, subjects_after};
use crate::service::{Service, Subject, contain};
use crate::store::Store;

/// Looks at a subject that changes under the reader's hands.
const LOOKS: usize = 64;

/// One accepted report on a subject, where it came from, and what became of it.
#[derive(Clone, Serialize)]
#[serde(bound(serialize = ""))]
#[non_exhaustive]
pub struct Version<S: Service> {
    /// The subject.
    pub key: <S::Subject as Subject>::Key,
    /// 1 for the first of the subject's life.
    pub number: u32,
    /// The round of work it came in: 1 for the first, one more for each re-run.
    pub round: u32,
    /// What was reported.
    pub report: S::Report,
    /// Who reported it.
    pub client: ClientId,
    /// When it was journaled, by the wall clock, which may jump; `position` tells the order.
    pub at: DateTime<Utc>,
    /// The journal position of the record that holds it.
    pub position: u64,
    /// The bucket it was reported in: the pool's generation and the slot, as the journal names them.
    pub bucket: (u64, u32),
    /// The earlier version that it said nothing new about ([`Service::same`]): that one began what holds.
    pub confirms: Option<u32>,
    /// When later versions confirmed this one.
    pub confirmed_at: Vec<DateTime<Utc>>,
    /// When a later version said something else; what it confirmed was superseded then, too.
    pub superseded_at: Option<DateTime<Utc>>,
    /// A retraction withdrew it: it neither confirms nor supersedes.
    pub withdrawn: bool,
}

impl<S: Service> fmt::Debug for Version<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, number, round, client, .. } = self;
        let version = &mut f.debug_struct("Version");
        version.field("key", key).field("number", number).field("round", round).field("client", client);
        version.finish_non_exhaustive()
    }
}

/// A version as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) number: u32,
    round: u32,
    pub(crate) client: u64,
    pub(crate) wall_ms: i64,
    pub(crate) position: u64,
    bucket: (u64, u32),
    withdrawn: bool,
    pub(crate) report: Vec<u8>,
    /// The place of the version that it confirms.
    confirms: Option<usize>,
    pub(crate) confirmed_ms: Vec<i64>,
    superseded_ms: Option<i64>,
}

impl Raw {
    fn new(version: &VersionValue<'_>, all_withdrawn: bool) -> Self {
        let VersionValue { number, round, client, wall_ms, position, generation, slot, withdrawn, report } = *version;
        Self {
            number,
            round,
            client,
            wall_ms,
            position,
            bucket: (generation, slot),
            withdrawn: all_withdrawn || withdrawn != 0,
            report: report.to_vec(),
            confirms: None,
            confirmed_ms: Vec::new(),
            superseded_ms: None,
        }
    }
}

/// Everything reported on a subject in its present life, in the order of the journal.
#[derive(Debug, Default)]
pub(crate) struct Past {
    pub(crate) versions: Vec<Raw>,
}

impl Past {
    /// Reads it whole: looks again if the writer moved versions about meanwhile.
    pub(crate) fn read(store: &dyn Store, service: u32, name: &[u8]) -> Result<Self, ReadError> {
        for _ in 0..LOOKS {
            let Some(bytes) = first_rounds::subject(store, service, name)? else { return Ok(Self::default()) };
            let value: SubjectValue<'_> = stored(record::decode("subject", &bytes))?;
            let past = Self::of(store, service, name, &value)?;
            let whole = past.versions.iter().map(|version| version.number).eq(1..=value.versions);
            if whole && first_rounds::subject(store, service, name)?.as_ref() == Some(&bytes) {
                return Ok(past);
            }
        }
        Err(ReadError::Unsettled { key: hex(name) })
    }

    fn of(store: &dyn Store, service: u32, name: &[u8], value: &SubjectValue<'_>) -> Result<Self, StoreError> {
        let gone = value.withdrawn != 0;
        let mut versions: Vec<Raw> = value.current.iter().map(|version| Raw::new(version, gone)).collect();
        if value.versions > u32::from(value.current.is_some()) {
            let (start, end) = (key::version(service, name, 0), key::version(service, name, u32::MAX));
            for (_, bytes) in store.scan(&start, Some(&end), usize::MAX)? {
                versions.push(Raw::new(&stored(record::decode("version", &bytes))?, gone));
            }
            versions.sort_by_key(|version| version.number);
        }
        Ok(Self { versions })
    }

    /// Finds out which versions that hold confirm which, and which supersede. Each is compared with the one that began what
    /// held before it, so that many small differences do not add up unseen.
    pub(crate) fn fold(mut self, mut same: impl FnMut(&[u8], &[u8]) -> bool) -> Self {
        let mut held: Vec<usize> = Vec::new();
        for next in 0..self.versions.len() {
            let Some(version) = self.versions.get(next).filter(|version| !version.withdrawn) else { continue };
            let at = version.wall_ms;
            let first = held.first().copied();
            let before = first.and_then(|first| self.versions.get(first));
            if before.is_some_and(|before| before.report == version.report || same(&before.report, &version.report)) {
                self.set(first, |before| before.confirmed_ms.push(at));
                self.set(Some(next), |version| version.confirms = first);
            } else {
                for old in held.drain(..) {
                    self.set(Some(old), |old| old.superseded_ms = Some(at));
                }
            }
            held.push(next);
        }
        self
    }

    fn set(&mut self, place: Option<usize>, change: impl FnOnce(&mut Raw)) {
        if let Some(version) = place.and_then(|place| self.versions.get_mut(place)) {
            change(version);
        }
    }

    /// Without what came after a version.
    pub(crate) fn up_to(mut self, number: u32) -> Self {
        self.versions.retain(|version| version.number <= number);
        self
    }

    /// The last version that holds, and the one that it confirms, or itself.
    pub(crate) fn in_force(&self) -> Option<(&Raw, &Raw)> {
        let last = self.versions.iter().rfind(|version| !version.withdrawn)?;
        Some((last, last.confirms.and_then(|first| self.versions.get(first)).unwrap_or(last)))
    }

    fn version<S: Service>(&self, name: &[u8], raw: &Raw) -> Result<Version<S>, ReadError> {
        let first = raw.confirms.and_then(|first| self.versions.get(first));
        Ok(Version {
            key: key_of::<S>(name)?,
            number: raw.number,
            round: raw.round,
            report: report_of::<S>(name, &raw.report)?,
            client: ClientId::known(raw.client),
            at: utc(raw.wall_ms),
            position: raw.position,
            bucket: raw.bucket,
            confirms: first.map(|first| first.number),
            confirmed_at: raw.confirmed_ms.iter().copied().map(utc).collect(),
            superseded_at: raw.superseded_ms.map(utc),
            withdrawn: raw.withdrawn,
        })
    }
}

/// Whether two stored reports say the same, by the plugin's word. One that does not decode says something else.
pub(crate) fn says_the_same<S: Service>(core: &ServiceCore, old: &[u8], new: &[u8]) -> bool {
    let Some(plugin) = core.plugin::<S>() else { return false };
    let asked = contain(|| match (postcard::from_bytes(old), postcard::from_bytes(new)) {
        (Ok(old), Ok(new)) => plugin.same(&old, &new),
        _ => false,
    });
    asked.unwrap_or_else(|panic| {
        core.note_panic(&panic);
        false
    })
}

/// Decodes a stored report.
pub(crate) fn report_of<S: Service>(name: &[u8], report: &[u8]) -> Result<S::Report, ReadError> {
    let decoded = contain(|| postcard::from_bytes(report).map_err(|error| error.to_string()));
    decoded.unwrap_or_else(Err).map_err(|what| ReadError::Decode { key: hex(name), what })
}

fn folded<S: Service>(store: &dyn Store, core: &ServiceCore, name: &[u8]) -> Result<Past, ReadError> {
    Ok(Past::read(store, core.id, name)?.fold(|old, new| says_the_same::<S>(core, old, new)))
}

/// Every version of a subject, in journal order.
pub(crate) fn history<S: Service>(
    store: &dyn Store,
    core: &ServiceCore,
    subject: &<S::Subject as Subject>::Key,
) -> Result<Vec<Version<S>>, ReadError> {
    let name = bytes_of::<S>(subject);
    let past = folded::<S>(store, core, &name)?;
    past.versions.iter().map(|raw| past.version(&name, raw)).collect()
}

/// Of the versions that hold and were journaled at or before a moment of the wall clock, the last.
pub(crate) fn as_of<S: Service>(
    store: &dyn Store,
    core: &ServiceCore,
    subject: &<S::Subject as Subject>::Key,
    moment: DateTime<Utc>,
) -> Result<Option<Version<S>>, ReadError> {
    let (name, moment_ms) = (bytes_of::<S>(subject), moment.timestamp_millis());
    let past = folded::<S>(store, core, &name)?;
    let then = past.versions.iter().rfind(|version| !version.withdrawn && version.wall_ms <= moment_ms);
    then.map(|raw| past.version(&name, raw)).transpose()
}

/// Versions that a client reported within a window of the wall clock, subject by subject; and the key to go on from.
#[expect(clippy::type_complexity, reason = "a page and its cursor; the public caller names both")]
pub(crate) fn by_client<S: Service>(
    store: &dyn Store,
    core: &ServiceCore,
    client: u64,
    window: &Range<DateTime<Utc>>,
    after: Option<&<S::Subject as Subject>::Key>,
    limit: usize,
) -> Result<(Vec<Version<S>>, Option<<S::Subject as Subject>::Key>), ReadError> {
    let window = window.start.timestamp_millis()..window.end.timestamp_millis();
    let mut found = Vec::new();
    for pair in subjects_after::<S>(store, core.id, after, 256) {
        let (name, value) = pair?;
        let name = key::rest(&name);
        let value: SubjectValue<'_> = stored(record::decode("subject", &value))?;
        let is_theirs = |version: &Raw| version.client == client && window.contains(&version.wall_ms);
        let mut past = Past::of(store, core.id, name, &value)?;
        if !past.versions.iter().any(is_theirs) {
            continue;
        }
        if value.versions > 1 {
            past = folded::<S>(store, core, name)?;
        }
        for raw in past.versions.iter().filter(|version| is_theirs(version)) {
            found.push(past.version(name, raw)?);
        }
        if found.len() >= limit {
            return Ok((found, Some(key_of::<S>(name)?)));
        }
    }
    Ok((found, None))
}
