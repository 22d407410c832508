//! Codes of fewer than 8 bits, packed: code `i` in bits `i * bits ..` of a little-endian bit stream.
//!
//! Eight codes of `b` bits fill `b` bytes, so groups of eight are packed on their own.

use super::Quantize;
use crate::kernels::cpu::fast;

/// Codes that fill whole bytes whatever their width.
const GROUP: usize = 8;

/// Packs `codes`, all below `2^bits`, into `out`, which has room for `(codes.len() * bits).div_ceil(8)`
/// bytes. Unused bits at the end are 0.
pub fn pack(bits: u8, codes: &[u8], out: &mut [u8]) {
    let out = &mut out[..(codes.len() * usize::from(bits)).div_ceil(8)];
    fast(
        #[inline(always)]
        || match bits {
            1 => pack_by::<1>(codes, out),
            2 => pack_by::<2>(codes, out),
            3 => pack_by::<3>(codes, out),
            4 => pack_nibbles(codes, out),
            5 => pack_by::<5>(codes, out),
            6 => pack_by::<6>(codes, out),
            7 => pack_by::<7>(codes, out),
            _ => out.copy_from_slice(codes),
        },
    );
}

/// Unpacks codes from bit `skip` of `packed` on, until `out` is full.
pub fn unpack(bits: u8, packed: &[u8], skip: usize, out: &mut [u8]) {
    fast(
        #[inline(always)]
        || unpack_any(bits, packed, skip, out),
    );
}

#[inline(always)]
fn unpack_any(bits: u8, packed: &[u8], skip: usize, out: &mut [u8]) {
    match bits {
        1 => unpack_by::<1>(packed, skip, out),
        2 => unpack_by::<2>(packed, skip, out),
        3 => unpack_by::<3>(packed, skip, out),
        4 => unpack_by::<4>(packed, skip, out),
        5 => unpack_by::<5>(packed, skip, out),
        6 => unpack_by::<6>(packed, skip, out),
        7 => unpack_by::<7>(packed, skip, out),
        _ => out.copy_from_slice(&packed[skip / 8..][..out.len()]),
    }
}

/// Unpacks codes from number `first` of `packed` on, until `out` is full.
pub fn unpack_from(bits: u8, packed: &[u8], first: usize, out: &mut [u8]) {
    let bit = first * usize::from(bits);
    let end = (bit + out.len() * usize::from(bits)).div_ceil(8);
    unpack(bits, &packed[bit / 8..end], bit % 8, out);
}

/// What codes from number `first` of `packed` on stand for, until `out` is full.
pub fn decode_from<T: Quantize>(
    bits: u8,
    packed: &[u8],
    first: usize,
    (scale, zero): (T, u8),
    out: &mut [T],
) {
    const CHUNK: usize = 256;
    let done = match (bits, first % 2) {
        (4, 0) => T::decode_nibbles(&packed[first / 2..], scale, zero, out),
        _ => 0,
    };
    let (first, out) = (first + done, &mut out[done..]);
    if out.is_empty() {
        return;
    }
    fast(
        #[inline(always)]
        || {
            if bits == 8 {
                return T::decode(&packed[first..][..out.len()], scale, zero, out);
            }
            let mut codes = [0; CHUNK];
            for (at, out) in (first..).step_by(CHUNK).zip(out.chunks_mut(CHUNK)) {
                let codes = &mut codes[..out.len()];
                let bit = at * usize::from(bits);
                unpack_any(bits, &packed[bit / 8..], bit % 8, codes);
                T::decode(codes, scale, zero, out);
            }
        },
    );
}

/// `code - zero`, in as many bits as a byte has, of codes from number `first` of `packed` on, until `out` is full.
pub fn unpack_less(bits: u8, packed: &[u8], first: usize, zero: u8, out: &mut [u8]) {
    fast(
        #[inline(always)]
        || match bits {
            8 => {
                let codes = out.iter_mut().zip(&packed[first..]);
                codes.for_each(|(out, code)| *out = code.wrapping_sub(zero));
            }
            4 if first.is_multiple_of(2) && out.len().is_multiple_of(2) => {
                let pairs = out.as_chunks_mut::<2>().0.iter_mut().zip(&packed[first / 2..]);
                pairs.for_each(|(pair, byte)| {
                    *pair = [(byte & 15).wrapping_sub(zero), (byte >> 4).wrapping_sub(zero)];
                });
            }
            _ => {
                let bit = first * usize::from(bits);
                unpack_any(bits, &packed[bit / 8..], bit % 8, out);
                out.iter_mut().for_each(|code| *code = code.wrapping_sub(zero));
            }
        },
    );
}

/// The whole bytes of `packed` that hold codes of `range`; none where it does not lie within.
pub fn bytes_of(bits: u8, packed: &[u8], range: std::ops::Range<usize>) -> &[u8] {
    let byte = |i: usize| i * usize::from(bits) / 8;
    packed.get(byte(range.start)..byte(range.end)).unwrap_or(&[])
}

#[inline(always)]
fn pack_nibbles(codes: &[u8], out: &mut [u8]) {
    let (pairs, rest) = codes.as_chunks::<2>();
    for (pair, byte) in pairs.iter().zip(&mut *out) {
        let pair = u16::from_le_bytes(*pair);
        *byte = (pair | pair >> 4) as u8;
    }
    if let ([code], Some(last)) = (rest, out.last_mut()) {
        *last = *code;
    }
}

