//! [`Mask`]: which entries of a leaf are kept.

use super::bytes::Make;
use super::storage::MaskForm;
use crate::kernels::cpu::fast;
use crate::kernels::sparse::{Bits, Offsets, WORD};
use crate::{Fault, parallel};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Entries whose kept count is known in advance, so that `rank` looks at a few words only.
const RANK_WORDS: usize = 8;
/// Words that one thread counts at a time.
const PART: usize = 1 << 10;
/// Where no more than a `FEW_SHARE`th is kept, products are faster by a byte for each than by a bit for every entry.
const FEW_SHARE: usize = 5;

/// A bit for each entry, row-major, least significant first, with counts for random access.
#[derive(Clone)]
pub(crate) struct Mask {
    words: Vec<u64>,
    len: usize,
    /// `ranks[i]`: kept entries before word `i * RANK_WORDS`; one more at the end: all of them.
    ranks: Vec<usize>,
    /// The smallest stored form, for the `(cols, stride)` that it was asked for first: those of the leaf.
    form: OnceLock<(usize, usize, MaskForm)>,
    /// For products, where few are kept: with the columns of a row, for which it was asked first.
    offsets: OnceLock<(usize, Option<Offsets>)>,
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} kept of {}]", self.kept(), self.len)
    }
}

impl Mask {
    /// `words` holds a bit an entry; bits past `len` are zero.
    pub fn new(words: Vec<u64>, len: usize) -> Self {
        debug_assert_eq!(words.len(), len.div_ceil(64));
        debug_assert!(len.is_multiple_of(64) || words.last().is_none_or(|w| w >> (len % 64) == 0));
        let count = |words: &[u64]| -> usize {
            fast(
                #[inline(always)]
                || words.iter().map(|w| w.count_ones() as usize).sum(),
            )
        };
        let parts = words.len().div_ceil(PART);
        let part = |p: usize| &words[p * PART..words.len().min((p + 1) * PART)];
        let mut total = 0;
        let mut before = parallel::map(parts, |p| count(part(p)));
        for n in &mut before {
            (*n, total) = (total, total + *n);
        }
        let groups = words.len().div_ceil(RANK_WORDS);
        let mut ranks = vec![total; groups + 1];
        parallel::for_each_chunk(&mut ranks[..groups], PART / RANK_WORDS, |p, ranks| {
            let mut rank = before[p];
            for (slot, group) in ranks.iter_mut().zip(part(p).chunks(RANK_WORDS)) {
                *slot = rank;
                rank += count(group);
            }
        });
        Self { words, len, ranks, form: OnceLock::new(), offsets: OnceLock::new() }
    }

    /// The mask of the given ascending positions, each below `len`.
    pub fn from_positions(positions: impl Iterator<Item = usize>, len: usize) -> Self {
        let mut words = vec![0; len.div_ceil(64)];
        positions.for_each(|i| words[i / 64] |= 1 << (i % 64));
        Self::new(words, len)
    }

    /// From the bitmask of a file. Bits past `len` are ignored.
    pub fn from_le_bytes(bytes: &[u8], len: usize) -> Self {
        let mut words: Vec<u64> = bytes
            .chunks(8)
            .take(len.div_ceil(64))
            .map(|c| {
                let mut word = [0; 8];
                word[..c.len()].copy_from_slice(c);
                u64::from_le_bytes(word)
            })
            .collect();
        if let Some(last) = words.last_mut()
            && !len.is_multiple_of(64)
        {
            *last &= (1 << (len % 64)) - 1;
        }
        Self::new(words, len)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The bits of the entries in `range`, which starts at a multiple of 64 and ends at one or with the mask.
    #[inline(always)]
    pub fn words(&self, range: Range<usize>) -> &[u64] {
        &self.words[range.start / 64..range.end.div_ceil(64)]
    }

    /// Its smallest stored form for rows of `cols` entries, made at most once.
    pub fn stored_form(&self, cols: usize, stride: usize, make: impl Fn() -> MaskForm) -> MaskForm {
        let (known_cols, known_stride, form) = self.form.get_or_init(|| (cols, stride, make()));
        if (*known_cols, *known_stride) == (cols, stride) { form.clone() } else { make() }
    }

    /// The bits of some entries, as those of a row.
    pub fn bits(&self, range: Range<usize>) -> Bits<'_> {
        Bits { words: &self.words, start: range.start, cols: range.len() }
    }

