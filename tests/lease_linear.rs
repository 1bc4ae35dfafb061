//! Histories of real threads on a real hub: the calls on each lease are linearizable against the plain rules of one bucket, and
//! long logs keep the rules of leases. Checker and rules are themselves checked.
//!
//! `LEASE_HISTORIES` and `LEASE_OPERATIONS` set how many short histories are recorded and how many calls the long log has:
//! `LEASE_HISTORIES=20000 LEASE_OPERATIONS=10000000 cargo test --release --test lease_linear -- --nocapture`.

#[path = "support/linear.rs"]
mod linear;
#[path = "support/one_bucket.rs"]
mod one_bucket;
#[expect(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use commissary::{
    Ask, Claim, Clock, Hub, LeaseError, LeaseToken, ManualClock, MemoryDisk, Outcome, Policy, Seat, Submitted,
};
use linear::{Event, Recorder, Stuck, check};
use one_bucket::{Answer, By, Call, OneBucket, Phase};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{Doubling, Rig, ms, policy, right};

const TERM: u64 = 1_000;
const GRACE: u64 = 300;
const SEATS: usize = 2;
/// Threads of a client, which meet on its leases.
const SESSIONS: usize = 2;

/// What a call did.
#[derive(Debug, Clone)]
enum Did {
    /// With the clock's reading before.
    Claimed {
        token: LeaseToken,
        subjects: Vec<u64>,
        clock: u64,
    },
    /// What became of each report, and, if the lease was to end with them, how many were put back.
    Reported {
        token: LeaseToken,
        outcomes: Vec<(u64, Outcome)>,
        put_back: Option<u32>,
    },
    Renewed {
        token: LeaseToken,
        answer: Answer,
        clock: u64,
    },
    /// How many were put back; `None` if it was over.
    Released {
        token: LeaseToken,
        left: Option<u32>,
    },
    /// What was owed, and whether it was dead; `None` if it was over.
    Saw {
        token: LeaseToken,
        view: Option<(Vec<u64>, bool)>,
    },
    Ticked {
        clock: u64,
    },
    Nothing,
}

impl Did {
    fn token(&self) -> Option<LeaseToken> {
        match self {
            Self::Claimed { token, .. }
            | Self::Reported { token, .. }
            | Self::Renewed { token, .. }
            | Self::Released { token, .. }
            | Self::Saw { token, .. } => Some(*token),
            Self::Ticked { .. } | Self::Nothing => None,
        }
    }
}

/// A call, and when it was made.
type Made = Event<u32, Did>;

fn clock_of(rig: &Rig) -> u64 {
    u64::try_from(rig.clock.monotonic().as_millis()).unwrap()
}

/// A lease that the sessions of one client know of.
#[derive(Debug, Clone)]
struct Known {
    token: LeaseToken,
    subjects: Vec<u64>,
}

/// A clock that gives way to other threads whenever it is read, which is in the middle of a call.
#[derive(Debug)]
struct Giving(ManualClock);

impl Clock for Giving {
    fn monotonic(&self) -> Duration {
        thread::yield_now();
        self.0.monotonic()
    }

    fn wall_ms(&self) -> i64 {
        self.0.wall_ms()
    }
}

/// A hub, its clients, and what they know.
struct World {
    rig: Rig,
    recorder: Recorder,
    seats: Vec<Seat<Doubling>>,
    boards: Vec<Mutex<Vec<Known>>>,
    /// Subjects taken in so far.
    entered: AtomicU64,
}

fn rules() -> Policy {
    policy(|policy| {
        policy.bucket_subjects = 2;
        (policy.lease, policy.grace) = (ms(TERM), ms(GRACE));
        policy.lease_total = 1_000_000;
        policy.linger = Duration::ZERO;
        policy.watch.interval = Duration::ZERO;
    })
}

