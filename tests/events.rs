//! What happened, read back from the journal while it is written.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use commissary::{
    Ask, Cause, Claim, Durability, Event, EventKind, Hub, KeyBytes, MemoryDisk, Outcome, ReadError, Registration,
    Revoke, SeatState, ServiceState,
};
use common::{Plain, Shop, claim, claim_one, report_all};

fn events(hub: &Hub, from: u64) -> Vec<Event> {
    hub.events(from).expect("a position").map(|event| event.expect("the journal is whole")).collect()
}

fn kinds(hub: &Hub, from: u64) -> Vec<EventKind> {
    events(hub, from).into_iter().map(|event| event.kind).collect()
}

fn end(hub: &Hub) -> u64 {
    events(hub, 0).last().expect("a hub that was opened").next
}

/// R18: every transition of a small day is one event, in order, with all that is needed to understand it.
#[test]
fn every_transition_is_an_event_that_explains_itself() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", |policy| policy.bucket_subjects = 2)).unwrap();
    let alice = shop.client(4);
    let seat = alice.activate(&service).unwrap();
    shop.stock(&service, 3);
    let lease = claim_one(&seat);
    let first = lease.subjects().next().unwrap();
    let token = lease.into_token();
    let _ = seat.report(&token, [(first, "one".to_owned())]).unwrap();
    let again = seat.report(&token, [(first, "other".to_owned())]).unwrap();
    assert_eq!(again.outcomes, [Outcome::Conflict]);
    seat.release(&token).unwrap();
    drop(alice.deregister().unwrap());
    drop(service.revoke(Revoke::Drain).unwrap());
    shop.tick();

    let seen = kinds(&shop.hub, 0);
    let names: Vec<String> =
        seen.iter().map(|kind| format!("{kind:?}").split(' ').next().unwrap().to_owned()).collect();
    let expected = [
        "Opened",
        "ServiceChanged",
        "ClientRegistered",
        "SeatChanged",
        "Added",
        "Leased",
        "Reported",
        "Conflict",
        "ClientDeregistered",
        "ServiceChanged",
        "PutBack",
    ];
    assert_eq!(names, expected);
    for kind in &seen {
        assert!(kind.service().is_none_or(|service| service.id == "plain" && service.number == 1), "{kind:?}");
        assert!(kind.client().is_none_or(|client| client.value() == 4), "{kind:?}");
    }
    let EventKind::Leased { bucket, ranks, .. } = &seen[5] else { panic!("{:?}", seen[5]) };
    assert_eq!(ranks.len(), 2);
    let EventKind::Reported { bucket: of, reports, .. } = &seen[6] else { panic!("{:?}", seen[6]) };
    assert_eq!((of, reports.len()), (bucket, 1));
    assert_eq!(reports[0].key.read::<u64>(), Some(first));
    assert_eq!(reports[0].read::<Plain>().as_deref(), Some("one"));
    assert!(ranks.contains(&reports[0].rank));
    let EventKind::Conflict { reports: others, .. } = &seen[7] else { panic!("{:?}", seen[7]) };
    assert_eq!(others[0].read::<Plain>().as_deref(), Some("other"));
    let EventKind::PutBack { bucket: of, cause, ranks: left, .. } = &seen[10] else { panic!("{:?}", seen[10]) };
    assert_eq!((of, *cause, left.len()), (bucket, Cause::Client, 1));
    assert!(!left.contains(&reports[0].rank) && ranks.contains(&left[0]));
    assert!(matches!(seen[9], EventKind::ServiceChanged { state: ServiceState::Draining, .. }));
}

/// R134: a reader that asks nobody but the events arrives at the hub's own counts.
#[test]
fn counts_made_from_events_alone_are_the_hubs() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", |policy| policy.bucket_subjects = 3)).unwrap();
    let seats = shop.seats(&service, 3);
    shop.stock(&service, 50);
    let slow = claim(&seats[2], 2);
    for seat in &seats[..2] {
        for lease in claim(seat, 4) {
            if lease.subjects().any(|user| user % 5 == 0) { drop(lease) } else { report_all(&lease) }
        }
    }
    let _tokens: Vec<_> = slow.into_iter().map(commissary::Lease::into_token).collect();
    shop.tick();
    shop.pass(Duration::from_secs(3 * 3_600));
    shop.pass(Duration::from_secs(3_600));

    let (mut added, mut done) = (BTreeSet::new(), BTreeMap::new());
    let (mut assigned, mut put_back, mut expired) = (0, 0, 0);
    for event in events(&shop.hub, 0) {
        match event.kind {
            EventKind::Added { subjects, .. } => added.extend(subjects.into_iter().map(|subject| subject.key)),
            EventKind::Leased { ranks, .. } => assigned += ranks.len() as u64,
            EventKind::Reported { reports, client, .. } => {
                done.extend(reports.into_iter().map(|report| (report.key, client)));
            }
            EventKind::PutBack { ranks, cause, .. } => {
                put_back += ranks.len() as u64;
                expired += u64::from(cause == Cause::Expired);
            }
            _ => {}
        }
    }
    let stats = service.stats();
    assert_eq!((added.len() as u64, done.len() as u64), (stats.subjects_known, stats.subjects_done));
    let work = stats.work;
    assert_eq!((assigned, put_back, expired), (work.subjects_assigned, work.subjects_put_back, work.buckets_expired));
    assert!(expired == 2 && put_back > 6, "{work:?}");
    for (key, client) in done {
        assert_eq!(service.result(&key.read().unwrap()).unwrap().unwrap().client, client);
    }
}

