//! rten-gemm, on rayon's threads. Weights are packed beforehand where that is faster: all but those of floats for
//! one row of input.

use crate::work::{Call, EXACT, Error, FLOAT, FOUR_BITS, Work, in_turn};
use rten_gemm::{
    BlockQuantizedGemm, BlockQuantizedMatrix, ComputeMode, GemmExecutor, GemmInT, GemmInputA, GemmInputB,
    GemmOptions, GemmOutT, PackedBMatrix,
};
use rten_tensor::{Contiguous, Matrix, NdTensor, NdTensorView};

/// Weights that share a scale.
const GROUP: usize = 128;

enum Weight<'a, T> {
    Plain(Matrix<'a, T>),
    Packed(PackedBMatrix<T>),
}

/// Weights [rows, columns], as the second factor of a product.
fn weights<'a, X: GemmInT, W: GemmInT, Y: GemmOutT>(
    executor: &GemmExecutor<X, W, Y>,
    work: &Work,
    values: &'a [W],
    pack: bool,
) -> Vec<Weight<'a, W>> {
    let weight = |values| {
        let plain = NdTensorView::from_data([work.rows, work.cols], values).transposed();
        if pack { Weight::Packed(executor.prepack_b(plain)) } else { Weight::Plain(plain) }
    };
    values.chunks(work.rows * work.cols).map(weight).collect()
}

fn products<'a, X: GemmInT + Into<f64>, W: GemmInT + Into<f64>, Y: GemmOutT + Into<f64> + 'a>(
    executor: GemmExecutor<X, W, Y>,
    work: &'a Work,
    (input, values): (&'a [X], &'a [W]),
    (tolerance, pack): (f64, bool),
) -> Result<Call<'a>, Error> {
    let layers = weights(&executor, work, values, pack);
    let x: Matrix<X> = NdTensorView::from_data([work.batch, work.cols], input);
    let out = vec![Y::default(); work.batch * work.rows];
    in_turn(work, (input, values), tolerance, layers, out, move |layer, out| {
        let w = match layer {
            Weight::Plain(plain) => GemmInputB::Unpacked(*plain),
            Weight::Packed(packed) => GemmInputB::Packed(packed),
        };
        Ok(executor.gemm(out, GemmInputA::Unpacked(x), w, GemmOptions::default())?)
    })
}

pub fn float(work: &Work) -> Result<Call<'_>, Error> {
    let factors = (work.input.as_slice(), work.values.as_slice());
    products(GemmExecutor::<f32>::default(), work, factors, (FLOAT, work.batch > 1))
}

/// Integer input, integer output: without coding the input and without scales.
pub fn integers<'a>(work: &'a Work, input: &'a [u8]) -> Result<Call<'a>, Error> {
    products(GemmExecutor::<u8, i8, i32>::default(), work, (input, work.codes()), (EXACT, true))
}

/// A matrix in 4 bits: a code is a multiple of the scale of its group, plus 8.
struct FourBits {
    codes: Contiguous<NdTensor<u8, 3>>,
    scales: Contiguous<NdTensor<f32, 2>>,
}

impl FourBits {
    fn new(values: &[f32], work: &Work) -> Result<Self, Error> {
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for group in values.chunks(GROUP) {
            let scale = group.iter().fold(0.0, |most: f32, x| most.max(x.abs())) / 7.0;
            let code = |x: f32| ((x / scale).round() + 8.0) as u8;
            codes.extend(group.as_chunks().0.iter().map(|[low, high]| code(*low) | code(*high) << 4));
            scales.push(scale);
        }
        let groups = work.cols / GROUP;
        let codes = NdTensor::from_data([work.rows, groups, GROUP / 2], codes);
        let scales = NdTensor::from_data([work.rows, groups], scales);
        let apart = "parts of a matrix";
        Ok(Self {
            codes: Contiguous::new(codes).ok_or(apart)?,
            scales: Contiguous::new(scales).ok_or(apart)?,
        })
    }

    fn matrix(&self) -> Result<BlockQuantizedMatrix<'_, f32>, Error> {
        Ok(BlockQuantizedMatrix::new(self.codes.view(), self.scales.view(), 4)?)
    }
}

/// In groups of 128, on float input. More than one row of input makes rten decode the weights in each call.
pub fn four_bits(work: &Work) -> Result<Call<'_>, Error> {
    if work.batch == 1 {
        return one_by_one(work, ComputeMode::Float);
    }
    let layers = work.matrices().map(|values| FourBits::new(values, work)).collect::<Result<Vec<_>, _>>()?;
    let x: Matrix<f32> = NdTensorView::from_data([work.batch, work.cols], work.input.as_slice());
    let executor = GemmExecutor::<f32>::default();
    let factors = (work.input.as_slice(), work.values.as_slice());
    let out = vec![0.0_f32; work.batch * work.rows];
    in_turn(work, factors, FOUR_BITS, layers, out, move |layer, out| {
        let w = GemmInputB::BlockQuantized(layer.matrix()?);
        Ok(executor.gemm(out, GemmInputA::Unpacked(x), w, GemmOptions::default())?)
    })
}

/// In groups of 128, on input that is coded in 8 bits, in groups of 128 too. rten does so for inputs of one row
/// only: the rows of larger batches are such inputs.
pub fn four_bits_int8(work: &Work) -> Result<Call<'_>, Error> {
    one_by_one(work, ComputeMode::Int8)
}

fn one_by_one(work: &Work, mode: ComputeMode) -> Result<Call<'_>, Error> {
    let layers = work.matrices().map(|values| FourBits::new(values, work)).collect::<Result<Vec<_>, _>>()?;
    let x = NdTensorView::from_data([work.batch, 1, work.cols], work.input.as_slice());
    let gemm = BlockQuantizedGemm::new().with_compute(mode);
    let factors = (work.input.as_slice(), work.values.as_slice());
    let n = work.batch * work.rows;
    in_turn(work, factors, FOUR_BITS, layers, Vec::with_capacity(n), move |layer, out: &mut Vec<f32>| {
        out.clear();
        let written = gemm.batched_gemm_uninit(&mut out.spare_capacity_mut()[..n], x, layer.matrix()?)?.len();
        // SAFETY: so many values were asked for, and are given back as initialized.
        unsafe { out.set_len(written) };
        Ok(())
    })
}
