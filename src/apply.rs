//! Makes the store from the journal: one record after the other, the same way when they are written and when they are
//! replayed. So replaying always gives the state that was.

mod erase;
mod first_rounds;
mod lanes;
mod retract;
mod subjects;

use std::collections::{self, BTreeMap, BTreeSet};

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};

pub(crate) use self::lanes::{is_laned, lane, lane_state};
pub(crate) use self::subjects::subject;
use crate::audit::Print;
use crate::error::StoreError;
use crate::journal::GroupTime;
use crate::record::{
    self, ClientValue, Conflict, DecodeError, Gone, Item, LaneValue, LeaseValue, Leased, LevelRecord, Owed, Record,
    Released, Reported, SeatRecord, SeatState, SeatValue, ServiceTally, ServiceValue, Snapshot, Standing, StoredPair,
    key,
};
use crate::slot::Cause;
use crate::store::{Batch, Pair, Store, walk};
use crate::sync::Arc;
use crate::ticket::Intake;

/// Changes that are a batch by themselves: a part of a snapshot is about as large as a batch may be.
const FULL: usize = 1 << 20;
/// Blocks' bitmaps kept in memory between batches.
const BLOCKS_CACHED: usize = 4_096;
/// Pairs read from the store at once.
pub(crate) const PAGE: usize = 1_024;
/// Lanes' counts kept in memory between batches.
const LANES_CACHED: usize = 65_536;
/// Seats' tallies kept in memory between batches.
const SEATS_CACHED: usize = 65_536;

/// Why a record could not be applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error("store: {0}")]
    Store(#[from] StoreError),
    #[error("journal position {position}: {what}")]
    Frame { position: u64, what: String },
}

/// A lease that ended, and how long it took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FinishedLease {
    pub(crate) service: u32,
    pub(crate) generation: u64,
    pub(crate) slot: u32,
    pub(crate) client: u64,
    pub(crate) claimed_at: u64,
    pub(crate) ended_at: u64,
    pub(crate) put_back: Option<Cause>,
}

/// What applying a record means for those who keep things in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A subject that waits, or is being worked on, is urgent.
    Urgent { service: u32, rank: u64 },
    /// Nothing is owed of a rank any more, without a report: its subject was deleted or withdrawn. With its lane; empty: of none.
    Gone { service: u32, rank: u64, lane: Vec<u8> },
    /// An urgent subject was reported, or is owed no more for another reason.
    Settled { service: u32, rank: u64 },
    /// Another client's later report did not confirm this client's.
    Disagreed { service: u32, client: u64 },
    /// A lease that ran a lane is over, and everything that was reported on it is applied.
    LaneFree { service: u32, lane: Vec<u8>, generation: u64, slot: u32 },
}

#[derive(Debug)]
struct OpenBlock {
    first: u64,
    count: u32,
    since: u64,
    bodies: bool,
    bytes: Vec<u8>,
}

/// Where a frame stands, and when its group was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At {
    pub(crate) position: u64,
    pub(crate) time: GroupTime,
}

