//! Limits of how large something is.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use commissary::{AddError, Ask, Capability, ClaimError, HubError, Lease, LeaseError, Limits, Outcome};
use serde_json::json;

use crate::rig::{Parcel, Parcels, Plain, Site, client, wide};
use crate::table::{Compared, large, measure, print as line, run, told};

pub(crate) fn print() {
    let rows: [(&str, fn()); 7] = [
        ("key_bytes", key_bytes),
        ("body_bytes", body_bytes),
        ("report_bytes", report_bytes),
        ("submit_bytes", submit_bytes),
        ("submit_reports", submit_reports),
        ("json_bytes", json_bytes),
        ("queue_bytes", queue_bytes),
    ];
    run(&rows);
}

const LIFE: &str = "subjects, added, claimed and reported";

/// Adds, claims and reports subjects with keys and bodies of so many bytes; their rate.
fn life_rate(site: &Site<Parcels>, key: usize, body: usize, n: usize) -> f64 {
    // A body of more than 127 bytes has two that say how long it is.
    let contents = "b".repeat(body - if body > 128 { 2 } else { 1 });
    let parcel = |number| Parcel { key: format!("{number:0key$}"), body: contents.clone() };
    let parcels: Vec<Parcel> = site.numbers(n).map(parcel).collect();
    let start = Instant::now();
    site.add(parcels, n);
    site.work(0, n, 10, &"a small report".to_owned());
    n as f64 / start.elapsed().as_secs_f64()
}

fn lives(limit: usize, n: usize, size: impl Fn(usize) -> (usize, usize) + Copy + 'static) -> Vec<Compared> {
    let empty = Site::open(wide(), Parcels);
    measure(limit, Box::new(move || life_rate(&empty, 8, 8, n)), |level| {
        let (site, (key, body)) = (Site::open(wide(), Parcels), size(level));
        Box::new(move || life_rate(&site, key, body, n))
    })
}

/// One with a key or a body that is too long, and others that go on.
fn refused_parcel(key: usize, body: usize) -> AddError {
    let site = Site::open(wide(), Parcels);
    let too_long = Parcel { key: "k".repeat(key), body: "b".repeat(body) };
    let refused = site.service.add(&too_long).expect_err("too long");
    let _ = life_rate(&site, 8, 8, 8);
    refused
}

fn key_bytes() {
    let limit = Limits::default().key_bytes;
    let found = lives(limit, 3_000, |level| (level, 8));
    line("`key_bytes`", "256; to 4,096", &told(&refused_parcel(limit + 1, 8)), &format!("{LIFE}; empty: 8 B"), &found);
}

fn body_bytes() {
    let limit = Limits::default().body_bytes;
    let found = lives(limit, 1_600, |level| (8, level));
    line(
        "`body_bytes`",
        "4,096; to 1 MiB",
        &told(&refused_parcel(8, limit - 1)),
        &format!("{LIFE}; empty: 8 B"),
        &found,
    );
}

/// A report that takes so many bytes.
pub(crate) fn report_of(bytes: usize) -> String {
    let length = match bytes {
        0..=128 => 1,
        129..=16_385 => 2,
        _ => 3,
    };
    "r".repeat(bytes - length)
}

fn report_bytes() {
    let limit = Limits::default().report_bytes;
    let rate = |site: &Site<Plain>, bytes: usize, n: usize| {
        site.add(site.numbers(n), n);
        let report = report_of(bytes);
        let start = Instant::now();
        site.work(0, n, 1, &report);
        n as f64 / start.elapsed().as_secs_f64()
    };
    let open = || Site::open(wide(), Plain::new("plain", |_| {}));
    let empty = open();
    let found = measure(limit, Box::new(move || rate(&empty, 16, 4_000)), |level| {
        let site = open();
        Box::new(move || rate(&site, level, 200))
    });
    let site = open();
    site.add(site.numbers(4), 4);
    let lease = site.claim(&site.seats[0], 1).pop().expect("one");
    let subject = lease.subjects().next().expect("four");
    let outcome = lease.report([(subject, report_of(limit + 1))]).expect("no error").outcomes;
    assert_eq!(outcome, [Outcome::TooLarge { bytes: limit + 1, limit }]);
    assert_eq!(lease.report([(subject, report_of(limit))]).expect("no error").accepted(), 1);
    site.others_go_on();
    let beyond = format!("its outcome: `{:?}`", outcome[0]);
    line("`report_bytes`", "65,536; to `submit_bytes`", &beyond, "subjects, claimed and reported; empty: 16 B", &found);
}

