//! Limits of lanes.

use std::rc::Rc;
use std::time::{Duration, Instant};

use commissary::{LaneKey, LeaseError, Limits, Policy, Reporter, Service, Verdict};

use crate::rig::{Site, wide};
use crate::sizes::report_of;
use crate::table::{compare, large, levels, measure, print as line, run, told};

/// Numbers; of those with the same upper half the lower one is the place in their lane.
struct Lined(Policy);

impl Lined {
    fn new(change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy { linger: Duration::ZERO, ..Policy::default() };
        change(&mut policy);
        Self(policy)
    }
}

impl Service for Lined {
    type Subject = u64;
    type Report = String;

    fn id(&self) -> &'static str {
        "lined"
    }

    fn policy(&self) -> Policy {
        self.0.clone()
    }

    fn judge(&self, _command: &u64, _report: &String, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }

    fn lane(&self, command: &u64) -> Option<LaneKey> {
        Some(LaneKey::from(command >> 32))
    }
}

pub(crate) fn print() {
    run(&[("lane_subjects", lane_subjects as fn()), ("lane_state_bytes", lane_state_bytes)]);
}

/// Executes so many commands, bucket by bucket, each with the same state after it; waits until reads see it.
fn execute(site: &Site<Lined>, commands: usize, state: &str) {
    let (mut left, mut last) = (commands, None);
    while left > 0 {
        for lease in site.claim(&site.seats[0], 1) {
            let reports: Vec<(u64, String)> =
                lease.owed().take(left).map(|command| (command, "ok".to_owned())).collect();
            left -= reports.len();
            let submitted = lease.submit_lane(reports.clone(), state).expect("taken");
            assert_eq!(submitted.accepted(), reports.len());
            last = Some(submitted.ticket);
        }
    }
    site.seen(&last.expect("something was executed"));
}

/// Another lane goes on.
fn others_go_on(site: &Site<Lined>) {
    let done = site.service.stats().subjects_done;
    site.add((0..8).map(|place| 7 << 32 | place), 8);
    while site.service.stats().subjects_done < done + 8 {
        execute(site, 4, "small");
    }
}

fn lane_subjects() {
    let limit = large(10_000);
    let commands = limit / 20;
    let open = || Site::open(wide(), Lined::new(|policy| policy.lane_subjects = limit as u64));
    let add = |site: &Site<Lined>| {
        let start = Instant::now();
        site.add(site.numbers(commands), commands);
        commands as f64 / start.elapsed().as_secs_f64()
    };
    let work = |site: &Site<Lined>| {
        let start = Instant::now();
        execute(site, commands, "small");
        commands as f64 / start.elapsed().as_secs_f64()
    };
    let added = |site: &Site<Lined>| {
        let rate = add(site);
        work(site);
        rate
    };
    let worked = |site: &Site<Lined>| {
        add(site);
        work(site)
    };
    let (empty, full) = (open(), open());
    let (mut adding, mut working) = (Vec::new(), Vec::new());
    for level in levels(limit) {
        let fill = level - commands - full.service.stats().subjects_pending() as usize;
        full.add(full.numbers(fill), fill);
        adding.push(compare(&mut || added(&empty), &mut || added(&full)));
        working.push(compare(&mut || worked(&empty), &mut || worked(&full)));
    }
    full.add(full.numbers(commands), commands);
    assert_eq!(full.service.stats().subjects_pending(), limit as u64);
    let intake = full.service.add_all(full.numbers(1)).expect("no error");
    assert_eq!((intake.added, intake.full), (0, 1));
    execute(&full, limit, "small");
    assert_eq!(full.service.add_all(full.numbers(1)).expect("taken in").added, 1);
    others_go_on(&full);
    let beyond = "no error: `Intake::refused` names it";
    let what = "additions to the lane";
    line("`Policy::lane_subjects`", "10,000; the disk", beyond, what, &adding);
    line("", "", "", "subjects of the lane, claimed and reported", &working);
}

fn lane_state_bytes() {
    let limit = Limits::default().lane_state_bytes;
    let rate = |site: &Site<Lined>, state: &str, commands: usize| {
        site.add(site.numbers(commands), commands);
        let start = Instant::now();
        execute(site, commands, state);
        commands as f64 / start.elapsed().as_secs_f64()
    };
    let open = || Site::open(wide(), Lined::new(|_| {}));
    let (empty, small) = (open(), report_of(16));
    let found = measure(limit, Box::new(move || rate(&empty, &small, 800)), |level| {
        let (site, state) = (Rc::new(open()), report_of(level));
        Box::new(move || rate(&site, &state, 800))
    });
    let site = open();
    site.add(site.numbers(4), 4);
    let lease = site.claim(&site.seats[0], 1).pop().expect("one");
    let reports = || lease.owed().map(|command| (command, "ok".to_owned())).collect::<Vec<_>>();
    let refused = lease.submit_lane(reports(), &report_of(limit + 1)).expect_err("too large");
    assert_eq!(refused, LeaseError::StateTooLarge { bytes: limit + 1, limit });
    assert_eq!(lease.submit_lane(reports(), &report_of(limit)).expect("taken").accepted(), 4);
    others_go_on(&site);
    let what = "subjects of one lane, claimed and reported, 4 with a state; empty: 16 B";
    line("`lane_state_bytes`", "65,536; to `submit_bytes`", &told(&refused), what, &found);
}
