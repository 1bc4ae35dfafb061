//! R55, I5 to I7: what was acknowledged is there after a crash, leases go on, the store can be made again from the journal,
//! and every kind of damage is told by name.

#[path = "support/directory.rs"]
mod directory;
#[path = "support/engine.rs"]
mod engine;
#[expect(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use commissary::{
    Builder, Crash, Durability, Finding, Hub, HubError, JournalError, LeaseError, LeaseToken, ManualClock, MemoryDisk,
    OpenError, Progress, Registration, Seat, ServiceHandle, SubjectState, Ticket,
};
use directory::copy;
use support::{Doubling, Rig, drain, keys, ms, one, policy, right, sorted};

/// Everything that a reader can see of the work, but for counts since the opening.
#[derive(Debug, PartialEq)]
struct Seen {
    findings: Vec<(u64, u64, u64, u32, u64)>,
    leases: BTreeMap<String, Vec<u64>>,
    work: commissary::Work,
    known: u64,
    done: u64,
    duplicates: u64,
    clients: Vec<(u64, String, bool)>,
}

fn seen(hub: &Hub, service: &ServiceHandle<Doubling>) -> Seen {
    let (findings, next) = service.results(None, usize::MAX).unwrap();
    assert_eq!(next, None);
    let as_row = |finding: Finding<Doubling>| {
        (finding.key, finding.report, finding.client.value(), finding.version, finding.position)
    };
    let stats = service.stats();
    let mut leases = BTreeMap::new();
    let mut clients = Vec::new();
    for id in 1..=9 {
        let Some(client) = hub.client(id) else { continue };
        clients.push((id, client.name().to_owned(), client.is_registered()));
        if !client.is_registered() || service.seat_stats(id).is_none() {
            continue;
        }
        let seat = client.activate(service).unwrap();
        for view in seat.leases().unwrap() {
            leases.insert(view.token.to_string(), sorted(view.subjects));
        }
    }
    Seen {
        findings: findings.into_iter().map(as_row).collect(),
        leases,
        work: stats.work,
        known: stats.subjects_known,
        done: stats.subjects_done,
        duplicates: stats.duplicates,
        clients,
    }
}

/// A session with some of everything: work added, done, done in part, held, given back; a client gone.
fn session(rig: &Rig) -> Vec<LeaseToken> {
    let (a, b, gone) = (rig.seat(1), rig.seat(2), rig.seat(3));
    rig.add(0..60);
    assert_eq!(rig.service.add_all([0, 1, 100]).unwrap().duplicates, 2);
    for _ in 0..3 {
        let lease = one(&a);
        assert_eq!(lease.submit(right(&keys(&lease))).unwrap().accepted(), 4);
    }
    let part = one(&b);
    assert_eq!(part.submit(right(&keys(&part)[..1])).unwrap().put_back, 3);
    let held = one(&b);
    assert_eq!(held.report(right(&keys(&held)[..2])).unwrap().accepted(), 2);
    drop(one(&a));
    let whole = one(&a);
    let _of_gone = one(&gone).into_token();
    drop(rig.hub.client(3).unwrap().deregister().unwrap());
    rig.hub.tick();
    rig.assert_adds_up();
    vec![held.into_token(), whole.into_token()]
}

