//! One cell of the bench `queues`: `apalis` on `SQLite`. Fills a database, lets workers complete all of it, opens it again.
//!
//! Called with a file, how many items, how many workers, how many items a claim. Prints a line with the nanoseconds that the
//! work took and how many items were left, and one with each item that was worked on.

use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteStorage};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::Notify;

const QUEUE: &str = "items";
/// Longer than a cell takes.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Default)]
struct Noted {
    items: Mutex<Vec<u64>>,
    left: AtomicUsize,
    all: Notify,
}

/// All connections sync each commit; what `setup` says of syncs holds for one connection of another pool.
async fn open(file: &Path) -> Result<SqlitePool, BoxDynError> {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true).busy_timeout(PATIENCE);
    let setup = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
    SqliteStorage::setup(&setup).await?;
    setup.close().await;
    let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
    Ok(SqlitePoolOptions::new().max_connections(4).connect_with(options).await?)
}

async fn left(pool: &SqlitePool) -> Result<i64, BoxDynError> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM Jobs WHERE status <> 'Done'").fetch_one(pool).await?)
}

async fn work(item: u64, noted: Data<Arc<Noted>>) -> Result<u64, BoxDynError> {
    noted.items.lock().expect("nobody panicked").push(item);
    if noted.left.fetch_sub(1, Ordering::AcqRel) == 1 {
        noted.all.notify_one();
    }
    Ok(item ^ 0xffff)
}

async fn cell(file: &Path, items: usize, workers: usize, claim: usize) -> Result<(), BoxDynError> {
    let pool = open(file).await?;
    let config = Config::default().queue(QUEUE).batch_size(claim);
    let storage = SqliteStorage::<u64>::new(&pool).with_config(config);
    let mut sender = storage.clone();
    for item in 0..items as u64 {
        sender.push(item).await?;
    }
    let noted = Arc::new(Noted { left: AtomicUsize::new(items), ..Noted::default() });
    let began = Instant::now();
    for number in 0..workers {
        let worker = WorkerBuilder::new(format!("worker-{number}")).backend(storage.clone()).data(Arc::clone(&noted));
        let worker = worker.build(work);
        tokio::spawn(async move { worker.run().await });
    }
    // What reads this tells if it is not so.
    let _ = tokio::time::timeout(PATIENCE, noted.all.notified()).await;
    while left(&pool).await? > 0 && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = began.elapsed();
    println!("{} {}", took.as_nanos(), left(&open(file).await?).await?);
    for item in noted.items.lock().expect("nobody panicked").iter() {
        println!("{item}");
    }
    Ok(())
}

fn main() -> Result<(), BoxDynError> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [file, items, workers, claim] = words.as_slice() else { return Err("FILE ITEMS WORKERS CLAIM".into()) };
    let number = |word: &String| usize::from_str(word);
    let (items, workers, claim) = (number(items)?, number(workers)?, number(claim)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(cell(Path::new(file), items, workers, claim))?;
    // The workers have nothing to do, but do not end by themselves.
    runtime.shutdown_background();
    Ok(())
}
