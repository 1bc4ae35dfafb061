//! Lives of subjects, record by record, at random: however the records are cut into batches the store comes out the same,
//! its counts are what can be counted in it, and nothing of a deleted subject can be read there.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::apply::{Applier, At, leases};
use crate::commit::Decision;
use crate::first_rounds;
use crate::journal::GroupTime;
use crate::record::{
    self, Added, BlockItem, FoundRecord, Item, KeyRecord, Keys, Leased, Owed, Record, Released, Reported, Restored,
    SeatValue, ServiceRecord, ServiceTally, SubjectRecord, SubjectValue, Urgent, VersionName, VersionValue, Withdrawn,
    key,
};
use crate::service::ServiceState;
use crate::slot::Cause;
use crate::store::{MemoryStore, Store};
use crate::sync::Arc;
use crate::ticket::Intake;

const SERVICE: u32 = 1;
const NAMES: usize = 8;

/// A store, the applier that writes it, and what is known of its leases.
struct Shelf {
    store: Arc<dyn Store>,
    applier: Applier,
    position: u64,
    /// Written into the store after so many records.
    every: usize,
    records: usize,
    next_lease: u32,
    /// Rank, and the subject that it stands for.
    ranks: BTreeMap<u64, (usize, u32)>,
    /// Lease and its open ranks.
    open: BTreeMap<u32, Vec<(u16, u64)>>,
    clients: BTreeMap<u32, u64>,
}

fn name(subject: usize) -> Vec<u8> {
    format!("name-{subject}").into_bytes()
}

fn body(subject: usize) -> Vec<u8> {
    // Some subjects are all key.
    if subject.is_multiple_of(2) { format!("body-of-{subject}").into_bytes() } else { Vec::new() }
}

/// One that says 2 is too long to lie with others.
fn report_on(subject: usize, said: u8) -> Vec<u8> {
    let mut report = format!("report-on-{subject}").into_bytes();
    report.resize(if said == 2 { 600 } else { 20 }, said);
    report
}

fn subjects(list: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for subject in list {
        record::append(
            &mut bytes,
            &SubjectRecord { key: &name(*subject), lane: b"", deadline: None, body: &body(*subject) },
        );
    }
    bytes
}

fn keys(list: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for subject in list {
        record::append(&mut bytes, &KeyRecord { key: &name(*subject) });
    }
    bytes
}

