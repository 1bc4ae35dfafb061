//! Claims and submits on 1 to 8 threads, with the default settings.

use std::rc::Rc;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::rig::{Plain, Site, wide};
use crate::table::{compare, short};

const SUBJECTS: usize = 16_000;

/// All threads claim one bucket at a time until so many subjects are reported; one rate for all of them together.
fn race(site: &Site<Plain>, threads: usize, until_visible: bool) -> f64 {
    site.add(site.numbers(SUBJECTS), SUBJECTS);
    if !until_visible {
        (0..3).for_each(|_| site.hub.tick());
    }
    let (barrier, left) = (Barrier::new(threads), AtomicUsize::new(SUBJECTS / 4));
    let body = |place: usize| {
        barrier.wait();
        let (start, mut last) = (Instant::now(), None);
        let take_one = |left: usize| left.checked_sub(1);
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take_one).is_ok() {
            let lease = site.claim(&site.seats[place], 1).pop().expect("one");
            let reports = lease.subjects().map(|subject| (subject, "a small report".to_owned()));
            let submitted = lease.submit(reports).expect("taken");
            assert_eq!(submitted.accepted(), 4);
            last = Some(submitted.ticket);
        }
        if let Some(last) = last.filter(|_| until_visible) {
            site.seen(&last);
        }
        (start, Instant::now())
    };
    let before = site.service.stats().work.subjects_reported;
    let runs: Vec<(Instant, Instant)> = thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|place| scope.spawn(move || body(place))).collect();
        handles.into_iter().map(|handle| handle.join().expect("no thread panics")).collect()
    });
    let first = runs.iter().map(|run| run.0).min().expect("a thread");
    let last = runs.iter().map(|run| run.1).max().expect("a thread");
    assert_eq!(site.service.stats().work.subjects_reported - before, SUBJECTS as u64);
    if !until_visible {
        site.hub.tick();
    }
    SUBJECTS as f64 / (last - first).as_secs_f64()
}

fn site(until_visible: bool) -> Rc<Site<Plain>> {
    let plugin = Plain::new("plain", |_| {});
    let site = if until_visible { Site::open(wide(), plugin) } else { Site::manual(wide(), plugin) };
    // So that the threads never wait for a pool to be formed.
    site.add(site.numbers(20_000), 20_000);
    Rc::new(site)
}

pub(crate) fn print() {
    println!("| threads | the calls alone, subjects/s | until reads see the reports, subjects/s |");
    println!("|---|---|---|");
    let sites = [false, true].map(|until_visible| (until_visible, site(until_visible), site(until_visible)));
    for threads in [1, 2, 4, 8] {
        let cells = sites.iter().map(|(until_visible, one, many)| {
            let found = compare(&mut || race(one, 1, *until_visible), &mut || race(many, threads, *until_visible));
            format!("{} ({:.2})", short(found.full), found.ratio)
        });
        println!("| {threads} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    println!();
}
