//! Journal records, store keys and store values: pure encode and decode, versioned by the frame and the store.
//!
//! The layouts are described in `docs/format.md`; values are postcard.

use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use serde_bytes::Bytes;
use siphasher::sip128::{Hasher128, SipHasher24};

use crate::audit::Print;
use crate::item::{Head, Tail, varint};
use crate::service::{Bounds, ServiceState};
use crate::slot::{CHUNKS, Cause, Mask};
use crate::watch::Level;

/// A record or value whose bytes say something that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("undecodable {what}: {why}")]
pub(crate) struct DecodeError {
    pub(crate) what: &'static str,
    pub(crate) why: String,
}

fn undecodable(what: &'static str) -> impl FnOnce(postcard::Error) -> DecodeError {
    move |why| DecodeError { what, why: why.to_string() }
}

/// The kind of a [`Snapshot`].
pub(crate) const SNAPSHOT: u8 = 20;
/// The kind of a [`Past`].
pub(crate) const PAST: u8 = 21;
/// Stands for a kind in a [`Past`]: records up to its position were dropped for their age.
pub(crate) const GAP: u8 = 0;

/// One change, as the journal holds it. The truth: the store is what applying these, in order, makes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record<'a> {
    Boot(Boot),
    Service(ServiceRecord<'a>),
    Client(ClientRecord<'a>),
    Seat(SeatRecord),
    Added(Added<'a>),
    Leased(Leased),
    Reported(Reported<'a>),
    Released(Released),
    Conflict(Conflict<'a>),
    Urgent(Urgent),
    Rerun(Keys<'a>),
    Deleted(Keys<'a>),
    Marked(Keys<'a>),
    Withdrawn(Withdrawn<'a>),
    Restored(Restored<'a>),
    Snapshot(Snapshot<'a>),
    Past(Past<'a>),
    Level(LevelRecord<'a>),
    /// Reports on subjects that had been put back: the lease is over, and others held or offered them.
    Late(Reported<'a>),
}

/// The journal was opened: pool generations of this opening carry its number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Boot {
    pub(crate) number: u32,
}

/// A service is known, or its state or bounds changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceRecord<'a> {
    pub(crate) service: u32,
    pub(crate) name: &'a str,
    pub(crate) state: ServiceState,
    pub(crate) max_subjects: u64,
    pub(crate) lane_subjects: u64,
}

/// A client is known, or was registered or deregistered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClientRecord<'a> {
    pub(crate) client: u64,
    pub(crate) name: &'a str,
    pub(crate) registered: bool,
}

/// A client was activated or deactivated for a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SeatRecord {
    pub(crate) service: u32,
    pub(crate) client: u64,
    pub(crate) state: SeatState,
}

/// How far a client is trusted for a service changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LevelRecord<'a> {
    pub(crate) service: u32,
    pub(crate) client: u64,
    pub(crate) level: Level,
    pub(crate) why: &'a str,
}

/// What a client is for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SeatState {
    /// It may claim.
    Active,
    /// It was idle, or deregistered; it must activate again.
    Inactive,
    /// An administrator barred it; only an administrator lifts that.
    Suspended,
}

/// Subjects came in, in this order; those known already are skipped when this is applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Added<'a> {
    pub(crate) service: u32,
    /// A list of [`SubjectRecord`].
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) subjects: &'a [u8],
}

/// A bucket was leased.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Leased {
    pub(crate) service: u32,
    pub(crate) generation: u64,
    pub(crate) slot: u32,
    pub(crate) client: u64,
    /// Hub time, ms.
    pub(crate) at: u64,
    /// The subjects' ranks, in the bucket's order.
    pub(crate) ranks: Vec<u64>,
    /// Those of them that another lease held when this bucket was cut.
    pub(crate) again: Vec<Again>,
    /// The lane whose front the bucket is; empty: of none.
    #[serde(with = "serde_bytes")]
    pub(crate) lane: Vec<u8>,
}

/// A subject offered again while a lease held it: the first report wins.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Again {
    /// Its place in the bucket.
    pub(crate) place: u16,
    /// The lease that held it.
    pub(crate) generation: u64,
    pub(crate) slot: u32,
}

/// Subjects of one lease were reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reported<'a> {
    pub(crate) service: u32,
    pub(crate) generation: u64,
    pub(crate) slot: u32,
    pub(crate) client: u64,
    /// A list of [`Item`].
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) items: &'a [u8],
    /// The state of the lease's lane after these reports; `None`: as before.
    #[serde(borrow)]
    pub(crate) state: Option<&'a Bytes>,
}

/// What was left of a lease was put back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Released {
    pub(crate) service: u32,
    pub(crate) generation: u64,
    pub(crate) slot: u32,
    /// Whose lease it was.
    pub(crate) client: u64,
    pub(crate) cause: Cause,
    pub(crate) ranks: Vec<u64>,
}

/// A second report on a subject said something else than the first. Evidence; it changes no result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Conflict<'a> {
    pub(crate) service: u32,
    pub(crate) generation: u64,
    pub(crate) slot: u32,
    pub(crate) client: u64,
    /// A list of [`Item`].
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) items: &'a [u8],
}

