//! The n-th of all that a hub asks of its disk fails, for every n: in memory, and in a directory with each engine.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::*;
use crate::{Compact, Durability, Engine, Event, EventKind, Finding, Projection, ProjectionOptions};

/// A directory that a hub lives in.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) engine: Engine,
}

impl Home for Folder {
    fn open(&self, builder: Builder) -> Result<Hub, OpenError> {
        builder.engine(self.engine).cache_bytes(1 << 20).open(&self.path)
    }
}

impl Folder {
    /// A copy, as the end of the process would leave it.
    fn copy(&self, to: &Path) -> Self {
        copy_all(&self.path, to);
        Self { path: to.to_path_buf(), engine: self.engine }
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() { copy_all(&path, &to) } else { assert!(fs::copy(path, to).is_ok()) }
    }
}

/// The subjects that were ever added.
struct Known;

impl Projection for Known {
    type State = BTreeSet<u64>;

    fn id(&self) -> &'static str {
        "known"
    }

    fn fold(&self, known: &mut BTreeSet<u64>, event: &Event) {
        if let EventKind::Added { subjects, .. } = &event.kind {
            known.extend(subjects.iter().filter_map(|subject| subject.key.read::<u64>()));
        }
    }
}

/// Everything that is done to a disk, in four openings: the session; a second one while the journal is compacted; and two more, each
/// with a projection that is saved. It ends when the disk fails, as does who is told so.
fn whole_life(home: &impl Home, clock: &ManualClock, durability: Durability) -> Session {
    let mut all = Session::default();
    for opening in 0..4 {
        let mut builder = builder(clock).durability(durability);
        if opening % 2 == 1 {
            builder = builder.compact(Compact::default());
        }
        let Some(hub) = typed(home.open(builder)) else { break };
        let Some(service) = typed(hub.register(Doubling)) else { break };
        let session = if opening == 0 {
            Session::run(&hub, &service, clock)
        } else {
            Session::go_on(&hub, &service, clock, opening * 100)
        };
        count("of one opening", &session);
        all.tickets.extend(session.tickets);
        all.refused += session.refused;
        if let Some(mut known) = typed(hub.project(Known, ProjectionOptions::default())) {
            let _ = typed(known.catch_up()).and_then(|_| typed(known.save()));
        }
        let _ = typed(hub.close());
        if FAULTS.get().struck {
            break;
        }
    }
    all
}

/// A life on a disk that fails so.
fn life(home: &impl Home, fault: Option<Fault>, durability: Durability) -> (Session, Faults) {
    with_fault(fault, || whole_life(home, &ManualClock::default(), durability))
}

/// A life in a home that `make` makes.
fn life_in<H: Home>(make: impl Fn() -> H) -> impl Fn(Option<Fault>) -> ((H, Session), Faults) {
    move |fault| {
        let home = make();
        let (session, faults) = life(&home, fault, Durability::Sync);
        assert!(fault.is_some() || (session.tickets.len() > 40 && session.refused == 0));
        ((home, session), faults)
    }
}

fn acknowledged(session: &Session) -> usize {
    session.tickets.iter().filter(|(ticket, _)| ticket.wait_durable().is_ok()).count()
}

/// Everything there is to be seen of a hub.
fn seen(hub: &Hub, service: &ServiceHandle<Doubling>) -> String {
    let mut all = Vec::new();
    hub.export_json(&mut all).unwrap();
    let (findings, _) = service.results(None, usize::MAX).unwrap();
    let row = |finding: &Finding<Doubling>| {
        (finding.key, finding.report, finding.client, finding.version, finding.since, finding.position)
    };
    let findings: Vec<_> = findings.iter().map(row).collect();
    format!("{}{findings:?}{:?}", String::from_utf8(all).unwrap(), service.stats().work)
}

