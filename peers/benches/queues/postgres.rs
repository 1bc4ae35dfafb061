//! `PostgreSQL` over loopback: a table; a claim takes rows that nobody else is taking (`SKIP LOCKED`). As with ours, only
//! what is done is synced before the answer; a claim that a crash undoes is nobody's loss.

use postgres::{Client, NoTls, Statement};

use crate::contender::{Contender, Drained, LEASE, Setup, Worker, by_threads, report_on};

const TABLE: &str = "DROP TABLE IF EXISTS items; \
    CREATE TABLE items (item bigint PRIMARY KEY, owner int, deadline timestamptz, report bigint); \
    CREATE INDEX ready ON items (item) WHERE owner IS NULL";

const CLAIM: &str = "UPDATE items SET owner = $1, deadline = now() + $2::float8 * interval '1 second' \
    WHERE item IN (SELECT item FROM items WHERE owner IS NULL ORDER BY item LIMIT $3 FOR UPDATE SKIP LOCKED) \
    RETURNING item";

const DONE: &str = "UPDATE items SET report = told.report \
    FROM unnest($2::bigint[], $3::bigint[]) AS told (item, report) \
    WHERE items.item = told.item AND owner = $1 AND deadline > now() AND items.report IS NULL";

pub(crate) fn connect(port: u16) -> Option<Client> {
    Client::connect(&format!("host=127.0.0.1 port={port} user=bench dbname=postgres"), NoTls).ok()
}

struct Postgres(u16);

pub(crate) fn open(setup: &Setup<'_>) -> Box<dyn Contender> {
    let port = setup.programs.cluster();
    let mut client = connect(port).expect("it listens");
    client.batch_execute(TABLE).expect("made");
    let items = i64::try_from(setup.items).expect("few");
    let put = "INSERT INTO items (item) SELECT generate_series(0, $1::bigint - 1)";
    assert_eq!(client.execute(put, &[&items]).expect("added"), setup.items);
    client.batch_execute("VACUUM ANALYZE items").expect("done");
    client.batch_execute("CHECKPOINT").expect("done");
    Box::new(Postgres(port))
}

/// Two connections: one that does not wait for the disk, one that does.
struct PostgresWorker {
    claims: (Client, Statement),
    dones: (Client, Statement),
    owner: i32,
    most: i64,
}

impl PostgresWorker {
    fn open(port: u16, owner: i32, most: i64) -> Self {
        let prepare = |commit: &str, statement: &str| {
            let mut client = connect(port).expect("it listens");
            client.batch_execute(&format!("SET synchronous_commit = {commit}")).expect("set");
            let statement = client.prepare(statement).expect("prepared");
            (client, statement)
        };
        Self { claims: prepare("off", CLAIM), dones: prepare("on", DONE), owner, most }
    }
}

impl Worker for PostgresWorker {
    fn turn(&mut self, done: &mut Vec<u64>) {
        let (client, claim) = &mut self.claims;
        let rows = client.query(claim, &[&self.owner, &LEASE.as_secs_f64(), &self.most]).expect("claimed");
        if rows.is_empty() {
            return;
        }
        let items: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        let reports: Vec<i64> = items.iter().map(|item| report_on(item.cast_unsigned()).cast_signed()).collect();
        let (client, statement) = &mut self.dones;
        let count = client.execute(statement, &[&self.owner, &items, &reports]).expect("done");
        assert_eq!(count, items.len() as u64);
        done.extend(items.iter().map(|item| item.cast_unsigned()));
    }
}

impl Contender for Postgres {
    fn drain(&self, setup: &Setup<'_>) -> Drained {
        let most = i64::try_from(setup.claim).expect("few");
        by_threads(setup, |number| PostgresWorker::open(self.0, i32::try_from(number).expect("few"), most))
    }

    fn left(self: Box<Self>, _: &Setup<'_>) -> u64 {
        let mut client = connect(self.0).expect("it listens");
        let row = client.query_one("SELECT count(*) FROM items WHERE report IS NULL", &[]).expect("counted");
        row.get::<_, i64>(0).cast_unsigned()
    }
}
