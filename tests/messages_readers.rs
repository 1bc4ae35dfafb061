//! Readers of a message log: from every position, behind the writer at their own pace, across compactions, to the end.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use commissary::messages::{Ack, Journal, Kind, Message, Retain, Tail};
use commissary::{MemoryDisk, ReadError};
use proptest::prelude::*;

fn journal() -> Journal {
    Journal::builder().window(4).open_in_memory(&MemoryDisk::new()).unwrap()
}

/// Appends the numbers `from..=to` of client 1; up to ten wait together, so that some share a group.
fn append(journal: &Journal, from: u64, to: u64) -> Vec<Ack> {
    let mut acks = Vec::new();
    for from in (from..=to).step_by(10) {
        let receipts: Vec<_> =
            (from..=to.min(from + 9)).map(|seq| journal.append(1, seq, &seq.to_be_bytes())).collect();
        acks.extend(receipts.into_iter().map(|receipt| receipt.wait().unwrap()));
    }
    acks
}

fn seqs(messages: impl IntoIterator<Item = Result<Message, ReadError>>) -> Vec<u64> {
    messages.into_iter().map(|message| message.unwrap().seq).collect()
}

/// What a tail finds now.
fn drain(tail: &mut Tail) -> Vec<u64> {
    seqs(std::iter::from_fn(|| tail.try_next().transpose()))
}

/// Counts how often it is woken, and unparks the thread that made it.
struct Woken(AtomicUsize, thread::Thread);

impl Woken {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(0), thread::current()))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        self.1.unpark();
    }
}

/// Runs a future to its end on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let woken = Woken::new();
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future);
    let mut seen = 0;
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        while woken.count() == seen {
            thread::park();
        }
        seen = woken.count();
    }
}

/// R108, R107: reading begins at every position that was named, and nowhere else; each message is at its own.
#[test]
fn every_named_position_can_be_read_from() {
    let journal = journal();
    let mut acks = append(&journal, 1, 1);
    acks.extend(append(&journal, 2, 40));
    journal.end_session(1).wait().unwrap();
    let all: Vec<Message> = journal.read(journal.first()).unwrap().map(Result::unwrap).collect();
    assert_eq!(all.len(), 41);
    assert_eq!((all[40].kind, all[40].seq, all[40].payload.len()), (Kind::End, 40, 0));
    assert!(acks.iter().zip(&all).all(|(ack, message)| ack.position == message.position));
    for position in 0..=journal.end() {
        let behind = all.iter().position(|message| message.position >= position).unwrap_or(all.len());
        let named = [journal.first(), journal.end()].contains(&position)
            || all.iter().any(|message| [message.position, message.next].contains(&position));
        match (journal.read(position), journal.tail(position)) {
            (Ok(messages), Ok(mut tail)) => {
                assert!(named, "{position} was never named");
                assert_eq!(messages.map(Result::unwrap).collect::<Vec<_>>(), all[behind..]);
                assert_eq!(drain(&mut tail).len(), all.len() - behind);
                assert_eq!(tail.position(), journal.end());
            }
            (Err(ReadError::NotAPosition { position: one }), Err(ReadError::NotAPosition { position: other })) => {
                assert!(!named, "{position} was named");
                assert_eq!((one, other), (position, position));
            }
            other => panic!("{position}: {other:?}"),
        }
    }
    let end = journal.end();
    for beyond in [end + 1, u64::MAX] {
        assert!(
            matches!(journal.read(beyond), Err(ReadError::BeyondEnd { position, end: at }) if (position, at) == (beyond, end))
        );
        assert!(matches!(journal.tail(beyond), Err(ReadError::BeyondEnd { .. })));
    }
}

/// R108: an iterator ends where the log ended when it was made.
#[test]
fn reading_ends_at_the_end_as_it_was() {
    let journal = journal();
    append(&journal, 1, 5);
    let messages = journal.read(journal.first()).unwrap();
    append(&journal, 6, 9);
    assert_eq!(seqs(messages), [1, 2, 3, 4, 5]);
}

