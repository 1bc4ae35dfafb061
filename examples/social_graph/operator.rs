//! The operator: has a sample of the results checked again, compares the workers, and undoes what a liar did.

use commissary::{Retraction, SeatState, ServiceHandle, SubjectState};

use crate::Failure;
use crate::crowd::{self, Crowd};
use crate::dice::Dice;
use crate::shop::{Asked, Shop};

/// Results checked again at a time, next to each other.
const SAMPLE: usize = 16;
/// Nobody is accused for less than so many results that others did not confirm, ...
const DISAGREEMENTS: u64 = 12;
/// ... nor unless that is so many times as often as with anyone else. (Where a liar checks an honest worker's results,
/// these seem wrong as well: some of everyone's are not confirmed.)
const TIMES: f64 = 3.0;
/// Reports that count as right beforehand: a worker with few more than these has no rate to speak of.
const FEW: u64 = 500;
/// Results of which a deletion names so many at a time.
const PAGE: usize = 1_024;

/// What was done about one worker.
pub(crate) struct Case {
    pub(crate) client: u64,
    /// Of its results that were checked again, those that others did not confirm.
    pub(crate) disagreements: u64,
    pub(crate) following: Retraction,
    pub(crate) dm: Retraction,
}

pub(crate) struct Operator<'a> {
    shop: &'a Shop<'a>,
    crowd: &'a Crowd,
    dice: Dice,
    /// Results had checked again, in this run.
    pub(crate) sampled: u64,
    pub(crate) case: Option<Case>,
    /// Users that only lies had led to, taken out of the message check.
    pub(crate) pruned: u64,
}

impl<'a> Operator<'a> {
    pub(crate) fn new(shop: &'a Shop<'a>, crowd: &'a Crowd, seed: u64) -> Self {
        Self { shop, crowd, dice: Dice::new(!seed), sampled: 0, case: None, pruned: 0 }
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
            self.sampled += sample(&self.shop.following, &mut self.dice, self.shop)?;
            self.sampled += sample(&self.shop.dm, &mut self.dice, self.shop)?;
        }
        match self.suspect() {
            Some(id) => self.undo(id),
            None => Ok(()),
        }
    }

    /// Somebody was found out, or enough was checked to say that there is nobody.
    pub(crate) fn is_satisfied(&self) -> bool {
        let users = self.shop.graph.users().len() as u64;
        self.case.is_some() || self.crowd.liar().is_none() || self.sampled >= (users * 2).max(20_000)
    }

    /// Whose results others confirm far more rarely than anyone else's.
    fn suspect(&self) -> Option<u64> {
        let mut rates: Vec<(f64, u64)> = self.crowd.ids().iter().map(|id| (self.rate(*id), *id)).collect();
        rates.sort_by(|one, other| other.0.total_cmp(&one.0));
        let [(worst, id), (second, _), ..] = rates[..] else { return None };
        (self.disagreements(id) >= DISAGREEMENTS && worst >= TIMES * second).then_some(id)
    }

    fn disagreements(&self, id: u64) -> u64 {
        let seats = [self.shop.following.seat_stats(id), self.shop.dm.seat_stats(id)];
        seats.iter().flatten().map(|seat| seat.disagreements).sum()
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
    fn rate(&self, id: u64) -> f64 {
        let seats = [self.shop.following.seat_stats(id), self.shop.dm.seat_stats(id)];
        let reported: u64 = seats.iter().flatten().map(|seat| seat.work.subjects_reported).sum();
        self.disagreements(id) as f64 / (reported + FEW) as f64
    }

    /// Bars a worker and withdraws everything it reported. What is left undone by that goes back to the others.
    fn undo(&mut self, client: u64) -> Result<(), Failure> {
        if self.crowd.liar() != Some(client) {
            return Err(format!("worker {client} is honest and was accused").into());
        }
        let disagreements = self.disagreements(client);
        self.shop.following.suspend(client)?.wait_durable()?;
        self.shop.dm.suspend(client)?.wait_durable()?;
        let following = self.shop.following.retract_all(client)?;
        let dm = self.shop.dm.retract_all(client)?;
        self.case = Some(Case { client, disagreements, following, dm });
        Ok(())
    }

    /// True if nothing is left to be done. Then the message check knows the same users as the following check.
    pub(crate) fn is_done(&mut self) -> Result<bool, Failure> {
        let pending = || self.shop.following.stats().subjects_pending() + self.shop.dm.stats().subjects_pending();
        if pending() > 0 || crowd::reconcile(self.shop)? > 0 || pending() > 0 || !self.is_satisfied() {
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

/// Has a few results checked again, somewhere among those there are. Returns how many.
fn sample<S: Asked>(service: &ServiceHandle<S>, dice: &mut Dice, shop: &Shop<'_>) -> Result<u64, Failure> {
    let somewhere = dice.pick(shop.graph.users());
    let (page, _) = service.results(Some(&somewhere), SAMPLE)?;
    let users: Vec<u64> = page.iter().map(|finding| finding.key).collect();
    Ok(service.rerun(&users)?.wait_visible()?.added)
}
