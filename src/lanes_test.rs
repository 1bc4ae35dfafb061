//! Lanes where calls are interrupted in their middle: between the exchange that reports and the way to the writer. And what
//! idle lanes cost.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::commit::{Change, Pending, Reports};
use crate::link::Precedence;
use crate::service::{Policy, Reporter, Verdict};
use crate::stack::Node;
use crate::sync::Arc;
use crate::{
    Ask, Claim, Crash, Durability, Hub, LaneHandler, LaneKey, Lease, Limits, ManualClock, MemoryDisk, Outcome,
    Registration, Seat, Service, ServiceHandle, SubjectState, Ticket, TicketError,
};

/// Subjects of one lane.
const PER_LANE: u64 = 1_000;

/// Numbers; the thousands are the lane.
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
        Some(LaneKey::from(number / PER_LANE))
    }
}

struct Shop {
    hub: Hub,
    clock: ManualClock,
    disk: MemoryDisk,
    service: ServiceHandle<Numbers>,
    seat: Seat<Numbers>,
}

impl Shop {
    fn on(disk: MemoryDisk, clock: ManualClock) -> Self {
        let builder = Hub::builder().manual().clock(clock.clone()).seed(1).durability(Durability::Os);
        let hub = builder.open_in_memory(&disk).unwrap();
        let service = hub.register(Numbers).unwrap();
        let seat = hub.register_client(&Registration::new(1, "one")).unwrap().client.activate(&service).unwrap();
        hub.tick();
        Self { hub, clock, disk, service, seat }
    }

    fn open(numbers: impl IntoIterator<Item = u64>) -> Self {
        let shop = Self::on(MemoryDisk::new(), ManualClock::default());
        shop.service.add_all(numbers).unwrap();
        shop.hub.tick();
        shop
    }

    fn crash(&self) -> Self {
        Self::on(self.disk.after(Crash::Process), self.clock.clone())
    }

    fn claim(&self) -> Option<Lease<Numbers>> {
        match self.seat.claim(Ask::one()).unwrap() {
            Claim::Leased(grant) => grant.into_iter().next(),
            Claim::Empty(_) => None,
        }
    }

    /// Ends every lease by its time.
    fn expire(&self) {
        for time in [Duration::from_secs(7_200), Duration::from_secs(900), Duration::ZERO] {
            self.clock.advance(time);
            self.hub.tick();
        }
    }

    /// Takes away what is on its way to the writer.
    fn take_all(&self) -> Vec<Arc<Node<Pending>>> {
        self.hub.house().link.take_all()
    }

    /// Hands a report that was taken away to the writer after all.
    fn post(&self, node: &Node<Pending>) -> Ticket {
        let Change::Reported(reports) = &node.value.change else { panic!("a report") };
        let Reports { index, client, accepted, late, whole, .. } = *reports;
        let (pool, items, step) = (Arc::clone(&reports.pool), reports.items.clone(), reports.step.clone());
        let change = Change::Reported(Reports { pool, index, client, items, accepted, late, whole, step });
        self.hub.house().link.send(Precedence::Submit, change, 100).unwrap()
    }

    fn done(&self) -> Vec<u64> {
        (0..10).filter(|number| self.service.subject_state(number).unwrap() == SubjectState::Done).collect()
    }

    fn assert_sound(&self) {
        let audit = self.hub.recount().unwrap();
        assert!(audit.is_balanced(), "{audit}");
    }
}

/// Reports one number, with the list of those reported so far as state.
fn report(lease: &Lease<Numbers>) -> crate::Ticket {
    let mut log: Vec<u64> = lease.lane().unwrap().state().unwrap();
    let number = lease.owed().next().unwrap();
    log.push(number);
    let submitted = lease.report_lane([(number, 0)], &log).unwrap();
    assert_eq!(submitted.outcomes, [Outcome::Accepted]);
    submitted.ticket
}

fn log(lease: &Lease<Numbers>) -> (u64, Vec<u64>) {
    let view = lease.lane().unwrap();
    (view.version, view.state().unwrap())
}

/// R124: what is journaled and not applied makes a read of a lane old: as old as what it reflects.
#[test]
fn a_read_of_a_lane_is_as_old_as_what_it_reflects() {
    let shop = Shop::open(0..1);
    let status = || shop.service.lane(&LaneKey::from(0_u64)).unwrap().unwrap();
    let first = status();
    shop.clock.advance(Duration::from_secs(3));
    assert_eq!((first.owed, first.age, status().age), (1, Duration::ZERO, Duration::ZERO));
    let ticket = shop.service.add(&1).unwrap();
    shop.hub.house().journal();
    assert!(ticket.position().unwrap() >= first.position && status().position == first.position);
    assert!(status().owed == 1 && status().age >= Duration::from_secs(3), "{:?}", status());
    shop.hub.tick();
    assert!(status().position > ticket.position().unwrap());
    assert_eq!((status().owed, status().age), (2, Duration::ZERO));
}

