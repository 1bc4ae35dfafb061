//! Stories with turns that are written into the journal by hand here: re-runs, deletions, retractions.

use crate::journal::{Group, GroupTime, JournalFile, Log, Outcome, Purpose};
use crate::record::{self, KeyRecord, Keys, Record, Restored, Urgent, VersionName, Withdrawn};
use crate::services::{FollowingCheck, UserList};
use crate::{
    Ask, Claim, EventKind, Explanation, Hub, KeyBytes, ManualClock, MemoryDisk, Registration, Seat, ServiceHandle,
};
use std::time::Duration;

/// A hub with one service and one client, opened again and again.
struct Shop {
    disk: MemoryDisk,
    clock: ManualClock,
    hub: Hub,
    service: ServiceHandle<FollowingCheck>,
    seat: Seat<FollowingCheck>,
}

impl Shop {
    fn open(disk: MemoryDisk, clock: ManualClock) -> Self {
        let hub = Hub::builder().manual().clock(clock.clone()).open_in_memory(&disk).unwrap();
        let service = hub.register(FollowingCheck::default()).unwrap();
        let client = hub.register_client(&Registration::new(1, "ann")).unwrap().client;
        let seat = client.activate(&service).unwrap();
        hub.tick();
        Self { disk, clock, hub, service, seat }
    }

