//! The three shipped plugins: what they accept, what they discover, and that they leave each other alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use commissary::services::{DmCheck, DmState, FollowerCheck, FollowingCheck, UserList};
use commissary::{
    Ask, Client, Hub, Lease, ManualClock, MemoryDisk, Outcome, Policy, Registration, Reporter, Seat, Service,
    ServiceHandle, ServiceState, SubjectState, Verdict,
};

struct Shop {
    hub: Hub,
    clock: ManualClock,
}

impl Shop {
    fn open() -> Self {
        let clock = ManualClock::default();
        let builder = Hub::builder().manual().clock(clock.clone()).seed(3);
        Self { hub: builder.open_in_memory(&MemoryDisk::new()).expect("open"), clock }
    }

    fn client(&self, id: u64) -> Client {
        self.hub.register_client(&Registration::new(id, format!("c{id}"))).expect("registered").client
    }

    /// Lets short buckets be formed.
    fn settle(&self) {
        self.hub.tick();
        self.clock.advance(Duration::from_millis(100));
        self.hub.tick();
    }

    /// Works until nothing is left; returns the subjects in the order of the work.
    fn work_off<S: Service<Subject = u64>>(&self, seat: &Seat<S>, report: impl Fn(u64) -> S::Report) -> Vec<u64> {
        let mut worked = Vec::new();
        loop {
            self.settle();
            let Some(grant) = seat.claim(Ask::buckets(10)).expect("served").leased() else { return worked };
            for lease in grant {
                let subjects: Vec<u64> = lease.subjects().collect();
                let submitted = lease.submit(subjects.iter().map(|user| (*user, report(*user)))).expect("taken");
                assert_eq!(submitted.accepted(), subjects.len());
                worked.extend(subjects);
            }
        }
    }
}

fn one_lease<S: Service>(seat: &Seat<S>) -> Lease<S> {
    seat.claim(Ask::one()).expect("served").leased().expect("a bucket").pop().expect("a lease")
}

fn list(users: impl IntoIterator<Item = u64>) -> UserList {
    UserList { users: users.into_iter().collect(), complete: true }
}

fn policy(depth: u16, budget: u64) -> Policy {
    Policy { max_depth: depth, max_subjects: budget, ..Policy::default() }
}

/// R11: open, closed or not found, and who says so.
#[test]
fn a_direct_message_check_keeps_its_three_answers_with_their_client() {
    let shop = Shop::open();
    let service = shop.hub.register(DmCheck::default()).expect("register");
    service.add_all(1..=3).expect("taken in");
    shop.settle();
    let seat = shop.client(500).activate(&service).expect("active");
    let lease = one_lease(&seat);
    let reports = [(1, DmState::Open), (2, DmState::Closed), (3, DmState::Unknown)];
    assert_eq!(lease.submit(reports).expect("taken").accepted(), 3);
    shop.hub.tick();
    for (user, state) in reports {
        let found = service.result(&user).expect("readable").expect("a result");
        assert_eq!((found.report, found.client.value(), found.depth), (state, 500, 0));
    }
}

/// R10: what one account sees is not what another sees, so every answer names its client.
#[test]
fn two_clients_checks_of_one_service_are_told_apart() {
    let shop = Shop::open();
    let small = Policy { bucket_subjects: 1, ..Policy::default() };
    let service = shop.hub.register(DmCheck::default()).expect("register");
    service.set_policy(small).expect("changed");
    service.add_all(1..=2).expect("taken in");
    shop.settle();
    let mut reporters = BTreeMap::new();
    for id in [500, 600] {
        let lease = one_lease(&shop.client(id).activate(&service).expect("active"));
        let user = lease.subjects().next().expect("a user");
        drop(lease.submit([(user, DmState::Open)]).expect("taken"));
        reporters.insert(user, id);
    }
    shop.hub.tick();
    for (user, id) in reporters {
        assert_eq!(service.result(&user).expect("readable").expect("a result").client.value(), id);
    }
}

/// R11: a client's own account cannot be checked by itself; another client can.
#[test]
fn a_client_cannot_check_its_own_account() {
    let shop = Shop::open();
    let service = shop.hub.register(DmCheck::default()).expect("register");
    service.add_all([500, 501]).expect("taken in");
    shop.settle();
    let seat = shop.client(500).activate(&service).expect("active");
    let lease = one_lease(&seat);
    let submitted = lease.submit([(500, DmState::Open), (501, DmState::Open)]).expect("answered");
    let reason = "a client cannot check its own account".to_owned();
    assert_eq!(submitted.outcomes, [Outcome::Rejected { reason }, Outcome::Accepted]);
    assert!(submitted.kept, "its own account stays owed");
    assert_eq!(service.seat_stats(500).expect("a seat").faults.rejected, 1);
    lease.release();
    shop.settle();
    let other = one_lease(&shop.client(600).activate(&service).expect("active"));
    assert_eq!(other.subjects().collect::<Vec<_>>(), [500]);
    assert_eq!(other.submit([(500, DmState::Closed)]).expect("taken").accepted(), 1);
}

