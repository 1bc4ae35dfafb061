//! The n-th call to the disk fails while effects are dispatched, tried again, set aside and saved.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, Mutex};

use super::nth_call::Folder;
use super::*;
use crate::{Compact, Courier, Engine, Event, EventKind, IdempotencyKey, Outbox, OutboxOptions, Retry, Step};

/// What the outside world saw: each effect, with its key.
type Outside = Arc<Mutex<Vec<(u64, String)>>>;

/// Pays every user that is added; of seven the last has no account.
struct Payer(Outside);

impl Courier for Payer {
    type Effect = u64;

    fn id(&self) -> &'static str {
        "payments"
    }

    fn effects(&self, event: &Event) -> Vec<(u64, u64)> {
        let EventKind::Added { subjects, .. } = &event.kind else { return Vec::new() };
        subjects.iter().filter_map(|subject| subject.key.read::<u64>()).map(|user| (user, user)).collect()
    }

    fn order(&self, user: &u64) -> Vec<u8> {
        (user % 3).to_be_bytes().to_vec()
    }

    fn dispatch(&self, user: &u64, key: &IdempotencyKey) -> Result<(), Retry> {
        if user % 7 == 6 {
            return Err(Retry::new("no account"));
        }
        self.0.lock().unwrap().push((*user, key.to_string()));
        Ok(())
    }
}

#[derive(Default)]
struct Told {
    added: Vec<(Ticket, u64)>,
    outside: Outside,
    /// Dispatched before a save that succeeded.
    saved: BTreeSet<u64>,
    /// Set aside before one, and not discarded.
    letters: BTreeSet<u64>,
}

fn options() -> OutboxOptions {
    OutboxOptions { save_every: 3, tries_max: 2, ..OutboxOptions::default() }
}

/// Steps until nothing is to be done, or the disk fails.
fn drain(hub: &Hub, clock: &ManualClock, outbox: &mut Outbox<Payer>) {
    loop {
        match typed(outbox.step()) {
            None | Some(Step::Idle) => return,
            Some(Step::Waiting(left)) => {
                clock.advance(left);
                hub.tick();
            }
            Some(_) => {}
        }
    }
}

fn letters(outbox: &Outbox<Payer>) -> BTreeSet<u64> {
    outbox.dead_letters().list().iter().map(|letter| **letter.effect.as_ref().unwrap()).collect()
}

impl Told {
    /// Users are added, paid and set aside; what was set aside is tried again, and discarded.
    fn opening(&mut self, hub: &Hub, service: &ServiceHandle<Doubling>, clock: &ManualClock, first: u64) {
        let Some(mut outbox) = typed(hub.outbox(Payer(Arc::clone(&self.outside)), options())) else { return };
        for user in first..first + 8 {
            if let Some(ticket) = typed(service.add(&user)) {
                self.added.push((ticket, user));
            }
            hub.tick();
            drain(hub, clock, &mut outbox);
        }
        self.save(&mut outbox);
        let desk = outbox.dead_letters();
        if let Some(letter) = desk.list().first() {
            assert!(desk.retry(&letter.key));
            drain(hub, clock, &mut outbox);
            assert!(desk.discard(&letter.key));
            // It may be gone from here on, and is not before that is saved.
            self.letters.remove(letter.effect.as_ref().unwrap());
        }
        drain(hub, clock, &mut outbox);
        self.save(&mut outbox);
    }

    fn save(&mut self, outbox: &mut Outbox<Payer>) {
        if typed(outbox.save()).is_some() {
            self.saved = self.outside.lock().unwrap().iter().map(|(user, _)| *user).collect();
            self.letters = letters(outbox);
        }
    }

    /// All openings, the second while the journal is compacted.
    fn whole_life(home: &impl Home) -> Self {
        let (mut told, clock) = (Self::default(), ManualClock::default());
        for opening in 0..3 {
            let mut builder = builder(&clock);
            if opening == 1 {
                builder = builder.compact(Compact::default());
            }
            let Some(hub) = typed(home.open(builder)) else { continue };
            if let Some(service) = typed(hub.register(Doubling)) {
                told.opening(&hub, &service, &clock, opening * 10);
            }
            let _ = typed(hub.close());
        }
        told
    }

    /// Nothing is dispatched of what is not there, nor again what was saved; all else is, under the key that it had, or is set aside.
    fn is_kept(&self, what: &str, home: &impl Home) {
        let (hub, service, clock) = open(home);
        let known = |user: u64| service.subject_state(&user).unwrap() != SubjectState::Unknown;
        assert!(self.added.iter().all(|(ticket, user)| ticket.wait_durable().is_err() || known(*user)), "{what}");
        let before = self.outside.lock().unwrap().clone();
        assert!(before.iter().all(|(user, _)| known(*user)), "{what}: dispatched, and called off");
        let again = Outside::default();
        let mut outbox = hub.outbox(Payer(Arc::clone(&again)), options()).unwrap();
        let set_aside = letters(&outbox);
        assert!(set_aside.is_superset(&self.letters), "{what}: {:?} were set aside: {set_aside:?}", self.letters);
        drain(&hub, &clock, &mut outbox);
        let again = again.lock().unwrap().clone();
        assert!(!again.iter().any(|(user, _)| self.saved.contains(user)), "{what}: {:?} again: {again:?}", self.saved);
        let mut keys = BTreeMap::new();
        for (user, key) in before.iter().chain(&again) {
            assert_eq!(keys.entry(user).or_insert(key), &key, "{what}");
        }
        for user in (0..30).filter(|user| user % 7 != 6 && known(*user)) {
            assert!(keys.contains_key(&user), "{what}: {user} was never paid");
        }
        drop(outbox);
        hub.close().unwrap();
    }
}

fn acknowledged(told: &Told) -> usize {
    told.added.iter().filter(|(ticket, _)| ticket.wait_durable().is_ok()).count() + told.saved.len()
}

/// R55, R111: what an outbox dispatched, set aside and saved, after any call to the disk that failed.
#[test]
fn the_nth_call_that_fails_loses_no_effect() {
    let live = |fault| {
        let disk = MemoryDisk::new();
        let (told, faults) = with_fault(fault, || Told::whole_life(&disk));
        ((disk, told), faults)
    };
    let without = [Call::Truncate, Call::Open, Call::ApplyPart, Call::Checkpointed];
    sweep("outbox, memory", 3, &without, live, |what, (disk, told)| {
        for crash in [Crash::Power, Crash::Process] {
            told.is_kept(&format!("{what}, {crash:?}"), &disk.after(crash));
        }
        acknowledged(&told)
    });
}

/// R55, R111: the same in a directory, where files, names and the engine fail, too.
#[test]
fn the_nth_call_that_fails_in_a_directory_loses_no_effect() {
    let base = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let live = |fault| {
        let home = Folder { path: base.path().join("hub"), engine: Engine::Sled };
        let (told, faults) = with_fault(fault, || Told::whole_life(&home));
        ((home, told), faults)
    };
    sweep("outbox, directory", 2, &[Call::Truncate], live, |what, (home, told)| {
        told.is_kept(what, &home);
        fs::remove_dir_all(&home.path).unwrap();
        acknowledged(&told)
    });
}
