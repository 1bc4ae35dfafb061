//! A session on a disk that fails at its n-th byte, sync, batch or anything else, for every n: every ticket tells the truth, reads go on,
//! and reopening on the healed disk recovers what was durable and no half of anything.

mod nth_call;
mod outbox;
mod sweep;

use std::cell::Cell;
use std::io;
use std::time::Duration;

pub(crate) use self::sweep::sweep;
use crate::faults::Call;
use crate::{
    Ask, Builder, Crash, Hub, HubError, ManualClock, MemoryDisk, OpenError, Policy, Progress, Registration, Reporter,
    Seat, Service, ServiceHandle, SubjectState, Ticket, TicketError, Verdict,
};

const CALLS: [Call; 16] = [
    Call::Append,
    Call::Sync,
    Call::Truncate,
    Call::Read,
    Call::Open,
    Call::Create,
    Call::Rename,
    Call::Remove,
    Call::SyncNames,
    Call::StoreOpen,
    Call::StoreRead,
    Call::Apply,
    Call::ApplyPart,
    Call::Applied,
    Call::Checkpoint,
    Call::Checkpointed,
];

/// Which call is to fail, of one thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) call: Call,
    /// Counted from 1, among those of its kind.
    pub(crate) nth: u64,
    /// And every one after it, of whatever kind.
    pub(crate) lasting: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    /// Calls so far, by kind.
    made: [u64; CALLS.len()],
    fault: Option<Fault>,
    struck: bool,
}

impl Faults {
    pub(crate) fn made(&self, call: Call) -> u64 {
        self.made[call as usize]
    }
}

const NO_FAULTS: Faults = Faults { made: [0; CALLS.len()], fault: None, struck: false };

thread_local! {
    static FAULTS: Cell<Faults> = const { Cell::new(NO_FAULTS) };
}

/// Fails if it is this call's turn.
pub(crate) fn fault_point(call: Call) -> io::Result<()> {
    let mut faults = FAULTS.get();
    let made = &mut faults.made[call as usize];
    *made += 1;
    let fails = faults.fault.is_some_and(|fault| {
        let its_turn = fault.call == call && fault.nth == *made;
        its_turn || faults.struck && fault.lasting
    });
    faults.struck |= fails;
    FAULTS.set(faults);
    if fails { Err(io::Error::other("the disk fails")) } else { Ok(()) }
}

/// Does something on disks that fail so, on this thread; which calls it made.
pub(crate) fn with_fault<T>(fault: Option<Fault>, act: impl FnOnce() -> T) -> (T, Faults) {
    FAULTS.set(Faults { fault, ..NO_FAULTS });
    let done = act();
    (done, FAULTS.replace(NO_FAULTS))
}

/// An error is to be one of those that a failing disk makes.
pub(crate) fn typed<T, E: std::error::Error + 'static>(result: Result<T, E>) -> Option<T> {
    result.map_err(|error| assert!(is_of_the_disk(&error), "{error}")).ok()
}

struct Doubling;

impl Service for Doubling {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        "doubling"
    }

    fn policy(&self) -> Policy {
        Policy::default()
    }

    fn judge(&self, _subject: &u64, _report: &u64, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }
}

/// What a ticket stands for.
#[derive(Debug)]
enum Effect {
    /// The client is known.
    Client(u64),
    /// The client is known, and not registered any more.
    Gone(u64),
    /// The subject is known.
    Known(u64),
    /// The subjects are done.
    Done(Vec<u64>),
}

impl Effect {
    /// How many of its parts are there, of how many.
    fn there(&self, hub: &Hub, service: &ServiceHandle<Doubling>) -> (usize, usize) {
        match self {
            Self::Client(id) => (usize::from(hub.client(*id).is_some()), 1),
            Self::Gone(id) => (usize::from(hub.client(*id).is_some_and(|client| !client.is_registered())), 1),
            Self::Known(key) => (usize::from(service.subject_state(key).unwrap() != SubjectState::Unknown), 1),
            Self::Done(keys) => {
                let done = |key: &&u64| {
                    let found = service.result(key).unwrap();
                    found.is_some_and(|finding| finding.report == *key * 2)
                };
                (keys.iter().filter(done).count(), keys.len())
            }
        }
    }
}

