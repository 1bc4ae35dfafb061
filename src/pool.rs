//! One generation of ready buckets: immutable but for its cursor and its slots' words.

use std::collections::HashSet;
use std::ops::Range;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

use crate::audit::Print;
use crate::cooldown::{self, Cooldown, Cooldowns, Entry};
use crate::cursor::Cursor;
use crate::id::{LeaseToken, Secret};
use crate::lane::Run;
use crate::record::subject_hash;
use crate::service::{Late, OverAsk, Policy};
use crate::slot::{Cause, Mask, Phase, Slot, Snapshot, TIME_MAX, ToRenewed};
use crate::sync::{Arc, AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

#[cfg(test)]
#[path = "pool_test.rs"]
mod tests;

/// The policy as it was when the pool was formed: what holds for its buckets and leases.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) bucket_subjects: usize,
    pub(crate) buckets_per_claim: u32,
    pub(crate) leases_in_flight: u32,
    pub(crate) over_ask: OverAsk,
    pub(crate) lease_ms: u64,
    /// What a lease may last in all, renewals included.
    pub(crate) total_ms: u64,
    /// Deadlines are spread over so long a time.
    pub(crate) spread_ms: u64,
    pub(crate) grace_ms: u64,
    pub(crate) cooldown_ms: u64,
    pub(crate) ordinary_share: u32,
    pub(crate) accept_late: bool,
    pub(crate) max_depth: u16,
    pub(crate) keep_unmarked: bool,
    pub(crate) suspect_one_bucket: bool,
}

impl Terms {
    pub(crate) fn of(policy: &Policy) -> Self {
        let lease_ms = crate::clock::millis(policy.lease);
        Self {
            bucket_subjects: policy.bucket_subjects,
            buckets_per_claim: policy.buckets_per_claim,
            leases_in_flight: policy.leases_in_flight,
            over_ask: policy.over_ask,
            lease_ms,
            total_ms: lease_ms.saturating_mul(u64::from(policy.lease_total)),
            spread_ms: lease_ms.saturating_mul(u64::from(policy.expiry_spread)) / 1_000,
            grace_ms: crate::clock::millis(policy.grace),
            cooldown_ms: crate::clock::millis(policy.cooldown),
            ordinary_share: policy.ordinary_share,
            accept_late: policy.late == Late::AcceptIfOpen,
            max_depth: policy.max_depth,
            keep_unmarked: policy.keep_unmarked,
            suspect_one_bucket: policy.watch.suspect_one_bucket,
        }
    }
}

impl Terms {
    /// The deadline of a lease that is claimed or renewed at `at`, all in ms since the pool's birth: a term, and a part
    /// of the spread that is the slot's own. Its nonce already looks random, so no hash is needed.
    fn deadline(&self, nonce: u128, at: u64) -> u64 {
        at.saturating_add(self.lease_ms).saturating_add(self.spread(nonce))
    }

    /// Beyond this no renewal moves the deadline.
    fn cap(&self, nonce: u128, claimed: u64) -> u64 {
        claimed.saturating_add(self.total_ms).saturating_add(self.spread(nonce)).min(TIME_MAX)
    }

    fn spread(&self, nonce: u128) -> u64 {
        let part = (nonce >> 96) as u64;
        self.spread_ms.saturating_mul(part) >> 32
    }
}

/// What became of a renewal; times in ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Renewal {
    Renewed { time_left: u64 },
    Capped { time_left: u64 },
    Not(ToRenewed),
}

/// One subject, as the pool holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SubjectRef<'a> {
    pub(crate) rank: u64,
    pub(crate) depth: u16,
    pub(crate) round: u32,
    /// Hub time, ms, at which it began to wait.
    pub(crate) since: u64,
    pub(crate) key: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl SubjectRef<'_> {
    /// In a lease from before a restart: what it was is not known any more. No subject has an empty key.
    pub(crate) fn is_nameless(&self) -> bool {
        self.key.is_empty()
    }

    /// It is nameless, and this was its key.
    pub(crate) fn was(&self, key: &[u8]) -> bool {
        self.is_nameless() && !self.body.is_empty() && self.body == subject_hash(key)
    }
}

