//! Every limit: what lies at it is taken, the next is refused by an error that names the limit and the value (or does what
//! the limit's documentation says instead), and everybody else goes on.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use commissary::{
    ActivateError, AddError, Capability, ClaimError, DetailError, Hub, HubError, JsonError, LaneKey, Lease, LeaseError,
    LeaseToken, Limits, MemoryDisk, OpenError, Outcome, Policy, RegisterClientError, RegisterServiceError, Registered,
    Registration, Reporter, Seat, Service, ServiceHandle, Subject, UrgentError, Verdict,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use common::{Plain, Shop, assert_adds_up, claim, claim_one, exact, name_of, report_all, reports};

/// Each limit and the test that shows it.
const SHOWN: [(&str, fn()); 29] = [
    ("services", the_service_beyond_a_full_table_is_refused),
    ("clients", the_client_beyond_a_full_table_is_refused),
    ("seats", the_seat_beyond_a_full_table_is_refused),
    ("key_bytes", a_key_one_byte_too_long_is_refused),
    ("body_bytes", a_body_one_byte_too_long_is_refused),
    ("report_bytes", a_report_one_byte_too_long_stays_with_the_lease),
    ("submit_bytes", a_submit_one_report_too_large_is_refused_whole),
    ("lane_state_bytes", a_lane_state_one_byte_too_long_is_refused),
    ("laned_waiting", nothing_more_is_read_while_lanes_are_crowded),
    ("json_bytes", a_json_body_one_byte_too_long_is_refused),
    ("queue_bytes", a_full_queue_refuses_submits_and_nothing_else_that_needs_no_room),
    ("admit_newcomers_percent", a_crowded_queue_refuses_newcomers_first_then_claims),
    ("admit_claims_percent", a_crowded_queue_refuses_newcomers_first_then_claims),
    ("origin_burst", the_newcomer_beyond_its_origins_burst_is_throttled),
    ("newcomer_burst", the_newcomer_beyond_everybodys_burst_is_throttled),
    ("origin_refill", a_burst_of_newcomers_is_full_again_after_its_refill),
    ("repeat_burst", the_repeat_beyond_its_burst_is_throttled),
    ("repeat_refill", the_repeat_beyond_its_burst_is_throttled),
    ("releases_per_round", the_dead_lease_beyond_a_round_keeps_its_grace),
    ("settled_slots", the_pool_beyond_the_settled_slots_is_forgotten),
    ("slow_leases", of_the_slow_leases_the_slowest_are_remembered),
    ("notices", the_notice_beyond_the_limit_takes_the_oldest_ones_place),
    ("explained_steps", the_step_beyond_the_limit_leaves_the_oldest_out),
    ("BUCKET_SUBJECTS", a_bucket_one_subject_too_large_is_refused),
    ("SUBMIT_REPORTS", one_report_too_many_in_a_submit_is_refused),
    ("URGENT_KEYS", one_urgent_key_too_many_is_refused),
    ("LEASE_MS", no_lease_outlives_the_state_words_time),
    ("NAME_CHARS", a_screen_name_one_character_too_long_is_refused),
    ("SERVICE_ID_CHARS", a_service_id_one_character_too_long_is_refused),
];

/// R16: a limit that is added without a test here fails this one.
#[test]
fn every_limit_is_shown_here() {
    let fields = serde_json::to_value(Limits::default()).unwrap();
    let fields = fields.as_object().unwrap().keys().cloned();
    let source = include_str!("../src/limits.rs");
    let fixed = source.lines().filter_map(|line| line.trim().strip_prefix("pub const ")?.split(':').next());
    let limits: BTreeSet<String> = fields.chain(fixed.map(str::to_owned)).collect();
    let shown: BTreeSet<String> = SHOWN.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(shown, limits);
    assert_eq!(shown.len(), SHOWN.len(), "each once");
}

/// A hub with two services and, at each, a neighbour: a client that minds its own business.
struct Town {
    shop: Shop,
    service: ServiceHandle<Plain>,
    neighbours: [Seat<Plain>; 2],
}

impl Town {
    fn open(limits: Limits) -> Self {
        Self::with(limits, |_| {})
    }

    fn with(limits: Limits, change: impl FnOnce(&mut Policy)) -> Self {
        let shop = Shop::open_with(limits);
        let service = shop.hub.register(Plain::with("plain", change)).unwrap();
        let patient = |policy: &mut Policy| policy.idle = Duration::from_secs(1_000 * 24 * 3_600);
        let other = shop.hub.register(Plain::with("other", patient)).unwrap();
        let neighbours = [shop.seat(&service, 91), shop.seat(&other, 92)];
        shop.stock(&service, 200);
        shop.stock(&other, 40);
        Self { shop, service, neighbours }
    }

