//! Bytes are a damaged message log. What a salvage makes of it is a log, from which nothing more is salvaged; the damaged one stays
//! as it was; and of one that opens, each message is in the new one.
//!
//! The first byte tells whether the rest is taken as it is, or gets right checksums first.
use std::fs;
use std::path::Path;

use commissary::messages::{Gaps, Journal, Message, Salvaged, salvage};
use commissary::{Durability, ManualClock, MemoryDisk};

use super::Seen;
use super::seal::seal;

/// What the corpus comes through.
pub const STATES: &[&str] = &["refused", "salvaged", "header lost", "a part lost", "nothing lost", "of one that opens"];

/// What is in a log, if it opens.
fn messages(log: &[u8]) -> Option<Vec<Message>> {
    let builder = Journal::builder().clock(ManualClock::default()).durability(Durability::Os).gaps(Gaps::Loose);
    let journal = builder.open_in_memory(&MemoryDisk::from_journal(log)).ok()?;
    let all = journal.read(journal.first()).expect("the first position is one");
    Some(all.map(|message| message.expect("what was opened can be read")).collect())
}

/// What a salvage says, and the log that it made; it leaves nothing else.
fn mend(directory: &Path, log: &[u8]) -> Option<(Salvaged, Vec<u8>)> {
    let [from, to] = ["from", "to"].map(|name| directory.join(name));
    fs::write(&from, log).expect("the directory can be written");
    let salvaged = salvage(&from, &to);
    assert!(fs::read(&from).expect("it is still there") == log, "the damaged log is never changed");
    assert_eq!(fs::read_dir(directory).expect("it is one").count(), 1 + usize::from(salvaged.is_ok()));
    let salvaged = salvaged.ok()?;
    let made = fs::read(&to).expect("it was made");
    fs::remove_file(&to).expect("it can be removed");
    Some((salvaged, made))
}

pub fn run(bytes: &[u8], seen: &mut Seen) {
    let Some((&how, log)) = bytes.split_first() else { return };
    let mut log = log.to_vec();
    if how & 1 == 1 {
        seal(&mut log);
    }
    // In memory where that can be had: each salvage syncs.
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory can be made");
    let opened = messages(&log);
    let Some((salvaged, made)) = mend(directory.path(), &log) else {
        seen.insert("refused");
        // A log whose creation was interrupted opens, and there is nothing in it.
        assert!(opened.is_none_or(|all| all.is_empty()), "what holds a message can be salvaged");
        return;
    };
    seen.insert("salvaged");
    if salvaged.header_lost {
        seen.insert("header lost");
    }
    seen.insert(if salvaged.lost.is_empty() { "nothing lost" } else { "a part lost" });
    let now = messages(&made).expect("what was made is a log");
    assert!(now.len() as u64 <= salvaged.entries && salvaged.first <= salvaged.end);
    if let Some(opened) = opened {
        seen.insert("of one that opens");
        assert!(now.starts_with(&opened), "{opened:?} is not how {now:?} begins");
    }
    let (again, same) = mend(directory.path(), &made).expect("what was made can be salvaged");
    assert!(again.lost.is_empty() && !again.header_lost, "{again:?}");
    assert_eq!((again.entries, messages(&same)), (salvaged.entries, Some(now)));
}
