//! Options, and the opening of a hub: journal, store, replay, threads.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use serde::Serialize;

use crate::apply::{self, Applier, ApplyError, At};
use crate::bookmark::{MarkPlace, Marks};
use crate::caretakers::Caretakers;
use crate::clock::{Clock, HubClock, SystemClock};
use crate::compact::{self, Compact, Compacted};
use crate::device::{Device, FileDevice, FileDeviceError, MemoryDevice, MemoryFiles};
use crate::error::{OpenError, StoreError};
use crate::faults::{Call, name_fault_point};
use crate::files;
use crate::handover::Handover;
use crate::house::{House, Shelf};
use crate::hub::Hub;
use crate::id::{ClientId, Secret};
use crate::journal::{Entry, GroupTime, Header, JournalError, JournalFile, Log, Purpose, ReplayError, Scan};
use crate::limits::Limits;
use crate::link::Link;
use crate::people::{ClientCore, People};
use crate::record::{self, ClientValue, Standing, key};
use crate::registry::{Generations, Registry};
use crate::stack::Stack;
use crate::steward::Steward;
use crate::storage::DiskMeter;
use crate::store::counted::Role;
use crate::store::marker::Distrust;
use crate::store::{Engine, MemoryStore, Store, marker, open_or_set_aside, set_aside};
use crate::storekeeper::Storekeeper;
use crate::sync::{Arc, Mutex};
use crate::ticket::{CLASS_SYNC, Durability};
use crate::writer::Writer;

/// Sets options and opens a hub.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    durability: Durability,
    limits: Limits,
    clock: Arc<dyn Clock>,
    seed: Option<u64>,
    manual: bool,
    engine: Engine,
    cache_bytes: u64,
    accept_missing_journal: bool,
    rebuild_store: bool,
    compact: Option<Compact>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            durability: Durability::Sync,
            limits: Limits::default(),
            clock: Arc::new(SystemClock::default()),
            seed: None,
            manual: false,
            engine: Engine::default(),
            cache_bytes: 32 << 20,
            accept_missing_journal: false,
            rebuild_store: false,
            compact: None,
        }
    }
}

/// What opening found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OpenReport {
    /// Times that the hub was opened, this one included.
    pub boots: u32,
    /// The journal's first position.
    pub journal_base: u64,
    /// The journal's end, after a torn tail was cut.
    pub journal_end: u64,
    /// Up to where the store reflected the journal when it was opened.
    pub store_position: u64,
    /// Records replayed into the store.
    pub replayed: u64,
    /// A torn tail that was cut off the journal: nothing in it had been acknowledged as synced.
    pub cut: Option<CutTail>,
    /// The store was rebuilt from the journal, and why.
    pub rebuilt: Option<String>,
    /// Where the damaged store was put.
    pub damaged: Option<PathBuf>,
    /// The secret was missing or damaged: tokens given out before are void, `Seat::leases` gives new ones.
    pub secret_renewed: bool,
    /// What the compaction did, if one was asked for and the journal held anything.
    pub compacted: Option<Compacted>,
}

/// A torn tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CutTail {
    /// Where it began.
    pub position: u64,
    /// Its length.
    pub bytes: u64,
    /// Frames in it that were whole by themselves: of a group that was not synced as a whole.
    pub whole_frames: u64,
}

/// A disk in memory, for hubs that need no durability and for tests. Cloning clones the handle.
///
/// It outlives the hub: opening a hub on it again goes on where the last one was.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    journal: MemoryDevice,
    /// The journal that a compaction writes.
    fresh: MemoryDevice,
    store: MemoryStore,
    /// A named exception to "no lock": taken when a hub is opened.
    secret: Arc<Mutex<Option<[u8; Secret::BYTES]>>>,
    /// Bookmarks of projections and outboxes.
    marks: MemoryFiles,
}