#[inline(always)]
fn pack_by<const BITS: usize>(codes: &[u8], out: &mut [u8]) {
    let word = |codes: &[u8; GROUP]| {
        let mut word = 0;
        for (i, code) in codes.iter().enumerate() {
            word |= u64::from(*code) << (i * BITS);
        }
        word.to_le_bytes()
    };
    let (groups, rest) = codes.as_chunks::<GROUP>();
    let (outs, out_rest) = out.as_chunks_mut::<BITS>();
    for (codes, out) in groups.iter().zip(&mut *outs) {
        out.copy_from_slice(&word(codes)[..BITS]);
    }
    if rest.is_empty() {
        return;
    }
    let mut last = [0; GROUP];
    last[..rest.len()].copy_from_slice(rest);
    let n = (rest.len() * BITS).div_ceil(8);
    // Fewer than `GROUP` codes may need all `BITS` bytes.
    match outs.get_mut(groups.len()) {
        Some(out) => out.copy_from_slice(&word(&last)[..n]),
        None => out_rest.copy_from_slice(&word(&last)[..n]),
    }
}

#[inline(always)]
fn unpack_by<const BITS: usize>(packed: &[u8], skip: usize, out: &mut [u8]) {
    let mask = (1_u16 << BITS) - 1;
    let one = |i: usize| {
        let at = skip + i * BITS;
        let low = u16::from(packed[at / 8]);
        let high = packed.get(at / 8 + 1).map_or(0, |b| u16::from(*b) << 8);
        ((low | high) >> (at % 8) & mask) as u8
    };
    // Codes before the first byte that a group may begin at.
    let head = (0..GROUP).find(|i| (skip + i * BITS).is_multiple_of(8));
    let head = head.unwrap_or(out.len()).min(out.len());
    let (first, out) = out.split_at_mut(head);
    first.iter_mut().enumerate().for_each(|(i, code)| *code = one(i));
    let start = (skip + head * BITS) / 8;
    let (groups, rest) = out.as_chunks_mut::<GROUP>();
    let done = head + groups.len() * GROUP;
    if BITS == 4 {
        let bytes = packed[start.min(packed.len())..].as_chunks::<4>().0;
        for (codes, bytes) in groups.iter_mut().zip(bytes) {
            // All bytes at once, each to a field of 16 bits with its two codes.
            let bytes = u64::from(u32::from_le_bytes(*bytes));
            let pairs = (bytes | bytes << 16) & 0x0000_FFFF_0000_FFFF;
            let pairs = (pairs | pairs << 8) & 0x00FF_00FF_00FF_00FF;
            *codes = ((pairs | pairs << 4) & 0x0F0F_0F0F_0F0F_0F0F).to_le_bytes();
        }
    } else {
        let bytes = packed[start.min(packed.len())..].as_chunks::<BITS>().0;
        for (codes, bytes) in groups.iter_mut().zip(bytes) {
            let mut word = [0; 8];
            word[..BITS].copy_from_slice(bytes);
            let word = u64::from_le_bytes(word);
            for (i, code) in codes.iter_mut().enumerate() {
                *code = (word >> (i * BITS)) as u8 & mask as u8;
            }
        }
    }
    rest.iter_mut().enumerate().for_each(|(i, code)| *code = one(done + i));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bit(bytes: &[u8], i: usize) -> u8 {
        bytes[i / 8] >> (i % 8) & 1
    }

    proptest! {
        #[test]
        fn every_bit_in_its_place(bits in 1_u8..=8, raw in prop::collection::vec(any::<u8>(), 0..400), skip in 0_usize..9) {
            let codes: Vec<u8> = raw.iter().map(|c| c & (u8::MAX >> (8 - bits))).collect();
            let codes = &codes[skip.min(codes.len())..];
            let b = usize::from(bits);
            let mut packed = vec![0xaa; (codes.len() * b).div_ceil(8)];
            pack(bits, codes, &mut packed);
            for (i, code) in codes.iter().enumerate() {
                let got = (0..b).fold(0, |c, j| c | bit(&packed, i * b + j) << j);
                prop_assert_eq!(got, *code);
            }
            prop_assert!((codes.len() * b..packed.len() * 8).all(|i| bit(&packed, i) == 0));
            for from in 0..codes.len().min(20) {
                for to in [codes.len(), from + (codes.len() - from) / 2] {
                    let mut out = vec![0xaa; to - from];
                    let first = from * b / 8;
                    unpack(bits, &packed[first..(to * b).div_ceil(8).max(first)], from * b - first * 8, &mut out);
                    prop_assert_eq!(&out[..], &codes[from..to]);
                    let mut numbers = vec![9.0_f32; to - from];
                    decode_from(bits, &packed, from, (0.5, 3), &mut numbers);
                    prop_assert!(numbers.iter().zip(&out).all(|(x, code)| *x == 0.5 * (f32::from(*code) - 3.0)));
                    let mut less = vec![9; to - from];
                    unpack_less(bits, &packed, from, 3, &mut less);
                    prop_assert!(less.iter().zip(&out).all(|(less, code)| *less == code.wrapping_sub(3)));
                }
            }
        }
    }
}
