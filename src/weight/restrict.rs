//! Pruning a leaf: its support shrinks, and so do the numbers that it holds.
//!
//! One pass, in strips that stay in a core's innermost cache: each is looked at, its bits of the mask are
//! written, and its kept values move together. Where nobody else holds the values, they move within their own
//! memory; of a file, they stay there until they are wanted; else they are written to new memory, of which only
//! what is kept is touched.

use super::affine::Affine;
use super::ahead::Coded;
use super::codebook::NO_ZEROS;
use super::codes::{Codes, Packer};
use super::leaf::{BLOCK, Block, Coding, Leaf, Support, run_length};
use super::mask::Mask;
use super::values::Values;
use crate::kernels::memory::reserve;
use crate::kernels::prune::{close_up, collect, deposit};
use crate::kernels::quantize::ends_of;
use crate::{Fault, Float, parallel};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Entries of a strip: so few that fetching the next one from memory overlaps with work on this one.
const STRIP: usize = 1 << 9;

/// A run of entries that one thread works on, and where its bits of the new mask go.
struct Run<'a> {
    range: Range<usize>,
    words: &'a mut [u64],
}

/// Splits all entries into runs, and the words of the new mask with them.
fn runs<'a>(len: usize, align: usize, words: &'a mut [u64]) -> impl Iterator<Item = Run<'a>> {
    let size = run_length(align, BLOCK);
    words.chunks_mut(size / 64).enumerate().map(move |(i, words)| {
        let range = i * size..((i + 1) * size).min(len);
        Run { range, words }
    })
}

