//! What happened, read back from the journal: each event carries what is needed to understand it.

use std::collections::HashMap;
use std::fmt;
use std::iter::FusedIterator;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

use crate::apply::At;
use crate::archive::Records;
use crate::clock::utc;
use crate::error::ReadError;
use crate::house::House;
use crate::id::ClientId;
use crate::journal::Entry;
use crate::lane::LaneKey;
use crate::record::{self, DecodeError, FoundRecord, Item, KeyRecord, Record, SeatState, SubjectRecord, VersionName};
use crate::service::{Key, Service, ServiceState, contain};
use crate::slot::Cause;
use crate::sync::Arc;
use crate::watch::Level;

/// One record of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// Where it stands in the journal.
    pub position: u64,
    /// Where to go on: the position after it.
    pub next: u64,
    /// When it was journaled, by the wall clock.
    pub at: DateTime<Utc>,
    /// When it was journaled, in hub time: ms during which the hub was open, since its journal began.
    pub hub_ms: u64,
    /// What happened.
    pub kind: EventKind,
}

/// What happened. More kinds may come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// The hub was opened.
    Opened {
        /// How many times now.
        boot: u32,
    },
    /// A service was registered, or its state or bounds changed.
    ServiceChanged {
        /// Which.
        service: ServiceRef,
        /// Its state from here on.
        state: ServiceState,
        /// `Policy::max_subjects` from here on.
        max_subjects: u64,
        /// `Policy::lane_subjects` from here on.
        lane_subjects: u64,
    },
    /// A client was registered, or registered again.
    ClientRegistered {
        /// Who.
        client: ClientId,
        /// Its screen name.
        name: String,
    },
    /// A client was deregistered; it is active for no service from here on.
    ClientDeregistered {
        /// Who.
        client: ClientId,
        /// Its screen name.
        name: String,
    },
    /// A client was activated for a service, deactivated, suspended or reinstated.
    SeatChanged {
        /// For which service.
        service: ServiceRef,
        /// Who.
        client: ClientId,
        /// What the seat is from here on.
        state: SeatState,
    },
    /// How far a client is trusted for a service changed.
    LevelChanged {
        /// For which service.
        service: ServiceRef,
        /// Who.
        client: ClientId,
        /// Its level from here on.
        level: Level,
        /// Why.
        why: String,
    },
    /// Subjects were offered by hand. Those known already, and those beyond the budget, changed nothing.
    Added {
        /// To which service.
        service: ServiceRef,
        /// In the order in which they came.
        subjects: Vec<AddedSubject>,
    },
    /// A bucket was leased.
    Leased {
        /// Of which service.
        service: ServiceRef,
        /// The pool's generation and the slot.
        bucket: (u64, u32),
        /// To whom.
        client: ClientId,
        /// Hub time of the claim, ms.
        claimed_ms: u64,
        /// Its subjects' ranks: which they were, from 0, of the subjects that the service ever took in.
        ranks: Vec<u64>,
        /// Those of them that another lease held as well, and its bucket: the first report wins.
        again: Vec<(u64, (u64, u32))>,
        /// The lane that it runs, if any.
        lane: Option<LaneKey>,
    },
    /// Reports of one lease were accepted; where the lease had expired before, as [`Late`](crate::Late) allows.
    Reported {
        /// Of which service.
        service: ServiceRef,
        /// The pool's generation and the slot.
        bucket: (u64, u32),
        /// By whom.
        client: ClientId,
        /// One a subject.
        reports: Vec<SubjectReport>,
        /// The state of the lease's lane after them, if it came with them: a byte 0 and the value's postcard encoding, or a byte
        /// 1 and its JSON.
        state: Option<Vec<u8>>,
    },
    /// A lease ended with subjects left over: they are offered again.
    PutBack {
        /// Of which service.
        service: ServiceRef,
        /// The pool's generation and the slot.
        bucket: (u64, u32),
        /// Whose lease it was.
        client: ClientId,
        /// Why it ended.
        cause: Cause,
        /// The ranks of what was left.
        ranks: Vec<u64>,
    },
    /// Reports contradicted earlier ones. They are evidence and changed nothing.
    Conflict {
        /// Of which service.
        service: ServiceRef,
        /// The pool's generation and the slot.
        bucket: (u64, u32),
        /// By whom.
        client: ClientId,
        /// One a subject.
        reports: Vec<SubjectReport>,
    },
    /// Subjects were made urgent. Those that were owed no more changed nothing.
    MadeUrgent {
        /// Of which service.
        service: ServiceRef,
        /// Their ranks.
        ranks: Vec<u64>,
    },
    /// Subjects were to be worked on once more. Those that were not done changed nothing.
    Rerun {
        /// Of which service.
        service: ServiceRef,
        /// Which.
        subjects: Vec<KeyBytes>,
    },
    /// Subjects were deleted, with their results.
    Deleted {
        /// Of which service; number 0, without an id: of every service.
        service: ServiceRef,
        /// Which.
        subjects: Vec<KeyBytes>,
    },
    /// Subjects that were only known were put to work. Others changed nothing.
    Marked {
        /// Of which service.
        service: ServiceRef,
        /// Which.
        subjects: Vec<KeyBytes>,
    },
    /// A part of a retraction: results of a client were withdrawn, and subjects that only they had revealed.
    Withdrawn {
        /// Of which service.
        service: ServiceRef,
        /// Which retraction.
        retraction: u64,
        /// Whose results.
        client: ClientId,
        /// The results: subject and version.
        versions: Vec<(KeyBytes, u32)>,
        /// The subjects.
        subjects: Vec<KeyBytes>,
        /// Subjects that it had withdrawn before, and that a report that holds revealed meanwhile: taken in anew.
        found: Vec<AddedSubject>,
    },
    /// A part of the undoing of a retraction.
    Restored {
        /// Of which service.
        service: ServiceRef,
        /// Which retraction.
        retraction: u64,
        /// It is the last part.
        last: bool,
        /// Results that hold again: subject and version.
        versions: Vec<(KeyBytes, u32)>,
        /// Subjects that are known again.
        subjects: Vec<KeyBytes>,
    },
    /// A record that has no kind of its own here.
    Other {
        /// Its number in the file.
        kind: u8,
        /// Its bytes.
        body: Vec<u8>,
    },
}

