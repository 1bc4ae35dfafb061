//! The lanes of one service that have something to do: what waits in each, which of them run, which comes next. The
//! steward's. A lane that neither waits nor runs takes no memory.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use crate::audit::Print;
use crate::pool::Pool;
use crate::sync::Arc;

/// Subjects that wait in memory, at most, about: beyond it they are left in the store.
const WAITING_MOST: usize = 1 << 22;

/// A subject that waits in its lane; what it is stands in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    rank: u64,
    /// Hub time, ms, at which it began to wait.
    since: u64,
}

/// One lane.
#[derive(Debug, Default)]
struct Lane {
    /// Ascending by rank: in the order in which they came.
    waiting: VecDeque<Waiting>,
    /// A bucket of it was cut, and what becomes of that is not applied yet.
    runs: bool,
}

/// The front of a lane that is next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) lane: Arc<[u8]>,
    pub(crate) ranks: Vec<u64>,
}

/// The lanes of one service.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    by_key: HashMap<Arc<[u8]>, Lane>,
    /// Those with something waiting that do not run, first come, first served.
    ready: VecDeque<Arc<[u8]>>,
    running: usize,
    waiting: usize,
    /// The first of each lane: rank, and since when it waits.
    fronts: BTreeMap<u64, u64>,
}

impl Lanes {
    /// A subject waits in its lane: a new one, or one that came back.
    pub(crate) fn wait(&mut self, key: &[u8], rank: u64, since: u64) {
        if !self.by_key.contains_key(key) {
            self.by_key.insert(Arc::from(key), Lane::default());
        }
        let name = self.by_key.get_key_value(key).map(|(name, _)| Arc::clone(name));
        let (Some(name), Some(lane)) = (name, self.by_key.get_mut(key)) else { return };
        let before = lane.waiting.front().copied();
        let at = lane.waiting.partition_point(|other| other.rank < rank);
        lane.waiting.insert(at, Waiting { rank, since });
        if before.is_none() && !lane.runs {
            self.ready.push_back(name);
        }
        let after = lane.waiting.front().copied();
        self.waiting += 1;
        self.move_front(before, after);
    }

    fn move_front(&mut self, before: Option<Waiting>, after: Option<Waiting>) {
        if before != after {
            before.map(|front| self.fronts.remove(&front.rank));
            after.map(|front| self.fronts.insert(front.rank, front.since));
        }
    }

    /// A lease that was there before runs a lane.
    pub(crate) fn run(&mut self, key: &[u8]) {
        let lane = self.by_key.entry(Arc::from(key)).or_default();
        self.running += usize::from(!std::mem::replace(&mut lane.runs, true));
    }

    /// Takes note of the lanes that a pool runs.
    pub(crate) fn note(&mut self, pool: &Pool) {
        for run in (0..pool.slots().len()).filter_map(|index| pool.run(index)) {
            self.run(run.lane());
        }
    }

    /// A lane does not run any more: it is next, if something waits in it, after those that are.
    pub(crate) fn free(&mut self, key: &[u8]) {
        let Some((name, lane)) = self.by_key.get_key_value(key) else { return };
        if !lane.runs {
            return;
        }
        self.running -= 1;
        if lane.waiting.is_empty() {
            self.by_key.remove(key);
            return;
        }
        self.ready.push_back(Arc::clone(name));
        if let Some(lane) = self.by_key.get_mut(key) {
            lane.runs = false;
        }
    }

    /// Takes subjects out of their lanes; the ranks of those that were there.
    pub(crate) fn take_out(&mut self, ranks: &HashSet<u64>) -> Vec<u64> {
        let mut out = Vec::new();
        if self.waiting == 0 {
            return out;
        }
        let mut fronts = Vec::new();
        for lane in self.by_key.values_mut() {
            let (before, had) = (lane.waiting.front().copied(), out.len());
            lane.waiting.retain(|subject| {
                let goes = ranks.contains(&subject.rank);
                out.extend(goes.then_some(subject.rank));
                !goes
            });
            if out.len() > had {
                fronts.push((before, lane.waiting.front().copied()));
            }
        }
        for (before, after) in fronts {
            self.move_front(before, after);
        }
        self.waiting -= out.len();
        if !out.is_empty() {
            self.by_key.retain(|_, lane| lane.runs || !lane.waiting.is_empty());
            self.ready.retain(|key| self.by_key.contains_key(key));
        }
        out
    }

    /// The fronts of the next lanes, up to `bucket` subjects of each, of as many as `room` subjects take. They are next no
    /// more: each is to be [`start`](Self::start)ed or [`postpone`](Self::postpone)d.
    pub(crate) fn offers(&mut self, room: usize, bucket: usize) -> Vec<Offer> {
        let (mut offers, mut taken) = (Vec::new(), 0);
        while taken < room
            && let Some(key) = self.ready.pop_front()
        {
            let Some(lane) = self.by_key.get(&key) else { continue };
            let ranks: Vec<u64> = lane.waiting.iter().take(bucket).map(|subject| subject.rank).collect();
            taken += ranks.len();
            offers.push(Offer { lane: key, ranks });
        }
        offers
    }

