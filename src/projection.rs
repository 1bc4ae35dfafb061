//! Projections: state folded from the events, kept with the position that it reflects.

mod begun;
mod options;
mod view;

use std::fmt;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::begun::Begun;
pub use self::options::{AfterLag, ProjectionOptions, ProjectionReport};
use self::view::{Reflected, Shared};
pub use self::view::{View, Views};
use crate::bookmark::{Bookmark, Mark, MarkKind, TakeError};
use crate::error::{ProjectError, ReadError};
use crate::events::Event;
use crate::follow::EventTail;
use crate::handlers::refuse_waiting;
use crate::house::House;
use crate::service::contain;
use crate::sync::Arc;

/// Folds events into a state: counts, an index, a catalog. See [`Hub::project`](crate::Hub::project).
///
/// The state is a function of the events in their order and of nothing else: folded anew from the first event it comes out
/// the same. Events carry what is needed to understand them, so `fold` gets nothing but the event.
///
/// Of an event's fields only `next` is not the same for ever: it is another one after a compaction. And after one that
/// erased deleted subjects the events name these no more: folded anew the state is then one that never knew them. What it
/// holds of a subject goes only if `fold` takes it out when the subject is [deleted](crate::EventKind::Deleted).
pub trait Projection: Send + 'static {
    /// What is folded. It is cloned when it is published and written with [postcard](https://postcard.jamesmunns.com) when
    /// it is saved: large parts belong into an `Arc` or a persistent collection.
    type State: Serialize + DeserializeOwned + Default + Clone + Send + Sync + 'static;

    /// What its bookmark is kept under: 1 to 64 of `a-z A-Z 0-9 - _ .`, not beginning with a dot. Called when it is opened.
    fn id(&self) -> &str;

    /// The version of `State` and `fold`. What was saved under another one is not used: the state is folded anew. Called
    /// when it is opened. Default 0.
    fn version(&self) -> u32 {
        0
    }

    /// Takes an event in. Called on the thread that catches up, for every event, in order; for one event more than once
    /// when a state from before it is used again. It must not depend on anything but its arguments. If it panics the state
    /// stays as it was before this event, and the call that folded says so.
    fn fold(&self, state: &mut Self::State, event: &Event);
}

/// A projection at work: folds when it is told to, and is read beside that.
///
/// # Concurrency
///
/// One thread at a time folds; any number read through [`views`](Self::views). Neither waits for the other, and the hub
/// waits for none of them.
///
/// # Durability
///
/// What is saved never reflects more than is synced of the journal, so that a power cut never leaves a state of events that
/// did not happen. Under [`Durability::Os`](crate::Durability::Os) that is what was there when the hub was opened, until it
/// is closed. A save replaces the file whole: a crash leaves the one before or the new one.
///
/// # Examples
///
/// ```
/// use std::collections::BTreeSet;
/// use commissary::services::FollowingCheck;
/// use commissary::{Event, EventKind, Hub, MemoryDisk, Projection, ProjectionOptions};
///
/// /// The users that were ever added.
/// struct Users;
///
/// impl Projection for Users {
///     type State = BTreeSet<u64>;
///
///     fn id(&self) -> &str {
///         "users"
///     }
///
///     fn fold(&self, users: &mut BTreeSet<u64>, event: &Event) {
///         if let EventKind::Added { subjects, .. } = &event.kind {
///             users.extend(subjects.iter().filter_map(|subject| subject.key.read::<u64>()));
///         }
///     }
/// }
///
/// let disk = MemoryDisk::new();
/// let hub = Hub::builder().manual().open_in_memory(&disk)?;
/// let following = hub.register(FollowingCheck::default())?;
/// let mut users = hub.project(Users, ProjectionOptions::default())?;
/// let views = users.views();
/// following.add_all([12, 34])?;
/// let position = users.catch_up()?;
/// assert_eq!(*views.view().state, BTreeSet::from([12, 34]));
/// assert_eq!(views.view().position, position);
/// hub.close()?;
/// drop((users, following, hub));
///
/// let hub = Hub::builder().manual().open_in_memory(&disk)?;
/// let users = hub.project(Users, ProjectionOptions::default())?;
/// assert_eq!((users.report().resumed_at, users.view().state.len()), (position, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Projected<P: Projection> {
    projection: P,
    version: u32,
    options: ProjectionOptions,
    mark: Mark,
    tail: EventTail,
    /// Read and not folded.
    held: Option<Event>,
    state: P::State,
    position: u64,
    /// Hub time, ms, from before which all is folded.
    seen_ms: u64,
    unpublished: u64,
    unsaved: u64,
    /// Encoded, until the journal is synced so far.
    waiting: Option<Bookmark>,
    /// What the bookmark on the disk says.
    saved: Option<u64>,
    shared: Arc<Shared<P::State>>,
    report: ProjectionReport,
}

