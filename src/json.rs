//! The erased twin of a plugin, and access by name with JSON bodies, for applications that put a network in front.

use std::any::{Any, TypeId};
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::claim::{Ask, Claim, Empty, EmptyReason};
use crate::client::{Capability, Client};
use crate::commit::Decision;
use crate::error::{ActivateError, AddError, ClaimError, HubError, JsonError, KeysError, LeaseError};
use crate::history;
use crate::house::House;
use crate::id::LeaseToken;
use crate::intake;
use crate::keys;
use crate::lane::{LaneKey, LaneView, encode_json_state};
use crate::lane_status::{self, LaneQueue};
use crate::lease::{LeaseView, Submitted};
use crate::lists;
use crate::people::SeatCore;
use crate::registry::ServiceCore;
use crate::results;
use crate::seat::Seat;
use crate::service::{Service, ServiceState, Subject, contain};
use crate::sync::Arc;
use crate::ticket::Ticket;

/// Elements of a page if nothing else is asked for, and at most.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;

/// What the hub can ask of a plugin without knowing its types. Implemented for every [`Service`].
pub(crate) trait Plugin: Send + Sync {
    /// True if the stored subject decodes; those that do not are not handed out.
    fn reads(&self, key: &[u8], body: &[u8]) -> bool;
    fn plugin_type(&self) -> TypeId;
    fn as_any(&self) -> &(dyn Any + Send + Sync);
    fn add_json(&self, service: &Arc<ServiceCore>, body: &[u8]) -> Result<Ticket, JsonError>;
    fn keys_json(&self, service: &ServiceCore, decision: Decision, body: &[u8]) -> Result<Ticket, JsonError>;
    fn result_json(&self, house: &House, core: &ServiceCore, key: &[u8]) -> Result<Option<Value>, JsonError>;
    fn history_json(&self, house: &House, core: &ServiceCore, key: &[u8]) -> Result<Value, JsonError>;
    fn as_of_json(&self, house: &House, core: &ServiceCore, body: &[u8]) -> Result<Option<Value>, JsonError>;
    fn results_by_json(&self, house: &House, core: &ServiceCore, body: &[u8]) -> Result<Value, JsonError>;
    fn unmarked_json(&self, house: &House, core: &ServiceCore, body: &[u8]) -> Result<Value, JsonError>;
    fn claim_json(&self, seat: &NamedSeat, ask: Ask) -> Result<Value, JsonError>;
    fn submit_json(&self, seat: &NamedSeat, body: &[u8], last: bool) -> Result<(Value, Ticket), JsonError>;
    fn leases_json(&self, seat: &NamedSeat) -> Result<Value, JsonError>;
}

/// `{"token": "...", "reports": [[key, report], ...], "state": ...}`; `state` is optional
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubmitBody<K, R> {
    token: LeaseToken,
    reports: Vec<(K, R)>,
    /// A lane's; null is one.
    #[serde(default, deserialize_with = "given")]
    state: Option<Value>,
}

fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// `{"buckets": 2, "subjects": 100, "time_ms": 60000}`, all optional
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskBody {
    buckets: Option<u32>,
    subjects: Option<usize>,
    time_ms: Option<u64>,
}

/// `{"token": "..."}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenBody {
    token: LeaseToken,
}

/// `{"key": key, "moment": "2024-01-31T12:00:00Z"}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AsOfBody<K> {
    key: K,
    moment: DateTime<Utc>,
}

/// `{"client": 7, "from": "...", "to": "...", "after": key, "limit": 100}`; `after` and `limit` are optional
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResultsByBody<K> {
    client: u64,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    after: Option<K>,
    limit: Option<usize>,
}

/// `{"after": key, "limit": 100}`, both optional
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageBody<K> {
    after: Option<K>,
    limit: Option<usize>,
}

/// A lane's key: text, or its bytes
#[derive(Deserialize)]
#[serde(untagged)]
enum LaneBody {
    Text(String),
    Bytes(Vec<u8>),
}

