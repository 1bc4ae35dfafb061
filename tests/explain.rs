//! Why something is as it is, in plain words, and where a result came from.

mod common;

use std::collections::HashSet;
use std::time::Duration;

use commissary::{Explanation, Late, Limits, Policy, Reporter, Service, ServiceHandle, Verdict};
use common::{Plain, Shop, claim_one, report_all, reports};

const HOUR: Duration = Duration::from_secs(3_600);

fn plain(shop: &Shop, subjects: usize) -> ServiceHandle<Plain> {
    shop.hub.register(Plain::with("plain", |policy| policy.bucket_subjects = subjects)).unwrap()
}

/// The texts, each bucket's name replaced by `B`.
fn texts(explanation: &Explanation) -> Vec<String> {
    let all = explanation.steps.iter().map(|step| step.text.as_str()).chain([explanation.now.as_str()]);
    all.map(without_bucket).collect()
}

/// A bucket's name is a generation, a slash and a slot.
fn without_bucket(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let end = word.trim_end_matches([':', ',', ';']);
        let is_bucket = end.split_once('/').is_some_and(|(a, b)| a.parse::<u64>().is_ok() && b.parse::<u32>().is_ok());
        if is_bucket { word.replace(end, "B") } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// R18: a subject's life, told from the journal: taken in, leased, put back for want of a report, leased again, reported,
/// contradicted; and after each step, how it stands.
#[test]
fn a_subjects_life_is_told_step_by_step() {
    let shop = Shop::open();
    let service = plain(&shop, 2);
    assert_eq!(texts(&service.explain(&2).unwrap()), ["not known to the service"]);
    let seats = shop.seats(&service, 2);
    service.add_all([1, 2]).unwrap();
    assert_eq!(
        texts(&service.explain(&2).unwrap()),
        ["added by hand as the 2nd in the order of work", "waits to be put in a bucket"]
    );
    shop.settle();
    assert_eq!(texts(&service.explain(&2).unwrap())[1], "waits in bucket B, ready to be claimed");
    let _token = claim_one(&seats[0]).into_token();
    shop.tick();
    let told = texts(&service.explain(&2).unwrap());
    assert_eq!(told[1], "leased to client 1 (client_1) in bucket B with 1 other");
    assert_eq!(told[2], "leased to client 1 (client_1) until 1970-01-01T02:00:00.101Z, in bucket B");
    shop.pass(2 * HOUR);
    let told = texts(&service.explain(&2).unwrap());
    assert!(
        told[2].starts_with("held by client 1 (client_1), whose time is over; reports are taken until"),
        "{told:?}"
    );
    shop.pass(HOUR);
    shop.settle();
    let lease = claim_one(&seats[1]);
    let _ = lease.report(reports(&lease, "first")).unwrap();
    assert_eq!(
        without_bucket(&service.explain(&2).unwrap().now),
        "reported in bucket B; the result is on its way to the store"
    );
    shop.tick();
    let _ = lease.report(reports(&lease, "second")).unwrap();
    assert!(service.add(&2).is_ok_and(|ticket| ticket.position().is_none()));
    shop.tick();
    let explanation = service.explain(&2).unwrap();
    let told = texts(&explanation);
    let expected = [
        "added by hand as the 2nd in the order of work",
        "leased to client 1 (client_1) in bucket B with 1 other",
        "put back: the client gave no report in time",
        "leased to client 2 (client_2) in bucket B with 1 other",
        "reported by client 2 (client_2): accepted, first result",
        "client 2 (client_2) contradicted the result: kept as evidence, nothing changed",
    ];
    assert_eq!(told[..6], expected);
    let now = &told[6];
    assert!(now.starts_with("done: version 1 of its result is client 2 (client_2)'s, of 1970-01-01T03:"), "{now}");
    assert!(now.ends_with("; it was offered 1 time more, which changed nothing"), "{now}");
    // Steps point to their events, and the whole prints as lines.
    for step in &explanation.steps {
        assert_eq!(shop.hub.events(step.position).unwrap().next().unwrap().unwrap().at, step.at);
    }
    let printed = explanation.to_string();
    assert_eq!(printed.lines().count(), 7);
    assert!(printed.lines().next().unwrap().starts_with("1970-01-01T00:00:00.000Z @"), "{printed}");
}

/// R18: the story is the same after a restart, and says that the lease went on.
#[test]
fn a_story_goes_on_after_a_restart() {
    let shop = Shop::open();
    let service = plain(&shop, 1);
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 1);
    let token = claim_one(&seat).into_token();
    shop.tick();
    drop((service, seat));
    let shop = shop.restart();
    let service = plain(&shop, 1);
    let seat = shop.hub.client(1).unwrap().activate(&service).unwrap();
    let told = texts(&service.explain(&1).unwrap());
    assert_eq!(told[2], "the hub was opened for the 2nd time; the lease went on");
    assert!(told[3].starts_with("leased to client 1 (client_1) until"), "{told:?}");
    let _ = seat.submit(&token, [(1, "ok".to_owned())]).unwrap();
    shop.tick();
    let told = texts(&service.explain(&1).unwrap());
    assert_eq!(told[3], "reported by client 1 (client_1): accepted, first result");
}

