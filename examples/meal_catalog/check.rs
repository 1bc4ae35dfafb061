//! The end: everything is counted again from the events, by plain sums, and compared; and the same commands are executed
//! one after the other without any hub.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use commissary::reservations::Levels;
use commissary::{Event, EventKind, KeyBytes, Projection, SubjectReport};

use super::Failure;
use super::commands::{Command, Fridge, Meal, Meals, OrderId, Said, Told, What, print_of};
use super::fridge::Shelf;
use super::input::Script;
use super::payments::told;
use super::provider::{Bill, Counts, Fate, answers_on};
use super::views::{Availability, Figures, Offers, Over, Shared};
use super::world::Shop;

/// All there is in the end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Books {
    shelves: BTreeMap<Fridge, Shelf>,
    charged: Vec<OrderId>,
    refunded: Vec<OrderId>,
}

impl Books {
    fn print(&self) -> Result<u64, Failure> {
        Ok(print_of(&postcard::to_allocvec(&(&self.shelves, &self.charged, &self.refunded))?))
    }
}

/// What came out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// Stands for the state of all fridges and the provider's books.
    pub(crate) print: u64,
    pub(crate) figures: Figures,
    pub(crate) provider: Counts,
    pub(crate) elapsed: Duration,
    /// How often the hub was opened.
    pub(crate) boots: u32,
    pub(crate) commands: u64,
    /// Of the last life: commands executed, workers that died, areas moved.
    pub(crate) executed: u64,
    pub(crate) died: u64,
    pub(crate) moves: u64,
    /// Fridges that workers of both groups worked on.
    pub(crate) shared: u64,
}

/// Executes all commands one after the other, without a hub: what has to come out.
pub(crate) fn plainly(script: &Script) -> Result<u64, Failure> {
    let mut books = Books::default();
    let (mut answers, mut refunded) = (BTreeMap::<u32, Vec<Command>>::new(), BTreeSet::new());
    let times = script.rules.times;
    for shift in 0..script.len() {
        for command in script.with_answers(shift, answers.remove(&shift).unwrap_or_default()) {
            if command.due(times).is_some_and(|due| due <= times.start(shift)) {
                continue;
            }
            let shelf = books.shelves.entry(command.fridge).or_default();
            match script.rules.handle(shelf, &command)?.said {
                Said::Reserved { order, meal, .. } if Fate::of(order) != Fate::NoAccount => {
                    books.charged.push(order);
                    let bill = Bill { order, fridge: command.fridge, meal, at: command.at };
                    for answer in answers_on(&bill, times) {
                        answers.entry(answer.shift).or_default().push(answer);
                    }
                }
                Said::TooLate { order, paid: true } => drop(refunded.insert(order)),
                _ => {}
            }
        }
    }
    books.charged.sort_unstable();
    books.refunded.extend(refunded);
    books.print()
}

/// Counts everything again from the events of the hub, and compares it with all that says something about it.
pub(crate) fn examine(shop: &Shop<'_>) -> Result<Outcome, Failure> {
    let mut recount = Recount::default();
    let (mut venues, mut areas) = (Shared::default(), Shared::default());
    for event in shop.hub.events(0)? {
        let event = event?;
        recount.event(&event)?;
        Availability(Over::Venues).fold(&mut venues, &event);
        Availability(Over::Areas).fold(&mut areas, &event);
    }
    let desk = &shop.desk;
    let (seen_venues, seen_areas) = (desk.venues.view().state.offers(), desk.areas.view().state.offers());
    ensure(venues.offers() == seen_venues && areas.offers() == seen_areas, || {
        "a projection folded anew is another one".to_owned()
    })?;
    ensure(recount.offers(Over::Venues)? == seen_venues, || "venues are not the sum of their fridges".to_owned())?;
    ensure(recount.offers(Over::Areas)? == seen_areas, || "areas are not the sum of their fridges".to_owned())?;
    recount.compare_shelves()?;
    recount.compare_kitchen(shop.script)?;
    recount.compare_orders(shop.script)?;
    let (charged, refunded) = (desk.provider.charged(), desk.provider.refunded());
    recount.compare_money(&charged, &refunded)?;
    let figures = Figures::clone(&desk.sales.view().state);
    ensure(figures.answered() == shop.script.purchases as u64, || {
        format!("{} orders were made, {} answered", shop.script.purchases, figures.answered())
    })?;
    let shared = recount.shared(shop);
    let commands = recount.known.len() as u64;
    let books = Books { shelves: recount.shelves, charged, refunded };
    Ok(Outcome {
        print: books.print()?,
        figures,
        provider: desk.provider.counts(),
        boots: shop.hub.open_report().boots,
        commands,
        shared,
        ..Outcome::default()
    })
}

