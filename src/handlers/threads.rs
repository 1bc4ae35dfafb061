//! Threads that handle lanes.

use std::fmt;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::parking::Parking;
use super::{Crew, FailedCommand, Inside, LaneHandler, LaneStats, LaneStep, Office, is_over};
use crate::error::HandlerError;
use crate::lane::LaneKey;
use crate::service::{Service, contain};
use crate::sync::Arc;

/// Until the next try, while the service is not ready or the client is not let in.
const REFUSED: Duration = Duration::from_secs(1);

/// Threads that do the work of a service's lanes. Dropping it stops them, as [`stop`](Self::stop).
///
/// They park while there is nothing to do; they end when the hub is closed, or poisoned. While the service is not ready,
/// or their client suspended, they look again once a second.
pub struct LaneThreads {
    office: Arc<Office>,
    threads: Vec<JoinHandle<()>>,
}

impl fmt::Debug for LaneThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneThreads")
            .field("service", &self.office.service.name)
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

impl LaneThreads {
    pub(super) fn spawn<S: Service, H: LaneHandler<S>>(
        crew: &Arc<Crew<S, H>>,
        threads: usize,
    ) -> Result<Self, HandlerError> {
        if crew.office.service.link.manual {
            return Err(HandlerError::Manual);
        }
        if threads == 0 {
            return Err(HandlerError::NoThreads);
        }
        // Dropped on an error: those that run already stop.
        let mut spawned = Self { office: Arc::clone(&crew.office), threads: Vec::new() };
        for number in 1..=threads {
            let crew = Arc::clone(crew);
            let builder = thread::Builder::new().name(format!("commissary-lane-{number}"));
            let work = move || {
                // To the end: the last thread drops the handler.
                let _inside = Inside::enter();
                crew.run();
                drop(crew);
            };
            spawned.threads.push(builder.spawn(work).map_err(HandlerError::Thread)?);
        }
        Ok(spawned)
    }

    /// What was done so far; what a thread has just handed in may not be counted yet.
    #[must_use]
    pub fn stats(&self) -> LaneStats {
        self.office.stats()
    }

    /// The commands that could not be executed, and their lanes, which wait.
    #[must_use]
    pub fn failed(&self) -> Vec<FailedCommand> {
        self.office.asides.list()
    }

    /// Has the failed commands of a lane tried anew, with all their tries. False if it has none.
    #[must_use]
    pub fn retry(&self, lane: &LaneKey) -> bool {
        self.office.retry(lane)
    }

    /// True if no thread runs any more: the hub was closed or poisoned.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Lets each thread finish the command that it handles, report what it did and give back the rest; waits for that, and
    /// says what was done.
    ///
    /// # Errors
    ///
    /// [`HandlerError::InsideHandler`] from inside a handler: it would wait for itself. The threads are told to stop
    /// nevertheless.
    pub fn stop(mut self) -> Result<LaneStats, HandlerError> {
        let inside = Inside::refuse();
        self.end();
        inside.map(|()| self.office.stats())
    }

    fn end(&mut self) {
        self.office.stop();
        let threads = std::mem::take(&mut self.threads);
        if Inside::refuse().is_err() {
            // A thread cannot wait for itself; they end by themselves.
            return;
        }
        for thread in threads {
            // Contained: it does not panic.
            let _ = thread.join();
        }
    }
}

impl Drop for LaneThreads {
    fn drop(&mut self) {
        self.end();
    }
}

impl<S: Service, H: LaneHandler<S>> Crew<S, H> {
    /// Works until it is stopped or the hub is closed.
    fn run(&self) {
        let mut parking = Parking::default();
        while !self.office.is_stopping() {
            let wait = match contain(|| self.step()) {
                Ok(Ok(LaneStep::Idle)) => None,
                Ok(Ok(LaneStep::Waiting(wait))) => Some(wait),
                Ok(Ok(_)) => {
                    parking.end();
                    continue;
                }
                Ok(Err(error)) if is_over(&error) => return,
                Ok(Err(error)) => {
                    tracing::warn!(service = %self.office.service.name, %error, "lanes are not handled");
                    Some(REFUSED)
                }
                Err(message) => {
                    // What an application's types do outside the handler, as when they are dropped.
                    tracing::error!(service = %self.office.service.name, message, "handling a lane panicked");
                    Some(REFUSED)
                }
            };
            parking.rest(self.office.service.published(), wait);
        }
    }
}
