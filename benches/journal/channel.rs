//! A channel, and a writer thread behind it that takes what is there, writes and syncs it at once, and wakes each sender
//! by itself.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender as Channel, channel};
use std::thread::{self, JoinHandle, Thread};

use crate::design::{Design, Sender, Setup, create};
use crate::record;

/// Bytes that are written at once, about at most.
const BATCH_BYTES: usize = 1 << 20;

/// Where one sender is told: the last number that was acknowledged.
struct Reply {
    acknowledged: AtomicU64,
    thread: Thread,
}

struct Request {
    record: Vec<u8>,
    seq: u64,
    reply: Arc<Reply>,
}

struct Writer {
    requests: Channel<Request>,
    thread: JoinHandle<File>,
}

struct Caller {
    requests: Channel<Request>,
    reply: Arc<Reply>,
    client: u128,
}

pub(crate) fn open(setup: &Setup) -> Box<dyn Design> {
    let (file, synced) = (create(&setup.path), setup.synced);
    let (requests, receiver) = channel();
    Box::new(Writer { requests, thread: thread::spawn(move || write(&receiver, file, synced)) })
}

fn write(requests: &Receiver<Request>, mut file: File, synced: bool) -> File {
    let (mut batch, mut replies) = (Vec::new(), Vec::new());
    while let Ok(first) = requests.recv() {
        let mut next = Some(first);
        while let Some(request) = next {
            batch.extend_from_slice(&request.record);
            replies.push((request.reply, request.seq));
            next = if batch.len() < BATCH_BYTES { requests.try_recv().ok() } else { None };
        }
        file.write_all(&batch).expect("written");
        if synced {
            file.sync_data().expect("synced");
        }
        batch.clear();
        for (reply, seq) in replies.drain(..) {
            // ordering: Release; pairs with the Acquire in `send`: who sees its number knows that it is written.
            reply.acknowledged.store(seq, Ordering::Release);
            reply.thread.unpark();
        }
    }
    file
}

impl Design for Writer {
    fn sender(&self, client: u128) -> Box<dyn Sender + '_> {
        let reply = Arc::new(Reply { acknowledged: AtomicU64::new(0), thread: thread::current() });
        Box::new(Caller { requests: self.requests.clone(), reply, client })
    }

    fn finish(self: Box<Self>) -> u64 {
        drop(self.requests);
        let file = self.thread.join().expect("nobody panicked");
        file.metadata().expect("its length").len()
    }
}

impl Sender for Caller {
    fn send(&mut self, seq: u64, payload: &[u8]) {
        let record = record::encode(self.client, seq, payload);
        let request = Request { record, seq, reply: Arc::clone(&self.reply) };
        assert!(self.requests.send(request).is_ok(), "the writer is there");
        // ordering: Acquire; pairs with the Release in `write`.
        while self.reply.acknowledged.load(Ordering::Acquire) < seq {
            thread::park();
        }
    }
}
