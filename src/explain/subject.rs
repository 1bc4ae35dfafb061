//! Why a subject is where it is.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Explanation, Story, client_name, count, count_u64, lease_now, ordinal, shown, why};
use crate::apply::{self, At, stored};
use crate::clock::utc;
use crate::error::ReadError;
use crate::events::each_record;
use crate::first_rounds;
use crate::house::House;
use crate::keys::EVERY_SERVICE;
use crate::record::{
    self, DecodeError, FoundRecord, Item, KeyRecord, Keys, Record, Reported, Restored, SubjectRecord, SubjectValue,
    VersionName, Withdrawn,
};
use crate::registry::ServiceCore;
use crate::service::ServiceState;
use crate::slot::Phase;

/// Explains a subject; `show` prints keys. Goes through the journal twice: leases name ranks, and which were the subject's
/// in earlier rounds only its reports tell.
pub(crate) fn of_subject(
    house: &House,
    core: &ServiceCore,
    name: &[u8],
    show: &dyn Fn(&[u8]) -> String,
) -> Result<Explanation, ReadError> {
    let bytes = first_rounds::subject(house.store.as_ref(), core.id, name)?;
    let value = bytes.as_deref().map(|bytes| stored(record::decode("subject", bytes))).transpose()?;
    let mut ranks = Ranks { service: core.id, key: name, ..Ranks::default() };
    each_record(house, |_, record| ranks.record(&record))?;
    ranks.end(value.as_ref());
    let mut of = OfSubject {
        story: Story::new(house),
        service: core.id,
        key: name,
        show,
        is_stored: value.is_some(),
        was_cut: core.counts.cut_by_budget.value() > 0,
        ranks,
        budget: u64::MAX,
        life: 0,
        standing: Standing::New,
        again: 0,
        leased: false,
        held: None,
        versions: 0,
        settled: HashSet::new(),
        retractions: BTreeSet::new(),
    };
    each_record(house, |at, record| of.record(at, record))?;
    let mut now = match &value {
        None => "not known to the service".to_owned(),
        Some(value) => now(house, core, value),
    };
    if of.again > 0 {
        now = format!("{now}; it was offered {} more, which changed nothing", count_u64(of.again, "time"));
    }
    Ok(of.story.end(now))
}

/// How a subject was offered.
#[derive(Debug, Clone, Copy)]
enum Entrance {
    Added,
    Found,
    /// Found, and of a lane: no bound cuts it.
    Sent,
}

/// The ranks that a subject had, so far as they are known: of the rounds that were reported on, and of the last one.
#[derive(Default)]
struct Ranks<'a> {
    service: u32,
    key: &'a [u8],
    all: HashSet<u64>,
    /// By life and round. A life ends when the subject is deleted.
    rounds: BTreeMap<(u32, u32), u64>,
    deletions: u32,
}

impl Ranks<'_> {
    fn record(&mut self, record: &Record<'_>) -> Result<(), DecodeError> {
        match record {
            Record::Reported(of) | Record::Late(of) if of.service == self.service => self.items(of.items),
            Record::Conflict(of) if of.service == self.service => self.items(of.items),
            Record::Deleted(of) if is_for(of.service, self.service) => {
                self.deletions += u32::from(names(of.keys, self.key)?);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn items(&mut self, items: &[u8]) -> Result<(), DecodeError> {
        for item in record::list::<Item<'_>>("item", items) {
            let item = item?;
            // A late report on an earlier life names a rank that is known already.
            if item.key == self.key && self.all.insert(item.rank) {
                self.rounds.insert((self.deletions, item.round), item.rank);
            }
        }
        Ok(())
    }

    fn end(&mut self, value: Option<&SubjectValue<'_>>) {
        if let Some(value) = value.filter(|value| value.round > 0) {
            self.all.insert(value.rank);
            self.rounds.insert((self.deletions, value.round), value.rank);
        }
    }

    fn are_among(&self, ranks: &[u64]) -> bool {
        ranks.iter().any(|rank| self.all.contains(rank))
    }
}

/// Whether a deletion concerns a service.
fn is_for(deleted: u32, service: u32) -> bool {
    deleted == service || deleted == EVERY_SERVICE
}

/// Whether a list of keys names this one.
fn names(list: &[u8], key: &[u8]) -> Result<bool, DecodeError> {
    let mut found = false;
    for name in record::list::<KeyRecord<'_>>("key", list) {
        found |= name?.key == key;
    }
    Ok(found)
}

