//! Lanes: subjects of one lane are worked on in the order in which they came, by one lease at a time, with the lane's
//! state; different lanes run in parallel; whoever dies, order and state stay.

mod common;
#[path = "support/kitchen.rs"]
mod kitchen;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use commissary::{
    AddError, Ask, Claim, Crash, EmptyReason, Hub, LaneKey, Lease, LeaseError, Limits, ManualClock, Marked, MemoryDisk,
    Outcome, Policy, Registration, Seat, ServiceHandle, SubjectState,
};
use common::{Shop, assert_adds_up, claim, claim_nothing, claim_one};
use kitchen::{
    Kitchen, Log, PER_LANE, SeatOf, again, command, commands, drain, execute, kitchen, log_of, outcomes, owed, plain,
    within,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// R120: a bucket is a lane's front, in its order; until its end nothing else of the lane is handed out, and then what
/// follows, with the state that it left.
#[test]
fn a_lane_is_worked_on_in_its_order_by_one_lease_at_a_time() {
    let (shop, service, seats) = kitchen(|_| {}, 2);
    service.add_all(commands(1, 0..6)).unwrap();
    shop.settle();
    let lease = claim_one(&seats[0]);
    let view = lease.lane().unwrap();
    assert_eq!((view.key.clone(), view.version, view.reported), (LaneKey::from(1_u64), 0, 0));
    assert_eq!((owed(&lease), log_of(&lease)), (commands(1, 0..4), vec![]));
    shop.settle();
    assert!(matches!(claim_nothing(&seats[1]).reason, EmptyReason::AllLeased { .. }), "the lane runs");
    let told = service.explain(&command(1, 5)).unwrap().to_string();
    assert!(told.ends_with("now: waits in its lane"), "{told}");
    assert_eq!(outcomes(&execute(&lease, 1)), [Outcome::Accepted]);
    assert_eq!((owed(&lease), log_of(&lease)), (commands(1, 1..4), commands(1, 0..1)));
    shop.settle();
    let _ = claim_nothing(&seats[1]);
    assert_eq!(outcomes(&execute(&lease, 9)), vec![Outcome::Accepted; 3]);
    let _ = claim_nothing(&seats[1]);
    shop.settle();
    let next = claim_one(&seats[1]);
    assert_eq!((owed(&next), log_of(&next)), (commands(1, 4..6), commands(1, 0..4)));
    assert_eq!((next.lane().unwrap().version, next.lane().unwrap().reported), (4, 0));
    assert_adds_up(&shop.hub);
    drop(next);
    assert_eq!(drain(&shop, &seats[0]), commands(1, 4..6));
    let stats = service.stats();
    assert_eq!((stats.lanes_ready, stats.lanes_running, stats.laned_waiting), (0, 0, 0));
}

/// R120: two lanes provably overlap: both are leased at once, and each takes reports while the other one is held.
#[test]
fn two_lanes_overlap() {
    let (shop, service, seats) = kitchen(|_| {}, 2);
    service.add_all([command(1, 0), command(2, 0), command(1, 1), command(2, 1)]).unwrap();
    shop.settle();
    let leases = [claim_one(&seats[0]), claim_one(&seats[1])];
    let mut keys: Vec<_> = leases.iter().map(|lease| lease.lane().unwrap().key).collect();
    keys.sort();
    assert_eq!(keys, [LaneKey::from(1_u64), LaneKey::from(2_u64)]);
    assert_eq!(service.stats().lanes_running, 2);
    for most in [1, 1] {
        for lease in &leases {
            assert_eq!(outcomes(&execute(lease, most)), [Outcome::Accepted]);
        }
    }
    shop.settle();
    assert_eq!(service.stats().lanes_running, 0);
    assert_adds_up(&shop.hub);
}

/// R120: with 64 threads the order of every lane is the order of submission, no lane is ever worked on by two at once, and
/// different lanes are.
#[test]
fn sixty_four_threads_keep_the_order_of_every_lane() {
    const LANES: u64 = 24;
    const COMMANDS: u64 = 60;
    let hub = Hub::builder().durability(commissary::Durability::Os).open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Kitchen::new()).unwrap();
    let (busy, most_busy): (Vec<_>, _) = ((0..=LANES).map(|_| AtomicBool::new(false)).collect(), AtomicUsize::new(0));
    let executed = Mutex::new(BTreeMap::<u64, Log>::new());
    let start = Barrier::new(64);
    let left = AtomicUsize::new(usize::try_from(LANES * COMMANDS).unwrap());
    std::thread::scope(|scope| {
        for lane in 1..=LANES {
            // Little by little, so that lanes fall idle and come back.
            let service = service.clone();
            scope.spawn(move || {
                for place in 0..COMMANDS {
                    let ticket = service.add(&command(lane, place)).unwrap();
                    if place % 7 == lane % 7 {
                        ticket.wait_visible().unwrap();
                    }
                }
            });
        }
        for worker in 1..=64 {
            let registration = Registration::new(worker, format!("worker_{worker}"));
            let seat = hub.register_client(&registration).unwrap().client.activate(&service).unwrap();
            let (busy, most_busy, executed, start, left) = (&busy, &most_busy, &executed, &start, &left);
            scope.spawn(move || {
                start.wait();
                while left.load(Ordering::SeqCst) > 0 {
                    let Claim::Leased(grant) = seat.claim(Ask::one()).unwrap() else {
                        let _ = seat.wait_ready(Duration::from_millis(5));
                        continue;
                    };
                    for lease in grant {
                        let all = owed(&lease);
                        let lane = usize::try_from(all[0] / PER_LANE).unwrap();
                        assert!(!busy[lane].swap(true, Ordering::SeqCst), "lane {lane} is worked on by another");
                        let now = busy.iter().filter(|busy| busy.load(Ordering::SeqCst)).count();
                        most_busy.fetch_max(now, Ordering::SeqCst);
                        executed.lock().unwrap().entry(all[0] / PER_LANE).or_default().extend(&all);
                        let before = log_of(&lease);
                        assert_eq!(before, commands(all[0] / PER_LANE, 0..before.len() as u64), "the state so far");
                        busy[lane].store(false, Ordering::SeqCst);
                        let submitted = execute(&lease, 1_000);
                        assert_eq!(submitted.outcomes, vec![Outcome::Accepted; all.len()]);
                        left.fetch_sub(all.len(), Ordering::SeqCst);
                    }
                }
            });
        }
    });
    for lane in 1..=LANES {
        assert_eq!(executed.lock().unwrap()[&lane], commands(lane, 0..COMMANDS), "lane {lane}");
    }
    assert_adds_up(&hub);
    assert!(most_busy.load(Ordering::SeqCst) >= 1);
    hub.close().unwrap();
}

/// The order holds however a lease ends: released, dropped, expired, or its client deregistered. What was left is the front.
#[test]
fn a_lane_goes_on_where_a_dead_worker_left_it() {
    let (shop, service, seats) = kitchen(|_| {}, 5);
    service.add_all(commands(1, 0..12)).unwrap();
    shop.settle();
    // One command each, then it ends in its own way.
    let ways: [&dyn Fn(Lease<Kitchen>); 4] = [
        &drop,
        &|lease| drop(lease.submit_lane([(owed(&lease)[0], vec![])], &commands(1, 0..3)).unwrap()),
        &|lease| {
            let _ = lease.into_token();
            shop.pass(Duration::from_secs(2 * 3_600));
            shop.pass(Duration::from_secs(15 * 60));
        },
        &|lease| {
            let _ = lease.into_token();
            let _ = shop.client(4).deregister().unwrap();
        },
    ];
    let mut done = 0;
    for (seat, way) in seats.iter().zip(ways) {
        shop.settle();
        let lease = claim_one(seat);
        assert_eq!(owed(&lease), commands(1, done..done + 4));
        assert_eq!(log_of(&lease), commands(1, 0..done));
        done += 1;
        assert_eq!(outcomes(&execute(&lease, 1)), [Outcome::Accepted]);
        done += u64::from(seat.client_id().value() == 2);
        way(lease);
    }
    assert_eq!(drain(&shop, &seats[4]), commands(1, 5..12));
    assert_eq!(service.stats().subjects_done, 12);
}

