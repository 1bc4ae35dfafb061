//! Registering and deregistering clients, also by storms of them: requirement rows R8, R26 and R60 to R67.

mod common;

use std::time::Duration;

use chrono::{DateTime, Utc};
use commissary::{
    ActivateError, Ask, ClaimError, Crash, DeregisterError, DetailError, HubError, LeaseError, Limits, ManualClock,
    MemoryDisk, Progress, RegisterClientError, Registration, Revoke, SeatState, ServiceState, TicketError,
};

use common::{Plain, Shop, assert_adds_up, claim, claim_one, name_of, report_all, reports, unranked};

fn at(wall_ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(wall_ms).expect("a moment within chrono's range")
}

/// R60: a first registration with valid details is new, is seen in the statistics, makes one journal record, and is there
/// after a restart.
#[test]
fn first_registration_is_new_and_durable() {
    let shop = Shop::open();
    shop.clock.set_wall_ms(1_000);
    let before = shop.disk.journal_bytes();
    let registered = shop.hub.register_client(&Registration::new(1, "A_z09")).unwrap();
    assert!(registered.new);
    assert_eq!((registered.client.id().value(), registered.client.name()), (1, "A_z09"));
    assert_eq!(registered.ticket.progress(), Ok(Progress::Pending));
    assert_eq!(registered.ticket.wait_durable(), Err(TicketError::Manual));
    shop.tick();
    assert_eq!(registered.ticket.progress(), Ok(Progress::Visible));
    registered.ticket.wait_durable().unwrap();
    assert!(registered.ticket.position().is_some(), "one record");
    assert!(shop.disk.journal_bytes() > before);
    for shop in [shop.after(Crash::Power), shop.restart()] {
        let stats = shop.hub.client_stats(1).expect("known");
        assert!(stats.registered);
        assert_eq!(
            (stats.name.as_str(), stats.first_registered, stats.last_registered),
            ("A_z09", at(1_000), at(1_000))
        );
        assert_eq!((stats.seats.len(), shop.hub.stats().clients), (0, 1));
    }
}

/// R60: every name of 1 to 15 of `A-Z a-z 0-9 _` and every id but zero is valid.
#[test]
fn the_bounds_of_valid_details_are_taken() {
    let shop = Shop::open();
    for (id, name) in [(1, "a"), (2, "_"), (3, "0"), (u64::MAX, "ABCDEFGHIJKLMNO")] {
        let registered = shop.hub.register_client(&Registration::new(id, name)).unwrap();
        assert!(registered.new && registered.client.is_registered());
    }
    assert_eq!(shop.hub.stats().clients, 4);
}

/// R61: registering again after a deregistration goes on under the same id: history and statistics stay, the seats are
/// inactive until activated.
#[test]
fn registration_after_deregistration_continues_the_history() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    shop.stock(&service, 12);
    let seat = shop.seat(&service, 1);
    let (done, left) = (claim_one(&seat), claim_one(&seat));
    report_all(&done);
    let before = shop.hub.client_stats(1).unwrap();
    shop.clock.advance(Duration::from_secs(5));
    let ticket = shop.hub.client(1).unwrap().deregister().unwrap();
    shop.tick();
    ticket.wait_durable().unwrap();
    assert_eq!(left.renew(), Err(LeaseError::NotRegistered));

    let registered = shop.hub.register_client(&Registration::new(1, name_of(1))).unwrap();
    assert!(registered.new, "it was not registered before");
    shop.tick();
    let stats = shop.hub.client_stats(1).unwrap();
    assert!(stats.registered);
    assert_eq!(stats.first_registered, before.first_registered);
    assert_eq!(stats.last_registered, before.last_registered + Duration::from_secs(5));
    let work = stats.work;
    assert_eq!((work.buckets_assigned, work.buckets_processed, work.buckets_put_back), (2, 1, 1));
    assert_eq!((work.subjects_reported, work.subjects_put_back, work.subjects_held), (4, 4, 0));
    assert_eq!(stats.seats[0].state, SeatState::Inactive);
    assert_eq!(seat.claim(Ask::one()).unwrap_err(), ClaimError::Inactive);
    let seat = registered.client.activate(&service).unwrap();
    assert_eq!(shop.drive_to_quiet(&seat), 8, "what was left is done after all");
    assert_eq!(shop.hub.stats().clients, 1);
    assert_adds_up(&shop.hub);
}

