//! Malfunction of clients: symptoms, levels and their reasons; requirement rows R10 (detection), R45 and R48.

mod common;

use std::time::Duration;

use commissary::{
    AdminError, Ask, Claim, ClaimError, Crash, EventKind, Lease, LeaseError, Level, Limits, MemoryDisk, Outcome,
    Policy, Reporter, Seat, Service, ServiceHandle, Symptom, Verdict, Watch,
};
use common::{Plain, Shop, assert_adds_up, claim, claim_one, report_all, reports};

/// The default interval.
const INTERVAL: Duration = Duration::from_secs(600);

/// A service whose reports are their own category. The report 99 breaks the plugin, 200 is in no category.
struct Graded(Policy);

impl Service for Graded {
    type Subject = u64;
    type Report = u8;

    fn id(&self) -> &'static str {
        "graded"
    }

    fn policy(&self) -> Policy {
        self.0.clone()
    }

    fn judge(&self, _subject: &u64, _report: &u8, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }

    fn category(&self, report: &u8) -> Option<u8> {
        assert_ne!(*report, 99, "as the report asked for");
        Some(*report)
    }
}

/// A plain service that watches as told.
fn watching(shop: &Shop, change: impl FnOnce(&mut Watch)) -> ServiceHandle<Plain> {
    shop.hub.register(Plain::with("plain", |policy| change(&mut policy.watch))).unwrap()
}

/// A shop whose service watches as told, `n` subjects, the clients 1 and 2, and a lease that client 2 holds.
fn at_work(n: u64, change: impl FnOnce(&mut Watch)) -> (Shop, ServiceHandle<Plain>, [Seat<Plain>; 2], Lease<Plain>) {
    let shop = Shop::open();
    let service = watching(&shop, change);
    let seats = [1, 2].map(|id| shop.seat(&service, id));
    shop.stock(&service, n);
    let held = claim_one(&seats[1]);
    (shop, service, seats, held)
}

fn level<S: Service>(service: &ServiceHandle<S>, client: u64) -> Level {
    service.seat_stats(client).expect("it was activated").level
}

/// Presents another's token three times: a bad interval by default.
fn forge(seat: &Seat<Plain>, other: &Lease<Plain>) {
    for _ in 0..3 {
        assert_eq!(seat.submit(&other.token(), []).unwrap_err(), LeaseError::NotOwner);
    }
}

/// Lets a client forge for so many intervals.
fn forge_for(shop: &Shop, seat: &Seat<Plain>, other: &Lease<Plain>, intervals: usize) {
    for _ in 0..intervals {
        forge(seat, other);
        shop.pass(INTERVAL);
    }
}

/// A holder that crashed: it neither reports nor gives back.
fn forget(lease: Lease<Plain>) {
    let _token = lease.into_token();
}

fn refused(seat: &Seat<Plain>) -> String {
    match seat.claim(Ask::one()) {
        Err(ClaimError::Quarantined { why }) => why,
        other => panic!("not quarantined: {other:?}"),
    }
}

/// R48: three bad intervals in a row make a suspect, three more a quarantined client, whose claims are refused with the
/// reason. What it holds may be reported; others are served as ever.
#[test]
fn forger_is_suspected_then_quarantined_and_told_why() {
    let (shop, service, [forger, honest], others) = at_work(40, |_| {});
    let held = claim_one(&forger);
    forge_for(&shop, &forger, &others, 2);
    assert_eq!(level(&service, 1), Level::Healthy);
    forge_for(&shop, &forger, &others, 1);
    assert_eq!(level(&service, 1), Level::Suspect);
    assert_eq!(claim(&forger, 2).len(), 2, "a suspect is served as before");
    forge_for(&shop, &forger, &others, 2);
    assert_eq!(level(&service, 1), Level::Suspect);
    forge_for(&shop, &forger, &others, 1);
    let stats = service.seat_stats(1).unwrap();
    assert_eq!(stats.level, Level::Quarantined);
    let why = "3 bad intervals in a row; the last scored 100, from 100 on it is bad (tokens of others: 3, from 3 on)";
    assert_eq!((stats.why.as_deref(), refused(&forger).as_str()), (Some(why), why));
    let all = service.stats();
    assert_eq!((all.suspect_seats, all.quarantined_seats), (0, 1));
    let unhealthy = service.unhealthy();
    assert_eq!(unhealthy.iter().map(|seat| seat.client.value()).collect::<Vec<_>>(), [1]);
    report_all(&held);
    report_all(&others);
    assert_eq!((level(&service, 2), service.seat_stats(2).unwrap().why), (Level::Healthy, None));
    report_all(&claim_one(&honest));
    shop.tick();
    assert_adds_up(&shop.hub);
}

