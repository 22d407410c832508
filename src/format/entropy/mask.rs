//! Which entries of a matrix are kept, a bit each, row by row.
//!
//! Pruned networks are far from random: units and inputs die as a whole, inputs that matter to one unit
//! matter to others, and where inputs form an image, they do so in patches. Each of a number of contexts
//! has its own estimate; a mixer learns for this very matrix which of them to believe. How many entries are
//! kept is known in advance, so what is left of it is one more estimate.

use super::Coder;
use super::logistic::{CERTAIN, Estimate, Mixer, UNIT, squash, stretch};

/// How the columns of a matrix lie: blocks (channels) of so many rows and columns each.
#[derive(Clone, Debug)]
pub(in crate::format) struct Geometry {
    pub cols: usize,
    height: usize,
    width: usize,
    /// Of the matrix before, how many entries each row keeps: its outputs are the inputs of this one.
    before: Vec<u32>,
    /// Columns for each of these rows; 0 where the two do not fit together.
    step: usize,
}

/// Columns are taken for the pixels of an image from this edge on.
const IMAGE: usize = 8;

impl Geometry {
    /// Of a weight of this shape that comes after a matrix whose rows keep so many entries each.
    pub fn new(shape: &[usize], cols: usize, before: &[u32]) -> Self {
        let fits = !before.is_empty() && cols.is_multiple_of(before.len());
        let step = if fits { cols / before.len() } else { 0 };
        let kernel = shape.get(2..).unwrap_or(&[]);
        let [height, width] = match kernel {
            [.., h, w] if h * w > 1 && cols.is_multiple_of(h * w) => [*h, *w],
            [n] if *n > 1 && cols.is_multiple_of(*n) => [1, *n],
            // Feature maps that were made flat, or an image.
            _ => match (edge(step), edge(cols)) {
                (Some(edge), _) => [edge; 2],
                (None, Some(edge)) if edge >= IMAGE && step <= 1 && !(step == 1 && cols == before.len()) => {
                    [edge; 2]
                }
                _ => [1, 1],
            },
        };
        let step = if kernel.is_empty() || step == height * width { step } else { 0 };
        Self { cols, height, width, before: if step > 0 { before.to_vec() } else { Vec::new() }, step }
    }

    fn block(&self) -> usize {
        self.height * self.width
    }

    /// Entries that the row behind column `c` keeps in the matrix before.
    fn before(&self, c: usize) -> Option<usize> {
        self.before.get(c.checked_div(self.step)?).map(|n| *n as usize)
    }

    /// The column that lies `down` and `right` of `c` in the same block.
    pub fn beside(&self, c: usize, down: isize, right: isize) -> Option<usize> {
        let (block, place) = (c / self.block(), c % self.block());
        let y = (place / self.width).checked_add_signed(down).filter(|y| *y < self.height)?;
        let x = (place % self.width).checked_add_signed(right).filter(|x| *x < self.width)?;
        Some(block * self.block() + y * self.width + x)
    }
}

/// The edge of a square of more than one place.
fn edge(places: usize) -> Option<usize> {
    let edge = places.isqrt();
    (edge > 1 && edge * edge == places).then_some(edge)
}

/// Small numbers as they are, larger ones by their magnitude: 0 to 9.
fn rough(n: usize) -> usize {
    match n {
        0..=3 => n,
        4..=5 => 4,
        6..=8 => 5,
        9..=15 => 6,
        16..=31 => 7,
        32..=63 => 8,
        _ => 9,
    }
}

/// Magnitude of a number, up to 15.
fn magnitude(n: usize) -> usize {
    ((usize::BITS - n.leading_zeros()) as usize).min(15)
}

const CONTEXTS: usize = 7;
/// The contexts, and what is left of the kept entries.
const INPUTS: usize = CONTEXTS + 1;
/// More than the number of any context but the column.
const TABLE: usize = 2048;
/// Places beside one in its block that are coded before it: nearest first.
const NEAR: [(isize, isize); 12] = [
    (0, -1),
    (-1, 0),
    (-1, -1),
    (-1, 1),
    (0, -2),
    (-2, 0),
    (-2, -1),
    (-2, 1),
    (-1, -2),
    (-1, 2),
    (-2, -2),
    (-2, 2),
];
const LIMIT: u32 = 1023;
const SPEED: i32 = 100;

/// Bits of all rows up to the current one, and what can be counted among them.
struct Seen {
    /// How many rows have kept each column.
    columns: Vec<u32>,
    /// How many have kept those around it, the nearest twice, and the most that this can be a row.
    around: Vec<u32>,
    most: Vec<u32>,
    /// The current row, and a column that there is not.
    row: Vec<bool>,
    kept: usize,
    /// Kept in the current row, and in the current block of it.
    in_row: usize,
    in_block: usize,
}

pub(in crate::format) struct MaskModel<'a> {
    geometry: &'a Geometry,
    entries: usize,
    kept: usize,
    density: i32,
    /// Where the places of [`NEAR`] are for each column.
    near: Vec<[u32; NEAR.len()]>,
    contexts: Vec<Vec<Estimate>>,
    mixers: [Mixer<INPUTS>; 2],
}

