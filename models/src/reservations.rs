//! Models of reservations on a stock: their ends against each other, and the last units of the shelf.

use crate::check::{EXCHANGE_FAILED, Model, seen, seen_when};
use crate::shelf::{Booking, Decided, Desk, Shelf, is_void};
use crate::slot::{Cause, Phase, Snapshot};
use crate::sync::{Arc, Mutex, thread};

pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "reservation_ends",
        body: ends,
        states: &["confirmed", "cancelled", "expired", "overdue", "found at its end", EXCHANGE_FAILED],
        bound: Some(3),
        finite: false,
        one_order: false,
    },
    Model {
        name: "reservation_told",
        body: told,
        states: &["confirmed", "told while it was given back", "taken again"],
        bound: Some(4),
        finite: false,
        one_order: false,
    },
    Model {
        name: "reservation_last",
        body: last,
        states: &["first had them", "second had them", "decided by another", "refused by another"],
        bound: Some(4),
        finite: false,
        one_order: false,
    },
    Model {
        name: "reservation_early",
        body: early,
        states: &["too early", "cancelled", "cancelled before its maker knew"],
        bound: None,
        finite: true,
        one_order: false,
    },
];

/// Units of every booking here.
const UNITS: u64 = 2;

/// A place for the shelf: what arc-swap is in the crate, as an atomic step of the checker.
struct Counter(Mutex<Arc<Shelf<()>>>);

impl Counter {
    fn new(balance: i64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Arc::new(Shelf::new(balance, 0, ())))))
    }

    fn balance(&self) -> i64 {
        self.load().balance
    }
}

impl Desk for Counter {
    type Ledger = ();

    fn load(&self) -> Arc<Shelf<()>> {
        Arc::clone(&self.0.lock().expect("a thread of the model panicked"))
    }

    fn replace(&self, from: &Arc<Shelf<()>>, to: Arc<Shelf<()>>) -> bool {
        let mut place = self.0.lock().expect("a thread of the model panicked");
        let is_there = Arc::ptr_eq(&place, from) || bug!("bug_shelf_blind");
        if is_there {
            *place = to;
        }
        is_there
    }
}

fn spawn<T: Send + 'static>(
    counter: &Arc<Counter>,
    booking: &Arc<Booking>,
    act: impl FnOnce(&Counter, &Arc<Booking>) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let (counter, booking) = (Arc::clone(counter), Arc::clone(booking));
    thread::spawn(move || act(&counter, &booking))
}

fn join<T>(handle: thread::JoinHandle<T>) -> T {
    handle.join().expect("a thread of the model panicked")
}

fn held() -> Arc<Booking> {
    Arc::new(Booking::held(1, UNITS, 0, 0))
}

/// Ends it, and looks: who is told that it was given back finds `free` units there.
fn end(counter: &Counter, booking: &Arc<Booking>, phase: Phase, cause: Cause, free: i64) -> (bool, Snapshot) {
    let (first, seen) = counter.end(booking, phase, cause, 0);
    assert!(seen.is_final(), "it was held");
    assert!(seen.put_back().is_none() || counter.balance() == free, "told before its units were there");
    (first, seen)
}

