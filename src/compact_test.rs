//! Compaction step by step.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use super::Compact;
use crate::device::MemoryDevice;
use crate::journal::{JournalError, JournalFile, Purpose};
use crate::record::{Boot, PAST, Past, Record, SNAPSHOT, key};
use crate::store::{Pair, Store};
use crate::{
    Ask, Builder, Crash, Hub, LeaseToken, ManualClock, MemoryDisk, OpenError, Policy, Registration, Reporter, Seat,
    Service, ServiceState, Verdict,
};

thread_local! {
    /// Crash points that are still passed before the one that stops; 0: none stops.
    static STOP: Cell<u32> = const { Cell::new(0) };
}

/// Stops if it is this one's turn: nothing more is done, as when a process is killed.
pub(crate) fn crash_point() {
    match STOP.get() {
        0 => {}
        1 => {
            STOP.set(0);
            std::panic::resume_unwind(Box::new("stopped"));
        }
        left => STOP.set(left - 1),
    }
}

/// Makes the `n`-th crash point from here on stop; 0: none.
pub(crate) fn stop_at(n: u32) {
    STOP.set(n);
}

/// Runs `work` until it passes its `n`-th crash point. `None` if that came, or what `work` gave.
fn stopped_at<T>(n: u32, work: impl FnOnce() -> T) -> Option<T> {
    STOP.set(n);
    let done = catch_unwind(AssertUnwindSafe(work)).ok();
    STOP.set(0);
    done
}

struct Doubling;

impl Service for Doubling {
    type Subject = u64;
    type Report = String;

    fn id(&self) -> &'static str {
        "doubling"
    }

    fn policy(&self) -> Policy {
        Policy::default()
    }

    fn judge(&self, _subject: &u64, _report: &String, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }
}

fn builder() -> (Builder, ManualClock) {
    let clock = ManualClock::default();
    (Hub::builder().manual().clock(clock.clone()).seed(1), clock)
}

fn report_on(key: u64) -> (u64, String) {
    (key, format!("report on {key}"))
}

/// A day with some of everything; returns the tokens of the leases that go on.
fn session(hub: &Hub, clock: &ManualClock) -> Vec<LeaseToken> {
    let service = hub.register(Doubling).unwrap();
    let tick = || {
        clock.advance(Duration::from_millis(101));
        hub.tick();
    };
    let seat = |id: u64| {
        let client = hub.register_client(&Registration::new(id, "a")).unwrap().client;
        client.activate(&service).unwrap()
    };
    let (a, b) = (seat(1), seat(2));
    let one =
        |seat: &Seat<Doubling>| seat.claim(Ask::one()).unwrap().leased().and_then(|mut grant| grant.pop()).unwrap();
    service.add_all(0..40).unwrap();
    tick();
    for _ in 0..3 {
        let lease = one(&a);
        let keys: Vec<u64> = lease.subjects().collect();
        assert_eq!(lease.submit(keys.into_iter().map(report_on)).unwrap().accepted(), 4);
        tick();
    }
    let part = one(&b);
    let first = part.subjects().next().unwrap();
    assert_eq!(part.report([report_on(first)]).unwrap().accepted(), 1);
    let held = vec![part.into_token(), one(&a).into_token()];
    drop(one(&b));
    tick();
    tick();
    held
}

/// What a reader sees, and whether the leases go on.
#[derive(Debug, PartialEq)]
struct Seen {
    findings: Vec<(u64, String, u64, u32, u64)>,
    work: crate::Work,
    counts: (u64, u64, u64),
    state: ServiceState,
    leases: Vec<(String, Vec<u64>)>,
}

fn seen(hub: &Hub) -> Seen {
    let service = hub.register(Doubling).unwrap();
    let (findings, _) = service.results(None, usize::MAX).unwrap();
    let stats = service.stats();
    let mut leases = Vec::new();
    for id in [1, 2] {
        let seat = hub.client(id).unwrap().activate(&service).unwrap();
        for view in seat.leases().unwrap() {
            leases.push((view.token.to_string(), view.subjects));
        }
    }
    let row = |finding: crate::Finding<Doubling>| {
        (finding.key, finding.report, finding.client.value(), finding.version, finding.position)
    };
    Seen {
        findings: findings.into_iter().map(row).collect(),
        work: stats.work,
        counts: (stats.subjects_known, stats.subjects_done, stats.duplicates),
        state: stats.state,
        leases,
    }
}

/// Every record, old ones under their old positions: kind, time and body. Without the boots, which every opening adds.
fn records(disk: &MemoryDisk) -> BTreeMap<u64, (u8, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let device = Box::new(disk.journal().copy(false));
    JournalFile::open::<Infallible>(device, Purpose::Hub, 0, 0, &mut |entry| {
        let (position, kind, body) = match Record::decode(entry.kind, entry.body).unwrap() {
            Record::Snapshot(_) => return Ok(()),
            Record::Past(Past { position, kind, body }) => (position, kind, body),
            _ => (entry.position, entry.kind, entry.body),
        };
        assert!(!matches!(kind, PAST | SNAPSHOT), "the past is not wrapped twice");
        if kind != (Record::Boot(Boot { number: 1 })).kind() {
            assert_eq!(found.insert(position, (kind, entry.time.wall_ms, body.to_vec())), None, "{position} twice");
        }
        Ok(())
    })
    .unwrap();
    found
}

