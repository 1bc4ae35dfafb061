//! A report that is stopped in the middle of its call, and what others do meanwhile on a subject that is offered twice.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::service::{Late, Policy, Reporter, Urgent, Verdict};
use crate::{Ask, Hub, Lease, ManualClock, MemoryDisk, Outcome, Registration, Seat, Service, ServiceHandle, Submitted};

/// Where a report can be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// It has found where else its subject stands, if it is late.
    Found,
    /// It has cleared its own bits.
    Cleared,
    /// It has taken it where it stands, if it is late.
    Taken,
}

/// What is done when a point is reached.
type Meanwhile = (Point, Box<dyn FnOnce()>);

thread_local! {
    /// What happens when a report of this thread comes to a point.
    static MEANWHILE: RefCell<Vec<Meanwhile>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn reached(point: Point) {
    let due = MEANWHILE.with_borrow_mut(|all| all.iter().position(|(at, _)| *at == point).map(|at| all.remove(at)));
    if let Some((_, act)) = due {
        act();
    }
}

fn meanwhile(point: Point, act: impl FnOnce() + 'static) {
    MEANWHILE.with_borrow_mut(|all| all.push((point, Box::new(act))));
}

struct Numbers(Urgent);

impl Service for Numbers {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        "numbers"
    }

    fn policy(&self) -> Policy {
        Policy {
            bucket_subjects: 2,
            lease: Duration::from_secs(10),
            grace: Duration::from_secs(1),
            late: Late::AcceptIfOpen,
            urgent: self.0,
            linger: Duration::ZERO,
            expiry_spread: 0,
            cooldown: Duration::ZERO,
            company: 0,
            ..Policy::default()
        }
    }

    fn judge(&self, _: &u64, _: &u64, _: Reporter) -> Verdict {
        Verdict::Accept
    }
}

struct Shop {
    hub: Hub,
    clock: ManualClock,
    service: ServiceHandle<Numbers>,
    seats: [Seat<Numbers>; 2],
    /// The lease on the urgent bucket, and the answer to the report on it.
    urgent: RefCell<Option<Lease<Numbers>>>,
    answer: Cell<Option<Submitted>>,
}

impl Shop {
    fn one(&self, seat: usize) -> Lease<Numbers> {
        let grant = self.seats[seat].claim(Ask::one()).unwrap().leased();
        grant.and_then(|mut grant| grant.pop()).expect("a bucket is ready")
    }

    /// The subject is marked: it stays in the bucket that waits, and is offered and leased in an urgent one as well.
    fn offer_again(&self) {
        assert_eq!(self.service.prioritize(&[1]).unwrap().0.len(), 1);
        self.hub.tick();
        let urgent = self.one(1);
        assert_eq!(urgent.subjects().collect::<Vec<_>>(), [1]);
        self.urgent.replace(Some(urgent));
    }

    /// Everything has settled, and subject 1 has this result.
    fn assert_result(&self, expected: u64, what: &str) {
        for _ in 0..3 {
            self.clock.advance(Duration::from_secs(11));
            self.hub.tick();
        }
        assert_eq!(self.service.result(&1).unwrap().unwrap().report, expected, "{what}");
        assert_eq!(self.service.stats().discarded, 0, "{what}");
        let audit = self.hub.recount().unwrap();
        assert!(audit.is_balanced() && self.hub.stats().work.adds_up(), "{what}: {audit}");
    }

    fn report_urgent(&self) {
        let urgent = self.urgent.borrow();
        self.answer.set(Some(urgent.as_ref().expect("it is offered again").report([(1, 20)]).unwrap()));
    }
}

/// With subjects 1 and 2 offered again in a bucket that waits; and the lease in which they expired.
fn open(urgent: Urgent) -> (Rc<Shop>, Lease<Numbers>) {
    let clock = ManualClock::default();
    let hub = Hub::builder().manual().clock(clock.clone()).seed(1).open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Numbers(urgent)).unwrap();
    let client = |id| hub.register_client(&Registration::new(id, "name")).unwrap().client;
    let seats = [1, 2].map(|id| client(id).activate(&service).unwrap());
    assert_eq!(service.add_all([1, 2]).unwrap().added, 2);
    hub.tick();
    let shop = Shop { hub, clock, service, seats, urgent: RefCell::default(), answer: Cell::default() };
    let old = shop.one(0);
    for _ in 0..2 {
        shop.clock.advance(Duration::from_secs(11));
        shop.hub.tick();
    }
    (Rc::new(shop), old)
}

