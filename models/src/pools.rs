//! Models of the pools of one service: the cursor, the swap of an exhausted pool for the next, and the express pools with
//! what claimers pass by.
//!
//! The swap stands in `registry.rs`, the express pools in `express.rs`, both on arc-swap, which the checkers cannot see
//! into. Here the same steps, in the same order, run on a table of pools and the numbers of some of them; cursor and slots
//! are the real ones.

use crate::check::{Model, seen, seen_if_named, seen_when};
use crate::cursor::Cursor;
use crate::slot::{Phase, Slot};
use crate::sync::{Arc, AtomicBool, AtomicU32, AtomicU64, Ordering, thread};

pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "pool_cursor",
        body: cursor,
        states: &["went short", "found it passed", "came second"],
        bound: None,
        finite: true,
        one_order: false,
    },
    Model {
        name: "pool_stripes",
        body: stripes,
        states: &["began apart", "went over", "found all passed"],
        bound: None,
        finite: true,
        one_order: false,
    },
    Model {
        name: "pool_swap",
        body: swap,
        states: &[SWAP_LOST, NOTHING_FOLLOWED, ANOTHER_SWAPPED, "steward published", "a claim got none"],
        bound: Some(4),
        finite: false,
        one_order: true,
    },
    Model {
        name: "pool_publish",
        body: publish,
        states: &[SWAP_LOST, NOTHING_FOLLOWED, "claim got it", "claim came too early"],
        bound: None,
        finite: true,
        one_order: true,
    },
    Model {
        name: "pool_express",
        body: express,
        states: &[CLOSED, OPENED_AGAIN, PASSED_BY, "taken aside", "left for its giver", "came too late to be seen"],
        bound: Some(3),
        finite: false,
        one_order: true,
    },
];

const CLOSED: &str = "closed";
const OPENED_AGAIN: &str = "opened again";
const PASSED_BY: &str = "passed by";
const SWAP_LOST: &str = "swap lost";
const NOTHING_FOLLOWED: &str = "nothing followed";
const ANOTHER_SWAPPED: &str = "another had swapped";

/// No pool: `ArcSwapOption`'s null.
const NONE: u32 = u32::MAX;

/// `Pool`, as far as claims see it.
struct Pool {
    cursor: Cursor,
    slots: Vec<Slot>,
}

impl Pool {
    fn new(slots: usize) -> Self {
        Self { cursor: Cursor::new(slots), slots: (0..slots).map(|_| Slot::new(0, 1, 0)).collect() }
    }

    /// As `Pool::claim`.
    fn claim(&self, n: usize, owner: u32, mut took: impl FnMut(usize)) -> usize {
        let mut got = 0;
        while got < n {
            let range = self.cursor.take(owner as usize, n - got);
            if range.is_empty() {
                break;
            }
            for index in range {
                if self.slots[index].claim(owner, 0, 0) {
                    got += 1;
                    took(index);
                }
            }
        }
        got
    }

    /// As `Pool::is_exhausted`.
    fn is_exhausted(&self) -> bool {
        self.cursor.is_at_end()
    }
}

/// `ServiceCore`, as far as ordinary claims see it. Pools are named by their place in the table.
struct Service {
    pools: Vec<Pool>,
    current: AtomicU32,
    next: AtomicU32,
}

/// A bucket: its pool and its place in it.
type Bucket = (u32, usize);

impl Service {
    /// Pools of these many slots; claims are served from the first, and `next` follows it.
    fn new(slots: &[usize], next: u32) -> Arc<Self> {
        Arc::new(Self {
            pools: slots.iter().map(|slots| Pool::new(*slots)).collect(),
            current: AtomicU32::new(0),
            next: AtomicU32::new(next),
        })
    }

    fn pool(&self, number: u32) -> &Pool {
        &self.pools[number as usize]
    }

    fn current(&self) -> u32 {
        self.current.load(Ordering::SeqCst)
    }

