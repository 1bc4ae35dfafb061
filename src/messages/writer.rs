//! The writer of a message log: takes what waits, writes it as groups, syncs once, answers.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::frame::{Body, END, MESSAGE};
use super::lookout::Lookout;
use super::place::Place;
use super::receipt::{Ack, Nack, Pending, Sent};
use super::shared::{Failure, Shared};
use super::window::{Known, Verdict, Windows};
use crate::journal::{Group, GroupTime, JournalFile, Log, Outcome};
use crate::pace::Gauge;
use crate::stack::Node;
use crate::sync::Arc;
use crate::syncing::Syncing;
use crate::ticket::Durability;

/// Bytes of one group, about at most; what is more makes further groups, synced together.
const GROUP_BYTES: usize = if cfg!(test) { 300 } else { 256 << 10 };

/// A message taken from the queue. Whatever becomes of the writer, its receipt is answered: here at the latest.
#[derive(Debug)]
struct Waiting {
    node: Arc<Node<Pending>>,
    shared: Arc<Shared>,
    answered: bool,
}

impl Waiting {
    fn pending(&self) -> &Pending {
        &self.node.value
    }

    fn answer(&mut self, answer: Result<Ack, Nack>) {
        self.answered = true;
        self.shared.answer(&self.node.value, answer);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.answered {
            self.shared.answer(&self.node.value, Err(Nack::Io { kind: io::ErrorKind::Other }));
            self.shared.gates.open();
        }
    }
}

/// A group under construction.
#[derive(Debug)]
struct Draft {
    group: Group,
    waiting: Vec<Drafted>,
}

/// A message of a draft.
#[derive(Debug)]
struct Drafted {
    waiting: Waiting,
    /// Of its frame; of one that has none, that of the message before under its number.
    offset: u64,
    role: Role,
}

/// What a drafted message is, once the draft is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It has the frame.
    First,
    /// The same as one before.
    Repeat,
    /// Not the same as the one before under its number.
    Other,
}

/// What this turn's drafts hold, as far as the next message's verdict depends on it.
#[derive(Debug, Default)]
struct Ahead {
    /// By client and number: checksum of the payload, draft, and offset in it.
    messages: HashMap<(u128, u64), (u32, usize, u64), RandomState>,
    /// Each client's last number.
    last: HashMap<u128, u64, RandomState>,
}

