//! [`Codes`]: unsigned integers of 1 to 8 bits, packed at their true width.
//!
//! Code `i` occupies bits `i * bits ..` of a little-endian bit stream: the first code sits in the least
//! significant bits of the first byte. There is no padding between codes.

use super::bytes::{Bytes, Make};
use crate::kernels::quantize::pack;
use crate::{Fault, parallel};
use std::borrow::Cow;
use std::ops::Range;

/// Codes that are packed at a time: any width fills whole bytes.
const CHUNK: usize = 1 << 16;

#[derive(Clone, Debug)]
pub(crate) struct Codes {
    bits: u8,
    len: usize,
    bytes: Bytes,
}

impl Codes {
    pub const TOO_LARGE: Fault = Fault::Form("its codes do not fit in memory");

    /// The largest code of 1 to 8 `bits`.
    pub fn max(bits: u8) -> u8 {
        u8::MAX >> (8 - bits)
    }

    /// Bytes that `len` codes of `bits` bits take.
    pub fn packed_bytes(bits: u8, len: usize) -> Option<usize> {
        len.checked_mul(usize::from(bits)).map(|b| b.div_ceil(8))
    }

    /// Codes that are packed already; `bytes` holds at least `packed_bytes(bits, len)` bytes.
    pub fn from_packed(bits: u8, len: usize, bytes: Bytes) -> Self {
        debug_assert!(Self::packed_bytes(bits, len).is_some_and(|n| n <= bytes.len()));
        Self { bits, len, bytes }
    }

    pub fn pack(bits: u8, codes: &[u8]) -> Self {
        let packed = |codes: usize| (codes * usize::from(bits)).div_ceil(8);
        let mut bytes = vec![0; packed(codes.len())];
        parallel::for_each_chunk(&mut bytes, packed(CHUNK), |i, bytes| {
            let codes = &codes[i * CHUNK..codes.len().min((i + 1) * CHUNK)];
            pack::pack(bits, codes, bytes);
        });
        Self { bits, len: codes.len(), bytes: bytes.into() }
    }

    /// Codes that are made, packed, when they are asked for.
    pub fn made(bits: u8, len: usize, make: impl Make + 'static) -> Result<Self, Fault> {
        let bytes = Self::packed_bytes(bits, len).ok_or(Self::TOO_LARGE)?;
        Ok(Self { bits, len, bytes: Bytes::made(bytes, make) })
    }

    pub fn bits(&self) -> u8 {
        self.bits
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn stored_bytes(&self) -> usize {
        (self.len * usize::from(self.bits)).div_ceil(8)
    }

    pub fn resident_bytes(&self) -> usize {
        self.bytes.resident()
    }

    /// The packed form.
    pub fn packed(&self) -> Bytes {
        self.bytes.slice(0, self.stored_bytes())
    }

    /// The codes in `range`, a byte each.
    pub fn unpack(&self, range: Range<usize>) -> Result<Vec<u8>, Fault> {
        self.read(range).map(Cow::into_owned)
    }

    /// The codes in `range`, a byte each: borrowed where that is how they are held.
    pub fn read(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>, Fault> {
        let bits = usize::from(self.bits);
        let first = range.start * bits / 8;
        let last = (range.end * bits).div_ceil(8).max(first);
        let packed = match self.bytes.heap() {
            Some(all) => Cow::Borrowed(&all[first..last]),
            None => Cow::Owned(self.bytes.read(first, last - first)?),
        };
        if self.bits == 8 {
            return Ok(packed);
        }
        let mut codes = vec![0; range.len()];
        pack::unpack(self.bits, &packed, range.start * bits - first * 8, &mut codes);
        Ok(Cow::Owned(codes))
    }

    /// The packed form: borrowed where it is in memory.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>, Fault> {
        match self.bytes.heap() {
            Some(all) => Ok(Cow::Borrowed(&all[..self.stored_bytes()])),
            None => Ok(Cow::Owned(self.bytes.read(0, self.stored_bytes())?)),
        }
    }

    pub fn load(&self) -> Result<Self, Fault> {
        Ok(Self { bytes: self.packed().load()?, ..*self })
    }
}

impl PartialEq for Codes {
    fn eq(&self, other: &Self) -> bool {
        self.bits == other.bits
            && self.len == other.len
            && matches!((self.unpack(0..self.len), other.unpack(0..self.len)), (Ok(a), Ok(b)) if a == b)
    }
}

/// Packs codes as they come.
pub(crate) struct Packer {
    bits: u8,
    len: usize,
    pending: u32,
    filled: u32,
    bytes: Vec<u8>,
}

impl Packer {
    pub fn new(bits: u8) -> Self {
        Self { bits, len: 0, pending: 0, filled: 0, bytes: Vec::new() }
    }

