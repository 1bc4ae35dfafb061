//! A lane at work: what the submits of one lease make of its state, and in which order they are journaled. The model checkers
//! compile this file as it is (see `models/`).
//!
//! A submit takes effect by an exchange on the slot, is pushed to the writer, and is noted here. Two submits of one lease may
//! come to the writer, and here, in the other order than that of their exchanges: both wait for what they follow.

use crate::slot::Mask;
use crate::sync::{AtomicU32, Ordering, Place};

/// Bytes that are never changed. No thread waits for another by their count, so the checkers need not see it.
type Bytes = std::sync::Arc<[u8]>;

/// A lane's state, as it is stored: how it is encoded, then the bytes.
pub(crate) type StateBytes = Bytes;

/// One bucket's run of a lane: from its cut until everything that was reported on it is applied. Until then nobody else can
/// change the lane's state.
#[derive(Debug)]
pub(crate) struct Run {
    lane: Bytes,
    /// The lane's version when the first of `whole` is its front.
    version: u64,
    /// What was owed at the beginning: places next to each other, one bit each.
    whole: u64,
    now: Place<Now>,
    /// When its subjects are not to be worked on any more, by their places; none at all if none has a deadline.
    deadlines: Box<[Option<i64>]>,
    /// Reports on places below it are in the journal, or on their way in this order. The writer's alone.
    journaled: AtomicU32,
}

/// A lane, as it is at one moment.
#[derive(Debug)]
pub(crate) struct Moment {
    pub(crate) version: u64,
    /// The next place to be reported.
    pub(crate) front: usize,
    pub(crate) state: Option<StateBytes>,
}

/// The state as far as it is known.
#[derive(Debug, Clone)]
struct Now {
    version: u64,
    state: Option<StateBytes>,
    /// Steps that took effect before the one that they follow was noted.
    ahead: Vec<Step>,
    /// The lease is over, and nobody asks any more.
    over: bool,
}

/// A submit on a run: which places it reports, and the state after it.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// The places `from` to `to`, this one not included.
    pub(crate) from: u32,
    pub(crate) to: u32,
    /// `None`: as before.
    pub(crate) state: Option<StateBytes>,
}

impl Run {
    /// Begins with `whole` owed.
    pub(crate) fn new(lane: Bytes, whole: Mask, version: u64, state: Option<Vec<u8>>) -> Self {
        let whole = whole.first_word();
        let now = Place::new(Now { version, state: state.map(StateBytes::from), ahead: Vec::new(), over: false });
        let journaled = AtomicU32::new(whole.trailing_zeros());
        Self { lane, version, whole, now, deadlines: Box::default(), journaled }
    }

    /// With its subjects' deadlines, place by place.
    pub(crate) fn with_deadlines(self, deadlines: impl Iterator<Item = Option<i64>> + Clone) -> Self {
        let any = deadlines.clone().any(|deadline| deadline.is_some());
        Self { deadlines: if any { deadlines.collect() } else { Box::default() }, ..self }
    }

    /// The places whose deadlines have passed at a moment of the wall clock, ms.
    pub(crate) fn due(&self, wall_ms: i64) -> Mask {
        let mut due = Mask::default();
        for (place, deadline) in self.deadlines.iter().enumerate() {
            if deadline.is_some_and(|deadline| deadline <= wall_ms) {
                due.insert(place);
            }
        }
        due
    }

    pub(crate) fn lane(&self) -> &[u8] {
        &self.lane
    }

    /// What is owed while `place` is the front.
    pub(crate) fn owed_from(&self, place: u32) -> u64 {
        self.whole & u64::MAX.checked_shl(place).unwrap_or(0)
    }

    /// The lane's version while `place` is the front.
    fn version_at(&self, place: u32) -> u64 {
        self.version + u64::from((self.whole & !self.owed_from(place)).count_ones())
    }

    /// The front at a version.
    fn front_at(&self, version: u64) -> usize {
        let first = u64::from(self.whole.trailing_zeros());
        usize::try_from(first + version.saturating_sub(self.version)).unwrap_or(usize::MAX)
    }

    /// The state when a step is noted, and those that waited for it.
    fn after(&self, now: &Now, step: &Step) -> Now {
        let mut now = now.clone();
        let state = step.state.clone().filter(|_| !now.over);
        now.ahead.push(Step { state, ..*step });
        while let Some(next) = now.ahead.iter().position(|step| self.version_at(step.from) == now.version) {
            let step = now.ahead.swap_remove(next);
            now.version = self.version_at(step.to);
            now.state = step.state.or(now.state);
        }
        now
    }

    /// Notes a step that took effect. Lock-free.
    pub(crate) fn advance(&self, step: &Step) {
        self.now.update(|now| self.after(now, step));
    }

    /// The lane as it is. A step that took effect just now may not be in it yet.
    pub(crate) fn moment(&self) -> Moment {
        let (version, state) = self.now.read(|now| (now.version, now.state.clone()));
        Moment { version, front: self.front_at(version), state }
    }

    /// The lease is over: the state is the store's from here on.
    pub(crate) fn forget_state(&self) {
        self.now.update(|now| {
            let ahead = now.ahead.iter().map(|step| Step { state: None, ..*step }).collect();
            Now { version: now.version, state: None, ahead, over: true }
        });
    }

    /// A state is held in memory.
    #[cfg(test)]
    pub(crate) fn has_state(&self) -> bool {
        self.now.read(|now| now.state.is_some())
    }

