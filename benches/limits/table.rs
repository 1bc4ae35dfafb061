//! Rounds in turn, medians, and lines of the table.

use std::sync::OnceLock;
use std::time::Instant;

use crate::rows::{Bar, row};

/// A round of one contender: what it did in a second.
pub(crate) type Round = Box<dyn FnMut() -> f64>;

pub(crate) fn quick() -> bool {
    static QUICK: OnceLock<bool> = OnceLock::new();
    *QUICK.get_or_init(|| std::env::args().any(|argument| argument == "--quick"))
}

/// Rounds behind a figure, one more to warm up.
pub(crate) fn rounds() -> usize {
    if quick() { 1 } else { 11 }
}

/// A large limit; small in a smoke test.
pub(crate) fn large(limit: usize) -> usize {
    if quick() { limit / 100 } else { limit }
}

/// Runs those whose names contain an argument; all of them, if none is given. Says on stderr how long each took.
pub(crate) fn run(rows: &[(&str, fn())]) {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    for (name, row) in rows {
        if wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            let start = Instant::now();
            row();
            eprintln!("{name}: {:.1} s", start.elapsed().as_secs_f64());
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The rates of two contenders that take turns, and the median of the ratios of the second to the first.
#[derive(Clone, Copy)]
pub(crate) struct Compared {
    pub(crate) empty: f64,
    pub(crate) full: f64,
    pub(crate) ratio: f64,
}

pub(crate) fn compare(empty: &mut dyn FnMut() -> f64, full: &mut dyn FnMut() -> f64) -> Compared {
    let _warm_up = (empty(), full());
    let pairs: Vec<(f64, f64)> = (0..rounds()).map(|_| (empty(), full())).collect();
    Compared {
        empty: median(pairs.iter().map(|pair| pair.0).collect()),
        full: median(pairs.iter().map(|pair| pair.1).collect()),
        ratio: median(pairs.iter().map(|pair| pair.1 / pair.0).collect()),
    }
}

/// 10, 50 and 100 % of a limit.
pub(crate) fn levels(limit: usize) -> [usize; 3] {
    [limit / 10, limit / 2, limit]
}

/// Compares what `empty` does with what is made for each level.
pub(crate) fn measure(limit: usize, mut empty: Round, mut at: impl FnMut(usize) -> Round) -> Vec<Compared> {
    levels(limit).into_iter().map(|level| compare(&mut empty, &mut at(level))).collect()
}

/// Three digits that count.
pub(crate) fn short(rate: f64) -> String {
    let (value, unit) = match rate {
        rate if rate >= 1e6 => (rate / 1e6, " M"),
        rate if rate >= 1e3 => (rate / 1e3, " k"),
        rate => (rate, ""),
    };
    let digits = if value >= 99.5 { 0 } else { usize::from(value < 9.95) + 1 };
    format!("{value:.digits$}{unit}")
}

pub(crate) fn print_head() {
    println!(
        "| limit | default, range | one beyond | measured, a second | almost empty | at 10 % | at 50 % | at 100 % |"
    );
    println!("|---|---|---|---|---|---|---|---|");
}

/// One line of the table. `range` is the default and what it can be set to, `beyond` what the one beyond it is answered.
pub(crate) fn print(limit: &str, range: &str, beyond: &str, what: &str, found: &[Compared]) {
    let empty = median(found.iter().map(|compared| compared.empty).collect());
    let cells: Vec<String> = if found.is_empty() {
        vec!["-".to_owned(); 4]
    } else {
        let at = found.iter().map(|compared| format!("{} ({:.2})", short(compared.full), compared.ratio));
        std::iter::once(short(empty)).chain(at).collect()
    };
    println!("| {limit} | {range} | {beyond} | {what} | {} |", cells.join(" | "));
    if let Some(full) = found.last() {
        let (figure, baseline) = (format!("{}/s", short(full.full)), format!("almost empty: {}/s", short(full.empty)));
        row(&format!("{limit} at 100 %: {what}"), &figure, &baseline, full.ratio, Bar::None);
    }
}

/// An error's text, as the table shows it.
pub(crate) fn told(error: &impl ToString) -> String {
    format!("`{}`", error.to_string().replace('|', "\\|"))
}
