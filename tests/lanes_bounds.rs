//! The bounds of lanes: what is refused is named, what was promised is taken in, and nothing waits for ever.

mod common;
#[path = "support/kitchen.rs"]
mod kitchen;

use commissary::{Intake, LaneKey, Limits, Outcome, Policy, RefusalReason, ServiceHandle, SubjectState};
use common::{Shop, assert_adds_up, claim_one};
use kitchen::{Kitchen, command, commands, drain, kitchen, outcomes};

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
