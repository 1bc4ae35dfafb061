//! The packed state word of a slot, its chunk words, and every transition of theirs.
//!
//! No I/O, no clock, no allocation. The transition table and the argument for it are in `docs/protocol.md`.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Subjects that one chunk word holds; its last bit says that it is closed.
pub(crate) const CHUNK_BITS: usize = 63;
/// Chunk words in a slot.
pub(crate) const CHUNKS: usize = 4;
/// Most subjects that a bucket can hold.
pub(crate) const BUCKET_MAX: usize = CHUNK_BITS * CHUNKS;

const CLOSED: u64 = 1 << CHUNK_BITS;

/// Bits of `Slot::place` that say how many subjects the bucket has; the rest say where they start.
const LEN_BITS: u32 = 8;
/// Most subjects that a pool can hold: 16,777,216.
pub(crate) const POOL_MAX: usize = 1 << (u32::BITS - LEN_BITS);
const _: () = assert!(BUCKET_MAX < 1 << LEN_BITS, "a bucket's length fits");

const PHASE_SHIFT: u32 = 61;
const OWNER_BITS: u32 = 26;
const TIME_BITS: u32 = 35;
/// Of the time field, once it is over: why; the rest is a note.
const CAUSE_BITS: u32 = 3;
const _: () = assert!(CAUSE_BITS + u32::BITS <= TIME_BITS, "a note fits");
/// Seats that a hub can hold: the owner field of the state word.
pub(crate) const OWNERS_MAX: u32 = 1 << OWNER_BITS;
/// Longest time, in ms since its pool's birth, that a lease can last: the time field of the state word (397 days).
pub(crate) const TIME_MAX: u64 = (1 << TIME_BITS) - 1;

/// A set of subjects of one bucket, by their place in it: one bit each, in chunk words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mask(pub(crate) [u64; CHUNKS]);

impl Mask {
    pub(crate) fn insert(&mut self, place: usize) {
        self.insert_at(At::of(place));
    }

    #[inline]
    pub(crate) fn insert_at(&mut self, at: At) {
        if let Some(word) = self.0.get_mut(at.chunk) {
            *word |= at.bit;
        }
    }

    /// One place.
    pub(crate) fn of(place: usize) -> Self {
        let mut mask = Self::default();
        mask.insert(place);
        mask
    }

    /// The places of either.
    pub(crate) fn with(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, bits)| *word |= bits);
        self
    }

    /// The places that are not in `other`.
    pub(crate) fn without(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, bits)| *word &= !bits);
        self
    }

    pub(crate) fn has(&self, place: usize) -> bool {
        self.has_at(At::of(place))
    }

    #[inline]
    pub(crate) fn has_at(&self, at: At) -> bool {
        self.0.get(at.chunk).is_some_and(|word| word & at.bit != 0)
    }

    pub(crate) fn count(&self) -> u32 {
        // Most words are empty, and not every processor is known to count bits.
        self.0.iter().map(|word| if *word == 0 { 0 } else { word.count_ones() }).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The places in it, ascending.
    pub(crate) fn places(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(chunk, word)| {
            (0..CHUNK_BITS).filter(move |bit| word & (1 << bit) != 0).map(move |bit| chunk * CHUNK_BITS + bit)
        })
    }

    /// The places of the first chunk word, and only those. Buckets of lanes have no others.
    pub(crate) fn first_word(&self) -> u64 {
        self.0.first().copied().unwrap_or(0)
    }

    /// Places of the first chunk word.
    pub(crate) fn of_word(word: u64) -> Self {
        let mut mask = Self::default();
        put(&mut mask, 0, word);
        mask
    }

    /// The first `count` places.
    pub(crate) fn first(count: usize) -> Self {
        let mut mask = Self::default();
        for (chunk, word) in mask.0.iter_mut().enumerate() {
            let here = count.saturating_sub(chunk * CHUNK_BITS).min(CHUNK_BITS);
            *word = (1 << here) - 1;
        }
        mask
    }
}

