//! Defects, put in by hand where a wrong transition would put them, and the identity that each of them breaks. Those of the
//! prototype are named by their numbers in its list.

use std::time::Duration;

use crate::audit::{Flow, Identity, Move};
use crate::caretakers::Caretakers;
use crate::commit::{Change, Reports};
use crate::lease::Hold;
use crate::link::Precedence;
use crate::people::SeatCore;
use crate::pool::{Birth, Pool, SubjectBuf, Terms};
use crate::registry::ServiceCore;
use crate::services::{FollowerCheck, UserList};
use crate::slot::{Cause, Mask, Phase, Slot};
use crate::steward::{Errand, publish};
use crate::sync::Arc;
use crate::{
    Ask, Audit, AuditError, Claim, Hub, HubError, Lease, ManualClock, MemoryDisk, Registration, Seat, ServiceHandle,
};

const SUBJECTS: u64 = 40;

/// A hub with one service, whose subjects are all in pools, and two clients.
struct Shop {
    hub: Hub,
    clock: ManualClock,
    service: ServiceHandle<FollowerCheck>,
    seats: [Seat<FollowerCheck>; 2],
}

impl Shop {
    fn open() -> Self {
        Self::on(&MemoryDisk::new(), ManualClock::default())
    }

    fn on(disk: &MemoryDisk, clock: ManualClock) -> Self {
        let hub = Hub::builder().manual().clock(clock.clone()).seed(1).open_in_memory(disk).unwrap();
        let service = hub.register(FollowerCheck::default()).unwrap();
        let seats = [1, 2].map(|id| {
            let registered = hub.register_client(&Registration::new(id, format!("c{id}"))).unwrap();
            registered.client.activate(&service).unwrap()
        });
        let shop = Self { hub, clock, service, seats };
        shop.service.add_all(0..SUBJECTS).unwrap();
        shop.pass(Duration::from_secs(1));
        assert_eq!(shop.broken(), [], "sound to begin with");
        shop
    }

    fn pass(&self, time: Duration) {
        self.hub.tick();
        self.clock.advance(time);
        self.hub.tick();
    }

    fn core(&self) -> &Arc<ServiceCore> {
        self.service.core()
    }

    fn claim(&self, seat: usize) -> Lease<FollowerCheck> {
        let Claim::Leased(mut grant) = self.seats[seat].claim(Ask::one()).unwrap() else { panic!("a bucket is ready") };
        grant.pop().unwrap()
    }

    /// Where a lease stands.
    fn place(&self, lease: &Lease<FollowerCheck>) -> (Arc<Pool>, usize) {
        match self.core().find(&lease.token()) {
            crate::registry::Found::Slot(pool, index) => (pool, index),
            other => panic!("{other:?}"),
        }
    }

    /// Does some of the caretakers' work by hand.
    fn with_caretakers<R>(&self, work: impl FnOnce(&mut Caretakers) -> R) -> R {
        let mut caretakers = self.hub.house().dismiss().unwrap();
        let result = work(&mut caretakers);
        self.hub.house().keep(caretakers);
        result
    }

    /// The identities that do not hold, and by how many subjects.
    fn broken(&self) -> Vec<(Identity, i64)> {
        broken(&self.hub.audit().unwrap())
    }

    /// As `broken`, recounted.
    fn recounted(&self) -> Vec<(Identity, i64)> {
        broken(&self.hub.recount().unwrap())
    }
}

fn broken(audit: &Audit) -> Vec<(Identity, i64)> {
    let of = audit.services.iter().flat_map(|service| &service.imbalances);
    of.map(|imbalance| (imbalance.identity, imbalance.subjects())).collect()
}

fn empty_report() -> UserList {
    UserList { users: vec![], complete: true }
}

fn report(lease: &Lease<FollowerCheck>) {
    let submitted = lease.submit(lease.subjects().map(|user| (user, empty_report()))).unwrap();
    assert_eq!(submitted.accepted(), lease.len());
}

/// 1: the pick and the attachment are two steps, and the second does not look again.
#[test]
fn a_bucket_given_to_two_clients_is_seen_in_the_journal() {
    let shop = Shop::open();
    let lease = shop.claim(0);
    let (pool, index) = shop.place(&lease);
    // The other client is told that it has the same bucket.
    let core = &shop.seats[1].core;
    core.counts.claimed(1, lease.len() as u64, false);
    core.service.ledger.moved(Move::Assigned, pool.bucket_print(index));
    assert_eq!(shop.broken(), [(Identity::Leases, 4)]);
    let audit = shop.hub.audit().unwrap();
    let told = audit.to_string();
    assert!(told.ends_with("leased by clients = leased in the journal fails by 4 subjects"), "{told}");
}

