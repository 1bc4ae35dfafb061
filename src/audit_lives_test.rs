//! The books through subjects' lives: deleted, withdrawn, restored and run again, wherever they stand. The records that no call
//! makes are written by hand.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use crate::record::{self, KeyRecord, Keys, Record, Restored, VersionName, Withdrawn};
use crate::services::{FollowingCheck, UserList};
use crate::{
    Ask, Claim, Hub, Late, LeaseToken, ManualClock, MemoryDisk, Policy, Registration, Reporter, Seat, Service,
    ServiceAudit, ServiceHandle, Verdict,
};

/// As the one it wraps, in small buckets and pools.
struct Small(FollowingCheck);

impl Service for Small {
    type Subject = u64;
    type Report = UserList;

    fn id(&self) -> &'static str {
        "small"
    }

    fn policy(&self) -> Policy {
        let (lease, grace) = (Duration::from_secs(1), Duration::from_millis(500));
        let linger = Duration::ZERO;
        let late = Late::AcceptIfOpen;
        Policy { bucket_subjects: 3, pool_subjects: 9, lease, grace, linger, late, expiry_spread: 0, ..self.0.policy() }
    }

    fn judge(&self, subject: &u64, report: &UserList, reporter: Reporter) -> Verdict {
        self.0.judge(subject, report, reporter)
    }

    fn discover(&self, subject: &u64, report: &UserList, found: &mut Vec<u64>) {
        self.0.discover(subject, report, found);
    }
}

