//! What came in: deltas, each once, and totals that replace them. Plain values; nothing is shared here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{EnterError, Entered, Entry, Stock};

/// The last total that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Total {
    units: u64,
    as_of: u64,
}

/// Inputs so far: what stood up to a position, and what came after it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    /// What came in up to `floor`.
    units: i64,
    /// What came in up to here is not told apart any more.
    floor: Option<u64>,
    total: Option<Total>,
    /// By (position, source).
    #[serde(with = "list")]
    later: BTreeMap<(u64, u128), i64>,
}

impl Base {
    /// All that came in. Never below 0.
    pub(crate) fn added(&self) -> i64 {
        let sum = self.sum();
        i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX })
    }

    /// No number of `i64` that memory holds overflows it.
    fn sum(&self) -> i128 {
        self.later.values().fold(i128::from(self.units), |sum, units| sum + i128::from(*units))
    }

    /// True if it could have come about.
    pub(crate) fn is_sound(&self) -> bool {
        let limit = limit();
        let small = |units: &i64| (-limit..=limit).contains(units);
        // What is not told apart any more is a sum, and bounded only with what came after it.
        self.later.values().all(small) && (0..=i128::from(limit)).contains(&self.sum())
    }

    /// With one more input; `None` if it changes nothing. The newest `events` deltas are remembered.
    pub(crate) fn enter(&self, entry: Entry, events: usize) -> Result<(Entered, Option<Self>), EnterError> {
        let (entered, base) = match entry {
            Entry::Delta { units, source, seq } => self.delta(units, (seq, source), events)?,
            Entry::Total { units, as_of } => self.total(Total { units, as_of })?,
        };
        if let Some(base) = &base {
            let added = base.added();
            if added < 0 {
                return Err(EnterError::BelowZero { units: added });
            }
            if added > limit() {
                return Err(EnterError::TooMany { limit: Stock::UNITS_MAX });
            }
        }
        Ok((entered, base))
    }

    fn delta(&self, units: i64, key: (u64, u128), events: usize) -> Result<(Entered, Option<Self>), EnterError> {
        if units.unsigned_abs() > Stock::UNITS_MAX {
            return Err(EnterError::TooMany { limit: Stock::UNITS_MAX });
        }
        if let Some(before) = self.later.get(&key) {
            let same = *before == units;
            return if same { Ok((Entered::Repeated, None)) } else { Err(EnterError::Conflict { units: *before }) };
        }
        if let Some(floor) = self.floor.filter(|floor| key.0 <= *floor) {
            let covered = self.total.is_some_and(|total| key.0 <= total.as_of);
            return Ok((if covered { Entered::Covered } else { Entered::Forgotten { floor } }, None));
        }
        let mut base = self.clone();
        base.later.insert(key, units);
        base.forget(events);
        Ok((Entered::Applied, Some(base)))
    }

    /// Keeps the newest `events` deltas apart.
    fn forget(&mut self, events: usize) {
        while self.later.len() > events {
            let Some(((seq, _), units)) = self.later.pop_first() else { return };
            self.units = self.units.saturating_add(units);
            self.floor = Some(seq);
        }
    }

    fn total(&self, total: Total) -> Result<(Entered, Option<Self>), EnterError> {
        if total.units > Stock::UNITS_MAX {
            return Err(EnterError::TooMany { limit: Stock::UNITS_MAX });
        }
        if self.total == Some(total) {
            return Ok((Entered::Repeated, None));
        }
        if let Some(applied) = self.total.filter(|applied| total.as_of <= applied.as_of) {
            return Ok((Entered::Stale { as_of: applied.as_of }, None));
        }
        if let Some(floor) = self.floor.filter(|floor| total.as_of < *floor) {
            return Ok((Entered::Forgotten { floor }, None));
        }
        let later = self.later.iter().filter(|((seq, _), _)| *seq > total.as_of);
        let later = later.map(|(key, units)| (*key, *units)).collect();
        let units = i64::try_from(total.units).unwrap_or(i64::MAX);
        Ok((Entered::Applied, Some(Self { units, floor: Some(total.as_of), total: Some(total), later })))
    }
}

/// A map as a list of pairs: not every format has maps with such keys.
mod list {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Pairs = Vec<((u64, u128), i64)>;

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<(u64, u128), i64>, serializer: S) -> Result<S::Ok, S::Error> {
        map.iter().map(|(key, units)| (*key, *units)).collect::<Pairs>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<(u64, u128), i64>, D::Error> {
        Pairs::deserialize(deserializer).map(BTreeMap::from_iter)
    }
}

