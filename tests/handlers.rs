//! Lanes handled in the process: what a handler does is one record, what it sends arrives in order, nothing waits for anything,
//! and neither crashes, threads, panics nor deadlines change what comes out.

mod common;
#[path = "support/linear.rs"]
mod linear;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use chrono::{DateTime, Utc};
use commissary::{
    Ask, Claim, ClaimError, Courier, Crash, Durability, EventKind, HandlerError, Hub, IdempotencyKey, LaneHandler,
    LaneKey, LaneOptions, LaneStep, LaneThreads, LaneWorker, Limits, ManualClock, MemoryDisk, OutboxOptions, Policy,
    Projection, ProjectionOptions, Registration, Reporter, Retry, Seat, Service, ServiceHandle, Step, Subject, Verdict,
};
use common::{Shop, assert_adds_up, claim_one, exact};
use linear::{Event, Model, Recorder};
use serde::{Deserialize, Serialize};

/// Subjects of one lane.
const PER_LANE: u64 = 1_000_000;

/// The command of a lane by which its state is read.
const PROBE: u64 = PER_LANE - 1;

/// Commands are numbers: the millions are the lane, 0 is none. What is left is, in thousands, where it comes from and, in a
/// service with deadlines, until which minute it is to be executed; then its place. A report names the commands that it sends; the
/// report `[0]` is rejected.
struct Post {
    deadlines: bool,
}

impl Service for Post {
    type Subject = u64;
    type Report = Vec<u64>;

    fn id(&self) -> &'static str {
        "post"
    }

    fn policy(&self) -> Policy {
        Policy { linger: Duration::ZERO, ..exact() }
    }

    fn judge(&self, _command: &u64, sends: &Vec<u64>, _reporter: Reporter) -> Verdict {
        if *sends == [0] { Verdict::Reject("as asked for".to_owned()) } else { Verdict::Accept }
    }

    fn discover(&self, _command: &u64, sends: &Vec<u64>, found: &mut Vec<u64>) {
        found.extend(sends);
    }

    fn lane(&self, command: &u64) -> Option<LaneKey> {
        (*command >= PER_LANE).then(|| LaneKey::from(command / PER_LANE))
    }

    fn deadline(&self, command: &u64) -> Option<DateTime<Utc>> {
        let minutes = i64::try_from(command % PER_LANE / 1_000).unwrap();
        (self.deadlines && minutes > 0).then(|| DateTime::from_timestamp(minutes * 60, 0).unwrap())
    }
}

fn command(lane: u64, from: u64, place: u64) -> u64 {
    lane * PER_LANE + from * 1_000 + place
}

/// A lane's state: what was executed, by where it came from.
type Log = BTreeMap<u64, Vec<u64>>;

fn note(log: &mut Log, command: u64) {
    log.entry(command % PER_LANE / 1_000).or_default().push(command);
}

/// A handler that is a function of the log and the command.
struct Script<F>(F);

impl<F: Fn(&mut Log, u64, DateTime<Utc>) -> Vec<u64> + Send + Sync + 'static> LaneHandler<Post> for Script<F> {
    type State = Log;

    fn handle(&self, lane: &LaneKey, log: &mut Log, command: &u64, at: DateTime<Utc>) -> Vec<u64> {
        assert_eq!(*lane, LaneKey::from(command / PER_LANE));
        (self.0)(log, *command, at)
    }
}

type Plain = Script<fn(&mut Log, u64, DateTime<Utc>) -> Vec<u64>>;

const SOURCES: u64 = 3;
const ORDERS: u64 = 7;

/// Lanes 1 to 3 send two commands each, in an order that is not that of their numbers, to lane 10, and one to lane 11; lane 10
/// answers to where it comes from.
fn post(log: &mut Log, at: u64, _now: DateTime<Utc>) -> Vec<u64> {
    note(log, at);
    let (lane, from, place) = (at / PER_LANE, at % PER_LANE / 1_000, at % 1_000);
    match lane {
        1..=SOURCES if from == 0 => {
            vec![command(10, lane, 500 - place), command(11, lane, place), command(10, lane, 900 - place)]
        }
        10 => vec![command(from, 10, place)],
        _ => vec![],
    }
}

fn orders() -> Vec<u64> {
    (0..ORDERS).flat_map(|place| (1..=SOURCES).map(move |lane| command(lane, 0, place))).collect()
}

/// Commands in all, once everything was sent.
const IN_ALL: u64 = SOURCES * ORDERS * 6;

/// What every lane's state is in the end, by a plain computation.
fn expected() -> BTreeMap<u64, Log> {
    let mut logs = BTreeMap::<u64, Log>::new();
    let mut queue = std::collections::VecDeque::from(orders());
    while let Some(next) = queue.pop_front() {
        queue.extend(post(logs.entry(next / PER_LANE).or_default(), next, DateTime::default()));
    }
    logs
}

fn lanes() -> impl Iterator<Item = u64> {
    (1..=SOURCES).chain([10, 11])
}

fn open(shop: &Shop) -> ServiceHandle<Post> {
    shop.hub.register(Post { deadlines: false }).unwrap()
}

fn worker(shop: &Shop, service: &ServiceHandle<Post>) -> LaneWorker<Post, Plain> {
    shop.hub.handle_lanes(service, Script(post as _), LaneOptions::default()).unwrap()
}

