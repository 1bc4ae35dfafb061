//! Counters as snapshots: what each client, seat and service did, and what was refused.

use std::collections::HashMap;
use std::ops::AddAssign;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::clock::utc;
use crate::histogram::Distribution;
use crate::house::House;
use crate::id::ClientId;
use crate::link::Precedence;
use crate::measures::Times;
use crate::people::{ClientCore, SeatCore};
use crate::record::SeatState;
use crate::refused::Refused;
use crate::registry::ServiceCore;
use crate::service::ServiceState;
use crate::slot::Phase;
use crate::storage::StorageStats;
use crate::sync::{Arc, Ordering};
use crate::watch::Level;

/// Work handed out and taken back. At any quiet moment `assigned = processed + put_back + held`, for buckets and for
/// subjects, for each seat and so for every sum over seats.
///
/// All but `*_held` and `buckets_dead` are running counts that survive a restart; those are counted in the slots when the
/// snapshot is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Work {
    /// Buckets leased.
    pub buckets_assigned: u64,
    /// Buckets all of whose subjects were reported.
    pub buckets_processed: u64,
    /// Buckets that ended with subjects left over, which were put back.
    pub buckets_put_back: u64,
    /// Of those put back: the client did not report in time.
    pub buckets_expired: u64,
    /// Buckets held now, dead ones within their grace included.
    pub buckets_held: u64,
    /// Of those held: not reported in time, and within their grace: reports are still taken.
    pub buckets_dead: u64,
    /// Subjects leased.
    pub subjects_assigned: u64,
    /// Subjects reported and accepted.
    pub subjects_reported: u64,
    /// Subjects put back.
    pub subjects_put_back: u64,
    /// Subjects still owed by leases held now.
    pub subjects_held: u64,
}

impl Work {
    /// True if nothing was lost and nothing counted twice. May be false while calls are under way.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.buckets_assigned == self.buckets_processed + self.buckets_put_back + self.buckets_held
            && self.subjects_assigned == self.subjects_reported + self.subjects_put_back + self.subjects_held
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.buckets_assigned += other.buckets_assigned;
        self.buckets_processed += other.buckets_processed;
        self.buckets_put_back += other.buckets_put_back;
        self.buckets_expired += other.buckets_expired;
        self.buckets_held += other.buckets_held;
        self.buckets_dead += other.buckets_dead;
        self.subjects_assigned += other.subjects_assigned;
        self.subjects_reported += other.subjects_reported;
        self.subjects_put_back += other.subjects_put_back;
        self.subjects_held += other.subjects_held;
    }
}

/// What was refused, by kind. Counted since the hub was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Faults {
    /// Tokens of others' leases, and forged ones.
    pub not_owner: u64,
    /// Reports on subjects that are not in the bucket.
    pub not_in_bucket: u64,
    /// Reports that the plugin rejected.
    pub rejected: u64,
    /// Reports that were too long.
    pub oversized: u64,
    /// Reports on which the plugin panicked.
    pub plugin_panics: u64,
    /// Reports that contradicted an earlier one (these survive a restart).
    pub conflicts: u64,
    /// Reports on leases that were over.
    pub stale: u64,
    /// Claims for more than the cap.
    pub over_ask: u64,
    /// Renewals of leases that had lasted as long as a lease may.
    pub renewals_capped: u64,
    /// Claims refused: not registered, inactive, suspended, quarantined, service not ready, hub busy.
    pub claims_refused: u64,
}

impl AddAssign for Faults {
    fn add_assign(&mut self, other: Self) {
        self.not_owner += other.not_owner;
        self.not_in_bucket += other.not_in_bucket;
        self.rejected += other.rejected;
        self.oversized += other.oversized;
        self.plugin_panics += other.plugin_panics;
        self.conflicts += other.conflicts;
        self.stale += other.stale;
        self.over_ask += other.over_ask;
        self.renewals_capped += other.renewals_capped;
        self.claims_refused += other.claims_refused;
    }
}

