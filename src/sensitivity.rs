//! How much accuracy each weight of a network costs when it alone is compressed.

use crate::model::{Model, Select, select_setters};
use crate::nn::Dataset;
use crate::{
    AffineQuantizer, Compressor, Error, Float, Invalid, Log, MagnitudePruner, Refusal, Result, Step,
};
use serde::Serialize;
use std::fmt;

/// Compresses one weight at a time, by several amounts, and measures the accuracy of the network each time, without
/// any training: where there is room, and where there is none (Han et al., arXiv 1506.02626, section 3.1 and figure
/// 6).
///
/// | setting | default | meaning |
/// | --- | --- | --- |
/// | [`sparsities`](Self::sparsities) | 0.5, 0.7, 0.8, 0.9, 0.95, 0.98 | [`MagnitudePruner::sparsity`] |
/// | [`bits`](Self::bits) | 8, 6, 4, 3, 2 | [`AffineQuantizer::bits`], with a scale a channel |
/// | choice of weights | as of every step | `only`, `except`, `kind` |
///
/// ```no_run
/// # fn example(model: bantam::Model, validation: bantam::nn::Examples) -> bantam::Result<()> {
/// let scan = bantam::SensitivityScan::new(&validation).sparsities([0.8, 0.95]).bits([4]).run(&model)?;
/// println!("{scan}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SensitivityScan<'a, T: Float = f32> {
    data: &'a dyn Dataset<T>,
    sparsities: Vec<f64>,
    bits: Vec<u8>,
    select: Select,
}

impl<T: Float> fmt::Debug for SensitivityScan<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SensitivityScan")
            .field("samples", &self.data.len())
            .field("sparsities", &self.sparsities)
            .field("bits", &self.bits)
            .field("select", &self.select)
            .finish()
    }
}

/// What a [`SensitivityScan`] found. `Display` is a table, with a row a weight; serde gives JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Sensitivity {
    /// Accuracy of the network as it came, 0 to 1.
    pub baseline: f64,
    /// The weights, in the order of the model.
    pub weights: Vec<WeightSensitivity>,
}

/// Accuracies with one weight compressed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WeightSensitivity {
    /// Its name.
    pub name: String,
    /// Its entries.
    pub entries: usize,
    /// Sparsity, and the accuracy of the network with it.
    pub sparsities: Vec<(f64, f64)>,
    /// Bits, and the accuracy of the network with them. None where the weight is quantized already.
    pub bits: Vec<(u8, f64)>,
}

impl<'a, T: Float> SensitivityScan<'a, T> {
    /// Measures on `data`, which should not be what the network was trained on.
    pub fn new(data: &'a dyn Dataset<T>) -> Self {
        Self {
            data,
            sparsities: vec![0.5, 0.7, 0.8, 0.9, 0.95, 0.98],
            bits: vec![8, 6, 4, 3, 2],
            select: Select::default(),
        }
    }

    /// Fractions of each weight to prune, 0 to 1. None is fine.
    pub fn sparsities(mut self, fractions: impl IntoIterator<Item = f64>) -> Self {
        self.sparsities = fractions.into_iter().collect();
        self
    }

    /// Bits of each weight, 1 to 8. None is fine.
    pub fn bits(mut self, bits: impl IntoIterator<Item = u8>) -> Self {
        self.bits = bits.into_iter().collect();
        self
    }

    select_setters!();

    /// Measures: once as it is, and once for each weight and amount.
    ///
    /// # Errors
    /// [`Error::Setting`] for an amount out of its range; [`Error::Plan`] where `only` takes no weight; the errors of
    /// pruning and quantizing, with the name of the weight; those of [`Network::accuracy`](crate::nn::Network::accuracy).
    pub fn run(&self, model: &Model<T>) -> Result<Sensitivity> {
        let setting =
            |step: &str, invalid: Invalid| Error::Setting { index: 0, step: step.to_owned(), invalid };
        let pruner = |fraction: f64| MagnitudePruner::sparsity(fraction);
        let quantizer = |bits: u8| AffineQuantizer::bits(bits).per_channel();
        for fraction in &self.sparsities {
            pruner(*fraction).validate().map_err(|e| setting("sensitivity", e))?;
        }
        for bits in &self.bits {
            quantizer(*bits).validate().map_err(|e| setting("sensitivity", e))?;
        }
        if !self.select.only.is_empty() && !model.entries().any(|(info, _)| self.select.takes(info)) {
            let (step, weight) = ("sensitivity".to_owned(), self.select.only.join(", "));
            return Err(Error::Plan { index: 0, step, weight, why: Refusal::SelectsNothing });
        }
        let baseline = model.network()?.accuracy(self.data)?;
        let mut weights = Vec::new();
        for (info, weight) in model.entries().filter(|(info, _)| self.select.takes(info)) {
            let with = |step: &dyn Compressor<T>| {
                let mut changed = model.clone();
                step.compress(&mut changed, &Log::quiet("sensitivity"))?;
                changed.network()?.accuracy(self.data)
            };
            let name = &*info.name;
            let sparsities = self.sparsities.iter().map(|s| Ok((*s, with(&pruner(*s).only(name))?)));
            let bits = if weight.form().quantized { &[][..] } else { &self.bits };
            let bits = bits.iter().map(|b| Ok((*b, with(&quantizer(*b).only(name))?)));
            weights.push(WeightSensitivity {
                name: name.to_owned(),
                entries: weight.len(),
                sparsities: sparsities.collect::<Result<_>>()?,
                bits: bits.collect::<Result<_>>()?,
            });
        }
        Ok(Sensitivity { baseline, weights })
    }
}

