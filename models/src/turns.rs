//! Lanes and their turns: the scheduler itself (`lanes.rs`), run by the steward's thread as in the crate, beside those who add, claim
//! and report, one whose lease dies, the writer and the storekeeper. Too large for loom; shuttle takes it at random. `lane_freed`
//! and `lane_handed` are pieces of it that are small enough: one lease that dies while a report of it is on its way.
//!
//! Each lane is reported in its order, by one lease at a time, and goes on with the state that the last report left. None is left
//! standing: who finds nothing to claim listens without a deadline, so that a lane that nobody offers any more is a deadlock.
//!
//! What stands on arc-swap in the crate are numbers in words here, as in `pools.rs`. The store is a table under a lock of the checker.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool as StdBool;

use crate::backlog::Backlog;
use crate::check::{Model, PARKED, seen_if_named};
use crate::cursor::Cursor;
use crate::lanes::Lanes;
use crate::parking::Parking;
use crate::run::{HeldBack, Run, StateBytes, Step};
use crate::signal::Signal;
use crate::signals::{LONG, caretake};
use crate::slot::{Cause, Mask, Phase, Slot};
use crate::stack::{Node, Stack};
use crate::sync::event_listener::Event;
use crate::sync::{Arc, AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering, thread};

pub(crate) const MODELS: &[Model] = &[
    #[cfg(not(loom))]
    Model {
        name: "lane_turns",
        body: turns,
        states: &[
            PARKED,
            DIED,
            REPORTED_LATE,
            "held back by the writer",
            "the storekeeper was behind",
            "given back in the middle",
            "taken back unclaimed",
            "two lanes at once",
            "came again after it was idle",
            "freed before its lease was seen to be over",
        ],
        bound: None,
        finite: false,
        one_order: true,
    },
    Model {
        name: "lane_freed",
        body: freed,
        states: &[PARKED, DIED, REPORTED, REPORTED_LATE, ENDED_FIRST],
        bound: Some(3),
        finite: false,
        one_order: true,
    },
    Model {
        name: "lane_handed",
        body: handed,
        states: &[PARKED, DIED, REPORTED, REPORTED_LATE, ENDED_FIRST],
        bound: Some(1),
        finite: false,
        one_order: true,
    },
];

const DIED: &str = "died";
const REPORTED: &str = "reported when dead";
const REPORTED_LATE: &str = "reported when it was over";
const ENDED_FIRST: &str = "ended before its reports were applied";

/// The lanes of the subjects that are there at first, in the order of their ranks, and of those that are added.
const AT_FIRST: [u8; 5] = [0, 1, 2, 0, 0];
const ADDED: [u8; 2] = [1, 0];
const LANES: usize = 3;
const BUCKET: usize = 2;
/// What may be journaled and not applied before the writer waits.
const BEHIND: u64 = 1;
/// `Lanes::offers`: more than there are.
const ROOM: usize = 100;
const POOLS: usize = 200;
const NONE: u32 = u32::MAX;
const TERM: u64 = 10;
const GRACE: u64 = 10;
const ABANDON: u64 = 10;

/// Who holds the lease that may die, who stops in the middle of a claim, and who works.
const DOOMED: u32 = 1;
const SLOW: u32 = 4;
const WORKERS: [u32; 2] = [2, 3];

/// A bucket that somebody leased, or may: its pool and its place in it.
type Lease = (u32, usize);

/// A bucket of a lane: the place of each rank is its place here.
struct Bucket {
    slot: Slot,
    run: Run,
    ranks: Vec<usize>,
    /// The lane's, before it.
    version: u64,
}

struct Pool {
    cursor: Cursor,
    buckets: Vec<Bucket>,
    marks: AtomicU64,
    /// `LOGGED_ENDED`; the writer's alone.
    ended: Vec<StdBool>,
}

/// A change on its way to the writer.
enum Change {
    Added(u8),
    Reported { lease: Lease, step: Step },
}

