//! History: every version is kept, in the order of the journal, whatever the wall clock says; what is the same confirms.

mod common;

use std::time::Duration;

use chrono::{DateTime, Utc};
use commissary::services::{FollowerCheck, UserList, edges};
use commissary::{
    Ask, Crash, Hub, ManualClock, MemoryDisk, Policy, Registration, Reporter, Seat, Service, ServiceHandle, Verdict,
    contract,
};
use common::{Plain, Shop, assert_adds_up};

/// One day, in milliseconds.
const DAY: i64 = 24 * 3_600 * 1_000;

fn wall(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap()
}

/// A temperature: readings less than one degree apart are the same.
struct Warmth;

impl Service for Warmth {
    type Subject = u64;
    type Report = f64;

    fn id(&self) -> &'static str {
        "warmth"
    }

    fn policy(&self) -> Policy {
        Policy::default()
    }

    fn judge(&self, _place: &u64, _degrees: &f64, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }

    fn same(&self, old: &f64, new: &f64) -> bool {
        assert!(*new < 1_000.0, "as the reading asked for");
        (old - new).abs() < 1.0
    }
}

/// Has the one subject that waits reported on.
fn report<S: Service>(shop: &Shop, seat: &Seat<S>, report: S::Report) {
    shop.settle();
    let lease = seat.claim(Ask::one()).unwrap().leased().unwrap().pop().unwrap();
    let subject = lease.subjects().next().unwrap();
    let submitted = lease.submit([(commissary::Subject::key(&subject), report)]).unwrap();
    assert_eq!((submitted.accepted(), submitted.kept), (1, false));
    shop.hub.tick();
}

/// Reports one after the other on subject 7: a round for each.
fn rounds<S: Service<Subject = u64>>(
    shop: &Shop,
    service: &ServiceHandle<S>,
    seat: &Seat<S>,
    reports: impl IntoIterator<Item = S::Report>,
) {
    for said in reports {
        shop.pass(Duration::from_secs(10));
        if service.history(&7).unwrap().is_empty() {
            drop(service.add(&7).unwrap());
        } else {
            drop(service.rerun(&[7]).unwrap());
        }
        report(shop, seat, said);
    }
}

/// R34: a report that says something else supersedes; one that the plugin calls the same confirms; the history is complete
/// and says who, when and on which bucket.
#[test]
fn reports_that_differ_supersede_and_those_that_do_not_confirm() {
    let shop = Shop::open();
    let service = shop.hub.register(Warmth).unwrap();
    let seats = [shop.seat(&service, 1), shop.seat(&service, 2)];
    for (place, degrees) in [20.0, 20.5, 30.0, 30.2, 29.9, 20.0].into_iter().enumerate() {
        rounds(&shop, &service, &seats[place % 2], [degrees]);
    }
    let history = service.history(&7).unwrap();
    let numbers: Vec<_> =
        history.iter().map(|version| (version.number, version.round, version.client.value())).collect();
    assert_eq!(numbers, [(1, 1, 1), (2, 2, 2), (3, 3, 1), (4, 4, 2), (5, 5, 1), (6, 6, 2)]);
    assert!(history.is_sorted_by_key(|version| version.position));
    assert!(history.windows(2).all(|pair| pair[0].bucket != pair[1].bucket), "each from a bucket of its own");
    let took: Vec<i64> = history.windows(2).map(|pair| (pair[1].at - pair[0].at).num_seconds()).collect();
    assert_eq!(took, [10; 5], "a round every ten seconds");
    let told: Vec<_> =
        history.iter().map(|v| (v.report, v.confirms, v.confirmed_at.clone(), v.superseded_at)).collect();
    let expected = [
        (20.0, None, vec![history[1].at], Some(history[2].at)),
        (20.5, Some(1), vec![], Some(history[2].at)),
        (30.0, None, vec![history[3].at, history[4].at], Some(history[5].at)),
        (30.2, Some(3), vec![], Some(history[5].at)),
        (29.9, Some(3), vec![], Some(history[5].at)),
        (20.0, None, vec![], None),
    ];
    assert_eq!(told, expected);
    let finding = service.result(&7).unwrap().unwrap();
    assert_eq!((finding.version, finding.since, finding.confirmed_at), (6, history[5].at, None));
    assert_adds_up(&shop.hub);
}

