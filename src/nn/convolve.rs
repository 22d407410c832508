//! Convolution from the compressed kernel.

use super::layers::direct::Direct;
use super::layers::{conv, linear};
use crate::weight::{MapKernel, zeros};
use crate::{Fault, Float, Weight};
use std::borrow::Cow;

/// `[n, out, windows]` from the compressed kernel, bias added where there is one. `kept` is the kernel in the order
/// that integers need, where the network has kept that; else one that runs on integers is sorted for each call.
///
/// Groups run on floats from a decoded kernel, whatever its [`activations`](Weight::activations) say: a
/// group is a band of rows, and codes cannot be cut at any row.
pub(super) fn convolve<T: Float>(
    (weight, kept): (&Weight<T>, Option<&MapKernel>),
    geometry: &conv::Geometry,
    [n, out]: [usize; 2],
    x: &[T],
    bias: &[T],
) -> Result<Vec<T>, Fault> {
    let grouped = geometry.groups > 1;
    let given = (!bias.is_empty()).then_some(bias);
    if !grouped {
        let made = if kept.is_some() { None } else { weight.map_kernel()? };
        let maps = kept.or(made.as_ref()).map(|kernel| kernel.maps(x, n, &geometry.integer_windows(), given));
        if let Some(y) = maps.transpose()?.flatten() {
            return Ok(y);
        }
    }
    let dense = if grouped { Some(Cow::Owned(weight.dense_values()?)) } else { weight.dense_entries()? };
    if let (Some(w), Some(direct)) = (&dense, Direct::new(geometry, out)) {
        return direct.maps(n, x, w, bias);
    }
    let windows = geometry.windows();
    let mut y = zeros(n, out * windows)?;
    match dense {
        Some(w) if grouped => unrolled(geometry, [n, out], x, &mut y, &mut |rows, part| {
            let (cols, m) = (geometry.cols(), part.rows.len());
            let mut product = zeros(part.windows, m)?;
            let w = &w[part.rows.start * cols..part.rows.end * cols];
            linear::forward([part.windows, cols, m], rows, w, T::zero(), &mut product);
            Ok(product)
        })?,
        _ => {
            let last = conv::channels_last(geometry, x)?;
            let made = conv::Windows(geometry);
            match weight.product_of(&last, n * windows, &made)? {
                Some(product) => conv::to_maps(&product, windows, out, out, 0, &mut y),
                None => unrolled(geometry, [n, out], x, &mut y, &mut |rows, part| {
                    weight.product_with(rows, part.windows, windows)
                })?,
            }
        }
    }
    if let Some(bias) = given {
        conv::add_bias(bias, windows, &mut y);
    }
    Ok(y)
}

/// The product of a part's unrolled windows with the kernel: `[windows, rows]`.
type Product<'a, T> = dyn FnMut(&[T], &conv::Part) -> Result<Vec<T>, Fault> + 'a;

