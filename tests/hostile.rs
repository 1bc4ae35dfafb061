//! Plugins, clocks and operators that do what they should not: others go on, and what was acknowledged stays.

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use commissary::{
    AddError, Ask, Clock, Hub, HubError, KeysError, LaneKey, LeaseError, ManualClock, OpenError, Outcome, Policy,
    ReadError, Registration, Reporter, Seat, Service, ServiceHandle, SubjectState, Verdict,
};

use common::{Plain, Shop, claim_one, exact, report_all};

/// A service whose judge waits, on the subject 1, until it is let go on; says before that it is there.
struct Blocking {
    came: Sender<()>,
    go: Mutex<Receiver<()>>,
}

impl Service for Blocking {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        "blocking"
    }

    fn policy(&self) -> Policy {
        Policy { bucket_subjects: 1, linger: Duration::ZERO, ..exact() }
    }

    fn judge(&self, subject: &u64, _: &u64, _: Reporter) -> Verdict {
        if *subject == 1 {
            self.came.send(()).expect("the test waits");
            self.go.lock().expect("no judge panics").recv().expect("the test lets it go on");
        }
        Verdict::Accept
    }
}

fn seat_of<S: Service>(hub: &Hub, service: &ServiceHandle<S>, id: u64) -> Seat<S> {
    let client = hub.register_client(&Registration::new(id, format!("c{id}"))).expect("the details are right").client;
    client.activate(service).expect("the service is ready")
}

/// I3: a plugin that blocks holds up the call that it blocks, and no other: of its own service, of another one, of the
/// caretakers. When it goes on, its call ends as if nothing had been.
#[test]
fn a_plugin_that_blocks_holds_up_its_caller_alone() {
    let (came, arrived) = channel();
    let (release, go) = channel();
    let hub = Hub::builder().seed(1).open_in_memory(&commissary::MemoryDisk::new()).unwrap();
    let blocking = hub.register(Blocking { came, go: Mutex::new(go) }).unwrap();
    let beside = hub.register(Plain::with("beside", |policy| policy.linger = Duration::ZERO)).unwrap();
    assert_eq!(blocking.add_all(1..=3).unwrap().added, 3);
    assert_eq!(beside.add_all(1..=4).unwrap().added, 4);
    let seats = [1, 2].map(|id| seat_of(&hub, &blocking, id));
    let other = seat_of(&hub, &beside, 1);
    let mut leases = Vec::new();
    while leases.len() < 3 {
        assert!(seats[0].wait_ready(Duration::from_secs(60)));
        leases.extend(seats[0].claim(Ask::one()).unwrap().leased().into_iter().flatten());
    }
    let stuck = leases.iter().position(|lease| lease.subjects().eq([1])).expect("it was claimed");
    let stuck = leases.swap_remove(stuck);
    std::thread::scope(|scope| {
        let stuck = scope.spawn(move || stuck.submit([(1, 10)]).unwrap());
        arrived.recv().unwrap();
        for lease in leases {
            let reports: Vec<_> = lease.subjects().map(|subject| (subject, subject * 10)).collect();
            let submitted = lease.submit(reports).unwrap();
            assert_eq!((submitted.accepted(), submitted.ticket.wait_visible().unwrap().added), (1, 0));
        }
        assert!(other.wait_ready(Duration::from_secs(60)));
        let lease = other.claim(Ask::one()).unwrap().leased().unwrap().pop().unwrap();
        report_all(&lease);
        // What comes now is taken in, formed into pools and handed out.
        assert_eq!(blocking.add_all([4]).unwrap().added, 1);
        assert!(seats[1].wait_ready(Duration::from_secs(60)));
        assert!(seats[1].claim(Ask::one()).unwrap().leased().is_some());
        assert_eq!(blocking.stats().subjects_done, 2);
        release.send(()).unwrap();
        let submitted = stuck.join().unwrap();
        assert_eq!(submitted.outcomes, [Outcome::Accepted]);
        submitted.ticket.wait_visible().unwrap();
    });
    assert_eq!(blocking.result(&1).unwrap().unwrap().report, 10);
    assert!(hub.stats().work.adds_up());
    hub.close().unwrap();
}

/// What a plugin may get at when it is called.
#[derive(Default)]
struct Reach {
    hub: OnceLock<Hub>,
    service: OnceLock<ServiceHandle<Inward>>,
    seat: OnceLock<Seat<Inward>>,
    /// Accepted from inside.
    inside: Mutex<Vec<u64>>,
}

