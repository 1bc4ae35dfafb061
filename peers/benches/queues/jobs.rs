//! `effectum`: jobs in `SQLite`, executed by tasks of a runtime with two threads. A worker takes as many at a time as the
//! others claim, and more when those are done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use effectum::{Job, JobRunner, Queue, RunningJob, Worker};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use crate::contender::{Contender, Drained, Setup, report_on};

/// Jobs added in one go.
const BATCH: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Noted {
    done: Mutex<Vec<u64>>,
    left: AtomicU64,
    all: Notify,
}

struct Effectum {
    runtime: Runtime,
    queue: Queue,
}

pub(crate) fn effectum(setup: &Setup<'_>) -> Box<dyn Contender> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let queue = runtime.block_on(async {
        let queue = Queue::new(&setup.directory.join("effectum.db")).await.expect("opens");
        let items: Vec<u64> = (0..setup.items).collect();
        for items in items.chunks(BATCH) {
            let job = |item: &u64| Job::builder("item").payload(item.to_le_bytes().to_vec()).build();
            queue.add_jobs(items.iter().map(job).collect()).await.expect("added");
        }
        queue
    });
    Box::new(Effectum { runtime, queue })
}

async fn work(job: RunningJob, noted: Arc<Noted>) -> Result<(), effectum::Error> {
    let item = u64::from_le_bytes(job.payload.as_slice().try_into().expect("eight bytes"));
    // Done by hand, to know when it is.
    job.complete(report_on(item)).await?;
    noted.done.lock().expect("nobody panicked").push(item);
    if noted.left.fetch_sub(1, Ordering::AcqRel) == 1 {
        noted.all.notify_one();
    }
    Ok(())
}

impl Contender for Effectum {
    fn drain(&self, setup: &Setup<'_>) -> Drained {
        let noted = Arc::new(Noted { left: AtomicU64::new(setup.items), ..Noted::default() });
        let took = self.runtime.block_on(async {
            let runner = JobRunner::builder("item", work).build();
            let began = Instant::now();
            let mut workers = Vec::new();
            for _ in 0..setup.workers {
                let worker = Worker::builder(&self.queue, Arc::clone(&noted)).jobs([runner.clone()]);
                let claim = u16::try_from(setup.claim).expect("few");
                workers.push(worker.max_concurrency(claim).min_concurrency(1).build().await.expect("works"));
            }
            // The check tells if it is not.
            _ = tokio::time::timeout(PATIENCE, noted.all.notified()).await;
            let took = began.elapsed();
            for worker in workers {
                worker.unregister(Some(PATIENCE)).await.expect("stops");
            }
            took
        });
        let done = std::mem::take(&mut *noted.done.lock().expect("nobody panicked"));
        (took, vec![done])
    }

    fn left(self: Box<Self>, setup: &Setup<'_>) -> u64 {
        let Self { runtime, queue } = *self;
        // Which must not be dropped outside.
        runtime.block_on(async move {
            queue.close(PATIENCE).await.expect("closes");
            let queue = Queue::new(&setup.directory.join("effectum.db")).await.expect("opens");
            let active = queue.num_active_jobs().await.expect("counts");
            queue.close(PATIENCE).await.expect("closes");
            active.pending + active.running
        })
    }
}
