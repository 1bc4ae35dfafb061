//! Urgent subjects: offered at once, wherever they stand; first report wins; marks survive.

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use commissary::{
    Ask, Claim, Crash, Hub, Lease, Limits, Marked, MemoryDisk, Outcome, Policy, Registration, Seat, ServiceHandle,
    SubjectState, Urgent, UrgentError,
};
use common::{Plain, Shop, assert_adds_up, claim_nothing, claim_one, report_all};

const HOUR: Duration = Duration::from_secs(3_600);

fn shop_with(policy: impl FnOnce(&mut Policy)) -> (Shop, ServiceHandle<Plain>) {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", policy)).unwrap();
    (shop, service)
}

fn users(lease: &Lease<Plain>) -> Vec<u64> {
    lease.subjects().collect()
}

/// Marks subjects urgent and lets that take effect; what was said of each.
fn hurry(shop: &Shop, service: &ServiceHandle<Plain>, users: &[u64]) -> Vec<Marked> {
    let (marked, _ticket) = service.prioritize(users).unwrap();
    shop.tick();
    marked
}

/// Two clients, and four users that the first of them holds; some are urgent, so that the second holds them as well.
fn held_twice(shop: &Shop, service: &ServiceHandle<Plain>, urgent: &[u64]) -> ([Seat<Plain>; 2], [Lease<Plain>; 2]) {
    let seats = [1, 2].map(|id| shop.seat(service, id));
    shop.stock(service, 4);
    let held = claim_one(&seats[0]);
    assert_eq!(hurry(shop, service, urgent), vec![Marked::Urgent; urgent.len()]);
    let again = claim_one(&seats[1]);
    let mut offered = users(&again);
    offered.sort_unstable();
    assert_eq!(offered, urgent);
    (seats, [held, again])
}

fn report(lease: &Lease<Plain>, user: u64, what: &str) -> Outcome {
    lease.report([(user, what.to_owned())]).unwrap().outcomes.remove(0)
}

/// Everything that can still be claimed, reported; in the order it was handed out.
fn drain(shop: &Shop, seat: &Seat<Plain>) -> Vec<u64> {
    let mut seen = Vec::new();
    for _ in 0..3 {
        shop.settle();
        while let Claim::Leased(grant) = seat.claim(Ask::one()).unwrap() {
            for lease in grant {
                seen.extend(users(&lease));
                drop(lease.submit(lease.subjects().map(|user| (user, "late".to_owned()))).unwrap());
            }
            shop.settle();
        }
    }
    seen
}

/// R29, R94, R97: a subject that waits goes straight into an urgent bucket, without companions; marking it again changes nothing.
#[test]
fn a_waiting_subject_is_offered_at_once() {
    let (shop, service) = shop_with(|policy| policy.pool_subjects = 8);
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 2_000);
    // Not read from the store yet, read but in no bucket yet, unknown.
    assert_eq!(hurry(&shop, &service, &[1_999, 20, 5_000]), [Marked::Urgent, Marked::Urgent, Marked::Unknown]);
    assert_eq!(hurry(&shop, &service, &[1_999, 20]), [Marked::Already, Marked::Already]);
    let first = claim_one(&seat);
    assert_eq!(users(&first).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([20, 1_999]), "two are a bucket");
    report_all(&first);
    shop.tick();
    assert_eq!(service.prioritize(&[20]).unwrap().0.len(), 1);
    assert!(matches!(hurry(&shop, &service, &[20])[0], Marked::Done { .. }));
    let rest = drain(&shop, &seat);
    assert_eq!(rest.len(), 1_998);
    assert_eq!(rest.into_iter().collect::<BTreeSet<_>>().len(), 1_998, "no subject was offered twice");
    assert_adds_up(&shop.hub);
    assert_eq!(service.stats().extra_work, 0);
}