/// A service, as events name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ServiceRef {
    /// Its number in journal and tokens: never used for another one.
    pub number: u32,
    /// Its id.
    pub id: String,
}

/// The bytes of a subject's key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyBytes(Vec<u8>);

impl KeyBytes {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key; `None` if the bytes are no key of this type.
    #[must_use]
    pub fn read<K: Key>(&self) -> Option<K> {
        contain(|| K::read(&self.0)).ok().flatten()
    }
}

impl fmt::Display for KeyBytes {
    /// In hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {self}")
    }
}

impl Serialize for KeyBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A subject as it was offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AddedSubject {
    /// Its key.
    pub key: KeyBytes,
    /// What is stored beside the key.
    pub body: Vec<u8>,
    /// Its lane, if it has one.
    pub lane: Option<LaneKey>,
    /// Until when it was to be worked on, if that was said.
    pub deadline: Option<DateTime<Utc>>,
}

/// One report on one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SubjectReport {
    /// The subject.
    pub key: KeyBytes,
    /// Its rank.
    pub rank: u64,
    /// Hops from a subject added by hand.
    pub depth: u16,
    /// 1 for the first round of work on the subject, one more for each re-run.
    pub round: u32,
    /// The report (postcard); see [`SubjectReport::read`].
    pub report: Vec<u8>,
    /// Subjects that it revealed. As with [`EventKind::Added`], some of them may have been known.
    pub found: Vec<AddedSubject>,
    /// Subjects that it revealed and that lie too deep: kept, but not to be worked on.
    pub beyond: Vec<AddedSubject>,
    /// Discoveries that lay too deep, kept or not.
    pub too_deep: u32,
    /// There is no report: the subject's deadline had passed, and it ended without one.
    pub expired: bool,
}

impl SubjectReport {
    /// The report; `None` if it is not one of this service's type.
    #[must_use]
    pub fn read<S: Service>(&self) -> Option<S::Report> {
        contain(|| postcard::from_bytes(&self.report).ok()).ok().flatten()
    }
}

