//! Clients and their seats: identity, activation, capability, quotas.

use std::fmt;
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use event_listener::Listener;
use smallvec::SmallVec;

use crate::clock::millis;
use crate::commit::{Change, Pending};
use crate::error::{ActivateError, ClaimError, DeregisterError, DetailError, LeaseError, RegisterClientError};
use crate::house::House;
use crate::hub::ServiceHandle;
use crate::id::{ClientId, LeaseToken, check_name};
use crate::lease::{Hold, Lease, LeaseView, Reporting, Submitted};
use crate::pool::Terms;
use crate::record::{SeatState, SeatTally, SeatValue};
use crate::registry::{Found, ServiceCore};
use crate::service::{OverAsk, Service, ServiceState, Subject};
use crate::slot::{Cause, Ended, Phase};
use crate::sync::{Arc, AtomicU32, AtomicU64, Counter, Ordering};
use crate::throttle::Budget;
use crate::ticket::Ticket;

/// Origins share this many budgets; a keyed hash spreads them.
const ORIGIN_BUDGETS: usize = 65_536;

/// Everyone the hub knows: clients by id, seats by number.
pub(crate) struct People {
    /// Cold calls only (register, look up): dashmap is sharded locks.
    clients: DashMap<u64, Arc<ClientCore>>,
    pub(crate) seats: boxcar::Vec<Arc<SeatCore>>,
    origins: OnceLock<Box<[Budget]>>,
    newcomers: Budget,
    pub(crate) refused: PeopleCounts,
}

/// Refusals that concern no known client.
#[derive(Debug, Default)]
pub(crate) struct PeopleCounts {
    pub(crate) invalid: Counter,
    pub(crate) throttled: Counter,
    pub(crate) not_registered: Counter,
}

impl fmt::Debug for People {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("People").field("clients", &self.clients.len()).finish_non_exhaustive()
    }
}

/// A registered identity.
pub(crate) struct ClientCore {
    pub(crate) id: ClientId,
    pub(crate) name: Arc<str>,
    /// Bit 0: registered; above it, how many times it was deregistered. A seat is active for one value of it.
    word: AtomicU32,
    /// Its seats: (service, seat).
    seats: ArcSwap<Vec<(u32, u32)>>,
    repeats: Budget,
    pub(crate) first_wall_ms: i64,
    pub(crate) last_wall_ms: AtomicU64,
}

impl ClientCore {
    pub(crate) fn new(id: ClientId, name: &str, registered: bool, first_wall_ms: i64, last_wall_ms: i64) -> Self {
        Self {
            id,
            name: Arc::from(name),
            word: AtomicU32::new(u32::from(registered)),
            seats: ArcSwap::from_pointee(Vec::new()),
            repeats: Budget::default(),
            first_wall_ms,
            last_wall_ms: AtomicU64::new(last_wall_ms.cast_unsigned()),
        }
    }

    fn word(&self) -> u32 {
        // ordering: SeqCst; a claim looks again after it took slots, so that it is wholly before a deregistration or
        // undone by one of the two.
        self.word.load(Ordering::SeqCst)
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.word() & 1 == 1
    }

    /// Flips the registered bit. False if it stood so already.
    fn set_registered(&self, registered: bool) -> bool {
        let from = self.word();
        let to = if registered { from | 1 } else { (from & !1).wrapping_add(2) };
        (from & 1 == 1) != registered
            // ordering: SeqCst; see `word`.
            && self.word.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn seat(&self, service: u32) -> Option<u32> {
        let seats = self.seats.load();
        seats.iter().find(|(of, _)| *of == service).map(|(_, seat)| *seat)
    }
}

/// A client's activation for one service.
pub(crate) struct SeatCore {
    /// Its number: the owner field of the slots it leases.
    pub(crate) index: u32,
    pub(crate) client: Arc<ClientCore>,
    pub(crate) service: Arc<ServiceCore>,
    state: AtomicU32,
    /// The client's word at the time of activation.
    grant: AtomicU32,
    /// Leases held.
    held: AtomicU32,
    /// The seat's own declaration of what it can do; `u32::MAX`: none.
    declared_claim: AtomicU32,
    declared_leases: AtomicU32,
    /// Hub time, ms, of the last successful call.
    last_used: AtomicU64,
    /// Hub time, ms, since when it holds leases without a break; 0: it holds none.
    busy_since: AtomicU64,
    /// Buckets processed and subjects reported before the hub was opened: the time they took is not known.
    before: (u64, u64),
    pub(crate) counts: SeatCounts,
}

impl fmt::Debug for SeatCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seat({} for {})", self.client.id, self.service.name)
    }
}