/// Confirm, cancel and expire: one wins, all are told the same end, and what was not confirmed is given back once.
fn ends() {
    let (counter, booking) = (Counter::new(1), held());
    let cancel = spawn(&counter, &booking, |counter, booking| end(counter, booking, Phase::Released, Cause::Client, 3));
    let expire = spawn(&counter, &booking, |counter, booking| {
        let marked = booking.mark_overdue();
        (marked, end(counter, booking, Phase::Released, Cause::Expired, 3))
    });
    let confirmed = end(&counter, &booking, Phase::Done, Cause::Client, 3);
    let (cancelled, (marked, expired)) = (join(cancel), join(expire));
    let answers = [confirmed, cancelled, expired];
    let winners: Vec<usize> = (0..3).filter(|at| answers[*at].0).collect();
    assert_eq!(winners.len(), 1, "one call ends it: {answers:?}");
    let now = booking.snapshot();
    assert!(answers.iter().all(|(_, seen)| *seen == now), "told different ends: {answers:?}");
    let (phase, cause) =
        [(Phase::Done, None), (Phase::Released, Some(Cause::Client)), (Phase::Released, Some(Cause::Expired))]
            [winners[0]];
    assert_eq!((now.phase(), now.put_back()), (phase, cause));
    assert_eq!(counter.balance(), if phase == Phase::Done { 1 } else { 3 }, "given back once, or confirmed");
    seen(["confirmed", "cancelled", "expired"][winners[0]]);
    seen_when(marked, "overdue");
    seen_when(!expired.0 && !marked, "found at its end");
}

/// Who hears that a reservation was cancelled can have its units at once, wherever the canceller is.
fn told() {
    let (counter, booking) = (Counter::new(0), held());
    let cancel = spawn(&counter, &booking, |counter, booking| counter.end(booking, Phase::Released, Cause::Client, 0));
    let (first, seen_end) = counter.end(&booking, Phase::Done, Cause::Client, 0);
    let mut left = 0;
    if first {
        seen("confirmed");
    } else {
        assert_eq!(seen_end.put_back(), Some(Cause::Client));
        seen("told while it was given back");
        let next = Arc::new(Booking::new(2, UNITS, 0));
        assert_eq!(counter.decide(&next), Decided::Taken, "its units are missing");
        seen("taken again");
        left = 1;
    }
    let _ = join(cancel);
    assert_eq!((counter.balance(), counter.load().made), (0, left), "units were lost or made");
}

/// Two bookings for units of one, and another call with the id of the first: one has them, the other does not, whoever decides.
fn last() {
    let counter = Counter::new(3);
    let [one, two] = [1, 2].map(|id| Arc::new(Booking::new(id, UNITS, 0)));
    let decide = |booking| spawn(&counter, booking, Counter::decide);
    let (maker, repeat) = (decide(&one), decide(&one));
    let other = counter.decide(&two);
    let answers = [join(maker), join(repeat)];
    let has = [&one, &two].map(|booking| booking.snapshot().phase() == Phase::Leased);
    let void = [&one, &two].map(|booking| is_void(booking.snapshot()));
    assert_eq!((has[0], void), (!has[1], has.map(|has| !has)), "one of them has the units");
    let by_answers = [answers.contains(&Decided::Taken), other == Decided::Taken];
    assert_eq!(by_answers, has, "{answers:?} {other:?}");
    assert_eq!(answers.iter().filter(|answer| **answer == Decided::Before).count(), 1, "decided once: {answers:?}");
    assert_eq!((counter.balance(), counter.load().made), (1, 1));
    seen_when(has[0], "first had them");
    seen_when(has[1], "second had them");
    seen_when(answers[0] == Decided::Before && has[0], "decided by another");
    seen_when(answers[0] == Decided::Before && void[0], "refused by another");
}

/// A call that comes while the reservation is made finds none, or one that is held: never something between.
fn early() {
    let (counter, booking) = (Counter::new(3), Arc::new(Booking::new(1, UNITS, 0)));
    let maker = spawn(&counter, &booking, |counter, booking| (counter.decide(booking), booking.snapshot().is_final()));
    let (first, found) = counter.end(&booking, Phase::Released, Cause::Client, 0);
    assert!(first || found.phase() == Phase::Ready, "it is held, and was not ended: {found:?}");
    assert!(first == found.is_final() && (!first || counter.balance() == 3), "told before its units were there");
    let (made, over) = join(maker);
    assert_eq!(made, Decided::Taken);
    assert_eq!(counter.balance(), if first { 3 } else { 1 });
    seen(if first { "cancelled" } else { "too early" });
    seen_when(over, "cancelled before its maker knew");
}
