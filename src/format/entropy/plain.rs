//! Simple models, quick enough for any amount of data: one estimate a context, and no mixing.

use super::Coder;

/// Where a probability starts: a half.
const HALF: u16 = 1 << 15;
const RATE: u32 = 5;

/// The probability of a 1 that follows what came, by a fixed part of the way each time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chance(u16);

impl Chance {
    pub const EVEN: Self = Self(HALF);

    #[inline]
    pub fn code(&mut self, coder: &mut impl Coder, bit: bool) -> bool {
        // Never 0: it stops moving down at 31, and up as far below the top.
        let bit = coder.bit(u32::from(self.0), bit);
        if bit {
            self.0 += (u16::MAX - self.0) >> RATE;
        } else {
            self.0 -= self.0 >> RATE;
        }
        bit
    }
}

/// Symbols of a fixed number of bits, most significant bit first, each bit in the context of those before
/// it.
pub(in crate::format) struct Tree {
    bits: u32,
    nodes: Vec<Chance>,
}

impl Tree {
    pub fn new(bits: u32) -> Self {
        Self { bits, nodes: vec![Chance::EVEN; 1 << bits] }
    }

    pub fn code(&mut self, coder: &mut impl Coder, symbol: u32) -> u32 {
        let mut node = 1;
        for i in (0..self.bits).rev() {
            let bit = self.nodes[node as usize].code(coder, symbol >> i & 1 == 1);
            node = node << 1 | u32::from(bit);
        }
        node - (1 << self.bits)
    }
}

/// Whole numbers: their length in bits, then their bits, as likely one way as the other.
pub(in crate::format) struct Whole(Tree);

impl Whole {
    pub fn new() -> Self {
        Self(Tree::new(7))
    }

    pub fn code(&mut self, coder: &mut impl Coder, number: u64) -> u64 {
        let length = self.0.code(coder, 64 - number.leading_zeros()).min(64);
        if length == 0 {
            return 0;
        }
        let bit = |coder: &mut _, i: u32| Coder::bit(coder, 1 << 15, number >> i & 1 == 1);
        (0..length - 1).rev().fold(1, |n, i| n << 1 | u64::from(bit(coder, i)))
    }
}

/// The bits of a mask, each in the context of its neighbours to the left and above. Runs of entries without
/// a kept one are a single bit.
pub(in crate::format) struct PlainBits {
    runs: [Chance; 4],
    /// A run that is not empty and has only its last entry left: a 1.
    entries: [Chance; 16],
}

/// Entries of a run.
const RUN: usize = 16;

impl PlainBits {
    pub fn new() -> Self {
        Self { runs: [Chance::EVEN; 4], entries: [Chance::EVEN; 16] }
    }

    /// Codes `entries` bits, row by row; `on` is a bitmask of zeros that is filled with them.
    pub fn code(
        mut self,
        coder: &mut impl Coder,
        (entries, cols): (usize, usize),
        on: &mut [u8],
        bit: impl Fn(usize) -> bool,
    ) {
        for start in (0..entries).step_by(RUN) {
            let run = start..entries.min(start + RUN);
            let context = usize::from(any(on, start.wrapping_sub(RUN)))
                | usize::from(any(on, start.wrapping_sub(cols))) << 1;
            if !self.runs[context].code(coder, run.clone().any(&bit)) {
                continue;
            }
            let mut none = true;
            for i in run.clone() {
                // The last entry of a run that is not empty is known where all others are pruned.
                let one =
                    if none && i + 1 == run.end { true } else { self.entry(coder, i, cols, on, bit(i)) };
                none &= !one;
                on[i / 8] |= u8::from(one) << (i % 8);
            }
        }
    }

    fn entry(&mut self, coder: &mut impl Coder, i: usize, cols: usize, on: &[u8], bit: bool) -> bool {
        let column = i.checked_rem(cols).unwrap_or(0);
        let seen = |back: usize, there: bool| {
            usize::from(there && back <= i && on[(i - back) / 8] >> ((i - back) % 8) & 1 == 1)
        };
        let context = seen(1, column >= 1)
            | seen(2, column >= 2) << 1
            | seen(cols, true) << 2
            | seen(cols.wrapping_sub(1), column + 1 < cols && cols > 1) << 3;
        self.entries[context].code(coder, bit)
    }
}

/// Whether something is kept among the entries of a run that starts about at `i`, which may lie nowhere.
fn any(on: &[u8], i: usize) -> bool {
    let byte = i / 8;
    on.get(byte..byte.saturating_add(2)).is_some_and(|pair| pair != [0, 0])
}