/// What the service knows of the subject.
#[derive(Clone, Copy, PartialEq)]
enum Standing {
    /// Nothing yet, in this life.
    New,
    Known,
    /// A retraction took it away.
    Withdrawn,
}

/// One subject, as far as the story is told.
struct OfSubject<'a> {
    story: Story<'a>,
    service: u32,
    key: &'a [u8],
    show: &'a dyn Fn(&[u8]) -> String,
    /// The store knows it.
    is_stored: bool,
    /// Some subject of the service was cut by the budget.
    was_cut: bool,
    ranks: Ranks<'a>,
    /// The service's `max_subjects`.
    budget: u64,
    /// How many times it was deleted.
    life: u32,
    standing: Standing,
    /// Offers while it was known.
    again: u64,
    leased: bool,
    /// Its rank in the last lease.
    held: Option<u64>,
    /// Versions of its result, in this life.
    versions: u32,
    /// Ranks that are owed no more.
    settled: HashSet<u64>,
    /// Retractions that concerned it.
    retractions: BTreeSet<u64>,
}

impl OfSubject<'_> {
    fn record(&mut self, at: At, record: Record<'_>) -> Result<(), DecodeError> {
        match record {
            Record::Boot(of) if self.leased => {
                let times = ordinal(of.number.into());
                self.story.tell(at, format!("the hub was opened for the {times} time; the lease went on"));
            }
            Record::Service(of) if of.service == self.service => self.budget = of.max_subjects,
            Record::Added(of) if of.service == self.service => {
                self.among(at, of.subjects, Entrance::Added, |_| "added by hand".to_owned())?;
            }
            Record::Leased(of) if of.service == self.service && self.ranks.are_among(&of.ranks) => {
                let (who, others) = (self.story.client(of.client), of.ranks.len().saturating_sub(1));
                let others = count(others, "other");
                self.story.tell(at, format!("leased to {who} in bucket {}/{} with {others}", of.generation, of.slot));
                self.leased = true;
                self.held = of.ranks.iter().copied().find(|rank| self.ranks.all.contains(rank));
            }
            Record::Reported(of) if of.service == self.service => self.reported(at, &of, "")?,
            Record::Late(of) if of.service == self.service => {
                self.reported(at, &of, ", whose lease was over and had expired")?;
            }
            Record::Conflict(of) if of.service == self.service => {
                for item in record::list::<Item<'_>>("item", of.items) {
                    if item?.key == self.key {
                        let who = self.story.client(of.client);
                        let text = format!("{who} contradicted the result: kept as evidence, nothing changed");
                        self.story.tell(at, text);
                    }
                }
            }
            Record::Released(of) if of.service == self.service && self.ranks.are_among(&of.ranks) => {
                self.story.tell(at, format!("put back: {}", why(of.cause)));
                self.leased = false;
            }
            Record::Urgent(of) if of.service == self.service && self.ranks.are_among(&of.ranks) => {
                self.story.tell(at, "made urgent".to_owned());
            }
            record => self.decided(at, record)?,
        }
        Ok(())
    }

    /// What an operator decided about it.
    fn decided(&mut self, at: At, record: Record<'_>) -> Result<(), DecodeError> {
        match record {
            Record::Rerun(of) if self.is_named(&of)? => {
                self.story.tell(at, "to be worked on once more, if it was done".to_owned());
            }
            Record::Marked(of) if self.is_named(&of)? => {
                self.story.tell(at, "marked: to be worked on, if it was only known".to_owned());
            }
            Record::Deleted(of) if is_for(of.service, self.service) && names(of.keys, self.key)? => {
                self.story.tell(at, "deleted, with its results".to_owned());
                self.settled.extend(self.ranks.rounds.range((self.life, 0)..(self.life + 1, 0)).map(|(_, rank)| *rank));
                self.life += 1;
                (self.standing, self.leased, self.versions) = (Standing::New, false, 0);
            }
            Record::Withdrawn(of) if of.service == self.service => self.withdrawn(at, &of)?,
            Record::Restored(of) if of.service == self.service && self.retractions.contains(&of.id) => {
                self.restored(at, &of)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn is_named(&self, of: &Keys<'_>) -> Result<bool, DecodeError> {
        Ok(of.service == self.service && names(of.keys, self.key)?)
    }

    fn withdrawn(&mut self, at: At, of: &Withdrawn<'_>) -> Result<(), DecodeError> {
        let id = of.id_at(at.position);
        for version in record::list::<VersionName<'_>>("version", of.versions) {
            let VersionName { key, number } = version?;
            if key == self.key {
                let who = self.story.client(of.client);
                self.story.tell(at, format!("version {number} of its result, {who}'s, withdrawn by retraction {id}"));
                self.retractions.insert(id);
            }
        }
        if names(of.subjects, self.key)? {
            let text = format!("withdrawn by retraction {id}: only withdrawn results had revealed it");
            self.story.tell(at, text);
            self.retractions.insert(id);
            self.standing = Standing::Withdrawn;
            // A late report on it is dropped.
            self.settled.extend(self.held.take());
        }
        for found in record::list::<FoundRecord<'_>>("found subject", of.found) {
            let FoundRecord { key, lane: found_lane, .. } = found?;
            if key == self.key {
                let sent = if found_lane.is_empty() { Entrance::Found } else { Entrance::Sent };
                self.offered(at, "named by another report meanwhile, and taken in again", sent);
            }
        }
        Ok(())
    }

    /// It may be named in more than one part: for its results, and for itself.
    fn restored(&mut self, at: At, of: &Restored<'_>) -> Result<(), DecodeError> {
        let mut is_named = false;
        for version in record::list::<VersionName<'_>>("version", of.versions) {
            is_named |= version?.key == self.key;
        }
        let is_back = names(of.subjects, self.key)?;
        if is_named || is_back {
            let what = if is_back { "it is known again" } else { "its results hold again" };
            self.story.tell(at, format!("retraction {} undone: {what}", of.id));
        }
        if is_back {
            self.standing = Standing::Known;
        }
        Ok(())
    }

    /// Tells of every offer of it in a list of subjects.
    fn among(
        &mut self,
        at: At,
        list: &[u8],
        entrance: Entrance,
        how: impl Fn(&Self) -> String,
    ) -> Result<(), DecodeError> {
        for subject in record::list::<SubjectRecord<'_>>("subject", list) {
            let subject = subject?;
            if subject.key == self.key {
                let how = how(self);
                let sent = matches!(entrance, Entrance::Found) && !subject.lane.is_empty();
                self.offered(at, &how, if sent { Entrance::Sent } else { entrance });
            }
        }
        Ok(())
    }

    fn offered(&mut self, at: At, how: &str, entrance: Entrance) {
        if self.standing == Standing::Known {
            self.again += 1;
            return;
        }
        let rank = self.ranks.rounds.get(&(self.life, 1)).copied().filter(|_| self.standing == Standing::New);
        // The store does not know it, and it was not deleted after this.
        let was_never_taken_in = !self.is_stored && self.life == self.ranks.deletions;
        // Ranks are given in order, and no fewer than there are subjects.
        let bounded = !matches!(entrance, Entrance::Sent);
        let beyond = bounded && self.was_cut && rank.is_some_and(|rank| rank >= self.budget);
        if was_never_taken_in || beyond {
            let text = format!("{how}, and cut: beyond the {} subjects allowed (max_subjects)", self.budget);
            self.story.tell(at, text);
            return;
        }
        self.standing = Standing::Known;
        let text = match rank {
            Some(rank) => format!("{how} as the {} in the order of work", ordinal(rank.saturating_add(1))),
            None => how.to_owned(),
        };
        self.story.tell(at, text);
    }

    fn reported(&mut self, at: At, of: &Reported<'_>, how_late: &str) -> Result<(), DecodeError> {
        for item in record::list::<Item<'_>>("item", of.items) {
            let item = item?;
            if item.key == self.key {
                self.report(at, of.client, &item, how_late);
            }
            let how = |of_subject: &Self| {
                let (who, from) = (of_subject.story.client(of.client), (of_subject.show)(item.key));
                let hops = count(usize::from(item.depth) + 1, "hop");
                format!("found by {who} in its report on {from}, {hops} from one added by hand,")
            };
            self.among(at, item.found, Entrance::Found, how)?;
            for subject in record::list::<SubjectRecord<'_>>("subject", item.beyond) {
                if subject?.key == self.key && self.standing != Standing::Known {
                    let text = format!("{} too deep to be worked on", how(self));
                    self.story.tell(at, text);
                }
            }
        }
        Ok(())
    }

    fn report(&mut self, at: At, client: u64, item: &Item<'_>, how_late: &str) {
        let who = self.story.client(client);
        self.leased = false;
        let is_owed = self.settled.insert(item.rank);
        if item.expired {
            self.story.tell(at, format!("expired while {who} held it: its deadline had passed"));
            return;
        }
        let what = if is_owed {
            self.versions += 1;
            match self.versions {
                1 => "accepted, first result".to_owned(),
                version => format!("accepted, version {version} of its result"),
            }
        } else {
            "accepted, with nothing to do: it was owed no more".to_owned()
        };
        self.story.tell(at, format!("reported by {who}{how_late}: {what}"));
    }
}