/// Finds the next two numbers.
struct Finder(Policy);

impl Service for Finder {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        "finder"
    }

    fn policy(&self) -> Policy {
        self.0.clone()
    }

    fn judge(&self, _subject: &u64, _report: &u64, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }

    fn discover(&self, subject: &u64, _report: &u64, found: &mut Vec<u64>) {
        found.extend([subject + 1, subject + 2]);
    }
}

/// R18: a discovered subject names its finder and the subject it was found from; one that was cut says so, and when it
/// was taken in later, that too.
#[test]
fn discovered_and_cut_subjects_say_so() {
    let shop = Shop::open();
    let mut policy = Policy::default();
    (policy.max_depth, policy.max_subjects) = (3, 2);
    let service = shop.hub.register(Finder(policy.clone())).unwrap();
    let seat = shop.seat(&service, 4);
    service.add_all([10]).unwrap();
    shop.settle();
    let lease = claim_one(&seat);
    let _ = lease.submit([(10, 0)]).unwrap();
    shop.tick();
    let told = texts(&service.explain(&11).unwrap());
    assert_eq!(
        told[0],
        "found by client 4 (client_4) in its report on 10, 1 hop from one added by hand, as the 2nd in the order of work"
    );
    let cut = texts(&service.explain(&12).unwrap());
    assert!(cut[0].ends_with("and cut: beyond the 2 subjects allowed (max_subjects)"), "{cut:?}");
    assert_eq!(cut[1], "not known to the service");
    policy.max_subjects = 5;
    service.set_policy(policy).unwrap();
    service.add_all([12]).unwrap();
    let told = texts(&service.explain(&12).unwrap());
    assert!(told[0].ends_with("(max_subjects)") && told.len() == 3, "{told:?}");
    assert_eq!(told[1], "added by hand as the 3rd in the order of work");
}

/// R18: what became of a bucket.
#[test]
fn a_buckets_life_is_told() {
    let shop = Shop::open();
    let service = plain(&shop, 3);
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 3);
    let lease = claim_one(&seat);
    shop.tick();
    let bucket = service.slow_buckets(Duration::ZERO).first().map(|slow| slow.bucket);
    assert_eq!(bucket, None, "no time has passed");
    shop.pass(Duration::from_secs(1));
    let (generation, slot) = service.slow_buckets(Duration::ZERO)[0].bucket;
    let explain = || texts(&service.explain_bucket(generation, slot).unwrap());
    let told = explain();
    assert_eq!(told[0], "leased to client 1 (client_1): 3 subjects");
    assert!(told[1].ends_with(", 3 of 3 owed"), "{told:?}");
    let first = lease.subjects().next().unwrap();
    let _ = lease.report([(first, "ok".to_owned())]).unwrap();
    let _ = lease.report([(first, "no".to_owned())]).unwrap();
    drop(lease);
    shop.tick();
    let expected = [
        "leased to client 1 (client_1): 3 subjects",
        "client 1 (client_1) reported on 1 subject, 2 left",
        "client 1 (client_1) contradicted 1 earlier report: kept as evidence",
        "2 subjects put back: the client gave it back",
        "over: what was left was put back",
    ];
    assert_eq!(explain(), expected);
    assert_eq!(texts(&service.explain_bucket(1, 1).unwrap()), ["not in memory: over for long, or never formed"]);
}