/// Ticks and steps until nothing is left to do; says how many commands were executed.
fn run<H: LaneHandler<Post>>(shop: &Shop, worker: &LaneWorker<Post, H>) -> u32 {
    let (mut executed, mut idle) = (0, 0);
    while idle < 2 {
        shop.settle();
        match worker.step().unwrap() {
            LaneStep::Handled { commands } => (executed, idle) = (executed + commands, 0),
            LaneStep::Idle | LaneStep::Waiting(_) => idle += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_adds_up(&shop.hub);
    executed
}

/// The states of lanes, read by a lease of each.
fn states(shop: &Shop, service: &ServiceHandle<Post>, lanes: impl Iterator<Item = u64>) -> BTreeMap<u64, Log> {
    let seat = shop.seat(service, 50);
    lanes
        .map(|lane| {
            service.add_all([lane * PER_LANE + PROBE]).unwrap();
            shop.settle();
            let lease = claim_one(&seat);
            assert_eq!(lease.owed().collect::<Vec<_>>(), [lane * PER_LANE + PROBE]);
            let log = lease.lane().unwrap().state().unwrap();
            assert_eq!(lease.submit([(lane * PER_LANE + PROBE, vec![])]).unwrap().accepted(), 1);
            shop.settle();
            (lane, log)
        })
        .collect()
}

/// R126: what a handler sends arrives in the order in which it sent it, and each command is executed once.
#[test]
fn what_is_sent_arrives_in_the_order_of_its_emission() {
    let shop = Shop::open();
    let service = open(&shop);
    service.add_all(orders()).unwrap();
    let worker = worker(&shop, &service);
    assert_eq!(u64::from(run(&shop, &worker)), IN_ALL);
    drop(worker);
    let states = states(&shop, &service, lanes());
    assert_eq!(states, expected());
    let to_ten: Vec<u64> =
        (0..ORDERS).flat_map(|place| [command(10, 1, 500 - place), command(10, 1, 900 - place)]).collect();
    assert_eq!(states[&10][&1], to_ten);
}

/// R126: what several lanes send to one lane at once is executed in the order of the records in which it was sent; with threads
/// that work on all of them.
#[test]
fn what_several_lanes_send_is_executed_in_the_order_of_its_records() {
    let disk = MemoryDisk::new();
    let hub = Hub::builder().durability(Durability::Os).open_in_memory(&disk).unwrap();
    let service = hub.register(Post { deadlines: false }).unwrap();
    let running = hub.run_lanes(&service, Script(post as fn(&mut Log, u64, DateTime<Utc>) -> _), 4).unwrap();
    service.add_all(orders()).unwrap();
    wait_for(|| service.stats().subjects_done == IN_ALL);
    running.stop().unwrap();
    let (mut sent, mut executed) = (BTreeMap::<u64, Vec<u64>>::new(), BTreeMap::<u64, Vec<u64>>::new());
    for event in hub.events(0).unwrap() {
        let EventKind::Reported { reports, .. } = event.unwrap().kind else { continue };
        for report in &reports {
            let key: u64 = report.key.read().unwrap();
            executed.entry(key / PER_LANE).or_default().push(key);
            for next in report.read::<Post>().unwrap() {
                sent.entry(next / PER_LANE).or_default().push(next);
            }
        }
    }
    for lane in [10, 11] {
        assert_eq!(sent[&lane], executed[&lane], "lane {lane}");
    }
    let sources =
        |lane: u64| sent[&lane].windows(2).filter(|two| two[0] % PER_LANE / 1_000 != two[1] % PER_LANE / 1_000);
    assert!(sources(10).count() >= 2, "several lanes sent");
    hub.close().unwrap();
}

/// Either all of an order is there, or nothing.
fn assert_atomic(service: &ServiceHandle<Post>) {
    for order in orders() {
        let sent = post(&mut Log::new(), order, DateTime::default());
        let is_done = service.result(&order).unwrap().is_some();
        let known =
            sent.iter().filter(|sent| service.subject_state(sent).unwrap() != commissary::SubjectState::Unknown);
        assert_eq!(known.count(), if is_done { sent.len() } else { 0 }, "{order}");
    }
}

/// R126: a crash at any step, of the process or of the machine, finds a command's report, its lane's state and what it sent all
/// there or all not; and in the end everything is as without a crash.
#[test]
fn a_crash_at_any_step_changes_nothing_in_the_end() {
    let shop = Shop::open();
    let service = open(&shop);
    service.add_all(orders()).unwrap();
    let worker = worker(&shop, &service);
    let (mut crashes, mut left) = (0, 3);
    for step in 0.. {
        if step % 2 == 0 {
            shop.settle();
        } else if matches!(worker.step().unwrap(), LaneStep::Idle) {
            left -= 1;
            if left == 0 {
                break;
            }
        }
        let crash = if step % 4 < 2 { Crash::Process } else { Crash::Power };
        let after = shop.after(crash);
        let service = open(&after);
        assert_atomic(&service);
        let worker = self::worker(&after, &service);
        run(&after, &worker);
        drop(worker);
        assert_eq!(states(&after, &service, lanes()), expected(), "crash after step {step}");
        crashes += 1;
    }
    assert!(crashes > 30, "{crashes}");
}

/// A hub with threads of its own.
fn live() -> Hub {
    Hub::builder().durability(Durability::Os).open_in_memory(&MemoryDisk::new()).unwrap()
}

fn wait_for(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Closes a live hub, and opens what it left step by step.
fn reopened(hub: Hub, disk: &MemoryDisk) -> Shop {
    hub.close().unwrap();
    drop(hub);
    Shop::on(disk.clone(), ManualClock::default(), Limits::default())
}

/// R126: one, two and eight threads leave the same states, though orders come while they work.
#[test]
fn any_number_of_threads_leaves_the_same_states() {
    for threads in [1, 2, 8] {
        let disk = MemoryDisk::new();
        let hub = Hub::builder().durability(Durability::Os).open_in_memory(&disk).unwrap();
        let service = hub.register(Post { deadlines: false }).unwrap();
        let running = hub.run_lanes(&service, Script(post as fn(&mut Log, u64, DateTime<Utc>) -> _), threads).unwrap();
        for order in orders() {
            let _ = service.add(&order).unwrap();
        }
        wait_for(|| service.stats().subjects_done == IN_ALL);
        let stats = running.stop().unwrap();
        assert_eq!((stats.commands, stats.failures, stats.lost), (IN_ALL, 0, 0));
        drop(service);
        let shop = reopened(hub, &disk);
        let service = open(&shop);
        assert_eq!(states(&shop, &service, lanes()), expected(), "{threads} threads");
        assert_adds_up(&shop.hub);
    }
}

const HOPS: u64 = 60;

/// Lanes 1 to 5 pass each command on, round and round.
fn ring(log: &mut Log, at: u64, _now: DateTime<Utc>) -> Vec<u64> {
    note(log, at);
    let (letter, hop) = (at % PER_LANE / 1_000, at % 1_000);
    if hop == HOPS { vec![] } else { vec![command((hop + 1) % 5 + 1, letter, hop + 1)] }
}

/// R137: lanes that send to each other in a ring, all at once, never block: with one thread or more, at any depth.
#[test]
fn a_ring_of_lanes_never_blocks() {
    for threads in [1, 3] {
        let hub = live();
        let service = hub.register(Post { deadlines: false }).unwrap();
        let running = hub.run_lanes(&service, Script(ring as fn(&mut Log, u64, DateTime<Utc>) -> _), threads).unwrap();
        service.add_all((1..=10).map(|letter| command(1, letter, 0))).unwrap();
        wait_for(|| service.stats().subjects_done == 10 * (HOPS + 1));
        // A thread counts what it did after it handed it in: only at its end is that all.
        assert_eq!(running.stop().unwrap().commands, 10 * (HOPS + 1));
        assert!(service.result(&command(HOPS % 5 + 1, 10, HOPS)).unwrap().is_some());
        assert_adds_up(&hub);
    }
}

/// What a handler that brings its own hub was answered.
#[derive(Default)]
struct Caller {
    hub: OnceLock<(Hub, ServiceHandle<Post>)>,
    threads: Mutex<Option<LaneThreads>>,
    answers: Mutex<Vec<HandlerError>>,
}

/// R137: a handler is given nothing to ask with; one that brings its own hub is refused where it would wait for lanes, and can
/// stop its own threads without waiting for itself.
#[test]
fn a_handler_cannot_wait_for_lanes() {
    let (hub, caller) = (live(), Arc::new(Caller::default()));
    let service = hub.register(Post { deadlines: false }).unwrap();
    assert!(caller.hub.set((hub.clone(), service.clone())).is_ok());
    let asking = {
        let caller = Arc::clone(&caller);
        move |log: &mut Log, at, _| {
            let (hub, service) = caller.hub.get().unwrap();
            let mut answers = caller.answers.lock().unwrap();
            answers.extend(hub.run_lanes(service, Script(post as fn(&mut Log, u64, DateTime<Utc>) -> _), 1).err());
            let options = LaneOptions::default();
            answers.extend(
                hub.handle_lanes(service, Script(post as fn(&mut Log, u64, DateTime<Utc>) -> _), options).err(),
            );
            // Held by the test until the threads are in their place.
            answers.extend(caller.threads.lock().unwrap().take().unwrap().stop().err());
            note(log, at);
            vec![]
        }
    };
    {
        let mut place = caller.threads.lock().unwrap();
        *place = Some(hub.run_lanes(&service, Script(asking), 1).unwrap());
        service.add_all([command(1, 0, 0)]).unwrap();
    }
    wait_for(|| service.stats().subjects_done == 1);
    let answers = caller.answers.lock().unwrap();
    assert!(answers.iter().all(|error| matches!(error, HandlerError::InsideHandler)), "{answers:?}");
    assert_eq!(answers.len(), 3);
    hub.close().unwrap();
}

/// Looks once at a future, as a task that is polled by the handler's thread.
fn poll<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// A projection and a courier of nothing.
struct Nothing;

impl Projection for Nothing {
    type State = u64;

    fn id(&self) -> &'static str {
        "nothing"
    }

    fn fold(&self, _state: &mut u64, _event: &commissary::Event) {}
}

impl Courier for Nothing {
    type Effect = u64;

    fn id(&self) -> &'static str {
        "nothing"
    }

    fn effects(&self, _event: &commissary::Event) -> Vec<(u64, u64)> {
        vec![]
    }

    fn dispatch(&self, _effect: &u64, _key: &IdempotencyKey) -> Result<(), Retry> {
        Ok(())
    }
}

/// What would wait without end for what other lanes may do; what each of them was answered.
fn ask_everything(hub: &Hub, seat: &Seat<Post>) -> Vec<String> {
    let mut tail = hub.follow(0).unwrap();
    // A look takes what is there.
    while tail.try_next().unwrap().is_some() {}
    let mut answers: Vec<String> =
        vec![format!("{:?}", tail.next_within(Duration::MAX)), format!("{:?}", poll(tail.next_async()))];
    answers.push(format!("{:?}", tail.next()));
    answers.push(format!("{:?}", tail.next()));
    let mut projected = hub.project(Nothing, ProjectionOptions::default()).unwrap();
    projected.catch_up().unwrap();
    answers.push(format!("{:?}", projected.run()));
    answers.push(format!("{:?}", poll(projected.run_async())));
    let mut outbox = hub.outbox(Nothing, OutboxOptions::default()).unwrap();
    while outbox.step().unwrap() != Step::Idle {}
    answers.push(format!("{:?}", outbox.run()));
    answers.push(format!("{} {:?}", seat.wait_ready(Duration::MAX), poll(seat.ready())));
    answers
}

/// R137: where a handler that brought its own hub would wait for events or for work, which other lanes may have to bring about,
/// it is refused, or answered at once; a thread that handles no lane is not.
#[test]
fn a_handler_cannot_wait_for_what_lanes_do() {
    let hub = Hub::builder().open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Post { deadlines: false }).unwrap();
    let client = hub.register_client(&Registration::new(9, "nine")).unwrap().client;
    let seat = client.activate(&service).unwrap();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let asking = {
        let (hub, answers) = (hub.clone(), Arc::clone(&answers));
        move |log: &mut Log, at, _| {
            answers.lock().unwrap().push(ask_everything(&hub, &seat));
            note(log, at);
            vec![]
        }
    };
    let threads = hub.run_lanes(&service, Script(asking), 1).unwrap();
    service.add_all([command(1, 0, 0)]).unwrap();
    wait_for(|| service.stats().subjects_done == 1);
    assert_eq!(
        *answers.lock().unwrap(),
        [[
            "Err(InsideHandler)",
            "Ready(Err(InsideHandler))",
            "Some(Err(InsideHandler))",
            "None",
            "Err(Read(InsideHandler))",
            "Ready(Err(Read(InsideHandler)))",
            "Err(Read(InsideHandler))",
            "false Ready(())",
        ]]
    );
    let mut tail = hub.follow(0).unwrap();
    assert!(tail.next_within(Duration::MAX).unwrap().is_some());
    drop(threads);
    hub.close().unwrap();
}