impl EventKind {
    /// Whom it concerns, if it concerns one client.
    #[must_use]
    pub fn client(&self) -> Option<ClientId> {
        match self {
            Self::ClientRegistered { client, .. }
            | Self::ClientDeregistered { client, .. }
            | Self::SeatChanged { client, .. }
            | Self::LevelChanged { client, .. }
            | Self::Leased { client, .. }
            | Self::Reported { client, .. }
            | Self::PutBack { client, .. }
            | Self::Conflict { client, .. }
            | Self::Withdrawn { client, .. } => Some(*client),
            _ => None,
        }
    }

    /// Which service it concerns, if it concerns one.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceRef> {
        match self {
            Self::ServiceChanged { service, .. }
            | Self::SeatChanged { service, .. }
            | Self::LevelChanged { service, .. }
            | Self::Added { service, .. }
            | Self::Leased { service, .. }
            | Self::Reported { service, .. }
            | Self::PutBack { service, .. }
            | Self::Conflict { service, .. }
            | Self::MadeUrgent { service, .. }
            | Self::Rerun { service, .. }
            | Self::Deleted { service, .. }
            | Self::Marked { service, .. }
            | Self::Withdrawn { service, .. }
            | Self::Restored { service, .. } => Some(service),
            Self::Opened { .. }
            | Self::ClientRegistered { .. }
            | Self::ClientDeregistered { .. }
            | Self::Other { .. } => None,
        }
    }

    /// The keys of the subjects it names, in its order; without those that reports revealed.
    pub fn keys(&self) -> impl Iterator<Item = &KeyBytes> {
        type Named<'a> = (&'a [AddedSubject], &'a [SubjectReport], &'a [(KeyBytes, u32)], &'a [KeyBytes]);
        let (added, reports, versions, keys): Named<'_> = match self {
            Self::Added { subjects, .. } => (subjects, &[], &[], &[]),
            Self::Reported { reports, .. } | Self::Conflict { reports, .. } => (&[], reports, &[], &[]),
            Self::Rerun { subjects, .. } | Self::Deleted { subjects, .. } | Self::Marked { subjects, .. } => {
                (&[], &[], &[], subjects)
            }
            Self::Withdrawn { versions, subjects, found, .. } => (found, &[], versions, subjects),
            Self::Restored { versions, subjects, .. } => (&[], &[], versions, subjects),
            _ => (&[], &[], &[], &[]),
        };
        let added = added.iter().map(|subject| &subject.key).chain(reports.iter().map(|report| &report.key));
        added.chain(versions.iter().map(|(key, _)| key)).chain(keys)
    }
}

/// A walk through the events; see [`Hub::events`](crate::Hub::events). After an error it ends.
///
/// ```
/// use commissary::services::FollowingCheck;
/// use commissary::{EventKind, Hub, MemoryDisk};
///
/// let hub = Hub::builder().manual().open_in_memory(&MemoryDisk::new())?;
/// let following = hub.register(FollowingCheck::default())?;
/// following.add_all([12, 34])?;
///
/// let mut seen = Vec::new();
/// let mut next = 0;
/// for event in hub.events(0)? {
///     let event = event?;
///     next = event.next;
///     seen.extend(event.kind.keys().filter_map(|key| key.read::<u64>()));
/// }
/// assert_eq!(seen, [12, 34]);
/// following.add(&56)?;
/// hub.tick();
/// assert!(matches!(hub.events(next)?.next(), Some(Ok(event)) if matches!(event.kind, EventKind::Added { .. })));
/// # Ok::<(), commissary::Error>(())
/// ```
#[derive(Debug)]
pub struct Events {
    /// None after an error.
    records: Option<Records>,
    names: Names,
}

impl Events {
    pub(crate) fn open(house: &House, from: u64) -> Result<Self, ReadError> {
        // In this order: who is named in what can be read is known by then.
        let records = Records::open(&house.tail, from)?;
        Ok(Self { records: Some(records), names: Names::of(house) })
    }

    fn advance(&mut self) -> Result<Option<Event>, ReadError> {
        let Some(records) = &mut self.records else { return Ok(None) };
        records.next(|entry| self.names.event(&entry))
    }
}

impl Iterator for Events {
    type Item = Result<Event, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = self.advance().transpose();
        if !matches!(event, Some(Ok(_))) {
            self.records = None;
        }
        event
    }
}

impl FusedIterator for Events {}

