//! The pool that ordinary claims are served from, and how a thread that was there before finds it again.

use std::cell::RefCell;
use std::sync::Weak;

use arc_swap::{ArcSwap, Guard};

use crate::pool::Pool;
use crate::sync::{Arc, AtomicU64, Ordering};

/// What ordinary claims are served from.
#[derive(Debug)]
pub(crate) struct Current {
    pool: ArcSwap<Pool>,
    /// The pool's stamp; may lag behind it for a moment.
    stamp: AtomicU64,
    /// The place that threads remember it at.
    place: usize,
}

/// Services that a thread remembers the pools of. More of them push each other out.
const PLACES: usize = 4;

/// A pool that a thread claimed from. Keeps nothing of it alive but the memory of its fixed part.
#[derive(Default)]
struct Seen {
    stamp: u64,
    pool: Weak<Pool>,
}

thread_local! {
    static SEEN: [RefCell<Seen>; PLACES] = Default::default();
}

impl Current {
    pub(crate) fn new(pool: Pool) -> Self {
        let (stamp, place) = (AtomicU64::new(pool.stamp), pool.service as usize % PLACES);
        Self { pool: ArcSwap::from_pointee(pool), stamp, place }
    }

    pub(crate) fn load(&self) -> Guard<Arc<Pool>> {
        self.pool.load()
    }

    /// The pool, or one that was current until just now: whoever finds that exhausted looks again. Lock-free, no allocation; to a
    /// thread that was there before one read-modify-write, on the pool's own count.
    pub(crate) fn get(&self) -> Arc<Pool> {
        // ordering: Acquire; pairs with the Release in `note`. It is a hint: a pool is what its own cursor says.
        let stamp = self.stamp.load(Ordering::Acquire);
        let seen = SEEN.try_with(|seen| {
            let mut seen = seen.get(self.place)?.try_borrow_mut().ok()?;
            if seen.stamp == stamp
                && let Some(pool) = seen.pool.upgrade()
            {
                return Some(pool);
            }
            let pool = self.pool.load_full();
            // Whoever replaced the pool may have stopped before it said so.
            self.note(&pool, stamp);
            *seen = Seen { stamp: pool.stamp, pool: Arc::downgrade(&pool) };
            Some(pool)
        });
        // A thread that is being taken down remembers nothing.
        seen.ok().flatten().unwrap_or_else(|| self.pool.load_full())
    }

    /// Replaces `before` by `next`, a younger pool. False if it was replaced already.
    pub(crate) fn replace(&self, before: &Arc<Pool>, next: &Arc<Pool>) -> bool {
        let was = self.pool.compare_and_swap(before, Arc::clone(next));
        let replaced = Arc::ptr_eq(&was, before);
        if replaced {
            self.note(next, before.stamp);
        }
        replaced
    }

    /// As [`replace`](Self::replace) by a thread that stops in the middle.
    #[cfg(test)]
    pub(crate) fn replace_and_stop(&self, next: &Arc<Pool>) {
        self.pool.store(Arc::clone(next));
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

    #[test]
    fn a_thread_that_was_there_finds_what_replaced_it() {
        let current = Current::new(empty(1));
        let first = current.get();
        assert!(Arc::ptr_eq(&first, &current.get()));
        let second = Arc::new(empty(1));
        assert!(current.replace(&first, &second));
        assert!(Arc::ptr_eq(&second, &current.get()));
        assert!(!current.replace(&first, &Arc::new(empty(1))), "it is not there any more");
        assert!(Arc::ptr_eq(&second, &current.get()));
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
        let third = Arc::new(empty(1));
        assert!(current.replace(&second, &third));
        current.note(&second, first.stamp);
        assert!(Arc::ptr_eq(&third, &current.get()));
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
