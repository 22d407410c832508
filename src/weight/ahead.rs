//! Codes that are made of values in the pass that chooses them.
//!
//! Values in a file are read whenever they are looked at. A step that chooses among them looks at all of them, and
//! so does the next one, which codes those that are left: where the first knows of the second, once is enough.

use super::affine::Granularity;
use super::bytes::Make;
use super::codes::Codes;
use super::leaf::{BLOCK, Coding, Leaf, Support, run_length};
use super::mask::Mask;
use super::values::Values;
use super::{Node, Weight};
use crate::{Fault, Float};
use std::sync::Arc;

/// Entries of a piece at most: a copy of a larger one leaves the cache, and there may be too few for all threads. The
/// values are read once more instead.
const MOST: usize = 8 * BLOCK;

/// Which codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Way {
    pub bits: u8,
    pub symmetric: bool,
    pub granularity: Granularity,
}

/// Codes values that have just been chosen.
pub(crate) trait Coder<T: Float>: Send + Sync {
    fn way(&self) -> Way;

    /// The codes of the `kept` values of whole blocks, which `mask` has chosen.
    fn code(&self, kept: &[T], mask: &Mask, block: usize) -> Result<Piece<T>, Fault>;
}

/// What is coded at a time.
pub(crate) struct Piece<T> {
    /// Of each block.
    pub scales: Vec<T>,
    pub zeros: Vec<u8>,
    pub codes: Codes,
}

/// All pieces of a leaf, in order.
pub(crate) struct Coded<T> {
    pub way: Way,
    pub pieces: Vec<Piece<T>>,
}

impl<T: Float> Coded<T> {
    /// Scales and zero points of all blocks, and the codes of all pieces one after the other.
    pub fn join(self: &Arc<Self>) -> Result<(Vec<T>, Vec<u8>, Codes), Fault> {
        let blocks = self.pieces.iter().map(|p| p.scales.len()).sum();
        let (mut scales, mut zeros) = (Vec::with_capacity(blocks), Vec::with_capacity(blocks));
        let mut len = 0;
        let mut starts = vec![0];
        for piece in &self.pieces {
            scales.extend_from_slice(&piece.scales);
            zeros.extend_from_slice(&piece.zeros);
            len += piece.codes.len();
            starts.push(len);
        }
        let joined = Joined { starts, coded: Arc::clone(self) };
        Ok((scales, zeros, Codes::made(self.way.bits, len, joined)?))
    }

    /// Bytes of memory.
    pub fn resident_bytes(&self) -> usize {
        let piece = |p: &Piece<T>| size_of_val(&p.scales[..]) + p.zeros.len() + p.codes.resident_bytes();
        self.pieces.iter().map(piece).sum()
    }
}

/// The codes of pieces, each of which begins at a whole byte of its own, without room between them.
struct Joined<T> {
    /// The first code of each piece, and the end of the last.
    starts: Vec<usize>,
    coded: Arc<Coded<T>>,
}

impl<T: Float> Make for Joined<T> {
    fn make(&self, at: usize, out: &mut [u8]) -> Result<(), Fault> {
        out.fill(0);
        let bits = usize::from(self.coded.way.bits);
        let first = self.starts[1..].partition_point(|end| *end * bits <= at * 8);
        for (start, piece) in self.starts[first..].iter().zip(&self.coded.pieces[first..]) {
            let (byte, shift) = (start * bits / 8, start * bits % 8);
            if byte >= at + out.len() {
                break;
            }
            let codes = piece.codes.bytes()?;
            add_bits(&codes, byte, at, out, |x| x << shift);
            if shift > 0 {
                add_bits(&codes, byte + 1, at, out, |x| x >> (8 - shift));
            }
        }
        Ok(())
    }

    fn resident(&self) -> usize {
        self.coded.resident_bytes()
    }
}

/// Adds bits of `bytes`, the first of which goes to byte `to` of what `out` holds from byte `at` on.
fn add_bits(bytes: &[u8], to: usize, at: usize, out: &mut [u8], bits: impl Fn(u8) -> u8) {
    let (skip, to) = (at.saturating_sub(to).min(bytes.len()), to.saturating_sub(at).min(out.len()));
    out[to..].iter_mut().zip(&bytes[skip..]).for_each(|(out, byte)| *out |= bits(*byte));
}