/// Buckets of the largest size.
fn large_buckets() -> Site<Plain> {
    Site::open(wide(), Plain::new("plain", |policy| policy.bucket_subjects = Limits::BUCKET_SUBJECTS))
}

/// A claimed bucket of the largest size.
fn large_lease(site: &Site<Plain>) -> Lease<Plain> {
    site.add(site.numbers(Limits::BUCKET_SUBJECTS), Limits::BUCKET_SUBJECTS);
    site.claim(&site.seats[0], 1).pop().expect("one")
}

/// Reports on all subjects of a bucket that take about so many bytes together, but no more.
fn reports_of(lease: &Lease<Plain>, bytes: usize) -> Vec<(u64, String)> {
    let report = report_of(bytes / Limits::BUCKET_SUBJECTS - 32);
    lease.subjects().map(|subject| (subject, report.clone())).collect()
}

fn submit_bytes() {
    let limit = Limits::default().submit_bytes;
    let rate = |site: &Site<Plain>, bytes: usize| {
        let lease = large_lease(site);
        let reports = reports_of(&lease, bytes);
        let start = Instant::now();
        let submitted = lease.submit(reports).expect("taken");
        assert_eq!(submitted.accepted(), Limits::BUCKET_SUBJECTS);
        site.seen(&submitted.ticket);
        bytes as f64 / start.elapsed().as_secs_f64()
    };
    let empty = large_buckets();
    let found = measure(limit, Box::new(move || rate(&empty, limit / 100)), |level| {
        let site = large_buckets();
        Box::new(move || rate(&site, level))
    });
    let site = large_buckets();
    let lease = large_lease(&site);
    let refused = lease.report(reports_of(&lease, limit + 64 * Limits::BUCKET_SUBJECTS)).expect_err("too large");
    assert!(matches!(refused, LeaseError::TooLarge { .. }));
    assert_eq!(lease.report(reports_of(&lease, limit)).expect("taken").accepted(), Limits::BUCKET_SUBJECTS);
    site.others_go_on();
    line(
        "`submit_bytes`",
        "8 MiB; to 15 MiB",
        &told(&refused),
        "bytes, in one submit of 252 reports; empty: 1 %",
        &found,
    );
}

fn submit_reports() {
    let limit = Limits::SUBMIT_REPORTS;
    // Each subject once, then the same again.
    let reports = |lease: &Lease<Plain>, n: usize| -> Vec<(u64, String)> {
        let subjects: Vec<u64> = lease.subjects().collect();
        subjects.iter().cycle().take(n).map(|subject| (*subject, "a small report".to_owned())).collect()
    };
    let rate = move |site: &Site<Plain>, n: usize, times: usize| {
        let mut took = Duration::ZERO;
        for _ in 0..times {
            let lease = large_lease(site);
            let reports = reports(&lease, n);
            let start = Instant::now();
            let submitted = lease.submit(reports).expect("taken");
            assert_eq!((submitted.outcomes.len(), submitted.accepted()), (n, n.min(Limits::BUCKET_SUBJECTS)));
            site.seen(&submitted.ticket);
            took += start.elapsed();
        }
        (n * times) as f64 / took.as_secs_f64()
    };
    let empty = large_buckets();
    let found = measure(limit, Box::new(move || rate(&empty, Limits::BUCKET_SUBJECTS, 8)), |level| {
        let site = large_buckets();
        Box::new(move || rate(&site, level, 8))
    });
    let site = large_buckets();
    let lease = large_lease(&site);
    let refused = lease.submit(reports(&lease, limit + 1)).expect_err("too many");
    site.others_go_on();
    let what = "reports, in one submit; empty: 252, beyond they repeat";
    line("reports of one submit", "4,032, fixed (`SUBMIT_REPORTS`)", &told(&refused), what, &found);
}