/// R108: whoever follows the log waits for what comes, and is told when there is no more.
#[test]
fn a_waiting_tail_gets_what_comes() {
    let journal = journal();
    let mut tail = journal.tail(0).unwrap();
    assert!(tail.try_next().unwrap().is_none());
    assert!(tail.next_within(Duration::ZERO).unwrap().is_none(), "nothing came in no time");
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let first = tail.next_within(Duration::MAX).unwrap().unwrap().seq;
            (first, seqs(tail))
        });
        for seq in 1..=200 {
            append(&journal, seq, seq);
        }
        journal.close().unwrap();
        let (first, rest) = reader.join().unwrap();
        assert_eq!(first, 1);
        assert!(rest.into_iter().eq(2..=200), "and ends with the log");
    });
}

/// R108: the same on any executor: no runtime, no thread.
#[test]
fn an_async_tail_gets_what_comes() {
    let journal = journal();
    let mut tail = journal.tail(0).unwrap();
    let (woken, mut next) = (Woken::new(), Box::pin(tail.next_async()));
    let waker = Waker::from(Arc::clone(&woken));
    assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    append(&journal, 1, 1);
    assert_eq!(woken.count(), 1, "woken before the message was acknowledged");
    assert_eq!(block_on(next).unwrap().unwrap().seq, 1);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            block_on(async move {
                let mut found = Vec::new();
                while let Some(message) = tail.next_async().await.unwrap() {
                    found.push(message.seq);
                }
                found
            })
        });
        for seq in 2..=200 {
            append(&journal, seq, seq);
        }
        journal.close().unwrap();
        assert!(reader.join().unwrap().into_iter().eq(2..=200));
    });
}

/// R108: tails do not hear of each other, and each sees everything once, whenever it looks.
#[test]
fn tails_go_at_their_own_pace() {
    let journal = journal();
    let mut eager = journal.tail(0).unwrap();
    let lazy = journal.tail(0).unwrap();
    let mut by_turns = journal.tail(0).unwrap();
    let mut seen = Vec::new();
    for round in 0..50 {
        append(&journal, round * 4 + 1, round * 4 + 4);
        assert_eq!(drain(&mut eager).len(), 4);
        seen.extend(by_turns.try_next().unwrap().map(|message| message.seq));
    }
    let late = journal.tail(eager.position()).unwrap();
    journal.close().unwrap();
    seen.extend(seqs(by_turns));
    assert!(seen.into_iter().eq(1..=200));
    assert!(seqs(lazy).into_iter().eq(1..=200), "what it never looked at before the log was closed");
    assert_eq!(seqs(late), Vec::<u64>::new());
    assert_eq!(seqs(eager), Vec::<u64>::new());
    assert!(seqs(journal.tail(0).unwrap()).into_iter().eq(1..=200), "also one that begins afterwards");
}

/// R108: a tail on its way through what a compaction drops goes on in the old file, and then in the new one.
#[test]
fn a_tail_goes_on_across_a_compaction() {
    let journal = journal();
    let acks = append(&journal, 1, 300);
    let mut tail = journal.tail(0).unwrap();
    let mut seen: Vec<u64> = (0..50).map(|_| tail.try_next().unwrap().unwrap().seq).collect();
    let compacted = journal.compact(Retain::From(acks[299].position)).unwrap();
    assert!(compacted.first > tail.position());
    append(&journal, 301, 400);
    seen.extend(drain(&mut tail));
    assert!(seen.iter().copied().eq(1..=400));
    let last = append(&journal, 401, 401)[0];
    journal.compact(Retain::From(last.position)).unwrap();
    append(&journal, 402, 410);
    assert!(drain(&mut tail).into_iter().eq(401..=410));
    assert!(
        matches!(journal.tail(acks[3].position), Err(ReadError::Lagged { resume_at }) if resume_at == journal.first())
    );
}

