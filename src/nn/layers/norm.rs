//! Batch norm over channels (arXiv 1502.03167) and layer norm over the last axis (arXiv 1607.06450).
//!
//! Means and variances are summed in double precision. With `xhat = (x - mean) / sigma` over `m` values,
//! the way back through the statistics is
//! `dx = weight / sigma * (dy - mean(dy) - xhat * mean(dy * xhat))`.

use crate::{Float, parallel};

/// Mean, and one over the standard deviation, of a channel or of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    pub mean: f64,
    /// Biased.
    pub variance: f64,
    /// `1 / sqrt(variance + epsilon)`.
    pub inverse: f64,
}

impl Moments {
    pub fn new(mean: f64, variance: f64, epsilon: f64) -> Self {
        Self { mean, variance, inverse: 1.0 / (variance + epsilon).sqrt() }
    }

    /// Two passes: the second around the mean, so that nothing cancels.
    fn of<'a, T: Float>(runs: impl Iterator<Item = &'a [T]> + Clone, count: usize, epsilon: f64) -> Self {
        let n = count.max(1) as f64;
        let mean = runs.clone().flatten().map(|x| x.widen()).sum::<f64>() / n;
        let variance = runs.flatten().map(|x| (x.widen() - mean).powi(2)).sum::<f64>() / n;
        Self::new(mean, variance, epsilon)
    }
}

/// Feature maps `[n, channels, plane]`; `plane` is 1 for `[n, channels]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Maps {
    pub channels: usize,
    pub plane: usize,
}

impl Maps {
    fn sample(self) -> usize {
        (self.channels * self.plane).max(1)
    }

    /// The runs of channel `c`, one a sample.
    fn channel<T>(self, x: &[T], c: usize) -> impl Iterator<Item = &[T]> + Clone {
        x.chunks_exact(self.sample()).map(move |s| &s[c * self.plane..(c + 1) * self.plane])
    }

    /// Statistics of each channel over the batch.
    pub fn moments<T: Float>(self, x: &[T], epsilon: f64) -> Vec<Moments> {
        let count = x.len() / self.channels.max(1);
        parallel::map(self.channels, |c| Moments::of(self.channel(x, c), count, epsilon))
    }

    /// `y = weight * xhat + bias` with the given statistics.
    pub fn forward<T: Float>(self, moments: &[Moments], weight: &[T], bias: &[T], x: &[T], y: &mut [T]) {
        let factors: Vec<(T, T)> = (0..self.channels)
            .map(|c| {
                let scale = moments[c].inverse * weight[c].widen();
                (T::narrow(scale), T::narrow(bias[c].widen() - moments[c].mean * scale))
            })
            .collect();
        parallel::for_each_chunk(y, self.sample(), |s, y| {
            let x = &x[s * self.sample()..(s + 1) * self.sample()];
            for (c, (scale, shift)) in factors.iter().enumerate() {
                let range = c * self.plane..(c + 1) * self.plane;
                for (y, x) in y[range.clone()].iter_mut().zip(&x[range]) {
                    *y = *x * *scale + *shift;
                }
            }
        });
    }

    /// Adds to the gradients of the weight, the bias and, where it is wanted, the input. `fixed` says that
    /// the statistics do not depend on the input.
    #[allow(clippy::too_many_arguments, reason = "three slices to read, three to add to")]
    pub fn backward<T: Float>(
        self,
        moments: &[Moments],
        fixed: bool,
        weight: &[T],
        x: &[T],
        dy: &[T],
        dweight: &mut [T],
        dbias: &mut [T],
        dx: Option<&mut [T]>,
    ) {
        let count = (x.len() / self.channels.max(1)).max(1) as f64;
        // Sums of dy and of dy * xhat.
        let sums = parallel::map(self.channels, |c| {
            let m = moments[c];
            let mut sums = (0.0, 0.0);
            for (x, dy) in self.channel(x, c).zip(self.channel(dy, c)) {
                for (x, dy) in x.iter().zip(dy) {
                    sums.0 += dy.widen();
                    sums.1 += dy.widen() * (x.widen() - m.mean) * m.inverse;
                }
            }
            sums
        });
        for (c, (plain, hat)) in sums.iter().enumerate() {
            dbias[c] += T::narrow(*plain);
            dweight[c] += T::narrow(*hat);
        }
        let Some(dx) = dx else { return };
        parallel::for_each_chunk(dx, self.sample(), |s, dx| {
            let at = s * self.sample();
            for c in 0..self.channels {
                let m = moments[c];
                let (plain, hat) = if fixed { (0.0, 0.0) } else { (sums[c].0 / count, sums[c].1 / count) };
                let scale = weight[c].widen() * m.inverse;
                for i in c * self.plane..(c + 1) * self.plane {
                    let xhat = (x[at + i].widen() - m.mean) * m.inverse;
                    dx[i] += T::narrow(scale * (dy[at + i].widen() - plain - xhat * hat));
                }
            }
        });
    }
}