struct Shop {
    disk: MemoryDisk,
    clock: ManualClock,
    hub: Hub,
    service: ServiceHandle<Small>,
    given: Vec<(u64, LeaseToken, Vec<u64>)>,
    /// What each took away: versions, subjects.
    retractions: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Shop {
    fn open(disk: MemoryDisk, clock: ManualClock) -> Self {
        let hub = Hub::builder().manual().clock(clock.clone()).seed(1).open_in_memory(&disk).unwrap();
        let service = hub.register(Small(FollowingCheck::default())).unwrap();
        hub.tick();
        Self { disk, clock, hub, service, given: Vec::new(), retractions: Vec::new() }
    }

    fn fresh() -> Self {
        Self::open(MemoryDisk::new(), ManualClock::default())
    }

    fn reopen(self) -> Self {
        let Self { disk, clock, hub, service, given, retractions } = self;
        hub.close().unwrap();
        drop((hub, service));
        Self { given, retractions, ..Self::open(disk, clock) }
    }

    fn add(&self, users: std::ops::Range<u64>) {
        self.service.add_all(users).unwrap();
        self.pass(1);
    }

    fn pass(&self, millis: u64) {
        self.clock.advance(Duration::from_millis(millis));
        self.hub.tick();
    }

    /// Journals a record between two rounds.
    fn write(&self, record: &Record<'_>) {
        let mut caretakers = self.hub.house().dismiss().unwrap();
        caretakers.writer.turn();
        caretakers.writer.write(record);
        caretakers.storekeeper.apply_all();
        self.hub.house().keep(caretakers);
    }

    fn delete(&self, users: &[u64]) {
        self.write(&Record::Deleted(Keys { service: self.id(), keys: &keys(users) }));
    }

    fn rerun(&self, users: &[u64]) {
        self.write(&Record::Rerun(Keys { service: self.id(), keys: &keys(users) }));
    }

    /// Withdraws subjects, and the first versions of results.
    fn withdraw(&mut self, subjects: &[u64], results: &[u64]) {
        let (mut versions, subjects) = (Vec::new(), keys(subjects));
        for user in results {
            record::append(&mut versions, &VersionName { key: &user.to_be_bytes(), number: 1 });
        }
        let (service, id) = (self.id(), self.retractions.len() as u64 + 1);
        let withdrawn = Withdrawn {
            service,
            id,
            client: 1,
            from_ms: i64::MIN,
            to_ms: i64::MAX,
            versions: &versions,
            subjects: &subjects,
            found: &[],
        };
        self.write(&Record::Withdrawn(withdrawn));
        self.retractions.push((versions, subjects));
    }

    fn restore(&self, id: u64) {
        let Some((versions, subjects)) =
            usize::try_from(id).ok().and_then(|id| self.retractions.get(id.checked_sub(1)?))
        else {
            return;
        };
        self.write(&Record::Restored(Restored { service: self.id(), id, last: true, versions, subjects }));
    }

    fn id(&self) -> u32 {
        self.service.core().id
    }

    fn seat(&self, client: u64) -> Seat<Small> {
        let registered = self.hub.register_client(&Registration::new(client, format!("c{client}"))).unwrap();
        registered.client.activate(&self.service).unwrap()
    }

    fn claim(&mut self, client: u64) -> bool {
        let Claim::Leased(grant) = self.seat(client).claim(Ask::buckets(2)).unwrap() else { return false };
        for lease in grant {
            let users = lease.subjects().collect();
            self.given.push((client, lease.into_token(), users));
        }
        true
    }

    fn report(&self, lease: usize, some: u8, last: bool) {
        let (client, token, users) = &self.given[lease];
        let some = users.iter().enumerate().filter(|(place, _)| some & (1 << place) != 0);
        // Each reveals another one.
        let report = |user: u64| UserList { users: vec![user / 2 + 500], complete: true };
        let reports: Vec<_> = some.map(|(_, user)| (*user, report(*user))).collect();
        let seat = self.seat(*client);
        drop(if last { seat.submit(token, reports) } else { seat.report(token, reports) });
    }

    fn audit(&self) -> ServiceAudit {
        let mut audit = self.hub.recount().unwrap();
        assert!(audit.is_balanced(), "{audit}: {audit:?}");
        let audit = audit.services.remove(0);
        assert_eq!(audit.total(), audit.entered, "{audit:?}");
        audit
    }

    /// Works until nothing is left, and checks that all rounds have ended.
    fn finish(mut self) {
        for _ in 0..100 {
            self.pass(1_000);
            self.given.clear();
            while self.claim(9) {
                (0..self.given.len()).for_each(|lease| self.report(lease, u8::MAX, true));
                self.given.clear();
                self.hub.tick();
            }
        }
        let audit = self.audit();
        let ServiceAudit { unread, waiting, ready, leased, spare, .. } = audit;
        for state in [unread, waiting, ready, leased, spare] {
            assert_eq!(state, crate::Print::default(), "{audit:?}");
        }
    }
}

fn keys(users: &[u64]) -> Vec<u8> {
    let mut list = Vec::new();
    for user in users {
        record::append(&mut list, &KeyRecord { key: &user.to_be_bytes() });
    }
    list
}

/// G8: a subject deleted where it stands is gone from there, and from the books: unread, queued, in a bucket that waits.
#[test]
fn what_is_deleted_is_gone_wherever_it_stood() {
    let shop = Shop::fresh();
    shop.add(0..6_000);
    let before = shop.audit();
    assert!(before.unread.count > 0 && before.waiting.count > 0 && before.ready.count > 0, "{before:?}");
    let (read, cut) = (6_000 - before.unread.count, before.ready.count);
    let users = [0, cut - 1, cut, read - 1, read, 5_999];
    shop.delete(&users);
    let after = shop.audit();
    assert_eq!((after.gone.count, after.spare.count), (6, 0));
    assert_eq!(after.unread.count + after.waiting.count + after.ready.count, 5_994);
    shop.delete(&users);
    assert_eq!(shop.audit(), after, "they are not there any more");
}

/// G8: one that is deleted while a client holds it is spare until the client lets go of it, whichever way.
#[test]
fn what_is_deleted_while_it_is_held_is_spare() {
    let mut shop = Shop::fresh();
    shop.add(0..6);
    assert!(shop.claim(1) && shop.given.len() == 2);
    let users: Vec<u64> = shop.given.iter().flat_map(|(_, _, users)| users.clone()).collect();
    shop.delete(&users[..4]);
    let audit = shop.audit();
    assert_eq!((audit.leased.count, audit.spare.count, audit.gone.count), (6, 4, 4));
    shop.report(0, 0b11, true);
    let audit = shop.audit();
    assert_eq!((audit.leased.count, audit.spare.count, audit.done.count), (3, 1, 0), "one came back, owed no more");
    let shop = shop.reopen();
    let audit = shop.audit();
    assert_eq!((audit.leased.count, audit.spare.count, audit.gone.count), (3, 1, 4), "and so after a restart");
    shop.pass(1_000);
    shop.pass(500);
    let audit = shop.audit();
    assert_eq!((audit.leased.count, audit.spare.count), (0, 0), "put back");
    shop.finish();
}

/// G8: a deletion that meets its subject on the way back from a bucket.
#[test]
fn what_is_deleted_on_its_way_back_does_not_return() {
    let mut shop = Shop::fresh();
    shop.add(0..3);
    assert!(shop.claim(1));
    let token = shop.given[0].1;
    assert_eq!(shop.seat(1).release(&token), Ok(3));
    // The release and the deletion are applied one after the other; the steward hears of both at once.
    shop.delete(&[0, 1]);
    let audit = shop.audit();
    assert_eq!((audit.gone.count, audit.spare.count), (2, 0));
    assert_eq!(audit.waiting.count + audit.ready.count, 1);
    shop.finish();
}

/// G8: each round of a subject comes in and ends by itself; a retraction opens one, and its undoing ends that.
#[test]
fn rounds_come_in_and_end_one_by_one() {
    let mut shop = Shop::fresh();
    shop.add(0..3);
    assert!(shop.claim(1));
    shop.report(0, u8::MAX, true);
    shop.hub.tick();
    // Two of the three revealed subjects are the same.
    let audit = shop.audit();
    assert_eq!((audit.entered.count, audit.done.count), (5, 3));
    shop.rerun(&[0]);
    shop.withdraw(&[501], &[1]);
    let audit = shop.audit();
    assert_eq!((audit.entered.count, audit.done.count, audit.gone.count), (7, 3, 1));
    shop.restore(1);
    let audit = shop.audit();
    assert_eq!((audit.entered.count, audit.done.count, audit.gone.count), (8, 3, 2), "501 begins anew, 1 is done");
    shop.finish();
}

#[derive(Debug, Clone)]
enum Op {
    Add { first: u64 },
    Claim { client: u64 },
    Report { lease: Index, some: u8, last: bool },
    Delete { users: Vec<u64> },
    Rerun { users: Vec<u64> },
    Withdraw { subjects: Vec<u64>, results: Vec<u64> },
    Restore { id: Index },
    Urgent { users: Vec<u64> },
    Pass { millis: u64 },
    Audit,
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let users = || prop::collection::vec(prop_oneof![0..24_u64, 500..510_u64], 1..4);
    let op = prop_oneof![
        4 => (0..24_u64).prop_map(|first| Op::Add { first }),
        8 => (1..3_u64).prop_map(|client| Op::Claim { client }),
        8 => (any::<Index>(), any::<u8>(), any::<bool>()).prop_map(|(lease, some, last)| Op::Report { lease, some, last }),
        4 => users().prop_map(|users| Op::Delete { users }),
        3 => users().prop_map(|users| Op::Rerun { users }),
        3 => (users(), users()).prop_map(|(subjects, results)| Op::Withdraw { subjects, results }),
        2 => any::<Index>().prop_map(|id| Op::Restore { id }),
        3 => users().prop_map(|users| Op::Urgent { users }),
        5 => prop::sample::select(vec![1, 500, 1_000]).prop_map(|millis| Op::Pass { millis }),
        6 => Just(Op::Audit),
        1 => Just(Op::Reopen),
    ];
    prop::collection::vec(op, 5..60)
}

fn apply(mut shop: Shop, op: Op) -> Shop {
    match op {
        Op::Add { first } => drop(shop.service.add_all(first..first + 6).unwrap()),
        Op::Claim { client } => _ = shop.claim(client),
        Op::Report { lease, some, last } if !shop.given.is_empty() => {
            shop.report(lease.index(shop.given.len()), some, last);
        }
        Op::Report { .. } => {}
        Op::Delete { users } => shop.delete(&users),
        Op::Rerun { users } => shop.rerun(&users),
        Op::Withdraw { subjects, results } => shop.withdraw(&subjects, &results),
        Op::Restore { id } => shop.restore(id.index(8) as u64),
        Op::Urgent { users } => drop(shop.service.prioritize(&users).unwrap()),
        Op::Pass { millis } => shop.pass(millis),
        Op::Audit => drop(shop.audit()),
        Op::Reopen => return shop.reopen(),
    }
    shop
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// G8: after any sequence of lives and rounds, mixed with the rest, every subject is in one place.
    #[test]
    fn whatever_becomes_of_a_subject_the_books_balance(ops in ops()) {
        let mut shop = Shop::fresh();
        for op in ops {
            shop = apply(shop, op);
        }
        shop.audit();
        shop.finish();
    }
}
