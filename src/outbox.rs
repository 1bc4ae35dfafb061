//! Outboxes: effects outside the hub that follow from events, each dispatched at least once, under a key that stays.

mod book;
mod courier;
mod letters;
mod options;

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::book::{Book, Failed, Next, Place};
pub use self::courier::{Courier, IdempotencyKey, Retry};
pub use self::letters::{DeadLetter, DeadLetters};
use self::letters::{Desk, Request};
pub use self::options::{AfterDamage, OutboxOptions, OutboxReport};
use crate::bookmark::{Bookmark, Found, Mark, MarkKind, TakeError};
use crate::clock::utc;
use crate::error::{OutboxError, ReadError};
use crate::events::Event;
use crate::follow::EventTail;
use crate::handlers::refuse_waiting;
use crate::house::House;
use crate::link::Link;
use crate::projection::AfterLag;
use crate::service::contain;
use crate::stack::Stack;
use crate::sync::Arc;
use crate::ticket::Durability;

/// Events read between two saves, if none has an effect.
const SAVE_READ: u64 = 10_000;

/// What a step did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub enum Step {
    /// An effect was carried out.
    Dispatched(IdempotencyKey),
    /// An effect was tried in vain, and will be tried again.
    Failed {
        /// Which.
        key: IdempotencyKey,
        /// How often it was tried.
        tries: u32,
        /// When it is tried again.
        after: Duration,
    },
    /// An effect was tried for the last time and set aside; see [`DeadLetters`].
    SetAside(IdempotencyKey),
    /// All that there is waits to be tried again, for so long.
    Waiting(Duration),
    /// Nothing is to be done until another event comes.
    Idle,
}

/// An outbox at work: reads events, and dispatches what follows from them when it is told to.
///
/// Every effect of every event is dispatched at least once, or set aside where it can be seen; only a crash before the
/// next save dispatches one again, under the same [`IdempotencyKey`]. Effects of one ordering key go in order.
///
/// A compaction takes the effects of [erased](crate::ServiceHandle::delete) subjects with it, if they still wait then; those
/// that were set aside stay until they are [discarded](DeadLetters::discard). An effect whose dispatch ends the process is
/// not counted as tried.
///
/// # Durability
///
/// An effect is dispatched when its event is synced, whatever the hub's [`Durability`]: no crash can call off what was
/// dispatched. Where the system alone decides when that is ([`Durability::Os`]) there can be no outbox. What was dispatched
/// is saved behind it, never before.
///
/// # Examples
///
/// ```
/// use commissary::services::FollowingCheck;
/// use commissary::{Courier, Event, EventKind, Hub, IdempotencyKey, MemoryDisk, OutboxOptions, Retry, Step};
///
/// /// Greets every user that is added.
/// struct Greeter;
///
/// impl Courier for Greeter {
///     type Effect = u64;
///
///     fn id(&self) -> &str {
///         "greeter"
///     }
///
///     fn effects(&self, event: &Event) -> Vec<(u64, u64)> {
///         let EventKind::Added { subjects, .. } = &event.kind else { return Vec::new() };
///         subjects.iter().filter_map(|subject| subject.key.read()).map(|user| (user, user)).collect()
///     }
///
///     fn order(&self, user: &u64) -> Vec<u8> {
///         user.to_be_bytes().to_vec()
///     }
///
///     fn dispatch(&self, user: &u64, key: &IdempotencyKey) -> Result<(), Retry> {
///         assert_eq!(key.part(), *user);
///         if *user == 34 { Err(Retry::never("no such address")) } else { Ok(()) }
///     }
/// }
///
/// let hub = Hub::builder().manual().open_in_memory(&MemoryDisk::new())?;
/// let following = hub.register(FollowingCheck::default())?;
/// following.add_all([12, 34])?;
/// let mut outbox = hub.outbox(Greeter, OutboxOptions::default())?;
/// assert!(matches!(outbox.step()?, Step::Dispatched(key) if key.part() == 12));
/// assert!(matches!(outbox.step()?, Step::SetAside(key) if key.part() == 34));
/// assert_eq!(outbox.step()?, Step::Idle);
/// let letter = outbox.dead_letters().list().remove(0);
/// assert_eq!((letter.effect.as_deref(), letter.why.as_str()), (Some(&34), "no such address"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Outbox<C: Courier> {
    courier: C,
    id: Arc<str>,
    options: OutboxOptions,
    mark: Mark,
    tail: EventTail,
    /// Read, and not taken in.
    held: Option<Event>,
    book: Book<C::Effect>,
    /// Effects settled, and events read, since it was saved.
    settled: u64,
    read: u64,
    /// Something is to be saved before anything else is dispatched.
    is_save_due: bool,
    link: Arc<Link>,
    desk: Arc<Desk<C::Effect>>,
    report: OutboxReport,
}

