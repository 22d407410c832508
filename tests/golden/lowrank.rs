//! Against `scipy.linalg.svd` (LAPACK's `gesvd`) in double precision.
//!
//! Singular values and truncations agree to rounding, ranks by energy exactly. The values are read off the
//! factors: `U = A sqrt(S)`, so the squared norm of its column `i` is `s_i`.

use crate::support::{Arrays, assert_close, dense};
use bantam::{Float, LowRankFactorizer, Tensor, Weight, WeightCompressor};

const MATRICES: [&str; 5] = ["tall", "wide", "square", "noise", "kernel"];
/// Error of a decomposition, relative to the largest singular value: both sides have it.
const ERROR_IN_EPSILONS: f64 = 32.0;

fn factored<T: Float>(tensor: Tensor<T>, rank: usize) -> Weight<T> {
    let weight = LowRankFactorizer::rank(rank).apply(tensor).unwrap();
    assert_eq!(weight.rank(), Some(rank));
    weight
}

fn check<T: Float>() {
    let error = ERROR_IN_EPSILONS * T::epsilon().widen();
    let data = Arrays::golden("lowrank");
    for name in MATRICES {
        let weight = factored::<T>(data.tensor(name), 4);
        let s = data.numbers(&format!("{name}.singular"));
        // A gap between the singular values makes the subspace well defined.
        let gap = s[3] / (s[3] - s[4]);
        assert_close(name, &dense(&weight), &data.numbers(&format!("{name}.rank4")), error * gap, s[0]);
        let leaves = weight.leaves();
        let (u, v) = (leaves[0].to_vec().unwrap(), leaves[1].to_vec().unwrap());
        let columns = |i: usize| u.iter().skip(i).step_by(4).map(|x| x.widen() * x.widen()).sum::<f64>();
        let rows = |i: usize| v.chunks(v.len() / 4).nth(i).unwrap().iter().map(|x| x.widen().powi(2)).sum();
        assert_close(name, &(0..4).map(columns).collect::<Vec<f64>>(), &s[..4], error, s[0]);
        assert_close(name, &(0..4).map(rows).collect::<Vec<f64>>(), &s[..4], error, s[0]);
        // Eckart and Young: the error is the energy of the discarded values.
        let lost: f64 =
            dense(&weight).iter().zip(data.numbers(name)).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
        let discarded = s[4..].iter().map(|s| s * s).sum::<f64>().sqrt();
        assert_close(name, &[lost], &[discarded], 10.0 * error, s[0]);
    }
}

#[test]
fn truncations_and_singular_values_are_lapacks() {
    check::<f64>();
    check::<f32>();
}

#[test]
fn ranks_by_energy_agree() {
    let data = Arrays::golden("lowrank");
    for name in MATRICES {
        for (fraction, text) in [(0.5, "0.5"), (0.9, "0.9"), (0.99, "0.99")] {
            let rank = data.numbers(&format!("{name}.energy.{text}"))[0] as usize;
            let shape = data.shape(name);
            let (rows, cols) = (shape[0], shape[1..].iter().product::<usize>());
            let weight = LowRankFactorizer::energy(fraction).apply(data.tensor::<f64>(name)).unwrap();
            let saves = rank * (rows + cols) < rows * cols;
            assert_eq!(weight.rank(), saves.then_some(rank), "{name} {fraction}");
        }
    }
}