/// R62: registering again without a deregistration succeeds and changes nothing but the time of the last registration:
/// leases, activation and quota are as they were, and nothing is written.
#[test]
fn repeated_registration_changes_nothing() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", |policy| policy.leases_in_flight = 3)).unwrap();
    shop.stock(&service, 40);
    let seat = shop.seat(&service, 1);
    let leases = claim(&seat, 2);
    shop.tick();
    let (before, bytes) = (shop.hub.client_stats(1).unwrap(), shop.disk.journal_bytes());
    shop.clock.advance(Duration::from_secs(9));

    let again = shop.hub.register_client(&Registration::new(1, name_of(1)).origin("elsewhere")).unwrap();
    assert!(!again.new);
    assert_eq!(again.ticket.progress(), Ok(Progress::Visible), "there is nothing to wait for");
    assert_eq!(again.ticket.position(), None);
    shop.tick();
    assert_eq!(shop.disk.journal_bytes(), bytes, "nothing was written");
    let mut after = shop.hub.client_stats(1).unwrap();
    assert_eq!(after.last_registered, before.last_registered + Duration::from_secs(9));
    after.last_registered = before.last_registered;
    after.seats[0].idle = before.seats[0].idle;
    assert_eq!(after, before);
    assert_eq!(seat.leases().unwrap().len(), 2);
    let third = claim(&seat, 1);
    let full = common::claim_nothing(&seat);
    assert_eq!(full.reason, commissary::EmptyReason::QuotaFull, "the quota still counts the leases");
    leases.iter().chain(&third).for_each(report_all);
    assert_adds_up(&shop.hub);
}

/// R63 and R64: missing and malformed details are refused with what is wrong; no state is made.
#[test]
fn bad_details_are_refused_without_a_trace() {
    let shop = Shop::open();
    let bytes = shop.disk.journal_bytes();
    let character = |found| DetailError::NameCharacter { found };
    let long = |chars| DetailError::LongName { chars, limit: Limits::NAME_CHARS };
    let cases: Vec<(u64, String, DetailError)> = vec![
        (0, "fine".into(), DetailError::ZeroId),
        (0, String::new(), DetailError::ZeroId),
        (1, String::new(), DetailError::NoName),
        (1, "x".repeat(16), long(16)),
        (1, "\u{e9}".repeat(16), long(16)),
        (1, "x".repeat(1 << 20), long(1 << 20)),
        (1, "a b".into(), character(' ')),
        (1, "a-b".into(), character('-')),
        (1, "nul\0".into(), character('\0')),
        (1, "line\n".into(), character('\n')),
        (1, "\u{e9}".into(), character('\u{e9}')),
        (1, "\u{ff21}".into(), character('\u{ff21}')),
        (1, "@".into(), character('@')),
    ];
    for (id, name, wrong) in &cases {
        let refused = shop.hub.register_client(&Registration::new(*id, name.as_str())).unwrap_err();
        assert_eq!(refused, RegisterClientError::Detail(wrong.clone()), "id {id}");
    }
    shop.tick();
    let stats = shop.hub.stats();
    assert_eq!((stats.clients, stats.invalid_registrations, stats.queued_bytes), (0, cases.len() as u64, 0));
    assert_eq!(shop.disk.journal_bytes(), bytes);
    assert!(shop.hub.client(1).is_none() && shop.hub.client(0).is_none());
}

/// R64: a known id under another screen name is refused, whether the client is registered or not; the client known is
/// untouched.
#[test]
fn another_name_for_a_known_id_is_refused() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    shop.stock(&service, 8);
    let seat = shop.seat(&service, 1);
    let lease = claim_one(&seat);
    let before = shop.hub.client_stats(1).unwrap();
    let impostor = Registration::new(1, "Client_1");
    let other_name = RegisterClientError::Detail(DetailError::OtherName { id: 1 });
    assert_eq!(shop.hub.register_client(&impostor).unwrap_err(), other_name);
    assert_eq!(shop.hub.client_stats(1).unwrap(), before, "names differ by case");
    report_all(&lease);
    drop(shop.hub.deregister_client(1, &name_of(1)).unwrap());
    assert_eq!(shop.hub.register_client(&impostor).unwrap_err(), other_name);
    assert!(!shop.hub.client(1).unwrap().is_registered());
    shop.tick();
    let shop = shop.restart();
    assert_eq!(shop.hub.register_client(&impostor).unwrap_err(), other_name, "also after a restart");
    assert_eq!(shop.hub.stats().invalid_registrations, 1);
    assert_adds_up(&shop.hub);
}

