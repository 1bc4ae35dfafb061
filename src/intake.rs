//! Subjects in: encoded and sent to the writer here; then read back, block by block, and cut into buckets.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

use crate::apply::stored;
use crate::audit::{Flow, Print};
use crate::commit::{Change, Pending};
use crate::error::{AddError, HubError, StoreError, TicketError};
use crate::house::House;
use crate::lanes::Lanes;
use crate::lease::{SubjectError, encode_subject};
use crate::link::Precedence;
use crate::pool::{SubjectBuf, SubjectRef};
use crate::record::{self, BlockItem, Owed, key};
use crate::registry::ServiceCore;
use crate::service::Service;
use crate::store::Store;
use crate::ticket::{Intake, Ticket};

/// Subjects in one journal record, at most.
const RECORD_SUBJECTS: usize = 1_024;
/// Bytes of subjects in one journal record, about at most.
const RECORD_BYTES: usize = 256 << 10;
/// Bytes of subjects read ahead of the cutting, about at most: bounds a pool as well.
const WINDOW_BYTES: usize = 64 << 20;
/// Who parks here looks again at least so often.
const PARK_MOST: Duration = Duration::from_millis(100);
/// Records under way for one call.
const UNDER_WAY: usize = 4;

fn at(place: u64) -> impl FnOnce(SubjectError) -> AddError {
    move |error| match error {
        SubjectError::Key { bytes, limit } => AddError::Key { place, bytes, limit },
        SubjectError::Body { bytes, limit } => AddError::Body { place, bytes, limit },
        SubjectError::Lane { bytes, limit } => AddError::Lane { place, bytes, limit },
        SubjectError::Encode(what) => AddError::Encode { place, what },
    }
}

fn send_encoded(service: &ServiceCore, subjects: Vec<u8>, taken: u64) -> Result<Ticket, AddError> {
    let bytes = subjects.len();
    let change = Change::Added { service: service.id, subjects };
    service.link.send(Precedence::Newcomer, change, bytes).map_err(|source| AddError::Hub { taken, source })
}

/// The plugin that names subjects' lanes.
fn plugin<S: Service>(service: &ServiceCore) -> Result<&S, AddError> {
    let what = || "the service is registered with another plugin type".to_owned();
    service.plugin::<S>().ok_or_else(|| AddError::Encode { place: 0, what: what() })
}

/// Sends subjects as one change: all of them are taken in, or none.
pub(crate) fn send<S: Service>(service: &ServiceCore, subjects: &[S::Subject]) -> Result<Ticket, AddError> {
    let plugin = plugin::<S>(service)?;
    let limits = &service.link.limits;
    let mut bytes = Vec::new();
    for (place, subject) in subjects.iter().enumerate() {
        encode_subject(plugin, subject, limits, &mut bytes).map_err(at(place as u64))?;
        if bytes.len() > limits.submit_bytes {
            return Err(AddError::TooLarge { bytes: bytes.len(), limit: limits.submit_bytes });
        }
    }
    send_encoded(service, bytes, 0)
}

/// Sends any number of subjects, record by record, and waits until all are visible.
pub(crate) fn send_all<S: Service>(
    house: &House,
    service: &ServiceCore,
    subjects: impl IntoIterator<Item = S::Subject>,
) -> Result<Intake, AddError> {
    let plugin = plugin::<S>(service)?;
    let limits = &service.link.limits;
    let mut sending = Sending { house, service, under_way: VecDeque::new(), taken: 0, intake: Intake::default() };
    let (mut bytes, mut count) = (Vec::new(), 0);
    for (place, subject) in subjects.into_iter().enumerate() {
        let place = place as u64;
        let whole = bytes.len();
        if let Err(error) = encode_subject(plugin, &subject, limits, &mut bytes) {
            // Those before it are taken in.
            bytes.truncate(whole);
            sending.record(bytes, count)?;
            sending.finish()?;
            return Err(at(place)(error));
        }
        count += 1;
        if count >= RECORD_SUBJECTS || bytes.len() >= RECORD_BYTES {
            sending.record(std::mem::take(&mut bytes), count)?;
            count = 0;
        }
    }
    sending.record(bytes, count)?;
    sending.finish()
}

struct Sending<'a> {
    house: &'a House,
    service: &'a ServiceCore,
    under_way: VecDeque<(u64, Ticket)>,
    /// Subjects known to be taken in.
    taken: u64,
    intake: Intake,
}