/// R95: out of a bucket that waits, an urgent subject is moved; its companions are offered as before, none twice.
#[test]
fn a_subject_in_a_bucket_that_waits_is_moved() {
    let (shop, service) = shop_with(|_| {});
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 40);
    assert_eq!(hurry(&shop, &service, &[7, 8]), [Marked::Urgent; 2]);
    let first = claim_one(&seat);
    assert_eq!(users(&first).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([7, 8]));
    report_all(&first);
    let stats = service.stats();
    assert!((1..=2).contains(&stats.moved), "two subjects out of one or two buckets: {}", stats.moved);
    let rest = drain(&shop, &seat);
    assert_eq!(rest.len(), 38);
    assert_eq!(rest.into_iter().collect::<BTreeSet<_>>().len(), 38);
    assert_eq!(service.stats().subjects_done, 40);
    assert_adds_up(&shop.hub);
}

/// R96: a subject that a client holds is offered again; the first report wins and the other is told so, without a fault.
#[test]
fn a_held_subject_is_offered_again_and_the_first_report_wins() {
    for urgent_first in [true, false] {
        let (shop, service) = shop_with(|_| {});
        let (seats, [held, again]) = held_twice(&shop, &service, &[3]);
        let (first, second) = if urgent_first { (&again, &held) } else { (&held, &again) };
        assert_eq!(report(first, 3, "same"), Outcome::Accepted);
        shop.tick();
        assert_eq!(report(second, 3, "same"), Outcome::AlreadyDone);
        let stats = service.stats();
        assert_eq!((stats.extra_work, stats.subjects_done, stats.discarded), (1, 1, 0));
        assert_eq!(stats.faults, commissary::Faults::default());
        drop(held.submit([1, 2, 4].map(|user| (user, "ok".to_owned()))).unwrap());
        drop(again);
        shop.tick();
        assert_eq!(service.stats().subjects_done, 4);
        assert_eq!(service.stats().work.buckets_held, 0);
        assert_adds_up(&shop.hub);
        claim_nothing(&seats[0]);
        let again = shop.after(Crash::Process);
        let service = again.hub.register(Plain::new("plain")).unwrap();
        again.tick();
        assert_eq!(service.stats().work.buckets_held, 0, "the journal ended both leases");
        assert_adds_up(&again.hub);
    }
}

/// R95, R96: the first report wins also when its lease ends with it and gives the rest of its bucket back.
#[test]
fn the_first_report_wins_though_the_rest_of_its_bucket_is_put_back() {
    let (shop, service) = shop_with(|_| {});
    let (seats, [held, again]) = held_twice(&shop, &service, &[3]);
    let first = held.submit([(3, "same".to_owned())]).unwrap();
    assert_eq!((&first.outcomes[..], first.put_back), (&[Outcome::Accepted][..], 3));
    assert_eq!(report(&again, 3, "same"), Outcome::AlreadyDone);
    shop.tick();
    let stats = service.stats();
    assert_eq!((stats.subjects_done, stats.discarded, stats.work.subjects_reported), (1, 0, 1));
    assert_eq!(drain(&shop, &seats[1]).len(), 3);
    assert_adds_up(&shop.hub);
}

/// R96: a second report that says something else is a conflict, kept as evidence.
#[test]
fn a_contradicting_report_on_the_other_lease_is_a_conflict() {
    let (shop, service) = shop_with(|_| {});
    let (_seats, [held, again]) = held_twice(&shop, &service, &[3]);
    assert_eq!(report(&again, 3, "yes"), Outcome::Accepted);
    assert_eq!(report(&held, 3, "no"), Outcome::Conflict);
    shop.tick();
    assert_eq!(service.result(&3).unwrap().unwrap().report, "yes");
}

