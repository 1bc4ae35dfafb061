//! The message log's frames on a wire: a pair of pure functions over bytes, without I/O.
//!
//! Senders [`encode`] messages and ends of sessions, the log's side decodes them and encodes its answers. The frames follow
//! one another in a stream of bytes without anything between them. They are not those of the log's file, which
//! [`docs::format`](crate::docs::format) describes. All integers are big-endian.
//!
//! | Offset | Bytes | Field | Meaning |
//! |---:|---:|---|---|
//! | 0 | 4 | len | u32, bytes after the head: 17 to the larger of 25 + cap and 42 |
//! | 4 | 4 | checksum | u32, CRC-32 (as in the file) of the 4 bytes of `len` and of all that follows the head |
//! | 8 | 1 | kind | u8 |
//! | 9 | 16 | client | u128, opaque |
//! | 25 | len - 17 | fields | by kind |
//!
//! | Kind | Name | Fields | Sent by |
//! |---:|---|---|---|
//! | 1 | Message | seq u64, payload: what is left, 0 to cap bytes | client |
//! | 2 | Ack | seq u64, position u64, class u8, interval u64 | server |
//! | 3 | Nack | seq u64, reason u8, the reason's fields | server |
//! | 4 | End | none | client |
//! | 5 | Ended, the answer to End | position u64, class u8, interval u64 | server |
//! | 6 | Not ended, the answer to End | reason u8, the reason's fields | server |
//!
//! `class`: 0 synced, 1 written and synced within `interval`, 2 written. `interval` is in milliseconds, 0 but in class 1.
//!
//! | Reason | Name | Fields |
//! |---:|---|---|
//! | 1 | too long | bytes u64, cap u64 |
//! | 2 | gap | expected u64 |
//! | 3 | expired | oldest u64 |
//! | 4 | differs | position u64 |
//! | 5 | overloaded | retry after u64, milliseconds |
//! | 6 | full | none |
//! | 7 | io | kind u8: 0 other, else the place in the list below, from 1 |
//! | 8 | closing | none |
//! | 9 | empty | none |
//!
//! Kinds of I/O errors, in the names of [`std::io::ErrorKind`]: `NotFound`, `PermissionDenied`, `ConnectionRefused`,
//! `ConnectionReset`, `HostUnreachable`, `NetworkUnreachable`, `ConnectionAborted`, `NotConnected`, `AddrInUse`,
//! `AddrNotAvailable`, `NetworkDown`, `BrokenPipe`, `AlreadyExists`, `WouldBlock`, `NotADirectory`, `IsADirectory`,
//! `DirectoryNotEmpty`, `ReadOnlyFilesystem`, `StaleNetworkFileHandle`, `InvalidInput`, `InvalidData`, `TimedOut`,
//! `WriteZero`, `StorageFull`, `NotSeekable`, `QuotaExceeded`, `FileTooLarge`, `ResourceBusy`, `ExecutableFileBusy`,
//! `Deadlock`, `CrossesDevices`, `TooManyLinks`, `InvalidFilename`, `ArgumentListTooLong`, `Interrupted`, `Unsupported`,
//! `UnexpectedEof`, `OutOfMemory`.
//!
//! A frame has one encoding: what decodes encodes to the same bytes.
//!
//! # Examples
//!
//! ```
//! use commissary::messages::wire::{self, Frame};
//!
//! let mut sent = Vec::new();
//! let message = Frame::Message { client: 7, seq: 1, payload: b"hello\r\n" };
//! wire::encode(&message, &mut sent)?;
//!
//! // As much as has come so far, then all of it.
//! assert_eq!(wire::decode(&sent[..10], 256)?, None);
//! assert_eq!(wire::decode(&sent, 256)?, Some((message, sent.len())));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io::ErrorKind;
use std::time::Duration;

use super::{Ack, Nack};
use crate::journal::Fields;
use crate::ticket::Durability;

#[cfg(test)]
#[path = "wire_test.rs"]
mod tests;

/// Length of what stands before the checked part of a frame: length and checksum.
const HEAD: usize = 8;
/// Length of kind and client: no frame has less behind its head.
const PREFIX: usize = 1 + 16;
/// What a message has behind its head but for the payload.
const MESSAGE: usize = PREFIX + 8;
/// The longest that is no message: a refusal as too long.
const ANSWER_MAX: usize = PREFIX + 8 + 1 + 8 + 8;