/// R137: what a handler may wait for are the caretakers, who wait for no lane: each such call comes back while its lane's
/// only thread is in it.
#[test]
fn waiting_for_the_caretakers_ends_inside_a_handler() {
    let disk = MemoryDisk::new();
    let hub = Hub::builder().open_in_memory(&disk).unwrap();
    let service = hub.register(Post { deadlines: false }).unwrap();
    let (told, ended) = std::sync::mpsc::channel();
    let asking = {
        let (hub, service) = (hub.clone(), service.clone());
        move |log: &mut Log, at, _| {
            note(log, at);
            let registered = hub.register_client(&Registration::new(9, "nine")).unwrap();
            registered.ticket.wait_durable().unwrap();
            registered.ticket.wait_visible().unwrap();
            // To its own lane and to others.
            service.add_all((1..50).map(|place| command(place % 3 + 1, 5, place))).unwrap();
            service.delete(&[command(2, 5, 1)]).unwrap().wait_visible().unwrap();
            let retracted = service.retract_all(9).unwrap();
            assert_eq!(retracted.results, 0);
            assert!(hub.audit().unwrap().is_balanced() && hub.recount().unwrap().is_balanced());
            let projected = hub.project(Nothing, ProjectionOptions::default()).unwrap();
            drop(projected);
            hub.close().unwrap();
            told.send(()).unwrap();
            vec![]
        }
    };
    let threads = hub.run_lanes(&service, Script(asking), 1).unwrap();
    service.add_all([command(1, 0, 0)]).unwrap();
    ended.recv().unwrap();
    wait_for(|| threads.is_over());
    drop((threads, service, hub));
    // What it did has no effect: the hub took no report any more.
    let shop = Shop::on(disk, ManualClock::default(), Limits::default());
    assert_eq!(open(&shop).stats().subjects_done, 0);
}