/// Elements of a page: what was asked for, at most.
fn page_limit(limit: Option<usize>) -> usize {
    limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX)
}

impl<S: Service> Plugin for S {
    fn reads(&self, key: &[u8], body: &[u8]) -> bool {
        contain(|| S::Subject::read(key, body).is_ok()).unwrap_or(false)
    }

    fn plugin_type(&self) -> TypeId {
        TypeId::of::<S>()
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn add_json(&self, service: &Arc<ServiceCore>, body: &[u8]) -> Result<Ticket, JsonError> {
        let subjects: Vec<S::Subject> = serde_json::from_slice(body)?;
        Ok(intake::send::<S>(service, &subjects)?)
    }

    fn keys_json(&self, service: &ServiceCore, decision: Decision, body: &[u8]) -> Result<Ticket, JsonError> {
        let keys: Vec<<S::Subject as Subject>::Key> = serde_json::from_slice(body)?;
        Ok(keys::send(&service.link, service.id, decision, &keys)?)
    }

    fn result_json(&self, house: &House, core: &ServiceCore, key: &[u8]) -> Result<Option<Value>, JsonError> {
        let key: <S::Subject as Subject>::Key = serde_json::from_slice(key)?;
        let finding = results::one::<S>(house.store.as_ref(), core, &key)?;
        Ok(finding.map(serde_json::to_value).transpose()?)
    }

    fn history_json(&self, house: &House, core: &ServiceCore, key: &[u8]) -> Result<Value, JsonError> {
        let key: <S::Subject as Subject>::Key = serde_json::from_slice(key)?;
        Ok(serde_json::to_value(history::history::<S>(house.store.as_ref(), core, &key)?)?)
    }

    fn as_of_json(&self, house: &House, core: &ServiceCore, body: &[u8]) -> Result<Option<Value>, JsonError> {
        let body: AsOfBody<<S::Subject as Subject>::Key> = serde_json::from_slice(body)?;
        let version = history::as_of::<S>(house.store.as_ref(), core, &body.key, body.moment)?;
        Ok(version.map(serde_json::to_value).transpose()?)
    }

    fn results_by_json(&self, house: &House, core: &ServiceCore, body: &[u8]) -> Result<Value, JsonError> {
        let body: ResultsByBody<<S::Subject as Subject>::Key> = serde_json::from_slice(body)?;
        let (window, limit) = (body.from..body.to, page_limit(body.limit));
        let (store, after) = (house.store.as_ref(), body.after.as_ref());
        let (versions, next) = history::by_client::<S>(store, core, body.client, &window, after, limit)?;
        Ok(json!({ "versions": serde_json::to_value(versions)?, "next": serde_json::to_value(next)? }))
    }

    fn unmarked_json(&self, house: &House, core: &ServiceCore, body: &[u8]) -> Result<Value, JsonError> {
        let body: PageBody<<S::Subject as Subject>::Key> = serde_json::from_slice(body)?;
        let (store, limit) = (house.store.as_ref(), page_limit(body.limit));
        let (subjects, next) = lists::unmarked::<S>(store, core, body.after.as_ref(), limit)?;
        Ok(json!({ "subjects": serde_json::to_value(subjects)?, "next": serde_json::to_value(next)? }))
    }

    fn claim_json(&self, seat: &NamedSeat, ask: Ask) -> Result<Value, JsonError> {
        let grant = match seat.typed::<S>().claim(ask)? {
            Claim::Empty(empty) => return Ok(json!({ "empty": empty_json(empty) })),
            Claim::Leased(grant) => grant,
        };
        let (limit, clamped) = (grant.limit, grant.clamped);
        // All are encoded while the guards still hold the buckets: a subject that breaks the encoder gives all of them back.
        let mut encoded = Vec::new();
        for lease in grant.leases() {
            encoded.push(serde_json::to_value(lease.owed().collect::<Vec<_>>())?);
        }
        let leases = grant.into_iter().zip(encoded);
        let leases = leases.map(|(lease, subjects)| {
            let lane = lease.lane();
            with_lane(json!({ "token": lease.into_token(), "subjects": subjects }), lane.as_ref())
        });
        let leases: Vec<Value> = leases.collect();
        Ok(json!({ "leases": leases, "limit": limit, "clamped": clamped }))
    }

    fn submit_json(&self, seat: &NamedSeat, body: &[u8], last: bool) -> Result<(Value, Ticket), JsonError> {
        let body: SubmitBody<<S::Subject as Subject>::Key, S::Report> = serde_json::from_slice(body)?;
        let state = body.state.as_ref().map(encode_json_state);
        let submitted = seat.typed::<S>().hand_in(&body.token, body.reports, state, last)?;
        let Submitted { outcomes, ticket, put_back, kept, expired } = submitted;
        let mut answer = json!({ "outcomes": outcomes, "put_back": put_back, "kept": kept });
        if let Some(fields) = answer.as_object_mut().filter(|_| expired > 0) {
            fields.insert("expired".to_owned(), expired.into());
        }
        Ok((answer, ticket))
    }

    fn leases_json(&self, seat: &NamedSeat) -> Result<Value, JsonError> {
        let views: Vec<LeaseView<S>> = seat.typed::<S>().leases()?;
        let mut leases = Vec::new();
        for view in views {
            let time_left_ms = u64::try_from(view.time_left.as_millis()).unwrap_or(u64::MAX);
            let subjects = serde_json::to_value(view.subjects)?;
            let lease = json!({
                "token": view.token, "subjects": subjects, "time_left_ms": time_left_ms, "dead": view.dead
            });
            leases.push(with_lane(lease, view.lane.as_ref()));
        }
        Ok(json!({ "leases": leases }))
    }
}

/// A lease as it is told by name: with its lane, if it runs one.
fn with_lane(mut lease: Value, lane: Option<&LaneView>) -> Value {
    if let (Some(lane), Some(fields)) = (lane, lease.as_object_mut()) {
        fields.insert("lane".to_owned(), lane.json());
    }
    lease
}

fn empty_json(empty: Empty) -> Value {
    let retry_after_ms = u64::try_from(empty.retry_after.as_millis()).unwrap_or(u64::MAX);
    let reason = match empty.reason {
        EmptyReason::NothingPending => "nothing_pending",
        EmptyReason::AllLeased { .. } => "all_leased",
        EmptyReason::NotYetFormed => "not_yet_formed",
        EmptyReason::QuotaFull => "quota_full",
        EmptyReason::Paused => "paused",
        EmptyReason::Cooldown => "cooldown",
    };
    json!({ "reason": reason, "retry_after_ms": retry_after_ms })
}

/// A service found by its name. All bodies are JSON; what they hold is the plugin's subject, key and report types as
/// serde writes them.
///
/// # Concurrency
///
/// As the typed handles: the calls on leases are lock-free but for the parsing and building of JSON.
#[derive(Clone)]
pub struct NamedService {
    house: Arc<House>,
    core: Arc<ServiceCore>,
}

impl fmt::Debug for NamedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NamedService").field(&self.core.name).finish()
    }
}