/// A lease on a lane is there after a restart, with its token, the state and what is still owed; so is what waits behind it.
#[test]
fn a_restart_keeps_lanes_and_their_leases() {
    let (shop, service, seats) = kitchen(|_| {}, 1);
    service.add_all([commands(1, 0..6), commands(2, 0..2)].concat()).unwrap();
    shop.settle();
    let tokens: BTreeMap<LaneKey, _> = claim(&seats[0], 2)
        .into_iter()
        .map(|lease| {
            assert_eq!(outcomes(&execute(&lease, 1)), [Outcome::Accepted]);
            (lease.lane().unwrap().key, lease.into_token())
        })
        .collect();
    shop.tick();
    let shop = shop.restart();
    let (service, seats) = again(&shop, 1);
    shop.settle();
    let _ = claim_nothing(&seats[0]);
    let views = seats[0].leases().unwrap();
    assert_eq!(views.len(), 2);
    for view in views {
        let lane = view.lane.unwrap();
        let number = if lane.key == LaneKey::from(1_u64) { 1 } else { 2 };
        assert_eq!((lane.version, lane.reported), (1, 1));
        assert_eq!(lane.state::<Log>().unwrap(), commands(number, 0..1));
        assert_eq!(view.subjects, commands(number, 1..if number == 1 { 4 } else { 2 }));
    }
    let lease = seats[0].resume(&tokens[&LaneKey::from(1_u64)]).unwrap();
    assert_eq!(outcomes(&execute(&lease, 2)), vec![Outcome::Accepted; 2]);
    assert_eq!(log_of(&lease), commands(1, 0..3));
    drop(lease);
    seats[0].release(&tokens[&LaneKey::from(2_u64)]).unwrap();
    let mut rest = drain(&shop, &seats[0]);
    rest.sort_unstable();
    assert_eq!(rest, [commands(1, 3..6), commands(2, 1..2)].concat());
    // All of it was closed meanwhile; the states are what they were.
    let shop = shop.restart();
    let (service, seats) = {
        drop((service, seats));
        again(&shop, 1)
    };
    service.add_all([command(1, 6), command(2, 2)]).unwrap();
    shop.settle();
    for lease in claim(&seats[0], 2) {
        let first = owed(&lease)[0];
        assert_eq!(log_of(&lease), commands(first / PER_LANE, 0..first % PER_LANE));
    }
}

/// Of two sessions with one identity that report the same commands one is accepted, with its state; the other changes
/// nothing, and finds by looking again how far the first one came.
#[test]
fn of_two_sessions_of_one_client_one_wins() {
    let (shop, service, seats) = kitchen(|_| {}, 1);
    service.add_all(commands(1, 0..4)).unwrap();
    shop.settle();
    let one = claim_one(&seats[0]);
    let token = one.token();
    let other = seats[0].resume(&token).unwrap();
    let report =
        |at: &[u64]| commands(1, at.iter().copied()).into_iter().map(|command| (command, vec![])).collect::<Vec<_>>();
    assert_eq!(outcomes(&one.report_lane(report(&[0]), "one").unwrap()), [Outcome::Accepted]);
    // Computed from the same state as the first one's.
    assert_eq!(outcomes(&other.report_lane(report(&[0]), "other").unwrap()), [Outcome::AlreadyDone]);
    let both = other.report_lane(report(&[0, 1]), "other").unwrap();
    assert_eq!(outcomes(&both), [Outcome::AlreadyDone, Outcome::OutOfOrder]);
    assert!(both.kept);
    let conflict = other.report_lane([(command(1, 0), vec![command(2, 0)])], "other").unwrap();
    assert_eq!(outcomes(&conflict), [Outcome::Conflict]);
    let view = other.lane().unwrap();
    assert_eq!((view.version, view.reported, view.state::<String>().unwrap().as_str()), (1, 1, "one"));
    assert_eq!(outcomes(&other.report_lane(report(&[1, 2]), "other").unwrap()), vec![Outcome::Accepted; 2]);
    assert_eq!(outcomes(&one.report_lane(report(&[1]), "one").unwrap()), [Outcome::AlreadyDone]);
    assert_eq!(seats[0].leases().unwrap()[0].subjects, commands(1, 3..4));
    shop.settle();
    assert_eq!(seats[0].leases().unwrap()[0].lane.as_ref().unwrap().state::<String>().unwrap(), "other");
    assert_eq!(service.history(&command(1, 1)).unwrap().len(), 1);
    assert_eq!(service.stats().work.subjects_reported, 3);
    let _ = one.into_token();
    let _ = other.into_token();
    assert_adds_up(&shop.hub);
}

/// Reports that are not on the front, not in the lane's order or beside one that is refused change nothing, whatever else is
/// in the call.
#[test]
fn what_is_out_of_order_changes_nothing() {
    let (shop, service, seats) = kitchen(|_| {}, 1);
    service.add_all(commands(1, 0..4)).unwrap();
    shop.settle();
    let lease = claim_one(&seats[0]);
    let before = lease.lane().unwrap();
    let cases: [(&[u64], usize); 5] = [(&[1], 1), (&[1, 0], 2), (&[0, 2], 2), (&[0, 1, 3], 3), (&[3, 2, 1, 0], 4)];
    for (places, refused) in cases {
        let reports = || commands(1, places.iter().copied()).into_iter().map(|command| (command, vec![]));
        for submitted in [
            lease.submit_lane(reports(), "no").unwrap(),
            lease.submit(reports()).unwrap(),
            lease.report(reports()).unwrap(),
        ] {
            assert_eq!(submitted.outcomes, vec![Outcome::OutOfOrder; refused], "{places:?}");
            assert!(submitted.kept && submitted.put_back == 0, "{places:?}");
        }
    }
    let rejected = lease.submit_lane([(command(1, 0), vec![]), (command(1, 1), vec![0])], "no").unwrap();
    assert_eq!(outcomes(&rejected), [Outcome::OutOfOrder, Outcome::Rejected { reason: "as asked for".to_owned() }]);
    let stray = lease.submit_lane([(command(1, 0), vec![]), (command(2, 1), vec![])], "no").unwrap();
    assert_eq!(outcomes(&stray), [Outcome::OutOfOrder, Outcome::NotInBucket]);
    assert_eq!((lease.lane().unwrap(), owed(&lease)), (before, commands(1, 0..4)));
    assert_eq!(lease.submit_lane([], "no").unwrap_err(), LeaseError::NoReports);
    let large = vec![1_u8; 70_000];
    let bytes = postcard::to_extend(&large, Vec::new()).unwrap().len();
    assert_eq!(
        lease.submit_lane([(command(1, 0), vec![])], &large).unwrap_err(),
        LeaseError::StateTooLarge { bytes, limit: 65_536 }
    );
    shop.tick();
    assert_eq!(service.stats().subjects_done, 0);
    // Without a state the order is the same, and the state stays.
    assert_eq!(outcomes(&execute(&lease, 1)), [Outcome::Accepted]);
    assert_eq!(outcomes(&lease.report([(command(1, 1), vec![])]).unwrap()), [Outcome::Accepted]);
    let view = lease.lane().unwrap();
    assert_eq!((view.version, view.state::<Log>().unwrap()), (2, commands(1, 0..1)));
    shop.tick();
    let seat = &service.stats_of_seat(1);
    assert_eq!(seat.out_of_order, 3 * 12 + 2);
    assert_eq!(lease.release(), ());
    let rest = drain(&shop, &seats[0]);
    assert_eq!(rest, commands(1, 2..4));
}