/// Every pair but the standing, which names positions and boots.
fn pairs(disk: &MemoryDisk) -> Vec<Pair> {
    let pairs = disk.store().scan(&[], None, usize::MAX).unwrap();
    pairs.into_iter().filter(|(name, _)| *name != key::of(0, key::STANDING, &[])).collect()
}

/// A disk in memory after a session.
fn used() -> (MemoryDisk, Seen) {
    let disk = MemoryDisk::new();
    let (builder, clock) = builder();
    let hub = builder.open_in_memory(&disk).unwrap();
    let tokens = session(&hub, &clock);
    let seen = seen(&hub);
    assert_eq!((tokens.len(), seen.leases.len(), seen.findings.len()), (2, 2, 13));
    hub.close().unwrap();
    (disk, seen)
}

fn compacting() -> Builder {
    builder().0.compact(Compact::default())
}

/// R5: what a reader sees is the same, pair by pair in the store, and event by event in the journal, where the old ones have
/// their old positions and no position is used twice.
#[test]
fn compaction_keeps_every_pair_and_every_record_at_its_position() {
    let (disk, before) = used();
    let (stored, journaled) = (pairs(&disk), records(&disk));
    assert!(stored.len() > 40 && journaled.len() > 10, "{} pairs, {} records", stored.len(), journaled.len());
    let mut base = 0;
    for _ in 0..3 {
        let hub = compacting().open_in_memory(&disk).unwrap();
        let report = hub.open_report().clone();
        let done = report.compacted.unwrap();
        assert_eq!((report.rebuilt, done.records_dropped, done.subjects_erased), (None, 0, 0));
        assert_eq!(done.records_kept, records(&disk).len() as u64 + u64::from(report.boots) - 1);
        assert_eq!(done.journal_bytes_before, report.journal_base - base + 32);
        assert!(report.journal_base > base, "positions go on");
        base = report.journal_base;
        assert_eq!(pairs(&disk), stored);
        assert_eq!(records(&disk), journaled);
        hub.close().unwrap();
        assert_eq!(pairs(&disk), stored);
        let alone = builder().0.open_in_memory(&disk.without_store()).unwrap();
        assert_eq!(seen(&alone), before, "the journal alone is enough");
    }
    let hub = builder().0.open_in_memory(&disk).unwrap();
    assert_eq!(hub.open_report().boots, 5);
    assert_eq!(seen(&hub), before);
}

/// R5, I6: a crash at any step leaves the old journal or the new one, whole, and the next opening goes on from it, compacting
/// or not.
#[test]
fn crash_at_any_step_leaves_one_journal_whole() {
    let (whole, before) = used();
    let journaled = records(&whole);
    let mut steps = 0;
    loop {
        let disk = whole.after(Crash::Process);
        if stopped_at(steps + 1, || compacting().open_in_memory(&disk).map(drop)).is_some() {
            break;
        }
        steps += 1;
        for crash in [Crash::Process, Crash::Power] {
            let left = disk.after(crash);
            let again = left.after(Crash::Process);
            let hub = builder().0.open_in_memory(&left).unwrap();
            assert_eq!(left.fresh().size(), 0, "nothing is left beside the journal");
            assert_eq!(seen(&hub), before, "step {steps}, {crash:?}");
            assert_eq!(records(&left), journaled, "step {steps}, {crash:?}");
            hub.close().unwrap();
            let hub = compacting().open_in_memory(&again).unwrap();
            assert_eq!(seen(&hub), before, "step {steps}, {crash:?}, compacting");
            assert_eq!(records(&again), journaled, "step {steps}, {crash:?}, compacting");
        }
    }
    assert!(steps >= 9, "{steps} steps");
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() { copy_all(&path, &to) } else { assert!(fs::copy(path, to).is_ok()) }
    }
}

/// What stands in a directory.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// R5, R32: the same in a directory, which in the end holds the journal, the store and the secret, and no file from before.
#[test]
fn crash_at_any_step_in_a_directory_leaves_one_journal_whole() {
    let base = tempfile::tempdir().unwrap();
    let (whole, at) = (base.path().join("whole"), base.path().join("at"));
    let (builder_, clock) = builder();
    let hub = builder_.open(&whole).unwrap();
    session(&hub, &clock);
    let before = seen(&hub);
    hub.close().unwrap();
    copy_all(&whole.join("store"), &whole.join("store.damaged-1"));
    let mut steps = 0;
    loop {
        copy_all(&whole, &at);
        let opened = stopped_at(steps + 1, || compacting().open(&at).map(drop));
        let done = opened.is_some();
        steps += u32::from(!done);
        assert!(opened.is_none_or(|opened| opened.is_ok()));
        let mut device = MemoryDevice::holding(&fs::read(at.join("journal")).unwrap());
        let took_effect = JournalFile::header(&mut device).unwrap().unwrap().refounded;
        let hub = builder().0.open(&at).unwrap();
        assert_eq!(seen(&hub), before, "step {steps}");
        let compacted = hub.open_report().journal_base > 0;
        assert_eq!(compacted, took_effect, "step {steps}");
        hub.close().unwrap();
        let found = names(&at);
        assert_eq!(found.contains(&"store.damaged-1".to_owned()), !compacted, "step {steps}: {found:?}");
        let found: Vec<&String> = found.iter().filter(|name| *name != "store.damaged-1").collect();
        assert_eq!(found, ["journal", "secret", "store"], "step {steps}");
        fs::remove_dir_all(&at).unwrap();
        if done {
            break;
        }
    }
    assert!(steps >= 9, "{steps} steps");
}

