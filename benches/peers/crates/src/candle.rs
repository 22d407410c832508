//! candle's quantized tensors: blocks of 32 values with a half-precision scale (`Q8_0`, `Q4_0`; `Q4_1` with a
//! minimum too), or of 256 with scales of their own for every 32 (`Q4K`).

use crate::work::{Call, EIGHT_BITS, Error, FOUR_BITS, Output, Work, in_turn, timed};
use candle_core::quantized::{GgmlDType, GgmlType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};
use rayon::prelude::*;
use std::time::Instant;

/// Values that a thread takes at a time where work is shared out.
const SHARE: usize = 1 << 16;

fn tolerance(kind: GgmlDType) -> f64 {
    if kind == GgmlDType::Q8_0 { EIGHT_BITS } else { FOUR_BITS }
}

fn tensor(values: &[f32], work: &Work) -> Result<Tensor, Error> {
    Ok(Tensor::from_slice(values, (work.rows, work.cols), &Device::Cpu)?)
}

fn decoded(small: &QTensor) -> Result<Vec<f32>, Error> {
    Ok(small.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}

/// On one thread: candle has no other way.
pub fn quantize(work: &Work, kind: GgmlDType) -> Result<Call<'_>, Error> {
    let weight = tensor(&work.values, work)?;
    work.check_decoded(&decoded(&QTensor::quantize(&weight, kind)?)?, tolerance(kind))?;
    Ok(timed(move || Ok(QTensor::quantize(&weight, kind)?)))
}

/// Memory that is allocated by the call, on one thread.
pub fn dequantize(work: &Work, kind: GgmlDType) -> Result<Call<'_>, Error> {
    let small = QTensor::quantize(&tensor(&work.values, work)?, kind)?;
    work.check_decoded(&decoded(&small)?, tolerance(kind))?;
    Ok(timed(move || Ok(small.dequantize(&Device::Cpu)?)))
}

/// What `QTensor::quantize` calls, in shares on rayon's threads, into memory that is used again: more than candle
/// offers itself.
pub fn quantize_shared_out<B: GgmlType + 'static>(work: &Work) -> Result<Call<'_>, Error> {
    let mut blocks = coded::<B>(work);
    work.check_decoded(&shared_out(&blocks, vec![0.0; work.values.len()]), tolerance(B::DTYPE))?;
    Ok(Box::new(move || {
        let begin = Instant::now();
        quantize_into(work, &mut blocks);
        Ok(begin.elapsed())
    }))
}

/// What `QTensor::dequantize` calls, the same way.
pub fn dequantize_shared_out<B: GgmlType + 'static>(work: &Work) -> Result<Call<'_>, Error> {
    let blocks = coded::<B>(work);
    let mut values = shared_out(&blocks, vec![0.0; work.values.len()]);
    work.check_decoded(&values, tolerance(B::DTYPE))?;
    Ok(Box::new(move || {
        let memory = std::mem::take(&mut values);
        let begin = Instant::now();
        values = shared_out(&blocks, memory);
        Ok(begin.elapsed())
    }))
}

fn coded<B: GgmlType>(work: &Work) -> Vec<B> {
    let mut blocks = vec![B::zeros(); work.values.len() / B::BLCK_SIZE];
    quantize_into(work, &mut blocks);
    blocks
}

fn quantize_into<B: GgmlType>(work: &Work, blocks: &mut [B]) {
    let shares = blocks.par_chunks_mut(SHARE / B::BLCK_SIZE).zip(work.values.par_chunks(SHARE));
    shares.for_each(|(blocks, values)| B::from_float(values, blocks));
}

fn shared_out<B: GgmlType>(blocks: &[B], mut values: Vec<f32>) -> Vec<f32> {
    let shares = blocks.par_chunks(SHARE / B::BLCK_SIZE).zip(values.par_chunks_mut(SHARE));
    shares.for_each(|(blocks, values)| B::to_float(blocks, values));
    values
}

impl Output for Option<Tensor> {
    fn values(&self) -> Result<Vec<f64>, Error> {
        let values: Vec<f32> = self.as_ref().ok_or("nothing")?.flatten_all()?.to_vec1()?;
        Ok(values.into_iter().map(f64::from).collect())
    }
}

/// Codes its input in 8 bits. `Q8_0` and `Q4K` are packed for the CPU in the first call; candle allocates the
/// output.
pub fn matmul(work: &Work, kind: GgmlDType) -> Result<Call<'_>, Error> {
    let x = Tensor::from_slice(&work.input, (work.batch, work.cols), &Device::Cpu)?;
    let layer = |values| Ok(QMatMul::from_qtensor(QTensor::quantize(&tensor(values, work)?, kind)?)?);
    let layers = work.matrices().map(layer).collect::<Result<Vec<_>, Error>>()?;
    let factors = (work.input.as_slice(), work.values.as_slice());
    in_turn(work, factors, tolerance(kind), layers, None, move |layer, out| {
        *out = Some(layer.forward(&x)?);
        Ok(())
    })
}
