//! Who is served next: classes, ageing, shares, and how much work is kept ready. Plain functions of numbers.

/// The three queues that a claim can be served from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    /// Subjects marked urgent.
    Urgent,
    /// Subjects put back.
    Front,
    /// All others.
    Ordinary,
}

/// The class of the oldest subject that is not urgent, offered or not. Urgent ones are of class 1 always.
///
/// It rises by one for each quarter of `max_wait` waited: after a quarter it is as urgent as the urgent ones, after a half
/// it goes before them.
pub(crate) fn effective_class(waited_ms: u64, max_wait_ms: u64) -> u32 {
    let step = (max_wait_ms / 4).max(1);
    u32::try_from(waited_ms / step).unwrap_or(2).min(2)
}

/// In which order the queues serve a claim. `turn` counts the claims of a seat, `class` is the class of the oldest
/// subject that is not urgent.
///
/// Between urgent subjects and all others: the lower class goes first in one claim of `share`, the higher one in the
/// rest; equal classes take turns. Among the others those put back go first, but in one claim of `share`; and in one of
/// `2 share` they go before the urgent ones. So none of the three starves.
pub(crate) fn order(turn: u64, share: u32, class: u32) -> [Queue; 3] {
    use Queue::{Front, Ordinary, Urgent};
    let share = u64::from(share.max(2));
    let (urgent_first, ordinary_first) = match class {
        0 => (!turn.is_multiple_of(share), turn.is_multiple_of(share)),
        1 => (!turn.is_multiple_of(2), turn / 2 % share == share - 1),
        _ => (turn.is_multiple_of(share), turn % share == share - 1),
    };
    match (urgent_first, ordinary_first) {
        (true, _) if turn % (2 * share) == share + 1 => [Front, Urgent, Ordinary],
        (true, _) => [Urgent, Front, Ordinary],
        (false, true) => [Ordinary, Front, Urgent],
        (false, false) => [Front, Ordinary, Urgent],
    }
}

/// True if a subject has waited longer than it should.
pub(crate) fn is_overdue(waited_ms: u64, max_wait_ms: u64) -> bool {
    waited_ms > max_wait_ms
}

/// The round of `share` claims that a turn is in.
pub(crate) fn round(turn: u64, share: u32) -> u64 {
    turn / u64::from(share.max(2))
}

/// Moves the turns of a round on by a random number of places: each comes once in it, the client does not know where.
pub(crate) fn hidden(turn: u64, share: u32, random: u64) -> u64 {
    let share = u64::from(share.max(2));
    turn - turn % share + (turn % share + random % share) % share
}

/// Measures how fast ordinary subjects are taken, as an exponentially weighted moving average.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    /// Subjects taken so far, at the last look, and when that was.
    taken: u64,
    looked_at: u64,
    /// Subjects a second; 0 until some were taken.
    rate: f64,
}

/// Time over which a rate that has ended is forgotten to 1/e, in ms.
const MEMORY_MS: f64 = 10_000.0;
/// Looks closer to each other than this say nothing new, in ms.
const LOOK_MS: u64 = 100;