/// R48: a level, its reason and its streak's beginning survive a crash, a restart and the loss of the store.
#[test]
fn level_and_reason_survive_every_restart() {
    let shop = Shop::open();
    let service = watching(&shop, |_| {});
    let [forger, suspect, honest] = [1, 2, 3].map(|id| shop.seat(&service, id));
    shop.stock(&service, 40);
    let others = claim_one(&honest);
    for round in 0..6 {
        forge(&forger, &others);
        if round < 3 {
            forge(&suspect, &others);
        }
        shop.pass(INTERVAL);
    }
    let before = [1, 2, 3].map(|id| service.seat_stats(id).map(|seat| (seat.level, seat.why)));
    assert_eq!([1, 2, 3].map(|id| level(&service, id)), [Level::Quarantined, Level::Suspect, Level::Healthy]);
    let rebuilt = |disk: &MemoryDisk| Shop::on(disk.without_store(), shop.clock.clone(), Limits::default());
    for shop in [shop.after(Crash::Power), shop.after(Crash::Process), rebuilt(&shop.disk.after(Crash::Process))] {
        let service = watching(&shop, |_| {});
        let after = [1, 2, 3].map(|id| service.seat_stats(id).map(|seat| (seat.level, seat.why)));
        assert_eq!(after, before);
        let forger = shop.seat(&service, 1);
        assert_eq!(Some(refused(&forger)), before[0].clone().unwrap().1);
    }
}

/// R48 and R18: each change of a level is an event with its cause; the client's story tells it, and how it is now; so does
/// the graph. All of it also after a restart.
#[test]
fn levels_and_their_causes_are_told() {
    let (shop, _service, [forger, _honest], others) = at_work(40, |_| {});
    forge_for(&shop, &forger, &others, 6);
    let (why, shop) = (refused(&forger), shop.restart());
    let service = watching(&shop, |_| {});
    let story = shop.hub.explain_client(1).unwrap();
    let told: Vec<&str> = story.steps.iter().map(|step| step.text.as_str()).collect();
    let [suspected, quarantined] = [2, 3].map(|step| told[step].strip_suffix(&why).unwrap_or_default());
    assert_eq!(suspected, "suspected for plain: ", "{told:?}");
    assert_eq!(quarantined, "quarantined for plain, its claims are refused: ", "{told:?}");
    assert!(story.now.ends_with(&format!("; quarantined for plain, its claims are refused: {why}")), "{}", story.now);
    assert!(!shop.hub.explain_client(2).unwrap().to_string().contains("quarantine"));

    service.clear(1).map(drop).unwrap();
    shop.tick();
    let events = shop.hub.events(0).unwrap().map(|event| event.unwrap().kind);
    let changes: Vec<(Level, String)> = events
        .filter(|event| event.client().is_some_and(|client| client.value() == 1))
        .filter(|event| event.service().is_some_and(|service| service.id == "plain"))
        .filter_map(|event| match event {
            EventKind::LevelChanged { level, why, .. } => Some((level, why)),
            _ => None,
        })
        .collect();
    let cleared = "cleared by an administrator".to_owned();
    let expected = [(Level::Suspect, why.clone()), (Level::Quarantined, why), (Level::Healthy, cleared)];
    assert_eq!(changes, expected);
    let story = shop.hub.explain_client(1).unwrap();
    assert_eq!(story.steps.last().unwrap().text, "trusted again for plain: cleared by an administrator");
    assert!(story.now.ends_with("refused: nothing"), "{}", story.now);
}

