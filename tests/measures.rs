//! What is measured: operations of the disk and their budgets, times, counts, and that each count means what it says.

mod common;

use std::time::Duration;

use commissary::{
    Ask, Claim, Distribution, Hub, Lease, LeaseError, Limits, ManualClock, MemoryDisk, Policy, Registration, Reporter,
    Service, ServiceHandle, StorageStats, StoreOps, Verdict,
};
use common::{Plain, Shop, claim, claim_one, reports};

/// Reads that are not the callers' own.
fn reads(storage: &StorageStats) -> u64 {
    storage.opening.reads() + storage.applier.reads() + storage.steward.reads()
}

/// R40: a claim reads nothing from the store, writes nothing itself, and makes one journal record a bucket; a submit of a
/// whole bucket makes one record, whose bytes are mostly the reports'.
#[test]
fn claim_and_submit_cost_one_record_a_bucket_and_a_read_a_span() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 400);
    let at_rest = shop.hub.stats().storage;

    let leases = claim(&seat, 10);
    assert_eq!(shop.hub.stats().storage, at_rest, "nothing was asked on the caller's thread");
    shop.tick();
    let claimed = shop.hub.stats().storage;
    let cost = claimed.since(&at_rest);
    assert_eq!((cost.journal.of_kind("leased"), cost.journal.records), (10, 10));
    assert_eq!((cost.journal.groups, cost.journal.syncs), (1, 1), "one group for all of them");
    assert_eq!((reads(&cost), cost.applier.batches), (0, 1));

    let payload: usize = leases.iter().map(|lease| lease.len() * "ok".len()).sum();
    for lease in &leases {
        assert_eq!(lease.submit(reports(lease, "ok")).unwrap().accepted(), lease.len());
    }
    assert_eq!(shop.hub.stats().storage, claimed, "nothing was asked on the caller's thread");
    shop.tick();
    let cost = shop.hub.stats().storage.since(&claimed);
    assert_eq!((cost.journal.of_kind("reported"), cost.journal.records), (10, 10));
    assert_eq!((cost.journal.groups, cost.journal.syncs), (1, 1));
    assert!((1..=spans(400)).contains(&cost.applier.reads()), "a look for each span: {:?}", cost.applier);
    let (least, most) = (payload as u64, (payload + 40 * 40 + 10 * 60) as u64);
    assert!((least..most).contains(&cost.journal.bytes), "{} bytes for {payload} of reports", cost.journal.bytes);
}

/// Spans of 256 subjects that lie together in the store.
fn spans(subjects: u64) -> u64 {
    subjects.div_ceil(256)
}

