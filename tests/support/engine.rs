//! Which engine keeps the store in the tests that use a directory.

use commissary::Engine;

/// `COMMISSARY_TEST_ENGINE` names it; without it, the default.
pub(crate) fn engine() -> Engine {
    match std::env::var("COMMISSARY_TEST_ENGINE").as_deref() {
        Err(_) | Ok("sled") => Engine::Sled,
        #[cfg(feature = "redb")]
        Ok("redb") => Engine::Redb,
        Ok(other) => panic!("this build has no engine {other:?}"),
    }
}