/// A lease that is over changes neither results nor state.
#[test]
fn a_stale_holder_changes_no_state() {
    let (shop, service, seats) = kitchen(|policy| policy.late = commissary::Late::AcceptIfOpen, 2);
    service.add_all(commands(1, 0..3)).unwrap();
    shop.settle();
    let lease = claim_one(&seats[0]);
    shop.pass(Duration::from_secs(2 * 3_600));
    shop.pass(Duration::from_secs(15 * 60));
    shop.settle();
    let other = claim_one(&seats[1]);
    let late = lease.report_lane([(command(1, 0), vec![])], "late").unwrap();
    assert_eq!(outcomes(&late), [Outcome::Stale], "also where late reports are taken");
    assert!(lease.lane().is_none() && other.lane().is_some(), "it is another one's");
    assert_eq!(outcomes(&execute(&other, 1)), [Outcome::Accepted]);
    assert_eq!(outcomes(&lease.report_lane([(command(1, 0), vec![])], "late").unwrap()), [Outcome::Stale]);
    shop.settle();
    assert_eq!(log_of(&other), commands(1, 0..1));
    drop((lease, other));
    assert_eq!(drain(&shop, &seats[1]), commands(1, 1..3));
    assert_eq!(service.stats().late, 0);
}

/// Subjects of no lane are worked on as ever beside lanes, and neither keeps the other from being handed out.
#[test]
fn laned_and_other_subjects_share_a_service() {
    let (shop, service, seats) = kitchen(|_| {}, 1);
    let mixed = (0..40).flat_map(|place| [place + 1, command(1 + place % 5, place / 5)]);
    service.add_all(mixed).unwrap();
    shop.settle();
    let leases = claim(&seats[0], 10);
    let laned = leases.iter().filter(|lease| lease.lane().is_some()).count();
    assert!((1..10).contains(&laned), "both are among the first: {laned}");
    for lease in &leases {
        let first = owed(lease)[0];
        assert!(owed(lease).iter().all(|command| command / PER_LANE == first / PER_LANE), "{:?}", owed(lease));
        assert_eq!(lease.lane().is_some(), first >= PER_LANE);
    }
    let ordinary = leases.iter().find(|lease| lease.lane().is_none()).unwrap();
    assert_eq!(ordinary.submit_lane(plain(ordinary), "state").unwrap_err(), LeaseError::NoLane);
    drop(leases);
    let done = drain(&shop, &seats[0]);
    assert_eq!(done.len(), 80);
    for lane in 1..=5 {
        let of_lane: Vec<u64> = done.iter().copied().filter(|command| command / PER_LANE == lane).collect();
        assert_eq!(of_lane, commands(lane, 0..8));
    }
}

/// R120: a re-run of a command goes to its lane's end, in the lane that it had.
#[test]
fn a_rerun_goes_to_the_end_of_its_lane() {
    let (shop, service, seats) = kitchen(|_| {}, 1);
    service.add_all(commands(1, 0..5)).unwrap();
    shop.settle();
    let lease = claim_one(&seats[0]);
    assert_eq!(outcomes(&execute(&lease, 2)), vec![Outcome::Accepted; 2]);
    shop.settle();
    let ticket = service.rerun(&commands(1, [1, 0])).unwrap();
    shop.settle();
    assert_eq!(ticket.wait_visible().unwrap().added, 2);
    drop(lease);
    assert_eq!(drain(&shop, &seats[0]), commands(1, [2, 3, 4, 1, 0]));
    assert_eq!(service.result(&command(1, 1)).unwrap().unwrap().version, 2);
    service.add(&command(1, 5)).unwrap().progress().unwrap();
    shop.settle();
    let view = claim_one(&seats[0]).lane().unwrap();
    assert_eq!((view.version, view.state::<Log>().unwrap()), (7, commands(1, [0, 1, 2, 3, 4, 1, 0])));
}

/// The mailbox is exact: what a lane owes beyond `lane_subjects` is refused, counted and can be offered again; what reports
/// reveal is taken in; other lanes and subjects of none are not concerned.
#[test]
fn a_full_lane_refuses_additions_and_nothing_is_lost() {
    let (shop, service, seats) = kitchen(|policy| policy.lane_subjects = 3, 1);
    let all = [commands(1, 0..5), commands(2, 0..3), (1..=5).collect()].concat();
    let intake = service.add_all(all).unwrap();
    assert_eq!((intake.added, intake.full, intake.duplicates, intake.cut), (11, 2, 0, 0));
    assert_eq!(service.subject_state(&command(1, 3)).unwrap(), SubjectState::Unknown);
    assert_eq!(service.stats().lane_full, 2);
    let offer = |shop: &Shop, service: &ServiceHandle<Kitchen>, place| {
        let ticket = service.add(&command(1, place)).unwrap();
        shop.tick();
        let intake = ticket.wait_visible().unwrap();
        (intake.added, intake.full, intake.duplicates)
    };
    assert_eq!(offer(&shop, &service, 0), (0, 0, 1), "known before full");
    shop.settle();
    let leases = claim(&seats[0], 4);
    let lease = leases.iter().find(|lease| owed(lease) == commands(1, 0..3)).unwrap();
    assert_eq!(offer(&shop, &service, 3), (0, 1, 0), "what is held is owed");
    assert_eq!(outcomes(&execute(lease, 1)), [Outcome::Accepted]);
    shop.tick();
    for lease in leases {
        let _ = lease.into_token();
    }
    assert_eq!((offer(&shop, &service, 3), offer(&shop, &service, 4)), ((1, 0, 0), (0, 1, 0)));
    // The bound and the count are in the journal.
    let shop = Shop::on(shop.disk.without_store(), shop.clock.clone(), Limits::default());
    let service = shop.hub.register(Kitchen::with(|policy| policy.lane_subjects = 3)).unwrap();
    let seats = shop.seats(&service, 1);
    shop.tick();
    assert_eq!((offer(&shop, &service, 4), service.stats().lane_full), ((0, 1, 0), 5));
    // A command that another lane sends is never lost.
    let views = seats[0].leases().unwrap();
    let view = views.iter().find(|view| view.subjects.first() == Some(&command(2, 0))).unwrap();
    let sends = vec![(command(2, 0), commands(1, [7, 8]))];
    let sent = seats[0].report_lane(&view.token, sends, &commands(2, 0..1)).unwrap();
    shop.tick();
    let intake = sent.ticket.wait_visible().unwrap();
    assert_eq!((intake.added, intake.full), (2, 0));
    service.set_policy(Kitchen::with(|policy| policy.lane_subjects = 6).0).unwrap();
    assert_eq!((offer(&shop, &service, 4), offer(&shop, &service, 5)), ((1, 0, 0), (0, 1, 0)));
    for view in views {
        seats[0].release(&view.token).unwrap();
    }
    let of_lane = |done: Vec<u64>| done.into_iter().filter(|command| command / PER_LANE == 1).collect::<Vec<_>>();
    assert_eq!(of_lane(drain(&shop, &seats[0])), commands(1, [1, 2, 3, 7, 8, 4]));
    assert_eq!(offer(&shop, &service, 5), (1, 0, 0));
    assert!(service.set_policy(Kitchen::with(|policy| policy.lane_subjects = 0).0).is_err());
}

