//! Everything of a submit that can fail, allocate or run foreign code: before anything is changed.

use std::hash::{BuildHasher, Hasher};
use std::panic::resume_unwind;

use foldhash::fast::FixedState;

use super::{Outcome, Reporting, encode_subject};
use crate::error::LeaseError;
use crate::item::{Head, NO_TAIL, Tail, append_up_to};
use crate::limits::Limits;
use crate::pool::SubjectRef;
use crate::scratch::{Ready, Scratch};
use crate::service::{Key, Reporter, Service, Subject, Verdict, catch, message_of};
use crate::slot::{At, Mask, Slot};

/// Bytes reserved for the items of one submit, at least and at most; more come as they are needed.
const ITEMS_RESERVED: (usize, usize) = (1 << 10, 64 << 10);

/// A report, with the key of its subject.
type Report<S> = (<<S as Service>::Subject as Subject>::Key, <S as Service>::Report);

/// What a report revealed: lists of `SubjectRecord`.
#[derive(Debug, Default)]
struct Discovered {
    found: Vec<u8>,
    beyond: Vec<u8>,
    too_deep: u32,
}

impl<'a> Reporting<'a> {
    /// Judges and encodes the reports, one after the other.
    pub(super) fn prepare<S: Service>(
        &mut self,
        reports: impl IntoIterator<Item = Report<S>>,
    ) -> Result<(), LeaseError> {
        let plugin = self.seat.service.plugin::<S>().ok_or(LeaseError::NotOwner)?;
        let most = self.pool.slot(self.index).map_or(0, Slot::len);
        let mut reports = reports.into_iter();
        // As many as are announced, but no more than the bucket can take: what is foreign pays for itself.
        let expected = reports.size_hint().1.map_or(most, |announced| announced.min(most));
        self.outcomes.reserve_exact(expected);
        self.scratch.ready.reserve(expected);
        self.scratch.items.reserve(ITEMS_RESERVED.0);
        // What is owed now; a race is decided when the reports take effect.
        let open = self.pool.slot(self.index).map(Slot::open).unwrap_or_default();
        // Outside of the containment: to make and to drop it is the caller's.
        let mut report = None;
        loop {
            // One containment for as many reports as go without a panic.
            match catch(|| self.prepare_all(plugin, open, &mut reports, &mut report)) {
                Ok(prepared) => return prepared,
                Err(panic) if self.in_plugin => {
                    self.in_plugin = false;
                    self.seat.service.note_panic(&message_of(&*panic));
                    self.answer(Outcome::PluginPanicked)?;
                }
                Err(panic) => resume_unwind(panic),
            }
        }
    }

    fn prepare_all<S: Service>(
        &mut self,
        plugin: &S,
        open: Mask,
        reports: &mut impl Iterator<Item = Report<S>>,
        current: &mut Option<Report<S>>,
    ) -> Result<(), LeaseError> {
        loop {
            *current = reports.next();
            let Some((name, report)) = current else { return Ok(()) };
            self.in_plugin = true;
            let prepared = self.prepare_one(plugin, open, name, report);
            self.in_plugin = false;
            match prepared {
                Ok(()) => self.answer(Outcome::Accepted)?,
                Err(outcome) => self.answer(outcome)?,
            }
        }
    }

    /// What a report that is refused left in the list goes out of it.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what is not the plugin's is a few instructions, for every report")]
    fn answer(&mut self, outcome: Outcome) -> Result<(), LeaseError> {
        if outcome != Outcome::Accepted {
            self.scratch.items.truncate(self.start);
        }
        self.outcomes.push(outcome);
        self.start = self.scratch.items.len();
        if self.outcomes.len() > Limits::SUBMIT_REPORTS {
            return Err(LeaseError::TooMany { limit: Limits::SUBMIT_REPORTS });
        }
        if self.start > self.submit_bytes {
            return Err(LeaseError::TooLarge { bytes: self.start, limit: self.submit_bytes });
        }
        Ok(())
    }

    /// Where a key stands in the bucket, or the answer if it does not.
    #[cold]
    fn search(&self, key: &[u8]) -> Result<(usize, SubjectRef<'a>), Outcome> {
        let mut nameless = false;
        for (place, subject) in self.bucket.into_iter().enumerate() {
            if subject.key == key || subject.was(key) {
                return Ok((place, subject));
            }
            nameless |= subject.is_nameless();
        }
        // In a lease from before a restart, a subject that was reported may have lost its name with its finished block:
        // an honest retry must not count as a fault.
        Err(if nameless { Outcome::AlreadyDone } else { Outcome::NotInBucket })
    }