/// Calls `visit` with every record of the journal that is known here, up to its end of this moment.
pub(crate) fn each_record(
    house: &House,
    mut visit: impl FnMut(At, Record<'_>) -> Result<(), DecodeError>,
) -> Result<(), ReadError> {
    let mut records = Records::all(&house.tail)?;
    let mut read = |Entry { position, time, kind, body, .. }: Entry<'_>| {
        if !Record::is_known(kind) {
            return Ok(());
        }
        let visited = Record::decode(kind, body).and_then(|record| visit(At { position, time }, record));
        visited.map_err(|error| ReadError::Record { position, what: error.to_string() })
    };
    while records.next(&mut read)?.is_some() {}
    Ok(())
}

/// The ids of services, by number.
#[derive(Debug)]
pub(crate) struct Names(HashMap<u32, Arc<str>>);

impl Names {
    /// Those known by now.
    pub(crate) fn of(house: &House) -> Self {
        Self(house.service_names())
    }

    /// A service that was registered since.
    pub(crate) fn learn(&mut self, service: &ServiceRef) {
        self.0.entry(service.number).or_insert_with(|| Arc::from(service.id.as_str()));
    }

    fn service(&self, number: u32) -> ServiceRef {
        ServiceRef { number, id: self.0.get(&number).map(ToString::to_string).unwrap_or_default() }
    }

    pub(crate) fn event(&self, entry: &Entry<'_>) -> Result<Event, ReadError> {
        let Entry { position, next, time, kind, body, .. } = *entry;
        let undecodable = |error: DecodeError| ReadError::Record { position, what: error.to_string() };
        let kind = if Record::is_known(kind) {
            Record::decode(kind, body).and_then(|record| self.kind(position, record)).map_err(undecodable)?
        } else {
            EventKind::Other { kind, body: body.to_vec() }
        };
        Ok(Event { position, next, at: utc(time.wall_ms), hub_ms: time.hub_ms, kind })
    }

    fn kind(&self, position: u64, record: Record<'_>) -> Result<EventKind, DecodeError> {
        Ok(match record {
            Record::Boot(of) => EventKind::Opened { boot: of.number },
            Record::Service(of) => EventKind::ServiceChanged {
                service: ServiceRef { number: of.service, id: of.name.to_owned() },
                state: of.state,
                max_subjects: of.max_subjects,
                lane_subjects: of.lane_subjects,
            },
            Record::Client(of) => client_changed(&of),
            Record::Seat(of) => EventKind::SeatChanged {
                service: self.service(of.service),
                client: ClientId::known(of.client),
                state: of.state,
            },
            Record::Added(of) => {
                EventKind::Added { service: self.service(of.service), subjects: subjects(of.subjects)? }
            }
            Record::Leased(of) => EventKind::Leased {
                service: self.service(of.service),
                bucket: (of.generation, of.slot),
                client: ClientId::known(of.client),
                claimed_ms: of.at,
                again: again(&of),
                lane: lane(&of.lane),
                ranks: of.ranks,
            },
            Record::Reported(of) | Record::Late(of) => EventKind::Reported {
                service: self.service(of.service),
                bucket: (of.generation, of.slot),
                client: ClientId::known(of.client),
                reports: reports(of.items)?,
                state: of.state.map(|state| state.to_vec()),
            },
            Record::Released(of) => EventKind::PutBack {
                service: self.service(of.service),
                bucket: (of.generation, of.slot),
                client: ClientId::known(of.client),
                cause: of.cause,
                ranks: of.ranks,
            },
            Record::Conflict(of) => EventKind::Conflict {
                service: self.service(of.service),
                bucket: (of.generation, of.slot),
                client: ClientId::known(of.client),
                reports: reports(of.items)?,
            },
            Record::Level(of) => EventKind::LevelChanged {
                service: self.service(of.service),
                client: ClientId::known(of.client),
                level: of.level,
                why: of.why.to_owned(),
            },
            record => return self.decision(position, record),
        })
    }