/// R127: a walk ends at the end of its moment; the next one goes on where it ended; each reader has its own place.
#[test]
fn readers_go_on_where_they_ended() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    shop.tick();
    let mut walk = shop.hub.events(0).unwrap();
    let first = walk.next().unwrap().unwrap();
    drop(service.add(&1).unwrap());
    shop.tick();
    let rest: Vec<Event> = walk.by_ref().map(Result::unwrap).collect();
    assert!(rest.iter().all(|event| !matches!(event.kind, EventKind::Added { .. })), "what came later is not in it");
    drop(service.add(&2).unwrap());
    shop.tick();
    assert!(walk.next().is_none(), "a walk that ended stays so");
    let later = events(&shop.hub, rest.last().unwrap().next);
    let keys: Vec<u64> = later.iter().flat_map(|event| event.kind.keys()).filter_map(KeyBytes::read).collect();
    assert_eq!(keys, [1, 2]);
    // From any event on, the rest is the same.
    let all = events(&shop.hub, 0);
    assert_eq!(all[0], first);
    for (at, event) in all.iter().enumerate() {
        assert_eq!(events(&shop.hub, event.position), all[at..]);
        assert_eq!(events(&shop.hub, event.next), all[at + 1..]);
    }
}

/// R127: a position that is none is refused with what is wrong, and nothing is skipped silently.
#[test]
fn positions_that_are_none_are_refused() {
    let shop = Shop::open();
    shop.tick();
    let end = end(&shop.hub);
    let beyond = shop.hub.events(end + 1).unwrap_err();
    assert!(
        matches!(beyond, ReadError::BeyondEnd { end: at, position } if at == end && position == end + 1),
        "{beyond}"
    );
    let between = shop.hub.events(7).unwrap_err();
    assert!(matches!(between, ReadError::NotAPosition { position: 7 }), "{between}");
    assert_eq!(events(&shop.hub, end), []);
}

/// R127: whoever fell behind what the journal still holds is told where it begins, never given less in silence.
#[test]
fn a_reader_that_fell_behind_is_told_where_to_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Hub::builder().manual().accept_missing_journal().open(directory.path()).unwrap();
    let hub = open();
    let service = hub.register(Plain::new("plain")).unwrap();
    service.add_all(1..=10).unwrap();
    hub.close().unwrap();
    drop((hub, service));
    std::fs::remove_file(directory.path().join("journal")).unwrap();
    let hub = open();
    let base = hub.open_report().journal_base;
    let lagged = hub.events(0).unwrap_err();
    assert!(matches!(lagged, ReadError::Lagged { resume_at } if resume_at == base && base > 0), "{lagged}");
    assert!(matches!(kinds(&hub, base)[..], [EventKind::Opened { boot: 2 }]));
}

/// R18: a ticket's position, and a result's, lead to their event, in a file as in memory; after a restart too.
#[test]
fn tickets_and_results_point_to_their_events() {
    let directory = tempfile::tempdir().unwrap();
    let hub = Hub::builder().manual().open(directory.path()).unwrap();
    let service = hub.register(Plain::new("plain")).unwrap();
    let seat = hub.register_client(&Registration::new(1, "a")).unwrap().client.activate(&service).unwrap();
    let ticket = service.add(&8).unwrap();
    hub.tick();
    while !seat.wait_ready(Duration::ZERO) {
        hub.tick();
    }
    let Claim::Leased(mut grant) = seat.claim(Ask::one()).unwrap() else { panic!("one is ready") };
    let lease = grant.pop().unwrap();
    report_all(&lease);
    hub.tick();
    let added = hub.events(ticket.position().unwrap()).unwrap().next().unwrap().unwrap();
    assert!(matches!(added.kind, EventKind::Added { .. }), "{added:?}");
    let position = service.result(&8).unwrap().unwrap().position;
    let reported = hub.events(position).unwrap().next().unwrap().unwrap();
    assert!(matches!(&reported.kind, EventKind::Reported { reports, .. } if reports[0].key.read() == Some(8_u64)));
    // A walk outlives its hub, and keeps nobody from opening the directory.
    let walk = hub.events(0).unwrap();
    hub.close().unwrap();
    drop((lease, seat, service, hub));
    let hub = Hub::builder().manual().open(directory.path()).unwrap();
    assert_eq!(hub.events(position).unwrap().next().unwrap().unwrap(), reported);
    let before: Vec<Event> = walk.map(Result::unwrap).collect();
    assert_eq!(events(&hub, 0)[..before.len()], before);
}

