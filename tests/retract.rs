//! A client's work undone: its results withdrawn, what only they revealed taken away, the rest worked on again.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use commissary::{
    Ask, Claim, Crash, Hub, Lease, MemoryDisk, Outcome, Policy, Reporter, RetractError, Retraction, Seat, Service,
    ServiceHandle, SubjectState, Verdict,
};
use common::{Shop, assert_adds_up, exact};

/// Called whenever the plugin is asked what a report reveals.
type Hook = Arc<Mutex<Option<Box<dyn FnMut() + Send>>>>;

/// Whom does a user follow? The list is the report, and everyone in it is discovered.
#[derive(Clone, Default)]
struct Follows {
    policy: Policy,
    hook: Hook,
}

impl Service for Follows {
    type Subject = u64;
    type Report = Vec<u64>;

    fn id(&self) -> &'static str {
        "follows"
    }

    fn policy(&self) -> Policy {
        self.policy.clone()
    }

    fn judge(&self, _user: &u64, _list: &Vec<u64>, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }

    fn discover(&self, _user: &u64, list: &Vec<u64>, found: &mut Vec<u64>) {
        let hook = self.hook.lock().unwrap().take();
        if let Some(mut hook) = hook {
            hook();
        }
        found.extend(list);
    }
}

type Handle = ServiceHandle<Follows>;

const LIAR: u64 = 9;
const HONEST: u64 = 1;

/// One subject a bucket, any depth.
fn shallow(max_depth: u16) -> Follows {
    let linger = Duration::ZERO;
    Follows { policy: Policy { bucket_subjects: 1, max_depth, linger, ..exact() }, hook: Hook::default() }
}

fn open() -> (Shop, Handle) {
    let shop = Shop::open();
    let service = shop.hub.register(shallow(u16::MAX)).unwrap();
    (shop, service)
}

/// Leases of everything that can be had now, by subject.
fn take(shop: &Shop, seat: &Seat<Follows>) -> BTreeMap<u64, Lease<Follows>> {
    let (mut taken, mut stale) = (BTreeMap::new(), Vec::new());
    shop.settle();
    while let Claim::Leased(grant) = seat.claim(Ask::buckets(10)).unwrap() {
        for lease in grant {
            let user = lease.subjects().next().unwrap();
            // A bucket cut before the subject was taken away may still be there; the younger one counts.
            stale.extend(taken.insert(user, lease));
        }
        shop.settle();
    }
    taken
}

fn report(shop: &Shop, lease: &Lease<Follows>, list: &[u64]) {
    let user = lease.subjects().next().unwrap();
    let submitted = lease.submit([(user, list.to_vec())]).unwrap();
    assert_eq!(submitted.outcomes, [Outcome::Accepted]);
    shop.tick();
}

/// Has `seat` report on one subject, which must be waiting; what else it was given goes back.
fn work(shop: &Shop, seat: &Seat<Follows>, user: u64, list: &[u64]) {
    let mut taken = take(shop, seat);
    report(shop, &taken.remove(&user).expect("it waits"), list);
}

fn state(service: &Handle, user: u64) -> SubjectState {
    service.subject_state(&user).unwrap()
}

fn states(service: &Handle, users: impl IntoIterator<Item = u64>) -> Vec<SubjectState> {
    users.into_iter().map(|user| state(service, user)).collect()
}

fn list(service: &Handle, user: u64) -> Option<(u64, Vec<u64>)> {
    let finding = service.result(&user).unwrap()?;
    Some((finding.client.value(), finding.report))
}

/// The counts (results, reopened, fell back, tainted, returned).
fn counts(done: &Retraction) -> (u64, u64, u64, u64, u64) {
    (done.results, done.reopened, done.fell_back, done.tainted, done.returned)
}

/// Everything that reads say of the subjects below 1,000.
fn reads(service: &Handle) -> String {
    let stats = service.stats();
    let (findings, _) = service.results(None, 1_000).unwrap();
    let findings: Vec<_> = findings
        .iter()
        .map(|found| (found.key, &found.report, found.client, found.at, found.version, found.depth, found.position))
        .collect();
    let counts = (stats.subjects_known, stats.subjects_done, stats.unmarked, stats.withdrawn);
    format!("{findings:?} {:?} {counts:?}", states(service, 0..1_000))
}

