//! Output becomes input without end: discoveries are cut by depth and budget, and each subject is worked on once a round.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use commissary::{Ask, Outcome, Policy, Seat, ServiceHandle, SubjectState};
use common::{Shop, Web, assert_adds_up};

/// Works until nothing is left; how often each subject was reported on.
fn work(shop: &Shop, seat: &Seat<Web>, leads_to: impl Fn(u64) -> Vec<u64>) -> BTreeMap<u64, u32> {
    let mut times = BTreeMap::new();
    shop.settle();
    while let Some(grant) = seat.claim(Ask::buckets(10)).unwrap().leased() {
        for lease in grant {
            let subjects: Vec<u64> = lease.subjects().collect();
            for subject in &subjects {
                *times.entry(*subject).or_insert(0) += 1;
            }
            let submitted = lease.submit(subjects.iter().map(|subject| (*subject, leads_to(*subject)))).unwrap();
            assert!(submitted.outcomes.iter().all(|outcome| *outcome == Outcome::Accepted));
        }
        shop.settle();
    }
    times
}

/// All unmarked subjects, in pages.
fn unmarked(service: &ServiceHandle<Web>, page: usize) -> Vec<u64> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let (found, next) = service.unmarked(after.as_ref(), page).unwrap();
        assert!(found.len() <= page);
        all.extend(found);
        after = next;
        if after.is_none() {
            return all;
        }
    }
}

fn web(change: impl FnOnce(&mut Policy)) -> Web {
    let mut policy = Policy::default();
    change(&mut policy);
    Web(policy)
}

/// R35: on a graph full of cycles each subject is worked on once a round, also when all are run again.
#[test]
fn a_graph_of_cycles_is_worked_on_once_a_round() {
    let shop = Shop::open();
    let service = shop.hub.register(web(|policy| policy.max_depth = 1_000)).unwrap();
    let seat = shop.seat(&service, 1);
    let ring = |subject: u64| vec![subject, (subject + 1) % 30, (subject + 29) % 30, 0];
    drop(service.add(&0).unwrap());
    let times = work(&shop, &seat, ring);
    assert_eq!((times.len(), times.values().max()), (30, Some(&1)));
    let all: Vec<u64> = (0..30).collect();
    for round in 1..=2 {
        drop(service.rerun(&all).unwrap());
        let times = work(&shop, &seat, ring);
        assert_eq!((times.len(), times.values().max()), (30, Some(&1)), "round {round} opens nothing beside itself");
    }
    let stats = service.stats();
    assert_eq!((stats.subjects_known, stats.reruns, stats.work.subjects_reported), (30, 60, 90));
    assert_adds_up(&shop.hub);
}

/// R35: a generator without end stops at the budget, and what was cut is counted.
#[test]
fn an_endless_generator_stops_at_the_budget() {
    let shop = Shop::open();
    let service = shop.hub.register(web(|policy| (policy.max_depth, policy.max_subjects) = (u16::MAX, 50))).unwrap();
    let seat = shop.seat(&service, 1);
    drop(service.add(&1).unwrap());
    let times = work(&shop, &seat, |subject| vec![2 * subject, 2 * subject + 1]);
    assert_eq!((times.len(), times.values().max()), (50, Some(&1)));
    let stats = service.stats();
    // Two discoveries each, of which all but the first subject's forty-nine successors were cut.
    assert_eq!((stats.subjects_known, stats.cut_by_budget), (50, 100 - 49));
}

/// R35: what lies too deep is kept and waits to be marked by hand; what it reveals lies deeper still.
#[test]
fn discoveries_too_deep_wait_to_be_marked_by_hand() {
    let shop = Shop::open();
    let service = shop.hub.register(web(|_| {})).unwrap();
    let seat = shop.seat(&service, 1);
    let next = |subject: u64| vec![subject + 1];
    drop(service.add(&1).unwrap());
    for step in 1..=5 {
        assert_eq!(work(&shop, &seat, next).into_iter().collect::<Vec<_>>(), [(step, 1)], "one step, no more");
        assert_eq!(unmarked(&service, 10), [step + 1]);
        assert_eq!(service.subject_state(&(step + 1)).unwrap(), SubjectState::Unmarked);
        let ticket = service.mark(&[step + 1, step, 99]).unwrap();
        shop.tick();
        let intake = ticket.wait_visible().unwrap();
        assert_eq!((intake.added, intake.duplicates), (1, 2));
    }
    drop(service.rerun(&[1, 2, 3]).unwrap());
    assert_eq!(work(&shop, &seat, next).len(), 4, "the three, and the one that was marked");
    assert_eq!(unmarked(&service, 10), [7]);
    assert_eq!(service.stats().cut_by_depth, 9);
    assert_adds_up(&shop.hub);
}

