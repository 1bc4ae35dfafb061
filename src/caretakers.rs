//! The caretakers, and the threads that they have in a hub that is not manual.

use std::thread::{self, JoinHandle};

use crate::error::{OpenError, TicketError};
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

    /// Starts a thread for each.
    pub(crate) fn spawn(self, link: &Arc<Link>) -> Result<Threads, OpenError> {
        let Self { mut writer, mut storekeeper, mut steward } = self;
        // Whoever's thread runs must not outlive a failed opening; the storekeeper's ends with the writer.
        let started = |error| {
            link.close();
            link.writer.raise();
            OpenError::Thread(error)
        };
        let name = |who| thread::Builder::new().name(format!("commissary-{who}"));
        let of_storekeeper = Arc::clone(link);
        let storekeeper = name("storekeeper").spawn(move || {
            of_storekeeper.storekeeper.adopt();
            if panics(&of_storekeeper, "storekeeper", || run_storekeeper(&of_storekeeper, &mut storekeeper)) {
                storekeeper.give_up();
                run_storekeeper(&of_storekeeper, &mut storekeeper);
            }
            storekeeper.finish()
        });
        let storekeeper = storekeeper.map_err(OpenError::Thread)?;
        let of_writer = Arc::clone(link);
        let writer = name("writer").spawn(move || {
            writer.adopt();
            if panics(&of_writer, "writer", || run_writer(&of_writer, &mut writer)) {
                writer.give_up();
                stand_in(&of_writer);
            }
            panics(&of_writer, "writer", || writer.finish());
        });
        let writer = writer.map_err(started)?;
        let of_steward = Arc::clone(link);
        let steward = name("steward").spawn(move || {
            of_steward.steward.adopt();
            panics(&of_steward, "steward", || run_steward(&of_steward, &mut steward));
        });
        Ok(Threads { writer, storekeeper, steward: steward.map_err(started)? })
    }
}

impl Threads {
    /// Waits until they have ended. The hub is closed already.
    pub(crate) fn join(self) -> Result<(), String> {
        let Self { writer, storekeeper, steward } = self;
        // A caretaker's own thread gets here if a plugin's subject closes the hub; it ends by itself.
        let steward = if steward.thread().id() == thread::current().id() {
            Ok(())
        } else {
            steward.join().map_err(|_| "the steward panicked".to_owned())
        };
        let writer = writer.join().map_err(|_| "the writer panicked".to_owned());
        let stored = storekeeper.join().unwrap_or_else(|_| Err("the storekeeper panicked".to_owned()));
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

/// Nobody waits for ever for a writer that is gone.
fn stand_in(link: &Link) {
    while !link.is_closed() {
        link.fail_all(TicketError::Refused);
        link.writer.lower();
        thread::park_timeout(PERIOD);
    }
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