/// Says which of the kept entries of a run stay: sets a bit for each in words that are as many as needed, and
/// zeros past the last entry. Whether all are finite.
pub(crate) trait Choose<T: Float>:
    Fn(&Block<'_, T>, &mut [u64]) -> Result<bool, Fault> + Sync
{
}

impl<T: Float, F: Fn(&Block<'_, T>, &mut [u64]) -> Result<bool, Fault> + Sync> Choose<T> for F {}

impl<T: Float> Leaf<T> {
    /// Prunes: of the entries that are kept, keeps those for which `keep` says so. It gets the flat position
    /// (row-major) and the value, of codes the one they stand for.
    ///
    /// ```
    /// use bantam::{Tensor, Weight};
    ///
    /// let weight = Weight::from(Tensor::new(&[2, 2], vec![1.0_f32, -2.0, -3.0, 4.0])?);
    /// let positive = weight.map_leaves(&mut |leaf| leaf.retain(|_, x| x > 0.0)).unwrap();
    /// assert_eq!(positive.to_dense()?.as_slice(), [1.0, 0.0, 0.0, 4.0]);
    /// assert!(positive.form().pruned);
    /// # Ok::<(), bantam::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Fault::NotFinite`] when an entry is NaN or infinite, [`Fault::Io`] when values cannot be read.
    pub fn retain(self, keep: impl Fn(usize, T) -> bool + Sync + Send) -> Result<Self, Fault> {
        self.restrict(1, |block| Ok(block.positions().zip(&*block.kept).map(|(i, x)| keep(i, *x)).collect()))
    }

    /// Moves along the support axis only: of the kept entries, keeps those that `keep` says. `keep` gets a
    /// run of kept entries and says true or false for each, in order.
    pub(crate) fn restrict(
        self,
        align: usize,
        keep: impl Fn(&Block<'_, T>) -> Result<Vec<bool>, Fault> + Sync + Send,
    ) -> Result<Self, Fault> {
        self.restrict_bits(align, |block: &Block<'_, T>, bits: &mut [u64]| {
            Self::check_finite(block)?;
            let flags = keep(block)?;
            debug_assert_eq!(flags.len(), block.kept.len());
            for (word, flags) in bits.iter_mut().zip(flags.chunks(64)) {
                *word = flags.iter().enumerate().fold(0, |word, (i, on)| word | u64::from(*on) << i);
            }
            Ok(true)
        })
    }

    /// As [`restrict`](Self::restrict), for those that make bits at once. Runs are whole multiples of `align`
    /// entries, and of 64.
    pub(crate) fn restrict_bits(self, align: usize, choose: impl Choose<T>) -> Result<Self, Fault> {
        let leaf = self.settled()?;
        let mask = leaf.mask()?;
        let old = mask.as_deref();
        let before = leaf.kept();
        let count = leaf.len().div_ceil(64);
        let mut words = reserve(count).map_err(|_| Fault::Form("its mask does not fit in memory"))?;
        words.resize(count, 0);
        let block = match &leaf.coding {
            Coding::Float(values) if align == 1 => {
                values.coder().map(|c| c.way().granularity.block(leaf.rows, leaf.cols))
            }
            _ => None,
        };
        let runs = runs(leaf.len(), block.unwrap_or(align), &mut words);
        let Self { rows, cols, support, coding } = leaf;
        let choose = &choose;
        let coding = match coding {
            Coding::Float(values) => Coding::Float(match values.into_own() {
                Ok((own, dtype)) => Values::selected(in_place(own, old, runs, align, choose)?, dtype),
                Err(values) if values.is_unread() && (old.is_none() || values.ends().is_some()) => {
                    let Looked { ends, coded } =
                        looked_at(&values, old, runs.collect(), align, block, choose)?;
                    let new = Arc::new(Mask::new(words, rows * cols));
                    if new.kept() == before {
                        return Ok(Self { rows, cols, support, coding: Coding::Float(values) });
                    }
                    let coding = Coding::Float(values.chosen(Arc::clone(&new), ends, coded)?);
                    return Ok(Self { rows, cols, support: Support::Kept(new), coding });
                }
                Err(values) => {
                    let kept = copied(&values, old, runs, align, choose)?;
                    if kept.len() == before { values } else { Values::selected(kept, values.dtype()) }
                }
            }),
            Coding::Affine(affine) => {
                let block = affine.granularity.block(rows, cols);
                let decode = |range| affine.decode(range, block, old);
                match coded(&affine.codes, decode, old, runs.collect(), align, choose)? {
                    Some(codes) => Coding::Affine(Affine { codes, ..affine }),
                    None => Coding::Affine(affine),
                }
            }
            Coding::Codebook(book) => {
                let decode = |range| book.decode(range, old);
                match coded(book.codes(), decode, old, runs.collect(), align, choose)? {
                    Some(codes) => Coding::Codebook(book.with_codes(codes)),
                    None => Coding::Codebook(book),
                }
            }
        };
        let new = Mask::new(words, rows * cols);
        let support = if new.kept() == before { support } else { Support::Kept(Arc::new(new)) };
        Ok(Self { rows, cols, support, coding })
    }

    /// The least and the greatest kept entry, and 0, where that is known.
    pub(crate) fn ends(&self) -> Option<(T, T)> {
        match &self.coding {
            Coding::Float(values) => values.ends(),
            _ => None,
        }
    }

    /// Whether its numbers are in a file.
    pub(crate) fn is_unread(&self) -> bool {
        match &self.coding {
            Coding::Float(values) => values.is_unread(),
            _ => self.resident_bytes() == 0,
        }
    }

    /// Its values, where they are in a file and their codes of `bits` bits may be made whenever they are asked for:
    /// not where these are looked at before they are written, to see whether they can be stored without a mask.
    pub(crate) fn left_in_file(&self, bits: u8) -> Option<&Values<T>> {
        let masked = !self.is_pruned() || (self.len() - self.kept()) * usize::from(bits) >= self.len();
        match &self.coding {
            Coding::Float(values) if values.is_unread() && masked => Some(values),
            _ => None,
        }
    }

    /// Whether its numbers are a choice of those in a file.
    pub(crate) fn is_put_off(&self) -> bool {
        self.ends().is_some()
    }

    /// The same leaf with such numbers in memory.
    pub(crate) fn gathered(self) -> Result<Self, Fault> {
        if self.is_put_off() { self.load() } else { Ok(self) }
    }

    /// Whether the leaf takes no more bytes in a file once `more` of its entries are pruned, whatever form its
    /// mask takes then: a bit an entry at most, and there may be none now.
    pub(crate) fn shrinks_by(&self, more: usize) -> bool {
        let bits = self.code_bits().map_or(self.float_dtype().bits().min(T::DTYPE.bits()), usize::from);
        more.saturating_mul(bits) / 8 >= self.len().div_ceil(8)
    }
}

impl<T: Float> Coding<T> {
    /// Keeps the numbers whose bits are set; `runs` are all the numbers, in order, with their bits.
    pub(super) fn retain<'a>(self, runs: impl Iterator<Item = (usize, &'a [u64])>) -> Result<Self, Fault> {
        match self {
            Self::Float(values) => {
                let dtype = values.dtype();
                let mut data = values.into_vec()?;
                let (mut at, mut to) = (0, 0);
                for (n, bits) in runs {
                    to += T::compact(&mut data, at, bits, to);
                    at += n;
                }
                data.truncate(to);
                data.shrink_to_fit();
                Ok(Self::Float(Values::selected(data, dtype)))
            }
            Self::Affine(affine) => {
                let mut packer = Packer::new(affine.bits());
                let mut at = 0;
                for (n, bits) in runs {
                    packer.extend(&chosen(&affine.codes.unpack(at..at + n)?, bits));
                    at += n;
                }
                Ok(Self::Affine(Affine { codes: packer.finish(), ..affine }))
            }
            Self::Codebook(_) => Err(NO_ZEROS),
        }
    }
}

