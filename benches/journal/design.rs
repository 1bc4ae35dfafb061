//! What every design must be able to do.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::record::{self, Tally};

/// What a design is given.
pub(crate) struct Setup {
    /// The one file in which the messages must be at the end.
    pub(crate) path: PathBuf,
    /// Answers come after `fdatasync`; otherwise after the write.
    pub(crate) synced: bool,
}

/// A way to get messages into one file.
pub(crate) trait Design: Sync {
    /// Called on the sender's own thread, before the time is taken.
    fn sender(&self, client: u128) -> Box<dyn Sender + '_>;

    /// Called when every sender is gone. Returns the bytes that were written to any file.
    fn finish(self: Box<Self>) -> u64;
}

/// One sender's end.
pub(crate) trait Sender {
    /// Returns when the message is acknowledged.
    fn send(&mut self, seq: u64, payload: &[u8]);
}

/// A design by name.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) senders_max: usize,
    /// True if the messages are in the one file only after `finish`, so that its time counts.
    pub(crate) gathers: bool,
    pub(crate) open: fn(&Setup) -> Box<dyn Design>,
    /// Reads the file back, verifying every record.
    pub(crate) count: fn(&Path) -> Tally,
}

impl Kind {
    /// A design that writes records, into the one file at once.
    pub(crate) const fn other(name: &'static str, open: fn(&Setup) -> Box<dyn Design>) -> Kind {
        Kind { name, senders_max: usize::MAX, gathers: false, open, count: record::count }
    }
}

/// A new file that is only appended to.
pub(crate) fn create(path: &Path) -> File {
    OpenOptions::new().append(true).create_new(true).open(path).expect("opens")
}
