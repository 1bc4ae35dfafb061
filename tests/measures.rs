//! What is measured: operations of the disk and their budgets, times, counts, and that each count means what it says.

mod common;

use commissary::{Ask, Claim, StorageStats, StoreOps};
use common::{Plain, Shop, claim, reports};

/// Reads that are not the callers' own.
fn reads(storage: &StorageStats) -> u64 {
    storage.opening.reads() + storage.applier.reads() + storage.steward.reads()
}

/// R40: a claim reads nothing from the store, writes nothing itself, and makes one journal record a bucket; a submit of a
/// whole bucket makes one record, whose bytes are mostly the reports'.
#[test]
fn claim_and_submit_cost_one_record_a_bucket_and_no_read() {
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
    assert_eq!(cost.applier.reads(), 0);
    let (least, most) = (payload as u64, (payload + 40 * 40 + 10 * 60) as u64);
    assert!((least..most).contains(&cost.journal.bytes), "{} bytes for {payload} of reports", cost.journal.bytes);
}

/// R40: 100,000 subjects added, claimed and reported: the applier reads each subject offered once, to tell known ones, and
/// nothing for finishing it; the steward reads a block of 1,024 by one read, and looks for blocks four at a time; no group
/// is synced twice.
#[test]
fn steady_state_reads_nothing_for_a_finished_subject() {
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
    assert_eq!(intake.applier.reads(), subjects, "one look for each subject offered");
    assert_eq!((intake.applier.pairs_read, intake.applier.bytes_read), (0, 0), "none of them was known");
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
    assert_eq!(finished.applier.reads(), 0, "finishing a subject reads nothing: {:?}", finished.applier);
    let blocks = subjects.div_ceil(1_024);
    assert!(finished.steward.gets <= blocks && finished.steward.scans <= blocks / 4 + 2, "{:?}", finished.steward);
    assert_eq!((finished.results, finished.opening), (StoreOps::default(), StoreOps::default()));
    assert!(finished.journal.syncs <= finished.journal.groups, "{:?}", finished.journal);
    let buckets = subjects / bucket as u64;
    assert_eq!(finished.journal.of_kind("leased"), buckets);
    assert_eq!(finished.journal.of_kind("reported"), buckets);
    assert_eq!(finished.journal.records, buckets * 2, "and no other record");

    let whole = shop.hub.stats().storage.since(&empty).per_thousand(subjects).unwrap();
    let records = 2_000.0 / bucket as f64;
    assert!(whole.store_reads < 1_003.0 && whole.journal_records < records + 2.0, "{whole:?}");
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
    assert_eq!((cost.results.gets, cost.results.pairs_read > 1), (1, true), "{:?}", cost.results);
    assert_eq!(reads(&cost), 0);

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