    /// The neighbours claim and report, right now and once more after the caretakers had their turn.
    fn others_go_on(&self) {
        for _ in 0..2 {
            self.neighbours.iter().for_each(|seat| report_all(&claim_one(seat)));
            self.shop.settle();
        }
        assert_adds_up(&self.shop.hub);
    }

    fn register(&self, id: u64) -> Result<Registered, RegisterClientError> {
        self.shop.hub.register_client(&Registration::new(id, name_of(id)))
    }

    fn register_from(&self, id: u64, origin: u8) -> Result<Registered, RegisterClientError> {
        self.shop.hub.register_client(&Registration::new(id, name_of(id)).origin([origin]))
    }
}

/// R16: services.
#[test]
fn the_service_beyond_a_full_table_is_refused() {
    let town = Town::open(Limits { services: 3, ..Limits::default() });
    town.shop.hub.register(Plain::new("third")).unwrap();
    let refused = town.shop.hub.register(Plain::new("fourth")).unwrap_err();
    assert!(matches!(refused, RegisterServiceError::TooMany { limit: 3 }));
    assert_eq!(refused.to_string(), "3 services are registered already (services)");
    assert!(town.shop.hub.service("fourth").is_none());
    assert_eq!(town.shop.hub.register(Plain::new("third")).unwrap().id(), "third", "who is known is no newcomer");
    town.others_go_on();
}

/// R16: clients.
#[test]
fn the_client_beyond_a_full_table_is_refused() {
    let town = Town::open(Limits { clients: 3, ..Limits::default() });
    let seat = town.shop.seat(&town.service, 1);
    let refused = town.register(2).unwrap_err();
    assert_eq!(refused, RegisterClientError::TooMany { limit: 3 });
    assert_eq!(refused.to_string(), "3 clients are known already (clients)");
    assert_eq!(town.shop.hub.stats().clients, 3);
    report_all(&claim_one(&seat));
    town.others_go_on();
}

/// R16: seats.
#[test]
fn the_seat_beyond_a_full_table_is_refused() {
    let town = Town::open(Limits { seats: 3, ..Limits::default() });
    let [first, second] = [1, 2].map(|id| town.shop.client(id));
    let seat = first.activate(&town.service).unwrap();
    let refused = second.activate(&town.service).unwrap_err();
    assert_eq!(refused, ActivateError::TooMany { limit: 3 });
    assert_eq!(refused.to_string(), "3 seats are known already (seats)");
    assert_eq!(town.service.stats().active_seats, 2);
    report_all(&claim_one(&seat));
    drop(first.activate(&town.service).unwrap());
    town.others_go_on();
}

/// Its subjects are words, all key.
struct Words;

impl Service for Words {
    type Subject = String;
    type Report = bool;

    fn id(&self) -> &'static str {
        "words"
    }

    fn policy(&self) -> Policy {
        common::exact()
    }

    fn judge(&self, _word: &String, _report: &bool, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }
}

/// R16: `key_bytes`.
#[test]
fn a_key_one_byte_too_long_is_refused() {
    let town = Town::open(Limits { key_bytes: 20, ..Limits::default() });
    let words = town.shop.hub.register(Words).unwrap();
    drop(words.add(&"a".repeat(20)).unwrap());
    let refused = words.add(&"b".repeat(21)).unwrap_err();
    assert_eq!(refused, AddError::Key { place: 0, bytes: 21, limit: 20 });
    assert_eq!(refused.to_string(), "subject 0: the key has 21 bytes, allowed are 1 to 20 (key_bytes)");
    let refused = words.add_all(["c".repeat(20), "d".repeat(21), "e".repeat(20)]).unwrap_err();
    assert_eq!(refused, AddError::Key { place: 1, bytes: 21, limit: 20 });
    let named = town.shop.hub.service("words").unwrap();
    let refused = named.add(json!(["f".repeat(20), "g".repeat(21)]).to_string().as_bytes()).unwrap_err();
    assert!(matches!(refused, JsonError::Add(AddError::Key { place: 1, bytes: 21, limit: 20 })), "{refused}");
    town.shop.settle();
    assert_eq!(words.stats().subjects_known, 2, "a and c");
    let lease = claim_one(&town.shop.seat(&words, 1));
    let submitted = lease.submit(lease.subjects().map(|word| (word, true))).unwrap();
    assert_eq!(submitted.accepted(), 2);
    town.others_go_on();
}

/// A subject with a body: its number and its contents, a byte more for each length.
#[derive(Clone, Serialize, Deserialize)]
struct Parcel {
    number: u64,
    contents: String,
}

impl Subject for Parcel {
    type Key = u64;

    fn key(&self) -> u64 {
        self.number
    }
}

struct Parcels;

impl Service for Parcels {
    type Subject = Parcel;
    type Report = bool;

    fn id(&self) -> &'static str {
        "parcels"
    }

    fn policy(&self) -> Policy {
        common::exact()
    }

    fn judge(&self, _parcel: &Parcel, _report: &bool, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }
}

