//! What becomes of the rest when one of the caretakers fails: no ticket stays pending (I5), and nothing is called whole that is not.

use std::io;
use std::pin::pin;
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use crate::caretakers::Caretakers;
use crate::commit::Change;
use crate::error::{StoreError, TicketError};
use crate::journal::{Group, Log, Outcome};
use crate::record::key;
use crate::service::contain;
use crate::services::FollowerCheck;
use crate::store::{Batch, MemoryStore, Pair, Store};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};
use crate::{
    Builder, Clock, Durability, Hub, HubError, Intake, ManualClock, MemoryDisk, RegisterClientError, Registered,
    Registration,
};

/// How a store is out of order.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// It panics when a batch is applied.
    Panics,
    /// What stands there of clients cannot be read.
    Unreadable,
}

#[derive(Debug)]
struct Shelf {
    inner: MemoryStore,
    fault: Fault,
    /// It was said that it is whole.
    finished: AtomicBool,
}

impl Shelf {
    fn with(fault: Fault) -> Arc<Self> {
        Arc::new(Self { inner: MemoryStore::default(), fault, finished: AtomicBool::new(false) })
    }
}

impl Store for Shelf {
    fn get(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let of_client = name.starts_with(&key::of(0, key::CLIENT, &[]));
        if self.fault == Fault::Unreadable && of_client { Err(StoreError::Closed) } else { self.inner.get(name) }
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, StoreError> {
        self.inner.scan(start, end, limit)
    }

    fn last(&self, start: &[u8], last: &[u8]) -> Result<Option<Pair>, StoreError> {
        self.inner.last(start, last)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        assert!(self.fault != Fault::Panics, "no shelf");
        self.inner.apply(batch)
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        self.inner.checkpoint()
    }

    fn finish(&self) -> Result<(), StoreError> {
        self.finished.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn size_on_disk(&self) -> Result<u64, StoreError> {
        self.inner.size_on_disk()
    }
}

/// A journal that cannot be written, and holds what is not synced.
#[derive(Debug, Default)]
struct Book {
    synced: Arc<AtomicBool>,
}

impl Log for Book {
    fn append(&mut self, _: &mut Group) -> Outcome {
        panic!("no page");
    }

    fn sync(&mut self) -> io::Result<()> {
        self.synced.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn end(&self) -> u64 {
        1
    }

    fn synced(&self) -> u64 {
        0
    }
}

/// A hub, and its caretakers beside it.
fn opened(builder: Builder) -> (Hub, Caretakers) {
    let hub = builder.manual().open_in_memory(&MemoryDisk::new()).unwrap();
    let caretakers = hub.house().dismiss().unwrap();
    (hub, caretakers)
}

fn register(hub: &Hub, id: u64) -> Result<Registered, RegisterClientError> {
    hub.register_client(&Registration::new(id, "somebody"))
}

/// More changes than a batch has, in a group.
fn fill_a_batch(hub: &Hub) {
    let service = hub.register(FollowerCheck::default()).unwrap();
    (0..4_500).for_each(|user| drop(service.add(&user).unwrap()));
}

/// How a ticket failed; while the hub is open.
fn failed(hub: &Hub, registered: &Registered) -> TicketError {
    loop {
        assert!(!hub.house().link.is_closed());
        match registered.ticket.progress() {
            Err(error) => return error,
            Ok(_) => thread::yield_now(),
        }
    }
}

fn poisoned(hub: &Hub) -> String {
    let refused = register(hub, 99);
    let Err(RegisterClientError::Hub(HubError::Poisoned { cause })) = refused else { panic!("{refused:?}") };
    cause
}

#[test]
fn a_storekeeper_that_panics_keeps_nobody_waiting() {
    let (hub, mut caretakers) = opened(Hub::builder());
    caretakers.storekeeper.applier_mut().go_on_with(Shelf::with(Fault::Panics));
    fill_a_batch(&hub);
    let first = register(&hub, 1).unwrap();
    assert!(caretakers.writer.turn());
    // Not in the batch that is lost.
    let second = register(&hub, 2).unwrap();
    assert!(caretakers.writer.turn());
    let threads = caretakers.spawn(&hub.house().link).unwrap();
    assert_eq!([&first, &second].map(|registered| failed(&hub, registered)), [TicketError::NotVisible; 2]);
    let cause = poisoned(&hub);
    assert_eq!(cause, "the storekeeper panicked: no shelf");
    hub.house().link.close();
    assert_eq!(threads.join(), Err(cause));
}

#[test]
fn a_writer_that_panics_keeps_nobody_waiting() {
    let (hub, mut caretakers) = opened(Hub::builder());
    caretakers.writer.go_on_with(Box::new(Book::default()));
    let threads = caretakers.spawn(&hub.house().link).unwrap();
    let first = register(&hub, 1).unwrap();
    assert_eq!(failed(&hub, &first), TicketError::Unknown);
    while hub.house().link.is_open() {
        thread::yield_now();
    }
    let cause = poisoned(&hub);
    assert_eq!(cause, "the writer panicked: no page");
    // As one that was pushed before the hub was poisoned.
    let late = hub.house().link.post(Change::Urgent { service: 1, ranks: Vec::new() }, 0);
    while late.progress().is_ok() {
        thread::yield_now();
    }
    assert_eq!(late.progress(), Err(TicketError::Refused));
    hub.house().link.close();
    assert_eq!(threads.join(), Err(cause));
}

/// Closes the hub, as its last handle, when it is woken.
struct Last(Mutex<Option<Hub>>);

impl Wake for Last {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().unwrap().take());
    }
}

/// On the writer's thread, where the first ticket is waited for, or the storekeeper's.
#[test]
fn a_waker_may_hold_the_last_handle() {
    for until_visible in [false, true] {
        let hub = Hub::builder().open_in_memory(&MemoryDisk::new()).unwrap();
        let mut ticket = register(&hub, 1).unwrap().ticket;
        if until_visible {
            ticket.wait_durable().unwrap();
        }
        let tail = hub.follow(0).unwrap();
        let waker = Waker::from(Arc::new(Last(Mutex::new(Some(hub)))));
        let mut context = Context::from_waker(&waker);
        let done = if until_visible {
            pin!(ticket.visible()).poll(&mut context).is_ready()
        } else {
            pin!(ticket.durable()).poll(&mut context).is_ready()
        };
        if done {
            waker.wake();
        }
        // Ends when the hub is closed, and not before.
        assert_eq!(tail.filter(Result::is_err).count(), 0);
    }
}

struct Careless;

impl Wake for Careless {
    fn wake(self: Arc<Self>) {
        panic!("a task");
    }
}

#[test]
fn a_followers_waker_that_panics_is_no_caretakers_panic() {
    let hub = Hub::builder().open_in_memory(&MemoryDisk::new()).unwrap();
    let mut tail = hub.follow(0).unwrap();
    while tail.try_next().unwrap().is_some() {}
    let waker = Waker::from(Arc::new(Careless));
    let mut next = Box::pin(tail.next_async());
    assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(register(&hub, 1).unwrap().ticket.wait_visible(), Ok(Intake::default()));
    hub.health().unwrap();
    hub.close().unwrap();
    // Its list of waiters is the one thing that suffers.
    let _ = contain(move || drop(next));
}

#[test]
fn a_storekeeper_whose_batch_is_full_when_the_store_fails_comes_to_its_end() {
    let (hub, mut caretakers) = opened(Hub::builder());
    fill_a_batch(&hub);
    // What fails stands at the end of a batch.
    let first = register(&hub, 1).unwrap();
    caretakers.storekeeper.applier_mut().go_on_with(Shelf::with(Fault::Unreadable));
    assert!(caretakers.writer.turn());
    let second = register(&hub, 2).unwrap();
    assert!(caretakers.writer.turn());
    drop(caretakers.writer);
    let ended = (0..100).any(|_| !caretakers.storekeeper.turn());
    assert!(ended && caretakers.storekeeper.is_over(), "it turns for ever");
    assert_eq!(first.ticket.progress(), Err(TicketError::NotVisible));
    assert_eq!(second.ticket.progress(), Err(TicketError::NotVisible));
}

#[test]
fn a_writer_that_panics_at_its_end_leaves_the_store_in_doubt() {
    let (hub, mut caretakers) = opened(Hub::builder());
    let shelf = Shelf::with(Fault::None);
    caretakers.storekeeper.applier_mut().go_on_with(Arc::clone(&shelf) as Arc<dyn Store>);
    caretakers.writer.go_on_with(Box::new(Book::default()));
    drop(register(&hub, 1).unwrap());
    hub.house().link.close();
    let threads = caretakers.spawn(&hub.house().link).unwrap();
    assert_eq!(threads.join(), Err("the writer panicked: no page".to_owned()));
    assert!(!shelf.finished.load(Ordering::SeqCst), "finished behind a journal that is not synced");
}

/// `Durability::Every`: a sync follows within this time; the store's failure is not the journal's.
#[test]
fn what_was_written_is_synced_in_time_though_the_store_failed() {
    let (clock, every) = (ManualClock::default(), Duration::from_millis(10));
    let (hub, mut caretakers) = opened(Hub::builder().clock(clock.clone()).durability(Durability::Every(every)));
    let book = Book::default();
    let synced = Arc::clone(&book.synced);
    caretakers.writer.go_on_with(Box::new(book));
    hub.house().link.poison("store: it failed".to_owned());
    clock.advance(every * 100);
    assert!(!caretakers.writer.turn());
    assert!(synced.load(Ordering::SeqCst), "it is due since 990 ms");
}

#[test]
fn a_writer_that_waits_for_room_keeps_its_interval_and_goes_on_when_the_hub_is_poisoned() {
    let (clock, every) = (ManualClock::default(), Duration::from_millis(1));
    let (hub, mut caretakers) = opened(Hub::builder().clock(clock.clone()).durability(Durability::Every(every)));
    // Ten bytes each.
    drop(hub.house().link.post(Change::Urgent { service: 1, ranks: vec![u64::MAX; 900_000] }, 0));
    assert!(!caretakers.writer.waited_for_room());
    assert!(caretakers.writer.turn());
    let book = Book::default();
    let synced = Arc::clone(&book.synced);
    caretakers.writer.go_on_with(Box::new(book));
    clock.advance(every);
    assert!(caretakers.writer.waited_for_room(), "8 MiB are not applied");
    assert!(synced.load(Ordering::SeqCst));
    hub.house().link.poison("the steward panicked".to_owned());
    assert!(!caretakers.writer.waited_for_room());
}

/// A clock that is out of order, from some time on.
#[derive(Debug, Clone, Default)]
struct Broken {
    clock: ManualClock,
    broken: Arc<AtomicBool>,
}

impl Clock for Broken {
    fn monotonic(&self) -> Duration {
        let named = thread::current().name() == Some("commissary-writer");
        assert!(!named || !self.broken.load(Ordering::SeqCst), "no time");
        self.clock.monotonic()
    }

    fn wall_ms(&self) -> i64 {
        self.clock.wall_ms()
    }
}

/// Would not come back.
#[test]
fn a_hub_whose_writer_panics_in_each_round_can_be_closed() {
    let clock = Broken::default();
    let hub = Hub::builder().clock(clock.clone()).open_in_memory(&MemoryDisk::new()).unwrap();
    clock.broken.store(true, Ordering::SeqCst);
    // It may have panicked already.
    if let Ok(registered) = register(&hub, 1) {
        assert!(registered.ticket.wait_durable().is_err());
    }
    let closed = hub.close().unwrap_err();
    assert!(closed.to_string().contains("the writer panicked: no time"), "{closed}");
}