/// I7: leases survive a restart under the same tokens, with exactly what is still owed; nobody else gets their subjects.
#[test]
fn leases_survive_a_restart_with_the_same_tokens() {
    for crash in [None, Some(Crash::Process), Some(Crash::Power)] {
        let rig = Rig::new(policy(|_| {}));
        let tokens = session(&rig);
        let before = seen(&rig.hub, &rig.service);
        assert_eq!((before.leases.len(), before.findings.len()), (2, 15));
        let disk = if let Some(crash) = crash {
            rig.disk.after(crash)
        } else {
            rig.hub.close().unwrap();
            rig.disk.clone()
        };
        let again = Rig::on(&disk, policy(|_| {}), 2);
        assert_eq!(again.hub.open_report().boots, 2);
        assert_eq!(seen(&again.hub, &again.service), before, "{crash:?}");
        let owed: Vec<u64> = before.leases.values().flatten().copied().collect();
        assert_eq!(owed.len(), 6);
        let third = again.seat(4);
        again.pass(200);
        let rest = drain(&again, &third);
        assert!(rest.iter().all(|key| !owed.contains(key)), "{crash:?}: nobody else gets what is leased");
        assert_eq!(rest.len() + owed.len() + 15, 61);
        let (a, b) = (again.seat(1), again.seat(2));
        b.renew(&tokens[0]).unwrap();
        assert_eq!(a.renew(&tokens[0]), Err(LeaseError::NotOwner));
        for (seat, token) in [(&b, tokens[0]), (&a, tokens[1])] {
            let view = seat.leases().unwrap().pop().unwrap();
            assert_eq!(view.token, token);
            assert_eq!(seat.submit(&token, right(&view.subjects)).unwrap().accepted(), view.subjects.len());
        }
        again.assert_adds_up();
        let stats = again.service.stats();
        assert_eq!((stats.subjects_known, stats.subjects_done), (61, 61));
    }
}

/// I7: a lease that was alive before a restart gets a full term after it, then dies like any other.
#[test]
fn lease_of_an_earlier_opening_dies_a_term_after_the_restart() {
    let short = || policy(|policy| (policy.lease, policy.grace) = (ms(8_000), ms(1_000)));
    let rig = Rig::new(short());
    let seat = rig.seat(1);
    rig.add(0..4);
    let token = one(&seat).into_token();
    rig.pass(7_999);
    let again = Rig::on(&rig.disk.after(Crash::Power), short(), 2);
    let (seat, third) = (again.seat(1), again.seat(2));
    let left = seat.leases().unwrap()[0].time_left;
    assert!((ms(8_000)..ms(9_000)).contains(&left), "{left:?}");
    again.clock.advance(left.checked_sub(ms(1)).unwrap());
    again.hub.tick();
    assert!(!seat.leases().unwrap()[0].dead);
    again.pass(1);
    assert!(seat.leases().unwrap()[0].dead);
    again.pass(1_000);
    assert_eq!(seat.renew(&token), Err(LeaseError::Over));
    again.pass(100);
    assert_eq!(drain(&again, &third), [0, 1, 2, 3]);
    again.assert_adds_up();
}

/// R55, I5, G6: after a crash at any moment every effect whose ticket was durable is there, and every one is whole; under
/// `Sync` a power cut takes no more than a killed process.
#[test]
fn every_durable_ticket_survives_a_crash_at_every_step() {
    let rig = Rig::new(policy(|policy| policy.linger = ms(1)));
    let seat = rig.seat(1);
    let mut durable: Vec<u64> = Vec::new();
    let mut reported: Vec<u64> = Vec::new();
    let mut next = 0_u64;
    let mut held: Vec<LeaseToken> = Vec::new();
    for step in 0..60_u64 {
        let mut pending: Vec<(Ticket, Vec<u64>, bool)> = Vec::new();
        let added = next;
        pending.push((rig.service.add(&added).unwrap(), vec![added], false));
        next += 1;
        // Two a step: for a bucket of four every other step.
        let ticket = rig.service.add(&next).unwrap();
        pending.push((ticket, vec![next], false));
        next += 1;
        if let Some(grant) = seat.claim(commissary::Ask::one()).unwrap().leased() {
            for lease in grant {
                let owed = keys(&lease);
                if step % 5 == 0 {
                    held.push(lease.into_token());
                } else {
                    pending.push((lease.submit(right(&owed)).unwrap().ticket, owed, true));
                }
            }
        }
        // The crash comes with the tickets still pending: nothing of them is promised, but what is there is whole.
        for crash in [Crash::Process, Crash::Power] {
            check(&rig.disk.after(crash), &durable, &reported, &held, false);
        }
        rig.pass(2);
        for (ticket, subjects, is_report) in pending {
            assert_eq!(ticket.progress(), Ok(Progress::Visible));
            if is_report { reported.extend(subjects) } else { durable.extend(subjects) }
        }
        for crash in [Crash::Process, Crash::Power] {
            check(&rig.disk.after(crash), &durable, &reported, &held, true);
        }
        check(&rig.disk.without_store(), &durable, &reported, &held, true);
    }
    assert_eq!((reported.len(), held.len()), (96, 5));
    rig.assert_adds_up();
}

