//! Random records, applied by one who gathers the ends of first rounds and by one who does not: nobody who reads can tell them apart.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::apply::{self, Applier, At};
use crate::commit::Decision;
use crate::first_rounds;
use crate::journal::GroupTime;
use crate::record::{
    self, Added, FoundRecord, Item, KeyRecord, Keys, Leased, Record, Released, Reported, Restored, ServiceRecord,
    SubjectRecord, SubjectValue, VersionName, VersionValue, Withdrawn, key,
};
use crate::service::ServiceState;
use crate::slot::Cause;
use crate::store::{MemoryStore, Pair, Store};
use crate::sync::Arc;

const SERVICES: [u32; 2] = [1, 2];
const NAMES: u8 = 60;

struct Twin {
    store: Arc<dyn Store>,
    applier: Applier,
    gathers: bool,
}

impl Twin {
    fn new(gathers: bool) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let mut twin = Self { applier: Applier::load(Arc::clone(&store)).unwrap(), store, gathers };
        twin.reopen();
        twin
    }

    fn reopen(&mut self) {
        self.applier = Applier::load(Arc::clone(&self.store)).unwrap();
        if !self.gathers {
            self.applier.gather_nothing();
        }
    }

    fn apply(&mut self, at: At, kind: u8, body: &[u8]) {
        self.applier.apply(at, kind, body).unwrap();
        self.applier.take_effects();
        self.applier.take_finished();
    }

    fn flush(&mut self, at: At) {
        self.applier.flush(at.position, at.time, 0).unwrap();
    }

    /// Subjects as they stand, and everything else but where the ends of first rounds lie.
    fn read(&self, blocks: bool) -> Vec<Pair> {
        let apart = [key::SUBJECT, key::FIRST_ROUNDS];
        let of_blocks = [key::BLOCK, key::OWED, key::STANDING];
        let mut pairs = self.store.scan(b"", None, usize::MAX).unwrap();
        pairs.retain(|(name, _)| {
            let tag = key::tag(name).unwrap();
            !apart.contains(&tag) && (blocks || !of_blocks.contains(&tag))
        });
        for service in SERVICES {
            let listed: Vec<Pair> =
                first_rounds::subjects(self.store.as_ref(), service, &[], 7).map(Result::unwrap).collect();
            for (name, value) in &listed {
                let one = first_rounds::subject(self.store.as_ref(), service, key::rest(name)).unwrap();
                assert_eq!(one.as_ref(), Some(value));
            }
            pairs.extend(listed);
        }
        pairs
    }

    /// Ends that lie apart although their subjects do not need them.
    fn strays(&self, service: u32) -> Vec<u64> {
        let mut ranks = Vec::new();
        apply::each(self.store.as_ref(), service, key::FIRST_ROUNDS, |rest, bytes| {
            let rounds: record::FirstRoundsValue<'_> = record::decode("first rounds", bytes).unwrap();
            ranks.extend(rounds.iter().map(|(place, _)| key::number(rest).unwrap() * 256 + u64::from(place)));
            Ok(())
        })
        .unwrap();
        apply::each(self.store.as_ref(), service, key::SUBJECT, |_, bytes| {
            let value = apply::subject(bytes).unwrap();
            ranks.retain(|rank| !(*rank == value.rank && first_rounds::may_have_ended(&value)));
            Ok(())
        })
        .unwrap();
        ranks
    }
}

/// A subject that may be worked on.
#[derive(Debug, Clone)]
struct Open {
    rank: u64,
    depth: u16,
    round: u32,
    key: Vec<u8>,
}

struct Script {
    rng: ChaCha12Rng,
    plain: Twin,
    at: At,
    slots: u32,
    /// Leases and what is left of them.
    leases: Vec<(u32, u32, Vec<Open>, Vec<bool>)>,
    retractions: BTreeMap<u64, u32>,
}

impl Script {
    fn name(&mut self) -> Vec<u8> {
        let name = self.rng.random_range(0..NAMES);
        if name == 0 { Vec::from([0; 3]) } else { vec![name; 1 + usize::from(name % 4)] }
    }

    fn subjects(&mut self, most: usize) -> Vec<u8> {
        let mut list = Vec::new();
        for _ in 0..self.rng.random_range(0..=most) {
            let key = self.name();
            record::append(&mut list, &SubjectRecord { key: &key, lane: b"", deadline: None, body: &key });
        }
        list
    }

    fn keys(&mut self) -> Vec<u8> {
        let mut list = Vec::new();
        for _ in 0..self.rng.random_range(1..5) {
            record::append(&mut list, &KeyRecord { key: &self.name() });
        }
        list
    }

