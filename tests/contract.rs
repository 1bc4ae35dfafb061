//! The contract suite: the shipped plugins keep it, and plugins that break a rule are told which.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use commissary::contract::{self, Sample};
use commissary::services::{DmCheck, DmState, FollowerCheck, FollowingCheck, UserList};
use commissary::{Key, LaneKey, Policy, Reporter, Service, Subject, Verdict};
use serde::{Deserialize, Serialize};

fn list(users: &[u64], complete: bool) -> UserList {
    UserList { users: users.to_vec(), complete }
}

fn dm_samples() -> [Sample<DmCheck>; 4] {
    [
        Sample::new(1, DmState::Open),
        Sample::new(2, DmState::Closed),
        Sample::new(u64::MAX, DmState::Unknown),
        Sample::new(0, DmState::Open),
    ]
}

fn list_samples<S: Service<Subject = u64, Report = UserList>>() -> [Sample<S>; 4] {
    [
        Sample::new(1, list(&[2, 3, 4], true)).rejecting(list(&[2, 1], true)).rejecting(list(&[2, 3, 2], true)),
        Sample::new(2, list(&[], true)).rejecting(list(&[2], false)),
        Sample::new(3, list(&[1, u64::MAX], false)).rejecting(list(&(100..10_000).collect::<Vec<_>>(), false)),
        Sample::new(u64::MAX, list(&[9], true)),
    ]
}

#[test]
fn dm_check_keeps_the_contract() {
    contract::conforms(DmCheck::default, &dm_samples());
    contract::conforms_by_name(DmCheck::default, &dm_samples());
}

#[test]
fn follower_check_keeps_the_contract() {
    contract::conforms(FollowerCheck::default, &list_samples());
    contract::conforms_by_name(FollowerCheck::default, &list_samples());
}

#[test]
fn following_check_keeps_the_contract() {
    contract::conforms(FollowingCheck::default, &list_samples());
    contract::conforms_by_name(FollowingCheck::default, &list_samples());
}

/// The suite expects what depth and budget let in, not that everything is.
#[test]
fn list_checks_keep_the_contract_whatever_their_depth_and_budget() {
    for (depth, budget) in [(0, u64::MAX), (1, 4), (9, 5)] {
        let policy = Policy { max_depth: depth, max_subjects: budget, ..Policy::default() };
        contract::conforms(|| FollowerCheck::with(policy.clone()), &list_samples());
    }
}

/// A subject with a body and a key of its own make.
#[derive(Clone, Serialize, Deserialize)]
struct Order {
    number: u32,
    dish: String,
}

impl Subject for Order {
    type Key = Number;

    fn key(&self) -> Number {
        Number(self.number)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Number(u32);

impl Key for Number {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self(u32::from_be_bytes(bytes.try_into().ok()?)))
    }
}

struct Kitchen;

impl Service for Kitchen {
    type Subject = Order;
    type Report = Option<String>;

    fn id(&self) -> &'static str {
        "kitchen"
    }

    fn policy(&self) -> Policy {
        let mut policy = Policy::default();
        // Odd but allowed: the suite must get on with it.
        policy.linger = policy.idle * 2;
        policy.leases_in_flight = 1;
        policy
    }

    fn judge(&self, order: &Order, remark: &Option<String>, _: Reporter) -> Verdict {
        if remark.as_deref() == Some(order.dish.as_str()) {
            return Verdict::Reject("not a remark".to_owned());
        }
        Verdict::Accept
    }
}

#[test]
fn a_plugin_with_bodies_and_an_odd_policy_keeps_the_contract() {
    let order = |number, dish: &str| Order { number, dish: dish.to_owned() };
    let samples = [
        Sample::new(order(1, "soup"), None).rejecting(Some("soup".to_owned())),
        Sample::new(order(2, ""), Some("cold".to_owned())),
    ];
    contract::conforms(|| Kitchen, &samples);
    contract::conforms_by_name(|| Kitchen, &samples);
}

/// A plugin over any subject, with one thing wrong: whatever the test puts in.
struct Broken<T> {
    id: String,
    change: fn(&mut Policy),
    judge: fn(u64) -> Verdict,
    discover: fn(&mut Vec<T>),
    category: fn(u64) -> Option<u8>,
    lane: fn() -> Option<LaneKey>,
}

impl<T> Broken<T> {
    fn with(judge: fn(u64) -> Verdict) -> Self {
        Self { id: "broken".to_owned(), change: |_| (), judge, discover: |_| (), category: |_| None, lane: || None }
    }

    fn sound() -> Self {
        Self::with(|report| if report < 100 { Verdict::Accept } else { Verdict::Reject("too much".to_owned()) })
    }

