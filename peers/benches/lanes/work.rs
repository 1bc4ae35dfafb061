//! The work, the same for all: an order takes 1 to 3 portions from the stock of its key, or is refused if there are fewer.
//! And the recount.

use std::hint::black_box;

use serde::{Deserialize, Serialize};

pub(crate) const SENDERS: usize = 4;
pub(crate) const KEYS: u32 = 10_000;

/// One order: key, sender, number. As a word it is the subject of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order(pub(crate) u64);

impl Order {
    /// Not an order: asks what the state is.
    const PROBE: u32 = u32::MAX;

    fn new(key: u32, sender: usize, number: u32) -> Self {
        Self(u64::from(key) << 36 | (sender as u64) << 32 | u64::from(number))
    }

    pub(crate) fn probe(key: u32) -> Self {
        Self::new(key, 0, Self::PROBE)
    }

    pub(crate) fn is_probe(self) -> bool {
        self.number() == Self::PROBE
    }

    pub(crate) fn key(self) -> u32 {
        (self.0 >> 36) as u32
    }

    pub(crate) fn sender(self) -> usize {
        (self.0 >> 32) as usize % SENDERS
    }

    pub(crate) fn number(self) -> u32 {
        (self.0 & u64::from(u32::MAX)) as u32
    }

    fn portions(self) -> u64 {
        1 + scatter(self.0) % 3
    }
}

/// What is known of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    sold: u64,
    refused: u64,
    /// By sender: how many orders, and a hash of their numbers in the order in which they were executed.
    executed: [u32; SENDERS],
    hashes: [u64; SENDERS],
}

impl State {
    /// True if there was enough.
    pub(crate) fn execute(&mut self, order: Order, stock: u64) -> bool {
        let order = black_box(order);
        let sender = order.sender();
        self.executed[sender] += 1;
        self.hashes[sender] = follow(self.hashes[sender], order.number());
        let enough = self.sold + order.portions() <= stock;
        if enough {
            self.sold += order.portions();
        } else {
            self.refused += 1;
        }
        black_box(enough)
    }
}

fn follow(hash: u64, number: u32) -> u64 {
    scatter(hash.wrapping_mul(31).wrapping_add(u64::from(number) + 1))
}

/// A permutation of the 64-bit numbers (the finalizer of splitmix64).
fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// How orders spread over keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Spread {
    One,
    Uniform,
    Zipf,
}

impl Spread {
    pub(crate) const ALL: [Self; 3] = [Self::One, Self::Uniform, Self::Zipf];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        }
    }

    pub(crate) fn keys(self) -> u32 {
        if self == Self::One { 1 } else { KEYS }
    }

    /// Picks a key for a random number.
    fn picker(self) -> Box<dyn Fn(u64) -> u32> {
        match self {
            Self::One => Box::new(|_| 0),
            Self::Uniform => Box::new(|random| (random % u64::from(KEYS)) as u32),
            Self::Zipf => {
                let mut sum = 0.0;
                let mut sums = Vec::new();
                for rank in 1..=KEYS {
                    sum += f64::from(rank).powf(-0.99);
                    sums.push(sum);
                }
                Box::new(move |random| {
                    let at = (random >> 11) as f64 / (1_u64 << 53) as f64 * sum;
                    sums.partition_point(|sum| *sum < at).min(KEYS as usize - 1) as u32
                })
            }
        }
    }
}

/// What each sender sends, in its order.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) orders: Vec<Vec<Order>>,
    pub(crate) spread: Spread,
    /// Portions of each key.
    pub(crate) stock: u64,
}

impl Load {
    pub(crate) fn new(spread: Spread, orders: usize) -> Self {
        let pick = spread.picker();
        let of_sender = |sender: usize| {
            let number = |number| Order::new(pick(scatter((sender as u64) << 40 | u64::from(number))), sender, number);
            (0..(orders / SENDERS) as u32).map(number).collect()
        };
        // About half of what is asked for.
        let stock = (orders as u64 / u64::from(spread.keys())).max(3);
        Self { orders: (0..SENDERS).map(of_sender).collect(), spread, stock }
    }

    pub(crate) fn all(&self) -> Vec<usize> {
        self.orders.iter().map(Vec::len).collect()
    }

    /// Whether the states are those after the first `sent` orders of each sender: every one executed once, those of one
    /// sender to one key in their order, and never more sold than there was, nor less than could be.
    pub(crate) fn check(&self, sent: &[usize], states: &[State]) -> Result<(), String> {
        let mut expected = vec![State::default(); self.spread.keys() as usize];
        for (orders, sent) in self.orders.iter().zip(sent) {
            for order in &orders[..*sent] {
                let state = &mut expected[order.key() as usize];
                state.executed[order.sender()] += 1;
                state.hashes[order.sender()] = follow(state.hashes[order.sender()], order.number());
                state.sold += order.portions();
            }
        }
        if states.len() != expected.len() {
            return Err(format!("{} states of {}", states.len(), expected.len()));
        }
        for (key, (state, expected)) in states.iter().zip(&expected).enumerate() {
            let enough = expected.sold <= self.stock;
            let sold = if enough { state.sold == expected.sold } else { state.sold + 3 > self.stock };
            if state.executed != expected.executed
                || state.hashes != expected.hashes
                || state.sold > self.stock
                || !sold
                || (state.refused > 0) == enough
            {
                return Err(format!("key {key}: {state:?}, where all orders come to {expected:?}"));
            }
        }
        Ok(())
    }
}