/// With a body of so many bytes.
fn parcel(number: u64, body: usize) -> Parcel {
    Parcel { number, contents: "x".repeat(body - 2) }
}

/// R16: `body_bytes`.
#[test]
fn a_body_one_byte_too_long_is_refused() {
    let town = Town::open(Limits { body_bytes: 100, ..Limits::default() });
    let parcels = town.shop.hub.register(Parcels).unwrap();
    drop(parcels.add(&parcel(1, 100)).unwrap());
    let refused = parcels.add(&parcel(2, 101)).unwrap_err();
    assert_eq!(refused, AddError::Body { place: 0, bytes: 101, limit: 100 });
    assert_eq!(refused.to_string(), "subject 0: the body has 101 bytes, the limit is 100 (body_bytes)");
    let refused = parcels.add_all([parcel(3, 100), parcel(4, 101)]).unwrap_err();
    assert_eq!(refused, AddError::Body { place: 1, bytes: 101, limit: 100 });
    town.shop.settle();
    assert_eq!(parcels.stats().subjects_known, 2, "1 and 3");
    let lease = claim_one(&town.shop.seat(&parcels, 1));
    assert!(lease.subjects().all(|parcel| parcel.contents.len() == 98));
    town.others_go_on();
}

/// A report of so many bytes; one of them says how long it is (two from 128 on).
fn report_of(bytes: usize) -> String {
    "x".repeat(if bytes > 128 { bytes - 2 } else { bytes - 1 })
}

/// R16: `report_bytes`.
#[test]
fn a_report_one_byte_too_long_stays_with_the_lease() {
    let town = Town::open(Limits { report_bytes: 100, ..Limits::default() });
    let lease = claim_one(&town.shop.seat(&town.service, 1));
    let users: Vec<u64> = lease.subjects().collect();
    let submitted = lease.submit([(users[0], report_of(100)), (users[1], report_of(101))]).unwrap();
    assert_eq!(submitted.outcomes, [Outcome::Accepted, Outcome::TooLarge { bytes: 101, limit: 100 }]);
    assert!(submitted.kept, "to be mended");
    town.others_go_on();
    assert_eq!(lease.submit([(users[1], report_of(99))]).unwrap().accepted(), 1);
}

/// Reports so many bytes on each subject; returns how many reports were accepted.
fn submit_of(lease: &Lease<Plain>, bytes: usize) -> Result<usize, LeaseError> {
    let reports = lease.subjects().map(|user| (user, report_of(bytes)));
    lease.report(reports.collect::<Vec<_>>()).map(|submitted| submitted.accepted())
}

/// R16: `submit_bytes`, of reports and of subjects that are added by name.
#[test]
fn a_submit_one_report_too_large_is_refused_whole() {
    // Beside its report, an item of this test takes 15 to 17 bytes.
    let town = Town::open(Limits { submit_bytes: 2_000, report_bytes: 1_500, ..Limits::default() });
    let seat = town.shop.seat(&town.service, 1);
    let [first, second] = [claim_one(&seat), claim_one(&seat)];
    assert_eq!(submit_of(&first, 480), Ok(4));
    let refused = submit_of(&second, 500).unwrap_err();
    let LeaseError::TooLarge { bytes, limit: 2_000 } = refused else { panic!("{refused}") };
    assert!((2_001..=2_100).contains(&bytes), "{bytes}");
    assert_eq!(refused.to_string(), format!("the reports take {bytes} bytes, the limit is 2000 (submit_bytes)"));
    assert_eq!(submit_of(&second, 480), Ok(4), "nothing of it was stored");
    for (submit_bytes, expected) in [(bytes, Ok(4)), (bytes - 1, Err(LeaseError::TooLarge { bytes, limit: bytes - 1 }))]
    {
        let town = Town::open(Limits { submit_bytes, report_bytes: 1_500, ..Limits::default() });
        let seat = town.shop.seat(&town.service, 1);
        let [_, second] = [claim_one(&seat), claim_one(&seat)];
        assert_eq!(submit_of(&second, 500), expected);
    }

    let named = town.shop.hub.service("plain").unwrap();
    // A number takes a byte for each of its three lengths, one for having no deadline, and eight.
    let numbers = |n: u64| json!((1_000..1_000 + n).collect::<Vec<u64>>()).to_string().into_bytes();
    let refused = named.add(&numbers(167)).unwrap_err();
    let JsonError::Add(refused) = refused else { panic!("{refused}") };
    assert_eq!(refused, AddError::TooLarge { bytes: 2_004, limit: 2_000 });
    assert_eq!(refused.to_string(), "the subjects take 2004 bytes, the limit is 2000 (submit_bytes)");
    let known = town.service.stats().subjects_known;
    drop(named.add(&numbers(166)).unwrap());
    town.others_go_on();
    assert_eq!(town.service.stats().subjects_known, known + 166);
}

/// A service over numbers, all of one lane.
struct Queue;

