//! Models of the contest of two buckets for one subject: W, in which it stood first, and U, which offers it again; and of late
//! reports on it.
//!
//! Slots, the question to W and the look of who comes late are the crate's own. The steps between them are those of
//! `Reporting::take_effect`, `late::find` and `late::take`, and, where the steward takes part, of `Ward::hurry` and `Rush::take_back`.

#[cfg(not(loom))]
use crate::check::seen;
use crate::check::{EXCHANGE_FAILED, Model, seen_if_named, seen_when};
use crate::contest::{Contest, was_put_back};
use crate::slot::{Cause, Mask, Slot};
use crate::sync::{Arc, AtomicBool, Ordering, thread};

pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "contest_held",
        body: held,
        states: &["the holder reported it", TAKEN_FROM_HOLDER, PUT_BACK_THERE],
        bound: Some(4),
        finite: false,
        one_order: false,
    },
    Model {
        name: "contest_waiting",
        body: waiting,
        states: &["the claimer reported it", TAKEN_BACK, TAKEN_FROM_HOLDER, "reported late"],
        bound: Some(4),
        finite: false,
        one_order: false,
    },
    Model {
        name: "contest_taken_back",
        body: taken_back,
        states: &[TAKEN_BACK, "taken back by the steward", "reported late", EXCHANGE_FAILED],
        bound: Some(3),
        finite: false,
        one_order: false,
    },
    Model {
        name: "contest_late",
        body: || late(hold),
        states: &["the holder reported it", TAKEN_FROM_HOLDER, FOUND_NOTHING],
        bound: Some(2),
        finite: false,
        one_order: false,
    },
    Model {
        name: "contest_late_end",
        body: || late(put_back_first),
        states: &[PUT_BACK_THERE, TAKEN_FROM_HOLDER, REPORTED_LATE, FOUND_NOTHING],
        bound: Some(2),
        finite: false,
        one_order: false,
    },
    Model {
        name: "contest_given_back",
        body: given_back,
        states: &[PUT_BACK_THERE, REPORTED_LATE, FOUND_NOTHING, GIVEN_BACK],
        bound: Some(2),
        finite: false,
        one_order: false,
    },
    #[cfg(not(loom))]
    Model {
        name: "contest_round",
        body: round,
        states: &[
            "never offered again",
            TAKEN_BACK,
            TAKEN_FROM_HOLDER,
            PUT_BACK_THERE,
            "reported late",
            REPORTED_LATE,
            "the holder reported it",
            GIVEN_BACK,
            "came back while it stood elsewhere",
            "offered a third time",
            EXCHANGE_FAILED,
        ],
        bound: None,
        finite: false,
        one_order: false,
    },
];

const TAKEN_FROM_HOLDER: &str = "taken from the holder";
const TAKEN_BACK: &str = "taken back unclaimed";
const PUT_BACK_THERE: &str = "put back where it stood first";
const FOUND_NOTHING: &str = "found nothing";
const REPORTED_LATE: &str = "reported late where it is offered again";
const GIVEN_BACK: &str = "given back";

/// The subject's place in both buckets; another one stands beside it in W.
const SUBJECT: usize = 0;
const BESIDE: usize = 1;
const HOLDER: u32 = 1;
const HURRIED: u32 = 2;
const DEADLINE: u64 = 10;

/// The two buckets.
struct Twins {
    /// W.
    first: Slot,
    /// U.
    again: Slot,
    /// U was published.
    offered: AtomicBool,
}

fn leased(len: usize, owner: u32) -> Slot {
    Slot::leased(0, len, 0, owner, (0, DEADLINE), Mask::first(len))
}

/// A report on a lease whose subjects stand in no other bucket, so far as it knows. True if it is accepted.
fn take(slot: &Slot, place: usize) -> bool {
    let taken = slot.report(Mask::of(place));
    if taken.emptied {
        let _ = slot.finish();
    }
    !taken.accepted.is_empty()
}

impl Twins {
    fn new(first: Slot, again: Slot, offered: bool) -> Arc<Self> {
        Arc::new(Self { first, again, offered: AtomicBool::new(offered) })
    }

    /// A report on the lease of W.
    fn report_first(&self) -> bool {
        let accepted = take(&self.first, SUBJECT);
        if accepted {
            seen_if_named("the holder reported it");
        }
        accepted
    }