    /// As `ServiceCore::take_ordinary` (whose first pool is one that its caller loaded); `current` never goes back under a claimer's eyes.
    fn take_ordinary(&self, n: usize, owner: u32) -> Vec<Bucket> {
        let mut took = Vec::new();
        let mut before = 0;
        for _ in 0..4 {
            let pool = self.current();
            assert!(pool >= before, "an old pool came back");
            before = pool;
            let wanted = n - took.len();
            self.pool(pool).claim(wanted, owner, |index| took.push((pool, index)));
            if took.len() == n || !self.advance(pool) {
                break;
            }
        }
        took
    }

    /// As `ServiceCore::advance`.
    fn advance(&self, pool: u32) -> bool {
        let next = self.next.load(Ordering::SeqCst);
        if next == NONE || next == pool {
            let moved = self.current() != pool;
            seen_if_named(if moved { ANOTHER_SWAPPED } else { NOTHING_FOLLOWED });
            return moved;
        }
        if self.swap_current(pool, next) || bug!("bug_swap_drops_next") {
            let _ = self.next.compare_exchange(next, NONE, Ordering::SeqCst, Ordering::SeqCst);
        }
        true
    }

    fn swap_current(&self, pool: u32, next: u32) -> bool {
        if bug!("bug_swap_blind") {
            self.current.swap(next, Ordering::SeqCst);
            return true;
        }
        let swapped = self.current.compare_exchange(pool, next, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if !swapped {
            seen_if_named(SWAP_LOST);
        }
        swapped
    }

    /// As `ServiceCore::wants_next`.
    fn wants_next(&self) -> bool {
        let current = self.current();
        let next = self.next.load(Ordering::SeqCst);
        next == NONE || next == current
    }

    /// As `ServiceCore::publish_next`.
    fn publish_next(&self, pool: u32) {
        // arc-swap stores by a swap.
        self.next.swap(pool, Ordering::SeqCst);
        let current = self.current();
        if self.pool(current).is_exhausted() {
            self.advance(current);
        }
    }

    /// Publishes the pools from `from` on as they are wanted, and claims until there is nothing more.
    fn drain(&self, from: u32, took: &mut Vec<Bucket>) {
        let mut pools = from..u32::try_from(self.pools.len()).unwrap_or(NONE);
        loop {
            let published = self.wants_next() && pools.next().map(|pool| self.publish_next(pool)).is_some();
            let got = self.take_ordinary(1, 9);
            if got.is_empty() && !published {
                return;
            }
            took.extend(got);
        }
    }
}

/// Every bucket of every pool was leased, once.
fn check_all_leased(service: &Service, mut took: Vec<Bucket>) {
    took.sort_unstable();
    let all = service.pools.iter().zip(0_u32..);
    let all: Vec<Bucket> =
        all.flat_map(|(pool, number)| (0..pool.slots.len()).map(move |index| (number, index))).collect();
    assert_eq!(took, all, "a bucket was leased twice, or its pool was lost");
}

fn claimer(service: &Arc<Service>, n: usize, owner: u32) -> thread::JoinHandle<Vec<Bucket>> {
    let service = Arc::clone(service);
    thread::spawn(move || service.take_ordinary(n, owner))
}

/// Claims on one cursor get each place once, and none beyond the end.
fn cursor() {
    const LEN: usize = 4;
    let cursor = Arc::new(Cursor::new(LEN));
    let other = Arc::clone(&cursor);
    let other = thread::spawn(move || [other.take(0, 2), other.take(0, 2)]);
    let mine = [cursor.take(0, 1), cursor.take(0, 2)];
    let others = other.join().expect("a thread of the model panicked");
    let mut places: Vec<usize> = mine.iter().chain(&others).cloned().flatten().collect();
    seen_when(mine[1].len() == 1 || others[1].len() == 1, "went short");
    seen_when(mine[1].is_empty() || others[1].is_empty(), "found it passed");
    seen_when(mine[0].start == 2, "came second");
    places.sort_unstable();
    assert_eq!(places, [0, 1, 2, 3], "each place is handed out once");
    assert!(cursor.is_at_end());
}

/// Claims of two homes, each of which goes over to the other's stripe when its own is at its end.
fn stripes() {
    let cursor = Arc::new(Cursor::striped(4, 2, 2));
    let other = Arc::clone(&cursor);
    let claims = |cursor: &Cursor, home| [cursor.take(home, 1), cursor.take(home, 2), cursor.take(home, 1)];
    let other = thread::spawn(move || claims(&other, 1));
    let mine = claims(&cursor, 0);
    let others = other.join().expect("a thread of the model panicked");
    seen_when(mine[0].start == 0 && others[0].start == 2, "began apart");
    seen_when(mine.iter().any(|range| range.start >= 2), "went over");
    seen_when(mine[1].is_empty() || mine[2].is_empty(), "found all passed");
    let mut places: Vec<usize> = mine.into_iter().chain(others).flatten().collect();
    places.sort_unstable();
    assert_eq!(places, [0, 1, 2, 3], "each place is handed out once, and none is left");
    assert!(cursor.is_at_end());
}

/// Two claimers at the end of a pool and the steward who forms the next but one.
fn swap() {
    let service = Service::new(&[1, 1, 2], 1);
    let claims = [claimer(&service, 2, 1), claimer(&service, 1, 2)];
    let published = service.wants_next();
    if published {
        seen("steward published");
        service.publish_next(2);
    }
    let claims = claims.map(|claim| claim.join().expect("a thread of the model panicked"));
    seen_when(claims.iter().any(Vec::is_empty), "a claim got none");
    let mut took = claims.concat();
    service.drain(if published { 3 } else { 2 }, &mut took);
    check_all_leased(&service, took);
}

/// The steward publishes the first pool of a service while somebody claims.
fn publish() {
    let service = Service::new(&[0, 1], NONE);
    let claim = claimer(&service, 1, 1);
    service.publish_next(1);
    let mut took = claim.join().expect("a thread of the model panicked");
    seen(if took.is_empty() { "claim came too early" } else { "claim got it" });
    service.drain(2, &mut took);
    check_all_leased(&service, took);
}

/// `Pool`, as far as claims of an express pool see it: the slots that one seat gave back are passed by.
struct Front {
    pool: Pool,
    /// Slots that seat 1 may not have.
    barred: Vec<usize>,
    /// `Cooldowns::aside`.
    aside: AtomicU64,
}

impl Front {
    fn new(slots: usize, barred: &[usize]) -> Self {
        Self { pool: Pool::new(slots), barred: barred.to_vec(), aside: AtomicU64::new(0) }
    }