impl Service for Queue {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        "queue"
    }

    fn policy(&self) -> Policy {
        exact()
    }

    fn judge(&self, _: &u64, _: &u64, _: Reporter) -> Verdict {
        Verdict::Accept
    }

    fn lane(&self, _: &u64) -> Option<LaneKey> {
        Some(LaneKey::from("the only one"))
    }
}

/// `lane_state_bytes`.
#[test]
fn a_lane_state_one_byte_too_long_is_refused() {
    let town = Town::open(Limits { lane_state_bytes: 100, ..Limits::default() });
    let service = town.shop.hub.register(Queue).unwrap();
    service.add_all(1..=2).unwrap();
    town.shop.settle();
    let lease = claim_one(&town.shop.seat(&service, 1));
    // A text takes a byte for its length.
    let refused = lease.report_lane([(1, 0)], &"x".repeat(100)).unwrap_err();
    assert_eq!(refused, LeaseError::StateTooLarge { bytes: 101, limit: 100 });
    assert_eq!(refused.to_string(), "the lane's state has 101 bytes, the limit is 100 (lane_state_bytes)");
    assert_eq!(lease.report_lane([(1, 0)], &"x".repeat(99)).unwrap().accepted(), 1, "nothing of it was stored");
    town.others_go_on();
}

/// R16: `submit_bytes`, of the reports on a lane and its state together: neither alone is over it.
#[test]
fn a_lane_state_counts_with_the_reports() {
    let ask = |submit_bytes: usize| {
        let town = Town::open(Limits { submit_bytes, report_bytes: 100, ..Limits::default() });
        let service = town.shop.hub.register(Queue).unwrap();
        service.add_all(1..=2).unwrap();
        town.shop.settle();
        let lease = claim_one(&town.shop.seat(&service, 1));
        lease.report_lane([(1, 0)], &"x".repeat(150)).map(|submitted| submitted.accepted())
    };
    let Err(LeaseError::TooLarge { bytes, limit: 160 }) = ask(160) else { panic!() };
    assert!((161..=180).contains(&bytes), "{bytes}");
    assert_eq!(ask(bytes - 1), Err(LeaseError::TooLarge { bytes, limit: bytes - 1 }));
    assert_eq!(ask(bytes), Ok(1));
}

/// R16: `json_bytes`.
#[test]
fn a_json_body_one_byte_too_long_is_refused() {
    let town = Town::open(Limits { json_bytes: 60, ..Limits::default() });
    let named = town.shop.hub.service("plain").unwrap();
    let seat = named.activate(&town.shop.client(1), Capability::default()).unwrap();
    let ask = |bytes: usize| format!("{:bytes$}", json!({ "buckets": 1 }).to_string()).into_bytes();
    assert_eq!(seat.claim(&ask(60)).unwrap()["leases"].as_array().unwrap().len(), 1);
    let refused = seat.claim(&ask(61)).unwrap_err();
    assert!(matches!(refused, JsonError::TooLarge { bytes: 61, limit: 60 }));
    assert_eq!(refused.to_string(), "the body has 61 bytes, the limit is 60 (json_bytes)");
    town.others_go_on();
}

/// A town whose buckets hold one subject each, and a client that holds some of them.
fn crowded(mut limits: Limits) -> (Town, Seat<Plain>, Vec<Lease<Plain>>) {
    limits.queue_bytes = 40_000;
    let town = Town::with(limits, |policy| policy.bucket_subjects = 1);
    let seat = town.shop.seat(&town.service, 1);
    let leases = (0..3).flat_map(|_| {
        town.shop.settle();
        claim(&seat, 10)
    });
    let leases = leases.collect();
    town.shop.settle();
    (town, seat, leases)
}

