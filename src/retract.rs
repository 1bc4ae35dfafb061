//! Retraction: a client's results withdrawn, and with them the subjects that would not be known without them.
//!
//! Found out here, on the operator's thread, by reading the store; applied part by part, in journal order.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::apply::{self, stored};
use crate::clock::utc;
use crate::commit::{Change, Pending};
use crate::error::{HubError, ReadError, RetractError, StoreError};
use crate::house::House;
use crate::id::ClientId;
use crate::link::Precedence;
use crate::record::{self, KeyRecord, RetractionValue, SubjectValue, VersionName, VersionValue, key};
use crate::registry::ServiceCore;
use crate::service::Service;
use crate::store::Store;
use crate::taint::{Findings, Inquiry, Parts, Suspect};

/// Bytes of one part, about at most: a part is one journal record.
const PART_BYTES: usize = 256 << 10;
/// How often what came in meanwhile is looked at before it is given up.
const ROUNDS_MAX: u32 = 16;

/// What a retraction did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Retraction {
    /// Names it, for [`ServiceHandle::restore`](crate::ServiceHandle::restore): the journal position at which it begins.
    pub id: u64,
    /// Whose results were withdrawn.
    pub client: ClientId,
    /// When, by the wall clock.
    pub at: DateTime<Utc>,
    /// Results reported from here on were withdrawn, ...
    pub from: DateTime<Utc>,
    /// ... and before this.
    pub to: DateTime<Utc>,
    /// Results withdrawn, those superseded before included.
    pub results: u64,
    /// Subjects put to work again, since no result of theirs was left: the extra work.
    pub reopened: u64,
    /// Subjects whose earlier result is in force again.
    pub fell_back: u64,
    /// Subjects that would not be known without the withdrawn results: taken away with theirs.
    pub tainted: u64,
    /// Of these, taken in again, since another report named them meanwhile.
    pub returned: u64,
}

impl Retraction {
    fn new(id: u64, value: &RetractionValue) -> Self {
        Self {
            id,
            client: ClientId::known(value.client),
            at: utc(value.wall_ms),
            from: utc(value.from_ms),
            to: utc(value.to_ms),
            results: value.versions,
            reopened: value.reopened,
            fell_back: value.fell_back,
            tainted: value.subjects,
            returned: value.returned,
        }
    }
}

/// Withdraws what a client reported in a window, until nothing of it is left.
pub(crate) fn retract<S: Service>(
    house: &House,
    core: &ServiceCore,
    client: u64,
    window: (DateTime<Utc>, DateTime<Utc>),
) -> Result<Retraction, RetractError> {
    let (from, to) = window;
    if from >= to {
        return Err(RetractError::Window { from, to });
    }
    if house.people.client(client).is_none() {
        return Err(RetractError::UnknownClient { id: client });
    }
    let sender = Sender { house, service: core.id };
    let (from_ms, to_ms) = (from.timestamp_millis(), to.timestamp_millis());
    let part = |id, versions, subjects, found| {
        Change::Withdrawn(WithdrawnPart { service: core.id, id, client, from_ms, to_ms, versions, subjects, found })
    };
    // The first part withdraws nothing. It says what is about to be done, and everything before it is visible after it.
    let id = sender.send(part(0, Vec::new(), Vec::new(), Vec::new()))?;
    let inquiry = Inquiry::<S>::new(house, core, Suspect { id, client, from_ms, to_ms })?;
    let mut offered = BTreeSet::new();
    for _ in 0..ROUNDS_MAX {
        let Findings { versions, subjects, found } = inquiry.run(sender.part_bytes(), &mut offered)?;
        if versions.is_empty() && subjects.is_empty() && found.is_empty() {
            return summary(house.store.as_ref(), core.id, id);
        }
        for subjects in subjects.0 {
            sender.send(part(id, Vec::new(), subjects, Vec::new()))?;
        }
        for versions in versions.0 {
            sender.send(part(id, versions, Vec::new(), Vec::new()))?;
        }
        for found in found.0 {
            sender.send(part(id, Vec::new(), Vec::new(), found))?;
        }
    }
    Err(RetractError::Unsettled { id, rounds: ROUNDS_MAX })
}

/// Undoes a retraction.
pub(crate) fn restore(house: &House, core: &ServiceCore, id: u64) -> Result<Retraction, RetractError> {
    let store = house.store.as_ref();
    let undone = summary(store, core.id, id)?;
    let sender = Sender { house, service: core.id };
    let part =
        |last, versions, subjects| Change::Restored(RestoredPart { service: core.id, id, last, versions, subjects });
    for _ in 0..ROUNDS_MAX {
        let (versions, subjects) = withdrawn_by(store, core.id, id, sender.part_bytes())?;
        if versions.is_empty() && subjects.is_empty() {
            sender.send(part(true, Vec::new(), Vec::new()))?;
            return Ok(undone);
        }
        for versions in versions.0 {
            sender.send(part(false, versions, Vec::new()))?;
        }
        for subjects in subjects.0 {
            sender.send(part(false, Vec::new(), subjects))?;
        }
    }
    Err(RetractError::Unsettled { id, rounds: ROUNDS_MAX })
}

