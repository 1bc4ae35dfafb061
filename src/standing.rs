//! Whether a client, its seat and its service let it claim: the words that a claim looks at before it takes slots, and again after.
//! The model checkers compile this file as it is (see `models/`).

use crate::record::SeatState;
use crate::service::ServiceState;
use crate::slot::Cause;
use crate::sync::{AtomicU32, Ordering};
use crate::watch::Level;

/// A client's. Bit 0: registered; above it, how many times it was deregistered. A seat is active for one value of it.
#[derive(Debug)]
pub(crate) struct ClientWord(AtomicU32);

impl ClientWord {
    pub(crate) fn new(registered: bool) -> Self {
        Self(AtomicU32::new(u32::from(registered)))
    }

    pub(crate) fn get(&self) -> u32 {
        // ordering: SeqCst; a claim looks again after it took slots, so that it is wholly before a deregistration or
        // undone by one of the two.
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn is_registered(&self) -> bool {
        is_registered(self.get())
    }

    /// Flips the registered bit. False if it stood so already.
    pub(crate) fn set_registered(&self, registered: bool) -> bool {
        let from = self.get();
        let to = if registered { from | 1 } else { (from & !1).wrapping_add(2) };
        is_registered(from) != registered
            // ordering: SeqCst; see `get`.
            && self.0.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

fn is_registered(word: u32) -> bool {
    word & 1 == 1
}

/// A service's state.
#[derive(Debug)]
pub(crate) struct ServiceWord(AtomicU32);

impl ServiceWord {
    pub(crate) fn new(state: ServiceState) -> Self {
        Self(AtomicU32::new(state as u32))
    }

    pub(crate) fn get(&self) -> ServiceState {
        // ordering: SeqCst; a claim looks again after it took slots, so that it is wholly before a revocation or undone.
        ServiceState::from_u32(self.0.load(Ordering::SeqCst))
    }

    /// Returns what it was.
    pub(crate) fn set(&self, state: ServiceState) -> ServiceState {
        // ordering: SeqCst; see `get`.
        ServiceState::from_u32(self.0.swap(state as u32, Ordering::SeqCst))
    }

    /// Sets it if it is `from`.
    pub(crate) fn change(&self, from: ServiceState, to: ServiceState) -> bool {
        // ordering: SeqCst; see `get`.
        self.0.compare_exchange(from as u32, to as u32, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// A seat's.
#[derive(Debug)]
pub(crate) struct SeatWord {
    /// The state in the two low bits, the level in the two above.
    word: AtomicU32,
    /// The client's word at the time of activation.
    grant: AtomicU32,
}

const ACTIVE: u32 = 0;
const INACTIVE: u32 = 1;
const SUSPENDED: u32 = 2;
/// The bits of a seat's word that hold its state; the level stands above them.
const STATE: u32 = 0b11;
const LEVEL_SHIFT: u32 = 2;

fn state_bits(state: SeatState) -> u32 {
    match state {
        SeatState::Active => ACTIVE,
        SeatState::Inactive => INACTIVE,
        SeatState::Suspended => SUSPENDED,
    }
}

fn level_bits(level: Level) -> u32 {
    match level {
        Level::Healthy => 0,
        Level::Suspect => 1 << LEVEL_SHIFT,
        Level::Quarantined => 2 << LEVEL_SHIFT,
    }
}

fn level_of(word: u32) -> Level {
    match word >> LEVEL_SHIFT {
        0 => Level::Healthy,
        1 => Level::Suspect,
        _ => Level::Quarantined,
    }
}

/// What an activation found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Activated {
    /// An administrator's bar.
    Suspended,
    /// It is active already, or another session was at it.
    Unchanged,
    /// It was active for an earlier life of its client.
    Anew,
    /// It was inactive.
    Entered,
}

impl SeatWord {
    /// One of a client whose word is this.
    pub(crate) fn new(state: SeatState, level: Level, client: u32) -> Self {
        Self { word: AtomicU32::new(state_bits(state) | level_bits(level)), grant: AtomicU32::new(client) }
    }

    fn get(&self) -> u32 {
        // ordering: SeqCst; as the client's word.
        self.word.load(Ordering::SeqCst)
    }

    /// True if it was activated when the client's word was this.
    fn is_granted_by(&self, client: u32) -> bool {
        // ordering: SeqCst; as the client's word.
        self.grant.load(Ordering::SeqCst) == client
    }

    /// True if it is active and healthy, as its own and its client's word say: what nearly every claim finds.
    fn is_well(&self, word: u32, client: u32) -> bool {
        word == ACTIVE | level_bits(Level::Healthy) && self.is_granted_by(client)
    }

    pub(crate) fn level(&self) -> Level {
        level_of(self.get())
    }

    /// Changes the level if it is `from`; in the client's turn.
    pub(crate) fn set_level(&self, from: Level, to: Level) -> bool {
        self.update(|word| (level_of(word) == from).then_some((word & STATE) | level_bits(to))).is_some()
    }

    /// Changes the state if it is `from`; the level stays as it is.
    fn shift(&self, from: u32, to: u32) -> bool {
        self.update(|word| (word & STATE == from).then_some((word & !STATE) | to)).is_some()
    }

    /// What it was, if it was changed.
    fn update(&self, change: impl FnMut(u32) -> Option<u32>) -> Option<u32> {
        // ordering: SeqCst, both; see `get`.
        self.word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).ok()
    }

    /// `Active -> Inactive`. False if it was not active.
    pub(crate) fn retire(&self) -> bool {
        self.shift(ACTIVE, INACTIVE)
    }

    /// Activates it for the life that its client is in; in the client's turn.
    pub(crate) fn activate(&self, client: &ClientWord) -> Activated {
        let (life, seen) = (client.get(), self.get() & STATE);
        if seen == SUSPENDED {
            return Activated::Suspended;
        }
        if seen == ACTIVE && self.is_granted_by(life) {
            return Activated::Unchanged;
        }
        // ordering: SeqCst; see `get`.
        self.grant.store(life, Ordering::SeqCst);
        if seen == ACTIVE {
            Activated::Anew
        } else if self.shift(INACTIVE, ACTIVE) {
            Activated::Entered
        } else {
            Activated::Unchanged
        }
    }

    /// Sets an administrator's bar. True if it was active.
    pub(crate) fn suspend(&self) -> bool {
        self.update(|word| Some((word & !STATE) | SUSPENDED)).is_some_and(|word| word & STATE == ACTIVE)
    }

    /// Lifts the bar. If it is in another state, there was none.
    pub(crate) fn reinstate(&self) {
        self.shift(SUSPENDED, INACTIVE);
    }
}

/// Leases held, those being claimed right now included.
#[derive(Debug, Default)]
pub(crate) struct Quota(AtomicU32);

/// Room that was taken below a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) struct Room {
    pub(crate) leases: u32,
    /// None was held before.
    pub(crate) first: bool,
}

impl Quota {
    /// Takes room for up to `n` leases below `most`. Lock-free.
    pub(crate) fn take(&self, n: u32, most: u32) -> Room {
        let mut held = self.held();
        loop {
            let leases = n.min(most.saturating_sub(held));
            if leases == 0 {
                return Room { leases, first: false };
            }
            // ordering: Relaxed, both; a quota, it publishes nothing.
            match self.0.compare_exchange_weak(held, held + leases, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Room { leases, first: held == 0 },
                Err(now_held) => held = now_held,
            }
        }
    }

    /// True if none is held any more.
    pub(crate) fn give_back(&self, n: u32) -> bool {
        // ordering: Relaxed; see `take`.
        n > 0 && self.0.fetch_sub(n, Ordering::Relaxed) == n
    }

    pub(crate) fn held(&self) -> u32 {
        // ordering: Relaxed; see `take`.
        self.0.load(Ordering::Relaxed)
    }
}

/// What let a claim in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admitted {
    pub(crate) client: u32,
    seat: u32,
    service: ServiceState,
    pub(crate) level: Level,
}

/// Why a claim is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Barred {
    NotRegistered,
    Inactive,
    Suspended,
    Quarantined,
    NotReady(ServiceState),
}

/// The words that decide on a seat's claims and leases.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words<'a> {
    pub(crate) client: &'a ClientWord,
    pub(crate) seat: &'a SeatWord,
    pub(crate) service: &'a ServiceWord,
}

