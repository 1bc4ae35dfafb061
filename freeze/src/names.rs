//! Which functions an address lies in.

use std::collections::{BTreeMap, BTreeSet};

/// Words in the names of functions that wait for others, or may.
const BLOCKING: [&str; 16] = [
    "mutex",
    "rwlock",
    "condvar",
    "reentrant",
    "barrier",
    "once::futex",
    "once::queue",
    "mpsc",
    "mpmc",
    "parking_lot",
    "dashmap",
    "event_listener",
    "crossbeam_channel",
    "futex_wait",
    "lll_lock_wait",
    "thread::park",
];

/// Names by address, looked up once.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<u64, Vec<String>>);

impl Names {
    /// The functions that an address lies in, the innermost first: those inlined there, too.
    pub fn of(&mut self, address: u64) -> &[String] {
        self.0.entry(address).or_insert_with(|| {
            let mut names = Vec::new();
            backtrace::resolve(address as *mut _, |symbol| names.extend(symbol.name().map(|name| format!("{name:#}"))));
            if names.is_empty() {
                names.push("in a library without names".to_owned());
            }
            names
        })
    }

    /// The functions that an address lies in as one line: the innermost, and the first of the crate around it.
    pub fn line(&mut self, address: u64) -> String {
        let names = self.of(address);
        let ours = names.iter().find(|name| name.contains("commissary"));
        match (names.first(), ours) {
            (Some(first), Some(ours)) if first != ours => format!("{first} in {ours}"),
            (Some(first), _) => first.clone(),
            _ => String::new(),
        }
    }

    /// Those of the functions at these addresses that may wait for others.
    pub fn blocking(&mut self, addresses: impl Iterator<Item = u64>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for address in addresses {
            let names = self.of(address).iter();
            found.extend(names.filter(|name| waits(name)).cloned());
        }
        found
    }
}

/// True if a function of this name waits for others, or may.
fn waits(name: &str) -> bool {
    let name = name.to_lowercase();
    BLOCKING.iter().any(|word| name.contains(word))
}
