//! Which threads are inside a handler: what would wait for lanes asks before it does.

use std::cell::Cell;

use crate::error::{HandlerError, ReadError};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, this thread handles lanes: whatever of the application runs on it must not wait for them.
pub(super) struct Inside {
    before: bool,
}

impl Inside {
    pub(super) fn enter() -> Self {
        Self { before: INSIDE.replace(true) }
    }

    /// Refuses what would wait for lanes.
    pub(super) fn refuse() -> Result<(), HandlerError> {
        if is_inside() { Err(HandlerError::InsideHandler) } else { Ok(()) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.before);
    }
}

/// True if the calling thread handles lanes.
pub(crate) fn is_inside() -> bool {
    INSIDE.get()
}

/// Refuses to wait for events, which other lanes may have to bring about.
pub(crate) fn refuse_waiting() -> Result<(), ReadError> {
    if is_inside() { Err(ReadError::InsideHandler) } else { Ok(()) }
}