const KIND_MESSAGE: u8 = 1;
const KIND_ACK: u8 = 2;
const KIND_NACK: u8 = 3;
const KIND_END: u8 = 4;
const KIND_ENDED: u8 = 5;
const KIND_NOT_ENDED: u8 = 6;

/// Kinds of I/O errors by their numbers on the wire, from 1. Only ever longer.
const IO_KINDS: [ErrorKind; 38] = [
    ErrorKind::NotFound,
    ErrorKind::PermissionDenied,
    ErrorKind::ConnectionRefused,
    ErrorKind::ConnectionReset,
    ErrorKind::HostUnreachable,
    ErrorKind::NetworkUnreachable,
    ErrorKind::ConnectionAborted,
    ErrorKind::NotConnected,
    ErrorKind::AddrInUse,
    ErrorKind::AddrNotAvailable,
    ErrorKind::NetworkDown,
    ErrorKind::BrokenPipe,
    ErrorKind::AlreadyExists,
    ErrorKind::WouldBlock,
    ErrorKind::NotADirectory,
    ErrorKind::IsADirectory,
    ErrorKind::DirectoryNotEmpty,
    ErrorKind::ReadOnlyFilesystem,
    ErrorKind::StaleNetworkFileHandle,
    ErrorKind::InvalidInput,
    ErrorKind::InvalidData,
    ErrorKind::TimedOut,
    ErrorKind::WriteZero,
    ErrorKind::StorageFull,
    ErrorKind::NotSeekable,
    ErrorKind::QuotaExceeded,
    ErrorKind::FileTooLarge,
    ErrorKind::ResourceBusy,
    ErrorKind::ExecutableFileBusy,
    ErrorKind::Deadlock,
    ErrorKind::CrossesDevices,
    ErrorKind::TooManyLinks,
    ErrorKind::InvalidFilename,
    ErrorKind::ArgumentListTooLong,
    ErrorKind::Interrupted,
    ErrorKind::Unsupported,
    ErrorKind::UnexpectedEof,
    ErrorKind::OutOfMemory,
];

/// What goes over the wire, in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A client's message.
    Message {
        /// Who sends it.
        client: u128,
        /// Its number among the client's messages.
        seq: u64,
        /// What it says.
        payload: &'a [u8],
    },
    /// What became of a message.
    Answer {
        /// Who sent it.
        client: u128,
        /// Its number among the client's messages.
        seq: u64,
        /// ACK or NACK.
        answer: Result<Ack, Nack>,
    },
    /// A client ends its session.
    End {
        /// Which one.
        client: u128,
    },
    /// What became of the end of a session.
    Ended {
        /// Whose session.
        client: u128,
        /// ACK or NACK.
        answer: Result<Ack, Nack>,
    },
}

/// A payload whose frame would not fit in 32 bits. The longest that a receiver takes is its own decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("payload of {bytes} bytes is longer than a frame can hold, {limit}")]
pub struct PayloadTooLong {
    /// The payload's length.
    pub bytes: usize,
    /// The longest possible.
    pub limit: usize,
}

/// Why bytes are not a frame. Nothing that comes after them can be made sense of: close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A frame longer than any with a payload of the cap; known from its first 4 bytes.
    #[error("frame of {bytes} bytes is longer than the limit of {limit}")]
    TooLong {
        /// Length with the head that the frame claims.
        bytes: u64,
        /// The longest with the head that is taken: [`frame_max`] of the cap.
        limit: usize,
    },
    /// A frame too short for a kind and a client; known from its first 4 bytes.
    #[error("frame of {bytes} bytes is shorter than any")]
    TooShort {
        /// Length with the head that the frame claims.
        bytes: u64,
    },
    /// The bytes are not those that were sent.
    #[error("checksum is {found:08x}, the bytes have {computed:08x}")]
    Checksum {
        /// The one in the frame.
        found: u32,
        /// The one that its bytes have.
        computed: u32,
    },
    /// The checksum is right and the contents are not.
    #[error("frame is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
}

