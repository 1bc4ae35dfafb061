//! Hands out work the way a good ration shop hands out rations: from baskets packed before the queue forms.
//!
//! An application links the crate and registers *services* (plugins). *Clients* come and go as they please: they register,
//! activate, take pre-made *buckets* of *subjects* without ever waiting, and hand in *reports*. A dead client's buckets
//! come back. Nothing acknowledged is lost, nothing is done twice, nobody can pick what it gets. Claims and reports are
//! lock-free; the truth is one journal file, indexed in a store.
//!
//! It is not a network service (put yours in front: see [`NamedService`]), not a message broker, and not a distributed
//! system: one process owns one directory.
//!
//! # Example
//!
//! ```
//! use commissary::services::{FollowingCheck, UserList};
//! use commissary::{Ask, Claim, Hub, ManualClock, MemoryDisk, Registration};
//! # use std::time::Duration;
//!
//! // `Hub::open("directory")` for the real thing; here one in memory, driven by hand.
//! # let clock = ManualClock::default();
//! let hub = Hub::builder().manual().clock(clock.clone()).open_in_memory(&MemoryDisk::new())?;
//! let following = hub.register(FollowingCheck::default())?;
//! following.add_all([12, 34, 56, 78])?;
//!
//! let alice = hub.register_client(&Registration::new(1, "alice"))?.client;
//! let seat = alice.activate(&following)?;
//! hub.tick();
//! if let Claim::Leased(grant) = seat.claim(Ask::one())? {
//!     for lease in grant {
//!         let looked_up = lease.subjects().map(|user| (user, UserList { users: vec![user + 1], complete: true }));
//!         let submitted = lease.submit(looked_up)?;
//!         hub.tick();
//!         submitted.ticket.wait_durable()?;
//!     }
//! }
//! assert_eq!(following.result(&34)?.map(|found| found.report.users), Some(vec![35]));
//! # Ok::<(), commissary::Error>(())
//! ```
//!
//! # Where to look
//!
//! | what | where |
//! |---|---|
//! | open a hub, options, what opening found | [`Hub`], [`Builder`], [`OpenReport`] |
//! | write a service | [`Service`], [`Subject`], [`Policy`], [`services`] |
//! | be a client | [`Client`], [`Seat`], [`Claim`], [`Lease`], [`Ticket`] |
//! | put a network in front | [`NamedService`], [`LeaseToken`] |
//! | look after it | [`ServiceHandle`], [`HubStats`], [`Limits`], [`Notice`] |
//! | say what goes first | [`ServiceHandle::prioritize`], [`Policy::max_wait`], [`Policy::max_pool_age`] |
//! | keep clients from picking | [`Policy::cooldown`], [`Policy::company`] |
//! | work again, look back | [`ServiceHandle::rerun`], [`ServiceHandle::history`], [`ServiceHandle::as_of`] |
//! | do ordered work per key, in this process | [`Service::lane`], [`Hub::run_lanes`], [`LaneHandler`], [`ServiceHandle::lane`], [`ServiceHandle::lanes`] |
//! | take units off a counter, for a time | [`reservations`] |
//! | delete | [`ServiceHandle::delete`], [`Hub::delete_everywhere`], [`Builder::compact`] |
//! | find bad clients, undo their work | [`Watch`], [`ServiceHandle::unhealthy`], [`ServiceHandle::retract`] |
//! | make sure that nothing is lost | [`Hub::audit`], [`Hub::recount`] |
//! | see what happened, and why | [`Hub::events`], [`ServiceHandle::explain`], [`Hub::explain_client`], [`ServiceHandle::trace`] |
//! | log messages of many senders, without a hub | [`messages`], [`messages::wire`] |
//! | follow what happens, build on it | [`Hub::follow`], [`Hub::project`], [`Projection`] |
//! | act outside on what happens | [`Hub::outbox`], [`Courier`] |
//! | draw it | [`Hub::export_json`], [`Hub::export_dot`] |
//! | the protocol and its argument | [`docs::protocol`] |
//! | threads, progress, cost and deadlocks | [`docs::concurrency`] |
//! | the files | [`docs::format`] |
//!
//! # Consistency
//!
//! What a call changed in memory holds at once for every later call of any thread: a subject reported is owed no more,
//! a bucket released is not its former holder's. Reads of results see a report when its ticket is
//! [visible](Progress::Visible).
//!
//! # Durability
//!
//! A change is durable when its [`Ticket`] says so, as far as the hub's [`Durability`] goes; the default syncs. A claim
//! has no ticket: it is journaled with the next group, and a crash before that puts the bucket back.
//!
//! # Limitations
//!
//! One process a directory. Unix and Windows file locks keep a second one out; network file systems may not. The journal
//! grows until a hub is opened with [`Builder::compact`]; only then are the bytes of deleted subjects gone. Bodies and reports
//! are bytes in memory and on one disk: see [`Limits`].
//!
//! # Logging
//!
//! Transitions emit [`tracing`](https://docs.rs/tracing) events under the crate's name; silent unless subscribed.
//!
//! # Minimum Rust
//!
//! 1.89.
//!
//! # Features
//!
//! - `metrics` (off by default): `MetricsExporter` publishes all statistics through the
//!   [`metrics`](https://docs.rs/metrics) facade, when the application calls it; [the names](docs::metrics).
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

// `tests/` and the tests here share files.
#[cfg(test)]
extern crate self as commissary;

