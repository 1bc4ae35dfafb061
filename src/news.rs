//! Waiting for what a writer publishes: threads or tasks, any number, at no cost to the writer while nobody waits.
//! The model checkers compile this file as it is (see `models/`).

use std::time::Duration;

use crate::clock::deadline;
use crate::sync::event_listener::{Event, Listener as _};
use crate::sync::{AtomicBool, Ordering};

/// Tells readers of a journal that there may be more of it, and when nothing comes any more.
#[derive(Debug, Default)]
pub(crate) struct News {
    event: Event,
    over: AtomicBool,
}

impl News {
    /// There may be more. A fence and a load while nobody waits.
    pub(crate) fn tell(&self) {
        self.event.notify(usize::MAX);
    }

    /// Nothing comes any more: all that ever will is published.
    pub(crate) fn end(&self) {
        // ordering: Release; pairs with the Acquire in `is_over`: whoever sees the end sees what was published before.
        self.over.store(true, Ordering::Release);
        self.tell();
    }

    pub(crate) fn is_over(&self) -> bool {
        // ordering: Acquire; see `end`.
        self.over.load(Ordering::Acquire)
    }

    /// As [`within`].
    pub(crate) fn within<T, E>(
        &self,
        timeout: Duration,
        look: impl FnMut() -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        within(&self.event, timeout, || self.is_over(), look)
    }

    /// As [`whenever`].
    pub(crate) async fn whenever<T, E>(&self, look: impl FnMut() -> Result<Option<T>, E>) -> Result<Option<T>, E> {
        whenever(&self.event, || self.is_over(), look).await
    }
}

/// Looks until there is something, `timeout` has passed, or nothing comes any more; parks the thread in between.
pub(crate) fn within<T, E>(
    news: &Event,
    timeout: Duration,
    is_over: impl Fn() -> bool,
    mut look: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let until = deadline(timeout);
    loop {
        // In this order: what comes after the look is heard of, and what came before the end is seen.
        let over = is_over();
        let listener = news.listen();
        let found = look()?;
        if found.is_some() || over {
            return Ok(found);
        }
        match until {
            None => listener.wait(),
            Some(until) => {
                if listener.wait_deadline(until).is_none() {
                    return look();
                }
            }
        }
    }
}

/// Looks until there is something or nothing comes any more; the task waits in between.
pub(crate) async fn whenever<T, E>(
    news: &Event,
    is_over: impl Fn() -> bool,
    mut look: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    loop {
        let over = is_over();
        let listener = news.listen();
        let found = look()?;
        if found.is_some() || over {
            return Ok(found);
        }
        listener.await;
    }
}
