//! From the values of a leaf to codes.

use super::grid::Scheme;
use super::range::Range;
use crate::kernels::memory;
use crate::kernels::quantize::{Steps, encode_runs, ends, pack};
use crate::weight::{
    Affine, Block, Coder, Codes, Coding, Granularity, Grid, Leaf, Make, Mask, Piece, Values, Way,
};
use crate::{Fault, Float};

/// Codes the kept entries of `leaf`; its support stays as it is. Where the values are in a file and their codes go to
/// another, these may be `put_off`: made whenever they are asked for.
pub(super) fn encode<T: Float>(
    leaf: Leaf<T>,
    scheme: Scheme,
    granularity: Granularity,
    how: Range,
    put_off: bool,
) -> Result<Leaf<T>, Fault> {
    let leaf = leaf.settled()?;
    let mask = leaf.mask()?;
    let mask = mask.as_deref();
    let run = granularity.block(leaf.rows(), leaf.cols()).max(1);
    let way = Way { bits: scheme.bits, symmetric: scheme.symmetric, granularity };
    if let Some(coded) = leaf.ahead(way).filter(|_| how == Range::MinMax) {
        let (scales, zeros, codes) = coded.join()?;
        return Ok(leaf.recoded(coding(scheme, granularity, scales, &zeros, codes)));
    }
    let whole = match granularity {
        Granularity::Tensor => Some(whole(&leaf, mask, scheme, how)?),
        _ => None,
    };
    if put_off
        && let Some(grid) = whole
        && let Some(values) = leaf.left_in_file(scheme.bits)
    {
        let late = Late { values: values.clone(), bits: scheme.bits, steps: grid.steps() };
        let codes = Codes::made(scheme.bits, leaf.kept(), late)?;
        let coding = coding(scheme, granularity, vec![grid.scale], &[grid.zero], codes);
        return Ok(leaf.recoded(coding));
    }
    // A run never crosses two blocks, unless one range serves them all.
    let align = if whole.is_some() { 1 } else { run };
    let rank = |i: usize| mask.map_or(i, |m| m.rank(i));
    // Blocks of a dense leaf begin at whole bytes; those of kept entries anywhere.
    let bits = if mask.is_none() { scheme.bits } else { 8 };
    let packed = |codes: usize| Codes::packed_bytes(bits, codes).ok_or(Codes::TOO_LARGE);
    let room = memory::reserve(packed(leaf.kept())?).map_err(|_| Codes::TOO_LARGE)?;
    let runs = if whole.is_some() { 0 } else { leaf.len().div_ceil(run) };
    let (mut scales, mut zeros) = (vec![T::zero(); runs], vec![0; runs]);
    let (mut scales_left, mut zeros_left) = (&mut scales[..], &mut zeros[..]);
    let pieces = leaf.ranges(align).map(|range| {
        let kept = rank(range.end) - rank(range.start);
        let grids = range.len().div_ceil(run).min(scales_left.len());
        let grids = (
            scales_left.split_off_mut(..grids).unwrap_or_default(),
            zeros_left.split_off_mut(..grids).unwrap_or_default(),
        );
        ((kept * usize::from(bits)).div_ceil(8), (range, grids))
    });
    let encode = |(range, grids): (_, (&mut [T], &mut [u8])), slot: &mut memory::Slot<'_, u8>| {
        leaf.with_block(range, mask, |block| {
            memory::with_scratch(2 * block.kept.len(), |scratch| {
                let (codes, packed) = scratch.split_at_mut(block.kept.len());
                match whole {
                    Some(grid) => grid.steps().encode(&block.kept, codes),
                    None => {
                        let range = block.range.clone();
                        match mask {
                            Some(mask) => {
                                code_runs(scheme, how, &block.kept, mask.counts(range, run), grids, codes)
                            }
                            None => {
                                let lens = std::iter::repeat_n(run, range.len() / run);
                                code_runs(scheme, how, &block.kept, lens, grids, codes)
                            }
                        }
                        .ok_or_else(|| not_finite(&block))?;
                    }
                }
                if bits == 8 {
                    slot.push(codes);
                } else {
                    let packed = &mut packed[..(codes.len() * usize::from(bits)).div_ceil(8)];
                    pack::pack(bits, codes, packed);
                    slot.push(packed);
                }
                Ok::<_, Fault>(())
            })
        })
    };
    let bytes = match whole {
        Some(_) => memory::fill_backwards(room, pieces, encode)?,
        None => memory::fill(room, pieces, encode)?.0,
    };
    let codes = match bits == scheme.bits {
        true => Codes::from_packed(bits, leaf.kept(), bytes.into()),
        false => Codes::pack(scheme.bits, &bytes),
    };
    if let Some(grid) = whole {
        scales.push(grid.scale);
        zeros.push(grid.zero);
    }
    Ok(leaf.recoded(coding(scheme, granularity, scales, &zeros, codes)))
}

fn coding<T: Float>(
    scheme: Scheme,
    granularity: Granularity,
    scales: Vec<T>,
    zeros: &[u8],
    codes: Codes,
) -> Coding<T> {
    let zero = (!scheme.has_middle_zero()).then(|| Codes::pack(scheme.bits, zeros));
    Coding::Affine(Affine { granularity, scale: Values::new(scales), zero, codes })
}

