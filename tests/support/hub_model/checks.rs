//! What holds after every operation, and that nothing is lost in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use commissary::{LeaseError, LeaseToken, Seat, SeatState, ServiceState, SubjectState, Work};

use super::reference::{Counts, Phase};
use super::world::World;
use super::{CLIENTS, Check, FOREIGN, GRACE, LEASE, LINGER, Op, PER_CLAIM, Pick, SERVICES, Shown, reports};

impl World {
    /// G7: what reads see, subject by subject; of every subject, or of those that became other than they were when they were looked at.
    pub(super) fn check_results(&mut self, every: bool) {
        let every = every || self.is_thorough;
        if every {
            let all = self.hub.stats();
            for service in &self.services {
                assert!(
                    all.services.contains(&service.stats()),
                    "the hub tells of {} what it tells itself",
                    service.id()
                );
            }
        }
        for ((service, model), looked) in self.services.iter().zip(&self.model.services).zip(&mut self.looked) {
            let lost: Vec<u64> = looked.keys().filter(|key| !model.known.contains_key(key)).copied().collect();
            for key in model.known.keys().copied().chain(lost).chain([FOREIGN]) {
                let expected = model.done.get(&key).filter(|_| model.visible.contains(&key)).copied();
                let state = match (model.known.contains_key(&key), expected) {
                    (false, _) => SubjectState::Unknown,
                    (true, None) => SubjectState::Pending,
                    (true, Some(_)) => SubjectState::Done,
                };
                if looked.insert(key, (state, expected)) == Some((state, expected)) && !every {
                    continue;
                }
                let found = service.result(&key).expect("readable").map(|finding| {
                    assert_eq!((finding.version, finding.depth), (1, model.known[&key]));
                    (finding.report, finding.client.value())
                });
                assert_eq!(found, expected, "G7: the record of {key}");
                assert_eq!(service.subject_state(&key).expect("readable"), state);
            }
        }
    }

    /// What holds after every step.
    pub(super) fn check(&self) {
        let mut total = Vec::new();
        let all = self.hub.stats();
        for (place, (service, model)) in self.services.iter().zip(&self.model.services).enumerate() {
            let (leased, pending) = (model.leased(), model.pending());
            let owed: usize = model.leases.values().map(|lease| lease.owed().len()).sum();
            assert_eq!(owed, leased.len(), "I1: no subject in two live leases");
            assert_eq!(model.known.len(), pending.len() + leased.len() + model.done.len(), "G8");
            let stats = all.services.iter().find(|stats| stats.id == service.id()).expect("it is registered");
            assert_eq!(stats.state, model.state);
            assert_eq!(stats.subjects_known, model.known.len() as u64, "G8: known");
            assert_eq!(stats.subjects_done, model.visible.len() as u64, "G8: done");
            assert_eq!((stats.duplicates, stats.cut_by_depth), (model.duplicates, model.cut_by_depth));
            assert_eq!(stats.work.subjects_held, leased.len() as u64, "G8: leased");
            assert!(stats.work.adds_up(), "I2: {:?}", stats.work);
            let active = model.seats.values().filter(|seat| seat.state == SeatState::Active).count();
            assert_eq!(stats.active_seats as usize, active, "active seats");
            let mut sum = Vec::new();
            for client in 1..=CLIENTS {
                sum.push(self.check_seat(place, client));
            }
            assert_eq!(figures(&stats.work), add(&sum), "I2: a service is the sum of its seats");
            total.push(figures(&stats.work));
        }
        let work = all.work;
        assert!(work.adds_up(), "I2: {work:?}");
        assert_eq!(figures(&work), add(&total), "I2: the hub is the sum of its services");
        for (id, client) in &self.clients {
            assert_eq!(client.is_registered(), self.model.is_registered(*id));
        }
    }