    fn open(&self, service: u32) -> Vec<Open> {
        let mut open = Vec::new();
        apply::each(self.plain.store.as_ref(), service, key::SUBJECT, |key, bytes| {
            let SubjectValue { rank, depth, round, .. } = apply::subject(bytes).unwrap();
            if apply::subject(bytes).unwrap().open && apply::subject(bytes).unwrap().withdrawn == 0 {
                open.push(Open { rank, depth, round, key: key.to_vec() });
            }
            Ok(())
        })
        .unwrap();
        open
    }

    fn versions(&mut self, service: u32, withdrawn: Option<u64>) -> Vec<u8> {
        let mut found = Vec::new();
        apply::each(self.plain.store.as_ref(), service, key::SUBJECT, |name, bytes| {
            found.extend(apply::subject(bytes).unwrap().current.map(|version| (name.to_vec(), version.number, 0)));
            Ok(())
        })
        .unwrap();
        apply::each(self.plain.store.as_ref(), service, key::VERSION, |rest, bytes| {
            let version: VersionValue<'_> = record::decode("version", bytes).unwrap();
            let (name, number) = key::of_version(rest).unwrap();
            found.push((name.to_vec(), number, version.withdrawn));
            Ok(())
        })
        .unwrap();
        let mut list = Vec::new();
        for (key, number, by) in found {
            if withdrawn.map_or_else(|| self.rng.random_bool(0.1), |id| id == by) {
                record::append(&mut list, &VersionName { key: &key, number });
            }
        }
        list
    }

    fn items(&mut self, of: &[Open], done: &mut [bool]) -> Vec<u8> {
        let mut items = Vec::new();
        for (place, subject) in of.iter().enumerate() {
            if done[place] || self.rng.random_bool(0.3) {
                continue;
            }
            done[place] = true;
            let length = [3, 40, 511, 512, 513][self.rng.random_range(0..5)];
            let report: Vec<u8> = (0..length).map(|_| self.rng.random()).collect();
            let expired = self.rng.random_bool(0.1);
            let (found, beyond) = if expired { (Vec::new(), Vec::new()) } else { (self.subjects(3), self.subjects(2)) };
            let report: &[u8] = if expired { &[] } else { &report };
            let Open { rank, depth, round, key } = subject;
            let place = u16::try_from(place).unwrap();
            let (rank, depth, round, found, beyond) = (*rank, *depth, *round, &found, &beyond);
            Item { place, rank, depth, round, key, report, found, beyond, too_deep: 0, expired }.append_to(&mut items);
        }
        items
    }

    /// The next record, as its kind and body.
    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let service = SERVICES[self.rng.random_range(0..2)];
        let client = self.rng.random_range(1..4);
        let encoded = |record: &Record<'_>| {
            let mut bytes = Vec::new();
            record.append_to(&mut bytes);
            Some((record.kind(), bytes))
        };
        match self.rng.random_range(0..20) {
            0..=2 => encoded(&Record::Added(Added { service, subjects: &self.subjects(12) })),
            3..=6 => {
                let mut ranks = self.open(service);
                ranks.retain(|open| {
                    let held = self.leases.iter().any(|(of, _, held, done)| {
                        *of == service && held.iter().zip(done).any(|(held, done)| held.rank == open.rank && !done)
                    });
                    !held && self.rng.random_bool(0.4)
                });
                if ranks.is_empty() {
                    return None;
                }
                let (generation, slot, at) = (1, self.slots, 0);
                self.slots += 1;
                let list = ranks.iter().map(|open| open.rank).collect();
                self.leases.push((service, slot, ranks.clone(), vec![false; ranks.len()]));
                let (again, lane) = (Vec::new(), Vec::new());
                encoded(&Record::Leased(Leased { service, generation, slot, client: 1, at, ranks: list, again, lane }))
            }
            7..=12 => {
                if self.leases.is_empty() {
                    return None;
                }
                let n = self.rng.random_range(0..self.leases.len());
                let (service, slot, of, mut done) = self.leases.swap_remove(n);
                let items = self.items(&of, &mut done);
                if done.contains(&false) {
                    self.leases.push((service, slot, of, done));
                }
                let (generation, state) = (1, None);
                encoded(&Record::Reported(Reported { service, generation, slot, client: 1, items: &items, state }))
            }
            13 => {
                if self.leases.is_empty() {
                    return None;
                }
                let n = self.rng.random_range(0..self.leases.len());
                let (service, slot, of, done) = self.leases.swap_remove(n);
                let left = of.iter().zip(done).filter(|(_, done)| !done).map(|(open, _)| open.rank).collect();
                let (generation, cause) = (1, Cause::Expired);
                encoded(&Record::Released(Released { service, generation, slot, client: 1, cause, ranks: left }))
            }
            14 => {
                let open = self.open(service);
                let mut done: Vec<bool> = open.iter().map(|_| self.rng.random_bool(0.9)).collect();
                let items = self.items(&open, &mut done);
                let (generation, slot, state) = (1, u32::MAX, None);
                encoded(&Record::Late(Reported { service, generation, slot, client, items: &items, state }))
            }
            15 => encoded(&Decision::Rerun.record(Keys { service, keys: &self.keys() })),
            16 => encoded(&Decision::Mark.record(Keys { service, keys: &self.keys() })),
            17 => encoded(&Decision::Delete.record(Keys { service, keys: &self.keys() })),
            18 => {
                let known: Vec<(u64, u32)> = self.retractions.iter().map(|(id, of)| (*id, *of)).collect();
                let goes_on = !known.is_empty() && self.rng.random_bool(0.5);
                let (id, service) = if goes_on { known[self.rng.random_range(0..known.len())] } else { (0, service) };
                if !goes_on {
                    self.retractions.insert(self.at.position + 10, service);
                }
                let (versions, subjects) = (self.versions(service, None), self.keys());
                let mut found = Vec::new();
                for _ in 0..self.rng.random_range(0..6) {
                    let (key, unmarked) = (self.name(), self.rng.random_bool(0.5));
                    record::append(&mut found, &FoundRecord { depth: 2, unmarked, key: &key, lane: b"", body: b"" });
                }
                let (from_ms, to_ms, found, subjects) = (0, 9, &found, &subjects);
                let versions = &versions;
                encoded(&Record::Withdrawn(Withdrawn {
                    service,
                    id,
                    client,
                    from_ms,
                    to_ms,
                    versions,
                    subjects,
                    found,
                }))
            }
            _ => {
                let (id, service) = self.retractions.pop_first()?;
                let versions = self.versions(service, Some(id));
                let mut subjects = Vec::new();
                (0..NAMES).for_each(|_| {
                    let key = self.name();
                    record::append(&mut subjects, &KeyRecord { key: &key });
                });
                let last = true;
                encoded(&Record::Restored(Restored { service, id, last, versions: &versions, subjects: &subjects }))
            }
        }
    }
}

