//! Clients: registration, activation, deregistration.

use std::fmt;

use crate::commit::{Change, Pending};
use crate::error::{ActivateError, DeregisterError, DetailError, RegisterClientError};
use crate::handle::ServiceHandle;
use crate::house::House;
use crate::id::{ClientId, check_name};
use crate::link::Precedence;
use crate::people::{ClientCore, SeatCore};
use crate::record::{SeatState, SeatValue};
use crate::registry::ServiceCore;
use crate::seat::Seat;
use crate::service::Service;
use crate::slot::Cause;
use crate::sync::{Arc, Ordering, dashmap::Entry};
use crate::ticket::Ticket;

/// Who wants to be registered.
///
/// ```
/// use commissary::Registration;
///
/// let from_a_server = Registration::new(42, "alice").origin(b"192.0.2.7");
/// # let _ = from_a_server;
/// ```
#[derive(Debug, Clone)]
pub struct Registration {
    id: u64,
    name: String,
    origin: Option<Vec<u8>>,
}

impl Registration {
    /// An identity: a non-zero id and a screen name of 1 to 15 of `A-Z a-z 0-9 _`. Checked when it is registered.
    #[must_use]
    pub fn new(id: u64, name: impl Into<String>) -> Self {
        Self { id, name: name.into(), origin: None }
    }

    /// Where the request came from, as the application knows it (an address, an account): new identities are budgeted
    /// per origin. Default: none, only the budget of all newcomers applies.
    #[must_use]
    pub fn origin(mut self, origin: impl AsRef<[u8]>) -> Self {
        self.origin = Some(origin.as_ref().to_vec());
        self
    }
}

/// A registered client, and what registering changed.
#[derive(Debug)]
#[must_use]
pub struct Registered {
    /// The handle.
    pub client: Client,
    /// True if it was not registered before: the first time, or after a deregistration.
    pub new: bool,
    /// Resolves when the registration is durable; at once if nothing changed.
    pub ticket: Ticket,
}

/// Who made an identity.
enum Made {
    Now(Registered),
    Before(Arc<ClientCore>),
}

/// A client: a worker identity. Cloning clones the handle; all handles of one id are the same client.
///
/// # Concurrency
///
/// All methods can be called from any thread. None waits for the disk; registering, activating and deregistering take a
/// short sharded lock (they are cold calls).
#[derive(Clone)]
pub struct Client {
    house: Arc<House>,
    core: Arc<ClientCore>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("id", &self.core.id).field("name", &self.core.name).finish_non_exhaustive()
    }
}

/// What a client can do, as it says itself. It can lower what it is granted, never raise it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// Buckets that it wants in one claim, at most.
    pub buckets_per_claim: u32,
    /// Leases that it wants to hold at a time, at most.
    pub leases_in_flight: u32,
}

impl Default for Capability {
    /// Whatever the policy allows.
    fn default() -> Self {
        Self { buckets_per_claim: u32::MAX, leases_in_flight: u32::MAX }
    }
}

impl Client {
    pub(crate) fn register(house: &Arc<House>, wanted: &Registration) -> Result<Registered, RegisterClientError> {
        let began = house.link.clock.nanos();
        let registered = Self::register_now(house, wanted);
        house.people.registering.record(house.link.clock.nanos().saturating_sub(began));
        registered
    }

    fn register_now(house: &Arc<House>, wanted: &Registration) -> Result<Registered, RegisterClientError> {
        let counted = |error: DetailError| {
            house.people.refused.invalid.add(1);
            RegisterClientError::Detail(error)
        };
        house.link.check()?;
        let id = ClientId::new(wanted.id).map_err(counted)?;
        check_name(&wanted.name).map_err(counted)?;
        let now = house.link.clock.now();
        if let Some(core) = house.people.client(wanted.id) {
            return Self::again(house, core, &wanted.name, now);
        }
        // Room in the queue first: an identity that could not be journaled is not known, and pays no budget.
        let bytes = wanted.name.len() + Pending::OVERHEAD;
        house.link.reserve(Precedence::Newcomer, bytes)?;
        let made = Self::make(house, id, wanted, now, bytes);
        if !matches!(made, Ok(Made::Now(_))) {
            house.link.give_back(bytes);
        }
        match made? {
            Made::Now(registered) => Ok(registered),
            Made::Before(core) => Self::again(house, core, &wanted.name, now),
        }
    }

