//! What a choice is for tensors that stay dense. Leaves hold only what is chosen, so that this serves to
//! compare the kernels with those of others.

use crate::kernels::cpu::fast;

/// All bits of the lanes of each choice of eight. (From a compare, the compiler makes masked stores, which are
/// slow on some CPUs.)
static STAYS: [[u32; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut i = 0;
    while i < 256 * 8 {
        if (i / 8) >> (i % 8) & 1 == 1 {
            table[i / 8][i % 8] = u32::MAX;
        }
        i += 1;
    }
    table
};

/// Puts zero in the place of values that are not chosen.
pub fn clear_others(values: &mut [f32], chosen: &[u64]) {
    fast(
        #[inline(always)]
        || {
            let (words, rest) = values.as_chunks_mut::<64>();
            for (values, word) in words.iter_mut().zip(chosen) {
                for (values, byte) in values.as_chunks_mut::<8>().0.iter_mut().zip(word.to_le_bytes()) {
                    clear(values, byte);
                }
            }
            let bytes = chosen.get(words.len()).copied().unwrap_or_default().to_le_bytes();
            rest.chunks_mut(8).zip(bytes).for_each(|(values, byte)| clear(values, byte));
        },
    );
}

#[inline(always)]
fn clear(values: &mut [f32], chosen: u8) {
    for (x, stays) in values.iter_mut().zip(&STAYS[usize::from(chosen)]) {
        *x = f32::from_bits(x.to_bits() & stays);
    }
}