/// R108: what two compactions have dropped is not passed over in silence: once an error, then on from where the log begins.
#[test]
fn a_tail_that_lost_something_says_so_once() {
    let journal = journal();
    let acks = append(&journal, 1, 300);
    let mut tail = journal.tail(0).unwrap();
    assert_eq!(tail.try_next().unwrap().unwrap().seq, 1);
    journal.compact(Retain::From(acks[299].position)).unwrap();
    append(&journal, 301, 600);
    let last = append(&journal, 601, 601)[0];
    let first = journal.compact(Retain::From(last.position)).unwrap().first;
    let before: Vec<u64> = (0..299).map(|_| tail.try_next().unwrap().unwrap().seq).collect();
    assert!(before.into_iter().eq(2..=300), "the old file up to where it ended");
    assert!(matches!(tail.try_next(), Err(ReadError::Lagged { resume_at }) if resume_at == first));
    assert_eq!(tail.position(), first);
    append(&journal, 602, 603);
    assert_eq!(drain(&mut tail), [601, 602, 603]);
    journal.close().unwrap();
    assert_eq!(seqs(tail), Vec::<u64>::new());
}

/// R108: a tail that waits at the end leaves the old file when a compaction takes effect, so that its room is free, and later
/// compactions cost it nothing.
#[test]
fn a_waiting_tail_follows_a_compaction() {
    let journal = journal();
    append(&journal, 1, 300);
    let mut tail = journal.tail(journal.end()).unwrap();
    let (woken, mut next) = (Woken::new(), Box::pin(tail.next_async()));
    let waker = Waker::from(Arc::clone(&woken));
    for upto in [600, 900] {
        assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let before = woken.count();
        journal.compact(Retain::From(journal.end())).unwrap();
        assert_eq!(woken.count(), before + 1);
        assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let acks = append(&journal, upto - 299, upto);
        assert_eq!(block_on(next).unwrap().unwrap().seq, upto - 299);
        tail = journal.tail(acks[299].position).unwrap();
        assert_eq!(tail.try_next().unwrap().unwrap().seq, upto);
        next = Box::pin(tail.next_async());
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(u64),
    Look(usize),
    From(usize),
    Bytes(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..40_u64).prop_map(Step::Append),
        4 => (0..50_usize).prop_map(Step::Look),
        1 => (0..60_usize).prop_map(Step::From),
        1 => (0..3_000_u64).prop_map(Step::Bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// R108: whatever compactions come between, a tail sees every message once and in order, except those before a
    /// position that it was told.
    #[test]
    fn nothing_is_skipped_in_silence(steps in prop::collection::vec(step(), 1..30)) {
        let journal = journal();
        let mut tail = journal.tail(0).unwrap();
        let (mut acks, mut expected) = (Vec::<Ack>::new(), 1);
        let mut look = |tail: &mut Tail, acks: &[Ack]| match tail.try_next() {
            Ok(Some(message)) => {
                assert_eq!(message.seq, expected);
                assert_eq!(message.position, acks[usize::try_from(expected).unwrap() - 1].position);
                expected += 1;
                true
            }
            Ok(None) => {
                assert_eq!(expected, acks.len() as u64 + 1, "it ends only where the log does");
                false
            }
            Err(ReadError::Lagged { resume_at }) => {
                let next = acks.iter().position(|ack| ack.position >= resume_at).unwrap_or(acks.len()) as u64 + 1;
                assert!(next > expected, "it is told only if something is gone");
                expected = next;
                true
            }
            Err(error) => panic!("{error}"),
        };
        for step in steps {
            match step {
                Step::Append(count) => {
                    let from = acks.len() as u64 + 1;
                    acks.extend(append(&journal, from, from + count - 1));
                }
                Step::Look(times) => (0..times).for_each(|_| { look(&mut tail, &acks); }),
                Step::From(back) => {
                    let at = acks.len().checked_sub(back + 1).map_or(0, |at| acks[at].position);
                    journal.compact(Retain::From(at)).unwrap();
                }
                Step::Bytes(bytes) => drop(journal.compact(Retain::Bytes(bytes)).unwrap()),
            }
        }
        while look(&mut tail, &acks) {}
    }
}