/// I1: of a late report and a report on the urgent bucket in which its subject is offered meanwhile one is accepted, wherever the late
/// one is stopped for the other; and that is the result.
#[test]
fn a_late_report_and_one_on_the_urgent_bucket_are_not_both_accepted() {
    for reported in [Some(Point::Found), Some(Point::Taken), None] {
        let (shop, old) = open(Urgent::Keep);
        let (offers, reports) = (Rc::clone(&shop), Rc::clone(&shop));
        meanwhile(Point::Found, move || {
            offers.offer_again();
            if reported == Some(Point::Found) {
                offers.report_urgent();
            }
        });
        if reported == Some(Point::Taken) {
            meanwhile(Point::Taken, move || reports.report_urgent());
        }
        let late = old.report([(1, 10)]).unwrap().outcomes.pop().unwrap();
        if reported.is_none() {
            shop.report_urgent();
        }
        let urgent = shop.answer.take().unwrap().outcomes.pop().unwrap();
        let what = format!("reported at {reported:?}: late {late:?}, urgent {urgent:?}");
        let accepted = [&late, &urgent].into_iter().filter(|outcome| **outcome == Outcome::Accepted).count();
        assert_eq!(accepted, 1, "{what}");
        drop((old, shop.urgent.take()));
        shop.assert_result(if late == Outcome::Accepted { 10 } else { 20 }, &what);
    }
}

/// I1: whoever comes late and finds its subject only where it is offered again does not take it there, if it was reported where it
/// stood first.
#[test]
fn what_was_reported_where_it_stood_is_not_taken_from_where_it_is_offered_again() {
    for is_leased in [false, true] {
        let (shop, old) = open(Urgent::Again);
        let held = shop.one(0);
        assert_eq!(shop.service.prioritize(&[1]).unwrap().0.len(), 1);
        shop.hub.tick();
        let again = is_leased.then(|| shop.one(1));
        assert_eq!(held.report([(1, 10)]).unwrap().outcomes, [Outcome::Accepted]);
        assert_eq!(old.report([(1, 20)]).unwrap().outcomes, [Outcome::Stale]);
        let again = again.unwrap_or_else(|| shop.one(1));
        let outcome = again.report([(1, 10)]).unwrap().outcomes;
        assert_eq!(outcome, [Outcome::AlreadyDone], "leased before: {is_leased}");
        drop((old, held, again));
        shop.assert_result(10, "reported where it stood");
    }
}

/// I1: of two leases on one subject the one is given back while a report on the other is in the middle of its call: it is not offered
/// a third time.
#[test]
fn what_one_lease_gives_back_while_the_other_is_reported_is_not_offered_once_more() {
    for reported in [0, 1] {
        let (shop, old) = open(Urgent::Again);
        let held = shop.one(0);
        assert_eq!(shop.service.prioritize(&[1]).unwrap().0.len(), 1);
        shop.hub.tick();
        let mut leases = [Some(held), Some(shop.one(1))];
        let report = leases[reported].take().unwrap();
        let given_back = leases[1 - reported].take();
        let others = Rc::clone(&shop);
        meanwhile(Point::Cleared, move || {
            drop(given_back);
            others.hub.tick();
            let grant = others.seats[1 - reported].claim(Ask::one()).unwrap().leased();
            if let Some(third) =
                grant.and_then(|mut grant| grant.pop()).filter(|lease| lease.subjects().any(|of| of == 1))
            {
                others.answer.set(Some(third.report([(1, 20)]).unwrap()));
            }
        });
        assert_eq!(report.report([(1, 10)]).unwrap().outcomes, [Outcome::Accepted]);
        let third = shop.answer.take().map(|submitted| submitted.outcomes);
        assert_eq!(third, None, "the one that was reported: {reported}");
        drop((old, report));
        shop.assert_result(10, "reported in the middle");
    }
}
