//! Projections: folded in pieces, saved, lost and folded anew, they come out the same; read at any time, they say how old
//! they are.

mod common;
#[path = "support/directory.rs"]
mod directory;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use chrono::DateTime;
use commissary::{
    AfterLag, Ask, Claim, Compact, Crash, Durability, Event, EventKind, Hub, Limits, ManualClock, MemoryDisk,
    ProjectError, Projected, Projection, ProjectionOptions, ServiceHandle, ServiceState,
};
use common::{Plain, Shop, block_on, claim_one, report_all};
use directory::copy;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// Counts of one service, from events alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Counts {
    added: u64,
    assigned: u64,
    done: u64,
    put_back: u64,
    by_client: BTreeMap<u64, u64>,
    state: Option<String>,
}

/// What [`Ledger`] folds. The digest depends on every event and on their order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Books {
    events: u64,
    digest: u64,
    services: BTreeMap<String, Counts>,
}

/// Keeps books; it knows nothing but the events.
struct Ledger(String);

impl Ledger {
    fn new(id: &str) -> Self {
        Self(id.to_owned())
    }
}

impl Projection for Ledger {
    type State = Books;

    fn id(&self) -> &str {
        &self.0
    }

    fn fold(&self, books: &mut Books, event: &Event) {
        books.events += 1;
        books.digest =
            books.digest.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(event.position ^ event.hub_ms << 40);
        let Some(service) = event.kind.service() else { return };
        let counts = books.services.entry(service.id.clone()).or_default();
        match &event.kind {
            EventKind::ServiceChanged { state, .. } => counts.state = Some(format!("{state:?}")),
            EventKind::Added { subjects, .. } => counts.added += subjects.len() as u64,
            EventKind::Leased { ranks, .. } => counts.assigned += ranks.len() as u64,
            EventKind::PutBack { ranks, .. } => counts.put_back += ranks.len() as u64,
            EventKind::Reported { reports, client, .. } => {
                counts.done += reports.len() as u64;
                *counts.by_client.entry(client.value()).or_default() += reports.len() as u64;
            }
            _ => {}
        }
    }
}

/// Nothing is saved but by hand.
fn by_hand() -> ProjectionOptions {
    ProjectionOptions { save_every: 0, save_on_drop: false, ..ProjectionOptions::default() }
}

fn ledger(hub: &Hub) -> Projected<Ledger> {
    hub.project(Ledger::new("ledger"), by_hand()).unwrap()
}

/// Folded from the first event to a position, by nobody who saved anything.
fn recount(hub: &Hub, position: u64) -> Books {
    let mut anew = hub.project(Ledger::new("anew"), by_hand()).unwrap();
    assert_eq!(anew.report().resumed_at, 0);
    anew.catch_up_to(position).unwrap();
    (*anew.view().state).clone()
}

/// A future that any executor takes.
fn movable<F: Future + Send>(future: F) -> F {
    future
}

fn add(shop: &Shop, service: &ServiceHandle<Plain>, user: u64) {
    drop(service.add(&user).unwrap());
    shop.tick();
}

#[derive(Debug, Clone)]
enum Op {
    Add(u64),
    Work { seat: usize, lose: bool },
    Pause,
    Activate,
    Pass,
    CatchUp,
    CatchUpHalfway,
    Save,
    Reopen,
    Restart,
    Crash { power: bool },
    Compact,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1..9_u64).prop_map(Op::Add),
        6 => (0..3_usize, any::<bool>()).prop_map(|(seat, lose)| Op::Work { seat, lose }),
        1 => Just(Op::Pause),
        1 => Just(Op::Activate),
        1 => Just(Op::Pass),
        4 => Just(Op::CatchUp),
        2 => Just(Op::CatchUpHalfway),
        2 => Just(Op::Save),
        1 => Just(Op::Reopen),
        1 => Just(Op::Restart),
        2 => any::<bool>().prop_map(|power| Op::Crash { power }),
        1 => Just(Op::Compact),
    ]
}

/// A hub with its service, its seats and a projection at work.
struct World {
    shop: Shop,
    clock: ManualClock,
    durability: Durability,
    service: ServiceHandle<Plain>,
    seats: Vec<commissary::Seat<Plain>>,
    ledger: Option<Projected<Ledger>>,
    next: u64,
}

