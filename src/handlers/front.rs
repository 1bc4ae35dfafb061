//! The work on one lease: handles commands from the front on, and reports them with the state after them.

use std::time::Duration;

use super::aside::Failure;
use super::{Crew, LaneHandler};
use crate::clock::utc;
use crate::error::{HubError, LeaseError};
use crate::events::KeyBytes;
use crate::handle::KeyOf;
use crate::lane::{LaneKey, LaneView};
use crate::lease::{Lease, Outcome, Submitted};
use crate::service::{Key, Service, Subject, contain};

/// What became of a lease.
pub(super) enum Fate {
    /// It is over, or is to be given back.
    Done,
    /// A command could not be executed, and is the front now.
    Failed(Failure),
    /// Of these subjects, of no lane, some could not be executed now, and some were not tried, since they could not before.
    Left(Vec<Failure>, Vec<KeyBytes>),
    /// It was over before.
    Lost,
    /// The hub takes no reports for so long.
    Busy(Duration),
    /// The hub takes no reports any more.
    Refused(LeaseError),
}

/// What one submit did.
enum Sent {
    Taken,
    /// A command's deadline has passed meanwhile: nothing was taken.
    Expired,
    /// The report at this place was refused: nothing was taken, on a lane.
    Refused(usize, String),
    /// All of them together are too large.
    TooLarge(String),
    Ended(Fate),
}

/// Commands that were handled, and not reported yet.
struct Handled<S: Service, T> {
    state: T,
    reports: Vec<(KeyOf<S>, S::Report)>,
    keys: Vec<KeyBytes>,
    /// The command behind them could not be executed.
    failure: Option<Failure>,
}

pub(super) fn key_of<S: Subject>(subject: &S) -> KeyBytes {
    let mut bytes = Vec::new();
    // Written before, when it was taken in: a panic now only makes it nameless here.
    let _ = contain(|| subject.key().write(&mut bytes));
    KeyBytes::new(bytes)
}

/// The work on one lease.
pub(super) struct Work<'a, S: Service, H: LaneHandler<S>> {
    crew: &'a Crew<S, H>,
    lease: &'a Lease<S>,
    /// Hub time, ms, from which on the lease is renewed.
    renew_at: std::cell::Cell<u64>,
}

impl<'a, S: Service, H: LaneHandler<S>> Work<'a, S, H> {
    pub(super) fn new(crew: &'a Crew<S, H>, lease: &'a Lease<S>) -> Self {
        let renew_at = crew.office.service.link.clock.now().saturating_add(crew.half_lease());
        Self { crew, lease, renew_at: renew_at.into() }
    }

    /// Handles a lane's bucket; says how many commands were executed.
    pub(super) fn on_lane(&self) -> (u32, Fate) {
        let (mut most, mut failure) = (usize::MAX, None);
        loop {
            let Some(view) = self.lease.lane() else { return (0, Fate::Lost) };
            let mut handled = self.handle(&view, most);
            if let Some(failed) = handled.failure.take() {
                // The state may be half changed: once more, up to there.
                most = handled.reports.len();
                failure = Some(failed);
                if most > 0 {
                    continue;
                }
            }
            let (count, keys) = (handled.reports.len(), std::mem::take(&mut handled.keys));
            let is_failed = failure.is_some();
            if count == 0
                && let Some(failure) = failure
            {
                return (0, Fate::Failed(failure));
            }
            match self.send(handled, !is_failed) {
                Sent::Taken => {
                    self.crew.office.asides.passed(Some(&view.key), &[]);
                    return (small(count), failure.map_or(Fate::Done, Fate::Failed));
                }
                // Fewer are owed now.
                Sent::Expired => (most, failure) = (usize::MAX, None),
                Sent::Refused(place, why) => {
                    most = place;
                    failure = keys.into_iter().nth(place).map(|key| Failure::new(key, why));
                }
                Sent::TooLarge(why) if count < 2 => {
                    most = 0;
                    failure = keys.into_iter().next().map(|key| Failure::new(key, why));
                }
                Sent::TooLarge(_) => (most, failure) = (count / 2, None),
                Sent::Ended(fate) => return (0, fate),
            }
        }
    }

    /// Handles up to `most` commands, from the front on.
    fn handle(&self, view: &LaneView, most: usize) -> Handled<S, H::State> {
        let (mut reports, mut keys, mut failure) = (Vec::new(), Vec::new(), None);
        let link = &self.crew.office.service.link;
        let (mut state, mut broken) = match view.state::<H::State>() {
            Ok(state) => (state, None),
            Err(error) => (H::State::default(), Some(error.to_string())),
        };
        let mut from = 0;
        while reports.len() < most && (reports.is_empty() || !self.crew.office.is_stopping()) {
            let wall_ms = link.clock.wall_ms();
            let Some((place, command)) = self.lease.next_owed(from, wall_ms) else { break };
            from = place + 1;
            let done = match broken.take() {
                Some(why) => Err(why),
                None => contain(|| {
                    let report = self.crew.handler.handle(&view.key, &mut state, &command, utc(wall_ms));
                    (command.key(), report)
                })
                .map_err(|panic| format!("the handler panicked: {panic}")),
            };
            match done {
                Ok(report) => {
                    reports.push(report);
                    keys.push(key_of(&command));
                }
                Err(why) => {
                    failure = Some(Failure::new(key_of(&command), why));
                    break;
                }
            }
            self.renew();
        }
        Handled { state, reports, keys, failure }
    }

