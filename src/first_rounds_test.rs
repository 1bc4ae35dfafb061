//! The ends of first rounds: how they lie together, and that readers see them as they come, go together and go over to their subjects.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::apply::{self, Applier, At};
use crate::commit::Decision;
use crate::first_rounds;
use crate::journal::GroupTime;
use crate::record::{
    self, Added, FirstRoundsValue, Item, KeyRecord, Keys, Leased, Record, Reported, ServiceRecord, SubjectRecord,
    SubjectValue, key,
};
use crate::service::ServiceState;
use crate::store::{MemoryStore, Store};
use crate::sync::Arc;

const SERVICE: u32 = 1;

struct Shelf {
    store: Arc<dyn Store>,
    applier: Applier,
    position: u64,
    leases: u32,
}

fn name(rank: u64) -> [u8; 8] {
    rank.to_be_bytes()
}

fn report_on(rank: u64) -> Vec<u8> {
    format!("report on {rank}").into_bytes()
}

impl Shelf {
    /// A store that knows so many subjects, each named by its rank.
    fn new(subjects: u64) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let applier = Applier::load(Arc::clone(&store)).unwrap();
        let mut shelf = Self { store, applier, position: 0, leases: 0 };
        let (state, max_subjects) = (ServiceState::Active, u64::MAX);
        shelf.apply(&Record::Service(ServiceRecord {
            service: SERVICE,
            name: "s",
            state,
            max_subjects,
            lane_subjects: max_subjects,
        }));
        let mut list = Vec::new();
        for rank in 0..subjects {
            record::append(&mut list, &SubjectRecord { key: &name(rank), lane: b"", deadline: None, body: b"" });
        }
        shelf.apply(&Record::Added(Added { service: SERVICE, subjects: &list }));
        shelf.flush();
        shelf
    }

    fn apply(&mut self, record: &Record<'_>) {
        self.position += 10;
        let mut bytes = Vec::new();
        record.append_to(&mut bytes);
        let at = At { position: self.position, time: GroupTime { hub_ms: self.position, wall_ms: 7 } };
        self.applier.apply(at, record.kind(), &bytes).unwrap();
        self.applier.take_effects();
        self.applier.take_finished();
    }

    fn flush(&mut self) {
        let time = GroupTime { hub_ms: self.position, wall_ms: 7 };
        self.applier.flush(self.position, time, 0).unwrap();
    }

    /// Leases these ranks and reports on them; an empty report: its deadline had passed.
    fn report(&mut self, reports: &[(u64, Vec<u8>)]) {
        let slot = self.leases;
        self.leases += 1;
        let ranks = reports.iter().map(|(rank, _)| *rank).collect();
        let (service, generation, client) = (SERVICE, 1, 5);
        let (again, lane) = (Vec::new(), Vec::new());
        self.apply(&Record::Leased(Leased { service, generation, slot, client, at: 0, ranks, again, lane }));
        let mut items = Vec::new();
        for (place, (rank, report)) in (0..).zip(reports) {
            let (round, depth, expired) = (1, 0, report.is_empty());
            let (key, found, beyond): (&[u8], &[u8], &[u8]) = (&name(*rank), &[], &[]);
            Item { place, rank: *rank, depth, round, key, report, found, beyond, too_deep: 0, expired }
                .append_to(&mut items);
        }
        let state = None;
        self.apply(&Record::Reported(Reported { service, generation, slot, client, items: &items, state }));
    }

    fn on(&mut self, decision: Decision, rank: u64) {
        let mut keys = Vec::new();
        record::append(&mut keys, &KeyRecord { key: &name(rank) });
        self.apply(&decision.record(Keys { service: SERVICE, keys: &keys }));
    }

    /// The records in which first rounds lie: the span, the number, and how many.
    fn records(&self) -> Vec<(u64, u32, usize)> {
        let mut found = Vec::new();
        apply::each(self.store.as_ref(), SERVICE, key::FIRST_ROUNDS, |rest, bytes| {
            let rounds: FirstRoundsValue<'_> = record::decode("first rounds", bytes).unwrap();
            found.push((key::number(rest).unwrap(), key::small_number(&rest[8..]).unwrap(), rounds.len()));
            Ok(())
        })
        .unwrap();
        found
    }
}

/// The report in force; `None` while there is none.
fn result(store: &dyn Store, rank: u64) -> Option<Vec<u8>> {
    let bytes = first_rounds::subject(store, SERVICE, &name(rank)).unwrap()?;
    apply::subject(&bytes).unwrap().current.map(|version| version.report.to_vec())
}

/// A batch's reports make one record for each 256 ranks, however many leases brought them, and the subjects' own records stay.
#[test]
fn reports_of_a_batch_lie_together() {
    let mut shelf = Shelf::new(600);
    let stored = |shelf: &Shelf| apply::pairs(shelf.store.as_ref(), SERVICE, key::SUBJECT).collect::<Vec<_>>().len();
    for rank in 0..600 {
        shelf.report(&[(rank, report_on(rank))]);
    }
    let subject = shelf.store.get(&key::of(SERVICE, key::SUBJECT, &name(3))).unwrap();
    shelf.flush();
    assert_eq!(shelf.records(), [(0, 0, 256), (1, 0, 256), (2, 0, 88)]);
    assert_eq!(shelf.store.get(&key::of(SERVICE, key::SUBJECT, &name(3))).unwrap(), subject, "not written again");
    assert_eq!(stored(&shelf), 600);
    for rank in 0..600 {
        assert_eq!(result(shelf.store.as_ref(), rank), Some(report_on(rank)));
    }
    let listed: BTreeMap<_, _> =
        first_rounds::subjects(shelf.store.as_ref(), SERVICE, &name(2), 100).map(Result::unwrap).collect();
    assert_eq!(listed.len(), 598);
    for (rank, bytes) in (2..).zip(listed.values()) {
        let value: SubjectValue<'_> = apply::subject(bytes).unwrap();
        assert!(!value.open && value.versions == 1, "{value:?}");
        let version = value.current.unwrap();
        assert_eq!((version.report, version.number, version.client), (report_on(rank).as_slice(), 1, 5));
    }
}

