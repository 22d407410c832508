//! [`Augmented`]: images of another dataset, moved, turned and bent a little.

use super::data::{Batch, Dataset, Input};
use crate::kernels::cpu::fast;
use crate::random::Random;
use crate::{BoxError, Error, Float, Invalid, Result, Tensor, parallel};

/// Images of `data` together with changed copies of them, so that a network meets more than was collected.
///
/// Copy 0 of an image is the image itself. Every other one is shifted, turned, scaled and sheared by amounts drawn
/// evenly from the ranges below, and bent (Simard et al., *Best practices for convolutional neural networks*,
/// ICDAR 2003); values between pixels are interpolated from their four neighbours. What a copy looks like depends
/// on its index and the seed alone: an index always means the same image, so that a teacher's answers can be kept,
/// and a training can be taken up again.
///
/// Index `i` is copy `i / n` of image `i % n`, for `n` images `[.., h, w]`.
///
/// | setting | default | meaning |
/// | --- | --- | --- |
/// | `copies` | | at least 1, the image itself among them |
/// | `shift` | 0 | pixels, at most, along each axis |
/// | `rotate` | 0 | degrees, at most, either way |
/// | `scale` | 0 | fraction of the size, at most, each axis on its own; below 1 |
/// | `shear` | 0 | pixels sideways for one down, at most |
/// | `elastic` | 0, 4 | pixels, at most, and over how many pixels the bending is alike (above 0) |
/// | `background` | 0 | what lies outside the image |
/// | `seed` | 0 | any |
///
/// ```
/// use bantam::Tensor;
/// use bantam::nn::{Augmented, Dataset, Examples};
///
/// let images = Examples::new(Tensor::<f32>::zeros(&[10, 1, 28, 28]), vec![0; 10])?;
/// let more = Augmented::new(&images, 8).shift(2.0).rotate(10.0).scale(0.1);
/// assert_eq!(Dataset::<f32>::len(&more), 80);
/// # Ok::<(), bantam::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Augmented<D> {
    data: D,
    copies: usize,
    shift: f64,
    rotate: f64,
    scale: f64,
    shear: f64,
    elastic: [f64; 2],
    background: f64,
    seed: u64,
}

impl<D> Augmented<D> {
    /// So many copies of each sample of `data`, all like the sample until more is said.
    pub fn new(data: D, copies: usize) -> Self {
        Self {
            data,
            copies,
            shift: 0.0,
            rotate: 0.0,
            scale: 0.0,
            shear: 0.0,
            elastic: [0.0, 4.0],
            background: 0.0,
            seed: 0,
        }
    }

    /// Up to so many pixels up or down, and left or right.
    pub fn shift(mut self, pixels: f64) -> Self {
        self.shift = pixels;
        self
    }

    /// Up to so many degrees either way.
    pub fn rotate(mut self, degrees: f64) -> Self {
        self.rotate = degrees;
        self
    }

    /// Larger or smaller by up to this fraction, each axis on its own.
    pub fn scale(mut self, fraction: f64) -> Self {
        self.scale = fraction;
        self
    }

    /// Slanted by up to so many pixels sideways for one down.
    pub fn shear(mut self, slope: f64) -> Self {
        self.shear = slope;
        self
    }

    /// Every pixel from up to `pixels` away, in a direction that changes over about `smoothness` pixels.
    pub fn elastic(mut self, pixels: f64, smoothness: f64) -> Self {
        self.elastic = [pixels, smoothness];
        self
    }

    /// The value outside the image.
    pub fn background(mut self, value: f64) -> Self {
        self.background = value;
        self
    }

