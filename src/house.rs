//! What the handles share: the registry, the people, the store, and the caretakers of a manual hub.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

use crate::bookmark::Marks;
use crate::caretakers::Caretakers;
use crate::commit::{Change, Pending};
use crate::error::HubError;
use crate::journal::Tail;
use crate::link::{Link, Precedence};
use crate::people::People;
use crate::record::ServiceValue;
use crate::registry::{Registry, ServiceCore};
use crate::storage::DiskMeter;
use crate::store::Store;
use crate::store::counted::Role;
use crate::sync::{Arc, Mutex};
use crate::ticket::Ticket;

/// Everything but the threads.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) link: Arc<Link>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) people: Arc<People>,
    /// Counted as read by callers.
    pub(crate) store: Arc<dyn Store>,
    pub(crate) disk: DiskMeter,
    /// The journal, for reading.
    pub(crate) tail: Tail,
    /// What readers of the events keep.
    pub(crate) marks: Marks,
    /// Services that the store knew when the hub was opened. A named exception to "no lock": registering a service is a
    /// cold call, and one at a time.
    pub(crate) shelf: Mutex<Shelf>,
    /// The caretakers, in a manual hub. A named exception: only `tick`, and what works for it, takes it.
    manual: Mutex<Option<Caretakers>>,
}

/// Services known to the store, and the next free number.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    pub(crate) stored: Vec<(u32, ServiceValue)>,
    pub(crate) next: u32,
}

impl House {
    pub(crate) fn new(
        link: Arc<Link>,
        registry: Arc<Registry>,
        people: Arc<People>,
        disk: DiskMeter,
        tail: Tail,
        marks: Marks,
        shelf: Shelf,
    ) -> Self {
        let store = disk.store(Role::Results);
        Self { link, registry, people, store, disk, tail, marks, shelf: Mutex::new(shelf), manual: Mutex::new(None) }
    }

    /// Keeps the caretakers of a manual hub.
    pub(crate) fn keep(&self, caretakers: Caretakers) {
        *self.caretakers() = Some(caretakers);
    }

    /// Gives the caretakers of a manual hub away, at its end.
    pub(crate) fn dismiss(&self) -> Option<Caretakers> {
        self.caretakers().take()
    }

    /// Runs a decision on a service and hands it to the writer, one decision at a time: what is journaled last is what was
    /// decided last. Cold.
    pub(crate) fn in_turn<R>(&self, decide: impl FnOnce() -> R) -> R {
        let _turn = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        decide()
    }

    /// Every service ever registered, by number. Who has seen the record of one finds it here.
    pub(crate) fn service_names(&self) -> HashMap<u32, Arc<str>> {
        let shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = shelf.stored.iter().map(|(service, value)| (*service, Arc::from(value.name.as_str())));
        let registered = self.registry.all();
        stored.chain(registered.iter().map(|service| (service.id, Arc::clone(&service.name)))).collect()
    }

    /// Services that the store knew when the hub was opened.
    pub(crate) fn stored_services(&self) -> Vec<(u32, ServiceValue)> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner).stored.clone()
    }

    fn caretakers(&self) -> MutexGuard<'_, Option<Caretakers>> {
        // A panic in a caretaker is a bug; its state is still whole enough to be closed.
        self.manual.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the caretakers' work until there is nothing left to do now. Only in a manual hub.
    pub(crate) fn tick(&self) {
        let mut guard = self.caretakers();
        let Some(caretakers) = guard.as_mut() else { return };
        // What is put back in one round is offered in the next; each round settles what the one before it began.
        for _ in 0..8 {
            let wrote = caretakers.writer.turn();
            caretakers.storekeeper.apply_all();
            let cared = caretakers.steward.turn();
            if !wrote && !cared {
                break;
            }
        }
    }

    /// In a manual hub, journals and applies what waits, so that the queue has room again.
    pub(crate) fn make_room(&self) {
        if let Some(caretakers) = self.caretakers().as_mut() {
            caretakers.writer.turn();
            caretakers.storekeeper.apply_all();
        }
    }

    /// In a manual hub, journals what waits and applies none of it.
    #[cfg(test)]
    pub(crate) fn journal(&self) {
        if let Some(caretakers) = self.caretakers().as_mut() {
            caretakers.writer.turn();
        }
    }

    /// Takes room in the queue for a change of a service, before it is made.
    pub(crate) fn room_for_service(&self, service: &ServiceCore) -> Result<usize, HubError> {
        let bytes = service.name.len() + Pending::OVERHEAD;
        self.link.reserve(Precedence::Submit, bytes)?;
        Ok(bytes)
    }

    /// Journals the state of a service as it is now.
    pub(crate) fn send_service(&self, service: &ServiceCore, room: usize) -> Ticket {
        let change = Change::Service {
            service: service.id,
            name: Arc::clone(&service.name),
            state: service.state(),
            bounds: service.policy().bounds(),
        };
        self.link.post(change, room)
    }
}
