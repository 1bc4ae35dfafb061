//! Hands out work in pre-made buckets.
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]
#![cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "the store's callers are written beside it and arrive with their own branches"
    )
)]

mod device;
mod journal;
mod store;

pub use store::StoreError;
