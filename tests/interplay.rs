//! Everything that can become of subjects, mixed: urgent, late, deleted, run again, retracted and restored, some of them in
//! lanes, over crashes, rebuilds and compactions. The books balance, what one opening says the next one says, and lanes keep
//! their order and their states.

mod common;
#[path = "support/op.rs"]
#[expect(dead_code, reason = "each harness does a part of it")]
mod op;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use commissary::{
    Ask, Claim, Compact, Crash, Hub, LaneKey, Late, LeaseToken, LeaseView, Limits, ManualClock, MemoryDisk, Outcome,
    Policy, Registration, Reporter, Revoke, Seat, Service, ServiceHandle, ServiceState, SubjectState, Submitted,
    Ticket, Urgent, Verdict, Work,
};
use common::{assert_adds_up, exact};
use op::{Op, Pick, Shown, Which, by_key};
use proptest::prelude::*;
use proptest::sample::select;

/// Subjects that are added, and that reports reveal.
const USERS: u64 = 32;
const CLIENTS: u64 = 3;
/// Lanes, with the lane 0 of those that are in none.
const LANES: u64 = 4;

/// Places of a graph: a report on one names those that it leads to. If it has lanes, three places of four are in the lane
/// of their remainder, and some have a deadline; a lane's state is the list of what was reported on it.
#[derive(Debug, Clone)]
struct Graph {
    policy: Policy,
    has_lanes: bool,
}

impl Service for Graph {
    type Subject = u64;
    type Report = Vec<u64>;

    fn id(&self) -> &'static str {
        "graph"
    }

    fn policy(&self) -> Policy {
        self.policy.clone()
    }

    fn judge(&self, _place: &u64, _leads_to: &Vec<u64>, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }

    fn discover(&self, _place: &u64, leads_to: &Vec<u64>, found: &mut Vec<u64>) {
        found.extend(leads_to);
    }

    fn lane(&self, place: &u64) -> Option<LaneKey> {
        Some(*place % LANES).filter(|lane| self.has_lanes && *lane > 0).map(LaneKey::from)
    }

    fn deadline(&self, place: &u64) -> Option<DateTime<Utc>> {
        is_due(*place).then(|| DateTime::from_timestamp(6, 0).unwrap())
    }
}

/// True if a place has a deadline, where it is in a lane.
fn is_due(place: u64) -> bool {
    place % 5 == 3
}

/// What is to be varied besides: what becomes of urgent subjects that are held, of late reports, and how those put back are offered.
fn rules(has_lanes: bool) -> impl Strategy<Value = Graph> {
    let urgent = select(vec![Urgent::Again, Urgent::Wait, Urgent::Keep]);
    let late = select(vec![Late::Refuse, Late::AcceptIfOpen]);
    (urgent, late, select(vec![0, 1_500]), 0..2_u32)
        .prop_map(move |(urgent, late, cooldown, company)| mixed(urgent, late, (cooldown, company), has_lanes))
}

fn mixed(urgent: Urgent, late: Late, (cooldown, company): (u64, u32), has_lanes: bool) -> Graph {
    let ms = Duration::from_millis;
    let (lease, grace, linger, cooldown) = (ms(1_000), ms(500), ms(5), ms(cooldown));
    let small = Policy { bucket_subjects: 3, pool_subjects: 9, lease, grace, linger, cooldown, company, ..exact() };
    let idle = Duration::from_secs(100_000);
    let policy = Policy { urgent, late, idle, max_depth: 2, keep_unmarked: true, ..small };
    Graph { policy, has_lanes }
}

/// A report's value as the places that it leads to, and back.
fn leads_to(mut value: u32) -> Vec<u64> {
    let mut places = Vec::new();
    while value > 0 {
        places.push(u64::from(value % 64) - 1);
        value /= 64;
    }
    places
}

fn value_of(places: &[u64]) -> u32 {
    places.iter().rev().fold(0, |value, place| value * 64 + u32::try_from(*place).unwrap() + 1)
}