/// R34: a result says since when it has been so, and when that was last confirmed.
#[test]
fn a_result_says_since_when_it_holds_and_when_it_was_confirmed() {
    let shop = Shop::open();
    let service = shop.hub.register(Warmth).unwrap();
    let seat = shop.seat(&service, 1);
    rounds(&shop, &service, &seat, [5.0]);
    let finding = service.result(&7).unwrap().unwrap();
    assert_eq!((finding.since, finding.confirmed_at), (finding.at, None));
    rounds(&shop, &service, &seat, [9.0, 9.1, 9.2]);
    let history = service.history(&7).unwrap();
    let (page, _) = service.results(None, 10).unwrap();
    for finding in [service.result(&7).unwrap().unwrap(), page.into_iter().next().unwrap()] {
        assert!((finding.report - 9.2).abs() < 1e-9, "the last report");
        assert_eq!((finding.version, finding.at), (4, history[3].at));
        assert_eq!((finding.since, finding.confirmed_at), (history[1].at, Some(history[3].at)));
    }
    assert_eq!(service.history(&8).unwrap().len(), 0, "nothing is known of another");
}

/// R34: many small differences do not add up unseen: each report is compared with the one that began what holds.
#[test]
fn a_slow_drift_is_seen() {
    let shop = Shop::open();
    let service = shop.hub.register(Warmth).unwrap();
    let seat = shop.seat(&service, 1);
    rounds(&shop, &service, &seat, [1.0, 1.6, 2.2]);
    let history = service.history(&7).unwrap();
    assert_eq!(history.iter().map(|version| version.confirms).collect::<Vec<_>>(), [None, Some(1), None]);
}

/// R34: a plugin that panics over a comparison loses nothing but that comparison.
#[test]
fn a_panic_over_a_comparison_counts_as_a_difference() {
    let shop = Shop::open();
    let service = shop.hub.register(Warmth).unwrap();
    let seat = shop.seat(&service, 1);
    rounds(&shop, &service, &seat, [1.0, 2_000.0]);
    assert_eq!(service.stats().panics, 0, "taking reports in asks nobody");
    let history = service.history(&7).unwrap();
    assert_eq!(history.iter().map(|version| version.confirms).collect::<Vec<_>>(), [None, None]);
    assert_eq!(service.stats().panics, 1);
}

/// R34: what held at a moment.
#[test]
fn as_of_a_moment_tells_what_held_then() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seat = shop.seat(&service, 1);
    rounds(&shop, &service, &seat, ["a", "b", "c"].map(str::to_owned));
    let history = service.history(&7).unwrap();
    let ms = |place: usize, by: i64| wall(history[place].at.timestamp_millis() + by);
    let said = |moment| service.as_of(&7, moment).unwrap().map(|version| version.report);
    assert_eq!(said(ms(0, -1)), None);
    assert_eq!(said(ms(0, 0)).as_deref(), Some("a"));
    assert_eq!(said(ms(1, -1)).as_deref(), Some("a"));
    assert_eq!(said(ms(1, 0)).as_deref(), Some("b"));
    assert_eq!(said(ms(2, DAY)).as_deref(), Some("c"));
}

