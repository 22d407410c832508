//! Where Lloyd's iterations start. Han, Mao, Dally: *Deep Compression*, arXiv 1510.00149, compare linear, density
//! and random starts, and keep linear ones: large values are few, matter much, and get centres of their own.
//!
//! All centres are those of [`Points`], ascending; where a point is 0, one centre is.

use super::Points;

/// `k` centres at equal distances from the smallest to the largest point.
pub fn linear(points: &Points, k: usize) -> Vec<f64> {
    let (Some(low), Some(high)) = (points.values.first(), points.values.last()) else { return Vec::new() };
    let steps = (k.max(2) - 1) as f64;
    let at = |i: usize| {
        let t = i as f64 / steps;
        low * (1.0 - t) + high * t
    };
    // Between ends that are equal, or nearly, rounding takes them up and down.
    with_zero(points, (0..k).map(at).collect())
}

/// `k` centres with about as many values between each and the next: the `(i + 1/2) / k` quantiles.
pub fn density(points: &Points, k: usize) -> Vec<f64> {
    let total: f64 = points.counts.iter().sum();
    let mut centres = Vec::with_capacity(k);
    let mut before = 0.0;
    for (x, n) in points.values.iter().zip(&points.counts) {
        before += n;
        while centres.len() < k && (centres.len() as f64 + 0.5) / (k as f64) * total <= before {
            centres.push(*x);
        }
    }
    with_zero(points, centres)
}

/// `k` centres of the points: the first at random, each next one with a probability in proportion to the
/// squared distance of its values from the nearest centre so far. Arthur and Vassilvitskii, *k-means++: The
/// Advantages of Careful Seeding*, SODA 2007.
pub fn plus_plus(points: &Points, k: usize, seed: u64) -> Vec<f64> {
    let mut random = SplitMix(seed);
    let mut weights = points.counts.clone();
    let mut distances = vec![f64::INFINITY; points.distinct()];
    let mut centres = Vec::with_capacity(k);
    while centres.len() < k {
        let next = match points.zero {
            // 0 is a centre whatever is drawn.
            Some(zero) if centres.is_empty() => zero,
            _ => match drawn(&weights, random.uniform()) {
                Some(next) => next,
                // Every point is a centre.
                None => break,
            },
        };
        let centre = points.values[next];
        centres.push(centre);
        for (i, x) in points.values.iter().enumerate() {
            distances[i] = f64::min(distances[i], (x - centre) * (x - centre));
            weights[i] = points.counts[i] * distances[i];
        }
    }
    centres.sort_unstable_by(f64::total_cmp);
    centres
}

/// The index at `at`, in `0..1`, of the way through the weights; `None` where all are 0.
fn drawn(weights: &[f64], at: f64) -> Option<usize> {
    let target = at * weights.iter().sum::<f64>();
    let mut before = 0.0;
    let mut last = None;
    for (i, weight) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
        before += weight;
        last = Some(i);
        if before > target {
            break;
        }
    }
    last
}

/// The centres in order, the nearest to 0 made a 0 where a point is.
fn with_zero(points: &Points, mut centres: Vec<f64>) -> Vec<f64> {
    if points.has_zero()
        && let Some(nearest) = centres.iter_mut().min_by(|a, b| a.abs().total_cmp(&b.abs()))
    {
        *nearest = 0.0;
    }
    centres.sort_unstable_by(f64::total_cmp);
    centres
}

/// Steele, Lea, Flood: *Fast splittable pseudorandom number generators*, OOPSLA 2014. Made here so that a seed
/// means the same in every build, those without training included.
struct SplitMix(u64);

impl SplitMix {
    /// Uniform in `0..1`, a multiple of 2^-53.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_by_hand() {
        let points = Points::of_values(&mut [-4.0_f32, -1.0, -1.0, -1.0, 1.0, 4.0]);
        assert_eq!(points.restore(&linear(&points, 3)), [-4.0, 0.0, 4.0]);
        assert_eq!(points.restore(&density(&points, 3)), [-4.0, -1.0, 1.0]);
        let zero = Points::of_values(&mut [-1.0_f32, 0.0, 0.5, 2.0]);
        assert_eq!(zero.restore(&linear(&zero, 2)), [0.0, 2.0]);
        assert_eq!(zero.restore(&density(&zero, 2)), [-1.0, 0.0]);
    }

    #[test]
    fn careful_seeds_are_points_and_repeat() {
        let mut values: Vec<f32> = (0..200).map(|i| (i * i % 97) as f32 - 36.0).collect();
        let points = Points::of_values(&mut values);
        let centres = plus_plus(&points, 8, 3);
        assert_eq!(centres, plus_plus(&points, 8, 3));
        assert_ne!(centres, plus_plus(&points, 8, 4));
        assert!(centres.is_sorted() && centres.contains(&0.0));
        assert!(centres.iter().all(|c| points.values.contains(c)));
        // No point twice, and no more than there are.
        assert_eq!(plus_plus(&points, 500, 1), points.values);
    }
}