impl<'a> MaskModel<'a> {
    pub fn new(geometry: &'a Geometry, entries: usize, kept: usize) -> Self {
        let density = share(kept, entries);
        // A few kept entries, or the lack of them, make a context differ.
        let firm = (CERTAIN / 10 / density).clamp(1, 250);
        let table = |i| vec![Estimate::new(density, firm); if i == COLUMN { geometry.cols } else { TABLE }];
        let mut weights = [UNIT / 5; INPUTS];
        weights[CONTEXTS] = UNIT;
        let beside =
            |c: usize, (down, right)| geometry.beside(c, down, right).unwrap_or(geometry.cols) as u32;
        let near = |c| NEAR.map(|place| beside(c, place));
        Self {
            geometry,
            entries,
            kept,
            density: stretch(density),
            near: if geometry.block() > 1 { (0..geometry.cols).map(near).collect() } else { Vec::new() },
            contexts: (0..CONTEXTS).map(table).collect(),
            mixers: [Mixer::new(2, weights, SPEED), Mixer::new(12, weights, SPEED)],
        }
    }

    /// Codes the bits; `on` is a bitmask of zeros that is filled with them.
    pub fn code(mut self, coder: &mut impl Coder, on: &mut [u8], bit: impl Fn(usize) -> bool) {
        let (cols, block) = (self.geometry.cols, self.geometry.block());
        let mut seen = Seen {
            columns: vec![0; cols],
            around: vec![0; cols],
            most: (0..cols).map(|c| self.around(c).map(|(_, weight)| weight).sum()).collect(),
            row: vec![false; cols + 1],
            kept: 0,
            in_row: 0,
            in_block: 0,
        };
        for r in 0..self.entries.checked_div(cols).unwrap_or(0) {
            seen.in_row = 0;
            seen.row.fill(false);
            for c in 0..cols {
                if c % block == 0 {
                    seen.in_block = 0;
                }
                let i = r * cols + c;
                // What is left is known where it is none or all.
                let one = match self.kept.saturating_sub(seen.kept) {
                    0 => false,
                    left if left >= self.entries - i => true,
                    left => self.entry(coder, (r, c), left, &seen, on, bit(i)),
                };
                if one {
                    on[i / 8] |= 1 << (i % 8);
                    seen.row[c] = true;
                    seen.kept += 1;
                    seen.in_row += 1;
                    seen.in_block += 1;
                }
            }
            for c in (0..cols).filter(|c| seen.row[*c]) {
                seen.columns[c] += 1;
                for (there, weight) in self.around(c) {
                    seen.around[there] += weight;
                }
            }
        }
    }

    /// The columns around one in its block, and how much they count.
    fn around(&self, c: usize) -> impl Iterator<Item = (usize, u32)> + '_ {
        let reach = if self.geometry.block() > 1 { -2..=2_isize } else { 0..=0 };
        reach.clone().flat_map(move |down| reach.clone().map(move |right| (down, right))).filter_map(
            move |(down, right)| {
                let there = self.geometry.beside(c, down, right).filter(|there| *there != c)?;
                Some((there, if down.abs() <= 1 && right.abs() <= 1 { 2 } else { 1 }))
            },
        )
    }

    fn entry(
        &mut self,
        coder: &mut impl Coder,
        (r, c): (usize, usize),
        left: usize,
        seen: &Seen,
        on: &[u8],
        bit: bool,
    ) -> bool {
        let Self { geometry, entries, contexts, mixers, density, .. } = self;
        let (i, block) = (r * geometry.cols + c, geometry.block());
        let above = |rows: usize| {
            let there = (rows <= r).then(|| i - rows * geometry.cols);
            usize::from(there.is_some_and(|i| on[i / 8] >> (i % 8) & 1 == 1))
        };
        let (mut near, mut shape) = (0, 0);
        if let Some(places) = self.near.get(c) {
            for (k, there) in places.iter().enumerate() {
                let one = usize::from(seen.row[*there as usize]);
                near += one;
                shape |= one << k;
            }
        } else {
            for k in 1..=2.min(c) {
                near += usize::from(seen.row[c - k]);
                shape |= usize::from(seen.row[c - k]) << (k - 1);
            }
        }
        let column = rough(seen.columns[c] as usize);
        let around = seen.around[c] as usize * 4 / seen.most[c].max(1) as usize;
        let in_block = seen.in_block;
        let before = geometry.before(c).map_or(10, rough);
        let above = [above(1), above(2), above(3), above(4)];
        let places = [
            rough(seen.in_row) * 16 + magnitude(c + 1),
            c,
            shape & 63,
            (rough(in_block) * 10 + rough(block - c % block)) * 4 + above[0] + above[1],
            before * 16 + column,
            above.iter().rev().fold(shape & 3, |bits, one| bits << 1 | one),
            if geometry.cols > block && block > 1 {
                (c / block).min(1023) * 2 + usize::from(in_block > 0)
            } else {
                rough(around) * 16 + near
            },
        ];
        let mut inputs = [0; INPUTS];
        for ((x, table), place) in inputs.iter_mut().zip(&*contexts).zip(places) {
            let estimate = table[place];
            *x = estimate.trusted(stretch(estimate.p()) - *density);
        }
        inputs[CONTEXTS] = stretch(share(left, *entries - i));
        let dead = usize::from(before == 0);
        let situations = [usize::from(r > 7), near.min(5) + 6 * dead];
        let mixed: i32 = mixers.iter_mut().zip(situations).map(|(m, s)| m.mix(&inputs, s)).sum();
        let bit = coder.bit(squash(mixed / 2), bit);
        mixers.iter_mut().for_each(|m| m.learn(bit));
        for (table, place) in contexts.iter_mut().zip(places) {
            table[place].learn(bit, LIMIT);
        }
        bit
    }
}

/// The context that is the column itself.
const COLUMN: usize = 1;

/// `part / whole` as a probability that is neither 0 nor 1.
fn share(part: usize, whole: usize) -> u32 {
    let p = (part as u64).saturating_mul(u64::from(CERTAIN)) / (whole.max(1) as u64);
    p.clamp(64, u64::from(CERTAIN) - 64) as u32
}
