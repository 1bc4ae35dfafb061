//! Areas: the lanes of an area are a service of their own, which those work on who are activated for it; an area is moved to
//! other workers while it runs, and no key is reordered.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use commissary::{
    ActivateError, Ask, Claim, LaneKey, Lease, LeaseError, Outcome, Policy, Reporter, Seat, Service, ServiceHandle,
    Submitted, Verdict,
};
use common::{Shop, assert_adds_up, claim, exact};

/// Numbers; the hundreds are the fridge. A fridge is a lane, whose key begins with its area; its state is the list of what was
/// executed, each with its client.
#[derive(Debug, Clone, Copy)]
struct Area(&'static str);

impl Service for Area {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        self.0
    }

    fn policy(&self) -> Policy {
        Policy { linger: Duration::ZERO, bucket_subjects: 3, ..exact() }
    }

    fn judge(&self, _: &u64, _: &u64, _: Reporter) -> Verdict {
        Verdict::Accept
    }

    fn lane(&self, command: &u64) -> Option<LaneKey> {
        Some(LaneKey::from(format!("{}/{}", self.0, command / 100)))
    }
}

type Log = Vec<(u64, u64)>;

/// Executes the first `most` commands of a lease.
fn execute(seat: &Seat<Area>, lease: &Lease<Area>, most: usize) -> Result<Submitted, LeaseError> {
    let mut log: Log = lease.lane().map(|lane| lane.state().unwrap()).unwrap_or_default();
    let done: Vec<u64> = lease.owed().take(most).collect();
    log.extend(done.iter().map(|command| (*command, seat.client_id().value())));
    lease.report_lane(done.into_iter().map(|command| (command, 0)), &log)
}

/// Claims as much as there is and executes it; how many commands.
fn work(shop: &Shop, seat: &Seat<Area>) -> usize {
    shop.settle();
    let Claim::Leased(grant) = seat.claim(Ask::buckets(2)).unwrap() else { return 0 };
    let done = grant.into_iter().map(|lease| execute(seat, &lease, 9).unwrap().accepted()).sum();
    shop.settle();
    done
}

/// What was executed in each fridge, from the states of its lanes.
fn logs(service: &ServiceHandle<Area>) -> BTreeMap<u64, Log> {
    let of = |fridge: u64| service.lane(&LaneKey::from(format!("{}/{fridge}", service.id()))).unwrap();
    (1..=4).filter_map(|fridge| Some((fridge, of(fridge)?.state().unwrap()))).collect()
}

/// R129: an area moves to the workers of another one while it runs: some of those who had it are barred in the middle of a lease,
/// some leave, some go on for a while beside the new ones; the hub is started anew in between. In every fridge the commands
/// are executed in the order in which they came, each once.
#[test]
fn an_area_moves_to_other_workers_and_no_key_is_reordered() {
    let shop = Shop::open();
    let [north, south] = [Area("north"), Area("south")].map(|area| shop.hub.register(area).unwrap());
    let add = |service: &ServiceHandle<Area>, places: std::ops::Range<u64>| {
        let all = places.flat_map(|place| (1..=4).map(move |fridge| fridge * 100 + place));
        assert_eq!(service.add_all(all).unwrap().full, 0);
    };
    add(&north, 0..10);
    add(&south, 0..10);
    shop.settle();
    let northern = [1, 2, 3].map(|id| shop.seat(&north, id));
    let southern = [4, 5].map(|id| shop.seat(&south, id));
    let held: Vec<Lease<Area>> = northern.iter().flat_map(|seat| claim(seat, 1)).collect();
    for (seat, lease) in northern.iter().zip(&held) {
        assert_eq!(execute(seat, lease, 2).unwrap().outcomes, vec![Outcome::Accepted; 2]);
    }
    assert!(southern.iter().all(|seat| work(&shop, seat) > 0), "the other area goes on by itself");
    // The move: new workers come; one of the old ones is barred, one leaves, one stays for a while.
    let newcomers = [4, 5].map(|id| shop.seat(&north, id));
    assert!(work(&shop, &newcomers[0]) > 0, "the fridges that nobody holds, at once");
    let _ = north.suspend(1).unwrap();
    let mut held = held.into_iter();
    let (barred, leaving, staying) = (held.next().unwrap(), held.next().unwrap(), held.next().unwrap());
    drop(leaving);
    add(&north, 10..15);
    assert!(newcomers.iter().all(|seat| work(&shop, seat) > 0), "what was put back, from where it was left");
    let late = execute(&northern[0], &barred, 1).unwrap();
    assert_eq!(late.accepted(), 0, "{late:?}");
    let barred = shop.client(1).activate(&north).map(|_| ());
    assert!(matches!(barred, Err(ActivateError::Suspended)), "{barred:?}");
    let token = staying.into_token();
    shop.tick();
    let shop = shop.restart();
    let [north, south] = [Area("north"), Area("south")].map(|area| shop.hub.register(area).unwrap());
    shop.tick();
    let staying = shop.seat(&north, 3);
    let lease = staying.resume(&token).unwrap();
    assert_eq!(execute(&staying, &lease, 9).unwrap().accepted(), 1);
    let seats = [4, 5].map(|id| [shop.seat(&north, id), shop.seat(&south, id)]);
    while seats.iter().flatten().map(|seat| work(&shop, seat)).sum::<usize>() > 0 {}
    for (service, n) in [(&north, 15), (&south, 10)] {
        for (fridge, log) in logs(service) {
            let executed: Vec<u64> = log.iter().map(|(command, _)| *command).collect();
            assert_eq!(executed, (0..n).map(|place| fridge * 100 + place).collect::<Vec<_>>(), "{log:?}");
        }
    }
    let moved = logs(&north).into_values().filter(|log| log.iter().any(|(_, client)| *client <= 3)).count();
    assert_eq!((moved, logs(&north).len()), (3, 4), "three fridges were worked on by both");
    assert_adds_up(&shop.hub);
}
