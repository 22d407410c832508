use crate::nn::{Input, Network, Outputs};
use crate::{BoxError, Float, Tensor};
use std::sync::Arc;

/// Something that knows the answers: a large network, an ensemble, a service.
///
/// A closure is a teacher, with the type of its argument written out (`|input: &Input<f32>|`, else the compiler
/// finds it "not general enough"); so are a [`Network`] and an `Arc` of a teacher. A runtime that wants `&mut` goes
/// behind a `Mutex`:
///
/// ```
/// use bantam::distill::Teacher;
/// use bantam::nn::Input;
/// use bantam::{BoxError, Tensor};
/// use std::sync::Mutex;
///
/// struct Session; // of some runtime
/// impl Session {
///     fn run(&mut self, x: &Tensor<f32>) -> Tensor<f32> {
///         x.clone()
///     }
/// }
///
/// let session = Mutex::new(Session);
/// let teacher = |input: &Input<f32>| -> Result<Tensor<f32>, BoxError> {
///     let mut session = session.lock().map_err(|_| "the session is broken")?;
///     Ok(session.run(input.values()?))
/// };
/// let input = Input::from(Tensor::new(&[1, 2], vec![0.5, -0.5])?);
/// assert_eq!(teacher.logits(&input).unwrap().shape(), [1, 2]);
/// # Ok::<(), bantam::Error>(())
/// ```
pub trait Teacher<T: Float = f32>: Send + Sync {
    /// Logits `[n, classes]` for a batch: outputs before the softmax.
    ///
    /// # Errors
    /// Whatever can go wrong; it ends the training.
    fn logits(&self, input: &Input<T>) -> Result<Tensor<T>, BoxError>;

    /// The same with outputs of layers in between. A teacher need not have any.
    ///
    /// # Errors
    /// As [`logits`](Self::logits), and when it has no such layers.
    fn outputs(&self, input: &Input<T>, taps: &[&str]) -> Result<Outputs<T>, BoxError> {
        match taps.first() {
            None => Ok(Outputs { logits: self.logits(input)?, taps: Vec::new() }),
            Some(tap) => Err(format!("this teacher gives logits only, not `{tap}`").into()),
        }
    }
}

impl<T: Float, F> Teacher<T> for F
where
    F: Fn(&Input<T>) -> Result<Tensor<T>, BoxError> + Send + Sync,
{
    fn logits(&self, input: &Input<T>) -> Result<Tensor<T>, BoxError> {
        self(input)
    }
}

impl<T: Float> Teacher<T> for Network<T> {
    fn logits(&self, input: &Input<T>) -> Result<Tensor<T>, BoxError> {
        Ok(self.forward(input)?)
    }

    fn outputs(&self, input: &Input<T>, taps: &[&str]) -> Result<Outputs<T>, BoxError> {
        Ok(Self::outputs(self, input, taps)?)
    }
}

impl<T: Float, X: Teacher<T> + ?Sized> Teacher<T> for Arc<X> {
    fn logits(&self, input: &Input<T>) -> Result<Tensor<T>, BoxError> {
        (**self).logits(input)
    }

    fn outputs(&self, input: &Input<T>, taps: &[&str]) -> Result<Outputs<T>, BoxError> {
        (**self).outputs(input, taps)
    }
}
