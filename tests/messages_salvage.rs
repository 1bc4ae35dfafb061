//! Salvage of a damaged log in a file.

use std::fs;
use std::path::Path;

use commissary::OpenError;
use commissary::messages::{Journal, SalvageError, salvage};

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn damaged(path: &Path) -> Vec<u8> {
    let journal = Journal::open(path).unwrap();
    for seq in 1..=20_u8 {
        journal.append(7, seq.into(), &[seq; 50]).wait().unwrap();
    }
    journal.close().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[500..520].fill(0xFF);
    fs::write(path, &bytes).unwrap();
    bytes
}

/// R107: a log that is refused for its damage is salvaged to another file; the damaged one stays as it is, and the sender goes on.
#[test]
fn a_damaged_file_gives_a_new_log() {
    let directory = tempfile::tempdir().unwrap();
    let [log, mended] = ["log", "mended"].map(|name| directory.path().join(name));
    let bytes = damaged(&log);
    assert!(matches!(Journal::open(&log), Err(OpenError::Journal(_))));
    let salvaged = salvage(&log, &mended).unwrap();
    assert_eq!((salvaged.entries, salvaged.lost.len(), salvaged.header_lost), (19, 1, false));
    assert_eq!(fs::read(&log).unwrap(), bytes);
    assert_eq!(names(directory.path()), ["log", "mended"]);

    let journal = Journal::open(&mended).unwrap();
    assert_eq!((journal.first(), journal.end()), (salvaged.first, salvaged.end));
    let found: Vec<_> = journal.read(journal.first()).unwrap().map(|message| message.unwrap().payload).collect();
    assert_eq!(found.len(), 19);
    assert!(found.is_sorted() && found.iter().all(|payload| payload.len() == 50));
    assert!(journal.append(7, 20, &[20; 50]).wait().is_ok(), "it is there: a repeat");
    assert_eq!(journal.stats().repeats, 1);
    assert!(journal.append(7, 21, b"next").wait().is_ok());
}

/// Nothing is overwritten, and what fails leaves nothing behind.
#[test]
fn a_salvage_that_fails_leaves_no_trace() {
    let directory = tempfile::tempdir().unwrap();
    let [log, mended, absent] = ["log", "mended", "absent"].map(|name| directory.path().join(name));
    damaged(&log);
    fs::write(&mended, b"precious").unwrap();
    assert!(matches!(salvage(&log, &mended), Err(SalvageError::Exists { path }) if path == mended));
    assert!(matches!(salvage(&log, &log), Err(SalvageError::Exists { .. })));
    assert_eq!(fs::read(&mended).unwrap(), b"precious");
    fs::remove_file(&mended).unwrap();

    assert!(matches!(salvage(&absent, &mended), Err(SalvageError::Open(OpenError::Io { path, .. })) if path == absent));
    assert_eq!(names(directory.path()), ["log"]);
    fs::write(&log, b"something else altogether, and longer than a header").unwrap();
    assert!(matches!(salvage(&log, &mended), Err(SalvageError::Journal(_))));
    fs::remove_file(&log).unwrap();

    let journal = Journal::open(&log).unwrap();
    assert!(matches!(salvage(&log, &mended), Err(SalvageError::Open(OpenError::Locked { path })) if path == log));
    assert!(journal.append(1, 1, b"still open").wait().is_ok());
    assert_eq!(names(directory.path()), ["log"]);
}

/// R107: what is salvaged is not put where opening the damaged log would remove it.
#[test]
fn nothing_is_salvaged_to_a_name_that_the_log_removes() {
    let directory = tempfile::tempdir().unwrap();
    let [log, beside] = ["log", "log.new"].map(|name| directory.path().join(name));
    damaged(&log);
    assert!(matches!(salvage(&log, &beside), Err(SalvageError::Reserved { path }) if path == beside));
    assert_eq!(names(directory.path()), ["log"]);
}