/// R48 and R47: the graph shows who is not trusted.
#[test]
fn the_graph_shows_levels() {
    let (shop, _service, [forger, _honest], others) = at_work(40, |_| {});
    forge_for(&shop, &forger, &others, 3);
    let (mut json, mut dot) = (Vec::new(), Vec::new());
    shop.hub.export_json(&mut json).unwrap();
    shop.hub.export_dot(&mut dot).unwrap();
    let graph: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let levels = [0, 1].map(|client| graph["clients"][client]["seats"][0]["level"].clone());
    assert_eq!(levels, ["Suspect", "Healthy"]);
    let dot = String::from_utf8(dot).unwrap();
    assert_eq!(dot.matches("label=\"active, suspect, 0 leases\"").count(), 1, "{dot}");
    assert_eq!(dot.matches("label=\"active, ").count(), 2, "{dot}");
}

/// R48: an administrator lifts a quarantine; from there on the client begins anew, and that survives a restart.
#[test]
fn administrator_clears_a_quarantined_client() {
    let (shop, service, [forger, _honest], others) = at_work(40, |_| {});
    forge_for(&shop, &forger, &others, 6);
    refused(&forger);
    shop.pass(Duration::from_secs(30 * 24 * 3_600));
    let honest = shop.seat(&service, 2);
    assert_eq!(level(&service, 1), Level::Quarantined, "time alone lifts nothing");
    let ticket = service.clear(1).unwrap();
    shop.tick();
    ticket.wait_durable().unwrap();
    let stats = service.seat_stats(1).unwrap();
    assert_eq!((stats.level, stats.why.as_deref()), (Level::Healthy, Some("cleared by an administrator")));
    let forger = shop.seat(&service, 1);
    drop(claim_one(&forger));
    let others = claim_one(&honest);
    forge_for(&shop, &forger, &others, 2);
    assert_eq!(level(&service, 1), Level::Healthy, "two bad intervals are two");
    forge_for(&shop, &forger, &others, 1);
    assert_eq!(level(&service, 1), Level::Suspect);
    drop(service.clear(1).unwrap());
    shop.tick();
    let shop = shop.after(Crash::Power);
    assert_eq!(level(&watching(&shop, |_| {}), 1), Level::Healthy);
}

/// R48: who is not known cannot be cleared; clearing a healthy client changes nothing, not even the journal.
#[test]
fn clearing_who_needs_none_changes_nothing() {
    let shop = Shop::open();
    let service = watching(&shop, |_| {});
    assert_eq!(service.clear(9).unwrap_err(), AdminError::UnknownClient { id: 9 });
    drop(shop.client(1));
    shop.tick();
    let bytes = shop.disk.journal_bytes();
    drop(service.clear(1).unwrap());
    shop.tick();
    assert_eq!((shop.disk.journal_bytes(), service.seat_stats(1)), (bytes, None), "no seat, no record");
    let _seat = shop.seat(&service, 1);
    shop.tick();
    let bytes = shop.disk.journal_bytes();
    drop(service.clear(1).unwrap());
    shop.tick();
    assert_eq!((shop.disk.journal_bytes(), service.seat_stats(1).unwrap().why), (bytes, None));
}

/// R48: only if the settings say so, time makes a quarantined client a suspect, to the very interval, also over a restart.
#[test]
fn quarantine_ends_by_time_only_if_told_so() {
    let lasting = |watch: &mut Watch| watch.quarantine = Some(Duration::from_secs(3_000));
    let (shop, _service, [forger, honest], others) = at_work(40, lasting);
    forge_for(&shop, &forger, &others, 6);
    for _ in 0..2 {
        shop.pass(INTERVAL);
    }
    // What is journaled says how late it is.
    forget(claim_one(&honest));
    shop.tick();
    let shop = shop.after(Crash::Power);
    let service = watching(&shop, lasting);
    shop.tick();
    for _ in 0..2 {
        shop.pass(INTERVAL);
        assert_eq!(level(&service, 1), Level::Quarantined);
    }
    shop.pass(INTERVAL);
    let stats = service.seat_stats(1).unwrap();
    assert_eq!((stats.level, stats.why.as_deref()), (Level::Suspect, Some("the quarantine of 3000s is over")));
    drop(claim_one(&shop.seat(&service, 1)));
}

