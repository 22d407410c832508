//! Integer products against onnxruntime's `DynamicQuantizeLinear`, `MatMulInteger` and `ConvInteger`.
//!
//! The sums of integers agree exactly: our outputs, divided by the scales, lie at whole numbers, and these
//! are theirs. The scales of inputs are kept in double precision here and rounded to single by ONNX, so the
//! outputs agree to single precision. Codes of inputs could differ by one where `x / scale` lies next to a half;
//! the data has no such value.

use crate::support::{Arrays, assert_close, model_of};
use bantam::nn::{Conv2d, Graph, Input};
use bantam::{Activations, AffineQuantizer, Float, Kind, Pipeline, Tensor, WeightCompressor};

/// A few roundings to single precision.
const ROUNDING: f64 = 4e-7;
/// Largest possible sum: 48 products of codes.
const LARGEST: f64 = 48.0 * 255.0 * 127.0;

fn product<T: Float>(data: &Arrays, quantizer: AffineQuantizer, how: Activations) -> Vec<f64> {
    let weight = quantizer.apply(data.tensor::<T>("w")).unwrap();
    let y: Tensor<T> = weight.matmul_with(&data.tensor("x"), how).unwrap();
    y.iter().map(|y| y.widen()).collect()
}

/// `y / scale` is `sums`: exactly, once it is rounded by less than what single precision may do to it.
#[track_caller]
fn assert_sums(what: &str, y: &[f64], scales: &[f64], sums: &[f64]) {
    assert_eq!(y.len(), sums.len(), "{what}");
    for (i, ((y, scale), sum)) in y.iter().zip(scales).zip(sums).enumerate() {
        let ours = y / scale;
        assert_eq!(ours.round(), *sum, "{what} [{i}]");
        assert!((ours - ours.round()).abs() <= ROUNDING * sum.abs().max(1.0), "{what} [{i}]: {ours}");
    }
    const { assert!(LARGEST * ROUNDING < 0.7) };
}

#[test]
fn dynamic_products_have_the_same_sums() {
    let data = Arrays::golden("integer");
    let x = data.numbers("x.scale");
    let eight = || AffineQuantizer::bits(8);
    for (name, quantizer) in [
        ("s8.tensor", eight()),
        ("u8.tensor", eight().asymmetric()),
        ("s8.channel", eight().per_channel()),
        ("u8.channel", eight().asymmetric().per_channel()),
    ] {
        let (sums, w) = (data.numbers(&format!("{name}.sums")), data.numbers(&format!("{name}.scale")));
        let outputs = sums.len() / x.len();
        let scales: Vec<f64> = x
            .iter()
            .flat_map(|x| (0..outputs).map(|o| x * w.get(o).unwrap_or(&w[0])).collect::<Vec<_>>())
            .collect();
        assert_sums(name, &product::<f32>(&data, quantizer.clone(), Activations::Int8), &scales, &sums);
        assert_sums(name, &product::<f64>(&data, quantizer, Activations::Int8), &scales, &sums);
    }
}

/// Groups have a sum each; the scaled ones are added in double precision.
#[test]
fn grouped_products_agree() {
    let data = Arrays::golden("integer");
    let x = data.numbers("x.scale");
    for (name, quantizer) in [
        ("s8.group", AffineQuantizer::bits(8).group(8)),
        ("u8.group", AffineQuantizer::bits(8).asymmetric().group(8)),
    ] {
        let (sums, scales) = (data.numbers(&format!("{name}.sums")), data.numbers(&format!("{name}.scale")));
        let shape = data.shape(&format!("{name}.sums"));
        let (groups, n, outputs) = (shape[0], shape[1], shape[2]);
        let mut expected = vec![0.0; n * outputs];
        let mut sizes = 0.0_f64;
        for g in 0..groups {
            for i in 0..n * outputs {
                let part = sums[g * n * outputs + i] * scales[g * outputs + i % outputs] * x[i / outputs];
                expected[i] += part;
                sizes = sizes.max(part.abs());
            }
        }
        // Terms may cancel, so the bound is relative to the largest of them.
        let y = product::<f32>(&data, quantizer, Activations::Int8);
        assert_close(name, &y, &expected, ROUNDING, sizes);
    }
}

#[test]
fn fixed_ranges_clip_alike() {
    let data = Arrays::golden("integer");
    let range = data.numbers("static.range");
    let how = Activations::Int8Static { low: range[0], high: range[1] };
    let sums = data.numbers("static.sums");
    let scales = vec![data.numbers("static.scale")[0]; sums.len()];
    assert_sums("static", &product::<f32>(&data, AffineQuantizer::bits(8), how), &scales, &sums);
}

#[test]
fn a_convolution_has_a_range_for_each_image() {
    let data = Arrays::golden("integer");
    let graph = Graph::new().conv2d("conv", Conv2d::default().stride(2).padding(1).without_bias());
    let model = model_of(&[("conv.weight", Kind::Conv, data.tensor::<f32>("conv.weight"))]);
    let quantizer = AffineQuantizer::bits(8).activations(Activations::Int8);
    let model = Pipeline::new().quantize(quantizer).run(model.with_graph(graph).unwrap()).unwrap().model;
    let y = model.network().unwrap().forward(&Input::Values(data.tensor("conv.x"))).unwrap();
    assert_eq!(y.shape(), data.shape("conv.sums"));
    let (sums, w) = (data.numbers("conv.sums"), data.numbers("conv.scale")[0]);
    let x = data.numbers("conv.x.scale");
    let scales: Vec<f64> = (0..sums.len()).map(|i| x[i / (sums.len() / x.len())] * w).collect();
    let y: Vec<f64> = y.iter().map(|y| f64::from(*y)).collect();
    assert_sums("conv", &y, &scales, &sums);
}
