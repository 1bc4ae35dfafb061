//! What an operator is told of clients that report where it does not belong.

mod common;

use std::time::Duration;

use commissary::{ClientId, LeaseError, LeaseToken, Limits, Notice, NoticeKind, Outcome, Seat};
use common::{Plain, Shop, assert_adds_up, claim_one, report_all};

fn kinds(notices: &[Notice]) -> Vec<NoticeKind> {
    notices.iter().map(|notice| notice.kind).collect()
}

fn faults(seat: &Seat<Plain>, shop: &Shop) -> commissary::Faults {
    shop.hub.client_stats(seat.client_id().value()).unwrap().seats[0].faults
}

/// The bucket a token names, as notices and events write it.
fn bucket(token: &LeaseToken) -> (u64, u32) {
    let text = token.to_string();
    (u64::from_str_radix(&text[16..32], 16).unwrap(), u32::from_str_radix(&text[8..16], 16).unwrap())
}

/// R59: a report on another's lease is refused and noticed, with who tried and whose lease it is; it counts against the
/// sender, nothing counts against the holder, who finishes as if nothing had been.
#[test]
fn a_report_on_anothers_lease_is_noticed_and_harms_only_its_sender() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seats = shop.seats(&service, 2);
    shop.stock(&service, 4);
    let lease = claim_one(&seats[0]);
    let before = faults(&seats[0], &shop);
    shop.clock.advance(Duration::from_secs(60));
    let token = lease.token();
    let refused = seats[1].submit(&token, lease.subjects().map(|user| (user, "mine".to_owned())));
    assert_eq!(refused.unwrap_err(), LeaseError::NotOwner);
    assert_eq!(seats[1].renew(&token).unwrap_err(), LeaseError::NotOwner);

    let notices = shop.hub.notices();
    let kind = NoticeKind::OthersLease { bucket: bucket(&token), holder: seats[0].client_id() };
    assert_eq!(kinds(&notices), [kind, kind]);
    let Notice { number, at, client, service: of, .. } = &notices[0];
    assert_eq!((*number, *client, of.as_str()), (1, ClientId::new(2).unwrap(), "plain"));
    assert_eq!(at.timestamp_millis(), commissary::Clock::wall_ms(&shop.clock));
    assert_eq!((faults(&seats[1], &shop).not_owner, faults(&seats[0], &shop)), (2, before));
    report_all(&lease);
    shop.tick();
    assert_adds_up(&shop.hub);
}

/// R59, R78: a report on subjects that are not in the bucket is noticed once a call, with how many they were; the good
/// reports of the same call are taken.
#[test]
fn reports_on_unassigned_subjects_are_noticed_once_a_call() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seat = shop.seat(&service, 3);
    shop.stock(&service, 4);
    let lease = claim_one(&seat);
    let mine = lease.subjects().next().unwrap();
    let reports = [(100, "a".to_owned()), (mine, "b".to_owned()), (101, "c".to_owned())];
    let submitted = lease.report(reports).unwrap();
    assert_eq!(submitted.outcomes, [Outcome::NotInBucket, Outcome::Accepted, Outcome::NotInBucket]);
    let bucket = bucket(&lease.token());
    assert_eq!(kinds(&shop.hub.notices()), [NoticeKind::NotInBucket { bucket, subjects: 2 }]);
    assert_eq!(faults(&seat, &shop).not_in_bucket, 2);
    // Of another fault there is none.
    assert_eq!(lease.report([(mine, "b".to_owned())]).unwrap().outcomes, [Outcome::AlreadyDone]);
    assert_eq!(kinds(&shop.hub.notices()).len(), 1);
}

/// R59: a token that was never given out is noticed as forged; a call of a client that is not registered makes no notice
/// and no record, so that nobody without an identity can fill the list.
#[test]
fn forged_tokens_are_noticed_and_the_unregistered_are_not() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seats = shop.seats(&service, 2);
    shop.stock(&service, 4);
    let token = claim_one(&seats[0]).into_token();
    let text = token.to_string();
    let forged: LeaseToken = format!("{}{}", &text[..32], "0".repeat(32)).parse().unwrap();
    assert_eq!(seats[1].release(&forged).unwrap_err(), LeaseError::NotOwner);
    assert_eq!(kinds(&shop.hub.notices()), [NoticeKind::ForgedToken]);
    drop(shop.hub.client(2).unwrap().deregister().unwrap());
    assert_eq!(seats[1].release(&forged).unwrap_err(), LeaseError::NotRegistered);
    assert_eq!(seats[1].release(&token).unwrap_err(), LeaseError::NotRegistered);
    assert_eq!(shop.hub.notices().len(), 1);
    assert_eq!(seats[0].release(&token).unwrap(), 4);
}

/// R59, G5: a flood of refusals takes no more memory than the limit; the counts are of all.
#[test]
fn a_flood_of_faults_keeps_only_the_newest_notices() {
    let shop = Shop::open_with(Limits { notices: 10, ..Limits::default() });
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seats = shop.seats(&service, 2);
    shop.stock(&service, 4);
    let token = claim_one(&seats[0]).into_token();
    for _ in 0..1_000 {
        assert_eq!(seats[1].renew(&token).unwrap_err(), LeaseError::NotOwner);
    }
    let numbers: Vec<u64> = shop.hub.notices().iter().map(|notice| notice.number).collect();
    assert!(numbers.iter().copied().eq(991..=1_000), "{numbers:?}");
    assert_eq!(faults(&seats[1], &shop).not_owner, 1_000);
}
