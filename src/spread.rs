//! How the values of one client's reports are spread, compared with its peers': a chi-square test of homogeneity, and a
//! distance. The formulas and their sources stand in `docs/protocol.md`.

use crate::sync::{AtomicU32, Ordering};

/// Categories that a report can fall into.
pub(crate) const CATEGORIES: usize = 16;

/// Reports by category.
pub(crate) type Tally = [u32; CATEGORIES];

/// How many accepted reports of a seat fell into each category. Runs over; only differences are looked at.
#[derive(Debug, Default)]
pub(crate) struct Categories([AtomicU32; CATEGORIES]);

impl Categories {
    /// Counts a report; one outside the categories is none.
    pub(crate) fn add(&self, category: u8) {
        if let Some(count) = self.0.get(usize::from(category)) {
            // ordering: Relaxed; a statistic, sampled at leisure.
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        // ordering: Relaxed; see `add`.
        std::array::from_fn(|i| self.0.get(i).map_or(0, |count| count.load(Ordering::Relaxed)))
    }
}

/// How many reports a tally has.
pub(crate) fn total(tally: &Tally) -> u32 {
    tally.iter().fold(0, |sum, count| sum.saturating_add(*count))
}

/// The reports of many clients in one interval. No client weighs more than the median one, so that a busy liar does not
/// make the others look like outliers.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    sum: [f64; CATEGORIES],
    most: u32,
    members: u32,
}

impl Crowd {
    /// Of those tallies that have `least` reports.
    pub(crate) fn of<'a>(tallies: impl Iterator<Item = &'a Tally>, least: u32) -> Self {
        let members: Vec<&Tally> = tallies.filter(|tally| total(tally) >= least).collect();
        let mut totals: Vec<u32> = members.iter().map(|tally| total(tally)).collect();
        let middle = totals.len() / 2;
        let most = if totals.is_empty() { 0 } else { *totals.select_nth_unstable(middle).1 };
        let mut crowd =
            Self { sum: [0.0; CATEGORIES], most, members: u32::try_from(members.len()).unwrap_or(u32::MAX) };
        for tally in members {
            let share = crowd.share(tally);
            for (sum, count) in crowd.sum.iter_mut().zip(tally) {
                *sum += f64::from(*count) * share;
            }
        }
        crowd
    }

    /// What a report of this client weighs.
    fn share(&self, tally: &Tally) -> f64 {
        let all = total(tally);
        if all > self.most { f64::from(self.most) / f64::from(all) } else { 1.0 }
    }

    /// How far `own` is from the rest, in percent; 0 if it may be chance, or if too little is known. `member`: `own` is one
    /// of those counted.
    pub(crate) fn distance(&self, own: &Tally, member: bool, least_reports: u32, least_peers: u32) -> u32 {
        if total(own) < least_reports || self.members.saturating_sub(u32::from(member)) < least_peers {
            return 0;
        }
        let share = if member { self.share(own) } else { 0.0 };
        let mut rest = self.sum;
        for (sum, count) in rest.iter_mut().zip(own) {
            *sum = (*sum - f64::from(*count) * share).max(0.0);
        }
        let own = own.map(f64::from);
        if is_chance(&own, &rest) { 0 } else { distance_percent(&own, &rest) }
    }
}

/// Total variation distance: half the sum of the differences of the shares.
fn distance_percent(own: &[f64; CATEGORIES], rest: &[f64; CATEGORIES]) -> u32 {
    let (n, m) = (own.iter().sum::<f64>(), rest.iter().sum::<f64>());
    if n <= 0.0 || m <= 0.0 {
        return 0;
    }
    let apart: f64 = own.iter().zip(rest).map(|(o, p)| (o / n - p / m).abs()).sum();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 100")]
    let percent = (apart * 50.0).round().clamp(0.0, 100.0) as u32;
    percent
}

/// Categories with a smaller expected count are put together.
const EXPECTED_LEAST: f64 = 5.0;
/// Standard deviations beyond which a statistic is no chance: about one client in 31,000 intervals.
const BEYOND: f64 = 4.0;