/// What the writer hands over.
enum Delivery {
    Group(Group),
    /// Put back without a record.
    PutBack(Errand),
    End,
}

/// As `Journaled`: changes, and leases that ended with what was left of them.
#[derive(Default)]
struct Group {
    number: u64,
    changes: Vec<Arc<Node<Change>>>,
    ends: Vec<(Lease, Mask)>,
    put_back: Vec<Errand>,
}

impl Group {
    fn bytes(&self) -> u64 {
        (self.changes.len() + self.ends.len()) as u64
    }
}

/// What the storekeeper has for the steward.
enum Errand {
    PutBack { lease: Lease, left: Mask },
    LaneFree(Lease),
}

/// What is in the store of a lane.
#[derive(Default)]
struct Row {
    /// Its ranks, in its order.
    ranks: Vec<usize>,
    version: u64,
    state: Option<StateBytes>,
    /// The lease that runs it, and what is neither reported nor put back of that.
    lease: Option<(Lease, Mask)>,
}

/// What is applied.
#[derive(Default)]
struct Store {
    /// The lane of each rank.
    subjects: Vec<u8>,
    rows: [Row; LANES],
}

struct House {
    pools: Vec<OnceLock<Pool>>,
    /// `ServiceCore`'s.
    current: AtomicU32,
    next: AtomicU32,
    published: Event,
    now: AtomicU64,
    queue: Stack<Change>,
    writer: Signal,
    /// `Handover`'s.
    backlog: Backlog<Delivery>,
    room: Signal,
    storekeeper: Signal,
    inbox: Stack<Errand>,
    steward: Signal,
    store: Mutex<Store>,
    /// Subjects that nobody reported yet.
    owed: AtomicU64,
    /// Somebody works on a lane; only told, so no checker sees it.
    busy: [StdBool; LANES],
    closing: AtomicBool,
}

const PANICKED: &str = "a thread of the model panicked";

/// Notes a state, of those models that name it.
fn seen_when(reached: bool, state: &str) {
    if reached {
        seen_if_named(state);
    }
}

/// A lane's state at a version.
fn state_at(version: u64) -> Option<StateBytes> {
    let version = u8::try_from(version).unwrap_or(u8::MAX);
    (version > 0).then(|| StateBytes::from([version].as_slice()))
}

impl Bucket {
    fn new(lane: &[u8], ranks: Vec<usize>, version: u64, state: Option<StateBytes>) -> Self {
        let (len, state) = (ranks.len(), state.map(|state| state.to_vec()));
        let run = Run::new(StateBytes::from(lane), Mask::first(len), version, state);
        Self { slot: Slot::new(0, len, 0), run, ranks, version }
    }

    fn lane(&self) -> usize {
        usize::from(self.run.lane()[0])
    }
}

impl House {
    /// With subjects of these lanes, and so many that will be added.
    fn new(lanes: &[u8], added: usize) -> Self {
        let empty = Pool { cursor: Cursor::new(0), buckets: Vec::new(), marks: AtomicU64::new(0), ended: Vec::new() };
        let pools: Vec<OnceLock<Pool>> = (0..POOLS).map(|_| OnceLock::new()).collect();
        let _ = pools[0].set(empty);
        let mut store = Store::default();
        for lane in lanes {
            store.add(*lane);
        }
        Self {
            pools,
            current: AtomicU32::new(0),
            next: AtomicU32::new(NONE),
            published: Event::new(),
            now: AtomicU64::new(0),
            queue: Stack::default(),
            writer: Signal::default(),
            backlog: Backlog::new(BEHIND),
            room: Signal::default(),
            storekeeper: Signal::default(),
            inbox: Stack::default(),
            steward: Signal::default(),
            store: Mutex::new(store),
            owed: AtomicU64::new((lanes.len() + added) as u64),
            busy: [const { StdBool::new(false) }; LANES],
            closing: AtomicBool::new(false),
        }
    }

    fn pool(&self, number: u32) -> &Pool {
        self.pools[number as usize].get().expect("what is published is whole")
    }

