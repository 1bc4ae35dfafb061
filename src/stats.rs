//! Counters as snapshots: what each client, seat and service did, and what was refused.

use std::collections::HashMap;
use std::ops::AddAssign;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::clock::utc;
use crate::house::House;
use crate::id::ClientId;
use crate::link::Precedence;
use crate::people::{ClientCore, SeatCore};
use crate::record::SeatState;
use crate::registry::ServiceCore;
use crate::service::ServiceState;
use crate::sync::{Arc, Ordering};

/// Work handed out and taken back. At any quiet moment `assigned = processed + put_back + held`, for buckets and for
/// subjects, for each seat and so for every sum over seats.
///
/// All but `*_held` are running counts that survive a restart; `*_held` is counted in the slots when the snapshot is taken.
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
    /// Claims refused: not registered, inactive, suspended, service not ready, hub busy.
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
    /// Work handed out and taken back.
    pub work: Work,
    /// What was refused to it.
    pub faults: Faults,
    /// Claims made since the hub was opened.
    pub claims: u64,
    /// Of those, answered with nothing.
    pub empty_claims: u64,
    /// Repeated reports, answered `AlreadyDone`: no fault.
    pub already_done: u64,
    /// Its results that another client's later report, in a re-run, did not confirm.
    pub disagreements: u64,
    /// Time since the last successful call.
    pub idle: Duration,
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
    /// The sum over its seats.
    pub work: Work,
    /// The sum over its seats.
    pub faults: Faults,
    /// Subjects to be worked on, or done: taken in, and neither deleted nor withdrawn since.
    pub subjects_known: u64,
    /// Of these, those that wait for no report.
    pub subjects_done: u64,
    /// Offers of subjects that were known already.
    pub duplicates: u64,
    /// Discoveries that lay too deep.
    pub cut_by_depth: u64,
    /// Subjects beyond `max_subjects`.
    pub cut_by_budget: u64,
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
    /// Stored subjects that the plugin's type does not read.
    pub unreadable: u64,
    /// Pools formed since the hub was opened.
    pub pools_formed: u64,
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
    /// Bytes that wait for the writer.
    pub queued_bytes: u64,
    /// Bytes of the store on disk; 0 in memory, or if its directory cannot be read.
    pub store_bytes: u64,
}

/// Buckets and subjects held, by seat, counted in the slots.
fn held(service: &ServiceCore) -> HashMap<u32, (u64, u64)> {
    let mut held: HashMap<u32, (u64, u64)> = HashMap::new();
    for pool in service.live().iter() {
        for slot in pool.slots().iter().take(pool.passed()) {
            let seen = slot.snapshot();
            if seen.is_held() {
                let (buckets, subjects) = held.entry(seen.owner()).or_default();
                *buckets += 1;
                *subjects += u64::from(slot.open().count());
            }
        }
    }
    held
}

fn work(seat: &SeatCore, held: &HashMap<u32, (u64, u64)>) -> Work {
    let counts = &seat.counts;
    let (buckets_held, subjects_held) = held.get(&seat.index).copied().unwrap_or_default();
    Work {
        buckets_assigned: counts.buckets_assigned.value(),
        buckets_processed: counts.buckets_processed.value(),
        buckets_put_back: counts.buckets_put_back.value(),
        buckets_expired: counts.buckets_expired.value(),
        buckets_held,
        subjects_assigned: counts.subjects_assigned.value(),
        subjects_reported: counts.subjects_reported.value(),
        subjects_put_back: counts.subjects_put_back.value(),
        subjects_held,
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

fn seat(seat: &SeatCore, held: &HashMap<u32, (u64, u64)>) -> SeatStats {
    let now = seat.service.link.clock.now();
    SeatStats {
        client: seat.client.id,
        service: seat.service.name.to_string(),
        state: seat.state(),
        work: work(seat, held),
        faults: faults(seat),
        claims: seat.counts.claims.value(),
        empty_claims: seat.counts.empty.value(),
        already_done: seat.counts.already_done.value(),
        disagreements: seat.counts.disagreements.value(),
        idle: crate::people::idle_for(seat, now),
    }
}

pub(crate) fn of_seat(of: &SeatCore) -> SeatStats {
    seat(of, &held(&of.service))
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

pub(crate) fn of_service(house: &House, service: &Arc<ServiceCore>) -> ServiceStats {
    let held = held(service);
    let (mut total, mut refused) = (Work::default(), Faults::default());
    for (_, seat) in house.people.seats.iter().filter(|(_, seat)| seat.service.id == service.id) {
        total += work(seat, &held);
        refused += faults(seat);
    }
    let counts = &service.counts;
    let now = service.link.clock.now();
    let since = counts.oldest_wait_since.value();
    ServiceStats {
        id: service.name.to_string(),
        state: service.state(),
        // ordering: Relaxed; a statistic.
        active_seats: service.active_seats.load(Ordering::Relaxed),
        work: total,
        faults: refused,
        subjects_known: counts.known.value(),
        subjects_done: counts.done.value(),
        duplicates: counts.duplicates.value(),
        cut_by_depth: counts.cut_by_depth.value(),
        cut_by_budget: counts.cut_by_budget.value(),
        unmarked: counts.unmarked.value(),
        reruns: counts.reruns.value(),
        deleted: counts.deleted.value(),
        withdrawn: counts.withdrawn.value(),
        discarded: counts.discarded.value(),
        unreadable: counts.unreadable.value(),
        pools_formed: counts.pools_formed.value(),
        abandoned_slots: counts.abandoned_slots.value(),
        panics: service.panics(),
        unknown_tokens: counts.unknown_tokens.value(),
        oldest_wait: Duration::from_millis(now.saturating_sub(since)),
        longest_wait: Duration::from_millis(counts.longest_wait.value()),
        overdue: counts.overdue.value(),
        pool_drain_time: Some(counts.drain_ms.value()).filter(|ms| *ms != u64::MAX).map(Duration::from_millis),
        moved: counts.moved.value(),
        extra_work: counts.offered_again.value(),
    }
}

pub(crate) fn of_hub(house: &House) -> HubStats {
    let services: Vec<ServiceStats> = house.registry.all().iter().map(|service| of_service(house, service)).collect();
    let mut work = Work::default();
    for service in &services {
        work += service.work;
    }
    let refused = &house.people.refused;
    HubStats {
        services,
        work,
        clients: house.people.clients().len() as u64,
        invalid_registrations: refused.invalid.value(),
        throttled_registrations: refused.throttled.value(),
        not_registered: refused.not_registered.value(),
        busy_newcomers: house.link.turned_away(Precedence::Newcomer),
        busy_claims: house.link.turned_away(Precedence::Claim),
        busy_submits: house.link.turned_away(Precedence::Submit),
        queued_bytes: house.link.queued_bytes(),
        store_bytes: house.store.size_on_disk().unwrap_or(0),
    }
}