/// R126: what a report sends to a lane is a command, and is never too deep; discoveries of no lane are bounded as ever, and a
/// retraction that looks at either again agrees.
#[test]
fn what_is_sent_to_a_lane_is_never_too_deep() {
    for keep_unmarked in [true, false] {
        let shop = Shop::open();
        let policy = |policy: &mut Policy| (policy.max_depth, policy.keep_unmarked) = (0, keep_unmarked);
        let service = shop.hub.register(Kitchen::with(policy)).unwrap();
        let seats = shop.seats(&service, 2);
        service.add(&command(1, 0)).unwrap().progress().unwrap();
        for hop in 1..=3 {
            shop.settle();
            let lease = claim_one(&seats[0]);
            let sends = vec![command(1 + hop, 0), 7, command(9, 0)];
            let sent = lease.submit([(command(hop, 0), sends)]).unwrap();
            assert_eq!(outcomes(&sent), [Outcome::Accepted]);
            shop.tick();
            let intake = sent.ticket.wait_visible().unwrap();
            assert_eq!(intake.added, if hop == 1 { 2 } else { 1 }, "to both lanes, once each");
            // Out of the way.
            shop.settle();
            if hop == 1 {
                let ninth = claim(&seats[1], 2).into_iter().find(|lease| owed(lease) == [command(9, 0)]).unwrap();
                assert_eq!(outcomes(&ninth.submit([(command(9, 0), vec![])]).unwrap()), [Outcome::Accepted]);
            }
        }
        let unlaned = if keep_unmarked { SubjectState::Unmarked } else { SubjectState::Unknown };
        assert_eq!(service.subject_state(&7).unwrap(), unlaned);
        // The other client's report on what the first one sent holds nothing up.
        let retraction = service.retract_all(2).unwrap();
        assert_eq!((retraction.tainted, retraction.reopened), (0, 1));
        assert_eq!(service.stats().subjects_known, 5);
        assert_adds_up(&shop.hub);
    }
}

/// A deleted command is not handed out; one that is held is reported as ever, and dropped: its place in the order passes.
#[test]
fn deleted_commands_leave_their_lane() {
    let (shop, service, seats) = kitchen(|_| {}, 1);
    service.add_all(commands(1, 0..10)).unwrap();
    shop.settle();
    let lease = claim_one(&seats[0]);
    let _ = service.delete(&commands(1, [1, 3, 5, 9])).unwrap();
    shop.settle();
    assert_adds_up(&shop.hub);
    assert_eq!(outcomes(&execute(&lease, 2)), vec![Outcome::Accepted; 2]);
    shop.settle();
    assert_eq!(service.result(&command(1, 1)).unwrap().map(|finding| finding.key), None);
    assert_eq!((lease.lane().unwrap().version, log_of(&lease)), (2, commands(1, 0..2)));
    drop(lease);
    shop.settle();
    // In a bucket that waits: it comes back without it, and nobody else is passed by.
    assert_eq!(service.stats().buckets_ready, 1);
    let _ = service.delete(&commands(1, [2])).unwrap();
    assert_eq!(drain(&shop, &seats[0]), commands(1, [4, 6, 7, 8]));
    assert_eq!(service.stats().discarded, 1);
    service.add_all(commands(1, [1])).unwrap();
    assert_eq!(drain(&shop, &seats[0]), commands(1, [1]), "a new life");
}

/// R126: of a command that is deleted while it is held the state stays, and so do the commands that it sends to other lanes: it was
/// executed wholly. What a retraction took away sends nothing.
#[test]
fn a_command_deleted_while_it_is_held_sends_what_its_state_says() {
    let (shop, service, seats) = kitchen(|_| {}, 2);
    service.add_all([command(1, 0)]).unwrap();
    shop.settle();
    let lease = claim_one(&seats[0]);
    let _ = service.delete(&[command(1, 0)]).unwrap();
    let submitted = lease.report_lane([(command(1, 0), commands(2, 0..2))], &commands(1, [0])).unwrap();
    assert_eq!(outcomes(&submitted), [Outcome::Accepted]);
    shop.settle();
    assert_eq!(service.subject_state(&command(1, 0)).unwrap(), SubjectState::Unknown);
    assert_eq!(service.stats().discarded, 1);
    assert_adds_up(&shop.hub);
    assert_eq!(drain(&shop, &seats[1]), commands(2, 0..2), "what it sent");
    // Withdrawn: a hub without the liar would not know of it.
    service.add(&command(1, 1)).unwrap().progress().unwrap();
    shop.settle();
    let liar = claim_one(&seats[0]);
    let _ = liar.report_lane([(command(1, 1), commands(2, [5]))], &commands(1, [1])).unwrap();
    shop.settle();
    let held = claim_one(&seats[1]);
    assert_eq!(owed(&held), commands(2, [5]));
    let _ = service.suspend(1).unwrap();
    assert_eq!(service.retract_all(1).unwrap().tainted, 1);
    let submitted = held.report_lane([(command(2, 5), commands(3, [0]))], &commands(2, [5])).unwrap();
    assert_eq!(outcomes(&submitted), [Outcome::Accepted]);
    shop.settle();
    assert_eq!(service.subject_state(&command(3, 0)).unwrap(), SubjectState::Unknown);
    assert_adds_up(&shop.hub);
}

/// After a restart a deleted command that is held has no name: it goes with the next report, and the lane goes on.
#[test]
fn a_deleted_command_does_not_block_a_lease_from_before_a_restart() {
    let (shop, service, seats) = kitchen(|_| {}, 1);
    service.add_all(commands(1, 0..7)).unwrap();
    shop.settle();
    let token = claim_one(&seats[0]).into_token();
    let _ = service.delete(&commands(1, [0, 2])).unwrap();
    shop.settle();
    let shop = shop.restart();
    let (service, seats) = again(&shop, 1);
    let view = &seats[0].leases().unwrap()[0];
    assert_eq!(view.subjects, commands(1, [1, 3]));
    let lease = seats[0].resume(&token).unwrap();
    assert_eq!(owed(&lease), commands(1, [1, 3]));
    assert_eq!(outcomes(&execute(&lease, 1)), [Outcome::Accepted]);
    assert_eq!((lease.lane().unwrap().version, lease.lane().unwrap().reported), (3, 3));
    assert_eq!(outcomes(&execute(&lease, 1)), [Outcome::Accepted]);
    assert_eq!(drain(&shop, &seats[0]), commands(1, 4..7));
    service.add(&command(1, 8)).unwrap().progress().unwrap();
    shop.settle();
    assert_eq!(log_of(&claim_one(&seats[0])), commands(1, [1, 3, 4, 5, 6]));
}

