//! What an outbox owes: effects that wait, those that went before an earlier one, and those set aside.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{OutboxOptions, Retry};
use crate::clock::millis;
use crate::record;
use crate::service::contain;
use crate::sync::Arc;

/// The event's position, and which of its effects.
pub(super) type Place = (u64, u64);

/// An effect that is to be dispatched.
#[derive(Debug)]
struct Waiting<E> {
    effect: Arc<E>,
    order: Vec<u8>,
    tries: u32,
    /// Hub time, ms, before which it is not tried.
    due_ms: u64,
    why: String,
    /// It was set aside before.
    is_letter: bool,
}

/// An effect that was set aside.
#[derive(Debug)]
pub(super) struct Letter<E> {
    /// None if its bytes are no effect of this type any more.
    pub(super) effect: Option<Arc<E>>,
    bytes: Vec<u8>,
    order: Vec<u8>,
    pub(super) tries: u32,
    pub(super) why: String,
    /// When, by the wall clock, ms.
    pub(super) wall_ms: i64,
    /// It waits to be tried again.
    pub(super) again: bool,
}

/// How often an effect that waits was tried.
#[derive(Debug, Serialize, Deserialize)]
struct Tried {
    place: Place,
    tries: u32,
    due_ms: u64,
    why: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptLetter {
    place: Place,
    tries: u32,
    wall_ms: i64,
    again: bool,
    why: String,
    #[serde(with = "serde_bytes")]
    order: Vec<u8>,
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
}

/// A book as it is kept, beside its position.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    done: Vec<Place>,
    tried: Vec<Tried>,
    letters: Vec<KeptLetter>,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Dispatch(Place),
    /// Nothing before this hub time, ms.
    WaitUntil(u64),
    Nothing,
}

/// What became of an effect that was not dispatched.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failed {
    Again { tries: u32, after: Duration },
    SetAside,
}

#[derive(Debug)]
pub(super) struct Book<E> {
    /// The effects of events before this position are in it.
    read: u64,
    waiting: BTreeMap<Place, Waiting<E>>,
    /// Dispatched or set aside while an earlier one waits.
    done: BTreeSet<Place>,
    /// Of effects that were tried before a restart, and that have not been read again yet.
    tried: BTreeMap<Place, Tried>,
    letters: BTreeMap<Place, Letter<E>>,
}

impl<E: Serialize + DeserializeOwned> Book<E> {
    pub(super) fn new(read: u64) -> Self {
        Self { read, waiting: BTreeMap::new(), done: BTreeSet::new(), tried: BTreeMap::new(), letters: BTreeMap::new() }
    }

    /// As it was kept, beside its position, at hub time `then`. That may be later than now: hub time is only what the journal
    /// knows of it. What was left of the pauses then is left now.
    pub(super) fn restore(read: u64, then: u64, now: u64, body: &[u8]) -> Result<Self, String> {
        let kept: Kept = record::decode("outbox", body).map_err(|error| error.to_string())?;
        let mut book = Self::new(read);
        book.done.extend(kept.done);
        for mut tried in kept.tried {
            tried.due_ms = now.saturating_add(tried.due_ms.saturating_sub(then));
            book.tried.insert(tried.place, tried);
        }
        for KeptLetter { place, tries, wall_ms, again, why, order, bytes } in kept.letters {
            let effect = contain(|| record::decode("effect", &bytes).ok()).ok().flatten().map(Arc::new);
            book.letters.insert(place, Letter { effect, bytes, order, tries, why, wall_ms, again: false });
            if again {
                book.retry(place);
            }
        }
        Ok(book)
    }

    pub(super) fn keep(&self) -> Vec<u8> {
        let waiting = self.waiting.iter().filter(|(_, waiting)| waiting.tries > 0 && !waiting.is_letter);
        let tried = waiting.map(|(place, waiting)| {
            let Waiting { tries, due_ms, why, .. } = waiting;
            Tried { place: *place, tries: *tries, due_ms: *due_ms, why: why.clone() }
        });
        let unread = self.tried.values().map(|tried| Tried { why: tried.why.clone(), ..*tried });
        let letter = |(place, letter): (&Place, &Letter<E>)| {
            let Letter { bytes, order, tries, why, wall_ms, again, .. } = letter;
            let (why, order, bytes) = (why.clone(), order.clone(), bytes.clone());
            KeptLetter { place: *place, tries: *tries, wall_ms: *wall_ms, again: *again, why, order, bytes }
        };
        record::encode(&Kept {
            done: self.done.iter().copied().collect(),
            tried: tried.chain(unread).collect(),
            letters: self.letters.iter().map(letter).collect(),
        })
    }

