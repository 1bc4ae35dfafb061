//! A liar in the crowd, from its first lie to the last trace of it: found out by samples that are checked again, barred, its
//! work withdrawn and done again.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use commissary::{Ask, Claim, Lease, Outcome, Policy, Seat, ServiceHandle, SubjectState};
use common::{Shop, Web, assert_adds_up};

const USERS: u64 = 400;
/// Honest clients are 1 to 6.
const HONEST: u64 = 6;
const LIAR: u64 = 7;
/// Results checked again at a time.
const SAMPLE: usize = 20;

/// Numbers that only look random, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Whom a user follows. Everybody is found from user 0; those from `USERS` on do not exist and follow nobody.
fn truth(user: u64) -> Vec<u64> {
    let real = user < USERS;
    let list: BTreeSet<u64> = [2 * user + 1, 2 * user + 2, (user * 7 + 3) % USERS].into();
    list.into_iter().filter(|other| real && *other < USERS && *other != user).collect()
}

struct Crowd {
    shop: Shop,
    service: ServiceHandle<Web>,
    seats: Vec<Seat<Web>>,
    dice: Dice,
    /// Lies told, by user.
    lies: BTreeSet<u64>,
}

impl Crowd {
    fn open(seed: u64, clients: u64) -> Self {
        let shop = Shop::open();
        let policy = Policy { max_depth: u16::MAX, ..common::exact() };
        let service = shop.hub.register(Web(policy)).unwrap();
        let seats = shop.seats(&service, clients);
        service.add_all([0]).unwrap();
        Self { shop, service, seats, dice: Dice(seed), lies: BTreeSet::new() }
    }

    /// One of four lists of the liar leaves out what is there, and names somebody who is not.
    fn list(&mut self, user: u64, client: u64) -> Vec<u64> {
        if client == LIAR && self.dice.below(4) == 0 {
            self.lies.insert(user);
            return vec![USERS + self.dice.below(1_000_000)];
        }
        truth(user)
    }

    fn report(&mut self, lease: &Lease<Web>, client: u64) {
        let lists: Vec<_> = lease.subjects().map(|user| (user, self.list(user, client))).collect();
        let submitted = lease.submit(lists).unwrap();
        assert!(submitted.outcomes.iter().all(|outcome| *outcome == Outcome::Accepted));
    }

    /// Anyone who is not barred works on what there is, in random order, until there is nothing.
    fn work(&mut self) {
        let mut idle = 0;
        while idle < 20 {
            self.shop.settle();
            let place = usize::try_from(self.dice.below(self.seats.len() as u64)).unwrap();
            let seat = self.seats[place].clone();
            idle += 1;
            if let Ok(Claim::Leased(grant)) = seat.claim(Ask::one()) {
                idle = 0;
                grant.into_iter().for_each(|lease| self.report(&lease, seat.client_id().value()));
            }
        }
    }

    /// Has a sample of the results checked again.
    fn sample(&mut self) {
        let from = self.dice.below(USERS);
        let (page, _) = self.service.results(Some(&from), SAMPLE).unwrap();
        let users: Vec<u64> = page.iter().map(|finding| finding.key).collect();
        drop(self.service.rerun(&users).unwrap());
        self.work();
    }

    /// Whose results others did not confirm: at least ten, and three times as often as anyone else's.
    fn suspect(&self) -> Option<u64> {
        let rate = |seat: &Seat<Web>| {
            let id = seat.client_id().value();
            let stats = self.service.seat_stats(id).unwrap();
            // In ten thousandths, so that they can be sorted.
            (stats.disagreements * 10_000 / stats.work.subjects_reported.max(1), stats.disagreements, id)
        };
        let mut rates: Vec<_> = self.seats.iter().map(rate).collect();
        rates.sort_unstable();
        let [.., (second, _, _), (worst, disagreements, id)] = rates[..] else { return None };
        (disagreements >= 10 && worst >= 3 * second).then_some(id)
    }

    fn known(&self) -> BTreeMap<u64, Vec<u64>> {
        let (findings, _) = self.service.results(None, 100_000).unwrap();
        findings.into_iter().map(|finding| (finding.key, finding.report)).collect()
    }
}

/// R10, R57: a client that lies now and then is found out by what others do not confirm, and nobody else is; after its work
/// was withdrawn and done again there is exactly what is there, and what was done again is told.
#[test]
fn liar_is_found_out_and_leaves_no_trace() {
    let expected: BTreeMap<u64, Vec<u64>> = (0..USERS).map(|user| (user, truth(user))).collect();
    for seed in 1..=3 {
        let mut crowd = Crowd::open(seed, LIAR);
        crowd.work();
        assert_ne!(crowd.known(), expected, "the lies are believed");
        let suspect = (0..200).find_map(|_| {
            crowd.sample();
            crowd.suspect()
        });
        assert_eq!(suspect, Some(LIAR), "seed {seed}");

        drop(crowd.service.suspend(LIAR).unwrap());
        let before = crowd.service.seat_stats(LIAR).unwrap();
        let done = crowd.service.retract_all(LIAR).unwrap();
        assert!(done.results > 0 && done.results <= before.work.subjects_reported);
        assert!(done.reopened > 0 && done.tainted > 0 && done.fell_back > 0, "{done:?}");
        let pending = crowd.service.stats().subjects_pending();
        assert!(pending >= done.reopened, "what was the liar's alone is to be done");

        let honest = crowd.service.stats().work.subjects_reported;
        crowd.work();
        assert_eq!(crowd.known(), expected);
        let extra = crowd.service.stats().work.subjects_reported - honest;
        assert!(extra >= pending && extra <= pending + USERS, "{extra} done again, {pending} at first");
        let stats = crowd.service.stats();
        assert_eq!((stats.subjects_known, stats.subjects_done, stats.subjects_pending()), (USERS, USERS, 0));
        for ghost in USERS..USERS + 1_000 {
            assert_eq!(crowd.service.subject_state(&ghost).unwrap(), SubjectState::Unknown);
        }
        assert!(crowd.lies.iter().any(|user| *user < USERS));
        assert_adds_up(&crowd.shop.hub);
    }
}

/// Without a liar nobody is ever accused, however much is checked again.
#[test]
fn honest_crowd_is_not_accused() {
    let mut crowd = Crowd::open(5, HONEST);
    crowd.work();
    for _ in 0..30 {
        crowd.sample();
        assert_eq!(crowd.suspect(), None);
    }
    assert!((1..=HONEST).all(|id| crowd.service.seat_stats(id).unwrap().disagreements == 0));
    assert!(crowd.service.stats().reruns >= 300);
}
