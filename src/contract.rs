//! A test suite for plugins: what the hub relies on, checked.
//!
//! [`conforms`] checks a [`Service`] against its contract and runs its subjects and reports through hubs in memory, on
//! virtual time: added, claimed, judged, journaled, read back, across a crash and a store rebuilt from the journal.
//! [`conforms_by_name`] does the same through JSON, for plugins that are reached by name. A rule that is broken is a
//! panic whose message is a sentence that says which.
//!
//! It is meant for a plugin's own tests, not for production, and stands **outside semantic versioning**: a new rule may be
//! added in any release, because the hub always relied on it.
//!
//! # Examples
//!
//! ```
//! use commissary::contract::{self, Sample};
//! use commissary::{Policy, Reporter, Service, Verdict};
//!
//! /// Is a table free?
//! struct Tables;
//!
//! impl Service for Tables {
//!     type Subject = u32;
//!     type Report = u8;
//!
//!     fn id(&self) -> &str {
//!         "tables"
//!     }
//!
//!     fn policy(&self) -> Policy {
//!         Policy::default()
//!     }
//!
//!     fn judge(&self, _table: &u32, guests: &u8, _reporter: Reporter) -> Verdict {
//!         if *guests > 12 { Verdict::Reject("no table seats so many".to_owned()) } else { Verdict::Accept }
//!     }
//! }
//!
//! let samples = [Sample::new(1, 0).rejecting(13), Sample::new(2, 12)];
//! contract::conforms(|| Tables, &samples);
//! contract::conforms_by_name(|| Tables, &samples);
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::builder::{Crash, MemoryDisk};
use crate::claim::Ask;
use crate::client::{Capability, Client, Registration};
use crate::clock::ManualClock;
use crate::handle::ServiceHandle;
use crate::hub::Hub;
use crate::id::{ClientId, LeaseToken, check_service_id};
use crate::json::NamedService;
use crate::lease::{Lease, Outcome};
use crate::limits::Limits;
use crate::results::SubjectState;
use crate::seat::Seat;
use crate::service::{Key, Reporter, Service, Subject, Verdict, contain};
use crate::spread::CATEGORIES;
use crate::ticket::{Intake, Ticket};

/// The client in whose name the suite reports: no subject that it must not report on should be a sample.
pub const REPORTER: u64 = 0x7e57_0000_0000_0001;

/// One subject and what may and may not be said of it.
pub struct Sample<S: Service> {
    subject: S::Subject,
    acceptable: S::Report,
    unacceptable: Vec<S::Report>,
}

impl<S: Service> fmt::Debug for Sample<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unacceptable = self.unacceptable.len();
        let key = self.subject.key();
        f.debug_struct("Sample").field("key", &key).field("unacceptable", &unacceptable).finish_non_exhaustive()
    }
}

impl<S: Service> Sample<S> {
    /// A subject, and a report on it that the plugin must accept.
    #[must_use]
    pub fn new(subject: S::Subject, acceptable: S::Report) -> Self {
        Self { subject, acceptable, unacceptable: Vec::new() }
    }

    /// Adds a report on it that the plugin must reject.
    #[must_use]
    pub fn rejecting(mut self, unacceptable: S::Report) -> Self {
        self.unacceptable.push(unacceptable);
        self
    }
}

/// Checks a plugin against the contract of [`Service`].
///
/// `make` makes the plugin, as an application does at each start; the samples are different subjects, best of every kind
/// that the plugin knows. Plugins that limit their subjects ([`Policy::max_subjects`](crate::Policy::max_subjects)) must
/// leave room for all samples.
///
/// # Panics
///
/// If a rule is broken; the message says which, and by which sample.
pub fn conforms<S: Service>(make: impl Fn() -> S, samples: &[Sample<S>]) {
    assert!(!samples.is_empty(), "the suite needs at least one sample");
    identity(&make);
    let plugin = make();
    let mut keys = Keys::default();
    for sample in &named(samples) {
        keys.check(sample, &sample.subject.key());
        assert!(keys.seen.len() > sample.place, "{sample}: the samples must be different subjects");
    }
    for sample in &named(samples) {
        subject(sample, sample.subject);
        reports(sample);
        judging(&plugin, &make(), sample);
        categorizing(&plugin, &make(), sample);
        laning(&plugin, &make(), sample);
        discovering(&plugin, &make(), sample, &mut keys);
        comparing(&plugin, sample);
    }
    for sample in &named(samples) {
        cycle(&make, sample);
        survival(&make, sample);
    }
    together(&make, samples);
}