    /// The first `subjects` of an offered lane are in a bucket: it runs.
    pub(crate) fn start(&mut self, offer: &Offer, subjects: usize) {
        let Some(lane) = self.by_key.get_mut(&offer.lane) else { return };
        let before = lane.waiting.front().copied();
        let subjects = subjects.min(lane.waiting.len());
        lane.waiting.drain(..subjects);
        lane.runs = true;
        let after = lane.waiting.front().copied();
        self.waiting -= subjects;
        self.running += 1;
        self.move_front(before, after);
    }

    /// An offered lane is next again.
    pub(crate) fn postpone(&mut self, offer: Offer) {
        self.ready.push_front(offer.lane);
    }

    /// Subjects that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// True if no more should be read from the store.
    pub(crate) fn is_crowded(&self) -> bool {
        self.waiting >= WAITING_MOST
    }

    /// Lanes that have work and do not run.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Lanes of which a bucket was cut.
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// When the oldest subject began to wait.
    pub(crate) fn oldest(&self) -> Option<u64> {
        // Ranks are given in the order of time.
        self.fronts.first_key_value().map(|(_, since)| *since)
    }

    /// The fingerprint of those that wait.
    pub(crate) fn print(&self) -> Print {
        self.by_key.values().flat_map(|lane| &lane.waiting).map(|subject| subject.rank).collect()
    }

    /// Lanes in memory.
    #[cfg(test)]
    pub(crate) fn known(&self) -> usize {
        self.by_key.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(subjects: &[(&str, u64)]) -> Lanes {
        let mut lanes = Lanes::default();
        for (lane, rank) in subjects {
            lanes.wait(lane.as_bytes(), *rank, rank * 10);
        }
        lanes
    }

    /// Starts what is offered; the lanes' names and ranks.
    fn start(lanes: &mut Lanes, room: usize, bucket: usize) -> Vec<(String, Vec<u64>)> {
        let offers = lanes.offers(room, bucket);
        for offer in &offers {
            lanes.start(offer, offer.ranks.len());
        }
        offers.into_iter().map(|offer| (String::from_utf8(offer.lane.to_vec()).unwrap(), offer.ranks)).collect()
    }

    #[test]
    fn a_lane_runs_once_at_a_time_and_goes_on_at_its_front() {
        let mut lanes = lanes(&[("a", 1), ("b", 2), ("a", 3), ("a", 4)]);
        assert_eq!((lanes.ready(), lanes.waiting(), lanes.oldest()), (2, 4, Some(10)));
        assert_eq!(start(&mut lanes, 100, 2), [("a".to_owned(), vec![1, 3]), ("b".to_owned(), vec![2])]);
        assert_eq!(start(&mut lanes, 100, 2), []);
        assert_eq!((lanes.ready(), lanes.running(), lanes.waiting(), lanes.oldest()), (0, 2, 1, Some(40)));
        lanes.wait(b"a", 3, 30);
        assert_eq!((lanes.ready(), lanes.oldest()), (0, Some(30)), "what came back waits for its lane's end");
        lanes.free(b"a");
        assert_eq!(start(&mut lanes, 100, 2), [("a".to_owned(), vec![3, 4])]);
    }

    #[test]
    fn lanes_take_turns_and_idle_ones_are_forgotten() {
        let mut lanes = lanes(&[("a", 1), ("b", 2), ("c", 3), ("a", 4)]);
        assert_eq!(start(&mut lanes, 1, 1), [("a".to_owned(), vec![1])]);
        lanes.free(b"a");
        assert_eq!(start(&mut lanes, 2, 1), [("b".to_owned(), vec![2]), ("c".to_owned(), vec![3])]);
        assert_eq!(start(&mut lanes, 2, 1), [("a".to_owned(), vec![4])]);
        for lane in [b"a", b"b", b"c"] {
            lanes.free(lane);
        }
        assert_eq!((lanes.known(), lanes.running(), lanes.waiting(), lanes.oldest()), (0, 0, 0, None));
        lanes.free(b"a");
        assert_eq!(lanes.running(), 0, "freed once");
    }

    #[test]
    fn what_is_taken_out_leaves_no_trace() {
        let mut lanes = lanes(&[("a", 1), ("b", 2), ("a", 3)]);
        assert_eq!(lanes.take_out(&HashSet::from([1, 2, 9])).len(), 2);
        assert_eq!((lanes.known(), lanes.ready(), lanes.oldest()), (1, 1, Some(30)));
        let offers = lanes.offers(10, 10);
        assert_eq!(offers[0].ranks, [3]);
        lanes.postpone(offers[0].clone());
        assert_eq!((lanes.ready(), lanes.running(), lanes.print()), (1, 0, Print::of(3)));
    }
}
