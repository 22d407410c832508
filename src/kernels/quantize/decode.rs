//! The numbers that codes stand for: `scale * (code - zero)`, in the number type itself.

use super::Quantize;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::kernels::cpu::fast;
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::{Avx2, Avx512};
use crate::kernels::memory::Slot;

/// Numbers that are written at a time.
const BUFFER: usize = 1 << 7;

/// Puts out what `codes` stand for: runs of `len` codes with one `scale` and one zero code each.
#[inline(always)]
pub fn decode_runs<T: Quantize>(
    codes: &[u8],
    runs: impl Iterator<Item = (usize, T, u8)>,
    out: &mut Slot<'_, T>,
) {
    fast(
        #[inline(always)]
        || {
            let mut buffer = [T::zeroed(); BUFFER];
            let (mut filled, mut rest) = (0, codes);
            for (len, scale, zero) in runs {
                let (mut run, later) = rest.split_at(len);
                rest = later;
                while !run.is_empty() {
                    let (now, later) = run.split_at(run.len().min(BUFFER - filled));
                    T::decode(now, scale, zero, &mut buffer[filled..filled + now.len()]);
                    filled += now.len();
                    run = later;
                    if filled == BUFFER {
                        out.push(&buffer);
                        filled = 0;
                    }
                }
            }
            out.push(&buffer[..filled]);
        },
    );
}

macro_rules! decode {
    ($name:ident, $t:ty) => {
        #[inline(always)]
        pub(super) fn $name(codes: &[u8], scale: $t, zero: u8, out: &mut [$t]) {
            for (code, x) in codes.iter().zip(out) {
                // Exact in either type: a small integer.
                *x = (i32::from(*code) - i32::from(zero)) as $t * scale;
            }
        }
    };
}

decode!(decode_f32, f32);
decode!(decode_f64, f64);

/// See [`Quantize::decode_nibbles`].
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
pub(super) fn decode_nibbles_f32(packed: &[u8], scale: f32, zero: u8, out: &mut [f32]) -> usize {
    macro_rules! by {
        ($form:ident) => {{
            let (packed, out) = (packed.as_chunks().0, out.as_chunks_mut().0);
            let blocks = packed.len().min(out.len());
            // SAFETY: the caller of this macro has asked for the instructions.
            unsafe { $form::decode_nibbles(&packed[..blocks], scale, zero, &mut out[..blocks]) };
            blocks * $form::NIBBLES
        }};
    }
    match (Avx512::new(), Avx2::new()) {
        (Some(_), _) => by!(avx512),
        (None, Some(_)) => by!(avx2),
        (None, None) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::memory;
    use proptest::prelude::*;

    fn decode_all<T: Quantize>(codes: &[u8], runs: &[(usize, T, u8)]) -> Vec<T> {
        let pieces = [(codes.len(), ())].into_iter();
        let room = memory::reserve(codes.len()).unwrap();
        let decode = |(), slot: &mut Slot<'_, T>| {
            decode_runs(codes, runs.iter().copied(), slot);
            Ok::<_, ()>(())
        };
        memory::fill(room, pieces, decode).unwrap().0
    }

    proptest! {
        #[test]
        fn numbers_as_the_formula_says(runs in prop::collection::vec((0_usize..3000, any::<u32>(), any::<u8>()), 0..6)) {
            let runs: Vec<(usize, f32, u8)> = runs.iter().map(|(n, s, z)| (*n, f32::from_bits(*s), *z)).collect();
            let codes: Vec<u8> = (0..runs.iter().map(|r| r.0).sum()).map(|i: usize| (i * 7) as u8).collect();
            let mut at = 0;
            let mut wanted = Vec::new();
            for (len, scale, zero) in &runs {
                wanted.extend(codes[at..at + len].iter().map(|c| (f64::from(i16::from(*c) - i16::from(*zero)) as f32 * scale).to_bits()));
                at += len;
            }
            let got: Vec<u32> = decode_all(&codes, &runs).iter().map(|x| x.to_bits()).collect();
            let same = |a: u32, b: u32| a == b || (f32::from_bits(a).is_nan() && f32::from_bits(b).is_nan());
            prop_assert_eq!(got.len(), wanted.len());
            prop_assert!(got.iter().zip(&wanted).all(|(a, b)| same(*a, *b)));
        }
    }

    /// Each form of packed 4-bit codes, to the bit.
    #[cfg(target_arch = "x86_64")]
    #[test]
    #[allow(unsafe_code)]
    fn nibbles_as_the_formula_says() {
        let packed: Vec<u8> = (0..=255).collect();
        for (scale, zero) in [(0.3_f32, 8), (-1e-30, 0), (f32::MAX, 15), (1e-45, 7)] {
            let code = |i: usize| i32::from(packed[i / 2] >> (i % 2 * 4) & 15);
            let wanted: Vec<u32> =
                (0..512).map(|i| ((code(i) - i32::from(zero)) as f32 * scale).to_bits()).collect();
            let mut found = vec![];
            // SAFETY: the CPU has been asked.
            unsafe {
                if Avx2::new().is_some() {
                    let mut out = [0.0; 512];
                    avx2::decode_nibbles(packed.as_chunks().0, scale, zero, out.as_chunks_mut().0);
                    found.push(out);
                }
                if Avx512::new().is_some() {
                    let mut out = [0.0; 512];
                    avx512::decode_nibbles(packed.as_chunks().0, scale, zero, out.as_chunks_mut().0);
                    found.push(out);
                }
            }
            for out in found {
                assert!(out.iter().map(|x| x.to_bits()).eq(wanted.iter().copied()));
            }
        }
    }

    #[test]
    fn doubles() {
        assert_eq!(decode_all(&[0, 255], &[(2, 0.1_f64, 128)]), [-128.0 * 0.1, 127.0 * 0.1]);
    }
}
