//! Looks at a hub. Knows nothing of what it is used for: it needs the hub and the handles of its services.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use commissary::{
    Cause, Distribution, EventKind, Faults, Hub, HubStats, Level, NoticeKind, ReadError, SeatStats, Service,
    ServiceHandle, ServiceStats, SlowBucket, StoreOps,
};

use crate::sample::{DiskSample, FaultyClient, Happening, LeaseSample, RoleSample, Sample, ServiceSample, Spread};

/// Records read in one look at most; the rest waits for the next.
const RECORDS: usize = 20_000;
/// Clients whose faults are looked at, at most.
const CLIENTS: usize = 1_000;
/// Leases and faulty clients in a sample.
const SHOWN: usize = 20;

/// A service of any type, as far as it is looked at by its handle.
pub(crate) trait Watched {
    fn id(&self) -> &str;
    /// How long a lease lasts without renewal.
    fn lease(&self) -> Duration;
    /// The leases that are held.
    fn held(&self) -> Vec<SlowBucket>;
    /// Clients that are suspect or quarantined.
    fn unhealthy(&self) -> Vec<u64>;
}

impl<S: Service> Watched for ServiceHandle<S> {
    fn id(&self) -> &str {
        ServiceHandle::id(self)
    }

    fn lease(&self) -> Duration {
        self.policy().lease
    }

    fn held(&self) -> Vec<SlowBucket> {
        self.slow_buckets(Duration::ZERO).into_iter().filter(|bucket| bucket.held).collect()
    }

    fn unhealthy(&self) -> Vec<u64> {
        ServiceHandle::unhealthy(self).into_iter().map(|seat| seat.client.value()).collect()
    }
}

/// Looks at a hub, time and again.
pub(crate) struct Look<'a> {
    hub: &'a Hub,
    services: Vec<&'a dyn Watched>,
    /// Those that were heard of.
    clients: BTreeSet<u64>,
    /// Where the journal was read up to; `None` if it cannot be read.
    position: Option<u64>,
    /// The last notice seen.
    notice: u64,
}

impl<'a> Look<'a> {
    /// Hears of the clients that do something from here on; the journal is followed from where this hub was opened.
    pub(crate) fn at(hub: &'a Hub, services: Vec<&'a dyn Watched>) -> Self {
        let position = Some(hub.open_report().journal_end);
        Self { hub, services, clients: BTreeSet::new(), position, notice: 0 }
    }

    /// Takes a look, `at` some time after the first.
    pub(crate) fn sample(&mut self, at: Duration) -> Sample {
        let mut news = self.events();
        news.extend(self.notices());
        news.sort_by_key(|happening| happening.at);
        let stats = self.hub.stats();
        Sample {
            at,
            trouble: self.hub.health().err().map(|error| error.to_string()),
            clients: stats.clients,
            turned_away: turned_away(&stats),
            queued_bytes: stats.queued_bytes,
            services: stats.services.iter().map(service).collect(),
            leases: self.leases(),
            faulty: self.faulty(),
            disk: disk(&stats),
            news,
        }
    }

    fn meet(&mut self, client: u64) {
        if self.clients.len() < CLIENTS {
            self.clients.insert(client);
        }
    }

    fn name(&self, client: u64) -> String {
        self.hub.client(client).map_or_else(|| client.to_string(), |client| client.name().to_owned())
    }

    /// Reads what was journaled since the last look.
    fn events(&mut self) -> Vec<Happening> {
        let Some(from) = self.position else { return Vec::new() };
        let mut news = Vec::new();
        match self.read(from, &mut news) {
            Ok(position) => self.position = Some(position),
            // The journal was cut short at its beginning meanwhile.
            Err(ReadError::Lagged { resume_at }) => self.position = Some(resume_at),
            Err(error) => {
                self.position = None;
                let what = format!("the journal is followed no more: {error}");
                news.push(Happening { at: SystemTime::now().into(), what });
            }
        }
        news
    }

    fn read(&mut self, from: u64, news: &mut Vec<Happening>) -> Result<u64, ReadError> {
        let mut position = from;
        for event in self.hub.events(from)?.take(RECORDS) {
            let event = event?;
            position = event.next;
            if let Some(client) = event.kind.client() {
                self.meet(client.value());
            }
            news.extend(self.told(&event.kind).map(|what| Happening { at: event.at, what }));
        }
        Ok(position)
    }

