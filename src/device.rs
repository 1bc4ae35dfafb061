//! Where the journal's bytes live: a locked file, or memory.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::compact::crash_point;
use crate::faults::{Call, fault_point};
use crate::files;
use crate::sync::{Arc, Mutex};

/// Bytes that can be read at any offset, by many threads, while somebody appends to them.
pub(crate) trait ReadAt: Send + Sync + std::fmt::Debug {
    /// Reads some bytes at `offset`; 0 means the end. Interrupted reads are repeated.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        (**self).read_at(offset, buf)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        (**self).read_at(offset, buf)
    }
}

/// One append-only file, and nothing the journal does not need of it.
pub(crate) trait Device: ReadAt {
    /// Returns the length in bytes.
    fn len(&mut self) -> io::Result<u64>;

    /// A second way to the same bytes, for readers beside the writer.
    fn reader(&self) -> io::Result<Arc<dyn ReadAt>>;

    /// Writes all of `bytes` at the end; short and interrupted writes are continued. After an error the tail is
    /// unspecified: all of `bytes` may be there, a part, or nothing.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything appended so far would survive a power cut.
    fn sync(&mut self) -> io::Result<()>;

    /// Drops everything from `len` on, and syncs.
    fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// It has this name now.
    fn renamed(&mut self, _path: &Path) {}
}

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileDeviceError {
    /// Another process, or another handle in this one, has the file open.
    #[error("{} is locked by another user of it", path.display())]
    Locked { path: PathBuf },
    #[error("cannot open {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A file, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct FileDevice {
    file: File,
    path: PathBuf,
}

/// A file that is only read.
#[derive(Debug)]
struct FileReader(File);

impl ReadAt for FileReader {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        read_file_at(&self.0, offset, buf)
    }
}

fn read_file_at(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    #[cfg(unix)]
    use std::os::unix::fs::FileExt as _;
    #[cfg(windows)]
    use std::os::windows::fs::FileExt as _;
    fault_point(Call::Read)?;
    loop {
        #[cfg(unix)]
        let result = file.read_at(buf, offset);
        #[cfg(windows)]
        let result = file.seek_read(buf, offset);
        #[cfg(not(any(unix, windows)))]
        let result: io::Result<usize> = {
            let _ = (file, &buf, offset);
            Err(io::ErrorKind::Unsupported.into())
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Writes all of `bytes`: what was written short is continued, and what was interrupted is repeated.
fn write_whole(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)
}

/// A file that is there, to be read and never changed, and its length. Locked for as long as it is open.
pub(crate) fn open_read_only(path: &Path) -> Result<(Arc<dyn ReadAt>, u64), FileDeviceError> {
    let failed = |source| FileDeviceError::Io { path: path.to_path_buf(), source };
    let file = files::open(path).map_err(failed)?;
    match lock_patiently(&file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(FileDeviceError::Locked { path: path.to_path_buf() }),
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    let len = file.metadata().map_err(failed)?.len();
    Ok((Arc::new(FileReader(file)), len))
}

/// How often a lock is tried, and how long it is waited for in between: a second in all. A hub that was just closed may
/// still hold it for a moment, through a thread of the engine or a child process that has not replaced its image yet.
const LOCK_TRIES: u32 = 100;
const LOCK_TRY_PAUSE: Duration = Duration::from_millis(10);

/// Locks a file until it is dropped, or says that another holds it.
pub(crate) fn lock_patiently(file: &File) -> Result<(), TryLockError> {
    for _ in 1..LOCK_TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_TRY_PAUSE),
            locked => return locked,
        }
    }
    file.try_lock()
}

impl FileDevice {
    /// Opens the file, and creates it if it is not there.
    pub(crate) fn open(path: &Path) -> Result<FileDevice, FileDeviceError> {
        loop {
            let device = Self::open_once(path)?;
            // While the lock was waited for, a compaction may have put another file in this one's place.
            match is_named(&device.file, path) {
                Ok(true) => return Ok(device),
                Ok(false) => {}
                Err(source) => return Err(FileDeviceError::Io { path: path.to_path_buf(), source }),
            }
        }
    }

