//! The calls that promise to be lock-free reach no lock, and wait for nothing: those of std, dashmap and event-listener, in
//! the crate, the store in memory or the disk in memory, all of which come from `sync.rs`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::messages;
use crate::reservations::{Stock, Terms};
use crate::sync::locks::{used, without};
use crate::{
    Ask, Claim, ClaimError, Hub, HubError, LaneKey, Late, Lease, LeaseError, LeaseToken, Limits, ManualClock,
    MemoryDisk, Outcome, Policy, Registration, Reporter, Revoke, Seat, Service, ServiceHandle, Verdict,
};

/// Numbers; from 1,000 on the hundreds are the lane. A report of 1 is rejected, 2 is a panic, and of more than 9 so many are found.
struct Numbers(&'static str);

impl Service for Numbers {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &str {
        self.0
    }

    fn policy(&self) -> Policy {
        let lease = Duration::from_secs(10);
        Policy {
            linger: Duration::ZERO,
            lease,
            grace: lease,
            expiry_spread: 0,
            lease_total: 2,
            leases_in_flight: 40,
            late: Late::AcceptIfOpen,
            panics_tolerated: 1_000,
            max_depth: 3,
            cooldown: Duration::from_secs(if self.0 == "patient" { 0 } else { 300 }),
            ..Policy::default()
        }
    }

    fn judge(&self, _: &u64, report: &u64, _: Reporter) -> Verdict {
        assert!(*report != 2, "a plugin that breaks");
        if *report == 1 { Verdict::Reject("not one".to_owned()) } else { Verdict::Accept }
    }

    fn discover(&self, _: &u64, report: &u64, found: &mut Vec<u64>) {
        found.extend((10..*report).map(|n| n * 7));
    }

    fn lane(&self, number: &u64) -> Option<LaneKey> {
        (*number >= 1_000).then(|| LaneKey::from(number / 100))
    }

    fn deadline(&self, number: &u64) -> Option<chrono::DateTime<chrono::Utc>> {
        (*number == 1_101).then(chrono::DateTime::<chrono::Utc>::default)
    }
}

/// Makes calls that must not lock, and knows which were made.
#[derive(Default)]
struct Watch(RefCell<BTreeSet<&'static str>>);

impl Watch {
    /// A call by the name that the document has for it.
    #[track_caller]
    fn call<R>(&self, name: &'static str, call: impl FnOnce() -> R) -> R {
        self.0.borrow_mut().insert(name);
        without(name, call)
    }
}

struct Shop<'a> {
    hub: Hub,
    clock: ManualClock,
    service: ServiceHandle<Numbers>,
    seats: [Seat<Numbers>; 2],
    watch: &'a Watch,
}

impl<'a> Shop<'a> {
    fn open(watch: &'a Watch, limits: Limits, numbers: std::ops::Range<u64>) -> Self {
        let clock = ManualClock::default();
        let builder = Hub::builder().manual().clock(clock.clone()).seed(1).limits(limits);
        let hub = builder.open_in_memory(&MemoryDisk::new()).unwrap();
        let service = hub.register(Numbers("numbers")).unwrap();
        let client = |id| hub.register_client(&Registration::new(id, "name")).unwrap().client;
        let seats = [1, 2].map(|id| client(id).activate(&service).unwrap());
        let shop = Self { hub, clock, service, seats, watch };
        shop.hub.tick();
        shop.service.add_all(numbers).unwrap();
        shop.hub.tick();
        shop
    }

    /// What a claim answers; leases are held from then on.
    fn claim(&self, seat: usize, ask: Ask) -> Result<Vec<Lease<Numbers>>, ClaimError> {
        let answer = self.watch.call("Seat::claim", || self.seats[seat].claim(ask))?;
        Ok(answer.leased().into_iter().flatten().collect())
    }

    fn one(&self, seat: usize) -> Lease<Numbers> {
        self.claim(seat, Ask::one()).unwrap().pop().expect("there is work")
    }

    fn submit(&self, lease: &Lease<Numbers>, reports: Vec<(u64, u64)>) -> Vec<Outcome> {
        self.watch.call("Lease::submit", || lease.submit(reports)).unwrap().outcomes
    }

    fn report(&self, lease: &Lease<Numbers>, reports: Vec<(u64, u64)>) -> Vec<Outcome> {
        self.watch.call("report", || lease.report(reports)).unwrap().outcomes
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.hub.tick();
    }
}

fn all(lease: &Lease<Numbers>, report: u64) -> Vec<(u64, u64)> {
    lease.subjects().map(|number| (number, report)).collect()
}

/// Claims: of one and of several, over the end of a pool, of those put back and of urgent ones, for nothing, and refused.
fn claims(watch: &Watch) {
    let shop = Shop::open(watch, Limits::default(), 0..900);
    let several = shop.claim(0, Ask::buckets(7)).unwrap();
    assert_eq!(several.len(), 7);
    shop.watch.call("drop", || drop(several));
    shop.hub.tick();
    // The other gets what was put back, and this one what it did not give back; each first what is urgent.
    let held = [shop.one(1), shop.one(0)];
    let keys: Vec<u64> = held.iter().flat_map(Lease::subjects).collect();
    let _ = shop.service.prioritize(&keys).unwrap();
    shop.hub.tick();
    let urgent = [shop.one(1), shop.one(0)];
    let again = urgent.iter().map(|lease| shop.submit(lease, all(lease, 0)).len()).sum::<usize>();
    assert!(again > 0);
    for lease in &held {
        let _ = shop.submit(lease, all(lease, 0));
    }
    let mut taken = Vec::new();
    let ends = |taken: &mut Vec<_>, seat| {
        let got = shop.claim(seat, Ask::buckets(10)).unwrap();
        let empty = got.is_empty();
        taken.extend(got);
        empty
    };
    // To the quota of both, then of those that nobody holds to the end.
    while !ends(&mut taken, 0) {}
    while !ends(&mut taken, 1) {}
    assert_eq!(taken.len(), 80, "the quotas are full");
    for lease in taken {
        shop.watch.call("release", || lease.release());
    }
    shop.hub.tick();
    drop(shop.service.pause().unwrap());
    // What is ready is still handed out.
    assert!(shop.claim(0, Ask::one()).is_ok());
    drop(shop.service.activate().unwrap());
    shop.hub.tick();
    drop(shop.service.suspend(2).unwrap());
    assert_eq!(shop.claim(1, Ask::one()).unwrap_err(), ClaimError::Suspended);
    drop(shop.service.reinstate(2).unwrap());
    shop.hub.tick();
    assert_eq!(shop.claim(1, Ask::one()).unwrap_err(), ClaimError::Inactive);
    shop.hub.client(2).unwrap().activate(&shop.service).unwrap();
    shop.hub.tick();
}

/// Submits: whole, in parts, repeated, refused in each way, late, and by tokens of all kinds.
fn submits(watch: &Watch) {
    let shop = Shop::open(watch, Limits::default(), 0..900);
    let lease = shop.one(0);
    let whole = all(&lease, 0);
    assert_eq!(shop.report(&lease, vec![whole[0]]), [Outcome::Accepted]);
    assert_eq!(shop.report(&lease, vec![whole[0]]), [Outcome::AlreadyDone]);
    assert_eq!(shop.report(&lease, vec![(whole[0].0, 3)]), [Outcome::Conflict]);
    assert!(matches!(shop.report(&lease, vec![(whole[1].0, 1)])[..], [Outcome::Rejected { .. }]));
    assert_eq!(shop.report(&lease, vec![(whole[1].0, 2)]), [Outcome::PluginPanicked]);
    assert_eq!(shop.report(&lease, vec![(u64::MAX, 0)]), [Outcome::NotInBucket]);
    assert_eq!(shop.submit(&lease, vec![(whole[1].0, 30)]), [Outcome::Accepted]);
    // It is over: the rest went back.
    assert_eq!(shop.report(&lease, vec![whole[2]]), [Outcome::Stale]);
    assert_eq!(shop.watch.call("renew", || lease.renew()), Err(LeaseError::Over));

    // The seat's own, another's, a made-up one; and after its end.
    let token = shop.one(0).into_token();
    let forged = LeaseToken { nonce: token.nonce ^ 1, ..token };
    for (seat, token, expected) in [(1, &token, LeaseError::NotOwner), (0, &forged, LeaseError::NotOwner)] {
        let seat = &shop.seats[seat];
        assert_eq!(shop.watch.call("renew", || seat.renew(token)), Err(expected.clone()));
        assert_eq!(shop.watch.call("release", || seat.release(token)), Err(expected.clone()));
        assert_eq!(shop.watch.call("Lease::submit", || seat.submit(token, [])).unwrap_err(), expected);
    }
    let seat = &shop.seats[0];
    assert!(shop.watch.call("renew", || seat.renew(&token)).is_ok());
    let key = seat.leases().unwrap().iter().find(|view| view.token == token).unwrap().subjects[0];
    assert_eq!(shop.watch.call("report", || seat.report(&token, [(key, 0)])).unwrap().accepted(), 1);
    assert!(shop.watch.call("release", || seat.release(&token)).unwrap() > 0);
    assert_eq!(shop.watch.call("release", || seat.release(&token)), Err(LeaseError::Over));
}

/// Renewals until the lease is capped, dead, and over; then reports that come late, on what is offered to others and held by them.
fn endings(watch: &Watch) {
    let shop = Shop::open(watch, Limits::default(), 0..900);
    let leases = [shop.one(0), shop.one(0)];
    for lease in &leases {
        assert!(shop.watch.call("renew", || lease.renew()).is_ok());
    }
    shop.pass(5);
    let [lease, _] = &leases;
    assert!(shop.watch.call("renew", || lease.renew()).is_ok());
    shop.pass(14);
    assert!(matches!(
        shop.watch.call("renew", || lease.renew()),
        Ok(_) | Err(LeaseError::Capped { .. } | LeaseError::Dead)
    ));
    shop.pass(2);
    let key = lease.subjects().next().unwrap();
    assert_eq!(shop.watch.call("renew", || lease.renew()), Err(LeaseError::Dead));
    assert_eq!(shop.report(lease, vec![(key, 0)]), [Outcome::Accepted]);
    shop.pass(20);
    // Expired: what was put back waits in a pool, or is held by the other.
    let mut held = Vec::new();
    let mut taken = 0;
    for lease in &leases {
        for report in all(lease, 0) {
            taken += shop.report(lease, vec![report]).iter().filter(|outcome| **outcome == Outcome::Accepted).count();
            held.extend(shop.claim(1, Ask::one()).unwrap());
        }
    }
    assert!(taken > 2, "{taken} late reports are taken");
    for lease in &held {
        let _ = shop.submit(lease, all(lease, 4));
    }
}

/// Lanes: in order, out of it, with what expired, from a second session.
fn lanes(watch: &Watch) {
    let shop = Shop::open(watch, Limits::default(), 1_000..1_400);
    let mut leases = shop.claim(0, Ask::buckets(10)).unwrap();
    leases.extend(shop.claim(0, Ask::buckets(10)).unwrap());
    let mut reported = 0;
    for lease in leases.iter().filter(|lease| lease.is_laned()) {
        let owed: Vec<(u64, u64)> = lease.owed().map(|number| (number, 0)).collect();
        let view = shop.watch.call("Lease::lane", || lease.lane()).unwrap();
        assert_eq!(view.version, 0);
        let backwards: Vec<_> = owed.iter().rev().copied().collect();
        let outcomes = shop.watch.call("report_lane", || lease.report_lane(backwards, &1_u64)).unwrap().outcomes;
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::OutOfOrder), "{outcomes:?}");
        let first = shop.watch.call("report_lane", || lease.report_lane([owed[0]], &1_u64)).unwrap();
        assert_eq!(first.accepted(), 1);
        let repeated = shop.watch.call("report_lane", || lease.report_lane([owed[0]], &2_u64)).unwrap();
        assert_eq!(repeated.outcomes, [Outcome::AlreadyDone]);
        let rest = owed[1..].to_vec();
        let rest = shop.watch.call("submit_lane", || lease.submit_lane(rest, &3_u64)).unwrap();
        assert_eq!((rest.accepted(), rest.kept), (owed.len() - 1, false));
        reported += 1;
    }
    assert!(reported >= 2, "{reported} lanes");
}