/// The same from unrolled windows, a few samples at a time, by `product(rows, part)`.
fn unrolled<T: Float>(
    geometry: &conv::Geometry,
    [n, out]: [usize; 2],
    x: &[T],
    y: &mut [T],
    product: &mut Product<'_, T>,
) -> Result<(), Fault> {
    let most = conv::parts(geometry, n, out).next().map_or(0, |part| part.windows);
    let mut rows = zeros::<T>(most, geometry.cols())?;
    for part in conv::parts(geometry, n, out) {
        let rows = &mut rows[..part.windows * geometry.cols()];
        conv::im2col(geometry, part.group, &x[part.x.clone()], rows);
        let product = product(rows, &part)?;
        let (m, first) = (part.rows.len(), part.rows.start);
        conv::to_maps(&product, geometry.windows(), m, out, first, &mut y[part.y]);
    }
    Ok(())
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::super::layers::gradcheck::numbers;
    use super::super::testing::input;
    use super::super::{Conv2d, Graph, Network};
    use crate::Weight;
    use crate::nn::layers::conv;
    use crate::{Activations, AffineQuantizer, MagnitudePruner, Model, Pipeline, Tensor};
    use proptest::prelude::*;
    use std::sync::Arc;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn integer_windows_need_not_be_made(
            [n, channels] in [1_usize..3, 1_usize..10], out in prop_oneof![8 => 1_usize..20, 1 => 1000_usize..1010],
            [kh, kw] in [1_usize..5, 1_usize..5], [sh, sw] in [1_usize..4, 1_usize..4],
            [ph, pw] in [0_usize..3, 0_usize..3], [more_h, more_w] in [0_usize..9, 0_usize..30],
            bits in prop_oneof![Just(8_u8), 2_u8..8], centred in any::<bool>(), sparsity in prop_oneof![Just(0.0), 0.0..0.9],
        ) {
            let input = [kh + more_h, kw + more_w];
            let output = [(more_h + 2 * ph) / sh + 1, (more_w + 2 * pw) / sw + 1];
            let geometry = conv::Geometry {
                channels, input, kernel: [kh, kw], stride: [sh, sw], padding: [ph, pw], groups: 1, output,
            };
            let shape = [out, channels, kh, kw];
            let values = numbers(shape.iter().product(), 3).iter().map(|x| x + 0.3).collect();
            let how = Activations::Int8Static { low: -0.7, high: 0.8 };
            let quantizer = AffineQuantizer::bits(bits).per_channel().activations(how);
            let quantizer = if centred { quantizer } else { quantizer.asymmetric() };
            let steps = Pipeline::<f64>::default().prune(MagnitudePruner::sparsity(sparsity)).quantize(quantizer);
            let model = steps.run(Tensor::new(&shape, values).unwrap()).unwrap().model;
            let weight: &Weight<f64> = model.weight("weight").unwrap();
            prop_assume!(weight.form().quantized);
            let x = numbers(n * geometry.sample(), 7);
            let bias = numbers(out, 9);
            let windows = geometry.windows();
            let mut wanted = vec![0.0; n * out * windows];
            let kernel = weight.map_kernel().unwrap().unwrap();
            let y = kernel.maps(&x, n, &geometry.integer_windows(), Some(&bias)).unwrap().unwrap();
            let mut rows = vec![0.0; n * windows * geometry.cols()];
            conv::im2col(&geometry, 0, &x, &mut rows);
            let product = weight.product_with(&rows, n * windows, windows).unwrap();
            conv::to_maps(&product, windows, out, out, 0, &mut wanted);
            conv::add_bias(&bias, windows, &mut wanted);
            prop_assert_eq!(y, wanted);
        }
    }

    /// A file may hold pruned entries among the codes.
    #[test]
    fn a_pruned_kernel_is_the_same_from_a_file() {
        let graph = Graph::new().conv2d("c", Conv2d::default().padding(1));
        let tensor = |shape: &[usize]| Tensor::new(shape, numbers(shape.iter().product(), 3)).unwrap();
        let model =
            Model::from_tensors([("c.weight", tensor(&[4, 3, 3, 3])), ("c.bias", tensor(&[4]))]).unwrap();
        for activations in [Activations::Float, Activations::Int8] {
            for sparsity in [0.03, 0.5, 0.9] {
                let quantizer = AffineQuantizer::bits(8).per_channel().activations(activations);
                let steps =
                    Pipeline::<f64>::default().prune(MagnitudePruner::sparsity(sparsity)).quantize(quantizer);
                let small = steps.run(&model).unwrap().model;
                let again = Model::<f64>::from_bytes_as(small.to_bytes().unwrap()).unwrap();
                let run = |model: &Model<f64>| {
                    let weight = |name: &str| model.weight(name).cloned().map(Arc::new);
                    Network::bind(&graph, &weight).unwrap().forward(&input(&[2, 3, 5, 4])).unwrap()
                };
                assert_eq!(run(&small), run(&again));
            }
        }
    }
}
