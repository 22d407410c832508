//! Quantization: how a kept entry is held.
//!
//! A value becomes an unsigned code of 1 to 8 bits, `x ~ scale * (code - zero)`: Jacob et al., *Quantization
//! and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference*, arXiv 1712.05877.
//!
//! # How the formulas relate to others
//!
//! | system | symmetric 8 bits | symmetric 4 bits | asymmetric | rounding |
//! | --- | --- | --- | --- | --- |
//! | bantam | `absmax / 127`, codes 1..=255, zero 128 | `absmax / 7`, codes 1..=15, zero 8 | `(max - min) / (2^b - 1)`, codes from 0, `zero = round(-min / scale)` | half to even |
//! | ONNX Runtime | `absmax / 127`, -127..=127 | `absmax / 7.5`, -8..=7 | the same, `zero = round(qmin - min / scale)` | half to even |
//! | PyTorch (`quantize_per_tensor`) | the caller's scale, -128..=127 | | the caller's scale and zero | half to even, of `x * (1 / scale)` |
//! | compressed-tensors | `absmax / 127.5`, -128..=127 | `absmax / 7.5`, -8..=7 | as above with signed codes | half to even |
//! | GGUF Q8_0, Q4_0 | `absmax / 127` | `extreme / -8`, -8..=7 | Q4_1: `min + scale * code`: 0 need not be a code | half away; truncation |
//!
//! Our code minus its zero point is their signed code. The range always holds 0, as in ONNX, so that a
//! zero stays a zero; the textbook formula `round(x / scale - round(min / scale))` gives the same codes
//! where its zero point fits, but puts them from 0 to 255, which a signed byte cannot hold.
//!
//! Equal formulas give equal numbers, but next to a half: we divide in double precision, ONNX Runtime in
//! single, and PyTorch multiplies by a reciprocal in single, so where `x / scale` is within rounding of a half
//! a code may differ by one. ONNX Runtime's tool computes the zero point from the scale before it is rounded;
//! for a range from `-a` to `a` it may differ by one. `tests/golden` holds both to that.

mod calibrate;
mod encode;
mod grid;
mod range;
mod recipe;

pub use calibrate::Calibrator;
pub use range::Range;

use crate::compressor::{Compressor, Outcome, Reach, Step, WeightCompressor};
use crate::log::Log;
use crate::model::{Model, Outline, Select, WeightInfo, select_setters};
use crate::recipe::RecipeStep;
use crate::weight::{Coder, Leaf};
use crate::{Activations, Fault, Float, Granularity, Invalid, Refusal, Result, Weight, parallel};
use grid::Scheme;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Quantizes weights to codes of 1 to 8 bits, and optionally the inputs that meet them.
///
/// | setting | default | meaning |
/// | --- | --- | --- |
/// | [`bits(b)`](Self::bits) | | 1 to 8 |
/// | [`symmetric`](Self::symmetric) | yes | the same range on both sides of 0; no zero points are stored |
/// | [`asymmetric`](Self::asymmetric) | no | the range of the values, with a zero point; better for one-sided values and few bits |
/// | [`per_tensor`](Self::per_tensor) | yes | one scale for the weight |
/// | [`per_channel`](Self::per_channel) | no | one scale an output row: the usual choice for 8 bits |
/// | [`group(g)`](Self::group) | no | one scale for `g` inputs of a row; `g` divides the inputs. The usual choice for 4 bits: 32 to 128 |
/// | [`range`](Self::range) | [`Range::MinMax`] | how a range is chosen |
/// | [`activations`](Self::activations) | [`Activations::Float`] | how inputs are coded when a network runs |
///
/// Codes are stored at their true width. A scale takes 4 bytes (8 for `f64` models), a zero point as many
/// bits as a code. Pruned entries stay pruned and get no code; factors are quantized each like a matrix. A
/// weight that would take more bytes than before (a very short one) is left as it was.
///
/// ```
/// use bantam::{AffineQuantizer, Tensor, WeightCompressor};
///
/// let tensor = Tensor::new(&[2, 4], vec![-1.0_f32, 0.5, 0.0, 0.25, 4.0, -2.0, 1.0, 0.0])?;
/// let coded = AffineQuantizer::bits(8).per_channel().apply(tensor)?;
/// assert_eq!(coded.to_dense()?.as_slice()[0], -1.0);
/// # Ok::<(), bantam::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "recipe::Settings", into = "recipe::Settings")]
pub struct AffineQuantizer {
    bits: u8,
    symmetric: bool,
    granularity: Granularity,
    range: Range,
    activations: Activations,
    select: Select,
}

