//! One thread of commissary held where it hurts, while the others go on.

mod board;
mod crew;
mod designs;
mod memory;
mod names;
mod random;
mod step;
mod trace;

use std::time::Duration;

fn main() {
    if let Some(n) = std::env::args().position(|a| a == "random") {
        let arg = |i: usize, d: u64| std::env::args().nth(n + i).and_then(|a| a.parse().ok()).unwrap_or(d);
        let plan = random::Plan {
            stops: arg(1, 400),
            threads: arg(2, 4) as usize,
            hold: Duration::from_millis(4),
            patience: Duration::from_millis(arg(3, 500)),
            stands: arg(4, 3),
            stand: Duration::from_millis(300),
            what: match std::env::args().nth(n + 5).as_deref() { Some("mutex") => random::What::Mutex, Some("epoch") => random::What::Epoch, _ => random::What::Hub },
        };
        println!("{:?}", random::run(&plan));
        return;
    }
    let plan = step::Plan {
        full: 2,
        sweep: 10,
        repeats: 2, deep: 16, allocator_patience: Duration::from_millis(30),
        hold: Duration::from_micros(300),
        patience: Duration::from_millis(500),
        operations: (0..designs::Operation::ALL.len()).filter(|n| std::env::var("OPS").map_or(true, |o| o.split(',').any(|o| o == designs::Operation::ALL[*n].1))).collect(),
        contrast: std::env::args().any(|a| a == "contrast"),
        tell: std::env::args().any(|a| a == "tell"),
    };
    println!("{:?}", step::run(&plan));
}