/// Layer norm of the rows `[n, weight.len()]`; keeps the statistics for the way back.
pub fn layer_forward<T: Float>(
    epsilon: f64,
    weight: &[T],
    bias: &[T],
    x: &[T],
    y: &mut [T],
    moments: &mut Vec<Moments>,
) {
    let width = weight.len().max(1);
    let n = x.len() / width;
    *moments =
        parallel::map(n, |i| Moments::of(std::iter::once(&x[i * width..(i + 1) * width]), width, epsilon));
    let moments = &*moments;
    parallel::for_each_chunk(y, width, |i, y| {
        let m = moments[i];
        for (j, y) in y.iter_mut().enumerate() {
            let xhat = (x[i * width + j].widen() - m.mean) * m.inverse;
            *y = T::narrow(xhat * weight[j].widen() + bias[j].widen());
        }
    });
}

/// Adds to the gradients of the weight, the bias and, where it is wanted, the input.
pub fn layer_backward<T: Float>(
    moments: &[Moments],
    weight: &[T],
    x: &[T],
    dy: &[T],
    dweight: &mut [T],
    dbias: &mut [T],
    dx: Option<&mut [T]>,
) {
    let width = weight.len().max(1);
    let hat = |i: usize, j: usize| (x[i * width + j].widen() - moments[i].mean) * moments[i].inverse;
    for (i, dy) in dy.chunks_exact(width).enumerate() {
        for (j, dy) in dy.iter().enumerate() {
            dbias[j] += *dy;
            dweight[j] += T::narrow(dy.widen() * hat(i, j));
        }
    }
    let Some(dx) = dx else { return };
    parallel::for_each_chunk(dx, width, |i, dx| {
        let scaled = |j: usize| dy[i * width + j].widen() * weight[j].widen();
        let n = width as f64;
        let plain = (0..width).map(scaled).sum::<f64>() / n;
        let hats = (0..width).map(|j| scaled(j) * hat(i, j)).sum::<f64>() / n;
        for (j, dx) in dx.iter_mut().enumerate() {
            *dx += T::narrow(moments[i].inverse * (scaled(j) - plain - hat(i, j) * hats));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::{check, dot, numbers};
    use super::*;

    const EPSILON: f64 = 1e-3;

    #[test]
    fn batch_norm_gradients() {
        for plane in [1, 4] {
            let maps = Maps { channels: 3, plane };
            let n = 5 * 3 * plane;
            let (x, w, b, dy) = (numbers(n, 1), numbers(3, 2), numbers(3, 3), numbers(n, 4));
            let running: Vec<Moments> = (0..3).map(|c| Moments::new(0.1 * c as f64, 1.5, EPSILON)).collect();
            for fixed in [false, true] {
                let moments = |x: &[f64]| if fixed { running.clone() } else { maps.moments(x, EPSILON) };
                let run = |x: &[f64], w: &[f64], b: &[f64]| {
                    let mut y = vec![0.0; n];
                    maps.forward(&moments(x), w, b, x, &mut y);
                    dot(&y, &dy)
                };
                let (mut dw, mut db, mut dx) = (vec![0.0; 3], vec![0.0; 3], vec![0.0; n]);
                maps.backward(&moments(&x), fixed, &w, &x, &dy, &mut dw, &mut db, Some(&mut dx));
                check("input", &x, &dx, |x| run(x, &w, &b));
                check("weight", &w, &dw, |w| run(&x, w, &b));
                check("bias", &b, &db, |b| run(&x, &w, b));
            }
        }
    }

    #[test]
    fn layer_norm_gradients() {
        let (n, width) = (4, 6);
        let (x, w, b, dy) =
            (numbers(n * width, 1), numbers(width, 2), numbers(width, 3), numbers(n * width, 4));
        let run = |x: &[f64], w: &[f64], b: &[f64]| {
            let (mut y, mut moments) = (vec![0.0; n * width], Vec::new());
            layer_forward(EPSILON, w, b, x, &mut y, &mut moments);
            (dot(&y, &dy), moments)
        };
        let moments = run(&x, &w, &b).1;
        let (mut dw, mut db, mut dx) = (vec![0.0; width], vec![0.0; width], vec![0.0; n * width]);
        layer_backward(&moments, &w, &x, &dy, &mut dw, &mut db, Some(&mut dx));
        check("input", &x, &dx, |x| run(x, &w, &b).0);
        check("weight", &w, &dw, |w| run(&x, w, &b).0);
        check("bias", &b, &db, |b| run(&x, &w, b).0);
    }
}
