//! The urgent subjects of one service: which they are, which of them wait, and where else they stand. The steward's.

use std::collections::{HashMap, HashSet, VecDeque};

use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

use crate::audit::Print;
use crate::cooldown;
use crate::pool::{Pool, Spot, SubjectBuf};
use crate::sync::Arc;

/// Urgent subjects in one pool, at most: so that those who come after it, and the ageing of others, are not kept waiting.
const POOL_SUBJECTS: usize = 1_024;

/// One that waits.
#[derive(Debug)]
struct Waiting {
    subject: SubjectBuf,
    /// Where it stands as well.
    origin: Option<Spot>,
}

/// The urgent subjects of one service.
#[derive(Debug, Default)]
pub(crate) struct Rush {
    /// Urgent and still owed.
    ranks: HashSet<u64>,
    /// In no bucket of theirs yet, oldest mark first.
    fresh: VecDeque<Waiting>,
    /// Likewise, but some seats may not have them for now. They come in pools of their own, so that none of the others
    /// shares a bucket with one of them, and in turns.
    cooling: VecDeque<Waiting>,
    /// The last pool was of those.
    cooling_last: bool,
    /// Something was marked or put back since.
    news: bool,
    /// The ranks of those that wait.
    waiting: HashSet<u64>,
    /// Those that wait and stand elsewhere as well.
    again: HashSet<u64>,
    /// The two places of those that were offered again, less those from which they came back.
    twins: HashMap<u64, Vec<Spot>>,
}

/// What becomes of a subject that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Back {
    /// It is not urgent.
    Ordinary,
    /// It waits again.
    Waits,
    /// It stands elsewhere as well: there it stays.
    Elsewhere,
}

/// A pool's worth of subjects, and where some of them stand as well, by their places among them.
pub(crate) type Cut = (Vec<SubjectBuf>, Vec<(usize, Spot)>);

impl Rush {
    /// Makes a rank urgent. False if it was.
    pub(crate) fn add(&mut self, rank: u64) -> bool {
        self.ranks.insert(rank)
    }

    /// A subject that waits for an urgent bucket.
    pub(crate) fn push(&mut self, subject: SubjectBuf, origin: Option<Spot>) {
        self.news = true;
        self.wait(subject, origin);
    }

    fn wait(&mut self, subject: SubjectBuf, origin: Option<Spot>) {
        if origin.is_some() {
            self.again.insert(subject.rank);
        }
        self.waiting.insert(subject.rank);
        let queue = if subject.cooldowns() == 0 { &mut self.fresh } else { &mut self.cooling };
        queue.push_back(Waiting { subject, origin });
    }

    /// Nothing is owed of a rank any more. Returns how often it waited.
    pub(crate) fn remove(&mut self, rank: u64) -> usize {
        if !self.ranks.remove(&rank) {
            return 0;
        }
        self.twins.remove(&rank);
        self.again.remove(&rank);
        if !self.waiting.remove(&rank) {
            // Reported from a bucket, mostly.
            return 0;
        }
        let waited = self.waiting();
        for queue in [&mut self.fresh, &mut self.cooling] {
            queue.retain(|waiting| waiting.subject.rank != rank);
        }
        waited - self.waiting()
    }

    /// The fingerprint of those that wait.
    pub(crate) fn print(&self) -> Print {
        self.fresh.iter().chain(&self.cooling).map(|waiting| waiting.subject.rank).collect()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.fresh.len() + self.cooling.len()
    }

    /// True if one of them is for everybody.
    pub(crate) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// True if what claimers passed by would not come among the same again.
    pub(crate) fn has_news(&self) -> bool {
        self.news || self.has_fresh()
    }

    /// When the oldest of those that wait began to wait.
    pub(crate) fn waiting_since(&self) -> Option<u64> {
        self.fresh.iter().chain(&self.cooling).map(|waiting| waiting.subject.since).min()
    }

    /// Takes up to a pool's worth of those that wait, shuffled.
    pub(crate) fn cut(&mut self, rng: &mut ChaCha12Rng) -> Cut {
        self.news = false;
        self.cooling_last = !self.cooling.is_empty() && (self.fresh.is_empty() || !self.cooling_last);
        let queue = if self.cooling_last { &mut self.cooling } else { &mut self.fresh };
        let take = cooldown::fitting(queue.iter().take(POOL_SUBJECTS).map(|waiting| waiting.subject.cooldowns()));
        let mut taken: Vec<Waiting> = queue.drain(..take).collect();
        taken.shuffle(rng);
        let mut origins = Vec::new();
        let subjects = taken.into_iter().enumerate().map(|(at, Waiting { subject, origin })| {
            self.waiting.remove(&subject.rank);
            self.again.remove(&subject.rank);
            origins.extend(origin.map(|spot| (at, spot)));
            subject
        });
        (subjects.collect(), origins)
    }

    /// Takes note of a pool that offers some subjects again.
    pub(crate) fn note(&mut self, pool: &Arc<Pool>) {
        for index in 0..pool.slots().len() {
            for (place, origin) in pool.origins(index) {
                let Some(subject) = pool.subject(index, place) else { continue };
                let twin = Spot { pool: Arc::clone(pool), index, place };
                self.twins.insert(subject.rank, vec![origin.clone(), twin]);
            }
        }
    }

    /// A subject came back from a bucket. If it is urgent it waits again, unless it stands elsewhere as well.
    pub(crate) fn take_back(&mut self, subject: &SubjectBuf, pool: &Arc<Pool>, index: usize) -> Back {
        if !self.ranks.contains(&subject.rank) {
            return Back::Ordinary;
        }
        if self.again.remove(&subject.rank) {
            // It was to be offered again: now that is all there is of it.
            let waiting = self.fresh.iter_mut().chain(&mut self.cooling);
            waiting.filter(|waiting| waiting.subject.rank == subject.rank).for_each(|waiting| waiting.origin = None);
            return Back::Elsewhere;
        }
        let twins = self.twins.entry(subject.rank).or_default();
        // One that is not owed there any more was reported there, whether or not the report has come through.
        twins.retain(|spot| !spot.is_at(pool, index));
        if !twins.is_empty() {
            return Back::Elsewhere;
        }
        self.twins.remove(&subject.rank);
        self.news |= !pool.was_recalled(index);
        self.wait(subject.clone(), None);
        Back::Waits
    }
}
