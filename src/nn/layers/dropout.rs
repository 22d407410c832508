//! Dropout ("inverted": what is kept is scaled up in training, so that inference does nothing).

use crate::Float;
use crate::random::Random;

/// Draws a factor for each value: 0 with `probability`, else `1 / (1 - probability)`.
pub fn draw<T: Float>(probability: f64, random: &mut Random, factors: &mut [T]) {
    let keep = T::narrow(1.0 / (1.0 - probability));
    for f in factors {
        *f = if random.uniform() < probability { T::zero() } else { keep };
    }
}

/// `y = factors * x`.
pub fn forward<T: Float>(factors: &[T], x: &[T], y: &mut [T]) {
    for ((y, x), f) in y.iter_mut().zip(x).zip(factors) {
        *y = *x * *f;
    }
}

/// `dx += factors * dy`.
pub fn backward<T: Float>(factors: &[T], dy: &[T], dx: &mut [T]) {
    for ((dx, dy), f) in dx.iter_mut().zip(dy).zip(factors) {
        *dx += *dy * *f;
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::super::gradcheck::{check, dot, numbers};
    use super::*;

    #[test]
    fn keeps_the_mean_and_has_the_right_gradient() {
        let mut factors = vec![0.0_f64; 20_000];
        draw(0.25, &mut Random::new(3).unwrap(), &mut factors);
        let mean = factors.iter().sum::<f64>() / factors.len() as f64;
        assert!((mean - 1.0).abs() < 0.02);

        let (x, dy) = (numbers(30, 1), numbers(30, 2));
        let mut dx = vec![0.0; 30];
        backward(&factors[..30], &dy, &mut dx);
        check("dropout", &x, &dx, |x| {
            let mut y = vec![0.0; 30];
            forward(&factors[..30], x, &mut y);
            dot(&y, &dy)
        });
    }
}