    fn bucket(&self, (number, index): Lease) -> &Bucket {
        &self.pool(number).buckets[index]
    }

    fn all_pools(&self) -> impl Iterator<Item = (u32, &Pool)> {
        (0..).zip(self.pools.iter().map_while(OnceLock::get))
    }

    fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    /// As `ServiceCore::take_ordinary`, for one bucket.
    fn claim(&self, owner: u32) -> Option<Lease> {
        for _ in 0..4 {
            let number = self.current.load(Ordering::SeqCst);
            let pool = self.pool(number);
            while let Some(index) = pool.cursor.take(owner as usize, 1).next() {
                let now = self.now();
                // False only if the steward took it back.
                if pool.buckets[index].slot.claim(owner, now, now + TERM) {
                    self.writer.raise();
                    return Some((number, index));
                }
            }
            if !self.advance(number) {
                break;
            }
        }
        None
    }

    /// As `ServiceCore::advance`.
    fn advance(&self, number: u32) -> bool {
        let next = self.next.load(Ordering::SeqCst);
        if next == NONE || next == number {
            return self.current.load(Ordering::SeqCst) != number;
        }
        if self.current.compare_exchange(number, next, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            let _ = self.next.compare_exchange(next, NONE, Ordering::SeqCst, Ordering::SeqCst);
            self.steward.raise();
        }
        true
    }

    /// As `lease.rs` reports one subject of a lane: the exchange, the push, the note, the end. False if it is not taken.
    fn report(&self, lease: Lease, place: u32) -> bool {
        let Bucket { slot, run, version, .. } = self.bucket(lease);
        let before = slot.snapshot();
        let (was_dead, was_over) = (before.phase() == Phase::Dead, before.is_final());
        let step = Step { from: place, to: place + 1, state: state_at(version + u64::from(place) + 1) };
        let taken = slot.report_front(run.owed_from(place), 1 << place);
        if taken.accepted.is_empty() {
            seen_when(was_over, REPORTED_LATE);
            return false;
        }
        seen_when(was_dead, REPORTED);
        self.queue.push(Arc::new(Node::new(Change::Reported { lease, step: step.clone() })));
        run.advance(&step);
        if taken.emptied && slot.finish().is_some() {
            self.ended(lease);
        }
        self.writer.raise();
        if self.owed.fetch_sub(1, Ordering::SeqCst) == 1 {
            // As `Office::stop`, for want of anything else to do.
            self.published.notify(usize::MAX);
        }
        true
    }

    /// As `Hold::end_slot`.
    fn end(&self, lease: Lease, owner: Option<u32>, cause: Cause) -> bool {
        let ended = self.bucket(lease).slot.end(owner, cause);
        let left = ended.is_some_and(|ended| !ended.left.is_empty());
        if ended.is_some() {
            self.ended(lease);
        }
        left
    }

    /// As `Pool::mark`, and the raise after it.
    fn ended(&self, (number, index): Lease) {
        self.pool(number).marks.fetch_or(1 << index, Ordering::SeqCst);
        self.writer.raise();
    }

    /// A view of the lane is of just the reports before, unless its lease is over.
    fn look(&self, lease: Lease) -> u32 {
        let moment = self.bucket(lease).run.moment();
        assert!(moment.state.is_none() || moment.state == state_at(moment.version), "a state of other reports");
        u32::try_from(moment.front).expect("few places")
    }

    /// As `Handover::deliver`.
    fn deliver(&self, delivery: Delivery) {
        let bytes = if let Delivery::Group(group) = &delivery { group.bytes() } else { 0 };
        self.backlog.push(delivery, bytes);
        self.storekeeper.raise();
    }

    fn is_done(&self) -> bool {
        self.owed.load(Ordering::SeqCst) == 0
    }
}

impl Store {
    fn add(&mut self, lane: u8) {
        self.rows[usize::from(lane)].ranks.push(self.subjects.len());
        self.subjects.push(lane);
    }

