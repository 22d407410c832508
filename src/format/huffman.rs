//! How large a model is by the accounting of "Deep Compression" (Han, Mao, Dally, arXiv 1510.00149).
//!
//! A pruned matrix is a list of its kept entries, row by row. Each has a code and the number of pruned
//! entries before it, in 8 bits for a convolution and 5 bits for any other matrix; where more are pruned than
//! that can say, an entry of value zero is put in between. Both columns of the list are then Huffman-coded,
//! each with a code of its own for each weight. The values that codes stand for are counted; the lengths of
//! the Huffman codes, names, shapes and headers are not. The archive layout counts all of these and needs
//! less all the same; this is what published figures are to be compared with.

use crate::model::{Content, Kind, Model};
use crate::weight::{Codes, MaskStorage, Part, PartData, PartKind};
use crate::{Fault, Float, Result};
use std::collections::{BTreeMap, VecDeque};

/// Bits of a relative index.
const CONV_BITS: u32 = 8;
const OTHER_BITS: u32 = 5;

/// Bits of a model as published for Deep Compression (arXiv 1510.00149): see [`Model::huffman_size`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HuffmanSize {
    /// Kept entries.
    pub kept: u64,
    /// Entries of value zero that are stored because an index cannot say how far the next one is.
    pub fillers: u64,
    /// Relative indices at their full width: 8 bits in convolutions, 5 bits elsewhere.
    pub index_bits: u64,
    /// The same, Huffman-coded.
    pub index_huffman: u64,
    /// Codes at their full width; values without a codebook or a scale at their own.
    pub code_bits: u64,
    /// The same, Huffman-coded; values without a codebook as they are.
    pub code_huffman: u64,
    /// Codebooks, scales and zero points, and tensors without codes and without a mask, such as biases.
    pub other_bits: u64,
}

impl HuffmanSize {
    /// Bytes before Huffman coding ("P+Q" in the paper).
    pub fn fixed_bytes(&self) -> u64 {
        (self.index_bits + self.code_bits + self.other_bits).div_ceil(8)
    }

    /// Bytes after it ("P+Q+H").
    pub fn bytes(&self) -> u64 {
        (self.index_huffman + self.code_huffman + self.other_bits).div_ceil(8)
    }
}

impl<T: Float> Model<T> {
    /// How large the model is as "Deep Compression" (arXiv 1510.00149) counts it: relative indices with
    /// filler zeros and codes, both Huffman-coded, and codebooks. For comparison with published figures;
    /// no file is written in this form, as [`Layout::Archive`](crate::Layout::Archive) takes less.
    ///
    /// ```
    /// use bantam::{MagnitudePruner, CodebookQuantizer, Pipeline, Tensor};
    ///
    /// let w = Tensor::new(&[1, 8], vec![0.5_f32, 0.0, 0.0, 1.0, 0.0, 0.5, 0.0, 0.5])?;
    /// let small = Pipeline::new().prune(0.1).codebook(CodebookQuantizer::values(2)).run(w)?.model;
    /// let size = small.huffman_size()?;
    /// // Gaps 0, 2, 1, 1; codes 0, 1, 0, 0; a codebook of two numbers.
    /// assert_eq!((size.index_huffman, size.code_huffman, size.other_bits), (6, 4, 64));
    /// # Ok::<(), bantam::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Weight`](crate::Error::Weight) when a file cannot be read.
    pub fn huffman_size(&self) -> Result<HuffmanSize> {
        let mut size = HuffmanSize::default();
        for (info, content) in self.contents() {
            match content {
                Content::Carried(_, bytes) => size.other_bits += 8 * bytes.len() as u64,
                Content::Weight(weight) => {
                    let fault = |f| super::fault(&info.name, f);
                    let width = if info.kind == Kind::Conv { CONV_BITS } else { OTHER_BITS };
                    let (_, parts) = weight.to_parts(&info.name, MaskStorage::Bits).map_err(fault)?;
                    add(&mut size, &parts, width).map_err(fault)?;
                }
            }
        }
        Ok(size)
    }
}

/// The code of a filler: none of the others.
const FILLER: u32 = u32::MAX;

/// Adds the arrays of a weight.
fn add<T: Float>(size: &mut HuffmanSize, parts: &[Part<T>], width: u32) -> Result<(), Fault> {
    // Where fillers come in the list of kept entries: how many before each.
    let mut list: Option<List> = None;
    for part in parts {
        match part.kind {
            PartKind::Mask { entries, .. } => {
                let mask = bytes(part)?;
                let on = (0..entries).filter(|i| mask[i / 8] >> (i % 8) & 1 == 1);
                let gaps = List::new(on, width);
                size.kept += gaps.kept;
                size.fillers += gaps.fillers;
                size.index_bits += u64::from(width) * (gaps.kept + gaps.fillers);
                size.index_huffman += huffman(&gaps.gaps);
                list = Some(gaps);
            }
            PartKind::Codes { bits, len } => {
                let list = list.take();
                let fillers = list.as_ref().map_or(0, |l| l.fillers);
                if list.is_none() {
                    size.kept += len as u64;
                }
                let packed = Codes::from_packed(bits, len, bytes(part)?.into());
                let mut counts = BTreeMap::new();
                for code in packed.read(0..len)?.iter() {
                    *counts.entry(u32::from(*code)).or_default() += 1;
                }
                if fillers > 0 {
                    counts.insert(FILLER, fillers);
                }
                size.code_bits += u64::from(bits) * (len as u64 + fillers);
                size.code_huffman += huffman(&counts);
            }
            PartKind::Numbers if list.is_some() && !part.name.ends_with(".scale") => {
                let own = 8 * part.len() as u64;
                let fillers = list.take().map_or(0, |l| l.fillers) * part.dtype.bits() as u64;
                size.code_bits += own + fillers;
                size.code_huffman += own + fillers;
            }
            PartKind::Numbers | PartKind::Table | PartKind::ZeroPoints { .. } => {
                size.other_bits += 8 * part.len() as u64;
            }
        }
    }
    Ok(())
}