fn rank(mask: Option<&Mask>, i: usize) -> usize {
    mask.map_or(i, |mask| mask.rank(i))
}

/// The kept entries among those with flat positions in `range`.
fn kept(mask: Option<&Mask>, range: &Range<usize>) -> usize {
    rank(mask, range.end) - rank(mask, range.start)
}

/// Hands the strips of a run, the number of their kept entries and their words to `f`, which says which of the
/// kept entries stay.
fn each_strip(
    run: Run<'_>,
    old: Option<&Mask>,
    align: usize,
    mut f: impl FnMut(Range<usize>, usize, &mut [u64]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let size = run_length(align, STRIP);
    let mut bits = Vec::new();
    for (i, words) in run.words.chunks_mut(size / 64).enumerate() {
        let start = run.range.start + i * size;
        let range = start..(start + size).min(run.range.end);
        let n = kept(old, &range);
        bits.resize(n.div_ceil(64), 0);
        f(range.clone(), n, &mut bits)?;
        match old {
            None => words.copy_from_slice(&bits),
            Some(old) => deposit(&bits, old.words(range), words),
        }
    }
    Ok(())
}

/// Lets `choose` say, and finds the place of a value that is not finite.
fn checked<T: Float>(block: &Block<'_, T>, bits: &mut [u64], choose: &impl Choose<T>) -> Result<(), Fault> {
    if choose(block, bits)? { Ok(()) } else { Leaf::check_finite(block) }
}

/// Of values that are ours alone, the chosen ones, moved together within their memory.
fn in_place<'a, T: Float>(
    mut values: Vec<T>,
    old: Option<&Mask>,
    runs: impl Iterator<Item = Run<'a>>,
    align: usize,
    choose: &impl Choose<T>,
) -> Result<Vec<T>, Fault> {
    let mut rest = &mut values[..];
    let mut jobs = Vec::new();
    let mut sizes = Vec::new();
    for run in runs {
        let (own, after) = rest.split_at_mut(kept(old, &run.range));
        rest = after;
        sizes.push(own.len());
        jobs.push((run, own));
    }
    let lens = parallel::try_map_vec(jobs, |(run, own)| {
        let (mut at, mut to) = (0, 0);
        each_strip(run, old, align, |range, n, bits| {
            let block = Block { range, kept: Cow::Borrowed(&own[at..at + n]), mask: old };
            checked(&block, bits, choose)?;
            to += T::compact(own, at, bits, to);
            at += n;
            Ok(())
        })?;
        Ok::<_, Fault>(to)
    })?;
    let len = close_up(&mut values, &sizes, &lens);
    values.truncate(len);
    values.shrink_to_fit();
    Ok(values)
}

/// The chosen ones of values that others hold as well, or that are still to be read.
fn copied<'a, T: Float>(
    values: &Values<T>,
    old: Option<&Mask>,
    runs: impl Iterator<Item = Run<'a>>,
    align: usize,
    choose: &impl Choose<T>,
) -> Result<Vec<T>, Fault> {
    let jobs = runs.map(|run| (kept(old, &run.range), run)).collect();
    let too_large = || Fault::Form("the kept values do not fit in memory");
    collect(jobs, too_large, |run, sink| {
        let mut scratch = Vec::new();
        values.with(rank(old, run.range.start)..rank(old, run.range.end), |all| {
            each_choice(all, old, run, align, choose, |strip, bits| {
                scratch.clear();
                scratch.extend_from_slice(strip);
                let chosen = T::compact(&mut scratch, 0, bits, 0);
                sink.extend_from_slice(&scratch[..chosen]);
            })
        })
    })
}

