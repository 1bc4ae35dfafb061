//! An [`Item`](crate::record::Item) written by hand, part after part: this is done for every report on its client's thread.
//!
//! The bytes are postcard's; the usual case, in which most numbers are small, is written without a look at each byte.

use postcard::ser_flavors::Flavor;
use serde::Serialize;

/// What stands before the report.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) place: u16,
    pub(crate) rank: u64,
    pub(crate) depth: u16,
    pub(crate) round: u32,
    pub(crate) key: &'a [u8],
}

impl Head<'_> {
    /// Appends it; the report comes next.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a few stores, for every report")]
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) -> Framed {
        let (depth, round, key) = (u64::from(self.depth), u64::from(self.round), self.key.len() as u64);
        match u32::try_from(self.rank) {
            // The usual case: every number but the rank has one byte, and all of them together eight at most.
            Ok(rank) if rank < LEB128_MAX && self.place < 0x80 && depth | round | key < 0x80 => {
                let (rank, len) = leb128(rank);
                let after = depth | (round << 8) | (key << 16);
                let head = u64::from(self.place) | (u64::from(rank) << 8) | (after << (8 + 8 * len));
                append_low(out, head, len as usize + 4);
            }
            _ => varints(out, [u64::from(self.place), self.rank, depth, round, key]),
        }
        match <&[u8; 8]>::try_from(self.key) {
            // A number, mostly: one store.
            Ok(key) => out.extend_from_slice(key),
            Err(_) => out.extend_from_slice(self.key),
        }
        Framed::begin(out)
    }
}

/// What stands after a report that reveals nothing.
pub(crate) const NO_TAIL: [u8; 4] = [0; 4];

/// What stands after the report.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tail<'a> {
    pub(crate) found: &'a [u8],
    pub(crate) beyond: &'a [u8],
    pub(crate) too_deep: u32,
    pub(crate) expired: bool,
}

impl Tail<'_> {
    #[inline]
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        if self.found.is_empty() && self.beyond.is_empty() && self.too_deep == 0 && !self.expired {
            out.extend_from_slice(&NO_TAIL);
            return;
        }
        for bytes in [self.found, self.beyond] {
            varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
        varint(out, u64::from(self.too_deep));
        out.push(u8::from(self.expired));
    }
}

/// Bytes whose length is written before them once it is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Framed {
    start: usize,
}

impl Framed {
    #[inline]
    fn begin(out: &mut Vec<u8>) -> Self {
        out.push(0);
        Self { start: out.len() }
    }

    /// What was appended since.
    #[inline]
    pub(crate) fn bytes(self, out: &[u8]) -> &[u8] {
        out.get(self.start..).unwrap_or_default()
    }

    /// Takes back what was appended since.
    pub(crate) fn clear(self, out: &mut Vec<u8>) {
        out.truncate(self.start);
    }

    #[inline]
    pub(crate) fn end(self, out: &mut Vec<u8>) {
        let len = out.len().saturating_sub(self.start);
        match out.get_mut(self.start.wrapping_sub(1)) {
            #[expect(clippy::cast_possible_truncation, reason = "seven bits")]
            Some(place) if len < 0x80 => *place = len as u8,
            _ => self.end_long(out, len as u64),
        }
    }

    /// A length of several bytes: what follows it makes room.
    #[inline(never)]
    fn end_long(self, out: &mut Vec<u8>, len: u64) {
        let (end, bytes) = (out.len(), (u64::BITS - (len | 1).leading_zeros()).div_ceil(7) as usize);
        out.resize(end + bytes - 1, 0);
        out.copy_within(self.start..end, self.start + bytes - 1);
        let mut rest = len;
        for (nth, place) in out.iter_mut().skip(self.start.saturating_sub(1)).take(bytes).enumerate() {
            let low = (rest & 0x7f) as u8;
            *place = if nth + 1 < bytes { low | 0x80 } else { low };
            rest >>= 7;
        }
    }
}

/// Appends what postcard makes of `value`, up to `limit` bytes. Says how many bytes it has if they are more; then what was
/// appended is of no use.
///
/// # Errors
///
/// What the serializer says.
#[inline]
pub(crate) fn append_up_to<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
    limit: usize,
) -> Result<Option<usize>, postcard::Error> {
    let start = out.len();
    postcard::serialize_with_flavor(value, Bounded { out, start, end: start.saturating_add(limit), beyond: 0 })
}

