//! `yaque` and `persistent-queue`: queues in files of this process, for one consumer. The workers share it.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use persistent_queue::{Builder, Consumer, Durability, Producer, RedbStore, SledStore, Store};
use yaque::{Receiver, ReceiverBuilder, Sender};

use crate::contender::{Contender, Drained, Setup, Worker, by_threads, report_on};

const PATIENCE: Duration = Duration::from_secs(10);

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

// ---- yaque --------------------------------------------------------------------------------------------------------

struct Yaque(Mutex<Receiver>);

pub(crate) fn yaque(setup: &Setup<'_>) -> Box<dyn Contender> {
    let base = setup.directory.join("yaque");
    let mut sender = Sender::open(&base).expect("opens");
    let items: Vec<[u8; 8]> = (0..setup.items).map(u64::to_le_bytes).collect();
    assert!(sender.try_send_batch(&items).is_ok(), "there is no limit");
    Box::new(Yaque(Mutex::new(receiver(setup))))
}

fn receiver(setup: &Setup<'_>) -> Receiver {
    // Saved by hand, after each commit: by itself it does so now and then.
    let builder = ReceiverBuilder::new().save_every_nth(None).save_every(None);
    builder.open(setup.directory.join("yaque")).expect("opens")
}

struct YaqueWorker<'a>(&'a Mutex<Receiver>, usize);

impl Worker for YaqueWorker<'_> {
    /// Under the lock all the while: what was received is held by the one receiver, until it is committed.
    fn turn(&mut self, done: &mut Vec<u64>) {
        let mut receiver = self.0.lock().expect("nobody panicked");
        let Ok(batch) = receiver.try_recv_batch_up_to(self.1) else { return };
        let items: Vec<u64> = batch.iter().map(|bytes| number(bytes)).collect();
        for item in &items {
            std::hint::black_box(report_on(*item));
        }
        batch.commit().expect("committed");
        receiver.save().expect("saved");
        done.extend(items);
    }
}

impl Contender for Yaque {
    fn drain(&self, setup: &Setup<'_>) -> Drained {
        by_threads(setup, |_| YaqueWorker(&self.0, setup.claim))
    }

    fn left(self: Box<Self>, setup: &Setup<'_>) -> u64 {
        drop(self);
        let mut receiver = receiver(setup);
        receiver.try_recv_batch_up_to(usize::MAX >> 8).map_or(0, |batch| batch.len() as u64)
    }
}

// ---- persistent-queue ---------------------------------------------------------------------------------------------

struct Persistent<S> {
    consumer: Mutex<Consumer<S>>,
    open: fn(&Setup<'_>) -> S,
}

type Ends<S> = (Producer<S>, Consumer<S>);

fn ends<S: Store>(store: S, durability: Durability) -> Ends<S> {
    Builder::new(store).capacity(usize::MAX).durability(durability).open().expect("opens")
}

fn persistent<S: Store + Send + Sync + 'static>(setup: &Setup<'_>, open: fn(&Setup<'_>) -> S) -> Box<dyn Contender> {
    // Filled without syncs, which would take long; then one of them puts all of it on the disk.
    let (producer, consumer) = ends(open(setup), Durability::None);
    for item in 0..setup.items - 1 {
        assert!(producer.push(&item.to_le_bytes()).is_ok(), "pushed");
    }
    drop((producer, consumer));
    let (producer, consumer) = ends(open(setup), Durability::Sync);
    assert!(producer.push(&(setup.items - 1).to_le_bytes()).is_ok(), "pushed");
    Box::new(Persistent { consumer: Mutex::new(consumer), open })
}

pub(crate) fn persistent_redb(setup: &Setup<'_>) -> Box<dyn Contender> {
    persistent(setup, |setup| RedbStore::open(setup.directory.join("redb")).expect("opens"))
}

pub(crate) fn persistent_sled(setup: &Setup<'_>) -> Box<dyn Contender> {
    persistent(setup, open_sled)
}

/// Tries for a while: a thread of sled's may hold the lock of its file for some time after the last handle is gone.
fn open_sled(setup: &Setup<'_>) -> SledStore {
    let began = Instant::now();
    loop {
        match SledStore::open(setup.directory.join("sled")) {
            Ok(store) => return store,
            Err(error) if began.elapsed() > PATIENCE => panic!("does not open: {error}"),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

struct PersistentWorker<'a, S>(&'a Mutex<Consumer<S>>, usize);

impl<S: Store + Send + Sync> Worker for PersistentWorker<'_, S> {
    /// Under the lock all the while: the consumer is one thread's, and each item is acknowledged by itself.
    fn turn(&mut self, done: &mut Vec<u64>) {
        let consumer = self.0.lock().expect("nobody panicked");
        let mut reserved = Vec::with_capacity(self.1);
        while reserved.len() < self.1 {
            let Some(item) = consumer.reserve().expect("can be read") else { break };
            reserved.push(item);
        }
        for item in reserved {
            let known = number(&item);
            std::hint::black_box(report_on(known));
            assert!(item.ack().is_ok(), "acknowledged");
            done.push(known);
        }
    }
}

impl<S: Store + Send + Sync> Contender for Persistent<S> {
    fn drain(&self, setup: &Setup<'_>) -> Drained {
        by_threads(setup, |_| PersistentWorker(&self.consumer, setup.claim))
    }

    fn left(self: Box<Self>, setup: &Setup<'_>) -> u64 {
        let Self { consumer, open } = *self;
        drop(consumer);
        let (producer, _consumer) = ends(open(setup), Durability::Sync);
        producer.len() as u64
    }
}
