//! Codes of 1 to 8 bits out of a little-endian bit stream.

use super::cpu::fast;

/// `out[i] = f(code first + i)` for codes of `bits` bits packed without gaps.
pub fn map<R>(packed: &[u8], bits: u8, first: usize, out: &mut [R], f: impl Fn(u8) -> R) {
    fast(
        #[inline(always)]
        || match bits {
            8 => out.iter_mut().zip(&packed[first..]).for_each(|(out, code)| *out = f(*code)),
            4 => nibbles(packed, first, out, f),
            _ => any(packed, bits, first, out, f),
        },
    );
}

#[inline(always)]
fn nibbles<R>(packed: &[u8], first: usize, out: &mut [R], f: impl Fn(u8) -> R) {
    let (head, out) = out.split_at_mut((first % 2).min(out.len()));
    head.iter_mut().for_each(|out| *out = f(packed[first / 2] >> 4));
    let packed = &packed[first.div_ceil(2)..];
    let (pairs, rest) = out.as_chunks_mut::<2>();
    for (out, byte) in pairs.iter_mut().zip(packed) {
        *out = [f(byte & 15), f(byte >> 4)];
    }
    let used = pairs.len();
    rest.iter_mut().for_each(|out| *out = f(packed[used] & 15));
}

#[inline(always)]
fn any<R>(packed: &[u8], bits: u8, first: usize, out: &mut [R], f: impl Fn(u8) -> R) {
    let bits = usize::from(bits);
    let mask = (1_u16 << bits) - 1;
    for (i, out) in out.iter_mut().enumerate() {
        let at = (first + i) * bits;
        let low = u16::from(packed[at / 8]);
        let high = packed.get(at / 8 + 1).map_or(0, |b| u16::from(*b) << 8);
        *out = f(((low | high) >> (at % 8) & mask) as u8);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_run_of_codes(bits in 1_u8..=8, bytes in prop::collection::vec(any::<u8>(), 0..120), a in 0_usize..900, b in 0_usize..900) {
            let bit = |i: usize| bytes[i / 8] >> (i % 8) & 1;
            let codes: Vec<u8> = (0..bytes.len() * 8 / usize::from(bits))
                .map(|i| (0..usize::from(bits)).map(|j| bit(i * usize::from(bits) + j) << j).sum())
                .collect();
            let (a, b) = (a.min(codes.len()), b.min(codes.len()));
            let (a, b) = (a.min(b), a.max(b));
            let mut out = vec![0_u8; b - a];
            super::map(&bytes, bits, a, &mut out, |code| code);
            prop_assert_eq!(&out, &codes[a..b]);
        }
    }
}
