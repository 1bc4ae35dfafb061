//! Bytes are the bodies of calls by name: each answers or errs. `TOKEN` in a body stands for the token of a lease that is held.
#![no_main]

use commissary::services::{DmCheck, FollowerCheck};
use commissary::{Capability, Hub, ManualClock, MemoryDisk, Registration};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let disk = MemoryDisk::new();
    let hub =
        Hub::builder().manual().clock(ManualClock::default()).seed(1).open_in_memory(&disk).expect("memory opens");
    hub.register(DmCheck::default()).expect("a new service registers");
    hub.register(FollowerCheck::default()).expect("a new service registers");
    let client = hub.register_client(&Registration::new(9, "caller")).expect("a new client registers").client;
    let mut tokens = Vec::new();
    let mut calls = bytes.split(|byte| *byte == b'\n').take(32);
    for name in ["dm-check", "follower-check"] {
        let service = hub.service(name).expect("it is registered");
        let seat = service.activate(&client, Capability::default()).expect("it is active");
        let subjects: Vec<u8> = format!("{:?}", (1..=180).collect::<Vec<u32>>()).into_bytes();
        drop(service.add(&subjects).expect("numbers are subjects"));
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
            match which % 8 {
                0 => drop(service.add(body)),
                1 => drop(service.result(body)),
                2 => drop(seat.claim(body)),
                3 => drop(seat.submit(body)),
                4 => drop(seat.report(body)),
                5 => drop(seat.renew(body)),
                6 => drop(seat.release(body)),
                _ => drop(seat.leases()),
            }
        }
        hub.tick();
    }
    let stats = hub.stats();
    assert!(stats.work.adds_up(), "{:?}", stats.work);
    hub.health().expect("no body breaks the hub");
});
