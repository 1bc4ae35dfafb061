//! A function of the C library that this program replaces by name.
#![expect(unsafe_code, reason = "looked up by name")]

use std::ffi::{CStr, c_char, c_int, c_void};

unsafe extern "C" {
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

pub(crate) type Call = unsafe extern "C" fn(c_int) -> c_int;

/// The C library's own; the name is `fsync` or `fdatasync`.
pub(crate) fn real(name: &CStr) -> Call {
    let next = std::ptr::without_provenance_mut(usize::MAX);
    // SAFETY: `next` is `RTLD_NEXT`, and the name ends with a zero.
    let found = unsafe { dlsym(next, name.as_ptr()) };
    assert!(!found.is_null(), "the C library has no {name:?}");
    // SAFETY: both names are of functions of this type.
    unsafe { std::mem::transmute::<*mut c_void, Call>(found) }
}