/// A service whose judge uses the hub it is called from, on the subjects below 100.
struct Inward(Arc<Reach>);

impl Service for Inward {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        "inward"
    }

    fn policy(&self) -> Policy {
        Policy { bucket_subjects: 1, linger: Duration::ZERO, ..exact() }
    }

    fn judge(&self, subject: &u64, _: &u64, _: Reporter) -> Verdict {
        let Reach { hub, service, seat, inside } = &*self.0;
        let (hub, service, seat) = (hub.get().unwrap(), service.get().unwrap(), seat.get().unwrap());
        if *subject < 100 {
            drop(service.add(&(subject + 100)).unwrap());
            assert!(service.result(subject).unwrap().is_none() && service.stats().work.adds_up());
            assert!(hub.register_client(&Registration::new(subject + 1_000, "inside")).unwrap().client.is_registered());
            assert!(hub.register(Plain::new("made-inside")).unwrap().state().is_ready());
            while let Some(grant) = seat.claim(Ask::one()).unwrap().leased() {
                for lease in grant {
                    let key = lease.subjects().next().unwrap();
                    lease.renew().unwrap();
                    if key >= 100 {
                        assert_eq!(lease.submit([(key, key)]).unwrap().accepted(), 1);
                        inside.lock().unwrap().push(key);
                    } else {
                        let token = lease.into_token();
                        assert_eq!(seat.release(&token), Ok(1));
                        return Verdict::Accept;
                    }
                }
            }
        }
        Verdict::Accept
    }
}

/// A plugin may use the hub that calls it: no call deadlocks, and each has the effect that it has from outside.
#[test]
fn a_plugin_that_calls_the_hub_from_inside_is_answered() {
    let shop = Shop::open();
    let reach = Arc::new(Reach::default());
    let service = shop.hub.register(Inward(Arc::clone(&reach))).unwrap();
    let (seat, inner) = (shop.seat(&service, 1), shop.seat(&service, 2));
    assert!(reach.hub.set(shop.hub.clone()).is_ok() && reach.service.set(service.clone()).is_ok());
    assert!(reach.seat.set(inner).is_ok());
    assert_eq!(service.add_all([1, 101, 102]).unwrap().added, 3);
    shop.settle();
    let mut leases: Vec<_> = std::iter::from_fn(|| seat.claim(Ask::one()).unwrap().leased()).flatten().collect();
    let first = leases.iter().position(|lease| lease.subjects().eq([1])).unwrap();
    let first = leases.swap_remove(first);
    // The inner seat finds them.
    leases.into_iter().for_each(commissary::Lease::release);
    shop.settle();
    assert_eq!(first.submit([(1, 1)]).unwrap().accepted(), 1);
    shop.settle();
    let mut inside = reach.inside.lock().unwrap().clone();
    inside.sort_unstable();
    assert_eq!(inside, [101, 102]);
    assert_eq!(service.stats().subjects_done, 3);
    // 101 was known.
    assert_eq!((service.stats().subjects_known, service.stats().duplicates), (3, 1));
    assert!(shop.hub.service("made-inside").is_some() && shop.hub.client(1_001).is_some());
    assert!(shop.hub.stats().work.adds_up());
}

/// A service whose one report reveals as many subjects as it says.
struct Flood(Policy);

impl Service for Flood {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        "flood"
    }

    fn policy(&self) -> Policy {
        self.0.clone()
    }

    fn judge(&self, _: &u64, _: &u64, _: Reporter) -> Verdict {
        Verdict::Accept
    }

    fn discover(&self, _: &u64, report: &u64, found: &mut Vec<u64>) {
        found.extend(1_000..1_000 + report);
    }
}