/// Submits reports of a kilobyte until one is refused.
fn submit_until_refused(leases: &mut Vec<Lease<Plain>>) -> HubError {
    loop {
        let lease = leases.pop().expect("the queue is full before they are gone");
        match lease.submit(reports(&lease, &"x".repeat(2_000))) {
            Ok(submitted) => assert_eq!(submitted.accepted(), 1),
            Err(LeaseError::Hub(busy)) => {
                leases.push(lease);
                return busy;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// R16: `queue_bytes`.
#[test]
fn a_full_queue_refuses_submits_and_nothing_else_that_needs_no_room() {
    let all = Limits { admit_newcomers_percent: 100, admit_claims_percent: 100, ..Limits::default() };
    let (town, seat, mut leases) = crowded(all);
    let busy = submit_until_refused(&mut leases);
    let HubError::Busy { queued, limit: 40_000, rule: "queue_bytes", .. } = busy else { panic!("{busy}") };
    assert!((37_000..=40_000).contains(&queued), "{queued}");
    assert_eq!(busy.to_string(), format!("busy: {queued} bytes wait to be written, the limit is 40000 (queue_bytes)"));
    // What needs no room, or little, goes on; so does the refused report once there is room.
    leases[0].renew().unwrap();
    claim_one(&seat).release();
    town.shop.tick();
    report_all(&leases.pop().unwrap());
    town.others_go_on();
}

/// R16: `admit_newcomers_percent` and `admit_claims_percent`.
#[test]
fn a_crowded_queue_refuses_newcomers_first_then_claims() {
    let (town, seat, mut leases) = crowded(Limits::default());
    let mut user = 1_000;
    let busy = loop {
        match town.service.add(&user) {
            Ok(ticket) => drop(ticket),
            Err(AddError::Hub { source, taken: 0 }) => break source,
            Err(error) => panic!("{error}"),
        }
        user += 1;
    };
    let HubError::Busy { queued, limit: 20_000, rule: "admit_newcomers_percent", .. } = busy else { panic!("{busy}") };
    assert!((19_000..=20_000).contains(&queued), "{queued}");
    assert!(busy.to_string().ends_with("the limit is 20000 (admit_newcomers_percent)"), "{busy}");
    assert!(matches!(town.register(2), Err(RegisterClientError::Hub(HubError::Busy { limit: 20_000, .. }))));
    for neighbour in &town.neighbours {
        report_all(&claim_one(neighbour));
    }

    let busy = submit_until_refused(&mut leases);
    assert!(matches!(busy, HubError::Busy { limit: 40_000, .. }), "submits may fill the queue: {busy}");
    let refused = seat.claim(commissary::Ask::one()).unwrap_err();
    let ClaimError::Hub(busy) = &refused else { panic!("{refused}") };
    assert!(matches!(busy, HubError::Busy { limit: 30_000, rule: "admit_claims_percent", .. }), "{busy}");
    assert!(refused.to_string().ends_with("the limit is 30000 (admit_claims_percent)"), "{refused}");
    town.shop.tick();
    drop(town.register(2).unwrap());
    drop(town.service.add(&user).unwrap());
    town.others_go_on();
}

fn throttled<T: std::fmt::Debug>(result: Result<T, RegisterClientError>) -> (&'static str, Duration, bool) {
    let refused = result.unwrap_err();
    let RegisterClientError::Throttled { limit, retry_after, disconnect } = refused else { panic!("{refused}") };
    assert!(refused.to_string().starts_with(&format!("throttled by {limit}; retry after ")), "{refused}");
    (limit, retry_after, disconnect)
}

/// R16: `origin_burst`.
#[test]
fn the_newcomer_beyond_its_origins_burst_is_throttled() {
    let town = Town::open(Limits { origin_burst: 3, origin_refill: Duration::from_secs(30), ..Limits::default() });
    for id in 1..=3 {
        assert!(town.register_from(id, 7).unwrap().new);
    }
    assert_eq!(throttled(town.register_from(4, 7)), ("origin_burst", Duration::from_secs(10), true));
    assert!(town.register_from(4, 8).unwrap().new, "another origin's is untouched");
    assert!(town.shop.hub.client(3).unwrap().activate(&town.service).is_ok());
    town.others_go_on();
}

/// R16: `newcomer_burst`.
#[test]
fn the_newcomer_beyond_everybodys_burst_is_throttled() {
    // The neighbours and three more; the town's making takes a while.
    let limits = Limits { newcomer_burst: 5, origin_refill: Duration::from_secs(5_000), ..Limits::default() };
    let town = Town::open(limits);
    for id in 1..=3 {
        assert!(town.register(id).unwrap().new);
    }
    let (limit, retry_after, disconnect) = throttled(town.register(4));
    assert_eq!((limit, disconnect), ("newcomer_burst", true));
    assert!(retry_after <= Duration::from_secs(1_000), "{retry_after:?}");
    assert!(!town.register(3).unwrap().new, "who is known is no newcomer");
    town.others_go_on();
}

/// R16: `origin_refill`, to the millisecond: one more after its share of the time, the whole burst after all of it.
#[test]
fn a_burst_of_newcomers_is_full_again_after_its_refill() {
    let town = Town::open(Limits { origin_burst: 4, origin_refill: Duration::from_secs(8), ..Limits::default() });
    let mut id = 0;
    let mut next = || {
        id += 1;
        town.register_from(id, 7).is_ok()
    };
    assert_eq!([next(), next(), next(), next(), next()], [true, true, true, true, false]);
    for (wait, admitted) in [(1_999, 0), (1, 1), (2_000, 1), (8_000, 4), (80_000, 4)] {
        town.shop.clock.advance(Duration::from_millis(wait));
        let found = (0..6).filter(|_| next()).count();
        assert_eq!(found, admitted, "after {wait} ms");
    }
    town.others_go_on();
}

/// R16: `repeat_burst` and `repeat_refill`.
#[test]
fn the_repeat_beyond_its_burst_is_throttled() {
    let town = Town::open(Limits { repeat_burst: 3, repeat_refill: Duration::from_secs(6), ..Limits::default() });
    assert!(town.register(1).unwrap().new);
    assert!((0..3).all(|_| town.register(1).is_ok()));
    assert_eq!(throttled(town.register(1)), ("repeat_burst", Duration::from_secs(2), false));
    assert!(!town.register(91).unwrap().new, "another identity's is untouched");
    for (wait, admitted) in [(1_999, 0), (1, 1), (6_000, 3)] {
        town.shop.clock.advance(Duration::from_millis(wait));
        assert_eq!((0..5).filter(|_| town.register(1).is_ok()).count(), admitted, "after {wait} ms");
    }
    town.others_go_on();
}

/// R16: `releases_per_round`: the one beyond it is released half a second later, and its report is taken until then.
#[test]
fn the_dead_lease_beyond_a_round_keeps_its_grace() {
    let terms = |policy: &mut Policy| {
        (policy.lease, policy.grace) = (Duration::from_secs(100), Duration::from_secs(10));
    };
    let town = Town::with(Limits { releases_per_round: 3, ..Limits::default() }, terms);
    let seat = town.shop.seat(&town.service, 1);
    let tokens: Vec<LeaseToken> = claim(&seat, 8).into_iter().map(Lease::into_token).collect();
    town.shop.pass(Duration::from_secs(100));
    town.shop.pass(Duration::from_secs(10));
    assert_eq!(seat.leases().unwrap().len(), 5, "3 were released");
    town.shop.tick();
    let kept = seat.leases().unwrap();
    assert_eq!(kept.len(), 5, "no more in this round");
    assert!(tokens.contains(&kept[0].token));
    let late = kept[0].subjects.iter().map(|user| (*user, "late".to_owned()));
    assert_eq!(seat.submit(&kept[0].token, late).unwrap().accepted(), 4);
    town.others_go_on();
    town.shop.pass(Duration::from_millis(500));
    assert_eq!(seat.leases().unwrap().len(), 1);
    town.shop.pass(Duration::from_millis(500));
    assert_eq!(seat.leases().unwrap().len(), 0);
}

/// R16: `laned_waiting`.
#[test]
fn nothing_more_is_read_while_lanes_are_crowded() {
    let town = Town::open(Limits { laned_waiting: 3, ..Limits::default() });
    let lanes = town.shop.hub.register(Queue).unwrap();
    for number in 1..=8 {
        lanes.add(&number).unwrap().progress().unwrap();
        town.shop.tick();
    }
    let seat = town.shop.seat(&lanes, 1);
    town.shop.settle();
    let lease = claim_one(&seat);
    town.shop.settle();
    assert_eq!(lanes.stats().laned_waiting, 3);
    drop(lease);
    town.others_go_on();
}

/// R16: `settled_slots` (a pool counts as at least 64).
#[test]
fn the_pool_beyond_the_settled_slots_is_forgotten() {
    let town = Town::open(Limits { settled_slots: 2 * 64, ..Limits::default() });
    let service = town.shop.hub.register(Plain::new("third")).unwrap();
    let seat = town.shop.seat(&service, 1);
    // One pool each; the last of them is the one being served.
    let mut finished = Vec::new();
    let mut finish_a_pool = |user: u64| {
        assert_eq!(service.add_all([user]).unwrap().added, 1);
        town.shop.settle();
        let lease = claim_one(&seat);
        report_all(&lease);
        finished.push((lease.into_token(), user));
        town.shop.settle();
        finished.clone()
    };
    let again = |(token, user): &(LeaseToken, u64)| {
        seat.submit(token, [(*user, "ok".to_owned())]).map(|submitted| submitted.outcomes)
    };
    (1..=2).for_each(|user| drop(finish_a_pool(user)));
    let finished = {
        let all = finish_a_pool(3);
        assert!(all.iter().all(|lease| again(lease) == Ok(vec![Outcome::AlreadyDone])), "two and the youngest");
        finish_a_pool(4)
    };
    assert_eq!(again(&finished[0]), Err(LeaseError::Over));
    assert_eq!(LeaseError::Over.to_string(), "the lease is over");
    assert!(finished[1..].iter().all(|lease| again(lease) == Ok(vec![Outcome::AlreadyDone])));
    town.others_go_on();
}

/// R16: `slow_leases`.
#[test]
fn of_the_slow_leases_the_slowest_are_remembered() {
    let town = Town::open(Limits { slow_leases: 3, ..Limits::default() });
    let seat = town.shop.seat(&town.service, 1);
    let took = |seconds: &[u64]| {
        for seconds in seconds {
            let lease = claim_one(&seat);
            town.shop.pass(Duration::from_secs(*seconds));
            report_all(&lease);
            town.shop.settle();
        }
        let slow = town.service.slow_buckets(Duration::ZERO);
        slow.iter().map(|slow| slow.took.as_secs()).collect::<Vec<_>>()
    };
    assert_eq!(took(&[3, 1, 4]), [4, 3, 1]);
    assert_eq!(took(&[2]), [4, 3, 2]);
    assert_eq!(took(&[1]), [4, 3, 2]);
    town.others_go_on();
}

/// R16: `notices`.
#[test]
fn the_notice_beyond_the_limit_takes_the_oldest_ones_place() {
    let town = Town::open(Limits { notices: 3, ..Limits::default() });
    let [holder, thief] = [1, 2].map(|id| town.shop.seat(&town.service, id));
    let token = claim_one(&holder).into_token();
    let numbers = |faults: usize| {
        (0..faults).for_each(|_| assert_eq!(thief.renew(&token), Err(LeaseError::NotOwner)));
        town.shop.hub.notices().iter().map(|notice| notice.number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(3), [1, 2, 3]);
    assert_eq!(numbers(1), [2, 3, 4]);
    assert_eq!(town.service.seat_stats(2).unwrap().faults.not_owner, 4, "all of them are counted");
    town.others_go_on();
}

/// R16: `explained_steps`.
#[test]
fn the_step_beyond_the_limit_leaves_the_oldest_out() {
    let town = Town::open(Limits { explained_steps: 5, ..Limits::default() });
    let service = town.shop.hub.register(Plain::new("third")).unwrap();
    let seat = town.shop.seat(&service, 1);
    town.shop.stock(&service, 1);
    // Taken in; then leased and put back, again and again.
    for (steps, earlier) in [(3, 0), (5, 0), (5, 2)] {
        drop(claim_one(&seat));
        town.shop.settle();
        let explanation = service.explain(&1).unwrap();
        assert_eq!((explanation.steps.len(), explanation.earlier), (steps, earlier));
    }
    town.others_go_on();
}

/// R16: `BUCKET_SUBJECTS`.
#[test]
fn a_bucket_one_subject_too_large_is_refused() {
    let town = Town::open(Limits::default());
    let bucket = |id: &str, subjects| Plain::with(id, |policy| policy.bucket_subjects = subjects);
    let large = town.shop.hub.register(bucket("large", Limits::BUCKET_SUBJECTS)).unwrap();
    let refused = town.shop.hub.register(bucket("larger", Limits::BUCKET_SUBJECTS + 1)).unwrap_err();
    assert_eq!(refused.to_string(), "policy of service \"larger\": bucket_subjects must be 1 to 252");
    let policy = Policy { bucket_subjects: Limits::BUCKET_SUBJECTS + 1, ..large.policy() };
    assert_eq!(large.set_policy(policy).unwrap_err().to_string(), "policy: bucket_subjects must be 1 to 252");
    town.shop.stock(&large, 252);
    let lease = claim_one(&town.shop.seat(&large, 1));
    assert_eq!(lease.len(), 252);
    report_all(&lease);
    town.others_go_on();
}

/// R16: `SUBMIT_REPORTS`.
#[test]
fn one_report_too_many_in_a_submit_is_refused() {
    let town = Town::open(Limits::default());
    let lease = claim_one(&town.shop.seat(&town.service, 1));
    let user = lease.subjects().next().unwrap();
    let refused = lease.report(vec![(user, "ok".to_owned()); Limits::SUBMIT_REPORTS + 1]).unwrap_err();
    assert_eq!(refused, LeaseError::TooMany { limit: 4_032 });
    assert_eq!(refused.to_string(), "more than 4032 reports in one call (SUBMIT_REPORTS)");
    town.others_go_on();
    assert!(town.service.result(&user).unwrap().is_none(), "nothing of it was stored");
    let submitted = lease.report(vec![(user, "ok".to_owned()); Limits::SUBMIT_REPORTS]).unwrap();
    assert_eq!((submitted.outcomes.len(), submitted.accepted()), (4_032, 1), "the others repeat the first");
}

/// R16: `URGENT_KEYS`.
#[test]
fn one_urgent_key_too_many_is_refused() {
    let town = Town::open(Limits::default());
    let keys: Vec<u64> = (1_000..=1_000 + Limits::URGENT_KEYS as u64).collect();
    let refused = town.service.prioritize(&keys).unwrap_err();
    assert!(matches!(refused, UrgentError::TooMany { keys: 65_537, limit: 65_536 }));
    assert_eq!(refused.to_string(), "65537 subjects in one call, the limit is 65536 (Limits::URGENT_KEYS)");
    town.others_go_on();
    assert_eq!(town.service.prioritize(&keys[1..]).unwrap().0.len(), 65_536);
}

/// R16: `LEASE_MS`: however much a policy allows, renewals end there, and say so.
#[test]
fn no_lease_outlives_the_state_words_time() {
    let day = Duration::from_secs(24 * 3_600);
    let town = Town::with(Limits::default(), |policy| {
        (policy.lease, policy.lease_total, policy.idle) = (30 * day, 1_000_000, 1_000 * day);
    });
    let most = Duration::from_millis(Limits::LEASE_MS);
    let lease = claim_one(&town.shop.seat(&town.service, 1));
    let (mut held, mut left) = (Duration::ZERO, 30 * day);
    let refused = loop {
        let wait = left.saturating_sub(day);
        town.shop.pass(wait);
        held += wait;
        match lease.renew() {
            Ok(time) => left = time,
            Err(refused) => break refused,
        }
        assert!(held + left <= most, "{held:?} and {left:?}");
    };
    let LeaseError::Capped { limit, time_left } = refused else { panic!("{refused}") };
    // From its pool's forming, which was a moment before the claim.
    let whole = held + time_left;
    assert!(whole <= most && most.saturating_sub(whole) < Duration::from_secs(1), "{whole:?} of {most:?}");
    assert!(limit <= most, "the limit that holds is named: {refused}");
    report_all(&lease);
    town.others_go_on();
}

/// R16: `NAME_CHARS`.
#[test]
fn a_screen_name_one_character_too_long_is_refused() {
    let town = Town::open(Limits::default());
    let register = |id, chars| town.shop.hub.register_client(&Registration::new(id, "x".repeat(chars)));
    assert!(register(1, Limits::NAME_CHARS).unwrap().new);
    let refused = register(2, Limits::NAME_CHARS + 1).unwrap_err();
    assert_eq!(refused, RegisterClientError::Detail(DetailError::LongName { chars: 16, limit: 15 }));
    assert_eq!(refused.to_string(), "invalid detail: screen name has 16 characters, the limit is 15");
    assert!(town.shop.hub.client(2).is_none());
    town.others_go_on();
}

/// R16: `SERVICE_ID_CHARS`.
#[test]
fn a_service_id_one_character_too_long_is_refused() {
    let town = Town::open(Limits::default());
    let longest = "x".repeat(Limits::SERVICE_ID_CHARS);
    town.shop.hub.register(Plain::new(&longest)).unwrap();
    let refused = town.shop.hub.register(Plain::new(&format!("{longest}y"))).unwrap_err();
    assert_eq!(refused.to_string(), format!("service id \"{longest}y\" is not 1 to 64 of a-z A-Z 0-9 - _ ."));
    town.others_go_on();
}

/// R16: a limit that is set beyond what the hub can keep is refused at opening, by name; the most is taken.
#[test]
fn limits_out_of_their_range_are_refused_at_opening() {
    type Set = fn(&mut Limits);
    let cases: [(&str, Set, Set); 10] = [
        ("seats", |of| of.seats = 67_108_863, |of| of.seats = 67_108_864),
        ("key_bytes", |of| of.key_bytes = 4_096, |of| of.key_bytes = 4_097),
        ("body_bytes", |of| of.body_bytes = 1 << 20, |of| of.body_bytes = (1 << 20) + 1),
        ("submit_bytes", |of| of.submit_bytes = 15 << 20, |of| of.submit_bytes = (15 << 20) + 1),
        ("report_bytes", |of| of.report_bytes = of.submit_bytes, |of| of.report_bytes = of.submit_bytes + 1),
        ("notices", |of| of.notices = 1 << 20, |of| of.notices = (1 << 20) + 1),
        ("queue_bytes", |of| of.queue_bytes = 4_096, |of| of.queue_bytes = 4_095),
        ("admit_newcomers_percent", |of| of.admit_newcomers_percent = 100, |of| of.admit_newcomers_percent = 101),
        ("admit_claims_percent", |of| of.admit_claims_percent = 1, |of| of.admit_claims_percent = 0),
        ("releases_per_round", |of| of.releases_per_round = 1, |of| of.releases_per_round = 0),
    ];
    let open = |set: Set| {
        let mut limits = Limits::default();
        set(&mut limits);
        Hub::builder().manual().limits(limits).open_in_memory(&MemoryDisk::new())
    };
    for (field, most, beyond) in cases {
        assert!(open(most).is_ok(), "{field}");
        let refused = open(beyond).unwrap_err();
        let OpenError::Option { option, range } = &refused else { panic!("{field}: {refused}") };
        assert_eq!(*option, format!("limits.{field}"));
        assert_eq!(refused.to_string(), format!("option limits.{field} must be {range}"));
    }
}

/// R16: the hub tells the limits that are in force, whatever they were set to.
#[test]
fn the_limits_in_force_can_be_read() {
    let shop = Shop::open_with(Limits { services: 7, notices: 9, ..Limits::default() });
    let mut told = serde_json::to_value(shop.hub.limits()).unwrap();
    assert_eq!((told["services"].take(), told["notices"].take()), (json!(7), json!(9)));
    let mut rest = serde_json::to_value(Limits::default()).unwrap();
    (rest["services"], rest["notices"]) = (json!(null), json!(null));
    assert_eq!(told, rest);
}
