//! All entries of a row from its kept ones.

#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::{Bits, WORD};
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::Avx2;

pub(super) fn expand_floats(bits: Bits<'_>, kept: &[f32], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(cpu) = Avx2::new() {
        return avx2::expand_floats(cpu, bits, kept, out);
    }
    plain(bits, kept, out);
}

/// All entries of a row of integers: zeros where none is kept.
pub fn expand_integers(bits: Bits<'_>, kept: &[i16], out: &mut [i16]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(cpu) = Avx2::new() {
        return avx2::expand_integers(cpu, bits, kept, out);
    }
    plain(bits, kept, out);
}

/// The portable form.
pub(super) fn plain<T: Copy + Default>(bits: Bits<'_>, mut kept: &[T], out: &mut [T]) {
    for (i, out) in out.chunks_mut(WORD).enumerate() {
        let bits = bits.word(i);
        word(bits, kept, out);
        kept = &kept[kept.len().min(bits.count_ones() as usize)..];
    }
}

/// The entries of one word.
pub(super) fn word<T: Copy + Default>(mut bits: u64, kept: &[T], out: &mut [T]) {
    out.fill(T::default());
    for x in kept.iter().take(bits.count_ones() as usize) {
        out[bits.trailing_zeros() as usize] = *x;
        bits &= bits - 1;
    }
}