    /// The lease is known from its first report on, or from its end.
    fn lease(&mut self, lease: Lease, bucket: &Bucket) -> &mut Row {
        let row = &mut self.rows[bucket.lane()];
        let (of, _) = row.lease.get_or_insert((lease, Mask::first(bucket.ranks.len())));
        assert_eq!(*of, lease, "two leases of one lane");
        row
    }
}

impl Row {
    /// So much of its lease is reported or put back. True if it is over, as `Applier::end_if_empty` finds.
    fn clear(&mut self, places: Mask) -> bool {
        let open = self.lease.map(|(_, open)| open.without(places)).unwrap_or_default();
        self.lease = self.lease.map(|(lease, _)| (lease, open)).filter(|_| !open.is_empty());
        self.lease.is_none()
    }

    fn report(&mut self, bucket: &Bucket, step: &Step) -> bool {
        let at = usize::try_from(self.version).expect("few subjects");
        assert_eq!(self.ranks.get(at), Some(&bucket.ranks[step.from as usize]), "a lane was reported out of its order");
        self.version += 1;
        self.state.clone_from(&step.state);
        self.clear(Mask::of(step.from as usize))
    }
}

/// A change that the writer took from its queue.
struct Waiting<'a>(&'a House, Arc<Node<Change>>);

fn step_of<'t>(Waiting(house, node): &'t Waiting<'_>) -> Option<(&'t Run, &'t Step)> {
    match &node.value {
        Change::Added(_) => None,
        Change::Reported { lease, step } => Some((&house.bucket(*lease).run, step)),
    }
}

struct Writer<'a> {
    house: &'a House,
    held_back: HeldBack<Waiting<'a>>,
    groups: u64,
}

impl<'a> Writer<'a> {
    fn new(house: &'a House) -> Self {
        Self { house, held_back: HeldBack::default(), groups: 0 }
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

    /// As `Writer::turn`: looked at in one order, journaled in the other.
    fn turn(&mut self) {
        let marked = self.marked();
        let (mut group, mut came) = (Group { number: self.groups, ..Group::default() }, 0);
        for node in self.house.queue.take_all() {
            came += 1;
            let change = Waiting(self.house, node);
            self.held_back.pass(change, step_of, |Waiting(_, node)| group.changes.push(node));
        }
        seen_when(group.changes.len() < came, "held back by the writer");
        for lease in marked {
            self.draft_end(&mut group, lease);
        }
        if group.bytes() > 0 {
            self.groups += 1;
            self.house.deliver(Delivery::Group(group));
        }
    }

    /// The ends that were marked since.
    fn marked(&self) -> Vec<Lease> {
        let mut marked = Vec::new();
        for (number, pool) in self.house.all_pools().skip(1) {
            // A look first: most pools have nothing new.
            let marks = pool.marks.load(Ordering::SeqCst);
            let marks = if marks == 0 { 0 } else { pool.marks.swap(0, Ordering::SeqCst) };
            marked
                .extend((0..pool.buckets.len()).filter(|index| marks & (1 << index) != 0).map(|index| (number, index)));
        }
        marked
    }

    /// As `Writer::draft_slot`, of one that is over.
    fn draft_end(&self, group: &mut Group, lease: Lease) {
        let (pool, bucket) = (self.house.pool(lease.0), self.house.bucket(lease));
        let seen = bucket.slot.snapshot();
        if pool.ended[lease.1].swap(true, Ordering::Relaxed) {
            return;
        }
        assert!(seen.is_final(), "only ends are marked");
        if seen.phase() != Phase::Released {
            return;
        }
        let left = bucket.slot.close();
        if seen.cause() != Cause::Abandoned {
            group.ends.push((lease, left));
        }
        let put_back = Errand::PutBack { lease, left };
        if group.bytes() > 0 {
            group.put_back.push(put_back);
        } else {
            self.house.deliver(Delivery::PutBack(put_back));
        }
    }
}

struct Storekeeper<'a> {
    house: &'a House,
    groups: u64,
    /// Lanes that it said are free.
    freed: usize,
}

