//! The least possible error: dynamic programming over the sorted points.
//!
//! Wang, Song: *Ckmeans.1d.dp: Optimal k-means Clustering in One Dimension by Dynamic Programming*, The R Journal
//! 3(2), 2011. `D[q][j]`, the least error of the first `j` points in `q` clusters, is the least over `i` of
//! `D[q - 1][i] + error(i..j)`. The best `i` never falls as `j` grows, so that a row takes `n log n` steps by
//! halves (Grønlund et al., *Fast Exact k-Means, k-Medians and Bregman Divergence Clustering in 1D*, arXiv
//! 1701.07204). This holds with a cluster that keeps its centre at 0, too: moving the far end of a run of
//! numbers of one sign costs at least as much around 0 as around a mean of that sign.
//!
//! Where clusters end is not kept for all rows, which would take `n` times `k`: a search knows only where its
//! middle cluster ends, and goes on in both halves, for twice the time. `O(k n log n)` steps, `O(n)` memory.

use super::Points;
use std::ops::Range;

/// The centres of the `k` clusters with the least sum of squared errors, ascending; as many as there are points
/// where these are fewer.
pub fn optimal(points: &Points, k: usize) -> Vec<f64> {
    if k >= points.distinct() {
        return points.values.clone();
    }
    let sums = Sums::new(points);
    let mut ends = Vec::with_capacity(k);
    split(&sums, 0..points.distinct(), k, &mut ends);
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(&ends).map(|(start, end)| points.centre(start..*end)).collect()
}

/// Sums over the points before each, of numbers from which the mean is taken, for the sake of precision.
struct Sums {
    counts: Vec<f64>,
    firsts: Vec<f64>,
    squares: Vec<f64>,
    /// What 0 has become.
    origin: f64,
    zero: usize,
}

impl Sums {
    fn new(points: &Points) -> Self {
        let pairs = || points.values.iter().zip(&points.counts);
        let total: f64 = points.counts.iter().sum();
        let mean = pairs().map(|(x, n)| x * n).sum::<f64>() / total;
        let running = |f: &dyn Fn(f64, f64) -> f64| {
            let mut sum = 0.0;
            let after = pairs().map(|(x, n)| {
                sum += f(x - mean, *n);
                sum
            });
            std::iter::once(0.0).chain(after).collect::<Vec<f64>>()
        };
        Self {
            counts: running(&|_, n| n),
            firsts: running(&|x, n| x * n),
            squares: running(&|x, n| x * x * n),
            origin: -mean,
            // Past every range where there is none.
            zero: points.zero.unwrap_or(usize::MAX),
        }
    }

    /// The error of the points `i..j` around their centre.
    #[inline]
    fn error(&self, i: usize, j: usize) -> f64 {
        let count = self.counts[j] - self.counts[i];
        let first = self.firsts[j] - self.firsts[i];
        let square = self.squares[j] - self.squares[i];
        let error = if (i..j).contains(&self.zero) {
            square - self.origin * (2.0 * first - self.origin * count)
        } else {
            square - first * first / count
        };
        error.max(0.0)
    }
}

/// Appends the ends of the best `k` clusters of the points in `range`, which are at least `k`.
fn split(sums: &Sums, range: Range<usize>, k: usize, ends: &mut Vec<usize>) {
    if k <= 1 {
        return ends.push(range.end);
    }
    let half = k / 2;
    let n = range.len();
    let first = range.start;
    // Of the first `j` points: the least error so far, and where the first `half` clusters of it end.
    let mut errors: Vec<f64> =
        (0..=n).map(|j| if j == 0 { 0.0 } else { sums.error(first, first + j) }).collect();
    let mut middles: Vec<usize> = (0..=n).collect();
    let (mut next_errors, mut next_middles) = (errors.clone(), middles.clone());
    for q in 2..=k {
        let mut row = Row { sums, first, last: &errors, next: &mut next_errors, best: &mut next_middles };
        // Every cluster has a point.
        row.fill(q..n + 1, q - 1..n);
        if q > half {
            // What has been the best cut is replaced by where the middle of that one lay.
            for middle in &mut next_middles[q..] {
                *middle = if q == half + 1 { *middle } else { middles[*middle] };
            }
        }
        std::mem::swap(&mut errors, &mut next_errors);
        std::mem::swap(&mut middles, &mut next_middles);
    }
    let middle = first + middles[n];
    drop((errors, next_errors, middles, next_middles));
    split(sums, first..middle, half, ends);
    split(sums, middle..range.end, k - half, ends);
}

