//! R55: a journal cut anywhere: whatever its end, what is left of it makes a whole hub.

#[path = "support/engine.rs"]
mod engine;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use commissary::{
    Ask, Hub, ManualClock, MemoryDisk, Outcome, Policy, Registration, Reporter, Service, ServiceHandle, Verdict,
};

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

/// The journal of a day on which everything that is journaled together came in one group.
fn journal() -> Vec<u8> {
    let base = tempfile::tempdir().unwrap();
    let hub = Hub::builder()
        .engine(engine::engine())
        .manual()
        .clock(ManualClock::default())
        .seed(5)
        .open(base.path())
        .unwrap();
    let service = hub.register(Probe).unwrap();
    service.add_all(1..=8).unwrap();
    hub.tick();
    // In one group: a client that is new, its lease, and its reports.
    for id in [1, 2] {
        let client = hub.register_client(&Registration::new(id, "worker")).unwrap().client;
        let seat = client.activate(&service).unwrap();
        let lease = seat.claim(Ask::one()).unwrap().leased().unwrap().pop().unwrap();
        let key = lease.subjects().next().unwrap();
        assert_eq!(lease.report([(key, key * 10)]).unwrap().accepted(), 1);
        if id == 1 {
            drop(lease);
        } else {
            let _ = lease.into_token();
        }
    }
    hub.tick();
    hub.close().unwrap();
    fs::read(base.path().join("journal")).unwrap()
}

fn open(disk: &MemoryDisk, clock: &ManualClock) -> (Hub, ServiceHandle<Probe>) {
    let hub = Hub::builder().manual().clock(clock.clone()).seed(5).open_in_memory(disk).unwrap();
    let service = hub.register(Probe).unwrap();
    hub.tick();
    (hub, service)
}

/// R49, R55, I1, I2, I6: however much of the last group a crash left, buckets are handed out whole or not at all, nobody
/// holds what another finished, and every count adds up.
#[test]
fn journal_cut_anywhere_leaves_no_half_of_anything() {
    let journal = journal();
    let mut opened = 0;
    for cut in 32..=journal.len() {
        let disk = MemoryDisk::from_journal(&journal[..cut]);
        let clock = ManualClock::default();
        let (hub, service) = open(&disk, &clock);
        opened += 1;
        assert!(hub.stats().work.adds_up(), "cut at {cut}: {:?}", hub.stats().work);
        // Another client finishes everything that is offered.
        clock.advance(Duration::from_secs(1));
        hub.tick();
        let other = hub.register_client(&Registration::new(9, "other")).unwrap().client.activate(&service).unwrap();
        let mut finished = BTreeSet::new();
        while let Some(grant) = other.claim(Ask::buckets(10)).unwrap().leased() {
            for lease in grant {
                let keys: Vec<u64> = lease.subjects().collect();
                let submitted = lease.submit(keys.iter().map(|key| (*key, 99))).unwrap();
                assert!(submitted.outcomes.iter().all(|outcome| *outcome == Outcome::Accepted));
                finished.extend(keys);
            }
            clock.advance(Duration::from_secs(1));
            hub.tick();
        }
        // The clients of before come back, and once more after another opening.
        for id in [1, 2] {
            drop(hub.register_client(&Registration::new(id, "worker")).unwrap());
        }
        hub.tick();
        drop((hub, service, other));
        let (hub, service) = open(&disk, &clock);
        for id in [1, 2] {
            let seat = hub.client(id).unwrap().activate(&service).unwrap();
            for view in seat.leases().unwrap() {
                for key in view.subjects {
                    assert!(!finished.contains(&key), "cut at {cut}: client {id} holds {key}, which another finished");
                }
            }
        }
        hub.tick();
        let stats = service.stats();
        assert!(stats.work.adds_up(), "cut at {cut}: {:?}", stats.work);
        assert_eq!(stats.work.subjects_reported, stats.subjects_done, "cut at {cut}: a subject counted twice, or not");
    }
    assert!(opened > 100);
}
