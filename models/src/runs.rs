//! Models of a lane's run: two submits of one lease, the writer who journals them, and whoever looks at the lane.
//!
//! A submit's steps are those of `lease.rs`: the exchange on the slot, the push to the writer, the note in the run. The journal
//! must hold the reports in the lane's order at every moment, each once; a view is the state of a prefix of them, and in the
//! end of all.

use crate::check::{EXCHANGE_FAILED, Model, seen, seen_when};
use crate::run::{HeldBack, Run, StateBytes, Step};
use crate::slot::{Mask, Slot};
use crate::stack::{Node, Stack};
use crate::sync::{Arc, thread};

pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "run_submits",
        body: submits,
        states: &[BOTH, HELD_BACK, AHEAD, REFUSED],
        bound: Some(3),
        finite: false,
        one_order: false,
    },
    Model {
        name: "run_three",
        body: three,
        states: &[HELD_BACK, AHEAD, EXCHANGE_FAILED],
        bound: Some(2),
        finite: false,
        one_order: false,
    },
    Model {
        name: "run_over",
        body: over,
        states: &["noted before the end", "noted after the end"],
        bound: None,
        finite: true,
        one_order: false,
    },
];

const BOTH: &str = "both took effect";
const HELD_BACK: &str = "held back by the writer";
const AHEAD: &str = "journaled before it is seen";
const REFUSED: &str = "the front was another's";

/// The version when the run begins.
const VERSION: u64 = 10;

/// One bucket of a lane, held by one client.
struct Lane {
    slot: Slot,
    run: Run,
    queue: Stack<Step>,
}

/// The state after the reports on the places below `to`.
fn state_at(to: u32) -> Option<StateBytes> {
    (to > 0).then(|| StateBytes::from([u8::try_from(to).expect("few places")].as_slice()))
}

impl Lane {
    fn new(subjects: usize) -> Arc<Self> {
        let slot = Slot::new(0, subjects, 0);
        assert!(slot.claim(1, 0, 1));
        let run = Run::new(std::sync::Arc::from([7].as_slice()), Mask::first(subjects), VERSION, None);
        Arc::new(Self { slot, run, queue: Stack::default() })
    }

    /// As `Reporting::take`; whether it took effect.
    fn submit(&self, from: u32, to: u32) -> bool {
        let step = Step { from, to, state: state_at(to) };
        if bug!("bug_run_note_first") {
            self.queue.push(Arc::new(Node::new(step.clone())));
            self.run.advance(&step);
        }
        let owed = self.run.owed_from(from);
        let wanted = owed & !self.run.owed_from(to);
        let took_effect = !self.slot.report_front(owed, wanted).accepted.is_empty();
        if took_effect && !bug!("bug_run_note_first") {
            self.queue.push(Arc::new(Node::new(step.clone())));
            self.run.advance(&step);
        }
        took_effect
    }

    /// The first place that is owed, as who holds the lease finds it.
    fn front(&self) -> u32 {
        self.slot.open().first_word().trailing_zeros()
    }

    /// Checks that a look at the lane finds the state after the first reports, and how many.
    fn look(&self) -> u32 {
        let moment = self.run.moment();
        let front = u32::try_from(moment.front).expect("few places");
        assert_eq!(moment.version, VERSION + u64::from(front), "a version that is not its front's");
        assert_eq!(moment.state, state_at(front), "a state that is not of just the reports before");
        front
    }
}

/// A step that the writer took from its queue.
struct Taken<'a>(&'a Lane, Arc<Node<Step>>);

/// The writer, as far as the order of steps goes.
struct Writer<'a> {
    lane: &'a Lane,
    held_back: HeldBack<Taken<'a>>,
    /// Reports on the places below it are in the journal.
    journaled: u32,
}

impl<'a> Writer<'a> {
    fn new(lane: &'a Lane) -> Self {
        Self { lane, held_back: HeldBack::default(), journaled: 0 }
    }

    /// As `Writer::turn` and `Writer::draft_change`.
    fn turn(&mut self) {
        for node in self.lane.queue.take_all() {
            let (before, from) = (self.journaled, node.value.from);
            let mut journal = |Taken(_, node): Taken<'_>| {
                assert_eq!(node.value.from, self.journaled, "not journaled in the lane's order, or twice");
                self.journaled = node.value.to;
            };
            let taken = Taken(self.lane, node);
            if bug!("bug_run_as_it_comes") {
                journal(taken);
            } else {
                self.held_back.pass(taken, |Taken(lane, node)| Some((&lane.run, &node.value)), journal);
            }
            seen_when(self.journaled == before && from > before, HELD_BACK);
        }
    }

    /// One turn while the submits are under way.
    fn turn_beside(&mut self) {
        self.turn();
        let seen = self.lane.look();
        seen_when(seen < self.journaled, AHEAD);
    }

    fn finish(mut self, places: u32) {
        self.turn();
        assert_eq!((self.journaled, self.lane.look()), (places, places), "a step was lost");
    }
}

/// Two sessions of a client: one reports the first subject, one what it finds to be the front.
fn submits() {
    let lane = Lane::new(2);
    let first = {
        let lane = Arc::clone(&lane);
        thread::spawn(move || lane.submit(0, 1))
    };
    let other = {
        let lane = Arc::clone(&lane);
        thread::spawn(move || (lane.front(), lane.submit(lane.front(), 2)))
    };
    let mut writer = Writer::new(&lane);
    writer.turn_beside();
    let first = first.join().expect("a thread of the model panicked");
    let (_, second) = other.join().expect("a thread of the model panicked");
    seen_when(first && second, BOTH);
    seen_when(!first || !second, REFUSED);
    assert!(first || second, "one of them was at the front");
    let places = lane.front().min(2);
    writer.finish(places);
}

/// Three steps, each by who finds the one before done: they come in any order.
fn three() {
    let lane = Lane::new(3);
    let sessions = [1, 2].map(|place| {
        let lane = Arc::clone(&lane);
        thread::spawn(move || lane.front() == place && lane.submit(place, place + 1))
    });
    assert!(lane.submit(0, 1));
    let mut writer = Writer::new(&lane);
    writer.turn_beside();
    let done = sessions.map(|session| session.join().expect("a thread of the model panicked"));
    let places = 1 + u32::from(done[0]) + u32::from(done[0] && done[1]);
    writer.finish(places);
}

/// The lease is over while a step of it is noted: no state stays in memory, and nobody sees one of another moment.
fn over() {
    let lane = Lane::new(1);
    let session = {
        let lane = Arc::clone(&lane);
        thread::spawn(move || assert!(lane.submit(0, 1)))
    };
    let seen_before = lane.run.moment().state.is_some();
    lane.run.forget_state();
    let at_the_end = lane.run.moment();
    assert!(at_the_end.state.is_none());
    seen(if seen_before { "noted before the end" } else { "noted after the end" });
    session.join().expect("a thread of the model panicked");
    let moment = lane.run.moment();
    assert!(moment.state.is_none(), "a state came back after the end");
    assert_eq!((moment.version, moment.front), (VERSION + 1, 1), "what was reported is owed again");
}
