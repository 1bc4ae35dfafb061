//! R5, R32: compaction as its callers see it: what stays, what goes, what it costs, what it refuses.

#[path = "support/engine.rs"]
mod engine;
#[expect(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use chrono::DateTime;
use commissary::{
    Builder, Compact, Compacted, Crash, EventKind, Finding, Hub, JournalError, LeaseToken, ManualClock, MemoryDisk,
    OpenError, ReadError, Registration, Revoke, Seat, ServiceHandle, ServiceState,
};
use support::{Doubling, Rig, drain, keys, one, policy, right};

fn compacting() -> Builder {
    Hub::builder().seed(2).compact(Compact::default())
}

fn done(hub: &Hub) -> Compacted {
    hub.open_report().compacted.expect("the hub was compacted")
}

/// What can be read of a service's past.
#[derive(Debug, PartialEq)]
struct Past {
    findings: Vec<(u64, u64, u64, i64, u64)>,
    stats: String,
    seats: Vec<String>,
    clients: Vec<(u64, String, bool)>,
}

fn past(hub: &Hub, service: &ServiceHandle<Doubling>) -> Past {
    let (findings, _) = service.results(None, usize::MAX).unwrap();
    let row = |finding: Finding<Doubling>| {
        (finding.key, finding.report, finding.client.value(), finding.at.timestamp_millis(), finding.position)
    };
    let stats = service.stats();
    let counts = (stats.subjects_known, stats.subjects_done, stats.duplicates, stats.state, stats.work);
    let clients = (1..=3).filter_map(|id| hub.client(id));
    Past {
        findings: findings.into_iter().map(row).collect(),
        stats: format!("{counts:?}"),
        seats: (1..=3).map(|id| format!("{:?}", service.seat_stats(id).map(|seat| seat.work))).collect(),
        clients: clients
            .map(|client| (client.id().value(), client.name().to_owned(), client.is_registered()))
            .collect(),
    }
}

/// Work done by two clients, and some that one of them holds.
fn session(rig: &Rig) -> LeaseToken {
    let (a, b) = (rig.seat(1), rig.seat(2));
    rig.add(0..40);
    for seat in [&a, &b, &a] {
        let lease = one(seat);
        assert_eq!(lease.submit(right(&keys(&lease))).unwrap().accepted(), 4);
        rig.pass(500);
    }
    let held = one(&b);
    assert_eq!(held.report(right(&keys(&held)[..1])).unwrap().accepted(), 1);
    rig.pass(500);
    held.into_token()
}

/// R5: what a revoked service did reads the same after compaction and opening again, with its old positions; registering the
/// same id goes on with it, and it can be put to work again.
#[test]
fn revoked_service_reads_the_same_after_compaction_and_goes_on() {
    let rig = Rig::new(policy(|_| {}));
    session(&rig);
    drop(rig.service.revoke(Revoke::Immediate).unwrap());
    rig.pass(500);
    let before = past(&rig.hub, &rig.service);
    assert_eq!((before.findings.len(), rig.service.state()), (13, ServiceState::Revoked));
    rig.hub.close().unwrap();

    for boots in 2..4 {
        let again = Rig::with(compacting(), &rig.disk, policy(|_| {}));
        assert_eq!(again.hub.open_report().boots, boots);
        assert_eq!((again.service.state(), done(&again.hub).records_dropped), (ServiceState::Revoked, 0));
        assert_eq!(past(&again.hub, &again.service), before);
        again.hub.close().unwrap();
    }

    let last = Rig::with(Hub::builder().seed(3), &rig.disk, policy(|_| {}));
    assert_eq!(past(&last.hub, &last.service), before);
    drop(last.service.activate().unwrap());
    last.pass(500);
    let seat = last.seat(3);
    last.pass(500);
    assert_eq!(drain(&last, &seat).len(), 27, "what was done is not done again");
    assert_eq!(last.service.stats().subjects_done, 40);
    last.assert_adds_up();
}

