//! The outbox: every effect at least once, duplicates under one key, order kept, nothing dropped in silence; whatever
//! crashes, and when.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use chrono::DateTime;
use commissary::{
    AfterDamage, AfterLag, Compact, Courier, Crash, Durability, Event, EventKind, Hub, IdempotencyKey, KeyBytes,
    Limits, ManualClock, MemoryDisk, Outbox, OutboxError, OutboxOptions, Retry, ServiceHandle, Step,
};
use common::{Plain, Shop};

/// What the outside world saw: each call, in order, with its key.
type Outside = Arc<Mutex<Vec<(u64, String)>>>;

/// Decides what becomes of a call.
type Fate = Arc<dyn Fn(u64, &Outside) -> Result<(), Retry> + Send + Sync>;

/// Pays every user that is added.
struct Payer {
    outside: Outside,
    fate: Fate,
    /// Users of one remainder are paid in order.
    lanes: u64,
}

impl Courier for Payer {
    type Effect = u64;

    fn id(&self) -> &'static str {
        "payments"
    }

    fn effects(&self, event: &Event) -> Vec<(u64, u64)> {
        let EventKind::Added { subjects, .. } = &event.kind else { return Vec::new() };
        let users = subjects.iter().filter_map(|subject| subject.key.read::<u64>());
        users.inspect(|user| assert_ne!(*user, 666, "no such user")).map(|user| (user % 1_000, user)).collect()
    }

    fn order(&self, user: &u64) -> Vec<u8> {
        (user % self.lanes).to_be_bytes().to_vec()
    }

    fn dispatch(&self, user: &u64, key: &IdempotencyKey) -> Result<(), Retry> {
        (self.fate)(*user, &self.outside)?;
        self.outside.lock().unwrap().push((*user, key.to_string()));
        Ok(())
    }
}

fn always() -> Fate {
    Arc::new(|_, _| Ok(()))
}

/// Refuses those that `refused` names.
fn refusing(refused: impl Fn(u64) -> bool + Send + Sync + 'static) -> Fate {
    Arc::new(move |user, _| if refused(user) { Err(Retry::new("not now")) } else { Ok(()) })
}

fn payer(outside: &Outside, fate: Fate, lanes: u64) -> Payer {
    Payer { outside: Arc::clone(outside), fate, lanes }
}

fn paid(outside: &Outside) -> Vec<u64> {
    outside.lock().unwrap().iter().map(|(user, _)| *user).collect()
}

fn add(shop: &Shop, service: &ServiceHandle<Plain>, user: u64) {
    drop(service.add(&user).unwrap());
    shop.tick();
}

fn shop(users: impl IntoIterator<Item = u64>) -> (Shop, ServiceHandle<Plain>) {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    users.into_iter().for_each(|user| add(&shop, &service, user));
    (shop, service)
}

/// Steps until nothing is to be done, however much time that takes; what each step did.
fn drain(shop: &Shop, outbox: &mut Outbox<Payer>) -> Vec<Step> {
    let mut steps = Vec::new();
    loop {
        match outbox.step().unwrap() {
            Step::Idle => return steps,
            Step::Waiting(left) => shop.pass(left),
            step => steps.push(step),
        }
    }
}

const USERS: u64 = 12;
const SAVE_EVERY: u64 = 3;

fn often() -> OutboxOptions {
    OutboxOptions { save_every: SAVE_EVERY, tries_max: 3, window: 8, ..OutboxOptions::default() }
}

