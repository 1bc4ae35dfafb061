//! What clients are watched for, and how far each is trusted.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How far a client is trusted for one service. Changed by the rules of [`Watch`], and by an administrator
/// ([`ServiceHandle::clear`](crate::ServiceHandle::clear)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Level {
    /// Nothing is known against it.
    #[default]
    Healthy,
    /// Several intervals in a row were bad. It is served as before, unless [`Watch::suspect_one_bucket`] says otherwise.
    Suspect,
    /// They went on being bad: its claims are refused. What it holds runs on and may be reported.
    Quarantined,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Quarantined => "quarantined",
        })
    }
}

/// From which value on a symptom is there, and how much it then adds to the interval's score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symptom {
    /// The symptom is there if its value is as large as this, and not 0.
    pub threshold: u32,
    /// What it adds to the score; 0: it is not looked at.
    pub weight: u32,
}

impl Symptom {
    /// Both numbers.
    #[must_use]
    pub const fn new(threshold: u32, weight: u32) -> Self {
        Self { threshold, weight }
    }
}

/// How a service's clients are watched for malfunction: a part of [`Policy`](crate::Policy).
///
/// Each seat's counters are sampled once an interval. Every symptom that an interval shows adds its weight to the score;
/// an interval that scores [`bad_score`](Self::bad_score) or more is bad, one in which nothing happened says nothing, any
/// other is good. [`raise_after`](Self::raise_after) bad intervals in a row raise the [`Level`] by one,
/// [`clear_after`](Self::clear_after) good ones make a suspect healthy.
///
/// By default no client is quarantined that only crashes now and then, or reports late: the symptoms of these (dead leases,
/// stale reports, asking for too much) together weigh less than a bad interval. Whether a client's values
/// may be compared with its peers' is the plugin's to say ([`Service::category`](crate::Service::category)), and how fast a
/// client can be is the administrator's ([`min_subject_time`](Self::min_subject_time)); without them these two are not
/// looked at.
///
/// Name the fields that differ and take the rest from the default: new fields may be added.
///
/// ```
/// use std::time::Duration;
/// use commissary::{Policy, Symptom, Watch};
///
/// let watch = Watch { min_subject_time: Duration::from_secs(5), stale: Symptom::new(50, 40), ..Watch::default() };
/// let policy = Policy { watch, ..Policy::default() };
/// # assert_eq!(policy.watch.raise_after, 3);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watch {
    /// Time between two samples of a seat: 0 (nobody is watched) to 30 days. Default 10 min.
    pub interval: Duration,
    /// Bad intervals in a row after which the level rises by one: 1 or more. Default 3.
    pub raise_after: u32,
    /// Good intervals in a row after which a suspect is healthy: 1 or more. Default 6.
    pub clear_after: u32,
    /// The score from which an interval is bad: 1 or more. Default 100.
    pub bad_score: u32,
    /// The first sample after this time makes a quarantined client a suspect: 0 or more. Default `None`: only an administrator lifts it.
    pub quarantine: Option<Duration>,
    /// A claim of a suspect gets at most one bucket. Default false.
    pub suspect_one_bucket: bool,
    /// The least time in which a client can work on one subject, under all of its sessions together. Default 0: not known.
    pub min_subject_time: Duration,
    /// Reports below which shares and distributions say nothing: 1 or more. Default 20. Shares are those of one interval;
    /// a distribution counts earlier intervals too, each a quarter less than the one after it.
    pub least_reports: u32,
    /// Leases ended in an interval below which the share of dead ones says nothing: 1 or more. Default 4.
    pub least_leases: u32,
    /// Peers with enough reports below which a distribution is compared with nothing: 1 or more. Default 4.
    pub least_peers: u32,
    /// Tokens of others' leases, and forged ones. Default 3, weight 100.
    pub forged: Symptom,
    /// Reports on subjects that are not in the bucket. Default 5, weight 100.
    pub misplaced: Symptom,
    /// Rejected reports, in percent of all. Default 25, weight 100.
    pub rejected: Symptom,
    /// Reports that were too long. Default 5, weight 50.
    pub oversized: Symptom,
    /// Reports that contradict an earlier one of its own. Default 5, weight 50.
    pub conflicts: Symptom,
    /// Reports on leases that were over. Default 20, weight 20.
    pub stale: Symptom,
    /// Claims for more than the cap. Default 20, weight 20.
    pub over_ask: Symptom,
    /// Dead leases, in percent of those ended. Default 50, weight 30.
    pub dead: Symptom,
    /// Buckets taken by a client after it began to let them die without reporting (as many as died; reports on a tenth of
    /// the dead buckets' subjects begin the count anew). Default 20, weight 100.
    pub greedy: Symptom,
    /// Accepted reports for which there was no time, in percent of all. Default 50, weight 100.
    pub hasty: Symptom,
    /// Results that a later report of another client contradicted: its own, or a change of the world. Default 10, weight 50.
    pub disagreement: Symptom,
    /// Distance of its reports' categories from its peers', in percent, if it is beyond chance. Default 30, weight 100.
    pub distribution: Symptom,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(600),
            raise_after: 3,
            clear_after: 6,
            bad_score: 100,
            quarantine: None,
            suspect_one_bucket: false,
            min_subject_time: Duration::ZERO,
            least_reports: 20,
            least_leases: 4,
            least_peers: 4,
            forged: Symptom::new(3, 100),
            misplaced: Symptom::new(5, 100),
            rejected: Symptom::new(25, 100),
            oversized: Symptom::new(5, 50),
            conflicts: Symptom::new(5, 50),
            stale: Symptom::new(20, 20),
            over_ask: Symptom::new(20, 20),
            dead: Symptom::new(50, 30),
            greedy: Symptom::new(20, 100),
            hasty: Symptom::new(50, 100),
            disagreement: Symptom::new(10, 50),
            distribution: Symptom::new(30, 100),
        }
    }
}

impl Watch {
    /// Watches nobody.
    #[must_use]
    pub fn off() -> Self {
        Self { interval: Duration::ZERO, ..Self::default() }
    }

    /// The first field that is out of its range, with the range.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        const MONTH: Duration = Duration::from_secs(30 * 24 * 3_600);
        let rules = [
            (self.interval <= MONTH, "watch.interval", "0 to 30 days"),
            (self.raise_after >= 1, "watch.raise_after", "1 or more"),
            (self.clear_after >= 1, "watch.clear_after", "1 or more"),
            (self.bad_score >= 1, "watch.bad_score", "1 or more"),
            (self.least_reports >= 1, "watch.least_reports", "1 or more"),
            (self.least_leases >= 1, "watch.least_leases", "1 or more"),
            (self.least_peers >= 1, "watch.least_peers", "1 or more"),
        ];
        match rules.into_iter().find(|(holds, _, _)| !holds) {
            Some((_, field, range)) => Err((field, range)),
            None => Ok(()),
        }
    }
}