/// R32: whatever happens to subjects, and wherever batches end, the store says the same of them as if each end of a round stood in its
/// subject's own record; and nothing of a subject stays with others once it does.
#[test]
fn gathered_ends_change_nothing_that_is_read() {
    let seeds = std::env::var("COMMISSARY_SEEDS").map_or(5, |seeds| seeds.parse().unwrap());
    let (mut apart, mut moved) = (0, 0);
    for seed in 0..seeds {
        let at = At { position: 0, time: GroupTime { hub_ms: 0, wall_ms: 0 } };
        let rng = ChaCha12Rng::seed_from_u64(seed);
        let (plain, leases, retractions) = (Twin::new(false), Vec::new(), BTreeMap::new());
        let mut script = Script { rng, plain, at, slots: 0, leases, retractions };
        let (mut each, mut some) = (Twin::new(true), Twin::new(true));
        let mut records = Vec::new();
        for service in SERVICES {
            let (max_subjects, lane_subjects) = (50, u64::MAX);
            let record = ServiceRecord { service, name: "s", state: ServiceState::Active, max_subjects, lane_subjects };
            let mut bytes = Vec::new();
            Record::Service(record).append_to(&mut bytes);
            records.push((2, bytes));
        }
        for step in 0..600 {
            let Some((kind, body)) = records.pop().or_else(|| script.next()) else { continue };
            let position = script.at.position + 10;
            script.at = At { position, time: GroupTime { hub_ms: position, wall_ms: 7 } };
            let at = script.at;
            for twin in [&mut script.plain, &mut each, &mut some] {
                twin.apply(at, kind, &body);
            }
            script.plain.flush(at);
            each.flush(at);
            assert!(script.plain.read(true) == each.read(true), "seed {seed}, step {step}, kind {kind}");
            if script.rng.random_bool(0.1) {
                some.flush(at);
                assert!(script.plain.read(false) == some.read(false), "seed {seed}, step {step}, kind {kind}");
                if script.rng.random_bool(0.2) {
                    [&mut script.plain, &mut each, &mut some].into_iter().for_each(Twin::reopen);
                }
            }
            for service in SERVICES {
                assert_eq!(each.strays(service), [0_u64; 0], "seed {seed}, step {step}, kind {kind}");
            }
        }
        for service in SERVICES {
            apart += apply::pairs(each.store.as_ref(), service, key::FIRST_ROUNDS).count();
            moved += apply::pairs(each.store.as_ref(), service, key::VERSION).count();
        }
    }
    assert!(apart > 0 && moved > 0, "{apart} {moved}");
}
