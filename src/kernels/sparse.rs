//! Products of rows whose kept values lie close together, with a bit for each entry.

use super::cpu::fast;
use num_traits::{Float, NumAssign};

/// Entries of a word of a mask.
const WORD: usize = 64;
/// Values that are summed without looking whether there are as many.
const SLOTS: usize = 8;

/// The bits of one row: `cols` of them from bit `start` of `words` on.
#[derive(Clone, Copy)]
pub struct Bits<'a> {
    pub words: &'a [u64],
    pub start: usize,
    pub cols: usize,
}

impl Bits<'_> {
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

    #[inline(always)]
    fn len(&self) -> usize {
        self.cols.div_ceil(WORD)
    }
}

/// An input with a zero after each `WORD` values: where a word has no bit left, it points there.
pub struct Spaced<T>(Vec<[T; WORD + 1]>);

impl<T: Float> Spaced<T> {
    pub fn new(x: &[T]) -> Self {
        let space = |x: &[T]| {
            let mut out = [T::zero(); WORD + 1];
            out[..x.len()].copy_from_slice(x);
            out
        };
        Self(x.chunks(WORD).map(space).collect())
    }
}

/// The sum of the kept values of a row with the input at their places.
pub fn dot<T: Float + NumAssign>(bits: Bits<'_>, kept: &[T], x: &Spaced<T>) -> T {
    let sum = fast(
        #[inline(always)]
        || quick(bits, kept, x),
    );
    // A value that is not finite has met zeros that are not its own.
    if sum.is_finite() { sum } else { plain(bits, kept, x) }
}

#[inline(always)]
fn quick<T: Float + NumAssign>(bits: Bits<'_>, mut kept: &[T], x: &Spaced<T>) -> T {
    let mut sums = [T::zero(); SLOTS];
    for (i, x) in x.0.iter().enumerate().take(bits.len()) {
        let mut word = bits.word(i);
        while word != 0 {
            let count = (word.count_ones() as usize).min(SLOTS).min(kept.len());
            if let Some(values) = kept.first_chunk::<SLOTS>() {
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += *value * x[word.trailing_zeros() as usize];
                    word &= word.wrapping_sub(1);
                }
            } else {
                for (sum, value) in sums.iter_mut().zip(kept).take(count) {
                    *sum += *value * x[word.trailing_zeros() as usize];
                    word &= word.wrapping_sub(1);
                }
            }
            kept = &kept[count..];
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

fn plain<T: Float + NumAssign>(bits: Bits<'_>, kept: &[T], x: &Spaced<T>) -> T {
    let mut kept = kept.iter();
    let mut sum = T::zero();
    for (i, x) in x.0.iter().enumerate().take(bits.len()) {
        let mut word = bits.word(i);
        while word != 0 {
            sum += kept.next().map_or(T::zero(), |value| *value * x[word.trailing_zeros() as usize]);
            word &= word - 1;
        }
    }
    sum
}

/// The places of the kept entries of a row, in order, into `out`.
pub fn places(bits: Bits<'_>, out: &mut Vec<u32>) {
    out.clear();
    fast(
        #[inline(always)]
        || {
            for i in 0..bits.len() {
                let mut word = bits.word(i);
                let first = (i * WORD) as u32;
                let end = out.len() + word.count_ones() as usize;
                while word != 0 {
                    let places: [u32; SLOTS] = std::array::from_fn(|_| {
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

/// The sums of a row's kept values with each of `L` inputs at their places.
pub fn dots<T: Float + NumAssign, const L: usize>(places: &[u32], kept: &[T], x: &Beside<T, L>) -> [T; L] {
    fast(
        #[inline(always)]
        || {
            let mut sums = [T::zero(); L];
            for (place, value) in places.iter().zip(kept) {
                let x = &x.0[*place as usize];
                sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += *value * *x);
            }
            sums
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sparse_rows_give_the_sums(
            on in prop::collection::vec(any::<bool>(), 0..600), thin in any::<u8>(), start in 0_usize..200, bad in any::<bool>(),
        ) {
            let on: Vec<bool> = on.iter().enumerate().map(|(i, on)| *on && (thin & 3 == 0 || i * 7 % 10 == 0)).collect();
            let cols = on.len();
            let mut words = vec![0_u64; (start + cols).div_ceil(64) + 1];
            // What is not of this row is all ones.
            for i in (0..words.len() * 64).filter(|i| *i < start || *i >= start + cols || on[*i - start]) {
                words[i / 64] |= 1 << (i % 64);
            }
            let bits = Bits { words: &words, start, cols };
            let columns: Vec<usize> = (0..cols).filter(|i| on[*i]).collect();
            let mut kept: Vec<f64> = (0..columns.len()).map(|i| (i % 7) as f64 - 3.0).collect();
            if bad && kept.len() > 2 {
                kept[2] = f64::INFINITY;
            }
            let x: Vec<f64> = (0..cols).map(|i| (i % 11) as f64 + 1.0).collect();
            let exact = |b: usize| columns.iter().zip(&kept).map(|(c, v)| v * (x[*c] + b as f64)).sum::<f64>();
            prop_assert_eq!(dot(bits, &kept, &Spaced::new(&x)), exact(0));
            let mut found = Vec::new();
            places(bits, &mut found);
            prop_assert_eq!(found.iter().map(|p| *p as usize).collect::<Vec<_>>(), columns.clone());
            let rows: Vec<f64> = (0..3).flat_map(|b| x.iter().map(move |x| x + b as f64)).collect();
            let sums = dots(&found, &kept, &Beside::<f64, 4>::new(&rows, cols));
            prop_assert_eq!(&sums[..3], &[exact(0), exact(1), exact(2)]);
        }
    }
}