/// R5, I7: leases that are held when a hub is compacted go on under their tokens, with what is still owed, and nobody else gets it.
#[test]
fn leases_go_on_through_a_compaction() {
    for crash in [Crash::Process, Crash::Power] {
        let rig = Rig::new(policy(|_| {}));
        let token = session(&rig);
        let again = Rig::with(compacting(), &rig.disk.after(crash), policy(|_| {}));
        let (holder, other) = (again.seat(2), again.seat(3));
        let owed = holder.leases().unwrap().pop().unwrap();
        assert_eq!((owed.token, owed.subjects.len()), (token, 3));
        holder.renew(&token).unwrap();
        again.pass(500);
        let rest = drain(&again, &other);
        assert_eq!(rest.len(), 24);
        assert!(rest.iter().all(|key| !owed.subjects.contains(key)));
        let submitted = holder.submit(&token, right(&owed.subjects)).unwrap();
        assert_eq!(submitted.accepted(), 3);
        again.hub.tick();
        assert!(submitted.ticket.position().unwrap() > again.hub.open_report().journal_base);
        assert_eq!(again.service.stats().subjects_done, 40);
        again.assert_adds_up();
    }
}

/// A hub that was never used has nothing to compact; one that was only opened has, twice as well.
#[test]
fn empty_hub_is_compacted() {
    let disk = MemoryDisk::new();
    for boots in 1..5 {
        let hub = compacting().manual().open_in_memory(&disk).unwrap();
        assert_eq!(hub.open_report().boots, boots);
        match hub.open_report().compacted {
            None => assert_eq!(boots, 1, "there was nothing"),
            Some(done) => assert_eq!((done.records_kept, done.records_dropped), (u64::from(boots) - 1, 0)),
        }
        hub.close().unwrap();
    }
}

/// Events that are too old go, and what they made stays.
#[test]
fn events_before_a_moment_are_dropped_and_their_effects_stay() {
    let start = DateTime::from_timestamp_millis(1_700_000_000_000).unwrap();
    let clock = ManualClock::default();
    clock.set_wall_ms(start.timestamp_millis());
    let open = |builder: Builder, disk: &MemoryDisk| {
        let hub = builder.manual().clock(clock.clone()).open_in_memory(disk).unwrap();
        let service = hub.register(Doubling(policy(|_| {}))).unwrap();
        hub.tick();
        (hub, service)
    };
    let disk = MemoryDisk::new();
    let (hub, service) = open(Hub::builder(), &disk);
    let known = |hub: &Hub, service: &ServiceHandle<Doubling>| {
        hub.tick();
        service.stats().subjects_known
    };
    service.add_all(0..1_000).unwrap();
    hub.tick();
    clock.advance(Duration::from_secs(3_600));
    service.add_all(1_000..1_010).unwrap();
    hub.tick();
    hub.close().unwrap();
    let since =
        |seconds| Compact { keep_events_since: Some(start + Duration::from_secs(seconds)), ..Compact::default() };
    let kept_all = disk.after(Crash::Process);
    let (hub, _) = open(Hub::builder().compact(since(0)), &kept_all);
    let all = done(&hub);
    assert_eq!(all.records_dropped, 0);
    let (hub, service) = open(Hub::builder().compact(since(3_600)), &disk);
    let some = done(&hub);
    assert_eq!(known(&hub, &service), 1_010);
    assert_eq!(some.records_kept + some.records_dropped, all.records_kept);
    assert_eq!(some.records_kept, 1, "the second list of subjects");
    assert!(some.journal_bytes_after + 3_000 < all.journal_bytes_after, "{some:?}, {all:?}");
    let (findings, _) = service.results(None, 10).unwrap();
    assert!(findings.is_empty());
}

fn open(builder: Builder, home: &Path) -> Result<(Hub, ServiceHandle<Doubling>), OpenError> {
    let hub = builder.engine(engine::engine()).manual().clock(ManualClock::default()).open(home)?;
    let service = hub.register(Doubling(policy(|_| {}))).unwrap();
    hub.tick();
    Ok((hub, service))
}

fn seat_in(hub: &Hub, service: &ServiceHandle<Doubling>, id: u64) -> Seat<Doubling> {
    let registered = hub.register_client(&Registration::new(id, format!("c{id}"))).unwrap();
    registered.client.activate(service).unwrap()
}

