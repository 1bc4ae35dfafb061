//! What a message log keeps in memory: bounded by its options, whatever its file, its clients and its readers do.
#![expect(unsafe_code, reason = "only an allocator can count memory, and the trait of one is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use commissary::Durability;
use commissary::messages::{Gaps, Journal, Retain};

/// The system's allocator, counting the bytes that are in use.
struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);

fn count(bytes: usize, sign: i64) {
    LIVE.fetch_add(sign * i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
}

// SAFETY: every call is handed on as it came; the counter allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time: they share the count.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn live() -> i64 {
    LIVE.load(Ordering::Relaxed)
}

/// Sends `count` messages of a client, 50 under way at a time; returns how many were acknowledged.
fn send(journal: &Journal, client: u128, from: u64, count: u64) -> usize {
    let mut acked = 0;
    for from in (from..from + count).step_by(50) {
        let receipts: Vec<_> = (from..from + 50).map(|seq| journal.append(client, seq, &[3; 200])).collect();
        acked += receipts.into_iter().filter_map(|receipt| receipt.wait().ok()).count();
    }
    acked
}

/// R105, R108: a reader that stands still costs nothing, however long the log gets: no memory, and no sender its answer.
#[test]
fn a_stuck_reader_costs_nothing() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let builder = Journal::builder().durability(Durability::Os);
    let journal = builder.open(directory.path().join("log")).unwrap();
    assert_eq!(send(&journal, 1, 1, 500), 500);
    let mut stuck = journal.tail(0).unwrap();
    assert_eq!(stuck.try_next().unwrap().unwrap().seq, 1);
    let mut reading = journal.read(0).unwrap();
    assert_eq!(reading.next().unwrap().unwrap().seq, 1);
    let before = live();
    assert_eq!(send(&journal, 1, 501, 20_000), 20_000);
    let (grown, bytes) = (live() - before, journal.end());
    assert!(bytes > 4 << 20 && grown < 64 << 10, "{grown} bytes more for {bytes} written");
    // Nor does what it holds grow when it goes on, nor when the file is another one meanwhile.
    journal.compact(Retain::Bytes(1 << 20)).unwrap();
    let found = std::iter::from_fn(|| stuck.try_next().unwrap().map(|message| message.seq));
    assert!(found.eq(2..=20_500));
    assert_eq!(reading.count(), 499);
    let grown = live() - before;
    assert!(grown < 600 << 10, "{grown}");
}

/// R105: a client may send any number of messages: what is remembered of it is its window.
#[test]
fn a_client_costs_its_window() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let builder = Journal::builder().durability(Durability::Os);
    let journal = builder.open(directory.path().join("log")).unwrap();
    assert_eq!(send(&journal, 1, 1, 1_000), 1_000);
    let before = live();
    assert_eq!(send(&journal, 1, 1_001, 20_000), 20_000);
    let grown = live() - before;
    assert!(grown < 16 << 10, "{grown}");
}

/// R105: any number of clients may come: so many are remembered, each at a known price, also after opening and compacting.
#[test]
fn clients_cost_their_number() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let options = Journal::builder().durability(Durability::Os).gaps(Gaps::Loose).clients(500).window(8);
    let fill = |journal: &Journal, from: u128| {
        for client in from..from + 4_000 {
            assert!(journal.append(client, 1, b"once").wait().is_ok());
        }
    };
    let before = live();
    let journal = options.clone().open(&path).unwrap();
    fill(&journal, 0);
    let full = live();
    fill(&journal, 4_000);
    assert!(live() - full < 256 << 10, "{} more", live() - full);
    assert_eq!(journal.stats().clients, 500);
    journal.compact(Retain::Bytes(10_000)).unwrap();
    assert!(live() - full < 256 << 10, "{} more", live() - full);
    journal.close().unwrap();
    drop(journal);
    let journal = options.open(&path).unwrap();
    assert_eq!(journal.stats().clients, 500);
    let price = (live() - before) / 500;
    assert!(price < 1_500, "{price} bytes a client, with all else");
    assert!(journal.append(7_999, 1, b"once").wait().is_ok());
    assert_eq!(journal.stats().repeats, 1);
}