/// The relative indices of a mask: how often each comes.
struct List {
    gaps: BTreeMap<u32, u64>,
    kept: u64,
    fillers: u64,
}

impl List {
    /// Of ascending positions, for indices of `width` bits. Pruned entries after the last kept one are not
    /// stored: the shape says that they are there.
    fn new(on: impl Iterator<Item = usize>, width: u32) -> Self {
        let most = (1_usize << width) - 1;
        let mut list = Self { gaps: BTreeMap::new(), kept: 0, fillers: 0 };
        let mut next = 0;
        for i in on {
            let gap = i - next;
            // A filler takes the place after as many pruned entries as an index can say.
            let fillers = gap / (most + 1);
            if fillers > 0 {
                *list.gaps.entry(most as u32).or_default() += fillers as u64;
            }
            *list.gaps.entry((gap % (most + 1)) as u32).or_default() += 1;
            list.fillers += fillers as u64;
            list.kept += 1;
            next = i + 1;
        }
        list
    }
}

/// Bits of a message in a Huffman code for the symbols that it has; a single one takes a bit each time.
fn huffman(counts: &BTreeMap<u32, u64>) -> u64 {
    let mut leaves: Vec<u64> = counts.values().copied().filter(|n| *n > 0).collect();
    if let [only] = leaves.as_slice() {
        return *only;
    }
    leaves.sort_unstable();
    // The bits are the sum of all inner nodes, and these are made in ascending order.
    let mut inner: VecDeque<u64> = VecDeque::new();
    let mut leaves = leaves.into_iter().peekable();
    let mut bits = 0;
    loop {
        let mut least = || match (leaves.peek(), inner.front()) {
            (Some(leaf), Some(node)) if node < leaf => inner.pop_front(),
            (Some(_), _) => leaves.next(),
            (None, _) => inner.pop_front(),
        };
        match (least(), least()) {
            (Some(a), Some(b)) => {
                bits += a + b;
                inner.push_back(a + b);
            }
            _ => return bits,
        }
    }
}

fn bytes<T: Float>(part: &Part<T>) -> Result<Vec<u8>, Fault> {
    match &part.data {
        PartData::Bytes(bytes) => {
            let mut out = Vec::with_capacity(bytes.len());
            bytes.for_each_chunk(|chunk| {
                out.extend_from_slice(chunk);
                Ok::<(), Fault>(())
            })?;
            Ok(out)
        }
        PartData::Values(_) => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CodebookQuantizer, MagnitudePruner, Pipeline, Tensor};

    #[test]
    fn a_code_has_the_least_bits() {
        let bits = |counts: &[u64]| huffman(&(0..).zip(counts.iter().copied()).collect());
        // The example of CLRS: lengths 1, 3, 3, 3, 4, 4.
        assert_eq!(bits(&[45, 13, 12, 16, 9, 5]), 224);
        assert_eq!(bits(&[7]), 7);
        assert_eq!(bits(&[]), 0);
        assert_eq!(bits(&[1, 1, 1, 1]), 8);
        assert_eq!(bits(&[0, 3, 0, 2]), 5);
    }

    #[test]
    fn an_index_of_three_bits_needs_a_filler_as_in_the_paper() {
        // Figure 2 of the paper: 1, 4 and 15, where the step of 11 is one of 8 and one of 3.
        let list = List::new([1, 4, 15].into_iter(), 3);
        assert_eq!((list.kept, list.fillers), (3, 1));
        assert_eq!(list.gaps, BTreeMap::from([(1, 1), (2, 2), (7, 1)]));
        // Just within reach, and just beyond.
        assert_eq!(List::new([7].into_iter(), 3).fillers, 0);
        assert_eq!(List::new([8].into_iter(), 3).fillers, 1);
    }

    #[test]
    fn a_model_by_hand() {
        // One row of 100: kept 0 (a), 40 (b), 41 (a), 99 (a). Gaps 0, 39, 0, 57: with 5 bits, 39 and 57 need a
        // filler each (32 further), so the list is 0, 31f, 7, 0, 31f, 25.
        let mut values = vec![0.0_f32; 100];
        for (i, x) in [(0, 1.0), (40, 2.0), (41, 1.0), (99, 1.0)] {
            values[i] = x;
        }
        let tensor = Tensor::new(&[1, 100], values).unwrap();
        let model = Pipeline::new()
            .prune(MagnitudePruner::threshold(0.5))
            .codebook(CodebookQuantizer::values(2))
            .run(tensor)
            .unwrap()
            .model;
        let size = model.huffman_size().unwrap();
        assert_eq!((size.kept, size.fillers), (4, 2));
        assert_eq!((size.index_bits, size.code_bits, size.other_bits), (6 * 5, 6, 64));
        // Gaps 0 twice, 31 twice, 7, 25: 1 + 1 = 2, 2 + 2 = 4, 2 + 4 = 6. Codes a 3, b 1, filler 2: 1 + 2, 3 + 3.
        assert_eq!((size.index_huffman, size.code_huffman), (12, 9));
        assert_eq!((size.fixed_bytes(), size.bytes()), (13, 11));
    }
}
