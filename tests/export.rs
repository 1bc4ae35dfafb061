//! The whole graph as JSON and DOT, while everything goes on.

mod common;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use commissary::{Ask, Claim, ExportError, Hub, Limits, MemoryDisk, Registration, Revoke, Seat};
use common::{Plain, Shop, claim, claim_one, report_all, reports};
use serde_json::{Value, json};

fn json_of(hub: &Hub) -> Value {
    let mut out = Vec::new();
    hub.export_json(&mut out).expect("memory takes all");
    serde_json::from_slice(&out).expect("it is JSON")
}

fn dot_of(hub: &Hub) -> Dot {
    let mut out = Vec::new();
    hub.export_dot(&mut out).expect("memory takes all");
    Dot::parse(&String::from_utf8(out).expect("it is text"))
}

/// A graph in the subset of DOT that is one statement a line.
#[derive(Debug, Default)]
struct Dot {
    nodes: BTreeSet<String>,
    labels: Vec<String>,
    edges: BTreeSet<(String, String)>,
}

impl Dot {
    /// Reads a graph and fails on anything that is not well-formed.
    fn parse(text: &str) -> Self {
        let body = text.strip_prefix("digraph commissary {\n").and_then(|rest| rest.strip_suffix("}\n"));
        let mut dot = Self::default();
        for line in body.expect("one graph in braces").lines() {
            let mut rest = line.trim().strip_suffix(';').expect("a statement ends with a semicolon");
            if rest == "rankdir=LR" {
                continue;
            }
            let name = quoted(&mut rest);
            if let Some(to) = rest.strip_prefix(" -> ") {
                rest = to;
                dot.edges.insert((name, quoted(&mut rest)));
            } else {
                assert!(dot.nodes.insert(name), "each node once: {line}");
            }
            let attributes = rest.trim();
            if attributes.is_empty() {
                continue;
            }
            let list = attributes.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).expect(line);
            if let Some(at) = list.find("label=") {
                let mut label = &list[at + 6..];
                dot.labels.push(quoted(&mut label));
                assert_eq!(label, "", "the label is last: {line}");
            }
        }
        dot
    }
}

/// Takes a quoted text off the front.
fn quoted(rest: &mut &str) -> String {
    let mut chars = rest.char_indices();
    assert_eq!(chars.next().map(|(_, c)| c), Some('"'), "{rest}");
    let mut text = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                *rest = &rest[at + 1..];
                return text;
            }
            '\\' => text.push(chars.next().expect("something is escaped").1),
            c => text.push(c),
        }
    }
    panic!("a quote is not closed: {rest}")
}

