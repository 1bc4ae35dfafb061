//! The statistics as metrics: what a recorder of the application is told.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use commissary::{Ask, Hub, ManualClock, MemoryDisk, MetricsExporter, Registration};
use common::{Plain, Shop, claim, claim_one, report_all, reports};
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use serde_json::Value;

#[derive(Default)]
struct Values(Mutex<Vec<f64>>);

impl HistogramFn for Values {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

type Kept<T> = Mutex<BTreeMap<String, Arc<T>>>;

/// Keeps whatever it is told, by name and labels.
#[derive(Default)]
struct Book {
    counters: Kept<AtomicU64>,
    gauges: Kept<AtomicU64>,
    histograms: Kept<Values>,
}

impl Recorder for Book {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(of(&self.counters, key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(of(&self.gauges, key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(of(&self.histograms, key))
    }
}

fn of<T: Default>(kept: &Kept<T>, key: &Key) -> Arc<T> {
    let labels: Vec<_> = key.labels().map(|label| (label.key().to_owned(), label.value().to_owned())).collect();
    Arc::clone(kept.lock().unwrap().entry(named(key.name(), &labels)).or_default())
}

fn named(name: &str, labels: &[(String, String)]) -> String {
    let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
    format!("{name}{{{}}}", labels.join(","))
}

impl Book {
    fn publish(&self, exporter: &mut MetricsExporter, hub: &Hub) {
        metrics::with_local_recorder(self, || exporter.publish(hub));
    }

    fn counter(&self, name: &str) -> u64 {
        let counters = self.counters.lock().unwrap();
        counters.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", counters.keys())).load(Ordering::SeqCst)
    }

    /// The values of a histogram, ascending.
    fn values(&self, name: &str) -> Vec<f64> {
        let histograms = self.histograms.lock().unwrap();
        let values = histograms.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", histograms.keys()));
        let mut values = values.0.lock().unwrap().clone();
        values.sort_by(f64::total_cmp);
        values
    }

    /// What was told: kind and value of each name.
    fn told(&self) -> BTreeMap<String, String> {
        let mut told = BTreeMap::new();
        for (name, value) in self.counters.lock().unwrap().iter() {
            told.insert(name.clone(), format!("counter {}", value.load(Ordering::SeqCst)));
        }
        for (name, value) in self.gauges.lock().unwrap().iter() {
            told.insert(name.clone(), format!("gauge {}", f64::from_bits(value.load(Ordering::SeqCst))));
        }
        for (name, values) in self.histograms.lock().unwrap().iter() {
            told.insert(name.clone(), format!("histogram {}", values.0.lock().unwrap().len()));
        }
        told
    }
}

/// One number of the statistics: its path as the table has it, its labels, itself.
type Leaf = (String, Vec<(String, String)>, Value);

/// What is not published: sums of what is, names that are labels, moments.
const LEFT_OUT: &[&str] = &[
    "work.",
    "services.id",
    "storage.journal.records",
    "seats.client",
    "seats.service",
    "seats.first_activated",
    "seats.last_activated",
    "seats.last_access",
    "seats.why",
];

fn leaves(path: &str, labels: &[(String, String)], value: &Value, found: &mut Vec<Leaf>) {
    let with = |label: &str, value: &str| [labels, &[(label.to_owned(), value.to_owned())]].concat();
    match value {
        Value::Object(fields) if !fields.contains_key("resolution") && !fields.contains_key("nanos") => {
            for (name, field) in fields {
                let role = path == "storage" && name != "journal";
                if ["faults", "refused", "by_kind"].iter().any(|kinds| path.ends_with(kinds)) {
                    leaves(&format!("{path}.<kind>"), &with("kind", name), field, found);
                } else if role {
                    leaves("storage.<role>", &with("role", name), field, found);
                } else {
                    leaves(&format!("{path}.{name}"), labels, field, found);
                }
            }
        }
        Value::Array(services) => {
            for service in services {
                leaves(path, &with("service", service["id"].as_str().unwrap()), service, found);
            }
        }
        _ => found.push((path.trim_start_matches('.').to_owned(), labels.to_vec(), value.clone())),
    }
}

/// Every number of the hub's statistics, and of the seats of one client.
fn every_leaf(hub: &Hub, client: u64) -> Vec<Leaf> {
    let mut found = Vec::new();
    let stats = serde_json::to_value(hub.stats()).unwrap();
    for (name, value) in stats.as_object().unwrap() {
        leaves(name, &[], value, &mut found);
    }
    for seat in &hub.client_stats(client).unwrap().seats {
        let labels = [("service".to_owned(), seat.service.clone()), ("client".to_owned(), client.to_string())];
        leaves("seats", &labels, &serde_json::to_value(seat).unwrap(), &mut found);
    }
    found.retain(|(path, ..)| !LEFT_OUT.iter().any(|out| path == out || (out.ends_with('.') && path.starts_with(out))));
    found
}

/// The documented table: the name and kind for each statistic.
fn table() -> BTreeMap<String, (String, String)> {
    let rows = include_str!("../src/docs/metrics.md").lines().filter(|line| line.starts_with("| `commissary_"));
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect::<Vec<_>>();
    rows.map(cells)
        .map(|cells| (cells[4].split('`').next().unwrap().to_owned(), (cells[1].clone(), cells[2].clone())))
        .collect()
}

/// What a metric of this kind says if the statistic is this.
fn said(kind: &str, value: &Value) -> String {
    match (kind, value) {
        ("histogram", of) => format!("histogram {}", of["count"]),
        ("gauge", Value::Null) => "gauge inf".to_owned(),
        ("gauge", Value::String(level)) if level == "Healthy" => "gauge 0".to_owned(),
        ("gauge", Value::String(state)) => format!("gauge {}", u8::from(state == "Active")),
        ("gauge", Value::Object(of)) => {
            let [secs, nanos] = ["secs", "nanos"].map(|part| of[part].as_f64().unwrap());
            format!("gauge {}", secs + nanos / 1e9)
        }
        (kind, of) => format!("{kind} {of}"),
    }
}

/// What the table promises to be told of a hub.
fn promised(hub: &Hub, client: u64) -> BTreeMap<String, String> {
    let table = table();
    let mut promised = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (path, labels, value) in every_leaf(hub, client) {
        let (name, kind) = table.get(&path).unwrap_or_else(|| panic!("{path} is not in the table"));
        seen.insert(path);
        promised.insert(named(name, &labels), said(kind, &value));
    }
    let unseen: Vec<_> = table.keys().filter(|path| !seen.contains(*path)).collect();
    assert!(unseen.is_empty(), "in the table, but no statistic: {unseen:?}");
    promised
}

/// A shop where much has happened: work done, dead, put back and held, faults, refusals.
fn busy_shop() -> (Shop, commissary::ServiceHandle<Plain>, commissary::Seat<Plain>) {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let _other = shop.hub.register(Plain::new("other")).unwrap();
    let seat = shop.seat(&service, 1);
    shop.seat(&service, 2);
    shop.stock(&service, 400);
    let leases = [claim_one(&seat), claim_one(&seat), claim_one(&seat)];
    shop.pass(Duration::from_millis(6));
    report_all(&leases[0]);
    shop.tick();
    seat.claim(Ask::buckets(0)).unwrap_err();
    let _ = leases[1].report([(999, "ok".to_owned())]).unwrap();
    let [_, put_back, held] = leases;
    drop(put_back);
    shop.pass(Duration::from_secs(1));
    let _ = held.into_token();
    (shop, service, seat)
}

/// R18: every statistic is published under the name and as the kind that the documented table gives it, with its value, and
/// nothing else is; of the clients' seats, those that are watched. Nothing is told but when the application asks for it.
#[test]
fn every_statistic_is_published_as_the_table_says() {
    let book = Book::default();
    let mut exporter = MetricsExporter::default().watching([1, 77]);
    let (shop, _service, seat) = metrics::with_local_recorder(&book, busy_shop);
    assert_eq!(book.told(), BTreeMap::new());
    book.publish(&mut exporter, &shop.hub);
    let told = book.told();
    assert_eq!(told, promised(&shop.hub, 1));
    // The table is not checked against itself alone.
    for (name, value) in [
        ("commissary_buckets_assigned_total{service=plain}", "counter 3"),
        ("commissary_buckets_assigned_total{service=other}", "counter 0"),
        ("commissary_buckets_held{service=plain}", "gauge 1"),
        ("commissary_subjects_known{service=plain}", "gauge 400"),
        ("commissary_service_active{service=other}", "gauge 1"),
        ("commissary_longest_wait_seconds{service=plain}", "gauge 0.101"),
        ("commissary_faults_total{service=plain,kind=not_in_bucket}", "counter 1"),
        ("commissary_client_refused_total{service=plain,client=1,kind=nothing}", "counter 1"),
        ("commissary_clients{}", "gauge 2"),
        ("commissary_register_seconds{}", "histogram 2"),
        ("commissary_journal_records_total{kind=leased}", "counter 3"),
    ] {
        assert_eq!(told.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!told.keys().any(|name| name.contains("client=2") || name.contains("client=77")));
    assert_eq!(book.values("commissary_turnaround_seconds{service=plain}"), [0.006]);

    // Later ones follow: counters by what is new, each value once.
    let lease = claim_one(&seat);
    shop.pass(Duration::from_millis(9));
    report_all(&lease);
    shop.tick();
    for _ in 0..2 {
        book.publish(&mut exporter, &shop.hub);
        assert_eq!(book.told(), promised(&shop.hub, 1));
        assert_eq!(book.counter("commissary_buckets_assigned_total{service=plain}"), 4);
        assert_eq!(book.values("commissary_turnaround_seconds{service=plain}"), [0.006, 0.009]);
    }
}

/// R18: when the hub is opened again in the same process, counters go on: those of what survives a restart by what is new,
/// those of what is counted since the opening by all of it.
#[test]
fn counters_only_grow_when_the_hub_is_opened_again() {
    let book = Book::default();
    let mut exporter = MetricsExporter::default();
    let (shop, service, seat) = busy_shop();
    seat.claim(Ask::buckets(0)).unwrap_err();
    book.publish(&mut exporter, &shop.hub);
    let before: BTreeMap<String, u64> = counters(&book);
    drop((service, seat));
    let shop = shop.restart();
    let service = shop.hub.register(Plain::new("plain")).unwrap();
    let seat = shop.seat(&service, 1);
    shop.settle();
    seat.claim(Ask::buckets(0)).unwrap_err();
    let _lease = claim_one(&seat);
    shop.tick();
    book.publish(&mut exporter, &shop.hub);
    let after = counters(&book);
    let shrunk: Vec<_> = before.iter().filter(|(name, value)| after[*name] < **value).collect();
    assert!(shrunk.is_empty(), "{shrunk:?}");
    let grown = |name: &str| after[name] - before[name];
    assert_eq!(grown("commissary_buckets_assigned_total{service=plain}"), 1);
    assert_eq!(grown("commissary_subjects_reported_total{service=plain}"), 0);
    assert_eq!(grown("commissary_refused_total{service=plain,kind=nothing}"), 1, "2 before, 1 now");
    assert_eq!(grown("commissary_journal_records_total{kind=leased}"), 1);
}

fn counters(book: &Book) -> BTreeMap<String, u64> {
    let counters = book.counters.lock().unwrap();
    counters.iter().map(|(name, value)| (name.clone(), value.load(Ordering::SeqCst))).collect()
}

/// A histogram gets about 10,000 of more new values, of every size that there was; counters have them all.
#[test]
fn histogram_of_many_values_gets_a_share_of_each() {
    let book = Book::default();
    let clock = ManualClock::default();
    let hub = Hub::builder().manual().clock(clock.clone()).seed(7).open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Plain::with("plain", |policy| policy.bucket_subjects = 100)).unwrap();
    let seat = hub.register_client(&Registration::new(1, "one")).unwrap().client.activate(&service).unwrap();
    service.add_all(1..=25_000).unwrap();
    hub.tick();
    let mut reported = 0;
    while reported < 25_000 {
        for lease in claim(&seat, 5) {
            // Each report takes 1 ms to make.
            let made = reports(&lease, "ok").into_iter().inspect(|_| clock.advance(Duration::from_millis(1)));
            reported += lease.submit(made).unwrap().accepted();
        }
        hub.tick();
    }
    book.publish(&mut MetricsExporter::default(), &hub);
    assert_eq!(book.counter("commissary_subjects_reported_total{service=plain}"), 25_000);
    let values = book.values("commissary_wait_seconds{service=plain}").len();
    let sizes = hub.stats().services[0].times.wait_ms.buckets.len();
    assert!((25_000 / 3..=25_000 / 3 + sizes).contains(&values), "{values} values of {sizes} sizes");
    assert_eq!(book.values("commissary_turnaround_seconds{service=plain}").len(), 250);
    let calls = book.values("commissary_submit_seconds{service=plain}");
    assert!(
        calls.len() == 4 && calls.iter().all(|call| (0.1 * 15.0 / 16.0..=0.1 * 17.0 / 16.0).contains(call)),
        "{calls:?}"
    );
}
