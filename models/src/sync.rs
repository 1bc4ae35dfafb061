//! The `sync` module that the core's files see here: the atomics of loom, shuttle or std behind one thin layer.
//!
//! The layer counts exchanges that failed, gives `SeqCst` its full meaning where a model needs it, and holds those seeded
//! bugs that are a wrong instruction.
//!
//! loom treats a `SeqCst` access as `AcqRel`. That is weaker than the truth: a model that holds so, holds. The models of
//! the signal need the single order of its `SeqCst` operations; for them ([`set_one_order`]) a `SeqCst` fence stands on
//! both sides of each `SeqCst` access.

use std::sync::atomic::AtomicBool as StdBool;
pub(crate) use std::sync::atomic::Ordering;

#[cfg(loom)]
use loom::sync::atomic as real;
#[cfg(shuttle)]
use shuttle::sync::atomic as real;
#[cfg(not(any(loom, shuttle)))]
use std::sync::atomic as real;

#[cfg(loom)]
pub(crate) use loom::{
    sync::{Arc, Condvar, Mutex},
    thread,
};
#[cfg(shuttle)]
pub(crate) use shuttle::{
    sync::{Arc, Condvar, Mutex},
    thread,
};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::{
    sync::{Arc, Condvar, Mutex},
    thread,
};

/// Set before the threads of a model start, or never.
pub(crate) use std::sync::OnceLock;
pub(crate) use thread::{Thread, current as current_thread};

use crate::check;

/// Apart in memory, which the checkers do not see.
#[derive(Debug, Default)]
pub(crate) struct Padded<T>(pub(crate) T);

impl<T> std::ops::Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Parks without a timeout: a wake-up that is lost is a deadlock, which the checkers report.
pub(crate) fn park_timeout(_: std::time::Duration) {
    check::seen_if_named(check::PARKED);
    thread::park();
}

/// A pointer that is replaced whole: what arc-swap is in the crate, as steps of the checker.
#[derive(Debug)]
pub(crate) struct Place<T>(Mutex<Arc<T>>);

impl<T> Place<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(Arc::new(value)))
    }

    fn load(&self) -> Arc<T> {
        Arc::clone(&self.0.lock().expect(PANICKED))
    }

    pub(crate) fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.load())
    }

    pub(crate) fn update(&self, mut make: impl FnMut(&T) -> T) {
        loop {
            let before = self.load();
            let after = Arc::new(make(&before));
            let mut place = self.0.lock().expect(PANICKED);
            if Arc::ptr_eq(&place, &before) || bug!("bug_place_blind") {
                *place = after;
                return;
            }
            check::seen_if_named(check::EXCHANGE_FAILED);
        }
    }
}

const PANICKED: &str = "a thread of the model panicked";

/// What event-listener is in the crate: whoever listens before a notification is woken by it. A listener waits without a
/// deadline: a wake-up that is lost is a deadlock, which the checkers report.
pub(crate) mod event_listener {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Instant;

    use super::{Arc, Condvar, Mutex, PANICKED, check};

    #[derive(Debug, Default)]
    struct Ear {
        is_told: Mutex<bool>,
        bell: Condvar,
    }

    type Ears = Arc<Mutex<Vec<Arc<Ear>>>>;

    #[derive(Debug, Default)]
    pub(crate) struct Event(Ears);

    #[derive(Debug)]
    pub(crate) struct EventListener {
        ears: Ears,
        ear: Arc<Ear>,
    }

    pub(crate) trait Listener: Sized {
        fn wait(self);

        fn wait_deadline(self, _: Instant) -> Option<()> {
            self.wait();
            Some(())
        }
    }

    impl Event {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn listen(&self) -> EventListener {
            let listener = EventListener { ears: Arc::clone(&self.0), ear: Arc::default() };
            if !bug!("bug_listen_late") {
                listener.begin();
            }
            listener
        }

        pub(crate) fn notify(&self, _: usize) {
            let ears = std::mem::take(&mut *self.0.lock().expect(PANICKED));
            for ear in ears {
                *ear.is_told.lock().expect(PANICKED) = true;
                ear.bell.notify_one();
            }
        }
    }

    impl EventListener {
        fn begin(&self) {
            self.ears.lock().expect(PANICKED).push(Arc::clone(&self.ear));
        }

        fn hear(&self) {
            if bug!("bug_listen_late") {
                self.begin();
            }
            let mut is_told = self.ear.is_told.lock().expect(PANICKED);
            while !*is_told {
                check::seen_if_named(check::PARKED);
                is_told = self.ear.bell.wait(is_told).expect(PANICKED);
            }
        }
    }

    impl Listener for EventListener {
        fn wait(self) {
            self.hear();
        }
    }

    impl Future for EventListener {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            self.hear();
            Poll::Ready(())
        }
    }
}

