//! Is what the crowd found what is there?

use std::cmp::Ordering;
use std::fmt;

use commissary::services::UserList;
use commissary::{Finding, ServiceHandle, ServiceStats};

use crate::Failure;
use crate::crowd::Crowd;
use crate::graph::Graph;
use crate::shop::{Asked, Shop};

/// Results read at a time.
const PAGE: usize = 1_024;

/// What is wrong with the results; all zero if nothing is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Flaws {
    /// Users without a result.
    pub(crate) lost: u64,
    /// Results on users that are not in the input.
    pub(crate) unknown: u64,
    /// Reports that were taken twice, or are not there.
    pub(crate) duplicates: u64,
    pub(crate) edges_missing: u64,
    pub(crate) edges_invented: u64,
    /// Results other than the truth (lists with wrong edges included).
    pub(crate) wrong: u64,
    /// Counts that do not add up.
    pub(crate) miscounted: u64,
}

impl Flaws {
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Flaws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lost, unknown, duplicates, edges_missing, edges_invented, wrong, miscounted } = self;
        write!(
            f,
            "{lost} users lost, {unknown} unknown, {duplicates} duplicates, {edges_missing} edges missing, \
             {edges_invented} invented, {wrong} wrong results, {miscounted} counts that do not add up"
        )
    }
}

/// Compares every result of both services with the input. `None` if Ctrl-C came first.
pub(crate) fn check(shop: &Shop<'_>, crowd: &Crowd) -> Result<Option<Flaws>, Failure> {
    let mut flaws = Flaws::default();
    let graph = shop.graph;
    let following = compare(shop, &shop.following, &mut flaws, |finding, flaws| {
        compare_edges(graph.followed_by(finding.key), &finding.report, flaws)
    })?;
    let dm = compare(shop, &shop.dm, &mut flaws, |finding, _| finding.report == Graph::dm_state(finding.key))?;
    for (stats, versions) in [(shop.following.stats(), following), (shop.dm.stats(), dm)] {
        count(&stats, graph.users().len() as u64, &mut flaws);
        // Each report that was taken is a version of something. Those of users that only lies led to are not read here.
        let stored = stats.work.subjects_reported - stats.discarded;
        let hidden = if crowd.liar().is_some() { stored.saturating_sub(versions) } else { 0 };
        flaws.duplicates += stored.abs_diff(versions + hidden);
    }
    Ok((!shop.is_interrupted()).then_some(flaws))
}

/// Walks the input's users and a service's results side by side; both are in ascending order. Returns how many versions
/// the results have had.
fn compare<S: Asked>(
    shop: &Shop<'_>,
    service: &ServiceHandle<S>,
    flaws: &mut Flaws,
    is_right: impl Fn(&Finding<S>, &mut Flaws) -> bool,
) -> Result<u64, Failure> {
    let mut users = shop.graph.users().iter().peekable();
    let (mut after, mut versions) = (None, 0);
    while !shop.is_interrupted() {
        let (page, next) = service.results(after.as_ref(), PAGE)?;
        for finding in &page {
            while users.next_if(|user| **user < finding.key).is_some() {
                flaws.lost += 1;
            }
            versions += u64::from(finding.version);
            match users.next_if(|user| **user == finding.key) {
                Some(_) => flaws.wrong += u64::from(!is_right(finding, flaws)),
                None => flaws.unknown += 1,
            }
        }
        if next.is_none() {
            flaws.lost += users.count() as u64;
            break;
        }
        after = next;
    }
    Ok(versions)
}

/// Counts the edges that are in only one of the two; the order in a report does not matter.
fn compare_edges(truth: &[u64], list: &UserList, flaws: &mut Flaws) -> bool {
    let mut found = list.users.clone();
    found.sort_unstable();
    let (mut missing, mut invented) = (0, 0);
    let (mut truth, mut found) = (truth.iter().peekable(), found.iter().peekable());
    while let (Some(here), Some(there)) = (truth.peek(), found.peek()) {
        match here.cmp(there) {
            Ordering::Less => missing += u64::from(truth.next().is_some()),
            Ordering::Greater => invented += u64::from(found.next().is_some()),
            Ordering::Equal => drop((truth.next(), found.next())),
        }
    }
    missing += truth.count() as u64;
    invented += found.count() as u64;
    flaws.edges_missing += missing;
    flaws.edges_invented += invented;
    missing + invented == 0
}

/// The service's own counts, over all restarts, must tell the same story.
fn count(stats: &ServiceStats, users: u64, flaws: &mut Flaws) {
    let adds_up = [
        stats.work.adds_up(),
        stats.subjects_known == users,
        stats.subjects_done == users,
        stats.work.subjects_held == 0,
        stats.cut_by_depth == 0,
        stats.cut_by_budget == 0,
        stats.unreadable == 0,
        stats.faults.conflicts == 0,
    ];
    flaws.miscounted += adds_up.into_iter().filter(|right| !right).count() as u64;
}
