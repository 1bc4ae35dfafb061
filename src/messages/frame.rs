//! What the entries of a message log hold: pure encode and decode. The bytes are in `docs/format.md`.

use super::window::Known;
use crate::journal::{FRAME_MAX, Fields};

/// A message.
pub(super) const MESSAGE: u8 = 1;
/// A client's session ended.
pub(super) const END: u8 = 2;
/// What is remembered of a client; only at the front of a log that was compacted.
pub(super) const WINDOW: u8 = 3;

/// Length of what stands before a message's payload in its body.
const FIELDS: usize = 16 + 8 + 8;

/// The body of a message, or of a session's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Body<'a> {
    pub(super) client: u128,
    /// Of a session's end: the last number taken.
    pub(super) seq: u64,
    /// Milliseconds since 1970 when it was handed in.
    pub(super) wall_ms: i64,
    /// Of a session's end: nothing.
    pub(super) payload: &'a [u8],
}

impl<'a> Body<'a> {
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        out.reserve(FIELDS + self.payload.len());
        out.extend_from_slice(&self.client.to_be_bytes());
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.wall_ms.to_be_bytes());
        out.extend_from_slice(self.payload);
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (client, seq, wall_ms) = (fields.u128()?, fields.u64()?, fields.i64()?);
        Some(Self { client, seq, wall_ms, payload: fields.rest() })
    }
}

/// What is remembered of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WindowBody {
    pub(super) client: u128,
    /// Position of the last message taken.
    pub(super) last: u64,
    /// Numbers up to this one are not remembered one by one.
    pub(super) floor: Option<u64>,
    /// By number, ascending.
    pub(super) known: Vec<Known>,
}

/// Length of what stands before the numbers in a window's body, and of each of these.
const WINDOW_FIELDS: usize = 16 + 8 + 1 + 8;
const WINDOW_NUMBER: usize = 8 + 8 + 4;

/// Most numbers of a client that a window holds: what leaves it a frame.
pub(super) const WINDOW_NUMBERS_MAX: usize = 800_000;
const _: () = assert!(WINDOW_FIELDS + WINDOW_NUMBERS_MAX * WINDOW_NUMBER + 64 <= FRAME_MAX, "a full window is a frame");

impl WindowBody {
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.client.to_be_bytes());
        out.extend_from_slice(&self.last.to_be_bytes());
        out.push(u8::from(self.floor.is_some()));
        out.extend_from_slice(&self.floor.unwrap_or_default().to_be_bytes());
        for known in &self.known {
            out.extend_from_slice(&known.seq.to_be_bytes());
            out.extend_from_slice(&known.position.to_be_bytes());
            out.extend_from_slice(&known.crc.to_be_bytes());
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (client, last, has_floor, floor) = (fields.u128()?, fields.u64()?, fields.u8()?, fields.u64()?);
        let mut known = Vec::new();
        while !fields.is_empty() {
            known.push(Known { seq: fields.u64()?, position: fields.u64()?, crc: fields.u32()? });
        }
        let ascending = known.is_sorted_by(|one: &Known, next| one.seq < next.seq);
        let floor = (has_floor == 1).then_some(floor);
        (has_floor <= 1 && ascending).then_some(Self { client, last, floor, known })
    }
}
