//! What a fridge does with a command: the state of its lane, and the only place that decides anything.

use std::collections::{BTreeMap, HashSet};

use commissary::reservations::{
    EnterError, Entered, Entry, NotHeld, Refused, State, StateError, Stock, StockState, Terms,
};
use serde::{Deserialize, Serialize};

use super::Failure;
use super::commands::{Change, Command, Lapsed, Meal, OrderId, Said, Times, Told, What};

/// A lane's state: a stock for each meal that ever lay there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shelf {
    stocks: BTreeMap<Meal, StockState>,
}

/// What holds for all fridges.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) times: Times,
    /// The meals there are.
    pub(crate) menu: HashSet<Meal>,
}

/// Whose releases they are: there is one kitchen.
const KITCHEN: u128 = 1;

impl Rules {
    fn terms(&self) -> Terms {
        Terms { grace_ms: self.times.grace(), held: 256, remembered: 256, events: 64 }
    }

    /// Does what is asked. The same commands in the same order lead to the same state, and nothing else has a part in it.
    pub(crate) fn handle(&self, shelf: &mut Shelf, command: &Command) -> Result<Told, Failure> {
        let mut work = Work { rules: self, shelf, at: command.at, changes: Vec::new(), lapsed: Vec::new() };
        let said = match &command.what {
            What::Release { event, items } => work.stock(items, |units| {
                let units = i64::try_from(units).unwrap_or(i64::MAX);
                Entry::Delta { units, source: KITCHEN, seq: *event }
            })?,
            What::Count { as_of, items } => work.stock(items, |units| Entry::Total { units, as_of: *as_of })?,
            What::Order { order, user, meal, units } => work.order(*order, *user, *meal, *units)?,
            What::Payment { order, meal, paid } => work.paid(*order, *meal, *paid)?,
            What::Look => work.look()?,
        };
        let Work { changes, lapsed, .. } = work;
        Ok(Told { fridge: command.fridge, at: command.at, said, changes, lapsed })
    }
}

/// One command being done.
struct Work<'a> {
    rules: &'a Rules,
    shelf: &'a mut Shelf,
    at: u64,
    changes: Vec<Change>,
    lapsed: Vec<Lapsed>,
}

impl Work<'_> {
    /// Changes a meal's stock, and notes what that did.
    fn with<T>(&mut self, meal: Meal, change: impl FnOnce(&Stock) -> T) -> Result<T, Failure> {
        let stock = match self.shelf.stocks.remove(&meal) {
            Some(state) => Stock::try_from(state)?,
            None => Stock::new(self.rules.terms()),
        };
        let before = stock.levels();
        let lapsed = stock.expire(self.at).into_iter();
        self.lapsed.extend(lapsed.map(|gone| Lapsed { order: narrow(gone.id), meal, units: gone.units }));
        let answer = change(&stock);
        let after = stock.levels();
        if before != after {
            self.changes.push(Change { meal, before, after });
        }
        self.shelf.stocks.insert(meal, stock.state()?);
        Ok(answer)
    }

    fn stock(&mut self, items: &[(Meal, u64)], entry: impl Fn(u64) -> Entry) -> Result<Said, Failure> {
        let (mut applied, mut repeated, mut covered, mut stale, mut refused) = (0, 0, 0, 0, 0);
        for (meal, units) in items {
            let counter = match self.with(*meal, |stock| stock.enter(entry(*units)))? {
                Ok(Entered::Applied) => &mut applied,
                Ok(Entered::Repeated) => &mut repeated,
                Ok(Entered::Covered) => &mut covered,
                Ok(Entered::Stale { .. }) => &mut stale,
                Ok(Entered::Forgotten { .. }) | Err(EnterError::TooMany { .. }) => &mut refused,
                Err(error) => return Err(error.into()),
            };
            *counter += 1;
        }
        Ok(Said::Stocked { applied, repeated, covered, stale, refused })
    }

    fn order(&mut self, order: OrderId, user: u64, meal: Meal, units: u64) -> Result<Said, Failure> {
        if !self.rules.menu.contains(&meal) {
            return Ok(Said::NoSuchMeal { order, meal });
        }
        if units == 0 {
            return Ok(Said::NoUnits { order });
        }
        let until = self.at + self.rules.times.hold();
        match self.with(meal, |stock| stock.reserve(order.into(), units, until))? {
            Ok(_) => Ok(Said::Reserved { order, user, meal, units, until }),
            Err(Refused::Short { available, .. }) => Ok(Said::SoldOut { order, available }),
            // As good as sold out until some are paid for.
            Err(Refused::TooManyHeld { .. }) => Ok(Said::SoldOut { order, available: 0 }),
            Err(error) => Err(error.into()),
        }
    }

    /// Idempotent: the second answer of the same kind changes nothing, one of the other kind comes too late.
    fn paid(&mut self, order: OrderId, meal: Meal, paid: bool) -> Result<Said, Failure> {
        let id = order.into();
        let ended = self.with(meal, |stock| if paid { stock.confirm(id) } else { stock.cancel(id) })?;
        match ended {
            Ok(done) if paid => Ok(Said::Confirmed { order, units: done.units, first: done.first }),
            Ok(done) => Ok(Said::GivenBack { order, units: done.units, first: done.first }),
            Err(NotHeld::Over { .. }) => Ok(Said::TooLate { order, paid }),
            Err(NotHeld::Unknown { .. }) => Ok(Said::NoSuchOrder { order }),
            Err(error) => Err(error.into()),
        }
    }

    fn look(&mut self) -> Result<Said, Failure> {
        let is_held = |state: &StockState| state.reservations().any(|(.., state)| state.is_held());
        let held = self.shelf.stocks.iter().filter(|(_, state)| is_held(state));
        for meal in held.map(|(meal, _)| *meal).collect::<Vec<_>>() {
            self.with(meal, |_| ())?;
        }
        Ok(Said::Looked)
    }
}

impl Shelf {
    /// The stock of each meal.
    pub(crate) fn stocks(&self) -> impl Iterator<Item = Result<(Meal, Stock), StateError>> {
        self.stocks.iter().map(|(meal, state)| Ok((*meal, Stock::try_from(state.clone())?)))
    }

    /// Units that reservations hold and have confirmed, meal by meal, as the reservations themselves say.
    pub(crate) fn reserved(&self) -> impl Iterator<Item = (Meal, u64, u64)> {
        self.stocks.iter().map(|(meal, state)| {
            let sum = |of: fn(State) -> bool| state.reservations().filter(|(.., s)| of(*s)).map(|(_, n, _)| n).sum();
            (*meal, sum(State::is_held), sum(|state| state == State::Confirmed))
        })
    }
}

fn narrow(id: u128) -> OrderId {
    OrderId::try_from(id).unwrap_or(OrderId::MAX)
}
