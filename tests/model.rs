//! Random operations against a plain sequential model (`support/hub_model`): who holds what, what is pending and what is done, and
//! what each call must answer.

use commissary::{Crash, ServiceState};
use hub_model::{CLIENTS, Op, Pick, SERVICES, STATES, STEPS, Shown, World, elsewhere, opening, reports};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

#[path = "support/hub_model/mod.rs"]
mod hub_model;

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let client = 1..=CLIENTS;
    let service = 0..SERVICES;
    let by = prop_oneof![4 => Just(None), 1 => client.clone().prop_map(Some)];
    let token = any::<usize>().prop_map(|part| Pick::Part(part as u64));
    let shown = (token.clone(), by).prop_map(|(token, by)| Shown { token, by, off: 0 });
    let what =
        (1_u8..8, prop_oneof![4 => Just(0_u8), 1 => 0_u8..8], weighted(0.1), weighted(0.1), 0_u32..5, any::<bool>())
            .prop_map(|(mask, refused, foreign, twice, value, last)| {
                (reports(mask, refused, foreign, twice, value), last)
            });
    let op = prop_oneof![
        4 => client.clone().prop_map(|client| Op::Register { client }),
        1 => client.clone().prop_map(|client| Op::Deregister { client }),
        1 => service.clone().prop_map(|service| Op::RegisterService { service }),
        6 => (client.clone(), service.clone()).prop_map(|(client, service)| Op::Activate { client, service }),
        12 => (client.clone(), service.clone(), 0_u32..4).prop_map(|(client, service, n)| Op::Claim { client, service, n }),
        14 => (shown.clone(), what).prop_map(|(shown, (reports, last))| Op::Submit { shown, reports, last }),
        3 => shown.clone().prop_map(|shown| Op::Renew { shown }),
        2 => shown.clone().prop_map(|shown| Op::Release { shown }),
        2 => shown.prop_map(|shown| Op::Resume { shown }),
        1 => (token.clone(), client.clone(), 32_usize..64)
            .prop_map(|(token, by, digit)| Op::Forge { shown: Shown { token, by: Some(by), off: 0 }, digit }),
        1 => (any::<usize>(), client.clone())
            .prop_map(|(part, by)| elsewhere(Pick::Part(part as u64), by, part % 2 == 0)),
        6 => (service.clone(), prop::collection::vec(0_u64..16, 1..6)).prop_map(|(service, keys)| Op::Add { service, keys }),
        10 => prop::sample::select(STEPS.to_vec()).prop_map(|ms| Op::Advance { ms }),
        14 => Just(Op::Tick),
        1 => (service.clone(), prop::sample::select(STATES.to_vec())).prop_map(|(service, state)| Op::SetState { service, state }),
        1 => (client, service, any::<bool>()).prop_map(|(client, service, suspended)| Op::Suspend { client, service, suspended }),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(power, with_store)| Op::Crash {
            how: if power { Crash::Power } else { Crash::Process },
            with_store,
            torn: None,
        }),
        1 => any::<bool>().prop_map(|with_store| Op::Close { with_store, compact: false }),
    ];
    prop::collection::vec(op, 1..=54).prop_map(|rest| [opening(), rest].concat())
}

fn weighted(probability: f64) -> impl Strategy<Value = bool> + Clone {
    prop::bool::weighted(probability)
}

fn check(ops: &[Op]) {
    let mut world = World::new(true);
    for op in ops {
        world.step(op);
    }
    world.drain();
}

/// Each showed a bug once, made small by proptest. Their seeds are in `model.proptest-regressions`, but draw other operations since
/// there is one kind more.
#[test]
fn what_was_wrong_once() {
    let (register, claim) = (|client| Op::Register { client }, |client, service| Op::Claim { client, service, n: 1 });
    let shown = |by| Shown { token: Pick::Nth(0), by, off: 0 };
    let submit = |by, mask, value| {
        let reports = reports(mask, 0, false, false, value);
        Op::Submit { shown: shown(by), reports, last: false }
    };
    let add = |key| Op::Add { service: 1, keys: vec![key] };
    let state = |state| Op::SetState { service: 0, state };
    let crash = || Op::Crash { how: Crash::Process, with_store: false, torn: None };
    let suspend = Op::Suspend { client: 1, service: 0, suspended: false };
    let cases = [
        vec![claim(1, 0), submit(None, 3, 0), submit(None, 7, 1), Op::Tick, crash()],
        vec![Op::Deregister { client: 1 }, register(1), register(1), Op::Tick, crash()],
        vec![suspend, state(ServiceState::Draining), Op::Tick, crash()],
        vec![
            register(1),
            register(2),
            Op::RegisterService { service: 0 },
            claim(1, 0),
            Op::Activate { client: 2, service: 0 },
            state(ServiceState::Revoked),
            submit(Some(2), 1, 0),
        ],
        vec![
            add(4),
            add(5),
            register(3),
            state(ServiceState::Revoked),
            Op::Activate { client: 3, service: 1 },
            add(0),
            Op::Tick,
            claim(3, 1),
            elsewhere(Pick::Nth(0), 1, true),
            elsewhere(Pick::Nth(0), 1, false),
        ],
    ];
    for case in cases {
        check(&[opening(), case].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/model.proptest-regressions"))),
        ..ProptestConfig::default()
    })]

    /// G7, G8, I1, I2, I4: whatever clients, administrators, time and crashes do, the hub answers as the model does.
    #[test]
    fn the_hub_does_what_the_model_says(ops in ops()) {
        check(&ops);
    }
}
