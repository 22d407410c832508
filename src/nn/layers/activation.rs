//! Functions of single values.

use super::CHUNK;
use crate::kernels::cpu::fast;
use crate::{Float, parallel};
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// A function of one value, with its derivative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    Relu,
    Gelu,
    Silu,
    Tanh,
    Sigmoid,
}

impl Activation {
    fn value<T: Float>(self, x: T) -> T {
        match self {
            // Not `max`, which would turn NaN into 0 and so hide it.
            Self::Relu => {
                if x < T::zero() {
                    T::zero()
                } else {
                    x
                }
            }
            Self::Gelu => T::narrow(x.widen() * normal_distribution(x.widen())),
            Self::Silu => x * sigmoid(x),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => sigmoid(x),
        }
    }

    fn slope<T: Float>(self, x: T) -> T {
        match self {
            Self::Relu => {
                if x > T::zero() {
                    T::one()
                } else {
                    T::zero()
                }
            }
            Self::Gelu => {
                let x = x.widen();
                let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
                T::narrow(normal_distribution(x) + x * density)
            }
            Self::Silu => {
                let s = sigmoid(x);
                s + x * s * (T::one() - s)
            }
            Self::Tanh => {
                let t = x.tanh();
                T::one() - t * t
            }
            Self::Sigmoid => {
                let s = sigmoid(x);
                s * (T::one() - s)
            }
        }
    }

    /// `y = f(x)`.
    pub fn forward<T: Float>(self, x: &[T], y: &mut [T]) {
        if self == Self::Relu {
            return parallel::for_each_chunk(y, LIGHT, |i, y| {
                let x = &x[i * LIGHT..][..y.len()];
                fast(
                    #[inline(always)]
                    || {
                        for (y, x) in y.iter_mut().zip(x) {
                            *y = if *x < T::zero() { T::zero() } else { *x };
                        }
                    },
                );
            });
        }
        parallel::for_each_chunk(y, CHUNK, |i, y| {
            let x = &x[i * CHUNK..i * CHUNK + y.len()];
            y.iter_mut().zip(x).for_each(|(y, x)| *y = self.value(*x));
        });
    }

    /// `dx = f'(x) * dy`, or `dx +=` that unless it is `fresh`.
    pub fn backward<T: Float>(self, x: &[T], dy: &[T], fresh: bool, dx: &mut [T]) {
        if self == Self::Relu {
            return parallel::for_each_chunk(dx, LIGHT, |i, dx| {
                let (x, dy) = (&x[i * LIGHT..][..dx.len()], &dy[i * LIGHT..][..dx.len()]);
                fast(
                    #[inline(always)]
                    || {
                        for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
                            let old = if fresh { T::zero() } else { *dx };
                            // A product, so that NaN is not hidden.
                            *dx = old + *dy * if *x > T::zero() { T::one() } else { T::zero() };
                        }
                    },
                );
            });
        }
        parallel::for_each_chunk(dx, CHUNK, |i, dx| {
            let range = i * CHUNK..i * CHUNK + dx.len();
            for ((dx, dy), x) in dx.iter_mut().zip(&dy[range.clone()]).zip(&x[range]) {
                let old = if fresh { T::zero() } else { *dx };
                *dx = old + self.slope(*x) * *dy;
            }
        });
    }
}

/// Values that one thread takes at a time where there is next to nothing to do for each.
const LIGHT: usize = 1 << 17;

/// No overflow: the exponent is never positive.
fn sigmoid<T: Float>(x: T) -> T {
    let e = (-x.abs()).exp();
    let one = T::one();
    if x < T::zero() { e / (one + e) } else { one / (one + e) }
}

/// `Phi(x)`, through `erfc` so that the left tail keeps its precision.
fn normal_distribution(x: f64) -> f64 {
    0.5 * libm::erfc(-x * FRAC_1_SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::{check, dot, numbers};
    use super::*;

    #[test]
    fn gradients() {
        use Activation::{Gelu, Relu, Sigmoid, Silu, Tanh};
        let x: Vec<f64> = numbers(40, 1).iter().map(|x| 3.0 * x).collect();
        let dy = numbers(40, 2);
        for f in [Relu, Gelu, Silu, Tanh, Sigmoid] {
            let mut dx = vec![0.0; 40];
            f.backward(&x, &dy, false, &mut dx);
            check(&format!("{f:?}"), &x, &dx, |x| {
                let mut y = vec![0.0; 40];
                f.forward(x, &mut y);
                dot(&y, &dy)
            });
        }
    }

    #[test]
    fn known_values_and_extremes() {
        // Values of torch.nn.functional.gelu.
        for (x, y) in [(1.0_f64, 0.841344746068543), (-1.0, -0.158655253931457), (3.0, 2.99595030590511)] {
            assert!((Activation::Gelu.value(x) - y).abs() < 1e-14);
        }
        assert_eq!(Activation::Silu.value(-1e4_f32), 0.0);
        assert_eq!(Activation::Sigmoid.value(1e4_f32), 1.0);
        assert!(Activation::Relu.value(f32::NAN).is_nan());
    }
}
