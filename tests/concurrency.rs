//! Many clients at once: disjoint buckets, claims that never wait, nothing lost and nothing twice; and what the sources
//! may use to keep it so.

#[expect(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Condvar, Mutex};
use std::thread;

use commissary::{
    Ask, Claim, EmptyReason, Hub, Lease, MemoryDisk, Outcome, Policy, Progress, Registration, Reporter, Seat, Service,
    Subject, Verdict,
};
use serde::{Deserialize, Serialize};
use support::{Doubling, Rig, drain, keys, ms, none, one, policy, right, sorted};

fn seat_in(hub: &Hub, service: &commissary::ServiceHandle<Doubling>, id: u64) -> Seat<Doubling> {
    let wanted = Registration::new(id, format!("c{id}")).origin(id.to_be_bytes());
    hub.register_client(&wanted).unwrap().client.activate(service).unwrap()
}

/// R84: two clients that claim at the same instant get different buckets, however often they try.
#[test]
fn two_claims_at_the_same_instant_are_disjoint() {
    const ROUNDS: u64 = 100_000;
    let rig = Rig::new(policy(|policy| policy.bucket_subjects = 1));
    let seats = [rig.seat(1), rig.seat(2)];
    rig.add(0..ROUNDS * 2);
    let start = Barrier::new(2);
    let work = |seat: &Seat<Doubling>| {
        let mut seen = Vec::new();
        for _ in 0..ROUNDS {
            start.wait();
            let lease = loop {
                match seat.claim(Ask::one()).unwrap() {
                    Claim::Leased(mut grant) => break grant.pop().unwrap(),
                    Claim::Empty(_) => rig.hub.tick(),
                }
            };
            let owed = keys(&lease);
            assert_eq!(lease.submit(right(&owed)).unwrap().outcomes, [Outcome::Accepted]);
            seen.extend(owed);
        }
        seen
    };
    let [mut first, second] = thread::scope(|scope| {
        let other = scope.spawn(|| work(&seats[0]));
        let second = work(&seats[1]);
        [other.join().unwrap(), second]
    });
    assert_eq!((first.len() as u64, second.len() as u64), (ROUNDS, ROUNDS));
    first.extend(second);
    assert_eq!(sorted(first), (0..ROUNDS * 2).collect::<Vec<_>>());
    rig.assert_adds_up();
    assert_eq!(rig.service.stats().subjects_done, ROUNDS * 2);
}