/// What a seat did and what was refused to it.
#[derive(Debug, Default)]
pub(crate) struct SeatCounts {
    pub(crate) buckets_assigned: Counter,
    pub(crate) buckets_processed: Counter,
    pub(crate) buckets_put_back: Counter,
    pub(crate) buckets_expired: Counter,
    pub(crate) subjects_assigned: Counter,
    pub(crate) subjects_reported: Counter,
    pub(crate) subjects_put_back: Counter,
    pub(crate) claims: Counter,
    pub(crate) empty: Counter,
    pub(crate) over_ask: Counter,
    pub(crate) claims_refused: Counter,
    pub(crate) not_owner: Counter,
    pub(crate) not_in_bucket: Counter,
    pub(crate) rejected: Counter,
    pub(crate) oversized: Counter,
    pub(crate) plugin_panics: Counter,
    pub(crate) already_done: Counter,
    pub(crate) conflicts: Counter,
    pub(crate) stale: Counter,
    /// Milliseconds during which it held at least one lease, and what it reported in them.
    pub(crate) busy_ms: Counter,
}

impl SeatCounts {
    fn of(tally: SeatTally) -> Self {
        Self {
            buckets_assigned: Counter::new(tally.buckets_assigned),
            buckets_processed: Counter::new(tally.buckets_processed),
            buckets_put_back: Counter::new(tally.buckets_put_back),
            buckets_expired: Counter::new(tally.buckets_expired),
            subjects_assigned: Counter::new(tally.subjects_assigned),
            subjects_reported: Counter::new(tally.subjects_reported),
            subjects_put_back: Counter::new(tally.subjects_put_back),
            conflicts: Counter::new(tally.conflicts),
            ..Self::default()
        }
    }
}

const ACTIVE: u32 = 0;
const INACTIVE: u32 = 1;
const SUSPENDED: u32 = 2;

impl SeatCore {
    pub(crate) fn new(index: u32, client: Arc<ClientCore>, service: Arc<ServiceCore>, value: SeatValue) -> Self {
        let state = match value.state {
            SeatState::Active => ACTIVE,
            SeatState::Inactive => INACTIVE,
            SeatState::Suspended => SUSPENDED,
        };
        let now = service.link.clock.now();
        Self {
            index,
            state: AtomicU32::new(state),
            grant: AtomicU32::new(client.word()),
            held: AtomicU32::new(0),
            declared_claim: AtomicU32::new(u32::MAX),
            declared_leases: AtomicU32::new(u32::MAX),
            last_used: AtomicU64::new(now),
            busy_since: AtomicU64::new(0),
            before: (value.tally.buckets_processed, value.tally.subjects_reported),
            counts: SeatCounts::of(value.tally),
            client,
            service,
        }
    }

    pub(crate) fn state(&self) -> SeatState {
        // ordering: SeqCst, both; as the client's word.
        match self.state.load(Ordering::SeqCst) {
            ACTIVE if self.grant.load(Ordering::SeqCst) == self.client.word() => SeatState::Active,
            SUSPENDED => SeatState::Suspended,
            _ => SeatState::Inactive,
        }
    }

    /// Takes note of a successful call.
    pub(crate) fn touch(&self, now: u64) {
        // ordering: Relaxed, both; the steward acts on it a whole idle time later. The load spares writes to a shared line.
        if self.last_used.load(Ordering::Relaxed) != now {
            self.last_used.store(now, Ordering::Relaxed);
        }
    }

    pub(crate) fn last_used(&self) -> u64 {
        // ordering: Relaxed; see `touch`.
        self.last_used.load(Ordering::Relaxed)
    }