/// Opens a disk as found after a crash: what must be there is, and if `exact`, nothing else.
fn check(disk: &MemoryDisk, known: &[u64], reported: &[u64], held: &[LeaseToken], exact: bool) {
    let rig = Rig::on(disk, policy(|policy| policy.linger = ms(1)), 3);
    let stats = rig.service.stats();
    let (findings, _) = rig.service.results(None, usize::MAX).unwrap();
    let mut found: Vec<u64> = findings.iter().map(|finding| finding.key).collect();
    assert!(findings.iter().all(|finding| finding.report == finding.key * 2));
    found = sorted(found);
    let expected = sorted(reported.to_vec());
    if exact {
        assert_eq!(found, expected);
        assert_eq!((stats.subjects_known, stats.subjects_done), (known.len() as u64, reported.len() as u64));
        let seat = rig.seat(1);
        let mut tokens: Vec<String> = seat.leases().unwrap().iter().map(|view| view.token.to_string()).collect();
        tokens.sort();
        let mut wanted: Vec<String> = held.iter().map(LeaseToken::to_string).collect();
        wanted.sort();
        assert_eq!(tokens, wanted);
    } else {
        assert!(expected.iter().all(|key| found.binary_search(key).is_ok()));
        for key in known {
            assert_ne!(rig.service.subject_state(key).unwrap(), SubjectState::Unknown);
        }
    }
    assert!(rig.hub.stats().work.adds_up());
}

/// R55: `Every` and `Os` resolve tickets before the sync: a killed process loses nothing, a power cut what was not synced,
/// and after the interval has passed that is nothing.
#[test]
fn weaker_durabilities_lose_what_they_say_and_no_more() {
    let every = Durability::Every(ms(1_000));
    for (durability, synced_later) in [(every, true), (Durability::Os, false), (Durability::Sync, true)] {
        let disk = MemoryDisk::new();
        let rig = Rig::with(Hub::builder().seed(1).durability(durability), &disk, policy(|_| {}));
        rig.pass(1_000);
        let ticket = rig.service.add(&7).unwrap();
        rig.hub.tick();
        ticket.wait_durable().unwrap();
        let after = |crash| Rig::on(&disk.after(crash), policy(|_| {}), 1).service.subject_state(&7).unwrap();
        assert_eq!(after(Crash::Process), SubjectState::Pending, "{durability:?}");
        let at_once = if durability == Durability::Sync { SubjectState::Pending } else { SubjectState::Unknown };
        if durability != every {
            assert_eq!(after(Crash::Power), at_once, "{durability:?}");
        }
        rig.pass(1_000);
        let later = if synced_later { SubjectState::Pending } else { SubjectState::Unknown };
        assert_eq!(after(Crash::Power), later, "{durability:?}");
        rig.hub.close().unwrap();
        assert_eq!(after(Crash::Power), SubjectState::Pending, "{durability:?}: closing syncs");
        assert!(rig.hub.stats().work.adds_up());
    }
}

/// R55: within the interval of `Every`, a power cut takes what came after the last sync, in whole and from the end.
#[test]
fn power_cut_under_every_takes_a_tail_and_nothing_else() {
    let disk = MemoryDisk::new();
    let builder = Hub::builder().seed(1).durability(Durability::Every(ms(1_000)));
    let rig = Rig::with(builder, &disk, policy(|_| {}));
    rig.pass(1_000);
    for n in 0..30 {
        drop(rig.service.add(&n).unwrap());
        rig.pass(100);
        let again = Rig::on(&disk.after(Crash::Power), policy(|_| {}), 1);
        let known = again.service.stats().subjects_known;
        assert!(known <= n + 1 && known + 10 > n, "{known} of {} after {} ms", n + 1, (n + 1) * 100);
        for key in 0..=n {
            let state = again.service.subject_state(&key).unwrap();
            assert_eq!(state == SubjectState::Pending, key < known, "subject {key} of {known}");
        }
    }
    rig.assert_adds_up();
}

