//! Everyone the hub knows: who clients and seats are, and what each of them did.

use std::fmt;
use std::sync::Weak;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::clock::{millis, utc};
use crate::error::{ActivateError, RegisterClientError};
use crate::histogram::Fine;
use crate::house::House;
use crate::id::ClientId;
use crate::lease::Hold;
use crate::measures::Turnaround;
use crate::notices::NoticeKind;
use crate::record::{SeatState, SeatTally, SeatValue};
use crate::refused::RefusedCounts;
use crate::registry::ServiceCore;
use crate::slot::{Cause, Ended, OWNERS_MAX, Phase};
use crate::spread::Categories;
use crate::standing::{Activated, ClientWord, Quota, Room, SeatWord, Words};
use crate::sync::{Arc, AtomicI64, AtomicU32, AtomicU64, Counter, OnceLock, Ordering, dashmap::DashMap};
use crate::throttle::Budget;
use crate::watch::Level;

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
    /// How long each registration took, ns.
    pub(crate) registering: Fine,
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
    pub(crate) word: ClientWord,
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
            word: ClientWord::new(registered),
            seats: ArcSwap::from_pointee(Vec::new()),
            repeats: Budget::default(),
            first_wall_ms,
            last_wall_ms: AtomicU64::new(last_wall_ms.cast_unsigned()),
        }
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.word.is_registered()
    }

    /// Flips the registered bit. False if it stood so already.
    pub(crate) fn set_registered(&self, registered: bool) -> bool {
        self.word.set_registered(registered)
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
    word: SeatWord,
    /// Why it has its level; `None` if that never changed.
    why: ArcSwapOption<String>,
    /// Hub time, ms, of the last change of the level.
    level_at: AtomicU64,
    /// Leases held.
    held: Quota,
    /// The seat's own declaration of what it can do; `u32::MAX`: none.
    pub(crate) declared_claim: AtomicU32,
    pub(crate) declared_leases: AtomicU32,
    /// Hub time, ms, at which it was made or brought back: its idle time counts from then at the earliest.
    made_at: u64,
    /// Hub time, ms + 1, of the last successful call; 0: none since `made_at`.
    last_used: AtomicU64,
    /// What it was activated at, by the wall clock, ms; `NEVER`.
    first_activated: AtomicI64,
    last_activated: AtomicI64,
    /// The last access before the hub was opened, by the wall clock, ms; `NEVER`.
    accessed_before: i64,
    /// Hub time, ms, since when it holds leases without a break; 0: it holds none.
    busy_since: AtomicU64,
    /// Buckets processed and subjects reported before the hub was opened: the time they took is not known.
    before: (u64, u64),
    /// Everyone else: for what concerns two seats.
    pub(crate) people: Weak<People>,
    pub(crate) counts: SeatCounts,
    /// Its accepted reports, by the plugin's category.
    pub(crate) categories: Categories,
    pub(crate) refused: RefusedCounts,
    pub(crate) turnaround: Turnaround,
}

impl fmt::Debug for SeatCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seat({} for {})", self.client.id, self.service.name)
    }
}

/// What a seat did and what was refused to it.
#[derive(Debug, Default)]
pub(crate) struct SeatCounts {
    /// Subjects of a bucket by the policy that the seat was made under.
    usual: u64,
    /// Claims that took one bucket of so many subjects, without a turn.
    single: Counter,
    /// All other claims; and what was assigned by them, by late reports, or before the hub was opened.
    other_claims: Counter,
    other_buckets: Counter,
    other_subjects: Counter,
    pub(crate) buckets_processed: Counter,
    pub(crate) buckets_put_back: Counter,
    pub(crate) buckets_expired: Counter,
    pub(crate) subjects_reported: Counter,
    pub(crate) subjects_put_back: Counter,
    pub(crate) empty: Counter,
    /// Calls that were not refused; of releases, those that ended a lease.
    pub(crate) submits: Counter,
    pub(crate) renewals: Counter,
    pub(crate) releases: Counter,
    pub(crate) over_ask: Counter,
    pub(crate) claims_refused: Counter,
    pub(crate) not_owner: Counter,
    pub(crate) not_in_bucket: Counter,
    pub(crate) rejected: Counter,
    pub(crate) oversized: Counter,
    pub(crate) plugin_panics: Counter,
    pub(crate) already_done: Counter,
    /// Reports on lanes out of their order.
    pub(crate) out_of_order: Counter,
    /// Reports on subjects of lanes whose deadline had passed.
    pub(crate) past_deadline: Counter,
    pub(crate) conflicts: Counter,
    pub(crate) disagreements: Counter,
    pub(crate) stale: Counter,
    pub(crate) renewals_capped: Counter,
    /// Milliseconds during which it held at least one lease, and what it reported in them.
    pub(crate) busy_ms: Counter,
}

