//! What the calls cost in the crate's own shared words: the table of `docs/concurrency.md` is held by this.

use std::time::Duration;

use crate::reservations::{Stock, Terms};
use crate::service::{Policy, Reporter, Verdict};
use crate::sync::counted::{Cost, count};
use crate::{
    Ask, Claim, Durability, Hub, LaneKey, Lease, ManualClock, MemoryDisk, Registration, Seat, Service, ServiceHandle,
};

/// Numbers; from 1,000 on the tens are the lane.
struct Numbers;

impl Service for Numbers {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        "numbers"
    }

    fn policy(&self) -> Policy {
        Policy { linger: Duration::ZERO, expiry_spread: 0, cooldown: Duration::ZERO, company: 0, ..Policy::default() }
    }

    fn judge(&self, _: &u64, _: &u64, _: Reporter) -> Verdict {
        Verdict::Accept
    }

    fn lane(&self, number: &u64) -> Option<LaneKey> {
        (*number >= 1_000).then(|| LaneKey::from(number / 10))
    }
}

struct Shop {
    hub: Hub,
    service: ServiceHandle<Numbers>,
    seat: Seat<Numbers>,
}

fn open(numbers: std::ops::Range<u64>) -> Shop {
    let builder = Hub::builder().manual().clock(ManualClock::default()).seed(1).durability(Durability::Os);
    let hub = builder.open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Numbers).unwrap();
    let seat = hub.register_client(&Registration::new(1, "one")).unwrap().client.activate(&service).unwrap();
    hub.tick();
    service.add_all(numbers).unwrap();
    hub.tick();
    let shop = Shop { hub, service, seat };
    // What a call does only once is done.
    let lease = shop.claim();
    lease.renew().unwrap();
    assert_eq!(lease.submit(reports(&lease)).unwrap().accepted(), 4);
    shop.claim().release();
    shop.hub.tick();
    shop
}

fn reports(lease: &Lease<Numbers>) -> Vec<(u64, u64)> {
    lease.owed().map(|number| (number, 0)).collect()
}

impl Shop {
    fn claim(&self) -> Lease<Numbers> {
        let Claim::Leased(grant) = self.seat.claim(Ask::one()).unwrap() else { panic!("there is work") };
        grant.into_iter().next().unwrap()
    }
}

/// Each call in its common case: nobody else is there, the caretakers are awake, and the client holds another lease.
fn costs() -> Vec<(&'static str, Cost)> {
    let mut costs = Vec::new();
    let shop = open(0..400);
    let _held = shop.claim();
    let (lease, cost) = count(|| shop.claim());
    costs.push(("claim of one bucket", cost));
    let owed = reports(&lease);
    let (submitted, cost) = count(|| lease.submit(owed).unwrap());
    assert_eq!(submitted.accepted(), 4);
    costs.push(("submit of a whole bucket of 4", cost));
    let lease = shop.claim();
    costs.push(("renew", count(|| lease.renew().unwrap()).1));
    costs.push(("release of a bucket", count(|| lease.release()).1));
    let (ticket, cost) = count(|| shop.service.add(&10_000).unwrap());
    assert_eq!(ticket.position(), None, "it is on its way");
    costs.push(("add of one subject", cost));

    let laned = open(1_000..1_100);
    let (_held, lease) = (laned.claim(), laned.claim());
    let owed = reports(&lease);
    let (submitted, cost) = count(|| lease.submit_lane(owed, &1_u64).unwrap());
    assert_eq!(submitted.accepted(), 4);
    costs.push(("`submit_lane` of a whole bucket of 4", cost));

    let stock = Stock::new(Terms::default());
    let _ = stock.add(100, 1, 1).unwrap();
    stock.reserve(1, 1, 60_000).unwrap();
    costs.push(("reserve", count(|| stock.reserve(2, 1, 60_000).unwrap()).1));
    costs.push(("confirm", count(|| stock.confirm(2).unwrap()).1));
    costs.push(("cancel", count(|| stock.cancel(1).unwrap()).1));
    costs
}

/// What the document says of a call: exchanges that decide, additions to counts, lines written and lines only read, at most.
fn told(call: &str) -> [usize; 4] {
    let document = include_str!("docs/concurrency.md");
    let row = document.lines().find(|line| line.starts_with(&format!("| {call} |")));
    let row = row.unwrap_or_else(|| panic!("{call} is not in the document"));
    let cells: Vec<usize> = row.split('|').skip(2).filter_map(|cell| cell.trim().parse().ok()).collect();
    cells[..4].try_into().unwrap()
}

/// R138: what the document says that a call costs is what it costs.
#[test]
fn calls_cost_what_the_document_says() {
    for (call, cost) in costs() {
        let [decide, add, written, read] = told(call);
        let counts = cost.exchanges.iter().filter(|place| place.file().ends_with("src/sync.rs")).count();
        let exchanges = (cost.exchanges.len() - counts, counts);
        assert_eq!(exchanges, (decide, add), "{call}: {:#?}", cost.exchanges);
        // How many lines depends on where the allocator places things.
        let lines = (cost.lines_written(), cost.lines_read());
        assert!(lines.0 <= written && lines.1 <= read, "{call}: {lines:?} lines, told {:?}", (written, read));
        assert!(lines.0 + 3 >= written && lines.1 + 3 >= read, "{call}: {lines:?} lines, told {:?}", (written, read));
    }
}