/// One client's activity for one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SeatStats {
    /// The client.
    pub client: ClientId,
    /// The service's id.
    pub service: String,
    /// What the seat is.
    pub state: SeatState,
    /// How far the client is trusted for this service.
    pub level: Level,
    /// Why it has this level; `None` if it never had another.
    pub why: Option<String>,
    /// Work handed out and taken back.
    pub work: Work,
    /// What was wrong with what it sent.
    pub faults: Faults,
    /// Calls that were refused as a whole.
    pub refused: Refused,
    /// When it was first activated, by the wall clock; `None` if never.
    pub first_activated: Option<DateTime<Utc>>,
    /// When it was last activated, by the wall clock.
    pub last_activated: Option<DateTime<Utc>>,
    /// When it was last used with success (activated, claimed, reported, renewed, gave back), by the wall clock. From before
    /// a restart, all but renewals.
    pub last_access: Option<DateTime<Utc>>,
    /// Claims made since the hub was opened that were not refused.
    pub claims: u64,
    /// Of those, answered with nothing.
    pub empty_claims: u64,
    /// Submits that were answered report by report, final or not, since the hub was opened.
    pub submits: u64,
    /// Renewals that succeeded, since the hub was opened.
    pub renewals: u64,
    /// Leases released or dropped before they were over, since the hub was opened.
    pub releases: u64,
    /// Repeated reports, answered `AlreadyDone`: no fault.
    pub already_done: u64,
    /// Reports on lanes that did not come in the lane's order, or with others that were refused.
    pub out_of_order: u64,
    /// Reports on subjects of lanes whose deadline had passed: refused.
    pub past_deadline: u64,
    /// Its results that another client's later report, in a re-run, did not confirm: it was not the same, byte by byte.
    pub disagreements: u64,
    /// Time since the last successful call.
    pub idle: Duration,
    /// From a claim to a report that was accepted, since the hub was opened; one value a submit.
    pub turnaround_ms: Distribution,
}

/// One client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClientStats {
    /// Its id.
    pub id: ClientId,
    /// Its screen name.
    pub name: String,
    /// False after a deregistration.
    pub registered: bool,
    /// When it was first registered.
    pub first_registered: DateTime<Utc>,
    /// When it was last registered.
    pub last_registered: DateTime<Utc>,
    /// Its seats.
    pub seats: Vec<SeatStats>,
    /// The sum over its seats.
    pub work: Work,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ServiceStats {
    /// Its id.
    pub id: String,
    /// Where it is in its life.
    pub state: ServiceState,
    /// Seats that are active.
    pub active_seats: u32,
    /// Seats that are suspect.
    pub suspect_seats: u32,
    /// Seats that are quarantined.
    pub quarantined_seats: u32,
    /// The sum over its seats.
    pub work: Work,
    /// The sum over its seats.
    pub faults: Faults,
    /// The sum over its seats.
    pub refused: Refused,
    /// Activations refused, for any reason, since the hub was opened.
    pub activations_refused: u64,
    /// Subjects to be worked on, or done: taken in, and neither deleted nor withdrawn since.
    pub subjects_known: u64,
    /// Of these, those that wait for no report.
    pub subjects_done: u64,
    /// Offers of subjects that were known already.
    pub duplicates: u64,
    /// Discoveries that lay too deep.
    pub cut_by_depth: u64,
    /// Additions and discoveries beyond `max_subjects`; what is sent to lanes is never among them.
    pub cut_by_budget: u64,
    /// Additions not taken in, since their lane owed as many subjects as it may ([`Policy::lane_subjects`](crate::Policy::lane_subjects)).
    pub lane_full: u64,
    /// Subjects of lanes that ended without a report, since their deadline had passed; they count as reported in
    /// [`work`](Self::work), and as done.
    pub expired: u64,
    /// Subjects known but not to be worked on: discovered too deep.
    pub unmarked: u64,
    /// Rounds opened after a subject's first.
    pub reruns: u64,
    /// Subjects deleted.
    pub deleted: u64,
    /// Results withdrawn by retractions that were not undone.
    pub withdrawn: u64,
    /// Reports for subjects that were owed no more (deleted, withdrawn, or done by another lease): answered as accepted
    /// and dropped.
    pub discarded: u64,
    /// Reports taken after their lease had expired ([`Late::AcceptIfOpen`](crate::Late::AcceptIfOpen)); each is counted as
    /// assigned once more.
    pub late: u64,
    /// Stored subjects that the plugin's type does not read.
    pub unreadable: u64,
    /// Pools formed since the hub was opened.
    pub pools_formed: u64,
    /// Pools in memory: those that claims are served from, and those of which leases are held.
    pub pools_alive: u64,
    /// Buckets formed and not taken yet. They are handed out while the service is [ready](ServiceState::is_ready).
    pub buckets_ready: u64,
    /// Subjects in them. One that was made urgent counts where it stands now, and where it stood until a claim finds it moved.
    pub subjects_ready: u64,
    /// Slots taken back because no claim took them.
    pub abandoned_slots: u64,
    /// Plugin panics since the hub was opened or the service activated.
    pub panics: u32,
    /// Tokens presented that belong to no client's lease.
    pub unknown_tokens: u64,
    /// How long the oldest subject that is not handed out has waited, of those in memory: those in the store are younger.
    pub oldest_wait: Duration,
    /// The longest that a subject waited before it was handed out, since the hub was opened.
    pub longest_wait: Duration,
    /// Subjects that were handed out later than `Policy::max_wait` after they began to wait, since the hub was opened.
    pub overdue: u64,
    /// Time in which what is ready will have been taken, at the present rate; `None`: nothing is being taken.
    pub pool_drain_time: Option<Duration>,
    /// Urgent subjects moved out of buckets that waited, since the hub was opened.
    pub moved: u64,
    /// Extra work: urgent subjects handed out while another lease held them, since the hub was opened.
    pub extra_work: u64,
    /// Lanes with work, of which no bucket was cut.
    pub lanes_ready: u64,
    /// Lanes of which a bucket was cut: it waits, is held, or what was reported on it is on its way to the store.
    pub lanes_running: u64,
    /// Subjects that wait in lanes, of those in memory.
    pub laned_waiting: u64,
    /// How long the oldest of them has waited: the longest queue delay of any lane.
    pub lane_wait: Duration,
    /// How long things take.
    pub times: Times,
}

