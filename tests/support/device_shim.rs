//! A device that keeps only what was synced, under a process that works on real files: its `fsync` and `fdatasync` are the ones here.
//!
//! After a sync that succeeded, and before it is answered, what it made durable is copied: of a file its bytes, of a directory its names.
//! When the process was killed, the tree that it worked in is made anew of these copies, and of as much of the rest as a disk may have
//! written by itself. `sync_file_range`, which starts writing and makes nothing durable, is the C library's.
#![expect(unsafe_code, reason = "functions of the C library are replaced by name")]

#[path = "real_call.rs"]
mod real_call;

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::toil::Chance;
use real_call::{Call, real};

/// Where what was synced is kept, in the child.
pub(crate) const DEVICE: &str = "COMMISSARY_CRASH_CHILD_DEVICE";
/// The tree that stands on the device.
pub(crate) const TREE: &str = "COMMISSARY_CRASH_CHILD_TREE";
/// A disk writes so many bytes at a time.
const PAGE: usize = 4096;

// SAFETY: the name, the arguments and the meaning are those of the function that it replaces.
#[unsafe(no_mangle)]
extern "C" fn fsync(file: c_int) -> c_int {
    static REAL: OnceLock<Call> = OnceLock::new();
    synced(*REAL.get_or_init(|| real(c"fsync")), file)
}

// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn fdatasync(file: c_int) -> c_int {
    static REAL: OnceLock<Call> = OnceLock::new();
    synced(*REAL.get_or_init(|| real(c"fdatasync")), file)
}

fn synced(real: Call, file: c_int) -> c_int {
    static HERE: OnceLock<Option<Device>> = OnceLock::new();
    // SAFETY: it takes any number, and answers an error for one that is no open file's.
    let answer = unsafe { real(file) };
    if answer == 0
        && let Some(device) = HERE.get_or_init(Device::of_this_process)
    {
        device.keep_open(file);
    }
    answer
}

/// What a directory names: inodes, and whether they are directories.
type Names = BTreeMap<String, (u64, bool)>;

/// What is kept of a tree. By the number of an inode: `files` what was synced of it, `names` what was synced of a directory, `links` the
/// file itself, so that its number is no other's for as long as it is spoken of.
pub(crate) struct Device {
    tree: PathBuf,
    kept: PathBuf,
    /// Directories stay open: they cannot be linked. One sync is kept at a time, lest an older copy replace a newer one.
    held: Mutex<BTreeMap<u64, File>>,
}

impl Device {
    fn of_this_process() -> Option<Self> {
        let [tree, kept] = [TREE, DEVICE].map(|name| std::env::var_os(name).map(PathBuf::from));
        Some(Self { tree: tree?, kept: kept?, held: Mutex::default() })
    }

    /// A device on which all of a tree is durable.
    pub(crate) fn below(tree: &Path, kept: &Path) -> Self {
        for part in ["files", "names", "links"] {
            fs::create_dir_all(kept.join(part)).unwrap();
        }
        let [tree, kept] = [tree, kept].map(|path| path.canonicalize().unwrap());
        let device = Self { tree, kept, held: Mutex::default() };
        for (directory, names) in device.directories() {
            device.keep_names(directory, &names);
        }
        for link in fs::read_dir(device.kept.join("links")).unwrap() {
            let link = link.unwrap();
            fs::copy(link.path(), device.kept.join("files").join(link.file_name())).unwrap();
        }
        device
    }

    /// What tells a process of it.
    pub(crate) fn variables(&self) -> [(&'static str, &Path); 2] {
        [(TREE, &self.tree), (DEVICE, &self.kept)]
    }

    fn part(&self, part: &str, inode: u64) -> PathBuf {
        self.kept.join(part).join(inode.to_string())
    }

    /// Keeps what an open file or directory is now.
    fn keep_open(&self, file: c_int) {
        let open = PathBuf::from(format!("/proc/self/fd/{file}"));
        if !fs::read_link(&open).unwrap().starts_with(&self.tree) {
            return;
        }
        let found = fs::metadata(&open).unwrap();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if found.is_dir() {
            let names = self.names(&open, &mut held);
            self.keep_names(found.ino(), &names);
            return;
        }
        // Once linked, it need not have a name of its own any more.
        while !self.part("links", found.ino()).exists() && !self.link(&fs::read_link(&open).unwrap(), found.ino()) {
            // Nobody finds a file without a name. Otherwise another thread gave it another.
            if fs::metadata(&open).unwrap().nlink() == 0 {
                return;
            }
        }
        self.keep_bytes(&open, found.ino(), is_appended_to(file));
    }

    /// A new copy takes the place of the one before, whole; to that of a file that is only appended to, what is new is added.
    fn keep_bytes(&self, open: &Path, inode: u64, appended: bool) {
        let copy = self.part("files", inode);
        let mut file = File::open(open).unwrap();
        if let Ok(kept) = fs::metadata(&copy)
            && appended
            && kept.len() <= file.metadata().unwrap().len()
        {
            // Killed in the middle of it, the process was told of none of it.
            file.seek(SeekFrom::Start(kept.len())).unwrap();
            io::copy(&mut file, &mut OpenOptions::new().append(true).open(copy).unwrap()).unwrap();
            return;
        }
        let fresh = self.kept.join("fresh");
        fs::copy(open, &fresh).unwrap();
        fs::rename(fresh, copy).unwrap();
    }

    fn keep_names(&self, directory: u64, names: &Names) {
        let line = |(name, (inode, is_dir)): (&String, &(u64, bool))| format!("{inode} {is_dir} {name}\n");
        let fresh = self.kept.join("fresh");
        fs::write(&fresh, names.iter().map(line).collect::<String>()).unwrap();
        fs::rename(fresh, self.part("names", directory)).unwrap();
    }

    fn kept_names(&self, directory: u64) -> Names {
        let lines = fs::read_to_string(self.part("names", directory)).unwrap_or_default();
        let name = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().unwrap();
            let (inode, is_dir) = (word().parse().unwrap(), word() == "true");
            (word().to_owned(), (inode, is_dir))
        };
        lines.lines().map(name).collect()
    }

