//! What was reported: read from the store, on the caller's thread.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::apply::{self, stored};
use crate::clock::utc;
use crate::error::{ReadError, StoreError};
use crate::first_rounds;
use crate::history::{Past, report_of, says_the_same};
use crate::id::ClientId;
use crate::record::{self, SubjectValue, key};
use crate::registry::ServiceCore;
use crate::service::{Key, Service, Subject};
use crate::store::{self, Pair, Store};

/// The result of one subject, and where it came from.
#[derive(Clone, Serialize)]
#[serde(bound(serialize = ""))]
#[non_exhaustive]
pub struct Finding<S: Service> {
    /// The subject.
    pub key: <S::Subject as Subject>::Key,
    /// What was reported.
    pub report: S::Report,
    /// Who reported it.
    pub client: ClientId,
    /// When it was journaled, by the wall clock.
    pub at: DateTime<Utc>,
    /// When what it says was first reported: earlier than `at` if this report confirmed that ([`Service::same`]).
    pub since: DateTime<Utc>,
    /// When what it says was last confirmed by a later report; `None` if none did.
    pub confirmed_at: Option<DateTime<Utc>>,
    /// 1 for the first result of a subject.
    pub version: u32,
    /// Hops from a subject added by hand.
    pub depth: u16,
    /// The journal position of the record that holds it.
    pub position: u64,
}

impl<S: Service> fmt::Debug for Finding<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finding").field("key", &self.key).field("client", &self.client).finish_non_exhaustive()
    }
}

/// What is known of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum SubjectState {
    /// Never taken in.
    Unknown,
    /// Discovered too deep to be worked on.
    Unmarked,
    /// It waits or is being worked on, for the first time or again.
    Pending,
    /// It was reported.
    Done,
    /// Its last round ended without a report: its deadline had passed ([`Service::deadline`]).
    Expired,
}

/// What was found of a subject that was to be made urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Marked {
    /// It waits, or is being worked on: it is urgent now.
    Urgent,
    /// It was urgent already.
    Already,
    /// It was reported, at this time.
    Done {
        /// When it was reported last.
        at: DateTime<Utc>,
    },
    /// It waits, or is being worked on, in a lane: it keeps its place there.
    Laned,
    /// Its deadline had passed before it was worked on.
    Expired,
    /// It is known, but not to be worked on.
    Unmarked,
    /// Not known.
    Unknown,
}

/// What is to be said of a subject to be made urgent, and its rank if it is one that waits or is being worked on.
pub(crate) fn mark<S: Service>(
    store: &dyn Store,
    service: u32,
    subject: &<S::Subject as Subject>::Key,
) -> Result<(Marked, Option<u64>), ReadError> {
    let value = first_rounds::subject(store, service, &bytes_of::<S>(subject))?;
    let Some(bytes) = value else { return Ok((Marked::Unknown, None)) };
    let value: SubjectValue<'_> = stored(record::decode("subject", &bytes))?;
    Ok(match value {
        SubjectValue { withdrawn, .. } if withdrawn != 0 => (Marked::Unknown, None),
        SubjectValue { round: 0, .. } => (Marked::Unmarked, None),
        SubjectValue { open: true, rank, .. } => {
            let urgent = store.get(&key::of(service, key::URGENT, &rank.to_be_bytes()))?.is_some();
            if apply::is_laned(store, service, rank)? {
                return Ok((Marked::Laned, None));
            }
            if urgent { (Marked::Already, None) } else { (Marked::Urgent, Some(rank)) }
        }
        SubjectValue { expired: true, .. } => (Marked::Expired, None),
        SubjectValue { current, .. } => {
            let at = utc(current.map_or(0, |version| version.wall_ms));
            (Marked::Done { at }, None)
        }
    })
}

