//! Everyone the hub knows: who clients and seats are, and what each of them did.

use std::fmt;
use std::sync::{OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;

use crate::clock::{millis, utc};
use crate::error::{ActivateError, RegisterClientError};
use crate::house::House;
use crate::id::ClientId;
use crate::lease::Hold;
use crate::notices::NoticeKind;
use crate::record::{SeatState, SeatTally, SeatValue};
use crate::registry::ServiceCore;
use crate::slot::{Cause, Ended, OWNERS_MAX, Phase};
use crate::sync::{Arc, AtomicU32, AtomicU64, Counter, Ordering};
use crate::throttle::Budget;

/// Origins share this many budgets; a keyed hash spreads them.
const ORIGIN_BUDGETS: usize = 65_536;

/// Everyone the hub knows: clients by id, seats by number.
pub(crate) struct People {
    /// Cold calls only (register, look up): dashmap is sharded locks.
    pub(crate) clients: DashMap<u64, Arc<ClientCore>>,
    pub(crate) seats: boxcar::Vec<Arc<SeatCore>>,
    origins: OnceLock<Box<[Budget]>>,
    newcomers: Budget,
    pub(crate) refused: PeopleCounts,
    this: Weak<Self>,
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
    pub(crate) repeats: Budget,
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

    pub(crate) fn word(&self) -> u32 {
        // ordering: SeqCst; a claim looks again after it took slots, so that it is wholly before a deregistration or
        // undone by one of the two.
        self.word.load(Ordering::SeqCst)
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.word() & 1 == 1
    }

    /// Flips the registered bit. False if it stood so already.
    pub(crate) fn set_registered(&self, registered: bool) -> bool {
        let from = self.word();
        let to = if registered { from | 1 } else { (from & !1).wrapping_add(2) };
        (from & 1 == 1) != registered
            // ordering: SeqCst; see `word`.
            && self.word.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    pub(crate) fn seat(&self, service: u32) -> Option<u32> {
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
    pub(crate) declared_claim: AtomicU32,
    pub(crate) declared_leases: AtomicU32,
    /// Hub time, ms, of the last successful call.
    last_used: AtomicU64,
    /// Hub time, ms, since when it holds leases without a break; 0: it holds none.
    busy_since: AtomicU64,
    /// Buckets processed and subjects reported before the hub was opened: the time they took is not known.
    before: (u64, u64),
    /// Everyone else: for what concerns two seats.
    pub(crate) people: Weak<People>,
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
    pub(crate) disagreements: Counter,
    pub(crate) stale: Counter,
    pub(crate) renewals_capped: Counter,
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
            disagreements: Counter::new(tally.disagreements),
            ..Self::default()
        }
    }
}

const ACTIVE: u32 = 0;
const INACTIVE: u32 = 1;
const SUSPENDED: u32 = 2;

impl SeatCore {
    pub(crate) fn new(
        index: u32,
        client: Arc<ClientCore>,
        service: Arc<ServiceCore>,
        value: SeatValue,
        people: Weak<People>,
    ) -> Self {
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
            people,
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

    pub(crate) fn activate(&self) -> Result<bool, ActivateError> {
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

    /// Tells the operator what the client tried.
    pub(crate) fn notice(&self, kind: NoticeKind) {
        let link = &self.service.link;
        link.notices.push(utc(link.clock.wall_ms()), self.client.id, &self.service.name, kind);
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
    pub(crate) fn reserve(&self, n: u32, quota: u32, now: u64) -> u32 {
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

    pub(crate) fn give_back(&self, n: u32, now: u64) {
        // ordering: Relaxed; see `reserve`.
        if n > 0 && self.held.fetch_sub(n, Ordering::Relaxed) == n {
            // ordering: Relaxed; an estimate.
            let since = self.busy_since.swap(0, Ordering::Relaxed);
            if since != 0 {
                self.counts.busy_ms.add(now.saturating_sub(since));
            }
        }
    }

    /// Leases held, those being claimed right now included.
    pub(crate) fn leases_held(&self) -> u32 {
        // ordering: Relaxed; a statistic.
        self.held.load(Ordering::Relaxed)
    }

    /// For leases that were alive before a restart.
    pub(crate) fn adopt(&self, leases: u32, now: u64) {
        self.reserve(leases, u32::MAX, now);
    }

    /// Subjects that it can be expected to finish within `time`, from what it has done since the hub was opened; `None`
    /// without a history.
    pub(crate) fn expected_subjects(&self, time: Duration, now: u64) -> Option<u64> {
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
    pub(crate) fn new() -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            clients: DashMap::new(),
            seats: boxcar::Vec::new(),
            origins: OnceLock::new(),
            newcomers: Budget::default(),
            refused: PeopleCounts::default(),
            this: Weak::clone(this),
        })
    }

    pub(crate) fn client(&self, id: u64) -> Option<Arc<ClientCore>> {
        self.clients.get(&id).map(|client| Arc::clone(&client))
    }

    pub(crate) fn clients(&self) -> Vec<Arc<ClientCore>> {
        self.clients.iter().map(|client| Arc::clone(&client)).collect()
    }

    /// Runs a decision on a client and hands it to the writer, one decision at a time: what is journaled last is what was
    /// decided last. Cold; holds the client's shard, so `decide` must not touch the clients.
    pub(crate) fn in_turn<R>(&self, client: u64, decide: impl FnOnce() -> R) -> R {
        let _turn = self.clients.get_mut(&client);
        decide()
    }

    /// A client that the store knows.
    pub(crate) fn restore(&self, client: ClientCore) {
        self.clients.insert(client.id.value(), Arc::new(client));
    }

    /// Takes a new identity from the budgets: its origin's, if the application names one, and everybody's.
    pub(crate) fn throttle(&self, house: &House, origin: Option<&[u8]>, now: u64) -> Result<(), RegisterClientError> {
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
        self.seat_within(client, service, value, service.link.limits.seats)
    }

    /// A seat that the store knows: the limit is for new ones.
    pub(crate) fn restore_seat(
        &self,
        client: &Arc<ClientCore>,
        service: &Arc<ServiceCore>,
        value: SeatValue,
    ) -> Result<Arc<SeatCore>, ActivateError> {
        self.seat_within(client, service, value, OWNERS_MAX - 1)
    }

    fn seat_within(
        &self,
        client: &Arc<ClientCore>,
        service: &Arc<ServiceCore>,
        value: SeatValue,
        limit: u32,
    ) -> Result<Arc<SeatCore>, ActivateError> {
        if let Some(seat) = client.seat(service.id).and_then(|index| self.seats.get(index as usize)) {
            return Ok(Arc::clone(seat));
        }
        // Two sessions may activate at the same moment: the client's entry is the lock that lets one make the seat.
        let _guard = self.clients.get_mut(&client.id.value());
        if let Some(seat) = client.seat(service.id).and_then(|index| self.seats.get(index as usize)) {
            return Ok(Arc::clone(seat));
        }
        if self.seats.count() >= limit as usize {
            return Err(ActivateError::TooMany { limit });
        }
        let index = self.seats.push_with(|index| {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let people = Weak::clone(&self.this);
            Arc::new(SeatCore::new(index, Arc::clone(client), Arc::clone(service), value, people))
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
/// How long a seat has been idle.
pub(crate) fn idle_for(seat: &SeatCore, now: u64) -> Duration {
    Duration::from_millis(now.saturating_sub(seat.last_used()))
}

/// True if a seat should be retired: active, unused for the policy's idle time.
pub(crate) fn is_idle(seat: &SeatCore, now: u64) -> bool {
    seat.state() == SeatState::Active && millis(idle_for(seat, now)) >= millis(seat.service.policy().idle)
}
