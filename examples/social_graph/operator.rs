//! The operator: has a sample of the results checked again, looks who disagreed with whom, and undoes what a liar did.

use std::collections::BTreeMap;

use commissary::{ClientId, ReadError, Retraction, SeatState, ServiceHandle, SubjectState, Version};

use crate::Failure;
use crate::crowd::{self, Crowd};
use crate::dice::Dice;
use crate::shop::{Asked, Shop};

/// Results checked again at a time, next to each other.
const SAMPLE: usize = 16;
/// Nobody is accused before there were so many disputes, ...
const DISPUTES: u64 = 12;
/// ... and nobody who had them with less than so many others.
const OTHERS: usize = 3;
/// Results of which a deletion names so many at a time.
const PAGE: usize = 1_024;

/// What was done about one worker.
pub(crate) struct Case {
    pub(crate) client: u64,
    /// How often it said something else of a user than another worker, before or after it.
    pub(crate) disputes: u64,
    pub(crate) following: Retraction,
    pub(crate) dm: Retraction,
}

pub(crate) struct Operator<'a> {
    shop: &'a Shop<'a>,
    crowd: &'a Crowd,
    dice: Dice,
    following: Samples,
    dm: Samples,
    disputes: Disputes,
    /// Results had checked again, in this run.
    pub(crate) sampled: u64,
    pub(crate) case: Option<Case>,
    /// Users that only lies had led to, taken out of the message check.
    pub(crate) pruned: u64,
}

impl<'a> Operator<'a> {
    pub(crate) fn new(shop: &'a Shop<'a>, crowd: &'a Crowd, seed: u64) -> Self {
        let (following, dm, disputes) = (Samples::default(), Samples::default(), Disputes::default());
        Self { shop, crowd, dice: Dice::new(!seed), following, dm, disputes, sampled: 0, case: None, pruned: 0 }
    }

    /// An earlier run may have been killed between barring a worker and undoing its work: does it again.
    pub(crate) fn resume(&mut self) -> Result<(), Failure> {
        let barred = |id: &&u64| {
            let seats = [self.shop.following.seat_stats(**id), self.shop.dm.seat_stats(**id)];
            seats.iter().flatten().any(|seat| seat.state == SeatState::Suspended)
        };
        match self.crowd.ids().iter().find(barred) {
            Some(id) => self.undo(*id),
            None => Ok(()),
        }
    }

    /// Has some more results checked again, and looks whether anyone stands out.
    pub(crate) fn look(&mut self) -> Result<(), Failure> {
        if self.is_satisfied() {
            return Ok(());
        }
        for _ in 0..self.shop.graph.users().len().div_ceil(SAMPLE * 50) {
            self.sampled += self.following.ask(&self.shop.following, &mut self.dice, self.shop)?;
            self.sampled += self.dm.ask(&self.shop.dm, &mut self.dice, self.shop)?;
        }
        self.judge()
    }

    /// Somebody was found out, or enough was checked to say that there is nobody.
    pub(crate) fn is_satisfied(&self) -> bool {
        let users = self.shop.graph.users().len() as u64;
        self.case.is_some() || self.crowd.liar().is_none() || self.sampled >= (users * 2).max(20_000)
    }

    /// Looks at what was checked again meanwhile, and bars whom all disagree with.
    fn judge(&mut self) -> Result<(), Failure> {
        if self.case.is_some() || self.crowd.liar().is_none() {
            return Ok(());
        }
        self.following.compare(&self.shop.following, &mut self.disputes)?;
        self.dm.compare(&self.shop.dm, &mut self.disputes)?;
        match self.disputes.suspect() {
            Some(id) => self.undo(id),
            None => Ok(()),
        }
    }

    /// Bars a worker and withdraws everything it reported. What is left undone by that goes back to the others.
    fn undo(&mut self, client: u64) -> Result<(), Failure> {
        if self.crowd.liar() != Some(client) {
            return Err(format!("worker {client} is honest and was accused").into());
        }
        let disputes = self.disputes.count();
        self.shop.following.suspend(client)?.wait_durable()?;
        self.shop.dm.suspend(client)?.wait_durable()?;
        let following = self.shop.following.retract_all(client)?;
        let dm = self.shop.dm.retract_all(client)?;
        self.case = Some(Case { client, disputes, following, dm });
        Ok(())
    }

    /// True if nothing is left to be done. Then the message check knows the same users as the following check.
    pub(crate) fn is_done(&mut self) -> Result<bool, Failure> {
        let pending = || self.shop.following.stats().subjects_pending() + self.shop.dm.stats().subjects_pending();
        if pending() > 0 || crowd::reconcile(self.shop)? > 0 || !self.is_satisfied() {
            return Ok(false);
        }
        self.judge()?;
        if pending() > 0 {
            return Ok(false);
        }
        self.prune()?;
        Ok(true)
    }

