//! The hub: services, clients, statistics, and the two caretaker threads.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use crate::apply::{self, FinishedLease, stored};
use crate::builder::{Builder, OpenReport};
use crate::client::{Client, Registered, Registration, SeatCore};
use crate::error::{
    AddError, AdminError, DeregisterError, DetailError, OpenError, ReadError, RegisterClientError,
    RegisterServiceError, StoreError,
};
use crate::house::House;
use crate::id::{ClientId, check_service_id};
use crate::intake;
use crate::json::NamedService;
use crate::limits::Limits;
use crate::pool::{Birth, Pool, RecoveredLease, SubjectBuf, SubjectRef, Terms};
use crate::record::{self, BlockItem, Owed, SeatState, SeatValue, ServiceTally, key};
use crate::registry::ServiceCore;
use crate::results::{self, Finding, SubjectState};
use crate::service::{Policy, Service, ServiceState, Subject};
use crate::slot::Cause;
use crate::stats::{self, ClientStats, HubStats, SeatStats, ServiceStats};
use crate::store::Store;
use crate::sync::{Arc, Ordering};
use crate::ticket::{Intake, Ticket};

/// A hub: the shop. Cloning clones the handle; the hub is closed when the last handle is dropped.
///
/// # Concurrency
///
/// All methods can be called from any thread.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("services", &self.inner.house.registry.all().len()).finish_non_exhaustive()
    }
}

struct Inner {
    house: Arc<House>,
    report: OpenReport,
    /// A named exception to "no lock": taken once, by whoever closes the hub.
    threads: Mutex<Option<Threads>>,
}

/// The caretakers' threads.
#[derive(Debug)]
pub(crate) struct Threads {
    pub(crate) writer: JoinHandle<Result<(), String>>,
    pub(crate) steward: JoinHandle<()>,
}

/// How a hub ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("closing: {what}")]
pub struct CloseError {
    what: String,
}

impl Inner {
    fn close(&self) -> Result<(), CloseError> {
        let house = &self.house;
        house.link.close();
        house.registry.all().iter().for_each(|service| service.notify());
        house.link.writer.raise();
        house.link.steward.raise();
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = if let Some(Threads { writer, steward }) = threads {
            let steward = steward.join().map_err(|_| "the steward panicked".to_owned());
            let writer = writer.join().unwrap_or_else(|_| Err("the writer panicked".to_owned()));
            steward.and(writer)
        } else if let Some(mut caretakers) = house.dismiss() {
            caretakers.writer.finish()
        } else {
            Ok(())
        };
        ended.map_err(|what| CloseError { what })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "hub dropped");
        }
    }
}

impl Hub {
    pub(crate) fn new(house: Arc<House>, report: OpenReport, threads: Option<Threads>) -> Self {
        Self { inner: Arc::new(Inner { house, report, threads: Mutex::new(threads) }) }
    }

