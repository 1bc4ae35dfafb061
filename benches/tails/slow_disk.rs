//! A disk whose syncs take a while when asked to: `fdatasync`, by which the journal is made durable, as this program has it.
#![expect(unsafe_code, reason = "a function of the C library is replaced by name")]

use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

static DELAY_MS: AtomicU64 = AtomicU64::new(0);
static DELAYED: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn fsync(file: c_int) -> c_int;
}

/// In the place of the C library's: waits, and then makes a little more durable than it must.
// SAFETY: the name, the arguments and the meaning are those of the function that it replaces.
#[unsafe(no_mangle)]
extern "C" fn fdatasync(file: c_int) -> c_int {
    let delay = DELAY_MS.load(Ordering::Relaxed);
    if delay > 0 {
        thread::sleep(Duration::from_millis(delay));
        DELAYED.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: it takes any number, and answers an error for one that is no open file's.
    unsafe { fsync(file) }
}

/// Every sync takes so much longer from now on; 0 ends it.
pub(crate) fn delay(milliseconds: u64) {
    DELAY_MS.store(milliseconds, Ordering::Relaxed);
}

/// Syncs that took longer.
pub(crate) fn delayed() -> u64 {
    DELAYED.load(Ordering::Relaxed)
}