/// Checks a plugin's JSON: what [`Hub::service`] and its callers rely on.
///
/// # Panics
///
/// If a rule is broken; the message says which, and by which sample.
pub fn conforms_by_name<S: Service>(make: impl Fn() -> S, samples: &[Sample<S>]) {
    assert!(!samples.is_empty(), "the suite needs at least one sample");
    for sample in &named(samples) {
        let key = sample.subject.key();
        assert!(
            json_twin(sample, "key", &key) == key,
            "{sample}: its key does not come back from JSON as it was: results by name need it"
        );
        let twin = json_twin(sample, "subject", sample.subject);
        assert!(
            bytes_of(&twin) == bytes_of(sample.subject),
            "{sample}: the subject does not come back from JSON as it was"
        );
        for report in sample.all_reports() {
            let twin = json_twin(sample, "report", report);
            assert!(
                sample.encoded("report", &twin) == sample.encoded("report", report),
                "{sample}: the report does not come back from JSON as it was"
            );
        }
        cycle_by_name(&make, sample);
    }
}

/// A sample, and how messages name it.
struct Named<'a, S: Service> {
    name: String,
    place: usize,
    subject: &'a S::Subject,
    acceptable: &'a S::Report,
    unacceptable: &'a [S::Report],
}

impl<S: Service> Display for Named<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn named<'a, S: Service>(samples: &'a [Sample<S>]) -> Vec<Named<'a, S>> {
    let name = |(place, sample): (usize, &'a Sample<S>)| {
        let Sample { subject, acceptable, unacceptable } = sample;
        let key = rule(format!("sample {place}"), "key", || subject.key());
        Named { name: format!("sample {place} ({key:?})"), place, subject, acceptable, unacceptable }
    };
    samples.iter().enumerate().map(name).collect()
}

impl<'a, S: Service> Named<'a, S> {
    fn all_reports(&self) -> impl Iterator<Item = &'a S::Report> {
        std::iter::once(self.acceptable).chain(self.unacceptable)
    }

    /// What the hub stores of a value.
    fn encoded<T: Serialize>(&self, what: &str, value: &T) -> Vec<u8> {
        let bytes = rule(self, &format!("the encoding of its {what}"), || postcard::to_stdvec(value));
        ok(bytes, &format!("{self}: its {what} must be encodable by postcard"))
    }

    /// Reports are not `Clone`: the suite copies them the way the hub does.
    fn copy(&self, report: &S::Report) -> S::Report {
        let bytes = self.encoded("report", report);
        let decoded = rule(self, "the decoding of its report", || postcard::from_bytes(&bytes));
        ok(decoded, &format!("{self}: an encoded report must decode; postcard needs no self-describing formats"))
    }
}

/// A report that comes a second time confirms the first.
fn comparing<S: Service>(plugin: &S, sample: &Named<'_, S>) {
    for report in sample.all_reports() {
        let again = sample.copy(report);
        let is_same = rule(sample, "same", || plugin.same(report, &again));
        assert!(is_same, "{sample}: a report is not the same as itself: it could never be confirmed");
    }
}

/// The value, or a panic that says which rule is broken.
fn ok<T, E: Display>(result: Result<T, E>, sentence: &str) -> T {
    match result {
        Ok(value) => value,
        #[expect(clippy::panic, reason = "the suite reports by panicking")]
        Err(error) => panic!("{sentence}, but: {error}"),
    }
}

fn some<T>(value: Option<T>, sentence: &str) -> T {
    ok(value.ok_or("there is none"), sentence)
}

/// Runs plugin code that must not panic.
fn rule<R>(sample: impl Display, method: &str, call: impl FnOnce() -> R) -> R {
    ok(contain(call), &format!("{sample}: {method} must not panic"))
}

