//! The steward's charts: each seat's counters as they were at the last sample, and what became of them since.

use std::collections::{BTreeMap, HashMap};

use crate::clock::millis;
use crate::commit::{Change, Pending};
use crate::health::{Health, Sample, percent, step};
use crate::link::{Link, Precedence};
use crate::people::{People, SeatCore};
use crate::record::SeatState;
use crate::registry::ServiceCore;
use crate::service::Policy;
use crate::spread::{Crowd, Tally, total};
use crate::sync::Arc;
use crate::watch::Level;

/// The counters that a sample is made of. They run over; only differences are looked at.
const COUNTERS: usize = 16;
/// Which of them the disagreements are.
const DISAGREEMENTS: usize = 7;

/// One seat between two samples: about 240 bytes.
#[derive(Debug)]
struct Chart {
    before: [u32; COUNTERS],
    categories: Tally,
    /// Its reports by category, older intervals faded.
    recent: Tally,
    health: Health,
    /// Buckets that died since the client last reported, and those it has taken since the first of them.
    lost: u32,
    taken: u32,
    /// Milliseconds of work not yet used up by reports.
    credit_ms: u64,
}

/// What is kept of a seat.
#[derive(Debug)]
struct Place {
    /// `None`: it has not been in use.
    chart: Option<Box<Chart>>,
    /// Its disagreements when the last chart ended: who is not there can be contradicted all the same.
    disagreements: u32,
}

/// A seat that was sampled, before its peers are looked at.
struct Examined {
    seat: Arc<SeatCore>,
    sample: Sample,
    spread: Tally,
}

/// The charts of all seats, and when each service's were last written.
#[derive(Debug, Default)]
pub(crate) struct Charts {
    /// By the seat's number.
    seats: Vec<Place>,
    sampled_at: HashMap<u32, u64>,
}

impl Charts {
    /// Samples the seats of every service whose interval is over; true if a level changed.
    pub(crate) fn round(&mut self, link: &Link, people: &People, services: &[Arc<ServiceCore>], now: u64) -> bool {
        self.open(people);
        let due: HashMap<u32, (Arc<Policy>, u64)> =
            services.iter().filter_map(|service| Some((service.id, self.due(service, now)?))).collect();
        if due.is_empty() {
            return false;
        }
        // In the services' order: what is decided is journaled in the order in which it is met.
        let mut examined: BTreeMap<u32, Vec<Examined>> = BTreeMap::new();
        let mut changed = false;
        for (_, seat) in &people.seats {
            let Some((policy, since)) = due.get(&seat.service.id) else { continue };
            changed |= lift(link, people, seat, policy, now);
            if let Some(found) = self.examine(seat, policy, *since) {
                examined.entry(seat.service.id).or_default().push(found);
            }
        }
        for (service, found) in examined {
            if let Some((policy, _)) = due.get(&service) {
                changed |= self.judge(link, people, policy, &found, now);
            }
        }
        changed
    }

    /// Begins the charts of seats that are new since the last round.
    fn open(&mut self, people: &People) {
        while let Some(seat) = people.seats.get(self.seats.len()) {
            let in_use = seat.state() == SeatState::Active;
            let disagreements = disagreements(seat);
            let chart = in_use.then(|| Box::new(Chart::of(seat, disagreements)));
            self.seats.push(Place { chart, disagreements });
        }
    }

    /// The service's settings and the time of its last sample, if an interval is over. Samples stand at multiples of the
    /// interval from the first one on, however late the steward comes.
    fn due(&mut self, service: &ServiceCore, now: u64) -> Option<(Arc<Policy>, u64)> {
        let policy = service.policy();
        let interval = millis(policy.watch.interval);
        let at = self.sampled_at.entry(service.id).or_insert(now);
        let over = now.saturating_sub(*at).checked_div(interval)?;
        if over == 0 {
            return None;
        }
        let since = *at;
        *at += over * interval;
        Some((policy, since))
    }

    /// Takes a seat's sample, and begins the next interval.
    fn examine(&mut self, seat: &Arc<SeatCore>, policy: &Policy, since: u64) -> Option<Examined> {
        let place = self.seats.get_mut(seat.index as usize)?;
        let in_use = seat.state() == SeatState::Active;
        let Some(chart) = &mut place.chart else {
            if in_use || seat.last_used() >= since || disagreements(seat) != place.disagreements {
                // What others found meanwhile counts in the first sample.
                place.chart = Some(Box::new(Chart::of(seat, place.disagreements)));
            }
            return None;
        };
        let (sample, spread) = chart.sample(seat, policy);
        // A row of bad intervals is not shed by leaving.
        if sample.is_silent() && !in_use && seat.last_used() < since && chart.health.bad == 0 {
            *place = Place { chart: None, disagreements: chart.disagreements() };
            return None;
        }
        Some(Examined { seat: Arc::clone(seat), sample, spread })
    }

