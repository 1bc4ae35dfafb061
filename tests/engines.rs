//! The engines of a store on disk: what each leaves behind, and going over from one to the other.

#[path = "support/directory.rs"]
mod directory;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use commissary::{
    Ask, Builder, Engine, Hub, ManualClock, OpenError, Policy, Registration, Reporter, Service, StoreError, Verdict,
};
use directory::copy;

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

/// Each engine, with the other one and the names by which errors call them.
const PAIRS: [(Engine, Engine, &str, &str); 2] =
    [(Engine::Sled, Engine::Redb, "sled", "redb"), (Engine::Redb, Engine::Sled, "redb", "sled")];

fn builder(engine: Engine) -> Builder {
    Hub::builder().engine(engine).manual().clock(ManualClock::default()).seed(5)
}

/// Adds 40 subjects from `first` on and reports on 20 subjects.
fn work(hub: &Hub, first: u64) {
    let service = hub.register(Probe).unwrap();
    service.add_all(first..first + 40).unwrap();
    let client = hub.register_client(&Registration::new(1, "worker")).unwrap().client;
    let seat = client.activate(&service).unwrap();
    hub.tick();
    for lease in seat.claim(Ask::buckets(5)).unwrap().leased().unwrap() {
        let reports: Vec<(u64, u64)> = lease.subjects().map(|key| (key, key * 10)).collect();
        assert_eq!(lease.submit(reports).unwrap().accepted(), 4);
    }
    hub.tick();
}

/// What was reported, after a check that it adds up.
fn results(hub: &Hub) -> BTreeMap<u64, u64> {
    let service = hub.register(Probe).unwrap();
    let (page, next) = service.results(None, 1_000).unwrap();
    assert!(next.is_none());
    let stats = service.stats();
    assert!(stats.work.adds_up(), "{stats:?}");
    assert_eq!(stats.subjects_done, page.len() as u64);
    page.into_iter().map(|finding| (finding.key, finding.report)).collect()
}

fn prepare(directory: &Path, engine: Engine) -> BTreeMap<u64, u64> {
    let hub = builder(engine).open(directory).unwrap();
    work(&hub, 1);
    let done = results(&hub);
    assert_eq!(done.len(), 20);
    hub.close().unwrap();
    done
}

/// I6: a store of the other engine is told, and is afterwards as it was.
#[test]
fn store_of_the_other_engine_is_refused_and_left_alone() {
    for (made, other, found, asked) in PAIRS {
        let home = tempfile::tempdir().unwrap();
        let before = prepare(home.path(), made);
        for _ in 0..2 {
            let error = builder(other).open(home.path()).unwrap_err();
            let OpenError::Store(StoreError::OtherEngine { found: told, asked: wanted }) = error else {
                panic!("{error}")
            };
            assert_eq!((told, wanted), (found, asked));
        }
        let hub = builder(made).open(home.path()).unwrap();
        assert_eq!((hub.open_report().rebuilt.as_ref(), hub.open_report().replayed), (None, 0));
        assert_eq!(results(&hub), before);
    }
}

/// I6: going over to the other engine is a rebuild that is asked for, once; nothing is lost, and work goes on.
#[test]
fn engine_is_changed_by_a_rebuild() {
    for (made, other, _, _) in PAIRS {
        let home = tempfile::tempdir().unwrap();
        let before = prepare(home.path(), made);
        let hub = builder(other).rebuild_store().open(home.path()).unwrap();
        let report = hub.open_report();
        assert_eq!(report.rebuilt.as_deref(), Some("asked for"));
        assert!(report.replayed > 0 && report.damaged.as_ref().is_some_and(|old| old.is_dir()), "{report:?}");
        assert_eq!(results(&hub), before);
        work(&hub, 41);
        let after = results(&hub);
        assert_eq!(after.len(), 40);
        hub.close().unwrap();
        drop(hub);
        let hub = builder(other).open(home.path()).unwrap();
        assert_eq!((hub.open_report().rebuilt.as_ref(), hub.open_report().replayed), (None, 0));
        assert_eq!(results(&hub), after);
    }
}

/// I6: what a rebuild could not replace is not given up for another engine either.
#[test]
fn store_without_its_journal_stays_with_its_engine() {
    for (made, other, _, _) in PAIRS {
        let home = tempfile::tempdir().unwrap();
        let before = prepare(home.path(), made);
        fs::remove_file(home.path().join("journal")).unwrap();
        let error = builder(other).rebuild_store().open(home.path()).unwrap_err();
        assert!(matches!(error, OpenError::NotRebuildable { damaged: None }), "{error}");
        let error = builder(other).accept_missing_journal().open(home.path()).unwrap_err();
        assert!(matches!(error, OpenError::Store(StoreError::OtherEngine { .. })), "{error}");
        let hub = builder(made).accept_missing_journal().open(home.path()).unwrap();
        assert_eq!(results(&hub), before);
    }
}

/// R28, I6: a killed process leaves redb's store at its last checkpoint: the rest is replayed, nothing is rebuilt, and whether the
/// machine was started anew since does not matter.
#[test]
fn redb_after_a_kill_is_believed_and_catches_up() {
    let base = tempfile::tempdir().unwrap();
    let (live, left) = (base.path().join("live"), base.path().join("left"));
    prepare(&live, Engine::Redb);
    let hub = builder(Engine::Redb).open(&live).unwrap();
    work(&hub, 41);
    let before = results(&hub);
    assert!(!live.join("store.unsynced").exists(), "it needs no marker");
    copy(&live, &left);
    drop(hub);
    let hub = builder(Engine::Redb).open(&left).unwrap();
    let report = hub.open_report();
    assert_eq!((report.rebuilt.as_ref(), report.damaged.as_ref()), (None, None));
    assert!(report.store_position > 0 && report.replayed > 0, "{report:?}");
    assert_eq!(before.len(), 40);
    assert_eq!(results(&hub), before);
}

/// I6: sled's store left by a machine that stopped, opened with redb and a rebuild: its marker goes with it.
#[test]
fn marker_of_sled_does_not_outlive_its_store() {
    let base = tempfile::tempdir().unwrap();
    let (live, left) = (base.path().join("live"), base.path().join("left"));
    let hub = builder(Engine::Sled).open(&live).unwrap();
    work(&hub, 1);
    copy(&live, &left);
    let before = results(&hub);
    fs::write(left.join("store.unsynced"), "another boot").unwrap();
    let hub = builder(Engine::Redb).open(&left).unwrap();
    assert!(hub.open_report().rebuilt.as_ref().is_some_and(|why| why.contains("not closed")), "{hub:?}");
    assert_eq!(results(&hub), before);
    assert!(!left.join("store.unsynced").exists());
    hub.close().unwrap();
    drop(hub);
    let hub = builder(Engine::Redb).open(&left).unwrap();
    assert_eq!(hub.open_report().rebuilt, None);
    assert_eq!(results(&hub), before);
}
