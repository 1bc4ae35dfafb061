//! Limits of how often, how much at a time, and how much is remembered.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use commissary::{Ask, LeaseError, LeaseToken, Limits, RegisterClientError, Registration};

use crate::rig::{Plain, Site, wide};
use crate::table::{large, measure, print as line, rounds, run, told};

const SUBJECTS: usize = 6_000;
const WORK: &str = "subjects, claimed and reported";

pub(crate) fn print() {
    let rows: [(&str, fn()); 10] = [
        ("origin_burst", origin_burst),
        ("newcomer_burst", newcomer_burst),
        ("repeat_burst", repeat_burst),
        ("releases_per_round", releases_per_round),
        ("urgent_keys", urgent_keys),
        ("settled_slots", settled_slots),
        ("slow_leases", slow_leases),
        ("notices", notices),
        ("explained_steps", explained_steps),
        ("fixed", fixed),
    ];
    run(&rows);
}

/// What is not worth measuring.
fn fixed() {
    for (limit, range, beyond) in [
        ("`laned_waiting`", "4,194,304", "no error: what comes waits on disk until some of these are done"),
        (
            "a lease, renewals included",
            "397 days from its pool's forming, fixed (`LEASE_MS`)",
            "`LeaseError::Capped` names the time",
        ),
        (
            "characters of a screen name",
            "15, fixed (`NAME_CHARS`)",
            "`invalid detail: screen name has 16 characters, the limit is 15`",
        ),
        (
            "characters of a service's id",
            "64, fixed (`SERVICE_ID_CHARS`)",
            "`service id \"...\" is not 1 to 64 of a-z A-Z 0-9 - _ .`",
        ),
    ] {
        line(limit, range, beyond, "-", &[]);
    }
}

fn plain() -> Plain {
    Plain::new("plain", |_| {})
}

/// The next client's number.
struct Crowd {
    site: Site<Plain>,
    next: Cell<u64>,
}

impl Crowd {
    fn open(limits: Limits) -> Self {
        let plugin = Plain::new("plain", |policy| policy.idle = Duration::MAX);
        Self { site: Site::manual(limits, plugin), next: Cell::new(1_000) }
    }