/// Opens it. With the store that stands there, or is made by opening, the hub is as it is made from the journal alone; so is the
/// projection. Then goes on as `recovered`.
fn is_whole(what: &str, home: &impl Home, journal: &[u8], session: &Session) {
    let (alone, of_alone, _) = open(&MemoryDisk::from_journal(journal));
    let (hub, service, clock) = open(home);
    assert_eq!(seen(&hub, &service), seen(&alone, &of_alone), "{what}: the store is out of step");
    let mut known = hub.project(Known, ProjectionOptions::default()).unwrap();
    known.catch_up().unwrap();
    assert_eq!(known.view().state.len() as u64, service.stats().subjects_known, "{what}");
    drop(known);
    goes_on(what, (hub, service, clock), session, false);
}

/// R55, R111: the n-th of all that is asked of the disk fails, whatever it is and whenever it comes, in the session, while the hub is
/// opened or closed, and while its journal is compacted; once, and from then on. What was acknowledged is there, whole, after a power
/// cut, too, and the rest can be finished. `COMMISSARY_FAULT_EVERY` sets which n are taken: 1 are all (without it, some of each kind).
#[test]
fn the_nth_call_that_fails_loses_nothing_acknowledged() {
    sweep(
        "memory",
        4,
        &[Call::Truncate, Call::Open, Call::ApplyPart, Call::Checkpointed],
        life_in(MemoryDisk::new),
        |what, (disk, session)| {
            for crash in [Crash::Power, Crash::Process] {
                let found = disk.after(crash);
                is_whole(&format!("{what}, {crash:?}"), &found, &found.journal().bytes(), &session);
            }
            recovered(&format!("{what}, without the store"), &disk.without_store(), &session, false);
            acknowledged(&session)
        },
    );
}

/// The same in a directory, where names and engines fail, too. No power is cut there (see `tests/crash.rs`), so it may be in memory,
/// where a sync takes no time.
fn sweep_directory(engine: Engine, without: &[Call]) {
    let base = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let made = Cell::new(0);
    let fresh = || {
        made.set(made.get() + 1);
        base.path().join(made.get().to_string())
    };
    let make = || {
        let above = fresh();
        fs::create_dir(&above).unwrap();
        Folder { path: above.join("hub"), engine }
    };
    sweep(&format!("{engine:?}"), 2, without, life_in(make), |what, (folder, session)| {
        // Not even its directory may be there.
        fs::create_dir_all(&folder.path).unwrap();
        let journal = fs::read(folder.path.join("journal")).unwrap_or_default();
        let alone = folder.copy(&fresh());
        let _ = fs::remove_dir_all(alone.path.join("store"));
        recovered(&format!("{what}, without the store"), &alone, &session, false);
        is_whole(what, &folder, &journal, &session);
        for done in [&alone.path, &folder.path] {
            fs::remove_dir_all(done).unwrap();
        }
        acknowledged(&session)
    });
}

/// R55, R111.
#[test]
fn the_nth_call_that_fails_in_a_directory_loses_nothing_acknowledged() {
    sweep_directory(Engine::Sled, &[Call::Truncate]);
}

/// R55, R111.
#[cfg(feature = "redb")]
#[test]
fn the_nth_call_that_fails_in_a_directory_with_redb_loses_nothing_acknowledged() {
    sweep_directory(Engine::Redb, &[Call::Truncate, Call::ApplyPart, Call::Checkpointed]);
}

/// The same without syncs loses what was acknowledged, and the harness sees it.
#[test]
fn without_syncs_the_nth_call_that_fails_is_seen_to_lose() {
    let disk = MemoryDisk::new();
    let (session, faults) = life(&disk, Some(Fault { call: Call::Apply, nth: 10, lasting: true }), Durability::Os);
    assert!(faults.struck && session.tickets.iter().any(|(ticket, _)| ticket.wait_durable().is_ok()));
    recovered("a killed process", &disk.after(Crash::Process), &session, false);
    let lost = catch_unwind(AssertUnwindSafe(|| recovered("a power cut", &disk.after(Crash::Power), &session, false)));
    let words = lost.expect_err("something is lost").downcast::<String>().unwrap();
    assert!(words.contains("was durable"), "{words}");
}
