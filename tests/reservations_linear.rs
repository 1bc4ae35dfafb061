//! R121: recorded histories of real threads on one stock are linearizable against the plain one; and the checker that says so
//! is itself checked.

#[path = "support/linear.rs"]
mod linear;
#[path = "support/plain_stock.rs"]
#[expect(dead_code, reason = "levels and lists are compared where one thread works")]
mod plain_stock;

use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

use commissary::reservations::{Entered, Entry, NotHeld, Refused, State, Stock, Terms};
use linear::{Event, Model, Recorder, check};
use plain_stock::{Answer, Call, Plain, call_real};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

type Made = Event<Call, Answer>;

struct PlainModel(Terms);

impl Model for PlainModel {
    type State = Plain;
    type Call = Call;
    type Answer = Answer;

    fn start(&self) -> Plain {
        Plain::new(self.0)
    }

    fn step(&self, state: &Plain, call: &Call, answer: &Answer) -> Option<Plain> {
        let mut after = state.clone();
        (after.call(call) == *answer).then_some(after)
    }

    fn is_pure(&self, _: &Call, answer: &Answer) -> bool {
        match answer {
            Answer::Entered(entered) => *entered != Ok(Entered::Applied),
            Answer::Reserved(Ok((.., first))) | Answer::Ended(Ok((.., first))) | Answer::ExpiredOne(first) => !first,
            _ => true,
        }
    }
}

/// Ids that are in use at the same time, and calls of a thread on them before it goes on to others.
const IDS: u128 = 3;
const TURNS: usize = 8;

/// Makes a call. That a deadline has passed is left out: many calls may note it, one after the other.
fn answer(stock: &Stock, call: &Call) -> Answer {
    let mut answer = call_real(stock, call);
    if let Answer::Reserved(Ok((.., state, _))) | Answer::Looked(Some((.., state, _))) = &mut answer
        && *state == State::Overdue
    {
        *state = State::Held;
    }
    answer
}

/// One random call, recorded; an expiry as its steps, each of which may be anywhere between the call and its end.
fn one_call(stock: &Stock, recorder: &Recorder, turn: usize, rng: &mut ChaCha8Rng) -> Made {
    let id = (turn / TURNS) as u128 * IDS + rng.random_range(0..IDS);
    let call = match rng.random_range(0..20) {
        0 => Call::Enter(Entry::Delta { units: 3, source: 1, seq: rng.random_range(0..12) }),
        1 => Call::Enter(Entry::Total { units: 6 + turn as u64 / 5, as_of: rng.random_range(0..10) }),
        2..=8 => Call::Reserve { id, units: 2 + u64::try_from(id).unwrap() % 2, deadline: 10 },
        9..=11 => Call::Confirm(id),
        12..=14 => Call::Cancel(id),
        15 => Call::Expire(rng.random_range(10..=19)),
        16 | 17 => Call::Look(id),
        _ => Call::Available,
    };
    recorder.record(call, |call| answer(stock, call))
}

/// An expiry as its steps, each of which may be anywhere between the call and its end; any other call as it is. Before the
/// grace is over nothing ends, and nothing can become of what was never reserved.
fn steps(made: Made, reserved: &HashSet<u128>) -> Vec<Made> {
    let (Call::Expire(now), Answer::Expired(expired)) = (&made.call, &made.answer) else { return vec![made] };
    let step = |id: &u128| {
        let answer = Answer::ExpiredOne(expired.iter().any(|(expired, ..)| expired == id));
        Event { call: Call::ExpireOne { id: *id, now: *now }, answer, began: made.began, ended: made.ended }
    };
    assert!(*now >= 15 || expired.is_empty());
    reserved.iter().filter(|_| *now >= 15).map(step).collect()
}

fn history(terms: Terms, seed: u64, threads: u64, each: usize) -> Vec<Made> {
    let (stock, recorder, start) =
        (Stock::new(terms), Recorder::default(), Barrier::new(usize::try_from(threads).unwrap()));
    let work = |thread: u64| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed * 1_000 + thread);
        start.wait();
        (0..each).map(|turn| one_call(&stock, &recorder, turn, &mut rng)).collect::<Vec<Made>>()
    };
    let work = &work;
    let made: Vec<Made> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let reserved = |made: &Made| match &made.answer {
        Answer::Reserved(Ok((id, ..))) => Some(*id),
        _ => None,
    };
    let reserved: HashSet<u128> = made.iter().filter_map(reserved).collect();
    made.into_iter().flat_map(|made| steps(made, &reserved)).collect()
}

/// R121: histories of threads that work on the same few reservations and the same few units.
#[test]
fn histories_of_real_threads_are_linearizable() {
    let terms = Terms { grace_ms: 5, events: 4, ..Terms::default() };
    let mut overlapping = 0;
    let sizes = (0..300).map(|seed| (seed, 2 + seed % 3, 20)).chain((300..310).map(|seed| (seed, 8, 64)));
    for (seed, threads, each) in sizes {
        let mut events = history(terms, seed, threads, each);
        let order = check(&PlainModel(terms), &mut events).unwrap_or_else(|stuck| panic!("seed {seed}: {stuck}"));
        assert_eq!(order.len(), events.len());
        overlapping += events.windows(2).filter(|two| two[1].began < two[0].ended).count();
    }
    assert!(overlapping > 500, "{overlapping} calls ran beside another");
}

