//! The store after the machine stopped: not believed unless it was closed in order, and rebuilt from the journal.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use commissary::{Ask, Hub, ManualClock, OpenReport, Policy, Registration, Reporter, Service, ServiceStats, Verdict};

struct Probe;

impl Service for Probe {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        "probe"
    }

    fn policy(&self) -> Policy {
        Policy::default()
    }

    fn judge(&self, _subject: &u64, _report: &u64, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }
}

fn open(directory: &Path) -> Hub {
    Hub::builder().manual().clock(ManualClock::default()).seed(5).open(directory).unwrap()
}

fn marker(directory: &Path) -> PathBuf {
    directory.join("store.unsynced")
}

/// Adds 40 subjects and reports on 20 of them.
fn work(hub: &Hub) {
    let service = hub.register(Probe).unwrap();
    service.add_all(1..=40).unwrap();
    let client = hub.register_client(&Registration::new(1, "worker")).unwrap().client;
    let seat = client.activate(&service).unwrap();
    hub.tick();
    for lease in seat.claim(Ask::buckets(5)).unwrap().leased().unwrap() {
        let reports: Vec<(u64, u64)> = lease.subjects().map(|key| (key, key * 10)).collect();
        assert_eq!(lease.submit(reports).unwrap().accepted(), 4);
    }
    hub.tick();
}

fn results(hub: &Hub) -> (BTreeMap<u64, u64>, ServiceStats) {
    let service = hub.register(Probe).unwrap();
    let (page, next) = service.results(None, 1_000).unwrap();
    assert!(next.is_none());
    let mut stats = service.stats();
    // Counted anew by each opening.
    stats.oldest_wait = Duration::ZERO;
    (page.into_iter().map(|finding| (finding.key, finding.report)).collect(), stats)
}

/// The directory as a process that is killed now would leave it.
fn left_behind(directory: &Path, copy: &Path) {
    fs::create_dir_all(copy).unwrap();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let target = copy.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            left_behind(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A directory that was worked in and not closed.
fn crashed(base: &Path) -> PathBuf {
    let (live, left) = (base.join("live"), base.join("left"));
    let hub = open(&live);
    work(&hub);
    left_behind(&live, &left);
    assert!(marker(&left).exists(), "an open hub has its marker");
    left
}

fn report(hub: &Hub) -> &OpenReport {
    hub.open_report()
}

#[test]
fn store_of_a_machine_that_stopped_is_rebuilt_from_the_journal() {
    let base = tempfile::tempdir().unwrap();
    let left = crashed(base.path());
    for other in ["00000000-0000-0000-0000-000000000000\n", "unknown", ""] {
        fs::write(marker(&left), other).unwrap();
        let hub = open(&left);
        let OpenReport { rebuilt, damaged, store_position, replayed, .. } = report(&hub);
        assert!(rebuilt.as_ref().is_some_and(|why| why.contains("not closed")), "{rebuilt:?}");
        assert!(damaged.as_ref().is_some_and(|damaged| damaged.exists()), "{damaged:?}");
        assert_eq!(*store_position, 0);
        assert!(*replayed > 0);
        let (results, stats) = results(&hub);
        assert_eq!(results, (1..=40).filter_map(|key| Some((key, *results.get(&key)?))).collect());
        assert_eq!(results.len(), 20);
        assert!(results.iter().all(|(key, report)| *report == key * 10));
        assert!(stats.work.adds_up(), "{stats:?}");
        assert_eq!((stats.subjects_known, stats.subjects_done), (40, 20));
        hub.close().unwrap();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn store_of_a_process_that_was_killed_is_not_rebuilt() {
    let base = tempfile::tempdir().unwrap();
    let left = crashed(base.path());
    let hub = open(&left);
    assert_eq!(report(&hub).rebuilt, None);
    assert_eq!(report(&hub).damaged, None);
    assert_eq!(results(&hub).0.len(), 20);
}

#[test]
fn store_that_was_closed_has_no_marker_and_is_believed() {
    let base = tempfile::tempdir().unwrap();
    let directory = base.path().join("hub");
    let hub = open(&directory);
    assert!(marker(&directory).exists(), "opening writes that it was opened");
    work(&hub);
    let before = results(&hub);
    hub.close().unwrap();
    assert!(!marker(&directory).exists(), "closing is enough, whoever holds a handle still");
    drop(hub);
    assert!(!marker(&directory).exists());
    let hub = open(&directory);
    assert_eq!(report(&hub).rebuilt, None);
    let after = results(&hub);
    assert_eq!(before.0, after.0);
    assert_eq!(before.1.work, after.1.work);
    drop(hub);
    assert!(!marker(&directory).exists(), "dropping the last handle closes");
}

#[test]
fn unsynced_store_is_kept_when_the_journal_cannot_replace_it() {
    let base = tempfile::tempdir().unwrap();
    let left = crashed(base.path());
    fs::write(marker(&left), "another boot").unwrap();
    fs::remove_file(left.join("journal")).unwrap();
    let builder = || Hub::builder().manual().clock(ManualClock::default());
    // Nothing is set aside, or the refusal would come once and an empty hub after it.
    for _ in 0..2 {
        let refusal = builder().open(&left).unwrap_err();
        assert!(matches!(refusal, commissary::OpenError::JournalMissing { .. }), "{refusal:?}");
    }
    let hub = builder().accept_missing_journal().open(&left).unwrap();
    assert_eq!(report(&hub).rebuilt, None);
    let kept = results(&hub).0;
    left_behind(&left, &base.path().join("again"));
    drop(hub);
    // The new journal begins where the store stood: it cannot replace the store either.
    let again = base.path().join("again");
    fs::write(marker(&again), "another boot").unwrap();
    let hub = open(&again);
    assert_eq!(report(&hub).rebuilt, None);
    assert_eq!(results(&hub).0, kept);
}

/// R111: a replay over a part of a batch would count twice, and the store is not made anew from a journal without its beginning.
#[test]
fn store_with_a_failed_write_is_refused_when_the_journal_cannot_replace_it() {
    let base = tempfile::tempdir().unwrap();
    let left = crashed(base.path());
    fs::remove_file(left.join("journal")).unwrap();
    drop(Hub::builder().manual().clock(ManualClock::default()).accept_missing_journal().open(&left).unwrap());
    fs::write(marker(&left), "failed").unwrap();
    for _ in 0..2 {
        let refusal = Hub::builder().manual().clock(ManualClock::default()).open(&left).unwrap_err();
        assert!(matches!(refusal, commissary::OpenError::NotRebuildable { damaged: None }), "{refusal:?}");
        assert_eq!(fs::read(marker(&left)).unwrap(), b"failed", "it stays refused");
    }
}

#[test]
fn store_with_a_failed_write_is_made_anew() {
    let base = tempfile::tempdir().unwrap();
    let left = crashed(base.path());
    fs::write(marker(&left), "failed").unwrap();
    let hub = open(&left);
    assert!(report(&hub).rebuilt.as_deref().is_some_and(|why| why.contains("a write to it failed")));
    assert_eq!(results(&hub).0.len(), 20);
}

#[test]
fn marker_without_a_store_means_nothing() {
    let base = tempfile::tempdir().unwrap();
    let left = crashed(base.path());
    fs::write(marker(&left), "another boot").unwrap();
    fs::remove_dir_all(left.join("store")).unwrap();
    let hub = open(&left);
    assert_eq!(report(&hub).damaged, None);
    assert_eq!(results(&hub).0.len(), 20);
}
