//! Models of one slot: its claim, reports, renewals and ends, against each other.

use crate::check::{EXCHANGE_FAILED, Model, seen, seen_when};
use crate::slot::{Cause, Ended, Mask, Phase, Slot, Taken, ToRenewed};
use crate::sync::{Arc, thread};

pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "slot_claims",
        body: claims,
        states: &["first won", "second won", "third won", EXCHANGE_FAILED],
        bound: None,
        finite: true,
        one_order: false,
    },
    Model {
        name: "slot_claim_abandon",
        body: claim_abandon,
        states: &["claimed", "abandoned", EXCHANGE_FAILED],
        bound: None,
        finite: true,
        one_order: false,
    },
    Model {
        name: "slot_late_abandon",
        body: late_abandon,
        states: &["reported", "put back", EXCHANGE_FAILED],
        bound: None,
        finite: true,
        one_order: false,
    },
    Model {
        name: "slot_reports",
        body: reports,
        states: &["first took the overlap", "second took the overlap", "both saw it empty", EXCHANGE_FAILED],
        bound: None,
        finite: true,
        one_order: false,
    },
    Model {
        name: "slot_report_expiry",
        body: report_expiry,
        states: &[
            "reported before the end",
            "put back before the report",
            "died",
            "report taken after death",
            "ended by the owner",
            "ended by the steward",
            "ended by the last report",
            EXCHANGE_FAILED,
        ],
        bound: Some(3),
        finite: false,
        one_order: false,
    },
    Model {
        name: "slot_lane",
        body: lane,
        states: &[
            "first went on",
            "first was overtaken",
            "second won",
            "second was behind",
            "put back in the middle",
            "put back at once",
            EXCHANGE_FAILED,
        ],
        bound: Some(3),
        finite: false,
        one_order: false,
    },
    Model {
        name: "slot_partial_expiry",
        body: partial_expiry,
        states: &["left one", "left both", "stale", "owner's end won", "steward's end won"],
        bound: Some(3),
        finite: false,
        one_order: false,
    },
    Model {
        name: "slot_chunks",
        body: chunks,
        states: &["both saw it empty", "first alone saw it empty", "second alone saw it empty"],
        bound: None,
        finite: true,
        one_order: false,
    },
    Model {
        name: "slot_chunks_end",
        body: chunks_end,
        states: &[
            "end came between the chunks",
            "left both",
            "left none",
            "ended by the report",
            "ended by the steward",
        ],
        bound: None,
        finite: true,
        one_order: false,
    },
    Model {
        name: "slot_chunks_race",
        body: chunks_race,
        states: &["both reported", "left one", "left both", "ended by a report", "ended by the steward", "found done"],
        bound: Some(3),
        finite: false,
        one_order: false,
    },
    Model {
        name: "slot_renewals",
        body: renewals,
        states: &["renewed", "renewed twice", "too late", "died", "put back", EXCHANGE_FAILED],
        bound: Some(2),
        finite: false,
        one_order: false,
    },
    Model {
        name: "slot_read",
        body: read,
        states: &["read leased", "read released", "read done"],
        bound: Some(3),
        finite: false,
        one_order: false,
    },
];

const OWNER: u32 = 1;
const DEADLINE: u64 = 10;

fn mask(places: &[usize]) -> Mask {
    let mut mask = Mask::default();
    for place in places {
        mask.insert(*place);
    }
    mask
}

fn union(one: Mask, other: Mask) -> Mask {
    let mut words = one.0;
    words.iter_mut().zip(other.0).for_each(|(word, more)| *word |= more);
    Mask(words)
}

fn overlap(one: Mask, other: Mask) -> Mask {
    let mut words = one.0;
    words.iter_mut().zip(other.0).for_each(|(word, more)| *word &= more);
    Mask(words)
}

/// A slot leased to `OWNER` until `DEADLINE`, in which `open` is owed.
fn leased(len: usize, open: &[usize]) -> Arc<Slot> {
    Arc::new(Slot::leased(0, len, 0, OWNER, (0, DEADLINE), mask(open)))
}

fn spawn<T: Send + 'static>(slot: &Arc<Slot>, act: impl FnOnce(&Slot) -> T + Send + 'static) -> thread::JoinHandle<T> {
    let slot = Arc::clone(slot);
    thread::spawn(move || act(&slot))
}

fn join<T>(handle: thread::JoinHandle<T>) -> T {
    handle.join().expect("a thread of the model panicked")
}

/// A report as `lease.rs` makes it: whoever empties the bucket finishes it.
fn report(slot: &Slot, wanted: Mask) -> (Taken, Option<Ended>) {
    let taken = slot.report(wanted);
    let ended = if taken.emptied { slot.finish() } else { None };
    (taken, ended)
}

