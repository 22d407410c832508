//! Patterns: N of every M entries along the inputs, and whole output rows.

use crate::weight::{Leaf, Node, groups};
use crate::{Fault, Float, Weight};

/// Keeps the `n` largest of every `m` entries that are neighbours along the input axis (`stride` apart in a
/// row). Entries that are pruned already count as the smallest; of equals, the first are pruned first.
pub(super) fn n_of_m<T: Float>(leaf: Leaf<T>, n: usize, m: usize, stride: usize) -> Result<Leaf<T>, Fault> {
    leaf.restrict(m * stride, |block| {
        let start = block.range.start;
        let dense = block.dense();
        let kept = |i: usize| block.mask.is_none_or(|mask| mask.has(start + i));
        let mut keep = vec![true; block.range.len()];
        let mut places = Vec::with_capacity(m);
        for group in groups(block.range.len(), m, stride) {
            places.clear();
            places.extend(group);
            // Stable: of equals, the first stays first.
            places.sort_by(|a, b| {
                let key = |i: usize| (kept(i), dense[i].abs());
                key(*a).partial_cmp(&key(*b)).unwrap_or(std::cmp::Ordering::Equal)
            });
            places[..m - n].iter().for_each(|i| keep[*i] = false);
        }
        Ok(block.positions().map(|i| keep[i - start]).collect())
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
fn norm<T: Float>(row: &[T]) -> f64 {
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