impl fmt::Display for Sensitivity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.weights.iter().map(|w| w.name.len()).max().unwrap_or(0).max(6);
        writeln!(f, "accuracy in percent with one weight changed; {:.2} as it is", 100.0 * self.baseline)?;
        write!(f, "{:<width$} {:>10}", "weight", "entries")?;
        if let Some(first) = self.weights.first() {
            first.sparsities.iter().try_for_each(|(s, _)| write!(f, " {s:>6.4}"))?;
        }
        // A weight that is quantized already has no columns of bits.
        if let Some(any) = self.weights.iter().find(|w| !w.bits.is_empty()) {
            any.bits.iter().try_for_each(|(b, _)| write!(f, " {b:>3} bit"))?;
        }
        for weight in &self.weights {
            write!(f, "\n{:<width$} {:>10}", weight.name, weight.entries)?;
            let accuracies =
                weight.sparsities.iter().map(|(_, a)| a).chain(weight.bits.iter().map(|(_, a)| a));
            for accuracy in accuracies {
                write!(f, " {:>6.2}", 100.0 * accuracy)?;
            }
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;
    use crate::nn::{Examples, Graph};
    use crate::{FineTuner, Kind, Pipeline, Tensor};

    /// Sign of the first of four numbers; the second layer matters, the first has a copy to lose.
    fn setup() -> (Model, Examples) {
        let x: Vec<f32> = (0..400).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
        let labels = x.chunks(4).map(|x| u32::from(x[0] > 0.0)).collect();
        let data = Examples::new(Tensor::new(&[100, 4], x).unwrap(), labels).unwrap();
        let graph = Graph::new().linear("a").relu().linear("b");
        let shapes: [(&str, &[usize]); 4] =
            [("a.weight", &[8, 4]), ("a.bias", &[8]), ("b.weight", &[2, 8]), ("b.bias", &[2])];
        let model = Model::initialized(graph, &shapes, 1).unwrap();
        let tuner = FineTuner::new(&data).epochs(30).batch_size(20).rate(0.02);
        let trained = Pipeline::new().finetune(tuner).run(model).unwrap().model;
        (trained, data)
    }

    #[test]
    fn each_weight_is_changed_alone() {
        let (model, data) = setup();
        let scan = SensitivityScan::new(&data).sparsities([0.0, 1.0]).bits([8, 1]).run(&model).unwrap();
        assert_eq!(scan.baseline, model.network().unwrap().accuracy(&data).unwrap());
        assert_eq!(
            scan.weights.iter().map(|w| w.name.as_str()).collect::<Vec<_>>(),
            ["a.weight", "b.weight"]
        );
        for weight in &scan.weights {
            assert_eq!(weight.sparsities[0], (0.0, scan.baseline));
            let alone = MagnitudePruner::sparsity(1.0).only(weight.name.as_str());
            let without = Pipeline::new().prune(alone).run(&model).unwrap().model;
            assert_eq!(weight.sparsities[1].1, without.network().unwrap().accuracy(&data).unwrap());
            assert!(weight.sparsities[1].1 < scan.baseline && weight.bits[0].1 > 0.9);
        }
        let text = scan.to_string();
        assert!(text.contains("a.weight") && text.contains("8 bit") && text.lines().count() == 4, "{text}");
        assert_eq!(model.weight("a.weight").unwrap().form().to_string(), "dense");
    }

    #[test]
    fn misuse_is_an_error_and_coded_weights_have_no_bits() {
        let (model, data) = setup();
        for wrong in [SensitivityScan::new(&data).sparsities([1.5]), SensitivityScan::new(&data).bits([0, 4])]
        {
            assert!(matches!(wrong.run(&model), Err(Error::Setting { .. })));
        }
        let nothing = SensitivityScan::new(&data).only("typo").only("b.wieght").run(&model).unwrap_err();
        assert!(
            matches!(&nothing, Error::Plan { weight, why: Refusal::SelectsNothing, .. } if weight == "typo, b.wieght"),
            "{nothing}"
        );
        let coded = Pipeline::new().quantize(AffineQuantizer::bits(4).only("a.*")).run(&model).unwrap().model;
        let scan =
            SensitivityScan::new(&data).sparsities([0.5]).bits([4]).kind(Kind::Linear).run(&coded).unwrap();
        assert!(scan.weights[0].bits.is_empty() && scan.weights[1].bits.len() == 1);
        let bare = Model::from(model.weight("a.weight").unwrap().clone());
        assert!(SensitivityScan::new(&data).run(&bare).is_err());
    }
}