/// A directory with 100 subjects, 4 of them done, and what can be read of it.
fn prepare(home: &Path) -> Past {
    let (hub, service) = open(Hub::builder().seed(1), home).unwrap();
    service.add_all(0..100).unwrap();
    hub.tick();
    let lease = one(&seat_in(&hub, &service, 1));
    assert_eq!(lease.submit(right(&keys(&lease))).unwrap().accepted(), 4);
    hub.tick();
    let past = past(&hub, &service);
    hub.close().unwrap();
    past
}

/// I6: a journal whose beginning is missing is refused without its store, compacting or not; with its store, compacting makes
/// it whole again.
#[test]
fn journal_without_its_beginning_is_refused_and_made_whole_by_compacting() {
    let root = tempfile::tempdir().unwrap();
    let (home, store) = (root.path().join("home"), root.path().join("home/store"));
    let before = prepare(&home);
    fs::remove_file(home.join("journal")).unwrap();
    open(Hub::builder().accept_missing_journal(), &home).unwrap().0.close().unwrap();
    let aside = root.path().join("aside");
    fs::rename(&store, &aside).unwrap();
    for builder in [Hub::builder(), compacting()] {
        let error = open(builder, &home).unwrap_err();
        assert!(matches!(error, OpenError::Frame { .. }), "{error}");
        fs::remove_dir_all(&store).unwrap();
    }
    fs::rename(&aside, &store).unwrap();

    let (hub, service) = open(compacting(), &home).unwrap();
    assert_eq!(past(&hub, &service), before);
    hub.close().unwrap();
    drop((hub, service));
    fs::remove_dir_all(&store).unwrap();
    let (hub, service) = open(Hub::builder(), &home).unwrap();
    assert_eq!(past(&hub, &service), before, "the journal alone is enough now");
}

/// I6: a compacted journal that ends too early is refused, and left as it is.
#[test]
fn compacted_journal_cut_short_is_refused_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    prepare(root.path());
    let (hub, _) = open(compacting(), root.path()).unwrap();
    let begun = usize::try_from(done(&hub).journal_bytes_after).unwrap();
    hub.close().unwrap();
    let bytes = fs::read(root.path().join("journal")).unwrap();
    for len in [begun - 44, begun / 2, 40] {
        fs::write(root.path().join("journal"), &bytes[..len]).unwrap();
        fs::remove_dir_all(root.path().join("store")).unwrap();
        for builder in [Hub::builder(), compacting()] {
            let error = open(builder, root.path()).unwrap_err();
            assert!(matches!(error, OpenError::Journal(JournalError::Corrupt { .. })), "{len}: {error}");
        }
        assert_eq!(fs::read(root.path().join("journal")).unwrap(), &bytes[..len]);
    }
}

/// R55: a torn tail is cut first, and what is left is compacted.
#[test]
fn torn_tail_is_cut_and_the_rest_compacted() {
    let home = tempfile::tempdir().unwrap();
    let (hub, service) = open(Hub::builder().seed(1), home.path()).unwrap();
    service.add_all(0..40).unwrap();
    hub.tick();
    let end = fs::metadata(home.path().join("journal")).unwrap().len();
    hub.close().unwrap();
    drop((hub, service));
    let mut bytes = fs::read(home.path().join("journal")).unwrap();
    bytes.extend_from_slice(&[7; 100]);
    fs::write(home.path().join("journal"), &bytes).unwrap();
    let (hub, service) = open(compacting(), home.path()).unwrap();
    let report = hub.open_report();
    assert_eq!(report.cut.map(|cut| (cut.position, cut.bytes)), Some((end - 32, 100)));
    assert_eq!(done(&hub).journal_bytes_before, end, "without what was cut");
    assert_eq!(service.stats().subjects_known, 40);
}

/// I6: a store put back from before a compaction does not stand: it is made anew from the journal.
#[test]
fn store_from_before_a_compaction_is_made_anew() {
    let root = tempfile::tempdir().unwrap();
    let (home, backup) = (root.path().join("home"), root.path().join("backup"));
    let before = prepare(&home);
    fs::rename(home.join("store"), &backup).unwrap();
    for builder in [compacting(), compacting()] {
        open(builder, &home).unwrap().0.close().unwrap();
    }
    fs::remove_dir_all(home.join("store")).unwrap();
    fs::rename(&backup, home.join("store")).unwrap();
    let (hub, service) = open(Hub::builder(), &home).unwrap();
    assert_eq!(hub.open_report().rebuilt.as_deref(), Some("it is from before the journal was compacted"));
    assert_eq!(past(&hub, &service), before);
    hub.close().unwrap();
    let names = fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(
        !names.into_iter().any(|name| name.contains("damaged") || name.contains("old")),
        "it may hold what was erased"
    );
}

