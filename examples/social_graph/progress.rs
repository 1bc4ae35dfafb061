//! What is seen while the crowd works: a bar on a terminal, a line a second elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::Failure;
use crate::shop::Shop;

const BETWEEN_LINES: Duration = Duration::from_secs(1);

enum Display {
    Bar(ProgressBar),
    Lines { last: Instant },
    Nothing,
}

pub(crate) struct Progress {
    display: Display,
    began: Instant,
    /// Results that an earlier run left.
    before: u64,
}

impl Progress {
    pub(crate) fn new(shop: &Shop<'_>, quiet: bool) -> Result<Self, Failure> {
        let display = if quiet {
            Display::Nothing
        } else if stderr().is_terminal() {
            let style = ProgressStyle::with_template("{bar:30} {percent:>3}% {elapsed} {msg}")?;
            Display::Bar(ProgressBar::new(2 * shop.graph.users().len() as u64).with_style(style))
        } else {
            Display::Lines { last: Instant::now() }
        };
        Ok(Self { display, began: Instant::now(), before: done(shop) })
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Subjects a second, since this run began.
    pub(crate) fn rate(&self, shop: &Shop<'_>) -> u64 {
        let millis = self.elapsed().as_millis().max(1);
        let rate = u128::from(done(shop) - self.before) * 1_000 / millis;
        u64::try_from(rate).unwrap_or(u64::MAX)
    }

    pub(crate) fn update(&mut self, shop: &Shop<'_>) {
        match &self.display {
            Display::Bar(bar) => {
                bar.set_position(done(shop));
                bar.set_message(self.line(shop));
            }
            Display::Lines { last } if last.elapsed() >= BETWEEN_LINES => {
                eprintln!("{:>4} s: {}", self.elapsed().as_secs(), self.line(shop));
                self.display = Display::Lines { last: Instant::now() };
            }
            Display::Lines { .. } | Display::Nothing => {}
        }
    }

    fn line(&self, shop: &Shop<'_>) -> String {
        let (following, dm) = (shop.following.stats(), shop.dm.stats());
        let wait = following.oldest_wait.max(dm.oldest_wait);
        format!(
            "following {}/{}, dm {}/{}, {}/s, {} leases, oldest wait {}.{} s",
            following.subjects_done,
            following.subjects_known,
            dm.subjects_done,
            dm.subjects_known,
            self.rate(shop),
            following.work.buckets_held + dm.work.buckets_held,
            wait.as_secs(),
            wait.subsec_millis() / 100,
        )
    }

    pub(crate) fn finish(&self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}

fn done(shop: &Shop<'_>) -> u64 {
    shop.following.stats().subjects_done + shop.dm.stats().subjects_done
}
