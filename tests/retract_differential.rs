//! R57: after a faulty client's work is retracted and the rest is done, everything is as if that client had never been there.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use commissary::{Ask, Claim, Crash, Lease, Limits, Outcome, Policy, Seat, ServiceHandle, SubjectState};
use common::{Shop, Web, assert_adds_up, exact};
use proptest::prelude::*;

/// Users that are there; the graph leads to some of them.
const USERS: u64 = 12;
/// Users that only lies lead to. They are there all the same, and follow others.
const GHOSTS: u64 = 8;
/// A user that is deleted on the way. Nobody but the operator names it.
const DELETED: u64 = 100;
const LIAR: u64 = 9;

/// A small world, and what happens in it.
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that may happen")]
#[derive(Debug, Clone)]
struct Scenario {
    edges: BTreeSet<(u64, u64)>,
    roots: BTreeSet<u64>,
    honest: u64,
    /// How many of a hundred of the liar's reports are false.
    rate: u64,
    bucket: usize,
    /// Steps before the liar is found out.
    steps: usize,
    /// Each user is a layer below the one that reveals it, and only so many layers are worked on.
    layers: Option<u16>,
    rerun: bool,
    delete: bool,
    restart: bool,
    held: bool,
    seed: u64,
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let all = USERS + GHOSTS;
    let edges = prop::collection::btree_set((0..all, 0..all), 0..50);
    let roots = prop::collection::btree_set(0..USERS, 1..4);
    let numbers = (1..5_u64, 0..101_u64, 1..4_usize, 1..30_usize, any::<u64>());
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let layers = prop::option::weighted(0.3, 1..4_u16);
    (edges, roots, numbers, flags, layers).prop_map(|(edges, roots, numbers, flags, layers)| {
        let (honest, rate, bucket, steps, seed) = numbers;
        let (rerun, delete, restart, held) = flags;
        Scenario { edges, roots, honest, rate, bucket, steps, layers, rerun, delete, restart, held, seed }.layered()
    })
}

/// In a layered world, the layer of a user.
fn layer(user: u64) -> u64 {
    user % 4
}

impl Scenario {
    /// With layers, keeps the roots of the first one and the edges from one to the next.
    fn layered(mut self) -> Self {
        if self.layers.is_some() {
            self.roots = self.roots.iter().map(|root| root - layer(*root)).collect();
            self.edges.retain(|(from, to)| layer(*to) == layer(*from) + 1);
        }
        // What real users follow is real; ghosts follow anyone.
        self.edges.retain(|(from, to)| *from >= USERS || *to < USERS);
        self
    }

    fn truth(&self, user: u64) -> Vec<u64> {
        if user == DELETED {
            return self.roots.iter().copied().collect();
        }
        self.edges.iter().filter(|(from, _)| *from == user).map(|(_, to)| *to).collect()
    }

    /// A list of anyone, ghosts included.
    fn lie(&self, user: u64, dice: &mut Dice) -> Vec<u64> {
        // What was said of a deleted user is not there to be searched any more: it leads nowhere new.
        if user == DELETED {
            return Vec::new();
        }
        let anyone = (0..USERS + GHOSTS).filter(|other| self.layers.is_none() || layer(*other) == layer(user) + 1);
        anyone.filter(|_| dice.below(4) == 0).collect()
    }

    fn service(&self) -> Web {
        let max_depth = self.layers.unwrap_or(u16::MAX);
        Web(Policy { bucket_subjects: self.bucket, max_depth, linger: Duration::ZERO, ..exact() })
    }

