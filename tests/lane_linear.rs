//! A log of real threads on one lane keeps the rules of lanes: reports in order, versions that rise by one, one holder at a
//! time; and what is refused is so for a reason. The rules are themselves checked. `LANE_COMMANDS` sets how many commands the lane has.

mod common;
#[path = "support/kitchen.rs"]
mod kitchen;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use commissary::{Ask, Claim, Lease, LeaseError, LeaseToken, Outcome, Seat};
use kitchen::{Kitchen, Log, command, commands, kitchen};

/// The lane was leased, or took a report: at which version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    is_grant: bool,
    lease: u64,
    version: u64,
    began: u64,
    ended: u64,
}

/// A report that was not taken.
#[derive(Debug, Clone, Copy)]
struct Refused {
    why: Why,
    lease: u64,
    version: u64,
    ended: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Somebody had reported it.
    Done,
    /// The lease has ended.
    Over,
}

fn number(token: LeaseToken) -> u64 {
    u64::from_str_radix(&token.to_string()[16..32], 16).unwrap()
}

/// In one pass, after the lines were put into the lane's order.
fn check(lines: &[Line]) -> Result<(), String> {
    let mut lines = lines.to_vec();
    lines.sort_by_key(|line| (line.lease, !line.is_grant, line.version));
    let (mut version, mut latest) = (0, 0);
    let mut holder = None;
    for line in &lines {
        let wrong = |what: &str| Err(format!("{what}: {line:?}, expected version {version}"));
        if line.version != version {
            return wrong("not in the lane's order");
        }
        if line.ended < latest {
            return wrong("before what it follows");
        }
        latest = latest.max(line.began);
        if line.is_grant {
            if holder.replace(line.lease) == Some(line.lease) {
                return wrong("granted twice");
            }
        } else if holder == Some(line.lease) {
            version += 1;
        } else {
            return wrong("taken from who does not hold it");
        }
    }
    Ok(())
}

/// What is called done was reported by a call that had begun; and of a lease that is over nothing is taken afterwards.
fn check_refused(lines: &[Line], refused: &[Refused]) -> Result<(), String> {
    let reports = || lines.iter().filter(|line| !line.is_grant);
    for answer in refused {
        let is_so = match answer.why {
            Why::Done => reports().any(|report| report.version == answer.version && report.began < answer.ended),
            Why::Over => !reports().any(|report| report.lease == answer.lease && report.began > answer.ended),
        };
        if !is_so {
            return Err(format!("refused without a reason: {answer:?}"));
        }
    }
    Ok(())
}

/// What a session saw.
#[derive(Debug, Default)]
struct Seen {
    lines: Vec<Line>,
    refused: Vec<Refused>,
}

/// One session: claims, reports one by one, beside the client's other session; then lets go, or stops.
fn session(seat: &Seat<Kitchen>, clock: &AtomicU64, is_over: impl Fn() -> bool) -> Seen {
    let now = || clock.fetch_add(1, Ordering::SeqCst);
    let (mut seen, mut turn) = (Seen::default(), 0_u64);
    while !is_over() {
        turn += 1;
        let began = now();
        if let Claim::Leased(grant) = seat.claim(Ask::one()).unwrap() {
            for lease in grant {
                // As the bucket was cut: the other session may have gone on.
                let version = owed_at_first(&lease);
                seen.lines.push(Line { is_grant: true, lease: number(lease.token()), version, began, ended: now() });
                if turn % 3 == 0 {
                    let _ = lease.into_token();
                } else {
                    for _ in 0..turn % 4 {
                        thread::yield_now();
                    }
                }
            }
        }
        for view in seat.leases().unwrap() {
            let Some((lane, first)) = view.lane.zip(view.subjects.first().copied()) else { continue };
            let mut log: Log = lane.state().unwrap();
            assert_eq!(log, commands(1, 0..lane.version), "the state is that of the version");
            log.push(first);
            thread::yield_now();
            let began = now();
            let made = seat.report_lane(&view.token, [(first, vec![])], &log);
            let (lease, version, ended) = (number(view.token), first - command(1, 0), now());
            let why = match made.map(|made| made.outcomes) {
                Ok(outcomes) if outcomes == [Outcome::Accepted] => {
                    seen.lines.push(Line { is_grant: false, lease, version, began, ended });
                    continue;
                }
                Ok(outcomes) if outcomes == [Outcome::AlreadyDone] => Why::Done,
                Ok(outcomes) if outcomes == [Outcome::Stale] => Why::Over,
                Err(LeaseError::Over | LeaseError::Dead) => Why::Over,
                other => panic!("no answer to a report on what was owed: {other:?}"),
            };
            seen.refused.push(Refused { why, lease, version, ended });
        }
    }
    seen
}