/// R96: under `Wait` a held subject stays with its holder until the lease is dead, and is then offered before all others.
#[test]
fn under_wait_a_held_subject_stays_with_its_holder() {
    // What comes back is not so old that it goes before the urgent ones.
    let (shop, service) = shop_with(|policy| (policy.urgent, policy.max_wait) = (Urgent::Wait, 24 * HOUR));
    let seats = shop.seats(&service, 2);
    shop.stock(&service, 8);
    let held = claim_one(&seats[0]);
    let mine = users(&held);
    hurry(&shop, &service, &mine[..1]);
    let other = claim_one(&seats[1]);
    assert!(users(&other).iter().all(|user| !mine.contains(user)), "nothing is offered again");
    report_all(&other);
    let _token = held.into_token();
    shop.pass(2 * HOUR);
    shop.pass(Duration::from_secs(15 * 60));
    let back = claim_one(&seats[1]);
    assert_eq!(users(&back), &mine[..1], "the urgent one first, alone");
    report_all(&back);
    assert_eq!(service.stats().extra_work, 0);
    assert_eq!(drain(&shop, &seats[1]).len(), 3);
    assert_adds_up(&shop.hub);
}

/// R97: in its grace a lease's subject is offered again; the old holder may still win.
#[test]
fn a_dead_lease_s_subject_is_offered_again() {
    for policy in [Urgent::Again, Urgent::Wait, Urgent::Keep] {
        let (shop, service) = shop_with(|p| p.urgent = policy);
        let seats = shop.seats(&service, 2);
        shop.stock(&service, 4);
        let held = claim_one(&seats[0]);
        shop.pass(2 * HOUR);
        assert!(seats[0].leases().unwrap()[0].dead);
        hurry(&shop, &service, &[2]);
        let again = claim_one(&seats[1]);
        assert_eq!(users(&again), [2], "{policy:?}");
        assert_eq!(report(&held, 2, "old"), Outcome::Accepted);
        assert_eq!(report(&again, 2, "old"), Outcome::AlreadyDone);
        assert_adds_up(&shop.hub);
    }
}

/// Where a subject stands when it is made urgent.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stand {
    Waiting,
    Ready,
    Leased,
    Dead,
    Done,
}

/// Who reports it, in which order.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reports {
    HolderBefore,
    HolderFirst,
    UrgentFirst,
    UrgentOnly,
    Nobody,
}

/// R98: five states, three policies, reports before, during and after: one current record, extra work as many as were
/// handed out twice, nothing lost, and the journal says the same.
#[test]
fn wherever_it_stands_and_whoever_reports_one_record_is_current() {
    let stands = [Stand::Waiting, Stand::Ready, Stand::Leased, Stand::Dead, Stand::Done];
    let orders =
        [Reports::HolderBefore, Reports::HolderFirst, Reports::UrgentFirst, Reports::UrgentOnly, Reports::Nobody];
    for stand in stands {
        for policy in [Urgent::Again, Urgent::Wait, Urgent::Keep] {
            for order in orders {
                one_of_the_matrix(stand, policy, order);
            }
        }
    }
}