/// Applies records to the store, batch by batch.
#[derive(Debug)]
pub(crate) struct Applier {
    store: Arc<dyn Store>,
    batch: Batch,
    standing: Standing,
    services: HashMap<u32, ServiceValue>,
    tallies: HashMap<u32, ServiceTally>,
    dirty_tallies: BTreeSet<u32>,
    seats: HashMap<(u32, u64), SeatValue>,
    dirty_seats: BTreeSet<(u32, u64)>,
    leases: HashMap<(u32, u64, u32), LeaseValue>,
    dirty_leases: BTreeSet<(u32, u64, u32)>,
    /// Hashed as the names that clients may choose are.
    lanes: collections::HashMap<(u32, Vec<u8>), LaneValue>,
    dirty_lanes: BTreeSet<(u32, Vec<u8>)>,
    open_blocks: HashMap<u32, OpenBlock>,
    blocks: BTreeMap<(u32, u64), Owed>,
    dirty_blocks: BTreeSet<(u32, u64)>,
    /// Fingerprints of what leases owe, by service.
    leased: HashMap<u32, Print>,
    /// Ranks that are urgent.
    urgent: HashSet<(u32, u64)>,
    /// Leases that hold an urgent subject, where more than one does.
    again: HashMap<(u32, u64), Vec<(u64, u32)>>,
    /// Services some of whose ranks were closed without a report.
    gone: HashSet<u32>,
    /// Leases that had ended when the last of their subjects was reported on another one; empty between two records.
    outlived: Vec<(u32, u64, u32)>,
    finished: Vec<FinishedLease>,
    effects: Vec<Effect>,
    erasures: erase::Erasures,
    /// By service, a key that no subject's is above; of those looked at.
    highest: HashMap<u32, Vec<u8>>,
    first_rounds: first_rounds::FirstRounds,
    /// Leases that the store holds.
    stored_leases: HashSet<(u32, u64, u32)>,
    changes: usize,
    /// The store holds what was not read into memory.
    stale: bool,
}

impl Applier {
    /// Loads what every record may need: the standing, the services, the live leases.
    pub(crate) fn load(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let mut applier = Self {
            store,
            batch: Batch::new(),
            standing: Standing::default(),
            services: HashMap::new(),
            tallies: HashMap::new(),
            dirty_tallies: BTreeSet::new(),
            seats: HashMap::new(),
            dirty_seats: BTreeSet::new(),
            leases: HashMap::new(),
            dirty_leases: BTreeSet::new(),
            lanes: collections::HashMap::new(),
            dirty_lanes: BTreeSet::new(),
            open_blocks: HashMap::new(),
            blocks: BTreeMap::new(),
            dirty_blocks: BTreeSet::new(),
            leased: HashMap::new(),
            urgent: HashSet::new(),
            again: HashMap::new(),
            gone: HashSet::new(),
            outlived: Vec::new(),
            finished: Vec::new(),
            effects: Vec::new(),
            erasures: erase::Erasures::default(),
            highest: HashMap::new(),
            first_rounds: first_rounds::FirstRounds::default(),
            stored_leases: HashSet::new(),
            changes: 0,
            stale: false,
        };
        applier.standing = standing(applier.store.as_ref())?.unwrap_or_default();
        for (service, value) in services(applier.store.as_ref())? {
            let tally = applier.store.get(&key::of(service, key::TALLY, &[]))?;
            let tally = tally.map(|bytes| stored(record::decode("tally", &bytes))).transpose()?;
            applier.tallies.insert(service, tally.unwrap_or_default());
            let (start, end) = key::range(service, key::GONE, &[]);
            if !applier.store.scan(&start, Some(&end), 1)?.is_empty() {
                applier.gone.insert(service);
            }
            applier.services.insert(service, value);
            for (generation, slot, lease) in leases(applier.store.as_ref(), service)? {
                let print = lease.open().places().filter_map(|place| lease.ranks.get(place).copied()).collect();
                applier.note_leased(service, |leased| leased.plus(print));
                applier.leases.insert((service, generation, slot), lease);
                applier.stored_leases.insert((service, generation, slot));
            }
            for (rank, _) in urgent(applier.store.as_ref(), service)? {
                applier.urgent.insert((service, rank));
            }
        }
        applier.find_again();
        Ok(applier)
    }

    /// Finds the subjects that more than one lease holds.
    fn find_again(&mut self) {
        for ((service, generation, slot), lease) in &self.leases {
            for place in lease.open().places() {
                let rank = lease.ranks.get(place).map(|rank| (*service, *rank));
                // They are urgent, or were until they were deleted or withdrawn.
                let is_gone = lease.gone.iter().any(|gone| usize::from(gone.place) == place);
                if let Some(rank) = rank.filter(|rank| is_gone || self.urgent.contains(rank)) {
                    self.again.entry(rank).or_default().push((*generation, *slot));
                }
            }
        }
        self.again.retain(|_, leases| leases.len() > 1);
    }

