//! Option 4: every sender appends to a temporary file of its own, and syncs it. At the end one thread puts them together
//! in the one file, and syncs that: no message is there before, so that this time counts.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Mutex;

use crate::design::{Design, Sender, Setup, create};
use crate::record;

struct Files {
    path: PathBuf,
    synced: bool,
    temporary: Mutex<Vec<PathBuf>>,
}

struct Caller {
    file: File,
    synced: bool,
    client: u128,
    record: Vec<u8>,
}

pub(crate) fn open(setup: &Setup) -> Box<dyn Design> {
    Box::new(Files { path: setup.path.clone(), synced: setup.synced, temporary: Mutex::default() })
}

impl Design for Files {
    fn sender(&self, client: u128) -> Box<dyn Sender + '_> {
        let path = self.path.with_extension(client.to_string());
        let file = create(&path);
        self.temporary.lock().expect("nobody panicked").push(path);
        Box::new(Caller { file, synced: self.synced, client, record: Vec::new() })
    }

    fn finish(self: Box<Self>) -> u64 {
        let mut all = create(&self.path);
        let mut bytes = 0;
        let temporary = self.temporary.into_inner().expect("nobody panicked");
        for path in &temporary {
            // In the kernel, where the system can.
            bytes += io::copy(&mut File::open(path).expect("opens"), &mut all).expect("copied");
        }
        if self.synced {
            all.sync_data().expect("synced");
        }
        for path in temporary {
            fs::remove_file(path).expect("removed");
        }
        2 * bytes
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
