//! The workers: each is a client of the hub, and most have a bad habit.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use commissary::services::FollowingCheck;
use commissary::{
    ActivateError, Ask, Claim, ClaimError, Client, Error, HubError, Lease, LeaseError, LeaseToken, Outcome,
    RegisterClientError, Registration, Seat, Submitted, Ticket,
};

use crate::Failure;
use crate::dice::Dice;
use crate::graph::Graph;
use crate::shop::{Asked, BriefDmCheck, GRACE, LEASE, Shop};

/// Buckets that a worker asks for at a time.
const BUCKETS: u32 = 4;
/// Most users that the feeder adds at a time.
const FEED: usize = 8_192;

/// The place of the worker that lies, in a crowd large enough to find it out.
const LIAR: usize = 8;
/// One in so many of its reports is a lie.
const LIES: u64 = 4;
/// It is slower than others: what has to be undone stays a small part of what is done.
const NAP: Duration = Duration::from_millis(30);

/// Who works: their ids, by place.
pub(crate) struct Crowd {
    ids: Vec<u64>,
    lies: bool,
}

impl Crowd {
    pub(crate) fn new(graph: &Graph, workers: usize, lies: bool) -> Self {
        Self { ids: graph.unused_ids().take(workers).collect(), lies }
    }

    pub(crate) fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// What nobody in the shop knows.
    pub(crate) fn liar(&self) -> Option<u64> {
        self.ids.get(LIAR).copied().filter(|_| self.lies)
    }
}

/// Lets the crowd work until `watch` returns, then waits for all of them to be home. Returns what `watch` did.
pub(crate) fn work<T>(
    shop: &Shop<'_>,
    workers: &Crowd,
    seed: u64,
    watch: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    thread::scope(|scope| {
        let (sender, inbox) = sync_channel(1_024);
        let mut crowd = vec![scope.spawn(move || feed(shop, &inbox))];
        for (place, id) in workers.ids.iter().enumerate() {
            let habit = Habit::of(place, workers.lies);
            let worker = Worker { shop, id: *id, habit, dice: Dice::new(seed ^ id), listed: sender.clone() };
            crowd.push(scope.spawn(move || worker.run()));
        }
        drop(sender);
        let watched = watch();
        shop.finish();
        let ended: Result<Vec<()>, Failure> = crowd.into_iter().map(join).collect();
        ended.and(watched)
    })
}

fn join(worker: ScopedJoinHandle<'_, Result<(), Failure>>) -> Result<(), Failure> {
    worker.join().unwrap_or_else(|_| Err("a worker panicked".into()))
}

/// Users whose following lists were taken, and the proof of it.
struct Listed {
    ticket: Ticket,
    users: Vec<u64>,
}

/// Adds users to the DM check once reads see their following lists. What is under way here when the process is killed
/// is made up for by `reconcile`.
fn feed(shop: &Shop<'_>, inbox: &Receiver<Listed>) -> Result<(), Failure> {
    while let Ok(first) = inbox.recv() {
        let mut users = Vec::new();
        let mut next = Some(first);
        while let Some(listed) = next {
            listed.ticket.wait_visible()?;
            users.extend(listed.users);
            next = if users.len() < FEED { inbox.try_recv().ok() } else { None };
        }
        shop.dm.add_all(users)?;
    }
    Ok(())
}

/// Adds everyone with a following list to the DM check; those who are in it already are refused as duplicates. Returns
/// how many were missing.
pub(crate) fn reconcile(shop: &Shop<'_>) -> Result<u64, Failure> {
    let (mut missing, mut after) = (0, None);
    while !shop.is_interrupted() {
        let (page, next) = shop.following.results(after.as_ref(), FEED)?;
        missing += shop.dm.add_all(page.iter().map(|finding| finding.key))?.added;
        if next.is_none() {
            break;
        }
        after = next;
    }
    Ok(missing)
}

/// What makes a worker more than a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    Steady,
    /// Crashes with leases in hand, once and for ever.
    Vanishes,
    /// Crashes with leases in hand, again and again, and comes back for them; sometimes too late.
    Crashes,
    /// Deregisters with leases in hand, and registers again.
    Leaves,
    /// Now and then takes longer than a lease lasts.
    Dawdles,
    /// Reports on users it was never given, under tokens it never got, and nonsense.
    Meddles,
    /// Hands in, now and then, what is not true, until it is barred.
    Lies,
}