impl World {
    fn open(disk: MemoryDisk, clock: ManualClock, durability: Durability, compact: bool, next: u64) -> Self {
        let mut builder = Hub::builder().manual().clock(clock.clone()).seed(7).durability(durability);
        if compact {
            builder = builder.compact(Compact::default());
        }
        let hub = builder.open_in_memory(&disk).unwrap();
        let shop = Shop::of(hub, clock.clone(), disk);
        let service = shop.hub.register(Plain::with("plain", |policy| policy.bucket_subjects = 2)).unwrap();
        drop(service.activate().unwrap());
        let seats = shop.seats(&service, 3);
        shop.tick();
        let ledger = Some(ledger(&shop.hub));
        Self { shop, clock, durability, service, seats, ledger, next }
    }

    fn again(self, disk: MemoryDisk, compact: bool) -> Self {
        Self::open(disk, self.clock, self.durability, compact, self.next)
    }

    fn ledger(&mut self) -> &mut Projected<Ledger> {
        self.ledger.as_mut().unwrap()
    }

    fn check(&self) {
        let view = self.ledger.as_ref().unwrap().view();
        assert_eq!(*view.state, recount(&self.shop.hub, view.position));
    }

    fn run(mut self, op: &Op) -> Self {
        match op {
            Op::Add(n) => {
                drop(self.service.add_all(self.next..self.next + n).map(drop));
                self.next += n;
                self.shop.settle();
            }
            Op::Work { seat, lose } => {
                if let Ok(Claim::Leased(grant)) = self.seats[*seat].claim(Ask::one()) {
                    for lease in grant {
                        if *lose { drop(lease) } else { report_all(&lease) }
                    }
                }
                self.shop.tick();
            }
            Op::Pause => drop(self.service.pause()),
            Op::Activate => drop(self.service.activate()),
            Op::Pass => self.shop.pass(Duration::from_secs(60)),
            Op::CatchUp => {
                self.ledger().catch_up().unwrap();
                self.check();
            }
            Op::CatchUpHalfway => {
                let from = self.ledger().view().position;
                let ahead: Vec<u64> =
                    self.shop.hub.events(from).unwrap().map(|event| event.unwrap().position).collect();
                if let Some(to) = ahead.get(ahead.len() / 2) {
                    assert!(self.ledger().catch_up_to(*to).unwrap() <= *to);
                    self.check();
                }
            }
            Op::Save => {
                let saved = self.ledger().save().unwrap();
                assert!(saved <= Some(self.ledger().view().position));
            }
            Op::Reopen => {
                self.ledger = None;
                self.ledger = Some(ledger(&self.shop.hub));
            }
            Op::Restart | Op::Compact => {
                self.shop.hub.close().unwrap();
                let disk = self.shop.disk.clone();
                return self.again(disk, matches!(op, Op::Compact)).checked();
            }
            Op::Crash { power } => {
                let disk = self.shop.disk.after(if *power { Crash::Power } else { Crash::Process });
                return self.again(disk, false).checked();
            }
        }
        self
    }