/// Returns the length of the longest frame that [`decode`] takes with this cap: who holds so many bytes holds a frame
/// or an error.
#[must_use]
pub fn frame_max(cap: usize) -> usize {
    MESSAGE.saturating_add(cap).max(ANSWER_MAX).saturating_add(HEAD)
}

/// Appends a frame to `out`.
///
/// Durations are rounded up to milliseconds. A kind of I/O error that is not in the table is sent as other.
///
/// # Errors
///
/// When the payload is longer than 4294967270 bytes; `out` is then as before.
pub fn encode(frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<(), PayloadTooLong> {
    let start = out.len();
    let (Frame::Message { client, .. }
    | Frame::Answer { client, .. }
    | Frame::End { client }
    | Frame::Ended { client, .. }) = *frame;
    let payload = if let Frame::Message { payload, .. } = *frame { payload } else { &[] };
    let limit = usize::try_from(u32::MAX).unwrap_or(usize::MAX) - MESSAGE;
    if payload.len() > limit {
        return Err(PayloadTooLong { bytes: payload.len(), limit });
    }
    out.extend_from_slice(&[0; HEAD]);
    out.push(kind_of(frame));
    out.extend_from_slice(&client.to_be_bytes());
    if let Frame::Message { seq, .. } | Frame::Answer { seq, .. } = *frame {
        out.extend_from_slice(&seq.to_be_bytes());
    }
    out.extend_from_slice(payload);
    if let Frame::Answer { answer, .. } | Frame::Ended { answer, .. } = frame {
        match answer {
            Ok(ack) => put_ack(ack, out),
            Err(nack) => put_nack(nack, out),
        }
    }
    // Fits: a payload that would not was refused.
    let len = u32::try_from(out.len() - start - HEAD).unwrap_or(u32::MAX);
    if let Some((head, content)) = out.get_mut(start..).and_then(|frame| frame.split_first_chunk_mut::<HEAD>()) {
        let checksum = checksum(len.to_be_bytes(), content);
        *head = (u64::from(len) << 32 | u64::from(checksum)).to_be_bytes();
    }
    Ok(())
}

/// Reads the frame at the start of `bytes`: the frame and its length, or `None` when more bytes must come first.
///
/// `cap` is the longest payload that is taken. Nothing is allocated; the payload is a part of `bytes`.
///
/// # Errors
///
/// See [`WireError`]. A length that is out of bounds is refused as soon as it is there, before the rest is waited for.
pub fn decode(bytes: &[u8], cap: usize) -> Result<Option<(Frame<'_>, usize)>, WireError> {
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let claimed = u64::from(u32::from_be_bytes(*len)) + HEAD as u64;
    let limit = frame_max(cap);
    let used = usize::try_from(claimed).ok().filter(|used| *used <= limit);
    let used = used.ok_or(WireError::TooLong { bytes: claimed, limit })?;
    if used < HEAD + PREFIX {
        return Err(WireError::TooShort { bytes: claimed });
    }
    let Some((found, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let Some(content) = rest.get(..used - HEAD) else { return Ok(None) };
    let (found, computed) = (u32::from_be_bytes(*found), checksum(*len, content));
    if found != computed {
        return Err(WireError::Checksum { found, computed });
    }
    let mut content = Content(Fields(content));
    let frame = content.frame(cap)?;
    if content.0.is_empty() {
        Ok(Some((frame, used)))
    } else {
        Err(WireError::Malformed { what: "bytes are left over" })
    }
}

fn checksum(len: [u8; 4], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&len);
    hasher.update(content);
    hasher.finalize()
}

fn kind_of(frame: &Frame<'_>) -> u8 {
    match frame {
        Frame::Message { .. } => KIND_MESSAGE,
        Frame::Answer { answer: Ok(_), .. } => KIND_ACK,
        Frame::Answer { answer: Err(_), .. } => KIND_NACK,
        Frame::End { .. } => KIND_END,
        Frame::Ended { answer: Ok(_), .. } => KIND_ENDED,
        Frame::Ended { answer: Err(_), .. } => KIND_NOT_ENDED,
    }
}

fn put_ack(ack: &Ack, out: &mut Vec<u8>) {
    let interval = if let Durability::Every(interval) = ack.durability { millis(interval) } else { 0 };
    out.extend_from_slice(&ack.position.to_be_bytes());
    out.push(ack.durability.class());
    out.extend_from_slice(&interval.to_be_bytes());
}

fn put_nack(nack: &Nack, out: &mut Vec<u8>) {
    let mut put = |reason: u8, fields: &[u64]| {
        out.push(reason);
        for field in fields {
            out.extend_from_slice(&field.to_be_bytes());
        }
    };
    match *nack {
        Nack::TooLong { bytes, cap } => put(1, &[bytes as u64, cap as u64]),
        Nack::Gap { expected } => put(2, &[expected]),
        Nack::Expired { oldest } => put(3, &[oldest]),
        Nack::Differs { position } => put(4, &[position]),
        Nack::Overloaded { retry_after } => put(5, &[millis(retry_after)]),
        Nack::Full => put(6, &[]),
        Nack::Io { kind } => {
            put(7, &[]);
            out.push((1..).zip(&IO_KINDS).find(|(_, known)| **known == kind).map_or(0, |(number, _)| number));
        }
        Nack::Closing => put(8, &[]),
        Nack::Empty => put(9, &[]),
    }
}

/// Whole milliseconds, rounded up; at most what 64 bits hold.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// What is left to read of a frame's contents.
struct Content<'a>(Fields<'a>);

const MISSING: WireError = WireError::Malformed { what: "a field is missing" };

impl<'a> Content<'a> {
    fn frame(&mut self, cap: usize) -> Result<Frame<'a>, WireError> {
        let kind = self.u8()?;
        let client = self.0.u128().ok_or(MISSING)?;
        Ok(match kind {
            KIND_MESSAGE => {
                let seq = self.u64()?;
                let payload = std::mem::take(&mut self.0.0);
                // Within the longest answer's length, a message may still be too long for a small cap.
                if payload.len() > cap {
                    return Err(WireError::Malformed { what: "the payload is longer than the cap" });
                }
                Frame::Message { client, seq, payload }
            }
            KIND_ACK => Frame::Answer { client, seq: self.u64()?, answer: Ok(self.ack()?) },
            KIND_NACK => Frame::Answer { client, seq: self.u64()?, answer: Err(self.nack()?) },
            KIND_END => Frame::End { client },
            KIND_ENDED => Frame::Ended { client, answer: Ok(self.ack()?) },
            KIND_NOT_ENDED => Frame::Ended { client, answer: Err(self.nack()?) },
            _ => return Err(WireError::Malformed { what: "its kind is not known" }),
        })
    }

    fn ack(&mut self) -> Result<Ack, WireError> {
        let (position, class, interval) = (self.u64()?, self.u8()?, self.u64()?);
        let durability = match (class, interval) {
            (0, 0) => Durability::Sync,
            (1, _) => Durability::Every(Duration::from_millis(interval)),
            (2, 0) => Durability::Os,
            _ => return Err(WireError::Malformed { what: "its class of durability is not known" }),
        };
        Ok(Ack { position, durability })
    }

    fn nack(&mut self) -> Result<Nack, WireError> {
        Ok(match self.u8()? {
            1 => Nack::TooLong { bytes: self.length()?, cap: self.length()? },
            2 => Nack::Gap { expected: self.u64()? },
            3 => Nack::Expired { oldest: self.u64()? },
            4 => Nack::Differs { position: self.u64()? },
            5 => Nack::Overloaded { retry_after: Duration::from_millis(self.u64()?) },
            6 => Nack::Full,
            7 => Nack::Io { kind: self.io_kind()? },
            8 => Nack::Closing,
            9 => Nack::Empty,
            _ => return Err(WireError::Malformed { what: "its reason is not known" }),
        })
    }

    fn io_kind(&mut self) -> Result<ErrorKind, WireError> {
        match self.u8()?.checked_sub(1) {
            None => Ok(ErrorKind::Other),
            Some(place) => {
                let kind = IO_KINDS.get(usize::from(place));
                kind.copied().ok_or(WireError::Malformed { what: "its kind of I/O error is not known" })
            }
        }
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        self.0.u8().ok_or(MISSING)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.0.u64().ok_or(MISSING)
    }

    fn length(&mut self) -> Result<usize, WireError> {
        usize::try_from(self.u64()?).map_err(|_| WireError::Malformed { what: "a length does not fit in memory" })
    }
}
