//! R32, R31: a deleted subject is gone from every file after a compaction, and everything else is as before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use commissary::{
    Ask, Builder, Compact, Hub, Lease, LeaseToken, ManualClock, Outcome, Policy, Registration, Reporter, Seat, Service,
    ServiceHandle, Subject, SubjectState, Verdict,
};
use serde::{Deserialize, Serialize};

/// What every trace of an erased subject holds: its key, its body, each report on it.
const TRACE: &[u8] = b"erase_";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Person {
    name: String,
    body: String,
}

impl Person {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), body: format!("the body of {name}") }
    }
}

impl Subject for Person {
    type Key = String;

    fn key(&self) -> String {
        self.name.clone()
    }
}

struct Letters;

impl Service for Letters {
    type Subject = Person;
    type Report = String;

    fn id(&self) -> &'static str {
        "letters"
    }

    fn policy(&self) -> Policy {
        Policy { max_depth: 1, ..Policy::default() }
    }

    fn judge(&self, _person: &Person, _report: &String, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }

    fn discover(&self, _person: &Person, report: &String, found: &mut Vec<Person>) {
        // Not named in the report itself, which is another subject's.
        found.extend(report.split_whitespace().filter_map(|word| word.strip_prefix("@")).map(|number| {
            let number: usize = number.parse().unwrap();
            Person::new(["erase_found", "keep_found", "erase_beyond"][number])
        }));
    }
}

/// A hub in a directory.
struct Office {
    hub: Hub,
    letters: ServiceHandle<Letters>,
    clock: ManualClock,
}

impl Office {
    fn open(home: &Path, clock: &ManualClock, builder: Builder) -> Self {
        let hub = builder.manual().clock(clock.clone()).seed(1).open(home).unwrap();
        let letters = hub.register(Letters).unwrap();
        hub.tick();
        Self { hub, letters, clock: clock.clone() }
    }

    fn pass(&self) {
        self.hub.tick();
        self.clock.advance(Duration::from_millis(101));
        self.hub.tick();
    }

    fn seat(&self, id: u64) -> Seat<Letters> {
        let client = self.hub.register_client(&Registration::new(id, "a")).unwrap().client;
        client.activate(&self.letters).unwrap()
    }

    fn add(&self, names: &[&str]) {
        assert_eq!(self.letters.add_all(names.iter().map(|name| Person::new(name))).unwrap().added, names.len() as u64);
        self.pass();
    }

    /// Claims everything that waits.
    fn claim(&self, seat: &Seat<Letters>) -> Vec<Lease<Letters>> {
        self.pass();
        seat.claim(Ask::buckets(10)).unwrap().leased().map(|grant| grant.into_iter().collect()).unwrap_or_default()
    }

    fn delete(&self, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let ticket = self.letters.delete(&names).unwrap();
        self.pass();
        assert_eq!(ticket.wait_visible().unwrap().added, names.len() as u64);
    }
}

/// Reports on subjects of a lease, all accepted.
fn report(lease: &Lease<Letters>, names: &[&str], text: &str) {
    let reports = names.iter().map(|name| ((*name).to_owned(), format!("{text} {name}")));
    assert_eq!(lease.report(reports).unwrap().accepted(), names.len());
}

fn holds<'l>(leases: &'l [Lease<Letters>], name: &str) -> &'l Lease<Letters> {
    leases.iter().find(|lease| lease.subjects().any(|person| person.name == name)).expect("it was leased")
}

/// Reports on everything else.
fn finish(leases: Vec<Lease<Letters>>, text: &str, but: &[&str]) {
    for lease in leases {
        let mut names: Vec<String> = lease.subjects().map(|person| person.name).collect();
        names.retain(|name| !but.contains(&name.as_str()));
        let reports = names.iter().map(|name| (name.clone(), format!("{text} {name}")));
        let outcomes = lease.submit(reports).unwrap().outcomes;
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Accepted), "{names:?}: {outcomes:?}");
    }
}

