//! What one interval says of a seat, and which level follows: pure rules, no clock, no counters.

use std::fmt::Write as _;

use crate::watch::{Level, Symptom, Watch};

/// What a seat did in one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) forged: u32,
    pub(crate) misplaced: u32,
    pub(crate) rejected: u32,
    pub(crate) oversized: u32,
    pub(crate) conflicts: u32,
    pub(crate) stale: u32,
    pub(crate) over_ask: u32,
    pub(crate) disagreements: u32,
    /// Reports, however they were answered.
    pub(crate) reports: u32,
    /// Leases that ended, and those of them that had died.
    pub(crate) ended: u32,
    pub(crate) expired: u32,
    /// Buckets taken since the client began to let its leases die in silence, at most as many as died.
    pub(crate) hoarded: u32,
    /// Accepted reports for which there was no time, in percent.
    pub(crate) hasty_percent: u32,
    /// Distance from the peers, in percent; 0 if it may be chance.
    pub(crate) distance_percent: u32,
}

/// One symptom's value in a sample.
struct Reading {
    name: &'static str,
    value: u32,
    symptom: Symptom,
}

impl Reading {
    fn is_there(&self) -> bool {
        self.value > 0 && self.value >= self.symptom.threshold && self.symptom.weight > 0
    }
}

impl Sample {
    /// True if nothing happened that could speak for or against the client.
    pub(crate) fn is_silent(&self) -> bool {
        *self == Self::default()
    }

    fn readings(&self, watch: &Watch) -> [Reading; 12] {
        let reading = |name, value, symptom| Reading { name, value, symptom };
        let enough = |all: u32, least: u32, value| if all >= least { value } else { 0 };
        let rejected = enough(self.reports, watch.least_reports, percent(self.rejected, self.reports));
        let dead = enough(self.ended, watch.least_leases, percent(self.expired, self.ended));
        [
            reading("tokens of others", self.forged, watch.forged),
            reading("reports outside the bucket", self.misplaced, watch.misplaced),
            reading("rejected reports (%)", rejected, watch.rejected),
            reading("reports too long", self.oversized, watch.oversized),
            reading("contradictions of its own", self.conflicts, watch.conflicts),
            reading("stale reports", self.stale, watch.stale),
            reading("asks beyond the cap", self.over_ask, watch.over_ask),
            reading("dead leases (%)", dead, watch.dead),
            reading("buckets hoarded", self.hoarded, watch.greedy),
            reading("reports faster than work (%)", self.hasty_percent, watch.hasty),
            reading("results contradicted by others", self.disagreements, watch.disagreement),
            reading("distance from its peers (%)", self.distance_percent, watch.distribution),
        ]
    }

    /// The sum of the weights of the symptoms that are there.
    pub(crate) fn score(&self, watch: &Watch) -> u32 {
        let there = self.readings(watch).into_iter().filter(Reading::is_there);
        there.fold(0, |score, reading| score.saturating_add(reading.symptom.weight))
    }

    /// Names the symptoms that are there, with their values and thresholds.
    fn explain(&self, watch: &Watch) -> String {
        let mut text = String::new();
        for Reading { name, value, symptom } in self.readings(watch).into_iter().filter(Reading::is_there) {
            let comma = if text.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(text, "{comma}{name}: {value}, from {} on", symptom.threshold);
        }
        text
    }
}

/// `part` of `whole` in percent, rounded down; 0 of nothing.
pub(crate) fn percent(part: u32, whole: u32) -> u32 {
    let percent = (u64::from(part) * 100).checked_div(u64::from(whole)).unwrap_or(0);
    u32::try_from(percent).unwrap_or(u32::MAX)
}

/// A seat's level, and how many intervals in a row were bad or good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) level: Level,
    pub(crate) bad: u32,
    pub(crate) good: u32,
}

impl Health {
    /// At a level, with no interval seen yet.
    pub(crate) fn at(level: Level) -> Self {
        Self { level, bad: 0, good: 0 }
    }
}