    /// Opens the hub that lives in a directory, with the defaults; makes it if there is none.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::builder().open(directory)
    }

    /// Sets options before opening.
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn house(&self) -> &Arc<House> {
        &self.inner.house
    }

    /// What opening found and did.
    #[must_use]
    pub fn open_report(&self) -> &OpenReport {
        &self.inner.report
    }

    /// The hard limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.house().link.limits
    }

    /// Registers a service, while others serve. Registering one that is registered gives its handle again; one that was
    /// registered before a restart goes on where it was: an administrator's pause or revocation stays.
    ///
    /// Reads what the store holds of it on the calling thread.
    ///
    /// # Errors
    ///
    /// [`RegisterServiceError`]; nothing was changed.
    pub fn register<S: Service>(&self, plugin: S) -> Result<ServiceHandle<S>, RegisterServiceError> {
        let house = self.house();
        house.link.check()?;
        let name = plugin.id().to_owned();
        if !check_service_id(&name) {
            return Err(RegisterServiceError::Id { id: name });
        }
        let policy = plugin.policy();
        policy.check().map_err(|(field, range)| RegisterServiceError::Policy {
            service: name.clone(),
            field,
            range,
        })?;
        let mut services = house.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let plugin: Arc<dyn crate::json::Plugin> = Arc::new(plugin);
        if let Some(core) = house.registry.by_name(&name) {
            if core.plugin.plugin_type() != plugin.plugin_type() {
                return Err(RegisterServiceError::OtherType { service: name });
            }
            return Ok(ServiceHandle::new(house, core));
        }
        let limit = house.link.limits.services;
        if house.registry.all().len() >= limit as usize {
            return Err(RegisterServiceError::TooMany { limit });
        }
        let known = services.stored.iter().find(|(_, value)| value.name == name).cloned();
        let max_subjects = policy.max_subjects;
        let (id, state) =
            known.as_ref().map_or((services.next, ServiceState::Active), |(id, value)| (*id, value.state));
        let core = Arc::new(ServiceCore::new(id, &name, state, policy, plugin, Arc::clone(&house.link)));
        let journal_needed = known.as_ref().is_none_or(|(_, value)| value.max_subjects != max_subjects);
        // Room first: restoring makes seats.
        let room = if journal_needed { Some(house.room_for_service(&core)?) } else { None };
        match &known {
            Some(_) => {
                restore(house, &core).inspect_err(|_| room.into_iter().for_each(|room| house.link.give_back(room)))?;
            }
            None => services.next += 1,
        }
        if let Some(room) = room {
            drop(house.send_service(&core, room));
        }
        house.registry.insert(&core);
        house.link.steward.raise();
        tracing::info!(service = %core.name, id, %state, "service registered");
        Ok(ServiceHandle::new(house, core))
    }

    /// Finds a service by name. Wait-free.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<NamedService> {
        let core = self.house().registry.by_name(name)?;
        Some(NamedService::new(Arc::clone(self.house()), core))
    }

    /// Where a service is in its life, or `None` if none of that name is registered. Needs no registration; a hint, each
    /// call looks again. Wait-free.
    #[must_use]
    pub fn service_state(&self, name: &str) -> Option<ServiceState> {
        Some(self.house().registry.by_name(name)?.state())
    }

    /// Registers a client. Registering again succeeds and changes nothing for anyone.
    ///
    /// # Errors
    ///
    /// [`RegisterClientError`]; nothing was changed.
    pub fn register_client(&self, registration: &Registration) -> Result<Registered, RegisterClientError> {
        Client::register(self.house(), registration)
    }

    /// The handle of a known client, registered or not.
    #[must_use]
    pub fn client(&self, id: u64) -> Option<Client> {
        Client::known(self.house(), id)
    }

    /// Deregisters a client by its details, as [`Client::deregister`].
    ///
    /// # Errors
    ///
    /// [`DeregisterError`]; nobody's state was changed.
    pub fn deregister_client(&self, id: u64, name: &str) -> Result<Ticket, DeregisterError> {
        self.house().link.check()?;
        let Some(client) = self.client(id) else {
            self.house().people.refused.not_registered.add(1);
            return Err(DeregisterError::NotRegistered { id });
        };
        if client.name() != name {
            self.house().people.refused.invalid.add(1);
            return Err(DetailError::OtherName { id }.into());
        }
        client.deregister()
    }

    /// Every count of the hub.
    #[must_use]
    pub fn stats(&self) -> HubStats {
        stats::of_hub(self.house())
    }

    /// Every count of one client.
    #[must_use]
    pub fn client_stats(&self, id: u64) -> Option<ClientStats> {
        let client = self.house().people.client(id)?;
        Some(stats::of_client(self.house(), &client))
    }

    /// Does the caretakers' work, once, in a manual hub: journals, applies, marks, releases, forms pools, until there is
    /// nothing left to do at this time. In a hub with threads it does nothing.
    pub fn tick(&self) {
        self.house().tick();
    }

    /// The same as the error that new work would get.
    ///
    /// # Errors
    ///
    /// [`HubError`](crate::HubError) if the hub is poisoned or closed.
    pub fn health(&self) -> Result<(), crate::error::HubError> {
        self.house().link.check()
    }

    /// Closes the hub, for all handles: journals and syncs what waits, makes the store durable, joins the threads. Leases
    /// stay with their holders: they go on when the hub is opened again. Closing again does nothing.
    ///
    /// # Errors
    ///
    /// [`CloseError`] if something could not be written; reopening recovers.
    pub fn close(&self) -> Result<(), CloseError> {
        self.inner.close()
    }
}

