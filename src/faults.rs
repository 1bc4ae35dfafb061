//! Where tests make fail what is asked of a disk.

use crate::error::OpenError;
#[cfg(test)]
pub(crate) use crate::faults_test::fault_point;

/// What is asked of a disk, in memory or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Append,
    Sync,
    Truncate,
    Read,
    /// A file is opened, to be read.
    Open,
    /// A file is opened that may have to be made; or a directory.
    Create,
    Rename,
    Remove,
    /// A directory is synced.
    SyncNames,
    StoreOpen,
    StoreRead,
    /// Nothing of a batch is applied.
    Apply,
    /// A part of a batch is applied, where the engine may leave one.
    ApplyPart,
    /// All of a batch is applied, and the answer is an error.
    Applied,
    Checkpoint,
    /// A checkpoint wrote, and is not synced yet.
    Checkpointed,
}

/// Nothing, outside of tests.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "in tests it may fail")]
pub(crate) fn fault_point(_: Call) -> std::io::Result<()> {
    Ok(())
}

/// As `fault_point`, for names on a disk in memory.
pub(crate) fn name_fault_point(call: Call) -> Result<(), OpenError> {
    fault_point(call).map_err(|source| OpenError::Io { path: "memory".into(), source })
}