/// R126: after a restart a command that was deleted while it was held cannot send any more: a report on it is refused with all
/// that came with it, also the state, and what is owed is reported without it.
#[test]
fn a_deleted_command_reported_after_a_restart_changes_nothing() {
    let (shop, service, seats) = kitchen(|_| {}, 1);
    service.add_all(commands(1, 0..3)).unwrap();
    shop.settle();
    let token = {
        let lease = claim_one(&seats[0]);
        assert_eq!(outcomes(&execute(&lease, 1)), [Outcome::Accepted]);
        lease.into_token()
    };
    let _ = service.delete(&commands(1, [0, 1])).unwrap();
    shop.settle();
    let shop = shop.restart();
    let (service, seats) = again(&shop, 1);
    let lease = seats[0].resume(&token).unwrap();
    let both = || [(command(1, 1), commands(2, [0])), (command(1, 2), commands(2, [1]))];
    let sent = lease.report_lane(both(), &commands(1, 0..3)).unwrap();
    assert_eq!((outcomes(&sent), sent.kept), (&[Outcome::OutOfOrder, Outcome::OutOfOrder][..], true));
    let alone = lease.submit_lane(both().into_iter().take(1), &commands(1, 0..2)).unwrap();
    assert_eq!((outcomes(&alone), alone.kept), (&[Outcome::OutOfOrder][..], true));
    assert_eq!((log_of(&lease), owed(&lease)), (commands(1, 0..1), commands(1, 2..3)));
    let repeat = lease.report([(command(1, 0), vec![])]).unwrap();
    assert_eq!(outcomes(&repeat), [Outcome::AlreadyDone], "reported while it had its name");
    assert_eq!(outcomes(&execute(&lease, 1)), [Outcome::Accepted]);
    shop.settle();
    assert_eq!(service.subject_state(&command(2, 0)).unwrap(), SubjectState::Unknown);
    service.add(&command(1, 3)).unwrap().progress().unwrap();
    shop.settle();
    assert_eq!(log_of(&claim_one(&seats[0])), commands(1, [0, 2]));
    assert_adds_up(&shop.hub);
}

/// Commands that only a retracted report sent go out of their lanes, waiting or held; what it did to the state of its own
/// lane stays.
#[test]
fn a_retraction_takes_commands_out_of_lanes() {
    let (shop, service, seats) = kitchen(|_| {}, 2);
    service.add_all([command(1, 0), command(2, 0), command(3, 0)]).unwrap();
    shop.settle();
    let mut liar: Vec<_> = claim(&seats[0], 3);
    liar.sort_by_key(owed);
    let sends = [commands(2, 1..8), vec![], vec![]];
    for (lease, sends) in liar.iter().zip(sends) {
        let submitted = lease.report_lane([(owed(lease)[0], sends)], &owed(lease)).unwrap();
        assert_eq!(outcomes(&submitted), [Outcome::Accepted]);
    }
    shop.settle();
    let held = claim_one(&seats[1]);
    assert_eq!(owed(&held), commands(2, 1..5));
    let _ = service.suspend(1).unwrap();
    let retraction = service.retract_all(1).unwrap();
    assert_eq!((retraction.tainted, retraction.reopened), (7, 3));
    shop.settle();
    assert_adds_up(&shop.hub);
    drop(held);
    let mut done = drain(&shop, &seats[1]);
    done.sort_unstable();
    assert_eq!(done, [command(1, 0), command(2, 0), command(3, 0)]);
    service.add(&command(1, 1)).unwrap().progress().unwrap();
    shop.settle();
    let view = claim_one(&seats[1]).lane().unwrap();
    assert_eq!((view.version, view.state::<Log>().unwrap()), (2, commands(1, [0, 0])));
}

/// What is in a lane keeps its place: it cannot be made urgent, neither waiting nor held, now or after a restart.
#[test]
fn a_command_in_a_lane_cannot_be_made_urgent() {
    let (shop, service, seats) = kitchen(|_| {}, 1);
    service.add_all([commands(1, 0..6), vec![1, 2]].concat()).unwrap();
    shop.settle();
    let (marked, _) = service.prioritize(&[command(1, 5), command(1, 0), 2]).unwrap();
    assert_eq!(marked, [Marked::Laned, Marked::Laned, Marked::Urgent]);
    shop.settle();
    assert_adds_up(&shop.hub);
    let first = claim_one(&seats[0]);
    assert_eq!(owed(&first), [2]);
    drop(first);
    let shop = shop.restart();
    let (_service, seats) = again(&shop, 1);
    let done = drain(&shop, &seats[0]);
    assert_eq!(done.into_iter().filter(|command| *command >= PER_LANE).collect::<Vec<_>>(), commands(1, 0..6));
}

/// A lane's key is 1 to `key_bytes` bytes: an addition is refused, and so is a report that sends such a command.
#[test]
fn a_lane_has_a_name_of_bounded_length() {
    let (shop, service, seats) = kitchen(|_| {}, 1);
    assert!(matches!(service.add(&command(99, 0)), Err(AddError::Lane { place: 0, bytes: 0, limit: 256 })));
    let long = service.add_all([command(1, 0), command(98, 0), command(1, 1)]);
    assert!(matches!(long, Err(AddError::Lane { place: 1, bytes: 10_000, limit: 256 })));
    shop.settle();
    let lease = claim_one(&seats[0]);
    let sent = lease.submit_lane([(command(1, 0), vec![command(99, 0)])], "no").unwrap();
    assert!(matches!(outcomes(&sent), [Outcome::Rejected { reason }] if reason.contains("1 to 256 (key_bytes)")));
    assert_eq!(lease.lane().unwrap().version, 0);
}

/// A crash at any moment loses only what was not promised: a command is done just if the state says so, in the order of the
/// lane, and what is not done comes again.
#[test]
fn a_crash_at_any_moment_keeps_results_and_state_together() {
    let (shop, service, seats) = kitchen(|_| {}, 3);
    let check = |disk: &MemoryDisk, promised: usize| {
        let shop = Shop::on(disk.after(Crash::Process), ManualClock::default(), Limits::default());
        let (service, _) = again(&shop, 3);
        shop.pass(Duration::from_secs(2 * 3_600));
        shop.pass(Duration::from_secs(15 * 60));
        let known: Vec<u64> = commands(1, 0..10)
            .into_iter()
            .filter(|key| service.subject_state(key).unwrap() != SubjectState::Unknown)
            .collect();
        assert_eq!(known, commands(1, 0..known.len() as u64));
        let done: Vec<u64> =
            known.iter().copied().filter(|key| service.subject_state(key).unwrap() == SubjectState::Done).collect();
        assert_eq!(done, commands(1, 0..done.len() as u64));
        assert!(done.len() >= promised);
        if known.len() > done.len() {
            let lease = claim_one(&shop.seat(&service, 1));
            assert_eq!((log_of(&lease), lease.lane().unwrap().version), (done.clone(), done.len() as u64));
            assert_eq!(owed(&lease)[0], command(1, done.len() as u64));
        }
        assert_eq!(drain(&shop, &shop.seat(&service, 2)), commands(1, done.len() as u64..known.len() as u64));
    };
    let crash = |promised| {
        for how in [Crash::Process, Crash::Power] {
            check(&shop.disk.after(how), promised);
        }
        check(&shop.disk.without_store(), promised);
    };
    let mut promised = 0;
    for place in 0..10 {
        let _ = service.add(&command(1, place)).unwrap();
        crash(promised);
    }
    shop.settle();
    for round in 0.. {
        let Claim::Leased(mut grant) = seats[round % 3].claim(Ask::one()).unwrap() else { break };
        crash(promised);
        let lease = grant.pop().unwrap();
        for most in [1 + round % 3, 1] {
            if lease.owed().next().is_some() {
                assert_eq!(outcomes(&execute(&lease, most))[0], Outcome::Accepted);
            }
            crash(promised);
        }
        drop(lease);
        crash(promised);
        shop.tick();
        promised = usize::try_from(service.stats().subjects_done).unwrap();
        crash(promised);
        shop.settle();
    }
    assert_eq!(promised, 10);
}