/// R18, R47: every node is there with its state: hub, services, pools, leases with holder and deadline, clients, seats;
/// and the totals are those of the statistics.
#[test]
fn the_graph_has_every_node_and_its_state() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", |policy| policy.bucket_subjects = 2)).unwrap();
    let idle = shop.hub.register(Plain::new("idle")).unwrap();
    drop(idle.revoke(Revoke::Drain).unwrap());
    let seats = shop.seats(&service, 3);
    drop(shop.hub.client(3).unwrap().deregister().unwrap());
    shop.stock(&service, 10);
    let kept = claim(&seats[0], 2);
    let _ = kept[0].report(reports(&kept[0], "ok").into_iter().take(1)).unwrap();
    report_all(&claim_one(&seats[1]));
    shop.tick();

    let graph = json_of(&shop.hub);
    assert_eq!(graph["hub"]["state"], "open");
    assert_eq!(
        (&graph["hub"]["boots"], &graph["hub"]["clients"], &graph["hub"]["seats"]),
        (&json!(1), &json!(3), &json!(3))
    );
    let [plain, other] = &graph["services"].as_array().unwrap()[..] else { panic!("{graph}") };
    assert_eq!((&plain["service"]["id"], &plain["service"]["state"]), (&json!("plain"), &json!("Active")));
    assert_eq!((&other["service"]["id"], &other["service"]["state"]), (&json!("idle"), &json!("Draining")));
    assert_eq!(plain["subjects"], json!({ "known": 10, "done": 3, "leased": 3, "waiting": 4, "unmarked": 0 }));
    assert_eq!(plain["service"]["active_seats"], 2);
    let pools = plain["pools"].as_array().unwrap();
    let total = |field: &str| pools.iter().map(|pool| pool[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!((total("buckets"), total("ready"), total("held"), total("over")), (5, 2, 2, 1));
    let leases = plain["leases"].as_array().unwrap();
    assert_eq!(leases.len(), 2);
    assert!(leases.iter().all(|lease| lease["client"] == 1 && lease["dead"] == false && lease["subjects"] == 2));
    assert!(leases.iter().all(|lease| lease["until"] == "1970-01-01T02:00:00.101Z"), "{leases:?}");
    assert_eq!(leases.iter().map(|lease| lease["owed"].as_u64().unwrap()).sum::<u64>(), 3);
    let clients = graph["clients"].as_array().unwrap();
    let about = |client: &Value| {
        (client["id"].as_u64(), client["name"].as_str().map(str::to_owned), client["registered"].clone())
    };
    assert_eq!(about(&clients[0]), (Some(1), Some("client_1".to_owned()), json!(true)));
    assert_eq!(about(&clients[2]), (Some(3), Some("client_3".to_owned()), json!(false)));
    assert_eq!((&clients[0]["seats"][0]["leases"], &clients[0]["seats"][0]["service"]), (&json!(2), &json!("plain")));
    assert_eq!(
        (&clients[1]["seats"][0]["subjects_reported"], &clients[1]["seats"][0]["state"]),
        (&json!(2), &json!("Active"))
    );
    assert_eq!(clients[2]["seats"][0]["state"], "Inactive");
    drop(kept);
}

/// R18: the same graph in DOT is well-formed, and its edges lead from the hub to every client that works.
#[test]
fn the_graph_is_well_formed_dot() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::with("plain", |policy| policy.bucket_subjects = 2)).unwrap();
    let seats = shop.seats(&service, 2);
    shop.stock(&service, 4);
    let _kept = claim(&seats[1], 2);
    shop.pass(Duration::from_secs(2 * 3_600));
    let dot = dot_of(&shop.hub);
    for (from, to) in &dot.edges {
        assert!(dot.nodes.contains(from) && dot.nodes.contains(to), "{from} -> {to}");
    }
    let goes = |from: &str, to: &str| dot.edges.contains(&(from.to_owned(), to.to_owned()));
    assert!(goes("hub", "s1") && goes("s1", "u1") && goes("c1", "s1") && goes("c2", "s1"), "{dot:?}");
    let leases: Vec<&String> = dot.nodes.iter().filter(|node| node.starts_with('l')).collect();
    assert_eq!(leases.len(), 2);
    for lease in leases {
        let pool = format!("p{}", lease[1..].rsplit_once('_').unwrap().0);
        assert!(goes("s1", &pool) && goes(&pool, lease) && goes(lease, "c2"), "{lease}");
    }
    assert!(dot.labels.iter().any(|label| label.contains("client_2 (2)")), "{:?}", dot.labels);
    assert_eq!(dot.labels.iter().filter(|label| label.contains("dead, grace until")).count(), 2);
}

/// R5, R18: a service whose plugin was not registered since the restart is in the graph, with its totals.
#[test]
fn services_without_a_plugin_are_in_the_graph() {
    let shop = Shop::open();
    let service = shop.hub.register(Plain::new("retired")).unwrap();
    let seat = shop.seat(&service, 1);
    shop.stock(&service, 5);
    report_all(&claim_one(&seat));
    shop.tick();
    drop((service, seat));
    let shop = shop.restart();
    let graph = json_of(&shop.hub);
    assert_eq!(
        graph["services"][0]["service"],
        json!({
            "number": 1, "id": "retired", "state": "Active", "registered": false, "active_seats": 0
        })
    );
    assert_eq!(
        graph["services"][0]["subjects"],
        json!({ "known": 5, "done": 4, "leased": 0, "waiting": 1, "unmarked": 0 })
    );
    assert_eq!(graph["clients"][0]["seats"], json!([]));
    assert!(dot_of(&shop.hub).labels.iter().any(|label| label.contains("no plugin")));
    shop.hub.register(Plain::new("retired")).unwrap();
    let graph = json_of(&shop.hub);
    assert_eq!(graph["services"].as_array().unwrap().len(), 1);
    assert_eq!((&graph["services"][0]["service"]["registered"], &graph["hub"]["boots"]), (&json!(true), &json!(2)));
    assert_eq!(graph["clients"][0]["seats"][0]["subjects_reported"], 4);
}

/// A writer that takes no more than so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// R18: what the caller's writer refuses is the caller's to know.
#[test]
fn a_writer_that_fails_ends_the_export() {
    let shop = Shop::open();
    shop.clients(10);
    shop.tick();
    for room in [0, 1, 100] {
        let refused = shop.hub.export_json(&mut Full(room)).unwrap_err();
        assert!(matches!(&refused, ExportError::Io(error) if error.kind() == io::ErrorKind::StorageFull), "{refused}");
        assert!(shop.hub.export_dot(&mut Full(room)).is_err());
    }
}

