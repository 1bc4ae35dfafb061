//! The bounds of lanes: what is refused is named, what was promised is taken in, and nothing waits for ever.

mod common;
#[path = "support/kitchen.rs"]
mod kitchen;

use std::time::Duration;

use commissary::{EmptyReason, Intake, LaneKey, Limits, Outcome, Policy, RefusalReason, ServiceHandle, SubjectState};
use common::{Shop, assert_adds_up, claim_nothing, claim_one};
use kitchen::{Kitchen, PER_LANE, command, commands, drain, kitchen, outcomes};

/// The places that an addition refused, each with its limit.
fn refused(intake: &Intake) -> Vec<(u64, RefusalReason)> {
    intake.refused.iter().map(|refusal| (refusal.place, refusal.reason.clone())).collect()
}

fn full(lane: u64, limit: u64) -> RefusalReason {
    RefusalReason::LaneFull { lane: LaneKey::from(lane), limit }
}

/// R120: who offers subjects to full lanes learns which of them were refused, by which lane and by which limit; from one
/// subject, a list as one change, and a list of more subjects than a record holds.
#[test]
fn a_full_lane_names_what_it_refuses() {
    let (shop, service, _seats) = kitchen(|policy| (policy.lane_subjects, policy.max_subjects) = (2, 3_006), 1);
    let intake = service.add_all([commands(1, 0..4), commands(2, 0..3), commands(1, [0, 4])].concat()).unwrap();
    assert_eq!((intake.added, intake.duplicates, intake.full, intake.cut), (4, 1, 4, 0));
    assert_eq!(refused(&intake), [(2, full(1, 2)), (3, full(1, 2)), (6, full(2, 2)), (8, full(1, 2))]);
    let one = service.add(&command(1, 5)).unwrap();
    shop.tick();
    let intake = one.wait_visible().unwrap();
    assert_eq!(refused(&intake), [(0, full(1, 2))]);
    assert_eq!(
        intake.refused[0].to_string(),
        r"subject 0: lane \x00\x00\x00\x00\x00\x00\x00\x01 owes 2 subjects (lane_subjects)"
    );
    let named = shop.hub.service("kitchen").unwrap();
    let ticket = named.add(format!("[{}, {}]", command(3, 0), command(2, 9)).as_bytes()).unwrap();
    shop.tick();
    let told = serde_json::to_value(ticket.wait_visible().unwrap()).unwrap();
    assert_eq!(told["refused"][0]["reason"]["lane_full"]["lane"], "\0\0\0\0\0\0\0\u{2}");
    assert_eq!((&told["refused"][0]["place"], &told["added"]), (&1.into(), &1.into()));
    // Over several records, and by the other limit: the places are those of the call.
    let many = (1..=3_000).chain([command(1, 6)]).chain(3_001..=3_003);
    let intake = service.add_all(many).unwrap();
    let budget = |place| (place, RefusalReason::Budget { limit: 3_006 });
    assert_eq!((intake.added, intake.full, intake.cut), (3_001, 1, 2));
    assert_eq!(refused(&intake), [(3_000, full(1, 2)), budget(3_002), budget(3_003)]);
    assert_eq!((service.stats().lane_full, service.stats().cut_by_budget), (7, 2));
}