/// A disk as a crash left it, and what the outside had seen by then.
type Moment = (&'static str, MemoryDisk, Vec<(u64, String)>);

/// User 4 is refused twice, user 7 always; crashes are noted before and after the outside sees each call.
fn flaky(disk: &MemoryDisk, moments: &Arc<Mutex<Vec<Moment>>>) -> Fate {
    let (disk, moments) = (disk.clone(), Arc::clone(moments));
    let refusals = Mutex::new(0);
    Arc::new(move |user, outside| {
        let seen = outside.lock().unwrap().clone();
        for crash in [Crash::Process, Crash::Power] {
            moments.lock().unwrap().push(("before", disk.after(crash), seen.clone()));
        }
        let mut refusals = refusals.lock().unwrap();
        if user == 7 || (user == 4 && *refusals < 2) {
            *refusals += u32::from(user == 4);
            return Err(Retry::new("not now"));
        }
        let seen = [seen, vec![(user, "dispatched".to_owned())]].concat();
        moments.lock().unwrap().push(("after", disk.after(Crash::Power), seen));
        Ok(())
    })
}

/// Every user was paid or set aside; one key a user, one user a key; under each ordering key first payments are in order.
fn assert_settled(outside: &[(u64, String)], set_aside: &[u64], repeats_most: usize) {
    let users: BTreeSet<u64> = outside.iter().map(|(user, _)| *user).chain(set_aside.iter().copied()).collect();
    assert_eq!(users, (1..=USERS).collect(), "at least once, or set aside");
    let mut first = BTreeMap::new();
    for (at, (user, _)) in outside.iter().enumerate() {
        first.entry(*user).or_insert(at);
    }
    for lane in 0..3 {
        let order: Vec<usize> =
            first.iter().filter(|(user, _)| **user % 3 == lane && **user != 7).map(|(_, at)| *at).collect();
        assert!(order.is_sorted(), "lane {lane}: {outside:?}");
    }
    let repeats = outside.len() - first.len();
    assert!(repeats <= repeats_most, "{repeats} repeats: {outside:?}");
}

fn keys(shop: &Shop) -> BTreeMap<u64, String> {
    let added = shop.hub.events(0).unwrap().map(Result::unwrap).flat_map(|event| {
        let position = event.position;
        event.kind.keys().filter_map(KeyBytes::read::<u64>).map(move |user| (user, position)).collect::<Vec<_>>()
    });
    added.map(|(user, position)| (user, format!("payments/{position}/{user}"))).collect()
}

/// R131: after a crash at any moment, of the process or of the machine, before a call, after it, and between a call and its
/// save, every effect is dispatched at least once under its one key, in order, or is set aside; only what was not saved is
/// dispatched again.
#[test]
fn a_crash_at_every_moment_loses_nothing_and_repeats_under_the_same_key() {
    let (shop, _service) = shop(1..=USERS);
    let keys = keys(&shop);
    let (outside, moments) = (Outside::default(), Arc::default());
    let fate = flaky(&shop.disk, &moments);
    let mut outbox = shop.hub.outbox(payer(&outside, fate, 3), often()).unwrap();
    loop {
        let step = outbox.step().unwrap();
        let seen = outside.lock().unwrap().clone();
        for crash in [Crash::Process, Crash::Power] {
            moments.lock().unwrap().push(("stepped", shop.disk.after(crash), seen.clone()));
        }
        match step {
            Step::Idle => break,
            Step::Waiting(left) => shop.pass(left),
            _ => {}
        }
    }
    assert_settled(&outside.lock().unwrap(), &[7], 0);
    let moments = std::mem::take(&mut *moments.lock().unwrap());
    assert!(moments.len() > 80, "{}", moments.len());
    for (moment, disk, seen) in moments {
        let after = Shop::on(disk, shop.clock.clone(), Limits::default());
        let outside: Outside = Arc::new(Mutex::new(seen));
        let fate = refusing(|user| user == 7);
        let mut outbox = after.hub.outbox(payer(&outside, fate, 3), often()).unwrap();
        drain(&after, &mut outbox);
        let letters: Vec<u64> =
            outbox.dead_letters().list().iter().map(|letter| *letter.effect.clone().unwrap()).collect();
        assert_eq!(letters, [7], "{moment}");
        let outside = outside.lock().unwrap();
        assert_settled(&outside, &letters, usize::try_from(SAVE_EVERY).unwrap());
        for (user, key) in outside.iter().filter(|(_, key)| key != "dispatched") {
            assert_eq!(key, &keys[user], "{moment}");
        }
    }
}

/// R131: crash after crash, it gets through all the same.
#[test]
fn crash_after_crash_it_gets_through() {
    let (mut shop, _service) = shop(1..=USERS);
    let outside = Outside::default();
    let options = OutboxOptions { save_every: 1, ..often() };
    for lives in 1.. {
        let mut outbox = shop.hub.outbox(payer(&outside, always(), 3), options).unwrap();
        let steps = [outbox.step().unwrap(), outbox.step().unwrap()];
        if steps == [Step::Idle, Step::Idle] {
            assert!(lives > USERS, "{lives}");
            break;
        }
        let disk = shop.disk.after(if lives % 2 == 0 { Crash::Process } else { Crash::Power });
        shop = Shop::on(disk, shop.clock.clone(), Limits::default());
    }
    let outside = outside.lock().unwrap();
    assert_settled(&outside, &[], usize::try_from(USERS).unwrap());
    let by_user: BTreeMap<u64, &String> = outside.iter().map(|(user, key)| (*user, key)).collect();
    assert!(outside.iter().all(|(user, key)| by_user[user] == key), "{outside:?}");
}

/// R131: an effect that fails is tried again after a time that doubles up to a bound, or that the courier says; nothing
/// sleeps.
#[test]
fn failures_are_tried_again_with_growing_pauses() {
    let (shop, _service) = shop([1]);
    let outside = Outside::default();
    let secs = Duration::from_secs;
    let tries = Mutex::new(0);
    let fate: Fate = Arc::new(move |_, _| {
        let tries = {
            let mut tries = tries.lock().unwrap();
            *tries += 1;
            *tries
        };
        match tries {
            1..=4 => Err(Retry::new("busy")),
            5 => Err(Retry::new("busy").after(secs(100))),
            6 => panic!("broken"),
            _ => Ok(()),
        }
    });
    let options = OutboxOptions { backoff_longest: secs(5), ..OutboxOptions::default() };
    let mut outbox = shop.hub.outbox(payer(&outside, fate, 1), options).unwrap();
    for (tried, pause) in [(1, 1), (2, 2), (3, 4), (4, 5), (5, 100), (6, 5)] {
        let step = outbox.step().unwrap();
        assert!(
            matches!(&step, Step::Failed { tries, after, .. } if (*tries, *after) == (tried, secs(pause))),
            "{step:?}"
        );
        assert_eq!(outbox.step().unwrap(), Step::Waiting(secs(pause)));
        shop.pass(Duration::from_millis(pause * 1_000 - 1));
        assert_eq!(outbox.step().unwrap(), Step::Waiting(Duration::from_millis(1)));
        shop.pass(Duration::from_millis(1));
    }
    assert!(matches!(outbox.step().unwrap(), Step::Dispatched(key) if key.part() == 1));
    assert_eq!(outbox.step().unwrap(), Step::Idle);
}

/// R131: the tries of an effect, and the pause until the next, are remembered through a restart.
#[test]
fn tries_are_counted_through_a_restart() {
    let (mut shop, _service) = shop([1]);
    let outside = Outside::default();
    for tried in 1..3 {
        let mut outbox = shop.hub.outbox(payer(&outside, refusing(|_| true), 1), often()).unwrap();
        let step = outbox.step().unwrap();
        assert!(matches!(step, Step::Failed { tries, .. } if tries == tried), "{step:?}");
        let Step::Waiting(pause) = outbox.step().unwrap() else { panic!("it waits") };
        shop = shop.after(Crash::Power);
        let mut outbox = shop.hub.outbox(payer(&outside, refusing(|_| true), 1), often()).unwrap();
        assert_eq!(outbox.step().unwrap(), Step::Waiting(pause), "also if hub time went back");
        shop.pass(pause);
    }
    let mut outbox = shop.hub.outbox(payer(&outside, refusing(|_| true), 1), often()).unwrap();
    assert!(matches!(outbox.step().unwrap(), Step::SetAside(_)));
}

/// R131: an effect that waits holds up those of its ordering key, and no others.
#[test]
fn an_effect_that_waits_holds_up_its_own_key_alone() {
    let (shop, _service) = shop(1..=9);
    let outside = Outside::default();
    let refused = Arc::new(Mutex::new(true));
    let still = Arc::clone(&refused);
    let fate = refusing(move |user| user == 1 && *still.lock().unwrap());
    let mut outbox = shop.hub.outbox(payer(&outside, fate, 3), OutboxOptions::default()).unwrap();
    while !matches!(outbox.step().unwrap(), Step::Waiting(_)) {}
    assert_eq!(paid(&outside), [2, 3, 5, 6, 8, 9]);
    assert_eq!(outbox.waiting(), 3);
    let first = shop.hub.events(outbox.position()).unwrap().next().unwrap().unwrap();
    assert!(first.kind.keys().any(|key| key.read() == Some(1_u64)), "it is saved in front of what waits");
    *refused.lock().unwrap() = false;
    drain(&shop, &mut outbox);
    assert_eq!(paid(&outside)[6..], [1, 4, 7]);
}

/// R131: what fails too often is set aside, with all that is needed to see why; it is there after a restart, and is tried
/// again or dropped only when asked for.
#[test]
fn what_fails_too_often_is_set_aside_and_can_be_tried_again() {
    let (mut shop, _service) = shop(1..=4);
    shop.clock.set_wall_ms(1_700_000_000_000);
    let keys = keys(&shop);
    let outside = Outside::default();
    let never: Fate = Arc::new(|user, _| match user {
        1 => Err(Retry::never("no account")),
        2 => Err(Retry::new("not now")),
        _ => Ok(()),
    });
    let mut outbox = shop.hub.outbox(payer(&outside, never, 1), often()).unwrap();
    let steps = drain(&shop, &mut outbox);
    assert!(matches!(&steps[0], Step::SetAside(key) if key.to_string() == keys[&1]), "at once: {steps:?}");
    assert_eq!(paid(&outside), [3, 4], "what comes after goes on");
    shop = shop.after(Crash::Power);

    let mut outbox = shop.hub.outbox(payer(&outside, refusing(|user| user == 2), 1), often()).unwrap();
    let letters = outbox.dead_letters();
    let list = letters.list();
    let seen: Vec<_> = list
        .iter()
        .map(|letter| (letter.key.to_string(), **letter.effect.as_ref().unwrap(), letter.tries, letter.why.as_str()))
        .collect();
    assert_eq!(seen, [(keys[&1].clone(), 1, 1, "no account"), (keys[&2].clone(), 2, 3, "not now")]);
    assert!(list.iter().all(|letter| letter.at.timestamp_millis() >= 1_700_000_000_000 && !letter.again));
    assert_eq!(drain(&shop, &mut outbox), [], "not by itself");

    assert!(list.iter().all(|letter| letters.retry(&letter.key)));
    let steps = drain(&shop, &mut outbox);
    assert_eq!(steps[0], Step::Dispatched(list[0].key.clone()));
    assert_eq!(steps.last(), Some(&Step::SetAside(list[1].key.clone())), "it was tried three times again: {steps:?}");
    assert_eq!((steps.len(), paid(&outside)), (4, vec![3, 4, 1]));
    assert!(!letters.retry(&list[0].key), "it is there no more");
    assert_eq!(letters.list().len(), 1);

    assert!(letters.retry(&list[1].key));
    assert!(matches!(outbox.step().unwrap(), Step::Failed { tries: 1, .. }));
    assert!(letters.list()[0].again);
    assert!(matches!(outbox.step().unwrap(), Step::Waiting(_)));
    shop = shop.after(Crash::Power);
    let mut outbox = shop.hub.outbox(payer(&outside, always(), 1), often()).unwrap();
    assert!(outbox.dead_letters().list()[0].again, "what was asked for is not forgotten");
    assert_eq!(drain(&shop, &mut outbox), [Step::Dispatched(list[1].key.clone())]);
    assert_eq!(outbox.dead_letters().list().len(), 0);
    assert!(outside.lock().unwrap().iter().all(|(user, key)| *key == keys[user]));
}

/// R131: a letter is dropped for good when somebody says so.
#[test]
fn a_letter_is_dropped_only_by_hand() {
    let (shop, _service) = shop(1..=2);
    let outside = Outside::default();
    let never: Fate = Arc::new(|_, _| Err(Retry::never("no account")));
    let mut outbox = shop.hub.outbox(payer(&outside, never, 1), often()).unwrap();
    drain(&shop, &mut outbox);
    let letters = outbox.dead_letters();
    let key = letters.list()[0].key.clone();
    assert!(letters.discard(&key));
    assert_eq!(letters.list().len(), 2, "with the next step");
    assert_eq!(outbox.step().unwrap(), Step::Idle);
    assert!(!letters.discard(&key));
    drop(outbox);
    let after = shop.after(Crash::Power);
    let outbox = after.hub.outbox(payer(&outside, always(), 1), often()).unwrap();
    assert_eq!(outbox.dead_letters().list().len(), 1);
}

struct Careless;

impl Wake for Careless {
    fn wake(self: Arc<Self>) {
        panic!("a task");
    }
}

/// R111: a task of the application's that follows the events, and panics when it is woken, is not the caller's who asks for a
/// letter to be tried again.
#[test]
fn a_followers_waker_that_panics_is_not_the_callers() {
    let (shop, _service) = shop(1..=1);
    let outside = Outside::default();
    let never: Fate = Arc::new(|_, _| Err(Retry::never("no account")));
    let mut outbox = shop.hub.outbox(payer(&outside, never, 1), often()).unwrap();
    drain(&shop, &mut outbox);
    let mut tail = shop.hub.follow(0).unwrap();
    while tail.try_next().unwrap().is_some() {}
    let waker = Waker::from(Arc::new(Careless));
    let mut next = Box::pin(tail.next_async());
    assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let letters = outbox.dead_letters();
    let key = letters.list()[0].key.clone();
    assert!(letters.retry(&key));
    // Its list of waiters is the one thing that suffers.
    let _ = catch_unwind(AssertUnwindSafe(move || drop(next)));
}

/// R131: when the list is full nothing is dropped: what would be one more is tried on, and others go on beside it.
#[test]
fn a_full_list_drops_nothing() {
    let (shop, _service) = shop(1..=3);
    let outside = Outside::default();
    let options = OutboxOptions { letters_max: 1, ..often() };
    let never: Fate = Arc::new(|user, _| if user == 3 { Ok(()) } else { Err(Retry::never("no account")) });
    let mut outbox = shop.hub.outbox(payer(&outside, never, 3), options).unwrap();
    assert!(matches!(outbox.step().unwrap(), Step::SetAside(_)));
    for _ in 0..20 {
        match outbox.step().unwrap() {
            Step::Waiting(left) => shop.pass(left),
            step => assert!(!matches!(step, Step::SetAside(_) | Step::Idle), "{step:?}"),
        }
    }
    assert_eq!((paid(&outside), outbox.waiting()), (vec![3], 1));
    let letters = outbox.dead_letters();
    assert!(letters.discard(&letters.list()[0].key));
    let steps = drain(&shop, &mut outbox);
    assert!(matches!(steps.last(), Some(Step::SetAside(key)) if key.part() == 2), "{steps:?}");
}

/// A courier whose effects are questionable is stopped and named, with what came before it dispatched.
#[test]
fn an_event_whose_effects_cannot_be_told_stops_what_is_behind_it() {
    for (bad, message) in [(vec![666], "panicked"), (vec![5, 1_005], "have part 5")] {
        let (shop, service) = shop([1]);
        service.add_all(bad).unwrap();
        let position = shop.hub.events(0).unwrap().last().unwrap().unwrap().position;
        add(&shop, &service, 2);
        let outside = Outside::default();
        let mut outbox = shop.hub.outbox(payer(&outside, always(), 1), often()).unwrap();
        assert!(matches!(outbox.step().unwrap(), Step::Dispatched(_)));
        for _ in 0..2 {
            let error = outbox.step().unwrap_err().to_string();
            assert!(error.contains(message) && error.contains(&position.to_string()), "{error}");
        }
        assert_eq!(paid(&outside), [1]);
        let first = shop.hub.events(outbox.position()).unwrap().next().unwrap().unwrap();
        assert_eq!(first.position, position, "it goes on there");
    }
}

/// R131: nothing goes out that a power cut could call off.
#[test]
fn an_effect_goes_out_only_when_its_event_is_synced() {
    let (clock, disk) = (ManualClock::default(), MemoryDisk::new());
    let builder = Hub::builder().manual().clock(clock.clone());
    let hub = builder.clone().durability(Durability::Every(Duration::from_secs(10))).open_in_memory(&disk).unwrap();
    let shop = Shop::of(hub, clock, disk);
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let outside = Outside::default();
    let mut outbox = shop.hub.outbox(payer(&outside, always(), 1), often()).unwrap();
    add(&shop, &service, 1);
    assert!(shop.hub.events(0).unwrap().any(|event| event.unwrap().kind.keys().count() > 0), "it is written");
    assert_eq!(outbox.step().unwrap(), Step::Idle);
    shop.pass(Duration::from_secs(10));
    assert!(matches!(outbox.step().unwrap(), Step::Dispatched(_)));
    let never = builder.durability(Durability::Os).open_in_memory(&MemoryDisk::new()).unwrap();
    let error = never.outbox(payer(&outside, always(), 1), often()).unwrap_err();
    assert!(matches!(error, OutboxError::NeverSynced { .. }), "{error}");
}

/// R131: a bookmark that cannot be used is refused; told to begin anew, all goes out once more under the keys that it had.
#[test]
fn a_damaged_bookmark_is_refused_and_beginning_anew_repeats_the_keys() {
    let directory = tempfile::tempdir().unwrap();
    let hub = Hub::builder().manual().open(directory.path()).unwrap();
    let service = hub.register(Plain::new("plain")).unwrap();
    service.add_all(1..=5).unwrap();
    let outside = Outside::default();
    let open = |options| hub.outbox(payer(&outside, always(), 1), options);
    let mut outbox = open(often()).unwrap();
    while outbox.step().unwrap() != Step::Idle {}
    drop(outbox);
    assert_eq!(open(often()).unwrap().step().unwrap(), Step::Idle, "all was saved");
    let path = directory.path().join("outboxes/payments");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = open(often()).unwrap_err();
    assert!(matches!(&error, OutboxError::Damaged { id, .. } if id == "payments"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), bytes, "it is left as it is");
    let anew = OutboxOptions { after_damage: AfterDamage::BeginAnew, ..often() };
    let mut outbox = open(anew).unwrap();
    assert!(outbox.report().begun_anew.as_deref().unwrap().contains("checksum"), "{:?}", outbox.report());
    while outbox.step().unwrap() != Step::Idle {}
    let outside = outside.lock().unwrap();
    assert_eq!(outside.len(), 10);
    assert_eq!(outside[..5], outside[5..]);
}

/// R131: a bookmark that another hub wrote, and that would fit, calls off nothing.
#[test]
fn another_hubs_bookmark_calls_off_no_effect() {
    let clock = ManualClock::default();
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let open = |at: &tempfile::TempDir| {
        clock.advance(Duration::from_secs(1));
        let hub = Hub::builder().manual().clock(clock.clone()).open(at.path()).unwrap();
        let service = hub.register(Plain::new("plain")).unwrap();
        (hub, service)
    };
    for (number, directory) in (1..).zip(&directories) {
        let (hub, service) = open(directory);
        (0..4).for_each(|user| drop(service.add(&(100 * number + user)).unwrap()));
        hub.tick();
        if number == 1 {
            let mut outbox = hub.outbox(payer(&Outside::default(), always(), 1), often()).unwrap();
            while outbox.step().unwrap() != Step::Idle {}
        }
        hub.close().unwrap();
    }
    let [other, here] = directories.each_ref().map(|directory| directory.path().join("outboxes"));
    fs::create_dir_all(&here).unwrap();
    fs::copy(other.join("payments"), here.join("payments")).unwrap();
    let (hub, _service) = open(&directories[1]);
    let outside = Outside::default();
    let refused = hub.outbox(payer(&outside, always(), 1), often()).unwrap_err();
    assert!(matches!(&refused, OutboxError::Damaged { what, .. } if what.contains("another journal")), "{refused}");
    let options = OutboxOptions { after_damage: AfterDamage::BeginAnew, ..often() };
    let mut outbox = hub.outbox(payer(&outside, always(), 1), options).unwrap();
    while outbox.step().unwrap() != Step::Idle {}
    assert_eq!(paid(&outside), [200, 201, 202, 203]);
}

/// R131: an effect keeps its key through a compaction, also when another of its event's is erased; and what is erased
/// before it went out does not go out.
#[test]
fn keys_stay_through_a_compaction() {
    let (shop, service) = shop([]);
    service.add_all(1..=5).unwrap();
    let keys = keys(&shop);
    let outside = Outside::default();
    let mut outbox = shop.hub.outbox(payer(&outside, refusing(|user| user > 1), 1), often()).unwrap();
    assert!(matches!(outbox.step().unwrap(), Step::Dispatched(_)));
    drop(outbox);
    drop(service.delete(&[1, 3]).unwrap());
    shop.tick();
    shop.hub.close().unwrap();
    let hub = Hub::builder().manual().clock(shop.clock.clone()).compact(Compact::default());
    let shop = Shop::of(hub.open_in_memory(&shop.disk).unwrap(), shop.clock.clone(), shop.disk.clone());
    let mut outbox = shop.hub.outbox(payer(&outside, always(), 1), often()).unwrap();
    drain(&shop, &mut outbox);
    let outside = outside.lock().unwrap();
    assert_eq!(outside.iter().map(|(user, _)| *user).collect::<Vec<_>>(), [1, 2, 4, 5]);
    assert!(outside.iter().all(|(user, key)| *key == keys[user]), "{outside:?}");
}

/// R127, R131: effects of events that a compaction dropped are not lost in silence.
#[test]
fn an_outbox_that_lags_says_so() {
    let clock = ManualClock::default();
    clock.set_wall_ms(1_000_000);
    let shop = Shop::on(MemoryDisk::new(), clock.clone(), Limits::default());
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    add(&shop, &service, 1);
    clock.advance(Duration::from_secs(1_000));
    add(&shop, &service, 2);
    shop.hub.close().unwrap();
    let keep_events_since = DateTime::from_timestamp_millis(1_500_000);
    let compact = Compact { keep_events_since, ..Compact::default() };
    let hub = Hub::builder().manual().clock(clock).compact(compact).open_in_memory(&shop.disk).unwrap();
    let outside = Outside::default();
    let error = hub.outbox(payer(&outside, always(), 1), often()).unwrap_err();
    let OutboxError::Lagged { resume_at, .. } = error else { panic!("{error}") };
    let there = OutboxOptions { after_lag: AfterLag::BeginThere, ..often() };
    let mut outbox = hub.outbox(payer(&outside, always(), 1), there).unwrap();
    assert_eq!(outbox.report().lagged, Some(resume_at));
    while outbox.step().unwrap() != Step::Idle {}
    assert_eq!(paid(&outside), [2]);
}

/// R131: while one effect waits only so many of those behind it are kept in mind, and all go out in the end.
#[test]
fn a_stuck_effect_holds_the_window_and_nothing_is_lost() {
    let (shop, _service) = shop(1..=50);
    let outside = Outside::default();
    let refused = Arc::new(Mutex::new(true));
    let still = Arc::clone(&refused);
    let fate = refusing(move |user| user == 1 && *still.lock().unwrap());
    let options = OutboxOptions { window: 10, tries_max: 100, ..often() };
    let mut outbox = shop.hub.outbox(payer(&outside, fate, 100), options).unwrap();
    while !matches!(outbox.step().unwrap(), Step::Waiting(_)) {}
    assert_eq!(paid(&outside), (2..=10).collect::<Vec<_>>());
    let after = shop.after(Crash::Power);
    let mut again = after.hub.outbox(payer(&outside, always(), 100), options).unwrap();
    after.pass(Duration::from_secs(10));
    drain(&after, &mut again);
    let mut expected: Vec<u64> = (2..=10).collect();
    expected.push(1);
    expected.extend(11..=50);
    assert_eq!(paid(&outside), expected, "none of those that went before was repeated");
}

/// R131: on a thread of its own it dispatches what comes, tries what others ask for, and ends with the hub.
#[test]
fn it_runs_until_the_hub_is_closed() {
    let hub = Hub::builder().open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Plain::new("plain")).unwrap();
    let outside = Outside::default();
    let (told, heard) = std::sync::mpsc::channel();
    let refused = Arc::new(Mutex::new(true));
    let still = Arc::clone(&refused);
    let fate: Fate = Arc::new(move |user, _| {
        told.send(user).unwrap();
        if user == 3 && *still.lock().unwrap() { Err(Retry::never("no account")) } else { Ok(()) }
    });
    let mut outbox = hub.outbox(payer(&outside, fate, 1), OutboxOptions::default()).unwrap();
    let letters = outbox.dead_letters();
    let runner = thread::spawn(move || outbox.run().map(|()| outbox.position()));
    for user in 1..=5 {
        drop(service.add(&user).unwrap());
    }
    assert_eq!((0..5).map(|_| heard.recv().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    *refused.lock().unwrap() = false;
    let letter = letters.list().remove(0);
    assert!(letters.retry(&letter.key));
    assert_eq!(heard.recv().unwrap(), 3);
    hub.close().unwrap();
    let position = runner.join().unwrap().unwrap();
    assert_eq!(paid(&outside), [1, 2, 4, 5, 3]);
    assert!(letters.list().is_empty());
    let last = hub.events(0).unwrap().last().unwrap().unwrap();
    assert!(position <= last.next);
}

/// R131: what cannot be saved is an error, and nothing more goes out before it is.
#[test]
fn nothing_goes_out_while_nothing_can_be_saved() {
    let directory = tempfile::tempdir().unwrap();
    let hub = Hub::builder().manual().open(directory.path()).unwrap();
    let service = hub.register(Plain::new("plain")).unwrap();
    service.add_all(1..=3).unwrap();
    let outside = Outside::default();
    let options = OutboxOptions { save_every: 1, ..often() };
    let mut outbox = hub.outbox(payer(&outside, always(), 1), options).unwrap();
    let in_the_way = directory.path().join("outboxes");
    fs::write(&in_the_way, b"no directory").unwrap();
    assert!(matches!(outbox.step().unwrap(), Step::Dispatched(_)));
    for _ in 0..3 {
        let error = outbox.step().unwrap_err();
        assert!(matches!(&error, OutboxError::Save { id, .. } if id == "payments"), "{error}");
    }
    assert_eq!(paid(&outside), [1]);
    fs::remove_file(&in_the_way).unwrap();
    while outbox.step().unwrap() != Step::Idle {}
    assert_eq!(paid(&outside), [1, 2, 3]);
}

/// One of each id is open at a time.
#[test]
fn one_of_each_id_is_open_at_a_time() {
    let (shop, _service) = shop([]);
    let outside = Outside::default();
    let first = shop.hub.outbox(payer(&outside, always(), 1), often()).unwrap();
    let second = shop.hub.outbox(payer(&outside, always(), 1), often()).unwrap_err();
    assert!(matches!(second, OutboxError::InUse { .. }), "{second}");
    drop(first);
    drop(shop.hub.outbox(payer(&outside, always(), 1), often()).unwrap());
}
