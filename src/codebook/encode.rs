//! From the values of a leaf to a table and codes.

use super::{CodebookInit, CodebookQuantizer};
use crate::kernels::codebook::{self as kernels, Bounds, Histogram, Points};
use crate::kernels::memory;
use crate::kernels::quantize::pack;
use crate::weight::{Codebook, Codes, Coding, Leaf, Mask, Values};
use crate::{Fault, Float, parallel};
use std::sync::{Mutex, PoisonError};

/// Kept entries up to which the search works on the values themselves.
const EXACT: usize = 1 << 16;

const TOO_LARGE: Fault = Fault::Form("its codes do not fit in memory");

/// Codes the kept entries of `leaf`; its support stays as it is.
pub(super) fn encode<T: Float>(leaf: Leaf<T>, how: &CodebookQuantizer) -> Result<Leaf<T>, Fault> {
    let leaf = leaf.settled()?;
    let mask = leaf.mask()?;
    let mask = mask.as_deref();
    let points = if leaf.kept() <= EXACT { distinct(&leaf, mask)? } else { binned(&leaf, mask, how.len())? };
    let table = how.table::<T>(&points);
    let codes = codes(&leaf, mask, &table)?;
    Ok(leaf.recoded(Coding::Codebook(Codebook::new(Values::new(table), codes))))
}

impl CodebookQuantizer {
    /// The table for these points, ascending, without values that none of them needs.
    fn table<T: Float>(&self, points: &Points) -> Vec<T> {
        let k = self.len();
        let centres = if self.optimal || k >= points.distinct() {
            kernels::optimal(points, k)
        } else {
            let start = match self.init {
                CodebookInit::Linear => kernels::linear(points, k),
                CodebookInit::Density => kernels::density(points, k),
                CodebookInit::PlusPlus { seed } => kernels::plus_plus(points, k, seed),
            };
            kernels::lloyd(points, start, self.iterations)
        };
        let mut table: Vec<T> = points.restore(&points.used(&centres)).into_iter().map(T::narrow).collect();
        table.dedup();
        table
    }
}

/// The values themselves.
fn distinct<T: Float>(leaf: &Leaf<T>, mask: Option<&Mask>) -> Result<Points, Fault> {
    let parts = leaf.map_blocks(mask, 1, |block| {
        Leaf::check_finite(&block)?;
        Ok(block.kept.into_owned())
    })?;
    Ok(Points::of_values(&mut parts.concat()))
}

/// The bins of a histogram: the first pass.
fn binned<T: Float>(leaf: &Leaf<T>, mask: Option<&Mask>, k: usize) -> Result<Points, Fault> {
    let histogram = Mutex::new(Histogram::<T>::new());
    let ranges: Vec<_> = leaf.ranges(1).collect();
    let size = ranges.first().map_or(1, |range| range.len());
    let parts: Vec<_> = ranges.chunks((Histogram::<T>::TALLY / size).max(1)).collect();
    parallel::try_map_vec(parts, |ranges| {
        memory::with_scratch(8 * Histogram::<T>::BINS + 8, |scratch| {
            // Bytes lie anywhere; some eighth of them lies right.
            let tally = bytemuck::pod_align_to_mut::<u8, u64>(scratch).1;
            tally.fill(0);
            let mut zeros = false;
            for range in ranges {
                zeros |=
                    leaf.with_block(range.clone(), mask, |block| Ok(Histogram::tally(&block.kept, tally)))?;
            }
            // Whole numbers, which add up to the same in any order.
            histogram.lock().unwrap_or_else(PoisonError::into_inner).add(tally, zeros);
            Ok::<_, Fault>(())
        })
    })?;
    let histogram = histogram.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !histogram.is_finite() {
        leaf.map_blocks(mask, 1, |block| Leaf::check_finite(&block))?;
        return Err(Fault::Form("its values change while they are read"));
    }
    Ok(Points::of_histogram(&histogram, k))
}

/// The codes of all kept entries: the second pass.
fn codes<T: Float>(leaf: &Leaf<T>, mask: Option<&Mask>, table: &[T]) -> Result<Codes, Fault> {
    let bits = Codebook::<T>::bits_for(table.len());
    let bounds = Bounds::new(table);
    let rank = |i: usize| mask.map_or(i, |m| m.rank(i));
    // Blocks of a dense leaf begin at whole bytes; those of kept entries anywhere.
    let width = if mask.is_none() { bits } else { 8 };
    let packed = |codes: usize| Codes::packed_bytes(width, codes).ok_or(TOO_LARGE);
    let room = memory::reserve(packed(leaf.kept())?).map_err(|_| TOO_LARGE)?;
    let pieces = leaf.ranges(1).map(|range| {
        let kept = rank(range.end) - rank(range.start);
        ((kept * usize::from(width)).div_ceil(8), range)
    });
    let bytes = memory::fill_backwards(room, pieces, |range, slot| {
        leaf.with_block(range, mask, |block| {
            memory::with_scratch(2 * block.kept.len(), |scratch| {
                let (codes, packed) = scratch.split_at_mut(block.kept.len());
                bounds.codes(&block.kept, codes);
                if width == 8 {
                    slot.push(codes);
                } else {
                    let packed = &mut packed[..(codes.len() * usize::from(width)).div_ceil(8)];
                    pack::pack(width, codes, packed);
                    slot.push(packed);
                }
                Ok::<_, Fault>(())
            })
        })
    })?;
    Ok(match width == bits {
        true => Codes::from_packed(bits, leaf.kept(), bytes.into()),
        false => Codes::pack(bits, &bytes),
    })
}