fn identity<S: Service>(make: &impl Fn() -> S) {
    let plugin = make();
    let id = rule("the plugin", "id", || plugin.id().to_owned());
    assert!(check_service_id(&id), "the service's id must be 1 to 64 of a-z A-Z 0-9 - _ ., but it is {id:?}");
    assert!(plugin.id() == id, "id must always be the same, but the second call gave {:?} after {id:?}", plugin.id());
    let other = make();
    assert!(
        other.id() == id,
        "id must be the same after a restart, but another plugin of the same make gave {:?} after {id:?}",
        other.id()
    );
    let policy = rule("the plugin", "policy", || plugin.policy());
    if let Err((field, range)) = policy.check() {
        ok(Err::<(), _>(range), &format!("policy: {field} must be within its range"));
    }
    assert!(policy.max_subjects > 0, "policy: max_subjects must not be 0: no subject would ever be taken in");
}

/// Different keys seen so far, with their bytes. Debug text stands in for the key, so that one list holds those of
/// samples and discoveries.
#[derive(Default)]
struct Keys {
    seen: BTreeMap<Vec<u8>, String>,
}

impl Keys {
    fn check<K: Key>(&mut self, sample: impl Display, key: &K) {
        let written = rule(&sample, "Key::write", || {
            let mut bytes = b"before".to_vec();
            key.write(&mut bytes);
            bytes
        });
        let bytes = written.strip_prefix(b"before");
        let bytes = some(bytes, &format!("{sample}: Key::write must append, not overwrite")).to_vec();
        let limit = Limits::default().key_bytes;
        assert!(
            (1..=limit).contains(&bytes.len()),
            "{sample}: a key must have 1 to {limit} bytes, but {key:?} has {}",
            bytes.len()
        );
        let again = rule(&sample, "Key::write", || {
            let mut bytes = Vec::new();
            key.clone().write(&mut bytes);
            bytes
        });
        assert!(again == bytes, "{sample}: equal keys must give equal bytes, but {key:?} gave others the second time");
        let read = some(
            rule(&sample, "Key::read", || K::read(&bytes)),
            &format!("{sample}: Key::read must read what Key::write wrote"),
        );
        assert!(
            read == *key,
            "{sample}: Key::read must be the inverse of Key::write, but {key:?} came back as {read:?}"
        );
        for strange in [&[][..], &[0xff; 3][..], bytes.get(1..).unwrap_or_default()] {
            rule(&sample, "Key::read of bytes that are no key", || K::read(strange));
        }
        let text = format!("{key:?}");
        let known = self.seen.entry(bytes).or_insert_with(|| text.clone());
        assert!(
            *known == text,
            "{sample}: different keys must give different bytes, but {text} gives those of {known}"
        );
    }
}

/// A subject's body: written, and read back.
fn subject<T: Subject>(sample: impl Display, subject: &T) {
    let key = rule(&sample, "Subject::key", || subject.key());
    assert!(
        subject.key() == key && subject.clone().key() == key,
        "{sample}: key must always be the same for the same subject"
    );
    let body = body_of(&sample, subject);
    assert!(body_of(&sample, subject) == body, "{sample}: write_body must write the same bytes each time");
    let limit = Limits::default().body_bytes;
    assert!(body.len() <= limit, "{sample}: a body must have at most {limit} bytes, but it has {}", body.len());
    let name = bytes_of_key(&key);
    let read = rule(&sample, "Subject::read", || T::read(&name, &body));
    let read = ok(read, &format!("{sample}: Subject::read must read what write_body wrote"));
    assert!(read.key() == key, "{sample}: the subject must come back under its own key, not under {:?}", read.key());
    assert!(
        body_of(&sample, &read) == body && bytes_of(&read) == bytes_of(subject),
        "{sample}: Subject::read must be the inverse of write_body, but the subject came back changed"
    );
    for length in 0..body.len() {
        let cut = body.get(..length).unwrap_or_default();
        rule(&sample, "Subject::read of a damaged body", || drop(T::read(&name, cut)));
    }
}

fn body_of<T: Subject>(sample: &impl Display, subject: &T) -> Vec<u8> {
    let written = rule(sample, "write_body", || {
        let mut bytes = b"before".to_vec();
        subject.write_body(&mut bytes).map(|()| bytes)
    });
    let bytes = ok(written, &format!("{sample}: write_body must write the subject"));
    some(bytes.strip_prefix(b"before"), &format!("{sample}: write_body must append, not overwrite")).to_vec()
}

