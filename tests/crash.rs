//! Kills a process that works on a hub, over and over, and checks that what it was told to be durable is there.
//!
//! `COMMISSARY_CRASH_ROUNDS` sets the number of kills (50 without it), `COMMISSARY_CRASH_SEED` where their times and the work come
//! from; `--nocapture` shows the summary.
#![cfg(unix)]

#[path = "support/engine.rs"]
mod engine;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use commissary::{
    Ask, Client, Engine, Hub, LeaseToken, Limits, OpenReport, Outcome, Policy, Registration, Reporter, Seat, Service,
    ServiceHandle, SubjectState, Verdict, Work,
};

const DIRECTORY: &str = "COMMISSARY_CRASH_CHILD_DIR";
const SEED: &str = "COMMISSARY_CRASH_CHILD_SEED";
const SERVICES: [&str; 2] = ["probe-a", "probe-b"];
const WORKERS: u64 = 4;

/// A service whose reports say which attempt they are.
struct Probe(&'static str);

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
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn open(directory: &Path, manual: bool) -> Hub {
    let limits = Limits { repeat_burst: u32::MAX, ..Limits::default() };
    let builder = Hub::builder().engine(engine::engine()).limits(limits);
    let builder = if manual { builder.manual() } else { builder };
    builder.open(directory).unwrap()
}

// The child.

/// Says one line to the parent. A parent that is gone ends the child.
fn say(line: &str) {
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
        loop {
            match self.chance.below(16) {
                0..=3 => self.add(),
                4..=11 => self.claim(),
                12..=14 => self.go_on(),
                _ => self.deregister(),
            }
        }
    }
}

/// The child's whole life. Without the variables that the parent sets, nothing.
#[test]
fn child_works_until_it_is_killed() {
    let (Some(directory), Ok(seed)) = (std::env::var_os(DIRECTORY), std::env::var(SEED)) else { return };
    let seed: u64 = seed.parse().unwrap();
    // A child that finds a fault must end, and not wait for a kill that proves nothing.
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("fault {}", panic.to_string().replace('\n', " ")));
        std::process::exit(1);
    }));
    let hub = open(&PathBuf::from(directory), false);
    let OpenReport { replayed, cut, rebuilt, .. } = hub.open_report();
    say(&format!("open {replayed} {} {}", u8::from(cut.is_some()), u8::from(rebuilt.is_some())));
    let services: Vec<_> = SERVICES.iter().map(|name| hub.register(Probe(name)).unwrap()).collect();
    thread::scope(|scope| {
        for number in 1..=WORKERS {
            let (hub, services) = (hub.clone(), services.clone());
            scope.spawn(move || {
                let registration = Registration::new(number, format!("worker_{number}"));
                say(&format!("try C {number} true"));
                let registered = hub.register_client(&registration).unwrap();
                registered.ticket.wait_durable().unwrap();
                say(&format!("ack C {number} true"));
                let first = (seed * WORKERS + number) << 24;
                let seats = services.iter().map(|service| registered.client.activate(service).unwrap()).collect();
                let chance = Chance(first);
                let client = registered.client;
                Worker { hub, services, number, first, made: 0, chance, client, seats, held: Vec::new() }.run();
            });
        }
    });
}

// The parent.

/// What the children said.
#[derive(Default)]
struct Told {
    added: BTreeSet<(usize, u64)>,
    tried_add: BTreeSet<(usize, u64)>,
    reported: BTreeMap<(usize, u64), u64>,
    tried_report: BTreeSet<(usize, u64, u64)>,
    /// Clients whose last change was acknowledged, with what they are; `None` while a later one is in doubt.
    clients: BTreeMap<u64, Option<bool>>,
    /// Leases known to be durable and not ended since: service, client and what is owed.
    held: BTreeMap<String, (usize, u64, BTreeSet<u64>)>,
    acknowledged: u64,
    replayed: u64,
    cuts: u64,
    rebuilds: u64,
}