/// Reports on some of a bucket; if it may be of a lane, most of the time from the front on.
fn some_reports(has_lanes: bool) -> impl Strategy<Value = Vec<(Which, u32)>> {
    (any::<u8>(), prop::collection::vec(0..USERS, 0..3)).prop_map(move |(some, found)| {
        let value = value_of(&found);
        if has_lanes && some < 192 {
            (0..usize::from(some % 5)).map(|nth| (Which::Owed(nth), value)).collect()
        } else {
            (0..8).filter(|nth| some & (1 << nth) != 0).map(|nth| (Which::Nth(nth), value)).collect()
        }
    })
}

fn ops(has_lanes: bool) -> impl Strategy<Value = Vec<Op>> {
    let service = 0;
    let keys = || prop::collection::vec(0..USERS, 1..4);
    let client = || 1..=CLIENTS;
    let pick = || any::<usize>().prop_map(|part| Pick::Part(part as u64));
    let states = [ServiceState::Active, ServiceState::Paused, ServiceState::Draining, ServiceState::Revoked];
    let state = || select(states.to_vec()).prop_map(move |state| Op::SetState { service, state });
    let crash = || {
        let how = select(vec![Crash::Process, Crash::Power]);
        (how, any::<bool>()).prop_map(|(how, with_store)| Op::Crash { how, with_store, torn: None })
    };
    let close = any::<bool>().prop_map(|compact| Op::Close { with_store: true, compact });
    let suspend = move |client, suspended| Op::Suspend { client, service, suspended };
    let one = prop_oneof![
        5 => (0..USERS, 1..12_u64)
            .prop_map(move |(first, n)| Op::Add { service, keys: (first..USERS.min(first + n)).collect() }),
        12 => (client(), 1..4_u32).prop_map(move |(client, n)| Op::Claim { client, service, n }),
        14 => (pick(), some_reports(has_lanes), any::<bool>())
            .prop_map(|(token, reports, last)| Op::Submit { shown: Shown::own(token), reports, last }),
        2 => pick().prop_map(|token| Op::Release { shown: Shown::own(token) }),
        5 => keys().prop_map(move |keys| Op::Prioritize { service, keys }),
        3 => keys().prop_map(move |keys| Op::Rerun { service, keys }),
        2 => keys().prop_map(move |keys| Op::Mark { service, keys }),
        4 => keys().prop_map(move |keys| Op::Delete { service, keys }),
        1 => (0..USERS).prop_map(|key| Op::DeleteEverywhere { key }),
        2 => client().prop_map(move |client| Op::Retract { client, service }),
        2 => pick().prop_map(move |which| Op::Restore { service, which }),
        1 => client().prop_map(|client| Op::Deregister { client }),
        1 => state(),
        1 => Just(Op::SetState { service, state: ServiceState::Active }),
        1 => select(vec![2, 1_000]).prop_map(move |subjects| Op::BoundLanes { service, subjects }),
        6 => Just(Op::Tick),
        2 => crash(),
    ];
    let several = prop_oneof![
        1 => client().prop_map(move |client| vec![suspend(client, true), suspend(client, false)]),
        1 => client().prop_map(move |client| vec![suspend(client, true), Op::Tick, suspend(client, false)]),
        1 => state().prop_map(move |state| {
            vec![state, Op::Advance { ms: 1 }, Op::Tick, Op::SetState { service, state: ServiceState::Active }]
        }),
        8 => select(vec![1, 10, 500, 1_000, 1_500]).prop_map(|ms| vec![Op::Advance { ms }, Op::Tick]),
        // At a quiet moment.
        3 => prop_oneof![3 => crash(), 2 => close].prop_map(|end| vec![Op::Tick, end]),
    ];
    let some = prop_oneof![4 => one.prop_map(|op| vec![op]), 1 => several];
    prop::collection::vec(some, 5..70).prop_map(|some| some.concat())
}

struct World {
    hub: Hub,
    service: ServiceHandle<Graph>,
    disk: MemoryDisk,
    clock: ManualClock,
    plugin: Graph,
    given: Vec<(u64, LeaseToken, Vec<u64>)>,
    lines: BTreeMap<u64, Line>,
    /// When each place that is owed was taken in: between these two operations.
    owed: BTreeMap<u64, (usize, usize)>,
    /// Operations so far, and those before the last look at what is owed.
    now: usize,
    looked: usize,
}

/// What is known of a lane.
#[derive(Debug, Default, Clone)]
struct Line {
    version: u64,
    log: Vec<u64>,
    /// As they are known to be in the journal.
    kept: (u64, usize),
}

