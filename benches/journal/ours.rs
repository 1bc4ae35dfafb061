//! The message log.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use commissary::Durability;
use commissary::messages::{Journal, Kind};

use crate::design::{Design, Sender, Setup};
use crate::record::Tally;

/// The longest message sent here.
const CAP: usize = 65_536;

struct Ours {
    journal: Journal,
    path: PathBuf,
}

struct Caller<'d> {
    journal: &'d Journal,
    client: u128,
}

pub(crate) fn open(setup: &Setup) -> Box<dyn Design> {
    let durability = if setup.synced { Durability::Sync } else { Durability::Os };
    let journal = Journal::builder().cap(CAP).durability(durability).open(&setup.path).expect("opens");
    Box::new(Ours { journal, path: setup.path.clone() })
}

impl Design for Ours {
    fn sender(&self, client: u128) -> Box<dyn Sender + '_> {
        Box::new(Caller { journal: &self.journal, client })
    }

    fn finish(self: Box<Self>) -> u64 {
        self.journal.close().expect("closes");
        fs::metadata(&self.path).expect("its length").len()
    }
}

impl Sender for Caller<'_> {
    fn send(&mut self, seq: u64, payload: &[u8]) {
        black_box(self.journal.append(self.client, seq, payload).wait().expect("taken"));
    }
}

/// Bytes of the file that `reopen` measures, about.
const REOPENED: u64 = 128 << 20;

/// Seconds that opening takes for a GiB of messages of so many bytes, and that reading the file alone takes.
pub(crate) fn reopen(path: &Path, bytes: usize) -> (f64, f64) {
    let builder = || Journal::builder().cap(CAP).durability(Durability::Os).queue_bytes(2 * REOPENED);
    let journal = builder().open(path).expect("opens");
    let payload = vec![7; bytes];
    let messages = REOPENED / bytes as u64;
    let receipts: Vec<_> = (1..=messages).map(|seq| journal.append(1, seq, &payload)).collect();
    assert!(receipts.into_iter().all(|receipt| receipt.wait().is_ok()), "all are taken");
    journal.close().expect("closes");
    drop(journal);
    let gib = fs::metadata(path).expect("its length").len() as f64 / f64::from(1 << 30);
    let timed = |work: &dyn Fn() -> u64| {
        let began = Instant::now();
        assert!(black_box(work()) >= messages);
        began.elapsed().as_secs_f64() / gib
    };
    // In turns, and the best of three: the file is in memory.
    let rounds =
        || (0..3).map(|_| (timed(&|| builder().open(path).expect("opens").report().entries), timed(&|| read(path))));
    rounds().fold((f64::MAX, f64::MAX), |best, round| (best.0.min(round.0), best.1.min(round.1)))
}

fn read(path: &Path) -> u64 {
    fs::read(path).expect("reads").len() as u64
}

/// Opens the log again, and reads it from its first message on.
pub(crate) fn count(path: &Path) -> Tally {
    let journal = Journal::builder().cap(CAP).open(path).expect("opens");
    let mut tally = Tally::default();
    for message in journal.read(journal.first()).expect("there is a file") {
        let message = message.expect("whole");
        assert_eq!(message.kind, Kind::Message);
        tally.note(message.client, message.seq);
    }
    tally
}