/// One subject on its way into a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubjectBuf {
    pub(crate) rank: u64,
    pub(crate) depth: u16,
    pub(crate) round: u32,
    /// Hub time, ms, at which it began to wait.
    pub(crate) since: u64,
    key_len: usize,
    bytes: Box<[u8]>,
    /// Who gave it back lately.
    cooldowns: Box<[Cooldown]>,
    /// Of a lane: when it is not to be worked on any more; wall clock, ms.
    deadline: Option<i64>,
}

impl SubjectBuf {
    pub(crate) fn new(subject: SubjectRef<'_>) -> Self {
        Self {
            rank: subject.rank,
            depth: subject.depth,
            round: subject.round,
            since: subject.since,
            key_len: subject.key.len(),
            bytes: [subject.key, subject.body].concat().into(),
            cooldowns: Box::default(),
            deadline: None,
        }
    }

    pub(crate) fn until(self, deadline: Option<i64>) -> Self {
        Self { deadline, ..self }
    }

    pub(crate) fn deadline(&self) -> Option<i64> {
        self.deadline
    }

    /// Seats that may not have it for now.
    pub(crate) fn cooldowns(&self) -> usize {
        self.cooldowns.len()
    }

    /// One that was deleted or withdrawn while a lease held it: no key, and its hash in place of a body.
    pub(crate) fn gone(rank: u64, hash: &[u8; 16]) -> Self {
        Self::new(SubjectRef { rank, depth: 0, round: 0, since: 0, key: &[], body: hash })
    }

    /// Bytes of key and body.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn key(&self) -> &[u8] {
        self.parts().0
    }

    pub(crate) fn body(&self) -> &[u8] {
        self.parts().1
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at_checked(self.key_len).unwrap_or_default()
    }
}

/// The subjects of a pool, in one piece of memory; a bucket is a range of them.
#[derive(Debug, Default)]
struct Subjects {
    places: Vec<Place>,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    rank: u64,
    since: u64,
    start: u32,
    key_end: u32,
    end: u32,
    round: u32,
    depth: u16,
}

impl Subjects {
    fn push(&mut self, subject: &SubjectBuf) {
        let (key, body) = subject.parts();
        let mut mark = |bytes: &[u8]| {
            self.bytes.extend_from_slice(bytes);
            // A pool holds at most a million subjects of a few KiB: beyond 4 GiB it would be cut short by the assertion.
            u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
        };
        let (start, key_end, end) = (mark(&[]), mark(key), mark(body));
        let SubjectBuf { rank, depth, round, since, .. } = *subject;
        self.places.push(Place { rank, since, start, key_end, end, round, depth });
    }

    fn print(&self, of: Range<usize>) -> Print {
        self.places.get(of).unwrap_or_default().iter().map(|place| place.rank).collect()
    }

    fn at(&self, index: usize) -> Option<SubjectRef<'_>> {
        self.places.get(index)?.of(&self.bytes)
    }
}

impl Place {
    #[inline]
    fn of<'a>(&self, bytes: &'a [u8]) -> Option<SubjectRef<'a>> {
        let key_and_body = bytes.get(self.start as usize..self.end as usize)?;
        let (key, body) = key_and_body.split_at_checked((self.key_end - self.start) as usize)?;
        let Self { rank, depth, round, since, .. } = *self;
        Some(SubjectRef { rank, depth, round, since, key, body })
    }
}

/// The subjects of one bucket, in its order; looked up in the pool once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bucket<'a> {
    places: &'a [Place],
    bytes: &'a [u8],
}

impl<'a> Bucket<'a> {
    #[inline]
    pub(crate) fn subject(&self, place: usize) -> Option<SubjectRef<'a>> {
        self.places.get(place)?.of(self.bytes)
    }
}

impl<'a> IntoIterator for Bucket<'a> {
    type Item = SubjectRef<'a>;
    type IntoIter = BucketIter<'a>;

    fn into_iter(self) -> BucketIter<'a> {
        BucketIter(self)
    }
}

/// The subjects of one bucket, one after the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct BucketIter<'a>(Bucket<'a>);

impl<'a> Iterator for BucketIter<'a> {
    type Item = SubjectRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<SubjectRef<'a>> {
        let (place, rest) = self.0.places.split_first()?;
        self.0.places = rest;
        place.of(self.0.bytes)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.places.len(), Some(self.0.places.len()))
    }
}

/// A bucket of one lane, on its way into a pool.
#[derive(Debug)]
pub(crate) struct LaneBucket {
    pub(crate) lane: Arc<[u8]>,
    /// The lane's, before the bucket.
    pub(crate) version: u64,
    pub(crate) state: Option<Vec<u8>>,
    pub(crate) subjects: Vec<SubjectBuf>,
}

