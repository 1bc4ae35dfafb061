//! Everything that can become of subjects, mixed: urgent, late, deleted, run again, retracted and restored, over crashes,
//! rebuilds and compactions. The books balance, and what one opening says the next one says.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use commissary::{
    Ask, Claim, Compact, Crash, Hub, Late, LeaseToken, Limits, ManualClock, MemoryDisk, Outcome, Policy, Registration,
    Seat, ServiceHandle, SubjectState, Ticket, Urgent, Work,
};
use common::{Web, assert_adds_up, exact};
use proptest::prelude::*;
use proptest::sample::Index;

/// Subjects that are added, and that reports reveal.
const USERS: u64 = 16;
const CLIENTS: u64 = 3;

fn mixed(urgent: Urgent, late: Late) -> Web {
    let (lease, grace) = (Duration::from_secs(1), Duration::from_millis(500));
    let linger = Duration::from_millis(5);
    let small = Policy { bucket_subjects: 3, pool_subjects: 9, lease, grace, linger, ..exact() };
    let idle = Duration::from_secs(100_000);
    Web(Policy { urgent, late, idle, max_depth: 2, keep_unmarked: true, ..small })
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
    Pass(u64),
    Tick,
    Reopen(Way),
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
        8 => prop::sample::select(vec![1, 10, 500, 1_000, 1_500]).prop_map(Op::Pass),
        6 => Just(Op::Tick),
        3 => prop::sample::select(ways.to_vec()).prop_map(Op::Reopen),
    ];
    prop::collection::vec(op, 5..70)
}

struct World {
    hub: Hub,
    service: ServiceHandle<Web>,
    disk: MemoryDisk,
    clock: ManualClock,
    plugin: Web,
    given: Vec<(u64, LeaseToken, Vec<u64>)>,
}

/// What reads say, but for what only this opening counts.
#[derive(Debug, PartialEq)]
struct Seen {
    states: Vec<SubjectState>,
    results: BTreeMap<u64, (Vec<u64>, u64, u32, u16, u64)>,
    histories: Vec<String>,
    unmarked: Vec<u64>,
    retractions: Vec<commissary::Retraction>,
    counts: [u64; 10],
    work: Vec<(u64, Work)>,
    held: BTreeSet<String>,
}

fn open(plugin: &Web, disk: &MemoryDisk, clock: &ManualClock, compact: Option<Compact>) -> (Hub, ServiceHandle<Web>) {
    let mut builder = Hub::builder().manual().clock(clock.clone()).seed(5).limits(Limits::default());
    if let Some(compact) = compact {
        builder = builder.compact(compact);
    }
    let hub = builder.open_in_memory(disk).unwrap();
    let service = hub.register(plugin.clone()).unwrap();
    hub.tick();
    (hub, service)
}

fn seen(hub: &Hub, service: &ServiceHandle<Web>) -> Seen {
    let stats = service.stats();
    let (results, _) = service.results(None, usize::MAX).unwrap();
    let mut held = BTreeSet::new();
    for id in 1..=CLIENTS + 1 {
        if !hub.client_stats(id).is_some_and(|stats| stats.registered) {
            continue;
        }
        let Some(client) = hub.client(id) else { continue };
        let Ok(seat) = client.activate(service) else { continue };
        for view in seat.leases().unwrap() {
            held.insert(view.token.to_string());
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
        ],
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
    fn new(plugin: Web) -> Self {
        let (disk, clock) = (MemoryDisk::new(), ManualClock::default());
        let (hub, service) = open(&plugin, &disk, &clock, None);
        Self { hub, service, disk, clock, plugin, given: Vec::new() }
    }

    fn seat(&self, client: u64) -> Option<Seat<Web>> {
        let registered = self.hub.register_client(&Registration::new(client, format!("c{client}"))).ok()?;
        registered.client.activate(&self.service).ok()
    }

    fn pass(&self, millis: u64) {
        self.clock.advance(Duration::from_millis(millis));
        self.hub.tick();
    }

    fn apply(&mut self, op: &Op) {
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
            Op::Pass(millis) => self.pass(*millis),
            Op::Tick => assert_adds_up(&self.hub),
            Op::Reopen(way) => self.reopen(*way),
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
            let users = lease.subjects().collect();
            self.given.push((client, lease.into_token(), users));
        }
    }

    fn report(&self, lease: Index, some: u8, last: bool, found: &[u64]) {
        let Some((client, token, users)) = self.given(lease) else { return };
        let Some(seat) = self.seat(*client) else { return };
        let some = users.iter().enumerate().filter(|(place, _)| some & (1 << place) != 0);
        let reports: Vec<_> = some.map(|(_, user)| (*user, found.to_vec())).collect();
        let answer = if last { seat.submit(token, reports) } else { seat.report(token, reports) };
        if let Ok(answer) = answer {
            for outcome in &answer.outcomes {
                assert!(
                    matches!(outcome, Outcome::Accepted | Outcome::AlreadyDone | Outcome::Conflict | Outcome::Stale),
                    "{outcome:?}"
                );
            }
        }
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
            (0..self.given.len()).for_each(|lease| {
                let (client, token, users) = &self.given[lease];
                let seat = self.seat(*client).unwrap();
                drop(seat.submit(token, users.iter().map(|user| (*user, Vec::new()))).unwrap());
            });
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
        self.reopen(Way::Crash(Crash::Process));
        let held = self.service.stats().work;
        assert_eq!((held.buckets_held, held.subjects_held), (0, 0), "nobody works on anything");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// G6, G8, R5, R31, R33, R57: whatever happens, in whatever order, the books balance; an opening finds what was there before
    /// it, whether after a crash, from the journal alone, or compacted; and all work ends.
    #[test]
    fn whatever_happens_to_subjects_the_next_opening_finds_it(
        ops in ops(),
        urgent in prop::sample::select(vec![Urgent::Again, Urgent::Wait, Urgent::Keep]),
        late in prop::sample::select(vec![Late::Refuse, Late::AcceptIfOpen]),
    ) {
        let mut world = World::new(mixed(urgent, late));
        for op in &ops {
            world.apply(op);
        }
        world.finish();
    }
}
