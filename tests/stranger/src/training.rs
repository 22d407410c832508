//! A dataset that makes its samples when asked, and a student that is not a network of bantam.

use bantam::distill::Student;
use bantam::nn::{Batch, Dataset, Input, Outputs, Target};
use bantam::{BoxError, Float, Tensor};

/// Points around one centre a class, made from their index: nothing is in memory.
#[derive(Debug, Clone, Copy)]
pub struct Blobs {
    /// How many there are.
    pub samples: usize,
    /// Numbers in a sample.
    pub features: usize,
    /// Classes, one after the other.
    pub classes: usize,
    /// Other seeds give other samples around the same centres.
    pub seed: usize,
}

impl Blobs {
    fn value(&self, index: usize, feature: usize) -> f64 {
        let centre = noise(index % self.classes * 7919 + feature);
        centre + 0.4 * noise((self.seed * 1_000_003 + index) * 613 + feature)
    }
}

impl<T: Float> Dataset<T> for Blobs {
    fn len(&self) -> usize {
        self.samples
    }

    fn batch(&self, indices: &[usize]) -> Result<Batch<T>, BoxError> {
        let features = |&i: &usize| (0..self.features).map(move |f| T::narrow(self.value(i, f)));
        let values = indices.iter().flat_map(features).collect();
        let labels = indices.iter().map(|i| u32::try_from(i % self.classes)).collect::<Result<_, _>>()?;
        let input = Tensor::new(&[indices.len(), self.features], values)?;
        Ok(Batch { input: Input::Values(input), target: Target::Labels(labels) })
    }
}

/// A number in -1..1 that looks random (the finalizer of MurmurHash3).
fn noise(index: usize) -> f64 {
    let mut x = index as u64 ^ 0x9e37_79b9_7f4a_7c15;
    for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        x = (x ^ (x >> 33)).wrapping_mul(factor);
    }
    (x >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

/// Logistic regression by hand, standing in for a model of another runtime.
#[derive(Debug, Clone)]
pub struct SoftmaxRegression {
    classes: usize,
    features: usize,
    /// `[classes, features]`.
    weights: Vec<f32>,
    gradient: Vec<f32>,
    input: Vec<f32>,
}

impl SoftmaxRegression {
    /// Starts at zero.
    pub fn new(features: usize, classes: usize) -> Self {
        let zeros = vec![0.0; features * classes];
        Self { classes, features, weights: zeros.clone(), gradient: zeros, input: Vec::new() }
    }
}

impl Student for SoftmaxRegression {
    fn forward(&mut self, input: &Input<f32>, taps: &[&str]) -> Result<Outputs<f32>, BoxError> {
        if !taps.is_empty() {
            return Err("a regression has no layers in between".into());
        }
        input.values()?.as_slice().clone_into(&mut self.input);
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>();
        let rows = self.input.chunks(self.features);
        let logits = rows.flat_map(|x| self.weights.chunks(self.features).map(move |w| dot(x, w))).collect();
        Ok(Outputs { logits: Tensor::new(&[input.samples(), self.classes], logits)?, taps: vec![] })
    }

    fn backward(&mut self, gradients: &Outputs<f32>) -> Result<(), BoxError> {
        let rows = gradients.logits.as_slice().chunks(self.classes);
        for (gradient, x) in rows.zip(self.input.chunks(self.features)) {
            for (g, of_class) in gradient.iter().zip(self.gradient.chunks_mut(self.features)) {
                of_class.iter_mut().zip(x).for_each(|(sum, x)| *sum += g * x);
            }
        }
        Ok(())
    }

    fn step(&mut self, rate: f64) -> Result<(), BoxError> {
        for (w, g) in self.weights.iter_mut().zip(&mut self.gradient) {
            *w -= rate as f32 * std::mem::take(g);
        }
        Ok(())
    }
}