/// R46: a wall clock that jumps a day forward and a day back neither ends leases nor reorders the history.
#[test]
fn a_wall_clock_that_jumps_ends_no_lease_and_reorders_nothing() {
    for jumps in [[DAY, -DAY], [-DAY, DAY]] {
        let shop = Shop::open();
        shop.clock.set_wall_ms(1_000 * DAY);
        let service = shop.hub.register(Plain::new("plain")).unwrap();
        let seat = shop.seat(&service, 1);
        rounds(&shop, &service, &seat, ["first".to_owned()]);
        drop(service.add(&8).unwrap());
        shop.settle();
        let held = seat.claim(Ask::one()).unwrap().leased().unwrap().pop().unwrap();
        for (place, jump) in jumps.into_iter().enumerate() {
            shop.clock.set_wall_ms(1_000 * DAY + jump);
            shop.tick();
            rounds(&shop, &service, &seat, [format!("jump {place}")]);
        }
        assert!(!seat.leases().unwrap()[0].dead, "only time that passes counts");
        assert_eq!(held.submit([(8, "late".to_owned())]).unwrap().accepted(), 1);
        shop.tick();
        let history = service.history(&7).unwrap();
        let told: Vec<&str> = history.iter().map(|version| version.report.as_str()).collect();
        assert_eq!(told, ["first", "jump 0", "jump 1"]);
        assert!(history.is_sorted_by_key(|version| version.position));
        assert!(!history.is_sorted_by_key(|version| version.at), "the wall clock did go back");
        assert_eq!(service.result(&7).unwrap().unwrap().report, "jump 1", "the last in the journal holds");
        // Of those journaled at or before a moment of a clock that jumps, the last in the journal.
        let last = service.as_of(&7, history.iter().map(|version| version.at).max().unwrap()).unwrap().unwrap();
        assert_eq!(last.report, "jump 1");
        assert_eq!(service.stats().work.buckets_expired, 0);
    }
}

/// R34, R46: the history survives a crash, and comes back from the journal alone.
#[test]
fn the_history_survives_a_crash_and_a_lost_store() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seat = shop.seat(&service, 1);
    rounds(&shop, &service, &seat, ["a", "a", "b"].map(str::to_owned));
    let told = |service: &ServiceHandle<Plain>| format!("{:?}", serde_json::to_value(service.history(&7).unwrap()));
    let before = told(&service);
    for disk in [shop.disk.after(Crash::Process), shop.disk.after(Crash::Power), shop.disk.without_store()] {
        let shop = Shop::on(disk, shop.clock.clone(), commissary::Limits::default());
        let service = shop.hub.register(Plain::new("plain")).unwrap();
        assert_eq!(told(&service), before);
    }
}

/// R45: who reported what within a time, page by page; each with where it came from and whether it still holds.
#[test]
fn the_results_of_a_client_within_a_time_can_be_listed() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", |policy| policy.bucket_subjects = 1)).unwrap();
    let (one, two) = (shop.seat(&service, 1), shop.seat(&service, 2));
    for subject in 1..=5 {
        drop(service.add(&subject).unwrap());
        report(&shop, if subject == 3 { &two } else { &one }, "first".to_owned());
        shop.pass(Duration::from_secs(60));
    }
    let middle = service.result(&2).unwrap().unwrap().at;
    let end = wall(i64::from(u32::MAX) * 1_000);
    drop(service.rerun(&[1]).unwrap());
    report(&shop, &two, "second".to_owned());
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let (page, next) = service.results_by(1, &(middle..end), after.as_ref(), 2).unwrap();
        assert!(page.len() <= 2, "these subjects have one version each");
        seen.extend(page.into_iter().map(|version| version.key));
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, [2, 4, 5]);
    let (all, _) = service.results_by(1, &(wall(0)..end), None, 100).unwrap();
    assert_eq!(all.iter().map(|version| version.key).collect::<Vec<_>>(), [1, 2, 4, 5]);
    assert!(all[0].superseded_at.is_some() && all[1].superseded_at.is_none());
    let (of_two, _) = service.results_by(2, &(wall(0)..end), None, 100).unwrap();
    let of_two: Vec<_> = of_two.iter().map(|version| (version.key, version.number)).collect();
    assert_eq!(of_two, [(1, 2), (3, 1)]);
    assert!(service.results_by(1, &(end..end), None, 100).unwrap().0.is_empty());
}