/// A report that reveals a million subjects is refused, with the limit that they do not fit in, and the lease goes on; one that
/// reveals half as many is taken, but for what `max_subjects` cuts, which is counted.
#[test]
fn a_million_discoveries_of_one_report_are_bounded_and_counted() {
    let shop = Shop::open();
    let policy = Policy { max_depth: 1, max_subjects: 10_000, bucket_subjects: 1, linger: Duration::ZERO, ..exact() };
    let service = shop.hub.register(Flood(policy)).unwrap();
    let seat = shop.seat(&service, 1);
    assert_eq!(service.add_all([1]).unwrap().added, 1);
    shop.settle();
    let lease = claim_one(&seat);
    let error = lease.report([(1, 1_000_000)]).unwrap_err();
    let LeaseError::TooLarge { bytes, limit } = error else { panic!("{error}") };
    assert!(bytes > limit && limit == shop.hub.limits().submit_bytes, "{bytes} bytes");
    let submitted = lease.report([(1, 500_000)]).unwrap();
    assert_eq!(submitted.outcomes, [Outcome::Accepted]);
    shop.tick();
    let intake = submitted.ticket.wait_visible().unwrap();
    assert_eq!((intake.added, intake.cut), (9_999, 490_001));
    shop.tick();
    let stats = service.stats();
    assert_eq!((stats.subjects_known, stats.subjects_done), (10_000, 1));
    assert!(shop.hub.health().is_ok());
    assert!(shop.hub.stats().work.adds_up());
}

/// Subjects and clients with the least and the greatest numbers are like all others, also after a restart.
#[test]
fn the_least_and_the_greatest_numbers_are_ordinary() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("edges")).unwrap();
    let keys = [0, 1, u64::MAX - 1, u64::MAX];
    assert_eq!(service.add_all(keys).unwrap().added, 4);
    shop.settle();
    let client = shop.hub.register_client(&Registration::new(u64::MAX, "last")).unwrap().client;
    assert!(shop.hub.register_client(&Registration::new(0, "none")).is_err());
    let seat = client.activate(&service).unwrap();
    let lease = claim_one(&seat);
    let mut held: Vec<u64> = lease.subjects().collect();
    held.sort_unstable();
    assert_eq!(held, keys);
    report_all(&lease);
    shop.tick();
    drop((lease, seat, client));
    let shop = shop.restart();
    let service = shop.hub.register(Plain::new("edges")).unwrap();
    assert!(keys.iter().all(|key| service.subject_state(key).unwrap() == SubjectState::Done));
    assert_eq!(service.result(&u64::MAX).unwrap().unwrap().client.value(), u64::MAX);
    assert_eq!(service.add_all(keys).unwrap().duplicates, 4);
}

/// I1: leases go by the monotonic clock alone. A wall clock that jumps, backwards and forwards and to its ends, moves no deadline,
/// and what is stored under it can be read and opened again.
#[test]
fn a_wall_clock_that_jumps_moves_no_deadline() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("jumps")).unwrap();
    shop.stock(&service, 40);
    let seat = shop.seat(&service, 1);
    let held = claim_one(&seat);
    let left = held.renew().unwrap();
    for wall_ms in [1_000_000_000_000, 5, 0, -1, i64::MIN, i64::MAX, 1_700_000_000_000] {
        shop.clock.set_wall_ms(wall_ms);
        shop.tick();
        assert_eq!(held.renew().unwrap(), left, "{wall_ms}");
        let lease = claim_one(&seat);
        let key = lease.subjects().next().unwrap();
        report_all(&lease);
        shop.tick();
        assert_eq!(service.result(&key).unwrap().unwrap().report, "ok", "{wall_ms}");
        assert!(service.history(&key).unwrap().len() == 1 && shop.hub.events(0).unwrap().all(|event| event.is_ok()));
    }
    assert_eq!(service.stats().work.buckets_expired, 0);
    let token = held.into_token();
    let shop = shop.restart();
    let service = shop.hub.register(Plain::new("jumps")).unwrap();
    let seat = shop.client(1).activate(&service).unwrap();
    assert_eq!(seat.leases().unwrap().len(), 1);
    report_all(&seat.resume(&token).unwrap());
    shop.tick();
    assert_eq!(service.stats().subjects_done, 32);
    assert!(shop.hub.stats().work.adds_up());
}

fn in_directory(directory: &Path) -> Result<Hub, OpenError> {
    Hub::builder().manual().clock(ManualClock::default()).seed(1).cache_bytes(1 << 20).open(directory)
}

