//! The whole house, as far as one service goes: claimers, a holder, the steward, the writer and the storekeeper, on the crate's own
//! slots, cursors, lists, permits, signals, runs and backlog. Too large for loom; shuttle takes it at random.
//!
//! What stands on arc-swap in the crate are numbers in words here, as in `pools.rs`; a pool's contents are written before its
//! number is published. The clock is moved on by the model's first thread, who also wakes the steward.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool as StdBool;

use crate::backlog::Backlog;
use crate::check::{Model, PARKED, seen, seen_if_named, seen_when};
use crate::cursor::Cursor;
use crate::permits::Permits;
use crate::run::{HeldBack, Run, StateBytes, Step};
use crate::signal::Signal;
use crate::signals::{LONG, caretake};
use crate::slot::{Cause, Ended, Mask, Phase, Slot, Taken, ToRenewed};
use crate::stack::{Node, Stack};
use crate::sync::{Arc, AtomicBool, AtomicU32, AtomicU64, Ordering, thread};

pub(crate) const MODELS: &[Model] = &[Model {
    name: "house",
    body: house,
    states: &[
        PARKED,
        "expired",
        "released",
        "claimed again from another pool",
        "reported when dead",
        "reported too late",
        "renewed",
        "renewed too late",
        "held back by the writer",
        "the storekeeper was behind",
        "the queue was full",
        "a claim got none",
        "two sessions met on a lane",
    ],
    bound: None,
    finite: false,
    one_order: true,
}];

/// Subjects: those from `LANE` on are one lane's.
const SUBJECTS: usize = 6;
const LANE: usize = 3;
const TERM: u64 = 10;
const GRACE: u64 = 10;
/// Room in the queue: for all but a moment at which everybody reports.
const ROOM: u64 = 2;
/// What may be journaled and not applied before the writer waits.
const BEHIND: u64 = 1;
const POOLS: usize = 40;
const NONE: u32 = u32::MAX;

/// The clients: who claims and submits, who holds and dies, and who sweeps up at the end.
const CLAIMER: u32 = 1;
const HOLDER: u32 = 2;
const LAST: u32 = 3;

/// One bucket's subjects: the place of each is its place here.
struct Bucket {
    slot: Slot,
    subjects: Vec<usize>,
    /// Of a lane.
    run: Option<Run>,
}

/// `Pool`, with the marks by which the writer finds what ended.
struct Pool {
    cursor: Cursor,
    buckets: Vec<Bucket>,
    marks: AtomicU64,
    /// The writer's alone: ends that it journaled.
    ended: Vec<StdBool>,
}

/// A change on its way to the writer.
struct Reported {
    lease: Lease,
    accepted: Mask,
    step: Option<Step>,
}

/// A bucket that somebody leased: its pool and its place in it.
type Lease = (u32, usize);

/// What the writer hands over.
enum Delivery {
    Group(Group),
    End,
}

/// As `Journaled`: reports, and leases that ended with what was left of them.
#[derive(Default)]
struct Group {
    number: u64,
    reports: Vec<Arc<Node<Reported>>>,
    ends: Vec<(Lease, Mask)>,
}

impl Group {
    fn bytes(&self) -> u64 {
        (self.reports.len() + self.ends.len()) as u64
    }
}

struct House {
    pools: Vec<OnceLock<Pool>>,
    /// `ServiceCore`'s.
    current: AtomicU32,
    next: AtomicU32,
    now: AtomicU64,
    permits: Permits,
    queue: Stack<Reported>,
    writer: Signal,
    /// `Handover`'s.
    backlog: Backlog<Delivery>,
    room: Signal,
    storekeeper: Signal,
    /// What ended leases left, on its way to the steward.
    put_back: Stack<Vec<usize>>,
    steward: Signal,
    closing: AtomicBool,
}

/// A lane's state at a version.
fn state_at(version: u64) -> Option<StateBytes> {
    let version = u8::try_from(version).unwrap_or(u8::MAX);
    (version > 0).then(|| StateBytes::from([version].as_slice()))
}

/// One with these subjects; those of the lane come from its front on.
fn bucket(subjects: Vec<usize>) -> Bucket {
    let first = subjects.first().copied().unwrap_or_default();
    let run = (first >= LANE).then(|| {
        let version = (first - LANE) as u64;
        let state = state_at(version).map(|state| state.to_vec());
        Run::new(StateBytes::from([7].as_slice()), Mask::first(subjects.len()), version, state)
    });
    Bucket { slot: Slot::new(0, subjects.len(), 0), subjects, run }
}

