//! Conservation: whatever happens, at a quiet moment the fingerprints of what moved agree, and counting agrees with them.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use commissary::{
    Ask, AuditError, Hub, HubError, Lease, LeaseToken, ManualClock, MemoryDisk, Registration, ServiceAudit, Urgent,
};
use common::{Plain, Shop, assert_adds_up, claim, claim_one, report_all, reports};

fn only(shop: &Shop) -> ServiceAudit {
    shop.hub.audit().unwrap().services.remove(0)
}

fn counts(audit: &ServiceAudit) -> [u64; 6] {
    let ServiceAudit { unread, waiting, ready, leased, done, spare, .. } = audit;
    [unread.count, waiting.count, ready.count, leased.count, done.count, spare.count]
}

/// G8: the states of an audit say where every subject is, and together they are all that came in.
#[test]
fn an_audit_says_where_every_subject_is() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", |policy| policy.pool_subjects = 40)).unwrap();
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 6_000);
    let audit = only(&shop);
    assert!(audit.is_balanced(), "{audit}");
    let [unread, waiting, ready, ..] = counts(&audit);
    assert!(unread > 0 && ready > 0, "{audit:?}");
    assert_eq!(unread + waiting + ready, 6_000);
    let leases = claim(&seat, 3);
    report_all(&leases[0]);
    let dead = Lease::into_token;
    let tokens: Vec<LeaseToken> = leases.into_iter().skip(1).map(dead).collect();
    let audit = only(&shop);
    let [unread, waiting, ready, leased, done, spare] = counts(&audit);
    assert_eq!((leased, done, spare), (8, 4, 0));
    assert_eq!(unread + waiting + ready, 5_988);
    assert_eq!(audit.total(), audit.entered);
    assert_eq!(seat.release(&tokens[0]), Ok(4));
    let audit = only(&shop);
    assert_eq!(counts(&audit)[3..], [4, 4, 0]);
    assert_eq!((audit.total(), audit.entered.count), (audit.entered, 6_000));
    assert_adds_up(&shop.hub);
}

/// G8: a subject offered a second time is a spare until one of the two is reported and the other has come to its end.
#[test]
fn a_subject_offered_again_is_spare_until_both_are_over() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", |policy| policy.urgent = Urgent::Again)).unwrap();
    let seats = shop.seats(&service, 2);
    shop.stock(&service, 4);
    let held = claim_one(&seats[0]);
    drop(service.prioritize(&[3]).unwrap());
    assert_eq!(counts(&only(&shop)), [0, 0, 1, 4, 0, 1]);
    let again = claim_one(&seats[1]);
    assert_eq!(counts(&only(&shop)), [0, 0, 0, 5, 0, 1]);
    drop(held.report([(3, "ok".to_owned())]).unwrap());
    assert_eq!(counts(&only(&shop)), [0, 0, 0, 4, 1, 1], "the other client does not know yet");
    drop(again);
    assert_eq!(counts(&only(&shop)), [0, 0, 0, 3, 1, 0]);
    assert_adds_up(&shop.hub);
}

/// The hub says so when it cannot be audited.
#[test]
fn a_closed_hub_is_not_audited() {
    let shop = Shop::open();
    assert!(shop.hub.audit().unwrap().is_balanced(), "nothing is balanced");
    shop.hub.close().unwrap();
    assert!(matches!(shop.hub.audit(), Err(AuditError::Hub(HubError::Closed))));
    assert!(matches!(shop.hub.recount(), Err(AuditError::Hub(HubError::Closed))));
}

/// G8: eight threads claim, report in part, give back and mark urgent while subjects come in; caretakers on threads of their
/// own. Afterwards all balances, in count, sum and exclusive or.
#[test]
fn eight_threads_at_work_leave_balanced_books() {
    const TOTAL: u64 = 4_000;
    let hub = Hub::builder().seed(1).open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Plain::with("plain", |policy| policy.linger = Duration::from_millis(1))).unwrap();
    let seats: Vec<_> = (1..=8)
        .map(|id| {
            let registration = Registration::new(id, format!("c{id}")).origin(id.to_be_bytes());
            hub.register_client(&registration).unwrap().client.activate(&service).unwrap()
        })
        .collect();
    let (turns, done) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for seat in &seats {
            let (turns, done, service) = (&turns, &done, &service);
            scope.spawn(move || {
                // Turns in which there is nothing to claim yet count as well: of them there may be more.
                let most = || if done.load(Ordering::Relaxed) > 0 { 4_000 } else { 40_000 };
                while turns.fetch_add(1, Ordering::Relaxed) < most() {
                    let turn = turns.load(Ordering::Relaxed);
                    for lease in seat.claim(Ask::buckets(2)).unwrap().leased().into_iter().flatten() {
                        let mut reports = reports(&lease, "ok");
                        match turn % 7 {
                            0 => continue,
                            1 => reports.truncate(1),
                            2 => drop(service.prioritize(&[reports[0].0])),
                            _ => {}
                        }
                        let accepted = lease.submit(reports).unwrap().accepted();
                        done.fetch_add(accepted as u64, Ordering::Relaxed);
                    }
                    if turn % 64 == 0 || turn > 4_000 {
                        let _ = seat.wait_ready(Duration::from_millis(5));
                    }
                }
            });
        }
        for chunk in 0..TOTAL / 100 {
            assert_eq!(service.add_all(chunk * 100..(chunk + 1) * 100).unwrap().added, 100);
        }
    });
    let audit = hub.audit().unwrap();
    assert!(audit.is_balanced(), "{audit}");
    assert_adds_up(&hub);
    let audit = &hub.audit().unwrap().services[0];
    assert_eq!((audit.entered.count, audit.total()), (TOTAL, audit.entered));
    assert_eq!(audit.done.count, service.stats().subjects_done);
    assert!(audit.done.count > 0);
    hub.close().unwrap();
}

/// G8: what one opening says of the population is what the next one says.
#[test]
fn the_population_survives_restarts_to_the_last_bit() {
    let (disk, clock) = (MemoryDisk::new(), ManualClock::default());
    let plain = Plain::with("plain", |policy| {
        (policy.bucket_subjects, policy.pool_subjects) = (3, 12);
        (policy.lease, policy.grace) = (Duration::from_secs(1), Duration::from_millis(500));
        (policy.linger, policy.idle) = (Duration::from_millis(5), Duration::from_secs(60));
    });
    let mut before: Option<ServiceAudit> = None;
    for round in 0..5_u64 {
        let shop = Shop::on(disk.clone(), clock.clone(), commissary::Limits::default());
        let service = shop.hub.register(plain.clone()).unwrap();
        let audit = only(&shop);
        if let Some(before) = before.take() {
            assert_eq!((audit.entered, audit.done, audit.leased), (before.entered, before.done, before.leased));
        }
        shop.pass(Duration::from_secs(90));
        let seat = shop.seat(&service, 1);
        service.add_all(round * 10..round * 10 + 10).unwrap();
        shop.settle();
        let leases = claim(&seat, 2);
        drop(leases[0].report(reports(&leases[0], "ok").into_iter().take(1)).unwrap());
        for lease in leases {
            let _ = lease.into_token();
        }
        before = Some(only(&shop));
        assert_adds_up(&shop.hub);
        shop.hub.close().unwrap();
    }
}
