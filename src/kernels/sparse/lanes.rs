//! The sums of the kept values of a row with many inputs, which lie side by side.

use super::{Bits, WORD};
use crate::kernels::memory::Aligned;
use crate::kernels::cpu::{fast, has_fused, multiply_add};
use num_traits::{Float, NumAssign};

/// Places that are written at a time, whether there are as many or not.
const STEP: usize = 8;

/// Puts the places of the kept entries of a row, in order, to the front of `out`, which has room for [`STEP`]
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
}

/// Adds the sums of some kept values of a row with each of `L` inputs at their places after `first`. `S` kept
/// values go on side by side: a sum must wait for the one before it.
pub fn add_products<T: Float + NumAssign + Default, const L: usize, const S: usize>(
    places: &[u32],
    kept: &[T],
    (x, first): (&Beside<T, L>, usize),
    out: &mut [T],
) {
    let x = &x.0.get().as_chunks::<L>().0[first..];
    if has_fused() {
        fast(
            #[inline(always)]
            || add::<T, L, S, true>(places, kept, x, out),
        );
    } else {
        add::<T, L, S, false>(places, kept, x, out);
    }
}

#[inline(always)]
fn add<T: Float + NumAssign, const L: usize, const S: usize, const FUSED: bool>(
    places: &[u32],
    kept: &[T],
    x: &[[T; L]],
    out: &mut [T],
) {
    let ((places, last_places), (kept, last)) = (places.as_chunks::<S>(), kept.as_chunks::<S>());
    let mut sums = [[T::zero(); L]; S];
    for (places, kept) in places.iter().zip(kept) {
        for ((sums, place), value) in sums.iter_mut().zip(places).zip(kept) {
            add_one::<T, L, FUSED>(sums, &x[*place as usize], *value);
        }
    }
    for ((sums, place), value) in sums.iter_mut().zip(last_places).zip(last) {
        add_one::<T, L, FUSED>(sums, &x[*place as usize], *value);
    }
    for (i, out) in out.iter_mut().enumerate() {
        *out += sums.iter().fold(T::zero(), |all, sums| all + sums[i]);
    }
}

#[inline(always)]
fn add_one<T: Float, const L: usize, const FUSED: bool>(sums: &mut [T; L], x: &[T; L], value: T) {
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum = multiply_add::<T, FUSED>(value, *x, *sum);
    }
}