    /// Takes a part of a store over, pair by pair. The standing is where this store stands; of the other's, only the boot
    /// goes on. What is read from the store into memory is read again once the last part is written.
    fn snapshot(&mut self, record: &Snapshot<'_>) -> Result<(), DecodeError> {
        for pair in record::list::<StoredPair<'_>>("stored pair", record.pairs) {
            let pair = pair?;
            if pair.key == key::of(0, key::STANDING, &[]) {
                self.standing.boot = record::decode::<Standing>("standing", pair.value)?.boot;
            } else {
                self.batch.insert(pair.key.to_vec(), Some(pair.value.to_vec()));
            }
        }
        self.stale = record.last;
        self.changes = self.changes.max(FULL);
        Ok(())
    }

    /// Goes on with the same store, as it is counted for the storekeeper.
    pub(crate) fn go_on_with(&mut self, store: Arc<dyn Store>) {
        self.store = store;
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    pub(crate) fn tally(&self, service: u32) -> ServiceTally {
        self.tallies.get(&service).copied().unwrap_or_default()
    }

    /// The fingerprint of what a service's leases owe.
    pub(crate) fn leased_print(&self, service: u32) -> Print {
        self.leased.get(&service).copied().unwrap_or_default()
    }

    fn note_leased(&mut self, service: u32, change: impl FnOnce(Print) -> Print) {
        let leased = self.leased.entry(service).or_default();
        *leased = change(*leased);
    }

    /// True if what was applied since the last `flush`, so many bytes of the journal, is enough for a batch.
    pub(crate) fn batch_is_full(&self, bytes: usize) -> bool {
        self.store.batch_size().is_reached(self.changes, bytes)
    }

    /// Leases that ended since the last call.
    pub(crate) fn take_finished(&mut self) -> Vec<FinishedLease> {
        std::mem::take(&mut self.finished)
    }

    /// What was applied since the last call means for others.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn tally_mut(&mut self, service: u32) -> &mut ServiceTally {
        self.dirty_tallies.insert(service);
        self.tallies.entry(service).or_default()
    }

    /// Applies one record to the batch under way.
    pub(crate) fn apply(&mut self, at: At, kind: u8, body: &[u8]) -> Result<Intake, ApplyError> {
        let frame = |error: DecodeError| ApplyError::Frame { position: at.position, what: error.to_string() };
        self.changes += 1;
        let mut intake = Intake::default();
        match Record::decode(kind, body).map_err(frame)? {
            Record::Boot(boot) => self.standing.boot = boot.number,
            Record::Service(service) => self.service(&service),
            Record::Client(client) => self.client(at, &client)?,
            Record::Seat(seat) => self.seat(at, &seat)?,
            Record::Added(added) => intake = self.take_in(at, added.service, 0, added.subjects)?,
            Record::Leased(leased) => self.leased(at, leased)?,
            Record::Reported(reported) => intake = self.reported(at, &reported)?,
            Record::Released(released) => self.released(at, &released)?,
            Record::Late(late) => intake = self.late(at, &late)?,
            Record::Conflict(conflict) => self.conflict(&conflict)?,
            Record::Urgent(urgent) => self.urgent(at, &urgent)?,
            Record::Rerun(keys) => intake = self.rerun(at, &keys)?,
            Record::Deleted(keys) => intake = self.delete(at, &keys)?,
            Record::Marked(keys) => intake = self.mark(at, &keys)?,
            Record::Withdrawn(withdrawn) => intake = self.withdraw(at, &withdrawn)?,
            Record::Restored(restored) => intake = self.restore(at, &restored)?,
            Record::Snapshot(snapshot) => self.snapshot(&snapshot).map_err(frame)?,
            // What it did is in the snapshot.
            Record::Past(_) => {}
            Record::Level(level) => self.level(at, &level)?,
        }
        self.erase_for_record();
        for name in std::mem::take(&mut self.outlived) {
            self.end_if_empty(at, name)?;
        }
        Ok(intake)
    }

    /// Writes the batch: everything applied so far, and that the journal is applied up to `position`.
    pub(crate) fn flush(&mut self, position: u64, time: GroupTime, class: u8) -> Result<(), StoreError> {
        self.standing = Standing { position, hub_ms: time.hub_ms, class, boot: self.standing.boot };
        for service in self.open_blocks.keys().copied().collect::<Vec<_>>() {
            self.close_block(service);
        }
        self.put(key::of(0, key::STANDING, &[]), &self.standing.clone());
        for service in std::mem::take(&mut self.dirty_tallies) {
            self.put(key::of(service, key::TALLY, &[]), &self.tally(service));
        }
        for (service, client) in std::mem::take(&mut self.dirty_seats) {
            if let Some(seat) = self.seats.get(&(service, client)).cloned() {
                self.put(key::of(service, key::SEAT, &client.to_be_bytes()), &seat);
            }
        }
        for lease in std::mem::take(&mut self.dirty_leases) {
            let value = self.leases.get(&lease).map(record::encode);
            let was_stored = match &value {
                Some(_) => !self.stored_leases.insert(lease),
                None => self.stored_leases.remove(&lease),
            };
            // Most leases begin and end within one batch.
            if was_stored || value.is_some() {
                self.batch.insert(key::lease(lease.0, lease.1, lease.2), value);
            }
        }
        self.erase_from_blocks()?;
        self.flush_first_rounds()?;
        self.flush_blocks();
        self.flush_lanes();
        self.changes = 0;
        self.store.apply(std::mem::take(&mut self.batch))?;
        if self.stale {
            *self = Self::load(Arc::clone(&self.store))?;
        }
        if self.lanes.len() > LANES_CACHED {
            self.lanes.clear();
        }
        if self.blocks.len() > BLOCKS_CACHED {
            self.blocks.clear();
        }
        if self.seats.len() > SEATS_CACHED {
            self.seats.clear();
        }
        Ok(())
    }

    fn flush_blocks(&mut self) {
        for (service, first) in std::mem::take(&mut self.dirty_blocks) {
            let owed_key = key::of(service, key::OWED, &first.to_be_bytes());
            match self.blocks.get(&(service, first)) {
                Some(owed) if owed.is_empty() => {
                    self.batch.insert(owed_key, None);
                    // Where keys are all there is, a later round needs no block.
                    if !owed.bodies {
                        self.batch.insert(key::of(service, key::BLOCK, &first.to_be_bytes()), None);
                    }
                    self.blocks.remove(&(service, first));
                }
                Some(owed) => {
                    self.batch.insert(owed_key, Some(record::encode(owed)));
                }
                None => {}
            }
        }
    }

    pub(crate) fn checkpoint(&self) -> Result<(), StoreError> {
        self.store.checkpoint()
    }

    /// The end: makes the store durable, and says so on disk.
    pub(crate) fn finish(&self) -> Result<(), StoreError> {
        self.store.finish()
    }

    fn put<T: serde::Serialize>(&mut self, key: Vec<u8>, value: &T) {
        self.batch.insert(key, Some(record::encode(value)));
    }

    /// What the store will hold once the batch is written.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.batch.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.store.get(key),
        }
    }

    fn service(&mut self, record: &record::ServiceRecord<'_>) {
        let value = ServiceValue {
            name: record.name.to_owned(),
            state: record.state,
            max_subjects: record.max_subjects,
            lane_subjects: record.lane_subjects,
        };
        self.put(key::of(0, key::SERVICE, &record.service.to_be_bytes()), &value);
        self.services.insert(record.service, value);
        self.tallies.entry(record.service).or_default();
        self.dirty_tallies.insert(record.service);
    }

    fn client(&mut self, at: At, record: &record::ClientRecord<'_>) -> Result<(), ApplyError> {
        let key = key::of(0, key::CLIENT, &record.client.to_be_bytes());
        let before = self.get(&key)?;
        let before: Option<ClientValue> = before.map(|bytes| stored(record::decode("client", &bytes))).transpose()?;
        let wall_ms = at.time.wall_ms;
        let value = ClientValue {
            name: record.name.to_owned(),
            registered: record.registered,
            first_wall_ms: before.as_ref().map_or(wall_ms, |value| value.first_wall_ms),
            last_wall_ms: match &before {
                Some(value) if !record.registered => value.last_wall_ms,
                _ => wall_ms,
            },
        };
        self.put(key, &value);
        if !record.registered {
            self.deactivate(record.client)?;
        }
        Ok(())
    }

    /// A client that is deregistered is active nowhere: registering it again activates nothing.
    fn deactivate(&mut self, client: u64) -> Result<(), ApplyError> {
        let services: Vec<u32> = self.services.keys().copied().collect();
        for service in services {
            let known = self.seats.contains_key(&(service, client))
                || self.store.get(&key::of(service, key::SEAT, &client.to_be_bytes()))?.is_some();
            if known {
                let seat = self.seat_mut(service, client)?;
                if seat.state == SeatState::Active {
                    seat.state = SeatState::Inactive;
                }
            }
        }
        Ok(())
    }

    fn seat(&mut self, at: At, record: &SeatRecord) -> Result<(), ApplyError> {
        let seat = self.seat_mut(record.service, record.client)?;
        seat.state = record.state;
        if record.state == SeatState::Active {
            let now = Some(at.time.wall_ms);
            seat.times.first_activated = seat.times.first_activated.or(now);
            (seat.times.last_activated, seat.times.last_access) = (now, now);
        }
        Ok(())
    }

    fn level(&mut self, at: At, record: &LevelRecord<'_>) -> Result<(), ApplyError> {
        let seat = self.seat_mut(record.service, record.client)?;
        seat.level = record.level;
        seat.why = Some(record.why.to_owned());
        seat.level_at = at.time.hub_ms;
        Ok(())
    }

    fn seat_mut(&mut self, service: u32, client: u64) -> Result<&mut SeatValue, StoreError> {
        self.dirty_seats.insert((service, client));
        match self.seats.entry((service, client)) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let bytes = self.store.get(&key::of(service, key::SEAT, &client.to_be_bytes()))?;
                let value = bytes.map(|bytes| stored(record::decode("seat", &bytes))).transpose()?;
                Ok(entry.insert(value.unwrap_or_else(SeatValue::fresh)))
            }
        }
    }

    fn leased(&mut self, at: At, record: Leased) -> Result<(), ApplyError> {
        let Leased { service, generation, slot, client, at: began, ranks, again, lane } = record;
        let seat = self.seat_mut(service, client)?;
        seat.times.last_access = Some(at.time.wall_ms);
        let tally = &mut seat.tally;
        tally.buckets_assigned += 1;
        tally.subjects_assigned += ranks.len() as u64;
        let name = (service, generation, slot);
        let offered_again = again.len() as u64;
        self.tally_mut(service).again += offered_again;
        // Before this lease is journaled a subject may have been deleted, or, offered twice, reported on another lease.
        let tally = self.tally(service);
        let doubtful = tally.again > 0 || tally.late > 0 || self.gone.contains(&service);
        let held = if doubtful { ranks.clone() } else { Vec::new() };
        let twice: Vec<_> =
            again.iter().filter_map(|again| Some((again, *ranks.get(usize::from(again.place))?))).collect();
        let print: Print = ranks.iter().copied().collect();
        self.note_leased(service, |leased| leased.plus(print));
        self.leases.insert(name, LeaseValue::new(client, began, ranks, lane));
        self.dirty_leases.insert(name);
        for (again, rank) in twice {
            let leases = self.again.entry((service, rank)).or_default();
            leases.push((again.generation, again.slot));
            leases.push((generation, slot));
        }
        for (place, rank) in held.into_iter().enumerate() {
            if !self.is_owed(service, rank)? {
                self.leased_too_late(name, place, rank)?;
            }
        }
        Ok(())
    }

    /// Nothing was owed of a rank when its lease was journaled.
    fn leased_too_late(&mut self, name: (u32, u64, u32), place: usize, rank: u64) -> Result<(), StoreError> {
        let (service, generation, slot) = name;
        if let Some(hash) = self.get(&key::of(service, key::GONE, &rank.to_be_bytes()))? {
            // Its holder does not know, and its report is answered as any other.
            let (Ok(hash), Ok(place)) = (hash.try_into(), u16::try_from(place)) else { return Ok(()) };
            if let Some(lease) = self.leases.get_mut(&name) {
                lease.gone.push(Gone { place, hash });
            }
            return Ok(());
        }
        self.again.entry((service, rank)).or_default().push((generation, slot));
        self.end_again(service, rank)
    }

    /// A subject that several leases held was reported on one of them: the others owe it no more. Their ends have records of
    /// their own, before this one or after.
    fn end_again(&mut self, service: u32, rank: u64) -> Result<(), StoreError> {
        if self.again.is_empty() {
            return Ok(());
        }
        for (generation, slot) in self.again.remove(&(service, rank)).unwrap_or_default() {
            let name = (service, generation, slot);
            let Some(lease) = self.leases.get_mut(&name) else { continue };
            let place = lease.ranks.iter().position(|held| *held == rank);
            if place.is_some_and(|place| lease.clear(place)) {
                lease.lost = true;
                if lease.is_over() {
                    self.outlived.push(name);
                }
                let client = lease.client;
                self.note_leased(service, |leased| leased.minus(Print::of(rank)));
                self.seat_mut(service, client)?.tally.subjects_put_back += 1;
                self.dirty_leases.insert(name);
            }
        }
        Ok(())
    }

    fn reported(&mut self, at: At, record: &Reported<'_>) -> Result<Intake, ApplyError> {
        let frame = |what: String| ApplyError::Frame { position: at.position, what };
        let name = (record.service, record.generation, record.slot);
        let mut intake = Intake::default();
        let mut reported = 0;
        for item in record::list::<Item<'_>>("item", record.items) {
            let item = item.map_err(|error| frame(error.to_string()))?;
            let lease = self.leases.get_mut(&name);
            let lease = lease.ok_or_else(|| frame("a report on an unknown lease".to_owned()))?;
            if lease.ranks.get(usize::from(item.place)) != Some(&item.rank) {
                return Err(frame("a report on a subject that is not in the lease".to_owned()));
            }
            if lease.clear(usize::from(item.place)) {
                reported += 1;
                self.note_leased(record.service, |leased| leased.minus(Print::of(item.rank)));
            }
            let taken = self.report(at, record, &item)?;
            intake.and_then(0, taken);
        }
        self.note_lane_reports(name, reported, record.state.map(AsRef::as_ref))?;
        let seat = self.seat_mut(record.service, record.client)?;
        seat.tally.subjects_reported += reported;
        seat.times.last_access = Some(at.time.wall_ms);
        self.end_if_empty(at, name)?;
        Ok(intake)
    }

    /// Reports on subjects that the lease owes no more, and that others had not reported.
    fn late(&mut self, at: At, record: &Reported<'_>) -> Result<Intake, ApplyError> {
        let service = record.service;
        let mut intake = Intake::default();
        let mut ranks = HashSet::new();
        for item in record::list::<Item<'_>>("item", record.items) {
            let item = item.map_err(|error| ApplyError::Frame { position: at.position, what: error.to_string() })?;
            ranks.insert(item.rank);
            let taken = self.report(at, record, &item)?;
            intake.and_then(0, taken);
        }
        for ((of, generation, slot), lease) in &self.leases {
            for rank in lease.ranks.iter().filter(|rank| *of == service && ranks.contains(rank)) {
                self.again.entry((service, *rank)).or_default().push((*generation, *slot));
            }
        }
        let taken = ranks.len() as u64;
        for rank in ranks {
            self.end_again(service, rank)?;
        }
        // The lease of whoever holds such a subject may be journaled only after this: see `leased`.
        self.tally_mut(service).late += taken;
        let seat = self.seat_mut(service, record.client)?;
        seat.tally.subjects_assigned += taken;
        seat.tally.subjects_reported += taken;
        seat.times.last_access = Some(at.time.wall_ms);
        Ok(intake)
    }

    fn released(&mut self, at: At, record: &Released) -> Result<(), ApplyError> {
        let name = (record.service, record.generation, record.slot);
        let unknown = || ApplyError::Frame { position: at.position, what: "an unknown lease was released".to_owned() };
        let Some(lease) = self.leases.get_mut(&name) else {
            // Its last report ended it already.
            return if record.ranks.is_empty() { Ok(()) } else { Err(unknown()) };
        };
        let mut put_back = Print::default();
        for rank in &record.ranks {
            let place = lease.ranks.iter().position(|held| held == rank);
            if place.is_some_and(|place| lease.clear(place)) {
                put_back.add(*rank);
            }
        }
        if !record.ranks.is_empty() {
            lease.put_back = Some(record.cause);
        }
        lease.ended = true;
        let client = lease.client;
        self.dirty_leases.insert(name);
        self.note_leased(record.service, |leased| leased.minus(put_back));
        let seat = self.seat_mut(record.service, client)?;
        seat.tally.subjects_put_back += put_back.count;
        if record.cause == Cause::Client {
            seat.times.last_access = Some(at.time.wall_ms);
        }
        Ok(self.end_if_empty(at, name)?)
    }

    fn end_if_empty(&mut self, at: At, name: (u32, u64, u32)) -> Result<(), StoreError> {
        self.dirty_leases.insert(name);
        let Some(lease) = self.leases.get(&name) else { return Ok(()) };
        if !lease.is_over() {
            return Ok(());
        }
        let (service, generation, slot) = name;
        let finished = FinishedLease {
            service,
            generation,
            slot,
            client: lease.client,
            claimed_at: lease.at,
            ended_at: at.time.hub_ms,
            put_back: lease.put_back,
        };
        let lane = self.leases.remove(&name).map(|lease| lease.lane).unwrap_or_default();
        if !lane.is_empty() {
            self.effects.push(Effect::LaneFree { service, lane, generation, slot });
        }
        let tally = &mut self.seat_mut(service, finished.client)?.tally;
        match finished.put_back {
            None => tally.buckets_processed += 1,
            Some(cause) => {
                tally.buckets_put_back += 1;
                tally.buckets_expired += u64::from(cause == Cause::Expired);
            }
        }
        self.finished.push(finished);
        Ok(())
    }

    fn conflict(&mut self, record: &Conflict<'_>) -> Result<(), ApplyError> {
        let items = record::list::<Item<'_>>("item", record.items).count() as u64;
        self.seat_mut(record.service, record.client)?.tally.conflicts += items;
        Ok(())
    }
}