    /// `Active -> Inactive`, by the steward.
    pub(crate) fn retire(&self) -> bool {
        // ordering: SeqCst; see `state`.
        let retired = self.state.compare_exchange(ACTIVE, INACTIVE, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if retired {
            // ordering: Relaxed; sizes the next pool.
            self.service.active_seats.fetch_sub(1, Ordering::Relaxed);
        }
        retired
    }

    fn activate(&self) -> Result<bool, ActivateError> {
        let word = self.client.word();
        // ordering: SeqCst, all; see `state`.
        let active = self.state() == SeatState::Active;
        let seen = self.state.load(Ordering::SeqCst);
        if seen == SUSPENDED {
            return Err(ActivateError::Suspended);
        }
        if active {
            return Ok(false);
        }
        self.grant.store(word, Ordering::SeqCst);
        if seen == INACTIVE {
            let won = self.state.compare_exchange(INACTIVE, ACTIVE, Ordering::SeqCst, Ordering::SeqCst).is_ok();
            if won {
                // ordering: Relaxed; sizes the next pool.
                self.service.active_seats.fetch_add(1, Ordering::Relaxed);
            }
            return Ok(won);
        }
        Ok(true)
    }

    /// Sets or lifts an administrator's bar.
    pub(crate) fn set_suspended(&self, suspended: bool) {
        if !suspended {
            // ordering: SeqCst, both; see `state`. A failure means that there was no bar.
            let _ = self.state.compare_exchange(SUSPENDED, INACTIVE, Ordering::SeqCst, Ordering::SeqCst);
        // ordering: SeqCst; see `state`.
        } else if self.state.swap(SUSPENDED, Ordering::SeqCst) == ACTIVE {
            // ordering: Relaxed; sizes the next pool.
            self.service.active_seats.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes room for up to `n` leases below `quota`. Lock-free.
    fn reserve(&self, n: u32, quota: u32, now: u64) -> u32 {
        // ordering: Relaxed; a quota, it publishes nothing.
        let mut held = self.held.load(Ordering::Relaxed);
        loop {
            let room = n.min(quota.saturating_sub(held));
            if room == 0 {
                return 0;
            }
            // ordering: Relaxed, both; see above.
            match self.held.compare_exchange_weak(held, held + room, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    if held == 0 {
                        // ordering: Relaxed; an estimate of the seat's speed.
                        self.busy_since.store(now.max(1), Ordering::Relaxed);
                    }
                    return room;
                }
                Err(now_held) => held = now_held,
            }
        }
    }

    fn give_back(&self, n: u32, now: u64) {
        // ordering: Relaxed; see `reserve`.
        if n > 0 && self.held.fetch_sub(n, Ordering::Relaxed) == n {
            // ordering: Relaxed; an estimate.
            let since = self.busy_since.swap(0, Ordering::Relaxed);
            if since != 0 {
                self.counts.busy_ms.add(now.saturating_sub(since));
            }
        }
    }

    /// For leases that were alive before a restart.
    pub(crate) fn adopt(&self, leases: u32, now: u64) {
        self.reserve(leases, u32::MAX, now);
    }

    /// Subjects that it can be expected to finish within `time`, from what it has done since the hub was opened; `None`
    /// without a history.
    fn expected_subjects(&self, time: Duration, now: u64) -> Option<u64> {
        let (buckets_before, subjects_before) = self.before;
        let buckets = self.counts.buckets_processed.value().saturating_sub(buckets_before);
        let done = self.counts.subjects_reported.value().saturating_sub(subjects_before);
        // ordering: Relaxed; an estimate.
        let since = self.busy_since.load(Ordering::Relaxed);
        let running = if since == 0 { 0 } else { now.saturating_sub(since) };
        let busy = self.counts.busy_ms.value() + running;
        let enough = buckets >= HISTORY_BUCKETS && busy > 0;
        enough.then(|| (u128::from(done) * time.as_millis() / u128::from(busy)).try_into().unwrap_or(u64::MAX))
    }

    /// Accounts for the end of one of its leases; called by whoever ended it.
    pub(crate) fn account(&self, ended: &Ended, cause: Cause, now: u64) {
        if ended.phase == Phase::Done {
            self.counts.buckets_processed.add(1);
        } else {
            self.counts.buckets_put_back.add(1);
            self.counts.buckets_expired.add(u64::from(cause == Cause::Expired));
        }
        self.counts.subjects_put_back.add(u64::from(ended.left.count()));
        self.give_back(1, now);
    }

    /// Ends every lease of the seat; returns how many.
    pub(crate) fn end_all(&self, cause: Cause) -> usize {
        let mut ended = 0;
        self.service.held_by(self.index, |pool, index| {
            ended += usize::from(Hold::end_slot(self, pool, index, Some(self.index), cause).is_some());
        });
        ended
    }
}

/// Finished buckets from which a seat's speed is taken to be known.
const HISTORY_BUCKETS: u64 = 3;

impl People {
    pub(crate) fn new() -> Self {
        Self {
            clients: DashMap::new(),
            seats: boxcar::Vec::new(),
            origins: OnceLock::new(),
            newcomers: Budget::default(),
            refused: PeopleCounts::default(),
        }
    }

    pub(crate) fn client(&self, id: u64) -> Option<Arc<ClientCore>> {
        self.clients.get(&id).map(|client| Arc::clone(&client))
    }

    pub(crate) fn clients(&self) -> Vec<Arc<ClientCore>> {
        self.clients.iter().map(|client| Arc::clone(&client)).collect()
    }

    /// A client that the store knows.
    pub(crate) fn restore(&self, client: ClientCore) {
        self.clients.insert(client.id.value(), Arc::new(client));
    }

    /// Takes a new identity from the budgets: its origin's, if the application names one, and everybody's.
    fn throttle(&self, house: &House, origin: Option<&[u8]>, now: u64) -> Result<(), RegisterClientError> {
        let limits = &house.link.limits;
        let refused = |limit, retry_after| {
            self.refused.throttled.add(1);
            RegisterClientError::Throttled { limit, retry_after, disconnect: true }
        };
        if let Some(origin) = origin {
            let budgets = self.origins.get_or_init(|| (0..ORIGIN_BUDGETS).map(|_| Budget::default()).collect());
            let place = usize::try_from(house.link.secret.scramble(origin) % ORIGIN_BUDGETS as u64).unwrap_or(0);
            if let Some(budget) = budgets.get(place) {
                budget
                    .take(now, limits.origin_burst, limits.origin_refill)
                    .map_err(|retry_after| refused("origin_burst", retry_after))?;
            }
        }
        self.newcomers
            .take(now, limits.newcomer_burst, limits.origin_refill)
            .map_err(|retry_after| refused("newcomer_burst", retry_after))
    }

    /// The seat of `client` for `service`, made if there is none. The caller holds no guard of `clients`.
    pub(crate) fn seat(
        &self,
        client: &Arc<ClientCore>,
        service: &Arc<ServiceCore>,
        value: SeatValue,
    ) -> Result<Arc<SeatCore>, ActivateError> {
        if let Some(seat) = client.seat(service.id).and_then(|index| self.seats.get(index as usize)) {
            return Ok(Arc::clone(seat));
        }
        // Two sessions may activate at the same moment: the client's entry is the lock that lets one make the seat.
        let _guard = self.clients.get_mut(&client.id.value());
        if let Some(seat) = client.seat(service.id).and_then(|index| self.seats.get(index as usize)) {
            return Ok(Arc::clone(seat));
        }
        let limit = service.link.limits.seats;
        if self.seats.count() >= limit as usize {
            return Err(ActivateError::TooMany { limit });
        }
        let index = self.seats.push_with(|index| {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            Arc::new(SeatCore::new(index, Arc::clone(client), Arc::clone(service), value))
        });
        let mut seats = Vec::clone(&client.seats.load());
        seats.push((service.id, u32::try_from(index).unwrap_or(u32::MAX)));
        client.seats.store(Arc::new(seats));
        self.seats.get(index).map(Arc::clone).ok_or(ActivateError::TooMany { limit })
    }

    pub(crate) fn seat_of(&self, client: &ClientCore, service: u32) -> Option<Arc<SeatCore>> {
        self.seats.get(client.seat(service)? as usize).map(Arc::clone)
    }

    pub(crate) fn seats_of(&self, client: &ClientCore) -> Vec<Arc<SeatCore>> {
        let seats = client.seats.load();
        seats.iter().filter_map(|(_, index)| self.seats.get(*index as usize).map(Arc::clone)).collect()
    }
}

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
        house.people.throttle(house, wanted.origin.as_deref(), now)?;
        let limit = house.link.limits.clients;
        if house.people.clients.len() as u64 >= limit {
            return Err(RegisterClientError::TooMany { limit });
        }
        let core = match house.people.clients.entry(wanted.id) {
            Entry::Occupied(entry) => Arc::clone(entry.get()),
            Entry::Vacant(entry) => {
                let wall_ms = house.link.clock.wall_ms();
                // Room in the queue first: an identity that could not be journaled is not known.
                let ticket = house.link.send(client_change(wanted.id, &wanted.name, true), wanted.name.len())?;
                let core = Arc::new(ClientCore::new(id, &wanted.name, true, wall_ms, wall_ms));
                entry.insert(Arc::clone(&core));
                return Ok(Registered { client: Self { house: Arc::clone(house), core }, new: true, ticket });
            }
        };
        Self::again(house, core, &wanted.name, now)
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
            house.link.reserve(bytes)?;
            new = core.set_registered(true);
            if new {
                ticket = house.link.post(client_change(core.id.value(), name, true), bytes);
            } else {
                house.link.give_back(bytes);
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
        let fresh = SeatValue { state: SeatState::Inactive, tally: SeatTally::default() };
        // Room first: an activation that could not be journaled does not happen.
        link.reserve(bytes)?;
        let activated =
            self.house.people.seat(&self.core, service, fresh).and_then(|seat| Ok((seat.activate()?, seat)));
        let (changed, seat) = activated.inspect_err(|_| link.give_back(bytes))?;
        if changed {
            let change = Change::Seat { service: service.id, client: self.core.id.value(), state: SeatState::Active };
            drop(link.post(change, bytes));
            tracing::debug!(client = %self.core.id, service = %service.name, "seat activated");
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
        link.reserve(bytes)?;
        if !self.core.set_registered(false) {
            link.give_back(bytes);
            return Err(not_registered());
        }
        // The record deactivates the client's seats as well.
        let ticket = link.post(client_change(id, &self.core.name, false), bytes);
        for seat in self.house.people.seats_of(&self.core) {
            seat.retire();
            seat.end_all(Cause::Deregistered);
        }
        link.writer.raise();
        tracing::info!(client = id, "client deregistered");
        Ok(ticket)
    }
}

fn client_change(id: u64, name: &str, registered: bool) -> Change {
    Change::Client { client: id, name: Arc::from(name), registered }
}

/// What a claim asks for.
///
/// ```
/// use std::time::Duration;
/// use commissary::Ask;
///
/// let three = Ask::buckets(3).subjects(12).time(Duration::from_secs(60));
/// # let _ = three;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    buckets: u32,
    subjects: Option<usize>,
    time: Option<Duration>,
}

impl Ask {
    /// One bucket.
    #[must_use]
    pub fn one() -> Self {
        Self::buckets(1)
    }

