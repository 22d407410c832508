//! [`Tensor`]: an n-dimensional array in row-major order, and the numbers it may hold.
//!
//! The only module whose public items mention ndarray.

mod dtype;
mod element;

pub use dtype::DType;
pub use element::{Element, Float};
pub(crate) use element::{decode_floats, encode_floats, fill_le_bytes, round_to, to_le_bytes};

use crate::{Error, Result};
use ndarray::{Array, ArrayD, ArrayView, ArrayViewD, CowArray, Dimension, IxDyn};

/// An n-dimensional array of numbers, always stored in row-major ("standard") order.
///
/// A newtype over ndarray's [`ArrayD`]: convert with `From` and `Into`, or look inside with
/// [`view`](Tensor::view).
///
/// ```
/// use bantam::Tensor;
/// use bantam::ndarray::array;
///
/// let t = Tensor::from(array![[1.0_f32, 2.0], [3.0, 4.0]]);
/// assert_eq!(t.shape(), [2, 2]);
/// assert_eq!(t.iter().copied().sum::<f32>(), 10.0);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<T>(ArrayD<T>);

impl<T: Element> Tensor<T> {
    /// A tensor of `shape` with `values` in row-major order.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of values is not the product of `shape`.
    pub fn new(shape: &[usize], values: Vec<T>) -> Result<Self> {
        let got = values.len();
        let wanted = shape.iter().copied().try_fold(1, usize::checked_mul);
        match ArrayD::from_shape_vec(IxDyn(shape), values) {
            Ok(array) if wanted == Some(got) => Ok(Self(array)),
            _ => Err(Error::shape("tensor", shape, &[got])),
        }
    }

    /// A tensor of `shape` filled with zeros.
    ///
    /// # Panics
    /// As `vec!` does, when it does not fit in memory.
    pub fn zeros(shape: &[usize]) -> Self {
        Self(ArrayD::from_elem(IxDyn(shape), T::default()))
    }

    /// Lengths of the axes, outermost first.
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds no values (some axis has length 0).
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values in row-major order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.as_slice().iter()
    }

    /// The values in row-major order.
    pub fn as_slice(&self) -> &[T] {
        // Every constructor makes standard layout, and no method gives out the array mutably.
        self.0.as_slice().unwrap_or(&[])
    }

    /// The values in row-major order, writable.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        self.0.as_slice_mut().unwrap_or(&mut [])
    }

    /// The values in row-major order, without a copy.
    pub fn into_vec(self) -> Vec<T> {
        let len = self.len();
        let (mut values, offset) = self.0.into_raw_vec_and_offset();
        let start = offset.unwrap_or(0);
        values.truncate(start + len);
        values.drain(..start);
        values
    }

    /// The same values under another shape.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of values differs.
    pub fn reshape(self, shape: &[usize]) -> Result<Self> {
        Self::new(shape, self.into_vec())
    }

    /// The array inside, borrowed.
    pub fn view(&self) -> ArrayViewD<'_, T> {
        self.0.view()
    }
}

impl<T: Element, D: Dimension> From<Array<T, D>> for Tensor<T> {
    fn from(array: Array<T, D>) -> Self {
        let array = array.into_dyn();
        if array.is_standard_layout() { Self(array) } else { Self(array.as_standard_layout().into_owned()) }
    }
}

impl<T: Element, D: Dimension> From<ArrayView<'_, T, D>> for Tensor<T> {
    fn from(view: ArrayView<'_, T, D>) -> Self {
        Self(CowArray::from(view).into_owned().into_dyn()).standardized()
    }
}

impl<T: Element> Tensor<T> {
    fn standardized(self) -> Self {
        self.0.into()
    }
}

impl<T: Element> From<Tensor<T>> for ArrayD<T> {
    fn from(tensor: Tensor<T>) -> Self {
        tensor.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{array, s};

    #[test]
    fn any_layout_becomes_row_major() {
        let a = array![[1, 2, 3], [4, 5, 6]];
        assert_eq!(Tensor::from(a.t().to_owned()).as_slice(), [1, 4, 2, 5, 3, 6]);
        assert_eq!(Tensor::from(a.t()).as_slice(), [1, 4, 2, 5, 3, 6]);
        assert_eq!(Tensor::from(a.reversed_axes()).into_vec(), [1, 4, 2, 5, 3, 6]);
        let sliced = array![[1, 2, 3], [4, 5, 6]].slice_move(s![1.., 1..]);
        assert_eq!(Tensor::from(sliced).into_vec(), [5, 6]);
        let reversed = array![1, 2, 3].slice_move(s![..;-1]);
        assert_eq!(Tensor::from(reversed).into_vec(), [3, 2, 1]);
    }

    #[test]
    fn wrong_and_overflowing_shapes_are_errors() {
        assert!(Tensor::new(&[2, 2], vec![1.0_f32; 3]).is_err());
        assert!(Tensor::new(&[usize::MAX, 2], vec![1.0_f32; 3]).is_err());
        assert!(Tensor::new(&[0, usize::MAX, usize::MAX], Vec::<f32>::new()).is_err());
        assert_eq!(Tensor::new(&[], vec![1.0_f32]).unwrap().len(), 1);
        assert!(Tensor::<f32>::zeros(&[0, 3]).is_empty());
    }
}