impl Habit {
    fn of(place: usize, lies: bool) -> Self {
        match place {
            LIAR if lies => Self::Lies,
            4 => Self::Dawdles,
            5 => Self::Meddles,
            _ => [Self::Steady, Self::Vanishes, Self::Crashes, Self::Leaves][place % 4],
        }
    }
}

struct Worker<'a> {
    shop: &'a Shop<'a>,
    id: u64,
    habit: Habit,
    dice: Dice,
    listed: SyncSender<Listed>,
}

/// How a round at the counter ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    Worked,
    NothingThere,
    /// The worker is gone. The hub is not told, or was told already.
    Gone,
}

impl Worker<'_> {
    fn run(mut self) -> Result<(), Failure> {
        match self.come_and_go() {
            // Found out. Nobody else is barred, ever.
            Err(error) if self.habit == Habit::Lies && is_barred(&error) => Ok(()),
            ended => ended,
        }
    }

    fn come_and_go(&mut self) -> Result<(), Failure> {
        while !self.shop.is_closing() {
            let details = Registration::new(self.id, format!("worker_{}", self.id % 100_000_000));
            let client = patiently(|| self.shop.hub.register_client(&details))?.client;
            let following = patiently(|| client.activate(&self.shop.following))?;
            let dm = patiently(|| client.activate(&self.shop.dm))?;
            self.work(&client, &following, &dm)?;
            if self.habit == Habit::Vanishes {
                return Ok(());
            }
            self.shop.pause(self.dice.up_to(LEASE + GRACE * 2));
        }
        Ok(())
    }

    /// Works until the shop closes or the worker is gone.
    fn work(
        &mut self,
        client: &Client,
        following: &Seat<FollowingCheck>,
        dm: &Seat<BriefDmCheck>,
    ) -> Result<(), Failure> {
        self.take_up(following)?;
        self.take_up(dm)?;
        while !self.shop.is_closing() {
            let mut round = self.round(client, following)?;
            if round == Round::NothingThere {
                round = self.round(client, dm)?;
            }
            match round {
                Round::Worked => {}
                // A short nap: there may be work in the other service first.
                Round::NothingThere => {
                    let _ready = following.wait_ready(Duration::from_millis(10));
                }
                Round::Gone => return Ok(()),
            }
        }
        Ok(())
    }

    /// Finishes what an earlier life of this worker, or of the whole process, held.
    fn take_up<S: Asked>(&mut self, seat: &Seat<S>) -> Result<(), Failure> {
        for lease in seat.leases()? {
            self.hand_in(seat, &lease.token, &lease.subjects)?;
        }
        Ok(())
    }

    fn round<S: Asked>(&mut self, client: &Client, seat: &Seat<S>) -> Result<Round, Failure> {
        let grant = match seat.claim(Ask::buckets(BUCKETS))? {
            Claim::Leased(grant) => grant,
            Claim::Empty(_) => return Ok(Round::NothingThere),
        };
        match self.habit {
            Habit::Vanishes | Habit::Crashes if self.dice.once_in(12) => {
                // No farewell: the hub hears nothing, and the leases go on.
                grant.into_iter().for_each(forget);
                return Ok(Round::Gone);
            }
            Habit::Leaves if self.dice.once_in(12) => {
                drop(client.deregister()?);
                return Ok(Round::Gone);
            }
            _ => {}
        }
        for lease in grant {
            self.work_on(seat, &lease)?;
        }
        if self.habit == Habit::Lies {
            self.shop.pause(NAP);
        }
        Ok(Round::Worked)
    }

    /// Answers for one bucket. Whatever goes wrong in here, the lease is a guard: dropping it gives the bucket back.
    fn work_on<S: Asked>(&mut self, seat: &Seat<S>, lease: &Lease<S>) -> Result<(), Failure> {
        let users: Vec<u64> = lease.subjects().collect();
        match self.habit {
            Habit::Dawdles if self.dice.once_in(20) => {
                self.shop.pause(LEASE + self.dice.up_to(GRACE * 2));
            }
            Habit::Meddles if self.dice.once_in(5) => self.meddle(seat, &lease.token(), &users)?,
            _ => {}
        }
        self.hand_in(seat, &lease.token(), &users)
    }

    /// Reports on the users of a lease, and tells the feeder whose lists were taken.
    fn hand_in<S: Asked>(&mut self, seat: &Seat<S>, token: &LeaseToken, users: &[u64]) -> Result<(), Failure> {
        let graph = self.shop.graph;
        let lies: Vec<bool> = users.iter().map(|_| self.habit == Habit::Lies && self.dice.once_in(LIES)).collect();
        let dice = &mut self.dice;
        let mut answer = |user, lies| if lies { S::lie(graph, user, dice) } else { S::answer(graph, user) };
        let mut submit = || {
            let answers = users.iter().zip(&lies).map(|(user, lies)| (*user, answer(*user, *lies)));
            seat.submit(token, answers)
        };
        let Submitted { outcomes, ticket, .. } = match patiently(&mut submit) {
            Ok(submitted) => submitted,
            // Too late: the bucket is somebody else's now.
            Err(Error::Lease(LeaseError::Over)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if !S::FEEDS_DM {
            return Ok(());
        }
        let accepted = users.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == Outcome::Accepted);
        let listed = Listed { ticket, users: accepted.map(|(user, _)| *user).collect() };
        self.listed.send(listed).map_err(|_| "the feeder is gone".into())
    }

    /// Tries what a client must not get away with. (Meanwhile the lease may end, which is an answer too.)
    fn meddle<S: Asked>(&mut self, seat: &Seat<S>, token: &LeaseToken, users: &[u64]) -> Result<(), Failure> {
        let graph = self.shop.graph;
        let stranger = self.dice.pick(graph.users());
        if !users.contains(&stranger) {
            let answer = patiently(|| seat.report(token, [(stranger, S::answer(graph, stranger))]));
            expect_refusal(answer, |outcome| *outcome == Outcome::NotInBucket)?;
        }
        let absurd = || users.iter().filter_map(|user| Some((*user, S::absurd(*user)?)));
        let answer = patiently(|| seat.report(token, absurd().take(1)));
        expect_refusal(answer, |outcome| matches!(outcome, Outcome::Rejected { .. } | Outcome::Stale))?;
        let forged = forge(token)?;
        let answer = patiently(|| seat.submit(&forged, users.iter().map(|user| (*user, S::answer(graph, *user)))));
        expect_refusal(answer, |_| false)
    }
}