    /// Where reading goes on after a restart: all effects of events before it are dispatched or set aside.
    pub(super) fn position(&self) -> u64 {
        let first = self.waiting.iter().find(|(_, waiting)| !waiting.is_letter);
        first.map_or(self.read, |((position, _), _)| *position)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn letters(&self) -> &BTreeMap<Place, Letter<E>> {
        &self.letters
    }

    /// What waits, and what is remembered because something before it waits, is fewer than this.
    pub(super) fn has_room(&self, window: usize) -> bool {
        self.waiting.len() + self.done.len() < window.max(1)
    }

    /// Takes in the effects of the next event, each with its part and its ordering key. The part that two have, if two have
    /// one; then nothing was taken in.
    pub(super) fn read(&mut self, position: u64, next: u64, effects: Vec<(u64, Vec<u8>, E)>) -> Result<(), u64> {
        let mut parts = HashSet::new();
        if let Some((twice, _, _)) = effects.iter().find(|(part, _, _)| !parts.insert(*part)) {
            return Err(*twice);
        }
        for (part, order, effect) in effects {
            let place = (position, part);
            if self.done.contains(&place) {
                continue;
            }
            let (tries, due_ms, why) = match self.tried.remove(&place) {
                Some(tried) => (tried.tries, tried.due_ms, tried.why),
                None => (0, 0, String::new()),
            };
            let effect = Arc::new(effect);
            self.waiting.insert(place, Waiting { effect, order, tries, due_ms, why, is_letter: false });
        }
        self.read_to(next);
        Ok(())
    }

    /// Events before `position` have no effects that are not in it.
    pub(super) fn read_to(&mut self, position: u64) {
        self.read = position;
        self.forget();
    }

    /// Forgets what nothing before it waits for.
    fn forget(&mut self) {
        let first = (self.position(), 0);
        self.done = self.done.split_off(&first);
        self.tried = self.tried.split_off(&first);
    }

    /// The first effect that is due, whose ordering key none before it has.
    pub(super) fn next(&self, now: u64) -> Next {
        let (mut blocked, mut soonest) = (HashSet::new(), None::<u64>);
        for (place, waiting) in &self.waiting {
            if blocked.contains(waiting.order.as_slice()) {
                continue;
            }
            if waiting.due_ms <= now {
                return Next::Dispatch(*place);
            }
            soonest = Some(soonest.map_or(waiting.due_ms, |at| at.min(waiting.due_ms)));
            blocked.insert(waiting.order.as_slice());
        }
        soonest.map_or(Next::Nothing, Next::WaitUntil)
    }

    pub(super) fn effect(&self, place: Place) -> Option<Arc<E>> {
        self.waiting.get(&place).map(|waiting| Arc::clone(&waiting.effect))
    }

    pub(super) fn dispatched(&mut self, place: Place) {
        let Some(waiting) = self.waiting.remove(&place) else { return };
        if waiting.is_letter {
            self.letters.remove(&place);
        } else {
            self.done.insert(place);
        }
        self.forget();
    }

    /// Notes a try in vain: it is tried again later, or set aside if that was the last.
    pub(super) fn failed(
        &mut self,
        place: Place,
        retry: Retry,
        (now, wall_ms): (u64, i64),
        options: &OutboxOptions,
    ) -> Failed {
        let Retry { why, after, is_last } = retry;
        let fits = self.letters.len() < options.letters_max || self.letters.contains_key(&place);
        let Some(waiting) = self.waiting.get_mut(&place) else { return Failed::SetAside };
        waiting.tries = waiting.tries.saturating_add(1);
        waiting.why = why;
        let tries = waiting.tries;
        if (is_last || tries >= options.tries_max) && fits && self.set_aside(place, wall_ms) {
            return Failed::SetAside;
        }
        let after = after.unwrap_or_else(|| options.backoff(tries));
        if let Some(waiting) = self.waiting.get_mut(&place) {
            waiting.due_ms = now.saturating_add(millis(after));
        }
        Failed::Again { tries, after }
    }

    /// False if the effect cannot be encoded, and so cannot be kept.
    fn set_aside(&mut self, place: Place, wall_ms: i64) -> bool {
        let encoded = |effect: &E| contain(|| postcard::to_allocvec(effect).ok()).ok().flatten();
        let Some(bytes) = self.waiting.get(&place).and_then(|waiting| encoded(&waiting.effect)) else { return false };
        let Some(Waiting { effect, order, tries, why, is_letter, .. }) = self.waiting.remove(&place) else {
            return false;
        };
        self.letters.insert(place, Letter { effect: Some(effect), bytes, order, tries, why, wall_ms, again: false });
        if !is_letter {
            self.done.insert(place);
        }
        self.forget();
        true
    }

    /// Lets an effect that was set aside wait again, untried. False if there is none that can be read.
    pub(super) fn retry(&mut self, place: Place) -> bool {
        let Some(letter) = self.letters.get_mut(&place) else { return false };
        let Some(effect) = &letter.effect else { return false };
        letter.again = true;
        let (effect, order) = (Arc::clone(effect), letter.order.clone());
        let waiting = Waiting { effect, order, tries: 0, due_ms: 0, why: String::new(), is_letter: true };
        self.waiting.entry(place).or_insert(waiting);
        true
    }

    /// Drops an effect that was set aside. False if there is none.
    pub(super) fn discard(&mut self, place: Place) -> bool {
        if self.letters.remove(&place).is_none() {
            return false;
        }
        self.waiting.remove(&place);
        true
    }
}