    /// Makes a new identity, for whose record `bytes` are reserved, unless another session has just made it.
    fn make(
        house: &Arc<House>,
        id: ClientId,
        wanted: &Registration,
        now: u64,
        bytes: usize,
    ) -> Result<Made, RegisterClientError> {
        house.people.throttle(house, wanted.origin.as_deref(), now)?;
        let limit = house.link.limits.clients;
        if house.people.clients.len() as u64 >= limit {
            return Err(RegisterClientError::TooMany { limit });
        }
        match house.people.clients.entry(wanted.id) {
            Entry::Occupied(entry) => Ok(Made::Before(Arc::clone(entry.get()))),
            Entry::Vacant(entry) => {
                house.link.check()?;
                let wall_ms = house.link.clock.wall_ms();
                let ticket = house.link.post(client_change(wanted.id, &wanted.name, true), bytes);
                let core = Arc::new(ClientCore::new(id, &wanted.name, true, wall_ms, wall_ms));
                entry.insert(Arc::clone(&core));
                tracing::info!(client = wanted.id, "client registered");
                Ok(Made::Now(Registered { client: Self { house: Arc::clone(house), core }, new: true, ticket }))
            }
        }
    }

    fn again(
        house: &Arc<House>,
        core: Arc<ClientCore>,
        name: &str,
        now: u64,
    ) -> Result<Registered, RegisterClientError> {
        if *core.name != *name {
            house.people.refused.invalid.add(1);
            return Err(DetailError::OtherName { id: core.id.value() }.into());
        }
        let limits = &house.link.limits;
        core.repeats.take(now, limits.repeat_burst, limits.repeat_refill).map_err(|retry_after| {
            house.people.refused.throttled.add(1);
            RegisterClientError::Throttled { limit: "repeat_burst", retry_after, disconnect: false }
        })?;
        // ordering: Relaxed; a statistic.
        core.last_wall_ms.store(house.link.clock.wall_ms().cast_unsigned(), Ordering::Relaxed);
        let bytes = name.len() + Pending::OVERHEAD;
        let (mut new, mut ticket) = (false, Ticket::nothing());
        if !core.is_registered() {
            // Room first: what could not be journaled does not happen.
            house.link.reserve(Precedence::Newcomer, bytes)?;
            let sent = house.people.in_turn(core.id.value(), || {
                let changed = core.set_registered(true);
                changed.then(|| house.link.post(client_change(core.id.value(), name, true), bytes))
            });
            match sent {
                Some(sent) => (new, ticket) = (true, sent),
                None => house.link.give_back(bytes),
            }
        }
        // ordering: Relaxed; a statistic.
        core.last_wall_ms.store(house.link.clock.wall_ms().cast_unsigned(), Ordering::Relaxed);
        Ok(Registered { client: Self { house: Arc::clone(house), core }, new, ticket })
    }

    pub(crate) fn known(house: &Arc<House>, id: u64) -> Option<Self> {
        let core = house.people.client(id)?;
        Some(Self { house: Arc::clone(house), core })
    }

