//! Brings a service back from the store: its counts, its seats, its leases.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::apply::{self, stored};
use crate::audit::{Booked, Flow, Print};
use crate::error::{RegisterServiceError, StoreError};
use crate::house::House;
use crate::lane::Run;
use crate::pool::{Birth, Pool, RecoveredLease, Spot, SubjectBuf, SubjectRef, Terms};
use crate::record::{self, BlockItem, Owed, SeatState, SeatValue, ServiceTally, key};
use crate::registry::{ServiceCore, UrgentBefore};
use crate::slot::Mask;
use crate::store::Store;
use crate::store::counted::Role;
use crate::sync::{Arc, Ordering};

/// Brings a service's counts, seats and leases back from the store.
pub(crate) fn restore(house: &House, core: &Arc<ServiceCore>) -> Result<(), RegisterServiceError> {
    let store = house.disk.store(Role::Opening);
    let store = store.as_ref();
    let tally = store.get(&key::of(core.id, key::TALLY, &[]))?;
    let tally: Option<ServiceTally> = tally.map(|bytes| stored(record::decode("tally", &bytes))).transpose()?;
    let tally = tally.unwrap_or_default();
    core.counts.publish(tally);
    let mut seats = Vec::new();
    apply::each(store, core.id, key::SEAT, |rest, value| {
        if let Some(client) = key::number(rest) {
            seats.push((client, stored(record::decode::<SeatValue>("seat", value))?));
        }
        Ok(())
    })?;
    // Everything that can fail is read before anything is made.
    let mut blocks = Blocks::default();
    let leases = read_leases(store, core.id, &mut blocks)?;
    for (client, mut value) in seats {
        let Some(client) = house.people.client(client) else { continue };
        if value.state == SeatState::Active && !client.is_registered() {
            value.state = SeatState::Inactive;
        }
        let seat = house.people.restore_seat(&client, core, value);
        if seat.is_ok_and(|seat| seat.state() == SeatState::Active) {
            // ordering: Relaxed; sizes the next pool.
            core.active_seats.fetch_add(1, Ordering::Relaxed);
        }
    }
    let leased = note_recovered(store, core, &leases, &mut blocks)?;
    core.ledger.open(Booked::of(&tally, leased));
    Ok(restore_leases(house, core, leases)?)
}

/// A new service takes over nothing: what the store holds under its number came from a journal that lost the service's own record.
pub(crate) fn nothing_stored(house: &House, service: u32) -> Result<(), RegisterServiceError> {
    let store = house.disk.store(Role::Opening);
    let (start, end) = (key::of(service, 0, &[]), key::of(service, u8::MAX, &[]));
    if store.scan(&start, Some(&end), 1)?.is_empty() {
        return Ok(());
    }
    let what = format!("entries of service {service}, which no record made; who registers again gets another number");
    Err(StoreError::Corrupted { what }.into())
}

/// Enters what the leases owe in the ledger; returns its fingerprint. Spare are subjects that the store does not owe, and
/// all but one of those that stand more than once.
fn note_recovered(
    store: &dyn Store,
    core: &ServiceCore,
    leases: &[Stored],
    blocks: &mut Blocks,
) -> Result<Print, StoreError> {
    let (mut leased, mut spare, mut seen) = (Print::default(), Print::default(), HashSet::new());
    for lease in leases {
        for subject in lease.open.places().filter_map(|place| lease.subjects.get(place)) {
            leased.add(subject.rank);
            if !seen.insert(subject.rank) || !blocks.is_owed(store, core.id, subject.rank)? {
                spare.add(subject.rank);
            }
        }
    }
    core.ledger.flowed(Flow::Recovered, leased);
    core.ledger.flowed(Flow::RecoveredSpare, spare);
    Ok(leased)
}

/// A live lease with its subjects.
struct Stored {
    generation: u64,
    slot: u32,
    client: u64,
    claimed_at: u64,
    open: Mask,
    subjects: Vec<SubjectBuf>,
    run: Option<Run>,
}

