//! Every limit at 10, 50 and 100 %, and one beyond: what a user feels there, beside the same on an almost empty hub; and
//! claims with submits on 1 to 8 threads. Prints the README's tables.
//!
//! Hubs live in memory, with their caretakers at work on the same cores unless said otherwise. The empty hub and the full
//! one take turns; a figure is the median of the rounds, a ratio that of the rounds' ratios. What is done is checked.
//! Names choose among the rows: `cargo bench --bench limits -- notices`.
//! With `--quick` the large limits are made small and every round is run once: a smoke test, its figures mean nothing.
#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a benchmark prints its figures, rounded"
)]

mod flow;
mod lanes;
mod numbers;
mod rig;
#[path = "../support/rows.rs"]
mod rows;
mod sizes;
mod table;
mod threads;

fn main() {
    // Not when it is only tried out, as by `cargo test --all-targets`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    rows::begin();
    let start = std::time::Instant::now();
    table::run(&[("threads", threads::print)]);
    table::print_head();
    numbers::print();
    sizes::print();
    flow::print();
    lanes::print();
    eprintln!("{:.0} s in all, {} at the peak", start.elapsed().as_secs_f64(), peak());
}

/// Peak resident memory of this process, where the system tells.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "memory unknown".to_owned(), |kib| kib.trim().to_owned())
}