impl AffineQuantizer {
    /// Codes of `bits` bits, 1 to 8.
    pub fn bits(bits: u8) -> Self {
        Self {
            bits,
            symmetric: true,
            granularity: Granularity::Tensor,
            range: Range::MinMax,
            activations: Activations::Float,
            select: Select::default(),
        }
    }

    /// The same range on both sides of 0 (the default).
    pub fn symmetric(mut self) -> Self {
        self.symmetric = true;
        self
    }

    /// The range of the values, widened to hold 0, with a zero point.
    pub fn asymmetric(mut self) -> Self {
        self.symmetric = false;
        self
    }

    /// One scale for the whole weight (the default).
    pub fn per_tensor(mut self) -> Self {
        self.granularity = Granularity::Tensor;
        self
    }

    /// One scale for each output row.
    pub fn per_channel(mut self) -> Self {
        self.granularity = Granularity::Channel;
        self
    }

    /// One scale for each `size` neighbouring inputs of a row.
    pub fn group(mut self, size: usize) -> Self {
        self.granularity = Granularity::Group { size };
        self
    }

    /// How a range is chosen.
    pub fn range(mut self, range: Range) -> Self {
        self.range = range;
        self
    }

    /// How inputs are coded when a network runs: [`Activations::Int8`] finds their range as they come;
    /// [`Calibrator`] can fix it afterwards from data.
    pub fn activations(mut self, activations: Activations) -> Self {
        self.activations = activations;
        self
    }

    select_setters!();

    /// Whether it says nothing but how to code: neither which weights it takes nor how their inputs run.
    pub(crate) fn is_plain(&self) -> bool {
        self.activations == Activations::Float && self.select == Select::default()
    }

    /// Whether the granularity fits a matrix with so many inputs.
    pub(crate) fn check_inputs(&self, inputs: usize) -> Result<(), Refusal> {
        match self.granularity {
            Granularity::Group { size } if !inputs.is_multiple_of(size) => {
                Err(Refusal::DoesNotDivide { what: "a group", size, inputs })
            }
            _ => Ok(()),
        }
    }

    /// What codes values as they are chosen: where that needs no more than the values of a block.
    pub(crate) fn ahead<T: Float>(&self) -> Option<Arc<dyn Coder<T>>> {
        if self.granularity == Granularity::Tensor || self.range != Range::MinMax {
            return None;
        }
        let scheme = Scheme { bits: self.bits, symmetric: self.symmetric };
        Some(Arc::new(encode::Ahead { scheme, granularity: self.granularity }))
    }

    /// The same step for weights that are written to a file as soon as they are compressed.
    pub(crate) fn streamed(&self) -> Streamed<'_> {
        Streamed(self)
    }

    /// Codes one matrix.
    pub(crate) fn encode<T: Float>(&self, leaf: Leaf<T>) -> Result<Leaf<T>, Fault> {
        self.code(leaf, false)
    }

    fn code<T: Float>(&self, leaf: Leaf<T>, put_off: bool) -> Result<Leaf<T>, Fault> {
        let scheme = Scheme { bits: self.bits, symmetric: self.symmetric };
        encode::encode(leaf, scheme, self.granularity, self.range, put_off)
    }

    fn code_weight<T: Float>(&self, weight: Weight<T>, put_off: bool) -> Result<Outcome<T>, Fault> {
        self.validate()?;
        let code = |leaf: Leaf<T>| {
            // The rank of a factor may be known only now.
            self.check_inputs(leaf.cols()).map_err(Fault::Refused)?;
            self.code(leaf, put_off)
        };
        let activate = |weight: Weight<T>| match self.activations {
            Activations::Float => weight,
            coded => weight.with_activations(coded),
        };
        let few = weight.len() < parallel::FEW_VALUES && self.range == Range::MinMax;
        parallel::alone_if(few, || Outcome::coded(weight, code, activate))
    }
}

impl From<u8> for AffineQuantizer {
    fn from(bits: u8) -> Self {
        Self::bits(bits)
    }
}