/// R10, R57: what a client reported is withdrawn; an earlier result of another is in force again, and without one the
/// subject is worked on again. The client's results that were superseded go too.
#[test]
fn withdrawn_results_fall_back_or_are_worked_on_again() {
    let (shop, service) = open();
    let (honest, liar) = (shop.seat(&service, HONEST), shop.seat(&service, LIAR));
    service.add_all([1, 2, 3]).unwrap();
    work(&shop, &honest, 1, &[1]);
    work(&shop, &liar, 2, &[2]);
    work(&shop, &liar, 3, &[3]);
    drop(service.rerun(&[1, 3]).unwrap());
    work(&shop, &liar, 1, &[1, 3]);
    work(&shop, &honest, 3, &[1, 2]);
    assert_eq!(list(&service, 1), Some((LIAR, vec![1, 3])));

    drop(service.suspend(LIAR).unwrap());
    let done = service.retract_all(LIAR).unwrap();
    assert_eq!(counts(&done), (3, 1, 1, 0, 0));
    let ever = [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC].map(|time| time.timestamp_millis());
    assert_eq!((done.client.value(), [done.from, done.to].map(|time| time.timestamp_millis())), (LIAR, ever));
    assert_eq!(list(&service, 1), Some((HONEST, vec![1])));
    assert_eq!((list(&service, 2), state(&service, 2)), (None, SubjectState::Pending));
    assert_eq!(list(&service, 3), Some((HONEST, vec![1, 2])));
    assert_eq!((service.stats().withdrawn, service.stats().subjects_done), (3, 2));
    assert_eq!(service.retractions().unwrap(), [done]);

    work(&shop, &honest, 2, &[]);
    assert_eq!(list(&service, 2), Some((HONEST, vec![])));
    assert_eq!(service.stats().subjects_pending(), 0);
    assert_adds_up(&shop.hub);
}

/// R10: only reports from the window go: its beginning is in it, its end is not.
#[test]
fn window_is_half_open() {
    let (shop, service) = open();
    let liar = shop.seat(&service, LIAR);
    service.add_all(1..=4).unwrap();
    let mut leases = take(&shop, &liar);
    for user in 1..=4 {
        report(&shop, &leases.remove(&user).unwrap(), &[]);
        shop.pass(Duration::from_secs(1));
    }
    let at = |user| service.result(&user).unwrap().unwrap().at;
    let (from, to) = (at(2), at(4));
    let done = service.retract(LIAR, from, to).unwrap();
    assert_eq!((done.results, done.from, done.to), (2, from, to));
    let is_there = |user| service.result(&user).unwrap().is_some();
    assert_eq!([1, 2, 3, 4].map(is_there), [true, false, false, true]);
}

/// R57: subjects that only withdrawn reports lead to are taken away with what honest clients reported on them, in chains and
/// in circles; those added by hand, before or after, or named by a report that holds, stay.
#[test]
fn what_only_lies_revealed_is_taken_away() {
    let (shop, service) = open();
    let (honest, liar) = (shop.seat(&service, HONEST), shop.seat(&service, LIAR));
    service.add_all([1, 2, 3]).unwrap();
    // 10 to 12 are a circle, 13 waits; 20 is named by an honest report, too; 21 is added by hand later.
    work(&shop, &liar, 1, &[3, 10, 20, 21]);
    service.add_all([21]).unwrap();
    work(&shop, &honest, 10, &[11, 2]);
    work(&shop, &honest, 11, &[12]);
    work(&shop, &honest, 12, &[10, 13]);
    work(&shop, &honest, 2, &[20]);
    work(&shop, &honest, 20, &[22]);
    let before = service.stats();

    let done = service.retract_all(LIAR).unwrap();
    assert_eq!(counts(&done), (1, 1, 0, 4, 0));
    assert_eq!(states(&service, 10..=13), [SubjectState::Unknown; 4]);
    assert!((10..=13).all(|user| service.result(&user).unwrap().is_none()));
    let stay = [1, 2, 3, 20, 21, 22].map(|user| state(&service, user));
    let (done, wait) = (SubjectState::Done, SubjectState::Pending);
    assert_eq!(stay, [wait, done, wait, done, wait, wait]);
    let after = service.stats();
    assert_eq!((before.subjects_known - after.subjects_known, before.subjects_done - after.subjects_done), (4, 4));

    // Taken away is as never seen: discovered again, they begin anew.
    work(&shop, &honest, 1, &[10]);
    assert_eq!((state(&service, 10), list(&service, 10)), (wait, None));
    work(&shop, &honest, 10, &[]);
    assert_eq!(list(&service, 10), Some((HONEST, vec![])));
    assert_eq!(state(&service, 11), SubjectState::Unknown);
    assert_adds_up(&shop.hub);
}

