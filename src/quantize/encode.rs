//! From the values of a leaf to codes.

use super::grid::Scheme;
use super::range::Range;
use crate::weight::{Affine, Coding, Granularity, Grid, Leaf, Packer, Values};
use crate::{Fault, Float};

/// Codes the kept entries of `leaf`; its support stays as it is.
pub(super) fn encode<T: Float>(
    leaf: Leaf<T>,
    scheme: Scheme,
    granularity: Granularity,
    range: Range,
) -> Result<Leaf<T>, Fault> {
    let leaf = leaf.settled()?;
    let mask = leaf.mask()?;
    let mask = mask.as_deref();
    let run = granularity.block(leaf.rows(), leaf.cols()).max(1);
    let whole = match granularity {
        Granularity::Tensor => {
            leaf.map_blocks(mask, 1, |block| Leaf::check_finite(&block))?;
            Some(range.fit(scheme, &leaf.read_kept(0..leaf.len(), mask)?))
        }
        _ => None,
    };
    // A run never crosses two blocks, unless one range serves them all.
    let align = if whole.is_some() { 1 } else { run };
    let blocks = leaf.map_blocks(mask, align, |block| {
        let rank = |i: usize| mask.map_or(i, |m| m.rank(i));
        let first = rank(block.range.start);
        let mut codes = Vec::with_capacity(block.kept.len());
        let mut grids = Vec::new();
        if let Some(grid) = whole {
            codes.extend(block.kept.iter().map(|x| grid.code(*x)));
            return Ok((codes, grids));
        }
        Leaf::check_finite(&block)?;
        for start in block.range.clone().step_by(run) {
            let values = &block.kept[rank(start) - first..rank(start + run) - first];
            let grid = range.fit(scheme, values);
            codes.extend(values.iter().map(|x| grid.code(*x)));
            grids.push(grid);
        }
        Ok((codes, grids))
    })?;
    let mut packer = Packer::new(scheme.bits);
    let mut grids: Vec<Grid<T>> = whole.into_iter().collect();
    for (codes, own) in blocks {
        packer.extend(&codes);
        grids.extend(own);
    }
    let zero = (!scheme.has_middle_zero()).then(|| {
        let mut packer = Packer::new(scheme.bits);
        packer.extend(&grids.iter().map(|g| g.zero).collect::<Vec<_>>());
        packer.finish()
    });
    let scale = Values::new(grids.iter().map(|g| g.scale).collect());
    let coding = Coding::Affine(Affine { granularity, scale, zero, codes: packer.finish() });
    Ok(leaf.recoded(coding))
}
