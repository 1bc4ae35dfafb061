//! A list that many threads push on and one takes whole: push by compare-and-swap, take by swap.
//!
//! A thread stopped in the middle of a push has changed nothing that others can see, so it stops nobody.
//! There is no pop of one node, hence no ABA.
//!
//! # Safety invariants
//!
//! - **S1** `head` is null or came from `Arc::into_raw` of a node whose count was given to the list.
//! - **S2** a node on the list is owned by the node (or head) that points to it, exactly once; `next` is written only by
//!   the pusher before the node is published and by the taker after the list was taken from `head`.
//! - **S3** a node is pushed at most once in its life (`push` asserts it).
#![expect(unsafe_code, reason = "an intrusive list needs raw pointers; this is the crate's only unsafe file")]

use std::ptr;

use crate::sync::{Arc, AtomicBool, AtomicPtr, Ordering};

/// One element; shared, so that its pusher may keep a handle to it.
#[derive(Debug)]
pub(crate) struct Node<T> {
    next: AtomicPtr<Node<T>>,
    pushed: AtomicBool,
    pub(crate) value: T,
}

impl<T> Node<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { next: AtomicPtr::new(ptr::null_mut()), pushed: AtomicBool::new(false), value }
    }
}

/// The list.
#[derive(Debug)]
pub(crate) struct Stack<T> {
    head: AtomicPtr<Node<T>>,
}

impl<T> Default for Stack<T> {
    fn default() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()) }
    }
}

impl<T> Stack<T> {
    /// Puts a node on the list. Lock-free: retried only when another push or take came between.
    ///
    /// # Panics
    ///
    /// If the node was pushed before.
    pub(crate) fn push(&self, node: Arc<Node<T>>) {
        // ordering: Relaxed; the flag is only ever raised by the pusher, who must be unique.
        assert!(!node.pushed.swap(true, Ordering::Relaxed), "a node is pushed once");
        let node = Arc::into_raw(node).cast_mut();
        // ordering: Relaxed; the value is only compared, never followed, by this thread.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: S1 and S3: we own the count behind `node`, so it is alive.
            let next = unsafe { &(*node).next };
            // ordering: Relaxed; published by the exchange below.
            next.store(head, Ordering::Relaxed);
            // ordering: SeqCst; releases the node to `take_all`, and is published before the pusher raises the taker's
            // signal (see `Signal`). Relaxed on failure: as the load above.
            match self.head.compare_exchange_weak(head, node, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes the whole list, oldest first. Wait-free but for the walk.
    pub(crate) fn take_all(&self) -> Vec<Arc<Node<T>>> {
        // ordering: SeqCst; acquires the nodes from `push`; comes after the taker lowered its signal (see `Signal`).
        let mut at = self.head.swap(ptr::null_mut(), Ordering::SeqCst);
        let mut taken = Vec::new();
        while !at.is_null() {
            // SAFETY: S1 and S2: the list's count of this node is now ours, once.
            let node = unsafe { Arc::from_raw(at) };
            // ordering: Relaxed; acquired with the head.
            at = node.next.load(Ordering::Relaxed);
            taken.push(node);
        }
        taken.reverse();
        taken
    }
}

impl<T> Drop for Stack<T> {
    fn drop(&mut self) {
        drop(self.take_all());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_all_in_the_order_of_pushes() {
        let stack = Stack::default();
        for i in 0..5 {
            stack.push(Arc::new(Node::new(i)));
        }
        let taken: Vec<i32> = stack.take_all().iter().map(|node| node.value).collect();
        assert_eq!(taken, [0, 1, 2, 3, 4]);
        assert!(stack.take_all().is_empty());
    }

    #[test]
    fn what_was_never_taken_is_freed() {
        let value = Arc::new(());
        let stack = Stack::default();
        stack.push(Arc::new(Node::new(Arc::clone(&value))));
        drop(stack);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn every_push_of_four_threads_is_taken_once_and_in_each_threads_order() {
        let stack = Stack::default();
        let mut seen: Vec<Vec<u32>> = vec![Vec::new(); 4];
        std::thread::scope(|scope| {
            for thread in 0..4_usize {
                let stack = &stack;
                scope.spawn(move || {
                    for i in 0..10_000_u32 {
                        stack.push(Arc::new(Node::new((thread, i))));
                    }
                });
            }
            while seen.iter().map(Vec::len).sum::<usize>() < 40_000 {
                for node in stack.take_all() {
                    seen[node.value.0].push(node.value.1);
                }
            }
        });
        for thread in seen {
            assert!(thread.iter().copied().eq(0..10_000));
        }
    }
}
