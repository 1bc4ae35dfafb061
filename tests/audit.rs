//! Conservation: whatever happens, at a quiet moment the fingerprints of what moved agree, and counting agrees with them.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use commissary::{
    Ask, AuditError, Claim, Crash, Hub, HubError, Late, Lease, LeaseToken, ManualClock, MemoryDisk, Registration, Seat,
    ServiceAudit, ServiceHandle, Urgent,
};
use common::{Plain, Shop, assert_adds_up, claim, claim_one, report_all, reports};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::FileFailurePersistence;

fn only(shop: &Shop) -> ServiceAudit {
    shop.hub.audit().unwrap().services.remove(0)
}

fn counts(audit: &ServiceAudit) -> [u64; 6] {
    let ServiceAudit { unread, waiting, ready, leased, done, spare, .. } = audit;
    [unread.count, waiting.count, ready.count, leased.count, done.count, spare.count]
}

/// G8: the states of an audit say where every subject is, and together they are all that came in.
#[test]
fn an_audit_says_where_every_subject_is() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", |policy| policy.pool_subjects = 40)).unwrap();
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 6_000);
    let audit = only(&shop);
    assert!(audit.is_balanced(), "{audit}");
    let [unread, waiting, ready, ..] = counts(&audit);
    assert!(unread > 0 && ready > 0, "{audit:?}");
    assert_eq!(unread + waiting + ready, 6_000);
    let leases = claim(&seat, 3);
    report_all(&leases[0]);
    let dead = Lease::into_token;
    let tokens: Vec<LeaseToken> = leases.into_iter().skip(1).map(dead).collect();
    let audit = only(&shop);
    let [unread, waiting, ready, leased, done, spare] = counts(&audit);
    assert_eq!((leased, done, spare), (8, 4, 0));
    assert_eq!(unread + waiting + ready, 5_988);
    assert_eq!(audit.total(), audit.entered);
    assert_eq!(seat.release(&tokens[0]), Ok(4));
    let audit = only(&shop);
    assert_eq!(counts(&audit)[3..], [4, 4, 0]);
    assert_eq!((audit.total(), audit.entered.count), (audit.entered, 6_000));
    assert_adds_up(&shop.hub);
}

/// G8: a subject offered a second time is a spare until one of the two is reported and the other has come to its end.
#[test]
fn a_subject_offered_again_is_spare_until_both_are_over() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", |policy| policy.urgent = Urgent::Again)).unwrap();
    let seats = shop.seats(&service, 2);
    shop.stock(&service, 4);
    let held = claim_one(&seats[0]);
    drop(service.prioritize(&[3]).unwrap());
    assert_eq!(counts(&only(&shop)), [0, 0, 1, 4, 0, 1]);
    let again = claim_one(&seats[1]);
    assert_eq!(counts(&only(&shop)), [0, 0, 0, 5, 0, 1]);
    drop(held.report([(3, "ok".to_owned())]).unwrap());
    assert_eq!(counts(&only(&shop)), [0, 0, 0, 4, 1, 1], "the other client does not know yet");
    drop(again);
    assert_eq!(counts(&only(&shop)), [0, 0, 0, 3, 1, 0]);
    assert_adds_up(&shop.hub);
}

/// The hub says so when it cannot be audited.
#[test]
fn a_closed_hub_is_not_audited() {
    let shop = Shop::open();
    assert!(shop.hub.audit().unwrap().is_balanced(), "nothing is balanced");
    shop.hub.close().unwrap();
    assert!(matches!(shop.hub.audit(), Err(AuditError::Hub(HubError::Closed))));
    assert!(matches!(shop.hub.recount(), Err(AuditError::Hub(HubError::Closed))));
}