    fn named(id: String) -> Self {
        Self { id, ..Self::sound() }
    }

    fn governed(change: fn(&mut Policy)) -> Self {
        Self { change, ..Self::sound() }
    }

    fn finding(discover: fn(&mut Vec<T>)) -> Self {
        Self { discover, ..Self::sound() }
    }

    fn laning(lane: fn() -> Option<LaneKey>) -> Self {
        Self { lane, ..Self::sound() }
    }

    fn categorizing(category: fn(u64) -> Option<u8>) -> Self {
        Self { category, ..Self::sound() }
    }
}

impl<T: Subject> Service for Broken<T> {
    type Subject = T;
    type Report = u64;

    fn id(&self) -> &str {
        &self.id
    }

    fn policy(&self) -> Policy {
        let mut policy = Policy { max_depth: 1, ..Policy::default() };
        (self.change)(&mut policy);
        policy
    }

    fn judge(&self, _: &T, report: &u64, _: Reporter) -> Verdict {
        (self.judge)(*report)
    }

    fn discover(&self, _: &T, _: &u64, found: &mut Vec<T>) {
        (self.discover)(found);
    }

    fn category(&self, report: &u64) -> Option<u8> {
        (self.category)(*report)
    }

    fn lane(&self, _: &T) -> Option<LaneKey> {
        (self.lane)()
    }
}

/// What the suite says of a plugin.
fn complaint(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("the suite let a broken plugin pass");
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).expect("the suite's panics are sentences")
}

fn samples<T: Subject>(subjects: impl IntoIterator<Item = T>) -> Vec<Sample<Broken<T>>> {
    subjects.into_iter().map(|subject| Sample::new(subject, 7).rejecting(500)).collect()
}

fn expect_complaint<T: Subject>(sentence: &str, make: impl Fn() -> Broken<T>, subjects: impl IntoIterator<Item = T>) {
    let samples = samples(subjects);
    let said = complaint(|| contract::conforms(make, &samples));
    assert!(said.contains(sentence), "expected {sentence:?}, the suite said {said:?}");
}

#[test]
fn the_sound_twin_of_the_broken_plugins_passes() {
    contract::conforms(Broken::sound, &samples([1_u64, 2, 3]));
    contract::conforms_by_name(Broken::sound, &samples([1_u64, 2, 3]));
}

#[test]
fn an_id_with_a_space_is_caught() {
    expect_complaint("id must be 1 to 64 of", || Broken::named("no id".to_owned()), [1_u64]);
}

#[test]
fn an_id_that_changes_with_each_start_is_caught() {
    static STARTS: AtomicU32 = AtomicU32::new(0);
    let make = || Broken::named(format!("start-{}", STARTS.fetch_add(1, Ordering::Relaxed)));
    expect_complaint("id must be the same after a restart", make, [1_u64]);
}

#[test]
fn a_policy_out_of_range_is_caught() {
    let make = || Broken::governed(|policy| policy.bucket_subjects = 0);
    expect_complaint("bucket_subjects must be within its range, but: 1 to 252", make, [1_u64]);
    let make = || Broken::governed(|policy| policy.max_subjects = 0);
    expect_complaint("max_subjects must not be 0", make, [1_u64]);
}

#[test]
fn a_judge_of_changing_mind_is_caught() {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let make = || {
        Broken::with(|report| match ASKED.fetch_add(1, Ordering::Relaxed) % 2 {
            0 if report < 100 => Verdict::Accept,
            count => Verdict::Reject(format!("asked {count} times")),
        })
    };
    expect_complaint("judge must say the same of the same report every time", make, [1_u64]);
}

#[test]
fn a_judge_that_accepts_everything_is_caught() {
    let make = || Broken::with(|_| Verdict::Accept);
    expect_complaint("judge must reject a report that is not acceptable", make, [1_u64]);
}

#[test]
fn a_judge_that_rejects_good_reports_is_caught() {
    let make = || Broken::with(|_| Verdict::Reject("no".to_owned()));
    expect_complaint("judge must accept an acceptable report, but said \"no\"", make, [1_u64]);
}

#[test]
fn a_judge_that_gives_no_reason_is_caught() {
    let make = || Broken::with(|report| if report < 100 { Verdict::Accept } else { Verdict::Reject(String::new()) });
    expect_complaint("a rejection must say why", make, [1_u64]);
}

#[test]
fn a_judge_that_panics_is_caught() {
    let make = || Broken::with(|_| panic!("broken judge"));
    expect_complaint("sample 0 (1): judge must not panic, but: broken judge", make, [1_u64]);
}

