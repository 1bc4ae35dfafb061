//! Lanes: what orders subjects, and what whoever works on one sees of it.

use std::fmt;

use arc_swap::ArcSwap;
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::error::LaneStateError;
use crate::lease::SubjectError;
use crate::results::hex;
use crate::service::{Service, contain};
use crate::slot::Mask;
use crate::sync::{Arc, AtomicU32, Ordering};

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

/// Writes a key as text, in hexadecimal digits if it is none.
pub(crate) fn as_text<S: Serializer>(key: &LaneKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(key))
}

/// A key as text, in hexadecimal digits if it is none.
pub(crate) fn text(key: &LaneKey) -> String {
    key.as_str().map_or_else(|| hex(key.as_bytes()), str::to_owned)
}

impl Serialize for LaneKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
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

/// A lane's state, as it is stored: how it is encoded, then the bytes.
pub(crate) type StateBytes = Arc<[u8]>;

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
        json!({ "key": text(&self.key), "version": self.version, "reported": self.reported, "state": state })
    }
}

impl Serialize for LaneView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json().serialize(serializer)
    }
}

/// One bucket's run of a lane: from its cut until everything that was reported on it is applied. Until then nobody else can
/// change the lane's state.
#[derive(Debug)]
pub(crate) struct Run {
    lane: Arc<[u8]>,
    /// The lane's version when the first of `whole` is its front.
    version: u64,
    /// What was owed at the beginning: places next to each other, one bit each.
    whole: u64,
    now: ArcSwap<Now>,
    /// When its subjects are not to be worked on any more, by their places; none at all if none has a deadline.
    deadlines: Box<[Option<i64>]>,
    /// Reports on places below it are in the journal, or on their way in this order. The writer's alone.
    journaled: AtomicU32,
}

/// The state as far as it is known.
#[derive(Debug, Clone)]
struct Now {
    version: u64,
    state: Option<StateBytes>,
    /// Steps that took effect before the one that they follow was noted.
    ahead: Vec<Step>,
    /// The lease is over, and nobody asks any more.
    over: bool,
}

/// A submit on a run: which places it reports, and the state after it.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// The places `from` to `to`, this one not included.
    pub(crate) from: u32,
    pub(crate) to: u32,
    /// `None`: as before.
    pub(crate) state: Option<StateBytes>,
}

impl Run {
    /// Begins with `whole` owed.
    pub(crate) fn new(lane: Arc<[u8]>, whole: Mask, version: u64, state: Option<Vec<u8>>) -> Self {
        let whole = whole.first_word();
        let now =
            ArcSwap::from_pointee(Now { version, state: state.map(StateBytes::from), ahead: Vec::new(), over: false });
        let journaled = AtomicU32::new(whole.trailing_zeros());
        Self { lane, version, whole, now, deadlines: Box::default(), journaled }
    }

    /// With its subjects' deadlines, place by place.
    pub(crate) fn with_deadlines(self, deadlines: impl Iterator<Item = Option<i64>> + Clone) -> Self {
        let any = deadlines.clone().any(|deadline| deadline.is_some());
        Self { deadlines: if any { deadlines.collect() } else { Box::default() }, ..self }
    }

    /// The places whose deadlines have passed at a moment of the wall clock, ms.
    pub(crate) fn due(&self, wall_ms: i64) -> Mask {
        let mut due = Mask::default();
        for (place, deadline) in self.deadlines.iter().enumerate() {
            if deadline.is_some_and(|deadline| deadline <= wall_ms) {
                due.insert(place);
            }
        }
        due
    }

    pub(crate) fn lane(&self) -> &[u8] {
        &self.lane
    }

    /// What is owed while `place` is the front.
    pub(crate) fn owed_from(&self, place: u32) -> u64 {
        self.whole & u64::MAX.checked_shl(place).unwrap_or(0)
    }

    /// The lane's version while `place` is the front.
    fn version_at(&self, place: u32) -> u64 {
        self.version + u64::from((self.whole & !self.owed_from(place)).count_ones())
    }

    /// The front at a version.
    fn front_at(&self, version: u64) -> usize {
        let first = u64::from(self.whole.trailing_zeros());
        usize::try_from(first + version.saturating_sub(self.version)).unwrap_or(usize::MAX)
    }