/// What reads say, but for what only this opening counts.
#[derive(Debug, PartialEq)]
struct Seen {
    states: Vec<SubjectState>,
    results: BTreeMap<u64, (Vec<u64>, u64, u32, u16, u64)>,
    histories: Vec<String>,
    unmarked: Vec<u64>,
    retractions: Vec<commissary::Retraction>,
    counts: [u64; 12],
    lanes: Vec<Option<(u64, u64, Vec<u64>)>>,
    work: Vec<(u64, Work)>,
    held: BTreeSet<String>,
}

fn open(
    plugin: &Graph,
    disk: &MemoryDisk,
    clock: &ManualClock,
    compact: Option<Compact>,
) -> (Hub, ServiceHandle<Graph>) {
    let mut builder = Hub::builder().manual().clock(clock.clone()).seed(5).limits(Limits::default());
    if let Some(compact) = compact {
        builder = builder.compact(compact);
    }
    let hub = builder.open_in_memory(disk).unwrap();
    let service = hub.register(plugin.clone()).unwrap();
    hub.tick();
    (hub, service)
}

fn seen(hub: &Hub, service: &ServiceHandle<Graph>) -> Seen {
    let stats = service.stats();
    let (results, _) = service.results(None, usize::MAX).unwrap();
    let (mut held, mut running) = (BTreeSet::new(), BTreeSet::new());
    for id in 1..=CLIENTS + 1 {
        if !hub.client_stats(id).is_some_and(|stats| stats.registered) {
            continue;
        }
        let Some(client) = hub.client(id) else { continue };
        let Ok(seat) = client.activate(service) else { continue };
        for view in seat.leases().unwrap() {
            held.insert(view.token.to_string());
            if let Some(lane) = view.lane {
                assert!(running.insert(lane.key.clone()), "{:?} runs twice", lane.key);
            }
        }
    }
    Seen {
        states: (0..USERS).map(|user| service.subject_state(&user).unwrap()).collect(),
        results: results
            .into_iter()
            .map(|of| (of.key, (of.report, of.client.value(), of.version, of.depth, of.position)))
            .collect(),
        histories: (0..USERS)
            .map(|user| {
                let versions = service.history(&user).unwrap();
                let told = versions.iter().map(|of| {
                    format!(
                        "{} {} {:?} {} {:?} {:?}",
                        of.number, of.round, of.report, of.position, of.withdrawn, of.bucket
                    )
                });
                told.collect::<Vec<_>>().join(", ")
            })
            .collect(),
        unmarked: service.unmarked(None, usize::MAX).unwrap().0,
        retractions: service.retractions().unwrap(),
        counts: [
            stats.subjects_known,
            stats.subjects_done,
            stats.duplicates,
            stats.unmarked,
            stats.reruns,
            stats.deleted,
            stats.withdrawn,
            stats.discarded,
            stats.late,
            stats.cut_by_budget,
            stats.expired,
            stats.lane_full,
        ],
        lanes: (1..LANES)
            .map(|lane| {
                let status = service.lane(&LaneKey::from(lane)).unwrap()?;
                Some((status.version, status.owed, status.state().unwrap()))
            })
            .collect(),
        work: (1..=CLIENTS + 1)
            .filter_map(|id| Some((id, service.seat_stats(id)?.work)))
            // Deadlines begin anew.
            .map(|(id, work)| {
                (id, {
                    let mut work = work;
                    work.buckets_dead = 0;
                    work
                })
            })
            .collect(),
        held,
    }
}

impl World {
    fn new(plugin: Graph) -> Self {
        let (disk, clock) = (MemoryDisk::new(), ManualClock::default());
        let (hub, service) = open(&plugin, &disk, &clock, None);
        let (given, lines, owed) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self { hub, service, disk, clock, plugin, given, lines, owed, now: 0, looked: 0 }
    }

    fn seat(&self, client: u64) -> Option<Seat<Graph>> {
        let registered = self.hub.register_client(&Registration::new(client, format!("c{client}"))).ok()?;
        registered.client.activate(&self.service).ok()
    }

    fn pass(&mut self, millis: u64) {
        self.clock.advance(Duration::from_millis(millis));
        self.hub.tick();
        self.look();
    }