    fn open_once(path: &Path) -> Result<FileDevice, FileDeviceError> {
        let failed = |source| FileDeviceError::Io { path: path.to_path_buf(), source };
        // Append mode: even a writer that lost track of the end could not overwrite what is there.
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        let file = files::create(&options, path).map_err(failed)?;
        match lock_patiently(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(FileDeviceError::Locked { path: path.to_path_buf() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // Its name may not be on disk yet, or be another file's there: its creator crashed, or a compaction, before that was
        // synced. Syncing the file alone would not put it there.
        files::sync_name_of(&file, path).map_err(failed)?;
        Ok(FileDevice { file, path: path.to_path_buf() })
    }
}

/// Whether `path` is the name of `file`.
#[cfg(unix)]
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let here = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Elsewhere there is no stable way to tell.
#[cfg(not(unix))]
fn is_named(_file: &File, _path: &Path) -> io::Result<bool> {
    Ok(true)
}

impl ReadAt for FileDevice {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        read_file_at(&self.file, offset, buf)
    }
}

impl Device for FileDevice {
    fn len(&mut self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// On Unix a file of its own, which holds no lock: a reader that outlives the hub keeps nobody out. Elsewhere locks
    /// keep other handles from reading, so that it must be the same one.
    fn reader(&self) -> io::Result<Arc<dyn ReadAt>> {
        let file = if cfg!(unix) { files::open(&self.path)? } else { self.file.try_clone()? };
        Ok(Arc::new(FileReader(file)))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = fault_point(Call::Append) {
            write_whole(&mut self.file, bytes.get(..bytes.len() / 2).unwrap_or_default())?;
            return Err(error);
        }
        write_whole(&mut self.file, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        fault_point(Call::Sync)?;
        self.file.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        fault_point(Call::Truncate)?;
        self.file.set_len(len)?;
        self.file.sync_all()
    }

    fn renamed(&mut self, path: &Path) {
        self.path = path.to_path_buf();
    }
}

/// A file in memory.
///
/// # Clone
///
/// Cloning clones the handle: both see the same bytes. What was appended outlives a journal over one handle as a file
/// would.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryDevice {
    memory: Arc<Mutex<Memory>>,
}

/// The bytes under a name, for as long as somebody reads them.
#[derive(Debug, Clone, Default)]
struct Inode(Arc<Mutex<Vec<u8>>>);

impl Inode {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        // As in `MemoryDevice::memory`.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadAt for Inode {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        fault_point(Call::Read)?;
        let bytes = self.bytes();
        let mut rest = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        rest.read(buf)
    }
}

#[derive(Debug, Default)]
struct Memory {
    inode: Inode,
    /// How many of `bytes` would survive a power cut.
    synced: usize,
    /// Bytes that still fit; without it there is no limit.
    room: Option<usize>,
    /// Syncs that still succeed; without it there is no limit.
    syncs: Option<u64>,
    /// Truncations that still succeed; without it there is no limit.
    truncations: Option<u64>,
    #[cfg(test)]
    before: Hooks,
    /// What a power cut would leave as long as the file that took this one's name has it only in memory.
    replaced: Option<Vec<u8>>,
}

impl MemoryDevice {
    #[cfg(test)]
    pub(crate) fn new() -> MemoryDevice {
        MemoryDevice::default()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // No code of others runs under the lock, so a poisoned one holds nothing half-changed.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device of its own with what is there, or with what a power cut would leave.
    pub(crate) fn copy(&self, synced_only: bool) -> MemoryDevice {
        let memory = self.memory();
        let bytes = memory.inode.bytes();
        let kept = if synced_only { memory.synced } else { bytes.len() };
        let bytes = bytes.get(..kept).unwrap_or_default();
        let bytes = memory.replaced.as_deref().filter(|_| synced_only).unwrap_or(bytes);
        Self::holding(bytes)
    }

    /// What renaming the file `fresh` to this one's name does: the bytes are that one's. Durable after `sync_name`.
    pub(crate) fn take_over(&self, fresh: &MemoryDevice) {
        let (inode, synced) = {
            let mut fresh = fresh.memory();
            (std::mem::take(&mut fresh.inode), std::mem::take(&mut fresh.synced))
        };
        let mut memory = self.memory();
        let before = std::mem::replace(&mut memory.inode, inode);
        memory.replaced = Some(before.bytes().get(..memory.synced).unwrap_or_default().to_vec());
        memory.synced = synced;
    }

    /// What syncing the directory does: the name is durable.
    pub(crate) fn sync_name(&self) {
        self.memory().replaced = None;
    }

    /// Drops everything, as removing the file does.
    pub(crate) fn clear(&self) {
        let mut memory = self.memory();
        memory.inode = Inode::default();
        memory.synced = 0;
    }

    /// A device of its own that holds `bytes`, all of it synced.
    pub(crate) fn holding(bytes: &[u8]) -> MemoryDevice {
        let inode = Inode(Arc::new(Mutex::new(bytes.to_vec())));
        let memory = Memory { inode, synced: bytes.len(), ..Memory::default() };
        MemoryDevice { memory: Arc::new(Mutex::new(memory)) }
    }

    pub(crate) fn size(&self) -> u64 {
        self.memory().inode.bytes().len() as u64
    }
}

impl ReadAt for MemoryDevice {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.memory().inode.read_at(offset, buf)
    }
}

impl Device for MemoryDevice {
    fn len(&mut self) -> io::Result<u64> {
        Ok(self.size())
    }

    /// Reads on in these bytes, whatever takes their name.
    fn reader(&self) -> io::Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(self.memory().inode.clone()))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        self.run(|hooks| hooks.append.clone());
        let mut memory = self.memory();
        if let Err(error) = fault_point(Call::Append) {
            memory.inode.bytes().extend_from_slice(bytes.get(..bytes.len() / 2).unwrap_or_default());
            return Err(error);
        }
        let fits = memory.room.map_or(bytes.len(), |room| room.min(bytes.len()));
        let (written, lost) = bytes.split_at_checked(fits).unwrap_or((bytes, &[]));
        memory.inode.bytes().extend_from_slice(written);
        memory.room = memory.room.map(|room| room.saturating_sub(written.len()));
        if lost.is_empty() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        #[cfg(test)]
        self.run(|hooks| hooks.sync.clone());
        fault_point(Call::Sync)?;
        let mut memory = self.memory();
        if !one_less(&mut memory.syncs) {
            return Err(io::Error::other("the device failed to sync"));
        }
        let synced = memory.inode.bytes().len();
        memory.synced = synced;
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        fault_point(Call::Truncate)?;
        let mut memory = self.memory();
        if !one_less(&mut memory.truncations) {
            return Err(io::Error::other("the device failed to truncate"));
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let before = memory.inode.bytes().len();
        memory.inode.bytes().truncate(len);
        let synced = memory.inode.bytes().len();
        // What is cut off makes room.
        memory.room = memory.room.map(|room| room.saturating_add(before.saturating_sub(synced)));
        memory.synced = synced;
        Ok(())
    }
}

/// Takes one off; false if none is left.
fn one_less(left: &mut Option<u64>) -> bool {
    let any = *left != Some(0);
    *left = left.map(|left| left.saturating_sub(1));
    any
}

/// What a test has done before a device does something, on the thread that wants it done.
#[cfg(test)]
pub(crate) type Hook = Arc<dyn Fn() + Send + Sync>;

#[cfg(test)]
#[derive(Default)]
struct Hooks {
    append: Option<Hook>,
    sync: Option<Hook>,
}

#[cfg(test)]
impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

/// Small files in memory, by name, each replaced whole.
///
/// # Clone
///
/// Cloning clones the handle.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryFiles {
    files: Arc<Mutex<BTreeMap<String, MemoryDevice>>>,
}

