//! Malfunctioning clients among honest ones, with labels: how many of those found are faulty, and how many of the faulty
//! are found. Requirement row R48. Virtual time, seeded; the figures are printed with `--nocapture`, and
//! `SEED` chooses another course of events.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use commissary::{
    Ask, Claim, Lease, Level, Limits, ManualClock, MemoryDisk, Policy, Reporter, Seat, Service, Verdict, Watch,
};
use common::{Shop, assert_adds_up};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

/// Subjects whose report is one of four grades.
struct Grading(Policy);

impl Service for Grading {
    type Subject = u32;
    type Report = u8;

    fn id(&self) -> &'static str {
        "grading"
    }

    fn policy(&self) -> Policy {
        self.0.clone()
    }

    fn judge(&self, _subject: &u32, report: &u8, _reporter: Reporter) -> Verdict {
        if *report < 4 { Verdict::Accept } else { Verdict::Reject("no such grade".to_owned()) }
    }

    fn category(&self, report: &u8) -> Option<u8> {
        Some(*report)
    }
}

/// What a client is, as the simulation knows and the hub does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Works, now and then makes a mistake, gives a bucket back, or asks for too much.
    Honest,
    /// Works on a slow link: a third of its reports come after the grace.
    Slow,
    /// Works, and in every third interval crashes with one bucket more in hand. Not faulty.
    Crasher,
    /// Takes what it gets and reports nothing.
    Hoarder,
    /// Grades everything alike, half of the time.
    Liar,
    /// Works, and tries made-up and others' tokens.
    Forger,
    /// Reports at once what takes seconds, without doing it; its grades are spread as everybody's.
    Hasty,
    /// Sends nonsense for half of its reports.
    Babbler,
}

impl Kind {
    fn is_faulty(self) -> bool {
        matches!(self, Self::Hoarder | Self::Liar | Self::Forger | Self::Hasty | Self::Babbler)
    }

    /// 200 clients: 20 faulty in five ways, 10 that crash, 10 that are slow.
    fn of(client: u64) -> Self {
        match client {
            1..=4 => Self::Hoarder,
            5..=8 => Self::Liar,
            9..=12 => Self::Forger,
            13..=16 => Self::Hasty,
            17..=20 => Self::Babbler,
            21..=30 => Self::Crasher,
            31..=40 => Self::Slow,
            _ => Self::Honest,
        }
    }
}

const CLIENTS: u64 = 200;
const INTERVALS: u32 = 40;
const BUCKET: usize = 24;
/// One bucket of work.
const INTERVAL: Duration = Duration::from_secs(600);

struct Worker {
    kind: Kind,
    seat: Seat<Grading>,
    /// What it sees differs from what others see, a little.
    lean: u32,
    rng: ChaCha12Rng,
    /// Work that waits for its time: the round in which it is reported.
    held: Vec<(u32, Lease<Grading>)>,
}

impl Worker {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// Honest clients find 40 to 60 percent of the subjects in grade 0, each its own share, and the rest in falling numbers.
    fn grade(&mut self) -> u8 {
        let half = self.chance(50);
        match (self.kind, self.rng.random_range(0..100)) {
            (Kind::Liar, _) if half => 3,
            (Kind::Babbler, _) if half => 9,
            (_, draw) if draw < 40 + self.lean => 0,
            (_, draw) if draw < 80 => 1,
            (_, draw) if draw < 95 => 2,
            _ => 3,
        }
    }

    fn take(&mut self) -> Option<Lease<Grading>> {
        let ask = if self.kind == Kind::Honest && self.chance(1) { Ask::buckets(1_000) } else { Ask::one() };
        match self.seat.claim(ask) {
            Ok(Claim::Leased(mut grant)) => grant.pop(),
            _ => None,
        }
    }

    fn report(&mut self, lease: &Lease<Grading>) {
        let reports: Vec<(u32, u8)> = lease.subjects().map(|subject| (subject, self.grade())).collect();
        drop(lease.submit(reports));
    }

    fn work(&mut self, round: u32, victim: &commissary::LeaseToken) {
        let (due, held) = std::mem::take(&mut self.held).into_iter().partition(|(due, _)| *due <= round);
        self.held = held;
        for (_, lease) in due {
            self.report(&lease);
            if lease.renew().is_ok() {
                // Refused reports keep the lease.
                lease.release();
            }
        }
        match self.kind {
            Kind::Hoarder => (0..20).for_each(|_| self.forget()),
            Kind::Hasty => {
                for _ in 0..3 {
                    if let Some(lease) = self.take() {
                        self.report(&lease);
                    }
                }
            }
            _ => self.work_honestly(round),
        }
        if self.kind == Kind::Forger {
            (0..4).for_each(|_| drop(self.seat.submit(victim, [])));
        }
    }

