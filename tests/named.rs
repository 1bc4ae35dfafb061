//! Services by name, with JSON bodies: what an application puts behind a network. Requirement rows R6, R24, R26, R70, R72,
//! R73 and R77 to R79 once more, through text; and every way in which a body can be wrong.

mod common;

use std::time::Duration;

use commissary::services::FollowerCheck;
use commissary::{
    ActivateError, Capability, ClaimError, HubStats, JsonError, LeaseError, Limits, NamedSeat, NamedService, Policy,
    Progress, Refused, Revoke, ServiceHandle, ServiceState, SubjectState,
};
use serde_json::{Value, json};

use common::{Plain, Shop, assert_adds_up, exact, name_of};

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// A hub with a plain service of `n` users, seen by name, and client 1 at it.
fn shop_with(limits: Limits, n: u64) -> (Shop, ServiceHandle<Plain>, NamedService, NamedSeat) {
    let shop = Shop::open_with(limits);
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    shop.stock(&service, n);
    let named = shop.hub.service("plain").expect("it is registered");
    let seat = named.activate(&shop.client(1), Capability::default()).unwrap();
    shop.tick();
    (shop, service, named, seat)
}

/// Claims one bucket: its token and its users.
fn claim_one(seat: &NamedSeat) -> (Value, Vec<Value>) {
    let answer = seat.claim(b"{}").unwrap();
    let leases = answer["leases"].as_array().expect("there is work");
    assert_eq!(leases.len(), 1);
    (leases[0]["token"].clone(), leases[0]["subjects"].as_array().unwrap().clone())
}

/// R24, R73 and R77: the whole life of a bucket in JSON: users in, a claim, a report, a renewal, recollecting, a final
/// submit, the results out, and giving a bucket back.
#[test]
fn whole_cycle_runs_through_json() {
    let shop = Shop::open();
    shop.hub.register(FollowerCheck::with(Policy { max_depth: 1, ..exact() })).unwrap();
    let named = shop.hub.service("follower-check").unwrap();
    assert_eq!((named.id(), named.state()), ("follower-check", ServiceState::Active));
    let ticket = named.add(b"[11, 12, 13, 14, 15, 15]").unwrap();
    shop.tick();
    let intake = ticket.wait_visible().unwrap();
    assert_eq!((intake.added, intake.duplicates), (5, 1));
    let seat = named.activate(&shop.client(1), Capability::default()).unwrap();
    shop.settle();

    let answer = seat.claim(&bytes(&json!({ "buckets": 1, "subjects": 100, "time_ms": 60_000 }))).unwrap();
    assert_eq!((&answer["limit"], &answer["clamped"]), (&json!(10), &json!(false)));
    let lease = &answer["leases"][0];
    let (token, users) = (&lease["token"], lease["subjects"].as_array().unwrap());
    assert_eq!((token.as_str().unwrap().len(), users.len()), (64, 4));
    let list = |others: &[u64]| json!({ "users": others, "complete": true });

    let body = json!({ "token": token, "reports": [[users[0], list(&[21, 22])], [99, list(&[])]] });
    let (reported, ticket) = seat.report(&bytes(&body)).unwrap();
    assert_eq!(reported, json!({ "outcomes": ["accepted", "not_in_bucket"], "put_back": 0, "kept": true }));
    assert_eq!(ticket.progress(), Ok(Progress::Pending));
    shop.pass(Duration::from_secs(60));
    assert_eq!(ticket.wait_visible().unwrap().added, 2, "discovered");
    let held = seat.leases().unwrap();
    let left = 7_200_000 - 60_000;
    assert_eq!(
        held,
        json!({ "leases": [{ "token": token, "subjects": users[1..], "time_left_ms": left, "dead": false }] })
    );
    let renewed = seat.renew(&bytes(&json!({ "token": token }))).unwrap();
    assert_eq!(renewed, json!({ "time_left_ms": 7_200_000 }));

    let own = users[1].as_u64().unwrap();
    let body = json!({ "token": token, "reports": [[users[0], list(&[21, 22])], [own, list(&[own])]] });
    let (refused, _) = seat.submit(&bytes(&body)).unwrap();
    let reason = format!("user {own} is in its own list");
    let outcomes = json!(["already_done", { "rejected": { "reason": reason } }]);
    assert_eq!(refused, json!({ "outcomes": outcomes, "put_back": 0, "kept": true }));
    let body = json!({ "token": token, "reports": [[users[0], list(&[])], [own, list(&[])]] });
    let (submitted, _) = seat.submit(&bytes(&body)).unwrap();
    assert_eq!(submitted, json!({ "outcomes": ["conflict", "accepted"], "put_back": 2, "kept": false }));
    shop.settle();

    let result = named.result(users[0].to_string().as_bytes()).unwrap().unwrap();
    assert_eq!((&result["key"], &result["report"]), (&users[0], &list(&[21, 22])));
    assert_eq!((&result["client"], &result["version"], &result["depth"]), (&json!(1), &json!(1), &json!(0)));
    assert_eq!(result["at"], "1970-01-01T00:01:00.101Z", "when it was journaled");
    assert_eq!(result["position"].as_u64(), ticket.position());
    assert_eq!(named.result(b"15").unwrap(), None, "not done yet");
    assert_eq!(named.result(b"77").unwrap(), None, "never heard of");

    let (given_back, owed) = claim_one(&seat);
    let released = seat.release(&bytes(&json!({ "token": given_back }))).unwrap();
    assert_eq!(released, json!({ "put_back": owed.len() }));
    assert_eq!(seat.leases().unwrap(), json!({ "leases": [] }));
    assert_adds_up(&shop.hub);
}