/// R57: what lies too deep to be worked on goes as well if only withdrawn reports revealed it, and is kept anew when it is
/// discovered again, or worked on when that is less deep.
#[test]
fn unmarked_subjects_are_taken_away_and_kept_anew() {
    let shop = Shop::open();
    let service = shop.hub.register(shallow(1)).unwrap();
    let (honest, liar) = (shop.seat(&service, HONEST), shop.seat(&service, LIAR));
    service.add_all([1, 2]).unwrap();
    work(&shop, &liar, 1, &[10]);
    work(&shop, &honest, 10, &[20, 21]);
    work(&shop, &honest, 2, &[11]);
    work(&shop, &honest, 11, &[21, 22]);
    assert_eq!(states(&service, 20..=22), [SubjectState::Unmarked; 3]);

    let done = service.retract_all(LIAR).unwrap();
    assert_eq!(counts(&done), (1, 1, 0, 2, 0));
    let (unknown, unmarked) = (SubjectState::Unknown, SubjectState::Unmarked);
    assert_eq!(states(&service, [10, 20, 21, 22]), [unknown, unknown, unmarked, unmarked]);
    assert_eq!(service.stats().unmarked, 2);

    // 10 had been worked on; now it lies too deep. 20 had been too deep; now it does not.
    drop(service.rerun(&[11]).unwrap());
    work(&shop, &honest, 11, &[10]);
    work(&shop, &honest, 1, &[20]);
    assert_eq!(states(&service, [10, 20]), [unmarked, SubjectState::Pending]);
    assert_eq!(service.stats().unmarked, 3);
    drop(service.mark(&[10]).unwrap());
    work(&shop, &honest, 10, &[30]);
    assert_eq!(list(&service, 10), Some((HONEST, vec![30])));
    work(&shop, &honest, 20, &[]);
    assert_eq!(list(&service, 20), Some((HONEST, vec![])));
    drop(service.delete(&[10, 20]).unwrap());
    shop.tick();
    assert_eq!(states(&service, [10, 20]), [unknown, unknown]);
    assert_eq!(service.restore(done.id).unwrap(), done);
    assert_eq!(states(&service, [10, 20]), [unknown, unknown], "what was deleted stays so");
    assert_adds_up(&shop.hub);
}

/// R57: a report on a subject that was taken away while it was leased is answered as accepted, and dropped.
#[test]
fn report_on_a_subject_taken_away_is_dropped() {
    let (shop, service) = open();
    let (honest, liar) = (shop.seat(&service, HONEST), shop.seat(&service, LIAR));
    service.add_all([1]).unwrap();
    work(&shop, &liar, 1, &[10]);
    let mut held = take(&shop, &honest);
    let done = service.retract_all(LIAR).unwrap();
    assert_eq!(counts(&done), (1, 1, 0, 1, 0));
    report(&shop, &held.remove(&10).unwrap(), &[11]);
    assert_eq!(states(&service, [10, 11]), [SubjectState::Unknown; 2]);
    assert_eq!(service.stats().discarded, 1);
    assert_adds_up(&shop.hub);
}

/// R57: a life that was deleted does not speak for the next one.
#[test]
fn deleted_subject_is_not_brought_back_by_older_reports() {
    let (shop, service) = open();
    let (honest, liar) = (shop.seat(&service, HONEST), shop.seat(&service, LIAR));
    service.add_all([1, 2]).unwrap();
    work(&shop, &honest, 1, &[10]);
    drop(service.delete(&[10]).unwrap());
    work(&shop, &liar, 2, &[10]);
    assert_eq!(state(&service, 10), SubjectState::Pending);
    let done = service.retract_all(LIAR).unwrap();
    assert_eq!((counts(&done), state(&service, 10)), ((1, 1, 0, 1, 0), SubjectState::Unknown));
}