impl Told {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().unwrap();
        let index = |word: &str| word.parse::<usize>().unwrap();
        self.acknowledged += u64::from(words[0] == "ack");
        match *words {
            ["open", replayed, cut, rebuilt] => {
                self.replayed += number(replayed);
                self.cuts += number(cut);
                self.rebuilds += number(rebuilt);
            }
            ["try", "A", service, key] => drop(self.tried_add.insert((index(service), number(key)))),
            ["ack", "A", service, key] => drop(self.added.insert((index(service), number(key)))),
            ["try", "R", service, key, value] => {
                self.tried_report.insert((index(service), number(key), number(value)));
            }
            ["ack", "R", service, key, value] => {
                let before = self.reported.insert((index(service), number(key)), number(value));
                assert_eq!(before, None, "{line}: a subject was done twice");
            }
            ["try", "C", client, _] => drop(self.clients.insert(number(client), None)),
            ["ack", "C", client, registered] => {
                self.clients.insert(number(client), Some(registered == "true"));
            }
            ["ack", "H", service, client, token, owed] => {
                let owed = owed.split(',').map(number).collect();
                self.held.insert(token.to_owned(), (index(service), number(client), owed));
            }
            ["try", "E", token] => drop(self.held.remove(token)),
            _ => panic!("the child said {line:?}"),
        }
    }
}

/// What a hub holds.
#[derive(Debug, PartialEq)]
struct Contents {
    results: Vec<BTreeMap<u64, u64>>,
    /// By token: service, client, subjects owed.
    leases: BTreeMap<String, (usize, u64, BTreeSet<u64>)>,
    work: Vec<Work>,
    counts: Vec<(u64, u64)>,
    clients: BTreeMap<u64, bool>,
}

fn contents(hub: &Hub, services: &[ServiceHandle<Probe>]) -> Contents {
    let mut contents = Contents {
        results: Vec::new(),
        leases: BTreeMap::new(),
        work: Vec::new(),
        counts: Vec::new(),
        clients: BTreeMap::new(),
    };
    for (index, service) in services.iter().enumerate() {
        let (mut results, mut after) = (BTreeMap::new(), None);
        loop {
            let (page, next) = service.results(after.as_ref(), 512).unwrap();
            results.extend(page.into_iter().map(|finding| (finding.key, finding.report)));
            after = next;
            if after.is_none() {
                break;
            }
        }
        let stats = service.stats();
        assert!(stats.work.adds_up(), "{stats:?}");
        assert_eq!(stats.subjects_done, results.len() as u64, "done is what has a result");
        contents.counts.push((stats.subjects_known, stats.subjects_done));
        contents.work.push(stats.work);
        contents.results.push(results);
        for number in 1..=WORKERS {
            let Some(client) = hub.client(number) else { continue };
            contents.clients.insert(number, client.is_registered());
            if !client.is_registered() {
                continue;
            }
            for view in client.activate(service).unwrap().leases().unwrap() {
                let owed: BTreeSet<u64> = view.subjects.iter().copied().collect();
                assert_eq!(owed.len(), view.subjects.len(), "a lease names a subject once");
                contents.leases.insert(view.token.to_string(), (index, number, owed));
            }
        }
    }
    contents
}

fn register(hub: &Hub) -> Vec<ServiceHandle<Probe>> {
    SERVICES.iter().map(|name| hub.register(Probe(name)).unwrap()).collect()
}

/// Opens the hub and checks it against what the children said.
fn check(directory: &Path, told: &mut Told) -> Contents {
    let hub = open(directory, true);
    let report = hub.open_report();
    told.replayed += report.replayed;
    told.cuts += u64::from(report.cut.is_some());
    told.rebuilds += u64::from(report.rebuilt.is_some());
    let services = register(&hub);
    assert!(hub.stats().work.adds_up(), "{:?}", hub.stats());
    let contents = contents(&hub, &services);
    for ((service, key), value) in &told.reported {
        assert_eq!(contents.results[*service].get(key), Some(value), "the acknowledged report on {key} of {service}");
    }
    for (service, key) in &told.added {
        let state = services[*service].subject_state(key).unwrap();
        assert_ne!(state, SubjectState::Unknown, "the acknowledged subject {key} of {service}");
    }
    for (service, results) in contents.results.iter().enumerate() {
        let known = told.tried_add.iter().filter(|(of, _)| *of == service).count() as u64;
        assert!(contents.counts[service].0 <= known, "more subjects are known than were ever offered");
        for (key, value) in results {
            assert!(told.tried_add.contains(&(service, *key)), "nobody added {key} to {service}");
            assert!(
                told.tried_report.contains(&(service, *key, *value)),
                "nobody reported {value} on {key} of {service}"
            );
        }
    }
    for (client, registered) in &told.clients {
        if let Some(registered) = registered {
            assert_eq!(contents.clients.get(client), Some(registered), "client {client}");
        }
    }
    let mut leased = BTreeSet::new();
    for (token, (service, _, owed)) in &contents.leases {
        assert!(!owed.is_empty(), "lease {token} owes nothing");
        for key in owed {
            assert!(leased.insert((*service, *key)), "subject {key} of {service} is in two leases");
            let state = services[*service].subject_state(key).unwrap();
            assert_eq!(state, SubjectState::Pending, "subject {key} of {service} is owed by a lease");
        }
    }
    for (token, held) in &told.held {
        if told.clients.get(&held.1) == Some(&Some(true)) {
            assert_eq!(contents.leases.get(token), Some(held), "the lease {token}");
        }
    }
    hub.close().unwrap();
    contents
}

struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

fn spawn(directory: &Path, seed: u64) -> Running {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_works_until_it_is_killed", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(SEED, seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = child.stdout.take().unwrap();
    let (heard, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut out = BufReader::new(out);
        let mut line = String::new();
        // The last line may be torn: only those with an end count.
        while out.read_line(&mut line).is_ok_and(|read| read > 0) && line.ends_with('\n') {
            // The harness may have left its own words in front.
            if let Some((_, said)) = line.split_once("@ ") {
                drop(heard.send(said.trim_end().to_owned()));
            }
            line.clear();
        }
    });
    Running { child, lines }
}

/// Lets a child work, and kills it: some time after its first acknowledgement, or before.
fn one_life(directory: &Path, seed: u64, chance: &mut Chance, told: &mut Told) {
    let Running { mut child, lines } = spawn(directory, seed);
    let mut hear = |line: &str| {
        assert!(!line.starts_with("fault "), "the child of seed {seed}: {line}");
        told.hear(line);
        line.starts_with("ack ")
    };
    if !chance.one_in(5) {
        while let Ok(line) = lines.recv() {
            if hear(&line) {
                break;
            }
        }
    }
    // The moment of the kill is the test's input.
    thread::sleep(Duration::from_micros(chance.below(120_000)));
    child.kill().unwrap();
    let status = child.wait().unwrap();
    for line in lines {
        hear(&line);
    }
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "the child ended by itself: {status}");
}

/// What else may be found in the directory after a crash.
fn disturb(directory: &Path, chance: &mut Chance, told: &mut Told) {
    let store = directory.join("store");
    if chance.one_in(5) && store.exists() && engine::engine() == Engine::Sled {
        fs::write(store.join(format!("snap.{:016X}.generating", chance.below(1 << 20))), b"").unwrap();
    }
    let journal = directory.join("journal");
    if chance.one_in(4) && fs::metadata(&journal).is_ok_and(|found| found.len() > 100) {
        // The beginning of a group that was never written whole, let alone synced.
        let torn: Vec<u8> = (0..=chance.below(200)).map(|_| chance.next().to_be_bytes()[0]).collect();
        fs::OpenOptions::new().append(true).open(&journal).unwrap().write_all(&torn).unwrap();
    }
    if chance.one_in(8) {
        let before = check(directory, told);
        fs::remove_dir_all(&store).unwrap();
        let after = check(directory, told);
        assert_eq!(before, after, "the store rebuilt from the journal is another");
    }
}

/// R28, R55, I5, I6, I7: what was acknowledged as durable survives a kill at any moment.
#[test]
fn acknowledged_work_survives_being_killed() {
    let setting = |name: &str, default| std::env::var(name).map_or(default, |value| value.parse().unwrap());
    let rounds: u64 = setting("COMMISSARY_CRASH_ROUNDS", 50);
    let seed: u64 = setting("COMMISSARY_CRASH_SEED", 7);
    let base = tempfile::tempdir().unwrap();
    let directory = base.path().join("hub");
    let (mut chance, mut told) = (Chance(seed), Told::default());
    for round in 1..=rounds {
        one_life(&directory, round, &mut chance, &mut told);
        if directory.join("journal").exists() {
            disturb(&directory, &mut chance, &mut told);
            // Otherwise the next child recovers from it, and may be killed while it does.
            if chance.one_in(2) {
                check(&directory, &mut told);
            }
        }
    }
    let contents = check(&directory, &mut told);
    let Told { acknowledged, replayed, cuts, rebuilds, reported, .. } = told;
    assert!(acknowledged > rounds && !reported.is_empty(), "the children got nothing done");
    eprintln!(
        "{rounds} kills, seed {seed}: {acknowledged} effects acknowledged, {} of them reports; {replayed} records replayed, {cuts} \
         torn tails cut, {rebuilds} stores set aside; at the end {:?}",
        reported.len(),
        contents.work
    );
}