fn event(began: u64, ended: u64, call: Call, answer: Answer) -> Made {
    Event { call, answer, began, ended }
}

fn reserve(began: u64, ended: u64, id: u128, answer: Result<(), u64>) -> Made {
    let seen = answer.map(|()| (id, 3, 10, State::Held, true));
    let answer = seen.map_err(|available| Refused::Short { wanted: 3, available });
    event(began, ended, Call::Reserve { id, units: 3, deadline: 10 }, Answer::Reserved(answer))
}

fn five() -> Made {
    let entry = Entry::Delta { units: 5, source: 1, seq: 1 };
    event(0, 1, Call::Enter(entry), Answer::Entered(Ok(Entered::Applied)))
}

fn is_linearizable(events: Vec<Made>) -> bool {
    let mut events = events;
    check(&PlainModel(Terms::default()), &mut events).is_ok()
}

/// R121: the checker finds an oversale, a refusal that no order explains, and units that are missing after a give-back was told.
#[test]
fn the_checker_tells_wrong_histories_from_right_ones() {
    // Two at once, units for one.
    assert!(is_linearizable(vec![five(), reserve(2, 5, 1, Ok(())), reserve(3, 4, 2, Err(2))]));
    assert!(is_linearizable(vec![five(), reserve(2, 5, 1, Err(2)), reserve(3, 4, 2, Ok(()))]));
    assert!(!is_linearizable(vec![five(), reserve(2, 5, 1, Ok(())), reserve(3, 4, 2, Ok(()))]));
    assert!(!is_linearizable(vec![five(), reserve(2, 5, 1, Err(2)), reserve(3, 4, 2, Err(2))]));
    // Refused, although the one that took them began afterwards.
    assert!(!is_linearizable(vec![five(), reserve(2, 3, 1, Err(2)), reserve(4, 5, 2, Ok(()))]));
    // A confirmation learns of a cancellation that still runs; then the units must be there.
    let cancelled = |first| Answer::Ended(Ok((1, 3, 10, State::Cancelled, first)));
    let told = event(5, 6, Call::Confirm(1), Answer::Ended(Err(NotHeld::Over { id: 1, state: State::Cancelled })));
    let running = event(4, 20, Call::Cancel(1), cancelled(true));
    let start = vec![five(), reserve(2, 3, 1, Ok(())), running, told];
    let then = |answer| [start.clone(), vec![reserve(7, 8, 2, answer)]].concat();
    assert!(is_linearizable(then(Ok(()))));
    assert!(!is_linearizable(then(Err(2))));
    let twice = vec![event(21, 22, Call::Cancel(1), cancelled(true))];
    assert!(!is_linearizable([start.clone(), twice].concat()));
}

/// A number that is added to and read; wrongly, if `split`.
struct Sum;

impl Model for Sum {
    type State = i64;
    type Call = i64;
    type Answer = i64;

    fn start(&self) -> i64 {
        0
    }

    fn step(&self, state: &i64, call: &i64, answer: &i64) -> Option<i64> {
        (state + call == *answer).then_some(*answer)
    }
}

/// The checker agrees with trying every order, on small histories right and wrong.
#[test]
fn the_checker_agrees_with_trying_every_order() {
    fn any_order(left: &[Event<i64, i64>], sum: i64) -> bool {
        let can_be_next = |event: &Event<i64, i64>| left.iter().all(|other| event.began < other.ended);
        left.is_empty()
            || left.iter().enumerate().filter(|(_, event)| can_be_next(event)).any(|(at, event)| {
                let rest = [&left[..at], &left[at + 1..]].concat();
                sum + event.call == event.answer && any_order(&rest, sum + event.call)
            })
    }
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut found = [0; 2];
    for _ in 0..5_000 {
        let mut sum = 0;
        let mut events: Vec<Event<i64, i64>> = (0..6)
            .map(|at| {
                let call = rng.random_range(0..3);
                sum += call;
                let (before, after) = (rng.random_range(0..25), rng.random_range(1..25));
                // Around the moment at which it took effect; sometimes the answer is wrong.
                let answer = sum + i64::from(rng.random_range(0..12) == 0);
                Event { call, answer, began: 100 + at * 10 - before, ended: 100 + at * 10 + after }
            })
            .collect();
        let wanted = any_order(&events, 0);
        assert_eq!(check(&Sum, &mut events).is_ok(), wanted, "{events:?}");
        found[usize::from(wanted)] += 1;
    }
    assert!(found.iter().all(|found| *found > 500), "{found:?}");
}

/// R121: a sum that is loaded and then stored loses additions, and the checker finds it among real threads.
#[test]
fn the_checker_finds_a_lost_update_of_real_threads() {
    let (sum, recorder, start) = (AtomicI64::new(0), Recorder::default(), Barrier::new(2));
    let work = || {
        let add = |call: &i64| {
            let before = sum.load(Ordering::SeqCst);
            // Both have loaded before either stores.
            start.wait();
            sum.store(before + call, Ordering::SeqCst);
            before + call
        };
        recorder.record(1, add)
    };
    let mut events = thread::scope(|scope| [scope.spawn(work), scope.spawn(work)].map(|thread| thread.join().unwrap()));
    let stuck = check(&Sum, &mut events).unwrap_err();
    assert!(stuck.to_string().contains("none of these can follow"), "{stuck}");
}
