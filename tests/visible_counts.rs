//! What reads see at the moment a ticket resolves visible.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use commissary::services::DmCheck;
use commissary::{Hub, MemoryDisk, ServiceHandle, Ticket};

/// Looks at a service's counts as soon as its ticket resolves visible: on the thread that resolves it, meanwhile.
struct Look {
    service: ServiceHandle<DmCheck>,
    ticket: Mutex<Ticket>,
    known: AtomicU64,
}

const NOT_YET: u64 = u64::MAX;

impl Look {
    fn poll(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        let mut ticket = self.ticket.lock().expect("one thread");
        if let Poll::Ready(resolved) = pin!(ticket.visible()).poll(&mut Context::from_waker(&waker)) {
            resolved.expect("resolved");
            self.known.store(self.service.stats().subjects_known, Ordering::SeqCst);
        }
    }
}

impl Wake for Look {
    fn wake(self: Arc<Self>) {
        // Woken when the ticket is durable, and again when it is visible.
        self.poll();
    }
}

/// I5: resolved visible means that reads see it, and counts are reads.
#[test]
fn counts_are_published_before_the_ticket_resolves_visible() {
    let hub = Hub::builder().manual().seed(1).open_in_memory(&MemoryDisk::new()).expect("open");
    let service = hub.register(DmCheck::default()).expect("register");
    hub.tick();
    let ticket = service.add(&7).expect("add");
    let look = Arc::new(Look { service, ticket: Mutex::new(ticket), known: AtomicU64::new(NOT_YET) });
    look.poll();
    assert_eq!(look.known.load(Ordering::SeqCst), NOT_YET, "pending before the writer's turn");
    hub.tick();
    assert_eq!(look.known.load(Ordering::SeqCst), 1, "subjects known when the ticket resolved");
}
