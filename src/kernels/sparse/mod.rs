//! Rows whose kept values lie close together, with a bit for each entry.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dot;
mod dots;
mod expand;
mod lanes;
mod offsets;
#[cfg(target_arch = "x86_64")]
mod two_of_four;
#[cfg(target_arch = "x86_64")]
mod two_of_four_avx2;
#[cfg(target_arch = "x86_64")]
mod vbmi;
#[cfg(target_arch = "x86_64")]
mod vbmi2;

pub use dot::ByteDots;
pub use dots::Dots;
pub use expand::expand_bytes;
pub use lanes::{Beside, LONGEST, places, places_room};
pub use offsets::{BLOCK, Bytes, Offsets, RowsOf, TOGETHER};

use super::memory::Aligned;

/// What these kernels do for a number type; implemented for `f32` and `f64`.
pub trait Sparse: Copy {
    /// The sum of the kept values of a row with `x` at their places, for rows that keep many.
    #[doc(hidden)]
    fn dot_dense(bits: Bits<'_>, kept: &[Self], x: &[Self]) -> Self;
    /// The same of `scale * (code - zero)`, if there is a way that is worth it and no sum on it gets too large.
    #[doc(hidden)]
    fn dot_codes(bits: Bits<'_>, codes: &[u8], grid: (Self, u8), x: &[Self]) -> Option<Self>;
    /// All entries of a row: zeros where none is kept.
    #[doc(hidden)]
    fn expand(bits: Bits<'_>, kept: &[Self], out: &mut [Self]);
    /// Adds the sums of some kept values of a row with each of `L` inputs at their places after a first one.
    #[doc(hidden)]
    fn add_products<const L: usize>(
        places: &[u16],
        kept: &[Self],
        x: (&Beside<Self, L>, usize),
        out: &mut [Self],
    );
    /// An input in planes of bytes, where a CPU finds its numbers faster by them.
    #[doc(hidden)]
    fn planes(x: &[Self]) -> Option<Aligned<u8>>;
    /// See [`Dots::sums`].
    #[doc(hidden)]
    fn sums_by_offsets(dots: &Dots<'_, Self>, rows: RowsOf<'_>, kept: &[Self], out: &mut [Self]);
    /// See [`Dots::sums_of_codes`].
    #[doc(hidden)]
    fn code_sums_by_offsets(
        dots: &Dots<'_, Self>,
        rows: RowsOf<'_>,
        codes: (&[u8], &[u8]),
        out: &mut [Self],
    ) -> bool;
}

impl Sparse for f32 {
    fn dot_dense(bits: Bits<'_>, kept: &[Self], x: &[Self]) -> Self {
        dot::dot_dense_f32(bits, kept, x)
    }

    fn dot_codes(bits: Bits<'_>, codes: &[u8], grid: (Self, u8), x: &[Self]) -> Option<Self> {
        dot::dot_codes_f32(bits, codes, grid, x)
    }

    fn expand(bits: Bits<'_>, kept: &[Self], out: &mut [Self]) {
        expand::expand_floats(bits, kept, out);
    }

    fn add_products<const L: usize>(
        places: &[u16],
        kept: &[Self],
        x: (&Beside<Self, L>, usize),
        out: &mut [Self],
    ) {
        lanes::add_products_f32(places, kept, x, out);
    }

    fn planes(x: &[Self]) -> Option<Aligned<u8>> {
        dots::planes_f32(x)
    }

    fn sums_by_offsets(dots: &Dots<'_, Self>, rows: RowsOf<'_>, kept: &[Self], out: &mut [Self]) {
        dots::sums_f32(dots, rows, kept, out);
    }

    fn code_sums_by_offsets(
        dots: &Dots<'_, Self>,
        rows: RowsOf<'_>,
        codes: (&[u8], &[u8]),
        out: &mut [Self],
    ) -> bool {
        dots::sums_of_codes_f32(dots, rows, codes, out)
    }
}

impl Sparse for f64 {
    fn dot_dense(bits: Bits<'_>, kept: &[Self], x: &[Self]) -> Self {
        dot::dot_dense(bits, kept, x)
    }

    fn dot_codes(_: Bits<'_>, _: &[u8], _: (Self, u8), _: &[Self]) -> Option<Self> {
        None
    }

    fn expand(bits: Bits<'_>, kept: &[Self], out: &mut [Self]) {
        expand::plain(bits, kept, 0.0, out);
    }

    fn add_products<const L: usize>(
        places: &[u16],
        kept: &[Self],
        x: (&Beside<Self, L>, usize),
        out: &mut [Self],
    ) {
        lanes::add_products(places, kept, x, out);
    }

    fn planes(_: &[Self]) -> Option<Aligned<u8>> {
        None
    }

    fn sums_by_offsets(dots: &Dots<'_, Self>, rows: RowsOf<'_>, kept: &[Self], out: &mut [Self]) {
        dots.plain_sums(rows, kept, out);
    }

    fn code_sums_by_offsets(_: &Dots<'_, Self>, _: RowsOf<'_>, _: (&[u8], &[u8]), _: &mut [Self]) -> bool {
        false
    }
}

/// Entries of a word of a mask.
pub const WORD: usize = 64;

/// The bits of one row: `cols` of them from bit `start` of `words` on. Its kept values may have others after
/// them, and are read faster then.
#[derive(Clone, Copy)]
pub struct Bits<'a> {
    pub words: &'a [u64],
    pub start: usize,
    pub cols: usize,
}

impl<'a> Bits<'a> {
    /// The words that are all of this row, and begin where one of `words` does: as many as come first.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn whole(&self) -> &'a [u64] {
        let words = if self.start.is_multiple_of(WORD) { self.cols / WORD } else { 0 };
        &self.words[self.start / WORD..][..words]
    }

    /// Bits `WORD * i ..` of the row, zeros past its end.
    #[inline(always)]
    fn word(&self, i: usize) -> u64 {
        let at = self.start + i * WORD;
        let mut word = self.words[at / WORD] >> (at % WORD);
        if !at.is_multiple_of(WORD) {
            word |= self.words.get(at / WORD + 1).map_or(0, |next| next << (WORD - at % WORD));
        }
        let left = self.cols - i * WORD;
        if left < WORD { word & ((1 << left) - 1) } else { word }
    }

    /// Words that the row takes.
    #[inline(always)]
    fn len(&self) -> usize {
        self.cols.div_ceil(WORD)
    }
}

#[cfg(test)]
mod tests;