/// I6: the store made from the journal alone is the store that was: results, positions, leases, counts and clients.
#[test]
fn store_made_from_the_journal_alone_is_the_store_that_was() {
    let rig = Rig::new(policy(|_| {}));
    session(&rig);
    let before = seen(&rig.hub, &rig.service);
    let rebuilt = Rig::on(&rig.disk.without_store(), policy(|_| {}), 2);
    assert_eq!(seen(&rebuilt.hub, &rebuilt.service), before);
    let report = rebuilt.hub.open_report();
    assert_eq!((report.store_position, report.boots), (0, 2));
    assert!(report.replayed > 10);
    rebuilt.assert_adds_up();
}

/// A hub in a directory, by hand, under a clock that stands still.
fn open(directory: &Path) -> Result<(Hub, ServiceHandle<Doubling>), OpenError> {
    open_with(Hub::builder().seed(1), directory)
}

fn open_with(builder: Builder, directory: &Path) -> Result<(Hub, ServiceHandle<Doubling>), OpenError> {
    let builder = builder.engine(engine::engine()).manual().clock(ManualClock::default());
    let hub = builder.cache_bytes(1 << 20).open(directory)?;
    let service = hub.register(Doubling(policy(|_| {}))).unwrap();
    hub.tick();
    Ok((hub, service))
}

fn seat_in(hub: &Hub, service: &ServiceHandle<Doubling>, id: u64) -> Seat<Doubling> {
    hub.register_client(&Registration::new(id, format!("c{id}"))).unwrap().client.activate(service).unwrap()
}

/// Twenty subjects, one bucket done, one held, on disk and closed. Returns what is to be seen and the held lease's token.
fn prepare(directory: &Path) -> (Seen, LeaseToken) {
    let (hub, service) = open(directory).unwrap();
    let seat = seat_in(&hub, &service, 1);
    assert_eq!(service.add_all(0..20).unwrap().added, 20);
    hub.tick();
    let done = one(&seat);
    assert_eq!(done.submit(right(&keys(&done))).unwrap().accepted(), 4);
    let token = one(&seat).into_token();
    hub.tick();
    let seen = seen(&hub, &service);
    assert_eq!((seen.known, seen.done, seen.leases.len()), (20, 4, 1));
    assert!(hub.stats().work.adds_up());
    hub.close().unwrap();
    (seen, token)
}

fn expect_seen(directory: &Path, expected: &Seen) -> Hub {
    let (hub, service) = open(directory).unwrap();
    assert_eq!(seen(&hub, &service), *expected);
    assert!(hub.stats().work.adds_up());
    hub
}

/// I5, I7 on disk: results, counts and leases are there after a restart, and after a crash that left the files as they were.
#[test]
fn directory_opens_again_with_everything_in_it() {
    let root = tempfile::tempdir().unwrap();
    let (home, crashed) = (root.path().join("home"), root.path().join("crashed"));
    let (expected, token) = prepare(&home);
    let hub = expect_seen(&home, &expected);
    assert_eq!((hub.open_report().boots, hub.open_report().cut, hub.open_report().replayed), (2, None, 0));
    assert!(!hub.open_report().secret_renewed);
    // As a killed process leaves it: the journal written, the store somewhere behind.
    copy(&home, &crashed);
    drop(hub);
    let (hub, service) = open(&crashed).unwrap();
    assert_eq!(seen(&hub, &service), expected);
    let seat = seat_in(&hub, &service, 1);
    let owed = seat.leases().unwrap().pop().unwrap();
    assert_eq!(owed.token, token);
    assert_eq!(seat.submit(&token, right(&owed.subjects)).unwrap().accepted(), 4);
    hub.tick();
    assert_eq!(service.stats().subjects_done, 8);
    assert!(hub.stats().work.adds_up());
}

