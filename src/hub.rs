//! The hub: services, clients, statistics, and the caretakers' threads.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::PoisonError;

use crate::audit::{self, Audit, Depth};
use crate::builder::{Builder, OpenReport};
use crate::caretakers::Threads;
use crate::client::{Client, Registered, Registration};
use crate::commit::Decision;
use crate::error::{
    AuditError, DeregisterError, DetailError, ExportError, HandlerError, HubError, KeysError, OpenError, OutboxError,
    ProjectError, ReadError, RegisterClientError, RegisterServiceError,
};
use crate::events::Events;
use crate::explain::{self, Explanation};
use crate::export;
use crate::follow::EventTail;
use crate::handle::ServiceHandle;
use crate::handlers::{LaneHandler, LaneOptions, LaneThreads, LaneWorker};
use crate::house::House;
use crate::id::check_service_id;
use crate::json::{NamedService, Plugin};
use crate::keys;
use crate::limits::Limits;
use crate::notices::Notice;
use crate::outbox::{Courier, Outbox, OutboxOptions};
use crate::projection::{Projected, Projection, ProjectionOptions};
use crate::registry::ServiceCore;
use crate::restore::{nothing_stored, restore};
use crate::service::{Key, Service, ServiceState, contain, wake};
use crate::stats::{self, ClientStats, HubStats};
use crate::sync::{Arc, Mutex};
use crate::ticket::Ticket;

/// A hub: the shop. Cloning clones the handle; the hub is closed when the last handle is dropped.
///
/// # Concurrency
///
/// All methods can be called from any thread.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("services", &self.inner.house.registry.all().len()).finish_non_exhaustive()
    }
}

struct Inner {
    house: Arc<House>,
    report: OpenReport,
    /// A named exception to "no lock": taken once, by whoever closes the hub.
    threads: Mutex<Option<Threads>>,
}

/// How a hub ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("closing: {what}")]
pub struct CloseError {
    what: String,
}

impl Inner {
    fn close(&self) -> Result<(), CloseError> {
        let house = &self.house;
        house.link.close();
        house.registry.notify_all();
        // Held to the end: whoever closes as well returns when the hub is closed.
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = if let Some(threads) = threads.take() {
            threads.join()
        } else if let Some(mut caretakers) = house.dismiss() {
            caretakers.finish()
        } else {
            Ok(())
        };
        wake("a follower's", || house.link.news.end());
        ended.map_err(|what| CloseError { what })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "hub dropped");
        }
    }
}

impl Hub {
    pub(crate) fn new(house: Arc<House>, report: OpenReport, threads: Option<Threads>) -> Self {
        Self { inner: Arc::new(Inner { house, report, threads: Mutex::new(threads) }) }
    }