    /// Up to `n` buckets.
    #[must_use]
    pub fn buckets(n: u32) -> Self {
        Self { buckets: n, subjects: None, time: None }
    }

    /// No more buckets than hold `n` subjects; at least one.
    #[must_use]
    pub fn subjects(mut self, n: usize) -> Self {
        self.subjects = Some(n);
        self
    }

    /// How long the client means to work on them. A client with a history gets no more than it finished in such a time
    /// before; without this, no more than it finished in a lease's time.
    #[must_use]
    pub fn time(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }
}

/// What a claim got.
#[derive(Debug)]
#[must_use]
pub enum Claim<S: Service> {
    /// At least one bucket.
    Leased(Grant<S>),
    /// None, and why.
    Empty(Empty),
}

impl<S: Service> Claim<S> {
    /// The grant, if there is one.
    #[must_use]
    pub fn leased(self) -> Option<Grant<S>> {
        match self {
            Self::Leased(grant) => Some(grant),
            Self::Empty(_) => None,
        }
    }
}

/// Leases given to one claim. Iterate to take them out; those left are given back when it is dropped.
#[derive(Debug)]
#[must_use = "dropping a grant gives its buckets back"]
pub struct Grant<S: Service> {
    leases: SmallVec<[Lease<S>; 2]>,
    /// Buckets asked for.
    pub asked: u32,
    /// The cap that applied: the policy's, or the seat's own declaration.
    pub limit: u32,
    /// The ask exceeded the cap.
    pub clamped: bool,
}

impl<S: Service> Grant<S> {
    /// How many leases there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Never true.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// The leases, to look at.
    pub fn leases(&self) -> &[Lease<S>] {
        &self.leases
    }