/// Where a place stands in a mask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    chunk: usize,
    bit: u64,
}

impl At {
    #[inline]
    pub(crate) fn of(place: usize) -> Self {
        // Most buckets have one chunk: that spares the division.
        let (chunk, bit) = if place < CHUNK_BITS { (0, place) } else { (place / CHUNK_BITS, place % CHUNK_BITS) };
        Self { chunk, bit: 1 << bit }
    }
}

/// Where a slot is in its life. A slot is leased once, so it only ever moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Ready,
    Leased,
    Dead,
    Released,
    Done,
}

/// Why what was left in a bucket was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Cause {
    /// The client gave it back: a release, a drop, or a final submit that left subjects over.
    Client,
    /// Nobody reported before the deadline and the grace after it.
    Expired,
    /// Its client was deregistered.
    Deregistered,
    /// Its service was revoked at once, or its client suspended.
    Revoked,
    /// The cursor had passed it but no claim took it.
    Abandoned,
}

impl Cause {
    fn from_bits(bits: u64) -> Self {
        match bits & ((1 << CAUSE_BITS) - 1) {
            0 => Self::Client,
            1 => Self::Expired,
            2 => Self::Deregistered,
            3 => Self::Revoked,
            _ => Self::Abandoned,
        }
    }
}

/// One reading of a slot's state word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot(u64);

impl Snapshot {
    fn pack(phase: Phase, owner: u32, time: u64) -> Self {
        debug_assert!(owner < OWNERS_MAX, "owner {owner} does not fit");
        let time = time.min(TIME_MAX);
        Self(((phase as u64) << PHASE_SHIFT) | (u64::from(owner) << TIME_BITS) | time)
    }

    pub(crate) fn phase(self) -> Phase {
        match self.0 >> PHASE_SHIFT {
            0 => Phase::Ready,
            1 => Phase::Leased,
            2 => Phase::Dead,
            3 => Phase::Released,
            _ => Phase::Done,
        }
    }

    /// The seat that leased it; meaningless while `Ready`.
    pub(crate) fn owner(self) -> u32 {
        ((self.0 >> TIME_BITS) & u64::from(OWNERS_MAX - 1)) as u32
    }

    /// `Leased`: the deadline; `Dead`: when it died; in ms since the pool's birth.
    pub(crate) fn time(self) -> u64 {
        self.0 & TIME_MAX
    }

    /// Why what was left was put back, if it was.
    pub(crate) fn put_back(self) -> Option<Cause> {
        (self.phase() == Phase::Released).then(|| self.cause())
    }

    /// Held although a `grace` has passed since its time: since the deadline, or, once it is dead, since it died. All in ms.
    pub(crate) fn is_past(self, now: u64, grace: u64) -> bool {
        self.is_held() && now >= self.time().saturating_add(grace)
    }

    /// `Released`: why.
    pub(crate) fn cause(self) -> Cause {
        Cause::from_bits(self.time())
    }

    /// What whoever ended it noted.
    pub(crate) fn note(self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "the field has no more bits")]
        let note = (self.time() >> CAUSE_BITS) as u32;
        note
    }

    /// True while a client holds it.
    pub(crate) fn is_held(self) -> bool {
        matches!(self.phase(), Phase::Leased | Phase::Dead)
    }

    pub(crate) fn is_final(self) -> bool {
        matches!(self.phase(), Phase::Released | Phase::Done)
    }
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum ToRenewed {
    Renewed { deadline: u64 },
    Dead,
    Over,
    NotOwner,
}

/// What became of a submit, place by place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub(crate) struct Taken {
    /// Reported by this call.
    pub(crate) accepted: Mask,
    /// Put back before this call: the lease was over for them.
    pub(crate) stale: Mask,
    /// Reported before this call.
    pub(crate) done: Mask,
    /// Owed, and not reported by this call: of a lane, where others came before them.
    pub(crate) behind: Mask,
    /// No subject is owed any more.
    pub(crate) emptied: bool,
}

