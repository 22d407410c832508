//! Adaptive binary range coding: bits are coded with the probability that what came before suggests.
//!
//! The coder is the carry-propagating one of LZMA: 32-bit range, 11-bit probabilities that move by 1/32 of
//! the way with each bit. A bit costs at least `log2(2048 / 2017)` = 0.022 bits, so a byte of the stream
//! holds at most 364 coded bits: [`Decoder`] uses this to refuse claims that the stream cannot back.

use crate::error::FormatKind;

const SCALE: u32 = 11;
const RATE: u32 = 5;
const HALF: u16 = 1 << (SCALE - 1);
const TOP: u32 = 1 << 24;
/// Coded bits that a byte of the stream can hold.
const MAX_BITS_PER_BYTE: usize = 364;

/// Moves the probability that the next bit is 0 towards the bit that came.
fn learn(probability: &mut u16, bit: bool) {
    if bit {
        *probability -= *probability >> RATE;
    } else {
        *probability += ((1 << SCALE) - *probability) >> RATE;
    }
}

/// Codes bits one way: an encoder writes the bit it is given, a decoder gives the bit it reads. A model
/// written once over this trait cannot differ between the two directions.
pub(super) trait Coder {
    fn bit(&mut self, probability: &mut u16, bit: bool) -> bool;
}

pub(super) struct Encoder {
    low: u64,
    range: u32,
    cache: u8,
    pending: usize,
    out: Vec<u8>,
}

impl Encoder {
    pub fn new() -> Self {
        Self { low: 0, range: u32::MAX, cache: 0, pending: 0, out: Vec::new() }
    }

    fn shift(&mut self) {
        if self.low < 0xFF00_0000 || self.low > u64::from(u32::MAX) {
            let carry = (self.low >> 32) as u8;
            // The very first byte is always 0 and is not written.
            if self.pending > 0 {
                self.out.push(self.cache.wrapping_add(carry));
                for _ in 1..self.pending {
                    self.out.push(0xFF_u8.wrapping_add(carry));
                }
            }
            self.pending = 0;
            self.cache = (self.low >> 24) as u8;
        }
        self.pending += 1;
        self.low = (self.low << 8) & 0xFFFF_FFFF;
    }

    pub fn finish(mut self) -> Vec<u8> {
        for _ in 0..5 {
            self.shift();
        }
        // A decoder reads zeros past the end.
        while self.out.last() == Some(&0) {
            self.out.pop();
        }
        self.out
    }
}

impl Coder for Encoder {
    fn bit(&mut self, probability: &mut u16, bit: bool) -> bool {
        let bound = (self.range >> SCALE) * u32::from(*probability);
        if bit {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        learn(probability, bit);
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
    /// Coded bits that have been claimed so far.
    claimed: usize,
}

impl<'a> Decoder<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self { bytes, at: 0, range: u32::MAX, code: 0, claimed: 0 };
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

    /// An error when the whole stream could not hold `bits` coded bits beside those claimed before.
    pub fn check_claim(&mut self, bits: Option<usize>) -> Result<(), FormatKind> {
        let limit = (self.bytes.len() + 8).saturating_mul(MAX_BITS_PER_BYTE);
        match bits.and_then(|bits| self.claimed.checked_add(bits)) {
            Some(claimed) if claimed <= limit => {
                self.claimed = claimed;
                Ok(())
            }
            _ => Err(FormatKind::Archive("it claims more data than it can hold")),
        }
    }

    /// Whether more has been read than there is: the stream was cut short. A few bytes are normal, since
    /// trailing zeros are not written.
    pub fn is_exhausted(&self) -> bool {
        self.at > self.bytes.len() + 8
    }
}

impl Coder for Decoder<'_> {
    fn bit(&mut self, probability: &mut u16, _: bool) -> bool {
        let bound = (self.range >> SCALE) * u32::from(*probability);
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        learn(probability, bit);
        while self.range < TOP {
            self.range <<= 8;
            self.pull();
        }
        bit
    }
}

/// Learns from bits without coding them: to prepare a model.
pub(super) struct Learner;