/// Buckets of 180: what one client checks in a quarter of an hour.
#[test]
fn a_direct_message_report_concerns_its_own_bucket_alone() {
    let shop = Shop::open();
    let service = shop.hub.register(DmCheck::default()).expect("register");
    service.add_all(1..=360).expect("taken in");
    shop.hub.tick();
    let seat = shop.client(1_000).activate(&service).expect("active");
    let mut grant = seat.claim(Ask::buckets(2)).expect("served").leased().expect("buckets");
    let (one, two) = (grant.pop().expect("a lease"), grant.pop().expect("a lease"));
    assert_eq!((one.len(), two.len()), (180, 180));
    let strangers = one.subjects().map(|user| (user, DmState::Open));
    let refused = two.report(strangers).expect("answered");
    assert!(refused.outcomes.iter().all(|outcome| *outcome == Outcome::NotInBucket));
    let some = two.submit(two.subjects().take(100).map(|user| (user, DmState::Closed))).expect("taken");
    assert_eq!((some.accepted(), some.put_back), (100, 80));
    shop.hub.tick();
    assert_eq!(service.stats().subjects_done, 100);
    let owed: Vec<usize> = seat.leases().expect("held").iter().map(|view| view.subjects.len()).collect();
    assert_eq!(owed, [180]);
}

/// What both list checks accept and reject.
fn judges_lists<S: Service<Subject = u64, Report = UserList>>(plugin: S) {
    let shop = Shop::open();
    let service = shop.hub.register(plugin).expect("register");
    service.add_all(1..=3).expect("taken in");
    shop.settle();
    let seat = shop.client(500).activate(&service).expect("active");
    let lease = one_lease(&seat);
    let bad = [
        (list([2, 1, 3]), "user 1 is in its own list"),
        (list([7, 8, 7]), "user 7 is in the list twice"),
        (list(1_000..7_501), "6501 users in the list, the limit is 6500"),
    ];
    for (report, reason) in bad {
        let submitted = lease.report([(1, report)]).expect("answered");
        assert_eq!(submitted.outcomes, [Outcome::Rejected { reason: reason.to_owned() }]);
    }
    let whole = list([u64::MAX, 2]);
    let pages = UserList { users: (1_000..7_500).collect(), complete: false };
    let none = list([]);
    let reports = [(1, whole.clone()), (2, pages.clone()), (3, none.clone())];
    assert_eq!(lease.submit(reports).expect("taken").accepted(), 3);
    shop.hub.tick();
    for (user, expected) in [(1, whole), (2, pages), (3, none)] {
        assert_eq!(service.result(&user).expect("readable").expect("a result").report, expected);
    }
    assert_eq!(service.seat_stats(500).expect("a seat").faults.rejected, 3);
    // The longest list allowed still fits in a report and in a submit.
    assert_eq!(service.stats().subjects_known, 3 + 1 + 6_500);
}

/// R11: complete and partial lists are taken; wrong ones are rejected with the reason.
#[test]
fn a_follower_check_takes_lists_whole_or_partial_and_rejects_wrong_ones() {
    judges_lists(FollowerCheck::default());
}

/// R11: complete and partial lists are taken; wrong ones are rejected with the reason.
#[test]
fn a_following_check_takes_lists_whole_or_partial_and_rejects_wrong_ones() {
    judges_lists(FollowingCheck::default());
}

/// R35: discovery stops at its depth, and what was cut is counted.
#[test]
fn discovery_ends_at_the_depth_of_the_policy() {
    for depth in 0..4_u16 {
        let shop = Shop::open();
        let service = shop.hub.register(FollowerCheck::with(policy(depth, u64::MAX))).expect("register");
        service.add_all([1]).expect("taken in");
        let seat = shop.client(500).activate(&service).expect("active");
        // Each user leads to the next two of a tree.
        let worked = shop.work_off(&seat, |user| list([user * 2, user * 2 + 1]));
        let expected: BTreeSet<u64> = (1..1 << (depth + 1)).collect();
        assert_eq!(worked.iter().copied().collect::<BTreeSet<_>>(), expected);
        let stats = service.stats();
        assert_eq!(stats.subjects_done, stats.subjects_known);
        assert_eq!(stats.cut_by_depth, 1 << (depth + 1), "the leaves' children");
        for user in expected {
            let found = service.result(&user).expect("readable").expect("a result");
            assert_eq!(u32::from(found.depth), user.ilog2(), "hops from the user added by hand");
        }
    }
}

