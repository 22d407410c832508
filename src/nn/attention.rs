//! Attention transfer: "Paying More Attention to Attention", arXiv 1612.03928, section 3.1.

use super::loss::Loss;
use crate::{Error, Float, Result, Tensor};

/// A map of this length counts as this long: what is all zeros has no direction.
const SHORTEST: f64 = 1e-12;

/// How differently two stacks of feature maps attend to places. With `q[p] = sum over channels of a[c, p]^2` of each
/// sample, as a vector over the places `p` of length 1:
///
/// ```text
/// mean over the samples of |q_student / |q_student| - q_teacher / |q_teacher||^2
/// ```
///
/// in 0..=2, and its gradient with respect to the student's maps. `student [n, c, h, w]` and `teacher [n, d, h, w]` may
/// have any numbers of channels. The paper's own program takes the mean over the places as well, halved and times a beta
/// of 1000: for maps of 8 x 8 that is this loss times 1000 / 2 / 64.
///
/// # Errors
/// [`Error::Shape`] when they are not maps of the same size for the same samples.
pub fn attention_transfer<T: Float>(student: &Tensor<T>, teacher: &Tensor<T>) -> Result<Loss<T>> {
    let [n, channels, h, w] = *student.shape() else {
        return Err(Error::shape("attention of the student's layer", &[0; 4], student.shape()));
    };
    let others = match *teacher.shape() {
        [m, d, y, x] if [m, y, x] == [n, h, w] => d,
        ref got => return Err(Error::shape("attention of the teacher's layer", &[n, 0, h, w], got)),
    };
    let places = h * w;
    let mut gradient = Tensor::zeros(student.shape());
    let (mut ours, mut theirs) = (vec![0.0; places], vec![0.0; places]);
    let (share, mut loss) = (1.0 / n.max(1) as f64, 0.0);
    if places * channels == 0 {
        return Ok((loss, gradient));
    }
    for (i, maps) in student.as_slice().chunks(channels * places).enumerate() {
        let length = attention(maps, &mut ours);
        attention(&teacher.as_slice()[i * others * places..(i + 1) * others * places], &mut theirs);
        let (mut square, mut along) = (0.0, 0.0);
        for (a, b) in ours.iter().zip(&theirs) {
            square += (a - b) * (a - b);
            along += a * (a - b);
        }
        loss += square;
        if length > SHORTEST {
            let factor = 4.0 * share / length;
            let gradients =
                gradient.as_mut_slice()[i * channels * places..].chunks_mut(places).take(channels);
            for (to, map) in gradients.zip(maps.chunks(places)) {
                for (((to, x), a), b) in to.iter_mut().zip(map).zip(&ours).zip(&theirs) {
                    *to = T::narrow(factor * x.widen() * (a - b - a * along));
                }
            }
        }
    }
    Ok((loss * share, gradient))
}

/// The sum of squares at each place, as a vector of length 1; gives the length it had.
fn attention<T: Float>(maps: &[T], to: &mut [f64]) -> f64 {
    to.fill(0.0);
    for map in maps.chunks(to.len()) {
        to.iter_mut().zip(map).for_each(|(q, x)| *q += x.widen() * x.widen());
    }
    let length = to.iter().map(|q| q * q).sum::<f64>().sqrt();
    to.iter_mut().for_each(|q| *q /= length.max(SHORTEST));
    length
}

#[cfg(test)]
mod tests {
    use super::super::layers::gradcheck::{check, numbers};
    use super::*;

    fn maps(shape: [usize; 4], values: &[f64]) -> Tensor<f64> {
        Tensor::new(&shape, values.to_vec()).unwrap()
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let (shape, x) = ([3, 4, 2, 5], numbers(120, 1));
        let teacher = maps([3, 2, 2, 5], &numbers(60, 2));
        let loss = |x: &[f64]| attention_transfer(&maps(shape, x), &teacher).unwrap();
        check("attention", &x, loss(&x).1.as_slice(), |x| loss(x).0);
    }

    #[test]
    fn only_where_the_attention_lies_counts() {
        let x = maps([2, 1, 1, 2], &[1.0, 0.0, 0.0, 3.0]);
        let louder = maps([2, 2, 1, 2], &[5.0, 0.0, -2.0, 0.0, 0.0, 1.0, 0.0, 1.0]);
        assert_eq!(attention_transfer(&x, &louder).unwrap().0, 0.0);
        let elsewhere = maps([2, 1, 1, 2], &[0.0, 1.0, 1.0, 0.0]);
        assert_eq!(attention_transfer(&x, &elsewhere).unwrap().0, 2.0);
        // No attention at all has no direction, and no gradient.
        let (loss, gradient) = attention_transfer(&maps([2, 1, 1, 2], &[0.0; 4]), &elsewhere).unwrap();
        assert!(loss == 1.0 && gradient.iter().all(|g| *g == 0.0));
    }

    #[test]
    fn misfits_are_errors() {
        let x = Tensor::<f64>::zeros(&[2, 3, 4, 5]);
        for other in [&[2, 3, 4, 4][..], &[1, 3, 4, 5], &[2, 60]] {
            assert!(matches!(attention_transfer(&x, &Tensor::zeros(other)), Err(Error::Shape { .. })));
        }
        assert!(attention_transfer(&Tensor::<f64>::zeros(&[2, 60]), &x).is_err());
        assert_eq!(attention_transfer(&x, &Tensor::zeros(&[2, 0, 4, 5])).unwrap().0, 0.0);
        assert!(
            attention_transfer(&Tensor::<f32>::zeros(&[0, 3, 4, 5]), &Tensor::zeros(&[0, 3, 4, 5])).is_ok()
        );
    }
}