/// R40: 100,000 subjects added, claimed and reported: the applier reads nothing for a subject with a higher key than all before it, and
/// looks once for each 256 that are finished; the steward reads a block of 1,024 by one read, and looks for blocks four at a time; no group
/// is synced twice. What 1,000 finished subjects cost in all stays within a budget: so many operations and bytes, and so
/// many more for each bucket.
#[test]
fn steady_state_reads_once_for_256_finished_subjects() {
    for (subjects, bucket) in [(100_000, 20), (12_000, 4), (18_000, 180)] {
        add_claim_and_report_all(subjects, bucket);
    }
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn add_claim_and_report_all(subjects: u64, bucket: usize) {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", |policy| policy.bucket_subjects = bucket)).unwrap();
    let seat = shop.seat(&service, 1);
    shop.tick();

    let empty = shop.hub.stats().storage;
    assert_eq!(service.add_all(1..=subjects).unwrap().added, subjects);
    let stocked = shop.hub.stats().storage;
    let intake = stocked.since(&empty);
    assert_eq!(intake.applier.reads(), 1, "a look for the highest key");
    assert_eq!((intake.applier.pairs_read, intake.applier.bytes_read), (0, 0), "there was none");
    assert!(intake.journal.syncs <= intake.journal.groups, "{:?}", intake.journal);

    let mut done = 0;
    shop.settle();
    while let Claim::Leased(grant) = seat.claim(Ask::buckets(10)).unwrap() {
        for lease in grant {
            done += lease.submit(reports(&lease, "ok")).unwrap().accepted() as u64;
        }
        shop.settle();
    }
    assert_eq!(done, subjects);
    let finished = shop.hub.stats().storage.since(&stocked);
    assert_eq!(finished.applier.reads(), spans(subjects), "a look for each span: {:?}", finished.applier);
    let blocks = subjects.div_ceil(1_024);
    assert!(finished.steward.gets <= blocks && finished.steward.scans <= blocks / 4 + 2, "{:?}", finished.steward);
    assert_eq!((finished.results, finished.opening), (StoreOps::default(), StoreOps::default()));
    assert!(finished.journal.syncs <= finished.journal.groups, "{:?}", finished.journal);
    let buckets = subjects / bucket as u64;
    assert_eq!(finished.journal.of_kind("leased"), buckets);
    assert_eq!(finished.journal.of_kind("reported"), buckets);
    assert_eq!(finished.journal.records, buckets * 2, "and no other record");

    let whole = shop.hub.stats().storage.since(&empty).per_thousand(subjects).unwrap();
    let buckets = 1_000.0 / bucket as f64;
    for (what, cost, most, a_bucket) in [
        ("reads", whole.store_reads, 8.0, 0.0),
        ("bytes read", whole.store_bytes_read, 14_500.0, 0.0),
        ("pairs written", whole.store_pairs_written, 1_020.0, 0.6),
        ("bytes written", whole.store_bytes_written, 68_000.0, 60.0),
        ("records", whole.journal_records, 2.0, 2.0),
        ("bytes journaled", whole.journal_bytes, 39_500.0, 62.0),
        ("batches", whole.store_batches, whole.journal_groups, 0.0),
        ("syncs", whole.journal_syncs, whole.journal_groups, 0.0),
    ] {
        assert!(cost <= most + a_bucket * buckets, "{what}: {cost} with {bucket} in a bucket: {whole:?}");
    }
    // Seen with `cargo test --test measures steady -- --nocapture`.
    eprintln!("operations for 1,000 subjects in buckets of {bucket}: {whole:#?}");
}

/// R40: what opening, the steward and a caller read is told apart, and a hub opened again counts from nothing.
#[test]
fn each_role_is_counted_by_itself() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    shop.stock(&service, 40);
    let before = shop.hub.stats().storage;
    assert!(service.result(&1).unwrap().is_none());
    assert_eq!(service.results(None, 10).unwrap().0.len(), 0);
    let cost = shop.hub.stats().storage.since(&before);
    // Each of the 41 was read, was not among those that ended, and was read again to be sure.
    assert_eq!((cost.results.gets, cost.results.pairs_read), (2 + 40, 2 + 40 + 40), "{:?}", cost.results);
    assert_eq!(reads(&cost), 0);

    let _held = claim_one(&shop.seat(&service, 1)).into_token();
    drop(service);
    let shop = shop.restart();
    let opened = shop.hub.stats().storage;
    assert!(opened.opening.reads() > 0 && opened.results == StoreOps::default(), "{opened:?}");
    assert_eq!((opened.journal.of_kind("boot"), opened.journal.records, opened.journal.syncs), (1, 1, 1));
    let _service = shop.hub.register(Plain::new("plain")).unwrap();
    let restored = shop.hub.stats().storage.since(&opened);
    assert!(restored.opening.reads() > 0, "{restored:?}");
    assert_eq!((restored.applier.reads(), restored.steward.reads(), restored.results.reads()), (0, 0, 0));
}

