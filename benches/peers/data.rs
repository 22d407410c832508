//! Values that both sides work on.

use bantam::BoxError;
use rayon::prelude::*;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

/// Values of one block, which has a seed of its own, so that threads do not matter.
const BLOCK: usize = 1 << 16;

/// `n` values from a normal distribution; kept in `folder`, as little-endian `f32`, for the peers.
pub fn values(n: usize, folder: Option<&Path>) -> Result<Vec<f32>, BoxError> {
    let path = folder.map(|folder| folder.join(format!("normal-{n}.f32")));
    let mut values = vec![0.0_f32; n];
    if let Some(path) = &path
        && let Ok(mut file) = File::open(path)
        && file.metadata()?.len() == 4 * n as u64
    {
        // Block by block: memory for a second copy would stay mapped.
        let mut bytes = vec![0; 4 * BLOCK];
        for block in values.chunks_mut(BLOCK) {
            let bytes = &mut bytes[..4 * block.len()];
            file.read_exact(bytes)?;
            for (x, bytes) in block.iter_mut().zip(bytes.as_chunks().0) {
                *x = f32::from_le_bytes(*bytes);
            }
        }
        return Ok(values);
    }
    values.par_chunks_mut(BLOCK).enumerate().for_each(|(i, block)| normal(i as u64 + 1, block));
    if let Some(path) = &path {
        // Whole or not at all.
        let part = path.with_extension("part");
        let mut file = File::create(&part)?;
        for block in values.chunks(BLOCK) {
            let bytes: Vec<u8> = block.iter().flat_map(|x| x.to_le_bytes()).collect();
            file.write_all(&bytes)?;
        }
        fs::rename(part, path)?;
    }
    Ok(values)
}

/// Box-Muller on a linear congruential generator.
fn normal(seed: u64, values: &mut [f32]) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 + 0.5) / (1 << 24) as f32
    };
    for pair in values.chunks_mut(2) {
        let radius = (-2.0 * uniform().ln()).sqrt();
        let (sin, cos) = (std::f32::consts::TAU * uniform()).sin_cos();
        for (x, y) in pair.iter_mut().zip([sin, cos]) {
            *x = radius * y;
        }
    }
}
