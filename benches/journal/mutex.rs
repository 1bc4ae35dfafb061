//! Option 2: the file behind a mutex. Who holds it writes its record, and syncs.

use std::fs::File;
use std::io::Write;
use std::sync::Mutex;

use crate::design::{Design, Sender, Setup, create};
use crate::record;

struct Locked {
    file: Mutex<File>,
    synced: bool,
}

struct Caller<'d> {
    design: &'d Locked,
    client: u128,
    record: Vec<u8>,
}

pub(crate) fn open(setup: &Setup) -> Box<dyn Design> {
    Box::new(Locked { file: Mutex::new(create(&setup.path)), synced: setup.synced })
}

impl Design for Locked {
    fn sender(&self, client: u128) -> Box<dyn Sender + '_> {
        Box::new(Caller { design: self, client, record: Vec::new() })
    }

    fn finish(self: Box<Self>) -> u64 {
        let file = self.file.into_inner().expect("nobody panicked");
        file.metadata().expect("its length").len()
    }
}

impl Sender for Caller<'_> {
    fn send(&mut self, seq: u64, payload: &[u8]) {
        // Encoded before the lock is taken.
        self.record.clear();
        record::append(&mut self.record, self.client, seq, payload);
        let mut file = self.design.file.lock().expect("nobody panicked");
        file.write_all(&self.record).expect("written");
        if self.design.synced {
            file.sync_data().expect("synced");
        }
    }
}
