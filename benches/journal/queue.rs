//! Option 3 as it was written down: senders put handles of their buffers into a queue, which is not bounded; one thread
//! writes and syncs all that is there, then tells everybody through one condition variable.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use crate::design::{Design, Sender, Setup, create};
use crate::record;

#[derive(Default)]
struct State {
    waiting: Vec<Vec<u8>>,
    /// Buffers put in so far.
    given: u64,
    /// Those of them that are written, and synced.
    done: u64,
    closing: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// For the consumer: there is something in the queue.
    work: Condvar,
    /// For all senders: something was done.
    told: Condvar,
}

struct Queue {
    shared: Arc<Shared>,
    consumer: JoinHandle<File>,
}

struct Caller<'d> {
    shared: &'d Shared,
    client: u128,
}

pub(crate) fn open(setup: &Setup) -> Box<dyn Design> {
    let (file, synced, shared) = (create(&setup.path), setup.synced, Arc::new(Shared::default()));
    let consumers = Arc::clone(&shared);
    let consumer = thread::spawn(move || consume(&consumers, file, synced));
    Box::new(Queue { shared, consumer })
}

fn consume(shared: &Shared, mut file: File, synced: bool) -> File {
    let (mut taken, mut batch) = (Vec::new(), Vec::new());
    loop {
        let mut state = shared.state.lock().expect("nobody panicked");
        while state.waiting.is_empty() {
            if state.closing {
                return file;
            }
            state = shared.work.wait(state).expect("nobody panicked");
        }
        std::mem::swap(&mut taken, &mut state.waiting);
        let last = state.given;
        drop(state);
        batch.clear();
        taken.drain(..).for_each(|record: Vec<u8>| batch.extend_from_slice(&record));
        file.write_all(&batch).expect("written");
        if synced {
            file.sync_data().expect("synced");
        }
        shared.state.lock().expect("nobody panicked").done = last;
        shared.told.notify_all();
    }
}

impl Design for Queue {
    fn sender(&self, client: u128) -> Box<dyn Sender + '_> {
        Box::new(Caller { shared: &self.shared, client })
    }

    fn finish(self: Box<Self>) -> u64 {
        self.shared.state.lock().expect("nobody panicked").closing = true;
        self.shared.work.notify_one();
        let file = self.consumer.join().expect("nobody panicked");
        file.metadata().expect("its length").len()
    }
}

impl Sender for Caller<'_> {
    fn send(&mut self, seq: u64, payload: &[u8]) {
        let record = record::encode(self.client, seq, payload);
        let mut state = self.shared.state.lock().expect("nobody panicked");
        // The consumer sleeps only while the queue is empty.
        if state.waiting.is_empty() {
            self.shared.work.notify_one();
        }
        state.waiting.push(record);
        state.given += 1;
        let mine = state.given;
        let _state = self.shared.told.wait_while(state, |state| state.done < mine).expect("nobody panicked");
    }
}