/// Subjects were made urgent; those that are owed no more are skipped when this is applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Urgent {
    pub(crate) service: u32,
    pub(crate) ranks: Vec<u64>,
}

/// Something is done to subjects, by their keys: a list of [`KeyRecord`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Keys<'a> {
    pub(crate) service: u32,
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) keys: &'a [u8],
}

/// One subject's key.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeyRecord<'a> {
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) key: &'a [u8],
}

/// A part of a retraction: a client's results are withdrawn, and subjects that only they had revealed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Withdrawn<'a> {
    pub(crate) service: u32,
    /// Names the retraction: the position of its first part, in which it is 0.
    pub(crate) id: u64,
    pub(crate) client: u64,
    /// Of the reports, by the wall clock: from here on, and before.
    pub(crate) from_ms: i64,
    pub(crate) to_ms: i64,
    /// A list of [`VersionName`].
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) versions: &'a [u8],
    /// A list of [`KeyRecord`].
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) subjects: &'a [u8],
    /// A list of [`FoundRecord`]: withdrawn in an earlier part, and known by other reports all the same.
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) found: &'a [u8],
}

impl Withdrawn<'_> {
    /// The retraction's id, given where the record stands.
    pub(crate) fn id_at(&self, position: u64) -> u64 {
        if self.id == 0 { position } else { self.id }
    }
}

/// A subject that reports in force reveal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FoundRecord<'a> {
    pub(crate) depth: u16,
    /// It lies too deep to be worked on.
    pub(crate) unmarked: bool,
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) key: &'a [u8],
    /// Its lane; empty: it is of none.
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) lane: &'a [u8],
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) body: &'a [u8],
}

/// A retraction, as the store knows it: no keys, so that nothing of a deleted subject is left here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetractionValue {
    pub(crate) client: u64,
    pub(crate) wall_ms: i64,
    pub(crate) from_ms: i64,
    pub(crate) to_ms: i64,
    /// Results withdrawn.
    pub(crate) versions: u64,
    /// Of these, in force, and an earlier one took their place.
    pub(crate) fell_back: u64,
    /// Of these, in force, and their subject was put to work again.
    pub(crate) reopened: u64,
    /// Subjects taken away.
    pub(crate) subjects: u64,
    /// Of these, taken in again.
    pub(crate) returned: u64,
}

/// That a subject was deleted, and where in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tombstone {
    pub(crate) wall_ms: i64,
    /// Of the frame that deleted it: what stands before it about the subject is to be erased.
    pub(crate) position: u64,
    /// The service's next rank then: reports on ranks before it are on a life of the subject that is over.
    pub(crate) next_rank: u64,
}

/// What a tombstone knows of a key: SipHash-2-4-128 under a fixed key, so that two hubs agree and no key can be read from it.
pub(crate) fn subject_hash(subject: &[u8]) -> [u8; 16] {
    let mut hasher = SipHasher24::new_with_key(b"commissary/grave");
    hasher.write(subject);
    hasher.finish128().as_bytes()
}

/// One version of a subject's result.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct VersionName<'a> {
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) key: &'a [u8],
    pub(crate) number: u32,
}

/// A part of the undoing of a retraction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Restored<'a> {
    pub(crate) service: u32,
    pub(crate) id: u64,
    /// The retraction is forgotten.
    pub(crate) last: bool,
    /// A list of [`VersionName`].
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) versions: &'a [u8],
    /// A list of [`KeyRecord`].
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) subjects: &'a [u8],
}

/// A part of the store as it was when the journal was compacted; all parts together are the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Snapshot<'a> {
    /// It is the first part.
    pub(crate) first: bool,
    /// It is the last part.
    pub(crate) last: bool,
    /// A list of [`StoredPair`], in key order.
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) pairs: &'a [u8],
}

/// A record from before the journal was compacted, less what was erased. It is there to be read and changes nothing: what
/// it did is in the snapshot. Its group's time is the time of its first group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Past<'a> {
    /// Where its frame was.
    pub(crate) position: u64,
    /// Its kind; never this one, nor a snapshot's.
    pub(crate) kind: u8,
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) body: &'a [u8],
}

/// A key and its value, as the store holds them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredPair<'a> {
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) key: &'a [u8],
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) value: &'a [u8],
}

/// A subject as it came in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct SubjectRecord<'a> {
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) key: &'a [u8],
    /// Its lane; empty: it is of none.
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) lane: &'a [u8],
    /// From then on it is not to be worked on any more; wall clock, ms.
    pub(crate) deadline: Option<i64>,
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) body: &'a [u8],
}

/// One report, with what a reader needs to understand it without asking anyone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Item<'a> {
    /// The subject's place in the bucket.
    pub(crate) place: u16,
    pub(crate) rank: u64,
    pub(crate) depth: u16,
    /// 1 for the first round of work on the subject, one more for each re-run.
    pub(crate) round: u32,
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) key: &'a [u8],
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) report: &'a [u8],
    /// A list of [`SubjectRecord`] that the report revealed.
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) found: &'a [u8],
    /// A list of [`SubjectRecord`] that the report revealed and that lie too deep: kept, but not to be worked on.
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) beyond: &'a [u8],
    /// Discoveries that lay too deep, kept or not.
    pub(crate) too_deep: u32,
    /// It is no report: the subject's deadline had passed, and it ends without one.
    pub(crate) expired: bool,
}

