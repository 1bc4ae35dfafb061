//! The lanes of one service that have something to do: what waits in each, which of them run, which comes next. The
//! steward's. A lane that neither waits nor runs takes no memory. The model checkers compile this file as it is (see `models/`).

use std::collections::{BTreeMap, HashMap, VecDeque};
// No thread waits for another by a count of these, so the checkers need not see it.
use std::sync::Arc;

/// Subjects taken out of a lane one by one, at most.
const FEW: usize = 16;
/// Names of lanes that have nothing to do any more, beside those that have, until they are looked for.
const STALE_MOST: usize = 1_024;

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
    /// It stands in `Lanes::ready`: perhaps for nothing, if what waited was taken out.
    queued: bool,
}

impl Lane {
    fn is_ready(&self) -> bool {
        !self.runs && !self.waiting.is_empty()
    }

    fn is_known(&self) -> bool {
        self.runs || self.queued || !self.waiting.is_empty()
    }

    /// Takes subjects out, ascending by rank, to `out`: if they are few each is looked for, else all that wait are looked at.
    fn take_out(&mut self, ranks: &[u64], out: &mut Vec<u64>) {
        if ranks.len() <= FEW {
            for rank in ranks {
                let at = self.waiting.binary_search_by_key(rank, |subject| subject.rank);
                out.extend(at.ok().and_then(|at| self.waiting.remove(at)).map(|subject| subject.rank));
            }
            return;
        }
        self.waiting.retain(|subject| {
            let goes = ranks.binary_search(&subject.rank).is_ok();
            out.extend(goes.then_some(subject.rank));
            !goes
        });
    }
}

/// The first subject that waits in a lane.
#[derive(Debug)]
struct Front {
    since: u64,
    lane: Arc<[u8]>,
}

/// One lane's queue, as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) lane: Arc<[u8]>,
    pub(crate) waiting: usize,
    /// Hub time, ms, at which its front began to wait.
    pub(crate) since: u64,
    pub(crate) runs: bool,
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
    /// Those with something waiting that do not run, first come, first served; and some of which everything was taken out.
    queue: VecDeque<Arc<[u8]>>,
    /// How many do have something waiting.
    ready: usize,
    running: usize,
    waiting: usize,
    /// The first of each lane, by its rank.
    fronts: BTreeMap<u64, Front>,
}