/// How a subject that the store knows stands now.
fn now(house: &House, core: &ServiceCore, value: &SubjectValue<'_>) -> String {
    let result = value.current.as_ref().map(|version| {
        let (by, number) = (client_name(&house.people, version.client), version.number);
        format!("version {number} of its result is {by}'s, of {}", shown(utc(version.wall_ms)))
    });
    if value.withdrawn != 0 {
        format!("withdrawn by retraction {}", value.withdrawn)
    } else if value.round == 0 {
        "known, not to be worked on".to_owned()
    } else if value.open {
        let open = open_now(house, core, value.rank);
        result.map_or_else(|| open.clone(), |result| format!("{open}; {result}"))
    } else {
        let how = if value.expired { "expired" } else { "done" };
        result.map_or_else(|| format!("{how}, without a result"), |result| format!("{how}: {result}"))
    }
}

/// Where a subject whose round is open is now.
fn open_now(house: &House, core: &ServiceCore, rank: u64) -> String {
    let mut now = None;
    for pool in core.live().iter() {
        for (index, slot) in pool.slots().iter().enumerate() {
            let seen = slot.snapshot();
            let place = pool.bucket(index).position(|subject| subject.rank == rank);
            let Some(place) = place else { continue };
            let bucket = format!("bucket {}/{}", pool.generation, pool.number(index));
            if seen.phase() == Phase::Ready {
                now = Some(format!("waits in {bucket}, ready to be claimed"));
            } else if !slot.open().has(place) {
                now = Some(format!("reported in {bucket}; the result is on its way to the store"));
            } else if seen.is_held() {
                now = Some(format!("{}, in {bucket}", lease_now(house, pool, seen)));
            }
            // Otherwise it was put back: it is in a newer pool, or on its way there.
        }
    }
    let in_lane = || apply::is_laned(house.store.as_ref(), core.id, rank).unwrap_or(false);
    let waits = || if in_lane() { "waits in its lane" } else { "waits to be put in a bucket" };
    let mut now = now.unwrap_or_else(|| waits().to_owned());
    let state = core.state();
    if state != ServiceState::Active {
        now = format!("{now}; the service is {state}");
    }
    now
}