impl<'a> Storekeeper<'a> {
    fn new(house: &'a House) -> Self {
        Self { house, groups: 0, freed: 0 }
    }

    /// As `Storekeeper::turn`, and `Storekeeper::publish`. True if nothing comes any more.
    fn turn(&mut self) -> bool {
        let house = self.house;
        let arrived: Vec<Delivery> = house.backlog.take().collect();
        if arrived.is_empty() {
            return false;
        }
        let (mut put_back, mut freed, mut bytes, mut is_over) = (Vec::new(), Vec::new(), 0, false);
        let mut store = house.store.lock().expect(PANICKED);
        for delivery in arrived {
            match delivery {
                Delivery::Group(mut group) => {
                    bytes += group.bytes();
                    put_back.append(&mut group.put_back);
                    self.apply(&mut store, &group, &mut freed);
                }
                Delivery::PutBack(errand) => put_back.push(errand),
                Delivery::End => is_over = true,
            }
        }
        drop(store);
        self.tell(put_back, freed);
        if house.backlog.give_back(bytes) {
            house.room.raise();
        }
        if !bug!("bug_lane_unsaid") {
            house.steward.raise();
        }
        is_over
    }

    /// As `Storekeeper::apply_group`.
    fn apply(&mut self, store: &mut Store, group: &Group, freed: &mut Vec<Errand>) {
        assert_eq!(group.number, self.groups, "not in the order of the journal");
        self.groups += 1;
        for node in &group.changes {
            match &node.value {
                Change::Added(lane) => store.add(*lane),
                Change::Reported { lease, step } => {
                    let bucket = self.house.bucket(*lease);
                    let over = store.lease(*lease, bucket).report(bucket, step);
                    freed.extend(over.then_some(Errand::LaneFree(*lease)));
                }
            }
        }
        for (lease, left) in &group.ends {
            let over = store.lease(*lease, self.house.bucket(*lease)).clear(*left);
            seen_when(!over, ENDED_FIRST);
            freed.extend((over || bug!("bug_lane_free_early")).then_some(Errand::LaneFree(*lease)));
        }
    }

    /// What was put back first, then which lanes are free.
    fn tell(&mut self, put_back: Vec<Errand>, freed: Vec<Errand>) {
        self.freed += freed.len();
        let (first, then) = if bug!("bug_lane_free_first") { (freed, put_back) } else { (put_back, freed) };
        for errand in first.into_iter().chain(then) {
            self.house.inbox.push(Arc::new(Node::new(errand)));
        }
    }
}

/// The steward, with the scheduler.
struct Steward {
    lanes: Lanes,
    /// `Reader::next_rank`.
    next_rank: usize,
    /// When a pool was first seen exhausted.
    exhausted: HashMap<u32, u64>,
}

impl Steward {
    fn new() -> Self {
        Self { lanes: Lanes::default(), next_rank: 0, exhausted: HashMap::new() }
    }

    /// As `Steward::turn`.
    fn turn(&mut self, house: &House) {
        for node in house.inbox.take_all() {
            match &node.value {
                Errand::PutBack { lease, left } => self.take_back(house.bucket(*lease), *left),
                Errand::LaneFree(lease) => {
                    let run = &house.bucket(*lease).run;
                    // As `Ward::free_lane`.
                    self.lanes.free(run.lane());
                    run.forget_state();
                }
            }
        }
        self.sweep(house);
        self.form(house);
    }

    /// As `Ward::take_back_lane`.
    fn take_back(&mut self, bucket: &Bucket, left: Mask) {
        let Bucket { slot, run, ranks, .. } = bucket;
        left.places().for_each(|place| self.lanes.wait(run.lane(), ranks[place] as u64, 0));
        if slot.snapshot().put_back() == Some(Cause::Abandoned) {
            seen_if_named("taken back unclaimed");
            self.lanes.free(run.lane());
            run.forget_state();
        }
    }

