use crate::nn::{Input, Outputs, Trainable};
use crate::{BoxError, Float, Tensor};

/// Something that learns. It owns its optimizer; [`Trainable`] is one, and so can be a model of another
/// runtime.
///
/// ```
/// use bantam::distill::{FineTuner, Student};
/// use bantam::nn::{Examples, Input, Outputs};
/// use bantam::{BoxError, Tensor};
///
/// /// `y = w x`, by hand.
/// struct Line {
///     weight: f32,
///     input: Vec<f32>,
///     gradient: f32,
/// }
///
/// impl Student for Line {
///     fn forward(&mut self, input: &Input<f32>, _taps: &[&str]) -> Result<Outputs<f32>, BoxError> {
///         let x = input.values()?;
///         self.input = x.as_slice().to_vec();
///         let y = self.input.iter().map(|x| self.weight * x).collect();
///         Ok(Outputs { logits: Tensor::new(x.shape(), y)?, taps: vec![] })
///     }
///
///     fn backward(&mut self, gradients: &Outputs<f32>) -> Result<(), BoxError> {
///         self.gradient = self.input.iter().zip(gradients.logits.iter()).map(|(x, g)| x * g).sum();
///         Ok(())
///     }
///
///     fn step(&mut self, rate: f64) -> Result<(), BoxError> {
///         self.weight -= rate as f32 * self.gradient;
///         Ok(())
///     }
/// }
///
/// # #[cfg(feature = "train")] {
/// let x = Tensor::new(&[3, 1], vec![1.0_f32, 2.0, 3.0])?;
/// let y = Tensor::new(&[3, 1], vec![2.0_f32, 4.0, 6.0])?;
/// let data = Examples::with_values(x, y)?;
/// let mut line = Line { weight: 0.0, input: vec![], gradient: 0.0 };
/// FineTuner::new(&data).epochs(200).rate(0.05).fit(&mut line, &mut |_, _| Ok(()))?;
/// assert!((line.weight - 2.0).abs() < 1e-3);
/// # }
/// # Ok::<(), bantam::Error>(())
/// ```
pub trait Student<T: Float = f32>: Send {
    /// Outputs for a batch in training, with those of the layers named by `taps`.
    ///
    /// # Errors
    /// Whatever can go wrong; it ends the training.
    fn forward(&mut self, input: &Input<T>, taps: &[&str]) -> Result<Outputs<T>, BoxError>;

    /// The same in the place of outputs that have been used, whose room may be used again. Training calls this one.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn forward_into(
        &mut self,
        input: &Input<T>,
        taps: &[&str],
        outputs: &mut Outputs<T>,
    ) -> Result<(), BoxError> {
        *outputs = self.forward(input, taps)?;
        Ok(())
    }

    /// Takes the gradient of the loss with respect to what [`forward`](Self::forward) returned last. `taps`
    /// is empty where the loss depends on the logits alone.
    ///
    /// # Errors
    /// Whatever can go wrong; it ends the training.
    fn backward(&mut self, gradients: &Outputs<T>) -> Result<(), BoxError>;

    /// One step of its optimizer at `rate`.
    ///
    /// # Errors
    /// Whatever can go wrong; it ends the training.
    fn step(&mut self, rate: f64) -> Result<(), BoxError>;

    /// Logits for a batch as inference gives them (dropout off, for example), for validation. As
    /// [`forward`](Self::forward) where a student knows no difference.
    ///
    /// # Errors
    /// Whatever can go wrong; it ends the training.
    fn predict(&mut self, input: &Input<T>) -> Result<Tensor<T>, BoxError> {
        Ok(self.forward(input, &[])?.logits)
    }

    /// The same with outputs of the layers named by `taps`: before a training, to see that hints fit.
    ///
    /// # Errors
    /// Whatever can go wrong, a layer that does not exist among it; it ends the training.
    fn outputs(&mut self, input: &Input<T>, taps: &[&str]) -> Result<Outputs<T>, BoxError> {
        match taps.is_empty() {
            true => Ok(Outputs { logits: self.predict(input)?, taps: Vec::new() }),
            false => self.forward(input, taps),
        }
    }

    /// All that training has changed (weights, what the optimizer remembers, random numbers), as bytes: for
    /// [checkpoints](super::Checkpoint), and for going back to the best weights. `None` for a student that cannot be
    /// kept, which has neither.
    ///
    /// # Errors
    /// Whatever can go wrong; it ends the training.
    fn state(&mut self) -> Result<Option<Vec<u8>>, BoxError> {
        Ok(None)
    }

    /// Becomes what it was when [`state`](Self::state) gave these bytes. They may be those of another run of the
    /// program, of a student made in the same way.
    ///
    /// # Errors
    /// Whatever can go wrong; it ends the training.
    fn set_state(&mut self, _state: &[u8]) -> Result<(), BoxError> {
        Err("this student cannot be kept".into())
    }

    /// The student as bantam's own network, if it is one: for hooks that look inside.
    fn as_trainable(&mut self) -> Option<&mut Trainable<T>> {
        None
    }
}

impl<T: Float> Student<T> for Trainable<T> {
    fn forward(&mut self, input: &Input<T>, taps: &[&str]) -> Result<Outputs<T>, BoxError> {
        Ok(Self::forward(self, input, taps)?)
    }

    fn forward_into(
        &mut self,
        input: &Input<T>,
        taps: &[&str],
        outputs: &mut Outputs<T>,
    ) -> Result<(), BoxError> {
        Ok(Self::forward_into(self, input, taps, outputs)?)
    }

    fn backward(&mut self, gradients: &Outputs<T>) -> Result<(), BoxError> {
        Ok(Self::backward(self, gradients)?)
    }

    fn step(&mut self, rate: f64) -> Result<(), BoxError> {
        Ok(Self::step(self, rate)?)
    }

    fn predict(&mut self, input: &Input<T>) -> Result<Tensor<T>, BoxError> {
        Ok(Self::predict(self, input)?)
    }

    fn outputs(&mut self, input: &Input<T>, taps: &[&str]) -> Result<Outputs<T>, BoxError> {
        Ok(Self::outputs(self, input, taps)?)
    }

    fn state(&mut self) -> Result<Option<Vec<u8>>, BoxError> {
        Ok(Some(Self::state(self)?))
    }

    fn set_state(&mut self, state: &[u8]) -> Result<(), BoxError> {
        Ok(Self::set_state(self, state)?)
    }

    fn as_trainable(&mut self) -> Option<&mut Trainable<T>> {
        Some(self)
    }
}