/// R10 c: everything a client did, and what was refused to it, is one query, over all services.
#[test]
fn a_clients_activity_is_one_query() {
    let shop = Shop::open();
    let service = plain(&shop, 2);
    let other = shop.hub.register(Plain::new("other")).unwrap();
    let seats = shop.seats(&service, 2);
    let client = shop.hub.client(1).unwrap();
    let _elsewhere = client.activate(&other).unwrap();
    shop.stock(&service, 8);
    let theirs = claim_one(&seats[1]);
    let lease = claim_one(&seats[0]);
    let users: Vec<u64> = lease.subjects().collect();
    let _ = lease.report([(users[0], "ok".to_owned()), (999, "stray".to_owned())]).unwrap();
    let _ = lease.report([(users[0], "other".to_owned())]).unwrap();
    drop(lease);
    assert!(seats[0].renew(&theirs.token()).is_err());
    shop.tick();
    drop(service.suspend(1).unwrap());
    drop(service.reinstate(1).unwrap());
    drop(client.deregister().unwrap());
    shop.client(1);
    let seat = client.activate(&service).unwrap();
    shop.settle();
    report_all(&claim_one(&seat));
    let _held = claim_one(&seat).into_token();
    shop.tick();
    let told = texts(&shop.hub.explain_client(1).unwrap());
    let expected = [
        "registered as client_1",
        "activated for plain",
        "activated for other",
        "leased bucket B of plain: 2 subjects",
        "reported on 1 subject of bucket B of plain",
        "contradicted 1 earlier report of bucket B of plain: kept as evidence",
        "of bucket B of plain: 1 subject put back: the client gave it back",
        "suspended for plain by an administrator",
        "reinstated for plain; to be activated again",
        "deregistered",
        "registered again as client_1",
        "activated for plain",
        "leased bucket B of plain: 1 subject",
        "reported on 1 subject of bucket B of plain",
        "leased bucket B of plain: 2 subjects",
    ];
    assert_eq!(told[..expected.len()], expected);
    assert_eq!(
        told[expected.len()],
        "registered; holds 1 bucket, 2 subjects owed; in all 5 subjects assigned, 2 reported, 1 put back; refused: 1 \
         tokens of others' leases, or forged, 1 reports on subjects not in the bucket, 1 reports that contradicted \
         earlier ones"
    );
    assert_eq!(texts(&shop.hub.explain_client(77).unwrap()), ["not known"]);
}

/// R18: a story longer than the limit keeps its newest steps and says how many it left out.
#[test]
fn a_long_story_keeps_its_newest_steps() {
    let shop = Shop::open_with(Limits { explained_steps: 5, ..Limits::default() });
    let service = plain(&shop, 1);
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 1);
    for _ in 0..6 {
        drop(claim_one(&seat));
        shop.settle();
    }
    let explanation = service.explain(&1).unwrap();
    assert_eq!((explanation.steps.len(), explanation.earlier), (5, 8));
    assert_eq!(texts(&explanation)[4], "put back: the client gave it back");
    assert!(explanation.to_string().starts_with("(8 earlier steps)\n"));
}

/// R45: a result leads to its client, bucket and times, and to every report that says otherwise.
#[test]
fn a_result_is_traced_to_its_origin() {
    let shop = Shop::open();
    let service = plain(&shop, 2);
    let seats = shop.seats(&service, 2);
    shop.stock(&service, 2);
    assert_eq!(service.trace(&1).unwrap(), None, "no result yet");
    assert_eq!(service.trace(&77).unwrap(), None, "not known");
    drop(claim_one(&seats[0]));
    shop.pass(HOUR);
    let lease = claim_one(&seats[1]);
    shop.tick();
    shop.clock.advance(Duration::from_secs(60));
    let _ = lease.report(reports(&lease, "right")).unwrap();
    shop.tick();
    let _ = lease.report([(1, "wrong".to_owned())]).unwrap();
    let _ = lease.report([(2, "right".to_owned())]).unwrap();
    shop.tick();

    let trace = service.trace(&1).unwrap().unwrap();
    let finding = service.result(&1).unwrap().unwrap();
    assert_eq!((trace.client, trace.position, trace.reported_at), (finding.client, finding.position, finding.at));
    assert_eq!((trace.client.value(), trace.version), (2, 1));
    let leased = trace.leased_at.unwrap();
    assert_eq!((trace.reported_at - leased).num_seconds(), 60, "the lease that reported, not the one before it");
    let [other] = &trace.others[..] else { panic!("{:?}", trace.others) };
    assert_eq!((other.client.value(), other.bucket, other.agrees), (2, trace.bucket, false));
    assert_eq!(other.report, postcard_text("wrong"));
    let trace = service.trace(&2).unwrap().unwrap();
    assert_eq!(trace.others, [], "a repetition is counted, not journaled");
    let buckets: HashSet<_> = shop
        .hub
        .events(0)
        .unwrap()
        .filter_map(|event| match event.unwrap().kind {
            commissary::EventKind::Leased { bucket, .. } => Some(bucket),
            _ => None,
        })
        .collect();
    assert_eq!(buckets.len(), 2);
    assert!(buckets.contains(&trace.bucket));
}