/// A bucket that was leased before a restart.
#[derive(Debug)]
pub(crate) struct RecoveredLease {
    pub(crate) slot: u32,
    pub(crate) owner: u32,
    /// Hub time, ms.
    pub(crate) claimed_at: u64,
    pub(crate) open: Mask,
    pub(crate) subjects: Vec<SubjectBuf>,
    /// The lane that it runs.
    pub(crate) run: Option<Run>,
}

/// Where a subject stands: a place in a bucket.
#[derive(Debug, Clone)]
pub(crate) struct Spot {
    pub(crate) pool: Arc<Pool>,
    pub(crate) index: usize,
    pub(crate) place: usize,
}

impl Spot {
    /// True if the subject is offered or owed there.
    pub(crate) fn is_responsible(&self) -> bool {
        self.is_owed() && self.pool.slot(self.index).is_some_and(|slot| !slot.snapshot().is_final())
    }

    /// True if it was not reported there: it is offered or owed, or comes back.
    pub(crate) fn is_owed(&self) -> bool {
        self.pool.slot(self.index).is_some_and(|slot| slot.open().has(self.place))
    }

    pub(crate) fn is_at(&self, pool: &Arc<Pool>, index: usize) -> bool {
        Arc::ptr_eq(&self.pool, pool) && self.index == index
    }
}

/// One generation.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Its own in this process; a younger one's is greater.
    pub(crate) stamp: u64,
    pub(crate) service: u32,
    pub(crate) generation: u64,
    /// Hub time, ms: what the times in the slots' words count from.
    pub(crate) born: u64,
    pub(crate) terms: Terms,
    cursor: Cursor,
    slots: Box<[Slot]>,
    cooldowns: Cooldowns,
    /// Slot numbers where they are not simply the places (recovered pools); ascending.
    numbers: Option<Box<[u32]>>,
    subjects: Subjects,
    /// The fingerprint of each bucket.
    bucket_prints: Box<[Print]>,
    /// The lanes that its buckets run; none at all if none does.
    runs: Box<[Option<Box<Run>>]>,
    /// Where else its urgent subjects stood when it was cut, by their places among `subjects`; ascending.
    origins: Box<[(usize, Spot)]>,
    /// Some of its subjects were offered again elsewhere, or it offers some again.
    shared: AtomicBool,
    /// A fingerprint of each accepted report, 0 before: tells a repeated report from a conflicting one.
    prints: Box<[AtomicU32]>,
    /// When the first of its subjects began to wait: hub time, ms.
    oldest: Option<u64>,
    /// One bit a slot: the writer must look at it.
    dirty: Box<[AtomicU64]>,
    /// Of each of the cursor's stripes: the slots below this are known to the writer; the writer's alone.
    seen: Box<[AtomicU64]>,
    /// What the writer has put in the journal of each slot; the writer's alone.
    logged: Box<[AtomicU8]>,
}

/// What every pool starts from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Birth {
    pub(crate) service: u32,
    pub(crate) generation: u64,
    pub(crate) born: u64,
    pub(crate) terms: Terms,
}

impl Pool {
    /// Cuts `subjects` into buckets, in the order given; the last one may be short.
    pub(crate) fn cut(birth: Birth, buckets: &[SubjectBuf], secret: &Secret) -> Self {
        Self::cut_again(birth, buckets, Vec::new(), secret)
    }

    /// As [`cut`](Self::cut); of some subjects, by their places in `buckets` and ascending, it is known where else they stand.
    pub(crate) fn cut_again(
        birth: Birth,
        buckets: &[SubjectBuf],
        origins: Vec<(usize, Spot)>,
        secret: &Secret,
    ) -> Self {
        let buckets = buckets.chunks(birth.terms.bucket_subjects.max(1)).map(|bucket| (bucket, None));
        Self::of_buckets(birth, buckets, origins, secret)
    }