impl SeatCounts {
    fn of(tally: SeatTally, usual: usize) -> Self {
        Self {
            usual: usual as u64,
            other_buckets: Counter::new(tally.buckets_assigned),
            buckets_processed: Counter::new(tally.buckets_processed),
            buckets_put_back: Counter::new(tally.buckets_put_back),
            buckets_expired: Counter::new(tally.buckets_expired),
            other_subjects: Counter::new(tally.subjects_assigned),
            subjects_reported: Counter::new(tally.subjects_reported),
            subjects_put_back: Counter::new(tally.subjects_put_back),
            conflicts: Counter::new(tally.conflicts),
            disagreements: Counter::new(tally.disagreements),
            ..Self::default()
        }
    }

    /// Claims that were not refused.
    pub(crate) fn claims(&self) -> u64 {
        self.single.value().wrapping_add(self.other_claims.value())
    }

    pub(crate) fn buckets_assigned(&self) -> u64 {
        self.single.value().wrapping_add(self.other_buckets.value())
    }

    pub(crate) fn subjects_assigned(&self) -> u64 {
        self.single.value().wrapping_mul(self.usual).wrapping_add(self.other_subjects.value())
    }

    /// Counts a claim before it takes anything; returns how many came before it.
    pub(crate) fn next_turn(&self) -> u64 {
        self.single.value().wrapping_add(self.other_claims.next()).wrapping_sub(1)
    }

    /// Counts a claim, if it had no turn, and what it took.
    pub(crate) fn claimed(&self, buckets: u32, subjects: u64, had_turn: bool) {
        if buckets == 1 && subjects == self.usual && !had_turn {
            self.single.add(1);
            return;
        }
        self.other_claims.add(u64::from(!had_turn));
        self.other_buckets.add(u64::from(buckets));
        self.other_subjects.add(subjects);
    }

    /// Counts subjects of buckets that others hold, or nobody: reported late.
    pub(crate) fn assigned_late(&self, subjects: u32) {
        self.other_subjects.add(u64::from(subjects));
    }
}

/// No moment of the wall clock.
const NEVER: i64 = i64::MIN;

impl SeatCore {
    pub(crate) fn new(
        index: u32,
        client: Arc<ClientCore>,
        service: Arc<ServiceCore>,
        value: SeatValue,
        people: Weak<People>,
    ) -> Self {
        let now = service.link.clock.now();
        Self {
            index,
            word: SeatWord::new(value.state, value.level, client.word.get()),
            why: ArcSwapOption::from_pointee(value.why),
            level_at: AtomicU64::new(value.level_at),
            held: Quota::default(),
            declared_claim: AtomicU32::new(u32::MAX),
            declared_leases: AtomicU32::new(u32::MAX),
            made_at: now,
            last_used: AtomicU64::new(0),
            first_activated: AtomicI64::new(value.times.first_activated.unwrap_or(NEVER)),
            last_activated: AtomicI64::new(value.times.last_activated.unwrap_or(NEVER)),
            accessed_before: value.times.last_access.unwrap_or(NEVER),
            busy_since: AtomicU64::new(0),
            before: (value.tally.buckets_processed, value.tally.subjects_reported),
            people,
            counts: SeatCounts::of(value.tally, service.policy().bucket_subjects),
            categories: Categories::default(),
            refused: RefusedCounts::default(),
            turnaround: Turnaround::default(),
            client,
            service,
        }
    }

    pub(crate) fn state(&self) -> SeatState {
        self.standing().0
    }

    pub(crate) fn level(&self) -> Level {
        self.word.level()
    }

    /// What it is and how far it is trusted, by one look.
    pub(crate) fn standing(&self) -> (SeatState, Level) {
        self.words().standing()
    }

