//! Bytes are a journal. Opening answers with a hub or an error; it never panics, and what it opened it opens again.
//!
//! The first byte tells whether the rest is taken as it is, or gets right checksums first: then the damage is in the records.
use std::error::Error;

use commissary::{Hub, Limits, ManualClock, MemoryDisk, Registration, Service, ServiceHandle, Verdict};

use super::Seen;
use super::seal::seal;

/// What the corpus comes through.
pub const STATES: &[&str] = &["refused", "opened", "held before", "claimed"];

/// What the journals are of.
pub struct Probe;

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

fn open(disk: &MemoryDisk) -> Result<(Hub, ServiceHandle<Probe>), Box<dyn Error>> {
    let limits = Limits { notices: 8, ..Limits::default() };
    let builder = Hub::builder().manual().clock(ManualClock::default()).seed(1).limits(limits);
    let hub = builder.open_in_memory(disk)?;
    let service = hub.register(Probe)?;
    Ok((hub, service))
}

pub fn run(bytes: &[u8], seen: &mut Seen) {
    let Some((how, journal)) = bytes.split_first() else { return };
    let mut journal = journal.to_vec();
    if how % 2 == 1 {
        seal(&mut journal);
    }
    let disk = MemoryDisk::from_journal(&journal);
    let Ok((hub, service)) = open(&disk) else {
        seen.insert("refused");
        return;
    };
    seen.insert("opened");
    hub.tick();
    drop(service.results(None, 100));
    drop(service.stats());
    if let Ok(registered) = hub.register_client(&Registration::new(1, "worker"))
        && let Ok(seat) = registered.client.activate(&service)
    {
        if seat.leases().is_ok_and(|leases| !leases.is_empty()) {
            seen.insert("held before");
        }
        if seat.claim(commissary::Ask::buckets(3)).is_ok_and(|claim| claim.leased().is_some()) {
            seen.insert("claimed");
        }
    }
    hub.tick();
    let healthy = hub.health().is_ok();
    let closed = hub.close().is_ok();
    drop((hub, service));
    if healthy && closed {
        drop(open(&disk).expect("what was opened, and closed in order, opens again"));
    }
}