/// Hands a report to the writer: what was accepted for the first bucket, as a report on the bucket at another place.
fn post(shop: &Shop, reports: &Reports, (pool, index): (Arc<Pool>, usize)) {
    let Reports { client, accepted, late, whole, .. } = *reports;
    let link = &shop.hub.house().link;
    link.reserve(Precedence::Submit, 1_000).unwrap();
    let change = Change::Reported(Reports {
        pool,
        index,
        client,
        items: reports.items.clone(),
        accepted,
        late,
        whole,
        step: None,
    });
    drop(link.post(change, 1_000));
}

/// 5: a result is stored although the bucket is not its client's: the journal's reader refuses it, at once and for good.
#[test]
fn a_report_stored_on_another_bucket_stops_the_hub() {
    let shop = Shop::open();
    let (lease, other) = (shop.claim(0), shop.claim(1));
    report(&lease);
    let taken = shop.hub.house().link.take_all();
    let Change::Reported(reports) = &taken[0].value.change else { panic!("a report") };
    post(&shop, reports, shop.place(&other));
    shop.hub.tick();
    assert!(matches!(shop.hub.audit(), Err(AuditError::Hub(HubError::Poisoned { .. }))));
}

/// 5: the same report is stored a second time.
#[test]
fn a_report_journaled_twice_is_seen() {
    let shop = Shop::open();
    let lease = shop.claim(0);
    let subject = lease.subjects().next().unwrap();
    drop(lease.report([(subject, empty_report())]).unwrap());
    let taken = shop.hub.house().link.take_all();
    let Change::Reported(reports) = &taken[0].value.change else { panic!("a report") };
    post(&shop, reports, shop.place(&lease));
    post(&shop, reports, shop.place(&lease));
    assert_eq!(shop.broken(), [(Identity::Reports, -1), (Identity::Spares, -1)]);
    let audit = shop.hub.audit().unwrap();
    let (pool, index) = shop.place(&lease);
    let rank = pool.subject(index, 0).map(|subject| subject.rank);
    assert_eq!(audit.services[0].imbalances[0].rank(), rank, "the subject can be named");
}

/// 11: of several statements one is not executed: a report is accepted and never stored.
#[test]
fn a_report_that_never_reaches_the_journal_is_seen() {
    let shop = Shop::open();
    let lease = shop.claim(0);
    report(&lease);
    assert_eq!(shop.hub.house().link.take_all().len(), 1, "and dropped");
    assert_eq!(shop.broken(), [(Identity::Reports, 4), (Identity::Leases, -4)]);
}

/// A settled subject is settled again: its bit came back.
#[test]
fn a_report_applied_though_the_subject_is_settled_is_seen() {
    let shop = Shop::open();
    let lease = shop.claim(0);
    let subject = lease.subjects().next().unwrap();
    let (pool, index) = shop.place(&lease);
    let rank = pool.subject(index, 0).unwrap().rank;
    drop(lease.report([(subject, empty_report())]).unwrap());
    shop.hub.tick();
    shop.with_caretakers(|caretakers| caretakers.storekeeper.applier_mut().owe_again(shop.core().id, rank));
    assert_eq!(shop.broken(), [], "nobody has acted on it yet");
    assert_eq!(shop.recounted(), [(Identity::Store, 1)], "but it stands in the store");
}

/// A subject is done, and the journal's accounts forget to say so.
#[test]
fn a_settlement_that_is_not_accounted_for_is_seen() {
    let shop = Shop::open();
    let lease = shop.claim(0);
    let rank = {
        let (pool, index) = shop.place(&lease);
        pool.subject(index, 1).unwrap().rank
    };
    report(&lease);
    shop.hub.tick();
    shop.with_caretakers(|caretakers| caretakers.storekeeper.applier_mut().forget_done(shop.core().id, rank));
    shop.service.add_all([1_000]).unwrap();
    assert_eq!(shop.broken(), [(Identity::Reports, 1), (Identity::Counts, -1)]);
    assert_eq!(shop.recounted()[2], (Identity::Store, -1));
}

fn put_backs(shop: &Shop) -> Vec<Errand> {
    shop.with_caretakers(|caretakers| {
        caretakers.writer.turn();
        caretakers.storekeeper.apply_all();
        let errands = caretakers.steward.inbox().take_all();
        errands.into_iter().map(|node| Arc::into_inner(node).unwrap().value).collect()
    })
}

/// 16: what is put back is lost, and not handed out again.
#[test]
fn a_bucket_that_is_put_back_and_never_returned_is_seen() {
    let shop = Shop::open();
    drop(shop.claim(0));
    assert_eq!(put_backs(&shop).len(), 1, "and dropped");
    assert_eq!(shop.broken(), [(Identity::Returns, 4)]);
}

