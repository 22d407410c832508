//! Sums of rows of weights with rows of a few inputs: a tile of both, with all its accumulators in registers,
//! runs along the rows.

use super::panels::FEW;
use std::ops::AddAssign;

/// Rows of weights that meet inputs at a time, at most.
pub const HEIGHT: usize = 4;

/// Vectors of one row whose sums go on side by side: an instruction need not wait for the one before.
#[cfg(target_arch = "x86_64")]
pub(super) const ALONG: usize = 4;

/// A way to sum the products of `R` and `B` rows of equal length, for at most 4 of each and 8 sums in all.
pub trait Tiles: Copy {
    type W: Copy + Default;
    type X: Copy + Default;
    type Sum: Copy + Default + AddAssign;
    fn tile<const R: usize, const B: usize>(
        self,
        w: [&[Self::W]; R],
        x: [&[Self::X]; B],
    ) -> [[Self::Sum; FEW]; R];
    /// The sum of one row of weights with one input, as long. Where rows come from memory, that is what it waits for,
    /// and it is read faster on end than in several rows at a time.
    fn row(self, w: &[Self::W], x: &[Self::X]) -> Self::Sum {
        self.tile([w], [x])[0][0]
    }
}

/// Calls `put(r, b, sum)` for each of `m` rows of weights and each input.
#[inline(always)]
pub fn each<'a, K: Tiles<W: 'a>>(
    kernel: K,
    w: impl Fn(usize) -> &'a [K::W],
    x: &[&[K::X]],
    m: usize,
    mut put: impl FnMut(usize, usize, K::Sum),
) {
    macro_rules! tile {
        ($r:expr, $height:literal, $width:literal) => {{
            let ws: [_; $height] = std::array::from_fn(|i| w($r + i));
            let xs: [_; $width] = std::array::from_fn(|i| x[i]);
            for (i, sums) in kernel.tile(ws, xs).iter().enumerate() {
                sums[..$width].iter().enumerate().for_each(|(b, sum)| put($r + i, b, *sum));
            }
        }};
    }
    if let [x] = x {
        return (0..m).for_each(|r| put(r, 0, kernel.row(w(r), x)));
    }
    let height = if x.len() == 2 { HEIGHT } else { 2 };
    for r in (0..m).step_by(height) {
        match (height.min(m - r), x.len()) {
            (_, 0) => {}
            (4, 2) => tile!(r, 4, 2),
            (3, 2) => tile!(r, 3, 2),
            (2, 2) => tile!(r, 2, 2),
            (1, 2) => tile!(r, 1, 2),
            (2, 3) => tile!(r, 2, 3),
            (1, 3) => tile!(r, 1, 3),
            (2, _) => tile!(r, 2, 4),
            _ => tile!(r, 1, 4),
        }
    }
}
