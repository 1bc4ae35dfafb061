//! Reservations on a counter: their states, what came in, and that nothing is sold twice or lost.

#[path = "support/plain_stock.rs"]
#[expect(dead_code, reason = "the steps of an expiry are for the check of histories")]
mod plain_stock;

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use commissary::reservations::{
    EnterError, Entered, Entry, Levels, NotHeld, Refused, State, StateError, Stock, StockState, Terms,
};
use plain_stock::{Call, Plain, call_real};
use proptest::prelude::*;

fn stock(units: u64, grace_ms: u64) -> Stock {
    let stock = Stock::new(Terms { grace_ms, ..Terms::default() });
    assert_eq!(stock.add(units, 1, 1), Ok(Entered::Applied));
    stock
}

fn levels(available: u64, held: u64, confirmed: u64) -> Levels {
    Levels { available, held, confirmed, added: available + held + confirmed, short: 0 }
}

/// Adds up what the reservations themselves say, without the counters.
fn recount(stock: &Stock) -> (u64, u64) {
    let state = stock.state().unwrap();
    let sum = |of: fn(State) -> bool| state.reservations().filter(|(.., state)| of(*state)).map(|(_, n, _)| n).sum();
    (sum(State::is_held), sum(|state| state == State::Confirmed))
}

fn round_trip(state: &StockState) -> StockState {
    postcard::from_bytes(&postcard::to_allocvec(state).unwrap()).unwrap()
}

/// R121: what is available can be reserved, and not one unit more.
#[test]
fn no_more_is_reserved_than_is_there() {
    let stock = stock(10, 0);
    assert!(stock.reserve(1, 6, 100).unwrap().first);
    assert_eq!(stock.reserve(2, 5, 100), Err(Refused::Short { wanted: 5, available: 4 }));
    assert!(stock.reserve(2, 4, 100).unwrap().first);
    assert_eq!(stock.reserve(3, 1, 100), Err(Refused::Short { wanted: 1, available: 0 }));
    assert_eq!(stock.levels(), levels(0, 10, 0));
    let limit = Stock::UNITS_MAX;
    assert_eq!(stock.reserve(4, 0, 100), Err(Refused::Units { units: 0, limit }));
    assert_eq!(stock.reserve(4, limit + 1, 100), Err(Refused::Units { units: limit + 1, limit }));
}

/// R125: confirming changes no stock; it is final, and can be repeated.
#[test]
fn confirming_changes_no_stock() {
    let stock = stock(10, 0);
    stock.reserve(1, 6, 100).unwrap();
    assert_eq!(stock.available(), 4);
    let confirmed = stock.confirm(1).unwrap();
    assert_eq!((confirmed.state, confirmed.units, confirmed.first), (State::Confirmed, 6, true));
    assert!(!stock.confirm(1).unwrap().first);
    assert_eq!(stock.cancel(1), Err(NotHeld::Over { id: 1, state: State::Confirmed }));
    assert!(stock.expire(u64::MAX).is_empty());
    assert_eq!((stock.levels(), recount(&stock)), (levels(4, 0, 6), (0, 6)));
}

/// R125: cancelling gives back once, however often it is said.
#[test]
fn cancelling_gives_back_once() {
    let stock = stock(10, 0);
    stock.reserve(1, 6, 100).unwrap();
    assert!(stock.cancel(1).unwrap().first);
    assert!(!stock.cancel(1).unwrap().first);
    assert_eq!(stock.confirm(1), Err(NotHeld::Over { id: 1, state: State::Cancelled }));
    assert_eq!((stock.expire(u64::MAX), stock.levels()), (vec![], levels(10, 0, 0)));
    assert_eq!(stock.cancel(2), Err(NotHeld::Unknown { id: 2 }));
    assert_eq!(stock.confirm(2), Err(NotHeld::Unknown { id: 2 }));
}

/// R125: a reservation expires when its deadline and its grace are over, not a millisecond before; until then a confirmation wins,
/// also after the deadline.
#[test]
fn a_confirmation_wins_until_the_grace_is_over() {
    let stock = stock(10, 50);
    for id in 1..=3 {
        stock.reserve(id, 2, 100).unwrap();
    }
    assert!(stock.expire(99).is_empty());
    assert_eq!(stock.reservation(1).unwrap().state, State::Held);
    assert!(stock.expire(149).is_empty());
    assert_eq!((stock.reservation(1).unwrap().state, stock.levels()), (State::Overdue, levels(4, 6, 0)));
    assert!(stock.confirm(1).unwrap().first);
    assert!(stock.cancel(2).unwrap().first);
    let expired = stock.expire(150);
    assert_eq!(expired.iter().map(|found| (found.id, found.units)).collect::<Vec<_>>(), [(3, 2)]);
    assert_eq!(stock.confirm(3), Err(NotHeld::Over { id: 3, state: State::Expired }));
    assert_eq!(stock.levels(), levels(8, 0, 2));
}