/// What ended a lease. Handed to the one caller whose compare-and-swap did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Ended {
    pub(crate) owner: u32,
    pub(crate) phase: Phase,
    /// The lease had been marked dead.
    pub(crate) was_dead: bool,
    pub(crate) left: Mask,
}

/// The state word: of a slot, and of a reservation on a stock. Every transition is one compare-and-swap of all of it.
#[derive(Debug)]
pub(crate) struct Word(AtomicU64);

impl Word {
    pub(crate) fn ready() -> Self {
        Self::at(Snapshot::pack(Phase::Ready, 0, 0))
    }

    pub(crate) fn leased(owner: u32, deadline: u64) -> Self {
        Self::at(Snapshot::pack(Phase::Leased, owner, deadline))
    }

    fn at(state: Snapshot) -> Self {
        Self(AtomicU64::new(state.0))
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        // ordering: SeqCst; the writer reads this after it lowered its signal (see `Signal`). Pairs with the
        // compare-and-swaps below, which publish the owner and the deadline in the same word.
        Snapshot(self.0.load(Ordering::SeqCst))
    }

    /// `Ready -> Leased`. False if another caller claimed it or took it back.
    #[must_use]
    pub(crate) fn claim(&self, owner: u32, deadline: u64) -> bool {
        let ready = Snapshot::pack(Phase::Ready, 0, 0);
        self.swap(ready, Snapshot::pack(Phase::Leased, owner, deadline))
    }

    /// `Ready -> Released`. False if another caller claimed it or took it back.
    #[must_use]
    pub(crate) fn abandon(&self) -> bool {
        let ready = Snapshot::pack(Phase::Ready, 0, 0);
        self.swap(ready, Snapshot::pack(Phase::Released, 0, Cause::Abandoned as u64))
    }

    /// `Leased -> Dead` if the deadline is at or before `now`.
    #[must_use]
    pub(crate) fn mark_dead(&self, now: u64) -> bool {
        let seen = self.snapshot();
        seen.phase() == Phase::Leased
            && seen.time() <= now
            && self.swap(seen, Snapshot::pack(Phase::Dead, seen.owner(), now))
    }

    /// `Leased, Dead -> Released, Done`: what it was before. `None` if it was not held, or if another caller ended it.
    /// `note` stands in the word from then on.
    pub(crate) fn settle(&self, phase: Phase, cause: Cause, note: u32) -> Option<Snapshot> {
        let time = (u64::from(note) << CAUSE_BITS) | cause as u64;
        loop {
            let seen = self.snapshot();
            if !seen.is_held() {
                return None;
            }
            // Fails only when a renewal or the mark of death came between: both are bounded by the lease's end.
            if self.swap(seen, Snapshot::pack(phase, seen.owner(), time)) {
                return Some(seen);
            }
        }
    }

    fn swap(&self, from: Snapshot, to: Snapshot) -> bool {
        self.0
            // ordering: SeqCst; published before the caller raises the writer's signal (see `Signal`); otherwise AcqRel
            // would do: the word carries all that its readers need. Acquire on failure: the word is read again.
            .compare_exchange(from.0, to.0, Ordering::SeqCst, Ordering::Acquire)
            .is_ok()
    }
}

/// When a slot was claimed, in 32 bits of ms since its pool's birth: exact for 24 days, then to 16 ms, up to `TIME_MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment(u32);

impl Moment {
    const COARSE: u32 = 1 << 31;
    const COARSE_SHIFT: u32 = 4;

    fn of(ms: u64) -> Self {
        let exact = u32::try_from(ms).ok().filter(|ms| *ms < Self::COARSE);
        let coarse = || u32::try_from(ms.min(TIME_MAX) >> Self::COARSE_SHIFT).unwrap_or(u32::MAX);
        Self(exact.unwrap_or_else(|| Self::COARSE | coarse()))
    }