/// What came of a session.
#[derive(Default)]
struct Session {
    tickets: Vec<(Ticket, Effect)>,
    /// Calls refused because the hub was poisoned.
    refused: usize,
}

impl Session {
    /// Keeps the ticket of a call, or counts its refusal; any other failure is a bug.
    fn note<E: Into<crate::Error>>(&mut self, call: Result<Ticket, E>, effect: Effect) {
        match call {
            Ok(ticket) => self.tickets.push((ticket, effect)),
            Err(error) => self.refuse(error),
        }
    }

    fn refuse(&mut self, error: impl Into<crate::Error>) {
        let error = error.into();
        assert!(is_of_the_disk(&error), "{error}");
        self.refused += 1;
    }

    /// The same calls each time, whatever becomes of them.
    fn run(hub: &Hub, service: &ServiceHandle<Doubling>, clock: &ManualClock) -> Self {
        let mut session = Self::default();
        let tick = || {
            clock.advance(Duration::from_millis(100));
            hub.tick();
        };
        let mut seats: Vec<Seat<Doubling>> = Vec::new();
        for id in 1..=3 {
            match hub.register_client(&Registration::new(id, "a")) {
                Ok(registered) => {
                    session.tickets.push((registered.ticket, Effect::Client(id)));
                    match registered.client.activate(service) {
                        Ok(seat) => seats.push(seat),
                        Err(error) => session.refuse(error),
                    }
                }
                Err(error) => session.refuse(error),
            }
        }
        for round in 0..6_u64 {
            for key in round * 4..round * 4 + 4 {
                session.note(service.add(&key), Effect::Known(key));
            }
            tick();
            for seat in &seats {
                session.work(seat, round);
            }
            tick();
        }
        if let Some(client) = hub.client(3) {
            session.note(client.deregister(), Effect::Gone(3));
        }
        tick();
        tick();
        session
    }

    /// A few more calls, on subjects from `first` on.
    fn go_on(hub: &Hub, service: &ServiceHandle<Doubling>, clock: &ManualClock, first: u64) -> Self {
        let mut session = Self::default();
        let tick = || {
            clock.advance(Duration::from_millis(100));
            hub.tick();
        };
        for key in first..first + 8 {
            session.note(service.add(&key), Effect::Known(key));
        }
        tick();
        match hub.register_client(&Registration::new(first, "a")) {
            Ok(registered) => {
                session.tickets.push((registered.ticket, Effect::Client(first)));
                match registered.client.activate(service) {
                    Ok(seat) => {
                        session.work(&seat, 0);
                        session.work(&seat, 3);
                        tick();
                        session.work(&seat, 1);
                    }
                    Err(error) => session.refuse(error),
                }
            }
            Err(error) => session.refuse(error),
        }
        tick();
        tick();
        session
    }

    /// One claim: its bucket is reported in two parts, given back, or kept.
    fn work(&mut self, seat: &Seat<Doubling>, round: u64) {
        let claim = match seat.claim(Ask::one()) {
            Ok(claim) => claim,
            Err(error) => return self.refuse(error),
        };
        let Some(lease) = claim.leased().and_then(|mut grant| grant.pop()) else { return };
        let keys: Vec<u64> = lease.subjects().collect();
        let reports = |keys: &[u64]| keys.iter().map(|key| (*key, key * 2)).collect::<Vec<_>>();
        match round {
            1 => lease.release(),
            3 => assert_eq!(lease.into_token().to_string().len(), 64),
            _ => {
                let (first, rest) = keys.split_at(keys.len() / 2);
                if !first.is_empty() {
                    let call = lease.report(reports(first));
                    self.note(call.map(|submitted| submitted.ticket), Effect::Done(first.to_vec()));
                }
                let call = lease.submit(reports(rest));
                self.note(call.map(|submitted| submitted.ticket), Effect::Done(rest.to_vec()));
            }
        }
    }
}