impl<C: Courier> fmt::Debug for Outbox<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("id", &self.id).field("waiting", &self.book.len()).finish_non_exhaustive()
    }
}

impl<C: Courier> Outbox<C> {
    pub(crate) fn open(house: &House, courier: C, options: OutboxOptions) -> Result<Self, OutboxError> {
        let id = contain(|| courier.id().to_owned()).map_err(|message| OutboxError::Panicked {
            id: String::new(),
            position: 0,
            message,
        })?;
        if house.marks.durability == Durability::Os {
            return Err(OutboxError::NeverSynced { id });
        }
        let mut mark = house.marks.take(MarkKind::Outbox, &id).map_err(|error| match error {
            TakeError::Id => OutboxError::Id { id: id.clone() },
            TakeError::InUse => OutboxError::InUse { id: id.clone() },
        })?;
        let (book, tail, report) = find(house, &mut mark, &options)?;
        let link = Arc::clone(&house.link);
        let desk = Arc::new(Desk { letters: ArcSwap::default(), requests: Stack::default(), link: Arc::clone(&link) });
        let outbox = Self {
            courier,
            id: Arc::from(id),
            options,
            mark,
            tail,
            held: None,
            book,
            settled: 0,
            read: 0,
            is_save_due: false,
            link,
            desk,
            report,
        };
        outbox.publish();
        Ok(outbox)
    }

