//! Salvage: what is good in a damaged log, as a new log.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::compact::remember;
use super::copy::Copy;
use super::frame::WINDOW;
use super::place::{Place, fresh_name, read_only};
use super::window::{Gaps, Terms, Windows};
use crate::clock::{Clock, SystemClock};
use crate::device::Device;
use crate::error::OpenError;
use crate::files;
use crate::journal::{Entry, GROUP_FRAME, GroupTime, JournalError, JournalFile, Log, Piece, Purpose, Salvage};
use crate::ticket::CLASS_SYNC;

/// What a salvage found, and what it did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Salvaged {
    /// Entries in the new log.
    pub entries: u64,
    /// The new log's first position.
    pub first: u64,
    /// Its end.
    pub end: u64,
    /// The damaged log's header was bad too: its positions are then worked out from what is left.
    pub header_lost: bool,
    /// What was not taken over, in order.
    pub lost: Vec<Lost>,
}

/// A part of a damaged log that was not taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Lost {
    /// Where it begins, in the damaged log's positions.
    pub position: u64,
    /// How long it is; 0 where something was taken out of the file.
    pub bytes: u64,
}

/// Why nothing was salvaged. Neither file was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SalvageError {
    /// The damaged log, or the new one, cannot be opened; the error names which.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The file is something else than a message log, or its creation was interrupted, or nothing in it is good.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// There is something already where the new log is to be.
    #[error("{path} is there already")]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// The new log would be named as the damaged one with `.new` behind it: where that one's compactions write, and what
    /// opening it removes.
    #[error("{path} is where a compaction of the damaged log writes; choose another name")]
    Reserved {
        /// Where.
        path: PathBuf,
    },
    /// The damaged log could not be read.
    #[error("cannot read the damaged log: {0}")]
    Read(#[source] io::Error),
    /// The new log could not be written.
    #[error("cannot write the new log: {0}")]
    Write(#[source] io::Error),
}

/// Makes a new log at `to` of what is good in the damaged one at `from`, in its order. The damaged one is never changed.
///
/// Entries keep their positions up to the first loss; behind it they may move, so that what an [`Ack`](super::Ack) named before
/// the damage may be another place now. A repeat of a message that is there is answered with where it is now; one
/// of a message that is lost is a new one under [`Gaps::Loose`], and a gap under [`Gaps::Strict`].
///
/// A message that only the damage shows, bytes in another message that look like an entry, is not taken for one:
/// behind a loss an entry counts if the chain of checksums leads to it from what is good before, or from it to a later group or
/// the end of the file. So a few good entries between two places that are damaged badly may be lost as well. It is no protection
/// against bytes that were made for the purpose.
///
/// Both are files; while it works, the new one has `.new` behind its name, and a file of that name that nobody has open is written over.
/// The new one is synced when this returns.
///
/// ```
/// use commissary::messages::{Journal, salvage};
///
/// let directory = tempfile::tempdir()?;
/// let [log, mended] = ["log", "mended"].map(|name| directory.path().join(name));
/// let journal = Journal::open(&log)?;
/// for number in 1..=3 {
///     journal.append(7, number, b"hello").wait()?;
/// }
/// journal.close()?;
/// let mut bytes = std::fs::read(&log)?;
/// bytes[100] ^= 1;
/// std::fs::write(&log, bytes)?;
///
/// assert!(Journal::open(&log).is_err());
/// let salvaged = salvage(&log, &mended)?;
/// assert_eq!((salvaged.entries, salvaged.lost.len()), (2, 1));
/// assert_eq!(Journal::open(&mended)?.append(7, 4, b"on we go").wait().is_ok(), true);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`SalvageError`]; there is nothing at `to` then, unless it was made, and not even removing it succeeds on that disk.
pub fn salvage(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<Salvaged, SalvageError> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let exists = || SalvageError::Exists { path: to.to_path_buf() };
    if to.symlink_metadata().is_ok() {
        return Err(exists());
    }
    if to == fresh_name(from) {
        return Err(SalvageError::Reserved { path: to.to_path_buf() });
    }
    let (source, len) = read_only(from)?;
    let source = Salvage::open(source, len, Purpose::Messages)?;
    let place = Place::File(to.to_path_buf());
    let device = place.fresh()?;
    let done = rebuild(source, device).and_then(|(mut log, salvaged)| {
        if to.symlink_metadata().is_ok() {
            return Err(exists());
        }
        place.rename(log.device_mut()).map_err(SalvageError::Write)?;
        if let Err(error) = place.sync_name() {
            // It may be nothing after a power cut.
            let _ = files::remove_file(to);
            return Err(SalvageError::Write(error));
        }
        Ok(salvaged)
    });
    done.inspect_err(|_| place.discard_fresh())
}

/// Writes the new log.
fn rebuild(mut source: Salvage, device: Box<dyn Device>) -> Result<(JournalFile, Salvaged), SalvageError> {
    let base = source.base();
    let wall_ms = SystemClock::default().wall_ms();
    let mut copy = Copy::new(JournalFile::create(device, Purpose::Messages, base, wall_ms)?);
    let (entries, first, header_lost) = (0, base, source.is_header_lost());
    let mut salvaged = Salvaged { entries, first, end: base, header_lost, lost: Vec::new() };
    // Where the last entry that was kept ends; nothing behind a loss.
    let mut last = Some(base);
    while let Some(piece) = source.next().map_err(SalvageError::Read)? {
        match piece {
            Piece::Entry(entry) if is_sound(&entry) => {
                let gap = last.map_or(GROUP_FRAME, |last| entry.position.saturating_sub(last));
                let position = copy.put(&entry, gap).map_err(SalvageError::Write)?;
                if entry.kind == WINDOW {
                    salvaged.first = position.saturating_add(entry.next.saturating_sub(entry.position));
                }
                last = Some(entry.next);
                salvaged.entries += 1;
            }
            // Without a header that says what the file is, this is the only sign that it is something else.
            Piece::Entry(_) if header_lost => return Err(JournalError::NotAJournal.into()),
            Piece::Entry(Entry { position, next, .. }) => {
                salvaged.lost.push(Lost { position, bytes: next.saturating_sub(position) });
                last = None;
            }
            Piece::Lost(lost) => {
                salvaged.lost.push(Lost { position: lost.position, bytes: lost.bytes });
                last = None;
            }
        }
    }
    let gap = last.map_or(0, |last| source.position().saturating_sub(last));
    copy.end(gap).map_err(SalvageError::Write)?;
    let mut log = copy.into_log();
    let time = GroupTime { wall_ms, ..source.last_time() };
    log.seal(time, CLASS_SYNC).map_err(SalvageError::Write)?;
    salvaged.end = log.end();
    Ok((log, salvaged))
}

/// Whether a log with this entry can be opened.
fn is_sound(entry: &Entry<'_>) -> bool {
    let terms = Terms { gaps: Gaps::Loose, window: 1, clients: 1 };
    remember(&mut Windows::new(terms), entry).is_ok()
}

#[cfg(test)]
#[path = "salvage_test.rs"]
mod tests;