/// What is asked of a service, a hub, a ticket, and what is added.
fn others(watch: &Watch) {
    let shop = Shop::open(watch, Limits::default(), 0..900);
    let Shop { hub, service, .. } = &shop;
    let ticket = watch.call("ServiceHandle::add", || service.add(&5_000_000).unwrap());
    let known: Vec<u64> = (0..4).collect();
    drop(watch.call("rerun", || service.rerun(&known).unwrap()));
    drop(watch.call("mark", || service.mark(&known).unwrap()));
    drop(watch.call("delete", || service.delete(&[3]).unwrap()));
    assert!(watch.call("Ticket::progress", || ticket.progress()).is_ok());
    assert_eq!(watch.call("position", || ticket.position()), None);
    hub.tick();
    assert!(watch.call("position", || ticket.position()).is_some());
    assert!(watch.call("Ticket::progress", || ticket.progress()).is_ok());
    assert!(watch.call("ServiceHandle::state", || service.state()).is_ready());
    assert!(watch.call("stats", || service.stats()).subjects_known > 0);
    assert!(watch.call("Hub::service", || hub.service("numbers")).is_some());
    assert!(watch.call("Seat::leases", || shop.seats[0].leases()).is_ok());
    assert_eq!(watch.call("health", || hub.health()), Ok(()));
}

