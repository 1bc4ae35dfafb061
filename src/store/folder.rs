//! A store's directory, whichever engine keeps its files there: whose it is, its lock, and moving it out of the way.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::StoreError;
use crate::device::lock_patiently;
use crate::files;

/// The file each engine keeps its pairs in, and locks: sled's and redb's.
const ENGINE_FILES: [&str; 2] = ["db", "redb"];

/// A damaged store that was moved out of the way.
#[derive(Debug)]
pub(crate) struct SetAside {
    /// Why it could not be opened.
    pub(crate) reason: StoreError,
    /// Where it is now.
    pub(crate) damaged: PathBuf,
}

/// Opens the store in `dir` by `open`; one too damaged to open is renamed `<name>.damaged-<n>` and an empty one takes its place.
///
/// A store that is locked, of another engine or of another version, and a system that refuses (permission, space, open files) are not
/// damage and are returned as errors, with nothing moved. Nor is a directory moved that never was a store. Where none was, none can be
/// damaged: what was begun of a new one is removed.
pub(super) fn open_or_set_aside<S>(
    dir: &Path,
    open: impl Fn(&Path) -> Result<S, StoreError>,
) -> Result<(S, Option<SetAside>), StoreError> {
    let is_new = matches!(dir.try_exists(), Ok(false));
    let reason = match open(dir) {
        Ok(store) => return Ok((store, None)),
        Err(error) if !is_damage(&error) => return Err(error),
        Err(error) if is_new => {
            discard(dir);
            return Err(error);
        }
        Err(error) => error,
    };
    let damaged = set_aside(dir)?;
    tracing::warn!(dir = %dir.display(), damaged = %damaged.display(), %reason, "store set aside; starting empty");
    let store = open(dir)?;
    Ok((store, Some(SetAside { reason, damaged })))
}

/// Refuses a directory in which only files of somebody else stand, one of which is `name`.
pub(super) fn refuse_foreign(dir: &Path, name: &str, asked: &'static str) -> StoreError {
    let engine = |file: &str| match file {
        "redb" => Some("redb"),
        "db" | "conf" | "blobs" => Some("sled"),
        snapshot if snapshot.starts_with("snap.") => Some("sled"),
        _ => None,
    };
    if let Some(found) = engine(name) {
        return StoreError::OtherEngine { found, asked };
    }
    // Neither opened, which would mix the two, nor set aside, which would move what was never a store's.
    let words = format!("{} is not a store: it holds {name:?}", dir.display());
    StoreError::Io { source: io::Error::new(io::ErrorKind::DirectoryNotEmpty, words) }
}

/// Whether opening failed because of what is on disk: only that is cured by starting empty.
pub(super) fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Corrupted { .. } | StoreError::Panicked { .. } => true,
        StoreError::Locked | StoreError::Version { .. } | StoreError::OtherEngine { .. } | StoreError::Closed => false,
        StoreError::Io { source } => {
            // Too many open files have no kind of their own.
            let no_files_left = cfg!(unix) && matches!(source.raw_os_error(), Some(23 | 24));
            let refused = matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::OutOfMemory
                    | io::ErrorKind::Interrupted
                    | io::ErrorKind::ResourceBusy
                    // A directory of somebody else's: see `refuse_foreign`.
                    | io::ErrorKind::DirectoryNotEmpty
            );
            !refused && !no_files_left
        }
    }
}

/// Takes the engine's own lock, by the same means, until the file is dropped; `None` when it has no file yet.
pub(super) fn lock(dir: &Path) -> Result<Option<File>, StoreError> {
    for name in ENGINE_FILES {
        match File::options().read(true).write(true).open(dir.join(name)) {
            Ok(file) => return lock_file(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StoreError::Io { source }),
        }
    }
    Ok(None)
}

fn lock_file(file: File) -> Result<Option<File>, StoreError> {
    match lock_patiently(&file) {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked),
        // A file system without locks: the engine decides whether it can live there.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(Some(file)),
        Err(TryLockError::Error(source)) => Err(StoreError::Io { source }),
    }
}