/// R48: six good intervals in a row make a suspect healthy; intervals in which nothing happens neither help nor harm.
#[test]
fn suspect_becomes_healthy_by_good_intervals_only() {
    let (shop, service, [suspect, honest], others) = at_work(400, |_| {});
    forge_for(&shop, &suspect, &others, 2);
    for _ in 0..20 {
        shop.pass(INTERVAL);
    }
    let others = claim_one(&honest);
    forge_for(&shop, &suspect, &others, 1);
    assert_eq!(level(&service, 1), Level::Suspect, "the idle intervals did not break the row");
    for good in 0..6 {
        assert_eq!(level(&service, 1), Level::Suspect, "after {good} good intervals");
        report_all(&claim_one(&suspect));
        shop.pass(INTERVAL);
        shop.pass(INTERVAL);
    }
    let stats = service.seat_stats(1).unwrap();
    assert_eq!((stats.level, stats.why.as_deref()), (Level::Healthy, Some("6 good intervals in a row")));
}

/// R48: by policy a suspect gets one bucket a claim, without being blamed for asking for more.
#[test]
fn suspect_gets_one_bucket_if_told_so() {
    let (shop, service, [suspect, honest], others) = at_work(400, |watch| watch.suspect_one_bucket = true);
    assert_eq!(claim(&suspect, 3).len(), 3);
    forge_for(&shop, &suspect, &others, 3);
    let Claim::Leased(grant) = suspect.claim(Ask::buckets(3)).unwrap() else { panic!("there are buckets") };
    assert_eq!((grant.len(), grant.asked, grant.limit, grant.clamped), (1, 3, 1, true));
    assert_eq!(service.seat_stats(1).unwrap().faults.over_ask, 0);
    assert_eq!(claim(&honest, 3).len(), 3);
}

/// R48: a level is of one client for one service, and cannot be shed by registering again or by a suspension lifted.
#[test]
fn level_is_per_service_and_sticks_to_the_client() {
    let (shop, service, [forger, _honest], others) = at_work(40, |_| {});
    let other_service = shop.hub.register(Plain::new("other")).unwrap();
    let elsewhere = shop.seat(&other_service, 1);
    shop.stock(&other_service, 40);
    forge_for(&shop, &forger, &others, 6);
    assert_eq!((level(&service, 1), level(&other_service, 1)), (Level::Quarantined, Level::Healthy));
    report_all(&claim_one(&elsewhere));
    let why = refused(&forger);
    drop(shop.hub.client(1).unwrap().deregister().unwrap());
    let forger = shop.seat(&service, 1);
    assert_eq!(refused(&forger), why);
    drop(service.suspend(1).unwrap());
    assert_eq!(forger.claim(Ask::one()).unwrap_err(), ClaimError::Suspended, "the administrator's bar comes first");
    drop(service.reinstate(1).unwrap());
    assert_eq!(forger.claim(Ask::one()).unwrap_err(), ClaimError::Inactive);
    assert_eq!(refused(&shop.seat(&service, 1)), why);
}

/// R48: deregistering before each sample and coming back after it hides nothing.
#[test]
fn forger_cannot_hide_behind_deregistration() {
    let shop = Shop::open();
    let service = watching(&shop, |_| {});
    let honest = shop.seat(&service, 2);
    shop.stock(&service, 40);
    let others = claim_one(&honest);
    for _ in 0..6 {
        let forger = shop.seat(&service, 1);
        shop.tick();
        drop(claim_one(&forger));
        forge(&forger, &others);
        drop(shop.hub.client(1).unwrap().deregister().unwrap());
        shop.pass(INTERVAL);
    }
    assert_eq!(level(&service, 1), Level::Quarantined);
}

/// R48 and R80: clients that crash again and again, and clients whose reports always come late, stay healthy.
#[test]
fn crashes_and_slow_links_quarantine_nobody() {
    let shop = Shop::open();
    let service = shop
        .hub
        .register(Plain::with("plain", |policy| {
            (policy.lease, policy.grace) = (Duration::from_secs(200), Duration::from_secs(60));
        }))
        .unwrap();
    let [crasher, slow] = [shop.seat(&service, 1), shop.seat(&service, 2)];
    shop.stock(&service, 4_000);
    for _ in 0..20 {
        // One bucket is done, then it crashes with eight in hand, and has forgotten them.
        report_all(&claim_one(&crasher));
        (0..8).for_each(|_| forget(claim_one(&crasher)));
        shop.tick();
        // Its reports come after the grace, all of them.
        let late: Vec<_> = (0..5).map(|_| claim_one(&slow)).collect();
        let late: Vec<_> = late.into_iter().map(|lease| (reports(&lease, "ok"), lease.into_token())).collect();
        shop.pass(INTERVAL / 2);
        shop.pass(INTERVAL / 2);
        for (reports, token) in late {
            let submitted = slow.submit(&token, reports).unwrap();
            assert!(submitted.outcomes.iter().all(|outcome| *outcome == Outcome::Stale), "{submitted:?}");
        }
    }
    assert!(service.seat_stats(1).unwrap().work.buckets_expired >= 152);
    assert!(service.seat_stats(2).unwrap().faults.stale >= 400);
    assert_eq!((level(&service, 1), level(&service, 2)), (Level::Healthy, Level::Healthy));
}