impl<T: Float> Weight<T> {
    /// The same weight. Whoever chooses among its values, if they are in a file, codes those that are left as well.
    pub(crate) fn coded_ahead(mut self, coder: &Arc<dyn Coder<T>>) -> Self {
        if let Node::Leaf(Leaf { rows, cols, support: Support::All, coding: Coding::Float(values) }) =
            &mut self.node
            && values.is_unread()
            && coder.way().fits(*rows, *cols)
        {
            values.expect(coder);
        }
        self
    }
}

impl Way {
    /// Whether a matrix can be cut into whole blocks that are chosen and coded piece by piece.
    fn fits(&self, rows: usize, cols: usize) -> bool {
        let divides = match self.granularity {
            Granularity::Tensor => false,
            Granularity::Channel => cols > 0,
            Granularity::Group { size } => size > 0 && cols.is_multiple_of(size),
        };
        // The cut is at a multiple of 64 as well: 64 rows where their length is odd.
        divides && run_length(self.granularity.block(rows, cols), BLOCK).min(rows * cols) <= MOST
    }
}

impl<T: Float> Leaf<T> {
    /// The codes that were made of its values when they were chosen, if these are such codes.
    pub(crate) fn ahead(&self, way: Way) -> Option<&Arc<Coded<T>>> {
        match &self.coding {
            Coding::Float(Values::Chosen { coded: Some(coded), .. }) if coded.way == way => Some(coded),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn joined_codes_are_those_of_one_run(
            bits in 1_u8..=8, lens in prop::collection::vec(0_usize..30, 1..12), cut in any::<prop::sample::Index>(),
        ) {
            let way = Way { bits, symmetric: true, granularity: Granularity::Channel };
            let all: Vec<u8> = (0..lens.iter().sum()).map(|i: usize| (i * 7 % (1 << bits)) as u8).collect();
            let mut rest = &all[..];
            let pieces = lens.iter().map(|len| {
                let (now, later) = rest.split_at(*len);
                rest = later;
                Piece { scales: vec![now.len() as f32], zeros: vec![1], codes: Codes::pack(bits, now) }
            });
            let coded = Arc::new(Coded { way, pieces: pieces.collect() });
            let (scales, zeros, codes) = coded.join().unwrap();
            prop_assert_eq!(scales, lens.iter().map(|len| *len as f32).collect::<Vec<_>>());
            prop_assert_eq!(zeros.len(), lens.len());
            prop_assert_eq!(codes.resident_bytes(), coded.resident_bytes());
            prop_assert!(codes.resident_bytes() >= codes.stored_bytes());
            let wanted = Codes::pack(bits, &all);
            prop_assert_eq!(&codes, &wanted);
            let wanted = wanted.packed();
            let len = wanted.len();
            let cut = cut.index(len + 1);
            let mut bytes = vec![9; len];
            let (head, tail) = bytes.split_at_mut(cut);
            codes.packed().read_into(cut, tail).unwrap();
            codes.packed().read_into(0, head).unwrap();
            prop_assert_eq!(&bytes[..], wanted.heap().unwrap());
        }
    }

    #[test]
    fn large_pieces_are_not_coded_ahead() {
        let fits = |granularity, rows, cols| Way { bits: 4, symmetric: true, granularity }.fits(rows, cols);
        let group = |size| Granularity::Group { size };
        for (rows, cols) in [(64, 1 << 13), (1 << 20, 4096), (9, 11_008), (3, 100_003), (700, 401), (1, 1)] {
            assert!(fits(Granularity::Channel, rows, cols), "{rows} x {cols}");
            assert!(!fits(Granularity::Tensor, rows, cols));
        }
        assert!(fits(group(32), 64, 1 << 20));
        assert!(!fits(group(32), 64, 33));
        assert!(!fits(Granularity::Channel, 64, 1_000_003));
        assert!(!fits(group(1_000_003), 64, 1_000_003));
    }
}
