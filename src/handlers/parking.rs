//! How a thread that found nothing to do rests without missing what comes. The model checkers compile this file as it is (see
//! `models/`).

use std::time::Duration;

use crate::clock::deadline;
use crate::sync::event_listener::{Event, EventListener, Listener as _};

/// The rest of one thread. Who finds nothing calls [`rest`](Self::rest) and looks again: the first time it only begins to
/// listen, so the look after it sees what was published before, and what comes later ends the second.
#[derive(Debug, Default)]
pub(super) struct Parking(Option<EventListener>);

impl Parking {
    /// It found something.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }

    /// Begins to listen; the next time parks until it is told, or for `most`.
    pub(super) fn rest(&mut self, news: &Event, most: Option<Duration>) {
        let Some(listener) = self.0.take() else {
            self.0 = Some(news.listen());
            return;
        };
        match most.and_then(deadline) {
            // Told, or the time has passed: it looks again anyway.
            Some(until) => drop(listener.wait_deadline(until)),
            None => listener.wait(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_after_the_last_look_ends_the_rest() {
        let (news, mut parking) = (Event::new(), Parking::default());
        parking.rest(&news, None);
        news.notify(usize::MAX);
        // Would park for ever.
        parking.rest(&news, None);
        parking.rest(&news, None);
        parking.end();
        parking.rest(&news, None);
        parking.rest(&news, Some(Duration::from_millis(1)));
    }
}