impl Coder for Learner {
    fn bit(&mut self, probability: &mut u16, bit: bool) -> bool {
        learn(probability, bit);
        bit
    }
}

/// Symbols of a fixed number of bits, most significant bit first, each bit in the context of those before
/// it.
pub(super) struct Tree {
    bits: u32,
    nodes: Vec<u16>,
}

impl Tree {
    pub fn new(bits: u32) -> Self {
        Self { bits, nodes: vec![HALF; 1 << bits] }
    }

    pub fn code(&mut self, coder: &mut impl Coder, symbol: u32) -> u32 {
        let mut node = 1;
        for i in (0..self.bits).rev() {
            let bit = coder.bit(&mut self.nodes[node as usize], symbol >> i & 1 == 1);
            node = node << 1 | u32::from(bit);
        }
        node - (1 << self.bits)
    }
}

/// Bits, each in the context of a small number that the caller makes up.
pub(super) struct Flags {
    contexts: Vec<u16>,
}

impl Flags {
    pub fn new(contexts: usize) -> Self {
        Self { contexts: vec![HALF; contexts] }
    }

    pub fn code(&mut self, coder: &mut impl Coder, context: usize, bit: bool) -> bool {
        coder.bit(&mut self.contexts[context], bit)
    }
}

/// Whole numbers: their length in bits, then their bits (the first few below the top in context).
pub(super) struct Numbers {
    lengths: Tree,
    bits: Vec<u16>,
}

impl Numbers {
    pub fn new() -> Self {
        Self { lengths: Tree::new(7), bits: vec![HALF; 65 * 65] }
    }

    pub fn code(&mut self, coder: &mut impl Coder, number: u64) -> u64 {
        let length = self.lengths.code(coder, 64 - number.leading_zeros()).min(64);
        if length == 0 {
            return 0;
        }
        (0..length - 1).rev().fold(1, |n, i| {
            let context = &mut self.bits[(length * 65 + i) as usize];
            n << 1 | u64::from(coder.bit(context, number >> i & 1 == 1))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(
        coder: &mut impl Coder,
        symbols: &[u32],
        flags: &[bool],
        numbers: &[u64],
    ) -> (Vec<u32>, Vec<bool>, Vec<u64>) {
        let (mut tree, mut bits, mut whole) = (Tree::new(5), Flags::new(2), Numbers::new());
        let a = symbols.iter().map(|s| tree.code(coder, *s)).collect();
        let mut last = false;
        let b = flags
            .iter()
            .map(|f| {
                last = bits.code(coder, usize::from(last), *f);
                last
            })
            .collect();
        let c = numbers.iter().map(|n| whole.code(coder, *n)).collect();
        (a, b, c)
    }

    proptest! {
        #[test]
        fn decoding_inverts_encoding(
            symbols in prop::collection::vec(0_u32..32, 0..300),
            flags in prop::collection::vec(prop::bool::weighted(0.02), 0..3000),
            numbers in prop::collection::vec(any::<u64>(), 0..40),
        ) {
            let mut encoder = Encoder::new();
            run(&mut encoder, &symbols, &flags, &numbers);
            let bytes = encoder.finish();
            let mut decoder = Decoder::new(&bytes);
            let blank = run(&mut decoder, &vec![0; symbols.len()], &vec![false; flags.len()], &vec![0; numbers.len()]);
            prop_assert_eq!(blank, (symbols, flags, numbers));
            prop_assert!(!decoder.is_exhausted());
        }

        #[test]
        fn any_bytes_decode_to_something(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut decoder = Decoder::new(&bytes);
            run(&mut decoder, &[0; 50], &[false; 50], &[0; 20]);
        }
    }

    #[test]
    fn carries_reach_back_through_pending_bytes() {
        // Almost certain zeros, then ones: drives `low` close to the carry.
        let flags: Vec<bool> = (0..20_000).map(|i| i % 97 == 0 || i > 19_900).collect();
        let mut encoder = Encoder::new();
        run(&mut encoder, &[], &flags, &[]);
        let bytes = encoder.finish();
        assert_eq!(run(&mut Decoder::new(&bytes), &[], &vec![false; flags.len()], &[]).1, flags);
    }
}
