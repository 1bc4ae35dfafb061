//! A session on a disk that fails at its n-th byte, sync or batch, for every n: every ticket tells the truth, reads go on,
//! and reopening on the healed disk recovers what was durable and no half of anything.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::{
    Ask, Builder, Compact, Crash, Durability, Hub, HubError, ManualClock, MemoryDisk, OpenError, Policy, Progress,
    Registration, Reporter, Seat, Service, ServiceHandle, SubjectState, Ticket, TicketError, Verdict,
};

/// What is asked of a disk in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Append,
    Sync,
    Truncate,
    Read,
    Apply,
    Checkpoint,
    StoreRead,
}

/// Which calls of one thread fail.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    /// Calls so far.
    made: u64,
    /// The one that fails; 0: none.
    nth: u64,
    /// Every one after it, too.
    lasting: bool,
    /// The first that failed.
    struck: Option<Call>,
}

thread_local! {
    static FAULTS: Cell<Faults> = const { Cell::new(Faults { made: 0, nth: 0, lasting: false, struck: None }) };
}

/// Fails if it is this call's turn.
pub(crate) fn fault_point(call: Call) -> io::Result<()> {
    let mut faults = FAULTS.get();
    faults.made += 1;
    let fails = faults.nth > 0 && (faults.made == faults.nth || faults.lasting && faults.made > faults.nth);
    if fails {
        faults.struck.get_or_insert(call);
    }
    FAULTS.set(faults);
    if fails { Err(io::Error::other("the disk fails")) } else { Ok(()) }
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

/// Opens a hub with the service on a disk without faults.
fn open(disk: &MemoryDisk) -> (Hub, ServiceHandle<Doubling>, ManualClock) {
    let clock = ManualClock::default();
    let hub = builder(&clock).open_in_memory(disk).unwrap();
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
fn recovered(what: &str, disk: &MemoryDisk, session: &Session, exact: bool) {
    let (hub, service, clock) = open(disk);
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

/// Everything that is done to a disk, in four openings: the session; a second one while the journal is compacted; and two more. It ends
/// when the disk fails, as does who is told so.
fn whole_life(disk: &MemoryDisk, clock: &ManualClock, durability: Durability) -> Session {
    let mut all = Session::default();
    for opening in 0..4 {
        let mut builder = builder(clock).durability(durability);
        if opening % 2 == 1 {
            builder = builder.compact(Compact::default());
        }
        let Some(hub) = typed(builder.open_in_memory(disk)) else { break };
        let Some(service) = typed(hub.register(Doubling)) else { break };
        let session = if opening == 0 {
            Session::run(&hub, &service, clock)
        } else {
            Session::go_on(&hub, &service, clock, opening * 100)
        };
        count("of one opening", &session);
        all.tickets.extend(session.tickets);
        all.refused += session.refused;
        let _ = typed(hub.close());
        if FAULTS.get().struck.is_some() {
            break;
        }
    }
    all
}

/// A life on a disk whose `nth` call fails.
fn life(nth: u64, lasting: bool, durability: Durability) -> (MemoryDisk, Session, Faults) {
    let (disk, clock) = (MemoryDisk::new(), ManualClock::default());
    FAULTS.set(Faults { nth, lasting, ..Faults::default() });
    let session = whole_life(&disk, &clock, durability);
    (disk, session, FAULTS.replace(Faults::default()))
}

/// An error is to be one of those that a failing disk makes.
fn typed<T, E: std::error::Error + 'static>(result: Result<T, E>) -> Option<T> {
    result.map_err(|error| assert!(is_of_the_disk(&error), "{error}")).ok()
}

fn is_of_the_disk(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    std::iter::from_fn(|| {
        let this = cause?;
        cause = this.source();
        Some(this.to_string())
    })
    .any(|words| ["poisoned", "i/o", "the disk fails"].iter().any(|part| words.contains(part)))
}

/// R55, R111: the n-th of all that is asked of the disk fails, whatever it is and whenever it comes, in the session, while the hub is
/// opened or closed, and while its journal is compacted; once, and from then on. What was acknowledged is there, whole, after a power
/// cut, too, and the rest can be finished. `COMMISSARY_FAULT_EVERY` sets which n are taken: 1 are all (without it, about 40 of them).
#[test]
fn the_nth_call_that_fails_loses_nothing_acknowledged() {
    let (_, session, faults) = life(0, false, Durability::Sync);
    assert!(session.tickets.len() > 40 && session.refused == 0 && faults.struck.is_none());
    let every = std::env::var("COMMISSARY_FAULT_EVERY").map_or(faults.made / 40, |every| every.parse().unwrap());
    let (mut lives, mut struck, mut acknowledged) = (0, Vec::new(), 0);
    for nth in (1..=faults.made).step_by(usize::try_from(every).unwrap()) {
        for lasting in [false, true] {
            let (disk, session, faults) = life(nth, lasting, Durability::Sync);
            let call = faults.struck.expect("while there are more calls");
            let what = format!("call {nth}, {call:?}, {}", if lasting { "lasting" } else { "once" });
            for crash in [Crash::Power, Crash::Process] {
                recovered(&format!("{what}, {crash:?}"), &disk.after(crash), &session, false);
            }
            recovered(&format!("{what}, without the store"), &disk.without_store(), &session, false);
            lives += 1;
            acknowledged += session.tickets.iter().filter(|(ticket, _)| ticket.wait_durable().is_ok()).count();
            if !struck.contains(&call) {
                struck.push(call);
            }
        }
    }
    eprintln!(
        "{} calls, one of {every} failed, once and lasting: {lives} lives, {acknowledged} tickets acknowledged, 0 lost; {struck:?}",
        faults.made
    );
    for call in [Call::Append, Call::Sync, Call::Apply, Call::StoreRead] {
        assert!(struck.contains(&call), "{call:?} never failed");
    }
}

/// The same without syncs loses what was acknowledged, and the harness sees it.
#[test]
fn without_syncs_the_nth_call_that_fails_is_seen_to_lose() {
    let (disk, session, faults) = life(150, true, Durability::Os);
    assert!(faults.struck.is_some() && session.tickets.iter().any(|(ticket, _)| ticket.wait_durable().is_ok()));
    recovered("a killed process", &disk.after(Crash::Process), &session, false);
    let lost = catch_unwind(AssertUnwindSafe(|| recovered("a power cut", &disk.after(Crash::Power), &session, false)));
    let words = lost.expect_err("something is lost").downcast::<String>().unwrap();
    assert!(words.contains("was durable"), "{words}");
}