impl MemoryFiles {
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, MemoryDevice>> {
        // As in `MemoryDevice::memory`.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the file holds; `None` if there is none.
    pub(crate) fn read(&self, name: &str) -> Option<Vec<u8>> {
        let file = self.files().get(name).cloned()?;
        let bytes = file.memory().inode.bytes().clone();
        (!bytes.is_empty()).then_some(bytes)
    }

    /// What writing another file, syncing it, renaming it to this one's name and syncing the directory do.
    pub(crate) fn replace(&self, name: &str, bytes: Vec<u8>) {
        let fresh = MemoryDevice::holding(&[]);
        {
            let mut memory = fresh.memory();
            memory.inode = Inode(Arc::new(Mutex::new(bytes)));
            crash_point();
            let synced = memory.inode.bytes().len();
            memory.synced = synced;
        }
        crash_point();
        let file = self.files().entry(name.to_owned()).or_default().clone();
        file.take_over(&fresh);
        crash_point();
        file.sync_name();
        crash_point();
    }

    /// Files of their own with what is there, or with what a power cut would leave.
    pub(crate) fn copy(&self, synced_only: bool) -> Self {
        let files = self.files().iter().map(|(name, file)| (name.clone(), file.copy(synced_only))).collect();
        Self { files: Arc::new(Mutex::new(files)) }
    }
}

/// Accidents.
#[cfg(test)]
impl MemoryDevice {
    /// Runs a hook, under no lock.
    fn run(&self, hook: impl Fn(&Hooks) -> Option<Hook>) {
        let hook = hook(&self.memory().before);
        if let Some(hook) = hook {
            hook();
        }
    }