/// The version at which the bucket begins: that of its first subject.
fn owed_at_first(lease: &Lease<Kitchen>) -> u64 {
    lease.subjects().next().map_or(0, |first| first - command(1, 0))
}

fn record(n: u64) -> Seen {
    let (shop, service, seats) = kitchen(
        |policy| {
            (policy.lease, policy.grace) = (Duration::from_secs(1), Duration::from_millis(300));
            policy.watch.interval = Duration::ZERO;
        },
        2,
    );
    service.add_all(commands(1, 0..n)).unwrap();
    shop.settle();
    let clock = AtomicU64::new(0);
    let is_over = || service.stats().subjects_done >= n;
    let seen = thread::scope(|scope| {
        let sessions: Vec<_> = (0..4)
            .map(|at| {
                scope.spawn({
                    let (seat, clock) = (&seats[at % 2], &clock);
                    move || session(seat, clock, is_over)
                })
            })
            .collect();
        while !is_over() {
            shop.pass(Duration::from_millis(50));
            thread::yield_now();
        }
        sessions.into_iter().fold(Seen::default(), |mut all, session| {
            let Seen { lines, refused } = session.join().unwrap();
            all.lines.extend(lines);
            all.refused.extend(refused);
            all
        })
    });
    let work = shop.hub.stats().work;
    assert!(work.adds_up(), "{work:?}");
    seen
}

/// One lane, two clients of two sessions each, leases that are let go, or expire in the middle.
#[test]
fn a_log_of_real_threads_keeps_the_rules_of_lanes() {
    let n = std::env::var("LANE_COMMANDS").ok().and_then(|text| text.parse().ok()).unwrap_or(120);
    let Seen { lines, refused } = record(n);
    check(&lines).unwrap();
    check_refused(&lines, &refused).unwrap();
    let grants = lines.iter().filter(|line| line.is_grant).count();
    let reports = lines.len() - grants;
    let is_done = |answer: &&Refused| answer.why == Why::Done;
    let done = refused.iter().filter(is_done).count();
    let over = refused.len() - done;
    eprintln!("{reports} reports of {grants} leases passed, {done} answered as done, {over} as over, 0 failed");
    assert!(reports as u64 == n && grants as u64 > n / 4, "each command once, in more leases than full ones");
    let first = lines.iter().position(|line| !line.is_grant).unwrap();
    let changed = |change: fn(&mut Line)| {
        let mut lines = lines.clone();
        change(&mut lines[first]);
        check(&lines)
    };
    assert!(changed(|line| line.version += 1).is_err(), "a version was left out");
    assert!(changed(|line| line.lease += 1).is_err(), "reported by who does not hold it");
    assert!(changed(|line| (line.began, line.ended) = (u64::MAX, u64::MAX)).is_err(), "after what follows it");
    assert!(check(&[&lines[..], &[lines[first]]].concat()).is_err(), "accepted twice");
    let Line { lease, version, began, .. } = lines[first];
    let before = |why| Refused { why, lease, version, ended: began };
    assert!(check_refused(&lines, &[before(Why::Done)]).is_err(), "done before anybody began to report it");
    assert!(check_refused(&lines, &[Refused { ended: 0, ..before(Why::Over) }]).is_err(), "reported after it was over");
}
