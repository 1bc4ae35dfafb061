//! Bytes are operations on a manual hub in memory, crashes and reopenings among them. After every tick the counts add up, no subject is
//! done twice, and what was durable is there.
use std::collections::BTreeMap;
use std::time::Duration;

use commissary::{
    Ask, Crash, Durability, Hub, LeaseToken, Limits, ManualClock, MemoryDisk, Outcome, Policy, Registration, Reporter,
    Revoke, Seat, Service, ServiceHandle, Verdict,
};

use super::Seen;

/// What the corpus comes through.
pub const STATES: &[&str] = &[
    "granted",
    "accepted",
    "done already",
    "another report",
    "rejected",
    "over for a subject",
    "over",
    "expired",
    "found",
    "process killed",
    "power lost",
    "store lost",
    "suspended",
    "revoked",
];

const CLIENTS: u64 = 3;

struct Probe;

impl Service for Probe {
    type Subject = u32;
    type Report = u32;

    fn id(&self) -> &'static str {
        "probe"
    }

    fn policy(&self) -> Policy {
        Policy {
            bucket_subjects: 2,
            leases_in_flight: 4,
            lease: Duration::from_secs(2),
            grace: Duration::from_secs(1),
            idle: Duration::from_secs(20),
            max_depth: 1,
            ..Policy::default()
        }
    }

    /// Every seventh report is refused.
    fn judge(&self, _subject: &u32, report: &u32, _reporter: Reporter) -> Verdict {
        if report % 7 == 6 { Verdict::Reject("seventh".to_owned()) } else { Verdict::Accept }
    }

    fn discover(&self, subject: &u32, report: &u32, found: &mut Vec<u32>) {
        if report % 7 == 5 {
            found.push(subject + 100);
        }
    }
}

struct World<'a> {
    seen: &'a mut Seen,
    disk: MemoryDisk,
    clock: ManualClock,
    hub: Hub,
    service: ServiceHandle<Probe>,
    seats: Vec<Seat<Probe>>,
    tokens: Vec<(usize, LeaseToken, Vec<u32>)>,
    /// Results that a crash must not take.
    durable: BTreeMap<u32, u32>,
    /// Results accepted since the last tick.
    pending: BTreeMap<u32, u32>,
}

fn open(disk: &MemoryDisk, clock: &ManualClock) -> (Hub, ServiceHandle<Probe>, Vec<Seat<Probe>>) {
    let limits = Limits { repeat_burst: u32::MAX, notices: 8, ..Limits::default() };
    let builder = Hub::builder().manual().clock(clock.clone()).seed(1).limits(limits).durability(Durability::Sync);
    let hub = builder.open_in_memory(disk).expect("what a hub wrote it opens again");
    let service = hub.register(Probe).expect("a service registers again");
    let seats = (1..=CLIENTS).filter_map(|id| seat(&hub, &service, id)).collect();
    (hub, service, seats)
}

/// A seat of a registered client: `None` if the service is not ready, or the client is suspended.
fn seat(hub: &Hub, service: &ServiceHandle<Probe>, id: u64) -> Option<Seat<Probe>> {
    let registered =
        hub.register_client(&Registration::new(id, format!("client_{id}"))).expect("a client registers again");
    registered.client.activate(service).ok()
}

impl<'a> World<'a> {
    fn new(seen: &'a mut Seen) -> Self {
        let (disk, clock) = (MemoryDisk::new(), ManualClock::default());
        let (hub, service, seats) = open(&disk, &clock);
        let (tokens, durable, pending) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self { seen, disk, clock, hub, service, seats, tokens, durable, pending }
    }

    fn check(&mut self) {
        let stats = self.service.stats();
        if stats.work.buckets_expired > 0 {
            self.seen.insert("expired");
        }
        assert!(stats.work.adds_up(), "{:?}", stats.work);
        assert!(self.hub.stats().work.adds_up());
        assert_eq!(stats.subjects_done, self.durable.len() as u64, "{stats:?}");
        assert_eq!(stats.work.subjects_reported, stats.subjects_done, "a subject was counted twice");
        for (key, value) in &self.durable {
            let finding = self.service.result(key).expect("memory reads").expect("a durable result is there");
            assert_eq!(finding.report, *value, "subject {key}");
        }
        let mut held = std::collections::BTreeSet::new();
        for seat in &self.seats {
            for view in seat.leases().into_iter().flatten() {
                for key in view.subjects {
                    assert!(held.insert(key), "subject {key} is in two leases");
                    assert!(!self.durable.contains_key(&key), "subject {key} is done, and owed");
                }
            }
        }
    }

