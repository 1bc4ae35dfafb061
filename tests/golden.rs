//! What this version wrote is committed under `tests/golden`, and every later one must open it: with everything in it, on its
//! own files and from the journal alone.
//!
//! A new format gets a directory of its own, `COMMISSARY_WRITE_GOLDEN=1 cargo test --test golden`; the old ones stay, and
//! are opened or refused by name.

mod common;
#[path = "support/directory.rs"]
mod directory;
#[path = "support/kitchen.rs"]
mod kitchen;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use commissary::messages::{Journal, Message};
use commissary::{
    Ask, Builder, Compact, Courier, Event, EventKind, FORMAT_VERSION, Hub, IdempotencyKey, JournalError, Lease,
    ManualClock, OpenError, Outbox, OutboxOptions, Projected, Projection, ProjectionOptions, Registration, Retry, Seat,
    Service, ServiceHandle, Step,
};

use common::Plain;
use directory::copy;
use kitchen::{Kitchen, Log, command};

/// 2026-01-01T00:00:00Z.
const BEGAN: i64 = 1_767_225_600_000;

fn home(version: u16) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{version}"))
}

struct Golden {
    hub: Hub,
    clock: ManualClock,
    plain: ServiceHandle<Plain>,
    lanes: ServiceHandle<Kitchen>,
}

impl Golden {
    fn open(directory: &Path, compact: Option<Compact>) -> Result<Self, OpenError> {
        let clock = ManualClock::default();
        clock.set_wall_ms(BEGAN);
        let builder = Hub::builder().manual().clock(clock.clone()).seed(1).cache_bytes(1 << 20);
        let builder = compact.into_iter().fold(builder, Builder::compact);
        let hub = builder.open(directory.join("hub"))?;
        let (plain, lanes) = (hub.register(Plain::new("plain")).unwrap(), hub.register(Kitchen::new()).unwrap());
        hub.tick();
        Ok(Self { hub, clock, plain, lanes })
    }

    fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.hub.tick();
    }

    fn seat<S: Service>(&self, service: &ServiceHandle<S>, id: u64) -> Seat<S> {
        let client = self.hub.register_client(&Registration::new(id, format!("client_{id}"))).unwrap().client;
        client.activate(service).unwrap()
    }

    fn next<S: Service>(&self, seat: &Seat<S>) -> Lease<S> {
        self.pass(Duration::from_secs(1));
        seat.claim(Ask::one()).unwrap().leased().expect("there is work").pop().unwrap()
    }

    /// Something of everything that is stored.
    fn work(&self) {
        assert_eq!(self.plain.add_all(0..60).unwrap().added, 60);
        let seats = [1, 2, 3].map(|id| self.seat(&self.plain, id));
        let say = |what: &'static str| move |user: u64| (user, format!("{what} {user}"));
        for seat in &seats {
            for _ in 0..3 {
                let lease = self.next(seat);
                let users: Vec<u64> = lease.subjects().collect();
                assert_eq!(lease.submit(users.into_iter().map(say("first"))).unwrap().accepted(), 4);
            }
        }
        // In part, the rest held still; given back; and a token that its holder kept.
        let part = self.next(&seats[0]);
        let one: Vec<u64> = part.subjects().take(1).collect();
        assert_eq!(part.report(one.iter().copied().map(say("part"))).unwrap().accepted(), 1);
        let part = part.into_token();
        self.next(&seats[1]).release();
        let kept = self.next(&seats[2]).into_token();
        assert_ne!(part, kept);
        self.pass(Duration::from_secs(1));
        // Worked on once more; deleted; withdrawn.
        drop(self.plain.rerun(&one).unwrap());
        self.pass(Duration::from_secs(1));
        drop(self.plain.prioritize(&one).unwrap().1);
        self.pass(Duration::from_secs(1));
        let again = self.next(&seats[1]);
        assert!(again.subjects().any(|user| user == one[0]));
        let users: Vec<u64> = again.subjects().collect();
        assert!(again.submit(users.into_iter().map(say("again"))).unwrap().accepted() > 0);
        self.pass(Duration::from_secs(1));
        let done: Vec<u64> = self.plain.results(None, 100).unwrap().0.iter().map(|finding| finding.key).collect();
        drop(self.plain.delete(&done[..2]).unwrap());
        self.pass(Duration::from_secs(1));
        drop(self.plain.suspend(3).unwrap());
        self.pass(Duration::from_secs(1));
        let withdrawn = self.plain.retract_all(3).unwrap();
        assert!(withdrawn.results > 0);
        drop(self.hub.client(2).unwrap().deregister().unwrap());
        // Lanes: some executed, one held, one waiting.
        assert_eq!(
            self.lanes.add_all((1..=3).flat_map(|lane| (1..=5).map(move |at| command(lane, at)))).unwrap().added,
            15
        );
        let cook = self.seat(&self.lanes, 4);
        for _ in 0..2 {
            let lease = self.next(&cook);
            let commands: Vec<u64> = lease.owed().collect();
            let log: Log = commands.clone();
            assert!(lease.submit_lane(commands.iter().map(|at| (*at, vec![])), &log).unwrap().accepted() > 0);
        }
        let held = self.next(&cook);
        let first = held.owed().next().unwrap();
        assert_eq!(held.report_lane([(first, vec![command(9, 1)])], &vec![first]).unwrap().accepted(), 1);
        assert_ne!(held.into_token(), kept);
        self.pass(Duration::from_secs(1));
        assert!(self.hub.stats().work.adds_up());
    }

    /// What a user can read, in words that do not depend on the version.
    fn seen(&self) -> String {
        let mut seen = String::new();
        let mut say = |line: String| writeln!(seen, "{line}").unwrap();
        for key in 0..60_u64 {
            let state = self.plain.subject_state(&key).unwrap();
            let finding = self.plain.result(&key).unwrap();
            let finding =
                finding.map(|found| format!("{:?} by {} as {}", found.report, found.client.value(), found.version));
            let history = self.plain.history(&key).unwrap();
            let versions: Vec<_> = history.iter().map(|version| (version.number, version.withdrawn)).collect();
            say(format!("{key}: {state:?} {finding:?} {versions:?}"));
        }
        for id in 1..=4_u64 {
            let client = self.hub.client(id).unwrap();
            let work = self.plain.seat_stats(id).map(|stats| stats.work);
            say(format!("client {id} {} {}: {work:?}", client.name(), client.is_registered()));
        }
        for (name, stats) in [("plain", self.plain.stats()), ("lanes", self.lanes.stats())] {
            let (known, done, state) = (stats.subjects_known, stats.subjects_done, stats.state);
            say(format!("{name}: {known} known, {done} done, {state:?}, {:?}", stats.work));
        }
        for view in self.seat(&self.plain, 1).leases().unwrap() {
            let mut subjects: Vec<u64> = view.subjects.clone();
            subjects.sort_unstable();
            say(format!("client 1 holds {} of {subjects:?}", view.token));
        }
        for lane in [1_u64, 2, 3, 9] {
            let status = self.lanes.lane(&lane.into()).unwrap().unwrap();
            say(format!(
                "lane {lane}: version {}, {} owed, {:?}",
                status.version,
                status.owed,
                status.state::<Log>().unwrap()
            ));
        }
        say(format!("{} withdrawals", self.plain.retractions().unwrap().len()));
        seen
    }
}

const SENT: [(u128, u64, &str); 4] = [(7, 1, "one"), (8, 1, "first"), (7, 2, ""), (7, 3, "three")];

fn messages(directory: &Path) -> Vec<(u128, u64, String)> {
    let log = Journal::open(directory.join("messages.log")).unwrap();
    let text = |message: Message| (message.client, message.seq, String::from_utf8(message.payload).unwrap());
    let found = log.read(log.first()).unwrap().map(|message| text(message.unwrap())).collect();
    log.close().unwrap();
    found
}

fn write(directory: &Path) {
    let golden = Golden::open(directory, None).unwrap();
    golden.work();
    fs::write(directory.join("seen.txt"), golden.seen()).unwrap();
    golden.hub.close().unwrap();
    let log = Journal::open(directory.join("messages.log")).unwrap();
    for (client, seq, payload) in SENT {
        log.append(client, seq, payload.as_bytes()).wait().unwrap();
    }
    log.close().unwrap();
}