/// An end as the steward makes it: it marks, then ends what is dead. True if it marked.
fn expire(slot: &Slot) -> (bool, Option<Ended>) {
    let died = slot.mark_dead(DEADLINE);
    let dead = slot.snapshot().phase() == Phase::Dead;
    (died, if dead { slot.end(None, Cause::Expired) } else { None })
}

/// Every subject of `all` was reported or put back, none was both, and the lease ended once.
fn check_ended(slot: &Slot, all: Mask, reported: Mask, ends: &[Option<Ended>]) -> Ended {
    let ends: Vec<Ended> = ends.iter().flatten().copied().collect();
    assert_eq!(ends.len(), 1, "a lease ends once: {ends:?}");
    let ended = ends[0];
    assert_eq!(union(reported, ended.left), all, "a subject was lost");
    assert!(overlap(reported, ended.left).is_empty(), "a subject was reported and put back");
    assert_eq!(reported.count() + ended.left.count(), all.count(), "the counts do not add up");
    assert_eq!(ended.owner, OWNER);
    let phase = if ended.left.is_empty() { Phase::Done } else { Phase::Released };
    assert_eq!((ended.phase, slot.snapshot().phase()), (phase, phase), "the phase does not tell what is left");
    assert_eq!(slot.open(), ended.left, "the record of what was put back");
    assert!(slot.end(None, Cause::Expired).is_none() && slot.finish().is_none(), "over is over");
    assert_eq!(slot.report(all).accepted, Mask::default(), "a report after the end");
    ended
}

/// Three claims of one slot that was passed by: one wins, and the word names it; the moment of the claim is not one of before.
fn claims() {
    let slot = Arc::new(Slot::new(0, 1, 0));
    let first = spawn(&slot, |slot| slot.claim_aside(1, 1, 11));
    let second = spawn(&slot, |slot| slot.claim_aside(2, 2, 12));
    let won = [slot.claim_aside(3, 3, 13), join(first), join(second)];
    assert_eq!(won.iter().filter(|won| **won).count(), 1, "one claim wins: {won:?}");
    let now = slot.snapshot();
    let winner = if won[0] {
        3
    } else if won[1] {
        1
    } else {
        2
    };
    assert_eq!((now.phase(), now.owner(), now.time()), (Phase::Leased, winner, 10 + u64::from(winner)));
    assert!(slot.claimed() >= u64::from(winner), "claimed at {}, by {winner}", slot.claimed());
    seen(["first won", "second won", "third won"][winner as usize - 1]);
}

/// A claim, with a report after it, against the steward who takes the slot back.
fn claim_abandon() {
    let slot = Arc::new(Slot::new(0, 1, 0));
    let all = mask(&[0]);
    let thread = spawn(&slot, move |slot| slot.claim(OWNER, 0, DEADLINE).then(|| report(slot, all)));
    let abandoned = slot.abandon().is_some();
    let claimed = join(thread);
    assert_ne!(abandoned, claimed.is_some(), "one of the two has it");
    if let Some((taken, ended)) = claimed {
        seen("claimed");
        let _ = check_ended(&slot, all, taken.accepted, &[ended]);
    } else {
        seen("abandoned");
        let now = slot.snapshot();
        assert_eq!((now.phase(), now.cause(), slot.open()), (Phase::Released, Cause::Abandoned, all));
    }
}

/// A late report on a subject of a bucket that waits, against the steward who takes the bucket back: it is reported or put
/// back, and whoever looks at the slot later sees the same as who closed it.
fn late_abandon() {
    let slot = Arc::new(Slot::new(0, 2, 0));
    let thread = spawn(&slot, |slot| slot.report(mask(&[0])));
    let left = slot.abandon().expect("nobody else takes it");
    let taken = join(thread);
    assert_eq!(left.with(taken.accepted), mask(&[0, 1]));
    assert_eq!((left.has(0), left, slot.close()), (taken.accepted.is_empty(), slot.open(), left));
    seen(if left.has(0) { "put back" } else { "reported" });
}

/// Two reports that overlap: each subject is accepted once, and the bucket is finished once.
fn reports() {
    let slot = leased(3, &[0, 1, 2]);
    let other = spawn(&slot, |slot| report(slot, mask(&[1, 2])));
    let (first, first_end) = report(&slot, mask(&[0, 1]));
    let (second, second_end) = join(other);
    assert!(overlap(first.accepted, second.accepted).is_empty(), "a subject was accepted twice");
    assert_eq!(overlap(first.done, second.accepted), first.done, "found done, but not by the other");
    assert!(first.stale.is_empty() && second.stale.is_empty(), "nothing was put back");
    seen_when(first.accepted.has(1), "first took the overlap");
    seen_when(second.accepted.has(1), "second took the overlap");
    seen_when(first.emptied && second.emptied, "both saw it empty");
    let _ = check_ended(&slot, mask(&[0, 1, 2]), union(first.accepted, second.accepted), &[first_end, second_end]);
}

