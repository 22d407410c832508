//! Pruning on slices, put together from the kernels as the steps do it.

use bantam::kernels::prune::{Magnitude, close_up};
use rayon::prelude::*;

/// Values that a thread handles at a time.
pub const RUN: usize = 1 << 16;
/// Values that are chosen and moved in one go.
pub const STRIP: usize = 1 << 9;

/// Chooses and moves together, strip by strip, as a step does; the number that is left.
pub fn keep(
    values: &mut [f32],
    words: &mut [u64],
    choose: impl Fn(&[f32], &mut [u64]) -> bool + Sync,
) -> usize {
    let sizes: Vec<usize> = values.chunks(RUN).map(<[f32]>::len).collect();
    let lens: Vec<usize> = values
        .par_chunks_mut(RUN)
        .zip(words.par_chunks_mut(RUN / 64))
        .map(|(values, words)| {
            let (mut at, mut to) = (0, 0);
            for words in words.chunks_mut(STRIP / 64) {
                let end = values.len().min(at + STRIP);
                assert!(choose(&values[at..end], words));
                to += f32::compact(values, at, words, to);
                at = end;
            }
            to
        })
        .collect();
    close_up(values, &sizes, &lens)
}

/// The least magnitude that stays where the smallest `drop` values go. It lies at about `guess`: as narrow
/// around it as a sample of 2^16 values says.
pub fn least_kept(values: &[f32], drop: usize, guess: f32) -> u32 {
    let (low, high) = ((guess - 0.02).magnitude(), (guess + 0.02).magnitude());
    let parts: Vec<(u64, Vec<u32>)> = values
        .par_chunks(RUN)
        .map(|values| {
            let (mut below, mut inside) = (0, Vec::new());
            for strip in values.chunks(STRIP) {
                below += f32::tally(strip, low, high, &mut inside).unwrap_or(0);
            }
            (below, inside)
        })
        .collect();
    let below: u64 = parts.iter().map(|(below, _)| below).sum();
    let mut inside: Vec<u32> = parts.into_iter().flat_map(|(_, inside)| inside).collect();
    let rank = drop.saturating_sub(below as usize).min(inside.len() - 1);
    *inside.select_nth_unstable(rank).1
}
