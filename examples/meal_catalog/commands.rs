//! What is asked of a fridge, what it answers, and the service that brings the one to the other.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use chrono::{DateTime, Utc};
use commissary::reservations::Levels;
use commissary::{LaneKey, Policy, Reporter, Service, Subject, Verdict, Watch};
use serde::{Deserialize, Serialize};

/// A product's number.
pub(crate) type Meal = u64;
/// An order's number; the reservation has the same.
pub(crate) type OrderId = u64;

/// Where meals lie. Several stand in one venue, several venues in one area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Fridge {
    pub(crate) area: u16,
    pub(crate) venue: u16,
    pub(crate) number: u32,
}

impl Fridge {
    /// R129: its area is a prefix.
    pub(crate) fn lane(self) -> String {
        format!("{:03}/{:04}/{:05}", self.area, self.venue, self.number)
    }
}

/// The times of a run, on the input's clock, ms from its beginning. A shift is what is worked off between two quiet moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) shift_ms: u64,
}

impl Times {
    /// Shifts after an order's in which something may still come of it.
    pub(crate) const AFTERMATH: u32 = 3;

    pub(crate) fn start(self, shift: u32) -> u64 {
        u64::from(shift) * self.shift_ms
    }

    /// How long an order may take to reach its fridge.
    pub(crate) fn limit(self) -> u64 {
        self.shift_ms
    }

    /// How long an order may take to be paid for.
    pub(crate) fn hold(self) -> u64 {
        self.shift_ms * 3 / 2
    }

    /// How late a payment may be.
    pub(crate) fn grace(self) -> u64 {
        self.shift_ms / 5
    }

    /// As the wall clock shows it.
    pub(crate) fn wall(at: u64) -> DateTime<Utc> {
        i64::try_from(at).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default()
    }
}

/// One thing that is asked of a fridge. Equal keys are one command, however often it arrives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Command {
    pub(crate) key: u64,
    /// In which it is sent.
    pub(crate) shift: u32,
    /// When it happened. Commands of a fridge are sent in this order.
    pub(crate) at: u64,
    pub(crate) fridge: Fridge,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    /// The kitchen put these in. The event says which release it is, also if it is told twice.
    Release { event: u64, items: Vec<(Meal, u64)> },
    /// The fridge counted all that ever was put in, up to a moment.
    Count { as_of: u64, items: Vec<(Meal, u64)> },
    /// A user wants some.
    Order { order: OrderId, user: u64, meal: Meal, units: u64 },
    /// The payment provider's answer.
    Payment { order: OrderId, meal: Meal, paid: bool },
    /// Somebody looks what was not paid for.
    Look,
}

/// Kinds of keys: what comes first at one moment.
const KIND: u32 = 60;

impl Command {
    fn new(kind: u64, number: u64, (shift, at): (u32, u64), fridge: Fridge, what: What) -> Self {
        Self { key: (kind << KIND) | number, shift, at, fridge, what }
    }

    /// `number` tells all messages of kitchens and fridges apart, also those that say the same.
    pub(crate) fn stocking(number: u64, when: (u32, u64), fridge: Fridge, what: What) -> Self {
        Self::new(1, number, when, fridge, what)
    }

    pub(crate) fn look(number: u64, when: (u32, u64), fridge: Fridge) -> Self {
        Self::new(2, number, when, fridge, What::Look)
    }

    pub(crate) fn order(order: OrderId, user: u64, when: (u32, u64), fridge: Fridge, line: (Meal, u64)) -> Self {
        let (meal, units) = line;
        Self::new(3, order, when, fridge, What::Order { order, user, meal, units })
    }

    /// The `nth` answer on an order, from 0.
    pub(crate) fn payment(
        order: OrderId,
        nth: u64,
        when: (u32, u64),
        fridge: Fridge,
        (meal, paid): (Meal, bool),
    ) -> Self {
        Self::new(4, order * 4 + nth, when, fridge, What::Payment { order, meal, paid })
    }

    /// Until when it is to be done: a user waits for an order, and not for ever.
    pub(crate) fn due(&self, times: Times) -> Option<u64> {
        matches!(self.what, What::Order { .. }).then(|| self.at + times.limit())
    }

