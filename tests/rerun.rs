//! Re-runs: a new round of work on subjects that are done, and what marks and deletions answer beside it.

mod common;

use commissary::{Crash, KeysError, Limits, Seat, ServiceHandle, SubjectState};
use common::{Plain, Shop, assert_adds_up, claim_nothing, claim_one, report_all, reports};

/// A shop with one service and one client, which has reported the users 1 to 4.
fn four_done() -> (Shop, ServiceHandle<Plain>, Seat<Plain>) {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 4);
    report_all(&claim_one(&seat));
    shop.settle();
    (shop, service, seat)
}

/// R33: a re-run opens a new round; the old result stays in force until the new one comes.
#[test]
fn a_rerun_opens_a_round_and_the_old_result_stays_until_the_new_one() {
    let (shop, service, seat) = four_done();
    let ticket = service.rerun(&[2, 3]).unwrap();
    shop.settle();
    let intake = ticket.wait_visible().unwrap();
    assert_eq!((intake.added, intake.duplicates), (2, 0));
    assert_eq!(service.subject_state(&2).unwrap(), SubjectState::Pending);
    let old = service.result(&2).unwrap().expect("the old result is in force");
    assert_eq!((old.version, old.report.as_str()), (1, "ok"));
    let lease = claim_one(&seat);
    assert_eq!(lease.len(), 2, "only what is run again");
    assert!(
        lease.submit(reports(&lease, "changed")).unwrap().outcomes.iter().all(|o| *o == commissary::Outcome::Accepted)
    );
    shop.settle();
    let new = service.result(&2).unwrap().unwrap();
    assert_eq!((new.version, new.report.as_str()), (2, "changed"));
    assert_eq!(service.result(&1).unwrap().unwrap().version, 1);
    let stats = service.stats();
    assert_eq!((stats.reruns, stats.subjects_known, stats.subjects_done), (2, 4, 4));
    assert_adds_up(&shop.hub);
}

/// R33: a re-run while a round is open changes nothing, in whatever state the subject is.
#[test]
fn a_rerun_of_an_open_or_unknown_subject_changes_nothing() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seat = shop.seat(&service, 1);
    let answer = |keys: &[u64]| {
        let ticket = service.rerun(keys).unwrap();
        shop.hub.tick();
        let intake = ticket.wait_visible().unwrap();
        (intake.added, intake.duplicates)
    };
    service.add_all(1..=4).unwrap();
    assert_eq!(answer(&[1, 99]), (0, 2), "waiting, unknown");
    shop.settle();
    assert_eq!(answer(&[1]), (0, 1), "in a bucket");
    let lease = claim_one(&seat);
    assert_eq!(answer(&[1]), (0, 1), "leased");
    report_all(&lease);
    shop.settle();
    assert_eq!(answer(&[1, 1]), (1, 1), "done, then open");
    assert_eq!(answer(&[1]), (0, 1), "run again already");
    assert_eq!(answer(&[]), (0, 0));
    shop.settle();
    assert_eq!(claim_one(&seat).len(), 1);
    assert_eq!(service.stats().reruns, 1);
}

/// R33: open rounds survive a crash, as do the results that are in force meanwhile.
#[test]
fn a_rerun_survives_a_crash() {
    for crash in [Crash::Process, Crash::Power] {
        let (shop, service, _seat) = four_done();
        drop(service.rerun(&[4]).unwrap());
        shop.hub.tick();
        let after = shop.after(crash);
        let service = after.hub.register(Plain::new("plain")).unwrap();
        let seat = after.seat(&service, 1);
        assert_eq!(service.result(&4).unwrap().unwrap().version, 1);
        after.settle();
        let lease = claim_one(&seat);
        assert_eq!(lease.subjects().collect::<Vec<_>>(), [4]);
        report_all(&lease);
        after.settle();
        assert_eq!(service.result(&4).unwrap().unwrap().version, 2);
        claim_nothing(&seat);
        assert_adds_up(&after.hub);
    }
}

/// R33: the number of keys in one call is bounded by a limit that the error names, and nothing is done then.
#[test]
fn keys_beyond_the_limits_are_refused_by_name() {
    let limits = Limits { submit_bytes: 90, report_bytes: 90, ..Limits::default() };
    let shop = Shop::open_with(limits);
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let keys: Vec<u64> = (0..11).collect();
    assert_eq!(service.rerun(&keys).unwrap_err(), KeysError::TooLarge { place: 10, limit: 90 });
    assert!(service.rerun(&keys[..10]).is_ok());
    let long = "k".repeat(257);
    let refused = shop.hub.delete_everywhere(&long).unwrap_err();
    assert_eq!(refused, KeysError::Key { place: 0, bytes: 257, limit: 256 });
    assert_eq!(refused.to_string(), "key 0 has 257 bytes, allowed are 1 to 256 (key_bytes)");
    shop.hub.close().unwrap();
    assert!(matches!(service.delete(&[1]), Err(KeysError::Hub(_))));
}

/// R33: re-runs by name, as JSON.
#[test]
fn a_rerun_by_name_takes_an_array_of_keys() {
    let (shop, service, seat) = four_done();
    let named = shop.hub.service("plain").unwrap();
    let tickets = [named.rerun(b"[1,2,9]"), named.mark(b"[1]"), named.delete(b"[3]")];
    shop.settle();
    let answers = tickets.map(|ticket| ticket.unwrap().wait_visible().unwrap());
    assert_eq!(answers.map(|intake| (intake.added, intake.duplicates)), [(2, 1), (0, 1), (1, 0)]);
    assert!(named.rerun(b"{}").is_err());
    assert_eq!(service.subject_state(&3).unwrap(), SubjectState::Unknown);
    assert_eq!(claim_one(&seat).len(), 2);
}