impl Words<'_> {
    /// What the seat is and how far it is trusted, by one look at its word.
    pub(crate) fn standing(&self) -> (SeatState, Level) {
        self.standing_of(self.seat.get())
    }

    /// What a word of the seat's, read just now, says.
    fn standing_of(&self, word: u32) -> (SeatState, Level) {
        let state = match word & STATE {
            ACTIVE if self.seat.is_granted_by(self.client.get()) => SeatState::Active,
            SUSPENDED => SeatState::Suspended,
            _ => SeatState::Inactive,
        };
        (state, level_of(word))
    }

    /// The checks before a claim.
    pub(crate) fn admit(&self) -> Result<Admitted, Barred> {
        let client = self.client.get();
        if !is_registered(client) {
            return Err(Barred::NotRegistered);
        }
        let seat = self.seat.get();
        let level = if self.seat.is_well(seat, client) { Level::Healthy } else { self.level_of_active(seat)? };
        let service = self.service.get();
        if service.is_ready() { Ok(Admitted { client, seat, service, level }) } else { Err(Barred::NotReady(service)) }
    }

    #[cold]
    fn level_of_active(&self, word: u32) -> Result<Level, Barred> {
        match self.standing_of(word) {
            (SeatState::Active, Level::Quarantined) => Err(Barred::Quarantined),
            (SeatState::Active, level) => Ok(level),
            (SeatState::Inactive, _) => Err(Barred::Inactive),
            (SeatState::Suspended, _) => Err(Barred::Suspended),
        }
    }

    /// True if every word that let the claim in says what it said: then so would the checks.
    pub(crate) fn is_still(&self, admitted: &Admitted) -> bool {
        self.client.get() == admitted.client
            && self.seat.get() == admitted.seat
            && self.seat.is_granted_by(admitted.client)
            && self.service.get() == admitted.service
    }

    /// Looks again, after slots were taken and a word was found changed: a deregistration, suspension, quarantine or revocation
    /// in between undoes the claim, so that it is wholly before them or never was.
    #[cold]
    pub(crate) fn still_admits(&self, admitted: &Admitted) -> Result<(), Barred> {
        // Registered and activated anew: what was taken is of the life before.
        if self.admit()?.client == admitted.client { Ok(()) } else { Err(Barred::Inactive) }
    }

    /// Why a lease of the seat must end now, whatever its deadline, if it must.
    pub(crate) fn must_end(&self) -> Option<Cause> {
        if self.service.get() == ServiceState::Revoked {
            return Some(Cause::Revoked);
        }
        if !self.client.is_registered() {
            return Some(Cause::Deregistered);
        }
        (self.standing().0 == SeatState::Suspended).then_some(Cause::Revoked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> (ClientWord, SeatWord, ServiceWord) {
        let client = ClientWord::new(true);
        let seat = SeatWord::new(SeatState::Inactive, Level::Healthy, client.get());
        (client, seat, ServiceWord::new(ServiceState::Active))
    }

    #[test]
    fn a_seat_is_active_for_one_life_of_its_client() {
        let (client, seat, service) = words();
        let words = Words { client: &client, seat: &seat, service: &service };
        assert_eq!(words.admit().unwrap_err(), Barred::Inactive);
        assert_eq!((seat.activate(&client), seat.activate(&client)), (Activated::Entered, Activated::Unchanged));
        let before = words.admit().unwrap();
        assert!(words.is_still(&before) && words.still_admits(&before).is_ok());
        assert!(client.set_registered(false) && !client.set_registered(false));
        assert_eq!(
            (words.still_admits(&before), words.must_end()),
            (Err(Barred::NotRegistered), Some(Cause::Deregistered))
        );
        assert!(client.set_registered(true) && !client.set_registered(true));
        assert_eq!(words.admit().unwrap_err(), Barred::Inactive, "the life that it was activated for is over");
        assert_eq!(seat.activate(&client), Activated::Anew);
        assert!(words.admit().is_ok() && !words.is_still(&before));
        assert_eq!((words.still_admits(&before), words.must_end()), (Err(Barred::Inactive), None));
    }

    #[test]
    fn a_bar_outlasts_activations_and_a_revoked_service_ends_leases() {
        let (client, seat, service) = words();
        let words = Words { client: &client, seat: &seat, service: &service };
        assert_eq!((seat.activate(&client), seat.suspend(), seat.suspend()), (Activated::Entered, true, false));
        assert_eq!((seat.activate(&client), seat.retire()), (Activated::Suspended, false));
        assert_eq!((words.admit().unwrap_err(), words.must_end()), (Barred::Suspended, Some(Cause::Revoked)));
        seat.reinstate();
        assert_eq!((words.standing().0, words.must_end()), (SeatState::Inactive, None));
        assert_eq!((seat.activate(&client), seat.retire(), seat.retire()), (Activated::Entered, true, false));
        assert_eq!(service.set(ServiceState::Revoked), ServiceState::Active);
        assert_eq!((seat.activate(&client), words.must_end()), (Activated::Entered, Some(Cause::Revoked)));
        assert_eq!(words.admit().unwrap_err(), Barred::NotReady(ServiceState::Revoked));
    }

    #[test]
    fn a_quota_is_taken_as_far_as_it_goes() {
        let quota = Quota::default();
        let room = |leases, first| Room { leases, first };
        assert_eq!(
            [quota.take(2, 3), quota.take(2, 3), quota.take(2, 3)],
            [room(2, true), room(1, false), room(0, false)]
        );
        assert_eq!((quota.give_back(0), quota.give_back(2), quota.give_back(1), quota.held()), (false, false, true, 0));
    }
}
