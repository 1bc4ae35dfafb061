//! The workers. Half of them are as they should be.

use std::thread;
use std::time::Duration;

use commissary::{
    ActivateError, AddError, Ask, Claim, ClaimError, Client, Error, HubError, Lease, LeaseError, LeaseToken,
    RegisterClientError, Registration, Seat, Submitted, UrgentError,
};

use crate::Failure;
use crate::dice::Dice;
use crate::shop::{Check, GRACE, LEASE, Shop};

/// Ids of the workers begin here.
const FIRST_ID: u64 = 1_001;
/// Buckets that a worker asks for at a time.
const BUCKETS: u32 = 2;

/// What makes a worker more than a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    Steady,
    /// Crashes with leases in hand, again and again, and comes back.
    Crashes,
    /// Crashes with leases in hand, for ever.
    Vanishes,
    /// Now and then takes longer than a lease lasts.
    Dawdles,
    /// Deregisters with leases in hand, and registers again.
    Leaves,
    /// Its reports are often nonsense at first, and not always right in the end.
    Sloppy,
    /// Reports on subjects it was never given, under tokens it never got.
    Meddles,
    /// Asks for more than it may, now and then.
    Grabs,
}

impl Habit {
    fn of(place: u64) -> Self {
        match place {
            2 => Self::Crashes,
            3 => Self::Dawdles,
            5 => Self::Sloppy,
            7 => Self::Meddles,
            8 => Self::Leaves,
            10 => Self::Vanishes,
            11 => Self::Grabs,
            _ => Self::Steady,
        }
    }
}

/// How a round of the counters ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    Worked,
    NothingThere,
    /// The worker is gone. The hub is not told, or was told already.
    Gone,
}

pub(crate) struct Worker<'a> {
    shop: &'a Shop<'a>,
    place: u64,
    habit: Habit,
    dice: Dice,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(shop: &'a Shop<'a>, place: u64) -> Self {
        Self { shop, place, habit: Habit::of(place), dice: Dice::new(shop.seed, place) }
    }

    pub(crate) fn run(mut self) -> Result<(), Failure> {
        while !self.shop.is_closing() {
            let details = Registration::new(FIRST_ID + self.place, format!("worker_{}", self.place + 1));
            let client = patiently(|| self.shop.hub.register_client(&details))?.client;
            let mut seats = Vec::new();
            for counter in &self.shop.counters {
                seats.push(patiently(|| client.activate(&counter.service))?);
            }
            self.work(&client, &seats)?;
            if self.habit == Habit::Vanishes {
                return Ok(());
            }
            self.shop.pause(self.dice.up_to(LEASE + GRACE * 2));
        }
        Ok(())
    }

    /// Works until the shop closes or the worker is gone. It begins with its favourite counter.
    fn work(&mut self, client: &Client, seats: &[Seat<Check>]) -> Result<(), Failure> {
        let favourite = usize::try_from(self.place)? % seats.len();
        while !self.shop.is_closing() {
            let mut round = Round::NothingThere;
            for place in (favourite..seats.len()).chain(0..favourite) {
                round = self.round(client, &seats[place], self.shop.counters[place].effort)?;
                if round != Round::NothingThere {
                    break;
                }
            }
            match round {
                Round::Worked => {}
                // A short nap: there may be work at another counter first.
                Round::NothingThere => drop(seats[favourite].wait_ready(Duration::from_millis(20))),
                Round::Gone => return Ok(()),
            }
        }
        Ok(())
    }

    fn round(&mut self, client: &Client, seat: &Seat<Check>, effort: Duration) -> Result<Round, Failure> {
        let buckets = if self.habit == Habit::Grabs && self.dice.once_in(10) { 40 } else { BUCKETS };
        let grant = match patiently(|| seat.claim(Ask::buckets(buckets)))? {
            Claim::Leased(grant) => grant,
            Claim::Empty(_) => return Ok(Round::NothingThere),
        };
        match self.habit {
            Habit::Vanishes | Habit::Crashes if self.dice.once_in(20) => {
                // No farewell: the hub hears nothing, and the leases go on.
                for lease in grant {
                    let _lost = lease.into_token();
                }
                return Ok(Round::Gone);
            }
            Habit::Leaves if self.dice.once_in(30) => {
                drop(client.deregister()?);
                return Ok(Round::Gone);
            }
            _ => {}
        }
        for lease in grant {
            self.work_on(seat, &lease, effort)?;
        }
        Ok(Round::Worked)
    }

    /// Works on one bucket. Whatever goes wrong in here, the lease is a guard: dropping it gives the bucket back.
    fn work_on(&mut self, seat: &Seat<Check>, lease: &Lease<Check>, effort: Duration) -> Result<(), Failure> {
        let subjects: Vec<u64> = lease.subjects().collect();
        self.shop.pause(effort * u32::try_from(subjects.len())?);
        match self.habit {
            Habit::Dawdles if self.dice.once_in(12) => self.shop.pause(LEASE + self.dice.up_to(GRACE * 3)),
            Habit::Sloppy if self.dice.once_in(3) => {
                tried(patiently(|| lease.report(subjects.iter().map(|subject| (*subject, 0)))))?;
            }
            Habit::Meddles if self.dice.once_in(8) => {
                tried(patiently(|| lease.report([(u64::MAX, 3)])))?;
                let forged = forge(&lease.token())?;
                tried(patiently(|| seat.submit(&forged, subjects.iter().map(|subject| (*subject, 3)))))?;
            }
            _ => {}
        }
        // All who look at a thing properly see the same.
        let blur = if self.habit == Habit::Sloppy { self.dice.below(2) } else { 0 };
        tried(patiently(|| lease.submit(subjects.iter().map(|subject| (*subject, stars(subject + blur))))))
    }
}

/// One to five.
fn stars(number: u64) -> u8 {
    u8::try_from(number % 5).map_or(1, |stars| 1 + stars)
}

/// Makes a token for the same lease out of thin air.
fn forge(token: &LeaseToken) -> Result<LeaseToken, Failure> {
    let mut text = token.to_string();
    let last = text.pop();
    text.push(if last == Some('0') { '1' } else { '0' });
    Ok(text.parse()?)
}

/// A refusal is an answer, too: the lease may be over, or was never there.
fn tried(answer: Result<Submitted, Error>) -> Result<(), Failure> {
    match answer {
        Ok(_) | Err(Error::Lease(LeaseError::NotOwner | LeaseError::Over)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Calls again for as long as the hub asks to come back later.
pub(crate) fn patiently<T, E: Into<Error>>(call: impl Fn() -> Result<T, E>) -> Result<T, Error> {
    loop {
        match call().map_err(Into::into) {
            Ok(done) => return Ok(done),
            Err(error) => thread::sleep(retry_after(&error).ok_or(error)?),
        }
    }
}

fn retry_after(error: &Error) -> Option<Duration> {
    let busy = match error {
        Error::RegisterClient(RegisterClientError::Throttled { retry_after, .. }) => return Some(*retry_after),
        Error::RegisterClient(RegisterClientError::Hub(busy))
        | Error::Activate(ActivateError::Hub(busy))
        | Error::Add(AddError::Hub { source: busy, .. })
        | Error::Urgent(UrgentError::Hub(busy))
        | Error::Claim(ClaimError::Hub(busy))
        | Error::Lease(LeaseError::Hub(busy)) => busy,
        _ => return None,
    };
    match busy {
        HubError::Busy { retry_after, .. } => Some(*retry_after),
        _ => None,
    }
}