    fn checked(self) -> Self {
        let report = self.ledger.as_ref().unwrap().report();
        assert_eq!((&report.rebuilt, report.lagged), (&None, None));
        self.check();
        self
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    /// R128: whatever it is caught up, saved, opened again, restarted, crashed and compacted in between, a projection is
    /// what one is that was folded from the first event, at every position at which it is read.
    #[test]
    fn folded_in_pieces_equals_folded_from_zero(
        ops in prop::collection::vec(op(), 1..60),
        durability in prop_oneof![
            Just(Durability::Sync),
            Just(Durability::Os),
            Just(Durability::Every(Duration::from_secs(30)))
        ],
    ) {
        let clock = ManualClock::default();
        clock.set_wall_ms(1_700_000_000_000);
        let mut world = World::open(MemoryDisk::new(), clock, durability, false, 0);
        for op in &ops {
            world = world.run(op);
        }
        world.ledger().catch_up().unwrap();
        world.check();
    }
}

/// R134: what is folded from events alone is what the hub itself counts.
#[test]
fn books_kept_from_events_are_the_hubs() {
    let shop = Shop::open();
    let services: Vec<_> = ["north", "south"].map(|id| shop.hub.register(Plain::new(id)).unwrap()).into();
    let seats: Vec<_> = services.iter().map(|service| shop.seats(service, 2)).collect();
    for (service, seats) in services.iter().zip(&seats) {
        shop.stock(service, 40);
        report_all(&claim_one(&seats[0]));
        drop(claim_one(&seats[1]));
        shop.settle();
        report_all(&claim_one(&seats[1]));
        shop.tick();
    }
    let mut ledger = ledger(&shop.hub);
    ledger.catch_up().unwrap();
    let books = ledger.view().state;
    assert_eq!(books.services.len(), 2);
    for service in &services {
        let (counts, stats) = (&books.services[service.id()], service.stats());
        assert_eq!((counts.added, counts.done), (stats.subjects_known, stats.subjects_done));
        let work = stats.work;
        assert_eq!((counts.assigned, counts.put_back), (work.subjects_assigned, work.subjects_put_back));
        for (client, reported) in &counts.by_client {
            assert_eq!(*reported, service.seat_stats(*client).unwrap().work.subjects_reported);
        }
    }
}

/// R124: a view says which position it reflects and how old it is; it is not old while there is nothing newer.
#[test]
fn a_view_carries_its_position_and_its_age() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let mut ledger = ledger(&shop.hub);
    let views = ledger.views();
    assert_eq!((views.view().position, views.view().state.events), (0, 0));
    shop.pass(Duration::from_secs(5));
    assert_eq!(views.view().age, Duration::from_secs(5), "nothing was looked at since the hub began");
    let position = ledger.catch_up().unwrap();
    assert_eq!((views.view().position, views.view().age), (position, Duration::ZERO));
    shop.pass(Duration::from_secs(7));
    assert_eq!(views.view().age, Duration::ZERO, "nothing came");
    let old = views.view();
    let ticket = service.add(&1).unwrap();
    shop.tick();
    shop.pass(Duration::from_secs(2));
    let view = views.view();
    assert_eq!(view.position, position);
    assert!(ticket.position().unwrap() >= position);
    assert_eq!(view.age, Duration::from_secs(9), "it was last known to be up to date that long ago");
    ledger.catch_up().unwrap();
    assert_eq!(views.view().age, Duration::ZERO);
    assert!(views.view().position > ticket.position().unwrap());
    assert_eq!(old.state.events + 1, views.view().state.events, "an old view stays as it was");

    ledger.save().unwrap();
    drop(ledger);
    let saved = shop.hub.project(Ledger::new("ledger"), by_hand()).unwrap();
    shop.pass(Duration::from_secs(3));
    assert_eq!(saved.view().age, Duration::ZERO, "also after it was opened again");
    add(&shop, &service, 2);
    assert_eq!(saved.view().age, Duration::from_secs(3));

    // Hub time that the journal does not know of is gone after a crash; age counts from where it goes on.
    drop(saved);
    shop.pass(Duration::from_secs(3_600));
    let mut late = shop.hub.project(Ledger::new("ledger"), by_hand()).unwrap();
    late.catch_up().unwrap();
    late.save().unwrap();
    let after = shop.after(Crash::Process);
    let late = after.hub.project(Ledger::new("ledger"), by_hand()).unwrap();
    after.pass(Duration::from_secs(4));
    assert_eq!(late.view().age, Duration::from_secs(4), "the opening came since");
}

/// R124: an age of zero is proof that there was nothing newer: what came in the same millisecond makes a view old, too.
#[test]
fn no_view_is_of_age_zero_while_there_is_something_newer() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let mut ledger = ledger(&shop.hub);
    ledger.catch_up().unwrap();
    assert_eq!(ledger.view().age, Duration::ZERO);
    add(&shop, &service, 1);
    assert_eq!(ledger.view().age, Duration::from_millis(1), "no time has passed");
    ledger.catch_up().unwrap();
    assert_eq!(ledger.view().age, Duration::ZERO);
}

/// R132: projections that are caught up to one position show one moment, whatever came meanwhile and came between.
#[test]
fn projections_caught_up_to_one_position_show_one_moment() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let tickets: Vec<_> = (0..20)
        .map(|user| {
            let ticket = service.add(&user).unwrap();
            shop.tick();
            ticket.position().unwrap()
        })
        .collect();
    let mut ahead = shop.hub.project(Ledger::new("ahead"), by_hand()).unwrap();
    let mut behind = shop.hub.project(Ledger::new("behind"), by_hand()).unwrap();
    ahead.catch_up_to(tickets[7]).unwrap();
    for ticket in &tickets[..8] {
        behind.catch_up_to(*ticket).unwrap();
    }
    assert_eq!(ahead.view().state, behind.view().state);
    assert_eq!(ahead.view().state.services["plain"].added, 7, "those before the position");
    assert_eq!(ahead.catch_up_to(tickets[3]).unwrap(), ahead.view().position, "it never goes back");
    behind.catch_up().unwrap();
    assert_eq!((ahead.view().state.services["plain"].added, behind.view().state.services["plain"].added), (7, 20));
}

