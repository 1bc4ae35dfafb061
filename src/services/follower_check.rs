use crate::service::{Policy, Reporter, Service, Verdict};
use crate::services::{UserList, judge_list};

/// Who follows a user?
///
/// A subject is a user id; a report is the list of its followers, complete or its first pages. Users in the list are
/// discovered: they are checked too, up to [`Policy::max_depth`] hops from those added by hand (by default one hop) and
/// [`Policy::max_subjects`] in all.
///
/// A list that names the checked user, or a user twice, is rejected.
#[derive(Debug, Clone)]
pub struct FollowerCheck {
    policy: Policy,
}

impl Default for FollowerCheck {
    fn default() -> Self {
        Self { policy: Policy { max_depth: 1, ..Policy::default() } }
    }
}

impl FollowerCheck {
    /// With settings of one's own.
    #[must_use]
    pub fn with(policy: Policy) -> Self {
        Self { policy }
    }
}

impl Service for FollowerCheck {
    type Subject = u64;
    type Report = UserList;

    fn id(&self) -> &'static str {
        "follower-check"
    }

    fn policy(&self) -> Policy {
        self.policy.clone()
    }

    fn judge(&self, user: &u64, list: &UserList, _reporter: Reporter) -> Verdict {
        judge_list(*user, list)
    }

    fn discover(&self, _user: &u64, list: &UserList, found: &mut Vec<u64>) {
        found.extend(&list.users);
    }

    fn same(&self, old: &UserList, new: &UserList) -> bool {
        old.is_same(new)
    }
}
