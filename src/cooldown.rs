//! Cooldowns: which seat gave which subject back, and until when that subject is for others only.

use crate::sync::{AtomicU64, Ordering};

/// Seats remembered for one subject, at most: the latest of them.
const SEATS_MAX: usize = 8;
/// Cooldowns in one pool, at most: what a claim may have to look through.
const POOL_MAX: usize = 1_024;

/// One seat's cooldown for one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cooldown {
    pub(crate) seat: u32,
    /// Hub time, ms, from which on the seat may have the subject again.
    pub(crate) until: u64,
}

/// What holds for a subject that `giver` puts back: what held before and still does, and the new one.
pub(crate) fn renewed(
    before: impl Iterator<Item = Cooldown>,
    giver: Option<u32>,
    cooldown_ms: u64,
    now: u64,
) -> Box<[Cooldown]> {
    let mut all: Vec<Cooldown> = before.filter(|old| old.until > now && Some(old.seat) != giver).collect();
    if let Some(seat) = giver.filter(|_| cooldown_ms > 0) {
        all.push(Cooldown { seat, until: now.saturating_add(cooldown_ms) });
    }
    let surplus = all.len().saturating_sub(SEATS_MAX);
    all.drain(..surplus);
    all.into()
}

/// Of subjects with so many cooldowns each, how many fit in one pool; at least one.
pub(crate) fn fitting(cooldowns: impl Iterator<Item = usize>) -> usize {
    let mut sum = 0;
    let fits = |of_one: &usize| {
        sum += of_one;
        sum <= POOL_MAX
    };
    cooldowns.take_while(fits).count()
}

/// The cooldowns of one pool. Empty for ordinary pools.
#[derive(Debug, Default)]
pub(crate) struct Cooldowns {
    /// Ascending by subject, and so by slot.
    entries: Box<[Entry]>,
    /// One bit an entry, set in the first of its slot: a claimer passed the slot by.
    aside: Box<[AtomicU64]>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// Index of the slot in its pool.
    pub(crate) slot: usize,
    /// Index of the subject in its pool.
    pub(crate) subject: usize,
    pub(crate) cooldown: Cooldown,
}