fn bytes_of_key<K: Key>(key: &K) -> Vec<u8> {
    let mut bytes = Vec::new();
    key.write(&mut bytes);
    bytes
}

fn bytes_of<T: Serialize>(value: &T) -> Vec<u8> {
    ok(postcard::to_stdvec(value), "a subject must be encodable by postcard")
}

/// Reports come back from the store as they were, and equal ones have equal bytes.
fn reports<S: Service>(sample: &Named<'_, S>) {
    let limit = Limits::default().report_bytes;
    for report in sample.all_reports() {
        let bytes = sample.encoded("report", report);
        assert!(
            bytes.len() <= limit,
            "{sample}: a report must have at most {limit} bytes encoded, but one has {}",
            bytes.len()
        );
        let twin = sample.copy(report);
        assert!(
            sample.encoded("report", &twin) == bytes,
            "{sample}: a report must be encoded the same before and after it was stored: \
             the hub tells a repeated report from a contradicting one by its bytes"
        );
    }
}

fn judging<S: Service>(plugin: &S, other: &S, sample: &Named<'_, S>) {
    let reporter = Reporter::new(ClientId::known(REPORTER));
    for (report, acceptable) in sample.all_reports().zip(std::iter::once(true).chain(std::iter::repeat(false))) {
        let judge =
            |plugin: &S, report: &S::Report| rule(sample, "judge", || plugin.judge(sample.subject, report, reporter));
        let verdict = judge(plugin, report);
        match &verdict {
            Verdict::Accept => assert!(acceptable, "{sample}: judge must reject a report that is not acceptable"),
            Verdict::Reject(reason) => {
                assert!(!acceptable, "{sample}: judge must accept an acceptable report, but said {reason:?}");
                assert!(!reason.is_empty(), "{sample}: a rejection must say why");
            }
        }
        let stored = sample.copy(report);
        for again in [judge(plugin, report), judge(plugin, &stored), judge(other, &stored)] {
            assert!(
                again == verdict,
                "{sample}: judge must say the same of the same report every time, but said {again:?} after {verdict:?}"
            );
        }
    }
}

/// Only reports that were accepted are put into categories.
fn categorizing<S: Service>(plugin: &S, other: &S, sample: &Named<'_, S>) {
    let category = |plugin: &S, report: &S::Report| rule(sample, "category", || plugin.category(report));
    let found = category(plugin, sample.acceptable);
    assert!(
        found.is_none_or(|category| usize::from(category) < CATEGORIES),
        "{sample}: category must be less than {CATEGORIES}, but is {found:?}"
    );
    let stored = sample.copy(sample.acceptable);
    for again in [category(plugin, sample.acceptable), category(plugin, &stored), category(other, &stored)] {
        assert!(
            again == found,
            "{sample}: category must say the same of the same report every time, but said {again:?} after {found:?}"
        );
    }
}

fn laning<S: Service>(plugin: &S, other: &S, sample: &Named<'_, S>) {
    let lane = |plugin: &S| rule(sample, "lane", || plugin.lane(sample.subject));
    let (found, limit) = (lane(plugin), Limits::default().key_bytes);
    let bytes = found.as_ref().map_or(1, |lane| lane.as_bytes().len());
    assert!((1..=limit).contains(&bytes), "{sample}: lane must have 1 to {limit} bytes, but has {bytes}");
    for again in [lane(plugin), lane(other)] {
        assert!(
            again == found,
            "{sample}: lane must name the same lane of the same subject every time, but named {again:?} after {found:?}"
        );
    }
    if found.is_some() {
        let _ = rule(sample, "deadline", || plugin.deadline(sample.subject));
    }
}

fn discovered<S: Service>(plugin: &S, sample: &Named<'_, S>) -> Vec<S::Subject> {
    rule(sample, "discover", || {
        let mut found = Vec::new();
        plugin.discover(sample.subject, sample.acceptable, &mut found);
        found
    })
}

