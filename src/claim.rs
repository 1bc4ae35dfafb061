//! What a claim asks for, and what it gets.

use std::time::Duration;

use smallvec::SmallVec;

use crate::lease::Lease;
use crate::service::Service;

/// What a claim asks for.
///
/// ```
/// use std::time::Duration;
/// use commissary::Ask;
///
/// let three = Ask::buckets(3).subjects(12).time(Duration::from_secs(60));
/// # let _ = three;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    pub(crate) buckets: u32,
    pub(crate) subjects: Option<usize>,
    pub(crate) time: Option<Duration>,
}

impl Ask {
    /// One bucket.
    #[must_use]
    pub fn one() -> Self {
        Self::buckets(1)
    }

    /// Up to `n` buckets.
    #[must_use]
    pub fn buckets(n: u32) -> Self {
        Self { buckets: n, subjects: None, time: None }
    }

    /// No more buckets than hold `n` subjects; at least one.
    #[must_use]
    pub fn subjects(mut self, n: usize) -> Self {
        self.subjects = Some(n);
        self
    }

    /// How long the client means to work on them. A client with a history gets no more than it finished in such a time
    /// before; without this, no more than it finished in a lease's time.
    #[must_use]
    pub fn time(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }
}

/// What a claim got.
#[derive(Debug)]
#[must_use]
pub enum Claim<S: Service> {
    /// At least one bucket.
    Leased(Grant<S>),
    /// None, and why.
    Empty(Empty),
}

impl<S: Service> Claim<S> {
    /// The grant, if there is one.
    #[must_use]
    pub fn leased(self) -> Option<Grant<S>> {
        match self {
            Self::Leased(grant) => Some(grant),
            Self::Empty(_) => None,
        }
    }
}

/// Leases given to one claim. Iterate to take them out; those left are given back when it is dropped.
#[derive(Debug)]
#[must_use = "dropping a grant gives its buckets back"]
pub struct Grant<S: Service> {
    pub(crate) leases: SmallVec<[Lease<S>; 2]>,
    /// Buckets asked for.
    pub asked: u32,
    /// The cap that applied: the policy's, or the seat's own declaration.
    pub limit: u32,
    /// The ask exceeded the cap.
    pub clamped: bool,
}

impl<S: Service> Grant<S> {
    /// How many leases there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Never true.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// The leases, to look at.
    pub fn leases(&self) -> &[Lease<S>] {
        &self.leases
    }

    /// Takes one lease out.
    pub fn pop(&mut self) -> Option<Lease<S>> {
        self.leases.pop()
    }
}

impl<S: Service> IntoIterator for Grant<S> {
    type Item = Lease<S>;
    type IntoIter = Leases<S>;

    fn into_iter(self) -> Leases<S> {
        Leases(self.leases.into_iter())
    }
}

/// Takes the leases out of a grant.
#[derive(Debug)]
pub struct Leases<S: Service>(smallvec::IntoIter<[Lease<S>; 2]>);

impl<S: Service> Iterator for Leases<S> {
    type Item = Lease<S>;

    fn next(&mut self) -> Option<Lease<S>> {
        self.0.next()
    }
}

/// Why a claim got nothing; not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Empty {
    /// Why.
    pub reason: EmptyReason,
    /// When trying again makes sense, and up to half as long again, evenly spread: those turned away together do not come
    /// back together.
    pub retry_after: Duration,
}

/// Why there is nothing to claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub enum EmptyReason {
    /// No subject waits.
    NothingPending,
    /// All subjects are leased. If none is finished before, the first may be offered again after this time.
    AllLeased {
        /// From now.
        earliest_free: Duration,
    },
    /// Subjects wait, but no bucket is formed yet.
    NotYetFormed,
    /// The client holds as many leases as it may.
    QuotaFull,
    /// An administrator paused the service.
    Paused,
}
