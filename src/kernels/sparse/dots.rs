//! The products of kept entries, which are found by their [`Offsets`], with an input of floats.

use super::Sparse;
use super::lanes::fetch;
use super::offsets::{Offsets, RowsOf, SUMS};
#[cfg(target_arch = "x86_64")]
use super::vbmi;
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::Vbmi2;
use crate::kernels::cpu::{fast, has_fused, multiply_add};
use crate::kernels::memory::Aligned;
use num_traits::{Float, NumAssign};

/// The products of kept entries with an input.
pub struct Dots<'a, T> {
    offsets: &'a Offsets,
    x: &'a [T],
    /// For each block the first bytes of its numbers, then the second ones, and so on: where a CPU finds bytes faster
    /// than numbers.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) planes: Option<Aligned<u8>>,
}

impl<'a, T: Sparse + Float + NumAssign> Dots<'a, T> {
    pub fn new(offsets: &'a Offsets, x: &'a [T]) -> Self {
        Self { offsets, x, planes: T::planes(x) }
    }

    /// The sums of the kept values of the rows from `first` on that `out` is for with the input at their places. `kept`
    /// are the values of these rows and [`WORD`] more of any kind.
    pub fn sums(&self, first: usize, kept: &[T], out: &mut [T]) {
        T::sums_by_offsets(self, self.offsets.rows(first, out.len()), kept, out);
    }

    /// The same of `code - zero`, if there is a way that is worth it. A sum may be too large for a number.
    #[must_use]
    pub fn sums_of_codes(&self, first: usize, codes: &[u8], zeros: &[u8], out: &mut [T]) -> bool {
        T::code_sums_by_offsets(self, self.offsets.rows(first, out.len()), (codes, zeros), out)
    }

    /// The portable form of [`sums`](Self::sums).
    pub(super) fn plain_sums(&self, rows: RowsOf<'_>, kept: &[T], out: &mut [T]) {
        out.fill(T::zero());
        rows.for_each_stretch(|row, first, places, range| {
            let (kept, x) = (&kept[range], &self.x[first..]);
            out[row] += if has_fused() {
                fast(
                    #[inline(always)]
                    || dot::<T, true>(places, kept, x),
                )
            } else {
                dot::<T, false>(places, kept, x)
            };
        });
    }
}

/// The sum of values with the input at their places.
#[inline(always)]
fn dot<T: Float + NumAssign, const FUSED: bool>(places: &[u16], kept: &[T], x: &[T]) -> T {
    let mut sums = [T::zero(); SUMS];
    let ((values, more), (places, more_places)) = (kept.as_chunks::<SUMS>(), places.as_chunks::<SUMS>());
    for (values, places) in values.iter().zip(places) {
        fetch(values);
        for i in 0..SUMS {
            sums[i] = multiply_add::<T, FUSED>(values[i], x[usize::from(places[i])], sums[i]);
        }
    }
    for ((sum, value), place) in sums.iter_mut().zip(more).zip(more_places) {
        *sum = multiply_add::<T, FUSED>(*value, x[usize::from(*place)], *sum);
    }
    sums.into_iter().fold(T::zero(), |a, b| a + b)
}

pub(super) fn planes_f32(x: &[f32]) -> Option<Aligned<u8>> {
    #[cfg(target_arch = "x86_64")]
    return Vbmi2::new().map(|cpu| vbmi::planes(cpu, x));
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = x;
        None
    }
}

pub(super) fn sums_f32(dots: &Dots<'_, f32>, rows: RowsOf<'_>, kept: &[f32], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if let (Some(cpu), Some(planes)) = (Vbmi2::new(), &dots.planes) {
        return vbmi::sums(cpu, rows, kept, planes.get(), out);
    }
    dots.plain_sums(rows, kept, out);
}

pub(super) fn sums_of_codes_f32(
    dots: &Dots<'_, f32>,
    rows: RowsOf<'_>,
    codes: (&[u8], &[u8]),
    out: &mut [f32],
) -> bool {
    #[cfg(target_arch = "x86_64")]
    if let (Some(cpu), Some(planes)) = (Vbmi2::new(), &dots.planes) {
        vbmi::sums_of_codes(cpu, rows, codes, planes.get(), out);
        return true;
    }
    let _ = (dots, rows, codes, out);
    false
}
