//! Hints: layers of the student that learn from layers of the teacher.

use super::Ramp;
use crate::nn::{Conv2d, Graph, Input, Loss, Optimizer, Outputs, Trainable};
use crate::nn::{attention_transfer, mean_squared_error};
use crate::{Error, Float, Invalid, Model, Result, Tensor};

/// A layer of the student that is to learn from a layer of the teacher, as a term of the
/// [`Distiller`](super::Distiller)'s loss. Layers are named as in [`Network::outputs`](crate::nn::Network::outputs):
/// `"fc1"`, or the index of an output, which is how an activation is meant (`"2"`).
///
/// | kind | the term, before its weight |
/// | --- | --- |
/// | [`Hint::features`] | mean of the squared differences of the outputs (*FitNets*, arXiv 1412.6550) |
/// | [`Hint::attention`] | distance of the [attention maps](crate::nn::attention_transfer) (arXiv 1612.03928) |
///
/// | setting | default | range |
/// | --- | --- | --- |
/// | `weight` | 1 | at least 0; may [change](Ramp) while training goes on: down to 0, the hint only leads the way |
///
/// Features `[n, .., d]` and feature maps `[n, c, h, w]` may have other widths `d` and `c` in the student than in the
/// teacher. A projection then lies between, a linear layer or a convolution of 1 x 1, which starts at random, learns
/// with the student by the same optimizer, and is dropped at the end. All other axes must be the same.
///
/// ```no_run
/// use bantam::distill::{Distiller, Hint, Ramp};
/// use bantam::nn::{Examples, Network};
///
/// # fn example(teacher: &Network, train: &Examples) {
/// let distiller = Distiller::new(teacher, train)
///     .hint(Hint::features("conv1", "conv3").weight(Ramp::linear(1.0, 0.0)))
///     .hint(Hint::attention("conv2", "conv6"));
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Hint {
    student: String,
    teacher: String,
    kind: Kind,
    weight: Ramp,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Features,
    Attention,
}

impl Hint {
    /// The student's layer is to give what the teacher's gives.
    pub fn features(student: impl Into<String>, teacher: impl Into<String>) -> Self {
        Self { student: student.into(), teacher: teacher.into(), kind: Kind::Features, weight: 1.0.into() }
    }

    /// The student's layer is to look at the same places of an image as the teacher's.
    pub fn attention(student: impl Into<String>, teacher: impl Into<String>) -> Self {
        Self { kind: Kind::Attention, ..Self::features(student, teacher) }
    }

    /// How much the term counts beside the others.
    pub fn weight(mut self, weight: impl Into<Ramp>) -> Self {
        self.weight = weight.into();
        self
    }

    /// The layer of the student.
    pub fn student_layer(&self) -> &str {
        &self.student
    }

    /// The layer of the teacher.
    pub fn teacher_layer(&self) -> &str {
        &self.teacher
    }

    pub(super) fn validate(&self) -> Result<(), Invalid> {
        self.weight.unless_in(0.0..f64::INFINITY, "weight of a hint", "at least 0")
    }

    /// What the two give for the first batch, if they can be compared.
    fn widths<T: Float>(&self, student: &Tensor<T>, teacher: &Tensor<T>) -> Result<[usize; 2]> {
        // Maps have their channels second, everything else has them last.
        let (ours, theirs) = (student.shape(), teacher.shape());
        let axis = if ours.len() == 4 { 1 } else { ours.len().saturating_sub(1) };
        let mut expected = ours.to_vec();
        if let Some(width) = expected.get_mut(axis) {
            *width = theirs.get(axis).copied().unwrap_or(0);
        }
        if ours.len() < 2 || expected != theirs || ours.contains(&0) || theirs.contains(&0) {
            let what =
                format!("hint of the teacher's `{}` for the student's `{}`", self.teacher, self.student);
            if let Some(width) = expected.get_mut(axis) {
                *width = 0;
            }
            return Err(Error::shape(what, &expected, theirs));
        }
        Ok([ours[axis], theirs[axis]])
    }
}

/// A hint while it is given.
pub(super) struct Lead<'h, T: Float> {
    hint: &'h Hint,
    /// From the student's width to the teacher's, where they differ.
    projection: Option<Box<Trainable<T>>>,
}

impl<'h, T: Float> Lead<'h, T> {
    /// `student` and `teacher` are what the layers give for a batch.
    pub fn new(
        hint: &'h Hint,
        student: &Tensor<T>,
        teacher: &Tensor<T>,
        optimizer: Optimizer,
        seed: u64,
    ) -> Result<Self> {
        let projection = match hint.kind {
            Kind::Attention => {
                attention_transfer(student, teacher)?;
                None
            }
            Kind::Features => match hint.widths(student, teacher)? {
                [ours, theirs] if ours == theirs => None,
                [ours, theirs] => {
                    let maps = student.shape().len() == 4;
                    let projection = projection(maps, theirs, ours, optimizer, seed)?;
                    Some(Box::new(projection))
                }
            },
        };
        Ok(Self { hint, projection })
    }

    pub fn projection(&mut self) -> Option<&mut Trainable<T>> {
        self.projection.as_deref_mut()
    }

