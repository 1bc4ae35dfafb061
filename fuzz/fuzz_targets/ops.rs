//! Bytes are operations on a manual hub in memory, crashes and reopenings among them. After every tick the counts add up, no subject is
//! done twice, and what was durable is there.
#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use commissary::{
    Ask, Crash, Durability, Hub, LeaseToken, Limits, ManualClock, MemoryDisk, Outcome, Policy, Registration, Reporter,
    Revoke, Seat, Service, ServiceHandle, Verdict,
};
use libfuzzer_sys::fuzz_target;

const CLIENTS: u64 = 3;

struct Probe;

impl Service for Probe {
    type Subject = u32;
    type Report = u32;

    fn id(&self) -> &'static str {
        "probe"
    }

    fn policy(&self) -> Policy {
        let mut policy = Policy::default();
        policy.bucket_subjects = 2;
        policy.leases_in_flight = 4;
        policy.lease = Duration::from_secs(2);
        policy.grace = Duration::from_secs(1);
        policy.idle = Duration::from_secs(20);
        policy.max_depth = 1;
        policy
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

struct World {
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
    value: u32,
}

fn open(disk: &MemoryDisk, clock: &ManualClock) -> (Hub, ServiceHandle<Probe>, Vec<Seat<Probe>>) {
    let mut limits = Limits::default();
    limits.repeat_burst = u32::MAX;
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

impl World {
    fn new() -> Self {
        let (disk, clock) = (MemoryDisk::new(), ManualClock::default());
        let (hub, service, seats) = open(&disk, &clock);
        let (tokens, durable, pending) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self { disk, clock, hub, service, seats, tokens, durable, pending, value: 0 }
    }

    fn check(&self) {
        let stats = self.service.stats();
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

    fn report(&mut self, which: usize, part: bool) {
        let Some((seat, token, keys)) = self.tokens.get(which % self.tokens.len().max(1)).cloned() else { return };
        let Some(seat) = self.seats.get(seat) else { return };
        let keys = if part { keys.get(..1).unwrap_or_default() } else { keys.as_slice() };
        self.value += 1;
        let reports = keys.iter().map(|key| (*key, self.value));
        let Ok(submitted) = (if part { seat.report(&token, reports) } else { seat.submit(&token, reports) }) else {
            return;
        };
        for (key, outcome) in keys.iter().zip(&submitted.outcomes) {
            if *outcome == Outcome::Accepted {
                let before = self.pending.insert(*key, self.value);
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
                    let keys = lease.subjects().collect();
                    self.tokens.push((place, lease.into_token(), keys));
                }
            }
            6 | 7 => self.report(usize::from(arg), false),
            8 => self.report(usize::from(arg), true),
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
            16 if arg >= 128 => drop(self.service.suspend(1 + u64::from(arg) % CLIENTS)),
            16 => drop(self.service.reinstate(1 + u64::from(arg) % CLIENTS)),
            17 => drop(match arg % 4 {
                0 => self.service.pause(),
                1 => self.service.revoke(Revoke::Drain),
                2 => self.service.revoke(Revoke::Immediate),
                _ => self.service.activate(),
            }),
            18 => self.reopen(self.disk.after(if arg < 128 { Crash::Process } else { Crash::Power })),
            _ => {
                if arg < 128 {
                    self.hub.close().expect("memory closes");
                    self.durable.append(&mut self.pending);
                }
                self.reopen(self.disk.without_store());
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut world = World::new();
    for step in bytes.chunks_exact(2).take(400) {
        world.step(step[0], step[1]);
    }
    world.tick();
});