impl NamedService {
    pub(crate) fn new(house: Arc<House>, core: Arc<ServiceCore>) -> Self {
        Self { house, core }
    }

    /// The service's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.core.name
    }

    /// Where the service is in its life; a hint, each call looks again.
    #[must_use]
    pub fn state(&self) -> ServiceState {
        self.core.state()
    }

    /// Takes in subjects: a JSON array of them, as one change.
    ///
    /// # Errors
    ///
    /// [`JsonError`]; nothing was taken in.
    pub fn add(&self, body: &[u8]) -> Result<Ticket, JsonError> {
        self.measure(body)?;
        self.core.plugin.add_json(&self.core, body)
    }

    /// Opens a new round for subjects that are done: a JSON array of keys. See
    /// [`ServiceHandle::rerun`](crate::ServiceHandle::rerun).
    ///
    /// # Errors
    ///
    /// [`JsonError`]; no round was opened.
    pub fn rerun(&self, body: &[u8]) -> Result<Ticket, JsonError> {
        self.decide(Decision::Rerun, body)
    }

    /// Puts subjects to work that were discovered too deep for it: a JSON array of keys. See
    /// [`ServiceHandle::mark`](crate::ServiceHandle::mark).
    ///
    /// # Errors
    ///
    /// [`JsonError`]; none was marked.
    pub fn mark(&self, body: &[u8]) -> Result<Ticket, JsonError> {
        self.decide(Decision::Mark, body)
    }

    /// Deletes subjects: a JSON array of keys. See [`ServiceHandle::delete`](crate::ServiceHandle::delete).
    ///
    /// # Errors
    ///
    /// [`JsonError`]; none was deleted.
    pub fn delete(&self, body: &[u8]) -> Result<Ticket, JsonError> {
        self.decide(Decision::Delete, body)
    }

    fn decide(&self, decision: Decision, body: &[u8]) -> Result<Ticket, JsonError> {
        self.measure(body)?;
        self.core.plugin.keys_json(&self.core, decision, body)
    }

    /// The result of one subject, given its key as JSON:
    /// `{"key", "report", "client", "at", "since", "confirmed_at", "version", "depth", "position"}`.
    ///
    /// # Errors
    ///
    /// [`JsonError`].
    pub fn result(&self, key: &[u8]) -> Result<Option<Value>, JsonError> {
        self.measure(key)?;
        self.core.plugin.result_json(&self.house, &self.core, key)
    }

    /// Every version of one subject's result, given its key as JSON: an array of `{"key", "number", "round", "report",
    /// "client", "at", "position", "bucket", "confirms", "confirmed_at", "superseded_at", "withdrawn"}`, in journal order.
    ///
    /// # Errors
    ///
    /// [`JsonError`].
    pub fn history(&self, key: &[u8]) -> Result<Value, JsonError> {
        self.measure(key)?;
        self.core.plugin.history_json(&self.house, &self.core, key)
    }

    /// What held on a subject at a moment: `{"key", "moment"}`, the moment as in RFC 3339. One version as in
    /// [`history`](Self::history). See [`ServiceHandle::as_of`](crate::ServiceHandle::as_of).
    ///
    /// # Errors
    ///
    /// [`JsonError`].
    pub fn as_of(&self, body: &[u8]) -> Result<Option<Value>, JsonError> {
        self.measure(body)?;
        self.core.plugin.as_of_json(&self.house, &self.core, body)
    }

    /// A page of what a client reported within a window: `{"client", "from", "to", "after", "limit"}`, the last two optional
    /// (from the start; 100, and at most 1,000). Answers `{"versions", "next"}`: versions as in [`history`](Self::history),
    /// and the key to go on from, null at the end. See [`ServiceHandle::results_by`](crate::ServiceHandle::results_by).
    ///
    /// # Errors
    ///
    /// [`JsonError`].
    pub fn results_by(&self, body: &[u8]) -> Result<Value, JsonError> {
        self.measure(body)?;
        self.core.plugin.results_by_json(&self.house, &self.core, body)
    }

    /// A page of subjects that are known and not marked for work: `{"after", "limit"}`, both optional (from the start; 100,
    /// and at most 1,000). Answers `{"subjects", "next"}`: subjects, and the key to go on from, null at the end. See
    /// [`ServiceHandle::unmarked`](crate::ServiceHandle::unmarked).
    ///
    /// # Errors
    ///
    /// [`JsonError`].
    pub fn unmarked(&self, body: &[u8]) -> Result<Value, JsonError> {
        self.measure(body)?;
        self.core.plugin.unmarked_json(&self.house, &self.core, body)
    }

    /// A lane, given its key as a JSON string or an array of its bytes: `{"key", "version", "owed", "wait_ms", "position", "age_ms", "state"}`,
    /// key and state as in [`NamedSeat::claim`]. See [`ServiceHandle::lane`](crate::ServiceHandle::lane).
    ///
    /// # Errors
    ///
    /// [`JsonError`].
    pub fn lane(&self, key: &[u8]) -> Result<Option<Value>, JsonError> {
        self.measure(key)?;
        let key = match serde_json::from_slice(key)? {
            LaneBody::Text(text) => LaneKey::from(text),
            LaneBody::Bytes(bytes) => LaneKey::from(bytes),
        };
        Ok(lane_status::read(&self.house, &self.core, &key)?.map(|lane| lane.json()))
    }

    /// The lanes whose fronts wait longest, longest first: an array of `{"key", "waiting", "wait_ms", "running"}`. See
    /// [`ServiceHandle::lanes`](crate::ServiceHandle::lanes).
    #[must_use]
    pub fn lanes(&self, limit: usize) -> Value {
        lane_status::longest(&self.core, limit).iter().map(LaneQueue::json).collect()
    }

    /// Activates a client for the service.
    ///
    /// # Errors
    ///
    /// [`ActivateError`]; no record was made.
    pub fn activate(&self, client: &Client, capability: Capability) -> Result<NamedSeat, ActivateError> {
        let core = client.activate_core(&self.core, capability)?;
        Ok(NamedSeat { house: Arc::clone(&self.house), core })
    }

    fn measure(&self, body: &[u8]) -> Result<(), JsonError> {
        measure(&self.core, body)
    }
}