    /// Takes one lease out.
    pub fn pop(&mut self) -> Option<Lease<S>> {
        self.leases.pop()
    }
}

impl<S: Service> IntoIterator for Grant<S> {
    type Item = Lease<S>;
    type IntoIter = Leases<S>;

    fn into_iter(self) -> Leases<S> {
        Leases(self.leases.into_iter())
    }
}

/// Takes the leases out of a grant.
#[derive(Debug)]
pub struct Leases<S: Service>(smallvec::IntoIter<[Lease<S>; 2]>);

impl<S: Service> Iterator for Leases<S> {
    type Item = Lease<S>;

    fn next(&mut self) -> Option<Lease<S>> {
        self.0.next()
    }
}

/// Why a claim got nothing; not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Empty {
    /// Why.
    pub reason: EmptyReason,
    /// When trying again makes sense; jittered, so that those turned away together do not come back together.
    pub retry_after: Duration,
}

/// Why there is nothing to claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub enum EmptyReason {
    /// No subject waits.
    NothingPending,
    /// All subjects are leased. If none is finished before, the first may be offered again after this time.
    AllLeased {
        /// From now.
        earliest_free: Duration,
    },
    /// Subjects wait, but no bucket is formed yet.
    NotYetFormed,
    /// The client holds as many leases as it may.
    QuotaFull,
    /// An administrator paused the service.
    Paused,
}

/// A client's activation for one service: what it claims from. Cloning clones the handle.
///
/// # Concurrency
///
/// All methods can be called from any thread, and by several programs that share the client's id. `claim`, `submit`,
/// `report`, `renew` and `release` are lock-free: they take no lock, never touch the disk and never wait for another
/// thread; a thread stopped anywhere inside them stops nobody else.
pub struct Seat<S: Service> {
    pub(crate) house: Arc<House>,
    pub(crate) core: Arc<SeatCore>,
    service: PhantomData<fn() -> S>,
}