/// What a pass has seen of values that it has chosen: the least and the greatest, and 0; and their codes, where these
/// are wanted.
struct Looked<T> {
    ends: (T, T),
    coded: Option<Arc<Coded<T>>>,
}

/// Chooses among values that stay where they are. Of those whose codes are wanted, every `block` of entries is coded on
/// its own.
fn looked_at<T: Float>(
    values: &Values<T>,
    old: Option<&Mask>,
    runs: Vec<Run<'_>>,
    align: usize,
    block: Option<usize>,
    choose: &impl Choose<T>,
) -> Result<Looked<T>, Fault> {
    let wider = |a: (T, T), b: (T, T)| (a.0.min(b.0), a.1.max(b.1));
    let nothing = (T::zero(), T::zero());
    // Bits of all entries choose among values only where there is a value for each.
    let coder = values.coder().zip(block).filter(|_| old.is_none());
    let found = parallel::try_map_vec(runs, |Run { range, words }| {
        values.with_copy(rank(old, range.start)..rank(old, range.end), |all| {
            let mut ends = nothing;
            let run = Run { range: range.clone(), words: &mut *words };
            each_choice(all, old, run, align, choose, |strip, bits| {
                ends = wider(ends, ends_of(strip, bits).unwrap_or(nothing));
            })?;
            let Some((coder, block)) = coder else { return Ok((ends, None)) };
            let kept = T::compact(all, 0, words, 0);
            let piece = coder.code(&all[..kept], &Mask::new(words.to_vec(), range.len()), block)?;
            Ok((ends, Some(piece)))
        })
    })?;
    let (ends, pieces): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    let coded = coder.zip(pieces.into_iter().collect::<Option<Vec<_>>>());
    let coded = coded.map(|((coder, _), pieces)| Arc::new(Coded { way: coder.way(), pieces }));
    Ok(Looked { ends: ends.into_iter().fold(nothing, wider), coded })
}

/// Calls `f` with the values of each strip of a run, and the bits of the chosen ones.
fn each_choice<T: Float>(
    all: &[T],
    old: Option<&Mask>,
    run: Run<'_>,
    align: usize,
    choose: &impl Choose<T>,
    mut f: impl FnMut(&[T], &[u64]),
) -> Result<(), Fault> {
    let mut at = 0;
    each_strip(run, old, align, |range, n, bits| {
        let strip = &all[at..at + n];
        at += n;
        checked(&Block { range, kept: Cow::Borrowed(strip), mask: old }, bits, choose)?;
        f(strip, bits);
        Ok(())
    })
}

/// The chosen ones of codes that `decode` reads by flat positions; `None` where all are chosen.
fn coded<T: Float>(
    all: &Codes,
    decode: impl Fn(Range<usize>) -> Result<Vec<T>, Fault> + Sync,
    old: Option<&Mask>,
    runs: Vec<Run<'_>>,
    align: usize,
    choose: &impl Choose<T>,
) -> Result<Option<Codes>, Fault> {
    let parts = parallel::try_map_vec(runs, |run| {
        let own = rank(old, run.range.start)..rank(old, run.range.end);
        let values = decode(run.range.clone())?;
        let codes = all.unpack(own)?;
        let mut kept = Vec::new();
        let mut at = 0;
        each_strip(run, old, align, |range, n, bits| {
            let block = Block { range, kept: Cow::Borrowed(&values[at..at + n]), mask: old };
            checked(&block, bits, choose)?;
            kept.extend(chosen(&codes[at..at + n], bits));
            at += n;
            Ok(())
        })?;
        Ok::<_, Fault>(kept)
    })?;
    if parts.iter().map(Vec::len).sum::<usize>() == all.len() {
        return Ok(None);
    }
    let mut packer = Packer::new(all.bits());
    parts.iter().for_each(|part| packer.extend(part));
    Ok(Some(packer.finish()))
}

/// The codes whose bits are set.
fn chosen(codes: &[u8], bits: &[u64]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bits.iter().map(|w| w.count_ones() as usize).sum());
    for (codes, word) in codes.chunks(64).zip(bits) {
        out.extend(codes.iter().enumerate().filter(|(i, _)| word >> i & 1 == 1).map(|(_, code)| *code));
    }
    out
}