impl Item<'_> {
    /// The same bytes as [`append`], written by hand.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        let Self { place, rank, depth, round, key, report, found, beyond, too_deep, expired } = *self;
        let framed = Head { place, rank, depth, round, key }.append_to(out);
        out.extend_from_slice(report);
        framed.end(out);
        Tail { found, beyond, too_deep, expired }.append_to(out);
    }
}

/// A subject waiting in a block.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct BlockItem<'a> {
    pub(crate) depth: u16,
    pub(crate) round: u32,
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) key: &'a [u8],
    /// Its lane; empty: it is of none.
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) lane: &'a [u8],
    /// As in its [`SubjectRecord`]; a re-run has none.
    pub(crate) deadline: Option<i64>,
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) body: &'a [u8],
}

/// Appends `value` to `out`.
pub(crate) fn append<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let taken = std::mem::take(out);
    // Writing to a Vec cannot fail; the types here have no unsupported shape. An empty Vec in the other case is caught by
    // the decoder, which is run on every record before it is applied.
    *out = postcard::to_extend(value, taken).unwrap_or_default();
}

/// Encodes `value` alone.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    append(&mut out, value);
    out
}

/// Decodes a whole value; bytes left over are an error.
pub(crate) fn decode<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, DecodeError> {
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(undecodable(what))?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError { what, why: format!("{} bytes left over", rest.len()) }) }
}

/// Walks a list of values written one after the other.
pub(crate) fn list<'a, T: Deserialize<'a> + 'a>(
    what: &'static str,
    bytes: &'a [u8],
) -> impl Iterator<Item = Result<T, DecodeError>> + 'a {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match postcard::take_from_bytes(rest) {
            Ok((value, tail)) if tail.len() < rest.len() => {
                rest = tail;
                Some(Ok(value))
            }
            Ok(_) => {
                rest = &[];
                Some(Err(DecodeError { what, why: "an element of no bytes".to_owned() }))
            }
            Err(why) => {
                rest = &[];
                Some(Err(undecodable(what)(why)))
            }
        }
    })
}

/// What a kind of record is called where records are counted; as [`Record::kind`] numbers them.
pub(crate) fn kind_name(kind: u8) -> &'static str {
    match kind {
        1 => "boot",
        2 => "service",
        3 => "client",
        4 => "seat",
        5 => "added",
        6 => "leased",
        7 => "reported",
        8 => "released",
        9 => "conflict",
        10 => "urgent",
        11 => "rerun",
        12 => "deleted",
        13 => "marked",
        14 => "withdrawn",
        15 => "restored",
        16 => "level",
        17 => "late",
        SNAPSHOT => "snapshot",
        PAST => "past",
        _ => "other",
    }
}

impl<'a> Record<'a> {
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Self::Boot(_) => 1,
            Self::Service(_) => 2,
            Self::Client(_) => 3,
            Self::Seat(_) => 4,
            Self::Added(_) => 5,
            Self::Leased(_) => 6,
            Self::Reported(_) => 7,
            Self::Released(_) => 8,
            Self::Conflict(_) => 9,
            Self::Urgent(_) => 10,
            Self::Rerun(_) => 11,
            Self::Deleted(_) => 12,
            Self::Marked(_) => 13,
            Self::Withdrawn(_) => 14,
            Self::Restored(_) => 15,
            Self::Snapshot(_) => SNAPSHOT,
            Self::Past(_) => PAST,
            Self::Level(_) => 16,
            Self::Late(_) => 17,
        }
    }

    /// Whether records of this kind are decoded here.
    pub(crate) fn is_known(kind: u8) -> bool {
        matches!(kind, 1..=17 | SNAPSHOT | PAST)
    }

    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Boot(record) => append(out, record),
            Self::Service(record) => append(out, record),
            Self::Client(record) => append(out, record),
            Self::Seat(record) => append(out, record),
            Self::Added(record) => append(out, record),
            Self::Leased(record) => append(out, record),
            Self::Reported(record) | Self::Late(record) => append(out, record),
            Self::Released(record) => append(out, record),
            Self::Conflict(record) => append(out, record),
            Self::Urgent(record) => append(out, record),
            Self::Rerun(record) | Self::Deleted(record) | Self::Marked(record) => append(out, record),
            Self::Withdrawn(record) => append(out, record),
            Self::Restored(record) => append(out, record),
            Self::Snapshot(record) => append(out, record),
            Self::Past(record) => append(out, record),
            Self::Level(record) => append(out, record),
        }
    }

    pub(crate) fn decode(kind: u8, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Ok(match kind {
            1 => Self::Boot(decode("boot record", bytes)?),
            2 => Self::Service(decode("service record", bytes)?),
            3 => Self::Client(decode("client record", bytes)?),
            4 => Self::Seat(decode("seat record", bytes)?),
            5 => Self::Added(decode("added record", bytes)?),
            6 => Self::Leased(decode("leased record", bytes)?),
            7 => Self::Reported(decode("reported record", bytes)?),
            8 => Self::Released(decode("released record", bytes)?),
            9 => Self::Conflict(decode("conflict record", bytes)?),
            10 => Self::Urgent(decode("urgent record", bytes)?),
            11 => Self::Rerun(decode("rerun record", bytes)?),
            12 => Self::Deleted(decode("deleted record", bytes)?),
            13 => Self::Marked(decode("marked record", bytes)?),
            14 => Self::Withdrawn(decode("withdrawn record", bytes)?),
            15 => Self::Restored(decode("restored record", bytes)?),
            SNAPSHOT => Self::Snapshot(decode("snapshot record", bytes)?),
            PAST => Self::Past(decode("past record", bytes)?),
            16 => Self::Level(decode("level record", bytes)?),
            17 => Self::Late(decode("late record", bytes)?),
            other => {
                return Err(DecodeError { what: "record", why: format!("kind {other} is unknown") });
            }
        })
    }
}

