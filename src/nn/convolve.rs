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
