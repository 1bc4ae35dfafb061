//! `ractor`: an actor a key, on a runtime with two threads. Nothing is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::runtime::{Builder, Runtime};

use crate::contender::{Contender, Setup, nanos};
use crate::work::{Load, Order, State};

struct Keeper;

enum Message {
    Order(Order),
    Call(Order, RpcReplyPort<bool>),
    Tell(RpcReplyPort<State>),
}

struct Kept {
    state: State,
    stock: u64,
    done: Arc<AtomicUsize>,
}

impl Actor for Keeper {
    type Msg = Message;
    type State = Kept;
    type Arguments = (u64, Arc<AtomicUsize>);

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        (stock, done): Self::Arguments,
    ) -> Result<Kept, ActorProcessingErr> {
        Ok(Kept { state: State::default(), stock, done })
    }

    async fn handle(&self, _: ActorRef<Message>, message: Message, kept: &mut Kept) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Order(order) => {
                kept.state.execute(order, kept.stock);
                kept.done.fetch_add(1, Ordering::Release);
            }
            Message::Call(order, answer) => {
                let enough = kept.state.execute(order, kept.stock);
                answer.send(enough)?;
            }
            Message::Tell(answer) => answer.send(kept.state.clone())?,
        }
        Ok(())
    }
}

struct Actors {
    runtime: Runtime,
    keepers: Vec<ActorRef<Message>>,
    done: Arc<AtomicUsize>,
}

pub(crate) fn open(setup: &Setup<'_>) -> Box<dyn Contender> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let done = Arc::new(AtomicUsize::new(0));
    let keepers = runtime.block_on(async {
        let mut keepers = Vec::new();
        for _ in 0..setup.spread.keys() {
            let arguments = (setup.stock, Arc::clone(&done));
            keepers.push(Actor::spawn(None, Keeper, arguments).await.expect("spawned").0);
        }
        keepers
    });
    Box::new(Actors { runtime, keepers, done })
}

async fn call(actor: &ActorRef<Message>, message: impl FnOnce(RpcReplyPort<bool>) -> Message) -> bool {
    actor.call(message, None).await.expect("sent").expect("answered")
}

impl Contender for Actors {
    fn send(&self, orders: &[Order]) {
        for order in orders {
            self.keepers[order.key() as usize].cast(Message::Order(*order)).expect("the actor lives");
        }
    }

    fn settle(&self, orders: usize) {
        while self.done.load(Ordering::Acquire) < orders {
            thread::sleep(Duration::from_micros(50));
        }
    }

    fn call(&self, order: Order) {
        let actor = &self.keepers[order.key() as usize];
        self.runtime.block_on(call(actor, |answer| Message::Call(order, answer)));
    }

    /// By tasks of the runtime, as an application of actors would.
    fn calls(&self, load: &Load, window: Duration) -> Vec<Vec<u64>> {
        let tasks: Vec<_> = load
            .orders
            .iter()
            .map(|orders| {
                let (orders, keepers) = (orders.clone(), self.keepers.clone());
                self.runtime.spawn(async move {
                    let began = Instant::now();
                    let (mut took, mut now) = (Vec::with_capacity(orders.len()), began);
                    for order in orders {
                        call(&keepers[order.key() as usize], |answer| Message::Call(order, answer)).await;
                        let answered = Instant::now();
                        took.push(nanos(answered - now));
                        now = answered;
                        if now - began >= window {
                            break;
                        }
                    }
                    took
                })
            })
            .collect();
        tasks.into_iter().map(|task| self.runtime.block_on(task).expect("it did not panic")).collect()
    }

    fn states(self: Box<Self>) -> Vec<State> {
        self.runtime.block_on(async {
            let mut states = Vec::new();
            for actor in &self.keepers {
                states.push(actor.call(Message::Tell, None).await.expect("sent").expect("answered"));
                actor.stop(None);
            }
            states
        })
    }
}
