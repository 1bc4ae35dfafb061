//! A disk whose syncs take a while when asked to: `fdatasync`, by which the journal is made durable, as this program has it.
#![expect(unsafe_code, reason = "a function of the C library is replaced by name")]
#![allow(clippy::allow_attributes, dead_code, reason = "each bench uses what it needs")]

#[path = "../../tests/support/real_call.rs"]
mod real_call;

use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use real_call::{Call, real};

static DELAY_MS: AtomicU64 = AtomicU64::new(0);
static DELAYED: AtomicU64 = AtomicU64::new(0);

/// In the place of the C library's: waits, and then does the same.
// SAFETY: the name, the arguments and the meaning are those of the function that it replaces.
#[unsafe(no_mangle)]
extern "C" fn fdatasync(file: c_int) -> c_int {
    static REAL: OnceLock<Call> = OnceLock::new();
    let delay = DELAY_MS.load(Ordering::Relaxed);
    if delay > 0 {
        thread::sleep(Duration::from_millis(delay));
        DELAYED.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: it takes any number, and answers an error for one that is no open file's.
    unsafe { REAL.get_or_init(|| real(c"fdatasync"))(file) }
}

/// Every sync takes so much longer from now on; 0 ends it.
pub(crate) fn delay(milliseconds: u64) {
    DELAY_MS.store(milliseconds, Ordering::Relaxed);
}

/// Syncs that took longer.
pub(crate) fn delayed() -> u64 {
    DELAYED.load(Ordering::Relaxed)
}