    pub(crate) fn before_append(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.memory().before.append = Some(Arc::new(hook));
    }

    pub(crate) fn before_sync(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.memory().before.sync = Some(Arc::new(hook));
    }

    /// How many bytes would survive a power cut, at least.
    pub(crate) fn synced(&self) -> usize {
        self.memory().synced
    }

    /// Lets `truncations` more truncations succeed, and none after.
    pub(crate) fn fail_truncate_after(&self, truncations: u64) {
        self.memory().truncations = Some(truncations);
    }

    /// Drops everything that was not synced.
    pub(crate) fn lose_power(&self) {
        let memory = self.memory();
        memory.inode.bytes().truncate(memory.synced);
    }

    /// Returns a copy of what is there.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.memory().inode.bytes().clone()
    }

    /// Replaces what is there; all of it counts as synced.
    pub(crate) fn set_bytes(&self, bytes: &[u8]) {
        let mut memory = self.memory();
        *memory.inode.bytes() = bytes.to_vec();
        memory.synced = bytes.len();
    }

    /// Lets `bytes` more bytes in, then is full: the append that crosses the limit leaves its first part behind.
    pub(crate) fn fail_append_after(&self, bytes: usize) {
        self.memory().room = Some(bytes);
    }

    /// Lets `syncs` more syncs succeed, and none after.
    pub(crate) fn fail_sync_after(&self, syncs: u64) {
        self.memory().syncs = Some(syncs);
    }

    /// Ends every injected fault.
    pub(crate) fn heal(&self) {
        let mut memory = self.memory();
        memory.room = None;
        memory.syncs = None;
        memory.truncations = None;
        memory.before = Hooks::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_device(device: &mut dyn Device) {
        device.append(b"hello ").unwrap();
        let reader = device.reader().unwrap();
        device.append(b"world").unwrap();
        device.sync().unwrap();
        assert_eq!(device.len().unwrap(), 11);
        let mut buf = [0; 5];
        assert_eq!(device.read_at(6, &mut buf).unwrap(), 5);
        assert_eq!(&buf, b"world");
        assert_eq!(device.read_at(11, &mut buf).unwrap(), 0);
        assert_eq!(device.read_at(99, &mut buf).unwrap(), 0);
        assert_eq!(reader.read_at(4, &mut buf).unwrap(), 5);
        assert_eq!(&buf, b"o wor", "a reader sees what was appended after it was made");
        device.truncate(5).unwrap();
        device.append(b"!").unwrap();
        assert_eq!(device.read_at(3, &mut buf).unwrap(), 3);
        assert_eq!(&buf[..3], b"lo!");
    }

    #[test]
    fn file_and_memory_behave_alike() {
        let directory = tempfile::tempdir().unwrap();
        check_device(&mut FileDevice::open(&directory.path().join("journal")).unwrap());
        check_device(&mut MemoryDevice::new());
    }

    #[test]
    fn second_device_on_one_file_is_refused_as_locked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let first = FileDevice::open(&path).unwrap();
        let second = FileDevice::open(&path).unwrap_err();
        assert!(matches!(second, FileDeviceError::Locked { .. }), "{second}");
        let reader = first.reader().unwrap();
        drop(first);
        FileDevice::open(&path).unwrap();
        drop(reader);
    }

