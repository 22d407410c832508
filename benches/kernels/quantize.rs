//! Quantizing and decoding on slices, put together from the kernels as the steps do it, into memory that
//! has room for the result; if it has been full before, it is mapped.

use bantam::kernels::memory::{fill, fill_backwards, with_scratch};
use bantam::kernels::quantize::{Steps, decode_runs, encode_runs, ends, pack};
use rayon::prelude::*;
use std::iter::repeat_n;

/// Values that a thread handles at a time.
pub const BLOCK: usize = 1 << 16;

/// Codes from 0 to `top`, for values between `low` and `high`.
pub fn one_sided(low: f32, high: f32, top: u8) -> Steps<f32> {
    let scale = ((high - low) / f32::from(top)).max(f32::MIN_POSITIVE);
    Steps { scale, zero: (-low / scale) as u8, low: 0, high: top }
}

/// Codes on both sides of one for zero.
pub fn centred(low: f32, high: f32, top: u8) -> Steps<f32> {
    let zero = top / 2 + 1;
    let scale = (high.max(-low) / f32::from(zero - 1)).max(f32::MIN_POSITIVE);
    Steps { scale, zero, low: 1, high: top }
}

/// One grid for all values, 8 bits a code, into the memory of `out`.
pub fn tensor(values: &[f32], out: Vec<u8>) -> Vec<u8> {
    let ends = values.par_chunks(BLOCK).filter_map(ends);
    let (low, high) = ends.reduce(|| (0.0, 0.0), |a, b| (a.0.min(b.0), a.1.max(b.1)));
    let steps = one_sided(low, high, 255);
    let pieces = values.chunks(BLOCK).map(|block| (block.len(), block));
    let filled = fill_backwards(out, pieces, |block, slot| {
        with_scratch(block.len(), |codes| {
            steps.encode(block, codes);
            slot.push(codes);
            Ok::<_, ()>(())
        })
    });
    filled.unwrap_or_default()
}

/// A grid for each `run` of values, `bits` a code, into the memory of `out`.
pub fn runs(
    values: &[f32],
    run: usize,
    bits: u8,
    out: Vec<u8>,
    fit: fn(f32, f32, u8) -> Steps<f32>,
) -> Vec<u8> {
    let block = (BLOCK / run).max(1) * run;
    let top = u8::MAX >> (8 - bits);
    let pieces = values.chunks(block).map(|block| (block.len() * usize::from(bits) / 8, block));
    let filled = fill(out, pieces, |block, slot| {
        let mut scales = Vec::with_capacity(block.len() / run);
        let mut codes = vec![0; block.len()];
        let lens = repeat_n(run, block.len() / run);
        encode_runs(block, lens, |l, h| fit(l, h, top), |s| scales.push(s.scale), &mut codes);
        if bits < 8 {
            let mut packed = vec![0; codes.len() * usize::from(bits) / 8];
            pack::pack(bits, &codes, &mut packed);
            slot.push(&packed);
        } else {
            slot.push(&codes);
        }
        Ok::<_, ()>(scales)
    });
    filled.map_or_else(|()| Vec::new(), |(codes, _)| codes)
}

/// Values from codes of 8 bits, all on one grid, into the memory of `out`.
pub fn decode(codes: &[u8], out: Vec<f32>) -> Vec<f32> {
    let pieces = codes.chunks(BLOCK).map(|block| (block.len(), block));
    let filled = fill(out, pieces, |block, slot| {
        decode_runs(block, std::iter::once((block.len(), 0.1, 128)), slot);
        Ok::<_, ()>(())
    });
    filled.map_or_else(|()| Vec::new(), |(values, _)| values)
}