    fn newcomer(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    fn register(&self, id: u64, origin: Option<u64>) -> Result<(), RegisterClientError> {
        let registration = Registration::new(id, format!("c{id}"));
        let registration = match origin {
            Some(origin) => registration.origin(origin.to_be_bytes()),
            None => registration,
        };
        self.site.hub.register_client(&registration).map(drop)
    }

    /// Makes 40 groups of registrations, each so many; only the last 10 of each are timed.
    fn rate(&self, level: usize, register: impl Fn(&Self, u64)) -> f64 {
        const GROUPS: u32 = 40;
        const TIMED: usize = 10;
        let mut took = Duration::ZERO;
        for _ in 0..GROUPS {
            let group = self.newcomer();
            (0..level - TIMED).for_each(|_| register(self, group));
            let start = Instant::now();
            (0..TIMED).for_each(|_| register(self, group));
            took += start.elapsed();
            self.site.hub.tick();
            // Origins share budgets by chance: the next group finds all of them full.
            self.site.clock.advance(Duration::from_secs(3_600));
        }
        f64::from(GROUPS) * TIMED as f64 / took.as_secs_f64()
    }
}

fn told_throttled(refused: &RegisterClientError) -> String {
    assert!(matches!(refused, RegisterClientError::Throttled { .. }), "{refused}");
    told(refused)
}

fn origin_burst() {
    let limits = Limits { origin_burst: Limits::default().origin_burst, clients: u64::MAX, ..wide() };
    let limit = limits.origin_burst as usize;
    let [empty, full] = [(), ()].map(|()| Rc::new(Crowd::open(limits.clone())));
    let from = |crowd: &Crowd, origin| crowd.register(crowd.newcomer(), Some(origin)).expect("within the burst");
    let found = measure(limit, Box::new(move || empty.rate(10, from)), |level| {
        let full = Rc::clone(&full);
        Box::new(move || full.rate(level, from))
    });
    (0..limit).for_each(|_| from(&full, 7));
    let refused = full.register(full.newcomer(), Some(7)).expect_err("beyond the burst");
    from(&full, 8);
    full.site.others_go_on();
    line(
        "`origin_burst`",
        "1,000; refilled in `origin_refill`, 1 h",
        &told_throttled(&refused),
        "registrations, the calls alone",
        &found,
    );
}

fn newcomer_burst() {
    const TIMED: usize = 100;
    let limit = large(Limits::default().newcomer_burst as usize);
    let limits = Limits { newcomer_burst: limit as u32, ..wide() };
    let [empty, full] = [(), ()].map(|()| Rc::new(Crowd::open(limits.clone())));
    // The seats' clients count.
    let used = Cell::new(crate::rig::SEATS as usize);
    let rate = |crowd: &Crowd| {
        let timed = if crate::table::quick() { 10 } else { TIMED };
        let start = Instant::now();
        (0..timed).for_each(|_| crowd.register(crowd.newcomer(), None).expect("within the burst"));
        let took = start.elapsed().as_secs_f64();
        crowd.site.hub.tick();
        timed as f64 / took
    };
    let in_rounds = if crate::table::quick() { 20 } else { TIMED * (rounds() + 1) };
    let found = measure(limit, Box::new(move || rate(&empty)), |level| {
        while used.get() + in_rounds < level {
            full.register(full.newcomer(), None).expect("within the burst");
            used.set(used.get() + 1);
            if used.get().is_multiple_of(10_000) {
                full.site.hub.tick();
            }
        }
        full.site.hub.tick();
        used.set(used.get() + in_rounds);
        let full = Rc::clone(&full);
        Box::new(move || rate(&full))
    });
    assert!(used.get() >= limit, "{} of {limit}", used.get());
    let refused = full.register(full.newcomer(), None).expect_err("beyond the burst");
    full.register(1, None).expect("who is known is no newcomer");
    full.site.others_go_on();
    line(
        "`newcomer_burst`",
        "100,000; refilled in `origin_refill`, 1 h",
        &told_throttled(&refused),
        "registrations, the calls alone",
        &found,
    );
}

fn repeat_burst() {
    let limits = Limits { repeat_burst: Limits::default().repeat_burst, ..wide() };
    let limit = limits.repeat_burst as usize;
    let [empty, full] = [(), ()].map(|()| Rc::new(Crowd::open(limits.clone())));
    let again = |crowd: &Crowd, id| crowd.register(id, None).expect("within the burst");
    let found = measure(limit, Box::new(move || empty.rate(11, again)), |level| {
        let full = Rc::clone(&full);
        // The first is the registration itself.
        Box::new(move || full.rate(level.max(10) + 1, again))
    });
    let id = full.newcomer();
    (0..=limit).for_each(|_| again(&full, id));
    let refused = full.register(id, None).expect_err("beyond the burst");
    again(&full, full.newcomer());
    full.site.others_go_on();
    line(
        "`repeat_burst`",
        "100; refilled in `repeat_refill`, 1 min",
        &told_throttled(&refused),
        "repeated registrations, the calls alone",
        &found,
    );
}

/// A hub whose leases die together.
struct Mortal {
    site: Site<Plain>,
    next: Cell<u64>,
}

impl Mortal {
    fn open() -> Self {
        let plugin = Plain::new("plain", |policy| {
            (policy.leases_in_flight, policy.expiry_spread) = (1_000_000, 0);
            policy.idle = Duration::from_secs(100 * 365 * 24 * 3_600);
            policy.watch.interval = Duration::ZERO;
        });
        let site = Site::manual(wide(), plugin);
        site.add(site.numbers(20_000), 20_000);
        Self { site, next: Cell::new(10_000) }
    }

    /// So many leases of a new client die at once; their grace is over now.
    fn dead(&self, n: usize) -> commissary::Seat<Plain> {
        self.next.set(self.next.get() + 1);
        let seat = crate::rig::client(&self.site.hub, self.next.get()).activate(&self.site.service).expect("activates");
        let mut held = 0;
        while held < n {
            let leases = self.site.claim(&seat, (n - held).min(10) as u32);
            held += leases.len();
            for lease in leases {
                let _ = lease.into_token();
            }
        }
        let policy = self.site.service.policy();
        self.site.hub.tick();
        self.site.clock.advance(policy.lease);
        self.site.hub.tick();
        self.site.clock.advance(policy.grace);
        seat
    }