/// Whether an error is one of those that a failing disk makes.
fn is_of_the_disk(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    std::iter::from_fn(|| {
        let this = cause?;
        cause = this.source();
        Some(this.to_string())
    })
    .any(|words| {
        ["poisoned", "i/o", "the disk fails", "since an earlier failure", "the log has failed"]
            .iter()
            .any(|part| words.contains(part))
    })
}

/// How many tickets came to each end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ends {
    visible: usize,
    not_visible: usize,
    unknown: usize,
    refused: usize,
}

fn builder(clock: &ManualClock) -> Builder {
    Hub::builder().manual().clock(clock.clone()).seed(1)
}

/// Where a hub lives.
trait Home {
    fn open(&self, builder: Builder) -> Result<Hub, OpenError>;
}

impl Home for MemoryDisk {
    fn open(&self, builder: Builder) -> Result<Hub, OpenError> {
        builder.open_in_memory(self)
    }
}

/// Opens a hub with the service on a disk without faults.
fn open(home: &impl Home) -> (Hub, ServiceHandle<Doubling>, ManualClock) {
    let clock = ManualClock::default();
    let hub = home.open(builder(&clock)).unwrap();
    let service = hub.register(Doubling).unwrap();
    hub.tick();
    (hub, service, clock)
}

/// Runs the session on a disk that is broken by `arm`, looks at everything, heals the disk, and looks again. False if
/// the fault never struck.
fn survives(what: &str, arm: impl Fn(&MemoryDisk), power_cut_is_exact: bool) -> Option<Ends> {
    let disk = MemoryDisk::new();
    let (hub, service, clock) = open(&disk);
    arm(&disk);
    let session = Session::run(&hub, &service, &clock);
    let calls = session.tickets.len() + session.refused;
    let ends = count(what, &session);
    let struck = hub.health().is_err();
    assert_eq!(ends.visible + ends.not_visible + ends.unknown + ends.refused, session.tickets.len());
    if struck {
        assert!(calls > 0 && ends.visible < calls, "{what}");
        assert!(matches!(hub.health(), Err(HubError::Poisoned { cause }) if !cause.is_empty()), "{what}");
        reads_go_on(what, &hub, &service, &session);
    } else {
        assert_eq!((session.refused, ends.visible), (0, session.tickets.len()), "{what}");
    }
    drop(hub.close());
    drop((hub, service));
    disk.journal().heal();
    disk.store().fail_apply_after(0);
    for crash in [Crash::Power, Crash::Process] {
        let found = disk.after(crash);
        recovered(&format!("{what}, {crash:?}"), &found, &session, power_cut_is_exact && crash == Crash::Power);
    }
    recovered(&format!("{what}, without the store"), &disk.without_store(), &session, false);
    recovered(&format!("{what}, healed"), &disk, &session, false);
    struck.then_some(ends)
}

/// Counts the tickets' ends: none is pending, and nothing becomes durable behind one that failed.
fn count(what: &str, session: &Session) -> Ends {
    let mut ends = Ends::default();
    for (at, (ticket, effect)) in session.tickets.iter().enumerate() {
        let failed = ends.unknown + ends.refused;
        match ticket.progress() {
            Ok(Progress::Visible) => {
                assert_eq!((failed, ends.not_visible), (0, 0), "{what}: {effect:?} visible behind a failure");
                ends.visible += 1;
            }
            Err(TicketError::NotVisible) => {
                assert_eq!(failed, 0, "{what}: {effect:?} durable behind a failure");
                assert!(ticket.position().is_some() || ticket.wait_durable().is_ok(), "{what}");
                ends.not_visible += 1;
            }
            Err(TicketError::Unknown) => ends.unknown += 1,
            Err(TicketError::Refused) => ends.refused += 1,
            other => panic!("{what}: ticket {at}, {effect:?}: {other:?}"),
        }
    }
    ends
}

