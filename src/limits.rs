//! Every hard limit, in one place, readable at run time.

use std::time::Duration;

use serde::Serialize;

use crate::slot::{BUCKET_MAX, OWNERS_MAX, TIME_MAX};

/// The hub's hard limits. Exceeding one is refused with an error that names the limit and the value.
///
/// Name those that differ and take the rest from the default: new fields may be added.
///
/// Set them with [`Builder::limits`](crate::Builder::limits); read them with [`Hub::limits`](crate::Hub::limits).
#[derive(Debug, Clone, Serialize)]
pub struct Limits {
    /// Services that can be registered. Default 1,024.
    pub services: u32,
    /// Clients that can be known, registered or not. Default 1,000,000.
    pub clients: u64,
    /// Seats (activations of a client for a service) that can be known. Default and most: 67,108,863.
    pub seats: u32,
    /// Bytes of a subject's key. Default 256.
    pub key_bytes: usize,
    /// Bytes of a subject's body. Default 4,096.
    pub body_bytes: usize,
    /// Bytes of one encoded report. Default 65,536.
    pub report_bytes: usize,
    /// Bytes of a lane's encoded state. Default 65,536.
    pub lane_state_bytes: usize,
    /// Subjects of one service's lanes that wait in memory, about: 1 or more. Default 4,194,304, 16 to 32 bytes each. While so many wait
    /// nothing more of that service is read from the store.
    pub laned_waiting: usize,
    /// Bytes of all reports and discoveries of one submit, with a lane's state, and of all subjects of one change. Default 8 MiB; at most 15 MiB.
    pub submit_bytes: usize,
    /// Bytes of a JSON body given by name. Default 16 MiB.
    pub json_bytes: usize,
    /// Bytes that may wait to be written, to the journal and to the store, before calls are answered `Busy`. Default 64 MiB.
    pub queue_bytes: u64,
    /// Per cent of `queue_bytes` beyond which registrations, activations and additions are answered `Busy`: 1 to 100.
    /// Default 50.
    pub admit_newcomers_percent: u32,
    /// Per cent of `queue_bytes` beyond which claims are answered `Busy`: 1 to 100. Default 75. Submits and administrators'
    /// decisions may fill the queue.
    pub admit_claims_percent: u32,
    /// New identities that one origin may register in a burst. Default 1,000; refilled over `origin_refill`.
    pub origin_burst: u32,
    /// New identities that all origins together may register in a burst. Default 100,000; refilled over `origin_refill`.
    pub newcomer_burst: u32,
    /// Time in which an exhausted budget of new identities is full again. Default one hour.
    pub origin_refill: Duration,
    /// Repeated registrations of one identity in a burst. Default 100; refilled over `repeat_refill`.
    pub repeat_burst: u32,
    /// Time in which an exhausted budget of repeats is full again. Default one minute.
    pub repeat_refill: Duration,
    /// Dead leases that are released in half a second, all services together: 1 or more. Default 4,096. The oldest come first,
    /// the rest in the next half second; until then their reports are still taken.
    pub releases_per_round: usize,
    /// Finished slots kept in memory so that a repeated submit can be answered subject by subject (a pool counts as at
    /// least 64). Default 16,384.
    pub settled_slots: usize,
    /// Slowest finished leases remembered per service, for [`ServiceHandle::slow_buckets`](crate::ServiceHandle::slow_buckets). Default 1,024.
    pub slow_leases: usize,
    /// Newest notices kept in memory, for [`Hub::notices`](crate::Hub::notices). Default 1,024; at most 1,048,576.
    pub notices: usize,
    /// Steps of one explanation, the newest. Default 1,024.
    pub explained_steps: usize,
}

impl Limits {
    /// Most subjects in a bucket: fixed by the slot's chunk words.
    pub const BUCKET_SUBJECTS: usize = BUCKET_MAX;
    /// Most reports in one submit: sixteen for each subject of the largest bucket.
    pub const SUBMIT_REPORTS: usize = 16 * BUCKET_MAX;
    /// Most subjects that one call can make urgent.
    pub const URGENT_KEYS: usize = 65_536;
    /// Longest time, in milliseconds, from the forming of a pool to the end of its last lease, renewals included (397
    /// days): fixed by the slot's state word.
    pub const LEASE_MS: u64 = TIME_MAX;
    /// Characters of a screen name: 1 to this.
    pub const NAME_CHARS: usize = 15;
    /// Characters of a service's id: 1 to this.
    pub const SERVICE_ID_CHARS: usize = 64;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            services: 1_024,
            clients: 1_000_000,
            seats: OWNERS_MAX - 1,
            key_bytes: 256,
            body_bytes: 4_096,
            report_bytes: 65_536,
            lane_state_bytes: 65_536,
            laned_waiting: 1 << 22,
            submit_bytes: 8 << 20,
            json_bytes: 16 << 20,
            queue_bytes: 64 << 20,
            admit_newcomers_percent: 50,
            admit_claims_percent: 75,
            origin_burst: 1_000,
            newcomer_burst: 100_000,
            origin_refill: Duration::from_secs(3_600),
            repeat_burst: 100,
            repeat_refill: Duration::from_secs(60),
            releases_per_round: 4_096,
            settled_slots: 16_384,
            slow_leases: 1_024,
            notices: 1_024,
            explained_steps: 1_024,
        }
    }
}
