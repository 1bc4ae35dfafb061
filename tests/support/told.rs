//! What a working process said, and whether the hub it leaves behind agrees.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use commissary::{Hub, OpenError, ServiceHandle, SubjectState, Work};

use crate::sender::Sent;
use crate::toil::{DIRECTORY, Probe, SEED, SERVICES, WORKERS, builder};

/// What the children said.
#[derive(Default)]
pub(crate) struct Told {
    added: BTreeSet<(usize, u64)>,
    tried_add: BTreeSet<(usize, u64)>,
    pub(crate) reported: BTreeMap<(usize, u64), u64>,
    tried_report: BTreeSet<(usize, u64, u64)>,
    /// Clients whose last change was acknowledged, with what they are; `None` while a later one is in doubt.
    clients: BTreeMap<u64, Option<bool>>,
    /// Leases known to be durable and not ended since: service, client and what is owed.
    held: BTreeMap<String, (usize, u64, BTreeSet<u64>)>,
    sent: Sent,
    pub(crate) acknowledged: u64,
    pub(crate) replayed: u64,
    pub(crate) cuts: u64,
    pub(crate) rebuilds: u64,
    pub(crate) compactions: u64,
    /// Calls that the children saw refused.
    pub(crate) refused: u64,
}

impl Told {
    /// Adds what was told of another hub.
    pub(crate) fn add(&mut self, other: Told) {
        // No two children have a key in common.
        self.reported.extend(other.reported);
        self.acknowledged += other.acknowledged;
        self.replayed += other.replayed;
        self.cuts += other.cuts;
        self.rebuilds += other.rebuilds;
        self.compactions += other.compactions;
        self.refused += other.refused;
    }

    pub(crate) fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().unwrap();
        let index = |word: &str| word.parse::<usize>().unwrap();
        self.acknowledged += u64::from(matches!(words[0], "ack" | "sent"));
        match *words {
            ["refused", ..] => self.refused += 1,
            ["pid", _] | ["end"] => {}
            ["send" | "sent" | "cut", ..] => self.sent.hear(&words),
            ["open", replayed, cut, rebuilt, compacted] => {
                self.compactions += number(compacted);
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
pub(crate) struct Contents {
    results: Vec<BTreeMap<u64, u64>>,
    /// By token: service, client, subjects owed.
    leases: BTreeMap<String, (usize, u64, BTreeSet<u64>)>,
    pub(crate) work: Vec<Work>,
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

/// Opens the hub. What this process had open a child that another test just started holds, too, until it runs its own program.
fn opened(directory: &Path) -> Hub {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        match builder().manual().open(directory) {
            Err(OpenError::Locked { .. }) if Instant::now() < patience => thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

/// Opens the hub and checks it against what the children said.
pub(crate) fn check(directory: &Path, told: &mut Told) -> Contents {
    let hub = opened(directory);
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
    told.sent.check(directory);
    contents
}

pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) lines: mpsc::Receiver<String>,
}

/// Starts a child: this very test file, run by `command` if that is another program.
pub(crate) fn spawn(mut command: Command, directory: &Path, seed: u64) -> Running {
    let mut child = command
        .args(["--exact", "child_works_until_it_is_killed", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(SEED, seed.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
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