    /// Another seed makes other copies.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    fn check<T: Float>(&self) -> Result<(), Invalid> {
        let largest = T::max_value().widen();
        let most = 0.0..f64::INFINITY;
        Invalid::unless_in(1.0.., "copies", self.copies as f64, "at least 1")?;
        Invalid::unless_in(most.clone(), "shift", self.shift, "at least 0")?;
        Invalid::unless_in(most.clone(), "rotate", self.rotate, "at least 0")?;
        Invalid::unless_in(0.0..1.0, "scale", self.scale, "in 0..1")?;
        Invalid::unless_in(most.clone(), "shear", self.shear, "at least 0")?;
        Invalid::unless_in(most, "elastic", self.elastic[0], "at least 0")?;
        Invalid::unless_in(f64::MIN_POSITIVE..=64.0, "smoothness", self.elastic[1], "above 0, at most 64")?;
        Invalid::unless_in(-largest..=largest, "background", self.background, "a finite number")
    }

    /// How copy number `index` differs from its image of this size.
    fn draw(&self, index: usize, [h, w]: [usize; 2]) -> Result<Change> {
        // A hash, so that neighbouring indices have nothing in common.
        let mut random = Random::new(self.seed ^ (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))?;
        let mut even = |most: f64| (2.0 * random.uniform() - 1.0) * most;
        let (sin, cos) = even(self.rotate.to_radians()).sin_cos();
        let (sy, sx, shear) =
            (1.0 / (1.0 + even(self.scale)), 1.0 / (1.0 + even(self.scale)), even(self.shear));
        let offset = [even(self.shift), even(self.shift)];
        // Output to input: back along shift, rotation, shear and scale.
        let matrix = [[cos * sy, -sin * sy], [(sin + shear * cos) * sx, (cos - shear * sin) * sx]];
        let bend = (self.elastic[0] > 0.0).then(|| {
            [0, 1].map(|_| {
                let noise = (0..h * w).map(|_| even(1.0)).collect();
                smooth(noise, [h, w], self.elastic[0], self.elastic[1])
            })
        });
        Ok(Change { matrix, offset, bend })
    }
}

/// Where each pixel of a copy comes from.
struct Change {
    /// Rows: down and across of the source, for down and across of the copy, both from the middle.
    matrix: [[f64; 2]; 2],
    offset: [f64; 2],
    bend: Option<[Vec<f64>; 2]>,
}

impl Change {
    fn apply<T: Float>(&self, from: &[T], [h, w]: [usize; 2], background: T, to: &mut [T]) {
        let middle = [(h as f64 - 1.0) / 2.0, (w as f64 - 1.0) / 2.0];
        let bend = self.bend.as_ref().map(|[y, x]| [y.as_slice(), x]);
        // Rounding down is one instruction there.
        fast(
            #[inline(always)]
            || {
                for (y, row) in to.chunks_mut(w.max(1)).enumerate() {
                    for (x, to) in row.iter_mut().enumerate() {
                        let at =
                            [y as f64 - middle[0] - self.offset[0], x as f64 - middle[1] - self.offset[1]];
                        let mut source = [0.0; 2];
                        for axis in 0..2 {
                            let [a, b] = self.matrix[axis];
                            let bent = bend.map_or(0.0, |bend| bend[axis][y * w + x]);
                            source[axis] = a * at[0] + b * at[1] + middle[axis] + bent;
                        }
                        *to = between(from, [h, w], source, background);
                    }
                }
            },
        );
    }
}

/// The value at a place between four pixels.
#[inline(always)]
fn between<T: Float>(image: &[T], [h, w]: [usize; 2], [y, x]: [f64; 2], background: T) -> T {
    // Outside by more than a pixel, and whatever is not a number.
    if !(y > -1.0 && x > -1.0 && y < h as f64 && x < w as f64) {
        return background;
    }
    let (top, left) = (y.floor(), x.floor());
    let (down, right) = (T::narrow(y - top), T::narrow(x - left));
    let (top, left) = (top as i64, left as i64);
    // Most lie inside, where two neighbours are read at once.
    let pair = |y: i64| -> [T; 2] {
        let row = if y >= 0 && y < h as i64 { &image[y as usize * w..][..w] } else { &[] };
        match usize::try_from(left).ok().and_then(|left| row.get(left..)?.first_chunk()) {
            Some(pair) => *pair,
            None => [left, left + 1]
                .map(|x| usize::try_from(x).ok().and_then(|x| row.get(x)).copied().unwrap_or(background)),
        }
    };
    let along = |[a, b]: [T; 2]| a + right * (b - a);
    let (above, below) = (along(pair(top)), along(pair(top + 1)));
    above + down * (below - above)
}

/// Noise blurred by a bell curve of this width, then stretched until its largest value is `most`.
fn smooth(noise: Vec<f64>, [h, w]: [usize; 2], most: f64, width: f64) -> Vec<f64> {
    let reach = (3.0 * width).ceil() as usize;
    let bell: Vec<f64> = (0..=reach).map(|d| (-0.5 * (d as f64 / width).powi(2)).exp()).collect();
    // `len` values `step` apart, from each of `starts`.
    let blur = |from: &[f64], len: usize, step: usize, starts: &dyn Fn(usize) -> usize, lines: usize| {
        let mut out = vec![0.0; from.len()];
        for start in (0..lines).map(starts) {
            for i in 0..len {
                let near = i.saturating_sub(reach)..len.min(i + reach + 1);
                out[start + i * step] = near.map(|j| bell[i.abs_diff(j)] * from[start + j * step]).sum();
            }
        }
        out
    };
    let rows = blur(&noise, w, 1, &|line| line * w, h);
    let mut out = blur(&rows, h, w, &|line| line, w);
    let largest = out.iter().fold(0.0_f64, |a, x| a.max(x.abs()));
    if largest > 0.0 {
        out.iter_mut().for_each(|x| *x *= most / largest);
    }
    out
}

