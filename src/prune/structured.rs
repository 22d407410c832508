//! Patterns: N of every M entries along the inputs, and whole output rows.

use crate::kernels::prune::{extract, largest_keys_of_groups};
use crate::weight::{Block, Leaf, Node};
use crate::{Fault, Float, Weight};

/// Keeps the `n` largest of every `m` entries that are neighbours along the input axis (`stride` apart in a
/// row). Entries that are pruned already count as the smallest; of equals, the first are pruned first.
pub(super) fn n_of_m<T: Float>(leaf: Leaf<T>, n: usize, m: usize, stride: usize) -> Result<Leaf<T>, Fault> {
    leaf.restrict_bits(m * stride, |block: &Block<'_, T>, bits: &mut [u64]| {
        let Some(mask) = block.mask else {
            return Ok(T::largest_of_groups(&block.kept, n, m, stride, bits));
        };
        // Keys of kept entries are one more than their magnitudes, to rank above those of pruned ones.
        let mut keys = vec![0; block.range.len()];
        for (i, x) in block.positions().zip(&*block.kept) {
            keys[i - block.range.start] = 1 + x.magnitude().into();
        }
        let mut chosen = vec![0; keys.len().div_ceil(64)];
        largest_keys_of_groups(&keys, n, m, stride, &mut chosen);
        extract(&chosen, mask.words(block.range.clone()), bits);
        Ok(block.kept.iter().all(|x| x.is_finite()))
    })
}

/// Prunes whole output rows, those with the smallest Euclidean norm, until `round(fraction * rows)` are
/// empty. Of equals, the first are pruned first.
pub(super) fn rows<T: Float>(weight: Weight<T>, fraction: f64) -> Result<Weight<T>, Fault> {
    let (rows, cols) = crate::weight::fold(weight.shape());
    let dense = weight.dense_values()?;
    if let Some(index) = dense.iter().position(|x| !x.is_finite()) {
        return Err(Fault::NotFinite { index, value: dense[index].to_string() });
    }
    let norms: Vec<f64> = (0..rows).map(|r| norm(&dense[r * cols..(r + 1) * cols])).collect();
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by(|a, b| norms[*a].total_cmp(&norms[*b]));
    let mut keep = vec![true; rows];
    let drop = super::unstructured::target(fraction, rows);
    order[..drop].iter().for_each(|r| keep[*r] = false);
    restrict_rows(weight, &keep)
}

/// The Euclidean norm of values of any size: they are squared after division by a power of two, which loses
/// nothing.
pub(crate) fn norm<T: Float>(row: &[T]) -> f64 {
    let largest = row.iter().fold(0.0_f64, |a, x| a.max(x.widen().abs()));
    if largest == 0.0 {
        return 0.0;
    }
    let scale = largest.log2().floor().clamp(-1000.0, 1000.0).exp2();
    row.iter().map(|x| (x.widen() / scale).powi(2)).sum::<f64>().sqrt() * scale
}

/// Rows of a product are those of its first factor.
fn restrict_rows<T: Float>(weight: Weight<T>, keep: &[bool]) -> Result<Weight<T>, Fault> {
    let activations = weight.activations();
    let shape = weight.shape().to_vec();
    let node = match weight.into_node() {
        Node::Leaf(leaf) => {
            let cols = leaf.cols().max(1);
            Node::Leaf(leaf.restrict(1, |block| Ok(block.positions().map(|i| keep[i / cols]).collect()))?)
        }
        Node::Product(u, v) => Node::Product(Box::new(restrict_rows(*u, keep)?), v),
        Node::Sum(terms) => {
            Node::Sum(terms.into_iter().map(|t| restrict_rows(t, keep)).collect::<Result<_, _>>()?)
        }
    };
    Ok(Weight::from_node(&shape, node).with_activations(activations))
}

#[cfg(test)]
mod tests {
    use crate::{MagnitudePruner, Tensor, WeightCompressor};

    #[test]
    fn rows_of_any_size_are_ranked() {
        for size in [f64::MAX / 8.0, 1e200, 1.0, 1e-200, 1e-310] {
            let values = [4.0, 3.0, 2.0, 1.0].map(|x| x * size).to_vec();
            let tensor = Tensor::new(&[4, 1], values.clone()).unwrap();
            let pruned = MagnitudePruner::channels(0.5).apply(tensor).unwrap();
            assert_eq!(pruned.to_dense().unwrap().as_slice(), [values[0], values[1], 0.0, 0.0]);
        }
    }
}
