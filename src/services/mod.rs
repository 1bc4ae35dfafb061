//! The three shipped plugins.

mod dm_check;
mod edges;
mod follower_check;
mod following_check;

pub use dm_check::{DmCheck, DmState};
pub use edges::{Edge, edges};
pub use follower_check::FollowerCheck;
pub use following_check::FollowingCheck;

use serde::{Deserialize, Serialize};

use crate::service::Verdict;

/// A list of user ids, as a client saw it: what follower and following checks report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserList {
    /// The users, in the order seen; each at most once, never the checked user itself.
    pub users: Vec<u64>,
    /// False if only the first pages were seen.
    pub complete: bool,
}

impl UserList {
    /// True if both say the same: the same users, in whatever order, and both complete or both not.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let users = |list: &Self| list.users.iter().copied().collect::<std::collections::BTreeSet<u64>>();
        self.complete == other.complete && self.users.len() == other.users.len() && users(self) == users(other)
    }
}

/// Users in one list, at most: more do not fit in a report of the default size.
pub(crate) const LIST_MAX: usize = 6_500;

/// The rules that both list checks share.
fn judge_list(user: u64, list: &UserList) -> Verdict {
    if list.users.len() > LIST_MAX {
        return Verdict::Reject(format!("{} users in the list, the limit is {LIST_MAX}", list.users.len()));
    }
    let mut seen = std::collections::HashSet::with_capacity(list.users.len());
    for other in &list.users {
        if *other == user {
            return Verdict::Reject(format!("user {user} is in its own list"));
        }
        if !seen.insert(other) {
            return Verdict::Reject(format!("user {other} is in the list twice"));
        }
    }
    Verdict::Accept
}
