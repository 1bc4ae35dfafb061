//! What a process and its files take.
#![allow(clippy::allow_attributes, dead_code, reason = "each bench uses what it needs")]

use std::fs;
use std::io;
use std::path::Path;

/// Peak resident memory of this process in MB; `None` where the system does not tell.
pub(crate) fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1_024 / 1_000_000)
}

/// Bytes of a file, or of all files below a directory.
pub(crate) fn bytes_in(path: &Path) -> io::Result<u64> {
    if !path.is_dir() {
        return Ok(fs::metadata(path)?.len());
    }
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        bytes += bytes_in(&entry?.path())?;
    }
    Ok(bytes)
}
