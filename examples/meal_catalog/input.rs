//! What happens: purchases, read from a file or made up, and what the kitchen and the fridges say between them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use chrono::DateTime;
use flate2::bufread::MultiGzDecoder;

use super::Failure;
use super::commands::{Command, Fridge, Meal, Times, What, mix, print_of};
use super::fridge::Rules;

const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// Items in one message of a kitchen or a fridge.
const ITEMS: usize = 250;
/// The columns that a file of purchases must begin with.
const COLUMNS: &str = "transaction_timestamp,household_id,store_id,basket_id,product_id,quantity";
const AREAS: u16 = 6;
const FRIDGES_IN_VENUE: usize = 3;

/// A purchase, as its user wants it.
#[derive(Debug, Clone, Copy)]
struct Purchase {
    at: u64,
    user: u64,
    fridge: Fridge,
    meal: Meal,
    units: u64,
}

/// All that is sent to the fridges, but for the answers of the payment provider.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) rules: Rules,
    pub(crate) areas: u16,
    pub(crate) fridges: usize,
    pub(crate) purchases: usize,
    /// What the kitchen really put in, however often and by whom that is told.
    pub(crate) cooked: BTreeMap<(Fridge, Meal), u64>,
    /// Shift by shift, in the order in which it happens.
    pub(crate) shifts: Vec<Vec<Command>>,
}

impl Script {
    /// Purchases of some days at 24 fridges in four areas; everything is a matter of the seed.
    pub(crate) fn generate(purchases: u64, days: u64, seed: u64) -> Self {
        const MEALS: u64 = 40;
        let menu = (1..=MEALS).collect();
        let dice = |line: u64, what: u64| mix(mix(seed ^ line) ^ what);
        let purchase = |line: u64| {
            let number = dice(line, 1) % 24;
            let area = u16::try_from(number % 4).unwrap_or(0);
            let number = u32::try_from(number).unwrap_or(0);
            let venue = u16::try_from(number / 8).unwrap_or(0) * 4 + area;
            // Some meals are much liked; a few are not on the menu.
            let meal = (dice(line, 2) % MEALS).min(dice(line, 3) % MEALS) + 1;
            let meal = if dice(line, 4).is_multiple_of(200) { MEALS + 7 } else { meal };
            let units = if dice(line, 5).is_multiple_of(150) { 0 } else { 1 + dice(line, 6) % 3 };
            let (at, user) = (line * days * DAY_MS / purchases, dice(line, 7) % 500);
            Purchase { at, user, fridge: Fridge { area, venue, number }, meal, units }
        };
        let purchases: Vec<_> = (0..purchases).map(purchase).collect();
        Self::of(&purchases, menu, Times { shift_ms: DAY_MS })
    }

    /// Reads purchases in the order of time; stores are fridges. A shift is a week.
    pub(crate) fn read(purchases: &Path, menu: &Path) -> Result<Self, Failure> {
        let mut known = HashSet::new();
        for line in lines(menu)?.skip(1) {
            let (number, line) = line?;
            let meal = line.split(',').next().unwrap_or_default();
            known.insert(meal.parse().map_err(|_| format!("{}, line {number}: {meal:?}", menu.display()))?);
        }
        let mut rows = Vec::new();
        for line in lines(purchases)? {
            let (number, line) = line?;
            let wrong = || format!("{}, line {number}: {line:?} is no purchase", purchases.display());
            if number > 1 {
                rows.push(Row::parse(&line).ok_or_else(wrong)?);
            } else if !line.starts_with(COLUMNS) {
                return Err(format!("{} does not begin with {COLUMNS}", purchases.display()).into());
            }
        }
        let start = rows.iter().map(|row| row.at_ms).min().ok_or("there are no purchases")?;
        let stores: BTreeSet<u32> = rows.iter().map(|row| row.store).collect();
        let places: BTreeMap<u32, Fridge> = stores.into_iter().enumerate().map(place).collect();
        let purchase = |row: &Row| {
            let at = row.at_ms.abs_diff(start);
            Purchase { at, user: row.user, fridge: places[&row.store], meal: row.meal, units: row.units }
        };
        let purchases: Vec<_> = rows.iter().map(purchase).collect();
        Ok(Self::of(&purchases, known, Times { shift_ms: 7 * DAY_MS }))
    }

    fn of(purchases: &[Purchase], menu: HashSet<Meal>, times: Times) -> Self {
        let shift_of = |at: u64| u32::try_from(at / times.shift_ms).unwrap_or(u32::MAX);
        let open = purchases.iter().map(|purchase| shift_of(purchase.at)).max().map_or(0, |last| last + 1);
        let mut shifts: Vec<Vec<Command>> = (0..open + Times::AFTERMATH).map(|_| Vec::new()).collect();
        let mut demands = vec![BTreeMap::<Fridge, BTreeMap<Meal, u64>>::new(); open as usize];
        for (purchase, order) in purchases.iter().zip(0..) {
            let Purchase { at, user, fridge, meal, units } = *purchase;
            let shift = shift_of(at);
            // Some are held up on their way, until nobody waits for the answer any more.
            let sent = if mix(order ^ 0x51).is_multiple_of(97) { shift + 2 } else { shift };
            let command = Command::order(order, user, (sent, at), fridge, (meal, units));
            shifts[sent as usize].push(command);
            let demand = demands[shift as usize].entry(fridge).or_default();
            if menu.contains(&meal) && units > 0 {
                *demand.entry(meal).or_default() += units;
            }
        }
        let mut kitchen = Kitchen { times, shifts: &mut shifts, all: BTreeMap::new(), messages: 0 };
        for (shift, demand) in (0..).zip(&demands) {
            kitchen.shift(shift, demand);
        }
        let cooked = kitchen.all;
        for commands in &mut shifts {
            commands.sort_unstable_by_key(Command::in_order);
        }
        let fridges: BTreeSet<Fridge> = purchases.iter().map(|purchase| purchase.fridge).collect();
        let areas = fridges.iter().map(|fridge| fridge.area + 1).max().unwrap_or(0);
        let rules = Rules { times, menu };
        Self { rules, areas, fridges: fridges.len(), purchases: purchases.len(), cooked, shifts }
    }