/// I6: a journal that is gone under a healthy store is told, with the position up to which the store is right; who accepts
/// that goes on from there.
#[test]
fn missing_journal_is_told_and_can_be_accepted() {
    let root = tempfile::tempdir().unwrap();
    let (expected, token) = prepare(root.path());
    let end = fs::metadata(root.path().join("journal")).unwrap().len() - 32;
    fs::remove_file(root.path().join("journal")).unwrap();
    for _ in 0..2 {
        let error = open(root.path()).unwrap_err();
        assert!(matches!(error, OpenError::JournalMissing { store_position } if store_position == end), "{error}");
    }
    let (hub, service) = open_with(Hub::builder().accept_missing_journal(), root.path()).unwrap();
    assert_eq!((hub.open_report().journal_base, hub.open_report().store_position), (end, end));
    assert_eq!(seen(&hub, &service), expected);
    let seat = seat_in(&hub, &service, 1);
    let owed = seat.leases().unwrap().pop().unwrap();
    let submitted = seat.submit(&token, right(&owed.subjects)).unwrap();
    hub.tick();
    assert!(submitted.ticket.position().unwrap() > end, "positions go on, none is used twice");
    hub.close().unwrap();
    drop((hub, service, seat));
    let (hub, service) = open(root.path()).unwrap();
    assert_eq!(service.stats().subjects_done, 8);
    assert!(hub.stats().work.adds_up());
}

/// I6: a store that is gone is made again from the journal.
#[test]
fn missing_store_is_made_again_from_the_journal() {
    let root = tempfile::tempdir().unwrap();
    let (expected, _) = prepare(root.path());
    fs::remove_dir_all(root.path().join("store")).unwrap();
    let hub = expect_seen(root.path(), &expected);
    assert_eq!(hub.open_report().store_position, 0);
    assert!(hub.open_report().replayed > 5);
}

/// I6: a store that is older than the journal (a backup put back) catches up.
#[test]
fn older_store_catches_up_with_the_journal() {
    let root = tempfile::tempdir().unwrap();
    let (home, backup) = (root.path().join("home"), root.path().join("backup"));
    let (_, token) = prepare(&home);
    copy(&home.join("store"), &backup);
    let (hub, service) = open(&home).unwrap();
    let seat = seat_in(&hub, &service, 1);
    let owed = seat.leases().unwrap().pop().unwrap();
    assert_eq!(seat.submit(&token, right(&owed.subjects)).unwrap().accepted(), 4);
    assert_eq!(service.add_all(20..40).unwrap().added, 20);
    hub.tick();
    let expected = seen(&hub, &service);
    assert_eq!((expected.known, expected.done), (40, 8));
    hub.close().unwrap();
    drop((hub, service, seat));
    fs::remove_dir_all(home.join("store")).unwrap();
    fs::rename(&backup, home.join("store")).unwrap();
    let hub = expect_seen(&home, &expected);
    let report = hub.open_report();
    assert!(report.store_position > 0 && report.store_position < report.journal_end && report.replayed > 0);
    assert_eq!((report.rebuilt.as_ref(), report.damaged.as_ref()), (None, None));
}

/// I6: a store that cannot be opened is set aside and made again from the journal, and the report says so; so it is when
/// that is asked for.
#[test]
fn damaged_store_is_set_aside_and_made_again() {
    let root = tempfile::tempdir().unwrap();
    let (expected, _) = prepare(root.path());
    let store = root.path().join("store");
    for entry in fs::read_dir(&store).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let length = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
            fs::write(&path, vec![0xa5; length]).unwrap();
        }
    }
    let hub = expect_seen(root.path(), &expected);
    let report = hub.open_report().clone();
    let damaged = report.damaged.unwrap();
    assert!(report.rebuilt.is_some() && damaged.is_dir() && damaged != store, "{damaged:?}");
    drop(hub);
    let (hub, service) = open_with(Hub::builder().rebuild_store(), root.path()).unwrap();
    assert_eq!(seen(&hub, &service), expected);
    assert_eq!(hub.open_report().rebuilt.as_deref(), Some("asked for"));
    assert_ne!(hub.open_report().damaged.as_ref(), Some(&damaged), "an earlier one is not overwritten");
    assert!(damaged.is_dir() && hub.open_report().damaged.as_ref().unwrap().is_dir());
    drop((hub, service));
    let hub = expect_seen(root.path(), &expected);
    assert_eq!(hub.open_report().rebuilt, None);
}