/// Counts events.
struct Tally;

impl Projection for Tally {
    type State = u64;

    fn id(&self) -> &'static str {
        "tally"
    }

    fn fold(&self, events: &mut u64, _: &Event) {
        *events += 1;
    }
}

/// Calls on users, of whom two are never in.
struct Caller;

impl Courier for Caller {
    type Effect = u64;

    fn id(&self) -> &'static str {
        "caller"
    }

    fn effects(&self, event: &Event) -> Vec<(u64, u64)> {
        let EventKind::Added { subjects, .. } = &event.kind else { return Vec::new() };
        subjects.iter().filter_map(|subject| subject.key.read()).map(|user| (user, user)).collect()
    }

    fn order(&self, user: &u64) -> Vec<u8> {
        user.to_be_bytes().to_vec()
    }

    fn dispatch(&self, user: &u64, _: &IdempotencyKey) -> Result<(), Retry> {
        if [3, 7].contains(user) { Err(Retry::new("not in")) } else { Ok(()) }
    }
}

/// Readers of a hub's events, whose bookmarks are in its directory. No store is kept: it is made again.
struct Readers {
    hub: Hub,
    clock: ManualClock,
    tally: Projected<Tally>,
    caller: Outbox<Caller>,
}

impl Readers {
    fn open(directory: &Path) -> Self {
        let clock = ManualClock::default();
        clock.set_wall_ms(BEGAN);
        let hub = Hub::builder().manual().clock(clock.clone()).seed(1).cache_bytes(1 << 20);
        let hub = hub.open(directory.join("readers")).unwrap();
        let by_hand = ProjectionOptions { save_every: 0, save_on_drop: false, ..ProjectionOptions::default() };
        let tally = hub.project(Tally, by_hand).unwrap();
        let caller = hub.outbox(Caller, OutboxOptions { tries_max: 2, ..OutboxOptions::default() }).unwrap();
        Self { hub, clock, tally, caller }
    }

    /// One effect is set aside, and one waits for its second try.
    fn work(&mut self) {
        let plain = self.hub.register(Plain::new("plain")).unwrap();
        self.hub.tick();
        for users in [0..5, 5..9] {
            assert!(plain.add_all(users).unwrap().added >= 4);
            self.clock.advance(Duration::from_secs(2));
            self.hub.tick();
            while !matches!(self.caller.step().unwrap(), Step::Idle | Step::Waiting(_)) {}
        }
        self.tally.catch_up().unwrap();
        self.tally.save().unwrap();
        self.caller.save().unwrap();
    }

    /// What they kept. What waits is read again by the first step.
    fn seen(&mut self) -> String {
        assert!(matches!(self.caller.step().unwrap(), Step::Waiting(_)));
        let letters = self.caller.dead_letters().list();
        let letters: Vec<String> =
            letters.iter().map(|letter| format!("{:?} {}", letter.effect.clone().unwrap(), letter.tries)).collect();
        let (view, waiting) = (self.tally.view(), self.caller.waiting());
        format!("{} events before {}\n{letters:?} set aside, {waiting} waiting\n", view.state, view.position)
    }
}

fn write_readers(directory: &Path) {
    let mut readers = Readers::open(directory);
    readers.work();
    fs::write(directory.join("readers.txt"), readers.seen()).unwrap();
    let Readers { hub, tally, caller, .. } = readers;
    drop((tally, caller));
    hub.close().unwrap();
    drop(hub);
    fs::remove_dir_all(directory.join("readers/store")).unwrap();
}