/// R65: a million made-up identities from one origin leave no more records than the origin's burst and what has been
/// refilled meanwhile; the refusals say when to come again and that the connection should be closed. Honest clients from
/// other origins, and those who are known, do not notice.
#[test]
fn storm_of_new_identities_leaves_at_most_its_origins_budget() {
    let shop = Shop::open();
    let honest = shop.client(1);
    let burst = u64::from(shop.hub.limits().origin_burst);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..10_u64 {
        for id in 0..100_000 {
            let fake = Registration::new(1_000_000 + round * 100_000 + id, "fake").origin("198.51.100.1");
            match shop.hub.register_client(&fake) {
                Ok(registered) => {
                    assert!(registered.new);
                    taken += 1;
                }
                Err(RegisterClientError::Throttled { limit, retry_after, disconnect }) => {
                    assert_eq!((limit, disconnect), ("origin_burst", true));
                    assert!(retry_after <= Duration::from_millis(3_600), "one of 1,000 an hour: {retry_after:?}");
                    refused += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        // Honest newcomers of this round, each from an origin of its own, and one who is known.
        for id in 0..10 {
            let id = 10 + round * 10 + id;
            let newcomer = Registration::new(id, name_of(id)).origin(id.to_be_bytes());
            assert!(shop.hub.register_client(&newcomer).unwrap().new);
        }
        assert!(!shop.hub.register_client(&Registration::new(1, name_of(1))).unwrap().new);
        shop.pass(Duration::from_secs(360));
    }
    // A tenth of the budget came back in each of the nine pauses.
    assert_eq!(taken, burst + 9 * burst / 10);
    assert_eq!(taken + refused, 1_000_000);
    let stats = shop.hub.stats();
    assert_eq!((stats.clients, stats.throttled_registrations), (1 + 100 + taken, refused));
    assert!(honest.is_registered());
    assert_eq!(shop.restart().hub.stats().clients, 1 + 100 + taken);
}

/// R65: new identities from many origins together are bounded too; known ones still register.
#[test]
fn storm_from_many_origins_is_bounded_in_total() {
    let limits = Limits { newcomer_burst: 50, origin_refill: Duration::from_secs(100), ..Limits::default() };
    let shop = Shop::open_with(limits);
    let attempt = |id: u64| shop.hub.register_client(&Registration::new(id, "fake").origin(id.to_be_bytes()));
    let taken = (1..=5_000).filter(|id| attempt(*id).is_ok()).count();
    assert_eq!(taken, 50);
    let throttled = RegisterClientError::Throttled {
        limit: "newcomer_burst",
        retry_after: Duration::from_secs(2),
        disconnect: true,
    };
    assert_eq!(attempt(5_001).unwrap_err(), throttled);
    assert!(!attempt(50).unwrap().new, "who is known is no newcomer");
    shop.clock.advance(Duration::from_secs(2));
    assert!(attempt(5_001).unwrap().new, "after the time told there is room for one");
    assert!(attempt(5_002).is_err());
    assert_eq!(shop.hub.stats().clients, 51);
}

/// R65 and R19: who registers over and over is throttled alone, and told when to come again; it stays registered.
#[test]
fn repeats_are_throttled_per_identity() {
    let limits = Limits { repeat_burst: 5, ..Limits::default() };
    let shop = Shop::open_with(limits);
    let attempt = |id| shop.hub.register_client(&Registration::new(id, name_of(id))).map(|registered| registered.new);
    assert_eq!((attempt(1), attempt(2)), (Ok(true), Ok(true)));
    for _ in 0..5 {
        assert_eq!(attempt(1), Ok(false));
    }
    let throttled = RegisterClientError::Throttled {
        limit: "repeat_burst",
        retry_after: Duration::from_secs(12),
        disconnect: false,
    };
    assert_eq!(attempt(1), Err(throttled));
    assert_eq!(attempt(2), Ok(false), "others are not slowed");
    assert!(shop.hub.client(1).unwrap().is_registered());
    shop.pass(Duration::from_secs(12));
    assert_eq!(attempt(1), Ok(false), "after the time told there is room for one");
    assert!(attempt(1).is_err());
    assert_eq!(shop.hub.stats().throttled_registrations, 2);
    assert_eq!(shop.hub.stats().clients, 2);
}

/// R65: deregistering and registering in turn is a storm as well: the repeats are counted, and the journal with them is
/// bounded.
#[test]
fn churn_of_one_identity_is_throttled_like_repeats() {
    let limits = Limits { repeat_burst: 3, ..Limits::default() };
    let shop = Shop::open_with(limits);
    let client = shop.client(1);
    for round in 0..100 {
        let deregistered = client.deregister();
        assert_eq!(deregistered.is_ok(), round <= 3, "round {round}");
        drop(shop.hub.register_client(&Registration::new(1, name_of(1))));
    }
    assert!(!client.is_registered(), "throttled while deregistered, it stays so");
    shop.pass(Duration::from_secs(20));
    assert!(shop.hub.register_client(&Registration::new(1, name_of(1))).unwrap().new);
}

/// R65 and R16: the table of clients is bounded; beyond it newcomers are refused, naming the limit, and those known go on.
#[test]
fn full_table_of_clients_refuses_newcomers_only() {
    let limits = Limits { clients: 3, ..Limits::default() };
    let shop = Shop::open_with(limits);
    let clients = shop.clients(3);
    let newcomer = Registration::new(4, name_of(4));
    assert_eq!(shop.hub.register_client(&newcomer).unwrap_err(), RegisterClientError::TooMany { limit: 3 });
    drop(clients[0].deregister().unwrap());
    assert_eq!(
        shop.hub.register_client(&newcomer).unwrap_err(),
        RegisterClientError::TooMany { limit: 3 },
        "who was deregistered is known still"
    );
    assert!(shop.hub.register_client(&Registration::new(1, name_of(1))).unwrap().new);
    assert_eq!(shop.hub.stats().clients, 3);
    assert!(shop.hub.client(4).is_none());
}

/// R66: deregistering with wrong details is refused, and nobody's state changes.
#[test]
fn wrong_details_deregister_nobody() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    shop.stock(&service, 8);
    let seats = shop.seats(&service, 2);
    let leases: Vec<_> = seats.iter().map(claim_one).collect();
    shop.tick();
    let before = [shop.hub.client_stats(1), shop.hub.client_stats(2)];
    let bytes = shop.disk.journal_bytes();
    let other_name = |id| DeregisterError::Detail(DetailError::OtherName { id });
    let cases = [
        (1, name_of(2), other_name(1)),
        (1, String::new(), other_name(1)),
        (2, name_of(1), other_name(2)),
        (3, name_of(3), DeregisterError::NotRegistered { id: 3 }),
        (0, name_of(1), DeregisterError::NotRegistered { id: 0 }),
    ];
    for (id, name, expected) in cases {
        assert_eq!(shop.hub.deregister_client(id, &name).unwrap_err(), expected);
    }
    shop.tick();
    assert_eq!([shop.hub.client_stats(1), shop.hub.client_stats(2)], before);
    assert_eq!(shop.disk.journal_bytes(), bytes);
    let refused = shop.hub.stats();
    assert_eq!((refused.invalid_registrations, refused.not_registered), (3, 2));
    leases.iter().for_each(report_all);

    drop(shop.hub.deregister_client(1, &name_of(1)).unwrap());
    let twice = shop.hub.deregister_client(1, &name_of(1)).unwrap_err();
    assert_eq!(twice, DeregisterError::NotRegistered { id: 1 });
    assert!(shop.hub.client(2).unwrap().is_registered());
    assert_adds_up(&shop.hub);
}

/// R67: a client that ends before the answer leaves all or nothing. If nothing was written, trying again gives the answer
/// of a first registration; if it was, that of a repeated one. Nothing leaks.
#[test]
fn registration_dropped_at_any_point_is_all_or_nothing() {
    let registration = Registration::new(1, name_of(1));
    for (written, expected_new) in [(false, true), (true, false)] {
        let shop = Shop::open();
        drop(shop.hub.register_client(&registration));
        if written {
            shop.tick();
        }
        for crash in [Crash::Process, Crash::Power] {
            let shop = shop.after(crash);
            assert_eq!(shop.hub.client(1).is_some(), written);
            assert_eq!(shop.hub.register_client(&registration).unwrap().new, expected_new);
            shop.tick();
            assert_eq!((shop.hub.stats().clients, shop.hub.stats().queued_bytes), (1, 0));
        }
        // The hub itself went on: its answer was only not read.
        assert!(!shop.hub.register_client(&registration).unwrap().new);
        shop.tick();
        assert_eq!((shop.hub.stats().clients, shop.hub.stats().queued_bytes), (1, 0));
    }
}

/// R67: the same for a deregistration whose answer is not read, and for a handle that is dropped before it.
#[test]
fn deregistration_dropped_at_any_point_is_all_or_nothing() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    shop.stock(&service, 8);
    let seat = shop.seat(&service, 1);
    let token = claim_one(&seat).into_token();
    shop.tick();
    drop(shop.hub.client(1).unwrap().deregister());
    let unwritten = shop.after(Crash::Power);
    assert!(unwritten.hub.client(1).unwrap().is_registered());
    let service = unwritten.hub.register(Plain::new("plain")).unwrap();
    let seat_again = unwritten.seat(&service, 1);
    assert_eq!(seat_again.leases().unwrap()[0].token, token, "the lease goes on");
    shop.tick();
    let written = shop.after(Crash::Power);
    assert!(!written.hub.client(1).unwrap().is_registered());
    assert!(written.hub.register_client(&Registration::new(1, name_of(1))).unwrap().new);
    for shop in [&shop, &unwritten, &written] {
        shop.tick();
        assert_eq!(shop.hub.stats().queued_bytes, 0);
        assert_adds_up(&shop.hub);
    }
}

/// R37 and R67: with a full queue, registering, deregistering and activating are refused cleanly: nothing has changed, and
/// the same call succeeds once there is room.
#[test]
fn full_queue_refuses_registrations_cleanly() {
    let limits = unranked();
    let shop = Shop::open_with(limits);
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    shop.stock(&service, 8);
    let seat = shop.seat(&service, 1);
    let lease = claim_one(&seat);
    drop(shop.client(2).deregister());
    shop.client(3);
    shop.tick();
    let mut user = 100;
    while service.add(&user).is_ok() {
        user += 1;
    }
    let is_busy = |error: &HubError| matches!(error, HubError::Busy { limit: 4_096, .. });
    let refused = shop.hub.register_client(&Registration::new(4, name_of(4))).unwrap_err();
    assert!(matches!(&refused, RegisterClientError::Hub(error) if is_busy(error)), "{refused}");
    assert!(shop.hub.client(4).is_none());
    let refused = shop.hub.register_client(&Registration::new(2, name_of(2))).unwrap_err();
    assert!(matches!(&refused, RegisterClientError::Hub(error) if is_busy(error)), "{refused}");
    assert!(!shop.hub.client(2).unwrap().is_registered());
    let refused = shop.hub.client(3).unwrap().activate(&service).unwrap_err();
    assert!(matches!(&refused, ActivateError::Hub(error) if is_busy(error)), "{refused}");
    let refused = shop.hub.client(1).unwrap().deregister().unwrap_err();
    assert!(matches!(&refused, DeregisterError::Hub(error) if is_busy(error)), "{refused}");
    assert!(shop.hub.client(1).unwrap().is_registered());
    assert_eq!(seat.state(), SeatState::Active, "a refused deregistration leaves the seat active");
    lease.renew().unwrap();
    drop(claim_one(&seat));

    shop.tick();
    report_all(&lease);
    assert!(shop.hub.register_client(&Registration::new(4, name_of(4))).unwrap().new);
    assert!(shop.hub.register_client(&Registration::new(2, name_of(2))).unwrap().new);
    drop(shop.hub.client(1).unwrap().deregister().unwrap());
    assert_adds_up(&shop.hub);
}

/// R26 and G9: every call of a client that is not registered is refused as such, before anything else is looked at, and
/// counted; whether what it names exists makes no difference.
#[test]
fn unregistered_client_can_do_nothing() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let revoked = shop.hub.register(Plain::new("revoked")).unwrap();
    drop(revoked.revoke(Revoke::Immediate).unwrap());
    shop.stock(&service, 20);
    let seats = shop.seats(&service, 2);
    let (seat, other) = (&seats[0], &seats[1]);
    let finished = claim_one(seat);
    report_all(&finished);
    let own = claim_one(seat).into_token();
    let foreign = claim_one(other).into_token();
    let mut digits = own.to_string();
    digits.replace_range(60.., "0000");
    let forged = digits.parse().unwrap();
    let client = shop.hub.client(1).unwrap();
    drop(client.deregister().unwrap());
    shop.tick();
    let (work, others) = (service.seat_stats(1).unwrap().work, service.seat_stats(2).unwrap());

    assert_eq!(client.activate(&service).unwrap_err(), ActivateError::NotRegistered);
    assert_eq!(client.activate(&revoked).unwrap_err(), ActivateError::NotRegistered, "before the service is looked at");
    assert_eq!(seat.claim(Ask::one()).unwrap_err(), ClaimError::NotRegistered);
    assert_eq!(seat.claim(Ask::buckets(0)).unwrap_err(), ClaimError::NotRegistered, "before the ask is looked at");
    assert_eq!(seat.leases().unwrap_err(), LeaseError::NotRegistered);
    let mut calls = 5;
    for token in [&own, &foreign, &forged, &finished.token()] {
        assert_eq!(seat.submit(token, [(1, "ok".to_owned())]).unwrap_err(), LeaseError::NotRegistered);
        assert_eq!(seat.report(token, []).unwrap_err(), LeaseError::NotRegistered);
        assert_eq!(seat.renew(token).unwrap_err(), LeaseError::NotRegistered);
        assert_eq!(seat.release(token).unwrap_err(), LeaseError::NotRegistered);
        assert_eq!(seat.resume(token).unwrap_err(), LeaseError::NotRegistered);
        calls += 5;
    }
    assert_eq!(finished.report(reports(&finished, "ok")).unwrap_err(), LeaseError::NotRegistered);
    assert_eq!(client.deregister().unwrap_err(), DeregisterError::NotRegistered { id: 1 });
    calls += 2;
    shop.tick();
    assert_eq!(shop.hub.stats().not_registered, calls);
    assert_eq!(service.seat_stats(1).unwrap().work, work, "nothing moved");
    assert_eq!(service.seat_stats(2).unwrap(), others, "least of all anybody else's");
    assert_eq!(service.seat_stats(1).unwrap().faults.not_owner, 0);
    assert!(revoked.seat_stats(1).is_none(), "no record was made");
    assert_adds_up(&shop.hub);
}

