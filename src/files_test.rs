use super::*;
#[cfg(unix)]
use crate::device::FileDevice;
#[cfg(unix)]
use crate::faults_test::with_fault;

/// The working directory has the empty name, too, and one like `.` is named by the directory above.
#[test]
fn the_working_directory_is_there() {
    for name in ["", "."] {
        create_dir_synced(Path::new(name)).unwrap();
    }
    let base = tempfile::tempdir().unwrap();
    create_dir_synced(&base.path().join("a/../b/c")).unwrap();
    assert!(base.path().join("b/c").is_dir());
    for (path, above) in
        [("", ".."), (".", "./.."), ("..", "../.."), ("a/..", "a/../.."), ("/", "/.."), ("a", "."), ("a/b", "a")]
    {
        assert_eq!(parent(Path::new(path)), Path::new(above), "{path:?}");
    }
}

/// A name that was found on a file system that syncs no directories, as those that are only read, is as durable as it gets.
#[cfg(target_os = "linux")]
#[test]
fn a_name_is_found_where_directories_are_not_synced() {
    let found = Path::new("/proc/self");
    let refused = sync_parent(found).err().map(|error| error.kind());
    assert!(refused.is_none_or(|kind| kind == io::ErrorKind::InvalidInput), "{refused:?}");
    sync_found(found).unwrap();
}

/// Who may make names in a directory, but not look at them, cannot have them synced, and is told so.
#[cfg(unix)]
#[test]
fn a_new_file_whose_name_cannot_be_synced_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let base = tempfile::tempdir().unwrap();
    let shut = base.path().join("shut");
    fs::create_dir(&shut).unwrap();
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o300)).unwrap();
    // The superuser may look.
    let may_look = File::open(&shut).is_ok();
    for _ in 0..2 {
        assert_eq!(FileDevice::open(&shut.join("journal")).is_ok(), may_look);
    }
    fs::write(shut.join("found"), b"something").unwrap();
    FileDevice::open(&shut.join("found")).unwrap();
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o700)).unwrap();
}

/// A link's name and that of the file behind it stand in two directories.
#[cfg(unix)]
#[test]
fn both_names_of_a_file_behind_a_link_are_synced() {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("far")).unwrap();
    std::os::unix::fs::symlink("far/journal", base.path().join("journal")).unwrap();
    let (opened, faults) = with_fault(None, || FileDevice::open(&base.path().join("journal")));
    drop(opened.unwrap());
    assert!(base.path().join("far/journal").exists());
    assert_eq!(faults.made(Call::SyncNames), 2);
}
