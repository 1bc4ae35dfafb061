//! What stands between an engine and those who ask it: its panics are caught, and after a failed write it is asked nothing more.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::StoreError;
use crate::sync::{AtomicBool, Ordering};

/// Whether an engine may still be asked.
#[derive(Debug, Default)]
pub(super) struct Shield {
    /// Set once a write failed or anything panicked: what the engine holds in memory is then unknown.
    failed: AtomicBool,
}

impl Shield {
    /// Calls into the engine, catching its panics; after one, nothing is asked of it again.
    pub(super) fn call<T>(&self, ask: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        // ordering: Relaxed; the flag carries no data, and a call that races with the failure meets the same engine the failing call did.
        if self.failed.load(Ordering::Relaxed) {
            return Err(StoreError::Closed);
        }
        let answer = caught(ask);
        if matches!(answer, Err(StoreError::Panicked { .. })) {
            self.fail();
        }
        answer
    }

    /// As `call`, for writes: any failure closes the store, because the engine may hold part of what was being written.
    pub(super) fn write<T>(&self, ask: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let answer = self.call(ask);
        if answer.is_err() {
            self.fail();
        }
        answer
    }

    /// Nothing is asked of the engine from here on.
    pub(super) fn fail(&self) {
        // ordering: Relaxed; as in `call`.
        self.failed.store(true, Ordering::Relaxed);
    }
}

/// Runs a call into an engine and turns its panic into an error.
pub(super) fn caught<T>(ask: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    // Unwind safe because a store that panicked is never asked again, and what the closures borrow is not written by them.
    match catch_unwind(AssertUnwindSafe(ask)) {
        Ok(answer) => answer,
        Err(payload) => Err(StoreError::Panicked { message: words(&*payload).to_owned() }),
    }
}

/// Closes an engine, which writes; its drop may panic, and a panic there could meet another.
pub(super) fn close(dir: &Path, drop: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(drop)) {
        tracing::error!(dir = %dir.display(), message = words(&*payload), "the storage engine panicked while closing");
    }
}

/// What a panic said.
fn words(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(words), _) => words,
        (_, Some(words)) => words,
        (None, None) => "(not in words)",
    }
}