/// R48: who lets everything die and still asks is found, though it takes and loses in different intervals; who died for
/// good with as much in hand is not.
#[test]
fn hoarder_is_found_and_the_dead_are_not() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", |policy| policy.grace = Duration::ZERO)).unwrap();
    let [hoarder, dead] = [shop.seat(&service, 1), shop.seat(&service, 2)];
    shop.stock(&service, 4_000);
    let take = |seat: &Seat<Plain>| {
        claim(seat, 10).into_iter().for_each(forget);
        shop.tick();
    };
    (0..6).for_each(|_| take(&dead));
    for _ in 0..8 {
        if level(&service, 1) == Level::Quarantined {
            break;
        }
        (0..3).for_each(|_| take(&hoarder));
        // Two hours until they die, and one interval more: the next are taken after the sample that saw the deaths.
        for _ in 0..14 {
            shop.pass(INTERVAL);
        }
    }
    let stats = service.seat_stats(1).unwrap();
    assert_eq!(stats.level, Level::Quarantined, "{stats:?}");
    assert!(stats.why.unwrap().contains("buckets hoarded"));
    assert_eq!(service.seat_stats(2).unwrap().work.buckets_expired, 60);
    assert_eq!((level(&service, 2), service.seat_stats(2).unwrap().why), (Level::Healthy, None));
}

/// R48: reports that come faster than the work can be done are found; the same number after the time it takes is not,
/// though they come at one moment, and in a later interval than the work.
#[test]
fn reports_faster_than_work_are_found() {
    let shop = Shop::open();
    let service = shop
        .hub
        .register(Plain::with("plain", |policy| {
            policy.bucket_subjects = 180;
            policy.watch.min_subject_time = Duration::from_secs(5);
        }))
        .unwrap();
    let [fast, honest] = [shop.seat(&service, 1), shop.seat(&service, 2)];
    shop.stock(&service, 18_000);
    let mut held = claim_one(&honest);
    for minute in 1..=150 {
        shop.pass(Duration::from_secs(60));
        if minute % 16 == 0 {
            report_all(&held);
            held = claim_one(&honest);
        }
        if minute % 10 == 1 && level(&service, 1) != Level::Quarantined {
            report_all(&claim_one(&fast));
        }
    }
    let stats = service.seat_stats(1).unwrap();
    assert_eq!(stats.level, Level::Quarantined);
    assert!(stats.why.unwrap().contains("reports faster than work (%): 100, from 50 on"));
    assert!(service.seat_stats(2).unwrap().work.subjects_reported >= 9 * 180);
    assert_eq!((level(&service, 2), service.seat_stats(2).unwrap().why), (Level::Healthy, None));
}

/// Lets every seat report on a full bucket of 30 each interval; `report` says what.
fn grade(shop: &Shop, seats: &[Seat<Graded>], intervals: u64, report: impl Fn(u64, u64) -> u8) {
    for _ in 0..intervals {
        for seat in seats {
            let Ok(Claim::Leased(mut grant)) = seat.claim(Ask::one()) else { continue };
            let lease = grant.pop().unwrap();
            let reports: Vec<(u64, u8)> =
                lease.subjects().map(|subject| (subject, report(seat.client_id().value(), subject))).collect();
            assert_eq!(lease.submit(reports).unwrap().accepted(), lease.len());
        }
        shop.pass(INTERVAL);
    }
}

fn graded(shop: &Shop, clients: u64) -> (ServiceHandle<Graded>, Vec<Seat<Graded>>) {
    let service = shop.hub.register(Graded(Policy { bucket_subjects: 30, ..Policy::default() })).unwrap();
    let seats = shop.seats(&service, clients);
    service.add_all(0..clients * 30 * 8).unwrap();
    shop.settle();
    (service, seats)
}