    /// Compares the seats of one service with each other, and draws the conclusions.
    fn judge(&mut self, link: &Link, people: &People, policy: &Policy, found: &[Examined], now: u64) -> bool {
        let watch = &policy.watch;
        let is_peer = |seat: &SeatCore| seat.level() == Level::Healthy;
        // Whom it suspects, the hub does not take for a measure.
        let peers = found.iter().filter(|found| is_peer(&found.seat)).map(|found| &found.spread);
        let crowd = Crowd::of(peers, watch.least_reports);
        let mut changed = false;
        for Examined { seat, sample, spread } in found {
            let Some(chart) = self.seats.get_mut(seat.index as usize).and_then(|place| place.chart.as_mut()) else {
                continue;
            };
            let (least, peers) = (watch.least_reports, watch.least_peers);
            let sample = Sample { distance_percent: crowd.distance(spread, is_peer(seat), least, peers), ..*sample };
            if chart.health.level != seat.level() {
                // An administrator, or time, changed it: everything begins anew.
                chart.health = Health::at(seat.level());
                (chart.lost, chart.taken, chart.recent) = (0, 0, Tally::default());
            }
            let (after, why) = step(chart.health, &sample, watch);
            let levels = (chart.health.level, after.level);
            let made = why.map(|why| change(link, people, seat, levels, why, now));
            // Without room in the journal the streak stays one short, and the next such interval tries again.
            if made != Some(false) {
                chart.health = after;
            }
            changed |= made == Some(true);
        }
        changed
    }
}

impl Chart {
    /// Begins here, but for the disagreements: these are counted from an earlier number on.
    fn of(seat: &SeatCore, disagreements: u32) -> Self {
        // What it held before this chart was begun, it may have worked on.
        let worked = seat.counts.buckets_assigned() > 0;
        let credit_ms = if worked { millis(seat.service.policy().lease) } else { 0 };
        let mut before = counters(seat);
        if let Some(count) = before.get_mut(DISAGREEMENTS) {
            *count = disagreements;
        }
        Self {
            before,
            categories: seat.categories.tally(),
            recent: Tally::default(),
            health: Health::at(seat.level()),
            lost: 0,
            taken: 0,
            credit_ms,
        }
    }

    /// The seat's disagreements at the last sample.
    fn disagreements(&self) -> u32 {
        self.before.get(DISAGREEMENTS).copied().unwrap_or_default()
    }

    /// What happened since the last sample, but for the comparison with the peers.
    fn sample(&mut self, seat: &SeatCore, policy: &Policy) -> (Sample, Tally) {
        let counters = counters(seat);
        let delta: [u32; COUNTERS] = since(&counters, &self.before);
        self.before = counters;
        let categories = seat.categories.tally();
        let new = since(&categories, &self.categories);
        self.categories = categories;
        let spread = self.spread(&new);
        let [forged, misplaced, rejected, oversized, conflicts, stale, over_ask, disagreements, ..] = delta;
        let [.., panicked, repeated, accepted, processed, put_back, expired, taken, busy_ms] = delta;
        let reports = [misplaced, rejected, oversized, conflicts, stale, panicked, repeated, accepted];
        let reports = reports.into_iter().fold(0, u32::saturating_add);
        let sample = Sample {
            forged,
            misplaced,
            rejected,
            oversized,
            conflicts,
            stale,
            over_ask,
            disagreements,
            reports,
            ended: processed.saturating_add(put_back),
            expired,
            hoarded: self.hoarded(reports, expired, taken, policy.bucket_subjects),
            hasty_percent: self.hasty(accepted, busy_ms, policy),
            distance_percent: 0,
        };
        (sample, spread)
    }

    /// What to compare with the peers: the interval's reports and those before it, a quarter of which fades with each
    /// interval. Nothing, if it brought none.
    fn spread(&mut self, new: &Tally) -> Tally {
        if total(new) == 0 {
            return Tally::default();
        }
        for (recent, new) in self.recent.iter_mut().zip(new) {
            *recent = (*recent - recent.div_ceil(4)).saturating_add(*new);
        }
        self.recent
    }

