//! Budgets that refill with time: one word each, no table that grows with those who come.

use std::time::Duration;

use crate::clock::millis;
use crate::sync::{AtomicU64, Ordering};

/// A budget of `burst` tokens that an exhausted state refills in `refill`. The generic cell rate algorithm (ITU-T I.371):
/// the word is the time, in microseconds, at which the budget will be full again.
#[derive(Debug, Default)]
pub(crate) struct Budget(AtomicU64);

impl Budget {
    /// Takes one token, or says how long until there is one. Lock-free.
    pub(crate) fn take(&self, now_ms: u64, burst: u32, refill: Duration) -> Result<(), Duration> {
        let now = now_ms.saturating_mul(1_000);
        let full = millis(refill).saturating_mul(1_000).max(1);
        let step = (full / u64::from(burst.max(1))).max(1);
        // ordering: Relaxed; the word stands for itself.
        let mut full_at = self.0.load(Ordering::Relaxed);
        loop {
            let next = full_at.max(now).saturating_add(step);
            if next - now > full.max(step) {
                return Err(Duration::from_micros(next - now - full.max(step)).max(Duration::from_millis(1)));
            }
            // ordering: Relaxed, both; see above.
            match self.0.compare_exchange_weak(full_at, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(seen) => full_at = seen,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_its_burst_then_one_token_a_step() {
        let (budget, refill) = (Budget::default(), Duration::from_secs(10));
        for _ in 0..5 {
            assert_eq!(budget.take(0, 5, refill), Ok(()));
        }
        assert_eq!(budget.take(0, 5, refill), Err(Duration::from_secs(2)));
        assert_eq!(budget.take(1_999, 5, refill), Err(Duration::from_millis(1)));
        assert_eq!(budget.take(2_000, 5, refill), Ok(()));
        assert!(budget.take(2_000, 5, refill).is_err());
        for _ in 0..5 {
            assert_eq!(budget.take(60_000, 5, refill), Ok(()));
        }
        assert!(budget.take(60_000, 5, refill).is_err(), "a long rest fills it to the burst, not beyond");
    }
}
