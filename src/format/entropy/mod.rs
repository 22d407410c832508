//! Entropy coding: a binary range coder, and the models that say how likely a bit is.
//!
//! The coder is the carry-propagating one of LZMA: 32-bit range, probabilities of 16 bits. It spends
//! `-log2(p)` bits on a bit of probability `p`, down to 0.00002, so the length of a stream says little of
//! how much it holds. What a reader may allocate is bounded all the same: it is told of each array before
//! (see [`Claims`]), and the writer makes the stream as long as its claims need.
//!
//! A model is written once over the trait [`Coder`], so that the two directions cannot differ.

mod codes;
mod logistic;
mod mask;
mod numbers;
mod plain;
mod text;

pub(super) use codes::{CodeModel, Signs};
pub(super) use mask::{Geometry, MaskModel};
pub(super) use numbers::NumberModel;
pub(super) use plain::{PlainBits, Tree, Whole};
pub(super) use text::TextModel;

use crate::error::FormatKind;

const TOP: u32 = 1 << 24;
/// Bits of arrays that any stream may hold.
const FREE_BITS: usize = 1 << 23;
/// Bits of arrays that a byte of the stream may hold beyond.
const BITS_PER_BYTE: usize = 1024;
/// Zeros at the end that need not be written. A decoder that reads further has a stream that was cut.
const TRAILING: usize = 8;

/// Codes bits one way: an encoder writes the bit it is given, a decoder gives the bit it reads.
pub(super) trait Coder {
    /// `one`: the probability of a 1, in parts of 2^16; neither 0 nor 2^16.
    fn bit(&mut self, one: u32, bit: bool) -> bool;
}

/// Bits of arrays that a stream has been said to hold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claims(usize);

impl Claims {
    /// Adds an array of so many bits; `None` where that is no number.
    pub fn add(&mut self, bits: Option<usize>) -> Option<()> {
        self.0 = self.0.checked_add(bits?)?;
        Some(())
    }

    /// The shortest stream that may claim all this.
    fn bytes(self) -> usize {
        self.0.saturating_sub(FREE_BITS).div_ceil(BITS_PER_BYTE)
    }
}

pub(super) struct Encoder {
    low: u64,
    range: u32,
    cache: u8,
    pending: usize,
    out: Vec<u8>,
    claims: Claims,
}

impl Encoder {
    pub fn new() -> Self {
        Self { low: 0, range: u32::MAX, cache: 0, pending: 1, out: Vec::new(), claims: Claims::default() }
    }

    /// To be told of what is coded as the decoder is.
    pub fn claim(&mut self, bits: Option<usize>) -> Result<(), FormatKind> {
        self.claims.add(bits).ok_or(FormatKind::Archive("it is too large"))
    }

    fn shift(&mut self) {
        if self.low < 0xFF00_0000 || self.low > u64::from(u32::MAX) {
            let carry = (self.low >> 32) as u8;
            self.out.push(self.cache.wrapping_add(carry));
            for _ in 1..self.pending {
                self.out.push(0xFF_u8.wrapping_add(carry));
            }
            self.pending = 0;
            self.cache = (self.low >> 24) as u8;
        }
        self.pending += 1;
        self.low = (self.low << 8) & 0xFFFF_FFFF;
    }

    pub fn finish(mut self) -> Vec<u8> {
        // Of the numbers that decode to what was coded, the one with the most zeros at its end.
        let end = self.low + u64::from(self.range);
        let round = (0..32).rev().map(|k| (self.low + (1 << k) - 1) >> k << k).find(|x| *x < end);
        self.low = round.unwrap_or(self.low);
        for _ in 0..5 {
            self.shift();
        }
        // Nothing is ever carried into the first byte, so it is always 0 and not stored.
        self.out.remove(0);
        // A decoder reads zeros past the end, but no more than this.
        let shortest = self.out.len().saturating_sub(TRAILING).max(self.claims.bytes());
        while self.out.len() > shortest && self.out.last() == Some(&0) {
            self.out.pop();
        }
        self.out.resize(self.out.len().max(self.claims.bytes()), 0);
        self.out
    }
}

