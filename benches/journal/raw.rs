//! One thread, one file: a bare append, and `fdatasync`. Nothing that answers after it can be faster.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use crate::design::{Design, Sender, Setup, create};
use crate::record;

struct Raw {
    path: PathBuf,
    synced: bool,
}

struct Caller {
    file: File,
    synced: bool,
    client: u128,
    record: Vec<u8>,
}

pub(crate) fn open(setup: &Setup) -> Box<dyn Design> {
    Box::new(Raw { path: setup.path.clone(), synced: setup.synced })
}

impl Design for Raw {
    /// There is one.
    fn sender(&self, client: u128) -> Box<dyn Sender + '_> {
        Box::new(Caller { file: create(&self.path), synced: self.synced, client, record: Vec::new() })
    }

    fn finish(self: Box<Self>) -> u64 {
        fs::metadata(&self.path).expect("its length").len()
    }
}

impl Sender for Caller {
    fn send(&mut self, seq: u64, payload: &[u8]) {
        self.record.clear();
        record::append(&mut self.record, self.client, seq, payload);
        self.file.write_all(&self.record).expect("written");
        if self.synced {
            self.file.sync_data().expect("synced");
        }
    }
}