fn limit() -> i64 {
    i64::try_from(Stock::UNITS_MAX).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(units: i64, seq: u64) -> Entry {
        Entry::Delta { units, source: 1, seq }
    }

    fn total(units: u64, as_of: u64) -> Entry {
        Entry::Total { units, as_of }
    }

    fn enter(base: &mut Base, entry: Entry) -> Result<Entered, EnterError> {
        let (entered, after) = base.enter(entry, 3)?;
        assert_eq!(after.is_some(), entered == Entered::Applied);
        *base = after.unwrap_or_else(|| base.clone());
        Ok(entered)
    }

    /// R122: what was remembered is known again; what is older than what is remembered is refused, not counted twice.
    #[test]
    fn a_delta_counts_once_also_when_the_window_has_moved_on() {
        let mut base = Base::default();
        for seq in 1..=5 {
            assert_eq!(enter(&mut base, delta(10, seq)), Ok(Entered::Applied));
        }
        assert_eq!((base.added(), base.later.len()), (50, 3));
        for seq in 1..=2 {
            assert_eq!(enter(&mut base, delta(10, seq)), Ok(Entered::Forgotten { floor: 2 }));
        }
        for seq in 3..=5 {
            assert_eq!(enter(&mut base, delta(10, seq)), Ok(Entered::Repeated));
        }
        assert_eq!(enter(&mut base, delta(7, 5)), Err(EnterError::Conflict { units: 10 }));
        let other = Entry::Delta { units: 1, source: 2, seq: 5 };
        assert_eq!((enter(&mut base, other), base.added()), (Ok(Entered::Applied), 51));
    }

    /// R123: whatever the order in which totals and deltas arrive, what came in is the newest total and what came after it.
    #[test]
    fn a_total_replaces_what_came_before_it_and_keeps_what_came_after() {
        let entries = [delta(10, 1), delta(5, 3), total(8, 2), delta(1, 2)];
        for first in 0..4 {
            for second in (0..4).filter(|at| *at != first) {
                for third in (0..4).filter(|at| ![first, second].contains(at)) {
                    let mut base = Base::default();
                    for at in [first, second, third, 6 - first - second - third] {
                        assert!(matches!(enter(&mut base, entries[at]), Ok(Entered::Applied | Entered::Covered)));
                    }
                    assert_eq!(base.added(), 13, "{first} {second} {third}");
                }
            }
        }
    }

    /// R123: an older total changes nothing; nor does one that cannot be placed any more.
    #[test]
    fn stale_totals_are_told_from_those_that_count() {
        let mut base = Base::default();
        assert_eq!(enter(&mut base, total(8, 20)), Ok(Entered::Applied));
        assert_eq!(enter(&mut base, total(8, 20)), Ok(Entered::Repeated));
        assert_eq!(enter(&mut base, total(9, 20)), Ok(Entered::Stale { as_of: 20 }));
        assert_eq!(enter(&mut base, total(9, 19)), Ok(Entered::Stale { as_of: 20 }));
        assert_eq!(enter(&mut base, delta(1, 20)), Ok(Entered::Covered));
        for seq in 30..34 {
            assert_eq!(enter(&mut base, delta(1, seq)), Ok(Entered::Applied));
        }
        assert_eq!(enter(&mut base, total(9, 29)), Ok(Entered::Forgotten { floor: 30 }));
        assert_eq!((enter(&mut base, total(9, 30)), base.added()), (Ok(Entered::Applied), 12));
    }

    /// What is not told apart any more may be more than a stock can hold, with what is taken off told apart still.
    #[test]
    fn whatever_was_entered_is_sound() {
        let most = i64::try_from(Stock::UNITS_MAX).unwrap();
        let mut base = Base::default();
        for (seq, units) in [(1, most), (5, -most), (2, most), (6, -most), (3, most), (4, -1)] {
            assert_eq!(enter(&mut base, delta(units, seq)), Ok(Entered::Applied), "{seq}");
            assert!(base.is_sound(), "{seq}");
        }
        assert_eq!(base.added(), most - 1);
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let mut base = Base::default();
        assert_eq!(enter(&mut base, delta(5, 1)), Ok(Entered::Applied));
        assert_eq!(enter(&mut base, delta(-6, 2)), Err(EnterError::BelowZero { units: -1 }));
        assert_eq!(enter(&mut base, delta(i64::MIN, 2)), Err(EnterError::TooMany { limit: Stock::UNITS_MAX }));
        assert_eq!(enter(&mut base, total(u64::MAX, 2)), Err(EnterError::TooMany { limit: Stock::UNITS_MAX }));
        let most = i64::try_from(Stock::UNITS_MAX).unwrap();
        assert_eq!(enter(&mut base, delta(most, 2)), Err(EnterError::TooMany { limit: Stock::UNITS_MAX }));
        assert_eq!((base.added(), base.is_sound()), (5, true));
    }
}
