//! The caretakers, and the threads that they have in a hub that is not manual.

use std::io;
use std::ops::ControlFlow;
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use crate::link::Link;
use crate::rests::Rests;
use crate::service::contain;
use crate::steward::{PERIOD, Steward};
use crate::storekeeper::Storekeeper;
use crate::sync::Arc;
use crate::writer::Writer;

/// Who works for the hub: the calls' changes go from one to the next.
#[derive(Debug)]
pub(crate) struct Caretakers {
    pub(crate) writer: Writer,
    pub(crate) storekeeper: Storekeeper,
    pub(crate) steward: Steward,
}

/// Their threads.
#[derive(Debug)]
pub(crate) struct Threads {
    writer: JoinHandle<()>,
    storekeeper: JoinHandle<Result<(), String>>,
    steward: JoinHandle<()>,
}

impl Caretakers {
    /// Brings all that is under way to its end. The hub is closed already.
    pub(crate) fn finish(&mut self) -> Result<(), String> {
        self.writer.finish();
        self.storekeeper.finish()
    }

    /// Starts a thread for each. If one cannot be started, none runs any more when this returns.
    pub(crate) fn spawn(self, link: &Arc<Link>) -> io::Result<Threads> {
        let Self { mut writer, mut storekeeper, mut steward } = self;
        let name = |who| thread::Builder::new().name(format!("commissary-{who}"));
        let of_storekeeper = Arc::clone(link);
        let storekeeper = name("storekeeper").spawn(move || {
            of_storekeeper.storekeeper.adopt();
            while panics(&of_storekeeper, "storekeeper", || run_storekeeper(&of_storekeeper, &mut storekeeper)) {
                storekeeper.give_up();
                if storekeeper.is_over() {
                    break;
                }
            }
            storekeeper.finish()
        })?;
        let of_writer = Arc::clone(link);
        let writer = name("writer").spawn(move || {
            writer.adopt();
            while panics(&of_writer, "writer", || run_writer(&of_writer, &mut writer)) {
                writer.give_up();
                if of_writer.is_closed() {
                    break;
                }
                // Who panics in each round takes no core for it.
                of_writer.writer.wait(PERIOD);
            }
            panics(&of_writer, "writer", || writer.finish());
        });
        let writer = match writer {
            Ok(writer) => writer,
            Err(error) => {
                // It ends with the writer, which is gone.
                let _ = storekeeper.join();
                return Err(error);
            }
        };
        let of_steward = Arc::clone(link);
        let steward = name("steward").spawn(move || {
            of_steward.steward.adopt();
            panics(&of_steward, "steward", || run_steward(&of_steward, &mut steward));
        });
        match steward {
            Ok(steward) => Ok(Threads { writer, storekeeper, steward }),
            Err(error) => {
                link.close();
                let _ = (writer.join(), storekeeper.join());
                Err(error)
            }
        }
    }
}

impl Threads {
    /// Waits until they have ended. The hub is closed already.
    pub(crate) fn join(self) -> Result<(), String> {
        let Self { writer, storekeeper, steward } = self;
        // A caretaker's own thread gets here if a plugin's subject, or a task's waker, closes the hub. It ends by itself.
        let is_own = |thread: &Thread| thread.id() == thread::current().id();
        let [is_writer, is_storekeeper] = [writer.thread(), storekeeper.thread()].map(is_own);
        let is_steward = is_own(steward.thread());
        let panicked = |who: &str| format!("the {who} panicked");
        let steward = if is_steward { Ok(()) } else { steward.join().map_err(|_| panicked("steward")) };
        let writer = if is_writer { Ok(()) } else { writer.join().map_err(|_| panicked("writer")) };
        // It ends after the writer.
        let stored = if is_writer || is_storekeeper {
            Ok(())
        } else {
            storekeeper.join().unwrap_or_else(|_| Err(panicked("storekeeper")))
        };
        steward.and(writer).and(stored)
    }
}

/// Runs a caretaker. Its panic, a bug of ours, poisons the hub; true if it did.
fn panics(link: &Link, who: &str, run: impl FnOnce()) -> bool {
    let ended = contain(run);
    if let Err(message) = &ended {
        link.poison(format!("the {who} panicked: {message}"));
    }
    ended.is_err()
}