static ONE_ORDER: StdBool = StdBool::new(false);

/// Gives `SeqCst` its full meaning under loom, from here on in this process.
pub(crate) fn set_one_order() {
    ONE_ORDER.store(true, Ordering::Relaxed);
}

/// Called before and after each access.
fn fence(order: Ordering) {
    let wanted = order == Ordering::SeqCst && ONE_ORDER.load(Ordering::Relaxed);
    if cfg!(loom) && wanted && !bug!("bug_signal_acqrel") {
        real::fence(Ordering::SeqCst);
    }
}

fn fenced<T>(order: Ordering, access: impl FnOnce() -> T) -> T {
    fence(order);
    let value = access();
    fence(order);
    value
}

/// The ordering of a successful exchange.
fn publishing(order: Ordering) -> Ordering {
    if bug!("bug_relaxed_publication") { Ordering::Relaxed } else { order }
}

fn counted<T>(result: Result<T, T>) -> Result<T, T> {
    if result.is_err() {
        check::seen_if_named(check::EXCHANGE_FAILED);
    }
    result
}

macro_rules! atomic {
    ($name:ident $(<$generic:ident>)?, $value:ty, $exchange_bug:literal) => {
        #[derive(Debug)]
        pub(crate) struct $name $(<$generic>)? (real::$name $(<$generic>)?);

        impl $(<$generic>)? $name $(<$generic>)? {
            pub(crate) fn new(value: $value) -> Self {
                Self(real::$name::new(value))
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                fenced(order, || self.0.load(order))
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                fenced(order, || self.0.store(value, order));
            }

            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                if bug!("bug_take_load_store") {
                    let before = self.0.load(Ordering::Acquire);
                    self.0.store(value, Ordering::Release);
                    return before;
                }
                fenced(order, || self.0.swap(value, order))
            }

            pub(crate) fn compare_exchange(
                &self,
                from: $value,
                to: $value,
                order: Ordering,
                failed: Ordering,
            ) -> Result<$value, $value> {
                if bug!($exchange_bug) {
                    let now = self.0.load(Ordering::Acquire);
                    if now == from {
                        self.0.store(to, Ordering::Release);
                    }
                    return if now == from { Ok(now) } else { Err(now) };
                }
                counted(fenced(order, || self.0.compare_exchange(from, to, publishing(order), failed)))
            }

            pub(crate) fn compare_exchange_weak(
                &self,
                from: $value,
                to: $value,
                order: Ordering,
                failed: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(from, to, order, failed)
            }
        }
    };
}

atomic!(AtomicBool, bool, "bug_check_then_act");
atomic!(AtomicU8, u8, "bug_check_then_act");
atomic!(AtomicU32, u32, "bug_check_then_act");
atomic!(AtomicU64, u64, "bug_check_then_act");
atomic!(AtomicPtr<T>, *mut T, "bug_push_load_store");

impl AtomicU64 {
    /// Adds `n` modulo 2^64.
    fn count(&self, n: u64, order: Ordering) -> u64 {
        if bug!("bug_count_load_store") {
            let before = self.0.load(Ordering::Acquire);
            self.0.store(before.wrapping_add(n), Ordering::Release);
            return before;
        }
        fenced(order, || self.0.fetch_add(n, order))
    }

    pub(crate) fn fetch_add(&self, n: u64, order: Ordering) -> u64 {
        self.count(n, order)
    }

    pub(crate) fn fetch_sub(&self, n: u64, order: Ordering) -> u64 {
        self.count(n.wrapping_neg(), order)
    }

    pub(crate) fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        if bits == 0 && bug!("bug_finish_plain_load") {
            return self.0.load(Ordering::Acquire);
        }
        let bits = if bug!("bug_close_without_bit") { 0 } else { bits };
        fenced(order, || self.0.fetch_or(bits, order))
    }
}

impl AtomicU32 {
    pub(crate) fn fetch_sub(&self, n: u32, order: Ordering) -> u32 {
        fenced(order, || self.0.fetch_sub(n, order))
    }

    pub(crate) fn fetch_update(
        &self,
        order: Ordering,
        failed: Ordering,
        mut change: impl FnMut(u32) -> Option<u32>,
    ) -> Result<u32, u32> {
        let mut now = self.load(failed);
        while let Some(next) = change(now) {
            match self.compare_exchange_weak(now, next, order, failed) {
                Ok(before) => return Ok(before),
                Err(other) => now = other,
            }
        }
        Err(now)
    }

    pub(crate) fn fetch_max(&self, n: u32, order: Ordering) -> u32 {
        fenced(order, || self.0.fetch_max(n, order))
    }
}

impl Default for AtomicU64 {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Default for AtomicU32 {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Default for AtomicBool {
    fn default() -> Self {
        Self::new(false)
    }
}