/// R70 and R72: an over-ask is clamped and says so; an empty answer has a reason and a time.
#[test]
fn clamped_and_empty_claims_say_so() {
    let (shop, service, named, _) = shop_with(Limits::default(), 8);
    let capability = Capability { buckets_per_claim: 1, leases_in_flight: 2 };
    let seat = named.activate(&shop.hub.client(1).unwrap(), capability).unwrap();
    let answer = seat.claim(br#"{"buckets": 5}"#).unwrap();
    assert_eq!((&answer["limit"], &answer["clamped"]), (&json!(1), &json!(true)));
    assert_eq!(answer["leases"].as_array().unwrap().len(), 1);
    let (token, _) = claim_one(&seat);
    let empty = |reason: &str| {
        let answer = seat.claim(b"{}").unwrap();
        assert_eq!(answer["empty"]["reason"], reason);
        assert!(answer["empty"]["retry_after_ms"].as_u64().unwrap() >= 20);
        assert!(answer.get("leases").is_none());
    };
    empty("quota_full");
    seat.release(&bytes(&json!({ "token": token }))).unwrap();
    drop(service.pause().unwrap());
    shop.tick();
    empty("paused");
    drop(service.activate().unwrap());
    shop.settle();
    let (_, last) = claim_one(&seat);
    assert_eq!(last.len(), 4);
    let other = named.activate(&shop.client(2), Capability::default()).unwrap();
    shop.tick();
    assert_eq!(other.claim(b"{}").unwrap()["empty"]["reason"], "all_leased");
    shop.hub.register(Plain::new("bare")).unwrap();
    let bare = shop.hub.service("bare").unwrap().activate(&shop.client(2), Capability::default()).unwrap();
    shop.tick();
    assert_eq!(bare.claim(b"{}").unwrap()["empty"]["reason"], "nothing_pending");
    drop(shop.hub.service("bare").unwrap().add(b"[1]").unwrap());
    shop.tick();
    assert_eq!(bare.claim(b"{}").unwrap()["empty"]["reason"], "not_yet_formed");
    assert_adds_up(&shop.hub);
}

/// What a wrong body must leave as it was: everything but the count of refusals.
fn state_of(shop: &Shop) -> (HubStats, u64, Option<commissary::ClientStats>) {
    shop.tick();
    let (mut hub, mut client) = (shop.hub.stats(), shop.hub.client_stats(1));
    for service in &mut hub.services {
        service.refused = Refused::default();
    }
    for seat in client.iter_mut().flat_map(|client| &mut client.seats) {
        seat.refused = Refused::default();
    }
    (hub, shop.disk.journal_bytes(), client)
}

/// Bodies that are wrong for every call.
const NO_JSON: [&[u8]; 9] =
    [b"", b" ", b"{", b"nonsense", b"\0", b"\xff\xfe", b"{\"token\": \"\xc3\x28\"}", b"{} {}", b"'{}'"];

/// Malformed users and keys are refused, and change nothing; so is an array of which one element is wrong.
#[test]
fn malformed_users_and_keys_are_refused() {
    let (shop, service, named, _) = shop_with(Limits::default(), 4);
    let deep = "[".repeat(100_000);
    let users =
        ["{}", "1", "null", "\"5\"", "[-1]", "[1.5]", "[\"5\"]", "[5, null]", "[5, 6,]", "[18446744073709551616]"];
    let before = state_of(&shop);
    for body in users.iter().map(|text| text.as_bytes()).chain(NO_JSON).chain([deep.as_bytes()]) {
        let refused = named.add(body).unwrap_err();
        assert!(matches!(refused, JsonError::Malformed(_)), "{body:?}: {refused}");
        assert!(!refused.is_transient());
    }
    let keys = ["{}", "[1]", "null", "\"1\"", "-1", "1.0", "1 2"];
    for body in keys.iter().map(|text| text.as_bytes()).chain(NO_JSON) {
        let refused = named.result(body).unwrap_err();
        assert!(matches!(refused, JsonError::Malformed(_)), "{body:?}: {refused}");
    }
    assert_eq!(state_of(&shop), before);
    assert_eq!(service.subject_state(&5).unwrap(), SubjectState::Unknown);
    drop(named.add(b"[]").unwrap());
    drop(named.add(b" [5] ").unwrap());
    shop.tick();
    assert_eq!(service.subject_state(&5).unwrap(), SubjectState::Pending);
    assert_adds_up(&shop.hub);
}

/// Malformed asks are refused and no bucket moves; an ask for nothing is refused as in the typed call.
#[test]
fn malformed_asks_are_refused() {
    let (shop, _service, _named, seat) = shop_with(Limits::default(), 8);
    let asks = [
        "null",
        "1",
        "[]",
        "\"{}\"",
        r#"{"buckets": "1"}"#,
        r#"{"buckets": -1}"#,
        r#"{"buckets": 1.5}"#,
        r#"{"buckets": 4294967296}"#,
        r#"{"buckets": 1, "buckets": 2}"#,
        r#"{"bucket": 1}"#,
        r#"{"Buckets": 1}"#,
        r#"{"buckets": 1, "owner": 2}"#,
        r#"{"subjects": -5}"#,
        r#"{"time_ms": 1e99}"#,
        r#"{"time_ms": "soon"}"#,
    ];
    let before = state_of(&shop);
    for body in asks.iter().map(|text| text.as_bytes()).chain(NO_JSON) {
        let refused = seat.claim(body).unwrap_err();
        assert!(matches!(refused, JsonError::Malformed(_)), "{body:?}: {refused}");
    }
    assert_eq!(state_of(&shop), before);
    for nothing in [r#"{"buckets": 0}"#, r#"{"subjects": 0}"#] {
        let refused = seat.claim(nothing.as_bytes()).unwrap_err();
        assert!(matches!(refused, JsonError::Claim(ClaimError::Nothing)), "{refused}");
    }
    let most = format!(r#"{{"buckets": {}, "subjects": {}, "time_ms": {}}}"#, u32::MAX, usize::MAX, u64::MAX);
    assert_eq!(seat.claim(most.as_bytes()).unwrap()["leases"].as_array().unwrap().len(), 2);
    let nulls = br#"{"buckets": null, "subjects": null, "time_ms": null}"#;
    assert!(seat.claim(nulls).unwrap().get("empty").is_some(), "null is as good as nothing said");
    assert_adds_up(&shop.hub);
}

/// Malformed reports are refused and nothing is stored: the lease is as before, also when all but one report are right.
#[test]
fn malformed_reports_are_refused() {
    let (shop, _service, _named, seat) = shop_with(Limits::default(), 4);
    let (token, users) = claim_one(&seat);
    let text = token.as_str().unwrap();
    let (user, good) = (&users[0], json!([users[0], "ok"]));
    let bodies = [
        json!(null),
        json!({}),
        json!([]),
        json!({ "token": token }),
        json!({ "reports": [good] }),
        json!({ "token": null, "reports": [good] }),
        json!({ "token": 7, "reports": [good] }),
        json!({ "token": "", "reports": [good] }),
        json!({ "token": text[1..], "reports": [good] }),
        json!({ "token": format!("{text}0"), "reports": [good] }),
        json!({ "token": text.replace(|c: char| c.is_ascii_digit(), "g"), "reports": [good] }),
        json!({ "token": format!("0x{}", &text[2..]), "reports": [good] }),
        json!({ "token": token, "reports": null }),
        json!({ "token": token, "reports": {} }),
        json!({ "token": token, "reports": "ok" }),
        json!({ "token": token, "reports": [user] }),
        json!({ "token": token, "reports": [[user]] }),
        json!({ "token": token, "reports": [[user, "ok", 1]] }),
        json!({ "token": token, "reports": [[user, 5]] }),
        json!({ "token": token, "reports": [[user, null]] }),
        json!({ "token": token, "reports": [["1", "ok"]] }),
        json!({ "token": token, "reports": [[-1, "ok"]] }),
        json!({ "token": token, "reports": [good, [users[1], false]] }),
        json!({ "token": token, "reports": [good], "client": 2 }),
    ];
    let bodies: Vec<Vec<u8>> = bodies.iter().map(bytes).chain(NO_JSON.map(<[u8]>::to_vec)).collect();
    let before = state_of(&shop);
    for body in &bodies {
        for refused in [seat.submit(body).unwrap_err(), seat.report(body).unwrap_err()] {
            assert!(matches!(refused, JsonError::Malformed(_)), "{}: {refused}", String::from_utf8_lossy(body));
        }
    }
    let tokens =
        [json!({}), json!([]), json!({ "token": 1 }), json!({ "token": text[1..] }), json!({ "token": token, "x": 1 })];
    for body in tokens.iter().map(bytes).chain(NO_JSON.map(<[u8]>::to_vec)) {
        for refused in [seat.renew(&body).unwrap_err(), seat.release(&body).unwrap_err()] {
            assert!(matches!(refused, JsonError::Malformed(_)), "{}: {refused}", String::from_utf8_lossy(&body));
        }
    }
    assert_eq!(state_of(&shop), before);
    let all: Vec<Value> = users.iter().map(|user| json!([user, "ok"])).collect();
    let (submitted, _) = seat.submit(&bytes(&json!({ "token": token, "reports": all }))).unwrap();
    assert_eq!(submitted["outcomes"], json!(["accepted", "accepted", "accepted", "accepted"]));
    shop.tick();
    assert_adds_up(&shop.hub);
}

/// R16: a body beyond the limit is refused, naming the limit, before it is parsed; one of exactly the limit is taken.
#[test]
fn oversized_bodies_are_refused() {
    let limits = Limits { json_bytes: 500, ..Limits::default() };
    let (shop, service, named, seat) = shop_with(limits, 8);
    let (token, users) = claim_one(&seat);
    let padded = |value: &Value, bytes: usize| format!("{:bytes$}", value.to_string()).into_bytes();
    let report = json!({ "token": token, "reports": [[users[0], "ok"]] });
    let only_token = json!({ "token": token });
    let before = state_of(&shop);
    let refused = [
        named.add(&padded(&json!([99]), 501)).map(drop),
        named.result(&padded(&json!(99), 501)).map(drop),
        named.add(&[b'['; 501]).map(drop),
        seat.claim(&padded(&json!({}), 501)).map(drop),
        seat.submit(&padded(&report, 501)).map(drop),
        seat.report(&padded(&report, 501)).map(drop),
        seat.renew(&padded(&only_token, 501)).map(drop),
        seat.release(&padded(&only_token, 501)).map(drop),
    ];
    for refused in refused {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, JsonError::TooLarge { bytes: 501, limit: 500 }), "{refused}");
    }
    assert_eq!(state_of(&shop), before);

    drop(named.add(&padded(&json!([99]), 500)).unwrap());
    seat.renew(&padded(&only_token, 500)).unwrap();
    assert_eq!(seat.claim(&padded(&json!({}), 500)).unwrap()["leases"].as_array().unwrap().len(), 1);
    assert_eq!(seat.report(&padded(&report, 500)).unwrap().0["outcomes"], json!(["accepted"]));
    assert_eq!(seat.release(&padded(&only_token, 500)).unwrap(), json!({ "put_back": 3 }));
    shop.tick();
    assert!(named.result(&padded(&users[0], 500)).unwrap().is_some());
    assert_eq!(service.subject_state(&99).unwrap(), SubjectState::Pending);
    assert_adds_up(&shop.hub);
}

