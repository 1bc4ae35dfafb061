//! `apalis` on `SQLite`, in a program of its own: a cell is a run of it.

use std::process::Command;
use std::time::Duration;

use crate::contender::{Contender, Drained, Setup};
use crate::servers::Programs;

/// See `apalis/` beside the benches.
pub(crate) const PROGRAM: &str = "commissary-peer-apalis";

/// What the program said: how many were left.
struct Apalis(std::cell::Cell<u64>);

pub(crate) fn open(_: &Setup<'_>) -> Box<dyn Contender> {
    Box::new(Apalis(std::cell::Cell::new(u64::MAX)))
}

impl Contender for Apalis {
    fn drain(&self, setup: &Setup<'_>) -> Drained {
        let mut command = Command::new(Programs::find(PROGRAM).expect("looked for before"));
        command.arg(setup.directory.join("apalis.db"));
        command.args([setup.items.to_string(), setup.workers.to_string(), setup.claim.to_string()]);
        let output = command.output().expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told = String::from_utf8_lossy(&output.stdout);
        let mut numbers = told.split_whitespace().map(|word| word.parse::<u64>().expect("a number"));
        let took = Duration::from_nanos(numbers.next().expect("told"));
        self.0.set(numbers.next().expect("told"));
        (took, vec![numbers.collect()])
    }

    fn left(self: Box<Self>, _: &Setup<'_>) -> u64 {
        self.0.get()
    }
}