impl Drain {
    /// Takes note of how many subjects were taken up to now.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub(crate) fn look(&mut self, taken: u64, now: u64) {
        let passed = now.saturating_sub(self.looked_at);
        if passed < LOOK_MS {
            return;
        }
        let fresh = taken.saturating_sub(self.taken) as f64 * 1_000.0 / passed as f64;
        let keep = if self.rate == 0.0 { 0.0 } else { (-(passed as f64) / MEMORY_MS).exp() };
        self.rate = self.rate * keep + fresh * (1.0 - keep);
        (self.taken, self.looked_at) = (taken, now);
    }

    /// Subjects a second.
    pub(crate) fn rate(&self) -> f64 {
        self.rate
    }

    /// How many subjects are taken in this time; `None` while nothing is known.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is never negative")]
    #[expect(clippy::cast_precision_loss, reason = "a size")]
    pub(crate) fn within(&self, ms: u64) -> Option<usize> {
        (self.rate > 0.0).then_some((self.rate * ms as f64 / 1_000.0) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// R51: a starved subject's class rises with the time it waits.
    #[test]
    fn the_class_of_a_waiting_subject_rises_with_its_age() {
        let classes = [0, 249, 250, 499, 500, 10_000].map(|waited| effective_class(waited, 1_000));
        assert_eq!(classes, [0, 0, 1, 1, 2, 2]);
        assert_eq!(effective_class(5, 0), 2, "no wait at all is tolerated");
    }

    proptest! {
        /// R38, R50: whatever the policy, each queue is served in its share of any run of claims, if all have something.
        #[test]
        fn every_queue_is_first_in_its_share(share in 2_u32..20, class in 0_u32..3, from in 0_u64..1_000) {
            let turns = u64::from(share) * 2;
            let firsts: Vec<Queue> = (from..from + turns).map(|turn| order(turn, share, class)[0]).collect();
            let count = |queue| firsts.iter().filter(|first| **first == queue).count() as u64;
            prop_assert!(count(Queue::Ordinary) >= if class == 1 { 1 } else { 2 }, "{firsts:?}");
            prop_assert!(count(Queue::Urgent) >= 1, "{firsts:?}");
            prop_assert!(count(Queue::Front) >= 1 || share == 2, "{firsts:?}");
            let urgent_last = (from..from + turns).filter(|turn| order(*turn, share, class)[2] == Queue::Urgent).count() as u64;
            prop_assert_eq!(urgent_last, match class { 0 => 2, 1 => turns / 2, _ => turns - 2 });
        }

        /// R38, R43: hidden, each turn of a round comes once in it, so that all shares are kept; any may come first.
        #[test]
        fn hidden_turns_are_those_of_the_round(share in 2_u32..20, rounds in 0_u64..1_000, random in 0..u64::MAX) {
            let from = rounds * u64::from(share);
            let all = from..from + u64::from(share);
            let mut turns: Vec<u64> = all.clone().map(|turn| hidden(turn, share, random)).collect();
            prop_assert_eq!(turns[0], from + random % u64::from(share));
            prop_assert!(all.clone().all(|turn| round(turn, share) == rounds));
            turns.sort_unstable();
            prop_assert_eq!(turns, all.collect::<Vec<_>>());
        }

        /// R38: without urgent subjects those put back go first, but in one claim of `share`.
        #[test]
        fn those_put_back_leave_ordinary_ones_their_share(share in 2_u32..20, class in 0_u32..3, from in 0_u64..1_000) {
            let turns = u64::from(share) * 2;
            let ordinary = (from..from + turns).filter(|turn| {
                let order = order(*turn, share, class);
                order.into_iter().find(|queue| *queue != Queue::Urgent) == Some(Queue::Ordinary)
            });
            let ordinary = ordinary.count() as u64;
            prop_assert!((1..=2).contains(&ordinary), "{ordinary} of {turns}");
        }
    }

    /// R99: the measured rate follows a step change.
    #[test]
    fn the_drain_rate_follows_a_step() {
        let mut drain = Drain::default();
        assert_eq!(drain.within(1_000), None);
        let (mut taken, mut now) = (0, 0);
        let mut run = |rate: u64, seconds: u64, drain: &mut Drain| {
            for _ in 0..seconds * 2 {
                now += 500;
                taken += rate / 2;
                drain.look(taken, now);
            }
        };
        run(1_000, 60, &mut drain);
        assert!((990.0..1_010.0).contains(&drain.rate()), "{}", drain.rate());
        run(10, 60, &mut drain);
        assert!((9.0..15.0).contains(&drain.rate()), "{}", drain.rate());
        assert!(drain.within(10_000).is_some_and(|subjects| subjects < 150));
    }
}