    fn lane_of(&self, user: u64) -> u64 {
        if self.plugin.has_lanes { user % LANES } else { 0 }
    }

    /// Looks which places are owed, when everything is applied; and that lanes owe as many.
    fn look(&mut self) {
        let mut by_lane = BTreeMap::new();
        for user in 0..USERS {
            if self.service.subject_state(&user).unwrap() == SubjectState::Pending {
                self.owed.entry(user).or_insert((self.looked, self.now));
                *by_lane.entry(self.lane_of(user)).or_insert(0) += 1;
            } else {
                self.owed.remove(&user);
            }
        }
        self.looked = self.now;
        for lane in 1..LANES {
            let Some(status) = self.service.lane(&LaneKey::from(lane)).unwrap() else { continue };
            let line = self.lines.entry(lane).or_default();
            assert_eq!(status.owed, by_lane.get(&lane).copied().unwrap_or(0), "lane {lane}");
            assert_eq!(status.state::<Vec<u64>>().unwrap(), line.log, "lane {lane}");
            assert!(status.version >= line.version, "lane {lane}: {} after {}", status.version, line.version);
            line.version = status.version;
            line.kept = (line.version, line.log.len());
        }
    }

    /// The disk as a crash leaves it.
    fn wreck(&self, crash: Crash, with_store: bool) -> MemoryDisk {
        let disk = self.disk.after(crash);
        if with_store { disk } else { disk.without_store() }
    }

    /// Crashes with whatever is under way: of each lane a beginning of what was reported is there, with its state.
    fn die(&mut self, crash: Crash, disk: MemoryDisk) {
        let (hub, service) = open(&self.plugin, &disk.without_store(), &self.clock, None);
        let rebuilt = seen(&hub, &service);
        drop((hub, service));
        (self.hub, self.service) = open(&self.plugin, &disk, &self.clock, None);
        self.disk = disk;
        assert_eq!(seen(&self.hub, &self.service), rebuilt, "{crash:?} and rebuilt");
        // If it was stopped, and that it goes on was under way.
        drop(self.service.activate().unwrap());
        for (lane, line) in &mut self.lines {
            let status = self.service.lane(&LaneKey::from(*lane)).unwrap();
            let log: Vec<u64> = status.as_ref().map(|status| status.state().unwrap()).unwrap_or_default();
            assert!(log.len() >= line.kept.1 && line.log.starts_with(&log), "lane {lane}: {log:?} of {line:?}");
            let version = status.map_or(0, |status| status.version);
            assert!(version >= line.kept.0, "lane {lane}: {version} of {line:?}");
            *line = Line { version, log, ..line.clone() };
        }
        assert_adds_up(&self.hub);
        self.look();
    }

    /// Places that may be taken in anew by an operation.
    fn may_enter(&mut self, op: &Op) {
        let users: Vec<u64> = match op {
            Op::Add { keys, .. } | Op::Rerun { keys, .. } | Op::Mark { keys, .. } => keys.clone(),
            Op::Submit { reports, .. } => reports.iter().flat_map(|(_, value)| leads_to(*value)).collect(),
            Op::Retract { .. } | Op::Restore { .. } => (0..USERS).collect(),
            _ => return,
        };
        for user in users {
            if let Some((_, last)) = self.owed.get_mut(&user) {
                *last = self.now;
            }
        }
    }

    fn apply(&mut self, op: &Op) {
        self.now += 1;
        self.may_enter(op);
        let sent = |ticket: Result<Ticket, commissary::KeysError>| drop(ticket.unwrap());
        match op {
            Op::Add { keys, .. } => keys.iter().for_each(|user| drop(self.service.add(user).unwrap())),
            Op::Claim { client, n, .. } => self.claim(*client, *n),
            Op::Submit { shown, reports, last } => self.report(shown.token, reports, *last),
            Op::Release { shown } => {
                if let Some((client, token, _)) = self.given(shown.token)
                    && let Some(seat) = self.seat(*client)
                {
                    let _ = seat.release(token);
                }
            }
            Op::Prioritize { keys, .. } => drop(self.service.prioritize(keys).unwrap()),
            Op::Rerun { keys, .. } => sent(self.service.rerun(keys)),
            Op::Mark { keys, .. } => sent(self.service.mark(keys)),
            Op::Delete { keys, .. } => sent(self.service.delete(keys)),
            Op::DeleteEverywhere { key } => sent(self.hub.delete_everywhere(key)),
            Op::Retract { client, .. } => {
                let _ = self.service.retract_all(*client);
            }
            Op::Restore { which, .. } => {
                let all = self.service.retractions().unwrap();
                if let Some(nth) = which.of(all.len()) {
                    self.service.restore(all[nth].id).unwrap();
                }
            }
            Op::Suspend { client, suspended, .. } => {
                let service = &self.service;
                let _ = if *suspended { service.suspend(*client) } else { service.reinstate(*client) };
            }
            Op::Deregister { client } => {
                let _ = self.hub.client(*client).map(|client| client.deregister());
            }
            _ => self.befall(op),
        }
        assert!(self.hub.health().is_ok(), "{op:?}: {:?}", self.hub.health());
    }