/// A value that the store gave back but that does not decode: the store is damaged.
pub(crate) fn stored<T>(decoded: Result<T, DecodeError>) -> Result<T, StoreError> {
    decoded.map_err(|error| StoreError::Corrupted { what: error.to_string() })
}

/// Up to where the store reflects the journal; `None` in a fresh store.
pub(crate) fn standing(store: &dyn Store) -> Result<Option<Standing>, StoreError> {
    let bytes = store.get(&key::of(0, key::STANDING, &[]))?;
    bytes.map(|bytes| stored(record::decode("standing", &bytes))).transpose()
}

/// Every pair under `service` and `tag`, in key order.
pub(crate) fn pairs(store: &dyn Store, service: u32, tag: u8) -> impl Iterator<Item = Result<Pair, StoreError>> {
    let (start, end) = key::range(service, tag, &[]);
    walk(store, start, Some(end), PAGE)
}

/// Calls `visit` with the rest of the key and the value of every pair under `service` and `tag`.
pub(crate) fn each(
    store: &dyn Store,
    service: u32,
    tag: u8,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    pairs(store, service, tag).try_for_each(|pair| {
        let (key, value) = pair?;
        visit(key::rest(&key), &value)
    })
}

/// The urgent ranks of a service, ascending, and the hub time, ms, of each one's mark.
pub(crate) fn urgent(store: &dyn Store, service: u32) -> Result<Vec<(u64, u64)>, StoreError> {
    let mut found = Vec::new();
    each(store, service, key::URGENT, |rest, value| {
        if let Some(rank) = key::number(rest) {
            found.push((rank, stored(record::decode("urgent mark", value))?));
        }
        Ok(())
    })?;
    Ok(found)
}