/// Long reports stand by themselves; an end without a report lies with the others.
#[test]
fn long_reports_stand_by_themselves() {
    let mut shelf = Shelf::new(4);
    let reports = [(0, vec![1; 512]), (1, vec![2; 513]), (2, Vec::new()), (3, report_on(3))];
    shelf.report(&reports);
    shelf.flush();
    assert_eq!(shelf.records(), [(0, 0, 3)]);
    for (rank, report) in &reports {
        assert_eq!(result(shelf.store.as_ref(), *rank), (!report.is_empty()).then(|| report.clone()));
    }
    let bytes = first_rounds::subject(shelf.store.as_ref(), SERVICE, &name(2)).unwrap().unwrap();
    let value = apply::subject(&bytes).unwrap();
    assert_eq!((value.open, value.expired, value.versions, value.current), (false, true, 0, None));
}

/// Many small batches do not leave many records behind, and a store that is opened again goes on.
#[test]
fn many_records_become_one() {
    let mut shelf = Shelf::new(256);
    for rank in 0..200 {
        shelf.report(&[(rank, report_on(rank))]);
        shelf.flush();
        assert!(shelf.records().len() <= 16, "{:?}", shelf.records());
        assert_eq!(shelf.records().iter().map(|(_, _, n)| *n as u64).sum::<u64>(), rank + 1);
        if rank == 77 {
            shelf.applier = Applier::load(Arc::clone(&shelf.store)).unwrap();
        }
    }
    assert!((0..200).all(|rank| result(shelf.store.as_ref(), rank) == Some(report_on(rank))));
    assert!((200..256).all(|rank| result(shelf.store.as_ref(), rank).is_none()));
}

/// R32: of a subject that is deleted, or reported on again, nothing stays with its neighbours; theirs do.
#[test]
fn what_changes_again_goes_over_to_its_subject() {
    let mut shelf = Shelf::new(8);
    for rank in 0..8 {
        shelf.report(&[(rank, report_on(rank))]);
        if rank % 3 == 2 {
            shelf.flush();
        }
    }
    // Some of these lie in the store, some in the batch under way.
    for rank in [0, 7] {
        shelf.on(Decision::Delete, rank);
    }
    for rank in [1, 6] {
        shelf.on(Decision::Rerun, rank);
    }
    shelf.flush();
    assert_eq!(shelf.records().iter().map(|(_, _, n)| *n).sum::<usize>(), 4);
    for (_, bytes) in apply::pairs(shelf.store.as_ref(), SERVICE, key::FIRST_ROUNDS).map(Result::unwrap) {
        for rank in [0, 1, 6, 7] {
            assert!(!bytes.windows(11).any(|window| window == report_on(rank)), "{rank}");
        }
    }
    for (rank, there) in (0..8).zip([false, true, true, true, true, true, true, false]) {
        assert_eq!(result(shelf.store.as_ref(), rank), there.then(|| report_on(rank)));
    }
    for rank in [1, 6] {
        let bytes = first_rounds::subject(shelf.store.as_ref(), SERVICE, &name(rank)).unwrap().unwrap();
        let value = apply::subject(&bytes).unwrap();
        assert_eq!((value.open, value.round, value.versions), (true, 2, 1));
    }
}

/// Whoever reads while ends come, become one record and go over to their subjects sees each subject done once it was.
#[test]
fn readers_never_see_a_result_go() {
    const SUBJECTS: u64 = 300;
    let mut shelf = Shelf::new(SUBJECTS);
    let (store, over) = (Arc::clone(&shelf.store), AtomicBool::new(false));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = vec![false; usize::try_from(SUBJECTS).unwrap()];
            let mut note = |rank: u64, report: Option<Vec<u8>>| {
                let seen = &mut seen[usize::try_from(rank).unwrap()];
                assert!(report.is_some() || !*seen, "the result of {rank} is gone");
                *seen = report.is_some();
                assert!(report.is_none_or(|report| report == report_on(rank)));
            };
            loop {
                let last = over.load(Ordering::SeqCst);
                (0..SUBJECTS).for_each(|rank| note(rank, result(store.as_ref(), rank)));
                for pair in first_rounds::subjects(store.as_ref(), SERVICE, &[], 16) {
                    let (name, bytes) = pair.unwrap();
                    let rank = key::number(key::rest(&name)).unwrap();
                    note(rank, apply::subject(&bytes).unwrap().current.map(|version| version.report.to_vec()));
                }
                if last {
                    break seen;
                }
            }
        });
        for rank in 0..SUBJECTS {
            shelf.report(&[(rank, report_on(rank))]);
            shelf.flush();
            if rank % 5 == 4 {
                shelf.on(Decision::Rerun, rank - 2);
                shelf.flush();
            }
        }
        over.store(true, Ordering::SeqCst);
        assert!(reader.join().unwrap().into_iter().all(|seen| seen));
    });
}
