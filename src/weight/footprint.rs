//! What a leaf takes in a file and in memory, and the way from one to the other.

use super::Leaf;
use super::affine::Affine;
use super::codebook::NO_ZEROS;
use super::codes::{Codes, Packer};
use super::leaf::{Coding, Support};
use super::storage::StoredMask;
use super::values::Values;
use crate::{Fault, Float};
use std::sync::Arc;

impl<T: Float> Leaf<T> {
    /// The same leaf with numbers for kept entries only; a copy is made only where zeros stand for pruned
    /// entries.
    pub(crate) fn settled(self) -> Result<Self, Fault> {
        if matches!(self.support, Support::Zeros(_)) { self.load() } else { Ok(self) }
    }

    /// Bytes in a file. `stride` is the distance between neighbouring inputs of a row: `kh * kw` for a
    /// convolution, else 1.
    pub(crate) fn stored_bytes(&self, stride: usize) -> usize {
        match &self.support {
            Support::All | Support::Zeros(_) => self.coding.stored_bytes(),
            Support::Stored(mask) => mask.stored_bytes() + self.coding.stored_bytes(),
            Support::Kept(mask) => {
                let masked =
                    StoredMask::form(mask, self.rows, self.cols, stride).bytes() + self.coding.stored_bytes();
                // Values that cannot be read are no reason to fail here: saving them does.
                if self.fits_as_zeros(masked).unwrap_or(false) { self.spread_bytes() } else { masked }
            }
        }
    }

    /// Bytes of the leaf with its pruned entries stored as zeros.
    fn spread_bytes(&self) -> usize {
        match &self.coding {
            Coding::Float(values) => self.len() * values.dtype().bits() / 8,
            Coding::Affine(affine) => {
                affine.stored_bytes() - affine.codes.stored_bytes()
                    + Codes::packed_bytes(affine.bits(), self.len()).unwrap_or(usize::MAX)
            }
            // Zero stays outside the table.
            Coding::Codebook(_) => usize::MAX,
        }
    }

    /// Whether storing pruned entries as zeros takes less than `masked` bytes, and loses nothing: no kept
    /// entry may be zero.
    pub(crate) fn fits_as_zeros(&self, masked: usize) -> Result<bool, Fault> {
        if self.spread_bytes() >= masked {
            return Ok(false);
        }
        let mask = self.mask()?;
        let found =
            self.map_blocks(mask.as_deref(), 1, |block| Ok(block.kept.iter().any(|x| *x == T::zero())))?;
        Ok(!found.contains(&true))
    }

    /// The same entries with the pruned ones as zeros in the coding, to be stored without a mask.
    pub(crate) fn spread(&self) -> Result<Coding<T>, Fault> {
        let mask = self.mask()?;
        let mask = mask.as_deref();
        match &self.coding {
            Coding::Float(values) => Ok(Coding::Float(Values::selected(self.to_vec()?, values.dtype()))),
            Coding::Affine(affine) => {
                let block = affine.granularity.block(self.rows, self.cols).max(1);
                let mut packer = Packer::new(affine.bits());
                for part in self.map_ranges(1, |range| {
                    let blocks = range.start / block..range.end.div_ceil(block);
                    let zeros = affine.zeros(blocks.clone())?;
                    let mut codes: Vec<u8> = range.clone().map(|i| zeros[i / block - blocks.start]).collect();
                    if let Some(mask) = mask {
                        let kept = affine.codes.unpack(mask.rank(range.start)..mask.rank(range.end))?;
                        for (i, code) in mask.positions(range.clone()).zip(kept) {
                            codes[i - range.start] = code;
                        }
                    }
                    Ok(codes)
                })? {
                    packer.extend(&part);
                }
                Ok(Coding::Affine(Affine { codes: packer.finish(), ..affine.clone() }))
            }
            Coding::Codebook(_) => Err(NO_ZEROS),
        }
    }

    pub(crate) fn resident_bytes(&self) -> usize {
        let mask = match &self.support {
            Support::All | Support::Zeros(_) => 0,
            Support::Kept(mask) => mask.resident_bytes(),
            Support::Stored(mask) => mask.resident_bytes(),
        };
        mask + match &self.coding {
            Coding::Float(values) => values.resident_bytes(),
            Coding::Affine(affine) => affine.resident_bytes(),
            Coding::Codebook(book) => book.resident_bytes(),
        }
    }

    /// The same leaf with its mask in memory; its numbers are what they are, bit for bit.
    pub(crate) fn with_mask(self) -> Result<Self, Fault> {
        match self.support {
            Support::Stored(mask) => Ok(Self { support: Support::Kept(Arc::new(mask.read()?)), ..self }),
            _ => Ok(self),
        }
    }

    /// The same leaf in memory, compressed as it is, for one product: no more than handles where it is there already.
    pub(crate) fn for_product(&self) -> Result<Self, Fault> {
        let leaf = self.load()?;
        if let (Support::Stored(_) | Support::Zeros(_), Support::Kept(mask)) = (&self.support, &leaf.support)
        {
            mask.use_once();
        }
        Ok(leaf)
    }

    /// The same leaf with everything in memory, and numbers for kept entries only.
    pub(crate) fn load(&self) -> Result<Self, Fault> {
        let mask = self.mask()?;
        let coding = match &self.coding {
            Coding::Float(values) => Coding::Float(values.load()?),
            Coding::Affine(affine) => Coding::Affine(affine.load()?),
            Coding::Codebook(book) => Coding::Codebook(book.load()?),
        };
        let coding = match (&self.support, &mask) {
            (Support::Zeros(_), Some(mask)) => {
                let runs = self.map_ranges(1, Ok)?;
                coding.retain(runs.into_iter().map(|run| (run.len(), mask.words(run))))?
            }
            _ => coding,
        };
        Ok(Self { support: mask.map_or(Support::All, Support::Kept), coding, ..*self })
    }
}

impl<T: Float> Coding<T> {
    pub fn stored_bytes(&self) -> usize {
        match self {
            Self::Float(values) => values.stored_bytes(),
            Self::Affine(affine) => affine.stored_bytes(),
            Self::Codebook(book) => book.stored_bytes(),
        }
    }
}