/// Lanes and their states survive a compaction, and a store made anew from its journal.
#[test]
fn a_compaction_keeps_lanes_and_states() {
    let (shop, service, seats) = kitchen(|_| {}, 1);
    service.add_all([commands(1, 0..6), commands(2, 0..1)].concat()).unwrap();
    shop.settle();
    let leases = claim(&seats[0], 2);
    for lease in &leases {
        assert_eq!(outcomes(&execute(lease, 2))[0], Outcome::Accepted);
    }
    for lease in leases {
        let _ = lease.into_token();
    }
    shop.tick();
    shop.hub.close().unwrap();
    let builder = || Hub::builder().manual().clock(shop.clock.clone()).seed(7);
    builder().compact(commissary::Compact::default()).open_in_memory(&shop.disk).unwrap().close().unwrap();
    let shop = Shop::on(shop.disk.without_store(), shop.clock.clone(), Limits::default());
    let (service, seats) = again(&shop, 1);
    let views = seats[0].leases().unwrap();
    assert_eq!((views.len(), &views[0].subjects), (1, &commands(1, 2..4)));
    assert_eq!(views[0].lane.as_ref().unwrap().state::<Log>().unwrap(), commands(1, 0..2));
    seats[0].release(&views[0].token).unwrap();
    assert_eq!(drain(&shop, &seats[0]), commands(1, 2..6));
    service.add(&command(2, 1)).unwrap().progress().unwrap();
    shop.settle();
    assert_eq!(log_of(&claim_one(&seats[0])), commands(2, 0..1));
}

/// A backlog of other work does not hold a lane up: while lanes have work, pools are short, and half of each is theirs.
#[test]
fn a_lane_is_not_held_up_by_other_work() {
    let (shop, service, seats) = kitchen(|_| {}, 1);
    service.add_all((1..=4_000).chain(commands(1, 0..20))).unwrap();
    service.add_all(5_000..=9_000).unwrap();
    let (mut claims, mut left) = (0, 20);
    // Until it is read: what came before it goes before it.
    while service.stats().lanes_running == 0 {
        shop.settle();
        let lease = claim_one(&seats[0]);
        assert!(lease.lane().is_none());
        assert_eq!(lease.submit(plain(&lease)).unwrap().accepted(), 4);
    }
    while left > 0 {
        shop.settle();
        let lease = claim_one(&seats[0]);
        claims += 1;
        if lease.lane().is_some() {
            left -= lease.len();
            execute(&lease, 4).ticket.progress().unwrap();
        } else {
            assert_eq!(lease.submit(plain(&lease)).unwrap().accepted(), 4);
        }
    }
    // What was ready when the lane was read, and then, for each of its five buckets, two pools of one bucket more.
    assert!(claims <= 50, "{claims} claims for five buckets of the lane");
}

/// By name and in JSON: the lane with the lease, the state with the reports; and a typed caller reads it.
#[test]
fn lanes_by_name_have_states_of_json() {
    let (shop, service, seats) = kitchen(|_| {}, 1);
    let bytes = |value: &Value| value.to_string().into_bytes();
    service.add_all(commands(1, 0..3)).unwrap();
    shop.settle();
    let named = shop.hub.service("kitchen").unwrap();
    let seat = named.activate(&shop.client(2), commissary::Capability::default()).unwrap();
    let answer = seat.claim(b"{}").unwrap();
    let lease = &answer["leases"][0];
    let empty = json!({ "key": "\0\0\0\0\0\0\0\u{1}", "version": 0, "reported": 0, "state": null });
    assert_eq!(lease["lane"], empty);
    let body = |at: u64, state: &Value| {
        bytes(&json!({ "token": lease["token"], "reports": [[command(1, at), []]], "state": state }))
    };
    assert_eq!(seat.report(&body(0, &json!([5]))).unwrap().0["outcomes"], json!(["accepted"]));
    assert_eq!(seat.report(&body(2, &json!([6]))).unwrap().0["outcomes"], json!(["out_of_order"]));
    let view = &seat.leases().unwrap()["leases"][0];
    assert_eq!((&view["lane"]["state"], &view["lane"]["version"]), (&json!([5]), &json!(1)));
    assert_eq!(view["subjects"], json!(commands(1, 1..3)));
    assert_eq!(seat.submit(&body(1, &json!(null))).unwrap().0["put_back"], 1);
    shop.settle();
    let lease = claim_one(&seats[0]);
    assert_eq!(lease.lane().unwrap().state::<Option<u8>>().unwrap(), None);
    let error = lease.lane().unwrap().state::<Log>().unwrap_err();
    assert_eq!(error.lane, LaneKey::from(1_u64));
    assert_eq!(
        outcomes(&lease.submit_lane([(command(1, 2), vec![command(2, 0)])], &7_u8).unwrap()),
        [Outcome::Accepted]
    );
    service.add(&command(1, 3)).unwrap().progress().unwrap();
    shop.settle();
    let answer = seat.claim(&bytes(&json!({ "buckets": 2 }))).unwrap();
    let leases = answer["leases"].as_array().unwrap();
    let typed = leases.iter().find(|lease| lease["subjects"][0] == command(1, 3)).unwrap();
    assert_eq!(typed["lane"]["state"], json!({ "postcard": "07" }));
}

const MINUTE: Duration = Duration::from_secs(60);

/// R130: a command whose deadline has passed is not shown, its report is refused with all that came with it, and it ends with the
/// reports on what follows it: without a result, without an effect on the state, counted once.
#[test]
fn an_expired_command_has_no_effect() {
    let (shop, service, seats) = kitchen(|policy| policy.bucket_subjects = 9, 1);
    let all = [within(1, 1, 0), command(1, 1), within(1, 1, 2), within(2, 1, 3), command(1, 4), within(2, 1, 5)];
    service.add_all(all).unwrap();
    shop.settle();
    let lease = claim_one(&seats[0]);
    assert_eq!(owed(&lease), all);
    // To the millisecond.
    shop.pass(Duration::from_millis(59_898));
    assert_eq!(owed(&lease), all);
    shop.pass(Duration::from_millis(1));
    assert_eq!(owed(&lease), [all[1], all[3], all[4], all[5]]);
    assert_eq!(seats[0].leases().unwrap()[0].subjects, owed(&lease));
    let reports = |of: &[u64]| of.iter().map(|command| (*command, vec![])).collect::<Vec<_>>();
    let refused = lease.submit_lane(reports(&all[..2]), "no").unwrap();
    assert_eq!((outcomes(&refused), refused.kept), (&[Outcome::Expired, Outcome::OutOfOrder][..], true));
    assert_eq!((refused.expired, lease.lane().unwrap().version), (0, 0));
    // What stands before, between and next to what is reported ends with it.
    let passed = lease.report_lane(reports(&[all[1]]), &vec![all[1]]).unwrap();
    assert_eq!((outcomes(&passed), passed.expired), (&[Outcome::Accepted][..], 2));
    assert_eq!((log_of(&lease), lease.lane().unwrap().version), (vec![all[1]], 3));
    assert_eq!(outcomes(&lease.report(reports(&all[..1])).unwrap()), [Outcome::AlreadyDone]);
    shop.tick();
    let state = |command: u64| service.subject_state(&command).unwrap();
    assert_eq!(
        [state(all[0]), state(all[1]), state(all[2])],
        [SubjectState::Expired, SubjectState::Done, SubjectState::Expired]
    );
    assert!(service.result(&all[0]).unwrap().is_none() && service.history(&all[0]).unwrap().is_empty());
    let told = service.explain(&all[0]).unwrap().to_string();
    assert!(told.contains("expired while client 1 (client_1) held it: its deadline had passed"), "{told}");
    assert!(told.contains("now: expired, without a result"), "{told}");
    assert_eq!((service.stats().expired, service.stats_of_seat(1).past_deadline), (2, 1));
    // By itself, and from the front only.
    shop.pass(MINUTE);
    assert_eq!(owed(&lease), [all[4]]);
    let passed = lease.report([]).unwrap();
    assert_eq!((passed.expired, lease.lane().unwrap().version), (1, 4));
    let nothing = lease.report([]).unwrap();
    assert_eq!((nothing.expired, nothing.kept), (0, true));
    let last = lease.report_lane(reports(&[all[4]]), &vec![all[1], all[4]]).unwrap();
    assert_eq!((last.expired, last.kept), (1, false));
    shop.settle();
    assert_eq!((service.stats().expired, service.stats().subjects_pending()), (4, 0));
    assert_eq!(service.stats().work.subjects_reported, 6);
    assert_adds_up(&shop.hub);
    // A re-run has no deadline; neither does a second life, if it is told no other.
    let _ = service.rerun(&all[..1]).unwrap();
    assert_eq!(drain(&shop, &seats[0]), all[..1]);
    assert_eq!((state(all[0]), service.stats().subjects_done), (SubjectState::Done, 6));
}