mod apply;
#[cfg(test)]
mod apply_test;
mod archive;
mod audit;
#[cfg(test)]
mod audit_lives_test;
#[cfg(test)]
mod audit_test;
mod backlog;
mod bookmark;
mod builder;
mod caretakers;
#[cfg(test)]
mod caretakers_test;
mod chart;
mod claim;
mod client;
mod clock;
mod commit;
mod compact;
mod contest;
pub mod contract;
mod cooldown;
#[cfg(test)]
mod cost_test;
mod current;
mod cursor;
mod device;
#[cfg(test)]
mod disagreement_test;
mod due;
#[cfg(test)]
mod endings_test;
mod error;
mod events;
mod explain;
#[cfg(test)]
mod explain_test;
mod export;
mod express;
mod fairness;
mod faults;
#[cfg(test)]
mod faults_test;
mod files;
mod first_rounds;
#[cfg(test)]
mod first_rounds_random_test;
#[cfg(test)]
mod first_rounds_test;
mod follow;
mod handle;
mod handlers;
mod handover;
mod health;
mod histogram;
mod history;
mod house;
mod hub;
mod id;
mod intake;
mod item;
mod journal;
mod json;
mod keys;
mod lane;
mod lane_status;
mod lanes;
#[cfg(test)]
mod lanes_test;
mod late;
#[cfg(test)]
mod late_test;
mod lease;
mod limits;
mod link;
mod lists;
mod measures;
pub mod messages;
#[cfg(feature = "metrics")]
mod metrics;
mod news;
#[cfg(test)]
mod no_lock_test;
mod notices;
mod outbox;
mod pace;
mod people;
mod permits;
mod pool;
mod projection;
mod record;
mod redact;
mod refusals;
mod refused;
mod registry;
pub mod reservations;
mod restore;
mod rests;
mod results;
mod retired;
mod retract;
mod run;
mod scratch;
mod seat;
mod serve;
#[cfg(test)]
mod serve_test;
mod service;
pub mod services;
mod signal;
#[cfg(test)]
mod simulation_test;
mod slot;
mod spread;
mod stack;
mod standing;
mod stats;
mod steward;
mod storage;
mod store;
mod storekeeper;
mod sync;
mod syncing;
mod taint;
mod throttle;
mod ticket;
mod trace;
mod urgent;
mod ward;
mod watch;
mod writer;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The threads, the protocol, the file format, the names of metrics, and what calls cost, as documents.
pub mod docs {
    #[doc = include_str!("docs/concurrency.md")]
    pub mod concurrency {}
    #[doc = include_str!("docs/format.md")]
    pub mod format {}
    #[cfg_attr(feature = "metrics", doc = include_str!("docs/metrics.md"))]
    #[cfg_attr(not(feature = "metrics"), doc = "The names of metrics: documented with the feature `metrics`.")]
    pub mod metrics {}
    #[doc = include_str!("docs/performance.md")]
    #[expect(clippy::doc_markdown, reason = "a program writes its table")]
    pub mod performance {}
    #[doc = include_str!("docs/protocol.md")]
    pub mod protocol {}
}

/// The version of the journal and of the index that this build writes, and the only one that it reads.
///
/// A directory of another version is refused ([`OpenError`]) and left as it is.
pub const FORMAT_VERSION: u16 = 4;

pub use audit::{Audit, Identity, Imbalance, Print, ServiceAudit};
pub use builder::{Builder, Crash, CutTail, MemoryDisk, OpenReport};
pub use claim::{Ask, Claim, Empty, EmptyReason, Grant, Leases};
pub use client::{Capability, Client, Registered, Registration};
pub use clock::{Clock, ManualClock, SystemClock};
pub use compact::{Compact, Compacted};
pub use error::*;
pub use events::{AddedSubject, Event, EventKind, Events, KeyBytes, ServiceRef, SubjectReport};
pub use explain::{Explained, Explanation};
pub use follow::EventTail;
pub use handle::{KeyOf, Revoke, ServiceHandle, SlowBucket};
pub use handlers::{FailedCommand, LaneHandler, LaneOptions, LaneStats, LaneStep, LaneThreads, LaneWorker};
pub use histogram::{Bucket, Distribution};
pub use history::Version;
pub use hub::{CloseError, Hub};
pub use id::{ClientId, LeaseToken, ParseTokenError};
pub use journal::JournalError;
pub use json::{NamedSeat, NamedService};
pub use lane::{LaneKey, LaneView};
pub use lane_status::{LaneQueue, LaneStatus};
pub use lease::{Lease, LeaseView, Outcome, Submitted};
pub use limits::Limits;
pub use lists::{PendingCursor, PendingSubject};
pub use measures::Times;
#[cfg(feature = "metrics")]
pub use metrics::MetricsExporter;
pub use notices::{Notice, NoticeKind};
pub use outbox::{
    AfterDamage, Courier, DeadLetter, DeadLetters, IdempotencyKey, Outbox, OutboxOptions, OutboxReport, Retry, Step,
};
pub use projection::{AfterLag, Projected, Projection, ProjectionOptions, ProjectionReport, View, Views};
pub use record::SeatState;
pub use refusals::{Refusal, RefusalReason};
pub use refused::Refused;
pub use results::{Finding, Marked, SubjectState};
pub use retract::Retraction;
pub use seat::Seat;
pub use service::{Key, Late, OverAsk, Policy, Reporter, Service, ServiceState, Subject, Urgent, Verdict};
pub use slot::Cause;
pub use stats::{ClientStats, Faults, HubStats, SeatStats, ServiceStats, Work};
pub use storage::{JournalOps, PerThousand, StorageStats, StoreOps};
pub use store::Engine;
pub use ticket::{Durability, Intake, Progress, Ticket};
pub use trace::{OtherReport, Trace};
pub use watch::{Level, Symptom, Watch};