/// R8: whether a service is valid can be read by anyone, registered or not; of an unknown service there is nothing to read.
#[test]
fn service_state_is_readable_without_registration() {
    let shop = Shop::on(MemoryDisk::new(), ManualClock::default(), Limits::default());
    assert_eq!(shop.hub.service_state("plain"), None);
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    assert_eq!(shop.hub.service_state("plain"), Some(ServiceState::Active));
    assert_eq!(shop.hub.service_state("Plain"), None);
    drop(service.pause().unwrap());
    assert_eq!(shop.hub.service_state("plain"), Some(ServiceState::Paused));
    drop(service.revoke(Revoke::Drain).unwrap());
    assert_eq!(shop.hub.service_state("plain"), Some(ServiceState::Draining));
    drop(service.revoke(Revoke::Immediate).unwrap());
    assert_eq!(shop.hub.service_state("plain"), Some(ServiceState::Revoked));
    drop(service.activate().unwrap());
    assert_eq!(shop.hub.service_state("plain"), Some(ServiceState::Active));
    assert_eq!(shop.hub.stats().clients, 0);
    shop.hub.close().unwrap();
    assert_eq!(shop.hub.service_state("plain"), Some(ServiceState::Active), "reads go on after the end");
}

/// G5: a newcomer refused for a full queue has taken nothing from the budgets: they are for those who get in.
#[test]
fn newcomers_refused_for_a_full_queue_pay_no_budget() {
    let limits = Limits { newcomer_burst: 2, origin_burst: 2, ..unranked() };
    let shop = Shop::open_with(limits);
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let mut user = 100;
    while service.add(&user).is_ok() {
        user += 1;
    }
    let newcomer = |id: u64| shop.hub.register_client(&Registration::new(id, name_of(id)).origin(b"here"));
    for id in 1..=10 {
        let refused = newcomer(id).unwrap_err();
        assert!(matches!(refused, RegisterClientError::Hub(HubError::Busy { .. })), "{refused}");
    }
    shop.tick();
    assert!(newcomer(1).unwrap().new && newcomer(2).unwrap().new);
    let queued = shop.hub.stats().queued_bytes;
    assert!(matches!(newcomer(3).unwrap_err(), RegisterClientError::Throttled { limit: "origin_burst", .. }));
    assert_eq!(shop.hub.stats().queued_bytes, queued, "the room of who was throttled is given back");
    assert!(!newcomer(2).unwrap().new);
    shop.tick();
    assert_eq!(shop.hub.stats().queued_bytes, 0);
}