impl ServiceStats {
    /// Subjects without a result.
    #[must_use]
    pub fn subjects_pending(&self) -> u64 {
        self.subjects_known.saturating_sub(self.subjects_done)
    }
}

/// The whole hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HubStats {
    /// Its services.
    pub services: Vec<ServiceStats>,
    /// The sum over its services.
    pub work: Work,
    /// Clients ever registered.
    pub clients: u64,
    /// Registrations refused for their details.
    pub invalid_registrations: u64,
    /// Registrations refused by a budget.
    pub throttled_registrations: u64,
    /// Calls of clients that are not registered.
    pub not_registered: u64,
    /// Registrations, activations and additions turned away since the queue was too full for them.
    pub busy_newcomers: u64,
    /// Claims turned away since the queue was too full for them, and evidence not kept.
    pub busy_claims: u64,
    /// Submits and administrators' decisions turned away since the queue was full.
    pub busy_submits: u64,
    /// How long registrations took, refused ones included, since the hub was opened.
    pub register_ns: Distribution,
    /// Bytes that wait to be written: to be journaled, or applied.
    pub queued_bytes: u64,
    /// Bytes of the store on disk; 0 in memory, or if its directory cannot be read.
    pub store_bytes: u64,
    /// What was asked of the disk since the hub was opened.
    pub storage: StorageStats,
}

/// What a seat holds.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    buckets: u64,
    dead: u64,
    subjects: u64,
}

/// What can be claimed.
#[derive(Debug, Clone, Copy, Default)]
struct Ready {
    pools: u64,
    buckets: u64,
    subjects: u64,
}

/// What is ready, counted in the slots.
fn ready(service: &ServiceCore) -> Ready {
    let live = service.live();
    let mut ready = Ready { pools: live.len() as u64, ..Ready::default() };
    for slot in live.iter().flat_map(|pool| pool.slots()) {
        if slot.snapshot().phase() == Phase::Ready {
            ready.buckets += 1;
            ready.subjects += u64::from(slot.open().count());
        }
    }
    ready
}

/// What is held, by seat, counted in the slots.
fn held(service: &ServiceCore) -> HashMap<u32, Held> {
    let mut held: HashMap<u32, Held> = HashMap::new();
    for pool in service.live().iter() {
        for (_, slot) in pool.passed() {
            let seen = slot.snapshot();
            if seen.is_held() {
                let of = held.entry(seen.owner()).or_default();
                of.buckets += 1;
                of.dead += u64::from(seen.phase() == Phase::Dead);
                of.subjects += u64::from(slot.open().count());
            }
        }
    }
    held
}

