//! The statistics, handed to whoever collects metrics: see [the table of names](crate::docs::metrics).
//!
//! Names are made from the fields' own, so that no field is forgotten; a test holds them to the table.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ::metrics::{Key, Label, Level, Metadata, with_recorder};
use serde_json::{Map, Value};

use crate::hub::Hub;

/// Fields that say what is there now; other numbers only grow.
const GAUGES: [&str; 20] = [
    "active_seats",
    "buckets_dead",
    "buckets_held",
    "buckets_ready",
    "clients",
    "laned_waiting",
    "lanes_ready",
    "lanes_running",
    "panics",
    "pools_alive",
    "quarantined_seats",
    "queued_bytes",
    "store_bytes",
    "subjects_done",
    "subjects_held",
    "subjects_known",
    "subjects_ready",
    "suspect_seats",
    "unmarked",
    "withdrawn",
];

/// From 0 upwards.
const LEVELS: [&str; 3] = ["Healthy", "Suspect", "Quarantined"];

/// Values of one distribution given to the recorder at a time, about; beyond that, one stands for several.
const VALUES: u64 = 10_000;

static METADATA: Metadata<'static> = Metadata::new("commissary", Level::INFO, Some("commissary"));

type Fields = Map<String, Value>;

/// Publishes a hub's statistics through the [`metrics`](https://docs.rs/metrics) facade, to the recorder that the
/// application installed, whenever [`publish`](Self::publish) is called. The names are in [a table](crate::docs::metrics).
///
/// It remembers what it published, so that a counter grows by what is new, and a histogram gets each value once. Keep one for
/// the process, beyond the closing of a hub: when a count has begun anew because the hub was opened again, its counter goes
/// on. It serves one hub at a time: another hub's gauges would have the same names.
///
/// Needs the feature `metrics`.
///
/// # Examples
///
/// ```
/// # let hub = commissary::Hub::builder().open_in_memory(&commissary::MemoryDisk::new())?;
/// let mut exporter = commissary::MetricsExporter::default();
/// // In a thread of the application, as often as its metrics are collected:
/// exporter.publish(&hub);
/// # Ok::<(), commissary::OpenError>(())
/// ```
#[derive(Debug, Default)]
pub struct MetricsExporter {
    watched: BTreeSet<u64>,
    /// The last value of each count.
    counted: HashMap<Key, u64>,
    /// The last count of each bucket of each distribution, by the bucket's least value.
    measured: HashMap<Key, BTreeMap<u64, u64>>,
}

impl MetricsExporter {
    /// Publishes the seats of these clients too, with the labels `service` and `client`. A hub has up to a million clients,
    /// more than a recorder should hold: so only those that are named here. Unknown ones are left out until they register.
    #[must_use]
    pub fn watching(mut self, clients: impl IntoIterator<Item = u64>) -> Self {
        self.watched.extend(clients);
        self
    }

    /// Takes [`Hub::stats`] and hands it to the installed recorder. Install the recorder first: without one, what is new is
    /// gone.
    ///
    /// # Concurrency
    ///
    /// Works on the calling thread, and only there: the recorder holds up no call of the hub. It costs what [`Hub::stats`]
    /// costs, a walk over all seats, and at most about 10,000 values for each histogram: of more new values, evenly chosen
    /// ones stand for the others.
    pub fn publish(&mut self, hub: &Hub) {
        if let Ok(Value::Object(stats)) = serde_json::to_value(hub.stats()) {
            self.hub(stats);
        }
        let watched: Vec<u64> = self.watched.iter().copied().collect();
        for stats in watched.into_iter().filter_map(|id| hub.client_stats(id)) {
            for seat in &stats.seats {
                let labels = [Label::new("service", seat.service.clone()), client_label(stats.id.value())];
                if let Ok(Value::Object(mut fields)) = serde_json::to_value(seat) {
                    // The labels.
                    fields.retain(|name, _| !["service", "client"].contains(&name.as_str()));
                    self.fields("client_", &fields, &labels);
                }
            }
        }
    }

    fn hub(&mut self, mut stats: Fields) {
        // The sum over the services: whoever wants it adds them up.
        stats.remove("work");
        if let Some(Value::Object(storage)) = stats.remove("storage") {
            self.storage(&storage);
        }
        if let Some(Value::Array(services)) = stats.remove("services") {
            for service in services {
                let Value::Object(mut fields) = service else { continue };
                let Some(Value::String(id)) = fields.remove("id") else { continue };
                self.fields("", &fields, &[Label::new("service", id)]);
            }
        }
        self.fields("", &stats, &[]);
    }

    fn fields(&mut self, prefix: &str, fields: &Fields, labels: &[Label]) {
        for (name, value) in fields {
            match (name.as_str(), value) {
                ("faults" | "refused", Value::Object(kinds)) => self.kinds(&format!("{prefix}{name}"), kinds, labels),
                ("work" | "times", Value::Object(fields)) => self.fields(prefix, fields, labels),
                ("state", Value::String(state)) => {
                    let active = if state == "Active" { 1.0 } else { 0.0 };
                    set(&format!("{}active", if prefix.is_empty() { "service_" } else { prefix }), active, labels);
                }
                ("level", Value::String(level)) => {
                    let place = LEVELS.iter().zip([0.0, 1.0, 2.0]).find(|(known, _)| *known == level);
                    set(&format!("{prefix}level"), place.map_or(f64::NAN, |(_, place)| place), labels);
                }
                _ => self.field(&format!("{prefix}{name}"), GAUGES.contains(&name.as_str()), value, labels),
            }
        }
    }