    /// As `Steward::sweep`.
    fn sweep(&mut self, house: &House) {
        let now = house.now();
        for (number, pool) in house.all_pools().skip(1) {
            let abandoned = pool.cursor.is_at_end() && now >= *self.exhausted.entry(number).or_insert(now) + ABANDON;
            for index in pool.cursor.passed().flatten() {
                let slot = &pool.buckets[index].slot;
                let before = slot.snapshot();
                if before.phase() == Phase::Dead && before.is_past(now, GRACE) {
                    seen_when(house.end((number, index), None, Cause::Expired), DIED);
                } else if before.is_held() {
                    let _ = slot.mark_dead(now);
                } else if before.phase() == Phase::Ready && abandoned && slot.abandon().is_some() {
                    // As `ServiceCore::note_taken_back`.
                    house.ended((number, index));
                }
            }
        }
    }

    /// As `Steward::form` and `Ward::next_lanes`, if the next pool is wanted.
    fn form(&mut self, house: &House) {
        let (current, next) = (house.current.load(Ordering::SeqCst), house.next.load(Ordering::SeqCst));
        if !(next == NONE || next == current) {
            return;
        }
        let store = house.store.lock().expect(PANICKED);
        // As `Reader::fill`.
        for rank in self.next_rank..store.subjects.len() {
            let lane = store.subjects[rank];
            let is_idle = store.rows[usize::from(lane)].version > 0 && self.lanes.ready() + self.lanes.running() == 0;
            seen_when(is_idle, "came again after it was idle");
            self.lanes.wait(&[lane], rank as u64, 0);
        }
        self.next_rank = store.subjects.len();
        let offers = self.lanes.offers(ROOM, BUCKET);
        let mut buckets = Vec::new();
        for offer in offers {
            self.lanes.start(&offer, offer.ranks.len());
            let ranks: Vec<usize> =
                offer.ranks.iter().map(|rank| usize::try_from(*rank).expect("few subjects")).collect();
            let row = &store.rows[usize::from(offer.lane[0])];
            check_cut(house, row, &offer.lane, &ranks);
            buckets.push(Bucket::new(&offer.lane, ranks, row.version, row.state.clone()));
        }
        drop(store);
        if !buckets.is_empty() {
            publish(house, buckets);
        }
    }
}

/// Nobody runs the lane, nothing of it is on its way, and the bucket is its front.
fn check_cut(house: &House, row: &Row, lane: &[u8], ranks: &[usize]) {
    let before = house.all_pools().flat_map(|(_, pool)| &pool.buckets).filter(|bucket| bucket.run.lane() == lane);
    for Bucket { slot, .. } in before {
        assert!(slot.snapshot().is_final() || slot.open().is_empty(), "a lane runs twice");
        seen_when(!slot.snapshot().is_final(), "freed before its lease was seen to be over");
    }
    assert!(row.lease.is_none(), "of a lane that is cut a lease goes on");
    let front = usize::try_from(row.version).expect("few subjects");
    assert!(row.ranks[front..].starts_with(ranks), "a lane goes on elsewhere than at its front");
    assert_eq!(row.state, state_at(row.version), "a state of other reports");
}

/// As `ServiceCore::publish_next`.
fn publish(house: &House, buckets: Vec<Bucket>) {
    let ended = buckets.iter().map(|_| StdBool::new(false)).collect();
    let pool = Pool { cursor: Cursor::new(buckets.len()), buckets, marks: AtomicU64::new(0), ended };
    let number = house.all_pools().count();
    let _ = house.pools[number].set(pool);
    // arc-swap stores by a swap.
    house.next.swap(u32::try_from(number).unwrap_or(NONE), Ordering::SeqCst);
    let current = house.current.load(Ordering::SeqCst);
    if house.pool(current).cursor.is_at_end() {
        house.advance(current);
    }
    house.published.notify(usize::MAX);
}

