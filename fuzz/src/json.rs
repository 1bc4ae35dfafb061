//! Bytes are the bodies of calls by name: each answers or errs. `TOKEN` in a body stands for the token of a lease that is held.

use commissary::services::{DmCheck, FollowerCheck};
use commissary::{Capability, Hub, Limits, ManualClock, MemoryDisk, Policy, Registration};

use super::Seen;

/// What the corpus comes through.
pub const STATES: &[&str] = &[
    "added",
    "not added",
    "result",
    "no result",
    "claimed",
    "not claimed",
    "submitted",
    "not submitted",
    "reported",
    "not reported",
    "renewed",
    "not renewed",
    "released",
    "not released",
    "leases",
];

pub fn run(bytes: &[u8], seen: &mut Seen) {
    let disk = MemoryDisk::new();
    // Small, as each run has a hub of its own.
    let limits = Limits { notices: 8, ..Limits::default() };
    let policy = Policy { bucket_subjects: 4, ..Policy::default() };
    let builder = Hub::builder().manual().clock(ManualClock::default()).seed(1).limits(limits);
    let hub = builder.open_in_memory(&disk).expect("memory opens");
    hub.register(DmCheck::with(policy.clone())).expect("a new service registers");
    hub.register(FollowerCheck::with(policy)).expect("a new service registers");
    let client = hub.register_client(&Registration::new(9, "caller")).expect("a new client registers").client;
    let mut tokens = Vec::new();
    let mut calls = bytes.split(|byte| *byte == b'\n').take(32);
    for name in ["dm-check", "follower-check"] {
        let service = hub.service(name).expect("it is registered");
        let seat = service.activate(&client, Capability::default()).expect("it is active");
        drop(service.add(b"[1,2,3,4,5,6,7,8]").expect("numbers are subjects"));
        hub.tick();
        let claimed = seat.claim(b"{}").expect("an empty ask is for one bucket");
        tokens.extend(claimed["leases"][0]["token"].as_str().map(str::to_owned));
        for call in calls.by_ref().take(16) {
            let Some((which, body)) = call.split_first() else { continue };
            let text = String::from_utf8_lossy(body);
            let put_in;
            let body = match tokens.last() {
                Some(token) if text.contains("TOKEN") => {
                    put_in = text.replace("TOKEN", token);
                    put_in.as_bytes()
                }
                _ => body,
            };
            let answered = match which % 8 {
                0 => service.add(body).is_ok(),
                1 => service.result(body).is_ok(),
                2 => seat.claim(body).is_ok(),
                3 => seat.submit(body).is_ok(),
                4 => seat.report(body).is_ok(),
                5 => seat.renew(body).is_ok(),
                6 => seat.release(body).is_ok(),
                _ => seat.leases().is_ok(),
            };
            seen.extend(STATES.get(usize::from(which % 8) * 2 + usize::from(!answered)));
        }
        hub.tick();
    }
    let stats = hub.stats();
    assert!(stats.work.adds_up(), "{:?}", stats.work);
    hub.health().expect("no body breaks the hub");
}