/// Deletes subjects in every state they can be in; returns the token of a lease that goes on with `keep_l*`.
fn session(office: &Office) -> LeaseToken {
    let (a, b) = (office.seat(1), office.seat(2));
    // Done; done twice; with contradicting reports; discovered; done and then added anew.
    office.add(&["keep_0", "keep_1", "erase_done", "erase_twice", "erase_conflict", "keep_2", "keep_3", "keep_4"]);
    let leases = office.claim(&a);
    let disputed = holds(&leases, "erase_conflict");
    report(disputed, &["erase_conflict"], "first of");
    let second = disputed.report([("erase_conflict".to_owned(), "second of erase_conflict".to_owned())]).unwrap();
    assert!(matches!(second.outcomes[..], [Outcome::Conflict]), "{:?}", second.outcomes);
    report(holds(&leases, "keep_0"), &["keep_0"], "reveals @0 @1 and so on,");
    finish(leases, "report on", &["erase_conflict", "keep_0"]);
    office.pass();
    assert_eq!(office.letters.rerun(&["erase_twice".to_owned(), "keep_1".to_owned()]).map(drop), Ok(()));
    let leases = office.claim(&a);
    // One that lies too deep to be worked on.
    report(holds(&leases, "keep_found"), &["keep_found"], "reveals @2 and this is on");
    finish(leases, "again on", &["keep_found"]);
    // Leased when it is deleted, and reported after that; the same, and added anew in between.
    office.add(&["erase_late", "again", "keep_5", "keep_6"]);
    let late = office.claim(&a);
    office.delete(&["erase_late", "again"]);
    office.add(&["again"]);
    report(holds(&late, "keep_5"), &["erase_late", "again"], "erase_ came late on");
    finish(late, "report on", &["erase_late", "again"]);
    // Leased and not reported; waiting.
    office.pass();
    finish(office.claim(&b), "report on", &[]);
    office.add(&["keep_l0", "keep_l1", "keep_l2", "erase_leased"]);
    let held = office.claim(&b);
    report(holds(&held, "keep_l0"), &["keep_l0"], "report on");
    office.add(&["erase_waits", "keep_w0", "keep_w1"]);
    office.delete(&["erase_done", "erase_twice", "erase_conflict", "erase_leased", "erase_waits", "erase_beyond"]);
    drop(office.hub.delete_everywhere(&"erase_found".to_owned()).unwrap());
    // Named once more when it is gone.
    let gone = ["erase_done".to_owned()];
    for ticket in [office.letters.rerun(&gone), office.letters.mark(&gone), office.letters.delete(&gone)] {
        office.pass();
        assert_eq!(ticket.unwrap().wait_visible().unwrap().duplicates, 1);
    }
    held.into_iter().next().unwrap().into_token()
}

/// What can be read.
#[derive(Debug, PartialEq)]
struct Seen {
    findings: BTreeMap<String, (String, u32, u64)>,
    states: Vec<SubjectState>,
    leases: BTreeMap<String, BTreeSet<String>>,
    counts: String,
}

fn seen(office: &Office) -> Seen {
    let (findings, _) = office.letters.results(None, usize::MAX).unwrap();
    let mut leases = BTreeMap::new();
    for id in [1, 2] {
        for view in office.seat(id).leases().unwrap() {
            let names = view.subjects.into_iter().map(|person| person.name);
            leases.insert(view.token.to_string(), names.collect());
        }
    }
    let state = |name: &str| office.letters.subject_state(&name.to_owned()).unwrap();
    let stats = office.letters.stats();
    let counts = (stats.subjects_known, stats.subjects_done, stats.duplicates, stats.discarded, stats.work);
    Seen {
        findings: findings
            .into_iter()
            .map(|finding| (finding.key, (finding.report, finding.version, finding.position)))
            .collect(),
        states: ["erase_done", "erase_found", "erase_late", "erase_waits", "again", "keep_w0"].map(state).to_vec(),
        leases,
        counts: format!("{counts:?}"),
    }
}