    fn tick(&mut self) {
        self.hub.tick();
        self.durable.append(&mut self.pending);
        self.check();
    }

    fn reopen(&mut self, disk: MemoryDisk) {
        self.pending.clear();
        let (hub, service, seats) = open(&disk, &self.clock);
        (self.disk, self.hub, self.service, self.seats) = (disk, hub, service, seats);
        self.tick();
    }

    fn report(&mut self, which: u8, part: bool) {
        let place = usize::from(which) % self.tokens.len().max(1);
        let Some((seat, token, keys)) = self.tokens.get(place).cloned() else { return };
        let Some(seat) = self.seats.get(seat) else { return };
        let keys = if part { keys.get(..1).unwrap_or_default() } else { keys.as_slice() };
        let value = u32::from(which / 16);
        let reports = keys.iter().map(|key| (*key, value));
        let Ok(submitted) = (if part { seat.report(&token, reports) } else { seat.submit(&token, reports) }) else {
            self.seen.insert("over");
            return;
        };
        for (key, outcome) in keys.iter().zip(&submitted.outcomes) {
            self.seen.insert(match outcome {
                Outcome::Accepted => "accepted",
                Outcome::AlreadyDone => "done already",
                Outcome::Conflict => "another report",
                Outcome::Rejected { .. } => "rejected",
                _ => "over for a subject",
            });
            if *outcome == Outcome::Accepted {
                if value % 7 == 5 {
                    self.seen.insert("found");
                }
                let before = self.pending.insert(*key, value);
                assert!(before.is_none() && !self.durable.contains_key(key), "subject {key} was accepted twice");
            }
        }
    }

    fn step(&mut self, op: u8, arg: u8) {
        let place = usize::from(arg) % self.seats.len().max(1);
        match op % 20 {
            0..=2 => drop(self.service.add(&u32::from(arg % 48))),
            3..=5 => {
                let Some(Ok(claim)) =
                    self.seats.get(place).map(|seat| seat.claim(Ask::buckets(1 + u32::from(arg / 128))))
                else {
                    return;
                };
                for lease in claim.leased().into_iter().flatten() {
                    self.seen.insert("granted");
                    let keys = lease.subjects().collect();
                    self.tokens.push((place, lease.into_token(), keys));
                }
            }
            6 | 7 => self.report(arg, false),
            8 => self.report(arg, true),
            9 | 10 => {
                self.clock.advance(Duration::from_millis(u64::from(arg) * 20));
                self.tick();
            }
            11 => self.tick(),
            12 | 13 => {
                let Some((seat, token, _)) = self.tokens.get(usize::from(arg) % self.tokens.len().max(1)) else {
                    return;
                };
                let Some(seat) = self.seats.get(*seat) else { return };
                if op % 20 == 12 { drop(seat.release(token)) } else { drop(seat.renew(token)) }
            }
            14 => drop(self.hub.client(1 + u64::from(arg) % CLIENTS).map(|client| client.deregister())),
            15 => self.seats = (1..=CLIENTS).filter_map(|id| seat(&self.hub, &self.service, id)).collect(),
            16 if arg >= 128 => {
                if self.service.suspend(1 + u64::from(arg) % CLIENTS).is_ok() {
                    self.seen.insert("suspended");
                }
            }
            16 => drop(self.service.reinstate(1 + u64::from(arg) % CLIENTS)),
            17 => drop(match arg % 4 {
                0 => self.service.pause(),
                1 => self.service.revoke(Revoke::Drain),
                2 => {
                    self.seen.insert("revoked");
                    self.service.revoke(Revoke::Immediate)
                }
                _ => self.service.activate(),
            }),
            18 => {
                let (crash, name) =
                    if arg < 128 { (Crash::Process, "process killed") } else { (Crash::Power, "power lost") };
                self.seen.insert(name);
                self.reopen(self.disk.after(crash));
            }
            _ => {
                if arg < 128 {
                    self.hub.close().expect("memory closes");
                    self.durable.append(&mut self.pending);
                }
                self.seen.insert("store lost");
                self.reopen(self.disk.without_store());
            }
        }
    }
}

pub fn run(bytes: &[u8], seen: &mut Seen) {
    let mut world = World::new(seen);
    for step in bytes.chunks_exact(2).take(400) {
        world.step(step[0], step[1]);
    }
    world.tick();
}
