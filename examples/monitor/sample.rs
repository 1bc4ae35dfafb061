//! What was seen of a hub at one moment, and the moments before it: plain figures, which need no hub to be drawn.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, Utc};
use commissary::Level;

use crate::figures::{count, real};

/// Moments that are kept: ten minutes, at two looks a second.
const SAMPLES: usize = 1_200;
/// Happenings that are kept.
const HAPPENINGS: usize = 200;
/// A change is taken over so many moments, so that it does not flicker.
const SPAN: usize = 4;

/// A time in seconds and a value.
pub(crate) type Point = (f64, f64);

/// A hub at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    /// Since the first look.
    pub(crate) at: Duration,
    /// Why the hub takes no new work, if so.
    pub(crate) trouble: Option<String>,
    pub(crate) clients: u64,
    /// Whom the hub turned away before they came to a service, and how many; those that occurred.
    pub(crate) turned_away: Vec<(&'static str, u64)>,
    pub(crate) queued_bytes: u64,
    pub(crate) services: Vec<ServiceSample>,
    /// The leases held longest, the oldest first.
    pub(crate) leases: Vec<LeaseSample>,
    /// Clients with faults, the worst first.
    pub(crate) faulty: Vec<FaultyClient>,
    pub(crate) disk: DiskSample,
    /// What happened since the last look, oldest first.
    pub(crate) news: Vec<Happening>,
}

/// One service.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServiceSample {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) seats: u32,
    pub(crate) known: u64,
    pub(crate) done: u64,
    /// Known, but not to be worked on.
    pub(crate) unmarked: u64,
    /// Reports accepted; it only grows.
    pub(crate) reported: u64,
    pub(crate) pools: u64,
    /// Subjects that can be claimed at once.
    pub(crate) ready: u64,
    /// Subjects that clients hold.
    pub(crate) leased: u64,
    pub(crate) leases: u64,
    pub(crate) dead: u64,
    pub(crate) expired: u64,
    pub(crate) faults: u64,
    pub(crate) oldest_wait: Duration,
    pub(crate) longest_wait: Duration,
    pub(crate) overdue: u64,
    pub(crate) drain_time: Option<Duration>,
    pub(crate) claim_ns: Spread,
    pub(crate) wait_ms: Spread,
}

impl ServiceSample {
    /// Subjects without a result that are neither leased nor ready.
    pub(crate) fn waiting(&self) -> u64 {
        self.known.saturating_sub(self.done).saturating_sub(self.leased).saturating_sub(self.ready)
    }
}

/// How values are spread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Spread {
    pub(crate) count: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
    /// Values from a power of two up to the next: that power's exponent, and how many. Ascending, without gaps.
    pub(crate) bars: Vec<(u32, u64)>,
}

/// One lease.
#[derive(Debug, Clone)]
pub(crate) struct LeaseSample {
    pub(crate) service: String,
    pub(crate) client: String,
    pub(crate) bucket: (u64, u32),
    pub(crate) held: Duration,
    /// Held for longer than the service's leases last without renewal.
    pub(crate) late: bool,
}

/// What is known against one client, for one service.
#[derive(Debug, Clone)]
pub(crate) struct FaultyClient {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) registered: bool,
    pub(crate) first_registered: DateTime<Utc>,
    /// Of this service.
    pub(crate) last_access: Option<DateTime<Utc>>,
    pub(crate) service: String,
    pub(crate) seat: String,
    pub(crate) level: Level,
    /// Why it has its level.
    pub(crate) why: Option<String>,
    pub(crate) assigned: u64,
    pub(crate) dead: u64,
    /// Kinds of faults, and how many; those that occurred.
    pub(crate) faults: Vec<(&'static str, u64)>,
}

impl FaultyClient {
    pub(crate) fn total(&self) -> u64 {
        self.faults.iter().map(|(_, count)| count).sum()
    }

    /// `3 rejected, 1 too late`, and why it is not trusted.
    pub(crate) fn told(&self) -> String {
        match (&self.why, self.level) {
            (Some(why), Level::Suspect | Level::Quarantined) => format!("{}; {why}", told(&self.faults)),
            _ => told(&self.faults),
        }
    }
}

