//! Histories of one bucket's calls, each by the steps of `lease.rs` on the crate's own slot: claims, reports, renewals,
//! releases, the steward's marks and expiries, reads. Whatever the schedule, some order of them explains all answers.
//!
//! Checker and rules are those of the crate's tests, which record real threads.

use crate::check::{Model, seen_when};
use crate::linear::{Event, Recorder, check};
use crate::one_bucket::{Answer, By, Call, OneBucket, Phase as Plain};
use crate::slot::{Cause, Mask, Phase, Slot, ToRenewed};
use crate::sync::{Arc, AtomicU64, Ordering, thread};

pub(crate) const MODELS: &[Model] = &[Model {
    name: "lease_linear",
    body: histories,
    states: &[
        "calls overlap",
        "reported",
        "stale",
        "renewed",
        "too dead to renew",
        "released by the owner",
        "expired",
        "another ended it",
        "done",
    ],
    bound: None,
    finite: false,
    one_order: true,
}];

type Made = Event<Call, Answer>;

const WHOLE: u64 = 0b111;
const TERM: u64 = 10;
const GRACE: u64 = 5;
const OWNERS: [u32; 2] = [1, 2];

struct Bucket {
    slot: Slot,
    now: AtomicU64,
    recorder: Recorder,
}

/// The calls of one thread, as they were answered.
struct Caller<'a>(&'a Bucket, Vec<Made>);

impl Caller<'_> {
    fn call(&mut self, call: Call, act: impl FnOnce(&Slot) -> Answer) -> Answer {
        let made = self.0.recorder.record(call, |_| act(&self.0.slot));
        let answer = made.answer;
        self.1.push(made);
        answer
    }

    /// Other steps of the last call.
    fn beside(&mut self, call: Call) {
        let Some(Event { began, ended, .. }) = self.1.last() else { return };
        let made = Event { call, answer: Answer::Silent, began: *began, ended: *ended };
        self.1.push(made);
    }

    fn now(&self) -> u64 {
        self.0.now.load(Ordering::SeqCst)
    }

    fn claim(&mut self, owner: u32) -> bool {
        let deadline = self.now() + TERM;
        self.call(Call::Claim { owner, deadline }, |slot| Answer::Won(slot.claim(owner, 0, deadline)))
            == Answer::Won(true)
    }

    fn report(&mut self, wanted: u64) {
        let answer = self.call(Call::Report { wanted }, |slot| {
            let taken = slot.report(Mask::of_word(wanted));
            if taken.emptied {
                let _ = slot.finish();
            }
            Answer::Reported { accepted: taken.accepted.first_word(), stale: taken.stale.first_word() }
        });
        if let Answer::Reported { accepted: 1.., .. } = answer {
            self.beside(Call::Finish);
        }
    }

    fn renew(&mut self, owner: u32) {
        let deadline = self.now() + TERM;
        self.call(Call::Renew { owner, deadline }, |slot| match slot.renew(owner, deadline) {
            ToRenewed::Renewed { .. } => Answer::Renewed,
            ToRenewed::Dead => Answer::IsDead,
            ToRenewed::Over => Answer::IsOver,
            ToRenewed::NotOwner => Answer::NotOwner,
        });
    }

    fn end(&mut self, by: By) {
        let (owner, cause) = match by {
            By::Owner(owner) => (Some(owner), Cause::Client),
            By::Steward(_) => (None, Cause::Expired),
        };
        self.call(Call::Settle(by), |slot| Answer::Left(slot.end(owner, cause).map(|ended| ended.left.count())));
        self.beside(Call::Close(by));
    }

    /// As the steward's sweep looks at a slot.
    fn sweep(&mut self) {
        let now = self.0.now.fetch_add(TERM / 2, Ordering::SeqCst) + TERM / 2;
        let before = self.0.slot.snapshot();
        if before.phase() == Phase::Dead && before.is_past(now, GRACE) {
            self.end(By::Steward(now));
        } else if before.is_held() {
            let made = self.0.recorder.record(Call::Mark { now }, |_| Answer::Won(self.0.slot.mark_dead(now)));
            // One that did not mark it may come too early or be overtaken: it says nothing.
            self.1.extend(Some(made).filter(|made| made.answer == Answer::Won(true)));
        }
    }

    fn look(&mut self) {
        self.call(Call::Look, |slot| {
            Answer::Saw(match slot.snapshot().phase() {
                Phase::Ready => Plain::Ready,
                Phase::Leased => Plain::Leased,
                Phase::Dead => Plain::Dead,
                Phase::Released | Phase::Done => Plain::Over,
            })
        });
        self.call(Call::Owed, |slot| Answer::Owed(slot.open().first_word()));
    }
}