fn one_of_the_matrix(stand: Stand, urgent: Urgent, order: Reports) {
    let scene = format!("{stand:?}, {urgent:?}, {order:?}");
    let (shop, service) = shop_with(|policy| {
        policy.urgent = urgent;
        policy.pool_subjects = 4;
    });
    let seats = shop.seats(&service, 3);
    let n = if stand == Stand::Waiting { 24 } else { 4 };
    shop.stock(&service, n);
    let user = n;
    let held = match stand {
        Stand::Waiting | Stand::Ready => None,
        Stand::Leased | Stand::Dead | Stand::Done => Some(claim_one(&seats[0])),
    };
    if stand == Stand::Done {
        assert_eq!(report(held.as_ref().unwrap(), user, "x"), Outcome::Accepted, "{scene}");
        shop.tick();
    }
    if stand == Stand::Dead {
        shop.pass(2 * HOUR);
    }
    let (_, _ticket) = service.prioritize(&[user]).unwrap();
    if order == Reports::HolderBefore
        && let Some(held) = &held
    {
        // Reported before the mark takes effect.
        report(held, user, "x");
    }
    shop.tick();
    // Whoever claims now gets the urgent one first, if it is offered.
    let again = match seats[1].claim(Ask::one()).unwrap() {
        Claim::Leased(mut grant) => grant.pop().filter(|lease| users(lease).contains(&user)),
        Claim::Empty(_) => None,
    };
    match order {
        Reports::HolderBefore | Reports::Nobody => {}
        Reports::HolderFirst => {
            for lease in [&held, &again].into_iter().flatten() {
                report(lease, user, "x");
            }
        }
        Reports::UrgentFirst => {
            for lease in [&again, &held].into_iter().flatten() {
                report(lease, user, "x");
            }
        }
        Reports::UrgentOnly => {
            if let Some(lease) = &again {
                report(lease, user, "x");
            }
        }
    }
    shop.tick();
    // Under `Keep` it stays in the bucket that waits as well.
    let twice = u64::from(again.is_some() && (held.is_some() || (stand == Stand::Ready && urgent == Urgent::Keep)));
    assert_eq!(service.stats().extra_work, twice, "{scene}");
    drop((held, again));
    let _ = drain(&shop, &seats[2]);
    let stats = service.stats();
    assert_eq!((stats.subjects_done, stats.subjects_known, stats.discarded), (n, n, 0), "{scene}");
    assert_eq!(service.result(&user).unwrap().unwrap().version, 1, "{scene}: one record");
    assert_eq!((stats.work.buckets_held, stats.work.subjects_held), (0, 0), "{scene}");
    assert!(stats.work.adds_up(), "{scene}: {:?}", stats.work);
    claim_nothing(&seats[0]);
    let again = Shop::on(shop.disk.after(Crash::Process).without_store(), shop.clock.clone(), Limits::default());
    let service = again.hub.register(Plain::new("plain")).unwrap();
    again.tick();
    let replayed = service.stats();
    assert_eq!((replayed.subjects_done, replayed.work.buckets_held), (n, 0), "{scene}: after a replay");
    assert!(replayed.work.adds_up(), "{scene}: {:?}", replayed.work);
    assert_eq!(replayed.work, stats.work, "{scene}: the journal knows all of it");
}

/// I7: marks survive a restart; of two leases on one subject the first report wins after it, too.
#[test]
fn marks_and_double_leases_survive_a_restart() {
    let (shop, service) = shop_with(|policy| policy.pool_subjects = 4);
    let seats = shop.seats(&service, 2);
    shop.stock(&service, 40);
    let held = claim_one(&seats[0]);
    let mine = users(&held)[0];
    hurry(&shop, &service, &[mine, 39]);
    let again = claim_one(&seats[1]);
    let theirs = users(&again);
    assert_eq!(theirs.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([mine, 39]));
    hurry(&shop, &service, &[38]);
    let (held, again) = (held.into_token(), again.into_token());
    drop((seats, service));
    let shop = shop.after(Crash::Process);
    let service = shop.hub.register(Plain::with("plain", |policy| policy.pool_subjects = 4)).unwrap();
    let seats = [1, 2].map(|id| shop.hub.client(id).unwrap().activate(&service).unwrap());
    shop.settle();
    let next = claim_one(&seats[0]);
    assert_eq!(users(&next), [38], "urgent still; the others are not offered a third time");
    report_all(&next);
    let one = |user: u64| [(user, "x".to_owned())];
    assert_eq!(seats[1].report(&again, one(mine)).unwrap().outcomes, [Outcome::Accepted]);
    assert_eq!(seats[0].report(&held, one(mine)).unwrap().outcomes, [Outcome::AlreadyDone]);
    assert_eq!(service.subject_state(&39).unwrap(), SubjectState::Pending);
    assert_eq!(seats[1].submit(&again, one(39)).unwrap().outcomes, [Outcome::Accepted]);
    assert_eq!(seats[0].release(&held).unwrap(), 3);
    let _ = drain(&shop, &seats[0]);
    assert_eq!(service.stats().subjects_done, 40);
    assert_eq!(service.stats().discarded, 0);
    assert_adds_up(&shop.hub);
}

