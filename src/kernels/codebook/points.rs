//! [`Points`]: the distinct values of many, and how often each occurs.

use super::{Histogram, Share};

/// Centres from which on bins are divided, and into how many points.
const MANY: usize = 32;
const PARTS: usize = 8;

/// Numbers in ascending order with their weights, which are counts.
///
/// They are held divided by a power of two so that none is larger than 1, and squares do not overflow; centres
/// that are found for them are multiplied again by [`restore`](Self::restore).
#[derive(Clone, Debug, Default)]
pub struct Points {
    pub(super) values: Vec<f64>,
    pub(super) counts: Vec<f64>,
    /// Place of the point that is exactly 0, if there is one.
    pub(super) zero: Option<usize>,
    scale: f64,
}

impl Points {
    /// The distinct ones of finite `values`, which are sorted.
    pub fn of_values<T: Share>(values: &mut [T]) -> Self {
        // All finite: in either order of -0 and 0, which are the same point.
        values.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        let mut points = Self::default();
        for x in values {
            points.push(x.wide(), 1.0);
        }
        points.scaled()
    }

    /// The means of the bins that are not empty, for a search for `k` centres. All values are finite.
    ///
    /// Between many centres lie few bins, and a bin that cannot be divided holds up a search: then a bin is
    /// taken for values that lie evenly around its mean.
    pub fn of_histogram<T: Share>(histogram: &Histogram<T>, k: usize) -> Self {
        let parts = if k > MANY && histogram.used() > 4 * k { PARTS } else { 1 };
        let mut points = Self::default();
        histogram.for_each(|mean, room, count| {
            let parts = if room > 0.0 && count >= PARTS as u64 { parts } else { 1 };
            for i in 0..parts {
                let at = (2 * i + 1) as f64 / parts as f64 - 1.0;
                points.push(mean + at * room, count as f64 / parts as f64);
            }
        });
        points.scaled()
    }

    fn push(&mut self, x: f64, count: f64) {
        match (self.values.last(), self.counts.last_mut()) {
            (Some(last), Some(n)) if *last == x => *n += count,
            _ => {
                if x == 0.0 {
                    self.zero = Some(self.values.len());
                }
                // Adding 0 makes -0 a 0.
                self.values.push(x + 0.0);
                self.counts.push(count);
            }
        }
    }

    fn scaled(mut self) -> Self {
        let largest = self.values.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        self.scale = power_of_two(largest);
        self.values.iter_mut().for_each(|x| *x /= self.scale);
        self
    }

    /// How many there are.
    pub fn distinct(&self) -> usize {
        self.values.len()
    }

    /// Whether one of them is exactly 0.
    pub fn has_zero(&self) -> bool {
        self.zero.is_some()
    }

    /// Centres of these points as numbers of their values.
    pub fn restore(&self, centres: &[f64]) -> Vec<f64> {
        centres.iter().map(|c| c * self.scale).collect()
    }

    /// Where each of the clusters around ascending `centres` ends. A point halfway between two centres belongs
    /// to the lower one.
    pub(super) fn ends(&self, centres: &[f64]) -> Vec<usize> {
        let mut from = 0;
        let mut ends: Vec<usize> = centres
            .windows(2)
            .map(|pair| {
                let middle = pair[0] / 2.0 + pair[1] / 2.0;
                from += self.values[from..].partition_point(|x| *x <= middle);
                from
            })
            .collect();
        ends.push(self.distinct());
        ends
    }

    /// The centre of the points in a range that is not empty: their mean, or 0 where one of them is 0.
    pub(super) fn centre(&self, range: std::ops::Range<usize>) -> f64 {
        if self.zero.is_some_and(|zero| range.contains(&zero)) {
            return 0.0;
        }
        if range.len() == 1 {
            return self.values[range.start];
        }
        let (mut sum, mut count) = (0.0, 0.0);
        for (x, n) in self.values[range.clone()].iter().zip(&self.counts[range.clone()]) {
            sum += x * n;
            count += n;
        }
        // Rounding must not take it out of its cluster.
        (sum / count).clamp(self.values[range.start], self.values[range.end - 1])
    }

    /// Those of ascending `centres` that some point is nearest to.
    pub fn used(&self, centres: &[f64]) -> Vec<f64> {
        let mut start = 0;
        let ends = self.ends(centres);
        let used = centres.iter().zip(ends).filter(|(_, end)| std::mem::replace(&mut start, *end) < *end);
        used.map(|(centre, _)| *centre).collect()
    }

    /// The sum of squared errors around ascending `centres`.
    #[cfg(test)]
    pub fn error(&self, centres: &[f64]) -> f64 {
        let mut start = 0;
        let mut sum = 0.0;
        for (centre, end) in centres.iter().zip(self.ends(centres)) {
            for (x, n) in self.values[start..end].iter().zip(&self.counts[start..end]) {
                sum += n * (x - centre) * (x - centre);
            }
            start = end;
        }
        sum * self.scale * self.scale
    }
}

/// The least power of two that is at least `x`, which is finite and not negative; 1 for 0.
fn power_of_two(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    // The largest power of two is less than the largest number, which then is a little under 2: that does no
    // harm.
    let mut power = f64::from_bits(x.to_bits() & (0x7ff << 52));
    if power == 0.0 {
        power = f64::MIN_POSITIVE;
    }
    if power < x && power < f64::MAX / 4.0 { power * 2.0 } else { power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_point() {
        let points = Points::of_values(&mut [0.5_f32, -0.0, 2.0, 0.0, 0.5, -4.0]);
        assert_eq!(points.restore(&points.values), [-4.0, 0.0, 0.5, 2.0]);
        assert_eq!(points.counts, [1.0, 2.0, 2.0, 1.0]);
        assert_eq!(points.zero, Some(1));
        assert!(points.values.iter().all(|x| x.abs() <= 1.0));
    }

    #[test]
    fn numbers_of_any_size_come_back_as_they_were() {
        for x in [f64::MAX, 1e300, 1.0, f64::MIN_POSITIVE, 5e-324] {
            let points = Points::of_values(&mut [x, -x]);
            assert!(points.values.iter().all(|v| v.abs() <= 2.0 && *v != 0.0));
            assert_eq!(points.restore(&points.values), [-x, x]);
        }
        assert!(Points::of_values::<f32>(&mut []).restore(&[]).is_empty());
    }

    #[test]
    fn a_point_between_two_centres_belongs_to_the_lower() {
        let points = Points::of_values(&mut [-1.0_f32, -0.5, 0.5, 1.0]);
        assert_eq!(points.ends(&[-1.0, 0.0, 1.0]), [2, 3, 4]);
        assert_eq!(points.error(&[-1.0, 1.0]), 0.5);
    }
}