    /// As [`cut`](Self::cut), and buckets of lanes among them, at random.
    pub(crate) fn cut_mixed(
        birth: Birth,
        window: &[SubjectBuf],
        lanes: Vec<LaneBucket>,
        rng: &mut ChaCha12Rng,
        secret: &Secret,
    ) -> Self {
        if lanes.is_empty() {
            return Self::cut(birth, window, secret);
        }
        let ordinary = window.chunks(birth.terms.bucket_subjects.max(1)).map(|bucket| (bucket, None));
        let mut subjects = Vec::with_capacity(lanes.len());
        let mut runs = Vec::with_capacity(lanes.len());
        for LaneBucket { lane, version, state, subjects: bucket } in lanes {
            let run = Run::new(lane, Mask::first(bucket.len()), version, state);
            runs.push(run.with_deadlines(bucket.iter().map(SubjectBuf::deadline)));
            subjects.push(bucket);
        }
        let laned = subjects.iter().zip(runs).map(|(bucket, run)| (bucket.as_slice(), Some(run)));
        let mut buckets: Vec<_> = ordinary.chain(laned).collect();
        buckets.shuffle(rng);
        Self::of_buckets(birth, buckets.into_iter(), Vec::new(), secret)
    }

    fn of_buckets<'b>(
        birth: Birth,
        buckets: impl Iterator<Item = (&'b [SubjectBuf], Option<Run>)>,
        origins: Vec<(usize, Spot)>,
        secret: &Secret,
    ) -> Self {
        let mut subjects = Subjects::default();
        let mut slots = Vec::new();
        let mut cooldowns = Vec::new();
        let mut runs = Vec::new();
        for (bucket, run) in buckets {
            runs.push(run.map(Box::new));
            let first = subjects.places.len();
            for subject in bucket {
                let (slot, place) = (slots.len(), subjects.places.len());
                let entry = |cooldown: &Cooldown| Entry { slot, subject: place, cooldown: *cooldown };
                cooldowns.extend(subject.cooldowns.iter().map(entry));
                subjects.push(subject);
            }
            let nonce = secret.nonce(birth.service, birth.generation, number(slots.len()));
            slots.push(Slot::new(number(first), bucket.len(), nonce));
        }
        let cursor = Cursor::new(slots.len());
        let pool = Self::assemble(birth, slots, None, subjects, cursor);
        let shared = AtomicBool::new(!origins.is_empty());
        let (cooldowns, runs) = (Cooldowns::new(cooldowns), some_runs(runs));
        Self { cooldowns, origins: origins.into(), shared, runs, ..pool }
    }

    /// Brings back the leases of one generation of an earlier opening, ascending by slot. Each gets a full term from `now`,
    /// whatever its cap: the time down is not the holder's fault. The pool's birth is not after any of its claims.
    /// `origin_of` knows where else a rank stands.
    pub(crate) fn recover(
        birth: Birth,
        mut leases: Vec<RecoveredLease>,
        now: u64,
        origin_of: impl Fn(u64) -> Option<Spot>,
        secret: &Secret,
    ) -> Self {
        let mut subjects = Subjects::default();
        let mut slots = Vec::with_capacity(leases.len());
        let runs = leases.iter_mut().map(|lease| lease.run.take().map(Box::new)).collect();
        for lease in &leases {
            let first = number(subjects.places.len());
            for subject in &lease.subjects {
                subjects.push(subject);
            }
            let nonce = secret.nonce(birth.service, birth.generation, lease.slot);
            let since_birth = |at: u64| at.saturating_sub(birth.born);
            let times = (since_birth(lease.claimed_at), birth.terms.deadline(nonce, since_birth(now)));
            slots.push(Slot::leased(first, lease.subjects.len(), nonce, lease.owner, times, lease.open));
        }
        let numbers = leases.iter().map(|lease| lease.slot).collect();
        let taken = slots.len();
        let origins = subjects.places.iter().enumerate();
        let origins = origins.filter_map(|(at, place)| Some((at, origin_of(place.rank)?))).collect();
        let pool = Self::assemble(birth, slots, Some(numbers), subjects, Cursor::at_end(taken));
        (0..taken).for_each(|index| pool.note_logged(index, LOGGED_LEASED));
        // What was shared before the opening is not known: the ends of its leases are journaled as if all were.
        Self { origins, shared: AtomicBool::new(true), runs: some_runs(runs), ..pool }
    }

    /// A pool of nothing: what a service starts with.
    pub(crate) fn empty(birth: Birth) -> Self {
        Self::assemble(birth, Vec::new(), None, Subjects::default(), Cursor::new(0))
    }