    fn check_seat(&self, service: usize, client: u64) -> Figures {
        let model = &self.model.services[service];
        let stats = self.services[service].seat_stats(client);
        let Some(expected) = model.seats.get(&client) else {
            let untouched =
                |stats: &commissary::SeatStats| stats.state == SeatState::Inactive && stats.work == Work::default();
            assert!(stats.as_ref().is_none_or(untouched), "nobody activated {client}: {stats:?}");
            return Figures::default();
        };
        let Some(stats) = stats else {
            assert!(expected.state == SeatState::Inactive && expected.buckets == Counts::default());
            return Figures::default();
        };
        assert_eq!(stats.state, expected.state, "seat of {client} at service {service}");
        let held = model.held_by(client) as u64;
        let owed: usize = model.leases.values().filter(|lease| lease.client == client).map(|l| l.owed().len()).sum();
        let (buckets, subjects) = (expected.buckets, expected.subjects);
        let figures_expected = [
            buckets.assigned,
            buckets.finished,
            buckets.put_back,
            expected.expired,
            held,
            subjects.assigned,
            subjects.finished,
            subjects.put_back,
            owed as u64,
        ];
        assert_eq!(figures(&stats.work), figures_expected, "I2: work of {client} at service {service}");
        assert!(stats.work.adds_up(), "I2: {:?}", stats.work);
        assert_eq!(stats.faults.conflicts, expected.conflicts, "conflicts of {client}");
        if let Some(seat) = self.seats.get(&(service, client)) {
            self.check_leases(service, client, seat);
        }
        figures_expected
    }

    /// I4, I7: a client holds exactly what the model says, and for as long.
    fn check_leases(&self, service: usize, client: u64, seat: &Seat<Check>) {
        let views = match seat.leases() {
            Ok(views) if self.model.is_registered(client) => views,
            answer => {
                assert_eq!(answer.err(), Some(LeaseError::NotRegistered));
                return;
            }
        };
        let id_of =
            |token: &LeaseToken| self.given.iter().position(|given| given.token == *token).expect("it was given out");
        let found: BTreeMap<usize, _> = views
            .into_iter()
            .map(|view| {
                let subjects: BTreeSet<u64> = view.subjects.iter().copied().collect();
                (id_of(&view.token), (subjects, view.time_left, view.dead))
            })
            .collect();
        let held = self.model.services[service].leases.iter().filter(|(_, lease)| lease.client == client);
        let expected: BTreeMap<usize, _> = held
            .filter(|(_, lease)| lease.is_held())
            .map(|(id, lease)| {
                let (left, dead) = match lease.phase {
                    Phase::Live { deadline } => (deadline.saturating_sub(self.now), false),
                    _ => (0, true),
                };
                (*id, (lease.owed(), Duration::from_millis(left), dead))
            })
            .collect();
        assert_eq!(found, expected, "what {client} holds of service {service}");
    }

    /// Nothing is lost: with one willing client everything that is known gets done.
    pub(crate) fn drain(&mut self) {
        self.step(&Op::Register { client: 1 });
        for service in 0..SERVICES {
            self.step(&Op::SetState { service, state: ServiceState::Active });
            self.step(&Op::Suspend { client: 1, service, suspended: false });
        }
        for ms in [LEASE, GRACE, LINGER] {
            self.step(&Op::Advance { ms });
            self.step(&Op::Tick);
        }
        for service in 0..SERVICES {
            while !self.model.services[service].pending().is_empty() {
                self.step(&Op::Tick);
                self.step(&Op::Advance { ms: LINGER });
                self.step(&Op::Tick);
                self.step(&Op::Activate { client: 1, service });
                let got = self.claim(1, service, PER_CLAIM);
                assert!(got > 0, "pending but not handed out: {:?}", self.model.services[service].pending());
                for nth in self.given.len() - got..self.given.len() {
                    let (shown, reports) = (Shown::own(Pick::Nth(nth)), reports(7, 0, false, false, 0));
                    self.step(&Op::Submit { shown, reports, last: true });
                }
                self.step(&Op::Tick);
            }
            let stats = self.services[service].stats();
            assert_eq!(stats.subjects_done, stats.subjects_known, "everything that was taken in is done");
        }
        self.check_results(true);
    }
}

type Figures = [u64; 9];

fn figures(work: &Work) -> Figures {
    [
        work.buckets_assigned,
        work.buckets_processed,
        work.buckets_put_back,
        work.buckets_expired,
        work.buckets_held,
        work.subjects_assigned,
        work.subjects_reported,
        work.subjects_put_back,
        work.subjects_held,
    ]
}

fn add(all: &[Figures]) -> Figures {
    let mut sum = Figures::default();
    for figures in all {
        sum.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
    }
    sum
}