    /// Counts buckets that die in silence, and those taken since; anything but silence begins anew.
    fn hoarded(&mut self, reports: u32, expired: u32, taken: u32, bucket: usize) -> u32 {
        let dead_subjects = u64::from(expired).saturating_mul(bucket as u64);
        if reports > 0 && u64::from(reports) * 10 >= dead_subjects {
            (self.lost, self.taken) = (0, 0);
            return 0;
        }
        self.lost = self.lost.saturating_add(expired);
        if self.lost > 0 {
            self.taken = self.taken.saturating_add(taken);
        }
        if taken == 0 && expired == 0 { 0 } else { self.lost.min(self.taken) }
    }

    /// The share of accepted reports that the time it held leases does not suffice for. Time that was not used is saved up,
    /// up to a lease's: reports may come in an interval after the work.
    fn hasty(&mut self, accepted: u32, busy_ms: u32, policy: &Policy) -> u32 {
        let each = millis(policy.watch.min_subject_time);
        let credit = self.credit_ms.saturating_add(u64::from(busy_ms));
        let needed = u64::from(accepted).saturating_mul(each);
        self.credit_ms = credit.saturating_sub(needed).min(millis(policy.lease));
        let excess = needed.saturating_sub(credit).checked_div(each).unwrap_or(0);
        let excess = u32::try_from(excess).unwrap_or(u32::MAX);
        if accepted < policy.watch.least_reports { 0 } else { percent(excess, accepted) }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "differences of the low halves are looked at")]
fn disagreements(seat: &SeatCore) -> u32 {
    seat.counts.disagreements.value() as u32
}

/// A seat's counters now; the order is that of `Chart::sample`.
fn counters(seat: &SeatCore) -> [u32; COUNTERS] {
    let counts = &seat.counts;
    let values = [
        counts.not_owner.value(),
        counts.not_in_bucket.value(),
        counts.rejected.value(),
        counts.oversized.value(),
        counts.conflicts.value(),
        counts.stale.value(),
        counts.over_ask.value(),
        counts.disagreements.value(),
        counts.plugin_panics.value(),
        counts.already_done.value(),
        counts.subjects_reported.value(),
        counts.buckets_processed.value(),
        counts.buckets_put_back.value(),
        counts.buckets_expired.value(),
        counts.buckets_assigned(),
        seat.busy_ms(),
    ];
    #[expect(clippy::cast_possible_truncation, reason = "differences of the low halves are looked at")]
    values.map(|value| value as u32)
}

/// What was added to each count.
fn since<const N: usize>(after: &[u32; N], before: &[u32; N]) -> [u32; N] {
    let mut delta = *after;
    for (count, before) in delta.iter_mut().zip(before) {
        *count = count.wrapping_sub(*before);
    }
    delta
}

/// Makes a quarantined client a suspect when its time is over, if the settings say so.
fn lift(link: &Link, people: &People, seat: &SeatCore, policy: &Policy, now: u64) -> bool {
    let Some(quarantine) = policy.watch.quarantine else { return false };
    let over = now >= seat.level_at().saturating_add(millis(quarantine));
    let why = || format!("the quarantine of {quarantine:?} is over");
    let levels = (Level::Quarantined, Level::Suspect);
    seat.level() == Level::Quarantined && over && change(link, people, seat, levels, why(), now)
}