/// Codes runs of values that have just been chosen, each on the grid of its smallest and its largest.
pub(super) struct Ahead {
    pub scheme: Scheme,
    pub granularity: Granularity,
}

impl<T: Float> Coder<T> for Ahead {
    fn way(&self) -> Way {
        let Scheme { bits, symmetric } = self.scheme;
        Way { bits, symmetric, granularity: self.granularity }
    }

    fn code(&self, kept: &[T], mask: &Mask, block: usize) -> Result<Piece<T>, Fault> {
        let runs = mask.len() / block.max(1);
        let (mut scales, mut zeros) = (vec![T::zero(); runs], vec![0; runs]);
        memory::with_scratch(kept.len(), |codes| {
            let grids = (&mut scales[..], &mut zeros[..]);
            let lens = mask.counts(0..mask.len(), block);
            code_runs(self.scheme, Range::MinMax, kept, lens, grids, codes)
                .ok_or(Fault::Form("a chosen value is NaN or infinite"))?;
            let codes = Codes::pack(self.scheme.bits, codes);
            Ok(Piece { scales, zeros, codes })
        })
    }
}

/// Codes of values in a file, all on one grid, that are made when they are asked for.
struct Late<T: Float> {
    values: Values<T>,
    bits: u8,
    steps: Steps<T>,
}

impl<T: Float> Make for Late<T> {
    fn make(&self, at: usize, out: &mut [u8]) -> Result<(), Fault> {
        /// Codes that fill whole bytes, whatever their width, and how many of those are made at a time.
        const UNIT: usize = 8;
        const UNITS: usize = 1 << 13;
        let bits = usize::from(self.bits);
        let end = at + out.len();
        let (first, last) = (at / bits, end.div_ceil(bits));
        for unit in (first..last).step_by(UNITS) {
            let codes = unit * UNIT..((unit + UNITS).min(last) * UNIT).min(self.values.len());
            // The bytes of these codes, and those that are wanted.
            let bytes = unit * bits..(unit * bits + (codes.len() * bits).div_ceil(8));
            let wanted = bytes.start.max(at)..bytes.end.min(end);
            let out = &mut out[wanted.start - at..wanted.end - at];
            self.values.with(codes, |values| {
                if bits == 8 {
                    self.steps.encode(&values[wanted.start - bytes.start..][..wanted.len()], out);
                    return Ok(());
                }
                memory::with_scratch(values.len() + bytes.len(), |scratch| {
                    let (codes, packed) = scratch.split_at_mut(values.len());
                    self.steps.encode(values, codes);
                    pack::pack(self.bits, codes, packed);
                    out.copy_from_slice(&packed[wanted.start - bytes.start..][..wanted.len()]);
                });
                Ok(())
            })?;
        }
        Ok(())
    }

    fn resident(&self) -> usize {
        self.values.resident_bytes()
    }
}

/// One grid for all kept entries.
fn whole<T: Float>(
    leaf: &Leaf<T>,
    mask: Option<&Mask>,
    scheme: Scheme,
    range: Range,
) -> Result<Grid<T>, Fault> {
    let all = match leaf.ends() {
        Some(all) => all,
        None => {
            let found =
                leaf.map_blocks(mask, 1, |block| ends(&block.kept).ok_or_else(|| not_finite(&block)))?;
            found.into_iter().fold((T::zero(), T::zero()), |a, b| (a.0.min(b.0), a.1.max(b.1)))
        }
    };
    Ok(match range {
        Range::MinMax => scheme.grid(all.0.widen(), all.1.widen()),
        _ => range.fit(scheme, &leaf.read_kept(0..leaf.len(), mask)?, all),
    })
}

/// Codes runs of values, with the scale and the zero point of each; `None` where a value is NaN or infinite.
fn code_runs<T: Float>(
    scheme: Scheme,
    range: Range,
    values: &[T],
    lens: impl Iterator<Item = usize>,
    (scales, zeros): (&mut [T], &mut [u8]),
    codes: &mut [u8],
) -> Option<()> {
    let mut grids = scales.iter_mut().zip(zeros);
    let mut keep = |grid: (T, u8)| {
        if let Some((scale, zero)) = grids.next() {
            (*scale, *zero) = grid;
        }
    };
    if range == Range::MinMax {
        let finite = encode_runs(
            values,
            lens,
            #[inline(always)]
            |low, high| scheme.grid::<T>(low.widen(), high.widen()).steps(),
            #[inline(always)]
            |steps| keep((steps.scale, steps.zero)),
            codes,
        );
        return finite.then_some(());
    }
    let mut at = 0;
    for len in lens {
        let run = &values[at..at + len];
        let grid = range.fit(scheme, run, ends(run)?);
        grid.steps().encode(run, &mut codes[at..at + len]);
        keep((grid.scale, grid.zero));
        at += len;
    }
    Some(())
}

/// The fault of a block in which an entry is NaN or infinite.
#[cold]
fn not_finite<T: Float>(block: &Block<'_, T>) -> Fault {
    Leaf::check_finite(block).err().unwrap_or(Fault::Form("its values change while they are read"))
}