/// A service that is not registered is not found, by whatever name; one that is goes by exactly its name.
#[test]
fn unknown_service_is_not_found() {
    let (shop, _service, _named, _seat) = shop_with(Limits::default(), 4);
    for name in ["", "Plain", "plain ", "plai", "plain\0", "../plain"] {
        assert!(shop.hub.service(name).is_none(), "{name:?}");
        assert_eq!(shop.hub.service_state(name), None);
    }
    let shop = shop.restart();
    assert!(shop.hub.service("plain").is_none(), "its plugin is not there yet");
    shop.hub.register(Plain::new("plain")).unwrap();
    assert!(shop.hub.service("plain").is_some());
}

/// R6: a service that is not ready refuses activation and claims by name too, with its state.
#[test]
fn service_that_is_not_ready_refuses_by_name() {
    let (shop, service, named, seat) = shop_with(Limits::default(), 8);
    let (token, users) = claim_one(&seat);
    drop(service.revoke(Revoke::Immediate).unwrap());
    let state = ServiceState::Revoked;
    assert_eq!(named.state(), state);
    let refused = named.activate(&shop.client(2), Capability::default()).unwrap_err();
    assert_eq!(refused, ActivateError::NotReady { state });
    let refused = seat.claim(b"{}").unwrap_err();
    assert!(matches!(refused, JsonError::Claim(ClaimError::NotReady { state: ServiceState::Revoked })), "{refused}");
    let body = bytes(&json!({ "token": token, "reports": [[users[0], "ok"]] }));
    let refused = seat.submit(&body).unwrap_err();
    assert!(matches!(refused, JsonError::Lease(LeaseError::NotReady { state: ServiceState::Revoked })), "{refused}");
    shop.tick();
    assert_adds_up(&shop.hub);
}