    /// A report on the lease of U, as `Reporting::take_effect` makes it: its own bit, then the one in W.
    fn report_again(&self) -> bool {
        let taken = self.again.report(Mask::of(SUBJECT));
        let mut contest = Contest::default();
        if !taken.accepted.is_empty() && !bug!("bug_contest_own_bit") {
            contest.ask(SUBJECT, &self.first, SUBJECT);
        }
        if contest.won.has(SUBJECT) {
            seen_if_named(TAKEN_FROM_HOLDER);
            // As `Hold::lose_one`.
            let _ = self.first.finish();
        }
        if taken.emptied {
            let _ = self.again.finish();
        }
        let accepted = !taken.accepted.without(contest.lost).is_empty();
        if contest.freed.has(SUBJECT) {
            seen_if_named(TAKEN_BACK);
        } else if accepted && contest.won.is_empty() {
            seen_if_named(PUT_BACK_THERE);
        }
        accepted
    }

    /// As `late::find`: where somebody finds the subject whose lease on it expired.
    fn find(&self) -> Option<&Slot> {
        // As `Spot::is_responsible`.
        let stands = |slot: &Slot| slot.open().has(SUBJECT) && !slot.snapshot().is_final();
        let in_first = stands(&self.first);
        let in_again = self.offered.load(Ordering::SeqCst) && stands(&self.again);
        let decides = || bug!("bug_late_blind") || was_put_back(&self.first, SUBJECT);
        match (in_first, in_again) {
            (true, false) => Some(&self.first),
            (false, true) if decides() => Some(&self.again),
            // Of a subject that two leases hold, those two decide.
            _ => None,
        }
    }

    /// A late report, all of it.
    fn report_late(&self) -> bool {
        let found = self.find();
        if found.is_none() {
            seen_if_named(FOUND_NOTHING);
        }
        found.is_some_and(|slot| self.take_late(slot))
    }

    /// As `late::take` and `late::settle`.
    fn take_late(&self, slot: &Slot) -> bool {
        if slot.report(Mask::of(SUBJECT)).accepted.is_empty() {
            return false;
        }
        let again = std::ptr::eq(slot, &raw const self.again);
        seen_if_named(if again { REPORTED_LATE } else { "reported late" });
        if slot.abandon().is_none() {
            let _ = slot.finish();
        }
        true
    }

    /// What both leases left, once both are over.
    fn left(&self) -> [bool; 2] {
        [&self.first, &self.again].map(|slot| slot.snapshot().is_final() && slot.close().has(SUBJECT))
    }
}

fn spawn<T: Send + 'static>(
    twins: &Arc<Twins>,
    act: impl FnOnce(&Twins) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let twins = Arc::clone(twins);
    thread::spawn(move || act(&twins))
}

fn join<T>(handle: thread::JoinHandle<T>) -> T {
    handle.join().expect("a thread of the model panicked")
}

/// How many reports were accepted: one at most.
fn count(accepted: &[bool]) -> usize {
    let count = accepted.iter().filter(|accepted| **accepted).count();
    assert!(count <= 1, "a subject was accepted twice");
    count
}

/// A report on W, one on U, and the end of W's lease: one of the two is accepted.
fn held() {
    let twins = Twins::new(leased(2, HOLDER), leased(1, HURRIED), true);
    let holder = spawn(&twins, Twins::report_first);
    let steward = spawn(&twins, |twins| _ = twins.first.end(None, Cause::Expired));
    let again = twins.report_again();
    let first = join(holder);
    join(steward);
    assert_eq!(count(&[first, again]), 1, "a report was lost");
}

/// W waits: its claimer's report, a late one by who found the subject there before it was offered again, and one on U.
fn waiting() {
    let twins = Twins::new(Slot::new(0, 2, 0), leased(1, HURRIED), true);
    let claimer = spawn(&twins, |twins| {
        let reported = twins.first.claim(HOLDER, 0, DEADLINE) && take(&twins.first, SUBJECT);
        seen_when(reported, "the claimer reported it");
        reported
    });
    let late = spawn(&twins, |twins| twins.take_late(&twins.first));
    let again = twins.report_again();
    assert_eq!(count(&[join(claimer), join(late), again]), 1, "a report was lost");
}

/// W waits and is taken back: a late report by who found the subject there before, and one on U.
fn taken_back() {
    let twins = Twins::new(Slot::new(0, 2, 0), leased(1, HURRIED), true);
    let steward = spawn(&twins, |twins| twins.first.abandon().is_some());
    let late = spawn(&twins, |twins| twins.take_late(&twins.first));
    let again = twins.report_again();
    assert_eq!(count(&[join(late), again]), 1, "a report was lost");
    seen_when(join(steward), "taken back by the steward");
}

