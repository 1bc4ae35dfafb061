//! A small service, a hub driven by hand, and the few calls that every scenario makes.

use std::time::Duration;

use commissary::{
    Ask, Builder, Claim, Empty, Hub, Lease, ManualClock, MemoryDisk, Policy, Registration, Reporter, Seat, Service,
    ServiceHandle, Verdict,
};

/// Reports equal to this are rejected.
pub(crate) const WRONG: u64 = u64::MAX;

/// A service of numbers: the right report on a number is its double, but any number is taken except [`WRONG`].
#[derive(Debug, Clone)]
pub(crate) struct Doubling(pub(crate) Policy);

impl Service for Doubling {
    type Subject = u64;
    type Report = u64;

    fn id(&self) -> &'static str {
        "doubling"
    }

    fn policy(&self) -> Policy {
        self.0.clone()
    }

    fn judge(&self, _subject: &u64, report: &u64, _reporter: Reporter) -> Verdict {
        if *report == WRONG { Verdict::Reject("wrong".to_owned()) } else { Verdict::Accept }
    }
}

/// The defaults, changed; deadlines are not spread, since tests count milliseconds.
pub(crate) fn policy(change: impl FnOnce(&mut Policy)) -> Policy {
    let mut policy = Policy { expiry_spread: 0, ..Policy::default() };
    change(&mut policy);
    policy
}

/// Milliseconds.
pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A hub without threads on a disk in memory, under a clock that moves when told to.
pub(crate) struct Rig {
    pub(crate) hub: Hub,
    pub(crate) service: ServiceHandle<Doubling>,
    pub(crate) clock: ManualClock,
    pub(crate) disk: MemoryDisk,
}

impl Rig {
    pub(crate) fn new(policy: Policy) -> Self {
        Self::on(&MemoryDisk::new(), policy, 1)
    }

    pub(crate) fn on(disk: &MemoryDisk, policy: Policy, seed: u64) -> Self {
        Self::with(Hub::builder().seed(seed), disk, policy)
    }

    pub(crate) fn with(builder: Builder, disk: &MemoryDisk, policy: Policy) -> Self {
        let clock = ManualClock::default();
        let hub = builder.manual().clock(clock.clone()).open_in_memory(disk).unwrap();
        let service = hub.register(Doubling(policy)).unwrap();
        hub.tick();
        Self { hub, service, clock, disk: disk.clone() }
    }

    /// Registers and activates a client.
    pub(crate) fn seat(&self, id: u64) -> Seat<Doubling> {
        let registration = Registration::new(id, format!("c{id}")).origin(id.to_be_bytes());
        let registered = self.hub.register_client(&registration).unwrap();
        registered.client.activate(&self.service).unwrap()
    }

    /// Takes in subjects and forms what can be formed now.
    pub(crate) fn add(&self, subjects: std::ops::Range<u64>) {
        let wanted = subjects.end - subjects.start;
        assert_eq!(self.service.add_all(subjects).unwrap().added, wanted);
        self.hub.tick();
    }

    /// Lets time pass, then does the caretakers' work.
    pub(crate) fn pass(&self, millis: u64) {
        self.clock.advance(ms(millis));
        self.hub.tick();
    }

    pub(crate) fn assert_adds_up(&self) {
        self.hub.tick();
        let work = self.hub.stats().work;
        assert!(work.adds_up(), "{work:?}");
    }
}

/// Claims one bucket, which must be there.
pub(crate) fn one(seat: &Seat<Doubling>) -> Lease<Doubling> {
    let mut grant = seat.claim(Ask::one()).unwrap().leased().expect("a bucket is ready");
    assert_eq!(grant.len(), 1);
    grant.pop().unwrap()
}

/// Claims, and must get nothing.
pub(crate) fn none(seat: &Seat<Doubling>) -> Empty {
    match seat.claim(Ask::one()).unwrap() {
        Claim::Empty(empty) => empty,
        Claim::Leased(grant) => panic!("got {} buckets", grant.len()),
    }
}

/// The subjects of a lease, in its order.
pub(crate) fn keys(lease: &Lease<Doubling>) -> Vec<u64> {
    lease.subjects().collect()
}

/// In ascending order.
pub(crate) fn sorted(mut keys: Vec<u64>) -> Vec<u64> {
    keys.sort_unstable();
    keys
}

/// The right reports on some subjects.
pub(crate) fn right(keys: &[u64]) -> Vec<(u64, u64)> {
    keys.iter().map(|key| (*key, key * 2)).collect()
}

/// Claims until nothing is left, reports everything, and returns what there was, in ascending order.
pub(crate) fn drain(rig: &Rig, seat: &Seat<Doubling>) -> Vec<u64> {
    let mut seen = Vec::new();
    while let Some(grant) = seat.claim(Ask::one()).unwrap().leased() {
        for lease in grant {
            let owed = keys(&lease);
            let submitted = lease.submit(right(&owed)).unwrap();
            assert_eq!(submitted.accepted(), owed.len());
            seen.extend(owed);
        }
        rig.hub.tick();
    }
    sorted(seen)
}