/// A report, the steward's expiry and the owner's release.
fn report_expiry() {
    let slot = leased(2, &[0, 1]);
    let all = mask(&[0, 1]);
    let reporter = spawn(&slot, move |slot| {
        let dead = slot.snapshot().phase() == Phase::Dead;
        (report(slot, all), dead)
    });
    let steward = spawn(&slot, expire);
    let by_owner = slot.end(Some(OWNER), Cause::Client);
    let ((taken, by_report), dead) = join(reporter);
    let (died, by_steward) = join(steward);
    assert_eq!(union(taken.accepted, taken.stale), all, "all in one chunk: reported, or stale");
    let ended = check_ended(&slot, all, taken.accepted, &[by_owner, by_report, by_steward]);
    assert!(died || !ended.was_dead, "dead, and nobody marked it");
    seen_when(taken.accepted == all, "reported before the end");
    seen_when(taken.stale == all, "put back before the report");
    seen_when(died, "died");
    seen_when(dead && !taken.accepted.is_empty(), "report taken after death");
    seen_when(by_owner.is_some(), "ended by the owner");
    seen_when(by_steward.is_some(), "ended by the steward");
    seen_when(by_report.is_some(), "ended by the last report");
}

/// A report on a lane's front, as `lease.rs` makes it: while `owed` is owed.
fn front(slot: &Slot, owed: &[usize], wanted: &[usize]) -> (Taken, Option<Ended>) {
    let taken = slot.report_front(mask(owed).first_word(), mask(wanted).first_word());
    let ended = if taken.emptied { slot.finish() } else { None };
    let all = union(union(taken.accepted, taken.behind), union(taken.stale, taken.done));
    assert_eq!(all, mask(wanted), "every report is answered");
    assert!(taken.accepted.is_empty() || taken.accepted == mask(wanted), "all of it or nothing");
    (taken, ended)
}

/// Two sessions on a lane of three subjects, one step by step and the other at once, and the end of their lease: what is
/// accepted is the front, in order, each subject by one of them; the rest is put back.
fn lane() {
    let slot = leased(3, &[0, 1, 2]);
    let other = spawn(&slot, |slot| front(slot, &[0, 1, 2], &[0, 1]));
    let steward = spawn(&slot, |slot| slot.end(None, Cause::Expired));
    let (first, first_end) = front(&slot, &[0, 1, 2], &[0]);
    let (next, next_end) = front(&slot, &[1, 2], &[1, 2]);
    let (second, second_end) = join(other);
    let by_steward = join(steward);
    assert!(overlap(union(first.accepted, next.accepted), second.accepted).is_empty(), "a subject was accepted twice");
    assert!(first.accepted.is_empty() || second.accepted.is_empty(), "both began from the same state");
    assert!(next.accepted.is_empty() || !first.accepted.is_empty(), "nobody was at that state");
    let accepted = union(union(first.accepted, next.accepted), second.accepted);
    assert_eq!(accepted, Mask::first(accepted.count() as usize), "the front, without a gap");
    let ended = check_ended(&slot, mask(&[0, 1, 2]), accepted, &[first_end, next_end, second_end, by_steward]);
    seen_when(!next.accepted.is_empty(), "first went on");
    seen_when(first.accepted.is_empty() && first.done.has(0), "first was overtaken");
    seen_when(!second.accepted.is_empty(), "second won");
    seen_when(second.done.has(0) && second.behind.has(1), "second was behind");
    seen_when(ended.left.count() == 1 || ended.left.count() == 2, "put back in the middle");
    seen_when(ended.left.count() == 3, "put back at once");
}

/// The same with a report of one subject of two: the other is put back, once.
fn partial_expiry() {
    let slot = leased(2, &[0, 1]);
    let reporter = spawn(&slot, |slot| report(slot, mask(&[0])));
    let steward = spawn(&slot, |slot| slot.end(None, Cause::Expired));
    let by_owner = slot.end(Some(OWNER), Cause::Client);
    let (taken, by_report) = join(reporter);
    let by_steward = join(steward);
    let ended = check_ended(&slot, mask(&[0, 1]), taken.accepted, &[by_owner, by_report, by_steward]);
    assert!(ended.left.has(1), "nobody reported it");
    let cause = if by_owner.is_some() { Cause::Client } else { Cause::Expired };
    assert_eq!(slot.snapshot().cause(), cause);
    seen_when(ended.left.count() == 1, "left one");
    seen_when(ended.left.count() == 2, "left both");
    seen_when(taken.stale.has(0), "stale");
    seen_when(by_owner.is_some(), "owner's end won");
    seen_when(by_steward.is_some(), "steward's end won");
}