    /// What a search of the true graph leads to: those worked on, and those that lie too deep.
    fn expected(&self) -> (BTreeMap<u64, Vec<u64>>, BTreeSet<u64>) {
        let (mut known, mut unmarked) = (BTreeMap::new(), BTreeSet::new());
        let mut queue: Vec<(u64, u16)> = self.roots.iter().map(|root| (*root, 0)).collect();
        if !self.delete {
            known.insert(DELETED, self.truth(DELETED));
        }
        while let Some((user, depth)) = queue.pop() {
            if self.layers.is_some_and(|most| depth > most) {
                unmarked.insert(user);
            } else if known.insert(user, self.truth(user)).is_none() {
                queue.extend(self.truth(user).into_iter().map(|next| (next, depth + 1)));
            }
        }
        (known, unmarked)
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What is left in the end.
#[derive(Debug, PartialEq)]
struct End {
    results: BTreeMap<u64, Vec<u64>>,
    unmarked: BTreeSet<u64>,
    /// Known, done, unmarked.
    counts: (u64, u64, u64),
}

struct Run<'a> {
    scenario: &'a Scenario,
    shop: Shop,
    service: ServiceHandle<Web>,
    /// The honest clients, then the liar, if there is one.
    seats: Vec<Seat<Web>>,
    dice: Dice,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, with_liar: bool) -> Self {
        let shop = Shop::open();
        let service = shop.hub.register(scenario.service()).unwrap();
        let mut seats = shop.seats(&service, scenario.honest);
        if with_liar {
            seats.push(shop.seat(&service, LIAR));
        }
        service.add_all(scenario.roots.iter().copied().chain([DELETED])).unwrap();
        Self { scenario, shop, service, seats, dice: Dice(scenario.seed) }
    }

    /// Reports on what a lease still owes. Only the liar lies.
    fn report(&mut self, lease: &Lease<Web>, is_liar: bool) {
        let mut lists = Vec::new();
        for user in lease.subjects() {
            let lies = is_liar && self.dice.below(100) < self.scenario.rate;
            let list = if lies { self.scenario.lie(user, &mut self.dice) } else { self.scenario.truth(user) };
            lists.push((user, list));
        }
        let submitted = lease.submit(lists).unwrap();
        assert!(submitted.outcomes.iter().all(|outcome| *outcome == Outcome::Accepted));
    }

    /// Anyone does anything for a while. Returns leases that were kept.
    fn muddle(&mut self) -> Vec<Lease<Web>> {
        let mut kept = Vec::new();
        for _ in 0..self.scenario.steps {
            self.shop.settle();
            let place = usize::try_from(self.dice.below(self.seats.len() as u64)).unwrap();
            let seat = self.seats[place].clone();
            let is_liar = place as u64 == self.scenario.honest;
            let Claim::Leased(grant) = seat.claim(Ask::one()).unwrap() else { continue };
            for lease in grant {
                if self.scenario.held && !is_liar && self.dice.below(5) == 0 {
                    kept.push(lease);
                } else {
                    self.report(&lease, is_liar);
                }
            }
            if self.scenario.rerun && self.dice.below(3) == 0 {
                let user = self.dice.below(USERS + GHOSTS);
                drop(self.service.rerun(&[user]).unwrap());
            }
        }
        self.shop.tick();
        kept
    }

    /// The honest clients do all that is left.
    fn finish(&mut self) {
        let mut idle = 0;
        while idle < 3 {
            self.shop.settle();
            let place = usize::try_from(self.dice.below(self.scenario.honest)).unwrap();
            let seat = self.seats[place].clone();
            match seat.claim(Ask::buckets(2)).unwrap() {
                Claim::Leased(grant) => {
                    idle = 0;
                    grant.into_iter().for_each(|lease| self.report(&lease, false));
                }
                Claim::Empty(_) => idle += 1,
            }
        }
    }

    fn reopen(self) -> Self {
        let Self { scenario, shop, seats, dice, .. } = self;
        let ids: Vec<u64> = seats.iter().map(|seat| seat.client_id().value()).collect();
        drop(seats);
        let shop = shop.after(Crash::Process);
        let service = shop.hub.register(scenario.service()).unwrap();
        let seats = ids.into_iter().take(usize::try_from(scenario.honest).unwrap());
        let seats = seats.map(|id| shop.seat(&service, id)).collect();
        Self { scenario, shop, service, seats, dice }
    }

    fn end(&self) -> End {
        let (findings, _) = self.service.results(None, 1_000).unwrap();
        let state = |user: &u64| self.service.subject_state(user).unwrap();
        let everyone = (0..USERS + GHOSTS).chain([DELETED]);
        let stats = self.service.stats();
        assert_adds_up(&self.shop.hub);
        End {
            results: findings.into_iter().map(|found| (found.key, found.report)).collect(),
            unmarked: everyone.filter(|user| state(user) == SubjectState::Unmarked).collect(),
            counts: (stats.subjects_known, stats.subjects_done, stats.unmarked),
        }
    }
}