impl Cooldowns {
    /// From entries that ascend by subject.
    pub(crate) fn new(entries: Vec<Entry>) -> Self {
        debug_assert!(entries.is_sorted_by_key(|entry| (entry.slot, entry.subject)), "cooldowns out of order");
        Self { aside: (0..entries.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect(), entries: entries.into() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn first_of(&self, slot: usize) -> usize {
        self.entries.partition_point(|entry| entry.slot < slot)
    }

    fn of_slot(&self, slot: usize) -> impl Iterator<Item = &Entry> {
        let from = self.entries.get(self.first_of(slot)..).unwrap_or_default();
        from.iter().take_while(move |entry| entry.slot == slot)
    }

    pub(crate) fn of_subject(&self, subject: usize) -> impl Iterator<Item = Cooldown> {
        let from = self.entries.partition_point(|entry| entry.subject < subject);
        let from = self.entries.get(from..).unwrap_or_default();
        from.iter().take_while(move |entry| entry.subject == subject).map(|entry| entry.cooldown)
    }

    /// When `seat` may have the bucket, if not now.
    pub(crate) fn barred_until(&self, slot: usize, seat: u32, now: u64) -> Option<u64> {
        if self.entries.is_empty() {
            return None;
        }
        let own = self.of_slot(slot).map(|entry| entry.cooldown).filter(|own| own.seat == seat && own.until > now);
        own.map(|own| own.until).max()
    }

    /// Notes that a claimer passed by a slot that has a cooldown. Wait-free.
    pub(crate) fn set_aside(&self, slot: usize) {
        let first = self.first_of(slot);
        if let Some(word) = self.aside.get(first / 64) {
            // ordering: SeqCst; published before the claimer opens the front again (see `Express::take`).
            word.fetch_or(1 << (first % 64), Ordering::SeqCst);
        }
    }

    /// The slots that were passed by, ascending; whether they are still ready, their words say.
    pub(crate) fn passed_by(&self) -> impl Iterator<Item = usize> {
        let bits = self.aside.iter().enumerate().flat_map(|(at, word)| {
            // ordering: SeqCst; see `set_aside`.
            let word = word.load(Ordering::SeqCst);
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| at * 64 + bit)
        });
        bits.filter_map(|first| self.entries.get(first)).map(|entry| entry.slot)
    }

    /// True if a cooldown ended after `then`, and at `now` at the latest.
    pub(crate) fn ended_between(&self, then: u64, now: u64) -> bool {
        self.entries.iter().any(|entry| (then + 1..=now).contains(&entry.cooldown.until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Secret;
    use crate::pool::{Birth, Pool, SubjectBuf, SubjectRef, Terms};
    use crate::service::Policy;
    use crate::slot::Cause;

    fn cooldown(seat: u32, until: u64) -> Cooldown {
        Cooldown { seat, until }
    }

    /// Ten buckets of one subject that seat 1 gave back.
    fn given_back(generation: u64, secret: &Secret) -> Pool {
        let terms = Terms::of(&Policy { bucket_subjects: 1, ..Policy::default() });
        let subject = |rank| SubjectBuf::new(SubjectRef { rank, depth: 0, round: 1, since: 0, key: &[], body: &[] });
        let fresh: Vec<_> = (0..10).map(subject).collect();
        let birth = Birth { service: 1, generation, born: 0, terms };
        let pool = Pool::cut(birth, &fresh, secret);
        assert_eq!(pool.claim(10, 1, 0, |_| {}), 10);
        let given: Vec<_> = (0..10)
            .flat_map(|index| {
                let ended = pool.slot(index).and_then(|slot| slot.end(Some(1), Cause::Client)).unwrap();
                pool.put_back(index, ended.left, 0)
            })
            .collect();
        Pool::cut(Birth { generation: generation + 1, ..birth }, &given, secret)
    }

    /// R43: a client that knows where it passed something by cannot know when that comes.
    #[test]
    fn what_was_passed_by_comes_in_an_order_that_nobody_knows() {
        const POOLS: u64 = 2_000;
        let secret = Secret::from_bytes([3; Secret::BYTES]);
        let mut first = [0_u32; 10];
        for generation in 0..POOLS {
            let pool = given_back(generation * 2, &secret);
            let mut order = Vec::new();
            assert_eq!(pool.claim(1, 1, 0, |_| {}), 0);
            assert!(pool.is_exhausted() && !pool.is_spent());
            assert!(!pool.has_for(1, 0) && pool.has_for(2, 0));
            assert_eq!(pool.cools_at(1, 0), Some(pool.terms.cooldown_ms));
            assert_eq!(pool.claim(4, 2, 0, |index| order.push(index)), 4);
            assert_eq!(pool.claim(10, 3, 0, |index| order.push(index)), 6);
            assert!(pool.is_spent());
            first[order[0]] += 1;
            order.sort_unstable();
            assert_eq!(order, (0..10).collect::<Vec<_>>());
        }
        // 200 each, give or take 13.4; six of these.
        assert!(first.iter().all(|count| (120..=280).contains(count)), "{first:?}");
    }

    #[test]
    fn a_subject_remembers_who_gave_it_back_last() {
        let before = [cooldown(1, 10), cooldown(2, 50), cooldown(3, 60)];
        // The first is over; the third begins anew.
        let all = renewed(before.into_iter(), Some(3), 100, 10);
        assert_eq!(*all, [cooldown(2, 50), cooldown(3, 110)]);
        assert_eq!(*renewed(before.into_iter(), None, 100, 10), [cooldown(2, 50), cooldown(3, 60)]);
        assert_eq!(*renewed(before.into_iter(), Some(4), 0, 50), [cooldown(3, 60)]);
        let many = (0..20).map(|seat| cooldown(seat, 50));
        let all = renewed(many, Some(20), 100, 10);
        assert_eq!(all.len(), SEATS_MAX);
        assert_eq!(all.iter().map(|own| own.seat).collect::<Vec<_>>(), (13..=20).collect::<Vec<_>>());
    }

    #[test]
    fn a_bucket_is_barred_until_the_last_of_its_subjects_has_cooled() {
        let entry = |slot, subject, seat, until| Entry { slot, subject, cooldown: cooldown(seat, until) };
        let all =
            Cooldowns::new(vec![entry(2, 8, 1, 40), entry(2, 9, 1, 50), entry(2, 9, 2, 90), entry(70, 280, 2, 30)]);
        let times = [(1, 39), (1, 49), (1, 50), (2, 50), (3, 0)];
        let until: Vec<_> = times.iter().map(|(seat, now)| all.barred_until(2, *seat, *now)).collect();
        assert_eq!(until, [Some(50), Some(50), None, Some(90), None]);
        assert_eq!(
            (all.barred_until(1, 1, 0), all.barred_until(70, 2, 29), all.barred_until(71, 2, 0)),
            (None, Some(30), None)
        );
        assert_eq!(all.of_subject(9).collect::<Vec<_>>(), [cooldown(1, 50), cooldown(2, 90)]);
        all.set_aside(70);
        all.set_aside(2);
        all.set_aside(2);
        assert_eq!(all.passed_by().collect::<Vec<_>>(), [2, 70]);
        let ended: Vec<_> = [(0, 29), (29, 30), (30, 39)].map(|(then, now)| all.ended_between(then, now)).into();
        assert_eq!(ended, [false, true, false]);
    }
}
