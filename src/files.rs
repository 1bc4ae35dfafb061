//! Names in directories. What a hub does to them, but for listing and looking, is done here, so that a test can make each of it fail.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::faults::{Call, fault_point};

/// Makes a directory, and those above it.
pub(crate) fn create_dir_all(path: &Path) -> io::Result<()> {
    fault_point(Call::Create)?;
    fs::create_dir_all(path)
}

/// As `create_dir_all`, and returns when the directory's name would survive a power cut, with those above it that had to be made.
pub(crate) fn create_dir_synced(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() {
        return create_dir_synced(Path::new("."));
    }
    let is_empty = match fs::read_dir(path) {
        Ok(mut names) => names.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if path.file_name().is_some() {
                create_dir_synced(&parent(path))?;
            }
            create_dir_all(path)?;
            return sync_parent(path);
        }
        // Who may not look into it may still use it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => false,
        Err(error) => return Err(error),
    };
    // Its maker may have crashed before it was synced; not if it went on.
    if is_empty { sync_found(path) } else { Ok(()) }
}

/// Opens a file that may have to be made.
pub(crate) fn create(options: &OpenOptions, path: &Path) -> io::Result<File> {
    fault_point(Call::Create)?;
    options.open(path)
}

/// Opens a file to be read.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    fault_point(Call::Open)?;
    File::open(path)
}

/// What a small file holds.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    fault_point(Call::Read)?;
    fs::read(path)
}

/// Writes a small file whole, and returns when its bytes would survive a power cut; its name needs more.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(&mut OpenOptions::new(), path, bytes)
}

/// As `write`, readable by its owner alone.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    write_with(&mut options, path, bytes)
}

fn write_with(options: &mut OpenOptions, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(options.write(true).create(true).truncate(true), path)?;
    if let Err(error) = fault_point(Call::Append) {
        file.write_all(bytes.get(..bytes.len() / 2).unwrap_or_default())?;
        return Err(error);
    }
    file.write_all(bytes)?;
    fault_point(Call::Sync)?;
    file.sync_all()
}

/// Gives the file or directory `from` the name `to`, in the place of a file that had it.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fault_point(Call::Rename)?;
    fs::rename(from, to)
}

/// As `rename`, and returns when that would survive a power cut.
pub(crate) fn rename_synced(from: &Path, to: &Path) -> io::Result<()> {
    rename(from, to)?;
    sync_parent(to)
}

pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    fault_point(Call::Remove)?;
    fs::remove_file(path)
}

/// Removes a directory and what is in it.
pub(crate) fn remove_dir_all(path: &Path) -> io::Result<()> {
    fault_point(Call::Remove)?;
    fs::remove_dir_all(path)
}

/// The directory that names `path`. What ends in no name is a directory.
fn parent(path: &Path) -> PathBuf {
    match (path.file_name(), path.parent()) {
        (Some(_), Some(parent)) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        (Some(_), _) => PathBuf::from("."),
        (None, _) => path.join(".."),
    }
}

/// Returns when the names in a directory would survive a power cut. Elsewhere than on Unix it cannot be opened as a file, and the file
/// system journals the names.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    fault_point(Call::SyncNames)?;
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// As `sync_dir`, of the directory that names `path`.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    sync_dir(&parent(path))
}

/// As `sync_parent`, of a name that was found there, and whose giver may have crashed before it was synced. Who may not look at the names
/// did not give it, nor did a file system that syncs no directories: it is only read.
pub(crate) fn sync_found(path: &Path) -> io::Result<()> {
    match sync_parent(path) {
        Err(error) if is_not_to_be_had(&error) => Ok(()),
        synced => synced,
    }
}

fn is_not_to_be_had(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Returns when the name of an open file would survive a power cut, and if it is a link's, the name behind that. One that may be new
/// has to be synced.
pub(crate) fn sync_name_of(file: &File, path: &Path) -> io::Result<()> {
    let sync = if file.metadata()?.len() == 0 { sync_parent } else { sync_found };
    sync(path)?;
    if path.is_symlink() { sync(&path.canonicalize()?) } else { Ok(()) }
}

#[cfg(test)]
#[path = "files_test.rs"]
mod tests;
