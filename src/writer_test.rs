//! Which changes share a sync.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use crate::caretakers::Caretakers;
use crate::commit::Change;
use crate::device::MemoryDevice;
use crate::journal::{Group, JournalFile, Log, Outcome, Purpose};
use crate::link::Link;
use crate::service::contain;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};
use crate::{Durability, Hub, ManualClock, MemoryDisk, Progress, Ticket, TicketError};

/// What becomes of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The storekeeper fails meanwhile.
    Store,
    /// From the third on they cannot be written.
    Append,
    /// The third one's append panics.
    Panic,
    Sync,
}

/// What is written, and how often it was synced.
#[derive(Debug, Default)]
struct Counts {
    groups: AtomicU64,
    syncs: AtomicU64,
    /// Those of the changes that came meanwhile.
    tickets: Mutex<Vec<Ticket>>,
}

/// A journal that takes its time: while a group is written, somebody makes the next change.
#[derive(Debug)]
struct Slow {
    log: JournalFile,
    counts: Arc<Counts>,
    clock: ManualClock,
    link: Arc<Link>,
    /// Changes that are still to be made.
    coming: u64,
    append: Duration,
    sync: Duration,
    fault: Fault,
}

impl Log for Slow {
    fn append(&mut self, group: &mut Group) -> Outcome {
        let number = self.counts.groups.fetch_add(1, Ordering::SeqCst) + 1;
        self.clock.advance(self.append);
        if self.coming > 0 {
            self.coming -= 1;
            self.counts.tickets.lock().unwrap().push(self.link.post(change(), 0));
        }
        match self.fault {
            Fault::Store => self.link.poison("store: it failed".to_owned()),
            Fault::Append if number > 2 => return Outcome::Unknown(io::Error::other("no page")),
            Fault::Panic if number > 2 => panic!("no page"),
            _ => {}
        }
        self.log.append(group)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.counts.syncs.fetch_add(1, Ordering::SeqCst);
        self.clock.advance(self.sync);
        if self.fault == Fault::Sync { Err(io::Error::other("no disk")) } else { self.log.sync() }
    }

    fn end(&self) -> u64 {
        self.log.end()
    }

    fn synced(&self) -> u64 {
        self.log.synced()
    }
}

/// Who waits for what is synced.
type Reader = Arc<Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>>;

fn has_read(reader: &Reader) -> bool {
    reader.lock().unwrap().as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// A journal whose groups are longer than a checkpoint is far. While it is synced, its reader looks in vain.
struct Long {
    end: u64,
    synced: Arc<AtomicU64>,
    reader: Reader,
}

impl fmt::Debug for Long {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.end)
    }
}

impl Log for Long {
    fn append(&mut self, _: &mut Group) -> Outcome {
        let start = self.end;
        self.end += 1 << 30;
        Outcome::Applied { start, end: self.end }
    }

    fn sync(&mut self) -> io::Result<()> {
        assert!(!has_read(&self.reader), "it is not synced yet");
        self.synced.store(self.end, Ordering::SeqCst);
        Ok(())
    }

    fn end(&self) -> u64 {
        self.end
    }

    fn synced(&self) -> u64 {
        self.synced.load(Ordering::SeqCst)
    }
}