/// I6: with the journal gone as well, a store is not thrown away for an empty hub: not when asked to rebuild it, and a
/// damaged one is told, with the place where it was put.
#[test]
fn store_that_nothing_can_replace_is_not_given_up_in_silence() {
    let root = tempfile::tempdir().unwrap();
    let (expected, _) = prepare(root.path());
    fs::remove_file(root.path().join("journal")).unwrap();
    let error = open_with(Hub::builder().rebuild_store(), root.path()).unwrap_err();
    assert!(matches!(error, OpenError::NotRebuildable { damaged: None }), "{error}");
    let error = open(root.path()).unwrap_err();
    assert!(matches!(error, OpenError::JournalMissing { .. }), "{error}");
    let (hub, service) = open_with(Hub::builder().accept_missing_journal(), root.path()).unwrap();
    assert_eq!(seen(&hub, &service), expected, "nothing was lost by asking");
    hub.close().unwrap();
    drop((hub, service));

    let store = root.path().join("store");
    for entry in fs::read_dir(&store).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let length = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
            fs::write(&path, vec![0xa5; length]).unwrap();
        }
    }
    let error = open(root.path()).unwrap_err();
    let OpenError::NotRebuildable { damaged: Some(damaged) } = error else { panic!("{error}") };
    assert!(damaged.is_dir() && damaged != store);
}

/// I6: a flipped bit anywhere in the journal is told, with its position; only one in the last group may be taken for a
/// torn tail, which is cut, and the report says so. Nothing is ever skipped silently.
#[test]
fn flipped_bit_in_the_journal_is_told_or_cut_at_the_end() {
    let root = tempfile::tempdir().unwrap();
    let home = root.path().join("home");
    let (expected, _) = prepare(&home);
    let journal = fs::read(home.join("journal")).unwrap();
    let secret = fs::read(home.join("secret")).unwrap();
    let end = journal.len() as u64 - 32;
    let (mut told, mut cut) = (0, 0);
    for at in (0..journal.len()).step_by(7) {
        // Without the store: with it, its position alone would prove that nothing can have been torn.
        let damaged = root.path().join(format!("flipped-{at}"));
        fs::create_dir_all(&damaged).unwrap();
        let mut bytes = journal.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(damaged.join("journal"), &bytes).unwrap();
        fs::write(damaged.join("secret"), &secret).unwrap();
        match open(&damaged) {
            Err(OpenError::Journal(JournalError::Corrupt { position, .. })) => {
                assert!(position <= (at as u64).saturating_sub(32), "byte {at}: told at {position}");
                told += 1;
            }
            Err(OpenError::Journal(JournalError::NotAJournal | JournalError::Version { .. })) if at < 32 => told += 1,
            Err(error) => panic!("byte {at}: {error}"),
            Ok((hub, _)) => {
                let tail = hub.open_report().cut.expect("a damaged journal does not open as if whole");
                assert_eq!(tail.position + tail.bytes, end, "byte {at}");
                assert!(tail.position <= at as u64 - 32, "byte {at}: cut from {}", tail.position);
                cut += 1;
            }
        }
        assert_eq!(bytes.len() as u64, end + 32);
        fs::remove_dir_all(&damaged).unwrap();
    }
    assert!(told > cut && cut > 0, "{told} told, {cut} cut");
    // With the store the last group is proven too: nothing is cut that was acknowledged.
    for at in (32..journal.len()).step_by(53) {
        let mut bytes = journal.clone();
        bytes[at] ^= 0x40;
        fs::write(home.join("journal"), &bytes).unwrap();
        let error = open(&home).unwrap_err();
        assert!(matches!(error, OpenError::Journal(JournalError::Corrupt { .. })), "byte {at}: {error}");
    }
    fs::write(home.join("journal"), &journal).unwrap();
    expect_seen(&home, &expected);
}

