//! The ends of first rounds, gathered while records are applied and written by rank, many in one record.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use foldhash::HashMap;

use super::{Applier, stored};
use crate::error::StoreError;
use crate::first_rounds;
use crate::record::{self, FirstRoundsValue, Item, SubjectValue, key};

/// Longer reports stand in their subject's own record, so that reading one subject never means reading much of others.
const GATHERED_BYTES: usize = 512;
/// So many records of one span are made into one. More are fewer bytes written and more read.
const RECORDS: u32 = 16;
/// Spans whose next record's number is kept in memory between batches.
const SPANS_CACHED: usize = 65_536;

/// What the batch under way changes.
#[derive(Debug, Default)]
pub(super) struct FirstRounds {
    /// By service and rank, where the end of the round stands in `bytes`.
    fresh: BTreeMap<(u32, u64), Range<usize>>,
    /// Ends of rounds, each as [`FirstRoundsValue`] has it.
    bytes: Vec<u8>,
    /// Ranks whose ends went over into their subjects' values.
    moved: BTreeSet<(u32, u64)>,
    /// By service and span, the number that the next record gets.
    next: HashMap<(u32, u64), u32>,
    /// Nothing is gathered: each end goes into its subject's own record.
    #[cfg(test)]
    alone: bool,
}

#[cfg(test)]
impl Applier {
    /// Gathers nothing from here on, for tests to compare with.
    pub(crate) fn gather_nothing(&mut self) {
        self.first_rounds.alone = true;
    }
}

impl Applier {
    /// A subject's round ended, and this is known of it now. After a first round, nothing else is.
    pub(super) fn end_round(&mut self, service: u32, item: &Item<'_>, value: &SubjectValue<'_>) {
        let is_long = value.current.as_ref().is_some_and(|version| version.report.len() > GATHERED_BYTES);
        #[cfg(test)]
        let is_long = is_long || self.first_rounds.alone;
        if item.round > 1 || is_long {
            self.put(key::of(service, key::SUBJECT, item.key), value);
            return;
        }
        let FirstRounds { fresh, bytes, .. } = &mut self.first_rounds;
        let start = bytes.len();
        record::append(bytes, &value.current);
        fresh.insert((service, item.rank), start..bytes.len());
    }

    /// What is known of a subject that is about to change. If its first round's end stands apart, that goes over into its own
    /// value: from here on it is the only place.
    pub(super) fn subject_of(&mut self, service: u32, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let subject_key = key::of(service, key::SUBJECT, name);
        let Some(bytes) = self.get(&subject_key)? else { return Ok(None) };
        let value = super::subject(&bytes)?;
        if !first_rounds::may_have_ended(&value) {
            return Ok(Some(bytes));
        }
        let Some(end) = self.take_end(service, value.rank)? else { return Ok(Some(bytes)) };
        let bytes = first_rounds::with(&value, &end)?;
        self.batch.insert(subject_key, Some(bytes.clone()));
        Ok(Some(bytes))
    }

    fn take_end(&mut self, service: u32, rank: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let FirstRounds { fresh, bytes, .. } = &mut self.first_rounds;
        if let Some(end) = fresh.remove(&(service, rank)) {
            return Ok(bytes.get(end).map(<[u8]>::to_vec));
        }
        let (span, place) = key::span_of(rank);
        let (start, end) = key::all_first_rounds(service, span);
        for (_, bytes) in self.store.scan(&start, Some(&end), usize::MAX)? {
            let rounds: FirstRoundsValue<'_> = stored(record::decode("first rounds", &bytes))?;
            if let Some(end) = rounds.find(place) {
                self.first_rounds.moved.insert((service, rank));
                return Ok(Some(end.to_vec()));
            }
        }
        Ok(None)
    }

    /// Writes what was gathered, and takes out what went over to its subject.
    pub(super) fn flush_first_rounds(&mut self) -> Result<(), StoreError> {
        self.take_out_moved()?;
        let fresh = std::mem::take(&mut self.first_rounds.fresh);
        let mut bytes = std::mem::take(&mut self.first_rounds.bytes);
        let mut ends: Vec<(u8, &[u8])> = Vec::new();
        let mut rest = fresh.iter().peekable();
        while let Some(((service, rank), end)) = rest.next() {
            let (span, place) = key::span_of(*rank);
            ends.push((place, bytes.get(end.clone()).unwrap_or_default()));
            if rest.peek().is_none_or(|((of, next), _)| of != service || key::span_of(*next).0 != span) {
                self.write_span(*service, span, std::mem::take(&mut ends))?;
            }
        }
        bytes.clear();
        self.first_rounds.bytes = bytes;
        if self.first_rounds.next.len() > SPANS_CACHED {
            self.first_rounds.next.clear();
        }
        Ok(())
    }

    fn take_out_moved(&mut self) -> Result<(), StoreError> {
        let mut moved = std::mem::take(&mut self.first_rounds.moved);
        while let Some((service, rank)) = moved.first().copied() {
            let (span, _) = key::span_of(rank);
            let mut left = moved.split_off(&(service, key::span_end(span)));
            std::mem::swap(&mut moved, &mut left);
            let gone: BTreeSet<u8> = left.into_iter().map(|(_, rank)| key::span_of(rank).1).collect();
            let (start, end) = key::all_first_rounds(service, span);
            for (name, bytes) in self.store.scan(&start, Some(&end), usize::MAX)? {
                let rounds: FirstRoundsValue<'_> = stored(record::decode("first rounds", &bytes))?;
                let ends: Vec<_> = rounds.iter().filter(|(place, _)| !gone.contains(place)).collect();
                if ends.len() < rounds.len() {
                    self.batch.insert(name, (!ends.is_empty()).then(|| FirstRoundsValue::encode(&ends)));
                }
            }
        }
        Ok(())
    }

    /// One more record for a span. When there are many, they become one: it comes behind them, so that a reader who goes from one
    /// to the next meets each end at least once.
    fn write_span(&mut self, service: u32, span: u64, ends: Vec<(u8, &[u8])>) -> Result<(), StoreError> {
        let number = match self.first_rounds.next.get(&(service, span)) {
            Some(next) => *next,
            None => self.next_record(service, span)?,
        };
        let mut earlier = Vec::new();
        if number > 0 && number.is_multiple_of(RECORDS) {
            for number in number - RECORDS..number {
                let name = key::first_rounds(service, span, number);
                earlier.extend(self.get(&name)?);
                self.batch.insert(name, None);
            }
        }
        let mut all = ends;
        for bytes in &earlier {
            all.extend(stored(record::decode::<FirstRoundsValue<'_>>("first rounds", bytes))?.iter());
        }
        all.sort_unstable_by_key(|(place, _)| *place);
        self.batch.insert(key::first_rounds(service, span, number), Some(FirstRoundsValue::encode(&all)));
        self.first_rounds.next.insert((service, span), number + 1);
        Ok(())
    }

    fn next_record(&self, service: u32, span: u64) -> Result<u32, StoreError> {
        let (first, last) = key::all_first_rounds(service, span);
        let last = self.store.last(&first, &last)?;
        let number = last.and_then(|(name, _)| key::small_number(key::rest(&name).get(8..)?));
        Ok(number.map_or(0, |number| number + 1))
    }
}