    /// What is done to the service and the hub as a whole, and what happens to them.
    fn befall(&mut self, op: &Op) {
        match op {
            Op::SetState { state, .. } => drop(match state {
                ServiceState::Active => self.service.activate().unwrap(),
                ServiceState::Paused => self.service.pause().unwrap(),
                ServiceState::Draining => self.service.revoke(Revoke::Drain).unwrap(),
                _ => self.service.revoke(Revoke::Immediate).unwrap(),
            }),
            Op::BoundLanes { subjects, .. } => {
                let policy = Policy { lane_subjects: *subjects, ..self.service.policy() };
                self.service.set_policy(policy).unwrap();
            }
            Op::Advance { ms } => self.clock.advance(Duration::from_millis(*ms)),
            Op::Tick => {
                assert_adds_up(&self.hub);
                self.look();
            }
            // Nothing was done since the last look: nothing is under way.
            Op::Crash { how, with_store, .. } if self.looked + 1 == self.now => {
                self.reopen(op, None, |world| world.wreck(*how, *with_store));
            }
            Op::Crash { how, with_store, .. } => self.die(*how, self.wreck(*how, *with_store)),
            Op::Close { compact, .. } => {
                let keep_events_since = Some(DateTime::<Utc>::MIN_UTC);
                let compact = compact.then(|| Compact { keep_events_since, ..Compact::default() });
                self.reopen(op, compact, |world| {
                    world.hub.close().unwrap();
                    world.disk.clone()
                });
            }
            other => unreachable!("not of this world: {other:?}"),
        }
    }

    fn given(&self, token: Pick) -> Option<&(u64, LeaseToken, Vec<u64>)> {
        self.given.get(token.of(self.given.len())?)
    }

    fn claim(&mut self, client: u64, n: u32) {
        let Some(seat) = self.seat(client) else { return };
        let Ok(Claim::Leased(grant)) = seat.claim(Ask::buckets(n)) else { return };
        for lease in grant {
            if let Some(view) = lease.lane() {
                let owed: Vec<u64> = lease.owed().collect();
                let lane = u64::from_be_bytes(view.key.as_bytes().try_into().unwrap());
                assert_eq!(self.lane_of(lease.subjects().next().unwrap()), lane);
                let line = self.lines.entry(lane).or_default();
                assert_eq!(view.state::<Vec<u64>>().unwrap(), line.log, "lane {lane}");
                assert!(view.version >= line.version, "lane {lane}: {} after {}", view.version, line.version);
                line.version = view.version;
                self.assert_front(lane, &owed);
            }
            let users = lease.subjects().collect();
            self.given.push((client, lease.into_token(), users));
        }
    }

    /// What is owed on a lane's new lease came before each other in this order, and before all else of the lane.
    fn assert_front(&self, lane: u64, front: &[u64]) {
        for (place, user) in front.iter().enumerate() {
            let Some((first, _)) = self.owed.get(user) else { continue };
            // What is due is not shown, though it may be there.
            let others = (0..USERS).filter(|other| self.lane_of(*other) == lane && !is_due(*other));
            let others = others.filter(|other| !front.contains(other));
            for later in front[place + 1..].iter().copied().chain(others) {
                let Some((_, last)) = self.owed.get(&later) else { continue };
                assert!(first <= last, "lane {lane}: {front:?}, {user} is not before {later}: {:?}", self.owed);
            }
        }
    }

