//! Codes of the kept entries of a matrix: the sign first, then the magnitude.
//!
//! The codes of a sorted table count up from the most negative value to the most positive one, as affine
//! codes do. Weights that look at neighbouring places of an image tend to have the same sign, and a column
//! of positive weights tends to stay one; magnitudes follow their own distribution.

use super::logistic::{Estimate, Mixer, UNIT, squash, stretch};
use super::{Coder, Geometry};
use crate::DType;

/// How many codes there are, and how many of them stand for negative values.
#[derive(Clone, Copy, Debug)]
pub(in crate::format) struct Signs {
    pub codes: u32,
    pub negative: u32,
}

impl Signs {
    /// As many negative as positive values.
    pub fn middle(bits: u8) -> Self {
        Self { codes: 1 << bits, negative: 1 << (bits - 1) }
    }

    /// Of a table of floats, for codes of the fewest bits.
    pub fn of_table(bytes: &[u8], dtype: DType) -> Self {
        let numbers = bytes.chunks_exact((dtype.bits() / 8).max(1));
        let codes = (numbers.len().clamp(2, 256) as u32).next_power_of_two();
        let negative = numbers.filter(|x| x.last().is_some_and(|top| top & 0x80 != 0)).count();
        Self { codes, negative: (negative as u32).min(codes) }
    }
}

const CONTEXTS: usize = 5;
/// The contexts beside the one that stands alone, and that one itself.
const INPUTS: usize = CONTEXTS + 1;
/// Values of a context, and nodes of the tree of a code: a node each for the bits before.
const PLACES: usize = 260;
const LIMIT: u32 = 1023;
const SPEED: i32 = 150;
/// Situations of the mixer that looks at how the signs around agree.
const AGREEMENT: usize = 7;

/// The places around one in its block that are coded before it.
const NEAR: [(isize, isize); 6] = [(0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0)];

pub(in crate::format) struct CodeModel<'a> {
    geometry: &'a Geometry,
    signs: Signs,
    alone: Vec<Estimate>,
    /// Tables of estimates, of which those without any bits are new.
    contexts: Vec<Vec<Estimate>>,
    /// Nodes of the tree of a code: each tells the bits before, and the sign.
    nodes: usize,
    mixers: [Mixer<INPUTS>; 2],
    /// Codes of the current row and of the last entry of each column, plus 1; 0 where there is none.
    row: Vec<u16>,
    column: Vec<u16>,
    /// Positive less negative values that came so far.
    columns: Vec<i32>,
    /// The current row.
    current: usize,
    left: u16,
}

impl<'a> CodeModel<'a> {
    pub fn new(geometry: &'a Geometry, bits: u8, signs: Signs) -> Self {
        let mut weights = [UNIT / 5; INPUTS];
        weights[CONTEXTS] = UNIT;
        let (cols, nodes) = (geometry.cols, 4 << bits);
        Self {
            geometry,
            signs,
            alone: vec![Estimate::even(); nodes],
            contexts: vec![vec![Estimate::even(); PLACES * nodes]; CONTEXTS],
            nodes,
            mixers: [Mixer::new(10, weights, SPEED), Mixer::new(AGREEMENT + 1, weights, SPEED)],
            row: vec![0; cols],
            column: vec![0; cols],
            columns: vec![0; cols],
            current: 0,
            left: 0,
        }
    }

    /// Codes the code of entry `i`, which comes after those of all entries before.
    pub fn code(&mut self, coder: &mut impl Coder, i: usize, code: u8) -> u8 {
        let (r, c) = (i / self.geometry.cols, i % self.geometry.cols);
        if r != self.current {
            self.current = r;
            self.left = 0;
            self.row.fill(0);
        }
        let (agreement, places) = self.places(c);
        let Signs { codes, negative } = self.signs;
        let code = u32::from(code);
        let both = negative > 0 && negative < codes;
        let positive =
            if both { self.bit(coder, (0, 0), agreement, &places, code >= negative) } else { negative == 0 };
        let (rank, ranks) = match positive {
            true => (code.wrapping_sub(negative), codes - negative),
            false => ((negative.wrapping_sub(1)).wrapping_sub(code), negative),
        };
        let bits = u32::BITS - ranks.saturating_sub(1).leading_zeros();
        let mut node = 1;
        for k in (0..bits).rev() {
            let at = (node << 1 | usize::from(positive), (bits - k) as usize);
            let bit = self.bit(coder, at, AGREEMENT, &places, rank >> k & 1 == 1);
            node = node << 1 | usize::from(bit);
        }
        // A stream that lies may name a code that there is not.
        let rank = (node as u32 - (1 << bits)).min(ranks.saturating_sub(1));
        let code = (if positive { negative + rank } else { negative - 1 - rank }) as u8;
        self.remember(c, code, positive);
        code
    }

    /// How far the signs around agree, and the values of the contexts.
    fn places(&self, c: usize) -> (usize, [usize; CONTEXTS]) {
        let sign = |code: u16| match code {
            0 => 0_usize,
            code if u32::from(code) > self.signs.negative => 2,
            _ => 1,
        };
        let mut sum = 0;
        for (down, right) in NEAR {
            let Some(there) = self.geometry.beside(c, down, right) else { continue };
            let weight = if down.abs() + right.abs() == 1 { 2 } else { 1 };
            sum += weight * [0, -1, 1][sign(self.row[there])];
        }
        let agreement = (sum.clamp(-3, 3) + 3) as usize;
        let balance = |n: i32, most: i32| (n.clamp(-most, most) + most) as usize;
        let places = [
            usize::from(self.left),
            usize::from(self.column[c]),
            agreement,
            self.current.min(PLACES - 1),
            agreement * 9 + balance(self.columns[c], 4),
        ];
        (agreement, places)
    }

    fn remember(&mut self, c: usize, code: u8, positive: bool) {
        let step = if positive { 1 } else { -1 };
        self.row[c] = u16::from(code) + 1;
        self.column[c] = u16::from(code) + 1;
        self.columns[c] += step;
        self.left = u16::from(code) + 1;
    }

    /// One bit of a code: `node` tells the bits before it, `depth` how many they are.
    fn bit(
        &mut self,
        coder: &mut impl Coder,
        (node, depth): (usize, usize),
        agreement: usize,
        places: &[usize; CONTEXTS],
        bit: bool,
    ) -> bool {
        let alone = self.alone[node];
        let base = stretch(alone.p());
        let mut inputs = [0; INPUTS];
        for ((x, table), place) in inputs.iter_mut().zip(&mut self.contexts).zip(places) {
            // A context that is new starts from what is known without it.
            let estimate = &mut table[place * self.nodes + node];
            if estimate.count() == 0 {
                *estimate = Estimate::new(alone.p(), 2);
            }
            *x = estimate.trusted(stretch(estimate.p()) - base);
        }
        inputs[CONTEXTS] = base;
        let situations = [depth, agreement];
        let mixed: i32 = self.mixers.iter_mut().zip(situations).map(|(m, s)| m.mix(&inputs, s)).sum();
        let bit = coder.bit(squash(mixed / 2), bit);
        self.mixers.iter_mut().for_each(|m| m.learn(bit));
        self.alone[node].learn(bit, LIMIT);
        for (table, place) in self.contexts.iter_mut().zip(places) {
            table[place * self.nodes + node].learn(bit, LIMIT);
        }
        bit
    }
}