    /// The words that decide on its claims and leases.
    pub(crate) fn words(&self) -> Words<'_> {
        Words { client: &self.client.word, seat: &self.word, service: &self.service.state }
    }

    /// Why it has its level; `None` if that never changed.
    pub(crate) fn why(&self) -> Option<String> {
        self.why.load().as_deref().cloned()
    }

    /// Hub time, ms, of the last change of the level.
    pub(crate) fn level_at(&self) -> u64 {
        // ordering: Relaxed; the steward acts on it a whole interval later.
        self.level_at.load(Ordering::Relaxed)
    }

    /// Changes the level if it is `from`; in the client's turn.
    pub(crate) fn set_level(&self, from: Level, to: Level, why: &Arc<String>, now: u64) -> bool {
        if self.level() != from {
            return false;
        }
        // The reason first: who finds itself refused finds why.
        self.why.store(Some(Arc::clone(why)));
        // ordering: Relaxed; see `level_at`.
        self.level_at.store(now, Ordering::Relaxed);
        self.word.set_level(from, to)
    }

    /// Takes note of a successful call.
    pub(crate) fn touch(&self, now: u64) {
        let used = now + 1;
        // ordering: Relaxed, both; the steward acts on it a whole idle time later. The load spares writes to a shared line.
        if self.last_used.load(Ordering::Relaxed) != used {
            self.last_used.store(used, Ordering::Relaxed);
        }
    }

    pub(crate) fn last_used(&self) -> u64 {
        // ordering: Relaxed; see `touch`.
        self.last_used.load(Ordering::Relaxed).saturating_sub(1).max(self.made_at)
    }

    /// When it was last used, by the wall clock, ms: told from how long ago that was by the monotonic one.
    pub(crate) fn last_access(&self) -> Option<i64> {
        let clock = &self.service.link.clock;
        // ordering: Relaxed; see `touch`.
        match self.last_used.load(Ordering::Relaxed) {
            0 => Some(self.accessed_before).filter(|at| *at != NEVER),
            used => Some(clock.wall_ms().saturating_sub_unsigned(clock.now().saturating_sub(used - 1))),
        }
    }

    /// Takes note of an activation.
    pub(crate) fn note_activated(&self, wall_ms: i64) {
        // ordering: Relaxed, all; statistics. One activation at a time gets here.
        if self.first_activated.load(Ordering::Relaxed) == NEVER {
            self.first_activated.store(wall_ms, Ordering::Relaxed);
        }
        self.last_activated.store(wall_ms, Ordering::Relaxed);
    }

    /// When it was activated first and last, by the wall clock, ms.
    pub(crate) fn activated(&self) -> [Option<i64>; 2] {
        // ordering: Relaxed; statistics.
        let told = |at: &AtomicI64| Some(at.load(Ordering::Relaxed)).filter(|at| *at != NEVER);
        [told(&self.first_activated), told(&self.last_activated)]
    }

    /// `Active -> Inactive`, by the steward, or as its client is deregistered.
    pub(crate) fn retire(&self) -> bool {
        let retired = self.word.retire();
        if retired {
            // ordering: Relaxed; sizes the next pool.
            self.service.active_seats.fetch_sub(1, Ordering::Relaxed);
        }
        retired
    }

    /// True if it was not active before.
    pub(crate) fn activate(&self) -> Result<bool, ActivateError> {
        match self.word.activate(&self.client.word) {
            Activated::Suspended => return Err(ActivateError::Suspended),
            Activated::Unchanged => return Ok(false),
            Activated::Anew => {}
            Activated::Entered => {
                // ordering: Relaxed; sizes the next pool.
                self.service.active_seats.fetch_add(1, Ordering::Relaxed);
            }
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
            self.word.reinstate();
        } else if self.word.suspend() {
            // ordering: Relaxed; sizes the next pool.
            self.service.active_seats.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes room for up to `n` leases below `quota`; `now` is the clock's coarse reading, as it is of all that measure the
    /// time at work. Lock-free.
    pub(crate) fn reserve(&self, n: u32, quota: u32, now: u64) -> u32 {
        let Room { leases, first } = self.held.take(n, quota);
        if first {
            // ordering: Relaxed; an estimate of the seat's speed.
            self.busy_since.store(now.max(1), Ordering::Relaxed);
        }
        leases
    }

    pub(crate) fn give_back(&self, n: u32, now: u64) {
        if self.held.give_back(n) {
            // ordering: Relaxed; an estimate.
            let since = self.busy_since.swap(0, Ordering::Relaxed);
            if since != 0 {
                self.counts.busy_ms.add(now.saturating_sub(since));
            }
        }
    }

    /// Leases held, those being claimed right now included.
    pub(crate) fn leases_held(&self) -> u32 {
        self.held.held()
    }

    /// For leases that were alive before a restart.
    pub(crate) fn adopt(&self, leases: u32, now: u64) {
        self.reserve(leases, u32::MAX, now);
    }

    /// Subjects that it can be expected to finish within `time`, from what it has done since the hub was opened; `None`
    /// without a history.
    pub(crate) fn expected_subjects(&self, time: Duration) -> Option<u64> {
        let (buckets_before, subjects_before) = self.before;
        let buckets = self.counts.buckets_processed.value().saturating_sub(buckets_before);
        let done = self.counts.subjects_reported.value().saturating_sub(subjects_before);
        let busy = self.busy_ms();
        let enough = buckets >= HISTORY_BUCKETS && busy > 0;
        enough.then(|| (u128::from(done) * time.as_millis() / u128::from(busy)).try_into().unwrap_or(u64::MAX))
    }

    /// Milliseconds during which it has held at least one lease, since the hub was opened.
    pub(crate) fn busy_ms(&self) -> u64 {
        // ordering: Relaxed; an estimate.
        let since = self.busy_since.load(Ordering::Relaxed);
        let running = if since == 0 { 0 } else { self.service.link.clock.about_now().saturating_sub(since) };
        self.counts.busy_ms.value() + running
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
            registering: Fine::default(),
        })
    }

    pub(crate) fn client(&self, id: u64) -> Option<Arc<ClientCore>> {
        self.clients.get(&id).map(|client| Arc::clone(&client))
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

#[cfg(test)]
mod tests {
    use super::SeatCore;

    /// R87: a million seats fit: each takes about 1 KiB, its histogram, made with its first report, included.
    #[test]
    fn a_seat_takes_about_a_kibibyte() {
        let histogram = 560;
        assert!(size_of::<SeatCore>() + histogram <= 1_100, "{} bytes", size_of::<SeatCore>());
    }
}
