//! Errors: one type per operation, holding what that call can do; [`Error`] collects them for `?` in applications.
//!
//! Expected results (nothing to claim, a stale report) are values, not errors: see [`Claim`](crate::Claim) and
//! [`Outcome`](crate::Outcome).

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::journal::{JournalError, SeekError};
use crate::lane::LaneKey;
use crate::service::ServiceState;
pub use crate::store::StoreError;

/// Why the hub takes no new work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A write or a sync failed. Reads go on; reopening recovers.
    #[error("the hub is poisoned: {cause}; reopen it to recover")]
    Poisoned {
        /// What failed.
        cause: String,
    },
    /// The hub was closed.
    #[error("the hub is closed")]
    Closed,
    /// Too much waits to be written. Nothing was changed; try again. As the queue fills, registrations, activations and
    /// additions are turned away first, then claims, and submits and administrators' decisions last.
    #[error("busy: {queued} bytes wait to be written, the limit is {limit} ({rule})")]
    Busy {
        /// Bytes that wait.
        queued: u64,
        /// Bytes beyond which such a call is turned away.
        limit: u64,
        /// The limit's field in [`Limits`](crate::Limits).
        rule: &'static str,
        /// When to try again: after what waits has gone, at the rate that was measured, and up to as long again, so that
        /// those turned away together do not come back together. 10 ms to 20 s.
        retry_after: Duration,
    },
}

