//! Everything that can become of subjects, mixed: urgent, late, deleted, run again, retracted and restored, some of them in
//! lanes, over crashes, rebuilds and compactions. The books balance, what one opening says the next one says, and lanes keep
//! their order and their states.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use commissary::{
    Ask, Claim, Compact, Crash, Hub, LaneKey, Late, LeaseToken, LeaseView, Limits, ManualClock, MemoryDisk, Outcome,
    Policy, Registration, Reporter, Revoke, Seat, Service, ServiceHandle, SubjectState, Submitted, Ticket, Urgent,
    Verdict, Work,
};
use common::{assert_adds_up, exact};
use proptest::prelude::*;
use proptest::sample::Index;

/// Subjects that are added, and that reports reveal.
const USERS: u64 = 16;
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

fn mixed(urgent: Urgent, late: Late, has_lanes: bool) -> Graph {
    let (lease, grace) = (Duration::from_secs(1), Duration::from_millis(500));
    let linger = Duration::from_millis(5);
    let small = Policy { bucket_subjects: 3, pool_subjects: 9, lease, grace, linger, ..exact() };
    let idle = Duration::from_secs(100_000);
    let policy = Policy { urgent, late, idle, max_depth: 2, keep_unmarked: true, ..small };
    Graph { policy, has_lanes }
}

#[derive(Debug, Clone)]
enum Op {
    Add(Vec<u64>),
    Claim { client: u64, n: u32 },
    Report { lease: Index, some: u8, last: bool, found: Vec<u64> },
    Release(Index),
    Urgent(Vec<u64>),
    Rerun(Vec<u64>),
    Mark(Vec<u64>),
    Delete(Vec<u64>),
    DeleteEverywhere(u64),
    Retract(u64),
    Restore(Index),
    Suspend(u64),
    Deregister(u64),
    Stop(Stop),
    Bound(u64),
    Pass(u64),
    Tick,
    Reopen(Way),
    Die(Crash),
}

#[derive(Debug, Clone, Copy)]
enum Stop {
    Pause,
    Drain,
    Revoke,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Close,
    Crash(Crash),
    Rebuild,
    Compact,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let users = || prop::collection::vec(0..USERS, 1..4);
    let client = || 1..=CLIENTS;
    let ways = [Way::Close, Way::Crash(Crash::Process), Way::Crash(Crash::Power), Way::Rebuild, Way::Compact];
    let op = prop_oneof![
        5 => users().prop_map(Op::Add),
        10 => (client(), 1..4_u32).prop_map(|(client, n)| Op::Claim { client, n }),
        10 => (any::<Index>(), any::<u8>(), any::<bool>(), prop::collection::vec(0..USERS, 0..3))
            .prop_map(|(lease, some, last, found)| Op::Report { lease, some, last, found }),
        2 => any::<Index>().prop_map(Op::Release),
        5 => users().prop_map(Op::Urgent),
        3 => users().prop_map(Op::Rerun),
        2 => users().prop_map(Op::Mark),
        4 => users().prop_map(Op::Delete),
        1 => (0..USERS).prop_map(Op::DeleteEverywhere),
        2 => client().prop_map(Op::Retract),
        2 => any::<Index>().prop_map(Op::Restore),
        1 => client().prop_map(Op::Suspend),
        1 => client().prop_map(Op::Deregister),
        1 => prop::sample::select(vec![Stop::Pause, Stop::Drain, Stop::Revoke]).prop_map(Op::Stop),
        1 => prop::sample::select(vec![2, 1_000]).prop_map(Op::Bound),
        8 => prop::sample::select(vec![1, 10, 500, 1_000, 1_500]).prop_map(Op::Pass),
        6 => Just(Op::Tick),
        3 => prop::sample::select(ways.to_vec()).prop_map(Op::Reopen),
        2 => prop::sample::select(vec![Crash::Process, Crash::Power]).prop_map(Op::Die),
    ];
    prop::collection::vec(op, 5..70)
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

    /// Crashes with whatever is under way: of each lane a beginning of what was reported is there, with its state.
    fn die(&mut self, crash: Crash) {
        let disk = self.disk.after(crash);
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
        let all: Vec<u64> = (0..USERS).collect();
        let users = match op {
            Op::Add(users) | Op::Rerun(users) | Op::Mark(users) => users,
            Op::Report { found, .. } => found,
            Op::Retract(_) | Op::Restore(_) => &all,
            _ => return,
        };
        for user in users {
            if let Some((_, last)) = self.owed.get_mut(user) {
                *last = self.now;
            }
        }
    }