/// How a disk is left behind; see [`MemoryDisk::after`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process was killed: everything written is there.
    Process,
    /// The machine lost power: what was not synced is gone.
    Power,
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that holds these bytes as its journal, and nothing else: a copy of a journal file, to be looked into without touching the
    /// file. Opening a hub on it checks them; its leases' tokens are new ones.
    #[must_use]
    pub fn from_journal(bytes: &[u8]) -> Self {
        Self { journal: MemoryDevice::holding(bytes), ..Self::default() }
    }

    /// A copy of the disk as it would be found after a crash at this moment.
    #[must_use]
    pub fn after(&self, crash: Crash) -> Self {
        let secret = *self.secret.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the journal: what they reflect is in it, also while others write.
        let marks = self.marks.copy(crash == Crash::Power);
        let store = self.store.copy(crash == Crash::Power);
        Self {
            journal: self.journal.copy(crash == Crash::Power),
            fresh: self.fresh.copy(crash == Crash::Power),
            store,
            secret: Arc::new(Mutex::new(secret)),
            marks,
        }
    }

    /// A copy of the disk without its store: what is left when only the journal was kept, and the bookmarks.
    #[must_use]
    pub fn without_store(&self) -> Self {
        Self { store: MemoryStore::default(), ..self.after(Crash::Process) }
    }

    /// Bytes in the journal.
    #[must_use]
    pub fn journal_bytes(&self) -> u64 {
        self.journal.size()
    }

    pub(crate) fn journal(&self) -> &MemoryDevice {
        &self.journal
    }

    pub(crate) fn fresh(&self) -> &MemoryDevice {
        &self.fresh
    }

    pub(crate) fn store(&self) -> &MemoryStore {
        &self.store
    }
}

/// Where a hub lives.
pub(crate) enum Place {
    Directory(PathBuf),
    Memory(MemoryDisk),
}

impl Builder {
    /// How far the disk is trusted before a ticket resolves durable. Default [`Durability::Sync`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The hard limits. Default [`Limits::default`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The source of time. Default [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Makes the shuffling of subjects, and a new hub's secret, reproducible. Default: from the system's entropy.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Starts no threads: [`Hub::tick`] does their work. With a [`ManualClock`](crate::ManualClock) and a seed, a whole
    /// system runs single-threaded and reproducibly. Default: three threads.
    pub fn manual(mut self) -> Self {
        self.manual = true;
        self
    }

    /// What keeps the store of a hub in a directory. Default [`Engine::Sled`].
    ///
    /// A store of another engine is refused with [`StoreError::OtherEngine`] and left as it was. To change engines, set
    /// [`rebuild_store`](Self::rebuild_store) too, once: the old store is set aside, and the new one is made from the journal.
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// Memory for the store's cache. Default 32 MiB; at least 1 MiB.
    pub fn cache_bytes(mut self, bytes: u64) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// If the journal is gone but the store is there, goes on from the store and begins a new journal; what came after
    /// the store's position is lost. Default: refuse, saying so.
    pub fn accept_missing_journal(mut self) -> Self {
        self.accept_missing_journal = true;
        self
    }

    /// Sets the store aside and rebuilds it from the journal. Default: only when it cannot be opened.
    pub fn rebuild_store(mut self) -> Self {
        self.rebuild_store = true;
        self
    }

    /// Writes the journal anew while the hub is opened, without what was erased and what is too old, and makes the store
    /// anew from it. It takes time in proportion to the journal and the store, and room for a second journal. Default: the
    /// journal is left as it is.
    pub fn compact(mut self, compact: Compact) -> Self {
        self.compact = Some(compact);
        self
    }

