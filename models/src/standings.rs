//! Models of a claim against a call that takes its seat away: a deregistration, a suspension, a revocation.
//!
//! The words, the quota, the cursor and the slots are the crate's own. The steps between them are those of
//! `SeatCore::serve_now` and `Seat::claim`, of `Client::deregister`, `ServiceHandle::suspend` and `ServiceHandle::revoke` with
//! `SeatCore::end_all`, of `Steward::sweep`, and of `ServiceCore::publish_next`.

use crate::check::{Model, seen_if_named, seen_when};
use crate::cursor::Cursor;
use crate::record::SeatState;
use crate::service::ServiceState;
use crate::slot::{Cause, Ended, Mask, Phase, Slot};
use crate::standing::{Activated, ClientWord, Quota, SeatWord, ServiceWord, Words};
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering, thread};
use crate::watch::Level;

pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "standing_deregistered",
        body: || taken_away(Call::Deregister),
        states: &[REFUSED, UNDONE, ENDED_BY_CALL, ENDED_BY_STEWARD, REPORTED],
        bound: Some(4),
        finite: false,
        one_order: true,
    },
    Model {
        name: "standing_suspended",
        body: || taken_away(Call::Suspend),
        states: &[REFUSED, UNDONE, ENDED_BY_CALL, ENDED_BY_STEWARD, REPORTED],
        bound: Some(4),
        finite: false,
        one_order: true,
    },
    Model {
        name: "standing_revoked",
        body: || taken_away(Call::Revoke),
        states: &[REFUSED, UNDONE, ENDED_BY_CALL, ENDED_BY_STEWARD, REPORTED],
        bound: Some(4),
        finite: false,
        one_order: true,
    },
    Model {
        name: "standing_published",
        body: published,
        states: &["claimed too early", UNDONE, ENDED_BY_CALL],
        bound: Some(4),
        finite: false,
        one_order: true,
    },
    Model {
        name: "standing_anew",
        body: anew,
        states: &[REFUSED, UNDONE, ENDED_BY_CALL, "claimed in the life after"],
        bound: Some(4),
        finite: false,
        one_order: true,
    },
];

const REFUSED: &str = "refused";
const UNDONE: &str = "undone by the claim";
const ENDED_BY_CALL: &str = "ended by the call";
const ENDED_BY_STEWARD: &str = "ended by the steward";
const REPORTED: &str = "reported before";

const SEAT: u32 = 1;
const SUBJECTS: usize = 2;
const LEASES: u32 = 10;
const DEADLINE: u64 = 10;

/// What takes the seat away.
#[derive(Clone, Copy)]
enum Call {
    Deregister,
    Suspend,
    Revoke,
}

/// A client's seat, and a pool of its service.
struct Shop {
    client: ClientWord,
    seat: SeatWord,
    service: ServiceWord,
    quota: Quota,
    cursor: Cursor,
    slots: Vec<Slot>,
    /// The pool is published in the model's course.
    is_new: bool,
    /// It stands among those alive; claims are served from it.
    is_alive: AtomicBool,
    is_current: AtomicBool,
    /// `SeatCounts::buckets_put_back`, `SeatCounts::subjects_put_back`.
    buckets_ended: AtomicU64,
    subjects_left: AtomicU64,
}

/// A claim that stands: its slot, and the client's word that let it in.
struct Granted {
    index: usize,
    life: u32,
}

impl Shop {
    fn new(slots: usize, is_new: bool) -> Arc<Self> {
        let client = ClientWord::new(true);
        let seat = SeatWord::new(SeatState::Inactive, Level::Healthy, client.get());
        assert_eq!(seat.activate(&client), Activated::Entered);
        Arc::new(Self {
            client,
            seat,
            service: ServiceWord::new(ServiceState::Active),
            quota: Quota::default(),
            cursor: Cursor::new(slots),
            slots: (0..slots).map(|_| Slot::new(0, SUBJECTS, 0)).collect(),
            is_new,
            is_alive: AtomicBool::new(!is_new),
            is_current: AtomicBool::new(!is_new),
            buckets_ended: AtomicU64::new(0),
            subjects_left: AtomicU64::new(0),
        })
    }