    /// The effects that were set aside, for this thread and others.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters<C::Effect> {
        DeadLetters { desk: Arc::clone(&self.desk) }
    }

    /// What opening it found.
    #[must_use]
    pub fn report(&self) -> &OutboxReport {
        &self.report
    }

    /// All effects of events before this position are dispatched or set aside.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.book.position()
    }

    /// Effects that were read and wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.book.len()
    }

    /// Tries the next effect that is due, if there is one; never waits but for [`Courier::dispatch`].
    ///
    /// # Errors
    ///
    /// [`OutboxError`]; nothing was dispatched, and the next call tries again. Of events that cannot be read it is only said
    /// when nothing that was read before them is due.
    pub fn step(&mut self) -> Result<Step, OutboxError> {
        self.answer();
        if self.is_save_due || self.settled >= self.options.save_every.max(1) {
            self.save()?;
        }
        let filled = self.fill();
        let now = self.link.clock.now();
        let step = match self.book.next(now) {
            Next::Dispatch(place) => return Ok(self.dispatch(place)),
            Next::WaitUntil(due) => Step::Waiting(Duration::from_millis(due.saturating_sub(now))),
            Next::Nothing => Step::Idle,
        };
        if self.settled > 0 {
            self.save()?;
        }
        filled.map(|()| step)
    }

    /// Dispatches what comes until the hub is closed, and saves. For a thread of the application's. What waits then is
    /// dispatched when the outbox is opened again.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step); it can be called again. [`ReadError::InsideHandler`] from inside a lane handler.
    pub fn run(&mut self) -> Result<(), OutboxError> {
        refuse_waiting()?;
        let link = Arc::clone(&self.link);
        while !link.news.is_over() {
            let timeout = match self.step()? {
                Step::Idle => Duration::MAX,
                Step::Waiting(left) => left,
                _ => continue,
            };
            let look = || Ok::<_, Infallible>(self.has_news().then_some(()));
            let Ok(_) = link.news.within(timeout, look);
        }
        self.save()
    }

    /// Saves what was dispatched and set aside. [`step`](Self::step) and dropping do it as well.
    ///
    /// # Errors
    ///
    /// [`OutboxError::Save`]; what was saved before is still there.
    pub fn save(&mut self) -> Result<(), OutboxError> {
        let (boot, opened, id) = (self.mark.boot, self.mark.opened, self.id.to_string());
        let (position, as_of_ms) = (self.book.position(), self.link.clock.now());
        let bookmark = Bookmark { boot, opened, position, as_of_ms, version: 0, id, body: self.book.keep() };
        self.mark.write(&bookmark).map_err(|source| OutboxError::Save { id: bookmark.id, source })?;
        (self.settled, self.read, self.is_save_due) = (0, 0, false);
        Ok(())
    }

    fn has_news(&mut self) -> bool {
        let more = self.book.has_room(self.options.window) && self.tail.tail().end() > self.tail.reached();
        self.answer() || more
    }

    /// Does what was asked for through the list of dead letters. False if that was nothing.
    fn answer(&mut self) -> bool {
        let requests = self.desk.requests.take_all();
        for request in &requests {
            let done = match request.value {
                Request::Retry(place) => self.book.retry(place),
                Request::Discard(place) => self.book.discard(place),
            };
            self.is_save_due |= done;
        }
        if !requests.is_empty() {
            self.publish();
        }
        !requests.is_empty()
    }

    /// Lets others see the dead letters.
    fn publish(&self) {
        let letter = |(place, letter): (&Place, &book::Letter<C::Effect>)| DeadLetter {
            key: self.key(*place),
            effect: letter.effect.clone(),
            tries: letter.tries,
            why: letter.why.clone(),
            at: utc(letter.wall_ms),
            again: letter.again,
        };
        self.desk.letters.store(Arc::new(self.book.letters().iter().map(letter).collect()));
    }

    fn key(&self, place: Place) -> IdempotencyKey {
        IdempotencyKey { outbox: Arc::clone(&self.id), place }
    }

    /// Reads events until the window is full or there are no more.
    fn fill(&mut self) -> Result<(), OutboxError> {
        while self.book.has_room(self.options.window) {
            let Some(event) = self.next_event()? else { return Ok(()) };
            if let Err(error) = self.take_in(&event) {
                self.held = Some(event);
                return Err(error);
            }
            self.read += 1;
            if self.read >= SAVE_READ {
                self.save()?;
            }
        }
        Ok(())
    }

    fn next_event(&mut self) -> Result<Option<Event>, OutboxError> {
        if let Some(event) = self.held.take() {
            return Ok(Some(event));
        }
        let before = self.tail.position();
        match self.tail.try_next() {
            Err(ReadError::Lagged { resume_at }) if self.options.after_lag == AfterLag::BeginThere => {
                self.report.lagged = Some(resume_at);
                self.book.read_to(resume_at);
                self.next_event()
            }
            Err(ReadError::Lagged { resume_at }) => {
                // The next call is told again: nothing is passed over in silence.
                self.tail.seek(before);
                Err(OutboxError::Lagged { id: self.id.to_string(), resume_at })
            }
            read => Ok(read?),
        }
    }

    fn take_in(&mut self, event: &Event) -> Result<(), OutboxError> {
        let (position, courier) = (event.position, &self.courier);
        let with_order = |(part, effect): (u64, C::Effect)| (part, courier.order(&effect), effect);
        let effects = contain(|| courier.effects(event).into_iter().map(with_order).collect());
        let effects = effects.map_err(|message| {
            tracing::error!(outbox = %self.id, position, message, "courier panicked");
            OutboxError::Panicked { id: self.id.to_string(), position, message }
        })?;
        let taken = self.book.read(position, event.next, effects);
        taken.map_err(|part| OutboxError::SamePart { id: self.id.to_string(), position, part })
    }

    fn dispatch(&mut self, place: Place) -> Step {
        let key = self.key(place);
        let Some(effect) = self.book.effect(place) else { return Step::Idle };
        let done = contain(|| self.courier.dispatch(&effect, &key));
        let done = done.unwrap_or_else(|message| Err(Retry::new(format!("the courier panicked: {message}"))));
        self.settled += 1;
        let retry = match done {
            Ok(()) => {
                self.book.dispatched(place);
                self.publish_if(place);
                return Step::Dispatched(key);
            }
            Err(retry) => retry,
        };
        tracing::warn!(%key, %retry, "effect not dispatched");
        let now = (self.link.clock.now(), self.link.clock.wall_ms());
        match self.book.failed(place, retry, now, &self.options) {
            Failed::Again { tries, after } => Step::Failed { key, tries, after },
            Failed::SetAside => {
                tracing::error!(%key, "effect set aside");
                self.is_save_due = true;
                self.publish();
                Step::SetAside(key)
            }
        }
    }

    /// Publishes if a dead letter is concerned.
    fn publish_if(&mut self, place: Place) {
        if self.desk.letters.load().iter().any(|letter| letter.key.place == place) {
            self.is_save_due = true;
            self.publish();
        }
    }
}