    /// Opens the hub that lives in a directory; makes it if there is none. Reads and checks the whole journal, and replays
    /// what the store does not reflect yet.
    ///
    /// The directory holds `journal` (the truth), `store/` (its index), `secret` (what tokens are made from) and, if there are any,
    /// `projections/` and `outboxes/` (where each was, and what it made of the events); while the hub is open, or
    /// after it was not closed, also `store.unsynced` (sled's store only). If that is there and the machine was started anew since, or a
    /// write failed, the store is rebuilt.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(self, directory: impl AsRef<Path>) -> Result<Hub, OpenError> {
        let directory = directory.as_ref().to_path_buf();
        files::create_dir_synced(&directory).map_err(|source| OpenError::Io { path: directory.clone(), source })?;
        self.open_at(&Place::Directory(directory))
    }

    /// Opens the hub that lives on a disk in memory.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open_in_memory(self, disk: &MemoryDisk) -> Result<Hub, OpenError> {
        self.open_at(&Place::Memory(disk.clone()))
    }

    fn check(&self) -> Result<(), OpenError> {
        let limits = &self.limits;
        let percent = |percent| (1..=100).contains(&percent);
        let rules = [
            (self.cache_bytes >= 1 << 20, "cache_bytes", "1 MiB or more"),
            (limits.seats < crate::slot::OWNERS_MAX, "limits.seats", "at most 67,108,863"),
            ((1..=4_096).contains(&limits.key_bytes), "limits.key_bytes", "1 to 4,096"),
            (limits.body_bytes <= 1 << 20, "limits.body_bytes", "at most 1 MiB"),
            (limits.submit_bytes <= 15 << 20, "limits.submit_bytes", "at most 15 MiB"),
            (limits.report_bytes <= limits.submit_bytes, "limits.report_bytes", "at most limits.submit_bytes"),
            (limits.notices <= 1 << 20, "limits.notices", "at most 1,048,576"),
            (limits.queue_bytes >= 4_096, "limits.queue_bytes", "4,096 or more"),
            (percent(limits.admit_newcomers_percent), "limits.admit_newcomers_percent", "1 to 100"),
            (percent(limits.admit_claims_percent), "limits.admit_claims_percent", "1 to 100"),
            (limits.releases_per_round >= 1, "limits.releases_per_round", "1 or more"),
            (limits.laned_waiting >= 1, "limits.laned_waiting", "1 or more"),
        ];
        match rules.into_iter().find(|(holds, _, _)| !holds) {
            Some((_, option, range)) => Err(OpenError::Option { option, range }),
            None => Ok(()),
        }
    }

    fn open_at(self, place: &Place) -> Result<Hub, OpenError> {
        self.check()?;
        let mut rng = match self.seed {
            Some(seed) => ChaCha12Rng::seed_from_u64(seed),
            None => ChaCha12Rng::try_from_rng(&mut rand::rngs::SysRng)
                .map_err(|error| OpenError::Entropy(error.to_string()))?,
        };
        let mut report = OpenReport::default();
        let state = self.open_state(place, &mut report)?;
        let reached = report.journal_end;
        let state = self.compacted(place, state, &mut report)?;
        let secret = place.secret(&mut rng, &mut report)?;
        let marks = Marks::new(place.marks(), state.applier.standing().boot + 1, reached, self.durability);
        self.start(state, secret, rng, marks, report)
    }

    /// Journal and store, agreeing with each other. A store that turns out damaged is rebuilt, once.
    fn open_state(&self, place: &Place, report: &mut OpenReport) -> Result<State, OpenError> {
        // The journal's lock is the hub's lock: before anything is touched.
        let mut device = place.journal()?;
        place.sweep()?;
        // Only a journal that is all there can take the store's place.
        let header = JournalFile::header(device.as_mut()).map_err(JournalError::Io)?;
        let whole = header.is_some_and(Header::is_whole);
        let not_rebuildable = |damaged| OpenError::NotRebuildable { damaged };
        if self.rebuild_store && place.has_store() {
            if !whole {
                return Err(not_rebuildable(None));
            }
            place.set_store_aside(report, "asked for")?;
        } else if let Some(Distrust { reason, is_known }) = place.distrust()? {
            if whole {
                place.set_store_aside(report, reason)?;
            } else if is_known && header.is_some() && !self.accept_missing_journal {
                // Replayed over, a part of a batch would count twice.
                return Err(not_rebuildable(None));
            } else {
                tracing::warn!(reason, "the store is kept: without the journal's beginning it cannot be rebuilt");
            }
        }
        let mut store = place.store(self.engine, self.cache_bytes, report)?;
        if report.damaged.is_some() && !whole {
            return Err(not_rebuildable(report.damaged.take()));
        }
        let mut tried = self.replay(device, &store, report);
        if matches!(tried, Err(Failure::Headless)) {
            // Its creation was torn: nothing was ever acknowledged from it.
            let mut device = place.journal()?;
            device.truncate(0).map_err(JournalError::Io)?;
            tried = self.replay(device, &store, report);
        }
        if matches!(tried, Err(Failure::Superseded)) {
            drop(store);
            place.discard_store()?;
            report.rebuilt = Some("it is from before the journal was compacted".to_owned());
            store = place.store(self.engine, self.cache_bytes, report)?;
            tried = self.replay(place.journal()?, &store, report);
        }
        let cause = match tried {
            Ok(state) => return Ok(state),
            Err(Failure::Store(cause)) => cause,
            Err(failure) => return Err(failure.into_error()),
        };
        drop(store);
        if !whole {
            return Err(OpenError::Store(StoreError::Corrupted { what: cause }));
        }
        place.set_store_aside(report, &cause)?;
        let store = place.store(self.engine, self.cache_bytes, report)?;
        self.replay(place.journal()?, &store, report).map_err(Failure::into_error)
    }

    fn replay(
        &self,
        mut device: Box<dyn Device>,
        store: &Arc<dyn Store>,
        report: &mut OpenReport,
    ) -> Result<State, Failure> {
        let disk = DiskMeter::over(Arc::clone(store));
        let store = disk.store(Role::Opening);
        let stands = apply::standing(store.as_ref())?;
        let header = JournalFile::header(device.as_mut()).map_err(JournalError::Io)?;
        let refounded = header.filter(|header| header.refounded);
        if let (Some(header), Some(standing)) = (refounded, stands)
            && standing.position <= header.base
        {
            return Err(Failure::Superseded);
        }
        let standing = stands.unwrap_or_default();
        report.store_position = standing.position;
        let mut applier = Applier::load(store)?;
        let bytes = device.len().map_err(JournalError::Io)?;
        if bytes == 0 {
            if standing.position > 0 && !self.accept_missing_journal {
                return Err(OpenError::JournalMissing { store_position: standing.position }.into());
            }
            let journal = JournalFile::create(device, Purpose::Hub, standing.position, self.clock.wall_ms())?;
            (report.journal_base, report.journal_end) = (standing.position, standing.position);
            return Ok(State { journal, applier, disk, resume_at: standing.hub_ms });
        }
        // What is replayed into the store must not be less durable than the store will be.
        device.sync().map_err(JournalError::Io)?;
        // Only a sync proves that what the store reflects is on the device.
        let proven = if standing.class == CLASS_SYNC { standing.position } else { 0 };
        let mut replayed =
            Replayed { applier: &mut applier, last: None, class: standing.class, records: 0, unwritten: 0 };
        let opened =
            JournalFile::open(device, Purpose::Hub, standing.position, proven, &mut |entry| replayed.entry(&entry));
        let (journal, scan) = match opened {
            Ok(opened) => opened,
            Err(ReplayError::Journal(JournalError::Headless)) => return Err(Failure::Headless),
            Err(ReplayError::Journal(error)) => return Err(error.into()),
            Err(ReplayError::Visit(error)) => return Err(error.into()),
        };
        let (last, class, records) = (replayed.last, replayed.class, replayed.records);
        if refounded.is_none() {
            Self::reaches_back(standing, &scan)?;
        }
        Self::agree(standing, &scan)?;
        report.replayed = records;
        (report.journal_base, report.journal_end) = (scan.base, scan.end);
        report.cut = scan.cut.as_ref().map(|cut| CutTail {
            position: cut.position,
            bytes: cut.bytes,
            whole_frames: cut.valid_after,
        });
        if let Some((next, time)) = last {
            applier.flush(next, time, class)?;
        }
        drop(applier.take_effects());
        let resume_at = scan.last_time.map_or(0, |time| time.hub_ms).max(standing.hub_ms);
        Ok(State { journal, applier, disk, resume_at })
    }

    /// Does the journal begin where the store ends, or before?
    fn reaches_back(standing: Standing, scan: &Scan) -> Result<(), Failure> {
        if standing.position < scan.base {
            let what = format!(
                "the journal begins here, but the store reflects it only up to {}: what lies between is missing",
                standing.position
            );
            return Err(OpenError::Frame { position: scan.base, what }.into());
        }
        Ok(())
    }

    /// Does the journal reach as far as the store says?
    fn agree(standing: Standing, scan: &Scan) -> Result<(), Failure> {
        if standing.position > scan.end {
            // Not synced, and lost with the machine's power: the journal is the truth.
            return Err(Failure::Store(format!(
                "it reflects the journal up to {}, but without syncs only {} survived",
                standing.position, scan.end
            )));
        }
        Ok(())
    }

    /// Compacts what was opened, if that was asked for.
    fn compacted(&self, place: &Place, state: State, report: &mut OpenReport) -> Result<State, OpenError> {
        let Some(terms) = &self.compact else { return Ok(state) };
        let State { journal: mut old, applier, disk, resume_at } = state;
        if old.end() == 0 {
            return Ok(State { journal: old, applier, disk, resume_at });
        }
        let store = disk.store(Role::Opening);
        let now = GroupTime { hub_ms: resume_at, wall_ms: self.clock.wall_ms() };
        let written =
            place.fresh_journal().and_then(|fresh| compact::rewrite(&mut old, store.as_ref(), fresh, terms, now));
        let (fresh, mut done) = written.map_err(|error| {
            // It may be what fills the disk. If it stays now, the next opening removes it.
            let swept = place.sweep();
            tracing::warn!(%error, ?swept, "compaction failed");
            OpenError::Compact(Box::new(error))
        })?;
        done.store_bytes_before = store.size_on_disk()?;
        drop((applier, disk, store));
        let device = place.replace_journal(fresh.into_device())?;
        // Until the new one has its name, the old one's lock is the hub's.
        drop(old);
        let store = place.store(self.engine, self.cache_bytes, report)?;
        let mut again = OpenReport::default();
        let state = self.replay(device, &store, &mut again).map_err(Failure::into_error)?;
        (report.journal_base, report.journal_end) = (again.journal_base, again.journal_end);
        done.store_bytes_after = state.disk.store(Role::Opening).size_on_disk()?;
        tracing::info!(?done, "journal compacted");
        report.compacted = Some(done);
        Ok(state)
    }

    fn start(
        self,
        state: State,
        secret: Secret,
        rng: ChaCha12Rng,
        marks: Marks,
        mut report: OpenReport,
    ) -> Result<Hub, OpenError> {
        let State { journal, mut applier, disk, resume_at } = state;
        applier.go_on_with(disk.store(Role::Applier));
        let clock = HubClock::new(Arc::clone(&self.clock), resume_at);
        let link = Arc::new(Link::new(clock, self.limits, secret, self.manual));
        let (registry, people) = (Arc::new(Registry::default()), People::new());
        load_clients(disk.store(Role::Opening).as_ref(), &people)?;
        let boot = marks.boot;
        report.boots = boot;
        let generations = Arc::new(Generations::of_boot(boot));
        let mut known = Shelf { stored: Vec::new(), next: 1 };
        for (service, value) in applier.services() {
            known.next = known.next.max(service + 1);
            known.stored.push((service, value.clone()));
        }
        let inbox = Arc::new(Stack::default());
        // What a crash may undo is not read, as far as the durability goes.
        let tail = journal.tail(self.durability == Durability::Sync).map_err(JournalError::Io)?;
        let handover = Arc::new(Handover::new(Arc::clone(&link)));
        let mut writer = Writer::new(
            Arc::clone(&link),
            Arc::clone(&registry),
            Arc::clone(&people),
            Arc::clone(&handover),
            disk.log(journal),
            self.durability,
        );
        let mut storekeeper = Storekeeper::new(
            Arc::clone(&link),
            Arc::clone(&registry),
            Arc::clone(&people),
            Arc::clone(&inbox),
            handover,
            applier,
            self.durability,
        );
        let booted = writer.boot(boot).and_then(|()| storekeeper.boot());
        booted.map_err(|what| OpenError::Journal(JournalError::Io(io::Error::other(what))))?;
        let steward = Steward::new(
            Arc::clone(&link),
            Arc::clone(&registry),
            Arc::clone(&people),
            disk.store(Role::Steward),
            inbox,
            generations,
            rng,
        );
        let house = Arc::new(House::new(link, registry, people, disk, tail, marks, known));
        let caretakers = Caretakers { writer, storekeeper, steward };
        let threads = if self.manual {
            house.keep(caretakers);
            None
        } else {
            Some(caretakers.spawn(&house.link).map_err(OpenError::Thread)?)
        };
        tracing::info!(boots = boot, replayed = report.replayed, "hub opened");
        Ok(Hub::new(house, report, threads))
    }
}

