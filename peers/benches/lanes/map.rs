//! A map of mutexes: the orders are executed on the sender's thread. In memory; and with a log that is synced before they are
//! executed, for each order or for each batch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::contender::{BATCH, Contender, Setup};
use crate::log::Log;
use crate::work::{Order, State};

/// A lock a key.
pub(crate) struct Map {
    stock: u64,
    keys: u32,
    states: RwLock<HashMap<u32, Arc<Mutex<State>>>>,
}

impl Map {
    pub(crate) fn new(setup: &Setup<'_>) -> Self {
        Self { stock: setup.stock, keys: setup.spread.keys(), states: RwLock::default() }
    }

    pub(crate) fn execute(&self, order: Order) -> bool {
        let known = self.states.read().unwrap_or_else(PoisonError::into_inner).get(&order.key()).map(Arc::clone);
        let state = known.unwrap_or_else(|| {
            Arc::clone(self.states.write().unwrap_or_else(PoisonError::into_inner).entry(order.key()).or_default())
        });
        state.lock().unwrap_or_else(PoisonError::into_inner).execute(order, self.stock)
    }

    pub(crate) fn states(self) -> Vec<State> {
        let states = self.states.into_inner().expect("nobody panicked");
        let state = |key| states.get(&key).map(|state| state.lock().expect("nobody panicked").clone());
        (0..self.keys).map(|key| state(key).unwrap_or_default()).collect()
    }
}

pub(crate) fn open(setup: &Setup<'_>) -> Box<dyn Contender> {
    Box::new(Map::new(setup))
}

impl Contender for Map {
    fn send(&self, orders: &[Order]) {
        for order in orders {
            self.execute(*order);
        }
    }

    fn settle(&self, _orders: usize) {}

    fn call(&self, order: Order) {
        self.execute(order);
    }

    fn states(self: Box<Self>) -> Vec<State> {
        Map::states(*self)
    }
}

/// With a log. Its lock is held until the orders are executed: they are executed in the log's order.
struct Logged {
    map: Map,
    log: Mutex<Log>,
    batch: usize,
}

pub(crate) fn open_logged(setup: &Setup<'_>) -> Box<dyn Contender> {
    Box::new(Logged { map: Map::new(setup), log: Mutex::new(Log::create(setup.directory)), batch: 1 })
}

pub(crate) fn open_logged_in_batches(setup: &Setup<'_>) -> Box<dyn Contender> {
    Box::new(Logged { map: Map::new(setup), log: Mutex::new(Log::create(setup.directory)), batch: BATCH })
}

impl Contender for Logged {
    fn send(&self, orders: &[Order]) {
        for batch in orders.chunks(self.batch) {
            let mut log = self.log.lock().expect("nobody panicked");
            log.append(batch);
            for order in batch {
                self.map.execute(*order);
            }
        }
    }

    fn settle(&self, _orders: usize) {}

    fn call(&self, order: Order) {
        self.send(&[order]);
    }

    fn states(self: Box<Self>) -> Vec<State> {
        let (keys, stock) = (self.map.keys, self.map.stock);
        let states = self.map.states();
        self.log.into_inner().expect("nobody panicked").assert_tells(&states, keys, stock);
        states
    }
}
