//! Notices to the operator: reports where they do not belong. In memory, the newest only.

use arc_swap::ArcSwapOption;
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::id::ClientId;
use crate::sync::{Arc, Counter};

/// Something that a client tried and was refused, and that an operator may want to know of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Notice {
    /// Which it was since the hub was opened, from 1. A gap is a notice that made room for newer ones.
    pub number: u64,
    /// When, by the wall clock.
    pub at: DateTime<Utc>,
    /// Who tried. The fault is counted against it.
    pub client: ClientId,
    /// For which service.
    pub service: String,
    /// What it tried.
    pub kind: NoticeKind,
}

/// What a client tried. More kinds may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoticeKind {
    /// It used the token of another client's lease. Nothing is counted against the holder, whose lease goes on.
    OthersLease {
        /// The pool's generation and the slot.
        bucket: (u64, u32),
        /// Whose lease it is.
        holder: ClientId,
    },
    /// It used a token that was never given out.
    ForgedToken,
    /// It reported on subjects that are not in its bucket. One notice a call.
    NotInBucket {
        /// The pool's generation and the slot.
        bucket: (u64, u32),
        /// How many such subjects.
        subjects: u32,
    },
}

/// The newest notices.
///
/// # Concurrency
///
/// Pushing is lock-free: one swap of one place's pointer, tried again only if another push to the same place came between,
/// which takes as many pushes as there are places.
#[derive(Debug)]
pub(crate) struct Notices {
    pushed: Counter,
    places: Box<[ArcSwapOption<Notice>]>,
}

impl Notices {
    pub(crate) fn new(most: usize) -> Self {
        Self { pushed: Counter::default(), places: (0..most).map(|_| ArcSwapOption::empty()).collect() }
    }

    /// Adds a notice; the oldest makes room.
    pub(crate) fn push(&self, at: DateTime<Utc>, client: ClientId, service: &str, kind: NoticeKind) {
        let number = self.pushed.next();
        let place = number.checked_rem(self.places.len() as u64).and_then(|place| usize::try_from(place).ok());
        let Some(place) = place.and_then(|place| self.places.get(place)) else { return };
        let notice = Arc::new(Notice { number, at, client, service: service.to_owned(), kind });
        // Whoever fell asleep in here does not put an old notice over a newer one.
        place.rcu(|held| match held {
            Some(held) if held.number > number => Some(Arc::clone(held)),
            _ => Some(Arc::clone(&notice)),
        });
    }

    /// What is there, oldest first.
    pub(crate) fn list(&self) -> Vec<Notice> {
        let mut list: Vec<Notice> = self.places.iter().filter_map(|place| place.load().as_deref().cloned()).collect();
        list.sort_by_key(|notice| notice.number);
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::utc;

    fn push(notices: &Notices, client: u64) {
        notices.push(utc(0), ClientId::known(client), "s", NoticeKind::ForgedToken);
    }

    #[test]
    fn the_newest_stay_in_order() {
        let notices = Notices::new(3);
        assert_eq!(notices.list(), []);
        (1..=5).for_each(|client| push(&notices, client));
        let numbers: Vec<(u64, u64)> =
            notices.list().iter().map(|notice| (notice.number, notice.client.value())).collect();
        assert_eq!(numbers, [(3, 3), (4, 4), (5, 5)]);
        let none = Notices::new(0);
        push(&none, 1);
        assert_eq!(none.list(), []);
    }

    #[test]
    fn four_threads_leave_the_newest_of_all() {
        let notices = Notices::new(64);
        std::thread::scope(|scope| {
            for client in 1..=4 {
                let notices = &notices;
                scope.spawn(move || (0..2_000).for_each(|_| push(notices, client)));
            }
        });
        let numbers: Vec<u64> = notices.list().iter().map(|notice| notice.number).collect();
        assert!(numbers.iter().copied().eq(8_000 - 63..=8_000), "{numbers:?}");
    }
}