    /// True if a step is the next to be journaled; then the one after it is. The writer's alone.
    fn is_next(&self, step: &Step) -> bool {
        // ordering: Relaxed, both; one thread reads and writes it.
        let is_next = self.journaled.load(Ordering::Relaxed) == step.from;
        if is_next {
            self.journaled.store(step.to, Ordering::Relaxed);
        }
        is_next
    }
}

/// Reports on lanes that came before those that they follow. The writer's.
#[derive(Debug)]
pub(crate) struct HeldBack<T>(Vec<T>);

impl<T> Default for HeldBack<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> HeldBack<T> {
    /// Gives on a change that has come, and those that waited for it; or holds it back if it waits itself. `step_of` says which
    /// run it is a step of, if of any.
    pub(crate) fn pass(
        &mut self,
        change: T,
        step_of: impl for<'t> Fn(&'t T) -> Option<(&'t Run, &'t Step)>,
        mut give_on: impl FnMut(T),
    ) {
        let is_next = |change: &T| step_of(change).is_none_or(|(run, step)| run.is_next(step));
        if !is_next(&change) {
            // A report on the same lane took effect before it, and is not here yet.
            self.0.push(change);
            return;
        }
        let goes_on = !self.0.is_empty() && step_of(&change).is_some();
        give_on(change);
        while goes_on && let Some(next) = self.0.iter().position(is_next) {
            give_on(self.0.swap_remove(next));
        }
    }

    /// Nothing more comes: those that it held back are dropped.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(text: &str) -> StateBytes {
        text.as_bytes().into()
    }

    fn look(run: &Run) -> (u64, usize, String) {
        let Moment { version, front, state } = run.moment();
        (version, front, String::from_utf8(state.map_or(Vec::new(), |state| state.to_vec())).unwrap())
    }

    #[test]
    fn steps_noted_in_any_order_lead_to_the_same_state() {
        let steps = [
            Step { from: 2, to: 3, state: Some(state("three")) },
            Step { from: 3, to: 5, state: None },
            Step { from: 5, to: 6, state: Some(state("six")) },
        ];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            // Two of eight were reported before.
            let whole = Mask::first(8).without(Mask::first(2));
            let run = Run::new(Bytes::from(b"a".as_slice()), whole, 100, None);
            assert_eq!(look(&run), (100, 2, String::new()));
            for step in order {
                run.advance(&steps[step]);
            }
            assert_eq!(look(&run), (104, 6, "six".to_owned()));
        }
        let run = Run::new(Bytes::from(b"a".as_slice()), Mask::first(8), 0, None);
        run.advance(&Step { from: 1, to: 2, state: Some(state("ahead")) });
        assert_eq!(look(&run), (0, 0, String::new()), "what it follows is not noted yet");
    }

    /// Whoever reports notes its step when it is at it; the lease may be over by then. What was reported is owed no more.
    #[test]
    fn a_step_noted_after_the_end_brings_no_state_back_and_counts() {
        let steps = [
            Step { from: 0, to: 1, state: Some(state("one")) },
            Step { from: 1, to: 2, state: Some(state("two")) },
            Step { from: 2, to: 3, state: Some(state("three")) },
        ];
        for before in 0..3 {
            for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
                let run = Run::new(Bytes::from(b"a".as_slice()), Mask::first(3), 0, Some(state("before").to_vec()));
                order[..before].iter().for_each(|step| run.advance(&steps[*step]));
                run.forget_state();
                order[before..].iter().for_each(|step| run.advance(&steps[*step]));
                assert!(!run.has_state());
                let Moment { version, front, .. } = run.moment();
                assert_eq!((version, front), (3, 3), "{order:?}, {before} in time");
                assert_eq!(run.owed_from(3), 0);
            }
        }
    }

    #[test]
    fn the_writer_takes_steps_in_their_order_only() {
        let run = Run::new(Bytes::from(b"a".as_slice()), Mask::first(4), 0, None);
        let step = |from, to| Step { from, to, state: None };
        assert!(!run.is_next(&step(1, 2)));
        assert!(run.is_next(&step(0, 1)) && run.is_next(&step(1, 2)) && !run.is_next(&step(1, 2)));
        assert_eq!((run.owed_from(0), run.owed_from(3), run.owed_from(63)), (0b1111, 0b1000, 0));
    }

    #[test]
    fn what_came_too_early_is_given_on_behind_what_it_follows() {
        /// A run and a place to report; places beyond 3 are no step of it.
        type Change<'a> = (&'a Run, u32, Option<Step>);
        fn step_of<'c>((run, _, step): &'c Change<'_>) -> Option<(&'c Run, &'c Step)> {
            step.as_ref().map(|step| (*run, step))
        }
        let run = Run::new(Bytes::from(b"a".as_slice()), Mask::first(4), 0, None);
        let (mut held_back, mut given) = (HeldBack::default(), Vec::new());
        for (place, expected) in [(2, &[][..]), (9, &[9]), (1, &[9]), (3, &[9]), (0, &[9, 0, 1, 2, 3])] {
            let step = Step { from: place, to: place + 1, state: None };
            let change: Change<'_> = (&run, place, (place < 4).then_some(step));
            held_back.pass(change, step_of, |(_, place, _)| given.push(place));
            assert_eq!(given, expected);
        }
        assert!(held_back.0.is_empty());
    }
}
