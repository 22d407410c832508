//! Optimizers: how a gradient changes the trained numbers. Formulas and defaults are PyTorch's.

use crate::format::Store;
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::Avx512;
use crate::kernels::cpu::fast;
use crate::{Float, Invalid, Result, parallel};
use serde::{Deserialize, Serialize};

/// An optimizer and its settings. The rate is not one of them: it belongs to the training, which changes it
/// by a [`Schedule`](super::Schedule).
///
/// ```
/// use bantam::nn::Optimizer;
///
/// let sgd: Optimizer = Optimizer::sgd().momentum(0.9).nesterov().into();
/// let adam: Optimizer = Optimizer::adam_w().weight_decay(0.05).into();
/// assert!(sgd.validate().is_ok() && adam.validate().is_ok());
/// assert!(Optimizer::from(Optimizer::sgd().momentum(1.5)).validate().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd(Sgd),
    /// Adam or AdamW.
    Adam(Adam),
}

/// Stochastic gradient descent with momentum `mu`:
/// `g += decay * w; v = mu * v + g; w -= rate * v`, with Nesterov's momentum `w -= rate * (g + mu * v)`.
///
/// | setting | default | range |
/// | --- | --- | --- |
/// | `momentum` | 0 | 0..1 |
/// | `nesterov` | off | needs momentum |
/// | `weight_decay` | 0 | at least 0 |
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sgd {
    momentum: f64,
    nesterov: bool,
    weight_decay: f64,
}

/// Adam ("Adam: A Method for Stochastic Optimization", arXiv 1412.6980) and AdamW ("Decoupled Weight Decay
/// Regularization", arXiv 1711.05101). At step `t`, from 1:
///
/// ```text
/// Adam:  g += decay * w              AdamW:  w -= rate * decay * w
/// m = beta1 * m + (1 - beta1) * g
/// v = beta2 * v + (1 - beta2) * g^2
/// w -= rate / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + epsilon)
/// ```
///
/// | setting | default | range |
/// | --- | --- | --- |
/// | `betas` | 0.9, 0.999 | 0..1 |
/// | `epsilon` | 1e-8 | above 0; at least the smallest normal number of the model's type is used |
/// | `weight_decay` | 0 (Adam), 0.01 (AdamW) | at least 0 |
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adam {
    betas: [f64; 2],
    epsilon: f64,
    weight_decay: f64,
    decoupled: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Self { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 0.0, decoupled: false }
    }
}

impl Default for Optimizer {
    /// Adam.
    fn default() -> Self {
        Self::Adam(Adam::default())
    }
}

impl From<Sgd> for Optimizer {
    fn from(sgd: Sgd) -> Self {
        Self::Sgd(sgd)
    }
}

impl From<Adam> for Optimizer {
    fn from(adam: Adam) -> Self {
        Self::Adam(adam)
    }
}

impl Sgd {
    /// How much of the last change goes on; 0.9 is usual.
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// Nesterov's form of momentum.
    pub fn nesterov(mut self) -> Self {
        self.nesterov = true;
        self
    }

    /// Weight of the L2 penalty, added to the gradient.
    pub fn weight_decay(mut self, decay: f64) -> Self {
        self.weight_decay = decay;
        self
    }
}

impl Adam {
    /// How slowly the means of the gradient and of its square forget.
    pub fn betas(mut self, first: f64, second: f64) -> Self {
        self.betas = [first, second];
        self
    }

    /// Added to the root of the mean square; larger for gradients of half-precision noise.
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Pull towards 0: through the gradient in Adam, directly in AdamW.
    pub fn weight_decay(mut self, decay: f64) -> Self {
        self.weight_decay = decay;
        self
    }
}

impl Optimizer {
    /// Plain gradient descent; see [`Sgd`].
    pub fn sgd() -> Sgd {
        Sgd::default()
    }

    /// Adam; see [`Adam`].
    pub fn adam() -> Adam {
        Adam::default()
    }