/// True unless the two spreads differ significantly.
fn is_chance(own: &[f64; CATEGORIES], rest: &[f64; CATEGORIES]) -> bool {
    let (n, m) = (own.iter().sum::<f64>(), rest.iter().sum::<f64>());
    if n <= 0.0 || m <= 0.0 {
        return true;
    }
    let (mut cells, mut rare) = (Vec::with_capacity(CATEGORIES), (0.0, 0.0));
    for (o, p) in own.iter().zip(rest) {
        if (o + p) * n.min(m) / (n + m) < EXPECTED_LEAST {
            rare = (rare.0 + o, rare.1 + p);
        } else {
            cells.push((*o, *p));
        }
    }
    if rare.0 + rare.1 > 0.0 {
        cells.push(rare);
    }
    let Some(freedom) = u32::try_from(cells.len()).ok().and_then(|cells| cells.checked_sub(1)).filter(|df| *df > 0)
    else {
        return true;
    };
    let cell = |(o, p): &(f64, f64)| {
        let both = o + p;
        let (eo, ep) = (both * n / (n + m), both * m / (n + m));
        (o - eo).powi(2) / eo + (p - ep).powi(2) / ep
    };
    cells.iter().map(cell).sum::<f64>() <= critical(freedom)
}

/// The value that chi-square of `freedom` degrees exceeds by chance as seldom as a normal variable exceeds `BEYOND`
/// standard deviations (Wilson and Hilferty's cube).
fn critical(freedom: u32) -> f64 {
    let df = f64::from(freedom);
    let ninth = 2.0 / (9.0 * df);
    df * (1.0 - ninth + BEYOND * ninth.sqrt()).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(counts: &[u32]) -> Tally {
        std::array::from_fn(|i| counts.get(i).copied().unwrap_or(0))
    }

    #[test]
    fn critical_values_are_near_the_exact_ones() {
        // Exact quantiles of chi-square for a tail of 3.167e-5, that of a normal variable beyond 4, from the incomplete
        // gamma function. The cube errs to the safe side.
        for (freedom, exact) in [(1, 17.315), (2, 20.720), (5, 28.309), (15, 47.408)] {
            let ratio = critical(freedom) / exact;
            assert!((1.0..1.1).contains(&ratio), "{freedom} degrees: {} instead of {exact}", critical(freedom));
        }
    }

    #[test]
    fn a_liar_is_far_from_its_peers_and_they_are_not() {
        let liar = tally(&[0, 0, 1_000]);
        let honest = [tally(&[50, 40, 10]), tally(&[45, 47, 8]), tally(&[55, 33, 12]), tally(&[52, 41, 7])];
        let all: Vec<&Tally> = honest.iter().chain([&liar]).collect();
        let crowd = Crowd::of(all.into_iter(), 20);
        assert_eq!(crowd.members, 5);
        let distance = |own: &Tally| crowd.distance(own, true, 20, 4);
        assert!(distance(&liar) >= 85, "{}", distance(&liar));
        // The liar is one of four peers, and weighs as much as one, however much it reports.
        for own in &honest {
            assert!(distance(own) < 30, "{own:?}: {}", distance(own));
        }
    }

    #[test]
    fn little_says_nothing() {
        let odd = tally(&[0, 19]);
        let peers = [tally(&[100, 1]); 4];
        let crowd = Crowd::of(peers.iter(), 20);
        assert_eq!(crowd.distance(&odd, false, 20, 4), 0, "too few reports");
        assert_eq!(Crowd::default().distance(&odd, true, 20, 4), 0, "too few reports to be one of the crowd");
        assert!(crowd.distance(&odd, false, 19, 4) > 90);
        assert_eq!(crowd.distance(&odd, false, 19, 5), 0, "too few peers");
        assert_eq!(Crowd::of(std::iter::empty(), 20).distance(&odd, false, 1, 1), 0);
    }

    #[test]
    fn one_category_for_all_says_nothing() {
        let peers = [tally(&[100]); 5];
        assert_eq!(Crowd::of(peers.iter(), 20).distance(&tally(&[100]), true, 20, 4), 0);
    }

    #[test]
    fn a_small_difference_in_many_reports_is_significant_but_near() {
        let peers = [tally(&[500_000, 500_000]); 5];
        let own = tally(&[520_000, 480_000]);
        assert_eq!(Crowd::of(peers.iter(), 20).distance(&own, false, 20, 4), 2);
    }
}
