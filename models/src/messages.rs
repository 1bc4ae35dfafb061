//! Models of the message log's hand-over: senders against the writer's turns, its failing and its closing.
//!
//! Each message is answered exactly once, whoever comes first, and by the time when its sender and the closing are through; every byte that was reserved is given back; and the writer,
//! which parks without a timeout here, is woken for each message and for the closing. The queue is the real one; the
//! sender's and the writer's few steps around it are those of `messages/shared.rs` and `messages/writer.rs`.

use std::time::Duration;

use crate::check::{Model, PARKED, seen, seen_if_named, seen_when};
use crate::queue::{Queue, Standing};
use crate::stack::Node;
use crate::sync::{Arc, AtomicBool, AtomicU32, Ordering, thread};

pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "queue_close",
        body: close,
        states: &[PARKED, WRITTEN, AT_THE_DOOR, BY_SENDER, BY_END],
        bound: Some(3),
        finite: false,
        one_order: true,
    },
    Model {
        name: "queue_senders",
        body: senders,
        states: &[WRITTEN, AT_THE_DOOR, BY_SENDER, BY_END, BOTH],
        bound: Some(3),
        finite: false,
        one_order: true,
    },
    Model {
        name: "queue_bound",
        body: bound,
        states: &[PARKED, WRITTEN, OVERLOADED, "both had room"],
        bound: Some(2),
        finite: false,
        one_order: true,
    },
    Model {
        name: "queue_fail",
        body: fail,
        states: &[PARKED, WRITTEN, FAILED, FAILED_AT_THE_DOOR],
        bound: Some(2),
        finite: false,
        one_order: true,
    },
];

const WRITTEN: &str = "written";
const AT_THE_DOOR: &str = "closed before it was reserved";
const BY_SENDER: &str = "refused by a sender";
const BOTH: &str = "taken by the writer's end and by its sender";
const BY_END: &str = "refused at the writer's end";
const OVERLOADED: &str = "overloaded";
const FAILED: &str = "failed in the writer";
const FAILED_AT_THE_DOOR: &str = "failed before it was reserved";

/// Longer than any model runs; it is not used, see `sync::park_timeout`.
const LONG: Duration = Duration::from_secs(3600);
/// What a message takes.
const COST: u64 = 2;

/// How a message was answered; 0: not yet.
const ACK: u32 = 1;
const NACK: u32 = 2;

/// `Pending`: a message and its one answer.
struct Pending {
    claimed: AtomicBool,
    answer: AtomicU32,
}

/// `Shared`, as far as the hand-over goes.
struct Log {
    queue: Queue<Pending>,
}

type Receipt = Arc<Node<Pending>>;

