//! The portable form of each kernel: what runs where there is no other, and what the others are tested
//! against.

use super::Magnitude;
use crate::kernels::cpu::fast;

/// Keys that are ranked at a time, so that they and their ranks stay in the innermost cache.
const KEYS: usize = 1024;

pub fn at_least<T: Magnitude>(values: &[T], least: T::Bits, chosen: &mut [u64]) -> bool {
    fast(
        #[inline(always)]
        || {
            let mut top = T::Bits::default();
            for (chunk, word) in values.chunks(64).zip(chosen) {
                *word = 0;
                for (i, x) in chunk.iter().enumerate() {
                    let magnitude = x.magnitude();
                    *word |= u64::from(magnitude >= least) << i;
                    top = top.max(magnitude);
                }
            }
            top < T::INFINITE
        },
    )
}

pub fn largest_of_groups<T: Magnitude>(
    values: &[T],
    n: usize,
    m: usize,
    stride: usize,
    chosen: &mut [u64],
) -> bool {
    // Whole groups, and whole words of the choice.
    let span = m * stride;
    let unit = span << 6_u32.saturating_sub(span.trailing_zeros());
    let step = unit * (KEYS / unit).max(1);
    let mut keys = Vec::with_capacity(step.min(values.len()));
    let mut finite = true;
    for (values, chosen) in values.chunks(step).zip(chosen.chunks_mut(step / 64)) {
        keys.clear();
        keys.extend(values.iter().map(|x| x.magnitude()));
        finite &= keys.iter().all(|key| *key < T::INFINITE);
        largest_keys(&keys, n, m, stride, chosen);
    }
    finite
}

pub fn largest_keys<K: Copy + Ord>(keys: &[K], n: usize, m: usize, stride: usize, chosen: &mut [u64]) {
    let span = m * stride;
    let mut larger = vec![0_u8; span];
    chosen.fill(0);
    fast(
        #[inline(always)]
        || {
            for (s, keys) in keys.chunks_exact(span).enumerate() {
                // For each key, how many of its group are ranked above it.
                larger.fill(0);
                for i in 0..m {
                    let own = &keys[i * stride..][..stride];
                    let larger = &mut larger[i * stride..][..stride];
                    for j in (0..m).filter(|j| *j != i) {
                        let others = &keys[j * stride..][..stride];
                        for ((count, own), other) in larger.iter_mut().zip(own).zip(others) {
                            *count += u8::from(if j > i { other >= own } else { other > own });
                        }
                    }
                }
                for (i, count) in larger.iter().enumerate() {
                    let at = s * span + i;
                    chosen[at / 64] |= u64::from(usize::from(*count) < n) << (at % 64);
                }
            }
        },
    );
}

pub fn tally<T: Magnitude>(
    values: &[T],
    low: T::Bits,
    high: T::Bits,
    inside: &mut Vec<T::Bits>,
) -> Option<u64> {
    fast(
        #[inline(always)]
        || {
            let (mut below, mut top) = (0, T::Bits::default());
            for chunk in values.chunks(16) {
                let mut any = 0_u8;
                for x in chunk {
                    let magnitude = x.magnitude();
                    below += u64::from(magnitude < low);
                    any |= u8::from((low..=high).contains(&magnitude));
                    top = top.max(magnitude);
                }
                if any != 0 {
                    inside.extend(chunk.iter().map(|x| x.magnitude()).filter(|m| (low..=high).contains(m)));
                }
            }
            (top < T::INFINITE).then_some(below)
        },
    )
}

pub fn compact<T: Copy>(values: &mut [T], from: usize, chosen: &[u64], to: usize) -> usize {
    let mut out = to;
    for (i, word) in chosen.iter().enumerate() {
        let first = from + i * 64;
        if *word == u64::MAX {
            values.copy_within(first..first + 64, out);
            out += 64;
            continue;
        }
        let mut word = *word;
        while word != 0 {
            values[out] = values[first + word.trailing_zeros() as usize];
            out += 1;
            word &= word - 1;
        }
    }
    out - to
}
