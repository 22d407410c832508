//! The sums of the kept values of a row with many inputs, which lie side by side.

use super::{Bits, WORD};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::kernels::cpu::fast;
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::{Avx2, Vbmi2};
use crate::kernels::memory::Aligned;
use crate::kernels::transpose::transpose;
use bytemuck::Pod;
use num_traits::{Float, NumAssign};

/// Places that are written at a time, whether there are as many or not.
const STEP: usize = 8;
/// The most that any form writes past the last, [`Offsets`](super::Offsets) too.
pub(super) const ROOM: usize = 32;
/// The longest part of a row whose places fit.
pub const LONGEST: usize = 1 << 16;

/// Puts the places of the kept entries of a row of up to [`LONGEST`], in order, to the front of `out`, which has
/// the room of [`places_room`], and says how many they are.
pub fn places(bits: Bits<'_>, out: &mut [u16]) -> usize {
    debug_assert!(bits.cols <= LONGEST);
    #[cfg(target_arch = "x86_64")]
    if let Some(cpu) = Vbmi2::new() {
        return avx512::places(cpu, bits, out);
    }
    plain_places(bits, out)
}

/// The portable form.
pub(super) fn plain_places(bits: Bits<'_>, out: &mut [u16]) -> usize {
    let mut at = 0;
    fast(
        #[inline(always)]
        || {
            for i in 0..bits.len() {
                let mut word = bits.word(i);
                let mut left = word.count_ones() as usize;
                loop {
                    for place in &mut out[at..at + STEP] {
                        *place = (i * WORD + word.trailing_zeros() as usize) as u16;
                        word &= word.wrapping_sub(1);
                    }
                    at += left.min(STEP);
                    if left <= STEP {
                        break;
                    }
                    left -= STEP;
                }
            }
        },
    );
    at
}

/// Room that [`places`] wants for a row of `cols` entries.
pub fn places_room(cols: usize) -> usize {
    cols + ROOM
}

/// `L` inputs beside each other: `[k][L]`, zeros where there are fewer.
pub struct Beside<T, const L: usize>(Aligned<T>);

impl<T: Float + Default + Pod, const L: usize> Beside<T, L> {
    /// Of up to `L` inputs `x`, one after the other, of `k` values each.
    pub fn new(x: &[T], k: usize) -> Self {
        let mut out = Aligned::new(k * L);
        let n = (x.len() / k.max(1)).min(L);
        transpose((x, k), [n, k], (out.get_mut(), L));
        Self(out)
    }

    pub(super) fn rows(&self) -> &[[T; L]] {
        self.0.get().as_chunks().0
    }
}

/// See [`Sparse::add_products`](super::Sparse::add_products).
pub(super) fn add_products<T: Float + NumAssign + Default + Pod, const L: usize>(
    places: &[u16],
    kept: &[T],
    (x, first): (&Beside<T, L>, usize),
    out: &mut [T],
) {
    let x = &x.rows()[first..];
    fast(
        #[inline(always)]
        || {
            let mut sums = [T::zero(); L];
            for (place, value) in places.iter().zip(kept) {
                sums.iter_mut().zip(&x[usize::from(*place)]).for_each(|(sum, x)| *sum += *value * *x);
            }
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
        },
    );
}

pub(super) fn add_products_f32<const L: usize>(
    places: &[u16],
    kept: &[f32],
    x: (&Beside<f32, L>, usize),
    out: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    {
        let rows = &x.0.0.get()[x.1 * L..];
        match (L, Vbmi2::new(), Avx2::new()) {
            (16, Some(cpu), _) => return avx512::add_products::<1, 4>(cpu, places, kept, rows, out),
            (32, Some(cpu), _) => return avx512::add_products::<2, 4>(cpu, places, kept, rows, out),
            (8, _, Some(cpu)) => return avx2::add_products::<1, 4>(cpu, places, kept, rows, out),
            (16, _, Some(cpu)) => return avx2::add_products::<2, 4>(cpu, places, kept, rows, out),
            (32, _, Some(cpu)) => return avx2::add_products::<4, 2>(cpu, places, kept, rows, out),
            _ => {}
        }
    }
    add_products(places, kept, x, out);
}

/// Has what lies ahead of some kept values brought near: memory does not see by itself that all of them will be
/// wanted. A hint, which never faults, wherever it points.
#[inline(always)]
pub(super) fn fetch<T>(kept: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const AHEAD: usize = 4096;
        let ahead = kept.wrapping_byte_add(AHEAD);
        // SAFETY: every x86-64 has the instruction.
        #[allow(unsafe_code)]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = kept;
}

/// A function `$name::<V, S>(places, kept, x, out)`: `out` plus the sums of kept values with the rows of `x` at their
/// places, of `V` vectors of `$lanes` each; `S` values go on side by side, as a sum must wait for the one before it.
#[cfg(target_arch = "x86_64")]
macro_rules! products {
    (
        #[$features:meta]
        $name:ident, $lanes:expr, $zero:expr, $all:expr, $load:expr, $multiply_add:expr, $add:expr, $store:expr
    ) => {
        #[$features]
        fn $name<const V: usize, const S: usize>(places: &[u16], kept: &[f32], x: &[f32], out: &mut [f32]) {
            let x = x.as_chunks::<{ $lanes }>().0.as_chunks::<V>().0;
            let mut sums = [[$zero(); V]; S];
            let ((places, more_places), (kept, more)) = (places.as_chunks::<S>(), kept.as_chunks::<S>());
            for (places, kept) in places.iter().zip(kept) {
                fetch(kept);
                for (sums, (place, value)) in sums.iter_mut().zip(places.iter().zip(kept)) {
                    let value = $all(*value);
                    for (sum, x) in sums.iter_mut().zip(&x[usize::from(*place)]) {
                        *sum = $multiply_add(value, $load(x), *sum);
                    }
                }
            }
            for (place, value) in more_places.iter().zip(more) {
                let value = $all(*value);
                for (sum, x) in sums[0].iter_mut().zip(&x[usize::from(*place)]) {
                    *sum = $multiply_add(value, $load(x), *sum);
                }
            }
            for v in 0..V {
                let all = sums.iter().fold($zero(), |all, sums| $add(all, sums[v]));
                out.iter_mut().skip($lanes * v).zip($store(all)).for_each(|(out, sum)| *out += sum);
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use products;