/// A text in postcard's format.
fn postcard_text(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

/// R18, R96: an urgent subject that two leases hold is told of both, and whose report counted.
#[test]
fn an_urgent_subjects_two_leases_are_told() {
    let shop = Shop::open();
    let service = plain(&shop, 1);
    let seats = shop.seats(&service, 2);
    shop.stock(&service, 1);
    let slow = claim_one(&seats[0]);
    shop.tick();
    let _ = service.prioritize(&[1]).unwrap();
    shop.settle();
    let quick = claim_one(&seats[1]);
    shop.tick();
    let told = texts(&service.explain(&1).unwrap());
    assert!(told[4].starts_with("leased to client"), "{told:?}");
    report_all(&quick);
    shop.tick();
    drop(slow);
    shop.tick();
    let told = texts(&service.explain(&1).unwrap());
    let expected = [
        "added by hand as the 1st in the order of work",
        "leased to client 1 (client_1) in bucket B with 0 others",
        "made urgent",
        "leased to client 2 (client_2) in bucket B with 0 others",
        "reported by client 2 (client_2): accepted, first result",
    ];
    assert_eq!(told[..5], expected);
    assert!(told.last().unwrap().starts_with("done: version 1"), "{told:?}");
    // The slow lease ended without a report of its own and without anything to put back.
    let leased = shop.hub.events(0).unwrap().find_map(|event| match event.unwrap().kind {
        commissary::EventKind::Leased { bucket, client, .. } if client.value() == 1 => Some(bucket),
        _ => None,
    });
    let (generation, slot) = leased.unwrap();
    let told = texts(&service.explain_bucket(generation, slot).unwrap());
    assert_eq!(
        told[..2],
        ["leased to client 1 (client_1): 1 subject", "over: nothing was left; another lease had some of it as well"]
    );
}

/// R18, R101: a report that came late is told of the subject, the bucket and the client.
#[test]
fn a_late_report_is_told() {
    let shop = Shop::open();
    let plugin = Plain::with("plain", |policy| (policy.bucket_subjects, policy.late) = (2, Late::AcceptIfOpen));
    let service = shop.hub.register(plugin).unwrap();
    let seats = shop.seats(&service, 2);
    shop.stock(&service, 2);
    let old = claim_one(&seats[0]);
    shop.pass(2 * HOUR);
    shop.pass(HOUR);
    shop.settle();
    let new = claim_one(&seats[1]);
    drop(old.report(reports(&old, "ok").into_iter().take(1)).unwrap());
    let user = old.subjects().next().unwrap();
    shop.tick();
    let told = texts(&service.explain(&user).unwrap());
    let late = "reported by client 1 (client_1), whose lease was over and had expired: accepted, first result";
    assert!(told.iter().any(|text| text == late), "{told:?}");
    let (generation, slot) = service.trace(&user).unwrap().unwrap().bucket;
    let told = texts(&service.explain_bucket(generation, slot).unwrap());
    assert!(told.iter().any(|text| text.starts_with("client 1 (client_1) reported late on 1 subject")), "{told:?}");
    let told = texts(&shop.hub.explain_client(1).unwrap());
    assert!(told.iter().any(|text| text == "reported late on 1 subject of bucket B of plain"), "{told:?}");
    // A later round: the ranks of both are known.
    drop(new.submit(reports(&new, "ok")).unwrap());
    shop.tick();
    drop(service.rerun(&[user]).unwrap());
    shop.settle();
    report_all(&claim_one(&seats[1]));
    shop.tick();
    let told = texts(&service.explain(&user).unwrap());
    assert_eq!(told.iter().filter(|text| text.starts_with("leased to")).count(), 3, "{told:?}");
}

/// R18, R32: a deletion in every service is told as any other, and a result is not traced into an earlier life.
#[test]
fn a_deletion_everywhere_is_told_and_ends_what_can_be_traced() {
    let shop = Shop::open();
    let service = plain(&shop, 1);
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 1);
    let first = claim_one(&seat);
    drop(first.submit(reports(&first, "secret")).unwrap());
    shop.tick();
    drop(shop.hub.delete_everywhere(&1_u64).unwrap());
    shop.tick();
    let told = texts(&service.explain(&1).unwrap());
    assert_eq!(told[told.len() - 2..], ["deleted, with its results", "not known to the service"], "{told:?}");
    shop.stock(&service, 1);
    report_all(&claim_one(&seat));
    shop.tick();
    let told = texts(&service.explain(&1).unwrap());
    assert_eq!(told.iter().filter(|text| text.starts_with("added by hand")).count(), 2, "{told:?}");
    assert_eq!(told.iter().filter(|text| text.ends_with("accepted, first result")).count(), 2, "{told:?}");
    assert_eq!(service.trace(&1).unwrap().unwrap().others, [], "nothing of what was deleted is read");
}