    fn is_barred(&self, index: usize, owner: u32) -> bool {
        owner == GIVER && self.barred.contains(&index)
    }

    /// As `Pool::claim`.
    fn claim(&self, n: usize, owner: u32, mut took: impl FnMut(usize)) -> usize {
        let mut got = 0;
        while got < n {
            let range = self.pool.cursor.take(owner as usize, n - got);
            if range.is_empty() {
                got += self.claim_aside(n - got, owner, &mut took);
                break;
            }
            for index in range {
                if self.is_barred(index, owner) {
                    seen_if_named(PASSED_BY);
                    self.aside.fetch_or(1 << index, Ordering::SeqCst);
                } else if self.pool.slots[index].claim(owner, 0, 0) {
                    got += 1;
                    took(index);
                }
            }
        }
        got
    }

    /// As `Pool::claim_aside`; the order does not matter here.
    fn claim_aside(&self, n: usize, owner: u32, took: &mut impl FnMut(usize)) -> usize {
        let free = self.aside().into_iter().filter(|index| !self.is_barred(*index, owner));
        let got: Vec<usize> = free.filter(|index| self.pool.slots[*index].claim_aside(owner, 0, 0)).take(n).collect();
        if !got.is_empty() {
            seen_if_named("taken aside");
        }
        for index in &got {
            took(*index);
        }
        got.len()
    }

