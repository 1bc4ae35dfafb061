//! Limits of how many there are.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use commissary::{Ask, Claim, EmptyReason, Hub, Limits, OverAsk, Policy, Registration};

use crate::rig::{Plain, Site, client, wide};
use crate::table::{Compared, compare, large, levels, measure, print as line, rounds, run, told};

/// Subjects of a round.
const SUBJECTS: usize = 6_000;
/// Newcomers of a round.
const NEWCOMERS: usize = 300;
const WORK: &str = "subjects, claimed and reported";

fn plain() -> Plain {
    Plain::new("plain", |_| {})
}

pub(crate) fn print() {
    let rows: [(&str, fn()); 8] = [
        ("services", services),
        ("clients", clients),
        ("seats", seats),
        ("leases_in_flight", leases_in_flight),
        ("buckets_per_claim", buckets_per_claim),
        ("bucket_subjects", bucket_subjects),
        ("pool_subjects", pool_subjects),
        ("max_subjects", max_subjects),
    ];
    run(&rows);
}

fn services() {
    let limit = Limits::default().services as usize;
    let [empty, full] = [(), ()].map(|()| Rc::new(Site::open(wide(), plain())));
    let others = Cell::new(1);
    let worker = client(&full.hub, 1);
    let found = measure(limit, Box::new(move || empty.rate(SUBJECTS, 10)), |level| {
        // Each with work and a worker.
        while others.get() < level {
            let other = full.hub.register(Plain::new(&format!("s{}", others.get()), |_| {})).expect("registers");
            assert_eq!(other.add_all(1..=40).expect("taken in").added, 40);
            drop(worker.activate(&other).expect("activates"));
            others.set(others.get() + 1);
        }
        let full = Rc::clone(&full);
        Box::new(move || full.rate(SUBJECTS, 10))
    });
    let refused = full.hub.register(Plain::new("another", |_| {})).expect_err("the table is full");
    full.others_go_on();
    line("`services`", "1,024", &told(&refused), WORK, &found);
}

