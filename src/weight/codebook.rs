//! Codebook codes: `x = table[code]`, one table of shared values for a leaf.

use super::Leaf;
use super::codes::Codes;
use super::mask::Mask;
use super::values::Values;
use crate::kernels::codebook as kernels;
use crate::kernels::memory::{self, Slot};
use crate::kernels::quantize::pack;
use crate::{Fault, Float};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Codes that are looked at at a time.
const CHUNK: usize = 1 << 16;
/// Codes that are unpacked at a time, where there are numbers right after.
const UNPACKED: usize = 512;
/// What a byte can say.
const ENTRIES: usize = 256;

/// The codes of a leaf's kept entries, and the values that they stand for.
///
/// Invariant: the table holds 1 to [`Codebook::MOST`] numbers, and the codes are of the fewest bits that tell
/// these apart. Those of a file may lie beyond the table all the same, which is found when they are decoded.
#[derive(Clone, Debug)]
pub(crate) struct Codebook<T: Float> {
    pub table: Values<T>,
    codes: Codes,
    /// Set once all codes are known to lie within the table; one for all clones.
    sound: Arc<OnceLock<()>>,
}

impl<T: Float> Codebook<T> {
    /// The largest table.
    pub const MOST: usize = ENTRIES;

    /// Bits of a code for a table of so many values.
    pub fn bits_for(values: usize) -> u8 {
        (values.max(2) - 1).ilog2() as u8 + 1
    }

    /// `codes` that may come from anywhere.
    pub fn new(table: Values<T>, codes: Codes) -> Self {
        debug_assert!((1..=Self::MOST).contains(&table.len()));
        debug_assert_eq!(codes.bits(), Self::bits_for(table.len()));
        Self { table, codes, sound: Arc::default() }
    }

    /// The same table, for other codes.
    pub fn with_codes(&self, codes: Codes) -> Self {
        Self::new(self.table.clone(), codes)
    }

    pub fn bits(&self) -> u8 {
        self.codes.bits()
    }

    pub fn codes(&self) -> &Codes {
        &self.codes
    }

    /// Length of the table.
    pub fn values(&self) -> usize {
        self.table.len()
    }

    /// The table, filled up to one entry for every byte there is.
    fn padded(&self) -> Result<[T; ENTRIES], Fault> {
        let mut padded = [T::zero(); ENTRIES];
        for (slot, x) in padded.iter_mut().zip(&*self.table.read(0..self.table.len())?) {
            *slot = *x;
        }
        Ok(padded)
    }

    /// The codes in `range`, all within the table.
    pub fn read(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>, Fault> {
        let codes = self.codes.read(range)?;
        if self.may_lie() && kernels::largest(&codes).is_some_and(|code| usize::from(code) >= self.values()) {
            return Err(BEYOND);
        }
        Ok(codes)
    }

    /// Whether some code might lie beyond the table.
    fn may_lie(&self) -> bool {
        self.values() < 1 << self.bits() && self.sound.get().is_none()
    }

    /// Makes sure that all codes lie within the table.
    fn check(&self) -> Result<(), Fault> {
        if self.may_lie() {
            for first in (0..self.codes.len()).step_by(CHUNK) {
                self.read(first..self.codes.len().min(first + CHUNK))?;
            }
            let _ = self.sound.set(());
        }
        Ok(())
    }

    /// The numbers that the kept entries within the flat `range` stand for.
    pub fn decode(&self, range: Range<usize>, mask: Option<&Mask>) -> Result<Vec<T>, Fault> {
        let kept = kept_range(&range, mask).len();
        let room = memory::reserve(kept).map_err(|_| Fault::Form("its numbers do not fit in memory"))?;
        let piece = std::iter::once((kept, range));
        let (values, _) = memory::fill(room, piece, |range, slot| self.decode_to(range, mask, slot))?;
        Ok(values)
    }

    /// The same numbers, put into `out`.
    pub fn decode_to(
        &self,
        range: Range<usize>,
        mask: Option<&Mask>,
        out: &mut Slot<'_, T>,
    ) -> Result<(), Fault> {
        let codes = self.read(kept_range(&range, mask))?;
        kernels::decode(&codes, &self.padded()?, out);
        Ok(())
    }

    pub fn stored_bytes(&self) -> usize {
        self.codes.stored_bytes() + self.table.stored_bytes()
    }

    pub fn resident_bytes(&self) -> usize {
        self.codes.resident_bytes() + self.table.resident_bytes()
    }

    pub fn load(&self) -> Result<Self, Fault> {
        Ok(Self { table: self.table.load()?, codes: self.codes.load()?, sound: Arc::clone(&self.sound) })
    }
}

/// Pruned entries have no code, so they cannot be stored as one.
pub(super) const NO_ZEROS: Fault = Fault::Form("a codebook does not hold pruned entries as zeros");
const BEYOND: Fault = Fault::Form("a code lies beyond its codebook");

/// Where the kept entries of the flat `range` lie among all that are kept; past the end where it does.
pub(super) fn kept_range(range: &Range<usize>, mask: Option<&Mask>) -> Range<usize> {
    let rank = |i: usize| mask.map_or(i, |m| m.rank(i.min(m.len())));
    rank(range.start)..rank(range.end)
}

impl<T: Float> PartialEq for Codebook<T> {
    fn eq(&self, other: &Self) -> bool {
        self.table == other.table && self.codes == other.codes
    }
}

impl<T: Float> Leaf<T> {
    /// Length of the table of shared values, where the entries are held as places in one.
    pub fn codebook(&self) -> Option<usize> {
        match &self.coding {
            super::Coding::Codebook(book) => Some(book.values()),
            _ => None,
        }
    }
}

/// A codebook in memory, ready to be read row by row.
pub(super) struct Lookup<'a, T: Float> {
    packed: Cow<'a, [u8]>,
    bits: u8,
    table: [T; ENTRIES],
}

impl<'a, T: Float> Lookup<'a, T> {
    pub fn new(book: &'a Codebook<T>) -> Result<Self, Fault> {
        book.check()?;
        Ok(Self { packed: book.codes.bytes()?, bits: book.bits(), table: book.padded()? })
    }

    /// The numbers that the kept entries of the flat `range` stand for.
    pub fn values(&self, range: Range<usize>, mask: Option<&Mask>, out: &mut [T]) {
        let first = kept_range(&range, mask).start;
        let mut codes = [0; UNPACKED];
        for (at, out) in (first..).step_by(UNPACKED).zip(out.chunks_mut(UNPACKED)) {
            let codes = &mut codes[..out.len()];
            pack::unpack_from(self.bits, &self.packed, at, codes);
            out.iter_mut().zip(&*codes).for_each(|(x, code)| *x = self.table[usize::from(*code)]);
        }
    }

    /// The bytes that hold the codes of the flat `range`; none where it lies past the end.
    pub fn bytes(&self, range: Range<usize>, mask: Option<&Mask>) -> &[u8] {
        pack::bytes_of(self.bits, &self.packed, kept_range(&range, mask))
    }
}
