//! Reads a message log with nothing but the standard library and a CRC-32: what `docs/format.md` says, in a page.
//!
//! ```text
//! journal_reader FILE                         position, client, number, time (ms since 1970) and payload
//! journal_reader FILE --payloads [CLIENT]     payloads only, of all clients or of one
//! ```
#![expect(clippy::cast_possible_truncation, reason = "numbers as wide as their fields")]
use std::io::Write;
type Done = Result<(), Box<dyn std::error::Error>>;

fn main() -> Done {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let file = std::fs::read(args.first().ok_or("which file?")?)?;
    let of = args.get(2).map(|client| u128::from_str_radix(client, 16)).transpose()?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let read = read(&file, |position, kind, client, seq, time, payload| {
        match (args.len(), kind) {
            (1, 1) => {
                let end: &[u8] = if payload.ends_with(b"\n") { b"" } else { b"\n" };
                out.write_all(&[format!("{position} {client:032x} {seq} {time} ").as_bytes(), payload, end].concat())?;
            }
            (1, _) => writeln!(out, "{position} {client:032x} end {time}")?,
            (_, 1) if of.is_none_or(|of| of == client) => out.write_all(payload)?,
            _ => {}
        }
        Ok(())
    });
    out.flush()?;
    read
}

fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Calls `each` with position, kind (2: a session's end), client, number, time and payload; says where a bad frame is.
pub(crate) fn read(file: &[u8], mut each: impl FnMut(u64, u8, u128, u64, i64, &[u8]) -> Done) -> Done {
    let (header, mut rest) = file.split_at_checked(32).ok_or("no header")?;
    let crc = u128::from(crc32fast::hash(&header[..28]));
    if header[..10] != *b"CMSRYJNL\0\x04" || number(&header[10..12]) & !1 != 2 || crc != number(&header[28..]) {
        return Err("not the header of a message log, or a damaged one".into());
    }
    let (mut position, mut previous) = (number(&header[12..20]) as u64, &header[28..]);
    while !rest.is_empty() {
        let bad = || format!("bad frame at position {position}");
        let (head, tail) = rest.split_at_checked(12).ok_or_else(bad)?;
        let (payload, after) = tail.split_at_checked(number(&head[..4]) as usize).ok_or_else(bad)?;
        let crc = u128::from(crc32fast::hash(&[&head[..8], payload].concat()));
        if payload.len() < 6 || crc != number(&head[8..]) || *previous != head[4..8] || payload[0] != 1 {
            return Err(bad().into());
        }
        if let (kind @ 1..=2, Some((fields, said))) = (payload[1], payload[6..].split_at_checked(32)) {
            let (seq, time) = (number(&fields[16..24]) as u64, number(&fields[24..]) as i64);
            each(position, kind, number(&fields[..16]), seq, time, said)?;
        }
        (position, previous, rest) = (position + 12 + payload.len() as u64, &head[8..], after);
    }
    Ok(())
}
