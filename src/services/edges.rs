use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::history::Version;
use crate::service::Service;
use crate::services::UserList;

/// That a user was in the lists of another, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Edge {
    /// The user in the list.
    pub user: u64,
    /// When it was first reported.
    pub since: DateTime<Utc>,
    /// When a complete list without it was reported; `None`: it was not, since.
    pub until: Option<DateTime<Utc>>,
}

/// What a subject's history ([`ServiceHandle::history`](crate::ServiceHandle::history)) says of each user that was ever in
/// its list, in the order of user and time. A user who went and came back has an edge for each time.
///
/// Only a complete list ends an edge; an incomplete one only adds. Withdrawn versions do not count. Times are those of the
/// reports, by the wall clock: the truth changed some time before.
#[must_use]
pub fn edges<S: Service<Report = UserList>>(history: &[Version<S>]) -> Vec<Edge> {
    let mut open: BTreeMap<u64, DateTime<Utc>> = BTreeMap::new();
    let mut edges = Vec::new();
    for version in history.iter().filter(|version| !version.withdrawn) {
        let list = &version.report;
        if list.complete {
            let there: HashSet<u64> = list.users.iter().copied().collect();
            open.retain(|user, since| {
                let stays = there.contains(user);
                if !stays {
                    edges.push(Edge { user: *user, since: *since, until: Some(version.at) });
                }
                stays
            });
        }
        for user in &list.users {
            open.entry(*user).or_insert(version.at);
        }
    }
    edges.extend(open.into_iter().map(|(user, since)| Edge { user, since, until: None }));
    // Stable: those of one user stay in the order in which they ended.
    edges.sort_by_key(|edge| edge.user);
    edges
}