fn load_clients(store: &dyn Store, people: &People) -> Result<(), StoreError> {
    apply::each(store, 0, key::CLIENT, |rest, value| {
        let value: ClientValue = apply::stored(record::decode("client", value))?;
        if let Some(id) = key::number(rest) {
            let ClientValue { name, registered, first_wall_ms, last_wall_ms } = value;
            people.restore(ClientCore::new(ClientId::known(id), &name, registered, first_wall_ms, last_wall_ms));
        }
        Ok(())
    })
}

/// Journal and store, opened and agreeing.
struct State {
    journal: JournalFile,
    applier: Applier,
    disk: DiskMeter,
    resume_at: u64,
}

/// Why they could not be opened.
enum Failure {
    Open(OpenError),
    /// The store is no use; the journal may be.
    Store(String),
    /// The store is from before the journal was compacted.
    Superseded,
    /// The journal has no header.
    Headless,
}

impl Failure {
    fn into_error(self) -> OpenError {
        match self {
            Self::Open(error) => error,
            Self::Store(what) => OpenError::Store(StoreError::Corrupted { what }),
            Self::Superseded => {
                OpenError::Store(StoreError::Corrupted { what: "it is older than the journal".to_owned() })
            }
            Self::Headless => OpenError::Journal(JournalError::Headless),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Self::Open(error.into())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupted { .. } | StoreError::Panicked { .. } => Self::Store(error.to_string()),
            other => Self::Open(other.into()),
        }
    }
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Store(error) => error.into(),
            ApplyError::Frame { position, what } => Self::Open(OpenError::Frame { position, what }),
        }
    }
}