/// Where the store stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// The journal up to here is applied.
    pub(crate) position: u64,
    /// Hub time of the last group applied, ms.
    pub(crate) hub_ms: u64,
    /// The durability class of the last group applied.
    pub(crate) class: u8,
    /// The number of the last boot applied.
    pub(crate) boot: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceValue {
    pub(crate) name: String,
    pub(crate) state: ServiceState,
    pub(crate) max_subjects: u64,
    pub(crate) lane_subjects: u64,
}

impl ServiceValue {
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { max_subjects: self.max_subjects, lane_subjects: self.lane_subjects }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClientValue {
    pub(crate) name: String,
    pub(crate) registered: bool,
    pub(crate) first_wall_ms: i64,
    pub(crate) last_wall_ms: i64,
}

/// What a seat did, so far as the journal knows: what survives a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SeatTally {
    pub(crate) buckets_assigned: u64,
    pub(crate) buckets_processed: u64,
    pub(crate) buckets_put_back: u64,
    pub(crate) buckets_expired: u64,
    pub(crate) subjects_assigned: u64,
    pub(crate) subjects_reported: u64,
    pub(crate) subjects_put_back: u64,
    pub(crate) conflicts: u64,
    /// Its results that another client's later report did not confirm.
    pub(crate) disagreements: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SeatValue {
    pub(crate) state: SeatState,
    pub(crate) tally: SeatTally,
    pub(crate) level: Level,
    /// Why it has this level; `None` if it never had another.
    pub(crate) why: Option<String>,
    /// Hub time, ms, of the last change of the level.
    pub(crate) level_at: u64,
    pub(crate) times: SeatTimes,
}

impl SeatValue {
    /// A seat that was never activated.
    pub(crate) fn fresh() -> Self {
        Self {
            state: SeatState::Inactive,
            tally: SeatTally::default(),
            level: Level::Healthy,
            why: None,
            level_at: 0,
            times: SeatTimes::default(),
        }
    }
}

/// When a seat was used, by the wall clock, ms; `None`: never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SeatTimes {
    pub(crate) first_activated: Option<i64>,
    pub(crate) last_activated: Option<i64>,
    /// The last activation, claim, report or release that was journaled.
    pub(crate) last_access: Option<i64>,
}

/// Counts of a service's subjects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceTally {
    pub(crate) next_rank: u64,
    /// Subjects to be worked on, or done; neither deleted nor withdrawn.
    pub(crate) known: u64,
    /// Of these, those with no open round.
    pub(crate) done: u64,
    /// Subjects known but not to be worked on.
    pub(crate) unmarked: u64,
    /// Rounds opened after a subject's first.
    pub(crate) reruns: u64,
    pub(crate) deleted: u64,
    /// Results withdrawn by retractions.
    pub(crate) withdrawn: u64,
    /// Reports that came for a subject that was owed no more: deleted, withdrawn, or done by another lease.
    pub(crate) discarded: u64,
    /// Reports taken after their lease had expired.
    pub(crate) late: u64,
    /// Subjects leased while another lease held them.
    pub(crate) again: u64,
    pub(crate) duplicates: u64,
    pub(crate) cut_by_depth: u64,
    pub(crate) cut_by_budget: u64,
    /// Rounds opened in lanes.
    pub(crate) laned: u64,
    /// Additions not taken in, since their lane owed as many subjects as it may.
    pub(crate) lane_full: u64,
    /// Subjects whose deadline passed before they were worked on.
    pub(crate) expired: u64,
    pub(crate) prints: SubjectPrints,
}

/// What is known of a lane beside its state. Not stored while it is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LaneValue {
    /// Its subjects reported so far, counted once a round.
    pub(crate) version: u64,
    /// Its subjects that wait or are being worked on.
    pub(crate) owed: u64,
}

/// What is kept of an unmarked subject.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct UnmarkedValue<'a> {
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) lane: &'a [u8],
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) body: &'a [u8],
}

