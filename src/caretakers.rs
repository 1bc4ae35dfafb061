//! The caretakers, and the threads that they have in a hub that is not manual.

use std::io;
use std::thread::{self, JoinHandle, Thread};

use crate::link::Link;
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
            }
            storekeeper.finish()
        })?;
        let of_writer = Arc::clone(link);
        let writer = name("writer").spawn(move || {
            writer.adopt();
            while panics(&of_writer, "writer", || run_writer(&of_writer, &mut writer)) {
                writer.give_up();
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
    while !link.is_closed() {
        if !steward.turn() {
            link.steward_rests.note();
            link.steward.wait(steward.sleep());
        }
    }
}

fn run_writer(link: &Link, writer: &mut Writer) {
    while !link.is_closed() {
        if !writer.waited_for_room() && !writer.turn() {
            link.writer_rests.note();
            writer.wait();
        }
    }
}

fn run_storekeeper(link: &Link, storekeeper: &mut Storekeeper) {
    while !storekeeper.is_over() {
        if !storekeeper.turn() {
            link.storekeeper_rests.note();
            link.storekeeper.wait(PERIOD);
        }
    }
}
