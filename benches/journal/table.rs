//! The tables.

use std::collections::BTreeMap;

use crate::drive::Figures;
use crate::rows::{Bar, row};
use crate::{KINDS, OURS};

/// By class, message size, senders and design: the figures of each round.
pub(crate) type Rows = BTreeMap<(&'static str, usize, usize), BTreeMap<&'static str, Vec<Figures>>>;

/// The bars: synced, from so many senders on ours is ahead of all others; with one its median answer takes at most so many
/// times that of a bare append with its sync.
const BAR_SENDERS: usize = 16;
const BAR_RAW: f64 = 1.3;

pub(crate) fn print(rows: &Rows) {
    println!(
        "\nsync: answered after fdatasync; os: after the write. Senders wait for each answer. Medians of the rounds."
    );
    print_figures(rows, "messages a second", |cell, name| text(cell, name, 0, |figures| figures.rate));
    print_figures(rows, "call to answer, p50 / p99, us", |cell, name| {
        let (p50, p99) = (text(cell, name, 0, |figures| figures.p50), text(cell, name, 0, |figures| figures.p99));
        if p50.is_empty() { p50 } else { format!("{p50} / {p99}") }
    });
    print_figures(rows, "bytes written for each byte of a message", |cell, name| {
        text(cell, name, 2, |figures| figures.bytes)
    });
    print_figures(
        rows,
        "messages a second of ours, as a multiple of each; of raw, the p50 of ours as a multiple",
        |cell, name| {
            let ratio = if name == "raw" { latency(cell) } else { ahead(cell, name) };
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
        },
    );
    print_bars(rows);
}

fn print_figures(rows: &Rows, title: &str, figure: impl Fn(&BTreeMap<&'static str, Vec<Figures>>, &str) -> String) {
    println!("\n{title}\n");
    print!("| class | bytes | senders |");
    for kind in &KINDS {
        print!("{:>15} |", kind.name);
    }
    print!("\n|---|---:|---:|");
    for _ in 0..KINDS.len() {
        print!("---:|");
    }
    println!();
    for ((class, bytes, senders), cell) in rows {
        print!("| {class:<5} | {bytes:>5} | {senders:>7} |");
        for kind in &KINDS {
            print!("{:>15} |", figure(cell, kind.name));
        }
        println!();
    }
}

fn text(
    cell: &BTreeMap<&'static str, Vec<Figures>>,
    name: &str,
    decimals: usize,
    value: fn(&Figures) -> f64,
) -> String {
    let Some(rounds) = cell.get(name) else { return String::new() };
    format!("{:.decimals$}", median(rounds.iter().map(value)))
}

/// The rate of ours, as a multiple of another's in the same round.
fn ahead(cell: &BTreeMap<&'static str, Vec<Figures>>, name: &str) -> Option<f64> {
    let (ours, other) = (cell.get(OURS)?, cell.get(name)?);
    Some(median(ours.iter().zip(other).map(|(ours, other)| ours.rate / other.rate)))
}

/// The median answer of ours, as a multiple of raw's in the same round.
fn latency(cell: &BTreeMap<&'static str, Vec<Figures>>) -> Option<f64> {
    let (ours, raw) = (cell.get(OURS)?, cell.get("raw")?);
    Some(median(ours.iter().zip(raw).map(|(ours, raw)| ours.p50 / raw.p50)))
}

fn print_bars(rows: &Rows) {
    println!();
    for ((class, bytes, senders), cell) in rows {
        if *class != "sync" {
            continue;
        }
        for name in cell.keys().filter(|name| **name != "raw" && **name != OURS && *senders >= BAR_SENDERS) {
            if let Some(ratio) = ahead(cell, name) {
                let rate = |name| format!("{}/s", text(cell, name, 0, |figures| figures.rate));
                let what = format!("log: messages of {bytes} bytes, {senders} senders, synced");
                row(&what, &rate(OURS), &format!("{name}: {}", rate(name)), ratio, Bar::AtLeast(1.0));
            }
        }
        if let Some(ratio) = latency(cell) {
            let p50 = |name| format!("{} us", text(cell, name, 0, |figures| figures.p50));
            let what = format!("log: call to answer of {bytes} bytes, {senders} sender, synced, p50");
            row(&what, &p50(OURS), &format!("raw: {}", p50("raw")), ratio, Bar::AtMost(BAR_RAW));
        }
    }
    println!("bars, synced: ahead of every other from {BAR_SENDERS} senders on, p50 within {BAR_RAW} of raw with one");
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
