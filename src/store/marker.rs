//! The file beside a store that says: what was written here may not all be on the disk.
//!
//! It holds the boot id of the machine that wrote it. The end of a process loses nothing that the process had written, the end of the
//! machine may: if the marker is still there and the machine has started anew since, the store is not believed. Nor is it after a write
//! that failed, which may have left a part of a batch: a replay adds to counts that it reads, and so must not begin on such a part.

use crate::files;
use crate::sync::{AtomicBool, Ordering};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the system keeps the id that it draws each time it starts.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What stands for a boot id where there is none.
const UNKNOWN: &str = "unknown";

/// What stands there once a write has failed.
const FAILED: &str = "failed";

/// The marker of one store.
#[derive(Debug)]
pub(crate) struct Marker {
    path: PathBuf,
    /// It is on disk, with this boot's id.
    set: AtomicBool,
}

impl Marker {
    /// The marker beside the store in `dir`, as it is now.
    pub(crate) fn beside(dir: &Path) -> Marker {
        let path = path(dir);
        let set = verdict(&path, boot_id().as_deref()).is_ok_and(|found| found == Found::ThisBoot);
        Marker { path, set: AtomicBool::new(set) }
    }

    /// Returns once the marker is on disk. The thread that writes the store alone calls it.
    pub(crate) fn set(&self) -> io::Result<()> {
        // ordering: Relaxed, all of them; one thread sets and clears.
        if self.set.load(Ordering::Relaxed) {
            return Ok(());
        }
        // A half-written one is of no known boot, and so means the same.
        self.write(boot_id().as_deref().unwrap_or(UNKNOWN))?;
        self.set.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Says that a write failed. An empty file says no less, so that no room is needed for it.
    pub(crate) fn doubt(&self) -> io::Result<()> {
        self.set.store(false, Ordering::Relaxed);
        self.write(FAILED)
    }

    fn write(&self, words: &str) -> io::Result<()> {
        files::write(&self.path, words.as_bytes())?;
        files::sync_parent(&self.path)
    }

    /// Removes it: everything is on the disk. That the removal may not be costs a rebuild at worst.
    pub(crate) fn clear(&self) -> io::Result<()> {
        remove(&self.path)?;
        self.set.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// Why a store cannot be believed.
#[derive(Debug)]
pub(crate) struct Distrust {
    pub(crate) reason: &'static str,
    /// It is known that a write was left in its middle, not only possible.
    pub(crate) is_known: bool,
}

/// Why the store in `dir` cannot be believed, if it cannot: a write to it failed, or it was not closed, and the machine may have stopped
/// since.
pub(crate) fn distrust(dir: &Path) -> io::Result<Option<Distrust>> {
    let found = verdict(&path(dir), boot_id().as_deref())?;
    let reason = match found {
        Found::None | Found::ThisBoot => None,
        Found::Failed => Some("a write to it failed, so a part of a batch may be in it"),
        Found::OtherBoot => {
            Some("it was not closed before the machine stopped, so parts of it may not have reached the disk")
        }
        Found::Unknown => Some(
            "it was not closed, and whether the machine stopped since is not known: parts of it may not have reached the disk",
        ),
    };
    Ok(reason.map(|reason| Distrust { reason, is_known: found == Found::Failed }))
}

/// Removes the marker of a store that is gone.
pub(crate) fn remove_beside(dir: &Path) -> io::Result<()> {
    remove(&path(dir))
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    None,
    ThisBoot,
    OtherBoot,
    Failed,
    Unknown,
}

fn verdict(path: &Path, now: Option<&str>) -> io::Result<Found> {
    let then = match files::read(path) {
        Ok(then) => then,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::None),
        Err(error) => return Err(error),
    };
    let now = now.map(str::as_bytes);
    Ok(match then.as_slice() {
        b"" => Found::Unknown,
        then if then == UNKNOWN.as_bytes() => Found::Unknown,
        then if then == FAILED.as_bytes() => Found::Failed,
        then if Some(then) == now => Found::ThisBoot,
        _ if now.is_some() => Found::OtherBoot,
        _ => Found::Unknown,
    })
}

/// The id of the machine's present run, where the system tells.
fn boot_id() -> Option<String> {
    let id = fs::read_to_string(BOOT_ID).ok()?;
    let id = id.trim();
    (!id.is_empty()).then(|| id.to_owned())
}

fn path(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().map(OsString::from).unwrap_or_default();
    name.push(".unsynced");
    dir.with_file_name(name)
}

fn remove(path: &Path) -> io::Result<()> {
    match files::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_of_this_boot_is_believed_and_of_another_is_not() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("store.unsynced");
        let found = |text: Option<&str>, now| {
            match text {
                Some(text) => fs::write(&path, text).unwrap(),
                None => remove(&path).unwrap(),
            }
            verdict(&path, now).unwrap()
        };
        assert_eq!(found(None, Some("a")), Found::None);
        assert_eq!(found(Some("a"), Some("a")), Found::ThisBoot);
        assert_eq!(found(Some("a"), Some("b")), Found::OtherBoot);
        assert_eq!(found(Some(""), Some("b")), Found::Unknown);
        assert_eq!(found(Some("a"), None), Found::Unknown);
        assert_eq!(found(Some(UNKNOWN), None), Found::Unknown, "two unknown boots are not one");
        assert_eq!(found(Some(UNKNOWN), Some("b")), Found::Unknown);
        assert_eq!(found(Some(FAILED), Some("b")), Found::Failed);
        assert_eq!(found(Some(FAILED), None), Found::Failed);
    }

    #[test]
    fn marker_is_set_once_and_cleared() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("store");
        let marker = Marker::beside(&dir);
        assert!(distrust(&dir).unwrap().is_none());
        marker.set().unwrap();
        assert!(base.path().join("store.unsynced").exists());
        assert_eq!(distrust(&dir).unwrap().is_none(), boot_id().is_some());
        assert_eq!(Marker::beside(&dir).set.into_inner(), boot_id().is_some(), "a successor finds it set");
        marker.clear().unwrap();
        marker.clear().unwrap();
        assert!(!base.path().join("store.unsynced").exists());
        marker.set().unwrap();
        assert!(base.path().join("store.unsynced").exists());
    }
}