/// As `Crew::run`: claims, reports each subject of the bucket and goes on, or reports one and gives the rest back, by turns.
fn worker(house: &House, owner: u32) {
    let (mut parking, mut patient) = (Parking::default(), owner == WORKERS[0]);
    while !house.is_done() {
        let Some(lease) = house.claim(owner) else {
            parking.rest(&house.published, None);
            continue;
        };
        parking.end();
        work(house, lease, owner, if patient { BUCKET } else { 1 });
        patient = !patient;
    }
}

/// Reports so many subjects of a lease, and gives back what is left.
fn work(house: &House, lease: Lease, owner: u32, most: usize) {
    let Bucket { ranks, .. } = house.bucket(lease);
    let lane = house.bucket(lease).lane();
    house.busy[lane].store(true, Ordering::Relaxed);
    seen_when(house.busy.iter().filter(|busy| busy.load(Ordering::Relaxed)).count() > 1, "two lanes at once");
    let front = house.look(lease);
    let mut places = (front..).take(most).take_while(|place| (*place as usize) < ranks.len());
    let _ = places.all(|place| house.report(lease, place));
    house.busy[lane].store(false, Ordering::Relaxed);
    seen_when(house.end(lease, Some(owner), Cause::Client), "given back in the middle");
}

/// Goes on with a claim in the middle of which it stopped: the cursor had given it a bucket.
fn slow(house: &House, (number, index): Lease) {
    let now = house.now();
    if house.bucket((number, index)).slot.claim(SLOW, now, now + TERM) {
        house.writer.raise();
        work(house, (number, index), SLOW, BUCKET);
    }
}

/// Two sessions of the one whose lease may die: the first reports one subject and stops for ever; so does the second, if it finds
/// that done.
fn doomed(house: &House, lease: Lease, place: u32) {
    if house.bucket(lease).slot.open().first_word().trailing_zeros() == place {
        house.report(lease, place);
    }
    house.look(lease);
}

fn adds(house: &House) {
    for lane in ADDED {
        house.queue.push(Arc::new(Node::new(Change::Added(lane))));
        house.writer.raise();
    }
}

fn spawn<T: Send + 'static>(
    house: &Arc<House>,
    act: impl FnOnce(&House) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let house = Arc::clone(house);
    thread::spawn(move || act(&house))
}

/// Three lanes: a lease of one dies, a bucket of another may be taken back unclaimed, others are worked through or given back, subjects
/// are added; each is reported, once and in its order.
fn turns() {
    let house = Arc::new(House::new(&AT_FIRST, ADDED.len()));
    let mut steward = Steward::new();
    steward.turn(&house);
    let lease = house.claim(DOOMED).expect("a pool was formed");
    let next = (lease.0, house.pool(lease.0).cursor.take(0, 1).next().expect("of three buckets"));
    let mut threads: Vec<_> = [0, 1].map(|place| spawn(&house, move |house| doomed(house, lease, place))).into();
    threads.extend(WORKERS.map(|owner| spawn(&house, move |house| worker(house, owner))));
    threads.push(spawn(&house, move |house| slow(house, next)));
    threads.push(spawn(&house, adds));
    let keeper = spawn(&house, |house| {
        caretake(&house.steward, || {
            let closing = house.closing.load(Ordering::SeqCst);
            steward.turn(house);
            closing
        });
        steward
    });
    let writer = spawn(&house, |house| {
        let mut writer = Writer::new(house);
        house.room.adopt();
        caretake(&house.writer, || writer.run());
        house.deliver(Delivery::End);
    });
    let storekeeper = spawn(&house, |house| {
        let mut storekeeper = Storekeeper::new(house);
        caretake(&house.storekeeper, || storekeeper.turn());
    });
    // Time passes until that lease is over, and the bucket claimed or taken back; after that no lane needs it.
    let phase = |lease| house.bucket(lease).slot.snapshot().phase();
    while phase(lease) < Phase::Released || phase(next) == Phase::Ready {
        house.now.fetch_add(TERM, Ordering::SeqCst);
        house.steward.raise();
        thread::yield_now();
    }
    for thread in threads {
        thread.join().expect(PANICKED);
    }
    house.closing.store(true, Ordering::SeqCst);
    house.writer.raise();
    writer.join().expect(PANICKED);
    storekeeper.join().expect(PANICKED);
    house.steward.raise();
    let mut steward = keeper.join().expect(PANICKED);
    steward.turn(&house);
    check_end(&house, &steward.lanes);
}