/// R126: what lanes send is taken in however many subjects the service knows: its sender's state says that it was sent. Additions
/// and discoveries of no lane are bounded as ever; all of it is told, journaled, and the same after a retraction was undone.
#[test]
fn what_is_sent_to_a_lane_is_taken_in_beyond_the_budget() {
    let bounded = |policy: &mut Policy| policy.max_subjects = 2;
    let (shop, service, seats) = kitchen(bounded, 2);
    let intake = service.add_all([command(1, 0), command(1, 1), command(2, 0)]).unwrap();
    assert_eq!(refused(&intake), [(2, RefusalReason::Budget { limit: 2 })]);
    shop.settle();
    let lease = claim_one(&seats[0]);
    let sends = vec![command(3, 0), 7, command(4, 0), command(1, 0)];
    let sent = lease.submit_lane([(command(1, 0), sends)], &commands(1, [0])).unwrap();
    assert_eq!(outcomes(&sent), [Outcome::Accepted]);
    shop.tick();
    let intake = sent.ticket.wait_visible().unwrap();
    assert_eq!((intake.added, intake.cut, intake.duplicates, intake.refused.len()), (2, 1, 1, 0));
    let check = |shop: &Shop, service: &ServiceHandle<Kitchen>| {
        let known = [command(3, 0), command(4, 0), 7].map(|key| service.subject_state(&key).unwrap());
        assert_eq!(known, [SubjectState::Pending, SubjectState::Pending, SubjectState::Unknown]);
        assert_eq!((service.stats().subjects_known, service.stats().cut_by_budget), (4, 2));
        let told = service.explain(&command(4, 0)).unwrap().to_string();
        assert!(!told.contains("cut") && told.contains("now: waits"), "{told}");
        let told = service.explain(&7).unwrap().to_string();
        assert!(told.contains("and cut: beyond the 2 subjects allowed (max_subjects)"), "{told}");
        assert_adds_up(&shop.hub);
    };
    check(&shop, &service);
    let shop = Shop::on(shop.disk.without_store(), shop.clock.clone(), Limits::default());
    let service = shop.hub.register(Kitchen::with(bounded)).unwrap();
    shop.settle();
    check(&shop, &service);
    let retraction = service.retract_all(1).unwrap();
    assert_eq!((retraction.tainted, service.stats().subjects_known), (2, 2));
    let intake = service.add_all([command(5, 0)]).unwrap();
    assert_eq!(intake.cut, 1);
    assert_eq!(service.restore(retraction.id).unwrap().tainted, 2);
    assert_eq!(service.stats().subjects_known, 4);
    let mut done = drain(&shop, &shop.seat(&service, 2));
    done.sort_unstable();
    assert_eq!(done, [command(1, 1), command(3, 0), command(4, 0)]);
}

/// While as many subjects of lanes wait in memory as may, nothing more is read: not of other lanes, not of none. Workers are
/// told that all is leased, and until when. Once what runs is over, all of it is worked on, in order.
#[test]
fn crowded_lanes_hold_up_what_is_behind_them_and_not_for_ever() {
    let shop = Shop::open_with(Limits { laned_waiting: 8, ..Limits::default() });
    let service = shop.hub.register(Kitchen::new()).unwrap();
    let seats = shop.seats(&service, 3);
    service.add_all(commands(1, 0..20)).unwrap();
    shop.settle();
    let stuck = claim_one(&seats[0]);
    for behind in [command(2, 0), command(2, 1), 5, command(1, 20)] {
        service.add(&behind).unwrap().progress().unwrap();
        shop.settle();
    }
    assert_eq!((service.stats().laned_waiting, service.stats().subjects_pending()), (16, 24));
    let told = claim_nothing(&seats[1]);
    assert!(matches!(told.reason, EmptyReason::AllLeased { .. }), "{told:?}");
    assert_adds_up(&shop.hub);
    // Nobody reports: the lease ends by its time, and the lane goes on.
    let _ = stuck.into_token();
    shop.pass(Duration::from_secs(2 * 3_600));
    shop.pass(Duration::from_secs(15 * 60));
    let done = drain(&shop, &seats[1]);
    let of_lane = |lane| done.iter().copied().filter(|command| command / PER_LANE == lane).collect::<Vec<_>>();
    assert_eq!((of_lane(1), of_lane(2), of_lane(0)), (commands(1, 0..21), commands(2, 0..2), vec![5]));
}

/// With a memory for no more than one waiting subject everything is worked on as ever, each lane in its order.
#[test]
fn a_memory_for_one_subject_is_enough_for_all() {
    let shop = Shop::open_with(Limits { laned_waiting: 1, ..Limits::default() });
    let service = shop.hub.register(Kitchen::new()).unwrap();
    let seat = shop.seat(&service, 1);
    let all: Vec<u64> = (0..30).flat_map(|place| [command(1 + place % 3, place / 3), 1 + place]).collect();
    for some in all.chunks(7) {
        service.add_all(some.iter().copied()).unwrap();
        shop.settle();
    }
    let done = drain(&shop, &seat);
    assert_eq!(done.len(), all.len());
    for lane in 1..=3 {
        let of_lane: Vec<u64> = done.iter().copied().filter(|command| command / PER_LANE == lane).collect();
        assert_eq!(of_lane, commands(lane, 0..10));
    }
}