/// R130: a command that expired ends with those that stand next to it, not before those in front of it are reported.
#[test]
fn a_command_that_expired_behind_one_that_is_owed_waits_for_that() {
    let (shop, service, seats) = kitchen(|policy| policy.bucket_subjects = 9, 1);
    let all = [command(1, 0), command(1, 1), within(1, 1, 2)];
    service.add_all(all).unwrap();
    shop.settle();
    let lease = claim_one(&seats[0]);
    shop.pass(MINUTE);
    for (command, expired) in [(all[0], 0), (all[1], 1)] {
        let submitted = lease.report([(command, vec![])]).unwrap();
        assert_eq!((outcomes(&submitted), submitted.expired), (&[Outcome::Accepted][..], expired));
    }
    shop.settle();
    assert_eq!((service.stats().expired, service.stats().subjects_pending()), (1, 0));
    assert_adds_up(&shop.hub);
}

/// R130: what expires while it waits is never handed to anyone, and the lane goes on; also after a restart, and when all of
/// a bucket has expired.
#[test]
fn what_expires_while_it_waits_is_not_handed_out() {
    let (shop, service, seats) = kitchen(|_| {}, 1);
    let all: Vec<u64> = (0..6).map(|place| within(1, 1, place)).chain([command(1, 7)]).collect();
    service.add_all(all.clone()).unwrap();
    service.add(&within(9, 2, 0)).unwrap().progress().unwrap();
    shop.settle();
    shop.pass(MINUTE);
    let shop = shop.restart();
    let (service, seats_now) = {
        drop((service, seats));
        again(&shop, 1)
    };
    shop.settle();
    let leases = claim(&seats_now[0], 2);
    let mut shown: Vec<_> = leases.iter().map(owed).collect();
    shown.sort();
    assert_eq!(shown, [vec![], vec![within(9, 2, 0)]]);
    let token = leases.iter().find(|lease| owed(lease).is_empty()).unwrap().token();
    // Held over a restart they are as expired.
    for lease in leases {
        let _ = lease.into_token();
    }
    shop.tick();
    let shop = shop.restart();
    let (service, seats_now) = {
        drop((service, seats_now));
        again(&shop, 1)
    };
    let passed = seats_now[0].submit(&token, []).unwrap();
    assert_eq!((passed.expired, passed.put_back, passed.kept), (4, 0, false));
    let waiting: Vec<_> = seats_now[0].leases().unwrap();
    seats_now[0].release(&waiting[0].token).unwrap();
    assert_eq!(drain(&shop, &seats_now[0]).len(), 2, "the one that has not expired, and the one without a deadline");
    assert_eq!((service.stats().expired, service.stats().subjects_pending()), (6, 0));
    assert_eq!(service.stats().discarded, 0);
}

/// What is done to a hub in the comparison with a plain model.
#[derive(Debug, Clone, Copy)]
enum Op {
    Add { lane: u64, commands: u64 },
    Claim { seat: usize, buckets: u32 },
    Report { lease: usize, most: usize, last: bool, sends: u64 },
    Release { lease: usize },
    Expire,
    Deregister { seat: usize },
    Delete { lane: u64, nth: usize },
    Rerun { lane: u64, nth: usize },
    Prioritize { lane: u64, nth: usize },
    Restart,
    Compact,
    Crash { store: bool },
}

fn op() -> impl Strategy<Value = Op> {
    let lane = 1_u64..4;
    prop_oneof![
        4 => (lane.clone(), 1_u64..9).prop_map(|(lane, commands)| Op::Add { lane, commands }),
        6 => (0_usize..3, 1_u32..4).prop_map(|(seat, buckets)| Op::Claim { seat, buckets }),
        8 => (any::<usize>(), 0_usize..5, any::<bool>(), 0_u64..3)
            .prop_map(|(lease, most, last, sends)| Op::Report { lease, most, last, sends }),
        2 => any::<usize>().prop_map(|lease| Op::Release { lease }),
        1 => Just(Op::Expire),
        1 => (0_usize..3).prop_map(|seat| Op::Deregister { seat }),
        2 => (lane.clone(), any::<usize>()).prop_map(|(lane, nth)| Op::Delete { lane, nth }),
        2 => (lane.clone(), any::<usize>()).prop_map(|(lane, nth)| Op::Rerun { lane, nth }),
        1 => (lane, any::<usize>()).prop_map(|(lane, nth)| Op::Prioritize { lane, nth }),
        1 => Just(Op::Restart),
        1 => Just(Op::Compact),
        1 => any::<bool>().prop_map(|store| Op::Crash { store }),
    ]
}

/// A lane, as a plain list.
#[derive(Debug, Default)]
struct Line {
    added: u64,
    /// What is to be executed, in order; the front may be held.
    queue: Vec<u64>,
    /// What was executed, deleted ones that were held included.
    log: Log,
    /// Executed and not deleted.
    done: Vec<u64>,
    version: u64,
}

/// A lease in the model: whose, and what it owes; and whether that has a name still: what was deleted has none after a restart.
struct Held {
    seat: usize,
    token: commissary::LeaseToken,
    owed: Vec<(u64, bool)>,
}

impl Held {
    fn named(&self) -> Vec<u64> {
        self.owed.iter().filter(|(_, named)| *named).map(|(command, _)| *command).collect()
    }
}

struct Model {
    shop: Shop,
    service: ServiceHandle<Kitchen>,
    seats: Vec<Seat<Kitchen>>,
    lines: HashMap<u64, Line>,
    held: BTreeMap<u64, Held>,
}

impl Model {
    fn new() -> Self {
        let (shop, service, seats) = kitchen(Self::policy, 3);
        Self { shop, service, seats, lines: HashMap::new(), held: BTreeMap::new() }
    }

    fn policy(policy: &mut Policy) {
        (policy.bucket_subjects, policy.max_depth) = (3, u16::MAX);
    }

    fn reopen(self, disk: MemoryDisk) -> Self {
        let Self { shop, lines, mut held, .. } = self;
        let shop = Shop::on(disk, shop.clock.clone(), Limits::default());
        let service = shop.hub.register(Kitchen::with(Self::policy)).unwrap();
        let seats = shop.seats(&service, 3);
        // Deleted ones are shown no more, and go with the next report or the end.
        for (lane, held) in &mut held {
            for (command, named) in &mut held.owed {
                *named &= lines[lane].queue.contains(command);
            }
        }
        Self { shop, service, seats, lines, held }
    }