fn with_the_liar(scenario: &Scenario) -> (End, u64) {
    let mut run = Run::new(scenario, true);
    let kept = run.muddle();
    if scenario.delete {
        drop(run.service.delete(&[DELETED]).unwrap());
        run.shop.tick();
    }
    drop(run.service.suspend(LIAR).unwrap());
    let before = reads(&run.service);
    let done = run.service.retract_all(LIAR).unwrap();
    let after = reads(&run.service);
    // Undone, it is as if nothing had happened; done again, it is the same retraction.
    run.service.restore(done.id).unwrap();
    assert_eq!(reads(&run.service), before);
    let again = run.service.retract_all(LIAR).unwrap();
    assert_eq!((again.results, again.reopened, again.fell_back), (done.results, done.reopened, done.fell_back));
    assert_eq!((again.tainted, again.returned), (done.tainted, 0));
    assert_eq!(reads(&run.service), after);
    assert_eq!(run.service.stats().withdrawn, done.results);
    replays(scenario, &run);
    if scenario.restart {
        for lease in kept {
            let _kept = lease.into_token();
        }
        run = run.reopen();
        // What was held is held still; it comes back when its time is over.
        run.shop.pass(Duration::from_secs(3 * 3_600));
        run.shop.pass(Duration::from_secs(3_600));
        run.seats = run.seats.iter().map(|seat| run.shop.seat(&run.service, seat.client_id().value())).collect();
    } else {
        for lease in kept {
            run.report(&lease, false);
        }
    }
    run.finish();
    (run.end(), done.reopened + done.tainted)
}

fn without(scenario: &Scenario) -> End {
    let mut run = Run::new(scenario, false);
    for lease in run.muddle() {
        run.report(&lease, false);
    }
    run.finish();
    if scenario.delete {
        drop(run.service.delete(&[DELETED]).unwrap());
        run.shop.tick();
    }
    run.end()
}

/// What reads say, but for when.
fn reads(service: &ServiceHandle<Web>) -> String {
    let (findings, _) = service.results(None, 1_000).unwrap();
    let findings: Vec<_> =
        findings.iter().map(|found| (found.key, &found.report, found.client, found.version, found.depth)).collect();
    let states: Vec<_> = (0..=DELETED).map(|user| service.subject_state(&user).unwrap()).collect();
    let stats = service.stats();
    format!("{findings:?} {states:?} {:?}", (stats.subjects_known, stats.subjects_done, stats.unmarked))
}

/// The journal alone says the same.
fn replays(scenario: &Scenario, run: &Run<'_>) {
    let rebuilt = Shop::on(run.shop.disk.without_store(), run.shop.clock.clone(), Limits::default());
    let service = rebuilt.hub.register(scenario.service()).unwrap();
    assert_eq!(reads(&service), reads(&run.service));
    assert_eq!(service.retractions().unwrap(), run.service.retractions().unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// R57: known subjects, results, unmarked ones and counts are those of a run without the liar, and of a search of the
    /// true graph; the retraction can be undone, and the journal replays to the same.
    #[test]
    fn retracted_client_leaves_no_trace(scenario in scenario()) {
        let (end, _) = with_the_liar(&scenario);
        let (known, unmarked) = scenario.expected();
        let counts = (known.len() as u64, known.len() as u64, unmarked.len() as u64);
        prop_assert_eq!(&end, &End { results: known, unmarked, counts });
        prop_assert_eq!(end, without(&scenario));
    }
}

/// R57: the scenarios are not idle: many of them withdraw something and cause work to be done again.
#[test]
fn scenarios_have_something_to_retract() {
    let mut busy = 0;
    for seed in 0..20 {
        let edges = (0..USERS - 1).map(|user| (user, user + 1)).chain([(USERS, 1), (USERS, USERS + 1)]).collect();
        let scenario = Scenario {
            edges,
            roots: BTreeSet::from([0]),
            honest: 2,
            rate: 60,
            bucket: 1,
            steps: 20,
            layers: None,
            rerun: true,
            delete: false,
            restart: false,
            held: false,
            seed,
        };
        let (end, extra) = with_the_liar(&scenario);
        assert_eq!(end.results, scenario.expected().0);
        busy += u64::from(extra >= 3);
    }
    assert!(busy >= 10, "{busy} of 20");
}