    /// Where the kept entries of rows of `cols` are; `None` where a product is not faster by it.
    pub fn offsets(&self, cols: usize) -> Option<&Offsets> {
        if cols < WORD || self.kept() > self.len / FEW_SHARE {
            return None;
        }
        let (known, offsets) = self.offsets.get().unwrap_or_else(|| {
            // Not while others wait for it: a thread that shares the search out may begin another product of this weight
            // meanwhile. If several come first, each searches, and one is kept.
            let starts = (0..=self.len / cols).map(|row| self.rank(row * cols)).collect();
            let found = Offsets::new(cols, starts, |row| self.bits(row * cols..(row + 1) * cols));
            self.offsets.get_or_init(|| (cols, found))
        });
        offsets.as_ref().filter(|_| *known == cols)
    }

    /// Says that it is made for one product, which would take longer to find offsets than it saves by them.
    pub fn use_once(&self) {
        // One for which they are known already may as well go on with them.
        let _ = self.offsets.set((0, None));
    }

    pub fn kept(&self) -> usize {
        self.ranks.last().copied().unwrap_or(0)
    }

    pub fn has(&self, i: usize) -> bool {
        self.words[i / 64] >> (i % 64) & 1 == 1
    }

    /// Kept entries before entry `i`, for `i <= len`.
    pub fn rank(&self, i: usize) -> usize {
        let word = i / 64;
        let group = word / RANK_WORDS;
        let whole: usize = self.words[group * RANK_WORDS..word].iter().map(|w| w.count_ones() as usize).sum();
        let part = if i.is_multiple_of(64) {
            0
        } else {
            (self.words[word] & ((1 << (i % 64)) - 1)).count_ones() as usize
        };
        self.ranks[group] + whole + part
    }

    /// How many are kept of each `run` of entries of the range, which starts at a multiple of 64.
    #[inline(always)]
    pub fn counts(&self, range: Range<usize>, run: usize) -> impl Iterator<Item = usize> + '_ {
        let whole = run.is_multiple_of(64);
        let mut before = if whole { 0 } else { self.rank(range.start) };
        range.clone().step_by(run).map(
            #[inline(always)]
            move |start| {
                let end = (start + run).min(range.end);
                if whole {
                    return self.words(start..end).iter().map(|w| w.count_ones() as usize).sum();
                }
                let after = self.rank(end);
                after - std::mem::replace(&mut before, after)
            },
        )
    }

    /// The position of the kept entry that `rank` others come before, for `rank < kept`.
    pub fn place(&self, rank: usize) -> usize {
        // The last group that does not begin past it.
        let group = self.ranks[..self.ranks.len() - 1].partition_point(|before| *before <= rank) - 1;
        let mut left = rank - self.ranks[group];
        let mut at = group * RANK_WORDS;
        while let Some(word) = self.words.get(at) {
            let count = word.count_ones() as usize;
            if left < count {
                let rest = (0..left).fold(*word, |word, _| word & (word - 1));
                return at * 64 + rest.trailing_zeros() as usize;
            }
            left -= count;
            at += 1;
        }
        debug_assert!(false, "there are not so many");
        self.len
    }

    /// Positions of the kept entries in `range`, ascending.
    pub fn positions(&self, range: Range<usize>) -> impl Iterator<Item = usize> + '_ {
        let (first, last) = (range.start / 64, range.end.div_ceil(64).max(range.start / 64));
        (first..last).flat_map(move |w| {
            let mut word = self.words[w];
            if w == first {
                word &= u64::MAX << (range.start % 64);
            }
            if w == range.end / 64 {
                word &= (1_u64 << (range.end % 64)).wrapping_sub(1);
            }
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros();
                (bit < 64).then(|| {
                    word &= word - 1;
                    w * 64 + bit as usize
                })
            })
        })
    }

    pub fn resident_bytes(&self) -> usize {
        let offsets = self.offsets.get().and_then(|(_, offsets)| offsets.as_ref());
        size_of_val(&self.words[..])
            + size_of_val(&self.ranks[..])
            + offsets.map_or(0, Offsets::resident_bytes)
    }
}

