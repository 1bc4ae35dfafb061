//! A stock as anyone would write it for one thread: what `Stock` is held against.

use std::collections::BTreeMap;

use commissary::reservations::{
    EnterError, Entered, Entry, Levels, NotHeld, Refused, Reservation, State, Stock, Terms,
};

/// A call on a stock, or the step of an expiry on one reservation: each is decided by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    Enter(Entry),
    Reserve { id: u128, units: u64, deadline: u64 },
    Confirm(u128),
    Cancel(u128),
    Expire(u64),
    ExpireOne { id: u128, now: u64 },
    Look(u128),
    Available,
}

/// What it is answered, in terms that can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Entered(Result<Entered, EnterError>),
    Reserved(Result<Seen, Refused>),
    Ended(Result<Seen, NotHeld>),
    Expired(Vec<Seen>),
    ExpiredOne(bool),
    Looked(Option<Seen>),
    Available(u64),
}

/// A reservation: id, units, deadline, state, whether this call made it so.
pub(crate) type Seen = (u128, u64, u64, State, bool);

pub(crate) fn seen(found: Reservation) -> Seen {
    (found.id, found.units, found.deadline, found.state, found.first)
}

/// Makes a call on a real stock.
pub(crate) fn call_real(stock: &Stock, call: &Call) -> Answer {
    match *call {
        Call::Enter(entry) => Answer::Entered(stock.enter(entry)),
        Call::Reserve { id, units, deadline } => Answer::Reserved(stock.reserve(id, units, deadline).map(seen)),
        Call::Confirm(id) => Answer::Ended(stock.confirm(id).map(seen)),
        Call::Cancel(id) => Answer::Ended(stock.cancel(id).map(seen)),
        Call::Expire(now) => Answer::Expired(stock.expire(now).into_iter().map(seen).collect()),
        Call::ExpireOne { .. } => unreachable!("a step of an expiry, not a call"),
        Call::Look(id) => Answer::Looked(stock.reservation(id).map(seen)),
        Call::Available => Answer::Available(stock.available()),
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kept {
    units: u64,
    deadline: u64,
    state: State,
    serial: u64,
    ended_at: u64,
}

/// The plain stock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Plain {
    grace: u64,
    held: usize,
    remembered: u64,
    events: usize,
    made: u64,
    confirmed: u64,
    kept: BTreeMap<u128, Kept>,
    /// Deltas that are told apart, by (position, source); what stands before them; up to where; the last total.
    deltas: BTreeMap<(u64, u128), i64>,
    before: i64,
    floor: Option<u64>,
    total: Option<(u64, u64)>,
}

impl Plain {
    pub(crate) fn new(terms: Terms) -> Self {
        Self {
            grace: terms.grace_ms,
            held: terms.held as usize,
            remembered: u64::from(terms.remembered),
            events: terms.events as usize,
            made: 0,
            confirmed: 0,
            kept: BTreeMap::new(),
            deltas: BTreeMap::new(),
            before: 0,
            floor: None,
            total: None,
        }
    }

    fn added(&self) -> i64 {
        self.before + self.deltas.values().sum::<i64>()
    }

    fn units_held(&self) -> u64 {
        self.kept.values().filter(|kept| kept.state.is_held()).map(|kept| kept.units).sum()
    }

    fn balance(&self) -> i64 {
        self.added() - i64::try_from(self.units_held() + self.confirmed).unwrap()
    }

    pub(crate) fn levels(&self) -> Levels {
        let side = |units: i64| u64::try_from(units).unwrap_or(0);
        Levels {
            available: side(self.balance()),
            held: self.units_held(),
            confirmed: self.confirmed,
            added: side(self.added()),
            short: side(-self.balance()),
        }
    }

    /// Makes a call, and says how it is answered.
    pub(crate) fn call(&mut self, call: &Call) -> Answer {
        let (made, remembered) = (self.made, self.remembered);
        self.kept.retain(|_, kept| kept.state.is_held() || made - kept.ended_at < remembered);
        match *call {
            Call::Enter(entry) => Answer::Entered(self.enter(entry)),
            Call::Reserve { id, units, deadline } => Answer::Reserved(self.reserve(id, units, deadline)),
            Call::Confirm(id) => Answer::Ended(self.end(id, State::Confirmed)),
            Call::Cancel(id) => Answer::Ended(self.end(id, State::Cancelled)),
            Call::Expire(now) => Answer::Expired(self.expire(now)),
            Call::ExpireOne { id, now } => Answer::ExpiredOne(self.expire_one(id, now)),
            Call::Look(id) => {
                Answer::Looked(self.kept.get(&id).map(|kept| (id, kept.units, kept.deadline, kept.state, false)))
            }
            Call::Available => Answer::Available(self.levels().available),
        }
    }

    fn enter(&mut self, entry: Entry) -> Result<Entered, EnterError> {
        let before = self.clone();
        let entered = match entry {
            Entry::Delta { units, source, seq } => self.delta(units, (seq, source)),
            Entry::Total { units, as_of } => Ok(self.set_total(units, as_of)),
        };
        let added = self.added();
        if added < 0 {
            *self = before;
            return Err(EnterError::BelowZero { units: added });
        }
        entered
    }

    fn delta(&mut self, units: i64, key: (u64, u128)) -> Result<Entered, EnterError> {
        match self.deltas.get(&key) {
            Some(before) if *before == units => return Ok(Entered::Repeated),
            Some(before) => return Err(EnterError::Conflict { units: *before }),
            None => {}
        }
        if self.total.is_some_and(|(_, as_of)| key.0 <= as_of) {
            return Ok(Entered::Covered);
        }
        if let Some(floor) = self.floor.filter(|floor| key.0 <= *floor) {
            return Ok(Entered::Forgotten { floor });
        }
        self.deltas.insert(key, units);
        while self.deltas.len() > self.events {
            let ((seq, _), units) = self.deltas.pop_first().unwrap();
            self.before += units;
            self.floor = Some(seq);
        }
        Ok(Entered::Applied)
    }

    fn set_total(&mut self, units: u64, as_of: u64) -> Entered {
        match self.total {
            Some(total) if total == (units, as_of) => return Entered::Repeated,
            Some((_, applied)) if as_of <= applied => return Entered::Stale { as_of: applied },
            _ => {}
        }
        if let Some(floor) = self.floor.filter(|floor| as_of < *floor) {
            return Entered::Forgotten { floor };
        }
        self.before = i64::try_from(units).unwrap();
        self.deltas.retain(|(seq, _), _| *seq > as_of);
        (self.floor, self.total) = (Some(as_of), Some((units, as_of)));
        Entered::Applied
    }

    fn reserve(&mut self, id: u128, units: u64, deadline: u64) -> Result<Seen, Refused> {
        if let Some(kept) = self.kept.get(&id) {
            return if (kept.units, kept.deadline) == (units, deadline) {
                Ok((id, units, deadline, kept.state, false))
            } else {
                let Kept { units, deadline, .. } = *kept;
                Err(Refused::Conflict { id, units, deadline })
            };
        }
        let available = self.levels().available;
        if units > available {
            return Err(Refused::Short { wanted: units, available });
        }
        if self.kept.values().filter(|kept| kept.state.is_held()).count() >= self.held {
            return Err(Refused::TooManyHeld { limit: u32::try_from(self.held).unwrap() });
        }
        let kept = Kept { units, deadline, state: State::Held, serial: self.made, ended_at: 0 };
        self.kept.insert(id, kept);
        self.made += 1;
        Ok((id, units, deadline, State::Held, true))
    }

    fn end(&mut self, id: u128, wanted: State) -> Result<Seen, NotHeld> {
        let made = self.made;
        let Some(kept) = self.kept.get_mut(&id) else { return Err(NotHeld::Unknown { id }) };
        let first = kept.state.is_held();
        if !first && kept.state != wanted {
            return Err(NotHeld::Over { id, state: kept.state });
        }
        if first {
            (kept.state, kept.ended_at) = (wanted, made);
            self.confirmed += if wanted == State::Confirmed { kept.units } else { 0 };
        }
        Ok((id, kept.units, kept.deadline, wanted, first))
    }

    fn expire_one(&mut self, id: u128, now: u64) -> bool {
        let (made, grace) = (self.made, self.grace);
        let due = |kept: &&mut Kept| kept.state.is_held() && kept.deadline <= now;
        let Some(kept) = self.kept.get_mut(&id).filter(due) else { return false };
        let over = kept.deadline.saturating_add(grace) <= now;
        if over {
            (kept.state, kept.ended_at) = (State::Expired, made);
        } else {
            kept.state = State::Overdue;
        }
        over
    }

    fn expire(&mut self, now: u64) -> Vec<Seen> {
        let mut order: Vec<(u64, u128)> = self.kept.iter().map(|(id, kept)| (kept.serial, *id)).collect();
        order.sort_unstable();
        let mut expired = Vec::new();
        for (_, id) in order {
            if self.expire_one(id, now) {
                let kept = &self.kept[&id];
                expired.push((id, kept.units, kept.deadline, State::Expired, true));
            }
        }
        expired
    }

    /// Every reservation that is remembered, in the order in which they were made.
    pub(crate) fn reservations(&mut self) -> Vec<(u128, u64, State)> {
        let _ = self.call(&Call::Available);
        let mut all: Vec<_> = self.kept.iter().map(|(id, kept)| (kept.serial, (*id, kept.units, kept.state))).collect();
        all.sort_unstable_by_key(|(serial, _)| *serial);
        all.into_iter().map(|(_, kept)| kept).collect()
    }
}