impl Log {
    fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { queue: Queue::new(limit) })
    }

    /// As `Shared::answer`; whether it was the first answer.
    fn answer(&self, node: &Receipt, answer: u32) -> bool {
        let first = !node.value.claimed.swap(true, Ordering::Relaxed) || bug!("bug_queue_no_claim");
        if first {
            self.queue.give_back(COST);
            assert_eq!(node.value.answer.swap(answer, Ordering::Release), 0, "answered twice");
        }
        first
    }

    /// As `Shared::send`. No receipt: it was refused before anything was taken.
    fn send(&self) -> Option<Receipt> {
        match self.queue.standing() {
            Standing::Open => {}
            Standing::Failed => {
                seen(FAILED_AT_THE_DOOR);
                return None;
            }
            Standing::Closing | Standing::Over => {
                seen_if_named(AT_THE_DOOR);
                return None;
            }
        }
        if !self.queue.reserve(COST) {
            seen(OVERLOADED);
            return None;
        }
        let node = Arc::new(Node::new(Pending { claimed: AtomicBool::new(false), answer: AtomicU32::new(0) }));
        let handed_over = self.queue.push(Arc::clone(&node));
        if !handed_over && !bug!("bug_queue_push_blind") {
            seen_when_claimed(self.answer(&node, NACK), BY_SENDER);
        }
        Some(node)
    }

    /// As `Writer::turn`; false if there was nothing.
    fn turn(&self, answer: u32) -> bool {
        let taken = self.queue.take_all();
        for node in &taken {
            assert!(self.answer(node, answer), "somebody else answered while the writer was there");
        }
        seen_when(!taken.is_empty(), if answer == ACK { WRITTEN } else { FAILED });
        !taken.is_empty()
    }

    /// As `Writer::run`.
    fn run(&self, mut turn: impl FnMut() -> bool) {
        if bug!("bug_queue_close_first") {
            self.queue.signal.adopt();
            while matches!(self.queue.standing(), Standing::Open | Standing::Failed) {
                self.queue.signal.lower();
                if !turn() {
                    self.queue.signal.wait(LONG);
                }
            }
            return;
        }
        self.queue.attend(|| if turn() { None } else { Some(LONG) });
    }

    /// As `Writer::finish` and `Shared::end`.
    fn finish(&self, answer: u32) {
        while self.turn(answer) {}
        if !bug!("bug_queue_end_first") {
            self.queue.end();
        }
        for node in self.queue.take_all() {
            seen_when_claimed(self.answer(&node, NACK), BY_END);
        }
        if bug!("bug_queue_end_first") {
            self.queue.end();
        }
    }

    /// The log is over and every sender is through.
    fn check(&self, receipts: impl IntoIterator<Item = Receipt>) {
        for receipt in receipts {
            assert_ne!(receipt.value.answer.load(Ordering::Acquire), 0, "never answered");
        }
        assert_eq!(self.queue.used(), 0, "bytes were not given back");
        let left = self.queue.take_all();
        assert!(left.iter().all(|node| node.value.answer.load(Ordering::Acquire) != 0), "a message waits for nobody");
    }
}

/// Notes who gave the answer, or that somebody had.
fn seen_when_claimed(first: bool, state: &str) {
    seen_if_named(if first { state } else { BOTH });
}

fn joined<T>(thread: thread::JoinHandle<T>) -> T {
    thread.join().expect("a thread of the model panicked")
}

fn sender(log: &Arc<Log>) -> thread::JoinHandle<Option<Receipt>> {
    let log = Arc::clone(log);
    thread::spawn(move || log.send())
}

/// A sender and, beside it, whoever closes the log.
fn close() {
    let log = Log::new(u64::MAX);
    let sender = sender(&log);
    let closer = {
        let log = Arc::clone(&log);
        thread::spawn(move || log.queue.close())
    };
    log.run(|| log.turn(ACK));
    log.finish(ACK);
    let receipt = joined(sender);
    joined(closer);
    log.check(receipt);
}

/// Two senders while the log is closed.
fn senders() {
    let log = Log::new(u64::MAX);
    let other = sender(&log);
    let writer = {
        let log = Arc::clone(&log);
        thread::spawn(move || {
            log.queue.close();
            log.run(|| log.turn(ACK));
            log.finish(ACK);
        })
    };
    let receipt = log.send();
    let receipts = [receipt, joined(other)];
    joined(writer);
    log.check(receipts.into_iter().flatten());
}

/// A sender that closes the log behind its message.
fn last_sender(log: &Arc<Log>) -> thread::JoinHandle<Option<Receipt>> {
    let log = Arc::clone(log);
    thread::spawn(move || {
        let receipt = log.send();
        log.queue.close();
        receipt
    })
}

/// Room for one message and two senders: never more is reserved, and what was is given back.
fn bound() {
    let log = Log::new(COST);
    let senders = [sender(&log), last_sender(&log)];
    log.run(|| {
        assert!(log.queue.used() <= COST, "more is reserved than allowed");
        log.turn(ACK)
    });
    log.finish(ACK);
    let receipts = senders.map(joined);
    seen_when(receipts.iter().all(Option::is_some), "both had room");
    log.check(receipts.into_iter().flatten());
}

/// The device fails after the first message that is written: what comes is refused, by the writer or at the door.
fn fail() {
    let log = Log::new(u64::MAX);
    let senders = [sender(&log), last_sender(&log)];
    let mut failed = false;
    let mut turn = |log: &Log| {
        let any = log.turn(if failed { NACK } else { ACK });
        if any && !failed {
            failed = true;
            log.queue.fail();
        }
        any
    };
    log.run(|| turn(&log));
    log.finish(NACK);
    log.check(senders.map(joined).into_iter().flatten());
}
