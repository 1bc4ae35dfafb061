//! Checks whether a recorded history of threads is linearizable: whether its calls, each at some moment between its
//! beginning and its end, could have been made one after the other on a sequential model with the same answers.
//!
//! The search is Wing and Gong's, with a memory of the configurations that led nowhere (Lowe's addition): a configuration is
//! the set of calls that were placed, and the model's state. Time grows with the number of calls and, at worst exponentially,
//! with how many of them run at once.
//!
//! Use: `#[path = "support/linear.rs"] mod linear;`, a [`Model`], a [`Recorder`] shared by the threads, and [`check`].

use std::cmp::Reverse;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a history is held against.
pub(crate) trait Model {
    type State: Clone + Eq + Hash;
    type Call: fmt::Debug;
    type Answer: fmt::Debug;

    fn start(&self) -> Self::State;

    /// The state after a call that was answered so; `None` if in this state it would have been answered otherwise.
    fn step(&self, state: &Self::State, call: &Self::Call, answer: &Self::Answer) -> Option<Self::State>;

    /// Another state that it may have led to: of a call whose answer does not tell what it did.
    fn also(&self, state: &Self::State, call: &Self::Call, answer: &Self::Answer) -> Option<Self::State> {
        let _ = (state, call, answer);
        None
    }

    /// True if a call that is answered so never changes the state, whatever that is. Then it is placed as soon as it can
    /// be, and nothing else is tried: where it can stand it harms no other. Saves most of the search.
    fn is_pure(&self, call: &Self::Call, answer: &Self::Answer) -> bool {
        let _ = (call, answer);
        false
    }
}

/// One call, its answer, and when it was made: numbers that grow over all threads.
#[derive(Debug, Clone)]
pub(crate) struct Event<C, A> {
    pub(crate) call: C,
    pub(crate) answer: A,
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// Numbers the beginnings and ends of calls; shared by all threads of a history.
#[derive(Debug, Default)]
pub(crate) struct Recorder(AtomicU64);

impl Recorder {
    pub(crate) fn record<C, A>(&self, call: C, act: impl FnOnce(&C) -> A) -> Event<C, A> {
        let began = self.0.fetch_add(1, Ordering::SeqCst);
        let answer = act(&call);
        Event { call, answer, began, ended: self.0.fetch_add(1, Ordering::SeqCst) }
    }
}

/// A history that no order explains.
#[derive(Debug)]
pub(crate) struct Stuck {
    /// The longest order that could be found, the last calls of it.
    placed: Vec<String>,
    /// The calls of which one had to be next.
    next: Vec<String>,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "not linearizable; after")?;
        self.placed.iter().try_for_each(|call| writeln!(f, "  {call}"))?;
        writeln!(f, "none of these can follow:")?;
        self.next.iter().try_for_each(|call| writeln!(f, "  {call}"))
    }
}

/// Which calls are placed: all before `first`, not `first`, and those of `ahead`, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Placed {
    first: usize,
    ahead: Vec<usize>,
}

impl Placed {
    fn with(&self, index: usize) -> Self {
        let mut ahead = self.ahead.clone();
        let at = ahead.binary_search(&index).unwrap_err();
        ahead.insert(at, index);
        let mut first = self.first;
        let run = ahead
            .iter()
            .take_while(|index| {
                **index == first && {
                    first += 1;
                    true
                }
            })
            .count();
        ahead.drain(..run);
        Self { first, ahead }
    }

    /// The calls that can be next: those that began before any call that is not placed ended.
    fn next<C, A>(&self, events: &[Event<C, A>]) -> Vec<usize> {
        let mut next = Vec::new();
        let mut end = u64::MAX;
        for (index, event) in events.iter().enumerate().skip(self.first) {
            if event.began > end {
                break;
            }
            if self.ahead.binary_search(&index).is_err() {
                end = end.min(event.ended);
                next.push(index);
            }
        }
        next.retain(|index| events[*index].began < end);
        // The last one is tried first: what ended first is likely to have come first.
        next.sort_by_key(|index| Reverse(events[*index].ended));
        next
    }
}

struct Frame<S> {
    placed: Placed,
    state: S,
    /// Not tried yet.
    next: Vec<usize>,
    /// Tried with one of its two effects.
    again: Option<usize>,
    /// The call that led here.
    by: Option<usize>,
}

/// An order that explains the history, as places in it.
pub(crate) fn check<M: Model>(model: &M, events: &mut [Event<M::Call, M::Answer>]) -> Result<Vec<usize>, Stuck> {
    events.sort_by_key(|event| event.began);
    let placed = Placed { first: 0, ahead: Vec::new() };
    let next = placed.next(events);
    let mut path = vec![Frame { placed, state: model.start(), next, again: None, by: None }];
    let mut seen = HashSet::new();
    let mut longest: Vec<usize> = Vec::new();
    let order = |path: &[Frame<M::State>]| path.iter().filter_map(|frame| frame.by).collect::<Vec<_>>();
    while let Some(frame) = path.last_mut() {
        if frame.placed.first == events.len() {
            return Ok(order(&path));
        }
        let Some(index) = frame.next.pop() else {
            if path.len() > longest.len() {
                longest = order(&path);
            }
            path.pop();
            continue;
        };
        let Event { call, answer, .. } = &events[index];
        let state = if frame.again.take_if(|again| *again == index).is_some() {
            model.also(&frame.state, call, answer)
        } else {
            if model.also(&frame.state, call, answer).is_some() {
                // Its other effect is tried after this one.
                frame.again = Some(index);
                frame.next.push(index);
            }
            model.step(&frame.state, call, answer)
        };
        let Some(state) = state else { continue };
        if model.is_pure(call, answer) {
            frame.next.clear();
        }
        let placed = frame.placed.with(index);
        if seen.insert((placed.clone(), state.clone())) {
            let mut next = placed.next(events);
            next.sort_by_key(|index| model.is_pure(&events[*index].call, &events[*index].answer));
            path.push(Frame { placed, state, next, again: None, by: Some(index) });
        }
    }
    Err(stuck(events, &longest))
}

fn stuck<C: fmt::Debug, A: fmt::Debug>(events: &[Event<C, A>], longest: &[usize]) -> Stuck {
    let show = |index: &usize| format!("{:?}", events[*index]);
    let placed = longest.iter().fold(Placed { first: 0, ahead: Vec::new() }, |placed, index| placed.with(*index));
    Stuck {
        placed: longest.iter().skip(longest.len().saturating_sub(20)).map(show).collect(),
        next: placed.next(events).iter().map(show).collect(),
    }
}
