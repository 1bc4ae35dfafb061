//! The atomics of the crate's own tests: those of std, which count what is done to them while a test asks for it, and pause at it when they
//! are told to.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Deref;
use std::panic::Location;
use std::sync::atomic as real;

use super::{Ordering, pauses::pause};

/// What the crate's own words cost a call.
#[derive(Debug, Default, Clone)]
pub(crate) struct Cost {
    /// Where the atomic read-modify-writes stand, failed ones included: file and line, in their order.
    pub(crate) exchanges: Vec<&'static Location<'static>>,
    /// Cache lines of 64 bytes that hold words exchanged or stored to.
    written: BTreeSet<usize>,
    /// Cache lines that hold words that are looked at.
    read: BTreeSet<usize>,
}

impl Cost {
    pub(crate) fn lines_written(&self) -> usize {
        self.written.len()
    }

    /// Lines that are only read.
    pub(crate) fn lines_read(&self) -> usize {
        self.read.difference(&self.written).count()
    }
}

thread_local! {
    static COST: RefCell<Option<Cost>> = const { RefCell::new(None) };
}

/// Counts what the calling thread does.
pub(crate) fn count<R>(call: impl FnOnce() -> R) -> (R, Cost) {
    COST.set(Some(Cost::default()));
    let answer = call();
    (answer, COST.take().unwrap_or_default())
}

fn note(what: impl FnOnce(&mut Cost)) {
    // A thread that ends has nothing to count.
    let _ = COST.try_with(|cost| cost.borrow_mut().as_mut().map(what));
}

fn line<T>(word: &T) -> usize {
    std::ptr::from_ref(word).addr() / 64
}

macro_rules! counted {
    ($name:ident $(<$generic:ident>)?, $value:ty, [$($method:ident($($argument:ident: $type:ty),*)),*]) => {
        #[derive(Debug)]
        #[repr(transparent)]
        pub(crate) struct $name $(<$generic>)? (real::$name $(<$generic>)?);

        impl $(<$generic>)? $name $(<$generic>)? {
            pub(crate) const fn new(value: $value) -> Self {
                Self(real::$name::new(value))
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                pause();
                note(|cost| cost.read.extend([line(self)]));
                self.0.load(order)
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                pause();
                note(|cost| cost.written.extend([line(self)]));
                self.0.store(value, order);
            }

            pub(crate) fn into_inner(self) -> $value {
                self.0.into_inner()
            }

            #[track_caller]
            fn exchanged(&self) {
                pause();
                let place = Location::caller();
                note(|cost| {
                    cost.exchanges.push(place);
                    cost.written.insert(line(self));
                });
            }

            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                from: $value,
                to: $value,
                order: Ordering,
                failed: Ordering,
            ) -> Result<$value, $value> {
                self.exchanged();
                self.0.compare_exchange(from, to, order, failed)
            }

            #[track_caller]
            pub(crate) fn compare_exchange_weak(
                &self,
                from: $value,
                to: $value,
                order: Ordering,
                failed: Ordering,
            ) -> Result<$value, $value> {
                self.exchanged();
                self.0.compare_exchange_weak(from, to, order, failed)
            }

            #[track_caller]
            pub(crate) fn fetch_update(
                &self,
                order: Ordering,
                looks: Ordering,
                mut update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut now = self.load(looks);
                while let Some(next) = update(now) {
                    match self.compare_exchange_weak(now, next, order, looks) {
                        Ok(before) => return Ok(before),
                        Err(other) => now = other,
                    }
                }
                Err(now)
            }

            $(
                #[track_caller]
                pub(crate) fn $method(&self, $($argument: $type,)* order: Ordering) -> $value {
                    self.exchanged();
                    self.0.$method($($argument,)* order)
                }
            )*
        }

        impl $(<$generic>)? Default for $name $(<$generic>)? {
            fn default() -> Self {
                Self(Default::default())
            }
        }
    };
}

macro_rules! counted_number {
    ($name:ident, $value:ty) => {
        counted!($name, $value, [
            swap(value: $value), fetch_add(n: $value), fetch_sub(n: $value), fetch_or(bits: $value),
            fetch_and(bits: $value), fetch_xor(bits: $value), fetch_max(n: $value), fetch_min(n: $value)
        ]);
    };
}

counted!(AtomicBool, bool, [swap(value: bool), fetch_or(value: bool)]);
counted!(AtomicPtr<T>, *mut T, [swap(value: *mut T)]);
counted_number!(AtomicU8, u8);
counted_number!(AtomicU32, u32);
counted_number!(AtomicU64, u64);
counted_number!(AtomicI64, i64);

/// For those who sleep on the word.
impl Deref for AtomicU32 {
    type Target = real::AtomicU32;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