/// The writer. It alone touches the file.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    place: Place,
    log: JournalFile,
    windows: Windows,
    durability: Durability,
    syncing: Syncing,
    gauge: Gauge,
    drafts: Vec<Draft>,
    ahead: Ahead,
    spare: Vec<Group>,
    /// Messages that were answered and are to be remembered.
    taken: Vec<(u128, Known)>,
    lookout: Lookout,
    /// Up to where the file says itself that all is synced.
    marked: u64,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        place: Place,
        log: JournalFile,
        windows: Windows,
        durability: Durability,
        marked: u64,
    ) -> Self {
        let syncing = Syncing::new(durability, shared.clock.now());
        shared.counts.clients.set(windows.len() as u64);
        Self {
            marked,
            shared,
            place,
            log,
            windows,
            durability,
            syncing,
            gauge: Gauge::default(),
            drafts: Vec::new(),
            ahead: Ahead::default(),
            spare: Vec::new(),
            taken: Vec::new(),
            lookout: Lookout::default(),
        }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Works until the log is closed.
    pub(super) fn run(&mut self) {
        let shared = self.shared();
        shared.queue.attend(|| if self.turn() { None } else { Some(self.sleep()) });
    }

    /// How long it may sleep if nothing wakes it.
    pub(super) fn sleep(&self) -> Duration {
        if self.shared.failure().is_some() {
            return Duration::MAX;
        }
        self.syncing.sleep(&self.log, self.shared.clock.now()).unwrap_or(Duration::MAX)
    }

    /// Writes what waits. False if there was nothing.
    pub(super) fn turn(&mut self) -> bool {
        let any = self.take_turn();
        self.shared.gates.open();
        any
    }

    fn take_turn(&mut self) -> bool {
        for rewriting in self.shared.rewritings.take_all() {
            if rewriting.value.finish(&mut self.log, &self.place, &self.shared) {
                self.marked = self.log.end();
            }
        }
        let waiting = self.take();
        if let Some(nack) = self.refused() {
            for mut waiting in waiting {
                waiting.answer(Err(nack));
            }
            return false;
        }
        if waiting.is_empty() {
            self.sync_if_due();
            return false;
        }
        let time = self.shared.clock.stamp();
        self.gauge.begin(&self.shared.outflow, time.hub_ms);
        let bytes = waiting.iter().map(|waiting| waiting.pending().cost()).sum();
        for message in waiting {
            self.draft(time, message);
        }
        self.commit();
        let empty = self.shared.queued_bytes() == 0;
        self.gauge.note(&self.shared.outflow, bytes, empty, self.shared.clock.now());
        true
    }

    /// Once it failed, nothing is written any more: neither what still waits when the log is closed.
    fn refused(&self) -> Option<Nack> {
        self.shared.failure().map(Failure::nack)
    }

    /// Takes what waits; where a sync is to come, also what comes in a moment.
    fn take(&mut self) -> Vec<Waiting> {
        let gathers = self.durability == Durability::Sync;
        let taken = if gathers { self.lookout.take(&self.shared) } else { self.shared.take_all() };
        self.shared.gates.next_turn();
        let waiting = |node| Waiting { node, shared: Arc::clone(&self.shared), answered: false };
        taken.into_iter().map(waiting).collect()
    }

    /// Adds a message to the last draft, or answers it.
    fn draft(&mut self, time: GroupTime, mut waiting: Waiting) {
        let Pending { sent, client, seq, crc, .. } = *waiting.pending();
        if sent == Sent::End {
            let seq = self.ahead.last.get(&client).copied().unwrap_or_else(|| self.windows.last_seq(client));
            self.push(time, END, seq, waiting);
            return;
        }
        if let Some(&(known, draft, offset)) = self.ahead.messages.get(&(client, seq)) {
            let role = if known == crc { Role::Repeat } else { Role::Other };
            // Answered with the one before: only then is it in the log, or not.
            if let Some(draft) = self.drafts.get_mut(draft) {
                draft.waiting.push(Drafted { waiting, offset, role });
            }
            return;
        }
        match self.windows.judge(client, seq, crc, self.ahead.last.get(&client).copied()) {
            Verdict::New => {
                if let Some((draft, offset)) = self.push(time, MESSAGE, seq, waiting) {
                    self.ahead.messages.insert((client, seq), (crc, draft, offset));
                    let last = self.ahead.last.entry(client).or_insert(seq);
                    *last = seq.max(*last);
                }
            }
            Verdict::Repeat(position) => {
                self.shared.counts.repeats.add(1);
                waiting.answer(Ok(Ack { position, durability: self.durability }));
            }
            Verdict::Refused(nack) => waiting.answer(Err(nack)),
        }
    }

    /// Adds an entry to the last draft, or to a new one. Returns which, and the offset in it.
    fn push(&mut self, time: GroupTime, kind: u8, seq: u64, mut waiting: Waiting) -> Option<(usize, u64)> {
        let full = self.drafts.last().is_none_or(|draft| draft.group.bytes() >= GROUP_BYTES);
        if full {
            let mut group = self.spare.pop().unwrap_or_else(Group::new);
            group.begin(time, self.durability.class());
            self.drafts.push(Draft { group, waiting: Vec::new() });
        }
        let number = self.drafts.len().saturating_sub(1);
        let draft = self.drafts.last_mut()?;
        let Pending { client, wall_ms, payload, .. } = waiting.pending();
        let body = Body { client: *client, seq, wall_ms: *wall_ms, payload };
        match draft.group.push(kind, PALLET, |out| body.append_to(out)) {
            Ok(offset) => {
                draft.waiting.push(Drafted { waiting, offset, role: Role::First });
                Some((number, offset))
            }
            Err(error) => {
                // The cap leaves room for the fields.
                waiting.answer(Err(Nack::TooLong { bytes: error.bytes, cap: error.limit }));
                None
            }
        }
    }

    /// Writes the drafts, syncs once, answers. What follows a draft that failed is refused with it: nothing stands in the
    /// file behind a hole.
    fn commit(&mut self) {
        self.ahead.messages.clear();
        self.ahead.last.clear();
        let mut written = Vec::new();
        let mut refused: Option<Nack> = None;
        for mut draft in std::mem::take(&mut self.drafts) {
            if refused.is_none() {
                match self.log.append(&mut draft.group) {
                    Outcome::Applied { start, .. } => {
                        written.push((start, draft));
                        continue;
                    }
                    Outcome::Refused(error) | Outcome::Unknown(error) => refused = Some(self.recover(&error)),
                }
            }
            let nack = refused.unwrap_or(Nack::Full);
            self.refuse(draft, nack);
        }
        if let Err(nack) = self.sync_group() {
            for (_, draft) in written.drain(..) {
                self.refuse(draft, nack);
            }
        }
        self.publish(written);
    }

    /// Gets over an append that failed, if the device is only full.
    fn recover(&mut self, error: &io::Error) -> Nack {
        let (kind, text) = match is_full(error.kind()).then(|| self.log.undo_append()) {
            Some(Ok(())) => return Nack::Full,
            Some(Err(undo)) => (undo.kind(), format!("cutting off what did not fit: {undo}")),
            None => (error.kind(), format!("append: {error}")),
        };
        self.shared.fail(kind, text);
        Nack::Io { kind }
    }

    /// Makes what was written as durable as was promised.
    fn sync_group(&mut self) -> Result<(), Nack> {
        if self.durability != Durability::Sync || self.log.synced() == self.log.end() {
            return Ok(());
        }
        self.sync().map_err(|kind| Nack::Io { kind })
    }

    fn sync(&mut self) -> Result<(), io::ErrorKind> {
        self.shared.counts.syncs.add(1);
        self.syncing.note(self.shared.clock.now());
        self.log.sync().map_err(|error| {
            self.shared.fail(error.kind(), format!("sync: {error}"));
            error.kind()
        })
    }

    fn sync_if_due(&mut self) {
        if self.syncing.is_due(&self.log, self.shared.clock.now()) && self.sync().is_ok() {
            self.shared.news.notify(usize::MAX);
        }
    }

    fn refuse(&mut self, draft: Draft, nack: Nack) {
        for mut drafted in draft.waiting {
            drafted.waiting.answer(Err(nack));
        }
        self.spare(draft.group);
    }

    /// Answers what was written; then remembers it, while the senders wake.
    fn publish(&mut self, written: Vec<(u64, Draft)>) {
        if !written.is_empty() {
            self.shared.news.notify(usize::MAX);
        }
        let mut taken = std::mem::take(&mut self.taken);
        for (start, draft) in written {
            let counts = &self.shared.counts;
            counts.groups.add(1);
            for Drafted { mut waiting, offset, role } in draft.waiting {
                let (pending, position) = (waiting.pending(), start + offset);
                if role == Role::First && pending.sent == Sent::Message {
                    taken.push((pending.client, pending.known(position)));
                }
                match role {
                    Role::First => counts.taken.add(1),
                    Role::Repeat => counts.repeats.add(1),
                    Role::Other => {}
                }
                let ack = Ack { position, durability: self.durability };
                waiting.answer(if role == Role::Other { Err(Nack::Differs { position }) } else { Ok(ack) });
            }
            self.spare(draft.group);
        }
        self.shared.gates.open();
        for (client, known) in taken.drain(..) {
            self.windows.take(client, known);
        }
        self.taken = taken;
        self.shared.counts.clients.set(self.windows.len() as u64);
        self.sync_if_due();
    }

    fn spare(&mut self, group: Group) {
        if self.spare.len() < 4 {
            self.spare.push(group);
        }
    }

    /// The end: writes what still waits, and says in the file that all of it is synced, so that damage to it is found
    /// whatever comes.
    pub(super) fn finish(&mut self) {
        while self.turn() {}
        if self.shared.failure().is_none() && self.log.end() > self.marked {
            let time = self.shared.clock.stamp();
            if let Err(error) = self.mark(time) {
                self.shared.fail(error.kind(), format!("closing: {error}"));
            }
        }
        self.shared.end();
    }

    fn mark(&mut self, time: GroupTime) -> io::Result<()> {
        match self.log.seal(time, self.durability.class()) {
            // Everything else is synced: the mark is not worth a failure.
            Err(error) if is_full(error.kind()) => self.log.undo_append(),
            sealed => sealed,
        }
    }
}

/// A plain log has one.
const PALLET: u32 = 0;

/// Whether the device, the file or its owner has come to a limit, and a later attempt may succeed.
fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}