fn measure(core: &ServiceCore, body: &[u8]) -> Result<(), JsonError> {
    let limit = core.link.limits.json_bytes;
    if body.len() > limit { Err(JsonError::TooLarge { bytes: body.len(), limit }) } else { Ok(()) }
}

/// A seat at a service found by its name. Leases are known by their tokens alone.
#[derive(Clone)]
pub struct NamedSeat {
    house: Arc<House>,
    core: Arc<SeatCore>,
}

impl fmt::Debug for NamedSeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}

impl NamedSeat {
    fn typed<S: Service>(&self) -> Seat<S> {
        Seat::new(&self.house, Arc::clone(&self.core))
    }

    /// The first check of every call, before the body is looked at.
    fn identify<E: From<HubError>>(&self, not_registered: E) -> Result<(), E> {
        self.core.service.link.check()?;
        if self.core.client.is_registered() {
            return Ok(());
        }
        Err(not_registered)
    }

    fn parse<'a, T: Deserialize<'a>>(&self, body: &'a [u8]) -> Result<T, JsonError> {
        let parsed = measure(&self.core.service, body).and_then(|()| Ok(serde_json::from_slice(body)?));
        parsed.inspect_err(|error| self.core.count_body(error))
    }

    fn submit_json(&self, body: &[u8], last: bool) -> Result<(Value, Ticket), JsonError> {
        let measured = measure(&self.core.service, body);
        let submitted = measured.and_then(|()| self.core.service.plugin.submit_json(self, body, last));
        submitted.inspect_err(|error| self.core.count_body(error))
    }