/// R57: what was reported on a subject before it was taken away is no result to fall back on when it is known again.
#[test]
fn results_of_an_earlier_life_stay_withdrawn() {
    let (shop, service) = open();
    let (honest, liar, other) = (shop.seat(&service, HONEST), shop.seat(&service, LIAR), shop.seat(&service, 8));
    service.add_all([1]).unwrap();
    work(&shop, &liar, 1, &[10]);
    work(&shop, &honest, 10, &[11]);
    drop(service.rerun(&[10]).unwrap());
    work(&shop, &honest, 10, &[12]);
    service.retract_all(LIAR).unwrap();
    work(&shop, &honest, 1, &[10]);
    assert_eq!(service.stats().withdrawn, 3);
    work(&shop, &other, 10, &[]);
    let done = service.retract_all(8).unwrap();
    assert_eq!((counts(&done), list(&service, 10)), ((1, 1, 0, 0, 0), None));
    assert_eq!(state(&service, 10), SubjectState::Pending);
}

/// R10: undone, a retraction leaves everything as it was, also what was being run again; and the journal alone tells the
/// same story.
#[test]
fn restored_retraction_leaves_what_was() {
    let (shop, service) = open();
    let (honest, liar) = (shop.seat(&service, HONEST), shop.seat(&service, LIAR));
    service.add_all(1..=6).unwrap();
    work(&shop, &liar, 1, &[10, 11]);
    work(&shop, &honest, 10, &[12, 13]);
    work(&shop, &liar, 12, &[13]);
    work(&shop, &honest, 2, &[]);
    work(&shop, &liar, 3, &[]);
    work(&shop, &liar, 4, &[]);
    drop(service.rerun(&[2, 3, 4, 10]).unwrap());
    work(&shop, &liar, 2, &[3]);
    work(&shop, &liar, 4, &[3]);
    shop.tick();
    let before = reads(&service);
    let done = service.retract_all(LIAR).unwrap();
    assert_eq!(counts(&done), (6, 2, 1, 4, 0));
    let withdrawn = reads(&service);
    assert_ne!(before, withdrawn);
    let again = shop.after(Crash::Process);
    assert_eq!(reads(&again.hub.register(shallow(u16::MAX)).unwrap()), withdrawn);

    assert_eq!(service.restore(done.id).unwrap(), done);
    assert_eq!(reads(&service), before);
    assert_eq!(service.retractions().unwrap(), []);
    let rebuilt = Shop::on(shop.disk.without_store(), shop.clock.clone(), commissary::Limits::default());
    assert_eq!(reads(&rebuilt.hub.register(shallow(u16::MAX)).unwrap()), before);
    assert!(matches!(service.restore(done.id), Err(RetractError::UnknownRetraction { .. })));

    // What was open is still open, once.
    let pending = service.stats().subjects_pending();
    assert_eq!(take(&shop, &honest).len() as u64, pending);
    assert_adds_up(&shop.hub);
}

/// R10: retractions of two clients that back each other up can be undone in any order.
#[test]
fn overlapping_retractions_are_undone_in_any_order() {
    for order in [[0, 1], [1, 0]] {
        let (shop, service) = open();
        let (honest, liar, other) = (shop.seat(&service, HONEST), shop.seat(&service, LIAR), shop.seat(&service, 8));
        service.add_all([1, 2]).unwrap();
        work(&shop, &liar, 1, &[10]);
        work(&shop, &other, 2, &[10]);
        work(&shop, &liar, 10, &[11]);
        work(&shop, &honest, 11, &[]);
        drop(service.rerun(&[10]).unwrap());
        work(&shop, &other, 10, &[11]);
        let before = reads(&service);
        let done = [service.retract_all(LIAR).unwrap().id, service.retract_all(8).unwrap().id];
        assert_eq!(states(&service, [10, 11]), [SubjectState::Unknown; 2]);
        assert_eq!(service.retractions().unwrap().iter().map(|done| done.id).collect::<Vec<_>>(), done);
        for place in order {
            service.restore(done[place]).unwrap();
        }
        assert_eq!(reads(&service), before, "{order:?}");
    }
}