/// R35: discovery stops at its budget, and what was cut is counted.
#[test]
fn discovery_ends_at_the_budget_of_the_policy() {
    let shop = Shop::open();
    let service = shop.hub.register(FollowingCheck::with(policy(u16::MAX, 10))).expect("register");
    service.add_all([1]).expect("taken in");
    let seat = shop.client(500).activate(&service).expect("active");
    let worked = shop.work_off(&seat, |user| list([user * 2, user * 2 + 1]));
    assert_eq!(worked.len(), 10);
    let stats = service.stats();
    assert_eq!((stats.subjects_known, stats.subjects_done), (10, 10));
    assert_eq!(stats.cut_by_budget, 2 * 10 - 9, "twenty were named, nine were taken in");
    assert_eq!(service.subject_state(&40).expect("readable"), SubjectState::Unknown);
    // A larger budget does not bring back what was cut, but lets new ones in.
    service.set_policy(policy(u16::MAX, 11)).expect("changed");
    let intake = service.add_all([40, 41]).expect("answered");
    assert_eq!((intake.added, intake.cut), (1, 1));
}

/// R35: on graphs with cycles every user is worked on once, whatever leads back to it.
#[test]
fn cycles_end_by_themselves() {
    type Edges = fn(u64) -> Vec<u64>;
    let graphs: [(&str, Edges); 4] = [
        ("ring", |user| vec![(user + 1) % 12]),
        ("complete", |user| (0..12).filter(|other| *other != user).collect()),
        ("star", |user| if user == 0 { (1..12).collect() } else { vec![0] }),
        ("two rings", |user| vec![(user + 5) % 12, (user + 7) % 12]),
    ];
    for (name, edges) in graphs {
        let shop = Shop::open();
        let service = shop.hub.register(FollowerCheck::with(policy(u16::MAX, u64::MAX))).expect("register");
        service.add_all([0]).expect("taken in");
        let seat = shop.client(500).activate(&service).expect("active");
        let worked = shop.work_off(&seat, |user| list(edges(user)));
        assert_eq!(worked.len(), 12, "{name}: each once");
        assert_eq!(worked.iter().copied().collect::<BTreeSet<_>>().len(), 12, "{name}: each once");
        let stats = service.stats();
        let named: u64 = (0..12).map(|user| edges(user).len() as u64).sum();
        assert_eq!(stats.duplicates, named - 11, "{name}: all others led to known ones");
        assert_eq!((stats.cut_by_depth, stats.cut_by_budget), (0, 0), "{name}");
    }
}

/// R35: an endless generator of new users stops by depth, or by budget, and says so.
#[test]
fn an_endless_generator_is_stopped() {
    for (depth, budget, known) in [(20, u64::MAX, 21), (u16::MAX, 30, 30)] {
        let shop = Shop::open();
        let service = shop.hub.register(FollowerCheck::with(policy(depth, budget))).expect("register");
        service.add_all([1]).expect("taken in");
        let seat = shop.client(500).activate(&service).expect("active");
        let worked = shop.work_off(&seat, |user| list([user + 1]));
        assert_eq!(worked, (1..=known).collect::<Vec<_>>(), "in the order of discovery");
        let stats = service.stats();
        assert_eq!(stats.cut_by_depth + stats.cut_by_budget, 1, "the last one's discovery");
        assert_eq!(stats.cut_by_budget, u64::from(budget == known));
    }
}

