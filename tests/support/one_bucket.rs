//! One bucket as plain rules say it is, without threads: what its calls answer, one after the other. Histories of real calls are
//! held against it (`support/linear.rs`).
//!
//! An end takes effect in two steps, as `docs/protocol.md` says: it closes the bucket, then it says that the lease is over. So
//! a history has both, each anywhere between the beginning and the end of the call.

use crate::linear::Model;

/// The bucket that this is about: what it holds at first, one bit a subject, and its times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OneBucket {
    pub(crate) whole: u64,
    pub(crate) grace: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    Ready,
    Leased,
    Dead,
    Over,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    phase: Phase,
    owner: u32,
    /// The deadline, or the moment of its death.
    time: u64,
    owed: u64,
    closed: bool,
}

/// Who ends a lease: its owner, or the steward at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Owner(u32),
    Steward(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    /// With the earliest deadline that it may have.
    Claim {
        owner: u32,
        deadline: u64,
    },
    Report {
        wanted: u64,
    },
    Renew {
        owner: u32,
        deadline: u64,
    },
    /// The steward marks the lease dead, if its deadline is at or before now.
    Mark {
        now: u64,
    },
    /// The first step of an end.
    Close(By),
    /// Its second step.
    Settle(By),
    /// Whoever finds nothing owed says that the lease is over.
    Finish,
    /// What is owed, or was put back.
    Owed,
    Look,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Won(bool),
    Reported {
        accepted: u64,
        stale: u64,
    },
    Renewed,
    IsDead,
    IsOver,
    NotOwner,
    /// What an end put back; `None`: another one ended it.
    Left(Option<u32>),
    Owed(u64),
    Saw(Phase),
    /// The call does not tell whether it did anything.
    Silent,
}

impl State {
    fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Leased | Phase::Dead)
    }
}

impl OneBucket {
    /// May `by` end the lease?
    fn may_end(&self, state: &State, by: By) -> bool {
        state.is_held()
            && match by {
                By::Owner(owner) => owner == state.owner,
                By::Steward(now) => state.phase == Phase::Dead && now >= state.time + self.grace,
            }
    }

    fn settle(&self, state: &State, by: By, left: Option<u32>) -> Option<State> {
        let over = State { phase: Phase::Over, ..state.clone() };
        match left {
            Some(left) => {
                let right = self.may_end(state, by) && state.closed && state.owed.count_ones() == left;
                right.then_some(over)
            }
            None => (!self.may_end(state, by)).then(|| state.clone()),
        }
    }

    fn renew(state: &State, (owner, deadline): (u32, u64), answer: Answer) -> Option<State> {
        let is_owner = state.phase != Phase::Ready && state.owner == owner;
        let holds = match answer {
            Answer::Renewed => is_owner && state.phase == Phase::Leased && state.owed != 0,
            Answer::IsDead => is_owner && state.phase == Phase::Dead,
            Answer::IsOver => is_owner && (state.phase == Phase::Over || state.owed == 0),
            _ => !is_owner && answer == Answer::NotOwner,
        };
        let time = if answer == Answer::Renewed { state.time.max(deadline) } else { state.time };
        holds.then(|| State { time, ..state.clone() })
    }

    /// What a silent call does, if it does anything.
    fn silent(&self, state: &State, call: &Call) -> Option<State> {
        let mut after = state.clone();
        match call {
            Call::Mark { now } if state.phase == Phase::Leased && state.time <= *now => {
                (after.phase, after.time) = (Phase::Dead, *now);
            }
            Call::Close(by) if self.may_end(state, *by) => after.closed = true,
            Call::Settle(by) if self.may_end(state, *by) && state.closed => after.phase = Phase::Over,
            Call::Finish if state.is_held() && state.owed == 0 => after.phase = Phase::Over,
            _ => return None,
        }
        Some(after)
    }
}

impl Model for OneBucket {
    type State = State;
    type Call = Call;
    type Answer = Answer;

    fn start(&self) -> State {
        State { phase: Phase::Ready, owner: 0, time: 0, owed: self.whole, closed: false }
    }

    fn step(&self, state: &State, call: &Call, answer: &Answer) -> Option<State> {
        let same = |holds: bool| holds.then(|| state.clone());
        match (call, *answer) {
            (_, Answer::Silent) => Some(self.silent(state, call).unwrap_or_else(|| state.clone())),
            (Call::Claim { owner, deadline }, Answer::Won(true)) => {
                let leased = State { phase: Phase::Leased, owner: *owner, time: *deadline, ..state.clone() };
                (state.phase == Phase::Ready).then_some(leased)
            }
            (Call::Claim { .. }, Answer::Won(false)) => same(state.phase != Phase::Ready),
            (Call::Report { wanted }, Answer::Reported { accepted, stale }) => {
                let found = state.owed & wanted;
                let right = if state.closed { (0, found) } else { (found, 0) };
                let owed = state.owed & !accepted;
                ((accepted, stale) == right && state.phase != Phase::Ready).then(|| State { owed, ..state.clone() })
            }
            (Call::Renew { owner, deadline }, answer) => Self::renew(state, (*owner, *deadline), answer),
            (Call::Mark { .. }, Answer::Won(true)) => self.silent(state, call),
            (Call::Settle(by), Answer::Left(left)) => self.settle(state, *by, left),
            (Call::Owed, Answer::Owed(owed)) => same(state.owed == owed),
            (Call::Look, Answer::Saw(phase)) => same(state.phase == phase),
            _ => None,
        }
    }

    fn also(&self, state: &State, call: &Call, answer: &Answer) -> Option<State> {
        (*answer == Answer::Silent && self.silent(state, call).is_some()).then(|| state.clone())
    }

    fn is_pure(&self, call: &Call, answer: &Answer) -> bool {
        match answer {
            Answer::Won(won) => !won && matches!(call, Call::Claim { .. }),
            Answer::Reported { accepted, .. } => *accepted == 0,
            Answer::Left(left) => left.is_none(),
            Answer::Renewed | Answer::Silent => false,
            Answer::IsDead | Answer::IsOver | Answer::NotOwner | Answer::Owed(_) | Answer::Saw(_) => true,
        }
    }
}