fn work(seat: &SeatCore, held: &HashMap<u32, Held>) -> Work {
    let counts = &seat.counts;
    let held = held.get(&seat.index).copied().unwrap_or_default();
    Work {
        buckets_assigned: counts.buckets_assigned(),
        buckets_processed: counts.buckets_processed.value(),
        buckets_put_back: counts.buckets_put_back.value(),
        buckets_expired: counts.buckets_expired.value(),
        buckets_held: held.buckets,
        buckets_dead: held.dead,
        subjects_assigned: counts.subjects_assigned(),
        subjects_reported: counts.subjects_reported.value(),
        subjects_put_back: counts.subjects_put_back.value(),
        subjects_held: held.subjects,
    }
}

fn faults(seat: &SeatCore) -> Faults {
    let counts = &seat.counts;
    Faults {
        not_owner: counts.not_owner.value(),
        not_in_bucket: counts.not_in_bucket.value(),
        rejected: counts.rejected.value(),
        oversized: counts.oversized.value(),
        plugin_panics: counts.plugin_panics.value(),
        conflicts: counts.conflicts.value(),
        stale: counts.stale.value(),
        over_ask: counts.over_ask.value(),
        renewals_capped: counts.renewals_capped.value(),
        claims_refused: counts.claims_refused.value(),
    }
}

fn seat(seat: &SeatCore, held: &HashMap<u32, Held>) -> SeatStats {
    let now = seat.service.link.clock.now();
    let [first_activated, last_activated] = seat.activated();
    SeatStats {
        client: seat.client.id,
        service: seat.service.name.to_string(),
        state: seat.state(),
        level: seat.level(),
        why: seat.why(),
        work: work(seat, held),
        faults: faults(seat),
        refused: seat.refused.read(),
        first_activated: first_activated.map(utc),
        last_activated: last_activated.map(utc),
        last_access: seat.last_access().map(utc),
        claims: seat.counts.claims(),
        empty_claims: seat.counts.empty.value(),
        submits: seat.counts.submits.value(),
        renewals: seat.counts.renewals.value(),
        releases: seat.counts.releases.value(),
        already_done: seat.counts.already_done.value(),
        out_of_order: seat.counts.out_of_order.value(),
        past_deadline: seat.counts.past_deadline.value(),
        disagreements: seat.counts.disagreements.value(),
        idle: crate::people::idle_for(seat, now),
        turnaround_ms: seat.turnaround.snapshot(),
    }
}

pub(crate) fn of_seat(of: &SeatCore) -> SeatStats {
    seat(of, &held(&of.service))
}

pub(crate) fn of_unhealthy(house: &House, service: &Arc<ServiceCore>) -> Vec<SeatStats> {
    let held = held(service);
    let seats = house.people.seats.iter().map(|(_, of)| of);
    seats.filter(|of| of.service.id == service.id && of.level() != Level::Healthy).map(|of| seat(of, &held)).collect()
}

pub(crate) fn of_client(house: &House, client: &ClientCore) -> ClientStats {
    let seats: Vec<SeatStats> = house.people.seats_of(client).iter().map(|of| of_seat(of)).collect();
    let mut work = Work::default();
    for seat in &seats {
        work += seat.work;
    }
    // ordering: Relaxed; a statistic.
    let last = client.last_wall_ms.load(Ordering::Relaxed).cast_signed();
    ClientStats {
        id: client.id,
        name: client.name.to_string(),
        registered: client.is_registered(),
        first_registered: utc(client.first_wall_ms),
        last_registered: utc(last),
        seats,
        work,
    }
}

/// What adds up over the seats of a service.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    work: Work,
    faults: Faults,
    refused: Refused,
    suspect_seats: u32,
    quarantined_seats: u32,
}