fn json_bytes() {
    let limit = Limits::default().json_bytes;
    let seats = |site: &Site<Plain>| {
        let named = site.hub.service("plain").expect("registered");
        named.activate(&client(&site.hub, 1), Capability::default()).expect("activates")
    };
    // Half of each report is escapes, so that it fits in `submit_bytes`; the rest of the body is blanks.
    let body = |lease: &Lease<Plain>, bytes: usize| {
        let report = "\"".repeat((bytes / Limits::BUCKET_SUBJECTS - 64) / 2);
        let reports: Vec<_> = lease.subjects().map(|subject| json!([subject, report])).collect();
        let body = json!({ "token": lease.token(), "reports": reports }).to_string();
        assert!(body.len() <= bytes && body.len() * 10 > bytes * 8, "{} of {bytes}", body.len());
        let mut body = body.into_bytes();
        body.resize(bytes, b' ');
        body
    };
    let rate = move |site: &Site<Plain>, bytes: usize| {
        let (lease, seat) = (large_lease(site), seats(site));
        let body = body(&lease, bytes);
        let start = Instant::now();
        let (answer, ticket) = seat.submit(&body).expect("taken");
        site.seen(&ticket);
        let took = start.elapsed().as_secs_f64();
        let outcomes = answer["outcomes"].as_array().expect("outcomes");
        assert!(outcomes.len() == Limits::BUCKET_SUBJECTS && outcomes.iter().all(|outcome| outcome == "accepted"));
        bytes as f64 / took
    };
    let empty = large_buckets();
    let found = measure(limit, Box::new(move || rate(&empty, limit / 100)), |level| {
        let site = large_buckets();
        Box::new(move || rate(&site, level))
    });
    let site = large_buckets();
    let refused = seats(&site).claim(&vec![b' '; limit + 1]).expect_err("too large");
    site.others_go_on();
    line("`json_bytes`", "16 MiB", &told(&refused), "bytes, in one submit by name; empty: 1 %", &found);
}

/// Reports of a queue that fills: the writer rests.
struct Queue {
    site: Site<Plain>,
    leases: Vec<Lease<Plain>>,
}

impl Queue {
    fn open(limit: usize) -> Self {
        let limits = Limits { queue_bytes: limit as u64, ..wide() };
        let change = |policy: &mut commissary::Policy| {
            (policy.bucket_subjects, policy.leases_in_flight) = (1, 100_000);
        };
        let site = Site::manual(limits, Plain::new("plain", change));
        let mut queue = Self { site, leases: Vec::new() };
        queue.site.add(queue.site.numbers(4_000), 4_000);
        while queue.leases.len() < 3_900 {
            queue.leases.extend(queue.site.claim(&queue.site.seats[0], 10));
        }
        queue.site.hub.tick();
        queue
    }

    fn submit(&mut self, report: &str) -> Result<(), LeaseError> {
        let lease = self.leases.pop().expect("enough of them");
        let reports: Vec<(u64, String)> = lease.subjects().map(|subject| (subject, report.to_owned())).collect();
        match lease.submit(reports) {
            Ok(submitted) => {
                assert_eq!(submitted.accepted(), 1);
                Ok(())
            }
            Err(error) => {
                self.leases.push(lease);
                Err(error)
            }
        }
    }

    fn fill(&mut self, bytes: usize) {
        while self.site.hub.stats().queued_bytes + 40_000 < bytes as u64 {
            self.submit(&report_of(32_000)).expect("there is room");
        }
    }

    /// The calls alone.
    fn rate(&mut self) -> f64 {
        const SUBMITS: usize = 30;
        let start = Instant::now();
        for _ in 0..SUBMITS {
            self.submit("a small report").expect("there is room");
        }
        SUBMITS as f64 / start.elapsed().as_secs_f64()
    }
}

fn queue_bytes() {
    let limit = large(64 << 20).max(1 << 20);
    let mut empty = Queue::open(limit);
    let full = Rc::new(RefCell::new(Queue::open(limit)));
    let found = measure(limit, Box::new(move || empty.rate()), |level| {
        full.borrow_mut().fill(level - 100_000);
        let full = Rc::clone(&full);
        Box::new(move || full.borrow_mut().rate())
    });
    let mut full = full.borrow_mut();
    let busy = loop {
        match full.submit(&report_of(4_000)) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(busy, LeaseError::Hub(HubError::Busy { rule: "queue_bytes", .. })), "{busy}");
    let newcomer = full.site.service.add(&u64::MAX).expect_err("crowded");
    assert!(matches!(&newcomer, AddError::Hub { source: HubError::Busy { .. }, .. }), "{newcomer}");
    let AddError::Hub { source: newcomer, .. } = newcomer else { return };
    let claim = full.site.seats[1].claim(Ask::one()).expect_err("crowded");
    assert!(matches!(claim, ClaimError::Hub(HubError::Busy { rule: "admit_claims_percent", .. })), "{claim}");
    full.leases.last().expect("some are left").renew().expect("renewals need no room");
    full.site.hub.tick();
    full.submit("ok").expect("there is room again");
    full.site.others_go_on();
    line("`queue_bytes`", "64 MiB; from 4 KiB", &told(&busy), "submits of one report, the calls alone", &found);
    line("`admit_newcomers_percent`", "50; 1 to 100", &told(&newcomer), "as above at 50 %", &[]);
    line("`admit_claims_percent`", "75; 1 to 100", &told(&claim), "as above", &[]);
}
