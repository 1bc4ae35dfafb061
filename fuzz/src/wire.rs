//! Bytes are a stream of the message log's frames, decoded with some cap. Nothing panics; no frame is longer than the cap
//! allows; what is taken encodes to the same bytes; and no more bytes are waited for than the longest frame has.
//!
//! The first byte tells whether the rest is taken as it is, or gets right checksums first: then the damage is in the contents.
use commissary::messages::wire::{self, Frame};

use super::Seen;

/// What the corpus comes through.
pub const STATES: &[&str] = &["a frame", "refused", "more is awaited"];

const HEAD: usize = 8;

/// Makes every checksum right, as far as the frames' lengths lead.
fn seal(mut rest: &mut [u8]) {
    while let Some((head, tail)) = rest.split_first_chunk_mut::<HEAD>() {
        let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let Some((contents, after)) = tail.split_at_mut_checked(len as usize) else { return };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head[..4]);
        hasher.update(contents);
        head[4..].copy_from_slice(&hasher.finalize().to_be_bytes());
        rest = after;
    }
}

pub fn run(bytes: &[u8], seen: &mut Seen) {
    let Some((&[how, cap], stream)) = bytes.split_first_chunk() else { return };
    let mut stream = stream.to_vec();
    if how % 2 == 1 {
        seal(&mut stream);
    }
    let cap = usize::from(cap);
    let mut rest = stream.as_slice();
    let mut again = Vec::new();
    while let Ok(Some((frame, used))) = wire::decode(rest, cap) {
        seen.insert("a frame");
        assert!(used <= wire::frame_max(cap), "{used} bytes with a cap of {cap}");
        if let Frame::Message { payload, .. } = frame {
            assert!(payload.len() <= cap && rest.as_ptr_range().contains(&payload.as_ptr()) || payload.is_empty());
        }
        again.clear();
        wire::encode(&frame, &mut again).expect("what was short enough to decode");
        assert_eq!(again, &rest[..used]);
        assert_eq!(wire::decode(&rest[..used - 1], cap), Ok(None), "not without its last byte");
        rest = &rest[used..];
    }
    if wire::decode(rest, cap).is_err() {
        seen.insert("refused");
    } else {
        seen.insert("more is awaited");
        assert!(rest.len() < wire::frame_max(cap), "{} bytes are enough for any frame", rest.len());
    }
}