/// A service that calls back from where a handler's reports are judged.
struct CallsBack(Arc<Mutex<Option<LaneThreads>>>, Arc<Mutex<Vec<HandlerError>>>);

impl Service for CallsBack {
    type Subject = u64;
    type Report = ();

    fn id(&self) -> &'static str {
        "calls-back"
    }

    fn policy(&self) -> Policy {
        Policy { linger: Duration::ZERO, ..exact() }
    }

    fn judge(&self, _command: &u64, _report: &(), _reporter: Reporter) -> Verdict {
        let threads = self.0.lock().unwrap().take();
        self.1.lock().unwrap().extend(threads.and_then(|threads| threads.stop().err()));
        Verdict::Accept
    }

    fn lane(&self, command: &u64) -> Option<LaneKey> {
        Some(LaneKey::from(*command))
    }
}

/// Does nothing; its last act is to let go of its own threads, if nobody did before.
#[derive(Default)]
struct Keeps(Arc<Mutex<Option<LaneThreads>>>);

impl LaneHandler<CallsBack> for Keeps {
    type State = u64;

    fn handle(&self, _lane: &LaneKey, _state: &mut u64, _command: &u64, _at: DateTime<Utc>) {}
}

impl Drop for Keeps {
    fn drop(&mut self) {
        drop(self.0.lock().unwrap().take());
    }
}

/// R137: whatever of the application runs on a handler's thread is inside it: the service, and what is dropped there.
#[test]
fn a_service_that_calls_back_on_a_handlers_thread_is_refused() {
    let (place, answers) = (Arc::default(), Arc::default());
    let hub = live();
    let service = hub.register(CallsBack(Arc::clone(&place), Arc::clone(&answers))).unwrap();
    {
        let mut place = place.lock().unwrap();
        *place = Some(hub.run_lanes(&service, Keeps::default(), 2).unwrap());
        service.add_all([1, 2]).unwrap();
    }
    wait_for(|| !answers.lock().unwrap().is_empty());
    assert!(matches!(answers.lock().unwrap()[..], [HandlerError::InsideHandler]));
    // Its threads end by themselves, and another worker goes on, which is dropped by one of its own.
    let kept = Arc::default();
    let again = || hub.handle_lanes(&service, Keeps(Arc::clone(&kept)), LaneOptions::default());
    let mut worker = again();
    wait_for(|| {
        worker = again();
        worker.is_ok()
    });
    *kept.lock().unwrap() = Some(worker.unwrap().spawn(2).unwrap());
    wait_for(|| service.stats().subjects_done == 2);
    hub.close().unwrap();
    wait_for(|| kept.lock().unwrap().is_none());
}

/// Refusals are typed, and leave nothing behind.
#[test]
fn what_cannot_work_is_refused() {
    let shop = Shop::open();
    let service = open(&shop);
    let one = worker(&shop, &service);
    let again =
        |options| shop.hub.handle_lanes(&service, Script(post as fn(&mut Log, u64, DateTime<Utc>) -> _), options);
    assert!(matches!(again(LaneOptions::default()), Err(HandlerError::InUse { service }) if service == "post"));
    assert!(matches!(one.spawn(1), Err(HandlerError::Manual)));
    let bad = LaneOptions { client: Some(Registration::new(7, "not a name")), ..LaneOptions::default() };
    assert!(matches!(again(bad), Err(HandlerError::Register(_))));
    let named = LaneOptions { client: Some(Registration::new(7, "seven")), ..LaneOptions::default() };
    let worker = again(named).unwrap();
    service.add_all([command(20, 0, 0)]).unwrap();
    assert_eq!(run(&shop, &worker), 1);
    assert_eq!(shop.hub.client_stats(7).unwrap().work.subjects_reported, 1);
    service.add_all([command(20, 0, 1)]).unwrap();
    shop.settle();
    let _ = service.suspend(7).unwrap();
    assert!(matches!(worker.step(), Err(HandlerError::Claim(ClaimError::Suspended))));
    shop.hub.close().unwrap();
    assert!(matches!(worker.step(), Err(HandlerError::Claim(ClaimError::Hub(_)))));

    let hub = live();
    let service = hub.register(Post { deadlines: false }).unwrap();
    let none = hub.run_lanes(&service, Script(post as fn(&mut Log, u64, DateTime<Utc>) -> _), 0);
    assert!(matches!(none, Err(HandlerError::NoThreads)));
    let threads = hub.run_lanes(&service, Script(post as fn(&mut Log, u64, DateTime<Utc>) -> _), 2).unwrap();
    hub.close().unwrap();
    wait_for(|| threads.is_over());
}

/// What a handler did, for a test to see.
#[derive(Default)]
struct Seen {
    calls: AtomicUsize,
    is_armed: AtomicBool,
}

/// A worker whose handler breaks at place 13 of lane 1 while it is armed, in the middle of a change of its state.
fn breaking(shop: &Shop, service: &ServiceHandle<Post>) -> (LaneWorker<Post, impl LaneHandler<Post>>, Arc<Seen>) {
    let seen = Arc::new(Seen { is_armed: true.into(), ..Seen::default() });
    let handler = {
        let seen = Arc::clone(&seen);
        move |log: &mut Log, at, _| {
            seen.calls.fetch_add(1, Ordering::SeqCst);
            note(log, at);
            let breaks = at == command(1, 0, 13) && seen.is_armed.load(Ordering::SeqCst);
            assert!(!breaks, "place 13");
            vec![]
        }
    };
    (shop.hub.handle_lanes(service, Script(handler), LaneOptions::default()).unwrap(), seen)
}

fn failed(lane: u64, commands: u32, tries: u32, after: Option<u64>) -> LaneStep {
    let lane = Some(LaneKey::from(lane));
    LaneStep::Failed { lane, commands, tries, after: after.map(Duration::from_secs) }
}

/// Steps until something was done.
fn next<H: LaneHandler<Post>>(shop: &Shop, worker: &LaneWorker<Post, H>) -> LaneStep {
    shop.settle();
    let step = worker.step().unwrap();
    shop.tick();
    step
}