/// R26 and G9: identity first: who is not registered is told so, whatever the body, before it is measured or parsed.
#[test]
fn unregistered_client_is_refused_before_its_body_is_looked_at() {
    let limits = Limits { json_bytes: 500, ..Limits::default() };
    let (shop, service, named, seat) = shop_with(limits, 4);
    let (token, _) = claim_one(&seat);
    drop(shop.hub.deregister_client(1, &name_of(1)).unwrap());
    shop.tick();
    let work = service.seat_stats(1).unwrap().work;
    let right = bytes(&json!({ "token": token, "reports": [] }));
    for body in [&b"nonsense"[..], &[b' '; 501], &right, b"{}"] {
        let refused = seat.claim(body).unwrap_err();
        assert!(matches!(refused, JsonError::Claim(ClaimError::NotRegistered)), "{refused}");
        for refused in [
            seat.submit(body).map(drop).unwrap_err(),
            seat.report(body).map(drop).unwrap_err(),
            seat.renew(body).map(drop).unwrap_err(),
            seat.release(body).map(drop).unwrap_err(),
            seat.leases().map(drop).unwrap_err(),
        ] {
            assert!(matches!(refused, JsonError::Lease(LeaseError::NotRegistered)), "{refused}");
        }
    }
    let client = shop.hub.client(1).unwrap();
    assert_eq!(named.activate(&client, Capability::default()).unwrap_err(), ActivateError::NotRegistered);
    assert_eq!(shop.hub.stats().not_registered, 4 * 6 + 1);
    let stats = service.seat_stats(1).unwrap();
    assert_eq!((stats.faults.claims_refused, stats.work), (4, work));
    shop.hub.close().unwrap();
    let refused = seat.submit(&right).unwrap_err();
    assert!(matches!(refused, JsonError::Lease(LeaseError::Hub(commissary::HubError::Closed))), "{refused}");
    assert_adds_up(&shop.hub);
}

