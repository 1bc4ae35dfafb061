//! Following the events while they come: each reader at its own pace, nothing lost in silence, nobody held up.

mod common;

use std::thread;
use std::time::Duration;

use chrono::DateTime;
use commissary::{
    Compact, Crash, Durability, Event, EventKind, EventTail, Hub, Limits, ManualClock, MemoryDisk, ReadError,
    ServiceHandle,
};
use common::{Plain, Shop, block_on};

/// Longer than any test takes: a wait that ends by it has failed.
const EVER: Duration = Duration::from_secs(300);

fn events(hub: &Hub, from: u64) -> Vec<Event> {
    hub.events(from).unwrap().map(Result::unwrap).collect()
}

/// What can be had now, one at a time.
fn now(tail: &mut EventTail) -> Vec<Event> {
    std::iter::from_fn(|| tail.try_next().unwrap()).collect()
}

/// A future that any executor takes.
fn movable<F: Future + Send>(future: F) -> F {
    future
}

fn users(events: &[Event]) -> Vec<u64> {
    events.iter().flat_map(|event| event.kind.keys()).map(|key| key.read().unwrap()).collect()
}

fn add(shop: &Shop, service: &ServiceHandle<Plain>, user: u64) {
    drop(service.add(&user).unwrap());
    shop.tick();
}

/// R127, R132: each follower has its own place and pace, and all see the same events in the same order, as a walk does.
#[test]
fn followers_see_what_comes_each_at_its_own_pace() {
    let shop = Shop::open();
    let mut eager = shop.hub.follow(0).unwrap();
    let mut slow = shop.hub.follow(0).unwrap();
    let first = now(&mut eager);
    assert_eq!((first.len(), now(&mut eager)), (1, vec![]), "the opening, and no more yet");
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let mut seen = first;
    for user in 1..=20 {
        add(&shop, &service, user);
        let news = now(&mut eager);
        assert!(users(&news) == [user], "{news:?}");
        seen.extend(news);
        if user % 5 == 0 {
            assert!(slow.try_next().unwrap().is_some());
        }
    }
    let all = events(&shop.hub, 0);
    assert_eq!(seen, all);
    assert_eq!(slow.position(), all[3].next);
    assert_eq!(now(&mut slow), all[4..]);
    let mut late = shop.hub.follow(all[9].next).unwrap();
    assert_eq!(now(&mut late), all[10..]);
    assert_eq!((late.position(), slow.position(), eager.position()), (all[21].next, all[21].next, all[21].next));
}

/// R134: a service that was registered after the walk began is named.
#[test]
fn what_comes_is_named_whenever_it_came() {
    let shop = Shop::open();
    let mut tail = shop.hub.follow(0).unwrap();
    for name in ["first", "second"] {
        let service = shop.hub.register(Plain::new(name)).unwrap();
        add(&shop, &service, 7);
        let named: Vec<String> = now(&mut tail)
            .iter()
            .filter_map(|event| event.kind.service())
            .map(|service| format!("{} {}", service.number, service.id))
            .collect();
        let expected = format!("{} {name}", if name == "first" { 1 } else { 2 });
        assert_eq!(named, [expected.clone(), expected]);
    }
}

/// R127: positions that are none are refused as by a walk.
#[test]
fn positions_that_are_none_are_refused() {
    let shop = Shop::open();
    let end = events(&shop.hub, 0)[0].next;
    assert!(matches!(shop.hub.follow(end + 1), Err(ReadError::BeyondEnd { position, .. }) if position == end + 1));
    assert!(matches!(shop.hub.follow(1), Err(ReadError::NotAPosition { position: 1 })));
    assert_eq!(now(&mut shop.hub.follow(end).unwrap()), []);
}

/// R127: a thread and a task that wait are told of what comes, and end when the hub is closed and all was seen.
#[test]
fn those_who_wait_are_told_and_end_with_the_hub() {
    for durability in [Durability::Sync, Durability::Os, Durability::Every(Duration::from_millis(1))] {
        let hub = Hub::builder().durability(durability).open_in_memory(&MemoryDisk::new()).unwrap();
        let service = hub.register(Plain::new("plain")).unwrap();
        let (mut by_thread, mut by_task) = (hub.follow(0).unwrap(), hub.follow(0).unwrap());
        let thread = thread::spawn(move || by_thread.by_ref().map(Result::unwrap).collect::<Vec<_>>());
        let task = thread::spawn(move || {
            block_on(movable(async move {
                let mut seen = Vec::new();
                while let Some(event) = by_task.next_async().await.unwrap() {
                    seen.push(event);
                }
                seen
            }))
        });
        for user in 1..=50 {
            service.add(&user).unwrap().wait_durable().unwrap();
        }
        drop(service.add(&51).unwrap());
        hub.close().unwrap();
        let (thread, task) = (thread.join().unwrap(), task.join().unwrap());
        assert_eq!(users(&thread), (1..=51).collect::<Vec<_>>(), "what the closing journaled too");
        assert_eq!(thread, task);
        let mut after = hub.follow(thread[0].next).unwrap();
        assert_eq!(after.by_ref().count(), thread.len() - 1, "a closed hub is read to its end");
        assert!(after.next_within(EVER).unwrap().is_none());
    }
}