/// A panic is contained: what came before it is done, its lane waits and no other one does, it is tried again at its times and
/// not at others, and then not any more until somebody says so.
#[test]
fn a_command_that_breaks_the_handler_holds_up_its_lane_alone() {
    let shop = Shop::open();
    let service = open(&shop);
    service.add_all((11..17).map(|place| command(1, 0, place))).unwrap();
    let (worker, seen) = breaking(&shop, &service);
    let calls = || seen.calls.swap(0, Ordering::SeqCst);
    assert_eq!(next(&shop, &worker), failed(1, 2, 1, Some(1)));
    assert_eq!(calls(), 3 + 2, "once more up to the failure: the state may be half changed");
    assert_eq!(service.stats().subjects_done, 2);
    service.add_all([command(2, 0, 0)]).unwrap();
    assert_eq!(next(&shop, &worker), LaneStep::Handled { commands: 1 });
    assert!(matches!(next(&shop, &worker), LaneStep::Waiting(left) if left < Duration::from_secs(1)));
    assert_eq!(calls(), 1);
    for (wait, tries, after) in [(1, 2, Some(2)), (2, 3, None)] {
        shop.pass(Duration::from_secs(wait));
        assert!(matches!(worker.step().unwrap(), LaneStep::Waiting(_) | LaneStep::Idle), "it gave the lease back");
        assert_eq!(next(&shop, &worker), failed(1, 0, tries, after));
        assert_eq!(calls(), 1);
    }
    let told = worker.failed();
    assert_eq!((told[0].key::<u64>(), told[0].tries, told[0].is_set_aside), (Some(command(1, 0, 13)), 3, true));
    assert_eq!((told.len(), told[0].why.as_str()), (1, "the handler panicked: place 13"));
    let stats = worker.stats();
    assert_eq!((stats.failures, stats.failing, stats.set_aside, stats.commands), (3, 0, 1, 3));
    // For days: its lease never ends by itself, and nothing is tried.
    for _ in 0..50 {
        shop.pass(Duration::from_secs(3_600));
        let _ = worker.step().unwrap();
        shop.settle();
        let _ = worker.step().unwrap();
    }
    assert_eq!((calls(), worker.stats().set_aside), (0, 1));
    assert_eq!(service.stats().work.subjects_reported, 3);
    assert!(!worker.retry(&LaneKey::from(2_u64)) && worker.retry(&LaneKey::from(1_u64)));
    let _ = worker.step().unwrap();
    assert_eq!(next(&shop, &worker), failed(1, 0, 1, Some(1)), "all tries anew");
    seen.is_armed.store(false, Ordering::SeqCst);
    shop.pass(Duration::from_secs(1));
    assert_eq!(run(&shop, &worker), 4);
    assert_eq!((worker.failed(), worker.stats().set_aside), (vec![], 0));
    drop(worker);
    let places = (11..17).map(|place| command(1, 0, place)).collect();
    assert_eq!(states(&shop, &service, [1].into_iter()), BTreeMap::from([(1, Log::from([(0, places)]))]));
}

/// A command that was set aside stays so however long its lane cannot be had, while the service is paused or the worker's
/// client suspended; and is forgotten when it is gone.
#[test]
fn a_command_stays_set_aside_while_its_lane_cannot_be_had() {
    let shop = Shop::open();
    let service = open(&shop);
    service.add_all((13..16).map(|place| command(1, 0, place))).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let handler = move |log: &mut Log, at: u64, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        assert!(at % 1_000 != 13, "place 13");
        note(log, at);
        vec![]
    };
    let options = LaneOptions { client: Some(Registration::new(40, "lanes")), tries_max: 1, ..LaneOptions::default() };
    let worker = shop.hub.handle_lanes(&service, Script(handler), options).unwrap();
    assert_eq!(next(&shop, &worker), failed(1, 0, 1, None));
    let hours = || {
        for _ in 0..50 {
            shop.pass(Duration::from_secs(1_800));
            let _ = worker.step();
        }
    };
    let _ = service.pause().unwrap();
    hours();
    assert_eq!(worker.stats().set_aside, 1, "while nothing is handed out");
    let _ = service.activate().unwrap();
    hours();
    let _ = service.suspend(40).unwrap();
    hours();
    let _ = service.reinstate(40).unwrap();
    hours();
    assert_eq!((worker.stats().set_aside, calls.load(Ordering::SeqCst)), (1, 1));
    let _ = service.pause().unwrap();
    let _ = service.delete(&[command(1, 0, 13)]).unwrap();
    hours();
    assert_eq!(worker.failed(), [], "it is gone");
    let _ = service.activate().unwrap();
    assert_eq!(run(&shop, &worker), 2);
}

/// A command that was set aside and is deleted holds up its lane no longer than half a lease; a worker that ends gives
/// everything back.
#[test]
fn a_broken_command_can_be_deleted() {
    let shop = Shop::open();
    let service = open(&shop);
    service.add_all((13..16).map(|place| command(1, 0, place))).unwrap();
    let options = LaneOptions { tries_max: 1, ..LaneOptions::default() };
    let handler = |log: &mut Log, at: u64, _| {
        assert!(at % 1_000 != 13, "place 13");
        note(log, at);
        vec![]
    };
    let worker = shop.hub.handle_lanes(&service, Script(handler), options).unwrap();
    assert_eq!(next(&shop, &worker), failed(1, 0, 1, None));
    let _ = service.delete(&[command(1, 0, 13)]).unwrap();
    shop.pass(Duration::from_secs(3_600));
    assert_eq!(run(&shop, &worker), 2);
    assert_eq!(worker.failed(), []);
    service.add_all([command(2, 0, 13)]).unwrap();
    assert_eq!(next(&shop, &worker), failed(2, 0, 1, None));
    drop(worker);
    shop.settle();
    assert_eq!(claim_one(&shop.seat(&service, 50)).owed().collect::<Vec<_>>(), [command(2, 0, 13)]);
}

/// A report that the service rejects, and a state that is too large, fail as a panic does: what comes before them is done.
#[test]
fn what_cannot_be_stored_fails_alone() {
    let shop = Shop::open();
    let service = open(&shop);
    service.add_all((11..17).flat_map(|place| [command(1, 0, place), command(2, 0, place)])).unwrap();
    let handler = |log: &mut Log, at: u64, _| {
        note(log, at);
        if at == command(2, 0, 13) {
            log.insert(99, vec![u64::MAX; 10_000]);
        }
        if at == command(1, 0, 13) { vec![0] } else { vec![] }
    };
    let options = LaneOptions { tries_max: 1, ..LaneOptions::default() };
    let worker = shop.hub.handle_lanes(&service, Script(handler), options).unwrap();
    for _ in 0..8 {
        let _ = next(&shop, &worker);
    }
    let mut told = worker.failed();
    told.sort_by(|one, other| one.lane.cmp(&other.lane));
    let keys: Vec<_> = told.iter().map(|failed| failed.key::<u64>().unwrap()).collect();
    assert_eq!(keys, [command(1, 0, 13), command(2, 0, 13)]);
    assert_eq!(told[0].why, "rejected: as asked for");
    assert!(told[1].why.contains("lane_state_bytes"), "{}", told[1].why);
    assert_eq!(service.stats().subjects_done, 4);
    assert_adds_up(&shop.hub);
}