fn pool(buckets: Vec<Bucket>) -> Pool {
    let ended = buckets.iter().map(|_| StdBool::new(false)).collect();
    Pool { cursor: Cursor::new(buckets.len()), buckets, marks: AtomicU64::new(0), ended }
}

impl House {
    fn new() -> Self {
        let pools: Vec<OnceLock<Pool>> = (0..POOLS).map(|_| OnceLock::new()).collect();
        let first = [(LANE..SUBJECTS).collect(), (0..LANE).collect()];
        let _ = pools[0].set(pool(first.into_iter().map(bucket).collect()));
        Self {
            pools,
            current: AtomicU32::new(0),
            next: AtomicU32::new(NONE),
            now: AtomicU64::new(0),
            permits: Permits::new(ROOM),
            queue: Stack::default(),
            writer: Signal::default(),
            backlog: Backlog::new(BEHIND),
            room: Signal::default(),
            storekeeper: Signal::default(),
            put_back: Stack::default(),
            steward: Signal::default(),
            closing: AtomicBool::new(false),
        }
    }

    fn pool(&self, number: u32) -> &Pool {
        self.pools[number as usize].get().expect("what is published is whole")
    }

    fn bucket(&self, (number, index): Lease) -> &Bucket {
        &self.pool(number).buckets[index]
    }

    fn all_pools(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter().map_while(OnceLock::get)
    }

    fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    /// As `ServiceCore::take_ordinary`, for one bucket.
    fn claim(&self, owner: u32) -> Option<Lease> {
        for _ in 0..4 {
            let number = self.current.load(Ordering::SeqCst);
            let range = self.pool(number).cursor.take(owner as usize, 1);
            if !range.is_empty() {
                let lease = (number, range.start);
                let now = self.now();
                assert!(self.bucket(lease).slot.claim(owner, now, now + TERM), "the cursor handed it out twice");
                self.check_free(lease);
                self.writer.raise();
                return Some(lease);
            }
            if !self.advance(number) {
                break;
            }
        }
        seen_if_named("a claim got none");
        None
    }

    /// Whoever gets a bucket finds that each of its subjects was put back wherever it stood before.
    fn check_free(&self, (number, index): Lease) {
        seen_when(number > 0, "claimed again from another pool");
        let subjects = &self.bucket((number, index)).subjects;
        for before in (0..number).flat_map(|number| &self.pool(number).buckets) {
            for (place, _) in before.subjects.iter().enumerate().filter(|(_, subject)| subjects.contains(subject)) {
                assert!(before.slot.snapshot().is_final(), "two leases hold one subject");
                assert!(before.slot.open().has(place), "a subject that was reported is offered again");
            }
        }
    }

    /// As `ServiceCore::advance`.
    fn advance(&self, number: u32) -> bool {
        let next = self.next.load(Ordering::SeqCst);
        if next == NONE || next == number {
            return self.current.load(Ordering::SeqCst) != number;
        }
        if self.current.compare_exchange(number, next, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            let _ = self.next.compare_exchange(next, NONE, Ordering::SeqCst, Ordering::SeqCst);
        }
        true
    }

    /// As `lease.rs` makes a report: room first, then the exchange, the push, the note, the end.
    fn report(&self, lease: Lease, wanted: Mask) -> Option<Taken> {
        if !self.permits.take(1, ROOM) {
            seen_if_named("the queue was full");
            return None;
        }
        let Bucket { slot, run, .. } = self.bucket(lease);
        let was_dead = slot.snapshot().phase() == Phase::Dead;
        let word = wanted.first_word();
        let (from, to) = (word.trailing_zeros(), u64::BITS - word.leading_zeros());
        let step = run.as_ref().map(|_| Step { from, to, state: self.state_after(lease, to) });
        let taken = match (run, &step) {
            (Some(run), Some(step)) => slot.report_front(run.owed_from(step.from), word),
            _ => slot.report(wanted),
        };
        if taken.accepted.is_empty() {
            self.permits.give_back(1);
        } else {
            seen_when(was_dead, "reported when dead");
            self.queue.push(Arc::new(Node::new(Reported { lease, accepted: taken.accepted, step: step.clone() })));
            if let (Some(run), Some(step)) = (run, &step) {
                run.advance(step);
            }
            if taken.emptied && slot.finish().is_some() {
                self.ended(lease);
            }
            self.writer.raise();
        }
        seen_when(!taken.stale.is_empty(), "reported too late");
        seen_when(!taken.behind.is_empty() || (run.is_some() && !taken.done.is_empty()), "two sessions met on a lane");
        Some(taken)
    }