/// Fingerprints of a service's subjects, by what became of them: each rank enters once, and leaves once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SubjectPrints {
    /// Every rank ever given.
    pub(crate) entered: Print,
    /// Those whose round ended with a report.
    pub(crate) done: Print,
    /// Those whose round ended without: deleted or withdrawn.
    pub(crate) gone: Print,
    /// Reports that came for a rank that was owed no more.
    pub(crate) discarded: Print,
}

/// A live lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LeaseValue {
    pub(crate) client: u64,
    pub(crate) at: u64,
    pub(crate) ranks: Vec<u64>,
    open: [u64; CHUNKS],
    /// What was left was put back; only reports on their way are awaited.
    pub(crate) put_back: Option<Cause>,
    /// Another lease reported one of its subjects. Its holder may not know: it is over when a record says so.
    pub(crate) lost: bool,
    /// A record said that it is over; only reports on their way are awaited.
    pub(crate) ended: bool,
    /// Subjects deleted or withdrawn since: nothing is owed of them, but their places stay open.
    pub(crate) gone: Vec<Gone>,
    /// The lane that it runs; empty: none.
    #[serde(with = "serde_bytes")]
    pub(crate) lane: Vec<u8>,
}

/// A subject in a lease that is owed no more, and known by a hash alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gone {
    /// Its place in the bucket.
    pub(crate) place: u16,
    /// [`subject_hash`] of its key.
    pub(crate) hash: [u8; 16],
}

impl LeaseValue {
    pub(crate) fn new(client: u64, at: u64, ranks: Vec<u64>, lane: Vec<u8>) -> Self {
        let open = Mask::first(ranks.len()).0;
        Self { client, at, ranks, open, put_back: None, lost: false, ended: false, gone: Vec::new(), lane }
    }

    /// True if nothing more can come of it.
    pub(crate) fn is_over(&self) -> bool {
        self.open().is_empty() && (self.ended || !self.lost)
    }

    pub(crate) fn open(&self) -> Mask {
        Mask(self.open)
    }

    /// Clears the bit of `place`. False if it was clear.
    pub(crate) fn clear(&mut self, place: usize) -> bool {
        let mut bit = Mask::default();
        bit.insert(place);
        let was = self.open;
        for (word, bits) in self.open.iter_mut().zip(bit.0) {
            *word &= !bits;
        }
        was != self.open
    }
}

/// What the store knows of one subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SubjectValue<'a> {
    /// Of its last round: where it stands in the order of work.
    pub(crate) rank: u64,
    pub(crate) depth: u16,
    /// Rounds opened so far; 0: it is known but not to be worked on.
    pub(crate) round: u32,
    /// The last round is open: it waits, or is being worked on. Of a withdrawn subject: it was when it was withdrawn.
    pub(crate) open: bool,
    /// The open round was opened because a retraction left no result in force: it ends when one comes back.
    pub(crate) reopened: bool,
    /// Its last round ended without a report: its deadline had passed.
    pub(crate) expired: bool,
    /// The retraction that took the subject away; 0: none did.
    pub(crate) withdrawn: u64,
    /// Versions of its result so far; the next one's number less one.
    pub(crate) versions: u32,
    /// The result in force.
    #[serde(borrow)]
    pub(crate) current: Option<VersionValue<'a>>,
}

impl SubjectValue<'_> {
    /// A subject that was never worked on.
    pub(crate) fn new(depth: u16) -> Self {
        Self {
            rank: 0,
            depth,
            round: 0,
            open: false,
            reopened: false,
            expired: false,
            withdrawn: 0,
            versions: 0,
            current: None,
        }
    }
}

impl<'a> SubjectValue<'a> {
    /// As it is once its first round is over: with its first result, or expired without one.
    pub(crate) fn ended(self, result: Option<VersionValue<'a>>) -> Self {
        let versions = u32::from(result.is_some());
        Self { open: false, reopened: false, expired: result.is_none(), versions, current: result, ..self }
    }
}

/// How first rounds ended, of some of the 256 ranks of one span.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FirstRoundsValue<'a> {
    /// Places in the span, ascending.
    #[serde(borrow, with = "serde_bytes")]
    places: &'a [u8],
    /// Where the end of each of them stops in `bodies`, `u32` each.
    #[serde(borrow, with = "serde_bytes")]
    stops: &'a [u8],
    /// For each an optional [`VersionValue`]; none: it expired.
    #[serde(borrow, with = "serde_bytes")]
    bodies: &'a [u8],
}

impl<'a> FirstRoundsValue<'a> {
    /// A record of these ends, ascending by place: written by hand, since it may be long.
    pub(crate) fn encode(ends: &[(u8, &[u8])]) -> Vec<u8> {
        let bytes: usize = ends.iter().map(|(_, end)| end.len()).sum();
        let mut out = Vec::with_capacity(bytes + 5 * ends.len() + 12);
        varint(&mut out, ends.len() as u64);
        out.extend(ends.iter().map(|(place, _)| place));
        varint(&mut out, 4 * ends.len() as u64);
        let mut stop = 0;
        for (_, end) in ends {
            stop += u32::try_from(end.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&stop.to_be_bytes());
        }
        varint(&mut out, bytes as u64);
        for (_, end) in ends {
            out.extend_from_slice(end);
        }
        out
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The end at a place.
    pub(crate) fn find(&self, place: u8) -> Option<&'a [u8]> {
        self.at(self.places.binary_search(&place).ok()?)
    }

