//! One thread that executes everything: it takes what waits in a channel, logs it, syncs once, executes it, answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use crate::contender::{BATCH, Contender, Setup};
use crate::log::Log;
use crate::work::{Order, State};

/// Batches that may wait.
const ROOM: usize = 64;

/// Orders, and who waits for their effect.
type Batch = (Vec<Order>, Option<Arc<Caller>>);

struct Caller {
    thread: Thread,
    answers: AtomicUsize,
}

struct Channel {
    sender: SyncSender<Batch>,
    done: Arc<AtomicUsize>,
    thread: JoinHandle<(Vec<State>, Log)>,
    keys: u32,
    stock: u64,
    callers: Mutex<Vec<Arc<Caller>>>,
}

pub(crate) fn open(setup: &Setup<'_>) -> Box<dyn Contender> {
    let (sender, receiver) = sync_channel(ROOM);
    let done = Arc::new(AtomicUsize::new(0));
    let (keys, stock, log) = (setup.spread.keys(), setup.stock, Log::create(setup.directory));
    let thread = thread::spawn({
        let done = Arc::clone(&done);
        move || work(&receiver, log, &done, keys, stock)
    });
    Box::new(Channel { sender, done, thread, keys, stock, callers: Mutex::default() })
}

fn work(receiver: &Receiver<Batch>, mut log: Log, done: &AtomicUsize, keys: u32, stock: u64) -> (Vec<State>, Log) {
    let mut states = vec![State::default(); keys as usize];
    while let Ok(first) = receiver.recv() {
        let group: Vec<Batch> = std::iter::once(first).chain(receiver.try_iter().take(ROOM)).collect();
        let orders: Vec<Order> = group.iter().flat_map(|(orders, _)| orders).copied().collect();
        log.append(&orders);
        for order in &orders {
            states[order.key() as usize].execute(*order, stock);
        }
        done.fetch_add(orders.len(), Ordering::Release);
        for caller in group.iter().filter_map(|(_, caller)| caller.as_ref()) {
            caller.answers.fetch_add(1, Ordering::Release);
            caller.thread.unpark();
        }
    }
    (states, log)
}

impl Channel {
    /// This thread, as it was the first time.
    fn caller(&self) -> Arc<Caller> {
        let this = thread::current();
        let mut callers = self.callers.lock().expect("nobody panicked");
        if let Some(known) = callers.iter().find(|caller| caller.thread.id() == this.id()) {
            return Arc::clone(known);
        }
        let caller = Arc::new(Caller { thread: this, answers: AtomicUsize::new(0) });
        callers.push(Arc::clone(&caller));
        caller
    }
}

impl Contender for Channel {
    fn send(&self, orders: &[Order]) {
        for batch in orders.chunks(BATCH) {
            self.sender.send((batch.to_vec(), None)).expect("the thread runs");
        }
    }

    fn settle(&self, orders: usize) {
        while self.done.load(Ordering::Acquire) < orders {
            thread::sleep(Duration::from_micros(50));
        }
    }

    fn call(&self, order: Order) {
        let caller = self.caller();
        let before = caller.answers.load(Ordering::Acquire);
        self.sender.send((vec![order], Some(Arc::clone(&caller)))).expect("the thread runs");
        while caller.answers.load(Ordering::Acquire) == before {
            thread::park();
        }
    }

    fn states(self: Box<Self>) -> Vec<State> {
        let Self { sender, thread, keys, stock, .. } = *self;
        drop(sender);
        let (states, log) = thread.join().expect("it did not panic");
        log.assert_tells(&states, keys, stock);
        states
    }
}
