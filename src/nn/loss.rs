//! Losses of logits `[n, classes]`, each with its gradient.
//!
//! Every loss sums over the classes and takes the mean over the samples (`batchmean` in PyTorch's words);
//! mean squared error takes the mean over all values. Exponentials are taken after subtracting the largest
//! logit of the row, sums are kept in double precision, and no samples make a loss of 0.

use crate::kernels::memory::with_room;
use crate::{Error, Float, Result, Tensor};

/// A loss and its gradient with respect to the logits.
pub type Loss<T> = (f64, Tensor<T>);

/// Cross-entropy with the class of each sample: `mean of -log softmax(logits)[label]`.
///
/// # Errors
/// [`Error::Shape`] when the logits are not `[n, classes]` with a label for each sample; [`Error::Label`]
/// when a label is not below the number of classes.
pub fn cross_entropy<T: Float>(logits: &Tensor<T>, labels: &[u32]) -> Result<Loss<T>> {
    let mut gradient = Tensor::zeros(&[0]);
    Ok((cross_entropy_into(logits, labels, &mut gradient)?, gradient))
}

/// As [`cross_entropy`], with the gradient in a tensor that is there already: where it has the shape of the
/// logits, nothing is allocated.
///
/// # Errors
/// As there.
pub fn cross_entropy_into<T: Float>(
    logits: &Tensor<T>,
    labels: &[u32],
    gradient: &mut Tensor<T>,
) -> Result<f64> {
    let (n, classes) = matrix(logits)?;
    if labels.len() != n {
        return Err(Error::shape("labels", &[n], &[labels.len()]));
    }
    check_labels(labels, classes)?;
    each_row(logits, 1.0, gradient, |i, probabilities, log_sum, row, gradient| {
        let label = labels[i] as usize;
        for (g, p) in gradient.iter_mut().zip(probabilities) {
            *g = *p;
        }
        gradient[label] -= 1.0;
        log_sum - row[label].widen()
    })
}

/// Cross-entropy with the probabilities `[n, classes]` of each sample: `mean of -sum p log softmax(logits)`.
/// The probabilities are used as they come; a row need not sum to 1.
///
/// # Errors
/// [`Error::Shape`] when the shapes differ or are not `[n, classes]`.
pub fn soft_cross_entropy<T: Float>(logits: &Tensor<T>, probabilities: &Tensor<T>) -> Result<Loss<T>> {
    let (_, classes) = matrix(logits)?;
    same_shape("probabilities", logits, probabilities)?;
    let mut gradient = Tensor::zeros(&[0]);
    let loss = each_row(logits, 1.0, &mut gradient, |i, softmax, log_sum, row, gradient| {
        let wanted = &probabilities.as_slice()[i * classes..(i + 1) * classes];
        let total: f64 = wanted.iter().map(|p| p.widen()).sum();
        let mut loss = 0.0;
        for (((g, s), p), z) in gradient.iter_mut().zip(softmax).zip(wanted).zip(row) {
            let p = p.widen();
            *g = total * s - p;
            // A class that is not wanted adds nothing, even at a logit of minus infinity.
            if p != 0.0 {
                loss += p * (log_sum - z.widen());
            }
        }
        loss
    })?;
    Ok((loss, gradient))
}

/// Kullback-Leibler divergence of the softened predictions from the teacher's,
/// `mean of sum q log(q / p)` with `q = softmax(teacher / T)` and `p = softmax(logits / T)`.
///
/// Its gradient shrinks with `1 / T^2`; a loss that mixes it with others multiplies it by `T^2`, as the
/// [`Distiller`](crate::distill::Distiller) does ("Distilling the Knowledge in a Neural Network",
/// arXiv 1503.02531, section 2.1). `temperature` is above 0.
///
/// # Errors
/// [`Error::Shape`] when the shapes differ or are not `[n, classes]`.
pub fn kl_divergence<T: Float>(logits: &Tensor<T>, teacher: &Tensor<T>, temperature: f64) -> Result<Loss<T>> {
    let mut gradient = Tensor::zeros(&[0]);
    Ok((kl_divergence_into(logits, teacher, temperature, &mut gradient)?, gradient))
}

