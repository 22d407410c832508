//! Codes that are made of values in the pass that chooses them.
//!
//! Values in a file are read whenever they are looked at. A step that chooses among them looks at all of them, and
//! so does the next one, which codes those that are left: where the first knows of the second, once is enough.

use super::affine::Granularity;
use super::bytes::Make;
use super::codes::Codes;
use super::leaf::{Coding, Leaf, Support};
use super::mask::Mask;
use super::values::Values;
use super::{Node, Weight};
use crate::{Fault, Float};
use std::sync::Arc;

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
    pub fn join(self: &Arc<Self>) -> (Vec<T>, Vec<u8>, Codes) {
        let blocks = self.pieces.iter().map(|p| p.scales.len()).sum();
        let (mut scales, mut zeros) = (Vec::with_capacity(blocks), Vec::with_capacity(blocks));
        let mut len = 0;
        let mut starts = vec![0];
        for piece in &self.pieces {
            scales.extend_from_slice(&piece.scales);
            zeros.extend_from_slice(&piece.zeros);
            len += piece.codes.len();
            starts.push(len * usize::from(self.way.bits));
        }
        let joined = Joined { starts, coded: Arc::clone(self) };
        (scales, zeros, Codes::made(self.way.bits, len, joined))
    }
}

/// The codes of pieces, each of which begins at a whole byte of its own, without room between them.
struct Joined<T> {
    /// The first bit of each piece, and the end of the last.
    starts: Vec<usize>,
    coded: Arc<Coded<T>>,
}

impl<T: Float> Make for Joined<T> {
    fn make(&self, at: usize, out: &mut [u8]) -> Result<(), Fault> {
        out.fill(0);
        let first = self.starts[1..].partition_point(|end| *end <= at * 8);
        for (start, piece) in self.starts[first..].iter().zip(&self.coded.pieces[first..]) {
            let (byte, shift) = (start / 8, start % 8);
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
}

/// Adds bits of `bytes`, the first of which goes to byte `to` of what `out` holds from byte `at` on.
fn add_bits(bytes: &[u8], to: usize, at: usize, out: &mut [u8], bits: impl Fn(u8) -> u8) {
    let (skip, to) = (at.saturating_sub(to).min(bytes.len()), to.saturating_sub(at).min(out.len()));
    out[to..].iter_mut().zip(&bytes[skip..]).for_each(|(out, byte)| *out |= bits(*byte));
}

impl<T: Float> Weight<T> {
    /// The same weight. Whoever chooses among its values, if they are in a file, codes those that are left as well.
    pub(crate) fn coded_ahead(mut self, coder: &Arc<dyn Coder<T>>) -> Self {
        if let Node::Leaf(Leaf { cols, support: Support::All, coding: Coding::Float(values), .. }) =
            &mut self.node
            && values.is_unread()
            && coder.way().divides(*cols)
        {
            values.expect(coder);
        }
        self
    }
}

impl Way {
    fn divides(&self, cols: usize) -> bool {
        match self.granularity {
            Granularity::Tensor => false,
            Granularity::Channel => cols > 0,
            Granularity::Group { size } => size > 0 && cols.is_multiple_of(size),
        }
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
            let (scales, zeros, codes) = coded.join();
            prop_assert_eq!(scales, lens.iter().map(|len| *len as f32).collect::<Vec<_>>());
            prop_assert_eq!(zeros.len(), lens.len());
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
}