    /// The message check was given users because somebody followed them. Those whom the following check does not know any
    /// more are deleted.
    fn prune(&mut self) -> Result<(), Failure> {
        let mut after = None;
        while !self.shop.is_interrupted() {
            let (page, next) = self.shop.dm.results(after.as_ref(), PAGE)?;
            let mut gone = Vec::new();
            for finding in page {
                if self.shop.following.subject_state(&finding.key)? == SubjectState::Unknown {
                    gone.push(finding.key);
                }
            }
            self.pruned += self.shop.dm.delete(&gone)?.wait_visible()?.added;
            if next.is_none() {
                break;
            }
            after = next;
        }
        Ok(())
    }
}

/// Results of one service that were given out to be checked again: the user, and the version that was there.
#[derive(Default)]
struct Samples(Vec<(u64, u32)>);

impl Samples {
    /// Has a few results checked again, somewhere among those there are. Returns how many.
    fn ask<S: Asked>(&mut self, service: &ServiceHandle<S>, dice: &mut Dice, shop: &Shop<'_>) -> Result<u64, Failure> {
        let somewhere = dice.pick(shop.graph.users());
        let (page, _) = service.results(Some(&somewhere), SAMPLE)?;
        let users: Vec<u64> = page.iter().map(|finding| finding.key).collect();
        let asked = service.rerun(&users)?.wait_visible()?.added;
        self.0.extend(page.iter().map(|finding| (finding.key, finding.version)));
        Ok(asked)
    }

    /// Takes out what was checked meanwhile, and notes who disagreed.
    fn compare<S: Asked>(&mut self, service: &ServiceHandle<S>, disputes: &mut Disputes) -> Result<(), Failure> {
        let mut waiting = Vec::new();
        for (user, number) in std::mem::take(&mut self.0) {
            match service.subject_state(&user)? {
                SubjectState::Done => disputes.note_all(&history_from(service, user, number)?),
                SubjectState::Unknown => {}
                _ => waiting.push((user, number)),
            }
        }
        self.0 = waiting;
        Ok(())
    }
}

fn history_from<S: Asked>(service: &ServiceHandle<S>, user: u64, number: u32) -> Result<Vec<Version<S>>, ReadError> {
    let mut versions = service.history(&user)?;
    versions.retain(|version| version.number >= number);
    Ok(versions)
}

/// How often two workers said something different of the same user, one right after the other. Who was right is not
/// known: the liar's results are checked by honest workers, and honest workers' results by the liar. But two who are
/// honest always agree, so that a liar has a part in every dispute, and soon is the only one who has.
#[derive(Default)]
struct Disputes(BTreeMap<(ClientId, ClientId), u64>);

impl Disputes {
    fn note_all<S: Asked>(&mut self, versions: &[Version<S>]) {
        for pair in versions.windows(2) {
            let [before, after] = pair else { continue };
            if before.client != after.client && before.report != after.report {
                self.note(before.client, after.client);
            }
        }
    }

    fn note(&mut self, one: ClientId, other: ClientId) {
        *self.0.entry((one.min(other), one.max(other))).or_default() += 1;
    }

    fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// Who had a part in all of them, once there were enough, with enough others.
    fn suspect(&self) -> Option<u64> {
        let in_all = |id: &ClientId| self.0.keys().all(|(one, other)| one == id || other == id);
        let enough = self.count() >= DISPUTES && self.0.len() >= OTHERS;
        let (one, other) = self.0.keys().next()?;
        [*one, *other].into_iter().find(in_all).filter(|_| enough).map(ClientId::value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disputes(pairs: &[(u64, u64, u64)]) -> Disputes {
        let mut disputes = Disputes::default();
        for (one, other, times) in pairs {
            for _ in 0..*times {
                disputes.note(ClientId::new(*one).unwrap(), ClientId::new(*other).unwrap());
            }
        }
        disputes
    }

    /// Worker 9 lies. It checked nearly all that worker 1 did, who was contradicted more often than anyone else.
    #[test]
    fn who_is_contradicted_most_is_not_accused_for_it() {
        assert_eq!(disputes(&[(1, 9, 200), (2, 9, 3), (9, 3, 1)]).suspect(), Some(9));
    }

    #[test]
    fn nobody_is_accused_before_it_is_plain_who_it_is() {
        assert_eq!(disputes(&[]).suspect(), None);
        assert_eq!(disputes(&[(1, 9, 500)]).suspect(), None, "one of the two");
        assert_eq!(disputes(&[(1, 9, 9), (2, 9, 1), (3, 9, 1)]).suspect(), None, "too few");
        assert_eq!(disputes(&[(1, 9, 9), (2, 9, 9), (3, 4, 9)]).suspect(), None, "nobody had a part in all");
    }
}
