//! What a run draws, what it notes, and what it has seen.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// A law that does not hold.
#[derive(Debug, Clone)]
pub(super) struct Violation {
    pub(super) law: &'static str,
    pub(super) what: String,
}

pub(super) type Checked<T = ()> = Result<T, Violation>;

macro_rules! must {
    ($holds:expr, $law:literal, $($what:tt)+) => {
        if !$holds {
            return Err($crate::simulation_test::chance::Violation { law: $law, what: format!($($what)+) });
        }
    };
}
pub(super) use must;

/// `SplitMix64`: all that is random in a run comes from here.
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 if `n` is.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next() % n }
    }

    pub(super) fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap_or(0)
    }

    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }
}

/// Everything that happened in a run, as a hash; as lines, if wanted.
#[derive(Debug, Default)]
pub(super) struct Trace {
    hash: u64,
    pub(super) steps: u64,
    pub(super) lines: Option<String>,
}

impl Trace {
    pub(super) fn new(lines: bool) -> Self {
        Self { lines: lines.then(String::new), ..Self::default() }
    }

    /// An operation, and whose.
    pub(super) fn step(&mut self, at: u64, what: fmt::Arguments<'_>) {
        self.steps += 1;
        self.write_fmt(format_args!("{at:>12} {what}\n")).unwrap();
    }

    /// What came of it.
    pub(super) fn note(&mut self, label: &str, numbers: &[u64]) {
        self.write_fmt(format_args!("{:>14}{label} {numbers:?}\n", "")).unwrap();
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}

impl Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.hash = (self.hash.rotate_left(5) ^ u64::from(byte)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        self.lines.iter_mut().for_each(|lines| lines.push_str(text));
        Ok(())
    }
}

/// How often each state was seen.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen(pub(super) BTreeMap<&'static str, u64>);

impl Seen {
    pub(super) fn saw(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            *self.0.entry(what).or_default() += times;
        }
    }

    pub(super) fn times(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }
}