/// R21: two services over the same users never touch each other's state.
#[test]
fn follower_and_following_checks_of_the_same_users_are_independent() {
    let shop = Shop::open();
    let followers = shop.hub.register(FollowerCheck::default()).expect("register");
    let followings = shop.hub.register(FollowingCheck::default()).expect("register");
    followers.add_all(1..=8).expect("taken in");
    followings.add_all(5..=12).expect("taken in");
    shop.settle();
    let client = shop.client(500);
    let (one, other) = (client.activate(&followers).expect("active"), client.activate(&followings).expect("active"));
    let before = followings.stats();
    // Work, discovery, a lease kept, a pause and a suspension in one service ...
    let lease = one_lease(&one);
    let held: BTreeSet<u64> = lease.subjects().collect();
    drop(lease.report(held.iter().take(2).map(|user| (*user, list([100 + user, 5])))).expect("answered"));
    shop.hub.tick();
    drop(followers.pause().expect("paused"));
    drop(followers.suspend(500).expect("suspended"));
    drop(lease);
    shop.hub.tick();
    // ... and the other is as it was.
    assert_eq!(followings.stats(), before);
    assert_eq!(followings.state(), ServiceState::Active);
    assert_eq!(followings.subject_state(&101).expect("readable"), SubjectState::Unknown);
    assert_eq!(followings.result(&5).expect("readable").map(|found| found.report), None);
    let worked = shop.work_off(&other, |_| list([]));
    assert_eq!(worked.into_iter().collect::<BTreeSet<_>>(), (5..=12).collect());
    // The same user has one result a service.
    assert_eq!(followings.result(&5).expect("readable").expect("a result").report, list([]));
    assert_eq!(followers.stats().work.buckets_assigned, 1);
}

/// R23: every datum has one owner: counts recomputed from the services' contents are the counts that are kept.
#[test]
fn counts_recomputed_from_scratch_are_the_counts_kept() {
    let shop = Shop::open();
    let followers = shop.hub.register(FollowerCheck::default()).expect("register");
    let followings = shop.hub.register(FollowingCheck::default()).expect("register");
    for service in 0..2 {
        let add = 1..=20;
        if service == 0 { followers.add_all(add) } else { followings.add_all(add) }.expect("taken in");
    }
    shop.settle();
    let client = shop.client(500);
    audit(&shop, &client, &followers);
    audit(&shop, &client, &followings);
    let hub = shop.hub.stats();
    assert!(hub.work.adds_up());
    let held: u64 = hub.services.iter().map(|service| service.work.subjects_held).sum();
    assert_eq!(hub.work.subjects_held, held);
}

fn audit<S: Service<Subject = u64, Report = UserList>>(shop: &Shop, client: &Client, service: &ServiceHandle<S>) {
    let seat = client.activate(service).expect("active");
    let mut grant = seat.claim(Ask::buckets(3)).expect("served").leased().expect("buckets");
    let (finished, partial) = (grant.pop().expect("a lease"), grant.pop().expect("a lease"));
    let report = |user: u64| (user, list([user + 1_000]));
    drop(finished.submit(finished.subjects().map(report)).expect("taken"));
    drop(partial.report(partial.subjects().take(1).map(report)).expect("taken"));
    let _held = (partial.into_token(), grant.pop().expect("a lease").into_token());
    shop.hub.tick();
    let (found, end) = service.results(None, 1_000).expect("readable");
    assert!(end.is_none());
    let held: BTreeSet<u64> = seat.leases().expect("held").into_iter().flat_map(|view| view.subjects).collect();
    let done: BTreeSet<u64> = found.iter().map(|finding| finding.key).collect();
    let known: BTreeSet<u64> =
        (0..3_000).filter(|user| service.subject_state(user).expect("readable") != SubjectState::Unknown).collect();
    let stats = service.stats();
    assert_eq!(stats.subjects_known, known.len() as u64);
    assert_eq!(stats.subjects_done, done.len() as u64);
    assert_eq!(stats.work.subjects_held, held.len() as u64);
    assert_eq!((known.len(), done.len(), held.len()), (20 + 5, 5, 7));
    assert!(done.is_disjoint(&held) && done.is_subset(&known) && held.is_subset(&known));
}

/// Registers another service when it is dropped.
struct Last(Hub, bool);

impl Drop for Last {
    fn drop(&mut self) {
        if self.1 {
            let _ = self.0.register(DmCheck::default()).expect("registered");
        }
    }
}

impl Service for Last {
    type Subject = u64;
    type Report = ();

    fn id(&self) -> &'static str {
        "last"
    }

    fn policy(&self) -> Policy {
        Policy::default()
    }

    fn judge(&self, _subject: &u64, _report: &(), _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }
}

/// R137: a plugin that is not needed, for its service is there already, is dropped with no lock held: it may call the hub.
#[test]
fn a_plugin_that_is_not_needed_may_call_the_hub_when_it_is_dropped() {
    let shop = Shop::open();
    let first = shop.hub.register(Last(shop.hub.clone(), false)).expect("registered");
    // Would wait for itself.
    let again = shop.hub.register(Last(shop.hub.clone(), true)).expect("registered");
    assert_eq!((first.id(), again.id()), (again.id(), "last"));
    assert_eq!(shop.hub.service_state("dm-check"), Some(ServiceState::Active));
}