    /// Opens the hub that lives in a directory, with the defaults; makes it if there is none.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::builder().open(directory)
    }

    /// Sets options before opening.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn house(&self) -> &Arc<House> {
        &self.inner.house
    }

    /// What opening found and did.
    #[must_use]
    pub fn open_report(&self) -> &OpenReport {
        &self.inner.report
    }

    /// The hard limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.house().link.limits
    }

    /// Registers a service, while others serve. Registering one that is registered gives its handle again; one that was
    /// registered before a restart goes on where it was: an administrator's pause or revocation stays.
    ///
    /// Reads what the store holds of it on the calling thread.
    ///
    /// # Errors
    ///
    /// [`RegisterServiceError`]; nothing was changed.
    pub fn register<S: Service>(&self, plugin: S) -> Result<ServiceHandle<S>, RegisterServiceError> {
        let house = self.house();
        house.link.check()?;
        let panicked = |message| RegisterServiceError::Panicked { message };
        let name = contain(|| plugin.id().to_owned()).map_err(panicked)?;
        if !check_service_id(&name) {
            return Err(RegisterServiceError::Id { id: name });
        }
        let policy = contain(|| plugin.policy()).map_err(panicked)?;
        policy.check().map_err(|(field, range)| RegisterServiceError::Policy {
            service: name.clone(),
            field,
            range,
        })?;
        // Before the lock: one that is not needed is dropped after it was given back.
        let plugin: Arc<dyn Plugin> = Arc::new(plugin);
        let mut services = house.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(core) = house.registry.by_name(&name) {
            if core.plugin.plugin_type() != plugin.plugin_type() {
                return Err(RegisterServiceError::OtherType { service: name });
            }
            return Ok(ServiceHandle::new(house, core));
        }
        let limit = house.link.limits.services;
        if house.registry.all().len() >= limit as usize {
            return Err(RegisterServiceError::TooMany { limit });
        }
        let known = services.stored.iter().find(|(_, value)| value.name == name).cloned();
        let bounds = policy.bounds();
        let (id, state) =
            known.as_ref().map_or((services.next, ServiceState::Active), |(id, value)| (*id, value.state));
        let core = Arc::new(ServiceCore::new(id, &name, state, policy, plugin, Arc::clone(&house.link)));
        let journal_needed = known.as_ref().is_none_or(|(_, value)| value.bounds() != bounds);
        // Room first: restoring makes seats.
        let room = if journal_needed { Some(house.room_for_service(&core)?) } else { None };
        let restored = if known.is_some() {
            restore(house, &core)
        } else {
            // Taken even if it is refused: that is told once, and who registers again gets another number.
            services.next += 1;
            nothing_stored(house, id)
        };
        restored.inspect_err(|_| room.into_iter().for_each(|room| house.link.give_back(room)))?;
        if let Some(room) = room {
            drop(house.send_service(&core, room));
        }
        house.registry.insert(&core);
        house.link.steward.raise();
        tracing::info!(service = %core.name, id, %state, "service registered");
        Ok(ServiceHandle::new(house, core))
    }

    /// Finds a service by name. Wait-free.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<NamedService> {
        let core = self.house().registry.by_name(name)?;
        Some(NamedService::new(Arc::clone(self.house()), core))
    }

    /// Where a service is in its life, or `None` if none of that name is registered. Needs no registration; a hint, each
    /// call looks again. Wait-free.
    #[must_use]
    pub fn service_state(&self, name: &str) -> Option<ServiceState> {
        Some(self.house().registry.by_name(name)?.state())
    }

    /// Registers a client. Registering again succeeds and changes nothing for anyone.
    ///
    /// # Errors
    ///
    /// [`RegisterClientError`]; nothing was changed.
    pub fn register_client(&self, registration: &Registration) -> Result<Registered, RegisterClientError> {
        Client::register(self.house(), registration)
    }

    /// The handle of a known client, registered or not.
    #[must_use]
    pub fn client(&self, id: u64) -> Option<Client> {
        Client::known(self.house(), id)
    }

    /// Deregisters a client by its details, as [`Client::deregister`].
    ///
    /// # Errors
    ///
    /// [`DeregisterError`]; nobody's state was changed.
    pub fn deregister_client(&self, id: u64, name: &str) -> Result<Ticket, DeregisterError> {
        self.house().link.check()?;
        let Some(client) = self.client(id) else {
            self.house().people.refused.not_registered.add(1);
            return Err(DeregisterError::NotRegistered { id });
        };
        if client.name() != name {
            self.house().people.refused.invalid.add(1);
            return Err(DetailError::OtherName { id }.into());
        }
        client.deregister()
    }

    /// Deletes the subject of these key bytes in every service that knows one, registered now or not, as
    /// [`ServiceHandle::delete`] does, all at once. The ticket's `added` is the number of services that did.
    ///
    /// # Errors
    ///
    /// [`KeysError`]; nothing was deleted.
    pub fn delete_everywhere<K: Key>(&self, key: &K) -> Result<Ticket, KeysError> {
        keys::send(&self.house().link, keys::EVERY_SERVICE, Decision::Delete, std::slice::from_ref(key))
    }

    /// Every count of the hub.
    #[must_use]
    pub fn stats(&self) -> HubStats {
        stats::of_hub(self.house())
    }

    /// What clients tried where it does not belong: tokens of others' leases, forged ones, reports on subjects that are
    /// not in the bucket. The newest (`Limits::notices`), oldest first, since the hub was opened; the counts in
    /// [`Faults`](crate::Faults) are of all.
    #[must_use]
    pub fn notices(&self) -> Vec<Notice> {
        self.house().link.notices.list()
    }

    /// Every count of one client.
    #[must_use]
    pub fn client_stats(&self, id: u64) -> Option<ClientStats> {
        let client = self.house().people.client(id)?;
        Some(stats::of_client(self.house(), &client))
    }

    /// What happened, from a position of the journal on: 0, or where an earlier walk ended ([`Event::next`](crate::Event::next)),
    /// or where a ticket or a finding points to. It ends at the journal's end of this moment.
    ///
    /// Events from before a [compaction](crate::Compact) keep their positions; those about subjects that were deleted name
    /// them no more, or are gone. Where older ones were dropped for their age, a walk that begins before says so
    /// ([`ReadError::Lagged`]).
    ///
    /// # Errors
    ///
    /// [`ReadError::Lagged`], [`ReadError::BeyondEnd`], [`ReadError::NotAPosition`], [`ReadError::Journal`].
    ///
    /// # Concurrency
    ///
    /// Reads the file beside the writer, on the calling thread, in pieces of 256 KiB or one record; holds nobody up.
    /// Goes through about 1 MiB before `from`. Each reader has its own place and pace.
    ///
    /// # Durability
    ///
    /// Under [`Durability::Sync`](crate::Durability::Sync) only what is durable is read; otherwise what is written, which a
    /// crash may undo.
    pub fn events(&self, from: u64) -> Result<Events, ReadError> {
        Events::open(self.house(), from)
    }

    /// What happened and what happens, from a position of the journal on: as [`events`](Self::events), but goes on with what
    /// comes, until the hub is closed.
    ///
    /// # Errors
    ///
    /// As [`events`](Self::events). Where older events were dropped for their age, [`ReadError::Lagged`] says from where on
    /// they can be followed.
    ///
    /// # Concurrency
    ///
    /// Any number may follow, each at its own pace: see [`EventTail`].
    ///
    /// # Durability
    ///
    /// As [`events`](Self::events): it sees an event once that is as durable as the hub promises.
    pub fn follow(&self, from: u64) -> Result<EventTail, ReadError> {
        EventTail::open(self.house(), from)
    }

    /// Opens a projection: folds events into a state, from where it was saved, or from the first event on. Nothing is
    /// folded yet: see [`Projected::catch_up`] and [`Projected::run`].
    ///
    /// A saved state that is damaged, of another version, or of events that the journal does not hold, is not used; the
    /// [report](Projected::report) says so.
    ///
    /// # Errors
    ///
    /// [`ProjectError`]; [`ProjectError::Lagged`] if a compaction dropped what it needs next, unless
    /// [`ProjectionOptions::after_lag`] says to begin behind that.
    ///
    /// # Concurrency
    ///
    /// Reads the saved state, and goes through about 1 MiB of the journal, on the calling thread; if the hub was opened more
    /// than once since it was saved, through what was journaled until the first of these openings too. One of each id is
    /// open at a time.
    pub fn project<P: Projection>(
        &self,
        projection: P,
        options: ProjectionOptions,
    ) -> Result<Projected<P>, ProjectError> {
        Projected::open(self.house(), projection, options)
    }

    /// Opens an outbox: dispatches effects outside the hub that follow from events, each at least once and under a key that
    /// stays the same, from where it was saved. Nothing is dispatched yet: see [`Outbox::step`] and [`Outbox::run`].
    ///
    /// # Errors
    ///
    /// [`OutboxError`]: among them [`OutboxError::Damaged`] and [`OutboxError::Lagged`], where [`OutboxOptions`] do not say
    /// what to do.
    ///
    /// # Concurrency
    ///
    /// As [`project`](Self::project).
    pub fn outbox<C: Courier>(&self, courier: C, options: OutboxOptions) -> Result<Outbox<C>, OutboxError> {
        Outbox::open(self.house(), courier, options)
    }

    /// Does the work of a service's lanes in this process: so many threads call the handler, until the answer is dropped or the
    /// hub is closed. The same as [`handle_lanes`](Self::handle_lanes) with the default options, and
    /// [`spawn`](LaneWorker::spawn).
    ///
    /// # Errors
    ///
    /// [`HandlerError`]; no thread runs.
    ///
    /// # Concurrency
    ///
    /// Different lanes are handled in parallel, one lane by one thread at a time; nothing is locked while a handler runs.
    ///
    /// # Durability
    ///
    /// A command's report, the state after it and what it sends are in one journal record. The next bucket of a lane
    /// comes when that is applied.
    pub fn run_lanes<S: Service, H: LaneHandler<S>>(
        &self,
        service: &ServiceHandle<S>,
        handler: H,
        threads: usize,
    ) -> Result<LaneThreads, HandlerError> {
        self.handle_lanes(service, handler, LaneOptions::default())?.spawn(threads)
    }

    /// Opens a worker that calls the handler for the commands of a service's lanes. Nothing is handled yet: see
    /// [`LaneWorker::step`] and [`LaneWorker::spawn`].
    ///
    /// It works as a client of its own, which it registers and activates; leases which that one still holds, from before a crash,
    /// are given back. Other clients may work for the same service.
    ///
    /// # Errors
    ///
    /// [`HandlerError`].
    pub fn handle_lanes<S: Service, H: LaneHandler<S>>(
        &self,
        service: &ServiceHandle<S>,
        handler: H,
        options: LaneOptions,
    ) -> Result<LaneWorker<S, H>, HandlerError> {
        LaneWorker::open(self.house(), service, handler, options)
    }

    /// What a client did and what became of it, step by step: registrations, activations, leases, reports, put-backs,
    /// conflicts; and how it stands now, with what was refused to it (that is only counted, not journaled).
    ///
    /// An operator's tool: it reads the whole journal, on the calling thread; its memory is bounded by
    /// `Limits::explained_steps`.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    ///
    /// # Concurrency
    ///
    /// As [`events`](Self::events). What happens meanwhile may be in the last line and not in the steps.
    pub fn explain_client(&self, id: u64) -> Result<Explanation, ReadError> {
        explain::of_client(self.house(), id)
    }

    /// Writes the whole graph as one JSON object: `hub`; `services`, each with its state, pools, leases (who holds them,
    /// until when) and totals of subjects; `clients`, each with its seats.
    ///
    /// # Errors
    ///
    /// [`ExportError`]; what was written before stays.
    ///
    /// # Concurrency
    ///
    /// Stops nobody, however long it takes or `out` blocks: it reads word by word and holds nothing while it writes.
    /// Weakly consistent: every element was so at some moment during the call, but not all at the same one; what comes or
    /// goes meanwhile may be there or not. Clients are those that reads see. Memory is bounded by one page of clients.
    pub fn export_json(&self, out: &mut impl io::Write) -> Result<(), ExportError> {
        export::json(self.house(), self.inner.report.boots, out)
    }

    /// Writes the same graph in the DOT language of Graphviz.
    ///
    /// # Errors
    ///
    /// As [`export_json`](Self::export_json).
    ///
    /// # Concurrency
    ///
    /// As [`export_json`](Self::export_json).
    pub fn export_dot(&self, out: &mut impl io::Write) -> Result<(), ExportError> {
        export::dot(self.house(), self.inner.report.boots, out)
    }

    /// Checks that no subject was lost and none counted twice: compares the fingerprints of what each party says it moved.
    /// Costs the same however many subjects there are; what calls note for it is under 1 % of a claim and submit
    /// (`cargo bench --bench claim -- audit`).
    ///
    /// Waits for a quiet moment: until what is under way is through and nothing moves. In a manual hub it does the caretakers'
    /// work, as [`tick`](Self::tick). An [`Audit`] that does not balance is no error.
    ///
    /// # Errors
    ///
    /// [`AuditError`]; [`AuditError::NotQuiet`] if claims, reports or additions went on for all of ten seconds.
    ///
    /// # Concurrency
    ///
    /// Parks the calling thread, which must not be a plugin's (the caretakers would wait for themselves). Takes no lock that a
    /// claim, submit, renewal or release could meet, and holds nobody up. A thread that is stopped in the middle of such a call
    /// may show as an imbalance of that call's subjects until it goes on.
    pub fn audit(&self) -> Result<Audit, AuditError> {
        audit::audit(self.house(), Depth::Ledgers)
    }

    /// As [`audit`](Self::audit), and counts every subject in the store, the queues, the pools and the leases: also what was
    /// lost without anyone's noting it is seen. Takes time and memory as an export of all subjects' places would: reads the
    /// whole index of what is owed, and a copy of the ranks of recovered leases.
    ///
    /// # Errors
    ///
    /// As [`audit`](Self::audit), and [`AuditError::Store`].
    ///
    /// # Concurrency
    ///
    /// As [`audit`](Self::audit). The steward walks its queues once for each look; the rest is done by the calling thread.
    pub fn recount(&self) -> Result<Audit, AuditError> {
        audit::audit(self.house(), Depth::Subjects)
    }

    /// Does the caretakers' work, once, in a manual hub: journals, applies, marks, releases, forms pools, until there is
    /// nothing left to do at this time. In a hub with threads it does nothing.
    pub fn tick(&self) {
        self.house().tick();
    }

    /// The same as the error that new work would get.
    ///
    /// # Errors
    ///
    /// [`HubError`](crate::HubError) if the hub is poisoned or closed.
    pub fn health(&self) -> Result<(), HubError> {
        self.house().link.check()
    }

    /// Closes the hub, for all handles: journals and syncs what waits, makes the store durable, joins the threads. Leases
    /// stay with their holders: they go on when the hub is opened again. Closing again does nothing.
    ///
    /// The directory can be opened again once every handle of the hub (services, clients, seats, leases) is dropped too:
    /// they still read results.
    ///
    /// # Errors
    ///
    /// [`CloseError`] if something could not be written; reopening recovers.
    pub fn close(&self) -> Result<(), CloseError> {
        self.inner.close()
    }
}
