//! The locks of the crate's own tests: those of std, dashmap and event-listener, which tell a call that promises to take none.

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::ops::Deref;
use std::panic::Location;
use std::time::Duration;

/// A lock that was used, or a wait: where, and by whom.
type Use = (&'static Location<'static>, Backtrace);

thread_local! {
    /// What the call under way used; `None` while there is none that is watched.
    static USED: RefCell<Option<Vec<Use>>> = const { RefCell::new(None) };
}

/// Where a call used locks, or waited: each use, in their order.
pub(crate) fn used<R>(call: impl FnOnce() -> R) -> (R, Vec<Use>) {
    USED.set(Some(Vec::new()));
    let answer = call();
    (answer, USED.take().unwrap_or_default())
}

/// Makes a call that must not touch a lock, nor wait.
///
/// # Panics
///
/// If it did, after the call: a panic in its middle might be caught there.
#[track_caller]
pub(crate) fn without<R>(what: &str, call: impl FnOnce() -> R) -> R {
    let (answer, uses) = used(call);
    let mut told = String::new();
    for (place, who) in uses.iter().take(3) {
        let _ = writeln!(told, "{place}, reached by\n{who}");
    }
    assert!(uses.is_empty(), "{what} uses a lock, or waits: {told}");
    answer
}

#[track_caller]
fn note() {
    let place = Location::caller();
    // A thread that ends, or that notes this very thing, has nothing to note.
    let _ = USED.try_with(|used| {
        if let Ok(mut used) = used.try_borrow_mut()
            && let Some(uses) = used.as_mut()
        {
            uses.push((place, Backtrace::force_capture()));
        }
    });
}

/// Something that locks or waits inside. Whoever gets at it is noted.
#[derive(Debug, Default)]
pub(crate) struct Watched<T>(T);

impl<T> Deref for Watched<T> {
    type Target = T;

    #[track_caller]
    fn deref(&self) -> &T {
        note();
        &self.0
    }
}

pub(crate) type Mutex<T> = Watched<std::sync::Mutex<T>>;
pub(crate) type RwLock<T> = Watched<std::sync::RwLock<T>>;
pub(crate) type OnceLock<T> = Watched<std::sync::OnceLock<T>>;
pub(crate) type DashMap<K, V> = Watched<::dashmap::DashMap<K, V>>;
pub(crate) type Event = Watched<::event_listener::Event>;

impl<T> Watched<std::sync::Mutex<T>> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }
}

impl<T> Watched<std::sync::RwLock<T>> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::sync::RwLock::new(value))
    }
}

impl<T> Watched<std::sync::OnceLock<T>> {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A load: not noted. Setting it is, as one may wait for another there.
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.get()
    }
}

impl<K: Eq + std::hash::Hash, V> Watched<::dashmap::DashMap<K, V>> {
    pub(crate) fn new() -> Self {
        Self(::dashmap::DashMap::new())
    }
}

impl Watched<::event_listener::Event> {
    pub(crate) fn new() -> Self {
        Self::default()
    }
}

/// Channels: who receives from one may wait.
pub(crate) mod mpsc {
    use super::Watched;
    pub(crate) use std::sync::mpsc::Sender;

    pub(crate) type Receiver<T> = Watched<std::sync::mpsc::Receiver<T>>;

    pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = std::sync::mpsc::channel();
        (sender, Watched(receiver))
    }
}

#[track_caller]
pub(crate) fn park_timeout(timeout: Duration) {
    note();
    std::thread::park_timeout(timeout);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_use_is_noted_where_it_stands() {
        let (mutex, map) = (Mutex::new(1), RwLock::new(2));
        let (once, event, shards) = (OnceLock::new(), Event::new(), DashMap::new());
        let (sender, receiver) = mpsc::channel();
        let (sum, uses) = used(|| {
            let _ = once.set(3);
            event.notify(1);
            shards.insert(1, 1);
            let _ = sender.send(4);
            park_timeout(Duration::ZERO);
            *mutex.lock().unwrap() + *map.read().unwrap() + once.get().copied().unwrap() + receiver.recv().unwrap()
        });
        assert_eq!((sum, uses.len()), (10, 7), "looking at what is set is no use of a lock");
        assert!(uses.iter().all(|(place, _)| place.file().ends_with("locks_test.rs")));
        drop(mutex.lock().unwrap());
        without("a call after it", || once.get());
    }

    #[test]
    #[should_panic(expected = "a call uses a lock, or waits: ")]
    fn a_lock_in_a_panic_that_is_caught_is_noted() {
        let mutex = Mutex::new(());
        without("a call", || {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let _held = mutex.lock();
                panic!("in the plugin");
            }));
            assert!(caught.is_err());
        });
    }
}