/// Stops in the middle of a fold until it is let on.
struct Slow(Arc<Barrier>);

impl Projection for Slow {
    type State = (u64, u64);

    fn id(&self) -> &'static str {
        "slow"
    }

    fn fold(&self, state: &mut (u64, u64), event: &Event) {
        state.0 += 1;
        if matches!(event.kind, EventKind::Added { .. }) {
            self.0.wait();
            self.0.wait();
        }
        state.1 += 1;
    }
}

/// R124, R128: a reader waits for no fold, and never sees one half done; nor does the hub wait for one.
#[test]
fn reading_waits_for_no_fold_and_sees_none_half_done() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let barrier = Arc::new(Barrier::new(2));
    let mut slow = shop.hub.project(Slow(Arc::clone(&barrier)), by_hand()).unwrap();
    let views = slow.views();
    shop.tick();
    let before = slow.catch_up().unwrap();
    add(&shop, &service, 1);
    thread::scope(|scope| {
        let folding = scope.spawn(move || slow.catch_up().unwrap());
        barrier.wait();
        let view = views.view();
        assert_eq!((view.position, *view.state), (before, (2, 2)));
        add(&shop, &service, 2);
        assert_eq!(service.stats().subjects_known, 2, "the hub works on");
        barrier.wait();
        let folded = folding.join().unwrap();
        assert_eq!((views.view().position, *views.view().state), (folded, (3, 3)));
    });
}

/// Panics at the event that adds user 3, as long as it is told to.
struct Brittle(Arc<AtomicU64>);

impl Projection for Brittle {
    type State = Books;

    fn id(&self) -> &'static str {
        "brittle"
    }

    fn fold(&self, state: &mut Books, event: &Event) {
        let before = std::mem::replace(&mut state.digest, u64::MAX);
        let is_third = event.kind.keys().any(|key| key.read::<u64>() == Some(3));
        assert!(!is_third || self.0.load(Ordering::SeqCst) == 0, "three is too much");
        state.digest = before;
        Ledger::new("").fold(state, event);
    }
}

/// R128: a fold that panics is contained and named: the state is the one before that event, and what comes later waits.
#[test]
fn a_panicking_fold_is_contained_and_named() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let brittle = Arc::new(AtomicU64::new(1));
    let options = ProjectionOptions { publish_every: 2, ..by_hand() };
    let mut folded = shop.hub.project(Brittle(Arc::clone(&brittle)), options).unwrap();
    let tickets: Vec<_> = (1..=5)
        .map(|user| {
            let ticket = service.add(&user).unwrap();
            shop.tick();
            ticket.position().unwrap()
        })
        .collect();
    for _ in 0..2 {
        let error = folded.catch_up().unwrap_err();
        let ProjectError::Panicked { id, position, message } = &error else { panic!("{error}") };
        assert_eq!((id.as_str(), *position, message.as_str()), ("brittle", tickets[2], "three is too much"));
        let view = folded.view();
        assert_eq!((view.state.events, view.state.services["plain"].added), (4, 2));
        assert_eq!(*view.state, recount(&shop.hub, tickets[2]), "nothing of what was half done");
        assert!(view.position <= tickets[2]);
    }
    let saved = folded.save().unwrap();
    assert_eq!(saved, Some(folded.view().position), "what was folded can be kept");
    brittle.store(0, Ordering::SeqCst);
    folded.catch_up().unwrap();
    assert_eq!(folded.view().state.services["plain"].added, 5);
    assert!(shop.hub.health().is_ok());
}

/// Counts as another version of itself.
struct Versioned(u32);

impl Projection for Versioned {
    type State = u64;

    fn id(&self) -> &'static str {
        "versioned"
    }

    fn version(&self) -> u32 {
        self.0
    }

    fn fold(&self, state: &mut u64, _event: &Event) {
        *state += 1;
    }
}

