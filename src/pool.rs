//! One generation of ready buckets: immutable but for its cursor and its slots' words.

use crate::cursor::Cursor;
use crate::id::{LeaseToken, Secret};
use crate::record::subject_hash;
use crate::service::{OverAsk, Policy};
use crate::slot::{Mask, Slot};
use crate::sync::{AtomicU32, AtomicU64, Ordering, Padded};

/// The policy as it was when the pool was formed: what holds for its buckets and leases.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) bucket_subjects: usize,
    pub(crate) buckets_per_claim: u32,
    pub(crate) leases_in_flight: u32,
    pub(crate) over_ask: OverAsk,
    pub(crate) lease_ms: u64,
    pub(crate) grace_ms: u64,
    pub(crate) ordinary_share: u32,
    pub(crate) max_depth: u16,
    pub(crate) keep_unmarked: bool,
}

impl Terms {
    pub(crate) fn of(policy: &Policy) -> Self {
        Self {
            bucket_subjects: policy.bucket_subjects,
            buckets_per_claim: policy.buckets_per_claim,
            leases_in_flight: policy.leases_in_flight,
            over_ask: policy.over_ask,
            lease_ms: crate::clock::millis(policy.lease),
            grace_ms: crate::clock::millis(policy.grace),
            ordinary_share: policy.ordinary_share,
            max_depth: policy.max_depth,
            keep_unmarked: policy.keep_unmarked,
        }
    }
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
        }
    }

    /// One that was deleted or withdrawn while a lease held it: no key, and its hash in place of a body.
    pub(crate) fn gone(rank: u64, hash: &[u8; 16]) -> Self {
        Self::new(SubjectRef { rank, depth: 0, round: 0, since: 0, key: &[], body: hash })
    }

    /// Bytes of key and body.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
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

    fn at(&self, index: usize) -> Option<SubjectRef<'_>> {
        let place = self.places.get(index)?;
        let bytes = |from: u32, to: u32| self.bytes.get(from as usize..to as usize);
        Some(SubjectRef {
            rank: place.rank,
            depth: place.depth,
            round: place.round,
            since: place.since,
            key: bytes(place.start, place.key_end)?,
            body: bytes(place.key_end, place.end)?,
        })
    }
}

/// A bucket that was leased before a restart.
#[derive(Debug)]
pub(crate) struct RecoveredLease {
    pub(crate) slot: u32,
    pub(crate) owner: u32,
    /// Hub time, ms.
    pub(crate) deadline: u64,
    pub(crate) open: Mask,
    pub(crate) subjects: Vec<SubjectBuf>,
}