/// R57: what came in since a retraction stays in force when it is undone.
#[test]
fn work_done_since_outlives_the_undoing() {
    let (shop, service) = open();
    let (honest, liar) = (shop.seat(&service, HONEST), shop.seat(&service, LIAR));
    service.add_all([1]).unwrap();
    work(&shop, &liar, 1, &[10]);
    work(&shop, &honest, 10, &[11]);
    let done = service.retract_all(LIAR).unwrap();
    work(&shop, &honest, 1, &[10]);
    work(&shop, &honest, 10, &[]);
    service.restore(done.id).unwrap();
    assert_eq!([1, 10].map(|user| list(&service, user)), [Some((HONEST, vec![10])), Some((HONEST, vec![]))]);
    assert_eq!((state(&service, 11), service.stats().withdrawn), (SubjectState::Pending, 0));
    // The client's own result holds again, as a past one: when the newer one goes, it is in force.
    service.retract_all(HONEST).unwrap();
    assert_eq!(list(&service, 1), Some((LIAR, vec![10])));
}

/// R57: a report that comes in while the retraction looks is not forgotten: what it names is taken in again.
#[test]
fn subject_named_meanwhile_is_taken_in_again() {
    let plugin = shallow(u16::MAX);
    let hook = Arc::clone(&plugin.hook);
    let shop = Shop::open();
    let service = shop.hub.register(plugin).unwrap();
    let (honest, liar) = (shop.seat(&service, HONEST), shop.seat(&service, LIAR));
    service.add_all([1, 2, 3]).unwrap();
    work(&shop, &liar, 2, &[10]);
    work(&shop, &honest, 3, &[]);
    let held = Arc::new(take(&shop, &honest).remove(&1).unwrap());
    let (hub, inner) = (shop.hub.clone(), Arc::clone(&hook));
    // The first question is what the withdrawn report revealed; at the second, whether others did, 1 has been read.
    *hook.lock().unwrap() = Some(Box::new(move || {
        let (held, hub) = (Arc::clone(&held), hub.clone());
        *inner.lock().unwrap() = Some(Box::new(move || {
            let submitted = held.submit([(1, vec![10, 12])]).unwrap();
            assert_eq!(submitted.outcomes, [Outcome::Accepted]);
            hub.tick();
        }));
    }));
    let done = service.retract_all(LIAR).unwrap();
    assert_eq!(list(&service, 1), Some((HONEST, vec![10, 12])));
    assert_eq!(states(&service, [10, 12]), [SubjectState::Pending; 2]);
    assert_eq!((done.results, done.tainted, done.returned), (1, 1, 1));
}

/// R57: a client that is not suspended and goes on is looked at again, but not for ever.
#[test]
fn client_that_goes_on_reporting_is_given_up() {
    let plugin = shallow(u16::MAX);
    let hook = Arc::clone(&plugin.hook);
    let shop = Shop::open();
    let service = shop.hub.register(plugin).unwrap();
    let liar = shop.seat(&service, LIAR);
    service.add_all(1..=40).unwrap();
    let mut held: Vec<_> = take(&shop, &liar).into_values().collect();
    report(&shop, &held.pop().unwrap(), &[]);
    rearm(&hook, Arc::new(Mutex::new(held)), &shop.hub, &service);
    let error = service.retract_all(LIAR).unwrap_err();
    assert!(matches!(error, RetractError::Unsettled { .. }), "{error}");
    *hook.lock().unwrap() = None;
    drop(service.suspend(LIAR).unwrap());
    let done = service.retract_all(LIAR).unwrap();
    assert!(done.results <= 2, "the first call withdrew the rest: {done:?}");
    assert_eq!(service.results(None, 100).unwrap().0.len(), 0);
    assert_eq!(service.retractions().unwrap().len(), 2);
}

/// When the plugin is asked and but one result of the client is in force, it reports on one lease more.
fn rearm(hook: &Hook, held: Arc<Mutex<Vec<Lease<Follows>>>>, hub: &Hub, service: &Handle) {
    let (next, hub, service) = (Arc::clone(hook), hub.clone(), service.clone());
    *hook.lock().unwrap() = Some(Box::new(move || {
        if service.stats().subjects_done < 2
            && let Some(lease) = held.lock().unwrap().pop()
        {
            let user = lease.subjects().next().unwrap();
            drop(lease.submit([(user, vec![])]).unwrap());
            hub.tick();
        }
        rearm(&next, Arc::clone(&held), &hub, &service);
    }));
}