impl Lanes {
    /// A subject waits in its lane: a new one, or one that came back, since when it was taken in.
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
            self.ready += 1;
            if !std::mem::replace(&mut lane.queued, true) {
                self.queue.push_back(Arc::clone(&name));
            }
        }
        let after = lane.waiting.front().copied();
        self.waiting += 1;
        self.move_front(&name, before, after);
    }

    fn move_front(&mut self, lane: &Arc<[u8]>, before: Option<Waiting>, after: Option<Waiting>) {
        if before != after {
            before.map(|front| self.fronts.remove(&front.rank));
            after.map(|front| self.fronts.insert(front.rank, Front { since: front.since, lane: Arc::clone(lane) }));
        }
    }

    /// A lease that was there before runs a lane.
    pub(crate) fn run(&mut self, key: &[u8]) {
        let lane = self.by_key.entry(Arc::from(key)).or_default();
        self.ready -= usize::from(lane.is_ready());
        self.running += usize::from(!std::mem::replace(&mut lane.runs, true));
    }

    /// A lane does not run any more: it is next, if something waits in it, after those that are.
    pub(crate) fn free(&mut self, key: &[u8]) {
        let Some((name, lane)) = self.by_key.get_key_value(key) else { return };
        if !lane.runs {
            return;
        }
        self.running -= 1;
        let name = Arc::clone(name);
        let Some(lane) = self.by_key.get_mut(key) else { return };
        lane.runs = false;
        if lane.is_ready() {
            self.ready += 1;
            if !std::mem::replace(&mut lane.queued, true) {
                self.queue.push_back(name);
            }
        } else if !lane.is_known() {
            self.by_key.remove(key);
        }
    }

    /// Takes subjects out of their lanes, each given with its lane; the ranks of those that were there. Costs as much as is
    /// taken out: other lanes are not looked at.
    pub(crate) fn take_out(&mut self, laned: &[(Vec<u8>, u64)]) -> Vec<u64> {
        let mut by_lane: HashMap<&[u8], Vec<u64>> = HashMap::new();
        for (lane, rank) in laned {
            by_lane.entry(lane).or_default().push(*rank);
        }
        let mut out = Vec::new();
        for (key, mut ranks) in by_lane {
            ranks.sort_unstable();
            self.take_out_of(key, &ranks, &mut out);
        }
        self.waiting -= out.len();
        if self.queue.len() > self.ready + STALE_MOST {
            self.forget_stale();
        }
        out
    }

    fn take_out_of(&mut self, key: &[u8], ranks: &[u64], out: &mut Vec<u64>) {
        let name = self.by_key.get_key_value(key).map(|(name, _)| Arc::clone(name));
        let (Some(name), Some(lane)) = (name, self.by_key.get_mut(key)) else { return };
        let (was_ready, before) = (lane.is_ready(), lane.waiting.front().copied());
        lane.take_out(ranks, out);
        let after = lane.waiting.front().copied();
        self.ready -= usize::from(was_ready && !lane.is_ready());
        if !lane.is_known() {
            self.by_key.remove(key);
        }
        self.move_front(&name, before, after);
    }

    /// Takes those out of the queue that have nothing to do.
    fn forget_stale(&mut self) {
        let by_key = &mut self.by_key;
        self.queue.retain(|key| {
            let Some(lane) = by_key.get_mut(key) else { return false };
            lane.queued = lane.is_ready();
            let (queued, known) = (lane.queued, lane.is_known());
            if !known {
                by_key.remove(key);
            }
            queued
        });
    }

    /// The fronts of the next lanes, up to `bucket` subjects of each, of as many as `room` subjects take. They are next no
    /// more: each is to be [`start`](Self::start)ed or [`postpone`](Self::postpone)d.
    pub(crate) fn offers(&mut self, room: usize, bucket: usize) -> Vec<Offer> {
        let (mut offers, mut taken) = (Vec::new(), 0);
        while taken < room
            && let Some(key) = self.queue.pop_front()
        {
            let Some(lane) = self.by_key.get_mut(&key) else { continue };
            lane.queued = false;
            if !lane.is_ready() {
                if !lane.is_known() {
                    self.by_key.remove(&key);
                }
                continue;
            }
            let ranks: Vec<u64> = lane.waiting.iter().take(bucket).map(|subject| subject.rank).collect();
            taken += ranks.len();
            offers.push(Offer { lane: key, ranks });
        }
        offers
    }

    /// The first `subjects` of an offered lane are in a bucket: it runs.
    pub(crate) fn start(&mut self, offer: &Offer, subjects: usize) {
        let Some(lane) = self.by_key.get_mut(&offer.lane) else { return };
        self.ready -= usize::from(lane.is_ready());
        let before = lane.waiting.front().copied();
        let subjects = subjects.min(lane.waiting.len());
        lane.waiting.drain(..subjects);
        lane.runs = true;
        let after = lane.waiting.front().copied();
        self.waiting -= subjects;
        self.running += 1;
        self.move_front(&offer.lane, before, after);
    }

    /// An offered lane is next again.
    pub(crate) fn postpone(&mut self, offer: Offer) {
        if let Some(lane) = self.by_key.get_mut(&offer.lane) {
            lane.queued = true;
            self.queue.push_front(offer.lane);
        }
    }

    /// Subjects that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Lanes that have work and do not run.
    pub(crate) fn ready(&self) -> usize {
        self.ready
    }

    /// Lanes of which a bucket was cut.
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// When the oldest subject began to wait.
    pub(crate) fn oldest(&self) -> Option<u64> {
        // Ranks are given in the order of time, and what comes back has the one that it had, and waits since the same time.
        self.fronts.first_key_value().map(|(_, front)| front.since)
    }

    /// The lanes whose fronts wait longest, up to `most`, longest first.
    pub(crate) fn longest(&self, most: usize) -> Vec<Queued> {
        let queued = |Front { since, lane }: &Front| {
            let Lane { waiting, runs, .. } = self.by_key.get(lane)?;
            Some(Queued { lane: Arc::clone(lane), waiting: waiting.len(), since: *since, runs: *runs })
        };
        self.fronts.values().take(most).filter_map(queued).collect()
    }

    /// The ranks of those that wait, in no order.
    pub(crate) fn ranks(&self) -> impl Iterator<Item = u64> {
        self.by_key.values().flat_map(|lane| &lane.waiting).map(|subject| subject.rank)
    }

    /// Lanes in memory.
    #[cfg(test)]
    pub(crate) fn known(&self) -> usize {
        self.by_key.len()
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha12Rng;

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
        assert_eq!(take_out(&mut lanes, &[("a", 1), ("b", 2), ("a", 9), ("c", 3)]), [1, 2]);
        assert_eq!((lanes.ready(), lanes.waiting(), lanes.oldest()), (1, 1, Some(30)));
        let offers = lanes.offers(10, 10);
        assert_eq!((offers.len(), &offers[0].ranks), (1, &vec![3]));
        lanes.postpone(offers[0].clone());
        assert_eq!((lanes.ready(), lanes.running(), lanes.ranks().collect::<Vec<_>>()), (1, 0, vec![3]));
        assert_eq!(take_out(&mut lanes, &[("a", 3)]), [3]);
        assert_eq!((lanes.offers(10, 10), lanes.known(), lanes.ready()), (vec![], 0, 0));
    }

    fn take_out(lanes: &mut Lanes, laned: &[(&str, u64)]) -> Vec<u64> {
        let laned: Vec<_> = laned.iter().map(|(lane, rank)| (lane.as_bytes().to_vec(), *rank)).collect();
        let mut out = lanes.take_out(&laned);
        out.sort_unstable();
        out
    }

    /// A lane that was emptied and has work again stands in the queue once: two offers of it would be two leases.
    #[test]
    fn a_lane_that_was_emptied_is_offered_once() {
        let mut lanes = lanes(&[("a", 1), ("b", 2)]);
        assert_eq!(take_out(&mut lanes, &[("a", 1)]), [1]);
        lanes.wait(b"a", 3, 30);
        assert_eq!((lanes.ready(), lanes.longest(9).len()), (2, 2));
        assert_eq!(start(&mut lanes, 10, 10), [("a".to_owned(), vec![3]), ("b".to_owned(), vec![2])]);
        assert_eq!((lanes.ready(), lanes.running()), (0, 2));
    }

    #[test]
    fn lanes_that_are_added_to_and_emptied_do_not_pile_up() {
        let mut lanes = lanes(&[("stays", 1)]);
        for rank in 2..=3 * STALE_MOST as u64 {
            let lane = rank.to_string();
            lanes.wait(lane.as_bytes(), rank, 0);
            assert_eq!(take_out(&mut lanes, &[(&lane, rank)]), [rank]);
        }
        assert!(lanes.known() <= STALE_MOST + 2, "{}", lanes.known());
        assert_eq!(start(&mut lanes, 10, 10), [("stays".to_owned(), vec![1])]);
        lanes.free(b"stays");
        assert_eq!(lanes.known(), 0);
    }

    #[test]
    fn many_are_taken_out_as_one_by_one() {
        for (most, gone) in [(3, 2), (FEW + 1, 3), (1, 5)] {
            let of = |rank: u64| if rank.is_multiple_of(7) { "a" } else { "b" };
            let ranks: Vec<(&str, u64)> = (1..=200).map(|rank| (of(rank), rank)).collect();
            let mut lanes = lanes(&ranks);
            let out: Vec<_> = ranks.iter().copied().filter(|(_, rank)| rank.is_multiple_of(gone)).collect();
            let taken: Vec<u64> = out.chunks(most).flat_map(|chunk| take_out(&mut lanes, chunk)).collect();
            assert_eq!(taken, out.iter().map(|(_, rank)| *rank).collect::<Vec<_>>());
            let stay = |lane| {
                ranks.iter().filter(move |(of, rank)| *of == lane && !rank.is_multiple_of(gone)).map(|(_, rank)| *rank)
            };
            let mut left = start(&mut lanes, 1_000, 1_000);
            left.sort();
            assert_eq!(left, [("a".to_owned(), stay("a").collect()), ("b".to_owned(), stay("b").collect::<Vec<_>>())]);
        }
    }

    #[test]
    fn those_that_wait_longest_are_told_with_what_waits_in_them() {
        let mut lanes = lanes(&[("a", 1), ("b", 2), ("c", 3), ("a", 4), ("a", 5)]);
        assert_eq!(start(&mut lanes, 1, 1), [("a".to_owned(), vec![1])]);
        let told: Vec<_> = lanes.longest(2).into_iter().map(|of| (of.lane[0], of.waiting, of.since, of.runs)).collect();
        assert_eq!(told, [(b'b', 1, 20, false), (b'c', 1, 30, false)]);
        assert_eq!(lanes.longest(9).pop().map(|of| (of.waiting, of.since, of.runs)), Some((2, 40, true)));
        lanes.wait(b"a", 1, 10);
        assert_eq!(lanes.longest(1)[0].since, 10, "what came back waits since it was taken in");
    }

    /// A lane as a plain list, and whether it runs.
    type Plain = BTreeMap<u8, (Vec<u64>, bool)>;

    /// Whatever is done: every lane with work that does not run is offered, once and with its front; the counts are those of plain
    /// lists; nothing is left in the end.
    #[test]
    fn lanes_are_as_plain_lists() {
        for seed in 0..200 {
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            let (mut lanes, mut plain) = (Lanes::default(), Plain::new());
            for rank in 1..200 {
                let lane = rng.random_range(b'a'..=b'e');
                let of = plain.entry(lane).or_default();
                match rng.random_range(0..8) {
                    0..4 => {
                        lanes.wait(&[lane], rank, rank);
                        of.0.push(rank);
                    }
                    4 => {
                        let n = rng.random_range(0..=of.0.len());
                        let gone: Vec<(Vec<u8>, u64)> =
                            of.0.split_off(n).into_iter().map(|rank| (vec![lane], rank)).collect();
                        assert_eq!(lanes.take_out(&gone).len(), gone.len());
                    }
                    5 | 6 => {
                        lanes.free(&[lane]);
                        of.1 = false;
                    }
                    _ => offer(&mut lanes, &mut plain, &mut rng),
                }
                check(&lanes, &plain);
            }
        }
    }

    /// Offers all that is ready; starts some of it and postpones the rest.
    fn offer(lanes: &mut Lanes, plain: &mut Plain, rng: &mut ChaCha12Rng) {
        let offers = lanes.offers(usize::MAX, 3);
        let mut names: Vec<u8> = offers.iter().map(|offer| offer.lane[0]).collect();
        names.sort_unstable();
        let ready = plain.iter().filter(|(_, (waiting, runs))| !runs && !waiting.is_empty()).map(|(lane, _)| *lane);
        assert_eq!(names, ready.collect::<Vec<_>>());
        for offer in offers {
            let (waiting, runs) = plain.get_mut(&offer.lane[0]).unwrap();
            assert_eq!(offer.ranks, waiting[..waiting.len().min(3)]);
            if rng.random_bool(0.3) {
                lanes.postpone(offer);
            } else {
                let n = rng.random_range(1..=offer.ranks.len());
                lanes.start(&offer, n);
                waiting.drain(..n);
                *runs = true;
            }
        }
    }

    fn check(lanes: &Lanes, plain: &Plain) {
        let (all, running) = (|| plain.values().map(|(waiting, _)| waiting), plain.values().filter(|(_, runs)| *runs));
        assert_eq!((lanes.waiting(), lanes.running()), (all().map(Vec::len).sum(), running.count()));
        let ready = plain.values().filter(|(waiting, runs)| !runs && !waiting.is_empty()).count();
        assert_eq!((lanes.ready(), lanes.oldest()), (ready, all().flatten().min().copied()));
        let mut fronts: Vec<u64> = all().filter_map(|waiting| waiting.first().copied()).collect();
        fronts.sort_unstable();
        assert_eq!(lanes.longest(9).iter().map(|queued| queued.since).collect::<Vec<_>>(), fronts);
        assert!(lanes.known() <= 5 && lanes.known() >= ready);
    }

    /// What happens to a lane.
    #[derive(Debug, Clone, Copy)]
    enum Happens {
        Waits,
        Starts,
        IsPostponed,
        Ends,
        IsEmptied,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Standing {
        Idle,
        Ready,
        Running,
    }

    /// The table: where a lane stands after something happened, and how many wait.
    fn after(standing: Standing, waiting: usize, happens: Happens) -> (Standing, usize) {
        match (standing, happens) {
            (Standing::Idle | Standing::Ready, Happens::Waits) => (Standing::Ready, waiting + 1),
            (Standing::Running, Happens::Waits) => (Standing::Running, waiting + 1),
            (Standing::Ready, Happens::Starts) => (Standing::Running, waiting - 1),
            (Standing::Running, Happens::Ends) if waiting > 0 => (Standing::Ready, waiting),
            (Standing::Running, Happens::Ends) | (Standing::Ready, Happens::IsEmptied) => (Standing::Idle, 0),
            (Standing::Running, Happens::IsEmptied) => (Standing::Running, 0),
            _ => (standing, waiting),
        }
    }

    /// R136: a lane is idle, ready or running, and goes from one to the other as the table says, whatever happens to it.
    #[test]
    fn a_lane_keeps_to_its_table_whatever_happens() {
        const ALL: [Happens; 5] =
            [Happens::Waits, Happens::Starts, Happens::IsPostponed, Happens::Ends, Happens::IsEmptied];
        for mut course in 0..5_usize.pow(7) {
            let (mut lanes, mut standing, mut waiting) = (Lanes::default(), Standing::Idle, 0);
            for rank in 0..7 {
                let happens = ALL[course % 5];
                course /= 5;
                match happens {
                    Happens::Waits => lanes.wait(b"a", rank, rank),
                    Happens::Starts => drop(start(&mut lanes, 1, 1)),
                    Happens::IsPostponed => lanes.offers(1, 1).into_iter().for_each(|offer| lanes.postpone(offer)),
                    Happens::Ends => lanes.free(b"a"),
                    Happens::IsEmptied => {
                        let all: Vec<_> = (0..rank).map(|rank| (b"a".to_vec(), rank)).collect();
                        assert_eq!(lanes.take_out(&all).len(), waiting);
                    }
                }
                (standing, waiting) = after(standing, waiting, happens);
                let is = |other| usize::from(standing == other);
                let found = (lanes.ready(), lanes.running(), lanes.waiting());
                assert_eq!(found, (is(Standing::Ready), is(Standing::Running), waiting));
                assert_eq!(lanes.oldest().is_some(), waiting > 0);
            }
            // What has nothing to do is forgotten, at the latest when the next lanes are looked for.
            let offered = lanes.offers(1, 1).len();
            let is_known = usize::from(standing != Standing::Idle);
            assert_eq!((offered, lanes.known()), (usize::from(standing == Standing::Ready), is_known));
        }
    }
}