/// R125: an expiry does not depend on how often somebody looks; `u64::MAX` is never over while time is less.
#[test]
fn one_look_long_after_is_enough() {
    let stock = stock(10, 50);
    stock.reserve(1, 2, 100).unwrap();
    stock.reserve(2, 2, u64::MAX).unwrap();
    let years = 100 * 365 * 86_400_000;
    assert_eq!(stock.expire(years).iter().map(|found| found.id).collect::<Vec<_>>(), [1]);
    assert_eq!(stock.expire(u64::MAX - 1).len(), 0);
}

/// R121: an id is good for one reservation: repeated, the call finds the first one, and contradicted, it is refused.
#[test]
fn an_id_is_reserved_once() {
    let stock = stock(10, 0);
    assert!(stock.reserve(1, 6, 100).unwrap().first);
    let again = stock.reserve(1, 6, 100).unwrap();
    assert_eq!((again.first, again.state, stock.available()), (false, State::Held, 4));
    let conflict = Err(Refused::Conflict { id: 1, units: 6, deadline: 100 });
    assert_eq!((stock.reserve(1, 5, 100), stock.reserve(1, 6, 101)), (conflict, conflict));
    stock.cancel(1).unwrap();
    assert_eq!(stock.reserve(1, 6, 100).unwrap().state, State::Cancelled);
    assert_eq!(stock.levels(), levels(10, 0, 0));
}

/// R121: what is remembered of reservations that are over is bounded; what is held is not forgotten.
#[test]
fn what_is_over_is_forgotten_in_the_end() {
    let stock = Stock::new(Terms { remembered: 100, held: 10, ..Terms::default() });
    assert_eq!(stock.add(1_000_000, 1, 1), Ok(Entered::Applied));
    stock.reserve(0, 1, 100).unwrap();
    for id in 1..=50_000 {
        stock.reserve(id, 1, 100).unwrap();
        stock.confirm(id).unwrap();
    }
    assert!(!stock.confirm(49_901).unwrap().first);
    assert_eq!(stock.confirm(49_900), Err(NotHeld::Unknown { id: 49_900 }));
    assert_eq!(stock.state().unwrap().reservations().count(), 101);
    let bytes = postcard::to_allocvec(&stock.state().unwrap()).unwrap();
    assert!(bytes.len() < 101 * 20, "{} bytes", bytes.len());
    assert!(stock.confirm(0).unwrap().first, "held all the while");
    assert!(!stock.confirm(0).unwrap().first, "and remembered from its end on");
    for id in 100_001..=100_010 {
        stock.reserve(id, 1, 100).unwrap();
    }
    assert_eq!(stock.reserve(100_011, 1, 100), Err(Refused::TooManyHeld { limit: 10 }));
    stock.cancel(100_001).unwrap();
    assert!(stock.reserve(100_011, 1, 100).unwrap().first);
}

/// R122: releases are counted once by their event ids, whichever source they come from.
#[test]
fn a_release_counts_once() {
    let stock = Stock::default();
    for (source, seq) in [(1, 1), (1, 2), (2, 1), (1, 1), (2, 1), (1, 2)] {
        assert!(stock.add(10, source, seq).is_ok());
    }
    assert_eq!((stock.levels(), stock.ignored().repeated), (levels(30, 0, 0), 3));
    assert_eq!(stock.add(11, 1, 1), Err(EnterError::Conflict { units: 10 }));
}

/// R123: a total replaces the base as of its position, later events count on top, and an older total is ignored and counted;
/// what is held or confirmed stays so.
#[test]
fn a_total_replaces_the_base_as_of_its_position() {
    let stock = stock(10, 0);
    stock.reserve(1, 3, 100).unwrap();
    stock.reserve(2, 4, 100).unwrap();
    stock.confirm(1).unwrap();
    assert_eq!(stock.add(5, 1, 30), Ok(Entered::Applied));
    assert_eq!(stock.enter(Entry::Total { units: 12, as_of: 20 }), Ok(Entered::Applied));
    assert_eq!(stock.levels(), levels(10, 4, 3));
    assert_eq!(stock.enter(Entry::Total { units: 99, as_of: 19 }), Ok(Entered::Stale { as_of: 20 }));
    assert_eq!(stock.add(7, 1, 15), Ok(Entered::Covered));
    assert_eq!((stock.levels(), stock.ignored().stale, stock.ignored().covered), (levels(10, 4, 3), 1, 1));
}

