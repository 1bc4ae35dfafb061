//! A process that works on a hub and says what it was told to be durable, until it is killed or its disk fails.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use commissary::{
    Ask, Client, Compact, Durability, Hub, LeaseToken, Limits, OpenReport, Outcome, Policy, Registration, Reporter,
    Seat, Service, ServiceHandle, Verdict,
};

use crate::{engine, sender};

pub(crate) const DIRECTORY: &str = "COMMISSARY_CRASH_CHILD_DIR";
pub(crate) const SEED: &str = "COMMISSARY_CRASH_CHILD_SEED";
/// `os`: nothing is synced, so that a power cut takes what was acknowledged.
pub(crate) const DURABILITY: &str = "COMMISSARY_CRASH_CHILD_DURABILITY";
/// Steps of each worker, after which the child ends by itself; and a disk that fails is none of the child's faults.
pub(crate) const STEPS: &str = "COMMISSARY_CRASH_CHILD_STEPS";
pub(crate) const SERVICES: [&str; 2] = ["probe-a", "probe-b"];
pub(crate) const WORKERS: u64 = 4;
/// One child of so many compacts the journal while it opens the hub.
const COMPACTS: u64 = 5;

/// A service whose reports say which attempt they are.
pub(crate) struct Probe(pub(crate) &'static str);

impl Service for Probe {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &str {
        self.0
    }

    fn policy(&self) -> Policy {
        Policy { bucket_subjects: 3, linger: Duration::from_millis(1), ..Policy::default() }
    }

    fn judge(&self, _subject: &u64, _report: &u64, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }
}

/// Repeatable chance: splitmix64.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The hub as the children and their judges open it.
pub(crate) fn builder() -> commissary::Builder {
    let limits = Limits { repeat_burst: u32::MAX, ..Limits::default() };
    Hub::builder().engine(engine::engine()).limits(limits)
}

/// Says one line to the parent. A parent that is gone ends the child.
pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    if out.write_all(format!("@ {line}\n").as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// One thread of the child: a client of its own at both services.
struct Worker {
    hub: Hub,
    services: Vec<ServiceHandle<Probe>>,
    /// Its number, from 1: its client's id too.
    number: u64,
    /// Where its keys and values begin; no two workers of any two children share them.
    first: u64,
    made: u64,
    chance: Chance,
    client: Client,
    seats: Vec<Seat<Probe>>,
    held: Vec<(usize, LeaseToken, Vec<u64>)>,
    /// Steps until its end.
    steps: u64,
}

impl Worker {
    fn fresh(&mut self) -> u64 {
        self.made += 1;
        self.first + self.made
    }

    fn enrol(&mut self) {
        say(&format!("try C {} true", self.number));
        let registered = self.hub.register_client(&Registration::new(self.number, format!("worker_{}", self.number)));
        let registered = registered.unwrap();
        registered.ticket.wait_durable().unwrap();
        say(&format!("ack C {} true", self.number));
        self.client = registered.client;
        self.seats = self.services.iter().map(|service| self.client.activate(service).unwrap()).collect();
    }

    fn deregister(&mut self) {
        for (_, token, _) in std::mem::take(&mut self.held) {
            say(&format!("try E {token}"));
        }
        say(&format!("try C {} false", self.number));
        self.client.deregister().unwrap().wait_durable().unwrap();
        say(&format!("ack C {} false", self.number));
        self.enrol();
    }

    fn add(&mut self) {
        let service = usize::from(self.chance.one_in(2));
        for _ in 0..=self.chance.below(6) {
            let key = self.fresh();
            say(&format!("try A {service} {key}"));
            self.services[service].add(&key).unwrap().wait_durable().unwrap();
            say(&format!("ack A {service} {key}"));
        }
    }

    /// Reports on `keys` by token, as the last report or not.
    fn report(&mut self, service: usize, token: &LeaseToken, keys: &[u64], last: bool) {
        let reports: Vec<(u64, u64)> = keys.iter().map(|key| (*key, self.fresh())).collect();
        for (key, value) in &reports {
            say(&format!("try R {service} {key} {value}"));
        }
        let seat = &self.seats[service];
        let submitted = if last { seat.submit(token, reports.clone()) } else { seat.report(token, reports.clone()) };
        let submitted = submitted.unwrap();
        submitted.ticket.wait_durable().unwrap();
        for ((key, value), outcome) in reports.iter().zip(&submitted.outcomes) {
            assert_eq!(*outcome, Outcome::Accepted, "nobody else reports on {key}");
            say(&format!("ack R {service} {key} {value}"));
        }
    }

    /// Reports on a part and keeps the lease, which is then known to be durable.
    fn keep(&mut self, service: usize, token: LeaseToken, mut keys: Vec<u64>) {
        let rest = keys.split_off(1);
        self.report(service, &token, &keys, false);
        if !rest.is_empty() {
            let owed: Vec<String> = rest.iter().map(u64::to_string).collect();
            say(&format!("ack H {service} {} {token} {}", self.number, owed.join(",")));
            self.held.push((service, token, rest));
        }
    }

    fn claim(&mut self) {
        let service = usize::from(self.chance.one_in(2));
        let ask = Ask::buckets(1 + u32::try_from(self.chance.below(2)).unwrap());
        let Some(grant) = self.seats[service].claim(ask).unwrap().leased() else { return };
        for lease in grant {
            let keys: Vec<u64> = lease.subjects().collect();
            match self.chance.below(8) {
                0 => lease.release(),
                1 => {
                    lease.renew().unwrap();
                    drop(lease);
                }
                2 => self.report(service, &lease.into_token(), &keys[..1], true),
                3 | 4 => self.keep(service, lease.into_token(), keys),
                _ => self.report(service, &lease.into_token(), &keys, true),
            }
        }
    }

    fn go_on(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let which = usize::try_from(self.chance.below(self.held.len() as u64)).unwrap();
        let (service, token, keys) = self.held.swap_remove(which);
        if self.chance.one_in(3) {
            self.seats[service].renew(&token).unwrap();
            self.held.push((service, token, keys));
            return;
        }
        say(&format!("try E {token}"));
        match self.chance.below(4) {
            0 => drop(self.seats[service].release(&token).unwrap()),
            1 => self.keep(service, token, keys),
            _ => self.report(service, &token, &keys, true),
        }
    }

    /// Finds its leases from before the crash and goes on with them.
    fn take_up(&mut self) {
        for service in 0..SERVICES.len() {
            for view in self.seats[service].leases().unwrap() {
                assert!(!view.subjects.is_empty(), "a lease owes something");
                self.held.push((service, view.token, view.subjects));
            }
        }
    }

    fn run(&mut self) {
        self.take_up();
        for _ in 0..self.steps {
            match self.chance.below(16) {
                0..=3 => self.add(),
                4..=11 => self.claim(),
                12..=14 => self.go_on(),
                _ => self.deregister(),
            }
        }
    }
}

/// The child's whole life, if this is one.
pub(crate) fn live() {
    let (Some(directory), Ok(seed)) = (std::env::var_os(DIRECTORY), std::env::var(SEED)) else { return };
    let seed: u64 = seed.parse().unwrap();
    let steps: Option<u64> = std::env::var(STEPS).ok().map(|steps| steps.parse().unwrap());
    std::panic::set_hook(Box::new(move |panic| {
        let of = panic.location().map_or("", |location| location.file());
        let words = panic.to_string().replace('\n', " ");
        // On a disk that fails every call may be refused, and the engine may panic. What panics in the crate is a fault.
        match of {
            of if steps.is_some() && (of.ends_with("toil.rs") || of.ends_with("sender.rs")) => {
                say(&format!("refused {words}"));
            }
            of if steps.is_some() && (of.contains("/sled-") || of.contains("/redb-")) => {}
            _ => {
                // A child that finds a fault must end, and not wait for a kill that proves nothing.
                say(&format!("fault {words}"));
                std::process::exit(1);
            }
        }
    }));
    say(&format!("pid {}", std::process::id()));
    drop(catch_unwind(|| work(&PathBuf::from(directory), seed, steps.unwrap_or(u64::MAX))));
    say("end");
}

fn work(directory: &Path, seed: u64, steps: u64) {
    let os = std::env::var(DURABILITY).is_ok_and(|durability| durability == "os");
    let durability = if os { Durability::Os } else { Durability::Sync };
    let mut builder = builder().durability(durability);
    if seed.is_multiple_of(COMPACTS) {
        builder = builder.compact(Compact::default());
    }
    let hub = builder.open(directory).unwrap();
    let OpenReport { replayed, cut, rebuilt, compacted, .. } = hub.open_report();
    let [cut, rebuilt, compacted] = [cut.is_some(), rebuilt.is_some(), compacted.is_some()].map(u8::from);
    say(&format!("open {replayed} {cut} {rebuilt} {compacted}"));
    let services: Vec<_> = SERVICES.iter().map(|name| hub.register(Probe(name)).unwrap()).collect();
    thread::scope(|scope| {
        let sends = || sender::send(directory, durability, Chance(seed), steps);
        scope.spawn(move || drop(catch_unwind(AssertUnwindSafe(sends))));
        for number in 1..=WORKERS {
            let (hub, services) = (hub.clone(), services.clone());
            scope
                .spawn(move || drop(catch_unwind(AssertUnwindSafe(|| one_worker(hub, services, number, seed, steps)))));
        }
    });
    hub.close().unwrap();
}

fn one_worker(hub: Hub, services: Vec<ServiceHandle<Probe>>, number: u64, seed: u64, steps: u64) {
    let registration = Registration::new(number, format!("worker_{number}"));
    say(&format!("try C {number} true"));
    let registered = hub.register_client(&registration).unwrap();
    registered.ticket.wait_durable().unwrap();
    say(&format!("ack C {number} true"));
    let first = (seed * WORKERS + number) << 24;
    let seats = services.iter().map(|service| registered.client.activate(service).unwrap()).collect();
    let chance = Chance(first);
    let client = registered.client;
    Worker { hub, services, number, first, made: 0, chance, client, seats, held: Vec::new(), steps }.run();
}