impl HubError {
    /// True if the same call may succeed later without anyone's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}

/// Why a hub could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory could not be made, read or written.
    #[error("cannot use {path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another hub or log, in this process or another, has it open.
    #[error("{path} is open in another hub or message log")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The journal is damaged, truncated or of another version.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The store could not be opened, and setting it aside did not help.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The store is there and reflects a journal that is not: what came after `store_position` is lost.
    /// [`Builder::accept_missing_journal`](crate::Builder::accept_missing_journal) goes on from the store.
    #[error("the journal is missing; the store reflects it up to position {store_position}, what came after is lost")]
    JournalMissing {
        /// Up to where the store is right.
        store_position: u64,
    },
    /// The store is to be rebuilt, or was found damaged and set aside, but the journal does not hold everything from the
    /// beginning: it is missing, or was begun anew over a missing one.
    #[error(
        "the store cannot be rebuilt: the journal does not hold everything from the beginning; damaged store: {damaged:?}"
    )]
    NotRebuildable {
        /// Where the damaged store was put; `None` if it was left alone.
        damaged: Option<PathBuf>,
    },
    /// A frame is intact but says something that cannot be.
    #[error("journal position {position}: {what}")]
    Frame {
        /// Where the frame starts.
        position: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The compaction that was asked for failed before it took effect. The journal and its store are as they were, and
    /// opening without compacting goes on from there.
    #[error("compaction failed, the journal is as it was: {0}")]
    Compact(#[source] Box<OpenError>),
    /// The system gave no random bytes for the hub's secret.
    #[error("no entropy: {0}")]
    Entropy(String),
    /// A limit or option is outside its range.
    #[error("option {option} must be {range}")]
    Option {
        /// The field or method.
        option: &'static str,
        /// What it may be.
        range: &'static str,
    },
    /// A caretaker thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// What is wrong with a client's details.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DetailError {
    /// The id is missing.
    #[error("client id must not be zero")]
    ZeroId,
    /// The name is missing.
    #[error("screen name must not be empty")]
    NoName,
    /// The name is too long.
    #[error("screen name has {chars} characters, the limit is {limit}")]
    LongName {
        /// Characters given.
        chars: usize,
        /// Characters allowed.
        limit: usize,
    },
    /// The name has a character outside `A-Z a-z 0-9 _`.
    #[error("screen name contains {found:?}; only A-Z a-z 0-9 _ are allowed")]
    NameCharacter {
        /// The first such character.
        found: char,
    },
    /// The id is known under another name.
    #[error("client {id} is known under another screen name")]
    OtherName {
        /// The id.
        id: u64,
    },
}

/// Why a client was not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterClientError {
    /// A detail is missing or wrong. Nothing was changed.
    #[error("invalid detail: {0}")]
    Detail(#[from] DetailError),
    /// A budget of registrations is exhausted. Nothing was changed; a server should close the connection.
    #[error("throttled by {limit}; retry after {retry_after:?}")]
    Throttled {
        /// The limit's field in [`Limits`](crate::Limits).
        limit: &'static str,
        /// When the budget has room again.
        retry_after: Duration,
        /// A server should end the connection.
        disconnect: bool,
    },
    /// The table of clients is full.
    #[error("{limit} clients are known already (clients)")]
    TooMany {
        /// `Limits::clients`.
        limit: u64,
    },
    /// The hub takes no new work.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// Why a client was not deregistered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeregisterError {
    /// No such client is registered.
    #[error("client {id} is not registered")]
    NotRegistered {
        /// The id given.
        id: u64,
    },
    /// The details do not fit the id. Nothing was changed.
    #[error("invalid detail: {0}")]
    Detail(#[from] DetailError),
    /// The hub takes no new work.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// Why a service was not registered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterServiceError {
    /// The id is not 1 to 64 of `a-z A-Z 0-9 - _ .`.
    #[error("service id {id:?} is not 1 to 64 of a-z A-Z 0-9 - _ .")]
    Id {
        /// The id given.
        id: String,
    },
    /// A field of the policy is outside its range.
    #[error("policy of service {service:?}: {field} must be {range}")]
    Policy {
        /// The service.
        service: String,
        /// The field.
        field: &'static str,
        /// What it may be.
        range: &'static str,
    },
    /// The plugin panicked when it was asked for its id or policy.
    #[error("the plugin panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// A plugin of another type is registered under this id.
    #[error("service {service:?} is registered with another plugin type")]
    OtherType {
        /// The service.
        service: String,
    },
    /// The table of services is full.
    #[error("{limit} services are registered already (services)")]
    TooMany {
        /// `Limits::services`.
        limit: u32,
    },
    /// What the store holds of the service could not be read.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The hub takes no new work.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// Why an administrator's change of a service or seat was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// A field of the policy is outside its range.
    #[error("policy: {field} must be {range}")]
    Policy {
        /// The field.
        field: &'static str,
        /// What it may be.
        range: &'static str,
    },
    /// The client is not known.
    #[error("client {id} is not known")]
    UnknownClient {
        /// The id given.
        id: u64,
    },
    /// The hub takes no new work.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// Why a client was not activated for a service. No record was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ActivateError {
    /// The client is not registered (any more).
    #[error("the client is not registered")]
    NotRegistered,
    /// The service is not ready.
    #[error("the service is not ready: it is {state}")]
    NotReady {
        /// What it is instead.
        state: ServiceState,
    },
    /// An administrator suspended the client for this service.
    #[error("the client is suspended for this service")]
    Suspended,
    /// No service of that name is registered.
    #[error("no service {name:?} is registered")]
    UnknownService {
        /// The name given.
        name: String,
    },
    /// The table of seats is full.
    #[error("{limit} seats are known already (seats)")]
    TooMany {
        /// `Limits::seats`.
        limit: u32,
    },
    /// The hub takes no new work.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// Why a claim was refused. No bucket moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The client is not registered (any more).
    #[error("the client is not registered")]
    NotRegistered,
    /// The seat is not active: it was idle for too long, or never activated since the client registered.
    #[error("the seat is inactive; activate it again")]
    Inactive,
    /// An administrator suspended the client for this service.
    #[error("the client is suspended for this service")]
    Suspended,
    /// The client malfunctioned for this service ([`Watch`](crate::Watch)); an administrator lifts that. What it holds may
    /// still be reported.
    #[error("the client is quarantined for this service: {why}")]
    Quarantined {
        /// The rule that was met, with its values.
        why: String,
    },
    /// The service is not ready.
    #[error("the service is not ready: it is {state}")]
    NotReady {
        /// What it is instead.
        state: ServiceState,
    },
    /// The ask was for no bucket at all.
    #[error("a claim asks for at least one bucket and one subject")]
    Nothing,
    /// The ask exceeds the cap and the policy is to refuse.
    #[error("asked for {asked} buckets, the limit is {limit} (buckets_per_claim)")]
    TooMany {
        /// Buckets asked for.
        asked: u32,
        /// What the policy or the seat's own declaration allows.
        limit: u32,
    },
    /// The hub takes no new work.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// Why a call on a lease was refused. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// The client is not registered (any more).
    #[error("the client is not registered")]
    NotRegistered,
    /// The token is not of this client and service, or was never given out. Counted as a fault.
    #[error("the token does not prove a lease of this client")]
    NotOwner,
    /// The lease is over: finished, released or expired long ago. Whatever was left is somebody else's.
    #[error("the lease is over")]
    Over,
    /// The lease was not renewed in time. Finished work is still taken until the grace is over.
    #[error("the lease is dead; only reports are still taken")]
    Dead,
    /// The lease has lasted, or will have at its deadline, as long as a lease may: it cannot be renewed. It is alive until
    /// the deadline, and reports are taken as before.
    #[error("renewals may extend a lease to {limit:?} in all (lease_total); {time_left:?} are left")]
    Capped {
        /// `Policy::lease_total` in time, from the claim; at most `Limits::LEASE_MS`.
        limit: Duration,
        /// Until the deadline.
        time_left: Duration,
    },
    /// The service was revoked at once: finished work is not taken either.
    #[error("the service is not ready: it is {state}")]
    NotReady {
        /// What it is.
        state: ServiceState,
    },
    /// One call has too many reports.
    #[error("more than {limit} reports in one call (SUBMIT_REPORTS)")]
    TooMany {
        /// `Limits::SUBMIT_REPORTS`.
        limit: usize,
    },
    /// The reports of one call are too large together.
    #[error("the reports take {bytes} bytes, the limit is {limit} (submit_bytes)")]
    TooLarge {
        /// Bytes given.
        bytes: usize,
        /// `Limits::submit_bytes`.
        limit: usize,
    },
    /// A state was given with reports on a lease that runs no lane.
    #[error("the lease runs no lane, so it has no state")]
    NoLane,
    /// A lane's state was given without a report: it is stored with reports only.
    #[error("a lane's state is stored with reports only")]
    NoReports,
    /// A lane's state could not be encoded.
    #[error("the lane's state: {what}")]
    State {
        /// What its serialization said.
        what: String,
    },
    /// A lane's state is too long.
    #[error("the lane's state has {bytes} bytes, the limit is {limit} (lane_state_bytes)")]
    StateTooLarge {
        /// Bytes given.
        bytes: usize,
        /// `Limits::lane_state_bytes`.
        limit: usize,
    },
    /// The hub takes no new work.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// A lane's state is not of the type that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the state of {lane:?}: {what}")]
#[non_exhaustive]
pub struct LaneStateError {
    /// Whose.
    pub lane: LaneKey,
    /// What the deserializer said.
    pub what: String,
}

/// Why subjects were not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// A key is empty or too long.
    #[error("subject {place}: the key has {bytes} bytes, allowed are 1 to {limit} (key_bytes)")]
    Key {
        /// Which subject of the call, from 0. Those before it were taken in.
        place: u64,
        /// Bytes given.
        bytes: usize,
        /// `Limits::key_bytes`.
        limit: usize,
    },
    /// A body is too long.
    #[error("subject {place}: the body has {bytes} bytes, the limit is {limit} (body_bytes)")]
    Body {
        /// Which subject of the call, from 0. Those before it were taken in.
        place: u64,
        /// Bytes given.
        bytes: usize,
        /// `Limits::body_bytes`.
        limit: usize,
    },
    /// The key of a subject's lane is empty or too long.
    #[error("subject {place}: the lane's key has {bytes} bytes, allowed are 1 to {limit} (key_bytes)")]
    Lane {
        /// Which subject of the call, from 0. Those before it were taken in.
        place: u64,
        /// Bytes given.
        bytes: usize,
        /// `Limits::key_bytes`.
        limit: usize,
    },
    /// The subjects of one change, which is taken in whole or not at all, are too large together.
    #[error("the subjects take {bytes} bytes, the limit is {limit} (submit_bytes)")]
    TooLarge {
        /// Bytes of those up to the first that did not fit.
        bytes: usize,
        /// `Limits::submit_bytes`.
        limit: usize,
    },
    /// A subject could not be encoded.
    #[error("subject {place}: {what}")]
    Encode {
        /// Which subject of the call, from 0. Those before it were taken in.
        place: u64,
        /// What its serialization said.
        what: String,
    },
    /// The hub takes no new work. The first `taken` subjects of the call were taken in.
    #[error("after {taken} subjects: {source}")]
    Hub {
        /// Subjects taken in before.
        taken: u64,
        /// Why not more.
        source: HubError,
    },
}

/// Why a decision on subjects, by their keys, was refused. It holds for none of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// A key is empty or too long.
    #[error("key {place} has {bytes} bytes, allowed are 1 to {limit} (key_bytes)")]
    Key {
        /// Which key of the call, from 0.
        place: usize,
        /// Bytes given.
        bytes: usize,
        /// `Limits::key_bytes`.
        limit: usize,
    },
    /// A key could not be encoded.
    #[error("key {place}: {what}")]
    Encode {
        /// Which key of the call, from 0.
        place: usize,
        /// What its encoding said.
        what: String,
    },
    /// The keys of one call are too large together.
    #[error("the keys up to key {place} take more than {limit} bytes (submit_bytes)")]
    TooLarge {
        /// The first key, from 0, that is too many.
        place: usize,
        /// `Limits::submit_bytes`.
        limit: usize,
    },
    /// The hub takes no new work.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// Why a retraction, or its undoing, was refused or stopped. What was withdrawn or restored before it stopped stays so; the
/// same call again goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetractError {
    /// The client is not known. Nothing was changed.
    #[error("client {id} is not known")]
    UnknownClient {
        /// The id given.
        id: u64,
    },
    /// The window is empty. Nothing was changed.
    #[error("the window from {from} to {to} is empty")]
    Window {
        /// Its beginning.
        from: DateTime<Utc>,
        /// Its end.
        to: DateTime<Utc>,
    },
    /// There is no such retraction, or it was undone. Nothing was changed.
    #[error("no retraction {id} is in force")]
    UnknownRetraction {
        /// The id given.
        id: u64,
    },
    /// The plugin could not say what a stored report reveals: it panicked, or its types do not fit what was stored.
    #[error("the report on {key} does not tell what it reveals: {what}")]
    Plugin {
        /// The subject's key, as bytes in hexadecimal.
        key: String,
        /// What the decoder or the panic said.
        what: String,
    },
    /// There was more to be done each time: the client goes on reporting.
    #[error("retraction {id} found something new {rounds} times; suspend the client first")]
    Unsettled {
        /// Names the retraction.
        id: u64,
        /// How often the service was looked at.
        rounds: u32,
    },
    /// The store failed.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The hub takes no new work.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A part was not journaled, or did not become visible.
    #[error(transparent)]
    Ticket(#[from] TicketError),
}

/// Why a ticket will not resolve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// Nothing of the change is in the journal.
    #[error("the change was refused by the journal; nothing of it was written")]
    Refused,
    /// The write or the sync failed: the change may be in the journal or not. It must not be assumed undone; reopening tells.
    #[error("the change's outcome is unknown until the hub is reopened")]
    Unknown,
    /// The change is durable, but the store failed before reads could see it. Reopening replays it.
    #[error("the change is durable but not visible until the hub is reopened")]
    NotVisible,
    /// The hub was closed before the change was written.
    #[error("the hub was closed before the change was written")]
    Closed,
    /// Another owner took over the journal. A file never answers so.
    #[error("the journal belongs to another owner now")]
    Fenced,
    /// The hub is manual and nobody has called `tick`: waiting would never end.
    #[error("pending, and no thread works on it: call tick")]
    Manual,
}

/// Why subjects were not made urgent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UrgentError {
    /// Too many in one call.
    #[error("{keys} subjects in one call, the limit is {limit} (Limits::URGENT_KEYS)")]
    TooMany {
        /// Subjects given.
        keys: usize,
        /// The limit.
        limit: usize,
    },
    /// They could not be looked up.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The hub takes no new work.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// Why the books could not be checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The hub is poisoned or closed.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Subjects went on moving, or the caretakers never came to rest: there was no quiet moment.
    #[error("no quiet moment in {looks} looks and {waited:?}")]
    NotQuiet {
        /// How often it looked.
        looks: u32,
        /// For how long.
        waited: Duration,
    },
    /// The store failed while it was counted.
    #[error("store: {0}")]
    Store(#[from] StoreError),
}

/// Why something stored could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The call came from inside a lane handler, and would wait for events that other lanes may have to bring about.
    #[error("called from inside a lane handler, which must not wait for events")]
    InsideHandler,
    /// The store failed.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The plugin's type does not fit what was stored (it changed, or the value is damaged). The bytes can be read raw.
    #[error("stored value of {key} does not decode: {what}")]
    Decode {
        /// The subject's key, as bytes in hexadecimal.
        key: String,
        /// What the decoder said.
        what: String,
    },
    /// The subject's history, or the lane, changed each of the many times it was looked at. Try again.
    #[error("what is known of {key} changes faster than it can be read; try again")]
    Unsettled {
        /// The subject's or the lane's key, as bytes in hexadecimal.
        key: String,
    },
    /// The journal does not reach back so far: what stood between is gone.
    #[error("the journal begins at position {resume_at}; what stood before is gone")]
    Lagged {
        /// Its first position, to go on from.
        resume_at: u64,
    },
    /// The journal does not reach so far.
    #[error("position {position} is beyond the journal's end, {end}")]
    BeyondEnd {
        /// The position given.
        position: u64,
        /// Up to where the journal can be read.
        end: u64,
    },
    /// No record begins at the position: it is not one that an event, a ticket or a finding named.
    #[error("no record of the journal begins at position {position}")]
    NotAPosition {
        /// The position given.
        position: u64,
    },
    /// The journal could not be read, or was damaged since it was opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A record of the journal does not decode.
    #[error("journal position {position}: {what}")]
    Record {
        /// Where it stands.
        position: u64,
        /// What the decoder said.
        what: String,
    },
}

