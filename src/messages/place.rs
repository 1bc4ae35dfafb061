//! Where a log's file is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::builder::MemoryDisk;
use crate::device::{Device, FileDevice, FileDeviceError, ReadAt, open_read_only};
use crate::error::OpenError;
use crate::faults::{Call, fault_point, name_fault_point};
use crate::files;
use crate::journal::JournalFile;
use crate::sync::Arc;

/// A file, or memory.
#[derive(Debug, Clone)]
pub(super) enum Place {
    File(PathBuf),
    Memory(MemoryDisk),
}

impl Place {
    /// The log's device, locked. What a compaction left behind that did not take effect is removed.
    pub(super) fn device(&self) -> Result<Box<dyn Device>, OpenError> {
        match self {
            Self::File(path) => {
                let device = open(path)?;
                remove_left_over(&fresh_name(path))?;
                Ok(Box::new(device))
            }
            Self::Memory(disk) => {
                name_fault_point(Call::SyncNames)?;
                disk.journal().sync_name();
                disk.fresh().clear();
                Ok(Box::new(disk.journal().clone()))
            }
        }
    }

    /// An empty file beside the log's, locked. After an error there is none that was not there before.
    pub(super) fn fresh(&self) -> Result<Box<dyn Device>, OpenError> {
        match self {
            Self::File(path) => {
                let path = fresh_name(path);
                let was_there = path.symlink_metadata().is_ok();
                let made = emptied(&path);
                if !was_there && matches!(made, Err(OpenError::Io { .. })) {
                    self.discard_fresh();
                }
                made
            }
            Self::Memory(disk) => {
                name_fault_point(Call::Create)?;
                disk.fresh().clear();
                Ok(Box::new(disk.fresh().clone()))
            }
        }
    }

    /// Gives the fresh file, whose device is given, the log's name: durable after `sync_name`.
    pub(super) fn rename(&self, fresh: &mut Box<dyn Device>) -> io::Result<()> {
        match self {
            Self::File(path) => {
                files::rename(&fresh_name(path), path)?;
                fresh.renamed(path);
            }
            Self::Memory(disk) => {
                fault_point(Call::Rename)?;
                disk.journal().take_over(disk.fresh());
                *fresh = Box::new(disk.journal().clone());
            }
        }
        Ok(())
    }

    /// Returns when the log's name would survive a power cut.
    pub(super) fn sync_name(&self) -> io::Result<()> {
        match self {
            Self::File(path) => files::sync_parent(path),
            Self::Memory(disk) => {
                fault_point(Call::SyncNames)?;
                disk.journal().sync_name();
                Ok(())
            }
        }
    }

    /// Removes the fresh file.
    pub(super) fn discard_fresh(&self) {
        match self {
            Self::File(path) => {
                if let Err(error) = files::remove_file(&fresh_name(path))
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(%error, "what is left of a compaction could not be removed");
                }
            }
            Self::Memory(disk) => disk.fresh().clear(),
        }
    }
}

/// Removes what a compaction left that was interrupted, if there is something: not a log that nobody began anew.
fn remove_left_over(path: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io { path: path.to_path_buf(), source };
    if !fs::exists(path).map_err(failed)? {
        return Ok(());
    }
    let mut device = open(path)?;
    if JournalFile::header(&mut device).map_err(failed)?.is_some_and(|header| !header.refounded) {
        let what = "it is a log of its own, where a compaction would write; move it away";
        return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, what)));
    }
    files::remove_file(path).map_err(failed)
}

/// Opens a file as an empty one.
fn emptied(path: &Path) -> Result<Box<dyn Device>, OpenError> {
    let mut device = open(path)?;
    device.truncate(0).map_err(|source| OpenError::Io { path: path.to_path_buf(), source })?;
    Ok(Box::new(device))
}

/// Where a compaction writes: beside the log, so that a rename does.
pub(super) fn fresh_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".new");
    name.into()
}

fn open(path: &Path) -> Result<FileDevice, OpenError> {
    FileDevice::open(path).map_err(not_opened)
}

/// A file to be read and never changed, locked; and its length.
pub(super) fn read_only(path: &Path) -> Result<(Arc<dyn ReadAt>, u64), OpenError> {
    open_read_only(path).map_err(not_opened)
}

fn not_opened(error: FileDeviceError) -> OpenError {
    match error {
        FileDeviceError::Locked { path } => OpenError::Locked { path },
        FileDeviceError::Io { path, source } => OpenError::Io { path, source },
    }
}