/// The sums of some services, by their numbers, in one walk over all seats.
fn sums(house: &House, services: &[Arc<ServiceCore>]) -> HashMap<u32, Sums> {
    let mut sums: HashMap<u32, (HashMap<u32, Held>, Sums)> =
        services.iter().map(|service| (service.id, (held(service), Sums::default()))).collect();
    for (_, seat) in &house.people.seats {
        if let Some((held, sums)) = sums.get_mut(&seat.service.id) {
            sums.work += work(seat, held);
            sums.faults += faults(seat);
            sums.refused += seat.refused.read();
            sums.suspect_seats += u32::from(seat.level() == Level::Suspect);
            sums.quarantined_seats += u32::from(seat.level() == Level::Quarantined);
        }
    }
    sums.into_iter().map(|(service, (_, sums))| (service, sums)).collect()
}

pub(crate) fn of_service(house: &House, service: &Arc<ServiceCore>) -> ServiceStats {
    let sums = sums(house, std::slice::from_ref(service)).remove(&service.id);
    with_sums(service, &sums.unwrap_or_default())
}

fn with_sums(service: &ServiceCore, sums: &Sums) -> ServiceStats {
    let Sums { work, faults, refused, suspect_seats, quarantined_seats } = *sums;
    let counts = &service.counts;
    let now = service.link.clock.now();
    let since = counts.oldest_wait_since.value();
    let ready = ready(service);
    ServiceStats {
        id: service.name.to_string(),
        state: service.state(),
        // ordering: Relaxed; a statistic.
        active_seats: service.active_seats.load(Ordering::Relaxed),
        suspect_seats,
        quarantined_seats,
        work,
        faults,
        refused,
        activations_refused: counts.activations_refused.value(),
        subjects_known: counts.known.value(),
        subjects_done: counts.done.value(),
        duplicates: counts.duplicates.value(),
        cut_by_depth: counts.cut_by_depth.value(),
        cut_by_budget: counts.cut_by_budget.value(),
        lane_full: counts.lane_full.value(),
        expired: counts.expired.value(),
        unmarked: counts.unmarked.value(),
        reruns: counts.reruns.value(),
        deleted: counts.deleted.value(),
        withdrawn: counts.withdrawn.value(),
        discarded: counts.discarded.value(),
        late: counts.late.value(),
        unreadable: counts.unreadable.value(),
        pools_formed: counts.pools_formed.value(),
        pools_alive: ready.pools,
        buckets_ready: ready.buckets,
        subjects_ready: ready.subjects,
        abandoned_slots: counts.abandoned_slots.value(),
        panics: service.panics(),
        unknown_tokens: counts.unknown_tokens.value(),
        oldest_wait: Duration::from_millis(now.saturating_sub(since)),
        longest_wait: Duration::from_millis(counts.longest_wait.value()),
        overdue: counts.overdue.value(),
        pool_drain_time: Some(counts.drain_ms.value()).filter(|ms| *ms != u64::MAX).map(Duration::from_millis),
        moved: counts.moved.value(),
        extra_work: counts.offered_again.value(),
        lanes_ready: counts.lanes_ready.value(),
        lanes_running: counts.lanes_running.value(),
        laned_waiting: counts.laned_waiting.value(),
        lane_wait: Duration::from_millis(now.saturating_sub(counts.lane_wait_since.value())),
        times: service.measures.times(),
    }
}

pub(crate) fn of_hub(house: &House) -> HubStats {
    let all = house.registry.all();
    let mut sums = sums(house, &all);
    let services: Vec<ServiceStats> =
        all.iter().map(|service| with_sums(service, &sums.remove(&service.id).unwrap_or_default())).collect();
    let mut work = Work::default();
    for service in &services {
        work += service.work;
    }
    let refused = &house.people.refused;
    let not_registered =
        services.iter().map(|service| service.refused.not_registered).sum::<u64>() + refused.not_registered.value();
    HubStats {
        services,
        work,
        clients: house.people.clients.len() as u64,
        invalid_registrations: refused.invalid.value(),
        throttled_registrations: refused.throttled.value(),
        not_registered,
        busy_newcomers: house.link.turned_away(Precedence::Newcomer),
        busy_claims: house.link.turned_away(Precedence::Claim),
        busy_submits: house.link.turned_away(Precedence::Submit),
        register_ns: house.people.registering.snapshot(),
        queued_bytes: house.link.queued_bytes(),
        storage: house.disk.stats(),
        store_bytes: house.store.size_on_disk().unwrap_or(0),
    }
}