fn read_leases(store: &dyn Store, service: u32, blocks: &mut Blocks) -> Result<Vec<Stored>, StoreError> {
    let mut leases = Vec::new();
    for (generation, slot, lease) in apply::leases(store, service)? {
        let subjects = lease.ranks.iter().map(|rank| blocks.subject(store, service, *rank));
        let mut subjects = subjects.collect::<Result<Vec<_>, _>>()?;
        for gone in &lease.gone {
            if let Some(subject) = subjects.get_mut(usize::from(gone.place)) {
                *subject = SubjectBuf::gone(subject.rank, &gone.hash);
            }
        }
        let (client, claimed_at, open) = (lease.client, lease.at, lease.open());
        let run =
            if lease.lane.is_empty() { None } else { Some(read_run(store, service, &lease.lane, open, &subjects)?) };
        leases.push(Stored { generation, slot, client, claimed_at, open, subjects, run });
    }
    Ok(leases)
}

/// A lane that was running.
fn read_run(
    store: &dyn Store,
    service: u32,
    lane: &[u8],
    open: Mask,
    subjects: &[SubjectBuf],
) -> Result<Run, StoreError> {
    let version = apply::lane(store, service, lane)?.version;
    let run = Run::new(Arc::from(lane), open, version, apply::lane_state(store, service, lane)?);
    Ok(run.with_deadlines(subjects.iter().map(SubjectBuf::deadline)))
}

fn restore_leases(house: &House, core: &Arc<ServiceCore>, leases: Vec<Stored>) -> Result<(), StoreError> {
    let now = house.link.clock.now();
    let terms = Terms::of(&core.policy());
    let mut generations: Vec<(u64, Vec<RecoveredLease>)> = Vec::new();
    let mut claimed = Vec::new();
    for Stored { generation, slot, client, claimed_at, open, subjects, run } in leases {
        claimed.extend(open.places().filter_map(|place| Some((subjects.get(place)?.rank, claimed_at))));
        let seat = house.people.client(client).and_then(|client| house.people.seat_of(&client, core.id));
        // Left out, its subjects would be handed out again while the store keeps the lease.
        let ownerless = || StoreError::Corrupted { what: format!("a lease of client {client}, who has no seat") };
        let seat = seat.ok_or_else(ownerless)?;
        seat.adopt(1, now);
        let claimed_at = claimed_at.min(now);
        let lease = RecoveredLease { slot, owner: seat.index, claimed_at, open, subjects, run };
        match generations.last_mut() {
            Some((last, leases)) if *last == generation => leases.push(lease),
            _ => generations.push((generation, vec![lease])),
        }
    }
    let mut leased_at: HashMap<u64, u64> = HashMap::new();
    // Held by two leases: urgent, or urgent until they were deleted or withdrawn.
    let mut twice = HashSet::new();
    for (rank, at) in claimed {
        if let Some(other) = leased_at.insert(rank, at) {
            leased_at.insert(rank, at.max(other));
            twice.insert(rank);
        }
    }
    let owed = generations.iter().flat_map(|(_, leases)| leases).flat_map(|lease| {
        let open = lease.open;
        lease.subjects.iter().enumerate().filter(move |(place, _)| open.has(*place)).map(|(_, subject)| subject.rank)
    });
    core.leased_before.store(Some(Arc::new(owed.collect())));
    let marks: HashMap<u64, u64> =
        apply::urgent(house.disk.store(Role::Opening).as_ref(), core.id)?.into_iter().collect();
    // Leased after it was marked, it need not be offered again.
    let (served, waiting) = marks
        .iter()
        .partition::<Vec<_>, _>(|(rank, marked)| leased_at.get(rank).is_some_and(|leased| leased >= *marked));
    let ranks = |of: Vec<(&u64, &u64)>| of.into_iter().map(|(rank, _)| *rank).collect();
    core.urgent_before.store(Some(Arc::new(UrgentBefore { served: ranks(served), waiting: ranks(waiting) })));
    // Where such a subject is held already.
    let mut held: HashMap<u64, Spot> = HashMap::new();
    for (generation, leases) in generations {
        let born = leases.iter().map(|lease| lease.claimed_at).min().unwrap_or(now);
        let birth = Birth { service: core.id, generation, born, terms };
        let pool = Pool::recover(birth, leases, now, |rank| held.get(&rank).cloned(), &house.link.secret);
        let pool = Arc::new(pool);
        let spots = pool.spots(&twice);
        held.extend(spots.into_iter().filter(|(_, spot)| spot.is_responsible()));
        core.add_live(pool);
    }
    Ok(())
}

