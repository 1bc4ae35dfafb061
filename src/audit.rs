//! Conservation: at a quiet moment every subject is in exactly one place, and the fingerprints of the places say so.
//!
//! Everyone who moves subjects notes their fingerprint: the storekeeper what the journal says of them, the steward what it reads,
//! queues and cuts, clients' calls what they lease, report and put back. An audit compares what one party says with what
//! another does. It looks at a fixed number of cells, however many subjects there are. The laws and why they hold are in
//! `docs/protocol.md`.

mod ledger;
mod print;
mod recount;
pub(crate) mod stripes;

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

pub(crate) use self::ledger::{Booked, Entries, Flow, Ledger};
pub use self::print::Print;
pub(crate) use self::recount::{Found, Queues};
pub(crate) use self::stripes::Move;
use crate::error::AuditError;
use crate::house::House;
use crate::registry::ServiceCore;
use crate::sync::Arc;

/// How often it is looked for a quiet moment.
const LOOKS: u32 = 64;
/// How long, at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// An imbalance is believed once nothing moved so many times: a call that was interrupted in its middle goes on meanwhile.
const BELIEVED: u32 = 3;
/// Who waits for a caretaker's rest looks again so often.
const PARK: Duration = Duration::from_millis(1);

/// What must hold at a quiet moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub enum Identity {
    /// What clients' calls accepted is what the journal holds: done, or discarded since it was owed no more.
    Reports,
    /// What left buckets unreported (leases that ended, buckets taken back) has come back to the queues, or is owed no more.
    Returns,
    /// What clients' calls leased and did not let go of is what the journal's leases owe.
    Leases,
    /// The queues hold what was read and came back, and was not cut.
    Queues,
    /// No more was handed out of the pools than was cut into them.
    Pools,
    /// Nothing was read that had not come in or was read before; once all is read, nothing was passed by.
    Reading,
    /// What was owed no more when it ended stood more than once, or its subject was gone.
    Spares,
    /// The counts of subjects known and done differ by those owed.
    Counts,
    /// The store owes what the journal says. Recounted.
    Store,
    /// What the store owes beyond what was read is what came in and was not read. Recounted.
    Unread,
    /// The queues hold these very subjects. Recounted.
    Waiting,
    /// The pools' ready buckets hold these very subjects. Recounted.
    Ready,
    /// The leased buckets owe these very subjects. Recounted.
    Leased,
}

impl Identity {
    fn says(self) -> &'static str {
        match self {
            Self::Reports => "reported = done + discarded",
            Self::Returns => "put back + taken back = returned + owed no more",
            Self::Leases => "leased by clients = leased in the journal",
            Self::Queues => "read + returned + offered again - dropped - cut = queued",
            Self::Pools => "cut - assigned - taken back is not below 0",
            Self::Reading => "come in - read is not below 0, and 0 when all is read",
            Self::Spares => "offered again + gone - ended without effect is not below 0, and 0 without the first two",
            Self::Counts => "known - done = come in - done - gone",
            Self::Store => "owed in the store = come in - done - gone",
            Self::Unread => "owed and unread in the store = come in - read",
            Self::Waiting => "in the queues = read + returned - cut",
            Self::Ready => "in ready buckets = cut - assigned - taken back",
            Self::Leased => "in leased buckets = assigned - reported - put back",
        }
    }
}

/// An identity that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Imbalance {
    /// Which.
    pub identity: Identity,
    /// Its left side less its right side.
    pub difference: Print,
}

impl Imbalance {
    /// How many subjects there are too many on the left side; below 0: too few. 0 if some stand for others.
    #[must_use]
    pub fn subjects(&self) -> i64 {
        self.difference.balance()
    }

    /// The rank of the subject concerned, if it is a single one. Ranks stand in the journal's `Leased` and `Reported` records.
    #[must_use]
    pub fn rank(&self) -> Option<u64> {
        self.difference.rank()
    }
}

impl fmt::Display for Imbalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} fails by {} subjects", self.identity.says(), self.subjects())?;
        if let Some(rank) = self.rank() {
            write!(f, ": the one of rank {rank}")?;
        }
        Ok(())
    }
}