#[test]
fn lanes_out_of_order_are_caught() {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let make = || Broken::laning(|| Some(LaneKey::from(ASKED.fetch_add(1, Ordering::Relaxed) % 2)));
    expect_complaint("lane must name the same lane of the same subject every time", make, [1_u64]);
    let make = || Broken::laning(|| Some(LaneKey::from("")));
    expect_complaint("lane must have 1 to 256 bytes, but has 0", make, [1_u64]);
    let make = || Broken::laning(|| panic!("no lane"));
    expect_complaint("sample 0 (1): lane must not panic, but: no lane", make, [1_u64]);
    contract::conforms(|| Broken::laning(|| Some(LaneKey::from("one"))), &samples([1_u64, 2]));
}

#[test]
fn categories_out_of_order_are_caught() {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let make = || Broken::categorizing(|_| u8::try_from(ASKED.fetch_add(1, Ordering::Relaxed) % 2).ok());
    expect_complaint("category must say the same of the same report every time", make, [1_u64]);
    expect_complaint("category must be less than 16, but is Some(16)", || Broken::categorizing(|_| Some(16)), [1_u64]);
    let make = || Broken::categorizing(|_| panic!("no category"));
    expect_complaint("sample 0 (1): category must not panic, but: no category", make, [1_u64]);
    contract::conforms(|| Broken::categorizing(|_| Some(15)), &samples([1_u64]));
}

#[test]
fn a_discovery_that_is_not_repeated_is_caught() {
    static FOUND: AtomicU32 = AtomicU32::new(0);
    let make = || Broken::finding(|found| found.push(u64::from(FOUND.fetch_add(1, Ordering::Relaxed))));
    expect_complaint("discover must find the same subjects", make, [1_u64]);
}

#[test]
fn a_discovery_without_a_key_is_caught() {
    let make = || Broken::finding(|found| found.push(String::new()));
    expect_complaint("discovery 0: a key must have 1 to 256 bytes", make, ["one".to_owned()]);
}

#[test]
fn samples_of_one_subject_are_caught() {
    expect_complaint("the samples must be different subjects", Broken::sound, [1_u64, 2, 1]);
}

#[test]
fn a_key_too_long_is_caught() {
    expect_complaint("a key must have 1 to 256 bytes", Broken::sound, ["x".repeat(257)]);
}

/// A key that forgets its upper half.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Halved(u64);

impl Key for Halved {
    fn write(&self, out: &mut Vec<u8>) {
        let [.., a, b, c, d] = self.0.to_be_bytes();
        out.extend_from_slice(&[a, b, c, d]);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self(u64::from(u32::from_be_bytes(bytes.try_into().ok()?))))
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Wide(u64);

impl Subject for Wide {
    type Key = Halved;

    fn key(&self) -> Halved {
        Halved(self.0)
    }
}

#[test]
fn a_key_that_does_not_come_back_is_caught() {
    expect_complaint("Key::read must be the inverse of Key::write", Broken::sound, [Wide(7), Wide(7 << 32)]);
}

/// Keys that differ but are written alike, and read by luck.
#[derive(Debug, Clone, Eq, Serialize, Deserialize)]
struct Shouted(String);

impl PartialOrd for Shouted {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Shouted {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.to_ascii_uppercase().cmp(&other.0.to_ascii_uppercase())
    }
}

impl std::hash::Hash for Shouted {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_ascii_uppercase().hash(state);
    }
}

impl PartialEq for Shouted {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Key for Shouted {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.to_ascii_uppercase().as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self(std::str::from_utf8(bytes).ok()?.to_owned()))
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Shout(String);

impl Subject for Shout {
    type Key = Shouted;

    fn key(&self) -> Shouted {
        Shouted(self.0.clone())
    }
}

#[test]
fn different_keys_with_equal_bytes_are_caught() {
    let shouts = ["soup".to_owned(), "SOUP".to_owned()].map(Shout);
    expect_complaint("different keys must give different bytes", Broken::sound, shouts);
}

/// A subject that loses its body on the way.
#[derive(Clone, Serialize, Deserialize)]
struct Forgetful {
    number: u64,
    dish: String,
}

impl Subject for Forgetful {
    type Key = u64;

    fn key(&self) -> u64 {
        self.number
    }

    fn write_body(&self, _: &mut Vec<u8>) -> Result<(), String> {
        Ok(())
    }

    fn read(key: &[u8], _: &[u8]) -> Result<Self, String> {
        let number = Key::read(key).ok_or("no key")?;
        Ok(Self { number, dish: String::new() })
    }
}

#[test]
fn a_body_that_does_not_come_back_is_caught() {
    let order = Forgetful { number: 1, dish: "soup".to_owned() };
    expect_complaint("Subject::read must be the inverse of write_body", Broken::sound, [order]);
}

/// A body that overwrites what stands before it.
#[derive(Clone, Serialize, Deserialize)]
struct Rude(u64);

impl Subject for Rude {
    type Key = u64;