    /// Places and ends, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u8, &'a [u8])> {
        self.places.iter().enumerate().filter_map(|(index, place)| Some((*place, self.at(index)?)))
    }

    fn at(&self, index: usize) -> Option<&'a [u8]> {
        let stop = |index: usize| {
            let stop = self.stops.get(4 * index..4 * index + 4)?.try_into().ok()?;
            usize::try_from(u32::from_be_bytes(stop)).ok()
        };
        let start = if index == 0 { 0 } else { stop(index - 1)? };
        self.bodies.get(start..stop(index)?)
    }
}

/// One accepted report: a version of its subject's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VersionValue<'a> {
    /// 1 for the first.
    pub(crate) number: u32,
    /// The round it was reported in.
    pub(crate) round: u32,
    pub(crate) client: u64,
    pub(crate) wall_ms: i64,
    /// Of the frame that holds the report.
    pub(crate) position: u64,
    /// The lease it was reported on.
    pub(crate) generation: u64,
    pub(crate) slot: u32,
    /// The retraction that withdrew it; 0: none did.
    pub(crate) withdrawn: u64,
    #[serde(borrow, with = "serde_bytes")]
    pub(crate) report: &'a [u8],
}

/// Which subjects of a block are still owed: one bit each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owed {
    pub(crate) len: u32,
    /// Hub time, ms, at which the first of them came.
    pub(crate) since: u64,
    /// Some of them have bodies: the block stays when all are done, for a later round.
    pub(crate) bodies: bool,
    words: Vec<u64>,
}

impl Owed {
    pub(crate) fn all(len: u32, since: u64, bodies: bool) -> Self {
        let full = len as usize / 64;
        let mut words = vec![u64::MAX; full];
        if !len.is_multiple_of(64) {
            words.push((1 << (len % 64)) - 1);
        }
        Self { len, since, bodies, words }
    }

    /// True if a rank is one of the block's, whose first is `first`; whether it is owed or not.
    pub(crate) fn holds(&self, first: u64, rank: u64) -> bool {
        rank.checked_sub(first).is_some_and(|place| place < u64::from(self.len))
    }

    pub(crate) fn has(&self, place: u64) -> bool {
        let word = usize::try_from(place / 64).ok().and_then(|i| self.words.get(i));
        word.is_some_and(|word| word & (1 << (place % 64)) != 0)
    }

    /// Clears a bit. False if it was clear.
    pub(crate) fn clear(&mut self, place: u64) -> bool {
        let had = self.has(place);
        if had && let Some(word) = usize::try_from(place / 64).ok().and_then(|i| self.words.get_mut(i)) {
            *word &= !(1 << (place % 64));
        }
        had
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Sets a bit, as no transition does.
    #[cfg(test)]
    pub(crate) fn set(&mut self, place: u64) {
        self.words[usize::try_from(place / 64).unwrap()] |= 1 << (place % 64);
    }

    /// The places that are owed, ascending.
    pub(crate) fn places(&self) -> impl Iterator<Item = u64> + '_ {
        (0..u64::from(self.len)).filter(|place| self.has(*place))
    }
}

/// Store keys: (service, pallet) first, so that a service, or a pallet of it, is one range. Big-endian, so byte order is
/// numeric order. Service 0 is the hub itself.
pub(crate) mod key {
    /// The one pallet of a hub without a fleet.
    pub(crate) const PALLET: u32 = 0;

    pub(crate) const STANDING: u8 = b'P';
    pub(crate) const SERVICE: u8 = b'S';
    pub(crate) const CLIENT: u8 = b'C';
    pub(crate) const SEAT: u8 = b'A';
    pub(crate) const BLOCK: u8 = b'B';
    pub(crate) const OWED: u8 = b'O';
    pub(crate) const LEASE: u8 = b'L';
    pub(crate) const SUBJECT: u8 = b'K';
    pub(crate) const TALLY: u8 = b'T';
    /// Versions of results but for the one in force.
    pub(crate) const VERSION: u8 = b'V';
    /// Tombstones: that a subject was deleted.
    pub(crate) const DELETED: u8 = b'D';
    /// Ranks that are urgent.
    pub(crate) const URGENT: u8 = b'U';
    /// Subjects first discovered and later added by hand.
    pub(crate) const BY_HAND: u8 = b'H';
    /// Subjects that are known but not to be worked on, with their bodies.
    pub(crate) const UNMARKED: u8 = b'N';
    /// Ranks that were closed without a report: a lease that is journaled after that learns of it here.
    pub(crate) const GONE: u8 = b'G';
    /// Retractions that are in force.
    pub(crate) const RETRACTION: u8 = b'R';
    /// How first rounds ended, many in one record.
    pub(crate) const FIRST_ROUNDS: u8 = b'F';
    /// Lanes that were worked on or owe something.
    pub(crate) const LANE: u8 = b'Y';
    /// Lanes' states.
    pub(crate) const LANE_STATE: u8 = b'Z';

