//! tract-linalg: the kernel that it picks for the shapes, weights packed beforehand, the input in each call, as in
//! a network.

use crate::work::{Call, EXACT, Error, FLOAT, FOUR_BITS, Output, Work, in_turn};
use tract_data::internal::{Datum, DatumType, Tensor, tvec};
use tract_linalg::block_quant::Q4_0;
use tract_linalg::mmm::{AsInputValue, EagerPackedInput, FusedSpec, MMMInputValue, PanelExtractInput, Query};
use tract_linalg::multithread::{Executor, multithread_tract_scope};
use tract_linalg::{MmmDispatch, WeightType};

pub fn float(work: &Work) -> Result<Call<'_>, Error> {
    let kind = f32::datum_type();
    products::<f32, f32, f32>(work, (&work.input, &work.values), (kind.into(), kind), FLOAT)
}

/// Integer input, integer output: without coding the input and without scales.
pub fn integers<'a>(work: &'a Work, input: &'a [i8]) -> Result<Call<'a>, Error> {
    let kind = i8::datum_type();
    products::<i8, i8, i32>(work, (input, work.codes()), (kind.into(), kind), EXACT)
}

/// Weights in 4 bits, groups of 32, on float input. Some CPUs have a kernel for one row of input only, which then
/// runs for each.
pub fn four_bits(work: &Work) -> Result<Call<'_>, Error> {
    let kinds = (WeightType::from(Q4_0), f32::datum_type());
    products::<f32, f32, f32>(work, (&work.input, &work.values), kinds, FOUR_BITS)
}

struct Out(Tensor, fn(&Tensor) -> Result<Vec<f64>, Error>);

impl Output for Out {
    fn values(&self) -> Result<Vec<f64>, Error> {
        self.1(&self.0)
    }
}

/// The weights [rows, columns] are the left factor, the input the right.
fn products<'a, X: Datum + Copy + Into<f64>, W: Datum + Copy + Into<f64>, Y: Datum + Copy + Into<f64>>(
    work: &'a Work,
    (input, values): (&'a [X], &'a [W]),
    (weight, activation): (WeightType, DatumType),
    tolerance: f64,
) -> Result<Call<'a>, Error> {
    let &Work { batch, rows, cols, threads, .. } = work;
    let query = Query {
        weight,
        activation,
        accumulators: tvec!(Y::datum_type()),
        store: Some(Y::datum_type()),
        allow_extractor: true,
        m: Some(rows),
        k: Some(cols),
        n: Some(batch),
    };
    let (kernel, packing, extractor) = MmmDispatch::native().pick(&query).ok_or("no kernel")?;
    let layer = |values: &[W]| -> Result<Box<dyn MMMInputValue>, Error> {
        let values = Tensor::from_shape(&[rows, cols], values)?;
        let Some(extractor) = &extractor else {
            return Ok(kernel.packings()[packing].0.prepare_one(&values, 1, 0)?);
        };
        let packed = extractor.from.prepare_one(&values, 1, 0)?;
        let data = packed.downcast_ref::<EagerPackedInput>().ok_or("weights that are not packed")?.clone();
        Ok(Box::new(PanelExtractInput { format: extractor.clone(), data }))
    };
    let layers = values.chunks(rows * cols).map(layer).collect::<Result<Vec<_>, _>>()?;
    let x = Tensor::from_shape(&[batch, cols], input)?;
    let executor = if threads > 1 { Executor::multithread(threads) } else { Executor::SingleThread };
    let out = Out(Tensor::zero_dt(Y::datum_type(), &[batch, rows])?, |out| {
        Ok(out.try_as_plain_ram()?.as_slice::<Y>()?.iter().map(|y| (*y).into()).collect())
    });
    // SAFETY: this kernel runs with it and no other.
    let mut scratch = unsafe { kernel.allocate_scratch_space() };
    in_turn(work, (input, values), tolerance, layers, out, move |layer, out| {
        multithread_tract_scope(executor.clone(), || {
            let x = kernel.packings()[packing].1.prepare_one(&x, 1, 0)?;
            // SAFETY: weights and input are packed as this kernel has them for this packing, and the output,
            // [batch, rows], has all rows on its axis 1 and all columns on its axis 0.
            unsafe {
                let store = kernel.c_view(Some(1), Some(0)).wrap(&out.0.view_mut());
                let product = FusedSpec::AddMatMul {
                    a: AsInputValue::Borrowed(&**layer),
                    b: AsInputValue::Borrowed(&*x),
                    packing,
                };
                kernel.run_with_scratch_space(rows, batch, &mut *scratch, &[product, FusedSpec::Store(store)])
            }
        })?;
        Ok(())
    })
}