    pub fn extend(&mut self, codes: &[u8]) {
        self.len += codes.len();
        if self.bits == 8 {
            return self.bytes.extend_from_slice(codes);
        }
        self.bytes.reserve((codes.len() * usize::from(self.bits)).div_ceil(8));
        let (mut pending, mut filled) = (self.pending, self.filled);
        for code in codes {
            debug_assert!(u32::from(*code) >> self.bits == 0, "code out of range");
            pending |= u32::from(*code) << filled;
            filled += u32::from(self.bits);
            if filled >= 8 {
                self.bytes.push(pending as u8);
                pending >>= 8;
                filled -= 8;
            }
        }
        (self.pending, self.filled) = (pending, filled);
    }

    pub fn finish(mut self) -> Codes {
        if self.filled > 0 {
            self.bytes.push(self.pending as u8);
        }
        Codes { bits: self.bits, len: self.len, bytes: self.bytes.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unpack_inverts_pack(bits in 1_u8..=8, raw in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..200) {
            let codes: Vec<u8> = raw.iter().map(|c| (u16::from(*c) & ((1 << bits) - 1)) as u8).collect();
            let packed = Codes::pack(bits, &codes);
            prop_assert_eq!(packed.packed().len(), (codes.len() * usize::from(bits)).div_ceil(8));
            let cut = cut.min(codes.len());
            prop_assert_eq!(packed.unpack(0..codes.len()).unwrap(), &codes[..]);
            prop_assert_eq!(packed.unpack(cut..codes.len()).unwrap(), &codes[cut..]);
            prop_assert_eq!(packed.unpack(0..cut).unwrap(), &codes[..cut]);
        }

        #[test]
        fn pieces_pack_as_the_whole(bits in 1_u8..=8, a in 0_usize..40, b in 0_usize..40) {
            let code = |i: usize| (i % (1 << bits)) as u8;
            let whole: Vec<u8> = (0..a + b).map(code).collect();
            let mut pieces = Packer::new(bits);
            pieces.extend(&whole[..a]);
            pieces.extend(&whole[a..]);
            prop_assert_eq!(pieces.finish(), Codes::pack(bits, &whole));
        }
    }

    #[test]
    fn more_codes_than_can_be_counted_are_an_error() {
        struct Nothing;
        impl Make for Nothing {
            fn make(&self, _: usize, _: &mut [u8]) -> Result<(), Fault> {
                Ok(())
            }

            fn resident(&self) -> usize {
                0
            }
        }
        for bits in 2..=8 {
            assert!(Codes::made(bits, usize::MAX / usize::from(bits) + 1, Nothing).is_err());
            assert!(Codes::made(bits, usize::MAX / usize::from(bits), Nothing).is_ok());
        }
    }

    #[test]
    fn first_code_is_least_significant() {
        assert_eq!(Codes::pack(4, &[1, 2, 3]).packed().heap().unwrap(), [0x21, 0x03]);
        assert_eq!(Codes::pack(3, &[1, 2, 3]).packed().heap().unwrap(), [0b11_010_001, 0]);
    }
}
