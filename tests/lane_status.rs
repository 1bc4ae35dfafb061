//! Lanes read without a lease: their state with the position that it reflects, and which of them wait.

mod common;
#[path = "support/kitchen.rs"]
mod kitchen;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use commissary::{Durability, Hub, LaneKey, LaneStatus, MemoryDisk, Registration, ServiceHandle};
use common::claim;
use kitchen::{Kitchen, Log, again, command, commands, execute, kitchen, owed};
use serde_json::json;

fn status(service: &ServiceHandle<Kitchen>, lane: u64) -> Option<LaneStatus> {
    service.lane(&LaneKey::from(lane)).unwrap()
}

/// The version, what is owed and the log.
fn seen(service: &ServiceHandle<Kitchen>, lane: u64) -> (u64, u64, Log) {
    let status = status(service, lane).unwrap();
    (status.version, status.owed, status.state().unwrap())
}

/// R124: a lane is read without a lease, held or not, busy or idle, now and after a restart; with the position that it
/// reflects, and an age that is 0 while nothing newer is in the journal.
#[test]
fn a_lane_is_read_with_the_position_that_it_reflects() {
    let (shop, service, seats) = kitchen(|_| {}, 1);
    assert_eq!(status(&service, 1), None);
    let added = service.add(&command(1, 0)).unwrap();
    assert_eq!(status(&service, 1), None, "not visible yet");
    service.add_all([commands(1, 1..6), commands(2, 0..1)].concat()).unwrap();
    let first = status(&service, 1).unwrap();
    assert_eq!((seen(&service, 1), seen(&service, 2)), ((0, 6, vec![]), (0, 1, vec![])));
    assert!(first.position > added.position().unwrap() && first.age == Duration::ZERO, "{first:?}");
    shop.settle();
    let leases = claim(&seats[0], 2);
    let lease = leases.iter().find(|lease| owed(lease).len() == 4).unwrap();
    shop.tick();
    assert_eq!(seen(&service, 1), (0, 6, vec![]), "what is held is owed");
    let submitted = execute(lease, 2);
    assert_eq!(lease.lane().unwrap().version, 2, "who holds it sees more");
    assert_eq!(seen(&service, 1), (0, 6, vec![]), "on its way");
    shop.tick();
    let second = status(&service, 1).unwrap();
    assert_eq!(seen(&service, 1), (2, 4, commands(1, 0..2)));
    assert!(second.position > submitted.ticket.position().unwrap());
    // Nothing is newer, however long ago it was.
    shop.clock.advance(Duration::from_secs(60));
    assert_eq!(status(&service, 1).unwrap().age, Duration::ZERO);
    drop(leases);
    shop.tick();
    assert!(second.state::<String>().is_err());
    let shop = shop.restart();
    let (service, _) = again(&shop, 1);
    assert_eq!(seen(&service, 1), (2, 4, commands(1, 0..2)));
    let named = shop.hub.service("kitchen").unwrap();
    let told = named.lane(b"[0,0,0,0,0,0,0,1]").unwrap().unwrap();
    let told =
        json!([told["key"], told["version"], told["owed"], told["age_ms"], told["state"]["postcard"].is_string()]);
    assert_eq!(told, json!(["\0\0\0\0\0\0\0\u{1}", 2, 4, 0, true]));
    assert_eq!(named.lane(br#""fridge 7""#).unwrap(), None);
    // What is told of a key is what is asked with, also where the key is no text.
    service.add_all(commands(200, 0..10)).unwrap();
    shop.pass(Duration::from_secs(1));
    let lanes = named.lanes(10);
    for told in lanes.as_array().unwrap() {
        let again = named.lane(told["key"].to_string().as_bytes()).unwrap().unwrap();
        assert_eq!((&again["key"], again["owed"].as_u64() > told["waiting"].as_u64()), (&told["key"], true));
    }
    assert!(lanes.as_array().unwrap().iter().any(|told| told["key"] == json!([0, 0, 0, 0, 0, 0, 0, 200])));
    assert!(named.lane(b"7").is_err());
}

/// R130: the queue delay of each lane: those whose fronts wait longest come first, with what waits in them; what is held does
/// not wait, and what was put back waits since it was taken in.
#[test]
fn the_lanes_that_wait_longest_are_listed() {
    let (shop, service, seats) = kitchen(|policy| policy.bucket_subjects = 2, 1);
    let wait = |time: u64| shop.pass(Duration::from_secs(time));
    let told = || -> Vec<(LaneKey, usize, u64, bool)> {
        let lanes = service.lanes(10);
        lanes.into_iter().map(|lane| (lane.key, lane.waiting, lane.wait.as_secs(), lane.running)).collect()
    };
    assert_eq!((told(), service.stats().lane_wait), (vec![], Duration::ZERO));
    service.pause().unwrap().progress().unwrap();
    for (lane, n) in [(1, 5), (2, 1), (3, 3)] {
        service.add_all(commands(lane, 0..n)).unwrap();
        wait(10);
    }
    service.activate().unwrap().progress().unwrap();
    let [one, two, three] = [1_u64, 2, 3].map(LaneKey::from);
    shop.tick();
    // A bucket of each was cut; what is behind it waits for its turn.
    assert_eq!(told(), [(one.clone(), 3, 30, true), (three.clone(), 1, 10, true)]);
    assert_eq!((service.lanes(1).len(), service.stats().lane_wait.as_secs()), (1, 30));
    assert_eq!(status(&service, 1).unwrap().wait, Some(Duration::from_secs(30)));
    assert_eq!((status(&service, 2).unwrap().wait, status(&service, 2).unwrap().owed), (None, 1));
    let leases = claim(&seats[0], 3);
    for lease in &leases {
        execute(lease, 1).ticket.progress().unwrap();
    }
    wait(5);
    assert_eq!(told(), [(one.clone(), 3, 35, true), (three.clone(), 1, 15, true)]);
    service.pause().unwrap().progress().unwrap();
    drop(leases);
    wait(5);
    assert_eq!(told(), [(one.clone(), 4, 40, false), (three.clone(), 2, 20, false)]);
    assert_eq!(service.lanes(10)[1].key, three);
    let named = shop.hub.service("kitchen").unwrap().lanes(1);
    assert_eq!(named, json!([{ "key": one.as_str(), "waiting": 4, "wait_ms": 40_000, "running": false }]));
    assert_eq!(two, LaneKey::from(2_u64));
}

/// Ends those who read, also if a check fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// R124: while a lane is worked on every read of it is of one moment: state and version agree, and versions and positions only
/// grow.
#[test]
fn reads_beside_work_are_whole() {
    const COMMANDS: u64 = 400;
    let hub = Hub::builder().durability(Durability::Os).open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Kitchen::new()).unwrap();
    let seat = hub.register_client(&Registration::new(1, "one".to_owned())).unwrap().client.activate(&service).unwrap();
    service.add_all(commands(1, 0..COMMANDS)).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut version, mut position) = (0, 0);
            while !over.load(Ordering::SeqCst) {
                let read = status(&service, 1).unwrap();
                assert_eq!(read.state::<Log>().unwrap(), commands(1, 0..read.version));
                assert_eq!(read.owed, COMMANDS - read.version);
                assert!(read.version >= version && read.position >= position);
                (version, position) = (read.version, read.position);
            }
        });
        let _end = End(&over);
        let mut done = 0;
        while done < COMMANDS {
            if let Some(mut grant) = seat.claim(commissary::Ask::one()).unwrap().leased() {
                let lease = grant.pop().unwrap();
                while let most @ 1.. = owed(&lease).len().min(1) {
                    done += execute(&lease, most).accepted() as u64;
                }
            } else {
                let _ = seat.wait_ready(Duration::from_millis(5));
            }
        }
    });
    hub.close().unwrap();
}
