//! Runs one design for a while, with so many senders in a closed loop, and checks what became of it.

use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::design::{Design, Kind, Setup};
use crate::record::Tally;

/// What one run came to.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    /// Messages a second.
    pub(crate) rate: f64,
    /// From the call to its answer, microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Bytes written for each byte of a message.
    pub(crate) bytes: f64,
}

/// What one sender saw.
struct Seen {
    began: Instant,
    ended: Instant,
    /// Nanoseconds from each call to its answer.
    took: Vec<u64>,
}

pub(crate) fn run(
    kind: &Kind,
    directory: &Path,
    synced: bool,
    senders: usize,
    bytes: usize,
    window: Duration,
) -> Figures {
    let setup = Setup { path: directory.join("messages"), synced };
    let design = (kind.open)(&setup);
    let (barrier, shared) = (Barrier::new(senders), design.as_ref());
    let seen: Vec<Seen> = thread::scope(|scope| {
        let send = |client| {
            scope.spawn({
                let barrier = &barrier;
                move || send(shared, barrier, client, bytes, window)
            })
        };
        let threads: Vec<_> = (1..=senders as u128).map(send).collect();
        threads.into_iter().map(|thread| thread.join().expect("nobody panicked")).collect()
    });
    let finishing = Instant::now();
    let written = design.finish();
    let finished = if kind.gathers { finishing.elapsed() } else { Duration::ZERO };

    let acknowledged: Vec<u64> = seen.iter().map(|seen| seen.took.len() as u64).collect();
    assert_eq!((kind.count)(&setup.path), Tally::of(&acknowledged), "{}: what is in the file", kind.name);
    let began = seen.iter().map(|seen| seen.began).min().expect("a sender");
    let ended = seen.iter().map(|seen| seen.ended).max().expect("a sender");
    let mut took: Vec<u64> = seen.into_iter().flat_map(|seen| seen.took).collect();
    took.sort_unstable();
    let percentile = |percent: usize| took[(took.len() - 1) * percent / 100] as f64 / 1e3;
    Figures {
        rate: took.len() as f64 / (ended - began + finished).as_secs_f64(),
        p50: percentile(50),
        p99: percentile(99),
        bytes: written as f64 / (took.len() * bytes) as f64,
    }
}

/// One sender: at least one message, then until the time is over.
fn send(design: &dyn Design, barrier: &Barrier, client: u128, bytes: usize, window: Duration) -> Seen {
    let mut sender = design.sender(client);
    let mut payload = vec![b'm'; bytes];
    let mut took = Vec::with_capacity(1 << 16);
    barrier.wait();
    let began = Instant::now();
    let mut now = began;
    while took.is_empty() || now - began < window {
        let seq = took.len() as u64 + 1;
        payload[..8].copy_from_slice(&seq.to_be_bytes());
        sender.send(seq, black_box(&payload));
        let answered = Instant::now();
        took.push(u64::try_from((answered - now).as_nanos()).unwrap_or(u64::MAX));
        now = answered;
    }
    Seen { began, ended: now, took }
}