/// Two sessions of the one who gets it, the other one who wants it, the steward.
fn histories() {
    let bucket = Arc::new(Bucket { slot: Slot::new(0, 3, 0), now: AtomicU64::new(0), recorder: Recorder::default() });
    let spawn = |act: fn(&mut Caller<'_>)| {
        let bucket = Arc::clone(&bucket);
        thread::spawn(move || {
            let mut caller = Caller(&bucket, Vec::new());
            act(&mut caller);
            caller.1
        })
    };
    let threads = [first, second, session, steward].map(spawn);
    let mut events: Vec<Made> =
        threads.into_iter().flat_map(|thread| thread.join().expect("a thread of the model panicked")).collect();
    count(&events);
    let rules = OneBucket { whole: WHOLE, grace: GRACE };
    if let Err(stuck) = check(&rules, &mut events) {
        panic!("{stuck}");
    }
}

fn first(caller: &mut Caller<'_>) {
    let [owner, _] = OWNERS;
    if caller.claim(owner) {
        caller.report(0b011);
        caller.renew(owner);
        caller.report(0b110);
        caller.end(By::Owner(owner));
    }
    caller.look();
}

fn second(caller: &mut Caller<'_>) {
    let [_, owner] = OWNERS;
    if caller.claim(owner) {
        caller.renew(owner);
        caller.report(0b001);
        caller.look();
        caller.end(By::Owner(owner));
    }
    caller.renew(owner);
}

/// Another session of the first one, which finds its lease.
fn session(caller: &mut Caller<'_>) {
    let [owner, _] = OWNERS;
    if caller.0.slot.snapshot().phase() > Phase::Ready {
        caller.report(0b100);
        caller.renew(owner);
        caller.report(0b001);
        caller.look();
        caller.end(By::Owner(owner));
    }
}

fn steward(caller: &mut Caller<'_>) {
    for _ in 0..5 {
        caller.sweep();
    }
}

fn count(events: &[Made]) {
    let any = |found: fn(&Made) -> bool| events.iter().any(found);
    let overlap = |one: &Made, other: &Made| one.began < other.began && other.began < one.ended;
    seen_when(events.iter().any(|one| events.iter().any(|other| overlap(one, other))), "calls overlap");
    seen_when(any(|made| matches!(made.answer, Answer::Reported { accepted: 1.., .. })), "reported");
    seen_when(any(|made| matches!(made.answer, Answer::Reported { stale: 1.., .. })), "stale");
    seen_when(any(|made| made.answer == Answer::Renewed), "renewed");
    seen_when(any(|made| made.answer == Answer::IsDead), "too dead to renew");
    let by = |made: &Made, owner: bool| match (&made.call, made.answer) {
        (Call::Settle(By::Owner(_)), Answer::Left(Some(_))) => owner,
        (Call::Settle(By::Steward(_)), Answer::Left(Some(_))) => !owner,
        _ => false,
    };
    seen_when(events.iter().any(|made| by(made, true)), "released by the owner");
    seen_when(events.iter().any(|made| by(made, false)), "expired");
    seen_when(any(|made| made.answer == Answer::Left(None)), "another ended it");
    seen_when(any(|made| made.answer == Answer::Owed(0)), "done");
}
