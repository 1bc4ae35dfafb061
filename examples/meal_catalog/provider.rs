//! The payment provider: another system, with a memory of its own. It charges once for each key, and answers when it likes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Failure;
use super::commands::{Command, Fridge, Meal, OrderId, Times, mix};

/// What is to be paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bill {
    pub(crate) order: OrderId,
    pub(crate) fridge: Fridge,
    pub(crate) meal: Meal,
    pub(crate) at: u64,
}

/// What will come of an order's payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Paid,
    Declined,
    /// After the deadline, before the grace is over.
    JustInTime,
    /// When the order is long over.
    Late,
    Twice,
    /// Declined, then paid after all.
    Undecided,
    /// There is no such account: no answer, ever.
    NoAccount,
}

impl Fate {
    pub(crate) fn of(order: OrderId) -> Self {
        match mix(order ^ 0xfa7e) % 200 {
            0..=171 => Self::Paid,
            172..=181 => Self::Declined,
            182..=183 => Self::JustInTime,
            184..=187 => Self::Late,
            188..=195 => Self::Twice,
            196..=198 => Self::Undecided,
            _ => Self::NoAccount,
        }
    }

    /// The answers: when, and whether paid.
    fn answers(self, at: u64, times: Times) -> Vec<(u64, bool)> {
        let shift = times.shift_ms;
        let soon = at + shift;
        match self {
            Self::Paid => vec![(soon, true)],
            Self::Declined => vec![(soon, false)],
            Self::JustInTime => vec![(at + times.hold() + times.grace() / 2, true)],
            Self::Late => vec![(at + shift * 5 / 2, true)],
            Self::Twice => vec![(soon, true), (soon + shift, true)],
            Self::Undecided => vec![(soon, false), (soon + shift / 2, true)],
            Self::NoAccount => vec![],
        }
    }

    /// Times that the line is broken before a charge gets through.
    fn failures(order: OrderId) -> u32 {
        u32::from(mix(order ^ 0xbad).is_multiple_of(16)) * 2
    }
}

/// The provider's word on a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    Done,
    Broken,
    NoAccount,
}

#[derive(Debug, Default)]
struct Books {
    is_down: bool,
    charges: BTreeMap<OrderId, Bill>,
    refunds: BTreeSet<OrderId>,
    /// Charges by their keys.
    keys: HashMap<String, OrderId>,
    tries: HashMap<OrderId, u32>,
    counts: Counts,
    file: Option<File>,
}

/// What it met with since it was opened.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Charges and refunds asked for again, and not done again.
    pub(crate) repeated: u64,
    /// Calls that did not get through.
    pub(crate) broken: u64,
}

/// The provider. It outlives the hub.
#[derive(Debug, Default)]
pub(crate) struct Provider(Mutex<Books>);

impl Provider {
    /// One whose books are a file, a line an entry.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let mut books = Books::default();
        let text = if path.exists() { std::fs::read_to_string(path)? } else { String::new() };
        // What a kill cut off was not answered, and is asked for again.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        for line in text.get(..whole).unwrap_or_default().lines() {
            books.read(line).ok_or_else(|| format!("{}: {line:?} is no entry", path.display()))?;
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.set_len(whole as u64)?;
        drop(file);
        books.file = Some(OpenOptions::new().append(true).open(path)?);
        Ok(Self(Mutex::new(books)))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While it is down, every call is broken. Returns when none is under way.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.books().is_down = is_down;
    }

    /// Takes the money for an order, once for each key.
    pub(crate) fn charge(&self, key: &str, bill: Bill) -> Result<Line, Failure> {
        let mut books = self.books();
        if books.is_down {
            books.counts.broken += 1;
            return Ok(Line::Broken);
        }
        if Fate::of(bill.order) == Fate::NoAccount {
            return Ok(Line::NoAccount);
        }
        if let Some(order) = books.keys.get(key).copied() {
            books.counts.repeated += 1;
            return if order == bill.order { Ok(Line::Done) } else { Err(format!("{key} named two orders").into()) };
        }
        if books.charges.contains_key(&bill.order) {
            return Err(format!("order {} is charged under two keys", bill.order).into());
        }
        let tries = books.tries.entry(bill.order).or_default();
        *tries += 1;
        if *tries <= Fate::failures(bill.order) {
            books.counts.broken += 1;
            return Ok(Line::Broken);
        }
        let Bill { order, fridge, meal, at } = bill;
        let Fridge { area, venue, number } = fridge;
        books.write(&format!("charge {key} {order} {area} {venue} {number} {meal} {at}\n"))?;
        books.charge(key, bill);
        Ok(Line::Done)
    }

    /// Gives the money back, once for each order.
    pub(crate) fn refund(&self, order: OrderId) -> Result<Line, Failure> {
        let mut books = self.books();
        if books.is_down {
            books.counts.broken += 1;
            return Ok(Line::Broken);
        }
        if books.refunds.contains(&order) {
            books.counts.repeated += 1;
            return Ok(Line::Done);
        }
        if !books.charges.contains_key(&order) {
            return Err(format!("order {order} is refunded and was never charged").into());
        }
        books.write(&format!("refund {order}\n"))?;
        books.refunds.insert(order);
        Ok(Line::Done)
    }

    /// The answers that come in a shift, on what was charged in the shifts before.
    pub(crate) fn answers(&self, shift: u32, times: Times) -> Vec<Command> {
        let books = self.books();
        let bills = books.charges.values();
        bills.flat_map(|bill| answers_on(bill, times)).filter(|answer| answer.shift == shift).collect()
    }

    pub(crate) fn charged(&self) -> Vec<OrderId> {
        self.books().charges.keys().copied().collect()
    }

    pub(crate) fn refunded(&self) -> Vec<OrderId> {
        self.books().refunds.iter().copied().collect()
    }

    /// How many charges and refunds.
    pub(crate) fn done(&self) -> (usize, usize) {
        let books = self.books();
        (books.charges.len(), books.refunds.len())
    }

    pub(crate) fn counts(&self) -> Counts {
        self.books().counts
    }
}

/// All answers on a charge, as commands.
pub(crate) fn answers_on(bill: &Bill, times: Times) -> impl Iterator<Item = Command> {
    let Bill { order, fridge, meal, at } = *bill;
    let answers = Fate::of(order).answers(at, times);
    answers.into_iter().zip(0..).map(move |((due, paid), nth)| {
        let shift = u32::try_from(due / times.shift_ms).unwrap_or(u32::MAX);
        Command::payment(order, nth, (shift, due), fridge, (meal, paid))
    })
}

impl Books {
    fn write(&mut self, line: &str) -> Result<(), Failure> {
        // One call, so that a kill leaves all of it or a part that has no end.
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(line.as_bytes()))?;
        Ok(())
    }

    fn charge(&mut self, key: &str, bill: Bill) {
        self.keys.insert(key.to_owned(), bill.order);
        self.charges.insert(bill.order, bill);
    }

    fn read(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        match words.next()? {
            "refund" => {
                self.refunds.insert(words.next()?.parse().ok()?);
            }
            "charge" => {
                let key = words.next()?;
                let order = words.next()?.parse().ok()?;
                let (area, venue) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                let fridge = Fridge { area, venue, number: words.next()?.parse().ok()? };
                let (meal, at) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                self.charge(key, Bill { order, fridge, meal, at });
            }
            _ => return None,
        }
        Some(())
    }
}
