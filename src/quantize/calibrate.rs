//! [`Calibrator`]: fixed ranges of activations, from data.

use crate::compressor::{Compressor, Step};
use crate::log::Log;
use crate::model::{Model, Outline, Select, select_setters};
use crate::nn::{Dataset, unbox};
use crate::weight::range;
use crate::{Activations, Error, Fault, Float, LeftAlone, Refusal, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Fixes the ranges of the inputs of quantized weights: runs the network on data and remembers the
/// smallest and largest input of each weight. Afterwards these weights run on integers with
/// [`Activations::Int8Static`].
///
/// | setting | default | meaning |
/// | --- | --- | --- |
/// | [`samples(n)`](Self::samples) | 512 | how many samples are looked at, the first of the dataset |
/// | [`batch_size(n)`](Self::batch_size) | 128 | samples at a time |
///
/// While ranges are taken, the whole network runs on floats, so that they are those of exact inputs. An input
/// that is NaN or infinite is an error that names the weight.
///
/// To select a weight that is not quantized is refused before any work. One that quantizing left alone for a
/// reason that shows only then ([`LeftAlone::WouldGrow`], for example) is left alone again
/// ([`LeftAlone::NotQuantized`]), and so is one that the graph does not run ([`LeftAlone::NotInGraph`]); both
/// keep the activations they have. Carries data, so it cannot be written in a recipe.
#[derive(Clone)]
pub struct Calibrator<'a, T: Float = f32> {
    data: &'a dyn Dataset<T>,
    samples: usize,
    batch_size: usize,
    select: Select,
}

impl<T: Float> fmt::Debug for Calibrator<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calibrator").field("samples", &self.samples).finish_non_exhaustive()
    }
}

impl<'a, T: Float> Calibrator<'a, T> {
    /// Calibrates on the first samples of `data`; labels are not used.
    pub fn new(data: &'a dyn Dataset<T>) -> Self {
        Self { data, samples: 512, batch_size: 128, select: Select::default() }
    }

    /// How many samples are looked at. Default: 512, or all there are.
    pub fn samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// Samples at a time. Default: 128.
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = batch_size;
        self
    }

    select_setters!();
}

impl<T: Float> Step for Calibrator<'_, T> {
    fn name(&self) -> &str {
        "calibrate"
    }

    fn validate(&self) -> Result<(), crate::Invalid> {
        let least = |name, n: usize| crate::Invalid::unless_in(1.0.., name, n as f64, "at least 1");
        least("samples", self.samples)?;
        least("batch_size", self.batch_size)
    }

    fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        if !outline.has_graph() {
            return Err(("*".to_owned(), Refusal::NoGraph));
        }
        outline.for_each_selected(&self.select, |weight| {
            if weight.form.codebook.is_some() {
                Err(Refusal::Other(
                    "its values are in a codebook, which runs on floats, not on integers".into(),
                ))
            } else if weight.form.quantized {
                weight.activations = Activations::Int8Static { low: 0.0, high: 0.0 };
                Ok(())
            } else {
                Err(Refusal::Other(
                    "its inputs can be calibrated once it is quantized; put quantize before that".into(),
                ))
            }
        })
    }
}

impl<T: Float> Calibrator<'_, T> {
    /// Smallest and largest input of each matrix and kernel that the network runs.
    fn ranges(&self, model: &Model<T>, log: &Log<'_>) -> Result<BTreeMap<String, (f64, f64)>> {
        let mut exact = model.clone();
        for (name, weight) in model.weights().filter(|(_, w)| w.activations() != Activations::Float) {
            exact.set(name, weight.clone().with_activations(Activations::Float))?;
        }
        let network = exact.network()?;
        let samples = self.samples.min(self.data.len());
        let mut ranges: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for first in (0..samples).step_by(self.batch_size) {
            log.progress(first, samples)?;
            let indices: Vec<usize> = (first..samples.min(first + self.batch_size)).collect();
            let batch = self.data.batch(&indices).map_err(unbox)?;
            network.forward_observed(&batch.input, &mut |name, values| {
                let found = range(values).ok_or_else(|| Error::weight(name, Fault::input(values, 0)))?;
                let (low, high) = ranges.entry(name.to_owned()).or_default();
                (*low, *high) = (low.min(found.0), high.max(found.1));
                Ok(())
            })?;
        }
        Ok(ranges)
    }
}