/// The files under a directory that hold a trace.
fn traces(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(traces(&path));
        } else if fs::read(&path).unwrap().windows(TRACE.len()).any(|window| window == TRACE) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// R32: deleted in whatever state, a subject's key, body and reports are in no file after a compaction; results, leases, counts
/// and what waits are as they were, and go on.
#[test]
fn no_file_holds_a_trace_of_a_deleted_subject_after_a_compaction() {
    let root = tempfile::tempdir().unwrap();
    let home = root.path().join("home");
    let clock = ManualClock::default();
    let office = Office::open(&home, &clock, Hub::builder());
    let token = session(&office);
    office.hub.close().unwrap();
    drop(office);
    let office = Office::open(&home, &clock, Hub::builder());
    let before = seen(&office);
    office.hub.close().unwrap();
    drop(office);
    assert!(traces(&home).len() >= 2, "journal and store hold traces until then: {:?}", traces(&home));

    let office = Office::open(&home, &clock, Hub::builder().compact(Compact::default()));
    let done = office.hub.open_report().compacted.unwrap();
    assert_eq!((done.subjects_erased, done.tombstones_dropped), (9, 0), "{done:?}");
    assert_eq!(traces(&home), Vec::<String>::new());
    assert_eq!(seen(&office), before);
    assert_eq!(before.findings.len(), 10, "{before:?}");

    // Work goes on: the lease, what waits, the subject that was added anew. Who holds what was deleted is not told.
    let seat = office.seat(2);
    let owed = ["keep_l1", "keep_l2", "erase_leased"].map(|name| (name.to_owned(), format!("report on {name}")));
    assert_eq!(seat.submit(&token, owed).unwrap().accepted(), 3);
    finish(office.claim(&seat), "new on", &[]);
    office.pass();
    let result = |name: &str| office.letters.result(&name.to_owned()).unwrap().map(|finding| finding.report);
    assert_eq!(result("keep_l2").as_deref(), Some("report on keep_l2"));
    assert_eq!(result("keep_w1").as_deref(), Some("new on keep_w1"));
    assert_eq!(result("again").as_deref(), before.findings.get("again").map(|found| found.0.as_str()));
    assert!(office.hub.stats().work.adds_up(), "{:?}", office.hub.stats().work);
    office.hub.close().unwrap();
    drop((office, seat));

    // A second compaction erases what came since, if anything did; the journal alone makes the same store.
    let office = Office::open(&home, &clock, Hub::builder().compact(Compact::default()));
    assert!(office.hub.open_report().compacted.unwrap().subjects_erased <= 1);
    assert_eq!(traces(&home), Vec::<String>::new());
    let after = seen(&office);
    office.hub.close().unwrap();
    drop(office);
    fs::remove_dir_all(home.join("store")).unwrap();
    assert_eq!(seen(&Office::open(&home, &clock, Hub::builder())), after);
}

/// R31, R32: a tombstone stays for as long as the compaction is told, by the wall clock, then goes.
#[test]
fn tombstones_go_when_they_are_old_enough() {
    let home = tempfile::tempdir().unwrap();
    let clock = ManualClock::default();
    let office = Office::open(home.path(), &clock, Hub::builder());
    office.add(&["erase_1", "keep"]);
    office.delete(&["erase_1"]);
    office.hub.close().unwrap();
    drop(office);
    let day = Duration::from_secs(24 * 60 * 60);
    let compact = |after: Duration| {
        clock.advance(after);
        let compact = Compact { keep_tombstones: 2 * day, ..Compact::default() };
        let office = Office::open(home.path(), &clock, Hub::builder().compact(compact));
        let done = office.hub.open_report().compacted.unwrap();
        assert_eq!(office.letters.stats().subjects_known, 1);
        office.hub.close().unwrap();
        (done.subjects_erased, done.tombstones_dropped)
    };
    assert_eq!(compact(day), (1, 0));
    assert_eq!(compact(day / 2), (0, 0));
    assert_eq!(compact(day / 2 + Duration::from_millis(1)), (0, 1));
    assert_eq!(compact(day), (0, 0));
    assert_eq!(traces(home.path()), Vec::<String>::new());
}