    /// A record in words, if an operator should know of it.
    fn told(&self, kind: &EventKind) -> Option<String> {
        let service = kind.service().map_or("", |service| &service.id);
        let client = || kind.client().map_or_else(String::new, |client| self.name(client.value()));
        Some(match kind {
            EventKind::Opened { boot } => format!("the hub was opened, for time {boot}"),
            EventKind::ServiceChanged { state, .. } => format!("{service} is {state}"),
            EventKind::ClientRegistered { .. } => format!("{} registered", client()),
            EventKind::ClientDeregistered { .. } => format!("{} deregistered", client()),
            EventKind::PutBack { bucket, ranks, cause, .. } => {
                let why = why(*cause)?;
                let (generation, slot) = bucket;
                format!("{service} {generation}/{slot} of {}: {why}, {} subjects put back", client(), ranks.len())
            }
            EventKind::Conflict { reports, .. } => {
                format!("{} contradicted {} results of {service}", client(), reports.len())
            }
            EventKind::LevelChanged { level, why, .. } => format!("{} is {level} for {service}: {why}", client()),
            EventKind::MadeUrgent { ranks, .. } => format!("{} subjects of {service} were made urgent", ranks.len()),
            _ => return None,
        })
    }

    /// What clients tried where it does not belong, since the last look.
    fn notices(&mut self) -> Vec<Happening> {
        let mut news = Vec::new();
        let seen = self.notice;
        for notice in self.hub.notices().into_iter().filter(|notice| notice.number > seen) {
            self.notice = notice.number;
            self.meet(notice.client.value());
            let (client, service) = (self.name(notice.client.value()), notice.service);
            let what = match notice.kind {
                NoticeKind::OthersLease { holder, .. } => {
                    format!("{client} used a token of {} for {service}", self.name(holder.value()))
                }
                NoticeKind::ForgedToken => format!("{client} used a forged token for {service}"),
                NoticeKind::NotInBucket { subjects, .. } => {
                    format!("{client} reported on {subjects} subjects of {service} that are not in its bucket")
                }
                _ => continue,
            };
            news.push(Happening { at: notice.at, what });
        }
        news
    }

    fn leases(&self) -> Vec<LeaseSample> {
        let mut held: Vec<(&dyn Watched, SlowBucket)> = Vec::new();
        for service in &self.services {
            held.extend(service.held().into_iter().map(|bucket| (*service, bucket)));
        }
        held.sort_by_key(|(_, bucket)| std::cmp::Reverse(bucket.took));
        held.truncate(SHOWN);
        let sample = |(service, bucket): (&dyn Watched, SlowBucket)| LeaseSample {
            service: service.id().to_owned(),
            client: self.name(bucket.client.value()),
            bucket: bucket.bucket,
            held: bucket.took,
            late: bucket.took > service.lease(),
        };
        held.into_iter().map(sample).collect()
    }

    /// The unhealthy first, then those with the most faults.
    fn faulty(&self) -> Vec<FaultyClient> {
        let unhealthy = self.services.iter().flat_map(|service| service.unhealthy());
        let known: BTreeSet<u64> = self.clients.iter().copied().chain(unhealthy).collect();
        let known = known.iter().filter_map(|id| self.hub.client_stats(*id));
        let mut faulty = Vec::new();
        for client in known {
            for seat in &client.seats {
                let faults = faults_of(seat);
                if !faults.is_empty() || seat.work.buckets_dead > 0 || seat.level != Level::Healthy {
                    faulty.push(FaultyClient {
                        id: client.id.value(),
                        name: client.name.clone(),
                        registered: client.registered,
                        first_registered: client.first_registered,
                        last_access: seat.last_access,
                        service: seat.service.clone(),
                        seat: format!("{:?}", seat.state).to_lowercase(),
                        level: seat.level,
                        why: seat.why.clone(),
                        assigned: seat.work.buckets_assigned,
                        dead: seat.work.buckets_dead,
                        faults,
                    });
                }
            }
        }
        faulty.sort_by_key(|client| std::cmp::Reverse((client.level, client.total())));
        faulty.truncate(SHOWN);
        faulty
    }
}

/// Why a bucket was put back, if it was not its holder's wish.
fn why(cause: Cause) -> Option<&'static str> {
    match cause {
        Cause::Expired => Some("not reported in time"),
        Cause::Deregistered => Some("deregistered"),
        Cause::Revoked => Some("revoked"),
        _ => None,
    }
}

/// What is known against a seat. Refused claims are left out: they may be the hub's doing.
fn faults_of(seat: &SeatStats) -> Vec<(&'static str, u64)> {
    let mut faults = kinds(&seat.faults).to_vec();
    faults.push(("expired", seat.work.buckets_expired));
    faults.retain(|(_, count)| *count > 0);
    faults
}