/// R127: a wait that nothing ends is over in time.
#[test]
fn a_wait_for_nothing_ends_in_time() {
    let shop = Shop::open();
    let mut tail = shop.hub.follow(events(&shop.hub, 0)[0].next).unwrap();
    assert!(tail.next_within(Duration::ZERO).unwrap().is_none());
    drop(shop.hub.register(Plain::new("plain")).unwrap());
    shop.tick();
    assert!(tail.next_within(EVER).unwrap().is_some());
}

/// R127: whoever falls behind gets everything all the same, and the writer writes on.
#[test]
fn a_stuck_follower_holds_nobody_up_and_loses_nothing() {
    let shop = Shop::open();
    let mut stuck = shop.hub.follow(0).unwrap();
    assert!(stuck.try_next().unwrap().is_some());
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    for user in 0..2_000_u64 {
        drop(service.add(&user).unwrap());
        if user % 10 == 0 {
            shop.tick();
        }
    }
    shop.tick();
    assert_eq!(service.stats().subjects_known, 2_000);
    assert_eq!(users(&now(&mut stuck)), (0..2_000).collect::<Vec<_>>());
}

/// R132: whatever a follower was shown under `Durability::Sync` survives a power cut, at every step.
#[test]
fn what_was_shown_survives_a_power_cut() {
    let shop = Shop::open();
    let mut tail = shop.hub.follow(0).unwrap();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let mut seen = now(&mut tail);
    for user in 1..=5 {
        drop(service.add(&user).unwrap());
        assert_eq!(now(&mut tail), [], "it only waits in the queue");
        shop.tick();
        seen.extend(now(&mut tail));
        let after = shop.after(Crash::Power);
        assert_eq!(events(&after.hub, 0)[..seen.len()], seen);
    }
    assert_eq!(users(&seen), [1, 2, 3, 4, 5]);
}

fn at(second: i64) -> i64 {
    1_700_000_000_000 + second * 1_000
}

fn compacted_since(disk: &MemoryDisk, clock: &ManualClock, second: i64) -> Hub {
    let keep_events_since = DateTime::from_timestamp_millis(at(second));
    let compact = Compact { keep_events_since, ..Compact::default() };
    Hub::builder().manual().clock(clock.clone()).compact(compact).open_in_memory(disk).unwrap()
}

/// R127: who begins before what a compaction left is told from where on the events can be followed; and who meets a gap on
/// the way is told once, and goes on behind it.
#[test]
fn a_follower_is_told_once_of_what_is_gone_and_goes_on() {
    let clock = ManualClock::default();
    let shop = Shop::on(MemoryDisk::new(), clock.clone(), Limits::default());
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    // The wall clock goes back in the middle.
    for (user, second) in [(1, 10), (2, 20), (3, 5), (4, 30)] {
        clock.set_wall_ms(at(second));
        add(&shop, &service, user);
    }
    let before = events(&shop.hub, 0);
    shop.hub.close().unwrap();

    let hub = compacted_since(&shop.disk, &clock, 15);
    let error = hub.follow(0).unwrap_err();
    let ReadError::Lagged { resume_at } = error else { panic!("{error}") };
    let mut tail = hub.follow(resume_at).unwrap();
    let second = tail.try_next().unwrap().unwrap();
    assert_eq!(users(std::slice::from_ref(&second)), [2]);
    let gap = tail.try_next().unwrap_err();
    let gone = before.iter().find(|event| users(std::slice::from_ref(event)) == [3]).unwrap();
    assert!(matches!(gap, ReadError::Lagged { resume_at } if resume_at == gone.position + 1), "{gap}");
    assert_eq!(tail.position(), gone.position + 1, "the place to go on, whoever reads next");
    let rest = now(&mut tail);
    assert_eq!(users(&rest), [4]);
    assert!(matches!(rest[1].kind, EventKind::Opened { boot: 2 }));
    assert_eq!(now(&mut hub.follow(gone.position + 1).unwrap()), rest);
}

/// R127: a follower keeps neither the hub open nor its directory locked.
#[test]
fn a_follower_outlives_its_hub() {
    let directory = tempfile::tempdir().unwrap();
    let hub = Hub::builder().manual().open(directory.path()).unwrap();
    let mut tail = hub.follow(0).unwrap();
    drop(hub);
    let again = Hub::builder().manual().open(directory.path()).unwrap();
    assert_eq!(tail.by_ref().count(), 1, "the first hub's opening, and then its end");
    assert_eq!(events(&again, 0).len(), 2);
}

/// R127: a walk over a journal that was damaged since says so once and ends; it does not go round for ever.
#[test]
fn a_walk_ends_at_damage() {
    let directory = tempfile::tempdir().unwrap();
    let hub = Hub::builder().manual().open(directory.path()).unwrap();
    let service = hub.register(Plain::new("plain")).unwrap();
    service.add_all([1, 2, 3]).unwrap();
    let mut tail = hub.follow(0).unwrap();
    let path = directory.path().join("journal");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[last - 8] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let seen: Vec<_> = tail.by_ref().take(20).collect();
    let failed = seen.iter().filter(|event| event.is_err()).count();
    assert_eq!((failed, seen.last().is_some_and(Result::is_err)), (1, true), "{seen:?}");
    assert!(tail.try_next().is_err(), "asked again it looks again");
}