    fn state_after(&self, lease: Lease, to: u32) -> Option<StateBytes> {
        let first = self.bucket(lease).subjects.first().map_or(0, |first| first - LANE);
        state_at(first as u64 + u64::from(to))
    }

    /// Reports until it is taken or refused for good: the writer makes room.
    fn report_all(&self, lease: Lease, wanted: Mask) -> Option<Taken> {
        (0..3).find_map(|_| {
            let taken = self.report(lease, wanted);
            if taken.is_none() {
                thread::yield_now();
            }
            taken
        })
    }

    fn end(&self, lease: Lease, owner: Option<u32>, cause: Cause) -> Option<Ended> {
        let ended = self.bucket(lease).slot.end(owner, cause)?;
        self.ended(lease);
        Some(ended)
    }

    fn ended(&self, (number, index): Lease) {
        self.pool(number).marks.fetch_or(1 << index, Ordering::SeqCst);
        self.writer.raise();
    }

    /// As `Steward::sweep`: it marks, or it ends what has been dead for its grace.
    fn sweep(&self) {
        let now = self.now();
        for number in (0..).zip(self.all_pools()).map(|(number, _)| number) {
            for index in self.pool(number).cursor.passed().flatten() {
                let slot = &self.pool(number).buckets[index].slot;
                let before = slot.snapshot();
                if before.phase() == Phase::Dead && before.is_past(now, GRACE) {
                    if self.end((number, index), None, Cause::Expired).is_some() {
                        seen_if_named("expired");
                    }
                } else if before.is_held() {
                    let _ = slot.mark_dead(now);
                }
            }
        }
    }

    /// As `ServiceCore::publish_next`, if the next one is wanted, with what was put back; a lane's subjects in a bucket of
    /// their own.
    fn publish(&self, waiting: &mut Vec<usize>) {
        let current = self.current.load(Ordering::SeqCst);
        let next = self.next.load(Ordering::SeqCst);
        if waiting.is_empty() || !(next == NONE || next == current) {
            return;
        }
        waiting.sort_unstable();
        let (plain, laned) = waiting.drain(..).partition(|subject| *subject < LANE);
        let buckets = [plain, laned].into_iter().filter(|subjects: &Vec<usize>| !subjects.is_empty());
        let number = self.all_pools().count();
        let _ = self.pools[number].set(pool(buckets.map(bucket).collect()));
        let number = u32::try_from(number).unwrap_or(NONE);
        // arc-swap stores by a swap.
        self.next.swap(number, Ordering::SeqCst);
        let current = self.current.load(Ordering::SeqCst);
        if self.pool(current).cursor.is_at_end() {
            self.advance(current);
        }
    }

    /// One turn of the steward.
    fn keep(&self, waiting: &mut Vec<usize>) {
        for node in self.put_back.take_all() {
            waiting.extend(&node.value);
        }
        self.sweep();
        self.publish(waiting);
    }

    /// As `Handover::deliver`.
    fn deliver(&self, delivery: Delivery) {
        let bytes = if let Delivery::Group(group) = &delivery { group.bytes() } else { 0 };
        self.backlog.push(delivery, bytes);
        self.storekeeper.raise();
    }

    fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.writer.raise();
        self.steward.raise();
    }
}

/// A change that the writer took from its queue.
struct Waiting<'a>(&'a House, Arc<Node<Reported>>);

/// The writer, and what it journaled.
struct Writer<'a> {
    house: &'a House,
    held_back: HeldBack<Waiting<'a>>,
    journal: Reports,
    groups: u64,
}

/// How often each subject was reported.
#[derive(Default)]
struct Reports([u32; SUBJECTS]);

impl Reports {
    fn note(&mut self, house: &House, Reported { lease, accepted, .. }: &Reported) {
        let subjects = &house.bucket(*lease).subjects;
        for subject in accepted.places().map(|place| subjects[place]) {
            assert!(subject <= LANE || self.0[subject - 1] == 1, "a lane was reported out of its order");
            self.0[subject] += 1;
            assert_eq!(self.0[subject], 1, "a subject was reported twice");
        }
    }
}

impl<'a> Writer<'a> {
    fn new(house: &'a House) -> Self {
        Self { house, held_back: HeldBack::default(), journal: Reports::default(), groups: 0 }
    }

    /// As `run_writer`. True after the last turn, which waits for nobody.
    fn run(&mut self) -> bool {
        let is_closing = || self.house.closing.load(Ordering::SeqCst);
        while !is_closing() && self.waited_for_room() {}
        let closing = is_closing();
        self.turn();
        closing
    }

