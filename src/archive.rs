//! The journal's records as readers see them: those that a compaction kept stand where they stood before it.

use crate::error::ReadError;
use crate::journal::{Entry, Frames, Tail};
use crate::record::{self, GAP, PAST, Past, SNAPSHOT};

/// A walk through the records, up to the journal's end when it began.
#[derive(Debug)]
pub(crate) struct Records {
    frames: Frames,
    from: u64,
    /// What was dropped for its age is an error, unless it stood before `from`.
    strict: bool,
}

impl Records {
    /// From `from` on. Before a compaction's place any position will do, since what is kept of the records from then lies
    /// elsewhere; after it, a record has to begin there.
    pub(crate) fn open(tail: &Tail, from: u64) -> Result<Self, ReadError> {
        let base = tail.base();
        if from >= base {
            return Ok(Self { frames: tail.frames(from)?, from, strict: true });
        }
        let mut first = tail.frames(base)?;
        let lagged = match first.next()? {
            Some(Entry { kind: SNAPSHOT, .. }) => None,
            Some(Entry { kind: PAST, body, .. }) => gap(base, body)?.filter(|gap| *gap >= from),
            _ => base.checked_sub(1),
        };
        match lagged {
            None => Ok(Self { frames: tail.frames(base)?, from, strict: true }),
            Some(gap) => Err(ReadError::Lagged { resume_at: gap.saturating_add(1) }),
        }
    }

    /// All there are.
    pub(crate) fn all(tail: &Tail) -> Result<Self, ReadError> {
        Ok(Self { frames: tail.frames(tail.base())?, from: 0, strict: false })
    }

    /// Goes on to where may be read now. False if that is no further.
    pub(crate) fn extend(&mut self, tail: &Tail) -> bool {
        tail.extend(&mut self.frames)
    }

    /// Up to where it read.
    pub(crate) fn reached(&self) -> u64 {
        self.frames.position()
    }

    /// Calls `read` with the next record; `None` at the end.
    pub(crate) fn next<T>(
        &mut self,
        read: impl FnOnce(Entry<'_>) -> Result<T, ReadError>,
    ) -> Result<Option<T>, ReadError> {
        while let Some(entry) = self.frames.next()? {
            match entry.kind {
                SNAPSHOT => {}
                PAST => {
                    let past = decode(entry.position, entry.body)?;
                    if past.position < self.from {
                        continue;
                    }
                    let next = past.position.saturating_add(1);
                    if past.kind != GAP {
                        return read(Entry {
                            position: past.position,
                            next,
                            kind: past.kind,
                            body: past.body,
                            ..entry
                        })
                        .map(Some);
                    }
                    if self.strict {
                        return Err(ReadError::Lagged { resume_at: next });
                    }
                }
                _ => return read(entry).map(Some),
            }
        }
        Ok(None)
    }
}

fn decode(position: u64, body: &[u8]) -> Result<Past<'_>, ReadError> {
    record::decode("past record", body).map_err(|error| ReadError::Record { position, what: error.to_string() })
}

/// Up to where records were dropped, if that is what this one says.
fn gap(position: u64, body: &[u8]) -> Result<Option<u64>, ReadError> {
    let past = decode(position, body)?;
    Ok((past.kind == GAP).then_some(past.position))
}