/// R34: who followed whom, from when until when: a complete list ends what is not in it, an incomplete one only adds.
#[test]
fn edges_begin_when_first_seen_and_end_with_a_complete_list_without_them() {
    let shop = Shop::open();
    let policy = Policy { max_depth: 0, keep_unmarked: false, ..Policy::default() };
    let service = shop.hub.register(FollowerCheck::with(policy)).unwrap();
    let seat = shop.seat(&service, 1);
    let list = |users: &[u64], complete| UserList { users: users.to_vec(), complete };
    let reports =
        [list(&[1, 2], true), list(&[3], false), list(&[3, 1], true), list(&[1, 3], true), list(&[2, 3], true)];
    rounds(&shop, &service, &seat, reports);
    let history = service.history(&7).unwrap();
    let confirms: Vec<_> = history.iter().map(|version| version.confirms).collect();
    assert_eq!(confirms, [None, None, None, Some(3), None], "the order in a list says nothing");
    let at = |place: usize| history[place].at;
    let told: Vec<_> = edges(&history).into_iter().map(|edge| (edge.user, edge.since, edge.until)).collect();
    let expected = [(1, at(0), Some(at(4))), (2, at(0), Some(at(2))), (2, at(4), None), (3, at(1), None)];
    assert_eq!(told, expected);
}

/// R34: the history by name, as JSON.
#[test]
fn the_history_by_name_is_an_array_of_versions() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seat = shop.seat(&service, 1);
    rounds(&shop, &service, &seat, ["a", "a", "b"].map(str::to_owned));
    let named = shop.hub.service("plain").unwrap();
    let told = named.history(b"7").unwrap();
    assert_eq!(told[1]["confirms"], 1);
    assert_eq!(told[0]["superseded_at"], told[2]["at"]);
    assert_eq!(told[2]["report"], "b");
    assert_eq!(told[2]["confirmed_at"], serde_json::json!([]));
    let result = named.result(b"7").unwrap().unwrap();
    assert_eq!((&result["since"], &result["confirmed_at"]), (&result["at"], &serde_json::Value::Null));
    assert_eq!(named.history(b"8").unwrap(), serde_json::json!([]));
    assert!(named.history(b"x").is_err());
}

/// R34: a plugin whose reports are not the same as themselves is found out by the contract suite.
#[test]
#[should_panic(expected = "is not the same as itself")]
fn the_contract_wants_a_report_to_be_the_same_as_itself() {
    struct Never;

    impl Service for Never {
        type Subject = u64;
        type Report = u64;

        fn id(&self) -> &'static str {
            "never"
        }

        fn policy(&self) -> Policy {
            Policy::default()
        }

        fn judge(&self, _: &u64, _: &u64, _: Reporter) -> Verdict {
            Verdict::Accept
        }

        fn same(&self, _: &u64, _: &u64) -> bool {
            false
        }
    }

    contract::conforms(|| Never, &[contract::Sample::new(1, 1)]);
}

/// R34: a history read while the writer adds to it is whole each time.
#[test]
fn a_history_read_while_it_grows_is_whole() {
    let disk = MemoryDisk::new();
    let hub = Hub::builder().clock(ManualClock::default()).open_in_memory(&disk).unwrap();
    let service = hub.register(Plain::with("plain", |policy| policy.linger = Duration::ZERO)).unwrap();
    let client = hub.register_client(&Registration::new(1, "one")).unwrap().client;
    let seat = client.activate(&service).unwrap();
    service.add(&7).unwrap().wait_visible().unwrap();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for round in 0..40 {
                let lease = loop {
                    if let Some(mut grant) = seat.claim(Ask::one()).unwrap().leased() {
                        break grant.pop().unwrap();
                    }
                    assert!(seat.wait_ready(Duration::from_secs(60)), "work comes");
                };
                lease.submit([(7, round.to_string())]).unwrap().ticket.wait_visible().unwrap();
                service.rerun(&[7]).unwrap().wait_visible().unwrap();
            }
        });
        let mut seen = 0;
        while !writing.is_finished() {
            let history = service.history(&7).unwrap();
            assert!(history.len() >= seen, "nothing is lost");
            seen = history.len();
            for (place, version) in history.iter().enumerate() {
                assert_eq!((version.number as usize, version.report.as_str()), (place + 1, place.to_string().as_str()));
            }
        }
    });
    assert_eq!(service.history(&7).unwrap().len(), 40);
}