/// A directory that is removed while its hub runs: each call works or says why not, nothing panics, and reads go on. What is opened in
/// its place afterwards is a new hub.
#[test]
fn a_directory_removed_while_it_is_used_breaks_no_call() {
    let root = tempfile::tempdir().unwrap();
    let home = root.path().join("home");
    let hub = in_directory(&home).unwrap();
    let service = hub.register(Plain::new("homeless")).unwrap();
    let seat = seat_of(&hub, &service, 1);
    assert_eq!(service.add_all(0..400).unwrap().added, 400);
    hub.tick();
    report_all(&claim_one(&seat));
    hub.tick();
    let done = service.stats().subjects_done;
    fs::remove_dir_all(&home).unwrap();
    for round in 0..20 {
        match seat.claim(Ask::one()) {
            Ok(claim) => {
                for lease in claim.leased().into_iter().flatten() {
                    let reports: Vec<_> = lease.subjects().map(|user| (user, "ok".to_owned())).collect();
                    match lease.submit(reports) {
                        Ok(submitted) => assert!(submitted.accepted() > 0),
                        Err(error) => assert!(matches!(error, LeaseError::Hub(HubError::Poisoned { .. })), "{error}"),
                    }
                }
            }
            Err(error) => assert!(matches!(error, commissary::ClaimError::Hub(HubError::Poisoned { .. })), "{error}"),
        }
        match service.add(&(1_000 + round)) {
            Ok(ticket) => drop(ticket),
            Err(error) => assert!(matches!(error, AddError::Hub { source: HubError::Poisoned { .. }, .. }), "{error}"),
        }
        hub.tick();
    }
    assert!(service.stats().subjects_done >= done && hub.stats().work.adds_up());
    assert!(service.results(None, 1_000).unwrap().0.len() as u64 >= done, "reads go on");
    // Whatever it answers, it ends.
    drop(hub.close());
    drop((hub, service, seat));
    let hub = in_directory(&home).unwrap();
    assert_eq!(hub.register(Plain::new("homeless")).unwrap().stats().subjects_known, 0);
}

/// A directory that may not be written, or that is no directory, is refused by name when it is opened.
#[test]
fn a_directory_that_cannot_be_written_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let error = in_directory(&file).unwrap_err();
    assert!(matches!(&error, OpenError::Io { path, .. } if path.starts_with(&file)), "{error}");
    let error = in_directory(Path::new("/proc/self/commissary")).unwrap_err();
    assert!(matches!(&error, OpenError::Io { path, .. } if path.starts_with("/proc")), "{error}");
}

/// As an earlier version of the plugin had it.
struct Before;
/// As it is now: its reports are other types, its subjects the same.
struct Now;

macro_rules! version_of_a_plugin {
    ($name:ident, $report:ty) => {
        impl Service for $name {
            type Subject = u64;
            type Report = $report;

            fn id(&self) -> &'static str {
                "changed"
            }

            fn policy(&self) -> Policy {
                Policy { bucket_subjects: 2, ..exact() }
            }

            fn judge(&self, _: &u64, _: &$report, _: Reporter) -> Verdict {
                Verdict::Accept
            }
        }
    };
}

version_of_a_plugin!(Before, u8);
version_of_a_plugin!(Now, (u64, String));

/// A report type that changed: what was stored under the old one is told by an error that names the subject, and can be read raw; the
/// rest of the service goes on, and a second result is of the new type.
#[test]
fn a_changed_report_type_is_told_and_the_bytes_are_there() {
    let shop = Shop::open();
    let before = shop.hub.register(Before).unwrap();
    let seat = shop.seat(&before, 1);
    assert_eq!(before.add_all(1..=4).unwrap().added, 4);
    shop.settle();
    let lease = claim_one(&seat);
    let old: Vec<u64> = lease.subjects().collect();
    assert_eq!(lease.submit(old.iter().map(|key| (*key, 9))).unwrap().accepted(), 2);
    shop.tick();
    drop((lease, seat, before));
    let shop = shop.restart();
    let now = shop.hub.register(Now).unwrap();
    for key in &old {
        let error = now.result(key).unwrap_err();
        let ReadError::Decode { key: named, .. } = &error else { panic!("{error}") };
        assert_eq!(*named, format!("{key:016x}"));
        assert_eq!(now.result_raw(key).unwrap().unwrap(), [9]);
        assert_eq!(now.subject_state(key).unwrap(), SubjectState::Done);
        let error = now.history(key).unwrap_err();
        assert!(matches!(&error, ReadError::Decode { key: named, .. } if *named == format!("{key:016x}")), "{error}");
    }
    assert!(matches!(now.results(None, 10), Err(ReadError::Decode { .. })));
    let seat = shop.seat(&now, 1);
    shop.settle();
    let lease = claim_one(&seat);
    let new: Vec<u64> = lease.subjects().collect();
    assert_eq!(lease.submit(new.iter().map(|key| (*key, (*key, "new".to_owned())))).unwrap().accepted(), 2);
    shop.tick();
    for key in &new {
        assert_eq!(now.result(key).unwrap().unwrap().report, (*key, "new".to_owned()));
    }
    // Worked on once more, it is of the new type.
    let rerun: Result<_, KeysError> = now.rerun(&old);
    drop(rerun.unwrap());
    shop.settle();
    let lease = claim_one(&seat);
    let again: Vec<u64> = lease.subjects().collect();
    assert_eq!(lease.submit(again.iter().map(|key| (*key, (0, String::new())))).unwrap().accepted(), 2);
    shop.tick();
    assert!(old.iter().all(|key| now.result(key).unwrap().unwrap().version == 2));
    assert!(shop.hub.stats().work.adds_up());
}

