//! Sessions with long reports: the store is written in batches of bounded size, and is never ahead of a journal that survives.

use std::collections::BTreeMap;

use commissary::{
    Ask, Builder, Crash, Durability, Hub, ManualClock, MemoryDisk, Policy, Registration, Reporter, Service, Verdict,
};

struct Essays;

const LENGTH: usize = 60_000;
const SUBJECTS: u64 = 1_200;

impl Service for Essays {
    type Subject = u64;
    type Report = String;

    fn id(&self) -> &'static str {
        "essays"
    }

    fn policy(&self) -> Policy {
        Policy { bucket_subjects: 20, ..Policy::default() }
    }

    fn judge(&self, _subject: &u64, _report: &String, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }
}

fn essay(key: u64) -> String {
    format!("{key:0LENGTH$}")
}

fn open(builder: Builder, disk: &MemoryDisk) -> Hub {
    builder.seed(1).manual().clock(ManualClock::default()).open_in_memory(disk).unwrap()
}

/// Reports on all subjects: more journal than lies between two checkpoints.
fn session(hub: &Hub) {
    let service = hub.register(Essays).unwrap();
    service.add_all(0..SUBJECTS).unwrap();
    let client = hub.register_client(&Registration::new(1, "writer")).unwrap().client;
    let seat = client.activate(&service).unwrap();
    hub.tick();
    for _ in 0..SUBJECTS / 20 {
        for lease in seat.claim(Ask::one()).unwrap().leased().unwrap() {
            let reports: Vec<_> = lease.subjects().map(|key| (key, essay(key))).collect();
            assert_eq!(lease.submit(reports).unwrap().accepted(), 20);
        }
        hub.tick();
    }
    assert!(hub.stats().storage.journal.bytes > 64 << 20);
}

fn results(hub: &Hub) -> BTreeMap<u64, String> {
    let service = hub.register(Essays).unwrap();
    service.results(None, usize::MAX).unwrap().0.into_iter().map(|finding| (finding.key, finding.report)).collect()
}

/// R55: before the store is made durable the journal is, so a power cut leaves no store that says more than its journal, and none that
/// must be rebuilt, whatever the durability.
#[test]
fn checkpointed_store_is_never_ahead_of_the_journal() {
    for durability in [Durability::Os, Durability::Sync] {
        let disk = MemoryDisk::new();
        let hub = open(Hub::builder().durability(durability), &disk);
        session(&hub);
        assert!(hub.stats().storage.applier.checkpoints > 0);
        let again = open(Hub::builder(), &disk.after(Crash::Power));
        let report = again.open_report();
        assert_eq!(report.rebuilt, None, "{durability:?}");
        assert!(report.store_position > 64 << 20, "{durability:?}: {report:?}");
        let found = results(&again);
        assert!(found.len() > 1_000, "{durability:?}: {}", found.len());
        assert!(found.iter().all(|(key, report)| *report == essay(*key)));
    }
}

/// I6: what is replayed is written in batches as bounded in bytes as when it was journaled: memory does not grow with the reports.
#[test]
fn long_reports_are_replayed_in_small_batches() {
    let disk = MemoryDisk::new();
    let hub = open(Hub::builder(), &disk);
    session(&hub);
    let again = open(Hub::builder(), &disk.without_store());
    let opening = again.stats().storage.opening;
    assert!(opening.bytes_written > 64 << 20, "{opening:?}");
    assert!(opening.bytes_written / opening.batches < 4 << 20, "{opening:?}");
    assert_eq!(results(&again).len() as u64, SUBJECTS);
}
