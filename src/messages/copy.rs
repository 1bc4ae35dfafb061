//! Writing a log from another's entries.

use std::io;

use crate::journal::{Entry, GROUP_FRAME, Group, GroupTime, JournalFile, Log};
use crate::ticket::CLASS_SYNC;

/// A log that is written from another's entries, in the same groups. As long as nothing is missing in between, each entry has the
/// position that it had.
#[derive(Debug)]
pub(super) struct Copy {
    log: JournalFile,
    group: Group,
    /// Entries in the group.
    entries: usize,
}

impl Copy {
    /// Goes on behind what is in `log`.
    pub(super) fn new(log: JournalFile) -> Self {
        Self { log, group: Group::new(), entries: 0 }
    }

    /// Where the next frame will stand.
    pub(super) fn position(&self) -> u64 {
        self.log.end() + if self.entries > 0 { self.group.bytes() as u64 } else { 0 }
    }

    /// Adds an entry that had `gap` bytes of group frames before it: the last began its group, the others had no entries.
    /// Returns its position.
    pub(super) fn put(&mut self, entry: &Entry<'_>, gap: u64) -> io::Result<u64> {
        if gap > 0 {
            self.flush()?;
            self.pad(gap.saturating_sub(GROUP_FRAME), entry.time, entry.class)?;
            self.group.begin(entry.time, entry.class);
        }
        let pushed = self.group.push(entry.kind, entry.pallet, |out| out.extend_from_slice(entry.body));
        self.entries += 1;
        Ok(self.log.end() + pushed.map_err(io::Error::other)?)
    }

    /// There are no more entries for now, and `gap` bytes of group frames behind the last.
    pub(super) fn end(&mut self, gap: u64) -> io::Result<()> {
        self.flush()?;
        self.pad(gap, self.group.time(), CLASS_SYNC)
    }

    fn flush(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.entries) {
            0 => Ok(()),
            _ => self.log.put(&mut self.group),
        }
    }

    /// Groups without entries, where the other log had some.
    fn pad(&mut self, bytes: u64, time: GroupTime, class: u8) -> io::Result<()> {
        (0..bytes / GROUP_FRAME).try_for_each(|_| self.log.append_empty(time, class))
    }

    /// Has the device write what is there. It still counts as not synced: a file that is begun anew is not whole before its seal.
    pub(super) fn write_back(&mut self) -> io::Result<()> {
        self.log.device_mut().sync()
    }

    /// The log, with everything in it that ended.
    pub(super) fn into_log(self) -> JournalFile {
        self.log
    }
}
