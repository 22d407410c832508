//! The sums of the kept values of a row with many inputs, which lie side by side.

use super::{Bits, WORD};
use crate::kernels::cpu::{fast, has_fused, multiply_add};
use num_traits::{Float, NumAssign};

/// Places that are written at a time.
const STEP: usize = 8;

/// Appends the places of the kept entries of a row, in order.
pub fn places(bits: Bits<'_>, out: &mut Vec<u32>) {
    fast(
        #[inline(always)]
        || {
            for i in 0..bits.len() {
                let mut word = bits.word(i);
                let first = (i * WORD) as u32;
                let end = out.len() + word.count_ones() as usize;
                while word != 0 {
                    let places: [u32; STEP] = std::array::from_fn(|_| {
                        let place = first + word.trailing_zeros();
                        word &= word.wrapping_sub(1);
                        place
                    });
                    out.extend_from_slice(&places);
                }
                out.truncate(end);
            }
        },
    );
}

/// `L` inputs beside each other: `[k][L]`, zeros where there are fewer.
pub struct Beside<T, const L: usize>(Vec<[T; L]>);

impl<T: Float, const L: usize> Beside<T, L> {
    /// Of up to `L` inputs `x`, one after the other, of `k` values each.
    pub fn new(x: &[T], k: usize) -> Self {
        let mut out = vec![[T::zero(); L]; k];
        for (b, row) in x.chunks_exact(k.max(1)).enumerate().take(L) {
            out.iter_mut().zip(row).for_each(|(out, x)| out[b] = *x);
        }
        Self(out)
    }
}

/// Adds the sums of some kept values of a row with each of `L` inputs at their places after `first`. `S` kept
/// values go on side by side: a sum must wait for the one before it.
pub fn add_products<T: Float + NumAssign, const L: usize, const S: usize>(
    places: &[u32],
    kept: &[T],
    (x, first): (&Beside<T, L>, usize),
    out: &mut [T],
) {
    let x = &x.0[first..];
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
    let one = |sums: &mut [T; L], place: u32, value: T| {
        let x = &x[place as usize];
        sums.iter_mut().zip(x).for_each(|(sum, x)| *sum = multiply_add::<T, FUSED>(value, *x, *sum));
    };
    for (places, kept) in places.iter().zip(kept) {
        sums.iter_mut().zip(places).zip(kept).for_each(|((sums, place), value)| one(sums, *place, *value));
    }
    sums.iter_mut().zip(last_places).zip(last).for_each(|((sums, place), value)| one(sums, *place, *value));
    for (i, out) in out.iter_mut().enumerate() {
        *out += sums.iter().fold(T::zero(), |all, sums| all + sums[i]);
    }
}