    /// Stands for the whole script.
    pub(crate) fn print(&self) -> Result<u64, Failure> {
        let mut each = self.shifts.iter().flatten().map(|command| Ok(print_of(&postcard::to_allocvec(command)?)));
        each.try_fold(0, |print, command: Result<u64, Failure>| Ok(mix(print ^ command?)))
    }

    /// How many shifts.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.shifts.len()).unwrap_or(u32::MAX)
    }

    /// All that is sent in a shift, with the provider's answers of that shift, in order.
    pub(crate) fn with_answers(&self, shift: u32, answers: Vec<Command>) -> Vec<Command> {
        let mut commands = self.shifts.get(shift as usize).cloned().unwrap_or_default();
        commands.extend(answers);
        commands.sort_unstable_by_key(Command::in_order);
        commands
    }
}

/// What the kitchen makes, and what the fridges count.
struct Kitchen<'a> {
    times: Times,
    shifts: &'a mut [Vec<Command>],
    /// All that was ever put in, whether the fridge was told or not.
    all: BTreeMap<(Fridge, Meal), u64>,
    messages: u64,
}

impl Kitchen<'_> {
    fn shift(&mut self, shift: u32, demands: &BTreeMap<Fridge, BTreeMap<Meal, u64>>) {
        for ((fridge, demand), place) in demands.iter().zip(0..) {
            let dice = mix(u64::from(fridge.number) << 32 | u64::from(shift));
            let items = demand.iter().map(|(meal, units)| (*meal, cooked(*units, mix(dice ^ meal))));
            let items: Vec<_> = items.filter(|(_, units)| *units > 0).collect();
            for items in items.chunks(ITEMS) {
                self.release(shift, *fridge, items, dice);
            }
            // When the last order of this shift is over for certain.
            let looks = shift + Times::AFTERMATH;
            let look = Command::look(u64::from(shift) << 32 | place, (looks, self.times.start(looks)), *fridge);
            self.shifts[looks as usize].push(look);
        }
    }

    fn release(&mut self, shift: u32, fridge: Fridge, items: &[(Meal, u64)], dice: u64) {
        let release = What::Release { event: u64::from(shift) * 10 + 1, items: items.to_vec() };
        let lost = dice % 16 == 1;
        if !lost {
            self.send(shift, fridge, release.clone());
        }
        if dice.is_multiple_of(8) {
            self.send(shift, fridge, release.clone());
            self.send(shift + 2, fridge, release);
        }
        for (meal, units) in items {
            *self.all.entry((fridge, *meal)).or_default() += units;
        }
        let is_smart = mix(u64::from(fridge.number)) % 4 == 2;
        if lost || is_smart {
            let counted = items.iter().map(|(meal, _)| (*meal, self.all[&(fridge, *meal)])).collect();
            let count = What::Count { as_of: u64::from(shift) * 10 + 9, items: counted };
            self.send(shift + 1, fridge, count.clone());
            // Again when there may be newer ones.
            self.send(shift + 3, fridge, count);
        }
    }

    fn send(&mut self, shift: u32, fridge: Fridge, what: What) {
        self.messages += 1;
        let command = Command::stocking(self.messages, (shift, self.times.start(shift)), fridge, what);
        self.shifts[shift as usize].push(command);
    }
}

/// What the kitchen makes where so much will be wanted: it does not know, and is sometimes wrong.
fn cooked(demand: u64, dice: u64) -> u64 {
    match dice % 10 {
        0..=5 => demand,
        6..=7 => demand + 1,
        _ => demand * 2 / 3,
    }
}

fn place((index, store): (usize, u32)) -> (u32, Fridge) {
    let venue = u16::try_from(index / FRIDGES_IN_VENUE).unwrap_or(u16::MAX);
    (store, Fridge { area: venue % AREAS, venue, number: store })
}

/// A line of the file.
struct Row {
    at_ms: i64,
    user: u64,
    store: u32,
    meal: Meal,
    units: u64,
}

impl Row {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(',');
        let at_ms = DateTime::parse_from_rfc3339(fields.next()?).ok()?.timestamp_millis();
        let (user, store) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let _basket = fields.next()?;
        Some(Self { at_ms, user, store, meal: fields.next()?.parse().ok()?, units: fields.next()?.parse().ok()? })
    }
}

type Line = Result<(u64, String), Failure>;

/// The lines of a file, numbered from 1; compressed by gzip or not.
fn lines(path: &Path) -> Result<impl Iterator<Item = Line>, Failure> {
    let open = || File::open(path).map(BufReader::new);
    let mut file = open().map_err(|error| format!("{}: {error}", path.display()))?;
    let compressed = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    let plain: Box<dyn Read> = if compressed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    Ok(BufReader::new(plain).lines().zip(1..).map(|(line, number)| Ok((number, line?))))
}
