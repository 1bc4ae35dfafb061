//! Following the events while they are journaled.

use std::time::Duration;

use crate::archive::Records;
use crate::error::ReadError;
use crate::events::{Event, EventKind, Names};
use crate::handlers::refuse_waiting;
use crate::house::House;
use crate::journal::Tail;
use crate::link::Link;
use crate::sync::Arc;

/// Follows the events: those there are, then those that come, in order and without a hole; see
/// [`Hub::follow`](crate::Hub::follow).
///
/// Where events were dropped for their age it answers [`ReadError::Lagged`], once, and goes on behind them. After any other
/// error the next call tries again at the same place.
///
/// As an iterator, and with [`next_async`](Self::next_async), it waits for what comes, and ends when the hub is closed and
/// all was seen; as an iterator also after an error but `Lagged`. Nothing comes to a poisoned hub, but only closing it ends the walk.
///
/// # Concurrency
///
/// Each has its own place and pace, and is used by one thread at a time; the writer never waits for one, however far behind
/// it is. It keeps about 256 KiB in memory, or one record if that is longer, and neither the hub open nor its directory
/// locked.
///
/// # Examples
///
/// ```
/// use commissary::services::FollowingCheck;
/// use commissary::{EventKind, Hub, MemoryDisk};
///
/// let hub = Hub::builder().open_in_memory(&MemoryDisk::new())?;
/// let following = hub.register(FollowingCheck::default())?;
/// let mut tail = hub.follow(0)?;
/// let reader = std::thread::spawn(move || {
///     let added = tail.by_ref().flatten().filter(|event| matches!(event.kind, EventKind::Added { .. }));
///     added.count()
/// });
/// following.add_all([12, 34])?;
/// following.add_all([56])?;
/// hub.close()?;
/// assert_eq!(reader.join().unwrap(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct EventTail {
    link: Arc<Link>,
    tail: Tail,
    /// None after an error: to be found again.
    records: Option<Records>,
    names: Names,
    position: u64,
    /// A walk met an error, and ends.
    failed: bool,
}

impl EventTail {
    /// From `from` on, as far as the hub's durability promises.
    pub(crate) fn open(house: &House, from: u64) -> Result<Self, ReadError> {
        Self::over(house, house.tail.clone(), from)
    }

    /// The same, but never further than the journal is synced.
    pub(crate) fn synced(house: &House, from: u64) -> Result<Self, ReadError> {
        Self::over(house, house.tail.synced_only(), from)
    }

    fn over(house: &House, tail: Tail, from: u64) -> Result<Self, ReadError> {
        // In this order: who is named in what can be read now is known by then; who comes later says so in a record.
        let records = Some(Records::open(&tail, from)?);
        Ok(Self {
            link: Arc::clone(&house.link),
            tail,
            records,
            names: Names::of(house),
            position: from,
            failed: false,
        })
    }

    /// Where it goes on: what [`Hub::follow`](crate::Hub::follow) takes.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next event, if there is one now.
    ///
    /// # Errors
    ///
    /// [`ReadError::Lagged`] as above; otherwise the journal could not be read, or was damaged since it was opened.
    pub fn try_next(&mut self) -> Result<Option<Event>, ReadError> {
        let mut records = match self.records.take() {
            Some(records) => records,
            None => Records::open(&self.tail, self.position)?,
        };
        let found = loop {
            match records.next(|entry| self.names.event(&entry)) {
                Ok(None) if records.extend(&self.tail) => {}
                found => break found,
            }
        };
        match &found {
            Ok(Some(event)) => {
                self.position = event.next;
                if let EventKind::ServiceChanged { service, .. } = &event.kind {
                    self.names.learn(service);
                }
            }
            Err(ReadError::Lagged { resume_at }) => self.position = *resume_at,
            Ok(None) => {}
            Err(_) => return found,
        }
        self.records = Some(records);
        found
    }

    /// The next event; waits for it, at most so long. `None`: nothing came, or the hub was closed and all of it was seen.
    /// In a manual hub somebody else has to do the caretakers' work meanwhile.
    ///
    /// # Errors
    ///
    /// As [`try_next`](Self::try_next); [`ReadError::InsideHandler`].
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<Event>, ReadError> {
        refuse_waiting()?;
        let link = Arc::clone(&self.link);
        link.news.within(timeout, || self.try_next())
    }

    /// The next event; waits for it. `None`: the hub was closed, and all of it was seen.
    ///
    /// # Errors
    ///
    /// As [`next_within`](Self::next_within).
    pub async fn next_async(&mut self) -> Result<Option<Event>, ReadError> {
        refuse_waiting()?;
        let link = Arc::clone(&self.link);
        link.news.whenever(|| self.try_next()).await
    }

    /// Goes to another place.
    pub(crate) fn seek(&mut self, position: u64) {
        self.records = None;
        self.position = position;
    }

    /// The journal, as far as this one may read it.
    pub(crate) fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Up to where it read, which may be beyond the next event's place.
    pub(crate) fn reached(&self) -> u64 {
        self.records.as_ref().map_or(self.position, Records::reached)
    }
}

impl Iterator for EventTail {
    type Item = Result<Event, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.next_within(Duration::MAX);
        self.failed = next.as_ref().is_err_and(|error| !matches!(error, ReadError::Lagged { .. }));
        next.transpose()
    }
}
