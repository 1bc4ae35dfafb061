//! Workers: each claims what its group's areas have to do, executes it, and may die with work in hand.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use commissary::{Ask, Claim, ClaimError, Error, Hub, HubError, Lease, LeaseError, Registration, Seat, ServiceHandle};

use super::Failure;
use super::commands::Meals;
use super::fridge::{Rules, Shelf};
use super::world::Fuse;

/// Which group of workers has which area.
#[derive(Debug)]
pub(crate) struct Roster {
    groups: usize,
    of_area: Vec<AtomicUsize>,
    pub(crate) moves: AtomicU64,
}

impl Roster {
    /// Two groups, if there are workers for two.
    pub(crate) fn new(areas: u16, workers: usize) -> Self {
        let groups = workers.clamp(1, 2);
        let of_area = (0..usize::from(areas)).map(|area| AtomicUsize::new(area % groups)).collect();
        Self { groups, of_area, moves: AtomicU64::new(0) }
    }

    pub(crate) fn group_of(&self, worker: usize) -> usize {
        worker % self.groups
    }

    fn has(&self, group: usize, area: usize) -> bool {
        self.of_area[area].load(Ordering::Relaxed) == group
    }

    /// R129: an area goes to the next group, whatever is under way.
    pub(crate) fn move_area(&self, area: usize) {
        if self.groups > 1 {
            let next = |group| Some((group + 1) % self.groups);
            let _ = self.of_area[area].fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
            self.moves.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What the workers share.
#[derive(Debug)]
pub(crate) struct Floor<'a> {
    pub(crate) hub: &'a Hub,
    pub(crate) rules: &'a Rules,
    pub(crate) areas: &'a [ServiceHandle<Meals>],
    pub(crate) roster: &'a Roster,
    pub(crate) closing: &'a AtomicBool,
    /// Commands executed.
    pub(crate) done: &'a AtomicU64,
    /// A worker dies when so many commands are executed.
    pub(crate) deaths: &'a [u64],
    pub(crate) died: &'a AtomicU64,
    pub(crate) fuse: Option<&'a Fuse<'a>>,
}

impl Floor<'_> {
    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    fn count(&self, commands: u64) {
        let before = self.done.fetch_add(commands, Ordering::Relaxed);
        if let Some(fuse) = self.fuse {
            fuse.burn(before, commands, self.closing);
        }
    }
}

/// A worker, and who comes in its place when it dies.
pub(crate) fn work(floor: &Floor<'_>, worker: usize) -> Result<(), Failure> {
    let mut id = worker as u64 + 1;
    while !serve(floor, id, floor.roster.group_of(worker))? {
        id += 1_000;
    }
    Ok(())
}

/// False if it died.
fn serve(floor: &Floor<'_>, id: u64, group: usize) -> Result<bool, Failure> {
    let registered = floor.hub.register_client(&Registration::new(id, format!("worker_{id}")))?;
    let seat = |area| registered.client.activate(area);
    let seats: Vec<Seat<Meals>> = floor.areas.iter().map(seat).collect::<Result<_, _>>()?;
    for seat in &seats {
        // Of a life before the process was started anew.
        for held in seat.leases()? {
            match seat.resume(&held.token) {
                Ok(lease) => execute(floor, &lease)?,
                Err(LeaseError::Over) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    while !floor.is_closing() {
        let mine: Vec<_> = seats.iter().zip(0..).filter(|(_, area)| floor.roster.has(group, *area)).collect();
        let mut found = false;
        for (seat, _) in &mine {
            let Some(lease) = claim(seat)? else { continue };
            found = true;
            if is_deadly(floor) {
                // It is simply gone; the hub hears nothing.
                let _lost = lease.into_token();
                return Ok(false);
            }
            execute(floor, &lease)?;
        }
        if !found {
            wait_any(mine.into_iter().map(|(seat, _)| seat));
        }
    }
    Ok(true)
}

fn claim(seat: &Seat<Meals>) -> Result<Option<Lease<Meals>>, Failure> {
    match seat.claim(Ask::one()) {
        Ok(Claim::Leased(mut grant)) => Ok(grant.pop()),
        Ok(Claim::Empty(_)) => Ok(None),
        Err(ClaimError::Hub(HubError::Busy { retry_after, .. })) => {
            thread::sleep(retry_after);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// True for one worker at each of the places where one is to die.
fn is_deadly(floor: &Floor<'_>) -> bool {
    let died = floor.died.load(Ordering::Relaxed);
    let next = usize::try_from(died).ok().and_then(|died| floor.deaths.get(died));
    next.is_some_and(|next| floor.done.load(Ordering::Relaxed) >= *next)
        && floor.died.compare_exchange(died, died + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Executes what a lease owes, command by command, and hands in the answers with the state after them: both or neither.
fn execute(floor: &Floor<'_>, lease: &Lease<Meals>) -> Result<(), Failure> {
    let Some(lane) = lease.lane() else { return Ok(()) };
    let shelf: Shelf = lane.state()?;
    loop {
        let mut shelf = shelf.clone();
        let answer = |command| -> Result<_, Failure> { Ok((floor.rules.handle(&mut shelf, &command)?, command.key)) };
        let answers: Vec<_> = lease.owed().map(answer).collect::<Result<_, _>>()?;
        let is_all_over = answers.is_empty();
        let reports = answers.into_iter().map(|(told, key)| (key, told));
        // Of orders whose time is over there is nothing to report: this ends them.
        let submitted = if is_all_over { lease.submit([]) } else { lease.submit_lane(reports, &shelf) };
        match submitted.map_err(Error::from) {
            // Not all may be accepted: it took too long, and another one has the lane with all that was owed.
            Ok(submitted) => floor.count(submitted.accepted() as u64 + u64::from(submitted.expired)),
            Err(Error::Lease(LeaseError::Over)) => {}
            Err(Error::Lease(LeaseError::Hub(HubError::Busy { retry_after, .. }))) => {
                thread::sleep(retry_after);
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        return Ok(());
    }
}

/// Wakes a thread.
struct Bell(Thread);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits until one of these seats has something to claim, and not for long: an area may come or go.
fn wait_any<'a>(seats: impl Iterator<Item = &'a Seat<Meals>>) {
    let waker = Waker::from(Arc::new(Bell(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut waits: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = Vec::new();
    for seat in seats {
        let mut wait = Box::pin(seat.ready());
        if wait.as_mut().poll(&mut context) == Poll::Ready(()) {
            // What is ready may be gone by now.
            thread::yield_now();
            return;
        }
        waits.push(wait);
    }
    thread::park_timeout(Duration::from_millis(10));
}