/// R55, R111: a disk that is full, or fails to sync, while the new journal is written: an error by name, no bytes left behind,
/// and the hub opens as before.
#[test]
fn compaction_that_fails_leaves_the_old_journal() {
    type Arm = Box<dyn Fn(&MemoryDisk)>;
    let (whole, before) = used();
    let bytes = {
        let disk = whole.after(Crash::Process);
        let done = compacting().open_in_memory(&disk).unwrap().open_report().compacted.unwrap();
        usize::try_from(done.journal_bytes_after).unwrap()
    };
    let rooms =
        (0..bytes).step_by(29).map(|room| -> Arm { Box::new(move |disk| disk.fresh().fail_append_after(room)) });
    let syncs = (0..3).map(|syncs| -> Arm { Box::new(move |disk| disk.fresh().fail_sync_after(syncs)) });
    for (nth, arm) in rooms.chain(syncs).enumerate() {
        let disk = whole.after(Crash::Process);
        arm(&disk);
        let error = compacting().open_in_memory(&disk).unwrap_err();
        let OpenError::Compact(cause) = &error else { panic!("fault {nth}: {error}") };
        assert!(matches!(**cause, OpenError::Journal(JournalError::Io(_))), "fault {nth}: {error}");
        assert!(error.to_string().starts_with("compaction failed, the journal is as it was: "), "{error}");
        assert_eq!(disk.fresh().size(), 0, "fault {nth}: what was written is removed");
        let hub = builder().0.open_in_memory(&disk).unwrap();
        assert_eq!((hub.open_report().journal_base, hub.open_report().boots), (0, 2));
        assert_eq!(seen(&hub), before, "fault {nth}");
    }
}

/// I6: the n-th batch of the store that is made anew fails: the new journal stands, and the next opening makes the store.
#[test]
fn store_that_fails_while_it_is_made_anew_is_made_by_the_next_opening() {
    let (whole, before) = used();
    let mut failures = 0;
    for batch in 1..40 {
        let disk = whole.after(Crash::Process);
        disk.store().fail_apply_after(batch);
        let opened = compacting().open_in_memory(&disk);
        failures += u64::from(opened.is_err());
        assert!(opened.is_ok() || failures == batch, "batch {batch}: the first ones fail");
        drop(opened);
        disk.store().fail_apply_after(0);
        for crash in [Crash::Process, Crash::Power] {
            let hub = builder().0.open_in_memory(&disk.after(crash)).unwrap();
            assert!(hub.open_report().journal_base > 0);
            assert_eq!(seen(&hub), before, "batch {batch}, {crash:?}");
        }
    }
    assert!((5..30).contains(&failures), "{failures} batches: the store is made in several");
}

/// R107, I6: what a compacted journal was begun with was whole and synced when it got its name. Damage in it is never taken for a
/// torn tail, not even at the file's end; nor is an end within it.
#[test]
fn damage_in_what_a_journal_was_begun_with_is_refused_and_left_alone() {
    let (disk, _) = used();
    // Stopped when the new journal has its name and nothing came after it.
    let mut step = 1;
    let bytes = loop {
        let disk = disk.after(Crash::Process);
        assert!(stopped_at(step, || compacting().open_in_memory(&disk).map(drop)).is_none(), "there is such a step");
        if JournalFile::header(&mut disk.journal().copy(false)).unwrap().unwrap().refounded {
            break disk.journal().bytes();
        }
        step += 1;
    };
    // Of the seal itself nothing depends: it may be torn, as the last group of any journal.
    let begun = bytes.len() - 43;
    for at in (32..begun).step_by(7) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        for damaged in [flipped.as_slice(), &bytes[..at]] {
            let disk = MemoryDisk::from_journal(damaged);
            let error = builder().0.open_in_memory(&disk).unwrap_err();
            assert!(matches!(error, OpenError::Journal(JournalError::Corrupt { .. })), "{at}: {error}");
            assert_eq!(disk.journal().bytes(), damaged, "{at}");
        }
    }
    let hub = builder().0.open_in_memory(&MemoryDisk::from_journal(&bytes)).unwrap();
    assert_eq!(hub.open_report().cut, None);
}