/// R40: no cost for 1,000 subjects is claimed if none was finished.
#[test]
fn cost_of_nothing_is_none() {
    assert_eq!(Shop::open().hub.stats().storage.per_thousand(0), None);
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A shop with one service, whose buckets hold `bucket` subjects, and 400 subjects in it.
fn stocked(bucket: usize) -> (Shop, ServiceHandle<Plain>) {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", |policy| policy.bucket_subjects = bucket)).unwrap();
    shop.stock(&service, 400);
    (shop, service)
}

/// The values of a distribution, told by its buckets: of small numbers they are exact.
fn values(of: &Distribution) -> Vec<(u64, u64)> {
    of.buckets.iter().map(|bucket| (bucket.from, bucket.count)).collect()
}

/// R18, R20: from a claim to its reports is measured for the seat and the service, one value a submit; from the claim to the
/// lease's end, one value a bucket, however it ends and however often it was renewed.
#[test]
fn turnaround_and_hold_are_measured_from_the_claim() {
    let (shop, service) = stocked(4);
    let seats = shop.seats(&service, 2);
    let [first, second] = [claim_one(&seats[0]), claim_one(&seats[1])];
    shop.pass(ms(3));
    assert_eq!(first.report(reports(&first, "ok").into_iter().take(1)).unwrap().accepted(), 1);
    shop.tick();
    first.renew().unwrap();
    shop.clock.advance(ms(4));
    report_rest(&first, 3);
    shop.pass(ms(5));
    // Dropped with everything owed: held, but never reported. Claimed, renewed and ended between two looks of the writer.
    let third = claim_one(&seats[1]);
    shop.clock.advance(ms(2));
    third.renew().unwrap();
    shop.clock.advance(ms(4));
    drop(third);
    shop.tick();
    drop(second);
    shop.tick();

    let times = service.stats().times;
    assert_eq!(
        values(&times.turnaround_ms),
        [(3, 1), (12, 1)],
        "the second report was journaled 12 ms after the claim"
    );
    // Marked 101 ms before the claim; 104 stands for all up to 111, 112 for 113.
    assert_eq!(values(&times.wait_ms), [(104, 1), (112, 3)], "one value a subject, from when it was marked");
    assert_eq!((times.wait_ms.min, times.wait_ms.max), (104, 113));
    // 18 stands in a bucket with 19.
    assert_eq!(values(&times.hold_ms), [(6, 1), (12, 1), (18, 1)]);
    assert_eq!(values(&service.seat_stats(1).unwrap().turnaround_ms), [(3, 1), (12, 1)]);
    let none = service.seat_stats(2).unwrap().turnaround_ms;
    assert_eq!((none.count, none.quantile(0.5), none.resolution), (0, None, 4));
}

fn report_rest(lease: &Lease<Plain>, owed: usize) {
    let submitted = lease.submit(reports(lease, "ok")).unwrap();
    assert_eq!(submitted.accepted(), owed);
}

/// R18: a dead lease is held until it is released, a grace after its deadline; a lease taken over from before a restart
/// counts from its claim, and the time down does not count.
#[test]
fn dead_and_recovered_leases_are_held_from_their_claim() {
    let (shop, service) = stocked(4);
    let policy = service.policy();
    let seat = shop.seat(&service, 1);
    let token = claim_one(&seat).into_token();
    shop.tick();
    shop.pass(policy.lease);
    shop.pass(policy.grace);
    let held = service.stats().times.hold_ms;
    let expected = u64::try_from((policy.lease + policy.grace).as_millis()).unwrap();
    assert_eq!((held.count, held.min, held.max), (1, expected, expected));
    assert_eq!(seat.release(&token), Err(LeaseError::Over));

    let token = claim_one(&seat).into_token();
    shop.pass(ms(1_000));
    drop((seat, service));
    let shop = shop.restart();
    let service = shop.hub.register(Plain::with("plain", |policy| policy.bucket_subjects = 4)).unwrap();
    let seat = shop.seat(&service, 1);
    shop.pass(ms(500));
    seat.release(&token).unwrap();
    shop.tick();
    let held = service.stats().times.hold_ms;
    assert_eq!((held.count, held.min), (1, 1_500), "{held:?}");
}

/// R18: one call in 64 of each seat is timed, by the injected clock; seats take different turns.
#[test]
fn one_call_in_64_is_timed() {
    let shop = Shop::on(MemoryDisk::new(), ManualClock::default(), Limits::default());
    let service = shop
        .hub
        .register(Plain::with("plain", |policy| {
            policy.bucket_subjects = 1;
            policy.leases_in_flight = 1_000;
        }))
        .unwrap();
    shop.stock(&service, 1_000);
    for seat in &shop.seats(&service, 2) {
        for _ in 0..128 {
            let lease = loop {
                match seat.claim(Ask::one()).unwrap() {
                    Claim::Leased(mut grant) => break grant.pop().unwrap(),
                    Claim::Empty(_) => shop.settle(),
                }
            };
            lease.renew().unwrap();
            let _ = lease.report([]).unwrap();
            drop(lease);
        }
        let calls = service.seat_stats(seat.client_id().value()).unwrap();
        assert_eq!((calls.submits, calls.renewals, calls.releases), (128, 128, 128));
    }
    let calls = |id| service.seat_stats(id).unwrap();
    let times = service.stats().times;
    let claims = [1, 2].map(|id| calls(id).claims.div_ceil(64)).iter().sum::<u64>();
    assert!((4..=claims).contains(&times.claim_ns.count), "{} of {claims}", times.claim_ns.count);
    assert_eq!([times.submit_ns.count, times.renew_ns.count, times.release_ns.count], [4, 4, 4]);
    assert_eq!(times.claim_ns.max, 0, "the clock stood still");
    assert_eq!(times.activate_ns.count, 2, "every activation is timed");
    assert_eq!(shop.hub.stats().register_ns.count, 2, "every registration is timed");
}

/// R18: what is timed is the call: a plugin that takes its time shows.
#[test]
fn timed_submit_holds_the_time_of_the_plugin() {
    let clock = ManualClock::default();
    let hub = Hub::builder().manual().clock(clock.clone()).seed(7).open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Slow(clock)).unwrap();
    let client = hub.register_client(&Registration::new(1, "one")).unwrap().client;
    let seat = client.activate(&service).unwrap();
    service.add_all([1, 2, 3, 4]).unwrap();
    hub.tick();
    let lease = claim_one(&seat);
    assert_eq!(lease.submit(lease.subjects().map(|subject| (subject, ()))).unwrap().accepted(), 4);
    let times = service.stats().times;
    assert_eq!((times.submit_ns.count, times.submit_ns.max), (1, 28_000_000), "4 reports of 7 ms each");
    assert_eq!((times.claim_ns.count, times.claim_ns.max), (1, 0));
}