/// Registers newcomers until so many are known.
fn register_until(hub: &Hub, known: &Cell<u64>, level: usize) {
    let mut last = None;
    while known.get() < level as u64 {
        known.set(known.get() + 1);
        let id = known.get();
        match hub.register_client(&Registration::new(id, format!("c{id}"))) {
            Ok(registered) => last = Some(registered.ticket),
            Err(commissary::RegisterClientError::Hub(busy)) => {
                assert!(busy.is_transient());
                known.set(id - 1);
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    }
    last.expect("somebody was registered").wait_visible().expect("visible");
}

fn register_rate(site: &Site<Plain>, known: &Cell<u64>) -> f64 {
    let start = Instant::now();
    register_until(&site.hub, known, known.get() as usize + NEWCOMERS);
    let took = start.elapsed().as_secs_f64();
    assert_eq!(site.hub.stats().clients, known.get());
    NEWCOMERS as f64 / took
}

fn clients() {
    let limit = large(1_000_000);
    let limits = Limits { clients: limit as u64, ..wide() };
    let [empty, full] = [(), ()].map(|()| Site::open(limits.clone(), plain()));
    let [few, many] = [(), ()].map(|()| Cell::new(crate::rig::SEATS));
    let (mut registered, mut worked): (Vec<Compared>, Vec<Compared>) = (Vec::new(), Vec::new());
    for level in levels(limit) {
        register_until(&full.hub, &many, level - NEWCOMERS * (rounds() + 1));
        registered.push(compare(&mut || register_rate(&empty, &few), &mut || register_rate(&full, &many)));
        worked.push(compare(&mut || empty.rate(SUBJECTS, 10), &mut || full.rate(SUBJECTS, 10)));
    }
    let one_more = Registration::new(limit as u64 + 1, "one_more");
    let refused = full.hub.register_client(&one_more).expect_err("the table is full");
    full.others_go_on();
    line("`clients`", "1,000,000", &told(&refused), "registrations", &registered);
    line("", "", "", WORK, &worked);
}

/// Seats that fit in about 1 GiB.
const SEATS_HERE: usize = 500_000;

fn seats() {
    let limit = large(SEATS_HERE);
    let [empty, full] = [(), ()].map(|()| Rc::new(Site::open(Limits { seats: limit as u32, ..wide() }, plain())));
    // Each client has a seat at each of them.
    let others: Vec<_> =
        (0..64).map(|n| full.hub.register(Plain::new(&format!("s{n}"), |_| {})).expect("registers")).collect();
    let seats = Cell::new(crate::rig::SEATS as usize);
    let activate = |level: usize| {
        while seats.get() < level {
            let worker = client(&full.hub, (seats.get() / others.len()) as u64 + 1);
            match worker.activate(&others[seats.get() % others.len()]) {
                Ok(_) => seats.set(seats.get() + 1),
                Err(commissary::ActivateError::Hub(busy)) if busy.is_transient() => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    };
    let found = measure(limit, Box::new(move || empty.rate(SUBJECTS, 10)), |level| {
        activate(level);
        let full = Rc::clone(&full);
        Box::new(move || full.rate(SUBJECTS, 10))
    });
    let refused = client(&full.hub, 1_000_000).activate(&full.service).expect_err("the table is full");
    full.others_go_on();
    let range = "67,108,863, the most; measured to 500,000, which is what fits in 1 GiB";
    line("`seats`", range, &told(&refused), WORK, &found);
}

fn leases_in_flight() {
    let limit = large(1_000_000);
    let plugin = || {
        Plain::new("plain", |policy| {
            (policy.bucket_subjects, policy.pool_subjects) = (1, 100_000);
            (policy.leases_in_flight, policy.buckets_per_claim) = (limit as u32, 1_024);
        })
    };
    // Pools are as large as their seats need them.
    let [empty, full] = [(), ()].map(|()| Rc::new(Site::with(false, wide(), plugin(), 5_000)));
    let held = Cell::new(0);
    let found = measure(limit, Box::new(move || empty.rate(SUBJECTS, 1)), |level| {
        let wanted = level - held.get();
        full.add(full.numbers(wanted), wanted);
        while held.get() < level {
            let ask = (level - held.get()).min(1_024) as u32;
            for lease in full.claim(&full.seats[3], ask) {
                let _ = lease.into_token();
                held.set(held.get() + 1);
            }
        }
        let full = Rc::clone(&full);
        Box::new(move || full.rate(SUBJECTS, 1))
    });
    full.add(full.numbers(8), 8);
    let Claim::Empty(empty) = full.seats[3].claim(Ask::one()).expect("no error") else { panic!("beyond the quota") };
    assert_eq!(empty.reason, EmptyReason::QuotaFull);
    full.work(1, 8, 1, &"ok".to_owned());
    full.others_go_on();
    let beyond = "no error: `Claim::Empty`, `QuotaFull`";
    line(
        "`Policy::leases_in_flight`",
        "1,000; to 1,000,000 (measured)",
        beyond,
        "subjects, claimed and reported by others",
        &found,
    );
}

fn buckets_per_claim() {
    let with = |most: u32| {
        let change = |policy: &mut Policy| {
            (policy.buckets_per_claim, policy.leases_in_flight, policy.over_ask) = (most, 10_000, OverAsk::Reject);
        };
        Rc::new(Site::open(wide(), Plain::new("plain", change)))
    };
    let (empty, full) = (with(10), with(1_024));
    let found = measure(1_024, Box::new(move || empty.rate(SUBJECTS, 10)), |level| {
        let full = Rc::clone(&full);
        Box::new(move || full.rate(SUBJECTS, level as u32))
    });
    let refused = full.seats[0].claim(Ask::buckets(1_025)).expect_err("beyond the cap");
    full.others_go_on();
    let beyond = format!("clamped, or {}", told(&refused));
    line("`Policy::buckets_per_claim`", "10; to 1,024 (measured)", &beyond, WORK, &found);
}

fn bucket_subjects() {
    let with =
        |subjects: usize| Rc::new(Site::open(wide(), Plain::new("plain", |policy| policy.bucket_subjects = subjects)));
    let limit = Limits::BUCKET_SUBJECTS;
    let empty = with(4);
    let found = measure(limit, Box::new(move || empty.rate(SUBJECTS, 1)), |level| {
        let full = with(level);
        Box::new(move || full.rate(SUBJECTS / level * level, 1))
    });
    let full = with(limit);
    let policy = Policy { bucket_subjects: limit + 1, ..full.service.policy() };
    let refused = full.service.set_policy(policy).expect_err("too large");
    full.others_go_on();
    line("subjects in a bucket", "4; to 252 (`BUCKET_SUBJECTS`)", &told(&refused), WORK, &found);
}

fn pool_subjects() {
    let limit = large(1_000_000);
    let with = |most: usize| {
        let site = Site::open(
            wide(),
            Plain::new("plain", |policy| (policy.bucket_subjects, policy.pool_subjects) = (100, most)),
        );
        // Paused, or the first pools would be as small as what had come in by then.
        let stock = most + SUBJECTS * (rounds() + 1) * 3;
        drop(site.service.pause().expect("paused"));
        site.add(site.numbers(stock), stock);
        drop(site.service.activate().expect("active"));
        assert!(site.seats[0].wait_ready(std::time::Duration::from_secs(60)));
        site
    };
    let empty = with(18_000.min(limit / 10));
    let found = measure(limit, Box::new(move || empty.rate_of_stock(SUBJECTS, 1)), |level| {
        let full = with(level);
        Box::new(move || full.rate_of_stock(SUBJECTS, 1))
    });
    let full = Site::open(wide(), plain());
    let policy = Policy { pool_subjects: 1_000_001, ..full.service.policy() };
    let refused = full.service.set_policy(policy).expect_err("too large");
    full.others_go_on();
    let what = "subjects, claimed and reported, 100 in a bucket; empty: 18,000";
    line("`Policy::pool_subjects`", "18,000; to 1,000,000 (measured)", &told(&refused), what, &found);
}

fn max_subjects() {
    const ADDED: usize = 5_000;
    let limit = large(1_000_000);
    let with = || Rc::new(Site::open(wide(), Plain::new("plain", |policy| policy.max_subjects = limit as u64)));
    let add_rate = |site: &Site<Plain>, n: usize| {
        let start = Instant::now();
        site.add(site.numbers(n), n);
        n as f64 / start.elapsed().as_secs_f64()
    };
    let added = if crate::table::quick() { 100 } else { ADDED };
    let (empty, full) = (with(), with());
    let found = measure(limit, Box::new(move || add_rate(&empty, added)), |level| {
        let fill = level - added * (rounds() + 1) - full.service.stats().subjects_known as usize;
        full.add(full.numbers(fill), fill);
        let full = Rc::clone(&full);
        Box::new(move || add_rate(&full, added))
    });
    let intake = full.service.add_all(full.numbers(1)).expect("no error");
    assert_eq!((intake.added, intake.cut), (0, 1));
    full.work(1, 4, 1, &"ok".to_owned());
    let beyond = "no error: `Intake::cut` counts it";
    line("`Policy::max_subjects`", "the disk; measured to 1,000,000", beyond, "additions", &found);
}