/// A place to write to that keeps no more than it may.
struct Bounded<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes that were not kept.
    beyond: usize,
}

impl Flavor for Bounded<'_> {
    type Output = Option<usize>;

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        if self.out.len() < self.end {
            self.out.push(byte);
        } else {
            self.beyond = self.beyond.saturating_add(1);
        }
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if bytes.len() <= self.end - self.out.len() {
            self.out.extend_from_slice(bytes);
        } else {
            self.beyond = self.beyond.saturating_add(bytes.len());
        }
        Ok(())
    }

    #[inline]
    fn finalize(self) -> postcard::Result<Option<usize>> {
        Ok((self.beyond > 0).then(|| (self.out.len() - self.start).saturating_add(self.beyond)))
    }
}

/// Numbers below this have at most four bytes as LEB128.
const LEB128_MAX: u32 = 1 << 28;

/// An unsigned LEB128 number below `LEB128_MAX`, the first byte lowest, and how many bytes it has.
#[inline]
fn leb128(number: u32) -> (u32, u32) {
    // Seven bits go to each byte, halves first.
    let n = (number & 0x0000_3fff) | ((number & 0x0fff_c000) << 2);
    let n = (n & 0x007f_007f) | ((n & 0x3f80_3f80) << 1);
    // Every byte but the last says that another one follows.
    match number {
        0..0x80 => (n, 1),
        0x80..0x4000 => (n | 0x80, 2),
        0x4000..0x20_0000 => (n | 0x8080, 3),
        _ => (n | 0x0080_8080, 4),
    }
}

/// Appends the low `len` bytes, the lowest first; at most eight.
#[inline]
#[expect(clippy::little_endian_bytes, reason = "LEB128 has its lowest bits first")]
fn append_low(out: &mut Vec<u8>, bytes: u64, len: usize) {
    let end = out.len() + len;
    // Eight are one store; the rest is cut off.
    out.extend_from_slice(&bytes.to_le_bytes());
    out.truncate(end);
}

#[cold]
#[inline(never)]
fn varints(out: &mut Vec<u8>, numbers: [u64; 5]) {
    for number in numbers {
        varint(out, number);
    }
}

/// An unsigned LEB128 number, as postcard writes it.
#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
pub(crate) fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    #[test]
    fn numbers_at_every_length_are_postcards() {
        for bits in 0..28 {
            for number in [1 << bits, (1 << bits) - 1, (2 << bits) - 1] {
                let (bytes, len) = leb128(number);
                let mut out = Vec::new();
                append_low(&mut out, u64::from(bytes), len as usize);
                assert_eq!(out, postcard::to_stdvec(&number).unwrap(), "{number}");
            }
        }
    }

    #[test]
    fn lengths_of_every_size_are_postcards() {
        for len in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152] {
            let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
            let mut out = vec![77];
            let framed = Framed::begin(&mut out);
            out.extend_from_slice(&bytes);
            framed.end(&mut out);
            assert_eq!(out.split_first(), Some((&77, &*postcard::to_stdvec(serde_bytes::Bytes::new(&bytes)).unwrap())));
        }
    }

    proptest! {
        #[test]
        fn framed_bytes_are_postcards(before: Vec<u8>, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut out = before.clone();
            let framed = Framed::begin(&mut out);
            out.extend_from_slice(&bytes);
            prop_assert_eq!(framed.bytes(&out), &bytes);
            framed.end(&mut out);
            let expected = postcard::to_stdvec(&serde_bytes::Bytes::new(&bytes)).unwrap();
            prop_assert_eq!(out, [before, expected].concat());
        }

        #[test]
        fn what_is_too_long_is_counted_and_not_kept(
            before: Vec<u8>, value: (Vec<u8>, u64, Vec<String>), limit in 0_usize..200
        ) {
            let mut out = before.clone();
            let bytes = append_up_to(&value, &mut out, limit).unwrap();
            let whole = postcard::to_stdvec(&value).unwrap();
            prop_assert_eq!(bytes, (whole.len() > limit).then_some(whole.len()));
            prop_assert!(out.len() <= before.len() + limit);
            if bytes.is_none() {
                prop_assert_eq!(out, [before, whole].concat());
            }
        }
    }
}