/// The last subjects of two chunks, reported by two: at least one of them sees the bucket empty, one finishes it.
fn chunks() {
    let slot = leased(64, &[0, 63]);
    let other = spawn(&slot, |slot| report(slot, mask(&[63])));
    let (first, first_end) = report(&slot, mask(&[0]));
    let (second, second_end) = join(other);
    seen_when(first.emptied && second.emptied, "both saw it empty");
    seen_when(first.emptied && !second.emptied, "first alone saw it empty");
    seen_when(!first.emptied && second.emptied, "second alone saw it empty");
    let _ = check_ended(&slot, mask(&[0, 63]), union(first.accepted, second.accepted), &[first_end, second_end]);
}

/// A report across two chunks against the end of the lease.
fn chunks_end() {
    let slot = leased(64, &[0, 63]);
    let all = mask(&[0, 63]);
    let reporter = spawn(&slot, move |slot| report(slot, all));
    let by_steward = slot.end(None, Cause::Expired);
    let (taken, by_report) = join(reporter);
    assert_eq!(union(taken.accepted, taken.stale), all, "each reported, or stale");
    let ended = check_ended(&slot, all, taken.accepted, &[by_steward, by_report]);
    seen_when(taken.accepted == mask(&[0]), "end came between the chunks");
    seen_when(ended.left == all, "left both");
    seen_when(ended.left.is_empty(), "left none");
    seen_when(by_report.is_some(), "ended by the report");
    seen_when(by_steward.is_some(), "ended by the steward");
}

/// The last reports of two chunks and the steward's end, all at once.
fn chunks_race() {
    let slot = leased(64, &[0, 63]);
    let reporters = [0, 63].map(|place| spawn(&slot, move |slot| report(slot, mask(&[place]))));
    let by_steward = slot.end(None, Cause::Expired);
    let [(first, first_end), (second, second_end)] = reporters.map(join);
    let reported = union(first.accepted, second.accepted);
    let ended = check_ended(&slot, mask(&[0, 63]), reported, &[by_steward, first_end, second_end]);
    seen_when(ended.left.is_empty(), "both reported");
    seen_when(ended.left.count() == 1, "left one");
    seen_when(ended.left.count() == 2, "left both");
    seen_when(by_steward.is_none(), "ended by a report");
    seen_when(by_steward.is_some(), "ended by the steward");
    seen_when(by_steward.is_some() && ended.phase == Phase::Done, "found done");
}

/// Two sessions renew while the steward marks and ends: renewed or dead, never both, and no deadline moves back.
fn renewals() {
    let slot = leased(1, &[0]);
    let session = spawn(&slot, |slot| slot.renew(OWNER, 50));
    let steward = spawn(&slot, expire);
    let long = slot.renew(OWNER, 70);
    let short = join(session);
    let (died, ended) = join(steward);
    let renewed = |answer| matches!(answer, ToRenewed::Renewed { .. });
    let both = [short, long];
    assert!(!both.contains(&ToRenewed::NotOwner) && (died || !both.contains(&ToRenewed::Dead)));
    assert!(!(died && both.into_iter().any(renewed)), "renewed, and dead at the old deadline: {both:?}");
    let now = slot.snapshot();
    if died {
        seen("died");
        let _ = check_ended(&slot, mask(&[0]), Mask::default(), &[ended]);
    } else {
        assert_eq!((now.phase(), now.time()), (Phase::Leased, 70), "a deadline moved back");
    }
    assert!(long != ToRenewed::Renewed { deadline: 50 }, "a deadline moved back");
    seen_when(renewed(short) || renewed(long), "renewed");
    seen_when(renewed(short) && renewed(long), "renewed twice");
    seen_when(both.contains(&ToRenewed::Dead) || both.contains(&ToRenewed::Over), "too late");
    seen_when(ended.is_some(), "put back");
}

/// Whoever reads that a lease is over, as the writer does, reads with it what was put back.
fn read() {
    let slot = leased(2, &[0, 1]);
    let reporter = spawn(&slot, |slot| report(slot, mask(&[0])));
    let other = spawn(&slot, |slot| report(slot, mask(&[1])).1.or_else(|| slot.end(None, Cause::Expired)));
    let now = slot.snapshot();
    let open = slot.open();
    let (taken, by_report) = join(reporter);
    let by_other = join(other);
    let others = if slot.open().has(1) { Mask::default() } else { mask(&[1]) };
    let ended = check_ended(&slot, mask(&[0, 1]), union(taken.accepted, others), &[by_report, by_other]);
    if now.is_final() {
        assert_eq!((now.phase(), open), (ended.phase, ended.left), "read too little or too much");
    }
    seen(match now.phase() {
        Phase::Released => "read released",
        Phase::Done => "read done",
        _ => "read leased",
    });
}