/// R123: a total that says less than what is promised makes nothing negative: it is told, and filled first.
#[test]
fn a_total_below_what_is_promised_is_told() {
    let stock = stock(10, 0);
    stock.reserve(1, 4, 100).unwrap();
    stock.reserve(2, 4, 100).unwrap();
    stock.confirm(1).unwrap();
    assert_eq!(stock.enter(Entry::Total { units: 5, as_of: 2 }), Ok(Entered::Applied));
    assert_eq!(stock.levels(), Levels { available: 0, held: 4, confirmed: 4, added: 5, short: 3 });
    assert_eq!(stock.reserve(3, 1, 100), Err(Refused::Short { wanted: 1, available: 0 }));
    assert_eq!(stock.add(2, 1, 3), Ok(Entered::Applied));
    assert_eq!(stock.available(), 0);
    stock.cancel(2).unwrap();
    assert_eq!(stock.levels(), levels(3, 0, 4));
}

/// R125: a state that cannot have come about is no stock.
#[test]
fn a_state_that_cannot_be_is_refused() {
    let stock = stock(10, 0);
    stock.reserve(1, 3, 100).unwrap();
    stock.confirm(1).unwrap();
    let json = serde_json::to_string(&stock).unwrap();
    assert_eq!(serde_json::from_str::<Stock>(&json).unwrap().levels(), levels(7, 0, 3));
    for (from, to) in
        [("\"units\":3", "\"units\":0"), ("\"confirmed\":3", "\"confirmed\":2"), ("\"made\":1", "\"made\":0")]
    {
        assert!(json.contains(from), "{json}");
        let state: StockState = serde_json::from_str(&json.replace(from, to)).unwrap();
        let wrong = Stock::try_from(state).unwrap_err();
        assert!(matches!(wrong, StateError::Reservation { id: 1 } | StateError::Confirmed { confirmed: 2 }), "{wrong}");
        assert!(serde_json::from_str::<Stock>(&json.replace(from, to)).is_err());
    }
    // Nobody has made so many; one more could not be counted.
    let json = json.replace("\"made\":1", "\"made\":18446744073709551615");
    let state: StockState = serde_json::from_str(&json).unwrap();
    assert!(matches!(Stock::try_from(state), Err(StateError::Made { made: u64::MAX, .. })));
}