/// One generation.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) service: u32,
    pub(crate) generation: u64,
    /// Hub time, ms: what the times in the slots' words count from.
    pub(crate) born: u64,
    pub(crate) terms: Terms,
    cursor: Padded<Cursor>,
    slots: Box<[Slot]>,
    /// Slot numbers where they are not simply the places (recovered pools); ascending.
    numbers: Option<Box<[u32]>>,
    subjects: Subjects,
    /// A fingerprint of each accepted report, 0 before: tells a repeated report from a conflicting one.
    prints: Box<[AtomicU32]>,
    /// One bit a slot: the writer must look at it.
    dirty: Box<[AtomicU64]>,
    /// Slots below this are known to the writer; the writer's alone.
    seen: AtomicU64,
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
        let mut subjects = Subjects::default();
        let mut slots = Vec::new();
        for bucket in buckets.chunks(birth.terms.bucket_subjects.max(1)) {
            let first = subjects.places.len();
            for subject in bucket {
                subjects.push(subject);
            }
            let nonce = secret.nonce(birth.service, birth.generation, number(slots.len()));
            slots.push(Slot::new(number(first), bucket.len(), nonce));
        }
        Self::assemble(birth, slots, None, subjects, 0)
    }

    /// Brings back the leases of one generation of an earlier opening, ascending by slot.
    pub(crate) fn recover(birth: Birth, leases: &[RecoveredLease], secret: &Secret) -> Self {
        let mut subjects = Subjects::default();
        let mut slots = Vec::with_capacity(leases.len());
        for lease in leases {
            let first = number(subjects.places.len());
            for subject in &lease.subjects {
                subjects.push(subject);
            }
            let nonce = secret.nonce(birth.service, birth.generation, lease.slot);
            let deadline = lease.deadline.saturating_sub(birth.born);
            let slot = Slot::leased(first, lease.subjects.len(), nonce, lease.owner, deadline, lease.open);
            slot.note_logged(LOGGED_LEASED);
            slots.push(slot);
        }
        let numbers = leases.iter().map(|lease| lease.slot).collect();
        let taken = slots.len();
        Self::assemble(birth, slots, Some(numbers), subjects, taken)
    }

    /// A pool of nothing: what a service starts with.
    pub(crate) fn empty(birth: Birth) -> Self {
        Self::assemble(birth, Vec::new(), None, Subjects::default(), 0)
    }

    fn assemble(birth: Birth, slots: Vec<Slot>, numbers: Option<Box<[u32]>>, subjects: Subjects, taken: usize) -> Self {
        assert!(subjects.bytes.len() < u32::MAX as usize, "a pool's subjects fit in 4 GiB");
        Self {
            service: birth.service,
            generation: birth.generation,
            born: birth.born,
            terms: birth.terms,
            cursor: Padded(Cursor::new(taken)),
            prints: (0..subjects.places.len()).map(|_| AtomicU32::new(0)).collect(),
            dirty: (0..slots.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            slots: slots.into(),
            numbers,
            subjects,
            seen: AtomicU64::new(taken as u64),
        }
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(crate) fn slot(&self, index: usize) -> Option<&Slot> {
        self.slots.get(index)
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
        let at = self.slot(index)?.subjects().nth(place)?;
        self.subjects.at(at)
    }

    /// The subjects of the bucket at `index`, in its order.
    pub(crate) fn bucket(&self, index: usize) -> impl Iterator<Item = SubjectRef<'_>> {
        let places = self.slot(index).map(Slot::subjects).unwrap_or_default();
        places.filter_map(|at| self.subjects.at(at))
    }

    /// Leases up to `n` buckets to `owner` and calls `took` with the place of each. Lock-free, no allocation, never
    /// waits: one `fetch_add`, then one compare-and-swap a bucket.
    pub(crate) fn claim(&self, n: usize, owner: u32, now: u64, mut took: impl FnMut(usize)) -> usize {
        let deadline = now.saturating_sub(self.born) + self.terms.lease_ms;
        let mut got = 0;
        while got < n {
            let range = self.cursor.0.take(n - got, self.slots.len());
            if range.is_empty() {
                break;
            }
            for index in range {
                // False only if the steward took the slot back, in the belief that we had stopped.
                if self.slot(index).is_some_and(|slot| slot.claim(owner, deadline)) {
                    got += 1;
                    took(index);
                }
            }
        }
        got
    }

    /// True if the cursor has handed out every slot.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.passed() == self.slots.len()
    }

    /// Slots that the cursor has handed out.
    pub(crate) fn passed(&self) -> usize {
        self.cursor.0.passed(self.slots.len())
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
        // ordering: Relaxed; one thread reads and writes `seen`.
        let seen = usize::try_from(self.seen.load(Ordering::Relaxed)).unwrap_or(0);
        let passed = self.passed();
        if passed > seen {
            // ordering: Relaxed; as above.
            self.seen.store(passed as u64, Ordering::Relaxed);
            for (index, slot) in self.slots.iter().enumerate().take(passed).skip(seen) {
                visit(index, slot);
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
        if let Some(word) = self.print(index, place) {
            // ordering: Relaxed; a hint, 0 is answered as "the same".
            word.store(print, Ordering::Relaxed);
        }
    }

    /// The fingerprint noted, 0 if none is yet.
    pub(crate) fn print_of(&self, index: usize, place: usize) -> u32 {
        // ordering: Relaxed; see `note_print`.
        self.print(index, place).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn print(&self, index: usize, place: usize) -> Option<&AtomicU32> {
        self.prints.get(self.slot(index)?.subjects().nth(place)?)
    }

    /// True if every lease is over and the journal knows it: the steward may forget the pool.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_exhausted()
            && self.slots.iter().all(|slot| {
                let seen = slot.snapshot();
                seen.is_final() && slot.logged() & LOGGED_ENDED != 0
            })
    }
}

/// `Slot::note_logged`: the lease is in the journal.
pub(crate) const LOGGED_LEASED: u8 = 1;
/// `Slot::note_logged`: the writer has seen the lease's end.
pub(crate) const LOGGED_ENDED: u8 = 2;

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