/// Both reports of the holder of W.
fn hold(twins: &Twins) -> bool {
    let accepted = twins.report_first();
    assert!(take(&twins.first, BESIDE), "a lease was closed that nobody ended");
    accepted
}

/// A report on U, one by who comes late, and what becomes of the lease on W.
fn late(first: fn(&Twins) -> bool) {
    let twins = Twins::new(leased(2, HOLDER), leased(1, HURRIED), true);
    let holder = spawn(&twins, first);
    let late = spawn(&twins, Twins::report_late);
    let again = twins.report_again();
    assert_eq!(count(&[join(holder), join(late), again]), 1, "a report was lost");
}

/// The subject was put back where it stood first. Two sessions on U, of which one reports and one gives back, and who comes late.
fn given_back() {
    let twins = Twins::new(leased(2, HOLDER), leased(1, HURRIED), true);
    put_back_first(&twins);
    let late = spawn(&twins, Twins::report_late);
    let session = spawn(&twins, Twins::report_again);
    let given_back = twins.again.end(Some(HURRIED), Cause::Client).is_some_and(|ended| !ended.left.is_empty());
    seen_when(given_back, GIVEN_BACK);
    let accepted = count(&[join(late), join(session)]);
    assert_eq!(accepted + usize::from(twins.left() == [true; 2]), 1, "neither reported nor put back, or both");
}

/// The lease on W is over.
fn put_back_first(twins: &Twins) -> bool {
    let _ = twins.first.end(None, Cause::Expired);
    false
}

/// W waits, is claimed, reported, given back or taken back; the steward offers its subject again; U likewise; two come late.
/// What came back from everywhere is offered a third time: in the end it is reported once.
#[cfg(not(loom))]
fn round() {
    let twins = Twins::new(Slot::new(0, 2, 0), Slot::new(0, 1, 0), false);
    let threads: [fn(&Twins) -> bool; 5] = [holder, hurried, steward, Twins::report_late, |twins| {
        thread::yield_now();
        twins.report_late()
    }];
    let threads = threads.map(|act| spawn(&twins, act));
    let accepted = count(&threads.map(join));
    let offered = twins.offered.load(Ordering::SeqCst);
    seen_when(!offered, "never offered again");
    for slot in [&twins.first, &twins.again] {
        let _ = slot.abandon();
        let _ = slot.end(None, Cause::Expired);
    }
    // As `Rush::take_back`: what stands elsewhere as well waits no more.
    let left = twins.left();
    let waits = if offered { left == [true; 2] } else { left[0] };
    seen_when(offered && left[0] != left[1], "came back while it stood elsewhere");
    let third = Slot::new(0, 1, 0);
    let reported = waits && third.claim(HOLDER, 0, DEADLINE) && take(&third, SUBJECT);
    seen_when(reported, "offered a third time");
    assert_eq!(accepted + usize::from(reported), 1, "a subject is lost, or was accepted twice");
}

/// Claims W, reports and gives back what is left.
#[cfg(not(loom))]
fn holder(twins: &Twins) -> bool {
    if !twins.first.claim(HOLDER, 0, DEADLINE) {
        return false;
    }
    take(&twins.first, BESIDE);
    let accepted = twins.report_first();
    let _ = twins.first.end(Some(HOLDER), Cause::Client);
    accepted
}

/// Claims U, if it finds it, and reports.
#[cfg(not(loom))]
fn hurried(twins: &Twins) -> bool {
    let offered = (0..4).any(|_| {
        thread::yield_now();
        twins.offered.load(Ordering::SeqCst)
    });
    if offered && twins.again.claim(HURRIED, 0, DEADLINE) { twins.report_again() } else { false }
}

/// Offers the subject again if it stands in W, as `Ward::hurry` does under `Urgent::Keep`; ends what it comes upon.
#[cfg(not(loom))]
fn steward(twins: &Twins) -> bool {
    if twins.first.open().has(SUBJECT) && !twins.first.snapshot().is_final() {
        twins.offered.store(true, Ordering::SeqCst);
    }
    let _ = twins.first.end(None, Cause::Expired);
    thread::yield_now();
    let _ = twins.first.abandon();
    if twins.again.end(None, Cause::Expired).is_some_and(|ended| !ended.left.is_empty()) {
        seen(GIVEN_BACK);
    }
    false
}