impl<T: Float, D: Dataset<T>> Dataset<T> for Augmented<D> {
    fn len(&self) -> usize {
        self.data.len().saturating_mul(self.copies)
    }

    fn batch(&self, indices: &[usize]) -> Result<Batch<T>, BoxError> {
        self.check::<T>().map_err(|invalid| Error::Setting {
            index: 0,
            step: "augment".to_owned(),
            invalid,
        })?;
        let n = self.data.len().max(1);
        let samples: Vec<usize> = indices.iter().map(|i| i % n).collect();
        let mut batch = self.data.batch(&samples)?;
        let images = batch.input.values()?;
        let shape = images.shape().to_vec();
        let [first, .., h, w] = shape[..] else {
            return Err(Box::new(Error::shape("images", &[n, 0, 0], &shape)));
        };
        if first != indices.len() || images.is_empty() {
            return Ok(batch);
        }
        let (size, plane) = (images.len() / first, h * w);
        let mut out = images.as_slice().to_vec();
        let background = T::narrow(self.background);
        let changed: Vec<(usize, &mut [T], &[T])> = indices
            .iter()
            .copied()
            .zip(out.chunks_mut(size).zip(images.as_slice().chunks(size)))
            .filter(|(index, _)| *index >= n)
            .map(|(index, (to, from))| (index, to, from))
            .collect();
        parallel::try_map_vec(changed, |(index, to, from)| {
            let change = self.draw(index, [h, w])?;
            for (to, from) in to.chunks_mut(plane).zip(from.chunks(plane)) {
                change.apply(from, [h, w], background, to);
            }
            Ok::<(), Error>(())
        })?;
        batch.input = Input::Values(Tensor::new(&shape, out)?);
        Ok(batch)
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;
    use crate::nn::Examples;

    fn images(n: usize) -> Examples<f64> {
        let values = (0..n * 2 * 9 * 11).map(|i| (i as f64 * 0.7).sin().abs()).collect();
        Examples::new(Tensor::new(&[n, 2, 9, 11], values).unwrap(), (0..n as u32).collect()).unwrap()
    }

    fn values(data: &dyn Dataset<f64>, indices: &[usize]) -> Vec<f64> {
        data.batch(indices).unwrap().input.values().unwrap().as_slice().to_vec()
    }

    #[test]
    fn an_index_is_always_the_same_image_and_the_first_copy_the_image_itself() {
        let plain = images(5);
        let more = Augmented::new(&plain, 4).shift(2.0).rotate(20.0).scale(0.2).shear(0.1).elastic(1.0, 3.0);
        assert_eq!(Dataset::<f64>::len(&more), 20);
        assert_eq!(values(&more, &[3, 0]), values(&plain, &[3, 0]));
        let (all, one) = (values(&more, &[7, 13, 18]), values(&more, &[13]));
        assert_eq!(&all[198..396], one);
        assert_ne!(one, values(&more, &[8]), "copies differ");
        assert_ne!(one, values(&plain, &[3]));
        assert_ne!(one, values(&more.clone().seed(1), &[13]));
        // Interpolation never leaves the range of the values.
        assert!(all.iter().all(|x| (0.0..=1.0).contains(x)));
        let labels = match Dataset::<f64>::batch(&more, &[13, 5]).unwrap().target {
            crate::nn::Target::Labels(labels) => labels,
            other => panic!("{other:?}"),
        };
        assert_eq!(labels, [3, 0]);
    }

    #[test]
    fn nothing_asked_for_changes_nothing_and_shifts_shift() {
        let plain = images(3);
        let same = Augmented::new(&plain, 2);
        for (a, b) in values(&same, &[3, 4, 5]).iter().zip(values(&plain, &[0, 1, 2])) {
            assert!((a - b).abs() < 1e-12);
        }
        let identity = [[1.0, 0.0], [0.0, 1.0]];
        let image: Vec<f64> = (1..=12).map(f64::from).collect();
        let mut out = vec![0.0; 12];
        Change { matrix: identity, offset: [1.0, -2.0], bend: None }.apply(&image, [3, 4], 9.0, &mut out);
        assert_eq!(out, [9.0, 9.0, 9.0, 9.0, 3.0, 4.0, 9.0, 9.0, 7.0, 8.0, 9.0, 9.0]);
        Change { matrix: identity, offset: [0.0, 0.5], bend: None }.apply(&image, [3, 4], 0.0, &mut out);
        assert_eq!(out[..4], [0.5, 1.5, 2.5, 3.5]);
        // A quarter turn of a square.
        let square: Vec<f64> = (1..=9).map(f64::from).collect();
        let mut turned = vec![0.0; 9];
        Change { matrix: [[0.0, -1.0], [1.0, 0.0]], offset: [0.0; 2], bend: None }.apply(
            &square,
            [3, 3],
            0.0,
            &mut turned,
        );
        assert_eq!(turned, [7.0, 4.0, 1.0, 8.0, 5.0, 2.0, 9.0, 6.0, 3.0]);
    }

    #[test]
    fn misuse_is_an_error() {
        let plain = images(3);
        for wrong in [
            Augmented::new(&plain, 0),
            Augmented::new(&plain, 2).scale(1.0),
            Augmented::new(&plain, 2).shift(f64::NAN),
            Augmented::new(&plain, 2).elastic(1.0, 0.0),
        ] {
            assert!(Dataset::<f64>::batch(&wrong, &[0]).is_err());
        }
        let flat = Examples::new(Tensor::<f64>::zeros(&[2, 3]), vec![0, 1]).unwrap();
        assert!(Augmented::new(&flat, 2).batch(&[1]).is_err());
        for background in [f64::NAN, f64::INFINITY] {
            assert!(Dataset::<f64>::batch(&Augmented::new(&plain, 2).background(background), &[0]).is_err());
        }
        // A number of its type, not only of ours.
        let single = Examples::new(Tensor::<f32>::zeros(&[1, 3, 3]), vec![0]).unwrap();
        assert!(Dataset::<f32>::batch(&Augmented::new(&single, 2).background(1e300), &[1]).is_err());
        // Far away is background.
        let far = Augmented::new(&plain, 2).shift(1e300).background(7.0);
        assert!(values(&far, &[3]).iter().all(|x| *x == 7.0));
    }

    /// Against the sum over all pairs of pixels.
    #[test]
    fn noise_is_blurred_by_a_bell_and_stretched() {
        for ([h, w], most, width) in [([5, 7], 2.0_f64, 1.3_f64), ([1, 9], 0.5, 2.0), ([6, 4], 3.0, 0.4)] {
            let noise: Vec<f64> = (0..h * w).map(|i| (i as f64 * 1.7).sin()).collect();
            let bell = |a: usize, b: usize| {
                let d: f64 = a.abs_diff(b) as f64;
                if d > (3.0 * width).ceil() { 0.0 } else { (-0.5 * d * d / (width * width)).exp() }
            };
            let sums = (0..h * w).map(|i| -> f64 {
                (0..h * w).map(|j| bell(i / w, j / w) * bell(i % w, j % w) * noise[j]).sum()
            });
            let sums: Vec<f64> = sums.collect();
            let largest = sums.iter().fold(0.0_f64, |a, x| a.max(x.abs()));
            let got = smooth(noise, [h, w], most, width);
            for (got, sum) in got.iter().zip(&sums) {
                assert!((got - sum * most / largest).abs() < 1e-12 * most, "{got} {sum}");
            }
        }
        assert_eq!(smooth(vec![0.0; 6], [2, 3], 1.0, 2.0), [0.0; 6]);
    }

    #[test]
    fn pixels_come_from_where_the_bending_says() {
        let image: Vec<f64> = (1..=12).map(f64::from).collect();
        let identity = [[1.0, 0.0], [0.0, 1.0]];
        let mut out = vec![0.0; 12];
        // One down, and for a single pixel one and a half to the right.
        let mut right = vec![0.0; 12];
        right[5] = 1.5;
        let bend = Some([vec![1.0; 12], right]);
        Change { matrix: identity, offset: [0.0; 2], bend }.apply(&image, [3, 4], 0.5, &mut out);
        assert_eq!(out, [5.0, 6.0, 7.0, 8.0, 9.0, 11.5, 11.0, 12.0, 0.5, 0.5, 0.5, 0.5]);
        // As far as is asked for, in both directions, and alike nearby.
        let data = images(1);
        let change = Augmented::new(&data, 2).elastic(1.5, 3.0).draw(1, [9, 11]).unwrap();
        for bend in change.bend.unwrap() {
            let most = bend.iter().fold(0.0_f64, |a, x| a.max(x.abs()));
            assert!((most - 1.5).abs() < 1e-12);
            assert!(bend.windows(2).enumerate().all(|(i, b)| i % 11 == 10 || (b[0] - b[1]).abs() < 0.75));
        }
    }
}