    /// Length of what every key starts with.
    pub(crate) const PREFIX: usize = 9;

    pub(crate) fn of(service: u32, tag: u8, rest: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(PREFIX + rest.len());
        key.extend_from_slice(&service.to_be_bytes());
        key.extend_from_slice(&PALLET.to_be_bytes());
        key.push(tag);
        key.extend_from_slice(rest);
        key
    }

    /// Keys of `service` and `tag` from `rest` on: start and end of the range.
    pub(crate) fn range(service: u32, tag: u8, rest: &[u8]) -> (Vec<u8>, Vec<u8>) {
        (of(service, tag, rest), of(service, tag + 1, &[]))
    }

    pub(crate) fn lease(service: u32, generation: u64, slot: u32) -> Vec<u8> {
        let mut rest = [0; 12];
        let (high, low) = rest.split_at_mut(8);
        high.copy_from_slice(&generation.to_be_bytes());
        low.copy_from_slice(&slot.to_be_bytes());
        of(service, LEASE, &rest)
    }

    /// One version of a subject's result; all versions of one subject follow each other.
    pub(crate) fn version(service: u32, subject: &[u8], number: u32) -> Vec<u8> {
        let mut key = versions(service, subject);
        key.extend_from_slice(&number.to_be_bytes());
        key
    }

    /// What the keys of a subject's versions start with. The length first: no subject's keys start with another's.
    pub(crate) fn versions(service: u32, subject: &[u8]) -> Vec<u8> {
        let len = u16::try_from(subject.len()).unwrap_or(u16::MAX);
        of(service, VERSION, &[&len.to_be_bytes(), subject].concat())
    }

    /// The span of 256 ranks that holds a rank, and its place there.
    pub(crate) fn span_of(rank: u64) -> (u64, u8) {
        let [.., place] = rank.to_be_bytes();
        (rank >> 8, place)
    }

    /// The first rank behind a span.
    pub(crate) fn span_end(span: u64) -> u64 {
        (span << 8).saturating_add(256)
    }

    /// One of the records of how the first rounds of a span of ranks ended.
    pub(crate) fn first_rounds(service: u32, span: u64, number: u32) -> Vec<u8> {
        let mut rest = [0; 12];
        let (high, low) = rest.split_at_mut(8);
        high.copy_from_slice(&span.to_be_bytes());
        low.copy_from_slice(&number.to_be_bytes());
        of(service, FIRST_ROUNDS, &rest)
    }

    /// Where the records of a span begin, and what follows them.
    pub(crate) fn all_first_rounds(service: u32, span: u64) -> (Vec<u8>, Vec<u8>) {
        (first_rounds(service, span, 0), first_rounds(service, span, u32::MAX))
    }

    pub(crate) fn retraction(service: u32, id: u64) -> Vec<u8> {
        of(service, RETRACTION, &id.to_be_bytes())
    }

    /// The subject and the number in what follows the prefix of a version's key; the inverse of [`version`].
    pub(crate) fn of_version(rest: &[u8]) -> Option<(&[u8], u32)> {
        let (len, rest) = rest.split_at_checked(2)?;
        let len = u16::from_be_bytes(len.try_into().ok()?);
        let (subject, number) = rest.split_at_checked(usize::from(len))?;
        Some((subject, small_number(number)?))
    }

    /// What kind of value the key names.
    pub(crate) fn tag(key: &[u8]) -> Option<u8> {
        key.get(PREFIX - 1).copied()
    }

    /// What follows the prefix.
    pub(crate) fn rest(key: &[u8]) -> &[u8] {
        key.get(PREFIX..).unwrap_or_default()
    }

    pub(crate) fn number(rest: &[u8]) -> Option<u64> {
        Some(u64::from_be_bytes(rest.get(..8)?.try_into().ok()?))
    }