/// R74 and R79 through JSON: another's token is refused, a repeated submit is answered without a second record.
#[test]
fn tokens_and_repeats_are_judged_as_in_the_typed_calls() {
    let (shop, service, named, seat) = shop_with(Limits::default(), 8);
    let other = named.activate(&shop.client(2), Capability::default()).unwrap();
    let (token, users) = claim_one(&seat);
    let reports: Vec<Value> = users.iter().map(|user| json!([user, "ok"])).collect();
    let body = bytes(&json!({ "token": token, "reports": reports }));
    for refused in [other.submit(&body).unwrap_err(), other.report(&body).unwrap_err()] {
        assert!(matches!(refused, JsonError::Lease(LeaseError::NotOwner)), "{refused}");
    }
    let made_up = bytes(&json!({ "token": "0".repeat(64), "reports": reports }));
    let refused = seat.submit(&made_up).unwrap_err();
    assert!(matches!(refused, JsonError::Lease(LeaseError::NotOwner)), "{refused}");
    for outcome in ["accepted", "already_done", "already_done"] {
        let (answer, _) = seat.submit(&body).unwrap();
        assert_eq!(answer, json!({ "outcomes": vec![outcome; 4], "put_back": 0, "kept": false }));
        shop.tick();
    }
    let refused = seat.release(&bytes(&json!({ "token": token }))).unwrap_err();
    assert!(matches!(refused, JsonError::Lease(LeaseError::Over)), "{refused}");
    assert_eq!(service.stats().subjects_done, 4);
    assert_eq!(service.seat_stats(2).unwrap().faults.not_owner, 2);
    assert_eq!(service.seat_stats(1).unwrap().faults.not_owner, 1);
    assert_adds_up(&shop.hub);
}