/// R84: as before, with asks for several buckets that run over the ends of pools.
#[test]
fn claims_for_several_buckets_at_once_are_disjoint() {
    let rig = Rig::new(policy(|policy| policy.leases_in_flight = 1_000_000));
    let seats: Vec<_> = (1..=4).map(|id| rig.seat(id)).collect();
    rig.add(0..40_000);
    let start = Barrier::new(seats.len());
    let work = |seat: &Seat<Doubling>, ask: u32| {
        let mut seen = Vec::new();
        start.wait();
        loop {
            match seat.claim(Ask::buckets(ask)).unwrap() {
                Claim::Leased(grant) => {
                    assert!(grant.len() <= ask as usize);
                    for lease in grant {
                        seen.extend(keys(&lease));
                        assert_eq!(lease.submit(right(&keys(&lease))).unwrap().accepted(), 4);
                    }
                }
                Claim::Empty(empty) if empty.reason == EmptyReason::NothingPending => return seen,
                Claim::Empty(_) => rig.hub.tick(),
            }
        }
    };
    let work = &work;
    let seen: Vec<Vec<u64>> = thread::scope(|scope| {
        let asks = seats.iter().zip([1, 3, 7, 10]);
        let threads: Vec<_> = asks.map(|(seat, ask)| scope.spawn(move || work(seat, ask))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(sorted(seen.concat()), (0..40_000).collect::<Vec<_>>());
    let total = rig.service.stats().work;
    assert_eq!((total.buckets_assigned, total.buckets_processed), (10_000, 10_000));
    rig.assert_adds_up();
}

/// R85: a client that joins later gets other buckets; after the first one's death and grace it gets the same subjects,
/// under new tokens.
#[test]
fn later_client_gets_other_buckets_and_the_same_subjects_only_after_death() {
    let rig = Rig::new(policy(|policy| {
        policy.lease = ms(10_000);
        policy.grace = ms(1_000);
    }));
    let first = rig.seat(1);
    rig.add(0..80);
    let held: Vec<Lease<Doubling>> = (0..10).map(|_| one(&first)).collect();
    rig.pass(5_000);
    let later = rig.seat(2);
    let others: Vec<Lease<Doubling>> = (0..10).map(|_| one(&later)).collect();
    let of = |leases: &[Lease<Doubling>]| leases.iter().flat_map(keys).collect::<HashSet<u64>>();
    assert_eq!((of(&held).len(), of(&others).len()), (40, 40));
    assert!(of(&held).is_disjoint(&of(&others)));
    assert_eq!(none(&later).reason, EmptyReason::AllLeased { earliest_free: ms(6_000) });
    let tokens: HashSet<_> = held.iter().map(Lease::token).collect();
    let lost = of(&held);
    for lease in held {
        assert!(tokens.contains(&lease.into_token()));
    }
    rig.pass(5_000);
    assert_eq!(none(&later).reason, EmptyReason::AllLeased { earliest_free: ms(1_000) });
    rig.pass(1_000);
    let again: Vec<Lease<Doubling>> = (0..10).map(|_| one(&later)).collect();
    assert_eq!(of(&again), lost);
    assert!(again.iter().all(|lease| !tokens.contains(&lease.token())));
    rig.assert_adds_up();
}

/// R86: while nobody forms buckets, claims are served from the older pool, then answered at once that none is formed.
#[test]
fn claims_go_on_from_the_older_pool_and_then_say_that_none_is_formed() {
    let rig = Rig::new(policy(|_| {}));
    let seat = rig.seat(1);
    rig.add(0..8_000);
    // One pool serves and one is ready behind it, of 20 buckets each: ten claims of one bucket for one seat, twice over.
    let leases: Vec<_> = (0..40).map(|_| one(&seat)).collect();
    assert_eq!(leases.iter().map(Lease::len).collect::<HashSet<_>>(), HashSet::from([4]));
    for _ in 0..100 {
        assert_eq!(none(&seat).reason, EmptyReason::NotYetFormed);
    }
    rig.hub.tick();
    assert_eq!(one(&seat).len(), 4);
    let stats = rig.service.seat_stats(1).unwrap();
    assert_eq!((stats.claims, stats.empty_claims), (141, 100));
    rig.assert_adds_up();
}

static GATE: Gate = Gate { state: Mutex::new((false, 0)), moved: Condvar::new() };

/// Holds up the thread that forms buckets, where it reads stored subjects.
struct Gate {
    /// Closed; threads held up.
    state: Mutex<(bool, u32)>,
    moved: Condvar,
}

impl Gate {
    fn set(&self, closed: bool) {
        self.state.lock().unwrap().0 = closed;
        self.moved.notify_all();
    }

    fn pass(&self) {
        if thread::current().name() == Some("commissary-steward") {
            let mut state = self.state.lock().unwrap();
            state.1 += 1;
            self.moved.notify_all();
            state = self.moved.wait_while(state, |(closed, _)| *closed).unwrap();
            state.1 -= 1;
        }
    }

    fn wait_until_somebody_is_held_up(&self) {
        let state = self.state.lock().unwrap();
        drop(self.moved.wait_while(state, |(_, held)| *held == 0).unwrap());
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Slow(u64);

impl Subject for Slow {
    type Key = u64;

    fn key(&self) -> u64 {
        self.0
    }

    fn read(key: &[u8], _body: &[u8]) -> Result<Self, String> {
        GATE.pass();
        Ok(Self(u64::from_be_bytes(key.try_into().map_err(|_| "not a number".to_owned())?)))
    }
}

struct SlowToForm;

impl Service for SlowToForm {
    type Subject = Slow;
    type Report = ();

    fn id(&self) -> &'static str {
        "slow-to-form"
    }

    fn policy(&self) -> Policy {
        Policy { cooldown: ms(0), ..Policy::default() }
    }

    fn judge(&self, _subject: &Slow, _report: &(), _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }
}

/// R15: nobody waits to register: with nothing written at all, a hundred register, activate and are served or told at once
/// that no bucket is ready; their tickets tell the truth when the writing begins.
#[test]
fn registration_does_not_wait_for_the_disk() {
    let rig = Rig::new(policy(|_| {}));
    rig.add(0..80);
    let (mut tickets, mut empty) = (Vec::new(), 0);
    for id in 1..=100_u64 {
        let wanted = Registration::new(id, format!("c{id}")).origin(id.to_be_bytes());
        let registered = rig.hub.register_client(&wanted).unwrap();
        tickets.push(registered.ticket);
        let seat = registered.client.activate(&rig.service).unwrap();
        match seat.claim(Ask::one()).unwrap() {
            Claim::Leased(grant) => {
                for lease in grant {
                    let submitted = lease.submit(right(&keys(&lease))).unwrap();
                    assert_eq!(submitted.accepted(), 4);
                    tickets.push(submitted.ticket);
                }
            }
            Claim::Empty(_) => empty += 1,
        }
    }
    assert_eq!((tickets.len(), empty), (120, 80));
    assert!(tickets.iter().all(|ticket| ticket.progress() == Ok(Progress::Pending)), "nothing was written yet");
    rig.hub.tick();
    assert!(tickets.iter().all(|ticket| ticket.progress() == Ok(Progress::Visible)));
    assert_eq!(rig.service.stats().subjects_done, 80);
    rig.assert_adds_up();
}

/// R15, R86: no claim and no registration waits for the forming of buckets: with the caretaker's thread stopped in the
/// middle of it, all buckets of the older pool are handed out, clients come, and reports, renewals and releases go on.
#[test]
fn nothing_waits_for_a_formation_that_is_stopped_in_the_middle() {
    let hub = Hub::builder().seed(1).open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(SlowToForm).unwrap();
    let client = hub.register_client(&Registration::new(1, "a")).unwrap().client;
    let seat = client.activate(&service).unwrap();
    assert_eq!(service.add_all((0..80).map(Slow)).unwrap().added, 80);
    assert!(seat.wait_ready(ms(60_000)));
    GATE.set(true);
    assert_eq!(service.add_all((80..160).map(Slow)).unwrap().added, 80);
    GATE.wait_until_somebody_is_held_up();

    let mut owed: Vec<u64> = Vec::new();
    for turn in 0..20 {
        let mut grant = seat.claim(Ask::one()).unwrap().leased().expect("the older pool holds 20 buckets");
        let lease = grant.pop().unwrap();
        assert_eq!(lease.len(), 4);
        let keys: Vec<u64> = lease.subjects().map(|subject| subject.0).collect();
        lease.renew().unwrap();
        let newcomer = hub.register_client(&Registration::new(100 + turn, "b").origin([1])).unwrap();
        newcomer.client.activate(&service).unwrap();
        newcomer.ticket.wait_visible().unwrap();
        if turn % 2 == 0 {
            let submitted = lease.submit(keys.iter().map(|key| (*key, ()))).unwrap();
            assert_eq!(submitted.accepted(), 4);
            submitted.ticket.wait_visible().unwrap();
        } else {
            lease.release();
        }
        owed.extend(keys);
    }
    assert_eq!(sorted(owed), (0..80).collect::<Vec<_>>());
    assert!(matches!(seat.claim(Ask::one()).unwrap(), Claim::Empty(_)));

    GATE.set(false);
    let mut rest = Vec::new();
    while rest.len() < 120 {
        assert!(seat.wait_ready(ms(60_000)), "formation goes on");
        for lease in seat.claim(Ask::buckets(10)).unwrap().leased().into_iter().flatten() {
            let keys: Vec<u64> = lease.subjects().map(|subject| subject.0).collect();
            let submitted = lease.submit(keys.iter().map(|key| (*key, ()))).unwrap();
            submitted.ticket.wait_visible().unwrap();
            rest.extend(keys);
        }
    }
    assert_eq!(service.stats().subjects_done, 160);
    assert!(hub.stats().work.adds_up());
}

/// R49, R86: while subjects are added and pools formed on other threads, claims see only whole buckets, and all of each.
#[test]
fn claims_see_only_whole_buckets_while_pools_are_formed() {
    const SUBJECTS: u64 = 20_000;
    let hub = Hub::builder().seed(1).open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub
        .register(Doubling(policy(|policy| {
            policy.bucket_subjects = 5;
            // Nobody is short of companions for long enough to be handed out in a short bucket.
            policy.linger = ms(86_400_000);
        })))
        .unwrap();
    let seats: Vec<_> = (1..=2).map(|id| seat_in(&hub, &service, id)).collect();
    let done = AtomicU64::new(0);
    let work = |seat: &Seat<Doubling>| {
        while done.load(Ordering::SeqCst) < SUBJECTS {
            for lease in seat.claim(Ask::buckets(3)).unwrap().leased().into_iter().flatten() {
                let owed = keys(&lease);
                assert_eq!((owed.len(), owed.iter().collect::<HashSet<_>>().len(), lease.len()), (5, 5, 5));
                assert_eq!(lease.submit(right(&owed)).unwrap().outcomes, vec![Outcome::Accepted; 5]);
                done.fetch_add(5, Ordering::SeqCst);
            }
            // Woken by the next pool; a short wait only bounds how long it takes to see that all is done.
            let _ = seat.wait_ready(ms(20));
        }
    };
    thread::scope(|scope| {
        for seat in &seats {
            scope.spawn(|| work(seat));
        }
        for chunk in 0..SUBJECTS / 100 {
            assert_eq!(service.add_all(chunk * 100..(chunk + 1) * 100).unwrap().added, 100);
        }
    });
    assert_eq!(done.load(Ordering::SeqCst), SUBJECTS);
    hub.close().unwrap();
    let counts = service.stats();
    assert_eq!((counts.subjects_done, counts.work.buckets_processed), (SUBJECTS, SUBJECTS / 5));
    assert!(hub.stats().work.adds_up());
}

/// R87: clients that come, claim and go: all their leases come back, and what the hub counts as held, queued or active
/// is back at nothing.
#[test]
fn clients_that_come_and_go_leave_no_lease_behind() {
    const CLIENTS: u64 = 10_000;
    let rig = Rig::new(policy(|_| {}));
    rig.add(0..400);
    let start = Barrier::new(2);
    let churn = |from: u64| {
        start.wait();
        let mut leased = 0_u64;
        for id in from..from + CLIENTS / 2 {
            let seat = rig.seat(id);
            if let Claim::Leased(grant) = seat.claim(Ask::buckets(2)).unwrap() {
                leased += grant.len() as u64;
                for lease in grant {
                    // Some vanish with their leases, some give them back, and a deregistration races with both.
                    if id % 2 == 0 {
                        let _vanished = lease.into_token();
                    }
                }
            }
            rig.hub.client(id).unwrap().deregister().unwrap().progress().unwrap();
            if id % 64 == 0 {
                rig.hub.tick();
            }
        }
        leased
    };
    let leased = thread::scope(|scope| {
        let other = scope.spawn(|| churn(1));
        churn(1 + CLIENTS / 2) + other.join().unwrap()
    });
    rig.pass(1_000);
    rig.pass(1_000);
    let stats = rig.hub.stats();
    assert!(leased > 500, "the test exercises what it is about: {leased} leases");
    assert_eq!((stats.work.buckets_assigned, stats.work.buckets_put_back), (leased, leased));
    assert_eq!((stats.work.buckets_held, stats.work.subjects_held, stats.queued_bytes), (0, 0, 0));
    assert_eq!(stats.clients, CLIENTS);
    let service = rig.service.stats();
    assert_eq!((service.active_seats, service.subjects_known, service.subjects_done), (0, 400, 0));
    let last = rig.seat(1_000_000);
    assert_eq!(drain(&rig, &last), (0..400).collect::<Vec<_>>(), "each subject is offered again, once");
    rig.assert_adds_up();
}

/// R87: the same identities coming and going make no new records: one client, one seat each, however often.
#[test]
fn returning_clients_make_no_new_records() {
    let rig = Rig::new(policy(|_| {}));
    rig.add(0..400);
    for round in 0..30 {
        for id in 1..=100 {
            let seat = rig.seat(id);
            let lease = one(&seat);
            assert_eq!(seat.leases().unwrap().len(), 1, "round {round}: nothing is left from before");
            drop(rig.hub.client(id).unwrap().deregister().unwrap());
            assert_eq!(lease.renew(), Err(commissary::LeaseError::NotRegistered));
            rig.hub.tick();
        }
        // Repeated registrations are budgeted; this is not about them.
        rig.pass(60_000);
        let stats = rig.hub.stats();
        assert_eq!((stats.clients, stats.queued_bytes, stats.work.buckets_held), (100, 0, 0), "round {round}");
        assert_eq!(stats.work.buckets_put_back, (round + 1) * 100);
    }
    for id in 1..=100 {
        assert_eq!(rig.hub.client_stats(id).unwrap().seats.len(), 1);
    }
    rig.assert_adds_up();
}

/// R88: subjects added and buckets claimed in parallel, some given back, some reported in part: what is done is what was
/// added, each subject once.
#[test]
fn what_is_done_is_what_was_added_and_nothing_twice() {
    const EACH: u64 = 6_000;
    const TOTAL: u64 = EACH * 2;
    let disk = MemoryDisk::new();
    let hub = Hub::builder().seed(1).open_in_memory(&disk).unwrap();
    let service = hub.register(Doubling(policy(|policy| policy.linger = ms(1)))).unwrap();
    let seats: Vec<_> = (1..=3).map(|id| seat_in(&hub, &service, id)).collect();
    let done = AtomicU64::new(0);
    let work = |seat: &Seat<Doubling>| {
        let mut mine = Vec::new();
        let mut turn = 0_u64;
        while done.load(Ordering::SeqCst) < TOTAL {
            for lease in seat.claim(Ask::buckets(4)).unwrap().leased().into_iter().flatten() {
                turn += 1;
                let owed = keys(&lease);
                let reported = match turn % 5 {
                    0 => continue,
                    1 => &owed[..owed.len() / 2],
                    _ => &owed[..],
                };
                let submitted = lease.submit(right(reported)).unwrap();
                assert_eq!(submitted.outcomes, vec![Outcome::Accepted; reported.len()]);
                assert_eq!(submitted.put_back as usize, owed.len() - reported.len());
                done.fetch_add(reported.len() as u64, Ordering::SeqCst);
                mine.extend_from_slice(reported);
            }
            let _ = seat.wait_ready(ms(20));
        }
        mine
    };
    let work = &work;
    let accepted: Vec<Vec<u64>> = thread::scope(|scope| {
        let workers: Vec<_> = seats.iter().map(|seat| scope.spawn(move || work(seat))).collect();
        let service = &service;
        for half in 0..2 {
            // Odd numbers and even ones, in small pieces.
            scope.spawn(move || {
                for chunk in 0..EACH / 50 {
                    let subjects = (chunk * 50..(chunk + 1) * 50).map(|n| n * 2 + half);
                    assert_eq!(service.add_all(subjects).unwrap().added, 50);
                }
            });
        }
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(sorted(accepted.concat()), (0..TOTAL).collect::<Vec<_>>());
    hub.close().unwrap();
    let counts = service.stats();
    assert_eq!((counts.subjects_known, counts.subjects_done, counts.duplicates), (TOTAL, TOTAL, 0));
    assert_eq!(counts.work.subjects_reported, TOTAL);
    assert!(hub.stats().work.adds_up(), "{:?}", hub.stats().work);
    let (found, next) = service.results(None, usize::MAX).unwrap();
    assert_eq!((found.len() as u64, next), (TOTAL, None));
    assert!(found.iter().all(|finding| finding.report == finding.key * 2 && finding.version == 1));
}

/// Where a lock, or a library that has one inside, may stand; and why. Everything else in `src` is free of them.
const LOCKS: [(&str, &[&str], &str); 21] = [
    (
        "bookmark.rs",
        &["dashmap"],
        "which projections and outboxes are open: taken and given back, never while they read",
    ),
    ("builder.rs", &["Mutex"], "a memory disk's secret: taken when a hub is opened"),
    ("client.rs", &["dashmap"], "the index of clients: register, activate, deregister"),
    (
        "device.rs",
        &["Mutex", "thread::sleep"],
        "the bytes of a memory disk: the writer's, and who reads events; opening waits for a file's lock",
    ),
    ("handlers/parking.rs", &["event_listener"], "threads that have no command to handle; as seat.rs"),
    ("house.rs", &["Mutex"], "registering a service, one at a time; the caretakers of a manual hub"),
    ("hub.rs", &["Mutex"], "the threads: taken once, by whoever closes the hub"),
    ("messages.rs", &["Mutex"], "the writer's thread: taken once, by whoever closes the log"),
    (
        "messages/compact.rs",
        &["Mutex", "mpsc"],
        "a compaction, handed to the writer by its caller, who waits for the end",
    ),
    ("messages/receipt.rs", &["OnceLock"], "a message's answer: set once, by whoever answers it, and never waited for"),
    ("messages/shared.rs", &["event_listener", "OnceLock"], "as reader.rs; why the log failed, set once"),
    ("news.rs", &["event_listener"], "those who would rather wait for events; the writer never waits for them"),
    ("people.rs", &["dashmap", "OnceLock"], "the index of clients, and the origins' budgets: register, activate"),
    ("refusals.rs", &["OnceLock"], "which subjects were refused: set once, by the writer, and never waited for"),
    ("registry.rs", &["event_listener"], "those who would rather wait than be told; claims never touch it"),
    ("seat.rs", &["event_listener"], "those who would rather wait for work: wait_ready and ready, never claim"),
    ("signal.rs", &["OnceLock"], "names the caretaker's thread, once, as it starts"),
    ("store/memory.rs", &["RwLock"], "the map of a memory disk: read and written as the store on disk is"),
    ("store/redb.rs", &["redb"], "the other store on disk, which locks inside as well"),
    (
        "store/sled.rs",
        &["sled", "crossbeam_epoch"],
        "the store on disk locks inside, and waits for its file when it is opened: never touched by a claim or submit",
    ),
    (
        "sync.rs",
        &["Mutex", "RwLock", "OnceLock", "mpsc", "dashmap", "event_listener"],
        "names them for all other files, so that the crate's own tests see who gets at one",
    ),
];

/// Words that betray a lock, a channel or a library with one.
const SUSPECTS: [&str; 18] = [
    "Mutex",
    "RwLock",
    "Condvar",
    "Barrier",
    "OnceLock",
    "LazyLock",
    "ReentrantLock",
    "mpsc",
    "mpmc",
    "parking_lot",
    "dashmap",
    "event_listener",
    "crossbeam_queue",
    "crossbeam_channel",
    "crossbeam_epoch",
    "redb",
    "sled",
    "thread::sleep",
];

/// The sources without their tests and comments, by path from `src`.
fn sources() -> BTreeMap<String, String> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    let named = |path: &Path| path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
    let code = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        // In-crate tests stand last in their files.
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned();
        let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        lines.collect::<Vec<_>>().join("\n")
    };
    // Files, and directories of files.
    let is_test = |name: &str| name.split('/').any(|part| part.trim_end_matches(".rs").ends_with("_test"));
    found.iter().map(|path| (named(path), code(path))).filter(|(name, _)| !is_test(name)).collect()
}

/// True if `word` stands in `code` as a word of its own.
fn has_word(code: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(at, _)| {
        let (before, after) = (code[..at].chars().next_back(), code[at + word.len()..].chars().next());
        !part(before) && !part(after)
    })
}

/// R17: atomics are named in one file, from which all others take them.
#[test]
fn atomics_come_from_one_file() {
    let sources = sources();
    let naming: Vec<&String> = sources
        .iter()
        .filter(|(_, code)| code.contains("std::sync::atomic") || code.contains("core::sync::atomic"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(naming, ["sync.rs"]);
    // Nor by a way round: `use std::sync::{atomic, ..}`.
    let nested = |code: &str| {
        code.match_indices("std::sync::{").any(|(at, _)| {
            let list = code[at..].split('}').next().unwrap_or_default();
            has_word(list, "atomic")
        })
    };
    let round_about: Vec<_> = sources.iter().filter(|(_, code)| nested(code)).map(|(name, _)| name).collect();
    assert_eq!(round_about, Vec::<&String>::new());
}

/// R17, I3: locks stand only where they are named, each with its reason; none in what a claim, report, renewal or release
/// goes through.
#[test]
fn locks_stand_only_where_they_are_named() {
    let sources = sources();
    for (name, code) in &sources {
        // The store's module file names the engines, which `store/sled.rs` and `store/redb.rs` are; in quotes they are only names.
        let names = ["mod sled;", "mod redb;", "sled::SledStore", "redb::RedbStore", "\"sled\"", "\"redb\""];
        let code = names.iter().fold(code.clone(), |code, name| code.replace(name, ""));
        let allowed: HashSet<&str> =
            LOCKS.iter().filter(|(file, _, _)| file == name).flat_map(|(_, words, _)| words.iter().copied()).collect();
        let found: HashSet<&str> = SUSPECTS.into_iter().filter(|word| has_word(&code, word)).collect();
        assert_eq!(found, allowed, "{name}: found on the left, named as exceptions on the right");
    }
    for (file, _, reason) in LOCKS {
        assert!(sources.contains_key(file) && !reason.is_empty(), "{file} is a named exception and must exist");
    }
    for file in [
        "audit/ledger.rs",
        "audit/stripes.rs",
        "slot.rs",
        "pool.rs",
        "cursor.rs",
        "stack.rs",
        "permits.rs",
        "reservations.rs",
        "reservations/rows.rs",
        "reservations/shelf.rs",
        "lease.rs",
        "link.rs",
        "pace.rs",
        "notices.rs",
        "ticket.rs",
        "messages/queue.rs",
    ] {
        assert!(sources.contains_key(file) && LOCKS.iter().all(|(named, _, _)| *named != file), "{file} has no lock");
    }
}

/// What a source imports, statement by statement.
fn imports(code: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in code.lines().map(str::trim) {
        let line = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub(super) ")).unwrap_or(line);
        if let Some(import) = line.strip_prefix("use ") {
            found.push(import.to_owned());
        } else if let Some(import) = found.last_mut().filter(|_| is_open) {
            import.push_str(line);
        } else {
            continue;
        }
        is_open = !line.ends_with(';');
    }
    found
}

/// I3: locks are named in one file, from which all others take them: there the crate's own tests (`src/no_lock_test.rs`) put
/// locks that tell which call reached them. sled and redb, which lock inside, are behind the store, as is the map in memory.
#[test]
fn locks_come_from_one_file() {
    let others = ["sled", "redb", "crossbeam_epoch", "thread::sleep"];
    let has_lock = |code: &str| SUSPECTS.iter().any(|word| !others.contains(word) && has_word(code, word));
    let first_word = |path: &str| path.split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned);
    let mut taken = 0;
    for (name, code) in sources().iter().filter(|(name, _)| *name != "sync.rs") {
        for import in imports(code).iter().filter(|import| has_lock(import)) {
            assert!(import.starts_with("crate::sync::"), "{name}: use {import}");
            taken += 1;
        }
        // Nor by its path.
        let paths = ["std::sync::", "::dashmap", "::event_listener"];
        let named =
            paths.iter().flat_map(|path| code.match_indices(path).map(|(at, path)| (&code[..at], &code[at..], path)));
        let named = named.filter(|(before, _, _)| !before.ends_with("crate::sync"));
        let words = named.filter_map(|(_, here, path)| {
            first_word(if path.ends_with(':') { &here[path.len()..] } else { &here[2..] })
        });
        assert_eq!(words.filter(|word| has_lock(word)).collect::<Vec<_>>(), Vec::<String>::new(), "{name}");
    }
    assert!(taken >= 14, "{taken} files take locks from there");
}

/// What of each library could keep a thread waiting; nothing but what the list above names, or what the application brings.
const LIBRARIES: [(&str, &str); 25] = [
    ("arc-swap", "nothing: loads are wait-free, exchanges lock-free"),
    ("atomic-wait", "who waits for a receipt: `messages/gates.rs`, `Receipt::wait`"),
    ("atomic-waker", "nothing"),
    ("boxcar", "nothing"),
    ("chrono", "nothing without local time"),
    ("crc32fast", "nothing"),
    ("crossbeam-epoch", "nothing; driven for sled"),
    ("dashmap", "a lock for each part: above"),
    ("event-listener", "a lock around the list: above"),
    ("foldhash", "nothing"),
    ("metrics", "the application's recorder, called by its exporter alone"),
    ("once_cell", "nothing: its `race` alone is built in"),
    ("postcard", "nothing"),
    ("rand", "nothing"),
    ("rand_chacha", "nothing"),
    ("redb", "locks inside: above"),
    ("rustix", "nothing: the clock"),
    ("serde", "nothing"),
    ("serde_bytes", "nothing"),
    ("serde_json", "nothing"),
    ("siphasher", "nothing"),
    ("sled", "locks inside: above"),
    ("smallvec", "nothing"),
    ("thiserror", "nothing"),
    ("tracing", "the application's subscriber; with several of them, a list's reader lock at an event's first time"),
];

/// I3: a library that is added is looked at for locks before this passes.
#[test]
fn libraries_are_those_that_were_looked_at() {
    let manifest = include_str!("../Cargo.toml");
    let sections = manifest.split("\n[").filter(|section| {
        let head = section.lines().next().unwrap_or_default();
        head == "dependencies]" || head.starts_with("target.") && head.ends_with(".dependencies]")
    });
    let lines = sections.flat_map(|section| section.lines().skip(1)).filter(|line| !line.starts_with('#'));
    let found: BTreeMap<_, _> = lines.filter_map(|line| line.split_once(" = ")).collect();
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), LIBRARIES.map(|(name, _)| name));
    assert!(LIBRARIES.iter().all(|(_, what)| !what.is_empty()));
    for (library, feature) in
        [("once_cell", "\"race\""), ("chrono", "default-features = false"), ("rustix", "\"time\"")]
    {
        assert!(found[library].contains(feature), "{library}");
    }
}
