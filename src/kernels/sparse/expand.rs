//! All entries of a row from its kept ones.

use super::{Bits, WORD};
#[cfg(target_arch = "x86_64")]
use super::{avx2, vbmi2};
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::{Avx2, Vbmi2};

pub(super) fn expand_floats(bits: Bits<'_>, kept: &[f32], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(cpu) = Avx2::new() {
        return avx2::expand_floats(cpu, bits, kept, out);
    }
    plain(bits, kept, 0.0, out);
}

/// All entries of a row of bytes: `fill` where none is kept.
pub fn expand_bytes(bits: Bits<'_>, kept: &[u8], fill: u8, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(cpu) = Vbmi2::new() {
        return vbmi2::expand(cpu, bits, kept, fill, out);
    } else if let Some(cpu) = Avx2::new() {
        return avx2::expand_bytes(cpu, bits, kept, fill, out);
    }
    plain(bits, kept, fill, out);
}

/// The portable form.
pub(super) fn plain<T: Copy>(bits: Bits<'_>, mut kept: &[T], fill: T, out: &mut [T]) {
    for (i, out) in out.chunks_mut(WORD).enumerate() {
        let bits = bits.word(i);
        word(bits, kept, fill, out);
        kept = &kept[kept.len().min(bits.count_ones() as usize)..];
    }
}

/// The entries of one word.
pub(super) fn word<T: Copy>(mut bits: u64, kept: &[T], fill: T, out: &mut [T]) {
    out.fill(fill);
    for x in kept.iter().take(bits.count_ones() as usize) {
        out[bits.trailing_zeros() as usize] = *x;
        bits &= bits - 1;
    }
}