/// Counts by kind, in words.
pub(crate) fn told(kinds: &[(&'static str, u64)]) -> String {
    let told: Vec<String> = kinds.iter().map(|(kind, number)| format!("{} {kind}", count(*number))).collect();
    told.join(", ")
}

/// What was asked of the disk since the hub was opened.
#[derive(Debug, Clone, Default)]
pub(crate) struct DiskSample {
    /// Subjects finished meanwhile.
    pub(crate) finished: u64,
    /// By who asked.
    pub(crate) roles: Vec<RoleSample>,
    pub(crate) journal_groups: u64,
    pub(crate) journal_records: u64,
    pub(crate) journal_bytes: u64,
    pub(crate) journal_syncs: u64,
    /// On disk.
    pub(crate) store_bytes: u64,
}

impl DiskSample {
    pub(crate) fn reads(&self) -> u64 {
        self.roles.iter().map(|role| role.reads).sum()
    }

    pub(crate) fn pairs_written(&self) -> u64 {
        self.roles.iter().map(|role| role.pairs_written).sum()
    }
}

/// What one role asked of the store.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoleSample {
    pub(crate) name: &'static str,
    pub(crate) reads: u64,
    pub(crate) bytes_read: u64,
    pub(crate) batches: u64,
    pub(crate) pairs_written: u64,
    pub(crate) bytes_written: u64,
}

/// Something that an operator may want to know of.
#[derive(Debug, Clone)]
pub(crate) struct Happening {
    pub(crate) at: DateTime<Utc>,
    pub(crate) what: String,
}

impl Happening {
    pub(crate) fn time(&self) -> String {
        self.at.format("%H:%M:%S").to_string()
    }
}

/// The newest moments and happenings.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<Sample>,
    happenings: VecDeque<Happening>,
}

impl History {
    pub(crate) fn push(&mut self, mut sample: Sample) {
        // Of earlier moments only what is drawn over time is kept.
        if let Some(last) = self.samples.back_mut() {
            (last.leases, last.faulty, last.disk.roles) = (Vec::new(), Vec::new(), totals(&last.disk));
            for service in &mut last.services {
                (service.claim_ns, service.wait_ms) = (Spread::default(), Spread::default());
            }
        }
        self.happenings.extend(std::mem::take(&mut sample.news));
        self.samples.push_back(sample);
        while self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
        while self.happenings.len() > HAPPENINGS {
            self.happenings.pop_front();
        }
    }

    pub(crate) fn latest(&self) -> Option<&Sample> {
        self.samples.back()
    }

    /// The newest first.
    pub(crate) fn happenings(&self) -> impl Iterator<Item = &Happening> {
        self.happenings.iter().rev()
    }

    /// A value over time; moments without one are left out.
    pub(crate) fn series(&self, value: impl Fn(&Sample) -> Option<f64>) -> Vec<Point> {
        self.samples.iter().filter_map(|sample| Some((sample.at.as_secs_f64(), value(sample)?))).collect()
    }

    /// The same of one service.
    pub(crate) fn of_service(&self, id: &str, value: impl Fn(&ServiceSample) -> f64) -> Vec<Point> {
        self.series(|sample| service(sample, id).map(&value))
    }

    /// How much a count grew in a second, over time.
    pub(crate) fn growth(&self, count: impl Fn(&Sample) -> Option<u64>) -> Vec<Point> {
        self.pairs(|earlier, later| {
            let grown = count(later)?.saturating_sub(count(earlier)?);
            let seconds = later.at.saturating_sub(earlier.at).as_secs_f64();
            (seconds > 0.0).then(|| real(grown) / seconds)
        })
    }

    /// Subjects of a service that were done in a second, over time.
    pub(crate) fn done_rate(&self, id: &str) -> Vec<Point> {
        self.growth(|sample| service(sample, id).map(|service| service.reported))
    }

    /// What 1,000 finished subjects cost, over time; moments in which none was finished are left out.
    pub(crate) fn cost(&self, count: impl Fn(&DiskSample) -> u64) -> Vec<Point> {
        self.pairs(|earlier, later| {
            let finished = later.disk.finished.saturating_sub(earlier.disk.finished);
            let asked = count(&later.disk).saturating_sub(count(&earlier.disk));
            (finished > 0).then(|| real(asked) * 1_000.0 / real(finished))
        })
    }