impl<P: Projection> fmt::Debug for Projected<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Projected")
            .field("id", &self.mark.id())
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl<P: Projection> Projected<P> {
    pub(crate) fn open(house: &House, projection: P, options: ProjectionOptions) -> Result<Self, ProjectError> {
        let asked = contain(|| (projection.id().to_owned(), projection.version()));
        let (id, version) =
            asked.map_err(|message| ProjectError::Panicked { id: String::new(), position: 0, message })?;
        let mut mark = house.marks.take(MarkKind::Projection, &id).map_err(|error| match error {
            TakeError::Id => ProjectError::Id { id: id.clone() },
            TakeError::InUse => ProjectError::InUse { id },
        })?;
        let (begun, report) = Begun::find(house, &mut mark, version, options.after_lag)?;
        let Begun::<P::State> { tail, state, as_of_ms, saved } = begun;
        let position = tail.position();
        let latest = Reflected { state: Arc::new(state.clone()), position, reached: position, as_of_ms };
        let (link, journal) = (Arc::clone(&house.link), tail.tail().clone());
        Ok(Self {
            projection,
            version,
            options,
            mark,
            tail,
            held: None,
            state,
            position,
            seen_ms: 0,
            unpublished: 0,
            unsaved: 0,
            waiting: None,
            saved,
            shared: Arc::new(Shared { latest: ArcSwap::from_pointee(latest), link, tail: journal }),
            report,
        })
    }

    /// Reads the state from other threads.
    #[must_use]
    pub fn views(&self) -> Views<P::State> {
        Views { shared: Arc::clone(&self.shared) }
    }

    /// As [`Views::view`].
    #[must_use]
    pub fn view(&self) -> View<P::State> {
        self.views().view()
    }

    /// What opening it found.
    #[must_use]
    pub fn report(&self) -> &ProjectionReport {
        &self.report
    }

    /// The position that a crash now would leave it at; `None`: it would begin anew.
    #[must_use]
    pub fn saved(&self) -> Option<u64> {
        self.saved
    }

    /// Folds the events there are at this moment, and publishes the state. Returns the position that it reflects.
    ///
    /// # Errors
    ///
    /// [`ProjectError`]. After each of them what was folded until then stays, and the next call goes on there; it meets
    /// [`ProjectError::Panicked`] and [`ProjectError::Lagged`] again. [`ProjectError::Save`] comes when all is folded.
    pub fn catch_up(&mut self) -> Result<u64, ProjectError> {
        self.catch_up_to(self.tail.tail().end())
    }

    /// As [`catch_up`](Self::catch_up), but leaves events that stand at `position` or behind it. The state that it publishes
    /// is the one at that position, if the journal reaches so far: several projections that are caught up to one position
    /// show one moment.
    ///
    /// # Errors
    ///
    /// As [`catch_up`](Self::catch_up).
    pub fn catch_up_to(&mut self, position: u64) -> Result<u64, ProjectError> {
        // In this order: what could be read at that time stands before that end.
        let (now, end) = (self.shared.link.clock.now(), self.tail.tail().end());
        let mut failed = None;
        let folded = loop {
            match self.step(position) {
                Ok(true) => failed = self.keep_up().err().or(failed),
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let is_current = folded.is_ok() && self.held.is_none() && self.tail.reached() >= end;
        self.publish(if is_current { now } else { 0 })?;
        self.put_down().map_err(|source| self.save_error(source))?;
        folded.and(failed.map_or(Ok(self.position), Err))
    }

    /// Saves the state, as far as the journal is synced. Returns the position that is saved now; `None`: there is none yet.
    ///
    /// # Errors
    ///
    /// [`ProjectError::Save`]; what was saved before is still there. [`ProjectError::Encode`].
    pub fn save(&mut self) -> Result<Option<u64>, ProjectError> {
        // One that waits is not replaced by a later one, which would wait longer, unless that need not wait at all.
        if self.saved != Some(self.position) && (self.waiting.is_none() || self.is_synced(self.position)) {
            let bookmark = self.bookmark()?;
            self.waiting = Some(bookmark);
            self.unsaved = 0;
        }
        self.put_down().map_err(|source| self.save_error(source))?;
        Ok(self.saved)
    }

    /// Folds what comes until the hub is closed and all is folded, and saves. For a thread of the application's.
    ///
    /// # Errors
    ///
    /// As [`catch_up`](Self::catch_up); it can be called again. [`ReadError::InsideHandler`] from inside a lane handler.
    pub fn run(&mut self) -> Result<(), ProjectError> {
        refuse_waiting()?;
        let link = Arc::clone(&self.shared.link);
        loop {
            let over = link.news.within(Duration::MAX, || self.turn().map(|news| news.then_some(())))?.is_none();
            if over {
                return self.save().map(drop);
            }
        }
    }

    /// As [`run`](Self::run), as a task: it waits without a thread, and folds on the thread that polls it.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub async fn run_async(&mut self) -> Result<(), ProjectError> {
        refuse_waiting()?;
        let link = Arc::clone(&self.shared.link);
        loop {
            let over = link.news.whenever(|| self.turn().map(|news| news.then_some(()))).await?.is_none();
            if over {
                return self.save().map(drop);
            }
        }
    }

    /// Catches up; false if there was nothing.
    fn turn(&mut self) -> Result<bool, ProjectError> {
        let before = self.position;
        self.catch_up().map(|position| position != before)
    }

    /// Folds one event that stands before `to`. False if there is none.
    fn step(&mut self, to: u64) -> Result<bool, ProjectError> {
        let event = match self.held.take() {
            Some(event) => event,
            None if self.tail.position() >= to => return Ok(false),
            None => match self.next()? {
                Some(event) => event,
                None => return Ok(false),
            },
        };
        if event.position >= to {
            self.held = Some(event);
            return Ok(false);
        }
        if let Err(message) = contain(|| self.projection.fold(&mut self.state, &event)) {
            self.restore(event.position);
            return Err(self.panicked(event.position, message));
        }
        self.folded(&event);
        Ok(true)
    }

    fn folded(&mut self, event: &Event) {
        self.position = event.next;
        self.seen_ms = event.hub_ms.saturating_sub(1);
        self.unpublished += 1;
        self.unsaved += 1;
    }

    fn next(&mut self) -> Result<Option<Event>, ProjectError> {
        match self.tail.try_next() {
            Err(ReadError::Lagged { resume_at }) if self.options.after_lag == AfterLag::BeginThere => {
                self.report.lagged = Some(resume_at);
                self.state = P::State::default();
                self.position = resume_at;
                self.next()
            }
            Err(ReadError::Lagged { resume_at }) => {
                // The next call is told again: nothing is passed over in silence.
                self.tail.seek(self.position);
                Err(ProjectError::Lagged { id: self.mark.id().to_owned(), resume_at })
            }
            read => Ok(read?),
        }
    }

    /// Takes back what a panic left half done: folds again from the last state that was published, up to the event.
    fn restore(&mut self, to: u64) {
        let latest = self.shared.latest.load_full();
        // A state that cannot be cloned is folded anew.
        let before = contain(|| (P::State::clone(&latest.state), latest.position));
        (self.state, self.position) = before.unwrap_or_default();
        self.held = None;
        self.tail.seek(self.position);
        while let Ok(Some(event)) = self.tail.try_next() {
            let folds = event.position < to && contain(|| self.projection.fold(&mut self.state, &event)).is_ok();
            if !folds {
                break;
            }
            self.folded(&event);
        }
        self.tail.seek(self.position);
    }

    /// Publishes and saves what is due in the middle of catching up.
    fn keep_up(&mut self) -> Result<(), ProjectError> {
        let due = |count: u64, every: u64| every > 0 && count >= every;
        if due(self.unpublished, self.options.publish_every) {
            self.publish(0)?;
        }
        if due(self.unsaved, self.options.save_every) {
            self.save()?;
        }
        Ok(())
    }

    /// Lets readers see the state; nothing newer could be read at `as_of_ms`.
    fn publish(&mut self, as_of_ms: u64) -> Result<(), ProjectError> {
        let before = self.shared.latest.load_full();
        let (state, position) = if before.position == self.position {
            (Arc::clone(&before.state), before.position)
        } else {
            let clone = contain(|| Arc::new(self.state.clone()));
            (clone.map_err(|message| self.panicked(self.position, message))?, self.position)
        };
        let reached = if self.held.is_some() { position } else { self.tail.reached() };
        let as_of_ms = as_of_ms.max(self.seen_ms).max(before.as_of_ms);
        self.shared.latest.store(Arc::new(Reflected { state, position, reached, as_of_ms }));
        self.unpublished = 0;
        Ok(())
    }

    fn bookmark(&self) -> Result<Bookmark, ProjectError> {
        let id = self.mark.id().to_owned();
        let encoded = contain(|| postcard::to_allocvec(&self.state).map_err(|error| error.to_string()));
        let body = match encoded.and_then(|encoded| encoded) {
            Ok(body) => body,
            Err(what) => return Err(ProjectError::Encode { id, what }),
        };
        let as_of_ms = self.shared.latest.load().as_of_ms;
        let (boot, opened) = (self.mark.boot, self.mark.opened);
        Ok(Bookmark { boot, opened, position: self.position, as_of_ms, version: self.version, id, body })
    }

    fn is_synced(&self, position: u64) -> bool {
        self.tail.tail().synced_only().end() >= position
    }

    /// Writes the bookmark that waits, if the journal is synced so far.
    fn put_down(&mut self) -> std::io::Result<()> {
        match &self.waiting {
            Some(bookmark) if self.is_synced(bookmark.position) => self.mark.write(bookmark)?,
            _ => return Ok(()),
        }
        self.saved = self.waiting.take().map(|bookmark| bookmark.position);
        Ok(())
    }

    fn save_error(&self, source: std::io::Error) -> ProjectError {
        ProjectError::Save { id: self.mark.id().to_owned(), source }
    }

    fn panicked(&self, position: u64, message: String) -> ProjectError {
        let id = self.mark.id().to_owned();
        tracing::error!(projection = %id, position, message, "projection panicked");
        ProjectError::Panicked { id, position, message }
    }
}

impl<P: Projection> Drop for Projected<P> {
    fn drop(&mut self) {
        if self.options.save_on_drop
            && let Err(error) = self.save()
        {
            tracing::warn!(%error, "projection dropped");
        }
    }
}