/// R30 and R45: what was known when, what a client reported, and what is not marked for work, page by page.
#[test]
fn pages_of_the_past_and_of_what_is_unmarked_run_through_json() {
    let shop = Shop::open();
    let typed = shop.hub.register(common::Web(Policy { max_depth: 0, ..exact() })).unwrap();
    let named = shop.hub.service("web").unwrap();
    let seat = shop.seat(&typed, 1);
    typed.add_all([1, 2]).unwrap();
    shop.settle();
    for lease in common::claim(&seat, 1) {
        drop(lease.submit([(1, vec![11, 12, 13]), (2, vec![12, 14])]).unwrap());
    }
    shop.pass(Duration::from_secs(10));
    drop(typed.rerun(&[1]).unwrap());
    shop.settle();
    for lease in common::claim(&seat, 1) {
        drop(lease.submit([(1, vec![15])]).unwrap());
    }
    shop.settle();

    let ask = |call: fn(&NamedService, &[u8]) -> Result<Value, JsonError>, body: Value| call(&named, &bytes(&body));
    let page = ask(NamedService::unmarked, json!({ "limit": 2 })).unwrap();
    assert_eq!(page, json!({ "subjects": [11, 12], "next": 12 }));
    let page = ask(NamedService::unmarked, json!({ "after": 12 })).unwrap();
    assert_eq!(page, json!({ "subjects": [13, 14, 15], "next": null }));
    assert_eq!(ask(NamedService::unmarked, json!({ "limit": 0 })).unwrap()["next"], 11, "one at least");

    let versions = typed.history(&1).unwrap();
    let (first, last) = (versions[0].at.to_rfc3339(), versions[1].at.to_rfc3339());
    let as_of = |moment: &str| named.as_of(&bytes(&json!({ "key": 1, "moment": moment }))).unwrap();
    assert_eq!(as_of("1969-12-31T23:59:59Z"), None);
    let then = as_of(&first).unwrap();
    assert_eq!((&then["report"], &then["number"], &then["client"]), (&json!([11, 12, 13]), &json!(1), &json!(1)));
    assert_eq!(as_of(&last).unwrap()["report"], json!([15]));

    let window = |from: &str, to: &str| json!({ "client": 1, "from": from, "to": to, "limit": 1 });
    let page = ask(NamedService::results_by, window("1970-01-01T00:00:00Z", "1980-01-01T00:00:00Z")).unwrap();
    assert_eq!((page["versions"].as_array().unwrap().len(), &page["next"]), (2, &json!(1)));
    let page = ask(NamedService::results_by, window(&last, "1980-01-01T00:00:00Z")).unwrap();
    assert_eq!((&page["versions"][0]["report"], page["versions"].as_array().unwrap().len()), (&json!([15]), 1));
    let mut other = window("1970-01-01T00:00:00Z", "1980-01-01T00:00:00Z");
    other["client"] = json!(2);
    assert_eq!(ask(NamedService::results_by, other).unwrap(), json!({ "versions": [], "next": null }));

    for (call, body) in [
        (NamedService::unmarked as fn(&NamedService, &[u8]) -> _, json!({ "after": "x" })),
        (NamedService::unmarked, json!({ "from": 1 })),
        (NamedService::results_by, json!({ "client": 1, "from": "yesterday", "to": "1980-01-01T00:00:00Z" })),
        (NamedService::results_by, json!({ "client": 1 })),
    ] {
        assert!(matches!(ask(call, body.clone()), Err(JsonError::Malformed(_))), "{body}");
    }
    assert!(named.as_of(br#"{"key": 1}"#).is_err());
}