fn run_steward(link: &Link, steward: &mut Steward) {
    link.steward.attend(|| {
        let found = steward.turn();
        after(found, link.is_closed(), &link.steward_rests, || steward.sleep())
    });
}

fn run_writer(link: &Link, writer: &mut Writer) {
    link.writer.attend(|| {
        let found = writer.waited_for_room() || writer.turn();
        after(found, link.is_closed(), &link.writer_rests, || writer.rest())
    });
}

fn run_storekeeper(link: &Link, storekeeper: &mut Storekeeper) {
    link.storekeeper.attend(|| {
        let found = storekeeper.turn();
        after(found, storekeeper.is_over(), &link.storekeeper_rests, || PERIOD)
    });
}

/// After a caretaker's turn: it ends, goes on, or rests.
fn after(
    found: bool,
    is_over: bool,
    rests: &Rests,
    sleep: impl FnOnce() -> Duration,
) -> ControlFlow<(), Option<Duration>> {
    if is_over {
        return ControlFlow::Break(());
    }
    if found {
        return ControlFlow::Continue(None);
    }
    rests.note();
    ControlFlow::Continue(Some(sleep()))
}

#[cfg(test)]
mod tests {
    use crate::commit::Change;
    use crate::sync::Mutex;
    use crate::{Clock, Durability, Hub, ManualClock, MemoryDisk};

    use super::*;

    /// At which reading what comes to an end, and how.
    type End = Option<(u32, Arc<Link>, fn(&Link))>;

    /// A clock that counts its readings, and at one of which a hub ends.
    #[derive(Debug, Clone, Default)]
    struct Ending {
        clock: ManualClock,
        readings: Arc<Mutex<u32>>,
        end: Arc<Mutex<End>>,
    }

    impl Clock for Ending {
        fn monotonic(&self) -> Duration {
            let mut readings = self.readings.lock().unwrap();
            if let Some((_, link, end)) = self.end.lock().unwrap().take_if(|(at, ..)| *at == *readings) {
                end(&link);
            }
            *readings += 1;
            self.clock.monotonic()
        }

        fn wall_ms(&self) -> i64 {
            self.clock.wall_ms()
        }
    }

    /// A hub with something that is to be synced in an hour, and nothing else to be done; it may be more than the storekeeper may be
    /// behind.
    fn idle(behind: bool) -> (Ending, Hub, Caretakers) {
        let clock = Ending::default();
        let builder = Hub::builder().manual().durability(Durability::Every(Duration::from_secs(3600)));
        let hub = builder.clock(clock.clone()).open_in_memory(&MemoryDisk::new()).unwrap();
        let mut caretakers = hub.house().dismiss().unwrap();
        // Ten bytes each.
        let ranks = vec![u64::MAX; if behind { 900_000 } else { 0 }];
        drop(hub.house().link.post(Change::Urgent { service: 1, ranks }, 0));
        assert!(caretakers.writer.turn());
        caretakers.writer.adopt();
        *clock.readings.lock().unwrap() = 0;
        (clock, hub, caretakers)
    }

    /// Would sleep for an hour.
    #[test]
    fn the_end_is_not_slept_through_whenever_in_a_round_it_comes() {
        let (clock, _hub, mut caretakers) = idle(false);
        assert!(!caretakers.writer.waited_for_room() && !caretakers.writer.turn());
        assert_eq!(caretakers.writer.rest(), Duration::from_secs(3600));
        let readings = *clock.readings.lock().unwrap();
        assert!(readings > 1);
        for (at, behind) in (0..readings).map(|at| (at, false)).chain([(0, true)]) {
            let (clock, hub, mut caretakers) = idle(behind);
            let link = &hub.house().link;
            *clock.end.lock().unwrap() = Some((at, Arc::clone(link), Link::close));
            run_writer(link, &mut caretakers.writer);
            assert!(link.is_closed());
        }
    }

    /// Would wait for an hour.
    #[test]
    fn no_room_is_waited_for_in_a_hub_that_is_about_to_end() {
        for end in [Link::close as fn(&Link), |link| link.poison("the store failed".to_owned())] {
            let (clock, hub, mut caretakers) = idle(true);
            *clock.end.lock().unwrap() = Some((0, Arc::clone(&hub.house().link), end));
            let _ = caretakers.writer.waited_for_room();
            assert!(!caretakers.writer.waited_for_room());
        }
    }
}