/// The replay under way.
struct Replayed<'a> {
    applier: &'a mut Applier,
    last: Option<(u64, GroupTime)>,
    class: u8,
    records: u64,
    /// Bytes of the records that are applied and not yet in the store.
    unwritten: usize,
}

impl Replayed<'_> {
    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), ApplyError> {
        let at = At { position: entry.position, time: entry.time };
        self.applier.apply(at, entry.kind, entry.body)?;
        self.records += 1;
        self.class = entry.class;
        self.last = Some((entry.next, entry.time));
        self.unwritten += entry.body.len();
        if self.applier.batch_is_full(self.unwritten) {
            self.applier.flush(entry.next, entry.time, entry.class)?;
            // Nobody keeps anything in memory yet.
            drop(self.applier.take_effects());
            self.last = None;
            self.unwritten = 0;
        }
        Ok(())
    }
}

/// A file of a hub's directory, locked; who finds it locked is told the directory.
pub(crate) fn open_file(directory: &Path, name: &str) -> Result<Box<dyn Device>, OpenError> {
    match FileDevice::open(&directory.join(name)) {
        Ok(device) => Ok(Box::new(device)),
        Err(FileDeviceError::Locked { .. }) => Err(OpenError::Locked { path: directory.to_path_buf() }),
        Err(FileDeviceError::Io { path, source }) => Err(OpenError::Io { path, source }),
    }
}