    /// Keeps the lease, if its handler is slow.
    fn renew(&self) {
        let now = self.crew.office.service.link.clock.now();
        if now >= self.renew_at.get() {
            // If it cannot be renewed, the report will tell.
            let _ = self.lease.renew();
            self.renew_at.set(now.saturating_add(self.crew.half_lease()));
        }
    }

    /// Reports what was handled; the last report of the lease unless something failed.
    fn send(&self, handled: Handled<S, H::State>, last: bool) -> Sent {
        let Handled { state, reports, .. } = handled;
        let sent = match (reports.is_empty(), last) {
            // What has expired at the front ends without a report.
            (true, _) => self.lease.submit(reports),
            (false, true) => self.lease.submit_lane(reports, &state),
            (false, false) => self.lease.report_lane(reports, &state),
        };
        self.judge(sent)
    }

    fn judge(&self, sent: Result<Submitted, LeaseError>) -> Sent {
        let submitted = match sent {
            Ok(submitted) => submitted,
            Err(LeaseError::Hub(HubError::Busy { retry_after, .. })) => return Sent::Ended(Fate::Busy(retry_after)),
            Err(error @ LeaseError::Hub(_)) => return Sent::Ended(Fate::Refused(error)),
            Err(
                error @ (LeaseError::TooLarge { .. }
                | LeaseError::StateTooLarge { .. }
                | LeaseError::State { .. }
                | LeaseError::TooMany { .. }),
            ) => return Sent::TooLarge(error.to_string()),
            Err(_) => return Sent::Ended(Fate::Lost),
        };
        self.crew.office.counts.expired.add(u64::from(submitted.expired));
        drop(submitted.ticket);
        let mut lost = false;
        for (place, outcome) in submitted.outcomes.into_iter().enumerate() {
            match outcome {
                Outcome::Accepted => {}
                Outcome::Expired => return Sent::Expired,
                Outcome::Rejected { reason } => return Sent::Refused(place, format!("rejected: {reason}")),
                Outcome::TooLarge { bytes, limit } => {
                    let why = format!("the report has {bytes} bytes, the limit is {limit} (report_bytes)");
                    return Sent::Refused(place, why);
                }
                Outcome::PluginPanicked => {
                    return Sent::Refused(place, "the service panicked on its report".to_owned());
                }
                _ => lost = true,
            }
        }
        if lost { Sent::Ended(Fate::Lost) } else { Sent::Taken }
    }

    /// Handles a bucket of subjects of no lane: each by itself.
    pub(super) fn alone(&self) -> (u32, Fate) {
        let (mut done, mut failures, mut waiting, mut from) = (0, Vec::new(), Vec::new(), 0);
        let link = &self.crew.office.service.link;
        loop {
            let wall_ms = link.clock.wall_ms();
            let Some((place, subject)) = self.lease.next_owed(from, wall_ms) else { break };
            if self.crew.office.is_stopping() && from > 0 {
                break;
            }
            from = place + 1;
            let key = key_of(&subject);
            if self.crew.office.asides.is_waiting(&key, link.clock.now()) {
                waiting.push(key);
                continue;
            }
            match self.handle_alone(&subject, wall_ms) {
                Sent::Taken => {
                    done += 1;
                    self.crew.office.asides.passed(None::<&LaneKey>, &[key]);
                }
                Sent::Refused(_, why) | Sent::TooLarge(why) => failures.push(Failure::new(key, why)),
                Sent::Expired => {}
                Sent::Ended(fate) => return (done, fate),
            }
            self.renew();
        }
        let is_done = failures.is_empty() && waiting.is_empty();
        (done, if is_done { Fate::Done } else { Fate::Left(failures, waiting) })
    }

    /// Handles a subject of no lane, and reports it.
    fn handle_alone(&self, subject: &S::Subject, wall_ms: i64) -> Sent {
        let handler = &self.crew.handler;
        let report = contain(|| handler.handle_alone(subject, utc(wall_ms)).map(|report| (subject.key(), report)));
        match report {
            Ok(Some(report)) => self.judge(self.lease.report([report])),
            Ok(None) => Sent::TooLarge("of no lane, and not this handler's".to_owned()),
            Err(panic) => Sent::TooLarge(format!("the handler panicked: {panic}")),
        }
    }
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