    /// The term at `step` of `steps` and its gradient with respect to what the student's layer gave. A projection
    /// keeps its own gradient until its step.
    pub fn loss(
        &mut self,
        (step, steps): (usize, usize),
        student: &Tensor<T>,
        teacher: &Tensor<T>,
    ) -> Result<Loss<T>> {
        let weight = self.hint.weight.at(step, steps);
        let scaled = |(loss, mut gradient): Loss<T>| {
            let factor = T::narrow(weight);
            gradient.as_mut_slice().iter_mut().for_each(|g| *g *= factor);
            (weight * loss, gradient)
        };
        match (self.hint.kind, &mut self.projection) {
            (Kind::Attention, _) => attention_transfer(student, teacher).map(scaled),
            (Kind::Features, None) => mean_squared_error(student, teacher).map(scaled),
            (Kind::Features, Some(projection)) => {
                let projected = projection.forward(&Input::Values(student.clone()), &[])?.logits;
                let (loss, logits) = scaled(mean_squared_error(&projected, teacher)?);
                projection.backward(&Outputs { logits, taps: Vec::new() })?;
                let (_, gradient) = projection.values_at(0);
                Ok((loss, Tensor::new(student.shape(), gradient.to_vec())?))
            }
        }
    }
}

/// A network of one layer, which gives the gradient of its input, too.
fn projection<T: Float>(
    maps: bool,
    to: usize,
    from: usize,
    optimizer: Optimizer,
    seed: u64,
) -> Result<Trainable<T>> {
    const NAME: &str = "projection";
    let (graph, shape) = match maps {
        true => (Graph::new().conv2d(NAME, Conv2d::default()), vec![to, from, 1, 1]),
        false => (Graph::new().linear(NAME), vec![to, from]),
    };
    let (weight, bias) = (format!("{NAME}.weight"), format!("{NAME}.bias"));
    let model = Model::<T>::initialized(graph, &[(&weight, &shape), (&bias, &[to])], seed)?;
    let mut trainable = model.network()?.trainable(optimizer)?;
    trainable.keep_input_gradient();
    Ok(trainable)
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;

    fn wave(shape: &[usize], phase: f64) -> Tensor<f64> {
        let n = shape.iter().product();
        Tensor::new(shape, (0..n).map(|i| (i as f64 * 0.37 + phase).sin()).collect()).unwrap()
    }

    /// Gradients with respect to the features and to the projection, by central differences.
    #[test]
    fn gradients_are_those_of_finite_differences() {
        let shapes: [(&[usize], &[usize]); 6] = [
            (&[3, 4], &[3, 6]),
            (&[3, 5], &[3, 5]),
            (&[2, 3, 4], &[2, 3, 2]),
            (&[2, 3, 2, 3], &[2, 5, 2, 3]),
            (&[2, 3, 2, 3], &[2, 3, 2, 3]),
            (&[1, 5, 1, 1], &[1, 2, 1, 1]),
        ];
        for (ours, theirs) in shapes {
            let hint = Hint::features("a", "b").weight(Ramp::linear(0.0, 1.5));
            let (student, teacher) = (wave(ours, 0.0), wave(theirs, 1.0));
            let lead = || Lead::new(&hint, &student, &teacher, Optimizer::sgd().into(), 3).unwrap();
            let at = (2, 5);
            let mut one = lead();
            let (_, gradient) = one.loss(at, &student, &teacher).unwrap();
            assert_eq!(one.projection.is_some(), ours != theirs);
            let close = |what: &str, got: f64, up: f64, down: f64| {
                let wanted = (up - down) / 2e-6;
                assert!(
                    (got - wanted).abs() < 1e-7 * wanted.abs().max(1.0),
                    "{what} {ours:?}: {got} {wanted}"
                );
            };
            for i in 0..student.len() {
                let moved = |by: f64| {
                    let mut student = student.clone();
                    student.as_mut_slice()[i] += by;
                    lead().loss(at, &student, &teacher).unwrap().0
                };
                close("features", gradient.as_slice()[i], moved(1e-6), moved(-1e-6));
            }
            for path in ["projection.weight", "projection.bias"] {
                let Some(projection) = one.projection() else { continue };
                let gradient = projection.gradient(path).unwrap();
                for (i, got) in gradient.iter().enumerate() {
                    let moved = |by: f64| {
                        let mut lead = lead();
                        assert!(lead.projection().unwrap().edit(path, |x| x[i] += by));
                        lead.loss(at, &student, &teacher).unwrap().0
                    };
                    close(path, *got, moved(1e-6), moved(-1e-6));
                }
            }
        }
    }

    #[test]
    fn layers_that_cannot_be_compared_are_named() {
        let hint = Hint::features("small", "large");
        for (ours, theirs) in [
            (&[2, 3][..], &[2, 3, 1, 1][..]),
            (&[2, 3, 4, 4], &[2, 3, 4, 5]),
            (&[2, 3], &[4, 3]),
            (&[2], &[2]),
            (&[2, 0], &[2, 3]),
        ] {
            let (ours, theirs) = (Tensor::<f32>::zeros(ours), Tensor::zeros(theirs));
            let error = Lead::new(&hint, &ours, &theirs, Optimizer::default(), 0).err().unwrap().to_string();
            assert!(error.contains("`small`") && error.contains("`large`"), "{error}");
        }
        assert!(hint.weight(-1.0).validate().is_err());
    }
}