/// Brings a service's counts, seats and leases back from the store.
fn restore(house: &House, core: &Arc<ServiceCore>) -> Result<(), RegisterServiceError> {
    let store = house.store.as_ref();
    let tally = store.get(&key::of(core.id, key::TALLY, &[]))?;
    let tally: Option<ServiceTally> = tally.map(|bytes| stored(record::decode("tally", &bytes))).transpose()?;
    core.counts.publish(tally.unwrap_or_default());
    let mut seats = Vec::new();
    apply::each(store, core.id, key::SEAT, |rest, value| {
        if let Some(client) = key::number(rest) {
            seats.push((client, stored(record::decode::<SeatValue>("seat", value))?));
        }
        Ok(())
    })?;
    for (client, mut value) in seats {
        let Some(client) = house.people.client(client) else { continue };
        if value.state == SeatState::Active && !client.is_registered() {
            value.state = SeatState::Inactive;
        }
        let seat = house.people.seat(&client, core, value);
        if seat.is_ok_and(|seat| seat.state() == SeatState::Active) {
            // ordering: Relaxed; sizes the next pool.
            core.active_seats.fetch_add(1, Ordering::Relaxed);
        }
    }
    restore_leases(house, core)?;
    Ok(())
}

fn restore_leases(house: &House, core: &Arc<ServiceCore>) -> Result<(), StoreError> {
    let store = house.store.as_ref();
    let now = house.link.clock.now();
    let terms = Terms::of(&core.policy());
    let mut blocks = Blocks::default();
    let mut generations: Vec<(u64, Vec<RecoveredLease>)> = Vec::new();
    for (generation, slot, lease) in apply::leases(store, core.id)? {
        let client = house.people.client(lease.client);
        let Some(seat) = client.and_then(|client| house.people.seat_of(&client, core.id)) else { continue };
        seat.adopt(1, now);
        // A full term from now: the time down is not the holder's fault. Spread by up to an eighth, so that the holders
        // who do not come back are not missed all at once.
        let spread = house.link.secret.scramble(&[generation.to_be_bytes().as_slice(), &slot.to_be_bytes()].concat());
        let deadline = now + terms.lease_ms + spread % (terms.lease_ms / 8).max(1);
        let open = lease.open();
        let subjects = lease.ranks.iter().map(|rank| blocks.subject(store, core.id, *rank));
        let subjects = subjects.collect::<Result<Vec<_>, _>>()?;
        let lease = RecoveredLease { slot, owner: seat.index, deadline, open, subjects };
        match generations.last_mut() {
            Some((last, leases)) if *last == generation => leases.push(lease),
            _ => generations.push((generation, vec![lease])),
        }
    }
    let owed = generations.iter().flat_map(|(_, leases)| leases).flat_map(|lease| {
        let open = lease.open;
        lease.subjects.iter().enumerate().filter(move |(place, _)| open.has(*place)).map(|(_, subject)| subject.rank)
    });
    core.leased_before.store(Some(Arc::new(owed.collect())));
    for (generation, leases) in generations {
        let birth = Birth { service: core.id, generation, born: now, terms };
        core.add_live(Arc::new(Pool::recover(birth, &leases, &house.link.secret)));
    }
    Ok(())
}

/// Blocks of pending subjects, read once each.
#[derive(Default)]
struct Blocks {
    read: std::collections::BTreeMap<u64, Vec<SubjectBuf>>,
}