#[derive(Debug, Clone)]
enum Op {
    Add {
        first: u64,
        count: u64,
    },
    Claim {
        client: u64,
        n: u32,
    },
    Report {
        lease: Index,
        some: u8,
        last: bool,
    },
    Release {
        lease: Index,
    },
    /// By a token that may be over.
    Late {
        lease: Index,
    },
    Urgent {
        first: u64,
        count: u64,
    },
    Suspend {
        client: u64,
    },
    Deregister {
        client: u64,
    },
    Pause {
        paused: bool,
    },
    Revoke,
    Advance {
        ms: u64,
    },
    Audit,
    Reopen {
        crash: bool,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let (client, lease) = (1..4_u64, any::<Index>());
    let op = prop_oneof![
        5 => (0..60_u64, 1..12_u64).prop_map(|(first, count)| Op::Add { first, count }),
        12 => (client.clone(), 1..4_u32).prop_map(|(client, n)| Op::Claim { client, n }),
        12 => (lease.clone(), any::<u8>(), any::<bool>()).prop_map(|(lease, some, last)| Op::Report { lease, some, last }),
        4 => lease.clone().prop_map(|lease| Op::Release { lease }),
        4 => lease.prop_map(|lease| Op::Late { lease }),
        6 => (0..60_u64, 1..5_u64).prop_map(|(first, count)| Op::Urgent { first, count }),
        1 => client.clone().prop_map(|client| Op::Suspend { client }),
        1 => client.prop_map(|client| Op::Deregister { client }),
        1 => any::<bool>().prop_map(|paused| Op::Pause { paused }),
        1 => Just(Op::Revoke),
        8 => prop::sample::select(vec![1, 10, 100, 1_000, 5_000]).prop_map(|ms| Op::Advance { ms }),
        8 => Just(Op::Audit),
        2 => any::<bool>().prop_map(|crash| Op::Reopen { crash }),
    ];
    prop::collection::vec(op, 10..80)
}

struct World {
    shop: Shop,
    service: ServiceHandle<Plain>,
    /// Whose, and its subjects.
    given: Vec<(u64, LeaseToken, Vec<u64>)>,
    rules: Rules,
}

/// What is to be varied: what becomes of urgent subjects that are held, of late reports, and how subjects put back are offered.
#[derive(Debug, Clone, Copy)]
struct Rules {
    urgent: Urgent,
    late: Late,
    cooldown: u64,
    company: u32,
}

fn rules() -> impl Strategy<Value = Rules> {
    let urgent = prop::sample::select(vec![Urgent::Again, Urgent::Wait, Urgent::Keep]);
    let late = prop::sample::select(vec![Late::Refuse, Late::AcceptIfOpen]);
    let (cooldown, company) = (prop::sample::select(vec![0, 1_500]), prop::sample::select(vec![0, 1]));
    (urgent, late, cooldown, company).prop_map(|(urgent, late, cooldown, company)| Rules {
        urgent,
        late,
        cooldown,
        company,
    })
}

fn plain(rules: Rules) -> Plain {
    Plain::with("plain", |policy| {
        (policy.urgent, policy.late) = (rules.urgent, rules.late);
        (policy.cooldown, policy.company) = (Duration::from_millis(rules.cooldown), rules.company);
        policy.bucket_subjects = 3;
        policy.pool_subjects = 12;
        policy.lease = Duration::from_secs(1);
        policy.grace = Duration::from_millis(500);
        policy.linger = Duration::from_millis(5);
        policy.idle = Duration::from_secs(60);
    })
}

impl World {
    fn new(rules: Rules) -> Self {
        let shop = Shop::open();
        let service = shop.hub.register(plain(rules)).unwrap();
        Self { shop, service, given: Vec::new(), rules }
    }

    fn seat(&self, client: u64) -> Option<Seat<Plain>> {
        let registered = self.shop.hub.register_client(&Registration::new(client, format!("c{client}"))).ok()?;
        registered.client.activate(&self.service).ok()
    }

    fn given(&self, lease: Index) -> Option<&(u64, LeaseToken, Vec<u64>)> {
        (!self.given.is_empty()).then(|| lease.get(&self.given))
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Add { first, count } => drop(self.service.add_all(first..first + count)),
            Op::Claim { client, n } => self.claim(client, n),
            Op::Report { lease, some, last } => self.report(lease, some, last),
            Op::Late { lease } => self.report(lease, u8::MAX, false),
            Op::Release { lease } => {
                let Some((client, token, _)) = self.given(lease) else { return };
                let released = self.seat(*client).map(|seat| seat.release(token));
                drop(released);
            }
            Op::Urgent { first, count } => {
                drop(self.service.prioritize(&(first..first + count).collect::<Vec<_>>()).unwrap());
            }
            Op::Suspend { client } => {
                drop(self.service.suspend(client));
                self.shop.tick();
                drop(self.service.reinstate(client));
            }
            Op::Deregister { client } => drop(self.shop.hub.client(client).map(|client| client.deregister())),
            Op::Pause { paused: true } => drop(self.service.pause()),
            Op::Pause { paused: false } => drop(self.service.activate()),
            Op::Revoke => {
                drop(self.service.revoke(commissary::Revoke::Immediate));
                self.shop.tick();
                drop(self.service.activate());
            }
            Op::Advance { ms } => self.shop.pass(Duration::from_millis(ms)),
            Op::Audit => assert_adds_up(&self.shop.hub),
            Op::Reopen { crash } => self.reopen(crash),
        }
    }

    fn claim(&mut self, client: u64, n: u32) {
        let Some(seat) = self.seat(client) else { return };
        let Ok(Claim::Leased(grant)) = seat.claim(Ask::buckets(n)) else { return };
        for lease in grant {
            let subjects = lease.subjects().collect();
            self.given.push((client, lease.into_token(), subjects));
        }
    }

    fn report(&self, lease: Index, some: u8, last: bool) {
        let Some((client, token, subjects)) = self.given(lease) else { return };
        let Some(seat) = self.seat(*client) else { return };
        let some = subjects.iter().enumerate().filter(|(place, _)| some & (1 << place) != 0);
        let reports: Vec<_> = some.map(|(_, subject)| (*subject, format!("by {client}"))).collect();
        drop(if last { seat.submit(token, reports) } else { seat.report(token, reports) });
    }

    fn reopen(&mut self, crash: bool) {
        let shop = if crash {
            self.shop.after(Crash::Process)
        } else {
            self.shop.hub.close().unwrap();
            Shop::on(self.shop.disk.clone(), self.shop.clock.clone(), commissary::Limits::default())
        };
        self.service = shop.hub.register(plain(self.rules)).unwrap();
        self.shop = shop;
        assert_adds_up(&self.shop.hub);
    }