    /// As `Pool::aside`.
    fn aside(&self) -> Vec<usize> {
        let bits = self.aside.load(Ordering::SeqCst);
        let ready = |index: &usize| self.pool.slots[*index].snapshot().phase() == Phase::Ready;
        (0..self.pool.slots.len()).filter(|index| bits & (1 << index) != 0).filter(ready).collect()
    }

    /// As `Pool::is_spent`.
    fn is_spent(&self) -> bool {
        self.pool.is_exhausted() && self.aside().is_empty()
    }
}

/// The seat that gave some of them back.
const GIVER: u32 = 1;

/// `Express`. Pools are named by their place in the table.
struct Express {
    pools: Vec<Front>,
    place: AtomicU32,
    open: AtomicBool,
}

impl Express {
    /// As `Express::take`.
    fn take(&self, n: usize, owner: u32) -> Vec<Bucket> {
        let mut took = Vec::new();
        if !self.open.load(Ordering::SeqCst) {
            return took;
        }
        let place = self.place.load(Ordering::SeqCst);
        let front = &self.pools[place as usize];
        front.claim(n, owner, |index| took.push((place, index)));
        if front.is_spent() {
            self.close(place);
        } else if front.pool.is_exhausted() {
            self.open.store(true, Ordering::SeqCst);
        }
        took
    }

    /// As `Express::close`.
    fn close(&self, spent: u32) {
        self.open.store(false, Ordering::SeqCst);
        if bug!("bug_close_blind") {
            return;
        }
        let place = self.place.load(Ordering::SeqCst);
        if place != spent || !self.pools[place as usize].is_spent() {
            self.open.store(true, Ordering::SeqCst);
            seen_if_named(OPENED_AGAIN);
        } else {
            seen_if_named(CLOSED);
        }
    }

    /// As `Express::wants` and `Express::aside`: true if the steward may publish another pool in its place.
    fn wants(&self) -> bool {
        let front = &self.pools[self.place.load(Ordering::SeqCst) as usize];
        if !front.is_spent() {
            self.open.store(true, Ordering::SeqCst);
        }
        front.pool.is_exhausted() && front.aside().is_empty()
    }

    /// As `Express::publish`.
    fn publish(&self, pool: u32) {
        // arc-swap stores by a swap.
        self.place.swap(pool, Ordering::SeqCst);
        self.open.store(true, Ordering::SeqCst);
    }
}

/// Who gave a bucket back, another claimer, and the steward: whatever can be had is offered, and goes to one only.
fn express() {
    let pools = vec![Front::new(2, &[0]), Front::new(1, &[])];
    let express = Arc::new(Express { pools, place: AtomicU32::new(0), open: AtomicBool::new(true) });
    let claims = [GIVER, 2].map(|owner| {
        let express = Arc::clone(&express);
        thread::spawn(move || express.take(1, owner))
    });
    let published = express.wants();
    if published {
        express.publish(1);
    }
    let claims = claims.map(|claim| claim.join().expect("a thread of the model panicked"));
    assert!(!claims[0].contains(&(0, 0)), "what a client gave back came back to it");
    let last = &express.pools[usize::from(published)];
    seen_when(!last.aside().is_empty(), "left for its giver");
    assert!(last.is_spent() || express.open.load(Ordering::SeqCst), "closed, with a bucket in it");
    let mut took = claims.concat();
    loop {
        let more = express.take(1, 9);
        if more.is_empty() {
            break;
        }
        took.extend(more);
    }
    assert!(last.is_spent(), "a bucket was not offered");
    let (before, all) = (took.len(), if published { 3 } else { 2 });
    took.sort_unstable();
    took.dedup();
    assert_eq!(took.len(), before, "a bucket was leased twice");
    // A claimer that passes a bucket by after its pool was replaced: the steward takes that back when it is abandoned.
    let stranded = published && !express.pools[0].aside().is_empty();
    seen_when(stranded, "came too late to be seen");
    assert_eq!(took.len() + usize::from(stranded), all, "a bucket was lost");
}