/// Every event from a position on, and where it stands; without the boots, which every opening adds.
fn events(hub: &Hub, from: u64) -> Vec<(u64, String)> {
    let events = hub.events(from).unwrap().map(Result::unwrap);
    let events = events.filter(|event| !matches!(event.kind, EventKind::Opened { .. }));
    events.map(|event| (event.position, format!("{:?} {:?} {}", event.kind, event.at, event.hub_ms))).collect()
}

/// R5: events keep their positions, in memory and in a directory, twice over; whoever read up to one of them goes on from
/// there, and a subject's story and trace are the same.
#[test]
fn events_are_read_at_their_old_positions_after_a_compaction() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::default();
    let open = |builder: Builder| {
        builder.engine(engine::engine()).manual().clock(clock.clone()).open(directory.path()).unwrap()
    };
    let hub = open(Hub::builder());
    let service = hub.register(Doubling(policy(|_| {}))).unwrap();
    let rig = Rig { service, hub, clock: clock.clone(), disk: MemoryDisk::new() };
    session(&rig);
    let before = events(&rig.hub, 0);
    let finding = rig.service.results(None, 1).unwrap().0.remove(0);
    let told = |service: &ServiceHandle<Doubling>| service.explain(&finding.key).unwrap().steps.len();
    let trace = rig.service.trace(&finding.key).unwrap();
    assert!(before.len() > 10 && trace.is_some());
    let steps = told(&rig.service);
    rig.hub.close().unwrap();
    drop(rig);
    for _ in 0..2 {
        let hub = open(compacting());
        let service = hub.register(Doubling(policy(|_| {}))).unwrap();
        assert_eq!(events(&hub, 0)[..before.len()], before);
        for (place, (position, _)) in before.iter().enumerate() {
            assert_eq!(events(&hub, *position)[..before.len() - place], before[place..]);
            let next = hub.events(*position).unwrap().next().unwrap().unwrap().next;
            assert!(events(&hub, next).iter().all(|(at, _)| at > position));
        }
        assert_eq!(service.trace(&finding.key).unwrap(), trace);
        assert!(told(&service) >= steps);
        service.add_all([900]).unwrap();
        let (last, _) = events(&hub, 0).pop().unwrap();
        assert!(hub.open_report().journal_base < last);
        assert_eq!(events(&hub, hub.open_report().journal_base).pop().unwrap().0, last);
        hub.close().unwrap();
    }
}

/// R5: who asks for events that were dropped for their age is told so, and where to go on.
#[test]
fn reader_of_events_that_are_too_old_is_told_where_they_begin() {
    let rig = Rig::new(policy(|_| {}));
    let (disk, clock) = (rig.disk.clone(), rig.clock.clone());
    session(&rig);
    let before = events(&rig.hub, 0);
    clock.advance(Duration::from_secs(60));
    rig.add(100..110);
    let later = events(&rig.hub, 0)[before.len()..].to_vec();
    let since = rig.hub.events(later[0].0).unwrap().next().unwrap().unwrap().at;
    rig.hub.close().unwrap();
    drop(rig);
    for _ in 0..2 {
        let builder = Hub::builder().compact(Compact { keep_events_since: Some(since), ..Compact::default() });
        let hub = builder.manual().clock(clock.clone()).open_in_memory(&disk).unwrap();
        let error = hub.events(0).unwrap_err();
        let ReadError::Lagged { resume_at } = error else { panic!("{error}") };
        assert!(before.last().unwrap().0 < resume_at && resume_at <= later[0].0);
        assert_eq!(events(&hub, resume_at)[..later.len()], later);
        let service = hub.register(Doubling(policy(|_| {}))).unwrap();
        assert!(!service.explain(&100).unwrap().steps.is_empty(), "the rest is told all the same");
        hub.close().unwrap();
    }
}