    pub(crate) fn small_number(rest: &[u8]) -> Option<u32> {
        Some(u32::from_be_bytes(rest.get(..4)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn first_rounds_by_hand_are_as_postcard_writes_them() {
        for n in [0, 1, 2, 100, 256] {
            let bodies: Vec<Vec<u8>> = (0..n).map(|place| vec![7; place % 150]).collect();
            let ends: Vec<(u8, &[u8])> = (0..=255).zip(bodies.iter().map(Vec::as_slice)).collect();
            let bytes = FirstRoundsValue::encode(&ends);
            let value: FirstRoundsValue<'_> = decode("first rounds", &bytes).unwrap();
            assert_eq!(encode(&value), bytes);
            assert_eq!(value.iter().collect::<Vec<_>>(), ends);
            assert!(ends.iter().all(|(place, end)| value.find(*place) == Some(end)));
        }
    }

    #[test]
    fn a_list_of_elements_without_bytes_ends_with_an_error() {
        let read: Vec<_> = list::<()>("units", &[7]).collect();
        let expected = DecodeError { what: "units", why: "an element of no bytes".to_owned() };
        assert_eq!(read, [Err(expected)]);
        assert_eq!(list::<u8>("bytes", &[7, 8]).collect::<Vec<_>>(), [Ok(7), Ok(8)]);
    }

    #[test]
    fn every_record_decodes_to_itself() {
        let mut items = Vec::new();
        let item = Item {
            place: 3,
            rank: 9,
            depth: 1,
            round: 2,
            key: b"k",
            report: b"rr",
            found: b"",
            beyond: b"z",
            too_deep: 2,
            expired: false,
        };
        append(&mut items, &item);
        let records = [
            Record::Boot(Boot { number: 7 }),
            Record::Service(ServiceRecord {
                service: 1,
                name: "dm",
                state: ServiceState::Paused,
                max_subjects: 5,
                lane_subjects: 6,
            }),
            Record::Client(ClientRecord { client: 1, name: "n", registered: true }),
            Record::Seat(SeatRecord { service: 1, client: 2, state: SeatState::Suspended }),
            Record::Added(Added { service: 1, subjects: b"abc" }),
            Record::Leased(Leased {
                service: 1,
                generation: 2,
                slot: 3,
                client: 4,
                at: 5,
                ranks: vec![6, 7],
                again: vec![Again { place: 1, generation: 1, slot: 9 }],
                lane: b"lane".to_vec(),
            }),
            Record::Reported(Reported {
                service: 1,
                generation: 2,
                slot: 3,
                client: 4,
                items: &items,
                state: Some(Bytes::new(b"state")),
            }),
            Record::Late(Reported { service: 1, generation: 2, slot: 3, client: 4, items: &items, state: None }),
            Record::Released(Released {
                service: 1,
                generation: 2,
                slot: 3,
                client: 4,
                cause: Cause::Expired,
                ranks: vec![1],
            }),
            Record::Conflict(Conflict { service: 1, generation: 2, slot: 3, client: 4, items: &items }),
            Record::Urgent(Urgent { service: 1, ranks: vec![5] }),
            Record::Rerun(Keys { service: 1, keys: b"a" }),
            Record::Deleted(Keys { service: 1, keys: b"b" }),
            Record::Marked(Keys { service: 1, keys: b"c" }),
            Record::Withdrawn(Withdrawn {
                service: 1,
                id: 2,
                client: 3,
                from_ms: i64::MIN,
                to_ms: 4,
                versions: b"v",
                subjects: b"s",
                found: b"f",
            }),
            Record::Restored(Restored { service: 1, id: 2, last: true, versions: b"v", subjects: b"s" }),
            Record::Snapshot(Snapshot { first: true, last: false, pairs: b"pairs" }),
            Record::Past(Past { position: u64::MAX, kind: 7, body: &items }),
            Record::Level(LevelRecord { service: 1, client: 2, level: Level::Quarantined, why: "forged" }),
        ];
        for record in records {
            let mut bytes = Vec::new();
            record.append_to(&mut bytes);
            assert!(Record::is_known(record.kind()));
            assert_ne!(kind_name(record.kind()), "other", "{record:?} is counted under its own name");
            assert_eq!(Record::decode(record.kind(), &bytes).as_ref(), Ok(&record));
            bytes.push(0);
            assert!(Record::decode(record.kind(), &bytes).is_err(), "bytes left over in {record:?}");
        }
        assert_eq!(list::<Item<'_>>("item", &items).collect::<Vec<_>>(), [Ok(item)]);
    }

    #[test]
    fn subject_hash_is_what_the_format_says() {
        let hex = |key: &[u8]| subject_hash(key).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        assert_eq!(hex(b""), "6c9d2a1f35610e8cbc7e57c0c73bfcc7");
        assert_eq!(hex(b"123456789"), "19d87c3505b350c892aec24c9488aa0e");
    }

    #[test]
    fn owed_counts_every_bit_once() {
        for len in [1, 63, 64, 65, 1024] {
            let mut owed = Owed::all(len, 0, false);
            assert!(!owed.has(u64::from(len)));
            for place in 0..u64::from(len) {
                assert!(owed.clear(place) && !owed.clear(place));
            }
            assert!(owed.is_empty());
        }
    }

    proptest! {
        #[test]
        fn items_written_by_hand_are_postcards(
            place: u16, rank: u64, rounds: (u16, u32), key: Vec<u8>, report: Vec<u8>, found: (Vec<u8>, Vec<u8>), counts: (u32, bool)
        ) {
            let (depth, round) = rounds;
            let (found, beyond) = (&found.0, &found.1);
            let (too_deep, expired) = counts;
            let item = Item { place, rank, depth, round, key: &key, report: &report, found, beyond, too_deep, expired };
            let mut by_hand = Vec::new();
            item.append_to(&mut by_hand);
            prop_assert_eq!(by_hand, encode(&item));
        }

        #[test]
        fn any_bytes_decode_to_a_record_or_an_error(kind: u8, bytes: Vec<u8>) {
            if let Ok(record) = Record::decode(kind, &bytes) {
                let mut again = Vec::new();
                record.append_to(&mut again);
                prop_assert!(again.len() <= bytes.len(), "decoding is not longer than its input");
            }
            for item in list::<Item<'_>>("item", &bytes).take(bytes.len() + 2) {
                let _ = item;
            }
        }
    }
}