impl Blocks {
    /// The subject of a rank. One whose block is finished and gone was reported: it keeps its place, under no name.
    fn subject(&mut self, store: &dyn Store, service: u32, rank: u64) -> Result<SubjectBuf, StoreError> {
        if let Some(subject) = self.cached(rank) {
            return Ok(subject);
        }
        let start = key::of(service, key::OWED, &[]);
        let found = store.last(&start, &key::of(service, key::OWED, &rank.to_be_bytes()))?;
        if let Some((name, owed)) = found {
            let first = key::number(key::rest(&name)).unwrap_or(0);
            let _: Owed = stored(record::decode("block state", &owed))?;
            let block = store.get(&key::of(service, key::BLOCK, &first.to_be_bytes()))?.unwrap_or_default();
            let mut subjects = Vec::new();
            for (place, item) in record::list::<BlockItem<'_>>("block", &block).enumerate() {
                let BlockItem { depth, key, body } = stored(item)?;
                subjects.push(SubjectBuf::new(SubjectRef { rank: first + place as u64, depth, key, body }));
            }
            self.read.insert(first, subjects);
        }
        Ok(self.cached(rank).unwrap_or_else(|| SubjectBuf::new(SubjectRef { rank, depth: 0, key: &[], body: &[] })))
    }

    fn cached(&self, rank: u64) -> Option<SubjectBuf> {
        let (first, subjects) = self.read.range(..=rank).next_back()?;
        subjects.get(usize::try_from(rank - first).ok()?).cloned()
    }
}

/// How a service is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoke {
    /// Finished work is taken until each lease's natural end.
    Drain,
    /// Finished work is not taken either: what is held is put back at once.
    Immediate,
}

/// One lease that took, or is taking, long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SlowBucket {
    /// Who holds or held it.
    pub client: ClientId,
    /// How long it took, or has taken so far.
    pub took: Duration,
    /// It is held still.
    pub held: bool,
    /// Why it was put back, if it was.
    pub put_back: Option<Cause>,
    /// The pool's generation and the slot, as the journal names them.
    pub bucket: (u64, u32),
}

/// A registered service. Cloning clones the handle.
///
/// # Concurrency
///
/// All methods can be called from any thread. Reads of results touch the store, and so may touch the disk; they never
/// hold anyone up.
pub struct ServiceHandle<S: Service> {
    house: Arc<House>,
    core: Arc<ServiceCore>,
    service: PhantomData<fn() -> S>,
}

impl<S: Service> Clone for ServiceHandle<S> {
    fn clone(&self) -> Self {
        Self::new(&self.house, Arc::clone(&self.core))
    }
}

impl<S: Service> fmt::Debug for ServiceHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServiceHandle").field(&self.core.name).finish()
    }
}

/// The key type of a service's subjects.
pub type KeyOf<S> = <<S as Service>::Subject as Subject>::Key;

impl<S: Service> ServiceHandle<S> {
    fn new(house: &Arc<House>, core: Arc<ServiceCore>) -> Self {
        Self { house: Arc::clone(house), core, service: PhantomData }
    }

    pub(crate) fn core(&self) -> &Arc<ServiceCore> {
        &self.core
    }

