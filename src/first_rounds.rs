//! Subjects as they stand: how first rounds ended is kept by rank, many in one record, apart from what else is known of a subject.
//!
//! A first round ends with a report on which nothing depends but the subject itself, and nearly all rounds are first ones. So the report
//! is gathered with its neighbours' instead of being written into the subject's own record: a few hundred of them are one write.

use crate::apply::{self, stored};
use crate::error::StoreError;
use crate::record::{self, FirstRoundsValue, SubjectValue, key};
use crate::store::{Pair, Store, walk};

/// What is known of a subject, as it stands.
///
/// # Concurrency
///
/// True at some moment during the call.
pub(crate) fn subject(store: &dyn Store, service: u32, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    match store.get(&key::of(service, key::SUBJECT, name))? {
        Some(bytes) => Ended::new(store, service).fold(name, bytes),
        None => Ok(None),
    }
}

/// The subjects whose keys are `from` or come after it, in key order, read `page` by `page`.
pub(crate) fn subjects<'s>(
    store: &'s dyn Store,
    service: u32,
    from: &[u8],
    page: usize,
) -> impl Iterator<Item = Result<Pair, StoreError>> + use<'s> {
    let (start, end) = key::range(service, key::SUBJECT, from);
    let mut ended = Ended::new(store, service);
    walk(store, start, Some(end), page).filter_map(move |pair| {
        let folded = pair.and_then(|(name, bytes)| Ok(ended.fold(key::rest(&name), bytes)?.map(|bytes| (name, bytes))));
        folded.transpose()
    })
}

/// True if the last round is the first one and was open when this was written: how it ended, if it did, stands elsewhere.
pub(crate) fn may_have_ended(value: &SubjectValue<'_>) -> bool {
    value.round == 1 && value.open
}

/// A value with the end of its first round in it.
pub(crate) fn with(value: &SubjectValue<'_>, end: &[u8]) -> Result<Vec<u8>, StoreError> {
    let current = stored(record::decode("end", end))?;
    Ok(record::encode(&value.clone().ended(current)))
}

/// Reads ends of rounds; keeps those of the ranks looked at last.
struct Ended<'s> {
    store: &'s dyn Store,
    service: u32,
    span: Option<(u64, Vec<Pair>)>,
}

impl<'s> Ended<'s> {
    fn new(store: &'s dyn Store, service: u32) -> Self {
        Self { store, service, span: None }
    }

    /// A subject's value with the end of its first round in it; `None` if the subject went away meanwhile.
    fn fold(&mut self, name: &[u8], mut bytes: Vec<u8>) -> Result<Option<Vec<u8>>, StoreError> {
        loop {
            let value: SubjectValue<'_> = apply::subject(&bytes)?;
            if !may_have_ended(&value) {
                return Ok(Some(bytes));
            }
            if let Some(end) = self.find(value.rank)? {
                return Ok(Some(with(&value, end)?));
            }
            // No end: the round is open, or its end was just written into the subject's value.
            match self.store.get(&key::of(self.service, key::SUBJECT, name))? {
                Some(again) if again == bytes => return Ok(Some(bytes)),
                Some(again) => bytes = again,
                None => return Ok(None),
            }
        }
    }

    fn find(&mut self, rank: u64) -> Result<Option<&[u8]>, StoreError> {
        let (span, place) = key::span_of(rank);
        if self.span.as_ref().is_none_or(|(known, _)| *known != span) {
            let (start, end) = key::all_first_rounds(self.service, span);
            self.span = Some((span, self.store.scan(&start, Some(&end), usize::MAX)?));
        }
        for (_, bytes) in self.span.iter().flat_map(|(_, records)| records) {
            let rounds: FirstRoundsValue<'_> = stored(record::decode("first rounds", bytes))?;
            if let Some(end) = rounds.find(place) {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }
}