impl<C: Courier> Drop for Outbox<C> {
    fn drop(&mut self) {
        if (self.is_save_due || self.settled > 0 || self.read > 0)
            && let Err(error) = self.save()
        {
            tracing::warn!(%error, "outbox dropped");
        }
    }
}

/// What an outbox begins with.
fn find<E: Serialize + DeserializeOwned>(
    house: &House,
    mark: &mut Mark,
    options: &OutboxOptions,
) -> Result<(Book<E>, EventTail, OutboxReport), OutboxError> {
    let mut report = OutboxReport::default();
    let id = mark.id().to_owned();
    house.marks.anchor(house, mark)?;
    let mut book = match saved(house, mark)? {
        Ok(Some(book)) => book,
        Ok(None) => Book::new(options.begin_at),
        Err(what) if options.after_damage == AfterDamage::BeginAnew => {
            tracing::warn!(outbox = id, what, "outbox begins anew");
            report.begun_anew = Some(what);
            Book::new(options.begin_at)
        }
        Err(what) => return Err(OutboxError::Damaged { id, what }),
    };
    let tail = match EventTail::synced(house, book.position()) {
        Err(ReadError::Lagged { resume_at }) if options.after_lag == AfterLag::BeginThere => {
            report.lagged = Some(resume_at);
            book.read_to(resume_at);
            EventTail::synced(house, resume_at)?
        }
        Err(ReadError::Lagged { resume_at }) => return Err(OutboxError::Lagged { id, resume_at }),
        opened => opened?,
    };
    report.resumed_at = tail.position();
    Ok((book, tail, report))
}

/// What was saved, if anything was; or why it cannot be used.
fn saved<E: Serialize + DeserializeOwned>(
    house: &House,
    mark: &mut Mark,
) -> Result<Result<Option<Book<E>>, String>, OutboxError> {
    let found = mark.read().map_err(|source| OutboxError::Load { id: mark.id().to_owned(), source })?;
    Ok(match found {
        Found::Nothing => Ok(None),
        Found::Bad(what) => Err(what),
        Found::Bookmark(bookmark) if !house.marks.holds(house, mark, &bookmark)? => {
            Err("it reflects more than the journal holds, or another journal".to_owned())
        }
        Found::Bookmark(Bookmark { position, as_of_ms, body, .. }) => {
            Book::restore(position, as_of_ms, house.link.clock.now(), &body).map(Some)
        }
    })
}