    /// What a directory names now. What is named keeps its number from here on.
    fn names(&self, directory: &Path, held: &mut BTreeMap<u64, File>) -> Names {
        let mut names = Names::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            // Another thread may remove it meanwhile.
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            let kept = if !found.is_dir() {
                self.link(&path, found.ino())
            } else if let Ok(open) = File::open(&path) {
                held.insert(found.ino(), open);
                true
            } else {
                false
            };
            if kept {
                names.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), (found.ino(), found.is_dir()));
            }
        }
        names
    }

    /// False if that is not the file's name any more.
    fn link(&self, path: &Path, inode: u64) -> bool {
        let link = self.part("links", inode);
        if let Err(error) = fs::hard_link(path, &link) {
            return error.kind() == io::ErrorKind::AlreadyExists;
        }
        let is_it = fs::metadata(&link).unwrap().ino() == inode;
        if !is_it {
            fs::remove_file(link).unwrap();
        }
        is_it
    }

    /// All directories of the tree, and what they name now.
    fn directories(&self) -> BTreeMap<u64, Names> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut all, mut left) = (BTreeMap::new(), vec![self.tree.clone()]);
        while let Some(directory) = left.pop() {
            let names = self.names(&directory, &mut held);
            left.extend(names.iter().filter(|(_, (_, is_dir))| *is_dir).map(|(name, _)| directory.join(name)));
            all.insert(fs::metadata(&directory).unwrap().ino(), names);
        }
        all
    }

    /// The process is gone, and the power is not: another goes on with what stands in memory. Directories keep their numbers.
    pub(crate) fn outlives(&self) {
        drop(self.directories());
    }

    /// Makes the tree anew: what was synced and, if the disk is `busy`, some of what was not. The process that worked in it is gone.
    pub(crate) fn lose_power(self, busy: bool, chance: &mut Chance) {
        let now = self.directories();
        let anew = self.kept.join("anew");
        let mut left = vec![(fs::metadata(&self.tree).unwrap().ino(), anew.clone())];
        while let Some((inode, path)) = left.pop() {
            fs::create_dir(&path).unwrap();
            // Names are changed one after another. That the later of two is there without the earlier is not tried.
            let written = now.get(&inode).filter(|_| busy && chance.one_in(2));
            for (name, (inode, is_dir)) in written.cloned().unwrap_or_else(|| self.kept_names(inode)) {
                let path = path.join(name);
                if is_dir {
                    left.push((inode, path));
                } else {
                    fs::write(path, self.bytes(inode, busy, chance)).unwrap();
                }
            }
        }
        fs::remove_dir_all(&self.tree).unwrap();
        fs::rename(anew, &self.tree).unwrap();
        fs::remove_dir_all(&self.kept).unwrap();
    }

    /// What the disk has of a file: what was synced, or all that was written, or of each page the one or the other.
    fn bytes(&self, inode: u64, busy: bool, chance: &mut Chance) -> Vec<u8> {
        let synced = fs::read(self.part("files", inode)).unwrap_or_default();
        if !busy || chance.one_in(3) {
            return synced;
        }
        let written = fs::read(self.part("links", inode)).unwrap();
        if chance.one_in(2) {
            return written;
        }
        let (shorter, longer) = (synced.len().min(written.len()), synced.len().max(written.len()));
        let len = shorter + usize::try_from(chance.below((longer - shorter) as u64 + 1)).unwrap();
        let mut bytes = vec![0; len];
        for (at, page) in (0..).step_by(PAGE).zip(bytes.chunks_mut(PAGE)) {
            let of = if chance.one_in(2) { &synced } else { &written };
            let there = of.get(at..).unwrap_or_default();
            let there = &there[..there.len().min(page.len())];
            page[..there.len()].copy_from_slice(there);
        }
        bytes
    }
}

/// Whether what is written to an open file goes behind its end, and nowhere else (`O_APPEND`).
fn is_appended_to(file: c_int) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{file}")).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
    u32::from_str_radix(flags, 8).unwrap() & 0o2000 != 0
}

/// A file is synced before and after its name is gone.
#[test]
fn a_file_without_a_name_is_synced() {
    use std::os::fd::AsRawFd;
    let base = tempfile::tempdir().unwrap();
    let [tree, kept] = ["tree", "kept"].map(|part| base.path().join(part));
    fs::create_dir(&tree).unwrap();
    let device = Device::below(&tree, &kept);
    let path = tree.canonicalize().unwrap().join("file");
    fs::write(&path, "one").unwrap();
    let file = File::open(&path).unwrap();
    device.keep_open(file.as_raw_fd());
    fs::write(&path, "other").unwrap();
    fs::remove_file(&path).unwrap();
    device.keep_open(file.as_raw_fd());
    assert_eq!(fs::read(device.part("files", file.metadata().unwrap().ino())).unwrap(), b"other");
}
