//! Hands out work in pre-made buckets.
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]
#![cfg_attr(
    not(test),
    expect(dead_code, reason = "the hub that uses these modules is not here yet")
)]

mod device;
mod journal;