    fn pairs(&self, value: impl Fn(&Sample, &Sample) -> Option<f64>) -> Vec<Point> {
        let later = self.samples.iter().enumerate().skip(1);
        later
            .filter_map(|(place, later)| {
                let earlier = self.samples.get(place.saturating_sub(SPAN))?;
                Some((later.at.as_secs_f64(), value(earlier, later)?))
            })
            .collect()
    }
}

/// All roles as one: what is needed of earlier moments.
fn totals(disk: &DiskSample) -> Vec<RoleSample> {
    vec![RoleSample { reads: disk.reads(), pairs_written: disk.pairs_written(), ..RoleSample::default() }]
}

fn service<'a>(sample: &'a Sample, id: &str) -> Option<&'a ServiceSample> {
    sample.services.iter().find(|service| service.id == id)
}

/// The last value of a series.
pub(crate) fn last(points: &[Point]) -> f64 {
    points.last().map_or(0.0, |(_, value)| *value)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Three moments, a second apart, of two services; the second has a name that is none.
    pub(crate) fn history() -> History {
        let mut history = History::default();
        (0..3).for_each(|second| history.push(moment(second)));
        history
    }

    fn moment(second: u64) -> Sample {
        let photos = ServiceSample {
            id: "photos".to_owned(),
            state: "active".to_owned(),
            seats: 5,
            known: 2_000,
            done: 300 * second,
            unmarked: 4_321,
            reported: 300 * second,
            ready: 640,
            leased: 32,
            leases: 2,
            dead: 1,
            oldest_wait: Duration::from_millis(2_500),
            wait_ms: Spread { count: 600, p50: 40, p99: 900, max: 1_000, bars: vec![(5, 400), (6, 0), (9, 200)] },
            ..ServiceSample::default()
        };
        let odd =
            ServiceSample { id: "<i>&\"odd\"".to_owned(), state: "paused".to_owned(), ..ServiceSample::default() };
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let told = Happening { at, what: format!("<b>told</b> {second}") };
        Sample {
            at: Duration::from_secs(second),
            clients: 12,
            turned_away: vec![("throttled registrations", 1_005)],
            services: vec![photos, odd],
            leases: vec![LeaseSample {
                service: "photos".to_owned(),
                client: "worker_3".to_owned(),
                bucket: (7, 4),
                held: Duration::from_millis(3_400),
                late: true,
            }],
            faulty: vec![FaultyClient {
                id: 77,
                name: "mallory".to_owned(),
                registered: true,
                first_registered: at,
                last_access: None,
                service: "photos".to_owned(),
                seat: "active".to_owned(),
                level: Level::Suspect,
                why: Some("14 of 20 reports were rejected".to_owned()),
                assigned: 9,
                dead: 1,
                faults: vec![("rejected", 14), ("forged token", 2)],
            }],
            disk: DiskSample {
                finished: 300 * second,
                roles: vec![RoleSample { name: "applier", reads: 600 * second, ..RoleSample::default() }],
                journal_bytes: 2_048 * second,
                journal_records: 90 * second,
                ..DiskSample::default()
            },
            news: vec![told],
            ..Sample::default()
        }
    }

    #[test]
    fn growth_and_cost_are_taken_between_moments() {
        let history = history();
        assert_eq!(history.done_rate("photos"), [(1.0, 300.0), (2.0, 300.0)]);
        assert_eq!(history.done_rate("nobody"), []);
        assert_eq!(history.cost(DiskSample::reads), [(1.0, 2_000.0), (2.0, 2_000.0)]);
        assert_eq!(history.cost(|disk| disk.journal_records), [(1.0, 300.0), (2.0, 300.0)]);
        assert_eq!(history.latest().unwrap().services[0].waiting(), 2_000 - 600 - 640 - 32);
    }

    #[test]
    fn the_newest_are_kept() {
        let mut history = History::default();
        (0..2_000).for_each(|second| history.push(moment(second)));
        assert_eq!(history.series(|_| Some(1.0)).len(), SAMPLES);
        assert_eq!(history.happenings().count(), HAPPENINGS);
        assert_eq!(history.happenings().next().unwrap().what, "<b>told</b> 1999");
        let details = history.samples.iter().filter(|sample| !sample.leases.is_empty()).count();
        assert_eq!(details, 1, "the details of the latest moment only");
    }
}