impl Place {
    fn journal(&self) -> Result<Box<dyn Device>, OpenError> {
        match self {
            Self::Memory(disk) => {
                name_fault_point(Call::SyncNames)?;
                disk.journal.sync_name();
                Ok(Box::new(disk.journal.clone()))
            }
            Self::Directory(directory) => open_file(directory, "journal"),
        }
    }

    fn store(&self, engine: Engine, cache_bytes: u64, report: &mut OpenReport) -> Result<Arc<dyn Store>, OpenError> {
        match self {
            Self::Memory(disk) => {
                name_fault_point(Call::StoreOpen)?;
                Ok(Arc::new(disk.store.clone()))
            }
            Self::Directory(directory) => {
                let (store, aside) =
                    open_or_set_aside(engine, &directory.join("store"), cache_bytes).map_err(|error| match error {
                        StoreError::Locked => OpenError::Locked { path: directory.clone() },
                        other => OpenError::Store(other),
                    })?;
                if let Some(aside) = aside {
                    tracing::error!(reason = %aside.reason, damaged = ?aside.damaged, "store set aside");
                    report.rebuilt = Some(aside.reason.to_string());
                    report.damaged = Some(aside.damaged);
                }
                Ok(store)
            }
        }
    }

    fn marks(&self) -> MarkPlace {
        match self {
            Self::Memory(disk) => MarkPlace::Memory(disk.marks.clone()),
            Self::Directory(directory) => MarkPlace::Directory(directory.clone()),
        }
    }