    fn words(&self) -> Words<'_> {
        Words { client: &self.client, seat: &self.seat, service: &self.service }
    }

    /// As `SeatCore::serve_now`, and what `Seat::claim` does if it refuses.
    fn claim(&self) -> Option<Granted> {
        let words = self.words();
        let Ok(admitted) = words.admit() else {
            seen_if_named(REFUSED);
            return None;
        };
        let room = self.quota.take(1, LEASES);
        let looks_first = bug!("bug_claim_look_first");
        let mut holds = !looks_first || words.is_still(&admitted);
        let index = self.is_served().then(|| self.cursor.take(SEAT as usize, 1).next()).flatten();
        let Some(index) = index.filter(|index| self.slots[*index].claim(SEAT, 0, DEADLINE)) else {
            self.quota.give_back(room.leases);
            return None;
        };
        if !looks_first {
            holds = words.is_still(&admitted) || words.still_admits(&admitted).is_ok();
        }
        if holds {
            return Some(Granted { index, life: admitted.client });
        }
        seen_when(self.end(index, Some(SEAT), Cause::Revoked).is_some(), UNDONE);
        None
    }

    fn is_served(&self) -> bool {
        let is_served = !self.is_new || self.is_current.load(Ordering::SeqCst);
        if !is_served {
            seen_if_named("claimed too early");
        }
        is_served
    }

    /// As `ServiceCore::publish_next`: into the list of those alive, then to where claims are served from.
    fn publish(&self) {
        let (first, then) = (&self.is_alive, &self.is_current);
        let (first, then) = if bug!("bug_publish_first") { (then, first) } else { (first, then) };
        first.store(true, Ordering::SeqCst);
        then.store(true, Ordering::SeqCst);
    }

    /// As `Hold::end_slot`.
    fn end(&self, index: usize, owner: Option<u32>, cause: Cause) -> Option<Ended> {
        let ended = self.slots[index].end(owner, cause)?;
        // As `SeatCore::account`.
        self.buckets_ended.fetch_add(1, Ordering::Relaxed);
        self.subjects_left.fetch_add(u64::from(ended.left.count()), Ordering::Relaxed);
        self.quota.give_back(1);
        Some(ended)
    }

    /// As `SeatCore::end_all`.
    fn end_all(&self, cause: Cause) {
        if self.is_new && !self.is_alive.load(Ordering::SeqCst) {
            return;
        }
        for index in self.cursor.passed().flatten() {
            let seen = self.slots[index].snapshot();
            let is_its = seen.is_held() && seen.owner() == SEAT;
            seen_when(is_its && self.end(index, Some(SEAT), cause).is_some(), ENDED_BY_CALL);
        }
    }

    /// As the call that takes the seat away.
    fn take_away(&self, call: Call) {
        let cause = if matches!(call, Call::Deregister) { Cause::Deregistered } else { Cause::Revoked };
        let walks_first = bug!("bug_walk_first");
        if walks_first {
            self.end_all(cause);
        }
        match call {
            Call::Deregister => {
                assert!(self.client.set_registered(false), "one at a time");
                assert!(self.seat.retire());
            }
            Call::Suspend => assert!(self.seat.suspend()),
            Call::Revoke => assert_eq!(self.service.set(ServiceState::Revoked), ServiceState::Active),
        }
        if !walks_first {
            self.end_all(cause);
        }
    }

    /// As `Steward::sweep`, of what must end whatever its deadline.
    fn sweep(&self) {
        for index in self.cursor.passed().flatten() {
            let is_held = self.slots[index].snapshot().is_held();
            let cause = if is_held { self.words().must_end() } else { None };
            seen_when(cause.is_some_and(|cause| self.end(index, None, cause).is_some()), ENDED_BY_STEWARD);
        }
    }

    fn count(&self, phase: impl Fn(Phase) -> bool) -> usize {
        self.slots.iter().filter(|slot| phase(slot.snapshot().phase())).count()
    }

    /// After the calm: what was claimed and is not live ended once, and nothing of it is counted twice or left.
    fn check(&self, live: usize, reported: u32) {
        assert_eq!(self.count(|phase| phase == Phase::Leased), live, "a lease is live whose seat is gone");
        let over = self.count(|phase| phase > Phase::Dead);
        assert_eq!(self.buckets_ended.load(Ordering::Relaxed), over as u64, "a lease ends once");
        assert_eq!(self.quota.held() as usize, live, "room is lost, or given back twice");
        let left = self.subjects_left.load(Ordering::Relaxed);
        assert_eq!(left + u64::from(reported), (over * SUBJECTS) as u64, "a subject is lost, or put back twice");
    }
}

fn spawn<T: Send + 'static>(shop: &Arc<Shop>, act: impl FnOnce(&Shop) -> T + Send + 'static) -> thread::JoinHandle<T> {
    let shop = Arc::clone(shop);
    thread::spawn(move || act(&shop))
}

fn join<T>(handle: thread::JoinHandle<T>) -> T {
    handle.join().expect("a thread of the model panicked")
}

/// A claim, with a report after it, the call, and the steward who looks at the same time: after them nothing is held.
fn taken_away(call: Call) {
    let shop = Shop::new(1, false);
    let claimer = spawn(&shop, |shop| {
        let granted = shop.claim()?;
        Some(shop.slots[granted.index].report(Mask::of(0)).accepted.count())
    });
    let steward = spawn(&shop, Shop::sweep);
    shop.take_away(call);
    let reported = join(claimer).unwrap_or(0);
    join(steward);
    seen_when(reported > 0, REPORTED);
    assert!(shop.words().admit().is_err(), "its seat is gone");
    shop.check(0, reported);
}

/// A claim from a pool that is published just now, and a suspension.
fn published() {
    let shop = Shop::new(1, true);
    let claimer = spawn(&shop, |shop| _ = shop.claim());
    let steward = spawn(&shop, Shop::publish);
    shop.take_away(Call::Suspend);
    join(claimer);
    join(steward);
    shop.check(0, 0);
}

/// A claim while its client is deregistered, registered and activated anew, and claims again: of the two claims what stands is
/// of the life after.
fn anew() {
    let shop = Shop::new(2, false);
    let claimer = spawn(&shop, Shop::claim);
    shop.take_away(Call::Deregister);
    assert!(shop.client.set_registered(true));
    assert_eq!(shop.seat.activate(&shop.client), Activated::Entered);
    let life = shop.client.get();
    let mine = shop.claim().expect("it is active, and there is one for each");
    let other = join(claimer);
    let is_after = other.as_ref().is_some_and(|granted| granted.life == life);
    seen_when(is_after, "claimed in the life after");
    assert_eq!(mine.life, life);
    shop.check(1 + usize::from(is_after), 0);
}