/// I6: a journal that lost its end is told, as long as the store remembers more of it, wherever it was cut.
#[test]
fn truncated_journal_is_told() {
    let root = tempfile::tempdir().unwrap();
    let (expected, _) = prepare(root.path());
    let path = root.path().join("journal");
    let journal = fs::read(&path).unwrap();
    let proven = journal.len() as u64 - 32;
    for length in (1..journal.len()).step_by(41).chain([journal.len() - 1]) {
        fs::write(&path, &journal[..length]).unwrap();
        let error = open(root.path()).unwrap_err();
        let told = match &error {
            OpenError::Journal(JournalError::Truncated { end, proven: p }) => *p == proven && *end < proven,
            OpenError::Journal(JournalError::Corrupt { position, .. }) => *position < proven,
            _ => false,
        };
        assert!(told, "{length} bytes: {error}");
        assert_eq!(fs::read(&path).unwrap(), journal[..length], "a journal that is refused is left as it was");
    }
    fs::write(&path, &journal).unwrap();
    expect_seen(root.path(), &expected);
}

/// R55: a journal cut at any byte, with no store to prove more, opens to a state that was: a prefix of the session.
#[test]
fn journal_torn_at_any_byte_opens_to_a_prefix_of_what_was() {
    let root = tempfile::tempdir().unwrap();
    let home = root.path().join("home");
    let torn = root.path().join("torn");
    let (expected, _) = prepare(&home);
    let journal = fs::read(home.join("journal")).unwrap();
    let mut last = (0, 0, 0);
    for length in (0..40).chain((40..journal.len()).step_by(17)).chain([journal.len()]) {
        fs::create_dir_all(&torn).unwrap();
        fs::write(torn.join("journal"), &journal[..length]).unwrap();
        let (hub, service) = open(&torn).unwrap_or_else(|error| panic!("{length} of {}: {error}", journal.len()));
        let seen = seen(&hub, &service);
        assert!(seen.work.adds_up(), "{length} bytes: {:?}", seen.work);
        let now = (seen.known, seen.work.buckets_assigned, seen.done);
        assert!(now.0 >= last.0 && now.1 >= last.1 && now.2 >= last.2, "{length} bytes: {now:?} after {last:?}");
        assert!([0, 20].contains(&now.0) && [0, 4].contains(&now.2), "{length} bytes: half of a change: {now:?}");
        last = now;
        drop((hub, service));
        fs::remove_dir_all(&torn).unwrap();
    }
    assert_eq!(last, (expected.known, expected.work.buckets_assigned, expected.done));
}

/// A file that is no journal is refused, and left alone.
#[test]
fn foreign_file_is_not_taken_for_a_journal() {
    let root = tempfile::tempdir().unwrap();
    let text = b"this is somebody's shopping list, and no journal at all".as_slice();
    fs::write(root.path().join("journal"), text).unwrap();
    let error = open(root.path()).unwrap_err();
    assert!(matches!(error, OpenError::Journal(JournalError::NotAJournal)), "{error}");
    assert_eq!(fs::read(root.path().join("journal")).unwrap(), text);
}

/// Without its secret a hub cannot prove its old tokens: they are void, the report says so, and the holders find their
/// leases, with new tokens, where they always do.
#[test]
fn missing_secret_voids_tokens_but_no_lease() {
    let root = tempfile::tempdir().unwrap();
    let (expected, token) = prepare(root.path());
    fs::remove_file(root.path().join("secret")).unwrap();
    let (hub, service) = open_with(Hub::builder().seed(2), root.path()).unwrap();
    assert!(hub.open_report().secret_renewed);
    let seat = seat_in(&hub, &service, 1);
    assert_eq!(seat.renew(&token), Err(LeaseError::NotOwner));
    let view = seat.leases().unwrap().pop().unwrap();
    assert_ne!(view.token, token);
    assert_eq!(vec![sorted(view.subjects.clone())], expected.leases.into_values().collect::<Vec<_>>());
    assert_eq!(seat.submit(&view.token, right(&view.subjects)).unwrap().accepted(), 4);
    hub.tick();
    assert!(hub.stats().work.adds_up());
    hub.close().unwrap();
    drop((hub, service, seat));
    let (hub, service) = open(root.path()).unwrap();
    assert!(!hub.open_report().secret_renewed, "the new secret was kept");
    assert_eq!(service.stats().subjects_done, 8);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(root.path().join("secret")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "the secret is its owner's alone");
    }
    drop(hub);
}