/// R10, R45 and R48: who reports other values than its peers is detected by comparison, and its results can be told by
/// its name.
#[test]
fn liar_is_detected_by_comparison_with_its_peers() {
    let shop = Shop::open();
    let (service, seats) = graded(&shop, 8);
    let honest = |subject: u64| u8::try_from(subject * 7 / 3 % 3).unwrap();
    grade(&shop, &seats, 6, |client, subject| if client == 1 { 2 } else { honest(subject) });
    let stats = service.seat_stats(1).unwrap();
    assert_eq!(stats.level, Level::Quarantined);
    assert!(stats.why.unwrap().contains("distance from its peers (%)"));
    assert_eq!(service.unhealthy().len(), 1, "{:?}", service.unhealthy());
    let (findings, _) = service.results(None, 10_000).unwrap();
    let its = findings.iter().filter(|finding| finding.client.value() == 1);
    assert!(its.clone().all(|finding| finding.report == 2) && its.count() == 180);
}

/// R48: without enough peers, or without enough reports, nothing is concluded from values.
#[test]
fn few_peers_or_few_reports_conclude_nothing() {
    let lie = |client: u64, subject: u64| if client == 1 { 9 } else { u8::try_from(subject % 2).unwrap() };
    let shop = Shop::open();
    let (service, seats) = graded(&shop, 4);
    grade(&shop, &seats, 7, lie);
    assert_eq!(service.unhealthy().len(), 0, "three peers");
    let shop = Shop::open();
    let (service, seats) = graded(&shop, 8);
    let watch = Watch { least_reports: 120, ..Watch::default() };
    service.set_policy(Policy { watch, ..service.policy() }).unwrap();
    grade(&shop, &seats, 7, lie);
    assert_eq!(service.unhealthy().len(), 0, "thirty an interval, with those before at most 120");
}

/// R48: a plugin that breaks on a category is contained, and a number beyond the categories is none.
#[test]
fn categories_out_of_order_harm_nobody() {
    let shop = Shop::open();
    let (service, seats) = graded(&shop, 8);
    let lease = claim_one(&seats[0]);
    let subject = lease.subjects().next().unwrap();
    assert_eq!(lease.report([(subject, 99)]).unwrap().outcomes, [Outcome::PluginPanicked]);
    assert_eq!(lease.report([(subject, 1)]).unwrap().outcomes, [Outcome::Accepted]);
    drop(lease);
    grade(&shop, &seats, 7, |client, _| if client == 1 { 200 } else { 0 });
    assert_eq!(service.unhealthy().len(), 0, "what is in no category is compared with nothing");
}

/// R48: with the watch off nobody is watched; settings out of range are refused by name.
#[test]
fn watch_can_be_switched_off_and_is_checked() {
    let (shop, service, [forger, honest], others) = at_work(40, |watch| *watch = Watch::off());
    forge_for(&shop, &forger, &others, 20);
    assert_eq!((level(&service, 1), service.seat_stats(1).unwrap().faults.not_owner), (Level::Healthy, 60));
    let set = |watch| service.set_policy(Policy { watch, ..service.policy() });
    let cases = [
        ("watch.interval", Watch { interval: Duration::from_secs(31 * 24 * 3_600), ..Watch::default() }),
        ("watch.raise_after", Watch { raise_after: 0, ..Watch::default() }),
        ("watch.clear_after", Watch { clear_after: 0, ..Watch::default() }),
        ("watch.bad_score", Watch { bad_score: 0, ..Watch::default() }),
        ("watch.least_reports", Watch { least_reports: 0, ..Watch::default() }),
        ("watch.least_leases", Watch { least_leases: 0, ..Watch::default() }),
        ("watch.least_peers", Watch { least_peers: 0, ..Watch::default() }),
    ];
    for (field, watch) in cases {
        let found = set(watch).unwrap_err();
        assert!(matches!(found, AdminError::Policy { field: named, .. } if named == field), "{found}");
    }
    // Switched on while running, by a rule of the administrator's own.
    set(Watch { raise_after: 1, forged: Symptom::new(1, 100), ..Watch::default() }).unwrap();
    shop.tick();
    let others = claim_one(&honest);
    forge_for(&shop, &forger, &others, 2);
    assert_eq!(level(&service, 1), Level::Quarantined);
}