    /// Appends one item, unless its report is refused.
    #[inline]
    fn prepare_one<S: Service>(
        &mut self,
        plugin: &S,
        open: Mask,
        name: &<S::Subject as Subject>::Key,
        report: &S::Report,
    ) -> Result<(), Outcome> {
        let key = &mut self.scratch.key;
        key.clear();
        name.write(key);
        // Reports usually come in the bucket's order.
        let hinted = self.bucket.subject(self.hint).filter(|subject| is_same(subject.key, key));
        let (place, stored) = match hinted {
            Some(stored) => (self.hint, stored),
            None => self.search(&self.scratch.key)?,
        };
        self.hint = place + 1;
        let at = At::of(place);
        let owed = open.has_at(at);
        if owed
            && self.lane.is_some()
            && let Some(refused) = self.look_at_lane(place, stored)
        {
            return Err(refused);
        }
        let out = &mut self.scratch.items;
        let SubjectRef { rank, depth, round, key, .. } = stored;
        let place_there = u16::try_from(place).unwrap_or(u16::MAX);
        let framed = Head { place: place_there, rank, depth, round, key }.append_to(out);
        match append_up_to(report, out, self.report_bytes) {
            Ok(None) => {}
            Ok(Some(bytes)) => return Err(Outcome::TooLarge { bytes, limit: self.report_bytes }),
            Err(error) => return Err(not_encodable(&error)),
        }
        let print = print_of(framed.bytes(out));
        if self.wanted.has_at(at) {
            return Err(Outcome::AlreadyDone);
        }
        if owed && stored.is_nameless() {
            // What is owed no more is not judged, since it is not stored either.
            framed.clear(out);
        }
        framed.end(out);
        let mut category = None;
        if owed {
            let is_ended = !stored.is_nameless() && self.judge(plugin, stored, report)?;
            category = plugin.category(report);
            if is_ended {
                self.note(at, place, print, category);
                return Ok(());
            }
        }
        self.scratch.items.extend_from_slice(&NO_TAIL);
        self.note(at, place, print, category);
        Ok(())
    }

    /// Notes the report whose item was appended.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a few stores, for every report")]
    fn note(&mut self, at: At, place: usize, print: u32, category: Option<u8>) {
        let Scratch { items, ready, .. } = &mut *self.scratch;
        let (outcome, end) = (self.outcomes.len(), items.len());
        if ready.is_empty() {
            // Reports on one bucket are of a size, mostly.
            items.reserve(end.saturating_mul(self.outcomes.capacity()).min(ITEMS_RESERVED.1));
        }
        self.wanted.insert_at(at);
        ready.push(Ready { outcome, place, print, category, end });
    }

    /// Why a report on a subject of a lane cannot be taken, though it is owed.
    fn look_at_lane(&self, place: usize, stored: SubjectRef<'_>) -> Option<Outcome> {
        if self.due.has(place) {
            return Some(Outcome::Expired);
        }
        // What it sends cannot be told any more, and the state that comes with it may say that it was sent.
        stored.is_nameless().then_some(Outcome::OutOfOrder)
    }

    /// Whether anything was revealed, which then ends the item; or the reason of a rejection.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what is not the plugin's is a few instructions, for every report")]
    fn judge<S: Service>(&mut self, plugin: &S, stored: SubjectRef<'_>, report: &S::Report) -> Result<bool, Outcome> {
        let reporter = Reporter::new(self.seat.client.id);
        let subject = S::Subject::read(stored.key, stored.body).map_err(rejected)?;
        if let Verdict::Reject(reason) = plugin.judge(&subject, report, reporter) {
            return Err(rejected(reason));
        }
        let mut found = Vec::new();
        plugin.discover(&subject, report, &mut found);
        if found.is_empty() {
            return Ok(false);
        }
        self.append_found(plugin, stored.depth, &found).map_err(rejected)?;
        Ok(true)
    }

    /// The rest of an item whose report reveals subjects.
    #[inline(never)]
    fn append_found<S: Service>(&mut self, plugin: &S, depth: u16, found: &[S::Subject]) -> Result<(), String> {
        let Discovered { found, beyond, too_deep } = self.encode_found(plugin, depth, found)?;
        Tail { found: &found, beyond: &beyond, too_deep, expired: false }.append_to(&mut self.scratch.items);
        Ok(())
    }

    /// Encodes what was discovered; only counts what lies too deep, if that is not to be kept. What is sent to a lane is a
    /// command, and never too deep.
    fn encode_found<S: Service>(&self, plugin: &S, depth: u16, found: &[S::Subject]) -> Result<Discovered, String> {
        let mut discovered = Discovered::default();
        let (terms, limits) = (&self.pool.terms, &self.seat.service.link.limits);
        let deep = depth >= terms.max_depth;
        for subject in found {
            let beyond = deep && plugin.lane(subject).is_none();
            discovered.too_deep += u32::from(beyond);
            if beyond && !terms.keep_unmarked {
                continue;
            }
            let bytes = if beyond { &mut discovered.beyond } else { &mut discovered.found };
            encode_subject(plugin, subject, limits, bytes).map_err(|error| format!("a discovered subject: {error}"))?;
        }
        Ok(discovered)
    }
}

#[cold]
fn not_encodable(error: &postcard::Error) -> Outcome {
    rejected(format!("not encodable: {error}"))
}

fn rejected(reason: String) -> Outcome {
    Outcome::Rejected { reason }
}

/// The fingerprint of an encoded report. Never 0, which stands for "not known".
#[inline]
fn print_of(encoded: &[u8]) -> u32 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write(encoded);
    #[expect(clippy::cast_possible_truncation, reason = "every bit of the report is in all bits of its hash")]
    let print = hasher.finish() as u32;
    print | 1
}

/// True if two keys are the same. Most are numbers.
#[inline]
fn is_same(one: &[u8], other: &[u8]) -> bool {
    match (<&[u8; 8]>::try_from(one), <&[u8; 8]>::try_from(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}