impl Shelf {
    fn new(every: usize) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let applier = Applier::load(Arc::clone(&store)).unwrap();
        let mut shelf = Self {
            store,
            applier,
            position: 0,
            every,
            records: 0,
            next_lease: 0,
            ranks: BTreeMap::new(),
            open: BTreeMap::new(),
            clients: BTreeMap::new(),
        };
        let record = ServiceRecord {
            service: SERVICE,
            name: "s",
            state: ServiceState::Active,
            max_subjects: 100,
            lane_subjects: 100,
        };
        shelf.apply(&Record::Service(record));
        shelf
    }

    fn time(&self) -> GroupTime {
        GroupTime { hub_ms: self.position, wall_ms: 1_000 + i64::try_from(self.position).unwrap() }
    }

    fn apply(&mut self, record: &Record<'_>) -> Intake {
        self.position += 10;
        let mut bytes = Vec::new();
        record.append_to(&mut bytes);
        let at = At { position: self.position, time: self.time() };
        let intake = self.applier.apply(at, record.kind(), &bytes).unwrap();
        self.applier.take_effects();
        self.applier.take_finished();
        self.records += 1;
        if self.records.is_multiple_of(self.every) {
            self.flush();
        }
        intake
    }

    fn flush(&mut self) {
        self.applier.flush(self.position, self.time(), 0).unwrap();
    }

    fn add(&mut self, list: &[usize]) -> Intake {
        self.apply(&Record::Added(Added { service: SERVICE, subjects: &subjects(list) }))
    }

    fn on(&mut self, decision: Decision, list: &[usize]) -> Intake {
        self.apply(&decision.record(Keys { service: SERVICE, keys: &keys(list) }))
    }

    /// Everything written, of one tag.
    fn pairs(&mut self, tag: u8) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.flush();
        let (start, end) = key::range(SERVICE, tag, &[]);
        self.store.scan(&start, Some(&end), usize::MAX).unwrap()
    }

    /// Every subject, as it stands.
    fn subjects(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.flush();
        first_rounds::subjects(self.store.as_ref(), SERVICE, &[], 7).map(Result::unwrap).collect()
    }

    fn tally(&self) -> ServiceTally {
        self.applier.tally(SERVICE)
    }

    /// The subjects that are owed, by rank, from the blocks.
    fn owed(&mut self) -> BTreeMap<u64, (Vec<u8>, Vec<u8>, u16, u32)> {
        let mut owed = BTreeMap::new();
        for (name, state) in self.pairs(key::OWED) {
            let first = key::number(key::rest(&name)).unwrap();
            let state: Owed = record::decode("owed", &state).unwrap();
            let block = self.store.get(&key::of(SERVICE, key::BLOCK, &first.to_be_bytes())).unwrap().unwrap();
            for (place, item) in record::list::<BlockItem<'_>>("block", &block).enumerate() {
                let item = item.unwrap();
                if state.has(place as u64) {
                    let value = (item.key.to_vec(), item.body.to_vec(), item.depth, item.round);
                    owed.insert(first + place as u64, value);
                }
            }
        }
        owed
    }

    /// Leases up to `n` subjects that are owed and in no lease.
    fn lease(&mut self, client: u64, n: usize) -> Option<u32> {
        let held: BTreeSet<u64> = self.open.values().flatten().map(|(_, rank)| *rank).collect();
        let mut ranks = Vec::new();
        for (rank, (name, body_, _, round)) in self.owed() {
            if !held.contains(&rank) && ranks.len() < n {
                let subject = usize::from(name[5] - b'0');
                assert_eq!(body_, body(subject), "the body goes with the subject, round {round}");
                self.ranks.insert(rank, (subject, round));
                ranks.push(rank);
            }
        }
        if ranks.is_empty() {
            return None;
        }
        let slot = self.next_lease;
        self.next_lease += 1;
        let places = ranks.iter().enumerate().map(|(place, rank)| (u16::try_from(place).unwrap(), *rank));
        self.open.insert(slot, places.collect());
        self.clients.insert(slot, client);
        let leased = Leased {
            service: SERVICE,
            generation: 1,
            slot,
            client,
            at: self.position,
            ranks,
            again: Vec::new(),
            lane: Vec::new(),
        };
        self.apply(&Record::Leased(leased));
        Some(slot)
    }

    /// Reports on up to `n` subjects of a lease.
    fn report(&mut self, slot: u32, n: usize, said: u8, beyond: &[usize]) {
        let Some(open) = self.open.get_mut(&slot) else { return };
        let taken: Vec<(u16, u64)> = open.drain(..n.min(open.len())).collect();
        if open.is_empty() {
            self.open.remove(&slot);
        }
        let beyond = subjects(beyond);
        let mut items = Vec::new();
        for (place, rank) in taken {
            let (subject, round) = self.ranks[&rank];
            let (key, report) = (name(subject), report_on(subject, said));
            let item = Item {
                place,
                rank,
                depth: 0,
                round,
                key: &key,
                report: &report,
                found: &[],
                beyond: &beyond,
                too_deep: 0,
                expired: false,
            };
            item.append_to(&mut items);
        }
        let client = self.clients[&slot];
        self.apply(&Record::Reported(Reported {
            service: SERVICE,
            generation: 1,
            slot,
            client,
            items: &items,
            state: None,
        }));
    }

    fn release(&mut self, slot: u32) {
        let Some(open) = self.open.remove(&slot) else { return };
        let ranks = open.into_iter().map(|(_, rank)| rank).collect();
        let released = Released { service: SERVICE, generation: 1, slot, client: 1, cause: Cause::Client, ranks };
        self.apply(&Record::Released(released));
    }

    /// Withdraws all results of a client, and subjects that the caller names.
    fn withdraw(&mut self, id: u64, client: u64, list: &[usize]) {
        let mut versions = Vec::new();
        for (subject, held) in self.versions() {
            for version in held.iter().filter(|version| version.client == client && !version.withdrawn) {
                record::append(&mut versions, &VersionName { key: &subject, number: version.number });
            }
        }
        let subjects = keys(list);
        let (from_ms, to_ms) = (0, i64::MAX);
        let part = Withdrawn {
            service: SERVICE,
            id,
            client,
            from_ms,
            to_ms,
            versions: &versions,
            subjects: &subjects,
            found: &[],
        };
        self.apply(&Record::Withdrawn(part));
    }

    /// Takes in again what a retraction took away.
    fn take_back(&mut self, id: u64, list: &[usize], unmarked: bool) {
        let mut found = Vec::new();
        for subject in list {
            let (key, body) = (&name(*subject), &body(*subject));
            record::append(&mut found, &FoundRecord { depth: 3, unmarked, key, lane: b"", body });
        }
        let (from_ms, to_ms) = (0, i64::MAX);
        let part =
            Withdrawn { service: SERVICE, id, client: 1, from_ms, to_ms, versions: &[], subjects: &[], found: &found };
        self.apply(&Record::Withdrawn(part));
    }

    /// Gives back everything that a retraction withdrew.
    fn restore(&mut self, id: u64) {
        let (mut versions, mut subjects) = (Vec::new(), Vec::new());
        for (name, bytes) in self.pairs(key::VERSION) {
            let version: VersionValue<'_> = record::decode("version", &bytes).unwrap();
            let (key, number) = key::of_version(key::rest(&name)).unwrap();
            if version.withdrawn == id {
                record::append(&mut versions, &VersionName { key, number });
            }
        }
        for (name, bytes) in self.subjects() {
            let value: SubjectValue<'_> = record::decode("subject", &bytes).unwrap();
            if value.withdrawn == id {
                record::append(&mut subjects, &KeyRecord { key: key::rest(&name) });
            }
        }
        let part = Restored { service: SERVICE, id, last: true, versions: &versions, subjects: &subjects };
        self.apply(&Record::Restored(part));
    }

    /// Every version of every subject, in order, wherever it is kept.
    fn versions(&mut self) -> BTreeMap<Vec<u8>, Vec<Seen>> {
        let mut all: BTreeMap<Vec<u8>, Vec<Seen>> = BTreeMap::new();
        for (name, bytes) in self.subjects() {
            let value: SubjectValue<'_> = record::decode("subject", &bytes).unwrap();
            let subject = key::rest(&name).to_vec();
            let mut seen = Vec::new();
            let (start, end) = (key::version(SERVICE, &subject, 0), key::version(SERVICE, &subject, u32::MAX));
            for (_, bytes) in self.store.scan(&start, Some(&end), usize::MAX).unwrap() {
                seen.push(Seen::of(&record::decode("version", &bytes).unwrap()));
            }
            seen.extend(value.current.as_ref().map(Seen::of));
            seen.sort_by_key(|version| version.number);
            let numbers: Vec<u32> = seen.iter().map(|version| version.number).collect();
            assert_eq!(numbers, (1..=value.versions).collect::<Vec<_>>(), "history is complete");
            assert!(seen.is_sorted_by_key(|version| version.position), "history is in journal order");
            all.insert(subject, seen);
        }
        all
    }

    /// Everything in the store but for where its blocks begin and how first rounds lie together, which depend on how it was written.
    fn normal(&mut self) -> Normal {
        let tags = [b'V', b'N', b'D', b'U', b'H', b'R', b'T', b'A', b'L'];
        let mut pairs = self.subjects();
        pairs.extend(tags.map(|tag| self.pairs(tag)).concat());
        (pairs, self.owed())
    }

    /// What can be counted in the store is what the counts say.
    fn check(&mut self) {
        let (mut known, mut done, mut unmarked) = (0, 0, 0);
        let mut open = BTreeSet::new();
        let mut there = BTreeSet::new();
        for (name, bytes) in self.subjects() {
            let value: SubjectValue<'_> = record::decode("subject", &bytes).unwrap();
            let live = value.withdrawn == 0;
            known += u64::from(live && value.round > 0);
            done += u64::from(live && value.round > 0 && !value.open);
            unmarked += u64::from(live && value.round == 0);
            assert!(!value.open || value.round > 0);
            assert!(!value.reopened || (value.open && value.current.is_none()));
            if value.open && live {
                open.insert(value.rank);
            } else if live && value.round > 0 {
                assert!(value.current.is_some(), "what is done has a result");
            }
            there.insert(key::rest(&name).to_vec());
        }
        let tally = self.tally();
        assert_eq!((tally.known, tally.done, tally.unmarked), (known, done, unmarked));
        let owed = self.owed();
        assert_eq!(owed.keys().copied().collect::<BTreeSet<_>>(), open, "what is owed is what is open");
        for (name, _) in self.pairs(key::URGENT) {
            assert!(owed.contains_key(&key::number(key::rest(&name)).unwrap()), "only what is owed is urgent");
        }
        let withdrawn = self.versions().values().flatten().filter(|version| version.withdrawn).count();
        assert_eq!(tally.withdrawn, withdrawn as u64);
        self.adds_up();
        self.erased(&there);
    }

    /// I2, in the store.
    fn adds_up(&mut self) {
        let (mut assigned, mut ended) = (0, 0);
        for (_, bytes) in self.pairs(key::SEAT) {
            let SeatValue { tally, .. } = record::decode("seat", &bytes).unwrap();
            assigned += tally.subjects_assigned;
            ended += tally.subjects_reported + tally.subjects_put_back;
        }
        let held: u64 = leases(self.store.as_ref(), SERVICE)
            .unwrap()
            .iter()
            .map(|(_, _, lease)| u64::from(lease.open().count()))
            .sum();
        assert_eq!(assigned, ended + held);
    }

    /// R32: of a subject that is not there, nothing is.
    fn erased(&mut self, there: &BTreeSet<Vec<u8>>) {
        let pairs = self.store.scan(&[], None, usize::MAX).unwrap();
        for subject in (0..NAMES).filter(|subject| !there.contains(&name(*subject))) {
            let traces = ["name-", "body-of-", "report-on-"].map(|what| format!("{what}{subject}").into_bytes());
            for (key, value) in &pairs {
                for trace in &traces {
                    let reads = |bytes: &[u8]| bytes.windows(trace.len()).any(|window| window == trace);
                    assert!(!reads(key) && !reads(value), "subject {subject} is in {key:?}: {value:?}");
                }
            }
        }
    }
}

