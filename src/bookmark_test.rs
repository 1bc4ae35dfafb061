//! Bookmarks step by step.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::compact::stop_at;
use crate::faults_test::{Fault, with_fault};

fn bookmark(boot: u32, position: u64) -> Bookmark {
    Bookmark { boot, opened: None, position, as_of_ms: 5, version: 2, id: "one".to_owned(), body: vec![7; 40] }
}

fn found(mark: &mut Mark) -> Result<Option<Bookmark>, String> {
    match mark.read().unwrap() {
        Found::Nothing => Ok(None),
        Found::Bookmark(bookmark) => Ok(Some(bookmark)),
        Found::Bad(what) => Err(what),
    }
}

fn places(directory: &Path) -> [MarkPlace; 2] {
    [MarkPlace::Directory(directory.to_path_buf()), MarkPlace::Memory(MemoryFiles::default())]
}

#[test]
fn bookmark_is_read_as_it_was_written_and_replaced_whole() {
    let directory = tempfile::tempdir().unwrap();
    for place in places(directory.path()) {
        let marks = Marks::new(place, 3, 0, Durability::Sync);
        let mut mark = marks.take(MarkKind::Projection, "one").unwrap();
        assert_eq!(found(&mut mark), Ok(None));
        for position in [10, 20] {
            mark.write(&bookmark(3, position)).unwrap();
            assert_eq!(found(&mut mark), Ok(Some(bookmark(3, position))));
        }
        let mut other = marks.take(MarkKind::Outbox, "one").unwrap();
        assert_eq!(found(&mut other), Ok(None), "another kind's are elsewhere");
    }
    let left: Vec<_> = fs::read_dir(directory.path().join("projections")).unwrap().map(Result::unwrap).collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn one_reader_holds_a_bookmark_and_only_under_a_name_that_is_one() {
    let marks = Marks::new(MarkPlace::Memory(MemoryFiles::default()), 1, 0, Durability::Sync);
    let held = marks.take(MarkKind::Projection, "a.b-C_9").unwrap();
    assert_eq!(marks.take(MarkKind::Projection, "a.b-C_9").unwrap_err(), TakeError::InUse);
    drop(held);
    drop(marks.take(MarkKind::Projection, "a.b-C_9").unwrap());
    for id in ["", ".", "..", ".hidden", "a/b", "a~", "\u{e4}", &"x".repeat(65)] {
        assert_eq!(marks.take(MarkKind::Projection, id).unwrap_err(), TakeError::Id, "{id}");
    }
}

#[test]
fn every_flipped_bit_and_every_missing_byte_is_found() {
    let good = encode(MarkKind::Outbox, &bookmark(1, 99));
    assert_eq!(decode(MarkKind::Outbox, "one", &good), Ok(bookmark(1, 99)));
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(MarkKind::Outbox, "one", &bytes).is_err(), "bit {bit}");
    }
    for len in 0..good.len() {
        assert!(decode(MarkKind::Outbox, "one", &good[..len]).is_err(), "{len} bytes");
    }
    let longer = [good.as_slice(), &[0]].concat();
    assert!(decode(MarkKind::Outbox, "one", &longer).is_err());
    assert!(decode(MarkKind::Projection, "one", &good).is_err(), "another kind's");
    assert!(decode(MarkKind::Outbox, "One", &good).unwrap_err().contains("belongs to another: one"));
}

#[test]
fn reader_of_an_earlier_opening_does_not_overwrite() {
    let directory = tempfile::tempdir().unwrap();
    for place in places(directory.path()) {
        let mut old = Marks::new(place.clone(), 1, 0, Durability::Sync).take(MarkKind::Projection, "one").unwrap();
        old.write(&bookmark(1, 10)).unwrap();
        let mut new = Marks::new(place, 2, 0, Durability::Sync).take(MarkKind::Projection, "one").unwrap();
        let unread = new.write(&bookmark(2, 20)).unwrap_err();
        assert!(unread.to_string().contains("opened again"), "{unread}");
        assert_eq!(found(&mut new), Ok(Some(bookmark(1, 10))));
        new.write(&bookmark(2, 20)).unwrap();
        let refused = old.write(&bookmark(1, 15)).unwrap_err();
        assert!(refused.to_string().contains("opened again"), "{refused}");
        assert_eq!(found(&mut new), Ok(Some(bookmark(2, 20))));
    }
}

/// One of an earlier opening that is dropped late, and saves once more, does not stop the one that is at work.
#[test]
fn reader_of_an_earlier_opening_does_not_stop_a_later_one() {
    let directory = tempfile::tempdir().unwrap();
    for place in places(directory.path()) {
        let mut old = Marks::new(place.clone(), 1, 0, Durability::Sync).take(MarkKind::Projection, "one").unwrap();
        assert_eq!(found(&mut old), Ok(None));
        let mut new = Marks::new(place, 2, 0, Durability::Sync).take(MarkKind::Projection, "one").unwrap();
        assert_eq!(found(&mut new), Ok(None));
        old.write(&bookmark(1, 10)).unwrap();
        new.write(&bookmark(2, 20)).unwrap();
        assert!(old.write(&bookmark(1, 15)).is_err());
        assert_eq!(found(&mut new), Ok(Some(bookmark(2, 20))));
    }
}

#[test]
fn crash_at_any_step_leaves_the_bookmark_before_or_the_new_one() {
    for synced_only in [false, true] {
        let mut outcomes = Vec::new();
        for step in 1..=5 {
            let files = MemoryFiles::default();
            let take = |files: &MemoryFiles| {
                let place = MarkPlace::Memory(files.clone());
                Marks::new(place, 1, 0, Durability::Sync).take(MarkKind::Projection, "one").unwrap()
            };
            let mut mark = take(&files);
            mark.write(&bookmark(1, 1)).unwrap();
            stop_at(step);
            let done = catch_unwind(AssertUnwindSafe(|| mark.write(&bookmark(1, 2)).unwrap())).is_ok();
            stop_at(0);
            assert_eq!(done, step == 5, "as many steps as this test knows");
            let left = found(&mut take(&files.copy(synced_only))).unwrap().unwrap();
            outcomes.push(left.position);
        }
        let expected = if synced_only { [1, 1, 1, 2, 2] } else { [1, 1, 2, 2, 2] };
        assert_eq!(outcomes, expected, "before the name is synced a power cut leaves the one before");
    }
}

#[test]
fn power_cut_before_the_first_name_is_synced_leaves_nothing() {
    let files = MemoryFiles::default();
    stop_at(3);
    assert!(catch_unwind(AssertUnwindSafe(|| files.replace("a", vec![1]))).is_err());
    stop_at(0);
    assert_eq!((files.copy(true).read("a"), files.copy(false).read("a")), (None, Some(vec![1])));
}

/// The name of the directory that bookmarks stand in is synced before one is said to be kept, also if that failed the first time.
#[test]
fn a_bookmark_is_kept_once_all_names_above_it_are_synced() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("journal"), b"").unwrap();
    let marks = Marks::new(MarkPlace::Directory(directory.path().to_path_buf()), 3, 0, Durability::Sync);
    let mut mark = marks.take(MarkKind::Outbox, "one").unwrap();
    let fault = Fault { call: Call::SyncNames, nth: 1, lasting: false };
    let (kept, faults) = with_fault(Some(fault), || [mark.write(&bookmark(3, 10)), mark.write(&bookmark(3, 10))]);
    assert!(kept[0].is_err() && kept[1].is_ok(), "{kept:?}");
    // One failed; then that of the hub's directory, and that of the bookmarks'.
    assert_eq!(faults.made(Call::SyncNames), 3);
}
