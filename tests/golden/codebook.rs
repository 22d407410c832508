//! Against scikit-learn's `KMeans` (Lloyd) from the same start, after as many iterations.
//!
//! Centres and inertia (the sum of squared errors) agree to rounding: scikit-learn takes the mean off all values
//! first, which rounds differently. The data has no cluster that becomes empty, where the two differ: scikit-learn
//! moves its centre to the value farthest from its own one, bantam to the one whose copies add most to the error.

use crate::support::{Arrays, assert_close, dense};
use bantam::{CodebookQuantizer, Model, WeightCompressor};

#[test]
fn scikit_learn_finds_the_same_centres() {
    let data = Arrays::golden("codebook");
    for name in ["normal", "clumps"] {
        let x = data.numbers(name);
        for values in [2, 4, 16, 32] {
            let of = CodebookQuantizer::values(values);
            let inertia = |step: CodebookQuantizer| {
                let weight = step.apply(data.tensor::<f64>(name)).unwrap();
                let error = dense(&weight).iter().zip(&x).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
                (error, weight)
            };
            let (least, _) = inertia(of.clone().optimal());
            for iterations in [1, 10, 300] {
                let key = format!("{name}.{values}.{iterations}");
                let (ours, weight) = inertia(of.clone().iterations(iterations));
                let theirs = data.numbers(&format!("{key}.inertia"));
                assert_close(&key, &[ours], &theirs, 1e-9, 1.0);
                assert!(least <= theirs[0] * (1.0 + 1e-12), "{key}: {least} {theirs:?}");
                let saved = Arrays::saved(&Model::from(weight));
                let centres = data.numbers(&format!("{key}.centres"));
                assert_close(&key, &saved.numbers("weight.codebook")[..values], &centres, 1e-9, 1.0);
            }
        }
    }
}