impl<S: Service> Clone for Seat<S> {
    fn clone(&self) -> Self {
        Self::new(&self.house, Arc::clone(&self.core))
    }
}

impl<S: Service> fmt::Debug for Seat<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}

/// What applies to one claim.
struct Allowance {
    asked: u32,
    limit: u32,
    granted: u32,
    quota: u32,
}

impl<S: Service> Seat<S> {
    pub(crate) fn new(house: &Arc<House>, core: Arc<SeatCore>) -> Self {
        Self { house: Arc::clone(house), core, service: PhantomData }
    }

    /// The client's id.
    #[must_use]
    pub fn client_id(&self) -> ClientId {
        self.core.client.id
    }

    /// What the seat is.
    #[must_use]
    pub fn state(&self) -> SeatState {
        self.core.state()
    }

    /// Takes up to as many buckets as asked for, without ever waiting.
    ///
    /// An ask beyond the cap is clamped (the grant says so) or refused, as the policy says. Scarcity is not an error.
    ///
    /// # Errors
    ///
    /// [`ClaimError`], in this order: the hub, the client, the seat, the service, the ask. No bucket moved.
    ///
    /// # Concurrency
    ///
    /// Lock-free, no allocation for up to two buckets; a bucket goes to one claim (its slot's compare-and-swap).
    ///
    /// # Durability
    ///
    /// The lease takes effect at once and is journaled with the writer's next group. A crash before that puts the bucket
    /// back: its token is then answered [`LeaseError::Over`] and nothing of it is stored.
    pub fn claim(&self, ask: Ask) -> Result<Claim<S>, ClaimError> {
        let seat = &self.core;
        let refused = |error| {
            seat.counts.claims_refused.add(1);
            error
        };
        let word = self.admit().map_err(refused)?;
        let now = seat.service.link.clock.now();
        let current = seat.service.current();
        let allowance = allow(seat, ask, &current.terms, now).map_err(refused)?;
        seat.touch(now);
        let room = seat.reserve(allowance.granted, allowance.quota, now);
        if room == 0 {
            return Ok(Claim::Empty(self.empty(EmptyReason::QuotaFull)));
        }
        let ordinary_first = seat.counts.claims.next().is_multiple_of(u64::from(current.terms.ordinary_share));
        let mut leases = SmallVec::new();
        let mut subjects = 0;
        let got = seat.service.take(&current, room as usize, seat.index, now, ordinary_first, |pool, index| {
            subjects += pool.slot(index).map_or(0, |slot| slot.len() as u64);
            leases.push(Lease::new(Arc::clone(seat), Arc::clone(pool), index));
        });
        drop(current);
        let got = u32::try_from(got).unwrap_or(u32::MAX);
        seat.give_back(room - got, now);
        seat.counts.buckets_assigned.add(u64::from(got));
        seat.counts.subjects_assigned.add(subjects);
        if got == 0 {
            return Ok(Claim::Empty(self.empty(self.why_empty(now))));
        }
        seat.service.link.writer.raise();
        self.still_admitted(word, &mut leases).map_err(refused)?;
        let Allowance { asked, limit, .. } = allowance;
        Ok(Claim::Leased(Grant { leases, asked, limit, clamped: asked > limit }))
    }

    /// The checks before a claim; returns the client's word.
    fn admit(&self) -> Result<u32, ClaimError> {
        let seat = &self.core;
        seat.service.link.check()?;
        let word = seat.client.word();
        if word & 1 == 0 {
            self.house.people.refused.not_registered.add(1);
            return Err(ClaimError::NotRegistered);
        }
        match seat.state() {
            SeatState::Active => {}
            SeatState::Inactive => return Err(ClaimError::Inactive),
            SeatState::Suspended => return Err(ClaimError::Suspended),
        }
        let state = seat.service.state();
        if state.is_ready() { Ok(word) } else { Err(ClaimError::NotReady { state }) }
    }

    /// Looks again after slots were taken: a deregistration, suspension or revocation in between undoes the claim, so that
    /// it is wholly before them or never was.
    fn still_admitted(&self, word: u32, leases: &mut SmallVec<[Lease<S>; 2]>) -> Result<(), ClaimError> {
        let undone = match self.admit() {
            Ok(now) if now == word => return Ok(()),
            Ok(_) => ClaimError::Inactive,
            // A poisoned or closed hub keeps the lease: it is taken back, or goes on, when it is reopened.
            Err(ClaimError::Hub(_)) => return Ok(()),
            Err(error) => error,
        };
        for lease in leases.drain(..) {
            lease.end(Cause::Revoked);
        }
        Err(undone)
    }

