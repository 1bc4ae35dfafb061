//! What must be true of the hub, in plain maps.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use commissary::{SeatState, ServiceState};

use super::{DEPTH, GRACE, IDLE, LEASE, revealed};

/// What a lease's holder owes of one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owed {
    Yes,
    /// Reported; with what, if the hub still knows.
    Reported(Option<u32>),
    PutBack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Live { deadline: u64 },
    Dead { since: u64 },
    Over,
}

#[derive(Debug, Clone)]
pub(super) struct LeaseModel {
    pub(super) client: u64,
    pub(super) subjects: BTreeMap<u64, Owed>,
    pub(super) phase: Phase,
    /// It was held when the hub was opened.
    pub(super) recovered: bool,
}

impl Phase {
    pub(super) fn is_dead(self) -> bool {
        matches!(self, Self::Dead { .. })
    }
}

impl LeaseModel {
    pub(super) fn is_held(&self) -> bool {
        self.phase != Phase::Over
    }

    pub(super) fn owed(&self) -> BTreeSet<u64> {
        self.subjects.iter().filter(|(_, owed)| self.is_held() && **owed == Owed::Yes).map(|(key, _)| *key).collect()
    }
}

#[derive(Debug, Clone)]
pub(super) struct SeatModel {
    pub(super) state: SeatState,
    pub(super) last_used: u64,
    pub(super) buckets: Counts,
    pub(super) subjects: Counts,
    pub(super) expired: u64,
    pub(super) conflicts: u64,
}

/// Assigned, finished, put back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) assigned: u64,
    pub(super) finished: u64,
    pub(super) put_back: u64,
}

/// A change that is not in the journal yet, and the ticket it resolves.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Added { key: u64, ticket: usize },
    Reported { key: u64, value: u32, client: u64, ticket: usize },
}

#[derive(Debug, Clone)]
pub(super) struct ServiceModel {
    pub(super) state: ServiceState,
    /// Taken in, with their depth.
    pub(super) known: BTreeMap<u64, u16>,
    /// Accepted: the value and who said it. Those in `visible` can be read.
    pub(super) done: BTreeMap<u64, (u32, u64)>,
    pub(super) visible: BTreeSet<u64>,
    pub(super) seats: BTreeMap<u64, SeatModel>,
    /// By their place in the driver's list of tokens; those the hub has forgotten are not here.
    pub(super) leases: BTreeMap<usize, LeaseModel>,
    pub(super) queue: Vec<Change>,
    pub(super) duplicates: u64,
    pub(super) cut_by_depth: u64,
}

/// Added, duplicates, cut.
pub(super) type Taken = (u64, u64, u64);

impl ServiceModel {
    pub(super) fn new() -> Self {
        Self {
            state: ServiceState::Active,
            known: BTreeMap::new(),
            done: BTreeMap::new(),
            visible: BTreeSet::new(),
            seats: BTreeMap::new(),
            leases: BTreeMap::new(),
            queue: Vec::new(),
            duplicates: 0,
            cut_by_depth: 0,
        }
    }

    pub(super) fn leased(&self) -> BTreeSet<u64> {
        self.leases.values().flat_map(LeaseModel::owed).collect()
    }

    pub(super) fn pending(&self) -> BTreeSet<u64> {
        let leased = self.leased();
        self.known.keys().filter(|key| !leased.contains(key) && !self.done.contains_key(key)).copied().collect()
    }

    pub(super) fn held_by(&self, client: u64) -> usize {
        self.leases.values().filter(|lease| lease.client == client && lease.is_held()).count()
    }

    pub(super) fn seat(&mut self, client: u64) -> &mut SeatModel {
        self.seats.entry(client).or_insert(SeatModel {
            state: SeatState::Inactive,
            last_used: 0,
            buckets: Counts::default(),
            subjects: Counts::default(),
            expired: 0,
            conflicts: 0,
        })
    }