/// R30: a walk over the unmarked meets each that stays unmarked once, and none marked before; others may come and go.
#[test]
fn a_walk_over_the_unmarked_meets_each_once_while_others_change() {
    let shop = Shop::open();
    let service = shop.hub.register(web(|_| {})).unwrap();
    let seat = shop.seat(&service, 1);
    drop(service.add(&1).unwrap());
    work(&shop, &seat, |_| (100..200).collect());
    assert_eq!(unmarked(&service, 7), (100..200).collect::<Vec<_>>());
    drop(service.mark(&[100, 150]).unwrap());
    drop(service.delete(&[151]).unwrap());
    shop.tick();
    let (mut met, mut after) = (Vec::new(), None);
    for step in 0.. {
        let (page, next) = service.unmarked(after.as_ref(), 10).unwrap();
        met.extend(page);
        // Behind the walk and ahead of it.
        drop(service.mark(&[102 + step, 190 + step]).unwrap());
        shop.tick();
        after = next;
        if after.is_none() {
            break;
        }
    }
    let once: BTreeSet<u64> = met.iter().copied().collect();
    assert_eq!(once.len(), met.len(), "none twice");
    assert!([100, 150, 151].iter().all(|marked| !once.contains(marked)));
    assert!((120..190).filter(|stays| ![150, 151].contains(stays)).all(|stays| once.contains(&stays)));
    assert_eq!(service.stats().unmarked, unmarked(&service, 3).len() as u64);
}

/// R38: subjects pending for long are listed oldest first, page by page, held ones too; those done or deleted are not.
#[test]
fn subjects_pending_for_long_are_listed_oldest_first() {
    let shop = Shop::open();
    let service = shop.hub.register(web(|_| {})).unwrap();
    let seat = shop.seat(&service, 1);
    let minute = Duration::from_secs(60);
    for batch in 0..3 {
        service.add_all(batch * 10..batch * 10 + 4).unwrap();
        shop.pass(minute);
    }
    let list = |least: Duration, page: usize| {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let (found, next) = service.pending_longer_than(least, after, page).unwrap();
            all.extend(found.into_iter().map(|subject| (subject.key, subject.pending.as_secs() / 60, subject.round)));
            after = next;
            if after.is_none() {
                return all;
            }
        }
    };
    let rows = |batches: std::ops::Range<u64>| -> Vec<(u64, u64, u32)> {
        batches.flat_map(|batch| (0..4).map(move |n| (batch * 10 + n, 3 - batch, 1))).collect()
    };
    for page in [1, 3, 100] {
        assert_eq!(list(Duration::ZERO, page), rows(0..3));
        assert_eq!(list(minute + minute / 2, page), rows(0..2));
        assert_eq!(list(minute * 3, page), [], "longer, not as long");
    }
    let lease = common::claim_one(&seat);
    assert_eq!(list(Duration::ZERO, 2), rows(0..3), "held is pending too");
    let held: Vec<u64> = lease.subjects().collect();
    assert_eq!(lease.submit(held.iter().map(|subject| (*subject, vec![]))).unwrap().accepted(), 4);
    drop(service.delete(&[21]).unwrap());
    drop(service.rerun(&held[..1]).unwrap());
    shop.tick();
    let mut left = rows(0..3);
    left.retain(|(key, _, _)| !held.contains(key) && *key != 21);
    left.push((held[0], 0, 2));
    shop.pass(Duration::from_millis(1));
    assert_eq!(list(Duration::ZERO, 2), left, "run again, it is the youngest");
}