    fn key(&self) -> u64 {
        self.0
    }

    fn write_body(&self, out: &mut Vec<u8>) -> Result<(), String> {
        *out = postcard::to_stdvec(self).map_err(|error| error.to_string())?;
        Ok(())
    }
}

#[test]
fn a_body_that_overwrites_is_caught() {
    expect_complaint("write_body must append, not overwrite", Broken::sound, [Rude(1)]);
}

/// A subject that reads its body without looking.
#[derive(Clone, Serialize, Deserialize)]
struct Careless(u64);

impl Subject for Careless {
    type Key = u64;

    fn key(&self) -> u64 {
        self.0
    }

    fn write_body(&self, out: &mut Vec<u8>) -> Result<(), String> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(())
    }

    fn read(_: &[u8], body: &[u8]) -> Result<Self, String> {
        Ok(Self(u64::from_be_bytes(body.try_into().expect("eight bytes"))))
    }
}

#[test]
fn a_subject_that_panics_on_a_damaged_body_is_caught() {
    expect_complaint("Subject::read of a damaged body must not panic", Broken::sound, [Careless(1)]);
}

/// A report whose bytes are others each time it is written.
struct Restless(Cell<u64>);

impl Serialize for Restless {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.set(self.0.get() + 1);
        serializer.serialize_u64(self.0.get())
    }
}

impl<'de> Deserialize<'de> for Restless {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Cell::new(u64::deserialize(deserializer)?)))
    }
}

/// A report that JSON cannot carry back: an absent detail is not written at all.
#[derive(Serialize, Deserialize)]
#[expect(clippy::option_option, reason = "the shape that JSON cannot tell apart is what is tested")]
struct Ambiguous(Option<Option<u8>>);

/// A plugin that accepts any report of one type.
struct Takes<R>(std::marker::PhantomData<fn() -> R>);

impl<R: Serialize + serde::de::DeserializeOwned + Send + Sync + 'static> Service for Takes<R> {
    type Subject = u64;
    type Report = R;

    fn id(&self) -> &'static str {
        "takes"
    }

    fn policy(&self) -> Policy {
        Policy::default()
    }

    fn judge(&self, _: &u64, _: &R, _: Reporter) -> Verdict {
        Verdict::Accept
    }
}

/// `Restless` behind a lock, to be shared.
#[derive(Serialize, Deserialize)]
struct Shared(#[serde(with = "locked")] std::sync::Mutex<Restless>);

mod locked {
    use std::sync::Mutex;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Restless;

    pub(super) fn serialize<S: Serializer>(value: &Mutex<Restless>, serializer: S) -> Result<S::Ok, S::Error> {
        value.lock().expect("nobody panics with it").serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mutex<Restless>, D::Error> {
        Restless::deserialize(deserializer).map(Mutex::new)
    }
}

#[test]
fn a_report_with_changing_bytes_is_caught() {
    let sample = [Sample::new(1, Shared(std::sync::Mutex::new(Restless(Cell::new(0)))))];
    let said = complaint(|| contract::conforms(|| Takes(std::marker::PhantomData), &sample));
    assert!(said.contains("a report must be encoded the same before and after it was stored"), "{said}");
}

#[test]
fn a_report_too_long_is_caught() {
    let sample = [Sample::new(1, vec![1_u8; 65_536])];
    let said = complaint(|| contract::conforms(|| Takes(std::marker::PhantomData), &sample));
    assert!(said.contains("a report must have at most 65536 bytes encoded, but one has 65539"), "{said}");
}

#[test]
fn a_report_that_needs_a_self_describing_format_is_caught() {
    let sample = [Sample::new(1, serde_json::json!({ "a": 1 }))];
    let said = complaint(|| contract::conforms(|| Takes(std::marker::PhantomData), &sample));
    assert!(said.contains("postcard"), "{said}");
}

#[test]
fn a_report_that_json_changes_is_caught_by_name_only() {
    let sample = [Sample::new(1, Ambiguous(Some(None)))];
    contract::conforms(|| Takes(std::marker::PhantomData), &sample);
    let said = complaint(|| contract::conforms_by_name(|| Takes(std::marker::PhantomData), &sample));
    assert!(said.contains("the report does not come back from JSON as it was"), "{said}");
}

#[test]
fn a_suite_without_samples_says_so() {
    let said = complaint(|| contract::conforms(DmCheck::default, &[]));
    assert_eq!(said, "the suite needs at least one sample");
}