pub(crate) fn bytes_of<S: Service>(subject: &<S::Subject as Subject>::Key) -> Vec<u8> {
    let mut bytes = Vec::new();
    subject.write(&mut bytes);
    bytes
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// True if the subject of a key waits or is being worked on.
pub(crate) fn is_owed(store: &dyn Store, service: u32, key: &[u8]) -> Result<bool, ReadError> {
    let value = first_rounds::subject(store, service, key)?;
    let value: Option<SubjectValue<'_>> =
        value.as_deref().map(|bytes| stored(record::decode("subject", bytes))).transpose()?;
    Ok(value.is_some_and(|value| value.open && value.withdrawn == 0))
}

pub(crate) fn state<S: Service>(
    store: &dyn Store,
    service: u32,
    subject: &<S::Subject as Subject>::Key,
) -> Result<SubjectState, ReadError> {
    let value = first_rounds::subject(store, service, &bytes_of::<S>(subject))?;
    let Some(bytes) = value else { return Ok(SubjectState::Unknown) };
    let value: SubjectValue<'_> = stored(record::decode("subject", &bytes))?;
    Ok(match value {
        SubjectValue { withdrawn, .. } if withdrawn != 0 => SubjectState::Unknown,
        SubjectValue { round: 0, .. } => SubjectState::Unmarked,
        SubjectValue { open: true, .. } => SubjectState::Pending,
        SubjectValue { expired: true, .. } => SubjectState::Expired,
        SubjectValue { .. } => SubjectState::Done,
    })
}

pub(crate) fn one<S: Service>(
    store: &dyn Store,
    core: &ServiceCore,
    subject: &<S::Subject as Subject>::Key,
) -> Result<Option<Finding<S>>, ReadError> {
    let bytes = bytes_of::<S>(subject);
    match first_rounds::subject(store, core.id, &bytes)? {
        Some(value) => decode(store, core, &bytes, &value),
        None => Ok(None),
    }
}

/// Up to `limit` results after `after`, in key order, skipping subjects without one; and the key to go on from.
#[expect(clippy::type_complexity, reason = "a page and its cursor; the public caller names both")]
pub(crate) fn page<S: Service>(
    store: &dyn Store,
    core: &ServiceCore,
    after: Option<&<S::Subject as Subject>::Key>,
    limit: usize,
) -> Result<(Vec<Finding<S>>, Option<<S::Subject as Subject>::Key>), ReadError> {
    let mut findings = Vec::new();
    for pair in subjects_after::<S>(store, core.id, after, limit.clamp(1, 1_024)) {
        let (name, value) = pair?;
        let bytes = key::rest(&name);
        findings.extend(decode(store, core, bytes, &value)?);
        if findings.len() >= limit {
            return Ok((findings, Some(key_of::<S>(bytes)?)));
        }
    }
    Ok((findings, None))
}

/// The pairs of a service and a tag whose subjects come after `after`, in key order, read `page` by `page`.
pub(crate) fn pairs_after<S: Service>(
    store: &dyn Store,
    service: u32,
    tag: u8,
    after: Option<&<S::Subject as Subject>::Key>,
    page: usize,
) -> impl Iterator<Item = Result<Pair, StoreError>> {
    let (start, end) = key::range(service, tag, &from::<S>(after));
    store::walk(store, start, Some(end), page)
}

/// The subjects after `after`, as they stand, in key order, read `page` by `page`.
pub(crate) fn subjects_after<S: Service>(
    store: &dyn Store,
    service: u32,
    after: Option<&<S::Subject as Subject>::Key>,
    page: usize,
) -> impl Iterator<Item = Result<Pair, StoreError>> {
    first_rounds::subjects(store, service, &from::<S>(after), page)
}

fn from<S: Service>(after: Option<&<S::Subject as Subject>::Key>) -> Vec<u8> {
    after.map(|after| store::after(&bytes_of::<S>(after))).unwrap_or_default()
}

pub(crate) fn key_of<S: Service>(bytes: &[u8]) -> Result<<S::Subject as Subject>::Key, ReadError> {
    let undecodable = || ReadError::Decode { key: hex(bytes), what: "not a key of this service".to_owned() };
    Key::read(bytes).ok_or_else(undecodable)
}

/// The result in force. One with a past is read again with all of it.
fn decode<S: Service>(
    store: &dyn Store,
    core: &ServiceCore,
    bytes: &[u8],
    value: &[u8],
) -> Result<Option<Finding<S>>, ReadError> {
    let value: SubjectValue<'_> = stored(record::decode("subject", value))?;
    let SubjectValue { depth, withdrawn: 0, current: Some(version), versions, .. } = value else { return Ok(None) };
    let mut finding = Finding {
        key: key_of::<S>(bytes)?,
        report: report_of::<S>(bytes, version.report)?,
        client: ClientId::known(version.client),
        at: utc(version.wall_ms),
        since: utc(version.wall_ms),
        confirmed_at: None,
        version: version.number,
        depth,
        position: version.position,
    };
    if versions > 1 {
        let past = Past::read(store, core.id, bytes)?;
        let past = past.up_to(version.number).fold(|old, new| says_the_same::<S>(core, old, new));
        if let Some((_, first)) = past.in_force().filter(|(last, _)| last.number == version.number) {
            finding.since = utc(first.wall_ms);
            finding.confirmed_at = first.confirmed_ms.last().copied().map(utc);
        }
    }
    Ok(Some(finding))
}

/// The bytes of a subject's report, as they were stored, whatever the plugin's type is now.
pub(crate) fn raw<S: Service>(
    store: &dyn Store,
    service: u32,
    subject: &<S::Subject as Subject>::Key,
) -> Result<Option<Vec<u8>>, ReadError> {
    let Some(value) = first_rounds::subject(store, service, &bytes_of::<S>(subject))? else { return Ok(None) };
    let value: SubjectValue<'_> = stored(record::decode("subject", &value))?;
    Ok(value.current.filter(|_| value.withdrawn == 0).map(|version| version.report.to_vec()))
}