type Normal = (Vec<(Vec<u8>, Vec<u8>)>, BTreeMap<u64, (Vec<u8>, Vec<u8>, u16, u32)>);

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    number: u32,
    client: u64,
    position: u64,
    withdrawn: bool,
    report: Vec<u8>,
}

impl Seen {
    fn of(version: &VersionValue<'_>) -> Self {
        let VersionValue { number, client, position, withdrawn, report, .. } = *version;
        Self { number, client, position, withdrawn: withdrawn != 0, report: report.to_vec() }
    }
}

/// One step.
#[derive(Debug, Clone)]
enum Op {
    Add(Vec<usize>),
    Lease(u64, usize),
    Report(u32, usize, u8, Vec<usize>),
    Release(u32),
    Rerun(Vec<usize>),
    Mark(Vec<usize>),
    Delete(Vec<usize>),
    DeleteEverywhere(usize),
    Urgent(u64),
    Withdraw(u64, u64, Vec<usize>),
    Restore(u64),
    TakeBack(u64, Vec<usize>, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let some = || prop::collection::vec(0..NAMES, 0..4);
    prop_oneof![
        3 => some().prop_map(Op::Add),
        4 => (1..4_u64, 1..4_usize).prop_map(|(client, n)| Op::Lease(client, n)),
        6 => (0..12_u32, 1..4_usize, 0..3_u8, some()).prop_map(|(slot, n, said, found)| Op::Report(slot, n, said, found)),
        1 => (0..12_u32).prop_map(Op::Release),
        3 => some().prop_map(Op::Rerun),
        2 => some().prop_map(Op::Mark),
        3 => some().prop_map(Op::Delete),
        1 => (0..NAMES).prop_map(Op::DeleteEverywhere),
        1 => (0..20_u64).prop_map(Op::Urgent),
        2 => (1..4_u64, 1..4_u64, some()).prop_map(|(id, client, list)| Op::Withdraw(id, client, list)),
        1 => (1..4_u64).prop_map(Op::Restore),
        1 => (1..4_u64, some(), any::<bool>()).prop_map(|(id, list, unmarked)| Op::TakeBack(id, list, unmarked)),
    ]
}

fn run(ops: &[Op], every: usize, mut after: impl FnMut(&mut Shelf)) -> Shelf {
    let mut shelf = Shelf::new(every);
    for op in ops {
        match op {
            Op::Add(list) => {
                shelf.add(list);
            }
            Op::Lease(client, n) => {
                shelf.lease(*client, *n);
            }
            Op::Report(slot, n, said, found) => shelf.report(*slot, *n, *said, found),
            Op::Release(slot) => shelf.release(*slot),
            Op::Rerun(list) => {
                shelf.on(Decision::Rerun, list);
            }
            Op::Mark(list) => {
                shelf.on(Decision::Mark, list);
            }
            Op::Delete(list) => {
                shelf.on(Decision::Delete, list);
            }
            Op::DeleteEverywhere(subject) => {
                shelf.apply(&Record::Deleted(Keys { service: 0, keys: &keys(&[*subject]) }));
            }
            Op::Urgent(rank) => {
                shelf.apply(&Record::Urgent(Urgent { service: SERVICE, ranks: vec![*rank] }));
            }
            Op::Withdraw(id, client, list) => shelf.withdraw(*id, *client, list),
            Op::Restore(id) => {
                shelf.restore(*id);
            }
            Op::TakeBack(id, list, unmarked) => shelf.take_back(*id, list, *unmarked),
        }
        after(&mut shelf);
    }
    shelf
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// R31, R32, R33: whatever happens to subjects in whatever state, the counts are right and the deleted are gone.
    #[test]
    fn any_life_of_subjects_adds_up(ops in prop::collection::vec(op(), 1..40)) {
        run(&ops, 1, Shelf::check);
    }

    /// G6: how records are cut into batches makes no difference.
    #[test]
    fn any_batches_give_the_same_store(ops in prop::collection::vec(op(), 1..40), every in 2..30_usize) {
        let (mut one, mut other) = (run(&ops, 1, |_| ()), run(&ops, every, |_| ()));
        prop_assert_eq!(one.normal(), other.normal());
    }
}

/// R101: a report that comes to the journal after the end of the lease from which it took its subject ends that lease, too.
#[test]
fn a_lease_is_over_when_the_last_of_its_subjects_was_reported_late() {
    let mut shelf = Shelf::new(1);
    shelf.add(&[0, 1]);
    let lease = |slot, client, ranks: Vec<u64>| {
        Record::Leased(Leased {
            service: SERVICE,
            generation: 1,
            slot,
            client,
            at: 0,
            ranks,
            again: Vec::new(),
            lane: Vec::new(),
        })
    };
    let item = |place, subject: usize, rank, key: &[u8]| {
        let mut items = Vec::new();
        let (report, found, beyond): (&[u8], &[u8], &[u8]) = (b"r", &[], &[]);
        assert_eq!(key, name(subject));
        let item = Item { place, rank, depth: 0, round: 1, key, report, found, beyond, too_deep: 0, expired: false };
        record::append(&mut items, &item);
        items
    };
    let ended = |slot, client, cause, ranks| {
        Record::Released(Released { service: SERVICE, generation: 1, slot, client, cause, ranks })
    };
    shelf.apply(&lease(0, 1, vec![0]));
    shelf.apply(&ended(0, 1, Cause::Expired, vec![0]));
    shelf.apply(&lease(1, 2, vec![0, 1]));
    let timely = item(1, 1, 1, &name(1));
    shelf.apply(&Record::Reported(Reported {
        service: SERVICE,
        generation: 1,
        slot: 1,
        client: 2,
        items: &timely,
        state: None,
    }));
    shelf.apply(&ended(1, 2, Cause::Client, Vec::new()));
    assert_eq!(leases(shelf.store.as_ref(), SERVICE).unwrap().len(), 1, "one of its subjects is on its way");
    let late = item(0, 0, 0, &name(0));
    shelf.apply(&Record::Late(Reported {
        service: SERVICE,
        generation: 1,
        slot: 0,
        client: 1,
        items: &late,
        state: None,
    }));
    assert_eq!(leases(shelf.store.as_ref(), SERVICE).unwrap().len(), 0);
    assert_eq!(shelf.applier.leased_print(SERVICE), crate::Print::default());
}