impl Sending<'_> {
    fn record(&mut self, bytes: Vec<u8>, count: usize) -> Result<(), AddError> {
        if count == 0 {
            return Ok(());
        }
        while self.under_way.len() >= UNDER_WAY {
            self.wait()?;
        }
        let link = &self.house.link;
        let needed = bytes.len() + Pending::OVERHEAD;
        loop {
            link.check().map_err(|source| self.failed(source))?;
            match link.reserve(Precedence::Newcomer, needed) {
                Ok(()) => break,
                // Our own records hold the room, or others' do.
                Err(_) if !self.under_way.is_empty() => self.wait()?,
                Err(_) if link.manual => self.house.make_room(),
                Err(HubError::Busy { retry_after, .. }) => std::thread::park_timeout(retry_after.min(PARK_MOST)),
                Err(source) => return Err(self.failed(source)),
            }
        }
        let change = Change::Added { service: self.service.id, subjects: bytes };
        self.under_way.push_back((count as u64, link.post(change, needed)));
        Ok(())
    }

    fn wait(&mut self) -> Result<(), AddError> {
        let Some((count, ticket)) = self.under_way.pop_front() else { return Ok(()) };
        if self.house.link.manual {
            self.house.make_room();
        }
        match ticket.wait_visible() {
            Ok(intake) => {
                self.intake.and_then(self.taken, intake);
                self.taken += count;
                Ok(())
            }
            Err(TicketError::Closed) => Err(self.failed(HubError::Closed)),
            Err(error) => {
                let cause = self.house.link.check().err();
                Err(self.failed(cause.unwrap_or(HubError::Poisoned { cause: error.to_string() })))
            }
        }
    }

    fn failed(&self, source: HubError) -> AddError {
        AddError::Hub { taken: self.taken, source }
    }

    fn finish(mut self) -> Result<Intake, AddError> {
        while !self.under_way.is_empty() {
            self.wait()?;
        }
        Ok(self.intake)
    }
}

/// Reads the pending subjects of one service, oldest first, and hands them out in windows. The steward's.
#[derive(Debug)]
pub(crate) struct Reader {
    service: u32,
    /// Where reading goes on.
    next_rank: u64,
    /// Ranks leased since before the hub was opened: their bits are still set, but they do not wait.
    leased: HashSet<u64>,
    /// Ranks that the plugin's type does not read.
    unreadable: HashSet<u64>,
    /// Read but not cut yet, oldest first.
    tail: VecDeque<SubjectBuf>,
    /// Bytes of the tail.
    bytes: usize,
    /// Hub time, ms, since when the tail has waited; meaningless while it is empty.
    tail_since: u64,
}

impl Reader {
    pub(crate) fn new(service: u32, leased: HashSet<u64>) -> Self {
        let (unreadable, tail) = (HashSet::new(), VecDeque::new());
        Self { service, next_rank: 0, leased, unreadable, tail, bytes: 0, tail_since: 0 }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.tail.len()
    }

    pub(crate) fn waiting_since(&self) -> Option<u64> {
        (!self.tail.is_empty()).then_some(self.tail_since)
    }

    /// The rank from which on nothing was read yet.
    pub(crate) fn next_rank(&self) -> u64 {
        self.next_rank
    }

    /// Takes those of these ranks out that were read and not cut yet.
    pub(crate) fn take_out(&mut self, ranks: &HashSet<u64>) -> Vec<SubjectBuf> {
        let (out, stay): (VecDeque<_>, _) = self.tail.drain(..).partition(|subject| ranks.contains(&subject.rank));
        self.tail = stay;
        let out = Vec::from(out);
        self.bytes -= out.iter().map(SubjectBuf::bytes).sum::<usize>();
        out
    }

    /// Forgets a rank that was found unreadable. False if it was not.
    pub(crate) fn forget_unreadable(&mut self, rank: u64) -> bool {
        self.unreadable.remove(&rank)
    }

    /// The fingerprint of those read and not cut yet.
    pub(crate) fn print(&self) -> Print {
        self.tail.iter().map(|subject| subject.rank).collect()
    }

    /// Ranks that will not be read although they are owed.
    pub(crate) fn passed_over(&self) -> &HashSet<u64> {
        &self.leased
    }