    /// AdamW with a decay of 0.01; see [`Adam`].
    pub fn adam_w() -> Adam {
        Adam { weight_decay: 0.01, decoupled: true, ..Adam::default() }
    }

    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// The first setting that is not.
    pub fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Sgd(s) => {
                Invalid::unless_in(0.0..1.0, "momentum", s.momentum, "in 0..1")?;
                if s.nesterov && s.momentum == 0.0 {
                    return Err(Invalid::new("momentum", s.momentum, "above 0 with nesterov"));
                }
                Invalid::unless_in(0.0..f64::INFINITY, "weight_decay", s.weight_decay, "at least 0")
            }
            Self::Adam(a) => {
                a.betas.iter().try_for_each(|b| Invalid::unless_in(0.0..1.0, "betas", *b, "in 0..1"))?;
                Invalid::unless_in(f64::MIN_POSITIVE..f64::INFINITY, "epsilon", a.epsilon, "above 0")?;
                Invalid::unless_in(0.0..f64::INFINITY, "weight_decay", a.weight_decay, "at least 0")
            }
        }
    }

    /// Changes `weights` by `gradient`, in one pass.
    pub(crate) fn update<T: Float>(
        &self,
        rate: f64,
        weights: &mut [T],
        gradient: &[T],
        state: &mut State<T>,
    ) {
        state.prepare(self, weights.len());
        let f = |x: f64| T::narrow(x);
        match *self {
            Self::Sgd(Sgd { momentum: 0.0, weight_decay, .. }) => {
                let (rate, decay) = (f(rate), f(weight_decay));
                state.each(
                    weights,
                    gradient,
                    #[inline(always)]
                    |w, g, _, _| *w -= rate * (g + decay * *w),
                );
            }
            Self::Sgd(Sgd { momentum, nesterov, weight_decay }) => {
                let (rate, decay, mu) = (f(rate), f(weight_decay), f(momentum));
                state.each(
                    weights,
                    gradient,
                    #[inline(always)]
                    |w, g, v, _| {
                        let g = g + decay * *w;
                        *v = mu * *v + g;
                        *w -= rate * if nesterov { g + mu * *v } else { *v };
                    },
                );
            }
            Self::Adam(Adam { betas: [b1, b2], epsilon, weight_decay, decoupled }) => {
                let t = state.steps as f64;
                let (size, root) = (f(rate / (1.0 - b1.powf(t))), f(1.0 / (1.0 - b2.powf(t)).sqrt()));
                let (c1, c2) = (f(1.0 - b1), f(1.0 - b2));
                let (b1, b2) = (f(b1), f(b2));
                // An epsilon of 0 would make 0 / 0 of a number without a gradient.
                let epsilon = f(epsilon).max(T::min_positive_value());
                let (pull, decay) = if decoupled {
                    (f(1.0 - rate * weight_decay), T::zero())
                } else {
                    (T::one(), f(weight_decay))
                };
                state.each(
                    weights,
                    gradient,
                    #[inline(always)]
                    |w, g, m, v| {
                        let g = g + decay * *w;
                        *m = b1 * *m + c1 * g;
                        *v = b2 * *v + c2 * g * g;
                        *w = *w * pull - size * *m / (v.sqrt() * root + epsilon);
                    },
                );
            }
        }
    }
}

/// What an optimizer remembers of the numbers of one leaf.
#[derive(Clone, Debug, Default)]
pub(crate) struct State<T> {
    steps: u64,
    first: Vec<T>,
    second: Vec<T>,
}

/// Numbers that one thread updates at a time.
const CHUNK: usize = 1 << 15;

impl<T: Float> State<T> {
    fn prepare(&mut self, optimizer: &Optimizer, len: usize) {
        self.steps += 1;
        let (first, second) = match optimizer {
            Optimizer::Sgd(s) => (s.momentum != 0.0, false),
            Optimizer::Adam(_) => (true, true),
        };
        self.first.resize(if first { len } else { 0 }, T::zero());
        self.second.resize(if second { len } else { 0 }, T::zero());
    }

    /// Writes or reads what is remembered of `len` numbers.
    pub fn visit(&mut self, store: &mut Store, len: usize) -> Result<()> {
        store.counts("steps", [&mut self.steps])?;
        store.numbers("first", &mut self.first, &[0, len])?;
        store.numbers("second", &mut self.second, &[0, len])
    }

    /// The running means of squared gradients, of an optimizer that has them.
    pub fn second(&self) -> &[T] {
        &self.second
    }

    /// Forgets all numbers but those that `keep` says.
    pub fn retain(&mut self, keep: &[bool]) {
        for memory in [&mut self.first, &mut self.second] {
            if !memory.is_empty() {
                *memory = super::support::only(memory, keep);
            }
        }
    }

    /// Puts the memory of number `old[i]` at `i`; nothing is known of a new one.
    pub fn rearrange(&mut self, old: &[Option<usize>]) {
        for memory in [&mut self.first, &mut self.second] {
            if !memory.is_empty() {
                *memory = old.iter().map(|i| i.map_or(T::zero(), |i| memory[i])).collect();
            }
        }
    }

    /// `f(weight, gradient, first, second)` for each number. Where a memory is not used it is a dummy. `f` must
    /// be marked `#[inline(always)]`, so that it is compiled for the CPU's vectors.
    fn each(
        &mut self,
        weights: &mut [T],
        gradient: &[T],
        f: impl Fn(&mut T, T, &mut T, &mut T) + Sync + Send + Copy,
    ) {
        each(weights, gradient, &mut self.first, &mut self.second, f);
    }
}