fn discovering<S: Service>(plugin: &S, other: &S, sample: &Named<'_, S>, keys: &mut Keys) {
    let found = discovered(plugin, sample);
    let names = |found: &[S::Subject]| found.iter().map(|subject| bytes_of_key(&subject.key())).collect::<Vec<_>>();
    for again in [discovered(plugin, sample), discovered(other, sample)] {
        assert!(
            names(&again) == names(&found),
            "{sample}: discover must find the same subjects in the same report every time"
        );
    }
    for (place, hidden) in found.iter().enumerate() {
        let name = format!("{sample}, discovery {place}");
        keys.check(&name, &hidden.key());
        subject(&name, hidden);
    }
    let bytes: usize = found.iter().map(|subject| bytes_of_key(&subject.key()).len() + bytes_of(subject).len()).sum();
    let limit = Limits::default().submit_bytes;
    assert!(bytes <= limit, "{sample}: the discoveries of a report must have at most {limit} bytes, but have {bytes}");
}

/// A hub in memory, with the plugin registered and one client.
struct Shop<S: Service> {
    hub: Hub,
    disk: MemoryDisk,
    clock: ManualClock,
    service: ServiceHandle<S>,
    client: Client,
}

impl<S: Service> Shop<S> {
    fn open(disk: MemoryDisk, plugin: S) -> Self {
        let clock = ManualClock::default();
        let builder = Hub::builder().manual().clock(clock.clone()).seed(1);
        let hub = ok(builder.open_in_memory(&disk), "a hub in memory must open");
        let service = ok(hub.register(plugin), "the plugin must be registered");
        let registered = hub.register_client(&Registration::new(REPORTER, "contract"));
        let client = ok(registered, "the suite's client must be registered").client;
        Self { hub, disk, clock, service, client }
    }

    /// What is found after the process was killed, with or without the store.
    fn reopen(self, with_store: bool, plugin: S) -> Self {
        let disk = self.disk.after(Crash::Process);
        Self::open(if with_store { disk } else { disk.without_store() }, plugin)
    }

    fn seat(&self) -> Seat<S> {
        ok(self.client.activate(&self.service), "a client must be able to activate for the service")
    }

    /// Lets a bucket that is not full be formed, then claims one.
    fn claim(&self, sample: &impl Display) -> (Seat<S>, Lease<S>) {
        self.hub.tick();
        self.clock.advance(self.service.policy().linger + Duration::from_millis(1));
        self.hub.tick();
        let seat = self.seat();
        let claim = ok(seat.claim(Ask::one()), &format!("{sample}: a claim must be served"));
        let lease = claim.leased().and_then(|mut grant| grant.pop());
        (seat, some(lease, &format!("{sample}: a subject that was added must be handed out")))
    }

    fn settled(&self, ticket: &Ticket, sentence: &str) -> Intake {
        self.hub.tick();
        ok(ticket.wait_durable().and_then(|()| ticket.wait_visible()), sentence)
    }

    fn add(&self, sample: &Named<'_, S>) -> Intake {
        let ticket = ok(self.service.add(sample.subject), &format!("{sample}: the subject must be taken in"));
        self.settled(&ticket, &format!("{sample}: taking in the subject must become durable"))
    }

    fn expect_result(&self, sample: &Named<'_, S>, when: &str) {
        let key = sample.subject.key();
        let found = ok(self.service.result(&key), &format!("{sample}: its result must be readable {when}"));
        let found = some(found, &format!("{sample}: its result must be there {when}"));
        assert!(
            found.key == key && found.client.value() == REPORTER && found.version == 1,
            "{sample}: its result must name its key, its client and its version {when}"
        );
        assert!(
            sample.encoded("report", &found.report) == sample.encoded("report", sample.acceptable),
            "{sample}: its result must be what was reported {when}"
        );
        let state = ok(self.service.subject_state(&key), &format!("{sample}: its state must be readable {when}"));
        assert!(state == SubjectState::Done, "{sample}: a reported subject must be done {when}, but is {state:?}");
    }
}

fn expect_subject<S: Service>(sample: &Named<'_, S>, lease: &Lease<S>) {
    let handed: Vec<S::Subject> = lease.subjects().collect();
    let same = handed.iter().map(bytes_of).eq(std::iter::once(bytes_of(sample.subject)));
    assert!(same, "{sample}: what is handed out must be the subject that was added");
}