/// A call names how many it takes.
#[test]
fn too_many_at_once_are_refused() {
    let (_shop, service) = shop_with(|_| {});
    let limit = Limits::URGENT_KEYS;
    let keys: Vec<u64> = (0..=limit as u64).collect();
    let refused = service.prioritize(&keys).unwrap_err();
    assert!(matches!(refused, UrgentError::TooMany { keys, limit: l } if keys == limit + 1 && l == limit), "{refused}");
}

/// R96: whose lease is over takes nothing from the other holder: a late report on what was given back is stale, and the subject
/// stays with who holds it.
#[test]
fn a_stale_report_takes_nothing_from_the_other_holder() {
    let (shop, service) = shop_with(|_| {});
    let (seats, [held, again]) = held_twice(&shop, &service, &[3]);
    let token = again.into_token();
    assert_eq!(seats[1].release(&token), Ok(1));
    shop.tick();
    let late = seats[1].report(&token, [(3, "late".to_owned())]).unwrap();
    assert_eq!(late.outcomes, [Outcome::Stale]);
    shop.tick();
    assert_adds_up(&shop.hub);
    report_all(&held);
    shop.tick();
    assert_eq!(service.stats().subjects_done, 4, "nothing was lost");
    assert_adds_up(&shop.hub);
}

/// R94: a subject on its way back from a lease of before a restart, made urgent before the store was read so far, is offered once.
#[test]
fn a_subject_on_its_way_back_after_a_restart_is_offered_once() {
    let (shop, service) = shop_with(|_| {});
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 4);
    let token = claim_one(&seat).into_token();
    drop(service.pause().unwrap());
    shop.tick();
    drop((service, seat));
    let shop = shop.restart();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seat = shop.seat(&service, 1);
    shop.tick();
    assert_eq!(seat.release(&token), Ok(4));
    drop(service.prioritize(&[3]).unwrap());
    shop.tick();
    assert_adds_up(&shop.hub);
    drop(service.activate().unwrap());
    let mut offered = drain(&shop, &seat);
    offered.sort_unstable();
    assert_eq!(offered, [1, 2, 3, 4]);
    assert_adds_up(&shop.hub);
}

/// R95: several subjects of one bucket that waits are moved out of it, each once.
#[test]
fn several_subjects_of_one_bucket_that_waits_are_moved_once() {
    let (shop, service) = shop_with(|_| {});
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 4);
    assert_eq!(hurry(&shop, &service, &[1, 2, 3]), [Marked::Urgent; 3]);
    assert_adds_up(&shop.hub);
    assert_eq!(shop.hub.audit().unwrap().services[0].spare.count, 0, "nobody holds them: no second copy");
    let first = claim_one(&seat);
    assert_eq!(users(&first).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([1, 2, 3]));
    assert_eq!(first.len(), 3);
    report_all(&first);
    assert_eq!(drain(&shop, &seat), [4]);
    assert_eq!((service.stats().moved, service.stats().extra_work), (1, 0));
    assert_adds_up(&shop.hub);
}