    fn lane_of(key: &LaneKey) -> u64 {
        u64::from_be_bytes(key.as_bytes().try_into().unwrap())
    }

    fn run(mut self, op: Op) -> Self {
        match op {
            Op::Add { lane, commands: n } => {
                let line = self.lines.entry(lane).or_default();
                let new = commands(lane, line.added..line.added + n);
                line.added += n;
                line.queue.extend(&new);
                self.service.add_all(new).unwrap();
            }
            Op::Claim { seat, buckets } => self.claim(seat, buckets),
            Op::Report { lease, most, last, sends } => self.report(lease, most, last, sends),
            Op::Release { lease } => {
                if let Some(lane) = self.pick(lease) {
                    let held = self.held.remove(&lane).unwrap();
                    self.seats[held.seat].release(&held.token).unwrap();
                }
            }
            Op::Expire => {
                self.held.clear();
                self.shop.pass(Duration::from_secs(2 * 3_600));
                self.shop.pass(Duration::from_secs(15 * 60));
            }
            Op::Deregister { seat } => {
                let client = self.shop.client(seat as u64 + 1);
                let _ = client.deregister().unwrap();
                self.held.retain(|_, held| held.seat != seat);
                self.seats[seat] = self.shop.seat(&self.service, seat as u64 + 1);
            }
            Op::Delete { lane, nth } => {
                let line = self.lines.entry(lane).or_default();
                let known = line.queue.len() + line.done.len();
                if known > 0 {
                    let nth = nth % known;
                    let key = if nth < line.queue.len() {
                        line.queue.remove(nth)
                    } else {
                        line.done.remove(nth - line.queue.len())
                    };
                    let _ = self.service.delete(&[key]).unwrap();
                }
            }
            Op::Rerun { lane, nth } => {
                let line = self.lines.entry(lane).or_default();
                if !line.done.is_empty() {
                    let key = line.done.remove(nth % line.done.len());
                    line.queue.push(key);
                    let _ = self.service.rerun(&[key]).unwrap();
                }
            }
            Op::Prioritize { lane, nth } => {
                let queue = &self.lines.entry(lane).or_default().queue;
                if let Some(key) = nth.checked_rem(queue.len()).and_then(|nth| queue.get(nth)) {
                    let (marked, ticket) = self.service.prioritize(&[*key]).unwrap();
                    assert_eq!(marked, [Marked::Laned]);
                    drop(ticket);
                }
            }
            Op::Compact => {
                self.shop.hub.close().unwrap();
                let builder = Hub::builder().manual().clock(self.shop.clock.clone()).seed(7);
                builder
                    .compact(commissary::Compact::default())
                    .open_in_memory(&self.shop.disk)
                    .unwrap()
                    .close()
                    .unwrap();
                let disk = self.shop.disk.clone();
                self = self.reopen(disk);
            }
            Op::Restart => {
                self.shop.hub.close().unwrap();
                let disk = self.shop.disk.clone();
                self = self.reopen(disk);
            }
            Op::Crash { store } => {
                let disk = if store { self.shop.disk.after(Crash::Power) } else { self.shop.disk.without_store() };
                self = self.reopen(disk);
            }
        }
        self.shop.settle();
        self
    }

    fn pick(&self, nth: usize) -> Option<u64> {
        self.held.keys().nth(nth.checked_rem(self.held.len())?).copied()
    }

    fn claim(&mut self, seat: usize, buckets: u32) {
        let ask = || self.seats[seat].claim(Ask::buckets(buckets)).unwrap().leased();
        // Twice: all of the next pool may have been taken back.
        let again = || {
            self.shop.settle();
            ask()
        };
        let Some(grant) = ask().or_else(again) else {
            let idle = |(lane, line): (&u64, &Line)| !self.held.contains_key(lane) && !line.queue.is_empty();
            assert!(!self.lines.iter().any(idle), "what waits in a lane that does not run is to be had");
            return;
        };
        for lease in grant {
            let view = lease.lane().unwrap();
            let lane = Self::lane_of(&view.key);
            let (line, owed) = (&self.lines[&lane], owed(&lease));
            assert!((1..=3).contains(&owed.len()));
            assert_eq!(owed, line.queue[..owed.len()], "the front of the lane");
            assert_eq!((view.state::<Log>().unwrap(), view.version), (line.log.clone(), line.version));
            let owed = owed.into_iter().map(|command| (command, true)).collect();
            let held = Held { seat, token: lease.into_token(), owed };
            assert!(self.held.insert(lane, held).is_none(), "one lease at a time");
        }
    }

    fn report(&mut self, lease: usize, most: usize, last: bool, sends: u64) {
        let Some(lane) = self.pick(lease) else { return };
        let (held, line) = (self.held.get_mut(&lane).unwrap(), self.lines.get_mut(&lane).unwrap());
        let views = self.seats[held.seat].leases().unwrap();
        let view = views.iter().find(|view| view.token == held.token).expect("the lease is there");
        assert_eq!(view.subjects, held.named());
        let state = view.lane.as_ref().unwrap();
        assert_eq!((state.state::<Log>().unwrap(), state.version), (line.log.clone(), line.version));
        let done: Vec<u64> = held.named().into_iter().take(most).collect();
        let Some(last_done) = done.last() else { return };
        // Those without a name go with the ones before and after them.
        let at = held.owed.iter().position(|(command, _)| command == last_done).unwrap() + 1;
        let nameless = held.owed[at..].iter().take_while(|(_, named)| !named).count();
        line.version += held.owed.drain(..at + nameless).count() as u64;
        line.log.extend(&done);
        for command in &done {
            if let Some(at) = line.queue.iter().position(|waiting| waiting == command) {
                line.done.push(line.queue.remove(at));
            }
        }
        let log = line.log.clone();
        // The first of them sends some to the next lane.
        let target = lane % 3 + 1;
        let line = self.lines.entry(target).or_default();
        let sent = commands(target, line.added..line.added + sends);
        line.added += sends;
        line.queue.extend(&sent);
        let mut sent = Some(sent);
        let reports = done.iter().map(|command| (*command, sent.take().unwrap_or_default()));
        let seat = &self.seats[held.seat];
        let submitted = if last {
            seat.submit_lane(&held.token, reports, &log).unwrap()
        } else {
            seat.report_lane(&held.token, reports, &log).unwrap()
        };
        assert_eq!(submitted.outcomes, vec![Outcome::Accepted; done.len()]);
        if !submitted.kept {
            self.held.remove(&lane);
        }
    }

    fn finish(mut self) {
        assert_adds_up(&self.shop.hub);
        for (_, held) in std::mem::take(&mut self.held) {
            self.seats[held.seat].release(&held.token).unwrap();
        }
        let done = drain(&self.shop, &self.seats[0]);
        for (lane, line) in &self.lines {
            let of_lane: Vec<u64> = done.iter().copied().filter(|command| command / PER_LANE == *lane).collect();
            assert_eq!(of_lane, line.queue, "lane {lane}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(std::env::var("CASES").map_or(64, |cases| cases.parse().unwrap())))]

    /// R120: whatever is done to leases, clients, commands and the hub, every lane is what a plain list would be.
    #[test]
    fn lanes_are_as_plain_lists(ops in proptest::collection::vec(op(), 1..40)) {
        let mut model = Model::new();
        for op in ops {
            model = model.run(op);
        }
        model.finish();
    }
}
