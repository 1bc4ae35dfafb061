//! Models of the list of changes: pushes against takes and the end.

use std::sync::atomic::AtomicUsize;

use crate::check::{EXCHANGE_FAILED, Model, seen_when};
use crate::stack::{Node, Stack};
use crate::sync::{Arc, AtomicU32, Ordering, thread};

pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "stack_pushes",
        body: pushes,
        states: &["taken in two parts", "taken at the end", "taken at once", EXCHANGE_FAILED],
        bound: Some(4),
        finite: false,
        one_order: false,
    },
    Model {
        name: "stack_dropped",
        body: dropped,
        states: &["dropped with a node", "dropped with two nodes", "dropped empty"],
        bound: None,
        finite: true,
        one_order: false,
    },
];

/// What a pusher writes before its push and the taker must read.
const WRITTEN: u32 = 7;

/// A change: who pushed it, which of his, and whether its contents came with it.
struct Change {
    pusher: usize,
    number: usize,
    contents: AtomicU32,
    freed: Arc<Freed>,
}

/// How many changes were freed; plain, as no model is about it.
struct Freed(AtomicUsize);

impl Drop for Change {
    fn drop(&mut self) {
        self.freed.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn push(stack: &Stack<Change>, freed: &Arc<Freed>, pusher: usize, number: usize) {
    let change = Change { pusher, number, contents: AtomicU32::new(0), freed: Arc::clone(freed) };
    change.contents.store(WRITTEN, Ordering::Relaxed);
    stack.push(Arc::new(Node::new(change)));
}

/// Takes what is there, and reads it.
fn take(stack: &Stack<Change>, into: &mut Vec<(usize, usize)>) -> usize {
    let taken = stack.take_all();
    for node in &taken {
        let change = &node.value;
        assert_eq!(change.contents.load(Ordering::Relaxed), WRITTEN, "taken without its contents");
        into.push((change.pusher, change.number));
    }
    taken.len()
}

fn pusher(stack: &Arc<Stack<Change>>, freed: &Arc<Freed>, name: usize, changes: usize) -> thread::JoinHandle<()> {
    let (stack, freed) = (Arc::clone(stack), Arc::clone(freed));
    thread::spawn(move || (0..changes).for_each(|number| push(&stack, &freed, name, number)))
}

/// Two pushers and the taker: each change is taken once, in its pusher's order.
fn pushes() {
    let (stack, freed) = (Arc::new(Stack::default()), Arc::new(Freed(AtomicUsize::new(0))));
    let pushers = [pusher(&stack, &freed, 0, 2), pusher(&stack, &freed, 1, 1)];
    let mut order = Vec::new();
    let first = take(&stack, &mut order);
    let second = take(&stack, &mut order);
    for pusher in pushers {
        pusher.join().expect("a thread of the model panicked");
    }
    let last = take(&stack, &mut order);
    seen_when(first > 0 && second > 0, "taken in two parts");
    seen_when(last == 3, "taken at the end");
    seen_when(first == 3, "taken at once");
    let of = |pusher| order.iter().filter(move |change| change.0 == pusher).map(|change| change.1).collect::<Vec<_>>();
    assert_eq!((of(0), of(1)), (vec![0, 1], vec![0]), "lost, taken twice, or out of order");
    assert_eq!(freed.0.load(Ordering::Relaxed), 3, "each change is freed once");
}

/// The list goes while nodes are on it: they are freed (loom also looks for what was not).
fn dropped() {
    let (stack, freed) = (Arc::new(Stack::default()), Arc::new(Freed(AtomicUsize::new(0))));
    let pusher = pusher(&stack, &freed, 0, 2);
    let mut order = Vec::new();
    let taken = take(&stack, &mut order);
    pusher.join().expect("a thread of the model panicked");
    drop(stack);
    assert_eq!(freed.0.load(Ordering::Relaxed), 2, "each change is freed once");
    seen_when(taken == 0, "dropped with two nodes");
    seen_when(taken == 1, "dropped with a node");
    seen_when(taken == 2, "dropped empty");
}