    /// Ends a lease: what is owed is put back. How many subjects that were.
    pub(super) fn end(&mut self, lease: usize) -> u64 {
        let Some(lease) = self.leases.get_mut(&lease).filter(|lease| lease.is_held()) else { return 0 };
        lease.phase = Phase::Over;
        let mut left = 0;
        for owed in lease.subjects.values_mut().filter(|owed| **owed == Owed::Yes) {
            *owed = Owed::PutBack;
            left += 1;
        }
        let client = lease.client;
        let seat = self.seat(client);
        seat.subjects.put_back += left;
        if left == 0 {
            seat.buckets.finished += 1;
        } else {
            seat.buckets.put_back += 1;
        }
        left
    }

    pub(super) fn end_those(&mut self, which: impl Fn(&LeaseModel) -> bool) {
        let those: Vec<usize> = self.leases.iter().filter(|(_, lease)| which(lease)).map(|(id, _)| *id).collect();
        for lease in those {
            self.end(lease);
        }
    }

    pub(super) fn take_in(&mut self, key: u64, depth: u16, taken: &mut Taken) {
        if let Entry::Vacant(entry) = self.known.entry(key) {
            entry.insert(depth);
            taken.0 += 1;
        } else {
            self.duplicates += 1;
            taken.1 += 1;
        }
    }

    /// The journal takes what waits: what each ticket took in.
    pub(super) fn write(&mut self, tickets: &mut BTreeMap<usize, Taken>) {
        for change in std::mem::take(&mut self.queue) {
            match change {
                Change::Added { key, ticket } => self.take_in(key, 0, tickets.entry(ticket).or_default()),
                Change::Reported { key, value, client, ticket } => {
                    let taken = tickets.entry(ticket).or_default();
                    assert_eq!(self.done.get(&key), Some(&(value, client)), "G7: the first accepted value stays");
                    assert!(self.visible.insert(key), "G7: one record a subject");
                    let depth = self.known[&key];
                    for found in revealed(key, value) {
                        if depth >= DEPTH {
                            self.cut_by_depth += 1;
                            taken.2 += 1;
                        } else {
                            self.take_in(found, depth + 1, taken);
                        }
                    }
                }
            }
        }
    }

    /// The steward's round: releases before it marks, retires idle seats. Whether any lease expired.
    pub(super) fn sweep(&mut self, now: u64) -> bool {
        let mut expired = false;
        let ids: Vec<usize> = self.leases.keys().copied().collect();
        for id in ids {
            let lease = self.leases.get_mut(&id).expect("listed");
            match lease.phase {
                Phase::Dead { since } if now >= since + GRACE => {
                    let client = lease.client;
                    self.seat(client).expired += 1;
                    expired = true;
                    self.end(id);
                }
                Phase::Live { deadline } if deadline <= now => lease.phase = Phase::Dead { since: now },
                _ => {}
            }
        }
        for seat in self.seats.values_mut() {
            if seat.state == SeatState::Active && now - seat.last_used >= IDLE {
                seat.state = SeatState::Inactive;
            }
        }
        expired
    }

    /// A new opening: leases get a full term, what was over is forgotten.
    pub(super) fn reopen(&mut self, now: u64) {
        self.leases.retain(|_, lease| lease.is_held());
        for lease in self.leases.values_mut() {
            lease.phase = Phase::Live { deadline: now + LEASE };
            lease.recovered = true;
            for owed in lease.subjects.values_mut() {
                if let Owed::Reported(value) = owed {
                    *value = None;
                }
            }
        }
        self.seats.values_mut().for_each(|seat| seat.last_used = now);
    }
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    /// Those known, and whether they are registered.
    pub(super) clients: BTreeMap<u64, bool>,
    pub(super) services: Vec<ServiceModel>,
}

impl Model {
    pub(super) fn is_registered(&self, client: u64) -> bool {
        self.clients.get(&client) == Some(&true)
    }
}
