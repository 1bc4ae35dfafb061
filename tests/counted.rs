//! Every refusal and every transition moves exactly the counts that say so, and no other.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use commissary::{
    Ask, Capability, Claim, Hub, Lease, LeaseToken, Limits, ManualClock, MemoryDisk, OverAsk, Registration, Revoke,
    Seat, ServiceHandle,
};
use common::{Plain, Shop, claim_nothing, claim_one, reports};
use serde_json::Value;

/// Not counts: times, and what the disk was asked (`tests/measures.rs`). Timed calls are a sample.
const NOT_COUNTS: &[&str] = &[
    "storage",
    "idle",
    "longest_wait",
    "pool_drain_time",
    "oldest_wait",
    "first_activated",
    "last_activated",
    "last_access",
    "first_registered",
    "last_registered",
    "claim_ns",
    "submit_ns",
    "renew_ns",
    "release_ns",
];

type Counts = BTreeMap<String, Value>;

fn flatten(path: &str, value: &Value, into: &mut Counts) {
    match value {
        Value::Object(fields) if fields.contains_key("resolution") => {
            into.insert(format!("{path}.count"), fields["count"].clone());
        }
        Value::Object(fields) => {
            for (name, field) in fields.iter().filter(|(name, _)| !NOT_COUNTS.contains(&name.as_str())) {
                flatten(&if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, field, into);
            }
        }
        Value::Number(_) | Value::String(_) | Value::Bool(_) => {
            into.insert(path.to_owned(), value.clone());
        }
        Value::Array(_) | Value::Null => {}
    }
}

/// Every count there is: of the hub, of its one service, and of the seats of the clients 1 and 2. What the service and the
/// hub say of work, faults and refusals is checked to be the sum over the seats.
fn counts(hub: &Hub) -> Counts {
    let mut counts = Counts::new();
    let mut hub_wide = serde_json::to_value(hub.stats()).unwrap();
    let service = hub_wide["services"].as_array_mut().unwrap().pop().unwrap_or_default();
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for id in [1, 2] {
        let Some(client) = hub.client_stats(id) else { continue };
        counts.insert(format!("{id}.registered"), client.registered.into());
        for seat in &client.seats {
            let seat = serde_json::to_value(seat).unwrap();
            let mut of_seat = Counts::new();
            flatten("", &seat, &mut of_seat);
            for (name, value) in of_seat {
                let summed = ["work.", "faults.", "refused."].iter().any(|part| name.starts_with(part));
                if summed {
                    *sums.entry(name.clone()).or_default() += value.as_u64().unwrap();
                }
                counts.insert(format!("{id}.{name}"), value);
            }
        }
    }
    for (name, sum) in &sums {
        let (part, field) = name.split_once('.').unwrap();
        assert_eq!(service[part][field], *sum, "the service's {name} is the sum over its seats");
        if part == "work" {
            assert_eq!(hub_wide[part][field], *sum, "the hub's {name} is the sum over its services");
        }
    }
    if let Some(fields) = hub_wide.as_object_mut() {
        fields.remove("work");
    }
    let mut own = service;
    if let Some(fields) = own.as_object_mut() {
        fields.retain(|name, _| !["work", "faults", "refused"].contains(&name.as_str()));
    }
    flatten("service", &own, &mut counts);
    flatten("hub", &hub_wide, &mut counts);
    counts
}