fn change() -> Change {
    Change::Urgent { service: 1, ranks: Vec::new() }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A hub whose writer has synced once, and is about to write a change; more come meanwhile.
struct Shop {
    hub: Hub,
    caretakers: Caretakers,
    counts: Arc<Counts>,
}

impl Shop {
    /// Syncs, and appends, that take so long; so many more changes.
    fn open(durability: Durability, [sync, append]: [Duration; 2], coming: u64, fault: Fault) -> Self {
        let clock = ManualClock::default();
        let builder = Hub::builder().clock(clock.clone()).durability(durability).manual();
        let hub = builder.open_in_memory(&MemoryDisk::new()).unwrap();
        let mut caretakers = hub.house().dismiss().unwrap();
        let link = Arc::clone(&hub.house().link);
        let slow = |counts: &Arc<Counts>, coming, append, fault| {
            let log = JournalFile::create(Box::new(MemoryDevice::new()), Purpose::Hub, 0, 0).unwrap();
            let (clock, link, counts) = (clock.clone(), Arc::clone(&link), Arc::clone(counts));
            Box::new(Slow { log, counts, clock, link, coming, append, sync, fault })
        };
        caretakers.writer.go_on_with(slow(&Arc::default(), 0, Duration::ZERO, Fault::None));
        drop(link.post(change(), 0));
        assert!(caretakers.writer.turn());
        let counts = Arc::default();
        caretakers.writer.go_on_with(slow(&counts, coming, append, fault));
        counts.tickets.lock().unwrap().push(link.post(change(), 0));
        Self { hub, caretakers, counts }
    }

    /// It would sleep, but is woken at once.
    fn rest(mut self) -> Self {
        let _ = self.caretakers.writer.rest();
        self.hub.house().link.writer.lower();
        self
    }

    /// Groups, and syncs, of the next turn.
    fn turn(&mut self) -> (u64, u64) {
        self.caretakers.writer.turn();
        (self.counts.groups.swap(0, Ordering::SeqCst), self.counts.syncs.swap(0, Ordering::SeqCst))
    }

    /// What the tickets say, in their order.
    fn progress(&self) -> Vec<Result<Progress, TicketError>> {
        self.counts.tickets.lock().unwrap().iter().map(Ticket::progress).collect()
    }
}

#[test]
fn what_comes_after_a_rest_shares_a_sync() {
    let mut shop = Shop::open(Durability::Sync, [ms(5), ms(1)], 3, Fault::None).rest();
    assert_eq!(shop.turn(), (4, 1));
    assert_eq!(shop.progress(), [Ok(Progress::Durable); 4]);
    assert_eq!(shop.turn(), (0, 0), "all of it was written");
}

#[test]
fn nothing_waits_for_more_than_a_syncs_time_or_5_ms() {
    // The first; then two more in 3 ms, or in 5.
    for (sync, append) in [(3, 2), (10_000, 4)] {
        let mut shop = Shop::open(Durability::Sync, [ms(sync), ms(append)], 1_000, Fault::None).rest();
        assert_eq!(shop.turn(), (3, 1));
        assert_eq!(shop.turn(), (1, 1), "it did not rest");
    }
}

#[test]
fn without_a_rest_or_a_sync_nothing_is_waited_for() {
    let mut busy = Shop::open(Durability::Sync, [ms(5), ms(1)], 5, Fault::None);
    assert_eq!(busy.turn(), (1, 1));
    let mut unsynced = Shop::open(Durability::Os, [ms(5), ms(1)], 5, Fault::None).rest();
    assert_eq!(unsynced.turn(), (1, 0));
}

/// What was written is synced; what came meanwhile is answered by the next turn.
#[test]
fn a_poisoned_hub_gathers_nothing() {
    let mut shop = Shop::open(Durability::Sync, [ms(5), ms(1)], 5, Fault::Store).rest();
    assert_eq!(shop.turn(), (1, 1));
    assert_eq!(shop.progress(), [Ok(Progress::Durable), Ok(Progress::Pending)]);
    assert_eq!(shop.turn(), (0, 0));
    assert_eq!(shop.progress(), [Ok(Progress::Durable), Err(TicketError::Refused)]);
}

#[test]
fn what_is_gathered_and_cannot_be_written_or_synced_poisons_the_hub_and_is_answered() {
    let unknown = Err(TicketError::Unknown);
    for (fault, cause, turned, answers) in [
        (Fault::Append, "journal append: no page", (3, 1), vec![Ok(Progress::Durable), Ok(Progress::Durable), unknown]),
        (Fault::Sync, "journal sync: no disk", (4, 1), vec![unknown; 4]),
    ] {
        let coming = if fault == Fault::Append { 2 } else { 3 };
        let mut shop = Shop::open(Durability::Sync, [ms(5), ms(1)], coming, fault).rest();
        assert_eq!((shop.turn(), shop.progress()), (turned, answers), "{fault:?}");
        assert_eq!(shop.hub.house().link.cause(), cause);
    }
}

#[test]
fn what_is_gathered_when_the_writer_panics_is_answered() {
    let mut shop = Shop::open(Durability::Sync, [ms(5), ms(1)], 2, Fault::Panic).rest();
    assert_eq!(contain(|| shop.turn()), Err("no page".to_owned()));
    assert_eq!(shop.progress(), [Err(TicketError::Unknown); 3]);
}

/// The last sync there is for an hour: nobody else would tell them.
#[test]
fn those_who_read_what_is_synced_are_told_what_a_checkpoint_syncs() {
    let builder = Hub::builder().durability(Durability::Every(Duration::from_secs(3600))).manual();
    let hub = builder.open_in_memory(&MemoryDisk::new()).unwrap();
    let mut caretakers = hub.house().dismiss().unwrap();
    let (link, synced) = (Arc::clone(&hub.house().link), Arc::new(AtomicU64::new(0)));
    let (news, until) = (Arc::clone(&link), Arc::clone(&synced));
    let read = async move {
        let look = || Ok::<_, Infallible>((until.load(Ordering::SeqCst) > 0).then_some(()));
        let _ = news.news.whenever(look).await;
    };
    let reader: Reader = Arc::new(Mutex::new(Box::pin(read)));
    assert!(!has_read(&reader));
    caretakers.writer.go_on_with(Box::new(Long { end: 0, synced, reader: Arc::clone(&reader) }));
    drop(link.post(change(), 0));
    assert!(caretakers.writer.turn());
    assert!(has_read(&reader));
}