fn expect_accepted<S: Service>(sample: &Named<'_, S>, outcomes: &[Outcome]) {
    assert!(
        outcomes == [Outcome::Accepted],
        "{sample}: an acceptable report must be accepted by the hub, which answered {outcomes:?}"
    );
}

/// Added, claimed, rejected, reported, durable, read; what was discovered is taken in.
fn cycle<S: Service>(make: &impl Fn() -> S, sample: &Named<'_, S>) {
    let shop = Shop::open(MemoryDisk::new(), make());
    let added = shop.add(sample);
    assert!(added.added == 1, "{sample}: a new subject must be taken in, but the hub counted {added:?}");
    let again = shop.add(sample);
    assert!(
        again.added == 0 && again.duplicates == 1,
        "{sample}: a subject that is known must be refused as a duplicate, but the hub counted {again:?}"
    );
    let (_seat, lease) = shop.claim(sample);
    expect_subject(sample, &lease);
    let key = sample.subject.key();
    for report in sample.unacceptable {
        let submitted =
            ok(lease.submit([(key.clone(), sample.copy(report))]), &format!("{sample}: a submit must work"));
        assert!(
            matches!(submitted.outcomes.as_slice(), [Outcome::Rejected { .. }]) && submitted.kept,
            "{sample}: a report that is not acceptable must be rejected by the hub, which answered {:?}",
            submitted.outcomes
        );
    }
    let report = sample.copy(sample.acceptable);
    let submitted = ok(lease.submit([(key, report)]), &format!("{sample}: a submit must work"));
    expect_accepted(sample, &submitted.outcomes);
    let intake = shop.settled(&submitted.ticket, &format!("{sample}: a report must become durable"));
    shop.expect_result(sample, "after it was reported");
    expect_discoveries(&shop, sample, &intake);
    assert!(shop.service.stats().work.adds_up(), "{sample}: the work handed out and taken back must add up");
}

/// Discoveries enter once, within depth and budget; what is cut is counted.
fn expect_discoveries<S: Service>(shop: &Shop<S>, sample: &Named<'_, S>, intake: &Intake) {
    let policy = shop.service.policy();
    let plugin = some(shop.service.core().plugin::<S>(), "the plugin must be of its own type");
    let found = discovered(plugin, sample);
    let mut expected = Intake::default();
    let mut known = BTreeSet::from([bytes_of_key(&sample.subject.key())]);
    for (name, laned) in found.iter().map(|subject| (bytes_of_key(&subject.key()), plugin.lane(subject).is_some())) {
        if policy.max_depth == 0 && !laned {
            expected.cut += 1;
        } else if known.contains(&name) {
            expected.duplicates += 1;
        } else if known.len() as u64 >= policy.max_subjects && !laned {
            expected.cut += 1;
        } else {
            known.insert(name);
            expected.added += 1;
        }
    }
    assert!(
        *intake == expected,
        "{sample}: discoveries must be taken in once, within depth and budget: expected {expected:?}, got {intake:?}"
    );
    for subject in &found {
        let state = ok(shop.service.subject_state(&subject.key()), &format!("{sample}: a discovery must be readable"));
        let taken = known.contains(&bytes_of_key(&subject.key()));
        assert!(
            taken == matches!(state, SubjectState::Pending | SubjectState::Done),
            "{sample}: a discovery must be worked on if it was taken in, and only then"
        );
    }
}

/// A lease and a result outlive the process, and the store.
fn survival<S: Service>(make: &impl Fn() -> S, sample: &Named<'_, S>) {
    for with_store in [true, false] {
        let when = if with_store { "after a crash" } else { "after the store was rebuilt from the journal" };
        let shop = Shop::open(MemoryDisk::new(), make());
        shop.add(sample);
        let token = shop.claim(sample).1.into_token();
        shop.hub.tick();
        let shop = shop.reopen(with_store, make());
        let seat = shop.seat();
        let held = ok(seat.leases(), &format!("{sample}: its lease must be found {when}"));
        let subjects: Vec<_> = held.iter().flat_map(|view| view.subjects.iter().map(bytes_of)).collect();
        assert!(
            held.iter().map(|view| view.token).eq([token]) && subjects == [bytes_of(sample.subject)],
            "{sample}: its lease must go on {when}, with its subject"
        );
        let report = [(sample.subject.key(), sample.copy(sample.acceptable))];
        let submitted = ok(seat.submit(&token, report), &format!("{sample}: a submit must work {when}"));
        expect_accepted(sample, &submitted.outcomes);
        shop.settled(&submitted.ticket, &format!("{sample}: a report must become durable {when}"));
        shop.expect_result(sample, "before another crash");
        shop.reopen(with_store, make()).expect_result(sample, when);
    }
}

