//! What comes between a claim's first look and its second undoes it, or leaves it as it was.

use std::sync::Mutex;
use std::time::Duration;

use crate::claim::Ask;
use crate::clock::Clock;
use crate::current::Held;
use crate::error::ClaimError;
use crate::people::SeatCore;
use crate::serve::Served;
use crate::service::{Policy, Reporter, ServiceState, Verdict};
use crate::sync::Arc;
use crate::watch::Level;
use crate::{Cause, Claim, EventKind, Hub, ManualClock, MemoryDisk, Registration, Seat, Service};

struct Numbers;

impl Service for Numbers {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        "numbers"
    }

    fn policy(&self) -> Policy {
        Policy { linger: Duration::ZERO, ..Policy::default() }
    }

    fn judge(&self, _: &u64, _: &u64, _: Reporter) -> Verdict {
        Verdict::Accept
    }
}

/// A claim in the middle of which, with a bucket taken, something happens to its seat.
fn claim_while(happens: impl Fn(&Seat<Numbers>)) -> (Result<Served, ClaimError>, usize) {
    let hub = Hub::builder().manual().clock(ManualClock::default()).seed(1).open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Numbers).unwrap();
    let seat = hub.register_client(&Registration::new(1, "one")).unwrap().client.activate(&service).unwrap();
    hub.tick();
    service.add_all(0..40).unwrap();
    hub.tick();
    let mut taken = 0;
    let took = &mut |_: Held, _| {
        taken += 1;
        happens(&seat);
    };
    let served = seat.core.serve(Ask::one(), took);
    (served, taken)
}

#[test]
fn what_comes_between_the_two_looks_of_a_claim_undoes_it() {
    let undone = |happens: fn(&Seat<Numbers>)| {
        let (served, taken) = claim_while(happens);
        assert_eq!(taken, 1, "it happens after the bucket is taken");
        served.expect_err("the claim is undone")
    };
    assert!(matches!(undone(|seat| seat.core.set_suspended(true)), ClaimError::Suspended));
    assert!(matches!(undone(|seat| assert!(seat.core.retire())), ClaimError::Inactive));
    assert!(matches!(undone(|seat| assert!(seat.core.client.set_registered(false))), ClaimError::NotRegistered));
    // Registered and activated anew: the lease is of the life before.
    let anew = undone(|seat| {
        assert!(seat.core.client.set_registered(false) && seat.core.client.set_registered(true));
        assert!(seat.core.activate().is_ok_and(|activated| activated));
    });
    assert!(matches!(anew, ClaimError::Inactive));
    let revoked = undone(|seat| {
        seat.core.service.set_state(ServiceState::Revoked);
    });
    assert!(matches!(revoked, ClaimError::NotReady { state: ServiceState::Revoked }));
    let level = |seat: &Seat<Numbers>, to| seat.core.set_level(Level::Healthy, to, &Arc::default(), 0);
    let (served, _) = claim_while(|seat| assert!(level(seat, Level::Quarantined)));
    assert!(matches!(served, Err(ClaimError::Quarantined { .. })));
    let (served, _) = claim_while(|seat| assert!(level(seat, Level::Suspect)));
    assert!(matches!(served, Ok(Served::Granted { .. })));
    // A suspect may claim, and a hub that ends keeps its leases.
    let (served, _) = claim_while(|seat| seat.core.service.link.close());
    assert!(matches!(served, Ok(Served::Granted { .. })));
}

/// A seat, and how many readings come before it is suspended.
type Victim = Option<(Arc<SeatCore>, u32)>;

/// A clock at one of whose readings a seat is suspended.
#[derive(Debug, Clone, Default)]
struct Meddling {
    clock: ManualClock,
    seat: Arc<Mutex<Victim>>,
}

impl Clock for Meddling {
    fn monotonic(&self) -> Duration {
        let mut seat = self.seat.lock().unwrap();
        match seat.take() {
            Some((seat, 0)) => seat.set_suspended(true),
            Some((core, left)) => *seat = Some((core, left - 1)),
            None => {}
        }
        self.clock.monotonic()
    }

    fn wall_ms(&self) -> i64 {
        self.clock.wall_ms()
    }
}

/// What an undone claim had taken was not given back by its client: neither the journal nor the counts say so.
#[test]
fn what_an_undone_claim_took_is_put_back_as_revoked() {
    let mut undone = 0;
    for readings in 0..6 {
        let clock = Meddling::default();
        let hub = Hub::builder().manual().clock(clock.clone()).seed(1).open_in_memory(&MemoryDisk::new()).unwrap();
        let service = hub.register(Numbers).unwrap();
        let seat = hub.register_client(&Registration::new(1, "one")).unwrap().client.activate(&service).unwrap();
        service.add_all(0..40).unwrap();
        hub.tick();
        hub.tick();
        *clock.seat.lock().unwrap() = Some((Arc::clone(&seat.core), readings));
        let claimed = seat.claim(Ask::buckets(2));
        *clock.seat.lock().unwrap() = None;
        assert!(matches!(claimed, Err(ClaimError::Suspended) | Ok(Claim::Leased(_))), "{readings}");
        if claimed.is_err() {
            hub.tick();
            let causes = hub.events(0).unwrap().filter_map(|event| match event.unwrap().kind {
                EventKind::PutBack { cause, .. } => Some(cause),
                _ => None,
            });
            let causes: Vec<Cause> = causes.collect();
            undone += causes.len();
            assert!(causes.iter().all(|cause| *cause == Cause::Revoked), "{readings}: {causes:?}");
        }
    }
    assert!(undone > 0, "no claim was undone that had taken a bucket");
}