    /// The service's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.core.name
    }

    /// Takes in one subject. One that is known already changes nothing; the ticket's [`Intake`] tells.
    ///
    /// # Errors
    ///
    /// [`AddError`]; nothing was taken in.
    pub fn add(&self, subject: &S::Subject) -> Result<Ticket, AddError> {
        intake::send(&self.core, std::slice::from_ref(subject))
    }

    /// Takes in any number of subjects, in their order, and returns when reads see all of them.
    ///
    /// Parks the calling thread while the queue is full or the last subjects are on their way; memory is bounded by the
    /// queue. In a manual hub it does the writer's work itself.
    ///
    /// # Errors
    ///
    /// [`AddError`] says how many were taken in before.
    pub fn add_all(&self, subjects: impl IntoIterator<Item = S::Subject>) -> Result<Intake, AddError> {
        intake::send_all(&self.house, &self.core, subjects)
    }

    /// The result of a subject, if it has one.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn result(&self, key: &KeyOf<S>) -> Result<Option<Finding<S>>, ReadError> {
        results::one(self.house.store.as_ref(), self.core.id, key)
    }

    /// The stored bytes of a subject's report (postcard), for when the plugin's type has changed.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn result_raw(&self, key: &KeyOf<S>) -> Result<Option<Vec<u8>>, ReadError> {
        results::raw::<S>(self.house.store.as_ref(), self.core.id, key)
    }

    /// Up to `limit` results after `after` (from the start, if `None`), in key order, and the key to go on from; `None`
    /// at the end. Weakly consistent: what is reported during a walk may be there or not.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    #[expect(clippy::type_complexity, reason = "a page and its cursor")]
    pub fn results(
        &self,
        after: Option<&KeyOf<S>>,
        limit: usize,
    ) -> Result<(Vec<Finding<S>>, Option<KeyOf<S>>), ReadError> {
        results::page(self.house.store.as_ref(), self.core.id, after, limit)
    }

    /// What is known of a subject.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn subject_state(&self, key: &KeyOf<S>) -> Result<SubjectState, ReadError> {
        results::state::<S>(self.house.store.as_ref(), self.core.id, key)
    }

    /// Where the service is in its life.
    #[must_use]
    pub fn state(&self) -> ServiceState {
        self.core.state()
    }

    /// Every count of the service.
    #[must_use]
    pub fn stats(&self) -> ServiceStats {
        stats::of_service(&self.house, &self.core)
    }

    /// Every count of one client's seat; `None` if it was never activated.
    #[must_use]
    pub fn seat_stats(&self, client: u64) -> Option<SeatStats> {
        Some(stats::of_seat(self.seat_core(client)?.as_ref()))
    }

    fn seat_core(&self, client: u64) -> Option<Arc<SeatCore>> {
        let client = self.house.people.client(client)?;
        self.house.people.seat_of(&client, self.core.id)
    }

    /// The settings in force.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy::clone(&self.core.policy())
    }

    /// Changes the settings: they hold for the pools formed from now on, never for buckets and leases already given.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; nothing was changed.
    pub fn set_policy(&self, policy: Policy) -> Result<(), AdminError> {
        policy.check().map_err(|(field, range)| AdminError::Policy { field, range })?;
        self.house.link.check()?;
        let journal = policy.max_subjects != self.core.policy().max_subjects;
        let room = if journal { Some(self.house.room_for_service(&self.core)?) } else { None };
        self.core.set_policy(policy);
        if let Some(room) = room {
            drop(self.house.send_service(&self.core, room));
        }
        self.house.link.steward.raise();
        Ok(())
    }

    /// Stops the forming of buckets; those formed are handed out. Stays until [`activate`](Self::activate), also when
    /// the owner registers the service again.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; nothing was changed.
    pub fn pause(&self) -> Result<Ticket, AdminError> {
        self.change(ServiceState::Paused)
    }

    /// Revokes the service: from here on nothing is handed out. Everything known about it stays readable.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; nothing was changed.
    ///
    /// # Concurrency
    ///
    /// A claim that races with it is wholly before it, or is undone and refused.
    pub fn revoke(&self, how: Revoke) -> Result<Ticket, AdminError> {
        match how {
            Revoke::Drain => self.change(ServiceState::Draining),
            Revoke::Immediate => {
                let ticket = self.change(ServiceState::Revoked)?;
                for (_, seat) in self.house.people.seats.iter().filter(|(_, seat)| seat.service.id == self.core.id) {
                    seat.end_all(Cause::Revoked);
                }
                Ok(ticket)
            }
        }
    }

    /// Makes a paused, revoked or degraded service ready again.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; nothing was changed.
    pub fn activate(&self) -> Result<Ticket, AdminError> {
        self.core.forget_panics();
        self.change(ServiceState::Active)
    }

    fn change(&self, state: ServiceState) -> Result<Ticket, AdminError> {
        self.house.link.check()?;
        // Room first: a change that could not be journaled does not happen, not even for a moment.
        let room = self.house.room_for_service(&self.core)?;
        let before = self.core.set_state(state);
        let ticket = self.house.send_service(&self.core, room);
        tracing::info!(service = %self.core.name, %before, %state, "service state changed");
        self.house.link.steward.raise();
        Ok(ticket)
    }

    /// Bars a client from this service: what it holds is put back, and its own activation cannot undo it. Survives a
    /// restart.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; nothing was changed.
    pub fn suspend(&self, client: u64) -> Result<Ticket, AdminError> {
        let (seat, ticket) = self.bar(client, SeatState::Suspended)?;
        seat.set_suspended(true);
        seat.end_all(Cause::Revoked);
        Ok(ticket)
    }

    /// Lifts the bar from a suspended client. It must activate again. Changes nothing if there was no bar.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; nothing was changed.
    pub fn reinstate(&self, client: u64) -> Result<Ticket, AdminError> {
        match self.seat_core(client) {
            Some(seat) if seat.state() == SeatState::Suspended => {}
            Some(_) => return Ok(Ticket::nothing()),
            None => return Err(AdminError::UnknownClient { id: client }),
        }
        let (seat, ticket) = self.bar(client, SeatState::Inactive)?;
        seat.set_suspended(false);
        Ok(ticket)
    }

    /// Journals an administrator's decision on a seat.
    fn bar(&self, client: u64, state: SeatState) -> Result<(Arc<SeatCore>, Ticket), AdminError> {
        self.house.link.check()?;
        let unknown = AdminError::UnknownClient { id: client };
        let Some(core) = self.house.people.client(client) else { return Err(unknown) };
        let value = SeatValue { state: SeatState::Inactive, tally: record::SeatTally::default() };
        let Ok(seat) = self.house.people.seat(&core, &self.core, value) else { return Err(unknown) };
        let change = crate::commit::Change::Seat { service: self.core.id, client, state };
        let ticket = self.house.link.send(change, 0)?;
        tracing::info!(client, service = %self.core.name, ?state, "seat state set by an administrator");
        Ok((seat, ticket))
    }

    /// Leases that took longer than `threshold`, or have so far: those held now, then the slowest of the finished ones
    /// since the hub was opened (at most `Limits::slow_leases`), slowest first.
    #[must_use]
    pub fn slow_buckets(&self, threshold: Duration) -> Vec<SlowBucket> {
        let now = self.core.link.clock.now();
        let mut slow = Vec::new();
        for pool in self.core.live().iter() {
            for (index, slot) in pool.slots().iter().enumerate().take(pool.passed()) {
                let seen = slot.snapshot();
                let Some(seat) = self.house.people.seats.get(seen.owner() as usize) else { continue };
                if !seen.is_held() {
                    continue;
                }
                // The word holds the deadline, or when the steward saw it pass, and no more: a renewed lease counts from
                // its last renewal, a dead one from a lease's time before its death.
                let began = (pool.born + seen.time()).saturating_sub(pool.terms.lease_ms);
                let took = Duration::from_millis(now.saturating_sub(began));
                if took > threshold {
                    let bucket = (pool.generation, pool.number(index));
                    slow.push(SlowBucket { client: seat.client.id, took, held: true, put_back: None, bucket });
                }
            }
        }
        let finished = self.core.slow.load();
        slow.extend(finished.iter().map(finished_bucket).filter(|lease| lease.took > threshold));
        slow
    }
}

fn finished_bucket(lease: &FinishedLease) -> SlowBucket {
    SlowBucket {
        client: ClientId::known(lease.client),
        took: Duration::from_millis(lease.ended_at.saturating_sub(lease.claimed_at)),
        held: false,
        put_back: lease.put_back,
        bucket: (lease.generation, lease.slot),
    }
}