impl<T: Float> Compressor<T> for Calibrator<'_, T> {
    fn compress(&self, model: &mut Model<T>, log: &Log<'_>) -> Result<()> {
        if self.data.is_empty() {
            return Err(Error::Data("it has no samples"));
        }
        // The model stays as it is until all ranges are known.
        let ranges = self.ranges(model, log)?;
        let mut fixed = Vec::new();
        for (info, weight) in model.entries() {
            let name = &info.name;
            if !self.select.takes(info) {
                log.not_selected(name);
            } else if !weight.leaves().iter().all(|leaf| leaf.is_coded()) {
                log.left(name, LeftAlone::NotQuantized)?;
            } else if let Some((low, high)) = ranges.get(&**name) {
                let activations = Activations::Int8Static { low: *low, high: *high };
                fixed.push((Arc::clone(name), weight.clone().with_activations(activations)));
            } else {
                log.left(name, LeftAlone::NotInGraph)?;
            }
        }
        fixed.into_iter().try_for_each(|(name, weight)| model.set(&name, weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Batch, Examples, Graph};
    use crate::{AffineQuantizer, BoxError, Pipeline, Tensor};

    const LARGE: [usize; 2] = [16, 8];

    fn tensor(shape: &[usize], seed: usize) -> Tensor<f32> {
        let value = |i: usize| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0;
        Tensor::new(shape, (0..shape.iter().product()).map(value).collect()).unwrap()
    }

    /// Two layers and a third that the graph does not use, quantized with dynamic ranges.
    fn model() -> Model {
        let weights = [("a.weight", tensor(&LARGE, 1)), ("b.weight", tensor(&[8, 16], 2))];
        let weights = weights.into_iter().chain([("c.weight", tensor(&LARGE, 3))]);
        let graph = Graph::new().linear_without_bias("a").relu().linear_without_bias("b");
        let model = Model::from_tensors(weights).unwrap().with_graph(graph).unwrap();
        Pipeline::new().quantize(int8()).run(model).unwrap().model
    }

    fn int8() -> AffineQuantizer {
        AffineQuantizer::bits(8).activations(Activations::Int8)
    }

    fn data() -> Examples {
        Examples::unlabelled(tensor(&[20, 8], 4)).unwrap()
    }

    #[test]
    fn ranges_are_those_of_exact_inputs_whatever_is_selected() {
        let (data, model) = (data(), model());
        let with = |calibrator: Calibrator<'_>| {
            let after = Pipeline::new().then(calibrator).run(&model).unwrap().model;
            ["a.weight", "b.weight"].map(|name| after.weight(name).unwrap().activations())
        };
        let both = with(Calibrator::new(&data).except("c.*"));
        assert!(both.iter().all(|a| matches!(a, Activations::Int8Static { .. })), "{both:?}");
        let second = with(Calibrator::new(&data).only("b.*"));
        assert_eq!(second, [Activations::Int8, both[1]]);
    }

    #[test]
    fn inputs_that_are_not_finite_are_errors_that_name_the_weight() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = tensor(&[20, 8], 4);
            x.as_mut_slice()[83] = bad;
            let data = Examples::unlabelled(x).unwrap();
            let error = Pipeline::new().then(Calibrator::new(&data)).run(model()).unwrap_err();
            assert_eq!(error.to_string(), format!("weight `a.weight`: input entry 83 is {bad}"));
        }
    }

    #[test]
    fn what_is_left_alone_says_why_and_stays() {
        let (data, unused) = (data(), model());
        let why = |model: &Model, name: &str| {
            let pipeline = Pipeline::new().then(Calibrator::new(&data));
            let after = pipeline.run(model).unwrap();
            let same = after.model.weight(name) == model.weight(name);
            (after.report.weight(name).unwrap().left[0].why, same)
        };
        assert_eq!(why(&unused, "c.weight"), (LeftAlone::NotInGraph, true));
        let strict = Pipeline::new().strict().then(Calibrator::new(&data)).run(&unused);
        assert!(matches!(strict, Err(Error::Left { .. })));
        // Quantizing would have made it larger, which no plan can know.
        let tiny = Model::from_tensors([("a.weight", tensor(&LARGE, 1)), ("b.weight", tensor(&[1, 1], 2))]);
        let graph = Graph::new().linear_without_bias("a");
        let quantize = Pipeline::new().quantize(int8());
        let after =
            quantize.then(Calibrator::new(&data)).run(tiny.unwrap().with_graph(graph).unwrap()).unwrap();
        let left = &after.report.weight("b.weight").unwrap().left;
        assert_eq!(
            left.iter().map(|l| l.why).collect::<Vec<_>>(),
            [LeftAlone::WouldGrow, LeftAlone::NotQuantized]
        );
    }

    #[test]
    fn an_error_of_the_dataset_comes_out_as_it_went_in() {
        struct Broken;
        impl Dataset for Broken {
            fn len(&self) -> usize {
                3
            }
            fn batch(&self, _: &[usize]) -> Result<Batch<f32>, BoxError> {
                Err(Error::Data("gone").into())
            }
        }
        let result = Pipeline::new().then(Calibrator::new(&Broken)).run(model());
        assert!(matches!(result, Err(Error::Data("gone"))), "{result:?}");
    }
}