    /// Reports some of what was given; on a lane, with the state after them.
    fn report(&mut self, token: Pick, reports: &[(Which, u32)], last: bool) {
        let Some((client, token, users)) = self.given(token) else { return };
        let Some(seat) = self.seat(*client) else { return };
        let (token, lane) = (*token, self.lane_of(users[0]));
        let views = seat.leases().unwrap_or_default();
        let view = views.into_iter().find(|view| view.token == token);
        let reports = by_key(reports, users, view.as_ref().map_or(users, |view| &view.subjects));
        let reports: Vec<_> = reports.into_iter().map(|(user, value)| (user, leads_to(value))).collect();
        if lane > 0 {
            self.report_lane(&seat, view.as_ref(), lane, &token, reports, last);
        } else {
            let answer = if last { seat.submit(&token, reports) } else { seat.report(&token, reports) };
            assert_outcomes(answer.ok().as_ref(), &[]);
        }
    }

    fn report_lane(
        &mut self,
        seat: &Seat<Graph>,
        view: Option<&LeaseView<Graph>>,
        lane: u64,
        token: &LeaseToken,
        reports: Vec<(u64, Vec<u64>)>,
        last: bool,
    ) {
        // Nobody may ever see what is reported on a lease that is over.
        let mut log = view.map_or_else(|| vec![u64::MAX], |view| view.lane.as_ref().unwrap().state().unwrap());
        let line = self.lines.entry(lane).or_default();
        if view.is_some() {
            assert_eq!(log, line.log, "lane {lane}");
        }
        log.extend(reports.iter().map(|(user, _)| *user));
        let answer = match (reports.is_empty(), last) {
            (true, true) => seat.submit(token, reports),
            (true, false) => seat.report(token, reports),
            (false, true) => seat.submit_lane(token, reports, &log),
            (false, false) => seat.report_lane(token, reports, &log),
        };
        assert_outcomes(answer.as_ref().ok(), &[Outcome::OutOfOrder, Outcome::Expired]);
        let Ok(answer) = answer else { return };
        let accepted = answer.accepted();
        if accepted > 0 {
            assert_eq!(accepted, answer.outcomes.len(), "all or none: {answer:?}");
            line.log = log;
        }
        line.version += accepted as u64 + u64::from(answer.expired);
    }

    /// With nothing under way: what is found is what there was, and what the journal alone tells.
    fn reopen(&mut self, op: &Op, compact: Option<Compact>, end: impl FnOnce(&Self) -> MemoryDisk) {
        assert_adds_up(&self.hub);
        let mut before = seen(&self.hub, &self.service);
        assert_adds_up(&self.hub);
        let spare = self.hub.recount().unwrap().services.remove(0).spare.count;
        let rebuilt = self.disk.without_store();
        let disk = end(self);
        let (hub, service) = open(&self.plugin, &rebuilt, &self.clock, None);
        let rebuilt = seen(&hub, &service);
        drop((hub, service));
        (self.hub, self.service) = open(&self.plugin, &disk, &self.clock, compact);
        self.disk = disk;
        self.look();
        let after = seen(&self.hub, &self.service);
        assert_eq!(after, rebuilt, "{op:?} and rebuilt");
        if spare > 0 {
            // Who holds what another has reported is not told, but the next opening knows.
            (before.work, before.held) = (after.work.clone(), after.held.clone());
        }
        assert_eq!(after, before, "{op:?}");
        assert_adds_up(&self.hub);
        for user in 0..USERS {
            self.service.explain(&user).unwrap();
            self.service.trace(&user).unwrap();
        }
    }