impl From<SeekError> for ReadError {
    fn from(error: SeekError) -> Self {
        match error {
            SeekError::Before { base, .. } => Self::Lagged { resume_at: base },
            SeekError::Beyond { position, end } => Self::BeyondEnd { position, end },
            SeekError::Between { position } => Self::NotAPosition { position },
            SeekError::Journal(error) => Self::Journal(error),
        }
    }
}

/// Why a projection could not be opened, folded or saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectError {
    /// The id is not one.
    #[error("projection id {id:?} is not 1 to 64 of a-z A-Z 0-9 - _ . or begins with a dot")]
    Id {
        /// The id given.
        id: String,
    },
    /// It is open already.
    #[error("projection {id} is open already")]
    InUse {
        /// Its id.
        id: String,
    },
    /// Events that it needs next were dropped for their age.
    #[error("projection {id}: the events that it needs next are gone; those that are left begin at {resume_at}")]
    Lagged {
        /// Its id.
        id: String,
        /// The position of the first event that is left.
        resume_at: u64,
    },
    /// The application's code panicked. The state is as it was before.
    #[error("projection {id} panicked at the event at position {position}: {message}")]
    Panicked {
        /// Its id; empty if it panicked when it was asked for that.
        id: String,
        /// The event's position, or the state's.
        position: u64,
        /// The panic's message.
        message: String,
    },
    /// The state cannot be written.
    #[error("projection {id}: the state cannot be encoded: {what}")]
    Encode {
        /// Its id.
        id: String,
        /// What the encoder said.
        what: String,
    },
    /// What was saved cannot be read from the disk; it may be whole.
    #[error("projection {id}: cannot read what was saved")]
    Load {
        /// Its id.
        id: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The state could not be saved. What was saved before is still there.
    #[error("projection {id}: cannot save")]
    Save {
        /// Its id.
        id: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The events could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why an outbox could not be opened, or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// The id is not one.
    #[error("outbox id {id:?} is not 1 to 64 of a-z A-Z 0-9 - _ . or begins with a dot")]
    Id {
        /// The id given.
        id: String,
    },
    /// It is open already.
    #[error("outbox {id} is open already")]
    InUse {
        /// Its id.
        id: String,
    },
    /// The hub is opened with [`Durability::Os`](crate::Durability::Os): events may be undone after their effects.
    #[error("outbox {id}: the hub never syncs (Durability::Os), so no event is ever certain")]
    NeverSynced {
        /// Its id.
        id: String,
    },
    /// What was saved cannot be used.
    #[error("outbox {id}: what was saved cannot be used: {what}")]
    Damaged {
        /// Its id.
        id: String,
        /// What is wrong with it.
        what: String,
    },
    /// Events that it needs next were dropped for their age.
    #[error("outbox {id}: the events that it needs next are gone; those that are left begin at {resume_at}")]
    Lagged {
        /// Its id.
        id: String,
        /// The position of the first event that is left.
        resume_at: u64,
    },
    /// The application's code panicked when it was asked for an event's effects. Nothing behind it is read.
    #[error("outbox {id} panicked at the event at position {position}: {message}")]
    Panicked {
        /// Its id; empty if it panicked when it was asked for that.
        id: String,
        /// The event's position.
        position: u64,
        /// The panic's message.
        message: String,
    },
    /// Two effects of one event have the same part. Nothing behind it is read.
    #[error("outbox {id}: two effects of the event at position {position} have part {part}")]
    SamePart {
        /// Its id.
        id: String,
        /// The event's position.
        position: u64,
        /// The part.
        part: u64,
    },
    /// What was saved cannot be read from the disk; it may be whole.
    #[error("outbox {id}: cannot read what was saved")]
    Load {
        /// Its id.
        id: String,
        /// The cause.
        source: std::io::Error,
    },
    /// What was dispatched could not be saved. Nothing more is dispatched before it is.
    #[error("outbox {id}: cannot save")]
    Save {
        /// Its id.
        id: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The events could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why the graph was not written out to its end. What was written before stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The caller's writer refused.
    #[error("cannot write: {0}")]
    Io(#[from] std::io::Error),
    /// The store failed.
    #[error("store: {0}")]
    Store(#[from] StoreError),
}

/// Why a call by name with a JSON body was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The body is too large.
    #[error("the body has {bytes} bytes, the limit is {limit} (json_bytes)")]
    TooLarge {
        /// Bytes given.
        bytes: usize,
        /// `Limits::json_bytes`.
        limit: usize,
    },
    /// The body is not JSON, or not of the shape that the call takes.
    #[error("malformed body: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Subjects were not taken in.
    #[error(transparent)]
    Add(#[from] AddError),
    /// The decision on subjects was refused.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The claim was refused.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The call on a lease was refused.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The activation was refused.
    #[error(transparent)]
    Activate(#[from] ActivateError),
    /// The result could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why lanes are not handled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// The call came from inside a handler, which would wait for itself: handlers send, and never ask.
    #[error("called from inside a lane handler, which must not wait for lanes")]
    InsideHandler,
    /// The service's lanes are handled already, by another worker.
    #[error("the lanes of {service} are handled already")]
    InUse {
        /// Its id.
        service: String,
    },
    /// A manual hub's work is done step by step.
    #[error("a manual hub has no threads; use LaneWorker::step")]
    Manual,
    /// No thread at all was asked for.
    #[error("at least one thread must handle lanes")]
    NoThreads,
    /// A thread could not be made.
    #[error("cannot make a thread: {0}")]
    Thread(#[source] std::io::Error),
    /// The worker's client was not registered.
    #[error(transparent)]
    Register(#[from] RegisterClientError),
    /// It was not activated.
    #[error(transparent)]
    Activate(#[from] ActivateError),
    /// It was not given work.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// What it did was not taken.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

/// Any error of the crate, for `?` in applications.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant wraps the operation's error of the same name")]
pub enum Error {
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Detail(#[from] DetailError),
    #[error(transparent)]
    RegisterClient(#[from] RegisterClientError),
    #[error(transparent)]
    Deregister(#[from] DeregisterError),
    #[error(transparent)]
    RegisterService(#[from] RegisterServiceError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Activate(#[from] ActivateError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Add(#[from] AddError),
    #[error(transparent)]
    Urgent(#[from] UrgentError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Retract(#[from] RetractError),
    #[error(transparent)]
    Ticket(#[from] TicketError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Project(#[from] ProjectError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error(transparent)]
    Handler(#[from] HandlerError),
    #[error(transparent)]
    Json(#[from] JsonError),
}
