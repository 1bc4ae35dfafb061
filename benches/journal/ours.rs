//! The message log.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use commissary::Durability;
use commissary::messages::{Journal, Kind};

use crate::design::{Design, Sender, Setup};
use crate::record::Tally;

/// The longest message sent here.
const CAP: usize = 4_096;

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