/// What changed: `name +n`, or `name value`.
fn moved(before: &Counts, after: &Counts) -> Vec<String> {
    let mut moved = Vec::new();
    for (name, value) in after {
        match (before.get(name).and_then(Value::as_i64).unwrap_or(0), value.as_i64()) {
            (was, Some(is)) if was != is => moved.push(format!("{name} {:+}", is - was)),
            (_, None) if before.get(name) != Some(value) => {
                moved.push(format!("{name} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
            }
            _ => {}
        }
    }
    moved
}

/// A shop with one service, and what is to be counted in it.
struct Table {
    shop: Shop,
    service: ServiceHandle<Plain>,
}

impl Table {
    fn new(limits: Limits) -> Self {
        let shop = Shop::on(MemoryDisk::new(), ManualClock::default(), limits);
        let plain = Plain::with("plain", |policy| {
            policy.bucket_subjects = 2;
            policy.lease = Duration::from_secs(100);
            policy.grace = Duration::from_secs(10);
            policy.idle = Duration::from_secs(1_000_000);
        });
        let service = shop.hub.register(plain).unwrap();
        shop.tick();
        Self { shop, service }
    }

    /// With the clients 1 and 2 active and `n` subjects in pools.
    fn open(n: u64) -> (Self, [Seat<Plain>; 2]) {
        let table = Self::new(Limits::default());
        let seats = table.shop.seats(&table.service, 2);
        table.shop.stock(&table.service, n);
        (table, seats.try_into().unwrap())
    }

    /// Runs a step, lets the caretakers work, and looks at what it moved.
    #[track_caller]
    fn step<R>(&self, what: &str, expected: &[&str], act: impl FnOnce() -> R) -> R {
        // What the steps between left to be done.
        self.shop.tick();
        let before = counts(&self.shop.hub);
        let result = act();
        self.shop.tick();
        let moved = moved(&before, &counts(&self.shop.hub));
        let mut expected: Vec<&str> = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(moved, expected, "{what}: what moved, and what should have");
        result
    }
}

fn first_of(lease: &Lease<Plain>, report: &str) -> Vec<(u64, String)> {
    reports(lease, report).into_iter().take(1).collect()
}

/// R18: registrations, activations, and their refusals.
#[test]
fn registrations_and_activations_move_their_counts() {
    let table = Table::new(Limits { repeat_burst: 2, ..Limits::default() });
    let (hub, service) = (&table.shop.hub, &table.service);
    let timed = "hub.register_ns.count +1";
    let register = |id, name: &str| hub.register_client(&Registration::new(id, name));
    table.step("a new client", &["hub.clients +1", timed, "1.registered true"], || {
        register(1, "one").map(drop).unwrap();
    });
    table.step("again", &[timed], || register(1, "one").map(drop).unwrap());
    table.step("another name", &["hub.invalid_registrations +1", timed], || register(1, "two").map(drop).unwrap_err());
    table.step("a bad id", &["hub.invalid_registrations +1", timed], || register(0, "zero").map(drop).unwrap_err());
    table.step("again", &[timed], || register(1, "one").map(drop).unwrap());
    table.step("too often", &["hub.throttled_registrations +1", timed], || register(1, "one").map(drop).unwrap_err());
    let client = hub.client(1).unwrap();
    let timed = "service.times.activate_ns.count +1";
    let activated =
        ["1.client +1", "1.level Healthy", "1.service plain", "1.state Active", "service.active_seats +1", timed];
    table.step("activated", &activated, || client.activate(service).map(drop).unwrap());
    table.step("again", &[timed], || client.activate(service).map(drop).unwrap());
    let idle = ["1.state Inactive", "service.active_seats -1"];
    table.step("idle for too long", &idle, || table.shop.pass(service.policy().idle));
    client.activate(service).map(drop).unwrap();
    table.step("suspended", &["1.state Suspended", "service.active_seats -1"], || {
        drop(service.suspend(1).unwrap());
    });
    let refused = "service.activations_refused +1";
    table.step("activated though", &[refused, timed], || client.activate(service).map(drop).unwrap_err());
    table.step("reinstated", &["1.state Inactive"], || drop(service.reinstate(1).unwrap()));
    table.step("paused", &["service.state Paused"], || drop(service.pause().unwrap()));
    table.step("resumed", &["service.state Active"], || drop(service.activate().unwrap()));
    table.step("revoked", &["service.state Draining"], || drop(service.revoke(Revoke::Drain).unwrap()));
    table.step("activated though", &[refused, timed], || client.activate(service).map(drop).unwrap_err());
    table.step("deregistered", &["1.registered false"], || drop(client.deregister().unwrap()));
    table.step("again", &["hub.not_registered +1"], || client.deregister().map(drop).unwrap_err());
    table.step("a stranger", &["hub.not_registered +1"], || hub.deregister_client(9, "nine").map(drop).unwrap_err());
    let both = ["hub.not_registered +1", refused, timed];
    table.step("activated though", &both, || client.activate(service).map(drop).unwrap_err());
}

const CLAIMED: [&str; 5] = [
    "1.claims +1",
    "1.work.buckets_assigned +1",
    "1.work.buckets_held +1",
    "1.work.subjects_assigned +2",
    "1.work.subjects_held +2",
];

const ONE_REPORTED: [&str; 7] = [
    "1.submits +1",
    "1.turnaround_ms.count +1",
    "1.work.subjects_held -1",
    "1.work.subjects_reported +1",
    "service.subjects_done +1",
    "service.times.turnaround_ms.count +1",
    "service.times.wait_ms.count +1",
];

/// R18: what becomes of reports, one by one.
#[test]
fn reports_move_the_count_of_their_outcome() {
    let (table, [seat, other]) = Table::open(40);
    let lease = table.step("claimed", &CLAIMED, || claim_one(&seat));
    table.step("renewed", &["1.renewals +1"], || lease.renew().unwrap());
    table.step("one of two reported", &ONE_REPORTED, || lease.report(first_of(&lease, "ok")).map(drop).unwrap());
    let says = |what, fault: &str, report: &str| {
        table.step(what, &[fault, "1.submits +1"], || {
            let sent = reports(&lease, report);
            let sent = if report == "ok" || report == "other" { &sent[..1] } else { &sent[1..] };
            lease.report(sent.to_vec()).map(drop).unwrap();
        });
    };
    says("repeated", "1.already_done +1", "ok");
    says("contradicted", "1.faults.conflicts +1", "other");
    says("rejected by the plugin", "1.faults.rejected +1", "bad");
    says("too long", "1.faults.oversized +1", &"x".repeat(70_000));
    table.step("broke the plugin", &["1.faults.plugin_panics +1", "1.submits +1", "service.panics +1"], || {
        lease.report(reports(&lease, "panic").split_off(1)).map(drop).unwrap();
    });
    table.step("not in the bucket", &["1.faults.not_in_bucket +1", "1.submits +1"], || {
        lease.report([(9_999, "ok".to_owned())]).map(drop).unwrap();
    });
    table.step("another's token", &["2.faults.not_owner +1"], || other.renew(&lease.token()).unwrap_err());
    let last = [
        &ONE_REPORTED[..],
        &[
            "1.already_done +1",
            "1.work.buckets_held -1",
            "1.work.buckets_processed +1",
            "service.times.hold_ms.count +1",
        ],
    ]
    .concat();
    table.step("the rest", &last, || lease.submit(reports(&lease, "ok")).map(drop).unwrap());
    table.step("nothing left to release", &[], || lease.release());
}

/// R18: how leases end, and what is refused on those that are over.
#[test]
fn ends_of_leases_move_their_counts() {
    let (table, [seat, _]) = Table::open(40);
    let (shop, service) = (&table.shop, &table.service);
    let put_back = [
        "1.work.buckets_held -1",
        "1.work.buckets_put_back +1",
        "1.work.subjects_held -2",
        "1.work.subjects_put_back +2",
        "service.pools_formed +1",
        "service.times.hold_ms.count +1",
    ];
    let released = [&put_back[..], &["1.releases +1"]].concat();
    let lease = table.step("claimed", &CLAIMED, || claim_one(&seat));
    let token = lease.token();
    table.step("released by token", &released, || seat.release(&token).unwrap());
    table.step("released again", &["1.refused.over +1"], || seat.release(&token).unwrap_err());
    table.step("renewed though over", &["1.refused.over +1"], || lease.renew().unwrap_err());
    table.step("resumed though over", &["1.refused.over +1"], || seat.resume(&token).map(drop).unwrap_err());
    table.step("reported though over", &["1.faults.stale +1", "1.submits +1"], || {
        lease.report(first_of(&lease, "ok")).map(drop).unwrap();
    });
    table.step("dropped though over", &[], || drop(lease));

    let token = claim_one(&seat).into_token();
    table.step("the deadline passes", &["1.work.buckets_dead +1"], || shop.pass(service.policy().lease));
    table.step("renewed though dead", &["1.refused.dead +1"], || seat.renew(&token).unwrap_err());
    let expired = [&put_back[..], &["1.work.buckets_dead -1", "1.work.buckets_expired +1"]].concat();
    table.step("the grace passes", &expired, || shop.pass(service.policy().grace));

    let forged: LeaseToken = {
        let (elsewhere, [seat, _]) = Table::open(40);
        let token = claim_one(&seat).into_token();
        drop(elsewhere);
        let text = token.to_string();
        let last = if text.ends_with('0') { '1' } else { '0' };
        format!("{}{last}", &text[..text.len() - 1]).parse().unwrap()
    };
    let unknown = ["1.faults.not_owner +1", "service.unknown_tokens +1"];
    table.step("a forged token", &unknown, || seat.renew(&forged).unwrap_err());

    let lease = claim_one(&seat);
    let given_up = [&put_back[..], &["service.active_seats -1", "1.state Suspended"]].concat();
    table.step("suspended", &given_up, || drop(service.suspend(1).unwrap()));
    table.step("reported though suspended", &["1.faults.stale +1", "1.submits +1"], || {
        lease.report(first_of(&lease, "ok")).map(drop).unwrap();
    });
}

/// R18: claims that get nothing, or too much, and claims that are refused, by why.
#[test]
fn claims_move_the_count_of_their_answer() {
    let (table, [seat, _]) = Table::open(4);
    let (shop, service) = (&table.shop, &table.service);
    let client = shop.hub.client(1).unwrap();
    let refused = |what: &str, why: &str, ask: Ask| {
        let why = format!("1.refused.{why} +1");
        table.step(what, &[&why, "1.faults.claims_refused +1"], || seat.claim(ask).map(drop).unwrap_err());
    };
    refused("for no bucket", "nothing", Ask::buckets(0));
    let small = Capability { buckets_per_claim: 1, leases_in_flight: 1 };
    client.activate_with(service, small).map(drop).unwrap();
    let lease =
        table.step("for two, clamped to one", &[&CLAIMED[..], &["1.faults.over_ask +1"]].concat(), || {
            match seat.claim(Ask::buckets(2)).unwrap() {
                Claim::Leased(mut grant) => grant.pop().unwrap(),
                Claim::Empty(empty) => panic!("{empty:?}"),
            }
        });
    let empty = ["1.claims +1", "1.empty_claims +1"];
    table.step("beyond the quota", &empty, || claim_nothing(&seat));
    client.activate_with(service, Capability::default()).map(drop).unwrap();
    let second = claim_one(&seat);
    table.step("with nothing there", &empty, || claim_nothing(&seat));

    let mut policy = service.policy();
    policy.over_ask = OverAsk::Reject;
    service.set_policy(policy).unwrap();
    service.add_all(1_000..1_400).unwrap();
    shop.settle();
    drop(second);
    let third = claim_one(&seat);
    let fourth = claim_one(&seat);
    shop.tick();
    let many = ["1.faults.over_ask +1", "1.faults.claims_refused +1", "1.refused.too_many +1"];
    table.step("for too many", &many, || seat.claim(Ask::buckets(50)).map(drop).unwrap_err());
    drop((lease, third, fourth));

    drop(service.suspend(1).unwrap());
    refused("suspended", "suspended", Ask::one());
    drop(service.reinstate(1).unwrap());
    refused("inactive", "inactive", Ask::one());
    client.activate(service).map(drop).unwrap();
    let lease = claim_one(&seat);
    drop(service.revoke(Revoke::Immediate).unwrap());
    shop.tick();
    refused("not ready", "not_ready", Ask::one());
    table.step("reported though revoked", &["1.refused.not_ready +1"], || lease.submit([]).map(drop).unwrap_err());
    drop(client.deregister().unwrap());
    shop.tick();
    let nobody = ["1.refused.not_registered +1", "hub.not_registered +1"];
    let claim = [&nobody[..], &["1.faults.claims_refused +1"]].concat();
    table.step("not registered", &claim, || seat.claim(Ask::one()).map(drop).unwrap_err());
    table.step("renewed by nobody", &nobody, || lease.renew().unwrap_err());
    table.step("submitted by nobody", &nobody, || lease.submit([]).map(drop).unwrap_err());
    table.step("looked up by nobody", &nobody, || seat.leases().map(drop).unwrap_err());
    table.step("released by nobody", &nobody, || seat.release(&lease.token()).unwrap_err());
    shop.hub.close().unwrap();
    refused("closed", "closed", Ask::one());
}

/// R18: submits that are too much, for the call or for the queue, and bodies that are not what the call takes.
#[test]
fn submits_that_are_too_much_move_their_counts() {
    let limits = Limits { queue_bytes: 4_096, submit_bytes: 3_000, report_bytes: 2_000, ..Limits::default() };
    let table = Table::new(Limits { json_bytes: 200, ..limits });
    let seat = table.shop.seat(&table.service, 1);
    table.shop.stock(&table.service, 40);
    let [lease, busy] = [claim_one(&seat), claim_one(&seat)];
    let user = lease.subjects().next().unwrap();
    table.step("too many reports", &["1.refused.too_many +1"], || {
        lease.report((0..5_000).map(|_| (user, "ok".to_owned()))).map(drop).unwrap_err()
    });
    table.step("too many bytes", &["1.refused.too_large +1"], || {
        lease.report(reports(&lease, &"x".repeat(1_900))).map(drop).unwrap_err()
    });
    // Two submits before the writer's next turn: there is room for one.
    let one_taken = [&ONE_REPORTED[..], &["1.refused.busy +1", "hub.busy_submits +1"]].concat();
    table.step("too much waits", &one_taken, || {
        lease.report(first_of(&lease, &"x".repeat(1_900))).map(drop).unwrap();
        busy.report(first_of(&busy, &"x".repeat(1_900))).map(drop).unwrap_err()
    });
    let named = table.shop.hub.service("plain").unwrap();
    let named = named.activate(&table.shop.hub.client(1).unwrap(), Capability::default()).unwrap();
    table.step("not JSON", &["1.refused.malformed +1"], || named.renew(b"{").map(drop).unwrap_err());
    table.step("not a claim", &["1.refused.malformed +1"], || named.claim(b"[7]").map(drop).unwrap_err());
    table.step("not reports", &["1.refused.malformed +1"], || named.submit(b"{}").map(drop).unwrap_err());
    let long = [b' '; 201];
    table.step("a long body", &["1.refused.too_large +1"], || named.report(&long).map(drop).unwrap_err());
}

/// R18: intake: new subjects, known ones, and those beyond the budget.
#[test]
fn intake_moves_its_counts() {
    let table = Table::new(Limits::default());
    let _seat = table.shop.seat(&table.service, 1);
    let mut policy = table.service.policy();
    policy.max_subjects = 10;
    table.service.set_policy(policy).unwrap();
    table.shop.tick();
    let new = ["service.subjects_known +8", "service.pools_formed +1"];
    table.step("new subjects", &new, || table.service.add_all(1..=8).unwrap());
    table.step("known ones", &["service.duplicates +8"], || table.service.add_all(1..=8).unwrap());
    let cut = ["service.subjects_known +2", "service.cut_by_budget +4", "service.pools_formed +1"];
    table.step("beyond the budget", &cut, || table.service.add_all(9..=14).unwrap());
}

/// R18: a renewal beyond the cap on the whole lease.
#[test]
fn capped_renewal_moves_its_count() {
    let table = Table::new(Limits::default());
    let mut policy = table.service.policy();
    policy.lease_total = 1;
    table.service.set_policy(policy).unwrap();
    let seat = table.shop.seat(&table.service, 1);
    table.shop.stock(&table.service, 8);
    let lease = claim_one(&seat);
    table.shop.pass(Duration::from_secs(1));
    table.step("renewed beyond the cap", &["1.faults.renewals_capped +1"], || lease.renew().unwrap_err());
}