/// R128: opened again it goes on where it was saved; what another version saved, or what is damaged, is folded anew, and
/// said so.
#[test]
fn what_was_saved_is_used_if_it_can_be_and_otherwise_folded_anew() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Hub::builder().manual().open(directory.path()).unwrap();
    let hub = open();
    let mut first = hub.project(Versioned(1), ProjectionOptions::default()).unwrap();
    let saved = first.catch_up().unwrap();
    assert_eq!(first.saved(), None, "not yet");
    drop(first);
    drop(hub);

    let hub = open();
    let mut again = hub.project(Versioned(1), ProjectionOptions::default()).unwrap();
    assert_eq!((again.report().resumed_at, again.saved(), *again.view().state), (saved, Some(saved), 1));
    again.catch_up().unwrap();
    assert_eq!(*again.view().state, 2);
    drop(again);

    let mut newer = hub.project(Versioned(2), ProjectionOptions::default()).unwrap();
    assert!(newer.report().rebuilt.as_deref().unwrap().contains("version 1"), "{:?}", newer.report());
    assert_eq!((newer.report().resumed_at, *newer.view().state, newer.saved()), (0, 0, None));
    newer.catch_up().unwrap();
    drop(newer);

    let path = directory.path().join("projections/versioned");
    let good = fs::read(&path).unwrap();
    for (bytes, why) in [
        (&good[..good.len() - 1], "damaged"),
        (&good[..5], "of another kind, or cut off"),
        (&[], "of another kind, or cut off"),
        (&[&good[..9], &[9], &good[10..]].concat(), "format version 9"),
        (&[&good[..20], &[good[20] ^ 4], &good[21..]].concat(), "damaged"),
    ] {
        fs::write(&path, bytes).unwrap();
        let mut anew = hub.project(Versioned(2), by_hand()).unwrap();
        assert!(anew.report().rebuilt.as_deref().unwrap().contains(why), "{why}: {:?}", anew.report());
        anew.catch_up().unwrap();
        assert_eq!(*anew.view().state, 2);
        assert_eq!(anew.save().unwrap(), Some(anew.view().position), "and kept in the place of what was there");
        drop(anew);
        assert_eq!(hub.project(Versioned(2), by_hand()).unwrap().report().rebuilt, None);
    }
}

/// R128: events are saved every so many, and when it is dropped, as its options say; a crash goes back to what was saved.
#[test]
fn it_is_saved_as_its_options_say() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    shop.tick();
    let options = ProjectionOptions { save_every: 10, save_on_drop: false, ..ProjectionOptions::default() };
    let mut often = shop.hub.project(Ledger::new("often"), options).unwrap();
    let mut never = shop.hub.project(Ledger::new("never"), by_hand()).unwrap();
    (0..25).for_each(|user| add(&shop, &service, user));
    let (reached, _) = (often.catch_up().unwrap(), never.catch_up().unwrap());
    let saved = often.saved().unwrap();
    assert!(saved < reached && never.saved().is_none());
    for crash in [Crash::Process, Crash::Power] {
        let after = shop.after(crash);
        let again = after.hub.project(Ledger::new("often"), options).unwrap();
        assert_eq!((again.report().resumed_at, again.view().state.events), (saved, 20));
        let again = after.hub.project(Ledger::new("never"), options).unwrap();
        assert_eq!((again.report().resumed_at, again.report().rebuilt.as_deref()), (0, None));
    }
    drop(often);
    let dropped = shop.hub.project(Ledger::new("often"), ProjectionOptions::default()).unwrap();
    assert_eq!(dropped.report().resumed_at, saved);
}

/// R128: what is saved never reflects what a power cut can still undo; as soon as the journal is synced so far it is kept.
#[test]
fn nothing_is_saved_that_a_power_cut_could_undo() {
    let clock = ManualClock::default();
    let disk = MemoryDisk::new();
    let builder = Hub::builder().manual().clock(clock.clone()).durability(Durability::Every(Duration::from_secs(10)));
    let shop = Shop::of(builder.open_in_memory(&disk).unwrap(), clock, disk);
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let mut ledger = ledger(&shop.hub);
    add(&shop, &service, 1);
    let reached = ledger.catch_up().unwrap();
    assert_eq!((ledger.save().unwrap(), ledger.view().position), (None, reached));
    let cut = shop.after(Crash::Power);
    assert_eq!(cut.hub.project(Ledger::new("ledger"), by_hand()).unwrap().report().resumed_at, 0);
    add(&shop, &service, 2);
    ledger.catch_up().unwrap();
    shop.pass(Duration::from_secs(10));
    add(&shop, &service, 3);
    ledger.catch_up().unwrap();
    assert_eq!(ledger.saved(), Some(reached), "what was to be saved then; what came later does not put it off");
    let cut = shop.after(Crash::Power);
    assert_eq!(cut.hub.project(Ledger::new("ledger"), by_hand()).unwrap().report().resumed_at, reached);
}

