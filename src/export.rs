//! The whole graph, written out for people and tools: hub, services, pools, leases, clients and their seats.
//!
//! One walk for every format. It collects nothing: clients come from the store page by page, everything else is read
//! where it is, word by word, while all of it goes on changing.

mod dot;
mod json;

use std::io::{self, BufWriter, Write};

use chrono::{DateTime, Utc};
use serde::Serialize;

use self::dot::Dot;
use self::json::Json;
use crate::apply::{self, stored};
use crate::clock::utc;
use crate::error::{ExportError, HubError, StoreError};
use crate::house::House;
use crate::id::ClientId;
use crate::people::{ClientCore, SeatCore, idle_for};
use crate::pool::Pool;
use crate::record::{self, ClientValue, SeatState, ServiceTally, key};
use crate::registry::ServiceCore;
use crate::service::ServiceState;
use crate::slot::Phase;
use crate::sync::Ordering;
use crate::watch::Level;

/// Bytes gathered before they are given to the caller's writer.
const BUFFER: usize = 64 << 10;

#[derive(Debug, Serialize)]
struct HubNode {
    /// open, poisoned or closed
    state: &'static str,
    boots: u32,
    at: DateTime<Utc>,
    hub_ms: u64,
    journal_end: u64,
    clients: u64,
    seats: u64,
    queued_bytes: u64,
}

#[derive(Debug, Serialize)]
struct ServiceNode<'a> {
    number: u32,
    id: &'a str,
    state: ServiceState,
    /// A plugin is registered for it.
    registered: bool,
    active_seats: u32,
}

#[derive(Debug, Serialize)]
struct PoolNode {
    generation: u64,
    /// Hub time.
    born_ms: u64,
    /// Claims are served from it, or will be next.
    serving: bool,
    buckets: u64,
    ready: u64,
    held: u64,
    over: u64,
}

#[derive(Debug, Serialize)]
struct LeaseNode {
    bucket: (u64, u32),
    client: ClientId,
    subjects: u64,
    owed: u64,
    /// The deadline passed: only reports are taken, until the grace is over.
    dead: bool,
    /// The deadline; of a dead lease, the end of its grace.
    until: DateTime<Utc>,
    /// The same in hub time.
    until_ms: u64,
}

/// Known is done, leased and waiting together; a subject that two leases hold counts twice as leased.
#[derive(Debug, Serialize)]
struct SubjectsNode {
    known: u64,
    done: u64,
    leased: u64,
    waiting: u64,
    /// Known but not to be worked on; not among those known.
    unmarked: u64,
}

#[derive(Debug, Serialize)]
struct ClientNode<'a> {
    id: ClientId,
    name: &'a str,
    registered: bool,
    first_registered: DateTime<Utc>,
    last_registered: DateTime<Utc>,
    seats: Vec<SeatNode<'a>>,
}

#[derive(Debug, Serialize)]
struct SeatNode<'a> {
    #[serde(skip)]
    number: u32,
    service: &'a str,
    state: SeatState,
    level: Level,
    leases: u32,
    idle_ms: u64,
    buckets_assigned: u64,
    buckets_processed: u64,
    buckets_put_back: u64,
    subjects_assigned: u64,
    subjects_reported: u64,
    subjects_put_back: u64,
}