/// The retractions that are in force, oldest first.
pub(crate) fn all(store: &dyn Store, service: u32) -> Result<Vec<Retraction>, ReadError> {
    let mut found = Vec::new();
    apply::each(store, service, key::RETRACTION, |rest, value| {
        let value = stored(record::decode("retraction", value))?;
        found.extend(key::number(rest).map(|id| Retraction::new(id, &value)));
        Ok(())
    })?;
    Ok(found)
}

fn summary(store: &dyn Store, service: u32, id: u64) -> Result<Retraction, RetractError> {
    let value = store.get(&key::retraction(service, id))?.ok_or(RetractError::UnknownRetraction { id })?;
    Ok(Retraction::new(id, &stored(record::decode("retraction", &value))?))
}

/// A part of a retraction on its way to the journal; the lists of `record::Withdrawn`.
#[derive(Debug)]
pub(crate) struct WithdrawnPart {
    pub(crate) service: u32,
    pub(crate) id: u64,
    pub(crate) client: u64,
    pub(crate) from_ms: i64,
    pub(crate) to_ms: i64,
    pub(crate) versions: Vec<u8>,
    pub(crate) subjects: Vec<u8>,
    pub(crate) found: Vec<u8>,
}

/// A part of an undoing on its way to the journal; the lists of `record::Restored`.
#[derive(Debug)]
pub(crate) struct RestoredPart {
    pub(crate) service: u32,
    pub(crate) id: u64,
    pub(crate) last: bool,
    pub(crate) versions: Vec<u8>,
    pub(crate) subjects: Vec<u8>,
}

impl Change {
    fn list_bytes(&self) -> usize {
        match self {
            Self::Withdrawn(part) => part.versions.len() + part.subjects.len() + part.found.len(),
            Self::Restored(part) => part.versions.len() + part.subjects.len(),
            _ => 0,
        }
    }
}

/// Sends parts, one after the other.
struct Sender<'a> {
    house: &'a House,
    service: u32,
}

impl Sender<'_> {
    /// Bytes of a part, so that it finds room in the smallest queue.
    fn part_bytes(&self) -> usize {
        let queue = usize::try_from(self.house.link.limits.queue_bytes).unwrap_or(usize::MAX);
        PART_BYTES.min(queue / 4)
    }

    /// Journals a part and waits until reads see it; its position. Parks the thread while the queue is full; in a manual
    /// hub it does the writer's work itself.
    fn send(&self, change: Change) -> Result<u64, RetractError> {
        let link = &self.house.link;
        let bytes = change.list_bytes() + Pending::OVERHEAD;
        loop {
            link.check()?;
            match link.reserve(Precedence::Submit, bytes) {
                Ok(()) => break,
                Err(busy) if bytes as u64 > link.limits.queue_bytes => return Err(busy.into()),
                Err(_) if link.manual => self.house.make_room(),
                Err(HubError::Busy { retry_after, .. }) => std::thread::park_timeout(retry_after),
                Err(other) => return Err(other.into()),
            }
        }
        let ticket = link.post(change, bytes);
        if link.manual {
            self.house.make_room();
        }
        ticket.wait_visible()?;
        tracing::debug!(service = self.service, position = ticket.position(), "part of a retraction applied");
        Ok(ticket.position().unwrap_or_default())
    }
}

/// Everything that a retraction withdrew: versions and subjects.
fn withdrawn_by(store: &dyn Store, service: u32, id: u64, limit: usize) -> Result<(Parts, Parts), StoreError> {
    let (mut versions, mut subjects) = (Parts::default(), Parts::default());
    apply::each(store, service, key::VERSION, |rest, bytes| {
        let version: VersionValue<'_> = stored(record::decode("version", bytes))?;
        if let Some((key, number)) = key::of_version(rest)
            && version.withdrawn == id
        {
            versions.push(limit, &VersionName { key, number });
        }
        Ok(())
    })?;
    apply::each(store, service, key::SUBJECT, |key, bytes| {
        let value: SubjectValue<'_> = stored(record::decode("subject", bytes))?;
        if value.withdrawn == id {
            subjects.push(limit, &KeyRecord { key });
        }
        Ok(())
    })?;
    Ok((versions, subjects))
}