/// Where the subjects of one service are, by fingerprints. Each rank is one round of a subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ServiceAudit {
    /// The service's id.
    pub id: String,
    /// Everything that ever came in, each round of a subject by itself.
    pub entered: Print,
    /// Rounds that ended with a report.
    pub done: Print,
    /// Rounds that ended without one: deleted or withdrawn.
    pub gone: Print,
    /// In the store alone.
    pub unread: Print,
    /// In the store, and not handed out: the plugin's type does not read them.
    pub unreadable: Print,
    /// Read or put back, in no bucket.
    pub waiting: Print,
    /// In buckets that nobody has claimed.
    pub ready: Print,
    /// Owed by leases, dead ones within their grace included.
    pub leased: Print,
    /// Of those waiting, ready and leased: owed no more, or counted a second time. The subject was made urgent and offered again,
    /// or it is gone while a client holds it.
    pub spare: Print,
    /// What does not hold; empty if all does.
    pub imbalances: Vec<Imbalance>,
}

impl ServiceAudit {
    /// All states together: what [`entered`](Self::entered) must be.
    #[must_use]
    pub fn total(&self) -> Print {
        let states = [self.done, self.gone, self.unread, self.unreadable, self.waiting, self.ready, self.leased];
        states.into_iter().fold(Print::default(), Print::plus).minus(self.spare)
    }

    /// True if every identity holds.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        self.imbalances.is_empty()
    }

    fn of(service: &ServiceCore, entries: &Entries, found: Option<&Found>) -> Self {
        let places = Places::of(entries);
        let mut audit = Self {
            id: service.name.to_string(),
            entered: entries.now.entered,
            done: entries.now.done,
            gone: entries.now.gone,
            unread: places.unread,
            unreadable: entries.unreadable,
            waiting: places.waiting,
            ready: places.ready,
            leased: places.leased,
            spare: places.spare,
            imbalances: Vec::new(),
        };
        audit.check(service, entries, &places);
        if let Some(found) = found {
            audit.compare(&places, found);
        }
        audit
    }

    fn must(&mut self, holds: bool, identity: Identity, difference: Print) {
        if !holds {
            self.imbalances.push(Imbalance { identity, difference });
        }
    }

    fn check(&mut self, service: &ServiceCore, entries: &Entries, places: &Places) {
        let Places { unread, waiting, ready, spare, .. } = *places;
        self.must(places.reporting.is_nothing(), Identity::Reports, places.reporting);
        self.must(places.returning.is_nothing(), Identity::Returns, places.returning);
        // A subject that another lease has reported meanwhile is owed by its holder still, but not in the journal.
        let lag = places.leased.minus(entries.now.leased);
        let holds = lag.is_nothing() || (0 < lag.balance() && lag.balance() <= spare.balance());
        self.must(holds, Identity::Leases, lag);
        // Lengths are all that is known of the queues here.
        let queued = Print { count: entries.queued, ..waiting };
        self.must(waiting == queued, Identity::Queues, Print { xor: 0, ..waiting.minus(queued) });
        self.must(ready.balance() >= 0, Identity::Pools, ready);
        let all_read = entries.read_to >= service.counts.visible.rank();
        self.must(unread.is_nothing() || (!all_read && unread.balance() > 0), Identity::Reading, unread);
        let could_be = entries.second.count + entries.recovered_spare.count + places.gone.count > 0;
        self.must(spare.is_nothing() || (could_be && spare.balance() >= 0), Identity::Spares, spare);
        let known = service.counts.known.value().wrapping_sub(service.counts.done.value());
        let by_counts = Print { count: known.wrapping_sub(places.owed.count), ..Print::default() };
        self.must(by_counts.is_nothing(), Identity::Counts, by_counts);
    }

    fn compare(&mut self, places: &Places, found: &Found) {
        for (identity, found, noted) in [
            (Identity::Store, found.owed, places.owed),
            (Identity::Unread, found.unread, places.unread),
            (Identity::Waiting, found.waiting, places.waiting),
            (Identity::Ready, found.ready, places.ready),
            (Identity::Leased, found.leased, places.leased),
        ] {
            let difference = found.minus(noted);
            self.must(difference.is_nothing(), identity, difference);
        }
    }
}

impl fmt::Display for ServiceAudit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.id)?;
        if self.is_balanced() {
            return write!(f, " balanced");
        }
        for (place, imbalance) in self.imbalances.iter().enumerate() {
            write!(f, "{} {imbalance}", if place == 0 { "" } else { ";" })?;
        }
        Ok(())
    }
}

/// What follows from a ledger's entries.
struct Places {
    owed: Print,
    unread: Print,
    waiting: Print,
    ready: Print,
    leased: Print,
    /// Left a bucket, and neither in a queue nor found to be owed no more.
    returning: Print,
    /// Reported, and not applied.
    reporting: Print,
    spare: Print,
    /// Since the hub was opened.
    gone: Print,
}

