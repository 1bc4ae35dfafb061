#![no_main]

use commissary_fuzz::ops::{OP_BYTES, OPS_MAX, run};
use libfuzzer_sys::{fuzz_crossover, fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|bytes: &[u8]| run(bytes, &mut Default::default()));

// Whole operations come, go and change places; what one says is changed as libFuzzer likes.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut chance = Chance(seed);
    let most = (max_size / OP_BYTES).min(OPS_MAX);
    let mut ops: Vec<[u8; OP_BYTES]> = data[..size].as_chunks().0.iter().take(most).copied().collect();
    for _ in 0..=chance.below(3) {
        let (at, other) = (chance.below(ops.len().max(1)), chance.below(ops.len().max(1)));
        match chance.below(8) {
            0 | 1 if ops.len() < most => ops.insert(at.min(ops.len()), chance.op()),
            2 if ops.len() > 1 => drop(ops.drain(at.min(other)..at.max(other))),
            3 if ops.len() > 1 => ops.swap(at, other),
            4 if !ops.is_empty() => {
                let again = ops[at..(at + 1 + chance.below(4)).min(ops.len())].to_vec();
                ops.splice(other..other, again);
            }
            5 if !ops.is_empty() => ops[at][chance.below(OP_BYTES)] = chance.op()[0],
            6 if !ops.is_empty() => {
                fuzzer_mutate(&mut ops[at], OP_BYTES, OP_BYTES);
            }
            _ => ops.push(chance.op()),
        }
    }
    ops.truncate(most);
    let bytes = ops.as_flattened();
    data[..bytes.len()].copy_from_slice(bytes);
    bytes.len()
});

// The beginning of one, and the end of the other.
fuzz_crossover!(|one: &[u8], other: &[u8], out: &mut [u8], seed: u32| {
    let mut chance = Chance(seed);
    let (one, other) = (one.as_chunks::<OP_BYTES>().0, other.as_chunks::<OP_BYTES>().0);
    let begin = &one[..chance.below(one.len() + 1)];
    let end = &other[chance.below(other.len() + 1)..];
    let bytes = [begin.as_flattened(), end.as_flattened()].concat();
    let len = bytes.len().min(out.len() / OP_BYTES * OP_BYTES).min(OPS_MAX * OP_BYTES);
    out[..len].copy_from_slice(&bytes[..len]);
    len
});

/// SplitMix, on 32 bits: the fuzzer gives one number a mutation.
struct Chance(u32);

impl Chance {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9);
        let mixed = (self.0 ^ self.0 >> 16).wrapping_mul(0x21f0_aaad);
        let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x735a_2d97);
        mixed ^ mixed >> 15
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }

    fn op(&mut self) -> [u8; OP_BYTES] {
        self.next().to_be_bytes()
    }
}