/// The part of `range` that stands for a 1.
fn share(range: u32, one: u32) -> u32 {
    ((u64::from(range) * u64::from(one)) >> 16) as u32
}

impl Coder for Encoder {
    fn bit(&mut self, one: u32, bit: bool) -> bool {
        let bound = share(self.range, one);
        if bit {
            self.range = bound;
        } else {
            self.low += u64::from(bound);
            self.range -= bound;
        }
        while self.range < TOP {
            self.range <<= 8;
            self.shift();
        }
        bit
    }
}

pub(super) struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
    range: u32,
    code: u32,
    claims: Claims,
}

impl<'a> Decoder<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self { bytes, at: 0, range: u32::MAX, code: 0, claims: Claims::default() };
        for _ in 0..4 {
            decoder.pull();
        }
        decoder
    }

    fn pull(&mut self) {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        self.code = self.code << 8 | u32::from(byte);
    }

    /// An error when the whole stream may not hold `bits` bits of arrays beside those claimed before.
    pub fn claim(&mut self, bits: Option<usize>) -> Result<(), FormatKind> {
        match self.claims.add(bits) {
            Some(()) if self.claims.bytes() <= self.bytes.len() => Ok(()),
            _ => Err(FormatKind::Archive("it claims more data than it can hold")),
        }
    }

    /// Whether more has been read than there is: the stream was cut short. A few bytes are normal, since
    /// trailing zeros are not written.
    pub fn is_exhausted(&self) -> bool {
        self.at > self.bytes.len() + TRAILING
    }
}

impl Coder for Decoder<'_> {
    fn bit(&mut self, one: u32, _: bool) -> bool {
        let bound = share(self.range, one);
        let bit = self.code < bound;
        if bit {
            self.range = bound;
        } else {
            self.code = self.code.wrapping_sub(bound);
            self.range -= bound;
        }
        while self.range < TOP {
            self.range <<= 8;
            self.pull();
        }
        bit
    }
}

/// Bits that are remembered instead of coded, and how much an encoder would write.
#[derive(Default)]
pub(super) struct Trial {
    /// The probability of a 1, and the bit above it.
    coded: Vec<u32>,
    cost: u64,
}

impl Trial {
    const BIT: u32 = 1 << 31;

    /// In parts of 2^16 of a bit; the same on every machine.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    pub fn replay(&self, encoder: &mut Encoder) {
        for coded in &self.coded {
            encoder.bit(coded & !Self::BIT, coded & Self::BIT != 0);
        }
    }
}

impl Coder for Trial {
    fn bit(&mut self, one: u32, bit: bool) -> bool {
        let chance = if bit { one } else { (1 << 16) - one };
        self.cost += u64::from((16 << 16) - log2(chance));
        self.coded.push(one | if bit { Self::BIT } else { 0 });
        bit
    }
}

/// `log2(x)` in parts of 2^16, from the first nine bits of `x`.
fn log2(x: u32) -> u32 {
    /// Of `1 + i / 256`: each bit says whether the square of what is left reaches 2.
    const PARTS: [u32; 256] = {
        let mut parts = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut left = (256 + i as u64) << 22;
            let mut bit = 0;
            while bit < 16 {
                left = (left * left) >> 30;
                parts[i] <<= 1;
                if left >= 2 << 30 {
                    left >>= 1;
                    parts[i] |= 1;
                }
                bit += 1;
            }
            i += 1;
        }
        parts
    };
    let whole = x.max(1).ilog2();
    let first = (u64::from(x) << 8 >> whole) & 255;
    whole << 16 | PARTS[first as usize]
}

/// Learns from bits without coding them: to prepare a model.
pub(super) struct Learner;

impl Coder for Learner {
    fn bit(&mut self, _: u32, bit: bool) -> bool {
        bit
    }
}

#[cfg(test)]
mod tests;