/// R96: a held subject that was to be offered again and comes back before it was is offered once.
#[test]
fn a_subject_that_comes_back_before_it_was_offered_again_is_offered_once() {
    let (shop, service) = shop_with(|_| {});
    let seats = shop.seats(&service, 2);
    shop.stock(&service, 8);
    let held = claim_one(&seats[0]);
    let of_held = users(&held);
    let other = first_not_in(&[1, 2, 3, 4, 5, 6, 7, 8], &of_held);
    // An urgent bucket is there already: the next waits until it is taken.
    assert_eq!(hurry(&shop, &service, &[other]), [Marked::Urgent]);
    assert_eq!(hurry(&shop, &service, &of_held[..1]), [Marked::Urgent]);
    held.release();
    shop.tick();
    assert_adds_up(&shop.hub);
    let mut offered = drain(&shop, &seats[1]);
    offered.sort_unstable();
    assert_eq!(offered, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(service.stats().discarded, 0);
    assert_adds_up(&shop.hub);
}

/// The first of `all` that is not among `held`.
fn first_not_in(all: &[u64], held: &[u64]) -> u64 {
    *all.iter().find(|user| !held.contains(user)).unwrap()
}

/// R96: a lease one of whose subjects was reported elsewhere, and all others by its holder, ends with a put-back like any other.
#[test]
fn a_lease_of_which_nothing_but_a_lost_subject_is_left_can_be_given_back() {
    for restart in [false, true] {
        let (shop, service) = shop_with(|_| {});
        let (seats, [held, again]) = held_twice(&shop, &service, &[1, 2]);
        assert_eq!(report(&held, 1, "first"), Outcome::Accepted);
        shop.tick();
        assert_eq!(report(&again, 2, "second"), Outcome::Accepted);
        shop.tick();
        if restart {
            // The store knows that nothing is owed there any more, and ends it.
            let _kept = (held.into_token(), again.into_token());
        } else {
            again.release();
            shop.tick();
            assert_eq!(shop.hub.health(), Ok(()));
            let _ = held.into_token();
        }
        assert_adds_up(&shop.hub);
        let before = service.stats().work;
        drop((service, seats));
        let shop = shop.restart();
        let service = shop.hub.register(Plain::new("plain")).unwrap();
        shop.tick();
        assert_adds_up(&shop.hub);
        if !restart {
            assert_eq!(service.stats().work, before, "the journal tells what happened");
        }
        assert_eq!(service.stats().work.buckets_held, 1);
        assert_eq!(drain(&shop, &shop.seat(&service, 2)), [0_u64; 0]);
    }
}

/// I1, R98: with the caretakers at work beside the clients, an urgent subject that is accepted is accepted once, from whoever
/// holds it; nothing accepted is dropped.
#[test]
fn urgent_subjects_are_accepted_once_while_everyone_is_at_work() {
    const SUBJECTS: u64 = 2_000;
    let hub = Hub::builder().seed(1).open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Plain::with("plain", |policy| policy.linger = Duration::ZERO)).unwrap();
    let seats: Vec<_> = (1..=2)
        .map(|id| hub.register_client(&Registration::new(id, "a")).unwrap().client.activate(&service).unwrap())
        .collect();
    let users: Vec<u64> = (1..=SUBJECTS).collect();
    service.add_all(users.iter().copied()).unwrap();
    let accepted = AtomicU64::new(0);
    let done = || service.stats().subjects_done >= SUBJECTS;
    thread::scope(|scope| {
        for seat in &seats {
            scope.spawn(|| {
                while !done() {
                    let Claim::Leased(grant) = seat.claim(Ask::buckets(3)).unwrap() else {
                        let _ = seat.wait_ready(Duration::from_millis(10));
                        continue;
                    };
                    for lease in grant {
                        let submitted = lease.submit(lease.subjects().map(|user| (user, "ok".to_owned()))).unwrap();
                        accepted.fetch_add(submitted.accepted() as u64, Ordering::Relaxed);
                    }
                }
            });
        }
        for some in users.chunks(100) {
            service.prioritize(some).unwrap().1.wait_visible().unwrap();
        }
    });
    let audit = hub.recount().unwrap();
    assert!(audit.is_balanced(), "{audit}");
    let stats = service.stats();
    assert_eq!((stats.subjects_done, stats.discarded, accepted.into_inner()), (SUBJECTS, 0, SUBJECTS));
}