/// The same with the gradient in a tensor that may have the shape of the logits already.
pub(crate) fn kl_divergence_into<T: Float>(
    logits: &Tensor<T>,
    teacher: &Tensor<T>,
    temperature: f64,
    gradient: &mut Tensor<T>,
) -> Result<f64> {
    let (_, classes) = matrix(logits)?;
    same_shape("teacher's logits", logits, teacher)?;
    let inverse = 1.0 / temperature;
    with_room(classes, |wanted: &mut [f64]| {
        each_row(logits, inverse, gradient, |i, softmax, log_sum, row, gradient| {
            let other = &teacher.as_slice()[i * classes..(i + 1) * classes];
            let other_sum = softmax_row(other, inverse, wanted);
            let mut loss = 0.0;
            for c in 0..classes {
                let (p, q) = (softmax[c], wanted[c]);
                gradient[c] = (p - q) * inverse;
                if q != 0.0 {
                    let log_q = other[c].widen() * inverse - other_sum;
                    loss += q * (log_q - (row[c].widen() * inverse - log_sum));
                }
            }
            loss
        })
    })
}

/// Mean of the squared differences over all values, of any shape.
///
/// # Errors
/// [`Error::Shape`] when the shapes differ.
pub fn mean_squared_error<T: Float>(outputs: &Tensor<T>, wanted: &Tensor<T>) -> Result<Loss<T>> {
    let mut gradient = Tensor::zeros(&[0]);
    Ok((mean_squared_error_into(outputs, wanted, &mut gradient)?, gradient))
}

/// The same with the gradient in a tensor that may have the shape of the outputs already.
pub(crate) fn mean_squared_error_into<T: Float>(
    outputs: &Tensor<T>,
    wanted: &Tensor<T>,
    gradient: &mut Tensor<T>,
) -> Result<f64> {
    same_shape("targets", outputs, wanted)?;
    shaped_like(outputs, gradient);
    let share = 1.0 / outputs.len().max(1) as f64;
    let mut loss = 0.0;
    for ((to, a), b) in gradient.as_mut_slice().iter_mut().zip(outputs.iter()).zip(wanted.iter()) {
        let difference = a.widen() - b.widen();
        loss += difference * difference;
        *to = T::narrow(2.0 * difference * share);
    }
    Ok(loss * share)
}

/// Whether every label is the number of one of so many classes.
pub(crate) fn check_labels(labels: &[u32], classes: usize) -> Result<()> {
    match labels.iter().enumerate().find(|(_, l)| **l as usize >= classes) {
        Some((sample, label)) => Err(Error::Label { label: *label, sample, classes }),
        None => Ok(()),
    }
}

/// An error about a sample of a batch, as one about the dataset: the batch holds the samples at `indices`.
pub(crate) fn in_dataset(error: Error, indices: &[usize]) -> Error {
    match error {
        Error::Label { label, sample, classes } => {
            Error::Label { label, sample: indices.get(sample).copied().unwrap_or(sample), classes }
        }
        other => other,
    }
}

pub(crate) fn matrix<T: Float>(logits: &Tensor<T>) -> Result<(usize, usize)> {
    match *logits.shape() {
        [n, classes] if classes > 0 => Ok((n, classes)),
        ref got => Err(Error::shape("logits", &[0, 1], got)),
    }
}

fn same_shape<T: Float>(what: &str, wanted: &Tensor<T>, got: &Tensor<T>) -> Result<()> {
    if wanted.shape() == got.shape() { Ok(()) } else { Err(Error::shape(what, wanted.shape(), got.shape())) }
}

/// Makes `to` a tensor of the same shape, with any values.
fn shaped_like<T: Float>(outputs: &Tensor<T>, to: &mut Tensor<T>) {
    if to.shape() != outputs.shape() {
        *to = Tensor::zeros(outputs.shape());
    }
}

/// Softmax of `row * inverse` into `out`, and the logarithm of the sum of exponentials.
fn softmax_row<T: Float>(row: &[T], inverse: f64, out: &mut [f64]) -> f64 {
    let top = row.iter().fold(f64::NEG_INFINITY, |a, x| a.max(x.widen() * inverse));
    let mut sum = 0.0;
    for (p, x) in out.iter_mut().zip(row) {
        *p = (x.widen() * inverse - top).exp();
        sum += *p;
    }
    out.iter_mut().for_each(|p| *p /= sum);
    top + sum.ln()
}