    fn has_store(&self) -> bool {
        match self {
            Self::Memory(disk) => disk.store.scan(&[], None, 1).is_ok_and(|pairs| !pairs.is_empty()),
            Self::Directory(directory) => directory.join("store").exists(),
        }
    }

    /// Why the store cannot be believed although it may look well, if there is one and it cannot.
    fn distrust(&self) -> Result<Option<Distrust>, OpenError> {
        let Self::Directory(directory) = self else { return Ok(None) };
        let store = directory.join("store");
        if !store.exists() {
            return Ok(None);
        }
        marker::distrust(&store).map_err(|source| OpenError::Io { path: store, source })
    }

    fn set_store_aside(&self, report: &mut OpenReport, reason: &str) -> Result<(), OpenError> {
        tracing::error!(reason, "store set aside, to be rebuilt from the journal");
        report.rebuilt = Some(reason.to_owned());
        match self {
            Self::Memory(disk) => {
                name_fault_point(Call::Rename)?;
                disk.store.clear();
            }
            Self::Directory(directory) => {
                let store = directory.join("store");
                let moved = if store.exists() { set_aside(&store).map(Some)? } else { None };
                report.damaged = moved.or(report.damaged.take());
                marker::remove_beside(&store).map_err(|source| OpenError::Io { path: store, source })?;
            }
        }
        Ok(())
    }

    /// The hub's secret; a new one if there is none.
    fn secret(&self, rng: &mut ChaCha12Rng, report: &mut OpenReport) -> Result<Secret, OpenError> {
        match self {
            Self::Memory(disk) => {
                let mut kept = disk.secret.lock().unwrap_or_else(PoisonError::into_inner);
                let bytes = kept.get_or_insert_with(|| *Secret::generate(rng).bytes());
                Ok(Secret::from_bytes(*bytes))
            }
            Self::Directory(directory) => {
                let path = directory.join("secret");
                match files::read(&path) {
                    Ok(bytes) => {
                        if let Some(secret) = secret_of(&bytes) {
                            return Ok(secret);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    // There may be one: a new one would void every token.
                    Err(source) => return Err(OpenError::Io { path, source }),
                }
                report.secret_renewed = report.journal_end > report.journal_base;
                let secret = Secret::generate(rng);
                keep_secret(&path, &secret).map_err(|source| OpenError::Io { path, source })?;
                Ok(secret)
            }
        }
    }
}

/// The secret that a file holds, if it is as it was written, with its checksum.
fn secret_of(bytes: &[u8]) -> Option<Secret> {
    let (secret, checksum) = bytes.split_first_chunk()?;
    (checksum == crc32fast::hash(secret).to_be_bytes()).then(|| Secret::from_bytes(*secret))
}

/// Writes the secret so that it is there whole, or not at all, and readable by its owner alone.
fn keep_secret(path: &Path, secret: &Secret) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut bytes = secret.bytes().to_vec();
    bytes.extend_from_slice(&crc32fast::hash(secret.bytes()).to_be_bytes());
    files::write_private(&fresh, &bytes)?;
    files::rename_synced(&fresh, path)
}