/// R128: a state of events that the journal does not hold (it lost its end after all, or an older copy was put back) is not
/// used, whether that is found at once or openings later.
#[test]
fn a_state_of_another_past_is_not_used() {
    let (directory, aside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = |at: &Path| {
        let hub = Hub::builder().manual().open(at).unwrap();
        let service = hub.register(Plain::new("plain")).unwrap();
        hub.tick();
        (hub, service)
    };
    let lost = |later: u64| aside.path().join(format!("{later}"));
    drop(open(directory.path()));
    let (hub, service) = open(directory.path());
    for later in 0..4 {
        fs::create_dir_all(lost(later)).unwrap();
        fs::copy(directory.path().join("journal"), lost(later).join("journal")).unwrap();
    }
    (0..10).for_each(|user| drop(service.add(&user).unwrap()));
    hub.tick();
    let mut ahead = ledger(&hub);
    ahead.catch_up().unwrap();
    ahead.save().unwrap();
    for later in 0..4 {
        copy(&directory.path().join("projections"), &lost(later).join("projections"));
        for user in 0..later {
            let (hub, service) = open(&lost(later));
            (0..10).for_each(|other| drop(service.add(&(user * 10 + other)).unwrap()));
            hub.close().unwrap();
        }
        let (hub, _service) = open(&lost(later));
        let mut anew = ledger(&hub);
        let why = anew.report().rebuilt.clone().unwrap_or_default();
        assert!(why.contains("more than the journal holds"), "{later}: {:?}", anew.report());
        anew.catch_up().unwrap();
        assert_eq!(*anew.view().state, recount(&hub, u64::MAX));
        let position = anew.save().unwrap();
        drop(anew);
        assert_eq!(Some(ledger(&hub).report().resumed_at), position, "and it is saved over the other");
    }
}

/// R128: a state that another hub's events made is not used, though its position is one here, too: it is of another past, and
/// the file came into the wrong directory.
#[test]
fn a_state_of_another_hub_is_not_used() {
    let clock = ManualClock::default();
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let open = |at: &tempfile::TempDir| Hub::builder().manual().clock(clock.clone()).open(at.path()).unwrap();
    for (number, directory) in (1..).zip(&directories) {
        clock.advance(Duration::from_secs(1));
        let hub = open(directory);
        let service = hub.register(Plain::new("plain")).unwrap();
        (0..4).for_each(|user| drop(service.add(&(100 * number + user)).unwrap()));
        hub.tick();
        let mut ledger = ledger(&hub);
        ledger.catch_up().unwrap();
        ledger.save().unwrap();
        hub.close().unwrap();
    }
    let [other, here] = &directories;
    let own = ledger(&open(here));
    assert!(own.report().rebuilt.is_none() && own.report().resumed_at > 0, "{:?}", own.report());
    drop(own);
    copy(&other.path().join("projections"), &here.path().join("projections"));
    let hub = open(here);
    let mut anew = ledger(&hub);
    let why = anew.report().rebuilt.clone().unwrap_or_default();
    assert!(why.contains("more than the journal holds"), "{:?}", anew.report());
    anew.catch_up().unwrap();
    assert_eq!(*anew.view().state, recount(&hub, u64::MAX));
}

fn since(clock: &ManualClock, disk: &MemoryDisk, seconds: i64) -> Hub {
    let keep_events_since = DateTime::from_timestamp_millis(seconds * 1_000);
    let compact = Compact { keep_events_since, ..Compact::default() };
    Hub::builder().manual().clock(clock.clone()).compact(compact).open_in_memory(disk).unwrap()
}

/// R127: a projection whose next events a compaction dropped says so; only if it is told to it begins where the rest does.
#[test]
fn a_projection_that_lags_says_so_and_begins_there_only_if_told_to() {
    let clock = ManualClock::default();
    clock.set_wall_ms(1_000_000);
    let shop = Shop::on(MemoryDisk::new(), clock.clone(), Limits::default());
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let mut behind = shop.hub.project(Ledger::new("behind"), by_hand()).unwrap();
    let mut ahead = shop.hub.project(Ledger::new("ahead"), by_hand()).unwrap();
    behind.catch_up().unwrap();
    behind.save().unwrap();
    (1..=3).for_each(|user| add(&shop, &service, user));
    ahead.catch_up().unwrap();
    let kept = ahead.save().unwrap();
    clock.advance(Duration::from_secs(1_000));
    add(&shop, &service, 4);
    shop.hub.close().unwrap();

    let hub = since(&clock, &shop.disk, 1_500);
    let error = hub.project(Ledger::new("behind"), by_hand()).unwrap_err();
    let ProjectError::Lagged { id, resume_at } = &error else { panic!("{error}") };
    assert!(id == "behind" && Some(*resume_at) <= kept, "{error}");
    let told = ProjectionOptions { after_lag: AfterLag::BeginThere, ..by_hand() };
    let mut behind = hub.project(Ledger::new("behind"), told).unwrap();
    assert_eq!((behind.report().lagged, behind.report().resumed_at), (Some(*resume_at), *resume_at));
    behind.catch_up().unwrap();
    assert_eq!(behind.view().state.services["plain"].added, 1);
    let mut ahead = hub.project(Ledger::new("ahead"), by_hand()).unwrap();
    assert_eq!((Some(ahead.report().resumed_at), ahead.report().lagged), (kept, None));
    ahead.catch_up().unwrap();
    assert_eq!(ahead.view().state.services["plain"].added, 4, "it needed nothing of what is gone");
}

/// R127: a gap in the middle is met again by every call, until it is told to begin behind it.
#[test]
fn a_gap_on_the_way_is_not_passed_in_silence() {
    let clock = ManualClock::default();
    let shop = Shop::on(MemoryDisk::new(), clock.clone(), Limits::default());
    let mut service = None;
    for (user, second) in [(1, 2_000), (2, 1_000), (3, 3_000)] {
        clock.set_wall_ms(second * 1_000);
        let service = service.get_or_insert_with(|| shop.hub.register(Plain::new("plain")).unwrap());
        add(&shop, service, user);
    }
    let opened = shop.hub.events(0).unwrap().next().unwrap().unwrap().position;
    shop.hub.close().unwrap();
    let hub = since(&clock, &shop.disk, 1_500);
    let told = ProjectionOptions { after_lag: AfterLag::BeginThere, ..by_hand() };
    assert!(matches!(hub.project(Ledger::new("a"), by_hand()), Err(ProjectError::Lagged { .. })));
    let mut told = hub.project(Ledger::new("a"), told).unwrap();
    assert_eq!(told.report().lagged, Some(opened + 1));
    told.catch_up().unwrap();
    assert!(told.report().lagged > Some(opened + 1), "{:?}", told.report());
    assert_eq!(told.view().state.services["plain"].added, 1, "what stands behind the gap alone");
    told.save().unwrap();
    drop(told);
    let mut lagged = shop.after(Crash::Process);
    lagged.hub.close().unwrap();
    lagged = Shop::of(since(&clock, &lagged.disk, 0), clock.clone(), lagged.disk);
    assert!(lagged.hub.project(Ledger::new("a"), by_hand()).is_ok(), "it is behind the gap");
}

/// R128: what cannot be saved is an error, when all is folded and can be read.
#[test]
fn a_save_that_fails_holds_up_no_fold() {
    let directory = tempfile::tempdir().unwrap();
    let hub = Hub::builder().manual().open(directory.path()).unwrap();
    let service = hub.register(Plain::new("plain")).unwrap();
    for user in 0..9 {
        drop(service.add(&user).unwrap());
        hub.tick();
    }
    let options = ProjectionOptions { save_every: 2, ..by_hand() };
    let mut ledger = hub.project(Ledger::new("ledger"), options).unwrap();
    let in_the_way = directory.path().join("projections");
    fs::write(&in_the_way, b"no directory").unwrap();
    let error = ledger.catch_up().unwrap_err();
    assert!(matches!(&error, ProjectError::Save { id, .. } if id == "ledger"), "{error}");
    assert_eq!((ledger.view().state.services["plain"].added, ledger.saved()), (9, None));
    fs::remove_file(&in_the_way).unwrap();
    let position = ledger.catch_up().unwrap();
    assert!(ledger.saved().is_some_and(|saved| saved <= position), "what was due then");
    assert_eq!(ledger.save().unwrap(), Some(position));
}

/// One of each id is open at a time, under an id that is one.
#[test]
fn one_of_each_id_is_open_at_a_time() {
    let shop = Shop::open();
    let first = ledger(&shop.hub);
    let second = shop.hub.project(Ledger::new("ledger"), by_hand()).unwrap_err();
    assert!(matches!(second, ProjectError::InUse { id } if id == "ledger"));
    drop(first);
    drop(ledger(&shop.hub));
    for id in ["", "..", "a/b"] {
        let error = shop.hub.project(Ledger::new(id), by_hand()).unwrap_err();
        assert!(matches!(&error, ProjectError::Id { id: given } if given == id), "{error}");
    }
}

/// R128: on a thread and as a task it folds what comes until the hub is closed and all is folded, and is saved.
#[test]
fn it_runs_until_the_hub_is_closed() {
    let disk = MemoryDisk::new();
    let hub = Hub::builder().open_in_memory(&disk).unwrap();
    let service = hub.register(Plain::new("plain")).unwrap();
    let mut by_thread = hub.project(Ledger::new("thread"), by_hand()).unwrap();
    let mut by_task = hub.project(Ledger::new("task"), by_hand()).unwrap();
    let views = (by_thread.views(), by_task.views());
    let thread = thread::spawn(move || by_thread.run().map(|()| by_thread.saved()));
    let task = thread::spawn(move || block_on(movable(async { by_task.run_async().await.map(|()| by_task.saved()) })));
    for user in 0..100 {
        drop(service.add(&user).unwrap());
    }
    service.add(&100).unwrap().wait_durable().unwrap();
    drop(service.add(&101).unwrap());
    hub.close().unwrap();
    let (thread, task) = (thread.join().unwrap().unwrap(), task.join().unwrap().unwrap());
    assert_eq!(views.0.view().state.services["plain"].added, 102);
    assert_eq!(views.0.view().state, views.1.view().state);
    assert_eq!((thread, task), (Some(views.0.view().position), Some(views.1.view().position)));
    drop((service, hub));
    let again = Hub::builder().manual().open_in_memory(&disk.after(Crash::Power)).unwrap();
    let resumed = again.project(Ledger::new("thread"), by_hand()).unwrap();
    assert_eq!(resumed.view().state, views.0.view().state);
}

/// R133: changes of the configuration are events, and the last one by position is in force, whoever made them at once.
#[test]
fn configuration_changes_are_events_and_the_last_by_position_wins() {
    let disk = MemoryDisk::new();
    let hub = Hub::builder().open_in_memory(&disk).unwrap();
    let service = hub.register(Plain::new("plain")).unwrap();
    thread::scope(|scope| {
        for worker in 0..4_u64 {
            let service = &service;
            scope.spawn(move || {
                for round in 0..25_u64 {
                    let mut policy = service.policy();
                    policy.max_subjects = 1_000 + worker * 100 + round;
                    service.set_policy(policy).unwrap();
                    drop(if (worker + round) % 2 == 0 { service.pause() } else { service.activate() });
                }
            });
        }
    });
    let state = service.state();
    hub.close().unwrap();
    let changes: Vec<(ServiceState, u64)> = hub
        .events(0)
        .unwrap()
        .filter_map(|event| match event.unwrap().kind {
            EventKind::ServiceChanged { state, max_subjects, .. } => Some((state, max_subjects)),
            _ => None,
        })
        .collect();
    assert!(changes.len() > 100, "each is one: {}", changes.len());
    assert_eq!(changes.last(), Some(&(state, service.policy().max_subjects)));
    let mut ledger = ledger(&hub);
    ledger.catch_up().unwrap();
    assert_eq!(ledger.view().state.services["plain"].state, Some(format!("{state:?}")));
    drop((ledger, service, hub));
    let again = Hub::builder().manual().open_in_memory(&disk).unwrap();
    assert_eq!(again.register(Plain::new("plain")).unwrap().state(), state, "after a restart too");
}