    fn ms(self) -> u64 {
        let ms = u64::from(self.0 & !Self::COARSE);
        if self.0 & Self::COARSE == 0 { ms } else { ms << Self::COARSE_SHIFT }
    }
}

/// One bucket's place in a pool: a cache line.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Slot {
    state: Word,
    /// One bit a subject (set: still owed), and `CLOSED`.
    chunks: [AtomicU64; CHUNKS],
    /// The token's secret part.
    nonce: u128,
    /// Where its subjects start in the pool, and, in the last bits, how many there are.
    place: u32,
    /// When it was claimed, a `Moment`.
    claimed: AtomicU32,
}

impl Slot {
    /// A ready slot of `len` subjects, which start at `first` in its pool.
    pub(crate) fn new(first: u32, len: usize, nonce: u128) -> Self {
        assert!((1..=BUCKET_MAX).contains(&len), "a bucket holds 1 to {BUCKET_MAX} subjects, not {len}");
        Self::with(Word::ready(), first, len, nonce, Mask::first(len))
    }

    /// A slot claimed by `owner` at `at` before a restart, with the subjects that were still owed.
    pub(crate) fn leased(
        first: u32,
        len: usize,
        nonce: u128,
        owner: u32,
        (at, deadline): (u64, u64),
        open: Mask,
    ) -> Self {
        let mut slot = Self::with(Word::leased(owner, deadline), first, len, nonce, open);
        slot.claimed = AtomicU32::new(Moment::of(at).0);
        slot
    }

    fn with(state: Word, first: u32, len: usize, nonce: u128, open: Mask) -> Self {
        assert!((first as usize) < POOL_MAX, "a pool holds at most {POOL_MAX} subjects, not {first} and more");
        Self {
            state,
            chunks: open.0.map(AtomicU64::new),
            nonce,
            #[expect(clippy::cast_possible_truncation, reason = "at most BUCKET_MAX")]
            place: (first << LEN_BITS) | (len as u32),
            claimed: AtomicU32::new(0),
        }
    }

    pub(crate) fn nonce(&self) -> u128 {
        self.nonce
    }

    /// Where its subjects stand in the pool.
    pub(crate) fn subjects(&self) -> std::ops::Range<usize> {
        let first = (self.place >> LEN_BITS) as usize;
        first..first + self.len()
    }

    pub(crate) fn len(&self) -> usize {
        (self.place & ((1 << LEN_BITS) - 1)) as usize
    }

    /// When it was claimed, in ms since the pool's birth. Meaningful to who has seen it leased.
    pub(crate) fn claimed(&self) -> u64 {
        // ordering: Relaxed; written before the exchange in `claim`, which the caller's look at the state word acquired.
        Moment(self.claimed.load(Ordering::Relaxed)).ms()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.state.snapshot()
    }

    /// `Ready -> Leased`, at `at`. False if the steward took the slot back first.
    #[must_use]
    pub(crate) fn claim(&self, owner: u32, at: u64, deadline: u64) -> bool {
        // ordering: Relaxed; the exchange publishes it. The cursor hands a slot to one claimer: no other writes here.
        self.claimed.store(Moment::of(at).0, Ordering::Relaxed);
        self.state.claim(owner, deadline)
    }

    /// As [`claim`](Self::claim), of a slot that the cursor's claimer passed by: others may try at the same time.
    #[must_use]
    pub(crate) fn claim_aside(&self, owner: u32, at: u64, deadline: u64) -> bool {
        // ordering: Relaxed; as in `claim`. The latest of those who try: who comes too late saw the slot ready after its own
        // `at`, so that is not after the exchange that wins.
        self.claimed.fetch_max(Moment::of(at).0, Ordering::Relaxed);
        self.state.claim(owner, deadline)
    }