    fn waited_for_room(&self) -> bool {
        let waited = self.house.backlog.wait_for_room(&self.house.room, || Some(LONG));
        seen_when(waited, "the storekeeper was behind");
        waited
    }

    /// As `Writer::turn`: looked at in one order, journaled in the other; reports in the order of their runs.
    fn turn(&mut self) {
        let marked = self.marked();
        let mut group = Group { number: self.groups, ..Group::default() };
        let Self { house, held_back, journal, .. } = self;
        for node in house.queue.take_all() {
            let before = group.reports.len();
            let mut note = |Waiting(house, node): Waiting<'_>| {
                journal.note(house, &node.value);
                group.reports.push(node);
            };
            let change = Waiting(house, node);
            if bug!("bug_run_as_it_comes") {
                note(change);
            } else {
                held_back.pass(change, |Waiting(house, node)| step_of(house, &node.value), note);
            }
            seen_when(group.reports.len() == before, "held back by the writer");
        }
        group.ends = marked.into_iter().map(|lease| (lease, self.house.bucket(lease).slot.close())).collect();
        if group.bytes() > 0 {
            self.groups += 1;
            self.house.deliver(Delivery::Group(group));
        }
    }

    /// The ends that were marked since.
    fn marked(&self) -> Vec<Lease> {
        let mut marked = Vec::new();
        for (number, pool) in (0..).zip(self.house.all_pools()) {
            // A look first: most pools have nothing new.
            let marks = pool.marks.load(Ordering::SeqCst);
            let marks = if marks == 0 { 0 } else { pool.marks.swap(0, Ordering::SeqCst) };
            let ends = (0..pool.buckets.len()).filter(|index| marks & (1 << index) != 0);
            marked.extend(ends.filter(|index| pool.is_new_end(*index)).map(|index| (number, index)));
        }
        marked
    }
}

/// The storekeeper, and what it applied.
struct Storekeeper<'a> {
    house: &'a House,
    store: Reports,
    groups: u64,
    /// Ends of lanes' leases, of whose reports not all are applied yet.
    ends: Vec<(Lease, Mask)>,
}

impl<'a> Storekeeper<'a> {
    fn new(house: &'a House) -> Self {
        Self { house, store: Reports::default(), groups: 0, ends: Vec::new() }
    }

    /// As `Storekeeper::turn`. True if nothing comes any more.
    fn turn(&mut self) -> bool {
        let house = self.house;
        let (mut bytes, mut is_over) = (0, false);
        for delivery in house.backlog.take() {
            match delivery {
                Delivery::Group(group) => {
                    bytes += group.bytes();
                    self.apply(group);
                }
                Delivery::End => is_over = true,
            }
        }
        if bytes > 0 {
            let ends = std::mem::take(&mut self.ends);
            self.ends = ends.into_iter().filter(|(lease, left)| !self.hand_back(*lease, *left)).collect();
            if house.backlog.give_back(bytes) {
                house.room.raise();
            }
            house.steward.raise();
        }
        is_over
    }

    fn apply(&mut self, group: Group) {
        assert_eq!(group.number, self.groups, "not in the order of the journal");
        self.groups += 1;
        for node in group.reports {
            self.store.note(self.house, &node.value);
            self.house.permits.give_back(1);
        }
        self.ends.extend(group.ends);
    }

    /// Gives what is left to the steward; not yet, if reports of a lane's lease are on their way.
    fn hand_back(&self, lease: Lease, left: Mask) -> bool {
        let Bucket { subjects, run, .. } = self.house.bucket(lease);
        let mut reported = (0..subjects.len()).filter(|place| !left.has(*place));
        if run.is_some() && reported.any(|place| self.store.0[subjects[place]] == 0) {
            return false;
        }
        if !left.is_empty() {
            let left = left.places().map(|place| subjects[place]).collect();
            self.house.put_back.push(Arc::new(Node::new(left)));
        }
        true
    }
}

fn step_of<'t>(house: &'t House, change: &'t Reported) -> Option<(&'t Run, &'t Step)> {
    house.bucket(change.lease).run.as_ref().zip(change.step.as_ref())
}

impl Pool {
    /// True once for a bucket that is over.
    fn is_new_end(&self, index: usize) -> bool {
        self.buckets[index].slot.snapshot().is_final() && !self.ended[index].swap(true, Ordering::Relaxed)
    }
}