    fn apply(&mut self, op: &Op) {
        self.now += 1;
        self.may_enter(op);
        let sent = |ticket: Result<Ticket, commissary::KeysError>| drop(ticket.unwrap());
        match op {
            Op::Add(users) => users.iter().for_each(|user| drop(self.service.add(user).unwrap())),
            Op::Claim { client, n } => self.claim(*client, *n),
            Op::Report { lease, some, last, found } => self.report(*lease, *some, *last, found),
            Op::Release(lease) => {
                if let Some((client, token, _)) = self.given(*lease)
                    && let Some(seat) = self.seat(*client)
                {
                    let _ = seat.release(token);
                }
            }
            Op::Urgent(users) => drop(self.service.prioritize(users).unwrap()),
            Op::Rerun(users) => sent(self.service.rerun(users)),
            Op::Mark(users) => sent(self.service.mark(users)),
            Op::Delete(users) => sent(self.service.delete(users)),
            Op::DeleteEverywhere(user) => sent(self.hub.delete_everywhere(user)),
            Op::Retract(client) => {
                let _ = self.service.retract_all(*client);
            }
            Op::Restore(which) => {
                let all = self.service.retractions().unwrap();
                if !all.is_empty() {
                    self.service.restore(which.get(&all).id).unwrap();
                }
            }
            Op::Suspend(client) => {
                let _ = self.service.suspend(*client);
                let _ = self.service.reinstate(*client);
            }
            Op::Deregister(client) => {
                let _ = self.hub.client(*client).map(|client| client.deregister());
            }
            Op::Stop(how) => {
                drop(match how {
                    Stop::Pause => self.service.pause().unwrap(),
                    Stop::Drain => self.service.revoke(Revoke::Drain).unwrap(),
                    Stop::Revoke => self.service.revoke(Revoke::Immediate).unwrap(),
                });
                self.pass(1);
                drop(self.service.activate().unwrap());
            }
            Op::Bound(lane_subjects) => {
                let policy = Policy { lane_subjects: *lane_subjects, ..self.service.policy() };
                self.service.set_policy(policy).unwrap();
            }
            Op::Pass(millis) => self.pass(*millis),
            Op::Tick => {
                assert_adds_up(&self.hub);
                self.look();
            }
            Op::Reopen(way) => self.reopen(*way),
            Op::Die(crash) => self.die(*crash),
        }
        assert!(self.hub.health().is_ok(), "{op:?}: {:?}", self.hub.health());
    }

    fn given(&self, lease: Index) -> Option<&(u64, LeaseToken, Vec<u64>)> {
        (!self.given.is_empty()).then(|| lease.get(&self.given))
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
    fn report(&mut self, lease: Index, some: u8, last: bool, found: &[u64]) {
        let Some((client, token, users)) = self.given(lease) else { return };
        let Some(seat) = self.seat(*client) else { return };
        let (token, lane) = (*token, self.lane_of(users[0]));
        let views = seat.leases().unwrap_or_default();
        let view = views.into_iter().find(|view| view.token == token);
        // Most of the time from the front on.
        let users = view.as_ref().filter(|_| lane > 0 && some < 192).map_or(users, |view| &view.subjects);
        let some = if lane > 0 && some < 192 { (1 << (some % 5)) - 1 } else { some };
        let some = users.iter().enumerate().filter(|(place, _)| some & (1 << place) != 0);
        let reports: Vec<_> = some.map(|(_, user)| (*user, found.to_vec())).collect();
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

    fn reopen(&mut self, way: Way) {
        assert_adds_up(&self.hub);
        let mut before = seen(&self.hub, &self.service);
        assert_adds_up(&self.hub);
        let spare = self.hub.recount().unwrap().services.remove(0).spare.count;
        let rebuilt = self.disk.without_store();
        let (disk, compact) = match way {
            Way::Close => {
                self.hub.close().unwrap();
                (self.disk.clone(), None)
            }
            Way::Crash(crash) => (self.disk.after(crash), None),
            Way::Rebuild => (self.disk.without_store(), None),
            Way::Compact => {
                self.hub.close().unwrap();
                let keep_events_since = Some(DateTime::<Utc>::MIN_UTC);
                (self.disk.clone(), Some(Compact { keep_events_since, ..Compact::default() }))
            }
        };
        let (hub, service) = open(&self.plugin, &rebuilt, &self.clock, None);
        let rebuilt = seen(&hub, &service);
        drop((hub, service));
        (self.hub, self.service) = open(&self.plugin, &disk, &self.clock, compact);
        self.disk = disk;
        self.look();
        let after = seen(&self.hub, &self.service);
        assert_eq!(after, rebuilt, "{way:?} and rebuilt");
        if spare > 0 {
            // Who holds what another has reported is not told, but the next opening knows.
            (before.work, before.held) = (after.work.clone(), after.held.clone());
        }
        assert_eq!(after, before, "{way:?}");
        assert_adds_up(&self.hub);
        for user in 0..USERS {
            self.service.explain(&user).unwrap();
            self.service.trace(&user).unwrap();
        }
    }

    fn finish(mut self) {
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
        self.reopen(Way::Crash(Crash::Process));
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
    let cases = std::env::var("CASES").map_or(64, |cases| cases.parse().unwrap());
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn run(ops: &[Op], plugin: Graph) {
    let mut world = World::new(plugin);
    for op in ops {
        world.apply(op);
    }
    world.finish();
}

proptest! {
    #![proptest_config(cases())]

    /// G6, G8, R5, R31, R33, R57: whatever happens, in whatever order, the books balance; an opening finds what was there before
    /// it, whether after a crash, from the journal alone, or compacted; and all work ends.
    #[test]
    fn whatever_happens_to_subjects_the_next_opening_finds_it(
        ops in ops(),
        urgent in prop::sample::select(vec![Urgent::Again, Urgent::Wait, Urgent::Keep]),
        late in prop::sample::select(vec![Late::Refuse, Late::AcceptIfOpen]),
    ) {
        run(&ops, mixed(urgent, late, false));
    }

    /// R120, R130: and if most of them are in lanes, these keep their order, run once at a time, owe what is owed, and have the
    /// state that the reports made, with a version that only grows.
    #[test]
    fn whatever_happens_to_lanes_the_next_opening_finds_it(
        ops in ops(),
        urgent in prop::sample::select(vec![Urgent::Again, Urgent::Wait, Urgent::Keep]),
        late in prop::sample::select(vec![Late::Refuse, Late::AcceptIfOpen]),
    ) {
        run(&ops, mixed(urgent, late, true));
    }
}
