//! Names and tokens.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher;

use crate::error::DetailError;
use crate::limits::Limits;

/// A client's identity: any number but zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientId(u64);

impl ClientId {
    /// Checks the number.
    ///
    /// # Errors
    ///
    /// [`DetailError::ZeroId`] for zero.
    pub fn new(id: u64) -> Result<Self, DetailError> {
        if id == 0 { Err(DetailError::ZeroId) } else { Ok(Self(id)) }
    }

    /// The number.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }

    /// For ids that were checked before they were written down.
    pub(crate) fn known(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.0)
    }
}

/// Checks a screen name: 1 to 15 of `A-Z a-z 0-9 _`.
pub(crate) fn check_name(name: &str) -> Result<(), DetailError> {
    let chars = name.chars().count();
    if chars == 0 {
        return Err(DetailError::NoName);
    }
    if chars > Limits::NAME_CHARS {
        return Err(DetailError::LongName { chars, limit: Limits::NAME_CHARS });
    }
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '_')) {
        Some(found) => Err(DetailError::NameCharacter { found }),
        None => Ok(()),
    }
}

/// Checks a service's id: 1 to 64 of `a-z A-Z 0-9 - _ .`.
pub(crate) fn check_service_id(id: &str) -> bool {
    (1..=Limits::SERVICE_ID_CHARS).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The proof of one lease. Whoever has it, and is registered under the client's id, can submit, renew and release.
///
/// It names service, pool generation and slot, and carries 128 bits that cannot be guessed: a slot is leased once in its
/// life, so a token can only ever mean one lease. It prints as 64 hexadecimal digits and parses back.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseToken {
    pub(crate) service: u32,
    pub(crate) slot: u32,
    pub(crate) generation: u64,
    pub(crate) nonce: u128,
}

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:08x}{:016x}{:032x}", self.service, self.slot, self.generation, self.nonce)
    }
}

impl fmt::Debug for LeaseToken {
    /// Shows which lease it is, not its secret part: logs must not leak leases.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseToken({}/{}/{})", self.service, self.generation, self.slot)
    }
}

/// Text that is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a lease token: 64 hexadecimal digits expected")]
pub struct ParseTokenError;

impl FromStr for LeaseToken {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let well_formed = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let field = |range| text.get(range).filter(|_| well_formed).ok_or(ParseTokenError);
        let bad = |_| ParseTokenError;
        Ok(Self {
            service: u32::from_str_radix(field(0..8)?, 16).map_err(bad)?,
            slot: u32::from_str_radix(field(8..16)?, 16).map_err(bad)?,
            generation: u64::from_str_radix(field(16..32)?, 16).map_err(bad)?,
            nonce: u128::from_str_radix(field(32..64)?, 16).map_err(bad)?,
        })
    }
}

impl Serialize for LeaseToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LeaseToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// The hub's secret: tokens are made from it by a keyed pseudo-random function (SipHash-2-4 with 128 bits of output), so
/// they need not be written down, survive a restart, and cannot be made by who can read the journal.
#[derive(Clone)]
pub(crate) struct Secret([u8; 16]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    pub(crate) const BYTES: usize = 16;

    pub(crate) fn generate(rng: &mut impl Rng) -> Self {
        let mut bytes = [0; Self::BYTES];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    pub(crate) fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The secret part of one slot's token.
    pub(crate) fn nonce(&self, service: u32, generation: u64, slot: u32) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&service.to_be_bytes());
        hasher.write(&generation.to_be_bytes());
        hasher.write(&slot.to_be_bytes());
        let hash = hasher.finish128();
        (u128::from(hash.h1) << 64) | u128::from(hash.h2)
    }

    /// A number that looks random to those without the secret; for jitter and for spreading origins over a table.
    pub(crate) fn scramble(&self, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(b"scramble");
        hasher.write(bytes);
        hasher.finish128().h1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_parses_back_from_its_text() {
        let token = LeaseToken { service: 7, slot: 9, generation: u64::MAX, nonce: 1 << 127 };
        assert_eq!(token.to_string().parse(), Ok(token));
        assert!(!format!("{token:?}").contains("8000"), "the secret part stays out of logs");
    }

    #[test]
    fn text_that_is_no_token_is_refused() {
        let short = "ab".repeat(31);
        let sign = format!("+{}", "0".repeat(63));
        let wide = "\u{e9}".repeat(32);
        for text in ["", "x", short.as_str(), sign.as_str(), wide.as_str()] {
            assert_eq!(text.parse::<LeaseToken>(), Err(ParseTokenError), "{text:?}");
        }
    }

    #[test]
    fn names_are_1_to_15_letters_digits_and_underscores() {
        assert_eq!(check_name("a_Z9"), Ok(()));
        assert_eq!(check_name(&"x".repeat(15)), Ok(()));
        assert_eq!(check_name(""), Err(DetailError::NoName));
        assert_eq!(check_name(&"x".repeat(16)), Err(DetailError::LongName { chars: 16, limit: 15 }));
        assert_eq!(check_name("a b"), Err(DetailError::NameCharacter { found: ' ' }));
        assert_eq!(check_name("\u{e9}"), Err(DetailError::NameCharacter { found: '\u{e9}' }));
    }
}