    /// What `cursor` has handed out, the writer knows of.
    fn assemble(
        birth: Birth,
        slots: Vec<Slot>,
        numbers: Option<Box<[u32]>>,
        subjects: Subjects,
        cursor: Cursor,
    ) -> Self {
        assert!(subjects.bytes.len() < u32::MAX as usize, "a pool's subjects fit in 4 GiB");
        let logged = slots.iter().map(|_| AtomicU8::new(0)).collect();
        Self {
            // ordering: Relaxed; a number that nobody else has.
            stamp: STAMPS.fetch_add(1, Ordering::Relaxed),
            service: birth.service,
            generation: birth.generation,
            born: birth.born,
            terms: birth.terms,
            seen: cursor.passed().map(|range| AtomicU64::new(range.end as u64)).collect(),
            cursor,
            oldest: subjects.places.iter().map(|place| place.since).min(),
            prints: (0..subjects.places.len()).map(|_| AtomicU32::new(0)).collect(),
            dirty: (0..slots.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            bucket_prints: slots.iter().map(|slot| subjects.print(slot.subjects())).collect(),
            slots: slots.into(),
            cooldowns: Cooldowns::default(),
            numbers,
            runs: Box::default(),
            origins: Box::default(),
            shared: AtomicBool::new(false),
            subjects,
            logged,
        }
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(crate) fn slot(&self, index: usize) -> Option<&Slot> {
        self.slots.get(index)
    }

    /// The lane that the bucket at `index` runs.
    pub(crate) fn run(&self, index: usize) -> Option<&Run> {
        self.runs.get(index)?.as_deref()
    }

    /// The lanes that its buckets run.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = &[u8]> {
        self.runs.iter().flatten().map(|run| run.lane())
    }

    /// The slot's number, as tokens and the journal name it.
    pub(crate) fn number(&self, index: usize) -> u32 {
        match &self.numbers {
            Some(numbers) => numbers.get(index).copied().unwrap_or(u32::MAX),
            None => number(index),
        }
    }

    /// The inverse of [`number`](Self::number).
    pub(crate) fn index_of(&self, number: u32) -> Option<usize> {
        let index = match &self.numbers {
            Some(numbers) => numbers.binary_search(&number).ok()?,
            None => number as usize,
        };
        (index < self.slots.len()).then_some(index)
    }

    pub(crate) fn token(&self, index: usize) -> Option<LeaseToken> {
        Some(LeaseToken {
            service: self.service,
            slot: self.number(index),
            generation: self.generation,
            nonce: self.slot(index)?.nonce(),
        })
    }

    /// The subject at `place` of the bucket at `index`.
    pub(crate) fn subject(&self, index: usize, place: usize) -> Option<SubjectRef<'_>> {
        self.bucket_at(index).subject(place)
    }

