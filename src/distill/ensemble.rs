use super::Teacher;
use crate::nn::{Input, Outputs};
use crate::{BoxError, Error, Float, Tensor};
use std::fmt;

/// Several teachers that speak as one: the mean of their logits.
///
/// The mean of logits, softened at a temperature, is the (normalized) geometric mean of the predictions of all
/// teachers softened at that temperature, whatever it is; arXiv 1503.02531 names the geometric and the arithmetic mean
/// as equals. So the ensemble need not know the temperature, which may [change](super::Ramp), and its answers can be
/// [cached](super::Distiller::cache_logits) like those of one teacher. The mean of softened probabilities would need
/// both.
///
/// Outputs of layers, for [hints](super::Hint), are those of the first teacher.
///
/// ```
/// use bantam::Tensor;
/// use bantam::distill::{Ensemble, Teacher};
/// use bantam::nn::{Graph, Input};
///
/// # #[cfg(feature = "train")] {
/// # use bantam::Model;
/// let network = |seed| {
///     let graph = Graph::new().linear_without_bias("fc");
///     Model::<f32>::initialized(graph, &[("fc.weight", &[3, 2])], seed)?.network()
/// };
/// let (a, b) = (network(1)?, network(2)?);
/// let both = Ensemble::new([&a as &dyn Teacher, &b]);
/// let x = Input::from(Tensor::new(&[1, 2], vec![0.5, -0.5])?);
/// let mean = (a.forward(&x)?.as_slice()[2] + b.forward(&x)?.as_slice()[2]) / 2.0;
/// assert!((both.logits(&x).unwrap().as_slice()[2] - mean).abs() < 1e-6);
/// # }
/// # Ok::<(), bantam::Error>(())
/// ```
#[derive(Clone)]
pub struct Ensemble<'a, T: Float = f32> {
    teachers: Vec<&'a dyn Teacher<T>>,
}

impl<'a, T: Float> Ensemble<'a, T> {
    /// All of `teachers`, each of which counts the same. Without any, asking is an error.
    pub fn new(teachers: impl IntoIterator<Item = &'a dyn Teacher<T>>) -> Self {
        Self { teachers: teachers.into_iter().collect() }
    }
}

impl<T: Float> fmt::Debug for Ensemble<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ensemble").field("teachers", &self.teachers.len()).finish()
    }
}

impl<T: Float> Teacher<T> for Ensemble<'_, T> {
    fn logits(&self, input: &Input<T>) -> Result<Tensor<T>, BoxError> {
        Ok(self.outputs(input, &[])?.logits)
    }

    fn outputs(&self, input: &Input<T>, taps: &[&str]) -> Result<Outputs<T>, BoxError> {
        let (first, others) = self.teachers.split_first().ok_or("an ensemble without teachers")?;
        let mut outputs = first.outputs(input, taps)?;
        for teacher in others {
            let logits = teacher.logits(input)?;
            if logits.shape() != outputs.logits.shape() {
                let what = "logits of a teacher of the ensemble";
                return Err(Error::shape(what, outputs.logits.shape(), logits.shape()).into());
            }
            let sums = outputs.logits.as_mut_slice().iter_mut();
            sums.zip(logits.iter()).for_each(|(sum, x)| *sum += *x);
        }
        let share = T::narrow(1.0 / self.teachers.len() as f64);
        outputs.logits.as_mut_slice().iter_mut().for_each(|x| *x *= share);
        Ok(outputs)
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;

    fn constant(values: [f32; 2]) -> impl Teacher {
        move |x: &Input<f32>| -> Result<Tensor<f32>, BoxError> {
            Ok(Tensor::new(&[x.samples(), 2], values.repeat(x.samples()))?)
        }
    }

    #[test]
    fn the_mean_of_logits_is_the_geometric_mean_of_softened_predictions() {
        let values = [[1.0, -2.0], [0.5, 3.0], [-1.5, 0.25]];
        let teachers = values.map(constant);
        let ensemble = Ensemble::new(teachers.iter().map(|t| t as &dyn Teacher));
        let input = Input::from(Tensor::zeros(&[1, 1]));
        let logits = ensemble.logits(&input).unwrap();
        for temperature in [1.0, 3.0_f64] {
            let soft = |z: [f32; 2]| {
                let e = z.map(|z| (f64::from(z) / temperature).exp());
                e.map(|x| x / (e[0] + e[1]))
            };
            let geometric = [0, 1].map(|c| values.iter().map(|z| soft(*z)[c]).product::<f64>().cbrt());
            let wanted = geometric[0] / (geometric[0] + geometric[1]);
            let got = soft([logits.as_slice()[0], logits.as_slice()[1]])[0];
            assert!((wanted - got).abs() < 1e-6, "{wanted} {got}");
        }
    }

    #[test]
    fn teachers_that_do_not_fit_are_errors() {
        let input = Input::from(Tensor::zeros(&[1, 1]));
        assert!(
            Ensemble::<f32>::new([]).logits(&input).unwrap_err().to_string().contains("without teachers")
        );
        let three = |_: &Input<f32>| -> Result<Tensor<f32>, BoxError> { Ok(Tensor::zeros(&[1, 3])) };
        let two = constant([0.0, 1.0]);
        let error = Ensemble::new([&two as &dyn Teacher, &three]).logits(&input).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Error::Shape { .. })), "{error}");
    }
}
