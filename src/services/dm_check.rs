use serde::{Deserialize, Serialize};

use crate::service::{Policy, Reporter, Service, Verdict};

/// Can a user be sent direct messages?
///
/// A subject is a user id. A report is what the reporting client's own account may do, so the same user may be open to
/// one client and closed to another: a result is to be read together with its client
/// ([`Finding::client`](crate::Finding::client)). A client cannot say anything of its own account.
///
/// Buckets hold 180 users, as one client checks in a quarter of an hour.
///
/// ```
/// use commissary::services::DmCheck;
/// use commissary::{Hub, MemoryDisk};
///
/// let hub = Hub::builder().manual().open_in_memory(&MemoryDisk::new())?;
/// let check = hub.register(DmCheck::default())?;
/// check.add_all(1..=3)?;
/// assert_eq!(check.stats().subjects_known, 3);
/// # Ok::<(), commissary::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DmCheck {
    policy: Policy,
}

impl Default for DmCheck {
    fn default() -> Self {
        Self { policy: Policy { bucket_subjects: 180, ..Policy::default() } }
    }
}

impl DmCheck {
    /// With settings of one's own.
    #[must_use]
    pub fn with(policy: Policy) -> Self {
        Self { policy }
    }
}

/// Whether direct messages can be sent to a user, as seen by the reporting client's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DmState {
    /// Messages can be sent.
    Open,
    /// Messages cannot be sent.
    Closed,
    /// The user was not found.
    Unknown,
}

impl Service for DmCheck {
    type Subject = u64;
    type Report = DmState;

    fn id(&self) -> &'static str {
        "dm-check"
    }

    fn policy(&self) -> Policy {
        self.policy.clone()
    }

    fn judge(&self, user: &u64, _report: &DmState, reporter: Reporter) -> Verdict {
        if *user == reporter.client.value() {
            return Verdict::Reject("a client cannot check its own account".to_owned());
        }
        Verdict::Accept
    }

    /// Accounts see different users open, but about as many: one that sees all closed is barred itself, or made up.
    fn category(&self, report: &DmState) -> Option<u8> {
        Some(match report {
            DmState::Open => 0,
            DmState::Closed => 1,
            DmState::Unknown => 2,
        })
    }
}
