//! The urgent subjects of one service: which they are, which of them wait, and where else they stand. The steward's.

use std::collections::{HashMap, HashSet, VecDeque};

use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

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
    queue: VecDeque<Waiting>,
    /// The two places of those that were offered again, less those from which they came back.
    twins: HashMap<u64, Vec<Spot>>,
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
        self.queue.push_back(Waiting { subject, origin });
    }

    /// Nothing is owed of a rank any more.
    pub(crate) fn remove(&mut self, rank: u64) {
        if self.ranks.remove(&rank) {
            self.twins.remove(&rank);
            self.queue.retain(|waiting| waiting.subject.rank != rank);
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// When the oldest of those that wait began to wait.
    pub(crate) fn waiting_since(&self) -> Option<u64> {
        self.queue.iter().map(|waiting| waiting.subject.since).min()
    }

    /// Takes up to a pool's worth of those that wait, shuffled.
    pub(crate) fn cut(&mut self, rng: &mut ChaCha12Rng) -> Cut {
        let most = self.queue.len().min(POOL_SUBJECTS);
        let mut taken: Vec<Waiting> = self.queue.drain(..most).collect();
        taken.shuffle(rng);
        let mut origins = Vec::new();
        let subjects = taken.into_iter().enumerate().map(|(at, Waiting { subject, origin })| {
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

    /// A subject came back from a bucket. If it is urgent it waits again, unless it stands elsewhere as well: `false` if it
    /// is not urgent.
    pub(crate) fn take_back(&mut self, subject: &SubjectBuf, pool: &Arc<Pool>, index: usize) -> bool {
        if !self.ranks.contains(&subject.rank) {
            return false;
        }
        let twins = self.twins.entry(subject.rank).or_default();
        twins.retain(|spot| !spot.is_at(pool, index) && spot.is_owed());
        if twins.is_empty() {
            self.twins.remove(&subject.rank);
            self.push(subject.clone(), None);
        }
        true
    }
}
