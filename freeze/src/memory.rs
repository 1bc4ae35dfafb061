//! The allocator, which says when the thread that is held is inside it; and which of two it is: the system's with
//! `FREEZE_ALLOCATOR=system`, otherwise mimalloc.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering};

use mimalloc::MiMalloc;

/// Hands every call on, and marks it.
struct Marking;

#[global_allocator]
static ALLOCATOR: Marking = Marking;

/// 0 until it is decided, then 1: mimalloc, 2: the system's.
static CHOSEN: AtomicU8 = AtomicU8::new(0);
/// Where it is marked that the thread which is held is inside.
static MARK: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());

thread_local! {
    static MARKED: Cell<bool> = const { Cell::new(false) };
}

/// Marks the calling thread's calls in `word` from now on.
pub fn mark_own(word: &'static AtomicU32) {
    MARK.store(std::ptr::from_ref(word).cast_mut(), Ordering::SeqCst);
    MARKED.set(true);
}

/// True if memory comes from the system's allocator. Decided by the first that asks, before there are threads.
pub fn is_system() -> bool {
    match CHOSEN.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: the name ends with a zero; nobody changes the environment, as there is no thread but this one.
            let value = unsafe { libc::getenv(c"FREEZE_ALLOCATOR".as_ptr()) };
            // SAFETY: a value is a text that ends with a zero.
            let system = !value.is_null() && unsafe { libc::strcmp(value, c"system".as_ptr()) } == 0;
            CHOSEN.store(1 + u8::from(system), Ordering::Relaxed);
            system
        }
        chosen => chosen == 2,
    }
}

/// Calls it with the mark set, if the thread is the one that is held.
fn marked<R>(call: impl FnOnce() -> R) -> R {
    if !MARKED.get() {
        return call();
    }
    let mark = MARK.load(Ordering::Relaxed);
    // SAFETY: null, or a word that lives for ever.
    let Some(mark) = (unsafe { mark.as_ref() }) else { return call() };
    mark.store(1, Ordering::SeqCst);
    let answer = call();
    mark.store(0, Ordering::SeqCst);
    answer
}

// SAFETY: every call is handed on as it came, to an allocator that is the same for the whole life of the process.
unsafe impl GlobalAlloc for Marking {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract, which is the same.
        let system = || unsafe { System.alloc(layout) };
        // SAFETY: as above.
        let other = || unsafe { MiMalloc.alloc(layout) };
        marked(|| if is_system() { system() } else { other() })
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract, which is the same.
        let system = || unsafe { System.dealloc(memory, layout) };
        // SAFETY: as above.
        let other = || unsafe { MiMalloc.dealloc(memory, layout) };
        marked(|| if is_system() { system() } else { other() });
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract, which is the same.
        let system = || unsafe { System.realloc(memory, layout, size) };
        // SAFETY: as above.
        let other = || unsafe { MiMalloc.realloc(memory, layout, size) };
        marked(|| if is_system() { system() } else { other() })
    }
}