/// Changes a seat's level and journals it; false if there is no room for that, or if somebody else was faster.
pub(crate) fn change(
    link: &Link,
    people: &People,
    seat: &SeatCore,
    (from, to): (Level, Level),
    why: String,
    now: u64,
) -> bool {
    // Room first: a change that could not be journaled does not happen.
    let room = Pending::OVERHEAD + why.len();
    if link.reserve(Precedence::Claim, room).is_err() {
        return false;
    }
    let (service, client) = (seat.service.id, seat.client.id.value());
    let why = Arc::new(why);
    let changed = people.in_turn(client, || {
        let changed = seat.set_level(from, to, &why, now);
        if changed {
            drop(link.post(Change::Level { service, client, level: to, why: Arc::clone(&why) }, room));
        }
        changed
    });
    if changed {
        tracing::warn!(client, service = %seat.service.name, %from, %to, %why, "level of a client changed");
    } else {
        link.give_back(room);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Weak;

    use crate::clock::{HubClock, ManualClock};
    use crate::id::{ClientId, Secret};
    use crate::limits::Limits;
    use crate::people::ClientCore;
    use crate::record::SeatValue;
    use crate::service::ServiceState;
    use crate::services::FollowerCheck;

    fn seat(link: &Arc<Link>) -> SeatCore {
        let plugin = Arc::new(FollowerCheck::default());
        let policy = Policy { lease: std::time::Duration::from_millis(50), ..Policy::default() };
        let service = ServiceCore::new(1, "s", ServiceState::Active, policy, plugin, Arc::clone(link));
        let client = ClientCore::new(ClientId::known(1), "one", true, 0, 0);
        SeatCore::new(0, Arc::new(client), Arc::new(service), SeatValue::fresh(), Weak::new())
    }

    fn link() -> Arc<Link> {
        let clock = HubClock::new(Arc::new(ManualClock::default()), 0);
        Arc::new(Link::new(clock, Limits::default(), Secret::from_bytes([1; Secret::BYTES]), true))
    }

    #[test]
    fn a_level_that_cannot_be_journaled_does_not_change() {
        let link = link();
        let (people, seat) = (People::new(), seat(&link));
        let full = usize::try_from(link.limits.queue_bytes).unwrap() - 100;
        link.reserve(Precedence::Submit, full).unwrap();
        let raise = || change(&link, &people, &seat, (Level::Healthy, Level::Suspect), "why".to_owned(), 7);
        assert!(!raise());
        assert_eq!((seat.level(), seat.why(), link.queued_bytes()), (Level::Healthy, None, full as u64));
        link.give_back(full);
        assert!(raise());
        assert_eq!((seat.level(), seat.why(), seat.level_at()), (Level::Suspect, Some("why".to_owned()), 7));
        let queued = link.queued_bytes();
        assert!(!raise(), "it is not healthy any more");
        assert_eq!((link.queued_bytes(), link.take_all().len()), (queued, 1), "what was not needed is given back");
    }

    #[test]
    fn state_and_level_share_a_word_and_leave_each_other_alone() {
        let link = link();
        let seat = seat(&link);
        let why = Arc::new(String::new());
        let mut before = Level::Healthy;
        for level in [Level::Quarantined, Level::Suspect, Level::Healthy, Level::Suspect] {
            assert!(seat.set_level(before, level, &why, 0) && !seat.set_level(before, level, &why, 0));
            before = level;
            assert_eq!(seat.activate(), Ok(true));
            assert_eq!(seat.standing(), (SeatState::Active, level));
            seat.set_suspended(true);
            assert_eq!(seat.standing(), (SeatState::Suspended, level));
            seat.set_suspended(false);
            assert_eq!(seat.standing(), (SeatState::Inactive, level));
            assert!(seat.activate().is_ok() && seat.retire() && !seat.retire());
            assert_eq!(seat.standing(), (SeatState::Inactive, level));
        }
    }

    #[test]
    fn time_without_reports_is_saved_up_to_a_lease() {
        let link = link();
        let mut chart = Chart::of(&seat(&link), 0);
        let mut policy = Policy::clone(&seat(&link).service.policy());
        (policy.watch.min_subject_time, policy.watch.least_reports) = (std::time::Duration::from_millis(10), 1);
        let mut hasty = |accepted, busy_ms| chart.hasty(accepted, busy_ms, &policy);
        // Of nothing saved, and just enough; then of 50 saved ms at most, with what the interval itself brings.
        assert_eq!((hasty(2, 20), hasty(2, 10), hasty(4, 0)), (0, 50, 100));
        assert_eq!((hasty(0, 1_000), hasty(5, 0), hasty(1, 0)), (0, 0, 100));
        assert_eq!((hasty(0, 1_000), hasty(10, 50), hasty(100, 1_000)), (0, 0, 0));
    }

    #[test]
    fn older_reports_fade_and_no_reports_are_compared_with_nothing() {
        let mut chart = Chart::of(&seat(&link()), 0);
        let first = |count| Tally::from(std::array::from_fn(|i| if i == 0 { count } else { 0 }));
        let mut spread = |new| chart.spread(&first(new))[0];
        assert_eq!((spread(40), spread(1), spread(0), spread(10)), (40, 31, 0, 33));
        // Up to four times an interval's.
        assert_eq!((0..100).map(|_| spread(20)).last(), Some(77));
    }

    #[test]
    fn a_chart_is_small() {
        assert!(size_of::<Chart>() <= 240, "{} bytes a seat", size_of::<Chart>());
    }

    #[test]
    fn counters_that_run_over_give_the_right_difference() {
        assert_eq!(since(&[5, 0], &[u32::MAX - 4, 0]), [10, 0]);
    }
}