fn check_end(house: &House, lanes: &Lanes) {
    assert_eq!((lanes.running(), lanes.ready(), lanes.waiting()), (0, 0, 0), "something is left over");
    for row in &house.store.lock().expect(PANICKED).rows {
        assert!(row.lease.is_none() && row.version == row.ranks.len() as u64, "a subject was lost");
    }
}

/// One lane of three subjects, of which two are leased to one who died, a grace ago.
fn dead_lease() -> (Arc<House>, Steward, Lease) {
    let house = Arc::new(House::new(&[0; 3], 0));
    let mut steward = Steward::new();
    steward.turn(&house);
    let lease = house.claim(DOOMED).expect("a pool was formed");
    house.now.store(TERM, Ordering::SeqCst);
    assert!(house.bucket(lease).slot.mark_dead(TERM));
    house.now.store(TERM + GRACE, Ordering::SeqCst);
    (house, steward, lease)
}

/// The steward's turns, until the lane is offered again.
fn keep(house: &House, mut steward: Steward, (number, _): Lease) -> Steward {
    caretake(&house.steward, || {
        steward.turn(house);
        house.all_pools().count() > number as usize + 1
    });
    steward
}

/// Works through the lane, alone.
fn finish(house: &House, mut steward: Steward, mut write: impl FnMut()) {
    while !house.is_done() {
        let lease = house.claim(WORKERS[0]).expect("the lane is offered again");
        work(house, lease, WORKERS[0], BUCKET);
        write();
        steward.turn(house);
    }
    check_end(house, &steward.lanes);
}

/// The holder reports the first of its subjects while the steward ends its lease; writer and storekeeper take turns on one thread.
/// The lane is offered again, at its front.
fn freed() {
    let (house, steward, lease) = dead_lease();
    let holder = spawn(&house, move |house| _ = house.report(lease, 0));
    let keeper = spawn(&house, move |house| keep(house, steward, lease));
    let (mut writer, mut storekeeper) = (Writer::new(&house), Storekeeper::new(&house));
    let mut write = || {
        writer.turn();
        storekeeper.turn();
        storekeeper.freed > 0
    };
    caretake(&house.writer, &mut write);
    holder.join().expect(PANICKED);
    let steward = keeper.join().expect(PANICKED);
    finish(&house, steward, || _ = write());
}

/// The same, with a thread each for writer and storekeeper.
fn handed() {
    let (house, steward, lease) = dead_lease();
    let holder = spawn(&house, move |house| _ = house.report(lease, 0));
    let keeper = spawn(&house, move |house| keep(house, steward, lease));
    let storekeeper = spawn(&house, |house| {
        let mut storekeeper = Storekeeper::new(house);
        caretake(&house.storekeeper, || {
            storekeeper.turn();
            storekeeper.freed > 0
        });
        house.closing.store(true, Ordering::SeqCst);
        house.writer.raise();
        // It gives nothing back any more.
        house.room.raise();
        storekeeper.groups
    });
    let mut writer = Writer::new(&house);
    house.room.adopt();
    caretake(&house.writer, || writer.run());
    holder.join().expect(PANICKED);
    let groups = storekeeper.join().expect(PANICKED);
    let mut storekeeper = Storekeeper { groups, ..Storekeeper::new(&house) };
    let steward = keeper.join().expect(PANICKED);
    finish(&house, steward, || {
        writer.turn();
        storekeeper.turn();
    });
}