    /// Moves the deadline of a lease that is not dead. It never moves back.
    pub(crate) fn renew(&self, owner: u32, deadline: u64) -> ToRenewed {
        loop {
            let seen = self.snapshot();
            if seen.phase() == Phase::Ready || seen.owner() != owner {
                return ToRenewed::NotOwner;
            }
            match seen.phase() {
                Phase::Dead => return ToRenewed::Dead,
                Phase::Leased if self.open().is_empty() => return ToRenewed::Over,
                Phase::Leased => {}
                _ => return ToRenewed::Over,
            }
            let deadline = deadline.min(TIME_MAX).max(seen.time());
            // Fails only when another session's renewal, the steward or the end of the lease came between: each of
            // these moves the word forward, so the loop ends.
            if self.state.swap(seen, Snapshot::pack(Phase::Leased, owner, deadline)) {
                return ToRenewed::Renewed { deadline };
            }
        }
    }

    /// `Leased -> Dead` if the deadline is at or before `now`.
    #[must_use]
    pub(crate) fn mark_dead(&self, now: u64) -> bool {
        self.state.mark_dead(now)
    }

    /// `Ready -> Released`: takes back a slot that no claim will take any more, and what is left in it. `None` if another
    /// caller claimed it or took it back.
    #[must_use]
    pub(crate) fn abandon(&self) -> Option<Mask> {
        // Closed as the end of a lease is: a late report takes a subject before this, or not at all.
        self.state.abandon().then(|| self.close())
    }

    /// Reports the subjects in `wanted`: clears their bits, unless they are cleared or closed already.
    pub(crate) fn report(&self, wanted: Mask) -> Taken {
        let mut taken = Taken::default();
        let words = wanted.0.iter().zip(&self.chunks).enumerate();
        for (i, (bits, chunk)) in words.filter(|(_, (bits, _))| **bits != 0) {
            let (accepted, stale) = Self::report_chunk(chunk, *bits);
            put(&mut taken.accepted, i, accepted);
            put(&mut taken.stale, i, stale);
            put(&mut taken.done, i, bits & !accepted & !stale);
        }
        taken.emptied = !taken.accepted.is_empty() && self.is_emptied();
        taken
    }

    /// Reports the subjects in `wanted`, all in the first chunk, if just `owed` is open, or none of them. One exchange.
    pub(crate) fn report_front(&self, owed: u64, wanted: u64) -> Taken {
        let mut taken = Taken::default();
        let Some(chunk) = self.chunks.first() else { return taken };
        let exchanged = if wanted & !owed == 0 {
            // ordering: AcqRel and Acquire; as in `report_chunk`.
            chunk.compare_exchange(owed, owed & !wanted, Ordering::AcqRel, Ordering::Acquire)
        } else {
            // Some of them were not owed from the beginning.
            // ordering: Acquire; as in `report_chunk`.
            Err(chunk.load(Ordering::Acquire))
        };
        match exchanged {
            Ok(_) => {
                put(&mut taken.accepted, 0, wanted);
                taken.emptied = self.is_emptied();
            }
            Err(word) => {
                let left = if word & CLOSED == 0 { &mut taken.behind } else { &mut taken.stale };
                put(left, 0, wanted & word);
                put(&mut taken.done, 0, wanted & !word);
            }
        }
        taken
    }

    /// The bits accepted and those found closed.
    fn report_chunk(chunk: &AtomicU64, bits: u64) -> (u64, u64) {
        // ordering: Acquire; pairs with the AcqRel exchanges below and in `close`.
        let mut word = chunk.load(Ordering::Acquire);
        loop {
            if word & CLOSED != 0 {
                return (0, word & bits);
            }
            if word & bits == 0 {
                return (0, 0);
            }
            // ordering: AcqRel; a report and a close of one chunk are ordered by the chunk's own word; whoever clears the
            // last bit acquires what the others did before theirs. Acquire on failure: as the load above.
            match chunk.compare_exchange_weak(word, word & !bits, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return (word & bits, 0),
                // Some other bit was cleared, or the word was closed: at most 64 times in its life.
                Err(now) => word = now,
            }
        }
    }