/// A service of which one part panics.
struct Breaks(&'static str);

impl Breaks {
    fn part(&self, part: &str) {
        assert!(self.0 != part, "{part} breaks");
    }
}

impl Service for Breaks {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &str {
        self.part("id");
        self.0
    }

    fn policy(&self) -> Policy {
        self.part("policy");
        Policy { bucket_subjects: 1, max_depth: 1, ..exact() }
    }

    fn judge(&self, _: &u64, _: &u64, _: Reporter) -> Verdict {
        self.part("judge");
        Verdict::Accept
    }

    fn discover(&self, _: &u64, _: &u64, _: &mut Vec<u64>) {
        self.part("discover");
    }

    fn category(&self, _: &u64) -> Option<u8> {
        self.part("category");
        None
    }

    fn lane(&self, _: &u64) -> Option<LaneKey> {
        self.part("lane");
        Some(LaneKey::from(1_u64))
    }

    fn deadline(&self, _: &u64) -> Option<DateTime<Utc>> {
        self.part("deadline");
        None
    }
}

/// Whatever part of a plugin panics, the call that ran it says so, and nothing else notices: the hub is sound, what the call was to
/// do is not done, and another service goes on.
#[test]
fn a_panic_in_any_part_of_a_plugin_is_its_calls_alone() {
    let shop = Shop::open();
    let beside = shop.hub.register(Plain::new("beside")).unwrap();
    let neighbour = shop.seat(&beside, 2);
    shop.stock(&beside, 7 * 4);
    for part in ["id", "policy", "judge", "discover", "category", "lane", "deadline"] {
        let told = match shop.hub.register(Breaks(part)) {
            Err(error) => {
                assert!(shop.hub.service(part).is_none(), "{part}");
                error.to_string()
            }
            Ok(service) => {
                let seat = shop.seat(&service, 1);
                match service.add(&1) {
                    Err(error) => {
                        assert_eq!(service.stats().subjects_known, 0, "{part}");
                        error.to_string()
                    }
                    Ok(ticket) => {
                        shop.settle();
                        assert_eq!(ticket.wait_visible().unwrap().added, 1);
                        let lease = claim_one(&seat);
                        let submitted = lease.submit([(1, 1)]).unwrap();
                        assert_eq!((&submitted.outcomes[..], submitted.kept), (&[Outcome::PluginPanicked][..], true));
                        assert_eq!((service.stats().panics, service.stats().subjects_done), (1, 0), "{part}");
                        format!("{part} breaks")
                    }
                }
            }
        };
        assert!(told.contains(&format!("{part} breaks")), "{part}: {told}");
        report_all(&claim_one(&neighbour));
        shop.tick();
        assert!(shop.hub.health().is_ok() && shop.hub.stats().work.adds_up(), "{part}");
    }
    assert_eq!(beside.stats().subjects_done, 7 * 4);
}

/// I4: a token that is sent again, once its lease is over, changes nothing: after the last report, after a release when the same client
/// holds the same subjects anew, after the grace, after a restart; nor is it anything to another hub.
#[test]
fn a_token_that_is_replayed_changes_nothing() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    shop.stock(&service, 4);
    let seat = shop.seat(&service, 1);
    let says =
        |subjects: &[u64], what: &str| -> Vec<_> { subjects.iter().map(|user| (*user, what.to_owned())).collect() };
    let lease = claim_one(&seat);
    let subjects: Vec<u64> = lease.subjects().collect();
    let released = lease.into_token();
    assert_eq!(seat.release(&released), Ok(4));
    shop.settle();
    let expired = claim_one(&seat).into_token();
    shop.pass(service.policy().lease * 2);
    shop.pass(service.policy().grace * 2);
    let lease = claim_one(&seat);
    let live = lease.token();
    let old = [released, expired];
    for token in &old {
        let answer = seat.submit(token, says(&subjects, "replayed")).unwrap();
        assert_eq!((answer.outcomes, answer.put_back), (vec![Outcome::Stale; 4], 0));
        assert_eq!(seat.release(token), Err(LeaseError::Over));
        assert_eq!(seat.renew(token), Err(LeaseError::Over));
        assert_eq!(seat.resume(token).unwrap_err(), LeaseError::Over);
    }
    assert!(seat.renew(&live).is_ok() && seat.leases().unwrap()[0].subjects == subjects, "the live one is as it was");
    report_all(&lease);
    drop(lease);
    assert_eq!(seat.submit(&live, says(&subjects, "ok")).unwrap().outcomes, vec![Outcome::AlreadyDone; 4]);
    assert_eq!(seat.submit(&live, says(&subjects, "other")).unwrap().outcomes, vec![Outcome::Conflict; 4]);
    shop.tick();
    // Worked on anew, by another: the token of the round before says nothing of this one.
    drop(service.rerun(&subjects).unwrap());
    shop.settle();
    let other = shop.seat(&service, 2);
    let again = claim_one(&other);
    assert_eq!(seat.submit(&live, says(&subjects, "replayed")).unwrap().accepted(), 0);
    report_all(&again);
    shop.tick();
    let done = |service: &ServiceHandle<Plain>| {
        subjects
            .iter()
            .all(|user| service.result(user).unwrap().is_some_and(|found| found.report == "ok" && found.version == 2))
    };
    assert!(done(&service));
    drop((again, other, seat, service));
    let shop = shop.restart();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seat = shop.seat(&service, 1);
    let elsewhere = Hub::builder().manual().seed(99).open_in_memory(&commissary::MemoryDisk::new()).unwrap();
    let theirs = elsewhere.register(Plain::new("plain")).unwrap();
    assert_eq!(theirs.add_all(1..=4).unwrap().added, 4);
    let stranger = seat_of(&elsewhere, &theirs, 1);
    for token in [released, expired, live] {
        let error = seat.submit(&token, says(&subjects, "replayed")).unwrap_err();
        assert!(matches!(error, LeaseError::Over | LeaseError::NotOwner), "{error}");
        assert!(stranger.submit(&token, says(&subjects, "replayed")).is_err());
    }
    shop.tick();
    assert!(done(&service) && shop.hub.stats().work.adds_up());
    assert_eq!(theirs.stats().subjects_done, 0);
}