/// Nothing new is taken, everything visible is still read.
fn reads_go_on(what: &str, hub: &Hub, service: &ServiceHandle<Doubling>, session: &Session) {
    let refused = service.add(&1_000).unwrap_err();
    assert!(matches!(refused, crate::AddError::Hub { source: HubError::Poisoned { .. }, .. }), "{what}: {refused}");
    for (ticket, effect) in &session.tickets {
        if ticket.progress().is_ok() {
            let (there, all) = effect.there(hub, service);
            assert_eq!(there, all, "{what}: {effect:?} is not read any more");
        }
    }
    let (found, next) = service.results(None, usize::MAX).unwrap();
    assert_eq!((found.len() as u64, next), (service.stats().subjects_done, None), "{what}");
    assert!(hub.stats().queued_bytes == 0, "{what}: room was given back");
}

/// Opens the disk again: what was durable is there, what was refused is not, what is unknown is there whole or not at all;
/// and all that is known can be finished, each subject once.
fn recovered(what: &str, home: &impl Home, session: &Session, exact: bool) {
    goes_on(what, open(home), session, exact);
}

/// As `recovered`, of a hub that is open.
fn goes_on(
    what: &str,
    (hub, service, clock): (Hub, ServiceHandle<Doubling>, ManualClock),
    session: &Session,
    exact: bool,
) {
    for (ticket, effect) in &session.tickets {
        let (there, all) = effect.there(&hub, &service);
        match ticket.progress() {
            Ok(_) | Err(TicketError::NotVisible) => assert_eq!(there, all, "{what}: {effect:?} was durable"),
            Err(TicketError::Unknown) if !exact => assert!(there == 0 || there == all, "{what}: half of {effect:?}"),
            Err(_) => assert_eq!(there, 0, "{what}: {effect:?} was refused, or never synced"),
        }
    }
    let work = hub.stats().work;
    assert!(work.adds_up(), "{what}: {work:?}");
    // Whoever was there goes on with what it holds; the rest is handed out.
    let mut seats = Vec::new();
    for id in [1, 2, 3, 100, 200, 300, 4] {
        let client = hub.register_client(&Registration::new(id, "a")).unwrap().client;
        seats.push(client.activate(&service).unwrap());
    }
    let mut accepted = usize::try_from(service.stats().subjects_done).unwrap();
    for holder in &seats {
        for view in holder.leases().unwrap() {
            let reports = view.subjects.iter().map(|key| (*key, key * 2));
            accepted += holder.submit(&view.token, reports).unwrap().accepted();
        }
    }
    clock.advance(Duration::from_millis(100));
    hub.tick();
    clock.advance(Duration::from_millis(100));
    hub.tick();
    while let Some(grant) = seats.last().unwrap().claim(Ask::one()).unwrap().leased() {
        for lease in grant {
            let keys: Vec<u64> = lease.subjects().collect();
            accepted += lease.submit(keys.iter().map(|key| (*key, key * 2))).unwrap().accepted();
        }
        hub.tick();
    }
    hub.tick();
    let counts = service.stats();
    assert_eq!((counts.subjects_done, accepted as u64), (counts.subjects_known, counts.subjects_known), "{what}");
    assert!(hub.stats().work.adds_up(), "{what}: {:?}", hub.stats().work);
    let audit = hub.recount().unwrap();
    assert!(audit.is_balanced(), "{what}: {audit}");
    hub.close().unwrap();
}

/// The session without a fault: how many tickets it has, and how many bytes it writes.
fn undisturbed() -> (usize, usize) {
    let disk = MemoryDisk::new();
    let (hub, service, clock) = open(&disk);
    let before = disk.journal_bytes();
    let session = Session::run(&hub, &service, &clock);
    assert_eq!(count("undisturbed", &session).visible, session.tickets.len());
    assert!(hub.stats().work.adds_up());
    (session.tickets.len(), usize::try_from(disk.journal_bytes() - before).unwrap())
}