/// R130: no command is handed to a handler after its deadline, and one whose deadline passes before its report is taken has no
/// effect.
#[test]
fn expired_commands_are_not_executed() {
    let shop = Shop::open();
    let service = shop.hub.register(Post { deadlines: true }).unwrap();
    shop.clock.set_wall_ms(0);
    let (clock, executed) = (shop.clock.clone(), Arc::new(Mutex::new(Vec::new())));
    let handler = {
        let executed = Arc::clone(&executed);
        move |log: &mut Log, at: u64, now: DateTime<Utc>| {
            executed.lock().unwrap().push((at, now.timestamp() / 60));
            // It takes its time, once.
            if at == command(1, 0, 2) && now.timestamp() < 300 {
                clock.advance(Duration::from_secs(300));
            }
            note(log, at);
            vec![]
        }
    };
    // One for the first minute, two for the fourth around one without; then one for the ninth.
    let all = [command(1, 1, 0), command(1, 4, 1), command(1, 0, 2), command(1, 4, 3), command(1, 9, 4)];
    service.add_all(all).unwrap();
    shop.pass(Duration::from_secs(60));
    let worker = shop.hub.handle_lanes(&service, Script(handler), LaneOptions::default()).unwrap();
    assert_eq!(run(&shop, &worker), 2);
    let handed: Vec<u64> = executed.lock().unwrap().iter().map(|(command, _)| *command).collect();
    assert_eq!(handed, [command(1, 4, 1), command(1, 0, 2), command(1, 0, 2), command(1, 9, 4)]);
    for (at, minute) in executed.lock().unwrap().iter() {
        let deadline = at % PER_LANE / 1_000;
        assert!(deadline == 0 || minute.unsigned_abs() < deadline, "{at} at {minute}");
    }
    assert_eq!((worker.stats().expired, service.stats().expired), (3, 3));
    drop(worker);
    let log = Log::from([(0, vec![command(1, 0, 2)]), (9, vec![command(1, 9, 4)])]);
    assert_eq!(states(&shop, &service, [1].into_iter()), BTreeMap::from([(1, log)]));
}

/// A handler for subjects of no lane as well.
struct Both;

impl LaneHandler<Post> for Both {
    type State = Log;

    fn handle(&self, _lane: &LaneKey, log: &mut Log, command: &u64, _at: DateTime<Utc>) -> Vec<u64> {
        note(log, *command);
        vec![]
    }

    fn handle_alone(&self, subject: &u64, _at: DateTime<Utc>) -> Option<Vec<u64>> {
        assert_ne!(*subject, 13, "thirteen");
        Some(vec![command(1, 0, *subject)])
    }
}

/// Subjects of no lane are the handler's if it says so; if not, they are told of, and hold up no lane.
#[test]
fn subjects_of_no_lane_are_handled_by_whoever_wants_to() {
    let shop = Shop::open();
    let service = open(&shop);
    service.add_all([1, 2, 13, 3]).unwrap();
    let refusing = worker(&shop, &service);
    assert!(matches!(next(&shop, &refusing), LaneStep::Failed { lane: None, commands: 0, tries: 1, after: Some(_) }));
    service.add_all([command(20, 0, 0)]).unwrap();
    assert_eq!(next(&shop, &refusing), LaneStep::Handled { commands: 1 });
    assert_eq!(refusing.failed()[0].why, "of no lane, and not this handler's");
    drop(refusing);
    let worker = shop.hub.handle_lanes(&service, Both, LaneOptions::default()).unwrap();
    assert!(matches!(next(&shop, &worker), LaneStep::Failed { lane: None, commands: 3, tries: 1, after: Some(_) }));
    assert_eq!(run(&shop, &worker), 3, "what they sent");
    assert_eq!(worker.failed()[0].key::<u64>(), Some(13));
}

/// Counts its calls, and executes no subject of no lane but the first.
#[derive(Default)]
struct Reluctant(Arc<AtomicUsize>);

impl LaneHandler<Post> for Reluctant {
    type State = Log;

    fn handle(&self, _lane: &LaneKey, _log: &mut Log, _command: &u64, _at: DateTime<Utc>) -> Vec<u64> {
        vec![]
    }

    fn handle_alone(&self, subject: &u64, _at: DateTime<Utc>) -> Option<Vec<u64>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        (*subject == 1).then(Vec::new)
    }
}

/// Subjects of no lane that cannot be executed are set aside as commands are, each after its tries, and hold up nothing else.
#[test]
fn subjects_of_no_lane_are_set_aside_for_good() {
    let shop = Shop::open();
    let service = open(&shop);
    service.add_all([13, 14]).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let options = LaneOptions { tries_max: 2, ..LaneOptions::default() };
    let worker = shop.hub.handle_lanes(&service, Reluctant(Arc::clone(&calls)), options).unwrap();
    let hours = || {
        for _ in 0..40 {
            shop.pass(Duration::from_secs(1_800));
            let _ = worker.step().unwrap();
        }
    };
    hours();
    let failed =
        || worker.failed().iter().map(|failed| (failed.key::<u64>().unwrap(), failed.tries)).collect::<Vec<_>>();
    assert_eq!((worker.stats().set_aside, calls.load(Ordering::SeqCst)), (2, 4), "{:?}", worker.failed());
    service.add_all([1]).unwrap();
    hours();
    assert_eq!((service.stats().subjects_done, calls.load(Ordering::SeqCst)), (1, 5));
    assert!(failed().contains(&(13, 2)) && failed().contains(&(14, 2)));
    let _ = service.delete(&[13, 14]).unwrap();
    hours();
    assert_eq!((worker.failed(), calls.load(Ordering::SeqCst)), (vec![], 5));
    assert_adds_up(&shop.hub);
}

