//! Rounds in which contenders take turns, as the samples of criterion: each is one round, and the rows of the one table are of the same
//! rounds. Turns are what a noisy machine needs: criterion alone measures one contender after the other.
#![allow(clippy::allow_attributes, dead_code, reason = "each bench uses what it needs")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput};

/// Fewer samples criterion does not take.
pub(crate) const FEWEST: usize = 10;

/// Criterion as the command line wants it: it may name some of the groups.
pub(crate) fn criterion() -> Criterion {
    Criterion::default().configure_from_args()
}

/// Runs one round, all contenders in turn, and returns what a call took in each, in nanoseconds.
struct Turns<R> {
    round: R,
    rounds: Vec<Vec<f64>>,
    /// By contender: what criterion has not asked for yet.
    waiting: Vec<VecDeque<f64>>,
}

impl<R: FnMut(usize) -> Vec<f64>> Turns<R> {
    /// What a call of this contender took in the next round that criterion has not seen of it.
    fn next(&mut self, place: usize) -> f64 {
        if self.waiting[place].is_empty() {
            let took = (self.round)(self.rounds.len());
            assert_eq!(took.len(), self.waiting.len(), "each contender had its turn");
            self.waiting.iter_mut().zip(&took).for_each(|(waiting, took)| waiting.push_back(*took));
            self.rounds.push(took);
        }
        self.waiting[place].pop_front().expect("a round was run")
    }
}

/// A group of criterion's with a function for each contender, a sample for each round. `round` is given its number, 0 for the one that
/// warms up, and returns what a call took in each contender, in nanoseconds. Returned is the same of all rounds but that one, none if the
/// command line names other groups.
///
/// How long and how often criterion says it will measure means nothing here: what it counts as an iteration is a call.
pub(crate) fn measure(
    criterion: &mut Criterion,
    group: &str,
    contenders: &[&str],
    rounds: usize,
    round: impl FnMut(usize) -> Vec<f64>,
) -> Vec<Vec<f64>> {
    sample(criterion, group, contenders, rounds, Some(Throughput::Elements(1)), round)
}

fn sample(
    criterion: &mut Criterion,
    group: &str,
    contenders: &[&str],
    rounds: usize,
    throughput: Option<Throughput>,
    round: impl FnMut(usize) -> Vec<f64>,
) -> Vec<Vec<f64>> {
    let waiting = vec![VecDeque::new(); contenders.len()];
    let turns = RefCell::new(Turns { round, rounds: Vec::new(), waiting });
    let mut group = criterion.benchmark_group(group);
    group.sampling_mode(SamplingMode::Flat).sample_size(rounds.max(FEWEST));
    if let Some(throughput) = throughput {
        group.throughput(throughput);
    }
    // One warming round: criterion warms up until so much time has passed.
    group.warm_up_time(Duration::from_nanos(1)).measurement_time(Duration::from_millis(1));
    for (place, contender) in contenders.iter().enumerate() {
        group.bench_function(*contender, |bencher| {
            // Outside of what criterion takes the time of, as it plans its samples by that.
            let nanos = turns.borrow_mut().next(place);
            bencher.iter_custom(|calls| of(nanos, calls));
        });
    }
    group.finish();
    let mut rounds = turns.into_inner().rounds;
    rounds.drain(..rounds.len().min(1));
    rounds
}

/// So many calls of so many nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "criterion rounds as well")]
fn of(nanos: f64, calls: u64) -> Duration {
    Duration::from_secs_f64(nanos * calls as f64 / 1e9)
}

/// As [`measure`], of rounds that have been run: for each contender a time of each of them, in nanoseconds, which may be a quantile. Too few
/// of them criterion is not told.
pub(crate) fn tell(criterion: &mut Criterion, group: &str, contenders: &[(&str, &[f64])]) {
    let rounds = contenders.iter().map(|(_, took)| took.len()).min().unwrap_or(0);
    if rounds < FEWEST {
        return println!("{group}: criterion takes no fewer than {FEWEST} samples, here are {rounds}");
    }
    let names: Vec<&str> = contenders.iter().map(|(name, _)| *name).collect();
    // The first once more, for the one that warms up.
    let round = |number: usize| contenders.iter().map(|(_, took)| took[number.saturating_sub(1)]).collect();
    sample(criterion, group, &names, rounds, None, round);
}

/// The ratio of two contenders, round by round: the median.
pub(crate) fn ratio(rounds: &[Vec<f64>], of: usize, to: usize) -> f64 {
    median(rounds.iter().map(|round| round[of] / round[to]))
}

/// A contender's median.
pub(crate) fn typical(rounds: &[Vec<f64>], of: usize) -> f64 {
    median(rounds.iter().map(|round| round[of]))
}

pub(crate) fn best(rounds: &[Vec<f64>], of: usize) -> f64 {
    rounds.iter().map(|round| round[of]).fold(f64::INFINITY, f64::min)
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