    pub(crate) fn in_order(&self) -> (u64, u64) {
        (self.at, self.key)
    }
}

impl Subject for Command {
    type Key = u64;

    fn key(&self) -> u64 {
        self.key
    }
}

/// How the units of a meal changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) meal: Meal,
    pub(crate) before: Levels,
    pub(crate) after: Levels,
}

/// An order that was not paid for in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lapsed {
    pub(crate) order: OrderId,
    pub(crate) meal: Meal,
    pub(crate) units: u64,
}

/// A fridge's answer: the event. Whoever reads it needs nothing else to understand it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) fridge: Fridge,
    pub(crate) at: u64,
    pub(crate) said: Said,
    pub(crate) changes: Vec<Change>,
    /// Found on the way.
    pub(crate) lapsed: Vec<Lapsed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Said {
    /// Of the items of a release or a count.
    Stocked {
        applied: u32,
        repeated: u32,
        covered: u32,
        stale: u32,
        refused: u32,
    },
    /// The units are there until then.
    Reserved {
        order: OrderId,
        user: u64,
        meal: Meal,
        units: u64,
        until: u64,
    },
    SoldOut {
        order: OrderId,
        available: u64,
    },
    NoSuchMeal {
        order: OrderId,
        meal: Meal,
    },
    NoUnits {
        order: OrderId,
    },
    Confirmed {
        order: OrderId,
        units: u64,
        first: bool,
    },
    GivenBack {
        order: OrderId,
        units: u64,
        first: bool,
    },
    /// The order was over before the answer came.
    TooLate {
        order: OrderId,
        paid: bool,
    },
    /// Nobody knows of such an order.
    NoSuchOrder {
        order: OrderId,
    },
    Looked,
}

/// The service of one area.
#[derive(Debug)]
pub(crate) struct Meals {
    id: String,
    times: Times,
    lease: Duration,
}

impl Meals {
    pub(crate) const PREFIX: &str = "meals.";

    pub(crate) fn new(area: u16, times: Times, lease: Duration) -> Self {
        Self { id: format!("{}{area:03}", Self::PREFIX), times, lease }
    }
}

impl Service for Meals {
    type Subject = Command;
    type Report = Told;

    fn id(&self) -> &str {
        &self.id
    }

    fn policy(&self) -> Policy {
        Policy {
            bucket_subjects: 63,
            lease: self.lease,
            expiry_spread: 0,
            grace: Duration::ZERO,
            linger: Duration::ZERO,
            lane_subjects: 20_000,
            watch: Watch::off(),
            ..Policy::default()
        }
    }

    fn judge(&self, command: &Command, told: &Told, _reporter: Reporter) -> Verdict {
        let fits = match (&command.what, told.said) {
            (What::Release { .. } | What::Count { .. }, Said::Stocked { .. }) | (What::Look, Said::Looked) => true,
            (
                What::Order { order, .. },
                Said::Reserved { order: of, .. }
                | Said::SoldOut { order: of, .. }
                | Said::NoSuchMeal { order: of, .. }
                | Said::NoUnits { order: of },
            )
            | (
                What::Payment { order, .. },
                Said::Confirmed { order: of, .. }
                | Said::GivenBack { order: of, .. }
                | Said::TooLate { order: of, .. }
                | Said::NoSuchOrder { order: of },
            ) => *order == of,
            _ => false,
        };
        if fits && told.fridge == command.fridge && told.at == command.at {
            Verdict::Accept
        } else {
            Verdict::Reject("the answer is not to this command".to_owned())
        }
    }

    fn lane(&self, command: &Command) -> Option<LaneKey> {
        Some(LaneKey::from(command.fridge.lane()))
    }

    fn deadline(&self, command: &Command) -> Option<DateTime<Utc>> {
        command.due(self.times).map(Times::wall)
    }
}

/// Scatters numbers; the same on every machine (`SplitMix64`'s finalizer).
pub(crate) fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A number that stands for all these bytes.
pub(crate) fn print_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