/// The nodes of three reports of one lease reach the writer in every order: the journal has them in the lane's.
#[test]
fn reports_are_journaled_in_the_lanes_order_whatever_order_they_come_in() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let shop = Shop::open(0..4);
        let lease = shop.claim().unwrap();
        (0..3).for_each(|_| drop(report(&lease)));
        let nodes = shop.take_all();
        assert_eq!(nodes.len(), 3);
        let mut tickets = Vec::new();
        let mut missing: Vec<usize> = vec![0, 1, 2];
        for place in order {
            tickets.push((place, shop.post(&nodes[place])));
            shop.hub.tick();
            missing.retain(|other| *other != place);
            let in_order = missing.first().copied().unwrap_or(3) as u64;
            assert_eq!(shop.done(), (0..in_order).collect::<Vec<_>>(), "{order:?}");
            let durable = tickets.iter().filter(|(_, ticket)| ticket.position().is_some()).count() as u64;
            assert_eq!(durable, in_order, "{order:?}");
            // A crash now: results and state agree.
            let again = shop.crash();
            again.expire();
            let lease = again.claim().unwrap();
            assert_eq!(log(&lease), (in_order, (0..in_order).collect()), "{order:?}");
            assert_eq!(lease.owed().next(), Some(in_order));
        }
        shop.assert_sound();
        tickets.sort_by_key(|(place, _)| *place);
        let positions: Vec<_> = tickets.iter().map(|(_, ticket)| ticket.position().unwrap()).collect();
        assert!(positions.is_sorted(), "{positions:?}");
    }
}

/// R16: the bound on what waits for the writer counts a lane's state as it counts the reports that it comes with.
#[test]
fn a_state_takes_as_much_room_in_the_queue_as_it_is_long() {
    let reserved = |state: usize| {
        let shop = Shop::open(0..4);
        let lease = shop.claim().unwrap();
        let before = shop.hub.stats().queued_bytes;
        let number = lease.owed().next().unwrap();
        assert_eq!(lease.report_lane([(number, 0)], &vec![7_u8; state]).unwrap().accepted(), 1);
        shop.hub.stats().queued_bytes - before
    };
    assert_eq!(reserved(1_200) - reserved(200), 1_000);
}

/// A lease ends while a report on it is on its way: nobody gets the lane before that came through, and then its state is there.
#[test]
fn a_lane_is_not_handed_on_before_all_its_reports_are_in() {
    let shop = Shop::open(0..6);
    let lease = shop.claim().unwrap();
    drop(report(&lease));
    let held_up = shop.take_all();
    drop(lease);
    shop.hub.tick();
    shop.expire();
    assert!(shop.claim().is_none(), "its state is not known yet");
    assert!(shop.done().is_empty());
    // If it never comes, the next opening finds the lease as it was: the rest waits behind what it owes.
    let again = shop.crash();
    assert!(again.claim().is_none());
    let views = again.seat.leases().unwrap();
    assert_eq!(views[0].subjects, [0], "what was put back is not among it");
    let recovered = again.seat.resume(&views[0].token).unwrap();
    assert_eq!(recovered.report_lane([(1, 0)], &0_u8).unwrap().outcomes, [Outcome::AlreadyDone]);
    drop(recovered);
    again.hub.tick();
    assert_eq!(again.claim().unwrap().owed().collect::<Vec<_>>(), [0, 1, 2, 3]);
    again.hub.tick();
    again.assert_sound();
    // If it comes late, the next holder has its state.
    let ticket = shop.post(&held_up[0]);
    shop.hub.tick();
    ticket.wait_visible().unwrap();
    let next = shop.claim().unwrap();
    assert_eq!((log(&next), next.owed().collect::<Vec<_>>()), ((1, vec![0]), vec![1, 2, 3, 4]));
    shop.hub.tick();
    shop.assert_sound();
}