impl Places {
    fn of(e: &Entries) -> Self {
        let (now, opened) = (&e.now, &e.opened);
        let done = now.done.minus(opened.done);
        let gone = now.gone.minus(opened.gone);
        let discarded = now.discarded.minus(opened.discarded);
        let recovered_once = e.recovered.minus(e.recovered_spare);
        let came_in = now.entered.minus(opened.done).minus(opened.gone);
        let without_effect = e.dropped.plus(e.unowed).plus(e.cleared).plus(discarded);
        Self {
            owed: now.entered.minus(now.done).minus(now.gone),
            unread: came_in.minus(recovered_once).minus(e.read).minus(e.unreadable).minus(e.missed),
            waiting: e.read.plus(e.returned).plus(e.second).minus(e.dropped).minus(e.cut),
            ready: e.cut.minus(e.assigned).minus(e.abandoned),
            leased: e.recovered.plus(e.assigned).minus(e.reported).minus(e.put_back).minus(e.cleared),
            returning: e.put_back.plus(e.abandoned).minus(e.returned).minus(e.unowed),
            reporting: e.reported.minus(done).minus(discarded),
            spare: e.second.plus(e.recovered_spare).plus(gone).minus(e.missed).minus(without_effect),
            gone,
        }
    }
}

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Audit {
    /// The registered services, in the order of their registration.
    pub services: Vec<ServiceAudit>,
}

impl Audit {
    /// True if every identity holds for every service: no subject was lost, and none counted twice.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        self.services.iter().all(ServiceAudit::is_balanced)
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, service) in self.services.iter().enumerate() {
            write!(f, "{}{service}", if place == 0 { "" } else { ". " })?;
        }
        Ok(())
    }
}

/// How deep an audit looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// At the ledgers.
    Ledgers,
    /// At every subject as well.
    Subjects,
}

type Read = Vec<(Arc<ServiceCore>, Entries)>;

fn read(house: &House) -> Read {
    let read = |service: Arc<ServiceCore>| {
        let entries = service.ledger.read();
        (service, entries)
    };
    house.registry.all().into_iter().map(read).collect()
}

fn unmoved(before: &Read, after: &Read) -> bool {
    before.iter().map(|(_, entries)| entries).eq(after.iter().map(|(_, entries)| entries))
}

/// Finds a quiet moment, at which all that was under way is through and nothing moves, and checks the identities.
pub(crate) fn audit(house: &House, depth: Depth) -> Result<Audit, AuditError> {
    let began = Instant::now();
    let mut before = read(house);
    let mut still = 0;
    for looks in 1..=LOOKS {
        if depth == Depth::Subjects {
            for (service, _) in &before {
                service.ledger.ask();
            }
        }
        if !settle(house, began)? {
            return Err(AuditError::NotQuiet { looks, waited: began.elapsed() });
        }
        let found = if depth == Depth::Subjects { count(house, &before)? } else { vec![None; before.len()] };
        let after = read(house);
        still = if unmoved(&before, &after) { still + 1 } else { 0 };
        if still > 0 {
            let services = after.iter().zip(&found);
            let services = services.map(|((of, entries), found)| ServiceAudit::of(of, entries, found.as_ref()));
            let audit = Audit { services: services.collect() };
            if audit.is_balanced() || still == BELIEVED {
                return Ok(audit);
            }
        }
        before = after;
    }
    Err(AuditError::NotQuiet { looks: LOOKS, waited: began.elapsed() })
}

fn count(house: &House, services: &Read) -> Result<Vec<Option<Found>>, AuditError> {
    let count = |service: &Arc<ServiceCore>| {
        let queues = service.ledger.answered();
        queues.map(|queues| recount::count(house.store.as_ref(), service, &queues)).transpose()
    };
    Ok(services.iter().map(|(service, _)| count(service)).collect::<Result<_, _>>()?)
}

/// Lets everything that is under way come through: the caretakers come to rest. False if they do not in time.
fn settle(house: &House, began: Instant) -> Result<bool, AuditError> {
    let link = &house.link;
    link.check()?;
    house.tick();
    if link.manual {
        link.check()?;
        return Ok(true);
    }
    // What one is through with may be on its way to the next.
    let caretakers = [
        (&link.writer_rests, &link.writer),
        (&link.storekeeper_rests, &link.storekeeper),
        (&link.steward_rests, &link.steward),
    ];
    for (rests, signal) in caretakers {
        // The one under way may have begun before.
        let enough = rests.count() + 2;
        while rests.count() < enough {
            link.check()?;
            if began.elapsed() > PATIENCE {
                return Ok(false);
            }
            signal.raise();
            std::thread::park_timeout(PARK);
        }
    }
    Ok(true)
}