fn kinds(faults: &Faults) -> [(&'static str, u64); 8] {
    [
        ("foreign or forged token", faults.not_owner),
        ("not in bucket", faults.not_in_bucket),
        ("rejected", faults.rejected),
        ("too long", faults.oversized),
        ("plugin panic", faults.plugin_panics),
        ("conflicting", faults.conflicts),
        ("too late", faults.stale),
        ("asked too much", faults.over_ask),
    ]
}

fn turned_away(stats: &HubStats) -> Vec<(&'static str, u64)> {
    let mut away = vec![
        ("invalid registrations", stats.invalid_registrations),
        ("throttled registrations", stats.throttled_registrations),
        ("calls of the unregistered", stats.not_registered),
        ("newcomers, the queue being full", stats.busy_newcomers),
        ("claims, the queue being full", stats.busy_claims),
        ("submits, the queue being full", stats.busy_submits),
    ];
    away.retain(|(_, count)| *count > 0);
    away
}

fn service(stats: &ServiceStats) -> ServiceSample {
    ServiceSample {
        id: stats.id.clone(),
        state: stats.state.to_string(),
        seats: stats.active_seats,
        known: stats.subjects_known,
        done: stats.subjects_done,
        unmarked: stats.unmarked,
        reported: stats.work.subjects_reported,
        pools: stats.pools_alive,
        ready: stats.subjects_ready,
        leased: stats.work.subjects_held,
        leases: stats.work.buckets_held,
        dead: stats.work.buckets_dead,
        expired: stats.work.buckets_expired,
        faults: kinds(&stats.faults).iter().map(|(_, count)| count).sum(),
        oldest_wait: stats.oldest_wait,
        longest_wait: stats.longest_wait,
        overdue: stats.overdue,
        drain_time: stats.pool_drain_time,
        claim_ns: spread(&stats.times.claim_ns),
        wait_ms: spread(&stats.times.wait_ms),
    }
}

/// The same values by powers of two.
fn spread(values: &Distribution) -> Spread {
    let mut bars = BTreeMap::new();
    for bucket in &values.buckets {
        *bars.entry(bucket.from.max(1).ilog2()).or_default() += bucket.count;
    }
    let (first, last) = (bars.keys().next().copied(), bars.keys().next_back().copied());
    let all = first.zip(last).map_or(0..0, |(first, last)| first..last + 1);
    Spread {
        count: values.count,
        p50: values.p50,
        p99: values.p99,
        max: values.max,
        bars: all.map(|power| (power, bars.get(&power).copied().unwrap_or(0))).collect(),
    }
}

fn disk(stats: &HubStats) -> DiskSample {
    let (storage, journal) = (&stats.storage, &stats.storage.journal);
    let roles = [
        ("opening", storage.opening),
        ("applier", storage.applier),
        ("steward", storage.steward),
        ("results", storage.results),
    ];
    DiskSample {
        finished: stats.work.subjects_reported,
        roles: roles.map(|(name, asked)| role(name, &asked)).to_vec(),
        journal_groups: journal.groups,
        journal_records: journal.records,
        journal_bytes: journal.bytes,
        journal_syncs: journal.syncs,
        store_bytes: stats.store_bytes,
    }
}

fn role(name: &'static str, asked: &StoreOps) -> RoleSample {
    RoleSample {
        name,
        reads: asked.reads(),
        bytes_read: asked.bytes_read,
        batches: asked.batches,
        pairs_written: asked.pairs_written,
        bytes_written: asked.bytes_written,
    }
}

#[cfg(test)]
mod tests {
    use commissary::{Ask, Lease, ManualClock, MemoryDisk, Policy, Registration, Reporter, Revoke, Seat, Verdict};

    use super::*;
    use crate::sample::History;
    use crate::{dashboard, page};

    struct Even;

    impl Service for Even {
        type Subject = u64;
        type Report = u64;

        fn id(&self) -> &'static str {
            "even"
        }

        fn policy(&self) -> Policy {
            Policy { expiry_spread: 0, ..Policy::default() }
        }

        fn judge(&self, _subject: &u64, report: &u64, _reporter: Reporter) -> Verdict {
            if report.is_multiple_of(2) { Verdict::Accept } else { Verdict::Reject("odd".to_owned()) }
        }
    }

    fn pass(hub: &Hub, clock: &ManualClock, time: Duration) {
        clock.advance(time);
        hub.tick();
    }

    fn claim(seat: &Seat<Even>) -> Lease<Even> {
        seat.claim(Ask::one()).unwrap().leased().unwrap().pop().unwrap()
    }

    /// Twelve subjects in three buckets, of which the first is done and the second is held by one who cheats.
    fn shop(clock: &ManualClock) -> (Hub, ServiceHandle<Even>, Lease<Even>) {
        let hub = Hub::builder().manual().clock(clock.clone()).seed(1).open_in_memory(&MemoryDisk::new()).unwrap();
        let even = hub.register(Even).unwrap();
        even.add_all(1..=12).unwrap();
        hub.register_client(&Registration::new(78, "")).unwrap_err();
        let mallory = hub.register_client(&Registration::new(77, "mallory")).unwrap().client;
        let seat = mallory.activate(&even).unwrap();
        hub.tick();
        pass(&hub, clock, Duration::from_millis(101));
        let (done, held) = (claim(&seat), claim(&seat));
        assert_eq!(done.submit(done.subjects().map(|subject| (subject, 2)).collect::<Vec<_>>()).unwrap().accepted(), 4);
        assert_eq!(held.report(held.subjects().take(1).map(|subject| (subject, 1))).unwrap().accepted(), 0);
        assert_eq!(held.report([(999, 2)]).unwrap().accepted(), 0);
        pass(&hub, clock, Duration::from_secs(5));
        (hub, even, held)
    }

    /// R18, R20: what is ready, leased and done, who is at fault and how, and which lease is the oldest.
    #[test]
    fn a_look_finds_the_figures_of_a_hub() {
        let clock = ManualClock::default();
        let (hub, even, held) = shop(&clock);
        let mut look = Look::at(&hub, vec![&even]);
        let seen = look.sample(Duration::from_secs(1));
        let service = &seen.services[0];
        assert_eq!((service.known, service.done, service.ready, service.leased), (12, 4, 4, 4));
        assert_eq!((service.waiting(), service.leases, service.dead, service.faults), (0, 1, 0, 2));
        assert_eq!((service.wait_ms.count, service.wait_ms.bars.iter().map(|(_, n)| n).sum::<u64>()), (4, 4));
        assert!(service.oldest_wait >= Duration::from_secs(5), "{:?}", service.oldest_wait);
        assert_eq!((seen.leases.len(), seen.leases[0].held), (1, Duration::from_secs(5)));
        assert_eq!((seen.leases[0].client.as_str(), seen.leases[0].late), ("mallory", false));
        let [faulty] = seen.faulty.as_slice() else { panic!("{:?}", seen.faulty) };
        assert_eq!(seen.turned_away, [("invalid registrations", 1)]);
        assert_eq!((faulty.registered, faulty.last_access.is_some()), (true, true));
        assert_eq!((faulty.id, faulty.told().as_str()), (77, "1 not in bucket, 1 rejected"));
        assert_eq!((seen.disk.finished, seen.disk.journal_bytes > 0, seen.disk.pairs_written() > 0), (4, true, true));
        let news: Vec<&str> = seen.news.iter().map(|happening| happening.what.as_str()).collect();
        assert!(news.contains(&"mallory reported on 1 subjects of even that are not in its bucket"), "{news:?}");
        assert!(news.contains(&"mallory registered") && news.contains(&"even is active"), "{news:?}");
        drop(held);
    }

    /// R18: each happening is told once, and a lease that nobody reports on is seen to age, to die and to come back.
    #[test]
    fn a_lease_is_seen_to_die_and_each_happening_is_told_once() {
        let clock = ManualClock::default();
        let (hub, even, held) = shop(&clock);
        let _lost = held.into_token();
        let mut look = Look::at(&hub, vec![&even]);
        assert!(!look.sample(Duration::ZERO).news.is_empty());
        assert!(look.sample(Duration::ZERO).news.is_empty(), "nothing happened since");
        let policy = even.policy();
        pass(&hub, &clock, policy.lease);
        let dead = look.sample(Duration::ZERO);
        assert_eq!((dead.services[0].dead, dead.faulty[0].dead, dead.leases[0].late), (1, 1, true));
        pass(&hub, &clock, policy.grace);
        pass(&hub, &clock, Duration::from_secs(1));
        let over = look.sample(Duration::ZERO);
        assert_eq!((over.services[0].dead, over.services[0].expired, over.leases.len()), (0, 1, 0));
        assert!(over.faulty[0].told().contains("1 expired"), "{:?}", over.faulty);
        let told = |happening: &Happening| happening.what.contains("of mallory: not reported in time, 4 subjects");
        assert_eq!(over.news.iter().filter(|happening| told(happening)).count(), 1, "{:?}", over.news);
    }

    /// R58: a closed hub and a revoked service are seen as such, on the dashboard and on the page.
    #[test]
    fn trouble_is_shown() {
        let clock = ManualClock::default();
        let (hub, even, _held) = shop(&clock);
        let _ticket = even.revoke(Revoke::Drain).unwrap();
        hub.tick();
        hub.close().unwrap();
        let mut history = History::default();
        history.push(Look::at(&hub, vec![&even]).sample(Duration::ZERO));
        assert_eq!(history.latest().unwrap().services[0].state, "draining");
        let trouble = history.latest().unwrap().trouble.clone().unwrap();
        for shown in [dashboard::text(&history, 120, 40), page::render(&history, None)] {
            assert!(shown.contains(&trouble) && shown.contains("draining"), "{shown}");
        }
    }
}
