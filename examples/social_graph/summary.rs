//! The table at the end.

use std::fs;
use std::path::Path;
use std::time::Duration;

use commissary::{Retraction, ServiceStats};

use crate::check::Flaws;
use crate::operator::Operator;
use crate::shop::Shop;

pub(crate) fn print(
    shop: &Shop<'_>,
    operator: &Operator<'_>,
    directory: &Path,
    worked: Duration,
    rate: u64,
    flaws: &Flaws,
) {
    let (following, dm) = (shop.following.stats(), shop.dm.stats());
    println!("{:<34}{:>16}{:>16}", "", following.id, dm.id);
    let row = |name: &str, of: fn(&ServiceStats) -> u64| println!("{name:<34}{:>16}{:>16}", of(&following), of(&dm));
    row("users known", |stats| stats.subjects_known);
    row("users checked", |stats| stats.subjects_done);
    row("buckets leased", |stats| stats.work.buckets_assigned);
    row("leases that died", |stats| stats.work.buckets_expired);
    row("buckets put back, those included", |stats| stats.work.buckets_put_back);
    row("offered again, refused", |stats| stats.duplicates);
    row("rounds after the first", |stats| stats.reruns);
    row("results withdrawn", |stats| stats.withdrawn);
    row("refused: not in the bucket *", |stats| stats.faults.not_in_bucket);
    row("refused: forged token *", |stats| stats.faults.not_owner);
    row("refused: rejected by the plugin *", |stats| stats.faults.rejected);
    row("refused: lease was over *", |stats| stats.faults.stale);
    row("refused: contradiction", |stats| stats.faults.conflicts);
    let total = |name: &str, value: String| println!("{name:<34}{value:>16}");
    case(operator);
    let hub = directory.join("hub");
    total("users, edges", format!("{}, {}", shop.graph.users().len(), shop.graph.edges()));
    total("lost, duplicates", format!("{}, {}", flaws.lost, flaws.duplicates));
    total("started", format!("{} times", shop.hub.open_report().boots));
    total("time *", format!("{:.1} s", worked.as_secs_f64()));
    total("rate *", format!("{rate}/s"));
    total("journal", megabytes(bytes(&hub.join("journal"))));
    total("store", megabytes(bytes(&hub.join("store"))));
    total("memory, at most *", peak_memory().unwrap_or_else(|| "not known".to_owned()));
    println!("* in this run; all else counts from the first start");
    println!("{}: {flaws}", if flaws.is_none() { "all is as it should be" } else { "WRONG" });
}

/// Who was found out, and what came of it.
fn case(operator: &Operator<'_>) {
    let total = |name: &str, value: String| println!("{name:<34}{value:>16}");
    total("sampled *", operator.sampled.to_string());
    let Some(case) = &operator.case else { return };
    let (following, dm) = (&case.following, &case.dm);
    println!("worker {} lied: {} disputes, all with it; barred, its work undone *", case.client, case.disputes);
    let row = |name: &str, of: fn(&Retraction) -> u64| println!("{name:<34}{:>16}{:>16}", of(following), of(dm));
    row("  results withdrawn", |done| done.results);
    row("  worked on again", |done| done.reopened);
    row("  earlier result in force again", |done| done.fell_back);
    row("  taken away: only lies led there", |done| done.tainted);
    println!("{:<34}{:>32}", "  deleted: fed by lies", operator.pruned);
}

/// Bytes of a file, or of all files under a directory.
fn bytes(path: &Path) -> u64 {
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| bytes(&entry.path())).sum(),
        Err(_) => fs::metadata(path).map_or(0, |file| file.len()),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

/// The most memory that this process has had, where the system tells.
fn peak_memory() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(megabytes(kibibytes * 1_024))
}