    /// All work is done: nothing is anywhere but done.
    fn finish(mut self) {
        drop(self.service.activate());
        self.shop.pass(Duration::from_secs(60));
        for _ in 0..200 {
            self.shop.pass(Duration::from_secs(2));
            let seat = self.seat(4).unwrap();
            self.claim(4, 3);
            for (_, token, subjects) in self.given.drain(..).filter(|(client, ..)| *client == 4) {
                let reports: Vec<_> = subjects.into_iter().map(|subject| (subject, "ok".to_owned())).collect();
                drop(seat.submit(&token, reports).unwrap());
            }
            if self.service.stats().subjects_pending() == 0 {
                break;
            }
        }
        self.shop.pass(Duration::from_secs(2));
        assert_adds_up(&self.shop.hub);
        let audit = only(&self.shop);
        assert_eq!(audit.done, audit.entered, "{audit:?}");
        assert_eq!(counts(&audit)[..4], [0, 0, 0, 0], "{audit:?}");
        assert_eq!(counts(&audit)[5], 0, "{audit:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..ProptestConfig::default()
    })]

    /// G8, R1: after any sequence of additions, claims, reports, releases, deaths, urgent marks, suspensions, revocations,
    /// deregistrations, restarts and crashes every subject is in one place; and in the end every one is done.
    #[test]
    fn whatever_happens_every_subject_is_in_one_place(
        ops in ops(), rules in rules()
    ) {
        let mut world = World::new(rules);
        for op in ops {
            world.apply(&op);
        }
        assert_adds_up(&world.shop.hub);
        world.finish();
    }
}

/// G8: eight threads claim, report in part, give back and mark urgent while subjects come in; caretakers on threads of their
/// own. Afterwards all balances, in count, sum and exclusive or.
#[test]
fn eight_threads_at_work_leave_balanced_books() {
    const TOTAL: u64 = 4_000;
    let hub = Hub::builder().seed(1).open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Plain::with("plain", |policy| policy.linger = Duration::from_millis(1))).unwrap();
    let seats: Vec<_> = (1..=8)
        .map(|id| {
            let registration = Registration::new(id, format!("c{id}")).origin(id.to_be_bytes());
            hub.register_client(&registration).unwrap().client.activate(&service).unwrap()
        })
        .collect();
    let turns = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for seat in &seats {
            let (turns, service) = (&turns, &service);
            scope.spawn(move || {
                while turns.fetch_add(1, Ordering::Relaxed) < 4_000 {
                    let turn = turns.load(Ordering::Relaxed);
                    for lease in seat.claim(Ask::buckets(2)).unwrap().leased().into_iter().flatten() {
                        let mut reports = reports(&lease, "ok");
                        match turn % 7 {
                            0 => continue,
                            1 => reports.truncate(1),
                            2 => drop(service.prioritize(&[reports[0].0])),
                            _ => {}
                        }
                        drop(lease.submit(reports).unwrap());
                    }
                    if turn % 64 == 0 {
                        let _ = seat.wait_ready(Duration::from_millis(5));
                    }
                }
            });
        }
        for chunk in 0..TOTAL / 100 {
            assert_eq!(service.add_all(chunk * 100..(chunk + 1) * 100).unwrap().added, 100);
        }
    });
    let audit = hub.audit().unwrap();
    assert!(audit.is_balanced(), "{audit}");
    assert_adds_up(&hub);
    let audit = &hub.audit().unwrap().services[0];
    assert_eq!((audit.entered.count, audit.total()), (TOTAL, audit.entered));
    assert_eq!(audit.done.count, service.stats().subjects_done);
    assert!(audit.done.count > 0);
    hub.close().unwrap();
}

/// G8: what one opening says of the population is what the next one says.
#[test]
fn the_population_survives_restarts_to_the_last_bit() {
    let (disk, clock) = (MemoryDisk::new(), ManualClock::default());
    let mut before: Option<ServiceAudit> = None;
    for round in 0..5_u64 {
        let shop = Shop::on(disk.clone(), clock.clone(), commissary::Limits::default());
        let service = shop
            .hub
            .register(plain(Rules { urgent: Urgent::Again, late: Late::Refuse, cooldown: 0, company: 0 }))
            .unwrap();
        let audit = only(&shop);
        if let Some(before) = before.take() {
            assert_eq!((audit.entered, audit.done, audit.leased), (before.entered, before.done, before.leased));
        }
        shop.pass(Duration::from_secs(90));
        let seat = shop.seat(&service, 1);
        service.add_all(round * 10..round * 10 + 10).unwrap();
        shop.settle();
        let leases = claim(&seat, 2);
        drop(leases[0].report(reports(&leases[0], "ok").into_iter().take(1)).unwrap());
        for lease in leases {
            let _ = lease.into_token();
        }
        before = Some(only(&shop));
        assert_adds_up(&shop.hub);
        shop.hub.close().unwrap();
    }
}