    /// Claims buckets: `{"buckets": 2, "subjects": 100, "time_ms": 60000}`, each optional. Answers
    /// `{"leases": [{"token", "subjects"}], "limit", "clamped"}` or `{"empty": {"reason", "retry_after_ms"}}`.
    ///
    /// A lease of a lane has a `"lane": {"key", "version", "reported", "state"}`: the key as text, or as an array of
    /// its bytes if it is none; how many of the subjects were reported before; and the state, null if there is none. A state that a typed
    /// call stored is told as `{"postcard": "<hexadecimal digits>"}`. See [`LaneView`].
    ///
    /// # Errors
    ///
    /// [`JsonError`]; no bucket moved.
    pub fn claim(&self, body: &[u8]) -> Result<Value, JsonError> {
        self.identify(ClaimError::NotRegistered).inspect_err(|error| self.core.count_claim(error))?;
        let body: AskBody = self.parse(body)?;
        let mut ask = Ask::buckets(body.buckets.unwrap_or(1));
        if let Some(subjects) = body.subjects {
            ask = ask.subjects(subjects);
        }
        if let Some(time_ms) = body.time_ms {
            ask = ask.time(Duration::from_millis(time_ms));
        }
        self.core.service.plugin.claim_json(self, ask)
    }

    /// Reports and gives back the rest: `{"token", "reports": [[key, report], ...]}`. Answers
    /// `{"outcomes", "put_back", "kept"}`, and the ticket. On a lease of a lane a `"state"` may be given, any JSON, which is
    /// stored with the reports; see [`Lease::submit_lane`](crate::Lease::submit_lane). Where commands whose deadline had passed
    /// ended with the call, `"expired"` is their number.
    ///
    /// # Errors
    ///
    /// [`JsonError`]; nothing was stored.
    pub fn submit(&self, body: &[u8]) -> Result<(Value, Ticket), JsonError> {
        self.identify(LeaseError::NotRegistered).inspect_err(|error| self.core.count_call(error))?;
        self.submit_json(body, true)
    }