    fn rate(&self, n: usize) -> f64 {
        let seat = self.dead(n);
        let start = Instant::now();
        self.site.hub.tick();
        let took = start.elapsed().as_secs_f64();
        assert!(seat.leases().expect("registered").is_empty(), "all were released");
        n as f64 / took
    }
}

fn releases_per_round() {
    let limit = Limits::default().releases_per_round;
    let [empty, full] = [(), ()].map(|()| Rc::new(Mortal::open()));
    let found = measure(limit, Box::new(move || empty.rate(limit / 100)), |level| {
        let full = Rc::clone(&full);
        Box::new(move || full.rate(level))
    });
    let seat = full.dead(limit + 1);
    full.site.hub.tick();
    let kept = seat.leases().expect("registered");
    assert_eq!(kept.len(), 1, "its turn comes in the next round");
    let late = kept[0].subjects.iter().map(|subject| (*subject, "late".to_owned()));
    assert_eq!(seat.submit(&kept[0].token, late).expect("still taken").accepted(), 4);
    full.site.work(1, 4, 1, &"ok".to_owned());
    let beyond = "no error: half a second later";
    line(
        "`releases_per_round`",
        "4,096; from 1",
        beyond,
        "dead leases, released and offered again; empty: 1 %",
        &found,
    );
}

fn urgent_keys() {
    const TIMED: usize = 1_000;
    let limit = large(Limits::URGENT_KEYS);
    let open = || Rc::new(Site::open(wide(), plain()));
    // Marks so many, then lets some of them be done while the others wait.
    let prepare = |site: &Site<Plain>, n: usize| {
        drop(site.service.pause().expect("paused"));
        let keys: Vec<u64> = site.numbers(n).collect();
        site.add(keys.iter().copied(), n);
        let start = Instant::now();
        let (marked, ticket) = site.service.prioritize(&keys).expect("not too many");
        site.seen(&ticket);
        let took = start.elapsed().as_secs_f64();
        assert_eq!(marked.len(), n);
        drop(site.service.activate().expect("active"));
        n as f64 / took
    };
    let few = (limit / 100).max(4);
    let empty = open();
    let mark = measure(limit, Box::new(move || prepare(&empty, few)), |level| {
        let full = open();
        Box::new(move || prepare(&full, level))
    });
    let empty = open();
    let timed = TIMED.min(limit / 10) / 4 * 4;
    // Others take the place of those that were done.
    let rate = move |site: &Site<Plain>| {
        let rate = site.rate_of_stock(timed, 1);
        let _ = prepare(site, timed);
        rate
    };
    let _ = prepare(&empty, timed);
    let done = measure(limit, Box::new(move || rate(&empty)), |level| {
        let full = open();
        let _ = prepare(&full, level);
        Box::new(move || rate(&full))
    });
    let full = open();
    let too_many: Vec<u64> = (0..=Limits::URGENT_KEYS as u64).collect();
    let refused = full.service.prioritize(&too_many).expect_err("too many");
    full.others_go_on();
    line(
        "urgent subjects of one call",
        "65,536, fixed (`URGENT_KEYS`)",
        &told(&refused),
        "subjects marked; empty: 1 %",
        &mark,
    );
    line("", "", "", "urgent subjects, claimed and reported, while the others wait", &done);
}

/// The claims of hubs that remember so much.
fn remembering(
    limit: usize,
    least: usize,
    before: impl Fn(usize) -> usize,
    limits: impl Fn(usize) -> Limits,
) -> Vec<crate::table::Compared> {
    let open = |level: usize| {
        let site = Site::open(limits(level), plain());
        let subjects = before(level);
        site.add(site.numbers(subjects), subjects);
        site.work(0, subjects, 10, &"ok".to_owned());
        site
    };
    let empty = open(least);
    measure(limit, Box::new(move || empty.rate(SUBJECTS, 10)), |level| {
        let full = open(level);
        Box::new(move || full.rate(SUBJECTS, 10))
    })
}

fn settled_slots() {
    let limit = large(Limits::default().settled_slots);
    let found =
        remembering(limit, 64, |slots| 4 * (slots + 2 * 4_500), |settled_slots| Limits { settled_slots, ..wide() });
    // Pools of one bucket, each counted as 64 slots.
    let site = Site::manual(Limits { settled_slots: 64, ..wide() }, plain());
    let tokens: Vec<(LeaseToken, u64)> = (0..4)
        .map(|_| {
            site.add(site.numbers(4), 4);
            let lease = site.claim(&site.seats[0], 1).pop().expect("one");
            let first = lease.subjects().next().expect("four");
            let reports: Vec<_> = lease.subjects().map(|subject| (subject, "ok".to_owned())).collect();
            assert_eq!(lease.submit(reports).expect("taken").accepted(), 4);
            (0..3).for_each(|_| site.hub.tick());
            (lease.into_token(), first)
        })
        .collect();
    let again = |(token, subject): &(LeaseToken, u64)| site.seats[0].submit(token, [(*subject, "ok".to_owned())]);
    let refused = again(&tokens[0]).expect_err("forgotten");
    assert_eq!(refused, LeaseError::Over);
    assert!(again(&tokens[3]).is_ok(), "the newest is remembered");
    site.others_go_on();
    let beyond = format!("the oldest pool is forgotten: {}", told(&refused));
    line("`settled_slots`", "16,384", &beyond, WORK, &found);
}

fn slow_leases() {
    let limit = Limits::default().slow_leases;
    let found = remembering(limit, 1, |_| 8_000, |slow_leases| Limits { slow_leases, ..wide() });
    let site = Site::manual(Limits { slow_leases: 5, ..wide() }, plain());
    site.add(site.numbers(24), 24);
    for lease in site.claim(&site.seats[0], 6) {
        site.clock.advance(Duration::from_secs(1));
        let reports: Vec<_> = lease.subjects().map(|subject| (subject, "ok".to_owned())).collect();
        assert_eq!(lease.submit(reports).expect("taken").accepted(), 4);
        site.hub.tick();
    }
    let slow = site.service.slow_buckets(Duration::ZERO);
    assert!(slow.iter().map(|slow| slow.took.as_secs()).eq([6, 5, 4, 3, 2]));
    site.others_go_on();
    line("`slow_leases`", "1,024", "no error: the slowest stay", WORK, &found);
}

fn notices() {
    const FAULTS: usize = 1_000;
    let limit = Limits::default().notices;
    let open = |notices: usize| {
        let site = Site::manual(Limits { notices, ..wide() }, plain());
        site.add(site.numbers(8), 8);
        let token = site.claim(&site.seats[0], 1).pop().expect("one").into_token();
        (site, token)
    };
    let rate = |(site, token): &(Site<Plain>, LeaseToken)| {
        let before = site.service.stats().faults.not_owner;
        let start = Instant::now();
        (0..FAULTS).for_each(|_| assert_eq!(site.seats[1].renew(token), Err(LeaseError::NotOwner)));
        let took = start.elapsed().as_secs_f64();
        assert_eq!(site.service.stats().faults.not_owner - before, FAULTS as u64);
        FAULTS as f64 / took
    };
    let empty = open(1);
    let found = measure(limit, Box::new(move || rate(&empty)), |level| {
        let full = open(level);
        Box::new(move || rate(&full))
    });
    let full = open(limit);
    let _ = (rate(&full), rate(&full));
    assert_eq!(full.0.hub.notices().len(), limit);
    full.0.others_go_on();
    let beyond = "no error: the oldest makes room";
    line("`notices`", "1,024; to 1,048,576", beyond, "calls with another's token, refused", &found);
}

fn explained_steps() {
    let limit = Limits::default().explained_steps;
    // One subject that is taken in, then leased and put back, until its story has so many steps.
    let open = |steps: usize| {
        // One client takes it back at once: time stands still, and a cooldown would never end.
        let site = Site::manual(wide(), Plain::new("plain", |policy| policy.cooldown = Duration::ZERO));
        site.add(site.numbers(1), 1);
        let claim = || {
            let lease = site.claim(&site.seats[0], 1).pop().expect("one");
            site.hub.tick();
            lease
        };
        for _ in 0..(steps - 1) / 2 {
            drop(claim());
            site.hub.tick();
        }
        if steps.is_multiple_of(2) {
            let _ = claim().into_token();
        }
        site
    };
    let rate = |site: &Site<Plain>, steps: usize| {
        let start = Instant::now();
        let explained = site.service.explain(&1).expect("known");
        let took = start.elapsed().as_secs_f64();
        assert_eq!(explained.steps.len(), steps);
        steps as f64 / took
    };
    let few = limit / 100;
    let empty = open(few);
    let found = measure(limit, Box::new(move || rate(&empty, few)), |level| {
        let full = open(level);
        Box::new(move || rate(&full, level))
    });
    let full = open(limit + 1);
    let explained = full.service.explain(&1).expect("known");
    assert_eq!((explained.steps.len(), explained.earlier), (limit, 1));
    let asked = full.seats[1].claim(Ask::one()).expect("nothing is refused");
    drop(asked);
    full.others_go_on();
    line(
        "`explained_steps`",
        "1,024",
        "no error: the oldest are left out and counted",
        "steps told; empty: 1 %",
        &found,
    );
}