impl World {
    fn new() -> Self {
        let (clock, disk) = (ManualClock::default(), MemoryDisk::new());
        let builder = Hub::builder().seed(1).manual().clock(Giving(clock.clone()));
        let hub = builder.open_in_memory(&disk).unwrap();
        let service = hub.register(Doubling(rules())).unwrap();
        hub.tick();
        let rig = Rig { hub, service, clock, disk };
        let seats = (1..=SEATS as u64).map(|id| rig.seat(id)).collect();
        let boards = (0..SEATS).map(|_| Mutex::default()).collect();
        let world = Self { rig, recorder: Recorder::default(), seats, boards, entered: AtomicU64::new(0) };
        world.enter(8);
        world.rig.hub.tick();
        world
    }

    fn enter(&self, n: u64) {
        let from = self.entered.fetch_add(n, Ordering::Relaxed);
        let _ = self.rig.service.add_all(from..from + n).unwrap();
    }

    /// One random call of a session of the client.
    fn call(&self, client: usize, rng: &mut ChaCha8Rng) -> Made {
        let known = {
            let board = self.boards[client].lock().unwrap();
            (!board.is_empty()).then(|| board[rng.random_range(0..board.len())].clone())
        };
        let what = rng.random_range(0..16);
        let act = |client: &u32| {
            let seat = &self.seats[*client as usize];
            let Some(Known { token, subjects }) = known.filter(|_| what >= 4) else {
                return self.claim(*client as usize);
            };
            match what {
                4..=7 => {
                    let key = subjects[what % subjects.len()];
                    Self::reported(token, &[key], seat.report(&token, right(&[key])), false)
                }
                8 | 9 => Self::reported(token, &subjects, seat.submit(&token, right(&subjects)), true),
                10..=12 => self.renew(seat, token),
                13 => Did::Released { token, left: released(seat.release(&token)) },
                _ => {
                    let views = seat.leases().unwrap();
                    let view = views.into_iter().find(|view| view.token == token);
                    Did::Saw { token, view: view.map(|view| (view.subjects, view.dead)) }
                }
            }
        };
        self.recorder.record(u32::try_from(client).unwrap(), act)
    }

    fn claim(&self, client: usize) -> Did {
        let clock = clock_of(&self.rig);
        let Claim::Leased(mut grant) = self.seats[client].claim(Ask::one()).unwrap() else { return Did::Nothing };
        let lease = grant.pop().unwrap();
        let known = Known { subjects: lease.subjects().collect(), token: lease.into_token() };
        let mut board = self.boards[client].lock().unwrap();
        if board.len() == 3 {
            board.remove(0);
        }
        board.push(known.clone());
        Did::Claimed { token: known.token, subjects: known.subjects, clock }
    }

    fn renew(&self, seat: &Seat<Doubling>, token: LeaseToken) -> Did {
        let clock = clock_of(&self.rig);
        let answer = match seat.renew(&token) {
            Ok(_) => Answer::Renewed,
            Err(LeaseError::Dead) => Answer::IsDead,
            Err(LeaseError::Over) => Answer::IsOver,
            Err(error) => panic!("{error}"),
        };
        Did::Renewed { token, answer, clock }
    }

    fn reported(token: LeaseToken, keys: &[u64], made: Result<Submitted, LeaseError>, last: bool) -> Did {
        match made {
            Ok(made) => {
                let outcomes = keys.iter().copied().zip(made.outcomes).collect();
                Did::Reported { token, outcomes, put_back: last.then_some(made.put_back) }
            }
            Err(LeaseError::Over) => Did::Saw { token, view: None },
            Err(error) => panic!("{error}"),
        }
    }

    /// Moves the clock on, and does the caretakers' work.
    fn tick(&self, rng: &mut ChaCha8Rng) -> Made {
        self.rig.clock.advance(ms(rng.random_range(0..TERM / 2)));
        self.enter(4);
        let clock = clock_of(&self.rig);
        self.recorder.record(0, |_| {
            self.rig.hub.tick();
            Did::Ticked { clock }
        })
    }
}

