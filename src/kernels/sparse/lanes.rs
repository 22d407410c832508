//! The sums of the kept values of a row with many inputs, which lie side by side.

#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::{Bits, WORD};
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::Avx2;
use crate::kernels::cpu::fast;
use crate::kernels::memory::Aligned;
use num_traits::{Float, NumAssign};

/// Places that are written at a time, whether there are as many or not.
const STEP: usize = 8;

/// Puts the places of the kept entries of a row, in order, to the front of `out`, which has room for `STEP`
/// more than there are, and says how many they are.
pub fn places(bits: Bits<'_>, out: &mut [u32]) -> usize {
    let mut at = 0;
    fast(
        #[inline(always)]
        || {
            for i in 0..bits.len() {
                let mut word = bits.word(i);
                let mut left = word.count_ones() as usize;
                loop {
                    for place in &mut out[at..at + STEP] {
                        *place = (i * WORD) as u32 + word.trailing_zeros();
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
    cols + STEP
}

/// `L` inputs beside each other: `[k][L]`, zeros where there are fewer.
pub struct Beside<T, const L: usize>(Aligned<T>);

impl<T: Float + Default, const L: usize> Beside<T, L> {
    /// Of up to `L` inputs `x`, one after the other, of `k` values each.
    pub fn new(x: &[T], k: usize) -> Self {
        let mut out = Aligned::new(k * L);
        for (b, row) in x.chunks_exact(k.max(1)).enumerate().take(L) {
            out.get_mut().chunks_exact_mut(L).zip(row).for_each(|(out, x)| out[b] = *x);
        }
        Self(out)
    }

    fn rows(&self) -> &[[T; L]] {
        self.0.get().as_chunks().0
    }
}

/// See [`Sparse::add_products`](super::Sparse::add_products).
pub(super) fn add_products<T: Float + NumAssign + Default, const L: usize>(
    places: &[u32],
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
                sums.iter_mut().zip(&x[*place as usize]).for_each(|(sum, x)| *sum += *value * *x);
            }
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
        },
    );
}

pub(super) fn add_products_f32<const L: usize>(
    places: &[u32],
    kept: &[f32],
    x: (&Beside<f32, L>, usize),
    out: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if let Some(cpu) = Avx2::new() {
        let rows = &x.0.0.get()[x.1 * L..];
        match L {
            8 => return avx2::add_products::<1, 4>(cpu, places, kept, rows, out),
            16 => return avx2::add_products::<2, 4>(cpu, places, kept, rows, out),
            32 => return avx2::add_products::<4, 2>(cpu, places, kept, rows, out),
            _ => {}
        }
    }
    add_products(places, kept, x, out);
}
