//! Models of those who wait for news: a follower of the events, and a thread without work.
//!
//! Nobody waits for a time here, so a wake-up that is lost is a deadlock.

use std::convert::Infallible;
use std::time::Duration;

use crate::check::{Model, PARKED, seen_when};
use crate::news::News;
use crate::parking::Parking;
use crate::sync::event_listener::Event;
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering, thread};

pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "news_follower",
        body: follower,
        states: &[PARKED, "both at once", "one after the other", "the last after the end"],
        bound: Some(3),
        finite: false,
        one_order: false,
    },
    Model {
        name: "news_followers",
        body: followers,
        states: &[PARKED, "the end was there with the news"],
        bound: Some(2),
        finite: false,
        one_order: false,
    },
    Model {
        name: "parking_work",
        body: work,
        states: &[PARKED, "never rested", "rested twice"],
        bound: Some(3),
        finite: false,
        one_order: false,
    },
    Model {
        name: "parking_stop",
        body: stop,
        states: &[PARKED, "stopped before the work", "stopped after the work"],
        bound: Some(3),
        finite: false,
        one_order: false,
    },
];

/// The journal, as far as it may be read, and its news.
#[derive(Default)]
struct Published {
    end: AtomicU64,
    news: News,
}

impl Published {
    /// As `Published::written` in `journal/tail.rs`, and the writer after it.
    fn publish(&self, end: u64) {
        if bug!("bug_tell_first") {
            self.news.tell();
        }
        self.end.store(end, Ordering::Release);
        if !bug!("bug_tell_first") {
            self.news.tell();
        }
    }

    /// As a writer that publishes twice, and is closed.
    fn write(&self) {
        self.publish(1);
        if bug!("bug_end_first") {
            self.news.end();
        }
        self.publish(2);
        if !bug!("bug_end_first") {
            self.news.end();
        }
    }

    /// As `EventTail::next_within`: what is new beyond `position`. `None`: nothing comes any more.
    fn next(&self, position: u64) -> Option<u64> {
        let look = || Ok::<_, Infallible>(Some(self.end.load(Ordering::Acquire)).filter(|end| *end > position));
        let Ok(next) = self.news.within(Duration::MAX, look);
        next
    }
}

/// A writer and a follower, who sees all of it and then the end.
fn follower() {
    let published = Arc::new(Published::default());
    let writer = {
        let published = Arc::clone(&published);
        thread::spawn(move || published.write())
    };
    let (mut position, mut looks, mut late) = (0, 0, false);
    while let Some(next) = published.next(position) {
        assert!(next > position);
        (position, looks) = (next, looks + 1);
        late = published.news.is_over();
    }
    assert_eq!(position, 2, "the end came before the last");
    seen_when(looks == 1, "both at once");
    seen_when(looks == 2, "one after the other");
    seen_when(late, "the last after the end");
    writer.join().expect("a thread of the model panicked");
}

/// Two followers, each at its own pace, and a writer that ends.
fn followers() {
    let published = Arc::new(Published::default());
    let other = {
        let published = Arc::clone(&published);
        thread::spawn(move || published.next(0))
    };
    let writer = {
        let published = Arc::clone(&published);
        thread::spawn(move || {
            published.publish(1);
            published.news.end();
        })
    };
    assert_eq!(published.next(0), Some(1), "the end came before the last");
    seen_when(published.news.is_over(), "the end was there with the news");
    assert_eq!(published.next(1), None, "nothing comes after the end");
    assert_eq!(other.join().expect("a thread of the model panicked"), Some(1));
    writer.join().expect("a thread of the model panicked");
}

/// What a service publishes, and a crew that is told to stop.
#[derive(Default)]
struct Service {
    published: AtomicU64,
    news: Event,
    stopping: AtomicBool,
}

impl Service {
    /// As a pool that is published.
    fn publish(&self) {
        if bug!("bug_tell_first") {
            self.news.notify(usize::MAX);
        }
        self.published.fetch_add(1, Ordering::AcqRel);
        if !bug!("bug_tell_first") {
            self.news.notify(usize::MAX);
        }
    }

    /// As `Office::stop`.
    fn stop(&self) {
        if bug!("bug_tell_first") {
            self.news.notify(usize::MAX);
        }
        self.stopping.store(true, Ordering::Release);
        if !bug!("bug_tell_first") {
            self.news.notify(usize::MAX);
        }
    }

    /// As `Crew::run`, until so much is done: how much was, and how often it rested.
    fn work(&self, most: u64) -> (u64, u32) {
        let (mut done, mut rests, mut parking) = (0, 0, Parking::default());
        while done < most && !self.stopping.load(Ordering::Acquire) {
            if self.published.load(Ordering::Acquire) > done {
                done += 1;
                parking.end();
                continue;
            }
            parking.rest(&self.news, None);
            rests += 1;
        }
        (done, rests)
    }
}

/// A thread without work, and two who publish some.
fn work() {
    let service = Arc::new(Service::default());
    let publishers = [(); 2].map(|()| {
        let service = Arc::clone(&service);
        thread::spawn(move || service.publish())
    });
    let (done, rests) = service.work(2);
    assert_eq!(done, 2);
    seen_when(rests == 0, "never rested");
    seen_when(rests > 1, "rested twice");
    for publisher in publishers {
        publisher.join().expect("a thread of the model panicked");
    }
}

/// A thread without work that is told to stop, while some is published.
fn stop() {
    let service = Arc::new(Service::default());
    let publisher = {
        let service = Arc::clone(&service);
        thread::spawn(move || service.publish())
    };
    let stopper = {
        let service = Arc::clone(&service);
        thread::spawn(move || service.stop())
    };
    let (done, _) = service.work(u64::MAX);
    seen_when(done == 0, "stopped before the work");
    seen_when(done == 1, "stopped after the work");
    for thread in [publisher, stopper] {
        thread.join().expect("a thread of the model panicked");
    }
}
