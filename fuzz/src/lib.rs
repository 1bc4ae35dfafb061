//! What each fuzz target does with its bytes. `cargo test` at the crate's root does the same with the committed corpora, without a
//! fuzzer.

use std::collections::BTreeSet;

mod body;
pub mod edges;
#[path = "../../tests/support/hub_model/mod.rs"]
mod hub_model;
pub mod journal;
pub mod json;
pub mod messages;
pub mod ops;
pub mod salvage;
pub mod seal;
pub mod token;
pub mod wire;

/// States that runs came through, by name. A corpus that misses one of its target's `STATES` is too poor.
pub type Seen = BTreeSet<&'static str>;