    fn finish(mut self) {
        drop(self.service.activate().unwrap());
        self.pass(2_000);
        self.pass(2_000);
        for _ in 0..100 {
            self.pass(1_000);
            self.given.clear();
            self.claim(CLIENTS + 1, 3);
            for (client, token, users) in self.given.clone() {
                let (seat, lane) = (self.seat(client).unwrap(), self.lane_of(users[0]));
                let view = seat.leases().unwrap().into_iter().find(|view| view.token == token);
                if lane > 0 {
                    let owed = view.as_ref().unwrap().subjects.iter().map(|user| (*user, Vec::new())).collect();
                    self.report_lane(&seat, view.as_ref(), lane, &token, owed, true);
                } else {
                    drop(seat.submit(&token, users.iter().map(|user| (*user, Vec::new()))).unwrap());
                }
            }
            self.hub.tick();
            if self.service.stats().subjects_pending() == 0 {
                break;
            }
        }
        self.pass(2_000);
        assert_adds_up(&self.hub);
        let audit = self.hub.recount().unwrap().services.remove(0);
        for state in [audit.unread, audit.waiting, audit.ready, audit.leased, audit.spare] {
            assert_eq!(state.count, 0, "{audit:?}");
        }
        let stats = self.service.stats();
        assert_eq!((stats.lanes_ready, stats.lanes_running, stats.laned_waiting), (0, 0, 0), "no lane has work");
        self.apply(&Op::Crash { how: Crash::Process, with_store: true, torn: None });
        let held = self.service.stats().work;
        assert_eq!((held.buckets_held, held.subjects_held), (0, 0), "nobody works on anything");
    }
}

fn assert_outcomes(answer: Option<&Submitted>, others: &[Outcome]) {
    let expected = [Outcome::Accepted, Outcome::AlreadyDone, Outcome::Conflict, Outcome::Stale];
    for outcome in answer.iter().flat_map(|answer| &answer.outcomes) {
        assert!(expected.contains(outcome) || others.contains(outcome), "{outcome:?}");
    }
}

fn cases() -> ProptestConfig {
    let cases = std::env::var("CASES").map_or(96, |cases| cases.parse().unwrap());
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn run(ops: &[Op], plugin: Graph) {
    let mut world = World::new(plugin);
    for op in ops {
        world.apply(op);
    }
    world.finish();
}

/// Each showed a bug once, in an earlier form, made small by proptest.
#[test]
fn what_was_wrong_once() {
    let (service, last) = (0, false);
    let add = |keys: std::ops::Range<u64>| Op::Add { service, keys: keys.collect() };
    let urgent = |keys: std::ops::Range<u64>| Op::Prioritize { service, keys: keys.collect() };
    let claim = |client, n| Op::Claim { client, service, n };
    let state = |state| Op::SetState { service, state };
    let report = |shown, reports: std::ops::Range<usize>| Op::Submit {
        shown,
        reports: reports.map(|nth| (Which::Nth(nth), 0)).collect(),
        last,
    };
    let pass = || [Op::Advance { ms: 1 }, Op::Tick];
    let close = || Op::Close { with_store: true, compact: false };
    let (first, middle) = (Shown::own(Pick::Nth(0)), Shown::own(Pick::Part(1 << 63)));
    let [advance, tick] = pass();
    let paused = vec![
        add(10..16),
        advance,
        tick,
        state(ServiceState::Paused),
        claim(1, 2),
        close(),
        Op::Release { shown: middle },
        urgent(13..15),
        add(0..1),
        report(first, 0..2),
        claim(2, 1),
    ];
    let [advance, tick] = pass();
    let revoked = vec![
        add(3..12),
        add(0..1),
        urgent(2..6),
        Op::Suspend { client: 1, service, suspended: true },
        Op::Tick,
        Op::Suspend { client: 1, service, suspended: false },
        claim(1, 1),
        state(ServiceState::Revoked),
        Op::Tick,
        state(ServiceState::Active),
        claim(1, 1),
        advance,
        tick,
        close(),
        add(0..1),
        report(first, 0..3),
        Op::Tick,
    ];
    run(&paused, mixed(Urgent::Keep, Late::Refuse, (0, 0), false));
    run(&revoked, mixed(Urgent::Again, Late::Refuse, (0, 0), false));
}

proptest! {
    #![proptest_config(cases())]

    /// G6, G8, R5, R31, R33, R57: whatever happens, in whatever order, the books balance; an opening finds what was there before
    /// it, whether after a crash, from the journal alone, or compacted; and all work ends.
    #[test]
    fn whatever_happens_to_subjects_the_next_opening_finds_it(ops in ops(false), plugin in rules(false)) {
        run(&ops, plugin);
    }

    /// R120, R130: and if most of them are in lanes, these keep their order, run once at a time, owe what is owed, and have the
    /// state that the reports made, with a version that only grows.
    #[test]
    fn whatever_happens_to_lanes_the_next_opening_finds_it(ops in ops(true), plugin in rules(true)) {
        run(&ops, plugin);
    }
}