/// A caller that stops between its exchange and the end of its lease: everything is reported, and may be applied and the state
/// forgotten by then. Nobody is shown a lane with no state.
#[test]
fn a_lease_that_owes_nothing_shows_no_lane() {
    let shop = Shop::open(0..2);
    let lease = shop.claim().unwrap();
    drop(report(&lease));
    shop.hub.tick();
    let live = shop.service.core().live();
    let (pool, index) = live.iter().find_map(|pool| (0..pool.slots().len()).map(|at| (pool, at)).next()).unwrap();
    let (slot, run) = (pool.slot(index).unwrap(), pool.run(index).unwrap());
    assert_eq!((log(&lease), shop.seat.leases().unwrap().len()), ((1, vec![0]), 1));
    assert!(slot.report_front(0b10, 0b10).emptied);
    run.forget_state();
    assert_eq!(lease.lane(), None);
    assert!(shop.seat.leases().unwrap().is_empty());
    let _ = lease.into_token();
}

/// A report that waits for another one when the hub is closed is answered, and is there no more than that one.
#[test]
fn a_report_that_waits_for_another_is_answered_at_the_end() {
    let shop = Shop::open(0..4);
    let lease = shop.claim().unwrap();
    drop(report(&lease));
    assert_eq!(shop.take_all().len(), 1);
    let second = report(&lease);
    shop.hub.tick();
    assert!(second.progress().is_ok() && second.position().is_none());
    let _ = lease.into_token();
    shop.hub.close().unwrap();
    assert_eq!(second.progress(), Err(TicketError::Unknown));
    let again = Shop::on(shop.disk.clone(), shop.clock.clone());
    again.expire();
    assert_eq!((again.done(), log(&again.claim().unwrap())), (vec![], (0, vec![])));
}

/// Lanes that were used and have nothing to do take no memory, but for the disk's. `LANES` says how many there are.
#[test]
fn idle_lanes_cost_no_memory() {
    let lanes: u64 = std::env::var("LANES").map_or(3_000, |lanes| lanes.parse().unwrap());
    let shop = Shop::open((0..lanes).map(|lane| lane * PER_LANE));
    let mut most = 0;
    loop {
        shop.hub.tick();
        let Claim::Leased(grant) = shop.seat.claim(Ask::buckets(10)).unwrap() else { break };
        grant.into_iter().for_each(|lease| drop(report(&lease)));
        most = most.max(lanes_in_memory(&shop).0);
    }
    shop.expire();
    assert_eq!(shop.service.stats().subjects_done, lanes);
    let (waiting, cached, states) = lanes_in_memory(&shop);
    assert!(most > 0, "those that had work were");
    assert_eq!((waiting, states), (0, 0));
    assert!(cached <= 65_536, "{cached} counts are kept");
    // They are where they were left.
    shop.service.add(&(PER_LANE + 1)).unwrap().progress().unwrap();
    shop.hub.tick();
    assert_eq!(log(&shop.claim().unwrap()), (1, vec![PER_LANE]));
}

/// A bucket of a lane is a pool, if no other lane has work: as long as leases are over, what is kept of them is bounded, however
/// many there are between two looks at all leases.
#[test]
fn pools_of_a_hot_lane_are_forgotten_before_they_pile_up() {
    const COMMANDS: u64 = 600;
    // Time stands still: leases are looked at once, at the beginning.
    let limits = Limits { settled_slots: 64, ..Limits::default() };
    let builder = Hub::builder().clock(ManualClock::default()).limits(limits).durability(Durability::Os);
    let hub = builder.open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Numbers).unwrap();
    service.set_policy(Policy { bucket_subjects: 1, ..service.policy() }).unwrap();
    let threads = hub.run_lanes(&service, Count, 1).unwrap();
    service.add_all(0..COMMANDS).unwrap();
    while service.stats().subjects_done < COMMANDS {
        hub.health().unwrap();
        std::thread::yield_now();
    }
    assert_eq!(threads.stop().unwrap().buckets, COMMANDS);
    let live = service.core().live().len();
    assert!(live < 300, "{live} pools are kept");
}

/// Counts the commands of a lane.
struct Count;

impl LaneHandler<Numbers> for Count {
    type State = u64;

    fn handle(&self, _: &LaneKey, count: &mut u64, _: &u64, _: DateTime<Utc>) -> u64 {
        *count += 1;
        *count
    }
}

/// Lanes that the steward knows, that the writer has at hand, and those whose states pools hold.
fn lanes_in_memory(shop: &Shop) -> (usize, usize, usize) {
    let house = shop.hub.house();
    let mut caretakers = house.dismiss().unwrap();
    let known = caretakers.steward.lanes_known();
    let cached = caretakers.storekeeper.applier_mut().lanes_cached();
    house.keep(caretakers);
    let live = shop.service.core().live();
    let runs = live.iter().flat_map(|pool| (0..pool.slots().len()).filter_map(|index| pool.run(index)));
    (known, cached, runs.filter(|run| run.has_state()).count())
}
