//! What becomes of the rest when one of the caretakers fails: no ticket stays pending (I5), and nothing is called whole that is not.

use std::io;
use std::thread;
use std::time::Duration;

use crate::caretakers::Caretakers;
use crate::error::{StoreError, TicketError};
use crate::journal::{Group, Log, Outcome};
use crate::record::key;
use crate::services::FollowerCheck;
use crate::store::{Batch, MemoryStore, Pair, Store};
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::{
    Builder, Durability, Hub, HubError, ManualClock, MemoryDisk, RegisterClientError, Registered, Registration,
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

fn close(hub: &Hub) {
    let link = &hub.house().link;
    link.close();
    link.writer.raise();
    link.steward.raise();
}

#[test]
fn a_storekeeper_that_panics_keeps_nobody_waiting() {
    let (hub, mut caretakers) = opened(Hub::builder());
    caretakers.storekeeper.applier_mut().go_on_with(Shelf::with(Fault::Panics));
    let threads = caretakers.spawn(&hub.house().link).unwrap();
    let first = register(&hub, 1).unwrap();
    while hub.house().link.is_open() {
        thread::yield_now();
    }
    let second = register(&hub, 2);
    let Err(RegisterClientError::Hub(HubError::Poisoned { cause })) = second else { panic!("{second:?}") };
    assert_eq!(cause, "the storekeeper panicked: no shelf");
    close(&hub);
    assert_eq!(threads.join(), Err(cause));
    assert_eq!(first.ticket.progress(), Err(TicketError::NotVisible));
}

#[test]
fn a_storekeeper_whose_batch_is_full_when_the_store_fails_comes_to_its_end() {
    let (hub, mut caretakers) = opened(Hub::builder());
    let service = hub.register(FollowerCheck::default()).unwrap();
    (0..4_500).for_each(|user| drop(service.add(&user).unwrap()));
    // In one group, and more changes than a batch has: what fails stands at its end.
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
    close(&hub);
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
