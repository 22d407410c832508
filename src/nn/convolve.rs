//! Convolution from the compressed kernel.

use super::layers::direct::Direct;
use super::layers::{conv, linear};
use crate::weight::zeros;
use crate::{Fault, Float, Weight};
use std::borrow::Cow;

/// `y [n, out, windows]` from the compressed kernel, bias added where there is one.
///
/// Groups run on floats from a decoded kernel, whatever its [`activations`](Weight::activations) say: a
/// group is a band of rows, and codes cannot be cut at any row.
pub(super) fn convolve<T: Float>(
    weight: &Weight<T>,
    geometry: &conv::Geometry,
    [n, out]: [usize; 2],
    x: &[T],
    bias: &[T],
    y: &mut [T],
) -> Result<(), Fault> {
    let grouped = geometry.groups > 1;
    let dense = if grouped { Some(Cow::Owned(weight.dense_values()?)) } else { weight.dense_entries()? };
    match (dense, Direct::new(geometry, out)) {
        (Some(w), Some(direct)) => {
            direct.forward(x, &w, bias, y);
            return Ok(());
        }
        (Some(w), None) if grouped => unrolled(geometry, [n, out], x, y, &mut |rows, part| {
            let (cols, m) = (geometry.cols(), part.rows.len());
            let mut product = zeros(part.windows, m)?;
            let w = &w[part.rows.start * cols..part.rows.end * cols];
            linear::forward([part.windows, cols, m], rows, w, T::zero(), &mut product);
            Ok(product)
        })?,
        _ => {
            let (windows, size) = (geometry.windows(), geometry.sample());
            let last = conv::channels_last(geometry, x)?;
            let made = conv::Windows(geometry);
            match weight.product_of(&last, (size, windows), n * windows, &made)? {
                Some(product) => conv::to_maps(&product, windows, out, out, 0, y),
                None => unrolled(geometry, [n, out], x, y, &mut |rows, part| {
                    weight.product_with(rows, part.windows, windows)
                })?,
            }
        }
    }
    if !bias.is_empty() {
        conv::add_bias(bias, geometry.windows(), y);
    }
    Ok(())
}

/// The same from unrolled windows, a few samples at a time, by `product(rows, part)`.
fn unrolled<T: Float>(
    geometry: &conv::Geometry,
    [n, out]: [usize; 2],
    x: &[T],
    y: &mut [T],
    product: &mut dyn FnMut(&[T], &conv::Part) -> Result<Vec<T>, Fault>,
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
    use crate::{Activations, AffineQuantizer, MagnitudePruner, Model, Pipeline, Tensor};
    use std::sync::Arc;

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
