//! A claim, but for its service's types: compiled once, not for each of them.

use std::time::Duration;

use crate::audit::{Move, Print};
use crate::claim::{Ask, Empty, EmptyReason};
use crate::current::Held;
use crate::error::ClaimError;
use crate::fairness;
use crate::measures::Call;
use crate::pace::spread;
use crate::people::SeatCore;
use crate::pool::{Pool, Terms};
use crate::service::{OverAsk, ServiceState};
use crate::standing::{Admitted, Barred};
use crate::sync::Ordering;
use crate::watch::Level;

/// What became of a claim that was let in.
#[derive(Debug)]
pub(crate) enum Served {
    /// It took buckets.
    Granted { asked: u32, limit: u32 },
    /// There was none for it.
    Empty(Empty),
}

/// What applies to one claim.
struct Allowance {
    asked: u32,
    limit: u32,
    granted: u32,
    quota: u32,
}

/// What a claim took.
#[derive(Default)]
struct Sum {
    buckets: u32,
    subjects: u64,
    print: Print,
}

/// A lease of so many ms does not feel a few more.
const COARSE_LEASE_MS: u64 = 1_000;

impl Sum {
    fn add(&mut self, pool: &Pool, index: usize) {
        let print = pool.bucket_print(index);
        self.buckets += 1;
        self.subjects += print.count;
        self.print = self.print.plus(print);
    }
}

impl SeatCore {
    /// Leases buckets and calls `took` with each. If it refuses the claim after that, the caller ends those leases: the claim
    /// was undone. Lock-free, no allocation.
    pub(crate) fn serve(&self, ask: Ask, took: &mut dyn FnMut(Held, usize)) -> Result<Served, ClaimError> {
        let timing = self.timing(self.counts.claims());
        let served = self.serve_now(ask, took);
        self.timed(Call::Claim, &timing);
        if let Err(error) = &served {
            self.count_claim(error);
        }
        served
    }

    fn serve_now(&self, ask: Ask, took: &mut dyn FnMut(Held, usize)) -> Result<Served, ClaimError> {
        let (service, link) = (&*self.service, &*self.service.link);
        let admitted = self.admit()?;
        link.admit_claim()?;
        let current = service.current();
        let express = service.offers_express();
        let about_now = link.clock.about_now();
        // A cooldown would feel some ms too many, and a short lease some too few, if the machine's own ticks were late.
        let exact = express || current.terms.lease_ms < COARSE_LEASE_MS;
        let now = if exact { link.clock.now() } else { about_now };
        let Allowance { asked, limit, granted, quota } = self.allow(ask, &current.terms, admitted.level)?;
        self.touch(now);
        let turn = express.then(|| self.turn(&current.terms));
        let room = self.reserve(granted, quota, about_now);
        if room == 0 {
            self.counts.claimed(0, 0, turn.is_some());
            return Ok(Served::Empty(self.empty(EmptyReason::QuotaFull, now)));
        }
        let sum = self.take(current, room, now, turn, took);
        self.give_back(room - sum.buckets, about_now);
        self.counts.claimed(sum.buckets, sum.subjects, turn.is_some());
        if sum.buckets == 0 {
            return Ok(Served::Empty(self.empty(self.why_empty(now), now)));
        }
        service.ledger.moved(Move::Assigned, sum.print);
        link.writer.raise();
        if !(link.is_open() && self.words().is_still(&admitted)) {
            self.still_admitted(&admitted)?;
        }
        Ok(Served::Granted { asked, limit })
    }

    /// Leases up to `n` buckets. Without a turn the express queues had nothing.
    fn take(&self, current: Held, n: u32, now: u64, turn: Option<u64>, took: &mut dyn FnMut(Held, usize)) -> Sum {
        let mut sum = Sum::default();
        if n == 1
            && turn.is_none()
            && let Some(index) = current.claim_one(self.index, now)
        {
            sum.add(&current, index);
            // What keeps the pool alive for the claim does so for the lease.
            took(current, index);
            return sum;
        }
        // These may be of other pools than the one that was looked at, with shorter leases, or with cooldowns.
        let now = self.service.link.clock.now();
        let turn = turn.unwrap_or_else(|| self.counts.claims());
        self.service.take(&current, n as usize, self.index, now, turn, |pool, index| {
            sum.add(pool, index);
            took(current.again(pool), index);
        });
        sum
    }

    /// The checks before a claim.
    fn admit(&self) -> Result<Admitted, ClaimError> {
        self.service.link.check()?;
        self.words().admit().map_err(|barred| self.refuse(barred))
    }