/// A clock that breaks its contract.
#[derive(Debug, Clone, Default)]
struct Unsteady(Arc<AtomicU64>);

impl Clock for Unsteady {
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn wall_ms(&self) -> i64 {
        0
    }
}

/// A monotonic clock that goes back, against its contract: a deadline comes later by as much; nothing panics, is lost or is done
/// twice, and what was written is opened again, also with the clock behind what it was.
#[test]
fn a_monotonic_clock_that_goes_back_loses_nothing() {
    let (clock, disk) = (Unsteady::default(), commissary::MemoryDisk::new());
    let open = || {
        let hub = Hub::builder().manual().clock(clock.clone()).seed(1).open_in_memory(&disk).unwrap();
        let service = hub.register(Plain::with("unsteady", |policy| policy.linger = Duration::ZERO)).unwrap();
        (hub, service)
    };
    clock.0.store(1_000_000_000, Ordering::Relaxed);
    let (mut hub, mut service) = open();
    drop(seat_of(&hub, &service, 1));
    assert_eq!(service.add_all(0..80).unwrap().added, 80);
    for (turn, ms) in [2_000_000_000, 1_500_000_000, 1_000_000_001, 0, 1, u64::MAX, 1_000_000_000, 5, 3_000_000_000]
        .iter()
        .enumerate()
    {
        let seat = hub.client(1).unwrap().activate(&service).unwrap();
        hub.tick();
        let (done, held) = (claim_one(&seat), claim_one(&seat));
        clock.0.store(*ms, Ordering::Relaxed);
        report_all(&done);
        // Alive, or dead and over: nothing else.
        if let Err(error) = held.renew() {
            let is_over = matches!(error, LeaseError::Dead | LeaseError::Over | LeaseError::Capped { .. });
            assert!(is_over, "{error}");
        }
        hub.tick();
        assert!(seat.leases().is_ok() && service.stats().work.adds_up() && hub.recount().unwrap().is_balanced());
        drop((done, held));
        hub.tick();
        assert_eq!(service.stats().subjects_done, 4 * (turn as u64 + 1), "at {ms}");
        if turn % 3 == 2 {
            drop(seat);
            hub.close().unwrap();
            (hub, service) = open();
        }
    }
    assert!(hub.health().is_ok() && hub.recount().unwrap().is_balanced());
}