    /// True if no bit is open. Reads by read-modify-write, so that of two reports which clear the last bits of two
    /// chunks at least one sees both cleared (a plain load could miss the other's).
    fn is_emptied(&self) -> bool {
        let (first, rest) = (self.chunks.first(), self.chunks.get(1..).unwrap_or_default());
        let chunks = self.len().div_ceil(CHUNK_BITS);
        if chunks <= 1 {
            // ordering: Acquire; the caller's own exchange was on this word.
            return first.is_some_and(|chunk| chunk.load(Ordering::Acquire) & !CLOSED == 0);
        }
        first.into_iter().chain(rest).take(chunks).all(|chunk| {
            // ordering: AcqRel; takes a place in the word's modification order, see above.
            chunk.fetch_or(0, Ordering::AcqRel) & !CLOSED == 0
        })
    }

    /// The subjects still owed (or, once closed, those that were put back).
    pub(crate) fn open(&self) -> Mask {
        // ordering: Acquire; pairs with the AcqRel exchanges of `report_chunk` and `close`.
        let words = self.chunks.each_ref().map(|chunk| chunk.load(Ordering::Acquire) & !CLOSED);
        Mask(words)
    }

    /// Closes every chunk: from here on no report is accepted. What is left stays in the words as the record of what was
    /// put back. Anyone may call it again, to finish what another began.
    pub(crate) fn close(&self) -> Mask {
        // ordering: AcqRel; the same instruction that bars reports takes what they left.
        let words = self.chunks.each_ref().map(|chunk| chunk.fetch_or(CLOSED, Ordering::AcqRel) & !CLOSED);
        Mask(words)
    }

    /// Ends the lease of `owner` (of anyone, if `None`): puts back what is left, or finds it done. `None` if it was not
    /// held, or if another caller ended it.
    pub(crate) fn end(&self, owner: Option<u32>, cause: Cause) -> Option<Ended> {
        let seen = self.snapshot();
        if !seen.is_held() || owner.is_some_and(|owner| owner != seen.owner()) {
            return None;
        }
        let left = self.close();
        self.settle(left, cause)
    }

    /// Finishes a bucket in which nothing is owed. `None` if another caller did, or if something is owed.
    pub(crate) fn finish(&self) -> Option<Ended> {
        if self.snapshot().is_held() && self.is_emptied() { self.settle(Mask::default(), Cause::Client) } else { None }
    }

    fn settle(&self, left: Mask, cause: Cause) -> Option<Ended> {
        let phase = if left.is_empty() { Phase::Done } else { Phase::Released };
        let before = self.state.settle(phase, cause, 0)?;
        Some(Ended { owner: before.owner(), phase, was_dead: before.phase() == Phase::Dead, left })
    }
}