fn each<T: Float>(
    weights: &mut [T],
    gradient: &[T],
    first: &mut [T],
    second: &mut [T],
    f: impl Fn(&mut T, T, &mut T, &mut T) + Sync + Send + Copy,
) {
    if weights.len() <= CHUNK {
        // Roots and quotients take most of the time.
        #[cfg(target_arch = "x86_64")]
        if let Some(cpu) = Avx512::new() {
            return cpu.run(
                #[inline(always)]
                || piece(weights, gradient, first, second, f),
            );
        }
        return fast(
            #[inline(always)]
            || piece(weights, gradient, first, second, f),
        );
    }
    let middle = (weights.len() / 2).next_multiple_of(CHUNK).min(weights.len() - 1);
    let (weights, more_weights) = weights.split_at_mut(middle);
    let (gradient, more_gradient) = gradient.split_at(middle);
    let (first, more_first) = first.split_at_mut(middle.min(first.len()));
    let (second, more_second) = second.split_at_mut(middle.min(second.len()));
    parallel::join(
        || each(weights, gradient, first, second, f),
        || each(more_weights, more_gradient, more_first, more_second, f),
    );
}

#[inline(always)]
fn piece<T: Float>(
    weights: &mut [T],
    gradient: &[T],
    first: &mut [T],
    second: &mut [T],
    f: impl Fn(&mut T, T, &mut T, &mut T),
) {
    let pairs = weights.iter_mut().zip(gradient);
    if first.is_empty() {
        for (w, g) in pairs {
            f(w, *g, &mut T::zero(), &mut T::zero());
        }
    } else if second.is_empty() {
        for ((w, g), m) in pairs.zip(first) {
            f(w, *g, m, &mut T::zero());
        }
    } else {
        for (((w, g), m), v) in pairs.zip(first).zip(second) {
            f(w, *g, m, v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three steps on gradients 1, -0.5, 0.25 from a weight of 1, at rate 0.1.
    fn three(optimizer: impl Into<Optimizer>) -> f64 {
        let (optimizer, mut w, mut state) = (optimizer.into(), [1.0_f64], State::default());
        [1.0, -0.5, 0.25].iter().for_each(|g| optimizer.update(0.1, &mut w, &[*g], &mut state));
        w[0]
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} and {b}");
    }

    #[test]
    fn formulas() {
        close(three(Optimizer::sgd()), 1.0 - 0.1 * 0.75);
        // v: 1, 0.4, 0.61.
        close(three(Optimizer::sgd().momentum(0.9)), 1.0 - 0.1 * 2.01);
        // g + mu v: 1.9, -0.14, 0.799.
        close(three(Optimizer::sgd().momentum(0.9).nesterov()), 1.0 - 0.1 * 2.559);
        close(three(Optimizer::sgd().weight_decay(1.0)), ((0.8 * 0.9 + 0.05) * 0.9) - 0.025);
        let by_hand = |decay: f64, decoupled: bool| {
            let (mut w, mut m, mut v) = (1.0_f64, 0.0, 0.0);
            for (t, g) in [(1, 1.0), (2, -0.5), (3, 0.25)] {
                let g = if decoupled { g } else { g + decay * w };
                w -= if decoupled { 0.1 * decay * w } else { 0.0 };
                m = 0.9 * m + 0.1 * g;
                v = 0.999 * v + 0.001 * g * g;
                let (mh, vh) = (m / (1.0 - 0.9_f64.powi(t)), v / (1.0 - 0.999_f64.powi(t)));
                w -= 0.1 * mh / (vh.sqrt() + 1e-8);
            }
            w
        };
        close(three(Optimizer::adam()), by_hand(0.0, false));
        close(three(Optimizer::adam().weight_decay(0.1)), by_hand(0.1, false));
        close(three(Optimizer::adam_w()), by_hand(0.01, true));
    }

    #[test]
    fn the_smallest_epsilon_keeps_numbers_without_a_gradient() {
        for epsilon in [f64::MIN_POSITIVE, 1e-60, 1e-40] {
            let optimizer = Optimizer::from(Optimizer::adam().epsilon(epsilon));
            assert!(optimizer.validate().is_ok());
            let mut w = [1.0_f32];
            optimizer.update(0.1, &mut w, &[0.0], &mut State::default());
            assert_eq!(w, [1.0]);
        }
    }

    #[test]
    fn settings_out_of_range_are_found() {
        assert!(Optimizer::from(Optimizer::sgd().nesterov()).validate().is_err());
        assert!(Optimizer::from(Optimizer::sgd().weight_decay(f64::NAN)).validate().is_err());
        assert!(Optimizer::from(Optimizer::adam().betas(0.9, 1.0)).validate().is_err());
        assert!(Optimizer::from(Optimizer::adam().epsilon(0.0)).validate().is_err());
        let json = serde_json::to_string(&Optimizer::from(Optimizer::adam_w())).unwrap();
        assert_eq!(serde_json::from_str::<Optimizer>(&json).unwrap(), Optimizer::adam_w().into());
        assert_eq!(serde_json::from_str::<Optimizer>(r#"{"adam":{}}"#).unwrap(), Optimizer::default());
    }
}