/// Those of some subjects that are owed and have a name, as their blocks hold them. Reads each block once.
pub(crate) fn pick(
    store: &dyn Store,
    service: u32,
    ranks: &BTreeSet<u64>,
) -> Result<HashMap<u64, SubjectBuf>, StoreError> {
    let mut found = HashMap::with_capacity(ranks.len());
    let mut from = 0;
    while let Some(rank) = ranks.range(from..).next() {
        let Some((first, owed)) = apply::owed_block(store, service, *rank)? else {
            from = rank.saturating_add(1);
            continue;
        };
        from = first.saturating_add(u64::from(owed.len));
        let block = store.get(&key::of(service, key::BLOCK, &first.to_be_bytes()))?.unwrap_or_default();
        for (place, item) in record::list::<BlockItem<'_>>("block", &block).enumerate() {
            let (rank, item) = (first + place as u64, stored(item)?);
            let BlockItem { depth, round, key, deadline, body, .. } = item;
            if ranks.contains(&rank) && owed.has(place as u64) && !key.is_empty() {
                let subject = SubjectRef { rank, depth, round, since: owed.since, key, body };
                found.insert(rank, SubjectBuf::new(subject).until(deadline));
            }
        }
    }
    Ok(found)
}

/// Blocks of pending subjects, read once each.
#[derive(Default)]
pub(crate) struct Blocks {
    read: BTreeMap<u64, Block>,
}

/// A block: what is owed of it, and its subjects.
struct Block {
    owed: Owed,
    subjects: Vec<SubjectBuf>,
}

impl Blocks {
    /// The subject of a rank. One whose block is finished and gone was reported: it keeps its place, under no name.
    pub(crate) fn subject(&mut self, store: &dyn Store, service: u32, rank: u64) -> Result<SubjectBuf, StoreError> {
        let found = self.find(store, service, rank)?;
        let subject = found.and_then(|(place, block)| block.subjects.get(usize::try_from(place).ok()?).cloned());
        let nameless = SubjectRef { rank, depth: 0, round: 0, since: 0, key: &[], body: &[] };
        Ok(subject.unwrap_or_else(|| SubjectBuf::new(nameless)))
    }

    /// True if the store owed a rank when its block was read.
    fn is_owed(&mut self, store: &dyn Store, service: u32, rank: u64) -> Result<bool, StoreError> {
        Ok(self.find(store, service, rank)?.is_some_and(|(place, block)| block.owed.has(place)))
    }

    /// The block of a rank, and its place there.
    fn find(&mut self, store: &dyn Store, service: u32, rank: u64) -> Result<Option<(u64, &Block)>, StoreError> {
        let known = self.read.range(..=rank).next_back().filter(|(first, block)| block.owed.holds(**first, rank));
        let first = if let Some((first, _)) = known {
            *first
        } else {
            let Some((first, owed)) = apply::owed_block(store, service, rank)? else { return Ok(None) };
            self.read.insert(first, Block::read(store, service, first, owed)?);
            first
        };
        Ok(self.read.get(&first).map(|block| (rank - first, block)))
    }
}

impl Block {
    fn read(store: &dyn Store, service: u32, first: u64, owed: Owed) -> Result<Self, StoreError> {
        let since = owed.since;
        let block = store.get(&key::of(service, key::BLOCK, &first.to_be_bytes()))?.unwrap_or_default();
        let mut subjects = Vec::new();
        for (place, item) in record::list::<BlockItem<'_>>("block", &block).enumerate() {
            let BlockItem { depth, round, key, deadline, body, .. } = stored(item)?;
            let rank = first + place as u64;
            subjects.push(SubjectBuf::new(SubjectRef { rank, depth, round, since, key, body }).until(deadline));
        }
        Ok(Self { owed, subjects })
    }
}