/// Names the directory that the child process is to try to open.
const CHILD: &str = "COMMISSARY_TEST_OPEN";

/// What the child process runs; does nothing by itself.
#[test]
fn child_opens_the_directory_it_is_given() {
    let Some(directory) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let told = match open(&directory) {
        Ok(_) => "opened",
        Err(OpenError::Locked { path }) if path == directory => "locked",
        Err(_) => "failed",
    };
    fs::write(directory.with_extension("told"), told).unwrap();
}

/// One hub to a directory: another in this process is refused, and one in another process, until the first is closed.
#[test]
fn directory_belongs_to_one_hub_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let home = root.path().join("home");
    let (expected, _) = prepare(&home);
    let ask_child = || {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_opens_the_directory_it_is_given"])
            .env(CHILD, &home)
            .output()
            .unwrap();
        assert!(status.status.success(), "{status:?}");
        fs::read_to_string(home.with_extension("told")).unwrap()
    };
    let hub = expect_seen(&home, &expected);
    let error = open(&home).unwrap_err();
    assert!(matches!(&error, OpenError::Locked { path } if *path == home), "{error}");
    assert_eq!(ask_child(), "locked");
    drop(hub);
    assert_eq!(ask_child(), "opened");
    expect_seen(&home, &expected);
}

/// A small file system in memory, unmounted when dropped; `None` if this user may not mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, kib: u32) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={kib}k");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_path_buf()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

/// A full disk gives typed errors and a poisoned hub that still reads; nothing acknowledged is lost, as opening a copy
/// with more room shows.
#[test]
fn full_disk_loses_nothing_that_was_acknowledged() {
    let root = tempfile::tempdir().unwrap();
    let (small, large) = (root.path().join("small"), root.path().join("large"));
    let Some(disk) = SmallDisk::mount(&small, 12_288) else {
        eprintln!("skipped: needs the right to mount a tmpfs");
        return;
    };
    let (hub, service) = open(&small).unwrap();
    let mut acknowledged = Vec::new();
    let mut refused = None;
    for n in 0..100_000_u64 {
        let batch = n * 500..(n + 1) * 500;
        match service.add_all(batch.clone()) {
            Ok(intake) => {
                assert_eq!(intake.added, 500);
                acknowledged.push(batch);
            }
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let refused = refused.expect("12 MiB are full some time");
    let poisoned = matches!(&refused, commissary::AddError::Hub { source: HubError::Poisoned { .. }, .. });
    assert!(poisoned, "{refused}");
    assert!(matches!(hub.health(), Err(HubError::Poisoned { .. })));
    assert!(service.add(&u64::MAX).is_err());
    assert!(!acknowledged.is_empty());
    assert_eq!(hub.stats().services.len(), 1, "reads go on");
    drop(hub.close());
    drop((hub, service));

    copy(&small, &large);
    drop(disk);
    let (hub, service) = open(&large).unwrap();
    for batch in &acknowledged {
        for key in [batch.start, batch.end - 1] {
            assert_eq!(service.subject_state(&key).unwrap(), SubjectState::Pending, "{key} was acknowledged");
        }
    }
    let known = service.stats().subjects_known;
    let promised = acknowledged.len() as u64 * 500;
    assert!(known == promised || known == promised + 500, "{known} known, {promised} acknowledged: half of a change");
    assert!(hub.stats().work.adds_up());
}

/// A hub that was not closed, but dropped: the same as closed.
#[test]
fn dropped_hub_is_a_closed_hub() {
    let disk = MemoryDisk::new();
    let rig = Rig::on(&disk, policy(|_| {}), 1);
    let ticket = rig.service.add(&1).unwrap();
    drop(rig);
    assert_eq!(ticket.progress(), Ok(Progress::Visible));
    let rig = Rig::on(&disk, policy(|_| {}), 1);
    assert_eq!(rig.service.subject_state(&1).unwrap(), SubjectState::Pending);
    rig.assert_adds_up();
}
