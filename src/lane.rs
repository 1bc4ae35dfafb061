//! Lanes: what orders subjects, and what whoever works on one sees of it.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::error::LaneStateError;
use crate::lease::SubjectError;
use crate::results::hex;
use crate::run::Moment;
pub(crate) use crate::run::{Run, StateBytes, Step};
use crate::service::{Service, contain};
use crate::slot::Mask;

/// Names a lane: subjects of one lane are worked on in the order in which they came, by one lease at a time. 1 to
/// `Limits::key_bytes` bytes; equal bytes are one lane of a service.
///
/// ```
/// use commissary::LaneKey;
///
/// assert_eq!(LaneKey::from("fridge 7"), LaneKey::from(b"fridge 7".as_slice()));
/// assert_eq!(LaneKey::from(7_u32).as_bytes(), [0, 0, 0, 7]);
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneKey(Box<[u8]>);

impl LaneKey {
    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes as text, if they are.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl From<&[u8]> for LaneKey {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<Vec<u8>> for LaneKey {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&str> for LaneKey {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
}

impl From<String> for LaneKey {
    fn from(text: String) -> Self {
        Self(text.into_bytes().into())
    }
}

macro_rules! from_numbers {
    ($($number:ty),*) => {$(
        /// Big-endian: byte order is numeric order.
        impl From<$number> for LaneKey {
            fn from(number: $number) -> Self {
                Self(number.to_be_bytes().into())
            }
        }
    )*};
}

from_numbers!(u32, u64, u128);

impl fmt::Debug for LaneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lane {}", self.0.escape_ascii())
    }
}

/// As text where people read, if it is text, else as bytes: as by-name calls take it.
impl Serialize for LaneKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.as_str() {
            Some(text) if serializer.is_human_readable() => serializer.serialize_str(text),
            _ => serializer.serialize_bytes(&self.0),
        }
    }
}

/// The bytes of a subject's lane, as the plugin names it, and its deadline, wall clock, ms; no bytes if it is of no lane.
pub(crate) fn lane_of<S: Service>(
    plugin: &S,
    subject: &S::Subject,
    limit: usize,
) -> Result<(Vec<u8>, Option<i64>), SubjectError> {
    let Some(LaneKey(lane)) = plugin.lane(subject) else { return Ok((Vec::new(), None)) };
    if lane.is_empty() || lane.len() > limit {
        return Err(SubjectError::Lane { bytes: lane.len(), limit });
    }
    Ok((lane.into(), plugin.deadline(subject).map(|deadline| deadline.timestamp_millis())))
}

/// How a state is encoded: its first byte.
const POSTCARD: u8 = 0;
const JSON: u8 = 1;

/// Encodes a state as typed calls store it.
pub(crate) fn encode_state<T: Serialize + ?Sized>(state: &T) -> Result<StateBytes, String> {
    let encoded = contain(|| postcard::to_extend(state, vec![POSTCARD]).map_err(|error| error.to_string()));
    Ok(encoded.unwrap_or_else(|panic| Err(format!("its encoding panicked: {panic}")))?.into())
}

/// Encodes a state as calls by name store it.
pub(crate) fn encode_json_state(state: &Value) -> StateBytes {
    let mut bytes = vec![JSON];
    bytes.extend_from_slice(state.to_string().as_bytes());
    bytes.into()
}

/// Reads a state; the default if there is none.
pub(crate) fn read_state<T: DeserializeOwned + Default>(
    lane: &LaneKey,
    state: Option<&StateBytes>,
) -> Result<T, LaneStateError> {
    let Some(bytes) = state else { return Ok(T::default()) };
    let read = contain(|| match bytes.split_first() {
        Some((&POSTCARD, bytes)) => postcard::from_bytes(bytes).map_err(|error| error.to_string()),
        Some((&JSON, bytes)) => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
        _ => Err("encoded in a way that is not known".to_owned()),
    });
    let read = read.unwrap_or_else(|panic| Err(format!("its decoding panicked: {panic}")));
    read.map_err(|what| LaneStateError { lane: lane.clone(), what })
}

/// A state for calls by name: as it is, if it is JSON; one that a typed call stored is told by its bytes, as
/// `{"postcard": "<hexadecimal digits>"}`.
pub(crate) fn state_json(state: Option<&StateBytes>) -> Option<Value> {
    let (how, bytes) = state?.split_first()?;
    Some(match *how {
        JSON => serde_json::from_slice(bytes).unwrap_or_default(),
        _ => json!({ "postcard": hex(bytes) }),
    })
}

/// A lane, as whoever works on it sees it.
///
/// It is of one moment: what another session of the same client reported since is not in it. Reports that rest on it are
/// refused then ([`Outcome::AlreadyDone`](crate::Outcome::AlreadyDone), [`Outcome::OutOfOrder`](crate::Outcome::OutOfOrder)).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneView {
    /// Which.
    pub key: LaneKey,
    /// How many of its subjects were reported, or expired in a lease, so far, counted once a round: it only grows, and names the
    /// state.
    pub version: u64,
    /// How many of the bucket's subjects are owed no more: the first ones. The next report must be on the one after them
    /// ([`Lease::owed`](crate::Lease::owed)).
    pub reported: usize,
    state: Option<StateBytes>,
}

impl LaneView {
    /// The lane's state; the default if none was ever stored. Reads what calls by name stored as well.
    ///
    /// # Errors
    ///
    /// [`LaneStateError`] if what is stored is of another type.
    pub fn state<T: DeserializeOwned + Default>(&self) -> Result<T, LaneStateError> {
        read_state(&self.key, self.state.as_ref())
    }

    /// For calls by name.
    pub(crate) fn json(&self) -> Value {
        let state = state_json(self.state.as_ref());
        json!({ "key": self.key, "version": self.version, "reported": self.reported, "state": state })
    }
}

impl Serialize for LaneView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json().serialize(serializer)
    }
}

impl Run {
    /// The lane as it is. A step that took effect just now may not be in it yet.
    pub(crate) fn view(&self) -> LaneView {
        let Moment { version, front, state } = self.moment();
        LaneView { key: LaneKey(Box::from(self.lane())), version, reported: front, state }
    }

    /// What is owed in a view of it.
    pub(crate) fn owed_in(&self, view: &LaneView) -> Mask {
        Mask::of_word(self.owed_from(u32::try_from(view.reported).unwrap_or(u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_by_name_and_typed_ones_are_told_apart() {
        let view = |state| LaneView { key: LaneKey::from("a"), version: 1, reported: 0, state };
        let named = view(Some(encode_json_state(&json!([1, 2]))));
        assert_eq!((named.state(), named.json()["state"].clone()), (Ok(vec![1_u8, 2]), json!([1, 2])));
        let typed = view(Some(encode_state(&vec![1_u8, 2]).unwrap()));
        assert_eq!((typed.state(), &typed.json()["state"]), (Ok(vec![1_u8, 2]), &json!({ "postcard": "020102" })));
        assert!(named.state::<String>().is_err());
        assert_eq!(view(None).state(), Ok(0_u32));
    }
}