/// Claims a few times; reports the first subject, and then, of every other lease, all that it finds owed.
fn claimer(house: &House) {
    for round in 0..4 {
        let Some(lease) = house.claim(CLAIMER) else {
            thread::yield_now();
            continue;
        };
        let slot = &house.bucket(lease).slot;
        house.report_all(lease, Mask::of(0));
        let owed = slot.open();
        if round % 2 == 1 && !owed.is_empty() {
            house.report_all(lease, owed);
        }
        if house.end(lease, Some(CLAIMER), Cause::Client).is_some_and(|ended| !ended.left.is_empty()) {
            seen_if_named("released");
        }
    }
}

/// Claims and stops after one report; its lease expires. A session of its later wants to go on.
fn holder(house: &House, lease: Option<Lease>) {
    let Some(lease) = lease else { return };
    let _ = house.report(lease, Mask::of(0));
    match house.bucket(lease).slot.renew(HOLDER, house.now() + TERM) {
        ToRenewed::Renewed { .. } => seen("renewed"),
        ToRenewed::Dead | ToRenewed::Over => seen("renewed too late"),
        ToRenewed::NotOwner => panic!("it is its owner's"),
    }
    let _ = house.report(lease, Mask::of(1));
}

/// Claims and reports to the end, alone, after everybody stopped.
fn finish(house: &House, writer: &mut Writer<'_>, storekeeper: &mut Storekeeper<'_>, waiting: &mut Vec<usize>) {
    let mut keep = || {
        writer.turn();
        storekeeper.turn();
        house.keep(waiting);
    };
    // Until leases that nobody ended are over, and once more for what they put back.
    for _ in 0..8 {
        house.now.fetch_add(TERM, Ordering::SeqCst);
        keep();
        while let Some(lease) = house.claim(LAST) {
            let owed = house.bucket(lease).slot.open();
            let taken = house.report(lease, owed).expect("there is room");
            assert_eq!(taken.accepted, owed, "nobody else may report it");
            keep();
        }
    }
}

fn spawn<T: Send + 'static>(
    house: &Arc<House>,
    act: impl FnOnce(&House) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let house = Arc::clone(house);
    thread::spawn(move || act(&house))
}

/// Claim, report, expire, release, claimed again from the next pool: nothing is lost, nothing comes twice.
fn house() {
    let house = Arc::new(House::new());
    // Two sessions of one client: on one lease, which is sometimes a lane's.
    let held = house.claim(HOLDER);
    let threads: [Box<dyn FnOnce(&House) + Send>; 3] = [
        Box::new(claimer),
        Box::new(move |house| holder(house, held)),
        Box::new(move |house| {
            holder(house, held);
            claimer(house);
        }),
    ];
    let clients = threads.map(|act| spawn(&house, act));
    let steward = spawn(&house, |house| {
        let mut waiting = Vec::new();
        caretake(&house.steward, || {
            let closing = house.closing.load(Ordering::SeqCst);
            house.keep(&mut waiting);
            closing
        });
        waiting
    });
    let writer = spawn(&house, |house| {
        let mut writer = Writer::new(house);
        house.room.adopt();
        caretake(&house.writer, || writer.run());
        house.deliver(Delivery::End);
        (writer.journal, writer.groups)
    });
    let storekeeper = spawn(&house, |house| {
        let mut storekeeper = Storekeeper::new(house);
        caretake(&house.storekeeper, || storekeeper.turn());
        (storekeeper.store, storekeeper.groups, storekeeper.ends)
    });
    for _ in 0..3 {
        house.now.fetch_add(TERM, Ordering::SeqCst);
        house.steward.raise();
    }
    for client in clients {
        client.join().expect("a thread of the model panicked");
    }
    house.close();
    let mut waiting = steward.join().expect("a thread of the model panicked");
    let (journal, groups) = writer.join().expect("a thread of the model panicked");
    let mut writer = Writer { journal, groups, ..Writer::new(&house) };
    let (store, groups, ends) = storekeeper.join().expect("a thread of the model panicked");
    let mut storekeeper = Storekeeper { house: &house, store, groups, ends };
    finish(&house, &mut writer, &mut storekeeper, &mut waiting);
    assert_eq!([writer.journal.0, storekeeper.store.0], [[1; SUBJECTS]; 2], "a subject was lost");
    let left = (house.permits.used(), storekeeper.ends.len(), waiting.len());
    assert_eq!(left, (0, 0, 0), "something is left over");
    let slots = house.all_pools().flat_map(|pool| &pool.buckets).map(|bucket| &bucket.slot);
    assert!(slots.into_iter().all(|slot| slot.snapshot().is_final()), "a lease is left over");
}