/// What an interval makes of a seat's health; and, if the level changed, why.
pub(crate) fn step(before: Health, sample: &Sample, watch: &Watch) -> (Health, Option<String>) {
    let Health { level, bad, good } = before;
    if sample.is_silent() || level == Level::Quarantined {
        return (before, None);
    }
    let score = sample.score(watch);
    if score < watch.bad_score {
        let good = good.saturating_add(1);
        if level == Level::Suspect && good >= watch.clear_after {
            let why = format!("{good} good intervals in a row");
            return (Health::at(Level::Healthy), Some(why));
        }
        return (Health { level, bad: 0, good }, None);
    }
    let bad = bad.saturating_add(1);
    if bad < watch.raise_after {
        return (Health { level, bad, good: 0 }, None);
    }
    let raised = if level == Level::Healthy { Level::Suspect } else { Level::Quarantined };
    let why = format!(
        "{bad} bad intervals in a row; the last scored {score}, from {} on it is bad ({})",
        watch.bad_score,
        sample.explain(watch)
    );
    (Health::at(raised), Some(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(change: impl FnOnce(&mut Sample)) -> Sample {
        let mut sample = Sample::default();
        change(&mut sample);
        sample
    }

    fn good() -> Sample {
        sample(|s| (s.reports, s.ended) = (40, 10))
    }

    fn bad() -> Sample {
        sample(|s| s.forged = 3)
    }

    /// R48: each symptom below its threshold, at it, and with what a bad interval needs beside it.
    #[test]
    fn each_symptom_counts_from_its_threshold_on() {
        let watch = Watch::default();
        let cases: [(&str, Sample, u32); 24] = [
            ("forged -", sample(|s| s.forged = 2), 0),
            ("forged +", sample(|s| s.forged = 3), 100),
            ("misplaced -", sample(|s| s.misplaced = 4), 0),
            ("misplaced +", sample(|s| s.misplaced = 5), 100),
            ("rejected -", sample(|s| (s.rejected, s.reports) = (24, 100)), 0),
            ("rejected +", sample(|s| (s.rejected, s.reports) = (25, 100)), 100),
            ("rejected, too few", sample(|s| (s.rejected, s.reports) = (19, 19)), 0),
            ("oversized -", sample(|s| s.oversized = 4), 0),
            ("oversized +", sample(|s| s.oversized = 5), 50),
            ("conflicts -", sample(|s| s.conflicts = 4), 0),
            ("conflicts +", sample(|s| s.conflicts = 5), 50),
            ("stale -", sample(|s| s.stale = 19), 0),
            ("stale +", sample(|s| s.stale = 20), 20),
            ("over-ask +", sample(|s| s.over_ask = 20), 20),
            ("dead -", sample(|s| (s.expired, s.ended) = (49, 100)), 0),
            ("dead +", sample(|s| (s.expired, s.ended) = (50, 100)), 30),
            ("dead, too few", sample(|s| (s.expired, s.ended) = (3, 3)), 0),
            ("greedy -", sample(|s| s.hoarded = 19), 0),
            ("greedy +", sample(|s| s.hoarded = 20), 100),
            ("hasty +", sample(|s| s.hasty_percent = 50), 100),
            ("disagreement +", sample(|s| s.disagreements = 10), 50),
            ("distribution -", sample(|s| s.distance_percent = 29), 0),
            ("distribution +", sample(|s| s.distance_percent = 30), 100),
            ("liar and hoarder", sample(|s| (s.conflicts, s.hoarded) = (5, 20)), 150),
        ];
        for (name, sample, score) in cases {
            assert_eq!(sample.score(&watch), score, "{name}");
        }
    }

    /// R48: crashes and slow links, at their worst and together, are no bad interval by default.
    #[test]
    fn crashes_and_slow_links_alone_are_never_bad() {
        let worst = sample(|s| {
            (s.expired, s.ended, s.stale, s.over_ask, s.reports) = (1_000, 1_000, 100_000, 1_000, 100_000);
        });
        let watch = Watch::default();
        assert!(worst.score(&watch) > 0 && worst.score(&watch) < watch.bad_score);
    }

    #[test]
    fn a_threshold_of_nothing_needs_something_and_a_weight_of_nothing_is_never_there() {
        let watch = Watch { stale: Symptom::new(0, 100), forged: Symptom::new(1, 0), ..Watch::default() };
        assert_eq!(good().score(&watch), 0);
        assert_eq!(sample(|s| s.stale = 1).score(&watch), 100);
        assert_eq!(sample(|s| s.forged = 1_000).score(&watch), 0);
    }

    /// R48: every level, with every kind of interval, at the streaks where something changes.
    #[test]
    fn levels_follow_streaks() {
        use Level::{Healthy, Quarantined, Suspect};
        let watch = Watch { raise_after: 3, clear_after: 2, ..Watch::default() };
        let silent = Sample::default();
        let health = |level, bad, good| Health { level, bad, good };
        let cases = [
            (health(Healthy, 0, 0), bad(), health(Healthy, 1, 0), false),
            (health(Healthy, 1, 0), bad(), health(Healthy, 2, 0), false),
            (health(Healthy, 2, 0), bad(), health(Suspect, 0, 0), true),
            (health(Healthy, 2, 0), good(), health(Healthy, 0, 1), false),
            (health(Healthy, 2, 0), silent, health(Healthy, 2, 0), false),
            (health(Healthy, 0, 9), good(), health(Healthy, 0, 10), false),
            (health(Suspect, 0, 1), bad(), health(Suspect, 1, 0), false),
            (health(Suspect, 2, 0), bad(), health(Quarantined, 0, 0), true),
            (health(Suspect, 2, 0), good(), health(Suspect, 0, 1), false),
            (health(Suspect, 0, 1), good(), health(Healthy, 0, 0), true),
            (health(Suspect, 0, 1), silent, health(Suspect, 0, 1), false),
            (health(Quarantined, 0, 0), good(), health(Quarantined, 0, 0), false),
            (health(Quarantined, 0, 0), bad(), health(Quarantined, 0, 0), false),
            (health(Quarantined, 0, 0), silent, health(Quarantined, 0, 0), false),
        ];
        for (before, sample, after, explained) in cases {
            let (found, why) = step(before, &sample, &watch);
            assert_eq!((found, why.is_some()), (after, explained), "{before:?}, {sample:?}: {why:?}");
        }
    }

    #[test]
    fn a_change_names_its_symptoms_with_values_and_thresholds() {
        let sample = sample(|s| (s.forged, s.hoarded, s.stale) = (12, 40, 3));
        let (_, why) = step(Health { level: Level::Suspect, bad: 2, good: 0 }, &sample, &Watch::default());
        let expected = "3 bad intervals in a row; the last scored 200, from 100 on it is bad (tokens of others: 12, from 3 \
                        on, buckets hoarded: 40, from 20 on)";
        assert_eq!(why.as_deref(), Some(expected));
        let (_, why) = step(Health { level: Level::Suspect, bad: 0, good: 5 }, &good(), &Watch::default());
        assert_eq!(why.as_deref(), Some("6 good intervals in a row"));
    }

    #[test]
    fn percent_never_divides_by_nothing() {
        assert_eq!((percent(0, 0), percent(5, 0), percent(1, 3), percent(u32::MAX, u32::MAX)), (0, 0, 33, 100));
    }
}