    /// What an operator decided about subjects.
    fn decision(&self, position: u64, record: Record<'_>) -> Result<EventKind, DecodeError> {
        Ok(match record {
            Record::Rerun(of) => EventKind::Rerun { service: self.service(of.service), subjects: keys(of.keys)? },
            Record::Deleted(of) => EventKind::Deleted { service: self.service(of.service), subjects: keys(of.keys)? },
            Record::Marked(of) => EventKind::Marked { service: self.service(of.service), subjects: keys(of.keys)? },
            Record::Urgent(of) => EventKind::MadeUrgent { service: self.service(of.service), ranks: of.ranks },
            Record::Withdrawn(of) => EventKind::Withdrawn {
                service: self.service(of.service),
                retraction: of.id_at(position),
                client: ClientId::known(of.client),
                versions: versions(of.versions)?,
                subjects: keys(of.subjects)?,
                found: found(of.found)?,
            },
            Record::Restored(of) => EventKind::Restored {
                service: self.service(of.service),
                retraction: of.id,
                last: of.last,
                versions: versions(of.versions)?,
                subjects: keys(of.subjects)?,
            },
            record => {
                let mut body = Vec::new();
                record.append_to(&mut body);
                EventKind::Other { kind: record.kind(), body }
            }
        })
    }
}

fn again(of: &record::Leased) -> Vec<(u64, (u64, u32))> {
    let held = |again: &record::Again| Some((*of.ranks.get(usize::from(again.place))?, (again.generation, again.slot)));
    of.again.iter().filter_map(held).collect()
}

fn keys(list: &[u8]) -> Result<Vec<KeyBytes>, DecodeError> {
    record::list::<KeyRecord<'_>>("key", list).map(|key| Ok(KeyBytes(key?.key.to_vec()))).collect()
}

fn versions(list: &[u8]) -> Result<Vec<(KeyBytes, u32)>, DecodeError> {
    let version = |version: VersionName<'_>| (KeyBytes(version.key.to_vec()), version.number);
    record::list("version", list).map(|found| found.map(version)).collect()
}

fn client_changed(of: &record::ClientRecord<'_>) -> EventKind {
    let (client, name) = (ClientId::known(of.client), of.name.to_owned());
    if of.registered {
        EventKind::ClientRegistered { client, name }
    } else {
        EventKind::ClientDeregistered { client, name }
    }
}

/// No lane has an empty key.
fn lane(key: &[u8]) -> Option<LaneKey> {
    (!key.is_empty()).then(|| LaneKey::from(key))
}

fn subjects(list: &[u8]) -> Result<Vec<AddedSubject>, DecodeError> {
    let subject = |subject: SubjectRecord<'_>| AddedSubject {
        key: KeyBytes(subject.key.to_vec()),
        body: subject.body.to_vec(),
        lane: lane(subject.lane),
        deadline: subject.deadline.map(utc),
    };
    record::list("subject", list).map(|found| found.map(subject)).collect()
}

fn found(list: &[u8]) -> Result<Vec<AddedSubject>, DecodeError> {
    let subject = |found: FoundRecord<'_>| AddedSubject {
        key: KeyBytes(found.key.to_vec()),
        body: found.body.to_vec(),
        lane: lane(found.lane),
        deadline: None,
    };
    record::list("found subject", list).map(|found| found.map(subject)).collect()
}

fn reports(list: &[u8]) -> Result<Vec<SubjectReport>, DecodeError> {
    record::list::<Item<'_>>("item", list)
        .map(|item| {
            let item = item?;
            Ok(SubjectReport {
                key: KeyBytes(item.key.to_vec()),
                rank: item.rank,
                depth: item.depth,
                round: item.round,
                report: item.report.to_vec(),
                found: subjects(item.found)?,
                beyond: subjects(item.beyond)?,
                too_deep: item.too_deep,
                expired: item.expired,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::GroupTime;

    #[test]
    fn a_record_of_an_unknown_kind_is_shown_as_it_is() {
        let names = Names(HashMap::new());
        let time = GroupTime { hub_ms: 5, wall_ms: 6 };
        let mut entry = Entry { position: 1, next: 2, time, class: 0, kind: 200, pallet: 0, body: b"body" };
        let event = names.event(&entry).unwrap();
        assert_eq!(event.kind, EventKind::Other { kind: 200, body: b"body".to_vec() });
        assert_eq!((event.position, event.next, event.hub_ms, event.at), (1, 2, 5, utc(6)));
        entry.kind = 6;
        let error = names.event(&entry).unwrap_err();
        assert!(matches!(error, ReadError::Record { position: 1, .. }), "{error}");
    }
}
