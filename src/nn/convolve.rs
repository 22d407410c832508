//! Convolution from the compressed kernel.

use super::layers::{conv, linear};
use crate::weight::zeros;
use crate::{Fault, Float, Weight};

/// Convolution from the compressed kernel, a few samples at a time.
///
/// Groups run on floats from a decoded kernel, whatever its [`activations`](Weight::activations) say: a
/// group is a band of rows, and codes cannot be cut at any row.
pub(super) fn convolve<T: Float>(
    weight: &Weight<T>,
    geometry: &conv::Geometry,
    n: usize,
    out: usize,
    x: &[T],
    y: &mut [T],
) -> Result<(), Fault> {
    let (cols, m, grouped) = (geometry.cols(), out / geometry.groups, geometry.groups > 1);
    if !grouped {
        let (windows, size) = (geometry.windows(), geometry.sample());
        let last = conv::channels_last(geometry, x)?;
        let made = conv::Windows(geometry);
        if let Some(product) = weight.product_of(&last, (size, windows), n * windows, &made)? {
            conv::to_maps(&product, windows, m, out, 0, y);
            return Ok(());
        }
    }
    let most = conv::parts(geometry, n, out).next().map_or(0, |part| part.windows);
    let mut rows = zeros::<T>(most, cols)?;
    let dense = if grouped { weight.dense_values()? } else { Vec::new() };
    let mut product = if grouped { zeros(most, m)? } else { Vec::new() };
    for part in conv::parts(geometry, n, out) {
        let rows = &mut rows[..part.windows * cols];
        conv::im2col(geometry, part.group, &x[part.x], rows);
        if grouped {
            let w = &dense[part.rows.start * cols..part.rows.end * cols];
            let product = &mut product[..part.windows * m];
            linear::forward([part.windows, cols, m], rows, w, T::zero(), product);
        } else {
            product = weight.product_with(rows, part.windows, geometry.windows())?;
        }
        let product = &product[..part.windows * m];
        conv::to_maps(product, geometry.windows(), m, out, part.rows.start, &mut y[part.y]);
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