/// Removes what was begun of a store, unless somebody else holds it. What stays is damaged when it is opened again.
fn discard(dir: &Path) {
    if let Ok(held) = lock(dir) {
        let removed = files::remove_dir_all(dir);
        tracing::warn!(dir = %dir.display(), ?removed, "store not made");
        drop(held);
    }
}

/// Renames `dir` to the first free `<name>.damaged-<n>` beside it.
pub(crate) fn set_aside(dir: &Path) -> Result<PathBuf, StoreError> {
    let name = dir.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    // Held over the rename, so that of two processes that found the damage one moves it and the other does not move the new store.
    let held = match lock(dir) {
        Err(StoreError::Locked) => return Err(StoreError::Locked),
        held => held.ok().flatten(),
    };
    // Windows refuses to rename a directory with an open file in it.
    let held = held.filter(|_| cfg!(not(windows)));
    for n in 1_u64.. {
        let mut candidate = OsString::from(name);
        candidate.push(format!(".damaged-{n}"));
        let damaged = dir.with_file_name(candidate);
        // Looked up first because a rename would replace an empty directory in silence.
        match fs::symlink_metadata(&damaged) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                files::rename_synced(dir, &damaged)?;
                drop(held);
                return Ok(damaged);
            }
            Err(source) => return Err(StoreError::Io { source }),
        }
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists).into())
}

/// Renames the store in `dir`, which is no longer open, to `to`, and waits for the engine's threads to let it go first. A
/// store that is not there is none to rename.
pub(crate) fn retire(dir: &Path, to: &Path) -> Result<(), StoreError> {
    if dir.try_exists()? {
        drop(lock(dir)?);
        files::rename_synced(dir, to)?;
    }
    Ok(())
}

/// The sum of the lengths of the files under `dir`; one removed meanwhile counts nothing.
pub(super) fn size_of_files(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => waiting.push(entry.path()),
                Ok(metadata) => bytes += metadata.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(bytes)
}

/// Copies a store as a killed process would leave it.
#[cfg(test)]
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_store_that_cannot_be_made_is_not_one_that_was_damaged() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("store");
        let made = open_or_set_aside(&dir, |dir| -> Result<(), StoreError> {
            fs::create_dir(dir)?;
            fs::write(dir.join("db"), "half of it")?;
            Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
        });
        assert!(
            matches!(&made, Err(StoreError::Io { source }) if source.kind() == io::ErrorKind::UnexpectedEof),
            "{made:?}"
        );
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "nothing is left of it");
    }

    #[test]
    fn what_somebody_else_made_meanwhile_is_not_removed() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("store");
        let others = std::cell::RefCell::new(Vec::new());
        let meanwhile = |dir: &Path, name: &str, error: StoreError| -> Result<(), StoreError> {
            fs::create_dir(dir)?;
            let file = File::create(dir.join(name))?;
            file.lock()?;
            others.borrow_mut().push(file);
            Err(error)
        };
        let foreign = || StoreError::from(io::Error::from(io::ErrorKind::DirectoryNotEmpty));
        let torn = || StoreError::from(io::Error::from(io::ErrorKind::UnexpectedEof));
        for (name, error) in [("db", StoreError::Locked), ("letters", foreign()), ("db", torn())] {
            let error = std::cell::Cell::new(Some(error));
            open_or_set_aside(&dir, |dir| meanwhile(dir, name, error.take().unwrap())).unwrap_err();
            assert!(dir.join(name).exists(), "{name}");
            fs::remove_dir_all(&dir).unwrap();
        }
    }

    #[test]
    fn refusals_of_the_system_are_not_damage() {
        let io = |kind: io::ErrorKind| StoreError::from(io::Error::from(kind));
        assert!(!is_damage(&io(io::ErrorKind::PermissionDenied)));
        assert!(!is_damage(&io(io::ErrorKind::StorageFull)));
        assert!(is_damage(&io(io::ErrorKind::UnexpectedEof)));
        assert!(is_damage(&io(io::ErrorKind::InvalidData)));
    }
}
