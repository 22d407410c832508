//! The range that a grid covers.

use super::grid::Scheme;
use crate::kernels::quantize::{self as kernels, GRIDS};
use crate::weight::Grid;
use crate::{Float, Invalid, parallel};
use serde::{Deserialize, Serialize};

/// How the range of a block of values is chosen.
///
/// | value | range | use it |
/// | --- | --- | --- |
/// | `MinMax` (default) | smallest to largest value | 8 bits, and where no value may be clipped |
/// | `Percentile(p)` | what is left when `(100 - p) / 2` percent of the values are cut off at each end (symmetric: the `p`-th percentile of the absolute values); above 0, up to 100 | long tails |
/// | `LeastSquares` | of 80 fractions of the min-max range, from 1 down to 0.21, the one with the smallest sum of squared errors | 4 bits and fewer; slower |
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Range {
    /// From the smallest to the largest value.
    #[default]
    MinMax,
    /// Without the outermost values, in percent of all that stays.
    Percentile(f64),
    /// The least sum of squared errors.
    LeastSquares,
}

/// Fractions that [`Range::LeastSquares`] tries, a multiple of [`GRIDS`], and their distance.
const CANDIDATES: usize = 80;
const STEP: f64 = 0.01;
/// Values that are summed at a time; fixed, so that the sum does not depend on threads.
const BLOCK: usize = 1 << 16;

impl Range {
    pub(super) fn validate(self) -> Result<(), Invalid> {
        match self {
            Self::Percentile(p) => {
                Invalid::unless_in(f64::MIN_POSITIVE..=100.0, "percentile", p, "above 0 and at most 100")
            }
            Self::MinMax | Self::LeastSquares => Ok(()),
        }
    }

    /// The grid for `values`, which lie between `low` and `high`.
    pub(super) fn fit<T: Float>(self, scheme: Scheme, values: &[T], (low, high): (T, T)) -> Grid<T> {
        let (low, high) = (low.widen(), high.widen());
        match self {
            Self::MinMax => scheme.grid(low, high),
            Self::Percentile(p) => {
                let (low, high) = percentile(values, p, scheme.symmetric);
                scheme.grid(low, high)
            }
            Self::LeastSquares => least_squares(scheme, values, low, high),
        }
    }
}

fn percentile<T: Float>(values: &[T], p: f64, symmetric: bool) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let last = (values.len() - 1) as f64;
    let nth = |values: &mut [T], place: usize| {
        let order = |a: &T, b: &T| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal);
        values.select_nth_unstable_by(place, order).1.widen()
    };
    if symmetric {
        let mut sizes: Vec<T> = values.iter().map(|x| x.abs()).collect();
        let end = nth(&mut sizes, (last * p / 100.0).round() as usize);
        return (-end, end);
    }
    let cut = (last * (100.0 - p) / 200.0).round() as usize;
    let mut sorted = values.to_vec();
    (nth(&mut sorted, cut), nth(&mut sorted, values.len() - 1 - cut))
}

/// A convex function of the fraction it is not, so all are tried.
fn least_squares<T: Float>(scheme: Scheme, values: &[T], low: f64, high: f64) -> Grid<T> {
    let grids: [Grid<T>; CANDIDATES] = std::array::from_fn(|i| {
        let fraction = 1.0 - STEP * i as f64;
        scheme.grid(low * fraction, high * fraction)
    });
    let mut best = (f64::INFINITY, grids[0]);
    for (grid, error) in grids.iter().zip(squared_errors(&grids, values)) {
        if error < best.0 {
            best = (error, *grid);
        }
    }
    best.1
}

/// For each grid, the sum of the squared differences between `values` and what their codes stand for.
fn squared_errors<T: Float>(grids: &[Grid<T>; CANDIDATES], values: &[T]) -> [f64; CANDIDATES] {
    let steps = grids.map(|grid| grid.steps());
    let (sides, _) = steps.as_chunks::<GRIDS>();
    let blocks: Vec<&[T]> = values.chunks(BLOCK).collect();
    let mut sums = [0.0; CANDIDATES];
    for errors in parallel::map(blocks.len(), |i| {
        let mut errors = [0.0; CANDIDATES];
        for (side, errors) in sides.iter().zip(errors.as_chunks_mut::<GRIDS>().0) {
            *errors = kernels::squared_errors(blocks[i], side);
        }
        errors
    }) {
        sums.iter_mut().zip(errors).for_each(|(sum, error)| *sum += error);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::quantize::ends;

    /// The sum as it is documented.
    fn squared_error(grid: Grid<f32>, values: &[f32]) -> f64 {
        values.iter().map(|x| (f64::from(*x) - f64::from(grid.value(grid.code(*x)))).powi(2)).sum()
    }

    const FOUR: Scheme = Scheme { bits: 4, symmetric: true };

    #[test]
    fn a_percentile_cuts_both_ends() {
        let values: Vec<f32> = (0..=1000).map(|i| i as f32 - 500.0).collect();
        assert_eq!(percentile(&values, 99.0, false), (-495.0, 495.0));
        assert_eq!(percentile(&values, 100.0, false), (-500.0, 500.0));
        assert_eq!(percentile(&values, 99.0, true), (-495.0, 495.0));
        assert_eq!(percentile::<f32>(&[], 99.0, true), (0.0, 0.0));
    }

    #[test]
    fn least_squares_is_never_worse_than_min_max() {
        let mut values: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5).collect();
        values.push(6.0);
        let ends = ends(&values).unwrap();
        let plain = squared_error(Range::MinMax.fit(FOUR, &values, ends), &values);
        let best = squared_error(Range::LeastSquares.fit(FOUR, &values, ends), &values);
        assert!(best < plain, "{best} {plain}");
        let tried = |i: usize| {
            let fraction = 1.0 - STEP * i as f64;
            FOUR.grid(f64::from(ends.0) * fraction, f64::from(ends.1) * fraction)
        };
        let least = (0..CANDIDATES).map(|i| squared_error(tried(i), &values)).fold(f64::INFINITY, f64::min);
        assert!(best == least, "{best} {least}");
    }
}
