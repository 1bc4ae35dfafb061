//! Makes the store from the journal: one record after the other, the same way when they are written and when they are
//! replayed. So replaying always gives the state that was.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::error::StoreError;
use crate::journal::GroupTime;
use crate::record::{
    self, Added, BlockItem, ClientValue, Conflict, DecodeError, Item, LeaseValue, Leased, LevelRecord, Owed, Record,
    Released, Reported, SeatRecord, SeatState, SeatValue, ServiceTally, ServiceValue, Standing, SubjectRecord,
    SubjectValue, key,
};
use crate::slot::Cause;
use crate::store::{Batch, Store};
use crate::sync::Arc;
use crate::ticket::Intake;

/// Subjects in a block, at most.
const BLOCK_SUBJECTS: u32 = 1_024;
/// Bytes of a block, about at most.
const BLOCK_BYTES: usize = 256 << 10;
/// Blocks' bitmaps kept in memory between batches.
const BLOCKS_CACHED: usize = 4_096;
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

#[derive(Debug)]
struct OpenBlock {
    first: u64,
    count: u32,
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
    open_blocks: HashMap<u32, OpenBlock>,
    blocks: BTreeMap<(u32, u64), Owed>,
    dirty_blocks: BTreeSet<(u32, u64)>,
    finished: Vec<FinishedLease>,
    changes: usize,
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
            open_blocks: HashMap::new(),
            blocks: BTreeMap::new(),
            dirty_blocks: BTreeSet::new(),
            finished: Vec::new(),
            changes: 0,
        };
        applier.standing = standing(applier.store.as_ref())?.unwrap_or_default();
        for (service, value) in services(applier.store.as_ref())? {
            let tally = applier.store.get(&key::of(service, key::TALLY, &[]))?;
            let tally = tally.map(|bytes| stored(record::decode("tally", &bytes))).transpose()?;
            applier.tallies.insert(service, tally.unwrap_or_default());
            applier.services.insert(service, value);
            for (generation, slot, lease) in leases(applier.store.as_ref(), service)? {
                applier.leases.insert((service, generation, slot), lease);
            }
        }
        Ok(applier)
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    pub(crate) fn tally(&self, service: u32) -> ServiceTally {
        self.tallies.get(&service).copied().unwrap_or_default()
    }

    /// Records applied since the last `flush`, about.
    pub(crate) fn changes(&self) -> usize {
        self.changes
    }

    /// Leases that ended since the last call.
    pub(crate) fn take_finished(&mut self) -> Vec<FinishedLease> {
        std::mem::take(&mut self.finished)
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
            Record::Seat(seat) => self.seat(&seat)?,
            Record::Added(added) => intake = self.added(at, &added)?,
            Record::Leased(leased) => self.leased(leased)?,
            Record::Reported(reported) => intake = self.reported(at, &reported)?,
            Record::Released(released) => self.released(at, &released)?,
            Record::Conflict(conflict) => self.conflict(&conflict)?,
            Record::Level(level) => self.level(at, &level)?,
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
            self.batch.insert(key::lease(lease.0, lease.1, lease.2), value);
        }
        self.flush_blocks();
        self.changes = 0;
        self.store.apply(std::mem::take(&mut self.batch))?;
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
                    self.batch.insert(key::of(service, key::BLOCK, &first.to_be_bytes()), None);
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
        let value =
            ServiceValue { name: record.name.to_owned(), state: record.state, max_subjects: record.max_subjects };
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

    fn seat(&mut self, record: &SeatRecord) -> Result<(), ApplyError> {
        self.seat_mut(record.service, record.client)?.state = record.state;
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
                let fresh = SeatValue::fresh();
                Ok(entry.insert(value.unwrap_or(fresh)))
            }
        }
    }

    fn added(&mut self, at: At, record: &Added<'_>) -> Result<Intake, ApplyError> {
        self.take_in(at, record.service, 0, record.subjects)
    }

    /// Takes in those of a list of subjects that are new, oldest first.
    fn take_in(&mut self, at: At, service: u32, depth: u16, subjects: &[u8]) -> Result<Intake, ApplyError> {
        let budget = self.services.get(&service).map_or(u64::MAX, |value| value.max_subjects);
        let mut intake = Intake::default();
        for subject in record::list::<SubjectRecord<'_>>("subject", subjects) {
            let subject =
                subject.map_err(|error| ApplyError::Frame { position: at.position, what: error.to_string() })?;
            let key = key::of(service, key::SUBJECT, subject.key);
            if self.get(&key)?.is_some() {
                intake.duplicates += 1;
                continue;
            }
            let tally = self.tallies.entry(service).or_default();
            if tally.known >= budget {
                tally.cut_by_budget += 1;
                intake.cut += 1;
                continue;
            }
            let rank = tally.next_rank;
            tally.next_rank += 1;
            tally.known += 1;
            intake.added += 1;
            self.put(key, &SubjectValue::Known { rank, depth });
            self.enqueue(service, rank, BlockItem { depth, key: subject.key, body: subject.body });
        }
        self.tallies.entry(service).or_default().duplicates += intake.duplicates;
        self.dirty_tallies.insert(service);
        self.changes += usize::try_from(intake.added).unwrap_or(usize::MAX);
        Ok(intake)
    }

    fn enqueue(&mut self, service: u32, rank: u64, item: BlockItem<'_>) {
        let block =
            self.open_blocks.entry(service).or_insert_with(|| OpenBlock { first: rank, count: 0, bytes: Vec::new() });
        block.count += 1;
        record::append(&mut block.bytes, &item);
        if block.count >= BLOCK_SUBJECTS || block.bytes.len() >= BLOCK_BYTES {
            self.close_block(service);
        }
    }

    fn close_block(&mut self, service: u32) {
        if let Some(block) = self.open_blocks.remove(&service) {
            self.batch.insert(key::of(service, key::BLOCK, &block.first.to_be_bytes()), Some(block.bytes));
            self.blocks.insert((service, block.first), Owed::all(block.count));
            self.dirty_blocks.insert((service, block.first));
        }
    }

    fn leased(&mut self, record: Leased) -> Result<(), ApplyError> {
        let subjects = record.ranks.len() as u64;
        let tally = &mut self.seat_mut(record.service, record.client)?.tally;
        tally.buckets_assigned += 1;
        tally.subjects_assigned += subjects;
        let lease = (record.service, record.generation, record.slot);
        self.leases.insert(lease, LeaseValue::new(record.client, record.at, record.ranks));
        self.dirty_leases.insert(lease);
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
            }
            if self.settle(record.service, item.rank)? {
                intake = intake.plus(self.done(at, record, &item)?);
            }
        }
        self.seat_mut(record.service, record.client)?.tally.subjects_reported += reported;
        self.end_if_empty(at, name)?;
        Ok(intake)
    }

    /// Stores a first report, and takes in what it revealed.
    fn done(&mut self, at: At, record: &Reported<'_>, item: &Item<'_>) -> Result<Intake, ApplyError> {
        let value = SubjectValue::Done {
            rank: item.rank,
            depth: item.depth,
            version: 1,
            client: record.client,
            wall_ms: at.time.wall_ms,
            position: at.position,
            report: item.report,
        };
        self.put(key::of(record.service, key::SUBJECT, item.key), &value);
        self.changes += 1;
        let tally = self.tallies.entry(record.service).or_default();
        tally.done += 1;
        tally.cut_by_depth += u64::from(item.too_deep);
        self.dirty_tallies.insert(record.service);
        let mut intake = self.take_in(at, record.service, item.depth.saturating_add(1), item.found)?;
        intake.cut += u64::from(item.too_deep);
        Ok(intake)
    }

    /// Clears a subject's bit in its block. False if it was done before.
    fn settle(&mut self, service: u32, rank: u64) -> Result<bool, StoreError> {
        if self.open_blocks.get(&service).is_some_and(|block| block.first <= rank) {
            self.close_block(service);
        }
        let Some(first) = self.block_of(service, rank)? else { return Ok(false) };
        self.dirty_blocks.insert((service, first));
        let owed = self.blocks.get_mut(&(service, first));
        Ok(owed.is_some_and(|owed| owed.clear(rank - first)))
    }

    /// The first rank of the block that holds `rank`, once it is in memory; `None` if the block is done and gone.
    fn block_of(&mut self, service: u32, rank: u64) -> Result<Option<u64>, StoreError> {
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

    fn released(&mut self, at: At, record: &Released) -> Result<(), ApplyError> {
        let name = (record.service, record.generation, record.slot);
        let unknown = || ApplyError::Frame { position: at.position, what: "an unknown lease was released".to_owned() };
        let lease = self.leases.get_mut(&name).ok_or_else(unknown)?;
        let mut put_back = 0;
        for rank in &record.ranks {
            if let Some(place) = lease.ranks.iter().position(|held| held == rank) {
                put_back += u64::from(lease.clear(place));
            }
        }
        lease.put_back = Some(record.cause);
        let client = lease.client;
        self.dirty_leases.insert(name);
        self.seat_mut(record.service, client)?.tally.subjects_put_back += put_back;
        self.end_if_empty(at, name)
    }

    fn end_if_empty(&mut self, at: At, name: (u32, u64, u32)) -> Result<(), ApplyError> {
        self.dirty_leases.insert(name);
        let Some(lease) = self.leases.get(&name) else { return Ok(()) };
        if !lease.open().is_empty() {
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
        self.leases.remove(&name);
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

/// Calls `visit` with the rest of the key and the value of every pair under `service` and `tag`.
pub(crate) fn each(
    store: &dyn Store,
    service: u32,
    tag: u8,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let (mut start, end) = key::range(service, tag, &[]);
    loop {
        let pairs = store.scan(&start, Some(&end), 1_024)?;
        let Some((last, _)) = pairs.last() else { return Ok(()) };
        start = [last.as_slice(), &[0]].concat();
        for (key, value) in &pairs {
            visit(key::rest(key), value)?;
        }
    }
}

fn services(store: &dyn Store) -> Result<Vec<(u32, ServiceValue)>, StoreError> {
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

impl Applier {
    /// Every service the store knows.
    pub(crate) fn services(&self) -> impl Iterator<Item = (u32, &ServiceValue)> {
        self.services.iter().map(|(service, value)| (*service, value))
    }
}