fn released(answer: Result<u32, LeaseError>) -> Option<u32> {
    match answer {
        Ok(left) => Some(left),
        Err(LeaseError::Over) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Every session makes `each` calls beside a steward. With `in_step` they begin each call together, so that calls overlap.
fn record(seed: u64, each: u64, in_step: bool) -> Vec<Made> {
    let world = World::new();
    let (start, over) = (Barrier::new(SEATS * SESSIONS + 1), AtomicBool::new(false));
    let (world, start, over) = (&world, &start, &over);
    let rng = |thread: usize| ChaCha8Rng::seed_from_u64(seed * 100 + thread as u64);
    let session = move |thread: usize| {
        let mut rng = rng(thread);
        let call = |_| {
            if in_step {
                start.wait();
            }
            world.call(thread % SEATS, &mut rng)
        };
        (0..each).map(call).collect::<Vec<Made>>()
    };
    let made = thread::scope(|scope| {
        let sessions: Vec<_> = (0..SEATS * SESSIONS).map(|thread| scope.spawn(move || session(thread))).collect();
        let steward = scope.spawn(move || {
            let (mut rng, mut made) = (rng(99), Vec::new());
            while if in_step { made.len() < usize::try_from(each).unwrap() } else { !over.load(Ordering::SeqCst) } {
                if in_step {
                    start.wait();
                }
                made.push(world.tick(&mut rng));
            }
            made
        });
        let mut made: Vec<Made> = sessions.into_iter().flat_map(|session| session.join().unwrap()).collect();
        over.store(true, Ordering::SeqCst);
        made.extend(steward.join().unwrap());
        made
    });
    world.rig.assert_adds_up();
    made
}

/// A history of one bucket.
type Bucket = Vec<Event<Call, Answer>>;

/// The history as the plain rules see it, bucket by bucket, and how many subjects each has.
fn buckets(made: &[Made]) -> Vec<(OneBucket, Bucket)> {
    let mut calls: HashMap<LeaseToken, Vec<&Made>> = HashMap::new();
    for event in made {
        if let Some(token) = event.answer.token() {
            calls.entry(token).or_default().push(event);
        }
    }
    let ticks: Vec<&Made> = made.iter().filter(|made| matches!(made.answer, Did::Ticked { .. })).collect();
    calls.into_values().map(|calls| bucket(&calls, &ticks)).collect()
}

fn bucket(calls: &[&Made], ticks: &[&Made]) -> (OneBucket, Bucket) {
    let granted = calls.iter().find_map(|made| match &made.answer {
        Did::Claimed { subjects, clock, .. } => Some((made.began, subjects, clock + TERM)),
        _ => None,
    });
    let (began, subjects, deadline) = granted.expect("no call on what nobody claimed");
    let ended = calls.iter().map(|made| made.ended).max().unwrap();
    let mut events: Bucket = calls.iter().flat_map(|made| steps(made, subjects)).collect();
    for tick in ticks.iter().filter(|tick| tick.ended > began && tick.began < ended) {
        let Did::Ticked { clock } = tick.answer else { continue };
        if clock >= deadline {
            let by = By::Steward(clock);
            let calls = [Call::Mark { now: clock }, Call::Close(by), Call::Settle(by), Call::Finish];
            events.extend(calls.map(|call| at(tick, call, Answer::Silent)));
        }
    }
    (OneBucket { whole: (1 << subjects.len()) - 1, grace: GRACE }, events)
}

fn at(made: &Made, call: Call, answer: Answer) -> Event<Call, Answer> {
    Event { call, answer, began: made.began, ended: made.ended }
}

fn mask(keys: &[u64], subjects: &[u64]) -> u64 {
    let bit = |key: &u64| 1_u64 << subjects.iter().position(|subject| subject == key).expect("of the bucket");
    keys.iter().map(bit).sum()
}

/// The steps of one call, each of which may be anywhere between its beginning and its end.
fn steps(made: &Made, subjects: &[u64]) -> Bucket {
    let owner = made.call;
    let end = Call::Settle(By::Owner(owner));
    let close = at(made, Call::Close(By::Owner(owner)), Answer::Silent);
    match &made.answer {
        Did::Claimed { clock, .. } => {
            vec![at(made, Call::Claim { owner, deadline: clock + TERM }, Answer::Won(true))]
        }
        Did::Reported { outcomes, put_back, .. } => {
            let mut events: Bucket =
                outcomes.iter().map(|(key, outcome)| report(made, subjects, *key, outcome)).collect();
            events.push(at(made, Call::Finish, Answer::Silent));
            match put_back {
                None => {}
                Some(0) => events.extend([close, at(made, end, Answer::Silent)]),
                Some(left) => events.extend([close, at(made, end, Answer::Left(Some(*left)))]),
            }
            events
        }
        Did::Renewed { answer, clock, .. } => {
            vec![at(made, Call::Renew { owner, deadline: clock + TERM }, *answer)]
        }
        Did::Released { left, .. } => vec![close, at(made, end, Answer::Left(*left))],
        Did::Saw { view: None, .. } => vec![at(made, Call::Look, Answer::Saw(Phase::Over))],
        Did::Saw { view: Some((owed, dead)), .. } => {
            let mut events = vec![at(made, Call::Owed, Answer::Owed(mask(owed, subjects)))];
            if *dead {
                events.push(at(made, Call::Look, Answer::Saw(Phase::Dead)));
            }
            events
        }
        Did::Ticked { .. } | Did::Nothing => Vec::new(),
    }
}

fn report(made: &Made, subjects: &[u64], key: u64, outcome: &Outcome) -> Event<Call, Answer> {
    let wanted = mask(&[key], subjects);
    let (accepted, stale) = match outcome {
        Outcome::Accepted => (wanted, 0),
        Outcome::Stale => (0, wanted),
        Outcome::AlreadyDone => (0, 0),
        other => panic!("{other:?}"),
    };
    at(made, Call::Report { wanted }, Answer::Reported { accepted, stale })
}

/// The number of a lease: later leases of a subject have greater ones.
fn number(token: LeaseToken) -> u64 {
    u64::from_str_radix(&token.to_string()[16..32], 16).unwrap()
}

/// One grant of a subject, and what is known of it.
#[derive(Debug, Clone, Copy)]
struct Grant {
    number: u64,
    began: u64,
    ended: u64,
}

/// The rules of leases, looked up in one pass over a log of any length, in the order of the calls' ends.
#[derive(Debug, Default)]
struct Rules {
    granted: HashMap<LeaseToken, Granted>,
    /// By subject: its last grant, and when it was accepted.
    last: HashMap<u64, Grant>,
    accepted: HashMap<u64, u64>,
}

#[derive(Debug, Default)]
struct Granted {
    subjects: Vec<u64>,
    accepted: u32,
    /// How many subjects its end put back, where a call said so.
    left: Option<u32>,
}

impl Rules {
    fn check(made: &[Made]) -> Result<Self, String> {
        let mut log: Vec<&Made> = made.iter().collect();
        // Grants first: who claims may be slower to say so than a session that found the lease.
        log.sort_unstable_by_key(|made| made.began);
        let mut rules = Self::default();
        for made in &log {
            rules.grant(made)?;
        }
        for made in &log {
            rules.rest(made).map_err(|what| format!("{what}: {made:?}"))?;
        }
        for (token, granted) in &rules.granted {
            let all = u32::try_from(granted.subjects.len()).unwrap();
            if granted.left.is_some_and(|left| left + granted.accepted != all) {
                return Err(format!("accepted and put back do not add up: {token:?} {granted:?}"));
            }
        }
        Ok(rules)
    }

    /// Granted once; each grant of a subject is later than the one before, and of a greater number.
    fn grant(&mut self, made: &Made) -> Result<(), String> {
        let Did::Claimed { token, subjects, .. } = &made.answer else { return Ok(()) };
        let granted = Granted { subjects: subjects.clone(), ..Granted::default() };
        if self.granted.insert(*token, granted).is_some() {
            return Err(format!("granted twice: {made:?}"));
        }
        for subject in subjects {
            let grant = Grant { number: number(*token), began: made.began, ended: made.ended };
            let before = self.last.insert(*subject, grant);
            if let Some(before) = before.filter(|before| before.number >= grant.number) {
                // Of two claims at once either may have come first; the later lease stays.
                self.last.insert(*subject, before);
                if before.number == grant.number || before.ended < grant.began {
                    return Err(format!("an older lease after a newer one: {made:?}"));
                }
            }
        }
        Ok(())
    }

    fn rest(&mut self, made: &Made) -> Result<(), &'static str> {
        let Some(granted) = made.answer.token().map(|token| self.granted.get_mut(&token)) else { return Ok(()) };
        let (granted, token) = (granted.ok_or("a lease that nobody was granted")?, made.answer.token().unwrap());
        match &made.answer {
            Did::Reported { outcomes, put_back, .. } => {
                for (subject, _) in outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Accepted) {
                    granted.accepted += 1;
                    if self.accepted.insert(*subject, made.began).is_some() {
                        return Err("accepted twice");
                    }
                    if self.last.get(subject).is_none_or(|last| last.number != number(token) || made.ended < last.began)
                    {
                        return Err("accepted, and put back or not granted");
                    }
                }
                if put_back.is_some_and(|left| left > 0) && granted.left.replace(put_back.unwrap_or(0)).is_some() {
                    return Err("ended twice");
                }
            }
            Did::Released { left: Some(left), .. } if granted.left.replace(*left).is_some() => {
                return Err("ended twice");
            }
            Did::Renewed { answer: Answer::Renewed, .. } => {
                let again = |subject| {
                    self.last.get(subject).is_some_and(|last| last.number > number(token) && last.ended < made.began)
                };
                if granted.subjects.iter().any(again) {
                    return Err("renewed although it was another one's");
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Calls of sessions, and those that ran beside another's.
fn overlap(made: &[Made]) -> (usize, usize) {
    let mut calls: Vec<&Made> = made.iter().collect();
    calls.sort_unstable_by_key(|made| made.began);
    let (mut latest, mut beside) = (0, 0);
    for (index, made) in calls.iter().enumerate() {
        let next = calls.get(index + 1).map_or(u64::MAX, |next| next.began);
        beside += usize::from(made.began < latest || next < made.ended);
        latest = latest.max(made.ended);
    }
    (calls.len(), beside)
}

/// How often each thing happened that a history is to show.
#[derive(Debug, Default)]
struct Seen(BTreeMap<&'static str, usize>);

impl Seen {
    const ALL: [&str; 9] = [
        "accepted",
        "already done",
        "stale",
        "renewed",
        "too dead to renew",
        "released",
        "released too late",
        "seen dead",
        "leased again",
    ];

    fn note(&mut self, made: &[Made]) {
        let mut subjects: HashMap<u64, usize> = HashMap::new();
        for made in made {
            let what: Vec<&'static str> = match &made.answer {
                Did::Reported { outcomes, .. } => outcomes.iter().map(|(_, outcome)| of(outcome)).collect(),
                Did::Renewed { answer: Answer::Renewed, .. } => vec!["renewed"],
                Did::Renewed { answer: Answer::IsDead, .. } => vec!["too dead to renew"],
                Did::Released { left: Some(_), .. } => vec!["released"],
                Did::Released { left: None, .. } => vec!["released too late"],
                Did::Saw { view: Some((_, true)), .. } => vec!["seen dead"],
                Did::Claimed { subjects: granted, .. } => {
                    let mut again = Vec::new();
                    for subject in granted {
                        let times = subjects.entry(*subject).or_default();
                        *times += 1;
                        again.extend((*times == 2).then_some("leased again"));
                    }
                    again
                }
                _ => Vec::new(),
            };
            for what in what {
                *self.0.entry(what).or_default() += 1;
            }
        }
    }

    fn check(&self) {
        let missed: Vec<_> = Self::ALL.iter().filter(|what| !self.0.contains_key(**what)).collect();
        assert!(missed.is_empty(), "never seen: {missed:?}; {:?}", self.0);
    }
}

fn of(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted => "accepted",
        Outcome::AlreadyDone => "already done",
        _ => "stale",
    }
}

fn wanted(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Each bucket's history has an order that explains it.
fn linearizable(made: &[Made]) -> Result<usize, Stuck> {
    let mut events = 0;
    for (rules, mut history) in buckets(made) {
        events += history.len();
        check(&rules, &mut history)?;
    }
    Ok(events)
}

/// I1, I2, I3: two clients of two sessions each and the steward, on the same few buckets.
#[test]
fn histories_of_real_threads_are_linearizable() {
    let (histories, began) = (wanted("LEASE_HISTORIES", 30), Instant::now());
    let (mut calls, mut beside, mut steps, mut seen) = (0, 0, 0, Seen::default());
    for seed in 0..histories {
        let made = record(seed, 24, true);
        steps += linearizable(&made).unwrap_or_else(|stuck| panic!("history {seed}: {stuck}"));
        if let Err(what) = Rules::check(&made) {
            panic!("history {seed}: {what}");
        }
        seen.note(&made);
        let (more, overlapping) = overlap(&made);
        (calls, beside) = (calls + more, beside + overlapping);
    }
    seen.check();
    let share = beside * 100 / calls;
    eprintln!(
        "{histories} histories passed, 0 failed: {calls} calls, {share} % beside another, {steps} steps, \
         {} histories/s; {:?}",
        u128::from(histories) * 1_000 / began.elapsed().as_millis().max(1),
        seen.0
    );
    assert!(share >= 10, "only {share} % of the calls ran beside another");
}

/// I1, I2, I3, I7: a long log keeps the rules of leases.
#[test]
fn a_long_log_keeps_the_rules_of_leases() {
    let (operations, mut done, began) = (wanted("LEASE_OPERATIONS", 20_000), 0, Instant::now());
    let (mut seed, mut grants, mut accepted) = (1_000, 0, 0);
    // Callers are answered at once, also while slow caretakers have nothing to grant: then it takes more calls.
    while done < operations || grants.min(accepted) <= 100 && done < 50 * operations {
        // In pieces, so that memory stays small.
        let calls = if done < operations { operations - done } else { operations }.min(400_000);
        let made = record(seed, calls.div_ceil((SEATS * SESSIONS) as u64), false);
        done += made.iter().filter(|made| !matches!(made.answer, Did::Ticked { .. })).count() as u64;
        let rules = Rules::check(&made).unwrap_or_else(|what| panic!("log {seed}: {what}"));
        (grants, accepted) = (grants + rules.granted.len(), accepted + rules.accepted.len());
        seed += 1;
    }
    eprintln!(
        "{done} calls passed, 0 failed: {grants} grants, {accepted} reports accepted, {} calls/s",
        u128::from(done) * 1_000 / began.elapsed().as_millis().max(1)
    );
    assert!(grants > 100 && accepted > 100, "{grants} grants, {accepted} reports accepted");
}

fn event(began: u64, ended: u64, call: Call, answer: Answer) -> Event<Call, Answer> {
    Event { call, answer, began, ended }
}

fn is_linearizable(history: &[Event<Call, Answer>]) -> bool {
    check(&OneBucket { whole: 0b11, grace: 5 }, &mut history.to_vec()).is_ok()
}

/// The checker tells wrong histories of a lease from right ones.
#[test]
fn the_checker_finds_what_no_lease_may_do() {
    let claim = |began, owner| event(began, began + 1, Call::Claim { owner, deadline: 10 }, Answer::Won(true));
    let report = |began, ended, wanted, accepted, stale| {
        event(began, ended, Call::Report { wanted }, Answer::Reported { accepted, stale })
    };
    let close = |began, ended, by| event(began, ended, Call::Close(by), Answer::Silent);
    let settle = |began, ended, by, left| event(began, ended, Call::Settle(by), Answer::Left(left));
    let (owner, steward) = (By::Owner(1), By::Steward(20));
    let mark = |began, now| event(began, began + 1, Call::Mark { now }, Answer::Silent);
    let renew = |began, answer| event(began, began + 1, Call::Renew { owner: 1, deadline: 30 }, answer);
    // Granted twice; accepted twice; accepted before it was granted.
    assert!(!is_linearizable(&[claim(0, 1), claim(2, 2)]));
    assert!(is_linearizable(&[claim(0, 1), report(2, 3, 1, 1, 0), report(4, 5, 1, 0, 0)]));
    assert!(!is_linearizable(&[claim(0, 1), report(2, 3, 1, 1, 0), report(4, 5, 1, 1, 0)]));
    assert!(!is_linearizable(&[report(0, 1, 1, 1, 0), claim(2, 1)]));
    // A release beside a report: one of the two has the subject; and it knows how many it put back.
    let beside = |accepted, stale, left| {
        is_linearizable(&[
            claim(0, 1),
            report(2, 5, 1, accepted, stale),
            close(3, 4, owner),
            settle(3, 4, owner, Some(left)),
        ])
    };
    assert!(beside(1, 0, 1) && beside(0, 1, 2));
    assert!(!beside(1, 0, 2) && !beside(0, 1, 1) && !beside(0, 0, 2));
    // Accepted after the end was told; ended twice.
    let ended = [claim(0, 1), close(2, 3, owner), settle(2, 3, owner, Some(2))];
    assert!(is_linearizable(&[&ended[..], &[report(4, 5, 1, 0, 1)]].concat()));
    assert!(!is_linearizable(&[&ended[..], &[report(4, 5, 1, 1, 0)]].concat()));
    assert!(!is_linearizable(&[&ended[..], &[close(4, 5, owner), settle(4, 5, owner, Some(2))]].concat()));
    assert!(!is_linearizable(&[&ended[..], &[renew(4, Answer::Renewed)]].concat()));
    // Expired without a grace, and with one; renewed when it was seen dead.
    let expired = |died| [claim(0, 1), mark(2, died), close(4, 5, steward), settle(4, 5, steward, Some(2))];
    assert!(is_linearizable(&expired(15)) && !is_linearizable(&expired(16)) && !is_linearizable(&expired(9)));
    let dead = [claim(0, 1), mark(2, 15), event(4, 5, Call::Look, Answer::Saw(Phase::Dead))];
    assert!(is_linearizable(&[&dead[..], &[renew(6, Answer::IsDead)]].concat()));
    assert!(!is_linearizable(&[&dead[..], &[renew(6, Answer::Renewed)]].concat()));
}

/// The rules find, in a real log, what was changed in it.
#[test]
fn the_rules_find_a_wrong_line_in_a_real_log() {
    let made = record(7, 400, false);
    assert!(Rules::check(&made).is_ok());
    let find = |wanted: fn(&Did) -> bool| made.iter().find(|made| wanted(&made.answer)).expect("it happened").clone();
    let wrong = |line: Made| Rules::check(&[&made[..], &[line]].concat()).expect_err("it is found");
    let claimed = find(|did| matches!(did, Did::Claimed { .. }));
    assert!(wrong(claimed).contains("granted twice"));
    let accepted =
        find(|did| matches!(did, Did::Reported { outcomes, put_back: None, .. } if outcomes[0].1 == Outcome::Accepted));
    assert!(wrong(accepted).contains("accepted twice"));
    let released = find(|did| matches!(did, Did::Released { left: Some(_), .. }));
    assert!(wrong(released.clone()).contains("ended twice"));
    let Did::Released { token, .. } = released.answer else { return };
    let mut subjects = made.iter().filter_map(|made| match &made.answer {
        Did::Claimed { token: granted, subjects, .. } if *granted == token => Some(subjects[0]),
        _ => None,
    });
    let outcomes = vec![(subjects.next().expect("it was granted"), Outcome::Accepted)];
    let answer = Did::Reported { token, outcomes, put_back: None };
    assert!(!wrong(Made { answer, ..released }).is_empty(), "accepted, and put back");
}