    /// The subjects of the bucket at `index`, in its order.
    pub(crate) fn bucket(&self, index: usize) -> BucketIter<'_> {
        self.bucket_at(index).into_iter()
    }

    /// The bucket at `index`.
    pub(crate) fn bucket_at(&self, index: usize) -> Bucket<'_> {
        let places = self.slot(index).and_then(|slot| self.subjects.places.get(slot.subjects())).unwrap_or_default();
        Bucket { places, bytes: &self.subjects.bytes }
    }

    /// The fingerprints of the reports accepted for the bucket at `index`, by places.
    pub(crate) fn prints_at(&self, index: usize) -> Prints<'_> {
        Prints(self.slot(index).and_then(|slot| self.prints.get(slot.subjects())).unwrap_or_default())
    }

    /// The fingerprint of the bucket at `index`.
    pub(crate) fn bucket_print(&self, index: usize) -> Print {
        self.bucket_prints.get(index).copied().unwrap_or_default()
    }

    /// The fingerprint of those subjects of the bucket at `index`.
    pub(crate) fn print(&self, index: usize, places: Mask) -> Print {
        if self.slot(index).is_some_and(|slot| places == Mask::first(slot.len())) {
            return self.bucket_print(index);
        }
        places.places().filter_map(|place| self.subject(index, place)).map(|subject| subject.rank).collect()
    }

    /// The fingerprint of all its subjects.
    pub(crate) fn whole_print(&self) -> Print {
        self.bucket_prints.iter().fold(Print::default(), |all, bucket| all.plus(*bucket))
    }

    /// Where else the subject at `place` of the bucket at `index` stood when the pool was cut.
    pub(crate) fn origin(&self, index: usize, place: usize) -> Option<&Spot> {
        if self.origins.is_empty() {
            return None;
        }
        let at = self.slot(index)?.subjects().nth(place)?;
        let found = self.origins.binary_search_by_key(&at, |(at, _)| *at).ok()?;
        self.origins.get(found).map(|(_, spot)| spot)
    }

    /// The subjects of the bucket at `index` that stood elsewhere, too: their places in it, and where.
    pub(crate) fn origins(&self, index: usize) -> impl Iterator<Item = (usize, &Spot)> {
        let subjects = self.slot(index).map(Slot::subjects).unwrap_or_default();
        let from = self.origins.partition_point(|(at, _)| *at < subjects.start);
        let rest = self.origins.get(from..).unwrap_or_default();
        let end = subjects.end;
        rest.iter().take_while(move |(at, _)| *at < end).map(move |(at, spot)| (*at - subjects.start, spot))
    }

    /// Where each of the ranks in `wanted` stands in it, whatever became of it.
    pub(crate) fn spots(self: &Arc<Self>, wanted: &HashSet<u64>) -> Vec<(u64, Spot)> {
        let mut spots = Vec::new();
        for index in 0..self.slots.len() {
            let bucket = self.bucket(index).enumerate().filter(|(_, subject)| wanted.contains(&subject.rank));
            spots.extend(bucket.map(|(place, subject)| {
                let pool = Arc::clone(self);
                (subject.rank, Spot { pool, index, place })
            }));
        }
        spots
    }

    /// Some of its subjects stand elsewhere, too: the end of each of its leases must be journaled.
    pub(crate) fn share(&self) {
        // ordering: SeqCst; set before the other place is published.
        self.shared.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_shared(&self) -> bool {
        // ordering: SeqCst; see `share`.
        self.shared.load(Ordering::SeqCst)
    }

    /// When the first of its subjects began to wait.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.oldest
    }

    /// Subjects that no claim has taken, about.
    pub(crate) fn ready_subjects(&self) -> usize {
        (self.slots.len() - self.cursor.count()) * self.subjects.places.len() / self.slots.len().max(1)
    }

    /// As [`claim`](Self::claim) of one bucket, where that is simple; if it is not, nothing is claimed.
    pub(crate) fn claim_one(&self, owner: u32, now: u64) -> Option<usize> {
        if !self.cooldowns.is_empty() {
            return None;
        }
        let at = now.saturating_sub(self.born);
        let index = self.cursor.take(owner as usize, 1).next()?;
        let slot = self.slot(index)?;
        slot.claim(owner, at, self.terms.deadline(slot.nonce(), at)).then_some(index)
    }

    /// Leases up to `n` buckets to `owner` and calls `took` with the place of each. Lock-free, no allocation, never
    /// waits: one `fetch_add`, then one compare-and-swap a bucket. What `owner` gave back lately it sets aside for others.
    pub(crate) fn claim(&self, n: usize, owner: u32, now: u64, mut took: impl FnMut(usize)) -> usize {
        let at = now.saturating_sub(self.born);
        let (mut got, mut passed_by) = (0, 0);
        while got < n && passed_by < PASSED_BY_MAX {
            let range = self.cursor.take(owner as usize, n - got);
            if range.is_empty() {
                got += self.claim_aside(n - got, owner, now, &mut took);
                break;
            }
            for index in range {
                if self.cooldowns.barred_until(index, owner, now).is_some() {
                    self.cooldowns.set_aside(index);
                    passed_by += 1;
                    continue;
                }
                // False only if the steward took the slot back, in the belief that we had stopped.
                let Some(slot) = self.slot(index) else { continue };
                if slot.claim(owner, at, self.terms.deadline(slot.nonce(), at)) {
                    got += 1;
                    took(index);
                }
            }
        }
        got
    }

    /// Leases what others passed by. Only after the cursor's end: a bucket comes no earlier because of who gave it back.
    /// In the order of the nonces, which nobody knows: a client may know from its tokens where it passed something by.
    fn claim_aside(&self, n: usize, owner: u32, now: u64, took: &mut impl FnMut(usize)) -> usize {
        let at = now.saturating_sub(self.born);
        let mut got = 0;
        while got < n {
            let free = self.aside().filter(|index| self.cooldowns.barred_until(*index, owner, now).is_none());
            let Some((nonce, slot, index)) =
                free.filter_map(|index| self.slot(index).map(|slot| (slot.nonce(), slot, index))).min_by_key(|at| at.0)
            else {
                break;
            };
            // Fails only if another took that slot: one less to look at.
            if slot.claim_aside(owner, at, self.terms.deadline(nonce, at)) {
                got += 1;
                took(index);
            }
        }
        got
    }

    /// The slots that a claimer passed by and nobody has taken since.
    pub(crate) fn aside(&self) -> impl Iterator<Item = usize> {
        let is_ready = |index: &usize| self.slot(*index).is_some_and(|slot| slot.snapshot().phase() == Phase::Ready);
        self.cooldowns.passed_by().filter(is_ready)
    }

    pub(crate) fn is_aside(&self, index: usize) -> bool {
        self.aside().any(|other| other == index)
    }

    /// True if the bucket at `index` was passed by, left, and taken back to be offered anew.
    pub(crate) fn was_recalled(&self, index: usize) -> bool {
        self.slot(index).is_some_and(|slot| slot.snapshot().put_back() == Some(Cause::Abandoned))
            && self.cooldowns.passed_by().any(|other| other == index)
    }

    /// True if no claim will get anything from it any more.
    pub(crate) fn is_spent(&self) -> bool {
        self.is_exhausted() && self.aside().next().is_none()
    }

    /// True if a claim of `seat` made now would probably get something from it.
    pub(crate) fn has_for(&self, seat: u32, now: u64) -> bool {
        !self.is_exhausted() || self.aside().any(|index| self.cooldowns.barred_until(index, seat, now).is_none())
    }

    /// When the first of the slots set aside has cooled for `seat`; hub time, ms.
    pub(crate) fn cools_at(&self, seat: u32, now: u64) -> Option<u64> {
        self.aside().filter_map(|index| self.cooldowns.barred_until(index, seat, now)).min()
    }

    /// True if a cooldown ended after `then`, and at `now` at the latest.
    pub(crate) fn cooled_between(&self, then: u64, now: u64) -> bool {
        self.cooldowns.ended_between(then, now)
    }

    /// What was left of the bucket at `index`, for another pool: whoever gave it back must wait to get it again.
    pub(crate) fn put_back(&self, index: usize, left: Mask, now: u64) -> impl Iterator<Item = SubjectBuf> {
        let seen = self.slot(index).map(Slot::snapshot);
        let given_back = |seen: &Snapshot| seen.put_back().is_some_and(|cause| cause != Cause::Abandoned);
        let giver = seen.filter(given_back).map(Snapshot::owner);
        left.places().filter_map(move |place| self.again(index, place, giver, now))
    }

    /// One subject for another pool, with the cooldowns that it has; and one of `giver`, which gave it back or holds it still.
    pub(crate) fn again(&self, index: usize, place: usize, giver: Option<u32>, now: u64) -> Option<SubjectBuf> {
        let at = self.slot(index)?.subjects().nth(place)?;
        let before = self.cooldowns.of_subject(at);
        let cooldowns = cooldown::renewed(before, giver, self.terms.cooldown_ms, now);
        Some(SubjectBuf { cooldowns, ..SubjectBuf::new(self.subjects.at(at)?) })
    }

    /// Moves the deadline of a lease to a full term from now, but not beyond its cap.
    pub(crate) fn renew(&self, index: usize, owner: u32, now: u64) -> Renewal {
        let Some(slot) = self.slot(index) else { return Renewal::Not(ToRenewed::NotOwner) };
        let since_birth = now.saturating_sub(self.born);
        let seen = slot.snapshot();
        let cap = self.terms.cap(slot.nonce(), slot.claimed());
        let wanted = self.terms.deadline(slot.nonce(), since_birth);
        match slot.renew(owner, wanted.min(cap)) {
            // Nothing could be added, and that is the cap's doing.
            ToRenewed::Renewed { deadline } if seen.time() >= cap && wanted > cap => {
                Renewal::Capped { time_left: deadline.saturating_sub(since_birth) }
            }
            ToRenewed::Renewed { deadline } => Renewal::Renewed { time_left: deadline.saturating_sub(since_birth) },
            not => Renewal::Not(not),
        }
    }

    /// Hub time, ms, at which a slot was claimed. Meaningful to who has seen it leased.
    pub(crate) fn claimed_at(&self, slot: &Slot) -> u64 {
        self.born + slot.claimed()
    }

    /// What the writer noted last of a slot; the writer's alone.
    pub(crate) fn logged(&self, index: usize) -> u8 {
        // ordering: Relaxed; one thread writes it; the steward only asks whether it may forget the pool.
        self.logged.get(index).map_or(0, |logged| logged.load(Ordering::Relaxed))
    }

    pub(crate) fn note_logged(&self, index: usize, flag: u8) {
        if let Some(logged) = self.logged.get(index) {
            // ordering: Relaxed; see `logged`.
            logged.store(self.logged(index) | flag, Ordering::Relaxed);
        }
    }

    /// True if the cursor has handed out every slot.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.cursor.is_at_end()
    }

    /// The slots that the cursor has handed out, and their places; ascending.
    pub(crate) fn passed(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.cursor.passed().flatten().filter_map(|index| Some((index, self.slot(index)?)))
    }

    /// Asks the writer to look at a slot whose lease has ended. Wait-free.
    pub(crate) fn mark(&self, index: usize) {
        if let Some(word) = self.dirty.get(index / 64) {
            // ordering: SeqCst; published before the caller raises the writer's signal (see `Signal`).
            word.fetch_or(1 << (index % 64), Ordering::SeqCst);
        }
    }

    /// Calls `visit` with each slot that was handed out since the last call, and each that was marked. The writer's alone.
    pub(crate) fn collect(&self, mut visit: impl FnMut(usize, &Slot)) {
        for (seen, passed) in self.seen.iter().zip(self.cursor.passed()) {
            // ordering: Relaxed, both; one thread reads and writes `seen`.
            let from = usize::try_from(seen.load(Ordering::Relaxed)).unwrap_or(passed.end);
            if passed.end > from {
                seen.store(passed.end as u64, Ordering::Relaxed);
                (from..passed.end)
                    .filter_map(|index| Some((index, self.slot(index)?)))
                    .for_each(|(index, slot)| visit(index, slot));
            }
        }
        for (word_at, word) in self.dirty.iter().enumerate() {
            // ordering: SeqCst, both; read after the writer lowered its signal. The load spares the swap.
            if word.load(Ordering::SeqCst) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::SeqCst);
            while bits != 0 {
                let index = word_at * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                if let Some(slot) = self.slots.get(index) {
                    visit(index, slot);
                }
            }
        }
    }

    /// Notes the fingerprint of the report accepted for `place` of the bucket at `index`.
    pub(crate) fn note_print(&self, index: usize, place: usize, print: u32) {
        self.prints_at(index).note(place, print);
    }

    /// The fingerprint noted, 0 if none is yet.
    pub(crate) fn print_of(&self, index: usize, place: usize) -> u32 {
        self.prints_at(index).of(place)
    }

    /// True if every lease is over and the journal knows it: the steward may forget the pool.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_exhausted()
            && self
                .slots
                .iter()
                .enumerate()
                .all(|(index, slot)| slot.snapshot().is_final() && self.logged(index) & LOGGED_ENDED != 0)
    }
}

