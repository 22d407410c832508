//! Lloyd's iterations: each centre moves to the mean of its cluster, then each point to its nearest centre.

use super::Points;

/// Runs up to `iterations` from `centres`, which ascend, until no point changes its cluster. The error around
/// the centres never grows.
///
/// A centre without points moves to the point whose values add most to the error, so that none is wasted while
/// there is an error left. A cluster that holds the point 0 keeps its centre there.
pub fn lloyd(points: &Points, mut centres: Vec<f64>, iterations: usize) -> Vec<f64> {
    let mut ends = points.ends(&centres);
    for _ in 0..iterations {
        let mut start = 0;
        let mut empty = Vec::new();
        for (i, (centre, end)) in centres.iter_mut().zip(&ends).enumerate() {
            if start < *end {
                *centre = points.centre(start..*end);
            } else {
                empty.push(i);
            }
            start = *end;
        }
        if !empty.is_empty() {
            fill(points, &mut centres, &ends, &empty);
        }
        let next = points.ends(&centres);
        if next == ends {
            break;
        }
        ends = next;
    }
    centres
}

/// Moves the `empty` centres to the points that add most to the error.
fn fill(points: &Points, centres: &mut [f64], ends: &[usize], empty: &[usize]) {
    let mut errors = Vec::with_capacity(points.distinct());
    let mut start = 0;
    for (centre, end) in centres.iter().zip(ends) {
        for i in start..*end {
            errors.push((points.counts[i] * (points.values[i] - centre).powi(2), i));
        }
        start = *end;
    }
    // Largest first; equal ones in order.
    let order = |a: &(f64, usize), b: &(f64, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if empty.len() < errors.len() {
        errors.select_nth_unstable_by(empty.len(), order);
        errors.truncate(empty.len());
    }
    errors.sort_unstable_by(order);
    for (place, (error, point)) in empty.iter().zip(errors) {
        if error > 0.0 {
            centres[*place] = points.values[point];
        }
    }
    centres.sort_unstable_by(f64::total_cmp);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::codebook::{Histogram, density, error, linear, plus_plus};
    use proptest::prelude::*;

    /// Lloyd as a textbook has it, on all values.
    fn plain(values: &[f64], mut centres: Vec<f64>, iterations: usize) -> Vec<f64> {
        for _ in 0..iterations {
            let mut sums = vec![(0.0, 0.0); centres.len()];
            for x in values {
                let mut best = 0;
                for (i, c) in centres.iter().enumerate() {
                    if (x - c).abs() < (x - centres[best]).abs() {
                        best = i;
                    }
                }
                sums[best].0 += x;
                sums[best].1 += 1.0;
            }
            let next: Vec<f64> =
                centres.iter().zip(sums).map(|(c, (sum, n))| if n > 0.0 { sum / n } else { *c }).collect();
            if next == centres {
                break;
            }
            centres = next;
        }
        centres
    }

    pub fn normals(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1 << 24) as f64 + 1e-9
        };
        let normal = |_| (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        (0..n).map(normal).map(|x| x as f32).collect()
    }

    #[test]
    fn as_the_textbook_where_no_cluster_is_empty() {
        let values = normals(3000, 1);
        let wide: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
        let points = Points::of_values(&mut values.clone());
        for k in [2, 5, 16] {
            for iterations in [0, 1, 7, 1000] {
                let start = density(&points, k);
                let plain = plain(&wide, points.restore(&start), iterations);
                let ours = points.restore(&lloyd(&points, start, iterations));
                for (a, b) in ours.iter().zip(&plain) {
                    assert!((a - b).abs() < 1e-9, "{k} {iterations}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn the_histogram_is_within_its_bound() {
        for (n, k) in [(200_000, 4), (200_000, 16), (200_000, 256)] {
            let values = normals(n, 7);
            let mut tally = vec![0; Histogram::<f32>::BINS];
            let zeros = Histogram::tally(&values, &mut tally);
            let mut histogram = Histogram::<f32>::new();
            histogram.add(&tally, zeros);
            let bins = Points::of_histogram(&histogram, k);
            let exact = Points::of_values(&mut values.clone());
            let moved = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() / 512.0;
            for start in [linear, density] {
                let found = |points: &Points| points.restore(&lloyd(points, start(points, k), 300));
                let (ours, best) = (error(&values, &found(&bins)), error(&values, &found(&exact)));
                // Any centres at all: the bins see the error that the values have, up to the bound.
                let seen =
                    bins.error(&found(&bins).iter().map(|c| c / bins.restore(&[1.0])[0]).collect::<Vec<_>>());
                assert!((seen.sqrt() - ours.sqrt()).abs() <= moved, "{k}: {seen} {ours}");
                assert!(ours <= best * if k > 100 { 1.03 } else { 1.01 }, "{k}: {ours} {best}");
            }
        }
    }

    /// From the start that `which` says.
    fn never_grows(raw: &[i16], k: usize, which: usize) -> Result<(), TestCaseError> {
        let mut values: Vec<f32> = raw.iter().map(|x| f32::from(*x) * f32::from(*x).abs()).collect();
        let points = Points::of_values(&mut values);
        let start = match which {
            0 => linear(&points, k),
            1 => density(&points, k),
            _ => plus_plus(&points, k, 5),
        };
        let mut last = f64::INFINITY;
        for iterations in 0..20 {
            let centres = lloyd(&points, start.clone(), iterations);
            prop_assert_eq!(centres.len(), start.len());
            prop_assert!(centres.is_sorted());
            prop_assert!(!points.has_zero() || centres.contains(&0.0));
            let error = points.error(&centres);
            prop_assert!(error <= last * (1.0 + 1e-12), "{} {}", error, last);
            last = error;
        }
        if k >= points.distinct() {
            prop_assert_eq!(last, 0.0);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn the_error_never_grows(raw in prop::collection::vec(-20_i16..20, 1..120), k in 1_usize..12, which in 0_usize..3) {
            never_grows(&raw, k, which)?;
        }
    }

    /// Between equal ends, rounding takes linear centres up and down.
    #[test]
    fn the_error_of_a_single_value_never_grows() {
        for which in 0..3 {
            never_grows(&[-11], 10, which).unwrap();
        }
    }
}
