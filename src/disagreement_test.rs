//! Results that later rounds do not confirm, as a symptom. The re-runs are written into the journal by hand here.

use std::time::Duration;

use crate::explain_test::{keys, write_by_hand};
use crate::record::{Keys, Record};
use crate::{
    Ask, Claim, Hub, Level, ManualClock, MemoryDisk, Policy, Registration, Reporter, Seat, Service, ServiceHandle,
    Symptom, Verdict, Watch,
};

const INTERVAL: Duration = Duration::from_secs(600);

/// Takes any number for a report; suspects who is contradicted ten times in an interval, `raise_after` times in a row.
struct Count {
    raise_after: u32,
}

impl Service for Count {
    type Subject = u64;
    type Report = u8;

    fn id(&self) -> &'static str {
        "count"
    }

    fn policy(&self) -> Policy {
        let disagreement = Symptom::new(10, 100);
        let watch = Watch { disagreement, raise_after: self.raise_after, ..Watch::default() };
        Policy { bucket_subjects: 12, watch, ..Policy::default() }
    }

    fn judge(&self, _subject: &u64, _report: &u8, _reporter: Reporter) -> Verdict {
        Verdict::Accept
    }
}

struct Shop {
    disk: MemoryDisk,
    clock: ManualClock,
    hub: Hub,
    service: ServiceHandle<Count>,
    raise_after: u32,
}

impl Shop {
    fn open(disk: MemoryDisk, clock: ManualClock, raise_after: u32) -> Self {
        let hub = Hub::builder().manual().clock(clock.clone()).open_in_memory(&disk).unwrap();
        let service = hub.register(Count { raise_after }).unwrap();
        hub.tick();
        Self { disk, clock, hub, service, raise_after }
    }

    /// Opened again, with all twelve subjects to be worked on once more.
    fn rerun(self) -> Self {
        let Self { disk, clock, hub, service, raise_after } = self;
        hub.close().unwrap();
        drop((hub, service));
        let list = keys(&(0..12).collect::<Vec<_>>());
        write_by_hand(&disk, &[Record::Rerun(Keys { service: 1, keys: &list })]);
        Self::open(disk, clock, raise_after)
    }

    fn seat(&self, id: u64) -> Seat<Count> {
        let client = self.hub.register_client(&Registration::new(id, "any")).unwrap().client;
        client.activate(&self.service).unwrap()
    }

    fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.hub.tick();
    }

    /// The client reports the same number on every subject that waits.
    fn work(&self, id: u64, report: u8) {
        let seat = self.seat(id);
        self.hub.tick();
        self.pass(Duration::from_secs(1));
        let Claim::Leased(grant) = seat.claim(Ask::one()).unwrap() else { panic!("twelve subjects wait") };
        for lease in grant {
            let reports: Vec<_> = lease.subjects().map(|subject| (subject, report)).collect();
            assert_eq!(reports.len(), 12);
            drop(lease.submit(reports).unwrap());
        }
        self.hub.tick();
    }

    fn standing(&self, id: u64) -> (Level, u64, String) {
        let stats = self.service.seat_stats(id).unwrap();
        (stats.level, stats.disagreements, stats.why.unwrap_or_default())
    }
}

/// Client 1 reports on twelve subjects.
fn shop(raise_after: u32) -> Shop {
    let shop = Shop::open(MemoryDisk::new(), ManualClock::default(), raise_after);
    shop.service.add_all(0..12).unwrap();
    shop.work(1, 13);
    shop
}

/// R45, R48: whose results others do not confirm becomes suspect; who confirms, or is the one to differ later, does not.
#[test]
fn results_that_others_do_not_confirm_make_a_suspect() {
    let shop = shop(1).rerun();
    let _seat = shop.seat(1);
    shop.work(2, 7);
    shop.pass(INTERVAL);
    let (level, disagreements, why) = shop.standing(1);
    assert_eq!((level, disagreements), (Level::Suspect, 12), "{why}");
    assert!(why.ends_with("(results contradicted by others: 12, from 10 on)"), "{why}");
    let shop = shop.rerun();
    let _seat = shop.seat(2);
    shop.work(3, 7);
    shop.pass(INTERVAL);
    assert_eq!([2, 3].map(|id| shop.standing(id)), [2, 3].map(|_| (Level::Healthy, 0, String::new())));
    assert_eq!(shop.standing(1), (Level::Suspect, 12, why), "of the past nothing is counted again");
}

/// R45, R48: leaving does not help: results are judged when they are done again, whoever reported them being there or not.
#[test]
fn who_left_is_judged_by_its_results() {
    let shop = shop(1);
    drop(shop.hub.client(1).unwrap().deregister().unwrap());
    shop.hub.tick();
    let shop = shop.rerun();
    shop.work(2, 7);
    shop.pass(INTERVAL);
    shop.pass(INTERVAL);
    let (level, disagreements, why) = shop.standing(1);
    assert_eq!((level, disagreements), (Level::Suspect, 12), "{why}");
    assert_eq!(shop.standing(2).0, Level::Healthy);
}