    fn empty(&self, reason: EmptyReason) -> Empty {
        self.core.counts.empty.add(1);
        self.core.service.counts.starved.add(1);
        let base = match reason {
            EmptyReason::NotYetFormed => Duration::from_millis(20),
            EmptyReason::AllLeased { earliest_free } => {
                earliest_free.clamp(Duration::from_millis(100), Duration::from_secs(60))
            }
            _ => Duration::from_secs(1),
        };
        let turn = (self.core.counts.empty.value() << 32) | u64::from(self.core.index);
        let jitter = self.core.service.link.secret.scramble(&turn.to_be_bytes()) % 512;
        Empty { reason, retry_after: base + base.mul_f64(f64::from(u32::try_from(jitter).unwrap_or(0)) / 1_024.0) }
    }

    fn why_empty(&self, now: u64) -> EmptyReason {
        let service = &self.core.service;
        let counts = &service.counts;
        if counts.waiting.value() > 0 || service.has_ready() {
            if service.state() == ServiceState::Paused {
                return EmptyReason::Paused;
            }
            return EmptyReason::NotYetFormed;
        }
        match counts.earliest_free.value() {
            0 => EmptyReason::NothingPending,
            at => EmptyReason::AllLeased { earliest_free: Duration::from_millis(at.saturating_sub(now)) },
        }
    }

    /// Waits until a claim would probably get something; false after `timeout`, or when the hub is closed.
    ///
    /// Parks the calling thread. In a manual hub it answers at once.
    #[must_use]
    pub fn wait_ready(&self, timeout: Duration) -> bool {
        let service = &self.core.service;
        if service.link.manual {
            return service.has_ready();
        }
        let deadline = crate::clock::deadline(timeout);
        loop {
            let listener = service.published().listen();
            if service.has_ready() {
                return true;
            }
            let notified = if let Some(deadline) = deadline {
                service.link.is_open() && listener.wait_deadline(deadline).is_some()
            } else {
                listener.wait();
                true
            };
            if !notified || !service.link.is_open() {
                return service.has_ready() && service.link.is_open();
            }
        }
    }

    /// Resolves when a claim would probably get something, or when the hub is closed. Needs no particular runtime.
    pub async fn ready(&self) {
        let service = &self.core.service;
        loop {
            let listener = service.published().listen();
            if service.has_ready() || !service.link.is_open() {
                return;
            }
            listener.await;
        }
    }

    /// What the client holds of this service, after its crash or after the hub's: every lease, also one whose grant never
    /// arrived. Looking extends nothing.
    ///
    /// # Errors
    ///
    /// [`LeaseError::NotRegistered`], or the hub's.
    ///
    /// # Concurrency
    ///
    /// Reads the slots one after the other; what is claimed or ended meanwhile may be there or not.
    pub fn leases(&self) -> Result<Vec<LeaseView<S>>, LeaseError> {
        let seat = &self.core;
        seat.service.link.check()?;
        if !seat.client.is_registered() {
            self.house.people.refused.not_registered.add(1);
            return Err(LeaseError::NotRegistered);
        }
        let mut views = Vec::new();
        let now = seat.service.link.clock.now();
        seat.service.held_by(seat.index, |pool, index| views.extend(LeaseView::of(pool, index, now)));
        Ok(views)
    }

    /// Takes up a lease again by its token, as a guard: dropping it gives the bucket back.
    ///
    /// # Errors
    ///
    /// [`LeaseError`].
    pub fn resume(&self, token: &LeaseToken) -> Result<Lease<S>, LeaseError> {
        let (pool, index) = self.find(token)?;
        let held = pool.slot(index).is_some_and(|slot| slot.snapshot().is_held());
        if held { Ok(Lease::new(Arc::clone(&self.core), pool, index)) } else { Err(LeaseError::Over) }
    }

    /// Reports on subjects of a lease and gives the rest back. As [`Lease::submit`], by token.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]; nothing was stored.
    pub fn submit(
        &self,
        token: &LeaseToken,
        reports: impl IntoIterator<Item = (<S::Subject as Subject>::Key, S::Report)>,
    ) -> Result<Submitted, LeaseError> {
        let (pool, index) = self.find(token)?;
        Reporting::new(&self.core, &pool, index).run::<S>(reports, true)
    }