/// One more cluster.
struct Row<'a> {
    sums: &'a Sums,
    first: usize,
    last: &'a [f64],
    next: &'a mut [f64],
    /// Where the last cluster begins.
    best: &'a mut [usize],
}

impl Row<'_> {
    /// The errors of the first `j` points for all `j` in `js`, with the last cluster beginning within `starts`.
    fn fill(&mut self, js: Range<usize>, starts: Range<usize>) {
        if js.is_empty() {
            return;
        }
        let j = js.start + js.len() / 2;
        let mut least = (f64::INFINITY, starts.start);
        for i in starts.start..starts.end.min(j) {
            let error = self.last[i] + self.sums.error(self.first + i, self.first + j);
            if error < least.0 {
                least = (error, i);
            }
        }
        (self.next[j], self.best[j]) = least;
        self.fill(js.start..j, starts.start..least.1 + 1);
        self.fill(j + 1..js.end, least.1..starts.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::codebook::{density, linear, lloyd, plus_plus};
    use proptest::prelude::*;

    /// The least error, by trying every way to cut.
    fn tried(points: &Points, k: usize) -> f64 {
        fn best(points: &Points, from: usize, k: usize) -> f64 {
            let cost = |range: Range<usize>| {
                let centre = points.centre(range.clone());
                range.map(|i| points.counts[i] * (points.values[i] - centre).powi(2)).sum::<f64>()
            };
            if k == 1 {
                return cost(from..points.distinct());
            }
            let ends = from + 1..points.distinct() + 2 - k;
            ends.map(|end| cost(from..end) + best(points, end, k - 1)).fold(f64::INFINITY, f64::min)
        }
        let scale = points.restore(&[1.0])[0];
        best(points, 0, k.min(points.distinct())) * scale * scale
    }

    proptest! {
        #[test]
        fn no_other_cut_is_better(raw in prop::collection::vec(-40_i16..40, 1..14), k in 1_usize..7) {
            let mut values: Vec<f64> = raw.iter().map(|x| f64::from(*x) * f64::from(*x).abs() + 100.0 * f64::from(x % 3)).collect();
            let points = Points::of_values(&mut values);
            let centres = optimal(&points, k);
            prop_assert_eq!(centres.len(), k.min(points.distinct()));
            prop_assert!(centres.is_sorted());
            prop_assert!(!points.has_zero() || centres.contains(&0.0));
            let (ours, least) = (points.error(&centres), tried(&points, k));
            prop_assert!((ours - least).abs() <= 1e-9 * least.max(1.0), "{} {}", ours, least);
        }

        #[test]
        fn it_beats_lloyd_and_more_centres_are_never_worse(raw in prop::collection::vec(any::<i16>(), 1..400), k in 1_usize..40, seed in any::<u64>()) {
            let mut values: Vec<f32> = raw.iter().map(|x| f32::from(*x).powi(3) / 1e9).collect();
            let points = Points::of_values(&mut values);
            let slack = 1e-12 * points.error(&[0.0]);
            let best = points.error(&optimal(&points, k));
            prop_assert!(points.error(&optimal(&points, k + 1)) <= best + slack);
            for start in [linear(&points, k), density(&points, k), plus_plus(&points, k, seed)] {
                let found = points.error(&lloyd(&points, start, 50));
                prop_assert!(best <= found + slack, "{} {}", best, found);
            }
        }
    }

    #[test]
    fn clusters_by_hand() {
        let points = Points::of_values(&mut [1.0_f32, 1.5, 8.0, 8.5, 9.0, -4.0]);
        assert_eq!(points.restore(&optimal(&points, 3)), [-4.0, 1.25, 8.5]);
        assert_eq!(points.restore(&optimal(&points, 1)), [4.0]);
        assert_eq!(points.restore(&optimal(&points, 9)), [-4.0, 1.0, 1.5, 8.0, 8.5, 9.0]);
        // With a zero, its cluster stays there.
        let points = Points::of_values(&mut [0.0_f32, 1.0, 8.0, 9.0]);
        assert_eq!(points.restore(&optimal(&points, 2)), [0.0, 8.5]);
        assert!(optimal(&Points::default(), 3).is_empty());
    }
}
