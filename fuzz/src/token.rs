//! Text is a token, or is not: what parses prints as what was parsed, and no seat takes a token that was not given to it.
use std::sync::OnceLock;

use commissary::services::{DmCheck, DmState};
use commissary::{Ask, Hub, LeaseToken, MemoryDisk, Registration, Seat};

use super::Seen;

/// What the corpus comes through.
pub const STATES: &[&str] = &["no token", "a token"];

/// A seat that holds leases of its own, in a hub whose secret nobody knows.
fn seat() -> &'static (Hub, Seat<DmCheck>) {
    static SEAT: OnceLock<(Hub, Seat<DmCheck>)> = OnceLock::new();
    SEAT.get_or_init(|| {
        let hub = Hub::builder().manual().open_in_memory(&MemoryDisk::new()).expect("memory opens");
        let service = hub.register(DmCheck::default()).expect("a new service registers");
        service.add_all(1..=720).expect("memory takes in");
        hub.tick();
        let client = hub.register_client(&Registration::new(1_000, "holder")).expect("a new client registers").client;
        let seat = client.activate(&service).expect("an active service");
        for lease in seat.claim(Ask::buckets(2)).expect("an active seat").leased().into_iter().flatten() {
            let _: LeaseToken = lease.into_token();
        }
        hub.tick();
        (hub, seat)
    })
}

pub fn run(bytes: &[u8], seen: &mut Seen) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(token) = text.parse::<LeaseToken>() else {
        seen.insert("no token");
        return;
    };
    seen.insert("a token");
    assert_eq!(token.to_string(), text.to_ascii_lowercase());
    assert_eq!(token.to_string().parse(), Ok(token));
    let (_, seat) = seat();
    let held = seat.leases().expect("a registered client").len();
    assert!(seat.renew(&token).is_err());
    assert!(seat.submit(&token, [(1, DmState::Open)]).is_err());
    assert!(seat.report(&token, [(1, DmState::Open)]).is_err());
    assert!(seat.release(&token).is_err());
    assert!(seat.resume(&token).is_err());
    assert_eq!(seat.leases().expect("a registered client").len(), held);
}
