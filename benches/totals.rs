//! What the benches before it found, as one table. It measures nothing: it is the last in the order of names, in which
//! `cargo bench` runs them.
//!
//! `cargo bench --bench totals -- --write` puts the table into `src/docs/performance.md` as well, between its marks.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

#[path = "support/rows.rs"]
mod rows;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

const BEGIN: &str = "<!-- the table begins -->\n";
const END: &str = "<!-- the table ends -->";
const HEAD: [&str; 7] = ["bench", "what", "figure", "beside", "ratio", "bar", ""];

/// What one bench left.
struct Found {
    bench: String,
    began: DateTime<Utc>,
    took: Duration,
    load: String,
    rows: Vec<Vec<String>>,
}

fn read(path: &Path) -> Option<Found> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    let (began, load) = lines.next()?.split_once('\t')?;
    let began = SystemTime::UNIX_EPOCH + Duration::from_secs(began.parse().ok()?);
    let took = fs::metadata(path).ok()?.modified().ok()?.duration_since(began).unwrap_or_default();
    let rows = lines.map(|line| line.split('\t').map(str::to_owned).collect()).collect();
    let bench = path.file_name()?.to_string_lossy().into_owned();
    Some(Found { bench, began: began.into(), took, load: load.to_owned(), rows })
}

/// Of all benches, by name.
fn found() -> Vec<Found> {
    let entries = fs::read_dir(rows::directory()).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| read(path)).collect()
}

/// The table, its columns as wide as what stands in them.
fn table(found: &[Found]) -> String {
    let mut lines: Vec<Vec<String>> = vec![HEAD.map(str::to_owned).to_vec()];
    for found in found {
        lines.extend(
            found
                .rows
                .iter()
                .map(|row| std::iter::once(&found.bench).chain(row).map(|cell| cell.replace('|', "\\|")).collect()),
        );
    }
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..HEAD.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if number == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width + 2)).collect();
            let _ = writeln!(text, "|{}|", rules.join("|"));
        }
    }
    text
}

/// The machine, and when each bench ran and how busy the machine was then.
fn circumstances(found: &[Found]) -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("processor unknown");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let compiler = Command::new("rustc").arg("-V").output().map(|output| output.stdout).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut text = format!(
        "{cores} cores, {}; {} {}; {}. Command: `cargo bench{}`.\n",
        model.trim_start_matches([' ', '\t', ':']),
        std::env::consts::OS,
        kernel.split(['-', '\n']).next().unwrap_or_default(),
        String::from_utf8_lossy(&compiler).trim(),
        if cfg!(feature = "redb") { " --features redb" } else { "" },
    );
    let each = found.iter().map(|found| {
        let Found { bench, began, took, load, .. } = found;
        format!("{bench} {} ({} s, load {load})", began.format("%Y-%m-%d %H:%M"), took.as_secs())
    });
    let seconds: u64 = found.iter().map(|found| found.took.as_secs()).sum();
    let _ = writeln!(
        text,
        "When, for how long, and how busy the machine was before (UTC): {}; {seconds} s in all.",
        each.collect::<Vec<_>>().join(", ")
    );
    text
}

fn write(text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/docs/performance.md");
    let page = fs::read_to_string(&path).expect("the page is there");
    let (before, rest) = page.split_once(BEGIN).expect("the page has the first mark");
    let (_, after) = rest.split_once(END).expect("the page has the last mark");
    fs::write(&path, format!("{before}{BEGIN}\n{text}\n{END}{after}")).expect("writes the page");
    println!("written to {}", path.display());
}

fn main() {
    // Not when it is only tried out, as by `cargo test --all-targets`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let found = found();
    let text = format!("{}\n{}", circumstances(&found), table(&found));
    println!("\n{text}");
    let verdicts = || found.iter().flat_map(|found| &found.rows).filter_map(|row| row.last());
    let count = |verdict: &str| verdicts().filter(|found| *found == verdict).count();
    println!("{} bars reached, {} missed", count("reached"), count("missed"));
    if std::env::args().any(|argument| argument == "--write") {
        write(&text);
    }
}