/// A handler whose lease was taken from it in the middle has no effect; whoever comes next begins where it did.
#[test]
fn a_lost_lease_has_no_effect() {
    let shop = Shop::open();
    let service = open(&shop);
    service.add_all((0..3).map(|place| command(1, 0, place))).unwrap();
    let (clock, hub, is_first) = (shop.clock.clone(), shop.hub.clone(), AtomicBool::new(true));
    let handler = move |log: &mut Log, at: u64, _| {
        if at == command(1, 0, 1) && is_first.swap(false, Ordering::SeqCst) {
            // Longer than a lease and its grace.
            clock.advance(Duration::from_secs(2 * 3_600));
            hub.tick();
            clock.advance(Duration::from_secs(15 * 60));
            hub.tick();
        }
        note(log, at);
        vec![]
    };
    let worker = shop.hub.handle_lanes(&service, Script(handler), LaneOptions::default()).unwrap();
    assert_eq!(next(&shop, &worker), LaneStep::Lost);
    assert_eq!((service.stats().subjects_done, worker.stats().lost), (0, 1));
    assert_eq!(run(&shop, &worker), 3);
    drop(worker);
    let places = (0..3).map(|place| command(1, 0, place)).collect();
    assert_eq!(states(&shop, &service, [1].into_iter()), BTreeMap::from([(1, Log::from([(0, places)]))]));
}

/// A handler that takes longer than a lease, but no command of it longer than half of one, keeps its lease.
#[test]
fn a_slow_handler_renews_its_lease() {
    let shop = Shop::open();
    let service = open(&shop);
    service.add_all((0..4).map(|place| command(1, 0, place))).unwrap();
    let (clock, hub) = (shop.clock.clone(), shop.hub.clone());
    let handler = move |log: &mut Log, at: u64, _| {
        clock.advance(Duration::from_secs(3_600));
        hub.tick();
        note(log, at);
        vec![]
    };
    let worker = shop.hub.handle_lanes(&service, Script(handler), LaneOptions::default()).unwrap();
    assert_eq!(next(&shop, &worker), LaneStep::Handled { commands: 4 });
}

/// R126: a crash in the middle of a handler, whose lease is journaled already: the next worker gives that back, and the lane
/// goes on at once with the state and the order that it had.
#[test]
fn a_crash_inside_a_handler_changes_nothing() {
    let shop = Shop::open();
    let service = open(&shop);
    service.add_all(orders()).unwrap();
    let images = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let (images, hub, disk) = (Arc::clone(&images), shop.hub.clone(), shop.disk.clone());
        move |log: &mut Log, at: u64, now| {
            hub.tick();
            images.lock().unwrap().push(disk.after(Crash::Process));
            post(log, at, now)
        }
    };
    let first = shop.hub.handle_lanes(&service, Script(handler), LaneOptions::default()).unwrap();
    run(&shop, &first);
    drop(first);
    let images = std::mem::take(&mut *images.lock().unwrap());
    assert_eq!(images.len() as u64, IN_ALL);
    for disk in images.into_iter().step_by(5) {
        let after = Shop::on(disk, shop.clock.clone(), Limits::default());
        let service = open(&after);
        assert_eq!(service.stats().work.buckets_held, 1);
        let worker = worker(&after, &service);
        assert_eq!(service.stats().work.buckets_held, 0);
        run(&after, &worker);
        drop(worker);
        assert_eq!(states(&after, &service, lanes()), expected());
    }
}

/// A full queue is no failure: the bucket is given back, and handled when there is room.
#[test]
fn a_full_queue_delays_and_loses_nothing() {
    let shop = Shop::open_with(common::unranked());
    let service = open(&shop);
    service.add_all((0..3).map(|place| command(20, 0, place))).unwrap();
    let (filler, is_first) = (service.clone(), AtomicBool::new(true));
    let handler = move |log: &mut Log, at: u64, _| {
        if is_first.swap(false, Ordering::SeqCst) {
            (0..999).find(|place| filler.add(&command(21, 1, *place)).is_err()).unwrap();
        }
        note(log, at);
        vec![]
    };
    let worker = shop.hub.handle_lanes(&service, Script(handler), LaneOptions::default()).unwrap();
    assert!(matches!(next(&shop, &worker), LaneStep::Waiting(_)));
    assert_eq!((service.stats().subjects_done, worker.stats().failures), (0, 0));
    let executed = run(&shop, &worker);
    assert_eq!(u64::from(executed), service.stats().subjects_known);
    drop(worker);
    let places = (0..3).map(|place| command(20, 0, place)).collect();
    assert_eq!(states(&shop, &service, [20].into_iter()), BTreeMap::from([(20, Log::from([(0, places)]))]));
}

/// A worker that had nothing to do for so long that its seat was deactivated activates it again.
#[test]
fn a_worker_survives_idleness() {
    let shop = Shop::open();
    let service = open(&shop);
    let worker = worker(&shop, &service);
    for _ in 0..3 {
        shop.pass(Duration::from_secs(25 * 3_600));
    }
    assert_eq!(service.stats().active_seats, 0);
    service.add_all([command(20, 0, 0)]).unwrap();
    assert_eq!(run(&shop, &worker), 1);
}

/// Threads that wait wake for what is due: a command that fails twice is executed by the third try, and its lane goes on, while
/// nothing else happens.
#[test]
fn threads_try_again_by_themselves() {
    let hub = live();
    let service = hub.register(Post { deadlines: false }).unwrap();
    let tries = AtomicUsize::new(0);
    let handler = move |log: &mut Log, at: u64, _| {
        assert!(at != command(20, 0, 1) || tries.fetch_add(1, Ordering::SeqCst) >= 2, "not yet");
        note(log, at);
        vec![]
    };
    let options = LaneOptions { backoff_first: Duration::from_millis(3), ..LaneOptions::default() };
    let threads = hub.handle_lanes(&service, Script(handler), options).unwrap().spawn(3).unwrap();
    service.add_all((0..6).map(|place| command(20, 0, place))).unwrap();
    wait_for(|| service.stats().subjects_done == 6);
    let stats = threads.stop().unwrap();
    assert_eq!((stats.commands, stats.failures, stats.failing, stats.set_aside), (6, 2, 0, 0));
}

/// One of the calls on the hot lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Call {
    Stock(u32),
    Order(u32),
    Look,
}

/// What became of it: the units that are left, or that there were too few.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    Left(u32),
    TooFew,
}

fn serve(left: &mut u32, call: Call) -> Answer {
    match call {
        Call::Stock(n) => *left += n,
        Call::Order(n) if n > *left => return Answer::TooFew,
        Call::Order(n) => *left -= n,
        Call::Look => {}
    }
    Answer::Left(*left)
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Request {
    number: u64,
    call: Call,
}

impl Subject for Request {
    type Key = u64;

    fn key(&self) -> u64 {
        self.number
    }
}

struct Fridge;

impl Service for Fridge {
    type Subject = Request;
    type Report = Answer;

    fn id(&self) -> &'static str {
        "fridge"
    }

    fn policy(&self) -> Policy {
        Policy { linger: Duration::ZERO, ..Policy::default() }
    }

    fn judge(&self, _request: &Request, _answer: &Answer, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }

    fn lane(&self, _request: &Request) -> Option<LaneKey> {
        Some(LaneKey::from("the only one"))
    }
}