/// R10: bad input is refused by name and changes nothing.
#[test]
fn unknown_clients_empty_windows_and_unknown_retractions_are_refused() {
    let (shop, service) = open();
    shop.client(HONEST);
    assert!(matches!(service.retract_all(77), Err(RetractError::UnknownClient { id: 77 })));
    let now = DateTime::<Utc>::UNIX_EPOCH;
    assert!(matches!(service.retract(HONEST, now, now), Err(RetractError::Window { .. })));
    let before = now - TimeDelta::milliseconds(1);
    assert!(matches!(service.retract(HONEST, now, before), Err(RetractError::Window { .. })));
    assert!(matches!(service.restore(0), Err(RetractError::UnknownRetraction { id: 0 })));
    assert_eq!(service.retractions().unwrap(), []);
    // A client without results: said so, and journaled.
    let done = service.retract_all(HONEST).unwrap();
    assert_eq!((counts(&done), service.retractions().unwrap().len()), ((0, 0, 0, 0, 0), 1));
}

/// R10: a retraction of many results takes several records; in a hub with threads the caller just waits for them.
#[test]
fn many_results_are_withdrawn_in_parts_by_a_hub_with_threads() {
    const USERS: u64 = 1_000;
    let limits = commissary::Limits { queue_bytes: 16 << 10, ..commissary::Limits::default() };
    let hub = Hub::builder().seed(1).limits(limits).open_in_memory(&MemoryDisk::new()).unwrap();
    let mut plugin = shallow(u16::MAX);
    plugin.policy.bucket_subjects = 100;
    let service = hub.register(plugin).unwrap();
    let registration = commissary::Registration::new(LIAR, "liar");
    let liar = hub.register_client(&registration).unwrap().client.activate(&service).unwrap();
    service.add_all(0..USERS).unwrap();
    let mut reported = 0;
    while reported < USERS {
        let _ready = liar.wait_ready(Duration::from_secs(10));
        let Some(grant) = liar.claim(Ask::one()).unwrap().leased() else { continue };
        for lease in grant {
            let lists: Vec<_> = lease.subjects().map(|user| (user, vec![USERS + user])).collect();
            let submitted = lease.submit(lists).unwrap();
            reported += submitted.accepted() as u64;
            submitted.ticket.wait_visible().unwrap();
        }
    }
    let before = service.stats();
    assert!(before.subjects_known > USERS);
    drop(service.suspend(LIAR).unwrap());
    let done = service.retract_all(LIAR).unwrap();
    assert_eq!((done.results, done.tainted), (reported, before.subjects_known - USERS));
    assert_eq!((service.stats().subjects_known, service.stats().subjects_done), (USERS, 0));
    service.restore(done.id).unwrap();
    let after = service.stats();
    assert_eq!((after.subjects_known, after.subjects_done, after.withdrawn), (before.subjects_known, reported, 0));
    hub.close().unwrap();
}

