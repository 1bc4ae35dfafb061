//! The museum: published ways to hand out work, as small as they can be, each broken by the same checkers.
//!
//! An exhibit must fail. That it does shows that the checkers would see such a fault in the crate; beside each stands the
//! model in which the crate's own way holds. `run museum` shows all of them.

use std::collections::HashMap;

use crate::check::Model;
use crate::sync::{Arc, AtomicU32, AtomicU64, Mutex, Ordering, thread};

/// One way that does not work.
#[derive(Debug)]
pub struct Exhibit {
    /// The way, run by the checkers as a model.
    pub way: Model,
    /// Where it is described or done so.
    pub published: &'static str,
    /// The model of the crate's own way.
    pub ours: &'static str,
}

/// Every exhibit.
pub const EXHIBITS: &[Exhibit] = &[
    exhibit(
        "pop_then_record",
        pop_then_record,
        "Redis, RPOPLPUSH, 'Pattern: reliable queue': with RPOP alone a crashed consumer's message is lost",
        "house",
    ),
    exhibit(
        "ttl_check_then_set",
        ttl_check_then_set,
        "Redis, SETNX, 'Handling deadlocks': the time stamp read, DEL, SETNX; the page itself shows two holders",
        "slot_claims",
    ),
    exhibit(
        "release_blind",
        release_blind,
        "Redis, SET, 'Patterns': a lock that is released by GET and DEL may be the next client's, hence its script",
        "slot_report_expiry",
    ),
    exhibit(
        "acknowledge_by_sequence",
        acknowledge_by_sequence,
        "Redis Streams: XACK names group and id, not the consumer, whoever XCLAIMed the entry meanwhile",
        "slot_report_expiry",
    ),
    exhibit(
        "reassign_at_once",
        reassign_at_once,
        "Celery on Redis: after the visibility timeout a task goes to another worker, and is executed twice",
        "slot_report_expiry",
    ),
    exhibit(
        "check_then_act_on_a_map",
        check_then_act_on_a_map,
        "Goetz, Java Concurrency in Practice, 4.4: put-if-absent as contains, then put, on a synchronized map",
        "slot_claims",
    ),
    exhibit(
        "slot_without_generation",
        slot_without_generation,
        "the ABA problem (IBM System/370 Principles of Operation): a place reused, told apart by its address alone",
        "slot_read",
    ),
    exhibit(
        "free_list_without_tag",
        free_list_without_tag,
        "the ABA problem: Treiber's list of free places (IBM RJ 5118, 1986) without a count beside its head",
        "stack_pushes",
    ),
];

const fn exhibit(name: &'static str, body: fn(), published: &'static str, ours: &'static str) -> Exhibit {
    let way = Model { name, body, states: &[], bound: None, finite: true, one_order: true };
    Exhibit { way, published, ours }
}

const NOBODY: u32 = 0;
const DONE: u32 = 99;

fn join<T>(handle: thread::JoinHandle<T>) -> T {
    handle.join().expect("a thread of the model panicked")
}

fn spawn<S: Send + Sync + 'static, T: Send + 'static>(
    shared: &Arc<S>,
    act: impl FnOnce(&S) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let shared = Arc::clone(shared);
    thread::spawn(move || act(&shared))
}