    /// Reports and keeps the rest; otherwise as [`submit`](Self::submit).
    ///
    /// # Errors
    ///
    /// [`JsonError`]; nothing was stored.
    pub fn report(&self, body: &[u8]) -> Result<(Value, Ticket), JsonError> {
        self.identify(LeaseError::NotRegistered).inspect_err(|error| self.core.count_call(error))?;
        self.submit_json(body, false)
    }

    /// Renews a lease: `{"token"}`. Answers `{"time_left_ms"}`.
    ///
    /// # Errors
    ///
    /// [`JsonError`].
    pub fn renew(&self, body: &[u8]) -> Result<Value, JsonError> {
        self.identify(LeaseError::NotRegistered).inspect_err(|error| self.core.count_call(error))?;
        let body: TokenBody = self.parse(body)?;
        let seat: Seat<Untyped> = self.typed();
        let left = seat.renew(&body.token)?;
        Ok(json!({ "time_left_ms": u64::try_from(left.as_millis()).unwrap_or(u64::MAX) }))
    }

    /// Gives a lease back: `{"token"}`. Answers `{"put_back"}`.
    ///
    /// # Errors
    ///
    /// [`JsonError`].
    pub fn release(&self, body: &[u8]) -> Result<Value, JsonError> {
        self.identify(LeaseError::NotRegistered).inspect_err(|error| self.core.count_call(error))?;
        let body: TokenBody = self.parse(body)?;
        let seat: Seat<Untyped> = self.typed();
        let put_back = seat.release(&body.token)?;
        Ok(json!({ "put_back": put_back }))
    }

    /// What the client holds: `{"leases": [{"token", "subjects", "time_left_ms", "dead"}]}`, and of lanes a `"lane"` as in
    /// [`claim`](Self::claim).
    ///
    /// # Errors
    ///
    /// [`JsonError`].
    pub fn leases(&self) -> Result<Value, JsonError> {
        self.core.service.plugin.leases_json(self)
    }
}

/// Stands in for the plugin's types where none of them is touched.
enum Untyped {}

impl Service for Untyped {
    type Subject = u64;
    type Report = ();

    fn id(&self) -> &str {
        match *self {}
    }

    fn policy(&self) -> crate::service::Policy {
        match *self {}
    }

    fn judge(&self, _: &u64, (): &(), _: crate::service::Reporter) -> crate::service::Verdict {
        match *self {}
    }
}

impl JsonError {
    /// True if the same call may succeed later without anyone's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let hub = match self {
            Self::Add(AddError::Hub { source, .. }) => Some(source),
            Self::Keys(KeysError::Hub(hub))
            | Self::Claim(ClaimError::Hub(hub))
            | Self::Lease(LeaseError::Hub(hub))
            | Self::Activate(ActivateError::Hub(hub)) => Some(hub),
            _ => None,
        };
        hub.is_some_and(crate::error::HubError::is_transient)
    }
}