#[cfg(unix)]
mod read_only {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    const CHILD: &str = "COMMISSARY_TEST_READ_ONLY";

    fn permit(at: &Path, may_write: bool) {
        let (of_directory, of_file) = if may_write { (0o755, 0o644) } else { (0o555, 0o444) };
        if at.is_dir() {
            fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
            for entry in fs::read_dir(at).unwrap() {
                permit(&entry.unwrap().path(), may_write);
            }
            fs::set_permissions(at, fs::Permissions::from_mode(of_directory)).unwrap();
        } else {
            fs::set_permissions(at, fs::Permissions::from_mode(of_file)).unwrap();
        }
    }

    /// What the child process does, which is not root; nothing by itself.
    #[test]
    fn child_works_in_a_directory_that_becomes_read_only() {
        let Some(home) = std::env::var_os(CHILD).map(std::path::PathBuf::from) else { return };
        let hub = in_directory(&home).unwrap();
        let service = hub.register(Plain::new("plain")).unwrap();
        let seat = seat_of(&hub, &service, 1);
        assert_eq!(service.add_all(0..400).unwrap().added, 400);
        hub.tick();
        report_all(&claim_one(&seat));
        hub.tick();
        permit(&home, false);
        assert!(fs::write(home.join("new"), "").is_err(), "it is read-only");
        // What is open stays open: each call works, or says why not.
        let mut known = 400;
        for round in 0..20 {
            if let Ok(Some(lease)) =
                seat.claim(Ask::one()).map(|claim| claim.leased().and_then(|mut grant| grant.pop()))
            {
                let reports: Vec<_> = lease.subjects().map(|user| (user, "ok".to_owned())).collect();
                let answer = lease.submit(reports);
                assert!(matches!(answer, Ok(_) | Err(LeaseError::Hub(HubError::Poisoned { .. }))), "{answer:?}");
            }
            if let Ok(ticket) = service.add(&(1_000 + round)) {
                hub.tick();
                known += u64::from(ticket.wait_visible().is_ok());
            }
        }
        let done = service.results(None, 1_000).unwrap().0.len();
        assert!(done >= 4, "reads go on");
        drop(hub.close());
        drop((seat, service, hub));
        // Opened anew it is refused, and nothing is changed, until it may be written again.
        let error = in_directory(&home).unwrap_err();
        assert!(error.to_string().contains("ermission denied"), "{error}");
        permit(&home, true);
        let hub = in_directory(&home).unwrap();
        let service = hub.register(Plain::new("plain")).unwrap();
        assert!(service.stats().subjects_known >= known && service.results(None, 1_000).unwrap().0.len() >= done);
        assert!(hub.recount().unwrap().is_balanced());
        hub.close().unwrap();
        fs::write(home.join("told"), "through").unwrap();
    }

    /// A directory that becomes read-only while its hub runs: what is open goes on, what is acknowledged stays, and opening says why not.
    #[test]
    fn a_directory_made_read_only_while_it_is_used_loses_nothing() {
        let is_root = fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0);
        // Nothing is read-only to root: somebody else does it, with a copy of this program, where they can reach both. What the
        // environment names for temporary files may be root's alone.
        let root = if is_root { tempfile::tempdir_in("/tmp") } else { tempfile::tempdir() }.unwrap();
        let home = root.path().join("home");
        fs::create_dir(&home).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        if is_root {
            let program = root.path().join("program");
            fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
            fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
            std::os::unix::fs::chown(&home, Some(65_534), Some(65_534)).unwrap();
            child = Command::new(program);
            child.uid(65_534).gid(65_534);
        }
        let name = "read_only::child_works_in_a_directory_that_becomes_read_only";
        let output = child.args(["--exact", name]).env(CHILD, &home).current_dir(root.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(fs::read_to_string(home.join("told")).unwrap(), "through");
    }
}