/// R131, R132: a projection and an outbox go on from the bookmarks that this version wrote, with what they kept; a bookmark
/// of another format is refused by its number.
#[test]
fn bookmarks_that_this_version_wrote_are_read() {
    if std::env::var_os("COMMISSARY_WRITE_GOLDEN").is_some() {
        write_readers(&home(FORMAT_VERSION));
    }
    let expected = fs::read_to_string(home(FORMAT_VERSION).join("readers.txt")).unwrap();
    let root = tempfile::tempdir().unwrap();
    copy(&home(FORMAT_VERSION), root.path());
    let mut readers = Readers::open(root.path());
    assert_eq!(readers.seen(), expected);
    assert!(readers.tally.report().resumed_at > 0 && readers.caller.report().resumed_at > 0);
    drop(readers);

    let again = tempfile::tempdir().unwrap();
    write_readers(again.path());
    for name in ["readers.txt", "readers/journal", "readers/projections/tally", "readers/outboxes/caller"] {
        let read = |root: &Path| fs::read(root.join(name)).unwrap();
        assert!(read(again.path()) == read(&home(FORMAT_VERSION)), "{name}, byte for byte");
    }
    let bookmark = again.path().join("readers/outboxes/caller");
    let mut bytes = fs::read(&bookmark).unwrap();
    bytes[9] += 1;
    fs::write(&bookmark, &bytes).unwrap();
    let hub = Hub::builder().manual().seed(1).open(again.path().join("readers")).unwrap();
    let error = hub.outbox(Caller, OutboxOptions::default()).unwrap_err().to_string();
    assert!(error.contains("format version"), "{error}");
    assert!(fs::read(&bookmark).unwrap() == bytes);
}

/// Opened as it is, from the journal alone, and compacted: there is what there was.
#[test]
fn what_this_version_wrote_is_opened_with_everything_in_it() {
    if std::env::var_os("COMMISSARY_WRITE_GOLDEN").is_some() {
        fs::create_dir_all(home(FORMAT_VERSION)).unwrap();
        write(&home(FORMAT_VERSION));
    }
    let expected = fs::read_to_string(home(FORMAT_VERSION).join("seen.txt")).unwrap();
    let root = tempfile::tempdir().unwrap();
    for (name, compact) in [("as-it-is", None), ("journal-alone", None), ("compacted", Some(Compact::default()))] {
        let directory = root.path().join(name);
        copy(&home(FORMAT_VERSION), &directory);
        if name == "journal-alone" {
            fs::remove_dir_all(directory.join("hub/store")).unwrap();
        }
        let golden = Golden::open(&directory, compact).unwrap();
        assert_eq!(golden.seen(), expected, "{name}");
        assert!(golden.hub.stats().work.adds_up());
        golden.hub.close().unwrap();
        drop(golden);
        assert!(messages(&directory).into_iter().eq(SENT.map(|(client, seq, text)| (client, seq, text.to_owned()))));
    }
}

/// The directory is what this version writes: else it would be an old one's.
#[test]
fn this_version_still_writes_what_is_committed() {
    let root = tempfile::tempdir().unwrap();
    write(root.path());
    let text = |directory: &Path| fs::read_to_string(directory.join("seen.txt")).unwrap();
    assert_eq!(text(root.path()), text(&home(FORMAT_VERSION)));
    let read = |directory: &Path| fs::read(directory.join("hub/journal")).unwrap();
    assert!(read(root.path()) == read(&home(FORMAT_VERSION)), "the journal, byte for byte");
}

/// Makes a journal's or a log's header that of the next version; what the file holds then.
fn of_next_version(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    // Magic, version, flags, base, time, checksum: src/docs/format.md.
    bytes[8..10].copy_from_slice(&(FORMAT_VERSION + 1).to_be_bytes());
    let checksum = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&checksum.to_be_bytes());
    fs::write(path, &bytes).unwrap();
    bytes
}

/// A format of another version is refused by its number, and left as it was.
#[test]
fn a_format_of_another_version_is_refused_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    copy(&home(FORMAT_VERSION), root.path());
    let journal = root.path().join("hub/journal");
    let bytes = of_next_version(&journal);
    let error = Golden::open(root.path(), None).map(|_| ()).unwrap_err();
    let OpenError::Journal(error) = error else { panic!("{error}") };
    assert!(
        matches!(error, JournalError::Version { found, supported: FORMAT_VERSION, .. } if found == FORMAT_VERSION + 1),
        "{error}"
    );
    assert!(fs::read(&journal).unwrap() == bytes);
    let log = root.path().join("messages.log");
    let bytes = of_next_version(&log);
    let error = Journal::open(&log).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Journal(JournalError::Version { .. })), "{error}");
    assert!(fs::read(&log).unwrap() == bytes);
}
