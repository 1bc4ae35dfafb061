//! What an application brings: effects, and how they are carried out.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::book::Place;
use crate::events::Event;
use crate::sync::Arc;

/// Turns events into effects outside the hub, and carries them out: payments, mails, calls of other systems. See
/// [`Hub::outbox`](crate::Hub::outbox).
///
/// All methods are called on the thread that calls [`Outbox::step`](super::Outbox::step) or
/// [`Outbox::run`](super::Outbox::run), one at a time.
pub trait Courier: Send + 'static {
    /// What is to be done outside. It is written with [postcard](https://postcard.jamesmunns.com) when it is set aside.
    type Effect: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// What its bookmark is kept under: 1 to 64 of `a-z A-Z 0-9 - _ .`, not beginning with a dot. Called when it is opened.
    /// It is a part of every key: outboxes that use one outside system need different ids, also those of different hubs.
    fn id(&self) -> &str;

    /// The effects of an event, each with its part: a number that tells the effects of one event apart, and that this
    /// effect has whenever the event is read (a rank, an order's number; 0 if there is only one; not its place in a list,
    /// which is another one once a subject before it was deleted). Called once an event, and again after a restart for
    /// events whose effects were not all saved as done. It must not depend on anything but the event. If it panics nothing
    /// behind this event is read.
    fn effects(&self, event: &Event) -> Vec<(u64, Self::Effect)>;

    /// The ordering key: effects of one key are dispatched in the order of their events and parts, each after the one
    /// before it is through or set aside. As `effects`, it must not depend on anything else. Default: one key for all.
    fn order(&self, _effect: &Self::Effect) -> Vec<u8> {
        Vec::new()
    }

    /// Carries an effect out. It may be called again for an effect that was carried out, after a crash: always under the
    /// same key, by which the outside system knows it.
    ///
    /// # Errors
    ///
    /// [`Retry`]: it was not carried out, or it is not known whether it was. A panic is one as well.
    fn dispatch(&self, effect: &Self::Effect, key: &IdempotencyKey) -> Result<(), Retry>;
}

/// The name of one effect: the same for ever, whatever crashes, restarts or is compacted. It prints as
/// `outbox/position/part`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey {
    pub(super) outbox: Arc<str>,
    pub(super) place: Place,
}

impl IdempotencyKey {
    /// The outbox's id.
    #[must_use]
    pub fn outbox(&self) -> &str {
        &self.outbox
    }

    /// The position of the event that it follows from.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.place.0
    }

    /// Which of the event's effects, as [`Courier::effects`] said.
    #[must_use]
    pub fn part(&self) -> u64 {
        self.place.1
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.outbox, self.place.0, self.place.1)
    }
}

/// An effect was not carried out, as far as the courier knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Retry {
    pub(super) why: String,
    pub(super) after: Option<Duration>,
    pub(super) is_last: bool,
}

impl Retry {
    /// It is tried again when its options say.
    #[must_use]
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), after: None, is_last: false }
    }

    /// It is tried again after this time, in place of what the options say.
    #[must_use]
    pub fn after(self, after: Duration) -> Self {
        Self { after: Some(after), ..self }
    }

    /// Trying again is of no use: it is set aside.
    #[must_use]
    pub fn never(why: impl Into<String>) -> Self {
        Self { is_last: true, ..Self::new(why) }
    }
}