/// An exchange that must not fail for others to go on: true if it was made.
fn exchange(word: &AtomicU32, from: u32, to: u32) -> bool {
    word.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// A worker takes an item out of the queue, and then notes that it works on it. It may die in between: whoever looks after the
/// dead finds nothing in its notes.
fn pop_then_record() {
    #[derive(Default)]
    struct Shop {
        queue: AtomicU32,
        noted: AtomicU32,
        died: Mutex<bool>,
    }
    impl Shop {
        /// A step of the worker's; the dead take none.
        fn step(&self, act: impl FnOnce()) {
            let died = self.died.lock().expect("nobody panics");
            if !*died {
                act();
            }
        }
    }
    const ITEM: u32 = 7;
    let shop = Arc::new(Shop { queue: AtomicU32::new(ITEM), ..Shop::default() });
    let worker = spawn(&shop, |shop| {
        let mut item = NOBODY;
        shop.step(|| item = shop.queue.swap(NOBODY, Ordering::SeqCst));
        shop.step(|| shop.noted.store(item, Ordering::SeqCst));
    });
    *shop.died.lock().expect("nobody panics") = true;
    join(worker);
    // After the death: what it noted goes back.
    let found = shop.noted.swap(NOBODY, Ordering::SeqCst);
    if found != NOBODY {
        shop.queue.store(found, Ordering::SeqCst);
    }
    assert_eq!(shop.queue.load(Ordering::SeqCst), ITEM, "the item is lost");
}

/// Two clients find the lock expired, delete it, and set it.
fn ttl_check_then_set() {
    /// Holder, and until when.
    struct Lock(AtomicU32, AtomicU64);
    const NOW: u64 = 10;
    let lock = Arc::new(Lock(AtomicU32::new(9), AtomicU64::new(5)));
    let take = |me: u32| {
        move |lock: &Lock| {
            if lock.1.load(Ordering::SeqCst) > NOW {
                return false;
            }
            lock.0.store(NOBODY, Ordering::SeqCst);
            let taken = exchange(&lock.0, NOBODY, me);
            if taken {
                lock.1.store(NOW + 5, Ordering::SeqCst);
            }
            taken
        }
    };
    let other = spawn(&lock, take(1));
    let mine = take(2)(&lock);
    assert!(!(join(other) && mine), "two hold the lock");
}

/// Who was slow releases a lock that expired meanwhile: it is another one's.
fn release_blind() {
    let holder = Arc::new(AtomicU32::new(1));
    let slow = spawn(&holder, |holder| {
        // It looks whether it holds it, and then deletes it.
        if holder.load(Ordering::SeqCst) == 1 {
            holder.store(NOBODY, Ordering::SeqCst);
        }
    });
    // It expires, and the next client takes it.
    let taken = exchange(&holder, 1, NOBODY) && exchange(&holder, NOBODY, 2);
    join(slow);
    assert!(!taken || holder.load(Ordering::SeqCst) == 2, "the lock was taken from its holder");
}

/// A holder who comes late acknowledges the entry, whose lease is another one's.
fn acknowledge_by_sequence() {
    /// An entry that is delivered, and not acknowledged yet.
    #[derive(Default)]
    struct Pending(Mutex<Option<u32>>);
    impl Pending {
        /// By the entry's number alone. True if it was pending.
        fn acknowledge(&self) -> bool {
            self.0.lock().expect("nobody panics").take().is_some()
        }

        /// True if it is `me`'s now.
        fn claim(&self, me: u32) -> bool {
            let mut holder = self.0.lock().expect("nobody panics");
            let is_pending = holder.is_some();
            *holder = holder.map(|_| me);
            is_pending
        }
    }
    let entry = Arc::new(Pending(Mutex::new(Some(1))));
    let late = spawn(&entry, Pending::acknowledge);
    let claimed = entry.claim(2);
    assert!(!(claimed && join(late)), "the holder's lease was acknowledged by another");
}

/// At the deadline the work goes to another at once: what the first one finished is refused, and done again.
fn reassign_at_once() {
    /// Who holds it; how often the work was done.
    struct Work(AtomicU32, AtomicU32);
    let work = Arc::new(Work(AtomicU32::new(1), AtomicU32::new(0)));
    let execute = |me: u32| {
        move |work: &Work| {
            let before = work.1.load(Ordering::SeqCst);
            work.1.store(before + 1, Ordering::SeqCst);
            exchange(&work.0, me, DONE)
        }
    };
    let first = spawn(&work, execute(1));
    if exchange(&work.0, 1, 2) {
        let _ = execute(2)(&work);
    }
    let taken = join(first);
    assert!(taken || work.1.load(Ordering::SeqCst) < 2, "finished in time, refused, and done twice");
}

/// Each call on the map is safe, the two together are not.
fn check_then_act_on_a_map() {
    type Map = Mutex<HashMap<u32, u32>>;
    let map: Arc<Map> = Arc::new(Mutex::new(HashMap::new()));
    let claim = |me: u32| {
        move |map: &Map| {
            let is_free = !map.lock().expect("nobody panics").contains_key(&1);
            if is_free {
                map.lock().expect("nobody panics").insert(1, me);
            }
            is_free
        }
    };
    let other = spawn(&map, claim(1));
    let mine = claim(2)(&map);
    assert!(!(join(other) && mine), "two claimed it");
}

/// A place is freed and leased again, for other work: a late report on the first finds it leased.
fn slot_without_generation() {
    /// Free or leased; the work that it stands for.
    struct Place(AtomicU32, AtomicU32);
    const LEASED: u32 = 1;
    let place = Arc::new(Place(AtomicU32::new(LEASED), AtomicU32::new(1)));
    // Its holder reports on work 1.
    let late = spawn(&place, |place| exchange(&place.0, LEASED, DONE).then(|| place.1.load(Ordering::SeqCst)));
    // The lease expires, the place is used again.
    if exchange(&place.0, LEASED, NOBODY) {
        place.1.store(2, Ordering::SeqCst);
        place.0.store(LEASED, Ordering::SeqCst);
    }
    assert!(join(late).is_none_or(|work| work == 1), "a report on other work than the reporter's was taken");
}

/// A list of free places: who stops between the look at the next one and the exchange puts a used one at the head.
fn free_list_without_tag() {
    /// The first free place; after each place the next one. The last is `NOBODY`.
    struct Free(AtomicU32, [AtomicU32; 4]);
    impl Free {
        fn pop(&self) -> u32 {
            loop {
                let head = self.0.load(Ordering::SeqCst);
                if head == NOBODY {
                    return NOBODY;
                }
                let next = self.1[head as usize].load(Ordering::SeqCst);
                if exchange(&self.0, head, next) {
                    return head;
                }
            }
        }

        fn push(&self, place: u32) {
            loop {
                let head = self.0.load(Ordering::SeqCst);
                self.1[place as usize].store(head, Ordering::SeqCst);
                if exchange(&self.0, head, place) {
                    return;
                }
            }
        }
    }
    let free = Arc::new(Free(AtomicU32::new(1), [0, 2, 3, 0].map(AtomicU32::new)));
    let other = spawn(&free, |free| [free.pop(), free.pop()]);
    let (first, second) = (free.pop(), free.pop());
    free.push(first);
    let mut used: Vec<u32> = join(other).into_iter().chain([second, free.pop(), free.pop()]).collect();
    used.retain(|place| *place != NOBODY);
    used.sort_unstable();
    assert!(used.windows(2).all(|two| two[0] != two[1]), "one place is used twice: {used:?}");
}