/// A format. Called in the order of the walk: the hub, then each service (its pools, its leases, its subjects), then each
/// client.
trait Sink {
    fn hub(&mut self, hub: &HubNode) -> io::Result<()>;
    fn service(&mut self, service: &ServiceNode<'_>) -> io::Result<()>;
    fn pool(&mut self, service: u32, pool: &PoolNode) -> io::Result<()>;
    fn leases(&mut self) -> io::Result<()>;
    fn lease(&mut self, service: u32, lease: &LeaseNode) -> io::Result<()>;
    fn subjects(&mut self, service: u32, subjects: &SubjectsNode) -> io::Result<()>;
    fn clients(&mut self) -> io::Result<()>;
    fn client(&mut self, client: &ClientNode<'_>) -> io::Result<()>;
    fn end(&mut self) -> io::Result<()>;
}

/// Writes the graph as JSON.
pub(crate) fn json(house: &House, boots: u32, out: &mut dyn Write) -> Result<(), ExportError> {
    let mut out = BufWriter::with_capacity(BUFFER, out);
    walk(house, boots, &mut Json::new(&mut out))?;
    Ok(out.flush()?)
}

/// Writes the graph in the DOT language.
pub(crate) fn dot(house: &House, boots: u32, out: &mut dyn Write) -> Result<(), ExportError> {
    let mut out = BufWriter::with_capacity(BUFFER, out);
    walk(house, boots, &mut Dot::new(&mut out))?;
    Ok(out.flush()?)
}

fn walk(house: &House, boots: u32, sink: &mut dyn Sink) -> Result<(), ExportError> {
    sink.hub(&hub_node(house, boots))?;
    let registered = house.registry.all();
    for core in &registered {
        service(house, core, sink)?;
    }
    let mut known: Vec<(u32, record::ServiceValue)> = house.stored_services();
    known.retain(|(number, _)| registered.iter().all(|core| core.id != *number));
    for (number, value) in known {
        let tally = tally(house, number)?;
        let node = ServiceNode { number, id: &value.name, state: value.state, registered: false, active_seats: 0 };
        sink.service(&node)?;
        sink.leases()?;
        sink.subjects(number, &subjects(tally.known, tally.done, 0, tally.unmarked))?;
    }
    sink.clients()?;
    clients(house, sink)?;
    Ok(sink.end()?)
}

fn hub_node(house: &House, boots: u32) -> HubNode {
    let (link, people) = (&house.link, &house.people);
    let state = match link.check() {
        Ok(()) => "open",
        Err(HubError::Closed) => "closed",
        Err(_) => "poisoned",
    };
    HubNode {
        state,
        boots,
        at: utc(link.clock.wall_ms()),
        hub_ms: link.clock.now(),
        journal_end: house.tail.end(),
        clients: people.clients.len() as u64,
        seats: people.seats.count() as u64,
        queued_bytes: link.queued_bytes(),
    }
}

fn service(house: &House, core: &ServiceCore, sink: &mut dyn Sink) -> Result<(), ExportError> {
    // ordering: Relaxed; a statistic.
    let active_seats = core.active_seats.load(Ordering::Relaxed);
    let node = ServiceNode { number: core.id, id: &core.name, state: core.state(), registered: true, active_seats };
    sink.service(&node)?;
    let live = core.live();
    for pool in live.iter() {
        sink.pool(core.id, &pool_node(pool, core.is_serving(pool)))?;
    }
    sink.leases()?;
    let mut leased = 0;
    for pool in live.iter() {
        for (index, _) in pool.passed() {
            if let Some(lease) = lease(house, pool, index) {
                leased += lease.owed;
                sink.lease(core.id, &lease)?;
            }
        }
    }
    let counts = &core.counts;
    Ok(sink.subjects(core.id, &subjects(counts.known.value(), counts.done.value(), leased, counts.unmarked.value()))?)
}

fn subjects(known: u64, done: u64, leased: u64, unmarked: u64) -> SubjectsNode {
    SubjectsNode { known, done, leased, waiting: known.saturating_sub(done).saturating_sub(leased), unmarked }
}

fn pool_node(pool: &Pool, serving: bool) -> PoolNode {
    let (mut ready, mut held, mut over) = (0, 0, 0);
    for slot in pool.slots() {
        match slot.snapshot().phase() {
            Phase::Ready => ready += 1,
            Phase::Leased | Phase::Dead => held += 1,
            Phase::Released | Phase::Done => over += 1,
        }
    }
    let buckets = pool.slots().len() as u64;
    PoolNode { generation: pool.generation, born_ms: pool.born, serving, buckets, ready, held, over }
}

fn lease(house: &House, pool: &Pool, index: usize) -> Option<LeaseNode> {
    let slot = pool.slot(index)?;
    let seen = slot.snapshot();
    if !seen.is_held() {
        return None;
    }
    let dead = seen.phase() == Phase::Dead;
    let grace = if dead { pool.terms.grace_ms } else { 0 };
    let until_ms = pool.born.saturating_add(seen.time()).saturating_add(grace);
    Some(LeaseNode {
        bucket: (pool.generation, pool.number(index)),
        client: house.people.seats.get(seen.owner() as usize)?.client.id,
        subjects: slot.len() as u64,
        owed: u64::from(slot.open().count()),
        dead,
        until: utc(house.link.clock.wall_at(until_ms)),
        until_ms,
    })
}

fn tally(house: &House, service: u32) -> Result<ServiceTally, StoreError> {
    let bytes = house.store.get(&key::of(service, key::TALLY, &[]))?;
    bytes.map_or_else(|| Ok(ServiceTally::default()), |bytes| stored(record::decode("tally", &bytes)))
}

/// Every client the store knows, in the order of their ids.
fn clients(house: &House, sink: &mut dyn Sink) -> Result<(), ExportError> {
    for pair in apply::pairs(house.store.as_ref(), 0, key::CLIENT) {
        let (name, value) = pair?;
        let Some(id) = key::number(key::rest(&name)) else { continue };
        match house.people.client(id) {
            Some(core) => known_client(house, &core, sink)?,
            None => stored_client(id, &value, sink)?,
        }
    }
    Ok(())
}

fn known_client(house: &House, core: &ClientCore, sink: &mut dyn Sink) -> io::Result<()> {
    let seats = house.people.seats_of(core);
    let now = house.link.clock.now();
    // ordering: Relaxed; a statistic.
    let last = core.last_wall_ms.load(Ordering::Relaxed).cast_signed();
    sink.client(&ClientNode {
        id: core.id,
        name: &core.name,
        registered: core.is_registered(),
        first_registered: utc(core.first_wall_ms),
        last_registered: utc(last),
        seats: seats.iter().map(|seat| seat_node(seat, now)).collect(),
    })
}

fn stored_client(id: u64, value: &[u8], sink: &mut dyn Sink) -> Result<(), ExportError> {
    let value: ClientValue = stored(record::decode("client", value))?;
    Ok(sink.client(&ClientNode {
        id: ClientId::known(id),
        name: &value.name,
        registered: value.registered,
        first_registered: utc(value.first_wall_ms),
        last_registered: utc(value.last_wall_ms),
        seats: Vec::new(),
    })?)
}

fn seat_node(seat: &SeatCore, now: u64) -> SeatNode<'_> {
    let counts = &seat.counts;
    SeatNode {
        number: seat.service.id,
        service: &seat.service.name,
        state: seat.state(),
        level: seat.level(),
        leases: seat.leases_held(),
        idle_ms: crate::clock::millis(idle_for(seat, now)),
        buckets_assigned: counts.buckets_assigned(),
        buckets_processed: counts.buckets_processed.value(),
        buckets_put_back: counts.buckets_put_back.value(),
        subjects_assigned: counts.subjects_assigned(),
        subjects_reported: counts.subjects_reported.value(),
        subjects_put_back: counts.subjects_put_back.value(),
    }
}