/// R5: a service that no plugin was registered for since the restart is still named.
#[test]
fn services_without_a_plugin_are_still_named() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("retired")).unwrap();
    service.add_all(1..=3).unwrap();
    shop.tick();
    let from = events(&shop.hub, 0).into_iter().find(|event| matches!(event.kind, EventKind::Added { .. })).unwrap();
    drop(service);
    let shop = shop.restart();
    let seen = kinds(&shop.hub, from.position);
    assert_eq!(seen[0].service().unwrap().id, "retired");
    assert!(matches!(seen.last(), Some(EventKind::Opened { boot: 2 })));
}

/// R18: events can be written as JSON.
#[test]
fn events_serialize() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    shop.seat(&service, 1);
    drop(service.add(&258).unwrap());
    shop.tick();
    let json: Vec<serde_json::Value> =
        events(&shop.hub, 0).iter().map(|event| serde_json::to_value(event).unwrap()).collect();
    let added = json.iter().find_map(|event| event["kind"].get("added")).unwrap();
    assert_eq!(added["subjects"][0]["key"], "0000000000000102");
    assert_eq!(added["service"]["id"], "plain");
    assert!(json.iter().any(|event| event["kind"]["seat_changed"]["client"] == 1));
    let seats = events(&shop.hub, 0);
    assert!(seats.iter().any(|event| matches!(event.kind, EventKind::SeatChanged { state: SeatState::Active, .. })));
}

/// R127: readers that follow a hub at work, in a file, see every event once and in order; nobody waits for them.
#[test]
fn readers_follow_a_hub_at_work() {
    const TOTAL: u64 = 400;
    for durability in [Durability::Sync, Durability::Os] {
        let directory = tempfile::tempdir().unwrap();
        let hub = Hub::builder().durability(durability).open(directory.path()).unwrap();
        let service = hub.register(Plain::new("plain")).unwrap();
        let mut seen = BTreeSet::new();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut next, mut keys, mut walks) = (0, Vec::new(), 0_u64);
                while keys.len() < usize::try_from(TOTAL).unwrap() {
                    walks += 1;
                    for event in hub.events(next).unwrap() {
                        let event = event.unwrap();
                        assert!(event.position >= next && event.next > event.position);
                        next = event.next;
                        keys.extend(event.kind.keys().map(|key| key.read::<u64>().unwrap()));
                    }
                    std::thread::yield_now();
                }
                (keys, walks)
            });
            for user in 1..=TOTAL {
                drop(service.add(&user).unwrap());
            }
            let (keys, walks) = reader.join().unwrap();
            assert!(keys.iter().copied().eq(1..=TOTAL), "in order, each once, in {walks} walks");
            seen.extend(keys);
        });
        assert_eq!(seen.len() as u64, TOTAL);
    }
}

/// R18: an undone change is never shown: under `Durability::Sync` only what is synced is read.
#[test]
fn what_a_power_cut_undoes_was_not_read() {
    let disk = MemoryDisk::new();
    let hub = Hub::builder().manual().durability(Durability::Os).open_in_memory(&disk).unwrap();
    let service = hub.register(Plain::new("plain")).unwrap();
    drop(service.add(&1).unwrap());
    hub.tick();
    let written = kinds(&hub, 0).len();
    let shop = Shop::on(
        disk.after(commissary::Crash::Power),
        commissary::ManualClock::default(),
        commissary::Limits::default(),
    );
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let before = kinds(&shop.hub, 0).len();
    assert!(before < written, "the cut lost what was written and not synced");
    let ticket = service.add(&1).unwrap();
    assert_eq!(kinds(&shop.hub, 0).len(), before, "nothing is written yet");
    shop.tick();
    assert!(ticket.position().is_some());
    let durable = kinds(&shop.hub, 0);
    let after = shop.after(commissary::Crash::Power);
    assert_eq!(kinds(&after.hub, 0)[..durable.len()], durable, "all that was read survives");
}