    #[test]
    fn file_in_a_missing_directory_is_an_io_error() {
        let directory = tempfile::tempdir().unwrap();
        let error = FileDevice::open(&directory.path().join("none").join("journal")).unwrap_err();
        assert!(matches!(error, FileDeviceError::Io { .. }), "{error}");
    }

    #[test]
    fn power_cut_drops_what_was_not_synced() {
        let mut device = MemoryDevice::new();
        device.append(b"kept").unwrap();
        device.sync().unwrap();
        device.append(b"lost").unwrap();
        device.lose_power();
        assert_eq!(device.bytes(), b"kept");
    }

    /// Between the waiter's opening and its lock another file took the name.
    #[test]
    #[cfg(unix)]
    fn file_that_lost_its_name_while_its_lock_was_waited_for_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let (path, fresh) = (directory.path().join("journal"), directory.path().join("journal.new"));
        let mut old = FileDevice::open(&path).unwrap();
        old.append(b"old").unwrap();
        let mut new = FileDevice::open(&fresh).unwrap();
        new.append(b"new").unwrap();
        assert!(is_named(&old.file, &path).unwrap());
        let waiters = path.clone();
        let waiter = thread::spawn(move || FileDevice::open(&waiters).unwrap());
        files::rename_synced(&fresh, &path).unwrap();
        assert!(!is_named(&old.file, &path).unwrap() && is_named(&new.file, &path).unwrap());
        // Whether the waiter opened the file before it lost its name or after, it ends with the one that has it now.
        drop((old, new));
        let mut buf = [0; 3];
        waiter.join().unwrap().read_at(0, &mut buf).unwrap();
        assert_eq!(&buf, b"new");
    }

    #[test]
    fn power_cut_between_a_renaming_and_its_sync_leaves_the_file_before() {
        let (mut old, mut new) = (MemoryDevice::new(), MemoryDevice::new());
        old.append(b"old").unwrap();
        old.sync().unwrap();
        old.append(b"er").unwrap();
        new.append(b"new").unwrap();
        new.sync().unwrap();
        old.take_over(&new);
        assert_eq!((old.bytes().as_slice(), new.size()), (&b"new"[..], 0));
        assert_eq!(old.copy(true).bytes(), b"old");
        assert_eq!(old.copy(false).bytes(), b"new");
        old.sync_name();
        assert_eq!(old.copy(true).bytes(), b"new");
    }

    #[test]
    fn full_memory_keeps_the_part_that_fit() {
        let mut device = MemoryDevice::new();
        device.fail_append_after(3);
        let error = device.append(b"abcde").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(device.bytes(), b"abc");
        device.heal();
        device.append(b"f").unwrap();
        assert_eq!(device.bytes(), b"abcf");
    }
    /// Writes a few bytes at a time, and is interrupted in between.
    struct Shaky {
        written: Vec<u8>,
        calls: usize,
    }

    impl Write for Shaky {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.calls += 1;
            if self.calls.is_multiple_of(3) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let part = bytes.len().min(1 + self.calls % 4);
            self.written.extend_from_slice(&bytes[..part]);
            Ok(part)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// R111: short writes are continued, and interrupted ones repeated.
    #[test]
    fn short_and_interrupted_writes_are_continued() {
        let mut shaky = Shaky { written: Vec::new(), calls: 0 };
        let bytes: Vec<u8> = (0..=255).collect();
        write_whole(&mut shaky, &bytes).unwrap();
        assert!(shaky.written == bytes && shaky.calls > 100);
    }
}