fn is_barred(error: &Failure) -> bool {
    let by_claim = matches!(error.downcast_ref(), Some(ClaimError::Suspended));
    by_claim || matches!(error.downcast_ref(), Some(Error::Activate(ActivateError::Suspended)))
}

/// What a crash does to a lease: the guard is gone, but nothing is given back.
fn forget<S: Asked>(lease: Lease<S>) {
    let _lost = lease.into_token();
}

/// Makes a token for the same lease out of thin air.
fn forge(token: &LeaseToken) -> Result<LeaseToken, Failure> {
    let mut text = token.to_string();
    let last = text.pop();
    text.push(if last == Some('0') { '1' } else { '0' });
    Ok(text.parse()?)
}

fn expect_refusal(answer: Result<Submitted, Error>, is_refusal: impl Fn(&Outcome) -> bool) -> Result<(), Failure> {
    match answer {
        Ok(submitted) if submitted.outcomes.iter().all(is_refusal) => Ok(()),
        Err(Error::Lease(LeaseError::NotOwner | LeaseError::Over)) => Ok(()),
        Ok(submitted) => Err(format!("a meddler was answered {:?}", submitted.outcomes).into()),
        Err(error) => Err(error.into()),
    }
}

/// Calls again for as long as the hub asks to come back later.
fn patiently<T, E: Into<Error>>(mut call: impl FnMut() -> Result<T, E>) -> Result<T, Error> {
    loop {
        match call().map_err(Into::into) {
            Ok(done) => return Ok(done),
            Err(error) => thread::sleep(retry_after(&error).ok_or(error)?),
        }
    }
}

fn retry_after(error: &Error) -> Option<Duration> {
    let busy = match error {
        Error::RegisterClient(RegisterClientError::Throttled { retry_after, .. }) => return Some(*retry_after),
        Error::RegisterClient(RegisterClientError::Hub(busy))
        | Error::Activate(ActivateError::Hub(busy))
        | Error::Lease(LeaseError::Hub(busy)) => busy,
        _ => return None,
    };
    match busy {
        HubError::Busy { retry_after, .. } => Some(*retry_after),
        _ => None,
    }
}