struct Serve;

impl LaneHandler<Fridge> for Serve {
    type State = u32;

    fn handle(&self, _lane: &LaneKey, left: &mut u32, request: &Request, _at: DateTime<Utc>) -> Answer {
        serve(left, request.call)
    }
}

impl Model for Fridge {
    type State = u32;
    type Call = Call;
    type Answer = Answer;

    fn start(&self) -> u32 {
        0
    }

    fn step(&self, left: &u32, call: &Call, answer: &Answer) -> Option<u32> {
        let mut left = *left;
        (serve(&mut left, *call) == *answer).then_some(left)
    }

    fn is_pure(&self, call: &Call, answer: &Answer) -> bool {
        *call == Call::Look || *answer == Answer::TooFew
    }
}

/// What eight threads did to one lane, handled meanwhile.
fn hot_lane(hub: &Hub, service: &ServiceHandle<Fridge>) -> Vec<Event<Call, Answer>> {
    const CALLERS: u64 = 8;
    const CALLS: u64 = 25;
    let recorder = Recorder::default();
    let history = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let recorder = &recorder;
                scope.spawn(move || {
                    let one = |nth: u64| {
                        let number = caller * CALLS + nth;
                        let call = match (caller + nth) % 4 {
                            0 => Call::Stock(3),
                            1 => Call::Look,
                            _ => Call::Order(1 + u32::try_from(number % 3).unwrap()),
                        };
                        recorder.record(call, |call| {
                            let _ = service.add(&Request { number, call: *call }).unwrap();
                            let mut answer = None;
                            wait_for(|| {
                                answer = service.result(&number).unwrap().map(|found| found.report);
                                answer.is_some()
                            });
                            answer.unwrap()
                        })
                    };
                    (0..CALLS).map(one).collect::<Vec<_>>()
                })
            })
            .collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(hub.health().is_ok());
    history
}

/// R121: calls of many threads on one hot lane, handled by four, are as if made one after the other: nothing is sold twice, and
/// whoever is told how much is left is told the truth. A history with one answer changed is found out.
#[test]
fn a_hot_lane_is_linearizable() {
    let hub = live();
    let service = hub.register(Fridge).unwrap();
    let threads = hub.run_lanes(&service, Serve, 4).unwrap();
    let mut history = hot_lane(&hub, &service);
    assert_eq!(threads.stop().unwrap().commands, history.len() as u64);
    let overlap =
        history.iter().filter(|one| history.iter().any(|other| other.began < one.began && one.began < other.ended));
    assert!(overlap.count() > history.len() / 2, "they ran at once");
    if let Err(stuck) = linear::check(&Fridge, &mut history) {
        panic!("{stuck}");
    }
    for event in history.iter_mut().rev().take(1) {
        event.answer = Answer::Left(1_000);
    }
    assert!(linear::check(&Fridge, &mut history).is_err());
}

/// What is left, as far as a reader of the events knows.
struct Left;

impl Projection for Left {
    type State = u32;

    fn id(&self) -> &'static str {
        "left"
    }

    fn fold(&self, left: &mut u32, event: &commissary::Event) {
        let EventKind::Reported { reports, .. } = &event.kind else { return };
        for report in reports {
            if let Some(Answer::Left(now)) = report.read::<Fridge>() {
                *left = now;
            }
        }
    }
}

/// R124: a view that is out of date says how old it is, and what is ordered on it is decided in the lane alone.
#[test]
fn an_order_on_a_stale_view_is_decided_in_the_lane() {
    let shop = Shop::open();
    let service = shop.hub.register(Fridge).unwrap();
    let worker = shop.hub.handle_lanes(&service, Serve, LaneOptions::default()).unwrap();
    let ask = |number, call| {
        let _ = service.add(&Request { number, call }).unwrap();
        shop.settle();
        assert_eq!(worker.step().unwrap(), LaneStep::Handled { commands: 1 });
        shop.tick();
        service.result(&number).unwrap().unwrap().report
    };
    let mut left = shop.hub.project(Left, ProjectionOptions::default()).unwrap();
    assert_eq!(ask(1, Call::Stock(5)), Answer::Left(5));
    left.catch_up().unwrap();
    let fresh = left.view();
    assert_eq!((*fresh.state, fresh.age), (5, Duration::ZERO));
    assert_eq!(ask(2, Call::Order(4)), Answer::Left(1));
    shop.pass(Duration::from_secs(3));
    let stale = left.view();
    assert_eq!((*stale.state, stale.position), (5, fresh.position));
    assert!(stale.age > Duration::from_secs(3), "{:?}", stale.age);
    // Five are on the list.
    assert_eq!(ask(3, Call::Order(2)), Answer::TooFew);
    assert_eq!(ask(4, Call::Order(1)), Answer::Left(0));
    left.catch_up().unwrap();
    assert_eq!((*left.view().state, left.view().age), (0, Duration::ZERO));
    assert!(left.view().position > stale.position);
}

/// R121: so they are when workers of the hub's clients, who claim, give back and die, share the lane with the handlers.
#[test]
fn a_hot_lane_that_many_share_is_linearizable() {
    let hub = live();
    let service = hub.register(Fridge).unwrap();
    let threads = hub.run_lanes(&service, Serve, 2).unwrap();
    let is_over = AtomicBool::new(false);
    let seats: Vec<Seat<Fridge>> = (1..=2)
        .map(|id| {
            hub.register_client(&Registration::new(id, format!("w{id}"))).unwrap().client.activate(&service).unwrap()
        })
        .collect();
    let mut history = std::thread::scope(|scope| {
        for seat in &seats {
            scope.spawn(|| {
                for turn in 0.. {
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                    let Claim::Leased(grant) = seat.claim(Ask::one()).unwrap() else {
                        let _ = seat.wait_ready(Duration::from_millis(5));
                        continue;
                    };
                    for lease in grant {
                        let mut left: u32 = lease.lane().unwrap().state().unwrap();
                        let most = [1, 0, 63][turn % 3];
                        let requests: Vec<Request> = lease.owed().take(most).collect();
                        let reports = requests.iter().map(|request| (request.number, serve(&mut left, request.call)));
                        let reports: Vec<_> = reports.collect();
                        if !reports.is_empty() {
                            assert_eq!(lease.submit_lane(reports, &left).unwrap().accepted(), requests.len());
                        }
                    }
                }
            });
        }
        let history = hot_lane(&hub, &service);
        is_over.store(true, Ordering::SeqCst);
        history
    });
    drop(threads);
    if let Err(stuck) = linear::check(&Fridge, &mut history) {
        panic!("{stuck}");
    }
    assert_adds_up(&hub);
}
