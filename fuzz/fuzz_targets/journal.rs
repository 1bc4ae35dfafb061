//! Bytes are a journal. Opening answers with a hub or an error; it never panics, and what it opened it opens again.
//!
//! The first byte tells whether the rest is taken as it is, or gets right checksums first: then the damage is in the records.
#![no_main]

use commissary::{Hub, ManualClock, MemoryDisk, Registration, Service, ServiceHandle, Verdict};
use libfuzzer_sys::fuzz_target;

#[path = "seal.rs"]
mod seal;

use seal::seal;

struct Probe;

impl Service for Probe {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        "probe"
    }

    fn policy(&self) -> commissary::Policy {
        commissary::Policy::default()
    }

    fn judge(&self, _subject: &u64, _report: &u64, _reporter: commissary::Reporter) -> Verdict {
        Verdict::Accept
    }
}

fn open(disk: &MemoryDisk) -> Option<(Hub, ServiceHandle<Probe>)> {
    let hub = Hub::builder().manual().clock(ManualClock::default()).seed(1).open_in_memory(disk).ok()?;
    let service = hub.register(Probe).ok()?;
    Some((hub, service))
}

fuzz_target!(|bytes: &[u8]| {
    let Some((how, journal)) = bytes.split_first() else { return };
    let mut journal = journal.to_vec();
    if how % 2 == 1 {
        seal(&mut journal);
    }
    let disk = MemoryDisk::from_journal(&journal);
    let Some((hub, service)) = open(&disk) else { return };
    hub.tick();
    drop(service.results(None, 100));
    drop(service.stats());
    if let Ok(registered) = hub.register_client(&Registration::new(1, "worker")) {
        if let Ok(seat) = registered.client.activate(&service) {
            drop(seat.leases());
            drop(seat.claim(commissary::Ask::buckets(3)));
        }
    }
    hub.tick();
    let healthy = hub.health().is_ok();
    let closed = hub.close().is_ok();
    drop((hub, service));
    if healthy && closed {
        assert!(open(&disk).is_some(), "what was opened, and closed in order, opens again");
    }
});