    /// Reports on some subjects of a lease and keeps the rest. As [`Lease::report`], by token.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]; nothing was stored.
    pub fn report(
        &self,
        token: &LeaseToken,
        reports: impl IntoIterator<Item = (<S::Subject as Subject>::Key, S::Report)>,
    ) -> Result<Submitted, LeaseError> {
        let (pool, index) = self.find(token)?;
        Reporting::new(&self.core, &pool, index).run::<S>(reports, false)
    }

    /// Extends a lease to a full term from now; returns the time left. As [`Lease::renew`], by token.
    ///
    /// # Errors
    ///
    /// [`LeaseError`].
    pub fn renew(&self, token: &LeaseToken) -> Result<Duration, LeaseError> {
        let (pool, index) = self.find(token)?;
        Hold::renew_slot(&self.core, &pool, index)
    }

    /// Gives a lease back. As [`Lease::release`], by token. Returns the number of subjects put back.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]; [`LeaseError::Over`] if it was over already.
    pub fn release(&self, token: &LeaseToken) -> Result<u32, LeaseError> {
        let (pool, index) = self.find(token)?;
        let ended = Hold::end_slot(&self.core, &pool, index, Some(self.core.index), Cause::Client);
        ended.map(|ended| ended.left.count()).ok_or(LeaseError::Over)
    }

    /// The slot a token names, if it is this client's; in the order of identity, service, then token, so that a refusal
    /// says nothing of what is further down.
    fn find(&self, token: &LeaseToken) -> Result<(Arc<crate::pool::Pool>, usize), LeaseError> {
        let seat = &self.core;
        seat.service.link.check()?;
        if !seat.client.is_registered() {
            self.house.people.refused.not_registered.add(1);
            return Err(LeaseError::NotRegistered);
        }
        let state = seat.service.state();
        if state == ServiceState::Revoked {
            return Err(LeaseError::NotReady { state });
        }
        let not_owner = || {
            seat.counts.not_owner.add(1);
            tracing::warn!(client = %seat.client.id, service = %seat.service.name, ?token, "token of another's lease");
            LeaseError::NotOwner
        };
        match seat.service.find(token) {
            Found::Slot(pool, index) => {
                let owner = pool.slot(index).map(super::slot::Slot::snapshot);
                let mine = owner.is_some_and(|seen| seen.phase() > Phase::Ready && seen.owner() == seat.index);
                if mine { Ok((pool, index)) } else { Err(not_owner()) }
            }
            Found::Over => Err(LeaseError::Over),
            Found::Forged => {
                seat.service.counts.unknown_tokens.add(1);
                Err(not_owner())
            }
        }
    }
}

/// The least of: the ask, the seat's declaration, the policy's cap, and what the seat's history lets expect.
fn allow(seat: &SeatCore, ask: Ask, terms: &Terms, now: u64) -> Result<Allowance, ClaimError> {
    if ask.buckets == 0 || ask.subjects == Some(0) {
        return Err(ClaimError::Nothing);
    }
    // ordering: Relaxed, both; caps, read as they are.
    let declared = seat.declared_claim.load(Ordering::Relaxed).max(1);
    let quota = seat.declared_leases.load(Ordering::Relaxed).max(1).min(terms.leases_in_flight);
    let limit = terms.buckets_per_claim.min(declared);
    if ask.buckets > limit {
        seat.counts.over_ask.add(1);
        if terms.over_ask == OverAsk::Reject {
            return Err(ClaimError::TooMany { asked: ask.buckets, limit });
        }
    }
    let most = ask.buckets.min(limit);
    if most == 1 {
        // Neither what it wants nor what its history lets expect is less than one bucket.
        return Ok(Allowance { asked: ask.buckets, limit, granted: 1, quota });
    }
    let buckets_of = |subjects: u64| (subjects / terms.bucket_subjects.max(1) as u64).max(1);
    let time = ask.time.unwrap_or(Duration::from_millis(terms.lease_ms));
    let expected = seat.expected_subjects(time, now).map_or(u64::MAX, buckets_of);
    let wanted = ask.subjects.map_or(u64::MAX, |n| buckets_of(n as u64));
    let granted = u64::from(most).min(expected).min(wanted);
    Ok(Allowance { asked: ask.buckets, limit, granted: u32::try_from(granted).unwrap_or(limit), quota })
}

/// How long a seat has been idle.
pub(crate) fn idle_for(seat: &SeatCore, now: u64) -> Duration {
    Duration::from_millis(now.saturating_sub(seat.last_used()))
}

/// True if a seat should be retired: active, unused for the policy's idle time.
pub(crate) fn is_idle(seat: &SeatCore, now: u64) -> bool {
    seat.state() == SeatState::Active && millis(idle_for(seat, now)) >= millis(seat.service.policy().idle)
}