#[test]
fn a_bucket_that_returns_twice_is_seen() {
    let shop = Shop::open();
    drop(shop.claim(0));
    let errands = put_backs(&shop);
    let [Errand::PutBack(put_back)] = errands.as_slice() else { panic!("{errands:?}") };
    shop.with_caretakers(|caretakers| {
        for _ in 0..2 {
            let (service, index, left) = (put_back.service, put_back.index, put_back.left);
            let again = crate::steward::PutBack { service, pool: Arc::clone(&put_back.pool), index, left };
            caretakers.steward.inbox().push(Arc::new(crate::stack::Node::new(Errand::PutBack(again))));
        }
    });
    assert_eq!(shop.broken(), [(Identity::Returns, -4)]);
}

/// A dead bucket whose release nobody tells of: the steward finds it, and the books balance.
#[test]
fn a_release_that_is_not_told_is_found_by_the_steward() {
    let shop = Shop::open();
    let lease = shop.claim(0);
    let (pool, index) = shop.place(&lease);
    let _ = lease.into_token();
    shop.hub.tick();
    let seat: &SeatCore = &shop.seats[0].core;
    let ended = pool.slot(index).unwrap().end(None, Cause::Expired).unwrap();
    seat.account(&ended, Cause::Expired, 0);
    shop.core().ledger.moved(Move::PutBack, pool.print(index, ended.left));
    assert_eq!(shop.recounted(), []);
    assert_eq!(pool.slot(index).unwrap().snapshot().phase(), Phase::Released);
    assert_eq!(shop.service.stats().work.subjects_put_back, 4);
}

/// 7, 8: a release that is not counted, or not as one.
#[test]
fn a_release_that_is_not_counted_is_seen() {
    let shop = Shop::open();
    let lease = shop.claim(0);
    let (pool, index) = shop.place(&lease);
    let _ = lease.into_token();
    assert!(pool.slot(index).unwrap().end(None, Cause::Client).is_some());
    pool.mark(index);
    assert_eq!(shop.broken(), [(Identity::Returns, -4), (Identity::Leases, 4)]);
}

/// 13: a user sits in several buckets.
#[test]
fn a_subject_cut_into_two_pools_is_seen() {
    let shop = Shop::open();
    let (pool, index) = shop.place(&shop.claim(0));
    shop.hub.tick();
    let bucket: Vec<SubjectBuf> = pool.bucket(index).map(SubjectBuf::new).collect();
    let birth = Birth {
        service: shop.core().id,
        generation: pool.generation + 1_000,
        born: 0,
        terms: Terms::of(&shop.core().policy()),
    };
    let secret = &shop.hub.house().link.secret;
    publish(shop.core(), Some(&shop.core().front), Arc::new(Pool::cut(birth, &bucket[..1], secret)));
    assert_eq!(shop.broken(), [(Identity::Queues, -1)]);
    // Handed out, and worked on twice.
    report(&shop.claim(0));
    shop.hub.tick();
    assert!(shop.broken().contains(&(Identity::Queues, -1)));
}

/// 11: a bucket is made partly: a subject was taken from the queue and never written into it.
#[test]
fn a_subject_left_out_of_its_bucket_is_seen() {
    let shop = Shop::open();
    drop(shop.claim(0));
    let errands = put_backs(&shop);
    let [Errand::PutBack(put_back)] = errands.as_slice() else { panic!("{errands:?}") };
    // Three of the four come to the queue, though the fourth was seen to come.
    let ledger = &shop.core().ledger;
    let lost = put_back.pool.print(put_back.index, Mask::of(2));
    ledger.flowed(Flow::Returned, lost);
    let left = put_back.left.without(Mask::of(2));
    let rest = crate::steward::PutBack {
        service: put_back.service,
        pool: Arc::clone(&put_back.pool),
        index: put_back.index,
        left,
    };
    shop.with_caretakers(|caretakers| {
        caretakers.steward.inbox().push(Arc::new(crate::stack::Node::new(Errand::PutBack(rest))));
    });
    assert_eq!(shop.broken(), [(Identity::Queues, 1)]);
    assert_eq!(shop.recounted(), [(Identity::Queues, 1), (Identity::Waiting, -1)]);
    let audit = shop.hub.recount().unwrap();
    let rank = put_back.pool.subject(put_back.index, 2).unwrap().rank;
    assert_eq!(audit.services[0].imbalances[1].rank(), Some(rank), "the subject can be named");
}

#[test]
fn a_block_that_is_read_twice_is_seen() {
    let shop = Shop::open();
    let ranks = (0..SUBJECTS).collect();
    shop.core().ledger.flowed(Flow::Read, ranks);
    let told = shop.broken();
    assert!(told.contains(&(Identity::Reading, -40)), "{told:?}");
}

