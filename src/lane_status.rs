//! Reading lanes without a lease: one from the store, and those that wait longest as the steward last saw them.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::apply;
use crate::error::{LaneStateError, ReadError};
use crate::house::House;
use crate::lane::{self, LaneKey, StateBytes};
use crate::lanes::Queued;
use crate::record::LaneValue;
use crate::registry::ServiceCore;
use crate::results::hex;

/// Looks until a lane stays as it is for the time of one look.
const LOOKS: u32 = 1_000;

/// A lane, as the store knows it. See [`ServiceHandle::lane`](crate::ServiceHandle::lane).
///
/// It is of one moment and may be out of date when it is looked at: what is decided on it is a guess. Decide in the lane.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneStatus {
    /// Which.
    pub key: LaneKey,
    /// How many of its subjects were reported, or expired in a lease, so far, counted once a round: it only grows, and names the
    /// state.
    pub version: u64,
    /// How many subjects it owes: they wait, or are held.
    pub owed: u64,
    /// How long its front has waited for its turn, if it is among [those that wait longest](crate::ServiceHandle::lanes).
    pub wait: Option<Duration>,
    /// Everything journaled before this position is in it, and nothing else.
    pub position: u64,
    /// It reflects at least all that could be read this long ago, in hub time; 0 while there is nothing newer to read.
    pub age: Duration,
    state: Option<StateBytes>,
}

impl LaneStatus {
    /// The lane's state; the default if none was ever stored. Reads what calls by name stored as well.
    ///
    /// # Errors
    ///
    /// [`LaneStateError`] if what is stored is of another type.
    pub fn state<T: DeserializeOwned + Default>(&self) -> Result<T, LaneStateError> {
        lane::read_state(&self.key, self.state.as_ref())
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "key": self.key, "version": self.version, "owed": self.owed, "position": self.position,
            "wait_ms": self.wait.map(ms), "age_ms": ms(self.age), "state": lane::state_json(self.state.as_ref()),
        })
    }
}

impl Serialize for LaneStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json().serialize(serializer)
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What waits in one lane. See [`ServiceHandle::lanes`](crate::ServiceHandle::lanes).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneQueue {
    /// Which.
    pub key: LaneKey,
    /// Its subjects that wait in memory; those in a bucket or a lease are not among them.
    pub waiting: usize,
    /// How long the first of these has waited since it was taken in, in hub time: the lane's queue delay.
    pub wait: Duration,
    /// A bucket of it was cut: it waits to be claimed, is held, or what was reported on it is on its way to the store.
    pub running: bool,
}

impl LaneQueue {
    /// Lanes that are listed, at most.
    pub const LISTED_MOST: usize = 1_024;

    fn of(queued: &Queued, now: u64) -> Self {
        let Queued { lane, waiting, since, runs } = queued;
        let wait = Duration::from_millis(now.saturating_sub(*since));
        Self { key: LaneKey::from(&**lane), waiting: *waiting, wait, running: *runs }
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "key": self.key, "waiting": self.waiting, "wait_ms": ms(self.wait), "running": self.running })
    }
}

impl Serialize for LaneQueue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json().serialize(serializer)
    }
}

/// The lanes whose fronts wait longest, longest first.
pub(crate) fn longest(core: &ServiceCore, limit: usize) -> Vec<LaneQueue> {
    let now = core.link.clock.now();
    core.lane_queues.load().iter().take(limit).map(|queued| LaneQueue::of(queued, now)).collect()
}

fn wait(core: &ServiceCore, key: &LaneKey, now: u64) -> Option<Duration> {
    let queues = core.lane_queues.load();
    let queued = queues.iter().find(|queued| &*queued.lane == key.as_bytes())?;
    Some(LaneQueue::of(queued, now).wait)
}

/// What the store knows of a lane; `None` if it owes nothing and nothing was ever reported on it.
pub(crate) fn read(house: &House, core: &ServiceCore, key: &LaneKey) -> Result<Option<LaneStatus>, ReadError> {
    let store = house.store.as_ref();
    for _ in 0..LOOKS {
        let before = apply::lane(store, core.id, key.as_bytes())?;
        let standing = apply::standing(store)?.unwrap_or_default();
        // The version grows with each state, so this one is that of `before`, if `before` holds still.
        let state = apply::lane_state(store, core.id, key.as_bytes())?;
        if apply::lane(store, core.id, key.as_bytes())? != before {
            continue;
        }
        if before == LaneValue::default() {
            return Ok(None);
        }
        let (link, position) = (&house.link, standing.position);
        let age = if position >= house.tail.end() { 0 } else { link.clock.now().saturating_sub(standing.hub_ms) };
        let LaneValue { version, owed } = before;
        let (age, state) = (Duration::from_millis(age), state.map(StateBytes::from));
        let wait = wait(core, key, link.clock.now());
        return Ok(Some(LaneStatus { key: key.clone(), version, owed, wait, position, age, state }));
    }
    Err(ReadError::Unsettled { key: hex(key.as_bytes()) })
}