/// Every service that a store knows.
pub(crate) fn services(store: &dyn Store) -> Result<Vec<(u32, ServiceValue)>, StoreError> {
    let mut found = Vec::new();
    each(store, 0, key::SERVICE, |rest, value| {
        if let Some(service) = key::small_number(rest) {
            found.push((service, stored(record::decode("service", value))?));
        }
        Ok(())
    })?;
    Ok(found)
}

/// The live leases of a service, ascending by generation and slot.
pub(crate) fn leases(store: &dyn Store, service: u32) -> Result<Vec<(u64, u32, LeaseValue)>, StoreError> {
    let mut found = Vec::new();
    each(store, service, key::LEASE, |rest, value| {
        let slot = rest.get(8..).and_then(key::small_number);
        if let (Some(generation), Some(slot)) = (key::number(rest), slot) {
            found.push((generation, slot, stored(record::decode("lease", value))?));
        }
        Ok(())
    })?;
    Ok(found)
}

/// The block of a rank: its first rank, and what it owes. `None` if it owes nothing any more.
pub(crate) fn owed_block(store: &dyn Store, service: u32, rank: u64) -> Result<Option<(u64, Owed)>, StoreError> {
    let (start, last) = (key::of(service, key::OWED, &[]), key::of(service, key::OWED, &rank.to_be_bytes()));
    let Some((name, owed)) = store.last(&start, &last)? else { return Ok(None) };
    let Some(first) = key::number(key::rest(&name)) else { return Ok(None) };
    let owed: Owed = stored(record::decode("block state", &owed))?;
    Ok(owed.holds(first, rank).then_some((first, owed)))
}

