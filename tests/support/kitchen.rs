//! A service with lanes: numbers are commands, a lane's state is the list of those that were executed.
#![allow(clippy::allow_attributes, dead_code, reason = "each test crate uses its own part of these helpers")]

use std::time::Duration;

use chrono::{DateTime, Utc};
use commissary::{
    Ask, Claim, LaneKey, Lease, Outcome, Policy, Reporter, Seat, Service, ServiceHandle, Submitted, Verdict,
};

use crate::common::{Shop, assert_adds_up, exact};

/// Subjects of one lane.
pub(crate) const PER_LANE: u64 = 1_000_000;

/// Commands are numbers: the millions are the lane, 0 is none; what is left is the place in the order, the thousands of it a
/// deadline in minutes. A report names commands that it sends to other lanes. The report `[0]` is rejected.
#[derive(Debug, Clone)]
pub(crate) struct Kitchen(pub(crate) Policy);

impl Kitchen {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy { linger: Duration::ZERO, max_depth: 9, ..exact() };
        change(&mut policy);
        Self(policy)
    }
}

impl Service for Kitchen {
    type Subject = u64;
    type Report = Vec<u64>;

    fn id(&self) -> &'static str {
        "kitchen"
    }

    fn policy(&self) -> Policy {
        self.0.clone()
    }

    fn judge(&self, _command: &u64, sends: &Vec<u64>, _reporter: Reporter) -> Verdict {
        if *sends == [0] { Verdict::Reject("as asked for".to_owned()) } else { Verdict::Accept }
    }

    fn discover(&self, _command: &u64, sends: &Vec<u64>, found: &mut Vec<u64>) {
        found.extend(sends);
    }

    fn lane(&self, command: &u64) -> Option<LaneKey> {
        match *command / PER_LANE {
            0 => None,
            99 => Some(LaneKey::from("")),
            98 => Some(LaneKey::from(vec![7; 10_000])),
            lane => Some(LaneKey::from(lane)),
        }
    }

    fn deadline(&self, command: &u64) -> Option<DateTime<Utc>> {
        let minutes = i64::try_from(command % PER_LANE / 1_000).unwrap();
        (minutes > 0).then(|| DateTime::from_timestamp(minutes * 60, 0).unwrap())
    }
}

/// The `place`th command of a lane, to be executed within so many minutes.
pub(crate) fn within(minutes: u64, lane: u64, place: u64) -> u64 {
    command(lane, minutes * 1_000 + place)
}

/// The `place`th command of a lane.
pub(crate) fn command(lane: u64, place: u64) -> u64 {
    lane * PER_LANE + place
}

pub(crate) fn commands(lane: u64, places: impl IntoIterator<Item = u64>) -> Vec<u64> {
    places.into_iter().map(|place| command(lane, place)).collect()
}

/// The lane's state is the list of the commands that were executed.
pub(crate) type Log = Vec<u64>;

pub(crate) fn log_of(lease: &Lease<Kitchen>) -> Log {
    lease.lane().expect("a lease of a lane").state().expect("a log")
}

/// What is owed in a lease of a lane.
pub(crate) fn owed(lease: &Lease<Kitchen>) -> Vec<u64> {
    lease.owed().collect()
}

/// Executes the first `most` commands that a lease owes, one after the other, and keeps the rest.
pub(crate) fn execute(lease: &Lease<Kitchen>, most: usize) -> Submitted {
    let mut log = log_of(lease);
    let done: Vec<u64> = owed(lease).into_iter().take(most).collect();
    log.extend(&done);
    lease.report_lane(done.into_iter().map(|command| (command, vec![])), &log).expect("the lease is alive")
}

pub(crate) fn outcomes(submitted: &Submitted) -> &[Outcome] {
    &submitted.outcomes
}

/// A hub with one service and `clients` clients.
pub(crate) fn kitchen(
    policy: impl FnOnce(&mut Policy),
    clients: u64,
) -> (Shop, ServiceHandle<Kitchen>, Vec<Seat<Kitchen>>) {
    let shop = Shop::open();
    let service = shop.hub.register(Kitchen::with(policy)).unwrap();
    let seats = shop.seats(&service, clients);
    (shop, service, seats)
}

/// The same hub in another process.
pub(crate) fn again(shop: &Shop, seats: u64) -> (ServiceHandle<Kitchen>, Vec<Seat<Kitchen>>) {
    let service = shop.hub.register(Kitchen::new()).unwrap();
    shop.tick();
    let seats = shop.seats(&service, seats);
    (service, seats)
}

/// Executes everything, lease by lease; the commands in the order of their execution.
pub(crate) fn drain(shop: &Shop, seat: &Seat<Kitchen>) -> Vec<u64> {
    let mut done = Vec::new();
    // Once more after nothing was found: all of the next pool may have been taken back.
    for _ in 0..2 {
        shop.settle();
        while let Claim::Leased(grant) = seat.claim(Ask::one()).unwrap() {
            for lease in grant {
                done.extend(owed(&lease));
                let submitted =
                    if lease.lane().is_some() { execute(&lease, 1_000) } else { lease.submit(plain(&lease)).unwrap() };
                assert!(submitted.outcomes.iter().all(|outcome| *outcome == Outcome::Accepted), "{submitted:?}");
            }
            shop.settle();
        }
    }
    assert_adds_up(&shop.hub);
    done
}

pub(crate) fn plain(lease: &Lease<Kitchen>) -> Vec<(u64, Vec<u64>)> {
    lease.subjects().map(|command| (command, vec![])).collect()
}

pub(crate) trait SeatOf {
    fn stats_of_seat(&self, client: u64) -> commissary::SeatStats;
}

impl SeatOf for ServiceHandle<Kitchen> {
    fn stats_of_seat(&self, client: u64) -> commissary::SeatStats {
        self.seat_stats(client).expect("it has a seat")
    }
}