/// Calls that are refused, for the queue is full; and, at last, for the service is revoked and the hub closed.
fn refusals(watch: &Watch) {
    let shop = Shop::open(watch, Limits { queue_bytes: 64 << 10, ..Limits::default() }, 0..400);
    let (lease, last) = (shop.one(0), shop.one(0));
    let token = last.token();
    while watch.call("ServiceHandle::add", || shop.service.add(&1)).is_ok() {}
    let reports = all(&lease, 0);
    let (mut refused, mut n) = (0, 0);
    while refused == 0 {
        n += 1;
        assert!(n < 10_000, "the queue is full at some time");
        let full = |error: &HubError| matches!(error, HubError::Busy { .. });
        match watch.call("Seat::claim", || shop.seats[1].claim(Ask::one())) {
            Ok(Claim::Leased(grant)) => {
                let lease = grant.into_iter().next().unwrap();
                let answer = watch.call("Lease::submit", || lease.submit(all(&lease, 0)));
                refused += usize::from(matches!(answer, Err(LeaseError::Hub(error)) if full(&error)));
            }
            Ok(Claim::Empty(_)) => break,
            Err(ClaimError::Hub(error)) => {
                assert!(full(&error), "{error}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0);
    let _ = watch.call("report", || lease.report(reports));
    shop.hub.tick();
    drop(shop.service.revoke(Revoke::Immediate).unwrap());
    assert!(watch.call("Lease::submit", || shop.seats[0].submit(&token, [])).is_err());
    drop(shop.hub.deregister_client(1, "name").unwrap());
    assert_eq!(watch.call("renew", || last.renew()), Err(LeaseError::NotRegistered));
    shop.hub.close().unwrap();
    assert!(watch.call("Seat::claim", || shop.seats[1].claim(Ask::one())).is_err());
    assert!(watch.call("report", || last.report([])).is_err());
    watch.call("drop", || drop((lease, last)));
}

fn reservations(watch: &Watch) {
    let stock = Stock::new(Terms::default());
    let _ = watch.call("reservations::Stock", || stock.add(100, 1, 1)).unwrap();
    for id in 1..=4 {
        watch.call("reservations::Stock", || stock.reserve(id, 1, 60)).unwrap();
    }
    let all = || {
        let _ = (stock.confirm(1), stock.confirm(1), stock.cancel(2), stock.cancel(9), stock.reserve(3, 1, 60));
        let _ = (stock.reserve(5, 1_000, 60), stock.expire(61), stock.expire(61 + (1 << 40)), stock.reservation(4));
        (stock.available(), stock.levels(), stock.ignored(), stock.terms())
    };
    let (available, levels, ..) = watch.call("reservations::Stock", all);
    assert_eq!((available, levels.confirmed), (99, 1));
}

fn messages(watch: &Watch) {
    let log = messages::Journal::builder().open_in_memory(&MemoryDisk::new()).unwrap();
    let receipts: Vec<_> = (1..=100)
        .map(|seq| watch.call("messages::Journal::append", || log.append(7, seq, b"payload")))
        .chain([watch.call("end_session", || log.end_session(7))])
        .collect();
    for receipt in receipts {
        while watch.call("Receipt::answer", || receipt.answer()).is_none() {
            std::thread::yield_now();
        }
        assert!(receipt.wait().is_ok());
    }
    log.close().unwrap();
    let receipt = watch.call("messages::Journal::append", || log.append(7, 1, b"too late"));
    assert!(matches!(watch.call("Receipt::answer", || receipt.answer()), Some(Err(_))));
}

/// The calls that the document says are lock-free or wait-free, by their names there.
fn promised() -> BTreeSet<&'static str> {
    let document = include_str!("docs/concurrency.md");
    let table = document.split("| call | promise |").nth(1).unwrap().split("\n\n").next().unwrap();
    let rows = table.lines().filter_map(|row| row.split_once(" | "));
    let free = rows.filter(|(_, promise)| promise.starts_with("lock-free") || promise.starts_with("wait-free"));
    let named = free.flat_map(|(calls, _)| calls.split('`').skip(1).step_by(2));
    // It may lock, the row says.
    named.filter(|name| *name != "prioritize").chain(["drop"]).collect()
}

/// I3: a call that promises to be lock-free takes no lock and waits for nothing, whatever it is answered.
#[test]
fn calls_that_promise_it_reach_no_lock() {
    let watch = Watch::default();
    for calls in [claims, submits, endings, lanes, others, refusals, reservations, messages] {
        calls(&watch);
    }
    assert_eq!(watch.0.take(), promised(), "made on the left, promised on the right");
}

/// So that nothing seen means something: calls that may lock, or that wait, are seen to.
#[test]
fn calls_that_may_lock_are_seen_to() {
    let watch = Watch::default();
    let shop = Shop::open(&watch, Limits::default(), 0..40);
    let uses = |what: &str, call: &dyn Fn()| assert!(!used(call).1.is_empty(), "{what} was not seen to lock");
    let ready = || shop.seats[0].wait_ready(Duration::ZERO);
    uses("register a client", &|| drop(shop.hub.register_client(&Registration::new(3, "three")).unwrap()));
    uses("look a client up", &|| drop(shop.hub.client(3).unwrap()));
    uses("activate", &|| drop(shop.hub.client(3).unwrap().activate(&shop.service).unwrap()));
    uses("register a service", &|| drop(shop.hub.register(Numbers("more")).unwrap()));
    uses("pause", &|| drop(shop.service.pause().unwrap()));
    uses("activate a service", &|| drop(shop.service.activate().unwrap()));
    uses("read a result", &|| _ = shop.service.result(&1).unwrap());
    uses("prioritize", &|| drop(shop.service.prioritize(&[1]).unwrap()));
    uses("tick", &|| shop.hub.tick());
    // In a manual hub it answers at once.
    assert!(used(ready).1.is_empty());
    let hub = Hub::builder().open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Numbers("threads")).unwrap();
    let seat = hub.register_client(&Registration::new(1, "one")).unwrap().client.activate(&service).unwrap();
    uses("wait for work", &|| _ = seat.wait_ready(Duration::ZERO));
    uses("close", &|| hub.close().unwrap());
}

/// I3: with the caretakers at work beside them, and other clients on the same pools.
#[test]
fn beside_the_caretakers_no_call_reaches_a_lock() {
    const SUBJECTS: u64 = 8_000;
    let hub = Hub::builder().seed(1).open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Numbers("patient")).unwrap();
    service
        .add_all((0..SUBJECTS).map(|n| if n % 4 == 0 { 1_000 + n } else { n % 1_000 + (n / 1_000) * 1_000_000 }))
        .unwrap();
    let known = service.stats().subjects_known;
    let work = |id: u64| {
        let client = hub.register_client(&Registration::new(id, "name")).unwrap().client;
        let seat = client.activate(&service).unwrap();
        let mut calls = 0_u64;
        while service.stats().subjects_done < known {
            let ask = Ask::buckets(1 + u32::try_from(id).unwrap());
            let Claim::Leased(grant) = without("claim", || seat.claim(ask)).unwrap() else {
                let _ = seat.wait_ready(Duration::from_millis(5));
                continue;
            };
            for lease in grant {
                calls += 1;
                let reports: Vec<_> = lease.owed().map(|number| (number, 0)).collect();
                let _ = without("renew", || lease.renew());
                match calls % 8 {
                    0 => without("release", || lease.release()),
                    1 => drop(without("report", || lease.report(reports.into_iter().take(1))).unwrap()),
                    _ if lease.is_laned() => {
                        drop(without("submit_lane", || lease.submit_lane(reports, &calls)).unwrap());
                    }
                    _ => drop(without("submit", || lease.submit(reports)).unwrap()),
                }
            }
        }
        calls
    };
    let calls: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=4).map(|id| scope.spawn(move || work(id))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(calls >= known / 4, "{calls} leases");
    hub.close().unwrap();
}
