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
        // In this order: what comes after the looks is heard of, the end as well, and what came before the end is seen.
        let listener = news.listen();
        let over = is_over();
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
        // As in `within`.
        let listener = news.listen();
        let over = is_over();
        let found = look()?;
        if found.is_some() || over {
            return Ok(found);
        }
        listener.await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// The end, told at once after a look at whether it has come.
    fn ends_after_a_look<'a>(event: &'a Event, over: &'a Cell<bool>) -> impl Fn() -> bool + 'a {
        || {
            let before = over.replace(true);
            event.notify(usize::MAX);
            before
        }
    }

    #[test]
    fn an_end_told_after_the_look_for_it_is_heard() {
        let nothing = || Ok::<Option<()>, Infallible>(None);
        let (event, over) = (Event::new(), Cell::new(false));
        // Would park for an hour if it were not.
        assert_eq!(within(&event, Duration::from_secs(3600), ends_after_a_look(&event, &over), nothing), Ok(None));
        over.set(false);
        let mut waiting = pin!(whenever(&event, ends_after_a_look(&event, &over), nothing));
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(waiting.as_mut().poll(&mut context), Poll::Ready(Ok(None)));
    }

    #[test]
    fn what_came_before_the_end_is_seen() {
        let (event, position) = (Event::new(), Cell::new(0));
        // Published, and then the end, just before the look whether it has come.
        let is_over = || {
            position.set(1);
            true
        };
        let look = || Ok::<_, Infallible>((position.get() == 1).then_some(()));
        assert_eq!(within(&event, Duration::from_secs(3600), is_over, look), Ok(Some(())));
    }
}