    /// Takes a bucket to report it in the next round, but for what may go wrong with honest work.
    fn work_honestly(&mut self, round: u32) {
        let late = self.kind == Kind::Slow && self.chance(33);
        if self.kind == Kind::Crasher && self.chance(33) {
            self.forget();
        }
        let Some(lease) = self.take() else { return };
        if self.kind == Kind::Honest && self.chance(2) {
            return lease.release();
        }
        if self.kind == Kind::Honest && self.chance(2) {
            let _crashed = lease.into_token();
            return;
        }
        self.held.push((if late { round + 3 } else { round + 1 }, lease));
    }

    fn forget(&mut self) {
        if let Some(lease) = self.take() {
            let _crashed = lease.into_token();
        }
    }
}

/// Runs the forty intervals; the level of each client at the end, and in which interval it got there.
fn run(seed: u64) -> Vec<(Kind, Level, Option<u32>)> {
    let shop = Shop::on(MemoryDisk::new(), ManualClock::default(), Limits::default());
    let watch = Watch { min_subject_time: Duration::from_secs(8), ..Watch::default() };
    let policy = Policy {
        bucket_subjects: BUCKET,
        lease: Duration::from_secs(900),
        grace: Duration::from_secs(300),
        watch,
        ..Policy::default()
    };
    let service = shop.hub.register(Grading(policy)).unwrap();
    let victim = shop.seat(&service, CLIENTS + 1);
    let mut workers: Vec<Worker> = (1..=CLIENTS)
        .map(|client| Worker {
            kind: Kind::of(client),
            seat: shop.seat(&service, client),
            lean: u32::try_from(client % 21).unwrap(),
            rng: ChaCha12Rng::seed_from_u64(seed * 1_000 + client),
            held: Vec::new(),
        })
        .collect();
    service.add_all(0..260_000).unwrap();
    shop.settle();
    let victim = common::claim_one(&victim).into_token();
    let mut found = vec![None; workers.len()];
    for round in 0..INTERVALS {
        for worker in &mut workers {
            worker.work(round, &victim);
        }
        shop.pass(INTERVAL);
        for seat in service.unhealthy().iter().filter(|seat| seat.level == Level::Quarantined) {
            let place = usize::try_from(seat.client.value() - 1).unwrap();
            found[place] = found[place].or(Some(round));
        }
    }
    let levels: BTreeMap<u64, Level> =
        service.unhealthy().iter().map(|seat| (seat.client.value(), seat.level)).collect();
    for seat in service.unhealthy() {
        eprintln!("client {}: {:?}, {}", seat.client, Kind::of(seat.client.value()), seat.why.unwrap_or_default());
    }
    drop(workers);
    shop.tick();
    assert_adds_up(&shop.hub);
    let level = |client| levels.get(&client).copied().unwrap_or_default();
    (1..=CLIENTS).zip(found).map(|(client, found)| (Kind::of(client), level(client), found)).collect()
}

/// R48: of 200 clients, 20 of them faulty in five ways, those quarantined within forty intervals are the faulty ones: the
/// precision is at least 0.95, the recall at least 0.9. Who only crashes or reports late is not even suspected.
#[test]
fn faulty_clients_are_found_and_no_others() {
    let seed = std::env::var("SEED").map_or(1, |seed| seed.parse().expect("a number"));
    eprintln!("SEED={seed}");
    let clients = run(seed);
    let mut table: BTreeMap<Kind, (u32, u32, u32, Vec<u32>)> = BTreeMap::new();
    for (kind, level, found) in &clients {
        let row = table.entry(*kind).or_default();
        row.0 += 1;
        row.1 += u32::from(*level == Level::Suspect);
        row.2 += u32::from(*level == Level::Quarantined);
        row.3.extend(found);
    }
    for (kind, (all, suspect, quarantined, when)) in &table {
        eprintln!("{kind:?}: {all} clients, {suspect} suspect, {quarantined} quarantined, in intervals {when:?}");
    }
    let count = |faulty: bool, found: bool| {
        let counted = clients
            .iter()
            .filter(|(kind, level, _)| kind.is_faulty() == faulty && (*level == Level::Quarantined) == found);
        u32::try_from(counted.count()).map(f64::from).unwrap()
    };
    let (right, wrong, missed) = (count(true, true), count(false, true), count(true, false));
    let (precision, recall) = (right / (right + wrong), right / (right + missed));
    eprintln!("precision {precision:.3}, recall {recall:.3}");
    assert!(precision >= 0.95 && recall >= 0.9, "precision {precision}, recall {recall}");
    for kind in [Kind::Crasher, Kind::Slow] {
        assert_eq!((table[&kind].1, table[&kind].2), (0, 0), "{kind:?}");
    }
}
