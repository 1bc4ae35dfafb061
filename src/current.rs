//! The pool that ordinary claims are served from, and how a thread that was there before finds it again.

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::Weak;

use arc_swap::{ArcSwap, Guard};

use crate::audit::stripes;
use crate::pool::Pool;
use crate::sync::{Arc, AtomicU64, Ordering};

/// One of a pool's counts of owners: claims of different threads count on different cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Share {
    pool: Arc<Pool>,
}

/// Counts of owners a pool.
const SHARES: usize = 8;

/// A pool that is, or will be, the current one.
#[derive(Debug)]
pub(crate) struct Front {
    pool: Arc<Pool>,
    shares: [Arc<Share>; SHARES],
}

impl Front {
    pub(crate) fn new(pool: Arc<Pool>) -> Self {
        let share = || Arc::new(Share { pool: Arc::clone(&pool) });
        Self { shares: std::array::from_fn(|_| share()), pool }
    }

    /// The share of this thread.
    fn share(&self) -> &Arc<Share> {
        let [first, ..] = &self.shares;
        self.shares.get(stripes::own() % SHARES).unwrap_or(first)
    }

    pub(crate) fn is(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }

    /// True if somebody holds the pool by a share.
    pub(crate) fn is_shared(&self) -> bool {
        self.shares.iter().any(|share| Arc::strong_count(share) > 1)
    }
}

impl Deref for Front {
    type Target = Arc<Pool>;

    fn deref(&self) -> &Arc<Pool> {
        &self.pool
    }
}

/// Keeps a pool alive.
#[derive(Debug, Clone)]
pub(crate) enum Held {
    /// One that is, or was, a current one.
    Share(Arc<Share>),
    Pool(Arc<Pool>),
}

impl Held {
    /// As this one, if it is of `pool`.
    pub(crate) fn again(&self, pool: &Arc<Pool>) -> Self {
        if Arc::ptr_eq(self, pool) { self.clone() } else { Self::Pool(Arc::clone(pool)) }
    }
}

impl Deref for Held {
    type Target = Arc<Pool>;

    fn deref(&self) -> &Arc<Pool> {
        match self {
            Self::Share(share) => &share.pool,
            Self::Pool(pool) => pool,
        }
    }
}

/// What ordinary claims are served from.
#[derive(Debug)]
pub(crate) struct Current {
    front: ArcSwap<Front>,
    /// The pool's stamp; may lag behind it for a moment.
    stamp: AtomicU64,
    /// The place that threads remember it at.
    place: usize,
}

/// Services that a thread remembers the pools of. More of them push each other out.
const PLACES: usize = 4;

/// A pool that a thread claimed from. Keeps nothing of it alive.
#[derive(Default)]
struct Seen {
    stamp: u64,
    share: Weak<Share>,
}

thread_local! {
    static SEEN: [RefCell<Seen>; PLACES] = Default::default();
}

impl Current {
    pub(crate) fn new(pool: Pool) -> Self {
        let (stamp, place) = (AtomicU64::new(pool.stamp), pool.service as usize % PLACES);
        Self { front: ArcSwap::from_pointee(Front::new(Arc::new(pool))), stamp, place }
    }

    pub(crate) fn load(&self) -> Guard<Arc<Front>> {
        self.front.load()
    }

    /// The pool, or one that was current until just now: whoever finds that exhausted looks again. Lock-free, no allocation; to a
    /// thread that was there before one read-modify-write, on a count that few other threads write.
    pub(crate) fn get(&self) -> Held {
        // ordering: Acquire; pairs with the Release in `note`. It is a hint: a pool is what its own cursor says.
        let stamp = self.stamp.load(Ordering::Acquire);
        let seen = SEEN.try_with(|seen| {
            let mut seen = seen.get(self.place)?.try_borrow_mut().ok()?;
            if seen.stamp == stamp
                && let Some(share) = seen.share.upgrade()
            {
                return Some(share);
            }
            let front = self.front.load();
            let share = Arc::clone(front.share());
            // Whoever replaced the pool may have stopped before it said so.
            self.note(&front, stamp);
            *seen = Seen { stamp: front.stamp, share: Arc::downgrade(&share) };
            Some(share)
        });
        // A thread that is being taken down remembers nothing.
        Held::Share(seen.ok().flatten().unwrap_or_else(|| Arc::clone(self.front.load().share())))
    }

    /// Replaces `before` by `next`, a younger pool. False if it was replaced already.
    pub(crate) fn replace(&self, before: &Arc<Pool>, next: &Arc<Front>) -> bool {
        let front = self.front.load();
        let replaced = front.is(before) && {
            let was = self.front.compare_and_swap(&*front, Arc::clone(next));
            Arc::ptr_eq(&was, &front)
        };
        if replaced {
            self.note(next, before.stamp);
        }
        replaced
    }

    /// As [`replace`](Self::replace) by a thread that stops in the middle.
    #[cfg(test)]
    pub(crate) fn replace_and_stop(&self, next: &Arc<Pool>) {
        self.front.store(Arc::new(Front::new(Arc::clone(next))));
    }

    fn note(&self, pool: &Pool, known: u64) {
        if known < pool.stamp {
            // ordering: Release; see `get`. The greatest: of two that replaced pools the slower one takes nothing back.
            self.stamp.fetch_max(pool.stamp, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Birth, Terms};
    use crate::service::Policy;

    fn empty(service: u32) -> Pool {
        Pool::empty(Birth { service, generation: 0, born: 0, terms: Terms::of(&Policy::default()) })
    }

    fn front() -> Front {
        Front::new(Arc::new(empty(1)))
    }

    #[test]
    fn a_thread_that_was_there_finds_what_replaced_it() {
        let current = Current::new(empty(1));
        let first = current.get();
        assert!(Arc::ptr_eq(&first, &current.get()));
        let second = Arc::new(front());
        assert!(current.replace(&first, &second));
        assert!(second.is(&current.get()));
        assert!(!current.replace(&first, &Arc::new(front())), "it is not there any more");
        assert!(second.is(&current.get()));
    }

    #[test]
    fn who_replaced_it_and_stopped_hides_nothing() {
        let current = Current::new(empty(1));
        let (first, second) = (current.get(), Arc::new(empty(1)));
        // It stops before it says so: others find the old one, until one that is new there looks.
        current.replace_and_stop(&second);
        assert!(Arc::ptr_eq(&first, &current.get()));
        std::thread::scope(|scope| assert!(Arc::ptr_eq(&second, &scope.spawn(|| current.get()).join().unwrap())));
        assert!(Arc::ptr_eq(&second, &current.get()));
        // It goes on, after a third one came.
        let third = Arc::new(front());
        assert!(current.replace(&second, &third));
        current.note(&second, first.stamp);
        assert!(third.is(&current.get()));
    }

    #[test]
    fn services_that_share_a_place_are_told_apart() {
        let all = [1, 1, 1 + u32::try_from(PLACES).unwrap()].map(|service| Current::new(empty(service)));
        for current in all.iter().chain(&all) {
            assert!(Arc::ptr_eq(&current.get(), &current.load()));
            assert!(Arc::ptr_eq(&current.get(), &current.load()));
        }
    }

    #[test]
    fn what_a_thread_remembers_keeps_no_pool_alive() {
        let current = Current::new(empty(1));
        let pool = Arc::downgrade(&current.get());
        drop(current);
        assert!(pool.upgrade().is_none());
    }
}