/// R55, R111: the disk is full after any number of bytes: what was half written is cut, what was acknowledged stays.
#[test]
fn disk_full_at_any_byte_loses_nothing_acknowledged() {
    let (tickets, bytes) = undisturbed();
    let mut last = 0;
    for room in (0..bytes).step_by(7) {
        let ends = survives(&format!("room for {room} bytes"), |disk| disk.journal().fail_append_after(room), false);
        let ends = ends.expect("the fault strikes while there is more to write");
        assert!(ends.unknown > 0 || ends.refused > 0 || ends.visible < tickets, "{ends:?}");
        assert_eq!(ends.not_visible, 0);
        assert!(ends.visible >= last, "more room, more done: {ends:?} after {last}");
        last = ends.visible;
    }
    assert_eq!(survives("room for all", |disk| disk.journal().fail_append_after(bytes), false), None);
}

/// R55, R111: the n-th sync fails: what it was for is unknown, and gone after a power cut; what came before stays.
#[test]
fn any_failing_sync_loses_nothing_acknowledged() {
    let (tickets, _) = undisturbed();
    let mut syncs = 0;
    let mut last = None;
    while let Some(ends) = survives(&format!("{syncs} syncs"), |disk| disk.journal().fail_sync_after(syncs), true) {
        assert!(ends.visible < tickets && ends.not_visible == 0, "{ends:?}");
        assert!(Some(ends.visible) >= last, "{ends:?} after {last:?}");
        last = Some(ends.visible);
        syncs += 1;
    }
    assert!(syncs > 10, "{syncs} syncs in the whole session");
}

/// R55: the n-th batch fails in the store: what it holds is durable, not visible, and there after opening again.
#[test]
fn any_failing_batch_loses_nothing_durable() {
    let (tickets, _) = undisturbed();
    let mut batches = 0;
    let mut not_visible = 0;
    while let Some(ends) =
        survives(&format!("batch {}", batches + 1), |disk| disk.store().fail_apply_after(batches + 1), true)
    {
        assert!(ends.visible < tickets && ends.unknown == 0, "{ends:?}");
        not_visible += ends.not_visible;
        batches += 1;
    }
    assert!(batches > 10, "{batches} batches in the whole session");
    assert!(not_visible >= tickets - 4, "each ticket but a few had its turn: {not_visible} of {tickets}");
}

/// R55: a disk that fails while the hub is opened: an error by name, and the healed disk opens, with what was on it.
#[test]
fn disk_that_fails_while_opening_is_told_and_opens_when_healed() {
    type Arm = fn(&MemoryDisk);
    let faults: [(&str, Arm); 8] = [
        ("no room", |disk| disk.journal().fail_append_after(0)),
        ("room for a part of the header", |disk| disk.journal().fail_append_after(5)),
        ("room for all but the header's last byte", |disk| disk.journal().fail_append_after(31)),
        ("room for the header", |disk| disk.journal().fail_append_after(32)),
        ("room for a part of the first group", |disk| disk.journal().fail_append_after(60)),
        ("no sync", |disk| disk.journal().fail_sync_after(0)),
        ("one sync", |disk| disk.journal().fail_sync_after(1)),
        ("no batch", |disk| disk.store().fail_apply_after(1)),
    ];
    for (what, arm) in faults {
        for used in [false, true] {
            let disk = MemoryDisk::new();
            if used {
                let (hub, service, _) = open(&disk);
                assert!(service.add_all([1, 2, 3]).unwrap().added == 3);
                hub.close().unwrap();
            }
            arm(&disk);
            match builder(&ManualClock::default()).open_in_memory(&disk) {
                Err(OpenError::Journal(_) | OpenError::Store(_)) => {}
                Err(error) => panic!("{what}: {error}"),
                // On a disk in use there is no header to write: what is left may just fit.
                Ok(_) => assert!(used && what.starts_with("room"), "{what}: opened"),
            }
            for crash in [Crash::Power, Crash::Process] {
                let (hub, service, _) = open(&disk.after(crash));
                assert_eq!(service.stats().subjects_known, if used { 3 } else { 0 }, "{what}, {crash:?}");
                hub.close().unwrap();
            }
        }
    }
}
