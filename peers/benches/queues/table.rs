//! The table, and the bars.

use crate::contender::{Kind, Side, WORKERS};

/// Of one contender, claim and number of workers: items a second, of each round; or what was not as it must be.
pub(crate) type Cell = Result<Vec<f64>, String>;

/// A contender at one size of a claim, and its cells by workers.
pub(crate) struct Row {
    pub(crate) kind: &'static Kind,
    pub(crate) claim: usize,
    pub(crate) cells: Vec<(usize, Cell)>,
}

impl Row {
    fn figure(&self, workers: usize) -> Option<f64> {
        let cell = self.cells.iter().find(|cell| cell.0 == workers)?;
        cell.1.as_ref().ok().map(|rounds| median(rounds))
    }
}

pub(crate) fn print(rows: &[Row], workers: &[usize]) {
    print!("| class | a claim | {:<44} |", "items/s, by workers");
    for workers in workers {
        print!(" {workers:>9} |");
    }
    println!("\n|---|---:|---|{}", "---:|".repeat(workers.len()));
    for row in rows {
        print!("| {:<6} | {:>3} | {:<44} |", row.kind.class, row.claim, row.kind.name);
        for workers in workers {
            let figure = row.figure(*workers).map_or_else(|| "FAILED".to_owned(), thousands);
            print!(" {figure:>9} |");
        }
        println!();
    }
    for row in rows {
        for (workers, cell) in &row.cells {
            if let Err(what) = cell {
                println!(
                    "FAILED: {}, {}, {} a claim, {workers} workers: {what}",
                    row.kind.class, row.kind.name, row.claim
                );
            }
        }
    }
}

/// Ours beside the best of the others of a class, for each of ours.
pub(crate) fn bar(rows: &[Row], class: &str, claim: usize, least: f64) {
    let of = |side: Side| {
        rows.iter().filter(move |row| row.kind.class == class && row.claim == claim && row.kind.side == side)
    };
    for ours in of(Side::Ours) {
        for workers in WORKERS {
            let best = |side: Side| {
                let others = of(side).filter_map(|row| Some((row.figure(workers)?, row.kind.name)));
                others.max_by(|one, other| one.0.total_cmp(&other.0))
            };
            let Some(figure) = ours.figure(workers) else { continue };
            let title = format!("{class}, {claim} a claim, {workers} workers: {}", ours.kind.name);
            if let Some((best, name)) = best(Side::Peer) {
                let (ratio, reached) = (figure / best, if figure >= least * best { "reached" } else { "missed" });
                println!("{title}: {ratio:.1} times the best of the others ({name}); bar {least}: {reached}");
            }
            if let Some((best, name)) = best(Side::Bare) {
                println!("{title}: {:.1} times the best of the bare ones ({name}); no bar", figure / best);
            }
        }
    }
}

fn median(rounds: &[f64]) -> f64 {
    let mut values = rounds.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Three digits that count, in groups of three.
fn thousands(value: f64) -> String {
    let scale = 10_f64.powf((value.max(1.0).log10().floor() - 2.0).max(0.0));
    let rounded = ((value / scale).round() * scale).round() as u64;
    let digits = rounded.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}