impl Step for AffineQuantizer {
    fn name(&self) -> &str {
        "quantize"
    }

    fn validate(&self) -> Result<(), Invalid> {
        if !(1..=8).contains(&self.bits) {
            return Err(Invalid::new("bits", self.bits, "in 1..=8"));
        }
        if self.granularity == (Granularity::Group { size: 0 }) {
            return Err(Invalid::new("group", 0, "at least 1"));
        }
        if let Activations::Int8Static { low, high } = self.activations {
            Invalid::unless_in(f64::MIN..=0.0, "activations.low", low, "finite and at most 0")?;
            Invalid::unless_in(0.0..=f64::MAX, "activations.high", high, "finite and at least 0")?;
        }
        self.range.validate()
    }

    fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        outline.for_each_selected(&self.select, |weight| {
            if weight.form.quantized && !weight.form.factored {
                return Err(Refusal::Already("quantized"));
            }
            weight.matrices.iter().flatten().try_for_each(|[_, inputs]| self.check_inputs(*inputs))?;
            weight.form.quantized = true;
            if self.activations != Activations::Float {
                weight.activations = self.activations;
            }
            Ok(())
        })
    }

    fn recipe(&self) -> Option<RecipeStep> {
        Some(RecipeStep::Quantize(self.clone()))
    }
}

impl<T: Float> Compressor<T> for AffineQuantizer {
    fn compress(&self, model: &mut Model<T>, log: &Log<'_>) -> Result<()> {
        crate::pipeline::each_weight(self, model, log)
    }

    fn reach(&self) -> Reach<'_, T> {
        Reach::Weight(self)
    }
}

impl<T: Float> WeightCompressor<T> for AffineQuantizer {
    fn select(&self) -> &Select {
        &self.select
    }

    fn compress_weight(&self, _: &WeightInfo, weight: Weight<T>) -> Result<Outcome<T>, Fault> {
        self.code_weight(weight, false)
    }

    fn quantizer(&self) -> Option<&AffineQuantizer> {
        Some(self)
    }
}

/// A quantizer of weights that are written to a file as soon as they are compressed: codes of values in another file
/// need not be in memory for that.
pub(crate) struct Streamed<'a>(&'a AffineQuantizer);

impl<T: Float> WeightCompressor<T> for Streamed<'_> {
    fn select(&self) -> &Select {
        &self.0.select
    }

    fn compress_weight(&self, _: &WeightInfo, weight: Weight<T>) -> Result<Outcome<T>, Fault> {
        self.0.code_weight(weight, true)
    }

    fn quantizer(&self) -> Option<&AffineQuantizer> {
        Some(self.0)
    }
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;
    use crate::{MagnitudePruner, Tensor};

    #[test]
    fn only_a_stream_puts_codes_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let values: Vec<f32> = (0..40_000).map(|i| (i * 7919 % 1009) as f32 - 500.0).collect();
        let tensor = Tensor::new(&[200, 200], values).unwrap();
        for pruned in [false, true] {
            Model::from_tensors([("w", tensor.clone())]).unwrap().save(&path).unwrap();
            let model: Model = Model::open(&path).unwrap();
            let (info, weight) = model.entries().next().unwrap();
            let mut weight = weight.clone();
            let mut wanted = Weight::from(tensor.clone());
            if pruned {
                let pruner = MagnitudePruner::sparsity(0.3);
                weight = pruner.compress_weight(info, weight).unwrap().weight;
                wanted = pruner.compress_weight(info, wanted).unwrap().weight;
            }
            let quantizer = AffineQuantizer::bits(4).asymmetric();
            let wanted = quantizer.compress_weight(info, wanted).unwrap().weight;
            let now = quantizer.compress_weight(info, weight.clone()).unwrap().weight;
            let later = quantizer.streamed().compress_weight(info, weight).unwrap().weight;
            assert!(now.form().quantized && now == wanted && later == wanted);
            assert_eq!(now.resident_bytes(), wanted.resident_bytes());
            assert!(later.resident_bytes() + 10_000 < now.resident_bytes());
            // The file is not needed any more, but by the stream.
            std::fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
            assert_eq!(now.to_dense().unwrap(), wanted.to_dense().unwrap());
            assert!(later.to_dense().is_err());
        }
    }
}
