//! Archives of version 1, which are read but not written any more: a coder with probabilities of 11 bits, and
//! one context for each bit.
//!
//! A bit costs at least `log2(2048 / 2017)` = 0.022 bits, so a byte of the stream holds at most 364 coded
//! bits: [`Decoder`] uses this to refuse claims that the stream cannot back.

use super::{CHUNK, check_text, has};
use crate::error::FormatKind;
use crate::weight::{Bytes, Packer, PartKind};
use crate::{DType, Result};

const SCALE: u32 = 11;
const RATE: u32 = 5;
const HALF: u16 = 1 << (SCALE - 1);
const TOP: u32 = 1 << 24;
/// Coded bits that a byte of the stream can hold.
const MAX_BITS_PER_BYTE: usize = 364;
/// Zeros at the end that need not be written. A decoder that reads further has a stream that was cut.
const TRAILING: usize = 8;

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
trait Coder {
    fn bit(&mut self, probability: &mut u16, bit: bool) -> bool;
}

struct Decoder<'a> {
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
        let limit = (self.bytes.len() + TRAILING).saturating_mul(MAX_BITS_PER_BYTE);
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
        self.at > self.bytes.len() + TRAILING
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
struct Learner;

impl Coder for Learner {
    fn bit(&mut self, probability: &mut u16, bit: bool) -> bool {
        learn(probability, bit);
        bit
    }
}

/// Symbols of a fixed number of bits, most significant bit first, each bit in the context of those before
/// it.
struct Tree {
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
struct Flags {
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
struct Numbers {
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

/// The description of such an archive, and what gives the arrays of its entries in order.
pub(super) struct Reader<'a> {
    decoder: Decoder<'a>,
    models: Models,
}

impl<'a> Reader<'a> {
    pub fn new(stream: &'a [u8]) -> Self {
        Self { decoder: Decoder::new(stream), models: Models::new() }
    }
}

impl super::Stream for Reader<'_> {
    fn text(&mut self) -> Result<Vec<u8>> {
        let Self { decoder, models } = self;
        let length = models.lengths.code(decoder, 0);
        check_text(length)?;
        decoder.check_claim((length as usize).checked_mul(8))?;
        Ok((0..length).map(|_| models.text.code(decoder, 0)).collect())
    }

    fn array(&mut self, _: &[usize], kind: PartKind, dtype: DType, bytes: usize) -> Result<Bytes> {
        Ok(decode(&mut self.decoder, kind, dtype, bytes)?)
    }

    fn is_exhausted(&self) -> bool {
        self.decoder.is_exhausted()
    }
}

struct Models {
    lengths: Numbers,
    text: Text,
}

impl Models {
    fn new() -> Self {
        Self { lengths: Numbers::new(), text: Text::primed() }
    }
}

/// Bytes of text, each in the context of the one before.
struct Text {
    trees: Vec<Tree>,
    last: usize,
}

impl Text {
    /// Small descriptions are mostly words that every description has, so the model has seen one before it
    /// starts. Part of the format: changing the text needs a new version.
    fn primed() -> Self {
        let mut text = Self { trees: (0..256).map(|_| Tree::new(8)).collect(), last: 0 };
        PRIMER.iter().for_each(|byte| {
            text.code(&mut Learner, *byte);
        });
        text.last = 0;
        text
    }

    fn code(&mut self, coder: &mut impl Coder, byte: u8) -> u8 {
        let byte = self.trees[self.last].code(coder, u32::from(byte)) as u8;
        self.last = usize::from(byte);
        byte
    }
}

const PRIMER: &[u8] = br#"{"version":1,"entries":[{"name":"fc1.weight","kind":"linear","form":{"shape":[300,784],"product":[{"shape":[300,32],"leaf":{"mask":{"bitmask":{"kept":2400}},"affine":{"bits":4,"granularity":"channel","scale":"F32","symmetric":true}}},{"shape":[32,784],"leaf":{"mask":{"bitmask":{"kept":9000}},"affine":{"bits":4,"granularity":"tensor","scale":"F32","symmetric":false}}}]}},{"name":"fc1.bias","kind":"bias","form":{"shape":[300],"leaf":{"float":"F32"}}},{"name":"conv2.weight","kind":"conv","form":{"shape":[50,20,5,5],"leaf":{"mask":{"bitmask":{"kept":100}},"affine":{"bits":8,"granularity":{"group":{"size":128}},"scale":"F32","symmetric":true}},"activations":"int8"}},{"name":"fc2.bias","form":{"shape":[10],"leaf":{"float":"F32"}}}],"graph":{"nodes":[{"op":"flatten","from":[0]},{"op":{"linear":{"weight":"fc1.weight","bias":"fc1.bias"}},"from":[1]},{"op":"relu","from":[2]},{"op":{"linear":{"weight":"fc2.weight","bias":"fc2.bias"}},"from":[3]}]}}"#;

fn decode(
    decoder: &mut Decoder<'_>,
    kind: PartKind,
    dtype: DType,
    bytes: usize,
) -> Result<Bytes, FormatKind> {
    let out = match kind {
        PartKind::Mask { entries, cols, .. } => {
            decoder.check_claim(Some(entries))?;
            let mut on = vec![0; entries.div_ceil(8)];
            code_mask(decoder, entries, cols, &mut on, |_| false);
            on
        }
        PartKind::Codes { bits, len } | PartKind::ZeroPoints { bits, len } => {
            decoder.check_claim(len.checked_mul(usize::from(bits)))?;
            let mut tree = Tree::new(u32::from(bits));
            let mut packer = Packer::new(bits);
            for first in (0..len).step_by(CHUNK) {
                let codes = first..len.min(first + CHUNK);
                packer.extend(&codes.map(|_| tree.code(decoder, 0) as u8).collect::<Vec<_>>());
            }
            return Ok(packer.finish().packed());
        }
        PartKind::Numbers | PartKind::Table => {
            decoder.check_claim(bytes.checked_mul(8))?;
            let mut trees = byte_trees(dtype);
            let width = trees.len();
            (0..bytes).map(|i| trees[i % width].code(decoder, 0) as u8).collect::<Vec<_>>()
        }
    };
    Ok(out.into())
}

/// A model for each byte of a number.
fn byte_trees(dtype: DType) -> Vec<Tree> {
    (0..(dtype.bits() / 8).max(1)).map(|_| Tree::new(8)).collect()
}

/// Codes `entries` bits, row by row; `on` is a bitmask of zeros that is filled with them.
fn code_mask(
    coder: &mut impl Coder,
    entries: usize,
    cols: usize,
    on: &mut [u8],
    bit: impl Fn(usize) -> bool,
) {
    let mut flags = Flags::new(16);
    for i in 0..entries {
        let column = i.checked_rem(cols).unwrap_or(0);
        let seen = |back: usize, there: bool| usize::from(there && back <= i && has(on, i - back));
        let context = seen(1, column >= 1)
            | seen(2, column >= 2) << 1
            | seen(cols, true) << 2
            | seen(cols.wrapping_sub(1), column + 1 < cols && cols > 1) << 3;
        on[i / 8] |= u8::from(flags.code(coder, context, bit(i))) << (i % 8);
    }
}