    /// Notes a step that took effect. Lock-free.
    pub(crate) fn advance(&self, step: &Step) {
        self.now.rcu(|now| {
            let mut now = Now::clone(now);
            let state = step.state.clone().filter(|_| !now.over);
            now.ahead.push(Step { state, ..*step });
            while let Some(next) = now.ahead.iter().position(|step| self.version_at(step.from) == now.version) {
                let step = now.ahead.swap_remove(next);
                now.version = self.version_at(step.to);
                now.state = step.state.or(now.state);
            }
            now
        });
    }

    /// The lane as it is. A step that took effect just now may not be in it yet.
    pub(crate) fn view(&self) -> LaneView {
        let now = self.now.load();
        let (version, state) = (now.version, now.state.clone());
        LaneView { key: LaneKey(Box::from(&*self.lane)), version, reported: self.front_at(version), state }
    }

    /// What is owed in a view of it.
    pub(crate) fn owed_in(&self, view: &LaneView) -> Mask {
        Mask::of_word(self.owed_from(u32::try_from(view.reported).unwrap_or(u32::MAX)))
    }

    /// The lease is over: the state is the store's from here on.
    pub(crate) fn forget_state(&self) {
        self.now.rcu(|now| {
            let ahead = now.ahead.iter().map(|step| Step { state: None, ..*step }).collect();
            Now { version: now.version, state: None, ahead, over: true }
        });
    }

    /// A state is held in memory.
    #[cfg(test)]
    pub(crate) fn has_state(&self) -> bool {
        self.now.load().state.is_some()
    }

    /// True if a step is the next to be journaled; then the one after it is. The writer's alone.
    pub(crate) fn is_next(&self, step: &Step) -> bool {
        // ordering: Relaxed, both; one thread reads and writes it.
        let is_next = self.journaled.load(Ordering::Relaxed) == step.from;
        if is_next {
            self.journaled.store(step.to, Ordering::Relaxed);
        }
        is_next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(text: &str) -> StateBytes {
        encode_state(text).unwrap()
    }

    fn look(run: &Run) -> (u64, usize, String) {
        let view = run.view();
        (view.version, view.reported, view.state().unwrap())
    }

    #[test]
    fn steps_noted_in_any_order_lead_to_the_same_state() {
        let steps = [
            Step { from: 2, to: 3, state: Some(state("three")) },
            Step { from: 3, to: 5, state: None },
            Step { from: 5, to: 6, state: Some(state("six")) },
        ];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            // Two of eight were reported before.
            let whole = Mask::first(8).without(Mask::first(2));
            let run = Run::new(Arc::from(b"a".as_slice()), whole, 100, None);
            assert_eq!(look(&run), (100, 2, String::new()));
            for step in order {
                run.advance(&steps[step]);
            }
            assert_eq!(look(&run), (104, 6, "six".to_owned()));
        }
        let run = Run::new(Arc::from(b"a".as_slice()), Mask::first(8), 0, None);
        run.advance(&Step { from: 1, to: 2, state: Some(state("ahead")) });
        assert_eq!(look(&run), (0, 0, String::new()), "what it follows is not noted yet");
    }

    /// Whoever reports notes its step when it is at it; the lease may be over by then. What was reported is owed no more.
    #[test]
    fn a_step_noted_after_the_end_brings_no_state_back_and_counts() {
        let steps = [
            Step { from: 0, to: 1, state: Some(state("one")) },
            Step { from: 1, to: 2, state: Some(state("two")) },
            Step { from: 2, to: 3, state: Some(state("three")) },
        ];
        for before in 0..3 {
            for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
                let run = Run::new(Arc::from(b"a".as_slice()), Mask::first(3), 0, Some(state("before").to_vec()));
                order[..before].iter().for_each(|step| run.advance(&steps[*step]));
                run.forget_state();
                order[before..].iter().for_each(|step| run.advance(&steps[*step]));
                assert!(!run.has_state());
                assert_eq!((run.view().version, run.view().reported), (3, 3), "{order:?}, {before} in time");
                assert!(run.owed_in(&run.view()).is_empty());
            }
        }
    }

    #[test]
    fn the_writer_takes_steps_in_their_order_only() {
        let run = Run::new(Arc::from(b"a".as_slice()), Mask::first(4), 0, None);
        let step = |from, to| Step { from, to, state: None };
        assert!(!run.is_next(&step(1, 2)));
        assert!(run.is_next(&step(0, 1)) && run.is_next(&step(1, 2)) && !run.is_next(&step(1, 2)));
        assert_eq!((run.owed_from(0), run.owed_from(3), run.owed_from(63)), (0b1111, 0b1000, 0));
    }

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
