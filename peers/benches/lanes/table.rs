//! The table.

use crate::contender::Figures;
use crate::work::Spread;

/// Of one contender and spread: the figures of each round; or what was not as it must be.
pub(crate) type Cell = Result<Vec<Figures>, String>;

/// A contender, and its cells by spread.
pub(crate) struct Row {
    pub(crate) class: &'static str,
    pub(crate) name: &'static str,
    pub(crate) cells: Vec<(Spread, Cell)>,
}

pub(crate) fn print(rows: &[Row], spreads: &[Spread]) {
    print!("| class  | {:<36} |", "");
    for spread in spreads {
        print!(" {:>7}: orders/s | p50 / p99, us     |", spread.name());
    }
    println!("\n|---|---|{}", "---:|---:|".repeat(spreads.len()));
    for Row { class, name, cells } in rows {
        print!("| {class:<6} | {name:<36} |");
        for (_, cell) in cells {
            match cell {
                Ok(rounds) => print!(
                    " {:>17} | {:>17} |",
                    thousands(median(rounds, |figures| figures.rate)),
                    format!(
                        "{} / {}",
                        digits(median(rounds, |figures| figures.p50)),
                        digits(median(rounds, |figures| figures.p99))
                    )
                ),
                Err(_) => print!(" {:>17} | {:>17} |", "FAILED", "FAILED"),
            }
        }
        println!();
    }
    for Row { class, name, cells } in rows {
        for (spread, cell) in cells {
            if let Err(what) = cell {
                println!("FAILED: {class}, {name}, {}: {what}", spread.name());
            }
        }
    }
}

fn median(rounds: &[Figures], value: fn(&Figures) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(value).collect();
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

fn digits(micros: f64) -> String {
    if micros < 9.95 { format!("{micros:.1}") } else { thousands(micros) }
}