fn calls() -> impl Strategy<Value = Call> {
    let id = 0..12_u128;
    let seq = 0..24_u64;
    prop_oneof![
        3 => (-4..12_i64, 0..2_u128, seq.clone())
            .prop_map(|(units, source, seq)| Call::Enter(Entry::Delta { units, source, seq })),
        2 => (0..40_u64, seq).prop_map(|(units, as_of)| Call::Enter(Entry::Total { units, as_of })),
        6 => (id.clone(), 1..6_u64, 0..4_u64)
            .prop_map(|(id, units, late)| Call::Reserve { id, units, deadline: late * 10 }),
        3 => id.clone().prop_map(Call::Confirm),
        3 => id.clone().prop_map(Call::Cancel),
        2 => (0..60_u64).prop_map(Call::Expire),
        1 => id.prop_map(Call::Look),
        1 => Just(Call::Available),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// R121, R122, R123, R125: whatever the calls, the answers and the levels are those of the plain model; taken out as a
    /// value and restored after every step, the stock goes on as one that never was.
    #[test]
    fn a_stock_is_what_the_plain_model_is(
        calls in prop::collection::vec(calls(), 1..80),
        grace_ms in 0..15_u64,
        held in 1..6_u32,
        remembered in 0..8_u32,
        events in 0..6_u32,
    ) {
        let terms = Terms { grace_ms, held, remembered, events };
        let mut plain = Plain::new(terms);
        let (kept, mut restored) = (Stock::new(terms), Stock::new(terms));
        for call in &calls {
            let wanted = plain.call(call);
            prop_assert_eq!(&call_real(&kept, call), &wanted, "{:?}", call);
            prop_assert_eq!(&call_real(&restored, call), &wanted, "restored: {:?}", call);
            prop_assert_eq!(kept.levels(), plain.levels());
            let state = kept.state().unwrap();
            prop_assert_eq!(state.reservations().collect::<Vec<_>>(), plain.reservations());
            prop_assert_eq!(&restored.state().unwrap(), &state);
            restored = Stock::try_from(round_trip(&state)).unwrap();
            prop_assert_eq!(&restored.state().unwrap(), &state);
            prop_assert_eq!((restored.levels(), restored.ignored()), (kept.levels(), kept.ignored()));
            let Levels { available, held, confirmed, added, short } = kept.levels();
            prop_assert_eq!(available + held + confirmed, added + short);
        }
    }
}

/// R125: of confirm, cancel and expire, called by eight threads on the same reservations at once, one wins each time, all are told the same end, and
/// what was not confirmed is given back once.
#[test]
fn one_of_many_ends_wins_and_gives_back_once() {
    const ROUNDS: u64 = 60;
    const EACH: u64 = 32;
    const THREADS: u64 = 8;
    let stock = Stock::new(Terms { grace_ms: 5, remembered: 64, ..Terms::default() });
    assert_eq!(stock.add(ROUNDS * EACH * 3, 1, 1), Ok(Entered::Applied));
    let (barrier, wins) = (Barrier::new(8), [const { AtomicU64::new(0) }; 3]);
    let race = |thread: u64| {
        for round in 0..ROUNDS {
            let ids = round * EACH..(round + 1) * EACH;
            if thread == 0 {
                ids.clone().for_each(|id| assert!(stock.reserve(u128::from(id), 3, round).unwrap().first));
            }
            barrier.wait();
            let won = |kind: usize, first: bool| wins[kind].fetch_add(u64::from(first), Ordering::SeqCst);
            let turned = |at: u64| u128::from(ids.start + (at + thread * 5) % EACH);
            if thread == THREADS - 1 {
                wins[2].fetch_add(stock.expire(round + 5).len() as u64, Ordering::SeqCst);
            } else {
                for id in (0..EACH).map(turned) {
                    let kind = usize::from(thread.is_multiple_of(2));
                    let answer = if kind == 1 { stock.cancel(id) } else { stock.confirm(id) };
                    match answer {
                        Ok(ended) => _ = won(kind, ended.first),
                        Err(NotHeld::Over { state, .. }) => assert!(!state.is_held()),
                        Err(other) => panic!("{other}"),
                    }
                    let found = stock.reservation(id).unwrap();
                    assert!(!found.state.is_held(), "over is over");
                }
            }
            barrier.wait();
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|thread| _ = scope.spawn(move || race(thread))));
    let [confirmed, cancelled, expired] = wins.map(AtomicU64::into_inner);
    assert_eq!(confirmed + cancelled + expired, ROUNDS * EACH);
    let stocked = ROUNDS * EACH * 3;
    assert_eq!(stock.levels(), levels(stocked - confirmed * 3, 0, confirmed * 3));
}

/// R121, R122: threads that reserve, confirm, cancel, expire and add all at once: what is confirmed was stocked, nothing is lost, and
/// states taken meanwhile add up too.
#[test]
fn a_storm_neither_oversells_nor_loses() {
    const THREADS: u64 = 8;
    const EACH: u64 = 600;
    let stock = Stock::new(Terms { remembered: 10_000, held: 10_000, ..Terms::default() });
    let sold = AtomicU64::new(0);
    let work = |thread: u64| {
        for turn in 0..EACH {
            let id = u128::from(turn * THREADS + thread);
            if turn % 8 == 0 {
                // Two threads tell each event.
                let _ = stock.add(10, u128::from(thread / 2), turn).unwrap();
            }
            if stock.reserve(id, 1 + turn % 7, turn).is_ok() {
                match (turn + thread) % 4 {
                    // Others may be so far ahead that it ran out meanwhile.
                    0 => match stock.cancel(id) {
                        Ok(_) | Err(NotHeld::Over { state: State::Expired, .. }) => {}
                        Err(other) => panic!("{other}"),
                    },
                    1 | 2 => match stock.confirm(id) {
                        Ok(done) => _ = sold.fetch_add(done.units, Ordering::SeqCst),
                        Err(NotHeld::Over { state: State::Expired, .. }) => {}
                        Err(other) => panic!("{other}"),
                    },
                    _ => {}
                }
            }
            if turn % 100 == thread {
                stock.expire(turn.saturating_sub(50));
            }
            if turn % 200 == thread
                && let Ok(state) = stock.state()
            {
                let copy = Stock::try_from(state).unwrap();
                let (levels, (held, confirmed)) = (copy.levels(), recount(&copy));
                assert_eq!((levels.held, levels.confirmed, levels.short), (held, confirmed, 0));
                assert_eq!(levels.available + held + confirmed, levels.added);
            }
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|thread| _ = scope.spawn(move || work(thread))));
    let (held, confirmed) = recount(&stock);
    let stocked = EACH.div_ceil(8) * 10 * THREADS / 2;
    assert_eq!(confirmed, sold.into_inner());
    assert!(confirmed <= stocked && confirmed + 100 > stocked / 4, "{confirmed} of {stocked}");
    assert_eq!(stock.levels(), levels(stocked - held - confirmed, held, confirmed));
    stock.expire(u64::MAX);
    assert_eq!(stock.levels(), levels(stocked - confirmed, 0, confirmed));
}