    /// Passes over a rank when it comes to be read: it is served otherwise.
    pub(crate) fn skip(&mut self, rank: u64) {
        self.leased.insert(rank);
    }

    /// When the oldest subject read began to wait.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.tail.front().map(|subject| subject.since)
    }

    /// Reads blocks until `wanted` subjects of no lane wait, there are no more, or as many of lanes wait as may; these go to
    /// `lanes`. Returns how many were unreadable.
    pub(crate) fn fill(
        &mut self,
        store: &dyn Store,
        service: &ServiceCore,
        lanes: &mut Lanes,
        wanted: usize,
        now: u64,
    ) -> Result<u64, StoreError> {
        let mut unreadable = 0;
        // A scan is no snapshot: beyond what is known to be whole it could show a later block and miss an earlier one.
        let visible = service.counts.visible.rank();
        let laned_most = service.link.limits.laned_waiting;
        while self.tail.len() < wanted
            && self.bytes < WINDOW_BYTES
            && self.next_rank < visible
            && lanes.waiting() < laned_most
        {
            let start = key::of(self.service, key::OWED, &self.next_rank.to_be_bytes());
            let end = key::of(self.service, key::OWED, &visible.to_be_bytes());
            let blocks = store.scan(&start, Some(&end), 4)?;
            if blocks.is_empty() {
                self.next_rank = visible;
            }
            for (owed_key, owed) in blocks {
                let owed: Owed = stored(record::decode("block state", &owed))?;
                let first = key::number(key::rest(&owed_key)).unwrap_or(0);
                let Some(block) = store.get(&key::of(self.service, key::BLOCK, &first.to_be_bytes()))? else {
                    // Finished between the two reads.
                    self.next_rank = first + u64::from(owed.len);
                    continue;
                };
                if self.tail.is_empty() {
                    self.tail_since = now;
                }
                unreadable += self.read_block(service, lanes, first, &owed, &block)?;
                self.next_rank = first + u64::from(owed.len);
            }
        }
        Ok(unreadable)
    }

    fn read_block(
        &mut self,
        service: &ServiceCore,
        lanes: &mut Lanes,
        first: u64,
        owed: &Owed,
        block: &[u8],
    ) -> Result<u64, StoreError> {
        let mut unreadable = 0;
        for (place, item) in record::list::<BlockItem<'_>>("block", block).enumerate() {
            let item = stored(item)?;
            let rank = first + place as u64;
            // One that was deleted between the two reads is blank.
            if !owed.has(place as u64) || self.leased.remove(&rank) || item.key.is_empty() {
                continue;
            }
            if service.plugin.reads(item.key, item.body) {
                let BlockItem { depth, round, key, lane, body, .. } = item;
                let subject = SubjectRef { rank, depth, round, since: owed.since, key, body };
                service.ledger.flowed(Flow::Read, Print::of(rank));
                if !lane.is_empty() {
                    // What it is, is read again when its turn comes.
                    lanes.wait(lane, rank, owed.since);
                    continue;
                }
                self.bytes += key.len() + body.len();
                self.tail.push_back(SubjectBuf::new(subject));
            } else {
                unreadable += 1;
                self.unreadable.insert(rank);
                service.ledger.flowed(Flow::Unreadable, Print::of(rank));
                tracing::error!(service = %service.name, rank, "stored subject does not decode: not handed out");
            }
        }
        Ok(unreadable)
    }

    /// Takes up to `most` of the oldest subjects, as they come, up to the first that is not wanted.
    pub(crate) fn take_oldest(&mut self, most: usize, wanted: impl Fn(&SubjectBuf) -> bool) -> Vec<SubjectBuf> {
        let take = self.tail.iter().take(most).take_while(|subject| wanted(subject)).count();
        let oldest: Vec<SubjectBuf> = self.tail.drain(..take).collect();
        self.bytes -= oldest.iter().map(SubjectBuf::bytes).sum::<usize>();
        oldest
    }

    /// Takes a window of up to `most` of the oldest subjects, shuffled, in whole buckets; a last short bucket only if
    /// `short` allows it.
    pub(crate) fn window(&mut self, most: usize, bucket: usize, short: bool, rng: &mut ChaCha12Rng) -> Vec<SubjectBuf> {
        let available = self.tail.len().min(most.max(1));
        let whole = available - available % bucket.max(1);
        // Short only if there is no more: with more waiting, whole buckets can be cut.
        let take = if short && available == self.tail.len() { available } else { whole };
        let mut window = self.take_oldest(take, |_| true);
        window.shuffle(rng);
        window
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::id::Secret;
    use crate::pool::{Birth, Pool, Terms};
    use crate::service::Policy;

    /// Subjects, each a bucket of its own, in a window; claimers; windows.
    const WINDOW: usize = 100;
    const CLAIMERS: usize = 10;
    const WINDOWS: usize = 10_000;

    /// The value that chi-square with `freedom` degrees exceeds as seldom as a normal variable exceeds `z`: Wilson and
    /// Hilferty, The Distribution of Chi-Square, PNAS 17 (1931), 684.
    fn chi_square_at(z: f64, freedom: u32) -> f64 {
        let ninth = 2.0 / (9.0 * f64::from(freedom));
        f64::from(freedom) * (1.0 - ninth + z * ninth.sqrt()).powi(3)
    }

    #[test]
    fn critical_values_are_those_of_the_tables() {
        // NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.4: upper and lower tails of 0.001.
        let z = 3.090_232;
        for (freedom, upper, lower) in [(10, 29.588, 1.479), (50, 86.661, 24.674), (100, 149.449, 61.918)] {
            assert!((chi_square_at(z, freedom) - upper).abs() < 0.2, "{}", chi_square_at(z, freedom));
            assert!((chi_square_at(-z, freedom) - lower).abs() < 0.2, "{}", chi_square_at(-z, freedom));
        }
    }

    /// Chi-square of a table of `rows` whose every window filled each row once: its margins are fixed, so it is scaled by
    /// (n - 1) / n to have (n - 1) times (columns - 1) degrees of freedom.
    fn assert_even(counts: &[u32], columns: usize) {
        let number = |n: usize| f64::from(u32::try_from(n).unwrap());
        let expected = number(WINDOWS * WINDOW) / number(counts.len());
        let square: f64 = counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
        let found = square * number(WINDOW - 1) / number(WINDOW);
        let freedom = u32::try_from((WINDOW - 1) * (columns - 1)).unwrap();
        // Beyond either value once in a million.
        let (least, most) = (chi_square_at(-4.753_424, freedom), chi_square_at(4.753_424, freedom));
        assert!((least..most).contains(&found), "{found} with {freedom} degrees of freedom: not in {least}..{most}");
    }

    /// R43: over 1,000,000 claims every subject, whatever its age in its window, goes to each place in the order of the
    /// claims and to each claimer equally often.
    #[test]
    fn every_subject_is_equally_likely_to_go_to_every_claimer() {
        let mut rng = ChaCha12Rng::seed_from_u64(43);
        let terms = Terms::of(&Policy { bucket_subjects: 1, ..Policy::default() });
        let secret = Secret::from_bytes([7; Secret::BYTES]);
        let mut reader = Reader::new(1, HashSet::new());
        let (mut by_place, mut by_claimer) = (vec![0; WINDOW * WINDOW], vec![0; WINDOW * CLAIMERS]);
        for generation in 0..WINDOWS as u64 {
            let subject =
                |rank| SubjectBuf::new(SubjectRef { rank, depth: 0, round: 1, since: 0, key: &[], body: &[] });
            reader.tail.extend((0..WINDOW as u64).map(subject));
            let window = reader.window(WINDOW, 1, false, &mut rng);
            let pool = Pool::cut(Birth { service: 1, generation, born: 0, terms }, &window, &secret);
            let mut place = 0;
            // Claimers ask for much or little, in an order of their own, so that each has ten in the end.
            for (asks, claimer) in [1, 2, 7].iter().flat_map(|ask| (0..CLAIMERS).map(move |claimer| (*ask, claimer))) {
                let owner = u32::try_from(claimer).unwrap();
                let got = pool.claim(asks, owner, 0, |index| {
                    let subject = usize::try_from(pool.subject(index, 0).unwrap().rank).unwrap();
                    by_place[subject * WINDOW + place] += 1;
                    by_claimer[subject * CLAIMERS + claimer] += 1;
                    place += 1;
                });
                assert_eq!(got, asks);
            }
            assert!(pool.is_spent());
        }
        assert_eq!(by_place.iter().sum::<u32>(), 1_000_000);
        assert_even(&by_place, WINDOW);
        assert_even(&by_claimer, CLAIMERS);
    }
}