/// The fingerprints of the reports accepted for one bucket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prints<'a>(&'a [AtomicU32]);

impl Prints<'_> {
    /// Notes the fingerprint of the report accepted for `place`.
    #[inline]
    pub(crate) fn note(self, place: usize, print: u32) {
        if let Some(word) = self.0.get(place) {
            // ordering: Relaxed; a hint, 0 is answered as "the same".
            word.store(print, Ordering::Relaxed);
        }
    }

    /// The fingerprint noted, 0 if none is yet.
    pub(crate) fn of(self, place: usize) -> u32 {
        // ordering: Relaxed; see `note`.
        self.0.get(place).map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

/// The next pool's stamp.
static STAMPS: AtomicU64 = AtomicU64::new(1);

/// Nothing, if there is none.
fn some_runs(runs: Vec<Option<Box<Run>>>) -> Box<[Option<Box<Run>>]> {
    if runs.iter().all(Option::is_none) { Box::default() } else { runs.into() }
}

/// Slots that one claim passes by, about at most: it is then answered with what it has.
const PASSED_BY_MAX: usize = 64;
/// `Pool::note_logged`: the lease is in the journal.
pub(crate) const LOGGED_LEASED: u8 = 1;
/// `Pool::note_logged`: the writer has seen the lease's end.
pub(crate) const LOGGED_ENDED: u8 = 2;

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