    /// Closes, journals the records as one group, and opens again.
    fn with(self, records: &[Record<'_>]) -> Self {
        let Self { disk, clock, hub, service, seat } = self;
        hub.close().unwrap();
        drop((hub, service, seat));
        write_by_hand(&disk, records);
        Self::open(disk, clock)
    }

    /// Reports on everything there is.
    fn work(&self) {
        self.hub.tick();
        self.clock.advance(Duration::from_secs(1));
        self.hub.tick();
        while let Claim::Leased(grant) = self.seat.claim(Ask::one()).unwrap() {
            for lease in grant {
                let report = UserList { users: vec![], complete: true };
                drop(lease.submit(lease.subjects().map(|user| (user, report.clone()))).unwrap());
            }
            self.hub.tick();
        }
    }

    fn told(&self, user: u64) -> Vec<String> {
        let Explanation { steps, now, .. } = self.service.explain(&user).unwrap();
        let texts = steps.into_iter().map(|step| step.text).chain([now]);
        // Leases' buckets differ; restarts do not matter here.
        texts.map(|text| text.split(" in bucket").next().unwrap_or_default().to_owned()).collect()
    }
}

/// Journals the records as one group, while no hub has the disk open.
pub(crate) fn write_by_hand(disk: &MemoryDisk, records: &[Record<'_>]) {
    let device = Box::new(disk.journal().clone());
    let mut last = GroupTime { hub_ms: 0, wall_ms: 0 };
    let (mut journal, _) = JournalFile::open(device, Purpose::Hub, 0, 0, &mut |entry| {
        last = entry.time;
        Ok::<(), ()>(())
    })
    .unwrap();
    let mut group = Group::new();
    group.begin(last, 0);
    for record in records {
        group.push(record.kind(), 0, |out| record.append_to(out)).unwrap();
    }
    assert!(matches!(journal.append(&mut group), Outcome::Applied { .. }));
    journal.sync().unwrap();
}

pub(crate) fn keys(users: &[u64]) -> Vec<u8> {
    let mut list = Vec::new();
    for user in users {
        record::append(&mut list, &KeyRecord { key: &user.to_be_bytes() });
    }
    list
}

/// A list of the first version of a user's result.
fn first_version(user: u64) -> Vec<u8> {
    record::encode(&VersionName { key: &user.to_be_bytes(), number: 1 })
}

/// Retraction 9, of what client 1 reported, and its undoing.
fn retraction<'a>(versions: &'a [u8], subjects: &'a [u8]) -> [Record<'a>; 2] {
    let (service, id) = (1, 9);
    let withdrawn = Withdrawn { service, id, client: 1, from_ms: 0, to_ms: 1, versions, subjects, found: b"" };
    [Record::Withdrawn(withdrawn), Record::Restored(Restored { service, id, last: true, versions, subjects })]
}

#[test]
fn a_story_of_rounds_and_lives() {
    let shop = Shop::open(MemoryDisk::new(), ManualClock::default());
    shop.service.add_all([12, 34]).unwrap();
    shop.work();
    let list = keys(&[12]);
    let named = Keys { service: 1, keys: &list };
    let shop = shop.with(&[Record::Rerun(named.clone()), Record::Urgent(Urgent { service: 1, ranks: vec![2] })]);
    let told = shop.told(12);
    let first = ["added by hand as the 1st in the order of work", "leased to client 1 (ann)"];
    assert_eq!(told[..2], first);
    let second = [
        "reported by client 1 (ann): accepted, first result",
        "to be worked on once more, if it was done",
        "made urgent",
    ];
    assert_eq!(told[2..5], second);
    assert!(told[5].starts_with("waits"), "{told:?}");
    shop.work();
    let told = shop.told(12);
    assert_eq!(
        told[5..7],
        ["leased to client 1 (ann)", "reported by client 1 (ann): accepted, version 2 of its result"]
    );
    assert!(told[7].starts_with("done: version 2 of its result is client 1 (ann)'s"), "{told:?}");

    let shop = shop.with(&[Record::Deleted(named)]);
    let told = shop.told(12);
    assert_eq!(told[7..], ["deleted, with its results", "not known to the service"]);
    assert_eq!(told[..2], first, "it was taken in, though it is not known any more");
    shop.service.add_all([12]).unwrap();
    shop.work();
    let again = [
        "added by hand as the 4th in the order of work",
        "leased to client 1 (ann)",
        "reported by client 1 (ann): accepted, first result",
    ];
    assert_eq!(shop.told(12)[8..11], again, "its second life begins anew");
    assert_eq!(shop.told(34).len(), 4, "nothing of it concerned the other one");
}

#[test]
fn a_story_of_a_retraction_undone() {
    let shop = Shop::open(MemoryDisk::new(), ManualClock::default());
    shop.service.add_all([34]).unwrap();
    shop.work();
    let versions = first_version(34);
    let [withdrawn, restored] = retraction(&versions, b"");
    let shop = shop.with(&[withdrawn]);
    let told = shop.told(34);
    assert_eq!(told[3], "version 1 of its result, client 1 (ann)'s, withdrawn by retraction 9");
    assert!(shop.service.trace(&34).unwrap().is_none(), "it has no result now");
    let shop = shop.with(&[restored]);
    let told = shop.told(34);
    assert_eq!(told[4], "retraction 9 undone: its results hold again");
    assert!(told[5].starts_with("done: version 1 of its result"), "{told:?}");
    assert_eq!(shop.service.trace(&34).unwrap().unwrap().version, 1);
}

#[test]
fn decisions_on_subjects_are_events() {
    let shop = Shop::open(MemoryDisk::new(), ManualClock::default());
    shop.service.add_all([12]).unwrap();
    shop.work();
    let list = keys(&[12]);
    let named = Keys { service: 1, keys: &list };
    let versions = first_version(12);
    let [withdrawn, restored] = retraction(&versions, &list);
    let from = shop.hub.events(0).unwrap().last().unwrap().unwrap().next;
    let shop = shop.with(&[
        Record::Rerun(named.clone()),
        Record::Marked(named.clone()),
        withdrawn,
        restored,
        Record::Deleted(named),
    ]);
    let seen: Vec<EventKind> = shop.hub.events(from).unwrap().map(|event| event.unwrap().kind).take(5).collect();
    for (kind, named) in seen.iter().zip([1, 1, 2, 2, 1]) {
        assert_eq!(kind.service().map(|service| service.id.as_str()), Some(shop.service.id()));
        assert!(kind.keys().map(KeyBytes::read).eq(vec![Some(12_u64); named]), "{kind:?}");
    }
    assert!(matches!(seen[0], EventKind::Rerun { .. }) && matches!(seen[1], EventKind::Marked { .. }));
    assert!(matches!(&seen[2], EventKind::Withdrawn { retraction: 9, .. }) && seen[2].client().is_some());
    assert!(matches!(seen[3], EventKind::Restored { retraction: 9, .. }));
    assert!(matches!(seen[4], EventKind::Deleted { .. }));
}