/// A writer that stops when it has taken so many bytes, until it is told to go on.
struct Stalling {
    out: Vec<u8>,
    at: usize,
    stalled: Sender<()>,
    go_on: Option<Receiver<()>>,
}

impl Write for Stalling {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.out.len() + bytes.len() > self.at
            && let Some(go_on) = self.go_on.take()
        {
            self.stalled.send(()).unwrap();
            go_on.recv().unwrap();
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As much of the graph as is looked at; the rest is checked to be JSON.
#[derive(serde::Deserialize)]
struct Graph {
    clients: Vec<Node>,
}

#[derive(serde::Deserialize)]
struct Node {
    id: u64,
}

const NODES: u64 = 100_000;
const BUCKETS: usize = 150;

/// Registers a few clients, then claims and reports a fixed number of buckets.
fn work(hub: &Hub, seat: &Seat<Plain>) {
    let own = seat.client_id().value();
    for id in 1..=20 {
        let id = own * 1_000_000 + id;
        let _ = hub.register_client(&Registration::new(id, format!("n{id}"))).unwrap();
    }
    let mut done = 0;
    while done < BUCKETS {
        match seat.claim(Ask::one()).unwrap() {
            Claim::Leased(grant) => {
                for lease in grant {
                    report_all(&lease);
                    done += 1;
                }
            }
            Claim::Empty(_) => assert!(seat.wait_ready(Duration::from_secs(60)), "there is work for all"),
        }
    }
}

/// R47: exports of 100,000 clients run in a loop, and two more hang in the middle of their output; workers claim, report and
/// register meanwhile, and finish their fixed amount of work before the two go on.
#[test]
fn exports_of_a_hundred_thousand_nodes_stop_no_writer() {
    let limits = Limits { newcomer_burst: 200_000, ..Limits::default() };
    let hub = Hub::builder().limits(limits).open_in_memory(&MemoryDisk::new()).unwrap();
    let service = hub.register(Plain::new("plain")).unwrap();
    let mut last = None;
    for id in 1..=NODES {
        let registered = hub.register_client(&Registration::new(id, format!("c{id}"))).unwrap();
        last = Some(registered.ticket);
    }
    let seats: Vec<_> = [7, 70_000].map(|id| hub.client(id).unwrap().activate(&service).unwrap()).into();
    service.add_all(1..=4 * 2 * BUCKETS as u64).unwrap();
    last.unwrap().wait_visible().unwrap();

    let (stalled, is_stalled) = channel();
    let stalling = |at: usize| {
        let (go, go_on) = channel();
        (go, Stalling { out: Vec::new(), at, stalled: stalled.clone(), go_on: Some(go_on) })
    };
    let ((go_json, mut json), (go_dot, mut dot)) = (stalling(2 << 20), stalling(3 << 20));
    let working = AtomicBool::new(true);
    thread::scope(|scope| {
        let hub = &hub;
        let json = scope.spawn(move || hub.export_json(&mut json).map(|()| json.out));
        let dot = scope.spawn(move || hub.export_dot(&mut dot).map(|()| dot.out));
        is_stalled.recv().unwrap();
        is_stalled.recv().unwrap();
        let (working, looping) = (&working, channel());
        let exports = scope.spawn(move || {
            let mut exports = 0;
            // ordering: Relaxed; ends a loop.
            while exports == 0 || working.load(Ordering::Relaxed) {
                hub.export_json(&mut io::sink()).unwrap();
                looping.0.send(()).unwrap();
                exports += 1;
            }
            exports
        });
        looping.1.recv().unwrap();
        let workers: Vec<_> = seats.iter().map(|seat| scope.spawn(move || work(hub, seat))).collect();
        for worker in workers {
            worker.join().unwrap();
        }
        // ordering: Relaxed; see above.
        working.store(false, Ordering::Relaxed);
        assert!(exports.join().unwrap() >= 1);
        let reported = service.stats().work.subjects_reported;
        assert_eq!(reported, 4 * 2 * BUCKETS as u64, "all of it, while two exports hung in the middle");
        go_json.send(()).unwrap();
        go_dot.send(()).unwrap();
        let graph: Graph = serde_json::from_slice(&json.join().unwrap().unwrap()).unwrap();
        let ids: Vec<u64> = graph.clients.iter().map(|client| client.id).filter(|id| *id <= NODES).collect();
        assert!(ids.into_iter().eq(1..=NODES), "every client that was there all the time, once");
        let dot = Dot::parse(&String::from_utf8(dot.join().unwrap().unwrap()).unwrap());
        assert!((1..=NODES).all(|id| dot.nodes.contains(&format!("c{id}"))));
    });
    hub.close().unwrap();
}
