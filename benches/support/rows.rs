//! The lines of the one table that `cargo bench` ends with: each bench leaves its own beside the build, and the last one
//! (`totals`) prints them all.
#![allow(clippy::allow_attributes, dead_code, reason = "each bench uses what it needs")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

/// What must be reached, in terms of a row's ratio.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bar {
    AtMost(f64),
    AtLeast(f64),
    /// Told for comparison.
    None,
}

impl Bar {
    /// True if a ratio reaches it; what is told for comparison is never missed.
    pub(crate) fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
            Self::None => true,
        }
    }

    /// The bar and whether a ratio reaches it, in words.
    pub(crate) fn judge(self, ratio: f64) -> (String, &'static str) {
        let verdict = if self.holds(ratio) { "reached" } else { "missed" };
        match self {
            Self::AtMost(most) => (format!("at most {most}"), verdict),
            Self::AtLeast(least) => (format!("at least {least}"), verdict),
            Self::None => ("-".to_owned(), "-"),
        }
    }
}

/// Where the benches leave their rows.
pub(crate) fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("rows")
}

/// Processes that had something to do in the last minute, on average; empty where the system does not tell.
fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().unwrap_or_default().to_owned()
}

/// Begins this bench's rows: forgets those of an earlier run. Called once, before what is measured.
pub(crate) fn begin() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    fs::create_dir_all(directory()).expect("a directory for the rows");
    let path = directory().join(env!("CARGO_CRATE_NAME"));
    fs::write(path, format!("{now}\t{}\n", load())).expect("begins the rows");
}

/// One row: what was measured, the figure with its unit, what it is compared with, the ratio of the two, and the bar. It is
/// printed, and kept for the table.
pub(crate) fn row(what: &str, figure: &str, baseline: &str, ratio: f64, bar: Bar) {
    let (bar, verdict) = bar.judge(ratio);
    let ratio = if ratio.is_finite() { format!("{ratio:.2}") } else { "-".to_owned() };
    let cells = [what, figure, baseline, &ratio, &bar, verdict].map(|cell| cell.replace(['\t', '\n'], " "));
    println!("row: {}", cells.join(" | "));
    let path = directory().join(env!("CARGO_CRATE_NAME"));
    let mut file = OpenOptions::new().append(true).create(true).open(path).expect("opens the rows");
    writeln!(file, "{}", cells.join("\t")).expect("keeps the row");
}
