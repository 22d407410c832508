//! Numbers of whole bytes: floats of tensors, codebooks and scales, and tensors that are carried along.
//!
//! A number is coded from its top bit down, after a map that keeps the order of floats: so a table that is
//! sorted, as codebooks are, is known to rise, and the bits of the exponent come in the context of the sign.

use super::Coder;
use super::logistic::{Estimate, Mixer, UNIT, squash, stretch};
use super::plain::Tree;
use crate::DType;

const CONTEXTS: usize = 4;
const TABLE: usize = 1 << 12;
const LIMIT: u32 = 250;

pub(in crate::format) struct NumberModel {
    /// Bytes of a number, and whether it is a float.
    width: usize,
    float: bool,
    mixing: Option<Mixed>,
    /// Without mixing: a tree for each byte.
    trees: Vec<Tree>,
}

struct Mixed {
    contexts: Vec<Vec<Estimate>>,
    mixer: Mixer<CONTEXTS>,
    before: u64,
}

impl NumberModel {
    pub fn new(dtype: DType, bytes: usize, mixing: bool) -> Self {
        let width = match dtype.bits() / 8 {
            width @ 1..=8 if bytes.is_multiple_of(width) => width,
            _ => 1,
        };
        let mixed = || Mixed {
            contexts: vec![vec![Estimate::even(); TABLE]; CONTEXTS],
            mixer: Mixer::new(width * 8, [UNIT * 2 / 5; CONTEXTS], 60),
            before: 0,
        };
        Self {
            width,
            float: dtype.is_float(),
            trees: (0..width).map(|_| Tree::new(8)).collect(),
            mixing: mixing.then(mixed),
        }
    }

    /// Codes the bytes of as many whole numbers as `bytes` holds; those given are overwritten with those
    /// that were coded.
    pub fn code(&mut self, coder: &mut impl Coder, bytes: &mut [u8]) {
        for number in bytes.chunks_exact_mut(self.width) {
            let Some(mixed) = &mut self.mixing else {
                for (byte, tree) in number.iter_mut().zip(&mut self.trees) {
                    *byte = tree.code(coder, u32::from(*byte)) as u8;
                }
                continue;
            };
            let mut wide = [0; 8];
            wide[..number.len()].copy_from_slice(number);
            let bits = 8 * number.len() as u32;
            let top = 1 << (bits - 1);
            let ones = u64::MAX >> (64 - bits);
            let float = self.float;
            let raw = u64::from_le_bytes(wide);
            let turned = match float {
                true if raw & top != 0 => !raw & ones,
                true => raw | top,
                false => raw,
            };
            let coded = mixed.number(coder, turned, bits);
            let raw = match float {
                true if coded & top != 0 => coded ^ top,
                true => !coded & ones,
                false => coded,
            };
            number.copy_from_slice(&raw.to_le_bytes()[..number.len()]);
        }
    }
}

impl Mixed {
    fn number(&mut self, coder: &mut impl Coder, number: u64, bits: u32) -> u64 {
        let (mut prefix, mut tight) = (0_u64, true);
        for i in (0..bits).rev() {
            let before = self.before >> i;
            let place = i as usize;
            // The bits so far with a 1 before them: the first few tell signs and exponents apart.
            let node = (1 << (bits - 1 - i) | prefix) as usize;
            let close = usize::from(tight) << 1 | (before & 1) as usize;
            let places = [
                place << 2 | close,
                if node < 1 << 10 { node } else { 1 << 10 | place },
                if node < 1 << 8 { 1 << 10 | node << 2 | close } else { place << 3 | (prefix & 7) as usize },
                1 << 11 | hash(place, prefix),
            ];
            let mut inputs = [0; CONTEXTS];
            for ((x, table), at) in inputs.iter_mut().zip(&self.contexts).zip(places) {
                *x = table[at].trusted(stretch(table[at].p()));
            }
            let mixed = self.mixer.mix(&inputs, place);
            let bit = coder.bit(squash(mixed), number >> i & 1 == 1);
            self.mixer.learn(bit);
            for (table, at) in self.contexts.iter_mut().zip(places) {
                table[at].learn(bit, LIMIT);
            }
            prefix = prefix << 1 | u64::from(bit);
            tight &= (before & 1 == 1) == bit;
        }
        self.before = prefix;
        prefix
    }
}

/// Of a place and the bits before it, in 11 bits.
fn hash(place: usize, prefix: u64) -> usize {
    let mixed = (prefix << 6 | place as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 53) as usize
}