    fn field(&mut self, name: &str, gauge: bool, value: &Value, labels: &[Label]) {
        match value {
            Value::Number(number) if gauge => set(name, number.as_f64().unwrap_or(0.0), labels),
            Value::Number(number) => self.count(name, number.as_u64(), labels.to_vec()),
            Value::Object(fields) if fields.contains_key("resolution") => self.distribution(name, fields, labels),
            Value::Object(fields) => {
                let part = |part| fields.get(part).and_then(Value::as_f64);
                if let (Some(secs), Some(nanos)) = (part("secs"), part("nanos")) {
                    set(&format!("{name}_seconds"), secs + nanos / 1e9, labels);
                }
            }
            // Never, as it is now.
            Value::Null if name == "pool_drain_time" => set(&format!("{name}_seconds"), f64::INFINITY, labels),
            _ => {}
        }
    }

    fn kinds(&mut self, name: &str, kinds: &Fields, labels: &[Label]) {
        for (kind, value) in kinds {
            self.count(name, value.as_u64(), with(labels, "kind", kind));
        }
    }

    fn storage(&mut self, storage: &Fields) {
        for (role, operations) in storage {
            let Value::Object(operations) = operations else { continue };
            for (name, value) in operations {
                match (role.as_str(), name.as_str(), value) {
                    ("journal", "by_kind", Value::Object(kinds)) => self.kinds("journal_records", kinds, &[]),
                    // The sum over the kinds.
                    ("journal", "records", _) => {}
                    ("journal", ..) => self.count(&format!("journal_{name}"), value.as_u64(), Vec::new()),
                    _ => self.count(&format!("store_{name}"), value.as_u64(), with(&[], "role", role)),
                }
            }
        }
    }

    /// Raises a counter by what is new.
    fn count(&mut self, name: &str, value: Option<u64>, labels: Vec<Label>) {
        let key = Key::from_parts(format!("commissary_{name}_total"), labels);
        let value = value.unwrap_or(0);
        let counter = with_recorder(|recorder| recorder.register_counter(&key, &METADATA));
        counter.increment(grown(self.counted.entry(key).or_default(), value));
    }

    /// Gives a histogram the values that are new, each as the middle of its bucket, in seconds.
    fn distribution(&mut self, name: &str, fields: &Fields, labels: &[Label]) {
        let (name, second) = match (name.strip_suffix("_ns"), name.strip_suffix("_ms")) {
            (Some(name), _) => (name, 1e9),
            (_, Some(name)) => (name, 1e3),
            _ => return,
        };
        let key = Key::from_parts(format!("commissary_{name}_seconds"), labels.to_vec());
        let histogram = with_recorder(|recorder| recorder.register_histogram(&key, &METADATA));
        let measured = self.measured.entry(key).or_default();
        let news: Vec<(f64, u64)> = values(fields)
            .map(|(from, middle, count)| (middle / second, grown(measured.entry(from).or_default(), count)))
            .filter(|(_, new)| *new > 0)
            .collect();
        let stands_for = news.iter().map(|(_, new)| new).sum::<u64>().div_ceil(VALUES).max(1);
        for (value, new) in news {
            histogram.record_many(value, usize::try_from(new.div_ceil(stands_for)).unwrap_or(usize::MAX));
        }
    }
}

/// How much a count has grown; all of it if it began anew.
fn grown(last: &mut u64, value: u64) -> u64 {
    let before = std::mem::replace(last, value);
    value.checked_sub(before).unwrap_or(value)
}

/// The buckets of a distribution: least value, the value that stands for it, count.
#[expect(clippy::cast_precision_loss, reason = "the middle of a bucket")]
fn values(distribution: &Fields) -> impl Iterator<Item = (u64, f64, u64)> + '_ {
    let of = |fields: &Value, name| fields.get(name).and_then(Value::as_u64).unwrap_or(0);
    let total = |name| distribution.get(name).and_then(Value::as_u64).unwrap_or(0);
    let (least, most) = (total("min"), total("max"));
    let buckets = distribution.get("buckets").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    buckets.iter().enumerate().map(move |(index, bucket)| {
        let (from, width) = (of(bucket, "from"), of(bucket, "width"));
        // The last one also holds what lies beyond it.
        let beyond = index + 1 == buckets.len() && most >= from + width;
        let middle = if beyond { most } else { from + width / 2 };
        // Not `clamp`: it panics if a value came between reading the bounds.
        (from, middle.min(most).max(least) as f64, of(bucket, "count"))
    })
}

fn client_label(id: u64) -> Label {
    Label::new("client", id.to_string())
}

fn with(labels: &[Label], name: &'static str, value: &str) -> Vec<Label> {
    let mut labels = labels.to_vec();
    labels.push(Label::new(name, value.to_owned()));
    labels
}

fn set(name: &str, value: f64, labels: &[Label]) {
    let key = Key::from_parts(format!("commissary_{name}"), labels.to_vec());
    with_recorder(|recorder| recorder.register_gauge(&key, &METADATA)).set(value);
}