/// A byte for each eight entries.
impl Make for Arc<Mask> {
    fn resident(&self) -> usize {
        self.resident_bytes()
    }

    fn make(&self, at: usize, out: &mut [u8]) -> Result<(), Fault> {
        let (first, skip) = (at / 8, at % 8);
        let (head, rest) = out.split_at_mut(out.len().min((8 - skip) % 8));
        for (i, byte) in head.iter_mut().enumerate() {
            *byte = self.words[first].to_le_bytes()[skip + i];
        }
        let words = &self.words[first + usize::from(skip > 0)..];
        let (whole, last) = rest.as_chunks_mut::<8>();
        let count = whole.len();
        for (bytes, word) in whole.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        if !last.is_empty() {
            last.copy_from_slice(&words[count].to_le_bytes()[..last.len()]);
        }
        Ok(())
    }
}

impl PartialEq for Mask {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.words == other.words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offsets_are_found_where_few_are_kept_and_counted_as_memory() {
        let few = Mask::from_positions((0..1000).step_by(5), 1000);
        let before = few.resident_bytes();
        assert!(few.offsets(100).is_some());
        assert!(few.resident_bytes() > before + 200);
        // Of rows of another length: for the first only.
        assert!(few.offsets(500).is_none() && few.offsets(100).is_some());
        // Of short rows they would be longer than the mask.
        assert!(few.offsets(0).is_none() && few.offsets(50).is_none());
        assert!(Mask::from_positions((0..1000).step_by(4), 1000).offsets(100).is_none());
        assert!(Mask::from_positions(0..256, 2560).offsets(2560).is_none());
        let once = Mask::from_positions(0..10, 1000);
        once.use_once();
        assert!(once.offsets(100).is_none());
    }

    proptest! {
        #[test]
        fn ranks_and_positions_agree_with_a_plain_list(bits in prop::collection::vec(any::<bool>(), 0..1500), a in 0_usize..1500, b in 0_usize..1500) {
            let on: Vec<usize> = (0..bits.len()).filter(|i| bits[*i]).collect();
            let mask = Mask::from_positions(on.iter().copied(), bits.len());
            let (a, b) = (a.min(bits.len()), b.min(bits.len()));
            let (a, b) = (a.min(b), a.max(b));
            prop_assert_eq!(mask.kept(), on.len());
            prop_assert_eq!(mask.rank(a), on.iter().filter(|i| **i < a).count());
            prop_assert_eq!(mask.rank(bits.len()), on.len());
            let inside: Vec<usize> = on.iter().copied().filter(|i| (a..b).contains(i)).collect();
            prop_assert_eq!(mask.positions(a..b).collect::<Vec<_>>(), inside);
            let start = a / 64 * 64;
            for run in [1, 64, 100, 128] {
                let counts: Vec<usize> = mask.counts(start..bits.len(), run).collect();
                let each = bits[start..].chunks(run).map(|c| c.iter().filter(|on| **on).count());
                prop_assert_eq!(counts, each.collect::<Vec<_>>());
            }
            prop_assert_eq!((0..on.len()).map(|rank| mask.place(rank)).collect::<Vec<_>>(), on);
            let mask = Arc::new(mask);
            let mut bytes = vec![0; bits.len().div_ceil(8)];
            let (head, rest) = bytes.split_at_mut(bits.len().min(a) / 8);
            mask.make(head.len(), rest).unwrap();
            mask.make(0, head).unwrap();
            prop_assert_eq!(&Mask::from_le_bytes(&bytes, bits.len()), &*mask);
        }
    }
}