fn ensure(holds: bool, flaw: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(flaw().into()) }
}

/// What became of an order that was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Held,
    Confirmed,
    Over,
}

/// Plain sums over the events.
#[derive(Debug, Default)]
struct Recount {
    known: HashSet<KeyBytes>,
    /// What each lane still has to do, in the order in which it came.
    owed: HashMap<Fridge, VecDeque<KeyBytes>>,
    lanes: HashMap<KeyBytes, Fridge>,
    answered: HashSet<OrderId>,
    reserved: HashMap<OrderId, (Fridge, Meal, u64, End)>,
    /// Held and confirmed, as orders say; put in, as releases say.
    sums: BTreeMap<(Fridge, Meal), (u64, u64, u64)>,
    shelves: BTreeMap<Fridge, Shelf>,
    clients: HashMap<Fridge, BTreeSet<u64>>,
}

impl Recount {
    fn event(&mut self, event: &Event) -> Result<(), Failure> {
        match &event.kind {
            EventKind::Added { service, subjects, .. } if service.id.starts_with(Meals::PREFIX) => {
                for subject in subjects {
                    let command: Command = postcard::from_bytes(&subject.body)?;
                    if self.known.insert(subject.key.clone()) {
                        self.owed.entry(command.fridge).or_default().push_back(subject.key.clone());
                        self.lanes.insert(subject.key.clone(), command.fridge);
                    }
                }
            }
            EventKind::Reported { service, reports, client, state, .. } if service.id.starts_with(Meals::PREFIX) => {
                let fridge = self.front(reports)?;
                for (_, told) in told(event) {
                    self.told(&told)?;
                }
                if let Some(fridge) = fridge {
                    self.clients.entry(fridge).or_default().insert(client.value());
                    if let Some([0, state @ ..]) = state.as_deref() {
                        self.shelves.insert(fridge, postcard::from_bytes(state)?);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes what a record reports off the front of its lane: nothing is passed over, and what was executed, was so in order.
    fn front(&mut self, reports: &[SubjectReport]) -> Result<Option<Fridge>, Failure> {
        let Some(first) = reports.first() else { return Ok(None) };
        let lane = *self.lanes.get(&first.key).ok_or("a report on what was never sent")?;
        let owed = self.owed.entry(lane).or_default();
        let front: Vec<_> = owed.drain(..reports.len().min(owed.len())).collect();
        let (over, done): (Vec<_>, Vec<_>) = reports.iter().partition(|report| report.expired);
        let over: HashSet<_> = over.iter().map(|report| &report.key).collect();
        let rest = front.iter().filter(|key| !over.contains(key));
        let in_order = front.len() == reports.len() && rest.eq(done.iter().map(|report| &report.key));
        ensure(in_order, || format!("fridge {} got out of order", lane.lane()))?;
        for key in over {
            let key: u64 = key.read().ok_or("no key")?;
            self.answered.insert(key & (u64::MAX >> 4));
        }
        Ok(Some(lane))
    }

    fn told(&mut self, told: &Told) -> Result<(), Failure> {
        let fridge = told.fridge;
        for gone in &told.lapsed {
            self.end(gone.order, End::Over)?;
        }
        for change in &told.changes {
            let sums = self.sums.entry((fridge, change.meal)).or_default();
            ensure(sums.2 == change.before.added, || format!("units came into {} unseen", fridge.lane()))?;
            sums.2 = change.after.added;
        }
        match told.said {
            Said::Reserved { order, meal, units, .. } => {
                self.answered.insert(order);
                let before = self.reserved.insert(order, (fridge, meal, units, End::Held));
                ensure(before.is_none(), || format!("order {order} was reserved twice"))?;
                self.sums.entry((fridge, meal)).or_default().0 += units;
            }
            Said::Confirmed { order, first: true, .. } => self.end(order, End::Confirmed)?,
            Said::GivenBack { order, first: true, .. } => self.end(order, End::Over)?,
            Said::SoldOut { order, .. } | Said::NoSuchMeal { order, .. } | Said::NoUnits { order } => {
                self.answered.insert(order);
            }
            _ => {}
        }
        for change in &told.changes {
            let (held, confirmed, added) = self.sums.get(&(fridge, change.meal)).copied().unwrap_or_default();
            ensure(held + confirmed <= added, || format!("{} oversold meal {}", fridge.lane(), change.meal))?;
        }
        Ok(())
    }

    /// A reservation ends, once.
    fn end(&mut self, order: OrderId, how: End) -> Result<(), Failure> {
        let (fridge, meal, units, end) = self.reserved.get_mut(&order).ok_or("an end of nothing")?;
        ensure(*end == End::Held, || format!("order {order} ended twice"))?;
        *end = how;
        let sums = self.sums.entry((*fridge, *meal)).or_default();
        sums.0 -= *units;
        if how == End::Confirmed {
            sums.1 += *units;
        }
        Ok(())
    }

    /// What is to be had, as the fridges' states say.
    fn offers(&self, over: Over) -> Result<Offers, Failure> {
        let mut offers = Offers::new();
        for (fridge, shelf) in &self.shelves {
            for stock in shelf.stocks() {
                let (meal, stock) = stock?;
                if stock.available() > 0 {
                    *offers.entry(over.place(*fridge)).or_default().entry(meal).or_default() += stock.available();
                }
            }
        }
        Ok(offers)
    }

    /// The fridges' states are what the events add up to.
    fn compare_shelves(&self) -> Result<(), Failure> {
        let mut seen = 0;
        for (fridge, shelf) in &self.shelves {
            for (stock, (_, held, confirmed)) in shelf.stocks().zip(shelf.reserved()) {
                let (meal, stock) = stock?;
                let sums = self.sums.get(&(*fridge, meal)).copied().unwrap_or_default();
                let Levels { available, held: h, confirmed: c, added, short } = stock.levels();
                let holds = (h, c, added) == sums && (h, c) == (held, confirmed) && available + h + c == added;
                ensure(holds && short == 0, || {
                    format!("{}, meal {meal}: {:?}, counted {sums:?}", fridge.lane(), stock.levels())
                })?;
                seen += usize::from(sums != (0, 0, 0));
            }
        }
        let counted = self.sums.values().filter(|sums| **sums != (0, 0, 0)).count();
        ensure(seen == counted, || format!("{counted} stocks in the events, {seen} in the fridges"))
    }

    /// What came in is what the kitchen made: each release once, though some are told twice or never, and some counts late.
    fn compare_kitchen(&self, script: &Script) -> Result<(), Failure> {
        let came_in = self.sums.iter().map(|(place, (.., added))| (place, added)).filter(|(_, added)| **added > 0);
        ensure(came_in.eq(&script.cooked), || "what came in is not what the kitchen made".to_owned())
    }

    /// Every order got an answer, and nothing is left to do.
    fn compare_orders(&self, script: &Script) -> Result<(), Failure> {
        ensure(self.owed.values().all(VecDeque::is_empty), || "commands were left over".to_owned())?;
        for command in script.shifts.iter().flatten() {
            if let What::Order { order, .. } = command.what {
                ensure(self.answered.contains(&order), || format!("order {order} got no answer"))?;
            }
        }
        ensure(self.answered.len() == script.purchases, || "orders were answered that nobody made".to_owned())
    }

    /// Whoever got a meal paid for it, and nobody else did, or got it back.
    fn compare_money(&self, charged: &[OrderId], refunded: &[OrderId]) -> Result<(), Failure> {
        let (charged, refunded): (HashSet<_>, HashSet<_>) = (charged.iter().collect(), refunded.iter().collect());
        for (order, (.., end)) in &self.reserved {
            let fate = Fate::of(*order);
            let pays = !matches!(fate, Fate::Declined | Fate::NoAccount);
            let is_right = match end {
                End::Held => false,
                End::Confirmed => charged.contains(order) && pays && !refunded.contains(order),
                End::Over => charged.contains(order) == (fate != Fate::NoAccount) && refunded.contains(order) == pays,
            };
            ensure(is_right, || format!("order {order} is {end:?}, and its payment is {fate:?}"))?;
        }
        ensure(charged.len() <= self.reserved.len() && refunded.is_subset(&charged), || {
            "somebody paid for nothing".to_owned()
        })
    }

    /// Fridges that workers of both groups worked on.
    fn shared(&self, shop: &Shop<'_>) -> u64 {
        let group =
            |client: &u64| usize::try_from((client - 1) % 1_000).map_or(0, |worker| shop.roster.group_of(worker));
        let groups = |clients: &BTreeSet<u64>| clients.iter().map(group).collect::<BTreeSet<_>>().len();
        self.clients.values().filter(|clients| groups(clients) > 1).count() as u64
    }
}
