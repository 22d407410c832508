//! Random numbers from a seed: the same on every machine, for any number of threads.
//!
//! The numbers are made here from the raw stream of the generator, because the distributions of `rand` may
//! change between its releases, and a seed in a recipe must keep its meaning.

use crate::Result;

/// PCG XSL 128/64 (MCG), seeded by a hash of a `u64`.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    seed: u64,
    /// Numbers that have been drawn.
    drawn: u64,
    #[cfg(feature = "train")]
    source: rand_pcg::Pcg64Mcg,
    /// Without the feature no value of this type exists.
    #[cfg(not(feature = "train"))]
    source: std::convert::Infallible,
}

impl Random {
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) where the feature `train` is off.
    #[cfg(feature = "train")]
    pub fn new(seed: u64) -> Result<Self> {
        Ok(Self { seed, drawn: 0, source: rand::SeedableRng::seed_from_u64(seed) })
    }

    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) where the feature `train` is off.
    #[cfg(not(feature = "train"))]
    pub fn new(_seed: u64) -> Result<Self> {
        Err(crate::Error::Unsupported { what: "training", feature: "train" })
    }

    /// The seed and how many numbers have been drawn, to be kept, or to be changed before [`restore`](Self::restore).
    pub fn state(&mut self) -> [&mut u64; 2] {
        [&mut self.seed, &mut self.drawn]
    }

    /// Goes to where the changed state says.
    pub fn restore(&mut self) -> Result<()> {
        let drawn = self.drawn;
        *self = Self::new(self.seed)?;
        #[cfg(feature = "train")]
        self.source.advance(u128::from(drawn));
        self.drawn = drawn;
        Ok(())
    }

    #[cfg(feature = "train")]
    fn bits(&mut self) -> u64 {
        self.drawn += 1;
        rand::Rng::next_u64(&mut self.source)
    }

    #[cfg(not(feature = "train"))]
    fn bits(&mut self) -> u64 {
        match self.source {}
    }

    /// Uniform in `0..1`, a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Normal with mean 0 and variance 1 (Box-Muller).
    #[cfg(all(test, feature = "train"))]
    pub fn normal(&mut self) -> f64 {
        // 1 - uniform is never 0, so that the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Uniform in `0..n`, for `n > 0`; the bias is below `n / 2^64`.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// A uniformly random order (Fisher-Yates).
    pub fn shuffle<X>(&mut self, items: &mut [X]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;

    #[test]
    fn a_seed_keeps_its_meaning() {
        let mut random = Random::new(7).unwrap();
        let mut order: Vec<usize> = (0..8).collect();
        random.shuffle(&mut order);
        let again = {
            let mut random = Random::new(7).unwrap();
            let mut order: Vec<usize> = (0..8).collect();
            random.shuffle(&mut order);
            order
        };
        assert_eq!(order, again);
        order.sort_unstable();
        assert_eq!(order, (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn a_state_is_where_it_was() {
        let mut random = Random::new(7).unwrap();
        assert!((0..1000).all(|_| random.uniform() < 1.0));
        let [seed, drawn] = random.state().map(|n| *n);
        let mut again = Random::new(0).unwrap();
        again.state().into_iter().zip([seed, drawn]).for_each(|(n, value)| *n = value);
        again.restore().unwrap();
        assert!((0..10).all(|_| again.uniform() == random.uniform()));
        assert_eq!(again.state(), random.state());
    }

    #[test]
    fn moments_are_right() {
        let mut random = Random::new(1).unwrap();
        let n = 100_000;
        let uniform: Vec<f64> = (0..n).map(|_| random.uniform()).collect();
        let normal: Vec<f64> = (0..n).map(|_| random.normal()).collect();
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let square = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        assert!((mean(&uniform) - 0.5).abs() < 0.01);
        assert!(uniform.iter().all(|x| (0.0..1.0).contains(x)));
        assert!(mean(&normal).abs() < 0.02 && (square(&normal) - 1.0).abs() < 0.03);
    }
}
