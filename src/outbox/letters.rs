//! What an outbox set aside: to be looked at, tried again or dropped.

use std::fmt;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};

use super::IdempotencyKey;
use super::book::Place;
use crate::link::Link;
use crate::stack::{Node, Stack};
use crate::sync::Arc;

/// An effect that was set aside.
#[derive(Debug)]
#[non_exhaustive]
pub struct DeadLetter<E> {
    /// The key that it was dispatched under.
    pub key: IdempotencyKey,
    /// The effect; `None` if its bytes are no effect of this type any more.
    pub effect: Option<Arc<E>>,
    /// How often it was tried.
    pub tries: u32,
    /// Why it failed last.
    pub why: String,
    /// When it was set aside, by the wall clock.
    pub at: DateTime<Utc>,
    /// It waits to be tried again.
    pub again: bool,
}

impl<E> Clone for DeadLetter<E> {
    fn clone(&self) -> Self {
        let Self { key, effect, tries, why, at, again } = self;
        let (key, effect, why) = (key.clone(), effect.clone(), why.clone());
        Self { key, effect, tries: *tries, why, at: *at, again: *again }
    }
}

/// The effects that an outbox set aside. Cloning clones the handle.
///
/// # Concurrency
///
/// It can be used from any thread beside the one that dispatches, and never waits for it: what is asked for is done with
/// its next step.
pub struct DeadLetters<E> {
    pub(super) desk: Arc<Desk<E>>,
}

pub(super) struct Desk<E> {
    pub(super) letters: ArcSwap<Vec<DeadLetter<E>>>,
    pub(super) requests: Stack<Request>,
    pub(super) link: Arc<Link>,
}

pub(super) enum Request {
    Retry(Place),
    Discard(Place),
}

impl<E> Clone for DeadLetters<E> {
    fn clone(&self) -> Self {
        Self { desk: Arc::clone(&self.desk) }
    }
}

impl<E> fmt::Debug for DeadLetters<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").field("letters", &self.desk.letters.load().len()).finish()
    }
}

impl<E> DeadLetters<E> {
    /// All of them, by position.
    #[must_use]
    pub fn list(&self) -> Vec<DeadLetter<E>> {
        self.desk.letters.load().to_vec()
    }

    /// Has one tried again, as if it had never been tried, before what came after it under its ordering key; it stays in
    /// the list until it was dispatched. False if there is none of that key that can be read.
    #[must_use]
    pub fn retry(&self, key: &IdempotencyKey) -> bool {
        self.request(key, |letter| letter.effect.is_some(), Request::Retry(key.place))
    }

    /// Drops one for good: it will never be dispatched. False if there is none of that key.
    #[must_use]
    pub fn discard(&self, key: &IdempotencyKey) -> bool {
        self.request(key, |_| true, Request::Discard(key.place))
    }

    fn request(&self, key: &IdempotencyKey, may: impl Fn(&DeadLetter<E>) -> bool, request: Request) -> bool {
        let found = self.desk.letters.load().iter().any(|letter| letter.key == *key && may(letter));
        if found {
            self.desk.requests.push(Arc::new(Node::new(request)));
            self.desk.link.tell();
        }
        found
    }
}