    /// The client's id.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.core.id
    }

    /// The client's screen name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// True unless it was deregistered.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.core.is_registered()
    }

    /// Activates the client for a service: from here on it may claim. Activating again changes nothing.
    ///
    /// # Errors
    ///
    /// [`ActivateError`]; no record is made then.
    pub fn activate<S: Service>(&self, service: &ServiceHandle<S>) -> Result<Seat<S>, ActivateError> {
        self.activate_with(service, Capability::default())
    }

    /// Activates the client and declares what it can do. The last declaration counts.
    ///
    /// # Errors
    ///
    /// [`ActivateError`]; no record is made then.
    pub fn activate_with<S: Service>(
        &self,
        service: &ServiceHandle<S>,
        capability: Capability,
    ) -> Result<Seat<S>, ActivateError> {
        let core = self.activate_core(service.core(), capability)?;
        Ok(Seat::new(&self.house, core))
    }

    pub(crate) fn activate_core(
        &self,
        service: &Arc<ServiceCore>,
        capability: Capability,
    ) -> Result<Arc<SeatCore>, ActivateError> {
        let began = service.link.clock.nanos();
        let activated = self.activate_now(service, capability);
        service.counts.activations_refused.add(u64::from(activated.is_err()));
        service.measures.activate.record(service.link.clock.nanos().saturating_sub(began));
        activated
    }

    fn activate_now(&self, service: &Arc<ServiceCore>, capability: Capability) -> Result<Arc<SeatCore>, ActivateError> {
        let link = &self.house.link;
        link.check()?;
        if !self.core.is_registered() {
            self.house.people.refused.not_registered.add(1);
            return Err(ActivateError::NotRegistered);
        }
        let state = service.state();
        if !state.is_ready() {
            return Err(ActivateError::NotReady { state });
        }
        let bytes = Pending::OVERHEAD;
        let fresh = SeatValue::fresh();
        // Room first: an activation that could not be journaled does not happen.
        link.reserve(Precedence::Newcomer, bytes)?;
        let client = self.core.id.value();
        let activated = self.house.people.seat(&self.core, service, fresh).and_then(|seat| {
            let changed = self.house.people.in_turn(client, || {
                let changed =
                    if self.core.is_registered() { seat.activate() } else { Err(ActivateError::NotRegistered) };
                if changed == Ok(true) {
                    seat.note_activated(link.clock.wall_ms());
                    let change = Change::Seat { service: service.id, client, state: SeatState::Active };
                    drop(link.post(change, bytes));
                }
                changed
            });
            changed.map(|changed| (changed, seat))
        });
        let (changed, seat) = activated.inspect_err(|_| link.give_back(bytes))?;
        if changed {
            tracing::debug!(client, service = %service.name, "seat activated");
        } else {
            link.give_back(bytes);
        }
        // ordering: Relaxed, both; caps, read as they are.
        seat.declared_claim.store(capability.buckets_per_claim, Ordering::Relaxed);
        seat.declared_leases.store(capability.leases_in_flight, Ordering::Relaxed);
        seat.touch(link.clock.now());
        Ok(seat)
    }

    /// Deregisters the client: what it holds is put back at once, and nothing it still sends is taken.
    ///
    /// Its statistics and results stay. Registering again continues them; its seats must be activated again.
    ///
    /// # Errors
    ///
    /// [`DeregisterError`] if it is not registered, or if the hub takes no new work.
    pub fn deregister(&self) -> Result<Ticket, DeregisterError> {
        let link = &self.house.link;
        link.check()?;
        let id = self.core.id.value();
        let not_registered = || {
            self.house.people.refused.not_registered.add(1);
            DeregisterError::NotRegistered { id }
        };
        if !self.core.is_registered() {
            return Err(not_registered());
        }
        // Room first: what could not be journaled does not happen.
        let bytes = self.core.name.len() + Pending::OVERHEAD;
        link.reserve(Precedence::Submit, bytes)?;
        // The record deactivates the client's seats as well.
        let sent = self.house.people.in_turn(id, || {
            if !self.core.set_registered(false) {
                return None;
            }
            let ticket = link.post(client_change(id, &self.core.name, false), bytes);
            for seat in self.house.people.seats_of(&self.core) {
                seat.retire();
                seat.end_all(Cause::Deregistered);
            }
            Some(ticket)
        });
        let Some(ticket) = sent else {
            link.give_back(bytes);
            return Err(not_registered());
        };
        link.writer.raise();
        tracing::info!(client = id, "client deregistered");
        Ok(ticket)
    }
}

fn client_change(id: u64, name: &str, registered: bool) -> Change {
    Change::Client { client: id, name: Arc::from(name), registered }
}
