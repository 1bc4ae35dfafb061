//! The log of the durable peers: orders one after the other, nothing else. Neither checksums nor answers are in it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::work::{Order, State};

pub(crate) struct Log {
    file: File,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Log {
    pub(crate) fn create(directory: &Path) -> Self {
        let path = directory.join("log");
        Self { file: File::create(&path).expect("a file"), path, bytes: Vec::new() }
    }

    /// Writes orders and syncs.
    pub(crate) fn append(&mut self, orders: &[Order]) {
        self.bytes.clear();
        self.bytes.extend(orders.iter().flat_map(|order| order.0.to_be_bytes()));
        self.file.write_all(&self.bytes).expect("written");
        self.file.sync_data().expect("synced");
    }

    /// What is in the file comes to these states.
    pub(crate) fn assert_tells(self, states: &[State], keys: u32, stock: u64) {
        let mut told = vec![State::default(); keys as usize];
        for word in fs::read(self.path).expect("read").chunks_exact(8) {
            let order = Order(u64::from_be_bytes(word.try_into().expect("eight")));
            told[order.key() as usize].execute(order, stock);
        }
        assert!(told == states, "the log tells another story");
    }
}