/// R57: a subject that was taken away and added again has its result back as soon as the retraction is undone, and is not
/// worked on once more for want of one; who works on it all the same is answered as accepted.
#[test]
fn restored_result_is_in_force_on_a_subject_that_was_added_again() {
    let (shop, service) = open();
    let (honest, liar) = (shop.seat(&service, HONEST), shop.seat(&service, LIAR));
    service.add_all([1]).unwrap();
    work(&shop, &liar, 1, &[10, 11, 12]);
    for user in 10..=12 {
        work(&shop, &honest, user, &[1]);
    }
    let done = service.retract_all(LIAR).unwrap();
    assert_eq!(counts(&done), (1, 1, 0, 3, 0));
    service.add_all([10]).unwrap();
    work(&shop, &honest, 1, &[11, 12]);
    work(&shop, &honest, 12, &[]);
    let mut held = take(&shop, &honest);
    assert_eq!(held.len(), 2);
    assert_eq!(states(&service, [10, 11]), [SubjectState::Pending; 2]);
    assert_eq!((list(&service, 10), list(&service, 12)), (None, Some((HONEST, vec![]))));

    assert_eq!(service.restore(done.id).unwrap(), done);
    assert_eq!(states(&service, [1, 10, 11, 12]), [SubjectState::Done; 4]);
    assert_eq!([10, 11].map(|user| list(&service, user)), [Some((HONEST, vec![1])), Some((HONEST, vec![1]))]);
    assert_eq!(list(&service, 12), Some((HONEST, vec![])), "what came since stays");
    let history = service.history(&10).unwrap();
    assert_eq!(history.iter().map(|version| version.withdrawn).collect::<Vec<_>>(), [false]);
    report(&shop, &held.remove(&10).unwrap(), &[99]);
    assert_eq!((list(&service, 10), state(&service, 99)), (Some((HONEST, vec![1])), SubjectState::Unknown));
    let stats = service.stats();
    assert_eq!((stats.subjects_done, stats.subjects_known, stats.withdrawn, stats.discarded), (4, 4, 0, 1));
    drop(service.rerun(&[10]).unwrap());
    work(&shop, &honest, 10, &[2]);
    assert_eq!(list(&service, 10), Some((HONEST, vec![2])));
    let rebuilt = Shop::on(shop.disk.without_store(), shop.clock.clone(), commissary::Limits::default());
    assert_eq!(reads(&rebuilt.hub.register(shallow(u16::MAX)).unwrap()), reads(&service));
}

/// R57: a subject that was kept unmarked anew keeps its results when the retraction is undone: they are in force once it is
/// marked.
#[test]
fn restored_result_waits_for_a_subject_that_is_unmarked_now() {
    let shop = Shop::open();
    let service = shop.hub.register(shallow(1)).unwrap();
    let (honest, liar) = (shop.seat(&service, HONEST), shop.seat(&service, LIAR));
    service.add_all([1, 2]).unwrap();
    work(&shop, &liar, 1, &[10]);
    work(&shop, &honest, 10, &[20]);
    let done = service.retract_all(LIAR).unwrap();
    work(&shop, &honest, 2, &[11]);
    work(&shop, &honest, 11, &[10]);
    assert_eq!(state(&service, 10), SubjectState::Unmarked);
    service.restore(done.id).unwrap();
    assert_eq!((state(&service, 10), list(&service, 10)), (SubjectState::Unmarked, None));
    drop(service.mark(&[10]).unwrap());
    shop.tick();
    assert_eq!((state(&service, 10), list(&service, 10)), (SubjectState::Pending, Some((HONEST, vec![20]))));
    work(&shop, &honest, 10, &[21]);
    assert_eq!(list(&service, 10), Some((HONEST, vec![21])));
    assert_eq!(service.history(&10).unwrap().len(), 2);
    assert_adds_up(&shop.hub);
}

/// R57: who marks a subject wants it: it stays when the reports that revealed it are withdrawn, whether it was marked while
/// it was too deep or afterwards.
#[test]
fn marked_subject_stays() {
    let shop = Shop::open();
    let service = shop.hub.register(shallow(0)).unwrap();
    let liar = shop.seat(&service, LIAR);
    service.add_all([1]).unwrap();
    work(&shop, &liar, 1, &[10, 11]);
    drop(service.mark(&[10]).unwrap());
    shop.tick();
    assert_eq!(states(&service, [10, 11]), [SubjectState::Pending, SubjectState::Unmarked]);
    let done = service.retract_all(LIAR).unwrap();
    assert_eq!((counts(&done), state(&service, 10)), ((1, 1, 0, 1, 0), SubjectState::Pending));

    let (shop, service) = open();
    let liar = shop.seat(&service, LIAR);
    service.add_all([1]).unwrap();
    work(&shop, &liar, 1, &[10, 11]);
    let ticket = service.mark(&[10]).unwrap();
    shop.tick();
    assert_eq!(ticket.wait_visible().unwrap().duplicates, 1, "it was to be worked on before");
    assert_eq!(counts(&service.retract_all(LIAR).unwrap()), (1, 1, 0, 1, 0));
    assert_eq!(states(&service, [10, 11]), [SubjectState::Pending, SubjectState::Unknown]);
}