/// Takes 7 ms of virtual time to judge a report.
#[derive(Debug)]
struct Slow(ManualClock);

impl Service for Slow {
    type Subject = u64;
    type Report = ();

    fn id(&self) -> &'static str {
        "slow"
    }

    fn policy(&self) -> Policy {
        Policy { linger: Duration::ZERO, ..Policy::default() }
    }

    fn judge(&self, _subject: &u64, _report: &(), _reporter: Reporter) -> Verdict {
        self.0.advance(ms(7));
        Verdict::Accept
    }
}

/// R89: a renewed lease is as slow as it is: it counts from its claim, not from its last renewal.
#[test]
fn renewed_lease_counts_as_slow_from_its_claim() {
    let (shop, service) = stocked(4);
    let seat = shop.seat(&service, 1);
    let lease = claim_one(&seat);
    for _ in 0..3 {
        shop.pass(ms(1_000));
        lease.renew().unwrap();
    }
    let slow = service.slow_buckets(ms(2_999));
    assert_eq!(slow.iter().map(|bucket| bucket.took).collect::<Vec<_>>(), [ms(3_000)]);
    assert!(service.slow_buckets(ms(3_000)).is_empty());
}

/// R20, R58: a seat tells when it was activated first and last, and when it was last used, by the wall clock; after a
/// restart too.
#[test]
fn seat_tells_its_activations_and_its_last_access() {
    let (shop, service) = stocked(4);
    let told = |service: &ServiceHandle<Plain>| {
        let stats = service.seat_stats(1).unwrap();
        [stats.first_activated, stats.last_activated, stats.last_access].map(|at| at.map(|at| at.timestamp_millis()))
    };
    // A seat that an administrator barred before it ever was active.
    shop.client(1);
    drop(service.suspend(1).unwrap());
    drop(service.reinstate(1).unwrap());
    shop.tick();
    assert_eq!(told(&service), [None, None, None]);

    shop.clock.set_wall_ms(5_000_000);
    let seat = shop.seat(&service, 1);
    shop.tick();
    assert_eq!(told(&service), [5_000_000; 3].map(Some));
    shop.pass(ms(1_000));
    let lease = claim_one(&seat);
    shop.pass(ms(30));
    assert_eq!(told(&service)[2], Some(5_001_000), "the claim, not the look at it");
    lease.renew().unwrap();
    assert_eq!(told(&service)[2], Some(5_001_030));

    shop.pass(service.policy().idle);
    shop.clock.set_wall_ms(9_000_000);
    shop.seat(&service, 1);
    shop.tick();
    assert_eq!(told(&service), [5_000_000, 9_000_000, 9_000_000].map(Some), "active again");
    shop.pass(ms(7_000));
    report_rest(&lease, 4);
    drop((lease, seat, service));
    let shop = shop.restart();
    let service = shop.hub.register(Plain::with("plain", |policy| policy.bucket_subjects = 4)).unwrap();
    shop.clock.set_wall_ms(11_000_000);
    assert_eq!(told(&service), [5_000_000, 9_000_000, 9_007_000].map(Some), "as before, and not used since");
    let seat = shop.seat(&service, 1);
    assert_eq!(told(&service), [5_000_000, 9_000_000, 11_000_000].map(Some), "active as it was, looked after now");
    drop(seat);
}

/// R18: what is ready to be claimed is counted, bucket by bucket and subject by subject, as it is taken, ends and comes back.
#[test]
fn what_is_ready_is_counted() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", |policy| policy.bucket_subjects = 4)).unwrap();
    shop.stock(&service, 40);
    let ready = || {
        let stats = service.stats();
        (stats.buckets_ready, stats.subjects_ready)
    };
    let seat = shop.seat(&service, 1);
    assert_eq!((ready(), service.stats().pools_alive), ((10, 40), 1));
    let [kept, back] = [claim_one(&seat), claim_one(&seat)];
    assert_eq!(ready(), (8, 32), "what is leased is not ready");
    report_rest(&kept, 4);
    drop(back);
    shop.pass(Duration::from_secs(1));
    assert_eq!((ready(), service.stats().pools_alive), ((9, 36), 2), "what was put back stands in a pool of its own");
    while let Some(mut grant) = seat.claim(Ask::buckets(10)).unwrap().leased() {
        while let Some(lease) = grant.pop() {
            let owed = lease.len();
            report_rest(&lease, owed);
        }
    }
    assert_eq!(ready(), (0, 0));
}