fn put(mask: &mut Mask, chunk: usize, bits: u64) {
    if let Some(word) = mask.0.get_mut(chunk) {
        *word = bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots that two threads race through.
    const BATCH: usize = 1_000;

    #[test]
    fn a_slot_is_one_cache_line() {
        assert_eq!((size_of::<Slot>(), align_of::<Slot>()), (64, 64));
    }

    #[test]
    fn a_slot_knows_the_largest_place_and_length() {
        let first = u32::try_from(POOL_MAX - BUCKET_MAX).unwrap();
        let slot = Slot::new(first, BUCKET_MAX, 0);
        assert_eq!((slot.subjects(), slot.len()), (POOL_MAX - BUCKET_MAX..POOL_MAX, BUCKET_MAX));
    }

    #[test]
    fn the_moment_of_a_claim_is_exact_for_24_days_and_to_16_ms_after() {
        for exact in [0, 1, 86_400_000, (1 << 31) - 1] {
            assert_eq!(Moment::of(exact).ms(), exact);
        }
        for late in [1 << 31, (1 << 31) + 17, 1 << 33, TIME_MAX] {
            let told = Moment::of(late).ms();
            assert!(told <= late && late - told < 16, "{late} is told as {told}");
        }
        assert_eq!(Moment::of(u64::MAX), Moment::of(TIME_MAX));
        let slot = Slot::new(0, 1, 0);
        assert!(slot.claim(3, 77, 99));
        assert_eq!((slot.claimed(), slot.snapshot().time()), (77, 99));
    }

    /// Of claimers of a slot that was passed by, who comes too late leaves no trace, however long ago it began.
    #[test]
    fn who_claims_in_vain_does_not_move_the_moment_of_the_claim() {
        let slot = Slot::new(0, 1, 0);
        assert!(slot.claim_aside(3, 77, 99));
        assert!(!slot.claim_aside(4, 5, 27));
        assert_eq!((slot.claimed(), slot.snapshot().owner(), slot.snapshot().time()), (77, 3, 99));
    }

    /// What `taken` says of the places: accepted, stale, done, behind.
    fn places(taken: Taken) -> [Vec<usize>; 4] {
        [taken.accepted, taken.stale, taken.done, taken.behind].map(|mask| mask.places().collect())
    }

    fn masked(places: &[usize]) -> Mask {
        places.iter().fold(Mask::default(), |mask, place| mask.with(Mask::of(*place)))
    }

    #[test]
    fn a_report_is_told_for_each_place_what_became_of_it() {
        let slot = Slot::leased(0, 66, 1, 7, (0, 10), Mask::first(66));
        assert_eq!(places(slot.report(masked(&[0, 2, 62]))), [vec![0, 2, 62], vec![], vec![], vec![]]);
        let more = slot.report(masked(&[0, 1, 63]));
        assert_eq!((places(more), more.emptied), ([vec![1, 63], vec![], vec![0], vec![]], false));
        assert_eq!(slot.open().count(), 61);
        let other = Slot::leased(0, 66, 1, 7, (0, 10), masked(&[5, 64]));
        assert!(!other.report(masked(&[5])).emptied && other.report(masked(&[64])).emptied);
        assert!(!other.report(masked(&[64])).emptied, "not by this call");
        assert_eq!((other.renew(7, 20), other.snapshot().is_held()), (ToRenewed::Over, true), "nobody has said so yet");
        let ended = slot.end(Some(7), Cause::Client).unwrap();
        assert_eq!((ended.left.count(), ended.phase, ended.was_dead), (61, Phase::Released, false));
        // Reported before it was closed, put back, and in another word.
        let late = slot.report(masked(&[1, 3, 64]));
        assert_eq!((places(late), late.emptied), ([vec![], vec![3, 64], vec![1], vec![]], false));
        assert_eq!(slot.open().count(), 61, "the record of what was put back stays");
    }

    #[test]
    fn a_report_from_the_front_is_taken_whole_or_not_at_all() {
        let slot = Slot::leased(0, 4, 1, 7, (0, 10), Mask::first(4));
        assert_eq!(places(slot.report_front(0b1111, 0b0011)), [vec![0, 1], vec![], vec![], vec![]]);
        // Whoever has not seen that is behind.
        assert_eq!(places(slot.report_front(0b1111, 0b0111)), [vec![], vec![], vec![0, 1], vec![2]]);
        // What was not owed from the beginning cannot be taken, though the rest stands as it was seen.
        assert_eq!(places(slot.report_front(0b1100, 0b0110)), [vec![], vec![], vec![1], vec![2]]);
        assert_eq!(slot.open(), masked(&[2, 3]));
        let third = slot.report_front(0b1100, 0b0100);
        assert_eq!((places(third), third.emptied), ([vec![2], vec![], vec![], vec![]], false));
        assert_eq!(slot.end(Some(7), Cause::Client).unwrap().left, masked(&[3]));
        assert_eq!(places(slot.report_front(0b1000, 0b1100)), [vec![], vec![3], vec![2], vec![]]);
        assert_eq!(slot.open(), masked(&[3]));
    }

    #[test]
    fn a_lease_is_its_owners_alone_and_ends_once() {
        let slot = Slot::new(0, 2, 1);
        assert_eq!((slot.renew(0, 20), slot.end(Some(0), Cause::Client)), (ToRenewed::NotOwner, None));
        assert_eq!(slot.end(None, Cause::Expired), None, "nobody held it");
        assert!(slot.claim(7, 0, 10) && !slot.claim(8, 0, 10));
        assert_eq!((slot.renew(8, 20), slot.end(Some(8), Cause::Client)), (ToRenewed::NotOwner, None));
        assert_eq!(slot.renew(7, 20), ToRenewed::Renewed { deadline: 20 });
        assert_eq!(slot.renew(7, 15), ToRenewed::Renewed { deadline: 20 }, "it never moves back");
        assert!(!slot.mark_dead(19) && slot.mark_dead(20) && !slot.mark_dead(21));
        assert_eq!(slot.renew(7, 30), ToRenewed::Dead);
        assert_eq!(slot.finish(), None, "two are owed");
        let ended = slot.end(None, Cause::Expired).unwrap();
        assert_eq!((ended.owner, ended.phase, ended.was_dead, ended.left), (7, Phase::Released, true, Mask::first(2)));
        assert_eq!((slot.end(Some(7), Cause::Client), slot.finish()), (None, None));
        assert_eq!((slot.renew(7, 30), slot.snapshot().put_back()), (ToRenewed::Over, Some(Cause::Expired)));
        assert!(slot.abandon().is_none());
    }

    /// R100: of an update and the end of its lease one atomic step picks the winner, subject by subject: what is accepted
    /// and what is put back are disjoint and are all, and one caller ends the lease. `RACES` sets how many are run.
    #[test]
    fn an_update_and_the_end_of_its_lease_share_the_bucket_exactly() {
        let races: usize = std::env::var("RACES").map_or(100_000, |races| races.parse().unwrap());
        for batch in 0..races.div_ceil(BATCH) {
            let lens = (0..BATCH).map(|at| [1, 4, CHUNK_BITS, CHUNK_BITS + 1][(batch + at) % 4]);
            let slots: Vec<Slot> = lens.map(|len| Slot::leased(0, len, 1, 7, (0, 10), Mask::first(len))).collect();
            let start = std::sync::Barrier::new(2);
            let (reports, ends): (Vec<_>, Vec<_>) = std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    start.wait();
                    slots.iter().map(|slot| (slot.mark_dead(10), slot.end(None, Cause::Expired))).collect()
                });
                start.wait();
                let reports = slots.iter().map(|slot| {
                    let taken = slot.report(Mask::first(slot.len()));
                    (taken, if taken.emptied { slot.finish() } else { None })
                });
                (reports.collect(), other.join().unwrap())
            });
            for ((slot, (taken, finished)), (dead, ended)) in slots.iter().zip(reports).zip(ends) {
                let all = Mask::first(slot.len());
                let done = finished.or(ended).expect("one of them ended it");
                assert!(finished.is_none() || ended.is_none(), "both ended it");
                assert_eq!((taken.accepted.with(done.left), taken.accepted.without(done.left)), (all, taken.accepted));
                assert_eq!((taken.stale, taken.done), (done.left, Mask::default()));
                assert_eq!((done.was_dead, done.owner), (dead, 7));
                assert_eq!(slot.snapshot().phase(), if done.left.is_empty() { Phase::Done } else { Phase::Released });
            }
        }
    }
}