/// Calls `f(sample, softmax, log of the sum of exponentials, logits, gradient)` for each row, and takes the
/// mean of the losses it returns and of the gradients it writes.
fn each_row<T: Float>(
    logits: &Tensor<T>,
    inverse: f64,
    gradient: &mut Tensor<T>,
    mut f: impl FnMut(usize, &[f64], f64, &[T], &mut [f64]) -> f64,
) -> Result<f64> {
    let (n, classes) = matrix(logits)?;
    let share = 1.0 / n.max(1) as f64;
    shaped_like(logits, gradient);
    let mut loss = 0.0;
    with_room(2 * classes, |room: &mut [f64]| {
        let (softmax, row_gradient) = room.split_at_mut(classes);
        let rows = logits.as_slice().chunks(classes).zip(gradient.as_mut_slice().chunks_mut(classes));
        for (i, (row, gradient)) in rows.enumerate() {
            let log_sum = softmax_row(row, inverse, softmax);
            loss += f(i, softmax, log_sum, row, row_gradient);
            gradient.iter_mut().zip(&*row_gradient).for_each(|(to, g)| *to = T::narrow(g * share));
        }
    });
    Ok(loss * share)
}

#[cfg(test)]
mod tests {
    use super::super::layers::gradcheck::{check, numbers};
    use super::*;

    fn tensor(shape: &[usize], values: &[f64]) -> Tensor<f64> {
        Tensor::new(shape, values.to_vec()).unwrap()
    }

    #[test]
    fn gradients() {
        let shape = [4, 3];
        let (z, t) = (numbers(12, 1), tensor(&shape, &numbers(12, 2)));
        let p = tensor(&shape, &numbers(12, 3).iter().map(|x| x.abs()).collect::<Vec<_>>());
        type Function<'a> = &'a dyn Fn(&Tensor<f64>) -> Loss<f64>;
        let losses: [(&str, Function<'_>); 4] = [
            ("labels", &|z| cross_entropy(z, &[0, 2, 1, 1]).unwrap()),
            ("soft", &|z| soft_cross_entropy(z, &p).unwrap()),
            ("kl", &|z| kl_divergence(z, &t, 2.5).unwrap()),
            ("mse", &|z| mean_squared_error(z, &t).unwrap()),
        ];
        for (name, loss) in losses {
            let gradient = loss(&tensor(&shape, &z)).1;
            check(name, &z, gradient.as_slice(), |z| loss(&tensor(&shape, z)).0);
        }
    }

    #[test]
    fn known_values() {
        let z = tensor(&[2, 2], &[0.0, 0.0, 0.0, 3.0_f64.ln()]);
        let loss = cross_entropy(&z, &[0, 1]).unwrap().0;
        assert!((loss - (2.0_f64.ln() + (4.0_f64 / 3.0).ln()) / 2.0).abs() < 1e-15);
        assert_eq!(kl_divergence(&z, &z, 4.0).unwrap().0, 0.0);
        let hard = tensor(&[2, 2], &[1.0, 0.0, 0.0, 1.0]);
        assert!((soft_cross_entropy(&z, &hard).unwrap().0 - loss).abs() < 1e-15);
    }

    #[test]
    fn extreme_logits_stay_finite() {
        let z = Tensor::new(&[2, 2], vec![1e38_f32, -1e38, f32::NEG_INFINITY, 0.0]).unwrap();
        let (loss, gradient) = cross_entropy(&z, &[0, 1]).unwrap();
        assert_eq!(loss, 0.0);
        assert!(gradient.iter().all(|g| g.is_finite()));
        assert!(kl_divergence(&z, &z, 1.0).unwrap().1.iter().all(|g| g.is_finite()));
    }

    #[test]
    fn misfits_are_errors() {
        let z = tensor(&[1, 2], &[0.0, 0.0]);
        assert!(matches!(cross_entropy(&z, &[2]), Err(Error::Label { label: 2, sample: 0, classes: 2 })));
        assert!(matches!(cross_entropy(&z, &[0, 0]), Err(Error::Shape { .. })));
        assert!(cross_entropy(&tensor(&[2], &[0.0, 0.0]), &[0, 0]).is_err());
        assert!(kl_divergence(&z, &tensor(&[2, 1], &[0.0, 0.0]), 1.0).is_err());
        assert_eq!(cross_entropy(&Tensor::<f64>::zeros(&[0, 3]), &[]).unwrap().0, 0.0);
    }
}
