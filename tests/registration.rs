//! Registering and deregistering clients: requirement rows R26, R60 to R67 and R8.

mod common;

use common::{Plain, Shop, assert_adds_up, claim_one, report_all};

/// R60: a first registration with valid details is new, and visible at once.
#[test]
fn first_registration_is_new() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    shop.stock(&service, 9);
    let seat = shop.seat(&service, 1);
    let lease = claim_one(&seat);
    report_all(&lease);
    assert_eq!(shop.drive_to_quiet(&seat), 5);
    assert_adds_up(&shop.hub);
}