    #[cold]
    fn refuse(&self, barred: Barred) -> ClaimError {
        match barred {
            Barred::NotRegistered => ClaimError::NotRegistered,
            Barred::Inactive => ClaimError::Inactive,
            Barred::Suspended => ClaimError::Suspended,
            Barred::Quarantined => ClaimError::Quarantined { why: self.why().unwrap_or_default() },
            Barred::NotReady(state) => ClaimError::NotReady { state },
        }
    }

    /// The second look, if the first glance did not do.
    #[cold]
    fn still_admitted(&self, admitted: &Admitted) -> Result<(), ClaimError> {
        // A poisoned or closed hub keeps the lease: it is taken back, or goes on, when it is reopened.
        if self.service.link.check().is_err() {
            return Ok(());
        }
        self.words().still_admits(admitted).map_err(|barred| self.refuse(barred))
    }

    #[cold]
    fn empty(&self, reason: EmptyReason, now: u64) -> Empty {
        self.counts.empty.add(1);
        self.service.counts.starved.add(1);
        let base = match reason {
            EmptyReason::NotYetFormed => self.service.counts.forming.time(Duration::from_millis(20)),
            EmptyReason::AllLeased { earliest_free } => {
                earliest_free.clamp(Duration::from_millis(100), Duration::from_secs(60))
            }
            EmptyReason::Cooldown => {
                Duration::from_millis(self.service.cooldown_left(self.index, now).unwrap_or_default())
            }
            _ => Duration::from_secs(1),
        };
        let turn = (self.counts.empty.value() << 32) | u64::from(self.index);
        let random = self.service.link.secret.scramble(&turn.to_be_bytes());
        // A cooldown is the client's own: it need not be spread widely.
        let window = if reason == EmptyReason::Cooldown { base.min(Duration::from_secs(1)) } else { base };
        Empty { reason, retry_after: spread(base, window / 2, random) }
    }

    fn why_empty(&self, now: u64) -> EmptyReason {
        let service = &self.service;
        let counts = &service.counts;
        if counts.waiting.value() > 0 || service.has_ready(self.index, now) {
            if service.state() == ServiceState::Paused {
                return EmptyReason::Paused;
            }
            counts.forming.wait(now);
            return EmptyReason::NotYetFormed;
        }
        if service.cooldown_left(self.index, now).is_some() {
            return EmptyReason::Cooldown;
        }
        match counts.earliest_free.value() {
            0 => EmptyReason::NothingPending,
            at => EmptyReason::AllLeased { earliest_free: Duration::from_millis(at.saturating_sub(now)) },
        }
    }

    /// The turn of a claim, which says in what order it looks at the queues: at a place in its round that the client cannot
    /// know. Counts the claim.
    #[cold]
    fn turn(&self, terms: &Terms) -> u64 {
        let turn = self.counts.next_turn();
        let round = u128::from(fairness::round(turn, terms.ordinary_share));
        let random = self.service.link.secret.scramble(&((round << 32) | u128::from(self.index)).to_be_bytes());
        fairness::hidden(turn, terms.ordinary_share, random)
    }

    /// The least of: the ask, the seat's declaration, the policy's cap, and what the seat's history lets expect.
    fn allow(&self, ask: Ask, terms: &Terms, level: Level) -> Result<Allowance, ClaimError> {
        if ask.buckets == 0 || ask.subjects == Some(0) {
            return Err(ClaimError::Nothing);
        }
        // ordering: Relaxed, both; caps, read as they are.
        let declared = self.declared_claim.load(Ordering::Relaxed).max(1);
        let quota = self.declared_leases.load(Ordering::Relaxed).max(1).min(terms.leases_in_flight);
        let limit = terms.buckets_per_claim.min(declared);
        if ask.buckets > limit {
            self.counts.over_ask.add(1);
            if terms.over_ask == OverAsk::Reject {
                return Err(ClaimError::TooMany { asked: ask.buckets, limit });
            }
        }
        // Not counted as asking for too much: the client cannot know.
        let limit = if level == Level::Suspect && terms.suspect_one_bucket { 1 } else { limit };
        let most = ask.buckets.min(limit);
        if most == 1 {
            // Neither what it wants nor what its history lets expect is less than one bucket.
            return Ok(Allowance { asked: ask.buckets, limit, granted: 1, quota });
        }
        let buckets_of = |subjects: u64| (subjects / terms.bucket_subjects.max(1) as u64).max(1);
        let time = ask.time.unwrap_or(Duration::from_millis(terms.lease_ms));
        let expected = self.expected_subjects(time).map_or(u64::MAX, buckets_of);
        let wanted = ask.subjects.map_or(u64::MAX, |n| buckets_of(n as u64));
        let granted = u64::from(most).min(expected).min(wanted);
        Ok(Allowance { asked: ask.buckets, limit, granted: u32::try_from(granted).unwrap_or(limit), quota })
    }
}