impl Applier {
    /// Every service the store knows.
    pub(crate) fn services(&self) -> impl Iterator<Item = (u32, &ServiceValue)> {
        self.services.iter().map(|(service, value)| (*service, value))
    }
}

/// Defects, for tests to put in.
#[cfg(test)]
impl Applier {
    /// A rank that was settled is owed again.
    pub(crate) fn owe_again(&mut self, service: u32, rank: u64) {
        let first = self.block_of(service, rank).unwrap().unwrap();
        self.change_owed(service, first, |owed| owed.set(rank - first));
    }

    /// A rank is owed no more, and nobody is told. False if it was not.
    pub(crate) fn forget_owed(&mut self, service: u32, rank: u64) -> bool {
        let Some(first) = self.block_of(service, rank).unwrap() else { return false };
        self.change_owed(service, first, |owed| assert!(owed.clear(rank - first)));
        true
    }

    fn change_owed(&mut self, service: u32, first: u64, change: impl FnOnce(&mut Owed)) {
        change(self.blocks.get_mut(&(service, first)).unwrap());
        self.dirty_blocks.insert((service, first));
        let Standing { position, hub_ms, class, .. } = self.standing;
        self.flush(position, GroupTime { hub_ms, wall_ms: 0 }, class).unwrap();
    }

    /// That a rank is done was not accounted for.
    pub(crate) fn forget_done(&mut self, service: u32, rank: u64) {
        let done = &mut self.tally_mut(service).prints.done;
        *done = done.minus(Print::of(rank));
    }
}