/// All samples in one hub, under one handle.
fn together<S: Service>(make: &impl Fn() -> S, samples: &[Sample<S>]) {
    let shop = Shop::open(MemoryDisk::new(), make());
    let subjects = || samples.iter().map(|sample| sample.subject.clone());
    let intake = ok(shop.service.add_all(subjects().chain(subjects())), "the samples must be taken in together");
    let all = samples.len() as u64;
    assert!(
        intake.added == all && intake.duplicates == all,
        "each of the {all} samples must be taken in once and refused once, but the hub counted {intake:?}"
    );
    let again = ok(shop.hub.register(make()), "the plugin must be found again when it is registered twice");
    let same = again.id() == shop.service.id()
        && again.state() == shop.service.state()
        && again.policy() == shop.service.policy()
        && again.stats() == shop.service.stats();
    assert!(same, "registering the plugin twice must find the same service, as it was");
    let shop = shop.reopen(true, make());
    let known = shop.service.stats().subjects_known;
    assert!(known == all, "all {all} samples must be known after a restart, but {known} are");
}

/// A value that went through JSON as the hub sends it.
fn json_twin<S: Service, T: Serialize + DeserializeOwned>(sample: &Named<'_, S>, what: &str, value: &T) -> T {
    let sentence = format!("{sample}: its {what} must be writable as JSON");
    let tree = ok(rule(sample, &format!("the JSON of its {what}"), || serde_json::to_value(value)), &sentence);
    let text = ok(serde_json::to_vec(&tree), &sentence);
    let read = rule(sample, &format!("the JSON of its {what}"), || serde_json::from_slice(&text));
    ok(read, &format!("{sample}: its {what} must be readable from JSON"))
}

fn json_of<S: Service, T: Serialize>(sample: &Named<'_, S>, value: &T) -> Value {
    ok(serde_json::to_value(value), &format!("{sample}: its subject, key and report must be writable as JSON"))
}

fn cycle_by_name<S: Service>(make: &impl Fn() -> S, sample: &Named<'_, S>) {
    let shop = Shop::open(MemoryDisk::new(), make());
    let service: NamedService = some(shop.hub.service(shop.service.id()), "a registered service must be found by name");
    let body = json!([json_of(sample, sample.subject)]).to_string();
    let ticket = ok(service.add(body.as_bytes()), &format!("{sample}: the subject must be taken in by name"));
    shop.settled(&ticket, &format!("{sample}: taking in the subject by name must become durable"));
    let token: LeaseToken = shop.claim(sample).1.into_token();
    let seat = service.activate(&shop.client, Capability::default());
    let seat = ok(seat, "a client must be able to activate for the service by name");
    let key = json_of(sample, &sample.subject.key());
    let report = json_of(sample, sample.acceptable);
    let body = json!({ "token": token, "reports": [[key, report]] }).to_string();
    let (answer, ticket) = ok(seat.submit(body.as_bytes()), &format!("{sample}: a submit by name must work"));
    assert!(
        answer.get("outcomes") == Some(&json!(["accepted"])),
        "{sample}: an acceptable report must be accepted by name, but the hub answered {answer}"
    );
    shop.settled(&ticket, &format!("{sample}: a report by name must become durable"));
    let found =
        ok(service.result(key.to_string().as_bytes()), &format!("{sample}: its result must be readable by name"));
    let found = some(found, &format!("{sample}: its result must be there by name"));
    assert!(
        found.get("report") == Some(&report),
        "{sample}: its result by name must be what was reported, but is {found}"
    );
    shop.expect_result(sample, "after it was reported by name");
}