#[test]
fn a_subject_that_is_never_read_is_seen() {
    let shop = Shop::open();
    // It came in, and the reader has passed it by.
    shop.core().ledger.unflowed(Flow::Read, 7);
    let audit = shop.hub.audit().unwrap();
    let reading = audit.services[0].imbalances.iter().find(|imbalance| imbalance.identity == Identity::Reading);
    assert_eq!(reading.and_then(crate::Imbalance::rank), Some(7));
}

/// What nobody notes, only counting sees: a bit lost in a slot, a bucket lost with its pool.
#[test]
fn what_is_lost_without_a_trace_is_found_by_counting() {
    let shop = Shop::open();
    let lease = shop.claim(0);
    let (pool, index) = shop.place(&lease);
    assert_eq!(pool.slot(index).unwrap().report(Mask::of(1)).accepted, Mask::of(1));
    assert_eq!(shop.broken(), [], "every account is in order");
    assert_eq!(shop.recounted(), [(Identity::Leased, -1)]);
    let audit = shop.hub.recount().unwrap();
    assert_eq!(audit.services[0].imbalances[0].rank(), pool.subject(index, 1).map(|subject| subject.rank));

    let shop = Shop::open();
    let (pool, _) = shop.place(&shop.claim(0));
    shop.hub.tick();
    let ready = pool.slots().iter().filter(|slot| slot.snapshot().phase() == Phase::Ready);
    let ready: usize = ready.map(Slot::len).sum();
    shop.core().retain_live(|other| other.generation != pool.generation);
    assert_eq!(shop.broken(), []);
    assert_eq!(shop.recounted(), [(Identity::Ready, -i64::try_from(ready).unwrap())]);
}

/// What is counted wrong in the store stays wrong, and is seen after a restart as well.
#[test]
fn a_defect_survives_a_restart_and_is_seen_there() {
    let (disk, clock) = (MemoryDisk::new(), ManualClock::default());
    let shop = Shop::on(&disk, clock.clone());
    let lease = shop.claim(0);
    let rank = {
        let (pool, index) = shop.place(&lease);
        pool.subject(index, 3).unwrap().rank
    };
    let kept = lease.into_token();
    shop.hub.tick();
    // The store forgets that it owes one of them.
    shop.with_caretakers(|caretakers| {
        assert!(caretakers.storekeeper.applier_mut().forget_owed(shop.core().id, rank));
    });
    shop.service.add_all([1_000]).unwrap();
    shop.hub.close().unwrap();
    drop(shop);
    let hub = Hub::builder().manual().clock(clock).open_in_memory(&disk).unwrap();
    let service = hub.register(FollowerCheck::default()).unwrap();
    hub.tick();
    assert!(matches!(service.core().find(&kept), crate::registry::Found::Slot(..)));
    let audit = hub.recount().unwrap();
    let store = audit.services[0].imbalances.iter().find(|imbalance| imbalance.identity == Identity::Store);
    assert_eq!(store.and_then(crate::Imbalance::rank), Some(rank), "{audit}");
}

/// What a call noted, and what ended on its behalf elsewhere, come from one thread or another: all are added up.
#[test]
fn leases_ended_by_others_balance() {
    let shop = Shop::open();
    let lease = shop.claim(0);
    let (pool, index) = shop.place(&lease);
    let core = Arc::clone(&shop.seats[0].core);
    let ended = std::thread::spawn(move || Hold::end_slot(&core, &pool, index, None, Cause::Revoked)).join().unwrap();
    assert!(ended.is_some());
    assert_eq!(shop.recounted(), []);
    // A lease that was ended by another cannot be ended again.
    drop(lease);
    assert_eq!(shop.recounted(), []);
    let audit = shop.hub.audit().unwrap();
    let service = &audit.services[0];
    assert_eq!((service.entered.count, service.total()), (SUBJECTS, service.entered));
    assert_eq!(audit.to_string(), "follower-check: balanced");
}

/// A subject offered again while its bucket waited, and that bucket was taken back: nobody held it, so nobody's counts change.
#[test]
fn a_report_takes_nothing_from_a_bucket_that_was_taken_back() {
    let shop = Shop::open();
    let policy = crate::Policy { urgent: crate::Urgent::Keep, ..shop.service.policy() };
    shop.service.set_policy(policy).unwrap();
    let keys: Vec<u64> = (0..SUBJECTS).collect();
    drop(shop.service.prioritize(&keys[..1]).unwrap());
    shop.hub.tick();
    let again = shop.claim(0);
    assert_eq!(again.len(), 1);
    let (pool, index) = shop.place(&again);
    let origin = pool.origin(index, 0).unwrap();
    assert!(shop.core().take_slot_back(&origin.pool, origin.index));
    report(&again);
    assert_eq!(shop.recounted(), []);
    let work = shop.hub.stats().work;
    assert!(work.adds_up() && work.subjects_put_back == 0, "{work:?}");
}
