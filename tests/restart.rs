//! What a restart must not change: each of these was found by the model and is told here by itself.

use std::time::Duration;

use commissary::services::{DmCheck, DmState};
use commissary::{
    Ask, Client, Crash, Hub, ManualClock, MemoryDisk, Outcome, Registration, Seat, SeatState, ServiceHandle,
};

struct Shop {
    hub: Hub,
    disk: MemoryDisk,
    clock: ManualClock,
    service: ServiceHandle<DmCheck>,
    client: Client,
}

impl Shop {
    fn open(disk: MemoryDisk) -> Self {
        let clock = ManualClock::default();
        let hub = Hub::builder().manual().clock(clock.clone()).seed(1).open_in_memory(&disk).expect("open");
        let service = hub.register(DmCheck::default()).expect("register");
        let client = match hub.client(7) {
            Some(client) => client,
            None => hub.register_client(&Registration::new(7, "seven")).expect("registered").client,
        };
        Self { hub, disk, clock, service, client }
    }

    fn crash(self) -> Self {
        Self::open(self.disk.after(Crash::Process))
    }

    fn work_for(&self, users: std::ops::Range<u64>) -> Seat<DmCheck> {
        self.service.add_all(users).expect("taken in");
        self.hub.tick();
        self.clock.advance(Duration::from_millis(100));
        self.hub.tick();
        self.client.activate(&self.service).expect("active")
    }

    fn state(&self) -> SeatState {
        self.service.seat_stats(7).expect("a seat").state
    }
}

/// Every contradiction of one submit counts, also after a restart.
#[test]
fn conflicts_are_counted_one_by_one_across_a_restart() {
    let shop = Shop::open(MemoryDisk::new());
    let seat = shop.work_for(1..4);
    let lease = seat.claim(Ask::one()).expect("served").leased().expect("a grant").pop().expect("a lease");
    drop(lease.report([(1, DmState::Open), (2, DmState::Open)]).expect("taken"));
    let again = lease.report([(1, DmState::Closed), (2, DmState::Closed)]).expect("answered");
    assert_eq!(again.outcomes, [Outcome::Conflict, Outcome::Conflict]);
    let token = lease.into_token();
    shop.hub.tick();
    let before = shop.service.seat_stats(7).expect("a seat").faults.conflicts;
    let shop = shop.crash();
    let after = shop.service.seat_stats(7).expect("a seat").faults.conflicts;
    assert_eq!((before, after), (2, 2));
    assert_eq!(shop.client.activate(&shop.service).expect("active").leases().expect("held")[0].token, token);
}

/// Who was deregistered must activate again, also if the hub was restarted in between.
#[test]
fn a_seat_does_not_outlive_a_deregistration_by_a_restart() {
    let shop = Shop::open(MemoryDisk::new());
    drop(shop.work_for(1..4));
    shop.hub.tick();
    drop(shop.client.deregister().expect("deregistered"));
    drop(shop.hub.register_client(&Registration::new(7, "seven")).expect("registered again"));
    assert_eq!(shop.state(), SeatState::Inactive);
    shop.hub.tick();
    let shop = shop.crash();
    assert_eq!(shop.state(), SeatState::Inactive, "the seat must be activated again");
    assert_eq!(shop.service.stats().active_seats, 0);
}
